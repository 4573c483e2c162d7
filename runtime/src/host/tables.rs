// SPDX-License-Identifier: Apache-2.0
//! `fanfold:function/tables`: the guest's end of tables, Arrow IPC both ways.
//!
//! Reading runs one batch ahead on the data threads: while the guest works on
//! a batch, the next is fetched, decoded and encoded. Invariants: a writer that
//! is not finished leaves nothing, however the sandbox ends; and what the host holds
//! for tables that a guest opens itself has a place of few, until it is let go.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use arrow::array::RecordBatch;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::OutputObject,
    function::Column,
    job::{CsvOptions, Format, SchemaRule},
    limits,
    plan::{self, Slice, StateRef},
    uri::{ObjectUri, PinnedObject},
};
use fanfold_storage::Store;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::Resource;

use super::{Data, Host, Refusal, Work, joined, places::Place, start, start_reading, store_problem};
use crate::{
    bindings::handler::fanfold::function::tables,
    tables::{
        Keys, Like, PipeReader, PipeWriter, ShuffleWriter, TableReader, TableSource, TableWriter,
        check_declared, decode, encode, encode_schema, merge, parts,
    },
};

/// Bytes of a schema that a guest may keep, after the table's end, by a handle without a place.
const SCHEMA_KEPT_BYTES: usize = 64 << 10;

/// What comes back from the data threads: the reader for the next turn.
type Turn = (Box<TableReader>, Option<Batch>);

/// A batch on its way to a guest.
struct Batch {
    rows: u64,
    ipc: Vec<u8>,
}

/// What a reducer reads.
pub(crate) struct Share {
    /// What the tasks before gave, in order.
    pub(crate) states: Vec<StateRef>,
    pub(crate) keys: Keys,
    /// Which of the reducers.
    pub(crate) reducer: u32,
    pub(crate) reducers: u32,
    /// Where it may put runs that it merges on the way.
    pub(crate) scratch: ObjectUri,
}

/// A table that a guest reads.
pub struct Reader {
    schema: Vec<u8>,
    work: Arc<Work>,
    threads: Handle,
    state: Reading,
    /// Of a table that the guest opened itself, until its end, or that of its handle where the
    /// schema is large: there may be many handles.
    place: Option<Place>,
}

enum Reading {
    /// The next batch is on its way.
    Ahead(AbortOnDropHandle<Result<Turn, Problem>>),
    /// The last batch is out, or reading failed: this is said again.
    Ended(Result<(), Problem>),
}

impl Reader {
    /// Opens a table, typed like another object, and starts on its first batch.
    pub(crate) async fn open(
        data: &Data,
        work: &Arc<Work>,
        store: Store,
        source: TableSource,
        like: Option<plan::Like>,
    ) -> Result<Self, Problem> {
        let like = like.map(|of| Like { of, settled: Arc::clone(&data.settled) });
        Self::begin(data, work, TableReader::open_like(store, source, like)).await
    }

    /// Opens what another sandbox writes.
    pub(crate) async fn open_pipe(
        data: &Data,
        work: &Arc<Work>,
        pipe: PipeReader,
        declared: Option<Vec<Column>>,
    ) -> Result<Self, Problem> {
        Self::begin(data, work, TableReader::open_pipe(pipe, declared)).await
    }

    /// Opens one reducer's share of what tasks wrote by key.
    pub(crate) async fn open_share(
        data: &Data,
        work: &Arc<Work>,
        store: Store,
        share: Share,
    ) -> Result<Self, Problem> {
        let opened = async move {
            let Share { states, keys, reducer, reducers, scratch } = share;
            let read = states.iter().map(|state| parts(&store, state, reducer, reducers));
            let read = stream::iter(read.collect::<Vec<_>>()).buffered(limits::RANGES_IN_FLIGHT_MAX);
            let parts: Vec<_> = read.try_collect().await?;
            let merged = merge(&store, keys, parts.concat(), &scratch).await?;
            TableReader::open_merged(merged)
        };
        Self::begin(data, work, opened).await
    }

