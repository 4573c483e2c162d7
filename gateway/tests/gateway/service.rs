// SPDX-License-Identifier: Apache-2.0
//! Health, metrics, the description of the API, and the pages about errors.

use fanfold_protocol::ErrorKind;
use http::Method;
use serde_json::json;

use crate::harness::{Reply, start, until};

#[tokio::test]
async fn health_and_readiness() {
    let service = start().await;
    assert_eq!(service.bare_request(Method::GET, "/healthz", &[], "").await.body, "ok\n");
    let ready = async || service.bare_request(Method::GET, "/readyz", &[], "").await;
    let is_probed = |ready: &Reply| ready.json()["store_abilities"].is_object();
    let ready = until("a store that was tried", ready, is_probed).await;
    let body = ready.json();
    assert_eq!((ready.status.as_u16(), &body["ready"]), (200, &json!(true)));
    assert_eq!((&body["store"], &body["backbone"]), (&json!({"ready": true}), &json!({"ready": true})));
    for ability in ["put_if_absent", "put_if_match"] {
        assert_eq!(body["store_abilities"][ability], "supported", "{ability}");
    }
}

/// Before anything else is looked at: what is refused then needs no room.
#[tokio::test]
async fn new_jobs_and_calls_are_refused_while_the_backbone_has_no_room() {
    let service = start().await;
    service.deploy("f", "1").await;
    let refused = async |path: &str| {
        let job = json!({"function": "none", "input": "s3://bank/in/"}).to_string();
        let headers = [("content-type", "application/json")];
        let reply = async || service.request(Method::POST, path, &headers, job.clone()).await;
        until("no room", reply, |reply| reply.json()["code"] != "function-not-found").await
    };
    let refusals = async {
        for path in ["/v1/jobs", "/v1/jobs/estimate"] {
            refused(path).await.is_problem(ErrorKind::StorageFull);
        }
        let status = async || service.promise("f", &[], "echo").await.status;
        until("no room", status, |status| *status == 507).await;
    };
    service.base.without_writes(refusals).await;
}

/// What all gateways share may be full or away: each of them goes on answering, and lets users make room.
#[tokio::test]
async fn balancers_are_told_only_of_a_gateway_that_stops() {
    let service = start().await;
    let asked = async |path: &str| {
        let reply = service.bare_request(Method::GET, path, &[], "").await;
        (reply.status.as_u16(), reply.json()["ready"].clone())
    };
    assert_eq!(asked("/readyz?serving=true").await, (200, json!(true)));
    let full = async {
        until("no readiness", || asked("/readyz"), |(status, _)| *status == 503).await;
        assert_eq!(asked("/readyz?serving=false").await, (503, json!(false)));
        assert_eq!(asked("/readyz?serving=true").await, (200, json!(false)));
    };
    service.base.without_writes(full).await;
    let refused = service.bare_request(Method::GET, "/readyz?serving=yes", &[], "").await;
    let body = refused.is_problem(ErrorKind::InvalidRequest);
    assert!(body["detail"].as_str().unwrap().contains("serving must be true or false"), "{body}");
    service.app.draining.cancel();
    assert_eq!(asked("/readyz?serving=true").await, (503, json!(false)));
}

