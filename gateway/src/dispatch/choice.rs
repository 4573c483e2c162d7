// SPDX-License-Identifier: Apache-2.0
//! Which worker takes a call: the better of two that were picked at random.
//!
//! Pure, with time and chance handed in, so that a simulation of a thousand
//! workers runs the very same code. A worker's load is what a call there may
//! cost: the peak of its answers' times, which fades, times the calls in work
//! («Peak EWMA», as Finagle has it; «The power of two choices in randomized load
//! balancing», Mitzenmacher 2001).

use std::time::{Duration, Instant};

use fanfold_protocol::worker::PREFERENCE;

/// How fast a peak fades: to a third within this.
const FADING: Duration = Duration::from_secs(10);
/// What an answer of a worker is taken to cost that has given none yet.
const UNKNOWN: Duration = Duration::from_millis(1);
/// What a call that failed is taken to have cost at least, so that silence is not cheap.
const FAILURE: Duration = Duration::from_secs(1);
/// For how long a worker that had no room is taken to have none: as long as its answers
/// take, at least and at most this.
const FULL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a worker's answers have taken of late.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    peak_s: f64,
    at: Instant,
    full_until: Instant,
}

impl Load {
    /// Of a worker that has not answered yet.
    pub fn new(now: Instant) -> Self {
        Self { peak_s: UNKNOWN.as_secs_f64(), at: now, full_until: now }
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

    /// Notes that there was no room: all its slots are taken, by others' calls.
    pub fn refuse(&mut self, now: Instant) {
        let answer = Duration::from_secs_f64(self.peak_s * self.faded(now));
        self.full_until = now + answer.clamp(FULL.0, FULL.1);
    }

    /// What one more call costs beside those in work, of which there may be as many as there are `slots`.
    pub fn cost(&self, in_work: usize, slots: usize, now: Instant) -> f64 {
        let in_work = if now < self.full_until { slots.max(in_work) } else { in_work };
        let least = UNKNOWN.as_secs_f64() / 100.0;
        (self.peak_s * self.faded(now)).max(least) * (in_work + 1) as f64
    }

    fn faded(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        (-age / FADING.as_secs_f64()).exp()
    }
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

/// As [`choose`], but one that holds what the call needs goes first, unless the
/// other is cheaper by more than [`PREFERENCE`].
pub fn prefer<T>(
    candidates: &[T],
    holds: impl Fn(&T) -> bool,
    cost: impl Fn(&T) -> Option<f64>,
    mut random: impl FnMut(usize) -> usize,
) -> Option<&T> {
    let found = choose(candidates, &cost, &mut random)?;
    if holds(found) {
        return Some(found);
    }
    let holding = |candidate: &T| if holds(candidate) { cost(candidate) } else { None };
    let holder = choose(candidates, holding, random);
    let within = |holder: &&T| {
        cost(holder).zip(cost(found)).is_some_and(|(held, other)| held <= other + PREFERENCE.as_secs_f64())
    };
    holder.filter(within).or(Some(found))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn peaks_count_at_once_and_fade() {
        let begun = Instant::now();
        let at = |s: u64| begun + Duration::from_secs(s);
        let mut load = Load::new(begun);
        load.note(Duration::from_millis(100), at(1));
        assert!((load.cost(0, 8, at(1)) - 0.1).abs() < 1e-9);
        assert!((load.cost(3, 8, at(1)) - 0.4).abs() < 1e-9);
        assert!(load.cost(0, 8, at(11)) < 0.04);
        load.note(Duration::from_millis(10), at(2));
        let cost = load.cost(0, 8, at(2));
        assert!(cost > 0.01 && cost < 0.1, "{cost}");
        (3..100).for_each(|s| load.note(Duration::from_millis(10), at(s)));
        assert!((load.cost(0, 8, at(99)) - 0.01).abs() < 1e-3);
    }

    #[test]
    fn who_fails_is_not_cheap_and_who_has_no_room_is_not_for_a_while() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        // A quick failure counts as a slow answer, a slow one as it is.
        for (took, expected) in [(1, 1.0), (3_000, 3.0)] {
            let mut load = Load::new(begun);
            load.fail(Duration::from_millis(took), at(5));
            assert!((load.cost(0, 8, at(5)) - expected).abs() < 1e-9, "{took}");
            assert!(load.cost(0, 8, at(10_005)) > expected / 3.0, "{took}");
        }
        let mut load = Load::new(begun);
        load.note(Duration::from_millis(100), at(0));
        load.refuse(at(0));
        assert!((load.cost(0, 8, at(0)) - 0.9).abs() < 1e-9);
        assert!(load.cost(0, 8, at(99)) > 0.8);
        assert!(load.cost(0, 8, at(101)) < 0.1);
        // However fast its answers were, or slow.
        let mut load = Load::new(begun);
        load.refuse(at(0));
        assert!(load.cost(0, 8, at(9)) > 8.0 * load.cost(0, 8, at(11)));
        load.note(Duration::from_secs(60), at(20));
        load.refuse(at(20));
        assert!(load.cost(0, 8, at(1_019)) > 5.0 * load.cost(0, 8, at(1_021)));
    }

    #[test]
    fn who_holds_it_goes_first_within_50_ms_and_then_anyone() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        // Costs in ms, and whether it holds the component.
        let mut check = |candidates: &[(u32, bool)], expected: &[usize]| {
            let mut found = vec![0; candidates.len()];
            let places: Vec<usize> = (0..candidates.len()).collect();
            for _ in 0..200 {
                let cost = |at: &usize| match candidates[*at].0 {
                    u32::MAX => None,
                    ms => Some(f64::from(ms) / 1e3),
                };
                let holds = |at: &usize| candidates[*at].1;
                found[*prefer(&places, holds, cost, |n| random.random_range(0..n)).unwrap()] += 1;
            }
            let chosen: Vec<usize> = (0..found.len()).filter(|at| found[*at] > 0).collect();
            assert_eq!(chosen, expected, "{candidates:?}: {found:?}");
        };
        check(&[(1, false), (49, true), (1, false), (1, false), (1, false)], &[1]);
        check(&[(1, false), (52, true)], &[0]);
        check(&[(1, false), (u32::MAX, true)], &[0]);
        check(&[(1, false), (1, false)], &[0]);
        check(&[(9, true), (9, true), (9, false), (9, true)], &[0, 1, 3]);
        check(&[(1, false); 4], &[0, 1, 2, 3]);
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
