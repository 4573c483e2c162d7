// SPDX-License-Identifier: Apache-2.0
//! Which worker takes a call: the better of two that were picked at random.
//!
//! Pure, with time and chance handed in, so that a simulation of a thousand
//! workers runs the very same code. A worker's load is what a call there may
//! cost: the peak of its answers' times, which fades, times the calls in work
//! («Peak EWMA», as Finagle has it; «The power of two choices in randomized load
//! balancing», Mitzenmacher 2001).

use std::time::{Duration, Instant};

/// How fast a peak fades: to a third within this.
const FADING: Duration = Duration::from_secs(10);
/// What an answer of a worker is taken to cost that has given none yet.
const UNKNOWN: Duration = Duration::from_millis(1);
/// What a call that failed is taken to have cost at least, so that silence is not cheap.
const FAILURE: Duration = Duration::from_secs(1);
/// For how long a worker that had no room is taken to have none: as long as its answers
/// take, at least and at most this.
const FULL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// What it is taken to cost that a component is compiled while a call waits for it: less than a
/// failure, so that who holds the component and fails is not preferred for it.
const COMPILING: Duration = Duration::from_millis(500);

/// What a worker's answers have taken of late.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    peak_s: f64,
    at: Instant,
    full_until: Instant,
    /// Until then it is full for calls that may take so much memory, or more.
    full_from_bytes: u64,
}

impl Load {
    /// Of a worker that has not answered yet.
    pub fn new(now: Instant) -> Self {
        Self { peak_s: UNKNOWN.as_secs_f64(), at: now, full_until: now, full_from_bytes: 0 }
    }

    /// Notes an answer: a slower one counts at once, a faster one little by little.
    pub fn note(&mut self, took: Duration, now: Instant) {
        let (found, faded) = (took.as_secs_f64(), self.faded(now));
        self.peak_s = if found >= self.peak_s { found } else { found + (self.peak_s - found) * faded };
        self.at = now;
    }

    /// Notes a call that came to nothing there: the worker was not reached, or was lost.
    pub fn fail(&mut self, took: Duration, now: Instant) {
        self.note(took.max(FAILURE), now);
    }

    /// Notes that there was no room for any call: all its slots are taken, by others' calls.
    pub fn refuse(&mut self, now: Instant) {
        self.refuse_from(0, now);
    }

    /// Notes that there was no room for a call that may take so much memory. That says nothing of
    /// calls that may take less, and nothing new where smaller ones find none.
    pub fn refuse_from(&mut self, memory_bytes: u64, now: Instant) {
        if now < self.full_until && self.full_from_bytes < memory_bytes {
            return;
        }
        let answer = Duration::from_secs_f64(self.peak_s * self.faded(now));
        self.full_until = now + answer.clamp(FULL.0, FULL.1);
        self.full_from_bytes = memory_bytes;
    }

    fn is_full(&self, memory_bytes: u64, now: Instant) -> bool {
        now < self.full_until && memory_bytes >= self.full_from_bytes
    }

    /// What one more call that may take so much memory costs beside those in work, of which there may be as
    /// many as there are `slots`.
    pub fn cost(&self, in_work: usize, slots: usize, memory_bytes: u64, now: Instant) -> f64 {
        let in_work = if self.is_full(memory_bytes, now) { slots.max(in_work) } else { in_work };
        let least = UNKNOWN.as_secs_f64() / 100.0;
        (self.peak_s * self.faded(now)).max(least) * (in_work + 1) as f64
    }

    /// What one more call finds there.
    pub fn offer(&self, in_work: usize, slots: usize, memory_bytes: u64, now: Instant) -> Offer {
        let cost = self.cost(in_work, slots, memory_bytes, now);
        Offer { cost, is_busy: in_work > 0, is_full: self.is_full(memory_bytes, now) }
    }

    fn faded(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        (-age / FADING.as_secs_f64()).exp()
    }
}

/// What one more call finds at a worker that has room for it.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// In seconds.
    pub cost: f64,
    /// It has calls in work.
    pub is_busy: bool,
    /// It had no room of late.
    pub is_full: bool,
}

/// Who takes a call.
#[derive(Debug)]
pub struct Choice<'a, T> {
    /// The call goes there.
    pub taken: &'a T,
    /// It would be better for calls like this one if this one held what they need, too.
    pub wanted: Option<&'a T>,
}

