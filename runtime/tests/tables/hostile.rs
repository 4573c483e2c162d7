// SPDX-License-Identifier: Apache-2.0
//! Parquet that is small and claims much, and Parquet of rare types: it is read as
//! what it says, or refused by name.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Int64Array, IntervalDayTimeArray, RecordBatch},
    datatypes::{DataType, Field, Int32Type, IntervalDayTime},
};
use fanfold_protocol::ErrorKind;
use fanfold_runtime::tables::TableSource;
use parquet::{
    basic::Encoding,
    column::writer::ColumnWriter,
    data_type::{ByteArray, FixedLenByteArray},
    file::{
        properties::{WriterProperties, WriterPropertiesBuilder},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};

use crate::{parquet_files::encode_parquet, support::*};

/// An object that is a footer only: a schema of these elements, and no rows.
fn footer_only(count: u32, elements: &[u8]) -> Vec<u8> {
    let length = [count as u8 | 0x80, (count >> 7) as u8 | 0x80, (count >> 14) as u8];
    let footer = [&[0x15, 2, 0x19, 0xfc][..], &length, elements, &[0x16, 0, 0x19, 0x0c, 0]].concat();
    let trailer = (footer.len() as u32).to_le_bytes();
    [&b"PAR1"[..], &footer, &trailer, b"PAR1"].concat()
}

#[tokio::test]
async fn a_schema_that_is_no_tree_of_bounded_depth_is_refused() {
    // Required groups "g", of one column or of 2^31 - 1, and a column "x" of 64-bit integers.
    let (group, leaf) = ([0x35, 0, 0x18, 1, b'g', 0x15, 2, 0], [0x15, 4, 0x25, 0, 0x18, 1, b'x', 0]);
    let huge = [&group[..6], &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0], &leaf].concat();
    let flat = [group, leaf].concat();
    let deep = [group.repeat(130_000), leaf.to_vec()].concat();
    assert_eq!(read_content("x.parquet", footer_only(2, &flat)).await.unwrap().num_rows(), 0);
    problem("x.parquet", footer_only(130_001, &deep), ErrorKind::DecodeLimit, &["64 groups"]).await;
    problem("x.parquet", footer_only(2, &huge), ErrorKind::ParquetCorrupt, &["more columns"]).await;
}

