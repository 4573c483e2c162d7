// SPDX-License-Identifier: Apache-2.0
//! The backbone over NATS: the conformance suite on both releases, single and as a cluster of three, and what only
//! lost servers, connections and consumers show.

#![allow(clippy::unwrap_used, reason = "tests, helpers included")]

#[path = "../conformance/mod.rs"]
mod conformance;
mod faults;
mod members;
mod permissions;
mod server;
mod slow;
mod starts;

use std::sync::{Arc, Weak};

use conformance::Fixture;
use server::{Release, Servers};
use tokio::sync::Mutex;

/// Servers that the cases of a suite share while one of them runs.
type Shared = Mutex<Weak<Servers>>;

/// A handle of its own on one deployment: cases use names of their own, and run beside each other as processes do.
async fn open(shared: &Shared, release: Release, count: usize) -> Fixture {
    let mut running = shared.lock().await;
    let servers = match running.upgrade() {
        Some(servers) => servers,
        None => Arc::new(Servers::start(release, count).await),
    };
    *running = Arc::downgrade(&servers);
    drop(running);
    let backbone = servers.open("suite").await;
    Fixture { backbone, _keep: Box::new(servers) }
}

async fn debian() -> Fixture {
    static SHARED: Shared = Mutex::const_new(Weak::new());
    open(&SHARED, Release::Debian, 1).await
}

async fn current() -> Fixture {
    static SHARED: Shared = Mutex::const_new(Weak::new());
    open(&SHARED, Release::Current, 1).await
}

async fn debian_cluster() -> Fixture {
    static SHARED: Shared = Mutex::const_new(Weak::new());
    open(&SHARED, Release::Debian, 3).await
}

async fn current_cluster() -> Fixture {
    static SHARED: Shared = Mutex::const_new(Weak::new());
    open(&SHARED, Release::Current, 3).await
}

mod suite_2_9 {
    crate::conformance_suite!(crate::debian);
}

mod suite_2_15 {
    crate::conformance_suite!(crate::current);
}

mod suite_2_9_cluster {
    crate::conformance_suite!(crate::debian_cluster);
}

mod suite_2_15_cluster {
    crate::conformance_suite!(crate::current_cluster);
}
