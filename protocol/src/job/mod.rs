// SPDX-License-Identifier: Apache-2.0
//! A job as its author writes it, and as it is shown while it runs.
//!
//! [`JobDocument`] is the contract; [`Job`] is the same with every value checked
//! and filled in.

mod document;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::document::{
    Budget, CsvOptions, Format, JobDocument, JobLimits, OneOrMany, RetryOptions, SchemaRule, SplitOptions,
    input_uri,
};
pub(crate) use self::document::{retry_mistakes, words};
use crate::{digest::Digest, error::Problem, invocation::Usage, time::Timestamp, uri::ObjectUri};

/// A job as accepted: an object in the store, written once, before 202.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Version 7, so that ids sort by time.
    pub id: Uuid,
    /// As submitted.
    pub document: JobDocument,
    /// The version that the reference named at submission.
    pub version: u32,
    /// Its component.
    pub digest: Digest,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// What it takes over, when it runs another job again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryOf>,
    /// How it stands to jobs that do the same with the same partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheUse>,
    /// The whole that it is a sample of, when it only tells what that will take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
}

impl Job {
    /// Whether the tables of a map with an aggregate are output, or what they would cost
    /// is to be told.
    pub fn keeps_tables(&self) -> bool {
        self.sample.as_ref().map_or(self.document.output.is_some(), |sample| sample.keep)
    }
}

/// A sample of a job's partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The whole.
    pub of: SampleOf,
    /// Stored bytes of each partition of the sample.
    pub weights: Vec<u64>,
    /// Whether the whole has an output, in which the tables of a map with an aggregate
    /// are kept.
    #[serde(default)]
    pub keep: bool,
}

/// The whole that a sample was drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleOf {
    /// Partitions.
    pub partitions: u32,
    /// Their stored bytes.
    pub bytes: u64,
}

/// What a job will take, told from a sample of its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Partitions that were run.
    pub sampled: u32,
    /// The whole.
    pub of: SampleOf,
    /// From submission to the end, with as many tasks at once as the sample had, ms.
    pub elapsed_ms: Range,
    /// Time in the guests and in decoding for them, ms.
    pub cpu_ms: Range,
    /// Bytes read from the store.
    pub bytes_in: Range,
    /// Bytes written to the store.
    pub bytes_out: Range,
    /// Most memory of one task.
    pub memory_bytes_peak: Range,
}

/// A figure that is not known exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// It will hardly be less.
    pub low: u64,
    /// What is expected.
    pub expected: u64,
    /// It will hardly be more.
    pub high: u64,
}

impl Range {
    /// The same in another unit.
    #[must_use]
    pub fn map(self, unit: impl Fn(u64) -> u64) -> Self {
        Self { low: unit(self.low), expected: unit(self.expected), high: unit(self.high) }
    }
}

/// Which tasks of other jobs a job may be served from, and may serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// What tasks do, the partition left out: jobs under the same key give the
    /// same for the same partition.
    pub key: Digest,
    /// The jobs that it is served from, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<Uuid>,
}

/// Which job a job runs again, and what its input has become since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryOf {
    /// The earlier job.
    pub job: Uuid,
    /// What is the same and what is not.
    pub difference: Difference,
}

/// How a job's input stands to that of an earlier run of it: partitions, and
/// objects that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Done before over the same input: taken over, not run.
    pub unchanged: u64,
    /// Failed before.
    pub failed: u64,
    /// Not done before, or what they gave is not kept any more.
    pub unfinished: u64,
    /// Over objects that have changed since, or that are cut otherwise now.
    pub changed: u64,
    /// Over objects that were not there.
    pub added: u64,
    /// Objects that were there and are gone.
    pub vanished: u64,
}

impl Difference {
    /// Partitions that run.
    pub fn run(&self) -> u64 {
        self.failed + self.unfinished + self.changed + self.added
    }

    /// Whether the output would be what it is.
    pub fn is_nothing(&self) -> bool {
        self.run() + self.vanished == 0
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Planned; no task has started.
    Queued,
    /// Tasks run.
    Running,
    /// Done: the manifest and the result are there.
    Succeeded,
    /// Ended without a manifest, because tasks failed.
    Failed,
    /// Ended without a manifest, because someone asked.
    Cancelled,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it will not change any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Tasks by state. Every task of the plan is in exactly one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    /// All.
    pub total: u64,
    /// Not yet given to a worker.
    pub waiting: u64,
    /// Given to the queue or a worker.
    pub running: u64,
    /// Committed.
    pub done: u64,
    /// Given up.
    pub failed: u64,
}

/// What a job took, summed over every attempt that was heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Sums of the tasks; of memory the peak.
    #[serde(flatten)]
    pub usage: Usage,
    /// Attempts at tasks, the failed ones included.
    pub attempts: u64,
    /// Leases that were begun a second time because the first attempt took long.
    #[serde(default)]
    pub second_attempts: u64,
    /// Tasks that were not run, but served from what an earlier job committed.
    #[serde(default)]
    pub cache_hits: u64,
    /// From submission to the end.
    pub elapsed_ms: u64,
}

/// How a job ended: an object in the store, written once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// Succeeded, failed or cancelled.
    pub state: JobState,
    /// When.
    pub ended_at: Timestamp,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The manifest, when there is output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ObjectUri>,
    /// The result of an aggregate as an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_uri: Option<ObjectUri>,
    /// Tasks by state.
    pub tasks: TaskCounts,
    /// What it took.
    pub receipt: Receipt,
    /// Of a sample: what the whole will take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// What the author should know though it succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
