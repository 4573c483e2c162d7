// SPDX-License-Identifier: Apache-2.0
//! What of a row group is fetched, and when.
//!
//! Stands before the decoder: the wanted columns of a row group, or of these the pages that a filter may
//! pass, are held all at once where they are no larger than [`Room`](super::stream::Room) says. What is
//! selected of larger ones is read in parts that are; the rest is left to [`super::stream`].

use std::{iter, ops::Range};

use fanfold_protocol::{ErrorKind, Problem, stored::parquet::corrupt};
use parquet::file::metadata::ColumnChunkMetaData;

use super::{Group, ParquetReader, selection::Selected};
use crate::tables::{
    BATCH_ROWS_MAX,
    guard::{guard, quote},
    ranges::{Ahead, Sparse, coalesce, fetch},
};

/// Row groups up to this size are fetched while the one before is decoded.
const AHEAD_BYTES_MAX: u64 = 128 << 20;
/// Small ones that follow each other are fetched together, up to this size and with so many requests: each
/// has its price, here and in the store. What is far larger has left the processor's caches when it is decoded.
const TOGETHER_BYTES_MAX: u64 = 8 << 20;
const TOGETHER_RANGES_MAX: usize = 8;

/// Of the groups that are still to be read, what has been fetched of the first ones, and of the next what is
/// on its way, each with how many groups that are.
#[derive(Default)]
pub(super) struct Fetched {
    held: Option<(Sparse, usize)>,
    ahead: Option<(Ahead, usize)>,
}

impl Fetched {
    /// The bytes of the next group, if they are among these.
    async fn next(&mut self) -> Result<Option<Sparse>, Problem> {
        if self.held.is_none()
            && let Some((ahead, groups)) = self.ahead.take()
        {
            self.held = Some((ahead.finish().await?, groups));
        }
        let Some((data, groups)) = self.held.take() else { return Ok(None) };
        if groups > 1 {
            self.held = Some((data.clone(), groups - 1));
        }
        Ok(Some(data))
    }

    /// How many of the groups that are still to be read it has already.
    fn groups(&self) -> usize {
        self.held.as_ref().map_or(0, |(_, groups)| *groups)
    }
}

impl ParquetReader {
    /// Goes on to a group, or to the next part of it.
    pub(super) async fn begin(&mut self, index: usize) -> Result<Group, Problem> {
        self.part(index)?;
        let data = match self.fetched.next().await? {
            Some(data) => Some(data),
            None => self.fetch(index).await?,
        };
        let Some(data) = data else { return self.stream(index, 0, BATCH_ROWS_MAX) };
        self.look_ahead()?;
        if self.agrees(index, &data) {
            let selected = self.selection.of(index).map(|selected| selected.runs.clone());
            let runs = selected.unwrap_or_else(|| iter::once(0..self.rows(index)).collect());
            return self.start(index, data, runs).await;
        }
        // The index is damaged: everything is read after all, or what is left.
        let from = self.selection.forget(index);
        if !self.parts.is_empty() {
            self.parts.clear();
            self.groups.pop_front();
        }
        match self.fetch(index).await? {
            Some(data) => {
                let runs = iter::once(from..self.rows(index)).collect();
                self.start(index, data, runs).await
            }
            None => self.stream(index, from, BATCH_ROWS_MAX),
        }
    }

    /// Parts what a filter may pass of a group, where it is too much to be held; where it cannot be parted,
    /// the group is read whole.
    fn part(&mut self, index: usize) -> Result<(), Problem> {
        if self.parts.is_empty()
            && self.whole.is_none()
            && let Some(selected) = self.selection.of(index)
        {
            let range = |(leaf, chunk)| self.range(index, chunk).map(|range| (leaf, range));
            let chunks = self.chunks(index).map(range).collect::<Result<Vec<_>, _>>()?;
            let bytes = |of: &Selected| {
                let wanted = chunks
                    .iter()
                    .flat_map(|(leaf, range)| of.ranges(*leaf, range).unwrap_or_else(|| vec![range.clone()]));
                total(&coalesce(wanted.collect()))
            };
            match selected.parts(&bytes, self.held_bytes_max(index)) {
                Some(parts) => self.parts = parts.into(),
                None => _ = self.selection.forget(index),
            }
        }
        if let Some(part) = self.parts.pop_front() {
            self.selection.put(index, part);
        }
        if !self.parts.is_empty() {
            self.groups.push_front(index);
        }
        Ok(())
    }

    /// The wanted columns of a group; none where they are too large to be held.
    async fn fetch(&mut self, index: usize) -> Result<Option<Sparse>, Problem> {
        if let Some(whole) = &self.whole {
            return Ok(Some(whole.clone()));
        }
        let ranges = self.ranges(index)?;
        if total(&ranges) > self.held_bytes_max(index) {
            return Ok(None);
        }
        fetch(&self.store, &self.slice, ranges).await.map(Some)
    }

    /// Starts fetching the next group, if it is another one and small, with those that follow as far as they
    /// are small together.
    fn look_ahead(&mut self) -> Result<(), Problem> {
        if self.whole.is_some() || !self.parts.is_empty() || self.fetched.ahead.is_some() {
            return Ok(());
        }
        let mut following = self.groups.iter().skip(self.fetched.groups());
        let Some(next) = following.next() else { return Ok(()) };
        let (mut ranges, mut groups) = (self.ranges(*next)?, 1);
        if total(&ranges) > AHEAD_BYTES_MAX.min(self.held_bytes_max(*next)) {
            return Ok(());
        }
        for next in following {
            // What is wrong with one is told when it is its turn.
            let Ok(more) = self.ranges(*next) else { break };
            let is_held = total(&more) <= self.held_bytes_max(*next);
            let together = coalesce([ranges.as_slice(), &more].concat());
            if !is_held || total(&together) > TOGETHER_BYTES_MAX || together.len() > TOGETHER_RANGES_MAX {
                break;
            }
            (ranges, groups) = (together, groups + 1);
        }
        self.fetched.ahead = Some((Ahead::start(&self.store, &self.slice, ranges), groups));
        Ok(())
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
    pub(super) fn wanted(
        &self,
        index: usize,
        leaf: usize,
        chunk: &ColumnChunkMetaData,
    ) -> Result<Vec<Range<u64>>, Problem> {
        let range = self.range(index, chunk)?;
        let selected = self.selection.of(index).and_then(|selected| selected.ranges(leaf, &range));
        Ok(selected.unwrap_or_else(|| vec![range]))
    }

    /// Where the wanted columns of a group lie, with what is read along between them.
    fn ranges(&self, index: usize) -> Result<Vec<Range<u64>>, Problem> {
        let mut ranges = Vec::new();
        for (leaf, chunk) in self.chunks(index) {
            ranges.extend(self.wanted(index, leaf, chunk)?);
        }
        Ok(coalesce(ranges))
    }

    pub(super) fn range(&self, index: usize, chunk: &ColumnChunkMetaData) -> Result<Range<u64>, Problem> {
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
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|r| r.end - r.start).fold(0, u64::saturating_add)
}
