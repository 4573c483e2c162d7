// SPDX-License-Identifier: Apache-2.0
//! What must not be deployed, and what is not there: each refused with its own
//! code and a sentence that helps, and the service goes on.

use fanfold_tests::service::{Service, component};
use serde_json::json;

use crate::support::Client;

#[tokio::test]
async fn files_that_are_no_function_are_refused() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    let text = b"not wasm at all".to_vec();
    client.deploy("f", text).await.refused("not-a-component", &["component"]);
    client.deploy("f", Vec::new()).await.refused("not-a-component", &[]);
    let module = wat::parse_str("(module)").unwrap();
    client.deploy("f", module).await.refused("not-a-component", &["module", "fanfold build"]);
    let nothing = wat::parse_str("(component)").unwrap();
    client.deploy("f", nothing).await.refused("export-missing", &["handler", "mapper", "aggregator"]);
    let imports = wat::parse_str(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance))
            (instance $i)
            (export "fanfold:function/handler@0.1.0" (instance $i)))"#,
    );
    client.deploy("f", imports.unwrap()).await.refused("import-unknown", &["wasi:http/types"]);
    let mut cut = std::fs::read(component("hello").unwrap()).unwrap();
    cut.truncate(cut.len() / 2);
    client.deploy("f", cut).await.refused("not-a-component", &[]);
    let large = vec![0; (20 << 20) + 1];
    client.deploy("f", large).await.refused("component-too-large", &["20"]);
    let component = std::fs::read(component("hello").unwrap()).unwrap();
    for name in ["F", "a_b", "-f", &"f".repeat(64)] {
        client.deploy(name, Vec::new()).await.refused("invalid-name", &["lower-case"]);
    }
    assert_eq!(client.get("/v1/functions").await.body["functions"], json!([]));
    assert_eq!(client.deploy("f", component.clone()).await.status, 201);
    let again = client.deploy("f", component).await;
    assert_eq!((again.status, &again.body["version"]), (200, &json!(1)));
    let answer = client.invoke("f", &json!("Ada")).await;
    assert_eq!((answer.status, answer.body), (200, json!("hello, Ada")));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    service.deploy("hello").unwrap();
    client.invoke("hullo", &json!("x")).await.refused("function-not-found", &["hullo"]);
    let at = |qualifier: &str| format!("/v1/functions/hello/invoke?qualifier={qualifier}");
    client.post(&at("7"), &json!("x")).await.refused("version-not-found", &["7"]);
    client.post(&at("prod"), &json!("x")).await.refused("alias-not-found", &["prod"]);
    client.get("/v1/jobs/018f0000-0000-7000-8000-000000000000").await.refused("job-not-found", &[]);
    client.get("/v1/nothing").await.refused("route-not-found", &["/v1/nothing"]);
    client.send("DELETE", "/v1/jobs", "application/json", "").await.refused("method-not-allowed", &[]);
    client.send("POST", "/v1/jobs", "application/json", "{").await.refused("invalid-job", &[]);
    // A handler is no map.
    let document = json!({ "function": "hello", "input": "s3://bank/x/" });
    client.job(document).await.refused("export-missing", &["fanfold invoke"]);
    let large = vec![b'x'; (6 << 20) + 1];
    client.send("POST", &at("1"), "application/json", large).await.refused("payload-too-large", &["6"]);
    assert_eq!(client.invoke("hello", &json!("Ada")).await.body, json!("hello, Ada"));
}

#[tokio::test]
async fn nothing_is_done_without_a_token() {
    let service = Service::fresh().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    for path in ["/v1/functions", "/v1/jobs", "/metrics", "/v1/openapi.json", "/v1/nothing"] {
        let url = format!("{}{path}", service.endpoint);
        let wrong = http.get(&url).bearer_auth("wrong").send().await.unwrap().status();
        let none = http.get(&url).send().await.unwrap();
        assert_eq!((wrong.as_u16(), none.status().as_u16()), (401, 401), "{path}");
        assert!(none.headers().contains_key("www-authenticate"), "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            http.get(format!("{}{path}", service.endpoint)).send().await.unwrap().status(),
            200,
            "{path}"
        );
    }
}
