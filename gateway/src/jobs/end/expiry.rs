// SPDX-License-Identifier: Apache-2.0
//! Forgetting what has been there long enough.
//!
//! Looks again and again for four things: what is kept to save other jobs work; parts
//! of plans whose gateway was killed before the job was accepted; what jobs that were
//! stopped left where their output would be; and jobs that ended long ago. Invariants:
//! output is never touched, also where it lies in the platform's own bucket; and a job
//! loses its head first, so that whatever is left of it, nobody takes it for one that
//! has not ended.

use std::{collections::HashSet, ops::Range, pin::pin, time::Duration};

use fanfold_protocol::{
    job::{Job, JobOutcome, JobState},
    keys,
    time::{self, Timestamp},
};
use fanfold_storage::{ListEntry, ListOptions};
use futures::TryStreamExt;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::sweep::Sweep;
use crate::jobs::{Jobs, claim, error::Result, vault::Vault};

/// Looks while a job may serve others, and the least pause between two.
const LOOKS: u32 = 7 * 24;
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Last sweeps that are made up for when no gateway was there: of so long ago.
const SWEEPS_MISSED: Duration = Duration::from_secs(24 * 3_600);

impl Jobs {
    /// Forgets what is old, again and again.
    pub(in crate::jobs) async fn forget_old(self) {
        let config = &self.inner.config;
        let mut looks = interval((config.cache_window / LOOKS).max(PAUSE_MIN));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settled = HashSet::new();
        let mut swept = ago(config.last_sweep + SWEEPS_MISSED);
        loop {
            looks.tick().await;
            if let Err(error) = expire(&self.inner.vault, config.cache_window).await {
                tracing::warn!(%error, "what is kept to save other jobs work was not looked through");
            }
            if let Err(error) = self.remove_ended().await {
                tracing::warn!(%error, "jobs that ended long ago were not looked through");
            }
            let due = ago(config.last_sweep);
            match self.sweep_stopped(swept..due).await {
                Ok(()) => swept = due,
                Err(error) => tracing::warn!(%error, "what stopped jobs left was not looked through"),
            }
            if let Err(error) = self.sweep_plans(&mut settled).await {
                tracing::warn!(%error, "plans of jobs that were never accepted were not looked through");
            }
        }
    }

    /// Removes the jobs that ended long ago.
    async fn remove_ended(&self) -> Result<()> {
        let before = ago(self.inner.config.retention);
        for (id, state) in self.inner.index.ended(..=before) {
            match self.remove(&id, state, before).await {
                Err(error) if !error.is_transient() => {
                    tracing::warn!(job = %id, %error, "a job that ended long ago is not removed");
                }
                removed => removed?,
            }
        }
        Ok(())
    }

    async fn remove(&self, id: &Uuid, state: JobState, before: Timestamp) -> Result<()> {
        let (vault, head, outcome) = (&self.inner.vault, keys::plan(id), keys::outcome(id));
        let document = keys::job_document(id);
        // All that is needed is read first: what cannot be is left to who can.
        let (found, outcome, job) = tokio::try_join!(
            vault.bytes(&head),
            vault.read::<JobOutcome>(&outcome),
            vault.read::<Job>(&document)
        )?;
        let is_old = outcome.as_ref().is_some_and(|outcome| outcome.ended_at <= before);
        // Without both, another gateway was here, or this one before it was killed.
        let is_begun = found.is_none() && outcome.is_none();
        if !is_old && !is_begun {
            return Ok(());
        }
        vault.store().delete(&vault.uri(&head)?).await?;
        // Without its record nobody would know that a claim which is left has no holder.
        if let Some(job) = job {
            claim::release_of(&self.inner.backbone, &job, &vault.output_of(&job.document, id)?).await?;
        }
        let count = Leavings { vault, id, letters: state == JobState::Succeeded }.clear().await?;
        self.inner.backbone.delete(&keys::job_record(id), None).await?;
        self.inner.index.forget(id);
        tracing::info!(job = %id, count, "removed what was written down of a job that ended long ago");
        Ok(())
    }

    /// Sweeps for the last time after jobs that were stopped within a span.
    async fn sweep_stopped(&self, span: Range<Timestamp>) -> Result<()> {
        let ended = self.inner.index.ended(span).into_iter();
        for (id, _) in ended.filter(|(_, state)| *state != JobState::Succeeded) {
            match self.sweep_last(&id).await {
                Err(error) if !error.is_transient() => {
                    tracing::warn!(job = %id, %error, "what a stopped job left is not swept");
                }
                swept => swept?,
            }
        }
        Ok(())
    }

    /// Removes what a job committed after it was stopped, which would be read as input. Where
    /// another job has succeeded nothing is touched: it may have taken the same tables over.
    async fn sweep_last(&self, id: &Uuid) -> Result<()> {
        let vault = &self.inner.vault;
        let Some(job) = vault.read::<Job>(&keys::job_document(id)).await? else { return Ok(()) };
        let output = vault.output_of(&job.document, id)?;
        if self.inner.index.is_in_vain(&output) {
            return self.sweep_again(Sweep { output: &output, job: &job, committed: true }).await;
        }
        Ok(())
    }

