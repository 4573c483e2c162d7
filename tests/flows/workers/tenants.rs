// SPDX-License-Identifier: Apache-2.0
//! Workers of a gateway of several tenants: whose calls are counted where.

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
