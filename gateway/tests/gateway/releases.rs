// SPDX-License-Identifier: Apache-2.0
//! Releases side by side: what a newer one stored is neither lost nor ended here.

use std::time::Duration;

use bytes::Bytes;
use fanfold_backbone::{Backbone, Delivery, queue::Message};
use fanfold_protocol::{
    ErrorKind, keys,
    time::{self, Timestamp},
    uri::ObjectUri,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    asynchronous::hasty,
    harness::{start, start_with, until},
    triggers::{document, with_trigger},
};

#[tokio::test]
async fn a_functions_record_of_a_newer_release_is_read_and_kept() {
    let service = start().await;
    for (name, salt) in [("f", "1"), ("f", "2"), ("g", "1")] {
        service.deploy(name, salt).await;
    }
    let bucket = service.app.config.tenant.system_bucket.clone();
    let base = service.stop().await;
    let place = |name: &str| ObjectUri::new(bucket.clone(), keys::aliases(&name.parse().unwrap())).unwrap();
    let stored = async |name: &str| {
        let bytes = base.store.get(&place(name), None).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let copied = async |name: &str| {
        let entry = base.backbone.get(&keys::function_record(&name.parse().unwrap())).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&entry.value).unwrap()
    };
    // It says more than is known here, and of another function something else.
    let mut more = json!({
        "name": "f", "latest": 2, "frozen": {"by": "ops"}, "aliases": {"prod": {"version": 1, "shadow": 2}}
    });
    let other = json!({"name": "g", "latest": "one", "etag": "x"});
    for (name, record) in [("f", &more), ("g", &other)] {
        let body = Bytes::from(record.to_string());
        base.store.put(&place(name), body.clone(), Default::default()).await.unwrap();
        base.backbone.put(&keys::function_record(&name.parse().unwrap()), body).await.unwrap();
    }
    let service = base.serve(|_| {}).await;
    assert_eq!(service.invoke("f/invoke?qualifier=prod", "").await.header("x-fanfold-version"), "1");
    assert_eq!(service.deploy("f", "3").await.json()["version"], 3);
    more["latest"] = json!(3);
    assert_eq!(stored("f").await, more);
    more["etag"] = copied("f").await["etag"].clone();
    assert_eq!(copied("f").await, more);
    // What cannot be read at all is there all the same, and nothing is written over it.
    service.invoke("g/invoke", "").await.is_problem(ErrorKind::Internal);
    service.deploy("g", "2").await.is_problem(ErrorKind::Internal);
    assert_eq!((stored("g").await, copied("g").await), (other.clone(), other));
}

/// What a gateway of the newer release gets.
async fn pulled(backbone: &Backbone, queue: &str) -> Delivery {
    let wait = Duration::from_secs(20);
    backbone.pull(queue, 1, wait, Duration::from_secs(30)).await.unwrap().pop().unwrap()
}

/// A call as it lies in the queue, and its record, of an origin that is not known here.
fn scheduled(id: &Uuid, accepted_at: Timestamp) -> (String, String) {
    let origin = json!({"kind": "schedule", "name": "nightly"});
    let head = json!({
        "id": id, "function": "f", "version": 1, "timeout_ms": 30_000, "params": "{}", "method": "POST", "query": "",
        "headers": [], "accepted_at": accepted_at, "depth": 0, "origin": origin
    });
    let record = json!({
        "function": "f", "version": 1, "accepted_at": accepted_at, "depth": 0, "origin": origin, "attempts": 0,
        "started_at": null, "problem": null
    });
    (format!("{head}\necho"), record.to_string())
}

#[tokio::test]
async fn a_call_of_an_unknown_origin_waits_for_who_knows_it() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let backbone = service.base.backbone.clone();
    let (young, old) = (Uuid::now_v7(), Uuid::now_v7());
    let (message, record) = scheduled(&young, time::now());
    let (late, known) = scheduled(&old, Timestamp(1));
    for (id, message, record) in [(young, &message, record), (old, &late, known)] {
        backbone.create(&keys::invocation_record(&id), record).await.unwrap();
        let message = Message::new(id.to_string(), message.clone());
        backbone.enqueue(keys::INVOCATION_QUEUE, vec![message]).await.unwrap();
    }
    // The old one is a dead letter, with its record or without; the other one is put off.
    let depth = async || backbone.depth(keys::INVOCATION_QUEUE).await.unwrap();
    until("both to be settled", depth, |depth| (depth.delayed, depth.dead) == (1, 1)).await;
    let _base = service.stop().await;
    let letters = backbone.dead_letters(keys::INVOCATION_QUEUE, 0, 9).await.unwrap();
    assert_eq!(letters.iter().map(|letter| &letter.id[..]).collect::<Vec<_>>(), [old.to_string()]);
    let delivery = pulled(&backbone, keys::INVOCATION_QUEUE).await;
    assert_eq!((&delivery.id, &delivery.payload[..]), (&young.to_string(), message.as_bytes()));
    assert!(delivery.attempt > 1);
    assert!(backbone.get(&keys::invocation_record(&young)).await.unwrap().is_some());
}

#[tokio::test]
async fn an_event_of_an_unknown_kind_waits_for_who_knows_it() {
    let mut document = document();
    // Attempts are counted for what is the event's own fault.
    document["retry"] = json!({"attempts": 1, "backoff": "2s"});
    let (service, view) = with_trigger(document).await;
    let backbone = service.base.backbone.clone();
    let queue = keys::event_queue(&view["id"].as_str().unwrap().parse().unwrap());
    let event = |at: Timestamp| {
        let notice = json!({"bucket": "bank", "key": "in/a.csv", "kind": "restored", "name": "ObjectRestore:Completed"});
        json!({"notice": notice, "at": at}).to_string()
    };
    let young = event(time::now());
    let messages = [("young", young.clone()), ("old", event(Timestamp(1))), ("none", "{}".to_owned())];
    let messages = messages.map(|(id, event)| Message::new(id, event)).to_vec();
    backbone.enqueue(&queue, messages).await.unwrap();
    service.until("retried", 1).await;
    service.until("dead", 2).await;
    let _base = service.stop().await;
    let letters = backbone.dead_letters(&queue, 0, 9).await.unwrap();
    assert!(
        letters.iter().all(|letter| letter.reason.starts_with("internal: expected an event")),
        "{letters:?}"
    );
    let delivery = pulled(&backbone, &queue).await;
    assert_eq!((&delivery.id[..], &delivery.payload[..]), ("young", young.as_bytes()));
}
