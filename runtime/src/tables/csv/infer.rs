// SPDX-License-Identifier: Apache-2.0
//! The Arrow types of what the columns of CSV are guessed to hold.

use arrow::datatypes::{DataType, TimeUnit};
use fanfold_protocol::stored::guess::Guessed;

/// The type that takes such values; `None` where there are none.
pub(super) fn data_type(guessed: Guessed) -> Option<DataType> {
    Some(match guessed {
        Guessed::Nothing => return None,
        Guessed::Truth => DataType::Boolean,
        Guessed::Integer | Guessed::Long => DataType::Int64,
        Guessed::Float => DataType::Float64,
        Guessed::Date => DataType::Date32,
        Guessed::Local => DataType::Timestamp(TimeUnit::Microsecond, None),
        Guessed::Zoned => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Guessed::Text => DataType::Utf8,
    })
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::stored::guess::Guess;

    use super::*;

    fn check(values: &[&str], expected: &str) {
        let mut guess = Guess::default();
        values.iter().for_each(|v| guess.see(v.as_bytes()));
        assert_eq!(data_type(guess.found()).unwrap_or(DataType::Utf8).to_string(), expected, "{values:?}");
    }

    #[test]
    fn types_are_told() {
        check(&[], "Utf8");
        check(&["true", "FALSE"], "Boolean");
        check(&["1", "-2", "0"], "Int64");
        check(&["1", "1234567890123456789"], "Int64");
        check(&["1", "2.5", "1e-3"], "Float64");
        check(&["0.5", "1234567890123456"], "Utf8");
        check(&["007", "1"], "Utf8");
        check(&["00.5"], "Utf8");
        check(&["0.5"], "Float64");
        check(&["12345678901234567890"], "Utf8");
        check(&["inf"], "Utf8");
        check(&["2024-01-31"], "Date32");
        check(&["2024-01-31", "2024-01-31 12:00:00"], "Timestamp(µs)");
        check(&["2024-01-31T12:00:00Z", "2024-01-31T12:00:00.000001+02:00"], "Timestamp(µs, \"UTC\")");
        check(&["2024-01-31T12:00:00Z", "2024-01-31T12:00:00"], "Utf8");
        check(&["2024-01-31T12:00:00.0000001"], "Utf8");
        check(&["1", "x"], "Utf8");
    }
}
