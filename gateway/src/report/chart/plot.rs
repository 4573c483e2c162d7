// SPDX-License-Identifier: Apache-2.0
//! Laying out a chart: which values there are, and the scales that hold them.
//!
//! Layers share their scales. Pure; [`super::draw`] and [`super::axis`] use what
//! is decided here.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{
    channel::short,
    color::{self, Colors},
    pile,
    scale::{Bands, Line, Names, Scale, Wish, key, number},
    spec::{Channel, Chart, Kind, Layer, Mark, Row, Sort, Source, Unsupported, no, shortened},
};

/// Widths and heights of plots whose author gave none.
const LINE_WIDTH: f64 = 420.0;
const LINE_HEIGHT: f64 = 240.0;
const BAND_WIDTH: f64 = 34.0;
const BAND_HEIGHT: f64 = 22.0;
/// More names than this along an axis, or side by side, make no picture.
const NAMES_MAX: usize = 400;
/// More than this nobody tells apart by colour.
const COLORS_MAX: usize = 2_000;

/// The two directions of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// To the right.
    X,
    /// Upwards.
    Y,
}

/// A chart with its scales.
pub struct Plot<'a> {
    /// What is drawn.
    pub chart: &'a Chart,
    /// Pixels.
    pub width: f64,
    /// Pixels.
    pub height: f64,
    /// Along x; none when no layer has one.
    pub x: Option<Scale>,
    /// Along y.
    pub y: Option<Scale>,
    /// The channel that colours are for, and the colours.
    pub series: Option<(&'a Channel, Colors)>,
    /// The names of bars that stand side by side.
    pub offsets: Names,
}

impl Layer {
    /// The channels of an axis.
    pub fn channels(&self, axis: Axis) -> (Option<&Channel>, Option<&Channel>) {
        match axis {
            Axis::X => (self.x.as_ref(), self.x2.as_ref()),
            Axis::Y => (self.y.as_ref(), self.y2.as_ref()),
        }
    }

    /// The axis along which bars and areas measure.
    pub fn measure(&self) -> Axis {
        let discrete = |channel: &Option<Channel>| channel.as_ref().is_none_or(|c| c.kind == Kind::Discrete);
        let is = |channel: &Option<Channel>, kind: Kind| channel.as_ref().is_some_and(|c| c.kind == kind);
        let binned = self.y.as_ref().is_some_and(|y| y.binned);
        // Beside amounts a moment says where, not how much, unless it reaches to another one.
        let dated = is(&self.y, Kind::Temporal) && self.y2.is_none() && is(&self.x, Kind::Quantitative);
        if (discrete(&self.y) || binned || dated) && !discrete(&self.x) { Axis::X } else { Axis::Y }
    }

    /// The other axis: where they stand.
    pub fn across(&self) -> Axis {
        if self.measure() == Axis::X { Axis::Y } else { Axis::X }
    }
}

/// Lays out a chart.
pub fn lay_out(chart: &Chart) -> Result<Plot<'_>, Unsupported> {
    chart.layers.iter().try_for_each(pile::check)?;
    let offsets = match chart.layers.iter().find_map(|layer| layer.offset.as_ref()) {
        Some(channel) => names(chart, channel, |layer| layer.offset.as_ref(), None, NAMES_MAX)?,
        None => Names::default(),
    };
    let (x, width) = scale(chart, Axis::X, chart.width, offsets.all().len())?;
    let (y, height) = scale(chart, Axis::Y, chart.height, 0)?;
    let series = match chart.layers.iter().find_map(|layer| layer.series.as_ref()) {
        Some(channel) if channel.kind == Kind::Discrete => {
            let names = names(chart, channel, |layer| layer.series.as_ref(), None, COLORS_MAX)?;
            let mut ranges = chart.layers.iter().filter_map(|layer| Some(&layer.series.as_ref()?.range));
            let range = ranges.find(|range| !range.is_empty()).cloned().unwrap_or_default();
            Some((channel, Colors::Names { names, range }))
        }
        Some(channel) => {
            let moments = channel.kind == Kind::Temporal;
            for (channel, rows) in chart.layers.iter().filter_map(|l| Some((l.series.as_ref()?, &l.rows))) {
                readable(channel, rows, moments)?;
            }
            let all = values(chart, |layer| layer.series.as_ref());
            Some((channel, color::ramp_over(channel, &all)))
        }
        None => None,
    };
    Ok(Plot { chart, width, height, x, y, series, offsets })
}

