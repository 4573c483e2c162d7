// SPDX-License-Identifier: Apache-2.0
//! The most frequent texts of a column.
//!
//! It owns a thin cover of the frequent-items sketch of Apache DataSketches.
//! Sources: Misra and Gries, "Finding repeated elements", 1982; Anderson,
//! Bevan, Lang, Liberty, Rhodes and Thaler, "A high-performance algorithm for
//! identifying frequent items in data streams", arXiv:1705.07001. Invariant:
//! the true count of an item always lies within the bounds given with it.

use datasketches::frequencies::{ErrorType, FrequentItemsSketch};
use serde::{Deserialize, Serialize};

/// The smallest table kept; counts are exact up to three quarters of it.
const TABLE_MIN: usize = 1024;
/// The largest table kept, so that a state stays within its 8 MiB.
const TABLE_MAX: usize = 1 << 17;

/// The most frequent texts, and how often they came.
///
/// Counts are exact as long as there are no more than 768 distinct texts, or 12
/// times as many as `k` when that is more.
///
/// ```
/// use fanfold_sdk::stats::TopK;
///
/// let mut words = TopK::new(10);
/// for word in ["to", "be", "or", "not", "to", "be"] {
///     words.add(word);
/// }
/// let top = words.top(2);
/// assert_eq!((top[0].item.as_str(), top[0].count_min, top[0].count_max), ("be", 2, 2));
/// assert_eq!(top[1].item, "to");
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct TopK(FrequentItemsSketch<String>);

/// A frequent text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopItem {
    /// The text.
    pub item: String,
    /// It came at least so often,
    pub count_min: u64,
    /// and at most so often.
    pub count_max: u64,
}

impl TopK {
    /// Room for the `k` most frequent texts, at most 8,192 of them.
    pub fn new(k: usize) -> Self {
        let table = k.saturating_mul(16).clamp(TABLE_MIN, TABLE_MAX).next_power_of_two();
        let sketch = FrequentItemsSketch::new(table);
        Self(sketch.unwrap_or_else(|error| unreachable!("a power of two is refused: {error}")))
    }

    /// Adds a text.
    #[inline]
    pub fn add(&mut self, item: &str) {
        self.0.update_ref(item);
    }

    /// Adds a text that came `count` times.
    pub fn add_count(&mut self, item: &str, count: u64) {
        self.0.update_with_count_ref(item, count);
    }

    /// Adds a column of texts; nulls are left out.
    #[cfg(feature = "tables")]
    pub fn extend_from_strings(&mut self, array: &arrow::array::StringArray) {
        array.iter().flatten().for_each(|text| self.add(text));
    }

    /// The number of texts added.
    pub fn count(&self) -> u64 {
        self.0.total_weight()
    }

    /// By how much a count may be off at most.
    pub fn error(&self) -> u64 {
        self.0.maximum_error()
    }

    /// Up to `k` texts, the most frequent first, equal ones by their bytes.
    pub fn top(&self, k: usize) -> Vec<TopItem> {
        // No threshold: with one, few items of a flat distribution would be
        // left out though they are exact.
        let rows = self.0.frequent_items_with_threshold(ErrorType::NoFalseNegatives, 0);
        let item = |row: &datasketches::frequencies::Row<String>| TopItem {
            item: row.item().clone(),
            count_min: row.lower_bound(),
            count_max: row.upper_bound(),
        };
        let mut items: Vec<TopItem> = rows.iter().map(item).collect();
        items.sort_by(|a, b| b.count_max.cmp(&a.count_max).then_with(|| a.item.cmp(&b.item)));
        items.truncate(k);
        items
    }

    /// Adds what `later` stands for.
    pub fn merge(&mut self, later: &Self) {
        self.0.merge(&later.0);
    }
}

impl Default for TopK {
    /// Room for the 64 most frequent texts.
    fn default() -> Self {
        Self::new(64)
    }
}

impl From<TopK> for Vec<u8> {
    fn from(top: TopK) -> Self {
        top.0.serialize()
    }
}

impl TryFrom<Vec<u8>> for TopK {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Self, String> {
        FrequentItemsSketch::deserialize(&bytes).map(Self).map_err(|error| error.to_string())
    }
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::checks::travelled;
    use super::*;

    fn of(words: &[u16]) -> TopK {
        let mut top = TopK::new(8);
        words.iter().for_each(|word| top.add(&word.to_string()));
        top
    }

    fn exact(words: &[u16]) -> BTreeMap<String, u64> {
        words.iter().fold(BTreeMap::new(), |mut counts, word| {
            *counts.entry(word.to_string()).or_default() += 1;
            counts
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn counts_are_exact_while_there_are_few(words in prop::collection::vec(0..700u16, 0..5000), cut in 0..5000usize) {
            let (early, late) = words.split_at(cut.min(words.len()));
            let mut merged = travelled(&of(early));
            merged.merge(&travelled(&of(late)));
            let counts = exact(&words);
            let found = merged.top(usize::MAX);
            prop_assert_eq!(found.len(), counts.len());
            for item in &found {
                prop_assert_eq!((item.count_min, item.count_max), (counts[&item.item], counts[&item.item]));
            }
            prop_assert_eq!(merged.top(10), of(&words).top(10));
        }

        #[test]
        fn bounds_hold_when_there_are_many(words in prop::collection::vec(0..20_000u16, 5000..20_000), cut in 0..5000usize) {
            let (early, late) = words.split_at(cut);
            let mut merged = of(early);
            merged.merge(&of(late));
            let counts = exact(&words);
            for item in merged.top(usize::MAX) {
                let count = counts[&item.item];
                prop_assert!(item.count_min <= count && count <= item.count_max);
            }
            // The bound of the paper: 3.5 of the total over the table's size.
            prop_assert!(merged.error() as f64 <= 3.5 * words.len() as f64 / 1024.0);
        }
    }

    #[test]
    fn sizes_are_bounded() {
        for k in [0, 1, 64, 8192, usize::MAX] {
            assert_eq!(TopK::new(k).top(1), []);
        }
    }
}
