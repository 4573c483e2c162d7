// SPDX-License-Identifier: Apache-2.0
//! Removals: nothing is left that could be asked, so that what names them and
//! what they are called must do.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use fanfold_protocol::{keys, limits};
use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{HANDLER, Service, component, until},
    triggers::{document, record, replay, wait_for_calls, with_trigger},
};

/// A trigger `t` that acts on events of these names, and its bucket.
async fn acting_on(events: Value) -> Service {
    let mut document = document();
    document["events"] = events;
    let (service, _) = with_trigger(document).await;
    service.base.store.ensure_bucket("bank").await.unwrap();
    service
}

fn named(name: &str, key: &str, sequencer: &str) -> Value {
    let mut record = record("bank", key, sequencer);
    record["eventName"] = json!(name);
    record
}

/// An event without a sequencer.
fn at(second: u32, name: &str, key: &str) -> Value {
    let object = json!({"bucket": {"name": "bank"}, "object": {"key": key}});
    json!({"eventVersion": "2.1", "eventName": name, "s3": object,
        "eventTime": format!("2026-11-22T11:54:{second:02}Z")})
}

async fn kept(service: &Service, record: &Value) -> u64 {
    let reply = service.send(&json!({"Records": [record]})).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["kept"].as_u64().unwrap()
}

#[tokio::test]
async fn without_sequencers_each_removal_starts_something_and_its_copies_do_not() {
    let service = acting_on(json!(["ObjectRemoved:*"])).await;
    for (second, started) in [(1, 1), (2, 2)] {
        let removal = at(second, "ObjectRemoved:Delete", "in/a.csv");
        assert_eq!(kept(&service, &removal).await, 1);
        service.until("started", started).await;
        assert_eq!(kept(&service, &removal).await, 0);
    }
    wait_for_calls(&service, 2).await;
}

#[tokio::test]
async fn without_sequencers_each_write_is_an_event_and_each_state_starts_once() {
    let service = acting_on(json!(["ObjectCreated:*"])).await;
    for (second, started) in [(1, 1), (2, 2)] {
        service.object("bank", "in/a.csv", &format!("state {started}")).await;
        assert_eq!(kept(&service, &at(second, "ObjectCreated:Put", "in/a.csv")).await, 1);
        service.until("started", started).await;
    }
    // However a state is told of, its outcome is found.
    assert_eq!(kept(&service, &at(3, "ObjectCreated:Put", "in/a.csv")).await, 1);
    service.until("duplicate", 1).await;
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": 0}));
    wait_for_calls(&service, 2).await;
}

#[tokio::test]
async fn what_a_rule_of_the_bucket_removes_is_removed() {
    let service = acting_on(json!(["ObjectRemoved:*"])).await;
    assert_eq!(kept(&service, &named("LifecycleExpiration:Delete", "in/a.csv", "01")).await, 1);
    service.until("started", 1).await;
    let service = acting_on(json!(["LifecycleExpiration:*"])).await;
    assert_eq!(kept(&service, &named("ObjectRemoved:Delete", "in/a.csv", "01")).await, 0);
    let marked = named("s3:LifecycleExpiration:DeleteMarkerCreated", "in/a.csv", "02");
    assert_eq!(kept(&service, &marked).await, 1);
    service.until("started", 1).await;
}

/// Else looks would have to find out that nothing is there.
#[tokio::test]
async fn the_outcome_of_a_removal_lapses_by_itself() {
    let service = acting_on(json!(["ObjectRemoved:*"])).await;
    let id = service.get("/v1/triggers/t").await.json()["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(kept(&service, &named("ObjectRemoved:Delete", "in/a.csv", "01")).await, 1);
    service.until("started", 1).await;
    let outcomes = service.base.backbone.list(&keys::outcomes(&id)).await.unwrap();
    let outcomes: Vec<Value> =
        outcomes.iter().map(|(_, entry)| serde_json::from_slice(&entry.value).unwrap()).collect();
    assert_eq!((outcomes.len(), &outcomes[0]["lapses"]), (1, &json!(true)));
}

/// Ceph does not say whether it encodes keys: `a+b` may be meant as it is.
#[tokio::test]
async fn an_object_under_the_other_reading_of_a_key_hides_no_removal() {
    let service = acting_on(json!(["ObjectRemoved:*"])).await;
    service.object("bank", "in/a b.csv", "another").await;
    let removal = |sequencer: &str| {
        let mut record = named("ObjectRemoved:Delete", "in/a+b.csv", sequencer);
        record["eventSource"] = json!("ceph:s3");
        record
    };
    assert_eq!(kept(&service, &removal("01")).await, 1);
    service.until("started", 1).await;
    wait_for_calls(&service, 1).await;
    assert!(service.workers.bodies.lock().unwrap()[0].contains("in/a+b.csv"));
    // One that was written again since is no removal.
    service.object("bank", "in/a+b.csv", "1").await;
    assert_eq!(kept(&service, &removal("02")).await, 1);
    service.until("changed", 1).await;
    assert_eq!(service.workers.calls.load(Ordering::SeqCst), 1);
}

/// Nothing is left that could tell a depth: a circle that came about after its trigger was made is known by its rate.
#[tokio::test(flavor = "multi_thread")]
async fn removals_are_bounded_where_they_may_lead_to_each_other() {
    let most = u64::from(limits::TRIGGER_STARTS_UNSEEN_MAX);
    for in_circle in [false, true] {
        let service = acting_on(json!(["ObjectRemoved:*"])).await;
        if in_circle {
            let settings = r#"{"grants": {"write": ["s3://bank/in/done/"]}}"#;
            let headers = [("content-type", "application/wasm"), ("x-fanfold-settings", settings)];
            let bytes = component(&[], &[HANDLER], "1");
            let reply = service.request(Method::POST, "/v1/functions/f/versions", &headers, bytes).await;
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        let removal = |n| named("ObjectRemoved:Delete", &format!("in/{n}.csv"), "01");
        let all: Vec<Value> = (0..most + 20).map(removal).collect();
        assert_eq!(service.send(&json!({"Records": all})).await.json()["kept"], most + 20);
        let (begun, expected) = (Instant::now(), if in_circle { most } else { most + 20 });
        while service.fate("started").await < expected {
            // Within its minute, or it is no such rate.
            assert!(begun.elapsed() < Duration::from_secs(50), "{}", service.fate("started").await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let paused = async || service.get("/v1/triggers/t").await.json()["paused"].clone();
        until("a pause where there is a circle", paused, |paused| *paused == in_circle).await;
        assert_eq!(service.fate("started").await, expected);
    }
}
