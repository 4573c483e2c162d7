// SPDX-License-Identifier: Apache-2.0
//! Amounts as people write them: `64MiB` and `30s`.
//!
//! Binary units mean powers of 1,024, decimal ones powers of 1,000, as in
//! IEC 80000-13. Values are whole bytes and whole milliseconds.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorKind, Problem},
    time::whole_ms,
};

/// An amount of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct ByteSize(pub u64);

/// A span of time, whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct Span(pub u64);

impl From<Duration> for Span {
    fn from(span: Duration) -> Self {
        Self(whole_ms(span))
    }
}

/// How an amount may stand in TOML or JSON: text with a unit, or a bare number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an amount with its unit as text, such as \"64MiB\" or \"30s\"")]
enum Written {
    Text(String),
    Number(u64),
}

const BYTE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

const TIME_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

fn amount(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, Problem> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim()).map(|(_, factor)| *factor);
    factor.zip(number.parse::<u64>().ok()).and_then(|(factor, number)| number.checked_mul(factor)).ok_or_else(
        || {
            let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
            Problem::new(
                ErrorKind::InvalidRequest,
                format!(
                    "expected a whole number and a unit ({}) such as {example:?}, found {text:?}",
                    names.join(", ")
                ),
            )
        },
    )
}

impl FromStr for ByteSize {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        amount(text, BYTE_UNITS, "64MiB").map(Self)
    }
}

impl FromStr for Span {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        amount(text, TIME_UNITS, "30s").map(Self)
    }
}

impl TryFrom<Written> for ByteSize {
    type Error = Problem;
    fn try_from(written: Written) -> Result<Self, Problem> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Number(bytes) => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<Written> for Span {
    type Error = Problem;
    fn try_from(written: Written) -> Result<Self, Problem> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Number(number) => Err(Problem::new(
                ErrorKind::InvalidRequest,
                format!("expected a time with a unit such as \"30s\", found the bare number {number}"),
            )),
        }
    }
}

impl Span {
    /// The same span for the standard library.
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

fn print(f: &mut fmt::Formatter<'_>, amount: u64, units: &[(&str, u64)]) -> fmt::Result {
    let (unit, factor) = units
        .iter()
        .filter(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor)
        .unwrap_or(&units[0]);
    write!(f, "{}{unit}", amount / factor)
}

impl fmt::Display for ByteSize {
    /// Exact, in the largest binary unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, &BYTE_UNITS[..5])
    }
}

impl fmt::Display for Span {
    /// Exact, in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, TIME_UNITS)
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> String {
        size.to_string()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_printed() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|b| b.0).ok();
        assert_eq!(bytes("64MiB"), Some(64 << 20));
        assert_eq!(bytes("64 MB"), Some(64_000_000));
        assert_eq!(bytes("0B"), Some(0));
        assert_eq!(bytes("64"), None);
        assert_eq!(bytes("-1B"), None);
        assert_eq!(bytes("99999999999TiB"), None);
        assert_eq!(ByteSize(3 << 19).to_string(), "1536KiB");
        assert_eq!("5m".parse::<Span>().map(Span::as_duration), Ok(Duration::from_secs(300)));
        assert_eq!(Span(1_500).to_string(), "1500ms");
        assert!("5".parse::<Span>().is_err());
    }

    #[test]
    fn what_is_no_amount_is_refused_in_words() {
        for json in ["[]", "true", "-1", "1.5", "null"] {
            let said = serde_json::from_str::<ByteSize>(json).unwrap_err().to_string();
            assert!(said.starts_with("expected an amount with its unit as text"), "{json}: {said}");
        }
    }
}
