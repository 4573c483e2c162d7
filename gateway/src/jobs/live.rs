// SPDX-License-Identifier: Apache-2.0
//! A job's progress as it is shown: that of its coordinator, or one read for it.
//!
//! Whoever looks here changes nothing; only the job's coordinator does.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fanfold_protocol::keys;

use super::{
    case::{self, Case},
    error::Result,
    policy::Policy,
    progress::Progress,
    stragglers::Stragglers,
    vault::Vault,
};

/// A running job, as far as others in this process may see it.
pub struct Live {
    progress: Mutex<Progress>,
    stragglers: Mutex<Stragglers>,
}

impl Live {
    /// A job's progress, to be shared.
    pub fn new(progress: Progress, stragglers: Stragglers) -> Self {
        Self { progress: Mutex::new(progress), stragglers: Mutex::new(stragglers) }
    }

    /// A job's progress as the store has it, for whoever only looks.
    pub async fn read(vault: &Vault, case: Case) -> Result<Self> {
        let id = case.job.id;
        let policy = Policy::of(&case);
        let mut progress = Progress::new(case.plan, policy);
        for commit in case::read_commits(vault, vault.keys(&keys::commits(&id)).await?).await? {
            progress.absorb(commit);
        }
        Ok(Self::new(progress, Stragglers::new(Duration::MAX)))
    }

    /// The progress as it stands. Never held across an await.
    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leases that take a while. Locked after the progress, if both are.
    pub fn stragglers(&self) -> MutexGuard<'_, Stragglers> {
        self.stragglers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
