// SPDX-License-Identifier: Apache-2.0
//! Fits a logistic regression, one round a job.
//!
//! The first round, without a model in the params, learns the columns and their
//! categories. Each further round is one step of Newton's method, which for this
//! likelihood is iteratively reweighted least squares: with the probabilities p
//! of the last coefficients and W = diag(p(1-p)), partitions sum XᵀWX and the
//! gradient Xᵀ(y-p), and the new coefficients are the old ones plus the solution
//! of XᵀWX·d = Xᵀ(y-p). That is the weighted least-squares solution
//! (XᵀWX)⁻¹XᵀWz with z = Xβ + W⁻¹(y-p), with less rounding (McCullagh and
//! Nelder, Generalized Linear Models, 2nd edition, section 2.5).
//!
//! Params: `target`, a column of text or truth values, `positive`, `exclude`, and
//! `model` from the last round, of the same three. Answer: `model`, `rows`, `step` (null
//! after the first round) and `log_likelihood` (of the model that came in), and
//! `warnings` where a name in `exclude` is no column. The fit stands when `step` is tiny:
//! below 1e-8, a further round changes nothing that matters.
//!
//! It never stands where a combination of the terms tells the outcomes apart, since the
//! likelihood then grows with the coefficients for ever (Albert and Anderson, On the
//! existence of maximum likelihood estimates in logistic regression models, 1984). Such
//! an outcome is refused as `separable`: at once where every row is on its own side, and
//! where only the rows of one term are, as soon as their odds are beyond doubt.

use std::collections::{BTreeMap, BTreeSet};

use credit_model::{Feature, Kind, Model, column, probability, texts};
use fanfold_sdk::{arrow::datatypes::DataType, prelude::*, table::is_number};

/// More categories than this in a column are a mistake: it is an identifier.
const LEVELS_MAX: usize = 1_000;
/// Terms of a model, so that its state, half a matrix of numbers, stays small.
const TERMS_MAX: usize = 1_000;
/// A pivot of the scaled matrix below this means that terms depend on each other.
const PIVOT_MIN: f64 = 1e-12;
/// Log-odds of what happened above which all rows of a term are only where it settles
/// the outcome: 1 to half a billion.
const MARGIN_MAX: f64 = 20.0;

/// What the job is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    target: String,
    positive: String,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    model: Option<Model>,
}

/// What the job answers.
#[derive(Serialize)]
struct Fit {
    model: Model,
    rows: u64,
    /// Largest change of a coefficient, in units of 1/√(XᵀWX)ᵢᵢ, which is about
    /// its standard error.
    step: Option<f64>,
    log_likelihood: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The rows seen so far.
#[derive(Serialize, Deserialize)]
enum Training {
    /// Of the first round: columns in their order, with their levels if they hold text.
    Learning { rows: u64, order: Vec<String>, columns: Columns, excluded: BTreeSet<String> },
    /// Of the others.
    Fitting { rows: u64, positives: u64, sums: Sums, log_likelihood: f64 },
}

type Columns = BTreeMap<String, Option<BTreeSet<String>>>;

/// Sums over the terms.
#[derive(Serialize, Deserialize)]
struct Sums {
    /// The lower triangle, by rows.
    matrix: Vec<f64>,
    gradient: Vec<f64>,
    /// Of the rows in which a term is not zero, the least log-odds of what happened.
    margins: Vec<f64>,
}

#[fanfold::aggregate]
impl Aggregate for Training {
    type Output = Fit;

    fn new(options: &Params<Options>) -> Result<Self> {
        let Some(model) = &options.model else {
            let (order, columns, excluded) = (Vec::new(), Columns::new(), BTreeSet::new());
            return Ok(Self::Learning { rows: 0, order, columns, excluded });
        };
        options.agrees_with(model)?;
        let terms = model.coefficients.len();
        if terms > TERMS_MAX {
            return Err(Error::new(
                "too-many-terms",
                format!("expected at most {TERMS_MAX} terms, found {terms}"),
            ));
        }
        Ok(Self::Fitting { rows: 0, positives: 0, sums: Sums::of(terms), log_likelihood: 0.0 })
    }

