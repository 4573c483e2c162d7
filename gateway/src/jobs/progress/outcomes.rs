// SPDX-License-Identifier: Apache-2.0
//! What a commit may say of the tasks of its lease.
//!
//! Pure. Whatever a worker says, each task of a lease has one outcome, and one that
//! the plan has a use for.

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, TaskCommit, TaskOutcome},
    invocation::Usage,
    plan::{
        Plan,
        Shape::{Aggregate, Group, Map, MapAggregate, MapGroup},
    },
};

/// A product of the kind that the stage makes, or why there is none.
pub fn accept(plan: &Plan, stage: u32, outcome: TaskOutcome) -> Result<TaskOutcome, Problem> {
    match (&outcome, plan.shape, plan.finishes(stage)) {
        (TaskOutcome::Failed(problem), ..) => Err(problem.clone()),
        (TaskOutcome::Table(_), Map, _)
        | (TaskOutcome::State(_), Aggregate | MapAggregate, false)
        | (TaskOutcome::Answer(_), Aggregate | MapAggregate, true) => Ok(outcome),
        (TaskOutcome::Mapped { .. }, MapAggregate, _) if stage == 0 => Ok(outcome),
        (TaskOutcome::State(_), Group | MapGroup, _) if stage == 0 => Ok(outcome),
        (TaskOutcome::Table(_), Group | MapGroup, _) if stage > 0 => Ok(outcome),
        _ => Err(of_another_kind(stage)),
    }
}

/// Why this commit makes a task one that failed, which it is known to do.
pub fn why(commit: &Commit, task: u32) -> Problem {
    // Of a task that is named twice the last counts.
    match commit.tasks.iter().rev().find(|committed| committed.index == task).map(|task| &task.outcome) {
        Some(TaskOutcome::Failed(problem)) => problem.clone(),
        Some(_) => of_another_kind(commit.stage),
        None => unnamed(),
    }
}

/// What a task used, with those of its rows that are the job's: what a keyed aggregate hands
/// to its reducers is neither its input nor its output.
pub fn rows(plan: &Plan, stage: u32, usage: Usage) -> Usage {
    match (plan.shape.groups(), stage) {
        (false, _) => usage,
        (true, 0) => Usage { rows_out: 0, ..usage },
        (true, _) => Usage { rows_in: 0, ..usage },
    }
}

/// A task that its lease's commit does not name.
pub fn absent(task: u32, attempt: u32) -> TaskCommit {
    let outcome = TaskOutcome::Failed(unnamed());
    TaskCommit { index: task, attempt, outcome, usage: Usage::default(), looked_outside: false }
}

fn of_another_kind(stage: u32) -> Problem {
    Problem::new(
        ErrorKind::Internal,
        format!("expected the product of stage {stage}, found one of another kind; upgrade the worker"),
    )
}

fn unnamed() -> Problem {
    Problem::new(ErrorKind::Internal, "expected the commit to name the task, it did not; upgrade the worker")
}
