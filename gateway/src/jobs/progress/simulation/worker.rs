// SPDX-License-Identifier: Apache-2.0
//! The queue and the workers of the model.

use std::{collections::BTreeSet, time::Duration};

use fanfold_protocol::{
    commit::{AnswerRef, Commit, Overtaken, RunningNotice, TaskCommit, TaskOutcome},
    fair::Service,
    invocation::Usage,
    plan::StateRef,
};
use rand::RngExt;
use serde_json::json;
use uuid::Uuid;

use super::{Attempt, Event, Job, LeaseSpec, Message, Worker, World, ms, place, s};

/// As in the runtime's `worker`.
pub(super) const LEASE: Duration = s(30);
const HEARTBEAT: Duration = s(10);
const TELL_AFTER: Duration = ms(500);
const LOOK_EVERY: Duration = s(5);
/// Until a commit is in the store, and until its notice is heard.
const STORE: Duration = ms(30);
const NETWORK: Duration = ms(1);
/// One attempt of so many takes so many times as long, wherever it runs.
const STRAGGLER_ONE_IN: f64 = 200.0;
const STRAGGLER_TIMES: f64 = 10.0;

impl World {
    /// Gives what is ready to whoever waits.
    pub(super) fn give(&mut self) {
        while self.jobs.iter().any(|job| !job.ready.is_empty())
            && let Some(worker) = self.idle.pop_front()
        {
            let Worker { alive, wakes, .. } = self.workers[worker];
            if alive && wakes > self.now {
                self.at(wakes, Event::Asks(worker));
            } else if alive && let Some(service) = self.turn(worker) {
                self.deliver(worker, service);
            }
        }
    }

    /// Whose turn it is at a worker: queues are asked one after the other, as by `Share`.
    fn turn(&mut self, worker: usize) -> Option<Service<usize>> {
        let (fair, mut empty) = (&mut self.workers[worker].fair, BTreeSet::<usize>::new());
        loop {
            let service = fair.next(|job| !empty.contains(job))?;
            let job = *service.member();
            if !self.jobs[job].ready.is_empty() {
                return Some(service);
            }
            fair.idle(service);
            empty.insert(job);
        }
    }

    fn deliver(&mut self, worker: usize, service: Service<usize>) {
        let job = *service.member();
        let Job { messages, ready, commits, .. } = &mut self.jobs[job];
        let Some(message) = ready.pop_first() else { return };
        let Message { spec, second, deliveries } = &mut messages[message];
        *deliveries += 1;
        let place = place(spec);
        let is_done = (*deliveries > 1 || *second) && commits.contains_key(&place);
        let attempt = self.attempts.len();
        self.attempts.push(Attempt {
            job,
            message,
            worker,
            pulled: self.now,
            until: self.now + LEASE,
            lapsed: false,
            settled: false,
            began: None,
            ended: None,
            service: Some(service),
        });
        if let Some(lost) = self.lost.get_mut(&(job, place)) {
            lost.restarted.get_or_insert(self.now);
        }
        if is_done {
            self.at(self.now + NETWORK, Event::Hears(job, place));
            return self.settle(attempt);
        }
        self.at(self.now + LEASE, Event::Lapses(attempt));
        self.at(self.now + HEARTBEAT, Event::Beats(attempt));
        self.workers[worker].waiting.push_back(attempt);
        self.begin_next(worker);
    }

    /// Begins what waits at a worker, unless something runs there.
    fn begin_next(&mut self, worker: usize) {
        while self.workers[worker].running.is_none()
            && let Some(attempt) = self.workers[worker].waiting.pop_front()
        {
            if self.now - self.attempts[attempt].pulled > TELL_AFTER && self.is_committed(attempt) {
                self.overtake(attempt);
                continue;
            }
            let service = self.service(attempt);
            self.attempts[attempt].began = Some(self.now);
            self.workers[worker].running = Some(attempt);
            self.at(self.now + service, Event::Ends(attempt));
            self.at(self.now + TELL_AFTER, Event::Watches(attempt, false));
        }
    }

    /// About a second for each task that reads, little for a merge; now and then far longer.
    fn service(&mut self, attempt: usize) -> Duration {
        let spec = self.spec(attempt);
        let (each, tasks) = (if spec.stage == 0 { 1.0 } else { 0.1 }, spec.tasks.len());
        let task = |_| each * (0.8 - 0.2 * (1.0 - self.draw.random::<f64>()).ln());
        let usual: f64 = (0..tasks).map(task).sum();
        let straggles = self.draw.random_bool(1.0 / STRAGGLER_ONE_IN);
        let service = Duration::from_secs_f64(if straggles { usual * STRAGGLER_TIMES } else { usual });
        self.longest = self.longest.max(service);
        service
    }

    pub(super) fn ends(&mut self, attempt: usize) {
        if self.leave(attempt) {
            self.at(self.now + STORE, Event::Commits(attempt));
        }
    }

    /// Ends what an attempt runs; false when it had been stopped before.
    fn leave(&mut self, attempt: usize) -> bool {
        let worker = self.attempts[attempt].worker;
        if self.workers[worker].running != Some(attempt) {
            return false;
        }
        self.attempts[attempt].ended = Some(self.now);
        self.workers[worker].running = None;
        self.begin_next(worker);
        true
    }

