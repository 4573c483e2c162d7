// SPDX-License-Identifier: Apache-2.0
//! Looking after jobs that nobody looks after.
//!
//! Follows the records, takes over jobs whose coordinator is gone, makes
//! records anew that the backbone has lost, and turns leases that the queue
//! gave up into commits that say so. Invariant: a job whose plan has a head and
//! that has no outcome is taken up by some gateway, sooner or later. One of which a
//! newer release wrote something that is not known here is left to gateways of that
//! release, and ends here only if it is cancelled. While a gateway waits to begin anew,
//! as when it has no store, the job is anyone's.

use std::{sync::Arc, time::Duration};

use fanfold_backbone::{Change, DeadLetter};
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, CommitNotice, TaskCommit, TaskOutcome},
    invocation::Usage,
    job::{Job, JobState, TaskCounts},
    keys,
    plan::Lease,
    seldom::Seldom,
    time::Timestamp,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::{coordinator::Coordinator, tenure::Tenure};
use crate::jobs::{
    Jobs,
    case::{self, Case},
    claim,
    end::{expiry, finish},
    ending::{self, Ending},
    error::{Error, Result},
    plan::planning,
    record::JobRecord,
};

/// Before a step is tried again that failed.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often a job may fail at something that does not pass by itself.
const STRIKES_MAX: u32 = 5;
/// Between two looks at the dead letters.
const BURIALS: Duration = Duration::from_secs(2);
/// Dead letters taken at once.
const LETTERS: usize = 64;
/// How long a job whose output others may have claimed waits for these to be known.
const RESTORING_MAX: Duration = Duration::from_secs(10);
/// How old an id may be whose job nobody has shown, while it is looked for often: planning takes a
/// while, and clocks may be wrong.
const UNSHOWN_MAX: Duration = Duration::from_secs(2 * 3_600);
/// Jobs restored at once.
const RESTORED_AT_ONCE: usize = 8;

/// What has kept one gateway from going on with a job so far.
struct Setbacks {
    /// Before the next try.
    pause: Duration,
    /// Failures that do not pass by themselves.
    strikes: u32,
}

impl Setbacks {
    /// How long to wait now; the next time it is longer.
    fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// The record that a change brought.
pub fn of_change(change: &Change) -> Option<JobRecord> {
    match change {
        Change::Put { entry, .. } => serde_json::from_slice(&entry.value).ok(),
        Change::Delete { .. } | Change::Synced => None,
    }
}

impl Jobs {
    /// Reads every record.
    pub(in crate::jobs) async fn load_index(&self) -> Result<()> {
        for (_, entry) in self.inner.backbone.list(keys::JOBS).await? {
            if let Ok(record) = serde_json::from_slice(&entry.value) {
                self.inner.index.note(&record);
            }
        }
        Ok(())
    }

    /// Keeps the index up to date.
    pub(in crate::jobs) async fn follow(self) {
        let mut changes = self.inner.backbone.follow(keys::JOBS);
        while let Some(change) = changes.next().await {
            self.note_change(&change);
        }
    }

    fn note_change(&self, change: &Change) {
        if let Some(record) = of_change(change) {
            self.inner.index.note(&record);
        } else if let Change::Delete { key, .. } = change
            && let Some(id) = key.strip_prefix(keys::JOBS).and_then(|id| id.parse().ok())
        {
            self.inner.index.forget(&id);
        }
    }

    /// Takes over what has no coordinator, again and again; first makes the
    /// records that are missing.
    pub(in crate::jobs) async fn look_after(self) {
        self.spawn(self.clone().restore_records());
        let mut scan = interval(self.inner.config.scan);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            scan.tick().await;
            for id in self.inner.index.active() {
                self.adopt(id).await;
            }
        }
    }

