// SPDX-License-Identifier: Apache-2.0
//! Asynchronous calls that fail: what is tried again, what is given up, and what
//! is done with it.

use std::time::Duration;

use fanfold_backbone::queue::Message;
use fanfold_gateway::invoke::asynchronous::InvocationsConfig;
use fanfold_protocol::{ErrorKind, Problem, keys};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    asynchronous::{hasty, id, runs},
    harness::{Base, Service, start, start_with, until},
};

pub async fn dead_letters(service: &Service) -> Vec<Value> {
    let list = service.get("/v1/invocations/dead-letters").await.json();
    list["dead_letters"].as_array().unwrap_or_else(|| panic!("{list}")).clone()
}

/// Dead letters, once there are so many: they follow the end.
async fn until_dead_letters(service: &Service, count: usize) -> Vec<Value> {
    until("all dead letters", || dead_letters(service), |letters| letters.len() >= count).await
}

#[tokio::test]
async fn what_may_succeed_is_tried_three_times() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let (third, never) =
        (service.promise("f", &[], "flaky 3").await, service.promise("f", &[], "flaky 4").await);
    let ended = service.ended(&id(&third)).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(3)));
    let never = id(&never);
    let ended = service.ended(&never).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("failed"), &json!(3)));
    assert_eq!(ended["problem"]["detail"], "attempt 3");
    assert_eq!(
        (&ended["problem"]["type"], &ended["problem"]["retryable"]),
        (&json!("/docs/errors/function-error"), &json!(true))
    );
    service.get(&format!("/v1/invocations/{never}/result")).await.is_problem(ErrorKind::FunctionError);
    let letters = until_dead_letters(&service, 1).await;
    assert_eq!(
        (&letters[0]["id"], &letters[0]["reason"]),
        (&json!(never), &json!("function-error: attempt 3"))
    );
    assert_eq!((&letters[0]["function"], letters.len()), (&json!("f"), 1));
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "fanfold_async_invocations_accepted_total 2",
        "fanfold_async_invocations_ended_total{state=\"failed\"} 1",
        "fanfold_async_invocation_retries_total 4",
        "fanfold_async_invocation_dead_letters_total 1",
        "fanfold_queue_messages{queue=\"invocations\",state=\"dead\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn what_cannot_succeed_is_tried_once() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    for (body, code) in [
        ("fail guest-trapped", "guest-trapped"),
        ("fail deadline-exceeded", "deadline-exceeded"),
        ("status 99", "response-invalid"),
        ("large 7000000", "response-too-large"),
    ] {
        let ended = service.ended(&id(&service.promise("f", &[], body).await)).await;
        assert_eq!((&ended["state"], &ended["attempts"]), (&json!("failed"), &json!(1)), "{body}");
        assert_eq!(ended["problem"]["code"], code);
    }
    let letters = until_dead_letters(&service, 4).await;
    assert_eq!(letters.len(), 4);
    // The function's own code stands between the platform's and the sentence.
    assert!(
        letters.iter().any(|one| one["reason"] == "guest-trapped: out-of-luck: it failed"),
        "{letters:?}"
    );
}

#[tokio::test]
async fn what_is_no_fault_of_the_function_counts_by_age_alone() {
    let service = start_with(|config| {
        config.invocations.backoff = Duration::from_millis(10);
        config.invocations.age_max = Duration::from_millis(300);
    })
    .await;
    service.deploy("f", "1").await;
    let ended = service.ended(&id(&service.promise("f", &[], "fail store-unavailable").await)).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("failed"), &json!(0)), "{ended}");
    assert_eq!(ended["problem"]["code"], "deadline-exceeded");
    assert!(ended["problem"]["detail"].as_str().unwrap().contains("because it failed"), "{ended}");
    assert!(runs(&service) > 3, "{}", runs(&service));
    until_dead_letters(&service, 1).await;
}

