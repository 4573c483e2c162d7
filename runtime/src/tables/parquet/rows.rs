// SPDX-License-Identifier: Apache-2.0
//! What single rows of lists take, told from the levels of their items.
//!
//! The decoder holds what is in the rows of one batch: two levels for each item, its value,
//! and the room that lists of fixed size keep. Of a row group whose lists may not be held
//! together the pages are gone through before, which says how many rows may be: even when
//! all that meet in a batch are like the largest. A row never ends here before it does for the decoder,
//! and what cannot be told weighs what it may at most. Runs of equal levels are taken as
//! such, so that few bytes that claim many items take no longer than they are long.
//!
//! Format: parquet-format 2.x, Encodings.md, RLE / bit-packing hybrid (3).

use std::sync::Arc;

use fanfold_protocol::{ErrorKind, Problem, stored::parquet::corrupt};
use parquet::{
    basic::Encoding,
    column::page::{Page, PageReader},
    errors::ParquetError,
    file::{
        metadata::ColumnChunkMetaData, page_index::offset_index::PageLocation,
        serialized_reader::SerializedPageReader,
    },
};

use super::{delta, weight::Leaf};
use crate::tables::{guard::guard, ranges::Sparse};

/// Pages are gone through for so long before others have their turn.
const STEP_BYTES: usize = 4 << 20;
/// What a page counts as besides its bytes.
const PAGE_BYTES: usize = 1 << 10;
/// Levels that are packed together.
const GROUP: u8 = 8;

/// What lists take when they are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    /// Those of all rows.
    pub(super) bytes: u64,
    /// Those of the largest row.
    pub(super) row_bytes_max: u64,
}

impl Lists {
    /// Adds those of another column, whose largest row may be the same.
    pub(super) fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.row_bytes_max = self.row_bytes_max.saturating_add(other.row_bytes_max);
    }
}

/// The pages of a column of lists, which are gone through once. Their headers have been checked.
pub(super) struct Rows {
    pages: SerializedPageReader<Sparse>,
    chunk: ColumnChunkMetaData,
    /// What an item takes by its definition level.
    item_bytes: Vec<u64>,
    /// Whether the pages are kept behind views of their values.
    views: bool,
    weighed: Weighed,
}

impl Rows {
    /// Those of a column chunk: all of its pages, or those at these places.
    pub(super) fn of(
        leaf: &Leaf,
        data: &Sparse,
        chunk: &ColumnChunkMetaData,
        rows: usize,
        places: Option<Vec<PageLocation>>,
    ) -> Result<Self, ParquetError> {
        let pages = SerializedPageReader::new(Arc::new(data.clone()), chunk, rows, places)?;
        let (item_bytes, weighed) = (leaf.item_bytes(), Weighed::default());
        Ok(Self { pages, chunk: chunk.clone(), item_bytes, views: leaf.views, weighed })
    }

    /// What they take. Cancellation safe.
    pub(super) async fn weigh(mut self, place: &str) -> Result<Lists, Problem> {
        let told = || place.to_owned();
        while guard(ErrorKind::ParquetCorrupt, told, || {
            self.step().map_err(|error| corrupt(place, &error.to_string()))
        })? {
            tokio::task::yield_now().await;
        }
        Ok(self.weighed.lists())
    }

    /// Goes through some more pages; false behind the last one.
    fn step(&mut self) -> Result<bool, ParquetError> {
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            let Some(page) = self.pages.get_next_page()? else { return Ok(false) };
            bytes += page.buffer().len() + PAGE_BYTES;
            self.weighed.add_page(&page, &self.chunk, &self.item_bytes, self.views)?;
        }
        Ok(true)
    }
}

/// The repetition and definition levels of a page; none where they are in an encoding of old.
fn levels<'a>(page: &'a Page, chunk: &ColumnChunkMetaData) -> Option<[Levels<'a>; 2]> {
    let buffer: &[u8] = page.buffer();
    let (repetition, definition) = match page {
        Page::DataPageV2 { rep_levels_byte_len, def_levels_byte_len, .. } => {
            let (repetition, rest) = buffer.split_at_checked(*rep_levels_byte_len as usize)?;
            (repetition, rest.get(..*def_levels_byte_len as usize)?)
        }
        Page::DataPage { rep_level_encoding: Encoding::RLE, def_level_encoding: Encoding::RLE, .. } => {
            let (repetition, rest) = prefixed(buffer)?;
            (repetition, prefixed(rest)?.0)
        }
        _ => return None,
    };
    let descriptor = chunk.column_descr();
    let repetition = Levels::of(repetition, descriptor.max_rep_level())?;
    Some([repetition, Levels::of(definition, descriptor.max_def_level())?])
}

