// SPDX-License-Identifier: Apache-2.0
//! The chunks of a body in AWS's own encoding, held small.
//!
//! s3s keeps each chunk in memory until it is whole, and some SDKs send a body as one chunk.
//! A chunk without a signature is split here into pieces before s3s sees it; what has a
//! signature cannot be split, and is refused when it is large. All else is passed on as it
//! came: what is wrong with it is for s3s to say.
//!
//! The form: `size;chunk-signature=…` in a line, the bytes, a line's end, and so on to a chunk
//! of size 0, behind which the trailers stand
//! ("Signature Calculations: Transferring Payload in Multiple Chunks", Amazon S3 API Reference).

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame};
use s3s::StdError;

/// What a chunk is split into, in bytes. A client has a minute for each.
const PIECE_BYTES: u64 = 64 << 10;
/// The largest chunk with a signature, in bytes.
const SIGNED_BYTES_MAX: u64 = 16 << 20;
/// The longest head of a chunk, in bytes, as s3s has it.
const HEAD_BYTES_MAX: usize = 1_024;

/// What is said of a chunk that cannot be taken. s3s passes errors on as text.
pub(super) const TOO_LARGE: &str = "a signed chunk of a body must be at most 16 MiB; send smaller chunks";

/// A chunk cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("{}", TOO_LARGE)]
struct TooLarge;

/// Whether the body of a request comes in chunks.
pub(super) fn are_in(headers: &HeaderMap) -> bool {
    headers.get("x-amz-content-sha256").is_some_and(|kind| kind.as_bytes().starts_with(b"STREAMING-"))
}

/// A body in chunks, none of which is large.
#[derive(Debug)]
pub(super) struct Chunks<B> {
    body: B,
    splitter: Splitter,
}

impl<B> Chunks<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, splitter: Splitter::default() }
    }
}

impl<B> Body for Chunks<B>
where
    B: Body<Data = Bytes, Error: Into<StdError>> + Unpin,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        loop {
            if let Some(bytes) = self.splitter.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => match self.splitter.take(bytes) {
                        Ok(()) => {}
                        Err(error) => return Poll::Ready(Some(Err(error.into()))),
                    },
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None if self.splitter.line.is_empty() => return Poll::Ready(None),
                None => self.splitter.pass_line(),
            }
        }
    }
}

/// Splits chunks as their bytes come.
#[derive(Debug, Default)]
struct Splitter {
    at: At,
    /// A line that has begun: the head of a chunk, or the end of the one before.
    line: Vec<u8>,
    /// What is to be passed on.
    ready: VecDeque<Bytes>,
}

/// Where in the form the next byte stands.
#[derive(Debug, Default)]
enum At {
    #[default]
    Line,
    /// In a chunk of which so many bytes are left, and so many of its piece, which are no more.
    Data { chunk: u64, piece: u64 },
    /// Behind the last chunk, or where nothing can be read.
    Rest,
}

impl Splitter {
    fn take(&mut self, mut bytes: Bytes) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            match self.at {
                At::Line => {
                    let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
                    self.line.extend_from_slice(&bytes.split_to(end));
                    if self.line.ends_with(b"\n") {
                        self.end_line()?;
                    } else if self.line.len() > HEAD_BYTES_MAX {
                        self.at = At::Rest;
                        self.pass_line();
                    }
                }
                At::Data { chunk, piece } => {
                    let length = bytes.len().min(usize::try_from(piece).unwrap_or(usize::MAX));
                    self.ready.push_back(bytes.split_to(length));
                    self.at = self.behind(chunk - length as u64, piece - length as u64);
                }
                At::Rest => self.ready.push_back(std::mem::take(&mut bytes)),
            }
        }
        Ok(())
    }

    /// Where the next byte stands when so much is left; begins the next piece of a chunk.
    fn behind(&mut self, chunk: u64, piece: u64) -> At {
        match (chunk, piece) {
            (0, _) => At::Line,
            (_, 0) => {
                let piece = chunk.min(PIECE_BYTES);
                self.ready.push_back(format!("\r\n{piece:x}\r\n").into());
                At::Data { chunk, piece }
            }
            _ => At::Data { chunk, piece },
        }
    }

    fn end_line(&mut self) -> Result<(), TooLarge> {
        match head(&self.line) {
            Some(Head::EndOfData) => {}
            Some(Head::Chunk { size: 0, .. }) | None => self.at = At::Rest,
            Some(Head::Chunk { size, is_signed: true }) => {
                if size > SIGNED_BYTES_MAX {
                    return Err(TooLarge);
                }
                self.at = At::Data { chunk: size, piece: size };
            }
            Some(Head::Chunk { size, is_signed: false }) => {
                let piece = size.min(PIECE_BYTES);
                self.line = format!("{piece:x}\r\n").into_bytes();
                self.at = At::Data { chunk: size, piece };
            }
        }
        self.pass_line();
        Ok(())
    }

    fn pass_line(&mut self) {
        self.ready.push_back(std::mem::take(&mut self.line).into());
    }
}

