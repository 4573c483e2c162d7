// SPDX-License-Identifier: Apache-2.0
//! Filters before a job is accepted: what is refused, and what is not planned.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampSecondArray,
};
use fanfold_protocol::{
    ErrorKind,
    function::{Column, Description, Descriptions, Export, Version},
    keys,
    plan::Plan,
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use serde_json::{Value, json};

use crate::world::{Engine, Play, World, succeeded, version};

/// Ten row groups of a hundred rows each, `id` from 0 up.
fn table() -> Vec<u8> {
    let ids = 0..1_000_i64;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
        (
            "region",
            Arc::new(StringArray::from_iter_values(ids.map(|id| ["north", "south"][usize::from(id >= 500)]))),
        ),
        // Parquet has no unit of seconds: only Arrow's own schema tells that these are no numbers.
        ("at", Arc::new(TimestampSecondArray::from_iter_values(0..1_000))),
    ];
    grouped(&RecordBatch::try_from_iter(columns).unwrap(), 100)
}

/// As Parquet with so many rows a row group.
fn grouped(batch: &RecordBatch, rows: usize) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

async fn put(world: &World, uri: &str, body: Vec<u8>) {
    let uri: ObjectUri = uri.parse().unwrap();
    world.store().put(&uri, body.into(), PutOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_checked_before_a_job_is_accepted() {
    let world = World::new().await;
    put(&world, "s3://bank/p/t.parquet", table()).await;
    world.put("s3://bank/c/t.csv", "id,region\n1,north\n").await;
    world.put("s3://bank/t/t.tsv", "id\tregion\n1\tnorth\n").await;
    world.put("s3://bank/j/t.csv", "{\"id\":1,\"region\":\"north\"}\n").await;
    world.put("s3://bank/l/t.jsonl", "{\"id\":1}\n{\"region\":\"x\"}\n").await;
    let engine = world.engine().await;
    let submit = async |format: &str, filter: &str| {
        engine.submit("mapper", json!({"input": format!("s3://bank/{format}/"), "filter": filter})).await
    };
    for format in ["p", "c", "t", "l"] {
        submit(format, "id > 5 and region is not null").await.unwrap();
        for (filter, kind, place) in [
            ("id >", ErrorKind::FilterInvalid, "the end at column 5"),
            ("lower(region) = 'x'", ErrorKind::FilterInvalid, "a call of \"lower\" at column 6"),
            ("id > 5 and regoin = 'x'", ErrorKind::ColumnNotFound, "\"regoin\" at column 12"),
            ("id > 5 and regoin = 'x'", ErrorKind::ColumnNotFound, "columns \"id\", \"region\""),
        ] {
            let problem = submit(format, filter).await.unwrap_err();
            assert_eq!(problem.code, kind, "{filter}: {}", problem.detail);
            assert!(problem.detail.contains(place), "{place}: {}", problem.detail);
        }
    }
    for format in ["p", "c", "t", "l"] {
        let select = async |columns: [&str; 2]| {
            let input = format!("s3://bank/{format}/");
            engine.submit("mapper", json!({"input": input, "columns": columns})).await
        };
        select(["region", "id"]).await.unwrap();
        let problem = select(["id", "nope"]).await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::ColumnNotFound, "{format}: {}", problem.detail);
        assert!(problem.detail.contains("\"region\"") && problem.detail.contains("a column \"nope\""));
    }
    let problem = submit("j", "id > 5").await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::FormatUnknown, "{}", problem.detail);
    assert!(problem.detail.contains("format = \"jsonl\""), "{}", problem.detail);
    submit("p", "id > 5 and at > '1970-01-01'").await.unwrap();
    let problem = submit("p", "id > 5 and at > 'noon'").await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::FilterInvalid, "{}", problem.detail);
    let problem = submit("p", "region > 5").await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::FilterInvalid);
    assert!(problem.detail.contains("a text to compare with") && problem.detail.ends_with("column 10"));
    let problem = submit("p", "id = 'north'").await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::FilterInvalid, "{}", problem.detail);
    assert_eq!(world.backbone().list("outputs/").await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_function_declares_goes_first() {
    let world = World::new().await;
    put(&world, "s3://bank/p/t.parquet", table()).await;
    let engine = world.engine().await;
    let column = |name: &str, data_type: &str| Column {
        name: name.into(),
        data_type: data_type.into(),
        nullable: true,
    };
    let reads = Some(vec![column("id", "Utf8")]);
    let mapper = Some(Description { reads, writes: None });
    let describes = Descriptions { mapper, ..Descriptions::default() };
    engine.registry.publish(Version { describes, ..version("texts", vec![Export::Mapper]) }).await.unwrap();
    for columns in [&["region"][..], &[]] {
        let job = json!({"input": "s3://bank/p/", "columns": columns});
        let problem = engine.submit("texts", job).await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::ColumnNotFound, "{problem}");
        assert!(problem.detail.contains("found no \"id\""), "{problem}");
    }
    let submit = async |filter: &str| {
        engine
            .submit(
                "texts",
                json!({"input": "s3://bank/p/", "filter": filter, "split": {"target_bytes": "1B"}}),
            )
            .await
    };
    assert_eq!(submit("id > 5").await.unwrap_err().code, ErrorKind::FilterInvalid);
    // The statistics are of numbers: nothing follows from them for texts.
    let record = submit("id > '5'").await.unwrap();
    assert_eq!(record.partitions, 10);
    assert_eq!(submit("id > '5' and region = 'south'").await.unwrap().partitions, 5);
}