    fn add_batch(&mut self, batch: &RecordBatch, options: &Params<Options>) -> Result<()> {
        match (self, &options.model) {
            (Self::Learning { rows, order, columns, excluded }, _) => {
                *rows += batch.num_rows() as u64;
                let known = |name: &&String| batch.column_by_name(name).is_some();
                excluded.extend(options.exclude.iter().filter(known).cloned());
                learn(batch, options, order, columns)
            }
            (Self::Fitting { rows, positives, sums, log_likelihood }, Some(model)) => {
                let (positive, likelihood) = accumulate(batch, model, sums)?;
                *rows += batch.num_rows() as u64;
                *positives += positive;
                *log_likelihood += likelihood;
                Ok(())
            }
            (Self::Fitting { .. }, None) => Err(mixed()),
        }
    }

    fn merge(&mut self, other: Self) -> Result<()> {
        match (self, other) {
            (
                Self::Learning { rows, order, columns, excluded },
                Self::Learning { rows: more, order: later, columns: others, excluded: also },
            ) => {
                *rows += more;
                excluded.extend(also);
                for name in later {
                    let levels = others.get(&name).cloned().flatten();
                    note(&name, levels, order, columns)?;
                }
                Ok(())
            }
            (
                Self::Fitting { rows, positives, sums, log_likelihood },
                Self::Fitting { rows: more, positives: also, sums: s, log_likelihood: l },
            ) => {
                *rows += more;
                *positives += also;
                *log_likelihood += l;
                sums.add(s);
                Ok(())
            }
            _ => Err(mixed()),
        }
    }

    fn finish(self, options: &Params<Options>) -> Result<Fit> {
        match (self, &options.model) {
            (Self::Learning { rows, order, mut columns, excluded }, _) => {
                if rows == 0 {
                    return Err(Error::new("input-empty", "expected rows to learn from, found none"));
                }
                let features = order.into_iter().map(|name| {
                    let kind = match columns.remove(&name).flatten() {
                        None => Kind::Numeric,
                        Some(levels) => Kind::Category { levels: levels.into_iter().collect() },
                    };
                    Feature { name, kind }
                });
                let model = Model::new(options.target.clone(), options.positive.clone(), features.collect());
                let unknown = options.exclude.iter().filter(|name| !excluded.contains(*name));
                let warnings = unknown.map(|name| format!("no column {name:?} to exclude")).collect();
                Ok(Fit { model, rows, step: None, log_likelihood: None, warnings })
            }
            (Self::Fitting { rows, positives, sums, log_likelihood }, Some(model)) => {
                if positives == 0 || positives == rows {
                    return Err(Error::new(
                        "one-outcome",
                        format!(
                            "expected rows with {:?} in the column {:?} and rows without, found {positives} of {rows}",
                            model.positive, model.target
                        ),
                    ));
                }
                sums.check(model)?;
                let (change, step) = newton(&model.terms, &sums.matrix, &sums.gradient)?;
                let mut model = model.clone();
                model.coefficients.iter_mut().zip(&change).for_each(|(c, d)| *c += d);
                model.round += 1;
                let (step, log_likelihood) = (Some(step), Some(log_likelihood));
                Ok(Fit { model, rows, step, log_likelihood, warnings: Vec::new() })
            }
            (Self::Fitting { .. }, None) => Err(mixed()),
        }
    }
}

impl Options {
    /// Whether a round goes on with the model that it was given.
    fn agrees_with(&self, model: &Model) -> Result<()> {
        let differs = |expected: &str, found: &str| {
            Err(Error::new(
                "invalid-params",
                format!(
                    "expected {expected}, which the model was begun with, found {found}; start again without model"
                ),
            ))
        };
        if self.target != model.target {
            return differs(&format!("the target {:?}", model.target), &format!("{:?}", self.target));
        }
        if self.positive != model.positive {
            return differs(
                &format!("the positive value {:?}", model.positive),
                &format!("{:?}", self.positive),
            );
        }
        match model.features.iter().find(|feature| self.exclude.contains(&feature.name)) {
            None => Ok(()),
            Some(feature) => differs(&format!("the column {:?}", feature.name), "it in exclude"),
        }
    }
}

impl Sums {
    fn of(terms: usize) -> Self {
        Self {
            matrix: vec![0.0; terms * (terms + 1) / 2],
            gradient: vec![0.0; terms],
            margins: vec![f64::INFINITY; terms],
        }
    }

