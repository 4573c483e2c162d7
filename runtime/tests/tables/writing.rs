// SPDX-License-Identifier: Apache-2.0
//! Writers: what is written reads back, and nothing shows before its time.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryArray, Float64Array, Int64Array, NullArray, RecordBatch, StringArray, StructArray,
    },
    datatypes::{DataType, Field, Schema},
};
use fanfold_protocol::{ErrorKind, commit::OutputObject, job::Format, plan::Slice, uri::PinnedObject};
use fanfold_runtime::tables::TableWriter;
use fanfold_storage::{Error, Store};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{parquet_files::mixed, support::*};

const FORMATS: [Format; 4] = [Format::Parquet, Format::Csv, Format::Jsonl, Format::Arrow];

async fn write(store: &Store, format: Format, batches: &[RecordBatch]) -> Option<OutputObject> {
    let uri = uri(&format!("x.{}", format.extension()));
    let mut writer = TableWriter::create(store.clone(), uri.clone(), format, "attempt-1", 0).unwrap();
    for batch in batches {
        writer.write(batch).await.unwrap();
        assert!(matches!(store.head(&uri).await, Err(Error::NotFound { .. })));
    }
    let object = writer.finish().await.unwrap();
    if let Some(object) = &object {
        let meta = store.head(&uri).await.unwrap();
        assert_eq!((&object.uri, object.size, &object.etag), (&uri, meta.pin.size, &meta.pin.etag));
        assert_eq!(object.rows, batches.iter().map(|b| b.num_rows() as u64).sum::<u64>());
    }
    object
}

async fn slice(store: &Store, object: &OutputObject) -> Slice {
    let pin = store.head(&object.uri).await.unwrap().pin;
    Slice { object: PinnedObject { uri: object.uri.clone(), pin }, bytes: None, row_groups: None }
}

