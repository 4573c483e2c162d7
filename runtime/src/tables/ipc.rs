// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC as it crosses the border to a guest, both ways.
//!
//! [`encode`] and [`encode_schema`] make streams for a guest; [`decode`] takes a
//! guest's. A message is checked here (frame, declared lengths, row count)
//! before arrow-ipc, with its validation on, sees it: no length that a guest or
//! a file declares is ever believed further than the bytes that are there.
//!
//! Format: Arrow columnar format 1.5, "Serialization and interprocess
//! communication", "IPC streaming format".

use std::sync::Arc;

use arrow::{
    array::{Array, MutableArrayData, RecordBatch, RecordBatchOptions, make_array},
    buffer::Buffer,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::{
        self, Block, MessageHeader, convert::try_fb_to_schema, reader::FileDecoder, root_as_message,
        root_as_message_with_opts, writer::StreamWriter,
    },
};
use fanfold_protocol::{ErrorKind, Problem, limits};
use flatbuffers::{InvalidFlatbuffer, VerifierOptions};

use super::{guard::guard, shape};

/// The four bytes that begin every message of a stream.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Bytes before a message's metadata: the continuation and its length.
pub(super) const PREFIX_BYTES: usize = 8;

/// Bytes of a message, which is held in memory whole, compressed and not.
pub(super) const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// A message with more rows than this has rows without bytes.
const ROWS_MAX: i64 = limits::TRANSFER_BYTES_MAX as i64;

/// Tables of a flatbuffer: a column is two of them, and a pair of metadata one.
const TABLES_MAX: usize = 1 << 18;

/// Bytes of a flatbuffer that are looked at for each that it has. Tables share their layouts, which
/// makes it four at most where every text and column is named once.
const LOOKED_AT_PER_BYTE: usize = 16;

/// How many times as long as its batch a guest's message may be for that to lie in it.
const SPARE_FACTOR: usize = 2;

/// The batch as an Arrow IPC stream: its schema and one record batch. Refused
/// when that is larger than a guest takes at once.
pub fn encode(batch: &RecordBatch) -> Result<Vec<u8>, Problem> {
    let bytes = write(batch.schema_ref(), Some(batch))?;
    within_batch_limit(bytes)
}

/// The schema as an Arrow IPC stream without batches.
pub fn encode_schema(schema: &Schema) -> Result<Vec<u8>, Problem> {
    within_batch_limit(write(schema, None)?)
}

fn within_batch_limit(bytes: Vec<u8>) -> Result<Vec<u8>, Problem> {
    if bytes.len() as u64 <= limits::BATCH_BYTES_MAX {
        return Ok(bytes);
    }
    Err(Problem::new(
        ErrorKind::DecodeLimit,
        format!(
            "a batch must be at most {} bytes as Arrow IPC, found {}; select fewer columns",
            limits::BATCH_BYTES_MAX,
            bytes.len()
        ),
    ))
}

fn write(schema: &Schema, batch: Option<&RecordBatch>) -> Result<Vec<u8>, Problem> {
    let inner =
        |e: ArrowError| Problem::new(ErrorKind::Internal, format!("a batch could not be encoded: {e}"));
    let capacity = batch.map_or(4 << 10, |b| shape::ipc_bytes(b) + (4 << 10));
    let mut writer = StreamWriter::try_new(Vec::with_capacity(capacity), schema).map_err(inner)?;
    if let Some(batch) = batch {
        writer.write(batch).map_err(inner)?;
    }
    writer.finish().map_err(inner)?;
    writer.into_inner().map_err(inner)
}

/// The batches of a guest's Arrow IPC stream, with dictionaries, views and runs
/// made plain. A stream without batches gives one batch without rows, so that
/// its schema is known. Everything about the bytes may be wrong or malicious.
pub fn decode(bytes: &[u8]) -> Result<Vec<RecordBatch>, Problem> {
    if bytes.len() as u64 > limits::TRANSFER_BYTES_MAX {
        let detail = format!(
            "an Arrow IPC stream must be at most {} bytes a call, found {}; write smaller batches",
            limits::TRANSFER_BYTES_MAX,
            bytes.len()
        );
        return Err(Problem::new(ErrorKind::TransferTooLarge, detail));
    }
    let place = || "the Arrow IPC stream of the function".to_owned();
    guard(ErrorKind::ArrowCorrupt, place, || {
        decode_stream(bytes).map_err(|p| p.within("the Arrow IPC stream of the function"))
    })
}

/// The messages of a stream, decoded one by one.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The schema, and what decodes by it, once its message was taken.
    table: Option<(SchemaRef, FileDecoder)>,
}

