// SPDX-License-Identifier: Apache-2.0
//! Count, nulls, mean, standard deviation (of a sample) and extremes of every
//! numeric column: what `column-stats` says without its sketches, at the speed
//! at which numbers can be added up.
//!
//! Answer: `rows`, and `columns` in the table's order. Columns of other types are
//! passed over; NaN counts as missing. Numbers are what `table::numbers` makes of them:
//! integers beyond 2⁵³ and decimals are rounded to an `f64`, and so are their extremes.

use fanfold_sdk::{
    prelude::*,
    stats::{MinMax, Variance},
    table::{is_number, numbers},
};

/// The sums of the rows seen so far.
#[derive(Default, Serialize, Deserialize)]
struct Summary {
    rows: u64,
    columns: Vec<Column>,
}

#[derive(Serialize, Deserialize)]
struct Column {
    name: String,
    nulls: u64,
    variance: Variance,
    extremes: MinMax,
}

/// What the job answers.
#[derive(Serialize)]
struct Answer {
    rows: u64,
    columns: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    count: u64,
    nulls: u64,
    mean: Option<f64>,
    std_dev: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

#[fanfold::aggregate]
impl Aggregate for Summary {
    type Output = Answer;

    fn add_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let schema = batch.schema();
        let numeric = schema.fields().iter().zip(batch.columns()).filter(|(f, _)| is_number(f.data_type()));
        for (n, (field, array)) in numeric.enumerate() {
            if n == self.columns.len() && self.rows == 0 {
                let (variance, extremes) = (Variance::default(), MinMax::default());
                self.columns.push(Column { name: field.name().clone(), nulls: 0, variance, extremes });
            }
            let column = self.columns.get_mut(n).filter(|column| column.name == *field.name());
            let column = column.ok_or_else(|| differs(field.name()))?;
            let Some(values) = numbers(array) else { return Err(differs(field.name())) };
            let before = column.variance.count();
            column.variance.extend_from_array(&values);
            column.extremes.extend_from_array(&values);
            column.nulls += values.len() as u64 - (column.variance.count() - before);
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn merge(&mut self, later: Self) -> Result<()> {
        if self.rows == 0 {
            *self = later;
            return Ok(());
        }
        if later.rows == 0 {
            return Ok(());
        }
        self.rows += later.rows;
        for (n, more) in later.columns.into_iter().enumerate() {
            let column = self.columns.get_mut(n).filter(|column| column.name == more.name);
            let column = column.ok_or_else(|| differs(&more.name))?;
            column.nulls += more.nulls;
            column.variance.merge(&more.variance);
            column.extremes.merge(&more.extremes);
        }
        Ok(())
    }

    fn finish(self) -> Result<Answer> {
        let line = |column: Column| Line {
            name: column.name,
            count: column.variance.count(),
            nulls: column.nulls,
            mean: column.variance.mean(),
            std_dev: column.variance.sample_std_dev(),
            min: column.extremes.min(),
            max: column.extremes.max(),
        };
        Ok(Answer { rows: self.rows, columns: self.columns.into_iter().map(line).collect() })
    }
}

fn differs(name: &str) -> Error {
    Error::new(
        "schema-mismatch",
        format!("expected the same numeric columns in every part of the table, found {name:?} out of place"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[derive(Row)]
    struct Item {
        name: String,
        price: Option<f64>,
        pieces: i32,
    }

    #[test]
    fn numbers_are_summed_up_whatever_the_partitions() -> Result<()> {
        for partitions in [1, 3] {
            let item =
                |i: i32| Item { name: i.to_string(), price: (i % 2 == 0).then_some(f64::from(i)), pieces: 3 };
            let answer =
                testing::aggregate::<Summary>((0..=10).map(item).collect::<Vec<_>>(), (), partitions)?;
            assert_eq!(answer["rows"], 11);
            let price = &answer["columns"][0];
            assert_eq!(
                (&price["name"], &price["count"], &price["nulls"]),
                (&json!("price"), &json!(6), &json!(5))
            );
            assert_eq!(
                (&price["mean"], &price["min"], &price["max"]),
                (&json!(5.0), &json!(0.0), &json!(10.0))
            );
            let deviation = price["std_dev"].as_f64().unwrap_or_default();
            assert!((deviation - 14_f64.sqrt()).abs() < 1e-12, "{deviation}");
            assert_eq!(
                (&answer["columns"][1]["mean"], &answer["columns"][1]["std_dev"]),
                (&json!(3.0), &json!(0.0))
            );
            assert_eq!(answer["columns"].as_array().map(Vec::len), Some(2));
        }
        Ok(())
    }

    #[derive(Row)]
    struct Key {
        id: i64,
    }

    #[test]
    fn extremes_of_large_integers_are_rounded() -> Result<()> {
        let keys = Vec::from([(1 << 53) + 1, (1 << 53) + 3].map(|id| Key { id }));
        let answer = testing::aggregate::<Summary>(keys, (), 1)?;
        let id = &answer["columns"][0];
        assert_eq!((&id["min"], &id["max"]), (&json!(2_f64.powi(53)), &json!(2_f64.powi(53) + 4.0)));
        Ok(())
    }

    #[test]
    fn a_table_without_rows_has_an_answer() -> Result<()> {
        let answer = testing::aggregate::<Summary>(Vec::<Item>::new(), (), 2)?;
        assert_eq!(answer["rows"], 0);
        Ok(())
    }
}
