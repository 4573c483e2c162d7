// SPDX-License-Identifier: Apache-2.0
//! Parts of objects read back: together they are the whole, in values and types.

use std::sync::Arc;

use ::arrow::{
    array::{Array, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray},
    compute::concat_batches,
    datatypes::{DataType, Field, Int64Type, Schema},
    ipc::writer::FileWriter,
};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind,
    job::CsvOptions,
    plan::{self, Slice},
    stored::{
        BOM, SAMPLE_BYTES, arrow,
        csv::Scanner,
        cut::{CsvCuts, line_end, next_aim, ranges},
        parquet::{TRAILER_BYTES, footer_length, row_group_bytes},
    },
};
use fanfold_runtime::tables::{Like, TableReader, TableSource};
use fanfold_storage::Store;
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::support::{check_problem, declare, put, range, read, source, store};

/// The whole object in slices, one for each part.
fn parts(whole: &Slice, cuts: &[u64]) -> Vec<Slice> {
    let parts = ranges(whole.object.pin.size, cuts);
    parts.into_iter().map(|part| range(whole, part.start, part.end)).collect()
}

fn csv_cuts(text: &[u8], csv: &CsvOptions, target: u64) -> Vec<u64> {
    let mut cuts = CsvCuts::new(Scanner::new("x.csv", csv).unwrap(), csv.header, target);
    text.chunks(7).for_each(|piece| cuts.feed(piece));
    cuts.finish(text.len() as u64)
}

fn line_cuts(text: &[u8], target: u64) -> Vec<u64> {
    let (mut cuts, mut aim) = (Vec::new(), next_aim(0, target));
    while let Some(cut) = line_end(text, 0, aim).filter(|cut| *cut < text.len() as u64) {
        cuts.push(cut);
        aim = next_aim(cut, target);
    }
    cuts
}

fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let row =
        |row: usize| batch.columns().iter().map(|c| c.as_string::<i32>().value(row).to_owned()).collect();
    (0..batch.num_rows()).map(row).collect()
}

/// A field as it may be written: its text, and whether it is put in quotes
/// although it need not be.
fn field() -> impl Strategy<Value = (String, bool)> {
    ("(a|b|é|,|\"|\"\"|\n|\r\n|\r| ){0,6}", any::<bool>())
}

/// CSV of any content, by the csv crate's own idea of a quoted field.
fn written(rows: &[Vec<(String, bool)>], bom: bool, crlf: bool, last: bool, header: bool) -> Vec<u8> {
    let mut out = if bom { BOM.to_vec() } else { Vec::new() };
    let width = rows.first().map_or(1, Vec::len);
    let names: Vec<_> = (0..width).map(|n| (format!("c\n{n}"), true)).collect();
    let all: Vec<_> = header.then_some(&names).into_iter().chain(rows).collect();
    for (number, row) in all.iter().enumerate() {
        for (place, (text, quoted)) in row.iter().enumerate() {
            let needed = text.is_empty() || text.contains(['"', ',', '\n', '\r']);
            let field =
                if *quoted || needed { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.clone() };
            out.extend(if place > 0 { "," } else { "" }.bytes().chain(field.bytes()));
        }
        if last || number + 1 < all.len() {
            out.extend(if crlf { "\r\n" } else { "\n" }.bytes());
        }
    }
    out
}

fn rows() -> impl Strategy<Value = Vec<Vec<(String, bool)>>> {
    (1_usize..4).prop_flat_map(|width| {
        proptest::collection::vec(proptest::collection::vec(field(), width..=width), 1..8)
    })
}

