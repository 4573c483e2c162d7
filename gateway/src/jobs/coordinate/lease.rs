// SPDX-License-Identifier: Apache-2.0
//! Leases as messages of the queue.
//!
//! Turns what the progress makes possible into messages that are complete in
//! themselves, and queues them in batches. A message's id names its commit, so
//! that queueing it twice does no harm and mostly has no effect.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfold_backbone::{Backbone, queue};
use fanfold_protocol::{
    function::Version,
    job::{Format, Job},
    keys, limits,
    plan::{GROUP_DOCUMENT_BYTES_MAX, Lease, Like, Plan, Shape, Task, TaskCommon, Work},
    time::whole_ms,
    uri::ObjectUri,
};

use crate::jobs::{
    error::{Error, Result},
    plan::{Shards, split::Splitter},
    progress::{slots::LeaseSpec, stragglers::Place},
};

/// Bytes of leases in one call: well under what a batch may hold.
const BATCH_BYTES: usize = queue::BATCH_BYTES_MAX / 4;
/// Besides what all leases of a job carry and its partitions: names, numbers, and the objects
/// that settle types.
const LEASE_REST_BYTES: usize = 64 << 10;
const _: () = assert!(
    limits::JOB_CARRIED_BYTES_MAX + GROUP_DOCUMENT_BYTES_MAX as usize + LEASE_REST_BYTES
        <= queue::PAYLOAD_BYTES_MAX
);
/// The longest wait before another attempt that doubling makes; the first of a job may be longer.
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Why leases are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is their turn.
    First,
    /// The queue has lost them, so often.
    Again(u32),
    /// The first attempt takes long.
    Second,
}

/// Makes and queues the leases of one job.
pub struct Leases {
    job: Job,
    function: String,
    common: TaskCommon,
    shards: Shards,
    backbone: Backbone,
    /// What is queued in the next call.
    batch: Vec<queue::Message>,
    batch_bytes: usize,
    outstanding: Outstanding,
}

/// The bytes of leases that are queued and not committed.
#[derive(Debug)]
struct Outstanding {
    leases: HashMap<Place, usize>,
    bytes: usize,
    /// Those of all jobs of the tenant that are coordinated here.
    of_all: Arc<AtomicUsize>,
}

impl Outstanding {
    fn new(of_all: Arc<AtomicUsize>) -> Self {
        Self { leases: HashMap::new(), bytes: 0, of_all }
    }

