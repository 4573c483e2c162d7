// SPDX-License-Identifier: Apache-2.0
//! Batches as CSV: RFC 4180 with a header, UTF-8, lines ended by CR LF.
//!
//! A missing value is an empty field, and `null` where it would be an empty
//! line. Texts and bytes that a reader would take for a missing value are quoted, so
//! that none is lost; NaN, which CSV has no word for, becomes missing.

use arrow::{
    array::{Array, AsArray, RecordBatch, StringArray},
    datatypes::{DataType, Schema},
    util::display::ArrayFormatter,
};
use fanfold_protocol::{ErrorKind, Problem, job::CsvOptions};

use super::times;
use crate::tables::guard::quote;

pub(super) struct CsvEncoder {
    pub(super) out: Vec<u8>,
    nulls: Vec<String>,
}

/// A column on its way out.
enum Cells<'a> {
    Text(&'a StringArray),
    /// One in which nothing is anything, whatever its type says of missing values.
    Missing,
    /// With its name.
    Other(&'a str, &'a dyn Array, ArrayFormatter<'a>),
}

impl CsvEncoder {
    /// Writes the header. Columns of lists or structs are refused.
    pub(super) fn create(schema: &Schema) -> Result<Self, Problem> {
        if let Some(field) = schema.fields().iter().find(|f| f.data_type().is_nested()) {
            let detail = format!(
                "column {} must hold plain values to be written as CSV, found {}; choose another format",
                quote(field.name()),
                field.data_type()
            );
            return Err(Problem::new(ErrorKind::SchemaMismatch, detail));
        }
        let mut encoder = Self { out: Vec::new(), nulls: CsvOptions::default().nulls };
        for (place, field) in schema.fields().iter().enumerate() {
            if place > 0 {
                encoder.out.push(b',');
            }
            // An empty name alone would be an empty line, and what marks the order of bytes would be
            // taken for the object's, if it came first.
            let quoted = field.name().is_empty() || field.name().starts_with('\u{feff}');
            push(&mut encoder.out, field.name(), quoted);
        }
        encoder.out.extend_from_slice(b"\r\n");
        Ok(encoder)
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Problem> {
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            columns.push(match array.data_type() {
                DataType::Utf8 => Cells::Text(array.as_string::<i32>()),
                DataType::Null => Cells::Missing,
                _ => Cells::Other(field.name(), array, times::formatter(array).map_err(unprintable)?),
            });
        }
        let mut scratch = String::new();
        for row in 0..batch.num_rows() {
            for (place, column) in columns.iter().enumerate() {
                if place > 0 {
                    self.out.push(b',');
                }
                self.cell(column, row, columns.len() == 1, &mut scratch)?;
            }
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn cell(
        &mut self,
        column: &Cells<'_>,
        row: usize,
        alone: bool,
        scratch: &mut String,
    ) -> Result<(), Problem> {
        let missing: &[u8] = if alone { b"null" } else { b"" };
        match column {
            Cells::Missing => self.out.extend_from_slice(missing),
            Cells::Text(array) if array.is_null(row) => self.out.extend_from_slice(missing),
            Cells::Text(array) => {
                let text = array.value(row);
                let reserved = self.nulls.iter().any(|n| n == text);
                push(&mut self.out, text, reserved);
            }
            Cells::Other(_, array, _) if array.is_null(row) => self.out.extend_from_slice(missing),
            Cells::Other(name, array, formatter) => {
                times::print(name, array.data_type(), formatter, row, scratch)?;
                // Of no bytes, as of an empty text, nothing is to be seen.
                push(&mut self.out, scratch, scratch.is_empty());
            }
        }
        Ok(())
    }
}

fn unprintable(error: arrow::error::ArrowError) -> Problem {
    Problem::new(ErrorKind::SchemaMismatch, format!("a column must be printable as CSV, found: {error}"))
}

/// Appends a field, quoted where it must be.
fn push(out: &mut Vec<u8>, text: &str, quoted: bool) {
    if !quoted && !text.bytes().any(|b| matches!(b, b',' | b'"' | b'\r' | b'\n')) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for (place, part) in text.split('"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}
