// SPDX-License-Identifier: Apache-2.0
//! One job for each output prefix, also when the backbone has lost who has which; and what is being
//! written there is read by none.

use fanfold_gateway::jobs::JobRecord;
use fanfold_protocol::{ErrorKind, Problem, digest::Digest, job::JobState, keys};
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::until,
    way::{Trouble, Way},
    world::{BUCKET, Engine, Fails, Play, World, document, succeeded},
};

fn overwriting() -> Value {
    json!({"output": "s3://bank/out/", "overwrite": true})
}

/// A job of an engine that is gone.
async fn begun(world: &World, key: Option<&str>) -> Uuid {
    let id = {
        let engine = world.engine().await;
        let id = engine.jobs.submit(document("mapper", overwriting()), key).await.unwrap().id;
        engine.until(&id, |record| record.state == JobState::Running).await.id
    };
    let tenure = async || world.backbone().get(&keys::coordinator(&id)).await.unwrap();
    until("a job that is given back", tenure, Option::is_none).await;
    id
}

async fn lose_claims(world: &World) {
    for (key, _) in world.backbone().list(keys::OUTPUT_CLAIMS).await.unwrap() {
        world.backbone().delete(&key, None).await.unwrap();
    }
}

fn names(problem: &Problem, job: &Uuid) {
    assert_eq!(problem.code, ErrorKind::OutputExists, "{problem}");
    assert!(problem.detail.contains(&job.to_string()), "{problem}");
}

