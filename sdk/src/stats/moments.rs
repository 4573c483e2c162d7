// SPDX-License-Identifier: Apache-2.0
//! Count, mean, variance, skewness and kurtosis in one pass.
//!
//! It owns the third and fourth central moments and what they add to those of
//! [`Variance`], chunk by chunk and part by part as there. Source: Pébay, "Formulas for robust, one-pass
//! parallel computation of covariances and arbitrary-order statistical moments",
//! Sandia SAND2008-6212. Invariant: the order of
//! additions depends on nothing but the order of values and parts.

use serde::{Deserialize, Serialize};

use super::{
    numeric,
    variance::{Variance, canonical, powers},
};

/// Count, mean, variance, skewness and kurtosis. Where the last two are not asked for,
/// [`Variance`] takes less time.
///
/// Of finite values the mean is finite, however large they are. Their variance is
/// infinite where it is beyond all numbers, as from about 1e154 on. Of infinite values
/// nothing but the count is a number: mean and variance are NaN.
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
    variance: Variance,
    /// Sums of the third and fourth powers of distances to the mean.
    m3: f64,
    m4: f64,
}

numeric!(Moments, of chunks with their sum);

impl Moments {
    /// The number of values.
    pub fn count(&self) -> u64 {
        self.variance.count()
    }

    /// The sum: count times mean.
    pub fn sum(&self) -> f64 {
        self.variance.sum()
    }

    /// The mean; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        self.variance.mean()
    }

    /// The variance of the values themselves, over `n`; `None` without values.
    pub fn variance(&self) -> Option<f64> {
        self.variance.variance()
    }

    /// The variance estimated from a sample, over `n - 1`; `None` below two
    /// values.
    pub fn sample_variance(&self) -> Option<f64> {
        self.variance.sample_variance()
    }

    /// The root of [`Moments::variance`].
    pub fn std_dev(&self) -> Option<f64> {
        self.variance.std_dev()
    }

    /// The root of [`Moments::sample_variance`].
    pub fn sample_std_dev(&self) -> Option<f64> {
        self.variance.sample_std_dev()
    }

    /// The skewness g₁ = √n·m₃ / m₂^1.5; `None` when all values are equal, or so near
    /// each other or so far apart that their powers are beyond what a number holds.
    pub fn skewness(&self) -> Option<f64> {
        let m2 = self.spread()?;
        quotient((self.count() as f64).sqrt() * self.m3, m2.powf(1.5))
    }

    /// The excess kurtosis g₂ = n·m₄ / m₂² − 3, which is 0 for a normal
    /// distribution; `None` as [`Moments::skewness`].
    pub fn kurtosis(&self) -> Option<f64> {
        let m2 = self.spread()?;
        quotient(self.count() as f64 * self.m4, m2 * m2).map(|ratio| ratio - 3.0)
    }

    /// The sum of squared distances, unless all values are equal.
    fn spread(&self) -> Option<f64> {
        Some(self.variance.m2).filter(|m2| *m2 > 0.0)
    }

    /// Adds what `later` stands for. The result is the same as that of all
    /// values at once but for rounding, and always the same for the same parts.
    pub fn merge(&mut self, later: &Self) {
        if later.count() == 0 {
            return;
        }
        if self.count() == 0 {
            *self = *later;
            return;
        }
        let (a, b) = (self.variance, later.variance);
        self.variance.merge(&b);
        let (na, nb) = (a.count as f64, b.count as f64);
        let delta = b.mean - a.mean;
        if !delta.is_finite() {
            *self = Self::far_apart(self.variance);
            return;
        }
        let step = delta / (na + nb);
        let m4 = self.m4
            + later.m4
            + delta * step * step * step * na * nb * (na * na - na * nb + nb * nb)
            + 6.0 * step * step * (na * na * b.m2 + nb * nb * a.m2)
            + 4.0 * step * (na * later.m3 - nb * self.m3);
        let m3 = self.m3
            + later.m3
            + delta * step * step * na * nb * (na - nb)
            + 3.0 * step * (na * b.m2 - nb * a.m2);
        (self.m3, self.m4) = (canonical(m3), canonical(m4));
    }

    /// Of values with this sum.
    fn of_chunk(chunk: &[f64], sum: f64) -> Self {
        let count = chunk.len() as f64;
        let [left, m2, m3, m4] = powers::<4, 2>(chunk, sum / count);
        let variance = Variance::of_powers(chunk, sum, [left, m2]);
        if !m2.is_finite() {
            return Self::far_apart(variance);
        }
        // Far from zero it may be more than the distances are, so no power of it is left out.
        let shift = left / count;
        let square = shift * shift;
        Self {
            variance,
            m3: canonical(m3 - 3.0 * shift * m2 + 2.0 * left * square),
            m4: canonical(m4 - 4.0 * shift * m3 + 6.0 * square * m2 - 3.0 * left * shift * square),
        }
    }

    /// Of values that are so large that their powers are beyond all numbers, unless they are equal.
    fn far_apart(variance: Variance) -> Self {
        if variance.m2 == 0.0 {
            return Self { variance, ..Self::default() };
        }
        Self { variance, m3: f64::NAN, m4: variance.m2 }
    }
}

