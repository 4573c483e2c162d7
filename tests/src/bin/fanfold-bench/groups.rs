// SPDX-License-Identifier: Apache-2.0
//! A keyed aggregate over ten million customers with two orders each, which lie in
//! different objects: many more states than a sandbox or a reducer holds at once. From
//! submission to a table with a row for each customer.

use std::{
    fs::File,
    io::{BufWriter, Write},
    ops::Range,
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use fanfold_protocol::{commit::Manifest, limits::MEMORY_BYTES_DEFAULT, uri::ObjectUri};
use fanfold_tests::service::Service;
use serde_json::Value;

use crate::{Goal, Measurement, bank};

const CUSTOMERS: u64 = 10_000_000;
const OBJECTS: u64 = 32;
/// From the customer of one order to that of the next, around the number of customers:
/// a prime that does not divide it, so that nobody is left out.
const STEP: u64 = 6_700_417;

/// Runs the job once: it takes a while.
pub fn measure() -> Result<Vec<Measurement>> {
    let (folder, customers) = (tempfile::tempdir()?, CUSTOMERS / bank::shrink());
    let orders = 2 * customers;
    let service = Service::start(folder.path())?;
    service.deploy("spend-by-customer")?;
    service.ok(&["s3", "mb", "s3://bench"])?;
    let file = folder.path().join("orders.csv");
    for object in 0..OBJECTS {
        let share = orders * object / OBJECTS..orders * (object + 1) / OBJECTS;
        write(&file, share, customers)?;
        let uri = format!("s3://bench/orders/{object:02}.csv");
        service.ok(&["s3", "cp", &file.to_string_lossy(), &uri])?;
    }
    let mut arguments = vec!["job", "run", "--function", "spend-by-customer"];
    arguments.extend(["--input", "s3://bench/orders/", "--output", "s3://bench/spend/"]);
    arguments.extend(["--no-cache", "--wait", "--json"]);
    let start = Instant::now();
    let printed = service.ok(&arguments)?;
    let seconds = start.elapsed().as_secs_f64();
    let job: Value = serde_json::from_str(&printed)?;
    let rows = rows_of(&service, &job)?;
    ensure!(rows == customers, "expected a row for each of {customers} customers, found {rows}");
    let sandbox = job["receipt"]["memory_bytes_peak"].as_u64().context("expected memory in the receipt")?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(vec![
        Measurement::of("groups_10m", "s", vec![seconds]),
        Measurement::of("groups_10m_rows", "1/s", vec![orders as f64 / seconds]),
        Measurement::of("groups_10m_sandbox_peak", "MiB", vec![mib(sandbox)])
            .goal(Goal::AtMost(mib(MEMORY_BYTES_DEFAULT))),
        Measurement::of("groups_10m_resident_peak", "MiB", vec![mib(service.resident_bytes_peak()?)]),
    ])
}

/// Writes these orders, in place of others.
fn write(path: &Path, orders: Range<u64>, customers: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "customer,amount")?;
    for order in orders {
        let (customer, cents) = (order * STEP % customers, order % 10_000);
        writeln!(file, "customer-{customer:08},{}.{:02}", cents / 100, cents % 100)?;
    }
    Ok(file.flush()?)
}

/// Rows of a job's output, as its manifest has them.
fn rows_of(service: &Service, job: &Value) -> Result<u64> {
    let uri: ObjectUri = job["manifest"].as_str().context("expected a manifest")?.parse()?;
    let (threads, store) = (tokio::runtime::Runtime::new()?, service.store()?);
    let manifest: Manifest = serde_json::from_slice(&threads.block_on(store.get(&uri, None))?)?;
    Ok(manifest.rows)
}
