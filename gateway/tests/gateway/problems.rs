// SPDX-License-Identifier: Apache-2.0
//! Whatever is wrong with a request, the answer is a problem of its own kind.

use fanfold_protocol::ErrorKind;
use http::Method;
use serde_json::json;

use crate::harness::{HANDLER, component, start};

#[tokio::test]
async fn unknown_paths_and_methods() {
    let service = start().await;
    service.get("/v2/functions").await.is_problem(ErrorKind::RouteNotFound);
    let reply = service.delete("/v1/functions").await;
    reply.is_problem(ErrorKind::MethodNotAllowed);
    assert!(reply.header("allow").contains("GET"), "{:?}", reply.headers);
    service.get("/v1/functions/f/invoke").await.is_problem(ErrorKind::MethodNotAllowed);
    service.get("/docs/errors/no-such-code").await.is_problem(ErrorKind::RouteNotFound);
}

#[tokio::test]
async fn bad_documents() {
    let service = start().await;
    service.deploy("f", "1").await;
    let path = "/v1/functions/f/aliases/prod";
    let put = async |kind: &str, body: &str| {
        service.request(Method::PUT, path, &[("content-type", kind)], body.to_owned()).await
    };
    let body =
        put("application/json", "{\"version\": 1, \"canry\": 1}").await.is_problem(ErrorKind::InvalidRequest);
    assert!(body["detail"].as_str().unwrap().contains("canry"), "{body}");
    put("application/json", "{").await.is_problem(ErrorKind::InvalidRequest);
    put("application/json", "[]").await.is_problem(ErrorKind::InvalidRequest);
    put("text/plain", "{\"version\": 1}").await.is_problem(ErrorKind::UnsupportedMediaType);
    let large = format!("{{\"version\": 1{}}}", " ".repeat(1 << 20));
    put("application/json", &large).await.is_problem(ErrorKind::PayloadTooLarge);
    assert_eq!(put("application/merge-patch+json", "{\"version\": 1}").await.status, 201);
    // As Windows saves it.
    assert_eq!(put("application/json", "\u{feff}{\"version\": 1}").await.status, 200);
}

#[tokio::test]
async fn bad_documents_are_refused_in_words() {
    let service = start().await;
    service.deploy("f", "1").await;
    let check = async |body: &str, words: &str| {
        let path = "/v1/functions/f/aliases/prod";
        let headers = [("content-type", "application/json")];
        let reply = service.request(Method::PUT, path, &headers, body.to_owned()).await;
        let body = reply.is_problem(ErrorKind::InvalidRequest);
        assert!(body["detail"].as_str().unwrap().contains(words), "{body}");
    };
    check("", "found: an empty text").await;
    check("[1]", "found: a list, where an object belongs").await;
    check("{\"version\": \"one\"}", "expected a whole number from 0 to 4294967295").await;
    check("{\"version\": 1, \"canary\": 5}", "expected an object").await;
    check("{\"version\": 1, \"canary\": [2, 10]}", "invalid type: sequence, expected an object").await;
    let canary = "{\"version\": 1, \"canary\": {\"version\": 2, \"percent\": 300}}";
    check(canary, "expected 1 to 99 percent of the calls").await;
}

#[tokio::test]
async fn packed_bodies_are_refused_but_those_for_functions() {
    let service = start().await;
    service.deploy("f", "1").await;
    let packed = |kind: &'static str| [("content-type", kind), ("content-encoding", "gzip")];
    for (method, path, kind) in [
        (Method::PUT, "/v1/functions/f/aliases/prod", "application/json"),
        (Method::POST, "/v1/functions/f/versions", "application/wasm"),
        (Method::POST, "/v1/jobs", "application/toml"),
        (Method::PUT, "/v1/triggers/t", "application/json"),
        (Method::POST, "/v1/events/s3", "application/json"),
    ] {
        let reply = service.request(method, path, &packed(kind), "{}").await;
        let body = reply.is_problem(ErrorKind::UnsupportedMediaType);
        assert!(
            body["detail"].as_str().unwrap().contains("Content-Encoding, found \"gzip\""),
            "{path}: {body}"
        );
    }
    let path = "/v1/functions/f/invoke";
    let reply = service.request(Method::POST, path, &packed("text/plain"), "echo").await;
    let seen = reply.json()["headers"].to_string();
    assert!(reply.status == 200 && seen.contains("gzip"), "{seen}");
}

