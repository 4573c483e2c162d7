// SPDX-License-Identifier: Apache-2.0
//! Tables of objects that differ: their columns together, in types that lose
//! nothing, however the objects are parted.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray},
    ipc::writer::FileWriter,
};
use fanfold_protocol::{
    ErrorKind, Problem,
    job::SchemaRule,
    plan::{self, Slice},
};
use fanfold_runtime::tables::{Like, Skipped, TableReader, TableSource};
use fanfold_storage::Store;

use crate::{parquet_files::encode_parquet, support::*};

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn united(slices: &[Slice]) -> TableSource {
    TableSource { schema: SchemaRule::Union, ..source(slices) }
}

/// Reads a part of the table that these objects settle: types and rows.
async fn part(
    store: &Store,
    source: TableSource,
    settlers: &[Slice],
) -> Result<(Vec<String>, Vec<String>, Skipped), Problem> {
    let mut objects = settlers.iter().map(|slice| slice.object.clone());
    let of = plan::Like { object: objects.next().unwrap(), others: objects.collect() };
    let like = Like { of, settled: Arc::default() };
    let mut reader = TableReader::open_like(store.clone(), source, Some(like)).await?;
    let (mut all, empty) = (Vec::new(), RecordBatch::new_empty(reader.schema()));
    while let Some(batch) = reader.next().await? {
        all.extend(rows(&batch));
    }
    Ok((types(&empty), all, reader.take_skipped()))
}

/// Checks that each slice alone is what it is among all.
async fn check(store: &Store, source: TableSource, schema: &[&str], expected: &[&[&str]]) {
    let settlers = source.slices.clone();
    let (found, all, _) = part(store, source.clone(), &settlers).await.unwrap();
    assert_eq!(
        (found, all),
        (
            schema.iter().map(|s| s.to_string()).collect(),
            expected.concat().iter().map(|s| s.to_string()).collect()
        )
    );
    for (slice, expected) in settlers.iter().zip(expected) {
        let alone = TableSource { slices: vec![slice.clone()], ..source.clone() };
        let (found, rows, _) = part(store, alone, &settlers).await.unwrap();
        assert_eq!(
            (found.as_slice(), rows.as_slice()),
            (
                &schema.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..],
                &expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]
            )
        );
    }
}

#[tokio::test]
async fn parquet_and_arrow_are_united() {
    let store = store();
    let a = table(vec![("id", Arc::new(Int32Array::from(vec![1, 2]))), ("a", numbers(&[7, 8]))]);
    let b = table(vec![("b", Arc::new(StringArray::from(vec!["x"]))), ("id", numbers(&[i64::MAX]))]);
    let mut writer = FileWriter::try_new(Vec::new(), &b.schema()).unwrap();
    writer.write(&b).unwrap();
    let arrow = writer.into_inner().unwrap();
    let slices = [
        put(&store, "a.parquet", encode_parquet(&a, 1)).await,
        put(&store, "b.parquet", encode_parquet(&b, 1)).await,
        put(&store, "b.arrow", arrow).await,
    ];
    let whole = ["9223372036854775807|∅|x"];
    check(
        &store,
        united(&slices),
        &["id Int64", "a Int64", "b Utf8"],
        &[&["1|7|∅", "2|8|∅"], &whole, &whole],
    )
    .await;
    let some = TableSource { columns: names(&["b", "id"]), ..united(&slices) };
    let whole = ["x|9223372036854775807"];
    check(&store, some, &["b Utf8", "id Int64"], &[&["∅|1", "∅|2"], &whole, &whole]).await;
    let none = TableSource { columns: names(&["a"]), ..united(&slices[1..]) };
    check_problem(part(&store, none, &slices[1..]).await, ErrorKind::ColumnNotFound, &["\"a\"", "in none"]);
}

#[tokio::test]
async fn text_is_guessed_from_all_objects() {
    let store = store();
    let slices = [
        put(&store, "a.csv", "id,v,only,none\n1,1,x,\n").await,
        put(&store, "b.csv", "v,id,none\n2.5,2,\n,3,\n").await,
        put(&store, "c.csv", "id,v\nA4,\n").await,
        put(&store, "d.jsonl", "{\"id\":\"e\",\"v\":4,\"none\":null}\n{\"v\":0.5}\n").await,
    ];
    check(
        &store,
        united(&slices),
        &["id Utf8", "v Float64", "only Utf8", "none Utf8"],
        &[&["1|1.0|x|∅"], &["2|2.5|∅|∅", "3|∅|∅|∅"], &["A4|∅|∅|∅"], &["e|4.0|∅|∅", "∅|0.5|∅|∅"]],
    )
    .await;
}

#[tokio::test]
async fn lists_and_objects_of_json_are_told_as_of_one_object() {
    let store = store();
    let slices = [
        put(&store, "a.jsonl", "{\"l\":[],\"o\":{\"x\":1}}\n{\"l\":[1],\"o\":{\"x\":2,\"n\":null}}\n").await,
        put(&store, "b.jsonl", "{\"o\":{\"y\":[true],\"x\":0.5},\"l\":[2.5]}\n").await,
        put(&store, "c.jsonl", "{\"l\":[]}\n").await,
    ];
    check(
        &store,
        united(&slices),
        &["l List(Float64)", "o Struct(\"x\": Float64, \"n\": Utf8, \"y\": List(Boolean))"],
        &[
            &["[]|{x: 1.0, n: , y: }", "[1.0]|{x: 2.0, n: , y: }"],
            &["[2.5]|{x: 0.5, n: , y: [true]}"],
            &["[]|∅"],
        ],
    )
    .await;
}