    /// Begins to coordinate a job, if nobody does.
    pub(in crate::jobs) async fn adopt(&self, id: Uuid) {
        if self.running().contains_key(&id) {
            return;
        }
        self.running().insert(id, None);
        let inner = &self.inner;
        match Tenure::take(&inner.backbone, &id, &inner.holder, inner.config.tenure).await {
            Ok(Some(tenure)) => {
                let jobs = self.clone();
                inner.tracker.spawn(async move { jobs.coordinate(id, tenure).await });
                return;
            }
            Ok(None) => {}
            Err(error) => {
                static TOLD: Seldom = Seldom::new();
                if error.is_news(&TOLD) {
                    tracing::warn!(job = %id, %error, "a job was not taken over");
                } else {
                    tracing::debug!(job = %id, %error, "a job was not taken over");
                }
            }
        }
        self.running().remove(&id);
    }

    /// Coordinates a job until it has ended, or another gateway has it. It is given back for as long as it rests.
    async fn coordinate(self, id: Uuid, mut tenure: Tenure) {
        let mut setbacks = Setbacks { pause: PAUSE, strikes: 0 };
        loop {
            let rest = tokio::select! {
                rest = self.persist(id, &tenure, &mut setbacks) => rest,
                () = tenure.lost.cancelled() => {
                    tracing::warn!(job = %id, "another gateway may coordinate the job now");
                    None
                }
                () = self.inner.shutdown.cancelled() => None,
            };
            let Some(rest) = rest else {
                self.running().remove(&id);
                return tenure.release().await;
            };
            // Meanwhile those may have it that get further, and this gateway does not ask for it.
            self.running().insert(id, None);
            tenure.release().await;
            let Some(again) = self.after_rest(&id, rest).await else {
                self.running().remove(&id);
                return;
            };
            tenure = again;
        }
    }

    /// Takes a job again after a rest, unless somebody has it by then or this gateway stops.
    async fn after_rest(&self, id: &Uuid, rest: Duration) -> Option<Tenure> {
        let inner = &self.inner;
        inner.shutdown.run_until_cancelled(sleep(rest)).await?;
        let taken = Tenure::take(&inner.backbone, id, &inner.holder, inner.config.tenure).await;
        taken.unwrap_or_else(|error| {
            tracing::warn!(job = %id, %error, "a job was not taken up again");
            None
        })
    }

    /// Works on a job until it has ended, beginning anew after each failure that does not pass by itself. Answers how
    /// long it is left to other gateways where these may get further: they are of a newer release, or are not cut off
    /// from the store.
    async fn persist(&self, id: Uuid, tenure: &Tenure, setbacks: &mut Setbacks) -> Option<Duration> {
        loop {
            let error = match Box::pin(self.work(id, tenure)).await {
                Ok(()) => return None,
                Err(error) if error.is_closing() => return None,
                Err(error) => error,
            };
            let passes = error.is_transient();
            let is_over = if error.is_newer() {
                if !self.is_cancelled(&id).await {
                    tracing::warn!(job = %id, %error, "a job is left to gateways that can read it");
                    return Some(self.inner.config.left);
                }
                true
            } else {
                tracing::warn!(job = %id, %error, "coordinating a job failed; it begins anew from what is written down");
                setbacks.strikes += u32::from(!passes);
                !passes && setbacks.strikes >= STRIKES_MAX
            };
            if is_over && Box::pin(self.give_up(id, error)).await {
                return None;
            }
            let pause = setbacks.pause();
            if passes {
                return Some(pause);
            }
            sleep(pause).await;
        }
    }

    /// Whether somebody has called the job off.
    async fn is_cancelled(&self, id: &Uuid) -> bool {
        let ending = self.inner.vault.read::<Ending>(&keys::ending(id)).await;
        matches!(ending, Ok(Some(Ending { state: JobState::Cancelled, .. })))
    }

    async fn work(&self, id: Uuid, tenure: &Tenure) -> Result<()> {
        let Some(mut case) = Box::pin(Case::open(self, &id)).await? else {
            return Err(Error::damaged(keys::plan(&id), "no such object"));
        };
        if let Some(outcome) = &case.outcome {
            let result = match outcome.result_uri {
                Some(_) => case::small_result(&self.inner.vault, &id).await?,
                None => None,
            };
            case.record.end(outcome, result);
            case.write_record(&self.inner.backbone).await?;
            return claim::release_of(&self.inner.backbone, &case.job, &case.output).await;
        }
        Coordinator::new(self.clone(), case).await?.run(tenure).await
    }

