// SPDX-License-Identifier: Apache-2.0
//! Which columns come, what format an object has, and objects that are not as
//! they were.

use std::{io::Write, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, Decimal128Array, Float64Array, RecordBatch},
    datatypes::{DataType, Field, Schema},
    ipc::writer::FileWriter,
};
use fanfold_protocol::{
    ErrorKind,
    job::{Format, SchemaRule},
    stored::SAMPLE_BYTES,
};
use fanfold_runtime::tables::{TableReader, TableSource};
use fanfold_storage::PutOptions;
use flate2::{Compression, write::GzEncoder};

use crate::support::*;

#[tokio::test]
async fn columns_come_in_the_wanted_order() {
    let store = store();
    let slice = put(&store, "x.csv", "a,b,c\n1,x,true\n").await;
    let reading = |columns, declared| {
        let mut source = source(std::slice::from_ref(&slice));
        (source.columns, source.declared) = (columns, declared);
        read(&store, source)
    };
    let check = |batch: RecordBatch, expected: &[&str]| assert_eq!(types(&batch), expected);
    check(reading(None, None).await.unwrap(), &["a Int64", "b Utf8", "c Boolean"]);
    check(reading(names(&["c", "a"]), None).await.unwrap(), &["c Boolean", "a Int64"]);
    let declared = declare(&[("b", "Utf8", true), ("a", "Float64", true)]);
    check(reading(None, declared.clone()).await.unwrap(), &["b Utf8", "a Float64"]);
    check(
        reading(names(&["a", "c", "b"]), declared.clone()).await.unwrap(),
        &["a Float64", "c Boolean", "b Utf8"],
    );
    check_problem(reading(names(&["a"]), declared).await, ErrorKind::ColumnNotFound, &["\"b\""]);
    check_problem(
        reading(names(&["a", "x"]), None).await,
        ErrorKind::ColumnNotFound,
        &["\"x\"", "\"a\", \"b\", \"c\""],
    );
    check_problem(reading(names(&["a", "a"]), None).await, ErrorKind::SchemaMismatch, &["\"a\" twice"]);
    check_problem(
        reading(None, declare(&[("a", "Number", true)])).await,
        ErrorKind::SchemaMismatch,
        &["\"Number\""],
    );
    let none = reading(names(&[]), None).await.unwrap();
    assert_eq!((none.num_rows(), none.num_columns()), (1, 0));
}

#[tokio::test]
async fn a_name_that_means_two_columns_is_refused_where_it_is_wanted() {
    let store = store();
    let field = |name: &str| Field::new(name, DataType::Float64, true);
    let schema = Arc::new(Schema::new(vec![field("a"), field("b"), field("a")]));
    let values = |value: f64| -> ArrayRef { Arc::new(Float64Array::from(vec![value])) };
    let batch = RecordBatch::try_new(schema, vec![values(1.0), values(2.0), values(3.0)]).unwrap();
    let mut writer = FileWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
    writer.write(&batch).unwrap();
    let slice = put(&store, "x.arrow", writer.into_inner().unwrap()).await;
    let reading = |columns, declared| {
        let mut source = source(std::slice::from_ref(&slice));
        (source.columns, source.declared) = (columns, declared);
        read(&store, source)
    };
    let declared = declare(&[("a", "Float64", true)]);
    for (columns, declared) in [(None, None), (names(&["b", "a"]), None), (None, declared)] {
        let found = reading(columns, declared).await;
        check_problem(found, ErrorKind::SchemaMismatch, &["column \"a\" twice"]);
    }
    assert_eq!(rows(&reading(names(&["b"]), None).await.unwrap()), ["2.0"]);
}

#[tokio::test]
async fn many_columns_are_cut_in_a_message() {
    let header: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
    let store = store();
    let slice = put(&store, "x.csv", header.join(",")).await;
    let mut source = source(&[slice]);
    source.columns = names(&["x"]);
    check_problem(read(&store, source).await, ErrorKind::ColumnNotFound, &["\"c19\" and 30 more"]);
}

#[tokio::test]
async fn casts_lose_nothing() {
    let store = store();
    let schema = Arc::new(Schema::new(vec![Field::new("f", DataType::Float64, false)]));
    let floats =
        RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(vec![1.0, 2.0, 2.5]))]).unwrap();
    let slice = put(&store, "x.parquet", crate::parquet_files::encode_parquet(&floats, 2)).await;
    let reading = |data_type| {
        let mut source = source(std::slice::from_ref(&slice));
        source.declared = declare(&[("f", data_type, true)]);
        read(&store, source)
    };
    check_problem(reading("Int32").await, ErrorKind::ValueMismatch, &["\"f\"", "row 3", "\"2.5\"", "Int32"]);
    check_problem(reading("List(Int32)").await, ErrorKind::SchemaMismatch, &["\"f\"", "Float64"]);
    assert_eq!(rows(&reading("Utf8").await.unwrap()), ["1.0", "2.0", "2.5"]);
    let prices = Decimal128Array::from(vec![100, 250]).with_precision_and_scale(9, 2).unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("f", prices.data_type().clone(), false)]));
    let prices = RecordBatch::try_new(schema, vec![Arc::new(prices)]).unwrap();
    let slice = put(&store, "x.parquet", crate::parquet_files::encode_parquet(&prices, 2)).await;
    let mut whole = source(&[slice]);
    whole.declared = declare(&[("f", "Int64", true)]);
    check_problem(read(&store, whole).await, ErrorKind::ValueMismatch, &["\"f\"", "row 2", "\"2.50\""]);
}

