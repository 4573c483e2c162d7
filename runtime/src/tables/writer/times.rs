// SPDX-License-Identifier: Apache-2.0
//! Times that have no text: moments that no calendar reaches, and times of day that no
//! day has.
//!
//! Arrow takes any number for a time, and where it prints one that is none puts words
//! for that in its place, which would be read as a value. Invariant: nothing that is
//! written as text holds them.

use arrow::{
    array::{Array, RecordBatch},
    datatypes::DataType,
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use fanfold_protocol::{ErrorKind, Problem};
use memchr::memmem;

use crate::tables::guard::quote;

/// What stands in JSON in place of a time that has no text.
const INSTEAD: [&[u8]; 2] = [b"\"ERROR: ", b"\"<invalid>\""];
/// What is printed in place of a duration that is too long.
const ENDLESS: &str = "<invalid>";

/// What prints the values of a column, and fails where one has no text.
pub(super) fn formatter(array: &dyn Array) -> Result<ArrayFormatter<'_>, ArrowError> {
    ArrayFormatter::try_new(array, &FormatOptions::new().with_display_error(false))
}

/// Prints a value of the column with this name over what `text` holds.
///
/// # Errors
/// `value-mismatch` for a time that has no text.
pub(super) fn print(
    name: &str,
    data_type: &DataType,
    formatter: &ArrayFormatter<'_>,
    row: usize,
    text: &mut String,
) -> Result<(), Problem> {
    text.clear();
    let cause = match formatter.value(row).write(text) {
        Ok(()) if text.as_str() == ENDLESS && data_type.is_temporal() => {
            "a duration that is too long".to_owned()
        }
        Ok(()) => return Ok(()),
        Err(cause) => cause.to_string(),
    };
    let detail = format!(
        "column {} must have times that can be written as text, found: {cause}; mend the value, or write parquet or \
         arrow",
        quote(name)
    );
    Err(Problem::new(ErrorKind::ValueMismatch, detail))
}

/// Refuses JSON that was made of these rows and has something else in place of a time. It
/// may only look so, for texts may be anything: then the rows are looked at.
pub(super) fn check(batch: &RecordBatch, json: &[u8]) -> Result<(), Problem> {
    let fields = batch.schema_ref().fields().iter();
    let mut columns =
        fields.zip(batch.columns()).filter(|(field, _)| has_times(field.data_type())).peekable();
    if columns.peek().is_none() || INSTEAD.iter().all(|words| memmem::find(json, words).is_none()) {
        return Ok(());
    }
    let mut text = String::new();
    for (field, column) in columns {
        let formatter = formatter(column).map_err(super::encoder::refused)?;
        for row in 0..column.len() {
            print(field.name(), field.data_type(), &formatter, row, &mut text)?;
        }
    }
    Ok(())
}

fn has_times(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => has_times(f.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_times(f.data_type())),
        other => other.is_temporal(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            ArrayRef, Date32Array, Date64Array, DurationSecondArray, ListArray, StringArray, StructArray,
            Time32SecondArray, TimestampMillisecondArray, TimestampSecondArray,
        },
        datatypes::{Field, TimestampSecondType},
    };
    use fanfold_protocol::job::Format;

    use super::*;
    use crate::tables::writer::encoder::Encoder;

    fn written(format: Format, column: &ArrayRef) -> Result<String, Problem> {
        let batch = RecordBatch::try_from_iter_with_nullable([("at", Arc::clone(column), true)]).unwrap();
        let mut encoder = Encoder::create(format, batch.schema_ref())?;
        encoder.write(&batch)?;
        encoder.finish().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[track_caller]
    fn check_refused(format: Format, column: &ArrayRef) {
        let problem = written(format, column).unwrap_err();
        assert_eq!(problem.code, ErrorKind::ValueMismatch, "{problem}");
        assert!(problem.detail.contains("\"at\"") && problem.detail.contains("parquet"), "{problem}");
    }

    #[test]
    fn times_that_have_no_text_are_refused() {
        let far = i64::MAX / 1_000;
        let columns: [ArrayRef; 6] = [
            Arc::new(TimestampSecondArray::from(vec![Some(0), None, Some(far)])),
            Arc::new(TimestampMillisecondArray::from(vec![i64::MIN]).with_timezone("UTC")),
            Arc::new(Date32Array::from(vec![i32::MAX])),
            Arc::new(Date64Array::from(vec![i64::MAX])),
            Arc::new(Time32SecondArray::from(vec![86_400])),
            Arc::new(DurationSecondArray::from(vec![i64::MAX])),
        ];
        for column in &columns {
            for format in [Format::Csv, Format::Jsonl] {
                check_refused(format, column);
            }
        }
        let list: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<TimestampSecondType, _, _>([Some([Some(far)])]));
        check_refused(Format::Jsonl, &list);
        let field = Arc::new(Field::new("of", columns[0].data_type().clone(), true));
        let member: ArrayRef = Arc::new(StructArray::from(vec![(field, Arc::clone(&columns[0]))]));
        check_refused(Format::Jsonl, &member);
    }

    #[test]
    fn offsets_with_seconds_are_written_in_utc() {
        let check = |at: i64, zone: &str, text: &str| {
            let moments = TimestampSecondArray::from(vec![Some(at), None]).with_timezone(zone);
            let moments: ArrayRef = Arc::new(moments);
            assert_eq!(written(Format::Csv, &moments).unwrap(), format!("at\r\n{text}\r\nnull\r\n"));
            let lines = format!("{{\"at\":\"{text}\"}}\n{{\"at\":null}}\n");
            assert_eq!(written(Format::Jsonl, &moments).unwrap(), lines);
        };
        check(0, "Africa/Monrovia", "1970-01-01T00:00:00Z");
        check(-5_000_000_000, "Europe/Amsterdam", "1811-07-23T15:06:40Z");
        check(0, "Europe/Amsterdam", "1970-01-01T01:00:00+01:00");
    }

    #[test]
    fn texts_may_say_anything() {
        let [said, of]: [ArrayRef; 2] = [
            Arc::new(StringArray::from(vec!["ERROR: none", "<invalid>"])),
            Arc::new(TimestampSecondArray::from(vec![Some(0), None])),
        ];
        assert_eq!(
            written(Format::Jsonl, &said).unwrap(),
            "{\"at\":\"ERROR: none\"}\n{\"at\":\"<invalid>\"}\n"
        );
        let fields = ["said", "of"].into_iter().zip([&said, &of]).map(|(name, column)| {
            (Arc::new(Field::new(name, column.data_type().clone(), true)), Arc::clone(column))
        });
        let both: ArrayRef = Arc::new(StructArray::from(fields.collect::<Vec<_>>()));
        assert_eq!(
            written(Format::Jsonl, &both).unwrap(),
            "{\"at\":{\"said\":\"ERROR: none\",\"of\":\"1970-01-01T00:00:00\"}}\n\
             {\"at\":{\"said\":\"<invalid>\",\"of\":null}}\n"
        );
    }
}
