// SPDX-License-Identifier: Apache-2.0
//! Gateways and workers of releases that are too far apart.

use std::sync::Arc;

use bytes::Bytes;
use fanfold_protocol::{
    keys,
    worker::{INVOKE_PATH, MEMBER_LEASE, Member, NOT_STARTED, WIRE_HEADER, WIRE_VERSION_MIN},
};
use http_body_util::Full;
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use super::*;

/// What no release knows any more that knows ours.
const OLD: u32 = WIRE_VERSION_MIN - 1;

/// What a gateway shows to workers.
pub(super) fn of_gateway(deployment: &Deployment) -> ClientConfig {
    let read = |name: &str| std::fs::read(deployment.path(&format!("certs/{name}"))).unwrap();
    let certificates = |name: &str| {
        let text = read(name);
        CertificateDer::pem_slice_iter(&text).map(Result::unwrap).collect::<Vec<_>>()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let key = PrivateKeyDer::from_pem_slice(&read("gateway-127.0.0.1.key")).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(certificates("gateway-127.0.0.1.pem"), key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_that_are_too_far_apart_are_refused_and_both_sides_say_why() {
    let deployment = Deployment::start(plan((Release::Debian, 1), 1, 1)).await.unwrap();
    deployment.deploy("gateway-1", "hello").await.unwrap();
    greets(&deployment, "gateway-1").await;
    let backbone = deployment.backbone("gateway-1").await.unwrap();
    let record = backbone.get(&keys::member(&"worker-1".parse().unwrap())).await.unwrap().unwrap();
    let worker: Member = serde_json::from_slice(&record.value).unwrap();

    // An old worker, which is known and gets no calls.
    let name = "worker-of-old".parse().unwrap();
    let key = keys::member(&name);
    let instance = uuid::Uuid::new_v4();
    let old = Member { name, instance, wire: OLD, wire_min: OLD, ..worker.clone() };
    backbone.put_with_ttl(&key, serde_json::to_vec(&old).unwrap(), 4 * MEMBER_LEASE).await.unwrap();
    says(&deployment, "gateway-1", "a worker was refused: it speaks another version").await;
    says(&deployment, "gateway-1", "worker-of-old").await;
    assert_eq!(workers_live(&deployment, "gateway-1").await, "1");
    greets(&deployment, "gateway-1").await;
    backbone.close().await;

    // An old gateway, to which the worker says what it expects.
    let connector = TlsConnector::from(Arc::new(of_gateway(&deployment)));
    let stream = TcpStream::connect(&worker.address).await.unwrap();
    let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("https://worker{INVOKE_PATH}")).header(WIRE_HEADER, OLD);
    let response = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
    assert!(response.headers().contains_key(NOT_STARTED));
    says(&deployment, "worker-1", "a gateway was refused: it speaks another version").await;
}