/// The job that came too late has failed, and the other one's output is whole.
async fn alone(world: &World, engine: &Engine, late: &JobRecord, other: &Uuid) {
    assert_eq!(late.state, JobState::Failed, "{late:?}");
    names(late.problem.as_ref().unwrap(), other);
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(other).await);
    let manifest = engine.jobs.manifest(other).await.unwrap();
    let named: Vec<_> = manifest.objects.iter().map(|object| object.uri.key().to_owned()).collect();
    assert_eq!((named.len(), world.keys("bank", "out/part-").await), (3, named));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_the_store_have_their_outputs_before_new_ones_are_accepted() {
    let world = World::new().await;
    world.inputs(3).await;
    let id = begun(&world, None).await;
    let world = world.with_fresh_backbone().await;
    let engine = world.engine().await;
    names(&engine.submit("mapper", overwriting()).await.unwrap_err(), &id);
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&id).await);
    succeeded(&engine.run("mapper", overwriting()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_output_to_another_job_while_it_ran_fails() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let id = engine.submit("mapper", overwriting()).await.unwrap().id;
    engine.until(&id, |record| record.state == JobState::Running).await;
    lose_claims(&world).await;
    let other = engine.submit("mapper", overwriting()).await.unwrap().id;
    world.backbone().delete(&keys::coordinator(&id), None).await.unwrap();
    let late = engine.ended(&id).await;
    alone(&world, &engine, &late, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_output_to_another_job_is_not_taken_up_again() {
    let world = World::new().await;
    world.inputs(3).await;
    let id = begun(&world, None).await;
    let tenure = keys::coordinator(&id);
    world.backbone().create(&tenure, "slow").await.unwrap();
    lose_claims(&world).await;
    let engine = world.engine().await;
    let other = engine.submit("mapper", overwriting()).await.unwrap().id;
    world.backbone().delete(&tenure, None).await.unwrap();
    let late = engine.ended(&id).await;
    alone(&world, &engine, &late, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_no_way_to_an_output_that_another_job_has() {
    let world = World::new().await;
    world.inputs(3).await;
    let id = begun(&world, Some("key")).await;
    // As if it had died just before the plan's head was written, a while ago.
    world.store().delete(&format!("s3://{BUCKET}/{}", keys::plan(&id)).parse().unwrap()).await.unwrap();
    world.backbone().delete(&keys::job_record(&id), None).await.unwrap();
    lose_claims(&world).await;
    let engine = world.engine().await;
    let other = engine.submit("mapper", overwriting()).await.unwrap().id;
    let again = async || engine.jobs.submit(document("mapper", overwriting()), Some("key")).await;
    names(&again().await.unwrap_err(), &other);
    engine.jobs.cancel(&other).await.unwrap();
    engine.ended(&other).await;
    assert_eq!(again().await.unwrap().id, id);
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_under_an_output_while_its_claim_was_waited_for_is_seen() {
    let mut world = World::new().await;
    world.inputs(1).await;
    // The first look finds nothing, as if it came before the other job's end.
    let means = |asked: &str| asked.starts_with("GET /bank/out/_manifest.json");
    let way = Way::to(world.store(), Trouble::Refuse(StatusCode::NOT_FOUND), means).await;
    world.base.store = way.store();
    let engine = world.engine().await;
    let key = keys::output_claim(&Digest::of(b"s3://bank/out/"));
    let claim = json!({"job": Uuid::now_v7(), "output": "s3://bank/out/"}).to_string();
    world.backbone().put(&key, claim).await.unwrap();
    world.put("s3://bank/out/_manifest.json", "{}").await;
    way.shut();
    let ending = async {
        way.met(1).await;
        way.open();
        world.backbone().delete(&key, None).await.unwrap();
    };
    let submitting = engine.submit("mapper", json!({"output": "s3://bank/out/"}));
    let (submitted, ()) = tokio::join!(submitting, ending);
    assert_eq!(submitted.unwrap_err().code, ErrorKind::OutputExists);
    // It has no claim any more.
    engine.submit("mapper", overwriting()).await.unwrap();
}

/// A job over an input is refused for another one that writes there.
async fn unsettled(engine: &Engine, input: &Value, writer: &Uuid) {
    for mut job in [json!({}), json!({"output": "s3://shop/out/"})] {
        job["input"] = input.clone();
        let refused = engine.submit("mapper", job).await.expect_err(&input.to_string());
        assert_eq!(
            (refused.code, refused.retryable()),
            (ErrorKind::JobNotFinished, true),
            "{input} {refused}"
        );
        assert!(refused.detail.contains(&writer.to_string()), "{input} {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_has_only_begun_to_write_is_not_read() {
    let world = World::new().await;
    world.store().ensure_bucket("shop").await.unwrap();
    world.inputs(1).await;
    let engine = world.engine().await;
    let named = engine.submit("mapper", json!({"output": "s3://bank/race/"})).await.unwrap();
    let own = engine.submit("mapper", json!({})).await.unwrap();
    let inputs = [
        json!("s3://bank/race/"),
        json!("s3://bank/"),
        json!("s3://bank/race/sub/"),
        json!("s3://bank/race/*"),
        json!("s3://bank/r*/*.parquet"),
        json!("s3://bank/**/part-*.parquet"),
        json!(["s3://bank/in/", "s3://bank/race/"]),
    ];
    for input in &inputs {
        unsettled(&engine, input, &named.id).await;
    }
    unsettled(&engine, &json!(own.output.to_string()), &own.id).await;
    let estimated =
        engine.jobs.estimate(document("folder", json!({"input": "s3://bank/race/"})), 1, None).await;
    assert_eq!(estimated.unwrap_err().code, ErrorKind::JobNotFinished);
    // What was refused holds nothing, and what cannot be written there is read.
    let claims = world.backbone().list(keys::OUTPUT_CLAIMS).await.unwrap();
    assert_eq!(claims.len(), 1);
    let tables_of_others = "s3://bank/**/part-*.csv";
    for input in [
        "s3://bank/in/",
        "s3://bank/race*.csv",
        "s3://bank/r*/other-*",
        "s3://bank/race-2/",
        tables_of_others,
    ] {
        engine.submit("mapper", json!({"input": input})).await.unwrap_or_else(|e| panic!("{input}: {e}"));
    }
    // A claim of an earlier release tells neither its place nor what is written there.
    let [(key, _)] = &claims[..] else { panic!("{claims:?}") };
    world.backbone().put(key, json!({"job": named.id}).to_string()).await.unwrap();
    for input in [&inputs[0], &json!(tables_of_others)] {
        unsettled(&engine, input, &named.id).await;
    }
    let _worker = world.work(Play::default());
    for job in [&named, &own] {
        succeeded(&engine.ended(&job.id).await);
    }
    // As if it had not been given back.
    for (key, entry) in &claims {
        world.backbone().put(key, entry.value.clone()).await.unwrap();
    }
    for input in inputs.iter().chain([&json!(own.output.to_string())]) {
        engine.submit("folder", json!({"input": input})).await.unwrap_or_else(|e| panic!("{input}: {e}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_cannot_see_what_the_other_writes_run_side_by_side() {
    let world = World::new().await;
    world.store().ensure_bucket("shop").await.unwrap();
    world.inputs(1).await;
    let engine = world.engine().await;
    for _ in 0..2 {
        let job = json!({"input": "s3://bank/**/*.csv", "output": "s3://bank/out/{run}/"});
        engine.submit("mapper", job).await.unwrap();
    }
    let csv = json!({"output": "s3://bank/race/", "output_format": "csv"});
    let csv = engine.submit("mapper", csv).await.unwrap();
    for input in ["s3://bank/**/*.csv", "s3://bank/r*/part-*", "s3://bank/race/"] {
        unsettled(&engine, &json!(input), &csv.id).await;
    }
    engine.submit("mapper", json!({"input": "s3://bank/r*/*.parquet"})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_being_planned_will_write_is_not_read() {
    let world = World::new().await;
    world.store().ensure_bucket("shop").await.unwrap();
    let engine = world.engine().await;
    let (planned, key) = (Uuid::now_v7(), keys::output_claim(&Digest::of(b"s3://bank/race/")));
    let claim = json!({"job": planned, "output": "s3://bank/race/"}).to_string();
    world.backbone().put(&key, claim).await.unwrap();
    unsettled(&engine, &json!("s3://bank/race/"), &planned).await;
    world.backbone().delete(&key, None).await.unwrap();
    engine.submit("folder", json!({"input": "s3://bank/race/"})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_will_replace_is_read_until_it_has() {
    let world = World::new().await;
    world.inputs(2).await;
    let engine = world.engine().await;
    let worker = world.work(Play::default());
    succeeded(&engine.run("mapper", overwriting()).await);
    drop(worker);
    let parts = world.keys("bank", "out/part-").await;
    engine.submit("mapper", overwriting()).await.unwrap();
    for input in ["s3://bank/out/", "s3://bank/out/*.parquet"] {
        let reader = engine.submit("folder", json!({"input": input})).await.unwrap();
        let slices = world.partitions(&reader.id).await.into_iter().flat_map(|partition| partition.slices);
        let read: Vec<_> = slices.map(|slice| slice.object.uri.key().to_owned()).collect();
        assert_eq!(read, parts, "{input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_lie_apart_from_what_is_being_written() {
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let submit = async |output: &str| engine.submit("mapper", json!({"output": output})).await;
    let middle = submit("s3://bank/a/b/").await.unwrap().id;
    for output in ["s3://bank/a/", "s3://bank/a/b/c/", "s3://bank/a/b/c/d/"] {
        let refused = submit(output).await.expect_err(output);
        assert_eq!((refused.code, refused.retryable()), (ErrorKind::JobNotFinished, true), "{refused}");
        assert!(refused.detail.contains(&format!("{middle} writing to s3://bank/a/b/;")), "{refused}");
    }
    // Refused ones hold nothing; siblings, among them runs of one document, do not meet.
    assert_eq!(world.backbone().list(keys::OUTPUT_CLAIMS).await.unwrap().len(), 1);
    for output in ["s3://bank/a/c/", "s3://bank/a/b-2/", "s3://bank/a/{run}/", "s3://bank/a/{run}/"] {
        submit(output).await.unwrap_or_else(|e| panic!("{output}: {e}"));
    }
    engine.jobs.cancel(&middle).await.unwrap();
    engine.ended(&middle).await;
    submit("s3://bank/a/b/c/").await.unwrap();
    // Its own retry is refused as well while another one writes below.
    let again = engine.jobs.retry(&middle, None).await.unwrap_err();
    assert_eq!(again.code, ErrorKind::JobNotFinished, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_outputs_that_do_not_lie_apart_the_first_is_had() {
    let world = World::new().await;
    world.inputs(1).await;
    let (engine, other) = (world.engine().await, world.engine().await);
    for turn in 0..8 {
        let (outer, inner) = (format!("s3://bank/{turn}/"), format!("s3://bank/{turn}/b/"));
        let (outer, inner) = tokio::join!(
            engine.submit("mapper", json!({"output": outer})),
            other.submit("mapper", json!({"output": inner})),
        );
        let refused: Vec<_> = [outer, inner].into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0].code, ErrorKind::JobNotFinished, "{refused:?}");
    }
    // One that is being planned is in the way of those that came after it, and of no other.
    let (planned, key) = (Uuid::now_v7(), keys::output_claim(&Digest::of(b"s3://bank/a/b/")));
    let claim =
        |since: Option<u64>| json!({"job": planned, "output": "s3://bank/a/b/", "since": since}).to_string();
    let submit = async || engine.submit("mapper", json!({"output": "s3://bank/a/"})).await;
    world.backbone().put(&key, claim(None)).await.unwrap();
    let refused = submit().await.unwrap_err();
    assert!(refused.detail.contains(&planned.to_string()), "{refused}");
    world.backbone().put(&key, claim(Some(u64::MAX))).await.unwrap();
    submit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_again_meets_only_others() {
    let world = World::new().await;
    world.inputs(2).await;
    let engine = world.engine().await;
    let fails: Fails =
        Box::new(|_, task| (task.index == 1).then(|| Problem::new(ErrorKind::FunctionError, "no luck")));
    let worker = world.work(Play { fails, ..Play::default() });
    let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    assert_eq!(failed.state, JobState::Failed, "{failed:?}");
    drop(worker);
    let _worker = world.work(Play::default());
    engine.jobs.compare(&failed.id).await.unwrap();
    let again = engine.jobs.retry(&failed.id, None).await.unwrap();
    succeeded(&engine.ended(&again.id).await);
}
