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

use super::value;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guessed {
    /// No value.
    Nothing,
    /// Truth values.
    Truth,
    /// Whole numbers of 64 bits.
    Integer,
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
