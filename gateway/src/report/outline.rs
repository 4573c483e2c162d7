// SPDX-License-Identifier: Apache-2.0
//! What of a result is a table: any JSON as sections of pairs, tables, lists.
//!
//! Pure. Objects of plain values become pairs, lists of objects become tables,
//! objects of such objects become tables with the names in front. What is nested
//! deeper becomes sections of its own. Whatever a function returns, there are so many
//! sections, columns, rows and pairs at most: what is beyond is counted, not walked through.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::chart::digits::{grouped, scientific, trimmed};

/// The member of a result that holds its charts.
pub const CHARTS: &str = "charts";
/// What is nested deeper is counted.
const DEPTH_MAX: usize = 6;
/// From then on nothing gets sections of its own.
const SECTIONS_MAX: usize = 1_000;
/// Records of more names are no rows of a table.
const COLUMNS_MAX: usize = 500;
/// Rows of a table, or pairs; a browser gets slow beyond.
const ROWS_MAX: usize = 5_000;
/// Cells of all tables and pairs together, most of which may be empty.
pub(super) const CELLS_MAX: usize = 1_000_000;
/// Letters of a name within the title of what it holds.
const LETTERS_MAX: usize = 100;

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
    Pairs {
        /// Each with its name, which is empty for a value by itself.
        pairs: Vec<(String, Cell)>,
        /// So many are not among them.
        more: usize,
    },
    /// Rows under heads.
    Table {
        /// The columns' names.
        heads: Vec<String>,
        /// A cell for each head.
        rows: Vec<Vec<Cell>>,
        /// So many rows are not among them.
        more: usize,
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
    let mut room = CELLS_MAX;
    sections_within(result, &mut room)
}

/// The same with room for so many cells, which is what is left afterwards.
pub(super) fn sections_within(result: &Value, room: &mut usize) -> Vec<Section> {
    let mut sections = Vec::new();
    walk(String::new(), result, 0, &mut sections, room);
    sections
}

fn walk(title: String, value: &Value, depth: usize, out: &mut Vec<Section>, room: &mut usize) {
    match value {
        Value::Object(object) => walk_object(title, object, depth, out, room),
        Value::Array(items) => out.push(Section { title, body: list(items, room) }),
        plain => {
            let pairs = vec![(String::new(), cell(plain))];
            out.push(Section { title, body: Body::Pairs { pairs, more: 0 } });
        }
    }
}

