// SPDX-License-Identifier: Apache-2.0
//! Texts as values: one parser for each family of types, for CSV, JSON and the
//! literals of filters.
//!
//! Spaces around numbers, dates and truth values are passed over; nothing else
//! is forgiven. A parser answers `None` for what it does not take and has no
//! side effects, so inference asks the same parsers that reading uses.

use std::ops::Range;

/// A whole number, such as `42`, `-7`, `+3`; also `3.0`, as programs write
/// integers of columns in which values are missing.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = sign(text.trim_ascii());
    let digits = whole_part(digits)?;
    if digits.len() > 18 {
        let text = str::from_utf8(digits).ok()?;
        let magnitude: i128 = text.parse().ok()?;
        return i64::try_from(if negative { -magnitude } else { magnitude }).ok();
    }
    let magnitude = plain_digits(digits)?;
    Some(if negative { -magnitude } else { magnitude })
}

/// A whole number of the unsigned 64-bit range.
pub fn unsigned(text: &[u8]) -> Option<u64> {
    let (negative, digits) = sign(text.trim_ascii());
    let value: u64 = str::from_utf8(whole_part(digits)?).ok()?.parse().ok()?;
    (!negative || value == 0).then_some(value)
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    }
}

/// The digits before a fraction of nothing but zeros, if there is one.
fn whole_part(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let whole = match rest.split_first() {
        None => true,
        Some((b'.', zeros)) => !zeros.is_empty() && zeros.iter().all(|b| *b == b'0'),
        Some(_) => false,
    };
    (whole && !digits.is_empty()).then_some(digits)
}

/// Up to 18 digits.
fn plain_digits(digits: &[u8]) -> Option<i64> {
    let mut value = 0_i64;
    for b in digits {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
    }
    (!digits.is_empty()).then_some(value)
}

/// Powers of ten that are exact as 64-bit floating point.
const POWERS: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// A floating-point number, correctly rounded. Up to 15 digits with a fraction
/// are one exact division (Clinger, How to read floating point numbers
/// accurately, 1990); the rest is left to the standard library.
pub fn float(text: &[u8]) -> Option<f64> {
    let text = text.trim_ascii();
    let (negative, rest) = sign(text);
    let (mut mantissa, mut digits, mut fraction) = (0_u64, 0_usize, None);
    for b in rest {
        match b {
            b'0'..=b'9' if digits < 15 => {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(b - b'0'));
                digits += 1;
            }
            b'.' if fraction.is_none() => fraction = Some(digits),
            _ => return str::from_utf8(text).ok()?.parse().ok(),
        }
    }
    if digits == 0 {
        return None;
    }
    let value = mantissa as f64 / POWERS.get(fraction.map_or(0, |at| digits - at))?;
    Some(if negative { -value } else { value })
}

/// The number at a range of a text, as [`float`] has it, looked at all at once if it
/// is short.
#[inline]
pub fn float_in(text: &[u8], range: Range<usize>) -> Option<f64> {
    match short(text, &range) {
        Some((digits, behind)) => Some(digits as f64 / POWERS[behind]),
        None => float(&text[range]),
    }
}

/// The whole number at a range of a text, as [`integer`] has it.
#[inline]
pub fn integer_in(text: &[u8], range: Range<usize>) -> Option<i64> {
    match short(text, &range) {
        Some((digits, 0)) => Some(digits as i64),
        _ => integer(&text[range]),
    }
}

