// SPDX-License-Identifier: Apache-2.0
//! The tasks of a job, a page at a time, failed ones first.
//!
//! Served from the progress of the coordinator when it is in this process, and
//! otherwise from the plan and the commits, of which the last few read are
//! kept.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fanfold_protocol::{Problem, commit::TaskOutcome, invocation};
use serde::{Deserialize, Serialize};
use tokio::{sync::OnceCell, time::Instant};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::jobs::{
    Jobs,
    case::Case,
    coordinate::{live::Live, recover},
    error::Result,
    failures::Problems,
    progress::{Progress, slots, stragglers::Stragglers},
    record::INPUTS_NAMED,
    unknown,
};
use crate::{page, problem::ProblemView};

/// Jobs whose tasks are kept.
const HELD: usize = 4;
/// How long the tasks of a job that runs elsewhere are kept.
const FRESH: Duration = Duration::from_secs(2);

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
            slots::TaskState::Again | slots::TaskState::Waiting => Self::Waiting,
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
    /// Attempts that have ended.
    pub attempts: u32,
    /// The objects that it reads: the first of them, since there may be hundreds.
    pub input: Vec<String>,
    /// How many objects, or parts of one, it reads.
    pub input_slices: usize,
    /// The table that it wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Wall time of all attempts that were committed, ms.
    pub wall_ms: u64,
    /// Of it, in the guest and in decoding for it, ms.
    pub cpu_ms: u64,
    /// Most memory of one of them.
    pub memory_bytes_peak: u64,
    /// Of a task whose lease takes a while: for how long, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_ms: Option<u64>,
    /// Who works on that lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How far the task says it is: `done` units, and of how many if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub progress: Option<invocation::Progress>,
    /// Whether a second attempt runs beside the first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_attempt: bool,
    /// Rows handed to the guest by the attempt that succeeded.
    pub rows_in: u64,
    /// Rows that it wrote.
    pub rows_out: u64,
    /// Bytes that all attempts read from the store.
    pub bytes_in: u64,
    /// Bytes that they wrote to the store.
    pub bytes_out: u64,
    /// Requests that they made to the store.
    pub store_requests: u64,
    /// Whether it was not run, but served from what an earlier job committed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cache_hit: bool,
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
    /// For `page`, to get the next ones. A task whose state changes meanwhile is where
    /// it stands then; the others come once each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Where a page ends: at a task, which is known by the state that it was shown in,
/// so that what becomes of others moves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    rank: usize,
    stage: u32,
    task: u32,
}

impl Cursor {
    /// Reads what [`Cursor`] is written as.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let rank = parts.next()?.parse().ok()?;
        let (stage, task) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { rank, stage, task })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.rank, self.stage, self.task)
    }
}

/// The last jobs whose tasks were read from the store, or are being read.
#[derive(Default)]
pub struct Cache {
    held: Mutex<VecDeque<Held>>,
}

struct Held {
    job: Uuid,
    /// Whether the job had ended when whoever reads it began.
    ended: bool,
    /// Filled by whoever came first, for which others wait: a job may be large.
    read: Arc<OnceCell<Read>>,
}

/// The tasks of a job as they were read.
struct Read {
    live: Arc<Live>,
    /// When they are to be read again; never for a job that has ended.
    stale: Option<Instant>,
}

impl Cache {
    /// The tasks of a job, which are read by this unless they are held: of one that has
    /// `ended`, as they were read since.
    async fn get(
        &self,
        job: &Uuid,
        ended: bool,
        read: impl Future<Output = Result<Read>>,
    ) -> Result<Arc<Live>> {
        let held = self.held(job, ended);
        held.get_or_try_init(|| read).await.map(|read| Arc::clone(&read.live))
    }

    fn held(&self, job: &Uuid, ended: bool) -> Arc<OnceCell<Read>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|held| {
            let is_of_before = ended && held.job == *job;
            match held.read.get() {
                Some(read) => read.stale.is_none_or(|stale| stale > Instant::now() && !is_of_before),
                // What is being read may not have the end.
                None => held.ended || !is_of_before,
            }
        });
        if let Some(held) = held.iter().find(|held| held.job == *job) {
            return Arc::clone(&held.read);
        }
        let read = Arc::<OnceCell<Read>>::default();
        held.push_front(Held { job: *job, ended, read: Arc::clone(&read) });
        held.truncate(HELD);
        read
    }
}

