// SPDX-License-Identifier: Apache-2.0
//! Releases side by side: what a newer one wrote is neither misread nor ended here.

use std::time::Duration;

use fanfold_protocol::{ErrorKind, invocation::Usage, keys, plan::Lease};
use serde_json::json;
use uuid::Uuid;

use crate::world::{BUCKET, PATIENCE, Play, World, succeeded};

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
