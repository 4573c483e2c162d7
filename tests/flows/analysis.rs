// SPDX-License-Identifier: Apache-2.0
//! The main job on the real applicants: statistics, normalising, training to
//! convergence, scores and the report, through the whole platform.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use fanfold_sdk::stats::{MinMax, Variance};
use fanfold_tests::service::Service;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::support::Client;

async fn run(client: &Client<'_>, document: Value) -> Value {
    let job = client.job(document).await.body;
    assert_eq!(job["state"], "succeeded", "{job}");
    job
}

/// The applicants as four objects.
async fn upload(service: &Service) {
    let text = include_str!("../../functions/data/german_credit.csv");
    let (header, records) = text.split_once('\n').unwrap();
    let records: Vec<&str> = records.lines().collect();
    for (part, lines) in records.chunks(250).enumerate() {
        let content = format!("{header}\n{}\n", lines.join("\n"));
        service.put(&format!("s3://bank/applicants/{part}.csv"), content).await.unwrap();
    }
}

/// Trains on the columns as they are, so that the coefficients can be compared
/// with those of a fit by another program.
async fn trained(client: &Client<'_>) -> Value {
    let mut params = json!({ "target": "creditability", "positive": "bad" });
    let mut rounds = 0;
    let model = loop {
        let fit = run(
            client,
            json!({ "function": "credit-train", "input": "s3://bank/applicants/*.csv", "params": params.clone() }),
        );
        let fit = fit.await["result"].clone();
        params["model"] = fit["model"].clone();
        if fit["step"].as_f64().is_some_and(|step| step < 1e-8) {
            break fit["model"].clone();
        }
        rounds += 1;
        assert!(rounds <= 8, "{fit}");
    };
    let reference: Value =
        serde_json::from_str(include_str!("../../functions/credit-train/testdata/reference.json")).unwrap();
    assert_eq!(model["terms"], reference["terms"]);
    for (n, expected) in reference["coefficients"].as_array().unwrap().iter().enumerate() {
        let found = model["coefficients"][n].as_f64().unwrap();
        assert!(
            (found - expected.as_f64().unwrap()).abs() < 1e-6,
            "{}: {found} {expected}",
            model["terms"][n]
        );
    }
    model
}

/// The expected loss of the applicants, scored and summed up by one job.
async fn lost_in_one_pass(client: &Client<'_>, model: &Value, keep: &[&str]) -> f64 {
    let params = json!({
        "model": model, "keep": keep, "by": "purpose", "exposure": "credit_amount", "loss_given_default": 0.45
    });
    let job = json!({
        "function": "portfolio", "input": "s3://bank/applicants/*.csv", "output": "s3://bank/portfolio/",
        "params": params
    });
    let job = run(client, job).await;
    let manifest = client.get(&format!("/v1/jobs/{}/manifest", job["id"].as_str().unwrap())).await.body;
    assert_eq!(manifest["rows"], 1_000, "{manifest}");
    job["result"].as_array().unwrap().iter().map(|line| line["expected_loss"].as_f64().unwrap()).sum()
}

#[tokio::test]
async fn the_credit_risk_of_the_applicants_is_assessed() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let client = Client::new(&service);
    for function in
        ["column-stats", "normalize", "credit-train", "credit-score", "credit-report", "portfolio"]
    {
        service.deploy(function).unwrap();
    }
    upload(&service).await;

    let stats =
        run(&client, json!({ "function": "column-stats", "input": "s3://bank/applicants/*.csv" })).await;
    let stats = &stats["result"];
    assert_eq!(stats["rows"], 1_000);
    let amount = stats["columns"].as_array().unwrap().iter().find(|c| c["name"] == "credit_amount").unwrap();
    assert_eq!((&amount["min"], &amount["max"]), (&json!(250.0), &json!(18424.0)));
    assert!((amount["mean"].as_f64().unwrap() - 3_271.258).abs() < 1e-9, "{amount}");

    let normalise = run(
        &client,
        json!({
            "function": "normalize", "input": "s3://bank/applicants/*.csv", "output": "s3://bank/normalised/",
            "params": { "method": "zscore", "stats": stats, "keep": ["credit_amount"] }
        }),
    );
    assert_eq!(normalise.await["receipt"]["rows_out"], 1_000);

    let model = trained(&client).await;
    let keep = ["purpose", "credit_amount", "creditability"];
    let scored = run(
        &client,
        json!({
            "function": "credit-score", "input": "s3://bank/applicants/*.csv", "output": "s3://bank/scores/",
            "params": { "model": model, "keep": keep }
        }),
    );
    assert_eq!(scored.await["receipt"]["rows_out"], 1_000);
    let report = run(
        &client,
        json!({
            "function": "credit-report", "input": "s3://bank/scores/", "output": "s3://bank/report/",
            "params": { "amount": "credit_amount", "by": "purpose", "outcome": "creditability", "positive": "bad" }
        }),
    );
    let report = report.await["result"].clone();
    let auc = report["outcome"]["auc"].as_f64().unwrap();
    assert!((auc - 0.831).abs() < 0.001, "{auc}");
    // At the maximum of the likelihood, predicted and observed bad rows balance.
    assert!((report["mean_pd"].as_f64().unwrap() - 0.3).abs() < 1e-6, "{report}");
    // Scores and their sums in one pass are those of two jobs.
    let (loss, expected) = (lost_in_one_pass(&client, &model, &keep).await, report["expected_loss"].as_f64());
    assert!((loss - expected.unwrap()).abs() < 1e-9 * loss, "{loss} {expected:?}");
    let page = folder.path().join("report.html");
    let id = service.ok(&["job", "ls", "--function", "credit-report", "--output", "json"]).unwrap();
    let id: Value = serde_json::from_str(&id).unwrap();
    let id = id[0]["id"].as_str().or_else(|| id["jobs"][0]["id"].as_str()).unwrap().to_owned();
    let printed: Value = serde_json::from_str(&service.ok(&["result", &id, "--out", "-"]).unwrap()).unwrap();
    assert_eq!(printed["mean_pd"], report["mean_pd"]);
    // As the function wrote it, which is not in the order of names.
    let stored = "s3://bank/report/result.json".parse().unwrap();
    let stored = service.store().unwrap().get(&stored, None).await.unwrap();
    assert!(stored.starts_with(b"{\"customers\":"), "{stored:?}");
    assert_eq!(stored, service.ok(&["result", &id, "--output", "json"]).unwrap().trim_end().as_bytes());
    service.ok(&["result", &id, "--html", "--out", &page.to_string_lossy()]).unwrap();
    let page = std::fs::read_to_string(page).unwrap();
    assert!(
        page.contains("<svg") && page.contains("expected loss by purpose"),
        "{}",
        &page[..page.len().min(400)]
    );
    assert!(!page.contains("http://") || page.contains("w3.org"), "the page must not load anything");
}

