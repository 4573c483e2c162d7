// SPDX-License-Identifier: Apache-2.0
//! The statistics of `bank` over one CSV object of a gigabyte, which is scanned from end
//! to end before it can be cut. From submission to done, that scan included.
//!
//! Each run is over an object of another name: of one that was cut before, the cuts are
//! remembered.

use anyhow::{Context, Result, ensure};
use fanfold_tests::{
    bank::{NUMBERS, write},
    customers::{Order, Stored},
    service::Service,
};
use serde_json::json;

use crate::{
    Measurement,
    bank::{self, CSV_PER_CORE_LEAST, Task},
};

/// Each takes a little less than 77 bytes.
const CUSTOMERS: u64 = 13_500_000;
const GIGABYTE: u64 = 1_000_000_000;
const ROUNDS: usize = 3;

/// Runs the job a few times.
pub fn measure() -> Result<Vec<Measurement>> {
    let (folder, rows) = (tempfile::tempdir()?, CUSTOMERS / bank::shrink());
    let order = Order { rows, objects: 1, seed: 1, format: Stored::Csv };
    let files = write(&folder.path().join("input"), &order)?;
    let file = files.first().context("expected a file")?;
    let bytes = file.metadata()?.len();
    ensure!(
        bytes >= GIGABYTE || bank::shrink() > 1,
        "expected {rows} customers to take {GIGABYTE} bytes, found {bytes}; raise their number"
    );
    let service = Service::start(folder.path())?;
    service.deploy("numeric-summary")?;
    service.ok(&["s3", "mb", "s3://bank"])?;
    let mut task = Task {
        name: "csv_1gb",
        function: "numeric-summary",
        input: String::new(),
        output: None,
        columns: Some(NUMBERS.join(",")),
        params: json!({}),
        rows,
        bytes,
        per_core_least: Some(CSV_PER_CORE_LEAST),
    };
    let mut runs = Vec::new();
    for round in 0..ROUNDS {
        task.input = format!("s3://bank/customers-{round}.csv");
        service.ok(&["s3", "cp", &file.to_string_lossy(), &task.input])?;
        runs.push(bank::run(&service, &task, round)?);
        service.ok(&["s3", "rm", &task.input])?;
    }
    Ok(bank::measurements(&task, &runs))
}
