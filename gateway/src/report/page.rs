// SPDX-License-Identifier: Apache-2.0
//! A result as a page: charts drawn, tables under them, everything in one file.
//!
//! Each chart carries its specification, so that another program can draw it
//! anew. Invariant: nothing of the result can become markup or script.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    chart,
    chart::svg::{escape, is_out_of_place},
    outline::{Body, CELLS_MAX, CHARTS, Cell, sections_within},
};

const STYLE: &str = include_str!("page.css");
/// Charts that are drawn on a page, and until it has so many bytes.
const CHARTS_MAX: usize = 100;
const DRAWN_BYTES_MAX: usize = 32 << 20;

/// What the page says of the job itself.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Over everything.
    pub title: String,
    /// Names and values under it.
    pub pairs: Vec<(String, String)>,
}

/// What a Content-Security-Policy calls the page's style by.
pub fn style_source() -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(STYLE)))
}

/// What the page may do: nothing but look as it does.
pub(super) fn policy() -> String {
    format!("default-src 'none'; style-src {}", style_source())
}

/// The page.
pub fn html(facts: &Facts, result: &Value) -> String {
    let title = escape(&facts.title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n<dl>\n",
        policy()
    );
    for (name, value) in facts.pairs.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a string does not fail.
        let _ = writeln!(page, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
    }
    page.push_str("</dl>\n</header>\n");
    let mut room = CELLS_MAX;
    let charts = result.get(CHARTS).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !charts.is_empty() {
        page.push_str("<section class=\"charts\">\n");
        charts.iter().enumerate().for_each(|(index, spec)| figure(&mut page, index, spec, &mut room));
        page.push_str("</section>\n");
    }
    for section in sections_within(result, &mut room) {
        page.push_str("<section>\n");
        if !section.title.is_empty() {
            let _ = writeln!(page, "<h2>{}</h2>", escape(&section.title));
        }
        body(&mut page, &section.body);
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn figure(page: &mut String, index: usize, spec: &Value, room: &mut usize) {
    page.push_str("<figure>\n");
    let drawn = if index < CHARTS_MAX && page.len() < DRAWN_BYTES_MAX {
        chart::render(spec)
    } else {
        Err(chart::Unsupported(format!(
            "a page draws {CHARTS_MAX} charts at most, within {} MiB",
            DRAWN_BYTES_MAX >> 20
        )))
    };
    match drawn {
        Ok(svg) => page.push_str(&svg),
        Err(unsupported) => not_drawn(page, spec, &unsupported, room),
    }
    let description = spec.get("description").and_then(Value::as_str).unwrap_or_default();
    if !description.is_empty() {
        let _ = write!(page, "\n<figcaption>{}</figcaption>", escape(description));
    }
    let _ = write!(page, "\n<script type=\"application/json\" class=\"vega-lite\">{}</script>", json(spec));
    page.push_str("\n</figure>\n");
}

/// A specification within a script element, which only `<` could end, and where no more characters may stand
/// than elsewhere on the page. JSON can do without either: they are within texts, where escapes are the same.
fn json(spec: &Value) -> String {
    let mut text = String::new();
    for letter in spec.to_string().chars() {
        match letter {
            letter if letter == '<' || is_out_of_place(letter) => {
                for half in letter.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(text, "\\u{half:04x}");
                }
            }
            letter => text.push(letter),
        }
    }
    text
}

/// The data of a chart that asks for more than is drawn here.
fn not_drawn(page: &mut String, spec: &Value, why: &chart::Unsupported, room: &mut usize) {
    let title = chart::spec::title(spec.get("title")).unwrap_or_default();
    if !title.is_empty() {
        let _ = writeln!(page, "<h2>{}</h2>", escape(&title));
    }
    let _ = writeln!(page, "<p class=\"why\">Its data, because {}.</p>", escape(&why.to_string()));
    let layers = spec.get("layer").and_then(Value::as_array).into_iter().flatten();
    for values in std::iter::once(spec).chain(layers).filter_map(|view| view.pointer("/data/values")) {
        sections_within(values, room).iter().for_each(|section| body(page, &section.body));
    }
}

fn body(page: &mut String, body: &Body) {
    match body {
        Body::Pairs { pairs, more } => {
            page.push_str("<table class=\"pairs\">\n<tbody>\n");
            for (name, cell) in pairs {
                let _ = writeln!(page, "<tr><th scope=\"row\">{}</th>{}</tr>", escape(name), data(cell));
            }
            page.push_str("</tbody>\n</table>\n");
            and_more(page, *more, "values");
        }
        Body::Table { heads, rows, more } => table(page, heads, rows, *more),
    }
}

fn table(page: &mut String, heads: &[String], rows: &[Vec<Cell>], more: usize) {
    page.push_str("<div class=\"wide\"><table>\n<thead><tr>");
    for (index, head) in heads.iter().enumerate() {
        let number = rows.iter().any(|row| row.get(index).is_some_and(|cell| cell.number));
        let _ = write!(
            page,
            "<th scope=\"col\"{}>{}</th>",
            if number { " class=\"n\"" } else { "" },
            escape(head)
        );
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        let _ = writeln!(page, "<tr>{}</tr>", row.iter().map(data).collect::<String>());
    }
    page.push_str("</tbody>\n</table></div>\n");
    and_more(page, more, "rows");
}

fn and_more(page: &mut String, more: usize, what: &str) {
    if more > 0 {
        let _ = writeln!(page, "<p class=\"why\">And {more} more {what}.</p>");
    }
}

fn data(cell: &Cell) -> String {
    format!("<td{}>{}</td>", if cell.number { " class=\"n\"" } else { "" }, escape(&cell.text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_draws_so_many_charts() {
        let chart = json!({"mark": "tick", "data": {"values": [1]}, "encoding": {}});
        let page = html(&Facts::default(), &json!({"charts": vec![chart; CHARTS_MAX + 1]}));
        assert_eq!(page.matches("<svg ").count(), CHARTS_MAX);
        assert_eq!(page.matches("because a page draws 100 charts at most").count(), 1);
    }

    #[test]
    fn no_character_of_a_page_is_out_of_place() {
        let (odd, named) = ("<\u{7f}\u{9b}\u{ffff}\u{1fffe}", "A\u{fdd0}");
        let chart = json!({"title": odd, "mark": "tick", "data": {"values": [{odd: odd}]}, "encoding": {}});
        let facts = Facts { title: named.to_owned(), pairs: vec![(named.to_owned(), named.to_owned())] };
        let page = html(&facts, &json!({"charts": [chart], odd: {odd: [odd]}}));
        assert_eq!(page.chars().find(|c| is_out_of_place(*c)), None);
        assert!(page.contains(r#""title":"\u003c\u007f\u009b\uffff\ud83f\udffe""#), "{page}");
    }

    #[test]
    fn what_a_page_leaves_out_is_counted() {
        let named: serde_json::Map<_, _> = (0..5_003).map(|n| (format!("n{n}"), json!(n))).collect();
        let page = html(&Facts::default(), &json!({"named": named, "rows": vec![1; 5_002]}));
        assert!(page.contains("And 3 more values.") && page.contains("And 2 more rows."));
    }

    #[test]
    fn a_page_holds_charts_and_tables_and_no_network() {
        let bar = json!({"title": "Loss", "mark": "bar", "description": "by purpose",
            "data": {"values": [{"purpose": "</script><b>", "loss": 3}]},
            "encoding": {"x": {"field": "purpose", "type": "nominal"}, "y": {"field": "loss", "type": "quantitative"}}});
        let map = json!({"title": "Map", "mark": "geoshape", "data": {"values": [{"where": "north"}]}});
        let facts = Facts {
            title: "Credit <report>".into(),
            pairs: vec![("job".into(), "7".into()), ("x".into(), String::new())],
        };
        let page = html(&facts, &json!({"auc": 0.831, "charts": [bar, map]}));
        assert!(page.contains("<svg ") && page.contains("<figcaption>by purpose</figcaption>"));
        assert!(
            page.contains("<title>Credit &lt;report&gt;</title>")
                && page.contains("<td class=\"n\">0.831</td>")
        );
        assert!(
            page.contains("the mark &quot;geoshape&quot; is not drawn here")
                && page.contains("<td>north</td>")
        );
        let layer = |text: &str| json!({"mark": "geoshape", "data": {"values": [{"where": text}]}});
        let layers = json!({"charts": [{"title": ["Two", "maps"], "layer": [layer("east"), layer("west")]}]});
        let layered = html(&Facts::default(), &layers);
        for held in ["<h2>Two maps</h2>", "<td>east</td>", "<td>west</td>"] {
            assert!(layered.contains(held), "{layered}");
        }
        let specification = page
            .split("class=\"vega-lite\">")
            .nth(1)
            .and_then(|rest| rest.split("</script>").next())
            .unwrap();
        assert_eq!(serde_json::from_str::<Value>(specification).unwrap()["mark"], "bar");
        assert_eq!(page.matches("<script").count(), 2);
        for outside in ["http://", "https://", "src=", "@import"] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
    }
}
