// SPDX-License-Identifier: Apache-2.0
//! Many sorted runs as one.
//!
//! Of each run one chunk is held, and what is read ahead of it. Where there are
//! more runs than may be open at once, neighbours are first merged into longer
//! runs, which lie in the store like the others.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    compute::interleave_record_batch,
    datatypes::SchemaRef,
    row::{OwnedRow, Rows},
};
use bytes::{Bytes, BytesMut};
use fanfold_protocol::{Problem, limits, uri::ObjectUri};
use fanfold_storage::{PutOptions, Store};

use super::{
    super::{
        decode,
        select::Decoded,
        shape::{self, Pieces},
        store_problem,
    },
    Keys, Part,
    runs::{failed, framed},
};

/// Read from the store at once, unless a chunk is larger.
const READ_BYTES: u64 = 256 << 10;
/// Rows of a merged batch.
const MERGED_ROWS_MAX: usize = 8_192;
/// Chunks that a merged batch is made from are at most so large together.
const MERGED_BYTES_MAX: usize = 4 << 20;

/// A table of keys and states.
pub(crate) struct MergedRows {
    keys: Arc<Keys>,
    schema: SchemaRef,
    runs: Vec<Run>,
    /// The first row of each run that is not out yet.
    heads: BinaryHeap<Reverse<(OwnedRow, usize)>>,
    /// Chunks that the next batch takes rows from, and which rows.
    chunks: Vec<RecordBatch>,
    chunk_bytes: usize,
    picked: Vec<(usize, usize)>,
    first_row: u64,
}

/// A run being read.
struct Run {
    store: Store,
    part: Part,
    /// Where the next bytes are read.
    at: u64,
    buffer: BytesMut,
    /// Batches of the last chunk: one.
    batches: VecDeque<RecordBatch>,
    rows: Option<Rows>,
    row: usize,
    /// The place among the chunks of the batch being made.
    chunk: Option<usize>,
    batch: Option<RecordBatch>,
}

/// Opens parts of runs as one table, in their order. Merges them in passes when
/// there are more than [`limits::RUNS_MERGED_MAX`]: names of the objects that this
/// makes begin with `scratch`.
pub(crate) async fn merge(
    store: &Store,
    keys: Keys,
    mut parts: Vec<Part>,
    scratch: &ObjectUri,
) -> Result<MergedRows, Problem> {
    let (keys, mut number) = (Arc::new(keys), 0);
    while parts.len() > limits::RUNS_MERGED_MAX {
        let mut longer = Vec::with_capacity(parts.len().div_ceil(limits::RUNS_MERGED_MAX));
        for some in parts.chunks(limits::RUNS_MERGED_MAX) {
            let merged = MergedRows::open(store, Arc::clone(&keys), some.to_vec()).await?;
            let uri = ObjectUri::new(scratch.bucket(), format!("{}-{number}", scratch.key()))?;
            longer.push(merged.store(store, uri).await?);
            number += 1;
        }
        parts = longer;
    }
    MergedRows::open(store, keys, parts).await
}

impl MergedRows {
    async fn open(store: &Store, keys: Arc<Keys>, parts: Vec<Part>) -> Result<Self, Problem> {
        let run = |part: Part| Run {
            store: store.clone(),
            at: part.bytes.start,
            part,
            buffer: BytesMut::new(),
            batches: VecDeque::new(),
            rows: None,
            row: 0,
            chunk: None,
            batch: None,
        };
        let runs: Vec<Run> = parts.into_iter().map(run).collect();
        let mut merged = Self {
            schema: keys.schema(),
            keys,
            heads: BinaryHeap::with_capacity(runs.len()),
            runs,
            chunks: Vec::new(),
            chunk_bytes: 0,
            picked: Vec::new(),
            first_row: 1,
        };
        for index in 0..merged.runs.len() {
            merged.advance(index).await?;
        }
        Ok(merged)
    }

