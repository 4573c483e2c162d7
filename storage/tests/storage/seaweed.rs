// SPDX-License-Identifier: Apache-2.0
//! The suite against SeaweedFS, a store that others run.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fanfold_storage::{Credentials, Store, StoreConfig};
use tempfile::TempDir;

use crate::{
    suite::{self, Difference},
    support::program,
};

/// What SeaweedFS 4.48 does otherwise than S3.
const DIFFERENCES: &[Difference] = &[
    // A put into a bucket that is not there makes it.
    Difference { case: "a_put_makes_no_bucket", says: "put without a bucket: Ok" },
    // Keys lie in a tree of folders: `p/` comes before `p.txt`, and pages are cut there.
    Difference { case: "listings_are_in_order", says: "out of order" },
    // Keys that are no clean paths are refused or folded together.
    Difference { case: "keys_are_no_paths", says: "put \"../a\"" },
    // Its default is to delete a bucket with all that is in it.
    Difference { case: "a_bucket_with_objects_stays", says: "deleted with an object in it: Ok" },
];

struct Seaweed {
    child: Child,
    config: StoreConfig,
    _dir: TempDir,
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Ports that were free a moment ago. The gRPC ports are 10,000 above.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut found = Vec::new();
    while found.len() < N {
        let Ok(low) = TcpListener::bind(("127.0.0.1", 0)) else { continue };
        let port = low.local_addr().unwrap().port();
        let twin = port.checked_add(10_000).is_some_and(|p| TcpListener::bind(("127.0.0.1", p)).is_ok());
        if twin && !found.contains(&port) {
            found.push(port);
        }
    }
    found.try_into().unwrap()
}

async fn start() -> Seaweed {
    let dir = tempfile::tempdir().unwrap();
    let credentials = Credentials::random().unwrap();
    let identities = serde_json::json!({ "identities": [{
        "name": "test",
        "credentials": [{ "accessKey": credentials.access_key, "secretKey": credentials.secret_key }],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]});
    let config = dir.path().join("s3.json");
    std::fs::write(&config, identities.to_string()).unwrap();
    let [master, volume, filer, s3] = free_ports();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // Each bucket takes seven volumes at once. Their number must be given: by itself the server
    // divides the free space of the disk by their size, and a fuller disk has room for few buckets.
    let child = Command::new(program("weed"))
        .args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
        .arg(format!("-dir={}", data.display()))
        .args(["-master.volumeSizeLimitMB=64", "-volume.max=1000", "-filer", "-s3"])
        .arg("-volume.minFreeSpace=64MiB")
        .args(["-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg(format!("-s3.config={}", config.display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-s3.port={s3}"))
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let config = StoreConfig::at(format!("http://127.0.0.1:{s3}"), credentials);
    let server = Seaweed { child, config, _dir: dir };
    wait_until_ready(&server).await;
    server
}

/// Ready is when a bucket can be made and written to.
async fn wait_until_ready(server: &Seaweed) {
    let store = Store::connect(server.config.clone()).unwrap();
    let begun = Instant::now();
    loop {
        let last = async {
            store.ensure_bucket("ready").await?;
            store.put(&crate::support::uri("ready", "x"), "x".into(), Default::default()).await
        };
        let Err(error) = last.await else { return };
        if begun.elapsed() > Duration::from_secs(60) {
            let log = std::fs::read_to_string(server._dir.path().join("log")).unwrap_or_default();
            panic!("SeaweedFS must be ready within a minute, found: {error}; its log:\n{log}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_passes_the_suite() {
    let server = start().await;
    suite::run(&Store::connect(server.config.clone()).unwrap(), DIFFERENCES).await;
}
