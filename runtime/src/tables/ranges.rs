// SPDX-License-Identifier: Apache-2.0
//! Parts of an object, fetched as few large ranges and kept where they lie.
//!
//! [`Sparse`] answers for the bytes that were fetched and for no others: a
//! decoder that strays outside gets an error, not a request.

use std::{io::Read, ops::Range, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use fanfold_protocol::{Problem, limits, plan::Slice};
use fanfold_storage::Store;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use tokio_util::task::AbortOnDropHandle;

use super::store_problem;

/// Gaps up to this are read along: cheaper than another request.
const GAP_BYTES: u64 = 256 << 10;
/// Requests at once.
const PARALLEL: usize = 4;

/// Some parts of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    size: u64,
    /// In order, not overlapping.
    parts: Arc<Vec<(u64, Bytes)>>,
}

impl Sparse {
    /// An object of `size` bytes of which `bytes` from `start` are known.
    pub(super) fn of(size: u64, start: u64, bytes: Bytes) -> Self {
        Self { size, parts: Arc::new(vec![(start, bytes)]) }
    }

    /// The bytes of the range, if all of them are known.
    pub(super) fn get(&self, range: Range<u64>) -> Option<Bytes> {
        let length = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        let (mut index, skip) = self.locate(range.start)?;
        let (_, bytes) = self.parts.get(index)?;
        if skip + length <= bytes.len() {
            return Some(bytes.slice(skip..skip + length));
        }
        let mut joined = BytesMut::with_capacity(length.min(limits::RANGE_BYTES_MAX as usize));
        joined.extend_from_slice(&bytes[skip..]);
        let mut at = range.start + joined.len() as u64;
        while joined.len() < length {
            index += 1;
            let (start, bytes) = self.parts.get(index)?;
            if *start != at {
                return None;
            }
            let take = bytes.len().min(length - joined.len());
            joined.extend_from_slice(&bytes[..take]);
            at += take as u64;
        }
        Some(joined.freeze())
    }

    /// The part that holds this byte, and how far into it the byte is.
    fn locate(&self, at: u64) -> Option<(usize, usize)> {
        let index = self.parts.partition_point(|(start, _)| *start <= at).checked_sub(1)?;
        let (start, bytes) = self.parts.get(index)?;
        let skip = usize::try_from(at - start).ok()?;
        (skip <= bytes.len()).then_some((index, skip))
    }
}

impl Length for Sparse {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Sparse {
    type T = SparseReader;

    fn get_read(&self, start: u64) -> parquet::errors::Result<SparseReader> {
        let (index, skip) = self.locate(start).ok_or_else(|| outside(start, 1))?;
        Ok(SparseReader { parts: Arc::clone(&self.parts), index, skip })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let end = start.checked_add(length as u64).ok_or_else(|| outside(start, length))?;
        self.get(start..end).ok_or_else(|| outside(start, length))
    }
}

fn outside(start: u64, length: usize) -> ParquetError {
    ParquetError::General(format!("{length} bytes at {start} lie outside the column chunk"))
}

/// Reads on from some byte of a [`Sparse`], over neighbouring parts.
#[derive(Debug)]
pub(super) struct SparseReader {
    parts: Arc<Vec<(u64, Bytes)>>,
    index: usize,
    skip: usize,
}

impl Read for SparseReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while let Some((start, bytes)) = self.parts.get(self.index) {
            if self.skip < bytes.len() {
                let mut rest = &bytes[self.skip..];
                let count = rest.len().min(out.len());
                rest.copy_to_slice(&mut out[..count]);
                self.skip += count;
                return Ok(count);
            }
            let end = start + bytes.len() as u64;
            if self.parts.get(self.index + 1).is_none_or(|(next, _)| *next != end) {
                return Ok(0);
            }
            self.index += 1;
            self.skip = 0;
        }
        Ok(0)
    }
}

/// Few large ranges that cover these: neighbours are joined, and what is joined
/// is taken apart again where it is larger than one request may be.
pub(super) fn coalesce(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|r| !r.is_empty());
    ranges.sort_unstable_by_key(|r| (r.start, r.end));
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES) => {
                last.end = last.end.max(range.end)
            }
            _ => joined.push(range),
        }
    }
    let step = limits::RANGE_BYTES_MAX;
    let cut =
        |r: Range<u64>| (r.start..r.end).step_by(step as usize).map(move |at| at..(at + step).min(r.end));
    joined.into_iter().flat_map(cut).collect()
}

/// Fetches the ranges of the slice's object, a few at once.
pub(super) async fn fetch(store: &Store, slice: &Slice, ranges: Vec<Range<u64>>) -> Result<Sparse, Problem> {
    let object = &slice.object;
    let get = |range: Range<u64>| async move {
        let bytes = store.get_range(&object.uri, &object.pin, range.clone()).await.map_err(store_problem)?;
        Ok::<_, Problem>((range.start, bytes))
    };
    let parts = stream::iter(coalesce(ranges)).map(get).buffered(PARALLEL).try_collect().await?;
    Ok(Sparse { size: object.pin.size, parts: Arc::new(parts) })
}

/// A fetch that runs while something else is done. Dropped, it stops.
#[derive(Debug)]
pub(super) struct Ahead(AbortOnDropHandle<Result<Sparse, Problem>>);

impl Ahead {
    /// Starts fetching.
    pub(super) fn start(store: &Store, slice: &Slice, ranges: Vec<Range<u64>>) -> Self {
        let (store, slice) = (store.clone(), slice.clone());
        Self(AbortOnDropHandle::new(tokio::spawn(async move { fetch(&store, &slice, ranges).await })))
    }

    /// Waits for it.
    pub(super) async fn finish(self) -> Result<Sparse, Problem> {
        self.0.await.unwrap_or_else(|e| {
            Err(Problem::new(fanfold_protocol::ErrorKind::Internal, format!("a read was stopped: {e}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
    fn neighbours_are_read_together() {
        let far = 100 << 20;
        assert_eq!(coalesce(vec![10..20, 0..10, 30..40, far..far + 1, 5..5]), [0..40, far..far + 1]);
        assert_eq!(coalesce(vec![0..(20 << 20)]), [0..(16 << 20), (16 << 20)..(20 << 20)]);
        assert_eq!(coalesce(vec![0..50, 10..20]), [0..50]);
    }

    #[test]
    fn bytes_are_found_where_they_lie() {
        let parts = vec![
            (10, Bytes::from_static(b"abc")),
            (13, Bytes::from_static(b"def")),
            (20, Bytes::from_static(b"x")),
        ];
        let sparse = Sparse { size: 30, parts: Arc::new(parts) };
        assert_eq!(sparse.get(11..15).unwrap(), "bcde");
        assert_eq!(sparse.get(10..13).unwrap(), "abc");
        assert!(sparse.get(14..21).is_none() && sparse.get(0..1).is_none() && sparse.get(20..22).is_none());
        let mut text = String::new();
        sparse.get_read(12).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "cdef");
    }
}
