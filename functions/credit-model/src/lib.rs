// SPDX-License-Identifier: Apache-2.0
//! The model that `credit-train` fits and `credit-score` applies: a logistic
//! regression over numbers and one-hot categories.
//!
//! A model names every column and every category that it knows, so that a table
//! that does not fit it is refused and never scored wrongly.

use std::sync::Arc;

use fanfold_sdk::{
    arrow::{
        array::{Array, ArrayRef, AsArray, Float64Array, StringArray},
        datatypes::{DataType, Field, Schema},
    },
    prelude::*,
    table::{self, dictionary},
};

/// Name of the term that every row has.
pub const INTERCEPT: &str = "(intercept)";

/// The grades, best first.
pub const GRADES: [&str; 6] = ["A", "B", "C", "D", "E", "F"];
/// The probability of default below which each grade is given; the last has no bound.
const BOUNDS: [f64; 5] = [0.05, 0.1, 0.2, 0.35, 0.5];

/// A logistic regression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The column to be predicted.
    pub target: String,
    /// Its value whose probability is predicted.
    pub positive: String,
    /// The columns to predict from.
    pub features: Vec<Feature>,
    /// The intercept, the numeric columns and the categories, in the order of
    /// the features; of each category column the first level has no term.
    pub terms: Vec<String>,
    /// One for each term, on the scale of log-odds.
    pub coefficients: Vec<f64>,
    /// Rounds of fitting so far.
    pub round: u32,
}

/// A column to predict from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// The column.
    pub name: String,
    /// How it enters the model.
    #[serde(flatten)]
    pub kind: Kind,
}

/// How a column enters a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// As it is.
    Numeric,
    /// As an indicator for each level but the first.
    Category {
        /// Sorted by their bytes.
        levels: Vec<String>,
    },
}

/// The share of an exposure that is lost when its customer defaults, from 0 to 1.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "f64")]
pub struct LossGivenDefault(f64);

impl LossGivenDefault {
    /// The share.
    pub fn share(self) -> f64 {
        self.0
    }
}

impl Default for LossGivenDefault {
    /// The Basel Committee's for senior unsecured claims (Basel II, June 2006, paragraph 287).
    fn default() -> Self {
        Self(0.45)
    }
}

impl TryFrom<f64> for LossGivenDefault {
    type Error = String;

    fn try_from(share: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&share) {
            return Ok(Self(share));
        }
        Err(format!("expected a share from 0 to 1, found {share}; write 45 % as 0.45"))
    }
}

impl Model {
    /// A model that knows nothing yet: all coefficients are zero.
    pub fn new(target: String, positive: String, features: Vec<Feature>) -> Self {
        let mut terms = vec![INTERCEPT.to_owned()];
        for feature in &features {
            match &feature.kind {
                Kind::Numeric => terms.push(feature.name.clone()),
                Kind::Category { levels } => {
                    terms.extend(levels.iter().skip(1).map(|level| format!("{}={level}", feature.name)));
                }
            }
        }
        let coefficients = vec![0.0; terms.len()];
        Self { target, positive, features, terms, coefficients, round: 0 }
    }

