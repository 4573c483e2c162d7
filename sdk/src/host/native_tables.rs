// SPDX-License-Identifier: Apache-2.0
//! The host of a native build: tables of the objects in memory.
//!
//! It owns opening and creating of tables where there is no host. Invariant:
//! as on the platform, a table is not visible before it is finished.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::native::{content, with_memory};
use crate::Result;
use crate::table::{BatchSink, BatchSource, Format, ReadOptions, Written};
use crate::testing::files;

/// A table in memory, being read.
pub(crate) struct Reader {
    schema: SchemaRef,
    batches: std::vec::IntoIter<RecordBatch>,
}

impl Reader {
    pub(crate) fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        Self { schema, batches: batches.into_iter() }
    }
}

impl BatchSource for Reader {
    fn schema(&mut self) -> Result<SchemaRef> {
        Ok(self.schema.clone())
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        Ok(self.batches.next())
    }
}

/// A table in memory, being written.
pub(crate) struct Writer {
    uri: String,
    format: Format,
    batches: Vec<RecordBatch>,
}

impl BatchSink for Writer {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.batches.push(batch.clone());
        Ok(())
    }
}

impl Writer {
    pub(crate) fn finish(self) -> Result<Written> {
        // As on the platform: nobody said which columns it has.
        if self.batches.is_empty() {
            return Ok(Written { rows: 0, bytes: 0 });
        }
        let content = files::write(&self.batches, self.format)?;
        let rows = self.batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let written = Written { rows, bytes: content.len() as u64 };
        with_memory(|memory| memory.objects.insert(self.uri, content));
        Ok(written)
    }
}

pub(crate) fn open_table(uri: &str, options: &ReadOptions) -> Result<Reader> {
    let (schema, batches) = files::read(content(uri)?, uri, options)?;
    Ok(Reader::new(schema, batches))
}

pub(crate) fn create_table(uri: &str, format: Format) -> Result<Writer> {
    Ok(Writer { uri: uri.to_owned(), format, batches: Vec::new() })
}
