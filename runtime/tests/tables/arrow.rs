// SPDX-License-Identifier: Apache-2.0
//! Arrow IPC: objects, and what crosses the border to guests.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, Int32Array, Int64Array, LargeStringArray,
        ListArray, ListViewArray, NullArray, RecordBatch, RunArray, StringArray, StringViewArray,
        StructArray, UInt32Array,
    },
    buffer::{OffsetBuffer, ScalarBuffer},
    compute::take,
    datatypes::{DataType, Field, Int32Type, Schema},
    ipc::{
        CompressionType,
        writer::{DictionaryHandling, FileWriter, IpcWriteOptions, StreamWriter},
    },
};
use fanfold_protocol::{ErrorKind, Problem, limits};
use fanfold_runtime::tables::{decode, encode, encode_schema};
use proptest::prelude::*;

use crate::{parquet_files::mixed, support::*};

fn file(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), batches[0].schema_ref(), options).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.into_inner().unwrap()
}

fn stream(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), batches[0].schema_ref(), options).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.into_inner().unwrap()
}

fn with_dictionary(rows: usize, value: &str) -> RecordBatch {
    let values: ArrayRef = Arc::new(StringArray::from(vec![value, "y"]));
    let keys = Int32Array::from_iter((0..rows).map(|n| (n % 5 != 4).then_some((n % 2) as i32)));
    let runs = RunArray::<Int32Type>::try_new(
        &Int32Array::from(vec![rows as i32 - 1, rows as i32]),
        &Int64Array::from(vec![7, 8]),
    );
    RecordBatch::try_from_iter([
        ("dictionary", Arc::new(DictionaryArray::new(keys, values)) as ArrayRef),
        (
            "view",
            Arc::new(StringViewArray::from_iter_values((0..rows).map(|n| format!("a rather long text {n}")))),
        ),
        ("large", Arc::new(LargeStringArray::from_iter_values((0..rows).map(|n| n.to_string())))),
        ("runs", Arc::new(runs.unwrap())),
    ])
    .unwrap()
}

#[tokio::test]
async fn files_and_streams_are_read_as_written() {
    let store = store();
    let table = mixed(30_000);
    let parts: Vec<_> = (0..30).map(|n| table.slice(n * 1_000, 1_000)).collect();
    for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        for content in [file(&parts, compression), stream(&parts, compression)] {
            let slice = put(&store, "x", content).await;
            let (schema, found) = batches(&store, source(std::slice::from_ref(&slice))).await.unwrap();
            assert!(found.len() < 10, "{}", found.len());
            let found = arrow::compute::concat_batches(&schema, &found).unwrap();
            assert_eq!(found, nullable(&table), "{compression:?}");
            let mut narrow = source(&[slice]);
            narrow.columns = names(&["text", "id"]);
            let narrow = read(&store, narrow).await.unwrap();
            assert_eq!(narrow, nullable(&table.project(&[4, 0]).unwrap()));
        }
    }
}

#[tokio::test]
async fn large_files_stream() {
    let store = store();
    let table = mixed(240_000);
    let parts: Vec<_> = (0..8).map(|n| table.slice(n * 30_000, 30_000)).collect();
    for content in [file(&parts, None), stream(&parts, None), file(std::slice::from_ref(&table), None)] {
        assert!(content.len() as u64 > limits::RANGE_BYTES_MAX, "{}", content.len());
        let slice = put(&store, "x", content).await;
        assert_eq!(read(&store, source(&[slice])).await.unwrap(), nullable(&table));
    }
}

#[tokio::test]
async fn types_are_made_plain() {
    let expected = ["dictionary Utf8", "view Utf8", "large Utf8", "runs Int64"];
    let table = with_dictionary(6, "x");
    for content in [file(std::slice::from_ref(&table), None), stream(std::slice::from_ref(&table), None)] {
        let found = read_content("x", content).await.unwrap();
        assert_eq!(types(&found), expected);
        assert_eq!(
            rows(&found)[3..],
            ["y|a rather long text 3|3|7", "∅|a rather long text 4|4|7", "y|a rather long text 5|5|8"]
        );
    }
}

