// SPDX-License-Identifier: Apache-2.0
//! Colours: one for each name, or a ramp for amounts.
//!
//! The palette keeps its hues apart for the common kinds of colour blindness
//! by lightness as well. Pure.

use std::cmp::Ordering;

use serde_json::Value;

use super::{
    moment::DAY_MS,
    scale::{Names, held, number},
    spec::{Channel, Kind},
};

const PALETTE: [&str; 10] = [
    "#2f6fb0", "#e08a2e", "#3f9a56", "#b8434f", "#8468b8", "#7d5a3c", "#d07ab0", "#6b7785", "#a8a132",
    "#39a3ad",
];
/// Of what has no colour of its own.
const GREY: &str = "#9aa4ae";
/// Stops between two ends, as red, green and blue.
type Ramp = [[f64; 3]; 3];
/// More is darker on a light page and lighter on a dark one, where the other end of each is what fades.
const ON_LIGHT: Ramp = [[222.0, 235.0, 247.0], [94.0, 155.0, 206.0], [16.0, 62.0, 120.0]];
const ON_DARK: Ramp = [[84.0, 146.0, 200.0], [140.0, 192.0, 232.0], [232.0, 243.0, 252.0]];

/// A colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Color {
    /// What it is, unless a dark page has another.
    pub usual: String,
    /// What it is on a dark page, if that is another.
    pub on_dark: Option<String>,
}

impl From<&str> for Color {
    fn from(color: &str) -> Self {
        Self { usual: color.to_owned(), on_dark: None }
    }
}

/// How a layer's colours are chosen.
#[derive(Clone, Debug)]
pub enum Colors {
    /// One for each name, in order.
    Names {
        /// The names.
        names: Names,
        /// The author's colours, in turn; ours where there are none.
        range: Vec<String>,
    },
    /// A ramp between two amounts or moments.
    Ramp {
        /// The smaller one, which fades.
        from: f64,
        /// The larger one.
        to: f64,
        /// Values are milliseconds since 1970.
        moments: bool,
    },
}

impl Colors {
    /// The colour of a mark with this value; grey without one, and where the scale does not have it.
    pub fn of(&self, value: Option<&Value>) -> Color {
        let own = value.and_then(|value| match self {
            Self::Names { names, range } => names.place(value).map(|place| in_turn(range, place).into()),
            Self::Ramp { from, to, moments } => {
                number(value, *moments).map(|value| ramp((held(value) - from) / (to - from)))
            }
        });
        own.unwrap_or_else(|| GREY.into())
    }
}

/// A ramp over all values of a channel, or between the ends that its author gave.
pub fn ramp_over(channel: &Channel, values: &[&Value]) -> Colors {
    let moments = channel.kind == Kind::Temporal;
    let given: Option<Vec<&Value>> = channel.domain.as_ref().map(|domain| domain.iter().collect());
    let values = given.as_deref().unwrap_or(values);
    let numbers = values.iter().filter_map(|value| number(value, moments)).map(held);
    let (low, high) = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), n| (l.min(n), h.max(n)));
    let [from, to] = channel.ends;
    let (low, high) = (from.map_or(low, held), to.map_or(high, held));
    // One value stands in the middle; the room around it has to be more than its last digit.
    let room = (if moments { 2.0 * DAY_MS } else { 1.0_f64 }).max(low.abs() * 1e-9);
    let (from, to) = match low.partial_cmp(&high) {
        Some(Ordering::Less) => (low, high),
        // So does an end beyond which all values are.
        _ if low.is_finite() => (low - room, low + room),
        _ => (0.0, 1.0),
    };
    Colors::Ramp { from, to, moments }
}

/// The colour of the nth name, of the author's if there are any.
pub fn in_turn(range: &[String], index: usize) -> &str {
    if range.is_empty() { nth(index) } else { &range[index % range.len()] }
}

/// The nth of our own.
pub fn nth(index: usize) -> &'static str {
    PALETTE[index % PALETTE.len()]
}

/// A colour of the ramp; 0 fades, 1 stands out.
pub fn ramp(share: f64) -> Color {
    Color { usual: mixed(&ON_LIGHT, share), on_dark: Some(mixed(&ON_DARK, share)) }
}

