// SPDX-License-Identifier: Apache-2.0
//! A column of texts as a dictionary, and how often each text is there.
//!
//! It owns the telling apart of texts that repeat, which is what most columns of text
//! hold, so that what is done with a text is done once for each. Texts are told apart
//! by words of eight bytes: WebAssembly has no instruction that compares or hashes
//! bytes. Invariant: the answer depends on nothing but the texts and their order; who
//! chooses texts that all collide makes it slow, up to the deadline.

use arrow::array::{Array, DictionaryArray, StringArray, UInt32Array};
use arrow::datatypes::UInt32Type;

/// Slots of a table that has seen few texts; a power of two.
const SLOTS_MIN: usize = 256;
/// Places for long texts that are likely to come again; a power of two.
const LIKELY: usize = 256;
const WORD: usize = size_of::<u64>();
/// 2⁶⁴ over the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Each text of a column once, in the order in which they come first, and of each row
/// the text's place among those; nulls stay null.
///
/// # Example
///
/// ```
/// use fanfold_sdk::{arrow::array::{AsArray, StringArray}, table::dictionary};
///
/// let column = StringArray::from(vec![Some("own"), Some("rent"), None, Some("own")]);
/// let column = dictionary(&column);
/// assert_eq!(column.values().as_string(), &StringArray::from(vec!["own", "rent"]));
/// assert_eq!(column.keys().iter().collect::<Vec<_>>(), [Some(0), Some(1), None, Some(0)]);
/// ```
pub fn dictionary(texts: &StringArray) -> DictionaryArray<UInt32Type> {
    let mut seen = Seen::default();
    let mut keys = vec![0; texts.len()];
    seen.each(texts, |row, key| keys[row] = key);
    let values = StringArray::from_iter_values(seen.texts(texts));
    DictionaryArray::new(UInt32Array::new(keys.into(), texts.nulls().cloned()), std::sync::Arc::new(values))
}

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
    let mut seen = Seen::default();
    let mut counts = Vec::new();
    seen.each(texts, |_, key| match counts.get_mut(key as usize) {
        Some(count) => *count += 1,
        None => counts.push(1),
    });
    let mut counts: Vec<_> = seen.texts(texts).zip(counts).collect();
    counts.sort_unstable();
    counts
}

/// The texts so far, found by open addressing.
///
/// Source: Knuth, "The Art of Computer Programming" 3, 6.4, algorithm L and
/// multiplicative hashing.
struct Seen {
    /// A power of two of them, half of them empty.
    slots: Vec<Slot>,
    /// Of each text the row where it came first: its place here is its key.
    rows: Vec<u32>,
    /// Long texts, each in the place of those that begin and end like it and are as long: the last one of them that
    /// was looked up. What is compared with it need not be hashed.
    likely: [Likely; LIKELY],
}

/// A text that was seen.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Of its mark, whose length is below: together they are 24 bytes.
    first: u64,
    last: u64,
    length: u32,
    /// From 1; 0 for none.
    key: u32,
}

/// Where a long text lies that was seen.
#[derive(Clone, Copy, Default)]
struct Likely {
    start: u32,
    length: u32,
    key: u32,
}

impl Slot {
    #[inline]
    fn mark(&self) -> Mark {
        Mark { first: self.first, last: self.last, length: self.length }
    }
}

impl Default for Seen {
    fn default() -> Self {
        let likely = [Likely::default(); LIKELY];
        Self { slots: vec![Slot::default(); SLOTS_MIN], rows: Vec::new(), likely }
    }
}

impl Seen {
    /// Gives `take` each row that is not null with its text's key. Not in line, and with no more in its loop than a
    /// text needs that was seen: a guest's registers are few, and around a call it keeps nothing in them.
    #[inline(never)]
    fn each(&mut self, texts: &StringArray, mut take: impl FnMut(usize, u32)) {
        let (bytes, all) = (texts.value_data(), texts.null_count() == 0);
        for (row, offsets) in texts.value_offsets().array_windows::<2>().enumerate() {
            if all || texts.is_valid(row) {
                let (start, length) = (offsets[0] as usize, (offsets[1] - offsets[0]) as usize);
                let found = if length <= 2 * WORD {
                    self.find(&bytes[start..], length)
                } else {
                    self.find_long(bytes, start, length)
                };
                let key = match found {
                    Some(key) => key,
                    None => self.key(row, texts),
                };
                take(row, key);
            }
        }
    }

