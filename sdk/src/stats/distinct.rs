// SPDX-License-Identifier: Apache-2.0
//! How many distinct values there are.
//!
//! It owns a thin cover of the HyperLogLog of Apache DataSketches. Sources:
//! Flajolet, Fusy, Gandouet and Meunier, "HyperLogLog: the analysis of a
//! near-optimal cardinality estimation algorithm", AofA 2007; Heule, Nunkesser
//! and Hall, "HyperLogLog in practice", EDBT 2013. Values are hashed by
//! MurmurHash3 with a fixed seed. Invariant: registers keep maxima, and only
//! they are asked for the estimate, so it does not depend on how the values were
//! parted.

use datasketches::hash::value::{canonical_float, raw_bytes};
use datasketches::hll::{Coupon, HllSketch, HllType, HllUnion};
use serde::{Deserialize, Serialize};

use super::CHUNK;

/// 2¹⁴ registers: 16 KiB once more than about 2,000 values were seen.
const LG_REGISTERS: u8 = 14;

/// The number of distinct values, to within [`Distinct::ERROR`].
///
/// ```
/// use fanfold_sdk::stats::Distinct;
///
/// let mut visitors = Distinct::default();
/// for name in ["ada", "grace", "ada"] {
///     visitors.add(name);
/// }
/// assert_eq!(visitors.estimate().round(), 2.0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Distinct(HllSketch);

/// A value that [`Distinct`] can tell from others. Values of different types
/// are different, but for numbers of different widths.
pub trait Key {
    /// The value's mark in a sketch; a NaN has none.
    #[doc(hidden)]
    fn coupon(&self) -> Option<Coupon>;
}

impl Distinct {
    /// One standard deviation of the estimate, relative: 1.04/√m for m registers
    /// (Flajolet and others, theorem 1), so 0.8 %.
    pub const ERROR: f64 = 1.04 / 128.0;

    /// Adds a value; a NaN is left out.
    #[inline]
    pub fn add(&mut self, value: impl Key) {
        if let Some(coupon) = value.coupon() {
            self.0.update_with_coupon(coupon);
        }
    }

    /// Adds numbers; NaNs are left out.
    pub fn extend(&mut self, values: &[f64]) {
        super::present::<CHUNK>(values, |chunk| chunk.iter().for_each(|value| self.add(*value)));
    }

    /// Adds a column of numbers; nulls and NaNs are left out.
    #[cfg(feature = "tables")]
    pub fn extend_from_array(&mut self, array: &arrow::array::Float64Array) {
        super::present_in::<CHUNK>(array, |chunk| chunk.iter().for_each(|value| self.add(*value)));
    }

    /// Adds a column of texts; nulls are left out.
    #[cfg(feature = "tables")]
    pub fn extend_from_strings(&mut self, array: &arrow::array::StringArray) {
        array.iter().flatten().for_each(|text| self.add(text));
    }

    /// About how many distinct values there were.
    pub fn estimate(&self) -> f64 {
        // The other estimate is a little better before the first merge, and
        // would depend on the order of values.
        self.0.composite_estimate()
    }

    /// Adds what `later` stands for; parts may be merged in any order.
    pub fn merge(&mut self, later: &Self) {
        let mut union = made(HllUnion::new(LG_REGISTERS));
        union.update(&self.0);
        union.update(&later.0);
        self.0 = union.to_sketch(HllType::Hll8);
    }
}

impl Default for Distinct {
    fn default() -> Self {
        Self(made(HllSketch::new(LG_REGISTERS, HllType::Hll8)))
    }
}

/// The library refuses sizes out of range, which the constant is not.
fn made<T>(sketch: Result<T, datasketches::error::Error>) -> T {
    sketch.unwrap_or_else(|error| unreachable!("a constant size is refused: {error}"))
}

impl Key for &str {
    #[inline]
    fn coupon(&self) -> Option<Coupon> {
        Some(Coupon::from_value(raw_bytes::from_str(self)))
    }
}

impl Key for &String {
    fn coupon(&self) -> Option<Coupon> {
        self.as_str().coupon()
    }
}

impl Key for &[u8] {
    fn coupon(&self) -> Option<Coupon> {
        Some(Coupon::from_value(raw_bytes::from_slice(self)))
    }
}

impl Key for f64 {
    #[inline]
    fn coupon(&self) -> Option<Coupon> {
        (!self.is_nan()).then(|| Coupon::from_value(canonical_float::from_f64(*self)))
    }
}

impl Key for u64 {
    #[inline]
    fn coupon(&self) -> Option<Coupon> {
        Some(Coupon::from_value(*self))
    }
}

impl Key for i64 {
    #[inline]
    fn coupon(&self) -> Option<Coupon> {
        Some(Coupon::from_value(*self))
    }
}

impl From<Distinct> for Vec<u8> {
    fn from(distinct: Distinct) -> Self {
        distinct.0.serialize()
    }
}

impl TryFrom<Vec<u8>> for Distinct {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        let sketch = HllSketch::deserialize(&bytes).map_err(|error| error.to_string())?;
        if sketch.lg_config_k() == LG_REGISTERS {
            return Ok(Self(sketch));
        }
        Err(format!("expected 2^{LG_REGISTERS} registers, found 2^{}", sketch.lg_config_k()))
    }
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::super::checks::travelled;
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Distinct {
        let mut distinct = Distinct::default();
        values.into_iter().for_each(|value| distinct.add(value));
        distinct
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_estimate_does_not_depend_on_the_parts(count in 0..30_000u64, a in 0..30_000u64, b in 0..30_000u64) {
            let (low, high) = (a.min(b).min(count), a.max(b).min(count));
            let whole = of(0..count);
            // Parts overlap, come in any order, and merge in any shape.
            let [first, second, third] = [of(0..high), of(low..count), of(low..high)];
            let mut left = travelled(&second);
            left.merge(&first);
            left.merge(&third);
            let mut right = third.clone();
            right.merge(&second);
            let mut first = first;
            first.merge(&right);
            prop_assert_eq!(left.estimate().to_bits(), whole.estimate().to_bits());
            prop_assert_eq!(first.estimate().to_bits(), whole.estimate().to_bits());
            let error = (whole.estimate() - count as f64).abs();
            prop_assert!(error <= 5.0 * Distinct::ERROR * count as f64 + 0.5, "{} for {count}", whole.estimate());
        }
    }

    #[test]
    fn kinds_of_values() {
        let mut distinct = Distinct::default();
        distinct.add("a");
        distinct.add(&"a".to_owned());
        distinct.add(b"b".as_slice());
        distinct.extend(&[0.0, -0.0, 1.5, f64::NAN]);
        distinct.add(f64::NAN);
        assert_eq!(distinct.estimate().round(), 4.0);
    }
}
