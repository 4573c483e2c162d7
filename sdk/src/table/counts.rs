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
    let mut seen = Seen { slots: vec![Slot::default(); SLOTS_MIN], used: 0 };
    count(texts, &mut seen);
    let used = seen.slots.iter().filter(|slot| slot.row > 0);
    let mut counts: Vec<_> = used.map(|slot| (texts.value(slot.row as usize - 1), slot.count)).collect();
    counts.sort_unstable();
    counts
}

/// Kept apart from its callers, so that fewer values of theirs take registers from its loop.
#[inline(never)]
fn count(texts: &StringArray, seen: &mut Seen) {
    let (bytes, all) = (texts.value_data(), texts.null_count() == 0);
    for (row, offsets) in texts.value_offsets().array_windows::<2>().enumerate() {
        if all || texts.is_valid(row) {
            let (start, length) = (offsets[0] as usize, (offsets[1] - offsets[0]) as usize);
            seen.add(&bytes[start..], length, row, texts);
        }
    }
}

/// The texts so far, found by open addressing.
///
/// Source: Knuth, "The Art of Computer Programming" 3, 6.4, algorithm L and
/// multiplicative hashing.
struct Seen {
    /// A power of two of them, half of them empty.
    slots: Vec<Slot>,
    used: usize,
}

/// A text and how often it was there.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Of its mark, whose length is below: together they are 32 bytes.
    first: u64,
    last: u64,
    count: u64,
    length: u32,
    /// From 1, where it was first; 0 for none.
    row: u32,
}

impl Slot {
    #[inline]
    fn mark(&self) -> Mark {
        Mark { first: self.first, last: self.last, length: self.length }
    }
}

impl Seen {
    /// Counts the text that `bytes` begins with.
    #[inline]
    fn add(&mut self, bytes: &[u8], length: usize, row: usize, texts: &StringArray) {
        let mark = Mark::of(bytes, length);
        let last = self.slots.len() - 1;
        let mut at = mark.slot(self.slots.len());
        loop {
            let slot = &mut self.slots[at & last];
            if slot.row == 0 {
                let Mark { first, last, length } = mark;
                *slot = Slot { first, last, count: 1, length, row: row as u32 + 1 };
                break;
            }
            let is_same = || mark.is_all() || equal(first_of(texts, slot.row), &bytes[..length]);
            if slot.mark() == mark && is_same() {
                slot.count += 1;
                return;
            }
            at += 1;
        }
        self.used += 1;
        if self.used * 2 > self.slots.len() {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let mut slots = vec![Slot::default(); self.slots.len() * 4];
        let last = slots.len() - 1;
        for slot in self.slots.iter().filter(|slot| slot.row > 0) {
            let mut at = slot.mark().slot(slots.len());
            while slots[at].row > 0 {
                at = (at + 1) & last;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

fn first_of(texts: &StringArray, row: u32) -> &[u8] {
    texts.value(row as usize - 1).as_bytes()
}

/// What tells texts apart, but for long ones that are alike by chance.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// The first word; of long texts, a hash of all.
    first: u64,
    last: u64,
    length: u32,
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
            let first = if length <= 2 * WORD { word(words.first()) } else { hash(words) };
            (first, word(text.last_chunk()))
        } else if let Some(all) = bytes.first_chunk() {
            (word(Some(all)) & ((1 << (8 * length)) - 1), 0)
        } else {
            (bytes[..length].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0)
        };
        Self { first, last, length: length as u32 }
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

/// A hash of the words of a long text. Apart from the loop over texts, as `equal` is: what
/// these take of registers it would lack.
#[inline(never)]
fn hash(words: &[[u8; WORD]]) -> u64 {
    // Only the turn waits for the word before, and not its product.
    let join =
        |sum: u64, word: &[u8; WORD]| sum.rotate_left(23) ^ u64::from_le_bytes(*word).wrapping_mul(SPREAD);
    let (fours, rest) = words.as_chunks::<4>();
    let sum = fours.iter().fold(0, |sum, four| four.iter().fold(sum, join));
    rest.iter().fold(sum, join)
}

/// Compares texts whose marks are equal, and with them their lengths and last words.
#[inline(never)]
fn equal(a: &[u8], b: &[u8]) -> bool {
    let (words, others) = (a.as_chunks::<WORD>().0, b.as_chunks::<WORD>().0);
    let differ = |a: &[u8; WORD], b: &[u8; WORD]| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
    words.iter().zip(others).fold(0, |all, (a, b)| all | differ(a, b)) == 0
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
