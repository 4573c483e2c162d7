// SPDX-License-Identifier: Apache-2.0
//! Literals: how they are read, and how exact numbers go from one unit to another.

use super::{
    bind::{Raw, Unit},
    expr::Position,
    invalid,
    kind::Kind,
    quote,
};
use crate::{Problem, stored::value};

/// Digits of the widest exact numbers.
pub(super) const DIGITS_MAX: u8 = 38;
/// Nanoseconds.
const INSTANT_SCALE_MAX: u8 = 9;
/// Seconds of a day.
pub const DAY_SECONDS: i128 = 86_400;

/// A number as it is written, without the zeros at its end.
pub(super) fn number(digits: &str, at: Position) -> Result<(Option<Kind>, Raw), Problem> {
    let float = || match digits.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((Some(Kind::FLOAT), Raw::Float(number))),
        _ => Err(invalid(at, "a number", &quote(digits))),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let (Ok(units), Ok(scale)) = (format!("{whole}{fraction}").parse::<i128>(), u8::try_from(fraction.len()))
    else {
        return float();
    };
    let precision = units.unsigned_abs().checked_ilog10().map_or(1, |log| log as u8 + 1).max(scale);
    if precision > DIGITS_MAX {
        return float();
    }
    Ok((Some(Kind::Exact { precision, scale }), Raw::Exact(units)))
}

/// A date, or a moment in the coarsest units that hold it.
pub(super) fn moment(text: &str, at: Position) -> Result<(Option<Kind>, Raw), Problem> {
    if let Some(days) = value::date(text.as_bytes()) {
        return Ok((Some(Kind::Date), Raw::Exact(i128::from(days))));
    }
    let Some(moment) = value::moment(text.as_bytes()) else {
        return Err(invalid(at, "a date YYYY-MM-DD or a timestamp YYYY-MM-DD hh:mm:ss", &quote(text)));
    };
    let (mut units, mut scale) =
        (i128::from(moment.seconds) * 1_000_000_000 + i128::from(moment.nanos), INSTANT_SCALE_MAX);
    while scale >= 3 && units % 1_000 == 0 {
        (units, scale) = (units / 1_000, scale - 3);
    }
    Ok((Some(Kind::Instant { scale }), Raw::Exact(units)))
}

/// Units of a kind as those of a domain.
pub(super) fn rescale(units: i128, kind: Option<&Kind>, unit: Unit, scale: u8) -> Option<i128> {
    let (own, units) = match kind {
        Some(Kind::Exact { scale, .. } | Kind::Instant { scale }) => (*scale, units),
        Some(Kind::Date) if unit == Unit::Second => (0, units.checked_mul(DAY_SECONDS)?),
        _ => (0, units),
    };
    units.checked_mul(10_i128.checked_pow(u32::from(scale.checked_sub(own)?))?)
}

/// The nearest 64-bit number to an exact literal.
pub(super) fn as_float(units: i128, kind: Option<&Kind>) -> f64 {
    let scale = match kind {
        Some(Kind::Exact { scale, .. }) => *scale,
        _ => 0,
    };
    // The standard library rounds the decimal text once.
    format!("{units}e-{scale}").parse().unwrap_or(units as f64)
}
