// SPDX-License-Identifier: Apache-2.0
//! What a job will take, told from some of its partitions.
//!
//! A sample is a job of its own over partitions evenly spaced in the plan; it
//! leaves no output. What its tasks took is extrapolated by stored bytes, as a
//! ratio estimate: what partitions take follows their size, and how far it does
//! not makes the range. One partition of many does not tell that: they may differ by
//! as much as they take. What folds took of the sample's states, they are taken to
//! take of the others' in the same measure.

use std::time::Duration;

use fanfold_protocol::{
    invocation::Usage,
    job::{Estimate, Range, SampleOf},
    limits,
    plan::{Partition, Weight},
    time::whole_ms,
};

/// How many standard errors the range goes to each side.
const ERRORS: f64 = 2.0;
/// Partitions that are held until it is known how many there are. A multiple of three, of which
/// a third are many for each of the largest sample.
const HELD_MAX: usize = 30 * limits::SAMPLE_PARTITIONS_MAX;

/// A task of the sample: stored bytes of its partition, and what it took.
pub type Took = (u64, Usage);

/// Partitions that come one by one, of which a sample is drawn when all have come. All are held
/// as long as they are few; of more, the middle one of each stretch of neighbours.
pub struct Spread {
    count: usize,
    bytes: u64,
    /// Partitions of a stretch: a power of three, so that each has a middle.
    stretch: usize,
    held: Vec<(Partition, Weight)>,
}

impl Default for Spread {
    fn default() -> Self {
        Self { count: 0, bytes: 0, stretch: 1, held: Vec::new() }
    }
}

