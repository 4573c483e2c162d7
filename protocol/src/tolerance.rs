// SPDX-License-Identifier: Apache-2.0
//! How many tasks of a job may fail without failing it: `3` or `2.5%`.
//!
//! Shares are kept in hundredths of a percent, so that the bound is exact for
//! any number of tasks; of a fraction of a task nothing is tolerated.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Problem};

/// Hundredths of a percent in the whole.
const WHOLE: u32 = 10_000;

/// A bound on the partitions that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Tolerance {
    /// So many.
    Tasks(u64),
    /// A share of all, in hundredths of a percent.
    Share(u32),
}

/// How a bound may stand in TOML or JSON: text, a bare count, or null, as jobs
/// without a bound were written down before there was one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected tolerated_failures to be a count of tasks or a share such as \"5%\"")]
enum Written {
    Text(String),
    Number(u64),
    Nothing(()),
}

impl Default for Tolerance {
    fn default() -> Self {
        Self::Tasks(0)
    }
}

impl Tolerance {
    /// How many of `total` tasks may fail.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Tasks(count) => count.min(total),
            Self::Share(share) => {
                let tolerated = u128::from(total) * u128::from(share) / u128::from(WHOLE);
                u64::try_from(tolerated).unwrap_or(total)
            }
        }
    }
}

impl FromStr for Tolerance {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let read = || match text.trim().strip_suffix('%') {
            Some(share) => share_of(share.trim_end()).map(Self::Share),
            None => digits(text.trim()).map(Self::Tasks),
        };
        read().ok_or_else(|| {
            Problem::new(
                ErrorKind::InvalidJob,
                format!(
                    "tolerated_failures must be a count of tasks such as 3, or a share of them from \"0%\" to \"100%\" \
                     with at most two decimals, found {text:?}"
                ),
            )
        })
    }
}

/// Hundredths of a percent.
fn share_of(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 2 {
        return None;
    }
    let hundredths = digits(whole)?.checked_mul(100)? + digits(&format!("{fraction:0<2}"))?;
    u32::try_from(hundredths).ok().filter(|share| *share <= WHOLE)
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl TryFrom<Written> for Tolerance {
    type Error = Problem;
    fn try_from(written: Written) -> Result<Self, Problem> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Number(count) => Ok(Self::Tasks(count)),
            Written::Nothing(()) => Ok(Self::default()),
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tasks(count) => write!(f, "{count}"),
            Self::Share(share) if share % 100 == 0 => write!(f, "{}%", share / 100),
            Self::Share(share) => write!(f, "{}.{:02}%", share / 100, share % 100),
        }
    }
}

impl From<Tolerance> for String {
    fn from(tolerance: Tolerance) -> Self {
        tolerance.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_shares_are_read_and_printed() {
        let check = |text: &str, tolerance: Tolerance, printed: &str| {
            assert_eq!(text.parse(), Ok(tolerance), "{text}");
            assert_eq!(tolerance.to_string(), printed);
        };
        check("0", Tolerance::Tasks(0), "0");
        check("3", Tolerance::Tasks(3), "3");
        check("0%", Tolerance::Share(0), "0%");
        check("5 %", Tolerance::Share(500), "5%");
        check("2.5%", Tolerance::Share(250), "2.50%");
        check("0.01%", Tolerance::Share(1), "0.01%");
        check("100%", Tolerance::Share(10_000), "100%");
        for text in ["", "%", "-1", "+1", "1.5", "101%", "100.01%", "0.001%", "many", "1e2%", ".5%"] {
            assert_eq!(text.parse::<Tolerance>().unwrap_err().code, ErrorKind::InvalidJob, "{text}");
        }
        let read = |json: &str| serde_json::from_str::<Tolerance>(json);
        assert_eq!(read("7").unwrap(), Tolerance::Tasks(7));
        assert_eq!(read("\"7%\"").unwrap(), Tolerance::Share(700));
        assert_eq!(read("null").unwrap(), Tolerance::default());
        for wrong in ["1.5", "-1", "[]"] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.starts_with("expected tolerated_failures to be a count"), "{wrong}: {said}");
        }
    }

    #[test]
    fn fractions_of_a_task_are_not_tolerated() {
        let check = |tolerance: Tolerance, total, expected| assert_eq!(tolerance.of(total), expected);
        check(Tolerance::Share(500), 19, 0);
        check(Tolerance::Share(500), 20, 1);
        check(Tolerance::Share(500), 39, 1);
        check(Tolerance::Share(10_000), 7, 7);
        check(Tolerance::Share(1), u64::MAX, u64::MAX / 10_000);
        check(Tolerance::Tasks(9), 7, 7);
        check(Tolerance::Tasks(9), 70, 9);
    }
}
