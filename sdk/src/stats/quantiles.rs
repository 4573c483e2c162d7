// SPDX-License-Identifier: Apache-2.0
//! The median and other quantiles of more values than one can keep.
//!
//! While the values are few, or the same few again and again as in a column of
//! whole years, they are counted, and their quantiles are exact. Of more it owns a
//! thin cover of the t-digest of Apache DataSketches. Sources:
//! Dunning and Ertl, "Computing extremely accurate quantiles using t-digests",
//! arXiv:1902.04023; Dunning, "The t-digest: efficient estimates of
//! distributions", Software Impacts 7, 2021. It was chosen over KLL because it
//! draws no random bits. Invariant: the same values in the same parts give the
//! same digest.

use datasketches::tdigest::TDigestMut;
use serde::{Deserialize, Serialize};

use super::{
    centroids::{K, of_counts, of_sorted, pair},
    numeric,
    sorted::sorted,
};

/// Quantiles: exact for up to 512 different values, of more to within 2 % of rank
/// at the worst, in the middle of wildly uneven values; far less for smooth ones,
/// and at the ends.
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
    /// At most [`DIFFERENT_MAX`] in ascending order, and how often each came.
    Few(Vec<(f64, u64)>),
    Many(Box<TDigestMut>),
}

/// How many different values are counted.
const DIFFERENT_MAX: usize = 512;

/// Values sorted at a time: so many that the digest is seldom merged, and few enough to stay in a near cache.
const CHUNK: usize = 8192;

/// Before counted values in bytes. A digest's bytes begin with the length of its preamble,
/// which is 1 or 2; with 0 began few values of earlier builds, which counted none.
const FEW: u8 = 3;

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
            Held::Few(counts) => counts.iter().map(|(_, times)| times).sum(),
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
            Held::Few(counts) => ranks.iter().map(|rank| between(counts, *rank)).collect(),
            Held::Many(digest) => digest.clone().quantiles(ranks).ok().flatten(),
        }
    }

    /// The part of the values that lie below `value`; `None` without values.
    pub fn rank(&self, value: f64) -> Option<f64> {
        match &self.0 {
            Held::Few(counts) => {
                let below: u64 =
                    counts.iter().filter(|(found, _)| *found < value).map(|(_, times)| times).sum();
                (!counts.is_empty() && !value.is_nan()).then(|| below as f64 / self.count() as f64)
            }
            // Of those that are `value` itself the digest takes half to be below it.
            Held::Many(digest) => digest.clone().rank(value.next_down()).ok().flatten(),
        }
    }

    /// Adds what `later` stands for.
    pub fn merge(&mut self, later: &Self) {
        match &later.0 {
            Held::Few(counts) => self.add_counts(counts),
            Held::Many(digest) => self.digest().merge(digest),
        }
    }

    fn add_present(&mut self, chunk: &[f64]) {
        if chunk.len() < SORTED_MIN {
            match &mut self.0 {
                Held::Few(_) => {
                    chunk.iter().filter(|x| x.is_finite()).for_each(|&x| self.add_counts(&[(x, 1)]))
                }
                Held::Many(digest) => chunk.iter().for_each(|&value| digest.update(value)),
            }
            return;
        }
        self.add_sorted(&sorted(chunk));
    }

    /// Sorting leaves out NaNs by itself; where few values are left they are not to be sorted.
    fn add_at_once(&mut self, chunk: &[f64]) -> bool {
        if chunk.len() < SORTED_MIN {
            return false;
        }
        let sorted = sorted(chunk);
        let are_many = sorted.len() >= SORTED_MIN;
        if are_many {
            self.add_sorted(&sorted);
        }
        are_many
    }

    fn add_sorted(&mut self, sorted: &[f64]) {
        if let Held::Few(_) = &self.0 {
            let counts: Vec<_> = runs(sorted).take(DIFFERENT_MAX + 1).collect();
            if counts.len() <= DIFFERENT_MAX {
                return self.add_counts(&counts);
            }
        }
        // The digest takes values one by one and sorts what it holds whenever it is
        // full. Sorted here, without comparisons, and handed over as a digest of
        // its own, they are merged in one pass.
        if let Some(part) = of_sorted(sorted) {
            self.digest().merge(&part);
        }
    }

    /// Adds different values, of each so many.
    fn add_counts(&mut self, counts: &[(f64, u64)]) {
        match &mut self.0 {
            Held::Few(held) => {
                for (value, times) in counts {
                    match held.binary_search_by(|(known, _)| known.total_cmp(value)) {
                        Ok(place) => held[place].1 += times,
                        Err(place) => held.insert(place, (*value, *times)),
                    }
                }
                if held.len() > DIFFERENT_MAX {
                    self.digest();
                }
            }
            Held::Many(digest) => {
                if let Some(part) = of_counts(counts) {
                    digest.merge(&part);
                }
            }
        }
    }

    /// The digest of what is held, which it is from now on.
    fn digest(&mut self) -> &mut TDigestMut {
        if let Held::Few(counts) = &self.0 {
            let digest = TDigestMut::new(K);
            let mut digest =
                digest.unwrap_or_else(|error| unreachable!("a constant size is refused: {error}"));
            // Merged, since as it is made it has several times the centroids of a digest.
            if let Some(part) = of_counts(counts) {
                digest.merge(&part);
            }
            self.0 = Held::Many(Box::new(digest));
        }
        match &mut self.0 {
            Held::Many(digest) => digest,
            Held::Few(_) => unreachable!("few values were made a digest"),
        }
    }
}