impl Messages {
    /// The schema, once its message was taken.
    pub(super) fn schema(&self) -> Option<SchemaRef> {
        self.table.as_ref().map(|(schema, _)| Arc::clone(schema))
    }

    /// Takes a whole message, which may be a batch: of the schema as [`shape::unread`] has it.
    pub(super) fn take(&mut self, message: &[u8], frame: Frame) -> Result<Option<RecordBatch>, ArrowError> {
        let metadata = PREFIX_BYTES + frame.metadata;
        let header = root_as_message(&message[PREFIX_BYTES..metadata])
            .map_err(|e| ArrowError::IpcError(format!("no message: {e}")))?;
        let Some((_, decoder)) = &mut self.table else {
            let first = || ArrowError::IpcError(format!("{:?} before a schema", header.header_type()));
            let schema = Arc::new(schema_of(header.header_as_schema().ok_or_else(first)?)?);
            let decoder = FileDecoder::new(shape::unread(&schema), header.version());
            self.table = Some((schema, decoder));
            return Ok(None);
        };
        // The decoder is told lengths, not places.
        let block = Block::new(0, metadata as i32, frame.body as i64);
        match header.header_type() {
            MessageHeader::DictionaryBatch => {
                decoder.read_dictionary(&block, &Buffer::from(message)).map(|()| None)
            }
            _ => decoder.read_record_batch(&block, &Buffer::from(message)),
        }
    }
}

/// The schema of a message or a footer, whose numbers are read as they were written.
pub(super) fn schema_of(stored: ipc::Schema<'_>) -> Result<Schema, ArrowError> {
    if stored.endianness() != ipc::Endianness::Little {
        let detail = "numbers in big-endian order; write them in little-endian order";
        return Err(ArrowError::IpcError(detail.to_owned()));
    }
    try_fb_to_schema(stored)
}

/// How far a flatbuffer of these bytes is followed. Whatever it names again and again is looked at, and
/// made anew when it is decoded, for each time.
pub(super) fn bounds(bytes: &[u8]) -> VerifierOptions {
    let size = bytes.len().saturating_mul(LOOKED_AT_PER_BYTE).min(limits::PAGE_BYTES_MAX as usize);
    VerifierOptions { max_tables: TABLES_MAX, max_apparent_size: size, ..VerifierOptions::default() }
}

/// Whether these bytes, a message as Parquet keeps it, are more to decode than [`bounds`] allow. What
/// is no message is not.
pub(super) fn is_beyond_bounds(bytes: &[u8]) -> bool {
    let prefixed = bytes.len() > PREFIX_BYTES && bytes.starts_with(&CONTINUATION);
    let message = if prefixed { &bytes[PREFIX_BYTES..] } else { bytes };
    matches!(
        root_as_message_with_opts(&bounds(message), message),
        Err(InvalidFlatbuffer::ApparentSizeTooLarge | InvalidFlatbuffer::TooManyTables)
    )
}

fn decode_stream(bytes: &[u8]) -> Result<Vec<RecordBatch>, Problem> {
    let mut messages = Messages::default();
    let mut batches = Vec::new();
    let mut room = limits::PAGE_BYTES_MAX as usize;
    let mut at = 0;
    while let Some(frame) = Frame::read(&bytes[at..], at as u64)? {
        let message = bytes.get(at..at + frame.len()).ok_or_else(|| {
            corrupt(format!(
                "the message at byte {at} must be {} bytes long, found the end after {}",
                frame.len(),
                bytes.len() - at
            ))
        })?;
        check_message(message, frame, Origin::Guest)
            .map_err(|p| p.within(format!("message at byte {at}")))?;
        at += frame.len();
        let batch = messages.take(message, frame).map_err(malformed)?;
        if let Some((batch, schema)) = batch.zip(messages.schema()) {
            shape::check_types(&schema)?;
            let expanded = shape::ipc_bytes(&batch);
            room = room.checked_sub(expanded).ok_or_else(|| {
                let detail = format!("dictionaries and views must expand to at most {} bytes a call, found more; write plain or smaller batches", limits::PAGE_BYTES_MAX);
                Problem::new(ErrorKind::TransferTooLarge, detail)
            })?;
            let plain = shape::plain_as(&batch, &shape::plain_schema(&schema)).map_err(malformed)?;
            // Whoever keeps a part of a message keeps all of it, and nobody weighs what no column names.
            let is_spacious = frame.len() > SPARE_FACTOR * expanded;
            batches.push(if is_spacious { apart(&plain).map_err(malformed)? } else { plain });
        }
    }
    let schema = messages.schema().ok_or_else(|| corrupt("expected a schema, found the end".to_owned()))?;
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(shape::plain_schema(&schema)));
    }
    Ok(batches)
}

