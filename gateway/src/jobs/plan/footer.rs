// SPDX-License-Identifier: Apache-2.0
//! The footers of Parquet objects and Arrow files, as bytes.
//!
//! One ranged read mostly: the end of the object, in which the footer is unless it
//! is large. What it says is for [`fanfold_protocol::stored`] to tell.

use bytes::Bytes;
use fanfold_protocol::{
    Problem,
    stored::{arrow, parquet},
    uri::PinnedObject,
};
use fanfold_storage::Store;

use crate::jobs::error::{Result, about_input};

/// The footer of a Parquet object.
pub async fn of_parquet(store: &Store, object: &PinnedObject) -> Result<Bytes> {
    let length = |uri: &str, tail: &[u8], size| parquet::footer_length(uri, tail, size).map(|l| l as u64);
    read(store, object, parquet::TAIL_BYTES, parquet::TRAILER_BYTES, length).await
}

/// The footer of an Arrow IPC file.
pub async fn of_arrow(store: &Store, object: &PinnedObject) -> Result<Bytes> {
    read(store, object, arrow::TAIL_BYTES, arrow::TRAILER_BYTES, arrow::footer_length).await
}

async fn read(
    store: &Store,
    object: &PinnedObject,
    tail_bytes: u64,
    trailer_bytes: usize,
    length: impl Fn(&str, &[u8], u64) -> Result<u64, Problem>,
) -> Result<Bytes> {
    let (uri, size) = (object.uri.to_string(), object.pin.size);
    let get = |range| store.get_range(&object.uri, &object.pin, range);
    let start = size.saturating_sub(tail_bytes);
    let tail = get(start..size).await.map_err(about_input)?;
    let length = length(&uri, &tail, size)?;
    // Checked against the size by whoever told the length.
    let end = size - trailer_bytes as u64;
    let begin = end - length;
    match begin.checked_sub(start) {
        Some(at) => Ok(tail.slice(at as usize..(end - start) as usize)),
        None => Ok(get(begin..end).await.map_err(about_input)?),
    }
}
