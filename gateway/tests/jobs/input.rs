// SPDX-License-Identifier: Apache-2.0
//! What inputs name, and what is refused before anything is queued.

use fanfold_protocol::{ErrorKind, keys};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{Engine, Play, World, succeeded};

/// The keys that a job over `input` reads.
async fn reads(world: &World, engine: &Engine, input: Value) -> Vec<String> {
    let id = engine.submit("folder", json!({"input": input})).await.unwrap().id;
    let slices = world.partitions(&id).await.into_iter().flat_map(|partition| partition.slices);
    slices.map(|slice| slice.object.uri.key().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_name_objects_in_byte_order() {
    let world = World::new().await;
    for key in ["a/2.csv", "a/1.csv", "a/b/3.csv", "a/_x.csv", "a/.y.csv", "a/b/", "a/4.txt", "c/1.csv"] {
        world.put(&format!("s3://bank/{key}"), "x").await;
    }
    // What programs leave beside their tables, and a manifest that is none and that nobody asks for.
    for key in ["_temporary/0/1.csv", ".ipynb_checkpoints/1.csv", "b/.Trash/1.csv", ".Trash/_manifest.json"] {
        world.put(&format!("s3://bank/a/{key}"), "x").await;
    }
    let engine = world.engine().await;
    let check = async |input: Value, keys: &[&str]| assert_eq!(reads(&world, &engine, input).await, keys);
    check(json!("s3://bank/a/"), &["a/1.csv", "a/2.csv", "a/4.txt", "a/b/3.csv"]).await;
    check(json!("s3://bank/a/*.csv"), &["a/1.csv", "a/2.csv"]).await;
    check(json!("s3://bank/a/**/*.csv"), &["a/1.csv", "a/2.csv", "a/b/3.csv"]).await;
    check(json!("s3://bank/{a,c}/[1].csv"), &["a/1.csv", "c/1.csv"]).await;
    check(
        json!(["s3://bank/c/1.csv", "s3://bank/a/?.csv", "s3://bank/a/2.csv"]),
        &["a/1.csv", "a/2.csv", "c/1.csv"],
    )
    .await;
    check(json!("s3://bank/a/_temporary/"), &["a/_temporary/0/1.csv"]).await;
    check(json!("s3://bank/*/b/.T*/*.csv"), &["a/b/.Trash/1.csv"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_manifest_is_read_through_it() {
    let world = World::new().await;
    world.inputs(2).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let record = engine.run("mapper", json!({"output": "s3://bank/out/day/"})).await;
    succeeded(&record);
    world.put("s3://bank/out/day/part-stray.parquet", "x").await;
    world.put("s3://bank/out/other.csv", "x").await;
    let parts: Vec<_> = world.keys("bank", "out/day/part-0").await;
    assert_eq!(reads(&world, &engine, json!("s3://bank/out/day/")).await, parts);
    assert_eq!(reads(&world, &engine, json!("s3://bank/out/day/*.parquet")).await, parts);
    assert_eq!(reads(&world, &engine, json!("manifest://bank/out/day/_manifest.json")).await, parts);
    let all = reads(&world, &engine, json!("s3://bank/out/")).await;
    assert_eq!(all, [&parts[..], &["out/other.csv".to_owned()]].concat());
    let own = engine.run("mapper", json!({})).await;
    assert_eq!(reads(&world, &engine, json!(own.output.to_string())).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_others_is_a_name_like_others() {
    let world = World::new().await;
    world.inputs(2).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    succeeded(&engine.run("mapper", json!({"output": "s3://bank/their/own/day/"})).await);
    for (key, content) in [
        ("their/_manifest.json", r#"{"files": ["a.csv"]}"#),
        ("their/own/_manifest.json", "[]"),
        ("their/a.csv", "x"),
        ("their/b.csv", "x"),
        ("their/own/day/part-stray.parquet", "x"),
        ("their/own/day/in/_manifest.json", "not looked at"),
    ] {
        world.put(&format!("s3://bank/{key}"), content).await;
    }
    let mut all = vec!["their/a.csv".to_owned(), "their/b.csv".to_owned()];
    all.extend(world.keys("bank", "their/own/day/part-0").await);
    assert_eq!(reads(&world, &engine, json!("s3://bank/their/")).await, all);
    assert_eq!(reads(&world, &engine, json!("s3://bank/their/*.csv")).await, all[..2]);
    // It is an input where a pattern asks for it.
    let asked = reads(&world, &engine, json!("s3://bank/their/_*.json")).await;
    assert_eq!(asked, ["their/_manifest.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_others_may_be_larger_than_what_is_read_whole() {
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    world.put("s3://bank/their/_manifest.json", &" ".repeat((64 << 20) + 1)).await;
    world.put("s3://bank/their/a.csv", "x").await;
    assert_eq!(reads(&world, &engine, json!("s3://bank/their/")).await, ["their/a.csv"]);
    let refused = engine.submit("mapper", json!({"output": "s3://bank/their/"})).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::OutputExists, "{}", refused.detail);
    // Whoever means to replace what is there does.
    let record = engine.run("mapper", json!({"output": "s3://bank/their/", "overwrite": true})).await;
    succeeded(&record);
    assert_eq!(engine.jobs.manifest(&record.id).await.unwrap().objects.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_inputs_and_outputs_are_refused_before_anything_is_queued() {
    let world = World::new().await;
    world.inputs(1).await;
    world.put("s3://bank/odd/_manifest.json", "no manifest").await;
    world.put("s3://bank/torn/_manifest.json", r#"{"job": "x", "objects": []}"#).await;
    let engine = world.engine().await;
    let check = async |more: Value, kind: ErrorKind, words: &[&str]| {
        let problem = engine.submit("mapper", more.clone()).await.expect_err(&more.to_string());
        assert_eq!(problem.code, kind, "{more} {}", problem.detail);
        for word in words {
            assert!(problem.detail.contains(word), "{word}: {}", problem.detail);
        }
    };
    check(json!({"input": "s3://bank/in/9.csv"}), ErrorKind::ObjectNotFound, &["s3://bank/in/9.csv"]).await;
    let folder = "write s3://bank/in/ for all under a prefix";
    check(json!({"input": "s3://bank/in"}), ErrorKind::ObjectNotFound, &["s3://bank/in,", folder]).await;
    check(json!({"input": "s3://nobucket/in/"}), ErrorKind::BucketNotFound, &["nobucket"]).await;
    check(json!({"input": "manifest://bank/odd/m.json"}), ErrorKind::ObjectNotFound, &["odd/m.json"]).await;
    check(json!({"input": "s3://bank/odd/"}), ErrorKind::InvalidJob, &["odd/_manifest.json"]).await;
    check(json!({"input": "s3://bank/torn/"}), ErrorKind::InvalidJob, &["torn/_manifest.json", "job"]).await;
    check(json!({"input": "s3://bank/[x"}), ErrorKind::InvalidJob, &["s3://bank/[x"]).await;
    check(json!({"input": "s3://fanfold/components/"}), ErrorKind::AccessDenied, &["components"]).await;
    check(json!({"output": "s3://fanfold/x/"}), ErrorKind::AccessDenied, &["s3://fanfold/x/"]).await;
    check(json!({"output": "s3://nobucket/x/"}), ErrorKind::BucketNotFound, &["nobucket"]).await;
    for (input, output) in [
        ("s3://bank/in/", "s3://bank/in/"),
        ("s3://bank/in/", "s3://bank/in/out/"),
        ("s3://bank/in/", "s3://bank/"),
        ("s3://bank/in/000.csv", "s3://bank/in/"),
        ("s3://bank/**", "s3://bank/out/"),
        ("s3://bank/**/*.json", "s3://bank/out/"),
    ] {
        check(json!({"input": input, "output": output}), ErrorKind::OverlappingPrefixes, &[input, output])
            .await;
    }
    check(
        json!({"input": "s3://bank/**/*.csv", "output": "s3://bank/out/", "output_format": "csv"}),
        ErrorKind::OverlappingPrefixes,
        &["s3://bank/**/*.csv", "s3://bank/out/"],
    )
    .await;
    let large = "x".repeat(300 << 10);
    check(json!({"params": {"large": large}}), ErrorKind::InvalidJob, &["params"]).await;
    assert_eq!(engine.submit("nobody", json!({})).await.unwrap_err().code, ErrorKind::FunctionNotFound);
    assert_eq!(engine.submit("mapper@7", json!({})).await.unwrap_err().code, ErrorKind::VersionNotFound);
    assert_eq!(world.keys("fanfold", "jobs/").await, [""; 0]);
    assert_eq!(world.backbone().list("outputs/").await.unwrap().len(), 0);
    let depth = world.backbone().depth(keys::TASK_QUEUE).await.unwrap();
    assert_eq!(depth.ready + depth.delayed + depth.leased, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_named_after_its_run_is_another_each_time() {
    let world = World::new().await;
    world.inputs(2).await;
    let engine = world.engine().await;
    let bench = world.work(Play::default());
    let mut outputs = Vec::new();
    for _ in 0..2 {
        let record = engine.run("mapper", json!({"output": "s3://bank/out/{run}/"})).await;
        succeeded(&record);
        assert_eq!(record.output.to_string(), format!("s3://bank/out/{}/", record.id));
        let parts = world.keys("bank", &format!("out/{}/part-", record.id)).await;
        assert_eq!(reads(&world, &engine, json!(record.output.to_string())).await, parts);
        outputs.push(record.output);
    }
    assert_ne!(outputs[0], outputs[1]);
    drop(bench);
    let refused = engine.submit("mapper", json!({"output": "s3://bank/out/{day}/"})).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::InvalidJob);
    assert!(refused.detail.contains("{day}"), "{}", refused.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_has_one_writer() {
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let first = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap();
    let refused = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::OutputExists);
    assert!(refused.detail.contains(&first.id.to_string()), "{}", refused.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_is_still_writing_is_not_read() {
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let part = keys::output_part(0, &Uuid::new_v4(), "parquet");
    let named = engine.submit("mapper", json!({"output": "s3://bank/out/day/"})).await.unwrap();
    let own = engine.submit("mapper", json!({})).await.unwrap();
    world.put(&format!("s3://bank/out/day/{part}"), "rows").await;
    world.put(&format!("{}{part}", own.output), "rows").await;
    for (input, writer) in [
        ("s3://bank/out/".to_owned(), &named),
        ("s3://bank/out/*/*.parquet".to_owned(), &named),
        (own.output.to_string(), &own),
    ] {
        let refused = engine.submit("folder", json!({"input": input})).await.unwrap_err();
        assert_eq!((refused.code, refused.retryable()), (ErrorKind::JobNotFinished, true), "{input}");
        assert!(refused.detail.contains(&writer.id.to_string()), "{}", refused.detail);
    }
    // What nobody writes is what it is, and so is what lies beside.
    world.put(&format!("s3://bank/old/{part}"), "rows").await;
    world.put("s3://bank/out/x.csv", "a\n").await;
    assert_eq!(reads(&world, &engine, json!("s3://bank/old/")).await, [format!("old/{part}")]);
    let told = engine.submit("folder", json!({"input": "s3://bank/old/"})).await.unwrap().warnings;
    assert!(told.iter().any(|warning| warning.contains("found none in s3://bank/old/")), "{told:?}");
    assert_eq!(reads(&world, &engine, json!("s3://bank/out/*.csv")).await, ["out/x.csv"]);
    for job in [named, own] {
        engine.jobs.cancel(&job.id).await.unwrap();
        engine.ended(&job.id).await;
        engine.submit("folder", json!({"input": job.output.to_string()})).await.unwrap();
    }
}