#[tokio::test]
async fn headers_that_stand_twice_are_refused() {
    let service = start().await;
    service.deploy("f", "1").await;
    let job = "{\"function\": \"f\", \"input\": \"s3://bank/in/\"}";
    for (path, name, value, kind, body) in [
        ("/v1/jobs", "idempotency-key", "k", "application/json", job),
        ("/v1/functions/f/versions", "x-fanfold-settings", "{}", "application/wasm", "x"),
        ("/v1/functions/f/invoke", "x-fanfold-params", "{}", "text/plain", "echo"),
    ] {
        let headers = [("content-type", kind), (name, value), (name, value)];
        let problem = service.request(Method::POST, path, &headers, body).await;
        let problem = problem.is_problem(ErrorKind::InvalidRequest);
        assert!(problem["detail"].as_str().unwrap().contains("once, found it 2 times"), "{problem}");
    }
}

#[tokio::test]
async fn bad_names_and_queries() {
    let service = start().await;
    service.get("/v1/functions/Bad_Name").await.is_problem(ErrorKind::InvalidName);
    service.get("/v1/functions/%ff").await.is_problem(ErrorKind::InvalidRequest);
    service.invoke("f/invoke?qualifier=0", "").await.is_problem(ErrorKind::InvalidName);
    service.invoke("f/invoke?qualifier=", "").await.is_problem(ErrorKind::InvalidName);
    service.invoke("f/invoke?params=1", "").await.is_problem(ErrorKind::InvalidRequest);
    service.get("/v1/functions/f/logs?folow=true").await.is_problem(ErrorKind::InvalidRequest);
    let body = service.get("/v1/jobs?limit=ten").await.is_problem(ErrorKind::InvalidRequest);
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.starts_with("limit must be a whole number of 0 or more, found \"ten\""), "{detail}");
    service.get("/v1/functions/f").await.is_problem(ErrorKind::FunctionNotFound);
    let reply = service.put_json("/v1/functions/f/aliases/latest", json!({"version": 1})).await;
    reply.is_problem(ErrorKind::InvalidName);
}

#[tokio::test]
async fn queries_are_in_utf_8() {
    let service = start().await;
    let deploy = async |query: &str| {
        let path = format!("/v1/functions/f/versions?{query}");
        service.request(Method::POST, &path, &[], component(&[], &[HANDLER], "1")).await
    };
    for query in ["description=z%e4hlt", "settings=%7B%22env%22:%7B%22A%22:%22%ff%22%7D%7D", "%ff=1"] {
        let problem = deploy(query).await.is_problem(ErrorKind::InvalidRequest);
        assert!(problem["detail"].as_str().unwrap().contains("a query in UTF-8"), "{query}: {problem}");
    }
    let version = deploy("description=z%c3%a4hlt+%e2%82%ac").await.json();
    assert_eq!(version["settings"]["description"], "zählt €");
}

/// What the platform would read is not overlooked, whichever route it is sent to.
#[tokio::test]
async fn queries_where_none_is_read_are_refused() {
    let service = start().await;
    service.deploy("f", "1").await;
    for path in ["/v1/functions/f?version=1", "/v1/triggers?x", "/v1/invocations/1?a=b"] {
        let problem = service.get(path).await.is_problem(ErrorKind::InvalidRequest);
        assert!(problem["detail"].as_str().unwrap().contains("expected no query here"), "{path}: {problem}");
    }
    service.delete("/v1/functions/f?force=true").await.is_problem(ErrorKind::InvalidRequest);
    // A method that a route does not take is told first.
    let put = service.request(Method::PUT, "/v1/jobs?limit=1", &[], "").await;
    put.is_problem(ErrorKind::MethodNotAllowed);
    for path in ["/v1/functions?", "/healthz?x=1", "/v1/jobs?limit=1", "/v1/functions/f/logs?limit=1"] {
        assert_eq!(service.get(path).await.status, 200, "{path}");
    }
    assert_eq!(service.invoke("f/invoke?whatever=1", "echo").await.json()["query"], "whatever=1");
}

