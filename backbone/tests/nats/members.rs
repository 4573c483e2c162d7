// SPDX-License-Identifier: Apache-2.0
//! Fault F3: members of a cluster are killed under load.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fanfold_backbone::Backbone;
use futures::future::join_all;
use tokio::time::sleep;

use crate::conformance::until;
use crate::faults::{drain, messages};
use crate::server::{Release, Servers};

/// How the load goes, and whether it shall end.
#[derive(Default)]
struct Load {
    queued: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    /// Waits until some hundred more messages were accepted.
    async fn goes_on(&self) {
        let from = self.queued.load(Ordering::Acquire);
        let queued = async || self.queued.load(Ordering::Acquire);
        until("publishing to go on", queued, |queued| *queued >= from + 600).await;
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

/// Queues batches until it is over; answers what was accepted and the longest time that one batch took.
async fn produce(b: Backbone, load: Arc<Load>) -> (BTreeSet<String>, Duration) {
    let (mut accepted, mut longest, mut n) = (BTreeSet::new(), Duration::ZERO, 0);
    while !load.is_over() {
        let (batch, begun) = (messages(n..n + 20), Instant::now());
        until("a batch to be taken", || b.enqueue("q", batch.clone()), Result::is_ok).await.unwrap();
        longest = longest.max(begun.elapsed());
        accepted.extend(batch.into_iter().map(|message| message.id));
        n += 20;
        load.queued.store(n, Ordering::Release);
        // Load, but no more than can be taken out again in the time of a test.
        sleep(Duration::from_millis(20)).await;
    }
    (accepted, longest)
}

/// Increments one key by compare-and-set until it is over; answers what was stored under which revision, and of how
/// many increments nobody knows.
async fn count(b: Backbone, load: Arc<Load>) -> (Vec<(u64, u64)>, u64) {
    let (mut stored, mut unsure) = (Vec::new(), 0);
    while !load.is_over() {
        let Ok(Some(held)) = b.get("count").await else { continue };
        let next = number(&held.value) + 1;
        match b.update("count", next.to_string(), held.revision).await {
            Ok(outcome) => stored.extend(outcome.revision().map(|revision| (next, revision))),
            Err(_) => unsure += 1,
        }
    }
    (stored, unsure)
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// No increment was won twice, and none that was acknowledged is missing.
async fn check_count(b: &Backbone, counted: Vec<(Vec<(u64, u64)>, u64)>) {
    let unsure: u64 = counted.iter().map(|(_, unsure)| unsure).sum();
    let mut stored: Vec<_> = counted.into_iter().flat_map(|(stored, _)| stored).collect();
    stored.sort_unstable();
    let twice: Vec<_> = stored.windows(2).filter(|pair| pair[0].0 == pair[1].0).collect();
    assert!(twice.is_empty(), "two winners of one race (count, revision): {twice:?}");
    let (held, sure) = (b.get("count").await.unwrap().unwrap(), stored.len() as u64);
    let count = number(&held.value);
    assert!((sure..=sure + unsure).contains(&count), "{count} for {sure} sure and {unsure} unsure: {held:?}");
}

/// A follower and then the leader are killed; nothing that was queued is lost, and publishing goes on within ten
/// seconds each time.
async fn survives_lost_members(release: Release) {
    let mut servers = Servers::start(release, 3).await;
    let mut config = servers.config("members");
    config.shards = 1;
    let b = Backbone::nats(config).await.unwrap();
    b.put("count", "0").await.unwrap();
    let load = Arc::new(Load::default());
    let producing = tokio::spawn(produce(b.clone(), Arc::clone(&load)));
    let counting: Vec<_> = (0..4).map(|_| tokio::spawn(count(b.clone(), Arc::clone(&load)))).collect();
    load.goes_on().await;
    let leader = servers.leader("members-work-0").await;
    let follower = (leader + 1) % 3;
    servers.kill(follower);
    load.goes_on().await;
    servers.run(follower);
    servers.wait_until_up().await;
    for stream in ["members-work-0", "members-keys"] {
        servers.wait_until_current(stream).await;
    }
    let leader = servers.leader("members-work-0").await;
    servers.kill(leader);
    load.goes_on().await;
    load.is_over.store(true, Ordering::Release);
    let (accepted, longest) = producing.await.unwrap();
    let counted = join_all(counting).await.into_iter().map(Result::unwrap).collect();
    assert!(longest < Duration::from_secs(10), "publishing stopped for {longest:?}");
    assert!(accepted.len() > 1_000, "{} accepted", accepted.len());
    drain(&b, "q", &accepted).await;
    match release {
        Release::Current => check_count(&b, counted).await,
        // Here 2.9 breaks its promise in one run of six: docs/decisions/0024 says how, and what operators are told.
        Release::Debian => assert!(b.get("count").await.unwrap().is_some()),
    }
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_lost_members_2_9() {
    survives_lost_members(Release::Debian).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_lost_members_2_15() {
    survives_lost_members(Release::Current).await;
}
