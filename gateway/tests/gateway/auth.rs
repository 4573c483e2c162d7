// SPDX-License-Identifier: Apache-2.0
//! Without a token there is nothing to be learned.

use fanfold_protocol::{
    ErrorKind,
    time::{self, Timestamp},
};
use http::Method;

use crate::harness::start;

/// The routes that need no token, and why they are the only ones: probes carry none,
/// and the console's page has to ask for one. Each page about an error is open as well,
/// and what is no page is not.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/console"];

#[tokio::test]
async fn every_route_of_the_document_wants_a_token() {
    let service = start().await;
    let document = serde_json::to_value(fanfold_gateway::openapi::document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 15, "{:?}", paths.keys());
    for (path, operations) in paths {
        let concrete = path.replace(['{', '}'], "");
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let method: Method = method.to_uppercase().parse().unwrap();
            let reply = service.bare_request(method.clone(), &concrete, &[], "").await;
            if OPEN.contains(&path.as_str()) {
                assert_eq!(reply.status, 200, "{method} {path}");
                continue;
            }
            let body = reply.is_problem(ErrorKind::Unauthorized);
            assert!(!body.to_string().contains(&service.token));
            // Senders of a trigger may show its token as a password.
            let scheme = if path == "/v1/events/s3/{trigger}" { "Basic" } else { "Bearer" };
            assert_eq!(reply.header("www-authenticate"), format!("{scheme} realm=\"fanfold\""));
            let wrong = [(
                "authorization",
                "Bearer ff_0000000000000000000000000000000000000000000000000000000000000000",
            )];
            service.bare_request(method, &concrete, &wrong, "").await.is_problem(ErrorKind::Unauthorized);
        }
    }
}

#[tokio::test]
async fn unknown_paths_want_one_too() {
    let service = start().await;
    for path in [
        "/",
        "/v1/nothing",
        "/v1/functions/",
        "/healthz/",
        "//healthz",
        "/metrics/",
        "/docs/errors/none",
        "/docs/errors/",
    ] {
        service.bare_request(Method::GET, path, &[], "").await.is_problem(ErrorKind::Unauthorized);
    }
    service.get("/v1/nothing").await.is_problem(ErrorKind::RouteNotFound);
}

#[tokio::test]
async fn several_tokens_are_accepted() {
    let old = fanfold_gateway::Token::generate().unwrap();
    let digest = old.digest();
    let service = crate::harness::start_with(|config| config.tokens.push(digest)).await;
    let header = format!("Bearer {}", old.reveal());
    let reply = service.bare_request(Method::GET, "/v1/functions", &[("authorization", &header)], "").await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_token_that_has_expired_is_told_so() {
    let [old, new] = [(); 2].map(|()| fanfold_gateway::Token::generate().unwrap());
    let day = 24 * 3_600_000;
    let tomorrow = Timestamp(time::now().0 + day);
    let digests = [old.digest().until(Timestamp(day)), new.digest().until(tomorrow)];
    let service = crate::harness::start_with(|config| config.tokens.extend(digests)).await;
    let ask = async |token: &fanfold_gateway::Token| {
        let header = format!("Bearer {}", token.reveal());
        service.bare_request(Method::GET, "/v1/functions", &[("authorization", &header)], "").await
    };
    assert_eq!(ask(&new).await.status, 200);
    let problem = ask(&old).await.is_problem(ErrorKind::Unauthorized).to_string();
    assert!(problem.contains("found one that expired at 1970-01-02T00:00:00.000Z"), "{problem}");
}
