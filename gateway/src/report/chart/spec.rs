// SPDX-License-Identifier: Apache-2.0
//! What of Vega-Lite (version 5) is drawn here, read from a specification.
//!
//! Single views and layers, inline data, the marks and channels below. Whatever
//! else a specification asks for is told as [`Unsupported`], never ignored when
//! it would change the picture: the caller then shows the data as a table. Charts
//! are made by functions: what would take long to draw is told before any of it is
//! copied.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::channel;

/// More marks than this make a file that no browser likes. Each layer has one for each
/// of its rows, also of those that it shares.
const ROWS_MAX: usize = 20_000;
/// Each layer is held against all others.
const LAYERS_MAX: usize = 50;
/// A layer beside its rows, with what it shares: some of it is copied for each mark.
const LAYER_BYTES_MAX: usize = 64 << 10;
/// What a value takes in memory beside its text, about.
const VALUE_BYTES: usize = 32;
/// Letters of a title, of a value in a tooltip, or of a text.
const LETTERS_MAX: usize = 200;

/// A row of the data.
pub type Row = Map<String, Value>;

/// What is asked for and not drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Over the picture.
    pub title: Option<String>,
    /// Of the plot, in pixels; chosen by the content when absent.
    pub width: Option<f64>,
    /// The same.
    pub height: Option<f64>,
    /// From the lowest to the topmost.
    pub layers: Vec<Layer>,
}

/// Marks of one kind.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What is drawn for each row, or for all together.
    pub mark: Mark,
    /// A colour of the author's, for all of them.
    pub color: Option<String>,
    /// From 0 to 1.
    pub opacity: Option<f64>,
    /// A line with its points.
    pub points: bool,
    /// A dashed line.
    pub dashed: bool,
    /// Which column stands for what.
    pub x: Option<Channel>,
    /// The same.
    pub y: Option<Channel>,
    /// Where a mark ends that begins at `x`.
    pub x2: Option<Channel>,
    /// The same for `y`.
    pub y2: Option<Channel>,
    /// Which column gives colours.
    pub series: Option<Channel>,
    /// Bars side by side within a band of `x`.
    pub offset: Option<Channel>,
    /// What a text says.
    pub text: Option<Channel>,
    /// The data; layers may share it.
    pub rows: Arc<[Row]>,
}

/// The marks that are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// From zero, or from one end to the other.
    Bar,
    /// Points joined in the order of x, or of y where x measures.
    Line,
    /// From zero up to a line.
    Area,
    /// A circle at a place.
    Point,
    /// A filled field.
    Rect,
    /// A line across the plot, or between two places.
    Rule,
    /// A short line.
    Tick,
    /// Words at a place.
    Text,
}

/// What kind of values a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Amounts.
    Quantitative,
    /// Moments.
    Temporal,
    /// Names or ranks, each with a place of its own.
    Discrete,
}

/// A column or a fixed value, and how it is laid out.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Where values come from.
    pub source: Source,
    /// Their kind.
    pub kind: Kind,
    /// Beside the axis or over the legend.
    pub title: Option<String>,
    /// The scale's ends, or its values in order.
    pub domain: Option<Vec<Value>>,
    /// The scale's lower and upper end, where the author gives one by itself; a moment in milliseconds.
    pub ends: [Option<f64>; 2],
    /// The author's colours for names, in turn.
    pub range: Vec<String>,
    /// Whether the scale holds zero, when the author says.
    pub zero: Option<bool>,
    /// A logarithmic scale.
    pub log: bool,
    /// Values are the edges of bins.
    pub binned: bool,
    /// How bars and areas are put on each other, when the author says.
    pub stack: Option<Stack>,
    /// The order of names.
    pub sort: Sort,
    /// How an axis writes numbers.
    pub format: Option<String>,
    /// Whether there is an axis or a legend.
    pub shown: bool,
}

/// How bars and areas of one place are put on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Not at all.
    Off,
    /// One after the other, from zero.
    Zero,
    /// The same, as shares of all that stands at a place.
    Normalize,
}

/// Where a channel's values come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A column.
    Field(String),
    /// The same value for every row.
    Fixed(Value),
}

/// The order of names.
#[derive(Clone, Debug, PartialEq)]
pub enum Sort {
    /// As they come in the data.
    Data,
    /// Small ones first.
    Ascending,
    /// Large ones first.
    Descending,
    /// This order first.
    Given(Vec<Value>),
    /// By the other axis; `true` for large ones first.
    ByOther(bool),
}

