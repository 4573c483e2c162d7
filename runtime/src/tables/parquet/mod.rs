// SPDX-License-Identifier: Apache-2.0
//! Parquet objects as batches: footer, then row group by row group.
//!
//! Of a row group only the wanted columns are fetched, in few large ranges; the
//! next group's are fetched meanwhile when they are small. Page headers are
//! checked ([`pages`]), then arrow-rs decodes from memory, as many rows at once as may be
//! held ([`fit`]). Where an index of pages says
//! that a filter passes only some of them, the others are neither fetched nor
//! decoded ([`selection`]). Strings are decoded as
//! views, so that a dictionary is never expanded by more than a batch. Bytes are
//! those of the pinned state or the read fails.

mod delta;
mod fit;
mod footer;
mod header;
mod pages;
mod rows;
mod selection;
mod weight;

use std::{
    collections::{BTreeSet, VecDeque},
    iter,
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::{Array, RecordBatch},
    datatypes::{Schema, SchemaRef},
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
    pages::Budget,
    selection::{Indexed, Selection},
    weight::Leaf,
};
use super::{
    Skipped,
    filter::RowFilter,
    guard::{guard, quote},
    ranges::{Ahead, Sparse, fetch},
    select::{Decoded, First, Wanted},
};

/// Objects up to this size are read whole, with one request.
const WHOLE_BYTES: u64 = 1 << 20;
/// Wanted columns of one row group, as stored: they are held in memory.
const GROUP_BYTES_MAX: u64 = 1 << 30;
/// Row groups up to this size are fetched while the one before is decoded.
const AHEAD_BYTES_MAX: u64 = 128 << 20;

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
    /// Where the wanted columns are among those decoded.
    order: Vec<usize>,
    /// The wanted columns whose texts are still to be checked when they are decoded.
    unchecked: Vec<usize>,
    schema: SchemaRef,
    /// Groups that are still to be read.
    groups: VecDeque<usize>,
    pruned: Skipped,
    whole: Option<Sparse>,
    ahead: Option<Ahead>,
    current: Option<Group>,
    budget: Budget,
}

/// A row group being decoded.
struct Group {
    index: usize,
    reader: ParquetRecordBatchReader,
    /// Rows before the group.
    before: u64,
    /// Runs of its rows that are still to be given out.
    runs: VecDeque<Range<u64>>,
    /// Decoded rows that are to be given out first.
    decoded: Option<RecordBatch>,
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
            order,
            schema,
            groups,
            pruned,
            whole,
            ahead: None,
            current: None,
            budget: Budget::default(),
            unchecked,
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

