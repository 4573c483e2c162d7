// SPDX-License-Identifier: Apache-2.0
//! A durable job of 1,000 tasks that do nothing, each in a sandbox of its own,
//! from submission to done.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fanfold_tests::service::Service;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{Goal, Measurement};

const TASKS: usize = 1_000;
const ROUNDS: usize = 5;
/// Of each object: as long as a partition may be, so that each is a task.
const CONTENT: &[u8] = b"a\n1\n";

/// Runs the job a few times over the same input.
pub fn measure() -> Result<Vec<Measurement>> {
    let folder = tempfile::tempdir()?;
    let service = Service::start(folder.path())?;
    service.deploy("no-op")?;
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    threads.block_on(async {
        upload(&service).await?;
        let mut seconds = Vec::new();
        for _ in 0..=ROUNDS {
            seconds.push(job(&service).await?.as_secs_f64());
        }
        // The first one compiles nothing, but fills caches.
        seconds.remove(0);
        let rate = seconds.iter().map(|s| TASKS as f64 / s).collect();
        Ok(vec![
            Measurement::of("job_1000_tasks", "s", seconds).goal(Goal::AtMost(2.0)),
            Measurement::of("job_1000_tasks_rate", "1/s", rate),
        ])
    })
}

async fn upload(service: &Service) -> Result<()> {
    let store = service.store()?;
    store.ensure_bucket("bench").await?;
    let put = |n: usize| {
        let store = store.clone();
        async move {
            let uri = format!("s3://bench/in/{n:05}.csv").parse()?;
            store.put(&uri, Bytes::from_static(CONTENT), Default::default()).await?;
            anyhow::Ok(())
        }
    };
    stream::iter(0..TASKS).map(put).buffer_unordered(16).try_collect().await
}

/// From submission to the terminal state, polled every 5 ms.
async fn job(service: &Service) -> Result<Duration> {
    let client = client();
    let start = Instant::now();
    let split = json!({ "target_bytes": format!("{}B", CONTENT.len()) });
    let body = json!({ "function": "no-op", "input": "s3://bench/in/", "split": split });
    let url = format!("{}/v1/jobs", service.endpoint);
    let answer = client.post(url).bearer_auth(&service.token).json(&body).send().await?;
    let accepted: Value = answer.error_for_status()?.json().await?;
    let id = accepted["id"].as_str().context("expected the job's id")?;
    let url = format!("{}/v1/jobs/{id}", service.endpoint);
    loop {
        let shown: Value =
            client.get(&url).bearer_auth(&service.token).send().await?.error_for_status()?.json().await?;
        match shown["state"].as_str() {
            Some("succeeded") if shown["partitions"] == TASKS => return Ok(start.elapsed()),
            Some("queued" | "running") => tokio::time::sleep(Duration::from_millis(5)).await,
            other => bail!("expected the job to succeed with {TASKS} tasks, found {other:?}: {shown}"),
        }
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