fn scale(
    chart: &Chart,
    axis: Axis,
    size: Option<f64>,
    groups: usize,
) -> Result<(Option<Scale>, f64), Unsupported> {
    let first = chart.layers.iter().find_map(|layer| layer.channels(axis).0);
    let Some(first) = first else {
        return Ok((None, size.unwrap_or(if axis == Axis::X { 60.0 } else { 40.0 })));
    };
    if first.kind == Kind::Discrete {
        let mixed = |layer: &Layer| layer.channels(axis).0.is_some_and(|c| c.kind != Kind::Discrete);
        if chart.layers.iter().any(mixed) {
            return Err(Unsupported(
                "layers with names and amounts on one axis are not drawn here".to_owned(),
            ));
        }
        let names = names(chart, first, |layer| layer.channels(axis).0, Some(axis), NAMES_MAX)?;
        let count = names.all().len().max(1) as f64;
        let length = size.unwrap_or(match axis {
            Axis::X => (count * BAND_WIDTH.max(groups as f64 * 16.0)).clamp(160.0, 960.0),
            Axis::Y => count * BAND_HEIGHT,
        });
        return Ok((Some(Scale::Bands(Bands::new(names, length))), length));
    }
    let length = size.unwrap_or(if axis == Axis::X { LINE_WIDTH } else { LINE_HEIGHT });
    Ok((Some(Scale::Line(line(chart, axis, first, length)?)), length))
}

fn line(chart: &Chart, axis: Axis, first: &Channel, length: f64) -> Result<Line, Unsupported> {
    let moments = first.kind == Kind::Temporal;
    let log = chart.layers.iter().any(|layer| layer.channels(axis).0.is_some_and(|channel| channel.log));
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let flipped = axis == Axis::Y;
    let given =
        first.domain.as_ref().map(|domain| ends(&mut domain.iter().filter_map(|v| number(v, moments))));
    let given = given.filter(|(low, high)| low < high);
    let mut all = Vec::new();
    let mut measured = false;
    for layer in &chart.layers {
        let (one, two) = layer.channels(axis);
        one.into_iter().chain(two).try_for_each(|channel| readable(channel, &layer.rows, moments))?;
        if matches!(layer.mark, Mark::Bar | Mark::Area) && layer.measure() == axis {
            measured = true;
            // Where bars begin is no value, and neither logarithmic scales nor moments have a place for it.
            let begins = (log || moments) && two.is_none();
            let ends = |(low, high): (f64, f64)| [if begins && low == 0.0 { high } else { low }, high];
            all.extend(layer.spans().into_iter().flatten().flat_map(ends));
            continue;
        }
        let channels = one.into_iter().chain(two);
        all.extend(
            channels.flat_map(|c| {
                layer.rows.iter().filter_map(|row| c.of(row)).filter_map(|v| number(v, moments))
            }),
        );
    }
    // Bars that a logarithmic scale leaves out are missed where there are no others.
    let none_left = all.is_empty() && {
        let mut values = values(chart, |layer| layer.channels(axis).0).into_iter();
        values.any(|value| number(value, moments).is_some_and(|amount| amount <= 0.0))
    };
    let (least, most) = ends(&mut all.into_iter());
    let zero = given.is_none() && !log && first.zero.unwrap_or(!moments && (measured || !first.binned));
    let (low, high) = match given {
        Some(ends) => ends,
        None if least > most => {
            let from = first.ends[0].or(first.ends[1]).unwrap_or(f64::from(u8::from(log)));
            (from, from.max(1.0))
        }
        // The smallest bar has a length as well: it begins at the power of ten below it.
        None if log && measured => {
            (10_f64.powf((least.log10() - 1.0).ceil()).max(f64::MIN_POSITIVE).min(most), most)
        }
        None if zero && first.ends != [None; 2] => (least.min(0.0), most.max(0.0)),
        None => (least, most),
    };
    let (low, high) = (first.ends[0].unwrap_or(low), first.ends[1].unwrap_or(high));
    if log && (none_left || low.min(least) <= 0.0) {
        return Err(no("a logarithmic scale of values of zero or less"));
    }
    if low > high {
        return Err(no("a scale that would end before it begins, by its \"domainMin\" or \"domainMax\""));
    }
    let exact = given.is_some() || first.binned || first.ends != [None; 2];
    Ok(Line::new(low, high, length, Wish { zero, exact, log, moments, flipped }))
}