#[tokio::test]
async fn dictionaries_do_not_expand_in_files() {
    let store = store();
    let table = with_dictionary(100_000, &"x".repeat(1 << 20));
    let slice = put(&store, "x", file(&[table], None)).await;
    let mut reader = fanfold_runtime::tables::TableReader::open(store, source(&[slice])).await.unwrap();
    for _ in 0..10 {
        assert!(reader.next().await.unwrap().unwrap().num_rows() < 40);
    }
}

#[tokio::test]
async fn damage_is_told() {
    let table = mixed(100);
    let content = file(std::slice::from_ref(&table), None);
    problem("x", content[..content.len() - 1].to_vec(), ErrorKind::ArrowCorrupt, &["ARROW1", "truncated"])
        .await;
    let content = stream(std::slice::from_ref(&table), None);
    let again = "write the object again";
    problem("x", content[..content.len() - 600].to_vec(), ErrorKind::ArrowCorrupt, &["byte", again]).await;
    // Behind the schema there is no message.
    let mut broken = content;
    let schema = 8 + u32::from_le_bytes(broken[4..8].try_into().unwrap()) as usize;
    broken[schema] = 0;
    problem("x", broken, ErrorKind::ArrowCorrupt, &["ff ff ff ff", &format!("byte {schema}"), again]).await;
    // A compressed buffer that claims to be 2^62 bytes.
    let zeros: ArrayRef = Arc::new(Int64Array::from(vec![0; 10_000]));
    let zeros = RecordBatch::try_from_iter([("zeros", zeros)]).unwrap();
    let mut content = stream(&[zeros], Some(CompressionType::ZSTD));
    let at = content.windows(8).position(|w| w == 80_000_u64.to_le_bytes()).unwrap();
    content[at + 7] = 0x40;
    problem("x", content, ErrorKind::DecodeLimit, &["decompress"]).await;
    // One that claims 2^30 + 1 bytes, within what its length allows, is too large for memory.
    let noise = |n: i64| if n % 4 == 0 { 0 } else { n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64) };
    let noise: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1 << 20).map(noise)));
    let noise = RecordBatch::try_from_iter([("noise", noise)]).unwrap();
    let mut content = stream(&[noise], Some(CompressionType::LZ4_FRAME));
    let at = content.windows(8).position(|w| w == (8_u64 << 20).to_le_bytes()).unwrap();
    content[at..at + 8].copy_from_slice(&((1_u64 << 30) + 1).to_le_bytes());
    problem("x", content, ErrorKind::DecodeLimit, &["1073741824"]).await;
}

#[tokio::test]
async fn flipped_bits_are_survived() {
    let store = store();
    let table = mixed(60);
    let both = [table.slice(0, 30), table.slice(30, 30)];
    let dictionary = with_dictionary(30, "x");
    let contents = [
        file(&both, None),
        stream(&both, None),
        file(&both, Some(CompressionType::LZ4_FRAME)),
        stream(&both, Some(CompressionType::ZSTD)),
        file(std::slice::from_ref(&dictionary), None),
        stream(std::slice::from_ref(&dictionary), None),
    ];
    for content in contents {
        let mut told = 0;
        for (round, at) in (8..content.len()).step_by(11).enumerate() {
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (round % 8);
            let slice = put(&store, "x.arrow", flipped).await;
            if let Err(problem) = read(&store, source(&[slice])).await {
                assert!(problem.detail.contains("s3://tables/"), "{problem:?}");
                told += 1;
            }
        }
        assert!(told > 20, "{told}");
    }
}

