// SPDX-License-Identifier: Apache-2.0
//! What is written down of one job, read together.
//!
//! Where every coordinator begins, the first one and each that takes over. A
//! job without a plan's head was never accepted, and is no case.

use std::collections::BTreeSet;

use fanfold_backbone::{Backbone, CasOutcome};
use fanfold_protocol::{
    answer::Answer,
    commit::{ANSWER_INLINE_BYTES_MAX, Commit},
    job::{Job, JobOutcome, JobState},
    keys,
    plan::Plan,
    uri::ObjectUri,
};
use fanfold_storage::{ListEntry, ListOptions};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{
    Jobs, claim,
    ending::{self, Ending},
    error::{Error, Result},
    record::JobRecord,
    vault::Vault,
};

/// Commits read at once.
const READS_AT_ONCE: usize = 32;

/// A job with all that is known of it but its commits.
pub struct Case {
    /// As accepted.
    pub job: Job,
    /// The head of its plan.
    pub plan: Plan,
    /// Where its output goes.
    pub output: ObjectUri,
    /// How it is to end, when that is decided.
    pub ending: Option<Ending>,
    /// How it ended.
    pub outcome: Option<JobOutcome>,
    /// What is shown of it.
    pub record: JobRecord,
    /// The revision of the record in the backbone.
    revision: Option<u64>,
}

impl Case {
    /// Reads a job; none when there is no such job.
    pub async fn open(jobs: &Jobs, id: &Uuid) -> Result<Option<Self>> {
        let (vault, backbone) = (&jobs.inner.vault, &jobs.inner.backbone);
        let (document, plan, ending, outcome) =
            (keys::job_document(id), keys::plan(id), keys::ending(id), keys::outcome(id));
        let entry = async { Ok::<_, Error>(backbone.get(&keys::job_record(id)).await?) };
        let (job, plan, ending, outcome, entry) = tokio::try_join!(
            vault.read::<Job>(&document),
            vault.read::<Plan>(&plan),
            vault.read::<Ending>(&ending),
            vault.read::<JobOutcome>(&outcome),
            entry,
        )?;
        let (Some(job), Some(plan)) = (job, plan) else { return Ok(None) };
        let output = vault.output_of(&job.document, id)?;
        let revision = entry.as_ref().map(|entry| entry.revision);
        let shown = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let record = match shown {
            Some(record) => record,
            None => restored(vault, &job, &plan, output.clone(), outcome.as_ref()).await?,
        };
        Ok(Some(Self { job, plan, output, ending, outcome, record, revision }))
    }

    /// Makes sure that the job holds the place of its output; answers whether it does. When another
    /// one writes there, it is decided that this one fails.
    pub async fn hold(&self, jobs: &Jobs) -> Result<bool> {
        match claim::hold(&jobs.inner.backbone, &self.job, &self.output).await {
            Err(Error::Refused(taken)) => {
                ending::decide(&jobs.inner.vault, &self.job.id, JobState::Failed, Some(taken)).await?;
                Ok(false)
            }
            held => held.map(|()| true),
        }
    }