    fn add(&mut self, later: Self) {
        self.matrix.iter_mut().zip(later.matrix).for_each(|(sum, x)| *sum += x);
        self.gradient.iter_mut().zip(later.gradient).for_each(|(sum, x)| *sum += x);
        self.margins.iter_mut().zip(later.margins).for_each(|(least, x)| *least = least.min(x));
    }

    /// Whether there is a step from here, as far as single terms show.
    fn check(&self, model: &Model) -> Result<()> {
        if self.margins[0] > 0.0 {
            return Err(separable("the outcome of every row", "the terms together"));
        }
        for (i, (term, margin)) in model.terms.iter().zip(&self.margins).enumerate() {
            let square = self.matrix[i * (i + 1) / 2 + i];
            if *margin == f64::INFINITY {
                return Err(absent(term));
            }
            if *margin > MARGIN_MAX {
                return Err(separable("the outcome of each of its rows", &format!("the term {term:?}")));
            }
            if !square.is_normal() {
                return Err(out_of_scale(term, square));
            }
        }
        Ok(())
    }
}

/// Takes down the columns of a batch and the levels of those that hold text.
fn learn(
    batch: &RecordBatch,
    options: &Options,
    order: &mut Vec<String>,
    columns: &mut Columns,
) -> Result<()> {
    let target = column(batch, &options.target)?;
    if !is_text(target.data_type()) {
        return Err(no_target(&options.target, target.data_type()));
    }
    texts(&options.target, target)?;
    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
        let name = field.name();
        if *name == options.target || options.exclude.contains(name) {
            continue;
        }
        let levels = match field.data_type() {
            kind if is_number(kind) => None,
            kind if !is_text(kind) => return Err(no_feature(name, kind)),
            _ => {
                let texts = texts(name, array)?;
                let mut levels = BTreeSet::new();
                for text in texts.iter().flatten() {
                    if !levels.contains(text) {
                        levels.insert(text.to_owned());
                    }
                }
                Some(levels)
            }
        };
        note(name, levels, order, columns)?;
    }
    Ok(())
}

fn note(
    name: &str,
    levels: Option<BTreeSet<String>>,
    order: &mut Vec<String>,
    columns: &mut Columns,
) -> Result<()> {
    match (columns.get_mut(name), levels) {
        (None, levels) => {
            order.push(name.to_owned());
            columns.insert(name.to_owned(), levels);
        }
        (Some(None), None) => {}
        (Some(Some(known)), Some(levels)) => known.extend(levels),
        (Some(_), _) => {
            return Err(Error::new(
                "schema-mismatch",
                format!(
                    "expected one type in the column {name:?}, found numbers in one part and text in another"
                ),
            ));
        }
    }
    match columns.get(name) {
        Some(Some(levels)) if levels.len() > LEVELS_MAX => Err(Error::new(
            "too-many-categories",
            format!(
                "expected at most {LEVELS_MAX} categories in the column {name:?}, found more; put it into exclude"
            ),
        )),
        _ => Ok(()),
    }
}

