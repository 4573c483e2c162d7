// SPDX-License-Identifier: Apache-2.0
//! A trigger whose queue is full, and those beside it.

use std::time::{Duration, Instant};

use fanfold_protocol::{ErrorKind, keys, uri::ObjectUri};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::{Base, Reply, Service, start_with, until},
    triggers::{document, put_of, record, send_objects, wait_for_calls},
};

/// Events that may wait for one trigger.
const ROOM: u64 = 3;

/// Makes the trigger `full`, which takes no event out of its queue. Its name comes before
/// those of all others, so that its queue is the first to be tried.
async fn paused(service: &Service) -> Uuid {
    assert_eq!(service.deploy("f", "1").await.status, 201);
    let full = json!({"bucket": "bank", "prefix": "in/", "function": "f"});
    let made = service.put_json("/v1/triggers/full", full).await;
    assert_eq!(made.status, 201, "{made:?}");
    let paused = service.request(Method::POST, "/v1/triggers/full/pause", &[], "").await;
    assert_eq!(paused.status, 204);
    made.json()["id"].as_str().unwrap().parse().unwrap()
}

async fn resume(service: &Service) {
    let resumed = service.request(Method::POST, "/v1/triggers/full/resume", &[], "").await;
    assert_eq!(resumed.status, 204);
}

fn filling() -> impl Iterator<Item = String> {
    (0..ROOM).map(|n| format!("in/{n}.csv"))
}

/// Sends a notification until it is kept, as a sender does that was told to come
/// again: so seldom that copies fill no queue.
async fn send_until_kept(service: &Service, body: &Value) {
    let begun = Instant::now();
    while service.send(body).await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test]
async fn a_full_queue_keeps_no_other_trigger_from_its_events() {
    let service = start_with(|config| config.events_waiting_max = ROOM).await;
    paused(&service).await;
    send_objects(&service, filling()).await;
    assert_eq!(service.put_json("/v1/triggers/t", document()).await.status, 201);
    service.object("bank", "in/more.csv", "1").await;
    service.send(&put_of("in/more.csv")).await.is_problem(ErrorKind::QueueFull);
    service.until("started", 1).await;
    // Sent again, as the answer asks for, it starts nothing anew.
    service.send(&put_of("in/more.csv")).await.is_problem(ErrorKind::QueueFull);
    service.until("duplicate", 1).await;
    resume(&service).await;
    send_until_kept(&service, &put_of("in/more.csv")).await;
    // Those that filled the queue, and of one more for each trigger.
    wait_for_calls(&service, ROOM as usize + 2).await;
    assert_eq!(service.fate("started").await, 1);
}

/// More than are queued at once: there is room for all of them or for none.
#[tokio::test]
async fn many_events_of_a_notification_are_kept_together() {
    const EVENTS: u64 = 1_500;
    let service = start_with(|config| config.events_waiting_max = EVENTS).await;
    paused(&service).await;
    let other = json!({"bucket": "bank", "prefix": "in/1", "function": "f"});
    assert_eq!(service.put_json("/v1/triggers/other", other).await.status, 201);
    let paused = service.request(Method::POST, "/v1/triggers/other/pause", &[], "").await;
    assert_eq!(paused.status, 204);
    let told = |count: u64| {
        let record = |n: u64| record("bank", &format!("in/{n:04}.csv"), "01");
        let records: Vec<Value> = (0..count).map(record).chain([record_of_another()]).collect();
        json!({"Records": records})
    };
    // One that was not paused yet when it pulled gives back what it has.
    let waiting = async |count: u64| {
        let events = async || service.get("/v1/triggers/full").await.json()["events"].clone();
        until("others that wait", events, |events| events["waiting"] == count).await;
    };
    service.send(&told(EVENTS + 1)).await.is_problem(ErrorKind::QueueFull);
    waiting(0).await;
    // What the other trigger has of it is kept already.
    let receipt = service.send(&told(EVENTS)).await.json();
    assert_eq!(receipt, json!({"events": 1_501, "kept": 1_500, "duplicates": 500, "ignored": 1}));
    waiting(1_500).await;
}

fn record_of_another() -> Value {
    record("dam", "in/0.csv", "01")
}

/// A replay that waits for room, of a trigger that was asked for two.
async fn waiting_replay(service: &Service) -> impl Future<Output = Reply> {
    paused(service).await;
    for n in 0..=ROOM {
        service.object("bank", &format!("in/{n}.csv"), "1").await;
    }
    // Both are more than there is room for, so whichever is the first waits.
    let replay = || service.request(Method::POST, "/v1/triggers/full/replay", &[], "");
    let (one, other) = (Box::pin(replay()), Box::pin(replay()));
    let (refused, waiting) = futures::future::select(one, other).await.factor_first();
    refused.is_problem(ErrorKind::ConcurrencyLimit);
    waiting
}

#[tokio::test]
async fn a_trigger_is_replayed_once_at_a_time() {
    let service = start_with(|config| config.events_waiting_max = ROOM).await;
    let waiting = waiting_replay(&service).await;
    assert_eq!(service.delete("/v1/triggers/full").await.status, 204);
    let ended = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    ended.expect("the replay of a removed trigger ends").is_problem(ErrorKind::TriggerNotFound);
}

#[tokio::test]
async fn a_replay_that_waits_for_room_holds_up_no_gateway_that_stops() {
    let service = start_with(|config| config.events_waiting_max = ROOM).await;
    let waiting = waiting_replay(&service).await;
    service.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    ended.expect("the replay ends").is_problem(ErrorKind::QueueFull);
    tokio::time::timeout(Duration::from_secs(10), service.stop()).await.expect("the gateway stops");
}

/// Nobody sends again what happens in the store of the same process.
#[tokio::test]
async fn a_full_queue_stops_no_event_of_the_store_and_loses_no_object() {
    let service = Base::new().await.serve_told(|config| config.events_waiting_max = ROOM).await;
    let queue = keys::event_queue(&paused(&service).await);
    for key in filling() {
        service.object("bank", &key, "1").await;
    }
    let waiting = async || service.get("/v1/triggers/full").await.json()["events"]["waiting"].clone();
    until("a full queue", waiting, |waiting| *waiting == ROOM).await;
    assert_eq!(service.put_json("/v1/triggers/t", document()).await.status, 201);
    service.object("bank", "in/missed.csv", "1").await;
    service.until("started", 1).await;
    // There is room again, and the object has not been told of again.
    for key in filling() {
        service.base.store.delete(&ObjectUri::new("bank", key).unwrap()).await.unwrap();
    }
    let (mut taken, begun) = (0, Instant::now());
    while taken < ROOM as usize {
        assert!(begun.elapsed() < Duration::from_secs(40));
        let wait = Duration::from_millis(100);
        let pulled = service.base.backbone.pull(&queue, 1, wait, Duration::from_secs(30)).await.unwrap();
        for delivery in &pulled {
            delivery.ack().await.unwrap();
        }
        taken += pulled.len();
    }
    send_until_kept(&service, &put_of("in/none.csv")).await;
    resume(&service).await;
    wait_for_calls(&service, 2).await;
    assert_eq!(service.fate("started").await, 1);
}
