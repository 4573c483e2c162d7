// SPDX-License-Identifier: Apache-2.0
//! A job taken apart: partitions, tasks, and who is folded with whom.
//!
//! A plan is a pure function of the job and the pinned listing: no clock and no
//! randomness. It is written once to the store; with the commits beside it, it
//! is all that is needed to go on with a job.
//!
//! Stage 0 holds one task for each partition. Of an aggregate, each further
//! stage merges [`FOLD_WIDTH`] neighbouring states into one, in order, until
//! one is left, which is finished. Of a keyed aggregate, stage 1 has a task for
//! each reducer, which merges its share of what all tasks of stage 0 wrote. Tasks
//! are leased in groups of neighbours.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    digest::Digest,
    job::{CsvOptions, Format, SchemaRule},
    limits,
    uri::{ObjectUri, Pin, PinnedObject},
};

/// States merged by one task of a fold.
pub const FOLD_WIDTH: u32 = 16;

/// Most tasks in one lease, so that a lease stays a small message and a lost
/// one costs little.
pub const GROUP_TASKS_MAX: u32 = 64;

/// Leases that a job has at least, if it has so many tasks: those of one lease have
/// one thread, and how long they take is known to nobody before.
pub const GROUPS_LEAST: usize = 128;

/// Stored bytes that a lease aims at; larger partitions are leased alone.
pub const GROUP_BYTES_TARGET: u64 = 4 << 20;

/// Bytes of JSON of the partitions in one lease, unless it holds only one:
/// besides them it carries the job's parameters, in a message of 1 MiB at most.
pub const GROUP_DOCUMENT_BYTES_MAX: u64 = 512 << 10;

/// Bytes of JSON of one partition that is packed out of several slices. This
/// also bounds how many small objects one task reads one after the other.
pub const PARTITION_DOCUMENT_BYTES_MAX: u64 = 64 << 10;

/// Partitions in one object of a stored plan.
pub const SHARD_PARTITIONS: u32 = 10_000;

/// Bytes of JSON in one object of a stored plan, up to one partition more.
pub const SHARD_BYTES_TARGET: u64 = 8 << 20;

/// Bytes to `end`, not including it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

/// A part of an object's rows, in one definite state of the object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// The object.
    pub object: PinnedObject,
    /// Whole records of a text table, or whole batches of an Arrow file: those that
    /// begin within; `None` for the whole object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteRange>,
    /// Row groups of a Parquet table; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_groups: Option<Vec<u32>>,
}

impl Slice {
    /// All of an object.
    pub fn whole(object: PinnedObject) -> Self {
        Self { object, bytes: None, row_groups: None }
    }

    /// Whether it takes in all bytes of its object.
    pub fn is_whole(&self) -> bool {
        self.bytes.is_none_or(|range| range == ByteRange { start: 0, end: self.object.pin.size })
    }
}

/// The input of one task: slices, read in order as one table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// In the order in which they are read.
    pub slices: Vec<Slice>,
}

/// What a partition weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Stored bytes, all slices together.
    pub bytes: u64,
    /// Bytes of its JSON: it travels in a lease.
    pub document: u64,
}

/// What a job does with its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Each partition becomes a table.
    Map,
    /// All partitions become one answer.
    Aggregate,
    /// Each partition becomes a table, and all these tables one answer.
    #[serde(rename = "map-aggregate")]
    MapAggregate,
    /// All partitions become one table with a row for each key.
    Group,
    /// The same over what each partition is mapped to.
    #[serde(rename = "map-group")]
    MapGroup,
}

impl Shape {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Aggregate => "aggregate",
            Self::MapAggregate => "map-aggregate",
            Self::Group => "group",
            Self::MapGroup => "map-group",
        }
    }

    /// Whether partial states are folded into one answer.
    pub fn folds(self) -> bool {
        matches!(self, Self::Aggregate | Self::MapAggregate)
    }

    /// Whether partial states are shuffled by their keys to reducers.
    pub fn groups(self) -> bool {
        matches!(self, Self::Group | Self::MapGroup)
    }
}