/// All eight bytes of a word as one.
const fn eight(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The digits at a range of a text as one number, and how many of them stand behind
/// a point, if there is nothing else and they end it; up to eight bytes, which are
/// looked at as one word, so that the text must have eight up to there.
///
/// Sources: Warren, Hacker's Delight, 6-1 (a byte in a word); Lemire, "Number parsing
/// at a gigabyte per second", Software: Practice and Experience 51, 2021 (eight digits).
#[inline]
fn short(text: &[u8], range: &Range<usize>) -> Option<(u64, usize)> {
    let unused = 8_usize.checked_sub(range.len()).filter(|unused| *unused < 8)? * 8;
    let word = u64::from_le_bytes(*text[..range.end].last_chunk()?);
    // Zeros before the first digit change nothing.
    let word = (word >> unused << unused) | (eight(b'0') & !(u64::MAX << unused));
    let apart = word ^ eight(b'.');
    let points = !(((apart & eight(0x7f)) + eight(0x7f)) | apart | eight(0x7f));
    let (mut word, mut behind) = (word, 0);
    if points != 0 {
        let place = points.trailing_zeros() & !7;
        let before = (1 << place) - 1;
        behind = 7 - place as usize / 8;
        word = (word & !(before << 8 | 0xff)) | ((word & before) << 8) | u64::from(b'0');
    }
    let digits = word.wrapping_sub(eight(b'0'));
    if (digits.wrapping_add(eight(0x76)) | digits) & eight(0x80) != 0 || text[range.end - 1] == b'.' {
        return None;
    }
    // Digits to numbers below 100, these to numbers below 10,000, and these to one.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let first = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let second = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    Some((first.wrapping_add(second) >> 32, behind))
}

/// `true` or `false`, in any case.
pub fn truth(text: &[u8]) -> Option<bool> {
    let text = text.trim_ascii();
    if text.eq_ignore_ascii_case(b"true") {
        Some(true)
    } else if text.eq_ignore_ascii_case(b"false") {
        Some(false)
    } else {
        None
    }
}

/// Days since 1970-01-01 of a date `YYYY-MM-DD` (ISO 8601, Gregorian).
pub fn date(text: &[u8]) -> Option<i32> {
    let text: &[u8; 10] = text.trim_ascii().try_into().ok()?;
    let [y @ .., b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let (year, month, day) = (plain_digits(y)?, plain_digits(&[*m1, *m2])?, plain_digits(&[*d1, *d2])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    ((1..=length).contains(&day)).then(|| days_from_civil(year, month, day))
}

/// Hinnant, chrono-Compatible Low-Level Date Algorithms: `days_from_civil`, for
/// years from 0.
fn days_from_civil(year: i64, month: i64, day: i64) -> i32 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era - 719_468) as i32
}

/// A moment: seconds since 1970-01-01T00:00:00Z, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Whole seconds.
    pub seconds: i64,
    /// The fraction.
    pub nanos: u32,
    /// Whether a zone was given; without one UTC is meant.
    pub zoned: bool,
    /// Digits of the fraction of a second.
    pub digits: usize,
}

/// A date, or a date and time `YYYY-MM-DDThh:mm[:ss[.f]]` (also with a space),
/// followed by nothing, `Z`, or an offset such as `+01:00` (RFC 3339).
pub fn moment(text: &[u8]) -> Option<Moment> {
    let text = text.trim_ascii();
    let (day, rest) = text.split_at_checked(10)?;
    let mut moment = Moment { seconds: i64::from(date(day)?) * 86_400, nanos: 0, zoned: false, digits: 0 };
    let Some((b'T' | b't' | b' ', rest)) = rest.split_first() else {
        return rest.is_empty().then_some(moment);
    };
    let (clock, mut rest) = rest.split_at_checked(5)?;
    let [h1, h2, b':', m1, m2] = clock else { return None };
    moment.seconds +=
        below(plain_digits(&[*h1, *h2])?, 24)? * 3_600 + below(plain_digits(&[*m1, *m2])?, 60)? * 60;
    if let [b':', s1, s2, tail @ ..] = rest {
        moment.seconds += below(plain_digits(&[*s1, *s2])?, 60)?;
        rest = tail;
        if let [b'.', tail @ ..] = rest {
            let digits = tail.iter().take_while(|b| b.is_ascii_digit()).count();
            let value = if (1..=9).contains(&digits) { plain_digits(&tail[..digits])? } else { return None };
            moment.nanos = (value * 10_i64.pow(9 - digits as u32)) as u32;
            moment.digits = digits;
            rest = &tail[digits..];
        }
    }
    if !rest.is_empty() {
        moment.seconds -= offset(rest)?;
        moment.zoned = true;
    }
    Some(moment)
}

