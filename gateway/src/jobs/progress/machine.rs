// SPDX-License-Identifier: Apache-2.0
//! How far a job is: a state machine fed by commits, without I/O and clock.
//!
//! The coordinator takes in every commit that it hears of or finds, in any order
//! and any number of times, and queues the leases that this makes possible.
//! Invariant: who is merged with whom, and in which order, follows from the plan
//! alone; the state after a set of commits does not depend on the order in which
//! they came, but what is held on the way does: least where later stages come first.
//! Of what failed only the kind is held, and where the rest can be read.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use fanfold_protocol::{
    commit::{AnswerRef, Commit, OutputObject, Overtaken, TaskCommit, TaskOutcome},
    invocation::Usage,
    job::TaskCounts,
    plan::{Plan, StateRef},
};

use super::{
    eta::{Eta, Pace},
    outcomes::{absent, accept, rows},
    overtaken::AllOvertaken,
    policy::{Policy, may_help},
    slots::{FailedAttempt, Failure, Group, LeaseSpec, Leased, Phase, Stage, TaskState},
    stragglers::Place,
};

/// A job's progress.
#[derive(Debug)]
pub struct Progress {
    plan: Plan,
    policy: Policy,
    /// Whether nothing is leased from it.
    is_shown: bool,
    stages: Vec<Stage>,
    /// Groups that may be leased before the next ones of stage 0: folds, which
    /// free memory, and further rounds.
    ready: VecDeque<(u32, u32)>,
    /// Further rounds that have opened since somebody asked.
    opened: Vec<Place>,
    /// The first group of stage 0 that was never leased here.
    next_group: u32,
    /// Tasks leased and not committed.
    outstanding: u32,
    /// Those of them that were begun a second time.
    seconds: u32,
    /// Leases that hold them, second attempts included.
    leases: u32,
    second_attempts: u64,
    /// Commits that came before the round that they belong to.
    early: BTreeMap<(u32, u32, u32), Commit>,
    usage: Usage,
    attempts: u64,
    overtaken: AllOvertaken,
    taken_over: u64,
    pace: Pace,
    done: u64,
    /// Tasks given up: of the first stage, and of folds.
    failed: [u64; 2],
}

impl Progress {
    /// Nothing is done yet.
    pub fn new(plan: Plan, policy: Policy) -> Self {
        let stages: Vec<_> = (0..plan.stages.len() as u32).map(|stage| Stage::new(&plan, stage)).collect();
        // Of no partitions there is no commit to wait for: the answer is that of no state.
        let waits_for_none = |stage: &&Stage| stage.missing.iter().all(|missing| *missing == 0);
        let ready = (1..).zip(stages.iter().skip(1)).filter(|(_, stage)| waits_for_none(stage));
        let ready =
            ready.flat_map(|(stage, content)| (0..).zip(content.tasks()).map(move |(task, _)| (stage, task)));
        let ready = ready.collect();
        let usage = Usage {
            row_groups_pruned: plan.pruned.row_groups,
            bytes_pruned: plan.pruned.bytes,
            ..Usage::default()
        };
        Self {
            plan,
            policy,
            is_shown: false,
            stages,
            ready,
            opened: Vec::new(),
            next_group: 0,
            outstanding: 0,
            seconds: 0,
            leases: 0,
            second_attempts: 0,
            early: BTreeMap::new(),
            usage,
            attempts: 0,
            overtaken: AllOvertaken::default(),
            taken_over: 0,
            pace: Pace::default(),
            done: 0,
            failed: [0; 2],
        }
    }

    /// The same for whoever only shows tasks, which holds no state that a task gave.
    pub fn to_show(plan: Plan, policy: Policy) -> Self {
        Self { is_shown: true, ..Self::new(plan, policy) }
    }

    /// Takes a commit into account and answers the failures that it reports.
    /// What it makes possible is leased by [`Progress::release_next`].
    pub fn absorb(&mut self, commit: Commit) -> Vec<FailedAttempt> {
        let mut failures = Vec::new();
        let mut next = Some(commit);
        while let Some(commit) = next {
            let key = (commit.stage, commit.group, commit.round);
            let Some(open) = self.group(key.0, key.1).map(|g| (g.phase, g.round)) else { return failures };
            if open.0 == Phase::Done || key.2 < open.1 {
                return failures;
            }
            if key.2 > open.1 {
                self.early.insert(key, commit);
                return failures;
            }
            self.settle(commit, &mut failures);
            next = self.early.remove(&(key.0, key.1, key.2 + 1));
        }
        failures
    }

