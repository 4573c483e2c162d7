//! The backbone over NATS: the conformance suite on both releases, single and as a cluster of three.

#![allow(clippy::unwrap_used, reason = "tests, helpers included")]

#[path = "../conformance/mod.rs"]
mod conformance;
mod server;

use std::sync::Arc;

use conformance::Fixture;
use server::{Release, Servers};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// A server or cluster of its own for each case: what one leaves behind is no excuse for the next.
async fn open(release: Release, count: usize) -> Fixture {
    let turn = turn(count).await;
    let servers = Servers::start(release, count).await;
    let backbone = servers.open("suite").await;
    Fixture { backbone, _keep: Box::new((servers, turn)) }
}

/// One cluster at a time: three servers that vote need the machine's attention.
async fn turn(count: usize) -> Option<OwnedMutexGuard<()>> {
    static TURN: std::sync::LazyLock<Arc<Mutex<()>>> = std::sync::LazyLock::new(Arc::default);
    if count > 1 { Some(Arc::clone(&TURN).lock_owned().await) } else { None }
}

async fn debian() -> Fixture {
    open(Release::Debian, 1).await
}

async fn current() -> Fixture {
    open(Release::Current, 1).await
}

async fn debian_cluster() -> Fixture {
    open(Release::Debian, 3).await
}

async fn current_cluster() -> Fixture {
    open(Release::Current, 3).await
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
