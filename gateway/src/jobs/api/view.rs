// SPDX-License-Identifier: Apache-2.0
//! Jobs as the HTTP interface shows them.
//!
//! Plain documents made from records; names here are the contract. Times are
//! milliseconds since 1970, with the same in words beside them where a person
//! looks.

use fanfold_protocol::{
    answer::Answer,
    invocation::Progress,
    job::{Difference, Estimate, RetryOf, TaskCounts},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::jobs::{
    record::{JobRecord, SlowLease, TaskFailure},
    reuse::compare::{Change, Comparison, Differing},
};
use crate::problem::ProblemView;

/// A job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobView {
    /// Its id.
    #[schema(example = "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10")]
    pub id: String,
    /// The function as it was named.
    #[schema(example = "credit-score@prod")]
    pub function: String,
    /// The version that it named at submission.
    pub version: u32,
    /// The version's component.
    pub digest: String,
    /// `map`, `aggregate`, `map-aggregate`, `group` or `map-group`.
    pub shape: &'static str,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: &'static str,
    /// When it was accepted, ms since 1970.
    pub submitted_at: u64,
    /// The same in RFC 3339.
    pub submitted: String,
    /// When its first task was queued, ms since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// When it ended, ms since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// The job that it runs again, and what its input has become since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryView>,
    /// Tasks by state.
    pub tasks: CountsView,
    /// Partitions of the input.
    pub partitions: u32,
    /// Stored bytes of the input.
    pub input_bytes: u64,
    /// Estimated time to the end, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// Between which it mostly lies, ms: from, to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<u64>>, min_items = 2, max_items = 2)]
    pub eta_range_ms: Option<(u64, u64)>,
    /// The leases that have been worked on the longest, longest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slowest: Vec<SlowView>,
    /// What it took so far.
    pub receipt: ReceiptView,
    /// Where its output goes.
    #[schema(example = "s3://bank/scores/2026-11/")]
    pub output: String,
    /// The manifest, once there is output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// The result of an aggregate as an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_uri: Option<String>,
    /// The result of an aggregate, when it is small: as the function made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Answer>,
    /// Of an estimate: what the whole job will take, each figure as `low`,
    /// `expected` and `high`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub estimate: Option<Estimate>,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
    /// What the author should know.
    pub warnings: Vec<String>,
    /// Attempts that failed.
    pub failures: u64,
    /// The last of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_failures: Vec<FailureView>,
}

/// Tasks by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CountsView {
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

/// A lease that takes a while.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SlowView {
    /// Stage of the plan; 0 reads the input.
    pub stage: u32,
    /// Its first task.
    pub task: u32,
    /// Its tasks.
    pub tasks: u32,
    /// Who works on it.
    pub worker: String,
    /// For how long, ms.
    pub running_ms: u64,
    /// How far the first task that says so is, of those that run: `done` units, and of how many if it
    /// says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub progress: Option<Progress>,
    /// What sets it apart.
    pub why: String,
}

/// What a job took, all attempts together.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ReceiptView {
    /// Attempts at tasks.
    pub attempts: u64,
    /// Leases that were begun a second time because the first attempt took long.
    pub second_attempts: u64,
    /// Tasks that were not run, but served from what an earlier job committed.
    pub cache_hits: u64,
    /// From submission to the end or to now, ms.
    pub elapsed_ms: u64,
    /// Wall time of sandboxes, ms.
    pub wall_ms: u64,
    /// Time in the guests and in decoding for them, ms.
    pub cpu_ms: u64,
    /// Of that, in the guests' own code and in carrying values to and from it, ms.
    pub guest_ms: u64,
    /// Of the CPU time, in reading and decoding tables for the guests, ms.
    pub decode_ms: u64,
    /// Most memory of one task.
    pub memory_bytes_peak: u64,
    /// Rows of the input that were handed to guests: those that pass the filter.
    pub rows_in: u64,
    /// Rows that were decoded and did not pass the filter.
    pub rows_filtered: u64,
    /// Row groups that were not read, since by their statistics none of their rows
    /// pass the filter.
    pub row_groups_pruned: u64,
    /// Pages of other row groups that were not read, since by their index none of
    /// their rows pass.
    pub pages_pruned: u64,
    /// Rows of these row groups that were not decoded for that.
    pub rows_pruned: u64,
    /// Stored bytes of these row groups and pages.
    pub bytes_pruned: u64,
    /// Rows that guests wrote; of a keyed aggregate those of its result.
    pub rows_out: u64,
    /// Bytes read from the store.
    pub bytes_in: u64,
    /// Bytes written to the store.
    pub bytes_out: u64,
    /// Requests to the store.
    pub store_requests: u64,
}

