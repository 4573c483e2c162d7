// SPDX-License-Identifier: Apache-2.0
//! The median and other quantiles of more values than one can keep.
//!
//! Few values are kept as they are, and their quantiles are exact. Of more it
//! owns a thin cover of the t-digest of Apache DataSketches. Sources:
//! Dunning and Ertl, "Computing extremely accurate quantiles using t-digests",
//! arXiv:1902.04023; Dunning, "The t-digest: efficient estimates of
//! distributions", Software Impacts 7, 2021. It was chosen over KLL because it
//! draws no random bits. Invariant: the same values in the same parts give the
//! same digest.

use datasketches::tdigest::TDigestMut;
use serde::{Deserialize, Serialize};

use super::numeric;

/// Quantiles: exact for up to 512 values, of more to within 2 % of rank at the
/// worst, in the middle of wildly uneven values; far less for smooth ones, and
/// at the ends.
///
/// Exact ones lie between two values as R's type 7, NumPy and spreadsheets have
/// it. Keeps up to 13 KiB. Infinite values are left out, as NaNs are.
///
/// ```
/// use fanfold_sdk::stats::Quantiles;
///
/// let mut waits = Quantiles::default();
/// waits.extend(&[3.0, 1.0, 2.0, 10.0]);
/// assert_eq!(waits.quantile(0.5), Some(2.5));
///
/// waits.extend(&(0..1000).map(f64::from).collect::<Vec<_>>());
/// let median = waits.quantile(0.5).unwrap_or(0.0);
/// assert!((median - 500.0).abs() < 10.0);
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Quantiles(Held);

#[derive(Debug, Clone)]
enum Held {
    /// At most [`EXACT_MAX`], in the order in which they came.
    Few(Vec<f64>),
    Many(Box<TDigestMut>),
}

/// How many values are kept as they are.
const EXACT_MAX: usize = 512;

/// The compression δ is twice this. A centroid in the middle then holds at most
/// (4·ln(n/δ) + 24) / 4δ of n values (Dunning and Ertl, scale function k₂):
/// 2.5 % of a billion, and half of that is the error.
const K: u16 = 400;

/// Values sorted at a time: so many that the digest is seldom merged, and few enough to stay in a near cache.
const CHUNK: usize = 8192;

/// Before few values in bytes. A digest's bytes begin with the length of its preamble, which is not 0.
const FEW: u8 = 0;

impl Default for Quantiles {
    fn default() -> Self {
        Self(Held::Few(Vec::new()))
    }
}

numeric!(Quantiles, in chunks of CHUNK);

impl Quantiles {
    /// The number of values.
    pub fn count(&self) -> u64 {
        match &self.0 {
            Held::Few(values) => values.len() as u64,
            Held::Many(digest) => digest.total_weight(),
        }
    }

    /// The value below which `rank` of the values lie, from 0 for the smallest
    /// to 1 for the largest; `None` without values, or for another rank.
    pub fn quantile(&self, rank: f64) -> Option<f64> {
        self.quantiles(&[rank])?.pop()
    }

    /// Several quantiles at once, which is cheaper than one by one.
    pub fn quantiles(&self, ranks: &[f64]) -> Option<Vec<f64>> {
        match &self.0 {
            Held::Few(values) => {
                let mut values = values.clone();
                values.sort_unstable_by(f64::total_cmp);
                ranks.iter().map(|rank| between(&values, *rank)).collect()
            }
            Held::Many(digest) => digest.clone().quantiles(ranks).ok().flatten(),
        }
    }

    /// The part of the values that lie below `value`; `None` without values.
    pub fn rank(&self, value: f64) -> Option<f64> {
        match &self.0 {
            Held::Few(values) => {
                let below = values.iter().filter(|found| **found < value).count();
                (!values.is_empty() && !value.is_nan()).then(|| below as f64 / values.len() as f64)
            }
            Held::Many(digest) => digest.clone().rank(value).ok().flatten(),
        }
    }

    /// Adds what `later` stands for.
    pub fn merge(&mut self, later: &Self) {
        match &later.0 {
            Held::Few(values) => self.add_present(values),
            Held::Many(digest) => self.digest().merge(digest),
        }
    }

