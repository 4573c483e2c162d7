// SPDX-License-Identifier: Apache-2.0
//! Deploying, versions and aliases.

use std::sync::Arc;

use fanfold_protocol::{ErrorKind, Problem, digest::Digest, function::Version, keys, limits, uri::ObjectUri};
use futures::FutureExt;
use http::Method;
use serde_json::json;

use crate::harness::{AGGREGATOR, Base, HANDLER, component, start, start_with, until};

#[tokio::test]
async fn a_deployment_is_answered_with_its_version() {
    let service = start().await;
    let settings = r#"{"memory": "64MiB", "timeout": "5s", "env": {"A": "b"}}"#;
    let bytes = component(&["wasi:io/streams@0.2.6"], &[HANDLER, AGGREGATOR], "1");
    let headers = [("content-type", "application/wasm"), ("x-fanfold-settings", settings)];
    let reply =
        service.request(Method::POST, "/v1/functions/f/versions?alias=prod", &headers, bytes.clone()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let body = reply.json();
    assert_eq!(service.get(reply.header("location")).await.json(), body);
    assert_eq!((&body["name"], &body["version"]), (&json!("f"), &json!(1)));
    assert_eq!(body["digest"], Digest::of(&bytes).to_string());
    assert_eq!(body["exports"], json!(["handler", "aggregator"]));
    assert_eq!(body["settings"]["memory"], "64MiB");
    assert_eq!(service.get("/v1/functions/f/versions/prod").await.json(), body);
    let shown = service.get("/v1/functions/f").await.json();
    assert_eq!((&shown["latest"], &shown["aliases"]), (&json!(1), &json!({"prod": {"version": 1}})));
    assert_eq!(shown["versions"], json!([body]));
    let list = service.get("/v1/functions").await.json();
    assert_eq!(list["functions"][0]["name"], "f");
}

#[tokio::test]
async fn grants_name_nothing_of_the_platforms_own_bucket_but_outputs() {
    let service = start().await;
    let own = &service.app.config.tenant.system_bucket;
    let output = format!("s3://{own}/{}", keys::default_output(&uuid::Uuid::now_v7()));
    let deploy = async |grants: serde_json::Value| {
        let settings = json!({"grants": grants}).to_string();
        let headers = [("x-fanfold-settings", settings.as_str())];
        let component = component(&[], &[HANDLER], "1");
        service.request(Method::POST, "/v1/functions/f/versions", &headers, component).await
    };
    for grants in [
        json!({"read": ["s3://bank/", format!("s3://{own}/")]}),
        json!({"read": [format!("s3://{own}/jobs/")]}),
        json!({"write": [format!("s3://{own}/mine/")]}),
        json!({"write": [output]}),
    ] {
        let problem = deploy(grants).await.is_problem(ErrorKind::AccessDenied);
        assert!(problem["detail"].as_str().unwrap().contains("the platform's own bucket"), "{problem}");
    }
    assert_eq!(deploy(json!({"read": [output], "write": ["s3://bank/"]})).await.status, 201);
}

#[tokio::test]
async fn the_same_again_is_the_same_version() {
    let service = start().await;
    let first = service.deploy("f", "1").await;
    let again = service.deploy("f", "1").await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 200));
    assert_eq!(first.json(), again.json());
    let other = service.deploy("f", "2").await;
    assert_eq!((other.status.as_u16(), &other.json()["version"]), (201, &json!(2)));
    let path = "/v1/functions/f/versions?timeout=5s";
    let settings = service.request(Method::POST, path, &[], component(&[], &[HANDLER], "2")).await;
    assert_eq!((settings.status.as_u16(), &settings.json()["version"]), (201, &json!(3)));
}

#[tokio::test]
async fn the_same_again_heals_a_component_that_is_damaged_or_gone() {
    let service = start().await;
    let store = &service.base.store;
    let bytes = component(&[], &[HANDLER], "1");
    let key = keys::component(&Digest::of(&bytes));
    let uri = ObjectUri::new(service.app.config.tenant.system_bucket.clone(), key).unwrap();
    for name in ["f", "g"] {
        for damaged in [None, Some(b"torn".to_vec()), Some(vec![0; bytes.len()])] {
            match damaged {
                Some(damaged) => {
                    store.put(&uri, damaged.into(), Default::default()).await.unwrap();
                }
                None => store.delete(&uri).await.unwrap(),
            }
            let reply = service.deploy(name, "1").await;
            assert!(reply.status.is_success(), "{reply:?}");
            assert_eq!(reply.json()["version"], 1);
            assert_eq!(store.get(&uri, None).await.unwrap(), bytes);
        }
    }
}

