// SPDX-License-Identifier: Apache-2.0
//! What is known of each task and each group of tasks of a job, and how it is told.
//!
//! The plain state under [`super::machine`], kept small: a job may have a
//! million tasks. It makes no decisions. Invariant: each task is in the set of the
//! state in which it stands, and in no other.

use std::{ops::Range, time::Duration};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::TaskOutcome,
    invocation::Usage,
    plan::{Plan, StateRef},
};

use super::{
    bits::{self, Bits},
    stragglers::Place,
};

/// An attempt at a task that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Stage of the plan.
    pub stage: u32,
    /// The task.
    pub task: u32,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether it was the last one.
    pub given_up: bool,
    /// Why.
    pub problem: Problem,
}

/// A lease to be queued, as far as the plan and the commits decide it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseSpec {
    /// Stage of the plan.
    pub stage: u32,
    /// Group within the stage.
    pub group: u32,
    /// Round of the group.
    pub round: u32,
    /// The tasks.
    pub tasks: Vec<u32>,
    /// Of a fold: the states to merge, in the plan's order.
    pub states: Vec<StateRef>,
}

/// A lease that was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// What was.
    pub spec: LeaseSpec,
    /// Whether it was begun a second time.
    pub second: bool,
    /// Why the attempt before at its first task failed.
    pub failed: Option<ErrorKind>,
}

/// A task whose last attempt failed: why in a word, and which commit has all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stage of the plan.
    pub stage: u32,
    /// The task.
    pub task: u32,
    /// Attempts made.
    pub attempts: u32,
    /// The kind of the problem.
    pub code: ErrorKind,
    /// Group of the commit.
    pub group: u32,
    /// Round of the commit.
    pub round: u32,
}

impl Failure {
    /// The place of the commit, and the task in it.
    pub fn place(&self) -> (Place, u32) {
        ((self.stage, self.group, self.round), self.task)
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Given up.
    Failed,
    /// Given to the queue or a worker.
    Leased,
    /// Failed, and to be tried again.
    Again,
    /// Not yet given to a worker.
    Waiting,
    /// Committed.
    Done,
}

/// States that there are.
const STATES: usize = TaskState::Done as usize + 1;

/// What a task took, as far as it is shown or told from: the numbers of [`Took::usage`]
/// and [`Took::last_us`], which fit 32 bits of nearly all tasks.
#[derive(Debug)]
pub enum Took {
    /// All of them fit.
    Small([u32; 9]),
    /// One does not.
    Large(Box<[u64; 9]>),
}

impl Took {
    fn new(usage: &Usage, last_us: u64) -> Self {
        let Usage { wall_us, cpu_us, memory_bytes_peak, rows_in, rows_out, .. } = *usage;
        let Usage { bytes_in, bytes_out, store_requests, .. } = *usage;
        let all = [
            wall_us,
            cpu_us,
            last_us,
            memory_bytes_peak,
            rows_in,
            rows_out,
            bytes_in,
            bytes_out,
            store_requests,
        ];
        let mut small = [0; 9];
        for (small, number) in small.iter_mut().zip(all) {
            match u32::try_from(number) {
                Ok(number) => *small = number,
                Err(_) => return Self::Large(Box::new(all)),
            }
        }
        Self::Small(small)
    }

    /// Time, memory, rows that were handed over and written, bytes and requests; the
    /// rest is in the commit and in the job's sum.
    pub fn usage(&self) -> Usage {
        let [wall_us, cpu_us, _, memory_bytes_peak, rows_in, rows_out, bytes_in, bytes_out, store_requests] =
            self.all();
        Usage {
            wall_us,
            cpu_us,
            memory_bytes_peak,
            rows_in,
            rows_out,
            bytes_in,
            bytes_out,
            store_requests,
            ..Usage::default()
        }
    }

    /// How long the last attempt took, from when it asked for its sandbox.
    pub fn last_us(&self) -> u64 {
        self.all()[2]
    }

    fn all(&self) -> [u64; 9] {
        match self {
            Self::Small(all) => all.map(u64::from),
            Self::Large(all) => **all,
        }
    }
}

/// A task.
#[derive(Debug)]
pub struct Slot {
    /// Where it stands.
    pub state: TaskState,
    /// Attempts that were heard of.
    pub attempts: u32,
    /// What it gave, until nobody needs it any more; none of a table without rows.
    pub product: Option<Box<TaskOutcome>>,
    /// Why the last attempt failed, and in which round. The words, up to 4 KiB of them, are in
    /// the commit alone.
    pub failed: Option<(ErrorKind, u32)>,
    /// What all attempts took, as the job's sum has it. Rows are those of the one that
    /// counts, what reducers are handed included.
    pub took: Took,
}

impl Slot {
    fn new() -> Self {
        let took = Took::Small([0; 9]);
        Self { state: TaskState::Waiting, attempts: 0, product: None, failed: None, took }
    }
}

/// Where a group of tasks stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// To be leased: now, or when what it merges is there.
    Waiting,
    /// Leased.
    Leased,
    /// Nothing is left to do.
    Done,
}