    fn add_present(&mut self, chunk: &[f64]) {
        if let Held::Few(values) = &mut self.0 {
            let finite = chunk.iter().filter(|value| value.is_finite());
            // No more of them than there is room for.
            if finite.clone().nth(EXACT_MAX - values.len()).is_none() {
                return values.extend(finite);
            }
        }
        let digest = self.digest();
        if chunk.len() < SORTED_MIN {
            return chunk.iter().for_each(|&value| digest.update(value));
        }
        // The digest takes values one by one and sorts what it holds whenever it is
        // full. Sorted here, without comparisons, and handed over as a digest of
        // its own, they are merged in one pass.
        if let Some(part) = of_sorted(&sorted(chunk)) {
            digest.merge(&part);
        }
    }

    /// The digest of what is held, which it is from now on.
    fn digest(&mut self) -> &mut TDigestMut {
        if let Held::Few(values) = &self.0 {
            let digest = TDigestMut::new(K);
            let mut digest =
                digest.unwrap_or_else(|error| unreachable!("a constant size is refused: {error}"));
            values.iter().for_each(|&value| digest.update(value));
            self.0 = Held::Many(Box::new(digest));
        }
        match &mut self.0 {
            Held::Many(digest) => digest,
            Held::Few(_) => unreachable!("few values were made a digest"),
        }
    }
}

/// The value at `rank`, on the line between the two that are next to it.
///
/// Source: Hyndman and Fan, "Sample quantiles in statistical packages", The
/// American Statistician 50, 1996, definition 7.
fn between(sorted: &[f64], rank: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    if !(0.0..=1.0).contains(&rank) {
        return None;
    }
    let place = rank * last as f64;
    let (low, high) = (sorted[place as usize], sorted[place.ceil() as usize]);
    let part = place.fract();
    Some(if low == high { low } else { low * (1.0 - part) + high * part })
}

/// Below this many values, sorting them by digits is not worth its tables.
const SORTED_MIN: usize = 128;

/// So many values at each end of a part are centroids of their own, and between those
/// every [`GROUP`] are one.
///
/// At the r-th value from an end, a centroid may hold r·(4·ln(n/δ) + 24) / δ (see
/// [`K`]), which from here on is 7 at least and grows with n. So a digest would not have
/// kept them apart either, wherever the part's values lie among all.
const OUTER: usize = 256;
const GROUP: usize = 8;

/// The digest of these values; `None` without values.
///
/// It is made in the form in which digests travel, the one way to hand over many
/// at once. Source: Apache DataSketches, the double precision image of a t-digest.
fn of_sorted(values: &[f64]) -> Option<TDigestMut> {
    let (first, last) = (values.first()?, values.last()?);
    let (low, rest) = values.split_at(OUTER.min(values.len()));
    let (inner, high) = rest.split_at(rest.len().saturating_sub(OUTER) / GROUP * GROUP);
    let (groups, _) = inner.as_chunks::<GROUP>();
    // Longs before the centroids, version, the family of t-digests; size, flags, unused.
    let mut image = vec![2, 1, 20];
    image.reserve(32 + 16 * (low.len() + groups.len() + high.len()));
    image.extend(K.to_le_bytes());
    image.extend([0; 3]);
    // So many centroids, and no further values.
    image.extend(((low.len() + groups.len() + high.len()) as u64).to_le_bytes());
    image.extend(first.to_le_bytes());
    image.extend(last.to_le_bytes());
    let mut add = |mean: f64, weight: usize| {
        let mut centroid = [0; 16];
        centroid[..8].copy_from_slice(&mean.to_le_bytes());
        centroid[8..].copy_from_slice(&(weight as u64).to_le_bytes());
        image.extend(centroid);
    };
    low.iter().for_each(|value| add(*value, 1));
    groups.iter().for_each(|group| add(mean(group), GROUP));
    high.iter().for_each(|value| add(*value, 1));
    Some(TDigestMut::deserialize(&image).unwrap_or_else(|error| unreachable!("an image of its own: {error}")))
}

/// The mean of values in ascending order. Divided before they are added, so that no sum
/// overflows, and no further out than they are, however it is rounded.
fn mean(group: &[f64; GROUP]) -> f64 {
    group.iter().map(|value| value / GROUP as f64).sum::<f64>().clamp(group[0], group[GROUP - 1])
}