/// The batch in buffers of its own.
fn apart(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(|column| {
        let data = column.to_data();
        let mut copy = MutableArrayData::try_new(vec![&data], false, data.len())?;
        copy.try_extend(0, 0, data.len())?;
        Ok(make_array(copy.freeze()))
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

fn malformed(error: ArrowError) -> Problem {
    corrupt(format!("expected valid Arrow IPC, found: {error}"))
}

fn corrupt(detail: String) -> Problem {
    Problem::new(ErrorKind::ArrowCorrupt, detail)
}

/// Where the parts of a message lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Bytes of the metadata.
    pub(super) metadata: usize,
    /// Bytes of the body.
    pub(super) body: usize,
}

impl Frame {
    /// Bytes of the message, prefix included.
    pub(super) fn len(self) -> usize {
        PREFIX_BYTES + self.metadata + self.body
    }

    /// The frame of the message that `bytes` begins with, at `offset` of the
    /// whole. `None` at the end of the stream, said or not.
    pub(super) fn read(bytes: &[u8], offset: u64) -> Result<Option<Self>, Problem> {
        let Some(metadata) = Self::metadata_bytes(bytes, offset)? else { return Ok(None) };
        let Some(header) = bytes.get(PREFIX_BYTES..PREFIX_BYTES + metadata) else {
            return Err(corrupt(format!(
                "the metadata at byte {offset} must be {metadata} bytes long, found the end"
            )));
        };
        Self::of(header, offset).map(Some)
    }

    /// Bytes of the metadata of the message that `bytes` begins with.
    pub(super) fn metadata_bytes(bytes: &[u8], offset: u64) -> Result<Option<usize>, Problem> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else {
            return if bytes.is_empty() {
                Ok(None)
            } else {
                Err(corrupt(format!("expected a message at byte {offset}, found the end")))
            };
        };
        if *prefix != CONTINUATION {
            // Before version 0.15 there was no continuation, and nobody writes that now.
            return Err(corrupt(format!(
                "a message must begin with ff ff ff ff at byte {offset}, found {prefix:02x?}"
            )));
        }
        let length = rest.first_chunk::<4>().map(|b| i32::from_le_bytes(*b));
        match length {
            Some(0) => Ok(None),
            Some(length) if length > 0 && length as u64 <= limits::TRANSFER_BYTES_MAX => {
                Ok(Some(length as usize))
            }
            Some(length) => Err(corrupt(format!(
                "metadata at byte {offset} must be 1 to {} bytes long, found {length}",
                limits::TRANSFER_BYTES_MAX
            ))),
            None => Err(corrupt(format!("expected a length after byte {offset}, found the end"))),
        }
    }

    /// The frame of a message with this metadata, which is known from then on to be within [`bounds`].
    pub(super) fn of(metadata: &[u8], offset: u64) -> Result<Self, Problem> {
        let message = root_as_message_with_opts(&bounds(metadata), metadata)
            .map_err(|e| corrupt(format!("the metadata at byte {offset} is no Arrow message: {e}")))?;
        let body = message.bodyLength();
        let body = usize::try_from(body)
            .map_err(|_| corrupt(format!("the body at byte {offset} must have a length, found {body}")))?;
        let fits = body.checked_add(PREFIX_BYTES + metadata.len()).is_some();
        fits.then_some(Self { metadata: metadata.len(), body }).ok_or_else(|| {
            corrupt(format!("the body at byte {offset} must fit in memory, found {body} bytes"))
        })
    }
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Guests send plain buffers and whole dictionaries.
    Guest,
    /// Files may have compressed buffers, within the caps on decompression, and
    /// dictionaries that grow.
    File,
}

/// Checks what a whole message declares before anything is allocated for it.
/// Returns the bytes that its buffers decompress to.
pub(super) fn check_message(message: &[u8], frame: Frame, origin: Origin) -> Result<u64, Problem> {
    let (metadata, body) = message[PREFIX_BYTES..].split_at(frame.metadata);
    let message =
        root_as_message(metadata).map_err(|e| corrupt(format!("the metadata is no Arrow message: {e}")))?;
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch();
            // Each part copies all that came before it.
            if origin == Origin::Guest && dictionary.is_some_and(|d| d.isDelta()) {
                let detail = "expected whole dictionaries, found a part to be added to one; write it whole";
                return Err(corrupt(detail.to_owned()));
            }
            dictionary.and_then(|d| d.data())
        }
        MessageHeader::Schema => return Ok(0),
        other => {
            return Err(corrupt(format!(
                "expected a schema, a dictionary or a record batch, found {other:?}"
            )));
        }
    };
    let batch = batch.ok_or_else(|| corrupt("a message must have a header, found none".to_owned()))?;
    check_rows(&batch, body.len())?;
    check_buffers(&batch, body.len())?;
    match (batch.compression(), origin) {
        (None, _) => Ok(body.len() as u64),
        (Some(_), Origin::Guest) => Err(corrupt(
            "expected plain buffers, found compressed ones; write without compression".to_owned(),
        )),
        (Some(_), Origin::File) => decompressed_bytes(&batch, body),
    }
}

