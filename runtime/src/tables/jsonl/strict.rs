// SPDX-License-Identifier: Apache-2.0
//! Values of JSON that arrow-json takes too freely, looked at before it decodes them.
//!
//! Of a number that is wanted as a date, a time or a duration it drops the fraction, and makes
//! the largest one of what is beyond the range; of hexadecimal digits it takes an odd number. Here both
//! are refused. Texts of times are left to it, and so are those of numbers, but where a column was told
//! to be of numbers and a text has zeros or digits that one would lose: in the sample it would have
//! made texts of them.

use arrow::{
    array::ArrayRef,
    datatypes::DataType,
    error::ArrowError,
    json::reader::{ArrayDecoder, Tape, TapeElement},
};
use fanfold_protocol::stored::{
    guess::{has_leading_zero, is_kept_by_double},
    value,
};

use super::integer::is_padded;

/// Whether a value is none of its type; what is left to arrow-json is not.
type Refuses = fn(&Tape<'_>, u32) -> bool;

/// What arrow-json takes of this type and should not; `None` where there is nothing.
pub(super) fn refuses(data_type: &DataType) -> Option<Refuses> {
    use DataType::{
        Binary, BinaryView, Date32, Date64, Duration, FixedSizeBinary, LargeBinary, Time32, Time64, Timestamp,
    };
    match data_type {
        Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(_, _) | Duration(_) => Some(is_no_whole_number),
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Some(is_no_hexadecimal),
        _ => None,
    }
}

/// What a column that was told to be of this type should not take besides.
pub(super) fn refuses_told(data_type: &DataType) -> Option<Refuses> {
    match data_type {
        whole if whole.is_integer() => Some(is_code),
        float if float.is_floating() => Some(is_more_than_a_double),
        _ => None,
    }
}

/// A decoder that passes on only what it should take.
pub(super) struct Strict {
    pub(super) refuses: Refuses,
    pub(super) inner: Box<dyn ArrayDecoder>,
}

impl ArrayDecoder for Strict {
    fn decode(&mut self, tape: &Tape<'_>, pos: &[u32]) -> Result<ArrayRef, ArrowError> {
        match pos.iter().find(|place| (self.refuses)(tape, **place)) {
            Some(place) => Err(tape.error(*place, "a value of which nothing is cut off")),
            None => self.inner.decode(tape, pos),
        }
    }
}

fn is_no_whole_number(tape: &Tape<'_>, place: u32) -> bool {
    let TapeElement::Number(text) = tape.get(place) else { return false };
    let text = tape.get_string(text).as_bytes();
    value::integer(text).is_none_or(|whole| is_padded(text) || !is_kept(text, whole))
}

/// Whether arrow-json reads this whole number as what it is: with a point, as in `5.0`, it is a
/// double on the way.
fn is_kept(text: &[u8], whole: i64) -> bool {
    !text.contains(&b'.') || value::float(text).is_some_and(|double| double as i64 == whole)
}

fn is_code(tape: &Tape<'_>, place: u32) -> bool {
    matches!(tape.get(place), TapeElement::String(text) if has_leading_zero(tape.get_string(text).as_bytes()))
}

fn is_more_than_a_double(tape: &Tape<'_>, place: u32) -> bool {
    matches!(tape.get(place), TapeElement::String(text) if !is_kept_by_double(tape.get_string(text).as_bytes()))
}

fn is_no_hexadecimal(tape: &Tape<'_>, place: u32) -> bool {
    match tape.get(place) {
        TapeElement::Null => false,
        TapeElement::String(text) => !tape.get_string(text).len().is_multiple_of(2),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::{str::FromStr, sync::Arc};

    use arrow::{
        array::{Array, AsArray},
        datatypes::{Field, Int64Type, Schema},
    };

    use super::{
        super::{decode, members::Others},
        *,
    };

    fn read(value: &str, data_type: &DataType) -> Option<ArrayRef> {
        let schema = Arc::new(Schema::new(vec![Field::new("a", data_type.clone(), true)]));
        let batch = decode(&schema, &format!("{{\"a\":{value}}}"), 1, Others::Refused).ok()?;
        Some(Arc::clone(batch.column(0)))
    }

    #[test]
    fn nothing_is_cut_off_numbers_that_are_times() {
        for name in [
            "Date32",
            "Date64",
            "Time32(Second)",
            "Time64(Nanosecond)",
            "Timestamp(Second, None)",
            "Timestamp(Microsecond, None)",
            "Timestamp(Nanosecond, Some(\"+01:00\"))",
            "Duration(Millisecond)",
        ] {
            let data_type = DataType::from_str(name).unwrap();
            let check = |value: &str, expected: bool| {
                assert_eq!(read(value, &data_type).is_some(), expected, "{value} as {name}");
            };
            for good in ["0", "86", "86.0", "-1", "null"] {
                check(good, true);
            }
            for bad in ["1.5", "-0.9", "1e30", "-1e30", "01", "9223372036854775808", "true", "[1]"] {
                check(bad, false);
            }
        }
        let moments = DataType::from_str("Timestamp(Microsecond, None)").unwrap();
        let check = |value: &str, expected: Option<i64>| {
            let found = read(value, &moments).map(|column| {
                let numbers = arrow::compute::cast(&column, &DataType::Int64).unwrap();
                numbers.as_primitive::<Int64Type>().value(0)
            });
            assert_eq!(found, expected, "{value}");
        };
        check("1767322800000000.0", Some(1_767_322_800_000_000));
        check("9007199254740993", Some(9_007_199_254_740_993));
        check("9007199254740993.0", None);
        check("9223372036854775807", Some(i64::MAX));
        check("\"1970-01-01T00:00:01\"", Some(1_000_000));
    }

    #[test]
    fn bytes_are_pairs_of_hexadecimal_digits() {
        for data_type in [DataType::Binary, DataType::LargeBinary, DataType::BinaryView] {
            for (value, expected) in [
                ("\"\"", true),
                ("\"0aFf\"", true),
                ("null", true),
                ("\"a\"", false),
                ("\"abc\"", false),
                ("\"hello!\"", false),
                ("5", false),
                ("true", false),
                ("[1,2]", false),
            ] {
                assert_eq!(read(value, &data_type).is_some(), expected, "{value} as {data_type}");
            }
        }
        let found = read("\"0aFf\"", &DataType::Binary).unwrap();
        assert_eq!(found.as_binary::<i32>().value(0), [0x0a, 0xff]);
        let fixed = DataType::FixedSizeBinary(2);
        assert!(read("\"0aff\"", &fixed).is_some() && read("\"aff\"", &fixed).is_none());
        assert_eq!(read("null", &fixed).map(|column| column.null_count()), Some(1));
    }
}
