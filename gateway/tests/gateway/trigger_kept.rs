// SPDX-License-Identifier: Apache-2.0
//! What is kept of a trigger's events and for how long: outcomes, dead letters,
//! and places for what runs.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use fanfold_backbone::Message;
use fanfold_protocol::{
    ErrorKind,
    digest::Digest,
    event::{derived_id, state_identity},
    keys, time,
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::{AGGREGATOR, Base, Service, component, start, start_with, until},
    triggers::{
        JSON, batches, document, metric, put_of, record, replay, send_objects, wait_for_calls, with_trigger,
    },
};

fn id_of(view: &Value) -> Uuid {
    view["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_record_that_cannot_be_copied_keeps_no_gateway_from_its_start() {
    let (service, _) = with_trigger(document()).await;
    let name = "t".parse().unwrap();
    let too_large = service.app.triggers.change(&name, |found| {
        let mut record = found.unwrap().clone();
        record.paused_because = Some("x".repeat(1 << 20));
        Ok(record)
    });
    assert_eq!(too_large.await.unwrap_err().code, ErrorKind::InvalidTrigger);
    let bucket = service.app.config.tenant.system_bucket.clone();
    let object = |name: &str| ObjectUri::new(bucket.clone(), keys::trigger(&name.parse().unwrap())).unwrap();
    let kept = service.base.store.get(&object("t"), None).await.unwrap();
    let mut record: Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(record.get("paused_because"), None);
    // From before there was a bound, and what was never whole.
    (record["name"], record["id"]) = (json!("large"), json!(Uuid::now_v7().to_string()));
    record["document"]["events"] = json!([format!("ObjectCreated:{}", "A".repeat(1_045_000))]);
    for (name, body) in [("large", record.to_string()), ("torn", "{\"name\": \"torn".to_owned())] {
        let options = PutOptions::typed("application/json");
        service.base.store.put(&object(name), Bytes::from(body), options).await.unwrap();
    }
    let service = service.stop().await.serve(|_| {}).await;
    assert_eq!(service.get("/v1/triggers/t").await.status, 200);
    service.get("/v1/triggers/large").await.is_problem(ErrorKind::TriggerNotFound);
    assert_eq!(service.put_json("/v1/triggers/large", document()).await.status, 200);
    assert_eq!(service.get("/v1/triggers/large").await.status, 200);
}

#[tokio::test]
async fn little_is_kept_of_a_removed_trigger() {
    let mut long = document();
    (long["glob"], long["events"]) = (json!("*".repeat(1_000)), json!(["ObjectCreated:Needle"]));
    let (service, made) = with_trigger(long).await;
    assert_eq!(service.delete("/v1/triggers/t").await.status, 204);
    let name = "t".parse().unwrap();
    let uri = ObjectUri::new(service.app.config.tenant.system_bucket.clone(), keys::trigger(&name)).unwrap();
    let stored = service.base.store.get(&uri, None).await.unwrap();
    let copied = service.app.backbone.get(&keys::trigger_record(&name)).await.unwrap().unwrap().value;
    assert_eq!(stored, copied);
    let record: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!((&record["id"], &record["removed"]), (&made["id"], &json!(true)));
    assert!(stored.len() < 600, "{record}");
    assert_eq!(record["secret"], json!({"token": "0".repeat(64)}));
    // It is known as gone to the next gateway as well, and its name is free.
    let service = service.stop().await.serve(|_| {}).await;
    service.get("/v1/triggers/t").await.is_problem(ErrorKind::TriggerNotFound);
    let again = service.put_json("/v1/triggers/t", document()).await;
    assert_eq!(again.status, 201);
    assert_ne!(again.json()["id"], made["id"]);
}

#[tokio::test]
async fn what_waits_for_a_removed_trigger_goes_though_another_has_its_name() {
    let (service, made) = with_trigger(document()).await;
    let paused = service.request(Method::POST, "/v1/triggers/t/pause", &[], "").await;
    assert_eq!(paused.status, 204);
    assert_eq!(service.send(&put_of("in/a.csv")).await.json()["kept"], 1);
    // A pull that was under way may have it for a moment, and queue it anew.
    let waiting = async || {
        let depth = service.app.backbone.depth(&keys::event_queue(&id_of(&made))).await.unwrap();
        depth.ready + depth.leased + depth.delayed
    };
    until("an event that waits", &waiting, |waiting| *waiting == 1).await;
    assert_eq!(service.delete("/v1/triggers/t").await.status, 204);
    assert_eq!(service.put_json("/v1/triggers/t", document()).await.status, 201);
    until("its events to be dropped", &waiting, |waiting| *waiting == 0).await;
}

#[tokio::test]
async fn no_more_runs_at_once_than_the_trigger_allows() {
    let mut narrow = document();
    narrow["concurrency"] = json!(2);
    let (service, _) = with_trigger(narrow).await;
    send_objects(&service, (0..6).map(|n| format!("in/slow-{n}.csv"))).await;
    service.until("started", 6).await;
    wait_for_calls(&service, 6).await;
    assert_eq!(service.workers.running.1.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn dead_letters_are_listed_by_page_and_discarded() {
    let mut document = document();
    document["retry"] = json!({"attempts": 1});
    let (service, _) = with_trigger(document).await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    send_objects(&service, (0..3).map(|n| format!("in/{n}.csv"))).await;
    // They are counted before they are set aside.
    let shown = async || service.get("/v1/triggers/t").await.json();
    until("three dead letters", shown, |shown| shown["events"]["dead"] == 3).await;
    let path = "/v1/triggers/t/dead-letters";
    let first = service.get(&format!("{path}?limit=2")).await.json();
    assert_eq!(first["dead_letters"].as_array().unwrap().len(), 2);
    let letter = &first["dead_letters"][0];
    assert_eq!(
        (&letter["bucket"], &letter["event"], &letter["attempts"]),
        (&json!("bank"), &json!("ObjectCreated:Put"), &json!(1))
    );
    assert!(letter["key"].as_str().unwrap().starts_with("in/"), "{letter}");
    assert!(letter["reason"].as_str().unwrap().starts_with("function-not-found: "), "{letter}");
    let rest = service.get(&format!("{path}?limit=2&page={}", first["next"].as_str().unwrap())).await.json();
    assert_eq!((rest["dead_letters"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
    for wrong in ["?limit=0", "?page=x", "?x=1"] {
        service.get(&format!("{path}{wrong}")).await.is_problem(ErrorKind::InvalidRequest);
    }
    assert_eq!(service.delete(path).await.json(), json!({"discarded": 3}));
    assert_eq!(service.get(path).await.json()["dead_letters"], json!([]));
    service.get("/v1/triggers/none/dead-letters").await.is_problem(ErrorKind::TriggerNotFound);
}

/// What cannot start and what may not: neither is fed again by looks, and both are on request.
#[tokio::test]
async fn what_was_given_up_is_no_new_dead_letter_at_each_look() {
    let mut document = document();
    document["retry"] = json!({"attempts": 1});
    document["reconcile"] = json!("10s");
    let (service, _) = with_trigger(document).await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    send_objects(&service, ["in/bad.csv".to_owned()]).await;
    let mut options = PutOptions::typed("text/csv");
    options.metadata.insert("fanfold-depth".into(), "16".into());
    let deep = ObjectUri::new("bank", "in/deep.csv").unwrap();
    service.base.store.put(&deep, Bytes::from_static(b"x"), options).await.unwrap();
    assert_eq!(service.send(&put_of("in/deep.csv")).await.status, 200);
    let dead = async |service: &Service| service.get("/v1/triggers/t").await.json()["events"]["dead"].clone();
    until("two dead letters", || dead(&service), |dead| *dead == 2).await;
    // A gateway that starts looks.
    let service = service.stop().await.serve(|_| {}).await;
    until("a look", || metric(&service, "reconciler_objects_listed"), |listed| *listed >= 2).await;
    assert_eq!((service.fate("kept").await, dead(&service).await), (0, json!(2)));
    // Replayed in vain, it is one dead letter still.
    assert_eq!(replay(&service, json!({"dead_letters": true})).await.json()["queued"], 2);
    service.until("dead", 1).await;
    service.until("loop", 1).await;
    until("two dead letters", || dead(&service), |dead| *dead == 2).await;
    // Forgotten, it waits for somebody to ask for it; then it has started for good.
    assert_eq!(service.delete("/v1/triggers/t/dead-letters").await.json(), json!({"discarded": 2}));
    assert_eq!(service.deploy("f", "2").await.status, 201);
    assert_eq!(replay(&service, json!({"prefix": "in/bad"})).await.json()["queued"], 1);
    service.until("started", 1).await;
    assert_eq!(replay(&service, json!({"prefix": "in/bad"})).await.json()["queued"], 0);
}

/// No look feeds what a batch has won that was given up; a replay starts it, still as one batch.
#[tokio::test]
async fn a_batch_that_was_given_up_is_started_by_a_replay() {
    let mut document = document();
    document["batch"] = json!({"size": 3, "window": "300ms"});
    document["retry"] = json!({"attempts": 2, "backoff": "50ms"});
    document["reconcile"] = json!("10s");
    let (service, _) = with_trigger(document).await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    send_objects(&service, (0..3).map(|n| format!("in/{n}.csv"))).await;
    let dead = async |service: &Service| service.get("/v1/triggers/t").await.json()["events"]["dead"].clone();
    until("three dead letters", || dead(&service), |dead| *dead == 3).await;
    let service = service.stop().await.serve(|_| {}).await;
    until("a look", || metric(&service, "reconciler_objects_listed"), |listed| *listed >= 3).await;
    assert_eq!((service.fate("kept").await, dead(&service).await), (0, json!(3)));
    assert_eq!(service.delete("/v1/triggers/t/dead-letters").await.json(), json!({"discarded": 3}));
    assert_eq!(service.deploy("f", "2").await.status, 201);
    // One object is enough, and all of the batch has started then.
    assert_eq!(replay(&service, json!({"prefix": "in/1"})).await.json()["queued"], 1);
    wait_for_calls(&service, 1).await;
    assert_eq!(batches(&service), [["in/0.csv", "in/1.csv", "in/2.csv"]]);
    service.until("duplicate", 1).await;
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 3, "queued": 0}));
}

#[tokio::test]
async fn dead_letters_are_not_kept_for_ever() {
    let mut document = document();
    document["retry"] = json!({"attempts": 1});
    let (service, view) = with_trigger(document).await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    service.object("bank", "in/old.csv", "1").await;
    let notice =
        json!({"bucket": "bank", "key": "in/old.csv", "kind": "created", "name": "ObjectCreated:Put"});
    let old = json!({"notice": notice, "at": 0}).to_string();
    let queue = keys::event_queue(&id_of(&view));
    service.base.backbone.enqueue(&queue, vec![Message::new("old", Bytes::from(old))]).await.unwrap();
    service.until("dead", 1).await;
    send_objects(&service, ["in/young.csv".to_owned()]).await;
    service.until("dead", 2).await;
    let service = service.stop().await.serve(|_| {}).await;
    let keys = async || -> Vec<String> {
        let letters = service.get("/v1/triggers/t/dead-letters").await.json();
        let letters = letters["dead_letters"].as_array().unwrap().clone();
        letters.iter().map(|letter| letter["key"].as_str().unwrap().to_owned()).collect()
    };
    until("the young one alone", keys, |keys| *keys == ["in/young.csv"]).await;
}

/// Messages of a queue that were no notification: one of an older release, which did not say when it came, and one
/// that does.
#[tokio::test]
async fn a_dead_letter_that_cannot_be_read_keeps_none_behind_it() {
    let (service, view) = with_trigger(document()).await;
    let queue = keys::event_queue(&id_of(&view));
    let unread = json!({"id": "1", "reason": "no JSON", "body": "x"});
    let payloads = [json!({"unread": unread}), json!({"unread": unread, "at": 0}), json!({"at": 0})];
    for (count, payload) in (1..).zip(payloads) {
        let message = Message::new(format!("odd-{count}"), Bytes::from(payload.to_string()));
        service.base.backbone.enqueue(&queue, vec![message]).await.unwrap();
        service.until("dead", count).await;
    }
    let dead = async |service: &Service| service.get("/v1/triggers/t").await.json()["events"]["dead"].clone();
    until("three dead letters", || dead(&service), |dead| *dead == 3).await;
    let service = service.stop().await.serve(|_| {}).await;
    until("one dead letter", || dead(&service), |dead| *dead == 1).await;
    let left = service.get("/v1/triggers/t/dead-letters").await.json()["dead_letters"].clone();
    assert_eq!((&left[0]["id"], &left[0]["taken_at"]), (&json!("odd-1"), &Value::Null), "{left}");
}

/// A service that has no room for invocations, so that a bound is to blame for what waits.
async fn without_room(document: Value) -> (Service, String) {
    let service = start_with(|config| config.invocations.waiting_max = 0).await;
    assert_eq!(service.deploy("f", "1").await.status, 201);
    let made = service.put_json("/v1/triggers/t", document).await;
    assert_eq!(made.status, 201, "{made:?}");
    let queue = keys::event_queue(&id_of(&made.json()));
    (service, queue)
}

/// An event as a queue holds it, of an object that is there.
async fn queued(service: &Service, queue: &str, more: Value) {
    service.object("bank", "in/a.csv", "1").await;
    let notice = json!({"bucket": "bank", "key": "in/a.csv", "kind": "created", "name": "ObjectCreated:Put"});
    let mut waiting = json!({"notice": notice, "at": time::now().0});
    waiting.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let message = Message::new(Uuid::now_v7().to_string(), Bytes::from(waiting.to_string()));
    service.base.backbone.enqueue(queue, vec![message]).await.unwrap();
}

#[tokio::test]
async fn what_an_event_is_not_to_blame_for_is_none_of_its_attempts() {
    let mut document = document();
    document["retry"] = json!({"attempts": 2, "backoff": "10ms"});
    let (service, queue) = without_room(document).await;
    queued(&service, &queue, json!({})).await;
    until("retries", || service.fate("retried"), |retried| *retried >= 3).await;
    // From now on it fails by its own fault, and is tried once more.
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    let letters = async || service.base.backbone.dead_letters(&queue, 0, 9).await.unwrap();
    let found = until("a dead letter", letters, |letters| !letters.is_empty()).await;
    let letter = &found[0];
    assert!(letter.reason.starts_with("function-not-found: "), "{letter:?}");
    let waiting: Value = serde_json::from_slice(&letter.payload).unwrap();
    assert_eq!((letter.attempt, waiting.get("failures")), (2, None), "{waiting}");
    assert!(waiting["put_back"].as_u64().unwrap() >= 3, "{waiting}");
}

#[tokio::test]
async fn a_replay_counts_attempts_and_time_anew() {
    let mut document = document();
    document["retry"] = json!({"attempts": 2, "backoff": "10ms"});
    let (service, queue) = without_room(document).await;
    // Older than anything is waited for.
    queued(&service, &queue, json!({"at": 0})).await;
    let dead = async || service.get("/v1/triggers/t").await.json()["events"]["dead"].clone();
    until("one dead letter", &dead, |dead| *dead == 1).await;
    assert_eq!(service.fate("retried").await, 0);
    assert_eq!(replay(&service, json!({"dead_letters": true})).await.json()["queued"], 1);
    until("retries", || service.fate("retried"), |retried| *retried >= 2).await;
    assert_eq!(dead().await, 0);
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    until("one dead letter", &dead, |dead| *dead == 1).await;

    // One that had failed of its own before it was queued anew has one attempt less, until it is replayed.
    assert_eq!(service.delete("/v1/triggers/t/dead-letters").await.json()["discarded"], 1);
    let retried = service.fate("retried").await;
    queued(&service, &queue, json!({"failures": 1, "put_back": 3, "replay": Uuid::now_v7()})).await;
    service.until("dead", 3).await;
    assert_eq!(service.fate("retried").await, retried);
    until("one dead letter", &dead, |dead| *dead == 1).await;
    let letters = service.get("/v1/triggers/t/dead-letters").await.json()["dead_letters"].clone();
    assert_eq!(letters[0]["attempts"], 5, "{letters}");
    assert_eq!(replay(&service, json!({"dead_letters": true})).await.json()["queued"], 1);
    service.until("dead", 4).await;
    assert_eq!(service.fate("retried").await, retried + 1);
}

#[tokio::test]
async fn an_event_that_met_the_breaker_has_all_its_attempts() {
    let mut document = document();
    (document["starts_per_minute"], document["concurrency"]) = (json!(1), json!(1));
    let (service, view) = with_trigger(document).await;
    send_objects(&service, (0..2).map(|n| format!("in/{n}.csv"))).await;
    let view_of = async || service.get("/v1/triggers/t").await.json();
    let stands = |view: &Value| view["paused"] == true && view["events"]["waiting"] == 1;
    until("a pause with an event that waits", view_of, stands).await;
    let (queue, second) = (keys::event_queue(&id_of(&view)), Duration::from_secs(1));
    let pulled = service.base.backbone.pull(&queue, 1, second, second).await.unwrap();
    assert_eq!((pulled.len(), pulled[0].attempt), (1, 1));
    pulled[0].nak(Duration::ZERO).await.unwrap();
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/resume", &[], "").await.status, 204);
    service.until("started", 2).await;
}

/// They are all examined before the outcome of the first is written down.
#[tokio::test]
async fn events_of_one_state_side_by_side_are_one_start() {
    let mut document = document();
    (document["starts_per_minute"], document["concurrency"]) = (json!(40), json!(40));
    let (service, _) = with_trigger(document).await;
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/pause", &[], "").await.status, 204);
    service.object("bank", "in/a.csv", "1").await;
    let records: Vec<_> = (10..50).map(|n| record("bank", "in/a.csv", &n.to_string())).collect();
    assert_eq!(service.send(&json!({"Records": records})).await.json()["kept"], 40);
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/resume", &[], "").await.status, 204);
    service.until("duplicate", 39).await;
    service.until("started", 1).await;
    wait_for_calls(&service, 1).await;
    // The breaker has counted one of forty as well.
    send_objects(&service, (0..39).map(|n| format!("in/{n}.csv"))).await;
    service.until("started", 40).await;
    assert_eq!(service.get("/v1/triggers/t").await.json()["paused"], false);
    assert_eq!(service.fate("duplicate").await, 39);
}

/// Puts an outcome of an invocation into the backbone, as if it lapsed or did not.
async fn outcome(base: &Base, trigger: &Uuid, identity: &Digest, lapses: bool) -> String {
    let key = keys::event_outcome(trigger, identity);
    let started = json!({"kind": "invocation", "id": Uuid::nil()});
    let value = json!({"started": started, "at": time::now(), "lapses": lapses}).to_string();
    base.backbone.put(&key, value).await.unwrap();
    key
}

/// Whether an outcome lapses.
async fn lapses(base: &Base, key: &str) -> bool {
    let entry = base.backbone.get(key).await.unwrap().unwrap();
    serde_json::from_slice::<Value>(&entry.value).unwrap()["lapses"] == true
}

/// The name of the state that an object is in.
async fn state_of(base: &Base, key: &str) -> Digest {
    let meta = base.store.head(&ObjectUri::new("bank", key).unwrap()).await.unwrap();
    state_identity("bank", key, &meta.pin, meta.last_modified)
}

/// A trigger that is never looked at, and one that acts on removals alone, settle
/// as well what is gone, and what is there again.
#[tokio::test]
async fn outcomes_lapse_of_what_is_gone_and_stay_of_what_is_there() {
    for events in [json!(["ObjectCreated:*"]), json!(["ObjectRemoved:*"])] {
        let mut document = document();
        document["events"] = events.clone();
        let (service, view) = with_trigger(document).await;
        let id = id_of(&view);
        service.object("bank", "in/there.csv", "1").await;
        service.object("bank", "in/again.csv", "1").await;
        let base = service.stop().await;
        let there = outcome(&base, &id, &state_of(&base, "in/there.csv").await, false).await;
        let again = outcome(&base, &id, &state_of(&base, "in/again.csv").await, true).await;
        let gone = outcome(&base, &id, &Digest::of(b"gone"), false).await;
        let service = base.serve(|_| {}).await;
        let base = &service.base;
        let of_created = events[0] == "ObjectCreated:*";
        // One is changed after the other.
        let lapse =
            async || (lapses(base, &gone).await, lapses(base, &there).await, lapses(base, &again).await);
        until("those to lapse", lapse, |lapse| *lapse == (true, !of_created, !of_created)).await;
        // Nothing was fed by that.
        assert_eq!(service.fate("kept").await, 0);
    }
}

#[tokio::test]
async fn a_filter_that_is_narrowed_and_widened_again_starts_nothing_twice() {
    let filter = |prefix: &str| json!({"bucket": "bank", "prefix": prefix, "function": "f"});
    let (service, view) = with_trigger(filter("in/")).await;
    let (id, base) = (id_of(&view), service.base.clone());
    send_objects(&service, ["in/old.csv".to_owned(), "in/2026/new.csv".to_owned()]).await;
    service.until("started", 2).await;
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 2, "queued": 0}));
    let packed = ObjectUri::new(keys::SYSTEM_BUCKET_DEFAULT, keys::packed_outcomes(&id)).unwrap();
    let packed_states = async || base.store.get(&packed, None).await.unwrap().len() / 16;
    let old = keys::event_outcome(&id, &state_of(&base, "in/old.csv").await);
    assert_eq!(service.put_json("/v1/triggers/t", filter("in/2026/")).await.status, 200);
    // What it acted on before is listed by the first of these, and is known to the others.
    for _ in 0..3 {
        assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": 0}));
        assert_eq!((lapses(&base, &old).await, packed_states().await), (false, 2));
    }
    assert_eq!(service.put_json("/v1/triggers/t", filter("in/")).await.status, 200);
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 2, "queued": 0}));
    // What is gone is seen to be so although the filter leaves it out.
    assert_eq!(service.put_json("/v1/triggers/t", filter("in/2026/")).await.status, 200);
    base.store.delete(&ObjectUri::new("bank", "in/old.csv").unwrap()).await.unwrap();
    base.backbone.delete(&keys::last_sweep(&id), None).await.unwrap();
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": 0}));
    assert_eq!((lapses(&base, &old).await, packed_states().await), (true, 1));
    wait_for_calls(&service, 2).await;
    let other = json!({"bucket": "dam", "prefix": "in/", "function": "f"});
    let problem = service.put_json("/v1/triggers/t", other).await.is_problem(ErrorKind::InvalidTrigger);
    assert!(problem["detail"].as_str().unwrap().starts_with("bucket must stay bank"), "{problem}");
}

