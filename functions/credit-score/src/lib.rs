// SPDX-License-Identifier: Apache-2.0
//! Gives each row its probability of default and a grade.
//!
//! Params: `model` as `credit-train` answers it, and `keep`, the columns to carry
//! over. Each row of the input gives one row: the kept columns, `pd` (the
//! probability of the model's positive outcome) and `grade`. A row that the model
//! cannot score, since a value is missing, unknown, NaN or infinite, is an error.

use credit_model::Model;
use fanfold_sdk::prelude::*;

/// What the job is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    model: Model,
    #[serde(default)]
    keep: Vec<String>,
}

#[fanfold::map]
fn credit_score(rows: &RecordBatch, options: &Params<Options>) -> Result<RecordBatch> {
    options.model.scores(rows, &options.keep)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[derive(Row)]
    struct Customer {
        id: u64,
        debt: f64,
        home: String,
    }

    #[derive(Row, Debug, PartialEq)]
    struct Score {
        id: u64,
        pd: f64,
        grade: String,
    }

    fn model() -> Value {
        json!({
            "target": "outcome", "positive": "bad", "round": 5,
            "features": [
                { "name": "debt", "kind": "numeric" },
                { "name": "home", "kind": "category", "levels": ["own", "rent"] }
            ],
            "terms": ["(intercept)", "debt", "home=rent"],
            "coefficients": [-3.0, 0.5, 1.0]
        })
    }

    fn score(debt: f64, home: &str) -> Result<Vec<Score>> {
        let rows = vec![Customer { id: 7, debt, home: home.to_owned() }];
        testing::map::<credit_score>(rows, json!({ "model": model(), "keep": ["id"] }))?.rows()
    }

    #[test]
    fn scores_follow_the_model() -> Result<()> {
        let check = |debt: f64, home: &str, log_odds: f64, grade: &str| -> Result<()> {
            let expected = Score { id: 7, pd: 1.0 / (1.0 + (-log_odds).exp()), grade: grade.to_owned() };
            assert_eq!(score(debt, home)?, [expected]);
            Ok(())
        };
        check(0.0, "own", -3.0, "A")?;
        check(0.0, "rent", -2.0, "C")?;
        check(6.0, "own", 0.0, "F")
    }

    #[test]
    fn what_the_model_does_not_know_is_refused() {
        assert_eq!(
            score(0.0, "boat").map(drop).map_err(|e| e.code().to_owned()),
            Err("unknown-category".to_owned())
        );
    }

    #[test]
    fn what_is_no_number_gets_no_grade() {
        let refused = |debt: f64, told: [&str; 2]| {
            let error = score(debt, "own").unwrap_err();
            assert_eq!(error.code(), "value-mismatch", "{debt}");
            assert!(told.iter().all(|part| error.message().contains(part)), "{error}");
        };
        refused(f64::NAN, ["\"debt\"", "found NaN in row 1"]);
        refused(f64::INFINITY, ["\"debt\"", "found inf in row 1"]);
        refused(f64::NEG_INFINITY, ["\"debt\"", "found -inf in row 1"]);
    }
}