#[tokio::test]
async fn results_do_not_depend_on_the_number_of_workers() {
    let mut answers: Vec<(Value, Value)> = Vec::new();
    for workers in ["1", "3"] {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start_with(folder.path(), &["--workers", workers]).unwrap();
        let client = Client::new(&service);
        service.deploy("column-stats").unwrap();
        for n in 0..40 {
            let rows: String = (0..50).map(|i| format!("{}\n", f64::from(n * 50 + i).sqrt())).collect();
            service.put(&format!("s3://bank/in/{n:02}.csv"), format!("x\n{rows}")).await.unwrap();
        }
        // Some four records a part, so that there are parts for several leases and folds of folds.
        let job = json!({
            "function": "column-stats", "input": "s3://bank/in/", "split": { "target_bytes": "60B" }, "cache": false
        });
        let job = run(&client, job).await;
        let partitions = job["partitions"].as_u64().unwrap();
        assert!((400..=700).contains(&partitions), "{job}");
        assert_eq!(job["result"]["rows"], 2_000, "{job}");
        answers.push((job["partitions"].clone(), job["result"].clone()));
    }
    assert_eq!(answers[0].0, answers[1].0);
    assert_eq!(answers[0].1.to_string(), answers[1].1.to_string());
}

/// Values that end within a pair, a block and a chunk.
#[tokio::test]
async fn a_guest_computes_the_bits_that_a_native_program_does() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    service.deploy("numeric-summary").unwrap();
    for rows in [1, 2, 3, 15, 21, 1_024 + 16 + 5] {
        let value = |n: u32| match n % 11 {
            7 if rows > 7 => f64::NAN,
            8 => -0.0,
            _ => (f64::from(n) * 1.1).sin() * 1e6,
        };
        let even = Float64Array::from_iter_values((0..rows).map(value));
        let odd =
            Float64Array::from_iter((0..rows).map(|n| {
                if n == 5 { Some(f64::NEG_INFINITY) } else { (n % 3 > 0 || n == 0).then(|| value(n)) }
            }));
        let columns = [("even", even), ("odd", odd)];
        let batch = RecordBatch::try_from_iter(
            columns.iter().map(|(name, column)| (*name, Arc::new(column.clone()) as ArrayRef)),
        );
        let batch = batch.unwrap();
        let mut table = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        table.write(&batch).unwrap();
        let input = format!("s3://bank/{rows}.parquet");
        service.put(&input, table.into_inner().unwrap()).await.unwrap();
        let job = run(&client, json!({ "function": "numeric-summary", "input": input })).await;
        for ((name, column), found) in columns.iter().zip(job["result"]["columns"].as_array().unwrap()) {
            let (mut variance, mut extremes) = (Variance::default(), MinMax::default());
            variance.extend_from_array(column);
            extremes.extend_from_array(column);
            let expected = json!({
                "name": name, "count": variance.count(), "nulls": u64::from(rows) - variance.count(),
                "mean": variance.mean(), "std_dev": variance.sample_std_dev(),
                "min": extremes.min(), "max": extremes.max(),
            });
            // By way of the text, as the answer came.
            let expected: Value = serde_json::from_str(&expected.to_string()).unwrap();
            assert_eq!(*found, expected, "{rows} rows");
        }
    }
}
