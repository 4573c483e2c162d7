// SPDX-License-Identifier: Apache-2.0
//! Parquet objects as batches: footer, then row group by row group.
//!
//! Of a row group only the wanted columns are fetched, in few large ranges; the
//! next group's are fetched meanwhile when they are small, together with those that follow when they
//! are very small. Page headers are checked ([`pages`]), then arrow-rs decodes from memory, as many rows at once as may be
//! held ([`fit`]). A row group that is too large for that is fetched in pieces and checked page by page as it is
//! decoded ([`stream`]). Where an index of pages says
//! that a filter passes only some of them, the others are neither fetched nor
//! decoded ([`selection`]). Strings are decoded as
//! views, so that a dictionary is never expanded by more than a batch. Bytes are
//! those of the pinned state or the read fails.

mod column;
mod delta;
mod fit;
mod footer;
mod groups;
mod header;
mod pages;
mod rows;
mod selection;
mod stream;
mod weight;

use std::{
    collections::{BTreeSet, VecDeque},
    ops::{BitOr, Range},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayData, RecordBatch},
    datatypes::{DataType, Schema, SchemaRef},
    error::ArrowError,
};
use fanfold_protocol::{
    ErrorKind, Problem,
    plan::Slice,
    stored::{footer::may_pass, parquet::corrupt},
};
use fanfold_storage::Store;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
            RowSelectionPolicy,
        },
    },
    file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
    schema::types::SchemaDescriptor,
};

use self::{
    groups::Fetched,
    pages::Budget,
    selection::{Indexed, Selected, Selection, select},
    stream::{Next, Room, Streamed},
    weight::Leaf,
};
use super::{
    Skipped,
    filter::RowFilter,
    guard::guard,
    ranges::Sparse,
    select::{Decoded, First, Wanted},
};

/// Objects up to this size are read whole, with one request.
const WHOLE_BYTES: u64 = 1 << 20;

/// A slice of a Parquet object being read.
pub(super) struct ParquetReader {
    store: Store,
    slice: Slice,
    uri: String,
    metadata: ArrowReaderMetadata,
    /// The same with the places of pages, for row groups of which some are read.
    paged: Option<ArrowReaderMetadata>,
    selection: Selection,
    /// All leaves of the schema.
    leaves: Vec<Leaf>,
    mask: ProjectionMask,
    shown: Arc<Shown>,
    schema: SchemaRef,
    /// Groups that are still to be read. The first one may have begun.
    groups: VecDeque<usize>,
    /// What is still to be read of it, where it is read in parts.
    parts: VecDeque<Selected>,
    pruned: Skipped,
    whole: Option<Sparse>,
    fetched: Fetched,
    current: Option<Group>,
    budget: Budget,
    room: Room,
}

/// How decoded batches become those of the wanted columns.
#[derive(Debug)]
struct Shown {
    /// Where the wanted columns are among those decoded.
    order: Vec<usize>,
    /// The wanted columns whose texts are still to be checked when they are decoded.
    unchecked: Vec<usize>,
}

/// A row group being decoded.
struct Group {
    index: usize,
    decoder: Decoder,
    /// Rows before the group.
    before: u64,
    /// Runs of its rows that are still to be given out.
    runs: VecDeque<Range<u64>>,
    /// Decoded rows that are to be given out first.
    decoded: Option<RecordBatch>,
}

enum Decoder {
    /// Of which all bytes are held.
    Held(ParquetRecordBatchReader),
    /// Of which pieces are.
    Streamed(Streamed),
}

impl Shown {
    /// Decodes the next batch.
    fn read(
        &self,
        reader: &mut ParquetRecordBatchReader,
        place: impl Fn() -> String,
    ) -> Result<Option<RecordBatch>, Problem> {
        guard(ErrorKind::ParquetCorrupt, &place, || {
            let batch = reader.next().transpose().map_err(|e| corrupt(&place(), &e.to_string()))?;
            let batch = batch.map(|b| {
                let batch = b.project(&self.order)?;
                check_texts(&batch, &self.unchecked).map(|()| batch)
            });
            batch.transpose().map_err(|e| corrupt(&place(), &e.to_string()))
        })
    }
}

