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
