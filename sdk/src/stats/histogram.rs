// SPDX-License-Identifier: Apache-2.0
//! Counts in bins of equal width.
//!
//! It owns a histogram whose bins are fixed before the first value. Sources: the
//! edges are those of `numpy.histogram`, each bin half-open but the last, which
//! is closed; counts of fixed bins are distributive aggregates in the sense of
//! Gray et al., "Data Cube", Data Mining and Knowledge Discovery 1, 1997.
//! Invariant: every value is counted once: in a bin, below, or above; so the
//! answer does not depend on how the values were parted.

use serde::{Deserialize, Serialize};

use super::numeric;
use crate::{Error, Result};

/// The most bins: 1,048,576, which is 8 MiB of counts at the worst.
const BINS_MAX: usize = 1 << 20;

/// Counts of values in bins of equal width from `low` to `high`, both included.
///
/// ```
/// use fanfold_sdk::stats::Histogram;
///
/// let mut ages = Histogram::new(0.0, 100.0, 4)?;
/// ages.extend(&[3.0, 30.0, 31.0, 100.0, 120.0]);
/// assert_eq!(ages.counts(), [1, 2, 0, 1]);
/// assert_eq!((ages.below(), ages.above()), (0, 1));
/// assert_eq!(ages.edges(1), (25.0, 50.0));
/// # Ok::<(), fanfold_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    low: f64,
    high: f64,
    counts: Vec<u64>,
    below: u64,
    above: u64,
}

numeric!(Histogram);

impl Histogram {
    /// A histogram of `bins` bins from `low` to `high`.
    ///
    /// # Errors
    ///
    /// `invalid-histogram` unless `low < high`, both are finite, and there are
    /// 1 to 1,048,576 bins.
    pub fn new(low: f64, high: f64, bins: usize) -> Result<Self> {
        if !(low < high && (high - low).is_finite()) || bins == 0 || bins > BINS_MAX {
            return Err(Error::new(
                "invalid-histogram",
                format!(
                    "a histogram needs low < high and 1 to {BINS_MAX} bins, found {low}, {high} and {bins} bins"
                ),
            ));
        }
        Ok(Self { low, high, counts: vec![0; bins], below: 0, above: 0 })
    }

    /// The number of values in each bin.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The number of values below the first bin.
    pub fn below(&self) -> u64 {
        self.below
    }

    /// The number of values above the last bin.
    pub fn above(&self) -> u64 {
        self.above
    }

    /// The number of all values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.below + self.above
    }

    /// Where a bin begins and ends; a value at an edge is in the bin above it,
    /// but the last edge is in the last bin.
    pub fn edges(&self, bin: usize) -> (f64, f64) {
        let width = (self.high - self.low) / self.counts.len() as f64;
        let end = if bin + 1 == self.counts.len() { self.high } else { edge(self.low, width, bin + 1) };
        (edge(self.low, width, bin), end)
    }

    /// Adds what `later` stands for; parts may be merged in any order.
    ///
    /// # Errors
    ///
    /// `histogram-mismatch` when the bins differ.
    pub fn merge(&mut self, later: &Self) -> Result<()> {
        if (self.low, self.high, self.counts.len()) != (later.low, later.high, later.counts.len()) {
            return Err(Error::new(
                "histogram-mismatch",
                format!(
                    "expected {} bins from {} to {}, found {} from {} to {}; make all parts with the same params",
                    self.counts.len(),
                    self.low,
                    self.high,
                    later.counts.len(),
                    later.low,
                    later.high
                ),
            ));
        }
        self.counts.iter_mut().zip(&later.counts).for_each(|(count, more)| *count += more);
        self.below += later.below;
        self.above += later.above;
        Ok(())
    }

    fn add_at_once(&mut self, _: &[f64]) -> bool {
        false
    }

    fn add_present(&mut self, chunk: &[f64]) {
        let (low, bins) = (self.low, self.counts.len() as f64);
        let (scale, width) = (bins / (self.high - low), (self.high - low) / bins);
        let last = self.counts.len() - 1;
        for &value in chunk {
            if value < low {
                self.below += 1;
            } else if value > self.high {
                self.above += 1;
            } else {
                // Rounds towards zero; `min` takes in the last edge.
                let near = (((value - low) * scale) as usize).min(last);
                // The product is rounded, so the edges have the last word, as in numpy.
                let before = value < edge(low, width, near);
                let behind = near < last && value >= edge(low, width, near + 1);
                self.counts[near + usize::from(behind) - usize::from(before)] += 1;
            }
        }
    }
}

/// The edge below a bin; below the first it is `low`.
fn edge(low: f64, width: f64, bin: usize) -> f64 {
    low + width * bin as f64
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::super::checks::{travelled, values};
    use super::*;

    proptest! {
        #[test]
        fn parts_give_the_whole(values in values(), cut in 0..3000usize, bins in 1..50usize) {
            let (early, late) = values.split_at(cut.min(values.len()));
            let empty = Histogram::new(-500.0, 700.0, bins).unwrap();
            let of = |values: &[f64]| {
                let mut histogram = empty.clone();
                histogram.extend(values);
                histogram
            };
            let (mut first, mut second, whole) = (of(early), of(late), of(&values));
            let before = first.clone();
            first.merge(&second).unwrap();
            second.merge(&before).unwrap();
            prop_assert_eq!(&first, &whole);
            prop_assert_eq!(&second, &whole);
            prop_assert_eq!(travelled(&first), first.clone());
            prop_assert_eq!(whole.count(), values.iter().filter(|v| !v.is_nan()).count() as u64);
        }
    }

    proptest! {
        #[test]
        fn values_at_edges_are_above_them(low in -1e3..1e3f64, span in 0.1..1e3f64, bins in 1..300usize) {
            let mut histogram = Histogram::new(low, low + span, bins).unwrap();
            for bin in 0..bins {
                let (begin, end) = histogram.edges(bin);
                histogram.extend(&[begin, end.next_down()]);
            }
            prop_assert_eq!(histogram.counts(), vec![2; bins]);
        }
    }

    #[test]
    fn a_product_that_is_rounded_down_is_mended() {
        let mut cents = Histogram::new(0.0, 1.0, 100).unwrap();
        cents.add(0.29);
        assert_eq!((0.29 * 100.0) as usize, 28);
        assert_eq!((cents.edges(29).0, cents.counts()[29]), (0.29, 1));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (low, high, bins) in
            [(1.0, 1.0, 3), (2.0, 1.0, 3), (0.0, f64::INFINITY, 3), (0.0, 1.0, 0), (f64::NAN, 1.0, 1)]
        {
            assert_eq!(Histogram::new(low, high, bins).unwrap_err().code(), "invalid-histogram");
        }
        let mut histogram = Histogram::new(0.0, 1.0, 2).unwrap();
        let other = Histogram::new(0.0, 1.0, 3).unwrap();
        assert_eq!(histogram.merge(&other).unwrap_err().code(), "histogram-mismatch");
    }
}
