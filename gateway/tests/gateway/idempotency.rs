// SPDX-License-Identifier: Apache-2.0
//! The same key, the same answer, one run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fanfold_gateway::GatewayConfig;
use fanfold_protocol::{ErrorKind, digest::Digest, keys, time};
use http::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use uuid::Uuid;

use crate::harness::{AGGREGATOR, Base, Reply, Service, component, start, start_with, until};

/// How long a key is held without a renewal, where that matters.
const LEASE: Duration = Duration::from_millis(1_500);

async fn call(service: &Service, key: &str, body: &str) -> Reply {
    let headers = [("idempotency-key", key)];
    service.request(Method::POST, "/v1/functions/f/invoke", &headers, body.to_owned()).await
}

/// The record of a key.
fn record(key: &str) -> String {
    keys::idempotency("invoke", &Digest::of(key.as_bytes()))
}

/// The same of an asynchronous call.
fn promised(key: &str) -> String {
    keys::idempotency("invoke-async", &Digest::of(key.as_bytes()))
}

fn runs(service: &Service) -> usize {
    service.workers.calls.load(Ordering::SeqCst)
}

#[tokio::test]
async fn the_same_key_gives_the_same_answer() {
    let service = start().await;
    service.deploy("f", "1").await;
    let first = call(&service, "k1", "echo").await;
    let again = call(&service, "k1", "echo").await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(first.header("x-fanfold-invocation-id"), again.header("x-fanfold-invocation-id"));
    assert_eq!(again.header("x-fanfold-replayed"), "true");
    assert!(!first.headers.contains_key("x-fanfold-replayed"));
    assert_eq!(runs(&service), 1);
    call(&service, "k1", "echo other").await.is_problem(ErrorKind::IdempotencyConflict);
    assert_eq!(call(&service, "k2", "echo other").await.status, 200);
    assert_eq!(runs(&service), 2);
    assert_eq!(call(&service, "order 4711", "echo").await.status, 200);
}

#[tokio::test]
async fn all_routes_refuse_the_same_keys_in_the_same_words() {
    let service = start().await;
    service.deploy("f", "1").await;
    let job = json!({"function": "f", "input": "s3://bank/in/"}).to_string();
    let (retry, long) = (format!("/v1/jobs/{}/retry", Uuid::nil()), "k".repeat(256));
    for (keys, found) in [
        (vec![""], "1 to 255 printable ASCII characters, found none"),
        (vec![long.as_str()], "1 to 255 printable ASCII characters, found 256"),
        (vec!["a\tb"], "1 to 255 printable ASCII characters, found \"a\\tb\""),
        (vec!["a", "b"], "expected the header idempotency-key once, found it 2 times"),
    ] {
        for (path, body) in [
            ("/v1/functions/f/invoke", "echo"),
            ("/v1/jobs", job.as_str()),
            ("/v1/jobs/estimate", job.as_str()),
            (retry.as_str(), ""),
        ] {
            let headers: Vec<_> = keys.iter().map(|key| ("idempotency-key", *key)).collect();
            let refused = service.request(Method::POST, path, &headers, body.to_owned()).await;
            let problem = refused.is_problem(ErrorKind::InvalidRequest);
            assert!(problem["detail"].as_str().unwrap().contains(found), "{path}: {problem}");
        }
    }
    assert_eq!(runs(&service), 0);
}