fn walk_object(
    title: String,
    object: &Map<String, Value>,
    depth: usize,
    out: &mut Vec<Section>,
    room: &mut usize,
) {
    let members = || object.iter().filter(|(name, _)| depth > 0 || *name != CHARTS);
    if depth > 0 && is_table_of_records(object) {
        let records = members().filter_map(|(name, value)| Some((Some(name.as_str()), value.as_object()?)));
        let records: Vec<_> = records.take(ROWS_MAX).collect();
        if let Some(body) = table(&records, object.len(), room) {
            out.push(Section { title, body });
            return;
        }
    }
    let nested = members().filter(|(_, value)| !is_plain(value)).count();
    let counted = depth >= DEPTH_MAX || out.len() + nested > SECTIONS_MAX;
    let (plain, nested): (Vec<_>, Vec<_>) = members().partition(|(_, value)| is_plain(value) || counted);
    if !plain.is_empty() {
        let fits = fitting(plain.len(), 2, room);
        let more = plain.len() - fits;
        let pairs = plain.into_iter().take(fits).map(|(name, value)| (name.clone(), cell(value))).collect();
        out.push(Section { title: title.clone(), body: Body::Pairs { pairs, more } });
    }
    for (name, value) in nested {
        let name: String = name.chars().take(LETTERS_MAX).collect();
        let title = if title.is_empty() { name } else { format!("{title} · {name}") };
        walk(title, value, depth + 1, out, room);
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

fn list(items: &[Value], room: &mut usize) -> Body {
    let shown = &items[..items.len().min(ROWS_MAX)];
    if items.iter().all(Value::is_object) {
        let records: Vec<_> = shown.iter().filter_map(|item| Some((None, item.as_object()?))).collect();
        if let Some(table) = table(&records, items.len(), room) {
            return table;
        }
    }
    let width = shown.iter().filter_map(Value::as_array).map(Vec::len).max().unwrap_or_default();
    if items.iter().all(Value::is_array) && width <= COLUMNS_MAX {
        let fits = fitting(items.len(), width, room);
        let rows = shown.iter().take(fits);
        let rows = rows.filter_map(|row| Some(row.as_array()?.iter().map(cell).collect())).collect();
        let heads = (1..=width).map(|n| n.to_string()).collect();
        return Body::Table { heads, rows: padded(rows, width), more: items.len() - fits };
    }
    let fits = fitting(items.len(), 1, room);
    let rows = shown.iter().take(fits).map(|item| vec![cell(item)]).collect();
    Body::Table { heads: vec!["value".to_owned()], rows, more: items.len() - fits }
}

/// How many of so many rows are shown, and takes the room for them.
fn fitting(rows: usize, columns: usize, room: &mut usize) -> usize {
    let fits = rows.min(ROWS_MAX).min(*room / columns.max(1));
    *room -= fits * columns;
    fits
}

/// The names of records, each once; none where there are too many for a table.
fn heads<'a>(records: &[(Option<&str>, &'a Map<String, Value>)]) -> Option<Vec<&'a str>> {
    let (mut heads, mut seen) = (Vec::new(), HashSet::new());
    for name in records.iter().flat_map(|(_, record)| record.keys()) {
        if seen.insert(name) {
            heads.push(name.as_str());
        }
        if heads.len() > COLUMNS_MAX {
            return None;
        }
    }
    Some(heads)
}