    pub(super) fn commits(&mut self, attempt: usize) {
        let Attempt { job, worker, .. } = self.attempts[attempt];
        let (place, commit) = (place(self.spec(attempt)), self.commit(attempt));
        self.at(self.now + NETWORK, Event::Hears(job, place));
        if self.is_committed(attempt) {
            return self.overtake(attempt);
        }
        if place.0 == 0 {
            self.workers[worker].committed += commit.tasks.len() as u64;
        }
        self.jobs[job].commits.insert(place, commit);
        if let Some(lost) = self.lost.get_mut(&(job, place)) {
            lost.committed = Some(self.now);
        }
        self.settle(attempt);
    }

    /// Ends an attempt that another one came before, and tells what it took.
    fn overtake(&mut self, attempt: usize) {
        self.overtaken += 1;
        let Job { progress, is_coordinated, .. } = &mut self.jobs[self.attempts[attempt].job];
        if *is_coordinated {
            let (id, usage) = (Uuid::from_u128(attempt as u128), Usage::default());
            progress.note_overtaken(&Overtaken { attempt: id, tasks: 0, usage });
        }
        self.settle(attempt);
    }

    /// Acknowledges, which does nothing once the lease has lapsed; the loop pulls again.
    fn settle(&mut self, attempt: usize) {
        let spent = self.spent(attempt);
        let Attempt { worker, service, settled, .. } = &mut self.attempts[attempt];
        let (worker, service) = (*worker, service.take());
        *settled = true;
        let fair = &mut self.workers[worker].fair;
        match service {
            Some(service) if spent.is_zero() => fair.withdraw(service),
            Some(service) => fair.end(service, spent),
            None => {}
        }
        self.at(self.now, Event::Asks(worker));
    }

    pub(super) fn beats(&mut self, attempt: usize) {
        let held = &mut self.attempts[attempt];
        if !held.settled && !held.lapsed {
            held.until = self.now + LEASE;
            self.at(self.now + HEARTBEAT, Event::Beats(attempt));
        }
    }

    pub(super) fn lapses(&mut self, attempt: usize) {
        let Attempt { job, message, until, settled, .. } = self.attempts[attempt];
        if settled {
            return;
        }
        if until > self.now {
            return self.at(until, Event::Lapses(attempt));
        }
        self.attempts[attempt].lapsed = true;
        self.jobs[job].ready.insert(message);
        self.give();
    }

    pub(super) fn watches(&mut self, attempt: usize, has_told: bool) {
        let Attempt { job, worker, began, .. } = self.attempts[attempt];
        if self.workers[worker].running != Some(attempt) {
            return;
        }
        if has_told && self.is_committed(attempt) {
            self.leave(attempt);
            return self.overtake(attempt);
        }
        if self.jobs[job].is_coordinated {
            let (stage, group, round) = place(self.spec(attempt));
            let running = self.now - began.unwrap_or(self.now);
            let notice = RunningNotice {
                job: Uuid::nil(),
                stage,
                group,
                round,
                worker: worker.to_string(),
                running_ms: running.as_millis() as u64,
                ..RunningNotice::default()
            };
            self.jobs[job].stragglers.note(notice, self.epoch + self.now);
        }
        self.at(self.now + LOOK_EVERY, Event::Watches(attempt, true));
    }

    fn spec(&self, attempt: usize) -> &LeaseSpec {
        let Attempt { job, message, .. } = self.attempts[attempt];
        &self.jobs[job].messages[message].spec
    }

    fn is_committed(&self, attempt: usize) -> bool {
        self.jobs[self.attempts[attempt].job].commits.contains_key(&place(self.spec(attempt)))
    }

    fn spent(&self, attempt: usize) -> Duration {
        let Attempt { began, ended, .. } = self.attempts[attempt];
        began.zip(ended).map_or(Duration::ZERO, |(began, ended)| ended - began)
    }

    /// A state says which partitions are in it: from the first until before the last.
    fn commit(&self, attempt: usize) -> Commit {
        let (spec, job) = (self.spec(attempt), &self.jobs[self.attempts[attempt].job]);
        let wall_us = self.spent(attempt).as_micros() as u64 / spec.tasks.len().max(1) as u64;
        let usage = Usage { wall_us, ..Usage::default() };
        let outcome = |task: u32| match (spec.stage, job.progress.plan().finishes(spec.stage)) {
            (0, _) => TaskOutcome::State(state(task, task + 1)),
            (_, false) => TaskOutcome::State(merged(spec).map_or(state(0, 0), |(from, to)| state(from, to))),
            (_, true) => {
                let answer = json!(merged(spec)).to_string();
                TaskOutcome::Answer(AnswerRef::Inline(answer.try_into().unwrap()))
            }
        };
        let task = |index: &u32| {
            let (index, attempt, outcome) = (*index, spec.round + 1, outcome(*index));
            TaskCommit { index, attempt, outcome, usage, looked_outside: false }
        };
        Commit {
            job: Uuid::nil(),
            stage: spec.stage,
            group: spec.group,
            round: spec.round,
            attempt: Uuid::from_u128(attempt as u128),
            worker: self.attempts[attempt].worker.to_string(),
            tasks: spec.tasks.iter().map(task).collect(),
        }
    }
}

fn state(from: u32, to: u32) -> StateRef {
    StateRef::Inline(format!("{from} {to}"))
}

/// What a fold merges, which must be neighbours.
fn merged(spec: &LeaseSpec) -> Option<(u32, u32)> {
    let bounds = spec.states.iter().map(|state| match state {
        StateRef::Inline(text) => {
            let (from, to) = text.split_once(' ')?;
            from.parse::<u32>().ok().zip(to.parse::<u32>().ok())
        }
        StateRef::Object { .. } | StateRef::Runs { .. } => None,
    });
    bounds.reduce(|all, next| {
        let ((from, end), (start, to)) = all.zip(next)?;
        (end == start).then_some((from, to))
    })?
}
