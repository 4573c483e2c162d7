// SPDX-License-Identifier: Apache-2.0
//! How the tasks of a job that has ended stand, as its commits say.
//!
//! Pure, and 8 bytes a task: what a task gave is not held, but read from its commit
//! again by whoever copies it. Invariant: what is known does not depend on the order
//! in which the commits came.

use fanfold_protocol::plan::Plan;

/// What came of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Came {
    /// Nothing, or what is not there any more.
    #[default]
    Nothing,
    /// It failed.
    Failed,
    /// What is still there.
    Product,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trace {
    /// Of the last commit that named it.
    round: u32,
    came: Came,
    /// Whether its function looked at more than its input, in any round.
    looked_outside: bool,
}

/// The tasks of one job.
#[derive(Debug, Default)]
pub struct Traces {
    /// By stage and number.
    stages: Vec<Vec<Trace>>,
    /// The first task of each group of the first stage.
    firsts: Vec<u32>,
}

impl Traces {
    /// Nothing came of the tasks of this plan.
    pub fn new(plan: &Plan) -> Self {
        let stage = |count: &u32| vec![Trace::default(); *count as usize];
        Self {
            stages: plan.stages.iter().map(stage).collect(),
            firsts: plan.groups_of(0).into_iter().map(|(first, _)| first).collect(),
        }
    }

    /// Takes in what a commit of this round says of a task.
    pub fn note(&mut self, (stage, task): (u32, u32), round: u32, came: Came, looked_outside: bool) {
        let tasks = self.stages.get_mut(stage as usize);
        let Some(trace) = tasks.and_then(|tasks| tasks.get_mut(task as usize)) else { return };
        trace.looked_outside |= looked_outside;
        if round >= trace.round {
            (trace.round, trace.came) = (round, came);
        }
    }

    /// Forgets what would not be the same again.
    pub fn keep_reproducible(&mut self) {
        for trace in self.stages.iter_mut().flatten().filter(|trace| trace.looked_outside) {
            trace.came = Came::Nothing;
        }
    }

    /// What came of a task.
    pub fn came(&self, stage: u32, task: u32) -> Came {
        self.trace(stage, task).map_or(Came::Nothing, |trace| trace.came)
    }

    /// Whether its function looked at more than its input.
    pub fn looked_outside(&self, stage: u32, task: u32) -> bool {
        self.trace(stage, task).is_some_and(|trace| trace.looked_outside)
    }

    /// The group and the round of the commit that says so.
    pub fn commit(&self, stage: u32, task: u32) -> (u32, u32) {
        let round = self.trace(stage, task).map_or(0, |trace| trace.round);
        if stage > 0 {
            return (task, round);
        }
        let group = self.firsts.partition_point(|first| *first <= task).saturating_sub(1);
        (u32::try_from(group).unwrap_or(u32::MAX), round)
    }

    fn trace(&self, stage: u32, task: u32) -> Option<&Trace> {
        self.stages.get(stage as usize)?.get(task as usize)
    }

    /// The bytes that they take.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let traces: usize = self.stages.iter().map(Vec::capacity).sum();
        traces * size_of::<Trace>() + self.firsts.capacity() * size_of::<u32>()
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

    #[test]
    fn the_last_round_counts_in_whatever_order_commits_come() {
        let mut plan =
            Plan::lay_out(Uuid::nil(), Digest::of(b""), Shape::Aggregate, &[Weight::default(); 40]);
        plan.groups = vec![16, 16, 8];
        let commits = [
            ((0, 3), 0, Came::Failed, true),
            ((0, 3), 1, Came::Failed, false),
            ((0, 3), 2, Came::Product, false),
            ((0, 39), 0, Came::Product, false),
            ((0, 17), 0, Came::Failed, false),
            ((1, 2), 1, Came::Product, false),
            // There are no such tasks.
            ((0, 40), 0, Came::Product, false),
            ((9, 0), 0, Came::Product, false),
        ];
        for order in [[0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [2, 0, 1, 6, 7, 4, 3, 5]] {
            let mut traces = Traces::new(&plan);
            for (task, round, came, looked_outside) in order.map(|at: usize| commits[at]) {
                traces.note(task, round, came, looked_outside);
            }
            assert_eq!((traces.came(0, 3), traces.commit(0, 3)), (Came::Product, (0, 2)));
            assert_eq!((traces.came(0, 39), traces.commit(0, 39)), (Came::Product, (2, 0)));
            assert_eq!((traces.came(0, 17), traces.commit(0, 17)), (Came::Failed, (1, 0)));
            assert_eq!((traces.came(1, 2), traces.commit(1, 2)), (Came::Product, (2, 1)));
            assert_eq!([traces.came(0, 0), traces.came(0, 40), traces.came(9, 0)], [Came::Nothing; 3]);
            traces.keep_reproducible();
            assert_eq!((traces.came(0, 3), traces.came(0, 39)), (Came::Nothing, Came::Product));
        }
    }
}
