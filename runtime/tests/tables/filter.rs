// SPDX-License-Identifier: Apache-2.0
//! Filters: what passes is what SQL says, in every format, however row groups lie.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array,
        RecordBatch, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    },
    ipc::writer::FileWriter,
};
use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, plan::Slice};
use fanfold_runtime::tables::{Skipped, TableReader, TableSource};
use parquet::{
    basic::Encoding,
    file::{metadata::ParquetMetaDataReader, properties::WriterVersion},
};
use proptest::prelude::*;

use crate::{
    parquet_files::{encode_pages, encode_parquet, encode_with, encode_without_index, mixed, paged},
    support::*,
};

fn filtered(slice: &Slice, filter: &str) -> TableSource {
    TableSource { filter: Some(filter.to_owned()), ..source(std::slice::from_ref(slice)) }
}

/// One column of what passes, joined.
async fn ids(store: &fanfold_storage::Store, source: TableSource) -> Result<String, Problem> {
    let source = TableSource { columns: names(&["id"]), ..source };
    Ok(rows(&read(store, source).await?).join(" "))
}

/// Of 19 digits, and beyond 64 bits.
const LONG: i128 = 9_500_000_000_000_000_000;

fn table() -> RecordBatch {
    let decimals = |values: [Option<i128>; 6], precision, scale| {
        let values = Decimal128Array::from(values.to_vec());
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
    };
    let floats = vec![Some(0.5), Some(-0.0), None, Some(f64::NAN), Some(1e18), Some(2.0)];
    let texts = vec![Some("north"), Some("N_rth"), None, Some(""), Some("süd"), Some("no%h")];
    let moments = vec![Some(0), Some(1_500_000), None, Some(-1), Some(86_400_000_000), Some(1)];
    let seconds = vec![Some(0), Some(1), None, Some(-1), Some(86_400), Some(2)];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(1..=6))),
        ("n", Arc::new(Int64Array::from(vec![Some(5), Some(-3), None, Some(i64::MAX), Some(0), Some(5)]))),
        ("f", Arc::new(Float64Array::from(floats))),
        ("t", Arc::new(StringArray::from(texts))),
        (
            "b",
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true), None, Some(false)])),
        ),
        (
            "d",
            Arc::new(Date32Array::from(vec![Some(0), Some(19_782), None, Some(-1), Some(1), Some(19_783)])),
        ),
        ("s", Arc::new(TimestampMicrosecondArray::from(moments).with_timezone("UTC"))),
        ("whole", Arc::new(TimestampSecondArray::from(seconds))),
        ("m", decimals([Some(150), Some(-10), None, Some(0), Some(1_000), Some(151)], 10, 2)),
        ("long", decimals([Some(LONG), Some(5), None, Some(-LONG), Some(0), Some(6)], 19, 0)),
        ("u", Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(1), None, Some(0), Some(2), Some(3)]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Filters over [`table`], and the ids of the rows that pass.