impl Channel {
    /// The value for a row.
    pub fn of<'a>(&'a self, row: &'a Row) -> Option<&'a Value> {
        match &self.source {
            Source::Field(field) => lookup(row, field).filter(|value| !value.is_null()),
            Source::Fixed(value) => Some(value),
        }
    }

    /// The title, or else the column's name.
    pub fn label(&self) -> Option<&str> {
        match (&self.title, &self.source) {
            (Some(title), _) => Some(shortened(title)).filter(|title| !title.is_empty()),
            (None, Source::Field(field)) => Some(shortened(field)),
            (None, Source::Fixed(_)) => None,
        }
    }
}

/// A column by its name; dots reach into objects unless a column is so called.
pub fn lookup<'a>(row: &'a Row, field: &str) -> Option<&'a Value> {
    row.get(field).or_else(|| {
        let (first, rest) = field.split_once('.')?;
        lookup(row.get(first)?.as_object()?, rest)
    })
}

/// As much of a text as is drawn of it.
pub fn shortened(text: &str) -> &str {
    text.char_indices().nth(LETTERS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// Reads a specification.
pub fn read(spec: &Value) -> Result<Chart, Unsupported> {
    let object = spec.as_object().ok_or_else(|| no("a chart that is no object"))?;
    for member in ["hconcat", "vconcat", "concat", "facet", "repeat", "spec", "transform"] {
        if object.contains_key(member) {
            return Err(no(format!("{member:?}")));
        }
    }
    let scales = object.get("resolve").and_then(|resolve| resolve.get("scale")).and_then(Value::as_object);
    if let Some((channel, how)) = scales.into_iter().flatten().find(|(_, how)| *how != "shared") {
        return Err(no(format!("the scale of {channel:?} that is {how}")));
    }
    let (layers, data, encoding) = match object.get("layer").and_then(Value::as_array) {
        Some(layers) => (layers.as_slice(), object.get("data"), object.get("encoding")),
        None => (std::slice::from_ref(spec), None, None),
    };
    check_size(layers, data, encoding)?;
    let data = rows(data)?;
    let layers = layers.iter().map(|layer| read_layer(layer, encoding, data.as_ref()));
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    let size =
        |name: &str| object.get(name).and_then(Value::as_f64).filter(|size| (20.0..=4_000.0).contains(size));
    Ok(Chart { title: title(object.get("title")), width: size("width"), height: size("height"), layers })
}

/// Refuses more than can be drawn in reasonable time, by counting.
fn check_size(layers: &[Value], data: Option<&Value>, encoding: Option<&Value>) -> Result<(), Unsupported> {
    let too_many = |found: usize, what: &str, most: usize| {
        Err(Unsupported(format!("a chart of {found} {what} is not drawn here, at most {most} are")))
    };
    if layers.len() > LAYERS_MAX {
        return too_many(layers.len(), "layers", LAYERS_MAX);
    }
    let values = |data: Option<&Value>| data?.get("values")?.as_array().map(Vec::len);
    let shared = values(data).unwrap_or_default();
    let rows: usize = layers.iter().map(|layer| values(layer.get("data")).unwrap_or(shared)).sum();
    if rows > ROWS_MAX {
        return too_many(rows, "rows", ROWS_MAX);
    }
    let shared = encoding.map_or(0, weight);
    let own = |layer: &Value| {
        let members = layer.as_object().into_iter().flatten().filter(|(name, _)| *name != "data");
        members.map(|(name, value)| name.len() + weight(value)).sum::<usize>()
    };
    match layers.iter().map(|layer| shared + own(layer)).find(|bytes| *bytes > LAYER_BYTES_MAX) {
        Some(bytes) => too_many(bytes, "bytes in a layer beside its data", LAYER_BYTES_MAX),
        None => Ok(()),
    }
}

/// What a value takes in memory, about.
fn weight(value: &Value) -> usize {
    let within: usize = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        _ => 0,
    };
    VALUE_BYTES + within
}

/// The sentence that something is not drawn.
pub fn no(what: impl std::fmt::Display) -> Unsupported {
    Unsupported(format!("{what} is not drawn here"))
}

/// The words of a title, whichever way they are given.
pub fn title(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => title(object.get("text")),
        Value::Array(lines) => Some(lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

fn rows(data: Option<&Value>) -> Result<Option<Arc<[Row]>>, Unsupported> {
    let Some(data) = data.filter(|data| !data.is_null()) else { return Ok(None) };
    let values = data.get("values").and_then(Value::as_array).ok_or_else(|| no("data that is not inline"))?;
    let row = |value: &Value| match value {
        Value::Object(row) => row.clone(),
        // Vega-Lite calls a bare value so.
        other => Row::from_iter([("data".to_owned(), other.clone())]),
    };
    Ok(Some(values.iter().map(row).collect()))
}

fn read_layer(
    layer: &Value,
    shared: Option<&Value>,
    data: Option<&Arc<[Row]>>,
) -> Result<Layer, Unsupported> {
    let object = layer.as_object().ok_or_else(|| no("a layer that is no object"))?;
    if object.contains_key("transform") || object.contains_key("layer") {
        return Err(no("a layer with transforms or layers of its own"));
    }
    let rows = match rows(object.get("data"))? {
        Some(own) => own,
        None => Arc::clone(data.ok_or_else(|| no("a chart without data"))?),
    };
    let (mark, properties) = read_mark(object.get("mark"))?;
    let mut encoding = shared.and_then(Value::as_object).cloned().unwrap_or_default();
    encoding.extend(object.get("encoding").and_then(Value::as_object).cloned().unwrap_or_default());
    check_channels(&encoding)?;
    let column = |name: &str| encoding.get(name)?.get("field")?.as_str();
    let channel = |name: &str| {
        let beside = column(if name == "y" { "x" } else { "y" });
        encoding.get(name).map(|value| channel::read(name, value, beside, &rows)).transpose()
    };
    let color = channel("color")?.or(channel("fill")?).or(channel("stroke")?);
    let fixed = color.as_ref().and_then(|channel| match &channel.source {
        Source::Fixed(value) => value.as_str().map(str::to_owned),
        Source::Field(_) => None,
    });
    let text = |name: &str| properties.get(name).and_then(Value::as_str).map(str::to_owned);
    let (x, y, x2, y2) = (channel("x")?, channel("y")?, channel("x2")?, channel("y2")?);
    let (offset, label) = (channel("xOffset")?, channel("text")?);
    Ok(Layer {
        mark,
        color: fixed.or_else(|| text("color")).or_else(|| text("fill")).or_else(|| text("stroke")),
        opacity: properties.get("opacity").or(properties.get("fillOpacity")).and_then(Value::as_f64),
        points: properties.get("point").is_some_and(|point| *point != Value::Bool(false)),
        dashed: properties.get("strokeDash").is_some_and(Value::is_array),
        series: color.filter(|channel| matches!(channel.source, Source::Field(_))),
        x,
        y,
        x2,
        y2,
        offset,
        text: label,
        rows,
    })
}

fn read_mark(mark: Option<&Value>) -> Result<(Mark, Row), Unsupported> {
    let (name, properties) = match mark {
        Some(Value::String(name)) => (name.as_str(), Row::new()),
        Some(Value::Object(object)) => {
            (object.get("type").and_then(Value::as_str).unwrap_or_default(), object.clone())
        }
        _ => ("", Row::new()),
    };
    let mark = match name {
        "bar" => Mark::Bar,
        "line" | "trail" => Mark::Line,
        "area" => Mark::Area,
        "point" | "circle" | "square" => Mark::Point,
        "rect" => Mark::Rect,
        "rule" => Mark::Rule,
        "tick" => Mark::Tick,
        "text" => Mark::Text,
        other => return Err(no(format!("the mark {other:?}"))),
    };
    Ok((mark, properties))
}

/// Refuses channels that would change the picture; what only adds to it in a
/// browser, such as tooltips, may be left out.
fn check_channels(encoding: &Row) -> Result<(), Unsupported> {
    const DRAWN: [&str; 9] = ["x", "y", "x2", "y2", "color", "fill", "stroke", "xOffset", "text"];
    const LEFT_OUT: [&str; 5] = ["tooltip", "href", "url", "description", "key"];
    const FIXED_ONLY: [&str; 8] =
        ["size", "opacity", "shape", "strokeDash", "strokeWidth", "fillOpacity", "strokeOpacity", "order"];
    for (name, value) in encoding {
        let name = name.as_str();
        let fixed = FIXED_ONLY.contains(&name) && value.get("field").is_none();
        if !DRAWN.contains(&name) && !LEFT_OUT.contains(&name) && !fixed {
            return Err(no(format!("the channel {name:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bar(extra: Value) -> Value {
        let mut spec = json!({
            "mark": "bar", "data": {"values": [{"a": "x", "b": 1}, {"a": "y", "b": 2}]},
            "encoding": {"x": {"field": "a", "type": "nominal"}, "y": {"field": "b"}}
        });
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec
    }

    #[test]
    fn a_single_view_is_read() {
        let chart = read(&bar(
            json!({"title": {"text": "T"}, "width": 300, "mark": {"type": "bar", "color": "red"}}),
        ))
        .unwrap();
        assert_eq!((chart.title.as_deref(), chart.width, chart.layers.len()), (Some("T"), Some(300.0), 1));
        let layer = &chart.layers[0];
        assert_eq!((layer.mark, layer.color.as_deref(), layer.rows.len()), (Mark::Bar, Some("red"), 2));
        assert_eq!(layer.y.as_ref().map(|y| y.kind), Some(Kind::Quantitative));
        assert_eq!(layer.x.as_ref().and_then(Channel::label), Some("a"));
    }

    #[test]
    fn layers_share_data_and_encoding() {
        let spec = json!({
            "data": {"values": [{"p": 0.1, "o": 0.2}]},
            "encoding": {"x": {"field": "p", "type": "quantitative"}},
            "layer": [
                {"mark": "point", "encoding": {"y": {"field": "o", "type": "quantitative"}}},
                {"mark": {"type": "rule", "strokeDash": [4, 4]}, "encoding": {"y": {"datum": 0.5}}}
            ]
        });
        let chart = read(&spec).unwrap();
        assert_eq!(chart.layers[1].y.as_ref().map(|y| &y.source), Some(&Source::Fixed(json!(0.5))));
        assert!(chart.layers.iter().all(|layer| layer.x.is_some()) && chart.layers[1].dashed);
    }

    #[test]
    fn what_would_take_long_is_said_before_it_is_copied() {
        let layers = |count: usize, rows: usize, title: usize| {
            let axis = json!({"field": "a", "type": "nominal", "title": "x".repeat(title)});
            json!({
                "data": {"values": vec![json!({"a": 1}); rows]},
                "encoding": {"x": axis},
                "layer": vec![json!({"mark": "tick"}); count]
            })
        };
        let check = |spec: Value, part: &str| {
            let error = read(&spec).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let fits = read(&layers(LAYERS_MAX, ROWS_MAX / LAYERS_MAX, 1_000)).unwrap();
        assert!(fits.layers.iter().all(|layer| Arc::ptr_eq(&layer.rows, &fits.layers[0].rows)));
        assert_eq!(
            fits.layers[0].x.as_ref().and_then(Channel::label),
            Some("x".repeat(LETTERS_MAX).as_str())
        );
        check(layers(LAYERS_MAX, 1 + ROWS_MAX / LAYERS_MAX, 1), "20050 rows");
        check(layers(1 + LAYERS_MAX, 1, 1), "51 layers");
        check(layers(2, 1, LAYER_BYTES_MAX), "bytes in a layer");
        check(bar(json!({"data": {"values": vec![1; 1 + ROWS_MAX]}})), "20001 rows");
    }

    #[test]
    fn what_is_not_drawn_is_said() {
        let check = |spec: Value, part: &str| {
            let error = read(&spec).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(json!({"mark": "geoshape", "data": {"values": []}}), "geoshape");
        check(json!({"mark": "bar"}), "without data");
        check(json!({"mark": "bar", "data": {"url": "x.csv"}}), "not inline");
        check(json!({"hconcat": []}), "hconcat");
        check(bar(json!({"encoding": {"theta": {"field": "b"}}})), "theta");
        check(bar(json!({"encoding": {"size": {"field": "b"}}})), "size");
        check(bar(json!({"encoding": {"y": {"aggregate": "count"}}})), "aggregate");
        check(bar(json!({"encoding": {"x": {"field": "b", "bin": true}}})), "binned");
        check(bar(json!({"transform": []})), "transform");
        check(
            bar(json!({"resolve": {"scale": {"x": "shared", "y": "independent"}}})),
            "the scale of \"y\" that is \"independent\"",
        );
        check(json!(7), "no object");
    }
}