#[tokio::test]
async fn long_numbers_of_one_object_beside_fractions_of_another_are_texts() {
    let store = store();
    let slices = [
        put(&store, "a.csv", "id,n,m\n1234567890123456789,1,1234567890123456789\n").await,
        put(&store, "b.csv", "id,n,m\n0.5,2.5,1\n").await,
        put(&store, "c.jsonl", "{\"id\":9007199254740993,\"n\":3}\n").await,
        put(&store, "d.jsonl", "{\"id\":18446744073709551617}\n").await,
    ];
    let expected: [&[&str]; 4] = [
        &["1234567890123456789|1.0|1234567890123456789"],
        &["0.5|2.5|1"],
        &["9007199254740993|3.0|∅"],
        &["18446744073709551617|∅|∅"],
    ];
    let types = ["id Utf8", "n Float64", "m Int64"];
    check(&store, united(&slices), &types, &expected).await;
    // Whichever comes first.
    let turned = [slices[2].clone(), slices[1].clone()];
    check(&store, united(&turned), &types, &[expected[2], expected[1]]).await;
}

#[tokio::test]
async fn what_is_declared_needs_no_object() {
    let store = store();
    let slices = [put(&store, "a.csv", "id,x\n1,5\n").await, put(&store, "b.csv", "x\n6\n").await];
    let declared = declare(&[("x", "Float64", false), ("id", "Int64", true)]);
    let gone = Slice {
        object: fanfold_protocol::uri::PinnedObject { uri: uri("gone"), ..slices[0].object.clone() },
        ..slices[0].clone()
    };
    let (types, rows, _) = part(&store, TableSource { declared, ..united(&slices) }, &[gone]).await.unwrap();
    assert_eq!(
        (types, rows),
        (vec!["x Float64".into(), "id Int64".into()], vec!["5.0|1".into(), "6.0|∅".to_string()])
    );
    // What the function needs, every object must have.
    let declared = declare(&[("x", "Float64", false), ("id", "Int64", false)]);
    let uri = slices[1].object.uri.to_string();
    let found = part(&store, TableSource { declared, ..united(&slices) }, &slices).await;
    check_problem(found, ErrorKind::ColumnNotFound, &["\"id\"", &uri]);
}

#[tokio::test]
async fn what_would_lose_values_is_refused() {
    let store = store();
    let a = put(&store, "a.parquet", encode_parquet(&table(vec![("n", numbers(&[1]))]), 1)).await;
    let other = async |column: ArrayRef| {
        let content = encode_parquet(&table(vec![("n", column)]), 1);
        put(&store, "b.parquet", content).await
    };
    for b in [
        other(Arc::new(Float64Array::from(vec![0.5]))).await,
        other(Arc::new(StringArray::from(vec!["x"]))).await,
        other(Arc::new(Date32Array::from(vec![1]))).await,
        put(&store, "b.csv", "n\nx\n").await,
    ] {
        let slices = [a.clone(), b];
        let uris = slices.each_ref().map(|slice| slice.object.uri.to_string());
        let found = part(&store, united(&slices), &slices).await;
        check_problem(found, ErrorKind::SchemaMismatch, &["\"n\"", "Int64", &uris[0], &uris[1]]);
    }
    // An object that no one looked at.
    let b = put(&store, "b.csv", "n,m\n1,2\n").await;
    let found = part(&store, united(std::slice::from_ref(&b)), std::slice::from_ref(&a)).await;
    check_problem(found, ErrorKind::SchemaMismatch, &["\"m\"", &b.object.uri.to_string()]);
    // Without the rule, the way out is told.
    let found = read(&store, source(&[put(&store, "c.csv", "n\n1\n").await, b])).await;
    check_problem(found, ErrorKind::SchemaMismatch, &["\"m\"", "schema to union"]);
}

#[tokio::test]
async fn filters_see_what_is_missing() {
    let store = store();
    let content = |columns| encode_parquet(&table(columns), 2);
    let slices = [
        put(
            &store,
            "a.parquet",
            content(vec![("id", numbers(&[1, 2, 3, 4])), ("a", numbers(&[1, 2, 3, 4]))]),
        )
        .await,
        put(&store, "b.parquet", content(vec![("id", numbers(&[5, 6]))])).await,
    ];
    let pass = async |filter: &str, columns: &[&str]| {
        let columns = (!columns.is_empty()).then(|| names(columns)).flatten();
        let source = TableSource { filter: Some(filter.into()), columns, ..united(&slices) };
        let (_, rows, skipped) = part(&store, source, &slices).await.unwrap();
        (rows.join(" "), skipped.rows, skipped.row_groups)
    };
    assert_eq!(pass("a > 2", &["id"]).await, ("3 4".into(), 2, 1));
    assert_eq!(pass("a is null", &["id"]).await, ("5 6".into(), 0, 2));
    assert_eq!(pass("a is null or id = 4", &[]).await, ("4|4 5|∅ 6|∅".into(), 1, 1));
}
