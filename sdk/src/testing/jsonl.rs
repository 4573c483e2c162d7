// SPDX-License-Identifier: Apache-2.0
//! Columns of JSON Lines in the types that a function declares, for native tests.
//!
//! It owns what values of JSON may stand for: the same as on the platform, which reads
//! them with `arrow-json` too, but takes whole numbers by its own words, cuts nothing off
//! numbers that are times, and wants two hexadecimal digits for each byte.

#[path = "../../../protocol/src/stored/escapes.rs"]
mod escapes;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::reader::{ArrayDecoder, DecoderContext, DecoderFactory, Tape, TapeElement};
use serde_json::Value;

use super::fit::misfit;
use super::text::{parse, value};
use crate::Result;
use crate::row::Column;

/// The content in the way in which `arrow-json` reads all characters right; what is no UTF-8 as it is.
pub(super) fn joined(content: &[u8]) -> Cow<'_, [u8]> {
    match str::from_utf8(content).map(escapes::joined) {
        Ok(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        _ => Cow::Borrowed(content),
    }
}

/// The column out of so many lines.
pub(super) fn read(content: &[u8], rows: usize, column: &Column) -> Result<ArrayRef> {
    let field: FieldRef = Field::new(column.name, column.arrow_type(), true).into();
    decode(content, rows, &field).map_err(|error| {
        let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        match lines.enumerate().find(|(_, line)| decode(line, 1, &field).is_err()) {
            Some((row, line)) => misfit(column, &member(line, column.name), row as u64),
            None => error.into(),
        }
    })
}

/// The value of a line as it stands in a message.
fn member(line: &[u8], name: &str) -> String {
    let value: Option<Value> = serde_json::from_slice(line).ok();
    value.and_then(|value| value.get(name).map(ToString::to_string)).unwrap_or_else(|| "none".to_owned())
}

fn decode(content: &[u8], rows: usize, field: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let schema: SchemaRef = Schema::new(vec![Arc::clone(field)]).into();
    let mut decoder = ReaderBuilder::new(schema.clone())
        // One more, so that it does not stop before it has seen the end.
        .with_batch_size(rows + 1)
        .with_coerce_primitive(true)
        .with_decoder_factory(Arc::new(Decoders))
        .build_decoder()?;
    decoder.decode(&joined(content))?;
    let batch = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(schema));
    Ok(Arc::clone(batch.column(0)))
}

/// Makes the decoders that take less than those of `arrow-json`.
#[derive(Debug)]
struct Decoders;

impl DecoderFactory for Decoders {
    fn make_default_decoder(
        &self,
        context: &DecoderContext,
        field: &FieldRef,
        is_nullable: bool,
    ) -> Result<Option<Box<dyn ArrayDecoder>>, ArrowError> {
        let (takes, read): (Takes, DataType) = match field.data_type() {
            whole if whole.is_integer() => (is_number_or_text, DataType::Utf8),
            time if time.is_temporal() => (is_time, time.clone()),
            DataType::Binary => (is_hexadecimal, DataType::Binary),
            _ => return Ok(None),
        };
        let read = Arc::new(field.as_ref().clone().with_data_type(read));
        let inner = context.make_builtin_decoder(&read, is_nullable)?;
        Ok(Some(Box::new(Strict { takes, inner, to: field.data_type().clone() })))
    }
}

/// Whether a value is taken, given what it is and its text.
type Takes = fn(TapeElement, &str) -> bool;

struct Strict {
    takes: Takes,
    inner: Box<dyn ArrayDecoder>,
    to: DataType,
}

impl ArrayDecoder for Strict {
    fn decode(&mut self, tape: &Tape<'_>, pos: &[u32]) -> Result<ArrayRef, ArrowError> {
        let is_taken = |place: u32| match tape.get(place) {
            TapeElement::Null => true,
            found @ (TapeElement::Number(text) | TapeElement::String(text)) => {
                (self.takes)(found, tape.get_string(text))
            }
            _ => false,
        };
        if let Some(place) = pos.iter().find(|place| !is_taken(**place)) {
            return Err(tape.error(*place, &self.to.to_string()));
        }
        let read = self.inner.decode(tape, pos)?;
        if *read.data_type() == self.to {
            return Ok(read);
        }
        let no_number = |row: usize| tape.error(pos[row], &self.to.to_string());
        parse(read.as_string(), &self.to).map_err(no_number)
    }
}

