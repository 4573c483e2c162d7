// SPDX-License-Identifier: Apache-2.0
//! CSV: types, quoting, streaming, slices, compression, mistakes.

use std::io::Write;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use fanfold_protocol::{
    ErrorKind, Problem,
    job::{CsvOptions, Format},
    stored::SAMPLE_BYTES,
};
use fanfold_runtime::tables::TableSource;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use crate::support::*;

async fn check(content: &str, types_expected: &[&str], rows_expected: &[&str]) {
    let batch = read_content("x.csv", content.as_bytes().to_vec()).await.unwrap();
    assert_eq!(types(&batch), types_expected, "{content:?}");
    assert_eq!(rows(&batch), rows_expected, "{content:?}");
}

async fn with_options(content: &[u8], change: impl FnOnce(&mut CsvOptions)) -> Result<RecordBatch, Problem> {
    let store = store();
    let slice = put(&store, "x.csv", content.to_vec()).await;
    let mut source = source(&[slice]);
    change(&mut source.csv);
    read(&store, source).await
}

#[tokio::test]
async fn a_header_taken_for_one_column_points_at_the_delimiter() {
    let store = store();
    let slice = put(&store, "x.csv", "id;v\n1;2\n").await;
    let mut source = source(&[slice]);
    source.columns = names(&["v"]);
    let found = read(&store, source).await;
    check_problem(found, ErrorKind::ColumnNotFound, &["\"id;v\"", "csv.delimiter = \";\""]);
}

#[tokio::test]
async fn types_are_inferred() {
    check(
        "b,i,f,d,t,z,s,n\ntrue,1,1.5,2024-01-31,2024-01-31 10:00:00,2024-01-31T10:00:00+01:00,x,\n\
         FALSE,-2,3,2024-02-29,2024-02-29T10:00:00.25,2024-01-31T10:00:00Z,007,NA\n",
        &[
            "b Boolean",
            "i Int64",
            "f Float64",
            "d Date32",
            "t Timestamp(µs)",
            "z Timestamp(µs, \"UTC\")",
            "s Utf8",
            "n Utf8",
        ],
        &[
            "true|1|1.5|2024-01-31|2024-01-31T10:00:00|2024-01-31T09:00:00Z|x|∅",
            "false|-2|3.0|2024-02-29|2024-02-29T10:00:00.250|2024-01-31T10:00:00Z|007|∅",
        ],
    )
    .await;
}

#[tokio::test]
async fn text_is_taken_as_it_is_written() {
    check("\u{feff}a,b\r\n\"x,\"\"y\"\"\r\n\",é", &["a Utf8", "b Utf8"], &["x,\"y\"\r\n|é"]).await;
    check("a\n1\n\n2", &["a Int64"], &["1", "2"]).await;
    check("a,b\n", &["a Utf8", "b Utf8"], &[]).await;
    check("\"a\rb\",c\r\n1,x\ry\r\n", &["a\rb Int64", "c Utf8"], &["1|x\ry"]).await;
    check("\"a \"\"b\"\"\",c\n\"\",\n\"NA\",NA\n", &["a \"b\" Utf8", "c Utf8"], &["|∅", "NA|∅"]).await;
    check("a,b\n 1 ,x\n2, y \n", &["a Int64", "b Utf8"], &["1|x", "2| y "]).await;
}

