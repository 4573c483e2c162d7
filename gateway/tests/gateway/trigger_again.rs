// SPDX-License-Identifier: Apache-2.0
//! What comes again a moment later and is no copy: the queue knows ids of messages for two minutes. And how soon
//! looks come again where there are many.

use std::time::{Duration, Instant};

use fanfold_protocol::uri::ObjectUri;
use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{Service, until},
    triggers::{document, replay, wait_for_calls, with_trigger},
};

/// As in the guide, for a sender that tells nothing but a key.
fn bare(key: &str) -> Value {
    let object = json!({"bucket": {"name": "bank"}, "object": {"key": key}});
    json!({"Records": [{"eventName": "ObjectCreated:Put", "s3": object}]})
}

#[tokio::test]
async fn who_tells_nothing_but_a_key_is_heard_each_time() {
    let (service, _) = with_trigger(document()).await;
    for state in 1..3 {
        service.object("bank", "in/a.csv", &format!("state {state}")).await;
        assert_eq!(service.send(&bare("in/a.csv")).await.json()["kept"], 1);
        service.until("started", state).await;
    }
    assert_eq!(service.send(&bare("in/a.csv")).await.json()["kept"], 1);
    service.until("duplicate", 1).await;
    wait_for_calls(&service, 2).await;
}

#[tokio::test]
async fn a_replay_queues_again_what_one_before_led_to_nothing() {
    let mut document = document();
    document["retry"] = json!({"attempts": 1});
    let (service, _) = with_trigger(document).await;
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    for dead in 1..3 {
        assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": 1}));
        service.until("dead", dead).await;
    }
    assert_eq!(service.deploy("f", "2").await.status, 201);
    assert_eq!(replay(&service, json!({})).await.json()["queued"], 1);
    service.until("started", 1).await;
    assert_eq!(replay(&service, json!({})).await.json()["queued"], 0);
    wait_for_calls(&service, 1).await;
}

/// While they wait, as for a pause to end, each copy would take room from what is new.
#[tokio::test]
async fn a_replay_queues_no_copies_of_what_one_before_has_queued() {
    let (service, _) = with_trigger(document()).await;
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/pause", &[], "").await.status, 204);
    service.object("bank", "in/a.csv", "1").await;
    for queued in [1, 0] {
        assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": queued}));
    }
}

/// Writes the same bytes until they are another state, and tells its second.
async fn written_after(service: &Service, second: u64) -> u64 {
    let uri = ObjectUri::new("bank", "in/a.csv").unwrap();
    let write = async || {
        service.object("bank", "in/a.csv", "the same").await;
        service.base.store.head(&uri).await.unwrap().last_modified.0 / 1_000
    };
    until("a later second", write, |found| *found > second).await
}

#[tokio::test]
async fn a_look_finds_the_same_bytes_that_were_written_again() {
    let mut document = document();
    document["reconcile"] = json!("1h");
    let (service, _) = with_trigger(document).await;
    let first = written_after(&service, 0).await;
    // A gateway that starts looks.
    let service = service.stop().await.serve(|_| {}).await;
    service.until("started", 1).await;
    written_after(&service, first).await;
    let service = service.stop().await.serve(|_| {}).await;
    service.until("started", 1).await;
}

/// A few at once, one after the other: a clock that let so many begin each second would take 25.
#[tokio::test]
async fn looks_at_many_triggers_follow_each_other_at_once() {
    const TRIGGERS: usize = 100;
    let (service, _) = with_trigger(document()).await;
    for n in 0..TRIGGERS {
        let other = json!({"bucket": "bank", "prefix": format!("{n}/"), "function": "f"});
        assert_eq!(service.put_json(&format!("/v1/triggers/t-{n}"), other).await.status, 201);
        service.object("bank", &format!("{n}/a.csv"), "1").await;
    }
    // A gateway that starts looks.
    let service = service.stop().await.serve(|_| {}).await;
    let begun = Instant::now();
    wait_for_calls(&service, TRIGGERS).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
