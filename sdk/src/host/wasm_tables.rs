// SPDX-License-Identifier: Apache-2.0
//! The host of a wasm build: calls of `tables`.
//!
//! It owns the carrying of batches over Arrow IPC streams. Invariant: batches
//! of one stream come out before the next stream is asked for.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::wasm::refusal;
use crate::Result;
use crate::table::{BatchSink, BatchSource, CsvOptions, Format, ReadOptions, Written, ipc};
use crate::wasm::bindings::handler::fanfold::function::tables;

/// A table that the host reads, borrowed for one export or owned.
pub(crate) struct BorrowedReader<'host> {
    reader: &'host tables::Reader,
    decoded: std::vec::IntoIter<RecordBatch>,
}

impl<'host> BorrowedReader<'host> {
    pub(crate) fn new(reader: &'host tables::Reader) -> Self {
        Self { reader, decoded: Vec::new().into_iter() }
    }
}

impl BatchSource for BorrowedReader<'_> {
    fn schema(&mut self) -> Result<SchemaRef> {
        Ok(ipc::decode(self.reader.schema().map_err(refusal)?)?.0)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.decoded.next() {
                return Ok(Some(batch));
            }
            let Some(stream) = self.reader.next().map_err(refusal)? else {
                return Ok(None);
            };
            self.decoded = ipc::decode(stream)?.1.into_iter();
        }
    }
}

/// A table that the function opened.
pub(crate) struct Reader {
    reader: tables::Reader,
    decoded: std::vec::IntoIter<RecordBatch>,
}

impl BatchSource for Reader {
    fn schema(&mut self) -> Result<SchemaRef> {
        BorrowedReader::new(&self.reader).schema()
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let decoded = std::mem::take(&mut self.decoded);
        let mut borrowed = BorrowedReader { reader: &self.reader, decoded };
        let next = borrowed.next();
        self.decoded = borrowed.decoded;
        next
    }
}

/// A table that the host writes, borrowed for one export.
pub(crate) struct BorrowedWriter<'host>(pub(crate) &'host tables::Writer);

impl BatchSink for BorrowedWriter<'_> {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        ipc::encode(batch, &mut |stream| self.0.write(stream).map_err(refusal))
    }
}

/// A table that the function created.
pub(crate) struct Writer(tables::Writer);

impl BatchSink for Writer {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        BorrowedWriter(&self.0).write(batch)
    }
}

impl Writer {
    pub(crate) fn finish(self) -> Result<Written> {
        let tables::Written { rows, bytes } = self.0.finish().map_err(refusal)?;
        Ok(Written { rows, bytes })
    }
}

fn format(format: Format) -> tables::Format {
    match format {
        Format::Automatic => tables::Format::Automatic,
        Format::Parquet => tables::Format::Parquet,
        Format::Csv => tables::Format::Csv,
        Format::Jsonl => tables::Format::Jsonl,
        Format::Arrow => tables::Format::Arrow,
    }
}

fn csv(CsvOptions { delimiter, header, quote, nulls }: &CsvOptions) -> tables::CsvOptions {
    tables::CsvOptions { delimiter: *delimiter, header: *header, quote: *quote, nulls: nulls.clone() }
}

pub(crate) fn open_table(uri: &str, options: &ReadOptions) -> Result<Reader> {
    let options = tables::ReadOptions {
        format: format(options.format),
        columns: options.columns.clone(),
        csv: options.csv.as_ref().map(csv),
    };
    let reader = tables::open(uri, &options).map_err(refusal)?;
    Ok(Reader { reader, decoded: Vec::new().into_iter() })
}

pub(crate) fn create_table(uri: &str, as_format: Format) -> Result<Writer> {
    tables::create(uri, format(as_format)).map(Writer).map_err(refusal)
}
