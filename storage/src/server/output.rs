// SPDX-License-Identifier: Apache-2.0
//! Giving out a body: large reads from its files, a few ahead of the client.
//!
//! The files are held from before the index is read until the last byte has
//! left, so an object that is replaced in the meantime is still given out whole.

use std::{
    io,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use rustix::{
    buffer::spare_capacity,
    io::{pread, retry_on_intr},
};
use s3s::{
    StdError,
    dto::StreamingBlob,
    stream::{ByteStream, RemainingLength},
};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    blobs::{BlobId, Blobs, Hold},
    failure::Failure,
    record::Segment,
};

/// Bytes of one read. Small enough for a core's cache, large enough that the
/// hand-over between threads does not count.
const READ_BYTES: u64 = 1 << 20;
/// Reads that run ahead of the client.
const READS_AHEAD: usize = 2;

/// The bytes `range` of the body that lies in `segments`.
pub(super) fn stream(
    blobs: &Arc<Blobs>,
    segments: &[Segment],
    range: Range<u64>,
    hold: Hold,
) -> StreamingBlob {
    let left = range.end - range.start;
    let blobs = Arc::clone(blobs);
    let reads = reads(segments, range);
    let inner = stream::iter(reads)
        .map(move |read| {
            let blobs = Arc::clone(&blobs);
            spawn_blocking(move || read.run(&blobs))
        })
        .buffered(READS_AHEAD);
    StreamingBlob::new(Output { inner, left, _hold: hold })
}

/// Makes sure of the file that a body begins with, before anything is answered: a body that breaks off
/// is asked for again. What is missing of the others is found by whoever goes on from there.
pub(super) fn check(blobs: &Blobs, segments: &[Segment], range: &Range<u64>) -> Result<(), Failure> {
    let mut start = 0;
    let first = segments.iter().find(|segment| {
        start += segment.size;
        range.start < start
    });
    first.map_or(Ok(()), |segment| blobs.check(segment))
}

/// One read of one file.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    blob: BlobId,
    offset: u64,
    length: usize,
}

impl Read {
    fn run(&self, blobs: &Blobs) -> io::Result<Bytes> {
        let file = blobs.read(self.blob)?;
        // Into room that nothing was written to before.
        let mut buffer = Vec::with_capacity(self.length);
        while buffer.len() < self.length {
            let at = self.offset + buffer.len() as u64;
            if retry_on_intr(|| pread(&file, spare_capacity(&mut buffer), at))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        buffer.truncate(self.length);
        Ok(buffer.into())
    }
}

/// Cuts a range of a body into reads. None spans two files.
fn reads(segments: &[Segment], range: Range<u64>) -> Vec<Read> {
    let mut all = Vec::new();
    let mut start = 0;
    for Segment { blob, size } in segments {
        let (mut at, end) = (range.start.max(start), range.end.min(start + size));
        while at < end {
            let length = READ_BYTES.min(end - at);
            all.push(Read {
                blob: *blob,
                offset: at - start,
                length: usize::try_from(length).unwrap_or(usize::MAX),
            });
            at += length;
        }
        start += size;
    }
    all
}

struct Output<S> {
    inner: S,
    left: u64,
    _hold: Hold,
}

impl<S> Stream for Output<S>
where
    S: Stream<Item = <JoinHandle<io::Result<Bytes>> as Future>::Output> + Unpin,
{
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.inner.poll_next_unpin(cx)).map(|read| read.map_err(io::Error::from).flatten());
        Poll::Ready(next.map(|read| match read {
            Ok(bytes) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Ok(bytes)
            }
            Err(error) => {
                // The connection breaks off, so the client sees a short body.
                tracing::error!(%error, "a stored body could not be read");
                Err(error.into())
            }
        }))
    }
}

impl<S> ByteStream for Output<S>
where
    Self: Stream,
{
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.left).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u64) -> BlobId {
        serde_json::from_value(serde_json::json!({"boot": 1, "number": number})).unwrap()
    }

    #[test]
    fn a_range_is_cut_at_files_and_strides() {
        let mib = 1 << 20;
        let segments = [(1, 5), (2, 3 * mib), (3, 7)].map(|(n, size)| Segment { blob: blob(n), size });
        let read = |n, offset, length| Read { blob: blob(n), offset, length };
        assert_eq!(reads(&segments, 0..5), [read(1, 0, 5)]);
        assert_eq!(reads(&segments, 3..7), [read(1, 3, 2), read(2, 0, 2)]);
        assert_eq!(
            reads(&segments, 5 + 3 * mib - 1..5 + 3 * mib + 7),
            [read(2, 3 * mib - 1, 1), read(3, 0, 7)]
        );
        let all = reads(&segments, 0..12 + 3 * mib);
        assert_eq!(all.iter().map(|r| r.length as u64).sum::<u64>(), 12 + 3 * mib);
        assert!(reads(&segments, 9..9).is_empty());
    }
}