/// Adds a batch to the sums; gives the positive rows and the log-likelihood.
fn accumulate(batch: &RecordBatch, model: &Model, sums: &mut Sums) -> Result<(u64, f64)> {
    let outcomes = model.outcomes(batch)?;
    let design = model.bind(batch)?;
    let (mut positives, mut log_likelihood) = (0, 0.0);
    let mut terms = Vec::with_capacity(model.features.len() + 1);
    for (row, positive) in outcomes.into_iter().enumerate() {
        design.row(row, &mut terms)?;
        let log_odds: f64 = terms.iter().map(|(term, x)| model.coefficients[*term] * x).sum();
        if !log_odds.is_finite() {
            return Err(design.not_finite(row));
        }
        let p = probability(log_odds);
        let weight = p * (1.0 - p);
        let residual = f64::from(u8::from(positive)) - p;
        let margin = if positive { log_odds } else { -log_odds };
        for (n, (i, x)) in terms.iter().enumerate() {
            sums.gradient[*i] += residual * x;
            if *x != 0.0 {
                sums.margins[*i] = sums.margins[*i].min(margin);
            }
            let start = i * (i + 1) / 2;
            for (j, y) in &terms[..=n] {
                sums.matrix[start + j] += weight * x * y;
            }
        }
        positives += u64::from(positive);
        // log p of what happened, without the loss of 1 - p for p near 1.
        log_likelihood -= (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
    }
    Ok((positives, log_likelihood))
}

/// Solves for the step by Cholesky's decomposition of the matrix scaled to a
/// unit diagonal; gives the step and its largest part in units of the scale.
fn newton(terms: &[String], matrix: &[f64], gradient: &[f64]) -> Result<(Vec<f64>, f64)> {
    let n = gradient.len();
    let at = |i: usize, j: usize| i * (i + 1) / 2 + j;
    let scale: Vec<f64> = (0..n).map(|i| matrix[at(i, i)].sqrt()).collect();
    let mut factor = vec![0.0; matrix.len()];
    for i in 0..n {
        for j in 0..=i {
            let scaled = matrix[at(i, j)] / (scale[i] * scale[j]);
            let rest = scaled - (0..j).map(|k| factor[at(i, k)] * factor[at(j, k)]).sum::<f64>();
            factor[at(i, j)] = match (i == j, rest > PIVOT_MIN) {
                (true, true) => rest.sqrt(),
                (true, false) => return Err(dependent(&terms[i])),
                (false, _) => rest / factor[at(j, j)],
            };
        }
    }
    let mut step: Vec<f64> = (0..n).map(|i| gradient[i] / scale[i]).collect();
    for i in 0..n {
        let known: f64 = (0..i).map(|k| factor[at(i, k)] * step[k]).sum();
        step[i] = (step[i] - known) / factor[at(i, i)];
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| factor[at(k, i)] * step[k]).sum();
        step[i] = (step[i] - known) / factor[at(i, i)];
    }
    let largest = step.iter().fold(0.0, |most: f64, s| most.max(s.abs()));
    Ok((step.iter().zip(&scale).map(|(step, scale)| step / scale).collect(), largest))
}

/// Whether [`texts`] takes columns of this type.
fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::Boolean)
}

fn no_target(name: &str, found: &DataType) -> Error {
    Error::new(
        "value-mismatch",
        format!(
            "expected text or truth values in the target {name:?}, found {found}; store its outcomes as words, or \
             name another column"
        ),
    )
}

fn no_feature(name: &str, found: &DataType) -> Error {
    Error::new(
        "value-mismatch",
        format!("expected numbers or text in the column {name:?}, found {found}; put it into exclude"),
    )
}

fn dependent(term: &str) -> Error {
    Error::new(
        "dependent-terms",
        format!(
            "expected terms that do not follow from each other, found that {term:?} does; put its column into exclude, \
             or scale it first, as normalize does, if its numbers are large and differ by little"
        ),
    )
}

fn absent(term: &str) -> Error {
    Error::new(
        "dependent-terms",
        format!(
            "expected a row in which {term:?} is not zero, found none; put its column into exclude and start again \
             without model"
        ),
    )
}

fn out_of_scale(term: &str, square: f64) -> Error {
    Error::new(
        "out-of-scale",
        format!(
            "expected numbers whose squares can be added up in {term:?}, found their sum to be {square:e}; scale the \
             columns first, as normalize does"
        ),
    )
}

fn separable(what: &str, by: &str) -> Error {
    Error::new(
        "separable",
        format!(
            "expected outcomes that the terms leave open, found that {what} is separated by {by}, for which no finite \
             coefficients are the best; put the column that gives the outcome away into exclude and start again \
             without model"
        ),
    )
}

