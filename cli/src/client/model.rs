// SPDX-License-Identifier: Apache-2.0
//! The service's documents, as far as the commands look into them.
//!
//! What is printed as JSON is what the service wrote, whole; these types are
//! for tables and decisions. Members that are not known are left alone, so that
//! an older program reads a newer service.

use std::collections::BTreeMap;

use fanfold_protocol::{
    function::{AliasTarget, Export},
    invocation::{LogLine, Progress},
    job::{Difference, Estimate, JobState, TaskCounts},
    names::{AliasName, FunctionName},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The answer to a deployment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deployed {
    /// The function.
    pub name: FunctionName,
    /// Its new version, or the old one when nothing had changed.
    pub version: u32,
    /// The component's digest.
    pub digest: String,
    /// What it exports.
    pub exports: Vec<Export>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// Functions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FunctionList {
    /// By name.
    pub functions: Vec<FunctionView>,
}

/// A function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FunctionView {
    /// The function.
    pub name: FunctionName,
    /// Its newest version.
    #[serde(default)]
    pub latest: u32,
    /// Every alias.
    #[serde(default)]
    pub aliases: BTreeMap<AliasName, AliasTarget>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// An invocation.
#[derive(Clone, Debug, Deserialize)]
pub struct InvocationView {
    /// The invocation.
    pub id: Uuid,
    /// The function.
    pub function: FunctionName,
    /// The version that runs.
    pub version: u32,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: String,
    /// When it was accepted; absent for a synchronous call.
    pub accepted_at: Option<Timestamp>,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Attempts begun.
    #[serde(default)]
    pub attempts: u32,
    /// How far it said, the last time, that it was.
    pub progress: Option<Progress>,
    /// Where it came from.
    pub origin: Option<OriginView>,
    /// What its last attempt took, as far as that is known.
    pub usage: Option<UsageView>,
    /// What it returned.
    pub response: Option<ResponseView>,
    /// Why it, or its last attempt, returned nothing.
    pub problem: Option<Told>,
}

/// What an attempt took, as far as that is known.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct UsageView {
    /// From its beginning to its end.
    pub wall_us: Option<u64>,
    /// Most memory at one time.
    pub memory_bytes_peak: Option<u64>,
}

/// Where an asynchronous invocation came from.
#[derive(Clone, Debug, Deserialize)]
pub struct OriginView {
    /// `call`, `trigger` or `replay`.
    pub kind: String,
    /// The trigger.
    pub name: Option<String>,
    /// What was replayed.
    pub of: Option<Uuid>,
}

/// What an invocation returned.
#[derive(Clone, Debug, Deserialize)]
pub struct ResponseView {
    /// HTTP status.
    pub status: u16,
    /// The type of its body.
    pub content_type: Option<String>,
    /// Bytes of its body.
    pub bytes: u64,
}

/// An asynchronous call that was given up.
#[derive(Clone, Debug, Deserialize)]
pub struct LetterView {
    /// The invocation.
    pub id: String,
    /// The function; absent when the message cannot be read.
    pub function: Option<FunctionName>,
    /// When it was accepted.
    pub accepted_at: Option<Timestamp>,
    /// Why it was given up.
    pub reason: String,
}

/// A dead letter that was replayed.
#[derive(Clone, Debug, Deserialize)]
pub struct Replayed {
    /// The invocation that was given up.
    pub of: Uuid,
    /// The one that it has become.
    pub id: Uuid,
}

impl JobView {
    /// Whether it gives tables under a manifest and no answer.
    pub fn gives_tables(&self) -> bool {
        matches!(self.shape.as_str(), "map" | "group" | "map-group")
    }
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    /// The job.
    pub id: Uuid,
    /// The function as the caller named it.
    pub function: String,
    /// The version that it named at submission.
    pub version: u32,
    /// `map`, `aggregate`, `map-aggregate`, `group` or `map-group`.
    #[serde(default)]
    pub shape: String,
    /// Where it stands.
    pub state: JobState,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// Tasks by state.
    #[serde(default)]
    pub tasks: TaskCounts,
    /// What it took.
    #[serde(default)]
    pub receipt: ReceiptView,
    /// Estimated time to the end, ms.
    pub eta_ms: Option<u64>,
    /// Between which it mostly lies, ms.
    pub eta_range_ms: Option<(u64, u64)>,
    /// The leases that have been worked on the longest.
    #[serde(default)]
    pub slowest: Vec<SlowView>,
    /// Why it did not succeed.
    pub problem: Option<Told>,
    /// The manifest of its output.
    pub manifest: Option<String>,
    /// Where its output goes.
    pub output: Option<String>,
    /// The result as an object.
    pub result_uri: Option<String>,
    /// Of an estimate: what the whole job will take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// What the author should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The job that it runs again.
    pub retry: Option<RetryOf>,
}

/// The job that a job runs again, and what its input has become since.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetryOf {
    /// The earlier job.
    pub of: Uuid,
    /// In partitions, and objects that are gone.
    #[serde(flatten)]
    pub difference: Difference,
}

