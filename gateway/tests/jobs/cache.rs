// SPDX-License-Identifier: Apache-2.0
//! Jobs that are served from what earlier ones committed, and budgets.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfold_gateway::jobs::JobRecord;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::Manifest,
    digest::Digest,
    function::{Column, Description, Descriptions, Export, Version},
    job::JobState,
    keys,
    plan::{Lease, Task},
    uri::ObjectUri,
};
use fanfold_storage::client::DEPTH_METADATA;
use serde_json::{Value, json};
use tokio_util::sync::DropGuard;

use crate::world::{BUCKET, Engine, INPUT, Play, World, succeeded, version};

const INPUTS: usize = 40;
/// Three of sixteen each, at most, and the root.
const FOLDS: u64 = 4;

/// A worker that says which tasks of the first stage it has run.
struct Seen {
    tasks: Arc<Mutex<Vec<u32>>>,
    _worker: DropGuard,
}

impl Seen {
    fn new(world: &World, play: Play) -> Self {
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&tasks);
        let sees = Box::new(move |lease: &fanfold_protocol::plan::Lease| {
            if lease.stage == 0 {
                seen.lock().unwrap().extend(lease.tasks.iter().map(|task| task.index));
            }
        });
        Self { tasks, _worker: world.work(Play { sees, ..play }) }
    }

    /// The tasks since the last time, in order.
    fn take(&self) -> Vec<u32> {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.sort_unstable();
        tasks
    }
}

fn cached(more: Value) -> Value {
    let mut document = json!({"cache": true});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document
}

fn all() -> Vec<u32> {
    (0..INPUTS as u32).collect()
}

/// Publishes `declared`, a map that declares its only column.
async fn publish_declared(engine: &Engine) {
    let column = Column { name: "a".into(), data_type: "Int64".into(), nullable: true };
    let mapper = Some(Description { reads: Some(vec![column]), writes: None });
    let describes = Descriptions { mapper, ..Descriptions::default() };
    let declared = Version { describes, ..version("declared", vec![Export::Mapper]) };
    engine.registry.publish(declared).await.unwrap();
}

