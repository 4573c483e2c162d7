// SPDX-License-Identifier: Apache-2.0
//! What has been there long enough is forgotten, and output never is.

use std::time::Duration;

use fanfold_gateway::jobs::Filter;
use fanfold_protocol::{ErrorKind, Problem, job::JobState, keys};
use serde_json::json;
use uuid::Uuid;

use crate::world::{BUCKET, PATIENCE, Play, World, succeeded};

const SOON: Duration = Duration::from_millis(10);

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

/// Waits until nothing lies under a prefix of the platform's bucket.
async fn gone(world: &World, prefix: &str) {
    eventually(prefix, async || world.keys(BUCKET, prefix).await.is_empty()).await;
}

/// Waits until an engine whose jobs serve others for a moment has looked through all
/// that there is: what it removes first of a second mark, it does in its next look.
async fn looked(world: &World) {
    for _ in 0..2 {
        let mark = keys::kept_mark(&Uuid::new_v4());
        world.put(&format!("s3://{BUCKET}/{mark}"), "").await;
        gone(world, &mark).await;
    }
}

/// A worker on which a task of a function fails.
fn failing(function: &'static str, bad: u32) -> Play {
    Play {
        fails: Box::new(move |lease, task| {
            let bad = lease.function == function && lease.stage == 0 && task.index == bad;
            bad.then(|| Problem::new(ErrorKind::GuestPanicked, "expected a number, found a pear"))
        }),
        ..Play::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_a_retry_goes_in_the_end() {
    let world = World::new().await;
    world.inputs(5).await;
    let failed = {
        let engine = world.engine().await;
        let _worker = world.work(failing("mapper", 2));
        engine.run("mapper", json!({"output": "s3://bank/out/"})).await
    };
    assert_eq!(failed.state, JobState::Failed);
    assert_eq!(world.keys(BUCKET, &keys::all_kept(&failed.id)).await.len(), 4);
    let engine = world.engine_that_serves(SOON).await;
    gone(&world, &keys::kept_mark(&failed.id)).await;
    gone(&world, &keys::all_kept(&failed.id)).await;
    // That costs its retry time, and nothing else.
    let _worker = world.work(Play::default());
    let again = engine.jobs.retry(&failed.id, None).await.unwrap();
    let again = engine.ended(&again.id).await;
    succeeded(&again);
    assert_eq!((again.retry.unwrap().difference.unchanged, again.receipt.attempts), (0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_never_became_jobs_are_swept() {
    let world = World::new().await;
    world.inputs(3).await;
    let job = {
        let engine = world.engine().await;
        let _worker = world.work(Play::default());
        engine.run("mapper", json!({})).await
    };
    succeeded(&job);
    let (killed, forgotten) = (Uuid::now_v7(), Uuid::now_v7());
    let output = format!("{}part-x", keys::default_output(&forgotten));
    for key in [
        keys::job_document(&killed),
        keys::plan_draft(&killed),
        keys::plan_shard(&killed, 0),
        output,
        keys::dead_letters(&forgotten),
    ] {
        world.put(&format!("s3://{BUCKET}/{key}"), "{}").await;
    }
    // Somebody may be planning it still.
    let engine = world.engine_that_serves(SOON).await;
    looked(&world).await;
    assert_eq!(world.keys(BUCKET, &keys::job(&killed)).await.len(), 3);
    drop(engine);
    // The jobs that there are have no record either.
    let world = world.with_fresh_backbone().await;
    let soon = |config: &mut fanfold_gateway::jobs::JobsConfig| {
        (config.cache_window, config.unaccepted) = (SOON, SOON);
    };
    let engine = world.engine_with(soon).await;
    gone(&world, &keys::job(&killed)).await;
    looked(&world).await;
    assert_eq!(world.keys(BUCKET, &keys::job(&forgotten)).await.len(), 2);
    assert_eq!(engine.jobs.get(&job.id).await.unwrap().state, JobState::Succeeded);
    assert_eq!(engine.jobs.manifest(&job.id).await.unwrap().objects.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_forgotten_and_their_output_is_not() {
    let world = World::new().await;
    world.inputs(3).await;
    let (own, elsewhere, failed) = {
        let engine = world.engine().await;
        let _worker = world.work(failing("folder", 1));
        let own = engine.run("mapper", json!({})).await;
        let elsewhere = engine.run("both", json!({"output": "s3://bank/out/"})).await;
        (own, elsewhere, engine.run("folder", json!({})).await)
    };
    succeeded(&own);
    succeeded(&elsewhere);
    assert_eq!(failed.state, JobState::Failed);
    let output = world.keys(BUCKET, &keys::default_output(&own.id)).await;
    let beside = world.keys("bank", "out/").await;
    assert_eq!((output.len(), beside.len()), (5, 6), "three tables, and what says so");
    let soon = |config: &mut fanfold_gateway::jobs::JobsConfig| {
        (config.cache_window, config.retention) = (SOON, SOON);
    };
    let other = world.engine().await;
    assert_eq!(other.jobs.tasks(&own.id, None, None, 9).await.unwrap().tasks.len(), 3);
    let engine = world.engine_with(soon).await;
    // Nobody works on it, so that it does not end.
    let running = engine.submit("mapper", json!({"output": "s3://bank/running/"})).await.unwrap().id;
    for id in [own.id, elsewhere.id, failed.id] {
        eventually("forgotten", async || engine.jobs.get(&id).await.is_err()).await;
        assert_eq!(engine.jobs.get(&id).await.unwrap_err().code, ErrorKind::JobNotFound);
    }
    let shown = other.jobs.tasks(&own.id, None, None, 9).await;
    assert_eq!(shown.unwrap_err().code, ErrorKind::JobNotFound, "nor what was shown of it");
    drop(other);
    looked(&world).await;
    assert_eq!(world.keys(BUCKET, &keys::job(&own.id)).await, output);
    for id in [elsewhere.id, failed.id] {
        assert_eq!(world.keys(BUCKET, &keys::job(&id)).await, [""; 0]);
    }
    assert_eq!(world.keys("bank", "out/").await, beside);
    let listed = async || {
        let (records, _) = engine.jobs.list(&Filter::default(), None, 9).await.unwrap();
        records.iter().map(|record| record.id).collect::<Vec<_>>()
    };
    eventually("alone in the list", async || listed().await == [running]).await;
    drop(engine);
    // Nor does anybody find them who looks through the store.
    let world = world.with_fresh_backbone().await;
    let engine = world.engine().await;
    engine.until(&running, |record| record.state == JobState::Running).await;
    assert_eq!(engine.jobs.get(&own.id).await.unwrap_err().code, ErrorKind::JobNotFound);
}
