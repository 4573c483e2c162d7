// SPDX-License-Identifier: Apache-2.0
//! A line of JSON with bytes behind it: how records and messages carry a body
//! that need not be text, without encoding it.

use bytes::{BufMut, Bytes, BytesMut};
use fanfold_protocol::Problem;
use serde::{Serialize, de::DeserializeOwned};

use crate::problem::internal;

/// Writes both.
pub(crate) fn encode<T: Serialize>(head: &T, body: &[u8]) -> Result<Bytes, Problem> {
    let json = serde_json::to_vec(head).map_err(internal)?;
    let mut value = BytesMut::with_capacity(json.len() + 1 + body.len());
    value.put_slice(&json);
    value.put_u8(b'\n');
    value.put_slice(body);
    Ok(value.freeze())
}

/// Reads both; the body shares the value's memory.
pub(crate) fn decode<T: DeserializeOwned>(value: &Bytes) -> serde_json::Result<(T, Bytes)> {
    // JSON as serde_json writes it has no line breaks.
    let end = value.iter().position(|b| *b == b'\n').unwrap_or(value.len());
    let head = serde_json::from_slice(&value[..end])?;
    Ok((head, value.slice((end + 1).min(value.len())..)))
}