#[tokio::test]
async fn what_is_empty_in_quotes_is_a_value_of_texts_alone() {
    check(
        "\"i\",\"f\",\"b\",\"d\",\"t\"\n\"1\",\"0.5\",\"true\",\"2024-01-31\",\"x\"\n\"\",\"\",\"\",\"\",\"\"\n",
        &["i Int64", "f Float64", "b Boolean", "d Date32", "t Utf8"],
        &["1|0.5|true|2024-01-31|x", "∅|∅|∅|∅|"],
    )
    .await;
    check("a\n1\n\"\"\n2\n", &["a Int64"], &["1", "∅", "2"]).await;
    check("a,b\n\"\",\"\"\n\"NA\",x\n", &["a Utf8", "b Utf8"], &["|", "NA|x"]).await;
    let store = store();
    let slice = put(&store, "x.csv", "a\n\"\"\n1\n").await;
    for (data_type, expected) in [
        ("UInt8", "∅"),
        ("Decimal128(9, 2)", "∅"),
        ("Timestamp(Microsecond, None)", "∅"),
        ("Utf8", ""),
        ("Binary", ""),
    ] {
        let declared = declare(&[("a", data_type, true)]);
        let first = range(&slice, 0, 5);
        let batch = read(&store, TableSource { declared, ..source(&[first]) }).await.unwrap();
        assert_eq!(rows(&batch), [expected], "{data_type}");
    }
    // Only where the empty text is a missing value.
    let kept = with_options(b"a\n1\n\"\"\n", |o| o.nulls = Vec::new()).await.unwrap();
    assert_eq!((types(&kept), rows(&kept)), (vec!["a Utf8".into()], vec!["1".into(), "".into()]));
}

#[tokio::test]
async fn options_are_honoured() {
    let batch = with_options(b"a;'b;''c'\n-;1\n", |o| {
        (o.delimiter, o.quote, o.nulls) = (Some(';'), '\'', vec!["-".into()])
    });
    let batch = batch.await.unwrap();
    assert_eq!(
        (types(&batch), rows(&batch)),
        (vec!["a Utf8".into(), "b;'c Int64".into()], vec!["∅|1".into()])
    );
    let batch = with_options(b"a,b\n1900-01-01,0\n2024-02-29,1\n", |o| {
        o.nulls = vec!["0".into(), "1900-01-01".into()]
    });
    let batch = batch.await.unwrap();
    assert_eq!(
        (types(&batch), rows(&batch)),
        (vec!["a Date32".into(), "b Int64".into()], vec!["∅|∅".into(), "2024-02-29|1".into()])
    );
    let returns = with_options(b"1,x\r2,y\r", |o| o.header = false).await;
    check_problem(returns, ErrorKind::CsvMalformed, &["LF or CRLF", "byte 3"]);
    let batch = with_options(b"1,x\n2,y\n", |o| o.header = false).await.unwrap();
    assert_eq!(types(&batch), ["column_1 Int64", "column_2 Utf8"]);
    assert_eq!(rows(&batch), ["1|x", "2|y"]);
    check_problem(
        with_options(b"a,b\n", |o| o.delimiter = Some('é')).await,
        ErrorKind::InvalidRequest,
        &["delimiter"],
    );
}

#[tokio::test]
async fn mistakes_are_placed() {
    let csv = |content: &'static str, kind, words: &'static [&'static str]| {
        problem("x.csv", content.as_bytes(), kind, words)
    };
    csv("a,b\n1,2\n3\n", ErrorKind::CsvFieldCount, &["row 2", "line 3", "byte 8", "2 fields", "found 1"])
        .await;
    csv("a,b\n\"1\n\",2\n3,4,5\n", ErrorKind::CsvFieldCount, &["row 2", "line 4", "byte 11", "found 3"])
        .await;
    csv("a,b\n1,\"2\n3,4\n", ErrorKind::CsvMalformed, &["row 1", "line 2", "byte 6", "closed"]).await;
    csv("a,b\n1,\"2\"x\n", ErrorKind::CsvMalformed, &["row 1", "line 2", "byte 9", "closing quote"]).await;
    csv("a,a\n1,2\n", ErrorKind::CsvMalformed, &["\"a\" twice"]).await;
    csv("a,\"b", ErrorKind::CsvMalformed, &["byte 2"]).await;
    csv("a,b\r1,2\r3,4\r", ErrorKind::CsvMalformed, &["LF or CRLF", "byte 3"]).await;
    csv("a\x001\0", ErrorKind::InvalidUtf8, &["header", "byte 1", "UTF-16"]).await;
    problem("x.csv", &b"a\0,\0b\0\n\x001\0,\x002\0\n\0"[..], ErrorKind::InvalidUtf8, &["convert", "UTF-8"])
        .await;
    csv("", ErrorKind::EmptyObject, &["empty object"]).await;
    csv("\n\r\n\n", ErrorKind::EmptyObject, &["no record"]).await;
    problem(
        "x.csv",
        &b"a,b\n1,x\n2,\xff\n"[..],
        ErrorKind::InvalidUtf8,
        &["row 2", "line 3", "byte 10", "ff"],
    )
    .await;
    problem("x.csv", &b"a,\xff\n"[..], ErrorKind::InvalidUtf8, &["header", "byte 2"]).await;
}