    /// The key of the short text that `bytes` begins with, where it is in the first slot to look at.
    #[inline(always)]
    fn find(&self, bytes: &[u8], length: usize) -> Option<u32> {
        let mark = Mark::of_short(bytes.first_chunk()?, length)?;
        let slot = self.slots[mark.slot(self.slots.len()) & (self.slots.len() - 1)];
        (slot.mark() == mark).then(|| slot.key.checked_sub(1)).flatten()
    }

    /// The key of the long text that lies there, where it is the likely one.
    #[inline(always)]
    fn find_long(&self, bytes: &[u8], start: usize, length: usize) -> Option<u32> {
        let text = bytes.get(start..start + length)?;
        let likely = self.likely[place(text)?];
        let known = bytes.get(likely.start as usize..)?.get(..length)?;
        let is_same = likely.length as usize == length && last(known) == last(text) && equal(known, text);
        is_same.then_some(likely.key)
    }

    /// The key of a row's text, which may be new. A long one is likely to come again.
    #[inline(never)]
    fn key(&mut self, row: usize, texts: &StringArray) -> u32 {
        let (key, text) = (self.look_up(row, texts), texts.value(row).as_bytes());
        if let Some(place) = place(text).filter(|_| text.len() > 2 * WORD) {
            let (start, length) = (texts.value_offsets()[row] as u32, text.len() as u32);
            self.likely[place] = Likely { start, length, key };
        }
        key
    }

    fn look_up(&mut self, row: usize, texts: &StringArray) -> u32 {
        let text = texts.value(row).as_bytes();
        let mark = Mark::of(text);
        let last = self.slots.len() - 1;
        let mut at = mark.slot(self.slots.len());
        loop {
            let slot = &self.slots[at & last];
            let Some(key) = slot.key.checked_sub(1) else { return self.add(at & last, mark, row) };
            let is_same = || mark.is_all() || equal(first_of(texts, self.rows[key as usize]), text);
            if slot.mark() == mark && is_same() {
                return key;
            }
            at += 1;
        }
    }

    /// The key of a text that is new, whose slot is empty.
    #[cold]
    fn add(&mut self, at: usize, mark: Mark, row: usize) -> u32 {
        self.rows.push(row as u32);
        let (Mark { first, last, length }, key) = (mark, self.rows.len() as u32);
        self.slots[at] = Slot { first, last, length, key };
        if self.rows.len() * 2 > self.slots.len() {
            self.grow();
        }
        key - 1
    }