#[tokio::test]
async fn formats_are_told() {
    for (name, content) in [("x", "a,b\n1,2\n"), ("x.txt", "{\"a\":1,\"b\":2}\n"), ("x.csv", "a,b\n1,2\n")] {
        assert_eq!(rows(&read_content(name, content).await.unwrap()), ["1|2"], "{name}");
    }
    problem("x", "just words", ErrorKind::FormatUnknown, &["6a 75 73 74"]).await;
    problem("x.json", "[{\"a\":1,\"b\":2}]", ErrorKind::FormatUnknown, &["array of JSON", "JSON Lines"])
        .await;
    problem("x.bin", vec![0, 1, 2], ErrorKind::FormatUnknown, &["00 01 02"]).await;
    problem("x.parquet", "a,b\n1,2\n", ErrorKind::ParquetCorrupt, &["PAR1"]).await;
    problem("x.arrow", "a,b\n1,2\n", ErrorKind::ArrowCorrupt, &[]).await;
    problem("x.parquet", "", ErrorKind::EmptyObject, &[]).await;
}

#[tokio::test]
async fn objects_that_are_not_read_are_rows() {
    let store = store();
    let slices = [put(&store, "x", "abc").await, put(&store, "y", "").await];
    let mut whole = source(&slices);
    whole.format = Format::Bytes;
    let batch = read(&store, whole.clone()).await.unwrap();
    assert_eq!(types(&batch), ["uri Utf8", "size UInt64", "etag Utf8"]);
    let row = |n: usize| format!("{}|{}|{}", slices[n].object.uri, [3, 0][n], slices[n].object.pin.etag);
    assert_eq!(rows(&batch), [row(0), row(1)]);
    whole.columns = names(&["size"]);
    assert_eq!(rows(&read(&store, whole).await.unwrap()), ["3", "0"]);
}

#[tokio::test]
async fn an_object_must_be_as_it_was() {
    let store = store();
    check_problem(read(&store, source(&[])).await, ErrorKind::InputEmpty, &[]);
    for name in ["x.csv", "x.parquet", "x.arrow"] {
        let slice = put(&store, name, "a,b\n1,2\n").await;
        store.put(&slice.object.uri, "a,b\n3,4\n".into(), PutOptions::default()).await.unwrap();
        let uri = slice.object.uri.to_string();
        let found = TableReader::open(store.clone(), source(std::slice::from_ref(&slice))).await;
        check_problem(found, ErrorKind::ObjectChanged, &[&uri]);
        store.delete(&slice.object.uri).await.unwrap();
        let found = TableReader::open(store.clone(), source(&[slice])).await;
        check_problem(found, ErrorKind::ObjectNotFound, &[&uri]);
    }
}

/// As writers of many parts leave it where there were no rows for one.
#[tokio::test]
async fn text_without_a_record_has_no_rows_where_it_need_not_tell_its_columns() {
    let store = store();
    let gzip = |text: &str| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    for (name, text) in [("csv", "a,b\n1,x\n"), ("jsonl", "{\"a\":1,\"b\":\"x\"}\n")] {
        let good = put(&store, &format!("good.{name}"), text).await;
        for nothing in ["\n", "\u{feff}", "\r\n\n"] {
            let plain = put(&store, &format!("nothing.{name}"), nothing).await;
            let packed = put(&store, &format!("nothing.{name}.gz"), gzip(nothing)).await;
            for blank in [plain, packed, put(&store, &format!("no.{name}.gz"), gzip("")).await] {
                let told = source(&[good.clone(), blank.clone(), good.clone()]);
                let united = TableSource { schema: SchemaRule::Union, ..told.clone() };
                for source in [told, united] {
                    let batch = read(&store, source).await.unwrap();
                    assert_eq!(types(&batch), ["a Int64", "b Utf8"], "{name} {nothing:?}");
                    assert_eq!(rows(&batch), ["1|x", "1|x"], "{name} {nothing:?}");
                }
                let declared = declare(&[("a", "Float64", false), ("b", "Utf8", true)]);
                for (slices, expected) in [(vec![blank.clone(), good.clone()], 1), (vec![blank.clone()], 0)] {
                    let source = TableSource { declared: declared.clone(), ..source(&slices) };
                    let batch = read(&store, source).await.unwrap();
                    assert_eq!(types(&batch), ["a Float64", "b Utf8"], "{name} {nothing:?}");
                    assert_eq!(batch.num_rows(), expected, "{name} {nothing:?}");
                }
                let uri = blank.object.uri.to_string();
                check_problem(read(&store, source(&[blank])).await, ErrorKind::EmptyObject, &[&uri]);
            }
        }
    }
}

#[tokio::test]
async fn blank_lines_as_long_as_a_sample_hide_no_rows() {
    let store = store();
    let late = format!("{}{{\"a\":2}}\n", "\n".repeat(SAMPLE_BYTES + 1));
    let late = put(&store, "late.jsonl", late).await;
    let good = put(&store, "good.jsonl", "{\"a\":1}\n").await;
    let told = read(&store, source(&[good, late.clone()])).await.unwrap();
    assert_eq!(rows(&told), ["1", "2"]);
    let declared = declare(&[("a", "Int64", true)]);
    let declared =
        read(&store, TableSource { declared, ..source(std::slice::from_ref(&late)) }).await.unwrap();
    assert_eq!(rows(&declared), ["2"]);
    let uri = late.object.uri.to_string();
    check_problem(
        read(&store, source(&[late])).await,
        ErrorKind::SchemaMismatch,
        &[&uri, "name the columns"],
    );
}
