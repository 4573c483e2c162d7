// SPDX-License-Identifier: Apache-2.0
//! Several tenants behind one gateway: none sees, reaches or starves another.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fanfold_gateway::{GatewayConfig, Token};
use fanfold_protocol::{ErrorKind, keys, tenant::Tenant, time, uri::ObjectUri};
use fanfold_storage::PutOptions;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::{AGGREGATOR, Base, HANDLER, Headers, Reply, Service, component, until};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A tenant of its own place, whose buckets begin with its name.
fn tenant(name: &str) -> (GatewayConfig, Token) {
    let token = Token::generate().unwrap();
    let mut config = GatewayConfig::new(name.parse().unwrap(), vec![token.digest()]);
    config.tenant = Arc::new(Tenant {
        name: name.parse().unwrap(),
        weight: 1,
        system_bucket: format!("fanfold-{name}"),
        scope: keys::tenant_scope(&name.parse().unwrap()),
        buckets: Some(vec![format!("{name}-*").parse().unwrap()]),
    });
    (config, token)
}

async fn two() -> (Service, Service) {
    let mut both = Base::new().await.serve_all(vec![tenant("bank"), tenant("shop")]).await;
    let shop = both.pop().unwrap();
    (both.pop().unwrap(), shop)
}

impl Service {
    async fn post_json(&self, path: &str, body: Value) -> Reply {
        self.request(Method::POST, path, &[JSON], body.to_string()).await
    }

    async fn deploy_with(&self, name: &str, export: &str, settings: Value) -> Reply {
        let settings = settings.to_string();
        let headers: Headers<'_> =
            &[("content-type", "application/wasm"), ("x-fanfold-settings", settings.as_str())];
        let path = format!("/v1/functions/{name}/versions");
        self.request(Method::POST, &path, headers, component(&[], &[export], name)).await
    }

    async fn has_object(&self, bucket: &str, key: &str, body: &str) {
        let (store, uri) = (&self.base.store, ObjectUri::new(bucket, key).unwrap());
        store.ensure_bucket(bucket).await.unwrap();
        store.put(&uri, Bytes::from(body.to_owned()), PutOptions::typed("text/csv")).await.unwrap();
    }
}

/// What the bank has, by the parameters of paths.
struct Owned {
    job: String,
    call: String,
    promised: String,
}

async fn owned(bank: &Service) -> Owned {
    assert_eq!(bank.deploy("f", "1").await.status, 201);
    assert_eq!(bank.deploy_with("sums", AGGREGATOR, json!({})).await.status, 201);
    assert_eq!(bank.put_json("/v1/functions/f/aliases/prod", json!({"version": 1})).await.status, 201);
    let trigger = json!({"bucket": "bank-in", "function": "f", "reconcile": "0s"});
    assert_eq!(bank.put_json("/v1/triggers/t", trigger).await.status, 201);
    let call = bank.invoke("f/invoke", "log secret-line").await.header("x-fanfold-invocation-id").to_owned();
    let promised =
        bank.promise("f", &[], "fail function-error").await.json()["id"].as_str().unwrap().to_owned();
    bank.ended(&promised).await;
    bank.has_object("bank-in", "a.csv", "x\n1\n").await;
    let job = bank.post_json("/v1/jobs", json!({"function": "sums", "input": "s3://bank-in/a.csv"})).await;
    assert_eq!(job.status, 202, "{job:?}");
    Owned { job: job.json()["id"].as_str().unwrap().to_owned(), call, promised }
}

/// Every route that names something, with every name that the bank has for it.
fn named(owned: &Owned) -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(fanfold_gateway::openapi::document()).unwrap();
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        // Pages about errors and the console's files are everybody's.
        if !path.contains('{') || path.starts_with("/docs/") || path.starts_with("/console/") {
            continue;
        }
        let ids: &[&String] =
            if path.starts_with("/v1/jobs") { &[&owned.job] } else { &[&owned.call, &owned.promised] };
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let name = if path.starts_with("/v1/triggers") { "t" } else { "f" };
            let concrete = path.replace("{name}", name).replace("{trigger}", "t").replace("{version}", "1");
            let concrete = concrete.replace("{alias}", "prod");
            assert!(!concrete.replace("{id}", "").contains('{'), "what is {concrete}?");
            for id in ids {
                all.push((
                    method.to_uppercase().parse().unwrap(),
                    path.clone(),
                    concrete.replace("{id}", id),
                ));
                if !path.contains("{id}") {
                    break;
                }
            }
        }
    }
    all
}

/// What a request of a route needs beside its path.
fn body(method: &Method, path: &str) -> Value {
    match (method.as_str(), path) {
        ("PUT", "/v1/functions/{name}/aliases/{alias}") => json!({"version": 1}),
        _ => json!({}),
    }
}

