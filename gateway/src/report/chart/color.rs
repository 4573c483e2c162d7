// SPDX-License-Identifier: Apache-2.0
//! Colours: one for each name, or a ramp for amounts.
//!
//! The palette keeps its hues apart for the common kinds of colour blindness
//! by lightness as well. Pure.

use serde_json::Value;

use super::{
    scale::{Names, number},
    spec::{Channel, Kind},
};

const PALETTE: [&str; 10] = [
    "#2f6fb0", "#e08a2e", "#3f9a56", "#b8434f", "#8468b8", "#7d5a3c", "#d07ab0", "#6b7785", "#a8a132",
    "#39a3ad",
];
const RAMP: [[f64; 3]; 3] = [[222.0, 235.0, 247.0], [94.0, 155.0, 206.0], [16.0, 62.0, 120.0]];

/// How a layer's colours are chosen.
#[derive(Clone, Debug)]
pub enum Colors {
    /// One for each name, in order.
    Names(Names),
    /// A ramp between two amounts.
    Ramp(f64, f64),
}

impl Colors {
    /// The colour of a mark with this value.
    pub fn of(&self, value: Option<&Value>) -> String {
        match (self, value) {
            (Self::Names(names), Some(value)) => nth(names.place(value).unwrap_or_default()).to_owned(),
            (Self::Ramp(from, to), Some(value)) => {
                let share = number(value, false).map_or(0.0, |value| (value - from) / (to - from));
                ramp(share)
            }
            (_, None) => "#9aa4ae".to_owned(),
        }
    }
}

/// A ramp over all values of a channel.
pub fn ramp_over(channel: &Channel, values: &[&Value]) -> Colors {
    let numbers = values.iter().filter_map(|value| number(value, channel.kind == Kind::Temporal));
    let (low, high) = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), n| (l.min(n), h.max(n)));
    if low < high { Colors::Ramp(low, high) } else { Colors::Ramp(low - 1.0, low + 1.0) }
}

/// The colour of the nth name.
pub fn nth(index: usize) -> &'static str {
    PALETTE[index % PALETTE.len()]
}

/// A colour of the ramp; 0 is light, 1 is dark.
pub fn ramp(share: f64) -> String {
    let share = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let lower = (share.floor() as usize).min(RAMP.len() - 2);
    let part = share - lower as f64;
    let mixed = [0, 1, 2].map(|i| (RAMP[lower][i] * (1.0 - part) + RAMP[lower + 1][i] * part).round() as u8);
    format!("#{:02x}{:02x}{:02x}", mixed[0], mixed[1], mixed[2])
}

/// A colour of the author's, if it is nothing but a colour.
pub fn checked(color: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '#' | '(' | ')' | ',' | '.' | '%' | ' ');
    let good = color.len() <= 64 && color.chars().all(plain) && !color.to_ascii_lowercase().contains("url");
    good.then(|| color.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_nothing_but_colours() {
        assert_eq!(checked("steelblue").as_deref(), Some("steelblue"));
        assert_eq!(checked("rgb(1, 2, 3)").as_deref(), Some("rgb(1, 2, 3)"));
        assert_eq!(checked("url(http://x)"), None);
        assert_eq!(checked("red;x:y"), None);
        assert_eq!((ramp(0.0).as_str(), ramp(1.0).as_str()), ("#deebf7", "#103e78"));
        assert_eq!(ramp(9.0), ramp(1.0));
    }
}
