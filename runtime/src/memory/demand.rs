// SPDX-License-Identifier: Apache-2.0
//! What sandboxes are expected to take, from what those before them took.
//!
//! Kept for each export of a component while it is ready to run. Invariant: what
//! is expected is never more than a sandbox may take.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use fanfold_protocol::{function::Export, limits};

/// The least that is expected: the host keeps something for each sandbox, too.
const LEAST_BYTES: u64 = 4 << 20;
/// Expected beyond what was seen, one part in so many of it.
const HEADROOM: u64 = 4;
/// What was seen comes nearer to what is seen by one part in so many.
const WEIGHT: u64 = 64;

/// The most that sandboxes of an export took of late; each that takes less lowers it a little.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    /// 0 when none was seen.
    peak_bytes: AtomicU64,
}

impl Demand {
    /// What the next one may be expected to take, of `bytes_max` that it may. While none was
    /// seen, a quarter of what every function has by default, and all that was asked for
    /// beyond it, which is asked for because it is needed.
    pub(crate) fn expected(&self, bytes_max: u64) -> u64 {
        match self.peak_bytes.load(Relaxed) {
            0 => bytes_max - bytes_max.min(limits::MEMORY_BYTES_DEFAULT) / 4 * 3,
            peak => bytes_max.min(LEAST_BYTES.max(peak + peak / HEADROOM)),
        }
    }

    /// Notes what one took.
    pub(crate) fn note(&self, bytes: u64) {
        let known = self.peak_bytes.load(Relaxed);
        if bytes > known {
            self.peak_bytes.fetch_max(bytes, Relaxed);
            return;
        }
        let lower = known - (known - bytes) / WEIGHT;
        if lower < known {
            // Of two that come at once one may be lost, but never one that raises it.
            let _ = self.peak_bytes.compare_exchange(known, lower, Relaxed, Relaxed);
        }
    }
}

/// Those of a component.
#[derive(Debug, Default)]
pub(crate) struct Demands {
    /// Of saying what it is.
    pub(crate) describing: Arc<Demand>,
    handler: Arc<Demand>,
    mapper: Arc<Demand>,
    aggregator: Arc<Demand>,
    grouper: Arc<Demand>,
}

impl Demands {
    /// That of an export's work.
    pub(crate) fn of(&self, export: Export) -> &Arc<Demand> {
        match export {
            Export::Handler => &self.handler,
            Export::Mapper => &self.mapper,
            Export::Aggregator => &self.aggregator,
            Export::Grouper => &self.grouper,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_was_not_seen_is_expected_by_its_bound() {
        let check = |bound: u64, expected: u64| {
            assert_eq!(Demand::default().expected(bound * MIB), expected * MIB, "{bound} MiB");
        };
        check(4, 1);
        check(256, 64);
        check(512, 320);
        check(4_096, 3_904);
    }

    #[test]
    fn what_was_seen_is_expected_with_headroom_and_within_bounds() {
        let demand = Demand::default();
        demand.note(40 * MIB);
        assert_eq!(demand.expected(256 * MIB), 50 * MIB);
        assert_eq!(demand.expected(44 * MIB), 44 * MIB);
        let small = Demand::default();
        small.note(MIB);
        assert_eq!(small.expected(256 * MIB), 4 * MIB);
        assert_eq!(small.expected(MIB), MIB);
    }

    #[test]
    fn the_most_that_was_seen_counts_and_fades() {
        let demand = Demand::default();
        demand.note(100 * MIB);
        demand.note(20 * MIB);
        let once = demand.expected(256 * MIB);
        assert!((120 * MIB..125 * MIB).contains(&once), "{once}");
        (0..500).for_each(|_| demand.note(20 * MIB));
        let faded = demand.expected(256 * MIB);
        assert!((25 * MIB..26 * MIB).contains(&faded), "{faded}");
        demand.note(100 * MIB);
        assert_eq!(demand.expected(256 * MIB), 125 * MIB);
    }
}