#[tokio::test]
async fn a_call_waits_for_a_worker_and_counts_what_a_worker_took_along() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let nobody = Problem::new(ErrorKind::WorkerUnavailable, "nobody is there");
    *service.workers.refuse_calls.lock().unwrap() = Some(nobody);
    let waiting = id(&service.promise("f", &[], "echo").await);
    // More often than it may fail.
    service.until_calls(5).await;
    let path = format!("/v1/invocations/{waiting}");
    // While it is tried once more it runs.
    let shown = async || service.get(&path).await.json();
    let shown = until("a call that waits", shown, |shown| shown["state"] == "queued").await;
    assert_eq!((&shown["attempts"], &shown["problem"]["code"]), (&json!(0), &json!("worker-unavailable")));
    *service.workers.refuse_calls.lock().unwrap() = None;
    let ended = service.ended(&waiting).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(1)), "{ended}");

    // It may have run each time, and may be what ended the worker.
    let lost = service.ended(&id(&service.promise("f", &[], "fail worker-lost").await)).await;
    assert_eq!((&lost["state"], &lost["attempts"]), (&json!("failed"), &json!(3)), "{lost}");
    assert_eq!(until_dead_letters(&service, 1).await.len(), 1);
}

#[tokio::test]
async fn dead_letters_are_replayed_and_discarded() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let mut ids = Vec::new();
    for body in ["fail guest-trapped", "fail guest-panicked", "fail stack-overflow"] {
        let id = id(&service.promise("f", &[], body).await);
        service.ended(&id).await;
        ids.push(id);
    }
    assert_eq!(until_dead_letters(&service, 3).await.len(), 3);
    let first = service.get("/v1/invocations/dead-letters?limit=2").await.json();
    assert_eq!(first["dead_letters"].as_array().unwrap().len(), 2);
    let rest = format!("/v1/invocations/dead-letters?limit=2&page={}", first["next"].as_str().unwrap());
    let rest = service.get(&rest).await.json();
    assert_eq!((&rest["dead_letters"][0]["id"], &rest["next"]), (&json!(ids[2]), &Value::Null));

    let replay = async |body: Value| {
        let headers = [("content-type", "application/json")];
        service.request(Method::POST, "/v1/invocations/dead-letters/replay", &headers, body.to_string()).await
    };
    let replayed = replay(json!({ "ids": [ids[0]] })).await;
    assert_eq!(replayed.status, 202, "{replayed:?}");
    let again = &replayed.json()["replayed"][0];
    assert_eq!(again["of"], json!(ids[0]));
    let again = again["id"].as_str().unwrap().to_owned();
    assert_ne!(again, ids[0]);
    let ended = service.ended(&again).await;
    assert_eq!(ended["origin"], json!({ "kind": "replay", "of": ids[0] }));
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("failed"), &json!(1)));
    // The letter has become another one's.
    let letters = until_dead_letters(&service, 3).await;
    assert!(letters.iter().any(|letter| letter["id"] == json!(again)), "{letters:?}");
    replay(json!({ "ids": [ids[0]] })).await.is_problem(ErrorKind::InvocationNotFound);
    for bad in [
        json!({}),
        json!({ "ids": [ids[1]], "all": true }),
        json!({ "ids": [], "all": true }),
        json!({ "ids": [] }),
        json!({ "all": false }),
    ] {
        replay(bad).await.is_problem(ErrorKind::InvalidRequest);
    }

    let both = service.delete("/v1/invocations/dead-letters?ids=zz&all=true").await;
    both.is_problem(ErrorKind::InvalidRequest);
    let gone = service.delete(&format!("/v1/invocations/dead-letters?ids={},{}", ids[1], again)).await;
    assert_eq!(gone.json()["discarded"], 2);
    service.delete("/v1/invocations/dead-letters").await.is_problem(ErrorKind::InvalidRequest);
    assert_eq!(replay(json!({ "all": true })).await.json()["replayed"][0]["of"], json!(ids[2]));
    until_dead_letters(&service, 1).await;
    assert_eq!(service.delete("/v1/invocations/dead-letters?all=true").await.json()["discarded"], 1);
    assert!(dead_letters(&service).await.is_empty());
}

