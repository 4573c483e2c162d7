// SPDX-License-Identifier: Apache-2.0
//! What the simulated deployment shows, in figures that are printed.

use fanfold_protocol::worker::MEMBER_LEASE;

use super::*;

fn seed() -> u64 {
    let seed = std::env::var("FANFOLD_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_123);
    println!("FANFOLD_SEED={seed}");
    seed
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_thousand_workers_are_loaded_evenly() {
    let mut world = World::new(seed(), s(12), true);
    world.run(s(2));
    world.reset();
    world.run(s(12));
    let imbalance = world.imbalance(0..WORKERS);
    let refused: u64 = world.workers.iter().map(|worker| worker.refused).sum();
    let calls = world.latencies.len();
    let p99 = world.percentile(0.99);
    println!("{calls} calls: busiest {imbalance:.3} x the mean, {refused} refused once, p99 {p99:?}");
    assert!(imbalance <= 1.25, "{imbalance}");
    assert!(world.failed.is_empty() && world.full.len() * 1_000 < calls, "{} of {calls}", world.full.len());
}

/// As after a deployment that all calls turn to at once.
#[test]
fn what_one_worker_holds_is_soon_everybodys() {
    let mut world = World::new(seed(), s(14), true);
    (1..WORKERS).for_each(|worker| world.joins(worker));
    world.run(s(4));
    let (warm, waited, full) = (world.warm(), world.waited, world.full.len());
    println!("{warm} workers hold it after 4 s; {waited} calls waited for it, {full} found no room");
    assert!(warm * 100 >= WORKERS * 99, "{warm}");
    world.reset();
    world.run(s(14));
    let imbalance = world.imbalance(0..WORKERS);
    let calls = world.latencies.len();
    println!("then {calls} calls: busiest {imbalance:.3} x the mean");
    assert!(imbalance <= 1.25, "{imbalance}");
    assert!(world.full.len() * 1_000 < calls, "{} of {calls}", world.full.len());
}

/// One in ten is added, with an empty cache.
#[test]
fn workers_that_join_compile_before_they_are_called() {
    const JOINING: usize = WORKERS / 10;
    let mut world = World::new(seed(), s(18), true);
    for worker in 0..JOINING {
        world.at(s(0), Event::Dies(worker));
        world.at(s(0), Event::Lapses(worker));
        world.at(s(3), Event::Joins(worker));
    }
    world.run(s(3));
    world.reset();
    world.run(s(6));
    let (calls, waited, warm) = (world.latencies.len(), world.waited, world.warm());
    println!("{waited} of {calls} calls waited for the compiler; {warm} workers hold it after 3 s");
    assert!(waited * 200 < calls, "{waited} of {calls}");
    world.run(s(8));
    assert_eq!(world.warm(), WORKERS);
    world.reset();
    world.run(s(18));
    let imbalance = world.imbalance(0..WORKERS);
    println!("then busiest {imbalance:.3} x the mean");
    assert!(imbalance <= 1.25, "{imbalance}");
}

#[test]
fn slow_workers_get_less() {
    let mut world = World::new(seed(), s(12), true);
    const SLOW: usize = WORKERS / 20;
    world.workers[..SLOW].iter_mut().for_each(|worker| worker.slow = 3.0);
    world.run(s(4));
    world.reset();
    world.run(s(12));
    let mean = |from: usize, to: usize| {
        world.workers[from..to].iter().map(|worker| worker.begun as f64).sum::<f64>() / (to - from) as f64
    };
    let share = mean(0, SLOW) / mean(SLOW, WORKERS);
    println!("workers that are 3 times slower get {share:.2} of the others' calls");
    assert!(share < 0.75, "{share}");
    assert!(world.imbalance(SLOW..WORKERS) <= 1.25);
}

/// One in ten is lost at once; once where its host refuses connections, once where
/// it is silent.
#[test]
fn the_loss_of_a_tenth_is_over_with_its_lease_and_their_return_floods_nobody() {
    for refuses in [true, false] {
        let mut world = World::new(seed(), s(24), refuses);
        world.run(s(3));
        world.reset();
        let lost = WORKERS / 10;
        for worker in 0..lost {
            world.at(s(3), Event::Dies(worker));
            // Renewals are spread over a second.
            let renewed = world.draw.random_range(0..1_000);
            world.at(s(3) + MEMBER_LEASE - Duration::from_millis(renewed), Event::Lapses(worker));
        }
        world.run(s(14));
        let after = |times: &[Duration]| times.iter().max().map_or(Duration::ZERO, |last| *last - s(3));
        let (astray, failed) = (after(&world.astray), after(&world.failed));
        let total = world.latencies.len() + world.failed.len();
        let share = world.failed.len() as f64 / total as f64;
        println!(
            "refuses {refuses}: {} calls failed ({share:.4}), the last after {failed:?}; none was sent astray after {astray:?}",
            world.failed.len()
        );
        assert!(astray <= MEMBER_LEASE, "{astray:?}");
        assert!(failed <= MEMBER_LEASE + s(5), "{failed:?}");
        world.reset();
        (0..lost).for_each(|worker| world.at(s(14), Event::Returns(worker)));
        world.run(s(16));
        let mean = |world: &World, from: usize, to: usize| {
            world.workers[from..to].iter().map(|worker| worker.begun as f64).sum::<f64>() / (to - from) as f64
        };
        let early = mean(&world, 0, lost) / mean(&world, lost, WORKERS);
        let refused: u64 = world.workers[..lost].iter().map(|worker| worker.refused).sum();
        let begun: u64 = world.workers[..lost].iter().map(|worker| worker.begun).sum();
        world.reset();
        world.run(s(24));
        let late = mean(&world, 0, lost) / mean(&world, lost, WORKERS);
        println!(
            "returned: {early:.2} of the others' calls in 2 s with {refused} of {begun} refused once, then {late:.2}"
        );
        assert!(early < 2.0 && refused < begun, "{early} {refused} of {begun}");
        assert!((0.8..1.25).contains(&late), "{late}");
    }
}

/// As where a network lets gateways' packets vanish: the record is renewed all the same.
#[test]
fn workers_that_hang_are_tried_once_and_then_seldom() {
    let mut world = World::new(seed(), s(10), true);
    const HANGING: usize = WORKERS / 20;
    world.workers[..HANGING].iter_mut().for_each(|worker| worker.hangs = true);
    let pairs = (GATEWAYS * HANGING) as f64;
    world.run(s(5));
    let first = world.astray.len() as f64 / pairs;
    world.reset();
    world.run(s(10));
    let then = world.astray.len() as f64 / pairs;
    println!(
        "sent to a worker that hangs, by each gateway: {first:.2} in 5 s, then {then:.2} in 5 s; {} of {} failed",
        world.failed.len(),
        world.latencies.len()
    );
    assert!(then < 1.0 && then * 3.0 < first, "{first} {then}");
    assert!(world.failed.len() * 1_000 < world.latencies.len(), "{}", world.failed.len());
}

#[test]
fn a_seed_replays() {
    let figures = || {
        let mut world = World::new(7, s(1), true);
        world.run(s(1));
        (world.latencies.len(), world.percentile(0.5), world.workers.iter().map(|worker| worker.begun).max())
    };
    assert_eq!(figures(), figures());
}
