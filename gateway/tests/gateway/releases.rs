// SPDX-License-Identifier: Apache-2.0
//! Releases side by side: what a newer one stored is neither lost nor ended here.

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, keys, uri::ObjectUri};
use serde_json::{Value, json};

use crate::harness::start;

#[tokio::test]
async fn a_functions_record_of_a_newer_release_is_read_and_kept() {
    let service = start().await;
    for (name, salt) in [("f", "1"), ("f", "2"), ("g", "1")] {
        service.deploy(name, salt).await;
    }
    let bucket = service.app.config.tenant.system_bucket.clone();
    let base = service.stop().await;
    let place = |name: &str| ObjectUri::new(bucket.clone(), keys::aliases(&name.parse().unwrap())).unwrap();
    let stored = async |name: &str| {
        let bytes = base.store.get(&place(name), None).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let copied = async |name: &str| {
        let entry = base.backbone.get(&keys::function_record(&name.parse().unwrap())).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&entry.value).unwrap()
    };
    // It says more than is known here, and of another function something else.
    let mut more = json!({
        "name": "f", "latest": 2, "frozen": {"by": "ops"}, "aliases": {"prod": {"version": 1, "shadow": 2}}
    });
    let other = json!({"name": "g", "latest": "one", "etag": "x"});
    for (name, record) in [("f", &more), ("g", &other)] {
        let body = Bytes::from(record.to_string());
        base.store.put(&place(name), body.clone(), Default::default()).await.unwrap();
        base.backbone.put(&keys::function_record(&name.parse().unwrap()), body).await.unwrap();
    }
    let service = base.serve(|_| {}).await;
    assert_eq!(service.invoke("f/invoke?qualifier=prod", "").await.header("x-fanfold-version"), "1");
    assert_eq!(service.deploy("f", "3").await.json()["version"], 3);
    more["latest"] = json!(3);
    assert_eq!(stored("f").await, more);
    more["etag"] = copied("f").await["etag"].clone();
    assert_eq!(copied("f").await, more);
    // What cannot be read at all is there all the same, and nothing is written over it.
    service.invoke("g/invoke", "").await.is_problem(ErrorKind::Internal);
    service.deploy("g", "2").await.is_problem(ErrorKind::Internal);
    assert_eq!((stored("g").await, copied("g").await), (other.clone(), other));
}