/// Reads every slice as a task of its own would.
async fn read_each(store: &Store, slices: &[Slice], source: &TableSource) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    for slice in slices {
        batches
            .push(read(store, TableSource { slices: vec![slice.clone()], ..source.clone() }).await.unwrap());
    }
    batches
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_of_csv_hold_what_the_csv_crate_reads(
        rows in rows(), bom: bool, crlf: bool, last: bool, header: bool, target in 1_u64..60
    ) {
        let text = written(&rows, bom, crlf, last, header);
        let expected: Vec<Vec<String>> = csv::ReaderBuilder::new()
            .has_headers(header)
            .from_reader(&text[..])
            .records()
            .map(|record| record.unwrap().iter().map(str::to_owned).collect())
            .collect();
        prop_assert_eq!(expected.len(), rows.len());
        Runtime::new().unwrap().block_on(async {
            let store = store();
            let options = CsvOptions { header, nulls: Vec::new(), ..CsvOptions::default() };
            let whole = put(&store, "x.csv", text.clone()).await;
            let slices = parts(&whole, &csv_cuts(&text, &options, target));
            let name = |n: usize| if header { format!("c\n{n}") } else { format!("column_{}", n + 1) };
            let names: Vec<String> = (0..rows[0].len()).map(name).collect();
            let declared: Vec<_> = names.iter().map(|name| (name.as_str(), "Utf8", false)).collect();
            let as_text = TableSource { csv: options, declared: declare(&declared), ..source(&slices) };
            let together = texts(&read(&store, as_text.clone()).await.unwrap());
            assert_eq!(together, expected, "one task");
            let each: Vec<_> = read_each(&store, &slices, &as_text).await.iter().flat_map(texts).collect();
            assert_eq!(each, expected, "a task each");
            // And in the types that the text suggests.
            let untyped = TableSource { declared: None, ..as_text };
            let whole = read(&store, TableSource { slices: vec![whole], ..untyped.clone() }).await.unwrap();
            for batch in read_each(&store, &slices, &untyped).await {
                assert_eq!(batch.schema(), whole.schema());
            }
        });
    }

    #[test]
    fn the_parts_of_json_lines_hold_all_lines(
        lines in proptest::collection::vec("(a|é|\\\\n|\\{| ){0,8}", 1..12), bom: bool, crlf: bool, last: bool, target in 1_u64..60
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let line = |text: &String| format!("{{\"t\":\"{text}\"}}");
        let body = lines.iter().map(line).collect::<Vec<_>>().join(end);
        let text = format!("{}{body}{}", if bom { "\u{feff}" } else { "" }, if last { end } else { "" });
        let expected: Vec<Vec<String>> = lines.iter().map(|l| vec![l.replace("\\n", "\n")]).collect();
        Runtime::new().unwrap().block_on(async {
            let store = store();
            let whole = put(&store, "x.jsonl", text.clone()).await;
            let slices = parts(&whole, &line_cuts(text.as_bytes(), target));
            let each = read_each(&store, &slices, &source(&slices)).await;
            assert_eq!(each.iter().flat_map(texts).collect::<Vec<_>>(), expected);
        });
    }
}

#[tokio::test]
async fn a_part_refuses_what_the_whole_refuses() {
    let store = store();
    // What the reader behind the sample would take.
    for bad in ["{\"n\":1e400}", "{\"n\":1 \"m\":2}"] {
        let text = format!("{}{bad}\n", "{\"n\":0.5}\n".repeat(20));
        let whole = put(&store, "x.jsonl", text.clone()).await;
        let declared = declare(&[("n", "Float64", false)]);
        let reading =
            |slice: Slice| read(&store, TableSource { declared: declared.clone(), ..source(&[slice]) });
        let part = parts(&whole, &line_cuts(text.as_bytes(), 50)).pop().unwrap();
        for slice in [whole, part] {
            check_problem(reading(slice).await, ErrorKind::JsonMalformed, &["one JSON object"]);
        }
    }
}

#[tokio::test]
async fn types_are_told_from_the_last_record_of_a_sample_that_is_all() {
    let store = store();
    for (name, first, record, last) in
        [("x.csv", "n\n", "1\n", "0.5"), ("x.jsonl", "", "{\"n\":1}\n", "{\"n\":0.5}")]
    {
        let rows = (SAMPLE_BYTES - first.len() - last.len()) / record.len();
        let text = format!("{first}{}", record.repeat(rows));
        let fill = "\n".repeat(SAMPLE_BYTES - text.len() - last.len());
        let whole = put(&store, name, text + &fill + last).await;
        let size = whole.object.pin.size;
        assert_eq!(size, SAMPLE_BYTES as u64);
        let part = range(&whole, 0, (first.len() + record.len()) as u64);
        for slice in [whole, part] {
            let batch = read(&store, source(&[slice])).await.unwrap();
            assert_eq!(batch.schema().field(0).data_type(), &DataType::Float64, "{name}");
        }
    }
}

