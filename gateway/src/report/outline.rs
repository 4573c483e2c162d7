// SPDX-License-Identifier: Apache-2.0
//! What of a result is a table: any JSON as sections of pairs, tables, lists.
//!
//! Pure. Objects of plain values become pairs, lists of objects become tables,
//! objects of such objects become tables with the names in front. What is nested
//! deeper becomes sections of its own.

use serde_json::{Map, Value};

use super::chart::scale::plain;

/// The member of a result that holds its charts.
pub const CHARTS: &str = "charts";
/// Sections nested deeper are shown as JSON.
const DEPTH_MAX: usize = 6;

/// A part of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// The way to it through the members' names; empty for the result itself.
    pub title: String,
    /// What it holds.
    pub body: Body,
}

/// The content of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Names and values.
    Pairs(Vec<(String, Cell)>),
    /// Rows under heads.
    Table {
        /// The columns' names.
        heads: Vec<String>,
        /// A cell for each head.
        rows: Vec<Vec<Cell>>,
    },
}

/// A value, written out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The text.
    pub text: String,
    /// Whether it is an amount, which is set flush right.
    pub number: bool,
}

/// The sections of a result, its charts left out.
pub fn sections(result: &Value) -> Vec<Section> {
    let mut sections = Vec::new();
    walk(String::new(), result, 0, &mut sections);
    sections
}

fn walk(title: String, value: &Value, depth: usize, out: &mut Vec<Section>) {
    match value {
        Value::Object(object) => walk_object(title, object, depth, out),
        Value::Array(items) => out.push(Section { title, body: list(items) }),
        plain => out.push(Section { title, body: Body::Pairs(vec![(String::new(), cell(plain))]) }),
    }
}

fn walk_object(title: String, object: &Map<String, Value>, depth: usize, out: &mut Vec<Section>) {
    let members = || object.iter().filter(|(name, _)| depth > 0 || *name != CHARTS);
    if depth > 0 && is_table_of_records(object) {
        let rows: Vec<_> =
            members().filter_map(|(name, value)| Some((Some(name.as_str()), value.as_object()?))).collect();
        out.push(Section { title, body: table(&rows) });
        return;
    }
    let (plain, nested): (Vec<_>, Vec<_>) =
        members().partition(|(_, value)| is_plain(value) || depth >= DEPTH_MAX);
    if !plain.is_empty() {
        let pairs = plain.into_iter().map(|(name, value)| (name.clone(), cell(value))).collect();
        out.push(Section { title: title.clone(), body: Body::Pairs(pairs) });
    }
    for (name, value) in nested {
        let title = if title.is_empty() { name.clone() } else { format!("{title} · {name}") };
        walk(title, value, depth + 1, out);
    }
}

/// Several objects of plain values, as if rows with names.
fn is_table_of_records(object: &Map<String, Value>) -> bool {
    let flat = |value: &Value| {
        value.as_object().is_some_and(|inner| !inner.is_empty() && inner.values().all(is_plain))
    };
    object.len() >= 2 && object.values().all(flat)
}

/// Values that fit into a cell.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => {
            items.len() <= 8 && items.iter().all(|item| !item.is_object() && !item.is_array())
        }
        _ => true,
    }
}

fn list(items: &[Value]) -> Body {
    if items.iter().all(Value::is_object) {
        let rows: Vec<_> = items.iter().filter_map(|item| Some((None, item.as_object()?))).collect();
        return table(&rows);
    }
    if items.iter().all(Value::is_array) {
        let rows: Vec<Vec<Cell>> =
            items.iter().filter_map(|row| Some(row.as_array()?.iter().map(cell).collect())).collect();
        let width = rows.iter().map(Vec::len).max().unwrap_or_default();
        return Body::Table {
            heads: (1..=width).map(|n| n.to_string()).collect(),
            rows: padded(rows, width),
        };
    }
    let rows = items.iter().map(|item| vec![cell(item)]).collect();
    Body::Table { heads: vec!["value".to_owned()], rows }
}