#[tokio::test]
async fn metrics_are_named_as_prometheus_has_it() {
    let service = start().await;
    service.deploy("f", "1").await;
    service.invoke("f/invoke", "echo").await;
    service.get("/v1/functions/other-name").await;
    service.base.backbone.as_embedded().unwrap().set_size_bytes_max(1 << 40);
    let reply = service.get("/metrics").await;
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert!(text.contains("# TYPE fanfold_invocations_total counter\n") && !text.contains("# EOF"), "{text}");
    assert!(text.contains("# TYPE fanfold_build_info gauge\n"), "{text}");
    let accept = [("accept", "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2")];
    let open = service.request(Method::GET, "/metrics", &accept, "").await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    let open = String::from_utf8(open.body.to_vec()).unwrap();
    assert!(open.contains("# TYPE fanfold_invocations counter\n") && open.ends_with("# EOF\n"), "{open}");
    for line in [
        r#"fanfold_http_requests_total{route="/v1/functions/{name}/invoke",method="POST",status="200"} 1"#,
        r#"fanfold_http_requests_total{route="/v1/functions/{name}",method="GET",status="404"} 1"#,
        r#"fanfold_http_request_duration_seconds_count{route="/v1/functions/{name}/invoke"} 1"#,
        r#"fanfold_invocations_total{function="f",outcome="ok"} 1"#,
        "fanfold_sandbox_start_seconds_count 1",
        r#"fanfold_queue_messages{queue="tasks",state="ready"} 0"#,
        "fanfold_backbone_keys_bound_bytes 1099511627776\n",
        "fanfold_build_info{version=",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("other-name"));
    let used = text.lines().find_map(|line| line.strip_prefix("fanfold_backbone_keys_used_bytes ")).unwrap();
    assert!(used.parse::<u64>().unwrap() > 0, "{used}");
}

/// What users touch, by method and path.
const CONTRACT: &[(&str, &str)] = &[
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/v1/openapi.json"),
    ("get", "/docs/errors/{code}"),
    ("post", "/v1/functions/{name}/versions"),
    ("get", "/v1/functions/{name}/versions/{version}"),
    ("get", "/v1/functions"),
    ("get", "/v1/functions/{name}"),
    ("delete", "/v1/functions/{name}"),
    ("put", "/v1/functions/{name}/aliases/{alias}"),
    ("delete", "/v1/functions/{name}/aliases/{alias}"),
    ("get", "/v1/functions/{name}/logs"),
    ("post", "/v1/functions/{name}/invoke"),
    ("get", "/v1/invocations/{id}"),
    ("get", "/v1/invocations/{id}/result"),
    ("get", "/v1/invocations/{id}/logs"),
    ("delete", "/v1/invocations/{id}"),
    ("post", "/v1/jobs"),
    ("get", "/v1/jobs"),
    ("get", "/v1/jobs/{id}"),
    ("get", "/v1/jobs/{id}/events"),
    ("get", "/v1/jobs/{id}/tasks"),
    ("get", "/v1/jobs/{id}/logs"),
    ("post", "/v1/jobs/{id}/cancel"),
    ("post", "/v1/jobs/{id}/retry"),
    ("get", "/v1/jobs/{id}/report"),
    ("put", "/v1/triggers/{name}"),
    ("get", "/v1/triggers/{name}"),
    ("delete", "/v1/triggers/{name}"),
    ("get", "/v1/triggers"),
    ("post", "/v1/triggers/{name}/replay"),
    ("post", "/v1/triggers/{name}/pause"),
    ("post", "/v1/triggers/{name}/resume"),
    ("post", "/v1/events/s3"),
    ("post", "/v1/events/s3/{trigger}"),
    ("get", "/console"),
];