#[tokio::test]
async fn a_part_has_the_types_of_its_object() {
    let store = store();
    let check = async |name: &str, text: String, expected: &[DataType]| {
        let whole = put(&store, name, text.clone()).await;
        let cuts = match name.ends_with("csv") {
            true => csv_cuts(text.as_bytes(), &CsvOptions::default(), 40),
            false => line_cuts(text.as_bytes(), 40),
        };
        let slices = parts(&whole, &cuts);
        assert!(slices.len() > 3, "{name}");
        for batch in read_each(&store, &slices, &source(&slices)).await {
            let types: Vec<_> = batch.schema().fields().iter().map(|f| f.data_type().clone()).collect();
            assert_eq!(types, expected, "{name}");
        }
    };
    // Only the last record tells: it stands in no other part.
    let rows: String = (0..60).map(|n| format!("{n},{n}\n")).collect();
    check("x.csv", format!("n,t\n{rows}0.5,x"), &[DataType::Float64, DataType::Utf8]).await;
    let rows: String = (0..60).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    check("x.jsonl", format!("{rows}{{\"n\":0.5}}"), &[DataType::Float64]).await;
}

#[tokio::test]
async fn problems_in_parts_are_counted_from_their_first_byte() {
    let store = store();
    let text = "n,t\n1,a\n2,b\n3,c,d\n";
    let whole = put(&store, "x.csv", text).await;
    let bad = source(&[range(&whole, 8, 18)]);
    check_problem(read(&store, bad).await, ErrorKind::CsvFieldCount, &["row 2", "from byte 8", "byte 12"]);
    // Of several slices, the one to blame is named.
    let good = put(&store, "y.csv", "n,t\n1,a\n").await;
    let uri = whole.object.uri.to_string();
    check_problem(read(&store, source(&[good, whole])).await, ErrorKind::CsvFieldCount, &[&uri, "row 3"]);
}

#[tokio::test]
async fn another_object_settles_the_types() {
    let store = store();
    let settled = Arc::default();
    let open = async |slice: &Slice, like: &Slice, declared| {
        let of = plan::Like { object: like.object.clone(), others: Vec::new() };
        let like = Like { of, settled: Arc::clone(&settled) };
        let source = TableSource { declared, ..source(std::slice::from_ref(slice)) };
        TableReader::open_like(store.clone(), source, Some(like)).await
    };
    let types = |reader: &TableReader| reader.schema().field(0).data_type().clone();
    let (floats, whole) = (put(&store, "f.csv", "n\n0.5\n").await, put(&store, "w.csv", "n\n1\n").await);
    for _ in 0..2 {
        assert_eq!(types(&open(&whole, &floats, None).await.unwrap()), DataType::Float64);
    }
    assert_eq!(types(&open(&whole, &whole, None).await.unwrap()), DataType::Int64);
    let mut reader = open(&floats, &whole, None).await.unwrap();
    let uri = floats.object.uri.to_string();
    check_problem(reader.next().await, ErrorKind::ValueMismatch, &["\"n\"", &uri, "row 1", "\"0.5\""]);
    // What the function declares needs no object.
    let gone = Slice {
        object: fanfold_protocol::uri::PinnedObject {
            uri: "s3://tables/gone".parse().unwrap(),
            ..whole.object.clone()
        },
        ..whole.clone()
    };
    assert_eq!(types(&open(&whole, &gone, declare(&[("n", "Utf8", false)])).await.unwrap()), DataType::Utf8);
    check_problem(open(&whole, &gone, None).await, ErrorKind::ObjectNotFound, &["s3://tables/gone"]);
    // Other columns.
    let other = put(&store, "o.csv", "m\n1\n").await;
    let found = open(&other, &whole, None).await;
    check_problem(
        found,
        ErrorKind::SchemaMismatch,
        &["\"m\"", &other.object.uri.to_string(), &whole.object.uri.to_string()],
    );
}