impl Spread {
    /// The next one.
    pub fn take(&mut self, partition: Partition, weight: Weight) {
        if self.count % self.stretch == self.stretch / 2 {
            self.held.push((partition, weight));
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(weight.bytes);
        if self.held.len() == HELD_MAX {
            // Three stretches become one: their middle is that of the second.
            self.held = std::mem::take(&mut self.held).into_iter().skip(1).step_by(3).collect();
            self.stretch *= 3;
        }
    }

    /// How many have come.
    pub fn count(&self) -> usize {
        self.count
    }

    /// All that have come.
    pub fn of(&self) -> SampleOf {
        SampleOf { partitions: u32::try_from(self.count).unwrap_or(u32::MAX), bytes: self.bytes }
    }

    /// `count` of them, evenly spaced up to half a stretch.
    pub fn sample(&self, count: usize) -> Vec<&(Partition, Weight)> {
        let places = places(self.count, count).into_iter();
        places.filter_map(|place| self.held.get(place / self.stretch)).collect()
    }
}

/// The places of a sample: `count` of `partitions`, evenly spaced.
fn places(partitions: usize, count: usize) -> Vec<usize> {
    let count = count.min(partitions);
    (0..count).map(|n| (2 * n + 1) * partitions / (2 * count)).collect()
}

/// Extrapolates from tasks that together with what folds them ran for `ran` after
/// `planned`.
pub fn estimate(of: &SampleOf, tasks: &[Took], folds: &Usage, planned: Duration, ran: Duration) -> Estimate {
    let total = |what: fn(&Usage) -> u64| extrapolated(of, tasks, what(folds), what);
    let (cpu_us, wall_us) = (total(|usage| usage.cpu_us), total(|usage| usage.wall_us));
    let walls = folds.wall_us + tasks.iter().map(|(_, usage)| usage.wall_us).sum::<u64>();
    // As many at once as the sample had, which knows of no more workers than it met.
    let width = (walls as f64 / ran.as_micros().max(1) as f64).max(1.0);
    let elapsed = |us: u64| {
        let ran = Duration::from_micros((us as f64 / width) as u64);
        whole_ms(planned + ran)
    };
    Estimate {
        sampled: u32::try_from(tasks.len()).unwrap_or(u32::MAX),
        of: *of,
        elapsed_ms: wall_us.map(elapsed),
        cpu_ms: cpu_us.map(|us| us / 1_000),
        bytes_in: total(|usage| usage.bytes_in),
        bytes_out: total(|usage| usage.bytes_out),
        memory_bytes_peak: peak(of, tasks, folds.memory_bytes_peak),
    }
}

/// The sum over all partitions of what these took, and what folded them.
fn extrapolated(of: &SampleOf, tasks: &[Took], folds: u64, what: fn(&Usage) -> u64) -> Range {
    let (n, all) = (tasks.len() as f64, f64::from(of.partitions));
    // Where the stored bytes say nothing, every partition counts the same.
    let sized = of.bytes > 0 && tasks.iter().any(|(bytes, _)| *bytes > 0);
    let weight = |bytes: u64| if sized { bytes as f64 } else { 1.0 };
    let whole = if sized { of.bytes as f64 } else { all };
    let seen: f64 = tasks.iter().map(|(_, usage)| what(usage) as f64).sum();
    let weights: f64 = tasks.iter().map(|(bytes, _)| weight(*bytes)).sum();
    let ratio = if weights > 0.0 { seen / weights } else { 0.0 };
    let folds = folds as f64;
    let expected = ratio * whole + if weights > 0.0 { folds * whole / weights } else { folds };
    let off = |(bytes, usage): &Took| (what(usage) as f64 - ratio * weight(*bytes)).powi(2);
    let variance = match tells_no_spread(of, tasks) {
        true => (expected / all).powi(2),
        false => tasks.iter().map(off).sum::<f64>() / (n - 1.0).max(1.0),
    };
    let unseen = (1.0 - n / all).max(0.0);
    let error = ERRORS * all * (unseen * variance / n.max(1.0)).sqrt();
    let count = |value: f64| value.round() as u64;
    Range {
        low: count((expected - error).max(seen + folds)),
        expected: count(expected),
        high: count(expected + error),
    }
}

/// Whether a sample says nothing of how partitions differ.
fn tells_no_spread(of: &SampleOf, tasks: &[Took]) -> bool {
    tasks.len() < 2 && of.partitions > 1
}

/// The most memory of one task: what was seen, and as much more as tasks differ.
fn peak(of: &SampleOf, tasks: &[Took], folds: u64) -> Range {
    let peaks = || tasks.iter().map(|(_, usage)| usage.memory_bytes_peak);
    let (most, least) = (peaks().max().unwrap_or(0), peaks().min().unwrap_or(0));
    let high = most + if tells_no_spread(of, tasks) { most } else { most - least };
    Range { low: most.max(folds), expected: most.max(folds), high: high.max(folds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(bytes: u64, cpu_us: u64) -> Took {
        (bytes, Usage { cpu_us, wall_us: 2 * cpu_us, memory_bytes_peak: 10 * bytes, ..Usage::default() })
    }

    #[test]
    fn a_sample_is_evenly_spaced() {
        assert_eq!(places(10, 2), [2, 7]);
        assert_eq!(places(3, 8), [0, 1, 2]);
        assert_eq!(places(1_000_000, 4), [125_000, 375_000, 625_000, 875_000]);
        assert_eq!(places(0, 4), [0; 0]);
    }

    #[test]
    fn a_sample_of_very_many_is_evenly_spaced_with_few_held() {
        let check = |partitions: usize, count: usize, off: usize| {
            let mut spread = Spread::default();
            for place in 0..partitions {
                let weight = Weight { bytes: place as u64, document: 0 };
                spread.take(Partition { slices: Vec::new() }, weight);
                assert!(spread.held.len() < HELD_MAX, "{place}");
            }
            let bytes = (0..partitions as u64).sum();
            assert_eq!(spread.of(), SampleOf { partitions: partitions as u32, bytes });
            let found: Vec<_> = spread.sample(count).iter().map(|(_, w)| w.bytes as usize).collect();
            assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
            let expected = places(partitions, count);
            assert_eq!(found.len(), expected.len());
            for (found, place) in found.into_iter().zip(expected) {
                assert!(found.abs_diff(place) <= off, "{found} for {place} of {partitions}");
            }
        };
        check(0, 8, 0);
        check(10, 2, 0);
        check(3, 8, 0);
        check(HELD_MAX - 1, limits::SAMPLE_PARTITIONS_MAX, 0);
        // Stretches of 3, 27 and 81.
        check(HELD_MAX, limits::SAMPLE_PARTITIONS_MAX, 1);
        check(300_000, 8, 13);
        check(limits::PARTITIONS_MAX, limits::SAMPLE_PARTITIONS_MAX, 40);
        check(limits::PARTITIONS_MAX, 1, 40);
    }

    #[test]
    fn what_follows_the_size_is_told_exactly() {
        let of = SampleOf { partitions: 100, bytes: 10_000 };
        let tasks = [took(50, 5_000), took(150, 15_000)];
        let (planned, ran) = (Duration::from_millis(30), Duration::from_millis(20));
        let told = estimate(&of, &tasks, &Usage::default(), planned, ran);
        assert_eq!(told.cpu_ms, Range { low: 1_000, expected: 1_000, high: 1_000 });
        // Two at once: 40 ms of walls in 20 ms.
        assert_eq!(told.elapsed_ms.expected, 30 + 1_000);
        assert_eq!(told.memory_bytes_peak, Range { low: 1_500, expected: 1_500, high: 2_500 });
        // A fold of the two, as long as they together.
        let fold = Usage { cpu_us: 20_000, wall_us: 40_000, memory_bytes_peak: 2_000, ..Usage::default() };
        let told = estimate(&of, &tasks, &fold, planned, 2 * ran);
        assert_eq!(told.cpu_ms, Range { low: 2_000, expected: 2_000, high: 2_000 });
        assert_eq!(told.elapsed_ms.expected, 30 + 2_000);
        assert_eq!(told.memory_bytes_peak, Range { low: 2_000, expected: 2_000, high: 2_500 });
    }

    #[test]
    fn what_does_not_follow_it_makes_a_range() {
        let of = SampleOf { partitions: 100, bytes: 10_000 };
        let spread = extrapolated(&of, &[took(100, 1_000), took(100, 3_000)], 0, |usage| usage.cpu_us);
        assert!(spread.low < 200_000 && spread.expected == 200_000 && spread.high > 200_000, "{spread:?}");
        // All of them: nothing is left to be told.
        let of = SampleOf { partitions: 2, bytes: 200 };
        let spread = extrapolated(&of, &[took(100, 1_000), took(100, 3_000)], 0, |usage| usage.cpu_us);
        assert_eq!(spread, Range { low: 4_000, expected: 4_000, high: 4_000 });
    }

    #[test]
    fn one_partition_of_many_makes_a_wide_range() {
        let of = SampleOf { partitions: 100, bytes: 10_000 };
        let (planned, ran) = (Duration::from_millis(30), Duration::from_millis(20));
        let told = estimate(&of, &[took(50, 5_000)], &Usage::default(), planned, ran);
        assert_eq!((told.cpu_ms.low, told.cpu_ms.expected), (5, 1_000));
        assert!((2_900..=3_000).contains(&told.cpu_ms.high), "{:?}", told.cpu_ms);
        assert!(
            told.elapsed_ms.low < told.elapsed_ms.expected && told.elapsed_ms.expected < told.elapsed_ms.high
        );
        assert_eq!(told.memory_bytes_peak, Range { low: 500, expected: 500, high: 1_000 });
        // The only one tells all.
        let of = SampleOf { partitions: 1, bytes: 50 };
        let told = estimate(&of, &[took(50, 5_000)], &Usage::default(), planned, ran);
        assert_eq!(told.cpu_ms, Range { low: 5, expected: 5, high: 5 });
        assert_eq!(told.memory_bytes_peak, Range { low: 500, expected: 500, high: 500 });
    }

    #[test]
    fn inputs_without_bytes_are_counted() {
        let of = SampleOf { partitions: 10, bytes: 0 };
        assert_eq!(extrapolated(&of, &[took(0, 7)], 0, |usage| usage.cpu_us).expected, 70);
        assert_eq!(extrapolated(&of, &[], 0, |usage| usage.cpu_us).expected, 0);
    }
}