/// A row costs at least some bytes, except in tables without columns or with
/// nothing but nulls; those are held to what a transfer could carry.
fn check_rows(batch: &ipc::RecordBatch<'_>, body: usize) -> Result<(), Problem> {
    let rows_max = ROWS_MAX.max(i64::try_from(body).unwrap_or(i64::MAX).saturating_mul(8));
    let nodes = batch.nodes().into_iter().flatten().map(|n| n.length());
    for length in nodes.chain([batch.length()]) {
        if !(0..=rows_max).contains(&length) {
            return Err(corrupt(format!("a batch must have 0 to {rows_max} rows, found {length}")));
        }
    }
    Ok(())
}

/// Bytes that columns share would be looked at once for each of them, and there may be very
/// many columns.
fn check_buffers(batch: &ipc::RecordBatch<'_>, body: usize) -> Result<(), Problem> {
    let lengths =
        batch.buffers().into_iter().flatten().map(|b| u64::try_from(b.length()).unwrap_or(u64::MAX));
    let total = lengths.fold(0, u64::saturating_add);
    if total <= body as u64 {
        return Ok(());
    }
    Err(corrupt(format!(
        "buffers must lie side by side in their body of {body} bytes, found {total} bytes of them; write each buffer \
         by itself"
    )))
}