/// Refuses a column none of whose values has a place on a line or a ramp: all of it would be missing.
fn readable(channel: &Channel, rows: &[Row], moments: bool) -> Result<(), Unsupported> {
    let mut values = rows.iter().filter_map(|row| channel.of(row)).peekable();
    let Some(first) = values.peek().copied() else { return Ok(()) };
    if values.any(|value| number(value, moments).is_some()) {
        return Ok(());
    }
    let what = match &channel.source {
        Source::Field(field) => format!("the column {:?}", shortened(field)),
        Source::Fixed(_) => "a fixed value".to_owned(),
    };
    let expected =
        if moments { "dates and times of ISO 8601, or milliseconds since 1970" } else { "numbers" };
    Err(Unsupported(format!("{what} is not drawn here: expected {expected}, found {}", short(first))))
}

fn values<'a>(chart: &'a Chart, channel: impl Fn(&'a Layer) -> Option<&'a Channel>) -> Vec<&'a Value> {
    let of_layer = |layer: &'a Layer| {
        let channel = channel(layer);
        layer.rows.iter().filter_map(move |row| channel?.of(row))
    };
    chart.layers.iter().flat_map(of_layer).collect()
}

/// The names of a channel in their order; more than so many are not drawn.
fn names<'a>(
    chart: &'a Chart,
    first: &'a Channel,
    channel: impl Fn(&'a Layer) -> Option<&'a Channel>,
    axis: Option<Axis>,
    most: usize,
) -> Result<Names, Unsupported> {
    let mut found: Vec<&Value> = match &first.domain {
        Some(domain) => domain.iter().collect(),
        None => {
            let mut seen = HashSet::new();
            values(chart, channel).into_iter().filter(|value| seen.insert(key(value))).collect()
        }
    };
    if found.len() > most {
        let what = if axis.is_some() { "an axis" } else { "a chart with colours or bars side by side" };
        return Err(Unsupported(format!(
            "{what} of {} names is not drawn here, at most {most} are",
            found.len()
        )));
    }
    if first.domain.is_some() {
        return Ok(Names::new(&found));
    }
    match &first.sort {
        Sort::Data => {}
        Sort::Ascending => found.sort_by(|a, b| compare(a, b)),
        Sort::Descending => found.sort_by(|a, b| compare(b, a)),
        Sort::Given(order) => {
            let order = Names::new(&order.iter().collect::<Vec<_>>());
            found.sort_by_key(|value| order.place(value).unwrap_or(usize::MAX));
        }
        Sort::ByOther(descending) => sort_by_other(chart, first, axis, *descending, &mut found),
    }
    Ok(Names::new(&found))
}

fn sort_by_other(chart: &Chart, first: &Channel, axis: Option<Axis>, descending: bool, found: &mut [&Value]) {
    let other = if axis == Some(Axis::Y) { Axis::X } else { Axis::Y };
    let Source::Field(_) = first.source else { return };
    let mut sums: HashMap<String, f64> = HashMap::new();
    for layer in &chart.layers {
        let Some(amounts) = layer.channels(other).0 else { continue };
        for row in layer.rows.iter() {
            let amount = amounts.of(row).and_then(|value| number(value, amounts.kind == Kind::Temporal));
            if let (Some(named), Some(amount)) = (first.of(row), amount) {
                *sums.entry(key(named)).or_default() += amount;
            }
        }
    }
    let sum = |value: &Value| sums.get(&key(value)).copied().unwrap_or_default();
    found.sort_by(|a, b| if descending { sum(b).total_cmp(&sum(a)) } else { sum(a).total_cmp(&sum(b)) });
}