impl Jobs {
    /// At most `limit` tasks of a job in `state`, after the page whose `next` is `after`.
    ///
    /// # Errors
    /// `job-not-found`; `invalid-request` for what is no `next`; or the store or
    /// backbone does not answer.
    pub async fn tasks(
        &self,
        id: &Uuid,
        state: Option<TaskState>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<TaskPage, Problem> {
        let after = after.map(|text| Cursor::parse(text).ok_or_else(|| page::bad(text))).transpose()?;
        // Of a job that was forgotten, its tasks may be held here still.
        let ended = self.get(id).await?.state.is_terminal();
        let live = self.progress_of(id, ended).await?;
        let (mut tasks, next, failures) = {
            let progress = live.progress();
            let (mut tasks, next) = page(&progress, state, after, limit);
            let (stragglers, now) = (live.stragglers(), Instant::now().into_std());
            for task in tasks.iter_mut().filter(|task| task.state == TaskState::Running) {
                watched(task, &progress, &stragglers, now);
            }
            let failures: Vec<_> = tasks.iter().map(|task| progress.failure(task.stage, task.task)).collect();
            (tasks, next.map(|next| next.to_string()), failures)
        };
        let places = failures.iter().flatten().map(slots::Failure::place).collect();
        let mut problems = Problems::read(&self.inner.vault, id, places).await?;
        for (task, failure) in tasks.iter_mut().zip(&failures) {
            task.problem = failure.as_ref().map(|failure| ProblemView::from(&problems.of(failure)));
        }
        let mut shards = live.shards().await;
        for task in tasks.iter_mut().filter(|task| task.stage == 0) {
            let partition = shards.partition(task.task).await?;
            task.input_slices = partition.slices.len();
            let named = partition.slices.iter().take(INPUTS_NAMED);
            task.input = named.map(|slice| slice.object.uri.to_string()).collect();
        }
        Ok(TaskPage { tasks, next })
    }

    /// Of a job that has ended what the store has: to its coordinator, which is about to let go
    /// of it, stopped tasks are running still.
    async fn progress_of(&self, id: &Uuid, ended: bool) -> Result<Arc<Live>> {
        match recover::live(self, id) {
            Some(live) if !ended => Ok(live),
            _ => self.inner.tables.get(id, ended, Box::pin(self.read_tasks(id))).await,
        }
    }

    async fn read_tasks(&self, id: &Uuid) -> Result<Read> {
        let case = Case::open(self, id).await?.ok_or_else(|| unknown(id))?;
        let ended = case.outcome.is_some();
        let live = Arc::new(Live::read(&self.inner.vault, case).await?);
        Ok(Read { live, stale: (!ended).then(|| Instant::now() + FRESH) })
    }
}

/// The order of a page: what needs attention comes first.
const RANKS: [&[slots::TaskState]; 4] = [
    &[slots::TaskState::Failed],
    &[slots::TaskState::Leased],
    &[slots::TaskState::Again],
    &[slots::TaskState::Waiting, slots::TaskState::Done],
];

/// Tasks in order, and where they end unless there are no more.
fn page(
    progress: &Progress,
    state: Option<TaskState>,
    after: Option<Cursor>,
    limit: usize,
) -> (Vec<TaskView>, Option<Cursor>) {
    let (mut tasks, mut last) = (Vec::new(), None);
    for (rank, states) in RANKS.iter().enumerate().skip(after.map_or(0, |after| after.rank)) {
        let begun = after.filter(|after| after.rank == rank).map(|after| (after.stage, after.task));
        let asked = |found: slots::TaskState| state.is_none_or(|state| state == TaskState::from(found));
        let states: Vec<_> = states.iter().copied().filter(|found| asked(*found)).collect();
        for (stage, task, slot) in behind(progress, &states, begun) {
            if tasks.len() == limit {
                return (tasks, last);
            }
            tasks.push(view(stage, task, slot));
            last = Some(Cursor { rank, stage, task });
        }
    }
    (tasks, None)
}

/// The tasks in these states behind one of them, or all, in the order of the plan.
fn behind<'a>(
    progress: &'a Progress,
    states: &'a [slots::TaskState],
    begun: Option<(u32, u32)>,
) -> impl Iterator<Item = (u32, u32, &'a slots::Slot)> {
    let stages = (0..).zip(progress.stages());
    stages.flat_map(move |(stage, content)| {
        let first = match begun {
            Some((begun, task)) if begun == stage => task.saturating_add(1),
            Some((begun, _)) if begun > stage => u32::MAX,
            _ => 0,
        };
        content.standing(states, first).map(move |task| (stage, task, &content.tasks()[task as usize]))
    })
}

