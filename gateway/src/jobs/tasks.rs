// SPDX-License-Identifier: Apache-2.0
//! The tasks of a job, a page at a time, failed ones first.
//!
//! Served from the progress of the coordinator when it is in this process, and
//! otherwise from the plan and the commits, of which the last few read are
//! kept.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fanfold_protocol::{Problem, commit::TaskOutcome};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Jobs,
    case::Case,
    coordinator::{self, Live},
    error::Result,
    plan::Shards,
    progress::Progress,
    recover, slots,
    stragglers::Stragglers,
    unknown,
};
use crate::problem::ProblemView;

/// Jobs whose tasks are kept.
const HELD: usize = 4;
/// How long the tasks of a job that runs elsewhere are kept.
const FRESH: Duration = Duration::from_secs(2);

/// Objects that are named of a task.
pub const INPUTS_NAMED: usize = 8;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Given up.
    Failed,
    /// Given to the queue or a worker.
    Running,
    /// Not yet, or to be tried again.
    Waiting,
    /// Committed.
    Done,
}

impl From<slots::TaskState> for TaskState {
    fn from(state: slots::TaskState) -> Self {
        match state {
            slots::TaskState::Waiting => Self::Waiting,
            slots::TaskState::Leased => Self::Running,
            slots::TaskState::Done => Self::Done,
            slots::TaskState::Failed => Self::Failed,
        }
    }
}

/// A task.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TaskView {
    /// Stage of the plan; 0 reads the input, further ones fold.
    pub stage: u32,
    /// The task within its stage.
    pub task: u32,
    /// Where it stands.
    pub state: TaskState,
    /// Attempts that have ended; 0 of a task that is done and was taken over.
    pub attempts: u32,
    /// The objects that it reads: the first of them, since there may be hundreds.
    pub input: Vec<String>,
    /// How many objects, or parts of one, it reads.
    pub input_slices: usize,
    /// The table that it wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Wall time of the last attempt, ms.
    pub wall_ms: u64,
    /// Of it, in the guest and in decoding for it, ms.
    pub cpu_ms: u64,
    /// Most memory of the last attempt.
    pub memory_bytes_peak: u64,
    /// Of a task whose lease takes a while: for how long, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_ms: Option<u64>,
    /// Who works on that lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Whether a second attempt runs beside the first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_attempt: bool,
    /// Rows handed to the guest by the last attempt.
    pub rows_in: u64,
    /// Rows that it wrote.
    pub rows_out: u64,
    /// Bytes that it read from the store.
    pub bytes_in: u64,
    /// Bytes that it wrote to the store.
    pub bytes_out: u64,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
}

/// A page of tasks.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskPage {
    /// Failed ones first, then those that run, those that failed before, and
    /// the rest in the order of the plan.
    pub tasks: Vec<TaskView>,
    /// For `page`, to get the next ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The last jobs whose tasks were read from the store.
#[derive(Default)]
pub struct Cache {
    held: Mutex<VecDeque<Held>>,
}

struct Held {
    job: Uuid,
    live: Arc<Live>,
    /// When it is to be read again; never for a job that has ended.
    stale: Option<Instant>,
}

impl Cache {
    fn get(&self, job: &Uuid) -> Option<Arc<Live>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|held| held.stale.is_none_or(|stale| stale > Instant::now()));
        held.iter().find(|held| held.job == *job).map(|held| Arc::clone(&held.live))
    }

    fn put(&self, job: Uuid, live: Arc<Live>, ended: bool) {
        let stale = (!ended).then(|| Instant::now() + FRESH);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push_front(Held { job, live, stale });
        held.truncate(HELD);
    }
}

