// SPDX-License-Identifier: Apache-2.0
//! Parquet: types, row groups, bounds, damage.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
        Int32Array, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray,
        StructArray, TimestampMicrosecondArray, UInt8Array,
    },
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema},
};
use fanfold_protocol::{ErrorKind, job::Format, plan::Slice};
use fanfold_runtime::tables::TableReader;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    column::writer::ColumnWriter,
    data_type::Int96,
    file::{
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};

use crate::support::*;

pub fn encode_with(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build())).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

pub fn encode_parquet(batch: &RecordBatch, group_rows: usize) -> Vec<u8> {
    encode_with(batch, WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)))
}

/// With pages of so many rows, and an index of them.
pub fn encode_pages(batch: &RecordBatch, group_rows: usize, page_rows: usize) -> Vec<u8> {
    encode_with(batch, paged(group_rows, page_rows))
}

pub fn paged(group_rows: usize, page_rows: usize) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_write_batch_size(page_rows)
        .set_data_page_row_count_limit(page_rows)
}

/// With statistics of row groups only.
pub fn encode_without_index(batch: &RecordBatch, group_rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    encode_with(batch, properties)
}

/// A column of every kind, with a missing value in most.
pub fn mixed(rows: usize) -> RecordBatch {
    let n = 0..rows as i64;
    let text = |i: i64| format!("text {}", i % 7);
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(
        n.clone().map(|i| (i % 5 != 0).then(|| (0..i % 4).map(|v| Some(v as i32)))),
    );
    let inner: ArrayRef = Arc::new(StringArray::from_iter_values(n.clone().map(text)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(n.clone()))),
        ("small", Arc::new(UInt8Array::from_iter(n.clone().map(|i| (i % 3 != 0).then_some(i as u8))))),
        (
            "float",
            Arc::new(Float64Array::from_iter(n.clone().map(|i| (i % 4 != 0).then_some(i as f64 / 8.0)))),
        ),
        ("flag", Arc::new(BooleanArray::from_iter(n.clone().map(|i| (i % 5 != 0).then_some(i % 2 == 0))))),
        ("text", Arc::new(StringArray::from_iter(n.clone().map(|i| (i % 6 != 0).then(|| text(i)))))),
        ("date", Arc::new(Date32Array::from_iter_values(n.clone().map(|i| i as i32)))),
        ("time", Arc::new(TimestampMicrosecondArray::from_iter_values(n.clone()).with_timezone("UTC"))),
        (
            "money",
            Arc::new(
                Decimal128Array::from_iter_values(n.map(i128::from)).with_precision_and_scale(20, 2).unwrap(),
            ),
        ),
        ("list", Arc::new(list)),
        (
            "struct",
            Arc::new(StructArray::from(vec![(Arc::new(Field::new("s", DataType::Utf8, false)), inner)])),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test]
async fn tables_are_read_as_written() {
    let store = store();
    let table = mixed(10_000);
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::BROTLI(Default::default()),
            Compression::LZ4_RAW,
            Compression::ZSTD(ZstdLevel::try_new(1).unwrap()),
        ] {
            let properties = WriterProperties::builder()
                .set_writer_version(version)
                .set_compression(compression)
                .set_max_row_group_row_count(Some(3_000));
            let slice = put(&store, "x.parquet", encode_with(&table, properties)).await;
            let found = read(&store, source(&[slice])).await.unwrap();
            assert_eq!(found, nullable(&table), "{version:?} {compression:?}");
        }
    }
}

#[tokio::test]
async fn large_files_are_read_by_ranges() {
    let store = store();
    let table = mixed(400_000);
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(90_000));
    let slice = put(&store, "x.parquet", encode_with(&table, properties)).await;
    assert!(slice.object.pin.size > 16 << 20);
    assert_eq!(read(&store, source(std::slice::from_ref(&slice))).await.unwrap(), nullable(&table));
    // One column is less to read than all of them.
    let meter = fanfold_storage::Meter::new();
    let metered = store.with_meter(meter.clone());
    let mut narrow = source(std::slice::from_ref(&slice));
    narrow.columns = names(&["date"]);
    let dates = read(&metered, narrow).await.unwrap();
    assert_eq!((dates.num_rows(), dates.num_columns()), (400_000, 1));
    let usage = meter.usage();
    assert!(usage.bytes_read < slice.object.pin.size / 8 && usage.requests <= 6, "{usage:?}");
}