/// A group of neighbouring tasks, which are leased together.
#[derive(Debug)]
pub struct Group {
    /// Its first task.
    pub first: u32,
    /// The round that is open.
    pub round: u32,
    /// Where it stands.
    pub phase: Phase,
    /// Whether the open round was begun a second time.
    pub second: bool,
    /// The tasks of a round after the first.
    pub again: Vec<u32>,
}

/// A stage of the plan.
#[derive(Debug)]
pub struct Stage {
    /// Its groups, in order.
    pub groups: Vec<Group>,
    /// Its tasks, in order.
    tasks: Vec<Slot>,
    /// The tasks in each state.
    standing: [Bits; STATES],
    /// Of a fold: for each task, the states that are still missing.
    pub missing: Vec<u32>,
}

impl Stage {
    /// A stage of which nothing is done.
    pub fn new(plan: &Plan, stage: u32) -> Self {
        let count = plan.stages.get(stage as usize).copied().unwrap_or(0);
        let group =
            |(first, _)| Group { first, round: 0, phase: Phase::Waiting, second: false, again: Vec::new() };
        let missing = |task| u32::try_from(plan.children(stage, task).len()).unwrap_or(u32::MAX);
        let mut standing: [Bits; STATES] = std::array::from_fn(|_| Bits::none(count));
        standing[TaskState::Waiting as usize] = Bits::all(count);
        Self {
            groups: plan.groups_of(stage).into_iter().map(group).collect(),
            tasks: (0..count).map(|_| Slot::new()).collect(),
            standing,
            missing: if stage == 0 { Vec::new() } else { (0..count).map(missing).collect() },
        }
    }

    /// Its tasks, in order.
    pub fn tasks(&self) -> &[Slot] {
        &self.tasks
    }

    /// The tasks from `first` on that stand in one of these states, in order.
    pub fn standing(&self, states: &[TaskState], first: u32) -> impl Iterator<Item = u32> {
        bits::union(states.iter().map(|state| &self.standing[*state as usize]).collect(), first)
    }

    /// The time within which three quarters of the tasks that it runs were done, from
    /// when each asked for its sandbox; none while fewer are. Attempts that failed, which
    /// may have been quick, do not count.
    pub fn typical(&self) -> Option<Duration> {
        let done = self.standing[TaskState::Done as usize].count();
        let open = self.tasks.len() - done;
        let wanted = |ran: usize| ((ran + open) * 3).div_ceil(4).checked_sub(1);
        // Of those that ran, which may be fewer, it would not be enough either.
        if wanted(done)? >= done {
            return None;
        }
        // A task that was taken over ran elsewhere.
        let ran = self.tasks.iter().filter(|slot| slot.state == TaskState::Done && slot.attempts > 0);
        let mut walls: Vec<u64> = ran.map(|slot| slot.took.last_us()).collect();
        let wanted = wanted(walls.len())?;
        if wanted >= walls.len() {
            return None;
        }
        Some(Duration::from_micros(*walls.select_nth_unstable(wanted).1))
    }

    /// The group of a task.
    pub fn group_of(&self, task: u32) -> Option<u32> {
        let group = self.groups.partition_point(|group| group.first <= task).checked_sub(1)?;
        u32::try_from(group).ok()
    }

    /// Why the last attempt at a task of this `stage` failed.
    pub fn failure(&self, stage: u32, task: u32) -> Option<Failure> {
        let slot = self.tasks.get(task as usize)?;
        let (code, round) = slot.failed?;
        Some(Failure { stage, task, attempts: slot.attempts, code, group: self.group_of(task)?, round })
    }

    /// The first task of a group and their number.
    pub fn range(&self, group: u32) -> (u32, u32) {
        let first = self.groups[group as usize].first;
        let end = self.groups.get(group as usize + 1).map_or(self.tasks.len() as u32, |next| next.first);
        (first, end - first)
    }

    /// The tasks that the open round of a group leases.
    pub fn open_tasks(&self, group: u32) -> Vec<u32> {
        let state = &self.groups[group as usize];
        if state.round > 0 {
            return state.again.clone();
        }
        let (first, count) = self.range(group);
        (first..first + count).collect()
    }

    /// Marks a group and its open tasks as leased.
    pub fn lease(&mut self, group: u32, tasks: &[u32]) {
        self.groups[group as usize].phase = Phase::Leased;
        for task in tasks {
            self.put(*task, TaskState::Leased);
        }
    }

    /// A task gave this.
    pub fn done(&mut self, task: u32, attempt: u32, product: TaskOutcome, usage: &Usage) {
        let slot = self.note(task, TaskState::Done, attempt, usage);
        slot.product = (product != TaskOutcome::Table(None)).then(|| Box::new(product));
        slot.failed = None;
    }

    /// An attempt at a task failed in a round, which is given up or tried again.
    pub fn failed(&mut self, attempt: &FailedAttempt, round: u32, usage: &Usage) {
        let state = if attempt.given_up { TaskState::Failed } else { TaskState::Again };
        let slot = self.note(attempt.task, state, attempt.attempt, usage);
        slot.failed = Some((attempt.problem.code, round));
    }

