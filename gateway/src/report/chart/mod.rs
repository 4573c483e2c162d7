// SPDX-License-Identifier: Apache-2.0
//! Vega-Lite charts as SVG, drawn without a browser and without a network.
//!
//! [`spec`] reads a specification, `plot` lays it out on [`scale`]s, `draw`
//! and `axis` write it by [`svg`]. A specification that asks for more than is
//! drawn here is told as such; nothing is guessed.

mod axis;
mod channel;
mod color;
pub mod digits;
mod draw;
mod moment;
mod pile;
mod plot;
pub mod scale;
pub mod spec;
pub mod svg;

use serde_json::Value;

pub use spec::Unsupported;

/// Draws a specification.
///
/// # Errors
/// What it asks for and is not drawn here.
pub fn render(spec: &Value) -> Result<String, Unsupported> {
    let chart = spec::read(spec)?;
    let plot = plot::lay_out(&chart)?;
    let margins = axis::margins(&plot);
    let mut svg = svg::Svg::default();
    svg.group(margins.left, margins.top);
    axis::draw(&mut svg, &plot);
    chart.layers.iter().for_each(|layer| draw::layer(&mut svg, &plot, layer));
    svg.end_group();
    let (width, height) =
        (margins.left + plot.width + margins.right, margins.top + plot.height + margins.bottom);
    Ok(svg.finish(width, height, chart.title.as_deref().map_or("chart", spec::shortened)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn count(svg: &str, tag: &str) -> usize {
        svg.matches(&format!("<{tag} ")).count()
    }

    fn draw(mark: Value, encoding: Value) -> String {
        let values = json!([
            {"g": "car", "s": "good", "a": 10, "b": 20, "n": 3.5, "t": "2026-01-01"},
            {"g": "tv", "s": "bad", "a": 20, "b": 30, "n": 7, "t": "2026-02-01"},
            {"g": "car", "s": "bad", "a": 30, "b": 40, "n": null, "t": "2026-03-01"}
        ]);
        render(&json!({"title": "T & <t>", "mark": mark, "data": {"values": values}, "encoding": encoding}))
            .unwrap()
    }

    #[test]
    fn every_mark_is_drawn() {
        let n = json!({"field": "n", "type": "quantitative"});
        let g = json!({"field": "g", "type": "nominal"});
        let bars = draw(json!("bar"), json!({"x": g, "y": n}));
        assert_eq!(count(&bars, "rect"), 2);
        assert!(
            bars.contains("T &amp; &lt;t&gt;") && bars.contains("<title>g: car\nn: 3.5</title>"),
            "{bars}"
        );
        let series = json!({"field": "s", "type": "nominal"});
        let histogram =
            draw(json!("bar"), json!({"x": {"field": "a", "bin": "binned"}, "x2": {"field": "b"}, "y": n}));
        assert_eq!(count(&histogram, "rect"), 2);
        let narrow =
            draw(json!("bar"), json!({"x": {"field": "a", "bin": "binned"}, "x2": {"field": "a"}, "y": n}));
        assert_eq!(narrow.matches(" width=\"1\"").count(), 2, "{narrow}");
        let time = json!({"field": "t", "type": "temporal"});
        let lines = draw(json!({"type": "line", "point": true}), json!({"x": time, "y": n, "color": series}));
        assert_eq!((count(&lines, "path"), count(&lines, "circle"), count(&lines, "rect")), (2, 2, 2));
        let heat = draw(json!("rect"), json!({"x": g, "y": series, "color": n}));
        assert_eq!(count(&heat, "rect"), 3 + 20);
        let points = draw(json!("point"), json!({"x": {"field": "a", "type": "quantitative"}, "y": n}));
        assert_eq!(count(&points, "circle"), 2);
        assert_eq!(count(&draw(json!("area"), json!({"x": time, "y": n})), "path"), 1);
        assert!(draw(json!("text"), json!({"x": g, "y": n, "text": {"field": "s"}})).contains(">good<"));
        assert!(draw(json!("tick"), json!({"x": n})).contains("stroke-width"));
        assert!(draw(json!("rule"), json!({"y": {"datum": 5}})).contains("stroke-width"));
    }

    #[test]
    fn a_line_that_measures_along_x_goes_from_moment_to_moment() {
        let axes =
            json!({"x": {"field": "n", "type": "quantitative"}, "y": {"field": "t", "type": "temporal"}});
        let along = |rows: [(&str, f64); 3]| {
            let values = json!(rows.map(|(t, n)| json!({"t": t, "n": n})));
            let svg = render(&json!({"mark": "line", "data": {"values": values}, "encoding": axes})).unwrap();
            let (_, way) = svg.split_once("<path d=\"").unwrap();
            way.split('"').next().unwrap().to_owned()
        };
        let (first, second, third) = (("2026-01-01", 1.0), ("2026-01-02", 3.0), ("2026-01-03", 2.0));
        for rows in [[second, first, third], [first, second, third]] {
            assert_eq!(along(rows), "M280 0L420 120L140 240");
        }
    }

    #[test]
    fn names_have_the_colours_that_their_author_gave() {
        let color = json!({"field": "s", "type": "nominal", "scale": {"range": ["tomato", "#0c0"]}});
        let points =
            draw(json!("point"), json!({"x": {"field": "a", "type": "quantitative"}, "color": color}));
        // Each in the legend as well: two are bad and one is good.
        for (color, count) in [("tomato", 3), ("#0c0", 2)] {
            assert_eq!(points.matches(&format!("fill=\"{color}\"")).count(), count, "{points}");
        }
    }

    #[test]
    fn a_legend_of_moments_has_their_dates() {
        let time = json!({"field": "t", "type": "temporal"});
        let points =
            draw(json!("point"), json!({"x": {"field": "a", "type": "quantitative"}, "color": time}));
        assert!(points.contains(">2026-01-01<") && points.contains(">2026-03-01<"), "{points}");
        // The ends of the legend have the colours of the first and of the last point.
        for color in ["#deebf7", "#103e78"] {
            assert_eq!(points.matches(&format!("fill=\"{color}\"")).count(), 2, "{points}");
        }
    }

    #[test]
    fn no_place_is_not_a_number() {
        let empty = json!({"mark": "bar", "data": {"values": []}, "encoding": {
            "x": {"field": "a", "type": "nominal"}, "y": {"field": "b", "type": "quantitative"}}});
        let same = json!({"mark": "line", "data": {"values": [{"a": 1, "b": 1}, {"a": 1, "b": 1}]}, "encoding": {
            "x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative", "scale": {"type": "log"}}}});
        let huge = json!({"mark": "point", "data": {"values": [{"x": 1e308}]}, "encoding": {
            "x": {"field": "x", "type": "quantitative", "scale": {"type": "log"}}}});
        let colors = |values: Value| {
            let n = json!({"field": "n", "type": "quantitative"});
            json!({"mark": "point", "data": {"values": values}, "encoding": {"x": n, "color": n}})
        };
        let (no_colors, far) = (colors(json!([])), colors(json!([{"n": -1e308}, {"n": 1e308}])));
        for spec in [empty, same, huge, no_colors, far] {
            let svg = render(&spec).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
