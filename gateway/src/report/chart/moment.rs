// SPDX-License-Identifier: Apache-2.0
//! Moments: read from texts, and written along an axis, both in UTC.
//!
//! Pure. Non-goal: calendars and zones by name; an offset is all that a moment may have.

use fanfold_protocol::time::Timestamp;

/// Milliseconds since 1970 that are moments, on either side: a hundred million days, as in ECMAScript.
/// What is beyond counts something else, such as nanoseconds.
pub const MS_MAX: f64 = 8.64e15;

const MINUTE_MS: f64 = 60_000.0;
const HOUR_MS: f64 = 60.0 * MINUTE_MS;
/// A day.
pub const DAY_MS: f64 = 24.0 * HOUR_MS;
/// After so many days dates come again, in a year that is larger by [`CYCLE_YEARS`].
const CYCLE_DAYS: i64 = 146_097;
const CYCLE_YEARS: i64 = 400;

/// Dates and times of ISO 8601, with an offset or as UTC.
pub fn parse(text: &str) -> Option<f64> {
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, ""));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month) = (parts.next()??, parts.next().unwrap_or(Some(1))?);
    let day = parts.next().unwrap_or(Some(1))?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(0..=9_999).contains(&year) {
        return None;
    }
    let since_midnight = match time {
        "" => 0.0,
        time => {
            let (time, offset) = without_offset(time)?;
            time_of_day(time)? - offset
        }
    };
    Some(days_from_civil(year, month, day) as f64 * DAY_MS + since_midnight)
}

/// A time, and the milliseconds by which it is ahead of UTC: `Z`, `+hh`, `+hhmm` or `+hh:mm` at its end.
fn without_offset(time: &str) -> Option<(&str, f64)> {
    if let Some(utc) = time.strip_suffix(['Z', 'z']) {
        return Some((utc.trim_end(), 0.0));
    }
    let Some(at) = time.rfind(['+', '-']) else { return Some((time, 0.0)) };
    let (time, offset) = time.split_at(at);
    let digits = offset[1..].replacen(':', "", 1);
    let number = digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let (hours, minutes) = match digits.len() {
        2 => (number, 0),
        4 => (number / 100, number % 100),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ahead = f64::from(hours) * HOUR_MS + f64::from(minutes) * MINUTE_MS;
    Some((time.trim_end(), if offset.starts_with('-') { -ahead } else { ahead }))
}

/// Milliseconds since midnight of `hh`, `hh:mm` or `hh:mm:ss`, whose last may have a fraction.
fn time_of_day(text: &str) -> Option<f64> {
    // An end of a day is 24:00, and a leap second is the sixtieth.
    let parts = [(25.0, HOUR_MS), (60.0, MINUTE_MS), (61.0, 1_000.0)];
    let mut ms = 0.0;
    for (index, part) in text.split(':').enumerate() {
        let (end, weight) = *parts.get(index)?;
        ms += part.parse::<f64>().ok().filter(|amount| (0.0..end).contains(amount))? * weight;
    }
    Some(ms)
}

/// Days since 1970-01-01, by Howard Hinnant's algorithm of that name.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(CYCLE_YEARS);
    let year_of_era = year - era * CYCLE_YEARS;
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * CYCLE_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A moment on an axis that holds so many milliseconds: its date, or on a short axis the time too.
pub fn label(ms: f64, span_ms: f64) -> String {
    let ms = ms.clamp(-MS_MAX, MS_MAX).floor() as i64;
    let cycle_ms = CYCLE_DAYS * DAY_MS as i64;
    let text = Timestamp(ms.rem_euclid(cycle_ms).unsigned_abs()).to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    if span_ms < 2.0 * DAY_MS {
        return format!("{} {}", part(5, 10), part(11, 16));
    }
    let year = part(0, 4).parse::<i64>().unwrap_or_default() + CYCLE_YEARS * ms.div_euclid(cycle_ms);
    let width = 4 + usize::from(year < 0);
    format!("{year:0width$}{}", part(4, 10))
}

/// The shortest step between ticks that is at least so long, if years are long enough.
pub fn step(least_ms: f64) -> Option<f64> {
    let steps = [
        MINUTE_MS,
        5.0 * MINUTE_MS,
        30.0 * MINUTE_MS,
        HOUR_MS,
        6.0 * HOUR_MS,
        DAY_MS,
        7.0 * DAY_MS,
        30.0 * DAY_MS,
        90.0 * DAY_MS,
        365.25 * DAY_MS,
    ];
    steps.into_iter().find(|step| *step >= least_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(parse(text), expected, "{text}");
        let noon = Some(951_825_600_000.0);
        check("1970-01-02", Some(DAY_MS));
        check("2026", parse("2026-01-01"));
        check("1969-12-31T23:59:59.5Z", Some(-500.0));
        check("1970-01-01T24:00", Some(DAY_MS));
        for same in [
            "2000-02-29T12:00:00Z",
            "2000-02-29t12:00:00z",
            "2000-02-29 12:00",
            "2000-02-29T12:00:00+00:00",
            "2000-02-29T12:00:00-00:00",
            "2000-02-29T14:00:00.000+02:00",
            "2000-02-29 14:00:00 +0200",
            "2000-02-29T17:30+05:30",
            "2000-02-29T00:00:00-12",
            "2000-03-01T01:00:00+13:00",
        ] {
            check(same, noon);
        }
        for none in [
            "soon",
            "2026-13-01",
            "2026-01-01Tnan",
            "2026-01-01T1e308",
            "2026-01-01T25:00",
            "2026-01-01T12:00:00+5",
            "2026-01-01T12:00:00+24:00",
            "2026-01-01T12:00:00+01:60",
            "2026-01-01T12:00:00+0é",
            "2026-01-01T12:00:00 CET",
            "2026-01-01T12:00:00:00",
        ] {
            check(none, None);
        }
    }

    #[test]
    fn moments_are_written_on_both_sides_of_1970() {
        let long = |text: &str| assert_eq!(label(parse(text).unwrap(), 3.0 * DAY_MS), text);
        ["1970-01-01", "1969-12-31", "1600-02-29", "0000-01-01", "2026-07-31"].into_iter().for_each(long);
        let short = |text: &str| label(parse(text).unwrap(), DAY_MS);
        assert_eq!(short("1969-12-31T23:59:59.999"), "12-31 23:59");
        assert_eq!(short("2026-03-01T00:30Z"), "03-01 00:30");
        assert_eq!(label(-MS_MAX, MS_MAX), "-271821-04-20");
        assert_eq!(label(1e300, 1e300), "275760-09-13");
        assert_eq!(label(-62_198_755_200_000.0, MS_MAX), "-0001-01-01");
    }

    #[test]
    fn steps_suit_the_axis() {
        assert_eq!(
            (step(1.0), step(DAY_MS), step(8.0 * DAY_MS)),
            (Some(MINUTE_MS), Some(DAY_MS), Some(30.0 * DAY_MS))
        );
        assert_eq!(step(1e300), None);
    }
}