    /// The lease that may be queued next, within the bounds on outstanding tasks and
    /// leases. That of a rebuilt state may be queued already; its id says so.
    pub fn release_next(&mut self) -> Option<LeaseSpec> {
        if self.is_hopeless() {
            return None;
        }
        let (stage, group) = self.next_ready()?;
        let tasks = self.stages[stage as usize].open_tasks(group);
        let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        if self.outstanding > 0 && !self.has_room(count) {
            return None;
        }
        if self.ready.front() == Some(&(stage, group)) {
            self.ready.pop_front();
        } else {
            self.next_group = group + 1;
        }
        self.outstanding += count;
        self.leases += 1;
        self.stages[stage as usize].lease(group, &tasks);
        Some(self.spec(stage, group, tasks))
    }

    /// Takes out the further rounds that commits have opened. Each is leased once it has
    /// waited: [`Progress::resume`].
    pub fn opened(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.opened)
    }

    /// A round that was taken out may be leased now, if it is still the open one.
    pub fn resume(&mut self, (stage, group, round): Place) {
        if self.group(stage, group).is_some_and(|open| open.round == round) {
            self.ready.push_back((stage, group));
        }
    }

    /// The leases that were given out and not committed: for a queue that lost them.
    pub fn leased(&self) -> Vec<LeaseSpec> {
        let mut specs = Vec::new();
        for (stage, content) in (0..).zip(&self.stages) {
            let groups = (0..).zip(&content.groups).filter(|(_, group)| group.phase == Phase::Leased);
            specs.extend(groups.map(|(group, _)| self.spec(stage, group, content.open_tasks(group))));
        }
        specs
    }

    /// Begins a leased group a second time beside the first attempt, whose
    /// commit it may come before; once a round, and if the job may be so wide. One
    /// at a time is begun beyond that, lest stragglers that fill a job hold it up.
    pub fn begin_second(&mut self, stage: u32, group: u32, round: u32) -> Option<LeaseSpec> {
        let open = self.group(stage, group)?;
        if open.phase != Phase::Leased || open.round != round || open.second {
            return None;
        }
        let tasks = self.stages[stage as usize].open_tasks(group);
        let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
        if self.seconds > 0 && !self.has_room(count) {
            return None;
        }
        self.stages[stage as usize].groups[group as usize].second = true;
        self.seconds += count;
        self.leases += 1;
        self.second_attempts += 1;
        Some(self.spec(stage, group, tasks))
    }

    /// Groups that were begun a second time.
    pub fn second_attempts(&self) -> u64 {
        self.second_attempts
    }

    /// Takes into account, once, what an attempt took that does not count.
    pub fn note_overtaken(&mut self, overtaken: &Overtaken) {
        self.overtaken.note(overtaken);
    }

    /// Whether fewer attempts were heard to have ended without counting than were
    /// begun beside others.
    pub fn awaits_overtaken(&self) -> bool {
        self.overtaken.count() < self.second_attempts
    }

    /// The time within which three quarters of the tasks that a stage runs were
    /// done, each counted from its own beginning; none while fewer are done.
    pub fn typical(&self, stage: u32) -> Option<Duration> {
        self.stages.get(stage as usize)?.typical()
    }

    /// What a group runs in this round, if it is leased.
    pub fn lease(&self, stage: u32, group: u32, round: u32) -> Option<Leased> {
        let open = self.group(stage, group)?;
        if open.phase != Phase::Leased || open.round != round {
            return None;
        }
        let tasks = self.stages[stage as usize].open_tasks(group);
        let first = tasks.first().map(|task| &self.stages[stage as usize].tasks()[*task as usize]);
        let failed = first.and_then(|slot| slot.failed).map(|(code, _)| code);
        Some(Leased { spec: self.spec(stage, group, tasks), second: open.second, failed })
    }

    /// The group and round in which a task is leased, and whether that was begun a
    /// second time.
    pub fn lease_of(&self, stage: u32, task: u32) -> Option<(u32, u32, bool)> {
        let group = self.stages.get(stage as usize)?.group_of(task)?;
        let open = self.group(stage, group).filter(|open| open.phase == Phase::Leased)?;
        Some((group, open.round, open.second))
    }

    /// Whether this commit would change nothing.
    pub fn knows(&self, stage: u32, group: u32, round: u32) -> bool {
        self.group(stage, group).is_none_or(|g| g.phase == Phase::Done || round < g.round)
            || self.early.contains_key(&(stage, group, round))
    }

    /// Whether every task is done, or given up and tolerated.
    pub fn is_complete(&self) -> bool {
        !self.is_hopeless() && self.done + self.failures().0 == self.plan.tasks()
    }

    /// Whether more has failed than is tolerated. A fold that failed always is:
    /// without it there is no answer.
    fn is_hopeless(&self) -> bool {
        self.failed[0] > self.policy.tolerated || self.failed[1] > 0
    }

    /// The task that ends the job, if there is one: of several the first in the
    /// plan, whichever came first.
    pub fn given_up(&self) -> Option<Failure> {
        if !self.is_hopeless() {
            return None;
        }
        let tolerated = self.failed[0] <= self.policy.tolerated;
        self.dead().find(|given_up| given_up.stage > 0 || !tolerated)
    }

    /// Every task that was given up, in the plan's order.
    pub fn dead(&self) -> impl Iterator<Item = Failure> {
        (0..).zip(&self.stages).flat_map(|(stage, content)| {
            content.standing(&[TaskState::Failed], 0).filter_map(move |task| content.failure(stage, task))
        })
    }

    /// Why the last attempt at a task failed, unless it is done or was never tried.
    pub fn failure(&self, stage: u32, task: u32) -> Option<Failure> {
        self.stages.get(stage as usize)?.failure(stage, task)
    }

    /// Tasks given up, and how many are tolerated.
    pub fn failures(&self) -> (u64, u64) {
        (self.failed.iter().sum(), self.policy.tolerated)
    }

    /// Tasks by state.
    pub fn counts(&self) -> TaskCounts {
        let total = self.plan.tasks();
        let running = u64::from(self.outstanding);
        let failed = self.failures().0;
        let waiting = total.saturating_sub(self.done + failed + running);
        TaskCounts { total, waiting, running, done: self.done, failed }
    }

    /// What all attempts heard of took together, and their number.
    pub fn usage(&self) -> (Usage, u64) {
        self.overtaken.with(self.usage, self.attempts)
    }

    /// What those took that were committed.
    pub fn committed_usage(&self) -> Usage {
        self.usage
    }

    /// Tasks that were not run, but taken over from an earlier job.
    pub fn taken_over(&self) -> u64 {
        self.taken_over
    }

    /// The time that is left, as far as it can be told after `running`.
    pub fn eta(&self, running: Duration) -> Option<Eta> {
        self.pace.eta(running, self.plan.tasks().saturating_sub(self.done + self.failures().0))
    }

    /// Tables of the tasks that write any, in the plan's order: those of a map, or
    /// of the reducers.
    pub fn tables(&self) -> impl Iterator<Item = &OutputObject> {
        let tasks = self.stages.iter().flat_map(Stage::tasks);
        tasks.filter_map(|slot| slot.product.as_deref()?.table())
    }

    /// What each task of the first stage took, as far as it is kept.
    pub fn took(&self) -> impl Iterator<Item = Usage> {
        self.stages.iter().take(1).flat_map(Stage::tasks).map(|slot| slot.took.usage())
    }

    /// What the tasks of all further stages took together.
    pub fn folds_took(&self) -> Usage {
        let mut took = Usage::default();
        let folds = self.stages.iter().skip(1).flat_map(Stage::tasks);
        folds.for_each(|slot| took.add(&slot.took.usage()));
        took
    }

    /// The aggregate's answer, once it is there.
    pub fn answer(&self) -> Option<&AnswerRef> {
        match self.stages.last()?.tasks().first()?.product.as_deref() {
            Some(TaskOutcome::Answer(answer)) => Some(answer),
            _ => None,
        }
    }

    /// The plan that is followed.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The stages, for whoever shows tasks.
    pub(in crate::jobs) fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn has_room(&self, tasks: u32) -> bool {
        let running = self.outstanding.saturating_add(self.seconds);
        running.saturating_add(tasks) <= self.policy.outstanding_max && self.leases < self.policy.leases_max
    }

    fn group(&self, stage: u32, group: u32) -> Option<&Group> {
        self.stages.get(stage as usize)?.groups.get(group as usize)
    }

    /// The next group to lease, which stays where it is.
    fn next_ready(&mut self) -> Option<(u32, u32)> {
        while let Some((stage, group)) = self.ready.front().copied() {
            if self.is_fed(stage, group)
                && self.group(stage, group).is_some_and(|g| g.phase == Phase::Waiting)
            {
                return Some((stage, group));
            }
            self.ready.pop_front();
        }
        // A group in a later round is in `ready`, or waits; one that is done needs nothing.
        while let Some(group) = self.group(0, self.next_group) {
            if group.phase == Phase::Waiting && group.round == 0 {
                return Some((0, self.next_group));
            }
            self.next_group += 1;
        }
        None
    }

    /// Whether all is there that a group merges. Of a fold that failed, commits of its children
    /// may be found after its own; it is ready when the last one is.
    fn is_fed(&self, stage: u32, group: u32) -> bool {
        self.stages[stage as usize].missing.get(group as usize).is_none_or(|missing| *missing == 0)
    }

    fn spec(&self, stage: u32, group: u32, tasks: Vec<u32>) -> LeaseSpec {
        let round = self.group(stage, group).map_or(0, |g| g.round);
        let states = if stage == 0 { Vec::new() } else { self.states_for(stage, group) };
        LeaseSpec { stage, group, round, tasks, states }
    }

    fn states_for(&self, stage: u32, task: u32) -> Vec<StateRef> {
        let children = self.plan.children(stage, task);
        let slots = &self.stages[stage as usize - 1].tasks()[children.start as usize..children.end as usize];
        slots.iter().filter_map(|slot| slot.product.as_deref()?.state().cloned()).collect()
    }

    /// A commit of the open round of a group that is not done.
    fn settle(&mut self, commit: Commit, failures: &mut Vec<FailedAttempt>) {
        let (stage, group) = (commit.stage, commit.group);
        let open = self.stages[stage as usize].open_tasks(group);
        let count = u32::try_from(open.len()).unwrap_or(u32::MAX);
        let leased = &self.stages[stage as usize].groups[group as usize];
        if leased.phase == Phase::Leased {
            self.outstanding -= count.min(self.outstanding);
            self.seconds -= if leased.second { count.min(self.seconds) } else { 0 };
            self.leases -= (1 + u32::from(leased.second)).min(self.leases);
        }
        let mut given: BTreeMap<u32, TaskCommit> = commit.tasks.into_iter().map(|t| (t.index, t)).collect();
        let mut again = Vec::new();
        for task in open {
            let committed = given.remove(&task).unwrap_or_else(|| absent(task, commit.round + 1));
            if self.settle_task((stage, commit.round), committed, failures) {
                again.push(task);
            }
        }
        let state = &mut self.stages[stage as usize].groups[group as usize];
        state.round = commit.round + 1;
        state.second = false;
        state.phase = if again.is_empty() { Phase::Done } else { Phase::Waiting };
        if again.is_empty() {
            self.early.retain(|key, _| (key.0, key.1) != (stage, group));
            self.finish_group(stage, group);
        } else {
            state.again = again;
            self.opened.push((stage, group, state.round));
        }
    }

    /// Takes what came of one task in a round; true when it is to be tried again.
    fn settle_task(
        &mut self,
        (stage, round): (u32, u32),
        committed: TaskCommit,
        failures: &mut Vec<FailedAttempt>,
    ) -> bool {
        let TaskCommit { index, attempt, outcome, usage, .. } = committed;
        self.usage.add_cost(&usage);
        self.attempts += u64::from(attempt > 0);
        self.taken_over += u64::from(attempt == 0);
        let problem = match accept(&self.plan, stage, outcome) {
            Ok(outcome) => {
                self.stages[stage as usize].done(index, attempt, outcome, &usage);
                if self.is_merged(stage, index) {
                    self.stages[stage as usize].forget_states(index..index + 1);
                }
                self.usage.add_rows(&rows(&self.plan, stage, usage));
                self.done += 1;
                if attempt > 0 {
                    self.pace.note(usage.wall_us);
                }
                return false;
            }
            Err(problem) => problem,
        };
        let given_up = attempt >= self.policy.attempts || !may_help(&problem);
        let failed = FailedAttempt { stage, task: index, attempt, given_up, problem };
        self.stages[stage as usize].failed(&failed, round, &usage);
        if given_up {
            self.failed[usize::from(stage > 0)] += 1;
        }
        failures.push(failed);
        !given_up
    }

    /// Whether nobody will merge the state of a task of this stage any more.
    fn is_merged(&self, stage: u32, task: u32) -> bool {
        let Some(next) = self.stages.get(stage as usize + 1) else { return false };
        let is_done = |parent: u32| next.groups[parent as usize].phase == Phase::Done;
        self.is_shown || self.plan.parents(stage, task).all(is_done)
    }

    /// A group is done: its states go to their parents, and the states that it
    /// merged itself are of no more use.
    fn finish_group(&mut self, stage: u32, group: u32) {
        let (first, count) = self.stages[stage as usize].range(group);
        // What reducers read they read together.
        if stage > 0 && self.plan.shape.folds() {
            self.stages[stage as usize - 1].forget_states(self.plan.children(stage, group));
        }
        // A task that was given up gives no state; what it is merged into counts
        // it all the same, and is leased only while that is tolerated.
        let Some(next) = self.stages.get_mut(stage as usize + 1) else { return };
        let mut complete = Vec::new();
        for task in first..first + count {
            for parent in self.plan.parents(stage, task) {
                let missing = &mut next.missing[parent as usize];
                *missing = missing.saturating_sub(1);
                if *missing == 0 && next.groups[parent as usize].phase == Phase::Waiting {
                    complete.push((stage + 1, parent));
                }
            }
        }
        for fold in complete.into_iter().rev() {
            self.ready.push_front(fold);
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
