// SPDX-License-Identifier: Apache-2.0
//! Text of an object, decompressed, as a window that moves over it.
//!
//! A task reads ahead by ranges of 4 MiB; the window holds what its user has
//! not yet consumed. Offsets are those of the decompressed text. Gzip (RFC 1952,
//! also of several members) and Zstandard (RFC 8878) are told by their first
//! bytes and fed in small pieces, so that no input expands unobserved.

use std::ops::Range;

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, limits, plan::Slice, stored::Compressed};
use fanfold_storage::{ReadAhead, Store};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use zstd::stream::raw::{InBuffer, Operation, OutBuffer};

use super::{gzip::Gzip, store_problem};

/// Bytes of one ranged read.
const CHUNK_BYTES: u64 = 4 << 20;
/// Compressed bytes that are decompressed at once.
const PIECE_BYTES: usize = 16 << 10;
/// Compressed bytes after which others have their turn, whatever came of them.
const TURN_BYTES: u64 = 16 * PIECE_BYTES as u64;
/// Decompressed bytes after which the window's user is asked first.
const INFLATED_BYTES: usize = 1 << 20;
/// Decompressed bytes that Zstandard gives at once; as many as its blocks have at most.
const BLOCK_BYTES: usize = 128 << 10;

type Chunks = mpsc::Receiver<Result<Bytes, Problem>>;

/// A moving window over the text of a slice.
pub(super) struct Text {
    uri: String,
    /// The kind of problem that damaged text of this format is.
    malformed: ErrorKind,
    window: Vec<u8>,
    /// Bytes of the window that are consumed.
    consumed: usize,
    /// Of the first byte that is not consumed.
    offset: u64,
    /// Fetched, not yet in the window.
    chunk: Bytes,
    chunks: Option<Chunks>,
    inflate: Inflate,
    stored: u64,
    inflated: u64,
    ended: bool,
    _task: Option<AbortOnDropHandle<()>>,
}

enum Inflate {
    Plain,
    Gzip(Box<Gzip>),
    /// `frame_open` within a frame, `more` when the decoder holds output back. A frame gives a
    /// block after the other into `block`, and may give nothing: the window is not made longer
    /// beforehand, which would write more for each empty frame than that takes.
    Zstd {
        decoder: zstd::stream::raw::Decoder<'static>,
        block: Box<[u8]>,
        frame_open: bool,
        more: bool,
    },
}

impl Text {
    /// The slice's text, given the first bytes of its object and what to call
    /// text that is damaged.
    pub(super) fn open(
        store: &Store,
        slice: &Slice,
        head: &Bytes,
        malformed: ErrorKind,
    ) -> Result<Self, Problem> {
        let uri = slice.object.uri.to_string();
        let size = slice.object.pin.size;
        let range = slice.bytes.map_or(0..size, |r| r.start..r.end);
        if range.start > range.end || range.end > size {
            let detail = format!(
                "a slice must lie within the {size} bytes of {uri}, found bytes {}..{}",
                range.start, range.end
            );
            return Err(Problem::new(ErrorKind::InvalidJob, detail));
        }
        let inflate = match Compressed::of(head) {
            Compressed::No => Inflate::Plain,
            _ if range != (0..size) => {
                let detail = format!(
                    "{uri} is compressed and must be read whole, found bytes {}..{}",
                    range.start, range.end
                );
                return Err(Problem::new(ErrorKind::InvalidJob, detail));
            }
            Compressed::Gzip => Inflate::Gzip(Box::new(Gzip::new())),
            Compressed::Zstd => {
                let decoder = zstd::stream::raw::Decoder::new().map_err(|e| {
                    Problem::new(ErrorKind::Internal, format!("no decoder for Zstandard: {e}"))
                })?;
                Inflate::Zstd { decoder, block: vec![0; BLOCK_BYTES].into(), frame_open: false, more: false }
            }
        };
        let known = (range.start as usize).min(head.len())..(range.end as usize).min(head.len());
        let rest = range.start.max(head.len() as u64)..range.end;
        let (chunks, task) = if rest.is_empty() { (None, None) } else { read_ahead(store, slice, rest) };
        let chunk = head.slice(known);
        Ok(Self {
            uri,
            malformed,
            window: Vec::new(),
            consumed: 0,
            offset: range.start,
            chunk,
            chunks,
            inflate,
            stored: 0,
            inflated: 0,
            ended: false,
            _task: task,
        })
    }

    /// What is there and not consumed.
    pub(super) fn data(&self) -> &[u8] {
        &self.window[self.consumed..]
    }