#[tokio::test]
async fn values_that_do_not_fit_are_placed() {
    let store = store();
    let mut content = "a,b\n".to_owned();
    (0..400_000).for_each(|n| content += &format!("{n},x\n"));
    content += "1.5,x\n";
    let slice = put(&store, "x.csv", content).await;
    check_problem(
        read(&store, source(&[slice])).await,
        ErrorKind::ValueMismatch,
        &["column \"a\"", "row 400001", "line 400002", "\"1.5\"", "Int64"],
    );
    let slice = put(&store, "x.csv", "a,b\n1,x\nNA,y\nz,z\n").await;
    let declared = |columns| {
        let mut source = source(std::slice::from_ref(&slice));
        source.declared = declare(columns);
        read(&store, source)
    };
    check_problem(
        declared(&[("a", "Int8", true)]).await,
        ErrorKind::ValueMismatch,
        &["column \"a\"", "row 3", "line 4", "byte 13", "\"z\"", "Int8"],
    );
    check_problem(declared(&[("a", "Utf8", false)]).await, ErrorKind::NullValue, &["column \"a\"", "row 2"]);
    let decimals = declared(&[("a", "Decimal128(9, 2)", true)]).await;
    check_problem(decimals, ErrorKind::ValueMismatch, &["column \"a\"", "row 3", "\"z\""]);
    let slice = put(&store, "x.csv", "t\n2024-01-31T10:00:00.250000000\n2024-01-31T10:00:00.2501\n").await;
    let mut times = source(&[slice]);
    times.declared = declare(&[("t", "Timestamp(Millisecond, None)", true)]);
    check_problem(
        read(&store, times).await,
        ErrorKind::ValueMismatch,
        &["column \"t\"", "row 2", ".2501", "Timestamp(ms)"],
    );
}

/// Reads a column whose last value stands behind what types are guessed from.
async fn late(early: &str, last: &str, declared: Option<&str>) -> Result<RecordBatch, Problem> {
    let store = store();
    let lines = SAMPLE_BYTES / early.len() + 1;
    let slice = put(&store, "x.csv", format!("a\n{}{last}\n", format!("{early}\n").repeat(lines))).await;
    let mut source = source(&[slice]);
    source.declared = declared.and_then(|data_type| declare(&[("a", data_type, true)]));
    read(&store, source).await
}

async fn check_late(early: &str, last: &str, declared: Option<&str>, expected: &str) {
    let found = late(early, last, declared).await.unwrap();
    let last_row = rows(&found.slice(found.num_rows() - 1, 1));
    assert_eq!(last_row, [expected], "{last} behind {early}");
}

async fn check_lost(early: &str, last: &str, words: &[&str]) {
    let words = [words, &["column \"a\"", "row ", last]].concat();
    check_problem(late(early, last, None).await, ErrorKind::ValueMismatch, &words);
}

#[tokio::test]
async fn numbers_lose_nothing_for_coming_late() {
    for code in ["00123", "-007", "+01", "00"] {
        check_lost("12345678", code, &["Int64", "zeros in front"]).await;
        check_lost("12345.25", code, &["Float64", "zeros in front"]).await;
    }
    for long in ["9007199254740993", "-1234567890123456"] {
        check_lost("12345.25", long, &["Float64", "last digits"]).await;
        check_late("12345678", long, None, long).await;
    }
    check_lost("12345678", "x", &["Int64", "\"x\"; mend"]).await;
    for (last, expected) in [("0", "0"), ("-0", "0"), (" 7", "7"), ("3.0", "3"), ("NA", "∅")] {
        check_late("12345678", last, None, expected).await;
    }
    for (last, expected) in [
        ("0", "0.0"),
        ("-0.25", "-0.25"),
        ("123456789012345", "123456789012345.0"),
        ("1234567890123456.5", "1234567890123456.5"),
        ("1e300", "1e300"),
        ("NA", "∅"),
    ] {
        check_late("12345.25", last, None, expected).await;
    }
    // Who declares a type knows what it takes.
    check_late("12345678", "00123", Some("Int64"), "123").await;
    check_late("12345678", "00123", Some("Int32"), "123").await;
    check_late("12345.25", "007", Some("Float64"), "7.0").await;
    check_late("12345.25", "9007199254740993", Some("Float64"), "9007199254740992.0").await;
}

