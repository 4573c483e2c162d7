// SPDX-License-Identifier: Apache-2.0
//! From a put to the start of a function, one object at a time; then a storm of
//! events through the webhook, each told one to five times in a drawn order,
//! until every one has had its one effect; then a look over the same prefix with
//! nothing new in it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fanfold_protocol::{
    event::{derived_id, state_identity},
    time,
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use fanfold_tests::service::{Service, component, cpu_time};
use futures::{StreamExt, TryStreamExt, stream};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Goal, Measurement};

const PUTS: usize = 1_000;
const OBJECTS: usize = 100_000;
const RECORDS: usize = 100;
/// Times that an event is told, at most.
const COPIES_MAX: usize = 5;
const SEED: u64 = 5;
const DRAINED_MAX: Duration = Duration::from_secs(1_200);

/// Measures it once: it takes some minutes.
pub fn measure() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut all = threads.block_on(put_to_start())?;
    all.extend(threads.block_on(storm())?);
    Ok(all)
}

/// A service with a handler and a bucket.
async fn service() -> Result<Service> {
    let service = Service::fresh()?;
    let handler = component("raw-wit")?;
    service.ok(&["deploy", &handler.to_string_lossy(), "--name", "echo"])?;
    service.store()?.ensure_bucket("bank").await?;
    Ok(service)
}

