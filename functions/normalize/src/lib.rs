// SPDX-License-Identifier: Apache-2.0
//! Scales the numeric columns of a table: the clean and transform step before a
//! model is fitted.
//!
//! Params: `stats`, the answer of `column-stats`; `method`, `zscore` (minus the
//! mean, over the standard deviation) or `minmax` (0 at the least value, 1 at the
//! greatest); `keep`, columns to leave as they are. Columns that are not numeric
//! stay as they are too, missing values (NaN among them) stay missing, and a
//! constant column becomes 0, also one of a single value. A numeric column without
//! statistics is an error, and so are values in one that had none when it was summed up.
//! So are integers and decimals whose statistics say that they are constant, but which
//! have so many digits that different ones are rounded to the same number.

use std::{collections::HashMap, sync::Arc};

use fanfold_sdk::{
    arrow::{
        array::{ArrayRef, Float64Array},
        datatypes::{DataType, Field, Schema},
    },
    prelude::*,
    table::numbers,
};

/// Decimal digits that an `f64` keeps whatever they are.
const DIGITS: i32 = 15;
/// 2^53: whole numbers below it are kept as well.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// What the job is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// What to take off each value, and what to divide the rest by; `None` where the
    /// statistics are those of no values.
    fn scale(&self, method: Method) -> Option<(f64, f64)> {
        // A single value has a mean, but no deviation.
        let same = self.min.is_some() && self.min == self.max;
        let differ = self.min.zip(self.max).is_some_and(|(min, max)| min < max);
        // Squares of distances lose their digits below this, and at last become zero.
        let held = |deviation: &f64| !differ || deviation * deviation >= f64::MIN_POSITIVE;
        match method {
            Method::ZScore => self.mean.zip(self.std_dev.filter(held).or(same.then_some(0.0))),
            Method::MinMax => self.min.zip(self.max).map(|(min, max)| (min, max - min)),
        }
    }

    /// Why values of this column cannot be scaled.
    fn unfit(&self) -> Error {
        let column = &self.name;
        let message = match (self.min, self.max, self.mean) {
            // Infinite numbers have no mean, and JSON has no infinite numbers.
            (Some(min), Some(max), Some(_)) => format!(
                "expected a standard deviation that a number can hold in the column {column:?}, found values from \
                 {min:e} to {max:e}, whose squares are too large or too small for one; use minmax, or put the column \
                 into keep"
            ),
            _ => format!(
                "expected statistics of the values in the column {column:?}, found those of none, or of some that \
                 are infinite; run column-stats over this table, or put the column into keep"
            ),
        };
        Error::new("invalid-params", message)
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
        let column = known.get(field.name().as_str()).ok_or_else(|| unknown(field.name()))?;
        let scaled: Float64Array = match column.scale(options.method) {
            // The extremes are further apart than any number: their halves are not.
            Some((least, f64::INFINITY)) => {
                let width = column.max.unwrap_or(f64::MAX) / 2.0 - least / 2.0;
                numbers.unary(|x| (x / 2.0 - least / 2.0) / width)
            }
            Some((offset, divisor)) if divisor > 0.0 => numbers.unary(|x| (x - offset) / divisor),
            // A single value has no deviation, and is constant for certain.
            Some((value, _)) if column.std_dev.is_some() && is_rounded(field.data_type(), value) => {
                return Err(indistinct(field.name(), value));
            }
            Some(_) => numbers.unary(|x| if x.is_nan() { x } else { 0.0 }),
            None if numbers.iter().flatten().all(f64::is_nan) => numbers,
            None => return Err(column.unfit()),
        };
        fields.push(Arc::new(Field::new(field.name(), DataType::Float64, field.is_nullable())));
        columns.push(Arc::new(scaled));
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Whether numbers of this type may differ and yet be this value as an `f64`.
fn is_rounded(kind: &DataType, value: f64) -> bool {
    let scale = match kind {
        DataType::Int64 | DataType::UInt64 => return value.abs() >= WHOLE_MAX,
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        _ => return false,
    };
    value.abs() * 10_f64.powi(i32::from(scale)) >= 10_f64.powi(DIGITS)
}

fn indistinct(column: &str, value: f64) -> Error {
    Error::new(
        "invalid-params",
        format!(
            "expected statistics that tell the values in the column {column:?} apart, found all of them rounded to \
             {value}, as numbers of more than {DIGITS} digits are; put the column into keep"
        ),
    )
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

    #[derive(Row)]
    struct Price {
        price: Option<f64>,
    }

    /// The prices by their column's statistics, each with its bits.
    fn scaled(method: &str, stats: Value, prices: &[Option<f64>]) -> Result<Vec<Option<u64>>> {
        let rows = prices.iter().map(|price| Price { price: *price }).collect::<Vec<_>>();
        let params = json!({ "method": method, "stats": { "columns": [stats] } });
        let rows = testing::map::<normalize>(rows, params)?.rows::<Price>()?;
        Ok(rows.into_iter().map(|row| row.price.map(f64::to_bits)).collect())
    }

    #[test]
    fn a_column_of_one_value_or_none_is_scaled() -> Result<()> {
        let (zero, nan) = (Some(0.0_f64.to_bits()), Some(f64::NAN.to_bits()));
        let none = json!({ "name": "price", "mean": null, "std_dev": null, "min": null, "max": null });
        let one = json!({ "name": "price", "mean": 7.0, "std_dev": null, "min": 7.0, "max": 7.0 });
        for method in ["zscore", "minmax"] {
            assert_eq!(scaled(method, none.clone(), &[None, Some(f64::NAN)])?, [None, nan]);
            assert_eq!(scaled(method, one.clone(), &[None, Some(7.0), Some(f64::NAN)])?, [None, zero, nan]);
            // These statistics are of another table.
            let error = scaled(method, none.clone(), &[Some(7.0)]).unwrap_err();
            assert_eq!(error.code(), "invalid-params");
            assert!(error.message().contains("\"price\""), "{error}");
        }
        // Values so far apart that their deviation is beyond all numbers are not the same.
        let wide = json!({ "name": "price", "mean": 0.0, "std_dev": null, "min": -1e200, "max": 1e200 });
        let error = scaled("zscore", wide.clone(), &[Some(1e200)]).unwrap_err();
        assert_eq!(error.code(), "invalid-params");
        assert!(
            ["from -1e200 to 1e200", "minmax"].iter().all(|part| error.message().contains(part)),
            "{error}"
        );
        let bits = |values: [f64; 3]| values.map(|x| Some(x.to_bits()));
        assert_eq!(scaled("minmax", wide, &[1e200, -1e200, 0.0].map(Some))?, bits([1.0, 0.0, 0.5]));
        Ok(())
    }

    #[test]
    fn values_too_near_for_their_squares_are_not_taken_for_constant() -> Result<()> {
        // As column-stats says of these: the squares are 0, or have lost most of their digits.
        for (unit, deviation) in [(1e-170, 0.0), (1e-162, 2.221e-162)] {
            let prices = [0.0, unit, 2.0 * unit];
            let stats =
                json!({ "name": "price", "mean": unit, "std_dev": deviation, "min": 0.0, "max": prices[2] });
            let error = scaled("zscore", stats.clone(), &prices.map(Some)).unwrap_err();
            assert_eq!(error.code(), "invalid-params");
            assert!(["too small", "minmax"].iter().all(|part| error.message().contains(part)), "{error}");
            assert_eq!(
                scaled("minmax", stats, &prices.map(Some))?,
                [0.0, 0.5, 1.0].map(|x: f64| Some(x.to_bits()))
            );
        }
        Ok(())
    }

    #[test]
    fn extremes_further_apart_than_any_number_are_scaled() -> Result<()> {
        for (min, max) in [(-1.7e308, 1.7e308), (f64::MIN, f64::MAX)] {
            let stats = json!({ "name": "price", "mean": 0.0, "std_dev": null, "min": min, "max": max });
            let found = scaled("minmax", stats, &[Some(max), None, Some(min), Some(0.0)])?;
            assert_eq!(
                found,
                [Some(1.0), None, Some(0.0), Some(0.5)].map(|x: Option<f64>| x.map(f64::to_bits))
            );
        }
        Ok(())
    }

    #[derive(Row)]
    struct Key {
        id: i64,
    }

    #[test]
    fn integers_that_statistics_cannot_tell_apart_are_refused() -> Result<()> {
        let keys = |ids: [i64; 2]| Vec::from(ids.map(|id| Key { id }));
        for method in ["zscore", "minmax"] {
            let stats = |min: f64, max: f64| {
                let id = json!({ "name": "id", "mean": min, "std_dev": max - min, "min": min, "max": max });
                json!({ "method": method, "stats": { "columns": [id] } })
            };
            // As column-stats says of these two.
            let (n, rounded) = (1_i64 << 53, 2_f64.powi(53));
            let error = testing::map::<normalize>(keys([n, n + 1]), stats(rounded, rounded)).unwrap_err();
            assert_eq!(error.code(), "invalid-params");
            assert!(error.message().contains("\"id\"") && error.message().contains("keep"), "{error}");
            testing::map::<normalize>(keys([n, n + 4]), stats(rounded, rounded + 4.0))?;
            testing::map::<normalize>(keys([7, 7]), stats(7.0, 7.0))?;
            // The same moment in microseconds: sixteen digits that are all kept.
            let moment = 1_700_000_000_000_000_i64;
            testing::map::<normalize>(keys([moment, moment]), stats(moment as f64, moment as f64))?;
        }
        Ok(())
    }

    #[test]
    fn a_column_without_statistics_is_refused() {
        let found = run("zscore", json!([])).map(drop).map_err(|e| e.code().to_owned());
        assert_eq!(found, Err("column-not-found".to_owned()));
    }
}