/// The finite ones of the values in ascending order.
///
/// By digits, of which no more than four are looked at: the highest in which the values differ. Those that
/// are alike in all of these are sorted by comparison.
/// Source: radix sort from the lowest digit, Knuth, "The Art of Computer
/// Programming" 3, 5.2.5; the order of a float's bits as IEEE 754, 5.10.
fn sorted(values: &[f64]) -> Vec<f64> {
    const DIGITS: u32 = 4;
    // A negative number's bits fall as it grows: turn all of them, or else only
    // the sign, so that they grow with it.
    let key = |value: &f64| {
        let bits = value.to_bits();
        bits ^ (((bits as i64 >> 63) as u64) | 1 << 63)
    };
    let value = |key: u64| f64::from_bits(key ^ (((!key as i64 >> 63) as u64) | 1 << 63));
    let mut keys: Vec<u64> = values.iter().filter(|value| value.is_finite()).map(key).collect();
    let (low, high) = keys.iter().fold((u64::MAX, 0), |(low, high), key| (low.min(*key), high.max(*key)));
    let shift = u64::BITS.saturating_sub(high.saturating_sub(low).leading_zeros() + 8 * DIGITS);
    let digits = |key: u64| (((key - low) >> shift) as u32).to_le_bytes();
    let mut spare = vec![0; keys.len()];
    let mut counts = [[0u32; 256]; DIGITS as usize];
    for key in &keys {
        for (digit, byte) in digits(*key).into_iter().enumerate() {
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
            let place = &mut counts[usize::from(digits(*key)[digit])];
            spare[*place as usize] = *key;
            *place += 1;
        }
        std::mem::swap(&mut keys, &mut spare);
    }
    if !keys.is_sorted() {
        keys.chunk_by_mut(|a, b| digits(*a) == digits(*b)).for_each(<[u64]>::sort_unstable);
    }
    keys.into_iter().map(value).collect()
}

impl From<Quantiles> for Vec<u8> {
    fn from(quantiles: Quantiles) -> Self {
        match quantiles.0 {
            Held::Few(values) => {
                std::iter::once(FEW).chain(values.into_iter().flat_map(f64::to_le_bytes)).collect()
            }
            Held::Many(mut digest) => digest.serialize(),
        }
    }
}

impl TryFrom<Vec<u8>> for Quantiles {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        let Some((&FEW, values)) = bytes.split_first() else {
            let digest = TDigestMut::deserialize(&bytes).map_err(|error| error.to_string())?;
            return Ok(Self(Held::Many(Box::new(digest))));
        };
        let (values, rest) = values.as_chunks();
        if !rest.is_empty() || values.len() > EXACT_MAX {
            return Err(format!(
                "expected at most {EXACT_MAX} values of 8 bytes, found {} bytes",
                bytes.len() - 1
            ));
        }
        Ok(Self(Held::Few(values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())))
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
        fn sorting_sorts(mut values in prop_oneof![
            prop::collection::vec(prop::num::f64::ANY, 0..300),
            // Alike in every digit that is looked at, beside one that is far.
            prop::collection::vec(prop_oneof![9 => (0..1_000u64).prop_map(near_one), 1 => -9.0..9e9f64], 0..300),
        ]) {
            let found: Vec<u64> = sorted(&values).into_iter().map(f64::to_bits).collect();
            values.retain(|value| value.is_finite());
            values.sort_by(f64::total_cmp);
            prop_assert_eq!(found, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
        }

        #[test]
        fn sorted_values_are_the_digest_that_they_make_one_by_one(
            values in prop::collection::vec(-1e9..1e9f64, 1..300)
        ) {
            let mut one_by_one = TDigestMut::new(K).unwrap();
            values.iter().for_each(|&value| one_by_one.update(value));
            let mut at_once = TDigestMut::new(K).unwrap();
            at_once.merge(&of_sorted(&sorted(&values)).unwrap());
            let found = |digest: &mut TDigestMut| digest.quantiles(&[0.0, 0.1, 0.5, 1.0]).unwrap();
            prop_assert_eq!(found(&mut at_once), found(&mut one_by_one));
        }
    }

