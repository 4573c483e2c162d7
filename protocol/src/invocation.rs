// SPDX-License-Identifier: Apache-2.0
//! One run of a handler: what goes to a worker and what comes back.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{digest::Digest, error::Problem, function::Version, tenant::Tenant, time::Timestamp};

/// A call of a function's handler, on its way to a worker.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Given by the gateway; version 7, so that ids sort by time.
    pub id: Uuid,
    /// From 1; above only for asynchronous calls, which are tried again.
    pub attempt: u32,
    /// Triggers in the chain that led here; what it writes is marked with it.
    pub depth: u32,
    /// What to run.
    pub version: Arc<Version>,
    /// How long it may take from the moment a worker has it.
    pub timeout: Duration,
    /// JSON for `context.params`; `{}` when the caller gave none.
    pub params: String,
    /// The request.
    pub request: Request,
    /// Whose it is; none where the worker's own system bucket is meant.
    pub tenant: Option<Arc<Tenant>>,
    /// Where its progress is told while it runs; not for a worker elsewhere, which
    /// tells the last of it with the outcome.
    pub board: Option<ProgressBoard>,
}

/// How far a function says that it is, in units of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units that are done.
    pub done: u64,
    /// Of how many, when it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// Where the newest progress of what runs stands, for whoever looks from the same
/// process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ProgressBoard(Arc<Mutex<Option<Progress>>>);

impl ProgressBoard {
    /// Puts this in the place of what stood there.
    pub fn tell(&self, progress: Option<Progress>) {
        *self.inner() = progress;
    }

    /// What stands there.
    pub fn newest(&self) -> Option<Progress> {
        *self.inner()
    }

    fn inner(&self) -> MutexGuard<'_, Option<Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request as the guest sees it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// In capitals.
    pub method: String,
    /// Without `?`.
    pub query: String,
    /// Names in lower case, credentials removed.
    pub headers: Vec<(String, String)>,
    /// Whole.
    pub body: Bytes,
}

/// The guest's answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Whole.
    pub body: Bytes,
}

/// How a call ended, and what it took.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The answer, or why there is none.
    pub result: Result<Response, Problem>,
    /// What the guest logged, in order, within the limits.
    pub logs: Vec<LogLine>,
    /// How far it said, the last time, that it was.
    pub progress: Option<Progress>,
    /// What it took.
    pub usage: Usage,
}

/// A component to be compiled and asked what it is, before it is deployed.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// The component, which already lies in the store.
    pub digest: Digest,
    /// Whose it is; none where the worker's own system bucket is meant.
    pub tenant: Option<Arc<Tenant>>,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step.
    Trace,
    /// For the author.
    Debug,
    /// Worth knowing.
    Info,
    /// Worth a look.
    Warn,
    /// It failed.
    Error,
}

/// A line of an invocation's log, cut and escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// How much it matters; standard output is `info`, standard error `warn`.
    pub level: Level,
    /// One line, control characters escaped.
    pub message: String,
}

/// What one run of a sandbox took. Sums are exact sums; `memory_bytes_peak`
/// of several runs is the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// From the start of the sandbox to its end.
    pub wall_us: u64,
    /// CPU time in the guest and in decoding and encoding for it, without what
    /// is spent waiting in host calls.
    pub cpu_us: u64,
    /// Of that, in the guest's own code and in carrying values to and from it.
    pub guest_us: u64,
    /// Of the CPU time, in reading tables for the guest: taking what the store sent, decoding
    /// and filtering it, and encoding it for the guest.
    pub decode_us: u64,
    /// From the request for a sandbox until it could run: a call's thread, artifact, memory, instance.
    pub start_us: u64,
    /// Most linear memory and tables at one time.
    pub memory_bytes_peak: u64,
    /// Rows handed to the guest.
    pub rows_in: u64,
    /// Rows that were decoded and did not pass the job's filter. What was pruned is
    /// not among them.
    pub rows_filtered: u64,
    /// Row groups that were not read, since by their statistics no row of them passes
    /// the job's filter.
    pub row_groups_pruned: u64,
    /// Pages of other row groups, of the columns that are read, that were not read,
    /// since by their index no row in them passes.
    pub pages_pruned: u64,
    /// Rows of these row groups that were not decoded for that.
    pub rows_pruned: u64,
    /// Stored bytes of row groups, all columns together, and pages that were pruned.
    pub bytes_pruned: u64,
    /// Rows that the guest wrote.
    pub rows_out: u64,
    /// Bytes read from the store.
    pub bytes_in: u64,
    /// Bytes written to the store.
    pub bytes_out: u64,
    /// Requests to the store.
    pub store_requests: u64,
}

impl Usage {
    /// Adds what another run read, wrote and took.
    pub fn add(&mut self, other: &Usage) {
        self.add_rows(other);
        self.add_cost(other);
    }

    /// Adds the rows of a run: those that it had, left out, and gave.
    pub fn add_rows(&mut self, other: &Usage) {
        count(&mut self.rows_in, other.rows_in);
        count(&mut self.rows_filtered, other.rows_filtered);
        count(&mut self.row_groups_pruned, other.row_groups_pruned);
        count(&mut self.pages_pruned, other.pages_pruned);
        count(&mut self.rows_pruned, other.rows_pruned);
        count(&mut self.bytes_pruned, other.bytes_pruned);
        count(&mut self.rows_out, other.rows_out);
    }

    /// Adds what a run took, all of it but the rows: of a run that does not count.
    pub fn add_cost(&mut self, other: &Usage) {
        count(&mut self.wall_us, other.wall_us);
        count(&mut self.cpu_us, other.cpu_us);
        count(&mut self.guest_us, other.guest_us);
        count(&mut self.decode_us, other.decode_us);
        count(&mut self.start_us, other.start_us);
        self.memory_bytes_peak = self.memory_bytes_peak.max(other.memory_bytes_peak);
        count(&mut self.bytes_in, other.bytes_in);
        count(&mut self.bytes_out, other.bytes_out);
        count(&mut self.store_requests, other.store_requests);
    }
}

/// Nobody has so much, and whoever says so ends at the most that there is.
fn count(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}
