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
    array::{AsArray, RecordBatch},
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
    runs::{failed, framed, weights},
};

/// Read from the store at once, unless a chunk is larger.
const READ_BYTES: u64 = 256 << 10;
/// Rows of a merged batch.
const MERGED_ROWS_MAX: usize = 8_192;
/// Keys and states of a merged batch, up to one row more. The chunks that they come from are held until
/// it is made: those of which all rows are in it, and one of each run beside the one that is held anyway.
const MERGED_BYTES_MAX: usize = 2 << 20;

/// A table of keys and states.
pub(crate) struct MergedRows {
    keys: Arc<Keys>,
    schema: SchemaRef,
    runs: Vec<Run>,
    /// The first row of each run that is not out yet.
    heads: BinaryHeap<Reverse<(OwnedRow, usize)>>,
    /// Chunks that the next batch takes rows from, and which rows.
    chunks: Vec<RecordBatch>,
    picked: Vec<(usize, usize)>,
    picked_bytes: usize,
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
            picked: Vec::new(),
            picked_bytes: 0,
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
        while self.picked.len() < MERGED_ROWS_MAX && self.picked_bytes < MERGED_BYTES_MAX {
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
        self.picked_bytes = 0;
        self.chunks.clear();
        self.runs.iter_mut().for_each(|run| run.chunk = None);
        Ok(Some(batch))
    }

    /// Takes the row at which a run stands.
    fn pick(&mut self, index: usize) {
        let run = &mut self.runs[index];
        let (Some(batch), Some(keys)) = (&run.batch, &run.rows) else { return };
        let states = batch.column(batch.num_columns() - 1).as_binary::<i32>();
        let (key, state) = weights(keys, states, run.row);
        self.picked_bytes += key + state;
        let chunk = *run.chunk.get_or_insert_with(|| {
            self.chunks.push(batch.clone());
            self.chunks.len() - 1
        });
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

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ArrayRef, BinaryArray, Int64Array},
        datatypes::Int64Type,
    };
    use fanfold_protocol::function::Column;
    use fanfold_storage::{
        Credentials, StoreConfig,
        server::{Server, ServerConfig},
    };

    use super::{
        super::{ShuffleWriter, parts},
        *,
    };

    const BUCKET: &str = "runs";
    /// What a key of one nullable column of `Int64` takes in the form that compares.
    const KEY_BYTES: usize = 9;

    async fn store(folder: &std::path::Path) -> Store {
        let credentials = || Credentials::new("runs", "runs-secret");
        let server =
            Server::open(ServerConfig { root: folder.to_owned(), credentials: credentials() }).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { server.serve(listener, Default::default()).await });
        let store = Store::connect(StoreConfig::at(endpoint, credentials())).unwrap();
        store.ensure_bucket(BUCKET).await.unwrap();
        store
    }

    fn keys() -> Keys {
        Keys::new(&[Column { name: "k".into(), data_type: "Int64".into(), nullable: true }]).unwrap()
    }

    /// A run of each `runs`-th key, beginning with the `number`-th.
    async fn run(store: &Store, runs: usize, number: usize, rows: usize, state: &[u8]) -> Vec<Part> {
        let numbers = (0..rows).map(|row| (row * runs + number) as i64);
        let states = BinaryArray::from_iter_values(std::iter::repeat_n(state, rows));
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(numbers)), Arc::new(states)];
        let batch = RecordBatch::try_new(keys().schema(), columns).unwrap();
        let uri = ObjectUri::new(BUCKET, format!("{runs}-{}-{number}", state.len())).unwrap();
        let mut writer = ShuffleWriter::create(store, uri, keys(), 1, "test");
        writer.write(&batch).await.unwrap();
        parts(store, &writer.finish().await.unwrap(), 0, 1).await.unwrap()
    }

    /// Rows of each batch; the keys must be those from 0 up.
    async fn merged(store: &Store, parts: Vec<Part>) -> Vec<usize> {
        let mut merged = MergedRows::open(store, Arc::new(keys()), parts).await.unwrap();
        let (mut sizes, mut next) = (Vec::new(), 0);
        while let Some(batch) = merged.batch().await.unwrap() {
            let found = batch.column(0).as_primitive::<Int64Type>();
            assert!(found.values().iter().copied().eq(next..next + batch.num_rows() as i64));
            next += batch.num_rows() as i64;
            sizes.push(batch.num_rows());
        }
        sizes
    }

    /// Chunks of a stored run.
    async fn chunks(store: &Store, part: &Part) -> usize {
        let text = store.get_range(&part.uri, &part.pin, part.bytes.clone()).await.unwrap();
        let (mut rest, mut count) = (&text[..], 0);
        while let Some((length, chunk)) = rest.split_first_chunk::<4>() {
            rest = &chunk[u32::from_le_bytes(*length) as usize..];
            count += 1;
        }
        count
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn batches_of_many_runs_are_as_large_as_those_of_few() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        // By rows, by bytes, and of the largest states two.
        for (runs, rows, state_bytes, expected) in [
            (limits::RUNS_MERGED_MAX, 500, 10, MERGED_ROWS_MAX),
            (limits::RUNS_MERGED_MAX, 500, 400, MERGED_BYTES_MAX.div_ceil(KEY_BYTES + 400)),
            (2, 10_000, 400, MERGED_BYTES_MAX.div_ceil(KEY_BYTES + 400)),
            (4, 2, limits::KEY_STATE_BYTES_MAX, 2),
        ] {
            let (mut all, state) = (Vec::new(), vec![7; state_bytes]);
            for number in 0..runs {
                all.extend(run(&store, runs, number, rows, &state).await);
            }
            let sizes = merged(&store, all.clone()).await;
            let (last, full) = sizes.split_last().unwrap();
            assert!(full.iter().all(|size| *size == expected) && *last <= expected, "{sizes:?}");
            assert_eq!(sizes.iter().sum::<usize>(), runs * rows);
            // Merged into one run it has the same rows, in chunks that are worth a request.
            let uri = ObjectUri::new(BUCKET, format!("longer-{runs}-{state_bytes}")).unwrap();
            let merging = MergedRows::open(&store, Arc::new(keys()), all).await.unwrap();
            let longer = merging.store(&store, uri).await.unwrap();
            let most = 2 * longer.bytes.end.div_ceil(limits::RUN_CHUNK_BYTES_TARGET as u64);
            let found = chunks(&store, &longer).await;
            assert!(found as u64 <= most, "{found} chunks of {} bytes", longer.bytes.end);
            assert_eq!(merged(&store, vec![longer]).await.iter().sum::<usize>(), runs * rows);
        }
    }
}