#[test]
fn batches_cross_the_border() {
    let table = mixed(1_000);
    let bytes = encode(&table).unwrap();
    assert_eq!(decode(&bytes).unwrap(), std::slice::from_ref(&table));
    let schema = encode_schema(table.schema_ref()).unwrap();
    assert_eq!(decode(&schema).unwrap(), [RecordBatch::new_empty(table.schema())]);
    let several = stream(&[table.slice(0, 400), table.slice(400, 600)], None);
    assert_eq!(decode(&several).unwrap(), [table.slice(0, 400), table.slice(400, 600)]);
    let plain = decode(&stream(&[with_dictionary(6, "x")], None)).unwrap();
    assert_eq!(types(&plain[0]), ["dictionary Utf8", "view Utf8", "large Utf8", "runs Int64"]);
}

#[test]
fn hostile_streams_are_refused() {
    check_problem(decode(&[]), ErrorKind::ArrowCorrupt, &["schema"]);
    check_problem(decode(b"hello, world"), ErrorKind::ArrowCorrupt, &["ff ff ff ff"]);
    check_problem(decode(&[0xff; 12]), ErrorKind::ArrowCorrupt, &["found -1"]);
    let table = mixed(100);
    let bytes = stream(std::slice::from_ref(&table), None);
    check_problem(decode(&bytes[..bytes.len() - 500]), ErrorKind::ArrowCorrupt, &["the end after"]);
    check_problem(
        decode(&stream(std::slice::from_ref(&table), Some(CompressionType::ZSTD))),
        ErrorKind::ArrowCorrupt,
        &["without compression"],
    );
    check_problem(decode(&vec![0; 17 << 20]), ErrorKind::TransferTooLarge, &["16777216"]);
    let bomb = stream(&[with_dictionary(10_000, &"x".repeat(1 << 20))], None);
    check_problem(decode(&bomb), ErrorKind::TransferTooLarge, &["dictionaries"]);
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Null, true)]));
    let nothing = RecordBatch::try_new(schema, vec![Arc::new(NullArray::new(1 << 40))]).unwrap();
    check_problem(decode(&stream(&[nothing], None)), ErrorKind::ArrowCorrupt, &["rows", "1099511627776"]);
    let large: ArrayRef = Arc::new(Int64Array::from(vec![0; 2 << 20]));
    let large = RecordBatch::try_from_iter([("n", large)]).unwrap();
    check_problem(encode(&large), ErrorKind::DecodeLimit, &[&limits::BATCH_BYTES_MAX.to_string()]);
}

#[test]
fn views_that_share_text_do_not_expand() {
    let text = "x".repeat(1 << 20);
    let mut builder = arrow::array::StringViewBuilder::new();
    let block = builder.append_block(text.as_bytes().to_vec().into());
    (0..1_000).for_each(|_| builder.try_append_view(block, 0, 1 << 20).unwrap());
    let views = RecordBatch::try_from_iter([("v", Arc::new(builder.finish()) as ArrayRef)]).unwrap();
    check_problem(decode(&stream(&[views], None)), ErrorKind::TransferTooLarge, &["views"]);
}

/// What work gives that might never end.
fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(60)).expect("an end within a minute")
}

fn column(values: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("v", values)]).unwrap()
}

fn item(values: &ArrayRef) -> Arc<Field> {
    Arc::new(Field::new_list_field(values.data_type().clone(), true))
}

/// So many list views, each of which is all of `values`.
fn views(values: ArrayRef, count: usize) -> ArrayRef {
    let sizes = ScalarBuffer::from(vec![values.len() as i32; count]);
    Arc::new(ListViewArray::new(item(&values), vec![0; count].into(), sizes, values, None))
}

/// One list of `values`.
fn list(values: ArrayRef) -> ArrayRef {
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    Arc::new(ListArray::new(item(&values), offsets, values, None))
}

/// So many rows, each of which names the first of `values`.
fn dictionary(values: ArrayRef, count: usize) -> ArrayRef {
    Arc::new(DictionaryArray::new(Int32Array::from(vec![0; count]), values))
}

fn numbers(count: usize) -> ArrayRef {
    Arc::new(Int64Array::from(vec![7; count]))
}

