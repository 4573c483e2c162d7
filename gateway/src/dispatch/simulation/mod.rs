// SPDX-License-Identifier: Apache-2.0
//! A thousand workers and a hundred gateways, which two cores cannot show: the
//! very choice that gateways make, in virtual time, as discrete events.
//!
//! Calls come at random times at every gateway and take times with a long tail. All are
//! of one component, which a worker compiles when it is called or asked to. A
//! gateway knows its own calls, its own answers' times and the members with what they
//! hold, and nothing of other gateways. Everything is drawn from a seed, which is printed;
//! `FANFOLD_SEED` gives another one.

mod tests;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use fanfold_protocol::{digest::Digest, worker::MEMBER_RENEWAL};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    choice::{Choice, Load, prefer},
    holdings::Holdings,
};

const GATEWAYS: usize = 100;
const WORKERS: usize = 1_000;
const SLOTS: usize = 8;
/// Of all slots, in work on the average.
const UTILISATION: f64 = 0.6;
const MEAN_S: f64 = 0.05;
/// What each may take; there is enough of it.
const MEMORY_BYTES: u64 = 256 << 20;
/// One way between two hosts.
const NETWORK: Duration = Duration::from_micros(300);
/// As in `endpoint.rs`: a worker that could not be reached is left alone for so
/// long, a connection to it is tried for so long, and a silent one is known to be gone after
/// so long.
const REST: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_secs(5);
/// As in `pool.rs`.
const TRIES_MAX: u32 = 3;
const ASKED_MAX: usize = 8;
/// What compiling the component takes.
const COMPILING: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    gateway: usize,
    worker: usize,
    tries: u32,
    came: Duration,
    sent: Duration,
    /// Its gateway knew of no component there.
    lacking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Comes(usize),
    Reaches(Call),
    /// In the instance of the worker that began it.
    Ends(Call, u32),
    Answered(Call, Answer),
    Dies(usize),
    Lapses(usize),
    Returns(usize),
    /// For the first time, without anything compiled.
    Joins(usize),
    /// A gateway asks a worker to compile.
    Asked(usize, usize),
    Compiled(usize, usize),
    /// Its record, as all gateways see it, says that it holds the component.
    Says(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Done,
    NoRoom,
    Unreached,
    Lost,
}

#[derive(Clone, Copy)]
struct Worker {
    alive: bool,
    /// Renews its record, and takes no connection.
    hangs: bool,
    instance: u32,
    in_work: usize,
    slow: f64,
    /// When it has compiled the component, if it has begun to.
    compiled: Option<Duration>,
    begun: u64,
    refused: u64,
}

/// A worker as one gateway sees it.
#[derive(Clone)]
struct View {
    load: Load,
    holdings: Holdings,
    in_work: usize,
    member: bool,
    rests_until: Duration,
    /// When a connection that is being made will have failed.
    fails_at: Duration,
}

impl View {
    /// Of a worker that holds the component.
    fn new(now: Instant, component: Digest) -> Self {
        let mut view = Self::without(now);
        view.holdings.hear(&[component.prefix()]);
        view
    }

    fn without(now: Instant) -> Self {
        let (rests_until, fails_at) = (Duration::ZERO, Duration::ZERO);
        let holdings = Holdings::default();
        Self { load: Load::new(now), holdings, in_work: 0, member: true, rests_until, fails_at }
    }
}

struct World {
    draw: ChaCha8Rng,
    epoch: Instant,
    now: Duration,
    ends: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    workers: Vec<Worker>,
    views: Vec<Vec<View>>,
    all: Vec<usize>,
    component: Digest,
    /// By gateway, the workers that it has compile while no call waits for it.
    asked: Vec<usize>,
    /// Whether a dead worker's host refuses connections, or says nothing.
    refuses: bool,
    latencies: Vec<Duration>,
    /// Calls that waited for the component to be compiled.
    waited: usize,
    /// When calls were sent to workers that were gone.
    astray: Vec<Duration>,
    /// When users were told that there is no room, and that a call failed.
    full: Vec<Duration>,
    failed: Vec<Duration>,
}

