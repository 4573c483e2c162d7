// SPDX-License-Identifier: Apache-2.0
//! Running a job again, without what was done before over the same input.
//!
//! A retry is a job of its own over the same document and version, so that a job
//! keeps its one end. Its input is listed anew and compared with the plan of the
//! earlier job; partitions that are the same and done are taken over: their
//! tables and states are copied and committed on behalf of the new job's tasks
//! before the first lease is queued, and so are folds of nothing else.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, OutputObject, TaskCommit, TaskOutcome},
    invocation::Usage,
    job::{Job, JobDocument, JobState, RetryOf},
    keys,
    plan::{Like, Plan, StateRef},
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    cache::{Given, Served, Which},
    compare::{Before, Comparing, Comparison},
    kept::{self, COPIES_AT_ONCE, Left},
    traces::Traces,
};
use crate::jobs::{
    Jobs,
    case::Case,
    claim::Key,
    error::{Error, Result},
    failures::Problems,
    plan::{self, carried::check_carried, filter, planning, submit::Wanted, union},
    prints::Prints,
    record::JobRecord,
    unknown,
    vault::Vault,
};

/// Jobs looked at to find out whether one of them ran another again.
const RETRIES_FOLLOWED: usize = 64;

/// A job that has ended, as far as another one may take it over.
pub struct Earlier {
    /// The job.
    pub job: Job,
    /// The head of its plan: what settled its types, what its partitions aimed at, and
    /// its reducers, since what was shuffled to so many is of use to as many only.
    pub plan: Plan,
    state: JobState,
    before: Before,
    traces: Traces,
}

impl Earlier {
    /// What its partitions began with.
    pub fn starts(&self) -> &Prints<()> {
        self.before.starts()
    }

    /// A comparison of the input as it was with the input as it is. Where another object
    /// settles its types now, what was done before may be of other types.
    pub fn comparing(&self, like: Option<&Like>) -> Comparing<'_> {
        let alike = union::settled_alike(like, self.plan.like.as_ref());
        Comparing::new(&self.before, alike.then_some(&self.traces))
    }

    /// What the new job takes over, and its groups: those of `plan`, parted where
    /// partitions that are taken over meet others.
    ///
    /// # Errors
    /// `job-finished` when the earlier job succeeded and nothing is different.
    pub async fn take_over(&self, vault: &Vault, plan: &mut Plan) -> Result<RetryOf> {
        let mut comparing = self.comparing(plan.like.as_ref());
        let mut now = std::pin::pin!(plan::stored(vault, plan));
        while let Some(partition) = now.try_next().await? {
            comparing.take(&partition)?;
        }
        let Comparison { difference, taken, .. } = comparing.finish();
        if self.state == JobState::Succeeded && difference.is_nothing() {
            return Err(Error::Refused(Problem::new(
                ErrorKind::JobFinished,
                format!(
                    "expected job {} to have failed, or its input to have changed since, found that it has succeeded and \
                     all of its {} partitions are unchanged; there is nothing to retry",
                    self.job.id, difference.unchanged
                ),
            )));
        }
        plan.groups = regroup(&plan.groups, &taken);
        Ok(RetryOf { job: self.job.id, difference })
    }

    /// Ends a comparison, with the objects that are gone and why partitions failed.
    async fn tell(&self, vault: &Vault, mut comparing: Comparing<'_>) -> Result<Comparison> {
        let mut before = std::pin::pin!(plan::stored(vault, &self.plan));
        while comparing.misses_some()
            && let Some(partition) = before.try_next().await?
        {
            comparing.look_back(&partition);
        }
        let mut comparison = comparing.finish();
        let failed = comparison.differing.iter().filter_map(|differing| differing.before);
        let place = |task: u32| {
            let (group, round) = self.traces.commit(0, task);
            ((0, group, round), task)
        };
        let mut problems = Problems::read(vault, &self.job.id, failed.map(place).collect()).await?;
        for differing in &mut comparison.differing {
            differing.problem = differing.before.and_then(|task| problems.take(0, task));
        }
        Ok(comparison)
    }
}

impl Jobs {
    /// What [`Jobs::retry`] would run, and why it may not. Changes nothing.
    ///
    /// # Errors
    /// `job-not-found`; `job-not-finished`; `invalid-job` when it is more than tasks
    /// are given now; what is wrong with the input now; `concurrency-limit`;
    /// `backbone-unavailable` soon after a start.
    pub async fn compare(&self, id: &Uuid) -> Result<Comparison, Problem> {
        let meets = self.meets_again(id, planning::lists).await?;
        let _turn = self.turn(self.inner.plannings.arrive(), meets).await?;
        let (vault, earlier) = (&self.inner.vault, self.earlier(id).await?);
        let output = vault.output_of(&earlier.job.document, &Uuid::nil())?;
        let found = self.look(&earlier.job.document, &output, None).await?;
        let reads = filter::reads(self.version_of(&earlier.job).await?.as_ref(), earlier.plan.shape);
        let splitter = &self.inner.splitter;
        let comparing = plan::compare(vault.store(), splitter, &earlier, reads.as_deref(), found).await?;
        let refused = match self.again(&earlier).await {
            Ok(_) => None,
            Err(Error::Refused(problem)) => Some(problem),
            Err(error) => return Err(error.into()),
        };
        Ok(Comparison { of: earlier.job.id, refused, ..earlier.tell(vault, comparing).await? })
    }