/// Each value with how often it comes in a row: found in steps twice as long each time, since few values come often.
fn runs(sorted: &[f64]) -> impl Iterator<Item = (f64, u64)> {
    let mut rest = sorted;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let is_same = |value: &f64| value.to_bits() == first.to_bits();
        let mut end = 1;
        while rest.get(end).is_some_and(is_same) {
            end *= 2;
        }
        let within = &rest[end / 2..end.min(rest.len())];
        let run = end / 2 + within.partition_point(is_same);
        rest = &rest[run..];
        Some((first, run as u64))
    })
}

/// The value at `rank`, on the line between the two that are next to it.
///
/// Source: Hyndman and Fan, "Sample quantiles in statistical packages", The
/// American Statistician 50, 1996, definition 7.
fn between(counts: &[(f64, u64)], rank: f64) -> Option<f64> {
    let last = counts.iter().map(|(_, times)| times).sum::<u64>().checked_sub(1)?;
    if !(0.0..=1.0).contains(&rank) {
        return None;
    }
    let at = |place: u64| {
        let upto = counts.iter().scan(0, |upto, (value, times)| {
            *upto += times;
            Some((*upto, *value))
        });
        upto.skip_while(|(upto, _)| *upto <= place).map(|(_, value)| value).next()
    };
    let place = rank * last as f64;
    let (low, high) = (at((place as u64).min(last))?, at((place.ceil() as u64).min(last))?);
    let part = place.fract();
    Some(if low == high { low } else { low * (1.0 - part) + high * part })
}

/// Below this many values, sorting them by digits is not worth its tables.
const SORTED_MIN: usize = 128;

impl From<Quantiles> for Vec<u8> {
    fn from(quantiles: Quantiles) -> Self {
        match quantiles.0 {
            Held::Few(counts) => std::iter::once(FEW)
                .chain(counts.into_iter().flat_map(|(value, times)| pair(value, times)))
                .collect(),
            Held::Many(mut digest) => digest.serialize(),
        }
    }
}