    /// The next rows, `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        loop {
            if let Some(decoded) = self.decode()? {
                return Ok(Some(decoded));
            }
            let Some(index) = self.groups.pop_front() else { return Ok(None) };
            // What is in memory already is fetched at once, and checking pages takes its time.
            tokio::task::yield_now().await;
            let mut data = self.fetch(index).await?;
            if !self.agrees(index, &data) {
                // The index is damaged: everything is read after all.
                self.selection.forget(index);
                data = match &self.whole {
                    Some(whole) => whole.clone(),
                    None => fetch(&self.store, &self.slice, self.ranges(index)?).await?,
                };
            }
            self.current = Some(self.start(index, data).await?);
        }
    }

    /// The next rows of the current group; ends the group when there are none.
    fn decode(&mut self) -> Result<Option<Decoded>, Problem> {
        let Some(group) = &mut self.current else { return Ok(None) };
        let Some(run) = group.runs.front_mut() else {
            self.current = None;
            return Ok(None);
        };
        let row = group.before + run.start + 1;
        let place = || format!("row group {} of {}, at row {row}", group.index, self.uri);
        let batch = match group.decoded.take() {
            Some(batch) => batch,
            None => {
                let reader = &mut group.reader;
                let batch = guard(ErrorKind::ParquetCorrupt, place, || {
                    let batch = reader.next().transpose().map_err(|e| corrupt(&place(), &e.to_string()))?;
                    let batch = batch.map(|b| {
                        let batch = b.project(&self.order)?;
                        check_texts(&batch, &self.unchecked).map(|()| batch)
                    });
                    batch.transpose().map_err(|e| corrupt(&place(), &e.to_string()))
                })?;
                batch.filter(|batch| batch.num_rows() > 0).ok_or_else(|| {
                    corrupt(&place(), &format!("the end {} rows before it was due", run.end - run.start))
                })?
            }
        };
        // A batch may reach over rows that are left out: its rows are numbered by runs.
        let rows = usize::try_from(run.end - run.start).unwrap_or(usize::MAX).min(batch.num_rows());
        run.start += rows as u64;
        if run.is_empty() {
            group.runs.pop_front();
        }
        if rows < batch.num_rows() {
            group.decoded = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        Ok(Some(Decoded { batch: batch.slice(0, rows), first_row: row, counted_from: None }))
    }

    /// The wanted columns of a group; starts fetching the group after it.
    async fn fetch(&mut self, index: usize) -> Result<Sparse, Problem> {
        if let Some(whole) = &self.whole {
            return Ok(whole.clone());
        }
        let data = match self.ahead.take() {
            Some(ahead) => ahead.finish().await?,
            None => fetch(&self.store, &self.slice, self.ranges(index)?).await?,
        };
        if let Some(next) = self.groups.front() {
            let ranges = self.ranges(*next)?;
            if total(&ranges) <= AHEAD_BYTES_MAX {
                self.ahead = Some(Ahead::start(&self.store, &self.slice, ranges));
            }
        }
        Ok(data)
    }

    fn group(&self, index: usize) -> &RowGroupMetaData {
        self.metadata.metadata().row_group(index)
    }

    /// The wanted column chunks of a group, with their leaves.
    fn chunks(&self, index: usize) -> impl Iterator<Item = (usize, &ColumnChunkMetaData)> {
        let columns = self.group(index).columns().iter().enumerate();
        columns.filter(|(leaf, _)| self.mask.leaf_included(*leaf))
    }

    /// Whether the pages that were fetched of a group are those of its index.
    fn agrees(&self, index: usize, data: &Sparse) -> bool {
        let Some(selected) = self.selection.of(index) else { return true };
        let sound = |(leaf, chunk): (usize, &ColumnChunkMetaData)| {
            let repeated = chunk.column_descr().max_rep_level() > 0;
            self.range(index, chunk).is_ok_and(|range| selected.agrees(leaf, &range, data, repeated))
        };
        self.chunks(index).all(sound)
    }

    /// Where the wanted pages of a column chunk lie.
    fn parts(
        &self,
        index: usize,
        leaf: usize,
        chunk: &ColumnChunkMetaData,
    ) -> Result<Vec<Range<u64>>, Problem> {
        let range = self.range(index, chunk)?;
        let selected = self.selection.of(index).and_then(|selected| selected.ranges(leaf, &range));
        Ok(selected.unwrap_or_else(|| vec![range]))
    }

    /// Where the wanted columns of a group lie.
    fn ranges(&self, index: usize) -> Result<Vec<Range<u64>>, Problem> {
        let mut ranges = Vec::new();
        for (leaf, chunk) in self.chunks(index) {
            ranges.extend(self.parts(index, leaf, chunk)?);
        }
        let bytes = total(&ranges);
        if bytes <= GROUP_BYTES_MAX {
            return Ok(ranges);
        }
        let detail = format!(
            "the wanted columns of row group {index} of {} must be at most {GROUP_BYTES_MAX} bytes, found {bytes}; \
             select fewer columns or write smaller row groups",
            self.uri
        );
        Err(Problem::new(ErrorKind::DecodeLimit, detail))
    }

    fn range(&self, index: usize, chunk: &ColumnChunkMetaData) -> Result<Range<u64>, Problem> {
        let place = || {
            format!("column {} of row group {index} of {}", quote(&chunk.column_path().string()), self.uri)
        };
        let (start, length) = guard(ErrorKind::ParquetCorrupt, place, || Ok(chunk.byte_range()))?;
        let size = self.slice.object.pin.size;
        match start.checked_add(length) {
            Some(end) if end <= size => Ok(start..end),
            _ => Err(corrupt(
                &place(),
                &format!("{length} bytes at {start} of an object of {size}; it may be truncated"),
            )),
        }
    }

    /// Checks a group's pages and makes its decoder.
    async fn start(&mut self, index: usize, data: Sparse) -> Result<Group, Problem> {
        let batch_rows = self.batch_rows(index, &data).await?;
        let before = (0..index).map(|g| self.rows(g)).fold(0, u64::saturating_add);
        let place = || format!("row group {index} of {}", self.uri);
        let selected = self.selection.of(index);
        let metadata = selected.and(self.paged.as_ref()).unwrap_or(&self.metadata);
        let reader = guard(ErrorKind::ParquetCorrupt, place, || {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(data, metadata.clone())
                .with_row_groups(vec![index])
                .with_projection(self.mask.clone())
                // Of pages that were not fetched no row may be asked for.
                .with_row_selection_policy(RowSelectionPolicy::Selectors)
                .with_batch_size(batch_rows);
            let builder = match selected {
                Some(selected) => builder.with_row_selection(selected.selection()),
                None => builder,
            };
            builder.build().map_err(|e| corrupt(&place(), &e.to_string()))
        })?;
        let all = iter::once(0..self.rows(index));
        let runs = selected.map_or_else(|| all.collect(), |selected| selected.runs.clone());
        let runs = runs.into_iter().filter(|run| !run.is_empty()).collect();
        Ok(Group { index, reader, before, runs, decoded: None })
    }

    fn rows(&self, index: usize) -> u64 {
        u64::try_from(self.group(index).num_rows()).unwrap_or(0)
    }
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|r| r.end - r.start).fold(0, u64::saturating_add)
}

/// Which of the wanted columns hold texts that the decoder does not check.
fn unchecked(leaves: &[Leaf], schema: &SchemaDescriptor, wanted: &[usize]) -> Vec<usize> {
    let within = |(leaf, of): (usize, &Leaf)| of.unchecked.then(|| schema.get_column_root_idx(leaf));
    let columns: BTreeSet<usize> = leaves.iter().enumerate().filter_map(within).collect();
    (0..wanted.len()).filter(|at| columns.contains(&wanted[*at])).collect()
}

/// Checks that the texts in these columns are UTF-8, at any depth.
fn check_texts(batch: &RecordBatch, columns: &[usize]) -> Result<(), ArrowError> {
    columns.iter().try_for_each(|at| batch.column(*at).to_data().validate_full())
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
