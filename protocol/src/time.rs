// SPDX-License-Identifier: Apache-2.0
//! The one door to the wall clock.
//!
//! Time is an argument everywhere else: planning, splitting and folding take
//! none, leases run on the monotonic clock, and what is written down (a job's
//! submission, an object's date) is read here once and passed on.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time passed from `earlier` to this, or none when the clock went back.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This much later.
    pub fn later(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(whole_ms(span)))
    }

    /// This much earlier, from 1970 on.
    pub fn earlier(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(whole_ms(span)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds; dates by Howard Hinnant's
    /// `civil_from_days` algorithm.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let z = days + 719_468;
        let (era, day_of_era) = (z / 146_097, z % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
    }
}

/// The wall clock now. Zero when the clock stands before 1970.
#[allow(clippy::disallowed_methods, reason = "this is the one door to the wall clock")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(whole_ms(since))
}

/// The whole milliseconds of a span, as documents and limits count it.
pub fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_added_and_told() {
        let (begun, span) = (Timestamp(1_000), Duration::from_secs(2));
        assert_eq!(begun.later(span), Timestamp(3_000));
        assert_eq!(begun.later(span).since(begun), span);
        assert_eq!(begun.later(Duration::MAX), Timestamp(u64::MAX));
    }

    #[test]
    fn timestamps_print_as_rfc_3339() {
        let check = |ms, text: &str| assert_eq!(Timestamp(ms).to_string(), text);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(1_767_225_599_999, "2025-12-31T23:59:59.999Z");
        check(1_795_348_496_007, "2026-11-22T11:54:56.007Z");
    }
}