#[tokio::test]
async fn moments_keep_their_zones_however_late() {
    let (local, zoned) = ("2024-01-01T00:00:00", "2024-01-01T00:00:00Z");
    for last in [zoned, "2024-01-01T00:00:00+02:00"] {
        check_lost(local, last, &["Timestamp(µs)", "zone would be lost"]).await;
    }
    for last in [local, "2024-01-01"] {
        check_lost(zoned, last, &["UTC", "no zone"]).await;
    }
    check_late(local, "2024-01-02", None, "2024-01-02T00:00:00").await;
    check_late(zoned, "2024-01-01T00:00:00+02:00", None, "2023-12-31T22:00:00Z").await;
    let declared = Some("Timestamp(Microsecond, None)");
    check_late(local, "2024-01-01T00:00:00+02:00", declared, "2023-12-31T22:00:00").await;
}

#[tokio::test]
async fn names_tell_the_delimiter() {
    let content = b"a\tb\n1,5\t2\n";
    for (name, content) in
        [("x.tsv", content.to_vec()), ("x.TAB", content.to_vec()), ("x.tsv.gz", gzip(content))]
    {
        let batch = read_content(name, content).await.unwrap();
        assert_eq!(
            (types(&batch), rows(&batch)),
            (vec!["a Utf8".into(), "b Int64".into()], vec!["1,5|2".into()])
        );
    }
    let store = store();
    let slice = put(&store, "x.tsv", "a\t,b\n1,2\n").await;
    let mut given = source(std::slice::from_ref(&slice));
    given.csv.delimiter = Some(',');
    assert_eq!(types(&read(&store, given).await.unwrap()), ["a\t Int64", "b Int64"]);
    // Also of a part, and where the format is said.
    let slice = put(&store, "x.tsv", "a\tb\n1\t2\n3\t4\n").await;
    let mut part = source(&[range(&slice, 8, 12)]);
    part.format = Format::Csv;
    assert_eq!(rows(&read(&store, part).await.unwrap()), ["3|4"]);
}

#[tokio::test]
async fn json_is_not_taken_for_a_header() {
    let line = b"{\"a\":7}\n";
    let jsonl = ["JSON object", "format = \"jsonl\""];
    problem("x.csv", &line[..], ErrorKind::FormatUnknown, &jsonl).await;
    problem("x.csv.gz", gzip(line), ErrorKind::FormatUnknown, &jsonl).await;
    problem("x.tsv", &b"{\n  \"a\": 7\n}\n"[..], ErrorKind::FormatUnknown, &jsonl).await;
    problem("x.csv", &b"[{\"a\":7}]\n"[..], ErrorKind::FormatUnknown, &["array of JSON"]).await;
    let store = store();
    for content in [line.to_vec(), gzip(line)] {
        let mut asked = source(&[put(&store, "x.csv", content).await]);
        asked.format = Format::Csv;
        check_problem(read(&store, asked.clone()).await, ErrorKind::FormatUnknown, &jsonl);
        asked.csv.header = false;
        assert_eq!(rows(&read(&store, asked.clone()).await.unwrap()), ["{\"a\":7}"]);
        asked.format = Format::Jsonl;
        assert_eq!(rows(&read(&store, asked).await.unwrap()), ["7"]);
    }
    check("{a},b\n1,2\n", &["{a} Int64", "b Int64"], &["1|2"]).await;
}

