// SPDX-License-Identifier: Apache-2.0
//! Turns of ordered triggers that lead to nothing.

use std::time::Duration;

use fanfold_protocol::{digest::Digest, keys, time};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::{Service, until},
    triggers::{document, put_of, record, with_trigger},
};

async fn ordered(more: Value) -> (Service, Value) {
    let mut document = document();
    document["ordered"] = json!(true);
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    with_trigger(document).await
}

/// Its event has taken the turn when the trigger pauses itself, and is another one once it comes back.
#[tokio::test]
async fn an_object_that_is_written_again_while_its_trigger_is_paused_starts_once_it_goes_on() {
    let (service, _) = ordered(json!({"starts_per_minute": 1})).await;
    let write = async |key: &str, sequencer: &str| {
        service.object("bank", key, sequencer).await;
        let body = json!({"Records": [record("bank", key, sequencer)]});
        assert_eq!(service.send(&body).await.json()["kept"], 1);
    };
    write("in/a.csv", "01").await;
    service.until("started", 1).await;
    write("in/b.csv", "01").await;
    let view = async || service.get("/v1/triggers/t").await.json();
    until("a pause", view, |view| view["paused"] == true && view["events"]["waiting"] == 1).await;
    write("in/b.csv", "02").await;
    // Again where it was not seen that it was paused, or two events of the one state were too many starts.
    let started = async || {
        let resumed = service.request(Method::POST, "/v1/triggers/t/resume", &[], "").await;
        assert_eq!(resumed.status, 204);
        service.fate("started").await
    };
    let second = until("a second start", started, |started| *started == 2);
    tokio::time::timeout(Duration::from_secs(20), second).await.expect("its turn was given back");
}

/// As one does that was killed.
#[tokio::test]
async fn a_turn_that_nobody_keeps_lapses_within_two_leases() {
    let (service, made) = ordered(json!({})).await;
    let id: Uuid = made["id"].as_str().unwrap().parse().unwrap();
    let taken = time::now().0 - 61_000;
    let last = json!({"turn": {"event": Uuid::now_v7(), "at": taken}}).to_string();
    let key = keys::last_event(&id, &Digest::of(b"in/a.csv"));
    service.base.backbone.put(&key, last).await.unwrap();
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.send(&put_of("in/a.csv")).await.json()["kept"], 1);
    service.until("started", 1).await;
}
