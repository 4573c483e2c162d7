// SPDX-License-Identifier: Apache-2.0
//! Statistics of every column of whatever table it is given.
//!
//! Of numeric columns: count, nulls, mean, standard deviation (of a sample),
//! extremes, quartiles and a histogram of equal bins between the extremes. Of
//! the others: count, nulls, about how many distinct values, and the most
//! frequent ones of text.
//!
//! Numbers are what `table::numbers` makes of them: integers beyond 2⁵³ and
//! decimals are rounded to an `f64` before anything else. Of those, counts, nulls and
//! extremes are exact, moments exact up to rounding. Quartiles and the histogram's counts
//! are exact where there are at most 512 different numbers; of more they come from a
//! t-digest, whose error in rank is below one percent in the middle and smaller at the ends.
//!
//! Each of the most frequent texts, `top`, has its exact `count` where there are at most
//! 768 different ones. Where there are more, it came `count_min` times at least and
//! `count_max` times at most; texts that may be no more frequent than those that were not
//! followed are not shown, so a column of keys has no `top`.
//!
//! Answer: `rows`, `columns` in the table's order, none where there are no rows, and `charts`. NaN counts as
//! missing. Of texts beyond 256 bytes the beginning is shown, marked as `cut`. The
//! answer is what `normalize` takes as its param `stats`.

use fanfold_sdk::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        datatypes::DataType,
    },
    prelude::*,
    stats::{Distinct, MinMax, Moments, Quantiles, TopItem, TopK},
    table::{counts, is_number, numbers},
};

/// Bins of a histogram.
const BINS: usize = 20;
/// Most frequent values shown of a column.
const TOP: usize = 5;
/// Values followed to find those.
const TOP_TRACKED: usize = 64;

/// The statistics of the rows seen so far.
#[derive(Default, Serialize, Deserialize)]
pub struct ColumnStats {
    rows: u64,
    columns: Vec<(String, String, Summary)>,
}

#[derive(Serialize, Deserialize)]
enum Summary {
    Numeric { nulls: u64, moments: Moments, extremes: MinMax, quantiles: Quantiles },
    Text { count: u64, nulls: u64, distinct: Distinct, top: TopK },
    Other { count: u64, nulls: u64 },
}

/// What the job answers.
#[derive(Serialize)]
pub struct Answer {
    rows: u64,
    columns: Vec<Column>,
    charts: Vec<Value>,
}

#[derive(Default, Serialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    count: u64,
    nulls: u64,
    #[serde(flatten)]
    numeric: Option<Numeric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distinct: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Value>,
}

#[derive(Serialize)]
struct Numeric {
    mean: Option<f64>,
    std_dev: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    q1: Option<f64>,
    median: Option<f64>,
    q3: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    histogram: Option<Histogram>,
}

/// `counts[i]` values lie between `edges[i]` and `edges[i + 1]`; those at an edge are above it.
#[derive(Serialize)]
struct Histogram {
    edges: Vec<f64>,
    counts: Vec<u64>,
}

#[fanfold::aggregate]
impl Aggregate for ColumnStats {
    type Output = Answer;

    fn add_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let schema = batch.schema();
        if self.columns.is_empty() {
            let column = |field: &std::sync::Arc<fanfold_sdk::arrow::datatypes::Field>| {
                (field.name().clone(), field.data_type().to_string(), Summary::of(field.data_type()))
            };
            self.columns = schema.fields().iter().map(column).collect();
        }
        for ((name, kind, summary), (field, array)) in
            self.columns.iter_mut().zip(schema.fields().iter().zip(batch.columns()))
        {
            if name != field.name() || *kind != field.data_type().to_string() {
                return Err(differs(name, kind, field.name(), &field.data_type().to_string()));
            }
            summary.add(array);
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn merge(&mut self, other: Self) -> Result<()> {
        self.rows += other.rows;
        if self.columns.is_empty() {
            self.columns = other.columns;
            return Ok(());
        }
        for ((name, kind, summary), (other_name, other_kind, other)) in
            self.columns.iter_mut().zip(other.columns)
        {
            if *name != other_name || *kind != other_kind {
                return Err(differs(name, kind, &other_name, &other_kind));
            }
            summary.merge(other);
        }
        Ok(())
    }

    fn finish(self) -> Result<Answer> {
        let columns: Vec<Column> =
            self.columns.into_iter().map(|(name, kind, summary)| summary.finish(name, kind)).collect();
        let charts = columns.iter().filter_map(chart).collect();
        Ok(Answer { rows: self.rows, columns, charts })
    }
}

impl Summary {
    fn of(kind: &DataType) -> Self {
        match kind {
            kind if is_number(kind) => Self::Numeric {
                nulls: 0,
                moments: Moments::default(),
                extremes: MinMax::default(),
                quantiles: Quantiles::default(),
            },
            DataType::Utf8 => {
                Self::Text { count: 0, nulls: 0, distinct: Distinct::default(), top: TopK::new(TOP_TRACKED) }
            }
            _ => Self::Other { count: 0, nulls: 0 },
        }
    }

