// SPDX-License-Identifier: Apache-2.0
//! Releases side by side: what a newer one wrote is neither misread nor ended here.

use std::time::Duration;

use fanfold_backbone::Change;
use fanfold_gateway::jobs::{Filter, JobsConfig};
use fanfold_protocol::{ErrorKind, invocation::Usage, job::JobState, keys, plan::Lease};
use futures::StreamExt;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{BUCKET, PATIENCE, Play, World, succeeded};

/// More than a job may fail at what does not pass by itself.
const LOOKS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_only_newer_workers_know_fails_an_attempt_and_no_job() {
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let id = engine.submit("mapper", json!({})).await.unwrap().id;
    // A worker of the next release fails the first attempt in words of its own.
    let pulled = world.backbone().pull(keys::TASK_QUEUE, 1, PATIENCE, Duration::from_secs(30)).await.unwrap();
    let Lease { stage, group, round, .. } = serde_json::from_slice(&pulled[0].payload).unwrap();
    let commit = json!({
        "job": id, "stage": stage, "group": group, "round": round, "attempt": Uuid::new_v4(), "worker": "newer",
        "tasks": [{
            "index": 0, "attempt": 1, "usage": Usage::default(),
            "outcome": {"failed": {"code": "quota-spent", "detail": "expected room, found none"}},
        }],
    });
    let key = keys::commit(&id, stage, group, round);
    world.put(&format!("s3://{BUCKET}/{key}"), &commit.to_string()).await;
    pulled[0].ack().await.unwrap();
    let record = engine.until(&id, |record| record.failures > 0).await;
    let failure = &record.last_failures[0];
    assert_eq!((failure.problem.code, failure.given_up), (ErrorKind::Internal, false));
    assert_eq!(failure.problem.detail, "expected room, found none");
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&id).await);
}

fn soon(config: &mut JobsConfig) {
    config.left = Duration::from_millis(10);
}

fn document(id: &Uuid) -> String {
    format!("s3://{BUCKET}/{}", keys::job_document(id))
}

/// A job that nobody has worked on, and its document, in whose place lies one with a key of a newer
/// release. Its engine is gone.
async fn of_newer(world: &World) -> (Uuid, Value) {
    let engine = world.engine().await;
    let id = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id;
    engine.until(&id, |record| record.state == JobState::Running).await;
    let told = world.json(&document(&id)).await;
    let mut newer = told.clone();
    newer["document"]["sorted_by"] = json!(["a"]);
    world.put(&document(&id), &newer.to_string()).await;
    (id, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_key_of_a_newer_release_is_left_to_who_knows_the_key() {
    let world = World::new().await;
    world.inputs(3).await;
    let older = world.engine().await.submit("mapper", json!({})).await.unwrap().id;
    let (id, told) = of_newer(&world).await;
    let mut tenures = world.backbone().watch(&keys::coordinator(&id)).await.unwrap();
    let engine = world.engine_with(soon).await;
    let other = engine.submit("mapper", json!({})).await.unwrap().id;
    let looked = async {
        let mut given_back = 0;
        while given_back < LOOKS {
            given_back += usize::from(matches!(tenures.next().await, Some(Change::Delete { .. })));
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.unwrap();
    assert_eq!(engine.jobs.get(&id).await.unwrap().state, JobState::Running);
    for key in [keys::ending(&id), keys::outcome(&id)] {
        assert_eq!(world.keys(BUCKET, &key).await, [""; 0]);
    }
    // Nor do lists end with a record that cannot be read, also where it is all of a page.
    world.backbone().put(&keys::job_record(&id), json!({"state": "paused"}).to_string()).await.unwrap();
    let (mut listed, mut page) = (Vec::new(), None);
    loop {
        let (records, next) = engine.jobs.list(&Filter::default(), page, 1).await.unwrap();
        listed.extend(records.iter().map(|record| record.id));
        page = next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!(listed, [other, older]);
    drop(engine);
    // Who can read it goes on from the plan.
    world.backbone().delete(&keys::job_record(&id), None).await.unwrap();
    world.put(&document(&id), &told.to_string()).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_keeps_no_others_from_being_restored() {
    let world = World::new().await;
    world.inputs(3).await;
    let known = world.engine().await.submit("mapper", json!({})).await.unwrap().id;
    let (id, told) = of_newer(&world).await;
    let world = world.with_fresh_backbone().await;
    let engine = world.engine_with(soon).await;
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&known).await);
    assert_eq!(engine.jobs.get(&id).await.unwrap_err().code, ErrorKind::Internal);
    drop(engine);
    world.put(&document(&id), &told.to_string()).await;
    succeeded(&world.engine().await.ended(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_ends_when_it_is_cancelled() {
    let world = World::new().await;
    world.inputs(3).await;
    let (id, _) = of_newer(&world).await;
    let engine = world.engine_with(soon).await;
    engine.jobs.cancel(&id).await.unwrap();
    let record = engine.ended(&id).await;
    assert_eq!((record.state, record.problem.unwrap().code), (JobState::Cancelled, ErrorKind::Cancelled));
    // Its place is free.
    let _worker = world.work(Play::default());
    succeeded(&engine.run("mapper", json!({"output": "s3://bank/out/"})).await);
}
