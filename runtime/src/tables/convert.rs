// SPDX-License-Identifier: Apache-2.0
//! Columns in the types in which guests want them: casts that lose nothing.
//!
//! Arrow's own casts refuse what is out of range, but cut off what a type has no room
//! for: a fraction on its way to an integer, the time of day on its way to a date. Here
//! such a value is to blame like any other that does not fit. Values are looked at only
//! where types say that something may be cut off.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, new_null_array},
    compute::{
        CastOptions, cast, cast_with_options,
        kernels::{boolean, cmp},
    },
    datatypes::{DataType, Field, Fields, Float64Type},
    util::display::array_value_to_string,
};
use fanfold_protocol::{ErrorKind, Problem};

use super::{filter::digits, guard::quote, shape, zones};

/// A value that has no place in the wanted type.
pub(super) struct Miss {
    /// Its row and its text, when one value is to blame.
    value: Option<(usize, String)>,
    cause: String,
}

impl Miss {
    /// What is wrong, where `place` says in words which row it is.
    pub(super) fn problem(self, expected: &DataType, place: impl Fn(usize) -> String) -> Problem {
        let detail = match self.value {
            Some((row, text)) => {
                format!(
                    "{} must be {expected}, found {}; mend the value or change the type",
                    place(row),
                    quote(&text)
                )
            }
            None => format!("{} must be {expected}, found: {}", place(0), self.cause),
        };
        Problem::new(ErrorKind::ValueMismatch, detail)
    }
}

/// Casts strictly: no value is lost, and nothing of it is cut off.
pub(super) fn convert(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, Miss> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    if *column.data_type() == DataType::Null {
        return Ok(new_null_array(to, column.len()));
    }
    if let Some(row) = first_cut(column, to) {
        return Err(Miss { value: Some((row, text(column, row))), cause: String::new() });
    }
    let is_text = shape::plain_type(to) == DataType::Utf8;
    let printed = if is_text { zones::printable(column) } else { Ok(Arc::clone(column)) };
    printed.and_then(|column| shape::cast(&column, to)).map_err(|e| {
        let lenient = cast_with_options(column, to, &CastOptions { safe: true, ..CastOptions::default() });
        let lost =
            |cast: &ArrayRef| (0..column.len()).find(|row| cast.is_null(*row) && !column.is_null(*row));
        let row = lenient.ok().as_ref().and_then(lost);
        Miss { value: row.map(|row| (row, text(column, row))), cause: e.to_string() }
    })
}

fn text(column: &ArrayRef, row: usize) -> String {
    array_value_to_string(column, row).unwrap_or_default()
}

/// What the values of a type count.
#[derive(PartialEq, Eq)]
enum Counted {
    Ones,
    Moments,
    TimesOfDay,
    Durations,
}

/// What the values of a type count, and how many digits behind the point it has room for.
fn room(data_type: &DataType) -> Option<(Counted, i16)> {
    use DataType::{
        Date32, Date64, Decimal32, Decimal64, Decimal128, Decimal256, Duration, Time32, Time64, Timestamp,
    };
    Some(match data_type {
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => {
            (Counted::Ones, i16::from(*scale))
        }
        // A day is less than any digit of a second.
        Date32 => (Counted::Moments, -1),
        Date64 => (Counted::Moments, 3),
        Timestamp(unit, _) => (Counted::Moments, digits(*unit).into()),
        Time32(unit) | Time64(unit) => (Counted::TimesOfDay, digits(*unit).into()),
        Duration(unit) => (Counted::Durations, digits(*unit).into()),
        whole if whole.is_integer() => (Counted::Ones, 0),
        _ => return None,
    })
}