#[tokio::test]
async fn nothing_of_a_removed_trigger_stays() {
    let (service, view) = with_trigger(document()).await;
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(replay(&service, json!({})).await.json()["queued"], 1);
    service.until("started", 1).await;
    assert_eq!(replay(&service, json!({})).await.json()["queued"], 0);
    let id = id_of(&view);
    let packed = ObjectUri::new(keys::SYSTEM_BUCKET_DEFAULT, keys::packed_outcomes(&id)).unwrap();
    assert!(service.base.store.head(&packed).await.is_ok());
    assert_eq!(service.delete("/v1/triggers/t").await.status, 204);
    let rest =
        async |service: &Service| service.base.backbone.list(&keys::outcomes(&id)).await.unwrap().len();
    let left = async || (service.base.store.head(&packed).await.is_ok(), rest(&service).await);
    until("nothing to be left", left, |left| *left == (false, 0)).await;
}

/// As after a gateway that died before it wrote the outcome down, and a template that was changed since.
#[tokio::test]
async fn a_job_that_was_started_by_another_template_is_an_outcome() {
    let service = start().await;
    let (headers, bytes) = ([("content-type", "application/wasm")], component(&[], &[AGGREGATOR], "1"));
    let deployed = service.request(Method::POST, "/v1/functions/sums/versions", &headers, bytes).await;
    assert_eq!(deployed.status, 201);
    let job = json!({"function": "sums", "input": "s3://{bucket}/{key}", "output": "s3://out/{id}/"});
    let made =
        service.put_json("/v1/triggers/t", json!({"bucket": "bank", "job": job, "reconcile": "0s"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let (id, base) = (id_of(&made.json()), service.base.clone());
    service.object("bank", "in/a.csv", "x\n1\n").await;
    let state = state_of(&base, "in/a.csv").await;
    let key = Digest::of(format!("trigger-{}", derived_id(&id, &state)).as_bytes());
    let earlier = json!({"job": Uuid::now_v7(), "request": Digest::of(b"another template")}).to_string();
    base.backbone.put(&keys::idempotency("jobs", &key), earlier).await.unwrap();
    for duplicates in 1..3 {
        let told = json!({"Records": [record("bank", "in/a.csv", &format!("0{duplicates}"))]});
        assert_eq!(service.send(&told).await.status, 200);
        service.until("duplicate", duplicates).await;
    }
    assert!(base.backbone.get(&keys::event_outcome(&id, &state)).await.unwrap().is_some());
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": 0}));
}

/// What is missing would keep the others from starting for ever.
#[tokio::test]
async fn a_batch_that_was_given_up_is_started_without_what_is_gone() {
    let service = start().await;
    service.base.store.ensure_bucket("out").await.unwrap();
    let deploy = async |salt: &str| {
        let (headers, bytes) = ([("content-type", "application/wasm")], component(&[], &[AGGREGATOR], salt));
        service.request(Method::POST, "/v1/functions/sums/versions", &headers, bytes).await.status
    };
    assert_eq!(deploy("1").await, 201);
    let job = json!({"function": "sums", "input": "s3://{bucket}/{key}", "output": "s3://out/{id}/"});
    let document = json!({
        "bucket": "bank", "job": job, "reconcile": "0s", "retry": {"attempts": 1},
        "batch": {"size": 3, "window": "300ms"}
    });
    assert_eq!(service.put_json("/v1/triggers/t", document).await.status, 201);
    assert_eq!(service.delete("/v1/functions/sums").await.status, 204);
    let keys = ["in/0.csv", "in/1.csv", "in/2.csv"];
    for key in keys {
        service.object("bank", key, "x\n1\n").await;
    }
    let told: Vec<Value> = keys.iter().map(|key| record("bank", key, "01")).collect();
    assert_eq!(service.send(&json!({"Records": told})).await.json()["kept"], 3);
    let dead = async || service.get("/v1/triggers/t").await.json()["events"]["dead"].clone();
    until("three dead letters", &dead, |dead| *dead == 3).await;
    service.base.store.delete(&ObjectUri::new("bank", keys[1]).unwrap()).await.unwrap();
    assert_eq!(deploy("2").await, 201);
    assert_eq!(replay(&service, json!({"dead_letters": true})).await.json()["queued"], 3);
    service.until("gone", 1).await;
    service.until("duplicate", 2).await;
    assert_eq!(dead().await, 0);
    assert_eq!(service.get("/v1/jobs").await.json()["jobs"].as_array().unwrap().len(), 1);
}

/// As for Garage, which sends nothing.
#[tokio::test]
async fn objects_of_a_silent_store_are_found_on_schedule() {
    let mut silent = document();
    silent["reconcile"] = json!("10s");
    let (service, _) = with_trigger(silent).await;
    service.object("bank", "in/a.csv", "1").await;
    service.until("started", 1).await;
    wait_for_calls(&service, 1).await;
    assert_eq!(metric(&service, "reconciler_objects_found").await, 1);
}

/// No listing tells how an object was written.
#[tokio::test]
async fn looks_start_nothing_for_some_ways_of_writing() {
    let acting_on =
        |events: Value| json!({"bucket": "bank", "prefix": "in/", "events": events, "function": "f"});
    let (service, _) = with_trigger(acting_on(json!(["ObjectCreated:CompleteMultipartUpload"]))).await;
    service.object("bank", "elsewhere/a.csv", "1").await;
    let shown = service.get("/v1/triggers/t").await.json();
    assert!(shown["warning"].as_str().is_some_and(|text| text.contains("looks start nothing")), "{shown}");
    let all = service.put_json("/v1/triggers/u", acting_on(json!(["ObjectCreated:*"]))).await;
    assert_eq!(all.status, 201);
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.get("/v1/triggers/u").await.json()["warning"], Value::Null);
    let service = service.stop().await.serve(|_| {}).await;
    // The other one has found it.
    wait_for_calls(&service, 1).await;
    assert_eq!((service.fate("kept").await, metric(&service, "reconciler_objects_found").await), (0, 0));
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": 1}));
    service.until("started", 1).await;
}

/// The store dates the objects, and so it does the trigger.
#[tokio::test]
async fn a_clock_that_is_ahead_hides_no_object_from_looks() {
    const HOUR_MS: u64 = 3_600_000;
    let (service, made) = with_trigger(json!({"bucket": "bank", "prefix": "in/", "function": "f"})).await;
    let name = "t".parse().unwrap();
    let object =
        ObjectUri::new(service.app.config.tenant.system_bucket.clone(), keys::trigger(&name)).unwrap();
    let written = service.base.store.head(&object).await.unwrap().last_modified;
    let told = made["created_at"].as_str().unwrap();
    assert!(written.to_string()[..19] >= told[..19], "{written} {told}");
    let ahead = service.app.triggers.change(&name, |found| {
        let mut record = found.unwrap().clone();
        record.created_at.0 += HOUR_MS;
        Ok(record)
    });
    let ahead = ahead.await.unwrap();
    assert!(ahead.record.created_at.0 > written.0 + HOUR_MS / 2);
    let dated = service.app.triggers.dated(ahead).await;
    assert!(dated.record.created_at.0 < time::now().0 + 2_000, "{}", dated.record.created_at);
    service.object("bank", "in/lost.csv", "1").await;
    let service = service.stop().await.serve(|_| {}).await;
    service.until("started", 1).await;
}

/// It has no outcome, and a look cannot tell it from what was lost.
#[tokio::test]
async fn while_much_waits_looks_queue_nothing() {
    let filter = json!({"bucket": "bank", "prefix": "in/", "function": "f"});
    let (service, view) = with_trigger(filter.clone()).await;
    assert_eq!(service.put_json("/v1/triggers/u", filter).await.status, 201);
    let queue = keys::event_queue(&id_of(&view));
    for half in 0..2 {
        let waiting = (0..501).map(|n| {
            let later = Duration::from_secs(3_600);
            Message::new(format!("{half}-{n}"), Bytes::from_static(b"{}")).delayed(later)
        });
        service.base.backbone.enqueue(&queue, waiting.collect()).await.unwrap();
    }
    service.object("bank", "in/a.csv", "1").await;
    let service = service.stop().await.serve(|_| {}).await;
    // The other trigger has found it.
    wait_for_calls(&service, 1).await;
    assert_eq!((service.fate("kept").await, metric(&service, "reconciler_objects_found").await), (0, 0));
    assert_eq!(replay(&service, json!({})).await.json(), json!({"listed": 1, "queued": 1}));
    service.until("started", 1).await;
}

#[tokio::test]
async fn a_trigger_that_is_full_holds_up_no_look_at_another() {
    let (service, _) = with_trigger(json!({"bucket": "bank", "prefix": "a/", "function": "f"})).await;
    let other = json!({"bucket": "bank", "prefix": "b/", "function": "f"});
    assert_eq!(service.put_json("/v1/triggers/u", other).await.status, 201);
    // So many that there is never room for all of them.
    for n in 0..5 {
        service.object("bank", &format!("a/{n}"), "1").await;
    }
    service.object("bank", "b/1", "1").await;
    let service = service.stop().await.serve(|config| config.events_waiting_max = 4).await;
    wait_for_calls(&service, 1).await;
    assert_eq!(service.fate("kept").await, 0);
}

#[tokio::test]
async fn a_window_of_time_is_fed_again() {
    let (service, _) = with_trigger(document()).await;
    service.object("bank", "in/a.csv", "1").await;
    assert_eq!(service.send(&put_of("in/a.csv")).await.status, 200);
    service.until("started", 1).await;
    let uri = ObjectUri::new("bank", "in/a.csv").unwrap();
    let written = service.base.store.head(&uri).await.unwrap().last_modified;
    let at = |ms: u64| fanfold_protocol::time::Timestamp(ms).to_string();
    let (second, next) = (at(written.0 / 1_000 * 1_000), at(written.0 / 1_000 * 1_000 + 1_000));
    let queued = async |since: &str, until: &str| {
        let request = json!({"since": since, "until": until, "again": true}).to_string();
        let reply = service.request(Method::POST, "/v1/triggers/t/replay", &[JSON], request).await;
        reply.json()["queued"].clone()
    };
    assert_eq!(queued("1970-01-01T00:00:00Z", &second).await, 0);
    assert_eq!(queued(&next, "2100-01-01T00:00:00Z").await, 0);
    assert_eq!(queued(&second, &next).await, 1);
    service.until("started", 2).await;
    wait_for_calls(&service, 2).await;
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_told_until_it_is() {
    let service = start().await;
    service.deploy("f", "1").await;
    let made = service.put_json("/v1/triggers/t", json!({"bucket": "later", "function": "f"})).await;
    assert_eq!(made.status, 201);
    let told =
        |view: &Value| view["warning"].as_str().is_some_and(|text| text.contains("bucket named later"));
    assert!(told(&made.json()), "{}", made.json());
    assert!(told(&service.get("/v1/triggers/t").await.json()));
    assert!(told(&service.get("/v1/triggers").await.json()["triggers"][0]));
    service.base.store.ensure_bucket("later").await.unwrap();
    assert_eq!(service.get("/v1/triggers/t").await.json()["warning"], Value::Null);
}

#[tokio::test]
async fn a_trigger_tells_that_its_function_was_removed() {
    let service = start().await;
    service.base.store.ensure_bucket("bank").await.unwrap();
    service.deploy("f", "1").await;
    service.put_json("/v1/triggers/t", json!({"bucket": "bank", "function": "f"})).await;
    assert_eq!(service.get("/v1/triggers/t").await.json()["warning"], Value::Null);
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    for path in ["/v1/triggers/t", "/v1/triggers"] {
        let view = service.get(path).await.json().to_string();
        assert!(view.contains("expected a function named f, found none"), "{view}");
    }
    assert_eq!(service.deploy("f", "2").await.status, 201);
    assert_eq!(service.get("/v1/triggers/t").await.json()["warning"], Value::Null);
}