/// The bytes behind their length, and those behind them.
fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// The items of a page.
struct Items<'a> {
    /// Their repetition and their definition levels.
    levels: [Levels<'a>; 2],
    count: u64,
    /// What an item takes by its definition level.
    bytes: &'a [u64],
    /// The part of the page that is kept for each.
    behind: u64,
}

/// Rows that were weighed, and the one that has begun.
#[derive(Debug, Default)]
pub(super) struct Weighed {
    bytes: u64,
    row_bytes: u64,
    row_bytes_max: u64,
}

impl Weighed {
    /// Adds the items of the next page, of which each takes so much by its definition level; of `views`
    /// the page is kept as well.
    pub(super) fn add_page(
        &mut self,
        page: &Page,
        chunk: &ColumnChunkMetaData,
        item_bytes: &[u64],
        views: bool,
    ) -> Result<(), ParquetError> {
        if page.is_dictionary_page() {
            return Ok(());
        }
        let count = u64::from(page.num_values());
        let written = if views { delta::written_bytes(page, chunk)? } else { 0 };
        self.add(Items {
            levels: levels(page, chunk).unwrap_or_default(),
            count,
            bytes: item_bytes,
            behind: written.div_ceil(count.max(1)),
        });
        Ok(())
    }

    fn add(&mut self, items: Items<'_>) {
        let most = items.bytes.iter().copied().max().unwrap_or(0);
        let weight = |level: u8| items.bytes.get(usize::from(level)).copied().unwrap_or(most);
        let [mut repetition, mut definition] = items.levels;
        // Whether the next items begin rows, how many of them, and what each of how many takes.
        let (mut begin, mut begins, mut each, mut alike) = (false, 0, 0, 0);
        let mut rest = items.count;
        while rest > 0 {
            if begins == 0 {
                (begin, begins) = repetition.next().map_or((false, rest), |(level, run)| (level == 0, run));
            }
            if alike == 0 {
                (each, alike) = definition.next().map_or((most, rest), |(level, run)| (weight(level), run));
            }
            let run = rest.min(begins).min(alike);
            self.take(begin, each.saturating_add(items.behind), run);
            (begins, alike, rest) = (begins - run, alike - run, rest - run);
        }
    }

    /// Adds items that take so much each: further ones of the row, or each a row.
    fn take(&mut self, begin: bool, each: u64, run: u64) {
        let all = each.saturating_mul(run);
        self.bytes = self.bytes.saturating_add(all);
        if begin {
            let others = if run > 1 { each } else { 0 };
            self.row_bytes_max = self.row_bytes_max.max(self.row_bytes).max(others);
            self.row_bytes = each;
        } else {
            self.row_bytes = self.row_bytes.saturating_add(all);
        }
    }

    pub(super) fn lists(&self) -> Lists {
        Lists { bytes: self.bytes, row_bytes_max: self.row_bytes_max.max(self.row_bytes) }
    }
}

/// Levels of at most eight bits, each with how many like it follow each other. They end where
/// the bytes do.
#[derive(Clone, Copy, Debug, Default)]
struct Levels<'a> {
    bytes: &'a [u8],
    bits: u8,
    /// Groups of packed ones that are still to come.
    groups: u64,
    /// The rest of a group, the next one lowest.
    packed: u64,
    left: u8,
}

impl<'a> Levels<'a> {
    /// Those up to `level`; none where they would take more bits.
    fn of(bytes: &'a [u8], level: i16) -> Option<Self> {
        let bits = u8::try_from(i16::BITS - level.leading_zeros()).ok()?;
        (1..=8).contains(&bits).then_some(Self { bytes, bits, ..Self::default() })
    }
}