/// Whether values of one type may have more behind the point than another has room for.
fn may_cut(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (_, DataType::Dictionary(_, to)) => may_cut(from, to),
        // Arrow makes a truth of any number but zero.
        (_, DataType::Boolean) => from.is_integer() || from.is_floating(),
        // And whole days, though there is room for milliseconds.
        (DataType::Timestamp(_, _), DataType::Date64) => true,
        (DataType::Struct(from), DataType::Struct(to)) => {
            members(from, to).any(|(place, to)| may_cut(from[place].data_type(), to.data_type()))
        }
        _ => match (item_type(from), item_type(to)) {
            (Some(from), Some(to)) => may_cut(from, to),
            _ if from.is_floating() => to.is_integer() || to.is_temporal(),
            _ => match (room(from), room(to)) {
                (Some((counted, from)), Some((wanted, to))) => counted == wanted && from > to,
                _ => false,
            },
        },
    }
}

/// The wanted members of a struct, each with the place of what it is made of: as arrow has
/// it, by their names if all are there, else in order.
pub(super) fn members<'a>(from: &Fields, to: &'a Fields) -> impl Iterator<Item = (usize, &'a Field)> {
    let named = to.iter().all(|field| from.find(field.name()).is_some());
    let place = move |at: usize, field: &Field| match from.find(field.name()) {
        Some((place, _)) if named => place,
        _ => at,
    };
    to.iter().take(from.len()).enumerate().map(move |(at, field)| (place(at, field), &**field))
}

fn item_type(data_type: &DataType) -> Option<&DataType> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView, Map};
    match data_type {
        List(field)
        | LargeList(field)
        | ListView(field)
        | LargeListView(field)
        | FixedSizeList(field, _)
        | Map(field, _) => Some(field.data_type()),
        _ => None,
    }
}

/// The first row of which a cast would cut something off.
fn first_cut(column: &ArrayRef, to: &DataType) -> Option<usize> {
    if !may_cut(column.data_type(), to) {
        return None;
    }
    if !column.data_type().is_nested() {
        return first_cut_value(column, to);
    }
    let cut = |rows: &ArrayRef| parts(rows, to).iter().any(|(part, to)| first_cut(part, to).is_some());
    if !cut(column) {
        return None;
    }
    // There may be anything within a row that is missing.
    (0..column.len()).find(|row| column.is_valid(*row) && cut(&column.slice(*row, 1)))
}

/// What nested values are made of, each part with the type in which it is wanted.
fn parts<'a>(column: &ArrayRef, to: &'a DataType) -> Vec<(ArrayRef, &'a DataType)> {
    if let (DataType::Struct(from), DataType::Struct(to)) = (column.data_type(), to) {
        let columns = column.as_struct().columns();
        let part = |(place, field): (usize, &'a Field)| (Arc::clone(&columns[place]), field.data_type());
        return members(from, to).map(part).collect();
    }
    items(column).zip(item_type(to)).into_iter().collect()
}

/// The items of all lists, or entries of all maps.
pub(super) fn items(column: &ArrayRef) -> Option<ArrayRef> {
    let within = |values: &dyn Array, offsets: &[i32]| {
        let (start, end) =
            (usize::try_from(*offsets.first()?).ok()?, usize::try_from(*offsets.last()?).ok()?);
        Some(values.slice(start, end.checked_sub(start)?))
    };
    match column.data_type() {
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            within(lists.values(), lists.value_offsets())
        }
        DataType::Map(_, _) => {
            let maps = column.as_map();
            within(maps.entries(), maps.value_offsets())
        }
        DataType::FixedSizeList(_, _) => Some(Arc::clone(column.as_fixed_size_list().values())),
        _ => None,
    }
}

