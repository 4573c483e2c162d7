// SPDX-License-Identifier: Apache-2.0
//! From where to where bars and areas reach, and which are put on each other.
//!
//! Pure; [`super::plot`] lays out what is found here and [`super::draw`] draws it.

use std::collections::HashMap;

use super::{
    plot::Axis,
    scale::{held, key, number},
    spec::{Channel, Kind, Layer, Mark, Row, Stack, Unsupported, no},
};

/// What tells a pile from others: its place, and which one it is of those side by side there.
type Place = (String, String);

impl Layer {
    /// From where to where each row's bar or area reaches, along its measure.
    pub fn spans(&self) -> Vec<Option<(f64, f64)>> {
        let (Some(from), to) = self.channels(self.measure()) else { return vec![None; self.rows.len()] };
        let moments = from.kind == Kind::Temporal;
        let amount = |channel: &Channel, row: &Row| number(channel.of(row)?, moments);
        let stack = self.stack(from, to);
        let totals = if stack == Stack::Normalize { self.totals(from) } else { HashMap::new() };
        let mut piles: HashMap<(Place, bool), f64> = HashMap::new();
        // A logarithmic scale has no place for it, and a bar that reaches there is left out.
        let is_off = |value: f64| from.log && self.mark == Mark::Bar && value <= 0.0;
        let span = |row: &Row| {
            let value = amount(from, row).filter(|value| !is_off(*value))?;
            if let Some(to) = to {
                return Some((value, amount(to, row).filter(|value| !is_off(*value))?));
            }
            if stack == Stack::Off {
                return Some((0.0, value));
            }
            // What has no place is not drawn, and nothing stands on it.
            let place = self.pile(row)?;
            let height = match totals.get(&place) {
                // Of nothing there are no shares.
                Some(total) => Some(held(value) / total).filter(|share| share.is_finite())?,
                None => value,
            };
            let pile = piles.entry((place, value < 0.0)).or_default();
            let below = *pile;
            *pile += height;
            Some((below, *pile))
        };
        self.rows.iter().map(span).collect()
    }

    /// What the author says, or else what differs in colour alone: it is piled up where amounts add up.
    fn stack(&self, from: &Channel, to: Option<&Channel>) -> Stack {
        let piled = self.series.is_some() && self.offset.is_none();
        match from.stack {
            _ if to.is_some() => Stack::Off,
            Some(said) => said,
            None if piled && from.kind == Kind::Quantitative && !from.log => Stack::Zero,
            None => Stack::Off,
        }
    }

    fn pile(&self, row: &Row) -> Option<Place> {
        let place = match self.channels(self.across()).0 {
            Some(channel) => place(channel, row)?,
            None => String::new(),
        };
        let beside = self.offset.as_ref().and_then(|channel| channel.of(row)).map(key);
        Some((place, beside.unwrap_or_default()))
    }

    fn totals(&self, from: &Channel) -> HashMap<Place, f64> {
        let mut totals: HashMap<Place, f64> = HashMap::new();
        for row in self.rows.iter() {
            if let (Some(place), Some(value)) = (self.pile(row), from.of(row).and_then(|n| number(n, false)))
            {
                *totals.entry(place).or_default() += held(value);
            }
        }
        totals
    }
}

/// What tells a row's place along an axis from others: of amounts and moments not how they are written.
fn place(channel: &Channel, row: &Row) -> Option<String> {
    let value = channel.of(row)?;
    match channel.kind {
        Kind::Discrete => Some(key(value)),
        kind => number(value, kind == Kind::Temporal).map(|at| (at + 0.0).to_string()),
    }
}