    /// Adds a column's part; it is of the type that this was made for.
    fn add(&mut self, array: &ArrayRef) {
        // A column of the type null says that it has no nulls, having no bits for them.
        let missing = array.logical_null_count() as u64;
        let values = array.len() as u64 - missing;
        match self {
            Self::Numeric { nulls, moments, extremes, quantiles } => {
                let Some(numbers) = numbers(array) else { return };
                let before = moments.count();
                moments.extend_from_array(&numbers);
                extremes.extend_from_array(&numbers);
                quantiles.extend_from_array(&numbers);
                *nulls += numbers.len() as u64 - (moments.count() - before);
            }
            Self::Text { count, nulls, distinct, top } => {
                *count += values;
                *nulls += missing;
                // Most texts repeat: count them first, and sketch each once.
                for (text, n) in counts(array.as_string::<i32>()) {
                    distinct.add(text);
                    top.add_count(text, n);
                }
            }
            Self::Other { count, nulls } => {
                *count += values;
                *nulls += missing;
            }
        }
    }

    /// Merges what later rows gave; both are of one column and so of one kind.
    fn merge(&mut self, later: Self) {
        match (self, later) {
            (
                Self::Numeric { nulls, moments, extremes, quantiles },
                Self::Numeric { nulls: more, moments: m, extremes: e, quantiles: q },
            ) => {
                *nulls += more;
                moments.merge(&m);
                extremes.merge(&e);
                quantiles.merge(&q);
            }
            (
                Self::Text { count, nulls, distinct, top },
                Self::Text { count: also, nulls: more, distinct: d, top: t },
            ) => {
                *count += also;
                *nulls += more;
                distinct.merge(&d);
                top.merge(&t);
            }
            (Self::Other { count, nulls }, Self::Other { count: also, nulls: more }) => {
                *count += also;
                *nulls += more;
            }
            _ => {}
        }
    }