    pub(in super::super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How messages name the table.
    pub(in super::super) fn place() -> String {
        "the partial states by key".to_owned()
    }

    pub(in super::super) async fn next(&mut self) -> Result<Option<Decoded>, Problem> {
        let first_row = self.first_row;
        let Some(batch) = self.batch().await? else { return Ok(None) };
        self.first_row += batch.num_rows() as u64;
        Ok(Some(Decoded { batch, first_row, counted_from: None }))
    }

    async fn batch(&mut self) -> Result<Option<RecordBatch>, Problem> {
        while self.picked.len() < MERGED_ROWS_MAX && self.chunk_bytes < MERGED_BYTES_MAX {
            let Some(Reverse((_, index))) = self.heads.pop() else { break };
            self.pick(index);
            self.runs[index].row += 1;
            self.advance(index).await?;
        }
        if self.picked.is_empty() {
            return Ok(None);
        }
        let chunks: Vec<&RecordBatch> = self.chunks.iter().collect();
        let batch = interleave_record_batch(&chunks, &self.picked).map_err(failed)?;
        self.picked.clear();
        self.chunks.clear();
        self.chunk_bytes = 0;
        self.runs.iter_mut().for_each(|run| run.chunk = None);
        Ok(Some(batch))
    }

    /// Takes the row at which a run stands.
    fn pick(&mut self, index: usize) {
        let run = &mut self.runs[index];
        let (chunks, bytes) = (&mut self.chunks, &mut self.chunk_bytes);
        let chunk = match (run.chunk, &run.batch) {
            (Some(chunk), _) => chunk,
            (None, Some(batch)) => {
                *bytes += shape::ipc_bytes(batch);
                chunks.push(batch.clone());
                chunks.len() - 1
            }
            (None, None) => return,
        };
        run.chunk = Some(chunk);
        self.picked.push((chunk, run.row));
    }

    /// Puts the row at which a run stands among the heads; reads on where it must.
    async fn advance(&mut self, index: usize) -> Result<(), Problem> {
        let run = &mut self.runs[index];
        loop {
            if let Some(rows) = run.rows.as_ref().filter(|rows| run.row < rows.num_rows()) {
                self.heads.push(Reverse((rows.row(run.row).owned(), index)));
                return Ok(());
            }
            (run.rows, run.row, run.chunk) = (None, 0, None);
            run.batch = run.next().await?;
            let Some(batch) = &run.batch else { return Ok(()) };
            self.keys.check(&batch.schema())?;
            run.rows = Some(self.keys.rows(batch)?);
        }
    }

    /// Writes all rows as one run.
    async fn store(mut self, store: &Store, uri: ObjectUri) -> Result<Part, Problem> {
        let mut sink = store.writer(&uri, PutOptions::typed("application/octet-stream"));
        while let Some(batch) = self.batch().await? {
            let each = shape::ipc_bytes(&batch) / batch.num_rows().max(1);
            let rows = (limits::RUN_CHUNK_BYTES_TARGET / each.max(1)).max(1);
            for start in (0..batch.num_rows()).step_by(rows) {
                for piece in Pieces::of(batch.slice(start, rows.min(batch.num_rows() - start))) {
                    sink.write(framed(&piece?)?).await.map_err(store_problem)?;
                }
            }
        }
        let bytes = 0..sink.size();
        let pin = sink.finish().await.map_err(store_problem)?;
        Ok(Part { uri, pin, bytes })
    }
}

impl Run {
    /// The next batch; `None` at the end of the run.
    async fn next(&mut self) -> Result<Option<RecordBatch>, Problem> {
        loop {
            if let Some(batch) = self.batches.pop_front() {
                return Ok(Some(batch));
            }
            let Some(length) = self.bytes(4).await? else { return Ok(None) };
            let length = length.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            let chunk = self.bytes(u64::from(length)).await?;
            let chunk = chunk.ok_or_else(|| self.cut_short())?;
            self.batches = decode(&chunk)?.into();
        }
    }

    /// So many bytes, which are there or end the run.
    async fn bytes(&mut self, count: u64) -> Result<Option<Bytes>, Problem> {
        let wanted = usize::try_from(count).map_err(|_| self.cut_short())?;
        if self.buffer.len() < wanted {
            let missing = (wanted - self.buffer.len()) as u64;
            let rest = self.part.bytes.end - self.at;
            if rest == 0 && self.buffer.is_empty() {
                return Ok(None);
            }
            if missing > rest {
                return Err(self.cut_short());
            }
            let end = self.at + missing.max(READ_BYTES).min(rest);
            let read = self.store.get_range(&self.part.uri, &self.part.pin, self.at..end);
            self.buffer.extend_from_slice(&read.await.map_err(store_problem)?);
            self.at = end;
        }
        Ok(Some(self.buffer.split_to(wanted).freeze()))
    }

    fn cut_short(&self) -> Problem {
        crate::internal(format!(
            "expected whole chunks in {}, found the end within one; run the job again",
            self.part.uri
        ))
    }
}