/// A row group for each call, of columns that `write` fills.
fn encode_groups(message: &str, groups: &[&dyn Fn(&mut ColumnWriter<'_>)]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(message).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).unwrap();
    for write in groups {
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            write(column.untyped());
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn missing_values_of_great_width_are_refused() {
    let missing = |column: &mut ColumnWriter<'_>| {
        let ColumnWriter::FixedLenByteArrayColumnWriter(column) = column else { panic!("another type") };
        column.write_batch(&[], Some(&[0]), None).unwrap();
    };
    let wide = "message m { optional fixed_len_byte_array(2147483647) x; }";
    let words = ["2147483647", "8388608"];
    problem("x.parquet", encode_groups(wide, &[&missing]), ErrorKind::DecodeLimit, &words).await;
    let narrow = "message m { optional fixed_len_byte_array(5) x; }";
    let found = read_content("x.parquet", encode_groups(narrow, &[&missing])).await.unwrap();
    assert_eq!(rows(&found), ["∅"]);
}

#[tokio::test]
async fn lists_of_fixed_size_weigh_what_they_keep_room_for() {
    let lists = |size: i32, valid: &[bool]| {
        let values = valid.iter().map(|valid| valid.then(|| (0..size).map(Some)));
        let lists: ArrayRef =
            Arc::new(FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(values, size));
        RecordBatch::try_from_iter([("x", lists)]).unwrap()
    };
    let small = lists(3, &[true, false, true, false]);
    let found = read_content("x.parquet", encode_parquet(&small, 3)).await.unwrap();
    let item = Field::new_list_field(DataType::Int32, true);
    assert_eq!(found.column(0).data_type(), &DataType::FixedSizeList(Arc::new(item), 3));
    assert_eq!(found.column(0), small.column(0));
    // Missing ones that take 12 MB each.
    let large = encode_parquet(&lists(3_000_000, &[false, false]), 2);
    assert!(large.len() < 4_096);
    problem("x.parquet", large, ErrorKind::DecodeLimit, &["12000000", "8388608"]).await;
}

#[tokio::test]
async fn row_groups_without_rows_are_passed_over() {
    let write = |values: Vec<i64>| {
        move |column: &mut ColumnWriter<'_>| {
            let ColumnWriter::Int64ColumnWriter(column) = column else { panic!("another type") };
            column.write_batch(&values, None, None).unwrap();
        }
    };
    let (none, some, more) = (write(vec![]), write(vec![1, 2]), write(vec![3]));
    let content = encode_groups("message m { required int64 x; }", &[&none, &some, &none, &more, &none]);
    assert_eq!(rows(&read_content("x.parquet", content).await.unwrap()), ["1", "2", "3"]);
}

#[tokio::test]
async fn intervals_are_read_whole_or_not_at_all() {
    let write = |column: &mut ColumnWriter<'_>| match column {
        ColumnWriter::FixedLenByteArrayColumnWriter(column) => {
            let months = FixedLenByteArray::from(vec![7, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
            column.write_batch(&[months], None, None).unwrap();
        }
        ColumnWriter::Int64ColumnWriter(column) => _ = column.write_batch(&[5], None, None).unwrap(),
        _ => panic!("another type"),
    };
    let message = "message m { required int64 n; required group s { \
                   required fixed_len_byte_array(12) i (INTERVAL); } }";
    let store = store();
    let slice = put(&store, "x.parquet", encode_groups(message, &[&write])).await;
    let all = source(std::slice::from_ref(&slice));
    let uri = slice.object.uri.to_string();
    let words = ["\"s.i\"", "INTERVAL", uri.as_str()];
    check_problem(read(&store, all.clone()).await, ErrorKind::SchemaMismatch, &words);
    let others = TableSource { columns: names(&["n"]), ..all };
    assert_eq!(rows(&read(&store, others).await.unwrap()), ["5"]);
    // Those of arrow have no months.
    let days: ArrayRef = Arc::new(IntervalDayTimeArray::from(vec![IntervalDayTime::new(3, 4)]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let table = RecordBatch::try_from_iter([("i", days), ("n", numbers)]).unwrap();
    let found = read_content("x.parquet", encode_parquet(&table, 1)).await.unwrap();
    assert_eq!(found.column(0), table.column(0));
}

/// A column of byte arrays, with a dictionary or without.
fn encode_bytes(annotated: &str, values: &[&[u8]], dictionary: bool) -> Vec<u8> {
    encode_bytes_with(annotated, values, WriterProperties::builder().set_dictionary_enabled(dictionary))
}

fn encode_bytes_with(annotated: &str, values: &[&[u8]], properties: WriterPropertiesBuilder) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(&format!("message m {{ {annotated}; }}")).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let bytes = values.iter().map(|value| ByteArray::from(value.to_vec()));
    let missing = vec![1; values.len()];
    match column.untyped() {
        ColumnWriter::ByteArrayColumnWriter(column) => {
            column.write_batch(&bytes.collect::<Vec<_>>(), Some(&missing), None).unwrap()
        }
        ColumnWriter::FixedLenByteArrayColumnWriter(column) => {
            let bytes: Vec<_> = bytes.map(FixedLenByteArray::from).collect();
            column.write_batch(&bytes, Some(&missing), None).unwrap()
        }
        _ => panic!("another type"),
    };
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn decimals_are_read_in_the_bytes_that_they_need() {
    // -1.50, as few bytes as it needs, and as many as there may be.
    let sign_extended = |length: usize| [vec![0xff; length - 2], vec![0xff, 0x6a]].concat();
    let (short, full, long) = (sign_extended(2), sign_extended(16), sign_extended(17));
    for dictionary in [true, false] {
        let encode = |annotated, values: &[&[u8]]| encode_bytes(annotated, values, dictionary);
        let bytes = "optional binary x (DECIMAL(30,2))";
        let found = read_content("x.parquet", encode(bytes, &[&short, &full])).await.unwrap();
        assert_eq!(
            (types(&found), rows(&found)),
            (vec!["x Decimal128(30, 2)".to_owned()], vec!["-1.50".to_owned(); 2])
        );
        let words = ["\"x\"", "at most 16 bytes", "one of 17"];
        problem("x.parquet", encode(bytes, &[&short, &long]), ErrorKind::ValueMismatch, &words).await;
        // Of fixed length there may be more of them.
        let fixed = "optional fixed_len_byte_array(20) x (DECIMAL(30,2))";
        let found = read_content("x.parquet", encode(fixed, &[&sign_extended(20)])).await.unwrap();
        assert_eq!(rows(&found), ["-1.50"]);
    }
}

#[tokio::test]
async fn names_of_enumerations_are_texts() {
    let store = store();
    for annotated in ["optional binary x (ENUM)", "optional binary x (JSON)"] {
        let sound = encode_bytes(annotated, &["\"é\"".as_bytes(), b"2"], true);
        let slice = put(&store, "x.parquet", sound).await;
        let filtered = TableSource { filter: Some("x >= '2'".to_owned()), ..source(&[slice]) };
        let found = read(&store, filtered).await.unwrap();
        assert_eq!((types(&found), rows(&found)), (vec!["x Utf8".to_owned()], vec!["2".to_owned()]));
        let damaged = encode_bytes(annotated, &[b"2", b"\xff\xfe and more than fits a view"], false);
        problem("x.parquet", damaged, ErrorKind::ParquetCorrupt, &["row group 0", "UTF-8"]).await;
    }
}

/// The decoder looks at texts in these encodings in a row.
#[tokio::test]
async fn texts_that_share_a_character_are_refused() {
    let long = [&b"more than fits a view, up to \xc3"[..], b"\xa9, and as much behind it"];
    for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY, Encoding::PLAIN] {
        let properties = || WriterProperties::builder().set_dictionary_enabled(false).set_encoding(encoding);
        let encode = |values: &[&[u8]]| encode_bytes_with("optional binary x (UTF8)", values, properties());
        let found = read_content("x.parquet", encode(&["é".as_bytes(), b"", "aé".as_bytes()])).await.unwrap();
        assert_eq!(rows(&found), ["é", "", "aé"]);
        for values in [[&b"a\xc3"[..], b"\xa9"], long] {
            let words = ["row group 0", "UTF-8"];
            problem("x.parquet", encode(&values), ErrorKind::ParquetCorrupt, &words).await;
        }
    }
}