/// So many views of one text of 6 MiB.
fn shared(count: usize) -> ArrayRef {
    let text: ArrayRef = Arc::new(StringViewArray::from(vec!["x".repeat(6 << 20).as_str()]));
    take(&text, &UInt32Array::from(vec![0; count]), None).unwrap()
}

/// What reading an object gives, which might never end.
fn read_soon(content: Vec<u8>) -> Result<RecordBatch, Problem> {
    soon(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(read_content("x", content))
    })
}

#[test]
fn what_is_named_again_and_again_is_not_followed() {
    // 4,000 to the power of five values, if all of them were looked at.
    let lists = (0..4).fold(numbers(4_000), |values, _| views(values, 4_000));
    // Taking a part of these would count what is missing in it.
    let marks: ArrayRef = Arc::new(BooleanArray::from_iter((0..16 << 20).map(|n| (n > 0).then_some(true))));
    for hostile in [Arc::clone(&lists), views(marks, 1 << 20), shared(200_000)] {
        let batches = [column(hostile)];
        let content = stream(&batches, None);
        check_problem(soon(move || decode(&content)), ErrorKind::TransferTooLarge, &["expand"]);
    }
    let lists = [column(lists)];
    for content in [file(&lists, None), stream(&lists, None)] {
        check_problem(read_soon(content), ErrorKind::DecodeLimit, &["s3://tables/", "a row must fit"]);
    }
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let named = [column(dictionary(list(dictionary(texts, 3)), 3))];
    let refused = ["\"v\"", "plain values in its dictionaries"];
    check_problem(decode(&stream(&named, None)), ErrorKind::SchemaMismatch, &refused);
    for content in [file(&named, None), stream(&named, None)] {
        check_problem(read_soon(content), ErrorKind::SchemaMismatch, &refused);
    }
}

#[test]
fn what_nothing_names_is_not_made_plain() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(6 << 20)]));
    let named = dictionary(text, 2_000_000);
    // The first and the last of two million texts of 6 MiB.
    let (offsets, sizes) = (vec![0, 1_999_999], vec![1, 1]);
    let ends = ListViewArray::new(item(&named), offsets.into(), sizes.into(), named, None);
    for values in [dictionary(shared(200_000), 1), list(dictionary(shared(200_000), 1)), Arc::new(ends)] {
        let batches = [column(values)];
        let content = stream(&batches, None);
        let decoded = soon(move || decode(&content)).unwrap();
        assert!(decoded[0].get_array_memory_size() < 16 << 20, "{}", decoded[0].get_array_memory_size());
        for content in [file(&batches, None), stream(&batches, None)] {
            assert_eq!(read_soon(content), Ok(nullable(&decoded[0])));
        }
    }
}

#[test]
fn lists_and_dictionaries_of_all_ordinary_kinds_are_read() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let seen: ArrayRef = Arc::new(StringViewArray::from(vec!["x", "y"]));
    let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![1]), &dictionary(Arc::clone(&texts), 1));
    let structs: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Utf8View, true)), Arc::clone(&seen)),
        (Arc::new(Field::new("b", DataType::Int64, true)), numbers(2)),
    ]));
    let columns = [
        (list(list(list(numbers(3)))), "List(List(List(Int64)))", "[[[7, 7, 7]]]"),
        (list(dictionary(Arc::clone(&texts), 3)), "List(Utf8)", "[x, x, x]"),
        (dictionary(Arc::clone(&seen), 1), "Utf8", "x"),
        (list(dictionary(Arc::clone(&seen), 2)), "List(Utf8)", "[x, x]"),
        (views(Arc::clone(&texts), 1), "List(Utf8)", "[x, y]"),
        (views(dictionary(texts, 2), 1), "List(Utf8)", "[x, x]"),
        (list(views(numbers(3), 2)), "List(List(Int64))", "[[7, 7, 7], [7, 7, 7]]"),
        (views(views(seen, 2), 1), "List(List(Utf8))", "[[x, y], [x, y]]"),
        (views(list(structs), 1), "List(List(Struct(", "[[{a: x, b: 7}, {a: y, b: 7}]]"),
        (Arc::new(runs.unwrap()), "Utf8", "x"),
    ];
    for (values, expected, shown) in columns {
        let batches = [column(values)];
        let decoded = decode(&stream(&batches, None)).unwrap();
        assert!(types(&decoded[0])[0].starts_with(&format!("v {expected}")), "{:?}", types(&decoded[0]));
        assert_eq!(rows(&decoded[0]), [shown]);
        for content in [file(&batches, None), stream(&batches, Some(CompressionType::ZSTD))] {
            assert_eq!(read_soon(content), Ok(nullable(&decoded[0])));
        }
    }
}

