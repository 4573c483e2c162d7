// SPDX-License-Identifier: Apache-2.0
//! What a key is: which columns, how keys compare, and whose they are.
//!
//! Keys compare column by column; a missing value comes before all others.
//! Booleans, numbers and times are in their own order, texts and bytes in that
//! of their bytes. Floating-point numbers are no keys: NaN is not itself, and
//! 0 and -0 are two texts of one number.

use std::{str::FromStr, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type},
    row::{RowConverter, Rows, SortField},
};
use fanfold_protocol::{ErrorKind, Problem, function::Column, limits};
use twox_hash::XxHash64;

use super::super::{guard::quote, shape};

/// The columns of a key.
pub(crate) struct Keys {
    fields: Vec<Field>,
    converter: RowConverter,
}

impl Keys {
    /// Checks what a function declares.
    pub(crate) fn new(declared: &[Column]) -> Result<Self, Problem> {
        let refused = |detail: String| Problem::new(ErrorKind::ResponseInvalid, detail);
        if !(1..=limits::KEY_COLUMNS_MAX).contains(&declared.len()) {
            return Err(refused(format!(
                "a key must have 1 to {} columns, found {}",
                limits::KEY_COLUMNS_MAX,
                declared.len()
            )));
        }
        let mut fields: Vec<Field> = Vec::with_capacity(declared.len());
        for Column { name, data_type, nullable } in declared {
            if fields.iter().any(|field| field.name() == name) {
                return Err(refused(format!(
                    "a key must name each column once, found {} twice",
                    quote(name)
                )));
            }
            let supported = DataType::from_str(data_type).ok().filter(is_key_type);
            let Some(data_type) = supported else {
                return Err(refused(format!(
                    "a column of a key must be a boolean, an integer, Utf8, Binary, a date or a timestamp, found {} of {}; \
                     round a number, or make it a text",
                    quote(name),
                    quote(data_type)
                )));
            };
            fields.push(Field::new(name, data_type, *nullable));
        }
        let sorted = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(sorted).map_err(|error| crate::internal(error.to_string()))?;
        Ok(Self { fields, converter })
    }

    /// Fails unless these are the columns of keys and states, however the last is named.
    pub(super) fn check(&self, found: &Schema) -> Result<(), Problem> {
        let same = |(found, wanted): (&Arc<Field>, &Field)| {
            found.name() == wanted.name() && found.data_type() == wanted.data_type()
        };
        let count = self.fields.len();
        let keyed = found.fields().iter().zip(&self.fields).all(same);
        let state = found.fields().get(count).map(|field| field.data_type());
        if found.fields().len() == count + 1 && keyed && state == Some(&DataType::Binary) {
            return Ok(());
        }
        let wanted: Vec<_> =
            self.fields.iter().map(|f| format!("{} {}", quote(f.name()), f.data_type())).collect();
        let shown: Vec<_> = found
            .fields()
            .iter()
            .take(limits::KEY_COLUMNS_MAX + 1)
            .map(|f| format!("{} {}", quote(f.name()), f.data_type()))
            .collect();
        Err(Problem::new(
            ErrorKind::SchemaMismatch,
            format!(
                "partial states must have the columns {} and one of Binary behind them, found {}",
                wanted.join(", "),
                shown.join(", ")
            ),
        ))
    }

    /// The schema of keys and states.
    pub(super) fn schema(&self) -> SchemaRef {
        let mut state = "state".to_owned();
        while self.fields.iter().any(|field| *field.name() == state) {
            state.push('_');
        }
        let mut fields = self.fields.clone();
        fields.push(Field::new(state, DataType::Binary, false));
        Arc::new(Schema::new(fields))
    }

    /// The keys of a batch in a form that compares.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<Rows, Problem> {
        let columns = &batch.columns()[..self.fields.len()];
        self.converter.convert_columns(columns).map_err(|error| crate::internal(error.to_string()))
    }

    /// Which of so many reducers each key of a batch belongs to.
    ///
    /// A stable function of the values: XXH64 with seed 0 over, for each column,
    /// the byte 0 for a missing value, or else 1 and the value: a number, date,
    /// time or boolean in 8 bytes, a text or bytes behind their length in 4 bytes,
    /// all little-endian; modulo the number of reducers.
    pub(super) fn reducers(&self, batch: &RecordBatch, reducers: u32) -> Result<Vec<u32>, Problem> {
        let columns = batch.columns()[..self.fields.len()].iter().map(wide).collect::<Result<Vec<_>, _>>()?;
        let (mut bytes, mut found) = (Vec::new(), Vec::with_capacity(batch.num_rows()));
        for row in 0..batch.num_rows() {
            bytes.clear();
            for column in &columns {
                put(column, row, &mut bytes);
            }
            let reducer = XxHash64::oneshot(0, &bytes) % u64::from(reducers.max(1));
            found.push(u32::try_from(reducer).unwrap_or_default());
        }
        Ok(found)
    }
}

