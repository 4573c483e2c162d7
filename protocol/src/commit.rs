// SPDX-License-Identifier: Apache-2.0
//! What workers and coordinators write down so that it counts.
//!
//! A [`Commit`] is put under the key of its lease if nothing is there yet: the
//! first one decides what the lease's tasks gave, every other attempt's objects
//! are swept. A [`Manifest`] is the only way to a job's output.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    answer::Answer,
    error::Problem,
    invocation::{LogLine, Progress, Usage},
    names::FunctionRef,
    plan::StateRef,
    uri::ObjectUri,
};

/// What one attempt at a lease gave: an object in the store, put if absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The job.
    pub job: Uuid,
    /// Stage of the plan.
    pub stage: u32,
    /// Group within the stage.
    pub group: u32,
    /// Round of the group.
    pub round: u32,
    /// The attempt that wrote this, and that named its staged objects.
    pub attempt: Uuid,
    /// The worker, for people.
    pub worker: String,
    /// Every task of the lease, in order.
    pub tasks: Vec<TaskCommit>,
}

/// What one task gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskCommit {
    /// Its place in its stage.
    pub index: u32,
    /// The attempt at it, from 1; 0 when it was taken over from an earlier job.
    pub attempt: u32,
    /// What came of it.
    pub outcome: TaskOutcome,
    /// What it took.
    pub usage: Usage,
    /// Whether its function looked at more than its input and parameters, such as
    /// the clock or other objects: what it gave is for this job alone then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub looked_outside: bool,
}

/// What an attempt at a task logged: a line of an object under a
/// [`LogKey`](crate::keys::LogKey), which counts if the commit of the lease is of the
/// same attempt. Whoever follows a job by its commits reads none of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLog {
    /// Its place in its stage.
    pub task: u32,
    /// The attempt at it, from 1.
    pub attempt: u32,
    /// In order.
    pub lines: Vec<LogLine>,
}

/// How an attempt at a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskOutcome {
    /// A table, staged under the attempt's name; `None` when no row was written.
    Table(Option<OutputObject>),
    /// A partial state.
    State(StateRef),
    /// A table and the partial state of its rows.
    Mapped {
        /// As of [`TaskOutcome::Table`].
        table: Option<OutputObject>,
        /// As of [`TaskOutcome::State`].
        state: StateRef,
    },
    /// The job's answer: JSON.
    Answer(AnswerRef),
    /// Nothing; the next round or the dead letter decides.
    Failed(Problem),
}

impl TaskOutcome {
    /// The table that was written, when one was.
    pub fn table(&self) -> Option<&OutputObject> {
        match self {
            Self::Table(table) | Self::Mapped { table, .. } => table.as_ref(),
            Self::State(_) | Self::Answer(_) | Self::Failed(_) => None,
        }
    }

    /// The partial state.
    pub fn state(&self) -> Option<&StateRef> {
        match self {
            Self::State(state) | Self::Mapped { state, .. } => Some(state),
            Self::Table(_) | Self::Answer(_) | Self::Failed(_) => None,
        }
    }
}

/// The answer of an aggregate: within the record, or an object of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerRef {
    /// A small one.
    Inline(Answer),
    /// A large one, staged under the attempt's name.
    Object(ObjectUri),
}

/// Largest answer that travels inside a commit.
pub const ANSWER_INLINE_BYTES_MAX: usize = 64 << 10;

/// An object of a job's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputObject {
    /// Where.
    pub uri: ObjectUri,
    /// Bytes.
    pub size: u64,
    /// The entity tag, without quotes.
    pub etag: String,
    /// Rows.
    pub rows: u64,
}

/// Name of the manifest under an output prefix.
pub const MANIFEST_NAME: &str = "_manifest.json";
/// Name of the empty object that says that a prefix is complete, as Hadoop has it.
pub const SUCCESS_NAME: &str = "_SUCCESS";
/// Name of an aggregate's answer under an output prefix.
pub const RESULT_NAME: &str = "result.json";

/// What a job's output consists of, written once when all of it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The job.
    pub job: Uuid,
    /// The function and version that wrote it.
    pub function: FunctionRef,
    /// Rows of all objects.
    pub rows: u64,
    /// Bytes of all objects.
    pub bytes: u64,
    /// The objects, in the order of the tasks that wrote them; none when shards name
    /// them.
    pub objects: Vec<OutputObject>,
    /// Where the objects are named when they are more than
    /// [`MANIFEST_OBJECTS_MAX`], in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ManifestShard>,
    /// The tasks that failed for good and were tolerated: what is missing here. The first
    /// [`MANIFEST_FAILED_MAX`] of them, each with its first [`FAILED_INPUTS_MAX`] objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<DeadLetter>,
    /// All of them, when `failed` leaves something out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_failed: Option<AllFailed>,
}

/// Where tasks are named that failed for good and are too many for a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllFailed {
    /// How many.
    pub tasks: u64,
    /// An object with a [`DeadLetter`] on each line.
    pub uri: ObjectUri,
}

/// Tasks that failed for good, as many as a manifest names.
pub const MANIFEST_FAILED_MAX: usize = 1_000;
/// Objects that it names of each of them.
pub const FAILED_INPUTS_MAX: usize = 8;

/// Objects that a manifest, or a shard of one, names at most.
pub const MANIFEST_OBJECTS_MAX: usize = 10_000;

/// A part of a manifest: an object with an [`OutputObject`] on each line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestShard {
    /// Where, in the folder of the manifest.
    pub uri: ObjectUri,
    /// How many it names.
    pub objects: u64,
}

/// A task that failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Stage of the plan; 0 reads the input.
    pub stage: u32,
    /// The task within its stage.
    pub task: u32,
    /// The objects that it reads.
    pub input: Vec<ObjectUri>,
    /// Attempts made.
    pub attempts: u32,
    /// Why the last one failed.
    pub problem: Problem,
}

/// What a worker tells the bus when it has committed: where to look. Never
/// needed, only faster than looking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitNotice {
    /// The job.
    pub job: Uuid,
    /// Stage of the plan.
    pub stage: u32,
    /// Group within the stage.
    pub group: u32,
    /// Round of the group.
    pub round: u32,
    /// The commit that won, when it is small enough for a message and all of the bus is
    /// one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Box<Commit>>,
}

/// What a worker tells the bus of a lease that it has been working on for a
/// while, again and again. Never needed: without it a lease that takes long is
/// not begun a second time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningNotice {
    /// The job.
    pub job: Uuid,
    /// Stage of the plan.
    pub stage: u32,
    /// Group within the stage.
    pub group: u32,
    /// Round of the group.
    pub round: u32,
    /// The worker, for people.
    pub worker: String,
    /// For how long it has been working on it.
    pub running_ms: u64,
    /// How far the first task that says so is, of those that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How many of its tasks may run at once; 0 where a worker of an earlier release tells, of which one runs.
    #[serde(default)]
    pub width: u32,
    /// Those that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<RunningTask>,
    /// What it took, once it has ended and does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overtaken: Option<Overtaken>,
}

/// A task that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    /// The task within its stage.
    pub task: u32,
    /// How far it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// An attempt at a lease that was stopped, or that another one came before: no
/// commit says what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overtaken {
    /// Which.
    pub attempt: Uuid,
    /// Tasks that it had begun.
    pub tasks: u64,
    /// What they took.
    pub usage: Usage,
}
