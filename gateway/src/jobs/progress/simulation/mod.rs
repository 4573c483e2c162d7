// SPDX-License-Identifier: Apache-2.0
//! A thousand workers and the leases of jobs, which two cores cannot show: the very
//! code that lays a job out, follows its commits, begins leases a second time and
//! shares workers between tenants, in virtual time, as discrete events.
//!
//! A model is what lies around that code. The queue gives the message that came first
//! to whoever has waited the longest, and again once its lease has lapsed. In the
//! store the first commit under a key counts. A worker runs one lease and holds the
//! next. Everything is drawn from a seed, which is printed; `FANFOLD_SEED` gives
//! another one.

mod tests;
mod worker;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use fanfold_protocol::{
    commit::Commit,
    digest::Digest,
    fair::{Fair, Service},
    limits,
    plan::{Plan, Shape, Weight},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::{
    machine::Progress,
    policy::Policy,
    slots::LeaseSpec,
    stragglers::{Place, Stragglers},
};
use crate::jobs::JobsConfig;

const WORKERS: usize = 1_000;
/// Leases that a worker holds: one runs, the next waits for its turn.
const HELD_MAX: usize = 2;
const POLICY: Policy = Policy {
    attempts: 3,
    outstanding_max: limits::TASKS_OUTSTANDING_MAX as u32,
    leases_max: u32::MAX,
    tolerated: 0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A loop of a worker pulls.
    Asks(usize),
    /// An attempt has run, puts its commit, keeps its lease.
    Ends(usize),
    Commits(usize),
    Beats(usize),
    /// It tells that it runs, and after the first time looks whether another one was first.
    Watches(usize, bool),
    /// Its lease may have lapsed.
    Lapses(usize),
    /// The coordinator of a job hears of a commit, looks for stragglers, is another one.
    Hears(usize, Place),
    Flushes(usize),
    TakesOver(usize),
}

struct Message {
    spec: LeaseSpec,
    second: bool,
    deliveries: u32,
}

/// A job with its coordinator, its queue and its commits.
struct Job {
    progress: Progress,
    stragglers: Stragglers,
    is_coordinated: bool,
    speculates: bool,
    messages: Vec<Message>,
    ready: BTreeSet<usize>,
    /// Ids that the queue has seen.
    ids: HashSet<(Place, bool)>,
    commits: BTreeMap<Place, Commit>,
    ended: Option<Duration>,
}

/// A delivery of a message to a worker.
struct Attempt {
    job: usize,
    message: usize,
    worker: usize,
    pulled: Duration,
    /// Until when it has the lease.
    until: Duration,
    lapsed: bool,
    settled: bool,
    began: Option<Duration>,
    ended: Option<Duration>,
    service: Option<Service<usize>>,
}

struct Worker {
    alive: bool,
    /// It stands still until then.
    wakes: Duration,
    fair: Fair<usize>,
    running: Option<usize>,
    waiting: VecDeque<usize>,
    /// Tasks of the first stage in those of its commits that count.
    committed: u64,
}

/// What became of a lease whose worker was lost: when another one got it, and when it
/// was committed.
#[derive(Clone, Copy, Default)]
struct Lost {
    restarted: Option<Duration>,
    committed: Option<Duration>,
}

struct World {
    draw: ChaCha8Rng,
    epoch: Instant,
    now: Duration,
    config: JobsConfig,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    jobs: Vec<Job>,
    workers: Vec<Worker>,
    attempts: Vec<Attempt>,
    /// Loops that wait for work, by their workers, the longest first.
    idle: VecDeque<usize>,
    lost: BTreeMap<(usize, Place), Lost>,
    /// Attempts that another one came before.
    overtaken: u64,
    /// What the longest attempt takes.
    longest: Duration,
}

impl World {
    /// Jobs of these partitions, each of a tenant of its own, and workers that come
    /// within `spread`.
    fn new(seed: u64, jobs: &[Vec<Weight>], speculates: bool, spread: Duration) -> Self {
        let config = JobsConfig::default();
        let job = |weights: &Vec<Weight>| {
            let plan = Plan::lay_out(Uuid::nil(), Digest::of(b""), Shape::Aggregate, weights);
            Job {
                progress: Progress::new(plan, POLICY),
                stragglers: Stragglers::new(config.straggle),
                is_coordinated: true,
                speculates,
                messages: Vec::new(),
                ready: BTreeSet::new(),
                ids: HashSet::new(),
                commits: BTreeMap::new(),
                ended: None,
            }
        };
        let mut fair = Fair::new();
        fair.set((0..jobs.len()).map(|job| (job, 1)));
        let worker = |_| Worker {
            alive: true,
            wakes: Duration::ZERO,
            fair: fair.clone(),
            running: None,
            waiting: VecDeque::new(),
            committed: 0,
        };
        let mut world = Self {
            draw: ChaCha8Rng::seed_from_u64(seed),
            epoch: Instant::now(),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            sequence: 0,
            jobs: jobs.iter().map(job).collect(),
            workers: (0..WORKERS).map(worker).collect(),
            attempts: Vec::new(),
            idle: VecDeque::new(),
            lost: BTreeMap::new(),
            overtaken: 0,
            longest: Duration::ZERO,
            config,
        };
        for worker in 0..WORKERS {
            let comes = spread.mul_f64(world.draw.random::<f64>());
            (0..HELD_MAX).for_each(|_| world.at(comes, Event::Asks(worker)));
        }
        for job in 0..world.jobs.len() {
            world.release(job);
            world.at(world.config.flush, Event::Flushes(job));
        }
        world
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    /// Goes on until then, or until all jobs have ended.
    fn run(&mut self, until: Duration) {
        while self.jobs.iter().any(|job| job.ended.is_none())
            && let Some(Reverse((time, _, event))) = self.events.peek().copied()
            && time <= until
        {
            self.events.pop();
            self.now = time;
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        let worker = match event {
            Event::Asks(worker) => Some(worker),
            Event::Ends(attempt)
            | Event::Commits(attempt)
            | Event::Beats(attempt)
            | Event::Watches(attempt, _) => Some(self.attempts[attempt].worker),
            // Whatever becomes of the worker.
            Event::Lapses(_) | Event::Hears(..) | Event::Flushes(_) | Event::TakesOver(_) => None,
        };
        if let Some(Worker { alive, wakes, .. }) = worker.map(|worker| &self.workers[worker]) {
            let (alive, wakes) = (*alive, *wakes);
            if !alive {
                return;
            }
            if wakes > self.now {
                return self.at(wakes, event);
            }
        }
        match event {
            Event::Asks(worker) => {
                self.idle.push_back(worker);
                self.give();
            }
            Event::Ends(attempt) => self.ends(attempt),
            Event::Commits(attempt) => self.commits(attempt),
            Event::Beats(attempt) => self.beats(attempt),
            Event::Watches(attempt, has_told) => self.watches(attempt, has_told),
            Event::Lapses(attempt) => self.lapses(attempt),
            Event::Hears(job, place) => self.hears(job, place),
            Event::Flushes(job) => self.flushes(job),
            Event::TakesOver(job) => self.takes_over(job),
        }
    }

    /// Queues what may run now.
    fn release(&mut self, job: usize) {
        let specs = self.jobs[job].progress.release();
        self.queue(job, specs, false);
    }

    fn queue(&mut self, job: usize, specs: Vec<LeaseSpec>, second: bool) {
        let Job { messages, ready, ids, .. } = &mut self.jobs[job];
        for spec in specs {
            // A message that the queue has seen has no effect.
            if ids.insert((place(&spec), second)) {
                ready.insert(messages.len());
                messages.push(Message { spec, second, deliveries: 0 });
            }
        }
        self.give();
    }

    fn hears(&mut self, job: usize, place: Place) {
        let Job { progress, commits, is_coordinated: true, .. } = &mut self.jobs[job] else { return };
        let failures = commits.get(&place).cloned().map(|commit| progress.absorb(commit));
        assert!(failures.is_some_and(|failures| failures.is_empty()), "{place:?}");
        self.go_on(job);
    }

    /// What follows from commits.
    fn go_on(&mut self, job: usize) {
        self.release(job);
        if self.jobs[job].progress.is_complete() {
            self.jobs[job].ended.get_or_insert(self.now);
        }
    }

    fn flushes(&mut self, job: usize) {
        self.at(self.now + self.config.flush, Event::Flushes(job));
        let now = self.epoch + self.now;
        let Job { progress, stragglers, speculates, is_coordinated: true, .. } = &mut self.jobs[job] else {
            return;
        };
        stragglers.forget_done(progress);
        let specs = if *speculates { stragglers.overdue(progress, now) } else { Vec::new() };
        self.queue(job, specs, true);
    }

    /// Another coordinator makes the progress anew out of the plan and the commits.
    fn takes_over(&mut self, job: usize) {
        let Job { progress, stragglers, commits, is_coordinated, .. } = &mut self.jobs[job];
        *progress = Progress::new(progress.plan().clone(), POLICY);
        *stragglers = Stragglers::new(self.config.straggle);
        *is_coordinated = true;
        for commit in commits.values().cloned() {
            progress.absorb(commit);
        }
        self.go_on(job);
    }
}

fn place(spec: &LeaseSpec) -> Place {
    (spec.stage, spec.group, spec.round)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