    fn near_one(steps: u64) -> f64 {
        f64::from_bits(1.0_f64.to_bits() + steps)
    }

    #[test]
    fn ranks_are_close_whatever_the_order_of_many_values() {
        let n = 200_000_u32;
        // Multiplied by a number without a common divisor, each comes once.
        let mixed = (0..n).map(|i| i.wrapping_mul(70_001) % n);
        let orders: [Vec<u32>; 3] = [mixed.collect(), (0..n).collect(), (0..n).rev().collect()];
        for order in orders {
            let cubes: Vec<f64> = order.iter().map(|i| f64::from(*i).powi(3)).collect();
            let mut quantiles = Quantiles::default();
            cubes.chunks(50_000).for_each(|part| quantiles.extend(part));
            assert_eq!(quantiles.count(), u64::from(n));
            for (rank, error) in [
                (0.0, 0.0),
                (0.0001, 2e-5),
                (0.01, 2e-4),
                (0.25, 2e-3),
                (0.5, 2e-3),
                (0.999, 1e-4),
                (1.0, 1e-5),
            ] {
                let found = quantiles.quantile(rank).unwrap().cbrt() / f64::from(n);
                assert!((found - rank).abs() <= error, "{rank} {found}");
            }
        }
    }

    #[test]
    fn few_values_have_exact_quantiles_in_any_order_and_parts() {
        let mut later = Quantiles::default();
        later.extend(&[1.0, f64::INFINITY, 4.0]);
        let mut all = Quantiles::default();
        all.extend(&[2.0, f64::NAN, 3.0]);
        all.merge(&later);
        let all = travelled(&all);
        assert_eq!(all.count(), 4);
        // As NumPy's `quantile` has it.
        assert_eq!(all.quantiles(&[0.0, 0.25, 0.5, 0.9, 1.0]).unwrap(), [1.0, 1.75, 2.5, 3.7, 4.0]);
        assert_eq!((all.rank(1.0), all.rank(3.5), all.rank(9.0)), (Some(0.0), Some(0.75), Some(1.0)));
        assert_eq!((all.quantile(1.1), all.quantile(f64::NAN)), (None, None));
        let mut two = Quantiles::default();
        two.extend(&[1.0, 2.0]);
        assert_eq!(two.quantile(0.5), Some(1.5));
        let mut far = Quantiles::default();
        far.extend(&[f64::MIN, f64::MAX]);
        assert_eq!(far.quantile(0.5), Some(0.0));
    }

    #[test]
    fn infinite_values_take_no_room_of_few_ones() {
        // Each third value is infinite, and 512 are not.
        let value = |n: usize| if n % 3 == 2 { f64::INFINITY } else { n as f64 };
        let values: Vec<f64> = (0..EXACT_MAX / 2 * 3).map(value).collect();
        let of = |part: usize| {
            let mut quantiles = Quantiles::default();
            values.chunks(part).for_each(|values| quantiles.extend(values));
            quantiles
        };
        let all = of(values.len());
        // By NumPy's definition, over those that are finite.
        assert_eq!((all.count(), all.quantiles(&[0.25, 0.5])), (512, Some(vec![191.5, 383.0])));
        let bytes = Vec::from(all);
        for part in [1, 7, 512] {
            assert_eq!(Vec::from(of(part)), bytes, "{part}");
        }
    }

    #[test]
    fn many_values_are_the_same_however_few_came_first() {
        let values: Vec<f64> = (0..2_000).map(f64::from).collect();
        let mut all = Quantiles::default();
        for value in &values {
            all.add(*value);
        }
        assert_eq!(all.count(), 2_000);
        assert!((all.quantile(0.5).unwrap() - 1_000.0).abs() < 20.0);
        assert_eq!((all.quantile(0.0), all.quantile(1.0)), (Some(0.0), Some(1_999.0)));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Quantiles::try_from(vec![1, 2, 3]).is_err());
        assert!(Quantiles::try_from(vec![0, 2, 3]).is_err());
        assert!(Quantiles::try_from(vec![]).is_err());
        assert_eq!(Quantiles::default().quantile(0.5), None);
    }
}