/// The sum of the lengths that the buffers of a compressed batch declare.
fn decompressed_bytes(batch: &ipc::RecordBatch<'_>, body: &[u8]) -> Result<u64, Problem> {
    let mut total = 0_u64;
    for buffer in batch.buffers().into_iter().flatten().filter(|b| b.length() != 0) {
        let part = usize::try_from(buffer.offset())
            .ok()
            .zip(usize::try_from(buffer.length()).ok())
            .and_then(|(start, length)| body.get(start..start.checked_add(length)?))
            .and_then(|bytes| {
                bytes.first_chunk::<8>().map(|prefix| (i64::from_le_bytes(*prefix), bytes.len()))
            });
        let Some((declared, stored)) = part else {
            return Err(corrupt(format!(
                "a compressed buffer must lie within its body of {} bytes, found another place",
                body.len()
            )));
        };
        // -1 marks a buffer that is stored as it is.
        let bytes = if declared == -1 { stored as u64 } else { u64::try_from(declared).unwrap_or(u64::MAX) };
        total = total.saturating_add(bytes);
    }
    let by_ratio = limits::PAGE_BYTES_MAX.max(limits::DECODED_RATIO_MAX.saturating_mul(body.len() as u64));
    let allowed = by_ratio.min(MESSAGE_BYTES_MAX);
    if total <= allowed {
        return Ok(total);
    }
    let detail = format!(
        "a body of {} bytes must decompress to at most {allowed} bytes, found {total}; split the table into smaller batches",
        body.len()
    );
    Err(Problem::new(ErrorKind::DecodeLimit, detail))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::{
        array::{ArrayRef, Int64Array, ListArray, StringArray},
        datatypes::{DataType, Field, Int32Type},
    };

    use super::*;

    /// The stream with so many bytes more at the end of its one batch, which no column names.
    fn with_spare(stream: &[u8], spare: usize) -> Vec<u8> {
        let schema = Frame::read(stream, 0).unwrap().unwrap().len();
        let frame = Frame::read(&stream[schema..], 0).unwrap().unwrap();
        let (begin, end) = (schema + PREFIX_BYTES, schema + PREFIX_BYTES + frame.metadata);
        let [before, after] = [frame.body, frame.body + spare].map(|bytes| (bytes as i64).to_le_bytes());
        let mut padded = (begin..end - 7).filter(|at| stream[*at..at + 8] == before).map(|at| {
            let tail = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
            let body = &stream[end..end + frame.body];
            [&stream[..at], &after, &stream[at + 8..end], body, &vec![0; spare], &tail].concat()
        });
        let is_told = |padded: &Vec<u8>| {
            Frame::read(&padded[schema..], 0)
                .is_ok_and(|found| found.is_some_and(|f| f.body == frame.body + spare))
        };
        padded.find(is_told).unwrap()
    }

    /// A stream whose schema, with numbers in this order of bytes, names one column of this name again
    /// and again. Tables lie before what they name, and their layouts before them all.
    fn naming(columns: u32, name: &str, endianness: ipc::Endianness) -> Vec<u8> {
        let halves = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let words = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let first = 72;
        let field = first + 4 * columns;
        let places: Vec<u32> = (0..columns).map(|n| field - (first + 4 * n)).collect();
        let mut metadata = [
            words(&[44]),
            halves(&[10, 12, 8, 10, 4, 0]),
            halves(&[8, 12, 8, 4]),
            halves(&[12, 16, 4, 12, 13, 8]),
            halves(&[8, 12, 4, 8]),
            // The message: version 5, a schema.
            words(&[40, 8]),
            halves(&[4, 1]),
            // The schema.
            words(&[40, 8]),
            halves(&[endianness.0 as u16, 0]),
            words(&[columns]),
            words(&places),
            // The column: nullable, an integer of 64 bits with a sign.
            words(&[field - 24, 24, 8]),
            halves(&[0x0201, 0]),
            words(&[field - 20, 64, 1]),
            words(&[name.len() as u32]),
            name.as_bytes().to_vec(),
            vec![0],
        ]
        .concat();
        metadata.resize(metadata.len().next_multiple_of(8), 0);
        [&CONTINUATION[..], &(metadata.len() as i32).to_le_bytes(), &metadata].concat()
    }

    #[test]
    fn numbers_in_another_order_are_refused() {
        let [batch] =
            <[RecordBatch; 1]>::try_from(decode(&naming(1, "number", ipc::Endianness::Little)).unwrap())
                .unwrap();
        assert_eq!(batch.schema().field(0), &Field::new("number", DataType::Int64, true));
        let problem = decode(&naming(1, "number", ipc::Endianness::Big)).unwrap_err();
        assert_eq!(problem.code, ErrorKind::ArrowCorrupt);
        assert!(problem.detail.contains("big-endian"), "{problem}");
    }

    #[test]
    fn a_schema_that_grows_when_it_is_decoded_is_refused() {
        let long = "n".repeat(1 << 20);
        for (columns, name) in [(64, long.as_str()), (300_000, "n")] {
            let stream = naming(columns, name, ipc::Endianness::Little);
            assert!(stream.len() < 2 << 20, "{}", stream.len());
            let problem = decode(&stream).unwrap_err();
            assert_eq!(problem.code, ErrorKind::ArrowCorrupt);
            assert!(problem.detail.contains("is no Arrow message"), "{problem}");
            assert!(is_beyond_bounds(&stream) && is_beyond_bounds(&stream[PREFIX_BYTES..]));
        }
        assert!(!is_beyond_bounds(b"no schema"));
    }

    #[test]
    fn a_wide_schema_with_much_to_say_is_taken() {
        let told = |value: String| HashMap::from([("told".to_owned(), value)]);
        let field =
            |n: u32| Field::new(format!("c{n}"), DataType::Int64, true).with_metadata(told("7".to_owned()));
        let fields: Vec<Field> = (0..16_384).map(field).collect();
        let schema = Schema::new_with_metadata(fields, told("p".repeat(4 << 20)));
        let stream = encode_schema(&schema).unwrap();
        assert!(!is_beyond_bounds(&stream));
        assert_eq!(decode(&stream).unwrap()[0].num_columns(), 16_384);
        let empty = encode_schema(&Schema::empty()).unwrap();
        assert_eq!(decode(&empty).unwrap()[0].num_columns(), 0);
    }

    #[test]
    fn what_no_column_names_is_not_kept() {
        let columns: [(&str, ArrayRef); 3] = [
            ("number", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
            ("text", Arc::new(StringArray::from(vec!["one", "two", ""]))),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([
                    Some(vec![Some(1), None]),
                    None,
                    Some(vec![]),
                ])),
            ),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .unwrap();
        let stream = encode(&batch).unwrap();
        for spare in [0, 64, 8 << 20] {
            let [found] = <[RecordBatch; 1]>::try_from(decode(&with_spare(&stream, spare)).unwrap()).unwrap();
            assert_eq!(found, batch, "{spare}");
            let held = found.get_array_memory_size();
            assert!(held < 64 << 10, "{spare}: {held} bytes");
        }
    }
}
