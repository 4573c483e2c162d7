// SPDX-License-Identifier: Apache-2.0
//! The smallest and the largest value.
//!
//! It owns nothing more. Source: Gray et al., "Data Cube: A Relational
//! Aggregation Operator Generalizing Group-By, Cross-Tab, and Sub-Totals", Data
//! Mining and Knowledge Discovery 1, 1997, which calls both distributive: that of
//! the whole follows from that of the parts. Invariant: the answer does not depend
//! on how the values were parted; a zero has no sign, as its sign would depend on it.

use serde::{Deserialize, Serialize};

use super::{
    numeric,
    pair::{Pair, in_blocks},
};

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

    fn add_at_once(&mut self, chunk: &[f64]) -> bool {
        self.add_present(chunk);
        true
    }

    /// NaNs are passed over.
    fn add_present(&mut self, chunk: &[f64]) {
        let (min, max) = extremes(chunk);
        // Of nothing but NaNs they are as they were begun with.
        if min <= max {
            self.merge(&Self(Some((min, max))));
        }
    }
}

/// The smallest and the largest value, zeros without a sign; NaNs are passed over.
#[inline(never)]
pub(super) fn extremes(values: &[f64]) -> (f64, f64) {
    let (mut mins, mut maxs) = ([Pair::twice(f64::INFINITY); 4], [Pair::twice(f64::NEG_INFINITY); 4]);
    let rest = in_blocks(values, |n, pair| {
        let n = n % 4;
        (mins[n], maxs[n]) = (mins[n].smaller(pair), maxs[n].larger(pair));
    });
    let with_rest = |pairs: [Pair; 4]| pairs.into_iter().flat_map(Pair::numbers).chain(rest.iter().copied());
    let (min, max) =
        (with_rest(mins).fold(f64::INFINITY, f64::min), with_rest(maxs).fold(f64::NEG_INFINITY, f64::max));
    // Adding zero makes a negative zero positive.
    (min + 0.0, max + 0.0)
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

    #[test]
    fn nans_have_no_extremes() {
        for count in [1, 16, 3_000] {
            let mut range = MinMax::default();
            range.extend(&vec![f64::NAN; count]);
            assert_eq!(range, MinMax::default(), "{count}");
            range.extend(&[f64::NAN, f64::INFINITY]);
            assert_eq!((range.min(), range.max()), (Some(f64::INFINITY), Some(f64::INFINITY)));
        }
    }
}
