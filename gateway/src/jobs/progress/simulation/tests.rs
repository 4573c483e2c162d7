// SPDX-License-Identifier: Apache-2.0
//! What the model shows.

use std::{ops::Range, time::Duration};

use fanfold_protocol::{
    commit::AnswerRef,
    plan::{GROUP_BYTES_TARGET, Weight},
};
use rand::RngExt;
use serde_json::json;

use super::{Attempt, Event, Job, Lost, WORKERS, World, ms, place, s, worker::LEASE};

/// Of a job, each of a second or so: more than half a minute of all workers' time.
const TASKS: usize = 40_000;
/// Longer than any job takes.
const LATE: Duration = s(600);
const IMBALANCE_MAX: f64 = 1.25;
/// Of all leases, begun a second time at most.
const SECONDS_ONE_IN: usize = 50;

/// Partitions of which `each` make a lease.
fn partitions(each: u64) -> Vec<Weight> {
    vec![Weight { bytes: GROUP_BYTES_TARGET / each, document: 200 }; TASKS]
}

fn seed() -> u64 {
    let seed = std::env::var("FANFOLD_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_123);
    println!("FANFOLD_SEED={seed}");
    seed
}

impl World {
    /// Loses the first `count` workers and all coordinators at once: every second worker
    /// is gone, the others stand still for about a lease and go on with what they had.
    fn lose(&mut self, count: usize) {
        for (number, worker) in self.workers.iter_mut().take(count).enumerate() {
            if number % 2 == 0 {
                worker.alive = false;
            } else {
                worker.wakes = self.now + ms(self.draw.random_range(20_000..40_000));
            }
        }
        let held = self.attempts.iter().filter(|attempt| attempt.worker < count && !attempt.settled);
        let held = held.map(|held| (held.job, place(&self.jobs[held.job].messages[held.message].spec)));
        self.lost = held.map(|key| (key, Lost::default())).collect();
        for job in 0..self.jobs.len() {
            self.jobs[job].is_coordinated = false;
            self.at(self.now + self.config.tenure + self.config.scan, Event::TakesOver(job));
        }
    }

    fn second_attempts(&self) -> usize {
        self.jobs.iter().flat_map(|job| &job.messages).filter(|message| message.second).count()
    }

    /// Checks that a job has ended and every task had one effect, in its place.
    fn check_effects(&self, job: usize) {
        let Job { progress, commits, ended, .. } = &self.jobs[job];
        assert!(ended.is_some(), "{:?}", progress.counts());
        let plan = progress.plan();
        let committed: usize = commits.values().map(|commit| commit.tasks.len()).sum();
        assert_eq!((committed as u64, progress.counts().done), (plan.tasks(), plan.tasks()));
        let answer = json!([0, plan.partitions]).to_string().try_into().unwrap();
        assert_eq!(progress.answer(), Some(&AnswerRef::Inline(answer)));
    }

    /// Of the tasks that some workers committed, the most over the mean.
    fn imbalance(&self, workers: Range<usize>) -> f64 {
        let counts = self.workers[workers].iter().map(|worker| worker.committed as f64);
        let mean = counts.clone().sum::<f64>() / counts.len() as f64;
        counts.fold(0.0, f64::max) / mean
    }

    /// The time that a job's attempts ran within a window.
    fn ran(&self, job: usize, from: Duration, to: Duration) -> f64 {
        let attempts = self.attempts.iter().filter(|attempt| attempt.job == job);
        let within = attempts.filter_map(|Attempt { began, ended, .. }| {
            let ended = ended.unwrap_or(to).min(to);
            Some(ended.saturating_sub((*began)?.max(from)).as_secs_f64())
        });
        within.sum()
    }
}

#[test]
fn leases_are_spread_evenly_and_stragglers_are_overtaken() {
    let seed = seed();
    let [without, with] = [false, true].map(|speculates| {
        let mut world = World::new(seed, &[partitions(1)], speculates, Duration::ZERO);
        world.run(LATE);
        world.check_effects(0);
        let (imbalance, seconds) = (world.imbalance(0..WORKERS), world.second_attempts());
        println!(
            "speculation {speculates}: busiest {imbalance:.3} x the mean, {seconds} second attempts, all done \
             after {:?}",
            world.now
        );
        assert!(imbalance <= IMBALANCE_MAX, "{imbalance}");
        assert_eq!(seconds > 0, speculates);
        assert!(seconds * SECONDS_ONE_IN <= TASKS, "{seconds}");
        world.now
    });
    assert!(with < without, "{with:?} {without:?}");
}

/// The coordinator is lost with them.
#[test]
fn what_a_lost_tenth_held_is_committed_elsewhere() {
    let seed = seed();
    for speculates in [false, true] {
        let mut world = World::new(seed, &[partitions(1)], speculates, Duration::ZERO);
        world.run(s(8));
        let (lost_at, lost) = (world.now, WORKERS / 10);
        world.lose(lost);
        world.run(LATE);
        world.check_effects(0);
        let after = |time: Option<Duration>| time.map_or(Duration::ZERO, |time| time - lost_at);
        let restarted = after(world.lost.values().filter_map(|lost| lost.restarted).max());
        let committed = after(world.lost.values().filter_map(|lost| lost.committed).max());
        let (seconds, imbalance) = (world.second_attempts(), world.imbalance(lost..WORKERS));
        println!(
            "speculation {speculates}: of {} leases that {lost} workers held the last was with another one \
             after {restarted:?} and committed after {committed:?}; the longest attempt takes {:?}; {seconds} \
             second attempts, {} came after another one; busiest {imbalance:.3} x the mean; all done after {:?}",
            world.lost.len(),
            world.longest,
            world.overtaken,
            world.now
        );
        assert!(world.lost.len() >= lost && world.lost.values().all(|lost| lost.committed.is_some()));
        assert!(restarted <= LEASE + s(5), "{restarted:?}");
        assert!(committed <= LEASE + s(5) + world.longest, "{committed:?}");
        // Whoever stood still went on with a lease that had lapsed.
        assert!(world.overtaken > 0);
        assert!(imbalance <= IMBALANCE_MAX, "{imbalance}");
        assert_eq!(seconds > 0, speculates);
        assert!(seconds * SECONDS_ONE_IN <= TASKS, "{seconds}");
    }
}

#[test]
fn tenants_have_equal_shares_however_long_their_leases_are() {
    let mut world = World::new(seed(), &[partitions(1), partitions(4)], true, s(8));
    // Once all workers have come and know what leases take.
    let (from, to) = (s(30), s(60));
    world.run(to);
    assert!(world.jobs.iter().all(|job| job.ended.is_none() && !job.ready.is_empty()));
    let [one, other] = [0, 1].map(|job| world.ran(job, from, to));
    let error = (one - other).abs() / (one + other);
    println!("{one:.0} s of one tenant and {other:.0} s of the other: an error of {error:.4}");
    assert!(error <= 0.05, "{error}");
}

#[test]
fn a_seed_replays() {
    let figures = || {
        let mut world = World::new(7, &[partitions(1)], true, s(1));
        world.run(s(10));
        (world.attempts.len(), world.jobs[0].commits.len(), world.now, world.longest)
    };
    assert_eq!(figures(), figures());
}