/// Row groups that a plan leaves out, since by their statistics no row of them
/// passes the job's filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// How many.
    pub row_groups: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Pruned {
    /// Whether nothing was left out.
    pub fn is_nothing(&self) -> bool {
        self.row_groups == 0
    }

    /// Adds what was left out of another object.
    pub fn add(&mut self, other: Self) {
        self.row_groups += other.row_groups;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// The objects that settle the types of columns that are not declared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Like {
    /// The one whose columns come first.
    #[serde(flatten)]
    pub object: PinnedObject,
    /// Of a table that unites different objects, those that have columns or types
    /// that the ones before them do not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<PinnedObject>,
}

impl Like {
    /// All of them.
    pub fn objects(&self) -> impl Iterator<Item = &PinnedObject> {
        std::iter::once(&self.object).chain(&self.others)
    }
}

/// The head of a stored plan; the partitions lie beside it in shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The job.
    pub job: Uuid,
    /// The component.
    pub digest: Digest,
    /// What is done with the partitions.
    pub shape: Shape,
    /// Number of partitions, which is the number of tasks of stage 0.
    pub partitions: u32,
    /// Stored bytes of all partitions.
    pub bytes: u64,
    /// Partitions of each shard.
    pub shards: Vec<u32>,
    /// Tasks of each group of stage 0: groups are runs of neighbouring tasks.
    pub groups: Vec<u32>,
    /// Tasks of each stage: the first is [`Plan::partitions`].
    pub stages: Vec<u32>,
    /// Stored bytes that its partitions aim at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_bytes: Option<u64>,
    /// What settles the types of columns that are not declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<Like>,
    /// What its partitions do not hold.
    #[serde(default, skip_serializing_if = "Pruned::is_nothing")]
    pub pruned: Pruned,
    /// What the author should know of how the job was taken apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Plan {
    /// Lays out the stages and groups for partitions of these weights.
    pub fn lay_out(job: Uuid, digest: Digest, shape: Shape, weights: &[Weight]) -> Self {
        let partitions = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        let mut stages = vec![partitions];
        if shape.folds() {
            let mut width = partitions.div_ceil(FOLD_WIDTH).max(1);
            stages.push(width);
            while width > 1 {
                width = width.div_ceil(FOLD_WIDTH);
                stages.push(width);
            }
        }
        let bytes: u64 = weights.iter().map(|weight| weight.bytes).sum();
        if shape.groups() {
            stages.push(reducers(bytes));
        }
        Self {
            job,
            digest,
            shape,
            partitions,
            bytes,
            shards: Vec::new(),
            groups: group(weights),
            stages,
            target_bytes: None,
            like: None,
            pruned: Pruned::default(),
            warnings: Vec::new(),
        }
    }

    /// Number of tasks in all stages.
    pub fn tasks(&self) -> u64 {
        self.stages.iter().map(|n| u64::from(*n)).sum()
    }

    /// The tasks of each group of a stage, as `(first, count)`.
    pub fn groups_of(&self, stage: u32) -> Vec<(u32, u32)> {
        let mut first = 0;
        let mut run = |count: u32| {
            let at = first;
            first += count;
            (at, count)
        };
        if stage == 0 {
            self.groups.iter().map(|count| run(*count)).collect()
        } else {
            (0..self.stages.get(stage as usize).copied().unwrap_or(0)).map(|_| run(1)).collect()
        }
    }

    /// The tasks of the stage before whose states a task of a fold merges.
    pub fn children(&self, stage: u32, task: u32) -> std::ops::Range<u32> {
        let before = (stage as usize).checked_sub(1).and_then(|s| self.stages.get(s)).copied().unwrap_or(0);
        if self.shape.groups() {
            return 0..before;
        }
        let start = task.saturating_mul(FOLD_WIDTH).min(before);
        start..start.saturating_add(FOLD_WIDTH).min(before)
    }

    /// The tasks of stage 0 whose states reach a task, directly or merged.
    pub fn leaves(&self, stage: u32, task: u32) -> std::ops::Range<u32> {
        (0..stage).rev().fold(task..task.saturating_add(1), |tasks, below| {
            let first = self.children(below + 1, tasks.start).start;
            first..self.children(below + 1, tasks.end.saturating_sub(1)).end.max(first)
        })
    }

    /// The tasks of the next stage that merge what a task of this one gives.
    pub fn parents(&self, stage: u32, task: u32) -> std::ops::Range<u32> {
        let after = self.stages.get(stage as usize + 1).copied().unwrap_or(0);
        match self.shape.groups() {
            true => 0..after,
            false => task / FOLD_WIDTH..(task / FOLD_WIDTH).saturating_add(1).min(after),
        }
    }

    /// Reducers of a keyed aggregate; 0 of everything else.
    pub fn reducers(&self) -> u32 {
        if self.shape.groups() { self.stages.get(1).copied().unwrap_or(0) } else { 0 }
    }

    /// Shuffles a keyed aggregate to so many reducers instead of the usual number.
    pub fn reduce_into(&mut self, reducers: u32) {
        if self.shape.groups() {
            self.stages = vec![self.partitions, reducers];
        }
    }

    /// Whether this stage's only task gives the job's answer.
    pub fn finishes(&self, stage: u32) -> bool {
        self.shape.folds() && stage > 0 && stage as usize == self.stages.len() - 1
    }
}

