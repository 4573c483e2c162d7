//! The worker's loop: leases of jobs' tasks, from the queue to their commit.
//!
//! Loops, each of which pulls a lease, works on it and pulls the next. Twice as
//! many as may run tasks at once: while some run, the others commit or fetch what
//! runs next, so that neither disks nor processors wait for each other. Invariant: a lease is acknowledged only after its commit is in the
//! store, or when its job is cancelled.

mod cancel;
mod commit;
mod lease;
mod reach;
mod states;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fanfold_backbone::{Backbone, Delivery};
use fanfold_protocol::{
    ErrorKind, Problem, function::Version, keys, limits, names::FunctionName, uri::ObjectUri,
};
use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::cancel::Cancels;
pub(crate) use self::reach::Reach;
use crate::{Platform, host::store_problem};

/// How long a lease lasts unless it is extended, and what all workers pull with.
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How long one pull waits for work.
const PULL_WAIT: Duration = Duration::from_secs(20);
/// A pull that takes longer than this hangs and is begun anew.
const PULL_WATCHDOG: Duration = Duration::from_secs(30);
/// Between two pulls that failed, at first and at most.
const PULL_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Versions kept in memory.
const VERSIONS_MAX: usize = 1_024;

/// What the loops share.
pub(crate) struct Worker {
    pub(crate) name: String,
    /// Leases whose tasks run at once.
    pub(crate) running_max: usize,
    pub(crate) backbone: Backbone,
    pub(crate) platform: Arc<Platform>,
    pub(crate) guests: Handle,
    /// Whether the store answers.
    pub(crate) reach: Arc<Reach>,
}

/// A worker at work.
pub(crate) struct Shop {
    pub(crate) worker: Worker,
    pub(crate) cancels: Cancels,
    /// Set when what still runs is to be given back.
    pub(crate) drained: CancellationToken,
    /// Turns to run tasks.
    pub(crate) turns: Semaphore,
    versions: Mutex<HashMap<(FunctionName, u32), Arc<Version>>>,
}

/// Works until `shutdown`, then finishes what runs, for as long as draining
/// may take, and gives back the rest.
pub(crate) async fn run(worker: Worker, shutdown: CancellationToken) -> Result<(), Problem> {
    let threads = worker.platform.data.threads.clone();
    let loops = 2 * worker.running_max;
    let shop = Arc::new(Shop {
        cancels: Cancels::new(worker.backbone.clone()),
        turns: Semaphore::new(worker.running_max),
        worker,
        drained: CancellationToken::new(),
        versions: Mutex::default(),
    });
    let mut running = JoinSet::new();
    for _ in 0..loops {
        running.spawn_on(pull(Arc::clone(&shop), shutdown.clone()), &threads);
    }
    let data = &shop.worker.platform.data;
    let looking = shop.worker.reach.look(&data.store, &data.system_bucket);
    let following = shop.worker.platform.suspects.follow();
    let listening = shop.cancels.listen();
    let draining = async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits::DRAIN_TIMEOUT).await;
        shop.drained.cancel();
        std::future::pending::<()>().await;
    };
    let done = async { while running.join_next().await.is_some() {} };
    tokio::select! {
        () = done => {}
        () = listening => {}
        () = looking => {}
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

/// One loop, which rests while the store is silent. Ends with `shutdown` or with the
/// backbone.
async fn pull(shop: Arc<Shop>, shutdown: CancellationToken) {
    let (mut backoff, reach) = (PULL_BACKOFF.0, &shop.worker.reach);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = reach.answering() => {}
        }
        let pulling = shop.worker.backbone.pull(keys::TASK_QUEUE, 1, PULL_WAIT, LEASE);
        let pulled = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = reach.silent() => continue,
            pulled = tokio::time::timeout(PULL_WATCHDOG, pulling) => pulled,
        };
        match pulled {
            Ok(Ok(deliveries)) => {
                backoff = PULL_BACKOFF.0;
                for delivery in deliveries {
                    work(&shop, delivery).await;
                }
                continue;
            }
            Ok(Err(fanfold_backbone::Error::Closed)) => return,
            Ok(Err(error)) => tracing::warn!(%error, "work cannot be pulled; trying again"),
            Err(_) => tracing::warn!("a pull for work hangs; beginning anew"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff) => {}
        }
        backoff = (backoff * 2).min(PULL_BACKOFF.1);
    }
}

async fn work(shop: &Arc<Shop>, delivery: Delivery) {
    let settled = lease::work(shop, &delivery).await;
    if let Err(error) = settled {
        // It will be delivered again once its lease lapses; its commit decides.
        tracing::warn!(%error, id = delivery.id, "a lease cannot be settled");
    }
}

impl Shop {
    /// A version as it was deployed; versions never change.
    pub(crate) async fn version(&self, name: &str, number: u32) -> Result<Arc<Version>, Problem> {
        let name: FunctionName = name.parse()?;
        let key = (name, number);
        if let Some(version) = self.versions().get(&key) {
            return Ok(Arc::clone(version));
        }
        let data = &self.worker.platform.data;
        let uri = ObjectUri::new(&data.system_bucket, keys::version(&key.0, number))?;
        let bytes = data.store.get(&uri, None).await.map_err(|error| match error {
            fanfold_storage::Error::NotFound { .. } => Problem::new(
                ErrorKind::VersionNotFound,
                format!("expected version {number} of {} to be deployed, found none; deploy it again", key.0),
            ),
            error => store_problem(&error),
        })?;
        let version: Version = serde_json::from_slice(&bytes).map_err(|error| {
            crate::internal(format!("expected version {number} of {} as JSON, found: {error}", key.0))
        })?;
        let version = Arc::new(version);
        let mut versions = self.versions();
        if versions.len() >= VERSIONS_MAX {
            versions.clear();
        }
        versions.insert(key, Arc::clone(&version));
        Ok(version)
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, HashMap<(FunctionName, u32), Arc<Version>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