/// A quotient of sums of powers; `None` where it or what it is divided by is not in the
/// range in which numbers are precise.
fn quotient(above: f64, below: f64) -> Option<f64> {
    let quotient = above / below;
    (below.is_normal() && quotient.is_finite()).then_some(quotient)
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
        prop_assert!(close(found.variance.mean, mean, largest));
        prop_assert!(close(found.variance.m2, m2, scale(2)), "{} {}", found.variance.m2, m2);
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

        #[test]
        fn finite_values_of_any_size_have_a_finite_mean(
            values in prop::collection::vec(prop::num::f64::ANY, 1..1500), cut in 0..1500usize
        ) {
            let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
            let found = merged(&values, cut, Moments::extend, Moments::merge);
            let n = values.len() as f64;
            let expected: f64 = values.iter().map(|value| value / n).sum();
            let largest = values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            prop_assert!(found.mean().is_none_or(|mean| (mean - expected).abs() <= 1e-9 * largest.max(1e-300)));
            prop_assert!(found.variance().is_none_or(|variance| !variance.is_nan()));
            prop_assert!(found.skewness().is_none_or(f64::is_finite));
            prop_assert!(found.kurtosis().is_none_or(f64::is_finite));
        }
    }

    fn of(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        moments.extend(values);
        moments
    }

    fn one_by_one(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add(*value));
        moments
    }

    #[test]
    fn sums_may_be_beyond_all_numbers() {
        for (value, count) in [(f64::MAX, 2), (f64::MIN, 1_000), (1e300, 1_000), (1e306, 3_000)] {
            let same = vec![value; count];
            for found in [of(&same), one_by_one(&same)] {
                assert_eq!((found.mean(), found.variance()), (Some(value), Some(0.0)), "{count} of {value}");
                assert_eq!((found.skewness(), found.kurtosis()), (None, None));
            }
        }
        let max = f64::MAX;
        let far: [(&[f64], f64); 4] = [
            (&[max, max, -max], max / 3.0),
            (&[max, -max], 0.0),
            (&[max, max, 0.0], max / 1.5),
            (&[1e200, 1.1e200, 1.3e200], 3.4e200 / 3.0),
        ];
        for (values, mean) in far {
            for found in [of(values), one_by_one(values)] {
                let near = found.mean().unwrap();
                assert!((near - mean).abs() <= 1e-15 * max.min(values[0]), "{near} {mean}");
                assert_eq!(found.variance(), Some(f64::INFINITY), "{values:?}");
                assert_eq!((found.skewness(), found.kurtosis()), (None, None));
            }
        }
        for found in [of(&[1.0, f64::INFINITY]), one_by_one(&[f64::NEG_INFINITY, 1.0])] {
            assert_eq!((found.count(), found.mean().map(f64::is_nan)), (2, Some(true)));
            assert_eq!((found.variance().map(f64::is_nan), found.kurtosis()), (Some(true), None));
        }
    }

    #[test]
    fn shapes_that_no_number_tells_are_none() {
        // The fourth powers are zero, or infinite.
        for scale in [1e-160, 1e-90, 1e90, 1e100] {
            let found = of(&[1.0, 2.0, 4.0].map(|value| value * scale));
            assert_eq!(found.kurtosis(), None, "{scale}");
        }
        assert_eq!(of(&[1e-160, 2e-160, 4e-160]).skewness(), None);
        // Only times their count are they.
        let mut values = [0.0; 100];
        values[7] = 1e77;
        assert_eq!(of(&values).kurtosis(), None);
        let (small, usual) = (of(&[1e-70, 2e-70, 4e-70]), of(&[1.0, 2.0, 4.0]));
        assert!((small.kurtosis().unwrap() - usual.kurtosis().unwrap()).abs() < 1e-9);
    }

    #[test]
    fn values_far_from_zero_keep_their_variance() {
        let mut moments = Moments::default();
        moments.extend(&(0..100_000).map(|i| 1e9 + f64::from(i % 10)).collect::<Vec<_>>());
        assert!((moments.variance().unwrap() - 8.25).abs() < 1e-6);
    }

    /// Skewness and kurtosis by the definition, in whole numbers.
    fn exact_shape(values: &[i64]) -> (f64, f64) {
        let count = values.len() as i128;
        let total: i128 = values.iter().map(|value| i128::from(*value)).sum();
        // Of distances to the mean, times the count.
        let power = |p: u32| {
            let powers = values.iter().map(|value| (count * i128::from(*value) - total).pow(p));
            powers.sum::<i128>() as f64
        };
        let (n, m2) = (count as f64, power(2));
        (n.sqrt() * power(3) / m2.powf(1.5), n * power(4) / (m2 * m2) - 3.0)
    }

    #[test]
    fn values_far_from_zero_keep_their_shape() {
        // The step is what doubles of that size differ by, so that a mean may be further off than the values are apart.
        for (far, step, error) in
            [(0.0, 1.0, 1e-9), (1e12, 0.125, 1e-5), (1e15, 0.125, 0.02), (1.7e18, 256.0, 0.02)]
        {
            for tail in [false, true] {
                let mut state = 1_u64;
                let mut value = || {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let value = (state >> 33) as i64 % 40;
                    if tail { value * value / 40 } else { value }
                };
                let whole: Vec<i64> = (0..100_000).map(|_| value()).collect();
                let found = of(&whole.iter().map(|value| far + *value as f64 * step).collect::<Vec<_>>());
                let (skewness, kurtosis) = exact_shape(&whole);
                let off = found.skewness().unwrap() - skewness;
                assert!(off.abs() < error, "skewness {skewness} at {far}: {off}");
                let off = found.kurtosis().unwrap() - kurtosis;
                assert!(off.abs() < error, "kurtosis {kurtosis} at {far}: {off}");
            }
        }
    }

    #[test]
    fn a_nan_has_the_same_bits_everywhere() {
        let mut found = of(&[1e110, -1e110]);
        assert_eq!((found.variance.m2.is_finite(), found.m3.to_bits()), (true, f64::NAN.to_bits()));
        found.merge(&of(&[-1e110, 1e110]));
        assert_eq!(found.m3.to_bits(), f64::NAN.to_bits());
        assert_eq!(of(&[f64::INFINITY, f64::NEG_INFINITY]).variance.mean.to_bits(), f64::NAN.to_bits());
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
