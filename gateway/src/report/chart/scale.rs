// SPDX-License-Identifier: Apache-2.0
//! From values to places: amounts along a line, names in bands.
//!
//! Pure. Ticks are multiples of 1, 2 or 5 times a power of ten, and the ends of
//! a scale are ticks unless its author set them.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use serde_json::Value;

use super::{
    digits::{formatted, grouped, plain},
    moment,
};

/// Ticks aimed at.
const TICKS: f64 = 6.0;
/// Powers of ten that have a tick each; of more, some do.
const POWERS_MAX: i32 = 12;
/// Amounts beyond this are laid out as if they were this, and what is smaller than its
/// inverse as zero: all that is computed from two of them is a number.
const AMOUNT_MAX: f64 = 1e300;
/// Share of a band that is left between two of them.
const GAP: f64 = 0.15;

/// How values of an axis are laid out.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Amounts or moments.
    Line(Line),
    /// Names, each with a band.
    Bands(Bands),
}

/// Amounts along a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    log: bool,
    moments: bool,
    length: f64,
    flipped: bool,
}

/// Names in bands.
#[derive(Clone, Debug, PartialEq)]
pub struct Bands {
    names: Names,
    length: f64,
}

/// Values in their order with what they are called, each found at once: every mark looks its own up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    all: Vec<String>,
    places: HashMap<String, usize>,
}

impl Names {
    /// These; of equal ones the first counts. Where two would look alike, all are written in full.
    pub fn new(values: &[&Value]) -> Self {
        let (mut places, mut distinct) = (HashMap::new(), Vec::new());
        for value in values {
            if let Entry::Vacant(free) = places.entry(key(value)) {
                free.insert(distinct.len());
                distinct.push(*value);
            }
        }
        let mut all: Vec<String> = distinct.iter().map(|value| name(value)).collect();
        if all.iter().collect::<HashSet<_>>().len() < all.len() {
            all = distinct.iter().map(|value| key(value)).collect();
        }
        Self { all, places }
    }

    /// What all of them are called.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// How many come before this one.
    pub fn place(&self, value: &Value) -> Option<usize> {
        self.places.get(&key(value)).copied()
    }
}

/// What a line must hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Zero is on it.
    pub zero: bool,
    /// The ends are given: no rounding.
    pub exact: bool,
    /// Logarithmic.
    pub log: bool,
    /// Values are milliseconds since 1970.
    pub moments: bool,
    /// Large values come first: the y axis of a picture.
    pub flipped: bool,
}

impl Line {
    /// A line that holds values from `low` to `high`.
    pub fn new(low: f64, high: f64, length: f64, wish: Wish) -> Self {
        let log = wish.log && low > 0.0;
        let hold = |end: f64| if log { end.clamp(1.0 / AMOUNT_MAX, AMOUNT_MAX) } else { held(end) };
        let (low, high) = (hold(low), hold(high));
        let (mut low, mut high) = match wish.zero && !log && !wish.exact {
            true => (low.min(0.0), high.max(0.0)),
            false => (low, high),
        };
        if low >= high {
            // One value: some room on both sides of it.
            let room = match low.abs() {
                size if wish.moments => (2.0 * moment::DAY_MS).max(size * 1e-9),
                0.0 => 1.0,
                size => size * 0.5,
            };
            (low, high) = if log { (low / 10.0, low * 10.0) } else { (low - room, high + room) };
        }
        let step = step(low, high);
        let (mut from, mut to) = (low, high);
        if !wish.exact && !wish.moments && !log {
            (from, to) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        }
        let ticks = match (log, wish.moments) {
            (true, _) => log_ticks(low, high),
            (_, true) => moment::ticks(from, to, (high - low) / (TICKS + 1.0)),
            _ => ticks(from, to, step),
        };
        Self { from, to, ticks, log, moments: wish.moments, length, flipped: wish.flipped }
    }

    /// The place of an amount.
    pub fn at(&self, value: f64) -> f64 {
        let value = held(value);
        let share = match self.log {
            true => (value.max(1.0 / AMOUNT_MAX).ln() - self.from.ln()) / (self.to.ln() - self.from.ln()),
            false => (value - self.from) / (self.to - self.from),
        };
        self.length * if self.flipped { 1.0 - share } else { share }
    }

    /// Where bars begin: zero, or the end nearest to it.
    pub fn base(&self) -> f64 {
        self.at(if self.log { self.from } else { 0.0_f64.clamp(self.from, self.to) })
    }

    /// Places of ticks with what they say.
    pub fn labels(&self, format: Option<&str>) -> Vec<(f64, String)> {
        let text = |(index, tick): (usize, &f64)| match (self.moments, format) {
            (true, _) => moment::label(*tick, self.to - self.from),
            (false, Some(format)) => formatted(*tick, format, self.nearest(index)),
            (false, None) => grouped(&plain(*tick, self.nearest(index))),
        };
        self.ticks.iter().enumerate().map(|tick| (self.at(*tick.1), text(tick))).collect()
    }

