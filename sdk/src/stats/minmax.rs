// SPDX-License-Identifier: Apache-2.0
//! The smallest and the largest value.
//!
//! It owns nothing more. Source: Gray et al., "Data Cube: A Relational
//! Aggregation Operator Generalizing Group-By, Cross-Tab, and Sub-Totals", Data
//! Mining and Knowledge Discovery 1, 1997, which calls both distributive: that of
//! the whole follows from that of the parts. Invariant: the answer does not depend
//! on how the values were parted; a zero has no sign, as its sign would depend on it.

use serde::{Deserialize, Serialize};

use super::numeric;

const LANES: usize = 8;

/// The smallest and the largest value.
///
/// ```
/// use fanfold_sdk::stats::MinMax;
///
/// let mut range = MinMax::default();
/// assert_eq!(range.min(), None);
/// range.extend(&[2.0, 7.0, 1.0]);
/// assert_eq!((range.min(), range.max()), (Some(1.0), Some(7.0)));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MinMax(Option<(f64, f64)>);

numeric!(MinMax);

impl MinMax {
    /// The smallest value; `None` without values.
    pub fn min(&self) -> Option<f64> {
        self.0.map(|(min, _)| min)
    }

    /// The largest value; `None` without values.
    pub fn max(&self) -> Option<f64> {
        self.0.map(|(_, max)| max)
    }

    /// Adds what `later` stands for; parts may be merged in any order.
    pub fn merge(&mut self, later: &Self) {
        self.0 = match (self.0, later.0) {
            (Some((min, max)), Some((later_min, later_max))) => {
                Some((min.min(later_min), max.max(later_max)))
            }
            (known, None) | (None, known) => known,
        };
    }

    fn add_present(&mut self, chunk: &[f64]) {
        let (mut mins, mut maxs) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
        if chunk.is_empty() {
            return;
        }
        let (whole, rest) = chunk.as_chunks::<LANES>();
        for eight in whole {
            for lane in 0..LANES {
                // Comparisons rather than `f64::min`, which minds NaNs and so
                // takes several instructions in wasm.
                mins[lane] = if eight[lane] < mins[lane] { eight[lane] } else { mins[lane] };
                maxs[lane] = if eight[lane] > maxs[lane] { eight[lane] } else { maxs[lane] };
            }
        }
        let min = mins.iter().chain(rest).copied().fold(f64::INFINITY, f64::min);
        let max = maxs.iter().chain(rest).copied().fold(f64::NEG_INFINITY, f64::max);
        // Adding zero makes a negative zero positive.
        self.merge(&Self(Some((min + 0.0, max + 0.0))));
    }
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::super::checks::{merged, travelled, values};
    use super::*;

    proptest! {
        #[test]
        fn parts_give_the_whole_in_any_order(values in values(), cut in 0..3000usize) {
            let found = merged(&values, cut, MinMax::extend, MinMax::merge);
            let turned = merged(&values, cut, MinMax::extend, |first: &mut MinMax, second| {
                let mut later = *second;
                later.merge(first);
                *first = later;
            });
            let mut whole = MinMax::default();
            whole.extend(&values);
            let bits = |s: &MinMax| s.0.map(|(min, max)| (min.to_bits(), max.to_bits()));
            prop_assert_eq!(bits(&found), bits(&whole));
            prop_assert_eq!(bits(&turned), bits(&whole));
            prop_assert_eq!(travelled(&found), found);
            let kept = || values.iter().copied().filter(|v| !v.is_nan());
            prop_assert_eq!(found.min(), kept().reduce(f64::min));
            prop_assert_eq!(found.max(), kept().reduce(f64::max));
        }
    }
}
