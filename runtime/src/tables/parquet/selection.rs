// SPDX-License-Identifier: Apache-2.0
//! The rows of a row group that a filter may pass, by the index of its pages.
//!
//! Read once for all row groups of a slice, before the first one. Of a row group
//! with an index only the pages are fetched and decoded that hold such rows. An
//! index is a hint: without a sound one the row group is read whole, also when
//! that shows only as its pages are there.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use fanfold_protocol::{
    Problem,
    plan::Slice,
    stored::{
        footer::{FooterColumn, relied_on},
        pages::{Page, PagedColumn, pages, passing, statistics},
    },
};
use fanfold_storage::Store;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{RowSelection, RowSelector},
    },
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData, page_index::PageIndexProvider},
        page_index::{
            column_index::ColumnIndexMetaData,
            offset_index::{OffsetIndexMetaData, PageLocation},
        },
    },
};

use super::header::PageHeader;
use crate::tables::{
    Skipped,
    filter::RowFilter,
    ranges::{Sparse, fetch},
};

/// Bytes of the index of a slice's row groups: more is not read.
const INDEX_BYTES_MAX: u64 = 16 << 20;

/// Rows of a row group, and the pages that hold them.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    /// Runs of rows, in order, apart from each other.
    pub(super) runs: Vec<Range<u64>>,
    /// The pages of the wanted columns by leaf, as far as they are known.
    pages: Arc<BTreeMap<usize, Vec<Page>>>,
    /// The first row that it says something of: those before belong to another part.
    from: u64,
}

impl Selected {
    /// Number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// The pages of a column that hold some of the rows.
    pub(super) fn pages(&self, leaf: usize) -> Option<impl Iterator<Item = &Page>> {
        Some(self.pages.get(&leaf)?.iter().filter(|page| self.holds(page)))
    }

    /// Where they lie, with what is before the first page: the dictionary.
    pub(super) fn ranges(&self, leaf: usize, chunk: &Range<u64>) -> Option<Vec<Range<u64>>> {
        let first = self.pages.get(&leaf)?.first()?.bytes.start;
        let mut ranges = Vec::new();
        if first > chunk.start {
            ranges.push(chunk.start..first);
        }
        for Page { bytes, .. } in self.pages(leaf)? {
            match ranges.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => ranges.push(bytes.clone()),
            }
        }
        Some(ranges)
    }

    /// Their places in the words of the decoder.
    pub(super) fn locations(&self, leaf: usize) -> Option<Vec<PageLocation>> {
        self.pages(leaf).map(|pages| pages.map(location).collect())
    }

    /// The same rows in parts that take at most so many bytes each; none where parts would
    /// have much in common, or one row takes more.
    pub(super) fn parts(&self, bytes: &impl Fn(&Self) -> u64, bytes_max: u64) -> Option<Vec<Self>> {
        let all = bytes(self);
        if all <= bytes_max {
            return Some(vec![self.clone()]);
        }
        let (first, second) = self.halves()?;
        // A page in which rows are parted is read twice, and so is a dictionary.
        if bytes(&first).saturating_add(bytes(&second)) > all.saturating_add(all / 4) {
            return None;
        }
        let mut parts = first.parts(bytes, bytes_max)?;
        parts.extend(second.parts(bytes, bytes_max)?);
        Some(parts)
    }

    /// The first half of the rows and the second.
    fn halves(&self) -> Option<(Self, Self)> {
        let (mut first, mut second, mut left) = (Vec::new(), Vec::new(), self.rows() / 2);
        for run in &self.runs {
            let cut = run.start + left.min(run.end - run.start);
            left -= cut - run.start;
            first.extend((cut > run.start).then_some(run.start..cut));
            second.extend((cut < run.end).then_some(cut..run.end));
        }
        let from = first.last()?.end;
        let of = |runs, from| Self { runs, pages: Arc::clone(&self.pages), from };
        Some((of(first, self.from), of(second, from)))
    }

    fn holds(&self, page: &Page) -> bool {
        let next = self.runs.partition_point(|run| run.end <= page.rows.start);
        self.runs.get(next).is_some_and(|run| run.start < page.rows.end)
    }

    /// Whether the pages that are read, and what is before the first one, are those
    /// that the index told of.
    pub(super) fn agrees(&self, leaf: usize, chunk: &Range<u64>, data: &Sparse, repeated: bool) -> bool {
        let header = |bytes: Range<u64>| {
            let held = data.get(bytes.clone())?;
            let (header, length) = PageHeader::read(&held)?;
            let stored = u64::try_from(header.stored).ok()?.checked_add(length as u64)?;
            (stored == bytes.end - bytes.start).then_some(header)
        };
        let sound = |page: &Page| {
            header(page.bytes.clone()).is_some_and(|header| {
                let rows = u64::try_from(header.values).ok();
                !header.dictionary && (repeated || rows == Some(page.rows.end - page.rows.start))
            })
        };
        let first = self.pages.get(&leaf).and_then(|pages| pages.first()).map(|page| page.bytes.start);
        let before = first.filter(|first| *first > chunk.start).map(|first| chunk.start..first);
        before.is_none_or(|bytes| header(bytes).is_some_and(|header| header.dictionary))
            && self.pages(leaf).is_none_or(|mut pages| pages.all(sound))
    }

    /// What is left out of a row group of so many rows.
    fn skipped(&self, rows: u64) -> Skipped {
        let all = self.pages.values().flatten();
        let left_out = all.filter(|page| !self.holds(page));
        let bytes =
            |(count, sum): (u64, u64), page: &Page| (count + 1, sum + page.bytes.end - page.bytes.start);
        let (pages, bytes) = left_out.fold((0, 0), bytes);
        Skipped { rows_unread: rows - self.rows(), pages, bytes, ..Skipped::default() }
    }
}

