// SPDX-License-Identifier: Apache-2.0
//! Asynchronous calls: promised once, ended once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use fanfold_backbone::{Depth, queue::Message};
use fanfold_gateway::{
    GatewayConfig,
    invoke::asynchronous::{AsyncCall, Origin},
};
use fanfold_protocol::{
    ErrorKind, Problem,
    invocation::Request,
    keys,
    time::{self, Timestamp},
};
use http::Method;
use serde_json::json;
use uuid::Uuid;

use crate::{
    dead_letters::dead_letters,
    harness::{Base, Reply, Service, start, start_with, until},
};

pub fn hasty(config: &mut GatewayConfig) {
    config.invocations.backoff = Duration::from_millis(20);
}

/// The id of an acceptance.
#[track_caller]
pub fn id(reply: &Reply) -> String {
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(reply.header("location"), format!("/v1/invocations/{id}"));
    id
}

pub fn runs(service: &Service) -> usize {
    service.workers.calls.load(Ordering::SeqCst)
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
    let promised = async || service.promise("f", &[], "echo").await.status;
    until("room for a call", promised, |status| *status == 202).await;
}

#[tokio::test]
async fn a_call_that_finds_no_room_is_not_shown_as_queued() {
    let service = start().await;
    service.deploy("f", "1").await;
    let nobody = Problem::new(ErrorKind::WorkerUnavailable, "nobody is there");
    *service.workers.refuse_calls.lock().unwrap() = Some(nobody);
    // Its record finds room in what is left of the file, where its message finds none.
    let (backbone, folder) = (&service.base.backbone, service.base.folder.path());
    let bytes = std::fs::metadata(folder.join("backbone.redb")).unwrap().len();
    backbone.as_embedded().unwrap().set_size_bytes_max(bytes);
    let mut accepted = Vec::new();
    let refused = loop {
        let reply = service.promise("f", &[], vec![b'x'; 200_000]).await;
        if reply.status != 202 {
            break reply;
        }
        accepted.push(id(&reply));
        assert!(accepted.len() < 100, "the bound is kept");
    };
    refused.is_problem(ErrorKind::StorageFull);
    // Where nothing at all has room, the removal of its record waits for some.
    backbone.as_embedded().unwrap().set_size_bytes_max(u64::MAX);
    let ids = async || -> Vec<String> {
        let records = backbone.list(keys::INVOCATION_RECORDS).await.unwrap();
        records.iter().filter_map(|(key, _)| key.rsplit('/').next()).map(str::to_owned).collect()
    };
    until("its record to go", ids, |ids| *ids == accepted).await;
}

#[tokio::test]
async fn progress_is_told_while_a_function_runs_and_kept_with_its_end() {
    let service = start().await;
    service.deploy("f", "1").await;
    let told = json!({"done": 3, "total": 10});
    let runs = id(&service.promise("f", &[], "progress 60000").await);
    let shown = async || service.get(&format!("/v1/invocations/{runs}")).await.json();
    let shown = until("its progress", shown, |shown| shown["progress"].is_object()).await;
    assert_eq!((&shown["state"], &shown["progress"]), (&json!("running"), &told));
    assert_eq!(service.delete(&format!("/v1/invocations/{runs}")).await.status, 200);
    let ends = id(&service.promise("f", &[], "progress 0").await);
    assert_eq!(service.ended(&ends).await["progress"], told);
    let called = service.invoke("f/invoke", "progress 0").await;
    let called = called.header("x-fanfold-invocation-id");
    let shown = service.get(&format!("/v1/invocations/{called}")).await.json();
    assert_eq!((&shown["state"], &shown["progress"]), (&json!("succeeded"), &told));
}

#[tokio::test]
async fn what_waits_and_what_runs_can_be_cancelled() {
    let service = start_with(|config| config.tenant_concurrency = 2).await;
    service.deploy("f", "1").await;
    let running = id(&service.promise("f", &[], "sleep 60000").await);
    service.until_calls(1).await;
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
    let (rest, next) = listed(&format!("limit=1&page={}", next.as_str().unwrap())).await;
    assert!(next.is_null(), "{next}");
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
        let shown = service.get(&path(id)).await.json();
        assert_eq!((&shown["state"], shown.get("usage")), (&json!("cancelled"), None), "{shown}");
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
async fn a_call_that_found_no_place_has_one_soon_after_it_is_free() {
    let service = start_with(|config| {
        config.function_concurrency = 2;
        // As long as those wait that have been put off often.
        config.invocations.backoff = Duration::from_secs(600);
    })
    .await;
    service.deploy("f", "1").await;
    let first = id(&service.promise("f", &[], "sleep 1000").await);
    service.until_calls(1).await;
    // Of two places one is for calls that nobody waits for.
    let second = id(&service.promise("f", &[], "echo").await);
    for id in [&first, &second] {
        let ended = service.ended(id).await;
        assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(1)), "{ended}");
    }
}

