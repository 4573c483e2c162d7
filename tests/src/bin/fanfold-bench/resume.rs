// SPDX-License-Identifier: Apache-2.0
//! A job whose service is killed when half of it is done: what CPU time the rest
//! takes after the next start, beside that of the whole job.
//!
//! All of the service's process counts: its start, finding the job again, and the
//! work that was under way when it was killed and is done twice. The whole and the half
//! are run in turns, over the same objects.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fanfold_protocol::{keys, plan::Plan, uri::ObjectUri};
use fanfold_storage::ListOptions;
use fanfold_tests::{
    customers::{Order, Stored, write},
    service::{Service, cpu_time},
};
use futures::TryStreamExt;
use serde_json::Value;

use crate::{Goal, Measurement};

/// Rows that are written, and how often they are uploaded, under other names.
const ROWS: u64 = 2_000_000;
const OBJECTS: u32 = 32;
const COPIES: usize = 5;
const ROUNDS: usize = 3;
/// Where the platform keeps plans and commits.
const SYSTEM_BUCKET: &str = "fanfold";
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the job whole and in halves, in turns.
pub fn measure() -> Result<Vec<Measurement>> {
    let folder = tempfile::tempdir()?;
    let files = write(
        &folder.path().join("input"),
        &Order { rows: ROWS, objects: OBJECTS, seed: 1, format: Stored::Parquet },
    )?;
    let mut service = Service::start(folder.path())?;
    service.deploy("column-stats")?;
    service.ok(&["s3", "mb", "s3://bench"])?;
    for copy in 0..COPIES {
        for file in &files {
            service.ok(&["s3", "cp", &file.to_string_lossy(), &format!("s3://bench/customers/{copy}/")])?;
        }
    }
    let threads = tokio::runtime::Runtime::new()?;
    // The first one fills caches.
    let (first, _) = whole(&service)?;
    let (mut all, mut rest, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (again, of_all) = whole(&service)?;
        let id = submit(&service)?;
        threads.block_on(async { tokio::time::timeout(PATIENCE, half_done(&service, &id)).await })??;
        service.kill()?;
        service = Service::start(folder.path())?;
        let job = ended(&service, &id)?;
        let of_rest = cpu_time(service.pid())?;
        for result in [&again["result"], &job["result"]] {
            ensure!(*result == first["result"], "expected the same result, found {result}");
        }
        all.push(of_all.as_secs_f64());
        rest.push(of_rest.as_secs_f64());
        ratio.push(of_rest.as_secs_f64() / of_all.as_secs_f64());
    }
    Ok(vec![
        Measurement::of("resume_whole_cpu", "s", all),
        Measurement::of("resume_rest_cpu", "s", rest),
        Measurement::of("resume_cpu_ratio", "ratio", ratio).goal(Goal::AtMost(0.55)),
    ])
}

/// The job from its submission to its end, with the CPU time that it took.
fn whole(service: &Service) -> Result<(Value, Duration)> {
    let before = cpu_time(service.pid())?;
    let id = submit(service)?;
    let job = ended(service, &id)?;
    Ok((job, cpu_time(service.pid())?.saturating_sub(before)))
}

fn submit(service: &Service) -> Result<String> {
    let input = "s3://bench/customers/";
    let printed = service.ok(&[
        "job",
        "run",
        "--function",
        "column-stats",
        "--input",
        input,
        "--no-cache",
        "--json",
    ])?;
    let job: Value = serde_json::from_str(&printed)?;
    Ok(job["id"].as_str().context("expected the job's id")?.to_owned())
}

/// Waits until half of the job's leases are committed: the store knows that at once.
async fn half_done(service: &Service, id: &str) -> Result<()> {
    let (store, id) = (service.store()?, id.parse()?);
    let plan = ObjectUri::new(SYSTEM_BUCKET, keys::plan(&id))?;
    let plan: Plan = serde_json::from_slice(&store.get(&plan, None).await?)?;
    let first_stage = format!("{}00/", keys::commits(&id));
    loop {
        let commits = store.list(SYSTEM_BUCKET, &first_stage, ListOptions::default());
        let commits = commits.try_fold(0, |count, _| std::future::ready(Ok(count + 1))).await?;
        if 2 * commits >= plan.groups.len() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The job, once it has succeeded.
fn ended(service: &Service, id: &str) -> Result<Value> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let job: Value = serde_json::from_str(&service.ok(&["job", "show", id, "--output", "json"])?)?;
        match job["state"].as_str() {
            Some("succeeded") => return Ok(job),
            Some("queued" | "running") => std::thread::sleep(Duration::from_millis(50)),
            _ => bail!("expected the job to succeed, found {job}"),
        }
    }
    bail!("expected job {id} to end within {PATIENCE:?}")
}
