// SPDX-License-Identifier: Apache-2.0
//! Files and in-memory objects as tables, for native tests.
//!
//! It owns a small stand-in for the host's decoding and encoding of formats.
//! Invariant: a text that does not fit a column's type is an error, never a
//! silent null.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::jsonl::joined;
use super::text::guessed;
use crate::table::{CsvOptions, Format, ReadOptions};
use crate::{Error, Result};

/// The format a table is stored in: as told, or by its first bytes, or by its name.
fn resolve(format: Format, content: &[u8], name: &str) -> Format {
    match (format, content) {
        (Format::Automatic, [b'P', b'A', b'R', b'1', ..]) => Format::Parquet,
        (Format::Automatic, [b'A', b'R', b'R', b'O', b'W', b'1', ..] | [0xff, 0xff, 0xff, 0xff, ..]) => {
            Format::Arrow
        }
        (Format::Automatic, _) => match ending(name).as_str() {
            "csv" | "tsv" | "tab" => Format::Csv,
            "jsonl" | "ndjson" => Format::Jsonl,
            "arrow" | "feather" | "ipc" | "arrows" => Format::Arrow,
            _ => Format::Parquet,
        },
        (chosen, _) => chosen,
    }
}

/// How the table's name ends, in lower case.
fn ending(name: &str) -> String {
    name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase()
}

/// A table, and the text that it was read from, if it was text.
pub(crate) struct Stored {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) text: Option<Text>,
}

/// What columns are read from in the types that a function declares: on the platform no
/// other types come between.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    /// The columns of CSV.
    Csv(RecordBatch),
    /// Lines of JSON.
    Jsonl(Arc<[u8]>),
}

/// Reads a table out of `content`, which is called `name`.
pub(crate) fn read(
    content: Vec<u8>,
    name: &str,
    options: &ReadOptions,
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let Stored { schema, batches, .. } = stored(content, name, options)?;
    let Some(chosen) = &options.columns else { return Ok((schema, batches)) };
    let indexes = chosen.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
    let projected = batches.iter().map(|batch| batch.project(&indexes)).collect::<Result<_, _>>()?;
    Ok((schema.project(&indexes)?.into(), projected))
}

/// Reads all columns out of `content`, which is called `name`.
pub(crate) fn stored(content: Vec<u8>, name: &str, options: &ReadOptions) -> Result<Stored> {
    let (text, (schema, batches)) = match resolve(options.format, &content, name) {
        Format::Csv => {
            let texts = read_csv(&content, &options.csv.clone().unwrap_or_else(|| csv_of(name)))?;
            (Some(Text::Csv(texts.clone())), typed(&texts)?)
        }
        Format::Jsonl => {
            let content: Arc<[u8]> = content.into();
            (Some(Text::Jsonl(content.clone())), read_jsonl(&content)?)
        }
        Format::Parquet | Format::Automatic => (None, read_parquet(content)?),
        Format::Arrow => (None, read_arrow(content)?),
    };
    Ok(Stored { schema, batches, text })
}

/// How a table of this name is read where nobody says it.
fn csv_of(name: &str) -> CsvOptions {
    match ending(name).as_str() {
        "tsv" | "tab" => CsvOptions { delimiter: '\t', ..CsvOptions::default() },
        _ => CsvOptions::default(),
    }
}

/// The columns as texts, without those that mean missing values.
fn read_csv(content: &[u8], options: &CsvOptions) -> Result<RecordBatch> {
    let ascii = |what: &str, sign: char| {
        u8::try_from(sign).map_err(|_| {
            Error::new("invalid-csv", format!("{what} must be one ASCII character, found `{sign}`"))
        })
    };
    let format = arrow::csv::reader::Format::default()
        .with_header(options.header)
        .with_delimiter(ascii("delimiter", options.delimiter)?)
        .with_quote(ascii("quote", options.quote)?);
    let (inferred, _) = format.infer_schema(content, Some(1))?;
    let text = |field: &Arc<Field>| Field::new(field.name(), DataType::Utf8, true);
    let schema: SchemaRef = Schema::new(inferred.fields().iter().map(text).collect::<Vec<_>>()).into();
    let reader =
        arrow::csv::ReaderBuilder::new(schema.clone()).with_format(format).build(Cursor::new(content))?;
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let whole = arrow::compute::concat_batches(&schema, &batches)?;
    let is_value = |text: &&str| !options.nulls.iter().any(|null| null == text);
    let present = |texts: &ArrayRef| -> ArrayRef {
        Arc::new(texts.as_string::<i32>().iter().map(|text| text.filter(is_value)).collect::<StringArray>())
    };
    Ok(RecordBatch::try_new(schema, whole.columns().iter().map(present).collect())?)
}