fn table(records: &[(Option<&str>, &Map<String, Value>)]) -> Body {
    let mut heads: Vec<&str> = Vec::new();
    for (_, record) in records {
        for name in record.keys() {
            if !heads.contains(&name.as_str()) {
                heads.push(name);
            }
        }
    }
    // What is nested in every row does not fit into cells.
    heads.retain(|head| {
        let mut values =
            records.iter().filter_map(|(_, record)| record.get(*head)).filter(|value| !value.is_null());
        values.clone().next().is_none() || values.any(is_plain)
    });
    // What a row is called comes before what it amounts to.
    let words =
        |head: &&str| !records.iter().any(|(_, record)| record.get(*head).is_some_and(Value::is_string));
    heads.sort_by_key(words);
    let named = records.iter().any(|(name, _)| name.is_some());
    let row = |(name, record): &(Option<&str>, &Map<String, Value>)| {
        let first = named.then(|| Cell { text: name.unwrap_or_default().to_owned(), number: false });
        first
            .into_iter()
            .chain(heads.iter().map(|head| record.get(*head).map(cell).unwrap_or_default()))
            .collect()
    };
    let rows = records.iter().map(row).collect();
    let first = named.then(String::new);
    Body::Table {
        heads: first.into_iter().chain(heads.iter().map(|head| (*head).to_owned())).collect(),
        rows,
    }
}

fn padded(rows: Vec<Vec<Cell>>, width: usize) -> Vec<Vec<Cell>> {
    rows.into_iter()
        .map(|mut row| {
            row.resize(width, Cell::default());
            row
        })
        .collect()
}

/// A value in a few letters.
pub fn cell(value: &Value) -> Cell {
    let words = |text: String| Cell { text, number: false };
    match value {
        Value::Null => Cell::default(),
        Value::Bool(flag) => words(flag.to_string()),
        Value::Number(number) => Cell { text: amount(number), number: true },
        Value::String(text) => words(text.clone()),
        Value::Array(items) if is_plain(value) => {
            words(items.iter().map(|item| cell(item).text).collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => words(format!("{} items", items.len())),
        Value::Object(object) => words(format!("{} members", object.len())),
    }
}

fn amount(number: &serde_json::Number) -> String {
    if let Some(whole) = number.as_u64() {
        return fanfold_protocol::shown::count(whole);
    }
    match number.as_i64() {
        Some(negative) => format!("-{}", fanfold_protocol::shown::count(negative.unsigned_abs())),
        None => number.as_f64().map(six_digits).unwrap_or_default(),
    }
}

/// Six digits that count.
fn six_digits(value: f64) -> String {
    if value == 0.0 || !(1e-4..1e9).contains(&value.abs()) {
        return plain(value, 0.0);
    }
    let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(body: &Body) -> Vec<Vec<String>> {
        match body {
            Body::Pairs(pairs) => {
                pairs.iter().map(|(name, cell)| vec![name.clone(), cell.text.clone()]).collect()
            }
            Body::Table { heads, rows } => {
                let rows = rows.iter().map(|row| row.iter().map(|cell| cell.text.clone()).collect());
                std::iter::once(heads.clone()).chain(rows).collect()
            }
        }
    }

    #[track_caller]
    fn check(result: Value, expected: Value) {
        let found: Vec<_> = sections(&result).iter().map(|s| json!([s.title, texts(&s.body)])).collect();
        assert_eq!(json!(found), expected);
    }

    #[test]
    fn results_become_sections() {
        check(json!(7), json!([["", [["", "7"]]]]));
        check(
            json!({"rows": 1_000, "auc": 0.8310006, "charts": [1], "grades": [{"pd": 0.5, "grade": "A"}, {"grade": "B"}]}),
            json!([
                ["", [["auc", "0.831001"], ["rows", "1,000"]]],
                ["grades", [["grade", "pd"], ["A", "0.5"], ["B", ""]]]
            ]),
        );
        check(
            json!({"columns": {"age": {"mean": 35.5, "nulls": 0}, "sex": {"nulls": 2}}}),
            json!([["columns", [["", "mean", "nulls"], ["age", "35.5", "0"], ["sex", "", "2"]]]]),
        );
        check(
            json!([{"n": 1, "bins": {"a": [1]}}, {"n": 2, "bins": null}]),
            json!([["", [["n"], ["1"], ["2"]]]]),
        );
        check(json!([[1, 2], [3]]), json!([["", [["1", "2"], ["1", "2"], ["3", ""]]]]));
        check(json!({"a": {"b": {"c": 1}}, "d": []}), json!([["", [["d", ""]]], ["a · b", [["c", "1"]]]]));
        check(json!(["x", 1]), json!([["", [["value"], ["x"], ["1"]]]]));
    }

    #[test]
    fn amounts_keep_six_digits() {
        let check = |value: f64, text: &str| assert_eq!(six_digits(value), text);
        check(0.0, "0");
        check(0.123456789, "0.123457");
        check(-1234.5678, "-1234.57");
        check(1234567.0, "1234567");
        check(1e-9, "1e-9");
        assert_eq!(cell(&json!(-12345)).text, "-12,345");
        assert_eq!(cell(&json!([1, 2, 3])).text, "1, 2, 3");
        assert_eq!(cell(&json!((0..20).collect::<Vec<_>>())).text, "20 items");
    }
}