#[tokio::test]
async fn an_answer_outlives_what_gave_it() {
    let service = start().await;
    service.deploy("f", "1").await;
    service.put_json("/v1/functions/f/aliases/prod", json!({"version": 1})).await;
    let call = async |key: &str, query: &str| {
        let path = format!("/v1/functions/f/invoke{query}");
        service.request(Method::POST, &path, &[("idempotency-key", key)], "status 201").await
    };
    let first = [call("k1", "").await, call("k2", "?qualifier=prod").await];
    let again = async || {
        for (first, (key, query)) in first.iter().zip([("k1", "?timeout=31s"), ("k2", "?qualifier=prod")]) {
            let again = call(key, query).await;
            assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201), "{again:?}");
            assert_eq!(again.header("x-fanfold-invocation-id"), first.header("x-fanfold-invocation-id"));
            assert_eq!(again.header("x-fanfold-replayed"), "true");
        }
    };
    again().await;
    assert_eq!(service.delete("/v1/functions/f/aliases/prod").await.status, 204);
    again().await;
    // The next version has no handler, and then there is none.
    let aggregator = component(&[], &[AGGREGATOR], "2");
    assert_eq!(service.request(Method::POST, "/v1/functions/f/versions", &[], aggregator).await.status, 201);
    again().await;
    call("new", "").await.is_problem(ErrorKind::ExportMissing);
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    again().await;
    call("new", "").await.is_problem(ErrorKind::FunctionNotFound);
    // What is refused takes no key.
    assert!(service.base.backbone.get(&record("new")).await.unwrap().is_none());
    assert_eq!(runs(&service), 2);
}

#[tokio::test]
async fn large_answers_are_remembered_too() {
    let service = start().await;
    service.deploy("f", "1").await;
    for (at, length) in [2_000_000, 5_000].into_iter().enumerate() {
        let (key, body) = (format!("k{at}"), format!("large {length}"));
        let first = call(&service, &key, &body).await;
        let again = call(&service, &key, &body).await;
        assert_eq!(first.body.len(), length);
        assert_eq!(first.body, again.body);
        assert_eq!(runs(&service), at + 1);
        // The store has it, and not the backbone that all share.
        let kept = service.base.backbone.get(&record(&key)).await.unwrap().unwrap().value;
        assert!(kept.len() < 2_000, "{} bytes", kept.len());
    }
}

#[tokio::test]
async fn an_answer_whose_body_is_gone_is_none() {
    let service = start().await;
    service.deploy("f", "1").await;
    let first = call(&service, "k", "large 5000").await;
    let (bucket, age) = (keys::SYSTEM_BUCKET_DEFAULT, Duration::from_secs(60));
    let later = time::now().later(age + age);
    service.base.store.delete_old(bucket, keys::IDEMPOTENCY_BODIES, later, age).await.unwrap();
    // Who asks at the same moment is given what the first of them is.
    let (one, other) = tokio::join!(call(&service, "k", "large 5000"), call(&service, "k", "large 5000"));
    assert_eq!((one.status.as_u16(), other.status.as_u16(), runs(&service)), (200, 200, 2));
    let id = |reply: &Reply| reply.header("x-fanfold-invocation-id").to_owned();
    assert_eq!(id(&one), id(&other));
    assert_ne!(id(&one), id(&first));
    let again = call(&service, "k", "large 5000").await;
    assert_eq!((id(&again), again.header("x-fanfold-replayed")), (id(&one), "true"));
    assert_eq!((again.body, runs(&service)), (first.body, 2));
}

/// Ends the time of a record that the backbone keeps: it counts its own time while it is open, and
/// may have been closed for long.
async fn end_time(service: &Service, record: &str) {
    let held = service.base.backbone.get(record).await.unwrap().unwrap().value;
    let end = held.iter().position(|b| *b == b'\n').unwrap_or(held.len());
    let mut head: Value = serde_json::from_slice(&held[..end]).unwrap();
    assert!(head["expires_at"].as_u64().unwrap() > time::now().0);
    head["expires_at"] = json!(time::now());
    let value = [head.to_string().as_bytes(), &held[end..]].concat();
    service.base.backbone.put(record, value).await.unwrap();
}

#[tokio::test]
async fn a_key_is_free_once_its_time_is_over_though_its_record_is_there() {
    let service = start().await;
    service.deploy("f", "1").await;
    for (round, body) in ["echo one", "echo other"].into_iter().enumerate() {
        let first = call(&service, "k", body).await;
        assert!(first.status == 200 && !first.headers.contains_key("x-fanfold-replayed"), "{first:?}");
        assert_eq!(call(&service, "k", body).await.header("x-fanfold-replayed"), "true");
        assert_eq!(runs(&service), round + 1);
        end_time(&service, &record("k")).await;
    }
}

