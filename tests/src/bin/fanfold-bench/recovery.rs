// SPDX-License-Identifier: Apache-2.0
//! How soon work goes on when a process is lost: of two gateways, two workers and three
//! servers of NATS one after the other ends as `kill -9` ends it, while jobs run.
//!
//! What goes on is looked for in the store, where it counts, and at the gateway that is
//! left.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fanfold_protocol::{commit::Commit, keys, uri::ObjectUri};
use fanfold_storage::{ListOptions, Store};
use fanfold_tests::{
    hosts::{Deployment, Plan, Release, SYSTEM_BUCKET, TOKEN, is_over},
    proxy::Troubles,
};
use futures::{TryStreamExt, future::try_join_all};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Goal, Measurement, jobs};

const ROUNDS: usize = 2;
/// What is lost.
const WORKER: &str = "worker-1";
const GATEWAY: &str = "gateway-1";
/// Who is left.
const OTHER_GATEWAY: &str = "gateway-2";
/// The lease of a task, and five seconds.
const WORKER_LOST_MAX: f64 = 35.0;
const GATEWAY_LOST_MAX: f64 = 10.0;
const PUBLISHING_MAX: f64 = 10.0;
/// Leases at once of the job whose gateway is lost.
const WIDTH: usize = 2;
/// Of its tasks, those that are done before.
const DONE_BEFORE: u64 = 8;
/// Calls in a row after which they count as accepted again, and what none of them may take.
const IN_A_ROW: usize = 20;
const STALLED: Duration = Duration::from_secs(1);
/// Until a server of NATS that was away has caught up.
const CAUGHT_UP: Duration = Duration::from_secs(5);
const LOOKS: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(90);

/// A table, each of whose rows is about twenty milliseconds of work, cut into so few
/// tasks that each is leased by itself.
struct Table {
    name: &'static str,
    /// Each of [`ROW_BYTES`].
    rows: u64,
    task_rows: u64,
}

/// Of more work than is done before a lease lapses, in tasks that workers tell of.
const LONG: Table = Table { name: "long", rows: 4_800, task_rows: 25 };
/// In tasks that are soon done.
const SHORT: Table = Table { name: "short", rows: 1_000, task_rows: 4 };
/// Four digits and the end of the line.
const ROW_BYTES: u64 = 5;

/// Loses each of them.
pub fn measure() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    threads.block_on(async {
        let mut deployment = deployment().await?;
        let (mut workers, mut gateways) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            workers.push(worker_lost(&mut deployment).await?.as_secs_f64());
            gateways.push(gateway_lost(&mut deployment).await?.as_secs_f64());
        }
        // Leaders are among the three, so the longest counts.
        let (mut publishing, mut ended) = (Duration::ZERO, Duration::ZERO);
        for server in deployment.names("nats") {
            let took = server_lost(&mut deployment, &server).await?;
            (publishing, ended) = (publishing.max(took.0), ended.max(took.1));
        }
        Ok(vec![
            Measurement::of("recovery_worker_lost", "s", workers).goal(Goal::AtMost(WORKER_LOST_MAX)),
            Measurement::of("recovery_gateway_lost", "s", gateways).goal(Goal::AtMost(GATEWAY_LOST_MAX)),
            Measurement::of("recovery_nats_publishing", "s", vec![publishing.as_secs_f64()])
                .goal(Goal::AtMost(PUBLISHING_MAX)),
            Measurement::of("recovery_nats_job_ended", "s", vec![ended.as_secs_f64()]),
        ])
    })
}

async fn deployment() -> Result<Deployment> {
    let nats = (Release::Current, 3);
    let plan = Plan { nats, gateways: 2, workers: 2, troubles: (Troubles::default(), 0) };
    let deployment = Deployment::start(plan).await?;
    for function in ["misbehave", "no-op", "hello"] {
        deployment.deploy(GATEWAY, function).await?;
    }
    for Table { name, rows, .. } in [LONG, SHORT] {
        let rows: String = (1_000..1_000 + rows).map(|n| format!("{n}\n")).collect();
        deployment.alone.put(&format!("s3://bench/{name}.csv"), format!("n\n{rows}")).await?;
    }
    jobs::list(&deployment.store()?, 1).await?;
    Ok(deployment)
}