#[tokio::test]
async fn declared_types_are_read() {
    let store = store();
    let slice = put(
        &store,
        "x.csv",
        "i,u,f,d,t,s,c,b\n-1,18446744073709551615,1,2024-01-31,2024-01-31,007,1.25,true\n",
    )
    .await;
    let mut source = source(&[slice]);
    source.declared = declare(&[
        ("s", "Utf8", false),
        ("i", "Int16", false),
        ("u", "UInt64", true),
        ("f", "Float32", false),
        ("d", "Date32", true),
        ("t", "Timestamp(Millisecond, None)", true),
        ("c", "Decimal128(9, 2)", true),
        ("b", "Boolean", true),
    ]);
    let batch = read(&store, source).await.unwrap();
    assert_eq!(rows(&batch), ["007|-1|18446744073709551615|1.0|2024-01-31|2024-01-31T00:00:00|1.25|true"]);
    assert_eq!(types(&batch)[5..7], ["t Timestamp(ms)", "c Decimal128(9, 2)"]);
    assert!(!batch.schema().field(0).is_nullable());
}

#[tokio::test]
async fn the_sample_of_german_credit_is_read() {
    let batch =
        read_content("german.csv", &include_bytes!("../data/german_credit_20.csv")[..]).await.unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (20, 21));
    let telephone = batch.column_by_name("telephone").unwrap().as_string::<i32>();
    assert_eq!(telephone.value(0), "yes, registered under the customers name");
    let amounts = batch.column_by_name("credit_amount").unwrap().as_primitive::<Int64Type>();
    assert_eq!(amounts.value(1), 5_951);
}

/// Rows of different lengths, with quoted line feeds, over several chunks.
fn long_table(records: usize) -> (Vec<u8>, Vec<u64>) {
    let mut content = b"id,text,value\n".to_vec();
    let mut starts = Vec::new();
    for n in 0..records {
        starts.push(content.len() as u64);
        let text = "x\n\"\"".repeat(n % 17);
        writeln!(content, "{n},\"{text}\",{}.25", n * 7).unwrap();
    }
    (content, starts)
}

#[tokio::test]
async fn large_objects_stream_and_slices_make_up_the_whole() {
    let store = store();
    let (content, starts) = long_table(400_000);
    let size = content.len() as u64;
    assert!(size > 16 << 20);
    let slice = put(&store, "x.csv", content).await;
    let (_, whole) = batches(&store, source(std::slice::from_ref(&slice))).await.unwrap();
    assert!(whole.len() < 20, "{}", whole.len());
    let whole = arrow::compute::concat_batches(&whole[0].schema(), &whole).unwrap();
    assert_eq!(whole.num_rows(), 400_000);
    let ids = whole.column(0).as_primitive::<Int64Type>();
    assert!(ids.values().iter().enumerate().all(|(n, id)| n as i64 == *id));
    let cuts = [0, starts[1], starts[7], starts[100_000], starts[100_001], starts[399_999], size];
    let parts: Vec<_> = cuts.windows(2).map(|pair| range(&slice, pair[0], pair[1])).collect();
    assert_eq!(read(&store, source(&parts)).await.unwrap(), whole);
    // Each part alone has the same types, and only its own rows.
    let part = read(&store, source(&parts[4..5])).await.unwrap();
    assert_eq!(part, whole.slice(100_001, 299_998));
}

#[tokio::test]
async fn parts_of_declared_columns_read_little_of_the_beginning() {
    let store = store();
    let (content, starts) = long_table(400_000);
    let slice = put(&store, "x.csv", content).await;
    let meter = fanfold_storage::Meter::new();
    let mut part = source(&[range(&slice, starts[300_000], starts[300_100])]);
    part.columns = names(&["value", "id"]);
    part.declared = declare(&[("id", "Int64", true), ("value", "Float64", true)]);
    let rows = read(&store.with_meter(meter.clone()), part).await.unwrap();
    let ids = rows.column(1).as_primitive::<Int64Type>();
    assert_eq!((rows.num_rows(), ids.value(0)), (100, 300_000));
    assert!(meter.usage().bytes_read < 200_000, "{:?}", meter.usage());
}