/// Refuses areas and piles that are not drawn.
pub fn check(layer: &Layer) -> Result<(), Unsupported> {
    let measures = |y: &Channel| y.kind == Kind::Quantitative && !y.binned;
    if layer.mark == Mark::Area && !layer.y.as_ref().is_some_and(measures) {
        return Err(no("an area without amounts along y"));
    }
    for axis in [Axis::X, Axis::Y] {
        let (Some(channel), end) = layer.channels(axis) else { continue };
        let Some(stack @ (Stack::Zero | Stack::Normalize)) = channel.stack else { continue };
        let measured = matches!(layer.mark, Mark::Bar | Mark::Area) && layer.measure() == axis;
        if !measured || end.is_some() || channel.kind != Kind::Quantitative || channel.log {
            return Err(no("\"stack\" of anything but amounts of bars and areas on a linear scale"));
        }
        let below_zero = |row: &Row| {
            channel.of(row).and_then(|value| number(value, false)).is_some_and(|amount| amount < 0.0)
        };
        if stack == Stack::Normalize && layer.rows.iter().any(below_zero) {
            return Err(no("\"stack\" as shares of amounts below zero"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::chart::{plot::lay_out, scale::Scale, spec::read};

    fn layer(mark: &str, encoding: Value) -> Layer {
        let values = json!([
            {"g": "b", "s": "u", "n": 2}, {"g": "a", "s": "u", "n": 6}, {"g": "b", "s": "v", "n": 4}, {"g": "b", "s": "w", "n": -1}
        ]);
        let spec = json!({"mark": mark, "data": {"values": values}, "encoding": encoding});
        read(&spec).unwrap().layers.remove(0)
    }

    #[test]
    fn bars_of_one_place_are_stacked_by_colour() {
        let stacked = layer(
            "bar",
            json!({
                "x": {"field": "g", "type": "nominal"}, "y": {"field": "n", "type": "quantitative"}, "color": {"field": "s", "type": "nominal"}
            }),
        );
        let spans: Vec<_> = stacked.spans().into_iter().flatten().collect();
        assert_eq!(spans, [(0.0, 2.0), (0.0, 6.0), (2.0, 6.0), (0.0, -1.0)]);
        let plain = layer(
            "bar",
            json!({"y": {"field": "g", "type": "nominal"}, "x": {"field": "n", "type": "quantitative"}}),
        );
        assert_eq!(plain.measure(), Axis::X);
        assert_eq!(plain.spans()[2], Some((0.0, 4.0)));
    }

    #[test]
    fn bars_by_date_measure_amounts_whichever_way_they_lie() {
        let (day, n) =
            (json!({"field": "day", "type": "temporal"}), json!({"field": "n", "type": "quantitative"}));
        let values =
            json!([{"day": "2026-01-01", "n": 3, "s": "u"}, {"day": "2026-01-01", "n": 4, "s": "v"}]);
        let ways = [(json!({"x": n, "y": day}), Axis::X), (json!({"x": day, "y": n}), Axis::Y)];
        for (mut encoding, measure) in ways {
            encoding["color"] = json!({"field": "s"});
            let chart =
                read(&json!({"mark": "bar", "data": {"values": values}, "encoding": encoding})).unwrap();
            let layer = &chart.layers[0];
            assert_eq!(layer.measure(), measure);
            assert_eq!(layer.spans(), [Some((0.0, 3.0)), Some((3.0, 7.0))]);
            lay_out(&chart).unwrap();
        }
        // From one moment to another they measure time.
        let span = layer("bar", json!({"x": n, "y": day, "y2": {"field": "end"}}));
        assert_eq!(span.measure(), Axis::Y);
    }

    #[test]
    fn bars_reach_from_moment_to_moment() {
        let values = json!([{"job": "a", "from": "1970-01-01T00:00:01Z", "to": "1970-01-01T01:00:03+01:00"}]);
        let encoding = json!({
            "y": {"field": "job"}, "x": {"field": "from", "type": "temporal"}, "x2": {"field": "to"}, "color": {"field": "job"}
        });
        let chart = read(&json!({"mark": "bar", "data": {"values": values}, "encoding": encoding})).unwrap();
        assert_eq!(chart.layers[0].spans(), [Some((1_000.0, 3_000.0))]);
    }

    fn of(values: &Value, stack: Value, offset: bool) -> Layer {
        let mut encoding = json!({
            "x": {"field": "g", "type": "nominal"},
            "y": {"field": "n", "type": "quantitative", "stack": stack}
        });
        if offset {
            encoding["xOffset"] = json!({"field": "s"});
        }
        let spec = json!({"mark": "bar", "data": {"values": values}, "encoding": encoding});
        read(&spec).unwrap().layers.remove(0)
    }

    #[test]
    fn piles_are_made_as_the_author_says() {
        let values = json!([
            {"g": "a", "s": "u", "n": 1}, {"g": "b", "s": "u", "n": 5}, {"g": "a", "s": "v", "n": 3},
            {"g": "c", "s": "u", "n": 0}, {"s": "u", "n": 1}
        ]);
        let check = |stack: Value, offset: bool, expected: [Option<(f64, f64)>; 5]| {
            assert_eq!(of(&values, stack.clone(), offset).spans(), expected, "{stack}");
        };
        let (one, five) = (Some((0.0, 1.0)), Some((0.0, 5.0)));
        let zero = Some((0.0, 0.0));
        check(json!("zero"), false, [one, five, Some((1.0, 4.0)), zero, None]);
        check(json!(true), true, [one, five, Some((0.0, 3.0)), zero, None]);
        check(Value::Null, false, [one, five, Some((0.0, 3.0)), zero, one]);
        check(json!("normalize"), false, [Some((0.0, 0.25)), one, Some((0.25, 1.0)), None, None]);
        check(json!("normalize"), true, [one, one, one, None, None]);
        let large = json!([{"g": "a", "n": 1e308}, {"g": "a", "n": 1e308}]);
        assert_eq!(of(&large, json!("normalize"), false).spans(), [Some((0.0, 0.5)), Some((0.5, 1.0))]);
    }

    #[test]
    fn piles_that_are_not_drawn_are_told() {
        let refused = |mark: &str, encoding: Value, part: &str| {
            let error = check(&layer(mark, encoding)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let (g, n) =
            (json!({"field": "g", "type": "nominal"}), json!({"field": "n", "type": "quantitative"}));
        let piled = |stack: &str, scale: &str| json!({"field": "n", "type": "quantitative", "stack": stack, "scale": {"type": scale}});
        refused("line", json!({"x": g, "y": piled("zero", "linear")}), "anything but amounts of bars");
        refused("bar", json!({"x": g, "y": piled("normalize", "log")}), "on a linear scale");
        refused(
            "bar",
            json!({"x": g, "y": piled("zero", "linear"), "y2": n}),
            "anything but amounts of bars",
        );
        refused("bar", json!({"x": g, "y": piled("normalize", "linear")}), "below zero");
        refused("area", json!({"x": n, "y": g}), "an area without amounts along y");
        refused("area", json!({"x": n}), "an area without amounts along y");
        let day = json!({"field": "g", "type": "temporal"});
        refused("area", json!({"x": n, "y": day}), "an area without amounts along y");
        check(&layer("bar", json!({"x": g, "y": piled("zero", "linear")}))).unwrap();
    }

    #[test]
    fn piles_stand_where_their_amounts_are_and_not_where_they_look_alike() {
        let check = |kind: &str, one: Value, two: Value, three: Value| {
            let values = json!([{"x": one, "s": "u", "n": 1}, {"x": two, "s": "u", "n": 2}, {"x": three, "s": "v", "n": 4}]);
            let encoding = json!({
                "x": {"field": "x", "type": kind}, "y": {"field": "n", "type": "quantitative"},
                "color": {"field": "s", "type": "nominal"}
            });
            let chart =
                read(&json!({"mark": "bar", "data": {"values": values}, "encoding": encoding})).unwrap();
            let spans: Vec<_> = chart.layers[0].spans().into_iter().flatten().collect();
            assert_eq!(spans, [(0.0, 1.0), (0.0, 2.0), (2.0, 6.0)], "{kind}");
            lay_out(&chart).unwrap().x
        };
        check("quantitative", json!(1_700_000_000.0), json!(1_700_000_060.0), json!(1_700_000_060));
        check("temporal", json!("2026-01-02"), json!("2026-01-03"), json!("2026-01-03T00:00:00Z"));
        let Some(Scale::Bands(bands)) = check("nominal", json!(0.00001), json!(0.00002), json!(0.00002))
        else {
            panic!("no bands")
        };
        assert_eq!(bands.names(), ["1e-5", "2e-5"]);
        let Some(Scale::Bands(bands)) =
            check("ordinal", json!(1e9), json!(1_000_000_001.0), json!(1_000_000_001))
        else {
            panic!("no bands")
        };
        assert_eq!(bands.names(), ["1000000000", "1000000001"]);
    }
}