    /// Runs a job again that has ended, as a new job that takes over what was
    /// done before over the same input: by it, or where that is nothing by the job that
    /// it ran again itself. A key used before answers the job that it
    /// was used for.
    ///
    /// # Errors
    /// `job-not-found`; `job-not-finished`; `job-finished` when there is nothing
    /// to run; `invalid-job` when it is more than tasks are given now; what is wrong
    /// with the input now; `output-exists`; `idempotency-conflict`.
    pub async fn retry(&self, id: &Uuid, key: Option<&str>) -> Result<JobRecord, Problem> {
        let key = key.map(|text| Key::new(text, &("retry", id))).transpose()?;
        self.accept(Wanted::Again(*id), key).await
    }

    pub(in crate::jobs) async fn earlier(&self, id: &Uuid) -> Result<Earlier> {
        let case = Case::open(self, id).await?.ok_or_else(|| unknown(id))?;
        let case = self.with_work(case).await?;
        let Some(outcome) = case.outcome else {
            return Err(Error::Refused(Problem::new(
                ErrorKind::JobNotFinished,
                format!(
                    "expected job {id} to have ended, found it {}; wait for it, or cancel it",
                    case.record.state.as_str()
                ),
            )));
        };
        if case.job.sample.is_some() {
            return Err(Error::Refused(Problem::new(
                ErrorKind::JobFinished,
                format!("expected a job to run again, found that {id} is an estimate; submit the job itself"),
            )));
        }
        // An earlier release may have taken more than leases carry now.
        check_carried(&case.job.document)?;
        let vault = &self.inner.vault;
        let (before, Left { traces, .. }) = tokio::try_join!(
            Before::read(plan::stored(vault, &case.plan)),
            Left::read(vault, &case.plan, &case.output)
        )?;
        Ok(Earlier { job: case.job, plan: case.plan, state: outcome.state, before, traces })
    }

    /// A job that has ended, or in place of a retry that ended before any task of it was done the nearest job before
    /// it of which some was, as far as these are remembered: what was done is taken over from there.
    async fn with_work(&self, asked: Case) -> Result<Case> {
        let has_failed = asked.outcome.as_ref().is_some_and(|outcome| outcome.state != JobState::Succeeded);
        let mut before = asked.job.retry.filter(|_| has_failed);
        if before.is_none() || self.inner.vault.has_some(&keys::commits(&asked.job.id)).await? {
            return Ok(asked);
        }
        for _ in 0..RETRIES_FOLLOWED {
            let Some(retry) = before else { break };
            let Some(case) = Case::open(self, &retry.job).await? else { break };
            if case.outcome.is_some() && self.inner.vault.has_some(&keys::commits(&retry.job)).await? {
                return Ok(case);
            }
            before = case.job.retry;
        }
        Ok(asked)
    }

    /// The document of the new job: the same, which may replace the output of
    /// the earlier job and no other's.
    ///
    /// # Errors
    /// `output-exists` when another job's output lies there, unless the document lets it be replaced.
    pub(in crate::jobs) async fn again(&self, earlier: &Earlier) -> Result<JobDocument> {
        let (mut document, id) = (earlier.job.document.clone(), earlier.job.id);
        let Some(output) = &document.output else { return Ok(document) };
        let Some(found) = kept::manifest_head(&self.inner.vault, output).await? else { return Ok(document) };
        if !document.overwrite && found.job != id {
            let (which, advice) = match self.is_retry_of(found.job, id).await? {
                true => (", which ran it again", "retry that one"),
                false => ("", "submit it with another output prefix, or with overwrite = true"),
            };
            return Err(Error::Refused(Problem::new(
                ErrorKind::OutputExists,
                format!(
                    "expected no output but that of job {id} at {output}, found that of job {}{which}; {advice}",
                    found.job
                ),
            )));
        }
        document.overwrite = true;
        Ok(document)
    }

    /// Whether a job ran an earlier one again, itself or by way of others, as far as they are remembered.
    async fn is_retry_of(&self, mut job: Uuid, earlier: Uuid) -> Result<bool> {
        for _ in 0..RETRIES_FOLLOWED {
            let found: Option<Job> = self.inner.vault.read(&keys::job_document(&job)).await?;
            let Some(retry) = found.and_then(|job| job.retry) else { return Ok(false) };
            if retry.job == earlier {
                return Ok(true);
            }
            job = retry.job;
        }
        Ok(false)
    }
}

