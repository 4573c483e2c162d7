// SPDX-License-Identifier: Apache-2.0
//! Row groups that are larger than what is held of one: their pages come one after the other.
//!
//! Stands in for [`Sparse`](crate::tables::ranges::Sparse) below the decoder, which works on a thread
//! that may wait for bytes. Each page is checked as the decoder comes to it, by the rules of
//! [`super::pages`] and [`super::delta`]. How many rows make a batch is told from sums in the footer; where
//! pages show that so many would take too much, decoding begins again at the row that is due, with fewer
//! ([`Stop::Fewer`]). That hangs on the pages alone, not on when they arrive, so that the same object
//! gives the same batches.

use std::{
    collections::BTreeMap,
    iter,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::array::RecordBatch;
use fanfold_protocol::{ErrorKind, Problem, stored::parquet::corrupt};
use parquet::{
    arrow::{
        arrow_reader::{ParquetRecordBatchReader, RowGroups},
        parquet_to_arrow_field_levels,
    },
    column::page::{PageIterator, PageReader},
    errors::ParquetError,
    file::metadata::{ParquetMetaData, RowGroupMetaData},
};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Decoder, Group, ParquetReader, Shown,
    column::{Chunk, Pages},
    fit::{check_lists, rows_held},
    pages::{self, Budget, Need},
    rows::Lists,
    selection::select,
    weight::Leaf,
};
use crate::{
    host::joined,
    sandbox::{spent_elsewhere, thread_cpu_ns},
    tables::{
        guard::{guard, quote},
        pieces::{Share, Source},
    },
};

/// Batches that are decoded at one time, by all readers of the process. Each takes a thread that may wait, of which
/// there are 512, for bytes that the embedded store reads on such threads: these are not to wait all of them. Fewer
/// also hold less while they decode.
const DECODERS_MAX: usize = 32;
static DECODERS: Semaphore = Semaphore::const_new(DECODERS_MAX);

/// What a reader holds of the row group that it reads, as stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Of all wanted columns. A row group up to this size is held as a whole.
    pub(super) group_bytes: u64,
    /// Of one of them, where the row group is larger.
    pub(super) chunk_bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { group_bytes: 256 << 20, chunk_bytes: 64 << 20 }
    }
}

impl Room {
    /// Of more columns the pieces would be small: one by one they take far longer to fetch than
    /// neighbours together.
    const COLUMNS_MAX: u64 = 64;

    /// Up to which size the row group is held as a whole, with so many wanted columns.
    pub(super) fn held_bytes_max(self, columns: u64) -> u64 {
        if columns <= Self::COLUMNS_MAX { self.group_bytes } else { 4 * self.group_bytes }
    }
}

/// What the pieces of all wanted columns may take: no piece is smaller than some, of however many columns.
const PIECES_BYTES_MAX: u64 = 1 << 30;

/// Refuses to read so many columns in pieces that these would take too much.
fn check_columns(uri: &str, index: usize, columns: u64, share: Share) -> Result<(), Problem> {
    if share.bytes(columns) <= PIECES_BYTES_MAX {
        return Ok(());
    }
    let detail = format!(
        "row group {index} of {uri}, of which more than {PIECES_BYTES_MAX} bytes are wanted, must be read with fewer \
         columns, found {columns}; select fewer, or write smaller row groups"
    );
    Err(Problem::new(ErrorKind::DecodeLimit, detail))
}

/// Why the decoder is to stop, in the words of those who know: it passes on no more than a text.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(Problem),
    /// So many rows at once would take too much: at most this many do not.
    Fewer(usize),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// What one column needs, by its pages so far, or all columns together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Takes {
    /// The dictionary and the largest page.
    pub(super) open_bytes: u64,
    /// The most that a page weighs for each of its values.
    pub(super) value_bytes_max: u64,
    /// The lists of the largest row.
    pub(super) row_bytes_max: u64,
}

/// What the pages of all columns have shown so far.
#[derive(Debug)]
pub(super) struct Ledger {
    uri: String,
    index: usize,
    batch_rows: usize,
    takes: Takes,
    pub(super) budget: Budget,
    /// The first reason to stop.
    stop: Option<Stop>,
}

impl Ledger {
    /// Takes into account what a column needs now.
    pub(super) fn take(&mut self, column: &mut Takes, now: Takes) -> Result<(), Stop> {
        let grown = |sum: u64, before: u64, now: u64| sum.saturating_add(now.saturating_sub(before));
        let Takes { open_bytes, value_bytes_max, row_bytes_max } = self.takes;
        self.takes = Takes {
            open_bytes: grown(open_bytes, column.open_bytes, now.open_bytes),
            value_bytes_max: grown(value_bytes_max, column.value_bytes_max, now.value_bytes_max),
            row_bytes_max: grown(row_bytes_max, column.row_bytes_max, now.row_bytes_max),
        };
        *column = now;
        pages::check_open(self.takes.open_bytes, || format!("row group {} of {}", self.index, self.uri))?;
        check_lists(&self.uri, self.index, self.takes.row_bytes_max)?;
        let rows = rows_held(self.takes.value_bytes_max, self.takes.row_bytes_max);
        if self.batch_rows <= rows {
            return Ok(());
        }
        // A quarter at most, so that a file that is ever worse is not begun again and again.
        Err(Stop::Fewer(rows.min(self.batch_rows / 4).max(1)))
    }

    /// Keeps the reason; what the decoder is told says nothing.
    pub(super) fn stop(&mut self, stop: Stop) -> ParquetError {
        self.stop.get_or_insert(stop);
        ParquetError::General("the end of what is read".to_owned())
    }
}

/// What all columns of a row group share. Dropped, it does not stop them: [`Streamed`] does.
pub(super) type Shared = Arc<Mutex<Ledger>>;