fn is_number_or_text(found: TapeElement, text: &str) -> bool {
    !(matches!(found, TapeElement::Number(_)) && is_padded(text))
}

/// Whole units since 1970, which are doubles on their way if they are written with a point; texts are
/// left to `arrow-json`.
fn is_time(found: TapeElement, text: &str) -> bool {
    let is_kept = |whole: i64| {
        !text.contains('.') || value::float(text.as_bytes()).is_some_and(|double| double as i64 == whole)
    };
    match found {
        TapeElement::Number(_) => !is_padded(text) && value::integer(text.as_bytes()).is_some_and(is_kept),
        _ => true,
    }
}

fn is_hexadecimal(found: TapeElement, text: &str) -> bool {
    matches!(found, TapeElement::String(_)) && text.len().is_multiple_of(2)
}

/// Whether digits follow a zero in front, which no number of JSON has.
fn is_padded(number: &str) -> bool {
    matches!(number.strip_prefix('-').unwrap_or(number).as_bytes(), [b'0', b'0'..=b'9', ..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Date, Field, Timestamp};

    fn check<F: Field>(good: &[&str], bad: &[&str]) {
        let column = Column::of::<F>("x");
        let line = |value: &str| format!("{{\"y\":[],\"x\":{value}}}\n");
        for value in good {
            let found = read(line(value).as_bytes(), 1, &column);
            assert!(found.as_ref().is_ok_and(|array| array.len() == 1), "{value}: {found:?}");
        }
        for value in bad {
            let error = read((line(good[0]) + "\n" + &line(value)).as_bytes(), 2, &column).unwrap_err();
            assert_eq!(error.code(), "value-mismatch", "{value}: {error}");
            assert!(error.message().contains("row 1"), "{error}");
        }
    }

    #[test]
    fn values_are_what_the_platform_takes() {
        check::<Option<bool>>(&["true", "null"], &["1", "0", "\"true\"", "\"yes\""]);
        check::<i64>(&["5", "5.0", "\"5.0\"", "\" 5\""], &["5.5", "true", "1e3", "05", "[1]", "\"x\""]);
        check::<u8>(&["255"], &["300", "-1"]);
        check::<f64>(&["1", "\"1.5\"", "1e300"], &["true", "\"x\""]);
        check::<String>(&["5", "1.10", "true", "\"x\""], &["[1]", "{\"a\":1}"]);
        check::<Date>(&["20000", "\"2026-01-02\""], &["1.5", "-0.9", "1e12", "true", "\"2026-02-30\""]);
        check::<Timestamp>(&["5", "5.0", "\"2026-01-02T03:04:05\""], &["1.5", "1e30", "9007199254740993.0"]);
        check::<Vec<u8>>(&["\"\"", "\"0aFF\""], &["\"a\"", "\"abc\"", "\"zz\"", "5", "[1,2]"]);
    }

    #[test]
    fn texts_are_those_that_stand_there() {
        let column = Column::of::<Option<String>>("x");
        let content = b"{\"x\":1.10}\n{\"x\":12345678901234567890}\n{\"x\":true}\n{}\n";
        let found = read(content, 4, &column).unwrap();
        let found: Vec<_> = found.as_string::<i32>().iter().collect();
        assert_eq!(found, [Some("1.10"), Some("12345678901234567890"), Some("true"), None]);
        let bytes = read(b"{\"x\":\"0aff\"}", 1, &Column::of::<Vec<u8>>("x")).unwrap();
        assert_eq!(bytes.as_binary::<i32>().value(0), [0x0a, 0xff]);
        let name = read(br#"{"x":"\ud842\udfb7\u91ce"}"#, 1, &column).unwrap();
        assert_eq!(name.as_string::<i32>().value(0), "\u{20bb7}\u{91ce}");
    }
}
