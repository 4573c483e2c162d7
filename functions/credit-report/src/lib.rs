// SPDX-License-Identifier: Apache-2.0
//! What a portfolio's scores say: counts, mean probability and expected loss by
//! group and by grade, and, where the outcome is known, ranking power (AUC),
//! calibration and Brier score, with charts.
//!
//! Params: `amount`, the column with the exposure; `by`, a column to group by;
//! `outcome` and `positive`, the column with what happened and its bad value,
//! when known; `loss_given_default`, 0.45 when absent, the Basel Committee's
//! value for senior unsecured claims (Basel II, June 2006, paragraph 287).
//!
//! The probability axis is cut into 10,000 bins. AUC is the area under the line
//! through them (Fawcett, An introduction to ROC analysis, 2006): pairs within
//! one bin count half, so the error is at most half the share of such pairs.

use std::collections::BTreeMap;

use credit_model::{numbers, texts};
use fanfold_sdk::{arrow::array::ArrayRef, prelude::*};

const BINS: usize = 10_000;
const CALIBRATION_BINS: usize = 10;
const GROUPS_MAX: usize = 10_000;
const LOSS_GIVEN_DEFAULT: f64 = 0.45;

/// What the job is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    amount: String,
    by: String,
    #[serde(default)]
    outcome: Option<String>,
    #[serde(default)]
    positive: Option<String>,
    #[serde(default)]
    loss_given_default: Option<f64>,
}

/// The scores seen so far.
#[derive(Serialize, Deserialize)]
struct Portfolio {
    all: Sums,
    groups: BTreeMap<String, Sums>,
    grades: BTreeMap<String, Sums>,
    /// Rows by bin of probability, and those of them with the bad outcome.
    bins: Vec<(u64, u64)>,
    calibration: Vec<Sums>,
    squared_error: f64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Sums {
    rows: u64,
    bad: u64,
    pd: f64,
    amount: f64,
    loss: f64,
}

/// What the job answers.
#[derive(Serialize)]
struct Report {
    customers: u64,
    mean_pd: Option<f64>,
    exposure: f64,
    expected_loss: f64,
    loss_given_default: f64,
    by_grade: Vec<Line>,
    by_group: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    charts: Vec<Value>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    customers: u64,
    mean_pd: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bad_rate: Option<f64>,
    exposure: f64,
    expected_loss: f64,
}

/// How the scores compare with what happened.
#[derive(Serialize)]
struct Outcome {
    bad_rate: f64,
    /// Absent when all rows have one outcome.
    auc: Option<f64>,
    brier_score: f64,
    calibration: Vec<Calibration>,
}

/// Rows of one tenth of the probability axis.
#[derive(Serialize)]
struct Calibration {
    from: f64,
    to: f64,
    customers: u64,
    predicted: f64,
    observed: f64,
}

#[fanfold::aggregate]
impl Aggregate for Portfolio {
    type Output = Report;

    fn new(options: &Params<Options>) -> Result<Self> {
        if options.outcome.is_some() != options.positive.is_some() {
            return Err(Error::new(
                "invalid-params",
                "expected outcome and positive together, found one of them",
            ));
        }
        Ok(Self {
            all: Sums::default(),
            groups: BTreeMap::new(),
            grades: BTreeMap::new(),
            bins: vec![(0, 0); BINS],
            calibration: vec![Sums::default(); CALIBRATION_BINS],
            squared_error: 0.0,
        })
    }

