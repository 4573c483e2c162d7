// SPDX-License-Identifier: Apache-2.0
//! Durable jobs of tasks that do nothing, each in a sandbox of its own, from
//! submission to done.
//!
//! 1,000 tasks read an object of one row each; 10,000 and 1,000,000 are told of
//! objects that they do not read, so that what is measured is the engine alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use fanfold_storage::Store;
use fanfold_tests::service::Service;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{Goal, Measurement};

const READING_TASKS: usize = 1_000;
const TASKS: usize = 10_000;
const MANY_TASKS: usize = 1_000_000;
const ROUNDS: usize = 5;
/// Of each object: as long as a partition may be, so that each is a task.
const CONTENT: &[u8] = b"a\n1\n";
/// Between two looks at a job whose answers are timed.
const LOOKS: Duration = Duration::from_millis(100);

/// A service with the function that does nothing, and a client of it.
struct Bench {
    service: Service,
    client: reqwest::Client,
}

/// Jobs of 1, 1,000 and 10,000 tasks.
pub fn measure() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bench = Bench::start()?;
    threads.block_on(async {
        let store = bench.service.store()?;
        upload(&store).await?;
        list(&store, TASKS).await?;
        list(&store, 1).await?;
        let all = json!("s3://bench/in/");
        let reading = bench.series(READING_TASKS, &all, "csv").await?;
        let one = bench.series(1, &listed(1), "bytes").await?;
        let telling = bench.series(TASKS, &listed(TASKS), "bytes").await?;
        let rate = |tasks: usize, seconds: &[f64]| seconds.iter().map(|s| tasks as f64 / s).collect();
        Ok(vec![
            Measurement::of("job_1000_tasks_rate", "1/s", rate(READING_TASKS, &reading)),
            Measurement::of("job_1000_tasks", "s", reading).goal(Goal::AtMost(2.0)),
            Measurement::of("job_1_task", "ms", one.iter().map(|s| s * 1e3).collect())
                .goal(Goal::AtMost(30.0)),
            Measurement::of("job_10000_tasks_rate", "1/s", rate(TASKS, &telling))
                .goal(Goal::AtLeast(10_000.0)),
        ])
    })
}

/// A job of 1,000,000 tasks beside one of 10,000, and how soon questions about it
/// are answered meanwhile.
pub fn measure_many() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bench = Bench::start()?;
    threads.block_on(async {
        let store = bench.service.store()?;
        for count in [TASKS, MANY_TASKS] {
            list(&store, count).await?;
        }
        let few = bench.series(TASKS, &listed(TASKS), "bytes").await?;
        let few: Vec<f64> = few.iter().map(|s| TASKS as f64 / s).collect();
        let (many, answers) = bench.watched(MANY_TASKS, &listed(MANY_TASKS)).await?;
        let rate = MANY_TASKS as f64 / many.as_secs_f64();
        let few = Measurement::of("", "1/s", few).value;
        let resident = (bench.service.resident_bytes_peak()? >> 20) as f64;
        Ok(vec![
            Measurement::of("job_1000000_tasks_rate", "1/s", vec![rate]),
            Measurement::of("job_1000000_over_10000_tasks_rate", "ratio", vec![rate / few])
                .goal(Goal::AtLeast(0.8)),
            Measurement::of("job_1000000_tasks_answer_p95", "ms", vec![quantile(answers, 0.95)])
                .goal(Goal::AtMost(50.0)),
            Measurement::of("job_1000000_tasks_resident_peak", "MiB", vec![resident])
                .goal(Goal::AtMost(1_024.0)),
        ])
    })
}

fn quantile(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * quantile) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

async fn upload(store: &Store) -> Result<()> {
    let put = |n: usize| async move {
        let uri = format!("s3://bench/in/{n:05}.csv").parse()?;
        store.put(&uri, Bytes::from_static(CONTENT), Default::default()).await?;
        anyhow::Ok(())
    };
    stream::iter(0..READING_TASKS).map(put).buffer_unordered(16).try_collect().await
}

