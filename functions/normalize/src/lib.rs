// SPDX-License-Identifier: Apache-2.0
//! Scales the numeric columns of a table: the clean and transform step before a
//! model is fitted.
//!
//! Params: `stats`, the answer of `column-stats`; `method`, `zscore` (minus the
//! mean, over the standard deviation) or `minmax` (0 at the least value, 1 at the
//! greatest); `keep`, columns to leave as they are. Columns that are not numeric
//! stay as they are too, missing values stay missing, and a constant column
//! becomes 0. A numeric column without statistics is an error.

use std::{collections::HashMap, sync::Arc};

use fanfold_sdk::{
    arrow::{
        array::{ArrayRef, Float64Array},
        datatypes::{DataType, Field, Schema},
    },
    prelude::*,
    table::numbers,
};

/// What the job is asked.
#[derive(Deserialize)]
struct Options {
    method: Method,
    stats: Stats,
    #[serde(default)]
    keep: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    ZScore,
    MinMax,
}

/// The part of the answer of `column-stats` that is needed here.
#[derive(Deserialize)]
struct Stats {
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    mean: Option<f64>,
    std_dev: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

impl Column {
    /// What to take off each value, and what to divide the rest by.
    fn scale(&self, method: Method) -> Option<(f64, f64)> {
        match method {
            Method::ZScore => self.mean.zip(self.std_dev),
            Method::MinMax => self.min.zip(self.max).map(|(min, max)| (min, max - min)),
        }
    }
}

#[fanfold::map]
fn normalize(rows: &RecordBatch, options: &Params<Options>) -> Result<RecordBatch> {
    let known: HashMap<&str, &Column> = options.stats.columns.iter().map(|c| (c.name.as_str(), c)).collect();
    let (mut fields, mut columns): (Vec<Arc<Field>>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, array) in rows.schema().fields().iter().zip(rows.columns()) {
        let numbers = numbers(array).filter(|_| !options.keep.contains(field.name()));
        let Some(numbers) = numbers else {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(array));
            continue;
        };
        let scale = known.get(field.name().as_str()).and_then(|c| c.scale(options.method));
        let (offset, divisor) = scale.ok_or_else(|| unknown(field.name()))?;
        let scaled: Float64Array =
            numbers.unary(|x| if divisor > 0.0 { (x - offset) / divisor } else { 0.0 });
        fields.push(Arc::new(Field::new(field.name(), DataType::Float64, field.is_nullable())));
        columns.push(Arc::new(scaled));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn unknown(column: &str) -> Error {
    Error::new(
        "column-not-found",
        format!(
            "expected statistics of the column {column:?}, found none; run column-stats over it, or put it into keep"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[derive(Row, Debug, PartialEq)]
    struct Item {
        id: i64,
        price: Option<f64>,
        flat: f64,
        name: String,
    }

    fn items(prices: &[Option<f64>]) -> Vec<Item> {
        let item = |(n, price): (usize, &Option<f64>)| Item {
            id: n as i64,
            price: *price,
            flat: 3.0,
            name: "x".to_owned(),
        };
        prices.iter().enumerate().map(item).collect()
    }

    fn run(method: &str, stats: Value) -> Result<Vec<Option<f64>>> {
        let rows = items(&[Some(2.0), None, Some(6.0)]);
        let params = json!({ "method": method, "stats": { "columns": stats }, "keep": ["id"] });
        let rows = testing::map::<normalize>(rows, params)?.rows::<Item>()?;
        assert!(rows.iter().all(|r| r.flat == 0.0 && r.name == "x"));
        assert_eq!(rows.iter().map(|r| r.id).collect::<Vec<_>>(), [0, 1, 2]);
        Ok(rows.into_iter().map(|r| r.price).collect())
    }

    fn stats() -> Value {
        json!([
            { "name": "price", "mean": 4.0, "std_dev": 2.0, "min": 2.0, "max": 6.0 },
            { "name": "flat", "mean": 3.0, "std_dev": 0.0, "min": 3.0, "max": 3.0 }
        ])
    }

    #[test]
    fn numbers_are_scaled() -> Result<()> {
        assert_eq!(run("zscore", stats())?, [Some(-1.0), None, Some(1.0)]);
        assert_eq!(run("minmax", stats())?, [Some(0.0), None, Some(1.0)]);
        Ok(())
    }

    #[test]
    fn a_column_without_statistics_is_refused() {
        let found = run("zscore", json!([])).map(drop).map_err(|e| e.code().to_owned());
        assert_eq!(found, Err("column-not-found".to_owned()));
    }
}
