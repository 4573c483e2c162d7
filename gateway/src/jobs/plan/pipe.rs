// SPDX-License-Identifier: Apache-2.0
//! Objects of the store for parsers that block.
//!
//! A list of input may be larger than what fits into memory at once: its bytes go to a
//! thread that parses them as they come, a few chunks ahead of it and no more.

use std::io::Read;

use bytes::{Buf, Bytes};
use fanfold_protocol::{
    Problem,
    uri::{ObjectUri, Pin},
};
use fanfold_storage::{ReadAhead, Store};
use futures::TryStreamExt;
use tokio::sync::mpsc;

use crate::jobs::error::{Result, about_input};

/// How an object is read from end to end.
const AHEAD: ReadAhead = ReadAhead { chunk_bytes: 1 << 20, parallel: 4 };

/// The bytes of an object, in order. That they could not be read is not seen here: it
/// is what [`read`] answers.
pub struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

/// Gives the pinned bytes of an object to `parse`, on a thread of its own.
///
/// # Errors
/// Why the object cannot be read; what `parse` says.
pub async fn read<T: Send + 'static>(
    store: &Store,
    uri: &ObjectUri,
    pin: &Pin,
    parse: impl FnOnce(Chunks) -> Result<T, Problem> + Send + 'static,
) -> Result<T> {
    let (sender, chunks) = mpsc::channel(1);
    let parsing = tokio::task::spawn_blocking(move || parse(Chunks { chunks, chunk: Bytes::new() }));
    let reader = store.reader(uri, pin, 0..pin.size, AHEAD);
    let reading = async move {
        let mut reader = std::pin::pin!(reader);
        while let Some(chunk) = reader.try_next().await? {
            if sender.send(chunk).await.is_err() {
                // The parser has seen enough.
                break;
            }
        }
        Ok::<_, fanfold_storage::Error>(())
    };
    let (read, parsed) = tokio::join!(reading, parsing);
    read.map_err(about_input)?;
    Ok(parsed.map_err(crate::problem::internal).flatten()?)
}