    fn add_batch(&mut self, batch: &RecordBatch, options: &Params<Options>) -> Result<()> {
        let pd = numbers("pd", column(batch, "pd")?)?;
        let amount = numbers(&options.amount, column(batch, &options.amount)?)?;
        let grades = texts("grade", column(batch, "grade")?)?;
        let groups = texts(&options.by, column(batch, &options.by)?)?;
        let outcomes = options.outcome.as_ref().map(|name| texts(name, column(batch, name)?)).transpose()?;
        let lgd = options.loss_given_default.unwrap_or(LOSS_GIVEN_DEFAULT);
        for row in 0..batch.num_rows() {
            let p = pd.value(row);
            if !(0.0..=1.0).contains(&p) {
                return Err(Error::new(
                    "value-mismatch",
                    format!("expected probabilities from 0 to 1 in the column \"pd\", found {p}"),
                ));
            }
            let bad = outcomes.as_ref().is_some_and(|o| Some(o.value(row)) == options.positive.as_deref());
            let one = Sums {
                rows: 1,
                bad: bad.into(),
                pd: p,
                amount: amount.value(row),
                loss: p * amount.value(row) * lgd,
            };
            self.all.add(&one);
            entry(&mut self.grades, grades.value(row))?.add(&one);
            entry(&mut self.groups, groups.value(row))?.add(&one);
            let bin = &mut self.bins[bin(p, BINS)];
            *bin = (bin.0 + 1, bin.1 + u64::from(bad));
            self.calibration[self::bin(p, CALIBRATION_BINS)].add(&one);
            self.squared_error += (p - f64::from(u8::from(bad))).powi(2);
        }
        Ok(())
    }

    fn merge(&mut self, other: Self) -> Result<()> {
        self.all.add(&other.all);
        for (name, sums) in &other.groups {
            entry(&mut self.groups, name)?.add(sums);
        }
        for (name, sums) in &other.grades {
            entry(&mut self.grades, name)?.add(sums);
        }
        self.bins.iter_mut().zip(&other.bins).for_each(|(bin, more)| *bin = (bin.0 + more.0, bin.1 + more.1));
        self.calibration.iter_mut().zip(&other.calibration).for_each(|(sums, more)| sums.add(more));
        self.squared_error += other.squared_error;
        Ok(())
    }

    fn finish(self, options: &Params<Options>) -> Result<Report> {
        let known = options.outcome.is_some();
        let lines = |sums: &BTreeMap<String, Sums>| -> Vec<Line> {
            sums.iter().map(|(name, sums)| sums.line(name, known)).collect()
        };
        let (by_grade, by_group) = (lines(&self.grades), lines(&self.groups));
        let outcome = known.then(|| self.outcome());
        let mut charts = vec![
            bars("expected loss by grade", "grade", &by_grade),
            bars(&format!("expected loss by {}", options.by), &options.by, &by_group),
            self.distribution(),
        ];
        if let Some(outcome) = &outcome {
            charts.push(calibration(&outcome.calibration));
            charts.push(self.roc());
        }
        Ok(Report {
            customers: self.all.rows,
            mean_pd: (self.all.rows > 0).then(|| self.all.pd / self.all.rows as f64),
            exposure: self.all.amount,
            expected_loss: self.all.loss,
            loss_given_default: options.loss_given_default.unwrap_or(LOSS_GIVEN_DEFAULT),
            by_grade,
            by_group,
            outcome,
            charts,
        })
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.bad += other.bad;
        self.pd += other.pd;
        self.amount += other.amount;
        self.loss += other.loss;
    }

    fn line(&self, name: &str, known: bool) -> Line {
        let rows = self.rows as f64;
        Line {
            name: name.to_owned(),
            customers: self.rows,
            mean_pd: self.pd / rows,
            bad_rate: known.then(|| self.bad as f64 / rows),
            exposure: self.amount,
            expected_loss: self.loss,
        }
    }
}

impl Portfolio {
    fn outcome(&self) -> Outcome {
        let rows = self.all.rows.max(1) as f64;
        let calibration = self.calibration.iter().enumerate().filter(|(_, sums)| sums.rows > 0);
        let calibration = calibration.map(|(n, sums)| Calibration {
            from: n as f64 / CALIBRATION_BINS as f64,
            to: (n + 1) as f64 / CALIBRATION_BINS as f64,
            customers: sums.rows,
            predicted: sums.pd / sums.rows as f64,
            observed: sums.bad as f64 / sums.rows as f64,
        });
        Outcome {
            bad_rate: self.all.bad as f64 / rows,
            auc: self.auc(),
            brier_score: self.squared_error / rows,
            calibration: calibration.collect(),
        }
    }

