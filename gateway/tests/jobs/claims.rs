// SPDX-License-Identifier: Apache-2.0
//! One job for each output prefix, also when the backbone has lost who has which.

use std::time::Duration;

use fanfold_gateway::jobs::JobRecord;
use fanfold_protocol::{ErrorKind, Problem, job::JobState, keys};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{BUCKET, Engine, PATIENCE, Play, World, document, succeeded};

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
    let released = async {
        while world.backbone().get(&keys::coordinator(&id)).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, released).await.expect("a job that is given back");
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
