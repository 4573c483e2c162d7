// SPDX-License-Identifier: Apache-2.0
//! Texts as values of columns, for native tests.
//!
//! It owns the columns of CSV: their types where nobody declares them, and their values
//! in a given type. Invariant: a text means what it means on the platform, since the
//! parsers are the platform's own, taken from its sources.

#[allow(dead_code, reason = "a native test needs a part of it")]
#[path = "../../../protocol/src/stored/guess.rs"]
mod guess;
#[allow(dead_code, reason = "a native test needs a part of it")]
#[path = "../../../protocol/src/stored/value.rs"]
pub(super) mod value;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanBuilder, PrimitiveArray, PrimitiveBuilder, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use self::guess::{Guess, Guessed};

/// The texts in the first type that fits them all.
pub(super) fn guessed(texts: &StringArray) -> ArrayRef {
    let mut guess = Guess::default();
    texts.iter().flatten().for_each(|text| guess.see(text.as_bytes()));
    let data_type = match guess.found() {
        Guessed::Truth => DataType::Boolean,
        Guessed::Integer | Guessed::Long => DataType::Int64,
        Guessed::Float => DataType::Float64,
        Guessed::Date => DataType::Date32,
        Guessed::Local => DataType::Timestamp(TimeUnit::Microsecond, None),
        Guessed::Zoned => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Guessed::Nothing | Guessed::Text => DataType::Utf8,
    };
    // What was guessed is taken: the guess asks the same parsers.
    parse(texts, &data_type).unwrap_or_else(|_| Arc::new(texts.clone()))
}

/// The texts as values of this type, or the row of the first that is none.
pub(super) fn parse(texts: &StringArray, to: &DataType) -> Result<ArrayRef, usize> {
    Ok(match to {
        DataType::Boolean => {
            let mut builder = BooleanBuilder::with_capacity(texts.len());
            for (row, text) in texts.iter().enumerate() {
                let value = |text: &str| value::truth(text.as_bytes()).ok_or(row);
                builder.append_option(text.map(value).transpose()?);
            }
            Arc::new(builder.finish())
        }
        DataType::Int8 => whole::<Int8Type>(texts)?,
        DataType::Int16 => whole::<Int16Type>(texts)?,
        DataType::Int32 => whole::<Int32Type>(texts)?,
        DataType::Int64 => whole::<Int64Type>(texts)?,
        DataType::UInt8 => whole::<UInt8Type>(texts)?,
        DataType::UInt16 => whole::<UInt16Type>(texts)?,
        DataType::UInt32 => whole::<UInt32Type>(texts)?,
        DataType::UInt64 => Arc::new(values::<UInt64Type>(texts, value::unsigned)?),
        DataType::Float32 => Arc::new(values::<Float32Type>(texts, single)?),
        DataType::Float64 => Arc::new(values::<Float64Type>(texts, value::float)?),
        DataType::Date32 => Arc::new(values::<Date32Type>(texts, value::date)?),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            Arc::new(values::<TimestampMicrosecondType>(texts, micros)?.with_timezone_opt(zone.clone()))
        }
        // Texts, and their bytes.
        other => cast(texts, other).map_err(|_| 0_usize)?,
    })
}

fn whole<T: ArrowPrimitiveType>(texts: &StringArray) -> Result<ArrayRef, usize>
where
    T::Native: TryFrom<i64>,
{
    Ok(Arc::new(values::<T>(texts, |text| T::Native::try_from(value::integer(text)?).ok())?))
}

fn values<T: ArrowPrimitiveType>(
    texts: &StringArray,
    parse: impl Fn(&[u8]) -> Option<T::Native>,
) -> Result<PrimitiveArray<T>, usize> {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(texts.len());
    for (row, text) in texts.iter().enumerate() {
        builder.append_option(text.map(|text| parse(text.as_bytes()).ok_or(row)).transpose()?);
    }
    Ok(builder.finish())
}

/// One of 64 bits would be rounded twice.
fn single(text: &[u8]) -> Option<f32> {
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// A moment without anything that microseconds have no room for.
fn micros(text: &[u8]) -> Option<i64> {
    let moment = value::moment(text)?;
    let fraction = (moment.nanos.is_multiple_of(1_000)).then_some(moment.nanos / 1_000)?;
    moment.seconds.checked_mul(1_000_000)?.checked_add(fraction.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_guessed_as_on_the_platform() {
        let check = |texts: &[&str], expected: &DataType| {
            let found = guessed(&StringArray::from(texts.to_vec()));
            assert_eq!((found.data_type(), found.null_count()), (expected, 0), "{texts:?}");
        };
        check(&["true", "FALSE"], &DataType::Boolean);
        check(&["yes", "no"], &DataType::Utf8);
        check(&["1", "-2"], &DataType::Int64);
        check(&["00123", "1"], &DataType::Utf8);
        check(&["1", "2.5"], &DataType::Float64);
        check(&["2026-01-02"], &DataType::Date32);
        let moments = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        check(&["2026-01-02", "2026-01-02T03:04:05"], &moments(None));
        check(&["2026-01-02 23:59:59Z"], &moments(Some("UTC")));
        check(&["x", "1"], &DataType::Utf8);
    }

    #[test]
    fn texts_are_what_the_platform_takes() {
        let moment = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (to, good, bad) in [
            (DataType::Boolean, &["true", "FALSE", " True "][..], &["yes", "on", "1", "0", "t", "1.0"][..]),
            (DataType::Int64, &["5", "+5", " 05 ", "5.0"], &["true", "2026-01-02", "1e3", "5.5", ""]),
            (DataType::UInt8, &["0", "255.0"], &["256", "-1"]),
            (DataType::UInt64, &["18446744073709551615"], &["-1", "18446744073709551616"]),
            (DataType::Float32, &["0.1", "1e39"], &["true", "1,5"]),
            (DataType::Float64, &["inf", "nan", ".5", "1e400"], &["true", "1d", "1_000"]),
            (DataType::Date32, &["2026-01-02"], &["20260102", "20000", "2026-01-02 05:00:00", "2026-02-30"]),
            (
                moment,
                &["2026-01-02", "2026-01-02T03:04:05.123456+02:00"],
                &["1767322800", "2026-01-02T03:04:05.1234567"],
            ),
            (DataType::Utf8, &["00123", "1.10", "TRUE"], &[]),
            (DataType::Binary, &["00123", "é"], &[]),
        ] {
            assert!(parse(&StringArray::from(good.to_vec()), &to).is_ok(), "{to}");
            for text in bad {
                let texts = StringArray::from(vec![Some(good[0]), None, Some(*text)]);
                assert_eq!(parse(&texts, &to).err(), Some(2), "{text:?} as {to}");
            }
        }
    }
}