/// Groups parted so that each is taken over whole or not at all.
pub fn regroup(groups: &[u32], taken: &[bool]) -> Vec<u32> {
    let (mut parted, mut rest) = (Vec::new(), taken);
    for count in groups {
        let (group, later) = rest.split_at((*count as usize).min(rest.len()));
        rest = later;
        parted.extend(group.chunk_by(|a, b| a == b).map(|run| u32::try_from(run.len()).unwrap_or(u32::MAX)));
    }
    parted
}

/// Whether there is anything that a job takes over.
pub fn takes_over(job: &Job) -> bool {
    job.retry.is_some() || job.cache.as_ref().is_some_and(|cache| !cache.jobs.is_empty())
}

/// Commits on behalf of the tasks that a job takes over, or is served from the
/// cache, as far as that is not done. What cannot be copied any more is run. Once it is
/// to `stop`, it ends with those that it is copying then.
pub async fn take_over(vault: &Vault, case: &Case, stop: &CancellationToken) -> Result<()> {
    let (id, plan) = (&case.job.id, &case.plan);
    let (jobs, which) = match (&case.job.retry, &case.job.cache) {
        (Some(retry), _) => (vec![retry.job], Which::Done),
        (None, Some(cache)) if !cache.jobs.is_empty() => (cache.jobs.clone(), Which::Reproducible),
        _ => return Ok(()),
    };
    let reading = async { tokio::try_join!(Given::read(vault, plan, &jobs, which), committed(vault, id)) };
    let Some(read) = stop.run_until_cancelled(reading).await else { return Ok(()) };
    let (given, committed) = read?;
    let taking = &Taking { vault, case, given: &given, committed, late: AtomicUsize::new(0), stop };
    let groups = (0..).zip(plan.groups_of(0)).map(|(group, (first, count))| (group, first, count));
    let groups = groups.filter(|(_, first, count)| taking.served(*first, *count).iter().all(Option::is_some));
    let take = |(group, first, count): (u32, u32, u32)| taking.group(group, first, count);
    let mut groups = stream::iter(groups.collect::<Vec<_>>()).map(take).buffer_unordered(COPIES_AT_ONCE);
    let mut taken = vec![None; given.served().len()];
    while let Some(group) = groups.try_next().await? {
        for (task, served) in group {
            taken[task as usize] = Some(served);
        }
    }
    let stages = (1..).zip(plan.stages.iter().skip(1));
    let folds = stages.flat_map(|(stage, count)| (0..*count).map(move |task| (stage, task)));
    let folds = folds.filter_map(|place| given.fold(plan, place, &taken).map(|served| (place, served)));
    let take =
        |(place, served): ((u32, u32), Served)| async move { taking.commit(place, place.1, &[served]).await };
    stream::iter(folds.collect::<Vec<_>>())
        .map(take)
        .buffer_unordered(COPIES_AT_ONCE)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
}

/// The groups whose first lease is committed, by stage.
async fn committed(vault: &Vault, id: &Uuid) -> Result<HashSet<(u32, u32)>> {
    let committed = vault.keys(&keys::commits(id)).await?;
    let parsed = committed.iter().filter_map(|key| keys::parse_commit(id, key));
    Ok(parsed.filter(|(.., round)| *round == 0).map(|(stage, group, _)| (stage, group)).collect())
}

/// A job that takes over what others did.
struct Taking<'a> {
    vault: &'a Vault,
    case: &'a Case,
    given: &'a Given,
    /// Groups whose first lease is committed, by stage.
    committed: HashSet<(u32, u32)>,
    /// Groups one after the other for which the store took too long to copy.
    late: AtomicUsize,
    /// Set when no further group is wanted.
    stop: &'a CancellationToken,
}

