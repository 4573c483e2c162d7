// SPDX-License-Identifier: Apache-2.0
//! A job's progress as it is shown: that of its coordinator, or one read for it.
//!
//! Whoever looks here changes nothing; only the job's coordinator does.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::TryStreamExt;

use crate::jobs::{
    case::{self, Case},
    error::Result,
    plan::Shards,
    progress::{Progress, policy::Policy, stragglers::Stragglers},
    vault::Vault,
};

/// A running job, as far as others in this process may see it.
pub struct Live {
    progress: Mutex<Progress>,
    stragglers: Mutex<Stragglers>,
    shards: tokio::sync::Mutex<Shards>,
}

impl Live {
    /// A job's progress, to be shared.
    pub fn new(vault: &Vault, progress: Progress, stragglers: Stragglers) -> Self {
        let shards = tokio::sync::Mutex::new(Shards::new(vault.clone(), progress.plan()));
        Self { progress: Mutex::new(progress), stragglers: Mutex::new(stragglers), shards }
    }

    /// A job's progress as the store has it, for whoever only looks.
    pub async fn read(vault: &Vault, case: Case) -> Result<Self> {
        let id = case.job.id;
        let policy = Policy::of(&case);
        let mut progress = Progress::to_show(case.plan, policy);
        let mut commits = std::pin::pin!(case::commits(vault, &id));
        while let Some(commit) = commits.try_next().await? {
            progress.absorb(commit);
        }
        Ok(Self::new(vault, progress, Stragglers::new(Duration::MAX)))
    }

    /// The progress as it stands. Never held across an await.
    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leases that take a while. Locked after the progress, if both are.
    pub fn stragglers(&self) -> MutexGuard<'_, Stragglers> {
        self.stragglers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its tasks read, for whoever shows pages of them: mostly of the same shard.
    pub async fn shards(&self) -> tokio::sync::MutexGuard<'_, Shards> {
        self.shards.lock().await
    }
}