    /// Shows the record. Another coordinator's record of a job that has ended
    /// stays.
    pub async fn write_record(&mut self, backbone: &Backbone) -> Result<()> {
        let key = keys::job_record(&self.job.id);
        let value = serde_json::to_vec(&self.record).map_err(|e| Error::damaged(&key, e))?;
        loop {
            let written = match self.revision {
                Some(revision) => backbone.update(&key, value.clone(), revision).await?,
                None => backbone.create(&key, value.clone()).await?,
            };
            match written {
                CasOutcome::Stored(revision) => {
                    self.revision = Some(revision);
                    return Ok(());
                }
                CasOutcome::Conflict(None) => self.revision = None,
                CasOutcome::Conflict(Some(entry)) => {
                    self.revision = Some(entry.revision);
                    let found: Option<JobRecord> = serde_json::from_slice(&entry.value).ok();
                    if found.is_some_and(|found| found.state.is_terminal()) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// The record of a job of which the backbone has none.
pub async fn restore(jobs: &Jobs, id: &Uuid) -> Result<Option<JobRecord>> {
    let vault = &jobs.inner.vault;
    let (document, plan, outcome) = (keys::job_document(id), keys::plan(id), keys::outcome(id));
    let (job, plan, outcome) = tokio::try_join!(
        vault.read::<Job>(&document),
        vault.read::<Plan>(&plan),
        vault.read::<JobOutcome>(&outcome)
    )?;
    let (Some(job), Some(plan)) = (job, plan) else { return Ok(None) };
    let output = vault.output_of(&job.document, id)?;
    restored(vault, &job, &plan, output, outcome.as_ref()).await.map(Some)
}

async fn restored(
    vault: &Vault,
    job: &Job,
    plan: &Plan,
    output: ObjectUri,
    outcome: Option<&JobOutcome>,
) -> Result<JobRecord> {
    let mut record = JobRecord::new(job, plan, output);
    if let Some(outcome) = outcome {
        let result = if outcome.result_uri.is_some() { small_result(vault, &job.id).await? } else { None };
        record.end(outcome, result);
    }
    Ok(record)
}

/// The result of a job that has ended, when it is small enough for a record.
pub async fn small_result(vault: &Vault, id: &Uuid) -> Result<Option<Answer>> {
    let uri = vault.uri(&keys::result(id))?;
    match vault.store().head(&uri).await {
        Ok(meta) if meta.pin.size <= ANSWER_INLINE_BYTES_MAX as u64 => vault.read(&keys::result(id)).await,
        Ok(_) | Err(fanfold_storage::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Those of these commits that are there as they come, in no particular order, for whoever holds
/// few of them: one may be of 64 tasks that failed, with 4 KiB of words each.
pub fn find_each(vault: &Vault, keys: BTreeSet<String>) -> impl Stream<Item = Result<Commit>> + Send + use<> {
    let vault = vault.clone();
    let found = stream::iter(keys).map(move |key| find_commit(vault.clone(), key));
    let found = found.buffer_unordered(READS_AT_ONCE);
    found.try_filter_map(|commit| std::future::ready(Ok(commit)))
}

/// The same of commits that must be there.
pub fn read_each(vault: &Vault, keys: Vec<String>) -> impl Stream<Item = Result<Commit>> + Send + use<> {
    let vault = vault.clone();
    stream::iter(keys).map(move |key| read_commit(vault.clone(), key)).buffer_unordered(READS_AT_ONCE)
}

/// All commits of a job as they come, in no particular order; their keys are not held
/// either.
pub fn commits(vault: &Vault, id: &Uuid) -> impl Stream<Item = Result<Commit>> + Send + use<> {
    let listed = vault.store().list(vault.bucket(), &keys::commits(id), ListOptions::default());
    let vault = vault.clone();
    let read = move |entry: ListEntry| read_commit(vault.clone(), entry.name().to_owned());
    listed.map_err(Error::from).map_ok(read).try_buffer_unordered(READS_AT_ONCE)
}

async fn find_commit(vault: Vault, key: String) -> Result<Option<Commit>> {
    vault.read(&key).await
}

async fn read_commit(vault: Vault, key: String) -> Result<Commit> {
    vault.expect(&key).await
}

/// Puts the keys of a job's commits into the order in which least is held of them while
/// they are taken in: states that were merged are of no use any more, and folds say so.
pub fn later_stages_first(id: &Uuid, keys: &mut [String]) {
    keys.sort_by_cached_key(|key| std::cmp::Reverse(keys::parse_commit(id, key).map(|(stage, ..)| stage)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_of_folds_come_before_what_they_merged() {
        let id = Uuid::from_u128(7);
        let place = |(stage, group, round)| keys::commit(&id, stage, group, round);
        let mut listed = [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 0), (2, 0, 0)].map(place);
        later_stages_first(&id, &mut listed);
        assert_eq!(listed, [(2, 0, 0), (1, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 1)].map(place));
    }
}
