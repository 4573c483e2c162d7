// SPDX-License-Identifier: Apache-2.0
//! A bank's three jobs over objects in the embedded store: statistics of the seven
//! numeric columns of 20,000,000 customers in 32 Parquet objects; a score for each
//! of them, written back as Parquet, with a report by region and grade; and the same
//! statistics over 5,000,000 customers as CSV. From submission to done, every byte
//! through S3, nothing cached.
//!
//! Where the CPU time went comes from the receipt: decoding, the guest (copies into
//! and out of it included) and encoding; the rest of the process's CPU time is
//! fetching, storing, the S3 server in the same process, and the engine. Of the rest,
//! `transfer` is what the worker's threads for data took: fetching and storing, which
//! share connections, with the leases and commits.
//!
//! With `--compare` other engines do the same over the same objects in the same run.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fanfold_tests::{
    bank,
    customers::{Order, Stored},
    service::{Service, cpu_time, cpu_time_of_threads},
};
use serde_json::{Value, json};

use crate::{Goal, Measurement};

const CUSTOMERS: u64 = 20_000_000;
const CSV_CUSTOMERS: u64 = 5_000_000;
const OBJECTS: u32 = 32;
/// What is promised of CSV, in MB/s a core.
pub const CSV_PER_CORE_LEAST: f64 = 150.0;
const ROUNDS: usize = 3;
/// The worker's threads that read and write tables.
const DATA_THREADS: &str = "fanfold-data";

