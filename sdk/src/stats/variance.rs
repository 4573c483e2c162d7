// SPDX-License-Identifier: Apache-2.0
//! Count, mean and variance in one pass.
//!
//! It owns the first two central moments. Values are summed in chunks
//! (two passes over a chunk that is in cache, several sums side by side, so that
//! it becomes SIMD), and chunks are merged as parts are. Source: Chan, Golub
//! and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
//! variances", 1979. Invariant: the order of additions depends on nothing but the
//! order of values and parts.

use serde::{Deserialize, Serialize};

use super::{
    numeric,
    pair::{Pair, in_blocks},
};

/// Count, mean and variance: what [`Moments`](super::Moments) says of them, in less time.
///
/// Of finite values the mean is finite, however large they are. Their variance is
/// infinite where it is beyond all numbers, as from about 1e154 on. Of infinite values
/// nothing but the count is a number: mean and variance are NaN.
///
/// ```
/// use fanfold_sdk::stats::Variance;
///
/// let mut heights = Variance::default();
/// heights.extend(&[1.0, 2.0, 3.0, 10.0]);
/// assert_eq!((heights.count(), heights.mean()), (4, Some(4.0)));
/// assert_eq!(heights.variance(), Some(12.5));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Variance {
    pub(super) count: u64,
    pub(super) mean: f64,
    /// The sum of squared distances to the mean.
    pub(super) m2: f64,
}

numeric!(Variance, of chunks with their sum);

impl Variance {
    /// The number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum: count times mean.
    pub fn sum(&self) -> f64 {
        self.count as f64 * self.mean
    }

    /// The mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// The variance of the values themselves, over `n`; `None` without values.
    pub fn variance(&self) -> Option<f64> {
        (self.count > 0).then(|| self.m2 / self.count as f64)
    }

    /// The variance estimated from a sample, over `n - 1`; `None` below two
    /// values.
    pub fn sample_variance(&self) -> Option<f64> {
        (self.count > 1).then(|| self.m2 / (self.count - 1) as f64)
    }

    /// The root of [`Variance::variance`].
    pub fn std_dev(&self) -> Option<f64> {
        self.variance().map(f64::sqrt)
    }

    /// The root of [`Variance::sample_variance`].
    pub fn sample_std_dev(&self) -> Option<f64> {
        self.sample_variance().map(f64::sqrt)
    }

    /// Adds what `later` stands for. The result is the same as that of all
    /// values at once but for rounding, and always the same for the same parts.
    pub fn merge(&mut self, later: &Self) {
        if later.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *later;
            return;
        }
        let (na, nb) = (self.count as f64, later.count as f64);
        let n = na + nb;
        let delta = later.mean - self.mean;
        let (mean, m2) = if delta.is_finite() {
            let step = delta / n;
            (self.mean + step * nb, self.m2 + later.m2 + delta * step * na * nb)
        } else {
            // Divided first, since the means are further apart than any number.
            let mean = self.mean * (na / n) + later.mean * (nb / n);
            (mean, far_apart(mean))
        };
        *self = Self { count: self.count + later.count, mean: canonical(mean), m2: canonical(m2) };
    }

    /// Of values with this sum.
    fn of_chunk(chunk: &[f64], sum: f64) -> Self {
        Self::of_powers(chunk, sum, powers::<2, 4>(chunk, sum / chunk.len() as f64))
    }

    /// Of values with this sum, and with these [`powers`] for their mean.
    pub(super) fn of_powers(chunk: &[f64], sum: f64, [left, m2]: [f64; 2]) -> Self {
        if !m2.is_finite() {
            return Self::of_large(chunk);
        }
        // The distances sum to what rounding left out of the mean (Chan and
        // others, equation 1.7).
        let count = chunk.len() as f64;
        let shift = left / count;
        let (mean, m2) = (sum / count + shift, m2 - left * shift);
        Self { count: chunk.len() as u64, mean: canonical(mean), m2: canonical(m2) }
    }

    /// Of values whose sum, or whose squares' sum, is beyond all numbers.
    #[cold]
    #[inline(never)]
    fn of_large(chunk: &[f64]) -> Self {
        let count = chunk.len() as u64;
        if chunk.iter().any(|value| !value.is_finite()) {
            return Self { count, mean: f64::NAN, m2: f64::NAN };
        }
        if chunk.iter().all(|value| *value == chunk[0]) {
            return Self { count, mean: chunk[0], m2: 0.0 };
        }
        // Divided before they are added, so that only the rounding of the last sum can be too much.
        let mean: f64 = chunk.iter().map(|value| value / count as f64).sum();
        let mean = mean.clamp(f64::MIN, f64::MAX);
        Self { count, mean, m2: far_apart(mean) }
    }
}