#[tokio::test]
async fn a_promise_is_none_once_its_time_is_over_though_its_record_is_there() {
    let service = start().await;
    service.deploy("f", "1").await;
    let promise = async |body: &'static str| service.promise("f", &[("idempotency-key", "k")], body).await;
    let mut ids = Vec::new();
    for body in ["echo one", "echo other"] {
        let (first, again) = (promise(body).await, promise(body).await);
        assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 202), "{first:?} {again:?}");
        assert!(!first.headers.contains_key("x-fanfold-replayed"));
        assert_eq!(again.header("x-fanfold-replayed"), "true");
        ids.push(first.json()["id"].clone());
        end_time(&service, &promised("k")).await;
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_promise_whose_time_is_over_is_not_made_anew_while_no_more_is_remembered() {
    let service = start_with(|config| config.remembered_bytes_max = 1).await;
    service.deploy("f", "1").await;
    let promise = async || service.promise("f", &[("idempotency-key", "k")], "echo").await;
    assert_eq!(promise().await.status, 202);
    assert_eq!(promise().await.header("x-fanfold-replayed"), "true");
    end_time(&service, &promised("k")).await;
    promise().await.is_problem(ErrorKind::ConcurrencyLimit);
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let service = start_with(|config| config.remembered_bytes_max = 5_000).await;
    service.deploy("f", "1").await;
    let mut kept = 0;
    let refused = loop {
        let reply = call(&service, &format!("k{kept}"), "large 1000").await;
        if reply.status != 200 {
            break reply;
        }
        kept += 1;
    };
    assert!((2..5).contains(&kept), "{kept}");
    let problem = refused.is_problem(ErrorKind::ConcurrencyLimit);
    assert!(problem["detail"].as_str().unwrap().contains("limits.remembered"), "{problem}");
    // Nothing of it lapses any sooner.
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((24 * 3_600..=25 * 3_600).contains(&wait), "{wait}");
    assert_eq!(runs(&service), kept);
    let promised = service.promise("f", &[("idempotency-key", "new")], "echo").await;
    promised.is_problem(ErrorKind::ConcurrencyLimit);
    // What is remembered is answered, and calls without a key have their answers.
    assert_eq!(call(&service, "k0", "large 1000").await.header("x-fanfold-replayed"), "true");
    assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
}

#[tokio::test]
async fn no_key_more_is_taken_while_the_backbone_has_no_room() {
    let service = start().await;
    service.deploy("f", "1").await;
    let filled = async {
        let mut taken = 0;
        loop {
            let reply = call(&service, &format!("k{taken}"), "echo").await;
            if reply.status == 507 {
                reply.is_problem(ErrorKind::StorageFull);
                return taken;
            }
            assert_eq!(reply.status, 200);
            taken += 1;
        }
    };
    assert_eq!(call(&service, "kept", "echo").await.status, 200);
    let known = async { call(&service, "kept", "echo").await };
    let (taken, known) = service.base.without_writes(async { (filled.await, known.await) }).await;
    assert_eq!(runs(&service), taken + 1);
    assert_eq!(known.header("x-fanfold-replayed"), "true");
}

#[tokio::test]
async fn calls_that_are_refused_take_no_room() {
    let service = start_with(|config| config.remembered_bytes_max = 2_000).await;
    service.deploy("f", "1").await;
    for n in 0..20 {
        let key = format!("k{n}");
        let refused = service.promise("none", &[("idempotency-key", key.as_str())], "echo").await;
        refused.is_problem(ErrorKind::FunctionNotFound);
    }
    assert_eq!(service.promise("f", &[("idempotency-key", "k")], "echo").await.status, 202);
}

/// A call under a key whose client is gone once it runs.
async fn abandoned(service: &Service, body: &str) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!(
        "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\nidempotency-key: k\r\n\
         content-length: {}\r\n\r\n{body}",
        service.token,
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    service.until_calls(1).await;
}

