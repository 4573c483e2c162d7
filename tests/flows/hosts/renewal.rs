// SPDX-License-Identifier: Apache-2.0
//! Certificates that are renewed under a gateway and a worker that run.

use std::sync::Arc;

use fanfold_protocol::{keys, worker::Member};
use fanfold_tests::until;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_rustls::TlsConnector;

use super::{versions::of_gateway, *};

const BOTH: [&str; 2] = ["gateway-1", "worker-1"];

/// Waits until both have taken new certificates so often.
async fn renewed(deployment: &Deployment, times: usize) {
    for name in BOTH {
        let count = async || deployment.log(name).matches("certificates were renewed").count();
        until("certificates to be renewed", count, |count| *count == times).await;
    }
}

/// The certificate that a worker shows to whoever connects now.
async fn shown(deployment: &Deployment, address: &str) -> Option<Vec<u8>> {
    let connector = TlsConnector::from(Arc::new(of_gateway(deployment)));
    let stream = TcpStream::connect(address).await.ok()?;
    let stream = connector.connect("127.0.0.1".try_into().ok()?, stream).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

/// When a part's certificate ends, as its metrics say.
async fn ends(deployment: &Deployment, name: &str) -> f64 {
    let metrics = format!("{}/metrics", deployment.endpoint(name).unwrap());
    let text = deployment.http.get(metrics).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
    let row = "fanfold_certificate_expiration_timestamp_seconds ";
    text.lines().find_map(|line| line.strip_prefix(row)).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_their_authority_are_renewed_while_all_goes_on() {
    let mut deployment = Deployment::start(plan((Release::Debian, 1), 1, 1)).await.unwrap();
    deployment.deploy("gateway-1", "hello").await.unwrap();
    greets(&deployment, "gateway-1").await;
    let backbone = deployment.backbone("gateway-1").await.unwrap();
    let record = backbone.get(&keys::member(&"worker-1".parse().unwrap())).await.unwrap().unwrap();
    let Member { address, .. } = serde_json::from_slice(&record.value).unwrap();
    backbone.close().await;
    let before = shown(&deployment, &address).await.unwrap();
    for name in BOTH {
        // `fanfold certs` makes them for two thousand years.
        assert!(ends(&deployment, name).await > 60e9);
    }
    let made = ["certs", "--out", "others", "--gateway", "127.0.0.1", "--worker", "127.0.0.1"];
    let made = deployment.fanfold(&made).unwrap();
    assert!(made.status.success(), "{made:?}");
    let other = |name: &str| deployment.path(&format!("others/{name}"));
    let own = |name: &str| deployment.path(&format!("certs/{name}"));

    // A key without its certificate is told, and new connections are made as before.
    std::fs::copy(other("worker-127.0.0.1.key"), own("worker-127.0.0.1.key")).unwrap();
    says(&deployment, "worker-1", "certificates that do not fit were not taken").await;
    says(&deployment, "worker-1", "tls.key: expected the key of certs/worker-127.0.0.1.pem").await;
    assert_eq!(shown(&deployment, &address).await.unwrap(), before);
    greets(&deployment, "gateway-1").await;

    // All of another authority, while the one before is believed as well.
    let both = [own("ca.pem"), other("ca.pem")].map(|path| std::fs::read_to_string(path).unwrap());
    let bundle = deployment.write("both.pem", &both.concat()).unwrap();
    std::fs::rename(bundle, own("ca.pem")).unwrap();
    let text = std::fs::read(other("worker-127.0.0.1.pem")).unwrap();
    let expected = CertificateDer::from_pem_slice(&text).unwrap().to_vec();
    for name in ["gateway-127.0.0.1.pem", "gateway-127.0.0.1.key", "worker-127.0.0.1.pem"] {
        std::fs::rename(other(name), own(name)).unwrap();
    }
    renewed(&deployment, 1).await;
    assert_eq!(shown(&deployment, &address).await, Some(expected));
    greets(&deployment, "gateway-1").await;

    // The new one alone. The worker starts with it, and the gateway, which has run all the while, is believed.
    std::fs::rename(other("ca.pem"), own("ca.pem")).unwrap();
    renewed(&deployment, 2).await;
    assert_eq!(deployment.stop("worker-1").await.unwrap(), Some(0));
    deployment.launch("worker-1").unwrap();
    deployment.ready("worker-1").await.unwrap();
    greets(&deployment, "gateway-1").await;
    assert_eq!(workers_live(&deployment, "gateway-1").await, "1");
}
