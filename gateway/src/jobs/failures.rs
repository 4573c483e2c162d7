// SPDX-License-Identifier: Apache-2.0
//! Why tasks failed, read from the commits that say so.
//!
//! A million tasks may fail with 4 KiB of words each, so nobody holds these of more tasks
//! than are told at once: [`super::progress`] has the kind and the place of the commit.
//! Invariant: each task that failed has a reason, whatever has become of its commit.

use std::collections::{BTreeMap, BTreeSet};

use fanfold_protocol::{Problem, keys};
use futures::TryStreamExt;
use uuid::Uuid;

use super::{
    case,
    error::Result,
    progress::{outcomes, slots::Failure, stragglers::Place},
    vault::Vault,
};

/// The problems of some tasks of one job, by stage and task.
#[derive(Debug)]
pub struct Problems {
    job: Uuid,
    read: BTreeMap<(u32, u32), Problem>,
}

impl Problems {
    /// Reads those of these tasks, each of which failed by the commit at the place before it.
    pub async fn read(vault: &Vault, job: &Uuid, failed: BTreeSet<(Place, u32)>) -> Result<Self> {
        let key = |((stage, group, round), _): &(Place, u32)| keys::commit(job, *stage, *group, *round);
        let mut commits = std::pin::pin!(case::find_each(vault, failed.iter().map(key).collect()));
        let mut read = BTreeMap::new();
        while let Some(commit) = commits.try_next().await? {
            let place = (commit.stage, commit.group, commit.round);
            for (_, task) in failed.range((place, 0)..=(place, u32::MAX)) {
                read.insert((commit.stage, *task), outcomes::why(&commit, *task));
            }
        }
        Ok(Self { job: *job, read })
    }

    /// The problem of a task, if its commit is there.
    pub fn take(&mut self, stage: u32, task: u32) -> Option<Problem> {
        self.read.remove(&(stage, task))
    }

    /// The problem of a task that failed so. What is not written any more is told by its kind.
    pub fn of(&mut self, failure: &Failure) -> Problem {
        let read = self.take(failure.stage, failure.task).filter(|problem| problem.code == failure.code);
        read.unwrap_or_else(|| {
            let key = keys::commit(&self.job, failure.stage, failure.group, failure.round);
            let detail = format!("expected {key} to say why the task failed, it does not; run it again");
            Problem::new(failure.code, detail)
        })
    }
}
