// SPDX-License-Identifier: Apache-2.0
//! How long a coordinator waits: before it looks at a quiet job, and before leases count as lost.
//!
//! Pure; time is an argument. Invariant: what waits its turn in the queue, behind leases of others,
//! and what has just been queued, is not lost. A lease that is queued again though it was not lost
//! does no harm, but may be worked on twice.

use std::time::{Duration, Instant};

use fanfold_backbone::Depth;

/// The longest time between two looks.
const QUIET_MAX: Duration = Duration::from_secs(15);
/// Looks in vain, with an empty queue, before leases count as lost.
const VAIN_LOOKS_MAX: u32 = 2;
/// How many times as long nothing may be heard while the queue is not worked off.
const BEHIND_OTHERS: u32 = 12;

/// What is waited for in one job.
#[derive(Debug)]
pub struct Patience {
    /// The shortest time between two looks.
    watchdog: Duration,
    /// How long nobody may tell of a lease at first.
    lost: Duration,
    heard: Instant,
    quiet: Duration,
    vain_looks: u32,
    /// When something was committed or queued.
    moved: Instant,
    /// How long nobody may tell of a lease.
    silence_max: Duration,
}

impl Patience {
    /// Begins now.
    pub fn new(watchdog: Duration, lost: Duration, now: Instant) -> Self {
        let (quiet, silence_max) = (watchdog, lost);
        Self { watchdog, lost, heard: now, quiet, vain_looks: 0, moved: now, silence_max }
    }

    /// A lease was committed.
    pub fn committed(&mut self, now: Instant) {
        *self = Self::new(self.watchdog, self.lost, now);
    }

    /// Leases were queued, for the first time or again.
    pub fn queued(&mut self, now: Instant) {
        (self.moved, self.vain_looks) = (now, 0);
    }

    /// Whether the job has been quiet for so long that it is looked at.
    pub fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= self.quiet
    }

    /// A look at the commits has found nothing: whether all leases count as lost. The queue is
    /// that of all jobs; some worker told the last time `told` of a lease of this one.
    pub fn is_over(&mut self, queue: Depth, told: Option<Instant>, now: Instant) -> bool {
        (self.heard, self.quiet) = (now, (self.quiet * 2).min(QUIET_MAX));
        let is_empty = queue.ready + queue.leased + queue.delayed == 0;
        self.vain_looks = if is_empty { self.vain_looks + 1 } else { 0 };
        let silence = now.saturating_duration_since(told.map_or(self.moved, |told| told.max(self.moved)));
        let is_silent = match (queue.ready, queue.leased) {
            (0, _) => silence >= self.silence_max,
            // Where nobody takes what is there, nothing is lost by that.
            (_, 0) => false,
            _ => silence >= self.silence_max.saturating_mul(BEHIND_OTHERS),
        };
        if is_silent {
            // They may be waiting all the same, and then more of them are of no use.
            self.silence_max = self.silence_max.saturating_mul(2);
        }
        is_silent || self.vain_looks >= VAIN_LOOKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(2);
    const LOST: Duration = Duration::from_secs(300);

    /// Of messages that are ready and leased.
    fn depth(ready: u64, leased: u64) -> Depth {
        Depth { ready, leased, ..Depth::default() }
    }

    #[test]
    fn looks_become_rarer_until_something_is_committed() {
        let begun = Instant::now();
        let mut patience = Patience::new(WATCHDOG, LOST, begun);
        let mut now = begun;
        for seconds in [2, 4, 8, 15, 15] {
            let wait = Duration::from_secs(seconds);
            assert!(!patience.is_quiet(now + wait - Duration::from_millis(1)), "{seconds}");
            now += wait;
            assert!(patience.is_quiet(now), "{seconds}");
            assert!(!patience.is_over(depth(0, 1), None, now));
        }
        patience.committed(now);
        assert!(patience.is_quiet(now + WATCHDOG));
    }

    #[test]
    fn leases_are_lost_when_nothing_is_heard_of_them_for_long() {
        let begun = Instant::now();
        let check = |queue: Depth, told: Option<Duration>, lost: Option<Duration>| {
            let told = told.map(|told| begun + told);
            let mut patience = Patience::new(WATCHDOG, LOST, begun);
            let mut looks = (1..10_000).map(Duration::from_secs);
            let over = looks.find(|look| patience.is_over(queue, told, begun + *look));
            assert_eq!(over, lost, "{queue:?} {told:?}");
        };
        check(depth(0, 5), None, Some(LOST));
        check(depth(0, 5), Some(WATCHDOG), Some(WATCHDOG + LOST));
        // They may lie behind those of others, or there is nobody to take them.
        check(depth(7, 5), None, Some(LOST * BEHIND_OTHERS));
        check(depth(7, 0), None, None);
        // In an empty queue there are none.
        check(depth(0, 0), None, Some(Duration::from_secs(2)));
        check(Depth { delayed: 1, ..depth(0, 0) }, None, Some(LOST));
    }

    #[test]
    fn what_has_just_been_queued_is_not_lost() {
        let begun = Instant::now();
        let mut patience = Patience::new(WATCHDOG, LOST, begun);
        // A round has waited for as long as leases may be silent.
        let leased = begun + LOST;
        patience.queued(leased);
        assert!(!patience.is_over(depth(0, 1), None, leased + WATCHDOG));
        assert!(!patience.is_over(depth(0, 0), None, leased + WATCHDOG));
        assert!(patience.is_over(depth(0, 1), None, leased + LOST));
        // What is queued again in vain is so ever more rarely.
        let again = leased + LOST;
        patience.queued(again);
        assert!(!patience.is_over(depth(0, 1), None, again + LOST));
        assert!(patience.is_over(depth(0, 1), None, again + 2 * LOST));
        patience.committed(again);
        assert!(patience.is_over(depth(0, 1), None, again + LOST));
    }
}
