// SPDX-License-Identifier: Apache-2.0
//! Functions from the command line: settings as large as they may be, and an
//! alias that goes back.

use fanfold_tests::service::{Service, component};
use serde_json::json;

use crate::support::Client;

#[tokio::test]
async fn settings_that_are_allowed_can_be_deployed() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let path = folder.path().join("hello.wasm");
    std::fs::copy(component("hello").unwrap(), &path).unwrap();
    let write = |value: String| {
        let text = format!("name = \"hello\"\n[env]\nNAMES = \"{value}\"\n");
        std::fs::write(folder.path().join("function.toml"), text).unwrap();
    };
    // In the header each of these letters takes 6 bytes.
    write("ä".repeat(4_000));
    service.ok(&["deploy", &path.to_string_lossy()]).unwrap();
    let shown = Client::new(&service).get("/v1/functions/hello/versions/1").await;
    assert_eq!(shown.body["settings"]["env"]["NAMES"], "ä".repeat(4_000));
    write("ä".repeat(4_200));
    let refused = service.run(&["deploy", &path.to_string_lossy()]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("function.toml:2: settings must be at most 24KiB"), "{said}");
}

#[tokio::test]
async fn an_alias_goes_back_from_a_version_long_ago() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    // More than are shown with a function.
    for version in 1..=103 {
        client.deploy_with("hello", &json!({ "description": format!("the {version}th") })).await;
    }
    service.ok(&["functions", "alias", "hello", "prod", "2"]).unwrap();
    service.ok(&["functions", "rollback", "hello"]).unwrap();
    let shown = client.get("/v1/functions/hello").await;
    assert_eq!(shown.body["latest"], 103, "{shown:?}");
    assert_eq!(shown.body["aliases"]["prod"]["version"], 1, "{shown:?}");
    let oldest = service.run(&["functions", "rollback", "hello"]).unwrap();
    let said = String::from_utf8_lossy(&oldest.stderr);
    assert_eq!(oldest.status.code(), Some(2), "{said}");
    assert!(said.contains("expected a version before 1, found none"), "{said}");
}