impl Taking<'_> {
    /// Who serves these tasks of the first stage.
    fn served(&self, first: u32, count: u32) -> &[Option<Served>] {
        self.given.served().get(first as usize..(first + count) as usize).unwrap_or_default()
    }

    /// Takes a group of the first stage over; answers which of its tasks were taken,
    /// and from where.
    async fn group(&self, group: u32, first: u32, count: u32) -> Result<Vec<(u32, Served)>> {
        let served: Vec<Served> = self.served(first, count).iter().copied().flatten().collect();
        let taken = self.commit((0, group), first, &served).await?;
        Ok(if taken { (first..).zip(served).collect() } else { Vec::new() })
    }

    /// Commits what was given on behalf of the tasks of a group, from `first` on; false
    /// when they are to be run, or were run by a worker.
    async fn commit(&self, (stage, group): (u32, u32), first: u32, served: &[Served]) -> Result<bool> {
        let (job, attempt) = (self.case.job.id, Uuid::new_v4());
        let key = keys::commit(&job, stage, group, 0);
        if self.stop.is_cancelled() {
            return Ok(false);
        }
        if self.committed.contains(&(stage, group)) {
            let commit: Commit = self.vault.expect(&key).await?;
            return Ok(commit.tasks.iter().all(|task| task.attempt == 0));
        }
        // As slow as the store is, the rest is run sooner than it is copied.
        if self.late.load(Ordering::Relaxed) >= COPIES_AT_ONCE {
            return Ok(false);
        }
        let earlier = served.first().and_then(|served| self.given.job(*served));
        let products = self.given.products(self.vault, stage, served).await?;
        let Some((earlier, products)) = earlier.zip(products) else {
            tracing::warn!(%job, stage, group, "a group is run again, since what came of it is gone");
            return Ok(false);
        };
        // The first part of a table shows its columns also without rows, which no other one does.
        let bare = |product: &TaskOutcome| {
            matches!(product, TaskOutcome::Table(None) | TaskOutcome::Mapped { table: None, .. })
        };
        if (stage, first) == (0, 0)
            && products.first().is_some_and(bare)
            && !served.first().is_some_and(|served| served.was_first())
        {
            return Ok(false);
        }
        let worker = format!("none: taken over from job {earlier}");
        let mut tasks = Vec::with_capacity(products.len());
        for ((index, product), served) in (first..).zip(&products).zip(served) {
            let outcome = match copied(self.vault, self.case, &attempt, (stage, index), product).await {
                Ok(outcome) => outcome,
                // It is gone, has changed, or is more than can be copied, also within the time there is
                // for it: another try would take as long.
                Err(Error::Store(error)) if is_late(&error) || !error.is_transient() => {
                    self.late.fetch_add(usize::from(is_late(&error)), Ordering::Relaxed);
                    tracing::warn!(%job, stage, group, %error, "a group is run again, since it cannot be taken over");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            let usage = Usage::default();
            // What looked outside is of no use to others in this job either.
            let looked_outside = self.given.looked_outside(stage, *served);
            tasks.push(TaskCommit { index, attempt: 0, outcome, usage, looked_outside });
        }
        self.late.store(0, Ordering::Relaxed);
        let commit = Commit { job, stage, group, round: 0, attempt, worker, tasks };
        self.vault.write_once(&key, &commit).await
    }
}

fn is_late(error: &fanfold_storage::Error) -> bool {
    matches!(error, fanfold_storage::Error::Timeout { .. })
}

/// A product at a place of the new job's own.
async fn copied(
    vault: &Vault,
    case: &Case,
    attempt: &Uuid,
    (stage, task): (u32, u32),
    product: &TaskOutcome,
) -> Result<TaskOutcome> {
    let table = async |table: &OutputObject| {
        // It was first, and is not any more: a run would have left none here.
        if task > 0 && table.rows == 0 {
            return Ok::<_, Error>(None);
        }
        let extension = kept::name(&table.uri).split_once('.').map_or("", |(_, extension)| extension);
        let uri = case.output.join(&keys::output_part(task, attempt, extension))?;
        let (pin, depth) = (kept::pin(table), case.job.document.depth);
        let pin = vault.store().copy_at_depth(&table.uri, Some(&pin), &uri, depth).await?;
        Ok(Some(OutputObject { uri, size: pin.size, etag: pin.etag, rows: table.rows }))
    };
    let state = async |state: &StateRef| match state {
        StateRef::Inline(_) => Ok(state.clone()),
        StateRef::Object { uri: from, size, digest } => {
            let uri = vault.uri(&keys::staged(&case.job.id, stage, task, attempt, "state"))?;
            vault.store().copy(from, None, &uri).await?;
            Ok::<_, Error>(StateRef::Object { uri, size: *size, digest: *digest })
        }
        StateRef::Runs { uri: from, pin, runs } => {
            let uri = vault.uri(&keys::staged(&case.job.id, stage, task, attempt, "runs"))?;
            let pin = vault.store().copy(from, Some(pin), &uri).await?;
            Ok(StateRef::Runs { uri, pin, runs: *runs })
        }
    };
    Ok(match product {
        TaskOutcome::Table(Some(kept)) => TaskOutcome::Table(table(kept).await?),
        TaskOutcome::State(kept) => TaskOutcome::State(state(kept).await?),
        TaskOutcome::Mapped { table: kept, state: folded } => {
            let kept = match kept {
                Some(kept) => table(kept).await?,
                None => None,
            };
            TaskOutcome::Mapped { table: kept, state: state(folded).await? }
        }
        other => other.clone(),
    })
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