#[tokio::test]
async fn small_row_groups_are_fetched_together() {
    let store = store();
    let table = mixed(400_000);
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(10_000));
    let slice = put(&store, "x.parquet", encode_with(&table, properties)).await;
    assert!(slice.object.pin.size > 16 << 20);
    let meter = fanfold_storage::Meter::new();
    let found = read(&store.with_meter(meter.clone()), source(std::slice::from_ref(&slice))).await.unwrap();
    assert_eq!(found, nullable(&table));
    // The footer, the first of 40 groups, and the others some at a time.
    let usage = meter.usage();
    assert!(usage.requests <= 2 + slice.object.pin.size.div_ceil(7 << 20), "{usage:?}");
    // What is left out between them is no reason to fetch it.
    let chosen = Slice { row_groups: Some((0..40).step_by(13).collect()), ..slice.clone() };
    let meter = fanfold_storage::Meter::new();
    let found = read(&store.with_meter(meter.clone()), source(&[chosen])).await.unwrap();
    assert_eq!(found.num_rows(), 40_000);
    assert!(meter.usage().bytes_read < slice.object.pin.size / 5, "{:?}", meter.usage());
}

#[tokio::test]
async fn row_groups_are_chosen() {
    let store = store();
    let table = mixed(1_000);
    let slice = put(&store, "x.parquet", encode_parquet(&table, 100)).await;
    let chosen = |groups: &[u32]| Slice { row_groups: Some(groups.to_vec()), ..slice.clone() };
    let found = read(&store, source(&[chosen(&[3, 7]), chosen(&[9])])).await.unwrap();
    let ids = found.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(ids, [300..400, 700..800, 900..1_000].into_iter().flatten().collect::<Vec<i64>>());
    assert_eq!(read(&store, source(&[chosen(&[])])).await.unwrap().num_rows(), 0);
    check_problem(
        read(&store, source(&[chosen(&[10])])).await,
        ErrorKind::InvalidJob,
        &["10 row groups", "row group 10"],
    );
    // Rows are counted from the object's start.
    let mut required = source(&[chosen(&[3])]);
    required.declared = declare(&[("text", "Utf8", false)]);
    check_problem(read(&store, required).await, ErrorKind::NullValue, &["\"text\"", "row 301"]);
}

#[tokio::test]
async fn several_files_are_one_table() {
    let store = store();
    let table = mixed(600);
    let mut slices = Vec::new();
    for part in 0..30 {
        slices.push(put(&store, "x.parquet", encode_parquet(&table.slice(part * 20, 20), 7)).await);
    }
    let (_, found) = batches(&store, source(&slices)).await.unwrap();
    assert_eq!(found, [nullable(&table)]);
    let other =
        RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    let other = put(&store, "y.parquet", encode_parquet(&other, 7)).await;
    let uri = other.object.uri.to_string();
    let mut both = source(&[slices[0].clone(), other]);
    check_problem(read(&store, both.clone()).await, ErrorKind::SchemaMismatch, &["only one of", &uri]);
    both.columns = names(&["id"]);
    check_problem(
        read(&store, both.clone()).await,
        ErrorKind::SchemaMismatch,
        &["\"id\"", "Int64", "Utf8", &uri],
    );
    both.declared = declare(&[("id", "Utf8", false)]);
    assert_eq!(read(&store, both).await.unwrap().num_rows(), 21);
}

#[tokio::test]
async fn types_are_made_plain() {
    let keys = Int32Array::from(vec![Some(1), None, Some(0)]);
    let values: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let table = RecordBatch::try_from_iter([
        ("dictionary", Arc::new(DictionaryArray::new(keys, values)) as ArrayRef),
        (
            "view",
            Arc::new(StringViewArray::from(vec![Some("a long text that is not inlined"), None, Some("b")])),
        ),
        ("large", Arc::new(LargeStringArray::from(vec!["p", "q", "r"]))),
    ]);
    let found = read_content("x.parquet", encode_parquet(&table.unwrap(), 2)).await.unwrap();
    assert_eq!(types(&found), ["dictionary Utf8", "view Utf8", "large Utf8"]);
    assert_eq!(rows(&found), ["y|a long text that is not inlined|p", "∅|∅|q", "x|b|r"]);
}