/// As many reducers as the input suggests.
fn reducers(bytes: u64) -> u32 {
    let wanted = u32::try_from(bytes.div_ceil(limits::REDUCER_INPUT_BYTES_TARGET)).unwrap_or(u32::MAX);
    wanted.clamp(1, limits::REDUCERS_MAX)
}

/// Runs of neighbours, each within [`GROUP_TASKS_MAX`] and such that there are
/// [`GROUPS_LEAST`]; and, unless it is one large partition, within [`GROUP_BYTES_TARGET`] and [`GROUP_DOCUMENT_BYTES_MAX`].
fn group(weights: &[Weight]) -> Vec<u32> {
    let tasks_max = u32::try_from(weights.len() / GROUPS_LEAST).unwrap_or(u32::MAX).clamp(1, GROUP_TASKS_MAX);
    let mut groups: Vec<u32> = Vec::new();
    let mut run = Weight::default();
    for weight in weights {
        run.bytes = run.bytes.saturating_add(weight.bytes);
        run.document = run.document.saturating_add(weight.document);
        let fits = run.bytes <= GROUP_BYTES_TARGET && run.document <= GROUP_DOCUMENT_BYTES_MAX;
        match groups.last_mut() {
            Some(count) if *count < tasks_max && fits => *count += 1,
            _ => {
                groups.push(1);
                run = *weight;
            }
        }
    }
    groups
}

/// A partial state: within the record that carries it, or an object of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateRef {
    /// Hexadecimal digits of a small state.
    Inline(String),
    /// A large one.
    Object {
        /// Where.
        uri: ObjectUri,
        /// Bytes.
        size: u64,
        /// Compared after reading.
        digest: Digest,
    },
    /// States by key, in sorted runs with a part for each reducer.
    Runs {
        /// Where.
        uri: ObjectUri,
        /// The state of the object.
        pin: Pin,
        /// Number of runs; where the parts of each begin stands at the end of the
        /// object.
        runs: u32,
    },
}

impl StateRef {
    /// Bytes of the state, or of the object with all states by key.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Inline(digits) => digits.len() as u64 / 2,
            Self::Object { size, .. } => *size,
            Self::Runs { pin, .. } => pin.size,
        }
    }
}

/// Largest state that travels inside records and messages.
pub const STATE_INLINE_BYTES_MAX: usize = 4 << 10;

/// What a task does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Runs the mapper over the partition.
    Map(Partition),
    /// Runs the aggregator over the partition.
    Accumulate(Partition),
    /// Runs the mapper over the partition, and the aggregator over what it writes.
    #[serde(rename = "map-accumulate")]
    MapAccumulate {
        /// What the mapper reads.
        partition: Partition,
        /// Whether its table is staged besides.
        keep: bool,
    },
    /// Runs the grouper over the partition and shuffles its states.
    Group {
        /// What is read.
        partition: Partition,
        /// Whether the mapper reads it, and the grouper what that writes.
        mapped: bool,
        /// Reducers of the job.
        reducers: u32,
    },
    /// Merges the states of one reducer's keys into a table: the one whose number
    /// is the task's.
    Reduce {
        /// What the tasks of stage 0 gave, in their order.
        states: Vec<StateRef>,
        /// Reducers of the job.
        reducers: u32,
    },
    /// Merges states in order; at the root, finishes.
    Merge {
        /// In the plan's order.
        states: Vec<StateRef>,
        /// Whether to make the answer out of the merged state.
        finish: bool,
    },
}

/// One task of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its place in its stage.
    pub index: u32,
    /// The attempt that this lease makes, from 1.
    pub attempt: u32,
    /// What to do.
    pub work: Work,
}

/// The right and the duty to run some neighbouring tasks: one message of the
/// queue `tasks`, complete in itself. Its commit goes to the key of its stage,
/// group and round, where the first one wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The job.
    pub job: Uuid,
    /// Stage of the plan.
    pub stage: u32,
    /// Group within the stage.
    pub group: u32,
    /// 0 for the first lease of the group; each commit that leaves tasks to be
    /// tried again opens the next round.
    pub round: u32,
    /// The function's name and version, to find its settings.
    pub function: String,
    /// The version's number.
    pub version: u32,
    /// Whether it is begun beside an attempt that takes long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub second: bool,
    /// What the tasks have in common.
    pub common: TaskCommon,
    /// The tasks.
    pub tasks: Vec<Task>,
}

