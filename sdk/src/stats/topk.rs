// SPDX-License-Identifier: Apache-2.0
//! The most frequent texts of a column.
//!
//! It owns a thin cover of the frequent-items sketch of Apache DataSketches, and what
//! stands in it for long texts: their beginning and a hash of the whole, since a state
//! has room for many texts but not for all of their bytes.
//! Sources: Misra and Gries, "Finding repeated elements", 1982; Anderson,
//! Bevan, Lang, Liberty, Rhodes and Thaler, "A high-performance algorithm for
//! identifying frequent items in data streams", arXiv:1705.07001; Fowler, Noll and Vo,
//! FNV-1a with 64 bits. Invariant: the true count of an item always lies within the
//! bounds given with it, unless two long texts are alike in their beginning and hash.

use datasketches::frequencies::{ErrorType, FrequentItemsSketch, Row};
use serde::{Deserialize, Serialize};

/// The smallest table kept; counts are exact up to three quarters of it.
const TABLE_MIN: usize = 1024;
/// The largest table kept. In a state of 8 MiB it has room for texts of 70 bytes on
/// average, and one of 2^15 for those of any length.
const TABLE_MAX: usize = 1 << 17;
/// Bytes of a text up to which it is kept whole, and of the beginning of longer ones.
const WHOLE_BYTES: usize = 256;
/// Bytes of the hash behind a beginning, as hexadecimal digits.
const HASH_BYTES: usize = 16;

/// The most frequent texts, and how often they came.
///
/// Counts are exact as long as there are no more than 768 distinct texts, or 12
/// times as many as `k` when that is more.
///
/// Of texts beyond 256 bytes only the beginning is kept, though they are told apart by
/// all of them: see [`TopItem::cut`]. A state of the default size takes 220 KiB at most.
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
    /// The text, or how it begins.
    pub item: String,
    /// Whether there is more to the text: it has more than 256 bytes.
    #[serde(default)]
    pub cut: bool,
    /// It came at least so often,
    pub count_min: u64,
    /// and at most so often.
    pub count_max: u64,
}

impl TopK {
    /// Room for the `k` most frequent texts, at most 8,192 of them. For up to 2,048 a
    /// state of 8 MiB has room whatever the texts are, for more they must be short.
    pub fn new(k: usize) -> Self {
        let table = k.saturating_mul(16).clamp(TABLE_MIN, TABLE_MAX).next_power_of_two();
        let sketch = FrequentItemsSketch::new(table);
        Self(sketch.unwrap_or_else(|error| unreachable!("a power of two is refused: {error}")))
    }

    /// Adds a text.
    #[inline]
    pub fn add(&mut self, item: &str) {
        self.add_count(item, 1);
    }

    /// Adds a text that came `count` times.
    #[inline]
    pub fn add_count(&mut self, item: &str, count: u64) {
        if item.len() <= WHOLE_BYTES {
            self.0.update_with_count_ref(item, count);
        } else {
            self.0.update_with_count(shortened(item), count);
        }
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

    /// Up to `k` texts, the most frequent first, equal ones by their bytes. A text that is
    /// not among all of them came [`TopK::error`] times at most: so those whose `count_min`
    /// is above that are more frequent for certain, and others need not be.
    pub fn top(&self, k: usize) -> Vec<TopItem> {
        // No threshold: with one, few items of a flat distribution would be
        // left out though they are exact.
        let rows = self.0.frequent_items_with_threshold(ErrorType::NoFalseNegatives, 0);
        let mut rows: Vec<_> = rows.iter().collect();
        rows.sort_by(|a, b| b.upper_bound().cmp(&a.upper_bound()).then_with(|| a.item().cmp(b.item())));
        let item = |row: &Row<String>| {
            let (item, cut) = shown(row.item());
            TopItem { item: item.to_owned(), cut, count_min: row.lower_bound(), count_max: row.upper_bound() }
        };
        rows.into_iter().take(k).map(item).collect()
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

/// What stands for a long text: longer than any that is kept whole, and so none of them.
#[inline(never)]
fn shortened(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}{hash:0HASH_BYTES$x}", &text[..text.floor_char_boundary(WHOLE_BYTES)])
}

/// What there is to show of what stands for a text, and whether there is more to it.
fn shown(item: &str) -> (&str, bool) {
    if item.len() <= WHOLE_BYTES {
        return (item, false);
    }
    (&item[..item.floor_char_boundary(item.len() - HASH_BYTES)], true)
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

    #[test]
    fn long_texts_are_told_apart_by_all_of_their_bytes() {
        // Byte 256 is within a character.
        let begin = format!("a{}", "é".repeat(500));
        let texts = [format!("{begin}x"), format!("{begin}y"), "b".repeat(256), "b".repeat(257)];
        let mut top = TopK::default();
        for (n, text) in texts.iter().enumerate() {
            top.add(text);
            top.add_count(text, 2 * n as u64);
        }
        let merged = {
            let mut merged = travelled(&top);
            merged.merge(&travelled(&top));
            merged.top(9)
        };
        let seen: Vec<_> = merged
            .iter()
            .map(|item| (item.item.as_str(), item.cut, item.count_min, item.count_max))
            .collect();
        let (short, whole) = (format!("a{}", "é".repeat(127)), "b".repeat(256));
        let expected =
            [(&*whole, true, 14, 14), (&*whole, false, 10, 10), (&*short, true, 6, 6), (&*short, true, 2, 2)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_state_of_long_texts_is_small() {
        let mut top = TopK::default();
        for n in 0..768 {
            top.add(&format!("{n}{}", "long ".repeat(3_000)));
        }
        assert_eq!(top.top(usize::MAX).len(), 768);
        let bytes = postcard::to_allocvec(&top).unwrap().len();
        assert!(bytes < 220 << 10, "{bytes}");
    }
}