/// Statistics are of what is stored, and not of the moments that it is in the declared zone.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_for_times_of_a_declared_zone() {
    let world = World::new().await;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..4))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(0..4))),
        ("ms", Arc::new(TimestampMillisecondArray::from_iter_values(0..4))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    put(&world, "s3://bank/p/t.parquet", grouped(&batch, 1)).await;
    let engine = world.engine().await;
    let column = |name: &str, data_type: &str| Column {
        name: name.into(),
        data_type: data_type.into(),
        nullable: true,
    };
    for (name, zone, expected) in [("utc", "UTC", [0, 0, 1]), ("east", "+02:00", [4, 1, 4])] {
        let moment = format!("Timestamp(µs, \"{zone}\")");
        let reads = Some(vec![column("id", "Int64"), column("at", &moment), column("ms", &moment)]);
        let mapper = Some(Description { reads, writes: None });
        let describes = Descriptions { mapper, ..Descriptions::default() };
        engine.registry.publish(Version { describes, ..version(name, vec![Export::Mapper]) }).await.unwrap();
        let filters = [
            ("at < '1970-01-01'", expected[0]),
            ("at < '1970-01-01' and id = 2", expected[1]),
            // Stored in another unit than is declared.
            ("ms < '1970-01-01'", expected[0]),
            ("ms > '1970-01-01 00:00:00.0025' and id < 9", expected[2]),
        ];
        for (filter, groups) in filters {
            let more = json!({"input": "s3://bank/p/", "filter": filter, "split": {"target_bytes": "1B"}});
            let id = engine.submit(name, more).await.unwrap().id;
            let slices = world.partitions(&id).await.into_iter().flat_map(|partition| partition.slices);
            let planned: usize = slices.map(|slice| slice.row_groups.unwrap().len()).sum();
            assert_eq!(planned, groups, "{zone}: {filter}");
        }
    }
}

