// SPDX-License-Identifier: Apache-2.0
//! What a portfolio's scores say: counts, mean probability and expected loss by
//! group and by grade, and, where the outcome is known, ranking power (AUC),
//! calibration and Brier score, with charts. What makes those doubtful is said in
//! `warnings`.
//!
//! Params: `amount`, the column with the exposure; `by`, a column to group by;
//! `outcome` and `positive`, the column with what happened and its bad value,
//! when known; `loss_given_default`, a share from 0 to 1, 0.45 when absent, the Basel
//! Committee's value for senior unsecured claims (Basel II, June 2006, paragraph 287).
//!
//! The probability axis is cut into 10,000 bins. AUC is the area under the line
//! through them (Fawcett, An introduction to ROC analysis, 2006): pairs within
//! one bin count half, so the error is at most half the share of such pairs.
//! Calibration compares about ten groups of equal size, the deciles of risk of Hosmer
//! and Lemeshow, Applied Logistic Regression, 2nd edition, section 5.2: in a portfolio
//! of few defaults, tenths of the axis would put all customers into one group.

use std::collections::BTreeMap;

use credit_model::{LossGivenDefault, numbers, texts};
use fanfold_sdk::{arrow::array::ArrayRef, prelude::*};

const BINS: usize = 10_000;
/// Groups of customers whose predicted and observed defaults are compared.
const CALIBRATION_GROUPS: u64 = 10;
/// Bars of the chart of probabilities, at most.
const BARS: usize = 50;
/// Bins are drawn together in the chart of ranking power up to this part of either outcome.
const ROC_STEPS: u64 = 100;
/// An error of AUC worth a warning.
const AUC_ERROR_MAX: f64 = 0.01;
const GROUPS_MAX: usize = 10_000;

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
    loss_given_default: Option<LossGivenDefault>,
}

/// The scores seen so far.
#[derive(Serialize, Deserialize)]
struct Portfolio {
    all: Sums,
    groups: BTreeMap<String, Sums>,
    grades: BTreeMap<String, Sums>,
    /// Rows by bin of probability.
    bins: Vec<Bin>,
    squared_error: f64,
}

/// Rows of about one probability.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Bin {
    rows: u64,
    bad: u64,
    pd: f64,
    /// The probability of one of them, and whether another one's is different.
    one: f64,
    mixed: bool,
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
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
    bad_rate: Option<f64>,
    /// Absent when all rows have one outcome.
    auc: Option<f64>,
    brier_score: Option<f64>,
    calibration: Vec<Calibration>,
}

