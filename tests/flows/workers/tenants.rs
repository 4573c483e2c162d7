// SPDX-License-Identifier: Apache-2.0
//! Workers of a gateway of several tenants: whose calls are counted where, and whose retries are spent.

use std::path::PathBuf;

use fanfold_gateway::{Gateway, GatewayConfig, Token};
use fanfold_protocol::{keys, tenant::Tenant};
use fanfold_storage::{Credentials, Server, Store, StoreConfig};
use tokio_util::sync::DropGuard;

use super::*;

/// A store of this process, for as long as the guard is kept.
async fn store(root: PathBuf) -> (Store, DropGuard) {
    let credentials = Credentials::random().unwrap();
    let config = fanfold_storage::ServerConfig { root, credentials: credentials.clone() };
    let server = Server::open(config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move { server.serve(listener, stopped).await });
    (Store::connect(StoreConfig::at(endpoint, credentials)).unwrap(), stop.drop_guard())
}

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

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_for_the_tenant_that_makes_them() {
    let deployment = Deployment::new().await;
    let _worker = deployment.worker("a", 4).await;
    let folder = tempfile::tempdir().unwrap();
    let (store, _stop) = store(folder.path().join("s3")).await;
    let (configs, tokens): (Vec<_>, Vec<_>) = [tenant("bank"), tenant("shop")].into_iter().unzip();
    let (backbone, dispatch) = (deployment.backbone.clone(), deployment.dispatch.clone());
    let gateway = Gateway::shared(configs, store, backbone, dispatch).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics = format!("http://{}/metrics", listener.local_addr().unwrap());
    let (apps, shutdown) = (gateway.apps().to_vec(), CancellationToken::new());
    let serving = tokio::spawn(gateway.serve(listener, shutdown.clone()));
    for (app, calls) in apps.iter().zip([3, 1]) {
        for _ in 0..calls {
            app.dispatch.invoke.clone().oneshot(invocation(0)).await.unwrap().result.unwrap();
        }
    }
    let client = reqwest::Client::new();
    for (token, (name, calls)) in tokens.iter().zip([("bank", 3), ("shop", 1)]) {
        let answer = client.get(&metrics).bearer_auth(token.reveal()).send().await.unwrap();
        let text = answer.text().await.unwrap();
        for line in [
            format!("fanfold_worker_calls_total{{tenant=\"{name}\",end=\"answered\"}} {calls}\n"),
            format!("fanfold_worker_calls_total{{tenant=\"{name}\",end=\"lost\"}} 0\n"),
            // Workers are everybody's.
            format!("fanfold_workers_live{{tenant=\"{name}\"}} 1\n"),
        ] {
            assert!(text.contains(&line), "expected {line} in\n{text}");
        }
    }
    shutdown.cancel();
    serving.await.unwrap();
}

/// One whose calls all fail spends what it has for retries, and nothing of another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_has_spent_its_retries_leaves_others_theirs() {
    let deployment = Deployment::new().await;
    let (backbone, authority) = (&deployment.backbone, &deployment.authority);
    let asked = Arc::new(AtomicUsize::new(0));
    let start = async |name: &str| {
        let counted = Arc::clone(&asked);
        let invoke = service_fn(move |_: Invocation| {
            counted.fetch_add(1, SeqCst);
            async { Err::<Outcome, _>(Problem::new(ErrorKind::StoreUnavailable, "as the test says")) }
        });
        let unable = Calls { invoke: BoxCloneSyncService::new(invoke), ..calls(&Arc::default(), 8) };
        let (guests, patience) = (Arc::default(), limits::DRAIN_TIMEOUT);
        Worker::start_with(backbone, authority, name, guests, unable, Vec::new(), patience).await
    };
    let _workers = [start("a").await, start("b").await];
    let folder = tempfile::tempdir().unwrap();
    let (store, _stop) = store(folder.path().join("s3")).await;
    let configs = ["bank", "shop"].map(|name| tenant(name).0).into();
    let (backbone, dispatch) = (backbone.clone(), deployment.dispatch.clone());
    let gateway = Gateway::shared(configs, store, backbone, dispatch).await.unwrap();
    deployment.until("both are there", |live| live == 2).await;
    // How many workers a call of a tenant is tried at.
    let tried = async |tenant: usize| {
        let (before, invoke) = (asked.load(SeqCst), gateway.apps()[tenant].dispatch.invoke.clone());
        let problem = invoke.oneshot(invocation(0)).await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::StoreUnavailable, "{problem}");
        asked.load(SeqCst) - before
    };
    let mut retried = 0;
    while tried(0).await == 2 {
        retried += 1;
        assert!(retried < 1_000, "retries have no end");
    }
    assert_eq!((retried > 50, tried(1).await), (true, 2), "{retried}");
}
