// SPDX-License-Identifier: Apache-2.0
//! Count, mean, variance, skewness and kurtosis in one pass.
//!
//! It owns the central moments up to the fourth. Values are summed in chunks
//! (two passes over a chunk that is in cache, several sums side by side, so that
//! it becomes SIMD), and chunks are merged as parts are. Sources: Chan, Golub
//! and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
//! variances", 1979, for the merge; Pébay, "Formulas for robust, one-pass
//! parallel computation of covariances and arbitrary-order statistical moments",
//! Sandia SAND2008-6212, for its third and fourth order. Invariant: the order of
//! additions depends on nothing but the order of values and parts.

use serde::{Deserialize, Serialize};

use super::{
    numeric,
    pair::{Pair, in_blocks},
};

/// Sums kept side by side: two pairs for each power, which leaves room for all four
/// in the sixteen registers there are.
const LANES: usize = 4;

/// Count, mean, variance, skewness and kurtosis.
///
/// ```
/// use fanfold_sdk::stats::Moments;
///
/// let mut heights = Moments::default();
/// heights.extend(&[1.0, 2.0, 3.0, 10.0]);
/// assert_eq!(heights.count(), 4);
/// assert_eq!(heights.mean(), Some(4.0));
/// assert_eq!(heights.sample_variance().map(|v| v.round()), Some(17.0));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    count: u64,
    mean: f64,
    /// Sums of the second, third and fourth powers of distances to the mean.
    m2: f64,
    m3: f64,
    m4: f64,
}

numeric!(Moments);

impl Moments {
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

    /// The root of [`Moments::variance`].
    pub fn std_dev(&self) -> Option<f64> {
        self.variance().map(f64::sqrt)
    }

    /// The root of [`Moments::sample_variance`].
    pub fn sample_std_dev(&self) -> Option<f64> {
        self.sample_variance().map(f64::sqrt)
    }

    /// The skewness g₁ = √n·m₃ / m₂^1.5; `None` when all values are equal.
    pub fn skewness(&self) -> Option<f64> {
        (self.m2 > 0.0).then(|| (self.count as f64).sqrt() * self.m3 / self.m2.powf(1.5))
    }

    /// The excess kurtosis g₂ = n·m₄ / m₂² − 3, which is 0 for a normal
    /// distribution; `None` when all values are equal.
    pub fn kurtosis(&self) -> Option<f64> {
        (self.m2 > 0.0).then(|| self.count as f64 * self.m4 / (self.m2 * self.m2) - 3.0)
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
        let step = delta / n;
        let m4 = self.m4
            + later.m4
            + delta * step * step * step * na * nb * (na * na - na * nb + nb * nb)
            + 6.0 * step * step * (na * na * later.m2 + nb * nb * self.m2)
            + 4.0 * step * (na * later.m3 - nb * self.m3);
        let m3 = self.m3
            + later.m3
            + delta * step * step * na * nb * (na - nb)
            + 3.0 * step * (na * later.m2 - nb * self.m2);
        let m2 = self.m2 + later.m2 + delta * step * na * nb;
        let mean = self.mean + step * nb;
        *self = Self { count: self.count + later.count, mean, m2, m3, m4 };
    }

    fn add_present(&mut self, chunk: &[f64]) {
        if !chunk.is_empty() {
            self.merge(&Self::of_chunk(chunk));
        }
    }

    fn of_chunk(chunk: &[f64]) -> Self {
        let count = chunk.len() as f64;
        let mean = sum(chunk) / count;
        // The distances sum to what rounding left out of the mean (Chan and
        // others, equation 1.7).
        let [left, m2, m3, m4] = powers(chunk, mean);
        let shift = left / count;
        Self {
            count: chunk.len() as u64,
            mean: mean + shift,
            m2: m2 - left * shift,
            m3: m3 - 3.0 * shift * m2,
            m4: m4 - 4.0 * shift * m3,
        }
    }
}

/// The sum of the values: partial sums side by side, then those in order.
#[inline(never)]
fn sum(values: &[f64]) -> f64 {
    let mut sums = [Pair::twice(0.0); 2];
    let rest = in_blocks(values, |n, pair| sums[n % 2] = sums[n % 2] + pair);
    let mut sums = side_by_side(sums);
    rest.iter().enumerate().for_each(|(n, value)| sums[n % LANES] += value);
    sums.iter().sum()
}