    /// How far a tick's nearest neighbour is; without one it is infinitely far.
    fn nearest(&self, index: usize) -> f64 {
        let around = &self.ticks[index.saturating_sub(1)..self.ticks.len().min(index + 2)];
        around.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min)
    }
}

impl Bands {
    /// A band for each name.
    pub fn new(names: Names, length: f64) -> Self {
        Self { names, length }
    }

    /// The names in order.
    pub fn names(&self) -> &[String] {
        self.names.all()
    }

    /// The middle of each band with its name.
    pub fn labels(&self) -> impl Iterator<Item = (f64, &str)> {
        let step = self.step();
        self.names().iter().enumerate().map(move |(place, name)| (step * (place as f64 + 0.5), name.as_str()))
    }

    /// The start of a value's band, without the gap, and its width.
    pub fn band(&self, value: &Value) -> Option<(f64, f64)> {
        let (start, step) = self.cell(value)?;
        Some((start + step * GAP / 2.0, step * (1.0 - GAP)))
    }

    /// The start of a value's band and its width, up to the next one.
    pub fn cell(&self, value: &Value) -> Option<(f64, f64)> {
        let place = self.names.place(value)?;
        Some((self.step() * place as f64, self.step()))
    }

    fn step(&self) -> f64 {
        self.length / self.names().len() as f64
    }
}

impl Scale {
    /// The middle of the place of a value.
    pub fn center(&self, value: &Value) -> Option<f64> {
        match self {
            Self::Line(line) => number(value, line.moments).map(|number| line.at(number)),
            Self::Bands(bands) => bands.cell(value).map(|(start, width)| start + width / 2.0),
        }
    }
}

/// An amount that can be calculated with.
pub fn held(amount: f64) -> f64 {
    if amount.abs() < 1.0 / AMOUNT_MAX { 0.0 } else { amount.clamp(-AMOUNT_MAX, AMOUNT_MAX) }
}

/// A value as an amount; a moment as milliseconds since 1970.
pub fn number(value: &Value, moment: bool) -> Option<f64> {
    match value {
        Value::Number(number) if moment => number.as_f64().filter(|ms| ms.abs() <= moment::MS_MAX),
        Value::Number(number) => number.as_f64(),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::String(text) if moment => moment::parse(text),
        _ => None,
    }
}

/// What tells a value from all others. A number has its own text here, however many digits that are.
pub fn key(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let text = number.to_string();
            // It is the same number with and without a point, and one zero of either sign.
            match text.strip_suffix(".0").unwrap_or(&text) {
                "-0" => "0".to_owned(),
                text => text.to_owned(),
            }
        }
        other => other.to_string(),
    }
}

