// SPDX-License-Identifier: Apache-2.0
//! How many rows of a row group are decoded at once.
//!
//! Stands between a group's pages in memory and its decoder, which holds what one batch needs:
//! a page of each column, values and levels of the rows, and what is behind their views. So it
//! is batches that are bounded, however large the row group is; refused is what one row by
//! itself takes too much for.

use std::{ops::Range, sync::Arc};

use fanfold_protocol::{ErrorKind, Problem, limits, stored::parquet::corrupt};
use parquet::{
    errors::ParquetError,
    file::{metadata::ColumnChunkMetaData, page_index::offset_index::PageLocation},
};

use super::{
    ParquetReader,
    delta::{self, Measured},
    pages::{Budget, Chunk, Need},
    rows::{Lists, Rows},
    weight::Leaf,
};
use crate::tables::{
    BATCH_ROWS_MAX,
    guard::{guard, quote},
    ranges::Sparse,
};

/// What a decoded batch should weigh: it is still in a near cache when it is made plain and handed over.
const BATCH_BYTES_TARGET: u64 = 3 << 20;
/// Lists that are held at once, of all columns. A row that fits a batch takes a third of it at
/// most, of booleans; of numbers a sixtieth.
const LISTS_BYTES_MAX: u64 = 1 << 30;

impl ParquetReader {
    /// Checks a group's pages, and tells how many of its rows make a batch of good size.
    pub(super) async fn batch_rows(&mut self, index: usize, data: &Sparse) -> Result<usize, Problem> {
        let mut budget = self.budget;
        let need = self.check_pages(index, data, &mut budget)?;
        self.budget = budget;
        let lists = if need.lists_bytes <= LISTS_BYTES_MAX {
            // All rows may be in one batch: none needs to be known, and the rough bound of them all says
            // little of what a good batch is.
            Lists::default()
        } else {
            weigh(self.lists(index, data)?).await?
        };
        self.fit(index, need, lists)
    }

    /// Checks the pages of all wanted columns: what decoding them needs.
    fn check_pages(&self, index: usize, data: &Sparse, budget: &mut Budget) -> Result<Need, Problem> {
        let mut need = Need::default();
        for (leaf, chunk) in self.chunks(index) {
            let name = chunk.column_path().string();
            let place =
                |at: u64| format!("column {} of row group {index} of {}, byte {at}", quote(&name), self.uri);
            let part = |range: Range<u64>| Some((range.start, data.get(range)?));
            let ranges = self.wanted(index, leaf, chunk)?;
            let start = ranges.first().map_or(0, |range| range.start);
            let parts: Option<Vec<_>> = ranges.into_iter().map(part).collect();
            let parts =
                parts.ok_or_else(|| Problem::new(ErrorKind::Internal, "a column chunk was not fetched"))?;
            let Leaf { views, decimal_bytes_max, .. } = self.leaves[leaf];
            let item_bytes_max = self.leaves[leaf].item_bytes_max();
            let mut of_chunk =
                budget.check(&Chunk { place: &place, parts: &parts, item_bytes_max, views })?;
            if of_chunk.delta || decimal_bytes_max.is_some() {
                let place = || place(start);
                let measured = guard(ErrorKind::ParquetCorrupt, place, || {
                    self.measure(index, leaf, data).map_err(|e| corrupt(&place(), &e.to_string()))
                })?;
                check_decimals(decimal_bytes_max, measured, place)?;
                of_chunk.value_bytes_max = of_chunk.value_bytes_max.max(measured.longest);
                if item_bytes_max.is_some() && views {
                    of_chunk.lists_bytes = of_chunk.lists_bytes.saturating_add(measured.expanded);
                }
            }
            need.add(of_chunk, || format!("row group {index} of {}", self.uri))?;
        }
        Ok(need)
    }

    fn measure(&self, index: usize, leaf: usize, data: &Sparse) -> Result<Measured, ParquetError> {
        let (rows, places) = self.pages(index, leaf);
        let also_plain = self.leaves[leaf].decimal_bytes_max.is_some();
        delta::measure(Arc::new(data.clone()), self.group(index).column(leaf), rows, places, also_plain)
    }

