// SPDX-License-Identifier: Apache-2.0
//! What a job that ended without output keeps for the job that runs it again.
//!
//! Tables leave the output prefix, where nothing may be seen of such a job, for
//! the platform's own bucket; partial states are there already. Keeping is a
//! saving and no promise: what is not there any more is computed again.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use fanfold_protocol::{
    commit::{AnswerRef, Commit, MANIFEST_NAME, Manifest, OutputObject, TaskCommit, TaskOutcome},
    job::Job,
    keys, limits,
    plan::{Plan, StateRef},
    uri::{ObjectUri, Pin},
};
use fanfold_storage::{ListEntry, ListOptions, PutOptions};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::traces::{Came, Traces};
use crate::jobs::{
    case,
    error::Result,
    manifest,
    prints::{Fingerprint, Prints},
    vault::Vault,
};

/// Objects copied at once.
pub const COPIES_AT_ONCE: usize = 16;
/// How long the end of a job waits for what it keeps.
const KEEPING_MAX: Duration = Duration::from_secs(60);

/// Copies tables of a job out of its output prefix, as many as may be kept and as the store
/// copies soon, and leaves a mark by which they are found again when they are old.
pub async fn keep(vault: &Vault, id: &Uuid, tables: &[OutputObject]) {
    if tokio::time::timeout(KEEPING_MAX, keep_all(vault, id, tables)).await.is_err() {
        tracing::warn!(job = %id, "the store is slow to copy; a retry writes again what is not kept");
    }
}

