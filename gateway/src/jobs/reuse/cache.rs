// SPDX-License-Identifier: Apache-2.0
//! Serving tasks from what earlier jobs committed.
//!
//! What a task gives follows from its component, settings and parameters and
//! from its pinned input, unless its function looked at anything else, which its
//! commit says. Jobs that do the same leave a mark under a common key; a new one
//! looks through the marks, those over the same input first, and takes over what
//! these jobs gave for the same partitions, in the way of a retry. What is not there
//! any more is run.

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

use super::{kept::Left, retry::regroup, traces::Came};
use crate::jobs::{
    error::{Error, Result},
    plan::{self, union},
    prints::{Fingerprint, Prints},
    vault::Vault,
};

/// Raised when the platform reads or writes the same otherwise than before, or notes
/// otherwise what follows from it.
const READING: u32 = 6;

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
/// with one of its own, `earlier`. The groups of the plan are parted where tasks that
/// are served meet others. None at all where a retry goes on with what was done under
/// another key, as before `READING` was raised: under its own it would pass that on.
pub async fn find(
    vault: &Vault,
    job: &Job,
    earlier: Option<&Job>,
    settings: &Settings,
    plan: &mut Plan,
) -> Result<Option<CacheUse>> {
    let key = key(job, settings, plan)?;
    if let Some(retry) = &job.retry {
        let held = earlier.and_then(|earlier| earlier.cache.as_ref());
        let is_alike = retry.difference.unchanged == 0 || held.is_some_and(|held| held.key == key);
        return Ok(is_alike.then(|| CacheUse { key, jobs: Vec::new() }));
    }
    let marks = vault.keys(&keys::cache(&key)).await?;
    let jobs = to_look_at(&marks, &keys::cache_over(&key, &input(&job.document)?));
    if jobs.is_empty() {
        return Ok(Some(CacheUse { key, jobs }));
    }
    let given = Given::read(vault, plan, &jobs, Which::Reproducible).await?;
    let served: Vec<bool> = given.served().iter().map(Option::is_some).collect();
    plan.groups = regroup(&plan.groups, &served);
    Ok(Some(CacheUse { key, jobs: given.jobs() }))
}

/// The words in which the input of a job was written.
fn input(document: &JobDocument) -> Result<Digest> {
    let text = serde_json::to_vec(document.inputs()).map_err(|e| Error::damaged("a job's input", e))?;
    Ok(Digest::of(&text))
}

/// The jobs of these marks that are looked at, in order: those whose mark begins with
/// `same` before others, and of each the newest first. Their ids sort by time.
fn to_look_at(marks: &[String], same: &str) -> Vec<Uuid> {
    let read = |mark: &String| Some((mark.starts_with(same), mark.rsplit('/').next()?.parse::<Uuid>().ok()?));
    let mut jobs: Vec<(bool, Uuid)> = marks.iter().filter_map(read).collect();
    jobs.sort_unstable_by(|a, b| b.cmp(a));
    jobs.into_iter().map(|(_, id)| id).take(limits::CACHE_LOOKS_MAX).collect()
}

