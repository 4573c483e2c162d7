// SPDX-License-Identifier: Apache-2.0
//! A table being written: batches in, one object out.
//!
//! Encoded bytes go to the store's multipart writer as they come to be, so that
//! memory is bounded; the object is visible when [`TableWriter::finish`] returns
//! and never before. Equal batches give equal bytes: no time, no randomness, no
//! metadata of the guest's goes in.

mod columns;
mod csv;
mod encoder;
mod lines;
mod times;

use arrow::{array::RecordBatch, datatypes::Schema};
use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, commit::OutputObject, job::Format, uri::ObjectUri};
use fanfold_storage::{MultipartWriter, PutOptions, Store, client::WRITER_METADATA};

use self::encoder::Encoder;
use super::{guard::guard, layout::Layout, shape, store_problem};

/// Encoded bytes that are gathered before they go to the store.
const FLUSH_BYTES: usize = 1 << 20;

/// A table being written. Dropped unfinished, it leaves nothing.
pub struct TableWriter {
    uri: ObjectUri,
    format: Format,
    sink: MultipartWriter,
    /// Made with the first batch, whose schema is the table's.
    table: Option<Table>,
    rows: u64,
}

struct Table {
    layout: Layout,
    encoder: Encoder,
}

impl std::fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableWriter")
            .field("uri", &self.uri)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl TableWriter {
    /// A writer of the object at `uri`. `Auto` is Parquet. `writer_id` names the
    /// attempt in the object's metadata, `depth` the triggers that led here. Sends
    /// nothing yet.
    pub fn create(
        store: Store,
        uri: ObjectUri,
        format: Format,
        writer_id: &str,
        depth: u32,
    ) -> Result<Self, Problem> {
        if format == Format::Bytes {
            let detail = "a table must be written as parquet, csv, jsonl or arrow, found bytes";
            return Err(Problem::new(ErrorKind::InvalidRequest, detail));
        }
        let mut options = PutOptions::typed(content_type(format));
        options.metadata.insert(WRITER_METADATA.to_owned(), writer_id.to_owned());
        options.mark_depth(depth);
        let sink = store.writer(&uri, options);
        Ok(Self { uri, format, sink, table: None, rows: 0 })
    }

    /// Appends the rows of a batch. A batch without rows settles the schema.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        let batch = shape::plain(batch)?;
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(Table::create(&self.uri, self.format, &batch.schema())?),
        };
        let mut rest = table.layout.conform(&self.uri, &batch)?;
        let (encoder, uri) = (&mut table.encoder, &self.uri);
        loop {
            let rows = encoder.rows_at_once(&rest).map_err(|p| p.within(uri))?;
            let piece = rest.slice(0, rows);
            guard(
                ErrorKind::Internal,
                || format!("writing {uri}"),
                || encoder.write(&piece).map_err(|p| p.within(uri)),
            )?;
            self.rows += rows as u64;
            if encoder.pending() >= FLUSH_BYTES {
                let bytes = encoder.take();
                self.sink.write(Bytes::from(bytes)).await.map_err(store_problem)?;
            }
            if rows == rest.num_rows() {
                return Ok(());
            }
            rest = rest.slice(rows, rest.num_rows() - rows);
            // A batch may be many pieces: whoever gave it up is heard between them.
            tokio::task::yield_now().await;
        }
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Ends the table and makes it visible. `None`, and no object, when nothing
    /// was ever written, and for JSON Lines, which cannot say that a table has
    /// columns, when no row was.
    pub async fn finish(mut self) -> Result<Option<OutputObject>, Problem> {
        let lines = self.format == Format::Jsonl;
        let Some(table) = self.table.take().filter(|_| self.rows > 0 || !lines) else {
            return Ok(None);
        };
        let uri = self.uri;
        let bytes = guard(
            ErrorKind::Internal,
            || format!("writing {uri}"),
            || table.encoder.finish().map_err(|p| p.within(&uri)),
        )?;
        self.sink.write(Bytes::from(bytes)).await.map_err(store_problem)?;
        let pin = self.sink.finish().await.map_err(store_problem)?;
        Ok(Some(OutputObject { uri, size: pin.size, etag: pin.etag, rows: self.rows }))
    }

    /// Whether there is anything in the store that giving it up would remove.
    pub fn has_begun(&self) -> bool {
        self.sink.has_begun()
    }

    /// Gives the table up. What cannot be removed now is removed with the
    /// uploads that the store finds abandoned.
    pub async fn abort(self) {
        if let Err(error) = self.sink.abort().await {
            tracing::warn!(uri = %self.uri, %error, "an upload could not be removed");
        }
    }
}

impl Table {
    fn create(uri: &ObjectUri, format: Format, schema: &Schema) -> Result<Self, Problem> {
        let layout = Layout::new(uri, schema)?;
        let encoder = guard(
            ErrorKind::SchemaMismatch,
            || format!("writing {uri}"),
            || Encoder::create(format, &layout.schema).map_err(|p| p.within(uri)),
        )?;
        Ok(Self { layout, encoder })
    }
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Auto | Format::Parquet => "application/vnd.apache.parquet",
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Jsonl => "application/x-ndjson",
        Format::Arrow => "application/vnd.apache.arrow.file",
        Format::Bytes => "application/octet-stream",
    }
}