/// The first of so many records as rows, if they have not too many names for that.
fn table(records: &[(Option<&str>, &Map<String, Value>)], total: usize, room: &mut usize) -> Option<Body> {
    let mut heads = heads(records)?;
    let named = records.iter().any(|(name, _)| name.is_some());
    // Records without room are not looked through for each of the heads.
    let fits = fitting(total, heads.len() + usize::from(named), room);
    let records = &records[..records.len().min(fits)];
    // What is nested in every row does not fit into cells.
    heads.retain(|head| {
        let mut values =
            records.iter().filter_map(|(_, record)| record.get(*head)).filter(|value| !value.is_null());
        values.clone().next().is_none() || values.any(is_plain)
    });
    // What a row is called comes before what it amounts to.
    let is_amount =
        |head: &&str| !records.iter().any(|(_, record)| record.get(*head).is_some_and(Value::is_string));
    heads.sort_by_cached_key(is_amount);
    let row = |(name, record): &(Option<&str>, &Map<String, Value>)| {
        let first = named.then(|| words(name.unwrap_or_default().to_owned()));
        first
            .into_iter()
            .chain(heads.iter().map(|head| record.get(*head).map(cell).unwrap_or_default()))
            .collect()
    };
    let rows = records.iter().map(row).collect();
    let first = named.then(String::new);
    Some(Body::Table {
        heads: first.into_iter().chain(heads.iter().map(|head| (*head).to_owned())).collect(),
        rows,
        more: total - fits,
    })
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

fn words(text: String) -> Cell {
    Cell { text, number: false }
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

/// Six digits that count, or of large numbers all before the point.
fn six_digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-4..1e15).contains(&size) => scientific(value, 5),
        size => grouped(&trimmed(value, (5 - size.log10().floor() as i32).clamp(0, 9) as usize)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(body: &Body) -> Vec<Vec<String>> {
        match body {
            Body::Pairs { pairs, .. } => {
                pairs.iter().map(|(name, cell)| vec![name.clone(), cell.text.clone()]).collect()
            }
            Body::Table { heads, rows, .. } => {
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
    fn what_is_beyond_is_counted() {
        let table = |result: Value| match sections(&result).remove(0).body {
            Body::Table { heads, rows, more } => (heads.len(), rows.len(), more),
            Body::Pairs { .. } => panic!("no table"),
        };
        assert_eq!(table(json!(vec![json!({"a": 1}); ROWS_MAX + 7])), (1, ROWS_MAX, 7));
        assert_eq!(table(json!(vec![1; ROWS_MAX + 7])), (1, ROWS_MAX, 7));
        // Of wider records the number of their members.
        let many = |row: usize| json!({ format!("n{row}"): row });
        assert_eq!(table(json!((0..COLUMNS_MAX).map(many).collect::<Vec<_>>())).0, COLUMNS_MAX);
        let wide: Vec<Value> = (0..=COLUMNS_MAX).map(many).collect();
        assert_eq!(table(json!(wide)), (1, wide.len(), 0));
        check(json!([vec![0; COLUMNS_MAX + 1], []]), json!([["", [["value"], ["501 items"], [""]]]]));
        // A table of many columns takes the room of others.
        let mut room = 3 * COLUMNS_MAX;
        let wide: Map<String, Value> = (0..COLUMNS_MAX).map(|n| (n.to_string(), json!(n))).collect();
        let two = sections_within(&json!({"a": [wide, {}, {}, {}], "b": [[1], [2]]}), &mut room);
        let left = two.iter().map(|section| match &section.body {
            Body::Table { rows, more, .. } => (rows.len(), *more),
            Body::Pairs { .. } => panic!("no table"),
        });
        assert_eq!(left.collect::<Vec<_>>(), [(3, 1), (0, 2)]);
        // Names and values are cells as well.
        let named = |count: usize| Value::Object((0..count).map(|n| (n.to_string(), json!(n))).collect());
        let pairs = |result: Value, room: &mut usize| match sections_within(&result, room).remove(0).body {
            Body::Pairs { pairs, more } => (pairs.len(), more),
            Body::Table { .. } => panic!("no pairs"),
        };
        let mut room = CELLS_MAX;
        assert_eq!(pairs(named(ROWS_MAX + 7), &mut room), (ROWS_MAX, 7));
        assert_eq!(room, CELLS_MAX - 2 * ROWS_MAX);
        assert_eq!(pairs(named(7), &mut 5), (2, 5));
        let nested = |name: usize| ("x".repeat(200) + &name.to_string(), json!({"a": [{}], "b": [{}]}));
        let deep: Map<String, Value> = (0..SECTIONS_MAX).map(nested).collect();
        let found = sections(&Value::Object(deep));
        assert!(found.len() <= 2 * SECTIONS_MAX, "{}", found.len());
        assert!(found.iter().all(|section| section.title.chars().count() < 2 * LETTERS_MAX));
    }

    #[test]
    fn amounts_keep_six_digits() {
        let check = |value: f64, text: &str| assert_eq!(six_digits(value), text);
        check(0.0, "0");
        check(0.123456789, "0.123457");
        check(-1234.5678, "-1234.57");
        check(12_345.678, "12,345.7");
        check(1234567.0, "1,234,567");
        check(999_999.5, "1,000,000");
        check(1e-9, "1e-9");
        check(0.000_012_345_67, "1.23457e-5");
        check(999_999_999.5, "1,000,000,000");
        check(1_234_567_890.75, "1,234,567,891");
        check(-1e9, "-1,000,000,000");
        check(123_456_789_012_345.0, "123,456,789,012,345");
        check(-1.234_567_89e15, "-1.23457e15");
        check(f64::MAX, "1.79769e308");
        assert_eq!(cell(&json!(-12345)).text, "-12,345");
        assert_eq!(cell(&json!([1, 2, 3])).text, "1, 2, 3");
        assert_eq!(cell(&json!((0..20).collect::<Vec<_>>())).text, "20 items");
    }
}