    /// Counts a lease; one that is queued again counts once.
    fn add(&mut self, place: Place, bytes: usize) {
        self.remove(place);
        self.leases.insert(place, bytes);
        self.bytes += bytes;
        self.of_all.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&mut self, place: Place) {
        let bytes = self.leases.remove(&place).unwrap_or(0);
        self.bytes -= bytes;
        self.of_all.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A job has one lease in any case: nobody would tell it that others have made room.
    fn has_room(&self) -> bool {
        self.leases.is_empty()
            || (self.bytes < limits::LEASES_BYTES_OUTSTANDING_MAX
                && self.of_all.load(Ordering::Relaxed) < limits::LEASES_BYTES_TENANT_MAX)
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Leases {
    /// The leases of this job, whose bytes are counted in `queued` with those of others.
    pub fn new(
        job: Job,
        plan: &Plan,
        version: &Version,
        output: ObjectUri,
        shards: Shards,
        backbone: Backbone,
        queued: Arc<AtomicUsize>,
    ) -> Result<Self> {
        let common = common(&job, version, output, plan.like.clone())?;
        Ok(Self {
            function: job.document.function.name.to_string(),
            common,
            job,
            shards,
            backbone,
            batch: Vec::new(),
            batch_bytes: 0,
            outstanding: Outstanding::new(queued),
        })
    }

    /// Queues these leases in as few calls as they fit in.
    pub async fn queue(&mut self, plan: &Plan, specs: Vec<LeaseSpec>, turn: Turn) -> Result<()> {
        for spec in specs {
            self.add(plan, spec, turn).await?;
        }
        self.flush().await
    }

    /// Adds a lease to those that the next call queues, which comes with the last of
    /// them: [`Leases::flush`].
    pub async fn add(&mut self, plan: &Plan, spec: LeaseSpec, turn: Turn) -> Result<()> {
        let place = (spec.stage, spec.group, spec.round);
        let message = self.message(plan, spec, turn).await?;
        self.outstanding.add(place, message.payload.len());
        self.batch_bytes += message.payload.len();
        self.batch.push(message);
        if self.batch_bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Queues what was added.
    pub async fn flush(&mut self) -> Result<()> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.backbone.enqueue(keys::TASK_QUEUE, batch).await?;
        }
        Ok(())
    }

    /// Whether there is room for another lease beside those that are not committed.
    pub fn has_room(&self) -> bool {
        self.outstanding.has_room()
    }

    /// A lease is committed, and takes up no room any more.
    pub fn committed(&mut self, place: Place) {
        self.outstanding.remove(place);
    }

    /// Stored bytes that these tasks of the first stage read, as far as the splitter knows.
    pub async fn bytes(&mut self, tasks: &[u32], splitter: &Splitter) -> Result<Option<u64>> {
        let mut bytes = Some(0_u64);
        for task in tasks {
            for slice in self.shards.partition(*task).await?.slices {
                bytes = bytes.zip(splitter.weight(&slice)).map(|(sum, more)| sum.saturating_add(more));
            }
        }
        Ok(bytes)
    }

    /// How long a round of a group waits before it is leased.
    pub fn wait(&self, place: Place) -> Duration {
        let first = self.job.document.retry.backoff.as_duration();
        backoff(first, &id(&self.job, place, Turn::First), place.2)
    }

    async fn message(&mut self, plan: &Plan, spec: LeaseSpec, turn: Turn) -> Result<queue::Message> {
        let (stage, group, round) = (spec.stage, spec.group, spec.round);
        let id = id(&self.job, (stage, group, round), turn);
        let mut tasks = Vec::with_capacity(spec.tasks.len());
        for index in spec.tasks {
            let work = if stage == 0 {
                let partition = self.shards.partition(index).await?;
                match plan.shape {
                    Shape::Map => Work::Map(partition),
                    Shape::Aggregate => Work::Accumulate(partition),
                    Shape::Group | Shape::MapGroup => Work::Group {
                        partition,
                        mapped: plan.shape == Shape::MapGroup,
                        reducers: plan.reducers(),
                    },
                    Shape::MapAggregate => Work::MapAccumulate { partition, keep: self.job.keeps_tables() },
                }
            } else if plan.shape.groups() {
                Work::Reduce { states: spec.states.clone(), reducers: plan.reducers() }
            } else {
                Work::Merge { states: spec.states.clone(), finish: plan.finishes(stage) }
            };
            tasks.push(Task { index, attempt: round + 1, work });
        }
        let lease = Lease {
            job: self.job.id,
            stage,
            group,
            round,
            function: self.function.clone(),
            version: self.job.version,
            second: turn == Turn::Second,
            common: self.common.clone(),
            tasks,
        };
        let payload = serde_json::to_vec(&lease).map_err(|e| Error::damaged(&id, e))?;
        Ok(queue::Message::new(id, payload))
    }
}

fn id(job: &Job, (stage, group, round): Place, turn: Turn) -> String {
    let id = format!("{}/{stage}/{group}/{round}", job.id);
    match turn {
        Turn::First | Turn::Again(0) => id,
        Turn::Again(times) => format!("{id}{}{times}", keys::LEASE_AGAIN),
        Turn::Second => format!("{id}/second"),
    }
}

/// What all tasks of a job have in common.
fn common(job: &Job, version: &Version, output: ObjectUri, like: Option<Like>) -> Result<TaskCommon> {
    let document = &job.document;
    let params = document.params.as_ref().map_or(Ok("{}".to_owned()), serde_json::to_string);
    let timeout = match document.limits.task_timeout {
        Some(timeout) => timeout.as_duration(),
        None => version.settings.timeout_or(limits::TASK_TIMEOUT_DEFAULT),
    };
    Ok(TaskCommon {
        depth: document.depth,
        params: params.map_err(|e| Error::damaged(keys::job_document(&job.id), e))?,
        format: document.format,
        columns: document.columns.clone(),
        csv: document.csv.clone(),
        schema: document.schema,
        filter: document.filter.clone(),
        output,
        output_format: match document.output_format {
            Format::Auto => Format::Parquet,
            format => format,
        },
        timeout_ms: whole_ms(timeout),
        memory_bytes: document.limits.memory.map(|memory| memory.0),
        like,
    })
}

/// How long a round waits: none for the first, then the job's backoff, doubled
/// for each further one up to a bound, less up to half. The spreading follows from the
/// lease's name, so that leases that failed together do not come back together.
fn backoff(first: Duration, id: &str, round: u32) -> Duration {
    let Some(doublings) = round.checked_sub(1) else { return Duration::ZERO };
    let full = first.saturating_mul(1 << doublings.min(16)).min(BACKOFF_MAX.max(first));
    let digest = fanfold_protocol::digest::Digest::of(id.as_bytes());
    let share = u32::from(digest.as_bytes()[0]);
    full - full * share / (2 * 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_takes_up_room_until_it_is_committed() {
        let of_all = Arc::<AtomicUsize>::default();
        let mut outstanding = Outstanding::new(Arc::clone(&of_all));
        for (place, bytes, expected) in [((0, 0, 0), 7, 7), ((0, 1, 0), 5, 12), ((0, 0, 0), 8, 13)] {
            outstanding.add(place, bytes);
            assert_eq!(
                (outstanding.bytes, of_all.load(Ordering::Relaxed)),
                (expected, expected),
                "{place:?}"
            );
        }
        // A commit is told of again and again, and of what another coordinator had queued.
        for (place, expected) in [((0, 0, 0), 5), ((0, 0, 0), 5), ((3, 0, 0), 5), ((0, 1, 0), 0)] {
            outstanding.remove(place);
            assert_eq!(outstanding.bytes, expected, "{place:?}");
        }
    }

    #[test]
    fn jobs_share_the_room_of_their_tenant() {
        let of_all = Arc::<AtomicUsize>::default();
        let mut jobs = [(); 6].map(|()| Outstanding::new(Arc::clone(&of_all)));
        for job in &mut jobs[..4] {
            job.add((0, 0, 0), limits::LEASES_BYTES_OUTSTANDING_MAX - 1);
            assert!(job.has_room());
            job.add((0, 1, 0), 1);
            assert!(!job.has_room(), "it has all that is its own");
        }
        jobs[4].add((0, 0, 0), 1);
        assert_eq!(jobs.each_ref().map(Outstanding::has_room), [false, false, false, false, false, true]);
        // One of them has ended, or is coordinated elsewhere.
        let [ended, rest @ ..] = jobs;
        drop(ended);
        assert_eq!(rest.each_ref().map(Outstanding::has_room), [false, false, false, true, true]);
        drop(rest);
        assert_eq!(of_all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn waiting_doubles_and_spreads() {
        let second = Duration::from_secs(1);
        assert_eq!(backoff(second, "a", 0), Duration::ZERO);
        let check = |first: Duration, round: u32, full: Duration| {
            let delay = backoff(first, "a", round);
            assert!(
                delay > full / 2 - Duration::from_millis(1) && delay <= full,
                "{first:?} {round} {delay:?}"
            );
        };
        for round in 1..20 {
            check(second, round, second.saturating_mul(1 << (round - 1).min(16)).min(BACKOFF_MAX));
            // What is longer by itself is not shortened, nor doubled.
            check(limits::BACKOFF_MAX, round, limits::BACKOFF_MAX);
            check(2 * BACKOFF_MAX / 3, round, if round == 1 { 2 * BACKOFF_MAX / 3 } else { BACKOFF_MAX });
        }
        assert_ne!(backoff(second, "a", 1), backoff(second, "b", 1));
    }
}