/// What all tasks of a job have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCommon {
    /// Triggers in the chain that led to the job.
    #[serde(default)]
    pub depth: u32,
    /// JSON for `context.params`.
    pub params: String,
    /// How the input is stored.
    pub format: Format,
    /// Columns asked for by the job.
    pub columns: Option<Vec<String>>,
    /// How CSV is read.
    pub csv: CsvOptions,
    /// Which rows to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Which objects make one table.
    #[serde(default, skip_serializing_if = "SchemaRule::is_same")]
    pub schema: SchemaRule,
    /// What settles the types of columns that are not declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<Like>,
    /// Where tables go; the job's own place in the system bucket when the job
    /// names none.
    pub output: ObjectUri,
    /// How tables are stored.
    pub output_format: Format,
    /// Wall time of a task, ms.
    pub timeout_ms: u64,
    /// Memory of a task; the function's when absent.
    pub memory_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weights(sizes: &[u64]) -> Vec<Weight> {
        sizes.iter().map(|bytes| Weight { bytes: *bytes, document: 200 }).collect()
    }

    fn plan(shape: Shape, sizes: &[u64]) -> Plan {
        Plan::lay_out(Uuid::nil(), Digest::of(b""), shape, &weights(sizes))
    }

    #[test]
    fn a_fold_narrows_to_one() {
        let stages = |n: usize| plan(Shape::Aggregate, &vec![1; n]).stages;
        assert_eq!(stages(0), [0, 1]);
        assert_eq!(stages(1), [1, 1]);
        assert_eq!(stages(16), [16, 1]);
        assert_eq!(stages(17), [17, 2, 1]);
        assert_eq!(stages(1_000), [1_000, 63, 4, 1]);
        assert_eq!(plan(Shape::Map, &[1; 5]).stages, [5]);
        assert_eq!(plan(Shape::Group, &[1; 5]).stages, [5, 1]);
        assert_eq!(plan(Shape::MapGroup, &[limits::REDUCER_INPUT_BYTES_TARGET; 3]).stages, [3, 3]);
        assert_eq!(plan(Shape::Group, &[u64::MAX >> 8; 2]).stages, [2, limits::REDUCERS_MAX]);
        assert_eq!(plan(Shape::MapAggregate, &[1; 17]).stages, [17, 2, 1]);
    }

    #[test]
    fn a_fold_gathers_from_its_leaves() {
        let fold = plan(Shape::Aggregate, &[1; 1_000]);
        let leaves = |stage, task| fold.leaves(stage, task);
        assert_eq!(
            (leaves(0, 7), leaves(1, 62), leaves(2, 1), leaves(3, 0)),
            (7..8, 992..1_000, 256..512, 0..1_000)
        );
        assert_eq!(plan(Shape::Group, &[limits::REDUCER_INPUT_BYTES_TARGET; 3]).leaves(1, 2), 0..3);
        assert_eq!(plan(Shape::Aggregate, &[]).leaves(1, 0), 0..0);
    }

    #[test]
    fn large_partitions_are_leased_alone() {
        let large = GROUP_BYTES_TARGET + 1;
        let sizes: Vec<u64> = [1, 1, large, 1, large, large, 1, 1].repeat(32);
        assert_eq!(group(&weights(&sizes))[..6], [2, 1, 1, 1, 1, 2]);
        assert_eq!(group(&[]), [0; 0]);
    }

    #[test]
    fn leases_are_many_before_they_are_large() {
        let groups = |tasks| group(&weights(&vec![0; tasks]));
        assert_eq!(groups(255), [1; 255]);
        assert_eq!(groups(257), [vec![2; 128], vec![1]].concat());
        assert_eq!(groups(100_000), [vec![64; 1_562], vec![32]].concat());
    }

    #[test]
    fn a_lease_stays_a_small_message() {
        let weight = Weight { bytes: 1, document: PARTITION_DOCUMENT_BYTES_MAX };
        assert_eq!(group(&[weight; 17 * GROUPS_LEAST])[..2], [8, 8]);
    }

    proptest! {
        #[test]
        fn every_task_is_in_one_group_and_every_state_has_one_parent(
            sizes in proptest::collection::vec(0..GROUP_BYTES_TARGET * 2, 0..600)
        ) {
            let plan = plan(Shape::Aggregate, &sizes);
            for stage in 0..plan.stages.len() as u32 {
                let mut next = 0;
                for (first, count) in plan.groups_of(stage) {
                    prop_assert_eq!(first, next);
                    next = first + count;
                }
                prop_assert_eq!(next, plan.stages[stage as usize]);
                let mut child = 0;
                if stage > 0 {
                    for task in 0..plan.stages[stage as usize] {
                        prop_assert_eq!(plan.children(stage, task).start, child);
                        child = plan.children(stage, task).end;
                    }
                    prop_assert_eq!(child, plan.stages[stage as usize - 1]);
                }
            }
            let last = plan.stages.len() as u32 - 1;
            prop_assert!(plan.finishes(last));
            prop_assert_eq!(plan.leaves(last, 0), 0..plan.partitions);
        }
    }
}