    /// The share of pairs of a bad and a good row in which the bad one has the
    /// higher probability. Counted in whole numbers, so exact over the bins.
    fn auc(&self) -> Option<f64> {
        let (bad, good) = (u128::from(self.all.bad), u128::from(self.all.rows - self.all.bad));
        let (mut good_below, mut twice_won) = (0, 0);
        for (rows, bad) in &self.bins {
            let (bad, good) = (u128::from(*bad), u128::from(rows - bad));
            twice_won += bad * (2 * good_below + good);
            good_below += good;
        }
        (bad > 0 && good > 0).then(|| twice_won as f64 / (2 * bad * good) as f64)
    }

    fn distribution(&self) -> Value {
        let tenths = self.bins.chunks(BINS / 50).enumerate().map(|(n, bins)| {
            let rows: u64 = bins.iter().map(|(rows, _)| rows).sum();
            json!({ "from": n as f64 / 50.0, "to": (n + 1) as f64 / 50.0, "customers": rows })
        });
        let values: Vec<Value> = tenths.collect();
        json!({
            "$schema": SCHEMA,
            "title": "customers by probability of default",
            "data": { "values": values },
            "mark": "bar",
            "encoding": {
                "x": { "field": "from", "bin": { "binned": true }, "type": "quantitative", "title": "probability of default" },
                "x2": { "field": "to" },
                "y": { "field": "customers", "type": "quantitative", "title": "customers" }
            }
        })
    }

    /// The share of bad rows found against the share of good rows accused, from
    /// the highest probability down, at a hundred places.
    fn roc(&self) -> Value {
        let (all_bad, all_good) = (self.all.bad.max(1) as f64, (self.all.rows - self.all.bad).max(1) as f64);
        let (mut bad, mut good) = (0, 0);
        let mut values = vec![json!({ "false positives": 0.0, "true positives": 0.0 })];
        for bins in self.bins.rchunks(BINS / 100) {
            bad += bins.iter().map(|(_, bad)| bad).sum::<u64>();
            good += bins.iter().map(|(rows, bad)| rows - bad).sum::<u64>();
            values.push(
                json!({ "false positives": good as f64 / all_good, "true positives": bad as f64 / all_bad }),
            );
        }
        json!({
            "$schema": SCHEMA,
            "title": "bad customers found against good customers accused (ROC)",
            "data": { "values": values },
            "mark": "line",
            "encoding": {
                "x": { "field": "false positives", "type": "quantitative" },
                "y": { "field": "true positives", "type": "quantitative" }
            }
        })
    }
}

const SCHEMA: &str = "https://vega.github.io/schema/vega-lite/v5.json";

fn bars(title: &str, axis: &str, lines: &[Line]) -> Value {
    let values: Vec<Value> =
        lines.iter().map(|line| json!({ "name": line.name, "expected loss": line.expected_loss })).collect();
    json!({
        "$schema": SCHEMA,
        "title": title,
        "data": { "values": values },
        "mark": "bar",
        "encoding": {
            "x": { "field": "name", "type": "nominal", "title": axis },
            "y": { "field": "expected loss", "type": "quantitative" }
        }
    })
}

fn calibration(lines: &[Calibration]) -> Value {
    let values: Vec<Value> =
        lines.iter().map(|line| json!({ "predicted": line.predicted, "observed": line.observed })).collect();
    json!({
        "$schema": SCHEMA,
        "title": "calibration: observed against predicted share of bad outcomes",
        "layer": [
            {
                "data": { "values": [{ "predicted": 0, "observed": 0 }, { "predicted": 1, "observed": 1 }] },
                "mark": "line",
                "encoding": {
                    "x": { "field": "predicted", "type": "quantitative" },
                    "y": { "field": "observed", "type": "quantitative" }
                }
            },
            {
                "data": { "values": values },
                "mark": "point",
                "encoding": {
                    "x": { "field": "predicted", "type": "quantitative" },
                    "y": { "field": "observed", "type": "quantitative" }
                }
            }
        ]
    })
}

fn entry<'a>(sums: &'a mut BTreeMap<String, Sums>, name: &str) -> Result<&'a mut Sums> {
    if !sums.contains_key(name) {
        if sums.len() == GROUPS_MAX {
            return Err(Error::new(
                "too-many-groups",
                format!(
                    "expected at most {GROUPS_MAX} groups, found more; group by a column with fewer values"
                ),
            ));
        }
        sums.insert(name.to_owned(), Sums::default());
    }
    sums.get_mut(name).ok_or_else(|| Error::new("too-many-groups", "expected the group that was just made"))
}

