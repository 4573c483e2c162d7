// SPDX-License-Identifier: Apache-2.0
//! Serving tasks from what earlier jobs committed.
//!
//! What a task gives follows from its component, settings and parameters and
//! from its pinned input, unless its function looked at anything else, which its
//! commit says. Jobs that do the same leave a mark under a common key; a new one
//! looks for the newest marks and takes over what those jobs gave for the same
//! partitions, in the way of a retry. What is not there any more is run.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;
use fanfold_protocol::{
    commit::{Commit, TaskOutcome},
    digest::Digest,
    function::Settings,
    job::{CacheUse, Job, JobDocument, JobLimits, OneOrMany},
    keys, limits,
    plan::{FOLD_WIDTH, Like, Plan, Shape},
};
use fanfold_storage::PutOptions;
use futures::TryStreamExt;
use serde::Serialize;
use uuid::Uuid;

use super::{
    error::{Error, Result},
    kept::Left,
    plan,
    prints::{Fingerprint, Prints},
    retry::regroup,
    traces::Came,
    union,
    vault::Vault,
};

/// Raised when the platform reads the same input otherwise than before, or notes
/// otherwise what follows from it.
const READING: u32 = 3;

/// What tasks do, the partition left out.
#[derive(Serialize)]
struct Doing<'a> {
    reading: u32,
    component: &'a Digest,
    settings: &'a Settings,
    shape: Shape,
    /// Of a map with an aggregate: whether its tables are output.
    tables: bool,
    /// Of keyed aggregates: how many reducers states are sorted for.
    reducers: Option<u32>,
    like: Option<&'a Like>,
    /// Without what says where input and output lie, how the input is taken
    /// apart, how hard to try and what led to the job: none of it changes what a
    /// task gives.
    document: &'a JobDocument,
}

/// The key of a job's tasks.
fn key(job: &Job, settings: &Settings, plan: &Plan) -> Result<Digest> {
    let asked = &job.document;
    let document = JobDocument {
        input: OneOrMany::Many(Vec::new()),
        output: None,
        overwrite: false,
        split: Default::default(),
        retry: Default::default(),
        limits: JobLimits { memory: asked.limits.memory, ..JobLimits::default() },
        budget: Default::default(),
        depth: 0,
        ..asked.clone()
    };
    let doing = Doing {
        reading: READING,
        component: &job.digest,
        settings,
        shape: plan.shape,
        tables: plan.shape == Shape::MapAggregate && asked.output.is_some(),
        reducers: plan.shape.groups().then(|| plan.reducers()),
        like: plan.like.as_ref(),
        document: &document,
    };
    let text = serde_json::to_vec(&doing).map_err(|e| Error::damaged(keys::job_document(&job.id), e))?;
    Ok(Digest::of(&text))
}

/// Which jobs serve the tasks of a new one; none those of a retry, which goes on
/// with one of its own. The groups of the plan are parted where tasks that are
/// served meet others.
pub async fn find(vault: &Vault, job: &Job, settings: &Settings, plan: &mut Plan) -> Result<CacheUse> {
    let key = key(job, settings, plan)?;
    let jobs = if job.retry.is_some() { Vec::new() } else { newest(vault, &key).await? };
    if jobs.is_empty() {
        return Ok(CacheUse { key, jobs });
    }
    let given = Given::read(vault, plan, &jobs, Which::Reproducible).await?;
    let served: Vec<bool> = given.served().iter().map(Option::is_some).collect();
    plan.groups = regroup(&plan.groups, &served);
    let jobs = if served.contains(&true) { jobs } else { Vec::new() };
    Ok(CacheUse { key, jobs })
}

/// The newest jobs with a mark; their ids sort by time.
async fn newest(vault: &Vault, key: &Digest) -> Result<Vec<Uuid>> {
    let marks = vault.keys(&keys::cache(key)).await?;
    let id = |mark: &String| mark.rsplit('/').next()?.parse::<Uuid>().ok();
    let mut jobs: Vec<Uuid> = marks.iter().filter_map(id).collect();
    jobs.sort_unstable_by(|a, b| b.cmp(a));
    jobs.truncate(limits::CACHE_JOBS_MAX);
    Ok(jobs)
}

/// Marks a job that has ended, so that others find it.
pub async fn mark(vault: &Vault, job: &Job) -> Result<()> {
    let Some(cache) = &job.cache else { return Ok(()) };
    let mark = vault.uri(&keys::cached(&cache.key, &job.id))?;
    vault.store().put(&mark, Bytes::new(), PutOptions::default()).await?;
    Ok(())
}

/// Which of the tasks of earlier jobs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that are done.
    Done,
    /// Those that would give the same again.
    Reproducible,
}

/// A task that an earlier job has done: which of the jobs that were looked at, and
/// its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    source: u32,
    task: u32,
}

impl Served {
    /// Whether it was the first of its stage there.
    pub fn was_first(self) -> bool {
        self.task == 0
    }
}

/// An earlier job.
struct Source {
    plan: Plan,
    left: Left,
}

impl Source {
    /// What is left of it; none when it is gone, or its types are others than the new plan's.
    async fn read(vault: &Vault, plan: &Plan, id: &Uuid) -> Result<Option<Self>> {
        let (document, head) = (keys::job_document(id), keys::plan(id));
        let (job, theirs) = tokio::try_join!(vault.read::<Job>(&document), vault.read::<Plan>(&head))?;
        let Some((job, theirs)) = job.zip(theirs) else { return Ok(None) };
        if !union::settled_alike(plan.like.as_ref(), theirs.like.as_ref()) {
            return Ok(None);
        }
        let output = vault.output_of(&job.document, id)?;
        let left = Left::read(vault, &theirs, &output).await?;
        Ok(Some(Self { plan: theirs, left }))
    }
}