impl Iterator for Levels<'_> {
    type Item = (u8, u64);

    fn next(&mut self) -> Option<(u8, u64)> {
        while self.left == 0 {
            if self.groups > 0 {
                let (group, rest) = self.bytes.split_at_checked(usize::from(self.bits))?;
                let mut wide = [0; 8];
                wide[..group.len()].copy_from_slice(group);
                (self.packed, self.left) = (u64::from_le_bytes(wide), GROUP);
                (self.bytes, self.groups) = (rest, self.groups - 1);
                continue;
            }
            let mut at = 0;
            let header = delta::varint(self.bytes, &mut at)?;
            let rest = &self.bytes[at..];
            if header & 1 == 1 {
                (self.bytes, self.groups) = (rest, header >> 1);
                continue;
            }
            // Zeros at the end are no run.
            let (level, rest) = rest.split_first().filter(|_| header > 0)?;
            self.bytes = rest;
            return Some((*level, header >> 1));
        }
        let level = self.packed & ((1_u64 << self.bits) - 1);
        self.packed >>= self.bits;
        self.left -= 1;
        Some((level as u8, 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A run of so many equal levels.
    fn run(count: u64, level: u8) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), count << 1);
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        [bytes, vec![rest as u8, level]].concat()
    }

    #[test]
    fn levels_are_told_from_runs() {
        let check = |bytes: &[u8], level: i16, expected: &[(u8, u64)]| {
            let levels = Levels::of(bytes, level).unwrap();
            assert_eq!(levels.take(99).collect::<Vec<_>>(), expected, "{bytes:?}");
        };
        check(&[], 1, &[]);
        check(&[0, 0, 0], 1, &[]);
        check(&[run(300, 1), run(1, 0)].concat(), 1, &[(1, 300), (0, 1)]);
        // The example of Encodings.md: 0 to 7 in three bits each.
        let packed = [3, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        let each: Vec<_> = (0..8).map(|level| (level, 1)).collect();
        check(&packed, 7, &each);
        check(&[&packed[..], &run(5, 6)].concat(), 7, &[&each[..], &[(6, 5)]].concat());
        // No run has no level, and of no group is a part told.
        check(&packed[..3], 7, &[]);
        check(&[4], 1, &[]);
        check(&[1, 4, 1], 1, &[(1, 2)]);
        assert!(Levels::of(&[], 255).is_some() && Levels::of(&[], 256).is_none());
        assert!(Levels::of(&[], 0).is_none());
    }

    /// Pages of repetition and definition levels up to 1, of so many items that take 4 bytes or 100, and
    /// 10 behind them.
    fn weigh(pages: &[(&[u8], &[u8], u64)]) -> (u64, u64) {
        let mut weighed = Weighed::default();
        for (repetition, definition, count) in pages {
            let levels = [repetition, definition].map(|bytes| Levels::of(bytes, 1).unwrap());
            weighed.add(Items { levels, count: *count, bytes: &[4, 100], behind: 10 });
        }
        let lists = weighed.lists();
        (lists.bytes, lists.row_bytes_max)
    }

    #[test]
    fn the_largest_row_is_told() {
        let check = |pages: &[(&[u8], &[u8], u64)], expected| assert_eq!(weigh(pages), expected);
        check(&[], (0, 0));
        // Two rows of an item each that is not there, one of three, and one of two.
        let repetition = [run(3, 0), run(2, 1), run(1, 0), run(1, 1)].concat();
        let definition = [run(2, 0), run(5, 1)].concat();
        check(&[(&repetition, &definition, 7)], (2 * 14 + 5 * 110, 330));
        // A row that goes on in the next page, of which another follows.
        let on = [run(2, 1), run(1, 0)].concat();
        check(&[(&repetition, &definition, 7), (&on, &run(3, 1), 3)], (2 * 14 + 8 * 110, 440));
        // Whatever levels are there, no more count than there are items.
        check(&[(&run(1 << 30, 0), &run(1 << 30, 1), 2)], (220, 110));
        // What few bytes claim is one row, and told at once.
        let many = [run(1, 0), run(1 << 31, 1)].concat();
        check(&[(&many, &run(1 << 31, 1), 1 << 31)], (110 << 31, 110 << 31));
        // What is not told belongs to the row before, and weighs the most.
        check(&[(&run(2, 0), &run(2, 0), 5)], (2 * 14 + 3 * 110, 14 + 3 * 110));
        check(&[(&run(2, 0), &run(5, 7), 2)], (220, 110));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            repetition in prop::collection::vec(any::<u8>(), 0..60),
            definition in prop::collection::vec(any::<u8>(), 0..60),
            count in any::<u64>(),
        ) {
            let (bytes, row) = weigh(&[(&repetition, &definition, count)]);
            prop_assert!(row <= bytes && bytes >= count);
        }

        /// As the decoder has it, whatever runs a writer makes.
        #[test]
        fn rows_are_as_they_were_written(lengths in prop::collection::vec(1..40_u64, 1..60)) {
            let items = lengths.iter().flat_map(|length| (0..*length).map(|item| u8::from(item > 0)));
            let mut levels: Vec<u8> = items.collect();
            let count = levels.len() as u64;
            levels.resize(levels.len().next_multiple_of(8), 0);
            let groups = levels.chunks(8);
            let pack = |group: &[u8]| group.iter().rev().fold(0_u8, |packed, level| (packed << 1) | *level);
            let header = ((groups.len() as u64) << 1) | 1;
            // A number of seven bits at most.
            let bytes = if header < 0x80 { vec![header as u8] } else { vec![header as u8 | 0x80, (header >> 7) as u8] };
            let repetition: Vec<u8> = bytes.into_iter().chain(groups.map(pack)).collect();
            let longest = lengths.iter().copied().max().unwrap_or(0);
            prop_assert_eq!(weigh(&[(&repetition, &run(count, 1), count)]), (count * 110, longest * 110));
        }
    }
}