/// Runs of rows in the words of the decoder.
pub(super) fn select<'a>(runs: impl IntoIterator<Item = &'a Range<u64>>) -> RowSelection {
    let (mut at, mut selectors) = (0, Vec::new());
    let count = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
    for run in runs {
        if run.start > at {
            selectors.push(RowSelector::skip(count(run.start - at)));
        }
        selectors.push(RowSelector::select(count(run.end - run.start)));
        at = run.end;
    }
    RowSelection::from(selectors)
}

fn location(page: &Page) -> PageLocation {
    PageLocation {
        offset: i64::try_from(page.bytes.start).unwrap_or(i64::MAX),
        compressed_page_size: i32::try_from(page.bytes.end - page.bytes.start).unwrap_or(i32::MAX),
        first_row_index: i64::try_from(page.rows.start).unwrap_or(i64::MAX),
    }
}

/// What is read of the row groups of a slice.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    groups: BTreeMap<usize, Selected>,
}

/// For the decoder: where pages lie, of the columns of which only some are read.
#[derive(Debug)]
pub(super) struct Places(BTreeMap<(usize, usize), Vec<PageLocation>>);

impl Selection {
    /// Whether all row groups are read whole.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What is selected of a row group; all of it when nothing is said.
    pub(super) fn of(&self, group: usize) -> Option<&Selected> {
        self.groups.get(&group)
    }

    /// Reads a part of what is selected of a row group.
    pub(super) fn put(&mut self, group: usize, part: Selected) {
        self.groups.insert(group, part);
    }

    /// Reads a row group whole, or what is left of it: gives from which row on.
    pub(super) fn forget(&mut self, group: usize) -> u64 {
        self.groups.remove(&group).map_or(0, |selected| selected.from)
    }

    /// All pages of what is selected, for the decoder.
    pub(super) fn places(&self) -> Arc<Places> {
        let of_group = |(group, selected): (&usize, &Selected)| {
            let group = *group;
            let places = |(leaf, pages): (&usize, &Vec<Page>)| {
                ((group, *leaf), pages.iter().map(location).collect::<Vec<_>>())
            };
            selected.pages.iter().map(places).collect::<Vec<_>>()
        };
        Arc::new(Places(self.groups.iter().flat_map(of_group).collect()))
    }
}

impl PageIndexProvider for Places {
    fn has_offset_indexes(&self) -> bool {
        true
    }

    fn has_column_indexes(&self) -> bool {
        false
    }

    fn column_index(&self, _: usize, _: usize) -> Option<&ColumnIndexMetaData> {
        None
    }

    fn offset_index(&self, _: usize, _: usize) -> Option<&OffsetIndexMetaData> {
        None
    }

