// SPDX-License-Identifier: Apache-2.0
//! Fault F10: a full disk refuses puts with 507 before any acknowledgement;
//! reads and deletes go on; room made is used without a restart.
//!
//! A small tmpfs is the disk, which takes root; without root the reserve of the
//! server stands in for the missing room.

use std::{path::Path, process::Command};

use fanfold_storage::{Error, PutOptions, Store};
use tempfile::TempDir;

use crate::support::{Embedded, pattern, uri};

struct Mount(TempDir);

impl Mount {
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .output()
            .unwrap();
        done.status.success().then_some(Self(dir))
    }

    fn folder(&self) -> TempDir {
        tempfile::tempdir_in(self.0.path()).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the server's threads may still hold files open.
        let path: &Path = self.0.path();
        assert!(Command::new("umount").arg("-l").arg(path).status().unwrap().success());
    }
}

/// Puts until the disk is full; returns how many were acknowledged.
async fn fill(store: &Store, length: usize) -> usize {
    for n in 0..10_000 {
        let at = uri("full", &format!("{length}/{n}"));
        match store.put(&at, pattern(length).into(), PutOptions::default()).await {
            Ok(_) => {}
            Err(Error::Full { .. }) => return n,
            Err(error) => panic!("put {n} of {length} bytes: {error}"),
        }
    }
    panic!("the disk never filled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_puts_and_nothing_else() {
    let Some(mount) = Mount::new(96 << 20) else {
        return without_root().await;
    };
    let server = Embedded::start_in(mount.folder(), 24 << 20).await;
    let store = server.store();
    store.create_bucket("full").await.unwrap();
    for length in [5 << 20, 100_000, 3_000] {
        let written = fill(&store, length).await;
        println!("{written} objects of {length} bytes fit");
        for n in [0, written.saturating_sub(1)].into_iter().filter(|n| *n < written) {
            let at = uri("full", &format!("{length}/{n}"));
            assert_eq!(store.get(&at, None).await.unwrap(), pattern(length), "{at}");
        }
        let refused = uri("full", &format!("{length}/{written}"));
        assert!(
            matches!(store.head(&refused).await, Err(Error::NotFound { .. })),
            "a refused put left {refused}"
        );
    }
    for n in 0..3 {
        store.delete(&uri("full", &format!("{}/{n}", 5 << 20))).await.unwrap();
    }
    // The files go in the background, so the room appears a moment later.
    let at = uri("full", "after");
    let begun = std::time::Instant::now();
    while let Err(error) = store.put(&at, pattern(1 << 20).into(), PutOptions::default()).await {
        assert!(matches!(error, Error::Full { .. }) && begun.elapsed().as_secs() < 5, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(store.get(&at, None).await.unwrap(), pattern(1 << 20));
    drop(server.stop().await);
}

async fn without_root() {
    println!("no root: the reserve of the server stands in for a small disk");
    let server = Embedded::start_in(tempfile::tempdir().unwrap(), u64::MAX / 2).await;
    let found = server.store().create_bucket("full").await;
    assert!(matches!(found, Err(Error::Full { .. })), "{found:?}");
    server.stop().await;
}
