// SPDX-License-Identifier: Apache-2.0
//! Types whose values take the same room each, also where they are missing.
//!
//! Who declares a type chooses how many bytes a value without any text takes, and who writes
//! the object how many there are. So a batch is weighed as what it will be before any of it
//! is made: [`FixedColumns`] says where it is to be cut. Refused is only a type of which one
//! value fits no batch.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, FieldRef, Schema},
};
use fanfold_protocol::limits;

use super::{convert::members, shape};

/// Bytes of a value, and of all of a row: more fit no batch.
const ROW_BYTES_MAX: usize = limits::BATCH_BYTES_MAX as usize;

/// Refuses a type that somebody declares where a missing value of it, or one in a list, fits no batch.
pub(crate) fn check(data_type: &DataType) -> Result<(), String> {
    let bytes = largest(data_type);
    if bytes <= ROW_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "a type whose values take at most {ROW_BYTES_MAX} bytes when they are missing, found {bytes} bytes of \
         {data_type}; declare Binary or List instead"
    ))
}

/// Refuses a table of which every row is too large for a batch, whatever is in it.
pub(super) fn check_rows(table: &Schema) -> Result<(), String> {
    let types = || table.fields().iter().map(|field| field.data_type());
    let found = types().map(bytes).fold(0, usize::saturating_add);
    let found = types().map(largest).fold(found, usize::max);
    if found <= ROW_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "a row must fit in a batch of {ROW_BYTES_MAX} bytes, found values of fixed size of {found} bytes in each; \
         select fewer columns"
    ))
}

/// Bytes of a value by which its type is longer than others, given or not.
pub(super) fn bytes(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeBinary(bytes) => length(*bytes),
        DataType::FixedSizeList(item, items) => {
            let own = match item.data_type() {
                DataType::Boolean => return length(*items).div_ceil(8),
                other => other.primitive_width().unwrap_or(1),
            };
            length(*items).saturating_mul(bytes(item.data_type()).max(own))
        }
        DataType::Struct(fields) => {
            fields.iter().fold(0, |sum, field| bytes(field.data_type()).saturating_add(sum))
        }
        // What is cast to them is made so before it is encoded.
        DataType::Dictionary(_, values) => bytes(values),
        DataType::RunEndEncoded(_, values) => bytes(values.data_type()),
        DataType::Union(fields, _) => {
            fields.iter().fold(0, |sum, (_, field)| bytes(field.data_type()).saturating_add(sum))
        }
        _ => 0,
    }
}

/// [`bytes`] of a value or, where that is more, of an item of a list in it at any depth.
fn largest(data_type: &DataType) -> usize {
    let within = match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _)
        | DataType::RunEndEncoded(_, item) => largest(item.data_type()),
        DataType::Struct(fields) => fields.iter().map(|f| largest(f.data_type())).max().unwrap_or(0),
        DataType::Union(fields, _) => fields.iter().map(|(_, f)| largest(f.data_type())).max().unwrap_or(0),
        DataType::Dictionary(_, values) => largest(values),
        _ => 0,
    };
    within.max(bytes(data_type))
}

/// The columns of a table that keep room for values of fixed size.
#[derive(Clone, Debug, Default)]
pub(super) struct FixedColumns(Arc<[FieldRef]>);

impl FixedColumns {
    pub(super) fn of(table: &Schema) -> Self {
        Self(table.fields().iter().filter(|field| largest(field.data_type()) > 0).cloned().collect())
    }

    /// What a batch takes at least in them when it is made a part of the table, of which it
    /// may lack columns.
    pub(super) fn bytes(&self, batch: &RecordBatch) -> usize {
        let in_column = |field: &FieldRef| {
            let rows = bytes(field.data_type()).saturating_mul(batch.num_rows());
            let column = batch.column_by_name(field.name());
            rows.saturating_add(column.map_or(0, |column| in_lists(column, field.data_type())))
        };
        self.0.iter().map(in_column).fold(0, usize::saturating_add)
    }
}

/// What the items of a column's lists take at least as such of the type.
fn in_lists(column: &ArrayRef, to: &DataType) -> usize {
    if !lists_keep_room(to) {
        return 0;
    }
    // What cannot be made plain is told when it is to be.
    shape::plain_column(column).map_or(0, |plain| in_items(&plain, to))
}

/// Whether lists of varying length in the type have items of fixed size.
fn lists_keep_room(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => largest(item.data_type()) > 0,
        DataType::FixedSizeList(item, _) => lists_keep_room(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| lists_keep_room(field.data_type())),
        _ => false,
    }
}

fn in_items(array: &ArrayRef, to: &DataType) -> usize {
    match to {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => items(array).map_or(0, |items| {
            let own = bytes(item.data_type()).saturating_mul(items.len());
            own.saturating_add(in_items(&items, item.data_type()))
        }),
        DataType::FixedSizeList(item, _) => {
            items(array).map_or(0, |items| in_items(&items, item.data_type()))
        }
        DataType::Struct(fields) => array.as_struct_opt().map_or(0, |found| {
            let within = members(found.fields(), fields);
            let within = within.map(|(place, field)| in_items(found.column(place), field.data_type()));
            within.fold(0, usize::saturating_add)
        }),
        _ => 0,
    }
}

