// SPDX-License-Identifier: Apache-2.0
//! One running job: hears of commits, queues what follows, ends it.
//!
//! Runs under a [`Tenure`], one task a job. It can be killed anywhere: the next
//! one begins from the plan and the commits in the store. Notices on the bus
//! only make it faster; every commit is found by looking as well.

mod patience;
mod shown;
mod stopped;

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, CommitNotice},
    job::{Estimate, JobState},
    keys,
};
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::{patience::Patience, stopped::STOPPED_WAIT};
use super::{
    heard::{self, Heard},
    lease::{Leases, Turn},
    live::Live,
    rests::Rests,
    tenure::Tenure,
};
use crate::jobs::{
    Jobs,
    case::{self, Case},
    claim,
    end::{
        finish::{Closing, Products},
        letters,
    },
    ending::{self, Ending},
    error::Result,
    failures::Problems,
    plan::{Shards, estimate},
    progress::{
        Progress,
        policy::Policy,
        slots::{FailedAttempt, Failure, LeaseSpec},
        stragglers::Stragglers,
    },
    record::INPUTS_NAMED,
    reuse::retry,
};

/// Events taken at once, so that what follows from them is queued together.
const EVENTS_AT_ONCE: usize = 512;
/// The watchdog looks every so often for an ending that nobody told of.
const ENDING_LOOKED_FOR: u32 = 8;

/// The coordinator of one job.
pub struct Coordinator {
    jobs: Jobs,
    case: Case,
    live: Arc<Live>,
    leases: Leases,
    rests: Rests,
    /// Someone says that the job is to end.
    called: bool,
    watches: u32,
    patience: Patience,
    /// How often leases were queued again.
    again: u32,
    /// Whether there is anything to show.
    dirty: bool,
}

impl Coordinator {
    /// Prepares to work on a job.
    pub async fn new(jobs: Jobs, case: Case) -> Result<Self> {
        let backbone = jobs.inner.backbone.clone();
        let shards = Shards::new(jobs.inner.vault.clone(), &case.plan);
        let version = jobs.version_of(&case.job).await?;
        let queued = Arc::clone(&jobs.inner.queued);
        let (job, output) = (case.job.clone(), case.output.clone());
        let leases = Leases::new(job, &case.plan, &version, output, shards, backbone, queued)?;
        let progress = Progress::new(case.plan.clone(), Policy::of(&case));
        let patience = Patience::new(jobs.inner.config.watchdog, jobs.inner.config.lost, now());
        let stragglers = Stragglers::new(jobs.inner.config.straggle);
        let live = Live::new(&jobs.inner.vault, progress, stragglers);
        Ok(Self {
            jobs,
            live: Arc::new(live),
            leases,
            rests: Rests::default(),
            called: case.ending.is_some(),
            watches: 0,
            patience,
            again: 0,
            dirty: true,
            case,
        })
    }