/// From before a put until the function has been started, on a service that does nothing else.
async fn put_to_start() -> Result<Vec<Measurement>> {
    let service = service().await?;
    let client = Client { http: reqwest::Client::new(), service: &service };
    let document = json!({"bucket": "bank", "prefix": "in/", "function": "echo"});
    let made = client.ask("PUT", "/v1/triggers/t", &document).await?;
    let trigger: Uuid = made["id"].as_str().context("expected an id")?.parse()?;
    let (store, mut sent) = (service.store()?, Vec::new());
    for n in 0..PUTS {
        let uri: ObjectUri = format!("s3://bank/in/{n:04}").parse()?;
        let at = time::now();
        store.put(&uri, bytes::Bytes::from_static(b"x"), PutOptions::typed("text/plain")).await?;
        let meta = store.head(&uri).await?;
        let state = state_identity("bank", uri.key(), &meta.pin, meta.last_modified);
        sent.push((at, derived_id(&trigger, &state)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut taken = Vec::new();
    for (at, id) in sent {
        let ended = client.ended(&id).await?;
        let number = |value: &Value| value.as_f64().context("expected a number");
        let started = number(&ended["started_at"])? + number(&ended["usage"]["start_us"])? / 1_000.0;
        taken.push(started - at.0 as f64);
    }
    taken.sort_by(f64::total_cmp);
    let of = |share: usize| taken.get(taken.len() * share / 100).copied().unwrap_or(f64::NAN);
    Ok(vec![
        Measurement::of("put_to_start_p50", "ms", vec![of(50)]).goal(Goal::AtMost(20.0)),
        Measurement::of("put_to_start_p99", "ms", vec![of(99)]).goal(Goal::AtMost(100.0)),
    ])
}

async fn storm() -> Result<Vec<Measurement>> {
    let service = service().await?;
    put_objects(&service).await?;
    let client = Client { http: reqwest::Client::new(), service: &service };
    let document =
        json!({"bucket": "bank", "prefix": "in/", "function": "echo", "concurrency": 64, "reconcile": "0s"});
    client.ask("PUT", "/v1/triggers/storm", &document).await?;
    let (first, copies) = told();
    let (cpu, begun) = (cpu_time(service.pid())?, Instant::now());
    client.deliver_all(first).await?;
    let accepted = begun.elapsed().as_secs_f64();
    client.deliver_all(copies).await?;
    loop {
        let ended = client.metric("fanfold_async_invocations_ended_total").await?;
        if ended >= OBJECTS as f64 {
            break;
        }
        ensure!(begun.elapsed() < DRAINED_MAX, "expected {OBJECTS} ends, found {ended}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let drained = begun.elapsed().as_secs_f64();
    // Whatever copies still wait have no effect.
    while client.ask("GET", "/v1/triggers/storm", &Value::Null).await?["events"]["waiting"] != 0 {
        ensure!(begun.elapsed() < DRAINED_MAX, "expected copies to be settled, found some that wait");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let storm_cpu = cpu_time(service.pid())? - cpu;
    let held = service.resident_bytes_peak()? as f64 / f64::from(1 << 20);
    let requests = client.metric("fanfold_reconciler_store_requests_total").await?;
    let (cpu, looked) = (cpu_time(service.pid())?, Instant::now());
    let found = client.ask("POST", "/v1/triggers/storm/replay", &json!({})).await?;
    let look = looked.elapsed().as_secs_f64();
    let look_cpu = cpu_time(service.pid())? - cpu;
    ensure!(found["listed"] == OBJECTS && found["queued"] == 0, "expected nothing new, found {found}");
    let requests = client.metric("fanfold_reconciler_store_requests_total").await? - requests;
    let ended = client.metric("fanfold_async_invocations_ended_total").await?;
    ensure!(ended == OBJECTS as f64, "expected one effect for each object, found {ended}");
    Ok(vec![
        Measurement::of("events_accepted_100k", "s", vec![accepted]).goal(Goal::AtMost(60.0)),
        Measurement::of("events_drained_100k", "s", vec![drained]).goal(Goal::AtMost(600.0)),
        Measurement::of("events_cpu_100k", "s", vec![storm_cpu.as_secs_f64()]),
        Measurement::of("events_memory_peak", "MiB", vec![held]).goal(Goal::AtMost(300.0)),
        Measurement::of("reconciler_look_100k", "s", vec![look]).goal(Goal::AtMost(60.0)),
        Measurement::of("reconciler_look_cpu_100k", "s", vec![look_cpu.as_secs_f64()]),
        Measurement::of("reconciler_requests_100k", "requests", vec![requests]).goal(Goal::AtMost(200.0)),
    ])
}

/// Before there is a trigger, so that nothing tells of them but the storm.
async fn put_objects(service: &Service) -> Result<()> {
    let store = service.store()?;
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

/// Every event once, and its copies, both in a drawn order. Half of the copies are
/// the same notification again, the others tell of the same state in other words.
fn told() -> (Vec<Value>, Vec<Value>) {
    let mut draw = ChaCha8Rng::seed_from_u64(SEED);
    let mut first: Vec<(usize, usize)> = (0..OBJECTS).map(|n| (n, 0)).collect();
    let mut copies: Vec<(usize, usize)> = Vec::new();
    for n in 0..OBJECTS {
        copies.extend((0..draw.random_range(0..COPIES_MAX)).map(|copy| (n, copy / 2)));
    }
    first.shuffle(&mut draw);
    copies.shuffle(&mut draw);
    let notifications = |all: &[(usize, usize)]| all.chunks(RECORDS).map(notification).collect();
    (notifications(&first), notifications(&copies))
}

fn notification(events: &[(usize, usize)]) -> Value {
    let record = |(n, copy): &(usize, usize)| {
        json!({"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventTime": "2026-11-23T00:00:00.000Z",
            "eventName": "ObjectCreated:Put", "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "bank"},
            "object": {"key": format!("in/{n:06}"), "size": 1, "sequencer": format!("{copy:016X}")}}})
    };
    json!({"Records": events.iter().map(record).collect::<Vec<_>>()})
}

struct Client<'a> {
    http: reqwest::Client,
    service: &'a Service,
}

impl Client<'_> {
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.service.endpoint);
        let mut request = self.http.request(method.parse()?, url).bearer_auth(&self.service.token);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, found) = (answer.status(), answer.json::<Value>().await.unwrap_or_default());
        ensure!(status.is_success(), "{method} {path}: {status}: {found}");
        Ok(found)
    }

    /// How an invocation ended, once it has.
    async fn ended(&self, id: &Uuid) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let found = self.ask("GET", &format!("/v1/invocations/{id}"), &Value::Null).await;
            match found {
                Ok(view) if view["state"] == "succeeded" => return Ok(view),
                found => {
                    ensure!(begun.elapsed() < Duration::from_secs(30), "expected an end, found {found:?}")
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn deliver_all(&self, notifications: Vec<Value>) -> Result<()> {
        let sent = stream::iter(notifications).map(|body| self.deliver(body)).buffer_unordered(8);
        sent.try_collect::<Vec<()>>().await.map(drop)
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