    fn page_locations(&self, group: usize, leaf: usize) -> Option<&Vec<PageLocation>> {
        self.0.get(&(group, leaf))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// An object of which the footer is known.
pub(super) struct Indexed<'a> {
    pub(super) store: &'a Store,
    pub(super) slice: &'a Slice,
    pub(super) footer: &'a [u8],
    /// What was read along with it.
    pub(super) known: &'a Sparse,
    pub(super) metadata: &'a ParquetMetaData,
    pub(super) mask: &'a ProjectionMask,
}

impl Indexed<'_> {
    /// Which rows of these row groups the filter may pass, and what that leaves
    /// out. Row groups of which that is nothing are taken away.
    pub(super) async fn select(
        &self,
        filter: &RowFilter,
        groups: &mut VecDeque<usize>,
    ) -> Result<(Selection, Skipped), Problem> {
        let (mut selection, mut skipped) = (Selection::default(), Skipped::default());
        let Some(columns) = relied_on(self.footer, filter.bound()) else { return Ok((selection, skipped)) };
        let ranges: Vec<_> = groups.iter().flat_map(|group| self.indexes(*group, &columns)).collect();
        let bytes = ranges.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
        if ranges.is_empty() || bytes > INDEX_BYTES_MAX {
            return Ok((selection, skipped));
        }
        let held = ranges.iter().all(|range| self.known.get(range.clone()).is_some());
        let data = if held { self.known.clone() } else { fetch(self.store, self.slice, ranges).await? };
        groups.retain(|group| {
            let rows = u64::try_from(self.group(*group).num_rows()).unwrap_or(0);
            let Some(selected) = self.selected(*group, filter, &columns, &data) else { return true };
            let kept = !selected.runs.is_empty();
            if kept {
                skipped.add(selected.skipped(rows));
                selection.groups.insert(*group, selected);
            } else {
                let bytes = u64::try_from(self.group(*group).compressed_size()).unwrap_or(0);
                skipped.add(Skipped { row_groups: 1, bytes, ..Skipped::default() });
            }
            kept
        });
        Ok((selection, skipped))
    }

    fn group(&self, index: usize) -> &RowGroupMetaData {
        self.metadata.row_group(index)
    }

    /// Where the index of a row group lies: what the pages of the filter's columns
    /// hold, and where those of all wanted columns are.
    fn indexes(&self, group: usize, columns: &[Option<FooterColumn>]) -> Vec<Range<u64>> {
        let held = |chunk: &ColumnChunkMetaData| self.within(chunk.column_index_range());
        let of_filter = leaves(columns).filter_map(|leaf| held(self.group(group).columns().get(leaf)?));
        let mut ranges: Vec<_> = of_filter.collect();
        if !ranges.is_empty() {
            let wanted = self.wanted(group).map(|(_, chunk)| chunk.offset_index_range());
            ranges.extend(wanted.filter_map(|range| self.within(range)));
        }
        ranges
    }

    fn within(&self, range: Option<Range<u64>>) -> Option<Range<u64>> {
        range.filter(|range| range.start < range.end && range.end <= self.slice.object.pin.size)
    }

    fn wanted(&self, group: usize) -> impl Iterator<Item = (usize, &ColumnChunkMetaData)> {
        let chunks = self.group(group).columns().iter().enumerate();
        chunks.filter(|(leaf, _)| self.mask.leaf_included(*leaf))
    }

    /// What is read of a row group; `None` for all of it.
    fn selected(
        &self,
        group: usize,
        filter: &RowFilter,
        columns: &[Option<FooterColumn>],
        data: &Sparse,
    ) -> Option<Selected> {
        let rows = u64::try_from(self.group(group).num_rows()).ok()?;
        let index = |range| self.within(range).and_then(|range| data.get(range));
        let of_chunk = |(leaf, chunk): (usize, &ColumnChunkMetaData)| {
            let index: Bytes = index(chunk.offset_index_range())?;
            Some((leaf, pages(&index, &place(chunk)?, rows)?))
        };
        let pages: BTreeMap<usize, Vec<Page>> = self.wanted(group).filter_map(of_chunk).collect();
        let of_column = |column: &FooterColumn| {
            let leaf = column.leaf?;
            let index: Bytes = index(self.group(group).columns().get(leaf)?.column_index_range())?;
            let pages = pages.get(&leaf)?.clone();
            let statistics = statistics(&index, column, pages.len())?;
            Some(PagedColumn { pages, statistics })
        };
        let paged: Vec<_> = columns.iter().map(|column| of_column(column.as_ref()?)).collect();
        let runs = passing(filter.bound(), rows, &paged);
        let all = runs.len() == 1 && runs[0] == (0..rows);
        (!all && rows > 0).then(|| Selected { runs, pages: Arc::new(pages), from: 0 })
    }
}

fn leaves(columns: &[Option<FooterColumn>]) -> impl Iterator<Item = usize> {
    columns.iter().flatten().filter_map(|column| column.leaf)
}

/// Where a column chunk lies, as its metadata says.
fn place(chunk: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
    let start = u64::try_from(start).ok()?;
    Some(start..start.checked_add(u64::try_from(chunk.compressed_size()).ok()?)?)
}