#[tokio::test]
async fn texts_behind_views_must_be_texts() {
    let batches = [column(Arc::new(StringViewArray::from(vec!["a text of more than a few bytes"])))];
    for mut content in [file(&batches, None), stream(&batches, None)] {
        let at = content.windows(6).position(|bytes| bytes == b" bytes").unwrap();
        content[at] = 0xff;
        problem("x", content, ErrorKind::ArrowCorrupt, &["UTF"]).await;
    }
}

#[test]
fn batches_that_share_a_dictionary_do_not_weigh_it_each() {
    let batch = column(dictionary(Arc::new(StringArray::from(vec![""; 1 << 20])), 1));
    let content = stream(&vec![batch; 8_000], None);
    assert_eq!(soon(move || decode(&content).map(|batches| batches.len())), Ok(8_000));
}

#[test]
fn few_runs_of_very_many_rows_are_weighed_by_runs() {
    let ends = Int32Array::from(vec![16 << 20]);
    let runs: ArrayRef = Arc::new(RunArray::<Int32Type>::try_new(&ends, &numbers(1)).unwrap());
    let names: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    let batch = RecordBatch::try_from_iter(names.iter().map(|name| (name, Arc::clone(&runs)))).unwrap();
    let content = stream(&[batch], None);
    check_problem(soon(move || decode(&content)), ErrorKind::TransferTooLarge, &["expand"]);
}

#[test]
fn bytes_that_are_shared_or_added_to_are_refused() {
    let two = RecordBatch::try_from_iter([("a", numbers(100)), ("b", numbers(100))]).unwrap();
    let mut content = stream(&[two], None);
    assert_eq!(decode(&content).map(|batches| batches.len()), Ok(1));
    // The first column's values reach into those of the second.
    let at = content.windows(8).position(|w| w == 800_u64.to_le_bytes()).unwrap();
    content[at..at + 8].copy_from_slice(&1_600_u64.to_le_bytes());
    check_problem(decode(&content), ErrorKind::ArrowCorrupt, &["side by side"]);

    let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
    let parts =
        [vec!["x"], vec!["x", "y"]].map(|texts| column(dictionary(Arc::new(StringArray::from(texts)), 3)));
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), parts[0].schema_ref(), options).unwrap();
    parts.iter().for_each(|part| writer.write(part).unwrap());
    check_problem(decode(&writer.into_inner().unwrap()), ErrorKind::ArrowCorrupt, &["whole dictionaries"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever bytes a guest changes: batches that are sound, or a problem.
    #[test]
    fn any_stream_is_survived(
        dictionary: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let table = if dictionary { with_dictionary(20, "x") } else { mixed(20) };
        let mut bytes = stream(&[table.slice(0, 8), table.slice(8, 12)], None);
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(index) = cut {
            bytes.truncate(index.index(bytes.len()));
        }
        if let Ok(batches) = decode(&bytes) {
            for batch in batches {
                // What was let through can be used: every value is touched.
                for column in batch.columns() {
                    column.to_data().validate_full().unwrap();
                }
                if let Some(text) = batch.column_by_name("text").filter(|t| *t.data_type() == DataType::Utf8) {
                    prop_assert!(text.as_string::<i32>().iter().flatten().all(|t| t.chars().count() <= t.len()));
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&[&[0xff; 4], bytes.as_slice()].concat());
    }
}