/// An attempt that failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FailureView {
    /// Counts the job's failures, from 1.
    pub number: u64,
    /// Stage of the plan; 0 reads the input.
    pub stage: u32,
    /// The task within its stage.
    pub task: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether the task was given up.
    pub given_up: bool,
    /// Why.
    pub problem: ProblemView,
}

/// What an event named `failures-skipped` carries: attempts that failed and are not
/// told one by one, since more failed at once than a job's record keeps.
#[derive(Debug, Serialize, ToSchema)]
pub struct SkippedView {
    /// How many.
    pub skipped: u64,
    /// Attempts that failed so far, these included.
    pub failures: u64,
    /// Where tasks are listed, those that failed first.
    pub tasks: String,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobList {
    /// Newest first.
    pub jobs: Vec<JobView>,
    /// For `page`, to get the next ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a job runs again, and what it takes over.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RetryView {
    /// The earlier job.
    pub of: String,
    /// In partitions, and objects that are gone.
    #[serde(flatten)]
    pub difference: DifferenceView,
}

/// How a job's input stands to that of an earlier run of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DifferenceView {
    /// Partitions done before over the same input: taken over.
    pub unchanged: u64,
    /// Partitions that run.
    pub run: u64,
    /// Of them: failed before.
    pub failed: u64,
    /// Not done before, or what they gave is not kept any more.
    pub unfinished: u64,
    /// Over objects that have changed since, or that are cut otherwise now.
    pub changed: u64,
    /// Over objects that were not there.
    pub added: u64,
    /// Objects that are gone.
    pub vanished: u64,
}

/// What running a job again would do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ComparisonView {
    /// The earlier job, and the difference in numbers.
    #[serde(flatten)]
    pub retry: RetryView,
    /// One by one, at most 1,000: failed ones first.
    pub differences: Vec<DifferingView>,
    /// Why it would be refused now: another job's output lies where its own belongs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
}

/// One difference.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DifferingView {
    /// `failed`, `unfinished`, `changed`, `added` or `vanished`.
    pub change: &'static str,
    /// The task that would run; none for an object that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<u32>,
    /// The objects.
    pub input: Vec<String>,
    /// Why it failed before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
}

/// What an event named `progress` carries.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProgressView {
    /// Tasks by state.
    pub tasks: CountsView,
    /// Estimated time to the end, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// Between which it mostly lies, ms: from, to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_range_ms: Option<(u64, u64)>,
    /// The leases that have been worked on the longest, longest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slowest: Vec<SlowView>,
    /// What it took so far.
    pub receipt: ReceiptView,
}

/// What an event named `state` carries.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateView {
    /// The job.
    pub id: String,
    /// Its state.
    pub state: &'static str,
}

impl From<&RetryOf> for RetryView {
    fn from(retry: &RetryOf) -> Self {
        let Difference { unchanged, failed, unfinished, changed, added, vanished } = retry.difference;
        let run = retry.difference.run();
        let difference = DifferenceView { unchanged, run, failed, unfinished, changed, added, vanished };
        Self { of: retry.job.to_string(), difference }
    }
}