const CASES: &[(&str, &str)] = &[
    // Numbers, and what is missing.
    ("n = 5", "1 6"),
    ("n <> 5", "2 4 5"),
    ("not n = 5", "2 4 5"),
    ("n is null", "3"),
    ("n is not null and n < 1", "2 5"),
    ("n > 4.5 and n < 5.5", "1 6"),
    ("n = 5.0", "1 6"),
    ("5 >= n", "1 2 5 6"),
    ("n = null or n <> null", ""),
    ("n in (5, -3)", "1 2 6"),
    ("n in (5, null)", "1 6"),
    ("n not in (5, null)", ""),
    ("n not in (5)", "2 4 5"),
    // One literal in floating point rounds no other.
    ("n in (9223372036854775806, 5e0)", "1 6"),
    ("n not in (9223372036854775806, 1e3)", "1 2 4 5 6"),
    ("n not in (9223372036854775807, 5e0)", "2 5"),
    ("n in (5, 0e0, null)", "1 5 6"),
    ("n not in (5, 0e0, null)", ""),
    ("(n in (5, 1e3, null)) is unknown", "2 3 4 5"),
    ("n between -3 and 0", "2 5"),
    ("n between null and 0", ""),
    ("n not between -3 and 0", "1 4 6"),
    ("n not between null and 0", "1 4 6"),
    ("n between 0e0 and 9223372036854775806", "1 5 6"),
    ("n not between 0e0 and 9223372036854775806", "2 4"),
    ("n between 9223372036854775807 and 1e19", "4"),
    ("n not between -1e0 and null", "2"),
    ("n between 5e0 and 5e0", "1 6"),
    ("5 between n and 1e1", "1 2 5 6"),
    ("n = 9223372036854775807", "4"),
    ("n < 9223372036854775808", "1 2 4 5 6"),
    ("u = 18446744073709551615", "1"),
    ("u > n", "1 2 5"),
    // Three values.
    ("b", "1 4"),
    ("not b", "2 6"),
    ("b is true", "1 4"),
    ("b is not true", "2 3 5 6"),
    ("b is unknown", "3 5"),
    ("b = false", "2 6"),
    ("b or n is null", "1 3 4"),
    ("b or n = 0", "1 4 5"),
    ("b and n = 5", "1"),
    ("(b and n = 7) is false", "1 2 4 5 6"),
    ("(n > 0) is not false", "1 3 4 6"),
    ("true", "1 2 3 4 5 6"),
    ("false or null", ""),
    // Floating point by IEEE 754.
    ("f = 0", "2"),
    ("f < 1", "1 2"),
    ("f > 1", "5 6"),
    ("not f > 1", "1 2 4"),
    ("f <> 0.5", "2 4 5 6"),
    ("f in (0, 2, 0.5)", "1 2 6"),
    ("f not in (0)", "1 4 5 6"),
    ("f = 1e18", "5"),
    // Calculations: what overflows or is divided by zero is missing.
    ("n + 1 = 6", "1 6"),
    ("(n + 1) is null", "3 4"),
    ("n * 2 = -6", "2"),
    ("n / 2 = 2.5", "1 6"),
    ("10 / n > 0", "1 4 6"),
    ("(10 / n) is null", "3 5"),
    ("n % 2 = -1", "2"),
    ("-n = 3", "2"),
    ("f * 2 = 1", "1"),
    ("m * 2 = 3", "1"),
    ("n - m = 3.5", "1"),
    // Decimals, exactly.
    ("m = 1.5", "1"),
    ("m > 1.505", "5 6"),
    ("m <= 0", "2 4"),
    ("m in (10, 1.51)", "5 6"),
    ("m in (1e1, 1.51)", "5 6"),
    ("m < n", "1 4 6"),
    ("long > 5", "1 6"),
    ("long <> 5", "1 4 5 6"),
    ("long < -9223372036854775808", "4"),
    ("long between 5 and 9500000000000000000", "1 2 6"),
    ("long between 9500000000000000001 and 1e19", ""),
    ("long in (9500000000000000000, 0)", "1 5"),
    ("long not in (9500000000000000001, 1e3)", "1 2 4 5 6"),
    ("long in (0.5, 99999999999999999999999999999999999999, 9500000000000000000)", "1"),
    ("long = n", "5"),
    ("long + 1 > 6", "1 6"),
    // Of 64 bits without a sign, and of more, none is rounded.
    ("u % 10 = 5", "1"),
    ("u % 2 in (1)", "1 2 6"),
    ("u - 18446744073709551614 = 1", "1"),
    ("u + 1 = 18446744073709551616", "1"),
    ("u - 2 < 0", "2 4"),
    ("-u = -18446744073709551615", "1"),
    ("u * u > 8", "6"),
    ("(u * u) is null", "1 3"),
    ("(u % 0) is null", "1 2 3 4 5 6"),
    ("u * 0.5 = 1", "5"),
    ("(u + 1) / 2 = 1", "2"),
    ("u + n = 18446744073709551620", "1"),
    ("u % 10 + f = 5", "6"),
    ("n + 9223372036854775808 = 18446744073709551615", "4"),
    ("long % 7 = 6", "1 6"),
    ("long * 2 = 19000000000000000000", "1"),
    // Texts by their bytes.
    ("t = 'north'", "1"),
    ("t > 'n'", "1 5 6"),
    ("t = ''", "4"),
    ("t like 'n%h'", "1 6"),
    ("t ilike 'n%h'", "1 2 6"),
    ("t like 'no\\%h'", "6"),
    ("t like '_\\_rth'", "2"),
    ("t not like 'n%'", "2 4 5"),
    ("t like 's_d'", "5"),
    ("t like ''", "4"),
    ("t like '%_%'", "1 2 5 6"),
    ("t like '%o_th%' or t like '%\\%_'", "1 6"),
    ("t ilike '%R_H' or t ilike 'SÜ%'", "1 2 5"),
    ("(null like 'a') is unknown and 'a' ilike 'A'", "1 2 3 4 5 6"),
    ("t in ('süd', 'x')", "5"),
    ("'north' = t", "1"),
    // Dates and moments.
    ("d = '1970-01-01'", "1"),
    ("d >= date '2024-02-29'", "2 6"),
    ("d between '1969-12-31' and '1970-01-02'", "1 4 5"),
    ("d in ('2024-03-01', null)", "6"),
    ("s = timestamp '1970-01-01 00:00:01.5'", "2"),
    ("s >= '1970-01-01T00:00:00Z'", "1 2 5 6"),
    ("s < '1970-01-01T00:00:00.000000001Z'", "1 4"),
    ("s = '1970-01-01 01:00:00+01:00'", "1"),
    ("s = d", "1 5"),
    ("s > date '1970-01-01'", "2 5 6"),
    ("whole = timestamp '1970-01-01 00:00:01'", "2"),
    ("whole < '1970-01-01 00:00:00.5'", "1 4"),
    ("whole = s", "1 5"),
    ("b in (true)", "1 4"),
    ("m in (1.5, 7, null)", "1"),
    ("whole in ('1970-01-01 00:00:01', '1970-01-02')", "2 5"),
    ("d = timestamp '1970-01-02 00:00:00'", "5"),
];

