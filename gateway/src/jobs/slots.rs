// SPDX-License-Identifier: Apache-2.0
//! What is known of each task and each group of tasks of a job, and how it is told.
//!
//! The plain state under [`super::progress`], kept small: a job may have a
//! million tasks. It makes no decisions.

use std::time::Duration;

use fanfold_protocol::{
    Problem,
    commit::TaskOutcome,
    invocation::Usage,
    plan::{Plan, StateRef},
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
    pub failed: Option<Problem>,
}

/// A task that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Stage of the plan.
    pub stage: u32,
    /// The task.
    pub task: u32,
    /// Attempts made.
    pub attempts: u32,
    /// Why the last one failed.
    pub problem: Problem,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Not yet given to a worker, or to be tried again.
    Waiting,
    /// Given to the queue or a worker.
    Leased,
    /// Committed.
    Done,
    /// Given up.
    Failed,
}

/// A task.
#[derive(Debug)]
pub struct Slot {
    /// Where it stands.
    pub state: TaskState,
    /// Attempts that were heard of.
    pub attempts: u32,
    /// What it gave, until nobody needs it any more.
    pub product: Option<Box<TaskOutcome>>,
    /// Why the last attempt failed.
    pub problem: Option<Box<Problem>>,
    /// What the last attempt took.
    pub usage: Usage,
}

impl Slot {
    fn new() -> Self {
        Self { state: TaskState::Waiting, attempts: 0, product: None, problem: None, usage: Usage::default() }
    }

    /// The task gave this.
    pub fn done(&mut self, attempt: u32, product: TaskOutcome, usage: &Usage) {
        self.note(TaskState::Done, attempt, usage);
        self.product = Some(Box::new(product));
        self.problem = None;
    }

    /// An attempt at the task failed.
    pub fn failed(&mut self, state: TaskState, attempt: u32, problem: Problem, usage: &Usage) {
        self.note(state, attempt, usage);
        self.problem = Some(Box::new(problem));
    }

    fn note(&mut self, state: TaskState, attempt: u32, usage: &Usage) {
        self.state = state;
        self.attempts = attempt;
        self.usage = *usage;
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
    pub tasks: Vec<Slot>,
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
        Self {
            groups: plan.groups_of(stage).into_iter().map(group).collect(),
            tasks: (0..count).map(|_| Slot::new()).collect(),
            missing: if stage == 0 { Vec::new() } else { (0..count).map(missing).collect() },
        }
    }

    /// The time within which three quarters of the tasks that it runs were done, from
    /// when each asked for its sandbox; none while fewer are.
    pub fn typical(&self) -> Option<Duration> {
        let (done, open): (Vec<_>, Vec<_>) =
            self.tasks.iter().partition(|slot| slot.state == TaskState::Done);
        // A task that was taken over ran elsewhere.
        let ran = done.iter().filter(|slot| slot.attempts > 0);
        let mut walls: Vec<u64> = ran.map(|slot| slot.usage.start_us + slot.usage.wall_us).collect();
        let wanted = ((walls.len() + open.len()) * 3).div_ceil(4).checked_sub(1)?;
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
            self.tasks[*task as usize].state = TaskState::Leased;
        }
    }
}
