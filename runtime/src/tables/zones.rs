// SPDX-License-Identifier: Apache-2.0
//! Moments with a zone on their way to text.
//!
//! Text has no place for the seconds of an offset from UTC, which zones had before there were
//! standard times, that of Liberia until 1972. Arrow rounds them to minutes, and what is read from
//! that is another moment; so a column that has one such is written in UTC. Invariant: no moment
//! becomes another.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Field, Schema, TimeUnit, TimestampSecondType},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use fanfold_protocol::Problem;

use super::{convert::items, shape};

/// 1972-01-07T00:44:30Z: from then on no offset has seconds.
const WHOLE_SINCE: i64 = 63_593_070;

/// The batch as it is printed.
pub(super) fn printable_batch(
    batch: &RecordBatch,
    refused: impl FnOnce(ArrowError) -> Problem,
) -> Result<RecordBatch, Problem> {
    let columns = batch.columns().iter().map(printable).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    let schema = batch.schema_ref();
    let fields = schema.fields().iter().zip(&columns);
    if fields.clone().all(|(field, column)| field.data_type() == column.data_type()) {
        return Ok(batch.clone());
    }
    let field = |(field, column): (&Arc<Field>, &ArrayRef)| {
        field.as_ref().clone().with_data_type(column.data_type().clone())
    };
    let schema = Arc::new(Schema::new(fields.map(field).collect::<Vec<_>>()));
    shape::assemble(schema, columns, batch.num_rows())
}

/// The column, in UTC where one of its moments, at any depth, has an offset with seconds.
pub(super) fn printable(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !has_seconds(column) {
        return Ok(Arc::clone(column));
    }
    shape::cast(column, &shape::mapped(column.data_type(), in_utc))
}

fn in_utc(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(unit, Some(_)) => Some(DataType::Timestamp(*unit, Some("UTC".into()))),
        _ => None,
    }
}

fn has_seconds(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Timestamp(_, Some(zone)) => {
            !zone.starts_with(['+', '-']) && &**zone != "UTC" && is_off_by_seconds(column, zone)
        }
        DataType::Struct(_) => column.as_struct().columns().iter().any(has_seconds),
        // Of a piece of a batch only what is in it.
        _ => items(column).is_some_and(|items| has_seconds(&items)),
    }
}

/// What no calendar and no list of zones has is left to who prints it.
fn is_off_by_seconds(moments: &ArrayRef, zone: &Arc<str>) -> bool {
    let whole = DataType::Timestamp(TimeUnit::Second, Some(Arc::clone(zone)));
    let Ok(seconds) = cast(moments, &whole) else { return false };
    let options = FormatOptions::new().with_display_error(false).with_timestamp_tz_format(Some("%::z"));
    // Not of whole seconds, which before 1970 are later than the moments: an offset may end between.
    let Ok(offsets) = ArrayFormatter::try_new(moments.as_ref(), &options) else { return false };
    let is_off = |row: usize| offsets.value(row).try_to_string().is_ok_and(|offset| !offset.ends_with(":00"));
    let mut rows = seconds.as_primitive::<TimestampSecondType>().iter().enumerate();
    rows.any(|(row, moment)| moment.is_some_and(|at| at < WHOLE_SINCE) && is_off(row))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ListArray, TimestampMicrosecondArray},
        buffer::OffsetBuffer,
        datatypes::TimestampMicrosecondType,
    };

    use super::*;

    /// Moments of whole seconds in Liberia.
    fn moments(seconds: &[i64]) -> ArrayRef {
        let micros = seconds.iter().map(|at| Some(at * 1_000_000)).chain([None]);
        Arc::new(TimestampMicrosecondArray::from_iter(micros).with_timezone("Africa/Monrovia"))
    }

    #[test]
    fn offsets_with_seconds_are_those_before_standard_times() {
        let check = |column: &ArrayRef, expected: bool| {
            let printed = printable(column).unwrap();
            assert_eq!(printed.data_type() != column.data_type(), expected, "{column:?}");
            assert_eq!(&cast(&printed, column.data_type()).unwrap(), column);
        };
        check(&moments(&[WHOLE_SINCE]), false);
        check(&moments(&[i64::MAX / 1_000_000, i64::MIN / 1_000_000]), false);
        let early = moments(&[WHOLE_SINCE, WHOLE_SINCE - 1]);
        check(&early, true);
        check(&early.slice(0, 1), false);
        for zone in ["UTC", "+05:30", "Europe/Amsterdam"] {
            let there = early.as_primitive::<TimestampMicrosecondType>().clone();
            let there: ArrayRef = Arc::new(there.with_timezone(zone));
            check(&there, false);
        }
        let item = Arc::new(Field::new_list_field(early.data_type().clone(), true));
        let lists: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([2, 1]), early, None));
        check(&lists, true);
        check(&lists.slice(1, 1), false);
        // Lisbon's had seconds until 1912.
        let lisbon = |micros: i64| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone("Europe/Lisbon"))
        };
        check(&lisbon(-1_830_384_000_000_000), false);
        check(&lisbon(-1_830_384_000_500_000), true);
    }
}
