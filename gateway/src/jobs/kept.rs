// SPDX-License-Identifier: Apache-2.0
//! What a job that ended without output keeps for the job that runs it again.
//!
//! Tables leave the output prefix, where nothing may be seen of such a job, for
//! the platform's own bucket; partial states are there already. Keeping is a
//! saving and no promise: what is not there any more is computed again.

use std::collections::{HashMap, HashSet};

use fanfold_protocol::{
    Problem,
    commit::{AnswerRef, Commit, MANIFEST_NAME, Manifest, OutputObject, TaskOutcome},
    job::Job,
    keys, limits,
    plan::StateRef,
    uri::{ObjectUri, Pin},
};
use fanfold_storage::{ListEntry, ListOptions};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{case, error::Result, manifest, vault::Vault};

/// Objects copied at once.
pub const COPIES_AT_ONCE: usize = 16;

/// Copies tables of a job out of its output prefix, as many as may be kept.
pub async fn keep(vault: &Vault, id: &Uuid, tables: &[OutputObject]) {
    let copy = |table: &OutputObject| {
        let table = table.clone();
        async move {
            let to = vault.uri(&keys::kept(id, name(&table.uri)))?;
            match vault.store().copy(&table.uri, Some(&pin(&table)), &to).await {
                // Kept already, by a coordinator that did not get further.
                Ok(_) | Err(fanfold_storage::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(super::error::Error::from(error)),
            }
        }
    };
    let copies: Vec<_> = tables.iter().take(limits::KEPT_TABLES_MAX).map(copy).collect();
    let mut copies = stream::iter(copies).buffer_unordered(COPIES_AT_ONCE);
    while let Some(copied) = copies.next().await {
        if let Err(error) = copied {
            tracing::warn!(job = %id, %error, "a table is not kept; a retry writes it again");
        }
    }
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
#[derive(Debug, Default)]
pub struct Left {
    /// What tasks of the first stage gave, by their number, at the place where it
    /// lies now.
    pub products: HashMap<u32, TaskOutcome>,
    /// What folds gave, by stage and number.
    pub folds: HashMap<(u32, u32), TaskOutcome>,
    /// Why tasks of the first stage failed that gave nothing.
    pub problems: HashMap<u32, Problem>,
    /// Tasks whose function looked at more than its input, by stage and number.
    looked_outside: HashSet<(u32, u32)>,
}

impl Left {
    /// Reads the commits of a job and looks for what they name.
    pub async fn read(vault: &Vault, id: &Uuid, output: &ObjectUri) -> Result<Self> {
        let mut commits = case::read_commits(vault, vault.keys(&keys::commits(id)).await?).await?;
        commits.sort_by_key(|commit| commit.round);
        let places = Places::look(vault, id, output).await?;
        let mut left = Self::default();
        for commit in commits {
            left.take(commit, &places);
        }
        Ok(left)
    }

    /// Forgets what would not be the same again.
    pub fn keep_reproducible(&mut self) {
        self.products.retain(|task, _| !self.looked_outside.contains(&(0, *task)));
        self.folds.retain(|place, _| !self.looked_outside.contains(place));
    }

    /// Takes in a commit; those of later rounds come later.
    fn take(&mut self, commit: Commit, places: &Places) {
        let stage = commit.stage;
        for task in commit.tasks {
            if task.looked_outside {
                self.looked_outside.insert((stage, task.index));
            }
            match task.outcome {
                TaskOutcome::Failed(_) if stage > 0 => {}
                TaskOutcome::Failed(problem) => drop(self.problems.insert(task.index, problem)),
                outcome if stage > 0 => {
                    self.folds.extend(places.find(outcome).map(|found| ((stage, task.index), found)));
                }
                outcome => {
                    self.problems.remove(&task.index);
                    self.products.extend(places.find(outcome).map(|found| (task.index, found)));
                }
            }
        }
    }
}

/// Where products of a job may lie.
struct Places {
    /// Objects that the platform keeps, by key.
    kept: HashMap<String, Pin>,
    /// Objects of the job's own manifest.
    published: HashSet<ObjectUri>,
    job: Uuid,
    vault: Vault,
}

impl Places {
    async fn look(vault: &Vault, id: &Uuid, output: &ObjectUri) -> Result<Self> {
        let mut kept = HashMap::new();
        for prefix in [keys::all_kept(id), keys::all_staged(id)] {
            let listing = vault.store().list(vault.bucket(), &prefix, ListOptions::default());
            let mut listing = std::pin::pin!(listing);
            while let Some(entry) = listing.try_next().await? {
                if let ListEntry::Object { key, pin, .. } = entry {
                    kept.insert(key, pin);
                }
            }
        }
        let published = manifest(vault, output).await?.filter(|manifest| manifest.job == *id);
        let published = published.into_iter().flat_map(|manifest| manifest.objects);
        let published = published.map(|object| object.uri).collect();
        Ok(Self { kept, published, job: *id, vault: vault.clone() })
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
        self.kept.get(uri.key()).is_some_and(|pin| pin.size == size)
    }

    fn table(&self, table: OutputObject) -> Option<OutputObject> {
        if self.published.contains(&table.uri) {
            return Some(table);
        }
        let key = keys::kept(&self.job, name(&table.uri));
        let pin = self.kept.get(&key).filter(|pin| pin.size == table.size)?;
        Some(OutputObject { uri: self.vault.uri(&key).ok()?, etag: pin.etag.clone(), ..table })
    }
}

/// The manifest under an output prefix, if there is one that can be read.
pub async fn manifest(vault: &Vault, output: &ObjectUri) -> Result<Option<Manifest>> {
    let uri = output.join(MANIFEST_NAME)?;
    match vault.store().get(&uri, None).await {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(head) => manifest::whole(vault.store(), &uri, head).await.map(Some),
            Err(_) => Ok(None),
        },
        Err(fanfold_storage::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(super::error::about_input(error)),
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