fn below(value: i64, bound: i64) -> Option<i64> {
    (value < bound).then_some(value)
}

/// Seconds that a zone is ahead of UTC.
fn offset(text: &[u8]) -> Option<i64> {
    let (ahead, digits) = match text {
        [b'Z' | b'z'] => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let minutes = match digits {
        [h1, h2] => below(plain_digits(&[*h1, *h2])?, 24)? * 60,
        [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => {
            below(plain_digits(&[*h1, *h2])?, 24)? * 60 + below(plain_digits(&[*m1, *m2])?, 60)?
        }
        _ => return None,
    };
    Some(ahead * minutes * 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_numbers() {
        for (text, value) in [
            ("0", 0),
            ("-12", -12),
            (" +7 ", 7),
            ("3.00", 3),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["", "-", "1.5", "1.", ".0", "1e3", "0x1", "9223372036854775808", "１", "1 2"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!((unsigned(b"-1"), unsigned(b"-0")), (None, Some(0)));
    }

    #[test]
    fn dates_and_moments() {
        assert_eq!(date(b"1970-01-01"), Some(0));
        assert_eq!(date(b"2024-02-29"), Some(19_782));
        assert_eq!(date(b"0000-03-01"), Some(-719_468));
        for text in
            ["2023-02-29", "2024-13-01", "2024-00-01", "2024-01-32", "24-01-01", "2024/01/01", "2024-01-0a"]
        {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
        let at = |text: &str| moment(text.as_bytes()).map(|m| (m.seconds, m.nanos, m.zoned));
        assert_eq!(at("1970-01-02"), Some((86_400, 0, false)));
        assert_eq!(at("1970-01-01 00:00:01.5"), Some((1, 500_000_000, false)));
        assert_eq!(at("1970-01-01T01:00:00+01:00"), Some((0, 0, true)));
        assert_eq!(at("1970-01-01T00:00Z"), Some((0, 0, true)));
        for text in [
            "1970-01-01T",
            "1970-01-01T24:00",
            "1970-01-01T00:00:00.",
            "1970-01-01T00:00:00X",
            "1970-01-01T00:60",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_the_standard_library_reads_them(text in "[-+]?[0-9]{0,18}(\\.[0-9]{0,18})?(e-?[0-9]{1,3})?") {
            prop_assert_eq!(float(text.as_bytes()).map(f64::to_bits), text.parse::<f64>().ok().map(f64::to_bits));
        }

        #[test]
        fn numbers_within_a_text_are_no_others(before in "[0-9.]{0,9}", text in "[0-9]{0,5}[.]?[0-9]{0,5}|[-+.0-9/:a ]{0,9}") {
            let (whole, range) = (format!("{before}{text},1"), before.len()..before.len() + text.len());
            let (whole, text) = (whole.as_bytes(), text.as_bytes());
            prop_assert_eq!(float_in(whole, range.clone()).map(f64::to_bits), float(text).map(f64::to_bits));
            prop_assert_eq!(integer_in(whole, range), integer(text));
        }

        #[test]
        fn integers_round_trip(value: i64) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Some(value));
        }
    }

    #[test]
    fn days_go_up_one_at_a_time() {
        let mut days = 0;
        for year in 1970..=2401 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            for (month, length) in
                (1..).zip([31, 28 + i32::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
            {
                for day in 1..=length {
                    assert_eq!(date(format!("{year:04}-{month:02}-{day:02}").as_bytes()), Some(days));
                    days += 1;
                }
            }
        }
    }
}
