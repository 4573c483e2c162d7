// SPDX-License-Identifier: Apache-2.0
//! Fault F10, the whole platform: a disk that is full refuses what would have to be
//! kept before it is acknowledged, goes on reading and calling, and needs no restart
//! once there is room. A small tmpfs is the disk, which takes the right to mount: where
//! there is none, the test fails unless it is left out on purpose. The halves of it, the
//! store and the backbone, are tested without by their crates.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use fanfold_tests::service::Service;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Client;

/// More than the store keeps free, and what a service without jobs takes.
const DISK_BYTES: u64 = 160 << 20;
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);
/// Set by whoever may not mount and goes without what needs it.
const GO_WITHOUT: &str = "FANFOLD_TESTS_WITHOUT_MOUNTS";

struct Disk(TempDir);

impl Disk {
    /// None where it cannot be mounted, and `FANFOLD_TESTS_WITHOUT_MOUNTS` is set.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output()
            .unwrap();
        if mounted.status.success() {
            return Some(Self(folder));
        }
        let told = String::from_utf8_lossy(&mounted.stderr).into_owned();
        assert!(
            std::env::var_os(GO_WITHOUT).is_some(),
            "expected to mount a tmpfs, which needs root, found: {told}; set {GO_WITHOUT}=1 to go without a disk that is full"
        );
        println!("a disk that is full is left out: none can be mounted here");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[0; 1 << 16]).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a service that was just killed may still hold files open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_what_must_be_kept_and_nothing_else() {
    let Some(disk) = Disk::mount() else { return };
    let service = Service::start(disk.path()).unwrap();
    for function in ["hello", "column-stats"] {
        service.deploy(function).unwrap();
    }
    service.put("s3://bank/a.csv", "x\n1\n2\n").await.unwrap();
    let client = Client::new(&service);
    let job = json!({ "function": "column-stats", "input": "s3://bank/a.csv", "cache": false });
    let before = client.job(job.clone()).await.body;
    assert_eq!(before["state"], "succeeded", "{before}");

    let filler = disk.fill();
    for _ in 0..3 {
        client.post("/v1/jobs", &job).await.refused("storage-full", &["room"]);
        let put = service.put("s3://bank/b.csv", "x\n3\n").await.unwrap_err();
        assert!(put.to_string().contains("full"), "{put:#}");
        // Nothing of a call has to be kept.
        assert_eq!(client.invoke("hello", &json!("Ada")).await.body, "hello, Ada");
        let listed = client.get("/v1/jobs").await.body;
        assert_eq!(listed["jobs"].as_array().map(Vec::len), Some(1), "{listed}");
        let again = client.get(&format!("/v1/jobs/{}", before["id"].as_str().unwrap())).await.body;
        assert_eq!(again["result"], before["result"]);
    }

    std::fs::remove_file(filler).unwrap();
    let room = Instant::now();
    let after: Value = loop {
        let answer = client.job(job.clone()).await;
        if answer.body["state"].is_string() {
            break answer.body;
        }
        assert!(room.elapsed() < RECOVERED_WITHIN, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&after["state"], &after["result"]), (&json!("succeeded"), &before["result"]), "{after}");
    service.put("s3://bank/b.csv", "x\n3\n").await.unwrap();
}
