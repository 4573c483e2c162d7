// SPDX-License-Identifier: Apache-2.0
//! Drawing the marks of a layer onto a plot.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    color::{Color, checked, nth},
    plot::{Axis, Plot},
    scale::{Scale, key, name},
    spec::{Channel, Layer, Mark, Row, Source, shortened},
    svg::{Svg, path},
};

/// In charts of more marks none has a tooltip: the file would grow out of hand.
const TOOLTIPS_MAX: usize = 4_000;

/// Draws a layer.
pub fn layer(svg: &mut Svg, plot: &Plot<'_>, layer: &Layer) {
    let marks: usize = plot.chart.layers.iter().map(|layer| layer.rows.len()).sum();
    let pen = Pen { plot, layer, tooltips: marks <= TOOLTIPS_MAX };
    match layer.mark {
        Mark::Bar => pen.bars(svg),
        Mark::Area => pen.areas(svg),
        Mark::Line => pen.lines(svg),
        Mark::Point => pen.points(svg),
        Mark::Rect => pen.rects(svg),
        Mark::Rule => pen.rules(svg),
        Mark::Tick => pen.ticks(svg),
        Mark::Text => pen.texts(svg),
    }
}

struct Pen<'a> {
    plot: &'a Plot<'a>,
    layer: &'a Layer,
    tooltips: bool,
}