#[tokio::test]
async fn rows_pass_as_sql_says() {
    let store = store();
    for (group_rows, page_rows) in [(1, 1), (2, 2), (6, 6), (6, 1), (6, 2)] {
        let slice = put(&store, "x.parquet", encode_pages(&table(), group_rows, page_rows)).await;
        for (filter, expected) in CASES {
            let found = ids(&store, filtered(&slice, filter))
                .await
                .unwrap_or_else(|p| panic!("{filter}: {}", p.detail));
            assert_eq!(found, *expected, "{filter} by {group_rows} and {page_rows}");
        }
    }
}

#[tokio::test]
async fn every_format_is_filtered_alike() {
    let store = store();
    let csv = "id,n,t,d\n1,5,north,2024-02-29\n2,,süd,2024-03-01\n3,-1,,1970-01-01\n";
    let lines =
        "{\"id\":1,\"n\":5,\"t\":\"north\"}\n{\"id\":2,\"t\":\"süd\"}\n{\"id\":3,\"n\":-1,\"t\":null}\n";
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("n", Arc::new(Int64Array::from(vec![Some(5), None, Some(-1)]))),
        ("t", Arc::new(StringArray::from(vec![Some("north"), Some("süd"), None]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut arrow = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    arrow.write(&batch).unwrap();
    let objects = [
        put(&store, "x.csv", csv).await,
        put(&store, "x.jsonl", lines).await,
        put(&store, "x.arrow", arrow.into_inner().unwrap()).await,
        put(&store, "x.parquet", encode_parquet(&batch, 1)).await,
    ];
    for slice in &objects {
        let check = async |filter: &str, expected: &str| {
            assert_eq!(
                ids(&store, filtered(slice, filter)).await.unwrap(),
                expected,
                "{filter} {}",
                slice.object.uri
            );
        };
        check("n > 0", "1").await;
        check("n is null or t like 'n%'", "1 2").await;
        check("t is not null and n <> 7", "1").await;
        check("n + 1 = 0", "3").await;
        check("n > 100", "").await;
        let wrong = ids(&store, filtered(slice, "t = 5")).await;
        check_problem(wrong, ErrorKind::FilterInvalid, &["a text to compare with", "column 5"]);
        let wrong = ids(&store, filtered(slice, "n = 1 and x = 1")).await;
        check_problem(wrong, ErrorKind::ColumnNotFound, &["\"x\" at column 11"]);
    }
    assert_eq!(ids(&store, filtered(&objects[0], "d >= '2024-03-01'")).await.unwrap(), "2");
    let mut bytes = filtered(&objects[0], "size > 10 and uri like 's3://%'");
    bytes.format = fanfold_protocol::job::Format::Bytes;
    assert_eq!(read(&store, bytes).await.unwrap().num_rows(), 1);
}

#[tokio::test]
async fn columns_of_the_filter_are_not_given() {
    let store = store();
    let slice = put(&store, "x.csv", "a,b,c\n1,x,true\n2,y,false\n3,x,false\n").await;
    let mut narrow = filtered(&slice, "b = 'x' and not c");
    (narrow.columns, narrow.declared) = (names(&["c", "a"]), declare(&[("a", "Float64", false)]));
    let found = read(&store, narrow.clone()).await.unwrap();
    assert_eq!(
        (types(&found), rows(&found)),
        (vec!["c Boolean".into(), "a Float64".into()], vec!["false|3.0".into()])
    );
    narrow.filter = Some("b = 'z'".into());
    assert_eq!(types(&read(&store, narrow).await.unwrap()), ["c Boolean", "a Float64"]);
    assert_eq!(rows(&read(&store, filtered(&slice, "a = 2")).await.unwrap()), ["2|y|false"]);
    let none = TableSource { columns: names(&[]), ..filtered(&slice, "a < 3") };
    let found = read(&store, none).await.unwrap();
    assert_eq!((found.num_rows(), found.num_columns()), (2, 0));
}

#[tokio::test]
async fn problems_are_those_of_rows_that_pass() {
    let store = store();
    let slice = put(&store, "x.csv", "id,n\n1,5\n2,\n3,6\n4,\n").await;
    let mut required = filtered(&slice, "n is not null");
    required.declared = declare(&[("n", "Int64", false), ("id", "Int64", false)]);
    assert_eq!(rows(&read(&store, required.clone()).await.unwrap()), ["5|1", "6|3"]);
    required.filter = Some("id > 2".into());
    check_problem(read(&store, required).await, ErrorKind::NullValue, &["\"n\"", "row 4"]);
}

/// What is stored without a zone is taken for the time of the declared one, of which statistics
/// know nothing.
#[tokio::test]
async fn moments_of_a_declared_zone_pass_as_they_are_read() {
    const HOUR: i64 = 3_600_000_000;
    let store = store();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![0, HOUR, 3 * HOUR]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    for group_rows in [1, 3] {
        let slice = put(&store, "x.parquet", encode_pages(&batch, group_rows, 1)).await;
        for (zone, expected) in [("None", 0), ("Some(\"UTC\")", 0), ("Some(\"+02:00\")", 2)] {
            let mut source = filtered(&slice, "at < '1970-01-01 00:00:00'");
            let zoned = format!("Timestamp(Microsecond, {zone})");
            source.declared = declare(&[("id", "Int64", false), ("at", &zoned, true)]);
            let passing = read(&store, source.clone()).await.unwrap();
            assert_eq!(passing.num_rows(), expected, "{zone}, by {group_rows}");
            // What else is asked of other columns still leaves pages out.
            source.filter = Some("at < '1970-01-01 00:00:00' and id > 3".into());
            let (rows, left) = skipped(&store, source).await;
            assert_eq!((rows, left.rows, left.row_groups), (0, 0, 3 / group_rows as u64), "{zone}");
        }
    }
}

/// Of a zone `Date64` has the days, which begin at other moments than are stored.
#[tokio::test]
async fn days_of_a_stored_zone_pass_as_they_are_read() {
    const HOUR: i64 = 3_600_000;
    let store = store();
    let midnights = TimestampMillisecondArray::from(vec![-HOUR, 23 * HOUR]).with_timezone("+01:00");
    let columns: Vec<(&str, ArrayRef)> =
        vec![("id", Arc::new(Int64Array::from(vec![1, 2]))), ("at", Arc::new(midnights))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let slice = put(&store, "x.parquet", encode_pages(&batch, 1, 1)).await;
    for (filter, expected) in [("at = '1970-01-01'", 1), ("at > '1970-01-01'", 1), ("at < '1970-01-01'", 0)] {
        let mut source = filtered(&slice, filter);
        source.declared = declare(&[("id", "Int64", false), ("at", "Date64", true)]);
        assert_eq!(read(&store, source).await.unwrap().num_rows(), expected, "{filter}");
    }
}

/// A function's `u64` and `f64` are most often stored as signed integers and narrow floats.
#[tokio::test]
async fn numbers_are_left_out_by_statistics_of_other_widths() {
    let store = store();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..100))),
        ("share", Arc::new(Float32Array::from_iter_values((0..100_u8).map(|n| f32::from(n) / 8.0)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let slice = put(&store, "x.parquet", encode_without_index(&batch, 10)).await;
    for (filter, given, groups) in [
        ("id >= 95", 5, 9),
        ("id in (3, 55)", 2, 8),
        ("share < 0.5", 4, 9),
        ("share > 1e300", 0, 10),
        ("share > 11.0 and id < 90", 1, 9),
    ] {
        let mut source = filtered(&slice, filter);
        source.declared = declare(&[("id", "UInt64", false), ("share", "Float64", true)]);
        let (rows, left) = skipped(&store, source).await;
        assert_eq!((rows, left.row_groups), (given, groups), "{filter}");
    }
}

/// The SDK declares microseconds; others write milli- or nanoseconds.
#[tokio::test]
async fn moments_are_left_out_by_statistics_of_other_units() {
    let store = store();
    let millis = (0..100).map(|n| 10 * (n - 50));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ms", Arc::new(TimestampMillisecondArray::from_iter_values(millis.clone()))),
        ("ns", Arc::new(TimestampNanosecondArray::from_iter_values(millis.map(|ms| 1_000_000 * ms)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let groups = put(&store, "groups.parquet", encode_without_index(&batch, 10)).await;
    let pages = put(&store, "pages.parquet", encode_pages(&batch, 100, 10)).await;
    for (asked, given) in [
        (">= '1970-01-01 00:00:00.45'", 5),
        ("< '1969-12-31 23:59:59.5'", 0),
        ("= '1970-01-01'", 1),
        ("> '1970-01-01 00:00:00.4899999'", 1),
        ("> '1970-01-01 00:00:00.4900001'", 0),
        ("between '1970-01-01' and '1970-01-01 00:00:00.099999'", 10),
    ] {
        for column in ["ms", "ns"] {
            for (slice, group_rows) in [(&groups, 10), (&pages, 100)] {
                let mut source = filtered(slice, &format!("{column} {asked}"));
                source.declared = declare(&[(column, "Timestamp(Microsecond, None)", true)]);
                let (rows, left) = skipped(&store, source).await;
                let unread = left.row_groups * group_rows + left.rows_unread;
                let expected = if given == 0 { 100 } else { 90 };
                assert_eq!((rows, unread), (given, expected), "{column} {asked} {}", slice.object.uri);
            }
        }
    }
}

/// Reads to the end; answers rows and what was left out.
async fn skipped(store: &fanfold_storage::Store, source: TableSource) -> (u64, Skipped) {
    let mut reader = TableReader::open(store.clone(), source).await.unwrap();
    let mut all = reader.take_skipped();
    while reader.next().await.unwrap().is_some() {
        let more = reader.take_skipped();
        assert_eq!(Skipped { rows: 0, ..more }, Skipped::default(), "all else is known at the start");
        all.rows += more.rows;
    }
    all.rows += reader.take_skipped().rows;
    (reader.rows(), all)
}

/// Numbers in order, noise, days and names.
fn ordered_table(rows: i64) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..rows))),
        (
            "noise",
            Arc::new(Int64Array::from_iter_values(
                (0..rows).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64)),
            )),
        ),
        ("day", Arc::new(Date32Array::from_iter_values((0..rows).map(|n| (n / 1_000) as i32)))),
        ("name", Arc::new(StringArray::from_iter_values((0..rows).map(|n| format!("name {:06}", n / 7))))),
        ("share", Arc::new(Float64Array::from_iter_values((0..rows).map(|n| n as f64 / 8.0)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

#[tokio::test]
async fn row_groups_that_cannot_pass_are_not_read() {
    let (store, rows) = (store(), 400_000);
    let slice = put(&store, "x.parquet", encode_without_index(&ordered_table(rows), 40_000)).await;
    assert!(slice.object.pin.size > 2 << 20);
    let check = async |filter: &str, expected: (u64, u64, u64)| {
        let meter = fanfold_storage::Meter::new();
        let (given, skipped) = skipped(&store.with_meter(meter.clone()), filtered(&slice, filter)).await;
        assert_eq!((given, skipped.rows, skipped.row_groups), expected, "{filter}");
        assert_eq!(given + skipped.rows + skipped.row_groups * 40_000, rows as u64, "{filter}");
        assert_eq!(skipped.bytes > 0, skipped.row_groups > 0);
        meter.usage().bytes_read
    };
    let all = check("noise <> 1", (400_000, 0, 0)).await;
    let some = check("id >= 390000", (10_000, 30_000, 9)).await;
    assert!(some < all / 5, "{some} of {all}");
    check("id = 399999 or id = 5", (2, 79_998, 8)).await;
    check("not (id < 390000)", (10_000, 30_000, 9)).await;
    check("day between '1970-02-10' and '1970-02-11'", (2_000, 38_000, 9)).await;
    check("name like 'name 0571%'", (300, 39_700, 9)).await;
    check("name in ('name 000000', 'nobody')", (7, 39_993, 9)).await;
    check("id is null", (0, 0, 10)).await;
    check("id < 0 or noise is null", (0, 0, 10)).await;
    check("id > 390000.5", (9_999, 30_001, 9)).await;
    check("share >= 48750", (10_000, 30_000, 9)).await;
    check("share < 0 or share is null", (0, 0, 10)).await;
}

#[tokio::test]
async fn pages_that_cannot_pass_are_not_read() {
    let (store, rows) = (store(), 400_000);
    let slice = put(&store, "x.parquet", encode_pages(&ordered_table(rows), 200_000, 5_000)).await;
    // Row groups, pages and rows that are not read of the three columns.
    let check = async |filter: &str, given: u64, expected: (u64, u64, u64)| {
        let meter = fanfold_storage::Meter::new();
        let source = TableSource { columns: names(&["id", "noise", "name"]), ..filtered(&slice, filter) };
        let (rows_given, skipped) = skipped(&store.with_meter(meter.clone()), source).await;
        assert_eq!(rows_given, given, "{filter}");
        assert_eq!((skipped.row_groups, skipped.pages, skipped.rows_unread), expected, "{filter}");
        let left_out = skipped.rows + skipped.rows_unread + skipped.row_groups * 200_000;
        assert_eq!(given + left_out, rows as u64, "{filter}");
        meter.usage().bytes_read
    };
    let all = check("noise <> 1", 400_000, (0, 0, 0)).await;
    let few = check("id >= 399000", 1_000, (1, 3 * 39, 195_000)).await;
    // Dictionaries are read whole.
    assert!(few < all / 3, "{few} of {all}");
    check("id = 5 or id = 399999", 2, (0, 2 * 3 * 39, 390_000)).await;
    check("name = 'name 001000' and noise <> 1", 7, (1, 3 * 39, 195_000)).await;
    check("id between 4990 and 5009", 20, (1, 3 * 38, 190_000)).await;
    check("share >= 49875", 1_000, (1, 4 * 39, 195_000)).await;
    // No page of the first row group passes, though its bounds do.
    check("id = 4999.5", 0, (2, 0, 0)).await;
    // Days are read for the filter.
    let days = check("day = '1970-02-10'", 1_000, (1, 4 * 39, 195_000)).await;
    assert!(days < all / 3, "{days} of {all}");
}

#[tokio::test]
async fn rows_are_numbered_over_pages_that_are_not_read() {
    let store = store();
    let n = |i: i64| (i != 70).then_some(i);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..100))),
        ("n", Arc::new(Int64Array::from_iter((0..100).map(n)))),
    ];
    let table = RecordBatch::try_from_iter(columns).unwrap();
    let slice = put(&store, "x.parquet", encode_pages(&table, 50, 10)).await;
    let mut required = filtered(&slice, "id in (3, 31) or id >= 65");
    required.declared = declare(&[("id", "Int64", false), ("n", "Int64", false)]);
    check_problem(read(&store, required).await, ErrorKind::NullValue, &["\"n\"", "row 71"]);
}

/// Where the parts of the index of pages lie of all column chunks, those that say
/// what pages hold and those that say where they are.
fn index_places(object: &[u8]) -> [Vec<std::ops::Range<usize>>; 2] {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::copy_from_slice(object)).unwrap();
    let chunks = || metadata.row_groups().iter().flat_map(|group| group.columns());
    let range = |range: Option<std::ops::Range<u64>>| range.map(|r| r.start as usize..r.end as usize);
    [
        chunks().filter_map(|chunk| range(chunk.column_index_range())).collect(),
        chunks().filter_map(|chunk| range(chunk.offset_index_range())).collect(),
    ]
}

