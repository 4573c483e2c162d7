// SPDX-License-Identifier: Apache-2.0
//! A job's record in the backbone: what lists, pages and event streams show.
//!
//! Written by whoever coordinates the job, at most twice a second; read by
//! everyone. It decides nothing: the truth is the plan and the commits, and a
//! record that is lost is made anew from them.

use fanfold_protocol::{
    Problem,
    answer::Answer,
    digest::Digest,
    invocation::Progress,
    job::{Estimate, Job, JobOutcome, JobState, Receipt, RetryOf, TaskCounts},
    names::FunctionRef,
    plan::{Plan, Shape},
    time::Timestamp,
    uri::ObjectUri,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Failures that a record keeps, newest last; all of them are in the commits, and
/// whoever watches is told how many more there are.
const FAILURES_KEPT: usize = 8;

/// Objects that are named of a task.
pub const INPUTS_NAMED: usize = 8;

/// A job as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The job.
    pub id: Uuid,
    /// The function as the caller named it.
    pub function: FunctionRef,
    /// The version that it named at submission.
    pub version: u32,
    /// The version's component.
    pub digest: Digest,
    /// What is done with the input.
    pub shape: Shape,
    /// Where it stands.
    pub state: JobState,
    /// When it was accepted.
    pub submitted_at: Timestamp,
    /// When its first task was queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The job that it runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryOf>,
    /// Tasks by state, all stages together.
    pub tasks: TaskCounts,
    /// Partitions, which are the tasks of the first stage.
    pub partitions: u32,
    /// Stored bytes of the input.
    pub input_bytes: u64,
    /// What it took so far.
    pub receipt: Receipt,
    /// Estimated time to the end, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// Between which it mostly lies, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_range_ms: Option<(u64, u64)>,
    /// The leases that have been worked on the longest, longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slowest: Vec<SlowLease>,
    /// Where its output goes.
    pub output: ObjectUri,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The way to its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ObjectUri>,
    /// The result as an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_uri: Option<ObjectUri>,
    /// The result, when it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Answer>,
    /// Of a sample: what the whole will take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// What the author should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Attempts that failed so far.
    #[serde(default)]
    pub failures: u64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_failures: Vec<TaskFailure>,
    /// So many of them were numbered anew by a coordinator that took the job over: these
    /// numbers name others than before.
    #[serde(default)]
    pub renumbered: u64,
}

/// A lease that takes a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowLease {
    /// Stage of the plan.
    pub stage: u32,
    /// Its first task.
    pub task: u32,
    /// Its tasks.
    pub tasks: u32,
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

/// An attempt at a task that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// Counts the job's failures, from 1.
    pub number: u64,
    /// Stage of the plan.
    pub stage: u32,
    /// The task within its stage.
    pub task: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether the task was given up.
    pub given_up: bool,
    /// Why.
    pub problem: Problem,
}

impl JobRecord {
    /// The record of a job that has just been planned.
    pub fn new(job: &Job, plan: &Plan, output: ObjectUri) -> Self {
        Self {
            id: job.id,
            function: job.document.function.clone(),
            version: job.version,
            digest: job.digest,
            shape: plan.shape,
            state: JobState::Queued,
            submitted_at: job.submitted_at,
            started_at: None,
            ended_at: None,
            retry: job.retry,
            tasks: TaskCounts { total: plan.tasks(), waiting: plan.tasks(), ..TaskCounts::default() },
            partitions: plan.partitions,
            input_bytes: plan.bytes,
            receipt: Receipt::default(),
            eta_ms: None,
            eta_range_ms: None,
            slowest: Vec::new(),
            output,
            problem: None,
            manifest: None,
            result_uri: None,
            result: None,
            estimate: None,
            warnings: plan.warnings.clone(),
            failures: 0,
            last_failures: Vec::new(),
            renumbered: 0,
        }
    }

    /// Notes a failed attempt.
    pub fn note_failure(&mut self, stage: u32, task: u32, attempt: u32, given_up: bool, problem: Problem) {
        self.failures += 1;
        self.last_failures.push(TaskFailure {
            number: self.failures,
            stage,
            task,
            attempt,
            given_up,
            problem,
        });
        let excess = self.last_failures.len().saturating_sub(FAILURES_KEPT);
        self.last_failures.drain(..excess);
    }

    /// Goes on from the failures that were shown before all of them were found again, in
    /// whatever order. If there are more now, nobody can tell which these are.
    pub fn resume_failures(&mut self, shown: u64, last: Vec<TaskFailure>) {
        if self.failures > shown {
            self.renumbered = self.failures;
        } else {
            (self.failures, self.last_failures) = (shown, last);
        }
    }

    /// The record of a job that ended so.
    pub fn end(&mut self, outcome: &JobOutcome, result: Option<Answer>) {
        self.state = outcome.state;
        self.ended_at = Some(outcome.ended_at);
        // An ending may have been decided while somebody else just began.
        self.started_at = self.started_at.map(|at| at.min(outcome.ended_at));
        self.tasks = outcome.tasks;
        self.receipt = outcome.receipt;
        (self.eta_ms, self.eta_range_ms) = (None, None);
        self.slowest.clear();
        self.problem.clone_from(&outcome.problem);
        self.manifest.clone_from(&outcome.manifest);
        self.result_uri.clone_from(&outcome.result_uri);
        self.estimate = outcome.estimate;
        self.warnings.clone_from(&outcome.warnings);
        self.result = result;
    }
}