/// As Spark and Hive wrote timestamps, among others of nanoseconds: Julian days, and
/// nanoseconds of the day.
fn encode_int96(values: &[(u32, u64)]) -> Vec<u8> {
    let schema = parse_message_type(
        "message m {
            required int64 n (TIMESTAMP(NANOS,false));
            required group s { required int64 n (TIMESTAMP(NANOS,false)); required int96 t; }
            required int96 t;
        }",
    );
    let day = |(day, nanos): &(u32, u64)| Int96::from(vec![*nanos as u32, (nanos >> 32) as u32, *day]);
    let (days, nanos) = (values.iter().map(day).collect::<Vec<_>>(), vec![7; values.len()]);
    let schema = Arc::new(schema.unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    while let Some(mut column) = group.next_column().unwrap() {
        let written = match column.untyped() {
            ColumnWriter::Int96ColumnWriter(column) => column.write_batch(&days, None, None),
            ColumnWriter::Int64ColumnWriter(column) => column.write_batch(&nanos, None, None),
            _ => panic!("a column of another type"),
        };
        assert_eq!(written.unwrap(), values.len());
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn timestamps_of_old_writers_reach_every_year() {
    let content = encode_int96(&[(1_721_426, 0), (2_440_588, 1_500), (5_373_484, 86_399_999_999_999)]);
    let store = store();
    let slice = put(&store, "x.parquet", content).await;
    let found = read(&store, source(std::slice::from_ref(&slice))).await.unwrap();
    let types = types(&found);
    assert_eq!((types[0].as_str(), types[2].as_str()), ("n Timestamp(ns)", "t Timestamp(µs)"));
    let expected = ["0001-01-01T00:00:00", "1970-01-01T00:00:00.000001", "9999-12-31T23:59:59.999999"];
    for (row, day) in rows(&found).iter().zip(expected) {
        let seven = "1970-01-01T00:00:00.000000007";
        assert_eq!(row, &format!("{seven}|{{n: {seven}, t: {day}}}|{day}"));
    }
    let mut late = source(std::slice::from_ref(&slice));
    late.filter = Some("t > timestamp '9000-01-01 00:00:00'".to_owned());
    late.columns = names(&["t"]);
    assert_eq!(rows(&read(&store, late).await.unwrap()), expected[2..]);
    let mut fine = source(&[slice]);
    fine.declared = declare(&[("t", "Timestamp(Nanosecond, None)", true)]);
    check_problem(read(&store, fine).await, ErrorKind::ValueMismatch, &["\"t\"", "row 1"]);
}

#[tokio::test]
async fn batches_are_bounded_whatever_rows_weigh() {
    let store = store();
    // Heavy rows, then light ones: 20 of 1 MiB, and 300,000 of 1 byte.
    let heavy = (0..20).map(|_| "x".repeat(1 << 20));
    let light = (0..300_000).map(|_| "y".to_owned());
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(heavy.chain(light)));
    let table = RecordBatch::try_from_iter([("text", text)]).unwrap();
    let slice = put(&store, "x.parquet", encode_parquet(&table, 1 << 20)).await;
    let (schema, found) = batches(&store, source(&[slice])).await.unwrap();
    assert!(found.len() < 25, "{}", found.len());
    assert_eq!(arrow::compute::concat_batches(&schema, &found).unwrap(), nullable(&table));
    // A row that fits no batch.
    let huge: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(9 << 20)]));
    let huge = RecordBatch::try_from_iter([("text", huge)]).unwrap();
    problem("x.parquet", encode_parquet(&huge, 1), ErrorKind::DecodeLimit, &["8388608"]).await;
}

#[tokio::test]
async fn a_dictionary_of_one_huge_value_does_not_expand() {
    // 2,000 rows that all name 1 MiB: 2 GiB if it were written out.
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(1 << 20)]));
    let dictionary = DictionaryArray::new(Int32Array::from(vec![0; 2_000]), text);
    let table = RecordBatch::try_from_iter([("text", Arc::new(dictionary) as ArrayRef)]).unwrap();
    let store = store();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_dictionary_page_size_limit(16 << 20);
    let content = encode_with(&table, properties);
    assert!(content.len() < 1 << 20, "{}", content.len());
    let slice = put(&store, "x.parquet", content).await;
    let mut reader = TableReader::open(store, source(&[slice])).await.unwrap();
    for _ in 0..20 {
        let batch = reader.next().await.unwrap().unwrap();
        assert!((1..=7).contains(&batch.num_rows()));
    }
}

#[tokio::test]
async fn pages_that_are_too_large_are_refused() {
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 9 << 20]));
    let table = RecordBatch::try_from_iter([("zeros", zeros)]).unwrap();
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).unwrap());
    let plain = WriterProperties::builder()
        .set_compression(zstd)
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN);
    let page = plain.clone().set_data_page_size_limit(1 << 30).set_data_page_row_count_limit(1 << 30);
    let page = page.set_write_batch_size(1 << 30).set_max_row_group_row_count(None);
    let words = ["\"zeros\"", "row group 0", "byte 4", "67108864"];
    problem("x.parquet", encode_with(&table, page), ErrorKind::DecodeLimit, &words).await;
    // Many small pages that decompress to more than 200 times their bytes.
    problem("x.parquet", encode_with(&table, plain), ErrorKind::DecodeLimit, &["\"zeros\"", "200"]).await;
}

