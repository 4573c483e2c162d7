// SPDX-License-Identifier: Apache-2.0
//! What a start waits for, and what it tells at once.

use fanfold_protocol::limits::START_PATIENCE;
use fanfold_tests::until;

use super::*;

/// Whoever starts all at once starts some of it before its store.
#[tokio::test]
async fn a_store_that_cannot_serve_yet_is_waited_for() {
    const WAITS: &str = "the store cannot serve yet";
    let troubles = (Troubles { busy: 100, ..Troubles::default() }, 0);
    let mut deployment =
        Deployment::start(Plan { troubles, ..plan((Release::Debian, 1), 1, 1) }).await.unwrap();
    deployment.deploy("gateway-1", "hello").await.unwrap();
    let both = ["worker-1", "gateway-1"];
    for name in both {
        assert_eq!(deployment.stop(name).await.unwrap(), Some(0));
    }
    deployment.proxy.troubled();
    for name in both {
        deployment.launch(name).unwrap();
    }
    for name in both {
        says(&deployment, name, WAITS).await;
    }
    // Each has asked several times.
    until("several tries", async || deployment.proxy.counts().1, |tries| *tries >= 16).await;
    deployment.proxy.calm();
    for name in both {
        deployment.ready(name).await.unwrap();
        assert_eq!(deployment.log(name).matches(WAITS).count(), 1, "{}", deployment.log(name));
    }
    greets(&deployment, "gateway-1").await;
}

/// Nor does whoever starts all at once start NATS first.
#[tokio::test]
async fn a_nats_that_refuses_connections_is_waited_for() {
    const WAITS: &str = "NATS cannot serve yet";
    let mut deployment = Deployment::start(plan((Release::Debian, 1), 1, 1)).await.unwrap();
    deployment.deploy("gateway-1", "hello").await.unwrap();
    let both = ["worker-1", "gateway-1"];
    for name in both {
        assert_eq!(deployment.stop(name).await.unwrap(), Some(0));
    }
    deployment.stop("nats-1").await.unwrap();
    for name in both {
        deployment.launch(name).unwrap();
    }
    for name in both {
        says(&deployment, name, WAITS).await;
    }
    deployment.launch("nats-1").unwrap();
    for name in both {
        deployment.ready(name).await.unwrap();
        assert_eq!(deployment.log(name).matches(WAITS).count(), 1, "{}", deployment.log(name));
    }
    greets(&deployment, "gateway-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_time_mends_is_told_at_once() {
    let deployment = Deployment::start(plan((Release::Debian, 1), 1, 1)).await.unwrap();
    deployment.write("refused", "nobody\nsecret\n").unwrap();
    for (part, file) in [("gateway", "gateway-1.toml"), ("worker", "worker-1.toml")] {
        let sound = std::fs::read_to_string(deployment.path(file)).unwrap();
        let urls = sound.lines().find(|line| line.starts_with("urls = ")).unwrap();
        let refused = sound.replace("\"store\"", "\"refused\"");
        // Nobody listens there: for one of them alone it would be waited.
        let away = refused.replace(urls, "urls = [\"nats://127.0.0.1:1\"]");
        let unknown = sound.replace(&format!("nats/{part}-1.password"), "refused");
        let unknown = unknown.replace(&deployment.proxy.endpoint(), "http://127.0.0.1:1");
        let store = "store.credentials: expected access";
        let nats =
            "nats: expected credentials that NATS accepts, found them refused; correct `user` or `password`";
        for (wrong, named) in [
            (refused, [store, store]),
            (away, [store, "nats: expected NATS at"]),
            (unknown, ["store.endpoint: expected a store at http://127.0.0.1:1", nats]),
        ] {
            deployment.write("wrong.toml", &wrong).unwrap();
            let begun = Instant::now();
            let output = deployment.fanfold(&[part, "--config", "wrong.toml"]).unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(3), "{said}");
            assert!(begun.elapsed() < START_PATIENCE, "{:?}: {said}", begun.elapsed());
            for named in named.iter().chain(&["no port was bound"]) {
                assert!(said.contains(named), "expected {named} in {said}");
            }
        }
    }
}

/// Between gateways and workers, where all files are there and fit each other.
pub fn certificates_that_nobody_would_take_are_told(deployment: &Deployment) {
    let made = deployment.fanfold(&["certs", "--out", "others", "--worker", "127.0.0.1"]).unwrap();
    assert!(made.status.success(), "{made:?}");
    let authority = ("certs/ca.pem", "others/ca.pem", "tls.ca: expected the authority of");
    for (part, other, purpose) in [("gateway", "worker", "clients"), ("worker", "gateway", "servers")] {
        let sound = std::fs::read_to_string(deployment.path(&format!("{part}-1.toml"))).unwrap();
        let (own, theirs) = (format!("certs/{part}-"), format!("certs/{other}-"));
        let purpose = format!("tls.cert: expected a certificate for {purpose}");
        for (from, to, expected) in [(own.as_str(), theirs.as_str(), purpose.as_str()), authority] {
            deployment.write("unfit.toml", &sound.replace(from, to)).unwrap();
            for more in [&[][..], &["--check"]] {
                let output =
                    deployment.fanfold(&[&[part, "--config", "unfit.toml"][..], more].concat()).unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(3), "{part} {more:?}: {said}");
                assert!(said.contains(expected), "{part} {more:?}: expected {expected} in {said}");
            }
        }
    }
}