/// The columns that the format can hold.
fn table(format: Format, rows: usize) -> RecordBatch {
    let all = mixed(rows);
    if format == Format::Csv { all.project(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap() } else { all }
}

#[tokio::test]
async fn what_is_written_reads_back() {
    let store = store();
    for format in FORMATS {
        let table = table(format, 5_000);
        let parts = [table.slice(0, 1_234), table.slice(1_234, 3_766)];
        let object = write(&store, format, &parts).await.unwrap();
        let mut source = source(&[slice(&store, &object).await]);
        let columns: Vec<_> = table
            .schema()
            .fields()
            .iter()
            .map(|f| (f.name().clone(), f.data_type().to_string(), f.is_nullable()))
            .collect();
        let columns: Vec<_> = columns.iter().map(|(n, t, null)| (n.as_str(), t.as_str(), *null)).collect();
        source.declared = declare(&columns);
        assert_eq!(read(&store, source).await.unwrap(), table, "{format:?}");
    }
}

#[tokio::test]
async fn equal_tables_are_equal_bytes() {
    let store = store();
    for format in FORMATS {
        let table = table(format, 3_000);
        // A guest's own metadata, which has no order, stays outside.
        let marked = Schema::clone(&table.schema())
            .with_metadata((0..9).map(|n| (n.to_string(), "x".to_owned())).collect::<HashMap<_, _>>());
        let marked = RecordBatch::try_new(Arc::new(marked), table.columns().to_vec()).unwrap();
        let first = write(&store, format, &[table]).await.unwrap();
        let second = write(&store, format, &[marked]).await.unwrap();
        let content = store.get(&first.uri, None).await.unwrap();
        assert_eq!(content, store.get(&second.uri, None).await.unwrap(), "{format:?}");
        assert_eq!(first.etag, second.etag);
    }
}

#[tokio::test]
async fn tables_without_rows_and_no_tables() {
    let store = store();
    for format in FORMATS {
        assert_eq!(write(&store, format, &[]).await, None);
        let empty = table(format, 1).slice(0, 0);
        match write(&store, format, std::slice::from_ref(&empty)).await {
            Some(object) => {
                let found = read(&store, source(&[slice(&store, &object).await])).await.unwrap();
                assert_eq!((found.num_rows(), found.num_columns()), (0, empty.num_columns()));
            }
            None => assert_eq!(format, Format::Jsonl),
        }
    }
}

#[tokio::test]
async fn csv_is_written_as_the_rfc_has_it() {
    let store = store();
    let table = RecordBatch::try_from_iter([
        (
            "a,b",
            Arc::new(StringArray::from(vec![Some("x,\"y\"\r\n"), Some(""), Some("NA"), None])) as ArrayRef,
        ),
        ("n", Arc::new(Float64Array::from(vec![Some(1.5), Some(-2.0), Some(1e300), None]))),
    ]);
    let table = table.unwrap();
    let object = write(&store, Format::Csv, std::slice::from_ref(&table)).await.unwrap();
    let content = store.get(&object.uri, None).await.unwrap();
    assert_eq!(
        content,
        "\"a,b\",n\r\n\"x,\"\"y\"\"\r\n\",1.5\r\n\"\",-2.0\r\n\"NA\",1e300\r\n,\r\n".as_bytes()
    );
    assert_eq!(read(&store, source(&[slice(&store, &object).await])).await.unwrap(), nullable(&table));
    let single = RecordBatch::try_from_iter([(
        "s",
        Arc::new(StringArray::from(vec![None, Some("null")])) as ArrayRef,
    )]);
    let single = single.unwrap();
    let object = write(&store, Format::Csv, std::slice::from_ref(&single)).await.unwrap();
    assert_eq!(read(&store, source(&[slice(&store, &object).await])).await.unwrap(), single);
}

#[tokio::test]
async fn parquet_says_who_wrote_it_as_its_specification_has_it() {
    let store = store();
    let object = write(&store, Format::Parquet, &[table(Format::Parquet, 1)]).await.unwrap();
    let content = store.get(&object.uri, None).await.unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(content).unwrap();
    let written_by = reader.metadata().file_metadata().created_by().unwrap();
    assert_eq!(written_by, "fanfold version 1.0.0 (build 1)");
}

#[tokio::test]
async fn csv_keeps_names_of_columns_that_begin_with_a_byte_order_mark() {
    let store = store();
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let table = RecordBatch::try_from_iter_with_nullable([("\u{feff}id", numbers, true)]).unwrap();
    let object = write(&store, Format::Csv, std::slice::from_ref(&table)).await.unwrap();
    assert_eq!(read(&store, source(&[slice(&store, &object).await])).await.unwrap(), table);
}

#[tokio::test]
async fn csv_keeps_rows_and_values_of_which_nothing_is_to_be_seen() {
    let store = store();
    let nulls: ArrayRef = Arc::new(NullArray::new(3));
    let alone = RecordBatch::try_from_iter_with_nullable([("a", Arc::clone(&nulls), true)]).unwrap();
    let bytes: ArrayRef =
        Arc::new(BinaryArray::from_opt_vec(vec![Some(&b"\x0a\xff"[..]), Some(&b""[..]), None]));
    let beside = RecordBatch::try_from_iter_with_nullable([("a", nulls, true), ("b", bytes, true)]).unwrap();
    for (table, expected) in
        [(alone, "a\r\nnull\r\nnull\r\nnull\r\n"), (beside, "a,b\r\n,0aff\r\n,\"\"\r\n,\r\n")]
    {
        let object = write(&store, Format::Csv, std::slice::from_ref(&table)).await.unwrap();
        assert_eq!(store.get(&object.uri, None).await.unwrap(), expected.as_bytes());
        let found = read(&store, source(&[slice(&store, &object).await])).await.unwrap();
        assert_eq!(found.num_rows(), 3, "{expected}");
    }
}

#[tokio::test]
async fn large_tables_go_up_in_parts() {
    let store = store();
    for format in FORMATS {
        let parts: Vec<_> = (0..20).map(|_| table(format, 40_000)).collect();
        let object = write(&store, format, &parts).await.unwrap();
        let (_, found) = batches(&store, source(&[slice(&store, &object).await])).await.unwrap();
        assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), 800_000, "{format:?}");
        assert!(object.size > 8 << 20 || format == Format::Parquet, "{format:?} {}", object.size);
    }
}