/// Numbers by size, and after them everything else by its text.
fn compare(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (None, None) => key(a).cmp(&key(b)),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::chart::spec::read;

    fn chart(mark: &str, encoding: Value) -> Chart {
        let values = json!([
            {"g": "b", "s": "u", "n": 2}, {"g": "a", "s": "u", "n": 6}, {"g": "b", "s": "v", "n": 4}, {"g": "b", "s": "w", "n": -1}
        ]);
        read(&json!({"mark": mark, "data": {"values": values}, "encoding": encoding})).unwrap()
    }

    fn names_of(chart: &Chart) -> Vec<String> {
        match lay_out(chart).unwrap().x {
            Some(Scale::Bands(bands)) => bands.names().to_vec(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn names_stand_in_the_order_asked_for() {
        let check = |sort: Value, expected: &[&str]| {
            let encoding = json!({"x": {"field": "g", "type": "nominal", "sort": sort}, "y": {"field": "n", "type": "quantitative"}});
            assert_eq!(names_of(&chart("bar", encoding)), expected, "{sort}");
        };
        check(json!("ascending"), &["a", "b"]);
        check(json!("descending"), &["b", "a"]);
        check(Value::Null, &["b", "a"]);
        check(json!(["b"]), &["b", "a"]);
        check(json!("-y"), &["a", "b"]);
        check(json!("y"), &["b", "a"]);
    }

    #[test]
    fn numbers_come_before_names_in_any_mixture() {
        let mixed = [json!("1x"), json!(10), json!(2), json!("b"), json!(1.5)];
        let mut sorted: Vec<&Value> = mixed.iter().collect();
        sorted.sort_by(|a, b| compare(a, b));
        assert_eq!(json!(sorted), json!([1.5, 2, 10, "1x", "b"]));
    }

    #[test]
    fn the_smallest_bars_of_all_have_a_logarithmic_scale() {
        let log = json!({"field": "n", "type": "quantitative", "scale": {"type": "log"}});
        let values = json!([{"n": 5e-324}]);
        let bars = json!({"mark": "bar", "data": {"values": values}, "encoding": {"y": log}});
        assert_eq!(lay_out(&read(&bars).unwrap()).err().map(|error| error.to_string()), None);
    }

    #[test]
    fn columns_without_a_value_to_draw_are_told() {
        let laid_out = |encoding: Value| {
            let values = json!([{"t": null, "n": 1}, {"t": "soon", "n": 2}, {"t": "late", "n": 3, "ns": 1_700_000_000_000_000_000_u64}]);
            let chart =
                read(&json!({"mark": "point", "data": {"values": values}, "encoding": encoding})).unwrap();
            lay_out(&chart).err().map(|error| error.to_string())
        };
        let n = json!({"field": "n", "type": "quantitative"});
        let t = |kind: &str| json!({"field": "t", "type": kind});
        let moments = "expected dates and times of ISO 8601, or milliseconds since 1970, found";
        let of_t = |found: &str| Some(format!("the column \"t\" is not drawn here: {found} \"soon\""));
        assert_eq!(laid_out(json!({"x": t("temporal"), "y": n})), of_t(moments));
        assert_eq!(laid_out(json!({"x": n, "y": t("quantitative")})), of_t("expected numbers, found"));
        assert_eq!(laid_out(json!({"x": n, "color": t("temporal")})), of_t(moments));
        let ns = json!({"field": "ns", "type": "temporal"});
        let found = format!("the column \"ns\" is not drawn here: {moments} 1700000000000000000");
        assert_eq!(laid_out(json!({"x": ns})), Some(found));
        // Some that can be drawn are, and so is a column without any.
        assert_eq!(laid_out(json!({"x": {"field": "n", "type": "temporal"}, "y": n})), None);
        assert_eq!(laid_out(json!({"x": {"field": "none", "type": "temporal"}, "y": n})), None);
    }

    #[test]
    fn bars_on_a_logarithmic_scale_begin_below_the_smallest() {
        let chart = |mark: &str, values: Value, scale: Value| {
            let y = json!({"field": "n", "type": "quantitative", "scale": scale});
            let encoding = json!({"x": {"field": "g", "type": "nominal"}, "y": y, "color": {"field": "g"}});
            read(&json!({"mark": mark, "data": {"values": values}, "encoding": encoding})).unwrap()
        };
        let rows = |ns: &[f64]| ns.iter().map(|n| json!({"g": "a", "n": n})).collect::<Value>();
        let log = json!({"type": "log"});
        for mark in ["bar", "area"] {
            let bars = chart(mark, rows(&[10.0, 1000.0]), log.clone());
            assert_eq!(bars.layers[0].spans(), [Some((0.0, 10.0)), Some((0.0, 1000.0))]);
            let Some(Scale::Line(line)) = lay_out(&bars).unwrap().y else { panic!("no line") };
            let places = [1.0, 10.0, 100.0, 1000.0].map(|n| (line.at(n) / LINE_HEIGHT * 3.0).round() as i32);
            assert_eq!((places, line.base()), ([3, 2, 1, 0], LINE_HEIGHT));
        }
        let empty = chart("bar", json!([]), log.clone());
        assert!(matches!(lay_out(&empty).unwrap().y, Some(Scale::Line(_))));
        // Bars that have no place there are left out.
        let mixed = chart("bar", rows(&[-5.0, 0.0, 1000.0]), log.clone());
        assert_eq!(mixed.layers[0].spans(), [None, None, Some((0.0, 1000.0))]);
        let Some(Scale::Line(line)) = lay_out(&mixed).unwrap().y else { panic!("no line") };
        assert_eq!(line.at(100.0), LINE_HEIGHT);
        let refused = |chart: Chart| {
            let error = lay_out(&chart).err().unwrap().to_string();
            assert_eq!(error, "a logarithmic scale of values of zero or less is not drawn here");
        };
        let others = [("area", 0.0, log.clone()), ("point", 0.0, log)];
        let ends = [json!({"type": "log", "domain": [0, 10]}), json!({"type": "log", "domainMin": 0})];
        for (mark, low, scale) in others.into_iter().chain(ends.map(|scale| ("bar", 5.0, scale))) {
            refused(chart(mark, rows(&[low, 5.0]), scale));
        }
        refused(chart("bar", rows(&[-5.0, 0.0]), json!({"type": "log"})));
    }

    #[test]
    fn an_end_of_an_axis_stands_in_for_that_of_its_values() {
        let check = |mark: &str, ns: [f64; 2], scale: Value, ends: [f64; 2]| {
            let values = json!(ns.map(|n| json!({"g": n, "n": n})));
            let y = json!({"field": "n", "type": "quantitative", "scale": scale});
            let encoding = json!({"x": {"field": "g", "type": "nominal"}, "y": y});
            let chart = json!({"mark": mark, "data": {"values": values}, "encoding": encoding});
            let chart = read(&chart).unwrap();
            let Some(Scale::Line(line)) = lay_out(&chart).unwrap().y else { panic!("no line") };
            assert_eq!(ends.map(|end| line.at(end)), [LINE_HEIGHT, 0.0], "{mark} {scale}");
        };
        check("bar", [3.0, 7.0], json!({"domainMax": 9.5}), [0.0, 9.5]);
        check("point", [3.0, 7.0], json!({"domainMin": 2.5, "zero": false}), [2.5, 7.0]);
        check("point", [3.0, 7.0], json!({"domainMin": -1, "domainMax": 5}), [-1.0, 5.0]);
        check("point", [3.0, 7.0], json!({"domain": [0, 5], "domainMax": 10}), [0.0, 10.0]);
        check("bar", [10.0, 500.0], json!({"type": "log", "domainMin": 0.1}), [0.1, 500.0]);
        check("point", [0.0, 0.0], json!({"domainMin": 0}), [-1.0, 1.0]);
        let of = |values: Value, scale: Value| {
            let y = json!({"field": "n", "type": "quantitative", "scale": scale});
            let spec = json!({"mark": "point", "data": {"values": values}, "encoding": {"y": y}});
            lay_out(&read(&spec).unwrap()).err().map(|error| error.to_string())
        };
        let turned = of(json!([{"n": 3}]), json!({"domainMin": 4})).unwrap();
        assert!(turned.contains("end before it begins"), "{turned}");
        assert_eq!(of(json!([]), json!({"domainMin": 4})), None);
    }

    #[test]
    fn charts_that_are_too_large_are_told() {
        let values: Vec<_> = (0..=NAMES_MAX).map(|n| json!({"g": format!("{n}"), "n": 1})).collect();
        let spec = json!({"mark": "bar", "data": {"values": values}, "encoding": {"x": {"field": "g", "type": "nominal"}}});
        let chart = read(&spec).unwrap();
        assert!(lay_out(&chart).err().unwrap().to_string().contains("401 names"));
        let values: Vec<_> = (0..=COLORS_MAX).map(|n| json!({"n": n})).collect();
        let colored = |kind: &str| {
            let channel = json!({"field": "n", "type": "quantitative"});
            let encoding = json!({"x": channel, "color": {"field": "n", "type": kind}});
            read(&json!({"mark": "point", "data": {"values": values}, "encoding": encoding})).unwrap()
        };
        assert!(lay_out(&colored("nominal")).err().unwrap().to_string().contains("2001 names"));
        assert!(matches!(lay_out(&colored("quantitative")).unwrap().series, Some((_, Colors::Ramp { .. }))));
    }
}