fn is_key_type(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Utf8
                | DataType::Binary
                | DataType::Date32
                | DataType::Timestamp(_, _)
        )
}

/// A column of a key in one of four types.
fn wide(column: &ArrayRef) -> Result<ArrayRef, Problem> {
    let to = match column.data_type() {
        DataType::Boolean | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::UInt64,
        DataType::Utf8 | DataType::Binary | DataType::UInt64 => return Ok(Arc::clone(column)),
        DataType::Date32 => DataType::Int32,
        _ => DataType::Int64,
    };
    let cast = shape::cast(column, &to).and_then(|column| match column.data_type() {
        DataType::Int32 => shape::cast(&column, &DataType::Int64),
        _ => Ok(column),
    });
    cast.map_err(|error| crate::internal(error.to_string()))
}

fn put(column: &ArrayRef, row: usize, bytes: &mut Vec<u8>) {
    if column.is_null(row) {
        return bytes.push(0);
    }
    bytes.push(1);
    let (text, number) = match column.data_type() {
        DataType::Utf8 => (Some(column.as_string::<i32>().value(row).as_bytes()), [0; 8]),
        DataType::Binary => (Some(column.as_binary::<i32>().value(row)), [0; 8]),
        DataType::UInt64 => (None, column.as_primitive::<UInt64Type>().value(row).to_le_bytes()),
        _ => (None, column.as_primitive::<Int64Type>().value(row).to_le_bytes()),
    };
    match text {
        Some(text) => {
            bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(text);
        }
        None => bytes.extend(number),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Date32Array, Int16Array, StringArray};

    use super::*;

    fn column(name: &str, data_type: &str) -> Column {
        Column { name: name.into(), data_type: data_type.into(), nullable: true }
    }

    #[test]
    fn whose_a_key_is_never_changes() {
        let columns =
            [column("t", "Utf8"), column("n", "Int16"), column("b", "Boolean"), column("d", "Date32")];
        let keys = Keys::new(&columns).unwrap();
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("t", Arc::new(StringArray::from(vec![Some("north"), Some(""), None])) as ArrayRef, true),
            ("n", Arc::new(Int16Array::from(vec![Some(-7), Some(0), None])), true),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])), true),
            ("d", Arc::new(Date32Array::from(vec![Some(20_000), Some(0), None])), true),
        ])
        .unwrap();
        let bytes = |row: usize| {
            let mut bytes = Vec::new();
            for array in batch.columns() {
                put(&wide(array).unwrap(), row, &mut bytes);
            }
            bytes
        };
        let mut first = vec![1, 5, 0, 0, 0];
        first.extend(
            b"north\x01\xf9\xff\xff\xff\xff\xff\xff\xff\x01\x01\0\0\0\0\0\0\0\x01\x20\x4e\0\0\0\0\0\0",
        );
        assert_eq!(bytes(0), first);
        assert_eq!(bytes(2), [0; 4]);
        let reducers = keys.reducers(&batch, 97).unwrap();
        let hash = |row| XxHash64::oneshot(0, &bytes(row)) % 97;
        assert_eq!(reducers.iter().map(|r| u64::from(*r)).collect::<Vec<_>>(), [hash(0), hash(1), hash(2)]);
        assert_eq!(XxHash64::oneshot(0, b""), 0xef46_db37_51d8_e999, "the reference's own value");
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        let check = |columns: &[Column], part: &str| {
            let problem = Keys::new(columns).map(drop).unwrap_err();
            assert_eq!(problem.code, ErrorKind::ResponseInvalid);
            assert!(problem.detail.contains(part), "{problem}");
        };
        check(&[], "1 to 16 columns");
        check(&[column("x", "Float64")], "\"x\"");
        check(&[column("x", "List(Int64)")], "a boolean");
        check(&[column("x", "Int64"), column("x", "Int64")], "twice");
    }
}
