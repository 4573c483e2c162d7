// SPDX-License-Identifier: Apache-2.0
//! A result in a terminal: its sections as tables, one under the other.

use serde_json::Value;
use uuid::Uuid;

use crate::output::{Table, harmless};
use fanfold_gateway::report::{Body, CHARTS, Cell, sections};

/// Rows of a table, or pairs, that are shown; the rest is counted.
const ROWS_SHOWN: usize = 200;

/// The text, and what it does not show of the result of this job.
pub fn text(result: &Value, job: Uuid) -> String {
    let mut parts: Vec<String> = sections(result)
        .into_iter()
        .map(|section| {
            let body = body(&section.body);
            if section.title.is_empty() { body } else { format!("{}\n{body}", harmless(&section.title)) }
        })
        .collect();
    if let Some(charts) = result.get(CHARTS).and_then(Value::as_array).filter(|charts| !charts.is_empty()) {
        let charts =
            if charts.len() == 1 { "a chart".to_owned() } else { format!("{} charts", charts.len()) };
        parts.push(format!("{charts} besides, drawn by `fanfold result {job} --html --out FILE`"));
    }
    parts.iter().map(|part| part.trim_end()).collect::<Vec<_>>().join("\n\n")
}

fn body(body: &Body) -> String {
    match body {
        Body::Pairs { pairs: all, more } => {
            if let [(name, value)] = all.as_slice()
                && name.is_empty()
            {
                return harmless(&value.text);
            }
            // A member without a value is told as well: it may be a mean of nothing.
            let mut named = Table::plain(&[false, false]);
            let shown = all.iter().take(ROWS_SHOWN);
            shown.for_each(|(name, cell)| named.row([name.as_str(), cell.text.as_str()]));
            and_more(named.text(), all.len().saturating_sub(ROWS_SHOWN) + more, "values")
        }
        Body::Table { heads, rows, more } => table(heads, rows, *more),
    }
}

fn table(heads: &[String], rows: &[Vec<Cell>], more: usize) -> String {
    let number = |index: usize| rows.iter().any(|row| row.get(index).is_some_and(|cell| cell.number));
    let mut table = Table::under(heads.iter().enumerate().map(|(index, head)| (head.clone(), number(index))));
    rows.iter().take(ROWS_SHOWN).for_each(|row| table.row(row.iter().map(|cell| cell.text.as_str())));
    and_more(table.text(), rows.len().saturating_sub(ROWS_SHOWN) + more, "rows")
}

fn and_more(text: String, more: usize, what: &str) -> String {
    match more {
        0 => text,
        more => format!("{}\nand {more} more {what}; see them with --output json", text.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_is_readable() {
        let result = json!({"rows": 1000, "note": "a\u{1b}[2J", "grades": [{"grade": "A", ">50k": 2}], "charts": [{}, {}]});
        let job = Uuid::nil();
        assert_eq!(
            text(&result, job),
            format!(
                "note  a\\u{{1b}}[2J\nrows  1,000\n\ngrades\ngrade  >50k\nA         2\n\n2 charts besides, drawn by \
                 `fanfold result {job} --html --out FILE`"
            )
        );
        let one = text(&json!({"charts": [{}]}), job);
        assert!(
            one.ends_with(&format!("a chart besides, drawn by `fanfold result {job} --html --out FILE`")),
            "{one}"
        );
        assert_eq!(text(&json!("ok"), job), "ok");
        assert_eq!(text(&json!({"mean": null, "rows": 0, "title": ""}), job), "mean\nrows   0\ntitle");
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        let named: serde_json::Map<_, _> = (0..ROWS_SHOWN + 3).map(|n| (format!("n{n}"), json!(n))).collect();
        let shown = text(&json!({"named": named, "rows": vec![7; ROWS_SHOWN + 2]}), Uuid::nil());
        assert!(shown.contains("\nand 3 more values; see them with --output json\n\nrows\n"), "{shown}");
        assert!(shown.ends_with(" 7\nand 2 more rows; see them with --output json"), "{shown}");
        assert_eq!(shown.lines().count(), 2 * ROWS_SHOWN + 6, "{shown}");
    }
}