impl ParquetReader {
    pub(super) async fn open(
        store: &Store,
        slice: &Slice,
        wanted: &Wanted,
        first: Option<&First>,
    ) -> Result<Self, Problem> {
        let uri = slice.object.uri.to_string();
        let (footer, known) = footer::read(store, slice, &uri).await?;
        let place = || format!("the footer of {uri}");
        let metadata = guard(ErrorKind::ParquetCorrupt, place, || footer::parse(&uri, &footer))?;
        let fields = metadata.schema().fields();
        let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
        let indices = wanted.resolve(&uri, &names, first)?;
        let mut sorted = indices.clone();
        sorted.sort_unstable();
        let order = indices.iter().map(|i| sorted.binary_search(i).unwrap_or(0)).collect();
        let schema =
            Arc::new(Schema::new(indices.iter().map(|i| Arc::clone(&fields[*i])).collect::<Vec<_>>()));
        let mask = ProjectionMask::roots(metadata.parquet_schema(), sorted);
        footer::check_intervals(&uri, metadata.metadata(), &mask)?;
        let all = groups(&uri, slice.row_groups.as_deref(), metadata.metadata())?;
        // A column of another type than the other objects have is complained of as such.
        let table = wanted.table(&uri, &schema, first);
        let filter = table.and_then(|table| wanted.filter(&table)).unwrap_or(None);
        let (mut groups, mut pruned, mut selection) = (all, Skipped::default(), Selection::default());
        if let Some(filter) = filter {
            (groups, pruned) = prune(&footer, &filter, groups, metadata.metadata());
            let (metadata, footer) = (metadata.metadata(), &footer);
            let indexed = Indexed { store, slice, footer, known: &known, metadata, mask: &mask };
            let (selected, skipped) = indexed.select(&filter, &mut groups).await?;
            selection = selected;
            pruned.add(skipped);
        }
        let leaves = Leaf::all(&metadata);
        let unchecked = unchecked(&leaves, metadata.parquet_schema(), &indices);
        let paged = footer::with_places(&uri, &metadata, &selection)?;
        let whole = (slice.object.pin.size <= WHOLE_BYTES).then_some(known);
        Ok(Self {
            store: store.clone(),
            slice: slice.clone(),
            uri,
            mask,
            shown: Arc::new(Shown { order, unchecked }),
            schema,
            groups,
            parts: VecDeque::new(),
            pruned,
            whole,
            fetched: Fetched::default(),
            current: None,
            budget: Budget::default(),
            room: Room::default(),
            leaves,
            metadata,
            paged,
            selection,
        })
    }

    /// What the filter left out by statistics.
    pub(super) fn pruned(&self) -> Skipped {
        self.pruned
    }

