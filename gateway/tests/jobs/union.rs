// SPDX-License-Identifier: Apache-2.0
//! Tables of objects that differ: which objects settle what they are together.

use fanfold_protocol::{
    ErrorKind,
    function::{Column, Description, Descriptions, Export, Version},
    job::Difference,
    keys, limits,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{BUCKET, Engine, Play, World, succeeded, version};

fn over(more: Value) -> Value {
    let mut document = json!({"input": "s3://bank/u/", "schema": "union"});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document
}

/// The names of the objects that settle a job's types.
async fn settlers(world: &World, id: &Uuid) -> String {
    let like = &world.json(&format!("s3://{BUCKET}/{}", keys::plan(id))).await["like"];
    let others = like["others"].as_array().into_iter().flatten();
    let name = |object: &Value| object["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    std::iter::once(like).filter(|like| !like.is_null()).chain(others).map(name).collect::<Vec<_>>().join(" ")
}

async fn settled(world: &World, engine: &Engine, function: &str, more: Value) -> String {
    let id = engine.submit(function, over(more)).await.unwrap().id;
    settlers(world, &id).await
}

async fn various() -> World {
    let world = World::new().await;
    for (name, text) in [
        ("a.csv", "id,v\n1,1\n2,2\n3,3\n4,4\n5,5\n"),
        ("b.csv", "id,v\n6,6\n7,7\n"),
        ("c.csv", "v,id\n0.5,8\n"),
        ("d.csv", "id,w\n9,NA\n"),
        ("e.jsonl", "{\"id\":10}\n"),
        ("f.jsonl", "{\"id\":1}\n"),
    ] {
        world.put(&format!("s3://bank/u/{name}"), text).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn few_objects_stand_for_all() {
    let world = various().await;
    let engine = world.engine().await;
    // The largest, then those with a column or a type that is new.
    assert_eq!(settled(&world, &engine, "mapper", json!({})).await, "a.csv c.csv d.csv e.jsonl");
    assert_eq!(settled(&world, &engine, "mapper", json!({"schema": "same"})).await, "a.csv");
    assert_eq!(settled(&world, &engine, "mapper", json!({"columns": ["v"]})).await, "a.csv c.csv");
    let filter = json!({"columns": ["v"], "filter": "id = 1"});
    assert_eq!(settled(&world, &engine, "mapper", filter).await, "a.csv c.csv e.jsonl");
    // What the function declares needs no object.
    let column = |name: &str| Column { name: name.into(), data_type: "Float64".into(), nullable: true };
    let mapper = Some(Description { reads: Some(vec![column("v"), column("id")]), writes: None });
    let describes = Descriptions { mapper, ..Descriptions::default() };
    engine.registry.publish(Version { describes, ..version("floats", vec![Export::Mapper]) }).await.unwrap();
    assert_eq!(settled(&world, &engine, "floats", json!({})).await, "");
    assert_eq!(settled(&world, &engine, "floats", json!({"schema": "same"})).await, "");
    assert_eq!(settled(&world, &engine, "floats", json!({"filter": "v = 1"})).await, "");
    assert_eq!(settled(&world, &engine, "floats", json!({"filter": "w = 1"})).await, "a.csv d.csv");
    // Without a record they have no columns that others lack.
    for name in ["n.csv", "n.jsonl"] {
        world.put(&format!("s3://bank/u/{name}"), "\n").await;
    }
    assert_eq!(settled(&world, &engine, "mapper", json!({"columns": ["v"]})).await, "a.csv c.csv");
    // One that is compressed tells nothing before it is read.
    let gzip = [0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0].to_vec();
    world
        .store()
        .put(&"s3://bank/u/z.csv.gz".parse().unwrap(), gzip.into(), Default::default())
        .await
        .unwrap();
    assert_eq!(settled(&world, &engine, "mapper", json!({"columns": ["v"]})).await, "a.csv c.csv z.csv.gz");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_numbers_are_a_type_of_their_own() {
    let world = World::new().await;
    for (name, text) in [
        ("a.csv", "id\n0.5\n0.5\n0.5\n0.5\n0.5\n0.5\n0.5\n0.5\n"),
        ("b.jsonl", "{\"id\":9007199254740993}\n"),
        ("c.tsv", "id\tv\n1234567890123456\t1\n"),
        ("d.tab", "id\tv\n1\t1\n"),
        ("e.csv", "id\n7\n"),
    ] {
        world.put(&format!("s3://bank/u/{name}"), text).await;
    }
    let engine = world.engine().await;
    // The readers settle what they are together: that these are too long for doubles, they must see.
    assert_eq!(settled(&world, &engine, "mapper", json!({"columns": ["id"]})).await, "a.csv b.jsonl d.tab");
    assert_eq!(settled(&world, &engine, "mapper", json!({})).await, "a.csv b.jsonl c.tsv d.tab");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_may_name_what_one_object_has() {
    let world = various().await;
    let engine = world.engine().await;
    let named = json!({"filter": "w is null and v > 0"});
    engine.submit("mapper", over(named.clone())).await.unwrap();
    let mut same = named;
    same["schema"] = json!("same");
    for refused in [same, json!({"filter": "x is null"})] {
        let problem = engine.submit("mapper", over(refused)).await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::ColumnNotFound, "{}", problem.detail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_keeps_what_settled_its_types() {
    let world = various().await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let record = engine.run("mapper", over(json!({"split": {"target_bytes": "1B"}}))).await;
    succeeded(&record);
    let compared = async || engine.jobs.compare(&record.id).await.unwrap().difference;
    // Larger than the largest, and no news.
    world.put("s3://bank/u/g.csv", &format!("id,v\n{}", "1,1\n".repeat(40))).await;
    let difference = compared().await;
    assert_eq!((difference.changed, difference.added), (0, 40), "{difference:?}");
    assert_eq!(difference.unchanged, u64::from(record.partitions));
    // Another column makes other rows of all.
    world.put("s3://bank/u/h.csv", "new\n1\n").await;
    let difference = compared().await;
    assert_eq!(difference.unchanged, 0, "{difference:?}");
    assert_ne!(difference, Difference::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_kinds_of_objects_are_refused() {
    let world = World::new().await;
    let engine = world.engine().await;
    for n in 0..=limits::UNION_HEADS_MAX {
        world.put(&format!("s3://bank/u/{n}.csv"), &format!("c{n}\n1\n")).await;
    }
    let problem = engine.submit("mapper", over(json!({}))).await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::InvalidJob);
    assert!(problem.detail.contains("at most 64 different objects"), "{}", problem.detail);
    assert!(problem.detail.contains("found 65"), "{}", problem.detail);
    engine.submit("mapper", over(json!({"columns": ["c1", "c2"]}))).await.unwrap();
}