#[tokio::test]
async fn mistakes_in_slices_are_counted_from_their_start() {
    let store = store();
    let slice = put(&store, "x.csv", "a,b\n1,2\n3,4\n5\n").await;
    let found = read(&store, source(&[range(&slice, 8, 14)])).await;
    check_problem(found, ErrorKind::CsvFieldCount, &["row 2", "line 2 from byte 8", "byte 12"]);
    let found = read(&store, source(&[range(&slice, 8, 99)])).await;
    check_problem(found, ErrorKind::InvalidJob, &["bytes 8..99"]);
}

#[tokio::test]
async fn records_beyond_the_limit_are_refused() {
    let mut content = b"a,b\n1,\"".to_vec();
    content.resize(20 << 20, b'x');
    problem("x.csv", content, ErrorKind::DecodeLimit, &["row 1", "line 2", "8388608", "quote"]).await;
    let mut header = b"\"".to_vec();
    header.resize(20 << 20, b'x');
    problem("x.csv", header, ErrorKind::DecodeLimit, &["first record"]).await;
    // A record of 7 MiB is none of these, and makes a batch of its own.
    let long = "x".repeat(7 << 20);
    let batch = read_content("x.csv", format!("a,b\n1,{long}\n2,{long}\n")).await.unwrap();
    assert_eq!(batch.num_rows(), 2);
    // One that is too large is refused also where its end is fetched with what is before it.
    let store = store();
    for (bytes, fits) in [(8_300_000, true), (8_500_000, false)] {
        let content = format!("a,b\n1,x\n2,{}\n", "x".repeat(bytes));
        let asked = TableSource { columns: names(&["a"]), ..source(&[put(&store, "x.csv", content).await]) };
        let found = read(&store, asked).await;
        match fits {
            true => assert_eq!(rows(&found.unwrap()), ["1", "2"]),
            false => check_problem(found, ErrorKind::DecodeLimit, &["row 2", "line 3", "8388608"]),
        }
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(content, 1).unwrap()
}

#[tokio::test]
async fn compressed_text_is_told_by_its_content() {
    let (content, _) = long_table(150_000);
    let plain = read_content("x.csv", content.clone()).await.unwrap();
    let (first, second) = content.split_at(1_000_000);
    assert_eq!(read_content("x.csv.gz", gzip(&content)).await.unwrap(), plain);
    assert_eq!(read_content("x", [gzip(first), gzip(second)].concat()).await.unwrap(), plain);
    // Zeros behind it fill up blocks, and mean nothing.
    let padded = [gzip(&content), vec![0; 5 << 20]].concat();
    assert_eq!(read_content("x.csv.gz", padded).await.unwrap(), plain);
    assert_eq!(read_content("x.csv.zst", zstd(&content)).await.unwrap(), plain);
    assert_eq!(read_content("x.csv", [zstd(first), zstd(second)].concat()).await.unwrap(), plain);
    // Blocks may be full to the last byte.
    for bytes in [128 << 10, 256 << 10, 1 << 20] {
        let whole = [b"a\n", "1\n".repeat(bytes / 2 - 1).as_bytes()].concat();
        let plain = read_content("x.csv", whole.clone()).await.unwrap();
        assert_eq!(read_content("x.csv.zst", zstd(&whole)).await.unwrap(), plain, "{bytes} bytes");
    }
    // Of what is empty there may be any number; others have their turn meanwhile.
    let empty = [zstd(&[]).repeat(100_000), zstd(&content)].concat();
    assert_eq!(read_content("x.csv", empty).await.unwrap(), plain);
    // As pzstd writes it: before each frame one to skip, which has the length of that.
    let framed = |content: &[u8]| [&b"\x50\x2a\x4d\x18\x04\0\0\0size"[..], &zstd(content)].concat();
    assert_eq!(read_content("x", [framed(first), framed(second)].concat()).await.unwrap(), plain);
    let whole = ["compressed as a whole", "Parquet"];
    problem("x.parquet.gz", gzip(&content), ErrorKind::FormatUnknown, &whole).await;
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 9);
        bytes
    };
    problem("x.csv.gz", cut(gzip(&content)), ErrorKind::CsvMalformed, &["gzip"]).await;
    problem("x.csv.zst", cut(zstd(&content)), ErrorKind::CsvMalformed, &["Zstandard"]).await;
    let mut flipped = gzip(&content);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    assert!(read_content("x.csv.gz", flipped).await.is_err());
}

