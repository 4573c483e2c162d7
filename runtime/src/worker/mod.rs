// SPDX-License-Identifier: Apache-2.0
//! The worker's loop: leases of jobs' tasks, from the queue to their commit.
//!
//! Loops, each of which pulls a lease, works on it and pulls the next. Twice as
//! many as may run tasks at once: while some run, the others commit or fetch what
//! runs next, so that neither disks nor processors wait for each other. Invariant: a lease is acknowledged only after its commit is in the
//! store, or when its job is cancelled.

mod aside;
mod cancel;
mod commit;
mod floor;
mod handover;
mod here;
mod lease;
mod logs;
mod reach;
mod shop;
mod states;
mod tasks;

use std::{sync::Arc, time::Duration};

use fanfold_backbone::{Backbone, Share, Shared};
use fanfold_protocol::{ErrorKind, Problem, seldom::Seldom};
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use self::reach::Reach;
use self::{floor::Floor, shop::Shop};
use crate::Platforms;

/// How long a lease lasts unless it is extended, and what all workers pull with.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How long one pull waits for work.
const PULL_WAIT: Duration = Duration::from_secs(20);
/// A pull that takes longer than this hangs and is begun anew.
const PULL_WATCHDOG: Duration = Duration::from_secs(30);
/// Between two pulls that failed, at first and at most.
const PULL_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is the same for all tenants.
pub(crate) struct Worker {
    pub(crate) name: String,
    /// Leases whose tasks run at once.
    pub(crate) running_max: usize,
    pub(crate) backbone: Backbone,
    pub(crate) platforms: Arc<Platforms>,
    pub(crate) guests: Handle,
    /// Whether the store answers.
    pub(crate) reach: Arc<Reach>,
}

/// Works until `shutdown`, then gives back what only waits, finishes what runs, for at most
/// `patience`, and gives back the rest.
pub(crate) async fn run(
    worker: Worker,
    shutdown: CancellationToken,
    patience: Duration,
) -> Result<(), Problem> {
    let (own, reach) = (worker.platforms.of(None), Arc::clone(&worker.reach));
    let threads = own.data.threads.clone();
    let loops = 2 * worker.running_max;
    let floor = Floor::new(worker, shutdown.clone());
    let pulling =
        repeated(loops, &threads, || pull(Arc::clone(&floor.share), Arc::clone(&reach), shutdown.clone()));
    let data = &own.data;
    let looking = reach.look(&data.store, &data.tenant.system_bucket);
    let suspecting = own.suspects.follow();
    let following = floor.follow();
    let draining = async {
        shutdown.cancelled().await;
        tokio::time::sleep(patience).await;
        floor.drained.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = pulling => {}
        () = looking => {}
        () = suspecting => {}
        () = following => {}
        () = draining => {}
    }
    if shutdown.is_cancelled() {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::ShuttingDown,
        "expected an open backbone to take work from, found it shut down",
    ))
}

/// Runs so many of a loop on these threads until all have ended. One that panics is begun anew: what
/// it was at comes back once its lease lapses, and there are as many as before.
async fn repeated<F>(count: usize, threads: &Handle, begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    for _ in 0..count {
        running.spawn_on(begin(), threads);
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a loop that takes work panicked; it is begun anew");
            // Not at once: it may do nothing else.
            tokio::time::sleep(PULL_BACKOFF.0).await;
            running.spawn_on(begin(), threads);
        }
    }
}

/// One loop, which rests while the store is silent. Ends with `shutdown` or with the
/// backbone.
async fn pull(share: Arc<Share<Arc<Shop>>>, reach: Arc<Reach>, shutdown: CancellationToken) {
    // By all loops.
    static TOLD: Seldom = Seldom::new();
    let mut backoff = PULL_BACKOFF.0;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = reach.answering() => {}
        }
        let pulling = share.pull(PULL_WAIT, |_| 1);
        let pulled = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = reach.silent() => continue,
            pulled = tokio::time::timeout(PULL_WATCHDOG, pulling) => pulled,
        };
        match pulled {
            Ok(Ok(leases)) => {
                backoff = PULL_BACKOFF.0;
                for lease in leases {
                    work(&lease).await;
                }
                continue;
            }
            Ok(Err(fanfold_backbone::Error::Closed)) => return,
            Ok(Err(error)) if TOLD.is_due(error.kind().code()) => {
                tracing::warn!(%error, "work cannot be pulled; trying again");
            }
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!("a pull for work hangs; beginning anew"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(PULL_BACKOFF.1);
    }
}

async fn work(shared: &Shared<Arc<Shop>>) {
    let settled = lease::work(shared).await;
    if let Err(error) = settled {
        // It will be delivered again once its lease lapses; its commit decides.
        tracing::warn!(%error, id = shared.delivery.id, "a lease cannot be settled");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_is_begun_anew_and_one_that_ends_is_not() {
        let begun = AtomicUsize::new(0);
        let begin = || {
            let before = begun.fetch_add(1, SeqCst);
            async move { assert!(before >= 2, "a panic, to be caught by the test") }
        };
        repeated(3, &Handle::current(), begin).await;
        assert_eq!(begun.load(SeqCst), 5);
    }
}