    fn finish(self, name: String, kind: String) -> Column {
        match self {
            Self::Numeric { nulls, moments, extremes, quantiles } => {
                let quantile = |rank| quantiles.quantile(rank);
                let numeric = Numeric {
                    mean: moments.mean(),
                    std_dev: moments.sample_std_dev(),
                    min: extremes.min(),
                    max: extremes.max(),
                    q1: quantile(0.25),
                    median: quantile(0.5),
                    q3: quantile(0.75),
                    histogram: histogram(&moments, &extremes, &quantiles),
                };
                Column {
                    name,
                    kind,
                    count: moments.count(),
                    nulls,
                    numeric: Some(numeric),
                    ..Column::default()
                }
            }
            Self::Text { count, nulls, distinct, top } => {
                // What is not followed came as often as the sketch may err, at most.
                let certain = |item: &TopItem| item.count_min > top.error();
                let top = top.top(TOP).into_iter().filter(certain).map(frequent).collect();
                let distinct = Some(distinct.estimate().round() as u64);
                Column { name, kind, count, nulls, distinct, top, ..Column::default() }
            }
            Self::Other { count, nulls } => Column { name, kind, count, nulls, ..Column::default() },
        }
    }
}

fn frequent(item: TopItem) -> Value {
    let mut shown = json!({ "value": item.item });
    if item.count_min == item.count_max {
        shown["count"] = json!(item.count_max);
    } else {
        shown["count_min"] = json!(item.count_min);
        shown["count_max"] = json!(item.count_max);
    }
    if item.cut {
        shown["cut"] = json!(true);
    }
    shown
}

/// Equal bins between the extremes, filled by the sketch's ranks.
fn histogram(moments: &Moments, extremes: &MinMax, quantiles: &Quantiles) -> Option<Histogram> {
    let (min, max) = (extremes.min()?, extremes.max()?);
    let width = (max - min) / BINS as f64;
    if width <= 0.0 || !width.is_finite() {
        return None;
    }
    let edges: Vec<f64> = (0..=BINS).map(|n| if n == BINS { max } else { min + width * n as f64 }).collect();
    let total = moments.count();
    // Cumulative counts never fall and end at the total, so the bins sum to it.
    let mut below = 0;
    let counts = edges[1..].iter().enumerate().map(|(n, edge)| {
        let rank = if n + 1 == BINS { 1.0 } else { quantiles.rank(*edge).unwrap_or(1.0) };
        let upto = ((rank * total as f64).round() as u64).clamp(below, total);
        upto - std::mem::replace(&mut below, upto)
    });
    let counts = counts.collect();
    Some(Histogram { edges, counts })
}

/// A bar chart of a numeric column's histogram.
fn chart(column: &Column) -> Option<Value> {
    let histogram = column.numeric.as_ref()?.histogram.as_ref()?;
    let bins = histogram.edges.windows(2).zip(&histogram.counts);
    let values: Vec<Value> =
        bins.map(|(edges, count)| json!({ "from": edges[0], "to": edges[1], "rows": count })).collect();
    Some(json!({
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": column.name,
        "data": { "values": values },
        "mark": "bar",
        "encoding": {
            "x": { "field": "from", "bin": { "binned": true }, "type": "quantitative", "title": column.name },
            "x2": { "field": "to" },
            "y": { "field": "rows", "type": "quantitative", "title": "rows" }
        }
    }))
}

fn differs(name: &str, kind: &str, found: &str, found_kind: &str) -> Error {
    Error::new(
        "schema-mismatch",
        format!(
            "expected the column {name:?} of type {kind} in every part of the table, found {found:?} of type \
             {found_kind}; pass columns, or store the table with one schema"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use fanfold_sdk::{
        arrow::{
            array::NullArray,
            datatypes::{Field, Schema},
        },
        testing,
    };

    #[derive(Row)]
    struct Item {
        price: Option<f64>,
        name: String,
        sold: bool,
    }

    fn items(n: u32) -> Vec<Item> {
        let item = |i: u32| Item {
            price: (!i.is_multiple_of(10)).then_some(f64::from(i)),
            name: format!("item {}", i % 3),
            sold: i.is_multiple_of(2),
        };
        (0..n).map(item).collect()
    }

    fn near(value: &Value, expected: f64, tolerance: f64) {
        let found = value.as_f64().unwrap_or(f64::NAN);
        assert!((found - expected).abs() <= tolerance, "{found} {expected}");
    }

    #[test]
    fn columns_are_summed_up_whatever_the_partitions() -> Result<()> {
        for partitions in [1, 7] {
            let answer = testing::aggregate::<ColumnStats>(items(1_000), (), partitions)?;
            assert_eq!(answer["rows"], 1_000);
            let price = &answer["columns"][0];
            assert_eq!((&price["count"], &price["nulls"]), (&json!(900), &json!(100)));
            assert_eq!((&price["min"], &price["max"]), (&json!(1.0), &json!(999.0)));
            near(&price["mean"], 500.0, 1e-9);
            near(&price["median"], 500.0, 10.0);
            let counts = price["histogram"]["counts"].as_array().cloned().unwrap_or_default();
            assert_eq!(counts.iter().filter_map(Value::as_u64).sum::<u64>(), 900);
            assert_eq!(counts.len(), BINS);
            let name = &answer["columns"][1];
            assert_eq!(
                (&name["distinct"], &name["top"][0]),
                (&json!(3), &json!({ "value": "item 0", "count": 334 }))
            );
            assert_eq!(answer["columns"][2]["count"], 1_000);
            assert_eq!(answer["charts"].as_array().map(Vec::len), Some(1));
        }
        Ok(())
    }

    #[test]
    fn a_histogram_of_whole_numbers_has_each_in_its_bin() -> Result<()> {
        let item = |i: u32| Item { price: Some(f64::from(i % 4)), name: String::new(), sold: true };
        for partitions in [1, 3] {
            let items = (0..20_000).map(item).collect::<Vec<_>>();
            let answer = testing::aggregate::<ColumnStats>(items, (), partitions)?;
            let histogram = &answer["columns"][0]["histogram"];
            let found =
                |edge: &Value, count: &Value| Some((edge.as_f64()?, count.as_u64().filter(|n| *n > 0)?));
            let [edges, counts] =
                ["edges", "counts"].map(|part| histogram[part].as_array().into_iter().flatten());
            let found: Vec<_> = edges.zip(counts).filter_map(|(edge, count)| found(edge, count)).collect();
            // As numpy.histogram has them; the last bin is closed.
            let expected = [(0.0, 5_000), (0.9, 5_000), (1.95, 5_000), (2.85, 5_000)];
            assert_eq!(
                found.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
                expected.map(|(_, n)| n),
                "{histogram}"
            );
            assert!(found.iter().zip(expected).all(|((a, _), (b, _))| (a - b).abs() < 1e-9), "{histogram}");
        }
        Ok(())
    }

    #[derive(Row)]
    struct Page {
        text: String,
    }

    #[test]
    fn long_texts_fit_into_the_state() -> Result<()> {
        // Every other one is the same; whole, the 751 different ones would be beyond 8 MiB.
        let page = |n: u32| Page {
            text: format!("{}{}", "a page ".repeat(1_700), if n.is_multiple_of(2) { 0 } else { n }),
        };
        let answer = testing::aggregate::<ColumnStats>((0..1_500).map(page).collect::<Vec<_>>(), (), 3)?;
        let text = &answer["columns"][0];
        let begin = "a page ".repeat(37)[..256].to_owned();
        assert_eq!(text["top"][0], json!({ "value": begin, "count": 750, "cut": true }));
        assert_eq!(text["count"], 1_500);
        Ok(())
    }

    #[test]
    fn only_what_is_certainly_frequent_is_shown() -> Result<()> {
        let top = |text: fn(u32) -> String| -> Result<Value> {
            let pages: Vec<Page> = (0..30_000).map(|n| Page { text: text(n) }).collect();
            let answer = testing::aggregate::<ColumnStats>(pages, (), 3)?;
            Ok(answer["columns"][0]["top"].clone())
        };
        let found = top(|n| if n.is_multiple_of(10) { "often".to_owned() } else { n.to_string() })?;
        let bound = |name: &str| found[0][name].as_u64().unwrap_or_default();
        assert_eq!((&found[0]["value"], &found[0]["count"]), (&json!("often"), &Value::Null), "{found}");
        assert!((2_000..=3_000).contains(&bound("count_min")), "{found}");
        assert!((3_000..4_000).contains(&bound("count_max")), "{found}");
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
        // Each comes once.
        assert_eq!(top(|n| n.to_string())?, Value::Null);
        Ok(())
    }

    #[test]
    fn what_a_column_of_the_type_null_holds_is_missing() -> Result<()> {
        let schema = Schema::new(vec![Field::new("none", DataType::Null, true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(NullArray::new(3))])?;
        let answer = testing::aggregate::<ColumnStats>(batch, (), 1)?;
        let none = &answer["columns"][0];
        assert_eq!((&none["count"], &none["nulls"]), (&json!(0), &json!(3)));
        Ok(())
    }

    #[test]
    fn an_empty_table_has_an_answer() -> Result<()> {
        let answer = testing::aggregate::<ColumnStats>(Vec::<Item>::new(), (), 1)?;
        assert_eq!(answer["rows"], 0);
        Ok(())
    }
}
