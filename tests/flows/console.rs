// SPDX-License-Identifier: Apache-2.0
//! The console as a browser gets it: files without a token and under a policy,
//! data with a token only, and nothing of a tenant's that becomes markup.

use fanfold_tests::service::Service;
use serde_json::json;

use crate::support::Client;

/// What a tenant may name things that the console shows.
const MARKUP: &str = "<img src=x onerror=alert(1)>";

#[tokio::test]
async fn the_console_shows_what_the_token_opens() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    let http = reqwest::Client::new();
    let anonymous = async |path: &str| http.get(format!("{}{path}", service.endpoint)).send().await.unwrap();
    let page = anonymous("/console").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
    assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let page = page.text().await.unwrap();
    let files: Vec<_> = page.split('"').filter(|part| part.starts_with("/console/")).collect();
    assert_eq!(files.len(), 2, "{page}");
    for file in files {
        let found = anonymous(file).await;
        assert_eq!(
            (found.status().as_u16(), found.headers()["content-security-policy"].to_str().unwrap()),
            (200, policy.as_str())
        );
        assert_eq!(found.headers()["x-content-type-options"], "nosniff");
    }
    client.get("/console/none.js").await.refused("route-not-found", &["none.js"]);

    service.deploy("column-stats").unwrap();
    service.put("s3://bank/a.csv", format!("\"{MARKUP}\"\n1\n2\n")).await.unwrap();
    let job = client.job(json!({ "function": "column-stats", "input": "s3://bank/a.csv" })).await.body;
    let report = format!("/v1/jobs/{}/report", job["id"].as_str().unwrap());
    for path in ["/v1/jobs", &report, "/v1/functions", "/v1/triggers", "/v1/invocations", "/metrics"] {
        assert_eq!(anonymous(path).await.status(), 401, "{path}");
    }
    let found =
        http.get(format!("{}{report}", service.endpoint)).bearer_auth(&service.token).send().await.unwrap();
    let own = found.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let style = own.strip_prefix("default-src 'none'; style-src ").unwrap();
    assert!(policy.contains(style), "the console does not let the report look as it does: {policy}");
    let report = found.text().await.unwrap();
    assert!(report.contains("&lt;img src=x onerror=alert(1)&gt;") && !report.contains("<img"), "{report}");
}