    async fn begin(
        data: &Data,
        work: &Arc<Work>,
        opened: impl Future<Output = Result<TableReader, Problem>> + Send + 'static,
    ) -> Result<Self, Problem> {
        let ((told, opening), noted) = (oneshot::channel(), Arc::clone(work));
        // Goes on to the first batch by itself: one way to another thread less.
        let ahead = start_reading(&data.threads, work, async move {
            let reader = match open_first(opened).await {
                Ok((reader, schema)) => {
                    // Whoever has gone needs no batch either.
                    told.send(Ok(schema)).map_err(|_| crate::internal("nobody reads the table"))?;
                    reader
                }
                Err(problem) => {
                    let _ = told.send(Err(problem.clone()));
                    return Err(problem);
                }
            };
            next_batch(reader, &noted).await
        });
        match opening.await {
            Ok(schema) => {
                let state = Reading::Ahead(ahead);
                let (work, threads) = (Arc::clone(work), data.threads.clone());
                Ok(Self { schema: schema?, work, threads, state, place: None })
            }
            // It panicked before it was open.
            Err(_) => Err(joined(ahead.await).and_then(|turn| turn).err().unwrap_or_else(unusable)),
        }
    }

    /// Fails when reading has failed, whether or not the guest cared.
    pub(crate) fn check(self) -> Result<(), Problem> {
        match self.state {
            Reading::Ahead(_) => Ok(()),
            Reading::Ended(result) => result,
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Problem> {
        let ahead = match &mut self.state {
            Reading::Ahead(ahead) => ahead,
            Reading::Ended(result) => return result.clone().map(|()| None),
        };
        match joined(ahead.await).and_then(|turn| turn) {
            Ok((reader, Some(batch))) => {
                self.state = Reading::Ahead(turn(&self.threads, &self.work, reader));
                self.work.rows_in.fetch_add(batch.rows, Relaxed);
                Ok(Some(batch.ipc))
            }
            Ok((_, None)) => {
                self.end(Ok(()));
                Ok(None)
            }
            Err(problem) => {
                self.end(Err(problem.clone()));
                Err(problem)
            }
        }
    }

    fn end(&mut self, result: Result<(), Problem>) {
        self.state = Reading::Ended(result);
        if self.schema.len() <= SCHEMA_KEPT_BYTES {
            self.place = None;
        }
    }
}

fn turn(
    threads: &Handle,
    work: &Arc<Work>,
    reader: Box<TableReader>,
) -> AbortOnDropHandle<Result<Turn, Problem>> {
    let noted = Arc::clone(work);
    start_reading(threads, work, async move { next_batch(reader, &noted).await })
}

async fn open_first(
    opened: impl Future<Output = Result<TableReader, Problem>>,
) -> Result<(Box<TableReader>, Vec<u8>), Problem> {
    let reader = Box::new(opened.await?);
    let schema = encode_schema(&reader.schema())?;
    Ok((reader, schema))
}

async fn next_batch(mut reader: Box<TableReader>, work: &Work) -> Result<Turn, Problem> {
    let batch = reader.next().await;
    work.skip(reader.take_skipped());
    let Some(batch) = batch? else { return Ok((reader, None)) };
    let ipc = encode(&batch)?;
    Ok((reader, Some(Batch { rows: batch.num_rows() as u64, ipc })))
}

/// Where a guest's batches go.
#[derive(Default)]
pub(crate) struct Sink {
    /// Into an object.
    pub(crate) table: Option<TableWriter>,
    /// To another sandbox.
    pub(crate) pipe: Option<PipeWriter>,
    /// To the reducers of their keys.
    pub(crate) shuffle: Option<ShuffleWriter>,
    pub(crate) rows: u64,
    /// What the function declares to write, until its first batch has come.
    pub(crate) declared: Option<Vec<Column>>,
    /// Of a table that the guest opened itself.
    pub(crate) place: Option<Place>,
}

impl Sink {
    async fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        // The others are to be like the first.
        if let Some(declared) = self.declared.take() {
            check_declared(&declared, &batch.schema())?;
        }
        if let Some(table) = &mut self.table {
            table.write(batch).await?;
        }
        if let Some(pipe) = &mut self.pipe {
            pipe.write(batch).await?;
        }
        if let Some(shuffle) = &mut self.shuffle {
            shuffle.write(batch).await?;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    async fn finish(self) -> Result<Option<OutputObject>, Problem> {
        match self.table {
            Some(table) => table.finish().await,
            None => Ok(None),
        }
    }

    /// Whether there is anything in the store that giving it up would remove.
    fn has_begun(&self) -> bool {
        self.table.as_ref().is_some_and(TableWriter::has_begun)
            || self.shuffle.as_ref().is_some_and(ShuffleWriter::has_begun)
    }

    async fn abort(self) {
        if let Some(table) = self.table {
            table.abort().await;
        }
        if let Some(shuffle) = self.shuffle {
            shuffle.abort().await;
        }
    }
}

impl From<TableWriter> for Sink {
    fn from(table: TableWriter) -> Self {
        Self { table: Some(table), ..Self::default() }
    }
}

/// A table that a guest writes.
pub struct Writer {
    /// Away while a call works with it; gone when finished or failed.
    inner: Option<Box<Sink>>,
    threads: Handle,
    /// Whether the host finishes it.
    lent: bool,
    /// Why it is of no more use.
    failed: Option<Problem>,
}

impl Writer {
    /// A writer that the host finishes with [`Writer::end`].
    pub(crate) fn lend(data: &Data, inner: Sink) -> Self {
        Self { inner: Some(Box::new(inner)), threads: data.threads.clone(), lent: true, failed: None }
    }

    /// Whether no row was written so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.rows == 0)
    }

    /// Tells whoever reads along that all rows are written.
    pub(crate) async fn end_pipe(&mut self) {
        if let Some(pipe) = self.inner.as_mut().and_then(|inner| inner.pipe.take()) {
            pipe.finish().await;
        }
    }

    /// Ends what was shuffled.
    pub(crate) async fn end_shuffle(mut self, work: &Arc<Work>) -> Result<StateRef, Problem> {
        let shuffle =
            self.take()?.shuffle.ok_or_else(|| crate::internal("expected states by key, found none"))?;
        joined(start(&self.threads, work, shuffle.finish()).await)?
    }

    /// Makes the table visible; `None` when nothing was written.
    pub(crate) async fn end(mut self, work: &Arc<Work>) -> Result<Option<OutputObject>, Problem> {
        let inner = self.take()?;
        joined(start(&self.threads, work, async move { inner.finish().await }).await)?
    }

    fn take(&mut self) -> Result<Box<Sink>, Problem> {
        self.inner.take().ok_or_else(|| self.failed.clone().unwrap_or_else(unusable))
    }

    /// Gives back what was written so far.
    fn fail(&mut self, problem: &Problem) {
        self.failed = Some(problem.clone());
        self.give_up();
    }

    fn give_up(&mut self) {
        if let Some(inner) = self.inner.take()
            && inner.has_begun()
        {
            self.threads.spawn(async move { inner.abort().await });
        }
    }
}

impl Drop for Writer {
    /// Takes back in the background what was written.
    fn drop(&mut self) {
        self.give_up();
    }
}

impl tables::HostReader for Host {
    async fn schema(&mut self, reader: Resource<Reader>) -> Result<Vec<u8>, Refusal> {
        Ok(self.table.get(&reader)?.schema.clone())
    }

    async fn next(&mut self, reader: Resource<Reader>) -> Result<Option<Vec<u8>>, Refusal> {
        Ok(self.table.get_mut(&reader)?.next().await?)
    }

    async fn drop(&mut self, reader: Resource<Reader>) -> wasmtime::Result<()> {
        self.table.delete(reader)?;
        Ok(())
    }
}

impl tables::HostWriter for Host {
    async fn write(&mut self, writer: Resource<Writer>, batches: Vec<u8>) -> Result<(), Refusal> {
        let mut inner = self.table.get_mut(&writer)?.take()?;
        if let Some(place) = &mut inner.place {
            place.writes(batches.len() as u64);
            self.count_held();
        }
        let work = Arc::clone(self.work());
        let writing = self.start(async move {
            let result = write(&mut inner, &batches, &work).await;
            (inner, result)
        });
        let written = joined(writing.await);
        let entry = self.table.get_mut(&writer)?;
        let result = match written {
            Ok((inner, result)) => {
                entry.inner = Some(inner);
                result
            }
            Err(problem) => Err(problem),
        };
        Ok(result.inspect_err(|problem| entry.fail(problem))?)
    }

    async fn finish(&mut self, writer: Resource<Writer>) -> Result<tables::Written, Refusal> {
        let entry = self.table.get_mut(&writer)?;
        if entry.lent {
            return Err(
                refused("the output of a mapper is finished by the host; return from map instead").into()
            );
        }
        let inner = entry.take()?;
        let written = self.run(async move { inner.finish().await }).await?;
        let (rows, bytes) = written.map_or((0, 0), |object| (object.rows, object.size));
        Ok(tables::Written { rows, bytes })
    }

    async fn drop(&mut self, writer: Resource<Writer>) -> wasmtime::Result<()> {
        self.table.delete(writer)?;
        Ok(())
    }
}

async fn write(inner: &mut Sink, batches: &[u8], work: &Work) -> Result<(), Problem> {
    for batch in decode(batches)? {
        inner.write(&batch).await?;
        work.rows_out.fetch_add(batch.num_rows() as u64, Relaxed);
    }
    Ok(())
}

impl tables::Host for Host {
    async fn open(&mut self, uri: String, options: tables::ReadOptions) -> Result<Resource<Reader>, Refusal> {
        let uri = ObjectUri::of_object(&uri)?;
        self.check_read(&uri)?;
        let csv = options.csv.map(csv_options).transpose()?.unwrap_or_default();
        let mut place = self.place()?;
        let store = self.store();
        let head = store.clone();
        let pinned = self.run(async move {
            let pin = head.head(&uri).await.map_err(|e| store_problem(&e))?.pin;
            Ok(PinnedObject { uri, pin })
        });
        let pinned = pinned.await?;
        place.reads(pinned.pin.size);
        self.count_held();
        let source = TableSource {
            slices: vec![Slice::whole(pinned)],
            format: format(options.format),
            columns: options.columns,
            declared: None,
            csv,
            schema: SchemaRule::Same,
            filter: None,
        };
        let mut reader = Reader::open(&self.data, self.work(), store, source, None).await?;
        reader.place = Some(place);
        Ok(self.table.push(reader)?)
    }

    async fn create(&mut self, uri: String, stored_as: tables::Format) -> Result<Resource<Writer>, Refusal> {
        let uri = ObjectUri::of_object(&uri)?;
        self.check_write(&uri)?;
        let place = Some(self.place()?);
        let (id, depth) = (self.call.id.to_string(), self.call.depth);
        let table = TableWriter::create(self.store(), uri, format(stored_as), &id, depth)?;
        let threads = self.data.threads.clone();
        let inner = Some(Box::new(Sink { place, ..Sink::from(table) }));
        Ok(self.table.push(Writer { inner, threads, lent: false, failed: None })?)
    }
}

fn format(format: tables::Format) -> Format {
    match format {
        tables::Format::Automatic => Format::Auto,
        tables::Format::Parquet => Format::Parquet,
        tables::Format::Csv => Format::Csv,
        tables::Format::Jsonl => Format::Jsonl,
        tables::Format::Arrow => Format::Arrow,
    }
}

fn csv_options(options: tables::CsvOptions) -> Result<CsvOptions, Problem> {
    for (what, c) in [("delimiter", options.delimiter), ("quote", options.quote)] {
        if !c.is_ascii() || matches!(c, '\r' | '\n' | '\0') {
            return Err(refused(format!("a CSV {what} must be one ASCII character, found {c:?}")));
        }
    }
    if options.delimiter == options.quote {
        return Err(refused(format!(
            "a CSV delimiter and quote must differ, found {:?} for both",
            options.quote
        )));
    }
    let tables::CsvOptions { delimiter, header, quote, nulls } = options;
    Ok(CsvOptions { delimiter: Some(delimiter), header, quote, nulls })
}

fn refused(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::InvalidRequest, detail)
}

fn unusable() -> Problem {
    refused("expected a table that is being written, found one that is finished or failed; create another")
}

#[cfg(test)]
mod tests {
    use super::{super::places::Places, *};

    #[tokio::test]
    async fn a_large_schema_keeps_its_place() {
        let places = Places::new(1);
        for (bytes, is_free) in [(SCHEMA_KEPT_BYTES, true), (SCHEMA_KEPT_BYTES + 1, false)] {
            let place = Some(places.take().unwrap());
            let state = Reading::Ended(Ok(()));
            let (schema, work, threads) = (vec![0; bytes], Arc::default(), Handle::current());
            let mut reader = Reader { schema, work, threads, state, place };
            assert!(places.take().is_err());
            reader.end(Ok(()));
            assert_eq!(places.take().is_ok(), is_free, "{bytes}");
            drop(reader);
            assert!(places.take().is_ok(), "{bytes}");
        }
    }
}
