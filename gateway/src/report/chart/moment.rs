// SPDX-License-Identifier: Apache-2.0
//! Moments: read from texts, and written along an axis, both in UTC.
//!
//! Pure. Non-goal: calendars and zones by name; an offset is all that a moment may have.

use fanfold_protocol::time::Timestamp;

/// Milliseconds since 1970 that are moments, on either side: a hundred million days, as in ECMAScript.
/// What is beyond counts something else, such as nanoseconds.
pub const MS_MAX: f64 = 8.64e15;

const SECOND_MS: f64 = 1_000.0;
const MINUTE_MS: f64 = 60.0 * SECOND_MS;
const HOUR_MS: f64 = 60.0 * MINUTE_MS;
/// A day.
pub const DAY_MS: f64 = 24.0 * HOUR_MS;
/// After so many days dates come again, in a year that is larger by [`CYCLE_YEARS`].
const CYCLE_DAYS: i64 = 146_097;
const CYCLE_YEARS: i64 = 400;
/// Steps between ticks that are all of one length.
const STEPS_MS: [f64; 27] = [
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    SECOND_MS,
    2.0 * SECOND_MS,
    5.0 * SECOND_MS,
    15.0 * SECOND_MS,
    30.0 * SECOND_MS,
    MINUTE_MS,
    2.0 * MINUTE_MS,
    5.0 * MINUTE_MS,
    15.0 * MINUTE_MS,
    30.0 * MINUTE_MS,
    HOUR_MS,
    3.0 * HOUR_MS,
    6.0 * HOUR_MS,
    8.0 * HOUR_MS,
    DAY_MS,
    2.0 * DAY_MS,
    7.0 * DAY_MS,
    14.0 * DAY_MS,
];

