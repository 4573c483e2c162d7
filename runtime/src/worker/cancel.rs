// SPDX-License-Identifier: Apache-2.0
//! Which jobs are to be stopped.
//!
//! The bus tells quickly and may lose; the mark in the backbone stays and is
//! looked at before a lease is begun and with every heartbeat. Invariant: a
//! lease that is registered before its job's mark is looked at cannot miss the
//! cancellation.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fanfold_backbone::{Backbone, Event};
use fanfold_protocol::keys;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Every job's cancellations.
const PATTERN: &str = "jobs.*.cancel";

/// The leases that run, by job.
pub(crate) struct Cancels {
    backbone: Backbone,
    running: Mutex<HashMap<Uuid, Running>>,
}

struct Running {
    token: CancellationToken,
    leases: usize,
}

/// A lease's place among those that run; dropped when it ends.
pub(crate) struct Registration<'a> {
    cancels: &'a Cancels,
    job: Uuid,
    /// Cancelled together with the job.
    pub(crate) token: CancellationToken,
}

impl Cancels {
    pub(crate) fn new(backbone: Backbone) -> Self {
        Self { backbone, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Uuid, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a lease of this job runs.
    pub(crate) fn register(&self, job: Uuid) -> Registration<'_> {
        let mut running = self.running();
        let entry =
            running.entry(job).or_insert_with(|| Running { token: CancellationToken::new(), leases: 0 });
        entry.leases += 1;
        Registration { cancels: self, job, token: entry.token.clone() }
    }

    /// Looks for the mark, and cancels what runs of the job when it is there.
    pub(crate) async fn check(&self, job: Uuid) -> fanfold_backbone::Result<bool> {
        let marked = self.backbone.get(&keys::job_cancel(&job)).await?.is_some();
        if marked {
            self.cancel(job);
        }
        Ok(marked)
    }

    fn cancel(&self, job: Uuid) {
        if let Some(running) = self.running().get(&job) {
            running.token.cancel();
        }
    }

    /// Listens for as long as the backbone is open.
    pub(crate) async fn listen(&self) {
        let mut events = self.backbone.follow_subject(PATTERN);
        while let Some(event) = events.next().await {
            match event {
                Event::Published { subject, .. } => {
                    if let Some(job) = subject.split('.').nth(1).and_then(|id| id.parse().ok()) {
                        self.cancel(job);
                    }
                }
                // What was said before listening began, or was lost.
                Event::Lagged(_) => self.check_all().await,
            }
        }
    }

    async fn check_all(&self) {
        let jobs: Vec<_> = self.running().keys().copied().collect();
        for job in jobs {
            if let Err(error) = self.check(job).await {
                tracing::warn!(%error, %job, "a job's cancellation cannot be looked up");
            }
        }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut running = self.cancels.running();
        let gone = running.get_mut(&self.job).is_some_and(|entry| {
            entry.leases -= 1;
            entry.leases == 0
        });
        if gone {
            running.remove(&self.job);
        }
    }
}
