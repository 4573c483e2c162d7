// SPDX-License-Identifier: Apache-2.0
//! Lists of fixed size, such as embeddings are: read whatever they are in and however many
//! there are, and refused only where one row takes too much.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeListArray, Int64Array, ListArray, RecordBatch, StringArray,
        StructArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Float32Type, Float64Type, Schema},
};
use fanfold_protocol::{ErrorKind, job::SchemaRule, limits};
use fanfold_runtime::tables::{TableReader, TableSource, encode};
use parquet::{
    arrow::add_encoded_arrow_schema_to_metadata,
    column::writer::ColumnWriter,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

use crate::{parquet_files::encode_parquet, support::*};

/// So many embeddings, of which every `missing`th is missing; none where that is 0.
fn embeddings(count: usize, size: usize, missing: usize) -> ArrayRef {
    let value = |n: usize| move |item: usize| Some((n * 31 + item) as f32 / 8.0);
    let one = |n: usize| (missing == 0 || !n.is_multiple_of(missing)).then(|| (0..size).map(value(n)));
    let all = (0..count).map(one);
    Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(all, size as i32))
}

/// The same of doubles.
fn doubles(count: usize, size: usize, missing: usize) -> ArrayRef {
    let one = |n: usize| {
        (missing == 0 || !n.is_multiple_of(missing)).then(|| (0..size).map(|item| Some(item as f64)))
    };
    let all = (0..count).map(one);
    Arc::new(FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(all, size as i32))
}

/// Lists of these: a missing one, an empty one, and others of one to three, over and over.
fn lists(of: ArrayRef) -> ArrayRef {
    let (mut lengths, mut left) = (Vec::new(), of.len());
    while left > 0 {
        let length = [0, 0, 1, 2, 3][lengths.len() % 5].min(left);
        lengths.push(length);
        left -= length;
    }
    let known: Vec<bool> = (0..lengths.len()).map(|row| row % 5 > 0).collect();
    let item = Arc::new(Field::new_list_field(of.data_type().clone(), true));
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), of, Some(NullBuffer::from(known))))
}

async fn check(table: &RecordBatch, group_rows: usize) {
    let found = read_content("x.parquet", encode_parquet(table, group_rows)).await.unwrap();
    assert_eq!(found, nullable(table));
}

#[tokio::test]
async fn embeddings_are_read_as_written() {
    for size in [768, 1_024, 1_536, 3_072, 4_096] {
        for missing in [0, 3] {
            let within = lists(embeddings(60, size, missing));
            let rows = within.len();
            let member = embeddings(rows, size, missing);
            let fields = vec![Field::new("embedding", member.data_type().clone(), true)];
            let table = RecordBatch::try_from_iter_with_nullable([
                ("id", Arc::new(Int64Array::from_iter_values(0..rows as i64)) as ArrayRef, false),
                ("fixed", embeddings(rows, size, missing), true),
                ("doubles", doubles(rows, size, missing), true),
                ("lists", within, true),
                ("within", Arc::new(StructArray::new(fields.into(), vec![member], None)), true),
            ]);
            check(&table.unwrap(), 16).await;
        }
    }
}

#[tokio::test]
async fn embeddings_are_read_batch_by_batch() {
    // 3,000 rows are 18 MB, whether or not they are there.
    for missing in [0, 2] {
        let table = RecordBatch::try_from_iter([("x", embeddings(3_000, 1_536, missing))]).unwrap();
        let store = store();
        let slice = put(&store, "x.parquet", encode_parquet(&table, 10_000)).await;
        let (_, found) = batches(&store, source(&[slice])).await.unwrap();
        assert!(found.len() > 2, "{}", found.len());
        check(&table, 10_000).await;
    }
}

#[tokio::test]
async fn lists_of_a_row_group_may_take_more_than_is_held() {
    // Were all items missing embeddings they would be 2 GB: the rows are looked at first.
    let within = lists(embeddings(250, 1_536, 7));
    let rows = within.len();
    let texts = (0..rows).map(|row| format!("text {}", row % 9));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
    let texts = ListArray::new(item, OffsetBuffer::from_lengths(vec![1; rows]), texts, None);
    let table = RecordBatch::try_from_iter([("x", within), ("texts", Arc::new(texts) as ArrayRef)]);
    check(&table.unwrap(), 10_000).await;
}