#[tokio::test]
async fn poison_becomes_a_dead_letter_and_the_queue_moves_on() {
    let service = start().await;
    service.deploy("f", "1").await;
    // An accepted one whose message was damaged comes to an end, too.
    let damaged = Uuid::now_v7();
    let record = json!({
        "function": "f", "version": 1, "accepted_at": 1, "depth": 0, "origin": { "kind": "call" },
        "attempts": 0, "started_at": null, "problem": null
    });
    let backbone = &service.base.backbone;
    backbone.create(&keys::invocation_record(&damaged), record.to_string()).await.unwrap();
    let messages = [damaged.to_string(), "x".to_owned()].map(|id| Message::new(id, &b"\xff\xff{"[..]));
    backbone.enqueue(keys::INVOCATION_QUEUE, messages.to_vec()).await.unwrap();
    let letters = until_dead_letters(&service, 2).await;
    assert!(
        letters.iter().all(|letter| letter["reason"].as_str().unwrap().starts_with("internal: ")),
        "{letters:?}"
    );
    let ended = service.ended(&damaged.to_string()).await;
    assert_eq!((&ended["state"], &ended["problem"]["code"]), (&json!("failed"), &json!("internal")));
    let next = service.ended(&id(&service.promise("f", &[], "echo").await)).await;
    assert_eq!(next["state"], "succeeded");
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("fanfold_async_invocation_dead_letters_total 2"), "{metrics}");
    assert_eq!(runs(&service), 1);
}

#[tokio::test]
async fn large_answers_are_kept_and_ends_are_swept() {
    let base = Base::new().await;
    let first = base.serve(hasty).await;
    first.deploy("f", "1").await;
    let large = id(&first.promise("f", &[], "large 2000000").await);
    first.ended(&large).await;
    assert_eq!(first.get(&format!("/v1/invocations/{large}/result")).await.body.len(), 2_000_000);
    let dead = id(&first.promise("f", &[], "fail guest-trapped").await);
    first.ended(&dead).await;
    until_dead_letters(&first, 1).await;
    first.stop().await;
    let second = base.serve(|config| config.invocations.window = Duration::ZERO).await;
    let left =
        async || (second.get(&format!("/v1/invocations/{large}")).await.status, dead_letters(&second).await);
    until("a sweep", left, |(status, letters)| *status == 404 && letters.is_empty()).await;
    let metrics = String::from_utf8(second.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("fanfold_async_invocation_dead_letters_expired_total 1"), "{metrics}");
}

#[tokio::test]
async fn the_newest_dead_letters_are_kept() {
    keeps_two(|config, _| config.dead_letters_max = 2).await;
    keeps_two(|config, bytes| config.dead_letter_bytes_max = bytes).await;
}

/// Five dead letters, of which a gateway that keeps two, or the bytes of two, removes the others.
async fn keeps_two(change: impl FnOnce(&mut InvocationsConfig, u64)) {
    let base = Base::new().await;
    let first = base.serve(hasty).await;
    first.deploy("f", "1").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let id = id(&first.promise("f", &[], "fail guest-trapped").await);
        first.ended(&id).await;
        ids.push(id);
    }
    until_dead_letters(&first, 5).await;
    first.stop().await;
    let letters = base.backbone.dead_letters(keys::INVOCATION_QUEUE, 0, 9).await.unwrap();
    let sizes = letters.iter().map(|letter| letter.payload.len() + letter.id.len() + letter.reason.len());
    let two = sizes.rev().take(2).sum::<usize>() as u64;
    let second = base.serve(|config| change(&mut config.invocations, two)).await;
    let letters = until("fewer letters", || dead_letters(&second), |letters| letters.len() <= 2).await;
    let kept: Vec<_> = letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!(kept, &ids[3..]);
    let metrics = String::from_utf8(second.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("fanfold_async_invocation_dead_letters_expired_total 3"), "{metrics}");
    assert_eq!(second.get(&format!("/v1/invocations/{}", ids[0])).await.json()["state"], "failed");
}
