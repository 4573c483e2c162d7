// SPDX-License-Identifier: Apache-2.0
//! Asynchronous calls: promised once, ended once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use fanfold_backbone::queue::Message;
use fanfold_gateway::{
    GatewayConfig,
    invoke::asynchronous::{AsyncCall, Origin},
};
use fanfold_protocol::{ErrorKind, invocation::Request, keys};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Base, Reply, Service, start, start_with};

fn hasty(config: &mut GatewayConfig) {
    config.invocations.backoff = Duration::from_millis(20);
}

/// The id of an acceptance.
#[track_caller]
fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(reply.header("location"), format!("/v1/invocations/{id}"));
    id
}

fn runs(service: &Service) -> usize {
    service.workers.calls.load(Ordering::SeqCst)
}

/// Waits until so many runs have begun.
async fn until_runs(service: &Service, count: usize) {
    let begun = async {
        while runs(service) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), begun).await.unwrap();
}

async fn dead_letters(service: &Service) -> Vec<Value> {
    let list = service.get("/v1/invocations/dead-letters").await.json();
    list["dead_letters"].as_array().unwrap_or_else(|| panic!("{list}")).clone()
}

/// Dead letters, once there are so many: they follow the end.
async fn until_dead_letters(service: &Service, count: usize) -> Vec<Value> {
    let there = async {
        loop {
            let letters = dead_letters(service).await;
            if letters.len() >= count {
                return letters;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), there).await.unwrap()
}

fn call(id: Uuid, body: &str) -> AsyncCall {
    AsyncCall {
        id: Some(id),
        function: "f".parse().unwrap(),
        params: "{}".to_owned(),
        timeout: None,
        request: Request {
            method: "POST".to_owned(),
            body: Bytes::from(body.to_owned()),
            ..Request::default()
        },
        depth: 0,
        origin: Origin::Call,
    }
}

#[tokio::test]
async fn a_promise_is_kept() {
    let service = start().await;
    service.deploy("f", "1").await;
    let headers = [("content-type", "text/plain"), ("x-fanfold-params", r#"{"a":1}"#)];
    let reply = service.promise("f", &headers, "echo ä").await;
    assert_eq!((reply.header("preference-applied"), reply.header("retry-after")), ("respond-async", "1"));
    assert_eq!(reply.json()["state"], "queued");
    let id = id(&reply);
    let ended = service.ended(&id).await;
    assert_eq!(
        (&ended["state"], &ended["attempts"], &ended["version"]),
        (&json!("succeeded"), &json!(1), &json!(1))
    );
    assert_eq!((&ended["origin"], &ended["usage"]["wall_us"]), (&json!({ "kind": "call" }), &json!(150)));
    assert_eq!(ended["response"]["content_type"], "application/json");
    let result = service.get(&format!("/v1/invocations/{id}/result")).await;
    let seen = result.json();
    // Five minutes, since nobody waits.
    assert_eq!((&seen["body"], &seen["timeout_ms"]), (&json!("echo ä"), &json!(300_000)));
    assert_eq!((&seen["params"], &seen["method"]), (&json!(r#"{"a":1}"#), &json!("POST")));
    assert!(!seen["headers"].to_string().contains("prefer"), "{seen}");
    assert_eq!(result.header("content-type"), "application/json");
    let logged = service.promise("f", &[], "log said").await;
    let id = self::id(&logged);
    service.ended(&id).await;
    let logs = service.get(&format!("/v1/invocations/{id}/logs")).await.json();
    assert_eq!(logs["lines"][0]["message"], "said");
    assert_eq!(service.get("/v1/functions/f/logs").await.json()["lines"], logs["lines"]);
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
    assert_eq!(until_dead_letters(&service, 4).await.len(), 4);
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
    for bad in [json!({}), json!({ "ids": [ids[1]], "all": true }), json!({ "all": false })] {
        replay(bad).await.is_problem(ErrorKind::InvalidRequest);
    }

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
async fn bodies_and_the_queue_are_bounded() {
    let service = start_with(|config| {
        config.tenant_concurrency = 2;
        config.invocations.waiting_max = 3;
    })
    .await;
    service.deploy("f", "1").await;
    let most = 256 << 10;
    let large = vec![b'x'; most + 1];
    service.promise("f", &[], large.clone()).await.is_problem(ErrorKind::PayloadTooLarge);
    // The same through the door that other parts of the gateway use.
    let refused =
        service.app.invocations.accept(call(Uuid::now_v7(), &"x".repeat(most + 1))).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::PayloadTooLarge);
    let fits = service.promise("f", &[], format!("sink {}", "x".repeat(most - 5))).await;
    assert_eq!(service.ended(&id(&fits)).await["state"], "succeeded");
    // One runs, three wait; what is found out late is found out on the safe side.
    let mut accepted = Vec::new();
    let refused = loop {
        let reply = service.promise("f", &[], "sleep 1500").await;
        if reply.status != 202 {
            break reply;
        }
        accepted.push(id(&reply));
        assert!(accepted.len() <= 4);
    };
    refused.is_problem(ErrorKind::QueueFull);
    assert!(accepted.len() >= 2, "{accepted:?}");
    for id in &accepted {
        assert_eq!(service.delete(&format!("/v1/invocations/{id}")).await.status, 200);
    }
    let there_is_room = async {
        while service.promise("f", &[], "echo").await.status != 202 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), there_is_room).await.unwrap();
}

#[tokio::test]
async fn what_waits_and_what_runs_can_be_cancelled() {
    let service = start_with(|config| config.tenant_concurrency = 2).await;
    service.deploy("f", "1").await;
    let running = id(&service.promise("f", &[], "sleep 60000").await);
    until_runs(&service, 1).await;
    let queued = id(&service.promise("f", &[], "echo").await);
    let path = |id: &str| format!("/v1/invocations/{id}");
    assert_eq!(service.get(&path(&running)).await.json()["state"], "running");
    let shown = service.get(&path(&queued)).await.json();
    assert_eq!((&shown["state"], &shown["attempts"]), (&json!("queued"), &json!(0)));
    for early in ["result", "logs"] {
        service.get(&format!("{}/{early}", path(&queued))).await.is_problem(ErrorKind::InvocationNotFinished);
    }

    let listed = async |query: &str| {
        let list = service.get(&format!("/v1/invocations?{query}")).await.json();
        let found = list["invocations"].as_array().unwrap_or_else(|| panic!("{list}")).clone();
        (
            found.into_iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
            list["next"].clone(),
        )
    };
    assert_eq!(listed("").await.0, [running.clone(), queued.clone()]);
    assert_eq!(listed("state=queued&function=f").await.0, std::slice::from_ref(&queued));
    assert!(listed("function=g").await.0.is_empty());
    let (first, next) = listed("limit=1").await;
    let rest = listed(&format!("limit=1&page={}", next.as_str().unwrap())).await.0;
    assert_eq!((&first[..], &rest[..]), (&[running.clone()][..], &[queued.clone()][..]));
    for bad in ["state=failed", "page=x", "limit=0", "limit=101"] {
        service.get(&format!("/v1/invocations?{bad}")).await.is_problem(ErrorKind::InvalidRequest);
    }

    let cancelled = service.delete(&path(&queued)).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.json()["state"]), (200, &json!("cancelled")));
    let begun = std::time::Instant::now();
    assert_eq!(service.delete(&path(&running)).await.status, 200);
    while service.workers.dropped.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    for id in [&queued, &running] {
        assert_eq!(service.get(&path(id)).await.json()["state"], "cancelled");
        service.get(&format!("{}/result", path(id))).await.is_problem(ErrorKind::Cancelled);
        service.delete(&path(id)).await.is_problem(ErrorKind::InvocationFinished);
    }
    // Neither leaves a dead letter, and the queue goes on.
    let next = service.ended(&id(&service.promise("f", &[], "echo").await)).await;
    assert_eq!(next["state"], "succeeded");
    assert!(dead_letters(&service).await.is_empty());
    assert_eq!(runs(&service), 2);

    let synchronous = service.invoke("f/invoke", "echo").await;
    let synchronous = synchronous.header("x-fanfold-invocation-id");
    service.delete(&path(synchronous)).await.is_problem(ErrorKind::InvocationFinished);
    for id in ["x", "0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a10"] {
        service.delete(&path(id)).await.is_problem(ErrorKind::InvocationNotFound);
        service.get(&format!("{}/result", path(id))).await.is_problem(ErrorKind::InvocationNotFound);
        service.get(&format!("{}/logs", path(id))).await.is_problem(ErrorKind::InvocationNotFound);
    }
}

#[tokio::test]
async fn another_gateway_can_cancel_what_runs_here() {
    let base = Base::new().await;
    let first = base.serve(|_| {}).await;
    first.deploy("f", "1").await;
    let running = id(&first.promise("f", &[], "sleep 60000").await);
    until_runs(&first, 1).await;
    let second = base.serve(|_| {}).await;
    assert_eq!(second.delete(&format!("/v1/invocations/{running}")).await.status, 200);
    let stopped = async {
        while first.workers.dropped.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), stopped).await.unwrap();
    assert_eq!(first.get(&format!("/v1/invocations/{running}")).await.json()["state"], "cancelled");
}

#[tokio::test]
async fn a_key_stands_for_one_invocation_on_every_gateway() {
    let base = Base::new().await;
    let first = base.serve(hasty).await;
    first.deploy("f", "1").await;
    let key = [("idempotency-key", "k")];
    let accepted = first.promise("f", &key, "echo").await;
    let id = id(&accepted);
    assert!(!accepted.headers.contains_key("x-fanfold-replayed"));
    let again = first.promise("f", &key, "echo").await;
    assert_eq!((self::id(&again), again.header("x-fanfold-replayed")), (id.clone(), "true"));
    first.promise("f", &key, "echo other").await.is_problem(ErrorKind::IdempotencyConflict);
    first.ended(&id).await;
    let second = base.serve(hasty).await;
    assert_eq!(self::id(&second.promise("f", &key, "echo").await), id);
    // A call that was refused leaves its key to another one.
    let other = [("idempotency-key", "other")];
    second.promise("g", &other, "echo").await.is_problem(ErrorKind::FunctionNotFound);
    let answered = self::id(&second.promise("f", &other, "echo").await);
    assert_eq!(second.ended(&answered).await["state"], "succeeded");
    // Even when the function has gone, what was promised is known.
    second.delete("/v1/functions/f").await;
    assert_eq!(self::id(&second.promise("f", &key, "echo").await), id);
    assert_eq!(runs(&first) + runs(&second), 2);
}

#[tokio::test]
async fn a_thousand_copies_of_one_id_have_one_effect() {
    let base = Base::new().await;
    let services = [Arc::new(base.serve(hasty).await), Arc::new(base.serve(hasty).await)];
    services[0].deploy("f", "1").await;
    let derived = Uuid::from_u128(0x0192_d3a4_6c1e_8b52_9a41_3f0c_5d2e_8a10);
    let copies: Vec<_> = (0..1_000)
        .map(|n| {
            let service = Arc::clone(&services[n % 2]);
            tokio::spawn(async move { service.app.invocations.accept(call(derived, "sleep 50")).await })
        })
        .collect();
    for copy in copies {
        assert_eq!(copy.await.unwrap().unwrap(), derived);
    }
    assert_eq!(services[0].ended(&derived.to_string()).await["state"], "succeeded");
    // Nor has a late one.
    assert_eq!(services[1].app.invocations.accept(call(derived, "sleep 50")).await.unwrap(), derived);
    assert_eq!(runs(&services[0]) + runs(&services[1]), 1);
    let ended = services[0].app.invocations.outcome(&derived).await.unwrap().unwrap();
    assert_eq!((ended.attempts, ended.state()), (1, "succeeded"));
    // Messages leave the queue after the end is written.
    let left = async {
        loop {
            let depth = base.backbone.depth(keys::INVOCATION_QUEUE).await.unwrap();
            if (depth.ready, depth.leased, depth.delayed, depth.dead) == (0, 0, 0, 0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), left).await.unwrap();
    let records = base.backbone.list("invocations/").await.unwrap();
    assert!(records.is_empty(), "{records:?}");
}

#[tokio::test]
async fn copies_of_a_message_end_an_invocation_once() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let id = Uuid::now_v7();
    service.app.invocations.accept(call(id, "sleep 100")).await.unwrap();
    until_runs(&service, 1).await;
    let head = json!({
        "id": id, "function": "f", "version": 1, "timeout_ms": 1000, "params": "{}", "method": "POST", "query": "",
        "headers": [], "accepted_at": 4_000_000_000_000_u64, "depth": 0, "origin": { "kind": "call" }
    });
    let payload = format!("{head}\nsleep 100");
    let copies = (0..5).map(|n| Message::new(format!("copy-{n}"), payload.clone())).collect();
    service.base.backbone.enqueue(keys::INVOCATION_QUEUE, copies).await.unwrap();
    assert_eq!(service.ended(&id.to_string()).await["state"], "succeeded");
    let late = vec![Message::new("late", payload)];
    service.base.backbone.enqueue(keys::INVOCATION_QUEUE, late).await.unwrap();
    let gone = async {
        while service.base.backbone.depth(keys::INVOCATION_QUEUE).await.unwrap().ready > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    assert_eq!(runs(&service), 1);
}

#[tokio::test]
async fn a_gateway_that_stops_gives_back_what_runs() {
    let base = Base::new().await;
    let quick = |config: &mut GatewayConfig| {
        hasty(config);
        config.drain_timeout = Duration::from_millis(50);
    };
    let first = base.serve(quick).await;
    first.deploy("f", "1").await;
    let ids =
        [id(&first.promise("f", &[], "sleep 700").await), id(&first.promise("f", &[], "sleep 60000").await)];
    until_runs(&first, 2).await;
    first.stop().await;
    let second = base.serve(quick).await;
    until_runs(&second, 2).await;
    let ended = second.ended(&ids[0]).await;
    // The attempt that was broken off does not count.
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(1)), "{ended}");
    assert_eq!(second.get(&format!("/v1/invocations/{}", ids[1])).await.json()["state"], "running");
}

#[tokio::test]
async fn stopping_lets_short_ones_end() {
    let base = Base::new().await;
    let first = base.serve(hasty).await;
    first.deploy("f", "1").await;
    let id = id(&first.promise("f", &[], "sleep 300").await);
    until_runs(&first, 1).await;
    first.stop().await;
    let second = base.serve(hasty).await;
    assert_eq!(second.get(&format!("/v1/invocations/{id}")).await.json()["state"], "succeeded");
    assert_eq!(runs(&second), 0);
}

#[tokio::test]
async fn the_version_is_that_of_the_promise() {
    let service = start_with(|config| config.tenant_concurrency = 2).await;
    service.deploy("f", "1").await;
    service.deploy("g", "1").await;
    service.put_json("/v1/functions/g/aliases/prod", json!({ "version": 1 })).await;
    let busy = id(&service.promise("f", &[], "sleep 60000").await);
    until_runs(&service, 1).await;
    let headers = [("prefer", "respond-async")];
    let path = "/v1/functions/g/invoke?qualifier=prod&timeout=7s";
    let waiting = id(&service.request(Method::POST, path, &headers, "echo").await);
    service.deploy("g", "2").await;
    service.put_json("/v1/functions/g/aliases/prod", json!({ "version": 2 })).await;
    service.delete("/v1/functions/g").await;
    service.delete(&format!("/v1/invocations/{busy}")).await;
    assert_eq!(service.ended(&waiting).await["version"], 1);
    let seen = service.get(&format!("/v1/invocations/{waiting}/result")).await.json();
    assert_eq!((&seen["version"], &seen["timeout_ms"]), (&json!(1), &json!(7_000)));
    // What could not be called could not be promised either.
    service.promise("g", &[], "").await.is_problem(ErrorKind::FunctionNotFound);
    let reply = service.request(Method::POST, "/v1/functions/f/invoke?timeout=301s", &headers, "").await;
    reply.is_problem(ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn who_waits_for_an_answer_is_served_first() {
    let service = start_with(|config| {
        hasty(config);
        config.function_concurrency = 4;
        config.tenant_concurrency = 8;
    })
    .await;
    service.deploy("f", "1").await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(id(&service.promise("f", &[], "sleep 400").await));
    }
    until_runs(&service, 2).await;
    // Two of four places are left to these, however many wait.
    for _ in 0..5 {
        assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
    }
    for id in ids {
        assert_eq!(service.ended(&id).await["state"], "succeeded");
    }
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
    let swept = async {
        while second.get(&format!("/v1/invocations/{large}")).await.status != 404
            || !dead_letters(&second).await.is_empty()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), swept).await.unwrap();
    let metrics = String::from_utf8(second.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("fanfold_async_invocation_dead_letters_expired_total 1"), "{metrics}");
}

#[tokio::test]
async fn the_newest_dead_letters_are_kept() {
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
    let second = base.serve(|config| config.invocations.dead_letters_max = 2).await;
    let trimmed = async {
        loop {
            let letters = dead_letters(&second).await;
            if letters.len() <= 2 {
                return letters;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let letters = tokio::time::timeout(Duration::from_secs(10), trimmed).await.unwrap();
    let kept: Vec<_> = letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!(kept, &ids[3..]);
    let metrics = String::from_utf8(second.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("fanfold_async_invocation_dead_letters_expired_total 3"), "{metrics}");
    assert_eq!(second.get(&format!("/v1/invocations/{}", ids[0])).await.json()["state"], "failed");
}
