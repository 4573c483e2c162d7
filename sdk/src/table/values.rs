// SPDX-License-Identifier: Apache-2.0
//! Whole columns as numbers or as text, whatever type they are stored in.
//!
//! It owns the widening of columns for functions over tables that they do not
//! know, after the batch was decoded and before a summary takes it. Arrow's own
//! `cast` can do this and far more, at the price of several megabytes of
//! component. Invariant: nulls stay null, and nothing else becomes one.

use arrow::array::{Array, AsArray, Float64Array, PrimitiveArray, StringArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type, i256,
};

/// Whether [`numbers`] takes columns of this type.
pub fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

/// A column of numbers as `f64`; nulls stay null. `None` for other types.
/// Integers beyond 2⁵³ and decimals are rounded to an `f64` next to them.
///
/// # Example
///
/// ```
/// use fanfold_sdk::{arrow::array::Int32Array, table::numbers};
///
/// let column = numbers(&Int32Array::from(vec![Some(1), None])).unwrap();
/// assert_eq!(column.iter().collect::<Vec<_>>(), [Some(1.0), None]);
/// ```
pub fn numbers(array: &dyn Array) -> Option<Float64Array> {
    macro_rules! widen {
        ($type:ty) => {
            widened(array.as_primitive::<$type>(), |value| value as f64)
        };
        ($type:ty, $scale:expr) => {{
            let unit = unit(*$scale);
            widened(array.as_primitive::<$type>(), |value| value as f64 / unit)
        }};
    }
    Some(match array.data_type() {
        DataType::Float64 => array.as_primitive::<Float64Type>().clone(),
        DataType::Float32 => widen!(Float32Type),
        DataType::Float16 => array.as_primitive::<Float16Type>().unary(f64::from),
        DataType::Int64 => widen!(Int64Type),
        DataType::Int32 => widen!(Int32Type),
        DataType::Int16 => widen!(Int16Type),
        DataType::Int8 => widen!(Int8Type),
        DataType::UInt64 => widen!(UInt64Type),
        DataType::UInt32 => widen!(UInt32Type),
        DataType::UInt16 => widen!(UInt16Type),
        DataType::UInt8 => widen!(UInt8Type),
        DataType::Decimal32(_, scale) => widen!(Decimal32Type, scale),
        DataType::Decimal64(_, scale) => widen!(Decimal64Type, scale),
        DataType::Decimal128(_, scale) => widen!(Decimal128Type, scale),
        DataType::Decimal256(_, scale) => {
            let unit = unit(*scale);
            array.as_primitive::<Decimal256Type>().unary(|value| wide(value) / unit)
        }
        _ => return None,
    })
}

/// Each value by itself; `unary` of the array, but not in line: in a large function a guest's loop has its pointers
/// in memory.
#[inline(never)]
fn widened<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    number: impl Fn(T::Native) -> f64,
) -> Float64Array {
    let numbers: Vec<f64> = array.values().iter().map(|value| number(*value)).collect();
    Float64Array::new(numbers.into(), array.nulls().cloned())
}

/// What the digits of a decimal of this scale are counted in.
fn unit(scale: i8) -> f64 {
    10_f64.powi(i32::from(scale))
}

/// An integer of 256 bits. The halves of one that fits into 128 would cancel out.
fn wide(value: i256) -> f64 {
    value.to_i128().map_or_else(
        || {
            let (low, high) = value.to_parts();
            high as f64 * 2_f64.powi(128) + low as f64
        },
        |value| value as f64,
    )
}

/// A column of text or of truth values as text; nulls stay null. `None` for
/// other types.
pub fn texts(array: &dyn Array) -> Option<StringArray> {
    match array.data_type() {
        DataType::Utf8 => Some(array.as_string::<i32>().clone()),
        DataType::Boolean => {
            let words =
                array.as_boolean().iter().map(|truth| truth.map(|t| if t { "true" } else { "false" }));
            Some(words.collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal32Array, Decimal64Array, Decimal128Array,
        Decimal256Array, Float32Array, PrimitiveArray, UInt8Array,
    };
    use arrow::datatypes::ArrowPrimitiveType;

    use super::*;

    #[test]
    fn numbers_of_every_kind_are_widened() {
        let decimal = Decimal128Array::from(vec![Some(12_345), None]).with_precision_and_scale(10, 2);
        let small = Decimal32Array::from(vec![Some(-125), None]).with_precision_and_scale(5, 1);
        let medium = Decimal64Array::from(vec![Some(125), None]).with_precision_and_scale(12, -2);
        let large = |value: i256| {
            let array = Decimal256Array::from(vec![Some(value), None]).with_precision_and_scale(70, 1);
            Arc::new(array.unwrap())
        };
        let half: PrimitiveArray<Float16Type> = Float32Array::from(vec![Some(1.5), None])
            .unary(<Float16Type as ArrowPrimitiveType>::Native::from_f32);
        let arrays: [(ArrayRef, Option<f64>); 8] = [
            (Arc::new(half), Some(1.5)),
            (Arc::new(small.unwrap()), Some(-12.5)),
            (Arc::new(medium.unwrap()), Some(12_500.0)),
            (large(i256::from_i128(-125)), Some(-12.5)),
            (large(i256::from_parts(0, -(1 << 72))), Some(-(2_f64.powi(200)) / 10.0)),
            (Arc::new(UInt8Array::from(vec![Some(7), None])), Some(7.0)),
            (Arc::new(decimal.unwrap()), Some(123.45)),
            (Arc::new(Float64Array::from(vec![Some(0.5), None])), Some(0.5)),
        ];
        for (array, first) in arrays {
            assert!(is_number(array.data_type()));
            let column = numbers(&array).unwrap();
            assert_eq!(column.iter().collect::<Vec<_>>(), [first, None]);
        }
        assert!(numbers(&Date32Array::from(vec![1])).is_none());
    }

    #[test]
    fn truth_reads_as_text() {
        let column = texts(&BooleanArray::from(vec![Some(true), None, Some(false)])).unwrap();
        assert_eq!(column.iter().collect::<Vec<_>>(), [Some("true"), None, Some("false")]);
        assert!(texts(&Date32Array::from(vec![1])).is_none());
    }
}
