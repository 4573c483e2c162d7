// SPDX-License-Identifier: Apache-2.0
//! Calling functions, and what is remembered of calls.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fanfold_protocol::{ErrorKind, Problem};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{AGGREGATOR, component, start, start_with};

#[tokio::test]
async fn a_call_is_answered_by_the_function_itself() {
    let service = start().await;
    service.deploy("f", "1").await;
    let headers = [("content-type", "text/plain"), ("cookie", "a=b"), ("x-fanfold-params", r#"{"a":1}"#)];
    let path = "/v1/functions/f/invoke?b=%202&timeout=5s";
    let reply = service.request(Method::POST, path, &headers, "echo ä").await;
    assert_eq!(reply.status, 200);
    let seen = reply.json();
    assert_eq!(seen["body"], "echo ä");
    assert_eq!((&seen["method"], &seen["query"]), (&json!("POST"), &json!("b=%202")));
    assert_eq!((&seen["params"], &seen["timeout_ms"]), (&json!(r#"{"a":1}"#), &json!(5_000)));
    let names: Vec<_> =
        seen["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert!(names.contains(&"content-type"));
    assert!(
        !names.iter().any(|name| ["authorization", "cookie", "x-fanfold-params"].contains(name)),
        "{names:?}"
    );
    assert_eq!(reply.header("x-fanfold-version"), "1");
    assert_eq!(reply.header("x-fanfold-invocation-id").len(), 36);
    let timing = reply.header("server-timing");
    assert!(
        timing.starts_with("queue;dur=") && timing.ends_with("start;dur=0.050, run;dur=0.150"),
        "{timing}"
    );
}

#[tokio::test]
async fn failures_of_functions_are_problems() {
    let service = start().await;
    service.deploy("f", "1").await;
    let reply = service.invoke("f/invoke", "fail function-error").await;
    let body = reply.is_problem(ErrorKind::FunctionError);
    assert_eq!((&body["detail"], &body["guest_code"]), (&json!("it failed"), &json!("out-of-luck")));
    assert_eq!(reply.header("x-fanfold-version"), "1");
    service.invoke("f/invoke", "fail deadline-exceeded").await.is_problem(ErrorKind::DeadlineExceeded);
    service.invoke("f/invoke", "status 99").await.is_problem(ErrorKind::ResponseInvalid);
    service.invoke("f/invoke", "large 7000000").await.is_problem(ErrorKind::ResponseTooLarge);
    assert_eq!(service.invoke("f/invoke", "status 404").await.status, 404);
}

#[tokio::test]
async fn what_cannot_be_called_is_refused() {
    let service = start().await;
    service.invoke("f/invoke", "").await.is_problem(ErrorKind::FunctionNotFound);
    let bytes = component(&[], &[AGGREGATOR], "1");
    service.request(Method::POST, "/v1/functions/f/versions", &[], bytes).await;
    service.invoke("f/invoke", "").await.is_problem(ErrorKind::ExportMissing);
    service.invoke("f/invoke?qualifier=2", "").await.is_problem(ErrorKind::VersionNotFound);
    service.deploy("g", "1").await;
    for timeout in ["31s", "0s", "5", "x"] {
        let path = format!("g/invoke?timeout={timeout}");
        service.invoke(&path, "").await.is_problem(ErrorKind::InvalidRequest);
    }
    assert_eq!(service.workers.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn bodies_are_bounded_before_they_are_buffered() {
    let service = start().await;
    service.deploy("f", "1").await;
    let large = vec![b'x'; (6 << 20) + 1];
    service.invoke("f/invoke", large).await.is_problem(ErrorKind::PayloadTooLarge);
    let most = format!("sink {}", "x".repeat((6 << 20) - 5));
    assert_eq!(service.invoke("f/invoke", most).await.status, 200);
    // A length that is announced and never sent is refused unread.
    let announced = raw(&service, "content-length: 99999999999\r\n\r\n").await;
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    // Without a length, as soon as there is too much.
    let mut chunked = String::from("transfer-encoding: chunked\r\n\r\n");
    for _ in 0..7 {
        chunked.push_str(&format!("100000\r\n{}\r\n", "x".repeat(1 << 20)));
    }
    let chunked = raw(&service, &chunked).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
}

/// The problem with a POST whose headers end as given.
async fn raw(service: &crate::harness::Service, rest: &str) -> String {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let head = format!(
        "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\n",
        service.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The service may answer and close before it has all of it.
    let _ = stream.write_all(rest.as_bytes()).await;
    // A problem, in one packet or several.
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") && stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {}
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn slow_and_broken_bodies_are_given_up() {
    let service = start_with(|config| config.body_timeout = Duration::from_millis(200)).await;
    service.deploy("f", "1").await;
    let slow = raw(&service, "content-length: 100\r\n\r\nabc").await;
    assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("\"code\":\"request-timeout\""), "{slow}");
    assert_eq!(service.workers.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn memory_of_bodies_is_bounded() {
    let service = start_with(|config| {
        config.body_bytes_max = 1 << 20;
        config.component_bytes_max = 1 << 20;
        config.bodies_bytes_max = 1 << 20;
    })
    .await;
    service.deploy("f", "1").await;
    let mut held = TcpStream::connect(service.address).await.unwrap();
    let head = format!(
        "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\ncontent-length: 900000\r\n\r\n",
        service.token
    );
    held.write_all(head.as_bytes()).await.unwrap();
    // It is noticed as soon as the gateway has read the head; until then there is room.
    for _ in 0..1_000 {
        let reply = service.invoke("f/invoke", vec![b'x'; 200_000]).await;
        if reply.status == 429 {
            reply.is_problem(ErrorKind::ConcurrencyLimit);
            drop(held);
            return;
        }
    }
    panic!("never refused");
}

#[tokio::test]
async fn admission_refuses_what_is_too_much() {
    let service = Arc::new(
        start_with(|config| {
            config.function_concurrency = 2;
            config.tenant_concurrency = 3;
        })
        .await,
    );
    service.deploy("f", "1").await;
    service.deploy("g", "1").await;
    let sleepers: Vec<_> = (0..2)
        .map(|_| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { service.invoke("f/invoke", "sleep 3000").await.status })
        })
        .collect();
    service.until_calls(2).await;
    let reply = service.invoke("f/invoke", "echo").await;
    reply.is_problem(ErrorKind::ConcurrencyLimit);
    assert_eq!(reply.header("retry-after"), "1");
    // Another function has places of its own.
    assert_eq!(service.invoke("g/invoke", "echo").await.status, 200);
    for sleeper in sleepers {
        assert_eq!(sleeper.await.unwrap(), 200);
    }
    assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
}

#[tokio::test]
async fn who_goes_away_takes_the_sandbox_along() {
    // Whatever came behind the request and was not read.
    for behind in ["", "\n", "GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n"] {
        goes_away_behind(behind).await;
    }
}

async fn goes_away_behind(behind: &str) {
    let service = start().await;
    service.deploy("f", "1").await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let body = "sleep 20000";
    let request = format!(
        "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}{behind}",
        service.token,
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    service.until_calls(1).await;
    drop(stream);
    let gone = async {
        while service.workers.dropped.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(
        metrics.contains(r#"fanfold_invocations_total{function="f",outcome="cancelled"} 1"#),
        "{metrics}"
    );
    // What it took went with it, but for how long it was waited for.
    for line in ["fanfold_invocation_duration_seconds_count 1\n", "fanfold_sandbox_start_seconds_count 0\n"] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let id = service.app.records.of_function(&"f".parse().unwrap())[0].id;
    let shown = service.get(&format!("/v1/invocations/{id}")).await.json();
    assert_eq!(shown["state"], "cancelled");
    waited_for(&shown, 0);
}

/// Checks that a call has no receipt but for the time that it was waited for, at least so long.
fn waited_for(shown: &Value, us_min: u64) {
    let usage = shown["usage"].as_object().unwrap();
    assert!(usage.len() == 1 && usage["wall_us"].as_u64().unwrap() >= us_min, "{shown}");
}

/// A sandbox ends at its deadline by itself. One that does not tells nobody what it took.
#[tokio::test]
async fn a_call_that_is_overdue_has_no_receipt() {
    let service = start().await;
    service.deploy("f", "1").await;
    let reply = service.invoke("f/invoke?timeout=1ms", "sleep 60000").await;
    reply.is_problem(ErrorKind::DeadlineExceeded);
    let timing = reply.header("server-timing");
    let run_ms = timing.rsplit_once("run;dur=").unwrap().1.parse::<f64>().unwrap();
    assert!(run_ms >= 1_000.0, "{timing}");
    let id = reply.header("x-fanfold-invocation-id");
    waited_for(&service.get(&format!("/v1/invocations/{id}")).await.json(), 1_000_000);
}

/// What was refused before it began took nothing, which is known.
#[tokio::test]
async fn a_call_that_nobody_takes_has_taken_nothing() {
    let service = start().await;
    service.deploy("f", "1").await;
    let refusal = |kind: ErrorKind| {
        *service.workers.refuse_calls.lock().unwrap() = Some(Problem::new(kind, "as asked"));
    };
    let usage = async || {
        let reply = service.invoke("f/invoke", "echo").await;
        let id = reply.header("x-fanfold-invocation-id");
        service.get(&format!("/v1/invocations/{id}")).await.json()
    };
    refusal(ErrorKind::WorkerUnavailable);
    let shown = usage().await;
    assert_eq!((&shown["usage"]["wall_us"], &shown["usage"]["memory_bytes_peak"]), (&json!(0), &json!(0)));
    // With this one the call may have begun.
    refusal(ErrorKind::WorkerLost);
    waited_for(&usage().await, 0);
}

#[tokio::test]
async fn calls_are_remembered() {
    let service = start().await;
    service.deploy("f", "1").await;
    let reply = service.invoke("f/invoke", "log first").await;
    let id = reply.header("x-fanfold-invocation-id").to_owned();
    let shown = service.get(&format!("/v1/invocations/{id}")).await.json();
    assert_eq!((&shown["state"], &shown["function"]), (&json!("succeeded"), &json!("f")));
    assert_eq!(shown["usage"]["wall_us"], 150);
    let result = service.get(&format!("/v1/invocations/{id}/result")).await;
    assert_eq!((result.status.as_u16(), &result.body[..]), (200, &b"done"[..]));
    let logs = service.get(&format!("/v1/invocations/{id}/logs")).await.json();
    assert_eq!(logs["lines"][0]["message"], "first");
    assert_eq!(service.get("/v1/functions/f/logs").await.json()["lines"], logs["lines"]);
    let failed = service.invoke("f/invoke", "fail guest-trapped").await;
    let id = failed.header("x-fanfold-invocation-id").to_owned();
    service.get(&format!("/v1/invocations/{id}/result")).await.is_problem(ErrorKind::GuestTrapped);
    let shown = service.get(&format!("/v1/invocations/{id}")).await.json();
    let problem = json!({
        "code": "guest-trapped", "title": ErrorKind::GuestTrapped.title(), "detail": "it failed",
        "type": "/docs/errors/guest-trapped", "retryable": false, "guest_code": "out-of-luck"
    });
    assert_eq!((&shown["state"], &shown["problem"]), (&json!("failed"), &problem));
    let large = service.invoke("f/invoke", "large 300000").await;
    let id = large.header("x-fanfold-invocation-id").to_owned();
    let result = service.get(&format!("/v1/invocations/{id}/result")).await;
    let refused = result.is_problem(ErrorKind::ResponseTooLarge);
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("256KiB") && detail.contains("300000 bytes"), "{detail}");
    assert_eq!(service.get(&format!("/v1/invocations/{id}")).await.json()["state"], "succeeded");
    for id in ["x", "0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a10"] {
        service.get(&format!("/v1/invocations/{id}")).await.is_problem(ErrorKind::InvocationNotFound);
    }
}

#[tokio::test]
async fn the_newest_lines_of_a_function_are_shown() {
    let service = start().await;
    service.deploy("f", "1").await;
    for line in ["one", "two", "three"] {
        service.invoke("f/invoke", format!("log {line}")).await;
    }
    let shown = async |limit: usize| {
        let log = service.get(&format!("/v1/functions/f/logs?limit={limit}")).await.json();
        let lines = log["lines"].as_array().unwrap().iter();
        lines.map(|line| line["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shown(2).await, ["two", "three"]);
    assert_eq!(shown(10_000).await, ["one", "two", "three"]);
    assert!(shown(0).await.is_empty());
    let refused = service.get("/v1/functions/f/logs?limit=10001").await;
    let problem = refused.is_problem(ErrorKind::InvalidRequest);
    assert!(
        problem["detail"].as_str().unwrap().starts_with("limit must be at most 10000 lines"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_log_can_be_followed() {
    let service = start().await;
    service.deploy("f", "1").await;
    service.invoke("f/invoke", "log before").await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!(
        "GET /v1/functions/f/logs?follow=true HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\n\r\n",
        service.token
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut until = async |text: &str| {
        let mut piece = vec![0; 4_096];
        while !seen.contains(text) {
            let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut piece)).await;
            let length = read.unwrap_or_else(|_| panic!("{text} is not in {seen}")).unwrap();
            assert!(length > 0, "{text} is not in {seen}");
            seen.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    };
    until("before").await;
    service.invoke("f/invoke", "log after").await;
    until("after").await;
    // Stopping does not wait for followers.
    let begun = std::time::Instant::now();
    service.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}
