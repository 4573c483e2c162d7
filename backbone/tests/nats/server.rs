// SPDX-License-Identifier: Apache-2.0
//! NATS servers for tests: started on ephemeral loopback ports over a scratch folder, ended by their handle.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fanfold_backbone::{Backbone, NatsConfig};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::conformance::until;

/// How long servers may take to come up.
const UP: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Release {
    /// 2.9.10, Debian 12's `nats-server`.
    Debian,
    /// 2.15.1, from the test environment.
    Current,
}

impl Release {
    fn program(self) -> PathBuf {
        let (path, version) = match self {
            Release::Debian => (PathBuf::from("/usr/sbin/nats-server"), "v2.9.10"),
            Release::Current => {
                let venv = std::env::var_os("FANFOLD_TEST_VENV").map_or_else(
                    || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-env/venv"),
                    PathBuf::from,
                );
                (venv.join("bin/nats-server"), "v2.15.1")
            }
        };
        let found = Command::new(&path).arg("--version").output();
        let found = found.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        assert!(
            found.as_ref().is_ok_and(|found| found.contains(version)),
            "expected nats-server {version} at {}, found {found:?}; run `cargo xtask test`",
            path.display()
        );
        path
    }
}

/// One to three servers that know each other.
pub(crate) struct Servers {
    release: Release,
    folder: TempDir,
    ports: Vec<u16>,
    children: Vec<Option<Child>>,
}

impl Servers {
    /// Starts `count` servers, a cluster where they are more than one.
    pub(crate) async fn start(release: Release, count: usize) -> Self {
        Self::start_with(release, count, "").await
    }

    /// As [`Servers::start`], with further lines of configuration.
    pub(crate) async fn start_with(release: Release, count: usize, more: &str) -> Self {
        let mut servers = Self::configured(release, count, more);
        for at in 0..count {
            servers.run(at);
        }
        servers.wait_until_up().await;
        servers
    }

    /// As [`Servers::start_with`], but none runs yet.
    pub(crate) fn configured(release: Release, count: usize, more: &str) -> Self {
        let ports = free_ports(2 * count);
        let folder = tempfile::tempdir().unwrap();
        let mut servers = Servers { release, folder, ports, children: Vec::new() };
        for at in 0..count {
            servers.children.push(None);
            servers.configure(at, count, more);
        }
        servers
    }

    /// Waits until a server that runs takes connections, whether or not it can serve.
    pub(crate) async fn wait_until_reached(&self, at: usize) {
        let connection = || tokio::net::TcpStream::connect(("127.0.0.1", self.ports[at]));
        until("a server that takes connections", connection, Result::is_ok).await.unwrap();
    }

    fn configure(&self, at: usize, count: usize, more: &str) {
        let folder = self.folder.path();
        let routes: Vec<String> =
            (0..count).map(|n| format!("nats://127.0.0.1:{}", self.ports[count + n])).collect();
        let mut text = format!(
            "server_name: n{at}\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: {:?}, max_mem: 256MB, max_file: 8GB }}\n",
            self.ports[at],
            folder.join(format!("store-{at}")),
        );
        text += more;
        text.push('\n');
        if count > 1 {
            text += &format!(
                "cluster {{ name: test, listen: 127.0.0.1:{}, routes: {routes:?} }}\n",
                self.ports[count + at]
            );
        }
        fs::write(folder.join(format!("{at}.conf")), text).unwrap();
    }

    /// Starts one server again over its data.
    pub(crate) fn run(&mut self, at: usize) {
        let folder = self.folder.path();
        let log =
            fs::File::options().create(true).append(true).open(folder.join(format!("{at}.log"))).unwrap();
        let child = Command::new(self.release.program())
            .arg("-c")
            .arg(folder.join(format!("{at}.conf")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children[at] = Some(child);
    }

    /// Ends one server as a crash would.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.children[at].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Removes all that a server that was ended had.
    pub(crate) fn wipe(&self, at: usize) {
        fs::remove_dir_all(self.folder.path().join(format!("store-{at}"))).unwrap();
    }

    /// Ends one server as an operator would, so that it writes everything down.
    pub(crate) fn stop(&mut self, at: usize) {
        if let Some(mut child) = self.children[at].take() {
            let pid = child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            child.wait().unwrap();
        }
    }

    /// Waits until JetStream answers on every server that runs, over the plain protocol.
    pub(crate) async fn wait_until_up(&self) {
        let begun = Instant::now();
        for (at, child) in self.children.iter().enumerate() {
            if child.is_none() {
                continue;
            }
            while let Err(error) = answers(&self.url(at)).await {
                let log = fs::read_to_string(self.folder.path().join(format!("{at}.log")));
                assert!(begun.elapsed() < UP, "server {at} does not come up: {error}: {log:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub(crate) fn url(&self, at: usize) -> String {
        format!("nats://127.0.0.1:{}", self.ports[at])
    }

    /// A configuration of a deployment of its own.
    pub(crate) fn config(&self, prefix: &str) -> NatsConfig {
        let mut config = NatsConfig::new((0..self.children.len()).map(|at| self.url(at)));
        config.prefix = prefix.to_owned();
        config.replicas = self.children.len();
        config.shards = 2;
        config.keys_bytes_max = 64 << 20;
        config.shard_bytes_max = 64 << 20;
        config.dead_bytes_max = 16 << 20;
        config
    }

    /// Opens a backbone; a cluster that still votes is asked again.
    pub(crate) async fn open(&self, prefix: &str) -> Backbone {
        let begun = Instant::now();
        let mut config = self.config(prefix);
        // Dozens of servers share the machine that tests run on.
        config.operation_timeout = Duration::from_secs(15);
        loop {
            match Backbone::nats(config.clone()).await {
                Ok(backbone) => return backbone,
                Err(error) => assert!(begun.elapsed() < UP, "{error}"),
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until every copy of a stream has everything.
    pub(crate) async fn wait_until_current(&self, stream: &str) {
        let begun = Instant::now();
        let is_current = async || {
            let client = async_nats::connect(self.url(0)).await.ok()?;
            let found = async_nats::jetstream::new(client).get_stream(stream).await.ok()?;
            let copies = &found.cached_info().cluster.as_ref()?.replicas;
            Some(
                copies.len() + 1 == self.ports.len() / 2
                    && copies.iter().all(|copy| copy.current && !copy.offline),
            )
        };
        while is_current().await != Some(true) {
            assert!(begun.elapsed() < UP, "the copies of {stream} do not catch up");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The server that leads a stream.
    pub(crate) async fn leader(&self, stream: &str) -> usize {
        let running = self.children.iter().position(Option::is_some).expect("a server that runs");
        let client = async_nats::connect(self.url(running)).await.unwrap();
        let found = async_nats::jetstream::new(client).get_stream(stream).await.unwrap();
        let leader = found.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
        leader.unwrap().trim_start_matches('n').parse().unwrap()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks a server's JetStream for a stream that there is not.
async fn answers(url: &str) -> Result<(), String> {
    let client = match async_nats::connect(url).await {
        Ok(client) => client,
        Err(error) if error.kind() == async_nats::ConnectErrorKind::AuthorizationViolation => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    match async_nats::jetstream::new(client).get_stream("none").await {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("not found") => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Ports that nobody had a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