#[tokio::test]
async fn racing_deployments_get_numbers_without_gaps() {
    let base = Base::new().await;
    let services = [Arc::new(base.serve(|_| {}).await), Arc::new(base.serve(|_| {}).await)];
    let racing = (0..12).map(|n| {
        let service = Arc::clone(&services[n % 2]);
        // Six different components, each sent to both gateways.
        tokio::spawn(async move { service.deploy("f", &(n / 2).to_string()).await })
    });
    let mut created = Vec::new();
    for reply in futures::future::join_all(racing).await {
        let reply = reply.unwrap();
        assert!(reply.status.is_success(), "{reply:?}");
        if reply.status == 201 {
            created.push(reply.json()["version"].as_u64().unwrap());
        }
    }
    created.sort_unstable();
    assert_eq!(created, (1..=created.len() as u64).collect::<Vec<_>>());
    assert!(created.len() >= 6);
    for service in services {
        assert_eq!(service.get("/v1/functions/f").await.json()["latest"], created.len());
    }
}

#[tokio::test]
async fn what_is_no_function_is_refused() {
    let service = start_with(|config| config.component_bytes_max = 2_000).await;
    let post =
        async |bytes: Vec<u8>| service.request(Method::POST, "/v1/functions/f/versions", &[], bytes).await;
    post(b"\0asm\x01\0\0\0".to_vec()).await.is_problem(ErrorKind::NotAComponent);
    post(Vec::new()).await.is_problem(ErrorKind::NotAComponent);
    post(component(&[], &[], "")).await.is_problem(ErrorKind::ExportMissing);
    let body = post(component(&["wasi:http/types@0.2.6"], &[HANDLER], ""))
        .await
        .is_problem(ErrorKind::ImportUnknown);
    assert!(body["detail"].as_str().unwrap().contains("wasi:http/types@0.2.6"), "{body}");
    post(vec![0; 2_001]).await.is_problem(ErrorKind::ComponentTooLarge);
    let path = "/v1/functions/f/versions?memory=1TiB";
    let reply = service.request(Method::POST, path, &[], component(&[], &[HANDLER], "")).await;
    reply.is_problem(ErrorKind::InvalidSettings);
    let headers = [("content-type", "text/plain")];
    let reply = service.request(Method::POST, "/v1/functions/f/versions", &headers, "x").await;
    reply.is_problem(ErrorKind::UnsupportedMediaType);
    *service.workers.refuse_preparation.lock().unwrap() =
        Some(Problem::new(ErrorKind::CompileLimit, "it took too long"));
    post(component(&[], &[HANDLER], "")).await.is_problem(ErrorKind::CompileLimit);
    service.get("/v1/functions/f").await.is_problem(ErrorKind::FunctionNotFound);
}

#[tokio::test]
async fn aliases_are_pointed_weighted_and_removed() {
    let service = start().await;
    for salt in ["1", "2"] {
        service.deploy("f", salt).await;
    }
    let path = "/v1/functions/f/aliases/prod";
    service.invoke("f/invoke?qualifier=prod", "").await.is_problem(ErrorKind::AliasNotFound);
    let made = service.put_json(path, json!({"version": 1})).await;
    assert_eq!((made.status.as_u16(), made.json()), (201, json!({"version": 1})));
    assert_eq!(service.invoke("f/invoke?qualifier=prod", "").await.header("x-fanfold-version"), "1");
    let weighted = json!({"version": 1, "canary": {"version": 2, "percent": 20}});
    let moved = service.put_json(path, weighted.clone()).await;
    assert_eq!((moved.status.as_u16(), moved.json()), (200, weighted));
    let mut canaries = 0;
    for _ in 0..100 {
        let reply = service.invoke("f/invoke?qualifier=prod", "").await;
        canaries += usize::from(reply.header("x-fanfold-version") == "2");
    }
    assert_eq!(canaries, 20);
    service.put_json(path, json!({"version": 3})).await.is_problem(ErrorKind::VersionNotFound);
    for percent in [0, 100] {
        let odd = json!({"version": 1, "canary": {"version": 2, "percent": percent}});
        service.put_json(path, odd).await.is_problem(ErrorKind::InvalidRequest);
    }
    service
        .put_json("/v1/functions/g/aliases/prod", json!({"version": 1}))
        .await
        .is_problem(ErrorKind::FunctionNotFound);
    assert_eq!(service.delete(path).await.status, 204);
    service.delete(path).await.is_problem(ErrorKind::AliasNotFound);
}

