// SPDX-License-Identifier: Apache-2.0
//! What has been there long enough is forgotten, and output never is.

use std::time::Duration;

use fanfold_gateway::jobs::{Filter, JobsConfig};
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, OutputObject, TaskCommit, TaskOutcome},
    invocation::Usage,
    job::JobState,
    keys,
    uri::ObjectUri,
};
use http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use crate::{
    harness::until,
    way::{Trouble, Way},
    world::{BUCKET, Play, World, succeeded},
};

const SOON: Duration = Duration::from_millis(10);

/// Waits until nothing lies under a prefix of the platform's bucket.
async fn gone(world: &World, prefix: &str) {
    until("nothing to be left", || world.keys(BUCKET, prefix), Vec::is_empty).await;
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
async fn what_cannot_be_forgotten_keeps_nothing_else() {
    let world = World::new().await;
    let [stuck, other] = [1, 2].map(Uuid::from_u128);
    let means = move |asked: &str| asked.starts_with("GET /") && asked.contains(&stuck.to_string());
    let way = Way::to(world.store(), Trouble::Refuse(StatusCode::FORBIDDEN), means).await;
    let _engine = world.engine_by(&way, |config| config.cache_window = SOON).await;
    way.shut();
    for id in [stuck, other] {
        world.put(&format!("s3://{BUCKET}/{}part-0", keys::all_kept(&id)), "rows").await;
        world.put(&format!("s3://{BUCKET}/{}", keys::kept_mark(&id)), "").await;
    }
    way.met(1).await;
    gone(&world, &keys::kept_mark(&other)).await;
    gone(&world, &keys::all_kept(&other)).await;
    assert_eq!(world.keys(BUCKET, &keys::kept_mark(&stuck)).await.len(), 1);
    assert_eq!(world.keys(BUCKET, &keys::all_kept(&stuck)).await.len(), 1);
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
    let soon = |config: &mut JobsConfig| {
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
    let soon = |config: &mut JobsConfig| {
        (config.cache_window, config.retention) = (SOON, SOON);
    };
    let other = world.engine().await;
    assert_eq!(other.jobs.tasks(&own.id, None, None, 9).await.unwrap().tasks.len(), 3);
    let engine = world.engine_with(soon).await;
    // Nobody works on it, so that it does not end.
    let running = engine.submit("mapper", json!({"output": "s3://bank/running/"})).await.unwrap().id;
    for id in [own.id, elsewhere.id, failed.id] {
        let forgotten = until("it to be forgotten", || engine.jobs.get(&id), Result::is_err).await;
        assert_eq!(forgotten.unwrap_err().code, ErrorKind::JobNotFound);
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
    until("it alone in the list", listed, |listed| *listed == [running]).await;
    drop(engine);
    // Nor does anybody find them who looks through the store.
    let world = world.with_fresh_backbone().await;
    let engine = world.engine().await;
    engine.until(&running, |record| record.state == JobState::Running).await;
    assert_eq!(engine.jobs.get(&own.id).await.unwrap_err().code, ErrorKind::JobNotFound);
}

/// Writes down that a task of a job has given a table, as an attempt does that comes too late;
/// answers its key.
async fn commit_late(world: &World, job: &Uuid, folder: &str) -> String {
    let uri = format!("s3://bank/{folder}{}", keys::output_part(0, &Uuid::new_v4(), "parquet"));
    world.put(&uri, "rows").await;
    let uri: ObjectUri = uri.parse().unwrap();
    let key = uri.key().to_owned();
    let table = OutputObject { uri, size: 4, etag: "x".into(), rows: 1 };
    let task = TaskCommit {
        index: 0,
        attempt: 9,
        outcome: TaskOutcome::Table(Some(table)),
        usage: Usage::default(),
        looked_outside: false,
    };
    let (attempt, worker) = (Uuid::new_v4(), "late".to_owned());
    let commit = Commit { job: *job, stage: 0, group: 0, round: 9, attempt, worker, tasks: vec![task] };
    let text = serde_json::to_string(&commit).unwrap();
    world.put(&format!("s3://{BUCKET}/{}", keys::commit(job, 0, 0, 9)), &text).await;
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_for_a_job_that_has_failed_goes_in_the_end() {
    let world = World::new().await;
    world.inputs(3).await;
    let (failed, other, later) = {
        let late = |config: &mut JobsConfig| config.late_sweep = Duration::from_secs(3_600);
        let engine = world.engine_with(late).await;
        let _worker = world.work(failing("mapper", 1));
        let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
        let other = engine.run("mapper", json!({"output": "s3://bank/twice/"})).await;
        let later = engine.run("both", json!({"output": "s3://bank/twice/"})).await;
        (failed, other, later)
    };
    assert_eq!((failed.state, other.state), (JobState::Failed, JobState::Failed));
    succeeded(&later);
    let late = commit_late(&world, &failed.id, "out/").await;
    commit_late(&world, &other.id, "twice/").await;
    // What somebody has put there since is theirs, and so is an output without its manifest.
    let strange = format!("out/{}", keys::output_part(1, &Uuid::new_v4(), "parquet"));
    world.put(&format!("s3://bank/{strange}"), "rows").await;
    world.store().delete(&"s3://bank/twice/_manifest.json".parse().unwrap()).await.unwrap();
    let twice = world.keys("bank", "twice/").await;
    let soon = |config: &mut JobsConfig| (config.cache_window, config.last_sweep) = (SOON, SOON);
    let _engine = world.engine_with(soon).await;
    until("a sweep", || world.keys("bank", "out/"), |keys| !keys.contains(&late)).await;
    looked(&world).await;
    assert_eq!(world.keys("bank", "out/").await, [strange]);
    assert_eq!(world.keys("bank", "twice/").await, twice);
}