    /// The model's view of a batch.
    pub fn bind(&self, batch: &RecordBatch) -> Result<Design> {
        let mut term = 1;
        let mut columns = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            let array = column(batch, &feature.name)?;
            let (values, width) = match &feature.kind {
                Kind::Numeric => (Values::Numeric(present(&feature.name, array)?), 1),
                Kind::Category { levels } => {
                    let texts = texts(&feature.name, array)?;
                    (Values::Category(texts, levels.clone()), levels.len().saturating_sub(1))
                }
            };
            columns.push(Column { name: feature.name.clone(), term, values });
            term += width;
        }
        if term != self.coefficients.len() || term != self.terms.len() {
            return Err(Error::new(
                "invalid-params",
                format!(
                    "expected {term} terms and coefficients for the model's features, found {} and {}; pass the model \
                     as credit-train gave it",
                    self.terms.len(),
                    self.coefficients.len()
                ),
            ));
        }
        Ok(Design { columns })
    }

    /// The columns to `keep` of each row, with `pd`, the probability of the positive value, and its `grade`.
    pub fn scores(&self, rows: &RecordBatch, keep: &[String]) -> Result<RecordBatch> {
        let mut pd = self.bind(rows)?.log_odds(rows.num_rows(), &self.coefficients)?;
        pd.iter_mut().for_each(|p| *p = probability(*p));
        let grades = StringArray::from_iter_values(pd.iter().map(|p| GRADES[grade(*p)]));
        let (mut fields, mut columns): (Vec<_>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        let schema = rows.schema();
        for name in keep {
            columns.push(Arc::clone(column(rows, name)?));
            fields.push(Arc::clone(&schema.fields()[schema.index_of(name)?]));
        }
        fields.push(Arc::new(Field::new("pd", DataType::Float64, false)));
        columns.push(Arc::new(Float64Array::from(pd)));
        fields.push(Arc::new(Field::new("grade", DataType::Utf8, false)));
        columns.push(Arc::new(grades));
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// Which rows of the target hold the positive value.
    pub fn outcomes(&self, batch: &RecordBatch) -> Result<Vec<bool>> {
        let texts = texts(&self.target, column(batch, &self.target)?)?;
        no_null(&self.target, &texts)?;
        Ok(texts.iter().map(|text| text == Some(self.positive.as_str())).collect())
    }
}

/// A batch as a model sees it: each row is a sparse vector over the terms.
pub struct Design {
    columns: Vec<Column>,
}

struct Column {
    name: String,
    term: usize,
    values: Values,
}

enum Values {
    Numeric(Float64Array),
    Category(StringArray, Vec<String>),
}

impl Design {
    /// Writes the terms of a row that are not zero, the intercept included, in
    /// the order of the terms.
    pub fn row(&self, row: usize, terms: &mut Vec<(usize, f64)>) -> Result<()> {
        terms.clear();
        terms.push((0, 1.0));
        for Column { name, term, values } in &self.columns {
            match values {
                Values::Numeric(numbers) => terms.push((*term, numbers.value(row))),
                Values::Category(texts, levels) => {
                    let level = texts.value(row);
                    match levels.iter().position(|known| known == level) {
                        Some(0) => {}
                        Some(n) => terms.push((term + n - 1, 1.0)),
                        None => return Err(unknown(name, level, levels)),
                    }
                }
            }
        }
        Ok(())
    }

    /// The log-odds of every row, given a coefficient for each term; all are finite.
    pub fn log_odds(&self, rows: usize, coefficients: &[f64]) -> Result<Vec<f64>> {
        let mut sums = vec![coefficients.first().copied().unwrap_or(0.0); rows];
        for Column { name, term, values } in &self.columns {
            match values {
                Values::Numeric(numbers) => add_scaled(&mut sums, numbers.values(), coefficients[*term]),
                Values::Category(texts, levels) => {
                    let texts = dictionary(texts);
                    let weight = |text: &str| match levels.iter().position(|known| known == text) {
                        // The first level has no term.
                        Some(0) => Ok(0.0),
                        Some(n) => Ok(coefficients[term + n - 1]),
                        None => Err(unknown(name, text, levels)),
                    };
                    let weights = texts.values().as_string::<i32>().iter().flatten().map(weight);
                    add_each(&mut sums, texts.keys().values(), &weights.collect::<Result<Vec<_>>>()?);
                }
            }
        }
        // Whatever is not finite in a column makes the sum so, whatever its weight.
        match first_not_finite(&sums) {
            None => Ok(sums),
            Some(row) => Err(self.not_finite(row)),
        }
    }

    /// Why the log-odds of a row are not finite.
    pub fn not_finite(&self, row: usize) -> Error {
        let column = self.columns.iter().find_map(|Column { name, values, .. }| match values {
            Values::Numeric(numbers) if !numbers.value(row).is_finite() => Some((name, numbers.value(row))),
            _ => None,
        });
        match column {
            Some((name, found)) => not_finite(name, found, row),
            None => Error::new(
                "value-mismatch",
                format!(
                    "expected log-odds that a number can hold, found larger ones in row {} of a batch; \
                     scale the columns first, as normalize does",
                    row + 1
                ),
            ),
        }
    }
}

// Not in line, both: in a large function a guest's loop has its pointers in memory.

#[inline(never)]
fn add_scaled(sums: &mut [f64], numbers: &[f64], weight: f64) {
    sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum += weight * x);
}