/// About a tenth of the rows: those with a probability from `from` to `to`.
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
            bins: vec![Bin::default(); BINS],
            squared_error: 0.0,
        })
    }

    fn add_batch(&mut self, batch: &RecordBatch, options: &Params<Options>) -> Result<()> {
        let pd = numbers("pd", column(batch, "pd")?)?;
        let amount = numbers(&options.amount, column(batch, &options.amount)?)?;
        let grades = texts("grade", column(batch, "grade")?)?;
        let groups = texts(&options.by, column(batch, &options.by)?)?;
        let outcomes = options.outcome.as_ref().map(|name| texts(name, column(batch, name)?)).transpose()?;
        let lgd = options.loss_given_default.unwrap_or_default().share();
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
            let bin = Bin { rows: 1, bad: bad.into(), pd: p, one: p, mixed: false };
            self.bins[((p * BINS as f64) as usize).min(BINS - 1)].add(bin);
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
        self.bins.iter_mut().zip(other.bins).for_each(|(bin, more)| bin.add(more));
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
            // Without both outcomes there is nothing to tell apart.
            charts.extend(outcome.auc.map(|_| self.roc()));
        }
        let warnings = if known { self.warnings(options) } else { Vec::new() };
        Ok(Report {
            customers: self.all.rows,
            mean_pd: (self.all.rows > 0).then(|| self.all.pd / self.all.rows as f64),
            exposure: self.all.amount,
            expected_loss: self.all.loss,
            loss_given_default: options.loss_given_default.unwrap_or_default().share(),
            by_grade,
            by_group,
            outcome,
            warnings,
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

impl Bin {
    fn add(&mut self, more: Self) {
        if self.rows == 0 {
            *self = more;
        } else if more.rows > 0 {
            self.mixed |= more.mixed || more.one.to_bits() != self.one.to_bits();
            self.rows += more.rows;
            self.bad += more.bad;
            self.pd += more.pd;
        }
    }
}

impl Portfolio {
    fn outcome(&self) -> Outcome {
        let mean = |sum: f64| (self.all.rows > 0).then(|| sum / self.all.rows as f64);
        Outcome {
            bad_rate: mean(self.all.bad as f64),
            auc: self.auc(),
            brier_score: mean(self.squared_error),
            calibration: self.calibration(),
        }
    }

    /// Groups of neighbouring bins; each ends where a further tenth of the rows is full.
    fn calibration(&self) -> Vec<Calibration> {
        let tenths =
            |rows: u64| u128::from(rows) * u128::from(CALIBRATION_GROUPS) / u128::from(self.all.rows.max(1));
        let (mut groups, mut group, mut from, mut before) = (Vec::new(), Bin::default(), None, 0);
        for (n, bin) in self.bins.iter().enumerate().filter(|(_, bin)| bin.rows > 0) {
            let from_bin = *from.get_or_insert(n);
            group.add(*bin);
            if tenths(before + group.rows) == tenths(before) {
                continue;
            }
            groups.push(Calibration {
                from: edge(from_bin),
                to: edge(n + 1),
                customers: group.rows,
                predicted: group.pd / group.rows as f64,
                observed: group.bad as f64 / group.rows as f64,
            });
            before += group.rows;
            (group, from) = (Bin::default(), None);
        }
        groups
    }

    /// What makes the comparison with the outcome doubtful.
    fn warnings(&self, options: &Options) -> Vec<String> {
        let mut warnings = Vec::new();
        let Sums { rows, bad, .. } = self.all;
        if rows > 0 && bad == 0 {
            warnings.push(format!(
                "no row of {rows} has {:?} in the column {:?}; mend positive if it is misspelt",
                options.positive.as_deref().unwrap_or_default(),
                options.outcome.as_deref().unwrap_or_default()
            ));
        }
        // Pairs of a bad and a good row that count half, though one may have the higher probability.
        let unclear = self.bins.iter().filter(|bin| bin.mixed);
        let unclear: u128 = unclear.map(|bin| u128::from(bin.bad) * u128::from(bin.rows - bin.bad)).sum();
        let pairs = u128::from(bad) * u128::from(rows - bad);
        let error = unclear as f64 / (2 * pairs.max(1)) as f64;
        if error > AUC_ERROR_MAX {
            warnings.push(format!(
                "auc may be off by {error:.3} at the most: probabilities that differ by less than {} are taken to be \
                 equal, and many do",
                edge(1)
            ));
        }
        warnings
    }

    /// The share of pairs of a bad and a good row in which the bad one has the
    /// higher probability. Counted in whole numbers, so exact over the bins.
    fn auc(&self) -> Option<f64> {
        let (bad, good) = (u128::from(self.all.bad), u128::from(self.all.rows - self.all.bad));
        let (mut good_below, mut twice_won) = (0, 0);
        for Bin { rows, bad, .. } in &self.bins {
            let (bad, good) = (u128::from(*bad), u128::from(rows - bad));
            twice_won += bad * (2 * good_below + good);
            good_below += good;
        }
        (bad > 0 && good > 0).then(|| twice_won as f64 / (2 * bad * good) as f64)
    }

    /// Bars of equal width over the probabilities that there are.
    fn distribution(&self) -> Value {
        let first = self.bins.iter().position(|bin| bin.rows > 0).unwrap_or(0);
        let end = self.bins.iter().rposition(|bin| bin.rows > 0).map_or(first, |last| last + 1);
        let width = (end - first).div_ceil(BARS).max(1);
        let bars = self.bins[first..end].chunks(width).enumerate().map(|(n, bins)| {
            let from = first + n * width;
            let rows: u64 = bins.iter().map(|bin| bin.rows).sum();
            json!({ "from": edge(from), "to": edge((from + width).min(BINS)), "customers": rows })
        });
        let values: Vec<Value> = bars.collect();
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
    /// the highest probability down, bin by bin where that is further than a hundredth.
    fn roc(&self) -> Value {
        let (all_bad, all_good) = (self.all.bad, self.all.rows - self.all.bad);
        let share = |part: u64, all: u64| part as f64 / all as f64;
        let point = |(bad, good)| json!({ "false positives": share(good, all_good), "true positives": share(bad, all_bad) });
        let far = |grown: u64, all: u64| u128::from(grown) * u128::from(ROC_STEPS) > u128::from(all);
        let (mut drawn, mut last) = ((0, 0), (0, 0));
        let mut values = vec![point(drawn)];
        for bin in self.bins.iter().rev().filter(|bin| bin.rows > 0) {
            let next = (last.0 + bin.bad, last.1 + bin.rows - bin.bad);
            if last != drawn && (far(next.0 - drawn.0, all_bad) || far(next.1 - drawn.1, all_good)) {
                values.push(point(last));
                drawn = last;
            }
            last = next;
        }
        values.push(point(last));
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
    // The diagonal, on which both are equal, ends where the points do.
    let most = lines.iter().fold(0.0, |most: f64, line| most.max(line.predicted).max(line.observed));
    json!({
        "$schema": SCHEMA,
        "title": "calibration: observed against predicted share of bad outcomes",
        "layer": [
            {
                "data": { "values": [{ "predicted": 0, "observed": 0 }, { "predicted": most, "observed": most }] },
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

/// The probability at which a bin begins.
fn edge(bin: usize) -> f64 {
    bin as f64 / BINS as f64
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

    /// The area under the line of a report's chart of ranking power.
    fn area(report: &Value) -> f64 {
        let points = report["charts"][4]["data"]["values"].as_array().unwrap();
        assert!((3..=4 * ROC_STEPS as usize).contains(&points.len()), "{}", points.len());
        let at = |point: &Value, rate: &str| point[rate].as_f64().unwrap();
        let ends = [&points[0], &points[points.len() - 1]];
        let ends = ends.map(|end| (at(end, "false positives"), at(end, "true positives")));
        assert_eq!(ends, [(0.0, 0.0), (1.0, 1.0)]);
        let step = |pair: &[Value]| {
            let [x, y] =
                ["false positives", "true positives"].map(|rate| (at(&pair[0], rate), at(&pair[1], rate)));
            (x.1 - x.0) * (y.0 + y.1) / 2.0
        };
        points.windows(2).map(step).sum()
    }

    #[test]
    fn a_portfolio_of_few_defaults_is_drawn_as_one_of_many() -> Result<()> {
        // Probabilities up to `scale`; of those below half of it each hundredth is bad, of the others each tenth.
        for scale in [0.01, 1.0] {
            let row = |n: u32| {
                let part = (f64::from(n * 7 % 1_000) + 0.5) / 1_000.0;
                let bad = n.is_multiple_of(if part < 0.5 { 100 } else { 10 });
                score("car", part * scale, if bad { "bad" } else { "good" })
            };
            for partitions in [1, 3] {
                let rows = (0..10_000).map(row).collect::<Vec<_>>();
                let report = testing::aggregate::<Portfolio>(rows, params(), partitions)?;
                let auc = report["outcome"]["auc"].as_f64().unwrap();
                assert!(
                    auc > 0.65 && (area(&report) - auc).abs() < 0.005,
                    "{scale}: {auc} {}",
                    area(&report)
                );
                assert_eq!(report["warnings"], Value::Null);
                let groups = report["outcome"]["calibration"].as_array().unwrap();
                assert_eq!(groups.len(), 10);
                for group in groups {
                    assert_eq!(group["customers"], 1_000, "{group}");
                    let [from, to, predicted] =
                        ["from", "to", "predicted"].map(|part| group[part].as_f64().unwrap());
                    assert!((to - from - scale / 10.0).abs() < 1e-3 * scale && predicted < to, "{group}");
                }
                let bars = report["charts"][2]["data"]["values"].as_array().unwrap();
                assert!((40..=BARS).contains(&bars.len()), "{}", bars.len());
                assert_eq!(bars.iter().filter_map(|bar| bar["customers"].as_u64()).sum::<u64>(), 10_000);
            }
        }
        Ok(())
    }

    #[test]
    fn what_makes_a_report_doubtful_is_said() -> Result<()> {
        let report = |rows: Vec<Score>, positive: &str| {
            let mut params = params();
            params["positive"] = json!(positive);
            testing::aggregate::<Portfolio>(rows, params, 1)
        };
        let rows = || vec![score("car", 0.1, "good"), score("car", 0.6, "bad")];
        assert_eq!(report(rows(), "bad")?["warnings"], Value::Null);
        let misspelt = report(rows(), "Bad")?;
        let warning = misspelt["warnings"][0].as_str().unwrap();
        assert!(warning.contains("no row of 2 has \"Bad\" in the column \"outcome\""), "{warning}");
        // Neither ranking power nor a chart of it.
        assert_eq!(
            (&misspelt["outcome"]["auc"], misspelt["charts"].as_array().map(Vec::len)),
            (&Value::Null, Some(4))
        );
        // All of them within one bin.
        let near = report(vec![score("car", 1e-5, "good"), score("car", 9e-5, "bad")], "bad")?;
        let warning = near["warnings"][0].as_str().unwrap();
        assert!(near["outcome"]["auc"] == 0.5 && warning.contains("off by 0.500"), "{warning}");
        // As many, but really equal: what a rating scale gives.
        let equal = report(vec![score("car", 1e-5, "good"), score("car", 1e-5, "bad")], "bad")?;
        assert_eq!((&equal["outcome"]["auc"], &equal["warnings"]), (&json!(0.5), &Value::Null));
        let none = report(Vec::new(), "bad")?;
        assert_eq!(
            none["outcome"],
            json!({ "bad_rate": null, "auc": null, "brier_score": null, "calibration": [] })
        );
        assert_eq!((&none["warnings"], &none["mean_pd"]), (&Value::Null, &Value::Null));
        Ok(())
    }

    #[test]
    fn a_loss_that_is_null_is_that_of_the_basel_committee() -> Result<()> {
        let mut params = params();
        params["loss_given_default"] = Value::Null;
        let report = testing::aggregate::<Portfolio>(vec![score("car", 0.1, "bad")], params, 1)?;
        assert_eq!(report["loss_given_default"], 0.45);
        Ok(())
    }

    #[test]
    fn a_loss_that_is_no_share_is_refused() -> Result<()> {
        for (loss, fits) in [(0.0, true), (1.0, true), (45.0, false), (-1.0, false)] {
            let mut params = params();
            params["loss_given_default"] = json!(loss);
            let found = testing::aggregate::<Portfolio>(vec![score("car", 0.1, "bad")], params, 1);
            match found {
                Ok(report) => assert!(fits && report["loss_given_default"] == loss, "{loss}"),
                Err(error) => {
                    assert!(!fits && error.code() == "invalid-params", "{error}");
                    assert!(error.message().contains("params.loss_given_default"), "{error}");
                }
            }
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
