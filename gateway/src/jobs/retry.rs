// SPDX-License-Identifier: Apache-2.0
//! Running a job again, without what was done before over the same input.
//!
//! A retry is a job of its own over the same document and version, so that a job
//! keeps its one end. Its input is listed anew and compared with the plan of the
//! earlier job; partitions that are the same and done are taken over: their
//! tables and states are copied and committed on behalf of the new job's tasks
//! before the first lease is queued, and so are folds of nothing else.

use std::collections::{HashMap, HashSet};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, OutputObject, TaskCommit, TaskOutcome},
    invocation::Usage,
    job::{Difference, Job, JobDocument, JobState, RetryOf},
    keys, limits,
    plan::{Like, Partition, Plan, Shape, Slice, StateRef},
    uri::ObjectUri,
};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{
    Jobs,
    cache::{Given, Served, Which},
    case::Case,
    claim::Key,
    error::{Error, Result},
    filter,
    kept::{self, COPIES_AT_ONCE, Left},
    plan,
    record::JobRecord,
    submit::Wanted,
    unknown,
    vault::Vault,
    view::state_word,
};

/// How a partition, or an object that is gone, stands to the earlier job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It failed before.
    Failed,
    /// It was not done before, or what it gave is gone.
    Unfinished,
    /// Its objects have changed, or are cut otherwise.
    Changed,
    /// Its objects were not there.
    Added,
    /// The object is gone.
    Vanished,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// Which.
    pub change: Change,
    /// The partition in the new plan; none when it is gone.
    pub task: Option<u32>,
    /// Its objects.
    pub input: Vec<ObjectUri>,
    /// Why it failed before.
    pub problem: Option<Problem>,
}

/// What running a job again would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// In numbers.
    pub difference: Difference,
    /// One by one, up to [`limits::DIFFERENCES_TOLD_MAX`].
    pub differing: Vec<Differing>,
    /// For each partition of the new plan, whether it is taken over.
    pub taken: Vec<bool>,
}

/// A job that has ended, as far as another one may take it over.
pub struct Earlier {
    /// The job.
    pub job: Job,
    /// What it did with its input.
    pub shape: Shape,
    state: JobState,
    /// What settled its types.
    pub like: Option<Like>,
    /// What its partitions aimed at, in stored bytes.
    pub target_bytes: Option<u64>,
    /// Its reducers: what was shuffled to so many is of use to as many only.
    pub reducers: u32,
    partitions: Vec<Partition>,
    left: Left,
}

impl Earlier {
    /// What its partitions began with.
    pub fn starts(&self) -> HashSet<&Slice> {
        self.partitions.iter().filter_map(|partition| partition.slices.first()).collect()
    }

    /// Compares the input as it was with the input as it is. Where another object
    /// settles its types now, what was done before may be of other types.
    fn compare(&self, now: &[Partition], like: Option<&Like>) -> Comparison {
        match like == self.like.as_ref() {
            true => compare(&self.partitions, &self.left, now),
            false => compare(&self.partitions, &Left::default(), now),
        }
    }

    /// What the new job takes over, and its groups: those of `plan`, parted where
    /// partitions that are taken over meet others.
    ///
    /// # Errors
    /// `job-finished` when the earlier job succeeded and nothing is different.
    pub fn take_over(&self, now: &[Partition], plan: &mut Plan) -> Result<RetryOf, Problem> {
        let Comparison { difference, taken, .. } = self.compare(now, plan.like.as_ref());
        if self.state == JobState::Succeeded && difference.is_nothing() {
            return Err(Problem::new(
                ErrorKind::JobFinished,
                format!(
                    "expected job {} to have failed, or its input to have changed since, found that it has succeeded and \
                     all of its {} partitions are unchanged; there is nothing to retry",
                    self.job.id, difference.unchanged
                ),
            ));
        }
        plan.groups = regroup(&plan.groups, &taken);
        Ok(RetryOf { job: self.job.id, difference })
    }
}

impl Jobs {
    /// What [`Jobs::retry`] would run. Changes nothing.
    ///
    /// # Errors
    /// `job-not-found`; `job-not-finished`; what is wrong with the input now.
    pub async fn compare(&self, id: &Uuid) -> Result<Comparison, Problem> {
        let earlier = self.earlier(id).await?;
        let output = self.inner.vault.output_of(&earlier.job.document, &Uuid::nil())?;
        let found = self.look(&earlier.job.document, &output).await?;
        let reads = filter::reads(self.version_of(&earlier.job).await?.as_ref(), earlier.shape);
        let (now, like) = plan::partitions(
            self.inner.vault.store(),
            &self.inner.splitter,
            &earlier,
            reads.as_deref(),
            found,
        )
        .await?;
        Ok(earlier.compare(&now, like.as_ref()))
    }

