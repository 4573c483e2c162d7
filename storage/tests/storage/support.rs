// SPDX-License-Identifier: Apache-2.0
//! An embedded server for a test, the test environment's Python, and bytes that
//! can be told apart.

use std::{net::SocketAddr, path::PathBuf};

use fanfold_protocol::uri::ObjectUri;
use fanfold_storage::{Credentials, Server, ServerConfig, Store, StoreConfig};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

#[path = "../../../tests/src/until.rs"]
mod until;

pub use until::until;

/// A running embedded server, in this process, over a folder of its own.
pub struct Embedded {
    pub root: TempDir,
    pub credentials: Credentials,
    pub address: SocketAddr,
    server: Server,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Embedded {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), fanfold_storage::server::FREE_BYTES_MIN).await
    }

    pub async fn start_in(root: TempDir, free_bytes_min: u64) -> Self {
        let credentials = Credentials::load_or_create(&root.path().join("credentials.json")).unwrap();
        let config = ServerConfig { root: root.path().join("store"), credentials: credentials.clone() };
        let server = Server::open_reserving(config, free_bytes_min).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (served, token) = (server.clone(), shutdown.clone());
        let serving = tokio::spawn(async move { served.serve(listener, token).await });
        Self { root, credentials, address, server, shutdown, serving }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn config(&self) -> StoreConfig {
        StoreConfig::at(self.endpoint(), self.credentials.clone())
    }

    /// The way without a socket. The endpoint is one at which nobody listens.
    pub fn direct(&self) -> StoreConfig {
        StoreConfig {
            server: Some(self.server.clone()),
            endpoint: Some("http://127.0.0.1:9".to_owned()),
            ..self.config()
        }
    }

    pub fn store(&self) -> Store {
        Store::connect(self.config()).unwrap()
    }

    /// Stops the server and gives its folder back.
    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.root
    }
}

/// A program of the test environment, which `cargo xtask test` sets up.
pub fn program(name: &str) -> PathBuf {
    let venv = std::env::var_os("FANFOLD_TEST_VENV").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/test-env/venv"),
        PathBuf::from,
    );
    let path = venv.join("bin").join(name);
    assert!(
        path.exists(),
        "expected {} of the test environment, found none; run `cargo xtask test`",
        path.display()
    );
    path
}

pub fn uri(bucket: &str, key: &str) -> ObjectUri {
    ObjectUri::new(bucket, key).unwrap()
}

/// Bytes in which every place can be told from its neighbours.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length.div_ceil(8))
        .flat_map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(length)
        .collect()
}
