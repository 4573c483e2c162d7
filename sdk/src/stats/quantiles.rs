// SPDX-License-Identifier: Apache-2.0
//! The median and other quantiles of more values than one can keep.
//!
//! It owns a thin cover of the t-digest of Apache DataSketches. Sources:
//! Dunning and Ertl, "Computing extremely accurate quantiles using t-digests",
//! arXiv:1902.04023; Dunning, "The t-digest: efficient estimates of
//! distributions", Software Impacts 7, 2021. It was chosen over KLL because it
//! draws no random bits. Invariant: the same values in the same parts give the
//! same digest.

use datasketches::tdigest::TDigestMut;
use serde::{Deserialize, Serialize};

use super::numeric;

/// Quantiles to within 2 % of rank at the worst, in the middle of wildly
/// uneven values; far less for smooth ones, and at the ends.
///
/// Keeps up to 13 KiB. Infinite values are left out, as NaNs are.
///
/// ```
/// use fanfold_sdk::stats::Quantiles;
///
/// let mut waits = Quantiles::default();
/// waits.extend(&(0..1000).map(f64::from).collect::<Vec<_>>());
/// let median = waits.quantile(0.5).unwrap_or(0.0);
/// assert!((median - 500.0).abs() < 10.0);
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Quantiles(TDigestMut);

/// The compression δ is twice this. A centroid in the middle then holds at most
/// (4·ln(n/δ) + 24) / 4δ of n values (Dunning and Ertl, scale function k₂):
/// 2.5 % of a billion, and half of that is the error.
const K: u16 = 400;

impl Default for Quantiles {
    fn default() -> Self {
        Self(TDigestMut::new(K).unwrap_or_else(|error| unreachable!("a constant size is refused: {error}")))
    }
}

numeric!(Quantiles);

impl Quantiles {
    /// The number of values.
    pub fn count(&self) -> u64 {
        self.0.total_weight()
    }

    /// The value below which `rank` of the values lie, from 0 for the smallest
    /// to 1 for the largest; `None` without values, or for another rank.
    pub fn quantile(&self, rank: f64) -> Option<f64> {
        self.0.clone().quantile(rank).ok().flatten()
    }

    /// Several quantiles at once, which is cheaper than one by one.
    pub fn quantiles(&self, ranks: &[f64]) -> Option<Vec<f64>> {
        self.0.clone().quantiles(ranks).ok().flatten()
    }

    /// The part of the values that lie below `value`; `None` without values.
    pub fn rank(&self, value: f64) -> Option<f64> {
        self.0.clone().rank(value).ok().flatten()
    }

    /// Adds what `later` stands for.
    pub fn merge(&mut self, later: &Self) {
        self.0.merge(&later.0);
    }

    fn add_present(&mut self, chunk: &[f64]) {
        if chunk.len() < SORTED_MIN {
            return chunk.iter().for_each(|&value| self.0.update(value));
        }
        // The digest sorts what it holds whenever it is full. Its sort finds
        // runs, and a run is far cheaper made here, without comparisons.
        sorted(chunk, |value| self.0.update(value));
    }
}

/// Below this many values, sorting them by digits is not worth its tables.
const SORTED_MIN: usize = 128;

/// Gives `take` the values in ascending order.
///
/// Source: radix sort from the lowest digit, Knuth, "The Art of Computer
/// Programming" 3, 5.2.5; the order of a float's bits as IEEE 754, 5.10.
fn sorted(values: &[f64], mut take: impl FnMut(f64)) {
    // A negative number's bits fall as it grows: turn all of them, or else only
    // the sign, so that they grow with it.
    let key = |value: &f64| {
        let bits = value.to_bits();
        bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
    };
    let value = |key: u64| f64::from_bits(key ^ (((!key as i64 >> 63) as u64) | 1 << 63));
    let mut keys: Vec<u64> = values.iter().map(key).collect();
    let mut spare = vec![0; keys.len()];
    let mut counts = [[0u32; 256]; 8];
    for key in &keys {
        for (digit, byte) in key.to_le_bytes().into_iter().enumerate() {
            counts[digit][usize::from(byte)] += 1;
        }
    }
    for (digit, counts) in counts.iter_mut().enumerate() {
        if counts.iter().any(|&count| count as usize == keys.len()) {
            continue;
        }
        let mut next = 0;
        for count in counts.iter_mut() {
            (*count, next) = (next, next + *count);
        }
        for key in &keys {
            let place = &mut counts[usize::from((key >> (8 * digit)) as u8)];
            spare[*place as usize] = *key;
            *place += 1;
        }
        std::mem::swap(&mut keys, &mut spare);
    }
    keys.into_iter().for_each(|key| take(value(key)));
}

impl From<Quantiles> for Vec<u8> {
    fn from(mut quantiles: Quantiles) -> Self {
        quantiles.0.serialize()
    }
}

impl TryFrom<Vec<u8>> for Quantiles {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        TDigestMut::deserialize(&bytes).map(Self).map_err(|error| error.to_string())
    }
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::super::checks::{merged, travelled, values};
    use super::*;

    /// Ranks found must be within this of the asked ones.
    const RANK_ERROR: f64 = 0.02;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn parts_stay_within_the_bound(values in values(), cut in 0..3000usize, rank in 0.0..1.0f64) {
            let digest = merged(&values, cut, Quantiles::extend, Quantiles::merge);
            let digest = travelled(&digest);
            let mut sorted: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
            sorted.sort_by(f64::total_cmp);
            prop_assert_eq!(digest.count(), sorted.len() as u64);
            let Some(found) = digest.quantile(rank) else {
                prop_assert!(sorted.is_empty());
                return Ok(());
            };
            // The ranks that the found value covers, and one value's worth.
            let n = sorted.len() as f64;
            let slack = RANK_ERROR + 1.0 / n;
            let below = sorted.partition_point(|v| *v < found) as f64 / n;
            let upto = sorted.partition_point(|v| *v <= found) as f64 / n;
            prop_assert!(below - slack <= rank && rank <= upto + slack, "{rank} in {below}..{upto}");
        }

        #[test]
        fn the_same_parts_give_the_same_bytes(values in values(), cut in 0..3000usize) {
            let digest = || Vec::from(merged(&values, cut, Quantiles::extend, Quantiles::merge));
            prop_assert_eq!(digest(), digest());
        }
    }

    proptest! {
        #[test]
        fn sorting_sorts(mut values in prop::collection::vec(prop::num::f64::ANY, 0..300)) {
            let mut found = Vec::new();
            sorted(&values, |value| found.push(value.to_bits()));
            values.sort_by(f64::total_cmp);
            prop_assert_eq!(found, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Quantiles::try_from(vec![1, 2, 3]).is_err());
        assert_eq!(Quantiles::default().quantile(0.5), None);
    }
}
