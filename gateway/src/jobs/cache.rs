// SPDX-License-Identifier: Apache-2.0
//! Serving tasks from what earlier jobs committed.
//!
//! What a task gives follows from its component, settings and parameters and
//! from its pinned input, unless its function looked at anything else, which its
//! commit says. Jobs that do the same leave a mark under a common key; a new one
//! looks for the newest marks and takes over what those jobs gave for the same
//! partitions, in the way of a retry. What is not there any more is run.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use fanfold_protocol::{
    commit::TaskOutcome,
    digest::Digest,
    function::Settings,
    job::{CacheUse, Job, JobDocument, JobLimits, OneOrMany},
    keys, limits,
    plan::{FOLD_WIDTH, Like, Partition, Plan, Shape},
    time,
};
use fanfold_storage::{ListEntry, ListOptions, PutOptions};
use futures::TryStreamExt;
use serde::Serialize;
use uuid::Uuid;

use super::{
    error::{Error, Result},
    kept::Left,
    plan,
    retry::regroup,
    vault::Vault,
};

/// What tasks do, the partition left out.
#[derive(Serialize)]
struct Doing<'a> {
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
    let earlier = Given::read(vault, &jobs, plan.like.as_ref(), Which::Reproducible).await?;
    let partitions = plan::read_partitions(vault, plan).await?;
    let served: Vec<bool> = partitions.iter().map(|partition| earlier.find(partition).is_some()).collect();
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

/// Removes the marks that are older than `window`, with the partial states that
/// were kept for it; answers their number.
pub async fn expire(vault: &Vault, window: Duration) -> Result<usize> {
    let listing = vault.store().list(vault.bucket(), keys::caches(), ListOptions::default());
    let (mut listing, now, mut count) = (std::pin::pin!(listing), time::now(), 0);
    while let Some(entry) = listing.try_next().await? {
        let ListEntry::Object { key, last_modified, .. } = entry else { continue };
        if now.since(last_modified) < window {
            continue;
        }
        if let Some(job) = key.rsplit('/').next().and_then(|id| id.parse::<Uuid>().ok()) {
            vault.clear(&keys::all_staged(&job)).await?;
        }
        vault.store().delete(&vault.uri(&key)?).await?;
        count += 1;
    }
    Ok(count)
}

/// Which of the tasks of earlier jobs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that are done.
    Done,
    /// Those that would give the same again.
    Reproducible,
}

/// A task of the first stage that an earlier job has done: which job, its number
/// there, and what it gave.
pub type Served = (Uuid, u32, TaskOutcome);

/// By stage and number.
type Folds = HashMap<(u32, u32), TaskOutcome>;

/// What earlier jobs gave, at the place where it lies now.
pub struct Given {
    products: HashMap<Partition, Served>,
    /// What their folds gave, and the plans that say of what.
    folds: HashMap<Uuid, (Plan, Folds)>,
}

impl Given {
    /// Reads what is left of these jobs; of several that gave the same, the one
    /// named first counts. Jobs whose types another object settled do not.
    pub async fn read(vault: &Vault, jobs: &[Uuid], like: Option<&Like>, which: Which) -> Result<Self> {
        let (mut products, mut folds) = (HashMap::new(), HashMap::new());
        for id in jobs {
            let (document, head) = (keys::job_document(id), keys::plan(id));
            let (job, plan) = tokio::try_join!(vault.read::<Job>(&document), vault.read::<Plan>(&head))?;
            let Some((job, plan)) = job.zip(plan).filter(|(_, plan)| plan.like.as_ref() == like) else {
                continue;
            };
            let output = vault.output_of(&job.document, id)?;
            let (partitions, mut left) =
                tokio::try_join!(plan::read_partitions(vault, &plan), Left::read(vault, id, &output))?;
            if which == Which::Reproducible {
                left.keep_reproducible();
            }
            for (partition, task) in partitions.into_iter().zip(0..) {
                if let Some(product) = left.products.remove(&task) {
                    products.entry(partition).or_insert((*id, task, product));
                }
            }
            folds.insert(*id, (plan, left.folds));
        }
        Ok(Self { products, folds })
    }

    /// What was given for a partition, and by which job.
    pub fn find(&self, partition: &Partition) -> Option<&Served> {
        self.products.get(partition)
    }

    /// What a fold of an earlier job gave that merged the very states which this
    /// one would: those of `served`, the tasks that were taken over. Both plans must
    /// merge these alone, and to the same end.
    pub fn fold(
        &self,
        plan: &Plan,
        (stage, task): (u32, u32),
        served: &[Option<(Uuid, u32)>],
    ) -> Option<(Uuid, &TaskOutcome)> {
        let leaves = plan.leaves(stage, task);
        let (job, first) = (*served.get(leaves.start as usize)?)?;
        let (theirs, folds) = self.folds.get(&job)?;
        let number =
            if plan.shape.groups() { task } else { first.checked_div(FOLD_WIDTH.checked_pow(stage)?)? };
        let alike = (theirs.finishes(stage), theirs.reducers()) == (plan.finishes(stage), plan.reducers())
            && theirs.leaves(stage, number) == (first..first + (leaves.end - leaves.start));
        let same = |(leaf, place): (u32, u32)| served.get(leaf as usize) == Some(&Some((job, place)));
        (alike && leaves.zip(first..).all(same))
            .then(|| folds.get(&(stage, number)))
            .flatten()
            .map(|fold| (job, fold))
    }
}