fn mixed() -> Error {
    Error::new(
        "mixed-rounds",
        "expected states of one round, found two kinds; run the job again from its start",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_sdk::testing::{self, Table};

    const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/german_credit.csv");

    fn fit(partitions: usize) -> (Value, usize) {
        let mut params = json!({ "target": "creditability", "positive": "bad" });
        for round in 0..12 {
            let fit = testing::aggregate::<Training>(Table::read(DATA).unwrap(), params.clone(), partitions)
                .unwrap();
            params["model"] = fit["model"].clone();
            if fit["step"].as_f64().is_some_and(|step| step < 1e-8) {
                return (fit, round);
            }
        }
        panic!("expected the fit to converge");
    }

    #[test]
    fn it_finds_the_coefficients_of_the_reference() {
        let reference: Value = serde_json::from_str(include_str!("../testdata/reference.json")).unwrap();
        let (fit, rounds) = fit(5);
        assert!(rounds <= 8, "{rounds}");
        assert_eq!(fit["model"]["terms"], reference["terms"]);
        let numbers =
            |v: &Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
        let pairs =
            numbers(&fit["model"]["coefficients"]).into_iter().zip(numbers(&reference["coefficients"]));
        for (n, (found, expected)) in pairs.enumerate() {
            assert!((found - expected).abs() < 1e-6, "{}: {found} {expected}", reference["terms"][n]);
        }
        let likelihood = |v: &Value| v["log_likelihood"].as_f64().unwrap();
        assert!((likelihood(&fit) - likelihood(&reference)).abs() < 1e-6);
    }

    #[derive(Row)]
    struct Loan {
        amount: f64,
        twice: f64,
        outcome: String,
    }

    fn loans(outcomes: &[&str]) -> Vec<Loan> {
        let loan = |(n, outcome): (usize, &&str)| Loan {
            amount: n as f64,
            twice: 2.0 * n as f64,
            outcome: (*outcome).to_owned(),
        };
        outcomes.iter().enumerate().map(loan).collect()
    }

    fn failure(outcomes: &[&str]) -> String {
        let mut params = json!({ "target": "outcome", "positive": "bad" });
        let learned = testing::aggregate::<Training>(loans(outcomes), params.clone(), 1).unwrap();
        params["model"] = learned["model"].clone();
        testing::aggregate::<Training>(loans(outcomes), params, 1).unwrap_err().code().to_owned()
    }

    #[test]
    fn what_cannot_be_fitted_is_named() {
        assert_eq!(failure(&["bad", "good", "bad"]), "dependent-terms");
        assert_eq!(failure(&["good", "good"]), "one-outcome");
        let missing =
            testing::aggregate::<Training>(loans(&["bad"]), json!({ "target": "x", "positive": "y" }), 1);
        assert_eq!(missing.unwrap_err().code(), "column-not-found");
    }

    #[derive(Clone, Row)]
    struct Case {
        x: f64,
        kind: String,
        outcome: String,
    }

    /// Cases of two kinds, with numbers from -1 to 1; what is positive overlaps where `mixed`.
    fn cases(mixed: bool) -> Vec<Case> {
        let case = |n: i32| {
            let x = f64::from(n) / 50.0 - 1.0 + 0.01;
            let positive = if mixed && n % 7 == 0 { x < 0.0 } else { x > 0.0 };
            let outcome = if positive { "bad" } else { "good" }.to_owned();
            Case { x, kind: if n % 2 == 0 { "even" } else { "odd" }.to_owned(), outcome }
        };
        (0..100).map(case).collect()
    }

    /// Trains until it converges or fails; gives the round, and the error if there is one.
    fn train(cases: &[Case], partitions: usize) -> (usize, Option<Error>) {
        let mut params = json!({ "target": "outcome", "positive": "bad" });
        for round in 0..40 {
            match testing::aggregate::<Training>(cases.to_vec(), params.clone(), partitions) {
                Ok(fit) if fit["step"].as_f64().is_some_and(|step| step < 1e-8) => return (round, None),
                Ok(fit) => params["model"] = fit["model"].clone(),
                Err(error) => return (round, Some(error)),
            }
        }
        panic!("expected an end within 40 rounds");
    }

    #[test]
    fn an_outcome_that_is_separated_is_named() {
        for partitions in [1, 3] {
            let (round, error) = train(&cases(false), partitions);
            let error = error.unwrap();
            assert_eq!(error.code(), "separable", "{error}");
            assert!(round <= 10 && error.message().contains("every row"), "{round} {error}");
            // Of one kind all are bad; the others overlap.
            let mut some = cases(true);
            some.iter_mut()
                .filter(|case| case.kind == "odd")
                .for_each(|case| case.outcome = "bad".to_owned());
            let (round, error) = train(&some, partitions);
            let error = error.unwrap();
            assert_eq!(error.code(), "separable", "{error}");
            assert!(round <= 25 && error.message().contains("\"kind=odd\""), "{round} {error}");
        }
        // A few rows far out are beyond doubt, and the fit stands.
        let mut far = cases(true);
        far.push(Case { x: 1_000.0, kind: "odd".to_owned(), outcome: "bad".to_owned() });
        let (round, error) = train(&far, 1);
        assert!(round <= 12 && error.is_none(), "{round} {error:?}");
    }

    #[test]
    fn what_has_the_wrong_scale_or_no_row_is_named() {
        for scale in [1e200, 1e-200] {
            let cases: Vec<_> =
                cases(true).into_iter().map(|case| Case { x: case.x * scale, ..case }).collect();
            let error = train(&cases, 1).1.unwrap();
            assert!(error.code() == "out-of-scale" && error.message().contains("\"x\""), "{error}");
        }
        let cases: Vec<_> = cases(true).into_iter().map(|case| Case { x: 0.0, ..case }).collect();
        let error = train(&cases, 1).1.unwrap();
        assert_eq!(error.code(), "dependent-terms");
        assert!(error.message().contains("\"x\" is not zero"), "{error}");
    }

    #[test]
    fn a_round_goes_on_with_what_its_model_was_begun_with() -> Result<()> {
        let params = json!({ "target": "outcome", "positive": "bad", "exclude": ["kind", "knid"] });
        let learned = testing::aggregate::<Training>(cases(true), params.clone(), 2)?;
        assert_eq!(learned["warnings"], json!(["no column \"knid\" to exclude"]));
        let next = |member: &str, value: Value| {
            let mut params = params.clone();
            params["model"] = learned["model"].clone();
            params[member] = value;
            testing::aggregate::<Training>(cases(true), params, 2)
        };
        next("exclude", json!(["kind"]))?;
        for (member, value) in
            [("target", json!("kind")), ("positive", json!("good")), ("exclude", json!(["x"]))]
        {
            let error = next(member, value).unwrap_err();
            assert_eq!(error.code(), "invalid-params", "{member}");
            assert!(error.message().contains("start again without model"), "{error}");
        }
        let mut cut = learned["model"].clone();
        cut["terms"].as_array_mut().unwrap().pop();
        assert_eq!(next("model", cut).unwrap_err().code(), "invalid-params");
        Ok(())
    }

    #[derive(Row)]
    struct Paid {
        paid: String,
        late: i64,
        since: Date,
    }

    #[test]
    fn a_column_of_another_type_is_named_in_the_first_round() {
        let refused = |target: &str| {
            let rows = vec![Paid { paid: "late".to_owned(), late: 1, since: Date(7) }];
            let params = json!({ "target": target, "positive": "1" });
            let error = testing::aggregate::<Training>(rows, params, 1).unwrap_err();
            assert_eq!(error.code(), "value-mismatch");
            error.message().to_owned()
        };
        for target in ["late", "since"] {
            let message = refused(target);
            assert!(message.contains(&format!("the target {target:?}")), "{message}");
            assert!(!message.contains("exclude"), "{message}");
        }
        let message = refused("paid");
        assert!(message.contains("the column \"since\"") && message.contains("exclude"), "{message}");
    }

    #[test]
    fn a_value_that_is_no_number_is_named() {
        for value in [f64::NAN, f64::INFINITY] {
            let rows = || {
                let mut rows = loans(&["bad", "good", "bad"]);
                rows[1].twice = value;
                rows
            };
            let mut params = json!({ "target": "outcome", "positive": "bad" });
            let learned = testing::aggregate::<Training>(rows(), params.clone(), 1).unwrap();
            params["model"] = learned["model"].clone();
            let error = testing::aggregate::<Training>(rows(), params, 1).unwrap_err();
            assert_eq!(error.code(), "value-mismatch");
            assert!(error.message().contains("\"twice\"") && error.message().contains("row 2"), "{error}");
        }
    }
}
