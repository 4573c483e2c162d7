// SPDX-License-Identifier: Apache-2.0
//! One encoder for each format: batches in, bytes out as they come to be.
//!
//! Parquet is written with the settings below and no others, so that equal
//! tables are equal bytes whatever wrote them.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::writer::FileWriter,
    json::{WriterBuilder, writer::LineDelimited},
};
use fanfold_protocol::{ErrorKind, Problem, job::Format};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

use super::{columns, csv::CsvEncoder, lines, times};
use crate::tables::zones::printable_batch;

/// Rows of a Parquet row group, at most.
const GROUP_ROWS: usize = 1 << 20;
/// Bytes of a Parquet row group, at most; also what the writer holds.
const GROUP_BYTES: usize = 64 << 20;

/// Bytes of a Parquet column's dictionary, at most: a column that outgrows it is
/// written plain, and was looked up in vain, which costs more the larger it became.
const DICTIONARY_BYTES: usize = 256 << 10;

/// Who wrote a Parquet file, in the form of its specification (parquet.thrift, `created_by`):
/// readers in Java warn of any other. The version is that of these settings, for releases
/// next to each other write the same bytes.
const CREATED_BY: &str = "fanfold version 1.0.0 (build 1)";

type JsonWriter = arrow::json::Writer<Vec<u8>, LineDelimited>;

pub(super) enum Encoder {
    Parquet {
        writer: Box<ArrowWriter<Vec<u8>>>,
        /// What is stored, as [`columns::stored`] tells it.
        schema: SchemaRef,
    },
    Csv(CsvEncoder),
    Jsonl(Box<JsonWriter>),
    Arrow(Box<FileWriter<Vec<u8>>>),
}

impl Encoder {
    pub(super) fn create(format: Format, schema: &SchemaRef) -> Result<Self, Problem> {
        // Parquet counts rows by their columns, and a line of CSV without a field is none.
        if schema.fields().is_empty() && !matches!(format, Format::Jsonl | Format::Arrow) {
            let detail =
                "a table must have a column at least, found none; write one, or write jsonl or arrow";
            return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
        }
        Ok(match format {
            Format::Csv => Self::Csv(CsvEncoder::create(schema)?),
            Format::Jsonl => {
                lines::check_members(schema)?;
                let builder = WriterBuilder::new().with_explicit_nulls(true);
                Self::Jsonl(Box::new(builder.build(Vec::new())))
            }
            Format::Arrow => Self::Arrow(Box::new(FileWriter::try_new(Vec::new(), schema).map_err(refused)?)),
            Format::Auto | Format::Parquet | Format::Bytes => {
                let schema = columns::stored(schema)?;
                let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties()?));
                Self::Parquet { writer: Box::new(writer.map_err(refused_parquet)?), schema }
            }
        })
    }

    /// How many of the batch's first rows [`Encoder::write`] is to be given at once. Where
    /// batches can be seen in the bytes, they stay whole.
    pub(super) fn rows_at_once(&self, batch: &RecordBatch) -> Result<usize, Problem> {
        match self {
            Self::Parquet { .. } | Self::Arrow(_) => Ok(batch.num_rows()),
            Self::Csv(_) | Self::Jsonl(_) => lines::rows_at_once(batch),
        }
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        match self {
            Self::Parquet { writer, schema } => {
                writer.write(&columns::fitted(batch, schema)?).map_err(refused_parquet)
            }
            Self::Csv(encoder) => encoder.write(&printable_batch(batch, refused)?),
            Self::Jsonl(writer) => {
                let batch = &printable_batch(batch, refused)?;
                let before = writer.get_ref().len();
                writer.write(batch).map_err(refused)?;
                times::check(batch, writer.get_ref().get(before..).unwrap_or_default())
            }
            Self::Arrow(writer) => writer.write(batch).map_err(refused),
        }
    }

    /// Bytes that [`Encoder::take`] would give.
    pub(super) fn pending(&mut self) -> usize {
        self.buffer().len()
    }

    /// Takes the bytes that are there.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.buffer())
    }

    /// Ends the table and gives its last bytes.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, Problem> {
        match &mut self {
            Self::Parquet { writer, .. } => _ = writer.finish().map_err(refused_parquet)?,
            Self::Csv(_) => {}
            Self::Jsonl(writer) => writer.finish().map_err(refused)?,
            Self::Arrow(writer) => writer.finish().map_err(refused)?,
        }
        Ok(self.take())
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Parquet { writer, .. } => writer.inner_mut(),
            Self::Csv(encoder) => &mut encoder.out,
            Self::Jsonl(writer) => writer.get_mut(),
            Self::Arrow(writer) => writer.get_mut(),
        }
    }
}

fn properties() -> Result<WriterProperties, Problem> {
    let level = ZstdLevel::try_new(1).map_err(refused_parquet)?;
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by(CREATED_BY.to_owned())
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .build())
}

pub(super) fn refused(error: ArrowError) -> Problem {
    let detail = format!(
        "the table must have columns that its format can hold, found: {error}; choose another format"
    );
    Problem::new(ErrorKind::SchemaMismatch, detail)
}

fn refused_parquet(error: ParquetError) -> Problem {
    refused(ArrowError::ExternalError(Box::new(error)))
}