impl Jobs {
    /// At most `limit` tasks of a job, after the first `skip` of those in `state`.
    ///
    /// # Errors
    /// `job-not-found`; or the store or backbone does not answer.
    pub async fn tasks(
        &self,
        id: &Uuid,
        state: Option<TaskState>,
        skip: usize,
        limit: usize,
    ) -> Result<TaskPage, Problem> {
        let live = self.progress_of(id).await?.ok_or_else(|| unknown(id))?;
        let mut tasks = {
            let progress = live.progress();
            let mut tasks = page(&progress, state, skip, limit.saturating_add(1));
            let (stragglers, now) = (live.stragglers(), Instant::now().into_std());
            for task in tasks.iter_mut().filter(|task| task.state == TaskState::Running) {
                watched(task, &progress, &stragglers, now);
            }
            tasks
        };
        let next = (tasks.len() > limit).then(|| (skip + limit).to_string());
        tasks.truncate(limit);
        let mut shards = Shards::new(self.inner.vault.clone(), live.progress().plan());
        for task in tasks.iter_mut().filter(|task| task.stage == 0) {
            let partition = shards.partition(task.task).await?;
            task.input_slices = partition.slices.len();
            let named = partition.slices.iter().take(INPUTS_NAMED);
            task.input = named.map(|slice| slice.object.uri.to_string()).collect();
        }
        Ok(TaskPage { tasks, next })
    }

    async fn progress_of(&self, id: &Uuid) -> Result<Option<Arc<Live>>> {
        if let Some(live) = recover::live(self, id).or_else(|| self.inner.tables.get(id)) {
            return Ok(Some(live));
        }
        let Some(case) = Case::open(self, id).await? else { return Ok(None) };
        let ended = case.outcome.is_some();
        let live = Arc::new(coordinator::read_progress(&self.inner.vault, case).await?);
        self.inner.tables.put(*id, Arc::clone(&live), ended);
        Ok(Some(live))
    }
}

/// The order of a page: what needs attention comes first.
fn rank(slot: &slots::Slot) -> usize {
    match slot.state {
        slots::TaskState::Failed => 0,
        slots::TaskState::Leased => 1,
        slots::TaskState::Waiting if slot.problem.is_some() => 2,
        slots::TaskState::Waiting | slots::TaskState::Done => 3,
    }
}

fn page(progress: &Progress, state: Option<TaskState>, skip: usize, limit: usize) -> Vec<TaskView> {
    let all = || {
        (0..).zip(progress.stages()).flat_map(|(stage, content)| {
            (0..).zip(&content.tasks).map(move |(task, slot)| (stage, task, slot))
        })
    };
    let of_rank = |wanted| {
        all().filter(move |(_, _, slot)| {
            rank(slot) == wanted && state.is_none_or(|state| state == TaskState::from(slot.state))
        })
    };
    let ranked = (0..4).flat_map(of_rank).skip(skip).take(limit);
    ranked.map(|(stage, task, slot)| view(stage, task, slot)).collect()
}

/// Adds what is known of a task that a worker is working on.
fn watched(task: &mut TaskView, progress: &Progress, stragglers: &Stragglers, now: std::time::Instant) {
    let Some((group, round, second)) = progress.lease_of(task.stage, task.task) else { return };
    task.second_attempt = second;
    if let Some(running) = stragglers.on(task.stage, group, round) {
        let ms = now.saturating_duration_since(running.since).as_millis();
        task.running_ms = u64::try_from(ms).ok();
        task.worker = Some(running.worker.clone());
    }
}

fn view(stage: u32, task: u32, slot: &slots::Slot) -> TaskView {
    let table = slot.product.as_deref().and_then(TaskOutcome::table);
    let output = table.map(|table| table.uri.to_string());
    let usage = &slot.usage;
    TaskView {
        stage,
        task,
        state: slot.state.into(),
        attempts: slot.attempts,
        input: Vec::new(),
        input_slices: 0,
        output,
        wall_ms: usage.wall_us / 1_000,
        cpu_ms: usage.cpu_us / 1_000,
        memory_bytes_peak: usage.memory_bytes_peak,
        running_ms: None,
        worker: None,
        second_attempt: false,
        rows_in: usage.rows_in,
        rows_out: usage.rows_out,
        bytes_in: usage.bytes_in,
        bytes_out: usage.bytes_out,
        problem: slot.problem.as_deref().map(ProblemView::from),
    }
}