async fn keep_all(vault: &Vault, id: &Uuid, tables: &[OutputObject]) {
    if let Err(error) = mark(vault, id).await {
        tracing::warn!(job = %id, %error, "what is kept for a retry stays as long as the job's records");
    }
    let copy = |table: &OutputObject| {
        let table = table.clone();
        async move {
            let to = vault.uri(&keys::kept(id, name(&table.uri)))?;
            match vault.store().copy(&table.uri, Some(&pin(&table)), &to).await {
                // Kept already, by a coordinator that did not get further.
                Ok(_) | Err(fanfold_storage::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(crate::jobs::error::Error::from(error)),
            }
        }
    };
    let copies: Vec<_> = tables.iter().take(limits::KEPT_TABLES_MAX).map(copy).collect();
    let mut copies = stream::iter(copies).buffer_unordered(COPIES_AT_ONCE);
    while let Some(copied) = copies.next().await {
        if let Err(error) = copied {
            tracing::warn!(job = %id, %error, "a table is not kept; a retry writes it again");
            // So would the others fare, one after the other.
            if error.is_transient() {
                return;
            }
        }
    }
}

async fn mark(vault: &Vault, id: &Uuid) -> Result<()> {
    let mark = vault.uri(&keys::kept_mark(id))?;
    vault.store().put(&mark, Bytes::new(), PutOptions::default()).await?;
    Ok(())
}

/// Removes what the jobs kept that this one has run again.
pub async fn forget(vault: &Vault, job: &Job) -> Result<usize> {
    let (mut count, mut retry) = (0, job.retry);
    while let Some(earlier) = retry {
        count += vault.clear(&keys::all_kept(&earlier.job)).await?;
        count += vault.clear(&keys::all_staged(&earlier.job)).await?;
        let job: Option<Job> = vault.read(&keys::job_document(&earlier.job)).await?;
        retry = job.and_then(|job| job.retry);
    }
    Ok(count)
}

/// What is left of a job that has ended.
pub struct Left {
    /// What came of its tasks.
    pub traces: Traces,
    places: Places,
}

impl Left {
    /// Reads the commits of the job of a plan and looks for what they name. None of
    /// them is held.
    pub async fn read(vault: &Vault, plan: &Plan, output: &ObjectUri) -> Result<Self> {
        let places = Places::look(vault, &plan.job, output).await?;
        let mut left = Self { traces: Traces::new(plan), places };
        let mut commits = std::pin::pin!(case::commits(vault, &plan.job));
        while let Some(commit) = commits.try_next().await? {
            left.take(commit);
        }
        Ok(left)
    }

    /// What a commit says that a task gave, at the place where it lies now; none when
    /// it is gone.
    pub fn find(&self, task: u32, commit: &Commit) -> Option<TaskOutcome> {
        let given = commit.tasks.iter().find(|given| given.index == task)?;
        self.places.find(given.outcome.clone())
    }

    fn take(&mut self, commit: Commit) {
        for TaskCommit { index, outcome, looked_outside, .. } in commit.tasks {
            let came = if matches!(outcome, TaskOutcome::Failed(_)) {
                Came::Failed
            } else if self.places.find(outcome).is_some() {
                Came::Product
            } else {
                Came::Nothing
            };
            self.traces.note((commit.stage, index), commit.round, came, looked_outside);
        }
    }
}

/// Where products of a job may lie.
struct Places {
    /// Tables that the platform keeps, by key.
    kept: HashMap<String, Pin>,
    /// Bytes of what attempts staged in the platform's bucket, by key.
    staged: Prints<u64>,
    /// Objects of the job's own manifest.
    published: Prints<()>,
    job: Uuid,
    vault: Vault,
}

impl Places {
    async fn look(vault: &Vault, id: &Uuid, output: &ObjectUri) -> Result<Self> {
        let list = |prefix: &str| vault.store().list(vault.bucket(), prefix, ListOptions::default());
        let (mut kept, mut staged) = (HashMap::new(), Vec::new());
        let mut listing = std::pin::pin!(list(&keys::all_kept(id)));
        while let Some(entry) = listing.try_next().await? {
            if let ListEntry::Object { key, pin, .. } = entry {
                kept.insert(key, pin);
            }
        }
        let mut listing = std::pin::pin!(list(&keys::all_staged(id)));
        while let Some(entry) = listing.try_next().await? {
            if let ListEntry::Object { key, pin, .. } = entry {
                staged.push((Fingerprint::of(key.as_bytes()), pin.size));
            }
        }
        let published = published(vault, id, output).await?;
        Ok(Self { kept, staged: Prints::new(staged), published, job: *id, vault: vault.clone() })
    }

    /// The product at the place where it lies now; none when it is gone.
    fn find(&self, outcome: TaskOutcome) -> Option<TaskOutcome> {
        match outcome {
            TaskOutcome::Table(None) => Some(outcome),
            TaskOutcome::Table(Some(table)) => self.table(table).map(|table| TaskOutcome::Table(Some(table))),
            TaskOutcome::State(ref state) => self.has(state).then_some(outcome),
            TaskOutcome::Mapped { table, state } if self.has(&state) => {
                let table = match table {
                    Some(table) => Some(self.table(table)?),
                    None => None,
                };
                Some(TaskOutcome::Mapped { table, state })
            }
            TaskOutcome::Mapped { .. } => None,
            TaskOutcome::Answer(AnswerRef::Inline(_)) => Some(outcome),
            // Its object is swept once it lies beside the manifest.
            TaskOutcome::Answer(AnswerRef::Object(_)) | TaskOutcome::Failed(_) => None,
        }
    }

    /// Whether a state is still there.
    fn has(&self, state: &StateRef) -> bool {
        let (uri, size) = match state {
            StateRef::Inline(_) => return true,
            StateRef::Object { uri, size, .. } => (uri, *size),
            StateRef::Runs { uri, pin, .. } => (uri, pin.size),
        };
        self.staged.find(&Fingerprint::of(uri.key().as_bytes())).any(|found| *found == size)
    }

    fn table(&self, table: OutputObject) -> Option<OutputObject> {
        if self.published.place(&Fingerprint::of_object(&table.uri)).is_some() {
            return Some(table);
        }
        let key = keys::kept(&self.job, name(&table.uri));
        let pin = self.kept.get(&key).filter(|pin| pin.size == table.size)?;
        Some(OutputObject { uri: self.vault.uri(&key).ok()?, etag: pin.etag.clone(), ..table })
    }
}

/// The objects that a job's own manifest names, if it is still there.
async fn published(vault: &Vault, id: &Uuid, output: &ObjectUri) -> Result<Prints<()>> {
    let head = manifest_head(vault, output).await?.filter(|head| head.job == *id);
    let Some(head) = head else { return Ok(Prints::default()) };
    manifest::prints(vault.store(), &output.join(MANIFEST_NAME)?, head).await
}

/// The manifest under an output prefix, if there is one that can be read, without
/// what its shards name.
pub async fn manifest_head(vault: &Vault, output: &ObjectUri) -> Result<Option<Manifest>> {
    use fanfold_storage::Error::{NotFound, TooLarge};
    match vault.store().get(&output.join(MANIFEST_NAME)?, None).await {
        Ok(bytes) => manifest::parsed(&bytes, |head| head.ok()).await,
        Err(NotFound { .. } | TooLarge { .. }) => Ok(None),
        Err(error) => Err(crate::jobs::error::about_input(error)),
    }
}

/// The state of a table as its task wrote it.
pub fn pin(table: &OutputObject) -> Pin {
    Pin { etag: table.etag.clone(), size: table.size, version_id: None }
}

/// The last part of an object's key.
pub fn name(uri: &ObjectUri) -> &str {
    uri.key().rsplit('/').next().unwrap_or_default()
}