/// The same of a column without parts: what was cut off does not come back.
fn first_cut_value(column: &ArrayRef, to: &DataType) -> Option<usize> {
    let cut = if column.data_type().is_floating() && *to != DataType::Boolean {
        let numbers = shape::cast(column, &DataType::Float64).ok()?;
        let fractions = BooleanArray::from_unary(numbers.as_primitive::<Float64Type>(), |v| v.fract() != 0.0);
        boolean::and(&fractions, &boolean::is_not_null(column).ok()?).ok()?
    } else {
        let to = match (column.data_type(), to) {
            // Between zones moments move, which is no loss.
            (DataType::Timestamp(_, zone), DataType::Timestamp(unit, _)) => {
                DataType::Timestamp(*unit, zone.clone())
            }
            _ => to.clone(),
        };
        // What is out of range is found by whoever casts.
        let there = shape::cast(column, &to).ok()?;
        let back = cast(&there, column.data_type()).ok()?;
        cmp::distinct(column, &back).ok()?
    };
    cut.values().set_indices().next()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use arrow::{
        array::{
            Decimal128Array, Float64Array, Int64Array, ListArray, StringArray, StructArray,
            TimestampMicrosecondArray,
        },
        buffer::{NullBuffer, OffsetBuffer},
        datatypes::TimeUnit,
    };

    use super::*;

    fn wanted(to: &str) -> DataType {
        DataType::from_str(to).unwrap()
    }

    /// The row that is to blame, counted from 0; none where all fit.
    fn check(column: ArrayRef, to: &DataType, expected: Option<usize>) {
        let found = convert(&column, to).err().map(|miss| miss.value.map(|(row, _)| row));
        assert_eq!(found, expected.map(Some), "{} as {to}", column.data_type());
    }

    fn floats(values: &[Option<f64>]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    fn decimals(values: &[Option<i128>]) -> ArrayRef {
        let array = Decimal128Array::from(values.to_vec());
        Arc::new(array.with_precision_and_scale(10, 2).unwrap())
    }

    fn moments(values: &[Option<i64>], zone: Option<&str>) -> ArrayRef {
        let array = TimestampMicrosecondArray::from(values.to_vec());
        Arc::new(array.with_timezone_opt(zone))
    }

    #[test]
    fn fractions_are_not_cut_off() {
        let whole = [Some(1.0), None, Some(-0.0), Some(-3.0)];
        let halves = [Some(1.0), None, Some(0.5)];
        for from in ["Float16", "Float32", "Float64"] {
            let floats = |values: &[Option<f64>]| cast(&floats(values), &wanted(from)).unwrap();
            for to in ["Int8", "Int64", "Dictionary(Int32, Int64)", "Duration(Second)"] {
                check(floats(&whole), &wanted(to), None);
                check(floats(&halves), &wanted(to), Some(2));
            }
            check(floats(&[Some(f64::NAN)]), &wanted("Int32"), Some(0));
            check(floats(&halves), &wanted("Utf8"), None);
        }
        for to in ["Int64", "UInt8", "Decimal128(10, 0)", "Decimal128(10, 1)"] {
            check(decimals(&[Some(100), None, Some(20_000)]), &wanted(to), None);
            check(decimals(&[Some(100), None, Some(205)]), &wanted(to), Some(2));
        }
        check(decimals(&[Some(100), Some(99_900)]), &wanted("Int8"), Some(1));
        check(decimals(&[Some(205)]), &wanted("Decimal128(12, 3)"), None);
    }

    #[test]
    fn truths_are_0_and_1() {
        let to = wanted("Boolean");
        for from in ["Int8", "UInt64", "Float32"] {
            let numbers = |values: &[Option<f64>]| cast(&floats(values), &wanted(from)).unwrap();
            check(numbers(&[Some(0.0), None, Some(1.0)]), &to, None);
            check(numbers(&[Some(1.0), None, Some(2.0)]), &to, Some(2));
        }
        check(floats(&[Some(0.5)]), &to, Some(0));
        check(floats(&[Some(f64::NAN)]), &to, Some(0));
        check(Arc::new(StringArray::from(vec!["false", "true"])), &to, None);
    }

    #[test]
    fn times_are_not_cut_off() {
        const DAY: i64 = 86_400_000_000;
        const HOUR: i64 = DAY / 24;
        let last = |value: i64, zone, to: &DataType, fits: bool| {
            check(moments(&[Some(0), None, Some(value)], zone), to, (!fits).then_some(2));
        };
        let east = DataType::Timestamp(TimeUnit::Second, Some("+02:00".into()));
        for zone in [None, Some("UTC")] {
            last(-2_000_000, zone, &wanted("Timestamp(Second, None)"), true);
            last(-2_000_000, zone, &east, true);
            last(-1_999_999, zone, &wanted("Timestamp(Second, None)"), false);
            last(-1_999_999, zone, &east, false);
            last(1_000, zone, &wanted("Timestamp(Millisecond, None)"), true);
            last(1_001, zone, &wanted("Timestamp(Millisecond, None)"), false);
            last(1_001, zone, &wanted("Timestamp(Nanosecond, None)"), true);
            last(-DAY, zone, &wanted("Date32"), true);
            last(-1, zone, &wanted("Date32"), false);
            last(-DAY, zone, &wanted("Date64"), true);
            last(HOUR, zone, &wanted("Date64"), false);
            last(1_001, zone, &wanted("Int64"), true);
        }
        // A day begins where its zone has it.
        let zoned = |value| moments(&[Some(value)], Some("+01:00"));
        check(zoned(DAY - HOUR), &wanted("Date32"), None);
        check(zoned(DAY), &wanted("Date32"), Some(0));
        check(zoned(DAY - HOUR), &wanted("Date64"), None);
        check(zoned(DAY), &wanted("Date64"), Some(0));
    }

    #[test]
    fn nothing_is_cut_off_within_lists_and_structs() {
        let lists = |values: ArrayRef| -> ArrayRef {
            let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths([1, 2, 0, 1]);
            // The second one is missing, whatever is in it.
            let known = NullBuffer::from(vec![true, false, true, true]);
            Arc::new(ListArray::new(item, offsets, values, Some(known)))
        };
        let list_of = |item: &str| DataType::new_list(wanted(item), true);
        let hidden = lists(floats(&[Some(1.0), Some(0.5), None, Some(2.0)]));
        check(Arc::clone(&hidden), &list_of("Int64"), None);
        check(hidden.slice(2, 2), &list_of("Int64"), None);
        let shown = lists(floats(&[Some(1.0), Some(2.0), None, Some(0.5)]));
        check(Arc::clone(&shown), &list_of("Int64"), Some(3));
        check(shown.slice(2, 2), &list_of("Int64"), Some(1));
        check(shown, &list_of("Float32"), None);
        check(lists(decimals(&[Some(1), Some(100), None, Some(200)])), &list_of("Int64"), Some(0));

        let members = |columns: Vec<(&str, ArrayRef)>| -> ArrayRef {
            let columns = columns
                .into_iter()
                .map(|(name, column)| (Arc::new(Field::new(name, column.data_type().clone(), true)), column));
            Arc::new(StructArray::from(columns.collect::<Vec<_>>()))
        };
        let both =
            members(vec![("a", floats(&[Some(0.5), Some(1.5)])), ("b", decimals(&[Some(100), Some(101)]))]);
        let field = |name: &str, to: &str| Field::new(name, wanted(to), true);
        let structs = |fields: Vec<Field>| DataType::Struct(fields.into());
        check(Arc::clone(&both), &structs(vec![field("a", "Float32"), field("b", "Int64")]), Some(1));
        // Found by their names, or else in order.
        check(Arc::clone(&both), &structs(vec![field("b", "Int64"), field("a", "Float64")]), Some(1));
        check(both, &structs(vec![field("x", "Int64"), field("y", "Utf8")]), Some(0));
    }

    #[test]
    fn what_cannot_be_read_is_to_blame() {
        check(Arc::new(Int64Array::from(vec![1, 300])), &wanted("Int8"), Some(1));
        check(Arc::new(StringArray::from(vec!["1", "x"])), &wanted("Int8"), Some(1));
    }
}