    /// Works on the job until it has ended. What is rare and large has a box of its own, so that
    /// what waits all the time stays small.
    pub async fn run(mut self, tenure: &Tenure) -> Result<()> {
        let backbone = &self.jobs.inner.backbone;
        let id = self.case.job.id;
        // Listening begins before looking, so that nothing falls in between.
        let told = heard::listen(backbone, &id, self.jobs.inner.config.believes_bus).await?;
        let mut events = std::pin::pin!(told.ready_chunks(EVENTS_AT_ONCE));
        // A cancellation that was told of before anybody listened left its mark.
        self.called |= backbone.get(&keys::job_cancel(&id)).await?.is_some();
        self.called = self.called || !self.case.hold(&self.jobs).await?;
        if !self.called {
            Box::pin(self.take_over(events.as_mut())).await?;
        }
        // Looking finds all failures that there were.
        let shown = std::mem::take(&mut self.case.record.failures);
        let last = std::mem::take(&mut self.case.record.last_failures);
        Box::pin(self.look()).await?;
        self.case.record.resume_failures(shown, last);
        self.jobs.publish_live(id, Arc::clone(&self.live));
        let mut flush = interval(self.jobs.inner.config.flush);
        let mut watch = interval(self.jobs.inner.config.watchdog);
        for timer in [&mut flush, &mut watch] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer.reset();
        }
        if !self.called {
            self.queue_ready().await?;
            self.begin().await?;
        }
        loop {
            if let Some(ending) = self.ending().await? {
                if ending.state != JobState::Succeeded {
                    Box::pin(self.stop_rest(events.as_mut())).await?;
                } else if self.live.progress().second_attempts() > 0 {
                    Box::pin(self.stop_overtaken(events.as_mut())).await?;
                }
                return Box::pin(self.end(ending)).await;
            }
            tokio::select! {
                chunk = events.next() => match chunk {
                    Some(chunk) => self.hear(chunk).await?,
                    None => return Err(fanfold_backbone::Error::Closed.into()),
                },
                _ = flush.tick() => {
                    self.overtake().await?;
                    self.flush().await?;
                }
                _ = watch.tick() => Box::pin(self.watch()).await?,
                () = self.rests.due() => self.queue_ready().await?,
                () = tenure.forgotten.notified() => Box::pin(self.queue_again()).await?,
            }
        }
    }

    /// Takes over what others did, unless the job is cancelled meanwhile. What is heard
    /// besides is found by looking later.
    async fn take_over(
        &mut self,
        mut events: Pin<&mut (impl Stream<Item = Vec<Heard>> + Send)>,
    ) -> Result<()> {
        if !retry::takes_over(&self.case.job) {
            return Ok(());
        }
        // Copying may take a while, and the job is seen to run. Who takes it up from another
        // shows what that one has shown until it has looked.
        if self.case.record.state == JobState::Queued {
            self.begin().await?;
        }
        let (backbone, mark) = (&self.jobs.inner.backbone, keys::job_cancel(&self.case.job.id));
        let mut watch = interval(self.jobs.inner.config.watchdog);
        let stop = CancellationToken::new();
        let mut taking = std::pin::pin!(retry::take_over(&self.jobs.inner.vault, &self.case, &stop));
        while !self.called {
            self.called = tokio::select! {
                taken = &mut taking => return taken,
                chunk = events.next() => match chunk {
                    Some(chunk) => chunk.iter().any(|event| matches!(event, Heard::Cancelled)),
                    None => return Err(fanfold_backbone::Error::Closed.into()),
                },
                _ = watch.tick() => backbone.get(&mark).await?.is_some(),
            };
        }
        // The store carries out what it was asked for, whoever waits for it: commits that came after
        // the look would be shown as done by the tasks, and by neither counts nor receipt.
        stop.cancel();
        if let Ok(Err(error)) = timeout(STOPPED_WAIT, taking).await {
            tracing::debug!(job = %self.case.job.id, %error, "not all that was begun is taken over");
        }
        Ok(())
    }

    /// How the job ends, once that can be said.
    async fn ending(&mut self) -> Result<Option<Ending>> {
        let (vault, id) = (&self.jobs.inner.vault, &self.case.job.id);
        if std::mem::take(&mut self.called)
            && let Some(ending) = vault.read(&keys::ending(id)).await?
        {
            return Ok(Some(ending));
        }
        let (given_up, complete, committed) = {
            let progress = self.live.progress();
            (progress.given_up(), progress.is_complete(), progress.committed_usage())
        };
        if let Some(given_up) = given_up {
            let problem = self.explain(given_up).await?;
            return ending::decide(vault, id, JobState::Failed, Some(problem)).await.map(Some);
        }
        if complete {
            return ending::decide(vault, id, JobState::Succeeded, None).await.map(Some);
        }
        if let Some(spent) = self.case.job.document.budget.spent(&committed) {
            let detail = format!(
                "expected the job to end within its budget of {spent}; raise budget and submit it again, or go on with \
                 fanfold job retry: what is done is kept"
            );
            let problem = Problem::new(ErrorKind::BudgetSpent, detail);
            return ending::decide(vault, id, JobState::Failed, Some(problem)).await.map(Some);
        }
        Ok(None)
    }

    /// The problem of a task, with the words that find it.
    async fn explain(&self, given_up: Failure) -> Result<Problem> {
        let Failure { stage, task, attempts, code, .. } = given_up;
        let place = if stage == 0 {
            let mut shards = Shards::new(self.jobs.inner.vault.clone(), &self.case.plan);
            let partition = shards.partition(task).await?;
            let named = partition.slices.iter().take(INPUTS_NAMED);
            let mut objects: Vec<_> = named.map(|s| s.object.uri.to_string()).collect();
            if let Some(more) = partition.slices.len().checked_sub(INPUTS_NAMED + 1) {
                objects.push(format!("{} more", more + 1));
            }
            format!("task {task} over {}", objects.join(" and "))
        } else if self.case.plan.shape.groups() {
            format!("reducer {task}")
        } else {
            format!("task {task} of fold {stage}")
        };
        let attempts = if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
        let (vault, id) = (&self.jobs.inner.vault, &self.case.job.id);
        let mut read = Problems::read(vault, id, BTreeSet::from([given_up.place()])).await?;
        let mut problem = read.of(&given_up).within(format!("{place} failed after {attempts} with {code}"));
        let (failed, tolerated) = self.live.progress().failures();
        if tolerated > 0 {
            problem.detail.push_str(&format!("; {failed} tasks failed, of which {tolerated} are tolerated"));
        }
        Ok(problem)
    }

    async fn end(mut self, ending: Ending) -> Result<()> {
        let inner = Arc::clone(&self.jobs.inner);
        let dead: Vec<_> = self.live.progress().dead().collect();
        let failed = letters::bury(&inner.vault, &self.case.plan, &dead).await?;
        let estimate = self.estimate(&ending);
        let products = Products::of(&self.case.job, &self.live.progress(), failed, estimate);
        let closing = Closing {
            vault: &inner.vault,
            backbone: &inner.backbone,
            job: &self.case.job,
            output: &self.case.output,
        };
        let outcome = closing.carry_out(ending, &products, &self.case.record.warnings).await?;
        let succeeded = outcome.state == JobState::Succeeded;
        let overtaken = self.live.progress().second_attempts() > 0;
        let result = products.small_answer().filter(|_| succeeded);
        self.case.record.end(&outcome, result);
        inner.counters.note(&outcome);
        self.case.write_record(&inner.backbone).await?;
        claim::release_of(&inner.backbone, &self.case.job, &self.case.output).await?;
        if overtaken || !succeeded {
            self.jobs.sweep_later(self.case.job, self.case.output);
        }
        Ok(())
    }

    /// Of a sample: what the whole will take.
    fn estimate(&self, ending: &Ending) -> Option<Estimate> {
        let sample = self.case.job.sample.as_ref()?;
        let started = self.case.record.started_at.unwrap_or(ending.ended_at);
        let (planned, ran) = (started.since(self.case.record.submitted_at), ending.ended_at.since(started));
        let took: Vec<_> = sample.weights.iter().copied().zip(self.live.progress().took()).collect();
        let folds = self.live.progress().folds_took();
        Some(estimate::estimate(&sample.of, &took, &folds, planned, ran))
    }

    /// Takes in what the bus brought, and queues what follows.
    async fn hear(&mut self, events: Vec<Heard>) -> Result<()> {
        if self.take_in(events).await? {
            self.look().await?;
        }
        self.queue_ready().await
    }

    /// Takes in what the bus brought; answers whether anything was missed.
    async fn take_in(&mut self, events: Vec<Heard>) -> Result<bool> {
        let (id, mut lagged) = (self.case.job.id, false);
        let mut unread = BTreeSet::new();
        for event in events {
            if self.note_overtaken(&event) {
                self.dirty = true;
                continue;
            }
            match event {
                Heard::Commit(CommitNotice { stage, group, round, commit, .. }) => {
                    let known = self.live.progress().knows(stage, group, round);
                    match commit {
                        _ if known => {}
                        Some(commit) => self.take(*commit),
                        None => drop(unread.insert(keys::commit(&id, stage, group, round))),
                    }
                }
                Heard::Running(notice) => {
                    self.live.stragglers().note(*notice, now());
                    self.dirty = true;
                }
                Heard::Cancelled => self.called = true,
                Heard::Lagged => lagged = true,
            }
        }
        let mut commits = std::pin::pin!(case::find_each(&self.jobs.inner.vault, unread));
        while let Some(read) = commits.next().await {
            match read {
                Ok(commit) => self.take(commit),
                // To begin anew would be to read all commits again.
                Err(error) if error.is_transient() => {
                    tracing::warn!(job = %id, %error, "commits are left to the next look");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lagged)
    }

    /// Finds commits that nobody told of; answers their number.
    async fn look(&mut self) -> Result<usize> {
        let id = self.case.job.id;
        let mut keys = self.jobs.inner.vault.keys(&keys::commits(&id)).await?;
        {
            let progress = self.live.progress();
            keys.retain(|key| {
                keys::parse_commit(&id, key)
                    .is_some_and(|(stage, group, round)| !progress.knows(stage, group, round))
            });
        }
        case::later_stages_first(&id, &mut keys);
        let count = keys.len();
        let mut commits = std::pin::pin!(case::read_each(&self.jobs.inner.vault, keys));
        while let Some(commit) = commits.try_next().await? {
            self.take(commit);
        }
        Ok(count)
    }

    fn take(&mut self, commit: Commit) {
        let id = self.case.job.id;
        if commit.job != id {
            return;
        }
        self.leases.committed((commit.stage, commit.group, commit.round));
        self.live.stragglers().saw(&commit.worker);
        let failures = self.live.progress().absorb(commit);
        for failure in failures {
            let FailedAttempt { stage, task, attempt, given_up, problem } = failure;
            tracing::debug!(job = %id, stage, task, attempt, given_up, %problem, "a task failed");
            self.case.record.note_failure(stage, task, attempt, given_up, problem);
        }
        self.patience.committed(now());
        self.dirty = true;
    }

    /// Queues what may run now; a further round once it has waited.
    async fn queue_ready(&mut self) -> Result<()> {
        {
            let (mut progress, now) = (self.live.progress(), Instant::now());
            for place in progress.opened() {
                self.rests.add(now + self.leases.wait(place), place);
            }
            self.rests.over(now).into_iter().for_each(|place| progress.resume(place));
        }
        // How many bytes a lease has, its message says.
        while self.leases.has_room() {
            let released = self.live.progress().release_next();
            let Some(spec) = released else { break };
            self.leases.add(&self.case.plan, spec, Turn::Again(self.again)).await?;
            self.patience.queued(now());
        }
        self.leases.flush().await
    }

    /// Begins leases a second time that take much longer than the others.
    async fn overtake(&mut self) -> Result<()> {
        let specs = {
            let (mut progress, mut stragglers) = (self.live.progress(), self.live.stragglers());
            stragglers.forget_done(&progress);
            match self.case.job.document.retry.speculation {
                true => stragglers.overdue(&mut progress, now()),
                false => Vec::new(),
            }
        };
        if specs.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        for LeaseSpec { stage, group, round, .. } in &specs {
            tracing::info!(job = %self.case.job.id, stage, group, round, "a lease takes long; beginning it a second time");
        }
        self.leases.queue(&self.case.plan, specs, Turn::Second).await
    }

    /// The queue has lost its messages, and the backbone perhaps the claim: leases that are not
    /// committed go again, under new ids, as it may remember the old ones.
    async fn queue_again(&mut self) -> Result<()> {
        if !self.case.hold(&self.jobs).await? {
            self.called = true;
            return Ok(());
        }
        self.look().await?;
        let specs = self.live.progress().leased();
        self.patience.queued(now());
        // There are none while all that is left waits for its next attempt.
        if !specs.is_empty() {
            tracing::warn!(job = %self.case.job.id, leases = specs.len(), "queueing leases again");
            self.again += 1;
            self.leases.queue(&self.case.plan, specs, Turn::Again(self.again)).await?;
        }
        self.queue_ready().await
    }

    /// Looks after a job that has been quiet: for a cancellation, for commits
    /// that nobody told of, and for leases that the queue has lost: it is empty, or
    /// nothing is heard of any of them for long.
    async fn watch(&mut self) -> Result<()> {
        // Those that run the longest are shown with their time.
        self.dirty |= !self.case.record.slowest.is_empty();
        let backbone = &self.jobs.inner.backbone;
        self.called |= backbone.get(&keys::job_cancel(&self.case.job.id)).await?.is_some();
        // Whoever has decided an ending may be gone before it could tell of it.
        self.watches += 1;
        self.called |= self.watches.is_multiple_of(ENDING_LOOKED_FOR);
        if !self.patience.is_quiet(now()) {
            return Ok(());
        }
        let depth = backbone.depth(keys::TASK_QUEUE).await?;
        let found = self.look().await?;
        if found > 0 {
            return self.queue_ready().await;
        }
        let told = self.live.stragglers().told();
        if self.patience.is_over(depth, told, now()) { self.queue_again().await } else { Ok(()) }
    }
}

/// The time on this process's clock, as whoever waits and watches has it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