/// Sums of the first to fourth powers of the distances to `mean`.
#[inline(never)]
fn powers(values: &[f64], mean: f64) -> [f64; 4] {
    let (zero, means) = ([Pair::twice(0.0); 2], Pair::twice(mean));
    let (mut s1, mut s2, mut s3, mut s4) = (zero, zero, zero, zero);
    let mut add = |n: usize, pair: Pair| {
        let (n, distance) = (n % 2, pair - means);
        let square = distance * distance;
        s1[n] = s1[n] + distance;
        s2[n] = s2[n] + square;
        s3[n] = s3[n] + square * distance;
        s4[n] = s4[n] + square * square;
    };
    let rest = in_blocks(values, &mut add);
    for (n, pair) in rest.chunks(2).enumerate() {
        // The distance of what fills up the last pair is zero.
        add(n, Pair::of([pair[0], pair.get(1).copied().unwrap_or(mean)]));
    }
    [s1, s2, s3, s4].map(|sums| side_by_side(sums).iter().sum())
}

fn side_by_side(pairs: [Pair; 2]) -> [f64; LANES] {
    let ([a, b], [c, d]) = (pairs[0].numbers(), pairs[1].numbers());
    [a, b, c, d]
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::super::checks::{merged, travelled, values};
    use super::*;

    /// The definition, in two plain passes.
    fn defined(values: &[f64]) -> (f64, [f64; 3]) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let power = |p: i32| values.iter().map(|v| (v - mean).powi(p)).sum::<f64>();
        (mean, [power(2), power(3), power(4)])
    }

    fn close(found: f64, expected: f64, scale: f64) -> bool {
        (found - expected).abs() <= 1e-9 * scale.max(1e-12)
    }

    fn check(found: &Moments, values: &[f64]) -> Result<(), TestCaseError> {
        prop_assert_eq!(found.count(), values.len() as u64);
        if values.is_empty() {
            prop_assert_eq!(*found, Moments::default());
            return Ok(());
        }
        let (mean, [m2, m3, m4]) = defined(values);
        let largest = values.iter().fold(0.0f64, |largest, v| largest.max(v.abs()));
        let scale = |power: i32| values.len() as f64 * largest.powi(power);
        prop_assert!(close(found.mean, mean, largest));
        prop_assert!(close(found.m2, m2, scale(2)), "{} {}", found.m2, m2);
        prop_assert!(close(found.m3, m3, scale(3)), "{} {}", found.m3, m3);
        prop_assert!(close(found.m4, m4, scale(4)), "{} {}", found.m4, m4);
        Ok(())
    }

    proptest! {
        #[test]
        fn parts_give_what_the_definition_gives(values in values(), cut in 0..3000usize) {
            let found = merged(&values, cut, Moments::extend, Moments::merge);
            let kept: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
            check(&found, &kept)?;
            prop_assert_eq!(travelled(&found), found);
            let again = merged(&values, cut, Moments::extend, Moments::merge);
            prop_assert_eq!(again, found);
        }
    }

    #[test]
    fn values_far_from_zero_keep_their_variance() {
        let mut moments = Moments::default();
        moments.extend(&(0..100_000).map(|i| 1e9 + f64::from(i % 10)).collect::<Vec<_>>());
        assert!((moments.variance().unwrap() - 8.25).abs() < 1e-6);
    }

    #[test]
    fn known_shapes() {
        let mut moments = Moments::default();
        moments.extend(&[2.0, 8.0, 0.0, 4.0, 1.0, 9.0, 9.0, 0.0]);
        // By the definitions, in double precision.
        assert!((moments.skewness().unwrap() - 0.265_055_412_269_857_35).abs() < 1e-9);
        assert!((moments.kurtosis().unwrap() + 1.666_001_075_283_850_8).abs() < 1e-9);
        let equal = [3.0; 5];
        let mut moments = Moments::default();
        moments.extend(&equal);
        assert_eq!((moments.variance(), moments.skewness(), moments.kurtosis()), (Some(0.0), None, None));
    }
}
