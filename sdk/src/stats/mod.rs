// SPDX-License-Identifier: Apache-2.0
//! Summaries of columns that can be folded in parts.
//!
//! It owns what most aggregates need: each summary takes values, merges with
//! another one that stands for later values, serialises, and answers. A NaN is
//! taken for a missing value and left out everywhere. Invariant: the same
//! values in the same parts, merged in the same order, give the same bytes; and
//! `MinMax`, `Histogram` and `Distinct` give the same whatever the parts. What is
//! kept of a summary may be infinite or NaN, for which JSON has no words: store it in
//! a binary form such as postcard, as jobs do.
//!
//! | summary | answers | merge | error |
//! |---|---|---|---|
//! | [`Moments`] | count, mean, variance, skewness, kurtosis | in order | rounding |
//! | [`Variance`] | count, mean, variance, in less time | in order | rounding |
//! | [`MinMax`] | smallest and largest | any order | none |
//! | [`Histogram`] | counts in bins of equal width | any order | none |
//! | [`Quantiles`] | median and other quantiles | in order | none for up to 512 different values; 2 % of rank, far less at the ends |
//! | [`Distinct`] | number of distinct values | any order | 0.8 %, one standard deviation |
//! | [`TopK`] | most frequent texts | in order | bounds given with each count |
//!
//! ```
//! use fanfold_sdk::stats::{MinMax, Moments};
//!
//! let (mut early, mut late) = (Moments::default(), Moments::default());
//! early.extend(&[1.0, 2.0]);
//! late.extend(&[3.0, 4.0, f64::NAN]);
//! early.merge(&late);
//! assert_eq!((early.count(), early.mean(), early.variance()), (4, Some(2.5), Some(1.25)));
//!
//! let mut range = MinMax::default();
//! range.extend(&[3.0, -1.0]);
//! assert_eq!((range.min(), range.max()), (Some(-1.0), Some(3.0)));
//! ```

mod centroids;
mod distinct;
mod histogram;
mod minmax;
mod moments;
mod pair;
mod quantiles;
mod sorted;
mod topk;
mod variance;

pub use distinct::{Distinct, Key};
pub use histogram::Histogram;
pub use minmax::MinMax;
pub use moments::Moments;
pub use quantiles::Quantiles;
pub use topk::{TopItem, TopK};
pub use variance::Variance;

/// Values handled at a time: they stay in the nearest cache, and sums over them
/// lose little.
const CHUNK: usize = 1024;

/// Gives `take` the values that are no NaN, in chunks, in order.
fn present<const CHUNK: usize>(values: &[f64], mut take: impl FnMut(&[f64])) {
    for chunk in values.chunks(CHUNK) {
        if !any_nan(chunk) {
            take(chunk);
            continue;
        }
        let mut kept = [0.0; CHUNK];
        let mut count = 0;
        for value in chunk {
            kept[count] = *value;
            count += usize::from(!value.is_nan());
        }
        take(&kept[..count]);
    }
}

/// Whether any value is NaN.
fn any_nan(values: &[f64]) -> bool {
    not_finite(values) && values.iter().any(|value| value.is_nan())
}

/// Whether any value is NaN or infinite: what such a one less itself is, zero is not.
// Not in line, as all loops over pairs: in a large function a guest's loop has in memory what it counts and adds up.
#[inline(never)]
#[allow(clippy::eq_op, reason = "it is zero but for what is not finite")]
fn not_finite(values: &[f64]) -> bool {
    let mut zeros = [pair::Pair::twice(0.0); 4];
    let rest = pair::in_blocks(values, |n, pair| zeros[n % 4] = zeros[n % 4] + (pair - pair));
    let zeros = zeros.into_iter().flat_map(pair::Pair::numbers);
    zeros.chain(rest.iter().map(|value| value - value)).any(|zero| zero != 0.0)
}