/// Lists of missing embeddings, so many in each row: levels, and no values.
fn missing_in_lists(rows: &[usize]) -> Vec<u8> {
    let embedding = DataType::FixedSizeList(Arc::new(Field::new_list_field(DataType::Float32, true)), 1_536);
    let schema = Schema::new(vec![Field::new("x", DataType::new_list(embedding, true), true)]);
    let mut properties = WriterProperties::builder().build();
    add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
    let message = "message m { optional group x (LIST) { repeated group list { optional group item (LIST) { \
                   repeated group list { optional float item; } } } } }";
    let schema = Arc::new(parse_message_type(message).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let ColumnWriter::FloatColumnWriter(floats) = column.untyped() else { panic!("another type") };
    let repetition: Vec<i16> =
        rows.iter().flat_map(|items| (0..*items).map(|item| i16::from(item > 0))).collect();
    floats.write_batch(&[], Some(&vec![2_i16; repetition.len()]), Some(&repetition)).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn what_few_bytes_say_is_missing_is_made_row_by_row() {
    // 1.2 GB in one row, and the same in many.
    let content = missing_in_lists(&[200_000]);
    assert!(content.len() < 64 << 10, "{}", content.len());
    problem("x.parquet", content, ErrorKind::DecodeLimit, &["the lists of a row", "1073741824"]).await;
    let store = store();
    let slice = put(&store, "x.parquet", missing_in_lists(&[500; 400])).await;
    let mut reader = TableReader::open(store, source(&[slice])).await.unwrap();
    for _ in 0..3 {
        let batch = reader.next().await.unwrap().unwrap();
        assert!((1..=2).contains(&batch.num_rows()), "{}", batch.num_rows());
        let lists = batch.column(0).as_list::<i32>();
        let embeddings = lists.value(0);
        assert_eq!((embeddings.len(), embeddings.null_count()), (500, 500));
    }
    // One that is held, and fits no batch.
    let content = missing_in_lists(&[3_000]);
    problem("x.parquet", content, ErrorKind::DecodeLimit, &["8388608", "a row must fit"]).await;
}

#[tokio::test]
async fn lists_are_given_as_declared() {
    // As rows of fixed size they are 65 MB, of which the file has next to nothing.
    let store = store();
    let given = |row: usize| (row == 1_999).then(|| vec![Some(0.5_f32); 4_096]);
    let x: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>((0..2_000).map(given)));
    let y = lists(Arc::clone(&x));
    let content = encode_parquet(&RecordBatch::try_from_iter([("x", x)]).unwrap(), 10_000);
    let slice = put(&store, "x.parquet", content).await;
    let declared = declare(&[("x", "FixedSizeList(4096 x Float64)", true)]);
    let found = read(&store, TableSource { declared, ..source(&[slice]) }).await.unwrap();
    assert_eq!((found.num_rows(), found.column(0).null_count()), (2_000, 1_999));
    let last = found.column(0).as_fixed_size_list().value(1_999);
    assert_eq!(last.as_primitive::<Float64Type>().values().to_vec(), vec![0.5; 4_096]);
    // And so in lists.
    let rows = y.len();
    let slice =
        put(&store, "y.parquet", encode_parquet(&RecordBatch::try_from_iter([("y", y)]).unwrap(), 10_000))
            .await;
    let declared = declare(&[("y", "List(FixedSizeList(4096 x Float64))", true)]);
    let found = read(&store, TableSource { declared, ..source(&[slice]) }).await.unwrap();
    let lists = found.column(0).as_list::<i32>();
    assert_eq!((lists.len(), lists.values().len(), lists.values().null_count()), (rows, 2_000, 1_999));
}

#[tokio::test]
async fn a_declared_column_that_is_nowhere_is_made_batch_by_batch() {
    let store = store();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5_000));
    let table = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let slice = put(&store, "x.parquet", encode_parquet(&table, 10_000)).await;
    let of = |data_type: &str| TableSource {
        schema: SchemaRule::Union,
        declared: declare(&[("id", "Int64", false), ("x", data_type, true)]),
        ..source(std::slice::from_ref(&slice))
    };
    // All of its rows are 5 GB.
    let mut reader = TableReader::open(store.clone(), of("FixedSizeBinary(1048576)")).await.unwrap();
    for _ in 0..3 {
        let batch = reader.next().await.unwrap().unwrap();
        assert!((1..8).contains(&batch.num_rows()), "{}", batch.num_rows());
        assert!(encode(&batch).unwrap().len() as u64 <= limits::BATCH_BYTES_MAX);
        assert_eq!(batch.column(1).null_count(), batch.num_rows());
    }
    let refused = TableReader::open(store.clone(), of("FixedSizeBinary(8388609)")).await;
    check_problem(refused, ErrorKind::SchemaMismatch, &["\"x\"", "8388608", "8388609"]);
}
