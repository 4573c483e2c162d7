// SPDX-License-Identifier: Apache-2.0
//! Numbers as people read them: with the digits that tell one from its neighbours, and few more.
//!
//! Pure. What tells values apart is [`super::scale::key`]; nothing here does.

use fanfold_protocol::shown::count;

/// More digits than this behind the point of a number with a unit, and it is written in full.
const SHORT_DIGITS_MAX: usize = 6;
/// More than this a number does not have.
const DIGITS_MAX: i32 = 15;

/// A number with as many digits as the step between neighbours needs, and with few where there is
/// no step: with M or G from a million on, with an exponent where it is very large or small.
pub fn plain(value: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let last = (step > 0.0 && step.is_finite()).then(|| place(step));
    let digits =
        |power: i32, few: usize| last.map_or(few, |last| (power - last).clamp(0, DIGITS_MAX) as usize);
    let size = value.abs();
    let (power, unit) = match size {
        size if !(1e-4..1e12).contains(&size) => (place(size), ""),
        size if size >= 1e9 => (9, "G"),
        size if size >= 1e6 => (6, "M"),
        _ => return trimmed(value, digits(0, 4)),
    };
    let behind = digits(power, 2);
    if behind > SHORT_DIGITS_MAX && (1e6..1e15).contains(&size) {
        return grouped(&trimmed(value, digits(0, 0)));
    }
    match unit {
        "" => scientific(value, behind),
        unit => format!("{}{unit}", trimmed(value / 10_f64.powi(power), behind)),
    }
}

/// The power of ten of the first digit of an amount above zero.
fn place(amount: f64) -> i32 {
    (amount.log10() + 1e-9).floor() as i32
}

/// A number with an exponent, and so many digits behind its point at most.
pub fn scientific(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    match text.split_once('e') {
        Some((digits, power)) => format!("{}e{power}", without_zeros(digits)),
        None => text,
    }
}

/// Numbers of five digits and more before their point get the thousands set apart.
pub fn grouped(text: &str) -> String {
    let (sign, size) = text.strip_prefix('-').map_or(("", text), |size| ("-", size));
    let (whole, fraction) = size.split_at(size.find('.').unwrap_or(size.len()));
    match whole.parse::<u64>() {
        Ok(number) if number >= 10_000 => format!("{sign}{}{fraction}", count(number)),
        _ => text.to_owned(),
    }
}

/// A number with so many digits behind its point at most.
pub fn trimmed(value: f64, digits: usize) -> String {
    without_zeros(&format!("{value:.digits$}")).to_owned()
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// The part of d3's number formats that charts of results use: `%`, `f`, `d` and `e` with a
/// precision. What others ask for is written as if they had not.
pub fn formatted(value: f64, format: &str, step: f64) -> String {
    let kind = format.chars().last().unwrap_or_default();
    let precision: Option<usize> = format
        .split_once('.')
        .and_then(|(_, rest)| rest.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok())
        .filter(|precision| *precision <= 12);
    match kind {
        '%' | 'p' => format!("{:.*}%", precision.unwrap_or(0), value * 100.0),
        'f' => format!("{value:.*}", precision.unwrap_or(2)),
        'd' => format!("{value:.0}"),
        'e' => format!("{value:.*e}", precision.unwrap_or(2)),
        _ => grouped(&plain(value, step)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_followed() {
        assert_eq!(formatted(0.256, ".1%", 0.1), "25.6%");
        assert_eq!(formatted(1.0, "%", 0.1), "100%");
        assert_eq!(formatted(2.5, ".2f", 0.1), "2.50");
        assert_eq!(formatted(1_700_000_020.0, "s", 20.0), "1,700,000,020");
    }

    #[test]
    fn numbers_have_the_digits_that_their_step_needs() {
        let check = |value: f64, step: f64, text: &str| assert_eq!(plain(value, step), text);
        check(1234.5678, 0.0, "1234.5678");
        check(1_234_567.0, 0.0, "1.23M");
        check(1_234_567.0, 1e4, "1.23M");
        check(1_234_567.0, 1.0, "1.234567M");
        check(1_234_567.5, 0.5, "1,234,567.5");
        check(-1_700_000_020.0, 20.0, "-1,700,000,020");
        check(1.5e12, 1e11, "1.5e12");
        check(123_456_789_012_345.0, 1.0, "123,456,789,012,345");
        check(1.000_000_000_1e15, 1e5, "1.0000000001e15");
        check(0.000_012_345_6, 1e-9, "1.2346e-5");
        check(0.5, 1e-9, "0.5");
        check(0.500_000_001, 1e-9, "0.500000001");
        check(1e-300, f64::INFINITY, "1e-300");
    }
}