/// Rows are fewer by this factor where the variable `FANFOLD_BENCH_SHRINK` says so, to try the bench itself.
pub fn shrink() -> u64 {
    std::env::var("FANFOLD_BENCH_SHRINK").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// One of the jobs.
pub struct Task {
    /// As in the names of the measurements.
    pub name: &'static str,
    /// What runs.
    pub function: &'static str,
    /// Over what.
    pub input: String,
    /// Where to, but for the number of the run.
    pub output: Option<&'static str>,
    /// All that the function declares, if not given.
    pub columns: Option<String>,
    /// Of the function.
    pub params: Value,
    /// Of the input.
    pub rows: u64,
    /// Of the input.
    pub bytes: u64,
    /// What is promised, in MB/s a core.
    pub per_core_least: Option<f64>,
}

/// What a run took.
pub struct Took {
    elapsed: Duration,
    /// CPU seconds, as [`PARTS`] names them.
    split: [f64; 5],
}

/// Where CPU time goes; the last is a part of the one before.
const PARTS: [&str; 5] = ["decode", "guest", "encode", "rest", "transfer"];

/// Runs the jobs, and what they are compared with.
pub fn measure(compare: bool) -> Result<Vec<Measurement>> {
    let folder = tempfile::tempdir()?;
    let service = Service::start(folder.path())?;
    service.ok(&["s3", "mb", "s3://bank"])?;
    let parquet = upload(&service, folder.path(), "parquet", CUSTOMERS / shrink(), Stored::Parquet)?;
    let csv = upload(&service, folder.path(), "csv", CSV_CUSTOMERS / shrink(), Stored::Csv)?;
    service.deploy("numeric-summary")?;
    service.deploy("portfolio")?;
    let mut all = Vec::new();
    for task in tasks(parquet, csv) {
        let mut runs = Vec::new();
        for round in 0..ROUNDS {
            runs.push(run(&service, &task, round)?);
        }
        all.extend(measurements(&task, &runs));
    }
    let resident = (service.resident_bytes_peak()? >> 20) as f64;
    all.push(Measurement::of("bank_resident_peak", "MiB", vec![resident]).goal(Goal::AtMost(700.0)));
    if compare {
        all.extend(others(&service, &all)?);
    }
    Ok(all)
}

fn tasks(parquet: u64, csv: u64) -> [Task; 3] {
    let numbers = Some(bank::NUMBERS.join(","));
    let stats = Task {
        name: "bank_stats",
        function: "numeric-summary",
        input: "s3://bank/parquet/".to_owned(),
        output: None,
        columns: numbers.clone(),
        params: json!({}),
        rows: CUSTOMERS / shrink(),
        bytes: parquet,
        per_core_least: None,
    };
    let score = Task {
        name: "bank_score",
        function: "portfolio",
        input: "s3://bank/parquet/".to_owned(),
        output: Some("s3://bank/scores"),
        columns: None,
        params: json!({
            "model": bank::model(), "keep": ["customer_id", "region", "debt"], "by": "region", "exposure": "debt",
            "loss_given_default": 0.45
        }),
        rows: CUSTOMERS / shrink(),
        bytes: parquet,
        per_core_least: None,
    };
    let text = Task {
        name: "bank_csv_stats",
        function: "numeric-summary",
        input: "s3://bank/csv/".to_owned(),
        output: None,
        columns: numbers,
        params: json!({}),
        rows: CSV_CUSTOMERS / shrink(),
        bytes: csv,
        per_core_least: Some(CSV_PER_CORE_LEAST),
    };
    [stats, score, text]
}

/// Makes customers and puts them into the store; gives their bytes.
fn upload(service: &Service, folder: &Path, name: &str, rows: u64, format: Stored) -> Result<u64> {
    let made = folder.join(name);
    let mut bytes = 0;
    for file in bank::write(&made, &Order { rows, objects: OBJECTS, seed: 1, format })? {
        bytes += file.metadata()?.len();
        service.ok(&["s3", "cp", &file.to_string_lossy(), &format!("s3://bank/{name}/")])?;
        std::fs::remove_file(&file)?;
    }
    Ok(bytes)
}

/// CPU seconds of the service so far: all of them, and those of the threads for data.
fn cpu(service: &Service) -> Result<[f64; 2]> {
    let (all, data) = (cpu_time(service.pid())?, cpu_time_of_threads(service.pid(), DATA_THREADS)?);
    Ok([all.as_secs_f64(), data.as_secs_f64()])
}

/// Runs a job from before its submission until it is done.
pub fn run(service: &Service, task: &Task, round: usize) -> Result<Took> {
    let (params, output) = (task.params.to_string(), task.output.map(|uri| format!("{uri}-{round}/")));
    let mut arguments = vec!["job", "run", "--function", task.function, "--input"];
    arguments.push(&task.input);
    arguments.extend(["--params", &params, "--no-cache", "--wait", "--json"]);
    if let Some(columns) = &task.columns {
        arguments.extend(["--columns", columns]);
    }
    if let Some(output) = &output {
        arguments.extend(["--output", output]);
    }
    let (before, start) = (cpu(service)?, Instant::now());
    let printed = service.ok(&arguments)?;
    let (elapsed, after) = (start.elapsed(), cpu(service)?);
    let job: Value = serde_json::from_str(&printed)?;
    let receipt = &job["receipt"];
    ensure!(receipt["rows_in"] == task.rows, "expected {} rows in the receipt, found {receipt}", task.rows);
    let seconds = |name: &str| {
        let ms = receipt[name].as_u64().with_context(|| format!("expected {name} in the receipt"))?;
        anyhow::Ok(ms as f64 / 1e3)
    };
    let (all, guest, decode) = (seconds("cpu_ms")?, seconds("guest_ms")?, seconds("decode_ms")?);
    let rest = (after[0] - before[0] - all).max(0.0);
    // Decoding and encoding are done by the threads for data.
    let transfer = (after[1] - before[1] - (all - guest)).max(0.0);
    Ok(Took { elapsed, split: [decode, guest, all - guest - decode, rest, transfer] })
}

/// What runs of a job say: its time, its rate, and where CPU time went.
pub fn measurements(task: &Task, runs: &[Took]) -> Vec<Measurement> {
    let name = task.name;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let elapsed =
        |value: &dyn Fn(f64) -> f64| runs.iter().map(|run| value(run.elapsed.as_secs_f64())).collect();
    let rate = Measurement::of(
        format!("{name}_per_core"),
        "MB/s",
        elapsed(&|seconds| task.bytes as f64 / 1e6 / seconds / cores),
    );
    let mut all = vec![
        Measurement::of(name, "s", elapsed(&|seconds| seconds)),
        match task.per_core_least {
            Some(least) => rate.goal(Goal::AtLeast(least)),
            None => rate,
        },
    ];
    for (n, part) in PARTS.into_iter().enumerate() {
        let seconds = runs.iter().map(|run| run.split[n]).collect();
        all.push(Measurement::of(format!("{name}_cpu_{part}"), "s", seconds));
    }
    all
}

/// The same by Polars and by Ray tasks with pyarrow, from the same store.
fn others(service: &Service, ours: &[Measurement]) -> Result<Vec<Measurement>> {
    let home = std::env::var_os("FANFOLD_COMPARE_VENV")
        .context("expected FANFOLD_COMPARE_VENV; run this as `cargo xtask bench --compare`")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare/bank.py");
    let printed = Command::new(Path::new(&home).join("bin/python"))
        .arg(&script)
        .arg(bank::model().to_string())
        .env("AWS_ENDPOINT_URL", &service.s3_endpoint)
        .env("AWS_ACCESS_KEY_ID", &service.credentials.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &service.credentials.secret_key)
        .env("BENCH_ROUNDS", ROUNDS.to_string())
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", script.display()))?;
    ensure!(printed.status.success(), "{} ended with {}", script.display(), printed.status);
    let printed: Value = serde_json::from_slice(&printed.stdout)?;
    let mut all = Vec::new();
    for (engine, most) in [("polars", 1.3), ("ray", 1.0)] {
        for name in ["bank_stats", "bank_score", "bank_csv_stats"] {
            let runs: Vec<f64> = serde_json::from_value(printed[engine][name].clone())
                .with_context(|| format!("expected the seconds of {engine} for {name}"))?;
            let theirs = Measurement::of(format!("{name}_{engine}"), "s", runs);
            let own = ours.iter().find(|m| m.name == name).context("expected our own run")?.value;
            let ratio = Measurement::of(format!("{name}_over_{engine}"), "ratio", vec![own / theirs.value]);
            all.extend([theirs, ratio.goal(Goal::AtMost(most))]);
        }
    }
    Ok(all)
}
