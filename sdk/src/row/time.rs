// SPDX-License-Identifier: Apache-2.0
//! Dates and timestamps as fields of rows.
//!
//! It owns two thin types over Arrow's own representation, and their ISO 8601
//! text. Invariant: no time zone is guessed; a timestamp counts from
//! 1970-01-01T00:00:00Z.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A calendar day: days since 1970-01-01, as Arrow's `Date32`.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// assert_eq!(Date(0).to_string(), "1970-01-01");
/// assert_eq!(Date::from_ymd(2026, 11, 3).map(|d| d.ymd()), Some((2026, 11, 3)));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Date(pub i32);

/// A moment: microseconds since 1970-01-01T00:00:00Z, as Arrow's
/// `Timestamp(Microsecond, None)`.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// assert_eq!(Timestamp(86_400_000_001).to_string(), "1970-01-02T00:00:00.000001Z");
/// assert_eq!(Timestamp(-1).date(), Date(-1));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

const MICROS_PER_DAY: i64 = 86_400_000_000;

impl Date {
    /// The day of a proleptic Gregorian year, month and day; `None` when there
    /// is no such day.
    ///
    /// Source: Neri and Schneider, "Euclidean affine functions and their
    /// application to calendar algorithms", Softw. Pract. Exp. 2023; the simpler
    /// form with years that begin in March.
    pub fn from_ymd(year: i32, month: u32, day: u32) -> Option<Self> {
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let year_march = i64::from(year) - i64::from(month <= 2);
        let era = year_march.div_euclid(400);
        let year_of_era = year_march.rem_euclid(400);
        let month_march = i64::from((month + 9) % 12);
        let day_of_year = (153 * month_march + 2) / 5 + i64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let date = Self(i32::try_from(days).ok()?);
        // The 31st of a shorter month lands in the next one.
        (date.ymd() == (year, month, day)).then_some(date)
    }

    /// Year, month and day of the proleptic Gregorian calendar.
    pub fn ymd(self) -> (i32, u32, u32) {
        let days = i64::from(self.0) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_march + 2) / 5 + 1;
        let month = if month_march < 10 { month_march + 3 } else { month_march - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        (year as i32, month as u32, day as u32)
    }
}

impl Timestamp {
    /// The day in UTC.
    pub fn date(self) -> Date {
        Date(self.0.div_euclid(MICROS_PER_DAY) as i32)
    }

    /// Microseconds since midnight in UTC.
    pub fn micros_of_day(self) -> i64 {
        self.0.rem_euclid(MICROS_PER_DAY)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.ymd();
        match year {
            0..=9_999 => write!(f, "{year:04}")?,
            // With more than four digits, or before year 0, ISO 8601 wants a sign.
            _ => write!(f, "{year:+05}")?,
        }
        write!(f, "-{month:02}-{day:02}")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.micros_of_day();
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        write!(f, "{}T{:02}:{:02}:{:02}", self.date(), seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        if fraction > 0 {
            write!(f, ".{fraction:06}")?;
        }
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_ten_centuries_comes_back() {
        for days in -200_000..200_000 {
            let (year, month, day) = Date(days).ymd();
            assert_eq!(Date::from_ymd(year, month, day), Some(Date(days)));
        }
    }

    #[test]
    fn days_that_are_none_are_refused() {
        for (year, month, day) in [(2023, 2, 29), (2024, 13, 1), (2024, 4, 31), (2024, 1, 0), (1900, 2, 29)] {
            assert_eq!(Date::from_ymd(year, month, day), None);
        }
        assert_eq!(Date::from_ymd(2000, 2, 29), Some(Date(11_016)));
    }

    #[test]
    fn text_is_iso_8601() {
        assert_eq!(Date(20_760).to_string(), "2026-11-03");
        for (year, text) in
            [(0, "0000"), (-1, "-0001"), (9_999, "9999"), (10_000, "+10000"), (-12_345, "-12345")]
        {
            let date = Date::from_ymd(year, 2, 3).unwrap();
            assert_eq!(date.to_string(), format!("{text}-02-03"));
        }
        assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp(1_000_000).to_string(), "1970-01-01T00:00:01Z");
    }
}