/// The items of plain lists.
fn items(array: &ArrayRef) -> Option<ArrayRef> {
    let within = |values: &dyn Array, offsets: &[i32]| {
        let start = usize::try_from(*offsets.first()?).ok()?;
        Some(values.slice(start, shape::span(offsets)))
    };
    match array.data_type() {
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            within(lists.values(), lists.value_offsets())
        }
        DataType::Map(_, _) => {
            let maps = array.as_map();
            within(maps.entries(), maps.value_offsets())
        }
        DataType::FixedSizeList(_, _) => Some(Arc::clone(array.as_fixed_size_list().values())),
        _ => None,
    }
}

fn length(declared: i32) -> usize {
    usize::try_from(declared).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use arrow::{
        array::{
            FixedSizeListArray, Int32Array, ListArray, NullArray, StringViewArray, StructArray,
            new_null_array,
        },
        buffer::OffsetBuffer,
        datatypes::{Field, Float32Type},
    };

    use super::*;

    fn of(text: &str) -> DataType {
        DataType::from_str(text).unwrap()
    }

    #[test]
    fn what_is_missing_takes_what_its_type_says() {
        let check = |text: &str, expected: usize| assert_eq!(bytes(&of(text)), expected, "{text}");
        check("Int64", 0);
        check("FixedSizeBinary(16)", 16);
        check("FixedSizeList(768 x Float32)", 3_072);
        check("FixedSizeList(1000 x FixedSizeList(1000 x Float64))", 8_000_000);
        check("List(FixedSizeBinary(16))", 0);
        check("Dictionary(Int32, FixedSizeBinary(16))", 16);
    }

    #[test]
    fn types_of_which_a_value_fits_no_batch_are_refused() {
        for text in [
            "FixedSizeBinary(8388608)",
            "FixedSizeList(4096 x Float64)",
            "List(FixedSizeList(768 x Float32))",
            "FixedSizeList(16 x FixedSizeList(4096 x Float32))",
            "List(FixedSizeBinary(65536))",
        ] {
            assert_eq!(check(&of(text)), Ok(()), "{text}");
        }
        for text in [
            "FixedSizeBinary(8388609)",
            "FixedSizeBinary(2147483647)",
            "FixedSizeList(2147483647 x Int64)",
            "FixedSizeList(2147483647 x FixedSizeList(2147483647 x Int64))",
            "List(FixedSizeBinary(8388609))",
            "FixedSizeList(2 x List(FixedSizeBinary(8388609)))",
            "Dictionary(Int32, FixedSizeBinary(8388609))",
        ] {
            let refusal = check(&of(text)).unwrap_err();
            assert!(refusal.contains(" found ") && refusal.ends_with("declare Binary or List instead"));
        }
        let table = |types: &[&str]| {
            let named = types.iter().enumerate().map(|(n, text)| Field::new(format!("c{n}"), of(text), true));
            Schema::new(named.collect::<Vec<_>>())
        };
        let half = "FixedSizeBinary(4194304)";
        assert_eq!(check_rows(&table(&["Int64", half, half, "List(FixedSizeBinary(4194304))"])), Ok(()));
        assert!(check_rows(&table(&[half, half, "FixedSizeBinary(1)"])).unwrap_err().contains("8388609"));
        assert!(check_rows(&table(&["List(FixedSizeBinary(8388609))"])).is_err());
    }

    #[test]
    fn a_batch_is_weighed_as_what_it_will_be() {
        let check = |column: ArrayRef, to: DataType, expected: usize| {
            let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
            let columns = FixedColumns::of(&Schema::new(vec![Field::new("x", to.clone(), true)]));
            assert_eq!(columns.bytes(&batch), expected, "{to}");
        };
        let lists = |values: ArrayRef, lengths: &[usize]| -> ArrayRef {
            let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
            Arc::new(ListArray::new(item, offsets, values, None))
        };
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        check(Arc::clone(&numbers), DataType::Int64, 0);
        check(Arc::new(NullArray::new(5)), of("FixedSizeList(10 x Float32)"), 200);
        check(Arc::new(StringViewArray::from(vec!["a"; 4])), of("FixedSizeBinary(9)"), 36);
        // Of lists what is in them, and no more than is in a slice of them.
        let five = lists(Arc::new(NullArray::new(5)), &[2, 0, 3]);
        check(Arc::clone(&five), of("List(FixedSizeList(10 x Float32))"), 200);
        check(five.slice(1, 2), of("List(FixedSizeBinary(7))"), 21);
        check(lists(five, &[1, 2]), of("List(List(FixedSizeBinary(7)))"), 35);
        let given = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>([Some([None; 2]), None], 2);
        check(Arc::new(given), of("FixedSizeList(2 x Float32)"), 16);
        let item = Arc::new(Field::new("y", DataType::new_list(DataType::Int32, true), true));
        let within: ArrayRef = Arc::new(StructArray::from(vec![(item, lists(numbers, &[3]))]));
        let binaries = Field::new("y", of("List(FixedSizeBinary(8))"), true);
        check(within, DataType::Struct(vec![binaries].into()), 24);
        // A column that is not there is missing in every row.
        let batch = RecordBatch::try_from_iter([("y", new_null_array(&DataType::Int8, 3))]).unwrap();
        let columns = FixedColumns::of(&Schema::new(vec![Field::new("x", of("FixedSizeBinary(7)"), true)]));
        assert_eq!(columns.bytes(&batch), 21);
    }
}