/// Each column in the first type that fits all its texts.
fn typed(texts: &RecordBatch) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let arrays: Vec<ArrayRef> = texts.columns().iter().map(|texts| guessed(texts.as_string())).collect();
    let named =
        |(field, array): (&Arc<Field>, &ArrayRef)| Field::new(field.name(), array.data_type().clone(), true);
    let fields = texts.schema_ref().fields().iter().zip(&arrays).map(named);
    let schema: SchemaRef = Schema::new(fields.collect::<Vec<_>>()).into();
    Ok((schema.clone(), vec![RecordBatch::try_new(schema, arrays)?]))
}

fn read_jsonl(content: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let text = joined(content);
    let content = &*text;
    let (schema, _) = arrow::json::reader::infer_json_schema(content, None)?;
    let schema: SchemaRef = schema.into();
    let reader =
        arrow::json::ReaderBuilder::new(schema.clone()).with_coerce_primitive(true).build(content)?;
    Ok((schema, reader.collect::<Result<_, _>>()?))
}

fn read_arrow(content: Vec<u8>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    if content.starts_with(b"ARROW1") {
        let reader = arrow::ipc::reader::FileReader::try_new(Cursor::new(content), None)?;
        return Ok((reader.schema(), reader.collect::<Result<_, _>>()?));
    }
    let reader = arrow::ipc::reader::StreamReader::try_new(Cursor::new(content), None)?;
    Ok((reader.schema(), reader.collect::<Result<_, _>>()?))
}

#[cfg(feature = "parquet")]
fn read_parquet(content: Vec<u8>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let builder =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(content))?;
    let schema = builder.schema().clone();
    Ok((schema, builder.build()?.collect::<Result<_, _>>()?))
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(_: Vec<u8>) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    Err(no_parquet())
}

/// The bytes of a table.
pub(crate) fn write(batches: &[RecordBatch], format: Format) -> Result<Vec<u8>> {
    let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
    let mut content = Vec::new();
    match format {
        Format::Csv => {
            let mut writer = arrow::csv::Writer::new(&mut content);
            batches.iter().try_for_each(|batch| writer.write(batch))?;
        }
        Format::Jsonl => {
            let mut writer = arrow::json::LineDelimitedWriter::new(&mut content);
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.finish()?;
        }
        // Whatever the table is called, as on the platform.
        Format::Parquet | Format::Automatic => write_parquet(batches, schema, &mut content)?,
        Format::Arrow => {
            let mut writer = arrow::ipc::writer::FileWriter::try_new(&mut content, &schema)?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.finish()?;
        }
    }
    Ok(content)
}

#[cfg(feature = "parquet")]
fn write_parquet(batches: &[RecordBatch], schema: SchemaRef, content: &mut Vec<u8>) -> Result<()> {
    let mut writer = parquet::arrow::ArrowWriter::try_new(content, schema, None)?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    writer.close()?;
    Ok(())
}

#[cfg(not(feature = "parquet"))]
fn write_parquet(_: &[RecordBatch], _: SchemaRef, _: &mut Vec<u8>) -> Result<()> {
    Err(no_parquet())
}

#[cfg(not(feature = "parquet"))]
fn no_parquet() -> Error {
    Error::new(
        "no-parquet",
        "expected the feature `parquet` of fanfold-sdk, found it off; \
         turn it on under [dev-dependencies], or name another format",
    )
}