/// Nobody who asks for it only under a condition finds a change made under none.
#[tokio::test]
async fn changes_under_conditions_are_refused() {
    let service = start().await;
    service.deploy("f", "1").await;
    for (name, value) in [
        ("if-match", "\"1\""),
        ("if-none-match", "*"),
        ("if-unmodified-since", "Mon, 30 Nov 2026 09:52:14 GMT"),
    ] {
        let headers = [("content-type", "application/json"), (name, value)];
        for (method, path) in
            [(Method::PUT, "/v1/functions/f/aliases/prod"), (Method::DELETE, "/v1/functions/f")]
        {
            let reply = service.request(method, path, &headers, "{\"version\": 1}").await;
            let problem = reply.is_problem(ErrorKind::InvalidRequest);
            assert!(
                problem["detail"].as_str().unwrap().starts_with(&format!("expected no {name}")),
                "{problem}"
            );
        }
        assert_eq!(service.request(Method::GET, "/v1/functions/f", &headers, "").await.status, 200);
        let seen = service.request(Method::POST, "/v1/functions/f/invoke", &headers, "echo").await;
        assert!(seen.json()["headers"].to_string().contains(name), "{seen:?}");
    }
    service.get("/v1/functions/f/versions/prod").await.is_problem(ErrorKind::AliasNotFound);
}

#[tokio::test]
async fn what_stands_twice_in_the_query_of_a_call_is_refused() {
    let service = start().await;
    service.deploy("f", "1").await;
    for query in ["qualifier=1&qualifier=1", "timeout=1s&timeout=2s", "params=%7B%7D&params=%7B%7D"] {
        let path = format!("f/invoke?{query}");
        service.invoke(&path, "echo").await.is_problem(ErrorKind::InvalidRequest);
    }
    let path = "f/invoke?params=%7B%22how%22:%22%ff%22%7D";
    service.invoke(path, "echo").await.is_problem(ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn documents_are_in_utf_8() {
    let service = start().await;
    service.deploy("f", "1").await;
    let put = async |kinds: &[&str]| {
        let headers: Vec<_> = kinds.iter().map(|kind| ("content-type", *kind)).collect();
        service.request(Method::PUT, "/v1/functions/f/aliases/prod", &headers, "{\"version\": 1}").await
    };
    assert_eq!(put(&["application/json; charset=UTF-8"]).await.status, 201);
    put(&["application/json; charset=utf-16"]).await.is_problem(ErrorKind::UnsupportedMediaType);
    put(&["application/json", "text/plain"]).await.is_problem(ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn long_urls_and_many_headers() {
    let service = start().await;
    let path = format!("/v1/functions?x={}", "y".repeat(8 << 10));
    service.get(&path).await.is_problem(ErrorKind::UriTooLong);
    let value = "v".repeat(33 << 10);
    let reply = service.request(Method::GET, "/v1/functions", &[("x-large", &value)], "").await;
    reply.is_problem(ErrorKind::HeadersTooLarge);
    let names: Vec<_> = (0..120).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    service.request(Method::GET, "/v1/functions", &many, "").await.is_problem(ErrorKind::HeadersTooLarge);
}

#[tokio::test]
async fn a_panic_is_a_problem_and_the_service_goes_on() {
    let service = start().await;
    service.deploy("f", "1").await;
    let body = service.invoke("f/invoke", "panic").await.is_problem(ErrorKind::Internal);
    assert!(!body.to_string().contains("as asked"), "inner details stay inside: {body}");
    assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
}

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let service = start().await;
    let reply = service.request(Method::GET, "/v1/functions", &[("x-request-id", "order-7")], "").await;
    assert_eq!(reply.header("x-request-id"), "order-7");
    let reply = service.request(Method::GET, "/v1/functions", &[("x-request-id", "a b\"")], "").await;
    assert_eq!(reply.header("x-request-id").len(), 36);
}
