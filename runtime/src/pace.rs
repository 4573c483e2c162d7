// SPDX-License-Identifier: Apache-2.0
//! Which calls may begin on the thread that asks for them.
//!
//! To hand a call over to a guest thread and its answer back costs as much as a
//! small function. A function that was brief of late therefore begins where it is
//! called, and goes on on the guest threads when it waits, or is still at work at
//! the next tick. Invariant: who was not brief keeps a thread that answers people
//! for one tick at most, and then not again before its [`Pace`] has rested.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fanfold_protocol::time::whole_ms;

/// Calls that keep a thread for longer in the mean are not brief.
const BRIEF: Duration = Duration::from_micros(500);
/// The weight of a call in the mean is one in so many: one of 4 ms is enough to pass the bound, one of 2 ms,
/// as a busy machine makes it of any call now and then, is not.
const WEIGHT: u64 = 8;
/// For how long a component is not trusted after the mean was above the bound.
pub(crate) const COMPONENT_REST: Duration = Duration::from_secs(1);
/// For how long none is, after one that began on the thread that asked: so that
/// many functions that are brief in turns keep a tenth of those threads at most.
pub(crate) const PROCESS_REST: Duration = Duration::from_millis(100);

/// How calls went of late.
pub(crate) struct Pace {
    rest: Duration,
    /// Nanoseconds that a call keeps its thread; the last ones count most.
    mean: AtomicU64,
    /// Milliseconds of the process; until then nothing begins on the thread that asks.
    rests_until: AtomicU64,
}

impl Pace {
    /// Nothing is known yet, so it rests first.
    pub(crate) fn new(rest: Duration, now: Instant) -> Self {
        let pace = Self { rest, mean: AtomicU64::new(0), rests_until: AtomicU64::new(0) };
        pace.rest(now);
        pace
    }

    /// Whether calls were brief for long enough.
    pub(crate) fn is_brief(&self, now: Instant) -> bool {
        self.rests_until.load(Relaxed) < millis(now)
    }

    /// Notes for how long a call kept its thread.
    pub(crate) fn note(&self, busy: Duration, now: Instant) {
        let (mean, busy) = (self.mean.load(Relaxed), u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX));
        let mean = mean - mean / WEIGHT + busy / WEIGHT;
        // Of two that come at once one may be lost, which the next makes up for.
        self.mean.store(mean, Relaxed);
        if u128::from(mean) > BRIEF.as_nanos() {
            self.rest(now);
        }
    }

    fn rest(&self, now: Instant) {
        self.rests_until.fetch_max(millis(now + self.rest), Relaxed);
    }
}

fn millis(now: Instant) -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    whole_ms(now.saturating_duration_since(*BEGUN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_brief_rests() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let pace = Pace::new(COMPONENT_REST, begun);
        let check = |ms: u64, brief: bool| assert_eq!(pace.is_brief(at(ms)), brief, "{ms}");
        check(0, false);
        check(999, false);
        check(1_002, true);
        pace.note(BRIEF * 4, at(1_500));
        check(1_500, true);
        pace.note(BRIEF * 10, at(2_000));
        check(2_999, false);
        // What is noted late takes nothing back.
        pace.note(BRIEF * 10, at(1_000));
        check(2_999, false);
        check(3_002, true);
        // Brief calls make up for it, little by little.
        pace.note(Duration::ZERO, at(3_500));
        check(4_000, false);
        (0..30).for_each(|_| pace.note(Duration::ZERO, at(3_500)));
        pace.note(BRIEF, at(5_000));
        check(5_000, true);
    }
}
