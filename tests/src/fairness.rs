// SPDX-License-Identifier: Apache-2.0
//! Two tenants and a thousand workers, which two cores cannot show: the very
//! choice that workers make, in virtual time, as discrete events.
//!
//! Each worker keeps its own virtual times and knows nothing of the others. Leases
//! of the two take times of different means, with a long tail. Everything is drawn
//! from a seed.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use fanfold_protocol::fair::{Fair, Service};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const WORKERS: usize = 1_000;
/// Leases at once in each.
const SLOTS: usize = 2;
/// How long a lease of each tenant takes, on the average.
const MEAN_S: [f64; 2] = [0.2, 2.0];

/// A tenant's part in it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its weight.
    pub weight: u32,
    /// Of all slots, as many as its leases would take; none for more than there are.
    pub asks: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Shares {
    /// Of all the time that slots ran, each tenant's part.
    pub parts: [f64; 2],
    /// Of all the time that slots were there, the part in which they ran.
    pub busy: f64,
    /// That the second tenant's leases waited, all but one in a hundred.
    pub wait_p99: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Comes(usize),
    Ends(usize, usize),
}

/// A service under way, and when it began.
type Running = (Service<usize>, Duration);

struct World {
    draw: ChaCha8Rng,
    loads: [Load; 2],
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    workers: Vec<Fair<usize>>,
    /// By worker and slot.
    running: Vec<Vec<Option<Running>>>,
    /// Slots that found nothing, the longest first.
    resting: Vec<(usize, usize)>,
    /// When the leases came that wait.
    waiting: [std::collections::VecDeque<Duration>; 2],
    spent: [Duration; 2],
    waits: Vec<Duration>,
    counts_from: Duration,
}

/// Runs two tenants for so long, and counts after a fifth of that.
pub fn shares(seed: u64, loads: [Load; 2], lasts: Duration) -> Shares {
    let mut fair = Fair::new();
    fair.set([(0, loads[0].weight), (1, loads[1].weight)]);
    let mut world = World {
        draw: ChaCha8Rng::seed_from_u64(seed),
        loads,
        now: Duration::ZERO,
        events: BinaryHeap::new(),
        sequence: 0,
        workers: vec![fair; WORKERS],
        running: (0..WORKERS).map(|_| (0..SLOTS).map(|_| None).collect()).collect(),
        resting: Vec::new(),
        waiting: Default::default(),
        spent: Default::default(),
        waits: Vec::new(),
        counts_from: lasts / 5,
    };
    (0..2).for_each(|tenant| world.next_lease(tenant));
    for worker in 0..WORKERS {
        (0..SLOTS).for_each(|slot| world.take(worker, slot));
    }
    world.run(lasts)
}

impl World {
    fn at(&mut self, time: Duration, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn exponential(&mut self, mean: f64) -> Duration {
        Duration::from_secs_f64(-mean * (1.0 - self.draw.random::<f64>()).ln())
    }

    fn next_lease(&mut self, tenant: usize) {
        let Some(asks) = self.loads[tenant].asks else { return };
        let rate = asks * (WORKERS * SLOTS) as f64 / MEAN_S[tenant];
        let time = self.now + self.exponential(1.0 / rate);
        self.at(time, Event::Comes(tenant));
    }

    fn run(mut self, until: Duration) -> Shares {
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if time > until {
                break;
            }
            self.now = time;
            match event {
                Event::Comes(tenant) => {
                    self.waiting[tenant].push_back(self.now);
                    self.next_lease(tenant);
                    if let Some((worker, slot)) = self.resting.pop() {
                        self.take(worker, slot);
                    }
                }
                Event::Ends(worker, slot) => {
                    if let Some((service, begun)) = self.running[worker][slot].take() {
                        let (tenant, cost) = (*service.member(), self.now - begun);
                        self.workers[worker].end(service, cost);
                        self.spent[tenant] += self.now.saturating_sub(begun.max(self.counts_from));
                    }
                    self.take(worker, slot);
                }
            }
        }
        for (service, begun) in self.running.iter().flatten().flatten() {
            self.spent[*service.member()] += until.saturating_sub((*begun).max(self.counts_from));
        }
        let spent = self.spent.map(|spent| spent.as_secs_f64());
        let all = spent[0] + spent[1];
        self.waits.sort_unstable();
        let wait_p99 = self.waits.get(self.waits.len() * 99 / 100).copied().unwrap_or_default();
        let there = (WORKERS * SLOTS) as f64 * (until - self.counts_from).as_secs_f64();
        Shares { parts: spent.map(|spent| spent / all), busy: all / there, wait_p99 }
    }

    /// A slot takes what comes next, as a worker does: it asks one queue after the other.
    fn take(&mut self, worker: usize, slot: usize) {
        let mut asked = [false; 2];
        let service = loop {
            let Some(service) = self.workers[worker].next(|tenant| !asked[*tenant]) else {
                return self.resting.push((worker, slot));
            };
            let tenant = *service.member();
            let came = match self.loads[tenant].asks {
                None => Some(self.now),
                Some(_) => self.waiting[tenant].pop_front(),
            };
            let Some(came) = came else {
                asked[tenant] = true;
                self.workers[worker].idle(service);
                continue;
            };
            if tenant == 1 && came >= self.counts_from {
                self.waits.push(self.now - came);
            }
            break service;
        };
        let mean = MEAN_S[*service.member()];
        let long = self.draw.random_bool(0.2);
        let takes = self.exponential(if long { mean * 3.0 } else { mean * 0.5 });
        self.running[worker][slot] = Some((service, self.now));
        self.at(self.now + takes, Event::Ends(worker, slot));
    }
}

/// How far the first tenant's part is from what the weights give it, as a part of that.
pub fn share_error(shares: &Shares, loads: [Load; 2]) -> f64 {
    let weights = loads.map(|load| f64::from(load.weight));
    let due = weights[0] / (weights[0] + weights[1]);
    (shares.parts[0] / due - 1.0).abs().max((shares.parts[1] / (1.0 - due) - 1.0).abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(60);

    fn seed() -> u64 {
        let seed =
            std::env::var("FANFOLD_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_128);
        println!("FANFOLD_SEED={seed}");
        seed
    }

    const fn greedy(weight: u32) -> Load {
        Load { weight, asks: None }
    }

    #[test]
    fn two_tenants_get_what_their_weights_say() {
        let seed = seed();
        for weights in [[1, 1], [2, 1], [1, 2], [1, 10]] {
            let loads = weights.map(greedy);
            let shares = shares(seed, loads, LASTS);
            let error = share_error(&shares, loads);
            println!(
                "{weights:?}: {:.4} and {:.4}, an error of {error:.4}",
                shares.parts[0], shares.parts[1]
            );
            assert!(error <= 0.05, "{shares:?}");
            assert!(shares.busy > 0.999, "{shares:?}");
        }
    }

    #[test]
    fn what_one_leaves_the_other_takes_and_a_loud_one_holds_up_nobody() {
        let seed = seed();
        let loads = [greedy(1), Load { weight: 1, asks: Some(0.1) }];
        let crowded = shares(seed, loads, LASTS);
        println!("{crowded:?}");
        assert!((0.08..0.12).contains(&crowded.parts[1]) && crowded.busy > 0.999, "{crowded:?}");
        // A slot becomes free somewhere every tenth of a millisecond or so.
        assert!(crowded.wait_p99 < Duration::from_millis(50), "{crowded:?}");
    }

    #[test]
    fn a_seed_replays() {
        let figures = || shares(7, [greedy(1), greedy(1)], Duration::from_secs(5)).parts;
        assert_eq!(figures(), figures());
    }
}