fn bin(p: f64, bins: usize) -> usize {
    ((p * bins as f64) as usize).min(bins - 1)
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        Error::new(
            "column-not-found",
            format!("expected a column {name:?} in the scores; credit-score can keep it"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing;

    #[derive(Clone, Row)]
    struct Score {
        amount: f64,
        purpose: String,
        outcome: String,
        pd: f64,
        grade: String,
    }

    fn score(purpose: &str, pd: f64, outcome: &str) -> Score {
        let grade = if pd < 0.5 { "A" } else { "F" }.to_owned();
        Score { amount: 100.0, purpose: purpose.to_owned(), outcome: outcome.to_owned(), pd, grade }
    }

    fn params() -> Value {
        json!({ "amount": "amount", "by": "purpose", "outcome": "outcome", "positive": "bad" })
    }

    #[test]
    fn losses_and_ranks_are_reported() -> Result<()> {
        let rows = vec![
            score("car", 0.1, "good"),
            score("car", 0.6, "bad"),
            score("tv", 0.3, "bad"),
            score("tv", 0.4, "good"),
        ];
        for partitions in [1, 3] {
            let report = testing::aggregate::<Portfolio>(rows.clone(), params(), partitions)?;
            assert_eq!(report["customers"], 4);
            let loss = report["expected_loss"].as_f64().unwrap_or_default();
            assert!((loss - 1.4 * 100.0 * 0.45).abs() < 1e-9, "{loss}");
            // Of the four pairs, the bad row has the higher probability in three.
            assert_eq!(report["outcome"]["auc"], 0.75);
            assert_eq!(report["by_group"][0]["name"], "car");
            assert_eq!(report["by_grade"][1]["bad_rate"], 1.0);
            assert_eq!(report["charts"].as_array().map(Vec::len), Some(5));
        }
        Ok(())
    }

    #[test]
    fn an_unknown_outcome_is_left_out() -> Result<()> {
        let params = json!({ "amount": "amount", "by": "purpose" });
        let report = testing::aggregate::<Portfolio>(vec![score("car", 0.1, "?")], params, 1)?;
        assert_eq!(report["outcome"], Value::Null);
        assert_eq!(report["charts"].as_array().map(Vec::len), Some(3));
        Ok(())
    }

    #[test]
    fn an_amount_that_is_no_number_is_refused() {
        for amount in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let rows = vec![score("car", 0.1, "good"), Score { amount, ..score("tv", 0.1, "bad") }];
            let error = testing::aggregate::<Portfolio>(rows, params(), 1).unwrap_err();
            assert_eq!(error.code(), "value-mismatch", "{amount}");
            let told = ["\"amount\"", "row 2"];
            assert!(told.iter().all(|part| error.message().contains(part)), "{error}");
        }
    }

    #[test]
    fn a_probability_out_of_range_is_refused() {
        let found = testing::aggregate::<Portfolio>(vec![score("car", 1.5, "bad")], params(), 1);
        assert_eq!(found.map(drop).map_err(|e| e.code().to_owned()), Err("value-mismatch".to_owned()));
    }
}
