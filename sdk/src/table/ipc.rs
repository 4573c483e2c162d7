// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC streams, as the host and the guest exchange them.
//!
//! It owns the decoding of a stream into batches and the encoding of batches
//! into streams (format: Arrow columnar specification, "IPC streaming
//! format"). Invariant: decoding copies nothing where the buffers are aligned,
//! and no encoded stream is longer than what the host takes.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;

use crate::{Error, Result};

/// The schema and the batches of a stream.
///
/// The host sends one batch at a time; more are taken as well.
pub(crate) fn decode(stream: Vec<u8>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let broken =
        |detail: String| Error::new("invalid-stream", format!("expected an Arrow IPC stream: {detail}"));
    let mut buffer = Buffer::from_vec(stream);
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::with_capacity(1);
    while let Some(batch) = decoder.decode(&mut buffer).map_err(|error| broken(error.to_string()))? {
        batches.push(batch);
    }
    decoder.finish().map_err(|error| broken(error.to_string()))?;
    let schema =
        decoder.schema().ok_or_else(|| broken("found no schema; this is a fault of the platform".into()))?;
    Ok((schema, batches))
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
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    let stream = writer.into_inner()?;
    if stream.len() <= bytes_max {
        return send(&stream);
    }
    let rows = batch.num_rows();
    if rows < 2 {
        return Err(Error::new(
            "row-too-large",
            format!(
                "a row must take at most {bytes_max} bytes, found {}; write it to an object instead",
                stream.len()
            ),
        ));
    }
    drop(stream);
    encode_within(&batch.slice(0, rows / 2), bytes_max, send)?;
    encode_within(&batch.slice(rows / 2, rows - rows / 2), bytes_max, send)
}

#[cfg(test)]
mod tests {
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
    fn garbage_is_refused() {
        assert_eq!(decode(vec![1, 2, 3, 4, 5]).unwrap_err().code(), "invalid-stream");
        assert_eq!(decode(Vec::new()).unwrap_err().code(), "invalid-stream");
    }
}