#[tokio::test]
async fn text_is_the_same_in_pieces_and_whole() {
    let store = store();
    for format in [Format::Csv, Format::Jsonl] {
        let whole = table(format, 200_000);
        let parts: Vec<_> = (0..100).map(|n| whole.slice(n * 2_000, 2_000)).collect();
        let (whole, parts) = (write(&store, format, &[whole]).await, write(&store, format, &parts).await);
        let (whole, parts) = (whole.unwrap(), parts.unwrap());
        assert!(whole.size > 8 << 20, "{format:?} {}", whole.size);
        let content = store.get(&whole.uri, None).await.unwrap();
        assert!(content == store.get(&parts.uri, None).await.unwrap(), "{format:?}");
    }
}

#[tokio::test]
async fn rows_without_bytes_are_written_out() {
    let store = store();
    let (name, rows) = ("n".repeat(1_000), 50_000);
    let nulls: ArrayRef = Arc::new(NullArray::new(rows));
    let nulls = RecordBatch::try_from_iter_with_nullable([(name, nulls, true)]).unwrap();
    let object = write(&store, Format::Jsonl, std::slice::from_ref(&nulls)).await.unwrap();
    // {"…":null} and the end of the line.
    assert_eq!(object.size, rows as u64 * (1_000 + 10));
}

#[tokio::test]
async fn columns_are_bounded() {
    let store = store();
    let write = async |batch: &RecordBatch| {
        TableWriter::create(store.clone(), uri("x"), Format::Arrow, "attempt-1", 0)
            .unwrap()
            .write(batch)
            .await
    };
    let nulls: ArrayRef = Arc::new(NullArray::new(1));
    let named = |bytes: usize| {
        let inner = Arc::new(Field::new("x".repeat(bytes), DataType::Null, true));
        let column: ArrayRef = Arc::new(StructArray::from(vec![(inner, Arc::clone(&nulls))]));
        RecordBatch::try_from_iter([("a", column)]).unwrap()
    };
    write(&named(1_024)).await.unwrap();
    check_problem(
        write(&named(1_025)).await,
        ErrorKind::SchemaMismatch,
        &["at most 1024 bytes", "found 1025"],
    );
    let many = (0..10_001).map(|n| (n.to_string(), Arc::clone(&nulls)));
    let many = RecordBatch::try_from_iter(many).unwrap();
    check_problem(write(&many).await, ErrorKind::SchemaMismatch, &["10000 columns", "found 10001"]);
}

#[tokio::test]
async fn what_cannot_be_written_is_told() {
    let store = store();
    let writer = |format| TableWriter::create(store.clone(), uri("x"), format, "attempt-1", 0);
    check_problem(writer(Format::Bytes), ErrorKind::InvalidRequest, &["bytes"]);
    let found = writer(Format::Csv).unwrap().write(&mixed(1)).await;
    check_problem(found, ErrorKind::SchemaMismatch, &["\"list\"", "CSV"]);
    let rows_of_nothing = mixed(3).project(&[]).unwrap();
    for (format, fits) in FORMATS.into_iter().zip([false, false, true, true]) {
        let found = writer(format).unwrap().write(&rows_of_nothing).await;
        match fits {
            true => found.unwrap(),
            false => check_problem(found, ErrorKind::SchemaMismatch, &["a column at least", "s3://"]),
        }
    }
    let numbers =
        |name| RecordBatch::try_from_iter([(name, Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    let mut writing = writer(Format::Parquet).unwrap();
    writing.write(&numbers("a")).await.unwrap();
    check_problem(
        writing.write(&numbers("b")).await,
        ErrorKind::SchemaMismatch,
        &["column 1", "\"b\"", "\"a\""],
    );
    check_problem(writing.write(&mixed(1)).await, ErrorKind::SchemaMismatch, &["\"id\""]);
}

#[tokio::test]
async fn an_aborted_table_leaves_nothing() {
    let store = store();
    for drop_only in [false, true] {
        let uri = uri("x.csv");
        let mut writer =
            TableWriter::create(store.clone(), uri.clone(), Format::Csv, "attempt-1", 0).unwrap();
        for _ in 0..10 {
            writer.write(&table(Format::Csv, 40_000)).await.unwrap();
        }
        if drop_only {
            drop(writer)
        } else {
            writer.abort().await
        }
        assert!(matches!(store.head(&uri).await, Err(Error::NotFound { .. })));
    }
}