impl World {
    fn new(seed: u64, ends: Duration, refuses: bool) -> Self {
        let (epoch, component) = (Instant::now(), Digest::of(b"component"));
        let worker = Worker {
            alive: true,
            hangs: false,
            instance: 0,
            in_work: 0,
            slow: 1.0,
            compiled: Some(Duration::ZERO),
            begun: 0,
            refused: 0,
        };
        let view = View::new(epoch, component);
        let mut world = Self {
            draw: ChaCha8Rng::seed_from_u64(seed),
            epoch,
            now: Duration::ZERO,
            ends,
            queue: BinaryHeap::new(),
            sequence: 0,
            workers: vec![worker; WORKERS],
            views: vec![vec![view; WORKERS]; GATEWAYS],
            all: (0..WORKERS).collect(),
            component,
            asked: vec![0; GATEWAYS],
            refuses,
            latencies: Vec::new(),
            waited: 0,
            astray: Vec::new(),
            full: Vec::new(),
            failed: Vec::new(),
        };
        (0..GATEWAYS).for_each(|gateway| world.next(gateway));
        world
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((time, self.sequence, event)));
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.draw.random::<f64>()).ln()
    }

    /// The next call of a gateway's users.
    fn next(&mut self, gateway: usize) {
        let rate = UTILISATION * (WORKERS * SLOTS) as f64 / MEAN_S / GATEWAYS as f64;
        let time = self.now + Duration::from_secs_f64(self.exponential(1.0 / rate));
        if time < self.ends {
            self.at(time, Event::Comes(gateway));
        }
    }

    /// Half of it short, the rest with a tail of some hundred milliseconds.
    fn service(&mut self, worker: usize) -> Duration {
        let long = self.draw.random_bool(0.2);
        let mean = if long { MEAN_S * 3.0 } else { MEAN_S * 0.5 };
        Duration::from_secs_f64(self.exponential(mean) * self.workers[worker].slow)
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((time, _, event))) = self.queue.peek().copied() {
            if time > until {
                break;
            }
            self.queue.pop();
            self.now = time;
            self.happen(event);
        }
        self.now = until;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Comes(gateway) => {
                self.next(gateway);
                self.send(gateway, 0, self.now);
            }
            Event::Reaches(call) => self.reaches(call),
            Event::Ends(call, instance) => {
                if self.workers[call.worker].instance == instance {
                    self.workers[call.worker].in_work -= 1;
                    self.at(self.now + NETWORK, Event::Answered(call, Answer::Done));
                } else {
                    // It died with it: a host that is there says so, a silent one is found out.
                    let known = if self.refuses { self.now } else { call.sent + SILENCE };
                    self.at(known.max(self.now), Event::Answered(call, Answer::Lost));
                }
            }
            Event::Answered(call, answer) => self.answered(call, answer),
            Event::Dies(worker) => {
                let worker = &mut self.workers[worker];
                (worker.alive, worker.instance, worker.in_work) = (false, worker.instance + 1, 0);
            }
            Event::Lapses(worker) => self.views.iter_mut().for_each(|views| views[worker].member = false),
            Event::Returns(worker) => {
                self.workers[worker].alive = true;
                let view = View::new(self.epoch + self.now, self.component);
                self.views.iter_mut().for_each(|views| views[worker] = view.clone());
            }
            Event::Joins(worker) => self.joins(worker),
            Event::Asked(gateway, worker) => {
                let compiled = self.compile(worker);
                self.at(compiled + NETWORK, Event::Compiled(gateway, worker));
            }
            Event::Compiled(gateway, worker) => {
                self.asked[gateway] -= 1;
                self.views[gateway][worker].holdings.answered(self.component);
            }
            Event::Says(worker) => {
                let said = [self.component.prefix()];
                self.views.iter_mut().for_each(|views| views[worker].holdings.hear(&said));
            }
        }
    }

    fn joins(&mut self, worker: usize) {
        let begins = &mut self.workers[worker];
        (begins.alive, begins.compiled) = (true, None);
        let view = View::without(self.epoch + self.now);
        self.views.iter_mut().for_each(|views| views[worker] = view.clone());
    }

    /// When a worker has compiled the component, which it begins unless it has begun already.
    fn compile(&mut self, worker: usize) -> Duration {
        if let Some(compiled) = self.workers[worker].compiled {
            return compiled.max(self.now);
        }
        let compiled = self.now + COMPILING;
        self.workers[worker].compiled = Some(compiled);
        let renewed = MEMBER_RENEWAL.mul_f64(self.draw.random::<f64>());
        self.at(compiled + renewed + NETWORK, Event::Says(worker));
        compiled
    }

    fn send(&mut self, gateway: usize, tries: u32, came: Duration) {
        let (views, draw, now) = (&self.views[gateway], &mut self.draw, self.now);
        let (component, instant) = (self.component, self.epoch + now);
        let holds = |worker: &usize| views[*worker].holdings.holds(component);
        let offer = |worker: &usize| {
            let view = &views[*worker];
            let takes = view.member && view.in_work < SLOTS && view.rests_until <= now;
            takes.then(|| view.load.offer(view.in_work, SLOTS, MEMORY_BYTES, instant))
        };
        let Some(Choice { taken, wanted }) = prefer(&self.all, holds, offer, |n| draw.random_range(0..n))
        else {
            self.full.push(now);
            return;
        };
        let (worker, wanted) = (*taken, wanted.copied());
        if let Some(wanted) = wanted {
            self.ask(gateway, wanted);
        }
        let lacking = !self.views[gateway][worker].holdings.holds(component);
        self.views[gateway][worker].in_work += 1;
        if !self.workers[worker].alive || self.workers[worker].hangs {
            self.astray.push(now);
        }
        let call = Call { gateway, worker, tries: tries + 1, came, sent: now, lacking };
        self.at(now + NETWORK, Event::Reaches(call));
    }

    fn ask(&mut self, gateway: usize, worker: usize) {
        let now = self.epoch + self.now;
        if self.asked[gateway] < ASKED_MAX && self.views[gateway][worker].holdings.ask(self.component, now) {
            self.asked[gateway] += 1;
            self.at(self.now + NETWORK, Event::Asked(gateway, worker));
        }
    }

    fn reaches(&mut self, call: Call) {
        let worker = &mut self.workers[call.worker];
        if !worker.alive {
            let (answer, after) =
                if self.refuses { (Answer::Unreached, NETWORK) } else { (Answer::Lost, SILENCE) };
            return self.at(self.now + after, Event::Answered(call, answer));
        }
        if worker.hangs {
            let view = &mut self.views[call.gateway][call.worker];
            // Who comes while a connection is being made waits for that one.
            if view.fails_at <= self.now {
                view.fails_at = self.now + CONNECT;
            }
            let known = view.fails_at;
            return self.at(known, Event::Answered(call, Answer::Unreached));
        }
        if worker.in_work >= SLOTS {
            worker.refused += 1;
            return self.at(self.now + NETWORK, Event::Answered(call, Answer::NoRoom));
        }
        worker.in_work += 1;
        worker.begun += 1;
        let instance = worker.instance;
        let ready = self.compile(call.worker);
        if ready > self.now {
            self.waited += 1;
        }
        let service = self.service(call.worker);
        self.at(ready + service, Event::Ends(call, instance));
    }

    fn answered(&mut self, call: Call, answer: Answer) {
        let view = &mut self.views[call.gateway][call.worker];
        view.in_work = view.in_work.saturating_sub(1);
        let now = self.epoch + self.now;
        match answer {
            Answer::Done => {
                if call.lacking {
                    view.holdings.answered(self.component);
                } else {
                    view.load.note(self.now - call.sent, now);
                }
                self.latencies.push(self.now - call.came);
            }
            Answer::Lost => {
                view.load.fail(self.now - call.sent, now);
                self.failed.push(self.now);
            }
            Answer::NoRoom | Answer::Unreached => {
                if answer == Answer::NoRoom {
                    view.load.refuse(now);
                } else {
                    view.load.fail(self.now - call.sent, now);
                    view.rests_until = self.now + REST;
                }
                if call.tries < TRIES_MAX {
                    self.send(call.gateway, call.tries, call.came);
                } else if answer == Answer::NoRoom {
                    self.full.push(self.now);
                } else {
                    self.failed.push(self.now);
                }
            }
        }
    }

    /// Begins to count anew.
    fn reset(&mut self) {
        self.workers.iter_mut().for_each(|worker| (worker.begun, worker.refused) = (0, 0));
        self.latencies.clear();
        self.waited = 0;
        self.full.clear();
        self.failed.clear();
        self.astray.clear();
    }

    /// Of the calls begun by some workers, the most over the mean.
    fn imbalance(&self, workers: impl Iterator<Item = usize> + Clone) -> f64 {
        let begun = workers.map(|worker| self.workers[worker].begun as f64);
        let (sum, count) = begun.clone().fold((0.0, 0.0), |(sum, count), n| (sum + n, count + 1.0));
        begun.fold(0.0, f64::max) / (sum / count)
    }

    /// Workers that have compiled the component.
    fn warm(&self) -> usize {
        let is_warm = |worker: &&Worker| worker.compiled.is_some_and(|compiled| compiled <= self.now);
        self.workers.iter().filter(is_warm).count()
    }

    fn percentile(&mut self, part: f64) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[((self.latencies.len() - 1) as f64 * part) as usize]
    }
}