    /// Offset of the first byte of [`Text::data`].
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether nothing comes after [`Text::data`].
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Moves the window's start.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.consumed = (self.consumed + bytes).min(self.window.len());
        self.offset += bytes as u64;
    }

    /// Makes [`Text::data`] longer, or finds that the text has ended. Not
    /// cancellation safe: after a dropped call the text has a hole.
    pub(super) async fn fill(&mut self) -> Result<(), Problem> {
        self.window.drain(..self.consumed);
        self.consumed = 0;
        let before = self.window.len();
        while self.window.len() == before && !self.ended {
            if self.chunk.is_empty() && !self.holds_output() {
                match self.chunks.as_mut() {
                    Some(chunks) => match chunks.recv().await {
                        Some(chunk) => self.chunk = chunk?,
                        None => self.end()?,
                    },
                    None => self.end()?,
                }
            }
            self.inflate_chunk()?;
            if self.window.len() == before {
                // Text that is there and gives nothing, such as empty frames, may be long.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Fills until this many bytes are there or the text has ended.
    pub(super) async fn fill_to(&mut self, bytes: usize) -> Result<(), Problem> {
        while self.data().len() < bytes && !self.ended {
            self.fill().await?;
        }
        Ok(())
    }

    fn holds_output(&self) -> bool {
        matches!(self.inflate, Inflate::Zstd { more: true, .. })
    }

    fn inflate_chunk(&mut self) -> Result<(), Problem> {
        let (enough, turn) = (self.window.len() + INFLATED_BYTES, self.stored + TURN_BYTES);
        while (!self.chunk.is_empty() || self.holds_output())
            && self.window.len() < enough
            && self.stored < turn
        {
            let before = self.window.len();
            let taken = match &mut self.inflate {
                Inflate::Plain => {
                    self.window.extend_from_slice(&self.chunk);
                    self.chunk.clear();
                    continue;
                }
                Inflate::Gzip(decoder) => {
                    let taken = self.chunk.len().min(PIECE_BYTES);
                    decoder
                        .feed(&self.chunk[..taken])
                        .map_err(|e| damaged(self.malformed, &self.uri, "gzip", &e))?;
                    self.window.append(decoder.text());
                    taken
                }
                Inflate::Zstd { decoder, block, frame_open, more } => {
                    let mut input = InBuffer::around(&self.chunk);
                    let mut output = OutBuffer::around(&mut block[..]);
                    let hint = decoder
                        .run(&mut input, &mut output)
                        .map_err(|e| damaged(self.malformed, &self.uri, "Zstandard", &e))?;
                    let (taken, filled) = (input.pos(), output.pos());
                    // Asked once more after the end, it hints at the frame that would be next.
                    if taken > 0 || filled > 0 {
                        *frame_open = hint != 0;
                    }
                    *more = filled == block.len();
                    self.window.extend_from_slice(&block[..filled]);
                    taken
                }
            };
            self.chunk = self.chunk.slice(taken..);
            self.stored += taken as u64;
            self.inflated += (self.window.len() - before) as u64;
            self.check_ratio()?;
        }
        Ok(())
    }

    fn check_ratio(&self) -> Result<(), Problem> {
        let by_ratio = limits::PAGE_BYTES_MAX.max(self.stored.saturating_mul(limits::DECODED_RATIO_MAX));
        let allowed = by_ratio.min(limits::DECODED_BYTES_MAX);
        if self.inflated <= allowed {
            return Ok(());
        }
        let detail = format!(
            "{} must decompress to at most {} bytes for each stored one and {} in all, found {} out of {}; store it \
             with less compression or in parts",
            self.uri,
            limits::DECODED_RATIO_MAX,
            limits::DECODED_BYTES_MAX,
            self.inflated,
            self.stored
        );
        Err(Problem::new(ErrorKind::DecodeLimit, detail))
    }

    fn end(&mut self) -> Result<(), Problem> {
        self.ended = true;
        match &mut self.inflate {
            Inflate::Plain => Ok(()),
            Inflate::Gzip(decoder) => {
                decoder.end().map_err(|e| damaged(self.malformed, &self.uri, "gzip", &e))?;
                self.window.append(decoder.text());
                Ok(())
            }
            Inflate::Zstd { frame_open: false, .. } => Ok(()),
            Inflate::Zstd { .. } => Err(damaged(
                self.malformed,
                &self.uri,
                "Zstandard",
                &std::io::Error::other("the end within a frame"),
            )),
        }
    }
}

fn damaged(kind: ErrorKind, uri: &str, format: &str, error: &std::io::Error) -> Problem {
    let detail = format!(
        "{uri} must be sound {format} data, found: {error}; it may be truncated, write it again from its source"
    );
    Problem::new(kind, detail)
}

fn read_ahead(
    store: &Store,
    slice: &Slice,
    rest: Range<u64>,
) -> (Option<Chunks>, Option<AbortOnDropHandle<()>>) {
    let (sender, receiver) = mpsc::channel(1);
    let ahead = ReadAhead { chunk_bytes: CHUNK_BYTES, parallel: 2 };
    let mut stream = Box::pin(store.reader(&slice.object.uri, &slice.object.pin, rest, ahead));
    let task = tokio::spawn(async move {
        while let Some(chunk) = stream.next().await {
            if sender.send(chunk.map_err(store_problem)).await.is_err() {
                break;
            }
        }
    });
    (Some(receiver), Some(AbortOnDropHandle::new(task)))
}