#[tokio::test]
async fn a_function_has_so_many_aliases() {
    let service = start().await;
    service.deploy("f", "1").await;
    let point = async |n: usize| {
        service.put_json(&format!("/v1/functions/f/aliases/a-{n}"), json!({"version": 1})).await
    };
    for n in 0..limits::ALIASES_MAX {
        assert_eq!(point(n).await.status, 201);
    }
    let problem = point(limits::ALIASES_MAX).await.is_problem(ErrorKind::InvalidRequest);
    assert!(problem["detail"].as_str().unwrap().contains("at most 100 aliases, found 101"), "{problem}");
    assert_eq!(point(0).await.status, 200);
    assert_eq!(service.delete("/v1/functions/f/aliases/a-0").await.status, 204);
    assert_eq!(point(limits::ALIASES_MAX).await.status, 201);
}

#[tokio::test]
async fn a_record_that_cannot_be_copied_keeps_no_gateway_from_its_start() {
    let service = start().await;
    service.deploy("f", "1").await;
    let bucket = service.app.config.tenant.system_bucket.clone();
    // From before there was a bound: more than the backbone can hold.
    let targets: serde_json::Map<String, serde_json::Value> =
        (0..20_000).map(|n| (format!("{}-{n}", "a".repeat(50)), json!({"version": 1}))).collect();
    for (name, record) in [
        ("many", json!({"name": "many", "latest": 1, "aliases": targets}).to_string()),
        ("torn", "{\"name\": \"torn".to_owned()),
    ] {
        let uri = ObjectUri::new(bucket.clone(), keys::aliases(&name.parse().unwrap())).unwrap();
        service.base.store.put(&uri, record.into(), Default::default()).await.unwrap();
    }
    let service = service.stop().await.serve(|_| {}).await;
    assert_eq!(service.invoke("f/invoke", "").await.status, 200);
    service.get("/v1/functions/many").await.is_problem(ErrorKind::FunctionNotFound);
    assert_eq!(service.delete("/v1/functions/many").await.status, 204);
    let again = service.deploy("many", "1").await;
    assert_eq!((again.status.as_u16(), &again.json()["version"]), (201, &json!(2)));
}

#[tokio::test]
async fn a_removed_function_is_gone_and_its_numbers_are_not_given_again() {
    let service = start().await;
    service.deploy("f", "1").await;
    service.put_json("/v1/functions/f/aliases/prod", json!({"version": 1})).await;
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    for path in ["/v1/functions/f", "/v1/functions/f/versions/1", "/v1/functions/f/versions/prod"] {
        service.get(path).await.is_problem(ErrorKind::FunctionNotFound);
    }
    service.delete("/v1/functions/f").await.is_problem(ErrorKind::FunctionNotFound);
    assert_eq!(service.get("/v1/functions").await.json(), json!({"functions": []}));
    let again = service.deploy("f", "1").await;
    assert_eq!((again.status.as_u16(), &again.json()["version"]), (201, &json!(2)));
    service.get("/v1/functions/f/versions/1").await.is_problem(ErrorKind::VersionNotFound);
    assert_eq!(service.get("/v1/functions/f").await.json()["aliases"], json!({}));
}

#[tokio::test]
async fn functions_outlive_the_backbone() {
    let service = start().await;
    for salt in ["1", "2"] {
        service.deploy("f", salt).await;
    }
    service.put_json("/v1/functions/f/aliases/prod", json!({"version": 1})).await;
    service.deploy("gone", "1").await;
    service.delete("/v1/functions/gone").await;
    let before = service.get("/v1/functions/f").await.json();
    let mut base = service.stop().await;
    base.backbone = Base::open_backbone(&base.folder.path().join("another.redb")).await;
    let service = base.serve(|_| {}).await;
    assert_eq!(service.get("/v1/functions/f").await.json(), before);
    service.get("/v1/functions/gone").await.is_problem(ErrorKind::FunctionNotFound);
}

#[tokio::test]
async fn a_version_that_a_crash_left_without_a_record_is_found() {
    let service = start().await;
    service.deploy("f", "1").await;
    // As if a gateway had died between version 2 and the record.
    let bucket = service.app.config.tenant.system_bucket.clone();
    let name = "f".parse().unwrap();
    let object = |number| ObjectUri::new(bucket.clone(), keys::version(&name, number)).unwrap();
    let bytes = service.base.store.get(&object(1), None).await.unwrap();
    let mut version: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    version["version"] = json!(2);
    version["digest"] = json!(Digest::of(&component(&[], &[HANDLER], "2")).to_string());
    let body = bytes::Bytes::from(version.to_string());
    service.base.store.put(&object(2), body, Default::default()).await.unwrap();
    let again = service.deploy("f", "2").await;
    assert_eq!((again.status.as_u16(), &again.json()["version"]), (200, &json!(2)));
    assert_eq!(service.get("/v1/functions/f").await.json()["latest"], 2);
}