/// Adds what is known of a task that a worker is working on.
fn watched(task: &mut TaskView, progress: &Progress, stragglers: &Stragglers, now: std::time::Instant) {
    let Some((group, round, second)) = progress.lease_of(task.stage, task.task) else { return };
    task.second_attempt = second;
    if let Some(running) = stragglers.on(task.stage, group, round) {
        let ms = now.saturating_duration_since(running.since).as_millis();
        task.running_ms = u64::try_from(ms).ok();
        task.worker = Some(running.worker.clone());
        task.progress =
            running.tasks.iter().find(|told| told.task == task.task).and_then(|told| told.progress);
    }
}

fn view(stage: u32, task: u32, slot: &slots::Slot) -> TaskView {
    let table = slot.product.as_deref().and_then(TaskOutcome::table);
    let output = table.map(|table| table.uri.to_string());
    let usage = slot.took.usage();
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
        progress: None,
        second_attempt: false,
        rows_in: usage.rows_in,
        rows_out: usage.rows_out,
        bytes_in: usage.bytes_in,
        bytes_out: usage.bytes_out,
        store_requests: usage.store_requests,
        cache_hit: slot.state == slots::TaskState::Done && slot.attempts == 0,
        problem: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use fanfold_protocol::{
        ErrorKind,
        commit::{Commit, TaskCommit},
        digest::Digest,
        invocation::Usage,
        plan::{Plan, Shape, Weight},
    };
    use fanfold_storage::{Credentials, Store, StoreConfig};

    use super::*;
    use crate::jobs::{error::Error, progress::policy::Policy, vault::Vault};

    const TASKS: u32 = 10;

    /// A job of which nothing is done.
    fn progress() -> Progress {
        many(TASKS)
    }

    /// The same of so many tasks.
    fn many(tasks: u32) -> Progress {
        let weights = vec![Weight::default(); tasks as usize];
        let mut plan = Plan::lay_out(Uuid::nil(), Digest::of(b"f"), Shape::Map, &weights);
        plan.groups = vec![1; tasks as usize];
        Progress::new(
            plan,
            Policy { attempts: 2, outstanding_max: 100, leases_max: 100, tolerated: u64::from(tasks) },
        )
    }

    /// Commits a task that is alone in its group.
    fn commit(progress: &mut Progress, task: u32, attempt: u32, problem: Option<ErrorKind>) {
        let outcome = match problem {
            Some(code) => TaskOutcome::Failed(Problem::new(code, "expected better")),
            None => TaskOutcome::Table(None),
        };
        let usage = Usage { store_requests: 7, ..Usage::default() };
        let tasks = vec![TaskCommit { index: task, attempt, outcome, usage, looked_outside: false }];
        progress.absorb(Commit {
            job: Uuid::nil(),
            stage: 0,
            group: task,
            round: 0,
            attempt: Uuid::nil(),
            worker: "w".into(),
            tasks,
        });
    }

    fn numbers(tasks: &[TaskView]) -> Vec<u32> {
        tasks.iter().map(|task| task.task).collect()
    }

    #[test]
    fn pages_go_on_behind_the_last_task_whatever_becomes_of_others() {
        let mut progress = progress();
        // A wrong table is not tried again; a trap is.
        commit(&mut progress, 6, 1, Some(ErrorKind::CsvFieldCount));
        commit(&mut progress, 8, 1, Some(ErrorKind::GuestTrapped));
        let (first, next) = page(&progress, None, None, 4);
        assert_eq!(numbers(&first), [6, 8, 0, 1]);
        // What was shown changes, and so does what is to come; by numbers, 3 would be passed over.
        commit(&mut progress, 0, 1, Some(ErrorKind::CsvFieldCount));
        commit(&mut progress, 2, 1, None);
        commit(&mut progress, 1, 1, None);
        let (second, next) = page(&progress, None, next, 4);
        assert_eq!(numbers(&second), [2, 3, 4, 5]);
        assert_eq!(next.map(|next| next.to_string()).as_deref(), Some("3-0-5"));
        let (third, next) = page(&progress, None, next, 4);
        assert_eq!((numbers(&third), next), (vec![7, 9], None));
        let (done, next) = page(&progress, Some(TaskState::Done), None, 2);
        assert_eq!((numbers(&done), next), (vec![1, 2], None));
    }

    #[test]
    fn a_page_costs_no_look_at_other_tasks() {
        const MANY: u32 = 1_000_000;
        let mut progress = many(MANY);
        let leased = progress.release();
        assert_eq!(leased.len(), 100);
        for task in [3, 500_000, MANY - 1] {
            commit(&mut progress, task, 1, Some(ErrorKind::CsvFieldCount));
        }
        let begun = std::time::Instant::now();
        for _ in 0..250 {
            let (first, next) = page(&progress, None, None, 50);
            assert_eq!(numbers(&first[..5]), [3, 500_000, MANY - 1, 0, 1]);
            let (second, next) = page(&progress, None, next, 50);
            assert_eq!((second.len(), second[0].task), (50, 48));
            assert_eq!(page(&progress, None, next, 50).0[49].task, 147);
            assert_eq!(page(&progress, Some(TaskState::Done), None, 50).0.len(), 0);
        }
        // A thousand pages: with a look at each of a million tasks that is a quarter of a minute, and more
        // where the machine has much else to do.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_task_has_a_receipt_of_its_own() {
        let mut progress = progress();
        commit(&mut progress, 0, 1, None);
        commit(&mut progress, 1, 0, None);
        let (tasks, _) = page(&progress, None, None, 3);
        assert_eq!((tasks[0].store_requests, tasks[0].cache_hit), (7, false));
        assert!(tasks[1].cache_hit && !tasks[2].cache_hit);
        let told = serde_json::to_value(&tasks[1]).unwrap();
        assert_eq!(
            (&told["cache_hit"], &told["attempts"]),
            (&serde_json::json!(true), &serde_json::json!(0))
        );
        assert!(serde_json::to_value(&tasks[2]).unwrap().get("cache_hit").is_none());
    }

    #[tokio::test]
    async fn tasks_are_read_once_for_all_who_ask() {
        let store =
            Store::connect(StoreConfig::at("http://127.0.0.1:9", Credentials::new("a", "b"))).unwrap();
        let vault = Vault::new(store, "fanfold".to_owned());
        let (cache, reads) = (Cache::default(), AtomicU32::new(0));
        let read = async |fresh: Option<Duration>| {
            reads.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let live = Arc::new(Live::new(&vault, progress(), Stragglers::new(Duration::MAX)));
            Ok::<_, Error>(Read { live, stale: fresh.map(|fresh| Instant::now() + fresh) })
        };
        let [ended, running] = [Uuid::nil(), Uuid::max()];
        let failed = cache.get(&ended, true, async { Err(Error::damaged("a plan", "no such object")) }).await;
        assert!(failed.is_err());
        let (one, other) =
            tokio::join!(cache.get(&ended, true, read(None)), cache.get(&ended, true, read(None)));
        let again = cache.get(&ended, true, read(None)).await;
        let [one, other, again] = [one, other, again].map(|live| live.ok().unwrap());
        assert!(Arc::ptr_eq(&one, &other) && Arc::ptr_eq(&one, &again));
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        for expected in [2, 3] {
            assert!(cache.get(&running, false, read(Some(Duration::ZERO))).await.is_ok());
            assert_eq!(reads.load(Ordering::SeqCst), expected);
        }
        // What was read a moment before the end is not what it ended with.
        for (ended, expected) in [(false, 4), (false, 4), (true, 5), (true, 5)] {
            let fresh = (!ended).then_some(Duration::from_secs(60));
            assert!(cache.get(&running, ended, read(fresh)).await.is_ok());
            assert_eq!(reads.load(Ordering::SeqCst), expected, "{ended}");
        }
        // Nor is what was begun to be read before it.
        let (ends, told) = (Uuid::from_u128(7), tokio::sync::Notify::new());
        let slow = async {
            told.notified().await;
            read(Some(Duration::from_secs(60))).await
        };
        let since = async {
            let since = cache.get(&ends, true, read(None)).await;
            told.notify_one();
            since
        };
        let both = async { tokio::join!(cache.get(&ends, false, slow), since) };
        let (before, since) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        let again = cache.get(&ends, true, read(None)).await;
        let [before, since, again] = [before, since, again].map(|live| live.ok().unwrap());
        assert!(!Arc::ptr_eq(&before, &since) && Arc::ptr_eq(&since, &again));
    }

    #[test]
    fn only_cursors_are_cursors() {
        for text in ["3-0-5", "0-12-1000000"] {
            assert_eq!(Cursor::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "50", "3-0", "3-0-x", "3-0-5-1", "-1-0-0"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