#[tokio::test]
async fn another_gateway_can_cancel_what_runs_here() {
    let base = Base::new().await;
    let first = base.serve(|_| {}).await;
    first.deploy("f", "1").await;
    let running = id(&first.promise("f", &[], "sleep 60000").await);
    first.until_calls(1).await;
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
    let depth = async || base.backbone.depth(keys::INVOCATION_QUEUE).await.unwrap();
    until("an empty queue", depth, |depth| *depth == Depth::default()).await;
    let records = base.backbone.list("invocations/").await.unwrap();
    assert!(records.is_empty(), "{records:?}");
}

#[tokio::test]
async fn copies_of_a_message_end_an_invocation_once() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let id = Uuid::now_v7();
    service.app.invocations.accept(call(id, "sleep 100")).await.unwrap();
    service.until_calls(1).await;
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
    let depth = async || service.base.backbone.depth(keys::INVOCATION_QUEUE).await.unwrap();
    until("the late copy to be taken", depth, |depth| depth.ready == 0).await;
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
    first.until_calls(2).await;
    first.stop().await;
    let second = base.serve(quick).await;
    second.until_calls(2).await;
    let ended = second.ended(&ids[0]).await;
    // The attempt that was broken off does not count.
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(1)), "{ended}");
    assert_eq!(second.get(&format!("/v1/invocations/{}", ids[1])).await.json()["state"], "running");
}

#[tokio::test]
async fn what_has_ended_is_read_while_the_backbone_is_away() {
    let service = start().await;
    service.deploy("f", "1").await;
    let id = id(&service.promise("f", &[], "log said").await);
    service.ended(&id).await;
    service.base.backbone.close().await;
    let path = format!("/v1/invocations/{id}");
    assert_eq!(service.get(&path).await.json()["state"], "succeeded");
    assert_eq!(service.get(&format!("{path}/result")).await.body, "done");
    assert_eq!(service.get(&format!("{path}/logs")).await.json()["lines"][0]["message"], "said");
    // Of any other, nobody knows whether it waits.
    let other = format!("/v1/invocations/{}", Uuid::now_v7());
    service.get(&other).await.is_problem(ErrorKind::ShuttingDown);
}

#[tokio::test]
async fn stopping_lets_short_ones_end() {
    let base = Base::new().await;
    let first = base.serve(hasty).await;
    first.deploy("f", "1").await;
    let id = id(&first.promise("f", &[], "sleep 300").await);
    first.until_calls(1).await;
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
    service.until_calls(1).await;
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
    for (timeout, said) in [("301s", "to the function's 5m, found 301s"), ("0s", "above zero, found 0s")] {
        let path = format!("/v1/functions/f/invoke?timeout={timeout}");
        let refused = service.request(Method::POST, &path, &headers, "").await;
        let problem = refused.is_problem(ErrorKind::InvalidRequest).to_string();
        assert!(problem.contains(said), "{problem}");
    }
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
    service.until_calls(2).await;
    // Two of four places are left to these, however many wait.
    for _ in 0..5 {
        assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
    }
    for id in ids {
        assert_eq!(service.ended(&id).await["state"], "succeeded");
    }
}

/// As where a gateway is killed between the record of a call and its message.
#[tokio::test]
async fn a_call_that_was_never_queued_is_none() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let backbone = &service.base.backbone;
    let [shown, listed, young] = [Timestamp(1), Timestamp(2), time::now()].map(|at| (Uuid::now_v7(), at));
    for (id, accepted_at) in [shown, listed, young] {
        let record = json!({
            "function": "f", "version": 1, "accepted_at": accepted_at, "depth": 0, "origin": { "kind": "call" },
            "attempts": 0, "started_at": null, "problem": null
        });
        backbone.create(&keys::invocation_record(&id), record.to_string()).await.unwrap();
    }
    let ids = async || {
        let list = service.get("/v1/invocations").await.json();
        let ids = list["invocations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|view| view["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    // While anything is queued, nobody can tell.
    let busy = id(&service.promise("f", &[], "sleep 60000").await);
    service.until_calls(1).await;
    assert_eq!(ids().await.len(), 4);
    service.delete(&format!("/v1/invocations/{busy}")).await;
    let depth = async || backbone.depth(keys::INVOCATION_QUEUE).await.unwrap();
    until("an empty queue", depth, |depth| *depth == Depth::default()).await;
    let gone = service.get(&format!("/v1/invocations/{}", shown.0)).await;
    gone.is_problem(ErrorKind::InvocationNotFound);
    assert_eq!(ids().await, [young.0.to_string()]);
}