    /// The wanted columns as they are decoded.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, `None` after the last. Not cancellation safe.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        loop {
            if let Some(decoded) = self.decode().await? {
                return Ok(Some(decoded));
            }
            let Some(index) = self.groups.pop_front() else { return Ok(None) };
            // What is in memory already is fetched at once, and checking pages takes its time.
            tokio::task::yield_now().await;
            self.current = Some(self.begin(index).await?);
        }
    }

    /// The next rows of the current group; ends the group when there are none.
    async fn decode(&mut self) -> Result<Option<Decoded>, Problem> {
        loop {
            let Some(group) = &mut self.current else { return Ok(None) };
            let Some(run) = group.runs.front().cloned() else {
                self.end();
                return Ok(None);
            };
            let (index, row) = (group.index, group.before + run.start + 1);
            let place = || format!("row group {index} of {}, at row {row}", self.uri);
            let batch = match group.decoded.take() {
                Some(batch) => Some(batch),
                None => match &mut group.decoder {
                    Decoder::Held(reader) => self.shown.read(reader, place)?,
                    Decoder::Streamed(streamed) => match streamed.next(&self.shown, place()).await? {
                        Next::Batch(batch) => batch,
                        Next::Fewer(rows) => {
                            // What it holds is given up first.
                            self.current = None;
                            self.current = Some(self.stream(index, run.start, rows)?);
                            continue;
                        }
                    },
                },
            };
            let batch = batch.filter(|batch| batch.num_rows() > 0).ok_or_else(|| {
                corrupt(&place(), &format!("the end {} rows before it was due", run.end - run.start))
            })?;
            // A batch may reach over rows that are left out: its rows are numbered by runs.
            let rows = usize::try_from(run.end - run.start).unwrap_or(usize::MAX).min(batch.num_rows());
            group.runs[0].start += rows as u64;
            if group.runs[0].is_empty() {
                group.runs.pop_front();
            }
            if rows < batch.num_rows() {
                group.decoded = Some(batch.slice(rows, batch.num_rows() - rows));
            }
            return Ok(Some(Decoded { batch: batch.slice(0, rows), first_row: row, counted_from: None }));
        }
    }

    /// Ends the current group.
    fn end(&mut self) {
        if let Some(Group { index, decoder: Decoder::Streamed(streamed), .. }) = &self.current {
            self.budget = streamed.budget();
            let held_bytes_max = streamed.held_bytes_max();
            tracing::debug!(uri = self.uri, index, held_bytes_max, "a row group was read in pieces");
        }
        self.current = None;
    }

    fn group(&self, index: usize) -> &RowGroupMetaData {
        self.metadata.metadata().row_group(index)
    }

    /// The wanted column chunks of a group, with their leaves.
    fn chunks(&self, index: usize) -> impl Iterator<Item = (usize, &ColumnChunkMetaData)> {
        let columns = self.group(index).columns().iter().enumerate();
        columns.filter(|(leaf, _)| self.mask.leaf_included(*leaf))
    }

    /// Checks a group's pages and makes the decoder of these runs of its rows.
    async fn start(&mut self, index: usize, data: Sparse, runs: Vec<Range<u64>>) -> Result<Group, Problem> {
        let batch_rows = self.batch_rows(index, &data).await?;
        let place = || format!("row group {index} of {}", self.uri);
        let paged = self.paged.as_ref().filter(|_| self.selection.of(index).is_some());
        let metadata = paged.unwrap_or(&self.metadata);
        let all = runs.len() == 1 && runs[0] == (0..self.rows(index));
        let reader = guard(ErrorKind::ParquetCorrupt, place, || {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(data, metadata.clone())
                .with_row_groups(vec![index])
                .with_projection(self.mask.clone())
                // Of pages that were not fetched no row may be asked for.
                .with_row_selection_policy(RowSelectionPolicy::Selectors)
                .with_batch_size(batch_rows);
            let builder = if all { builder } else { builder.with_row_selection(select(&runs)) };
            builder.build().map_err(|e| corrupt(&place(), &e.to_string()))
        })?;
        let runs = runs.into_iter().filter(|run| !run.is_empty()).collect();
        let decoder = Decoder::Held(reader);
        Ok(Group { index, decoder, before: self.before(index), runs, decoded: None })
    }

    /// Rows of the groups before.
    fn before(&self, index: usize) -> u64 {
        (0..index).map(|g| self.rows(g)).fold(0, u64::saturating_add)
    }

    fn rows(&self, index: usize) -> u64 {
        u64::try_from(self.group(index).num_rows()).unwrap_or(0)
    }
}

/// Which of the wanted columns hold texts that the decoder does not check.
fn unchecked(leaves: &[Leaf], schema: &SchemaDescriptor, wanted: &[usize]) -> Vec<usize> {
    let within = |(leaf, of): (usize, &Leaf)| of.unchecked.then(|| schema.get_column_root_idx(leaf));
    let columns: BTreeSet<usize> = leaves.iter().enumerate().filter_map(within).collect();
    (0..wanted.len()).filter(|at| columns.contains(&wanted[*at])).collect()
}

