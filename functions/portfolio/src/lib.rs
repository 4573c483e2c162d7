// SPDX-License-Identifier: Apache-2.0
//! Scores a bank's customers and reports on them in one pass: the scores are
//! written as a table, the report says what they add up to.
//!
//! Params: `model` as `credit-train` answers it; `keep`, the columns to carry
//! over to the scores; of those, `by`, a column to group by, and `exposure`, the
//! amount at risk; `loss_given_default`, a share of it from 0 to 1. The report has a
//! line for each group and grade, sorted by both.

use std::collections::BTreeMap;

use credit_model::{GRADES, LossGivenDefault, Model, column, grade, numbers, texts};
use fanfold_sdk::{
    arrow::array::{Array, AsArray},
    prelude::*,
    table::dictionary,
};

/// Groups that a report can have.
const GROUPS_MAX: usize = 10_000;

/// What the job is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    model: Model,
    keep: Vec<String>,
    by: String,
    exposure: String,
    loss_given_default: LossGivenDefault,
}

#[fanfold::map]
fn score(rows: &RecordBatch, options: &Params<Options>) -> Result<RecordBatch> {
    options.model.scores(rows, &options.keep)
}

/// Sums by group, and within it by grade.
#[derive(Default, Serialize, Deserialize)]
struct Portfolio(BTreeMap<String, Grades>);

type Grades = [Sums; GRADES.len()];

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Sums {
    customers: u64,
    pd: f64,
    exposure: f64,
    loss: f64,
}

/// A line of the report.
#[derive(Serialize)]
struct Line {
    group: String,
    grade: &'static str,
    customers: u64,
    mean_pd: f64,
    exposure: f64,
    expected_loss: f64,
}

#[fanfold::aggregate]
impl Aggregate for Portfolio {
    type Output = Vec<Line>;

    fn add_batch(&mut self, batch: &RecordBatch, options: &Params<Options>) -> Result<()> {
        let pd = numbers("pd", column(batch, "pd")?)?;
        let exposure = numbers(&options.exposure, column(batch, &options.exposure)?)?;
        let groups = dictionary(&texts(&options.by, column(batch, &options.by)?)?);
        let texts = groups.values().as_string::<i32>();
        let mut sums = vec![Grades::default(); texts.len()];
        for (row, group) in groups.keys().values().iter().enumerate() {
            let (pd, exposure) = (pd.value(row), exposure.value(row));
            let loss = pd * exposure * options.loss_given_default.share();
            sums[*group as usize][grade(pd)].add(&Sums { customers: 1, pd, exposure, loss });
        }
        texts.iter().flatten().zip(&sums).try_for_each(|(group, grades)| self.add_group(group, grades))
    }

    fn merge(&mut self, later: Self) -> Result<()> {
        later.0.iter().try_for_each(|(group, grades)| self.add_group(group, grades))
    }

    fn finish(self) -> Result<Vec<Line>> {
        let lines = self.0.into_iter().flat_map(|(group, grades)| {
            let graded = GRADES.into_iter().zip(grades).filter(|(_, sums)| sums.customers > 0);
            graded.map(move |(grade, sums)| Line {
                group: group.clone(),
                grade,
                customers: sums.customers,
                mean_pd: sums.pd / sums.customers as f64,
                exposure: sums.exposure,
                expected_loss: sums.loss,
            })
        });
        Ok(lines.collect())
    }
}

impl Portfolio {
    fn add_group(&mut self, group: &str, grades: &Grades) -> Result<()> {
        if !self.0.contains_key(group) {
            if self.0.len() == GROUPS_MAX {
                return Err(Error::new(
                    "too-many-groups",
                    format!(
                        "expected at most {GROUPS_MAX} groups, found more; group by a column with fewer values"
                    ),
                ));
            }
            self.0.insert(group.to_owned(), Grades::default());
        }
        let known = self.0.entry(group.to_owned()).or_default();
        known.iter_mut().zip(grades).for_each(|(known, more)| known.add(more));
        Ok(())
    }
}

impl Sums {
    fn add(&mut self, more: &Self) {
        self.customers += more.customers;
        self.pd += more.pd;
        self.exposure += more.exposure;
        self.loss += more.loss;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use credit_model::probability;
    use fanfold_sdk::testing;

    #[derive(Clone, Row)]
    struct Customer {
        id: u64,
        region: String,
        debt: f64,
    }

    #[derive(Row)]
    struct Scored {
        region: String,
        debt: f64,
        pd: f64,
    }

    fn params() -> Value {
        let model = json!({
            "target": "outcome", "positive": "bad", "round": 5,
            "features": [{ "name": "debt", "kind": "numeric" }],
            "terms": ["(intercept)", "debt"], "coefficients": [0.0, -1.0]
        });
        json!({ "model": model, "keep": ["region", "debt"], "by": "region", "exposure": "debt",
            "loss_given_default": 0.5 })
    }

    #[test]
    fn scores_are_written_and_summed_up() -> Result<()> {
        let customer = |id, region: &str, debt| Customer { id, region: region.to_owned(), debt };
        let rows = vec![customer(1, "south", 0.0), customer(2, "north", 4.0), customer(3, "south", 0.0)];
        let scores = testing::map::<score>(rows, params())?;
        let names: Vec<_> = scores.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["region", "debt", "pd", "grade"]);
        let report = testing::aggregate::<Portfolio>(scores.batches().to_vec(), params(), 2)?;
        let pd = probability(-4.0);
        let loss = pd * 4.0 * 0.5;
        let north = json!({ "group": "north", "grade": "A", "customers": 1, "mean_pd": pd, "exposure": 4.0,
            "expected_loss": loss });
        let south = json!({ "group": "south", "grade": "F", "customers": 2, "mean_pd": 0.5, "exposure": 0.0,
            "expected_loss": 0.0 });
        assert_eq!(report, json!([north, south]));
        Ok(())
    }

    #[test]
    fn a_loss_that_is_no_share_is_refused_before_anything_is_scored() {
        for loss in [45.0, -1.0] {
            let mut params = params();
            params["loss_given_default"] = json!(loss);
            let customer = Customer { id: 1, region: "south".to_owned(), debt: 1.0 };
            let error = testing::map::<score>(vec![customer], params).unwrap_err();
            assert_eq!(error.code(), "invalid-params");
            assert!(error.message().contains("params.loss_given_default"), "{error}");
        }
    }

    #[test]
    fn what_is_no_number_is_neither_scored_nor_summed_up() {
        let customer = |debt| Customer { id: 1, region: "south".to_owned(), debt };
        let error = testing::map::<score>(vec![customer(0.0), customer(f64::NAN)], params()).unwrap_err();
        assert!(error.message().contains("\"debt\"") && error.message().contains("row 2"), "{error}");
        for (debt, pd) in [(f64::INFINITY, 0.5), (1.0, f64::NAN)] {
            let rows = vec![Scored { region: "south".to_owned(), debt, pd }];
            let error = testing::aggregate::<Portfolio>(rows, params(), 1).unwrap_err();
            assert_eq!(error.code(), "value-mismatch");
        }
    }
}