#[tokio::test]
async fn wide_tables_are_read() {
    let column = |n: i64| (format!("c{n}"), Arc::new(Int64Array::from(vec![n, -n])) as ArrayRef);
    let table = RecordBatch::try_from_iter((0..3_000).map(column)).unwrap();
    let store = store();
    let slice = put(&store, "x.parquet", encode_parquet(&table, 1)).await;
    assert_eq!(read(&store, source(std::slice::from_ref(&slice))).await.unwrap(), nullable(&table));
    let mut narrow = source(&[slice]);
    narrow.columns = names(&["c2999", "c0"]);
    assert_eq!(rows(&read(&store, narrow).await.unwrap()), ["2999|0", "-2999|0"]);
}

#[tokio::test]
async fn damage_is_told() {
    let store = store();
    let table = mixed(2_000);
    let content = encode_parquet(&table, 1_000);
    let words = ["PAR1", "truncated"];
    problem("x.parquet", content[..content.len() - 1].to_vec(), ErrorKind::ParquetCorrupt, &words).await;
    problem("x.parquet", content[..3].to_vec(), ErrorKind::ParquetCorrupt, &["only 3 bytes"]).await;
    // The footer is sound, the middle is missing.
    let mut holed = content[..1_000].to_vec();
    holed.extend_from_slice(&content[content.len() - 6_000..]);
    problem("x.parquet", holed, ErrorKind::ParquetCorrupt, &["row group"]).await;
    // The header of the first page; values that are not compressed cannot be told from zeros.
    let mut zeroed = content.clone();
    zeroed[4..40].fill(0);
    problem("x.parquet", zeroed, ErrorKind::ParquetCorrupt, &["row group 0"]).await;
    let mut length = content.clone();
    let at = length.len() - 8;
    length[at..at + 4].fill(0xff);
    problem("x.parquet", length, ErrorKind::ParquetCorrupt, &["footer of 4294967295"]).await;
    let slice = put(&store, "x.parquet", content).await;
    let mut wrong = source(&[slice]);
    wrong.format = Format::Arrow;
    check_problem(read(&store, wrong).await, ErrorKind::ArrowCorrupt, &["ARROW1"]);
}

/// Flips bits all over a file. Whatever comes is a table or a problem.
#[tokio::test]
async fn flipped_bits_are_survived() {
    let store = store();
    let table = mixed(300);
    let delta = WriterProperties::builder()
        .set_max_row_group_row_count(Some(200))
        .set_compression(Compression::SNAPPY)
        .set_writer_version(WriterVersion::PARQUET_2_0);
    let deltas = delta
        .clone()
        .set_dictionary_enabled(false)
        .set_column_encoding("text".into(), Encoding::DELTA_BYTE_ARRAY)
        .set_column_encoding("struct.s".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
    for content in [encode_with(&table, delta), encode_with(&table, deltas)] {
        let (mut sound, mut told) = (0, 0);
        for (round, at) in (0..content.len()).step_by(9).enumerate() {
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (round % 8);
            let slice = put(&store, "x.parquet", flipped).await;
            match read(&store, source(&[slice])).await {
                Ok(_) => sound += 1,
                Err(problem) => {
                    let kinds = [
                        ErrorKind::ParquetCorrupt,
                        ErrorKind::DecodeLimit,
                        ErrorKind::SchemaMismatch,
                        ErrorKind::ColumnNotFound,
                        // Of decimals whose type became another one.
                        ErrorKind::ValueMismatch,
                    ];
                    assert!(kinds.contains(&problem.code), "{problem:?}");
                    assert!(problem.detail.contains("s3://tables/"), "{problem:?}");
                    told += 1;
                }
            }
        }
        assert!(sound > 10 && told > 100, "{sound} {told}");
    }
}

#[tokio::test]
async fn cut_files_are_told_wherever_they_are_cut() {
    let content = encode_parquet(&mixed(200), 100);
    let store = store();
    for length in (1..content.len()).step_by(97) {
        let slice = put(&store, "x.parquet", content[..length].to_vec()).await;
        check_problem(read(&store, source(&[slice])).await, ErrorKind::ParquetCorrupt, &["s3://tables/"]);
    }
}

#[tokio::test]
async fn a_table_without_rows_has_a_schema() {
    let table = mixed(1).slice(0, 0);
    let found = read_content("x.parquet", encode_parquet(&table, 10)).await.unwrap();
    assert_eq!(found.schema(), nullable(&table).schema());
    let empty = RecordBatch::new_empty(Arc::new(Schema::new(Vec::<Field>::new())));
    assert_eq!(read_content("x.parquet", encode_parquet(&empty, 10)).await.unwrap().num_columns(), 0);
}