/// A list of objects with their states, which nobody looks up.
pub async fn list(store: &Store, count: usize) -> Result<()> {
    use std::fmt::Write as _;
    let mut text = "uri,size,etag\n".to_owned();
    for n in 0..count {
        writeln!(text, "s3://bench/told/{n:07},4,d3b07384d113edec49eaa6238ad5ff00")?;
    }
    let uri = format!("s3://bench/list-{count}.csv").parse()?;
    store.put(&uri, text.into(), Default::default()).await?;
    Ok(())
}

/// That list as a job's input.
pub fn listed(count: usize) -> Value {
    json!(format!("manifest://bench/list-{count}.csv"))
}

/// A job that makes a task of every object, none of them out of the cache.
pub fn document(input: &Value, format: &str) -> Value {
    let split = json!({ "target_bytes": format!("{}B", CONTENT.len()) });
    json!({ "function": "no-op", "input": input, "format": format, "split": split, "cache": false })
}

impl Bench {
    fn start() -> Result<Self> {
        let service = Service::fresh()?;
        service.deploy("no-op")?;
        service.ok(&["s3", "mb", "s3://bench"])?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { service, client: reqwest::Client::new() })
    }

    /// Seconds from submission to the end, a few times.
    async fn series(&self, tasks: usize, input: &Value, format: &str) -> Result<Vec<f64>> {
        // The first one fills caches.
        self.run(tasks, input, format).await?;
        let mut seconds = Vec::new();
        for _ in 0..ROUNDS {
            seconds.push(self.run(tasks, input, format).await?.as_secs_f64());
        }
        Ok(seconds)
    }

    /// From submission to the terminal state, polled every 5 ms.
    async fn run(&self, tasks: usize, input: &Value, format: &str) -> Result<Duration> {
        let start = Instant::now();
        let id = self.submit(input, format).await?;
        while !self.is_done(&id, tasks).await? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(start.elapsed())
    }

    /// The same, with the times in ms that answers about the job and its tasks took.
    async fn watched(&self, tasks: usize, input: &Value) -> Result<(Duration, Vec<f64>)> {
        let start = Instant::now();
        let id = self.submit(input, "bytes").await?;
        let mut answers = Vec::new();
        loop {
            let asked = Instant::now();
            let done = self.is_done(&id, tasks).await?;
            answers.push(asked.elapsed().as_secs_f64() * 1e3);
            if done {
                return Ok((start.elapsed(), answers));
            }
            let asked = Instant::now();
            let page = self.get(&format!("/v1/jobs/{id}/tasks")).await?;
            ensure!(page["tasks"].is_array(), "expected a page of tasks, found {page}");
            answers.push(asked.elapsed().as_secs_f64() * 1e3);
            tokio::time::sleep(LOOKS).await;
        }
    }

    async fn submit(&self, input: &Value, format: &str) -> Result<String> {
        let body = document(input, format);
        let url = format!("{}/v1/jobs", self.service.endpoint);
        let answer = self.client.post(url).bearer_auth(&self.service.token).json(&body).send().await?;
        let (status, accepted) = (answer.status(), answer.json::<Value>().await?);
        ensure!(status == 202, "expected the job to be accepted, found {status}: {accepted}");
        Ok(accepted["id"].as_str().context("expected the job's id")?.to_owned())
    }

    async fn is_done(&self, id: &str, tasks: usize) -> Result<bool> {
        let shown = self.get(&format!("/v1/jobs/{id}")).await?;
        match shown["state"].as_str() {
            Some("succeeded") if shown["partitions"] == tasks => Ok(true),
            Some("queued" | "running") => Ok(false),
            other => bail!("expected the job to succeed with {tasks} tasks, found {other:?}: {shown}"),
        }
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.service.endpoint);
        let answer = self.client.get(url).bearer_auth(&self.service.token).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }
}