pub(super) fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The decoder of a row group of which pieces are held.
pub(super) struct Streamed {
    /// None while it decodes.
    reader: Option<ParquetRecordBatchReader>,
    ledger: Shared,
    source: Arc<Source>,
    _stop: DropGuard,
}

/// What decoding gives.
pub(super) enum Next {
    Batch(Option<RecordBatch>),
    /// It is to begin again at the row that is due, with batches of so many rows.
    Fewer(usize),
}

impl Streamed {
    /// Decodes the next batch on a thread that may wait. Not cancellation safe.
    pub(super) async fn next(&mut self, shown: &Arc<Shown>, place: String) -> Result<Next, Problem> {
        let reader = self.reader.take();
        let mut reader = reader.ok_or_else(|| crate::internal("a row group was read on after an error"))?;
        let shown = Arc::clone(shown);
        let turn = DECODERS.acquire().await;
        let decode = move || {
            // Until it ends, also where nobody waits for it any longer.
            let _turn = turn;
            let began = thread_cpu_ns();
            let batch = shown.read(&mut reader, || place.clone());
            (reader, batch, thread_cpu_ns().saturating_sub(began))
        };
        let (reader, batch, cpu_ns) = joined(tokio::task::spawn_blocking(decode).await)?;
        spent_elsewhere(cpu_ns);
        match locked(&self.ledger).stop.take() {
            Some(Stop::Failed(problem)) => return Err(problem),
            Some(Stop::Fewer(rows)) => return Ok(Next::Fewer(rows)),
            None => {}
        }
        self.reader = Some(reader);
        batch.map(Next::Batch)
    }

    /// What has been decompressed of the object.
    pub(super) fn budget(&self) -> Budget {
        locked(&self.ledger).budget
    }

    /// The most bytes that were held or asked for at one time.
    pub(super) fn held_bytes_max(&self) -> u64 {
        self.source.held_bytes_max()
    }
}

impl ParquetReader {
    /// Up to which size the wanted columns of a group are held as a whole.
    pub(super) fn held_bytes_max(&self, index: usize) -> u64 {
        self.room.held_bytes_max(self.chunks(index).count() as u64)
    }

    /// The decoder of a group that is read in pieces, from some row on, with at most so many rows at once.
    pub(super) fn stream(&self, index: usize, from: u64, rows_max: usize) -> Result<Group, Problem> {
        let batch_rows = self.fit(index, Need::default(), Lists::default())?.min(rows_max);
        let place = || format!("row group {index} of {}", self.uri);
        let mut ranges = BTreeMap::new();
        for (leaf, chunk) in self.chunks(index) {
            ranges.insert(leaf, self.range(index, chunk)?);
        }
        let (stop, columns) = (CancellationToken::new(), ranges.len() as u64);
        let share = Share::of(columns, self.room.group_bytes, self.room.chunk_bytes);
        check_columns(&self.uri, index, columns, share)?;
        let source = Arc::new(Source::new(&self.store, &self.slice, share, stop.clone()));
        let ledger = Arc::new(Mutex::new(Ledger {
            uri: self.uri.clone(),
            index,
            batch_rows,
            takes: Takes::default(),
            budget: self.budget,
            stop: None,
        }));
        let chunks = Chunks {
            metadata: Arc::clone(self.metadata.metadata()),
            index,
            place: place(),
            ranges,
            leaves: &self.leaves,
            source: Arc::clone(&source),
            ledger: Arc::clone(&ledger),
        };
        let rows = from..self.rows(index);
        let selection = (from > 0).then(|| select([&rows]));
        let reader = guard(ErrorKind::ParquetCorrupt, place, || {
            let fields = self.metadata.schema().fields();
            let schema = self.metadata.parquet_schema();
            let levels = parquet_to_arrow_field_levels(schema, self.mask.clone(), Some(fields));
            let reader = levels.and_then(|levels| {
                ParquetRecordBatchReader::try_new_with_row_groups(&levels, &chunks, batch_rows, selection)
            });
            reader.map_err(|e| corrupt(&place(), &e.to_string()))
        })?;
        tracing::debug!(place = place(), from, batch_rows, ?share, "a row group is read in pieces");
        let streamed = Streamed { reader: Some(reader), ledger, source, _stop: stop.drop_guard() };
        let runs = iter::once(rows).filter(|rows| !rows.is_empty()).collect();
        let decoder = Decoder::Streamed(streamed);
        Ok(Group { index, decoder, before: self.before(index), runs, decoded: None })
    }
}

/// The wanted columns of one row group.
struct Chunks<'a> {
    metadata: Arc<ParquetMetaData>,
    index: usize,
    place: String,
    ranges: BTreeMap<usize, Range<u64>>,
    leaves: &'a [Leaf],
    source: Arc<Source>,
    ledger: Shared,
}

impl RowGroups for Chunks<'_> {
    fn num_rows(&self) -> usize {
        usize::try_from(self.metadata.row_group(self.index).num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>, ParquetError> {
        let range = self.ranges.get(&leaf).cloned();
        let range = range.ok_or_else(|| ParquetError::General(format!("column {leaf} is not read")))?;
        let metadata = self.metadata.row_group(self.index).column(leaf).clone();
        let place = format!("column {} of {}", quote(&metadata.column_path().string()), self.place);
        let chunk = Chunk::new(&self.source, range, place, &self.ledger);
        let pages = Pages::new(chunk, metadata, &self.leaves[leaf], self.num_rows())?;
        Ok(Box::new(Once(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(iter::once(self.metadata.row_group(self.index)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// The pages of a column in the only row group.
struct Once(Option<Box<dyn PageReader>>);

impl Iterator for Once {
    type Item = Result<Box<dyn PageReader>, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for Once {}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