    /// Ends a job that cannot be coordinated: its plan is damaged, its function
    /// is gone, the store refuses; or it is cancelled, and cannot be read here. What was
    /// decided before stays so, as far as it was carried out. True when it has ended.
    async fn give_up(&self, id: Uuid, error: Error) -> bool {
        let problem = Problem::from(error).within("the job could not be carried on");
        let ended = async {
            let inner = &self.inner;
            let ending = ending::decide(&inner.vault, &id, JobState::Failed, Some(problem.clone())).await?;
            finish::stop_tasks(&inner.backbone, &id).await?;
            let Some(mut record) = self.find(&id).await? else { return Ok(()) };
            let waiting = record.tasks.waiting + record.tasks.running;
            let tasks = TaskCounts { waiting, running: 0, ..record.tasks };
            let mut outcome = fanfold_protocol::job::JobOutcome {
                state: ending.state,
                ended_at: ending.ended_at,
                problem: ending.problem,
                manifest: None,
                result_uri: None,
                tasks,
                receipt: record.receipt,
                estimate: None,
                warnings: record.warnings.clone(),
            };
            if ending.state == JobState::Succeeded {
                match finish::published(&inner.vault, &id, &record.output).await? {
                    Some((manifest, answer)) => {
                        (outcome.manifest, outcome.result_uri) = (Some(manifest), answer);
                        outcome.warnings.push(format!("the output is whole, but {}", problem.detail));
                    }
                    None => (outcome.state, outcome.problem) = (JobState::Failed, Some(problem)),
                }
            }
            let key = keys::outcome(&id);
            let outcome = match inner.vault.write_once(&key, &outcome).await? {
                true => outcome,
                false => inner.vault.expect(&key).await?,
            };
            let result = match outcome.result_uri {
                Some(_) => case::small_result(&inner.vault, &id).await?,
                None => None,
            };
            record.end(&outcome, result);
            let value = serde_json::to_vec(&record).map_err(|e| Error::damaged(&key, e))?;
            inner.backbone.put(&keys::job_record(&id), value).await?;
            claim::release(&inner.backbone, &record.output, id).await?;
            match inner.vault.read::<Job>(&keys::job_document(&id)).await {
                Ok(Some(job)) => self.sweep_later(job, record.output),
                Ok(None) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => tracing::warn!(job = %id, %error, "what its tasks staged stays behind"),
            }
            Ok::<_, Error>(())
        };
        match ended.await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(job = %id, %error, "a job can neither go on nor end");
                false
            }
        }
    }

    /// Makes a record for every job that the store knows and the backbone does
    /// not: all of them after the backbone was lost, none as a rule. After that looks again and again
    /// for young ones, which another gateway accepted and was killed before it showed them.
    async fn restore_records(self) {
        let (mut pause, told) = (PAUSE, Seldom::new());
        while let Err(error) = self.restore_missing(None).await {
            if error.is_news(&told) {
                tracing::warn!(%error, "jobs in the store were not looked through");
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.inner.restored.cancel();
        loop {
            sleep(self.inner.config.unshown).await;
            if let Err(error) = self.restore_missing(Some(expiry::ago(UNSHOWN_MAX))).await {
                tracing::warn!(%error, "young jobs in the store were not looked through");
            }
        }
    }

    /// Waits until it is known which jobs the store had at the start. Who plans a job has waited
    /// for that before its turn.
    ///
    /// # Errors
    /// `backbone-unavailable` when that takes long, as after a loss of the backbone.
    pub(in crate::jobs) async fn restored(&self) -> Result<()> {
        let restored = tokio::time::timeout(RESTORING_MAX, self.inner.restored.cancelled()).await;
        restored.map_err(|_| Error::Refused(planning::unrestored()))
    }

    /// Of all jobs, or of those that were given their id since some time.
    async fn restore_missing(&self, since: Option<Timestamp>) -> Result<()> {
        let jobs = self.inner.vault.jobs(since).await?;
        let missing = jobs.into_iter().filter(|id| !self.inner.index.contains(id));
        stream::iter(missing.map(|id| async move { self.restore_record(&id).await }))
            .buffer_unordered(RESTORED_AT_ONCE)
            .try_collect()
            .await
    }

    /// Makes the record of a job that has a head, and its claim before anybody else can. One
    /// that cannot be read stays as it is, and keeps nobody from restoring others.
    pub(in crate::jobs) async fn restore_record(&self, id: &Uuid) -> Result<()> {
        let record = match case::restore(self, id).await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::warn!(job = %id, %error, "a job in the store is not restored");
                return Ok(());
            }
        };
        tracing::info!(job = %id, state = ?record.state, "restored a job from the store");
        let claims = record.output.bucket() != self.inner.vault.bucket();
        if claims && !record.state.is_terminal() {
            let job: Job = self.inner.vault.expect(&keys::job_document(id)).await?;
            // Where another job was faster after all, the coordinator finds it.
            claim::ensure(&self.inner.backbone, &record.output, &job).await?;
        }
        self.note_new(&record).await
    }

    /// Turns leases that the queue gave up into failed attempts.
    pub(in crate::jobs) async fn bury(self) {
        let (mut unreadable, told) = (0, Seldom::new());
        loop {
            sleep(BURIALS).await;
            if let Err(error) = self.bury_once(&mut unreadable).await
                && error.is_news(&told)
            {
                tracing::warn!(%error, "dead letters were not looked through");
            }
        }
    }

    async fn bury_once(&self, after: &mut u64) -> Result<()> {
        let backbone = &self.inner.backbone;
        if backbone.depth(keys::TASK_QUEUE).await?.dead == 0 {
            *after = 0;
            return Ok(());
        }
        for letter in backbone.dead_letters(keys::TASK_QUEUE, *after, LETTERS).await? {
            match serde_json::from_slice::<Lease>(&letter.payload) {
                Ok(lease) => {
                    self.bury_lease(&lease, &letter).await?;
                    backbone.discard(keys::TASK_QUEUE, vec![letter.sequence]).await?;
                }
                Err(error) => {
                    // It stays where it is, for a person to look at.
                    tracing::error!(id = letter.id, %error, "a dead letter is no lease");
                    *after = letter.sequence;
                }
            }
        }
        Ok(())
    }

    async fn bury_lease(&self, lease: &Lease, letter: &DeadLetter) -> Result<()> {
        tracing::warn!(job = %lease.job, id = letter.id, reason = letter.reason, "a lease was given up");
        let problem = Problem::new(
            ErrorKind::Internal,
            format!(
                "expected a worker to commit the lease, found it given up after {} deliveries: {}; see the workers' logs",
                letter.attempt, letter.reason
            ),
        );
        let failed = |task: &fanfold_protocol::plan::Task| TaskCommit {
            index: task.index,
            attempt: task.attempt,
            outcome: TaskOutcome::Failed(problem.clone()),
            usage: Usage::default(),
            looked_outside: false,
        };
        let commit = Commit {
            job: lease.job,
            stage: lease.stage,
            group: lease.group,
            round: lease.round,
            attempt: Uuid::now_v7(),
            worker: format!("gateway {}", self.inner.holder),
            tasks: lease.tasks.iter().map(failed).collect(),
        };
        let key = keys::commit(&lease.job, lease.stage, lease.group, lease.round);
        self.inner.vault.write_once(&key, &commit).await?;
        let notice = CommitNotice {
            job: lease.job,
            stage: lease.stage,
            group: lease.group,
            round: lease.round,
            commit: None,
        };
        let notice = serde_json::to_vec(&notice).map_err(|e| Error::damaged(&key, e))?;
        Ok(self.inner.backbone.publish(&keys::commit_subject(&lease.job), notice).await?)
    }
}

/// The progress of a job, if it is coordinated here.
pub fn live(jobs: &Jobs, id: &Uuid) -> Option<Arc<super::live::Live>> {
    jobs.running().get(id).cloned().flatten()
}