    /// The wanted columns of lists, each with its place for messages.
    fn lists(&self, index: usize, data: &Sparse) -> Result<Vec<(String, Rows)>, Problem> {
        let listed = self.chunks(index).filter(|(leaf, _)| self.leaves[*leaf].is_listed());
        let rows = |(leaf, chunk): (usize, &ColumnChunkMetaData)| {
            let (rows, places) = self.pages(index, leaf);
            let name = chunk.column_path().string();
            let place = format!("column {} of row group {index} of {}", quote(&name), self.uri);
            let told = || place.clone();
            let rows = guard(ErrorKind::ParquetCorrupt, told, || {
                Rows::of(&self.leaves[leaf], data, chunk, rows, places)
                    .map_err(|error| corrupt(&place, &error.to_string()))
            });
            rows.map(|rows| (place, rows))
        };
        listed.map(rows).collect()
    }

    /// The number of rows of a group, and where the wanted pages of a column lie where not all are.
    fn pages(&self, index: usize, leaf: usize) -> (usize, Option<Vec<PageLocation>>) {
        let rows = usize::try_from(self.rows(index)).unwrap_or(usize::MAX);
        (rows, self.selection.of(index).and_then(|selected| selected.locations(leaf)))
    }

    /// Rows of a batch of good size.
    pub(super) fn fit(&self, index: usize, need: Need, lists: Lists) -> Result<usize, Problem> {
        let rows = self.rows(index).max(1);
        let (mut least, mut width) = (0_u64, 0_u64);
        for (leaf, chunk) in self.chunks(index) {
            least = least.saturating_add(self.leaves[leaf].row_bytes_min());
            width = width.saturating_add(self.leaves[leaf].row_bytes(chunk, rows));
        }
        // What a single row takes in all is told better when it is decoded.
        let found = if rows > 1 { width } else { least };
        if found > limits::BATCH_BYTES_MAX {
            let detail = format!(
                "a row of {} must take at most {} bytes, found about {found} in row group {index}; select fewer columns",
                self.uri,
                limits::BATCH_BYTES_MAX
            );
            return Err(Problem::new(ErrorKind::DecodeLimit, detail));
        }
        check_lists(&self.uri, index, lists.row_bytes_max)?;
        let by_weight = BATCH_BYTES_TARGET / width.max(lists.bytes / rows).max(1);
        let held = rows_held(need.value_bytes_max, lists.row_bytes_max);
        let fit = usize::try_from(by_weight).unwrap_or(BATCH_ROWS_MAX).min(held);
        Ok(fit.clamp(1, BATCH_ROWS_MAX))
    }
}

/// How many rows are held at once by what the largest ones take: of a page for each value, and in lists.
pub(super) fn rows_held(value_bytes_max: u64, row_bytes_max: u64) -> usize {
    let by_pages = limits::PAGE_BYTES_MAX / value_bytes_max.max(1);
    let by_lists = LISTS_BYTES_MAX / row_bytes_max.max(1);
    usize::try_from(by_pages.min(by_lists)).unwrap_or(BATCH_ROWS_MAX).clamp(1, BATCH_ROWS_MAX)
}

/// Refuses a row whose lists take more than may be held.
pub(super) fn check_lists(uri: &str, index: usize, row_bytes_max: u64) -> Result<(), Problem> {
    if row_bytes_max <= LISTS_BYTES_MAX {
        return Ok(());
    }
    let detail = format!(
        "the lists of a row of {uri} must take at most {LISTS_BYTES_MAX} bytes when they are decoded, found \
         {row_bytes_max} in row group {index}; select fewer columns or write shorter lists"
    );
    Err(Problem::new(ErrorKind::DecodeLimit, detail))
}

/// What lists of several columns take.
async fn weigh(columns: Vec<(String, Rows)>) -> Result<Lists, Problem> {
    let mut lists = Lists::default();
    for (place, rows) in columns {
        lists.add(rows.weigh(&place).await?);
    }
    Ok(lists)
}

/// Refuses decimals that are stored longer than their precision asks for.
pub(super) fn check_decimals(
    most: Option<u64>,
    found: Measured,
    place: impl Fn() -> String,
) -> Result<(), Problem> {
    let Some(most) = most.filter(|most| found.longest > *most) else { return Ok(()) };
    let detail = format!(
        "{} must hold decimals of at most {most} bytes, found one of {}; write them with no more bytes than their precision needs, or name the other columns to read",
        place(),
        found.longest
    );
    Err(Problem::new(ErrorKind::ValueMismatch, detail))
}