#[tokio::test]
async fn a_removal_takes_what_a_crash_left_without_a_record_along() {
    let service = start().await;
    service.deploy("f", "1").await;
    let object = |number| {
        let key = keys::version(&"f".parse().unwrap(), number);
        ObjectUri::new(service.app.config.tenant.system_bucket.clone(), key).unwrap()
    };
    let left = service.base.store.get(&object(1), None).await.unwrap();
    service.base.store.put(&object(2), left, Default::default()).await.unwrap();
    assert_eq!(service.delete("/v1/functions/f").await.status, 204);
    let service = service.stop().await.serve(|_| {}).await;
    service.get("/v1/functions/f").await.is_problem(ErrorKind::FunctionNotFound);
    let again = service.deploy("f", "1").await;
    assert_eq!((again.status.as_u16(), &again.json()["version"]), (201, &json!(3)));
}

#[tokio::test]
async fn a_deployment_comes_to_its_end_without_its_caller() {
    let service = start().await;
    service.deploy("f", "1").await;
    let registry = &service.app.registry;
    let version = registry.newest(&"f".parse().unwrap()).await.unwrap().unwrap();
    let draft = Version { name: "g".parse().unwrap(), ..(*version).clone() };
    // Looked at once and dropped, as when a connection breaks.
    assert!(registry.publish(draft).now_or_never().is_none());
    let status = async || service.get("/v1/functions/g").await.status;
    until("the function", status, |status| *status == 200).await;
}

#[tokio::test]
async fn functions_are_listed_in_pages() {
    let base = Base::new().await;
    let before = base.serve(|_| {}).await;
    for name in ["b", "a-2", "a-1", "gone"] {
        before.deploy(name, "1").await;
    }
    before.delete("/v1/functions/gone").await;
    let version = keys::version(&"a-2".parse().unwrap(), 1);
    let version = ObjectUri::new(before.app.config.tenant.system_bucket.clone(), version).unwrap();
    base.store.delete(&version).await.unwrap();
    // One that has not read it before, and leaves out what has nothing left: a page of its own here.
    let service = base.serve(|_| {}).await;
    let (mut names, mut query) = (Vec::new(), "limit=1".to_owned());
    loop {
        let list = service.get(&format!("/v1/functions?{query}")).await.json();
        names.push(list["functions"][0]["name"].as_str().map(str::to_owned));
        let Some(next) = list["next"].as_str() else { break };
        query = format!("limit=1&page={next}");
    }
    assert_eq!(names, [Some("a-1".to_owned()), None, Some("b".to_owned())]);
    let all = service.get("/v1/functions").await.json();
    assert_eq!((all["functions"].as_array().unwrap().len(), all.get("next")), (2, None));
    for query in ["limit=0", "limit=1001", "page=A!", "x=1"] {
        service.get(&format!("/v1/functions?{query}")).await.is_problem(ErrorKind::InvalidRequest);
    }
}

#[tokio::test]
async fn another_gateway_sees_a_change_at_once() {
    let base = Base::new().await;
    let (one, two) = (base.serve(|_| {}).await, base.serve(|_| {}).await);
    one.deploy("f", "1").await;
    assert_eq!(two.invoke("f/invoke", "").await.status, 200);
    one.deploy("f", "2").await;
    assert_eq!(two.invoke("f/invoke?qualifier=2", "").await.status, 200);
}

#[tokio::test]
async fn a_version_that_is_gone_from_the_store_is_deployed_again() {
    let base = Base::new().await;
    let before = base.serve(|_| {}).await;
    for name in ["lost", "kept"] {
        before.deploy(name, "1").await;
    }
    let key = keys::version(&"lost".parse().unwrap(), 1);
    let object = ObjectUri::new(before.app.config.tenant.system_bucket.clone(), key).unwrap();
    base.store.delete(&object).await.unwrap();
    // A gateway that has not read it before.
    let service = base.serve(|_| {}).await;
    let list = service.get("/v1/functions").await.json();
    assert_eq!(
        (list["functions"].as_array().unwrap().len(), &list["functions"][0]["name"]),
        (1, &json!("kept"))
    );
    service.invoke("lost/invoke", "x").await.is_problem(ErrorKind::VersionNotFound);
    let again = service.deploy("lost", "1").await;
    assert_eq!((again.status.as_u16(), &again.json()["version"]), (201, &json!(2)), "{again:?}");
    assert_eq!(service.invoke("lost/invoke", "x").await.status, 200);
}