/// Checks that each text is UTF-8 by itself, at any depth: those in these columns as a whole, others only where the
/// decoder leaves off.
fn check_texts(batch: &RecordBatch, columns: &[usize]) -> Result<(), ArrowError> {
    columns.iter().try_for_each(|at| batch.column(*at).to_data().validate_full())?;
    if batch.columns().iter().any(|column| is_split(&column.to_data())) {
        let detail = "encountered non UTF-8 data: a text begins within a character";
        return Err(ArrowError::InvalidArgumentError(detail.to_owned()));
    }
    Ok(())
}

/// Whether a text begins within a character. In delta encodings the decoder looks at texts in a row, where one may
/// go on with the character that the one before does not end.
fn is_split(data: &ArrayData) -> bool {
    // Behind the length of a view, the first byte: zero where there is none.
    let begins_within = |view: &u128| (*view >> u32::BITS) as u8 & 0xc0 == 0x80;
    match data.data_type() {
        // Without a branch for each.
        DataType::Utf8View => data.buffer(0).iter().map(begins_within).fold(false, BitOr::bitor),
        _ => data.child_data().iter().any(is_split),
    }
}

/// The row groups of the slice, all of which must be there; those without rows are left out.
fn groups(uri: &str, chosen: Option<&[u32]>, metadata: &ParquetMetaData) -> Result<VecDeque<usize>, Problem> {
    let (count, mut rows) = (metadata.num_row_groups(), 0_i64);
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let place = || format!("row group {index} of {uri}");
        if group.num_rows() < 0 {
            return Err(corrupt(&place(), "a negative number of rows"));
        }
        rows = rows
            .checked_add(group.num_rows())
            .ok_or_else(|| corrupt(&place(), "more rows than can be counted"))?;
    }
    let filled = |group: &usize| metadata.row_group(*group).num_rows() > 0;
    let Some(chosen) = chosen else { return Ok((0..count).filter(filled).collect()) };
    match chosen.iter().find(|g| **g as usize >= count) {
        Some(bad) => {
            let detail =
                format!("a slice must choose among the {count} row groups of {uri}, found row group {bad}");
            Err(Problem::new(ErrorKind::InvalidJob, detail))
        }
        None => Ok(chosen.iter().map(|g| *g as usize).filter(filled).collect()),
    }
}

/// The row groups that the filter may pass, and what that leaves out.
fn prune(
    footer: &[u8],
    filter: &RowFilter,
    groups: VecDeque<usize>,
    metadata: &ParquetMetaData,
) -> (VecDeque<usize>, Skipped) {
    let Some(passing) = may_pass(footer, filter.bound()) else { return (groups, Skipped::default()) };
    let (kept, pruned): (VecDeque<usize>, VecDeque<usize>) =
        groups.into_iter().partition(|group| passing.get(*group).copied().unwrap_or(true));
    let bytes = pruned.iter().map(|group| metadata.row_group(*group).compressed_size());
    let bytes = bytes.filter_map(|bytes| u64::try_from(bytes).ok()).fold(0, u64::saturating_add);
    (kept, Skipped { row_groups: pruned.len() as u64, bytes, ..Skipped::default() })
}

#[cfg(test)]
mod tests {
    use parquet::{file::metadata::FileMetaData, schema::parser::parse_message_type};

    use super::*;

    #[test]
    fn row_groups_have_rows_that_can_be_counted() {
        let schema = parse_message_type("message m { }").unwrap();
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema)));
        let check = |rows: &[i64]| {
            let group = |rows: &i64| {
                RowGroupMetaData::builder(Arc::clone(&schema)).set_num_rows(*rows).build().unwrap()
            };
            let file = FileMetaData::new(1, 0, None, None, Arc::clone(&schema), None);
            let metadata = ParquetMetaData::new(file, rows.iter().map(group).collect());
            groups("x", None, &metadata).map(Vec::<usize>::from).map_err(|p| p.code)
        };
        assert_eq!(check(&[i64::MAX - 7, 0, 7]), Ok(vec![0, 2]));
        for rows in [&[i64::MAX, 0, 1][..], &[3, -1]] {
            assert_eq!(check(rows), Err(ErrorKind::ParquetCorrupt), "{rows:?}");
        }
    }
}