/// A job over a table that runs in so many leases at once; 0 for as many as there is room for.
fn working(table: &Table, width: usize) -> Value {
    json!({
        "function": "misbehave", "params": { "how": "work" }, "cache": false,
        "input": format!("s3://bench/{}.csv", table.name),
        "split": { "target_bytes": format!("{}B", table.task_rows * ROW_BYTES) },
        "limits": { "max_parallel": width },
        // Of what was lost, the lease alone is to bring it back.
        "retry": { "speculation": false },
    })
}

/// Until all that a lost worker was working on has begun elsewhere, while there is more
/// to do than workers are there.
async fn worker_lost(deployment: &mut Deployment) -> Result<Duration> {
    let id = submitted(deployment, GATEWAY, &working(&LONG, 0)).await?;
    let (begun, store, job) = (Instant::now(), deployment.store()?, id.parse::<Uuid>()?);
    let tasks = loop {
        let tasks = worked_on(deployment, &id).await?;
        if !tasks.is_empty() {
            break tasks;
        }
        ensure!(begun.elapsed() < PATIENCE, "expected {WORKER} to work within {PATIENCE:?}, found it idle");
        tokio::time::sleep(LOOKS).await;
    };
    let lost = Instant::now();
    deployment.kill(WORKER)?;
    let elsewhere = tasks.iter().map(|task| begun_elsewhere(&store, &job, *task, lost));
    let elsewhere = try_join_all(elsewhere).await?;
    let last = elsewhere.into_iter().flatten().max();
    let last = last.context("expected a worker to be lost with a task, found that it had done them all")?;
    ended(deployment, GATEWAY, &id).await?;
    restarted(deployment, WORKER).await?;
    Ok(last)
}

/// The tasks that the worker told that it is working on.
async fn worked_on(deployment: &Deployment, id: &str) -> Result<Vec<u32>> {
    let url = format!("{}/v1/jobs/{id}/tasks?state=running&limit=1000", deployment.endpoint(GATEWAY)?);
    let (status, page) = deployment.ask("GET", &url, "application/json", "").await?;
    let tasks = page["tasks"].as_array();
    let tasks = tasks.with_context(|| format!("expected a page of tasks, found {status}: {page}"))?;
    let its = tasks.iter().filter(|task| task["worker"] == WORKER);
    its.map(|task| Ok(serde_json::from_value(task["task"].clone())?)).collect()
}