/// What earlier jobs gave for the partitions of a new plan: where that is written, and
/// not what it is. There may be a million of them.
pub struct Given {
    sources: Vec<Source>,
    /// For each partition of the new plan, who serves it.
    served: Vec<Option<Served>>,
}

impl Given {
    /// Reads what is left of these jobs; of several that gave the same, the one
    /// named first counts. Jobs whose types another object settled do not.
    pub async fn read(vault: &Vault, plan: &Plan, jobs: &[Uuid], which: Which) -> Result<Self> {
        let mut numbered = Vec::with_capacity(plan.partitions as usize);
        let mut partitions = std::pin::pin!(plan::stored(vault, plan));
        for number in 0_u32.. {
            let Some(partition) = partitions.try_next().await? else { break };
            numbered.push((Fingerprint::of_partition(&partition)?, number));
        }
        let mut given = Self { sources: Vec::new(), served: vec![None; numbered.len()] };
        let now = Prints::new(numbered);
        for id in jobs {
            match given.add(vault, plan, &now, id, which).await {
                // It lies where nobody can read any more, was removed meanwhile, or is of a newer release.
                Err(error) if which == Which::Reproducible && !error.is_transient() => {
                    tracing::warn!(job = %id, %error, "an earlier job serves nothing, since it cannot be read");
                }
                added => added?,
            }
        }
        Ok(given)
    }

    /// Looks which partitions another job serves.
    async fn add(
        &mut self,
        vault: &Vault,
        plan: &Plan,
        now: &Prints<u32>,
        id: &Uuid,
        which: Which,
    ) -> Result<()> {
        let Some(mut added) = Source::read(vault, plan, id).await? else { return Ok(()) };
        if which == Which::Reproducible {
            added.left.traces.keep_reproducible();
        }
        let source = u32::try_from(self.sources.len()).unwrap_or(u32::MAX);
        let mut found = Vec::new();
        let mut partitions = std::pin::pin!(plan::stored(vault, &added.plan));
        for task in 0_u32.. {
            let Some(partition) = partitions.try_next().await? else { break };
            if added.left.traces.came(0, task) != Came::Product {
                continue;
            }
            found.extend(now.find(&Fingerprint::of_partition(&partition)?).map(|number| (*number, task)));
        }
        for (number, task) in found {
            self.served[number as usize].get_or_insert(Served { source, task });
        }
        self.sources.push(added);
        Ok(())
    }

    /// For each partition of the new plan, who serves it.
    pub fn served(&self) -> &[Option<Served>] {
        &self.served
    }

    /// The job that serves a task.
    pub fn job(&self, served: Served) -> Option<Uuid> {
        self.sources.get(served.source as usize).map(|source| source.plan.job)
    }

    /// Whether the function of a task of a stage looked at more than its input.
    pub fn looked_outside(&self, stage: u32, Served { source, task }: Served) -> bool {
        let source = self.sources.get(source as usize);
        source.is_some_and(|source| source.left.traces.looked_outside(stage, task))
    }

    /// The fold of an earlier job that merged the very states which this one would:
    /// those of `taken`, the tasks that were taken over. Both plans must merge these
    /// alone, and to the same end.
    pub fn fold(&self, plan: &Plan, (stage, task): (u32, u32), taken: &[Option<Served>]) -> Option<Served> {
        let leaves = plan.leaves(stage, task);
        let Served { source, task: first } = (*taken.get(leaves.start as usize)?)?;
        let Source { plan: theirs, left } = self.sources.get(source as usize)?;
        let number =
            if plan.shape.groups() { task } else { first.checked_div(FOLD_WIDTH.checked_pow(stage)?)? };
        let alike = (theirs.finishes(stage), theirs.reducers()) == (plan.finishes(stage), plan.reducers())
            && theirs.leaves(stage, number) == (first..first + (leaves.end - leaves.start));
        let same =
            |(leaf, task): (u32, u32)| taken.get(leaf as usize) == Some(&Some(Served { source, task }));
        (alike && leaves.zip(first..).all(same) && left.traces.came(stage, number) == Came::Product)
            .then_some(Served { source, task: number })
    }

    /// What these tasks of a stage gave, at the place where it lies now; none unless
    /// all of it is there.
    pub async fn products(
        &self,
        vault: &Vault,
        stage: u32,
        served: &[Served],
    ) -> Result<Option<Vec<TaskOutcome>>> {
        // Neighbours were mostly committed together.
        let mut commits: HashMap<(u32, u32, u32), Commit> = HashMap::new();
        let mut products = Vec::with_capacity(served.len());
        for Served { source: number, task } in served.iter().copied() {
            let Some(source) = self.sources.get(number as usize) else { return Ok(None) };
            let (group, round) = source.left.traces.commit(stage, task);
            if let Entry::Vacant(place) = commits.entry((number, group, round)) {
                let key = keys::commit(&source.plan.job, stage, group, round);
                let Some(commit) = vault.read::<Commit>(&key).await? else { return Ok(None) };
                place.insert(commit);
            }
            let commit = commits.get(&(number, group, round));
            let Some(product) = commit.and_then(|commit| source.left.find(task, commit)) else {
                return Ok(None);
            };
            products.push(product);
        }
        Ok(Some(products))
    }
}