impl TryFrom<Vec<u8>> for Quantiles {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        let Some((&FEW, pairs)) = bytes.split_first() else {
            let digest = TDigestMut::deserialize(&bytes).map_err(|error| error.to_string())?;
            return Ok(Self(Held::Many(Box::new(digest))));
        };
        let (pairs, rest) = pairs.as_chunks::<16>();
        let number = |pair: &[u8; 16]| {
            let (value, times) =
                (u128::from_le_bytes(*pair) as u64, (u128::from_le_bytes(*pair) >> 64) as u64);
            (f64::from_bits(value), times)
        };
        let counts: Vec<_> = pairs.iter().map(number).collect();
        let ascending = counts.is_sorted_by(|(a, _), (b, _)| a.total_cmp(b).is_lt());
        let counted = counts.iter().all(|(value, times)| value.is_finite() && *times > 0);
        let total = counts.iter().try_fold(0_u64, |sum, (_, times)| sum.checked_add(*times));
        if !rest.is_empty() || counts.len() > DIFFERENT_MAX || !ascending || !counted || total.is_none() {
            return Err(format!(
                "expected at most {DIFFERENT_MAX} values in ascending order, each with how often it came, found {} \
                 bytes that are not",
                bytes.len() - 1
            ));
        }
        Ok(Self(Held::Few(counts)))
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
        let values: Vec<f64> = (0..DIFFERENT_MAX / 2 * 3).map(value).collect();
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
    fn values_that_repeat_are_counted_exactly() {
        // Years, one of which is half of them.
        let values: Vec<f64> =
            (0..100_000).map(|n| f64::from(if n % 2 == 0 { 0 } else { n % 400 })).collect();
        let of = |part: usize| {
            let mut all = Quantiles::default();
            for values in values.chunks(part) {
                let mut later = Quantiles::default();
                later.extend(values);
                all.merge(&travelled(&later));
            }
            all
        };
        let bytes = Vec::from(of(values.len()));
        for part in [100, 8_193] {
            assert_eq!(Vec::from(of(part)), bytes, "{part}");
        }
        let all = of(1_000);
        assert_eq!((all.count(), all.rank(0.0), all.rank(1.0)), (100_000, Some(0.0), Some(0.5)));
        assert_eq!(
            (all.rank(200.0), all.rank(201.0), all.rank(202.0)),
            (Some(0.75), Some(0.75), Some(0.7525))
        );
        assert_eq!(all.quantiles(&[0.25, 0.602, 1.0]), Some(vec![0.0, 81.0, 399.0]));
    }

    #[test]
    fn a_value_that_many_have_is_above_its_own_rank() {
        // A third is zero, and those above it are too many to be counted.
        let mut all = Quantiles::default();
        let part = |n: u32| (0..3_000).map(move |i| if i % 3 == 0 { 0.0 } else { f64::from(n * 3_000 + i) });
        for n in 0..40 {
            let mut later = Quantiles::default();
            // Some parts hold few different values, others many.
            later.extend(&part(n).take(if n % 2 == 0 { 600 } else { 3_000 }).collect::<Vec<_>>());
            all.merge(&later);
        }
        let third = 1.0 / 3.0;
        assert_eq!(all.rank(0.0), Some(0.0));
        assert!((all.rank(1.0).unwrap() - third).abs() < RANK_ERROR, "{:?}", all.rank(1.0));
        assert_eq!(all.quantile(0.3), Some(0.0));
        // Of a digest too, where the value is not the least one.
        all.extend(&[-1.0; 200]);
        let below = 200.0 / all.count() as f64;
        assert!((all.rank(0.0).unwrap() - below).abs() < 0.005, "{:?}", all.rank(0.0));
    }

    #[test]
    fn counts_that_became_too_many_take_no_more_room_than_other_digests() {
        let mut all = Quantiles::default();
        for part in 0..2 {
            // Each part has 300 different values, both have 600.
            all.extend(&(0..CHUNK).map(|n| (n % 300 + part * 300) as f64).collect::<Vec<_>>());
        }
        assert_eq!(all.count(), 2 * CHUNK as u64);
        let bytes = Vec::from(all);
        assert!(bytes.len() <= 13 << 10, "{}", bytes.len());
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
        assert!(Quantiles::try_from(vec![FEW, 2, 3]).is_err());
        let few = |pairs: &[(f64, u64)]| {
            let bytes = pairs.iter().flat_map(|(value, times)| pair(*value, *times));
            Quantiles::try_from(std::iter::once(FEW).chain(bytes).collect::<Vec<_>>()).map(|few| few.count())
        };
        assert_eq!(few(&[(1.0, 2), (3.0, 1)]), Ok(3));
        for wrong in [
            [(3.0, 1), (1.0, 1)],
            [(1.0, 0), (2.0, 1)],
            [(1.0, 1), (f64::NAN, 1)],
            [(1.0, u64::MAX), (2.0, 1)],
        ] {
            assert!(few(&wrong).is_err(), "{wrong:?}");
        }
        assert!(Quantiles::try_from(vec![]).is_err());
        assert_eq!(Quantiles::default().quantile(0.5), None);
    }
}
