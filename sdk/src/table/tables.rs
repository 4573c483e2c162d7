// SPDX-License-Identifier: Apache-2.0
//! Tables that a function opens and creates by itself.
//!
//! It owns the author's side of `fanfold:function/tables`: the host decodes and
//! encodes the format, the function sees batches or rows. Invariant: a table
//! that was not finished is never visible.

use std::marker::PhantomData;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::{BatchSink, BatchSource};
use crate::row::{OwnedRow, RowBuffer};
use crate::{Result, host};

/// The tables that the deployment grants; see [`crate::Context::tables`].
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[derive(Row)]
/// struct Rate { region: String, rate: f64 }
///
/// #[fanfold::handler]
/// fn highest(context: &Context) -> Result<String> {
///     let mut best = Rate { region: "none".into(), rate: 0.0 };
///     for rate in context.tables().open("s3://bank/rates.csv")?.rows::<Rate>() {
///         let rate = rate?;
///         if rate.rate > best.rate { best = rate; }
///     }
///     Ok(best.region)
/// }
/// # fn main() {}
/// ```
///
/// At most 16 are open at once, beside the input and output of a job: one that is read to its
/// end, finished or dropped makes room for another.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    _private: (),
}

/// How a table is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Reading: by content and name. Writing: Parquet.
    #[default]
    Automatic,
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values, RFC 4180.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Arrow IPC.
    Arrow,
}

/// How to read a CSV table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    /// The character between fields; one ASCII character.
    pub delimiter: char,
    /// Whether the first record holds the columns' names.
    pub header: bool,
    /// The quote character; one ASCII character.
    pub quote: char,
    /// Field texts that mean a missing value, when not quoted; the empty one also in quotes, but in columns of text.
    pub nulls: Vec<String>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        let nulls = ["", "NA", "N/A", "null", "NaN"].map(str::to_owned).to_vec();
        Self { delimiter: ',', header: true, quote: '"', nulls }
    }
}

/// How to read a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The table's format.
    pub format: Format,
    /// The columns to read, in this order; `None` for all.
    pub columns: Option<Vec<String>>,
    /// For CSV; `None` for a header, `"`, the usual nulls, and a comma, or a tab where the
    /// table's name ends in `.tsv` or `.tab`.
    pub csv: Option<CsvOptions>,
}

/// What a finished table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Rows written.
    pub rows: u64,
    /// Bytes of the object.
    pub bytes: u64,
}

/// A table being read: an iterator over its batches. A table without rows has none, and
/// [`TableReader::schema`] tells its columns.
pub struct TableReader {
    source: host::Reader,
    ended: bool,
}

/// A table being written.
pub struct TableWriter {
    sink: host::Writer,
}

impl Tables {
    pub(crate) fn granted() -> Self {
        Self { _private: () }
    }

    /// Opens the table at `s3://bucket/key`, format by content and name.
    ///
    /// # Errors
    ///
    /// Those of the platform: not granted, not found, no table.
    pub fn open(&self, uri: &str) -> Result<TableReader> {
        self.open_with(uri, ReadOptions::default())
    }

    /// Opens the table at `s3://bucket/key` as told.
    ///
    /// # Errors
    ///
    /// Those of the platform: not granted, not found, no such column.
    pub fn open_with(&self, uri: &str, options: ReadOptions) -> Result<TableReader> {
        host::open_table(uri, &options).map(|source| TableReader { source, ended: false })
    }

    /// Starts a table at `s3://bucket/key`; it becomes visible when finished.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    pub fn create(&self, uri: &str, format: Format) -> Result<TableWriter> {
        host::create_table(uri, format).map(|sink| TableWriter { sink })
    }
}

impl TableReader {
    /// The columns' names and types.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    pub fn schema(&mut self) -> Result<SchemaRef> {
        self.source.schema()
    }

    /// The table row by row. The columns must be of the fields' very types:
    /// unlike the input of a map, a table opened here is not cast.
    pub fn rows<R: OwnedRow>(self) -> impl Iterator<Item = Result<R>> {
        Rows { reader: self, batch: Vec::new().into_iter(), read: 0, row: PhantomData::<R> }
    }
}

impl Iterator for TableReader {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.source.next().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl TableWriter {
    /// Appends a batch. All batches of a table have the same schema.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.sink.write(batch)
    }

    /// Appends rows, in batches.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    pub fn write_rows<R: OwnedRow>(&mut self, rows: impl IntoIterator<Item = R>) -> Result<()> {
        let mut buffer = RowBuffer::<R>::default();
        for row in rows {
            buffer.push(row);
            buffer.flush_full(&mut self.sink)?;
        }
        buffer.finish(&mut self.sink)
    }

    /// Ends the table and makes it visible. Where nothing was written there is no table: one without
    /// rows takes a batch without rows, such as `RecordBatch::new_empty(schema)`.
    ///
    /// # Errors
    ///
    /// Those of the platform.
    pub fn finish(self) -> Result<Written> {
        self.sink.finish()
    }
}

struct Rows<R> {
    reader: TableReader,
    batch: std::vec::IntoIter<R>,
    read: u64,
    row: PhantomData<R>,
}

impl<R: OwnedRow> Iterator for Rows<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.batch.next() {
                return Some(Ok(row));
            }
            let batch = match self.reader.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            };
            let rows = R::bind(&batch, self.read)
                .map(|columns| (0..batch.num_rows()).map(|row| R::view(&columns, row)).collect::<Vec<R>>());
            self.read += batch.num_rows() as u64;
            match rows {
                Ok(rows) => self.batch = rows.into_iter(),
                Err(error) => {
                    self.reader.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