/// Statistics are of what an object stores, and not of what all are read as together.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_for_columns_that_a_union_widens() {
    let world = World::new().await;
    let narrow: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..4))),
        ("v", Arc::new(Float32Array::from_iter_values([0.0, 1.0, 2.0, 3.0]))),
    ];
    put(&world, "s3://bank/p/a.parquet", grouped(&RecordBatch::try_from_iter(narrow).unwrap(), 1)).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let planned = async |filter: &str| {
        let split = json!({"target_bytes": "1B"});
        let more = json!({"input": "s3://bank/p/", "schema": "union", "filter": filter, "split": split});
        let record = engine.run("mapper", more).await;
        succeeded(&record);
        // A job that runs it again would be taken apart the same way.
        let difference = engine.jobs.compare(&record.id).await.unwrap().difference;
        assert_eq!(difference.unchanged, u64::from(record.partitions), "{filter}: {difference:?}");
        let slices = world.partitions(&record.id).await.into_iter().flat_map(|partition| partition.slices);
        slices.filter_map(|slice| slice.row_groups).collect::<Vec<_>>().concat()
    };
    assert_eq!(planned("v > 1").await, [2, 3], "all objects store it alike");
    let wide: Vec<(&str, ArrayRef)> = vec![("v", Arc::new(Float64Array::from_iter_values([9.0])))];
    put(&world, "s3://bank/p/b.parquet", grouped(&RecordBatch::try_from_iter(wide).unwrap(), 1)).await;
    assert_eq!(planned("v > 1").await, [0, 1, 2, 3]);
    assert_eq!(planned("v > 1 and id = 2").await, [2], "only one object has it");
}

/// Row groups of each partition.
async fn groups(world: &World, engine: &Engine, more: Value) -> (Vec<Vec<u32>>, Plan) {
    let mut document = json!({"input": "s3://bank/p/", "split": {"target_bytes": "1B"}});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let id = engine.submit("mapper", document).await.unwrap().id;
    let slices = world.partitions(&id).await.into_iter().flat_map(|partition| partition.slices);
    let plan =
        serde_json::from_value(world.json(&format!("s3://fanfold/{}", keys::plan(&id))).await).unwrap();
    (slices.map(|slice| slice.row_groups.unwrap()).collect(), plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_that_cannot_pass_are_not_planned() {
    let world = World::new().await;
    put(&world, "s3://bank/p/t.parquet", table()).await;
    let engine = world.engine().await;
    let check = async |filter: &str, expected: &[u32], pruned: u64| {
        let (found, plan) = groups(&world, &engine, json!({"filter": filter})).await;
        assert_eq!(found.concat(), expected, "{filter}");
        assert_eq!((plan.pruned.row_groups, plan.pruned.bytes > 0), (pruned, pruned > 0), "{filter}");
    };
    check("id >= 0", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0).await;
    check("id < 150 or id in (350, 351)", &[0, 1, 3], 7).await;
    check("region = 'south' and id % 2 = 0", &[5, 6, 7, 8, 9], 5).await;
    check("region <> 'north'", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0).await;
    // The columns of the output are shown by a task without rows.
    let (none, plan) = groups(&world, &engine, json!({"filter": "id > 5000"})).await;
    assert_eq!((none, plan.pruned.row_groups), (vec![vec![]], 10));
    let (two, _) =
        groups(&world, &engine, json!({"filter": "id < 150 or id = 950", "split": {"target_bytes": "1kB"}}))
            .await;
    assert_eq!(two.concat(), [0, 1, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_in_the_receipt() {
    let world = World::new().await;
    put(&world, "s3://bank/p/t.parquet", table()).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let more = json!({"input": "s3://bank/p/", "split": {"target_bytes": "1B"}, "filter": "id >= 900"});
    let record = engine.run("folder", more.clone()).await;
    succeeded(&record);
    assert_eq!((record.partitions, record.receipt.usage.row_groups_pruned), (1, 9));
    assert!(record.receipt.usage.bytes_pruned > 0);
    // A retry sees the same partitions; another filter is another job.
    let refused = engine.jobs.retry(&record.id, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::JobFinished, "{}", refused.detail);
    let cached = |filter: &str| json!({"input": "s3://bank/p/", "filter": filter, "cache": true});
    let first = engine.run("folder", cached("id >= 900")).await;
    let (same, other) =
        (engine.run("folder", cached("id >= 900")).await, engine.run("folder", cached("id >= 901")).await);
    let hits = [&first, &same, &other].map(|record| record.receipt.cache_hits);
    assert_eq!(hits, [0, 2, 0], "the only partition, and the answer");
}