/// Until another worker began a task that it has committed since; none where the lost one had
/// committed it.
async fn begun_elsewhere(store: &Store, job: &Uuid, task: u32, lost: Instant) -> Result<Option<Duration>> {
    let place = ObjectUri::new(SYSTEM_BUCKET, keys::commit(job, 0, task, 0))?;
    loop {
        match store.get(&place, None).await {
            Ok(commit) => {
                let (seen, commit) = (lost.elapsed(), serde_json::from_slice::<Commit>(&commit)?);
                let ran_us = commit.tasks.iter().map(|task| task.usage.wall_us).sum();
                let began = seen.saturating_sub(Duration::from_micros(ran_us));
                return Ok((commit.worker != WORKER).then_some(began));
            }
            Err(fanfold_storage::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(lost.elapsed() < PATIENCE, "expected task {task} to be done elsewhere within {PATIENCE:?}");
        tokio::time::sleep(LOOKS).await;
    }
}

/// Until more leases are committed than the lost gateway can have queued: until another
/// one coordinates.
async fn gateway_lost(deployment: &mut Deployment) -> Result<Duration> {
    let id = submitted(deployment, GATEWAY, &working(&SHORT, WIDTH)).await?;
    let has_begun = |job: &Value| job["tasks"]["done"].as_u64() >= Some(DONE_BEFORE);
    deployment.job(GATEWAY, &id, PATIENCE, has_begun).await?;
    let (store, job, lost) = (deployment.store()?, id.parse::<Uuid>()?, Instant::now());
    deployment.kill(GATEWAY)?;
    let queued = commits(&store, &job).await? + WIDTH;
    while commits(&store, &job).await? <= queued {
        ensure!(lost.elapsed() < PATIENCE, "expected {OTHER_GATEWAY} to go on within {PATIENCE:?}");
        tokio::time::sleep(LOOKS).await;
    }
    let went_on = lost.elapsed();
    ended(deployment, OTHER_GATEWAY, &id).await?;
    restarted(deployment, GATEWAY).await?;
    Ok(went_on)
}

async fn commits(store: &Store, job: &Uuid) -> Result<usize> {
    let listed = store.list(SYSTEM_BUCKET, &keys::commits(job), ListOptions::default());
    Ok(listed.try_fold(0, |count, _| std::future::ready(Ok(count + 1))).await?)
}

/// Until calls and jobs are accepted again; and until a job that was submitted then has
/// ended, of which everything goes through NATS.
async fn server_lost(deployment: &mut Deployment, server: &str) -> Result<(Duration, Duration)> {
    let lost = Instant::now();
    deployment.kill(server)?;
    let hosts = &*deployment;
    let job = async {
        let id = submitted(hosts, OTHER_GATEWAY, &jobs::document(&jobs::listed(1), "bytes")).await?;
        let accepted = lost.elapsed();
        let job = hosts.job(OTHER_GATEWAY, &id, PATIENCE, is_over).await?;
        ensure!(job["state"] == "succeeded", "expected the job to succeed, found {job}");
        anyhow::Ok((accepted, lost.elapsed()))
    };
    let (calls, (accepted, ended)) = tokio::try_join!(calls_accepted(hosts, lost), job)?;
    restarted(deployment, server).await?;
    tokio::time::sleep(CAUGHT_UP).await;
    Ok((calls.max(accepted), ended))
}

/// Until the first of [`IN_A_ROW`] asynchronous calls was accepted, none of which stalls.
async fn calls_accepted(deployment: &Deployment, lost: Instant) -> Result<Duration> {
    let (mut row, mut first) = (0, Duration::ZERO);
    while row < IN_A_ROW {
        ensure!(lost.elapsed() < PATIENCE, "expected calls to be accepted again within {PATIENCE:?}");
        let asked = Instant::now();
        match call(deployment).await {
            Ok(()) if row > 0 && asked.elapsed() < STALLED => row += 1,
            Ok(()) => (row, first) = (1, lost.elapsed()),
            Err(_) => {
                row = 0;
                tokio::time::sleep(LOOKS).await;
            }
        }
    }
    Ok(first)
}

/// Has a call accepted, which is durable then.
async fn call(deployment: &Deployment) -> Result<()> {
    let url = format!("{}/v1/functions/hello/invoke", deployment.endpoint(OTHER_GATEWAY)?);
    let request = deployment.http.post(url).bearer_auth(TOKEN).header("prefer", "respond-async");
    let request = request.header("content-type", "application/json").body("\"Ada\"");
    let status = request.timeout(PATIENCE).send().await?.status();
    ensure!(status == 202, "expected a call to be accepted, found {status}");
    Ok(())
}

/// Submits a job, again until it is accepted.
async fn submitted(deployment: &Deployment, gateway: &str, job: &Value) -> Result<String> {
    let begun = Instant::now();
    loop {
        match deployment.submit(gateway, job).await {
            Ok(id) => return Ok(id),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(LOOKS).await,
        }
    }
}

/// Ends a job that has shown what it was to show.
async fn ended(deployment: &Deployment, gateway: &str, id: &str) -> Result<()> {
    let url = format!("{}/v1/jobs/{id}/cancel", deployment.endpoint(gateway)?);
    let (status, answer) = deployment.ask("POST", &url, "application/json", "").await?;
    ensure!([202, 409].contains(&status), "expected the job to be cancelled, found {status}: {answer}");
    deployment.job(gateway, id, PATIENCE, is_over).await.map(drop)
}

async fn restarted(deployment: &mut Deployment, name: &str) -> Result<()> {
    deployment.launch(name)?;
    deployment.ready(name).await
}
