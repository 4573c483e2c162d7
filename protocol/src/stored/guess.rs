// SPDX-License-Identifier: Apache-2.0
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
//!
//! Records behind those are read by parsers that take more; what of their values would be lost
//! in a column of numbers is told here as well.

use super::value;

/// Digits that doubles keep of any whole number.
const DIGITS_KEPT: usize = 15;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guessed {
    /// No value.
    Nothing,
    /// Truth values.
    Truth,
    /// Whole numbers of 64 bits.
    Integer,
    /// Such of which one at least has more digits than doubles keep.
    Long,
    /// Numbers.
    Float,
    /// Days.
    Date,
    /// Moments without a zone.
    Local,
    /// Moments with one.
    Zoned,
    /// Something else.
    Text,
}

/// What the values of a column have in common so far.
#[derive(Clone, Copy, Debug)]
pub struct Guess {
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
    pub fn see(&mut self, text: &[u8]) {
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

    /// What fits all values seen.
    pub fn found(self) -> Guessed {
        match self {
            Self { any: false, .. } => Guessed::Nothing,
            Self { truth: true, .. } => Guessed::Truth,
            Self { integer: true, float: false, .. } => Guessed::Long,
            Self { integer: true, .. } => Guessed::Integer,
            Self { float: true, .. } => Guessed::Float,
            Self { date: true, .. } => Guessed::Date,
            Self { local: true, .. } => Guessed::Local,
            Self { zoned: true, .. } => Guessed::Zoned,
            _ => Guessed::Text,
        }
    }
}

fn is_integer(text: &[u8]) -> bool {
    value::integer(text).is_some() && !text.contains(&b'.') && !has_leading_zero(text)
}

/// Whether zeros stand in front of a number, which mark a code that has them for a purpose.
#[inline]
pub fn has_leading_zero(text: &[u8]) -> bool {
    // As most numbers begin.
    !matches!(text, [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..]) && is_code(unsigned(text))
}

/// Whether a double is all that a number says: it is no code, and no whole number that would
/// lose digits.
#[inline]
pub fn is_kept_by_double(number: &[u8]) -> bool {
    match number {
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] if number.len() <= DIGITS_KEPT => true,
        [b'0', b'.', ..] | [b'-', b'0', b'.', ..] => true,
        _ => {
            let digits = unsigned(number);
            let whole = || digits.iter().all(u8::is_ascii_digit);
            !is_code(digits) && (digits.len() <= DIGITS_KEPT || !whole())
        }
    }
}

fn is_code(digits: &[u8]) -> bool {
    matches!(digits, [b'0', b'0'..=b'9', ..])
}

/// The text without spaces around it and without its sign.
fn unsigned(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text)
}

/// Words such as `inf` are text here, and so are whole numbers that would lose
/// digits.
fn is_float(text: &[u8]) -> bool {
    let numeric = text.iter().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E' | b' '));
    numeric && is_kept_by_double(text) && value::float(text).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(values: &[&str]) -> Guessed {
        let mut guess = Guess::default();
        values.iter().for_each(|value| guess.see(value.as_bytes()));
        guess.found()
    }

    #[test]
    fn long_numbers_are_whole_or_text() {
        assert_eq!(found(&["123456789012345", "-1"]), Guessed::Integer);
        assert_eq!(found(&["1", "1234567890123456"]), Guessed::Long);
        assert_eq!(found(&["1234567890123456", "0.5"]), Guessed::Text);
        assert_eq!(found(&["123456789012345", "0.5"]), Guessed::Float);
        assert_eq!(found(&["1234567890123456.5", "1e300"]), Guessed::Float);
    }

    #[test]
    fn what_numbers_would_lose_is_told() {
        let check = |text: &str, code: bool, kept: bool| {
            let text = text.as_bytes();
            assert_eq!((has_leading_zero(text), is_kept_by_double(text)), (code, kept), "{text:?}");
        };
        for text in [
            "0",
            "-0",
            "0.5",
            "-0.25",
            " 0 ",
            "+1",
            ".5",
            "10",
            "1e300",
            "123456789012345",
            "-123456789012345",
        ] {
            check(text, false, true);
        }
        for text in ["0.1234567890123456789", "1234567890123456.0", "12345678901234567e3", " 1.5 "] {
            check(text, false, true);
        }
        for text in ["007", "00", "-007", "+00.5", " 01", "0000000000000000001"] {
            check(text, true, false);
        }
        for text in ["1234567890123456", "-9007199254740993", "+1234567890123456", " 1234567890123456 "] {
            check(text, false, false);
        }
    }

    proptest! {
        /// What a column was guessed from it takes.
        #[test]
        fn nothing_is_lost_of_what_was_looked_at(values in proptest::collection::vec("[-+ ]?[0-9]{1,17}([.][0-9]{0,3})?", 1..4)) {
            let texts: Vec<&str> = values.iter().map(String::as_str).collect();
            let all = |fits: fn(&[u8]) -> bool| texts.iter().all(|text| fits(text.as_bytes()));
            match found(&texts) {
                Guessed::Integer | Guessed::Long => prop_assert!(all(|text| !has_leading_zero(text))),
                Guessed::Float => prop_assert!(all(is_kept_by_double)),
                _ => {}
            }
        }
    }
}
