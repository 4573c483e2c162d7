// SPDX-License-Identifier: Apache-2.0
//! Columns in the types that a function declares, for native tests.
//!
//! It owns a small stand-in for the host's casts. Invariant: as on the platform, a
//! value that has no place in the declared type is an error, and nothing is cut off to
//! make it fit.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Float64Type, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;

use crate::row::Column;
use crate::{Error, Result};

/// Casts a column of a batch whose first row is row `first_row` of the table.
pub(super) fn fit_column(array: &ArrayRef, column: &Column, first_row: u64) -> Result<ArrayRef> {
    let (from, to) = (array.data_type(), column.arrow_type());
    if !can_cast_types(from, &to) {
        return Err(Error::new(
            "schema-mismatch",
            format!(
                "column `{}` must be readable as {}, found {from}; change the field's type, or convert the column",
                column.name, column.data_type
            ),
        ));
    }
    // What has no place in the type becomes null.
    let fitted = cast(array, &to)?;
    let cut = cut(array, &fitted)?;
    let nulls = array.logical_nulls();
    let is_lost = |row: &usize| {
        let is_cut = cut.as_ref().is_some_and(|cut| cut.value(*row));
        nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row)) && (fitted.is_null(*row) || is_cut)
    };
    match (0..array.len()).find(is_lost) {
        None => Ok(fitted),
        Some(row) => Err(misfit(column, &array_value_to_string(array, row)?, first_row + row as u64)),
    }
}

/// What is told of a value that has no place in the declared type.
pub(super) fn misfit(column: &Column, found: &str, row: u64) -> Error {
    Error::new(
        "value-mismatch",
        format!(
            "column `{}` must be {} in every row, found {found} in row {row}; change the field's type, or mend the value",
            column.name, column.data_type,
        ),
    )
}

/// Which values had more than the cast left of them: a fraction, a time of day, or a number that is
/// neither 0 nor 1.
fn cut(array: &ArrayRef, fitted: &ArrayRef) -> Result<Option<BooleanArray>, ArrowError> {
    use DataType::{Boolean, Date32, Date64, Decimal32, Decimal64, Decimal128, Decimal256, Timestamp};
    let (from, to) = (array.data_type(), fitted.data_type());
    if from.is_floating() && (to.is_integer() || to.is_temporal()) {
        let numbers = cast(array, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>();
        return Ok(Some(BooleanArray::from_unary(numbers, |number| number.fract() != 0.0)));
    }
    let there = match (from, to) {
        (Decimal32(_, 1..) | Decimal64(_, 1..) | Decimal128(_, 1..) | Decimal256(_, 1..), to)
            if to.is_integer() =>
        {
            fitted.clone()
        }
        (Date64 | Timestamp(_, _), Date32) => fitted.clone(),
        // Of any number but zero arrow makes a truth.
        (number, Boolean) if number.is_integer() || number.is_floating() => fitted.clone(),
        // Between zones moments move, which is no loss.
        (Timestamp(TimeUnit::Nanosecond, zone), Timestamp(unit, _)) => {
            cast(array, &Timestamp(*unit, zone.clone()))?
        }
        _ => return Ok(None),
    };
    cmp::distinct(array, &cast(&there, from)?).map(Some)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Date64Array, Decimal128Array, Float64Array, Int64Array, ListArray, NullArray, StringArray,
        TimestampNanosecondArray,
    };
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::row::{Date, Field, Timestamp};

    /// The code and row of the error, if there is one.
    fn check<F: Field>(array: impl Array + 'static, expected: Option<(&str, &str)>) {
        let array: ArrayRef = Arc::new(array);
        let fitted = fit_column(&array, &Column::of::<F>("x"), 10);
        let expected_type = F::arrow_type();
        match (fitted, expected) {
            (Ok(fitted), None) => assert_eq!(fitted.data_type(), &expected_type),
            (Err(error), Some((code, told))) => {
                assert_eq!(error.code(), code, "{error}");
                assert!(error.message().contains("`x`") && error.message().contains(told), "{error}");
            }
            (fitted, expected) => panic!("{array:?} as {expected_type}: {fitted:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn nothing_is_cut_off() {
        let misfit = |row| Some(("value-mismatch", row));
        check::<Option<i64>>(Float64Array::from(vec![Some(1.0), None, Some(-0.0)]), None);
        check::<Option<i64>>(Float64Array::from(vec![Some(1.0), None, Some(1.5)]), misfit("row 12"));
        check::<i32>(Float64Array::from(vec![f64::NAN]), misfit("row 10"));
        check::<i8>(Int64Array::from(vec![1, 300]), misfit("300"));
        check::<i64>(StringArray::from(vec!["1", "x"]), misfit("found x"));
        check::<Option<i64>>(NullArray::new(2), None);
        check::<String>(Float64Array::from(vec![1.5]), None);

        let decimals =
            |values: Vec<i128>| Decimal128Array::from(values).with_precision_and_scale(9, 2).unwrap();
        check::<u16>(decimals(vec![100, 200]), None);
        check::<u16>(decimals(vec![100, 205]), misfit("2.05"));

        check::<Option<bool>>(Int64Array::from(vec![Some(0), None, Some(1)]), None);
        check::<bool>(Int64Array::from(vec![1, 2]), misfit("row 11"));
        check::<bool>(Float64Array::from(vec![0.5]), misfit("0.5"));
        check::<f64>(decimals(vec![205]), None);
    }

    #[test]
    fn times_are_not_cut_off() {
        const DAY_MS: i64 = 86_400_000;
        let misfit = |row| Some(("value-mismatch", row));
        check::<Date>(Date64Array::from(vec![0, -DAY_MS]), None);
        check::<Date>(Date64Array::from(vec![0, 1 - DAY_MS]), misfit("row 11"));
        for zone in [None, Some("+02:00")] {
            let moments = |last| TimestampNanosecondArray::from(vec![Some(0), None, Some(last)]);
            check::<Option<Timestamp>>(moments(-2_000).with_timezone_opt(zone), None);
            check::<Option<Timestamp>>(moments(-1_999).with_timezone_opt(zone), misfit("row 12"));
        }
    }

    #[test]
    fn types_that_are_no_others_are_refused() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]);
        check::<i64>(lists, Some(("schema-mismatch", "Int64")));
    }
}