#[tokio::test]
async fn the_document_describes_the_whole_contract() {
    let service = start().await;
    let document = service.get("/v1/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    for &(method, path) in CONTRACT {
        let described = &document["paths"][path][method];
        assert!(described["responses"]["default"].is_object(), "{method} {path} is not described");
    }
    // Programs that make clients ask for a body where it is said to be needed.
    for (path, required) in [
        ("/v1/jobs", true),
        ("/v1/functions/{name}/versions", true),
        ("/v1/functions/{name}/invoke", false),
        ("/v1/jobs/{id}/retry", false),
        ("/v1/triggers/{name}/replay", false),
    ] {
        assert_eq!(document["paths"][path]["post"]["requestBody"]["required"], required, "{path}");
    }
    // And they want an id of its own for each operation.
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let mut ids: Vec<_> = operations.filter_map(|operation| operation["operationId"].as_str()).collect();
    assert!(ids.contains(&"jobs_list") && ids.contains(&"functions_list"), "{ids:?}");
    ids.sort_unstable();
    let twice: Vec<_> = ids.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    // Every schema that is referred to is there.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}

/// Of what JSON Schema and OpenAPI allow, such programs understand less.
#[tokio::test]
async fn the_document_is_for_programs_that_make_clients() {
    let service = start().await;
    let document = service.get("/v1/openapi.json").await.json();
    // Bodies of bytes are no lists of numbers, and are left out by such programs where they have no schema.
    let paths = &document["paths"];
    let invoke = &paths["/v1/functions/{name}/invoke"]["post"];
    let component = &paths["/v1/functions/{name}/versions"]["post"]["requestBody"];
    let anything = json!({"*/*": {"schema": {}}});
    let binary = json!({"application/wasm": {"schema": {"type": "string", "format": "binary"}}});
    for (described, expected) in [
        (&invoke["requestBody"], &anything),
        (&invoke["responses"]["200"], &anything),
        (&paths["/v1/invocations/{id}/result"]["get"]["responses"]["200"], &anything),
        (component, &binary),
    ] {
        assert_eq!(&described["content"], expected);
    }
    let file = &paths["/console/{file}"]["get"]["responses"]["200"]["content"];
    assert!(file["text/css"].is_object() && file["text/javascript"].is_object(), "{file}");
    let range = &document["components"]["schemas"]["JobView"]["properties"]["eta_range_ms"];
    assert_eq!((&range["minItems"], &range["maxItems"]), (&json!(2), &json!(2)), "{range}");
    assert_eq!(range["items"]["type"], "integer", "{range}");
    // Notifications may be lists as well.
    let notification = &paths["/v1/events/s3"]["post"]["requestBody"]["content"]["application/json"];
    assert_eq!(notification["schema"], json!({}));
    for (path, most) in [("/v1/functions", 1_000), ("/v1/jobs", 1_000), ("/v1/invocations", 100)] {
        let parameters = paths[path]["get"]["parameters"].as_array().unwrap();
        let limit = parameters.iter().find(|one| one["name"] == "limit").unwrap();
        assert_eq!((&limit["schema"]["minimum"], &limit["schema"]["maximum"]), (&json!(1), &json!(most)));
    }
}

#[tokio::test]
async fn the_document_gives_all_that_is_refused_one_body() {
    let service = start().await;
    let document = service.get("/v1/openapi.json").await.json();
    // But for what is not ready, which says what of it.
    let problem =
        json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}});
    let mut refusals = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values().filter(|one| one["responses"].is_object()) {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with(['4', '5', 'd']) && path != "/readyz" {
                    assert_eq!(response["content"], problem, "{status} of {path}");
                    refusals += 1;
                }
            }
        }
    }
    assert!(refusals > 100, "{refusals}");
    assert!(
        document["paths"]["/readyz"]["get"]["responses"]["503"]["content"]["application/json"].is_object()
    );
}

#[tokio::test]
async fn every_route_of_the_document_is_there() {
    let service = start().await;
    let document = serde_json::to_value(fanfold_gateway::openapi::document()).unwrap();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let concrete = path.replace("{id}", "0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a10").replace(['{', '}'], "");
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let reply = service.request(method.to_uppercase().parse().unwrap(), &concrete, &[], "").await;
            if reply.status.is_client_error() {
                let code = reply.json()["code"].as_str().unwrap().to_owned();
                let unknown =
                    code == "route-not-found" && !path.starts_with("/docs") && !path.starts_with("/console");
                assert!(!unknown && code != "method-not-allowed", "{method} {path}: {code}");
            }
        }
    }
}

#[tokio::test]
async fn pages_about_errors_are_served() {
    let service = start().await;
    for kind in ErrorKind::ALL {
        // As a browser asks that follows a problem's `type`: without a token.
        let path = format!("/docs/errors/{}", kind.code());
        let reply = service.bare_request(Method::GET, &path, &[], "").await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("content-type"), "text/markdown; charset=utf-8");
        assert!(reply.body.starts_with(format!("# {}", kind.title()).as_bytes()));
    }
}