/// Dates and times of ISO 8601, with an offset or as UTC.
pub fn parse(text: &str) -> Option<f64> {
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, ""));
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month) = (parts.next()??, parts.next().unwrap_or(Some(1))?);
    let day = parts.next().unwrap_or(Some(1))?;
    if !(1..=12).contains(&month) || day < 1 || !(0..=9_999).contains(&year) {
        return None;
    }
    // A day too many would be one of the next month.
    if day > days_from_civil(year + month / 12, month % 12 + 1, 1) - days_from_civil(year, month, 1) {
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

/// Months since the year 0 began, of a moment.
fn month_of(ms: f64) -> i64 {
    let days = (ms / DAY_MS).floor() as i64 + 719_468;
    let day_of_era = days.rem_euclid(CYCLE_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin with March here.
    let month = (5 * day_of_year + 2) / 153 + 2;
    (days.div_euclid(CYCLE_DAYS) * CYCLE_YEARS + year_of_era) * 12 + month
}

/// When a month begins, by its number since the year 0.
fn month_begin(month: i64) -> f64 {
    days_from_civil(month.div_euclid(12), month.rem_euclid(12) + 1, 1) as f64 * DAY_MS
}

/// A moment on an axis that holds so many milliseconds: its date, or on a short axis the time too,
/// and on one of minutes the time with what tells its ticks apart.
pub fn label(ms: f64, span_ms: f64) -> String {
    let ms = ms.clamp(-MS_MAX, MS_MAX).floor() as i64;
    let cycle_ms = CYCLE_DAYS * DAY_MS as i64;
    let text = Timestamp(ms.rem_euclid(cycle_ms).unsigned_abs()).to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    match span_ms {
        span if span < 5.0 * SECOND_MS => return part(11, 23).to_owned(),
        span if span < 5.0 * MINUTE_MS => return part(11, 19).to_owned(),
        span if span < 3.0 * DAY_MS => return format!("{} {}", part(5, 10), part(11, 16)),
        _ => {}
    }
    let year = part(0, 4).parse::<i64>().unwrap_or_default() + CYCLE_YEARS * ms.div_euclid(cycle_ms);
    let width = 4 + usize::from(year < 0);
    format!("{year:0width$}{}", part(4, 10))
}

/// Ticks from one moment to another that are at least so far apart: at full parts of a day, at days,
/// or where months and years begin.
pub fn ticks(from: f64, to: f64, least_ms: f64) -> Vec<f64> {
    let (from, to) = (from.clamp(-MS_MAX, MS_MAX), to.clamp(-MS_MAX, MS_MAX));
    if let Some(step) = STEPS_MS.into_iter().find(|step| *step >= least_ms) {
        let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
        return (first..=last).map(|n| n as f64 * step).collect();
    }
    let months = months(least_ms);
    let (first, last) = (month_of(from).div_euclid(months), month_of(to).div_euclid(months));
    let begins = (first..=last).map(|n| month_begin(n * months));
    begins.filter(|tick| (from..=to).contains(tick)).collect()
}

/// The fewest months that are at least so long: parts of a year, or 1, 2 or 5 times a power of ten of years.
fn months(least_ms: f64) -> i64 {
    // A month may be as short as February.
    let least = (least_ms.min(MS_MAX) / (28.0 * DAY_MS)).ceil() as i64;
    let powers = (0..7).map(|power| 10_i64.pow(power));
    let years = powers.flat_map(|power| [1, 2, 5].map(|factor| 12 * factor * power));
    [1, 3, 6].into_iter().chain(years).find(|months| *months >= least).unwrap_or(12_000_000)
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
        check("2024-02-29", parse("2024-02-28T24:00"));
        check("2026-12-31", parse("2027-01-01").map(|next| next - DAY_MS));
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
            "2026-00-01",
            "2026-01-00",
            "2026-02-29",
            "2026-02-31",
            "1900-02-29",
            "2026-04-31",
            "2026-12-32",
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
    fn ticks_suit_the_axis() {
        let check = |from: &str, to: &str, expected: &[&str]| {
            let (from, to) = (parse(from).unwrap(), parse(to).unwrap());
            let ticks = ticks(from, to, (to - from) / 7.0);
            let labels: Vec<_> = ticks.into_iter().map(|tick| label(tick, to - from)).collect();
            assert_eq!(labels, expected);
        };
        check(
            "2026-01-01T00:00:00.1Z",
            "2026-01-01T00:00:00.3Z",
            &["00:00:00.100", "00:00:00.150", "00:00:00.200", "00:00:00.250", "00:00:00.300"],
        );
        check(
            "2026-01-01T00:00:51",
            "2026-01-01T00:01:11",
            &["00:00:55", "00:01:00", "00:01:05", "00:01:10"],
        );
        check(
            "2026-01-01T00:00",
            "2026-01-02T00:00",
            &["01-01 00:00", "01-01 06:00", "01-01 12:00", "01-01 18:00", "01-02 00:00"],
        );
        check("2026-02-28", "2026-03-02T12:00", &["02-28 00:00", "03-01 00:00", "03-02 00:00"]);
        check(
            "2026-02-27",
            "2026-03-03",
            &["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02", "2026-03-03"],
        );
        check("2026-01-31", "2026-12-31", &["2026-04-01", "2026-07-01", "2026-10-01"]);
        check("2020-01-01", "2026-12-31", &["2020-01-01", "2022-01-01", "2024-01-01", "2026-01-01"]);
        check(
            "0000-01-01",
            "9999-12-31",
            &["0000-01-01", "2000-01-01", "4000-01-01", "6000-01-01", "8000-01-01"],
        );
        // Where there is no moment at all, and where there are most.
        assert_eq!(ticks(1.5, 1.5, 0.0), Vec::<f64>::new());
        let all = ticks(-1e300, 1e300, 1e300);
        assert!((1..9).contains(&all.len()), "{all:?}");
        assert_eq!((month_of(-1.0), month_of(0.0)), (1_970 * 12 - 1, 1_970 * 12));
        for month in [-3_200_000, -1, 0, 1, 2, 24_001, 24_002, 3_300_000] {
            assert_eq!(month_of(month_begin(month)), month);
            assert_eq!(month_of(month_begin(month) - 1.0), month - 1);
        }
    }
}