#[inline(never)]
fn add_each(sums: &mut [f64], keys: &[u32], weights: &[f64]) {
    sums.iter_mut().zip(keys).for_each(|(sum, key)| *sum += weights[*key as usize]);
}

/// The logistic function: log-odds to probability.
pub fn probability(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// The place among [`GRADES`] of a probability of default. What is no number is below
/// no bound, and so in the last grade rather than the best.
pub fn grade(pd: f64) -> usize {
    BOUNDS.len() - BOUNDS.iter().filter(|bound| pd < **bound).count()
}

/// A column of a batch by its name.
pub fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        let schema = batch.schema();
        let found: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        Error::new("column-not-found", format!("expected a column {name:?}, found {}", found.join(", ")))
    })
}

/// A column's values as numbers; none may be missing, and all must be finite.
pub fn numbers(name: &str, array: &ArrayRef) -> Result<Float64Array> {
    let numbers = present(name, array)?;
    match first_not_finite(numbers.values()) {
        None => Ok(numbers),
        Some(row) => Err(not_finite(name, numbers.value(row), row)),
    }
}

/// A column's values as numbers; none may be missing.
fn present(name: &str, array: &ArrayRef) -> Result<Float64Array> {
    let numbers = table::numbers(array).ok_or_else(|| wrong_type("numbers", name, array))?;
    no_null(name, &numbers)?;
    Ok(numbers)
}

/// A column's values as texts; none may be missing.
pub fn texts(name: &str, array: &ArrayRef) -> Result<StringArray> {
    let texts = table::texts(array).ok_or_else(|| wrong_type("text", name, array))?;
    no_null(name, &texts)?;
    Ok(texts)
}

fn wrong_type(wanted: &str, name: &str, array: &ArrayRef) -> Error {
    let found = array.data_type();
    Error::new(
        "value-mismatch",
        format!("expected {wanted} in the column {name:?}, found {found}; store it as {wanted}"),
    )
}

fn no_null(name: &str, array: &dyn Array) -> Result<()> {
    let missing = (array.null_count() > 0).then(|| (0..array.len()).find(|row| array.is_null(*row)));
    match missing.flatten() {
        None => Ok(()),
        Some(row) => Err(Error::new(
            "null-value",
            format!(
                "expected a value in every row of the column {name:?}, found none in row {} of a batch; \
                 fill or drop such rows first",
                row + 1
            ),
        )),
    }
}

/// The first row whose number is NaN or infinite.
fn first_not_finite(numbers: &[f64]) -> Option<usize> {
    // Folded rather than stopped at the first, so that it becomes SIMD.
    if numbers.iter().fold(true, |all, x| all & x.is_finite()) {
        return None;
    }
    numbers.iter().position(|x| !x.is_finite())
}

fn not_finite(name: &str, found: f64, row: usize) -> Error {
    Error::new(
        "value-mismatch",
        format!(
            "expected a finite number in every row of the column {name:?}, found {found} in row {} of a batch; \
             fill or drop such rows first",
            row + 1
        ),
    )
}

fn unknown(name: &str, level: &str, levels: &[String]) -> Error {
    Error::new(
        "unknown-category",
        format!(
            "expected one of {} in the column {name:?}, found {level:?}; fit the model on data that has it",
            levels.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grades_have_sharp_bounds() {
        for (pd, expected) in [
            (0.0, "A"),
            (0.05, "B"),
            (0.1, "C"),
            (0.2, "D"),
            (0.35, "E"),
            (0.5, "F"),
            (1.0, "F"),
            (f64::NAN, "F"),
        ] {
            assert_eq!(GRADES[grade(pd)], expected, "{pd}");
        }
    }
}