/// The better of two candidates that have room; of all, when neither has. `cost`
/// is none for one without room; `random` gives a number below another.
pub fn choose<'a, T>(
    candidates: &'a [T],
    cost: impl Fn(&T) -> Option<f64>,
    mut random: impl FnMut(usize) -> usize,
) -> Option<&'a T> {
    let better = |a: Option<(&'a T, f64)>, b: Option<(&'a T, f64)>| match (a, b) {
        (Some(a), Some(b)) => Some(if b.1 < a.1 { b } else { a }),
        (a, b) => a.or(b),
    };
    let priced = |candidate: &'a T| cost(candidate).map(|cost| (candidate, cost));
    let count = candidates.len();
    if count > 2 {
        let first = random(count);
        // Another one, each with the same chance.
        let second = (first + 1 + random(count - 1)) % count;
        let found = better(priced(&candidates[first]), priced(&candidates[second]));
        if let Some((candidate, _)) = found {
            return Some(candidate);
        }
    }
    let found = candidates.iter().map(priced).fold(None, better);
    found.map(|(candidate, _)| candidate)
}

/// As [`choose`], but where that one would have to compile what the call needs, one that
/// holds it goes first, unless it is full or costs more than compiling does.
///
/// So that calls spread all the same, the other one is wanted once those that hold it
/// have calls in work and it is cheaper.
pub fn prefer<'a, T>(
    candidates: &'a [T],
    holds: impl Fn(&T) -> bool,
    offer: impl Fn(&T) -> Option<Offer>,
    mut random: impl FnMut(usize) -> usize,
) -> Option<Choice<'a, T>> {
    let cost = |candidate: &T| offer(candidate).map(|offer| offer.cost);
    let found = choose(candidates, cost, &mut random)?;
    let found_alone = Some(Choice { taken: found, wanted: None });
    if holds(found) {
        return found_alone;
    }
    let ready = |candidate: &T| offer(candidate).filter(|offer| !offer.is_full).map(|offer| offer.cost);
    let holding = |candidate: &T| if holds(candidate) { ready(candidate) } else { None };
    let Some(holder) = choose(candidates, holding, random) else { return found_alone };
    let (Some(held), Some(other)) = (offer(holder), offer(found)) else { return found_alone };
    if held.cost > other.cost + COMPILING.as_secs_f64() {
        return found_alone;
    }
    let wanted = (held.is_busy && other.cost < held.cost).then_some(found);
    Some(Choice { taken: holder, wanted })
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn peaks_count_at_once_and_fade() {
        let begun = Instant::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        let mut load = Load::new(begun);
        load.note(Duration::from_millis(100), at(1));
        assert!((load.cost(0, 8, MIB, at(1)) - 0.1).abs() < 1e-9);
        assert!((load.cost(3, 8, MIB, at(1)) - 0.4).abs() < 1e-9);
        assert!(load.cost(0, 8, MIB, at(11)) < 0.04);
        load.note(Duration::from_millis(10), at(2));
        let cost = load.cost(0, 8, MIB, at(2));
        assert!(cost > 0.01 && cost < 0.1, "{cost}");
        (3..100).for_each(|s| load.note(Duration::from_millis(10), at(s)));
        assert!((load.cost(0, 8, MIB, at(99)) - 0.01).abs() < 1e-3);
    }

    #[test]
    fn who_fails_is_not_cheap_and_who_has_no_room_is_not_for_a_while() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        // A quick failure counts as a slow answer, a slow one as it is.
        for (took, expected) in [(1, 1.0), (3_000, 3.0)] {
            let mut load = Load::new(begun);
            load.fail(Duration::from_millis(took), at(5));
            assert!((load.cost(0, 8, MIB, at(5)) - expected).abs() < 1e-9, "{took}");
            assert!(load.cost(0, 8, MIB, at(10_005)) > expected / 3.0, "{took}");
        }
        let mut load = Load::new(begun);
        load.note(Duration::from_millis(100), at(0));
        load.refuse(at(0));
        assert!((load.cost(0, 8, MIB, at(0)) - 0.9).abs() < 1e-9);
        assert!(load.cost(0, 8, MIB, at(99)) > 0.8);
        assert!(load.cost(0, 8, MIB, at(101)) < 0.1);
        // However fast its answers were, or slow.
        let mut load = Load::new(begun);
        load.refuse(at(0));
        assert!(load.cost(0, 8, MIB, at(9)) > 8.0 * load.cost(0, 8, MIB, at(11)));
        load.note(Duration::from_secs(60), at(20));
        load.refuse(at(20));
        assert!(load.cost(0, 8, MIB, at(1_019)) > 5.0 * load.cost(0, 8, MIB, at(1_021)));
    }

    #[test]
    fn who_has_no_room_for_much_memory_has_room_for_less() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut load = Load::new(begun);
        load.note(Duration::from_millis(100), at(0));
        let check = |load: &Load, ms: u64, sizes: [u64; 3], expected: [bool; 3]| {
            let offers = sizes.map(|mib| load.offer(0, 8, mib * MIB, at(ms)));
            assert_eq!(offers.map(|offer| offer.is_full), expected, "{ms}");
            assert_eq!(offers.map(|offer| offer.cost > 0.5), expected, "{ms}");
        };
        load.refuse_from(256 * MIB, at(0));
        check(&load, 50, [255, 256, 4_096], [false, true, true]);
        // A smaller one finds none either, and what larger ones find changes nothing of that.
        load.refuse_from(64 * MIB, at(50));
        load.refuse_from(512 * MIB, at(140));
        check(&load, 145, [63, 64, 4_096], [false, true, true]);
        check(&load, 152, [63, 64, 4_096], [false; 3]);
        load.refuse_from(512 * MIB, at(152));
        check(&load, 153, [256, 512, 4_096], [false, true, true]);
        // Without a free slot nobody finds room.
        load.refuse(at(154));
        check(&load, 155, [0, 4, 4_096], [true; 3]);
    }

    /// Of a worker that one test is about.
    #[derive(Clone, Copy, Debug)]
    struct Candidate {
        cost_ms: u32,
        holds: bool,
        is_busy: bool,
        is_full: bool,
    }

    const COLD: Candidate = Candidate { cost_ms: 1, holds: false, is_busy: false, is_full: false };
    const WARM: Candidate = Candidate { holds: true, ..COLD };
    /// Without room.
    const NONE: u32 = u32::MAX;

    /// Who takes calls, and who is wanted, of 200 choices.
    fn preferred(candidates: &[Candidate]) -> (Vec<usize>, Vec<usize>) {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let places: Vec<usize> = (0..candidates.len()).collect();
        let (mut taken, mut wanted) = (vec![false; candidates.len()], vec![false; candidates.len()]);
        for _ in 0..200 {
            let offer = |at: &usize| {
                let Candidate { cost_ms, is_busy, is_full, .. } = candidates[*at];
                (cost_ms != NONE).then(|| Offer { cost: f64::from(cost_ms) / 1e3, is_busy, is_full })
            };
            let holds = |at: &usize| candidates[*at].holds;
            let choice = prefer(&places, holds, offer, |n| random.random_range(0..n)).unwrap();
            taken[*choice.taken] = true;
            choice.wanted.into_iter().for_each(|at| wanted[*at] = true);
        }
        let places = |found: Vec<bool>| -> Vec<usize> { (0..found.len()).filter(|at| found[*at]).collect() };
        (places(taken), places(wanted))
    }

    #[test]
    fn who_holds_it_goes_first_unless_compiling_is_cheaper() {
        let check = |candidates: &[Candidate], expected: &[usize]| {
            assert_eq!(preferred(candidates).0, expected, "{candidates:?}");
        };
        let cost = |cost_ms: u32, candidate: Candidate| Candidate { cost_ms, ..candidate };
        check(&[COLD, cost(499, WARM), COLD, COLD, COLD], &[1]);
        check(&[COLD, cost(502, WARM)], &[0]);
        check(&[COLD, cost(NONE, WARM)], &[0]);
        check(&[COLD, Candidate { is_full: true, ..WARM }], &[0]);
        check(&[COLD, COLD], &[0]);
        check(&[cost(9, WARM), cost(9, WARM), cost(9, COLD), cost(9, WARM)], &[0, 1, 3]);
        check(&[COLD; 4], &[0, 1, 2, 3]);
    }

    #[test]
    fn who_lacks_it_is_wanted_once_the_others_have_calls_in_work() {
        let check = |candidates: &[Candidate], expected: &[usize]| {
            assert_eq!(preferred(candidates).1, expected, "{candidates:?}");
        };
        let busy = Candidate { cost_ms: 2, is_busy: true, ..WARM };
        check(&[COLD, busy, COLD], &[0, 2]);
        check(&[COLD, WARM, COLD], &[]);
        check(&[Candidate { cost_ms: 3, ..COLD }, busy], &[]);
        // Whoever takes the call compiles it anyway.
        check(&[COLD, Candidate { is_full: true, ..busy }], &[]);
        // Where one that holds it is found, nothing more is looked for.
        check(&[busy, busy], &[]);
    }

    #[test]
    fn who_has_room_is_found_and_nobody_is_nobody() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let candidates: Vec<usize> = (0..100).collect();
        for wanted in [0, 50, 99] {
            let cost = |n: &usize| (*n == wanted).then_some(1.0);
            assert_eq!(choose(&candidates, cost, |n| random.random_range(0..n)), Some(&wanted));
        }
        assert_eq!(choose(&candidates, |_| None, |n| random.random_range(0..n)), None);
        assert_eq!(choose(&[], |_: &u8| Some(1.0), |_| 0), None);
        assert_eq!(choose(&[3.0, 2.0], |n: &f64| Some(*n), |_| 0), Some(&2.0));
    }
}
