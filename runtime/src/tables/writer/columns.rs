// SPDX-License-Identifier: Apache-2.0
//! What the columns of a table become in Parquet, which counts moments and times of day in
//! milliseconds or less.
//!
//! Seconds and `Date64` would be numbers for all but those who read Arrow's own schema beside
//! them. Invariant: no value changes its meaning, and what a column becomes depends on its
//! type alone.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Schema, SchemaRef, TimeUnit},
};
use fanfold_protocol::{ErrorKind, Problem};

use crate::tables::{guard::quote, shape};

/// The schema in which a table with this one is stored.
///
/// # Errors
/// `schema-mismatch` for what Parquet does not have: unions, and bytes of a fixed length of 0.
pub(super) fn stored(schema: &Schema) -> Result<SchemaRef, Problem> {
    let Some(field) = schema.fields().iter().find(|field| is_foreign(field.data_type())) else {
        return Ok(shape::changed(schema, counted));
    };
    let detail = format!(
        "column {} must have a type that Parquet has, found {}; write columns of other types, or the table as arrow",
        quote(field.name()),
        quote(&field.data_type().to_string())
    );
    Err(Problem::new(ErrorKind::SchemaMismatch, detail))
}

/// The batch in the schema that [`stored`] tells.
///
/// # Errors
/// `value-mismatch` for a moment so far away that its milliseconds have no number.
pub(super) fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Problem> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        shape::cast(column, field.data_type()).map_err(|error| {
            let detail = format!(
                "column {} must have values that Parquet can count in milliseconds, found: {error}",
                quote(field.name())
            );
            Problem::new(ErrorKind::ValueMismatch, detail)
        })
    });
    shape::assemble(Arc::clone(schema), columns.collect::<Result<_, _>>()?, batch.num_rows())
}

fn counted(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            Some(DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))
        }
        DataType::Time32(TimeUnit::Second) => Some(DataType::Time32(TimeUnit::Millisecond)),
        // Days as a rule, but nothing makes sure that they are whole.
        DataType::Date64 => Some(DataType::Timestamp(TimeUnit::Millisecond, None)),
        _ => None,
    }
}

/// Whether Parquet has no such type. Its writer takes bytes of no length, and panics when they come.
fn is_foreign(data_type: &DataType) -> bool {
    match data_type {
        DataType::Union(_, _) | DataType::FixedSizeBinary(0) => true,
        DataType::List(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => is_foreign(f.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| is_foreign(f.data_type())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{
            ArrayRef, AsArray, Date32Array, Date64Array, ListArray, StructArray, Time32SecondArray,
            TimestampMillisecondArray, TimestampSecondArray,
        },
        datatypes::{Field, TimestampMillisecondType, TimestampSecondType, UnionFields, UnionMode},
    };
    use bytes::Bytes;
    use fanfold_protocol::job::Format;
    use parquet::{
        arrow::arrow_reader::ParquetRecordBatchReaderBuilder,
        basic::{LogicalType, TimeUnit as Unit},
    };

    use super::*;
    use crate::tables::writer::encoder::Encoder;

    fn written(batch: &RecordBatch) -> Result<Bytes, Problem> {
        let mut encoder = Encoder::create(Format::Parquet, batch.schema_ref())?;
        encoder.write(batch)?;
        encoder.finish().map(Bytes::from)
    }

    #[test]
    fn moments_and_times_are_such_for_every_reader() {
        let seconds = TimestampSecondArray::from(vec![Some(1), None]);
        let lists =
            ListArray::from_iter_primitive::<TimestampSecondType, _, _>([Some([Some(1), None]), None]);
        let dates: ArrayRef = Arc::new(Date64Array::from(vec![Some(86_400_000), Some(-1)]));
        let date = Arc::new(Field::new("date", DataType::Date64, true));
        let columns: [(&str, ArrayRef); 7] = [
            ("local", Arc::new(seconds.clone())),
            ("utc", Arc::new(seconds.with_timezone("UTC"))),
            ("time", Arc::new(Time32SecondArray::from(vec![Some(3_600), None]))),
            ("date", Arc::clone(&dates)),
            ("list", Arc::new(lists)),
            ("struct", Arc::new(StructArray::from(vec![(date, dates)]))),
            ("day", Arc::new(Date32Array::from(vec![Some(1), None]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(written(&batch).unwrap()).unwrap();
        let stored =
            reader.parquet_schema().columns().iter().map(|column| column.logical_type_ref().cloned());
        let moment = |is_utc: bool| Some(LogicalType::timestamp(is_utc, Unit::MILLIS));
        let time = Some(LogicalType::time(false, Unit::MILLIS));
        let [local, utc, date] = [moment(false), moment(true), moment(false)];
        let expected = [local.clone(), utc, time, date.clone(), local, date, Some(LogicalType::Date)];
        assert_eq!(stored.collect::<Vec<_>>(), expected);
        let read = reader.build().unwrap().next().unwrap().unwrap();
        assert_eq!(
            read.columns(),
            fitted(&batch, &super::stored(&batch.schema()).unwrap()).unwrap().columns()
        );
        let local = read.column(0).as_primitive::<TimestampMillisecondType>();
        assert_eq!(*local, TimestampMillisecondArray::from(vec![Some(1_000), None]));
        let date = read.column(3).as_primitive::<TimestampMillisecondType>();
        assert_eq!(date.values()[..], [86_400_000, -1]);
    }

    #[test]
    fn what_parquet_does_not_have_is_told() {
        let union = DataType::Union(UnionFields::empty(), UnionMode::Dense);
        let list = DataType::List(Arc::new(Field::new("item", union.clone(), true)));
        let empty = DataType::FixedSizeBinary(0);
        let member = DataType::Struct(vec![Field::new("empty", empty.clone(), true)].into());
        for (data_type, part) in
            [(union, "Union"), (list, "Union"), (empty, "FixedSizeBinary(0)"), (member, "FixedSizeBinary(0)")]
        {
            let problem = stored(&Schema::new(vec![Field::new("either", data_type, true)])).unwrap_err();
            assert_eq!(problem.code, ErrorKind::SchemaMismatch);
            assert!(problem.detail.contains("\"either\"") && problem.detail.contains(part), "{problem}");
        }
        let far: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
        let problem = written(&RecordBatch::try_from_iter([("far", far)]).unwrap()).unwrap_err();
        assert_eq!(problem.code, ErrorKind::ValueMismatch, "{problem}");
    }
}