    /// Removes the parts of plans whose jobs were never accepted, once nobody can be
    /// planning them any more, and shows the jobs that were accepted and are not known. `settled` are the folders that need no other look.
    async fn sweep_plans(&self, settled: &mut HashSet<Uuid>) -> Result<()> {
        let vault = &self.inner.vault;
        for id in vault.jobs(None).await? {
            if settled.contains(&id) || self.inner.index.contains(&id) {
                continue;
            }
            match self.sweep_plan(&id).await {
                Ok(true) => drop(settled.insert(id)),
                Ok(false) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(job = %id, %error, "what lies in a job's folder is not looked through");
                }
            }
        }
        Ok(())
    }

    /// The same for one folder; true when it needs no other look.
    async fn sweep_plan(&self, id: &Uuid) -> Result<bool> {
        let vault = &self.inner.vault;
        let leavings = Leavings { vault, id, letters: true };
        let Some(newest) = leavings.newest().await? else {
            // There is a head, whose gateway was killed before it showed the job; or nothing
            // but output.
            let is_accepted = vault.bytes(&keys::plan(id)).await?.is_some();
            if is_accepted {
                self.restore_record(id).await?;
            }
            return Ok(!is_accepted);
        };
        if time::now().since(newest) >= self.inner.config.unaccepted {
            let count = leavings.clear().await?;
            tracing::info!(job = %id, count, "removed a plan that never became a job");
        }
        Ok(false)
    }
}

/// What lies in a job's folder, but for what is output: its tables where it named no
/// place for them, and with `letters` the failures that their manifest points at.
struct Leavings<'a> {
    vault: &'a Vault,
    id: &'a Uuid,
    letters: bool,
}

impl Leavings<'_> {
    async fn list(&self) -> Result<Vec<ListEntry>> {
        let (output, letters) = (keys::default_output(self.id), keys::dead_letters(self.id));
        let folder = keys::job(self.id);
        let level = self.vault.store().list(self.vault.bucket(), &folder, ListOptions::level());
        let mut entries: Vec<ListEntry> = level.try_collect().await?;
        entries.retain(|entry| entry.name() != output && !(self.letters && entry.name() == letters));
        Ok(entries)
    }

    /// When the newest of it was written; none when there is nothing, or a head.
    async fn newest(&self) -> Result<Option<Timestamp>> {
        let (entries, head) = (self.list().await?, keys::plan(self.id));
        if entries.iter().any(|entry| entry.name() == head) {
            return Ok(None);
        }
        let mut newest: Option<Timestamp> = None;
        for entry in &entries {
            let listed = self.vault.store().list(self.vault.bucket(), entry.name(), ListOptions::default());
            let mut listed = pin!(listed);
            while let Some(entry) = listed.try_next().await? {
                if let ListEntry::Object { last_modified, .. } = entry {
                    newest = newest.max(Some(last_modified));
                }
            }
        }
        Ok(newest)
    }

    /// Removes it; answers how many objects that were.
    async fn clear(&self) -> Result<usize> {
        let mut count = 0;
        for entry in self.list().await? {
            count += self.vault.clear(entry.name()).await?;
        }
        Ok(count)
    }
}

/// The time that it was then.
pub(in crate::jobs) fn ago(span: Duration) -> Timestamp {
    time::now().earlier(span)
}

/// Removes marks that are older than `window`, with the states and tables that were
/// kept for them; answers their number.
async fn expire(vault: &Vault, window: Duration) -> Result<usize> {
    let mut count = 0;
    for marks in [keys::CACHES, keys::KEPT_MARKS] {
        let listing = vault.store().list(vault.bucket(), marks, ListOptions::default());
        let (mut listing, now) = (pin!(listing), time::now());
        while let Some(entry) = listing.try_next().await? {
            let ListEntry::Object { key, last_modified, .. } = entry else { continue };
            if now.since(last_modified) < window {
                continue;
            }
            match expire_mark(vault, &key).await {
                Err(error) if !error.is_transient() => {
                    tracing::warn!(mark = %key, %error, "what is kept to save other jobs work stays behind");
                }
                expired => {
                    expired?;
                    count += 1;
                }
            }
        }
    }
    Ok(count)
}

/// Removes what was kept for a mark, then the mark.
async fn expire_mark(vault: &Vault, mark: &str) -> Result<()> {
    if let Some(job) = mark.rsplit('/').next().and_then(|id| id.parse::<Uuid>().ok()) {
        vault.clear(&keys::all_staged(&job)).await?;
        vault.clear(&keys::all_kept(&job)).await?;
    }
    Ok(vault.store().delete(&vault.uri(mark)?).await?)
}
