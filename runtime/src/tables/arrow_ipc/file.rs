// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC files: a footer that says where the messages lie.
//!
//! Format: Arrow columnar format 1.5, "IPC file format".

use std::{collections::VecDeque, ops::Range, sync::Arc};

use arrow::{
    buffer::Buffer,
    datatypes::SchemaRef,
    ipc::{Block, MetadataVersion, reader::FileDecoder, root_as_footer_with_opts},
};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem, limits,
    plan::Slice,
    stored::arrow::{TAIL_BYTES, TRAILER_BYTES, corrupt, footer_length},
};
use fanfold_storage::Store;

use super::{MESSAGE_BYTES_MAX, next_piece, of_object, too_large};
use crate::tables::{
    guard::guard,
    ipc::{Frame, Origin, bounds, check_message, schema_of},
    ranges::{Ahead, Sparse, fetch},
    select::{Decoded, First, Wanted},
    shape::{self, Pieces},
    store_problem,
};

/// Neighbouring blocks that are fetched together.
const RUN_BYTES: u64 = limits::RANGE_BYTES_MAX;

/// A file object being read.
pub(in crate::tables) struct FileReader {
    store: Store,
    slice: Slice,
    uri: String,
    decoder: FileDecoder,
    order: Vec<usize>,
    schema: SchemaRef,
    plain: SchemaRef,
    /// What is left of the last batch.
    pieces: Pieces,
    /// Blocks that are still to be fetched.
    blocks: VecDeque<Block>,
    ahead: Option<(Vec<Block>, Ahead)>,
    /// Blocks that were fetched.
    run: VecDeque<Block>,
    data: Sparse,
    rows: u64,
    /// Where rows are counted from: the first batch of a slice, unless it is that of
    /// the object.
    counted_from: Option<u64>,
}

/// What a footer says.
struct Footer {
    schema: SchemaRef,
    version: MetadataVersion,
    dictionaries: Vec<Block>,
    batches: Vec<Block>,
}

impl FileReader {
    pub(in crate::tables) async fn open(
        store: &Store,
        slice: &Slice,
        wanted: &Wanted,
        first: Option<&First>,
    ) -> Result<Self, Problem> {
        let uri = slice.object.uri.to_string();
        let bytes = read_footer(store, slice, &uri).await?;
        let size = slice.object.pin.size;
        let footer =
            guard(ErrorKind::ArrowCorrupt, || format!("the footer of {uri}"), || parse(&uri, &bytes, size))?;
        let names: Vec<&str> = footer.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let order = wanted.resolve(&uri, &names, first)?;
        let schema = footer.schema.project(&order).map_err(|e| corrupt(&uri, &e.to_string()))?;
        shape::check_types(&schema).map_err(|p| p.within(&uri))?;
        let mut reader = Self {
            store: store.clone(),
            slice: slice.clone(),
            uri,
            decoder: FileDecoder::new(shape::unread(&footer.schema), footer.version),
            order,
            plain: shape::plain_schema(&schema),
            schema: Arc::new(schema),
            pieces: Pieces::default(),
            blocks: footer.dictionaries.into(),
            ahead: None,
            run: VecDeque::new(),
            data: Sparse::default(),
            rows: 0,
            counted_from: None,
        };
        while let Some(block) = reader.block().await? {
            reader.dictionary(&block)?;
            // One that grows is copied each time: whoever gave the table up is heard in between.
            tokio::task::yield_now().await;
        }
        let first = footer.batches.first().map(|block| range(block).start);
        reader.blocks = footer.batches.into();
        if let Some(part) = slice.bytes {
            reader.blocks.retain(|block| (part.start..part.end).contains(&range(block).start));
            let begin = reader.blocks.front().map(|block| range(block).start);
            reader.counted_from = begin.filter(|begin| Some(*begin) != first);
        }
        Ok(reader)
    }