#[tokio::test]
async fn a_body_has_its_share_of_memory_while_its_call_runs() {
    let service = start_with(|config| {
        config.body_bytes_max = 1 << 20;
        config.component_bytes_max = 1 << 20;
        config.bodies_bytes_max = 1 << 20;
    })
    .await;
    service.deploy("f", "1").await;
    let body = format!("/slow {}", "x".repeat(900_000));
    abandoned(&service, &body).await;
    let mut refused = 0;
    loop {
        let reply = service.invoke("f/invoke", vec![b'x'; 200_000]).await;
        if service.workers.running.0.load(Ordering::SeqCst) == 0 {
            break;
        }
        reply.is_problem(ErrorKind::ConcurrencyLimit);
        refused += 1;
    }
    assert!(refused > 0, "it ran for too short a time");
    let status = async || service.invoke("f/invoke", vec![b'x'; 200_000]).await.status;
    until("room for a body", status, |status| *status == 200).await;
}

#[tokio::test]
async fn failures_are_remembered_unless_a_retry_may_better_them() {
    let service = start().await;
    service.deploy("f", "1").await;
    for _ in 0..2 {
        call(&service, "k1", "fail guest-trapped").await.is_problem(ErrorKind::GuestTrapped);
    }
    assert_eq!(runs(&service), 1);
    for _ in 0..2 {
        call(&service, "k2", "fail store-unavailable").await.is_problem(ErrorKind::StoreUnavailable);
    }
    assert_eq!(runs(&service), 3);
}