/// What makes something of one's own is nobody else's.
fn makes(method: &Method, path: &str) -> bool {
    [("POST", "/v1/functions/{name}/versions"), ("PUT", "/v1/triggers/{name}")]
        .contains(&(method.as_str(), path))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_anothers_is_not_there() {
    let (bank, shop) = two().await;
    let owned = owned(&bank).await;
    let named = named(&owned);
    assert!(named.len() >= 25, "{}", named.len());
    for (method, path, concrete) in &named {
        bank.bare_request(method.clone(), concrete, &[], "").await.is_problem(ErrorKind::Unauthorized);
        if makes(method, path) {
            continue;
        }
        let reply = shop.request(method.clone(), concrete, &[JSON], body(method, path).to_string()).await;
        assert_eq!(reply.status, 404, "{method} {concrete}: {reply:?}");
    }
    let lists =
        ["/v1/functions", "/v1/triggers", "/v1/jobs", "/v1/invocations", "/v1/invocations/dead-letters"];
    for list in lists {
        let (mine, others) = (bank.get(list).await.json(), shop.get(list).await.json());
        let count =
            |list: &Value| list.as_object().unwrap().values().filter_map(Value::as_array).map(Vec::len).sum();
        let (mine, others): (usize, usize) = (count(&mine), count(&others));
        assert!(others == 0 && (mine > 0 || list == "/v1/invocations"), "{list}: {mine} and {others}");
    }
    let metrics = |text: Bytes| String::from_utf8(text.to_vec()).unwrap();
    let (mine, others) = (metrics(bank.get("/metrics").await.body), metrics(shop.get("/metrics").await.body));
    assert!(mine.contains("fanfold_invocations_total{tenant=\"bank\",function=\"f\""), "{mine}");
    assert!(!others.contains("bank") && !others.contains("function=\"f\""), "{others}");
    // Nothing of all that has touched it, and the same names are free for the other.
    for path in
        ["functions/f", "triggers/t", &format!("jobs/{}", owned.job), &format!("invocations/{}", owned.call)]
    {
        assert_eq!(bank.get(&format!("/v1/{path}")).await.status, 200, "{path}");
    }
    assert_eq!(shop.deploy("f", "2").await.json()["version"], 1);
    let gone = shop.request(Method::DELETE, "/v1/invocations/dead-letters?all=true", &[], "").await;
    assert!(gone.status.is_success(), "{gone:?}");
    assert_eq!(
        bank.get("/v1/invocations/dead-letters").await.json()["dead_letters"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_of_another_cannot_be_named() {
    let (bank, shop) = two().await;
    bank.has_object("bank-in", "a.csv", "x\n1\n").await;
    shop.has_object("shop-in", "a.csv", "x\n1\n").await;
    shop.has_object("shop-in", "list.json", "[\"s3://bank-in/a.csv\"]").await;
    assert_eq!(shop.deploy_with("sums", AGGREGATOR, json!({})).await.status, 201);
    assert_eq!(shop.deploy("f", "1").await.status, 201);
    let (own, others) = (json!("s3://shop-in/a.csv"), ["bank-in", "fanfold-bank", "fanfold", "elsewhere"]);
    for bucket in others {
        let place = format!("s3://{bucket}/a.csv");
        for verb in ["read", "write"] {
            let grants = json!({"grants": {verb: [place]}});
            shop.deploy_with("g", HANDLER, grants).await.is_problem(ErrorKind::AccessDenied);
        }
        for job in [
            json!({"function": "sums", "input": place}),
            json!({"function": "sums", "input": format!("s3://{bucket}/")}),
            json!({"function": "sums", "input": format!("s3://{bucket}/**/*.csv")}),
            json!({"function": "sums", "input": format!("manifest://{bucket}/list.json")}),
            json!({"function": "sums", "input": [own, place]}),
            json!({"function": "sums", "input": own, "output": format!("s3://{bucket}/out/")}),
        ] {
            let reply = shop.post_json("/v1/jobs", job.clone()).await;
            assert_eq!(reply.json()["code"], "access-denied", "{job}: {reply:?}");
            if job["output"].is_null() {
                let reply = shop.post_json("/v1/jobs/estimate?sample=1", job.clone()).await;
                assert_eq!(reply.json()["code"], "access-denied", "{job}: {reply:?}");
            }
        }
        for trigger in [
            json!({"bucket": bucket, "function": "f"}),
            json!({"bucket": "shop-in", "job": {"function": "sums", "input": place}}),
            json!({"bucket": "shop-in", "job": {"function": "sums", "input": ["s3://{bucket}/{key}", place]}}),
            json!({"bucket": "shop-in", "job": {
                "function": "sums", "input": "s3://{bucket}/{key}", "output": format!("s3://{bucket}/out/{{id}}/")}}),
        ] {
            let reply = shop.put_json("/v1/triggers/t", trigger.clone()).await;
            assert_eq!(reply.json()["code"], "access-denied", "{trigger}: {reply:?}");
        }
    }
    // What a list of one's own names is looked at as well.
    let listed = json!({"function": "sums", "input": "manifest://shop-in/list.json"});
    shop.post_json("/v1/jobs", listed).await.is_problem(ErrorKind::AccessDenied);
    // One's own can be named, so it is not all refused.
    let job = json!({"function": "sums", "input": own, "output": "s3://shop-in/out/"});
    assert_eq!(shop.post_json("/v1/jobs", job).await.status, 202);
    let granted = json!({"grants": {"read": ["s3://shop-in/"], "write": ["s3://shop-out/a/"]}});
    assert_eq!(shop.deploy_with("g", HANDLER, granted).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_senders_proof_tells_whose_trigger_is_meant() {
    let (bank, shop) = two().await;
    let mut secrets = Vec::new();
    for (service, bucket) in [(&bank, "bank-in"), (&shop, "shop-in")] {
        assert_eq!(service.deploy("f", "1").await.status, 201);
        for (name, auth) in [("by-token", "token"), ("by-signature", "signature")] {
            let document = json!({"bucket": bucket, "function": "f", "reconcile": "0s", "auth": auth});
            let made = service.put_json(&format!("/v1/triggers/{name}"), document).await;
            assert_eq!(made.status, 201, "{made:?}");
            secrets.push(made.json()["secret"].as_str().unwrap().to_owned());
            service.request(Method::POST, &format!("/v1/triggers/{name}/pause"), &[], "").await;
        }
    }
    let [bank_token, bank_key, shop_token, shop_key] = &secrets[..] else { panic!("four") };
    let event = |bucket: &str| {
        json!({"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": {"key": "a", "size": 1, "sequencer": "01"}}}]})
        .to_string()
    };
    let by_token = async |token: &str, bucket: &str| {
        let header = format!("Bearer {token}");
        let headers: Headers<'_> = &[("authorization", &header)];
        bank.bare_request(Method::POST, "/v1/events/s3/by-token", headers, event(bucket)).await
    };
    let by_signature = async |key: &str, bucket: &str| {
        let (body, at) = (event(bucket), (time::now().0 / 1_000).to_string());
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(format!("{at}.{body}").as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let headers: Headers<'_> = &[("x-fanfold-timestamp", &at), ("x-fanfold-signature", &signature)];
        bank.bare_request(Method::POST, "/v1/events/s3/by-signature", headers, body).await
    };
    for (token, key, own, other) in
        [(bank_token, bank_key, "bank-in", "shop-in"), (shop_token, shop_key, "shop-in", "bank-in")]
    {
        for (kept, strange) in [
            (by_token(token, own).await, by_token(token, other).await),
            (by_signature(key, own).await, by_signature(key, other).await),
        ] {
            assert_eq!(kept.json()["kept"], 1, "{kept:?}");
            strange.is_problem(ErrorKind::BucketNotFound);
        }
        // A secret of one kind is none of the other.
        by_token(key, own).await.is_problem(ErrorKind::Unauthorized);
        by_signature(token, own).await.is_problem(ErrorKind::Unauthorized);
    }
    for service in [&bank, &shop] {
        for name in ["by-token", "by-signature"] {
            let shown = service.get(&format!("/v1/triggers/{name}")).await.json();
            assert_eq!(shown["events"]["waiting"], 1, "{shown}");
        }
    }
    by_token("ff_", "bank-in").await.is_problem(ErrorKind::Unauthorized);
}

/// Whose trigger is meant cannot be told without the body.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_has_no_room_is_refused_for_that() {
    let mut tenants = vec![tenant("bank"), tenant("shop")];
    tenants.iter_mut().for_each(|(config, _)| config.strangers_bytes_max = 16);
    let services = Base::new().await.serve_all(tenants).await;
    for (service, bucket) in services.iter().zip(["bank-in", "shop-in"]) {
        assert_eq!(service.deploy("f", "1").await.status, 201);
        let document = json!({"bucket": bucket, "function": "f", "reconcile": "0s", "auth": "signature"});
        assert_eq!(service.put_json("/v1/triggers/t", document).await.status, 201);
    }
    let at = (time::now().0 / 1_000).to_string();
    let headers: Headers<'_> = &[("x-fanfold-timestamp", &at), ("x-fanfold-signature", "sha256=00")];
    let reply = services[0].bare_request(Method::POST, "/v1/events/s3/t", headers, " ".repeat(17)).await;
    reply.is_problem(ErrorKind::ConcurrencyLimit);
    let reply = services[0].bare_request(Method::POST, "/v1/events/s3/t", headers, " ".repeat(16)).await;
    reply.is_problem(ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loud_tenant_holds_up_nobody() {
    let mut tenants = vec![tenant("bank"), tenant("shop")];
    for (config, _) in &mut tenants {
        // So two asynchronous calls run at once, of both tenants together.
        config.tenant_concurrency = 4;
    }
    let services = Base::new().await.serve_all(tenants).await;
    let [bank, shop] = &services[..] else { panic!("two") };
    for service in [bank, shop] {
        assert_eq!(service.deploy("f", "1").await.status, 201);
    }
    for _ in 0..100 {
        assert_eq!(bank.promise("f", &[], "sleep 100").await.status, 202);
    }
    let before = bank.workers.bodies.lock().unwrap().len();
    assert!(before < 90, "the loud one has no backlog any more");
    for _ in 0..3 {
        let id = shop.promise("f", &[], "sleep 99").await.json()["id"].as_str().unwrap().to_owned();
        shop.ended(&id).await;
    }
    let order = bank.workers.bodies.lock().unwrap()[before..].to_vec();
    let last = order.iter().rposition(|body| body == "sleep 99").unwrap();
    assert!(last <= 16, "{order:?}");
    assert!(bank.workers.running.1.load(std::sync::atomic::Ordering::SeqCst) <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_part_grows_has_it_at_once() {
    let mut tenants = vec![tenant("bank"), tenant("shop")];
    // Two asynchronous calls of the bank run at once, and one with another gateway beside this
    // one; places are there for more, which the shop does not need.
    (tenants[0].0.tenant_concurrency, tenants[1].0.tenant_concurrency) = (4, 40);
    let services = Base::new().await.serve_all(tenants).await;
    let bank = &services[0];
    assert_eq!(bank.deploy("f", "1").await.status, 201);
    let admission = &bank.app.admission;
    admission.divide(2);
    let name = "f".parse().unwrap();
    let admits_three = async || {
        let _held = [admission.admit(&name).await, admission.admit(&name).await];
        admission.admit(&name).await.is_ok()
    };
    until("half of the places", admits_three, |admits| !admits).await;
    let first = bank.promise("f", &[], "sleep 60000").await.json()["id"].as_str().unwrap().to_owned();
    bank.until_calls(1).await;
    let second = bank.promise("f", &[], "echo").await.json()["id"].as_str().unwrap().to_owned();
    admission.divide(1);
    // A pull for the shop alone would have lasted for longer.
    let ended = tokio::time::timeout(Duration::from_secs(10), bank.ended(&second)).await;
    assert_eq!(ended.expect("its place at once")["state"], "succeeded");
    bank.delete(&format!("/v1/invocations/{first}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_alone_keeps_what_it_has() {
    let base = Base::new().await;
    let alone = base.serve(|_| {}).await;
    assert_eq!(alone.deploy("f", "1").await.status, 201);
    let id = alone.promise("f", &[], "log x").await.json()["id"].as_str().unwrap().to_owned();
    alone.ended(&id).await;
    let base = alone.stop().await;
    let (mut first, token) = tenant("bank");
    first.tenant = Arc::new(Tenant {
        system_bucket: keys::SYSTEM_BUCKET_DEFAULT.to_owned(),
        scope: String::new(),
        ..Tenant::clone(&first.tenant)
    });
    let services = base.serve_all(vec![(first, token), tenant("shop")]).await;
    for path in ["/v1/functions/f".to_owned(), format!("/v1/invocations/{id}")] {
        assert_eq!(services[0].get(&path).await.status, 200, "{path}");
        assert_eq!(services[1].get(&path).await.status, 404, "{path}");
    }
    // A worker finds one tenant at that place, and with its bounds.
    let known = services[0].base.backbone.list(keys::TENANTS).await.unwrap();
    let known: Vec<Tenant> =
        known.iter().map(|(_, entry)| serde_json::from_slice(&entry.value).unwrap()).collect();
    assert_eq!(known.iter().filter(|tenant| tenant.scope.is_empty()).count(), 1, "{known:?}");
    assert!(known.len() == 2 && known.iter().all(|tenant| tenant.buckets.is_some()), "{known:?}");
    tokio::time::timeout(Duration::from_secs(20), services.into_iter().next().unwrap().stop()).await.unwrap();
}