/// A sum of squared distances to this mean that is beyond all numbers; NaN where the mean is.
fn far_apart(mean: f64) -> f64 {
    if mean.is_nan() { f64::NAN } else { f64::INFINITY }
}

/// With one NaN for all: which sign a sum gives to it differs between machines.
pub(super) fn canonical(number: f64) -> f64 {
    if number.is_nan() { f64::NAN } else { number }
}

/// The sum of the values: partial sums side by side, then those in order.
#[inline(never)]
pub(super) fn sum(values: &[f64]) -> f64 {
    // As many as keep the adders busy while each waits for the one before.
    let mut sums = [Pair::twice(0.0); 4];
    let rest = in_blocks(values, |n, pair| sums[n % 4] = sums[n % 4] + pair);
    total(sums) + rest.iter().sum::<f64>()
}

/// Sums of the first `N` powers, of four at most, of the distances to `mean`, each as so many pairs side by side:
/// all powers have to find room in the sixteen registers there are.
#[inline(never)]
pub(super) fn powers<const N: usize, const PAIRS: usize>(values: &[f64], mean: f64) -> [f64; N] {
    let means = Pair::twice(mean);
    let mut sums = [[Pair::twice(0.0); PAIRS]; N];
    let mut add = |n: usize, pair: Pair| {
        let distance = pair - means;
        let square = distance * distance;
        let powers = [distance, square, square * distance, square * square];
        for (sums, power) in sums.iter_mut().zip(powers) {
            sums[n % PAIRS] = sums[n % PAIRS] + power;
        }
    };
    let rest = in_blocks(values, &mut add);
    for (n, pair) in rest.chunks(2).enumerate() {
        // The distance of what fills up the last pair is zero.
        add(n, Pair::of([pair[0], pair.get(1).copied().unwrap_or(mean)]));
    }
    sums.map(total)
}

/// The sum of all numbers, in order.
fn total<const PAIRS: usize>(pairs: [Pair; PAIRS]) -> f64 {
    pairs.into_iter().flat_map(Pair::numbers).sum()
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::super::{
        Moments,
        checks::{merged, travelled, values},
    };
    use super::*;

    proptest! {
        #[test]
        fn it_is_what_all_moments_say(
            values in prop_oneof![values(), prop::collection::vec(prop::num::f64::ANY, 0..1500)],
            cut in 0..3000usize,
        ) {
            let found = merged(&values, cut, Variance::extend, Variance::merge);
            let all = merged(&values, cut, Moments::extend, Moments::merge);
            let finite = values.iter().filter(|value| value.is_finite());
            let largest = finite.fold(0.0f64, |largest, value| largest.max(value.abs()));
            // But for rounding: they add up in another order.
            let near = |found: Option<f64>, all: Option<f64>, scale: f64| match found.zip(all) {
                Some((found, all)) => {
                    found == all || (found - all).abs() <= 1e-9 * scale.max(1e-300) || (found.is_nan() && all.is_nan())
                }
                None => found == all,
            };
            prop_assert_eq!(found.count(), all.count());
            prop_assert!(near(found.mean(), all.mean(), largest), "{:?} {:?}", found, all);
            prop_assert!(near(found.variance(), all.variance(), largest * largest), "{:?} {:?}", found, all);
            let again = travelled(&found);
            prop_assert_eq!((again.count, again.mean.to_bits()), (found.count, found.mean.to_bits()));
        }
    }
}