impl Pen<'_> {
    fn color(&self, row: Option<&Row>) -> Color {
        match (&self.plot.series, &self.layer.series) {
            (Some((_, colors)), Some(channel)) => colors.of(row.and_then(|row| channel.of(row))),
            _ => self.layer.color.as_deref().and_then(checked).as_deref().unwrap_or(nth(0)).into(),
        }
    }

    fn tooltip(&self, row: &Row) -> String {
        if !self.tooltips {
            return String::new();
        }
        let layer = self.layer;
        let all = [&layer.x, &layer.x2, &layer.y, &layer.y2, &layer.series, &layer.offset];
        let mut lines: Vec<String> = Vec::new();
        for channel in all.into_iter().flatten().filter(|channel| matches!(channel.source, Source::Field(_)))
        {
            let value = channel.of(row).map(name).unwrap_or_default();
            let line = format!("{}: {}", channel.label().unwrap_or_default(), shortened(&value));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.join("\n")
    }

    fn scale(&self, axis: Axis) -> Option<&Scale> {
        if axis == Axis::X { self.plot.x.as_ref() } else { self.plot.y.as_ref() }
    }

    fn length(&self, axis: Axis) -> f64 {
        if axis == Axis::X { self.plot.width } else { self.plot.height }
    }

    fn center(&self, axis: Axis, channel: Option<&Channel>, row: &Row) -> Option<f64> {
        match (channel, self.scale(axis)) {
            (Some(channel), Some(scale)) => scale.center(channel.of(row)?),
            // Without a channel everything stands in the middle.
            _ => Some(self.length(axis) / 2.0),
        }
    }

    fn place(&self, row: &Row) -> Option<(f64, f64)> {
        Some((
            self.center(Axis::X, self.layer.x.as_ref(), row)?,
            self.center(Axis::Y, self.layer.y.as_ref(), row)?,
        ))
    }

    /// Start and width of a mark across its measure: a band, a bin, or a place.
    fn across(&self, axis: Axis, row: &Row, gap: bool) -> Option<(f64, f64)> {
        let (one, two) = self.layer.channels(axis);
        match (one, two, self.scale(axis)) {
            (Some(one), None, Some(Scale::Bands(bands))) => {
                let value = one.of(row)?;
                let (start, width) = if gap { bands.band(value)? } else { bands.cell(value)? };
                Some(self.beside(row, start, width))
            }
            (Some(one), Some(two), Some(scale)) => {
                let (from, to) = (scale.center(one.of(row)?)?, scale.center(two.of(row)?)?);
                let space = if gap { 0.5_f64.min((to - from).abs() / 4.0) } else { 0.0 };
                // What begins and ends at one place is there, however narrow.
                Some((from.min(to) + space, ((to - from).abs() - 2.0 * space).max(1.0)))
            }
            (Some(one), None, Some(scale)) => {
                let width = (self.length(axis) / (self.layer.rows.len() as f64 + 1.0) * 0.6).clamp(1.0, 18.0);
                Some((scale.center(one.of(row)?)? - width / 2.0, width))
            }
            _ => Some((self.length(axis) * 0.2, self.length(axis) * 0.6)),
        }
    }

    /// The part of a band that is a row's, when bars stand side by side.
    fn beside(&self, row: &Row, start: f64, width: f64) -> (f64, f64) {
        let Some(value) = self.layer.offset.as_ref().and_then(|channel| channel.of(row)) else {
            return (start, width);
        };
        let count = self.plot.offsets.all().len().max(1) as f64;
        let index = self.plot.offsets.place(value).unwrap_or_default() as f64;
        (start + width / count * index, width / count)
    }

    fn bars(&self, svg: &mut Svg) {
        let measure = self.layer.measure();
        let across = self.layer.across();
        let Some(Scale::Line(line)) = self.scale(measure) else { return self.rects(svg) };
        for (row, span) in self.layer.rows.iter().zip(self.layer.spans()) {
            let (Some((low, high)), Some((start, width))) = (span, self.across(across, row, true)) else {
                continue;
            };
            let from = if low == 0.0 { line.base() } else { line.at(low) };
            let to = line.at(high);
            let along = (from.min(to), (to - from).abs());
            let place = if measure == Axis::X { (along, (start, width)) } else { ((start, width), along) };
            self.rect(svg, place.0, place.1, row);
        }
    }

    fn rects(&self, svg: &mut Svg) {
        for row in self.layer.rows.iter() {
            if let (Some(x), Some(y)) = (self.across(Axis::X, row, false), self.across(Axis::Y, row, false)) {
                self.rect(svg, x, y, row);
            }
        }
    }

    fn rect(&self, svg: &mut Svg, x: (f64, f64), y: (f64, f64), row: &Row) {
        let color = self.color(Some(row));
        let attributes = [
            ("x", x.0.into()),
            ("y", y.0.into()),
            ("width", x.1.max(0.0).into()),
            ("height", y.1.max(0.0).into()),
            ("fill", (&color).into()),
            ("fill-opacity", self.layer.opacity.unwrap_or(1.0).into()),
        ];
        svg.mark("rect", &attributes, &self.tooltip(row));
    }

    /// Rows of one colour each, in the order of where they stand.
    fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<Option<String>, usize> = HashMap::new();
        for (index, row) in self.layer.rows.iter().enumerate() {
            let series = self.layer.series.as_ref().and_then(|channel| channel.of(row)).map(key);
            let group = *known.entry(series).or_insert(groups.len());
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(index);
        }
        let across = self.layer.across();
        let channel = self.layer.channels(across).0;
        let at = |index: &usize| self.center(across, channel, &self.layer.rows[*index]);
        for group in &mut groups {
            group.sort_by(|a, b| at(a).unwrap_or(f64::INFINITY).total_cmp(&at(b).unwrap_or(f64::INFINITY)));
        }
        groups
    }

    fn lines(&self, svg: &mut Svg) {
        for group in self.groups() {
            let color = self.color(group.first().map(|index| &self.layer.rows[*index]));
            // A missing value is a gap in the line.
            for run in group.split(|index| self.place(&self.layer.rows[*index]).is_none()) {
                let points: Vec<_> =
                    run.iter().filter_map(|index| self.place(&self.layer.rows[*index])).collect();
                self.stroke(svg, &points, &color);
            }
        }
        if self.layer.points || self.layer.rows.len() <= 60 {
            self.points(svg);
        }
    }

    fn stroke(&self, svg: &mut Svg, points: &[(f64, f64)], color: &Color) {
        if points.is_empty() {
            return;
        }
        let way = path(points);
        let mut attributes = vec![
            ("d", way.as_str().into()),
            ("fill", "none".into()),
            ("stroke", color.into()),
            ("stroke-width", 2.0.into()),
            ("stroke-opacity", self.layer.opacity.unwrap_or(1.0).into()),
        ];
        if self.layer.dashed {
            attributes.push(("stroke-dasharray", "5 4".into()));
        }
        svg.mark("path", &attributes, "");
    }

    fn areas(&self, svg: &mut Svg) {
        let Some(Scale::Line(line)) = self.scale(Axis::Y) else { return };
        let spans = self.layer.spans();
        for group in self.groups() {
            let corner = |index: &usize| {
                let (low, high) = spans[*index]?;
                let x = self.center(Axis::X, self.layer.x.as_ref(), &self.layer.rows[*index])?;
                Some(((x, line.at(high)), (x, if low == 0.0 { line.base() } else { line.at(low) })))
            };
            let (upper, mut lower): (Vec<_>, Vec<_>) = group.iter().filter_map(corner).unzip();
            lower.reverse();
            let color = self.color(group.first().map(|index| &self.layer.rows[*index]));
            let outline = format!("{}Z", path(&[upper, lower].concat()));
            let attributes = [
                ("d", outline.as_str().into()),
                ("fill", (&color).into()),
                ("fill-opacity", self.layer.opacity.unwrap_or(0.7).into()),
            ];
            svg.mark("path", &attributes, "");
        }
    }

    fn points(&self, svg: &mut Svg) {
        let radius = if self.layer.mark == Mark::Line { 2.5 } else { 3.5 };
        for row in self.layer.rows.iter() {
            let Some((x, y)) = self.place(row) else { continue };
            let color = self.color(Some(row));
            let attributes = [
                ("cx", x.into()),
                ("cy", y.into()),
                ("r", radius.into()),
                ("fill", (&color).into()),
                ("fill-opacity", self.layer.opacity.unwrap_or(0.8).into()),
            ];
            svg.mark("circle", &attributes, &self.tooltip(row));
        }
    }

    fn rules(&self, svg: &mut Svg) {
        let blank = [Row::new()];
        let fixed =
            |channel: &Option<Channel>| channel.as_ref().is_none_or(|c| matches!(c.source, Source::Fixed(_)));
        let layer = self.layer;
        // A rule of fixed values is one line, however many rows there are.
        let once = fixed(&layer.x) && fixed(&layer.y) && fixed(&layer.x2) && fixed(&layer.y2);
        let rows = if once { &blank[..] } else { &layer.rows[..] };
        for row in rows {
            let ends = |axis: Axis| {
                let (one, two) = layer.channels(axis);
                let Some(one) = one else { return Some((0.0, self.length(axis))) };
                let from = self.scale(axis)?.center(one.of(row)?)?;
                let to = two.and_then(|two| self.scale(axis)?.center(two.of(row)?));
                Some((from, to.unwrap_or(from)))
            };
            let (Some(x), Some(y)) = (ends(Axis::X), ends(Axis::Y)) else { continue };
            let color = match layer.color.is_some() || layer.series.is_some() {
                true => self.color(Some(row)),
                false => "#6b7785".into(),
            };
            let mut attributes = vec![
                ("x1", x.0.into()),
                ("y1", y.0.into()),
                ("x2", x.1.into()),
                ("y2", y.1.into()),
                ("stroke", (&color).into()),
                ("stroke-width", 1.5.into()),
            ];
            if layer.dashed {
                attributes.push(("stroke-dasharray", "5 4".into()));
            }
            svg.mark("line", &attributes, &if once { String::new() } else { self.tooltip(row) });
        }
    }

    fn ticks(&self, svg: &mut Svg) {
        let upright = self.layer.measure() == Axis::X || self.layer.y.is_none();
        for row in self.layer.rows.iter() {
            let Some((x, y)) = self.place(row) else { continue };
            let (dx, dy) = if upright { (0.0, 7.0) } else { (7.0, 0.0) };
            let color = self.color(Some(row));
            let attributes = [
                ("x1", (x - dx).into()),
                ("y1", (y - dy).into()),
                ("x2", (x + dx).into()),
                ("y2", (y + dy).into()),
                ("stroke", (&color).into()),
                ("stroke-width", 1.5.into()),
            ];
            svg.mark("line", &attributes, &self.tooltip(row));
        }
    }

    fn texts(&self, svg: &mut Svg) {
        for row in self.layer.rows.iter() {
            let words: Option<&Value> = self.layer.text.as_ref().and_then(|channel| channel.of(row));
            if let (Some((x, y)), Some(words)) = (self.place(row), words) {
                svg.words(x, y + 4.0, "label", "middle", shortened(&name(words)));
            }
        }
    }
}