#[tokio::test]
async fn a_damaged_index_of_pages_is_not_believed() {
    let store = store();
    let sound = encode_pages(&ordered_table(3_000), 3_000, 100);
    let [held, placed] = index_places(&sound);
    assert_eq!((held.len(), placed.len()), (5, 5));
    let check = async |object: &[u8], what: &str| {
        let slice = put(&store, "x.parquet", object.to_vec()).await;
        let source = TableSource { columns: names(&["id"]), ..filtered(&slice, "id between 1450 and 1549") };
        let found = read(&store, source).await.unwrap_or_else(|p| panic!("{what}: {}", p.detail));
        let expected: Vec<_> = (1_450..=1_549).map(|n: i64| n.to_string()).collect();
        assert_eq!(rows(&found), expected, "{what}");
    };
    check(&sound, "sound").await;
    for (what, places) in [("held", &held), ("placed", &placed)] {
        for byte in [0, 0xff, 0x15] {
            let mut damaged = sound.clone();
            places.iter().for_each(|place| damaged[place.clone()].fill(byte));
            check(&damaged, what).await;
        }
    }
    // One byte of where the pages of the filter's column are: at odds with them, or harmless.
    let place = placed[0].clone();
    for at in place.clone() {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x04;
        check(&damaged, &format!("byte {} of {place:?}", at - place.start)).await;
    }
}