/// Marks a job that has ended, so that others find it.
pub async fn mark(vault: &Vault, job: &Job) -> Result<()> {
    let Some(cache) = &job.cache else { return Ok(()) };
    let mark = vault.uri(&keys::cached(&cache.key, &input(&job.document)?, &job.id))?;
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

/// An earlier job that serves some task.
struct Source {
    plan: Plan,
    left: Left,
}

/// An earlier job and the head of its plan; none when it is gone, or its types are others than the
/// new plan's.
async fn heads(vault: &Vault, plan: &Plan, id: &Uuid) -> Result<Option<(Job, Plan)>> {
    let (document, head) = (keys::job_document(id), keys::plan(id));
    let (job, theirs) = tokio::try_join!(vault.read::<Job>(&document), vault.read::<Plan>(&head))?;
    let alike = |(_, theirs): &(Job, Plan)| union::settled_alike(plan.like.as_ref(), theirs.like.as_ref());
    Ok(job.zip(theirs).filter(alike))
}

/// What earlier jobs gave for the partitions of a new plan: where that is written, and
/// not what it is. There may be a million of them.
pub struct Given {
    sources: Vec<Source>,
    /// For each partition of the new plan, who serves it.
    served: Vec<Option<Served>>,
}

impl Given {
    /// Reads what is left of these jobs, one after the other until enough of them serve
    /// something; of several that gave the same, the one named first counts. Jobs whose
    /// types another object settled do not.
    pub async fn read(vault: &Vault, plan: &Plan, jobs: &[Uuid], which: Which) -> Result<Self> {
        let mut numbered = Vec::with_capacity(plan.partitions as usize);
        let mut partitions = std::pin::pin!(plan::stored(vault, plan));
        for number in 0_u32.. {
            let Some(partition) = partitions.try_next().await? else { break };
            numbered.push((Fingerprint::of_partition(&partition)?, number));
        }
        let mut given = Self { sources: Vec::new(), served: vec![None; numbered.len()] };
        let (now, mut looked) = (Prints::new(numbered), 0);
        for id in jobs {
            if given.is_enough() || looked > limits::CACHE_LOOKS_PARTITIONS_MAX {
                break;
            }
            match given.add(vault, plan, &now, id, which).await {
                // It lies where nobody can read any more, was removed meanwhile, or is of a newer release.
                Err(error) if which == Which::Reproducible && !error.is_transient() => {
                    tracing::warn!(job = %id, %error, "an earlier job serves nothing, since it cannot be read");
                }
                added => looked += added?,
            }
        }
        Ok(given)
    }

    /// Whether another job would serve nothing more, or be one too many.
    fn is_enough(&self) -> bool {
        self.sources.len() == limits::CACHE_JOBS_MAX || self.served.iter().all(Option::is_some)
    }

    /// Looks which partitions another job serves that none does yet; answers how many it had.
    async fn add(
        &mut self,
        vault: &Vault,
        plan: &Plan,
        now: &Prints<u32>,
        id: &Uuid,
        which: Which,
    ) -> Result<u64> {
        let Some((job, theirs)) = heads(vault, plan, id).await? else { return Ok(0) };
        let count = u64::from(theirs.partitions);
        let is_open = |number: &&u32| self.served[**number as usize].is_none();
        let mut found = Vec::new();
        let mut partitions = std::pin::pin!(plan::stored(vault, &theirs));
        for task in 0_u32.. {
            let Some(partition) = partitions.try_next().await? else { break };
            let print = Fingerprint::of_partition(&partition)?;
            found.extend(now.find(&print).filter(is_open).map(|number| (*number, task)));
        }
        // Its commits cost far more to read than the plan.
        if found.is_empty() {
            return Ok(count);
        }
        let mut left = Left::read(vault, &theirs, &vault.output_of(&job.document, id)?).await?;
        if which == Which::Reproducible {
            left.traces.keep_reproducible();
        }
        found.retain(|(_, task)| left.traces.came(0, *task) == Came::Product);
        if found.is_empty() {
            return Ok(count);
        }
        let source = u32::try_from(self.sources.len()).unwrap_or(u32::MAX);
        for (number, task) in found {
            self.served[number as usize].get_or_insert(Served { source, task });
        }
        self.sources.push(Source { plan: theirs, left });
        Ok(count)
    }

    /// The jobs that serve any of them, in the order in which they were named.
    fn jobs(&self) -> Vec<Uuid> {
        self.sources.iter().map(|source| source.plan.job).collect()
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn jobs_over_the_same_input_are_looked_at_first_and_of_these_the_newest() {
        let [key, here, there] = [b"key", b"in/", b"out"].map(|text| Digest::of(text));
        let marks: Vec<String> = [(1, &there), (2, &here), (3, &there), (4, &here), (5, &there)]
            .map(|(id, input)| keys::cached(&key, input, &Uuid::from_u128(id)))
            .into();
        // An earlier release told no input.
        let earlier = format!("{}{}", keys::cache(&key), Uuid::from_u128(6));
        let marks = [marks, vec![earlier, keys::cache(&key)]].concat();
        let looked = to_look_at(&marks, &keys::cache_over(&key, &here));
        assert_eq!(looked, [4, 2, 6, 5, 3, 1].map(Uuid::from_u128));
        let many = |id| keys::cached(&key, &there, &Uuid::from_u128(id));
        let looked = to_look_at(&(0..100).map(many).collect::<Vec<_>>(), "");
        assert_eq!((looked.len(), looked[0]), (limits::CACHE_LOOKS_MAX, Uuid::from_u128(99)));
    }

    #[test]
    fn one_input_is_the_same_as_a_list_of_it() {
        let of = |input: Value| {
            let document = json!({"function": "f", "input": input});
            super::input(&serde_json::from_value(document).unwrap()).unwrap()
        };
        assert_eq!(of(json!("s3://bank/in/")), of(json!(["s3://bank/in/"])));
        assert_ne!(of(json!("s3://bank/in/")), of(json!("s3://bank/out/")));
    }
}
