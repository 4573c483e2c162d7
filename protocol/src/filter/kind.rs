// SPDX-License-Identifier: Apache-2.0
//! What values are to a filter.

use std::fmt;

/// What a column holds, as far as comparing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Truth values.
    Boolean,
    /// Numbers that are whole multiples of 10^-`scale`: integers, decimals.
    Exact {
        /// Digits, at most.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// Floating point.
    Float {
        /// Of a number.
        bits: u8,
    },
    /// UTF-8.
    Text,
    /// Days.
    Date,
    /// Moments, in units of 10^-`scale` seconds.
    Instant {
        /// 0 for seconds, to 9 for nanoseconds.
        scale: u8,
    },
    /// What is not compared, by the name of its type.
    Other(String),
}

impl Kind {
    /// Integers of at most 64 bits with a sign.
    pub const INTEGER: Self = Self::Exact { precision: 19, scale: 0 };
    /// 64-bit floating point.
    pub const FLOAT: Self = Self::Float { bits: 64 };
    /// Unsigned 64-bit integers.
    pub const UNSIGNED: Self = Self::Exact { precision: 20, scale: 0 };

    /// Decimals. Of those with 19 digits and no fraction not all are within 64 bits, so that
    /// they are not of the kind of integers.
    pub fn decimal(precision: u8, scale: u8) -> Self {
        match (precision, scale) {
            (19, 0) => Self::UNSIGNED,
            _ => Self::Exact { precision, scale },
        }
    }

    /// What a column of an Arrow type is, by the name of the type; `None` for a name
    /// that is not known here.
    pub fn of_arrow(name: &str) -> Option<Self> {
        if let Some(inner) = name.strip_prefix("Timestamp(") {
            return match inner.split([',', ')']).next()?.trim() {
                "s" | "Second" => Some(Self::Instant { scale: 0 }),
                "ms" | "Millisecond" => Some(Self::Instant { scale: 3 }),
                "µs" | "Microsecond" => Some(Self::Instant { scale: 6 }),
                "ns" | "Nanosecond" => Some(Self::Instant { scale: 9 }),
                _ => None,
            };
        }
        if let Some(("Decimal32" | "Decimal64" | "Decimal128", inner)) = name.split_once('(') {
            let (precision, scale) = inner.strip_suffix(')')?.split_once(',')?;
            let (precision, scale): (u8, u8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            return (scale <= precision).then(|| Self::decimal(precision, scale));
        }
        match name {
            "Boolean" => Some(Self::Boolean),
            "Int8" | "Int16" | "Int32" | "Int64" | "UInt8" | "UInt16" | "UInt32" => Some(Self::INTEGER),
            "UInt64" => Some(Self::UNSIGNED),
            "Float16" => Some(Self::Float { bits: 16 }),
            "Float32" => Some(Self::Float { bits: 32 }),
            "Float64" => Some(Self::FLOAT),
            "Utf8" | "LargeUtf8" | "Utf8View" => Some(Self::Text),
            "Date32" => Some(Self::Date),
            "Date64" => Some(Self::Instant { scale: 3 }),
            _ => None,
        }
    }

    /// Whether moments may become others when they are read as an Arrow type, by its name: without
    /// a zone they are taken for the time of its zone, which need not be UTC, and with one they
    /// become the days of that as `Date64`.
    pub fn shifts(name: &str) -> bool {
        let zone = name.strip_prefix("Timestamp").and_then(|inner| inner.split('"').nth(1));
        name == "Date64" || zone.is_some_and(|zone| !matches!(zone, "UTC" | "+00:00"))
    }

    /// Whether values that are stored as another kind are the same when they are read as this one, so
    /// that their statistics hold: integers of all widths, as are identifiers that a function declares
    /// unsigned, floating point that is widened, and moments in any unit.
    pub(crate) fn keeps(&self, stored: &Self) -> bool {
        match (self, stored) {
            (Self::Exact { scale, .. }, Self::Exact { scale: stored, .. }) => scale == stored,
            (Self::Float { bits }, Self::Float { bits: stored }) => bits >= stored,
            (Self::Instant { .. }, Self::Instant { .. }) => true,
            _ => self == stored,
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Exact { .. } | Self::Float { .. })
    }

    pub(super) fn is_time(&self) -> bool {
        matches!(self, Self::Date | Self::Instant { .. })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("a truth value"),
            Self::Exact { .. } | Self::Float { .. } => f.write_str("a number"),
            Self::Text => f.write_str("a text"),
            Self::Date => f.write_str("a date"),
            Self::Instant { .. } => f.write_str("a timestamp"),
            Self::Other(name) => write!(f, "of type {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_where_none_is_rounded() {
        let check = |read: Kind, stored: Kind, kept: bool, back: bool| {
            assert_eq!((read.keeps(&stored), stored.keeps(&read)), (kept, back), "{read:?} {stored:?}");
        };
        check(Kind::UNSIGNED, Kind::INTEGER, true, true);
        check(Kind::decimal(12, 2), Kind::decimal(10, 2), true, true);
        check(Kind::decimal(12, 3), Kind::decimal(12, 2), false, false);
        check(Kind::FLOAT, Kind::Float { bits: 32 }, true, false);
        check(Kind::FLOAT, Kind::INTEGER, false, false);
        check(Kind::Instant { scale: 6 }, Kind::Instant { scale: 3 }, true, true);
        check(Kind::Instant { scale: 0 }, Kind::Date, false, false);
        check(Kind::Date, Kind::Date, true, true);
    }

    #[test]
    fn declared_types_have_the_kinds_that_the_reader_gives_them() {
        let check = |name: &str, expected: Option<Kind>| assert_eq!(Kind::of_arrow(name), expected, "{name}");
        check("Decimal128(10, 2)", Some(Kind::Exact { precision: 10, scale: 2 }));
        check("Decimal64(18,0)", Some(Kind::Exact { precision: 18, scale: 0 }));
        check("Decimal128(19, 0)", Some(Kind::UNSIGNED));
        check("Date64", Some(Kind::Instant { scale: 3 }));
        for name in ["Decimal128(3, 5)", "Decimal128(10, -2)", "Decimal128(10", "Decimal256(10, 2)"] {
            check(name, None);
        }
    }

    #[test]
    fn moments_shift_in_zones_that_are_not_utc() {
        for name in ["Timestamp(µs, \"+02:00\")", "Timestamp(Second, Some(\"Europe/Berlin\"))", "Date64"] {
            assert!(Kind::shifts(name), "{name}");
        }
        for name in [
            "Timestamp(ns)",
            "Timestamp(Nanosecond, None)",
            "Timestamp(ms, \"UTC\")",
            "Timestamp(Second, Some(\"+00:00\"))",
            "Dictionary(Int32, Utf8)",
            "Date32",
        ] {
            assert!(!Kind::shifts(name), "{name}");
        }
    }
}