fn mixed(ramp: &Ramp, share: f64) -> String {
    let share = share.clamp(0.0, 1.0) * (ramp.len() - 1) as f64;
    let lower = (share.floor() as usize).min(ramp.len() - 2);
    let part = share - lower as f64;
    let mixed = [0, 1, 2].map(|i| (ramp[lower][i] * (1.0 - part) + ramp[lower + 1][i] * part).round() as u8);
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
    use serde_json::json;

    use super::*;
    use crate::report::chart::channel;

    fn over(members: Value, values: Value) -> Colors {
        let mut channel = json!({"field": "a", "type": "quantitative"});
        channel.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let channel = channel::read("color", &channel, None, &[]).unwrap();
        ramp_over(&channel, &values.as_array().unwrap().iter().collect::<Vec<_>>())
    }

    #[test]
    fn amounts_and_moments_have_places_on_their_ramp() {
        let check = |members: Value, values: Value, value: Value, share: f64| {
            assert_eq!(over(members, values).of(Some(&value)), ramp(share), "{value}");
        };
        let days = json!({"type": "temporal"});
        check(days.clone(), json!(["2026-01-01", "2026-01-05"]), json!("2026-01-02T00:00:00Z"), 0.25);
        check(days, json!(["2026-01-01"]), json!("2026-01-01"), 0.5);
        check(json!({}), json!([1, 5]), json!(5), 1.0);
        check(json!({}), json!([7]), json!(7), 0.5);
        check(json!({}), json!([1e308]), json!(1e308), 0.5);
        check(json!({}), json!([-1e308, 1e308]), json!(0), 0.5);
        check(json!({}), json!([]), json!(1), 1.0);
        check(json!({"scale": {"domain": [0, 10]}}), json!([4, 6]), json!(5), 0.5);
        let from = |end: f64| json!({"scale": {"domainMin": end}});
        check(from(0.0), json!([4, 8]), json!(4), 0.5);
        check(from(9.0), json!([4, 8]), json!(8), 0.0);
        check(from(9.0), json!([]), json!(9), 0.5);
        check(json!({"scale": {"domainMax": 10}}), json!([0, 5]), json!(5), 0.5);
        assert_eq!(over(json!({}), json!([1, 2])).of(Some(&json!("x"))), GREY.into());
    }

    #[test]
    fn names_that_are_not_on_the_scale_are_grey() {
        let names = Names::new(&[&json!("a"), &json!("b")]);
        let colors = Colors::Names { names: names.clone(), range: Vec::new() };
        assert_eq!(colors.of(Some(&json!("b"))), nth(1).into());
        assert_eq!((colors.of(Some(&json!("c"))), colors.of(None)), (GREY.into(), GREY.into()));
        // Fewer colours than names come again.
        let colors = Colors::Names { names, range: vec!["red".to_owned()] };
        assert_eq!(["a", "b", "c"].map(|name| colors.of(Some(&json!(name))).usual), ["red", "red", GREY]);
    }

    #[test]
    fn colours_are_nothing_but_colours() {
        assert_eq!(checked("steelblue").as_deref(), Some("steelblue"));
        assert_eq!(checked("rgb(1, 2, 3)").as_deref(), Some("rgb(1, 2, 3)"));
        assert_eq!(checked("url(http://x)"), None);
        assert_eq!(checked("red;x:y"), None);
        assert_eq!((ramp(0.0).usual.as_str(), ramp(1.0).usual.as_str()), ("#deebf7", "#103e78"));
        assert_eq!(ramp(9.0), ramp(1.0));
    }

    /// Red, green and blue of what is written as `#rrggbb`.
    fn parts(color: &str) -> [f64; 3] {
        [1, 3, 5].map(|at| f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()))
    }

    /// The relative luminance of WCAG 2.2.
    fn luminance(parts: [f64; 3]) -> f64 {
        let [red, green, blue] = parts.map(|part| match part / 255.0 {
            part if part <= 0.040_45 => part / 12.92,
            part => ((part + 0.055) / 1.055).powf(2.4),
        });
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    /// The contrast that WCAG 2.2 (1.4.11) asks of what is drawn, to what is behind it.
    #[test]
    fn marks_stand_out_from_a_dark_page() {
        let style = include_str!("../page.css");
        let (_, dark) = style.split_once("prefers-color-scheme: dark").unwrap();
        let (_, paper) = dark.split_once("--paper: ").unwrap();
        let paper = parts(&paper[..7]);
        let mut before = 0.0;
        for step in 0..=100 {
            let color = ramp(f64::from(step) / 100.0).on_dark.unwrap();
            // Areas let through what is behind them.
            for opacity in [1.0, 0.7] {
                let mark = parts(&color);
                let seen = [0, 1, 2].map(|i| mark[i] * opacity + paper[i] * (1.0 - opacity));
                let contrast = (luminance(seen) + 0.05) / (luminance(paper) + 0.05);
                assert!(contrast >= 3.0, "{color} at {opacity}: {contrast}");
            }
            let light = luminance(parts(&color));
            assert!(light >= before, "{color}");
            before = light;
        }
    }
}