#[tokio::test]
async fn calls_at_the_same_moment_run_once() {
    let service = Arc::new(start().await);
    service.deploy("f", "1").await;
    let calls = (0..8).map(|_| {
        let service = Arc::clone(&service);
        tokio::spawn(async move { call(&service, "k", "sleep 300").await })
    });
    for reply in futures::future::join_all(calls).await {
        assert_eq!(reply.unwrap().status, 200);
    }
    assert_eq!(runs(&service), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_can_fetch_its_answer_later() {
    let service = start().await;
    service.deploy("f", "1").await;
    let body = "sleep 300";
    abandoned(&service, body).await;
    let reply = call(&service, "k", body).await;
    assert_eq!((reply.status.as_u16(), reply.header("x-fanfold-replayed")), (200, "true"));
    assert_eq!(runs(&service), 1);
}

#[tokio::test]
async fn a_new_gateway_remembers() {
    let service = start().await;
    service.deploy("f", "1").await;
    let first = call(&service, "k", "echo").await;
    let service = service.stop().await.serve(|_| {}).await;
    let again = call(&service, "k", "echo").await;
    assert_eq!(first.body, again.body);
    assert_eq!(runs(&service), 0);
}

#[tokio::test]
async fn a_key_held_by_a_dead_gateway_is_freed() {
    let service = start().await;
    service.deploy("f", "1").await;
    // A record of a call that nobody runs any more, with the rest of its lease.
    let first = call(&service, "k1", "echo").await;
    assert_eq!(first.status, 200);
    let value = service.base.backbone.get(&record("k1")).await.unwrap().unwrap().value;
    let head = value.split(|b| *b == b'\n').next().unwrap();
    let mut stored: serde_json::Value = serde_json::from_slice(head).unwrap();
    stored["answer"] = serde_json::Value::Null;
    let held = format!("{stored}\n");
    service.base.backbone.put_with_ttl(&record("k2"), held, Duration::from_millis(500)).await.unwrap();
    assert_eq!(call(&service, "k2", "echo").await.status, 200);
    assert_eq!(runs(&service), 2);
}

fn hasty(config: &mut GatewayConfig) {
    config.key_lease = LEASE;
}

/// Two gateways of one deployment.
async fn two() -> (Service, Service) {
    let base = Base::new().await;
    let one = base.serve(hasty).await;
    one.deploy("f", "1").await;
    (one, base.serve(hasty).await)
}

/// Waits until the record of a key is there, or is not.
async fn until_recorded(service: &Service, key: &str, wanted: bool) {
    let found = async || service.base.backbone.get(&record(key)).await.unwrap();
    until("another record", found, |found| found.is_some() == wanted).await;
}

/// Stores once more what the record of a key holds, as a write does whose acknowledgement is lost.
async fn write_unheard(service: &Service, key: &str) {
    let held = service.base.backbone.get(&record(key)).await.unwrap().unwrap();
    service.base.backbone.put_with_ttl(&record(key), held.value, LEASE).await.unwrap();
}

#[track_caller]
fn ran_once(services: [&Service; 2], first: &Reply, again: &Reply) {
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (200, 200));
    assert_eq!(first.header("x-fanfold-invocation-id"), again.header("x-fanfold-invocation-id"));
    assert_eq!(again.header("x-fanfold-replayed"), "true");
    assert_eq!(services.map(runs).iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn a_renewal_of_which_nothing_is_heard_costs_no_second_run() {
    let (service, other) = two().await;
    let body = "sleep 4000";
    let again = async {
        service.until_calls(1).await;
        write_unheard(&service, "k").await;
        call(&other, "k", body).await
    };
    let (first, again) = tokio::join!(call(&service, "k", body), again);
    ran_once([&service, &other], &first, &again);
}

#[tokio::test]
async fn an_answer_is_remembered_after_a_renewal_of_which_nothing_was_heard() {
    let (service, other) = two().await;
    let body = "sleep 300";
    let unheard = async {
        service.until_calls(1).await;
        write_unheard(&service, "k").await;
    };
    let (first, ()) = tokio::join!(call(&service, "k", body), unheard);
    ran_once([&service, &other], &first, &call(&other, "k", body).await);
}

#[tokio::test]
async fn a_call_runs_once_when_its_hold_lapses_while_the_backbone_is_away() {
    let (service, other) = two().await;
    let body = "sleep 6000";
    let again = async {
        service.until_calls(1).await;
        service.base.without_writes(until_recorded(&service, "k", false)).await;
        assert_eq!(service.workers.running.0.load(Ordering::SeqCst), 1, "it was over too early");
        // Before the record is made again, and after.
        let elsewhere = async {
            until_recorded(&service, "k", true).await;
            call(&other, "k", body).await
        };
        tokio::join!(call(&service, "k", body), elsewhere)
    };
    let (first, (here, elsewhere)) = tokio::join!(call(&service, "k", body), again);
    ran_once([&service, &other], &first, &here);
    ran_once([&service, &other], &first, &elsewhere);
}

#[tokio::test]
async fn an_answer_is_remembered_whose_hold_has_lapsed() {
    let (service, other) = two().await;
    let body = "sleep 300";
    let lapsing = async {
        service.until_calls(1).await;
        service.base.backbone.delete(&record("k"), None).await.unwrap();
    };
    let (first, ()) = tokio::join!(call(&service, "k", body), lapsing);
    ran_once([&service, &other], &first, &call(&other, "k", body).await);
}

#[tokio::test]
async fn an_answer_that_the_backbone_does_not_take_is_remembered_later() {
    let (service, other) = two().await;
    let (service, body) = (Arc::new(service), "sleep 300");
    let first = tokio::spawn({
        let service = Arc::clone(&service);
        async move { call(&service, "k", body).await }
    });
    service.until_calls(1).await;
    let first = service.base.without_writes(first).await.unwrap();
    ran_once([&service, &other], &first, &call(&other, "k", body).await);
}

#[tokio::test]
async fn an_answer_is_not_written_over_that_of_another_call() {
    let service = start_with(hasty).await;
    service.deploy("f", "1").await;
    let body = "sleep 300";
    let first = call(&service, "k1", body).await;
    let backbone = &service.base.backbone;
    let answered = backbone.get(&record("k1")).await.unwrap().unwrap().value;
    let taking_over = async {
        service.until_calls(2).await;
        backbone.put_with_ttl(&record("k2"), answered, Duration::from_secs(60)).await.unwrap();
    };
    let (second, ()) = tokio::join!(call(&service, "k2", body), taking_over);
    assert_eq!(second.status, 200);
    let again = call(&service, "k2", body).await;
    assert_eq!(again.header("x-fanfold-invocation-id"), first.header("x-fanfold-invocation-id"));
    assert_eq!(runs(&service), 2);
}