/// What a value is called in words and tooltips: short, so that two may be called the same.
pub fn name(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => plain(float, 0.0),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn step(low: f64, high: f64) -> f64 {
    let raw = (high - low) / TICKS;
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

fn ticks(low: f64, high: f64, step: f64) -> Vec<f64> {
    if !step.is_finite() || step <= 0.0 {
        return vec![low, high];
    }
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|n| n as f64 * step).collect()
}

fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let every = 1 + (last - first) / POWERS_MAX;
    let all = (first..=last).step_by(every.unsigned_abs() as usize).map(|power| 10_f64.powi(power));
    let inside: Vec<f64> = all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect();
    if inside.len() >= 2 { inside } else { ticks(low, high, step(low, high)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ticks_are_round() {
        let check = |low, high, expected: &[&str]| {
            let line = Line::new(low, high, 100.0, Wish { zero: true, ..Wish::default() });
            let found: Vec<_> = line.labels(None).into_iter().map(|(_, text)| text).collect();
            assert_eq!(found, expected, "{low} to {high}");
        };
        check(0.0, 1.0, &["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        check(3.0, 97.0, &["0", "20", "40", "60", "80", "100"]);
        check(-5.0, 7.0, &["-6", "-4", "-2", "0", "2", "4", "6", "8"]);
        check(0.0, 2_000_000.0, &["0", "500,000", "1M", "1.5M", "2M"]);
        check(0.0, 0.00003, &["0", "5e-6", "1e-5", "1.5e-5", "2e-5", "2.5e-5", "3e-5"]);
    }

    #[test]
    fn ticks_are_told_apart_however_close() {
        let labels = |low: f64, high: f64, log: bool| {
            let line = Line::new(low, high, 100.0, Wish { log, ..Wish::default() });
            line.labels(None).into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        let check = |low: f64, high: f64, expected: &[&str]| assert_eq!(labels(low, high, false), expected);
        check(
            1_700_000_000.0,
            1_700_000_060.0,
            &[
                "1,700,000,000",
                "1,700,000,010",
                "1,700,000,020",
                "1,700,000,030",
                "1,700,000,040",
                "1,700,000,050",
                "1,700,000,060",
            ],
        );
        check(
            -2_000_001.0,
            -2_000_000.0,
            &["-2,000,001", "-2,000,000.8", "-2,000,000.6", "-2,000,000.4", "-2,000,000.2", "-2,000,000"],
        );
        check(1.7e9, 1.7012e9, &["1.7G", "1.7002G", "1.7004G", "1.7006G", "1.7008G", "1.701G", "1.7012G"]);
        assert_eq!(labels(1e5, 1e10, true), ["100,000", "1M", "10M", "100M", "1G", "10G"]);
        assert_eq!(labels(1e-6, 1e-2, true), ["1e-6", "1e-5", "0.0001", "0.001", "0.01"]);
        for low in [1.0, 0.5, 1e-5, 1e-9, 1e6, 3e8, 1e12, 2e14, 1e16] {
            for share in [1e-12, 1e-9, 1e-6, 1e-3, 1.0] {
                for sign in [1.0_f64, -1.0] {
                    let (one, two) = (sign * low, sign * low * (1.0 + share));
                    let mut all = labels(one.min(two), one.max(two), false);
                    let count = all.len();
                    all.dedup();
                    assert!(count > 2 && all.len() == count, "{low} and {share} more: {all:?}");
                }
            }
        }
    }

    #[test]
    fn places_are_within_the_plot() {
        let line = Line::new(0.0, 10.0, 200.0, Wish { flipped: true, ..Wish::default() });
        assert_eq!((line.at(0.0), line.at(10.0), line.base()), (200.0, 0.0, 200.0));
        let log = Line::new(1.0, 100.0, 100.0, Wish { log: true, ..Wish::default() });
        assert!((log.at(10.0) - 50.0).abs() < 1e-9);
        let wide = Line::new(5e-324, 1e9, 100.0, Wish { log: true, ..Wish::default() });
        assert_eq!(wide.at(5e-324), 0.0);
        let one = Line::new(5.0, 5.0, 100.0, Wish::default());
        assert!((0.0..=100.0).contains(&one.at(5.0)));
        let day = Line::new(1.7e12, 1.7e12, 100.0, Wish { moments: true, ..Wish::default() });
        assert_eq!((day.at(1.7e12), day.at(1.7e12 + 2.0 * moment::DAY_MS)), (50.0, 100.0));
        let bands = Bands::new(names(json!(["a", "b"])), 100.0);
        assert_eq!(bands.cell(&json!("b")), Some((50.0, 50.0)));
        assert_eq!(bands.band(&json!("c")), None);
        assert_eq!(bands.labels().collect::<Vec<_>>(), [(25.0, "a"), (75.0, "b")]);
    }

    fn names(values: Value) -> Names {
        Names::new(&values.as_array().unwrap().iter().collect::<Vec<_>>())
    }

    #[test]
    fn values_are_told_apart_by_all_their_digits() {
        let twice = names(json!(["a", "b", "a"]));
        assert_eq!((twice.place(&json!("a")), twice.place(&json!("b"))), (Some(0), Some(1)));
        assert_eq!(twice.all(), ["a", "b"]);
        let near = names(json!([1_700_000_000.0, 1_700_000_060.0]));
        assert_eq!(near.place(&json!(1_700_000_060_u64)), Some(1));
        assert_eq!(near.all(), ["1700000000", "1700000060"]);
        assert_eq!(names(json!([0.30000000000000004, 2.0])).all(), ["0.3", "2"]);
        assert_eq!(names(json!([0.0, -0.0, 0])).all(), ["0"]);
        assert_eq!(names(json!([1.5e300, true, [1]])).place(&json!(true)), Some(1));
    }

    #[test]
    fn any_amount_has_a_place_and_few_ticks() {
        let edges = [f64::MIN, -1.0, 0.0, 5e-324, 1e-301, 1.0, 1e308, f64::MAX];
        for (low, high) in edges.iter().flat_map(|low| edges.map(|high| (*low, high))) {
            for (log, moments) in [(false, false), (true, false), (false, true)] {
                let wish = Wish { log, moments, ..Wish::default() };
                let line = Line::new(low.min(high), low.max(high), 100.0, wish);
                let labels = line.labels(None);
                let places = labels.iter().map(|(at, _)| *at).chain(edges.map(|edge| line.at(edge)));
                assert!(labels.len() < 20, "{low} to {high}: {}", labels.len());
                assert!(
                    places.clone().all(f64::is_finite),
                    "{low} to {high}: {:?}",
                    places.collect::<Vec<_>>()
                );
            }
        }
        let decades = Line::new(1.0, 1e6, 100.0, Wish { log: true, ..Wish::default() });
        assert_eq!(decades.labels(None).len(), 7);
    }

    #[test]
    fn values_have_short_names() {
        assert_eq!(name(&json!(3)), "3");
        assert_eq!(name(&json!(0.25)), "0.25");
        assert_eq!(name(&json!("x")), "x");
    }
}