#[tokio::test]
async fn bombs_are_defused() {
    let mut content = b"a,b\n".to_vec();
    content.extend(b"1,2\n".repeat(75 << 20 >> 2));
    problem("x.csv.gz", gzip(&content), ErrorKind::DecodeLimit, &["200"]).await;
    problem("x.csv.zst", zstd(&content), ErrorKind::DecodeLimit, &["200"]).await;
}

#[tokio::test]
async fn compressed_text_has_no_slices() {
    let store = store();
    let slice = put(&store, "x.csv.gz", gzip(b"a,b\n1,2\n")).await;
    let found = read(&store, source(&[range(&slice, 4, slice.object.pin.size)])).await;
    check_problem(found, ErrorKind::InvalidJob, &["compressed"]);
}

#[tokio::test]
async fn wide_tables_are_read() {
    let header: Vec<String> = (0..5_000).map(|n| format!("c{n}")).collect();
    let row: Vec<String> = (0..5_000).map(|n| n.to_string()).collect();
    let content = format!("{}\n{}", header.join(","), format!("{}\n", row.join(",")).repeat(200));
    let batch = read_content("x.csv", content).await.unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (200, 5_000));
    assert_eq!(batch.column(4_999).as_primitive::<Int64Type>().value(199), 4_999);
    let header: Vec<String> = (0..10_001).map(|n| format!("c{n}")).collect();
    problem("x.csv", format!("{}\n", header.join(",")), ErrorKind::DecodeLimit, &["10000"]).await;
}

#[tokio::test]
async fn several_objects_are_one_table() {
    let store = store();
    let first = put(&store, "x.csv", "a,b\n1,x\n").await;
    let turned = put(&store, "y.csv", "b,a\ny,2\n").await;
    let batch = read(&store, source(&[first.clone(), turned])).await.unwrap();
    assert_eq!(rows(&batch), ["1|x", "2|y"]);
    let other = put(&store, "z.csv", "a,c\n1,x\n").await;
    let name = other.object.uri.to_string();
    let found = read(&store, source(&[first.clone(), other])).await;
    check_problem(found, ErrorKind::SchemaMismatch, &[name.as_str(), "\"c\""]);
    let floats = put(&store, "f.csv", "a,b\n1.5,x\n").await;
    let found = read(&store, source(&[first, floats])).await;
    check_problem(found, ErrorKind::ValueMismatch, &["row 1", "\"1.5\"", "Int64"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// What the crate `csv` writes and reads, is read the same here.
    #[test]
    fn text_is_read_as_the_csv_crate_reads_it(
        table in (1_usize..5).prop_flat_map(|width| {
            let field = prop_oneof!["[a-z0-9]{0,6}", "[ ,\"\r\néx]{0,8}", "[0-9]{0,3}"];
            proptest::collection::vec(proptest::collection::vec(field, width), 1..60)
        }),
        crlf: bool,
        always: bool,
    ) {
        let terminator = if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
        let style = if always { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
        let mut writer = csv::WriterBuilder::new().terminator(terminator).quote_style(style).from_writer(Vec::new());
        table.iter().for_each(|record| writer.write_record(record).unwrap());
        let content = writer.into_inner().unwrap();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(content.as_slice());
        let expected: Vec<Vec<String>> =
            reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let batch = runtime.block_on(async {
            let store = store();
            let slice = put(&store, "x.csv", content).await;
            let mut source = source(&[slice]);
            source.format = Format::Csv;
            source.csv = CsvOptions { header: false, nulls: Vec::new(), ..CsvOptions::default() };
            let names: Vec<String> = (1..=table[0].len()).map(|n| format!("column_{n}")).collect();
            let columns: Vec<_> = names.iter().map(|n| (n.as_str(), "Utf8", false)).collect();
            source.declared = declare(&columns);
            read(&store, source).await.unwrap()
        });
        let found: Vec<Vec<String>> = (0..batch.num_rows())
            .map(|row| batch.columns().iter().map(|c| c.as_string::<i32>().value(row).to_owned()).collect())
            .collect();
        prop_assert_eq!(found, expected);
    }
}