    /// Runs a job again that has ended, as a new job that takes over what was
    /// done before over the same input. A key used before answers the job that it
    /// was used for.
    ///
    /// # Errors
    /// `job-not-found`; `job-not-finished`; `job-finished` when there is nothing
    /// to run; what is wrong with the input now; `output-exists`;
    /// `idempotency-conflict`.
    pub async fn retry(&self, id: &Uuid, key: Option<&str>) -> Result<JobRecord, Problem> {
        let key = key.map(|text| Key::new(text, &("retry", id))).transpose()?;
        self.accept(Wanted::Again(*id), key).await
    }

    pub(super) async fn earlier(&self, id: &Uuid) -> Result<Earlier> {
        let case = Case::open(self, id).await?.ok_or_else(|| unknown(id))?;
        let Some(outcome) = case.outcome else {
            return Err(Error::Refused(Problem::new(
                ErrorKind::JobNotFinished,
                format!(
                    "expected job {id} to have ended, found it {}; wait for it, or cancel it",
                    state_word(case.record.state)
                ),
            )));
        };
        if case.job.sample.is_some() {
            return Err(Error::Refused(Problem::new(
                ErrorKind::JobFinished,
                format!("expected a job to run again, found that {id} is an estimate; submit the job itself"),
            )));
        }
        let vault = &self.inner.vault;
        let (partitions, left) =
            tokio::try_join!(plan::read_partitions(vault, &case.plan), Left::read(vault, id, &case.output))?;
        let reducers = case.plan.reducers();
        let Plan { shape, like, target_bytes, .. } = case.plan;
        let state = outcome.state;
        Ok(Earlier { job: case.job, shape, state, like, target_bytes, reducers, partitions, left })
    }

    /// The document of the new job: the same, which may replace the output of
    /// the earlier job and no other's.
    pub(super) async fn again(&self, earlier: &Earlier) -> Result<JobDocument> {
        let mut document = earlier.job.document.clone();
        if let Some(output) = &document.output {
            let found = kept::manifest(&self.inner.vault, output).await?;
            document.overwrite |= found.is_some_and(|manifest| manifest.job == earlier.job.id);
        }
        Ok(document)
    }
}

fn compare(before: &[Partition], left: &Left, now: &[Partition]) -> Comparison {
    let places: HashMap<&Partition, u32> = before.iter().zip(0..).collect();
    let known: HashSet<&ObjectUri> = uris(before).collect();
    let mut comparison = Comparison::default();
    for (task, partition) in (0..).zip(now) {
        let place = places.get(partition);
        let taken = place.is_some_and(|place| left.products.contains_key(place));
        comparison.taken.push(taken);
        if taken {
            comparison.difference.unchanged += 1;
            continue;
        }
        let problem = place.and_then(|place| left.problems.get(place)).cloned();
        let change = match (place, &problem) {
            (Some(_), Some(_)) => Change::Failed,
            (Some(_), None) => Change::Unfinished,
            (None, _) if uris(std::slice::from_ref(partition)).any(|uri| known.contains(uri)) => {
                Change::Changed
            }
            (None, _) => Change::Added,
        };
        let input = uris(std::slice::from_ref(partition)).cloned().collect();
        comparison.note(Differing { change, task: Some(task), input, problem });
    }
    let present: HashSet<&ObjectUri> = uris(now).collect();
    let mut told = HashSet::new();
    for uri in uris(before).filter(|uri| !present.contains(uri)) {
        if told.insert(uri) {
            let input = vec![uri.clone()];
            comparison.note(Differing { change: Change::Vanished, task: None, input, problem: None });
        }
    }
    comparison.differing.sort_by_key(|differing| differing.change);
    comparison
}

impl Comparison {
    fn note(&mut self, differing: Differing) {
        let difference = &mut self.difference;
        *match differing.change {
            Change::Failed => &mut difference.failed,
            Change::Unfinished => &mut difference.unfinished,
            Change::Changed => &mut difference.changed,
            Change::Added => &mut difference.added,
            Change::Vanished => &mut difference.vanished,
        } += 1;
        if self.differing.len() < limits::DIFFERENCES_TOLD_MAX {
            self.differing.push(differing);
        }
    }
}