/// What a line says.
enum Head {
    /// That the bytes of a chunk are over.
    EndOfData,
    /// That a chunk begins.
    Chunk { size: u64, is_signed: bool },
}

/// Reads a line with its end; none when it is not of the form.
fn head(line: &[u8]) -> Option<Head> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    if line.is_empty() {
        return Some(Head::EndOfData);
    }
    let (size, is_signed) = line.split_once(';').map_or((line, false), |(size, _)| (size, true));
    let is_hex = size.bytes().all(|b| b.is_ascii_hexdigit());
    let size = is_hex.then(|| u64::from_str_radix(size, 16).ok())??;
    Some(Head::Chunk { size, is_signed })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes of a body that arrives in reads of so many bytes.
    fn passed(body: &[u8], read: usize) -> Result<Vec<Bytes>, TooLarge> {
        let mut splitter = Splitter::default();
        for bytes in body.chunks(read) {
            splitter.take(Bytes::copy_from_slice(bytes))?;
        }
        if !splitter.line.is_empty() {
            splitter.pass_line();
        }
        Ok(splitter.ready.into())
    }

    /// The sizes of the chunks of a body, their bytes, and what follows the last.
    fn parsed(mut body: &[u8]) -> (Vec<usize>, Vec<u8>, Vec<u8>) {
        let (mut sizes, mut data) = (Vec::new(), Vec::new());
        loop {
            let end = body.iter().position(|b| *b == b'\n').unwrap();
            let size = std::str::from_utf8(&body[..end - 1]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            body = &body[end + 1..];
            if size == 0 {
                return (sizes, data, body.to_vec());
            }
            sizes.push(size);
            data.extend_from_slice(&body[..size]);
            body = body[size..].strip_prefix(b"\r\n").unwrap();
        }
    }

    fn body_of(chunks: &[Vec<u8>], end: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for chunk in chunks {
            body.extend(format!("{:X}\r\n", chunk.len()).into_bytes());
            body.extend_from_slice(chunk);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n");
        body.extend(end.as_bytes());
        body
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunks_become_small_and_say_the_same(
            lengths in proptest::collection::vec(1_usize..200_000, 0..4), read in 1_usize..150_000,
        ) {
            let chunks: Vec<Vec<u8>> =
                lengths.iter().map(|length| (0..*length).map(|n| b"\r\n0a;"[n % 5]).collect()).collect();
            let end = "x-amz-checksum-crc32:AAAAAA==\r\n\r\n";
            let (sizes, data, rest) = parsed(&passed(&body_of(&chunks, end), read).unwrap().concat());
            prop_assert!(sizes.iter().all(|size| *size as u64 <= PIECE_BYTES));
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(rest, end.as_bytes());
        }
    }

    #[test]
    fn signed_chunks_are_passed_on_or_refused() {
        let signed = |size: u64| format!("{size:x};chunk-signature={}\r\n", "0".repeat(64)).into_bytes();
        let body = [signed(100_000), vec![b'x'; 100_000], b"\r\n".to_vec(), signed(0)].concat();
        for read in [1, 7, 65_536, body.len()] {
            assert_eq!(passed(&body, read).unwrap().concat(), body, "{read}");
        }
        assert!(passed(&signed(SIGNED_BYTES_MAX), 10).is_ok());
        assert!(passed(&signed(SIGNED_BYTES_MAX + 1), 10).is_err());
        assert!(passed(&signed(u64::MAX), 10).is_err());
    }

    #[test]
    fn what_has_another_form_is_passed_on() {
        let long = "1".repeat(3 * HEAD_BYTES_MAX);
        let large = format!("{}1\r\nx", "0".repeat(40));
        for body in [
            "",
            "x\r\n1",
            "\n",
            "5",
            "4\r\nab",
            "-4\r\nabcd",
            "+4\r\nabcd",
            "11111111111111111\r\n",
            long.as_str(),
        ] {
            assert_eq!(passed(body.as_bytes(), 3).unwrap().concat(), body.as_bytes(), "{body}");
        }
        assert_eq!(passed(large.as_bytes(), 3).unwrap().concat(), b"1\r\nx");
        // More than 32 bits are no reason to wait for all of them.
        let begun = passed(b"100000000\r\nabc", 4).unwrap().concat();
        assert_eq!(begun, b"10000\r\nabc");
    }
}