    /// The states that these tasks gave were merged, and are of no more use.
    pub fn forget_states(&mut self, tasks: Range<u32>) {
        for slot in &mut self.tasks[tasks.start as usize..tasks.end as usize] {
            // Of a table the place is still needed, for the manifest.
            let product = slot.product.take();
            let table = product.as_deref().and_then(TaskOutcome::table).cloned();
            slot.product = table.map(|table| Box::new(TaskOutcome::Table(Some(table))));
        }
    }

    fn note(&mut self, task: u32, state: TaskState, attempt: u32, usage: &Usage) -> &mut Slot {
        self.put(task, state);
        let slot = &mut self.tasks[task as usize];
        let mut took = slot.took.usage();
        took.add_cost(usage);
        if state == TaskState::Done {
            took.add_rows(usage);
        }
        let last_us = usage.start_us.saturating_add(usage.wall_us);
        (slot.attempts, slot.took) = (attempt, Took::new(&took, last_us));
        slot
    }

    fn put(&mut self, task: u32, state: TaskState) {
        let before = std::mem::replace(&mut self.tasks[task as usize].state, state);
        self.standing[before as usize].put(task, false);
        self.standing[state as usize].put(task, true);
    }
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::{
        digest::Digest,
        plan::{Shape, Weight},
    };
    use uuid::Uuid;

    use super::*;

    fn stage(tasks: usize) -> Stage {
        let plan = Plan::lay_out(Uuid::nil(), Digest::of(b""), Shape::Map, &vec![Weight::default(); tasks]);
        Stage::new(&plan, 0)
    }

    /// The first attempt at a task.
    fn failed(task: u32, given_up: bool) -> FailedAttempt {
        let problem = Problem::new(ErrorKind::GuestTrapped, "test");
        FailedAttempt { stage: 0, task, attempt: 1, given_up, problem }
    }

    #[test]
    fn a_million_tasks_are_64_mb() {
        assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
    }

    #[test]
    fn what_a_task_took_is_exact_however_much_it_is() {
        let usage = |number: u64| Usage {
            wall_us: number,
            cpu_us: number + 1,
            memory_bytes_peak: number + 3,
            rows_in: number + 4,
            rows_out: number + 5,
            bytes_in: number + 6,
            bytes_out: number + 7,
            store_requests: number + 8,
            ..Usage::default()
        };
        let most = u64::from(u32::MAX);
        for (number, small) in [(0, true), (most - 8, true), (most - 7, false), (most * 7, false)] {
            let took = Took::new(&usage(number), number + 2);
            let found = (took.usage(), took.last_us(), matches!(took, Took::Small(_)));
            assert_eq!(found, (usage(number), number + 2, small), "{number}");
        }
    }

    #[test]
    fn a_task_took_what_its_attempts_took_and_has_the_rows_of_one() {
        let mut stage = stage(1);
        let usage = |wall_us: u64, rows_in: u64| Usage {
            wall_us,
            start_us: 1,
            memory_bytes_peak: wall_us,
            rows_in,
            bytes_in: 3,
            ..Usage::default()
        };
        let numbers = |stage: &Stage| {
            let took = stage.tasks()[0].took.usage();
            (took.wall_us, took.memory_bytes_peak, took.rows_in, took.bytes_in)
        };
        stage.lease(0, &[0]);
        stage.failed(&failed(0, false), 0, &usage(9, 5));
        assert_eq!(numbers(&stage), (9, 9, 0, 3));
        stage.done(0, 2, TaskOutcome::Table(None), &usage(7, 6));
        assert_eq!(numbers(&stage), (16, 9, 6, 6));
        assert_eq!(stage.typical(), Some(Duration::from_micros(1 + 7)));
    }

    #[test]
    fn a_task_stands_in_one_place() {
        let mut stage = stage(6);
        let usage = Usage::default();
        let tasks: Vec<u32> =
            (0..stage.groups.len() as u32).flat_map(|group| stage.open_tasks(group)).collect();
        assert_eq!(tasks, [0, 1, 2, 3, 4, 5]);
        stage.lease(0, &[0, 1, 2, 3]);
        stage.done(0, 1, TaskOutcome::Table(None), &usage);
        stage.failed(&failed(1, false), 0, &usage);
        stage.failed(&failed(2, true), 0, &usage);
        let places = [
            (TaskState::Failed, vec![2]),
            (TaskState::Leased, vec![3]),
            (TaskState::Again, vec![1]),
            (TaskState::Waiting, vec![4, 5]),
            (TaskState::Done, vec![0]),
        ];
        for (state, expected) in places {
            assert_eq!(stage.standing(&[state], 0).collect::<Vec<_>>(), expected, "{state:?}");
            assert!(expected.iter().all(|task| stage.tasks()[*task as usize].state == state));
        }
        let rest = stage.standing(&[TaskState::Waiting, TaskState::Done], 0);
        assert_eq!(rest.collect::<Vec<_>>(), [0, 4, 5]);
        assert!(stage.tasks()[0].product.is_none(), "there is no table");
    }
}