// Rows and conditions by chance, against an evaluator that knows nothing of Arrow.

#[derive(Clone, Debug)]
struct Row {
    a: Option<i64>,
    f: Option<f64>,
    t: Option<String>,
    b: Option<bool>,
    d: Option<i32>,
}

#[derive(Clone, Debug)]
enum Cond {
    A(&'static str, i64),
    AF(&'static str),
    AHalf(&'static str, i64),
    F(&'static str, f64),
    T(&'static str, String),
    D(&'static str, i32),
    Sum(&'static str, i64),
    In(Vec<i64>, bool),
    Between(i64, i64),
    Like(String),
    Null(&'static str),
    B,
    Is(Box<Cond>, bool),
    Unknown(Box<Cond>),
    Not(Box<Cond>),
    And(Vec<Cond>),
    Or(Vec<Cond>),
}

const OPERATORS: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];

fn day(days: i32) -> String {
    arrow::temporal_conversions::date32_to_datetime(days).unwrap().date().to_string()
}

impl Cond {
    fn sql(&self) -> String {
        let join = |terms: &[Cond], word: &str| {
            let terms: Vec<String> = terms.iter().map(|term| format!("({})", term.sql())).collect();
            terms.join(word)
        };
        match self {
            Self::A(op, n) => format!("a {op} {n}"),
            Self::AF(op) => format!("a {op} f"),
            Self::AHalf(op, n) => format!("a {op} {n}.5"),
            Self::F(op, n) => format!("f {op} {n:?}"),
            Self::T(op, text) => format!("t {op} '{text}'"),
            Self::D(op, days) => format!("d {op} '{}'", day(*days)),
            Self::Sum(op, n) => format!("a * 2 + {n} {op} a"),
            Self::In(list, null) => {
                let list = list.iter().map(i64::to_string).chain(null.then(|| "null".to_owned()));
                format!("a in ({})", list.collect::<Vec<_>>().join(", "))
            }
            Self::Between(low, high) => format!("a between {low} and {high}"),
            Self::Like(beginning) => format!("t like '{beginning}%'"),
            Self::Null(column) => format!("{column} is null"),
            Self::B => "b".to_owned(),
            Self::Is(inner, what) => format!("({}) is {what}", inner.sql()),
            Self::Unknown(inner) => format!("({}) is unknown", inner.sql()),
            Self::Not(inner) => format!("not ({})", inner.sql()),
            Self::And(terms) => join(terms, " and "),
            Self::Or(terms) => join(terms, " or "),
        }
    }

    fn holds(&self, row: &Row) -> Option<bool> {
        match self {
            Self::A(op, n) => Some(ordered(op, row.a?, *n)),
            Self::AF(op) => Some(ordered(op, row.a? as f64, row.f?)),
            Self::AHalf(op, n) => {
                // Twice both sides; `-3.5` is -3 less a half.
                let half = if *n < 0 { -1 } else { 1 };
                Some(ordered(op, row.a? * 2, n * 2 + half))
            }
            Self::F(op, n) => Some(ordered(op, row.f?, *n)),
            Self::T(op, text) => Some(ordered(op, row.t.as_deref()?.as_bytes(), text.as_bytes())),
            Self::D(op, days) => Some(ordered(op, row.d?, *days)),
            Self::Sum(op, n) => Some(ordered(op, row.a? * 2 + n, row.a?)),
            Self::In(list, null) => {
                let found = list.contains(&row.a?);
                if !found && *null { None } else { Some(found) }
            }
            Self::Between(low, high) => Some(*low <= row.a? && row.a? <= *high),
            Self::Like(beginning) => Some(row.t.as_deref()?.starts_with(beginning.as_str())),
            Self::Null(column) => Some(match *column {
                "a" => row.a.is_none(),
                "f" => row.f.is_none(),
                "t" => row.t.is_none(),
                _ => row.d.is_none(),
            }),
            Self::B => row.b,
            Self::Is(inner, what) => Some(inner.holds(row) == Some(*what)),
            Self::Unknown(inner) => Some(inner.holds(row).is_none()),
            Self::Not(inner) => inner.holds(row).map(|truth| !truth),
            Self::And(terms) => {
                let found: Vec<_> = terms.iter().map(|term| term.holds(row)).collect();
                match (found.contains(&Some(false)), found.contains(&None)) {
                    (true, _) => Some(false),
                    (false, true) => None,
                    _ => Some(true),
                }
            }
            Self::Or(terms) => {
                let found: Vec<_> = terms.iter().map(|term| term.holds(row)).collect();
                match (found.contains(&Some(true)), found.contains(&None)) {
                    (true, _) => Some(true),
                    (false, true) => None,
                    _ => Some(false),
                }
            }
        }
    }
}

fn ordered<T: PartialOrd>(op: &str, left: T, right: T) -> bool {
    match op {
        "=" => left == right,
        "<>" => left != right,
        "<" => left < right,
        "<=" => left <= right,
        ">" => left > right,
        _ => left >= right,
    }
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{0,3}", "ü[ab]?", Just("a".repeat(80)), Just(format!("{}b", "a".repeat(80)))]
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (-8_i32..8).prop_map(|n| f64::from(n) / 2.0),
        1 => Just(f64::NAN),
        1 => Just(-0.0),
        1 => Just(f64::INFINITY),
    ]
}

prop_compose! {
    fn row()(
        a in proptest::option::weighted(0.8, -6_i64..6),
        f in proptest::option::weighted(0.8, float()),
        t in proptest::option::weighted(0.8, word()),
        b in proptest::option::weighted(0.8, any::<bool>()),
        d in proptest::option::weighted(0.8, -3_i32..3),
    ) -> Row {
        Row { a, f, t, b, d }
    }
}

fn condition() -> impl Strategy<Value = Cond> {
    let op = || proptest::sample::select(&OPERATORS[..]);
    let finite = float().prop_filter("a literal", |f| f.is_finite());
    let leaf = prop_oneof![
        (op(), -7_i64..7).prop_map(|(op, n)| Cond::A(op, n)),
        op().prop_map(Cond::AF),
        (op(), -7_i64..7).prop_map(|(op, n)| Cond::AHalf(op, n)),
        (op(), finite).prop_map(|(op, n)| Cond::F(op, n)),
        (op(), word()).prop_map(|(op, text)| Cond::T(op, text)),
        (op(), -4_i32..4).prop_map(|(op, days)| Cond::D(op, days)),
        (op(), 0_i64..4).prop_map(|(op, n)| Cond::Sum(op, n)),
        (proptest::collection::vec(-7_i64..7, 1..4), any::<bool>())
            .prop_map(|(list, null)| Cond::In(list, null)),
        (-7_i64..7, -7_i64..7).prop_map(|(low, high)| Cond::Between(low, high)),
        word().prop_map(Cond::Like),
        proptest::sample::select(&["a", "f", "t", "d"][..]).prop_map(Cond::Null),
        Just(Cond::B),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        let some = || proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            (inner.clone(), any::<bool>()).prop_map(|(cond, what)| Cond::Is(Box::new(cond), what)),
            inner.clone().prop_map(|cond| Cond::Unknown(Box::new(cond))),
            inner.clone().prop_map(|cond| Cond::Not(Box::new(cond))),
            some().prop_map(Cond::And),
            some().prop_map(Cond::Or),
        ]
    })
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64))),
        ("a", Arc::new(rows.iter().map(|row| row.a).collect::<Int64Array>())),
        ("f", Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>())),
        ("t", Arc::new(rows.iter().map(|row| row.t.as_deref()).collect::<StringArray>())),
        ("b", Arc::new(rows.iter().map(|row| row.b).collect::<BooleanArray>())),
        ("d", Arc::new(rows.iter().map(|row| row.d).collect::<Date32Array>())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn what_passes_is_what_a_plain_evaluator_says(
        mut rows in proptest::collection::vec(row(), 1..60),
        cond in condition(),
        sorted in any::<bool>(),
        group_rows in 1_usize..12,
        page_rows in 1_usize..6,
    ) {
        if sorted {
            rows.sort_by(|x, y| (x.a, x.d, &x.t).cmp(&(y.a, y.d, &y.t)));
        }
        let expected: Vec<String> =
            (0..rows.len()).filter(|n| cond.holds(&rows[*n]) == Some(true)).map(|n| n.to_string()).collect();
        let table = batch(&rows);
        let mut arrow = FileWriter::try_new(Vec::new(), &table.schema()).unwrap();
        arrow.write(&table).unwrap();
        let arrow = arrow.into_inner().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = store();
            let objects = [
                ("groups.parquet", encode_without_index(&table, group_rows)),
                ("pages.parquet", encode_pages(&table, 4 * group_rows, page_rows)),
                ("x.arrow", arrow),
            ];
            for (name, content) in objects {
                let slice = put(&store, name, content).await;
                let found = ids(&store, filtered(&slice, &cond.sql())).await;
                let found = found.unwrap_or_else(|p| panic!("{}: {}", cond.sql(), p.detail));
                prop_assert_eq!(found, expected.join(" "), "{}", cond.sql());
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn columns_of_every_kind_are_read_by_pages() {
    let store = store();
    let table = mixed(3_000);
    let plain = put(&store, "x.parquet", encode_without_index(&table, 1_000)).await;
    for (version, dictionary, encoding) in [
        (WriterVersion::PARQUET_1_0, true, None),
        (WriterVersion::PARQUET_2_0, false, None),
        (WriterVersion::PARQUET_2_0, false, Some(Encoding::DELTA_BYTE_ARRAY)),
    ] {
        let mut properties = paged(1_000, 50).set_writer_version(version).set_dictionary_enabled(dictionary);
        if let Some(encoding) = encoding {
            properties = properties.set_column_encoding("text".into(), encoding);
        }
        let slice = put(&store, "x.parquet", encode_with(&table, properties)).await;
        for filter in [
            "id = 7",
            "id between 130 and 155 or id > 2990",
            "id < 40 and small is null",
            "date = '1970-02-10' or text = 'text 3' and id > 2000",
            "float > 300",
        ] {
            let (found, expected) =
                (read(&store, filtered(&slice, filter)).await, read(&store, filtered(&plain, filter)).await);
            assert_eq!(found.unwrap(), expected.unwrap(), "{filter} {version:?} {dictionary} {encoding:?}");
        }
    }
}