    /// The texts, in the order of their keys.
    fn texts<'a>(&self, texts: &'a StringArray) -> impl Iterator<Item = &'a str> {
        self.rows.iter().map(|row| texts.value(*row as usize))
    }

    fn grow(&mut self) {
        let mut slots = vec![Slot::default(); self.slots.len() * 4];
        let last = slots.len() - 1;
        for slot in self.slots.iter().filter(|slot| slot.key > 0) {
            let mut at = slot.mark().slot(slots.len());
            while slots[at].key > 0 {
                at = (at + 1) & last;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

fn first_of(texts: &StringArray, row: u32) -> &[u8] {
    texts.value(row as usize).as_bytes()
}

/// What tells texts apart, but for long ones that are alike by chance.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// The first word; of long texts, a hash of all.
    first: u64,
    /// The second word; of long texts, the last.
    last: u64,
    length: u32,
}

impl Mark {
    fn of(text: &[u8]) -> Self {
        let mut two = [0; 2 * WORD];
        if let Some(begin) = two.get_mut(..text.len()) {
            begin.copy_from_slice(text);
        }
        Self::of_short(&two, text.len()).unwrap_or_else(|| {
            let last = last(text).unwrap_or_default();
            Self { first: hash(text.as_chunks().0), last, length: text.len() as u32 }
        })
    }

    /// The mark of a text of at most two words. What lies behind it is cut off without a branch: which length is next
    /// cannot be told.
    #[inline(always)]
    fn of_short(two: &[u8; 2 * WORD], length: usize) -> Option<Self> {
        let (two, mask) = (u128::from_le_bytes(*two), MASKS.get(length)?);
        let (first, last) = (two as u64 & mask[0], (two >> u64::BITS) as u64 & mask[1]);
        Some(Self { first, last, length: length as u32 })
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

/// What texts of each length up to two words have of them.
static MASKS: [[u64; 2]; 2 * WORD + 1] = {
    let mut masks = [[0; 2]; 2 * WORD + 1];
    let mut length = 1;
    while length < masks.len() {
        masks[length] = masks[length - 1];
        masks[length][(length - 1) / WORD] = masks[length][(length - 1) / WORD] << 8 | 0xff;
        length += 1;
    }
    masks
};

/// The place of a text that is long enough, by its ends and its length.
#[inline(always)]
fn place(text: &[u8]) -> Option<usize> {
    let first = u64::from_le_bytes(*text.first_chunk()?);
    let sum = (mixed(first) ^ last(text)? ^ text.len() as u64).wrapping_mul(SPREAD);
    Some((sum >> (u64::BITS - LIKELY.trailing_zeros())) as usize % LIKELY)
}

/// The last word of a text that has one.
#[inline(always)]
fn last(text: &[u8]) -> Option<u64> {
    text.last_chunk().map(|last| u64::from_le_bytes(*last))
}

/// Spreads every bit over those above it, and brings these down.
#[inline]
fn mixed(word: u64) -> u64 {
    word.wrapping_mul(SPREAD).rotate_left(32)
}

/// A hash of the words of a long text.
#[inline]
fn hash(words: &[[u8; WORD]]) -> u64 {
    // Only the turn waits for the word before, and not its product.
    let join =
        |sum: u64, word: &[u8; WORD]| sum.rotate_left(23) ^ u64::from_le_bytes(*word).wrapping_mul(SPREAD);
    let (fours, rest) = words.as_chunks::<4>();
    let sum = fours.iter().fold(0, |sum, four| four.iter().fold(sum, join));
    rest.iter().fold(sum, join)
}

/// Compares texts of equal lengths and last words.
#[inline]
fn equal(a: &[u8], b: &[u8]) -> bool {
    let (words, others) = (a.as_chunks::<WORD>().0, b.as_chunks::<WORD>().0);
    words.iter().zip(others).all(|(a, b)| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b))
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
        let (that, this) = ("much longer than that", "much longer than this");
        let long = StringArray::from(vec!["before", that, this, that, this, that]);
        assert_eq!(counts(&long.slice(1, 5)), [(that, 3), (this, 2)]);
        assert_eq!(counts(&StringArray::from(Vec::<&str>::new())), []);
        assert_eq!(dictionary(&StringArray::from(Vec::<&str>::new())).len(), 0);
    }

    proptest! {
        #[test]
        fn texts_are_told_apart_as_a_map_does(
            texts in prop::collection::vec(prop::option::of("(begins alike )?[ab]{0,9}( ends alike)?"), 0..300),
        ) {
            let (mut expected, mut keys) = (BTreeMap::new(), BTreeMap::new());
            for text in texts.iter().flatten() {
                *expected.entry(text.as_str()).or_insert(0) += 1;
                let next = keys.len() as u32;
                keys.entry(text.as_str()).or_insert(next);
            }
            let array = StringArray::from_iter(texts.iter().map(Option::as_deref));
            prop_assert_eq!(counts(&array), expected.into_iter().collect::<Vec<_>>());
            let found = dictionary(&array);
            let expected: Vec<_> = texts.iter().map(|text| text.as_deref().map(|text| keys[text])).collect();
            prop_assert_eq!(found.keys().iter().collect::<Vec<_>>(), expected);
            let values = found.downcast_dict::<StringArray>().unwrap();
            prop_assert_eq!(values.into_iter().collect::<Vec<_>>(), array.iter().collect::<Vec<_>>());
        }
    }
}