fn uris(partitions: &[Partition]) -> impl Iterator<Item = &ObjectUri> {
    partitions.iter().flat_map(|partition| partition.slices.iter().map(|slice| &slice.object.uri))
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
/// cache, as far as that is not done. What cannot be copied any more is run.
pub async fn take_over(vault: &Vault, case: &Case) -> Result<()> {
    let (id, plan) = (&case.job.id, &case.plan);
    let (jobs, which) = match (&case.job.retry, &case.job.cache) {
        (Some(retry), _) => (vec![retry.job], Which::Done),
        (None, Some(cache)) if !cache.jobs.is_empty() => (cache.jobs.clone(), Which::Reproducible),
        _ => return Ok(()),
    };
    let commits = keys::commits(id);
    let (now, given, committed) = tokio::try_join!(
        plan::read_partitions(vault, plan),
        Given::read(vault, &jobs, plan.like.as_ref(), which),
        vault.keys(&commits),
    )?;
    let taking = Taking { vault, case, committed: committed.into_iter().collect() };
    let product = |task: u32| given.find(now.get(task as usize)?);
    let groups = (0..).zip(plan.groups_of(0)).filter_map(|(group, (first, count))| {
        let products: Option<Vec<_>> =
            (first..first + count).map(|task| Some((task, product(task)?))).collect();
        products.map(|products| taking.group(group, products))
    });
    let mut served = vec![None; now.len()];
    let mut groups = stream::iter(groups.collect::<Vec<_>>()).buffer_unordered(COPIES_AT_ONCE);
    while let Some(taken) = groups.try_next().await? {
        for (task, from) in taken {
            served[task as usize] = Some(from);
        }
    }
    let stages = (1..).zip(plan.stages.iter().skip(1));
    let folds = stages.flat_map(|(stage, count)| (0..*count).map(move |task| (stage, task)));
    let folds = folds.filter_map(|place| {
        let (job, product) = given.fold(plan, place, &served)?;
        Some(taking.commit(place, job, vec![(place.1, product)]))
    });
    stream::iter(folds.collect::<Vec<_>>())
        .buffer_unordered(COPIES_AT_ONCE)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
}

/// A job that takes over what others did.
struct Taking<'a> {
    vault: &'a Vault,
    case: &'a Case,
    /// Keys of the commits that are there.
    committed: HashSet<String>,
}

impl Taking<'_> {
    /// Takes a group of the first stage over; answers which of its tasks were taken,
    /// and from where.
    async fn group(&self, group: u32, products: Vec<(u32, &Served)>) -> Result<Vec<(u32, (Uuid, u32))>> {
        let Some((_, (job, ..))) = products.first() else { return Ok(Vec::new()) };
        let copies = products.iter().map(|(task, (.., product))| (*task, product)).collect();
        let taken = self.commit((0, group), *job, copies).await?;
        let from = |(task, (job, number, _)): (u32, &Served)| (task, (*job, *number));
        Ok(if taken { products.into_iter().map(from).collect() } else { Vec::new() })
    }

    /// Commits these products on behalf of the tasks of a group; false when they
    /// are to be run, or were run by a worker.
    async fn commit(
        &self,
        (stage, group): (u32, u32),
        earlier: Uuid,
        products: Vec<(u32, &TaskOutcome)>,
    ) -> Result<bool> {
        let (job, attempt) = (self.case.job.id, Uuid::new_v4());
        let key = keys::commit(&job, stage, group, 0);
        if self.committed.contains(&key) {
            let commit: Commit = self.vault.expect(&key).await?;
            return Ok(commit.tasks.iter().all(|task| task.attempt == 0));
        }
        let worker = format!("none: taken over from job {earlier}");
        let mut tasks = Vec::with_capacity(products.len());
        for (index, product) in products {
            let outcome = match copied(self.vault, self.case, &attempt, (stage, index), product).await {
                Ok(outcome) => outcome,
                // It is gone, has changed, or is more than can be copied.
                Err(Error::Store(error)) if !error.is_transient() => {
                    tracing::warn!(%job, stage, group, %error, "a group is run again, since it cannot be taken over");
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            let usage = Usage::default();
            tasks.push(TaskCommit { index, attempt: 0, outcome, usage, looked_outside: false });
        }
        let commit = Commit { job, stage, group, round: 0, attempt, worker, tasks };
        self.vault.write_once(&key, &commit).await
    }
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
        let extension = kept::name(&table.uri).split_once('.').map_or("", |(_, extension)| extension);
        let uri = case.output.join(&keys::output_part(task, attempt, extension))?;
        let (pin, depth) = (kept::pin(table), case.job.document.depth);
        let pin = vault.store().copy_at_depth(&table.uri, Some(&pin), &uri, depth).await?;
        Ok::<_, Error>(Some(OutputObject { uri, size: pin.size, etag: pin.etag, rows: table.rows }))
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
