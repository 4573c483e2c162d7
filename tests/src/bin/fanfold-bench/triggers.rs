// SPDX-License-Identifier: Apache-2.0
//! A storm of events through the webhook, each told twice, until every one has
//! had its effect; then a look over the same prefix with nothing new in it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fanfold_storage::PutOptions;
use fanfold_tests::service::{Service, component};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{Goal, Measurement};

const OBJECTS: usize = 100_000;
const RECORDS: usize = 100;
const COPIES: usize = 2;
const DRAINED_MAX: Duration = Duration::from_secs(1_200);

/// Measures it once: it takes some minutes.
pub fn measure() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    threads.block_on(storm())
}

async fn storm() -> Result<Vec<Measurement>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let service = Service::start(folder.path())?;
    let handler = component("raw-wit")?;
    service.ok(&["deploy", &handler.to_string_lossy(), "--name", "echo"])?;
    put_objects(&service).await?;
    let client = Client { http: reqwest::Client::new(), service: &service };
    let document =
        json!({"bucket": "bank", "prefix": "in/", "function": "echo", "concurrency": 64, "reconcile": "0s"});
    client.ask("PUT", "/v1/triggers/storm", &document).await?;
    let begun = Instant::now();
    let mut notifications = Vec::new();
    for copy in 0..COPIES {
        notifications.extend((0..OBJECTS / RECORDS).map(|chunk| notification(chunk, copy)));
    }
    let sent = stream::iter(notifications).map(|body| client.deliver(body)).buffer_unordered(8);
    sent.try_collect::<Vec<()>>().await?;
    let accepted = begun.elapsed().as_secs_f64();
    loop {
        let ended = client.metric("fanfold_async_invocations_ended_total").await?;
        if ended >= OBJECTS as f64 {
            break;
        }
        ensure!(begun.elapsed() < DRAINED_MAX, "expected {OBJECTS} ends, found {ended}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let drained = begun.elapsed().as_secs_f64();
    let held = service.resident_bytes_peak()? as f64 / f64::from(1 << 20);
    let (requests, looked) =
        (client.metric("fanfold_reconciler_store_requests_total").await?, Instant::now());
    let found = client.ask("POST", "/v1/triggers/storm/replay", &json!({})).await?;
    let look = looked.elapsed().as_secs_f64();
    ensure!(found["listed"] == OBJECTS && found["queued"] == 0, "expected nothing new, found {found}");
    let requests = client.metric("fanfold_reconciler_store_requests_total").await? - requests;
    let ended = client.metric("fanfold_async_invocations_ended_total").await?;
    ensure!(ended == OBJECTS as f64, "expected one effect for each object, found {ended}");
    Ok(vec![
        Measurement::of("events_accepted_100k_twice", "s", vec![accepted]).goal(Goal::AtMost(120.0)),
        Measurement::of("events_drained_100k", "s", vec![drained]).goal(Goal::AtMost(600.0)),
        Measurement::of("events_memory_peak", "MiB", vec![held]).goal(Goal::AtMost(300.0)),
        Measurement::of("reconciler_look_100k", "s", vec![look]).goal(Goal::AtMost(60.0)),
        Measurement::of("reconciler_requests_100k", "requests", vec![requests]).goal(Goal::AtMost(200.0)),
    ])
}

/// Before there is a trigger, so that nothing tells of them but the storm.
async fn put_objects(service: &Service) -> Result<()> {
    let store = service.store()?;
    store.ensure_bucket("bank").await?;
    let put = stream::iter(0..OBJECTS).map(|n| {
        let store = &store;
        async move {
            let uri = format!("s3://bank/in/{n:06}").parse()?;
            store.put(&uri, bytes::Bytes::from_static(b"x"), PutOptions::typed("text/plain")).await?;
            anyhow::Ok(())
        }
    });
    put.buffer_unordered(32).try_collect().await
}

fn notification(chunk: usize, copy: usize) -> Value {
    let records = (chunk * RECORDS..(chunk + 1) * RECORDS).map(|n| {
        json!({"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventTime": "2026-11-23T00:00:00.000Z",
            "eventName": "ObjectCreated:Put", "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "bank"},
            "object": {"key": format!("in/{n:06}"), "size": 1, "sequencer": format!("{copy:016X}")}}})
    });
    json!({"Records": records.collect::<Vec<_>>()})
}

struct Client<'a> {
    http: reqwest::Client,
    service: &'a Service,
}

impl Client<'_> {
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.service.endpoint);
        let request = self.http.request(method.parse()?, url).bearer_auth(&self.service.token).json(body);
        let answer = request.send().await?;
        let (status, found) = (answer.status(), answer.json::<Value>().await.unwrap_or_default());
        ensure!(status.is_success(), "{method} {path}: {status}: {found}");
        Ok(found)
    }

    /// Sends a notification as a store does: again, when it is told to.
    async fn deliver(&self, body: Value) -> Result<()> {
        loop {
            let url = format!("{}/v1/events/s3", self.service.endpoint);
            let answer = self.http.post(url).bearer_auth(&self.service.token).json(&body).send().await?;
            match answer.status().as_u16() {
                200 => return Ok(()),
                429 => tokio::time::sleep(Duration::from_secs(1)).await,
                other => anyhow::bail!(
                    "expected a notification to be kept, found {other}: {}",
                    answer.text().await?
                ),
            }
        }
    }

    /// The sum of a metric over its labels.
    async fn metric(&self, name: &str) -> Result<f64> {
        let url = format!("{}/metrics", self.service.endpoint);
        let text = self.http.get(url).bearer_auth(&self.service.token).send().await?.text().await?;
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .context("expected a value")?
                    .parse::<f64>()
                    .context("expected a number")
            })
            .sum()
    }
}
