//! What a column of CSV holds, told from the first records of its object.
//!
//! Looked at are the whole records within the first 1 MiB of the (decompressed)
//! object, wherever in it a slice lies, so that all slices of an object agree.
//! Missing values are passed over. A column is, in this order, the first that
//! all its other values fit:
//!
//! 1. `Boolean`: `true` and `false` in any case;
//! 2. `Int64`: whole numbers of that range without leading zeros, which mark
//!    codes rather than numbers;
//! 3. `Float64`: numbers, among them whole ones of at most 15 digits;
//! 4. `Date32`: `YYYY-MM-DD`;
//! 5. `Timestamp(µs)`: dates and times without a zone, at most 6 digits of a
//!    second's fraction; with one everywhere, `Timestamp(µs, "UTC")`;
//! 6. `Utf8`: everything else, and columns without values.

use arrow::datatypes::{DataType, TimeUnit};

use fanfold_protocol::stored::value;

/// What the values of a column have in common so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guess {
    any: bool,
    truth: bool,
    integer: bool,
    float: bool,
    date: bool,
    local: bool,
    zoned: bool,
}

impl Default for Guess {
    fn default() -> Self {
        Self { any: false, truth: true, integer: true, float: true, date: true, local: true, zoned: true }
    }
}

impl Guess {
    /// Takes one value into account.
    pub(super) fn see(&mut self, text: &[u8]) {
        self.any = true;
        self.truth = self.truth && value::truth(text).is_some();
        self.integer = self.integer && is_integer(text);
        self.float = self.float && is_float(text);
        self.date = self.date && value::date(text).is_some();
        let moment =
            if self.local || self.zoned { value::moment(text).filter(|m| m.digits <= 6) } else { None };
        self.local = self.local && moment.is_some_and(|m| !m.zoned);
        self.zoned = self.zoned && moment.is_some_and(|m| m.zoned);
    }

    /// The type that fits all values seen.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self { any: false, .. } => DataType::Utf8,
            Self { truth: true, .. } => DataType::Boolean,
            Self { integer: true, .. } => DataType::Int64,
            Self { float: true, .. } => DataType::Float64,
            Self { date: true, .. } => DataType::Date32,
            Self { local: true, .. } => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self { zoned: true, .. } => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            _ => DataType::Utf8,
        }
    }
}

fn is_integer(text: &[u8]) -> bool {
    value::integer(text).is_some() && !text.contains(&b'.') && !has_leading_zero(text)
}

fn has_leading_zero(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    matches!(digits, [b'0', b'0'..=b'9', ..])
}

/// Words such as `inf` are text here, and so are whole numbers that would lose
/// digits.
fn is_float(text: &[u8]) -> bool {
    let numeric = text.iter().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E' | b' '));
    let digits = text.iter().filter(|b| b.is_ascii_digit()).count();
    let whole = !text.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
    numeric && !has_leading_zero(text) && (!whole || digits <= 15) && value::float(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], expected: &str) {
        let mut guess = Guess::default();
        values.iter().for_each(|v| guess.see(v.as_bytes()));
        assert_eq!(guess.data_type().to_string(), expected, "{values:?}");
    }

    #[test]
    fn types_are_told() {
        check(&[], "Utf8");
        check(&["true", "FALSE"], "Boolean");
        check(&["1", "-2", "0"], "Int64");
        check(&["1", "2.5", "1e-3"], "Float64");
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