/// What running a job again would do.
#[derive(Clone, Debug, Deserialize)]
pub struct ComparisonView {
    /// In partitions, and objects that are gone.
    #[serde(flatten)]
    pub difference: Difference,
    /// One by one, failed ones first; not always all.
    #[serde(default)]
    pub differences: Vec<DifferingView>,
    /// Why it would be refused now.
    pub problem: Option<Told>,
}

/// One difference.
#[derive(Clone, Debug, Deserialize)]
pub struct DifferingView {
    /// The word for it.
    pub change: String,
    /// The objects.
    #[serde(default)]
    pub input: Vec<String>,
    /// Why it failed before.
    pub problem: Option<Told>,
}

/// A lease that takes a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlowView {
    /// Stage of the plan.
    pub stage: u32,
    /// Its first task.
    pub task: u32,
    /// Who works on it.
    pub worker: String,
    /// For how long, ms.
    pub running_ms: u64,
    /// How far the first task that says so is, of those that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What sets it apart.
    pub why: String,
}

/// What a job took, all attempts together.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiptView {
    /// Attempts at tasks.
    pub attempts: u64,
    /// Leases that were begun a second time because the first attempt took long.
    pub second_attempts: u64,
    /// Tasks served from what an earlier job committed.
    pub cache_hits: u64,
    /// From submission to the end or to now, ms.
    pub elapsed_ms: u64,
    /// Time in the guests and in decoding for them, ms.
    pub cpu_ms: u64,
    /// Most memory of one task.
    pub memory_bytes_peak: u64,
    /// Rows handed to guests: those that pass the filter.
    pub rows_in: u64,
    /// Rows that did not pass it.
    pub rows_filtered: u64,
    /// Row groups that were not read because of it.
    pub row_groups_pruned: u64,
    /// Pages of other row groups that were not read because of it.
    pub pages_pruned: u64,
    /// Rows that were not decoded for that.
    pub rows_pruned: u64,
    /// Stored bytes of these row groups and pages.
    pub bytes_pruned: u64,
    /// Rows that guests wrote.
    pub rows_out: u64,
    /// Bytes read from the store.
    pub bytes_in: u64,
    /// Bytes written to the store.
    pub bytes_out: u64,
    /// Requests to the store.
    pub store_requests: u64,
}

/// What an event named `progress` carries.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProgressView {
    /// Tasks by state.
    pub tasks: TaskCounts,
    /// Estimated time to the end, ms.
    pub eta_ms: Option<u64>,
    /// Between which it mostly lies, ms.
    pub eta_range_ms: Option<(u64, u64)>,
    /// What it took so far.
    pub receipt: ReceiptView,
}

/// An attempt that failed: what an event named `task-failed` carries.
#[derive(Clone, Debug, Deserialize)]
pub struct FailureView {
    /// Stage of the plan.
    pub stage: u32,
    /// The task within its stage.
    pub task: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether the task was given up.
    #[serde(default)]
    pub given_up: bool,
    /// Why.
    pub problem: Told,
}

/// Attempts that failed and are not told one by one, or invocations whose lines came faster than they
/// were read: what events named `failures-skipped` and `invocations-skipped` carry.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct SkippedView {
    /// How many.
    pub skipped: u64,
}

/// Why something failed, as far as it is shown. The code may be one of a later
/// version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The stable code.
    pub code: String,
    /// Expected, found, what to do.
    pub detail: String,
}

/// A page of tasks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskPage {
    /// Failed ones first.
    pub tasks: Vec<Value>,
    /// For the page after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A task of a job.
#[derive(Clone, Debug, Deserialize)]
pub struct TaskView {
    /// Stage of the plan.
    pub stage: u32,
    /// Its place in its stage.
    pub task: u32,
    /// Where it stands.
    pub state: String,
    /// Attempts that have ended.
    #[serde(default)]
    pub attempts: u32,
    /// The objects that it reads, the first of them.
    #[serde(default)]
    pub input: Vec<String>,
    /// How many objects, or parts of one, it reads.
    #[serde(default)]
    pub input_slices: usize,
    /// Wall time of the last attempt, ms.
    #[serde(default)]
    pub wall_ms: u64,
    /// Rows handed to the guest by the last attempt.
    #[serde(default)]
    pub rows_in: u64,
    /// Rows that it wrote.
    #[serde(default)]
    pub rows_out: u64,
    /// Requests that it made to the store.
    #[serde(default)]
    pub store_requests: u64,
    /// Whether it was served from what an earlier job committed.
    #[serde(default)]
    pub cache_hit: bool,
    /// Why the last attempt failed.
    pub problem: Option<Told>,
}

/// Log lines.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogPage {
    /// In order.
    pub lines: Vec<LogLine>,
}

/// What tasks of a job logged.
#[derive(Clone, Debug, Deserialize)]
pub struct TaskLogPage {
    /// Each a [`TaskLine`].
    pub lines: Vec<Value>,
    /// For the page after it.
    pub next: Option<String>,
    /// When the store got the newest of them.
    pub newest: Option<u64>,
}

/// A line that a task of a job logged.
#[derive(Clone, Debug, Deserialize)]
pub struct TaskLine {
    /// Stage of the plan.
    pub stage: u32,
    /// The task within its stage.
    pub task: u32,
    /// The attempt at it.
    pub attempt: u32,
    /// What it logged.
    #[serde(flatten)]
    pub line: LogLine,
}