impl ComparisonView {
    /// What running this job again would do.
    pub fn new(comparison: &Comparison) -> Self {
        let differing = |differing: &Differing| DifferingView {
            change: match differing.change {
                Change::Failed => "failed",
                Change::Unfinished => "unfinished",
                Change::Changed => "changed",
                Change::Added => "added",
                Change::Vanished => "vanished",
            },
            task: differing.task,
            input: differing.input.iter().map(ToString::to_string).collect(),
            problem: differing.problem.as_ref().map(ProblemView::from),
        };
        Self {
            retry: RetryView::from(&RetryOf { job: comparison.of, difference: comparison.difference }),
            differences: comparison.differing.iter().map(differing).collect(),
            problem: comparison.refused.as_ref().map(ProblemView::from),
        }
    }
}

impl From<&SlowLease> for SlowView {
    fn from(slow: &SlowLease) -> Self {
        let SlowLease { stage, task, tasks, worker, running_ms, progress, why } = slow.clone();
        Self { stage, task, tasks, worker, running_ms, progress, why }
    }
}

impl From<&TaskFailure> for FailureView {
    fn from(failure: &TaskFailure) -> Self {
        let &TaskFailure { number, stage, task, attempt, given_up, ref problem } = failure;
        Self { number, stage, task, attempt, given_up, problem: problem.into() }
    }
}

impl SkippedView {
    /// So many failures of this job.
    pub fn new(record: &JobRecord, skipped: u64) -> Self {
        Self { skipped, failures: record.failures, tasks: format!("/v1/jobs/{}/tasks", record.id) }
    }
}

impl From<&JobRecord> for ProgressView {
    fn from(record: &JobRecord) -> Self {
        let TaskCounts { total, waiting, running, done, failed } = record.tasks;
        let receipt = &record.receipt;
        let usage = &receipt.usage;
        Self {
            tasks: CountsView { total, waiting, running, done, failed },
            eta_ms: record.eta_ms,
            eta_range_ms: record.eta_range_ms,
            slowest: record.slowest.iter().map(SlowView::from).collect(),
            receipt: ReceiptView {
                attempts: receipt.attempts,
                second_attempts: receipt.second_attempts,
                cache_hits: receipt.cache_hits,
                elapsed_ms: receipt.elapsed_ms,
                wall_ms: usage.wall_us / 1_000,
                cpu_ms: usage.cpu_us / 1_000,
                guest_ms: usage.guest_us / 1_000,
                decode_ms: usage.decode_us / 1_000,
                memory_bytes_peak: usage.memory_bytes_peak,
                rows_in: usage.rows_in,
                rows_filtered: usage.rows_filtered,
                row_groups_pruned: usage.row_groups_pruned,
                pages_pruned: usage.pages_pruned,
                rows_pruned: usage.rows_pruned,
                bytes_pruned: usage.bytes_pruned,
                rows_out: usage.rows_out,
                bytes_in: usage.bytes_in,
                bytes_out: usage.bytes_out,
                store_requests: usage.store_requests,
            },
        }
    }
}

impl From<JobRecord> for JobView {
    fn from(record: JobRecord) -> Self {
        let ProgressView { tasks, eta_ms, eta_range_ms, slowest, receipt } = ProgressView::from(&record);
        Self {
            id: record.id.to_string(),
            function: record.function.to_string(),
            version: record.version,
            digest: record.digest.to_string(),
            shape: record.shape.as_str(),
            state: record.state.as_str(),
            submitted_at: record.submitted_at.0,
            submitted: record.submitted_at.to_string(),
            started_at: record.started_at.map(|at| at.0),
            ended_at: record.ended_at.map(|at| at.0),
            retry: record.retry.as_ref().map(RetryView::from),
            tasks,
            partitions: record.partitions,
            input_bytes: record.input_bytes,
            eta_ms,
            eta_range_ms,
            slowest,
            receipt,
            output: record.output.to_string(),
            manifest: record.manifest.map(|uri| uri.to_string()),
            result_uri: record.result_uri.map(|uri| uri.to_string()),
            estimate: record.estimate,
            problem: record.problem.as_ref().map(ProblemView::from),
            warnings: record.warnings,
            failures: record.failures,
            last_failures: record.last_failures.iter().map(FailureView::from).collect(),
            result: record.result,
        }
    }
}