#[tokio::test]
async fn the_parts_of_an_arrow_file_hold_its_batches() {
    let batch = |from: i64, rows: i64| {
        let keys = Int32Array::from_iter_values((from..from + rows).map(|n| (n % 3) as i32));
        let words: Arc<dyn Array> = Arc::new(StringArray::from(vec!["x", "yy", "zzz"]));
        RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from_iter((from..from + rows).map(|n| (n != 77).then_some(n)))) as _),
            ("w", Arc::new(DictionaryArray::new(keys, words)) as _),
        ])
        .unwrap()
    };
    // One that has a missing value, so that all may.
    let schema = batch(0, 100).schema();
    let mut writer = FileWriter::try_new(Vec::new(), &schema).unwrap();
    let mut rows = 0;
    // One batch has no rows.
    for count in [10, 1, 0, 30, 5, 7, 50, 2] {
        writer.write(&batch(rows, count)).unwrap();
        rows += count;
    }
    let content = writer.into_inner().unwrap();
    let (store, size) = (store(), content.len() as u64);
    let length = arrow::footer_length("x", &content, size).unwrap() as usize;
    let end = content.len() - arrow::TRAILER_BYTES;
    let starts = arrow::batches(&content[end - length..end], size).unwrap();
    assert_eq!(starts.len(), 8);
    for cut in 0..length {
        let _ = arrow::batches(&content[end - length..end - length + cut], size);
    }
    let whole = put(&store, "x.arrow", content).await;
    let expected = read(&store, source(std::slice::from_ref(&whole))).await.unwrap();
    assert_eq!(expected.num_rows(), rows as usize);
    for target in [1, 300, 700, size / 2, size] {
        let slices = parts(&whole, &arrow::cuts(&starts, target));
        assert_eq!(slices.len() == 1, target == size, "{target}");
        let found = read_each(&store, &slices, &source(&slices)).await;
        assert_eq!(concat_batches(&expected.schema(), &found).unwrap(), expected, "{target}");
    }
    // Rows are counted from where the part's first batch begins.
    let last = parts(&whole, &arrow::cuts(&starts, 1)).pop().unwrap();
    let mut required = source(&[range(&whole, starts[6], size)]);
    required.declared = declare(&[("n", "Int64", false)]);
    let place = format!("row 25 from byte {}", starts[6]);
    check_problem(read(&store, required.clone()).await, ErrorKind::NullValue, &["\"n\"", &place]);
    required.slices = vec![last];
    assert_eq!(read(&store, required).await.unwrap().num_rows(), 2);
}

/// Parquet of row groups of so many rows.
fn parquet(groups: usize, rows: usize) -> Bytes {
    let batch = |group: usize| {
        let numbers: Vec<i64> = (0..rows as i64).map(|n| n + (group * rows) as i64).collect();
        let words: Vec<String> = numbers.iter().map(|n| format!("word {}", n * 7_919)).collect();
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("w", DataType::Utf8, false),
        ]);
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(Int64Array::from(numbers)), Arc::new(StringArray::from(words))];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    };
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch(0).schema(), Some(properties)).unwrap();
    (0..groups).for_each(|group| writer.write(&batch(group)).unwrap());
    writer.into_inner().unwrap().into()
}

#[tokio::test]
async fn row_groups_are_weighed_as_their_writer_says_and_read_back() {
    let content = parquet(5, 100);
    let size = content.len() as u64;
    let length = footer_length("x", &content, size).unwrap();
    let end = content.len() - TRAILER_BYTES;
    let footer = &content[end - length..end];
    let metadata = parquet::file::metadata::ParquetMetaDataReader::decode_metadata(footer).unwrap();
    let expected: Vec<u64> = metadata.row_groups().iter().map(|g| g.compressed_size() as u64).collect();
    assert_eq!(row_group_bytes("x", footer).unwrap(), expected);
    assert_eq!(expected.len(), 5);
    for cut in 0..footer.len() {
        let _ = row_group_bytes("x", &footer[..cut]);
    }
    let store = store();
    let whole = put(&store, "x.parquet", content).await;
    let part = |groups: &[u32]| Slice { row_groups: Some(groups.to_vec()), ..whole.clone() };
    let slices = [part(&[0, 1]), part(&[2]), part(&[3, 4])];
    let numbers: Vec<i64> = read_each(&store, &slices, &source(&slices))
        .await
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}