/// Gives `take` the values of an array that are neither null nor NaN.
#[cfg(feature = "tables")]
fn present_in<const CHUNK: usize>(array: &arrow::array::Float64Array, mut take: impl FnMut(&[f64])) {
    use arrow::array::Array;

    let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return present::<CHUNK>(array.values(), take);
    };
    for (index, chunk) in array.values().chunks(CHUNK).enumerate() {
        let mut kept = [0.0; CHUNK];
        let mut count = 0;
        for (offset, value) in chunk.iter().enumerate() {
            kept[count] = *value;
            count += usize::from(nulls.is_valid(index * CHUNK + offset) & !value.is_nan());
        }
        take(&kept[..count]);
    }
}

/// The ways in for numbers, which all numeric summaries share. `add_at_once` adds what holds no NaN, or says that it
/// has added nothing, as there may be one: most summaries see by themselves whether there is, without looking at each
/// value before.
macro_rules! numeric {
    ($summary:ty) => {
        $crate::stats::numeric!($summary, in chunks of $crate::stats::CHUNK);
    };
    ($summary:ty, of chunks with their sum) => {
        $crate::stats::numeric!($summary);

        impl $summary {
            /// With a NaN in it a sum is no number.
            fn add_at_once(&mut self, chunk: &[f64]) -> bool {
                let sum = $crate::stats::variance::sum(chunk);
                if sum.is_finite() && !chunk.is_empty() {
                    self.merge(&Self::of_chunk(chunk, sum));
                }
                sum.is_finite()
            }

            fn add_present(&mut self, chunk: &[f64]) {
                if !chunk.is_empty() {
                    self.merge(&Self::of_chunk(chunk, $crate::stats::variance::sum(chunk)));
                }
            }
        }
    };
    ($summary:ty, in chunks of $chunk:expr) => {
        impl $summary {
            /// Adds one value; a NaN is left out.
            pub fn add(&mut self, value: f64) {
                self.extend(&[value]);
            }

            /// Adds values; NaNs are left out. Far faster than one by one.
            pub fn extend(&mut self, values: &[f64]) {
                for chunk in values.chunks($chunk) {
                    if !self.add_at_once(chunk) {
                        $crate::stats::present::<{ $chunk }>(chunk, |chunk| self.add_present(chunk));
                    }
                }
            }

            /// Adds a column; nulls and NaNs are left out.
            #[cfg(feature = "tables")]
            pub fn extend_from_array(&mut self, array: &arrow::array::Float64Array) {
                if arrow::array::Array::null_count(array) == 0 {
                    return self.extend(array.values());
                }
                $crate::stats::present_in::<{ $chunk }>(array, |chunk| self.add_present(chunk));
            }
        }

        impl Extend<f64> for $summary {
            fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
                values.into_iter().for_each(|value| self.add(value));
            }
        }
    };
}
use numeric;

// States travel as postcard, which `tables` brings.
#[cfg(all(test, feature = "tables"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
pub(crate) mod checks {
    //! What the property tests of all summaries share.

    use proptest::prelude::*;

    /// Values of very different sizes, NaNs among them.
    pub(crate) fn values() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            8 => -1e3..1e3f64,
            2 => -1e9..1e9f64,
            1 => Just(0.0),
            1 => Just(-0.0),
            1 => Just(f64::NAN),
        ];
        prop::collection::vec(value, 0..3000)
    }

    /// A summary of the parts that `values` falls into at `cut`, merged.
    pub(crate) fn merged<S: Default>(
        values: &[f64],
        cut: usize,
        extend: impl Fn(&mut S, &[f64]),
        merge: impl Fn(&mut S, &S),
    ) -> S {
        let (early, late) = values.split_at(cut.min(values.len()));
        let (mut first, mut second) = (S::default(), S::default());
        extend(&mut first, early);
        extend(&mut second, late);
        merge(&mut first, &second);
        first
    }

    /// The same value after the way to bytes and back, as a state goes it.
    pub(crate) fn travelled<S: serde::Serialize + serde::de::DeserializeOwned>(summary: &S) -> S {
        postcard::from_bytes(&postcard::to_allocvec(summary).unwrap()).unwrap()
    }
}
