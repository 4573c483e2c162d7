//! `fanfold:function/tables`: the guest's end of tables, Arrow IPC both ways.
//!
//! Reading runs one batch ahead on the data threads: while the guest works on
//! a batch, the next is fetched, decoded and encoded. Invariant: a writer that
//! is not finished leaves nothing, however the sandbox ends.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::OutputObject,
    job::{CsvOptions, Format},
    plan::Slice,
    uri::{ObjectUri, PinnedObject},
};
use fanfold_storage::Store;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::Resource;

use super::{Data, Host, Refusal, Work, joined, start, store_problem};
use crate::{
    bindings::handler::fanfold::function::tables,
    tables::{Like, TableReader, TableSource, TableWriter, decode, encode, encode_schema},
};

/// What comes back from the data threads: the reader for the next turn.
type Turn = (Box<TableReader>, Option<Batch>);

/// A batch on its way to a guest.
struct Batch {
    rows: u64,
    ipc: Vec<u8>,
}

/// A table that a guest reads.
pub struct Reader {
    schema: Vec<u8>,
    work: Arc<Work>,
    threads: Handle,
    state: Reading,
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
        like: Option<PinnedObject>,
    ) -> Result<Self, Problem> {
        let like = like.map(|object| Like { object, settled: Arc::clone(&data.settled) });
        let opening = start(&data.threads, work, async move {
            let reader = Box::new(TableReader::open_like(store, source, like).await?);
            let schema = encode_schema(&reader.schema())?;
            Ok::<_, Problem>((reader, schema))
        });
        let (reader, schema) = joined(opening.await)??;
        let state = Reading::Ahead(turn(&data.threads, work, reader));
        Ok(Self { schema, work: Arc::clone(work), threads: data.threads.clone(), state })
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
                self.state = Reading::Ended(Ok(()));
                Ok(None)
            }
            Err(problem) => {
                self.state = Reading::Ended(Err(problem.clone()));
                Err(problem)
            }
        }
    }
}

fn turn(
    threads: &Handle,
    work: &Arc<Work>,
    mut reader: Box<TableReader>,
) -> AbortOnDropHandle<Result<Turn, Problem>> {
    let noted = Arc::clone(work);
    start(threads, work, async move {
        let batch = reader.next().await;
        noted.skip(reader.take_skipped());
        let Some(batch) = batch? else { return Ok((reader, None)) };
        let ipc = encode(&batch)?;
        Ok((reader, Some(Batch { rows: batch.num_rows() as u64, ipc })))
    })
}

/// A table that a guest writes.
pub struct Writer {
    /// Away while a call works with it; gone when finished or failed.
    inner: Option<Box<TableWriter>>,
    threads: Handle,
    /// Whether the host finishes it.
    lent: bool,
    /// Why it is of no more use.
    failed: Option<Problem>,
}

impl Writer {
    /// A writer that the host finishes with [`Writer::end`].
    pub(crate) fn lend(data: &Data, inner: TableWriter) -> Self {
        Self { inner: Some(Box::new(inner)), threads: data.threads.clone(), lent: true, failed: None }
    }

    /// Whether no row was written so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.rows() == 0)
    }

    /// Makes the table visible; `None` when nothing was written.
    pub(crate) async fn end(mut self, work: &Arc<Work>) -> Result<Option<OutputObject>, Problem> {
        let inner = self.take()?;
        joined(start(&self.threads, work, async move { inner.finish().await }).await)?
    }
}

impl Writer {
    fn take(&mut self) -> Result<Box<TableWriter>, Problem> {
        self.inner.take().ok_or_else(|| self.failed.clone().unwrap_or_else(unusable))
    }

    /// Gives back what was written so far.
    fn fail(&mut self, problem: &Problem) {
        self.failed = Some(problem.clone());
        self.give_up();
    }

    fn give_up(&mut self) {
        if let Some(inner) = self.inner.take() {
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

async fn write(inner: &mut TableWriter, batches: &[u8], work: &Work) -> Result<(), Problem> {
    for batch in decode(batches)? {
        inner.write(&batch).await?;
        work.rows_out.fetch_add(batch.num_rows() as u64, Relaxed);
    }
    Ok(())
}

impl tables::Host for Host {
    async fn open(&mut self, uri: String, options: tables::ReadOptions) -> Result<Resource<Reader>, Refusal> {
        let uri: ObjectUri = uri.parse()?;
        self.check_read(&uri)?;
        let csv = options.csv.map(csv_options).transpose()?.unwrap_or_default();
        let store = self.store();
        let head = store.clone();
        let pinned = self.run(async move {
            let pin = head.head(&uri).await.map_err(|e| store_problem(&e))?.pin;
            Ok(PinnedObject { uri, pin })
        });
        let source = TableSource {
            slices: vec![Slice::whole(pinned.await?)],
            format: format(options.format),
            columns: options.columns,
            declared: None,
            csv,
            filter: None,
        };
        let reader = Reader::open(&self.data, self.work(), store, source, None).await?;
        Ok(self.table.push(reader)?)
    }

    async fn create(&mut self, uri: String, stored_as: tables::Format) -> Result<Resource<Writer>, Refusal> {
        let uri: ObjectUri = uri.parse()?;
        self.check_write(&uri)?;
        let inner = TableWriter::create(self.store(), uri, format(stored_as), &self.call.id.to_string())?;
        let threads = self.data.threads.clone();
        Ok(self.table.push(Writer { inner: Some(Box::new(inner)), threads, lent: false, failed: None })?)
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
    Ok(CsvOptions { delimiter, header, quote, nulls })
}

fn refused(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::InvalidRequest, detail)
}

fn unusable() -> Problem {
    refused("expected a table that is being written, found one that is finished or failed; create another")
}
