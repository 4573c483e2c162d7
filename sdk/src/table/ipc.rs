// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC streams, as the host and the guest exchange them.
//!
//! It owns the decoding of a stream into batches and the encoding of batches
//! into streams (format: Arrow columnar specification, "IPC streaming
//! format"). Invariant: decoding copies nothing where the buffers are aligned,
//! and no encoded stream is longer than what the host takes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::writer::StreamEncoder;

use super::flat;
use crate::{Error, Result};

/// The schema and the batches of a stream.
///
/// The host sends one batch at a time, without dictionaries; more batches are taken
/// as well.
pub(crate) fn decode(stream: Vec<u8>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let mut rest = Buffer::from_vec(stream);
    let (mut schema, mut batches) = (None, Vec::with_capacity(1));
    while let Some(metadata) = metadata(&mut rest)? {
        let message = ipc::root_as_message(&metadata).map_err(|error| broken(error.to_string()))?;
        let body = take(&mut rest, usize::try_from(message.bodyLength()).unwrap_or(usize::MAX))?;
        match (message.header_as_schema(), message.header_as_record_batch(), &schema) {
            (Some(found), ..) => schema = Some(Arc::new(try_fb_to_schema(found)?)),
            (_, Some(batch), Some(schema)) => batches.push(match flat::batch(batch, &body, schema) {
                Some(batch) => batch?,
                None => {
                    let (schema, version) = (Arc::clone(schema), message.version());
                    read_record_batch(&body, batch, schema, &HashMap::new(), None, &version)?
                }
            }),
            _ => return Err(broken(format!("found {:?} out of place", message.header_type()))),
        }
    }
    let schema = schema.ok_or_else(|| broken("found no schema; this is a fault of the platform".into()))?;
    Ok((schema, batches))
}

/// The metadata of the next message; `None` at the end.
fn metadata(rest: &mut Buffer) -> Result<Option<Buffer>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let prefix = take(rest, 8)?;
    match prefix.split_first_chunk() {
        Some((&[0xff, 0xff, 0xff, 0xff], &[a, b, c, d])) => match u32::from_le_bytes([a, b, c, d]) {
            0 => Ok(None),
            bytes => take(rest, bytes as usize).map(Some),
        },
        _ => Err(broken(format!("found {prefix:?} where a message begins"))),
    }
}

fn take(rest: &mut Buffer, bytes: usize) -> Result<Buffer> {
    if bytes > rest.len() {
        return Err(broken(format!("found {} bytes where there should be {bytes}", rest.len())));
    }
    let taken = rest.slice_with_length(0, bytes);
    rest.advance(bytes);
    Ok(taken)
}

fn broken(detail: String) -> Error {
    Error::new("invalid-stream", format!("expected an Arrow IPC stream: {detail}"))
}

/// Gives `batch` to `send` as one stream, or as several when it would be longer
/// than the host takes.
#[cfg(target_family = "wasm")]
pub(crate) fn encode(batch: &RecordBatch, send: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    encode_within(batch, crate::objects::TRANSFER_BYTES_MAX, send)
}

fn encode_within(
    batch: &RecordBatch,
    bytes_max: usize,
    send: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut encoder = StreamEncoder::try_new(batch.schema_ref())?;
    let mut parts = encoder.encode(batch)?;
    parts.extend(encoder.finish()?);
    let bytes = parts.iter().map(Buffer::len).sum();
    if bytes <= bytes_max {
        let mut stream = Vec::with_capacity(bytes);
        parts.iter().for_each(|part| stream.extend_from_slice(part));
        return send(&stream);
    }
    let rows = batch.num_rows();
    if rows < 2 {
        return Err(Error::new(
            "row-too-large",
            format!(
                "a row must take at most {bytes_max} bytes, found {bytes}; write it to an object instead"
            ),
        ));
    }
    drop(parts);
    encode_within(&batch.slice(0, rows / 2), bytes_max, send)?;
    encode_within(&batch.slice(rows / 2, rows - rows / 2), bytes_max, send)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Int32Builder, Int64Array, ListBuilder,
        StringArray,
    };

    use super::*;
    use crate::prelude::Row;

    #[derive(Row, Debug, Clone, PartialEq)]
    struct Wide {
        id: u64,
        text: String,
    }

    fn wide(rows: u64) -> RecordBatch {
        Wide::batch((0..rows).map(|id| Wide { id, text: "x".repeat(100) })).unwrap()
    }

    #[test]
    fn batches_come_back_in_order_when_split() {
        let mut streams = Vec::new();
        encode_within(&wide(1000), 20_000, &mut |stream| {
            streams.push(stream.to_vec());
            Ok(())
        })
        .unwrap();
        assert!(streams.len() >= 6, "{} streams", streams.len());
        assert!(streams.iter().all(|stream| stream.len() <= 20_000));
        let mut ids = Vec::new();
        for stream in streams {
            for batch in decode(stream).unwrap().1 {
                ids.extend(Wide::rows(&batch).unwrap().map(|row| row.id));
            }
        }
        assert_eq!(ids, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_row_too_large_is_refused() {
        let error = encode_within(&wide(1), 100, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.code(), "row-too-large");
    }

    #[test]
    fn columns_of_every_kind_come_back() {
        let flat: [(&str, ArrayRef); 5] = [
            ("number", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)]))),
            ("truth", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("text", Arc::new(StringArray::from(vec![Some("é"), None, Some("")]))),
            ("bytes", Arc::new(BinaryArray::from(vec![Some(b"\xff".as_slice()), None, Some(b"")]))),
            ("decimal", Arc::new(Decimal128Array::from(vec![Some(12_345), None, Some(0)]))),
        ];
        let flat = RecordBatch::try_from_iter(flat).unwrap();
        let mut lists = ListBuilder::new(Int32Builder::new());
        lists.append_value([Some(1), None]);
        lists.append_null();
        let nested = RecordBatch::try_from_iter([("lists", Arc::new(lists.finish()) as ArrayRef)]).unwrap();
        for batch in [flat.clone(), flat.slice(1, 2), flat.slice(0, 0), nested] {
            let mut check = |stream: &[u8]| {
                assert_eq!(decode(stream.to_vec())?, (batch.schema(), vec![batch.clone()]));
                Ok(())
            };
            encode_within(&batch, usize::MAX, &mut check).unwrap();
        }
    }

    #[test]
    fn texts_that_are_none_are_refused() {
        let mut check = |stream: &[u8]| {
            let mut stream = stream.to_vec();
            let text = stream.windows(8).position(|bytes| bytes == b"xxxxxxxx").unwrap();
            stream[text] = 0xff;
            assert!(decode(stream).is_err());
            Ok(())
        };
        encode_within(&wide(1), usize::MAX, &mut check).unwrap();
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(decode(vec![1, 2, 3, 4, 5]).unwrap_err().code(), "invalid-stream");
        assert_eq!(decode(Vec::new()).unwrap_err().code(), "invalid-stream");
    }
}