    /// The wanted columns as they are stored.
    pub(in crate::tables) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, `None` after the last.
    pub(in crate::tables) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        loop {
            if let Some(batch) = next_piece(&mut self.pieces, &self.plain, &self.uri)? {
                let first_row = self.rows + 1;
                self.rows += batch.num_rows() as u64;
                return Ok(Some(Decoded { batch, first_row, counted_from: self.counted_from }));
            }
            let Some(block) = self.block().await? else { return Ok(None) };
            let message = self.checked(&block)?;
            let place = || self.place(&block);
            let batch = guard(ErrorKind::ArrowCorrupt, place, || {
                let batch = self.decoder.read_record_batch(&block, &message);
                let batch = batch.map_err(|e| corrupt(&place(), &e.to_string()))?;
                batch
                    .map(|b| b.project(&self.order))
                    .transpose()
                    .map_err(|e| corrupt(&place(), &e.to_string()))
            })?;
            self.pieces = batch.filter(|b| b.num_rows() > 0).map(Pieces::of).unwrap_or_default();
        }
    }

    fn dictionary(&mut self, block: &Block) -> Result<(), Problem> {
        let message = self.checked(block)?;
        let place = self.place(block);
        let decoder = &mut self.decoder;
        guard(
            ErrorKind::ArrowCorrupt,
            || place.clone(),
            || decoder.read_dictionary(block, &message).map_err(|e| corrupt(&place, &e.to_string())),
        )
    }

    /// The next block, fetched; `None` after the last.
    async fn block(&mut self) -> Result<Option<Block>, Problem> {
        if self.run.is_empty() {
            let (run, data) = match self.ahead.take() {
                Some((run, ahead)) => (run, ahead.finish().await?),
                None => {
                    let run = self.take_run();
                    let data = fetch(&self.store, &self.slice, ranges(&run)).await?;
                    (run, data)
                }
            };
            (self.run, self.data) = (run.into(), data);
            let next = self.take_run();
            if !next.is_empty() {
                let ahead = Ahead::start(&self.store, &self.slice, ranges(&next));
                self.ahead = Some((next, ahead));
            }
        }
        Ok(self.run.pop_front())
    }

    /// The next blocks that are fetched together.
    fn take_run(&mut self) -> Vec<Block> {
        let (mut run, mut bytes) = (Vec::new(), 0);
        while let Some(block) = self.blocks.front() {
            let range = range(block);
            bytes += range.end - range.start;
            if !run.is_empty() && bytes > RUN_BYTES {
                break;
            }
            run.extend(self.blocks.pop_front());
        }
        run
    }

    /// The block's message, checked.
    fn checked(&self, block: &Block) -> Result<Buffer, Problem> {
        let range = range(block);
        let bytes = self
            .data
            .get(range.clone())
            .ok_or_else(|| Problem::new(ErrorKind::Internal, "a block was not fetched"))?;
        let frame = Frame::read(&bytes, range.start)
            .map_err(|p| of_object(p, &self.uri))?
            // The decoder takes the body from where the block says, so the two must agree.
            .filter(|frame| frame.len() == bytes.len() && frame.body as i64 == block.bodyLength())
            .ok_or_else(|| corrupt(&self.place(block), "a block of other lengths than its message"))?;
        let place = self.place(block);
        check_message(&bytes[..frame.len()], frame, Origin::File).map_err(|p| of_object(p, &place))?;
        Ok(Buffer::from(&bytes[..]))
    }

    fn place(&self, block: &Block) -> String {
        format!("{}, byte {}", self.uri, block.offset())
    }
}

/// Blocks are checked when the footer is read, so this is within the object.
fn range(block: &Block) -> Range<u64> {
    let start = u64::try_from(block.offset()).unwrap_or(0);
    let bytes =
        u64::try_from(block.bodyLength()).unwrap_or(0) + u64::try_from(block.metaDataLength()).unwrap_or(0);
    start..start + bytes
}

fn ranges(blocks: &[Block]) -> Vec<Range<u64>> {
    blocks.iter().map(range).collect()
}

async fn read_footer(store: &Store, slice: &Slice, uri: &str) -> Result<Bytes, Problem> {
    let object = &slice.object;
    let size = object.pin.size;
    let start = size.saturating_sub(TAIL_BYTES);
    let tail = store.get_range(&object.uri, &object.pin, start..size).await.map_err(store_problem)?;
    let length = footer_length(uri, &tail, size)?;
    let end = size - TRAILER_BYTES as u64;
    let range = end - length..end;
    if range.start >= start {
        return Ok(tail.slice((range.start - start) as usize..(range.end - start) as usize));
    }
    store.get_range(&object.uri, &object.pin, range).await.map_err(store_problem)
}

fn parse(uri: &str, bytes: &[u8], size: u64) -> Result<Footer, Problem> {
    let place = format!("the footer of {uri}");
    let footer =
        root_as_footer_with_opts(&bounds(bytes), bytes).map_err(|e| corrupt(&place, &e.to_string()))?;
    let schema = footer.schema().ok_or_else(|| corrupt(&place, "no schema"))?;
    let schema = schema_of(schema).map_err(|e| corrupt(&place, &e.to_string()))?;
    let dictionaries: Vec<Block> = footer.dictionaries().into_iter().flatten().copied().collect();
    let batches: Vec<Block> = footer.recordBatches().into_iter().flatten().copied().collect();
    for block in dictionaries.iter().chain(&batches) {
        check_block(uri, block, size)?;
    }
    Ok(Footer { schema: Arc::new(schema), version: footer.version(), dictionaries, batches })
}

fn check_block(uri: &str, block: &Block, size: u64) -> Result<(), Problem> {
    let parts = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
    let end = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(u64::try_from(*part).ok()?));
    if end.is_none_or(|end| end > size) {
        let found =
            format!("a block of {} and {} bytes at {} of an object of {size}", parts[1], parts[2], parts[0]);
        return Err(corrupt(&format!("the footer of {uri}"), &found));
    }
    let range = range(block);
    if range.end - range.start > MESSAGE_BYTES_MAX {
        return Err(too_large(&format!("{uri}, byte {}", range.start), range.end - range.start));
    }
    Ok(())
}
