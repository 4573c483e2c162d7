// SPDX-License-Identifier: Apache-2.0
//! Triggers, from a notification to what it starts.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, uri::ObjectUri};
use fanfold_storage::PutOptions;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Base, Service, start, until};

pub const JSON: (&str, &str) = ("content-type", "application/json");

impl Service {
    pub async fn post_event(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> crate::harness::Reply {
        self.bare_request(Method::POST, path, headers, body.to_string()).await
    }

    pub async fn send(&self, body: &Value) -> crate::harness::Reply {
        self.request(Method::POST, "/v1/events/s3", &[JSON], body.to_string()).await
    }

    pub async fn object(&self, bucket: &str, key: &str, body: &str) {
        let (store, uri) = (&self.base.store, ObjectUri::new(bucket, key).unwrap());
        store.ensure_bucket(bucket).await.unwrap();
        store.put(&uri, Bytes::from(body.to_owned()), PutOptions::typed("text/csv")).await.unwrap();
    }

    /// The value of a counter of the trigger `t`.
    pub async fn fate(&self, fate: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").await.body.to_vec()).unwrap();
        let start = format!("fanfold_trigger_events_total{{trigger=\"t\",fate=\"{fate}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
    }

    /// Waits until so many events have this fate, and gives up after a while.
    #[track_caller]
    pub fn until(&self, fate: &'static str, count: u64) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let begun = Instant::now();
            loop {
                let found = self.fate(fate).await;
                if found == count {
                    return;
                }
                assert!(
                    found < count && begun.elapsed() < Duration::from_secs(20),
                    "{caller}: {fate} {found}, not {count}"
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

pub fn record(bucket: &str, key: &str, sequencer: &str) -> Value {
    json!({"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": {
        "bucket": {"name": bucket}, "object": {"key": key, "size": 1, "sequencer": sequencer}}})
}

pub fn put_of(key: &str) -> Value {
    json!({"Records": [record("bank", key, "01")]})
}

pub async fn with_trigger(document: Value) -> (Service, Value) {
    let service = start().await;
    assert_eq!(service.deploy("f", "1").await.status, 201);
    let reply = service.put_json("/v1/triggers/t", document).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let view = reply.json();
    (service, view)
}

pub fn document() -> Value {
    json!({"bucket": "bank", "prefix": "in/", "suffix": ".csv", "function": "f", "reconcile": "0s"})
}

#[tokio::test]
async fn a_trigger_is_made_shown_changed_and_removed() {
    let (service, made) = with_trigger(document()).await;
    assert!(made["secret"].as_str().unwrap().starts_with("ff_"));
    assert_eq!(made["document"]["events"], json!(["ObjectCreated:*"]));
    let shown = service.get("/v1/triggers/t").await.json();
    assert_eq!((&shown["id"], &shown["secret"]), (&made["id"], &Value::Null));
    let mut changed = document();
    changed["concurrency"] = json!(3);
    let reply = service.put_json("/v1/triggers/t", changed.clone()).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["id"]), (200, &made["id"]));
    assert_eq!(reply.json()["secret"], Value::Null);
    let rotated = service.put_json("/v1/triggers/t?rotate=true", changed).await.json();
    assert_ne!(rotated["secret"], made["secret"]);
    let list = service.get("/v1/triggers").await.json();
    assert_eq!(list["triggers"][0]["document"]["concurrency"], 3);
    assert_eq!(service.delete("/v1/triggers/t").await.status, 204);
    service.get("/v1/triggers/t").await.is_problem(ErrorKind::TriggerNotFound);
    service.delete("/v1/triggers/t").await.is_problem(ErrorKind::TriggerNotFound);
    let again = service.put_json("/v1/triggers/t", document()).await;
    assert_eq!(again.status, 201);
    assert_ne!(again.json()["id"], made["id"]);
}

/// They are asked about side by side, in more rounds than one.
#[tokio::test]
async fn many_triggers_are_listed_by_name_with_what_is_theirs() {
    let service = start().await;
    assert_eq!(service.deploy("f", "1").await.status, 201);
    let names: Vec<String> = (0..20).map(|n| format!("t-{n:02}")).collect();
    for name in &names {
        let other =
            json!({"bucket": "bank", "prefix": format!("{name}/"), "function": "f", "reconcile": "0s"});
        assert_eq!(service.put_json(&format!("/v1/triggers/{name}"), other).await.status, 201);
        let paused = service.request(Method::POST, &format!("/v1/triggers/{name}/pause"), &[], "").await;
        assert_eq!(paused.status, 204);
    }
    assert_eq!(service.send(&put_of("t-17/a.csv")).await.json()["kept"], 1);
    let waiting = async || -> Vec<(Value, Value)> {
        let list = service.get("/v1/triggers").await.json();
        let listed = list["triggers"].as_array().unwrap().iter();
        listed.map(|t| (t["name"].clone(), t["events"]["waiting"].clone())).collect()
    };
    let expected = names.iter().map(|name| (json!(name), json!(u64::from(name == "t-17"))));
    let expected: Vec<_> = expected.collect();
    until("all of them, with what waits", waiting, |waiting| *waiting == expected).await;
}

#[tokio::test]
async fn what_alerts_follow_of_a_trigger_is_there_before_its_first_event() {
    let (service, _) = with_trigger(document()).await;
    let series = [
        "fanfold_trigger_events_total{trigger=\"t\",fate=\"dead\"} 0\n",
        "fanfold_trigger_events_total{trigger=\"t\",fate=\"loop\"} 0\n",
        "fanfold_trigger_breaker_trips_total{trigger=\"t\"} 0\n",
    ];
    metrics_that_say(&service, &series).await;
}

/// The metrics, once they have all of these lines.
async fn metrics_that_say(service: &Service, lines: &[&str]) -> String {
    let text = async || String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    until("other metrics", text, |text| lines.iter().all(|line| text.contains(line))).await
}

#[tokio::test]
async fn what_waits_for_a_trigger_is_told_while_the_trigger_is_there() {
    let (service, _) = with_trigger(document()).await;
    let paused = service.request(Method::POST, "/v1/triggers/t/pause", &[], "").await;
    assert_eq!(paused.status, 204);
    for key in ["in/a.csv", "in/b.csv"] {
        assert_eq!(service.send(&put_of(key)).await.json()["kept"], 1);
    }
    let told = async |lines: &[&str]| metrics_that_say(&service, lines).await;
    let waiting = "fanfold_trigger_events_waiting{trigger=\"t\",state=\"ready\"}";
    told(&[format!("{waiting} 2\n").as_str(), "fanfold_trigger_paused{trigger=\"t\"} 1\n"]).await;
    service.request(Method::POST, "/v1/triggers/t/resume", &[], "").await;
    told(&[format!("{waiting} 0\n").as_str(), "fanfold_trigger_paused{trigger=\"t\"} 0\n"]).await;
    assert_eq!(service.delete("/v1/triggers/t").await.status, 204);
    let text = told(&[]).await;
    assert!(!text.contains(waiting) && !text.contains("fanfold_trigger_paused{"), "{text}");
}

#[tokio::test]
async fn triggers_outlive_the_gateway() {
    let (service, made) = with_trigger(document()).await;
    let base: Base = service.stop().await;
    let service = base.serve(|_| {}).await;
    assert_eq!(service.get("/v1/triggers/t").await.json()["id"], made["id"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_trigger_is_told() {
    let service = start().await;
    service.deploy("f", "1").await;
    let refused = async |document: Value| service.put_json("/v1/triggers/t", document).await;
    refused(json!({"bucket": "bank"})).await.is_problem(ErrorKind::InvalidTrigger);
    refused(json!({"bucket": "bank", "function": "f", "x": 1})).await.is_problem(ErrorKind::InvalidTrigger);
    refused(json!({"bucket": "bank", "function": "f", "glob": "in/[a"}))
        .await
        .is_problem(ErrorKind::InvalidTrigger);
    refused(json!({"bucket": "bank", "function": "g"})).await.is_problem(ErrorKind::FunctionNotFound);
    let job = |function: &str| {
        let job = json!({"function": function, "input": "s3://{bucket}/{key}", "output": "s3://out/{id}/"});
        json!({"bucket": "bank", "job": job})
    };
    refused(job("g")).await.is_problem(ErrorKind::FunctionNotFound);
    let problem = refused(job("f")).await.is_problem(ErrorKind::ExportMissing);
    assert!(problem["detail"].as_str().unwrap().contains("a mapper, an aggregator"), "{problem}");
    let reply = service.put_json("/v1/triggers/T", document()).await;
    reply.is_problem(ErrorKind::InvalidName);
}

#[tokio::test]
async fn a_trigger_may_be_written_in_toml() {
    let service = start().await;
    service.deploy("f", "1").await;
    let put = async |text: &str| {
        let headers = [("content-type", "Application/TOML; charset=utf-8")];
        service.request(Method::PUT, "/v1/triggers/t", &headers, text.to_owned()).await
    };
    assert_eq!(put("bucket = \"bank\"\nfunction = \"f\"").await.status, 201);
    let problem = put("bucket = \"bank\"\nconcurrency = \"x\"").await.is_problem(ErrorKind::InvalidTrigger);
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("expected a whole number") && detail.ends_with("at line 2 column 15"),
        "{detail}"
    );
    assert!(!detail.contains('\n'), "{detail}");
}

#[tokio::test]
async fn a_replay_needs_no_document() {
    let (service, _) = with_trigger(document()).await;
    service.object("bank", "in/a.csv", "x").await;
    let path = "/v1/triggers/t/replay";
    // Of `curl -d ''` it is that of a form.
    for headers in [&[][..], &[("content-type", "application/x-www-form-urlencoded")]] {
        let found = service.request(Method::POST, path, headers, "").await;
        assert_eq!((found.status.as_u16(), &found.json()["listed"]), (200, &json!(1)));
    }
    let other = service.request(Method::POST, path, &[("content-type", "text/plain")], "{}").await;
    other.is_problem(ErrorKind::UnsupportedMediaType);
}

#[tokio::test]
async fn a_trigger_that_would_start_itself_is_refused() {
    let service = start().await;
    let settings = r#"{"grants": {"write": ["s3://bank/in/done/"]}}"#;
    let bytes = crate::harness::component(&[], &[crate::harness::HANDLER], "1");
    let headers = [("content-type", "application/wasm"), ("x-fanfold-settings", settings)];
    assert_eq!(service.request(Method::POST, "/v1/functions/f/versions", &headers, bytes).await.status, 201);
    let problem = service.put_json("/v1/triggers/t", document()).await.is_problem(ErrorKind::TriggerLoop);
    assert!(problem["detail"].as_str().unwrap().contains("s3://bank/in/done/"), "{problem}");
    let mut allowed = document();
    allowed["allow_loops"] = json!(true);
    assert_eq!(service.put_json("/v1/triggers/t", allowed).await.status, 201);
}

#[tokio::test]
async fn a_canary_that_would_start_its_own_trigger_is_seen() {
    let service = start().await;
    for settings in ["{}", r#"{"grants": {"write": ["s3://bank/in/done/"]}}"#] {
        let bytes = crate::harness::component(&[], &[crate::harness::HANDLER], "1");
        let headers = [("content-type", "application/wasm"), ("x-fanfold-settings", settings)];
        let reply = service.request(Method::POST, "/v1/functions/f/versions", &headers, bytes).await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    let point = async |target| service.put_json("/v1/functions/f/aliases/prod", target).await.status;
    let mut through = document();
    through["function"] = json!("f@prod");
    assert_eq!(point(json!({"version": 1, "canary": {"version": 2, "percent": 1}})).await, 201);
    // Of a hundred calls one goes to the canary, which no number of looks changes.
    for _ in 0..10 {
        let problem = service.put_json("/v1/triggers/t", through.clone()).await;
        problem.is_problem(ErrorKind::TriggerLoop);
        assert_eq!(service.get("/v1/functions/f/versions/prod").await.json()["version"], 1);
    }
    assert_eq!(point(json!({"version": 1})).await, 200);
    assert_eq!(service.put_json("/v1/triggers/t", through).await.status, 201);
}

#[tokio::test]
async fn an_event_starts_the_function_once_however_often_it_comes() {
    let (service, _) = with_trigger(document()).await;
    service.object("bank", "in/a b+c.csv", "1").await;
    let receipt = service.send(&put_of("in/a+b%2Bc.csv")).await;
    assert_eq!(receipt.json(), json!({"events": 1, "kept": 1, "duplicates": 0, "ignored": 0}));
    service.until("started", 1).await;
    for n in 0..20 {
        // Copies of the notification, and others of the same state of the object.
        let sequencer = if n % 2 == 0 { "01".to_owned() } else { format!("{n:04}") };
        let body = json!({"Records": [record("bank", "in/a+b%2Bc.csv", &sequencer)]});
        assert_eq!(service.send(&body).await.status, 200);
    }
    service.until("duplicate", 20).await;
    service.until("started", 1).await;
    wait_for_calls(&service, 1).await;
    service.object("bank", "in/a b+c.csv", "another").await;
    let body = json!({"Records": [record("bank", "in/a+b%2Bc.csv", "02")]});
    assert_eq!(service.send(&body).await.status, 200);
    service.until("started", 2).await;
    wait_for_calls(&service, 2).await;
}

pub async fn wait_for_calls(service: &Service, calls: usize) {
    service.until_calls(calls).await;
    assert_eq!(service.workers.calls.load(Ordering::SeqCst), calls);
}

#[tokio::test]
async fn events_are_hints() {
    let (service, _) = with_trigger(document()).await;
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.send(&put_of("in/gone.csv")).await.json()["kept"], 1);
    service.until("gone", 1).await;
    let mut lying = record("bank", "in/a.csv", "01");
    lying["s3"]["object"]["eTag"] = json!("0123");
    lying["s3"]["object"]["size"] = json!(1_000_000);
    assert_eq!(service.send(&json!({"Records": [lying]})).await.status, 200);
    service.until("started-changed", 1).await;
    assert_eq!(service.send(&put_of("out/a.csv")).await.json()["ignored"], 1);
    let ceph = |key: &str| {
        let mut record = record("bank", key, "05");
        record["eventSource"] = json!("ceph:s3");
        json!({"Records": [record]})
    };
    service.object("bank", "in/c d.csv", "1").await;
    assert_eq!(service.send(&ceph("in/c+d.csv")).await.status, 200);
    service.until("started", 1).await;
    // What lies where an upload in parts begins is not what it tells of.
    service.object("bank", "in/older.csv", "1").await;
    let mut begins = ceph("in/older.csv");
    begins["Records"][0]["eventName"] = json!("ObjectCreated:Post");
    // S3 sends such a one when it is told where to send, whatever the bucket.
    let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "elsewhere"});
    for nothing in [begins, test] {
        let said = service.send(&nothing).await;
        assert_eq!((said.status.as_u16(), &said.json()["ignored"]), (200, &json!(1)), "{nothing}");
    }
}

#[tokio::test]
async fn senders_are_told_what_is_wrong_and_never_5xx() {
    let (service, _) = with_trigger(document()).await;
    let post =
        async |body: &str| service.request(Method::POST, "/v1/events/s3", &[JSON], body.to_owned()).await;
    post("{\"hello\": 1}").await.is_problem(ErrorKind::InvalidRequest);
    post("{\"Records\": [").await.is_problem(ErrorKind::InvalidRequest);
    post("{\"Records\": [{\"s3\": {}}]}").await.is_problem(ErrorKind::InvalidRequest);
    post(&" ".repeat(10 << 20)).await.is_problem(ErrorKind::PayloadTooLarge);
    let other = json!({"Records": [record("other", "in/a.csv", "01")]});
    post(&other.to_string()).await.is_problem(ErrorKind::BucketNotFound);
    service
        .bare_request(Method::POST, "/v1/events/s3", &[JSON], other.to_string())
        .await
        .is_problem(ErrorKind::Unauthorized);
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    for (code, count) in
        [("invalid-request", 3), ("payload-too-large", 1), ("bucket-not-found", 1), ("unauthorized", 1)]
    {
        let line = format!("fanfold_notifications_refused_total{{code=\"{code}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_trigger_has_an_address_and_a_secret_of_its_own() {
    let (service, made) = with_trigger(document()).await;
    let path = "/v1/events/s3/t";
    let token = format!("Bearer {}", made["secret"].as_str().unwrap());
    let good = [("authorization", token.as_str())];
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.post_event(path, &good, &put_of("in/a.csv")).await.json()["kept"], 1);
    service.until("started", 1).await;
    for headers in [&[][..], &[("authorization", "Bearer ff_0")], &[("authorization", "Basic eDp5")]] {
        let reply = service.post_event(path, headers, &put_of("in/b.csv")).await;
        reply.is_problem(ErrorKind::Unauthorized);
        assert_eq!(reply.header("www-authenticate"), "Basic realm=\"fanfold\"");
    }
    service.post_event("/v1/events/s3/none", &good, &put_of("x")).await.is_problem(ErrorKind::Unauthorized);
    service.post_event("/v1/events/s3", &good, &put_of("x")).await.is_problem(ErrorKind::Unauthorized);
    let reply = service.bare_request(Method::GET, "/v1/triggers", &good, "").await;
    reply.is_problem(ErrorKind::Unauthorized);
    assert_eq!(service.bare_request(Method::HEAD, path, &good, "").await.status, 200);
    assert_eq!(service.bare_request(Method::HEAD, path, &[], "").await.status, 401);
    // The address of all triggers has no senders but those with a token of the service.
    for (method, token, status) in
        [(Method::HEAD, true, 200), (Method::GET, true, 200), (Method::HEAD, false, 401)]
    {
        let (all, bearer) = ("/v1/events/s3", format!("Bearer {}", service.token));
        let headers = if token { vec![("authorization", bearer.as_str())] } else { Vec::new() };
        assert_eq!(service.bare_request(method, all, &headers, "").await.status, status);
    }
    service.until("kept", 1).await;
}

#[tokio::test]
async fn a_paused_triggers_events_wait() {
    let (service, _) = with_trigger(document()).await;
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/pause", &[], "").await.status, 204);
    assert_eq!(service.send(&put_of("in/a.csv")).await.json()["kept"], 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(service.fate("started").await, 0);
    assert_eq!(service.get("/v1/triggers/t").await.json()["events"]["waiting"], 1);
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/resume", &[], "").await.status, 204);
    service.until("started", 1).await;
}

#[tokio::test]
async fn what_cannot_be_delivered_becomes_a_dead_letter() {
    let mut document = document();
    document["retry"] = json!({"attempts": 2, "backoff": "10ms"});
    let (service, _) = with_trigger(document).await;
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    assert_eq!(service.send(&put_of("in/a.csv")).await.status, 200);
    service.until("dead", 1).await;
    assert_eq!(service.fate("retried").await, 1);
    assert_eq!(service.get("/v1/triggers/t").await.json()["events"]["dead"], 1);
}

#[tokio::test]
async fn a_chain_of_sixteen_is_ended() {
    let (service, _) = with_trigger(document()).await;
    service.base.store.ensure_bucket("bank").await.unwrap();
    let put = async |key: &str, depth: &str| {
        let mut options = PutOptions::typed("text/csv");
        options.metadata.insert("fanfold-depth".into(), depth.into());
        let uri = ObjectUri::new("bank", key).unwrap();
        service.base.store.put(&uri, Bytes::from_static(b"x"), options).await.unwrap();
        assert_eq!(service.send(&put_of(key)).await.status, 200);
    };
    put("in/15.csv", "15").await;
    service.until("started", 1).await;
    put("in/16.csv", "16").await;
    service.until("loop", 1).await;
    assert_eq!(service.get("/v1/triggers/t").await.json()["events"]["dead"], 1);
}

/// Sequencers are not always in order; what the store says of an object that is there is.
#[tokio::test]
async fn of_ordered_triggers_late_removals_are_dropped_and_no_state_is() {
    let mut document = document();
    document["ordered"] = json!(true);
    document["events"] = json!(["ObjectCreated:*", "ObjectRemoved:*"]);
    let (service, _) = with_trigger(document).await;
    let send = async |name: &str, sequencer: &str| {
        let mut record = record("bank", "in/a.csv", sequencer);
        record["eventName"] = json!(name);
        assert_eq!(service.send(&json!({"Records": [record]})).await.json()["kept"], 1);
    };
    service.object("bank", "in/a.csv", "1").await;
    send("ObjectCreated:Put", "0055AED6DCD90281E5").await;
    service.until("started", 1).await;
    send("ObjectCreated:Put", "0055AED6DCD9028").await;
    service.until("duplicate", 1).await;
    // By a node whose clock is behind.
    service.object("bank", "in/a.csv", "another").await;
    send("ObjectCreated:Put", "0055AED6DCD90281E4").await;
    service.until("started", 2).await;
    service.base.store.delete(&ObjectUri::new("bank", "in/a.csv").unwrap()).await.unwrap();
    send("ObjectRemoved:Delete", "0055AED6DCD90281E3").await;
    service.until("stale", 1).await;
    send("ObjectRemoved:Delete", "0055AED6DCD90281E6").await;
    service.until("started", 3).await;
}

#[tokio::test]
async fn what_a_key_starts_runs_one_after_the_other() {
    let mut document = document();
    document["ordered"] = json!(true);
    let (service, _) = with_trigger(document).await;
    for n in 1..3 {
        service.object("bank", "in/slow.csv", &format!("state {n}")).await;
        let body = json!({"Records": [record("bank", "in/slow.csv", &format!("0{n}"))]});
        assert_eq!(service.send(&body).await.status, 200);
        service.until("started", 1).await;
    }
    service.until("started", 2).await;
    wait_for_calls(&service, 2).await;
    assert_eq!(service.workers.running.1.load(Ordering::SeqCst), 1);
    assert!(service.fate("waited").await > 0);
    // Another key does not wait.
    service.object("bank", "in/slow-too.csv", "1").await;
    assert_eq!(service.send(&put_of("in/slow-too.csv")).await.status, 200);
    service.until("started", 3).await;
}

/// Sends an event for each of these objects, which are written before.
pub async fn send_objects(service: &Service, keys: impl IntoIterator<Item = String>) {
    let mut records = Vec::new();
    for key in keys {
        service.object("bank", &key, &key).await;
        records.push(record("bank", &key, "01"));
    }
    assert_eq!(service.send(&json!({"Records": records})).await.status, 200);
}

/// The keys that each call was given, sorted.
pub fn batches(service: &Service) -> Vec<Vec<String>> {
    let bodies = service.workers.bodies.lock().unwrap();
    let keys = |body: &String| {
        let events: Vec<Value> = serde_json::from_str(body).unwrap();
        let mut keys: Vec<String> =
            events.iter().map(|event| event["key"].as_str().unwrap().to_owned()).collect();
        keys.sort();
        keys
    };
    bodies.iter().map(keys).collect()
}

#[tokio::test]
async fn events_are_batched_by_number_and_by_time_and_each_is_in_one_batch() {
    let mut document = document();
    document["batch"] = json!({"size": 4, "window": "400ms"});
    let (service, _) = with_trigger(document).await;
    let keys = |range: std::ops::Range<u32>| range.map(|n| format!("in/{n:02}.csv"));
    send_objects(&service, keys(0..10)).await;
    service.until("started", 10).await;
    wait_for_calls(&service, 3).await;
    let mut found = batches(&service);
    assert!(found.iter().all(|batch| batch.len() <= 4), "{found:?}");
    // Copies, and others of the same states, start nothing.
    send_objects(&service, keys(10..11)).await;
    let copies: Vec<Value> = keys(0..11).map(|key| record("bank", &key, "02")).collect();
    assert_eq!(service.send(&json!({"Records": copies})).await.status, 200);
    service.until("duplicate", 11).await;
    wait_for_calls(&service, 4).await;
    found = batches(&service);
    let mut all: Vec<String> = found.concat();
    all.sort();
    assert_eq!(all, keys(0..11).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_that_was_left_halfway_is_ended_once() {
    let mut document = document();
    document["batch"] = json!({"size": 3, "window": "300ms"});
    document["retry"] = json!({"attempts": 10, "backoff": "50ms"});
    let (service, _) = with_trigger(document).await;
    // Claimed, but not started: the function is not there.
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    send_objects(&service, (0..3).map(|n| format!("in/{n}.csv"))).await;
    until("retries", || service.fate("retried"), |retried| *retried >= 3).await;
    let base: Base = service.stop().await;
    let service = base.serve(|_| {}).await;
    assert_eq!(service.deploy("f", "2").await.status, 201);
    // Whatever batches the events come in now, they start the one that they belong to.
    wait_for_calls(&service, 1).await;
    let view = async || service.get("/v1/triggers/t").await.json()["events"].clone();
    let none = json!({"waiting": 0, "running": 0, "delayed": 0, "dead": 0});
    until("the end of all", view, |view| *view == none).await;
    wait_for_calls(&service, 1).await;
    assert_eq!(batches(&service), [["in/0.csv", "in/1.csv", "in/2.csv"]]);
}

#[tokio::test]
async fn a_trigger_that_starts_too_much_pauses_itself() {
    let mut document = document();
    document["starts_per_minute"] = json!(3);
    let (service, _) = with_trigger(document).await;
    send_objects(&service, (0..5).map(|n| format!("in/{n}.csv"))).await;
    service.until("started", 3).await;
    let view = async || service.get("/v1/triggers/t").await.json();
    let view = until("a pause", view, |view| view["paused"] == true).await;
    assert!(view["paused_because"].as_str().unwrap().contains("more than 3 times"), "{view}");
    assert!(metric(&service, "trigger_breaker_trips").await >= 1);
    // Nothing is lost: whoever has looked lets it go on.
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/resume", &[], "").await.status, 204);
    service.until("started", 5).await;
    let view = service.get("/v1/triggers/t").await.json();
    assert_eq!((&view["paused"], &view["paused_because"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn a_trigger_that_starts_nothing_does_not_pause_itself() {
    let mut document = document();
    // What is under way counts until it has come to nothing.
    (document["starts_per_minute"], document["concurrency"]) = (json!(2), json!(1));
    document["retry"] = json!({"attempts": 3, "backoff": "10ms"});
    let (service, _) = with_trigger(document).await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    send_objects(&service, (0..3).map(|n| format!("in/{n}.csv"))).await;
    service.until("dead", 3).await;
    assert_eq!(service.fate("retried").await, 6);
    let view = service.get("/v1/triggers/t").await.json();
    assert_eq!((&view["paused"], &view["paused_because"]), (&json!(false), &Value::Null));
}

pub async fn replay(service: &Service, request: Value) -> crate::harness::Reply {
    service.request(Method::POST, "/v1/triggers/t/replay", &[JSON], request.to_string()).await
}

#[tokio::test]
async fn objects_whose_events_were_lost_are_found() {
    let mut document = document();
    document["reconcile"] = json!("10s");
    let service = start().await;
    service.deploy("f", "1").await;
    service.object("bank", "in/before.csv", "1").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(service.put_json("/v1/triggers/t", document).await.status, 201);
    service.object("bank", "in/told.csv", "1").await;
    assert_eq!(service.send(&put_of("in/told.csv")).await.status, 200);
    service.until("started", 1).await;
    service.object("bank", "in/lost.csv", "1").await;
    service.object("bank", "out/lost.csv", "1").await;
    // A gateway that starts looks for what happened while there was none.
    let service = service.stop().await.serve(|_| {}).await;
    service.until("started", 1).await;
    service.until("kept", 1).await;
    let again = service.stop().await.serve(|_| {}).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(again.fate("kept").await, 0);
}

#[tokio::test]
async fn what_was_there_before_is_fed_on_request_and_again_when_asked() {
    let (service, _) = with_trigger(document()).await;
    for key in ["in/1.csv", "in/2.csv", "in/x/3.csv", "in/4.json"] {
        service.object("bank", key, key).await;
    }
    assert_eq!(replay(&service, json!({"prefix": "in/x/"})).await.json(), json!({"listed": 1, "queued": 1}));
    service.until("started", 1).await;
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 4, "queued": 2}));
    service.until("started", 3).await;
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 4, "queued": 0}));
    let later = json!({"since": "2100-01-01T00:00:00Z", "again": true});
    assert_eq!(replay(&service, later).await.json()["queued"], 0);
    assert_eq!(replay(&service, json!({"again": true})).await.json()["queued"], 3);
    service.until("started", 6).await;
    wait_for_calls(&service, 6).await;
    replay(&service, json!({"since": "yesterday"})).await.is_problem(ErrorKind::InvalidRequest);
    let both = json!({"dead_letters": true, "prefix": "in/"});
    replay(&service, both).await.is_problem(ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn dead_letters_are_tried_again_on_request() {
    let mut document = document();
    document["retry"] = json!({"attempts": 1});
    let (service, _) = with_trigger(document).await;
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    assert_eq!(service.send(&put_of("in/a.csv")).await.status, 200);
    service.until("dead", 1).await;
    assert_eq!(service.deploy("f", "2").await.status, 201);
    assert_eq!(replay(&service, json!({"dead_letters": true})).await.json()["queued"], 1);
    service.until("started", 1).await;
    assert_eq!(service.get("/v1/triggers/t").await.json()["events"]["dead"], 0);
}

#[tokio::test]
async fn a_lost_backbone_is_no_reason_to_start_all_again() {
    let mut document = document();
    document["reconcile"] = json!("10s");
    let (service, _) = with_trigger(document).await;
    for n in 0..20 {
        service.object("bank", &format!("in/{n}.csv"), "1").await;
    }
    assert_eq!(replay(&service, json!({})).await.json()["queued"], 20);
    service.until("started", 20).await;
    assert_eq!(replay(&service, json!({})).await.json()["queued"], 0);
    let mut base = service.stop().await;
    base.backbone.close().await;
    base.backbone = Base::open_backbone(&base.folder.path().join("other.redb")).await;
    let service = base.serve(|_| {}).await;
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 20, "queued": 0}));
    service.object("bank", "in/new.csv", "1").await;
    assert_eq!(replay(&service, json!({})).await.json()["queued"], 1);
}

/// The value of a metric of the trigger `t`.
pub async fn metric(service: &Service, name: &str) -> u64 {
    let text = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    let start = format!("fanfold_{name}_total{{trigger=\"t\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_kept_whole_and_a_look_costs_a_request_for_a_thousand_objects() {
    const OBJECTS: usize = 2_500;
    let mut document = document();
    document["concurrency"] = json!(50);
    let (service, _) = with_trigger(document).await;
    let put = |n: usize| {
        let uri = ObjectUri::new("bank", format!("in/{n}.csv")).unwrap();
        let store = &service.base.store;
        async move { store.put(&uri, Bytes::from_static(b"x"), PutOptions::typed("text/csv")).await.unwrap() }
    };
    service.base.store.ensure_bucket("bank").await.unwrap();
    for chunk in (0..OBJECTS).collect::<Vec<_>>().chunks(50) {
        futures::future::join_all(chunk.iter().map(|n| put(*n))).await;
    }
    // Each object is told of twice, in notifications of a hundred records.
    for round in ["01", "02"] {
        for chunk in (0..OBJECTS).collect::<Vec<_>>().chunks(100) {
            let records: Vec<Value> =
                chunk.iter().map(|n| record("bank", &format!("in/{n}.csv"), round)).collect();
            let reply = service.send(&json!({"Records": records})).await;
            assert_eq!(reply.json()["kept"], 100, "{reply:?}");
        }
    }
    let begun = Instant::now();
    while service.fate("started").await + service.fate("duplicate").await < 2 * OBJECTS as u64 {
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", service.fate("started").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(service.fate("kept").await, 2 * OBJECTS as u64);
    assert_eq!(service.fate("dead").await, 0);
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": OBJECTS, "queued": 0}));
    // Three pages, the packed outcomes read and written.
    assert!(metric(&service, "reconciler_store_requests").await <= 5);
    assert_eq!(metric(&service, "reconciler_objects_listed").await, OBJECTS as u64);
}
