// SPDX-License-Identifier: Apache-2.0
//! How often each text of a column is there.
//!
//! It owns the counting of texts that repeat, which is what most columns of text
//! hold, for summaries that then take each text once. Texts are told apart by
//! words of eight bytes: WebAssembly has no instruction that compares or hashes
//! bytes. Invariant: the answer depends on nothing but the texts.

use arrow::array::{Array, StringArray};

/// Slots of a table that has seen few texts; a power of two.
const SLOTS_MIN: usize = 256;
const WORD: usize = size_of::<u64>();
/// 2⁶⁴ over the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Each text of a column and how often it is there, in the order of the texts;
/// nulls are left out.
///
/// # Example
///
/// ```
/// use fanfold_sdk::{arrow::array::StringArray, table::counts};
///
/// let column = StringArray::from(vec![Some("own"), Some("rent"), None, Some("own")]);
/// assert_eq!(counts(&column), [("own", 2), ("rent", 1)]);
/// ```
pub fn counts(texts: &StringArray) -> Vec<(&str, u64)> {
    let bytes = texts.value_data();
    let mut seen = Seen { slots: vec![None; SLOTS_MIN], counts: Vec::new() };
    for (row, offsets) in texts.value_offsets().array_windows::<2>().enumerate() {
        if texts.is_valid(row) {
            let (start, length) = (offsets[0] as usize, (offsets[1] - offsets[0]) as usize);
            seen.add(&bytes[start..], length, || texts.value(row));
        }
    }
    let mut counts: Vec<_> = seen.counts.into_iter().map(|(_, text, count)| (text, count)).collect();
    counts.sort_unstable();
    counts
}

/// The texts so far, found by open addressing.
///
/// Source: Knuth, "The Art of Computer Programming" 3, 6.4, algorithm L and
/// multiplicative hashing.
struct Seen<'a> {
    /// The mark of a text and its place among the counts; a power of two of them,
    /// half of them empty.
    slots: Vec<Option<(Mark, u32)>>,
    counts: Vec<(Mark, &'a str, u64)>,
}

impl<'a> Seen<'a> {
    /// Counts the text that `bytes` begins with.
    #[inline]
    fn add(&mut self, bytes: &[u8], length: usize, text: impl FnOnce() -> &'a str) {
        let mark = Mark::of(bytes, length);
        let last = self.slots.len() - 1;
        let mut slot = mark.slot(self.slots.len());
        while let Some((known, at)) = self.slots[slot] {
            let (_, text, count) = &mut self.counts[at as usize];
            if known == mark && (mark.is_all() || equal(text.as_bytes(), &bytes[..length])) {
                *count += 1;
                return;
            }
            slot = (slot + 1) & last;
        }
        self.slots[slot] = Some((mark, self.counts.len() as u32));
        self.counts.push((mark, text(), 1));
        if self.counts.len() * 2 > self.slots.len() {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.slots = vec![None; self.slots.len() * 4];
        let last = self.slots.len() - 1;
        for (at, (mark, ..)) in self.counts.iter().enumerate() {
            let mut slot = mark.slot(self.slots.len());
            while self.slots[slot].is_some() {
                slot = (slot + 1) & last;
            }
            self.slots[slot] = Some((*mark, at as u32));
        }
    }
}

/// What tells texts apart, but for long ones that are alike by chance.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    length: u32,
    /// The first word; of long texts, a hash of all.
    first: u64,
    last: u64,
}

impl Mark {
    /// The mark of the text of so many bytes that `bytes` begins with. What lies
    /// behind a short one is read with it and cut off.
    #[inline]
    fn of(bytes: &[u8], length: usize) -> Self {
        let word = |word: Option<&[u8; WORD]>| word.map_or(0, |word| u64::from_le_bytes(*word));
        let (first, last) = if length >= WORD {
            let text = &bytes[..length];
            let words = text.as_chunks::<WORD>().0;
            let first = if length <= 2 * WORD {
                word(words.first())
            } else {
                words.iter().fold(0, |sum, next| mixed(sum) ^ word(Some(next)))
            };
            (first, word(text.last_chunk()))
        } else if let Some(all) = bytes.first_chunk() {
            (word(Some(all)) & ((1 << (8 * length)) - 1), 0)
        } else {
            (bytes[..length].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0)
        };
        Self { length: length as u32, first, last }
    }

    /// Whether equal marks are equal texts.
    #[inline]
    fn is_all(self) -> bool {
        self.length as usize <= 2 * WORD
    }

    /// Where to look for it first.
    #[inline]
    fn slot(self, slots: usize) -> usize {
        let sum = mixed(self.first) ^ self.last ^ u64::from(self.length);
        (sum.wrapping_mul(SPREAD) >> (u64::BITS - slots.trailing_zeros())) as usize
    }
}

/// Spreads every bit over those above it, and brings these down.
#[inline]
fn mixed(word: u64) -> u64 {
    word.wrapping_mul(SPREAD).rotate_left(32)
}

/// Compares texts of one length word by word.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let ((words, rest), (others, other_rest)) = (a.as_chunks::<WORD>(), b.as_chunks::<WORD>());
    words.iter().zip(others).all(|(a, b)| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b))
        && rest.iter().zip(other_rest).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_counted_whatever_their_length() {
        let texts =
            ["", "a", "a\0", "", "seven77", "eight888", "a", "much longer than that", "eight888", "z"];
        let array = StringArray::from_iter(texts.iter().map(Some).chain([None, Some(&"z")]));
        let expected = [
            ("", 2),
            ("a", 2),
            ("a\0", 1),
            ("eight888", 2),
            ("much longer than that", 1),
            ("seven77", 1),
            ("z", 2),
        ];
        assert_eq!(counts(&array), expected);
        assert_eq!(counts(&array.slice(1, 3)), [("", 1), ("a", 1), ("a\0", 1)]);
        assert_eq!(counts(&StringArray::from(Vec::<&str>::new())), []);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_map(
            texts in prop::collection::vec(prop::option::of("(begins alike )?[ab]{0,9}( ends alike)?"), 0..300),
        ) {
            let mut expected = BTreeMap::new();
            texts.iter().flatten().for_each(|text| *expected.entry(text.as_str()).or_insert(0) += 1);
            let array = StringArray::from_iter(texts.iter().map(Option::as_deref));
            prop_assert_eq!(counts(&array), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