async fn manifest(world: &World, record: &JobRecord) -> Manifest {
    let uri = record.manifest.as_ref().unwrap().to_string();
    serde_json::from_value(world.json(&uri).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_is_not_run() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let seen = Seen::new(&world, Play::default());
    let first = engine.run("folder", cached(json!({}))).await;
    succeeded(&first);
    assert_eq!((first.receipt.cache_hits, seen.take()), (0, all()));

    let second = engine.run("folder", cached(json!({}))).await;
    succeeded(&second);
    assert_eq!((second.receipt.cache_hits, seen.take()), (INPUTS as u64 + FOLDS, vec![]));
    assert_eq!(second.result, first.result);
    assert_eq!((second.receipt.usage.cpu_us, second.receipt.attempts), (0, 0));

    // One object is another one now: its partition is run, and the folds that it reaches.
    world.put("s3://bank/in/017.csv", "a\n2\n").await;
    let third = engine.run("folder", cached(json!({}))).await;
    assert_eq!((third.receipt.cache_hits, seen.take()), (INPUTS as u64 + FOLDS - 3, vec![17]));
    assert_eq!((third.receipt.attempts, third.result), (3, first.result));

    // Where partitions lie elsewhere in the tree, only what merges the same is served.
    world.put("s3://bank/in/0165.csv", INPUT).await;
    let fourth = engine.run("folder", cached(json!({}))).await;
    assert_eq!((fourth.receipt.cache_hits, seen.take()), (INPUTS as u64 + 1, vec![17]));
    assert_eq!(fourth.receipt.attempts, 1 + FOLDS - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_another_task_is_run() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let seen = Seen::new(&world, Play::default());
    succeeded(&engine.run("folder", cached(json!({}))).await);
    assert_eq!(seen.take(), all());
    for other in [
        json!({"params": {"threshold": 1}}),
        json!({"columns": ["a"]}),
        json!({"csv": {"delimiter": ";"}}),
        json!({"limits": {"memory": "64MiB"}}),
        json!({"cache": false}),
    ] {
        let record = engine.run("folder", cached(other.clone())).await;
        assert_eq!((record.receipt.cache_hits, seen.take()), (0, all()), "{other}");
    }
    // How hard to try changes nothing of what comes out.
    let same =
        json!({"retry": {"attempts": 7}, "limits": {"task_timeout": "1m"}, "budget": {"cpu_seconds": 9}});
    assert_eq!(engine.run("folder", cached(same)).await.receipt.cache_hits, INPUTS as u64 + FOLDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_copied_and_checked() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let seen = Seen::new(&world, Play::default());
    let first = engine.run("mapper", cached(json!({"output": "s3://bank/one/"}))).await;
    succeeded(&first);
    assert_eq!(seen.take(), all());
    // What someone has removed or written over is no output any more.
    let objects = manifest(&world, &first).await.objects;
    world.store().delete(&objects[3].uri).await.unwrap();
    world.put(&objects[5].uri.to_string(), "other").await;
    let second = engine.run("mapper", cached(json!({"output": "s3://bank/two/"}))).await;
    succeeded(&second);
    let (ran, hits) = (seen.take(), second.receipt.cache_hits);
    assert!(ran.contains(&3) && ran.contains(&5), "{ran:?}");
    assert_eq!(ran.len() as u64 + hits, INPUTS as u64);
    let objects = manifest(&world, &second).await.objects;
    assert_eq!(objects.len(), INPUTS);
    for object in objects {
        assert!(object.uri.to_string().starts_with("s3://bank/two/part-"), "{}", object.uri);
        assert_eq!(world.store().get(&object.uri, None).await.unwrap(), "rows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_plan_cannot_be_read_serves_nothing_and_is_in_nobodys_way() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let first = engine.run("mapper", cached(json!({}))).await;
    succeeded(&first);
    let shard = format!("s3://{BUCKET}/{}", keys::plan_shard(&first.id, 0));
    // A newer release has other words for partitions.
    world.put(&shard, "{\"slices\": \"of all objects\"}\n").await;
    let second = engine.run("mapper", cached(json!({}))).await;
    succeeded(&second);
    assert_eq!(second.receipt.cache_hits, 0);
    world.store().delete(&shard.parse().unwrap()).await.unwrap();
    let third = engine.run("mapper", cached(json!({}))).await;
    succeeded(&third);
    assert_eq!(third.receipt.cache_hits, INPUTS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_object_settles_no_types_that_are_declared() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    publish_declared(&engine).await;
    let seen = Seen::new(&world, Play::default());
    let first = engine.run("declared", cached(json!({}))).await;
    succeeded(&first);
    succeeded(&engine.run("mapper", cached(json!({}))).await);
    seen.take();
    world.put("s3://bank/in/999.csv", "a\n1234567\n").await;
    let difference = engine.jobs.compare(&first.id).await.unwrap().difference;
    assert_eq!((difference.unchanged, difference.changed), (INPUTS as u64, 0), "{difference:?}");
    let second = engine.run("declared", cached(json!({}))).await;
    succeeded(&second);
    assert_eq!(second.receipt.cache_hits, INPUTS as u64);
    assert!(seen.take().iter().all(|task| *task >= INPUTS as u32));
    // Whose types are told from an object may have others by the new one.
    let other = engine.run("mapper", cached(json!({}))).await;
    succeeded(&other);
    assert_eq!(other.receipt.cache_hits, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_over_other_input_are_in_nobodys_way() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    publish_declared(&engine).await;
    let seen = Seen::new(&world, Play::default());
    let run = async |input: &str| {
        let record = engine.run("declared", cached(json!({"input": input}))).await;
        succeeded(&record);
        (record.receipt.cache_hits, seen.take().len())
    };
    assert_eq!(run("s3://bank/in/").await, (0, INPUTS));
    for month in 0..5 {
        world.put(&format!("s3://bank/{month}/a.csv"), INPUT).await;
        assert_eq!(run(&format!("s3://bank/{month}/")).await, (0, 1));
    }
    // In other words it is found behind five that serve nothing, and in the same words before them.
    assert_eq!(run("s3://bank/in/*.csv").await, (INPUTS as u64, 0));
    assert_eq!(run("s3://bank/in/").await, (INPUTS as u64, 0));
    // Several serve together.
    let several = json!(["s3://bank/in/", "s3://bank/0/", "s3://bank/3/"]);
    let record = engine.run("declared", cached(json!({"input": several}))).await;
    succeeded(&record);
    assert_eq!((record.receipt.cache_hits, seen.take().len()), (INPUTS as u64 + 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_did_nothing_leaves_no_mark() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let marks = async || world.keys(BUCKET, keys::CACHES).await.len();
    let idle = engine.submit("folder", cached(json!({}))).await.unwrap();
    assert_eq!(engine.jobs.cancel(&idle.id).await.unwrap().state, JobState::Cancelled);
    engine.ended(&idle.id).await;
    assert_eq!(marks().await, 0);
    let _worker = world.work(Play::default());
    succeeded(&engine.run("folder", cached(json!({}))).await);
    assert_eq!(marks().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_part_alone_shows_columns_without_rows_also_where_it_is_served() {
    let world = World::new().await;
    let engine = world.engine().await;
    let seen = Seen::new(&world, Play { without_rows: true, ..Play::default() });
    // It settles the types of all jobs.
    world.put("s3://bank/in/009.csv", "a\n1234567\n").await;
    for function in ["mapper", "both"] {
        world.inputs(2).await;
        let run = async |output: &str| {
            let output = format!("s3://bank/{function}/{output}/");
            let record = engine.run(function, cached(json!({"output": output}))).await;
            succeeded(&record);
            assert_eq!(manifest(&world, &record).await.objects.len(), 1, "{function}");
            record
        };
        run("one").await;
        seen.take();
        // What was the second part is the first now.
        world.store().delete(&"s3://bank/in/000.csv".parse().unwrap()).await.unwrap();
        run("two").await;
        assert_eq!(seen.take(), [0], "{function}");
        run("three").await;
        assert_eq!(seen.take(), [0; 0], "{function}");
        // What was the first part is the second.
        world.put("s3://bank/in/00.csv", INPUT).await;
        let four = run("four").await;
        assert_eq!((seen.take(), four.receipt.cache_hits > 0), (vec![0], true), "{function}");
        world.store().delete(&"s3://bank/in/00.csv".parse().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_bears_the_depth_of_its_own_chain() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    succeeded(&engine.run("both", cached(json!({"output": "s3://bank/one/"}))).await);
    for (output, depth) in [("s3://bank/two/", 2), ("s3://bank/none/", 0)] {
        let record = engine.run("both", cached(json!({"output": output, "depth": depth}))).await;
        succeeded(&record);
        assert!(record.receipt.cache_hits >= INPUTS as u64, "{record:?}");
        let written = world.keys("bank", output.trim_start_matches("s3://bank/")).await;
        assert_eq!(written.len(), INPUTS + 3, "{written:?}");
        for key in written {
            let meta = world.store().head(&ObjectUri::new("bank", &key).unwrap()).await.unwrap();
            let marked = meta.user_metadata.get(DEPTH_METADATA).map_or("0", String::as_str);
            assert_eq!(marked, depth.to_string(), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looked_outside_serves_nobody() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let seen = Seen::new(&world, Play { looks_outside: true, ..Play::default() });
    for _ in 0..2 {
        let record = engine.run("folder", cached(json!({}))).await;
        assert_eq!((record.receipt.cache_hits, seen.take()), (0, all()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looked_outside_serves_nobody_by_way_of_a_retry_either() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let failed = {
        let trap = || Problem::new(ErrorKind::GuestTrapped, "expected the function to return, found a trap");
        let fails = move |lease: &Lease, task: &Task| (lease.stage == 0 && task.index == 39).then(trap);
        let play = Play { looks_outside: true, fails: Box::new(fails), ..Play::default() };
        let _worker = world.work(play);
        engine.run("folder", cached(json!({"limits": {"max_parallel": 1}}))).await
    };
    assert_eq!(failed.state, JobState::Failed);
    let seen = Seen::new(&world, Play { looks_outside: true, ..Play::default() });
    let again = engine.jobs.retry(&failed.id, None).await.unwrap();
    let again = engine.ended(&again.id).await;
    succeeded(&again);
    assert!(again.receipt.cache_hits > 0, "{again:?}");
    seen.take();
    let record = engine.run("folder", cached(json!({}))).await;
    assert_eq!((record.receipt.cache_hits, seen.take()), (0, all()));
}

async fn forget_marks(world: &World) {
    for mark in world.keys(BUCKET, keys::CACHES).await {
        world.store().delete(&ObjectUri::new(BUCKET, mark).unwrap()).await.unwrap();
    }
}

/// A job whose last task trapped.
async fn failed(world: &World, engine: &Engine) -> JobRecord {
    let trap = || Problem::new(ErrorKind::GuestTrapped, "expected the function to return, found a trap");
    let fails = move |lease: &Lease, task: &Task| (lease.stage == 0 && task.index == 39).then(trap);
    let _worker = world.work(Play { fails: Box::new(fails), ..Play::default() });
    let record = engine.run("folder", cached(json!({"limits": {"max_parallel": 1}}))).await;
    assert_eq!(record.state, JobState::Failed);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_under_another_key_serves_nobody_by_way_of_a_retry() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    // As a release did that read the same input otherwise.
    let another = Digest::of(b"another reading");
    for (key, marks) in [(None, 1), (Some(another), 0)] {
        forget_marks(&world).await;
        let failed = failed(&world, &engine).await;
        forget_marks(&world).await;
        if let Some(key) = key {
            let document = format!("s3://{BUCKET}/{}", keys::job_document(&failed.id));
            let mut job = world.json(&document).await;
            job["cache"]["key"] = json!(key);
            world.put(&document, &job.to_string()).await;
        }
        let _worker = world.work(Play::default());
        let again = engine.jobs.retry(&failed.id, None).await.unwrap();
        let again = engine.ended(&again.id).await;
        succeeded(&again);
        assert!(again.receipt.cache_hits > 0, "{again:?}");
        assert_eq!(world.keys(BUCKET, keys::CACHES).await.len(), marks, "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_are_removed_in_the_end() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine_that_serves(Duration::from_millis(10)).await;
    let seen = Seen::new(&world, Play::default());
    let marks = Arc::new(AtomicUsize::new(usize::MAX));
    succeeded(&engine.run("folder", cached(json!({}))).await);
    assert_eq!(seen.take(), all());
    let gone = async {
        while marks.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            marks.store(world.keys(BUCKET, keys::CACHES).await.len(), Ordering::SeqCst);
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, gone).await.unwrap();
    assert_eq!(engine.run("folder", cached(json!({}))).await.receipt.cache_hits, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_ends_the_job_and_a_retry_goes_on() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    // Two tasks at a time, half a second each.
    let seen = Seen::new(&world, Play { cpu_us: 500_000, ..Play::default() });
    let job = json!({"budget": {"cpu_seconds": 10}, "limits": {"max_parallel": 2}});
    let record = engine.run("folder", job).await;
    let problem = record.problem.as_ref().unwrap();
    assert_eq!((record.state, problem.code), (JobState::Failed, ErrorKind::BudgetSpent), "{record:?}");
    assert!(problem.detail.contains("cpu_seconds of at most 10, found 10 spent"), "{}", problem.detail);
    let ran = seen.take();
    assert!((20..=24).contains(&ran.len()), "{ran:?}");
    let again = engine.jobs.retry(&record.id, None).await.unwrap();
    let again = engine.ended(&again.id).await;
    assert!(again.retry.unwrap().difference.unchanged >= 20, "{again:?}");
    assert!(again.receipt.cache_hits >= again.retry.unwrap().difference.unchanged, "{again:?}");
}
