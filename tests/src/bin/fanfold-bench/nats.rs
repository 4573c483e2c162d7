// SPDX-License-Identifier: Apache-2.0
//! The empty tasks of `jobs` over NATS: one gateway, one worker, and leases in streams
//! on disk, kept by one server or by each of three.
//!
//! Store, servers, gateway and worker share this machine, so that what copies cost in
//! CPU time lowers the rate.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fanfold_tests::{
    hosts::{Deployment, Plan, Release, is_over},
    proxy::Troubles,
};

use crate::{Goal, Measurement, jobs};

const TASKS: usize = 100_000;
/// Of the job that fills caches.
const FEW_TASKS: usize = 1_000;
const ROUNDS: usize = 3;
/// Of one job: well beyond what is promised.
const PATIENCE: Duration = Duration::from_secs(150);

/// Measures both, one after the other.
pub fn measure() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all = Vec::new();
    for (servers, least) in [(1, 3_000.0), (3, 1_500.0)] {
        let rates = threads.block_on(rates(servers))?;
        let name = format!("nats_r{servers}_100000_tasks_rate");
        all.push(Measurement::of(name, "1/s", rates).goal(Goal::AtLeast(least)));
    }
    Ok(all)
}

/// Tasks a second, where each of so many servers has a copy of everything.
async fn rates(servers: usize) -> Result<Vec<f64>> {
    let nats = (Release::Current, servers);
    let plan = Plan { nats, gateways: 1, workers: 1, troubles: (Troubles::default(), 0) };
    let deployment = Deployment::start(plan).await?;
    deployment.deploy("gateway-1", "no-op").await?;
    let store = deployment.store()?;
    store.ensure_bucket("bench").await?;
    for tasks in [FEW_TASKS, TASKS] {
        jobs::list(&store, tasks).await?;
    }
    run(&deployment, FEW_TASKS).await?;
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(TASKS as f64 / run(&deployment, TASKS).await?.as_secs_f64());
    }
    Ok(rates)
}

/// From submission to the terminal state.
async fn run(deployment: &Deployment, tasks: usize) -> Result<Duration> {
    let start = Instant::now();
    let job = jobs::document(&jobs::listed(tasks), "bytes");
    let id = deployment.submit("gateway-1", &job).await?;
    let job = deployment.job("gateway-1", &id, PATIENCE, is_over).await?;
    let elapsed = start.elapsed();
    ensure!(
        job["state"] == "succeeded" && job["partitions"] == tasks,
        "expected the job to succeed with {tasks} tasks, found {job}"
    );
    Ok(elapsed)
}
