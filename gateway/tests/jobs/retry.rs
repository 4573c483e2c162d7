// SPDX-License-Identifier: Apache-2.0
//! Jobs that are run again, and what they take over.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfold_gateway::jobs::{Change, Filter, JobRecord};
use fanfold_protocol::{
    ErrorKind, Problem,
    job::{Difference, JobState},
    keys,
};
use fanfold_storage::{Store, StoreConfig};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::DropGuard;
use uuid::Uuid;

use crate::{
    harness::{Base, until},
    world::{Engine, Mishap, Play, World, result, succeeded},
};

/// A worker on which a task fails while it is broken; it says what it has run.
struct Bench {
    broken: Arc<AtomicBool>,
    ran: Arc<Mutex<Vec<(u32, u32)>>>,
    _worker: DropGuard,
}

impl Bench {
    fn new(world: &World, bad: u32) -> Self {
        let (broken, ran) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let (fails, sees) = (Arc::clone(&broken), Arc::clone(&ran));
        let worker = world.work(Play {
            fails: Box::new(move |lease, task| {
                let bad = lease.stage == 0 && task.index == bad && fails.load(Ordering::SeqCst);
                bad.then(|| Problem::new(ErrorKind::GuestPanicked, "expected a number, found a pear"))
            }),
            sees: Box::new(move |lease| {
                sees.lock().unwrap().extend(lease.tasks.iter().map(|task| (lease.stage, task.index)));
            }),
            ..Play::default()
        });
        Self { broken, ran, _worker: worker }
    }

    fn mend(&self) {
        self.broken.store(false, Ordering::SeqCst);
        self.ran.lock().unwrap().clear();
    }

    /// The tasks of the first stage that were run since it was mended.
    fn ran(&self) -> Vec<u32> {
        let ran = self.ran.lock().unwrap();
        ran.iter().filter(|(stage, _)| *stage == 0).map(|(_, task)| *task).collect()
    }
}

async fn retried(engine: &Engine, id: &Uuid) -> JobRecord {
    let again = engine.jobs.retry(id, None).await.unwrap();
    assert_eq!((again.retry.unwrap().job, again.state.is_terminal()), (*id, false));
    engine.ended(&again.id).await
}

fn difference(record: &JobRecord) -> Difference {
    record.retry.unwrap().difference
}

/// The names and contents of a job's tables, in the manifest's order.
async fn rows(engine: &Engine, id: &Uuid) -> (u64, usize) {
    let manifest = engine.jobs.manifest(id).await.unwrap();
    let names: Vec<_> = manifest.objects.iter().map(|object| object.uri.key().to_owned()).collect();
    assert!(names.is_sorted(), "{names:?}");
    (manifest.rows, names.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_failed_is_run_again() {
    let world = World::new().await;
    world.inputs(70).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 2);
    let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    assert_eq!(failed.state, JobState::Failed);
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
    bench.mend();
    // The second lease may not have been done when the job was ended.
    let done = failed.tasks.done;
    let compared = engine.jobs.compare(&failed.id).await.unwrap();
    let expected = Difference { unchanged: done, failed: 1, unfinished: 69 - done, ..Difference::default() };
    assert_eq!(compared.difference, expected);
    let first = &compared.differing[0];
    assert_eq!((first.change, first.task), (Change::Failed, Some(2)));
    assert_eq!(first.problem.as_ref().unwrap().code, ErrorKind::GuestPanicked);
    let record = retried(&engine, &failed.id).await;
    succeeded(&record);
    assert_eq!(difference(&record), expected);
    let ran = bench.ran();
    assert!(ran.contains(&2) && ran.len() as u64 == 70 - done, "{ran:?}");
    assert_eq!((record.receipt.attempts, record.tasks.done), (70 - done, 70));
    assert_eq!(rows(&engine, &record.id).await, (70, 70));
    // Nothing but the output is left of either job.
    assert_eq!(world.keys("bank", "out/part-").await.len(), 70);
    assert_eq!(world.keys("fanfold", &keys::all_kept(&failed.id)).await, [""; 0]);
    let manifest = engine.jobs.manifest(&record.id).await.unwrap();
    for object in manifest.objects {
        let found = world.store().head(&object.uri).await.unwrap().pin;
        assert_eq!((found.size, found.etag), (object.size, object.etag));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_or_gone_moves_no_other_partition() {
    let world = World::new().await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let list = async |numbers: &[u32]| {
        let line = |n: &u32| format!("s3://bank/told/{n:04}.csv,1000000,9b2cf535f27731c974343645a3985328\n");
        let text: String =
            std::iter::once("uri,size,etag\n".to_owned()).chain(numbers.iter().map(line)).collect();
        let uri = "s3://bank/lists/told.csv".parse().unwrap();
        world.store().put(&uri, text.into(), Default::default()).await.unwrap();
    };
    let even: Vec<u32> = (0..64).map(|n| 2 * n).collect();
    list(&even).await;
    let job = json!({"input": "manifest://bank/lists/told.csv", "format": "bytes", "split": {}});
    let before = engine.run("folder", job).await;
    succeeded(&before);
    assert_eq!(before.partitions, 32);
    // So much that a job that is no retry would aim at twice as many bytes.
    let more = (200..300).chain([41]);
    list(&even.iter().copied().filter(|n| *n != 60).chain(more).collect::<Vec<_>>()).await;
    let again = retried(&engine, &before.id).await;
    succeeded(&again);
    let found = difference(&again);
    assert_eq!((found.unchanged, found.vanished), (30, 1), "{found:?}");
    assert_eq!(u64::from(again.partitions), 30 + found.added + found.changed);
    assert_eq!((found.added, found.changed), (50, 3), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_taken_over_and_folded_as_if_they_were_new() {
    let world = World::new().await;
    world.inputs(40).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 7);
    let failed = engine.run("folder", json!({})).await;
    assert_eq!(failed.state, JobState::Failed);
    bench.mend();
    let plain = engine.run("folder", json!({})).await;
    bench.mend();
    let record = retried(&engine, &failed.id).await;
    succeeded(&record);
    assert_eq!((&record.result, bench.ran()), (&plain.result, vec![7]));
    // Its fold and the root run, and the two others unless they were done before.
    let attempts = record.receipt.attempts;
    assert!((3..=5).contains(&attempts), "{attempts}");
    world.put("s3://bank/in/020.csv", "a\n7\n").await;
    let again = retried(&engine, &record.id).await;
    assert_eq!((again.receipt.attempts, again.result), (1 + 1 + 1, plain.result));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_states_are_taken_over_together() {
    let world = World::new().await;
    world.inputs(40).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 7);
    let failed = engine.run("both", json!({"output": "s3://bank/out/"})).await;
    assert_eq!(failed.state, JobState::Failed);
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
    // Of one task the table is gone, so that its state is of no use either.
    let kept = world.keys("fanfold", &keys::all_kept(&failed.id)).await;
    assert_eq!(kept.len(), 39);
    world.store().delete(&format!("s3://fanfold/{}", kept[0]).parse().unwrap()).await.unwrap();
    bench.mend();
    let plain = engine.run("folder", json!({})).await;
    bench.mend();
    let record = retried(&engine, &failed.id).await;
    succeeded(&record);
    assert_eq!((&record.result, bench.ran()), (&plain.result, vec![0, 7]));
    assert_eq!(rows(&engine, &record.id).await, (40, 40));
    assert_eq!(world.keys("bank", "out/part-").await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shuffled_is_taken_over_for_as_many_reducers() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 7);
    let failed = engine.run("grouper", json!({"output": "s3://bank/out/", "reducers": 3})).await;
    assert_eq!((failed.state, failed.tasks.total), (JobState::Failed, 20 + 3));
    bench.mend();
    let record = retried(&engine, &failed.id).await;
    succeeded(&record);
    assert_eq!((record.tasks.done, record.receipt.attempts, bench.ran()), (20 + 3, 1 + 3, vec![7]));
    assert_eq!(rows(&engine, &record.id).await, (3, 3));
    assert_eq!(world.keys("bank", "out/part-").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_fails_is_retried_in_its_turn() {
    let world = World::new().await;
    world.inputs(5).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 2);
    let first = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    let second = retried(&engine, &first.id).await;
    assert_eq!((second.state, second.receipt.attempts), (JobState::Failed, 3));
    bench.mend();
    let third = retried(&engine, &second.id).await;
    succeeded(&third);
    assert_eq!((rows(&engine, &third.id).await, bench.ran()), ((5, 5), vec![2]));
    for id in [first.id, second.id] {
        assert_eq!(world.keys("fanfold", &keys::all_kept(&id)).await, [""; 0]);
    }
}

/// Changes one object, adds one, and removes one.
async fn change_inputs(world: &World) {
    world.put("s3://bank/in/001.csv", "a\n7\n").await;
    world.put("s3://bank/in/0005.csv", "a\n1\n").await;
    world.store().delete(&"s3://bank/in/003.csv".parse().unwrap()).await.unwrap();
}

const CHANGED: Difference =
    Difference { unchanged: 2, failed: 0, unfinished: 0, changed: 1, added: 1, vanished: 1 };

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_the_difference_and_changes_nothing() {
    let world = World::new().await;
    world.inputs(4).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let record = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    change_inputs(&world).await;
    let objects = async || (world.keys("bank", "").await, world.keys("fanfold", "").await);
    let before = objects().await;
    let compared = engine.jobs.compare(&record.id).await.unwrap();
    assert_eq!(compared.difference, CHANGED);
    let told: Vec<_> =
        compared.differing.iter().map(|d| (d.change, d.input[0].key().to_owned(), d.task)).collect();
    assert_eq!(
        told,
        [
            (Change::Changed, "in/001.csv".to_owned(), Some(2)),
            (Change::Added, "in/0005.csv".to_owned(), Some(1)),
            (Change::Vanished, "in/003.csv".to_owned(), None),
        ]
    );
    assert_eq!(objects().await, before);
    assert_eq!(engine.jobs.list(&Filter::default(), None, 9).await.unwrap().0.len(), 1);
    assert_eq!(world.backbone().list("outputs/").await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_was_added_or_vanished_is_brought_up_to_date() {
    let world = World::new().await;
    world.inputs(4).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 99);
    let check = async |function: &str, more: Value| {
        world.inputs(4).await;
        world.store().delete(&"s3://bank/in/0005.csv".parse().unwrap()).await.unwrap();
        let record = engine.run(function, more.clone()).await;
        succeeded(&record);
        let nothing = engine.jobs.retry(&record.id, None).await.unwrap_err();
        assert_eq!(nothing.code, ErrorKind::JobFinished, "{}", nothing.detail);
        change_inputs(&world).await;
        bench.mend();
        let again = retried(&engine, &record.id).await;
        succeeded(&again);
        assert_eq!(difference(&again), CHANGED);
        assert_eq!(bench.ran(), [1, 2]);
        again
    };
    let map = check("mapper", json!({"output": "s3://bank/out/"})).await;
    assert_eq!(rows(&engine, &map.id).await, (4, 4));
    assert_eq!(world.keys("bank", "out/part-").await.len(), 4);
    let own = check("mapper", json!({})).await;
    assert_eq!(rows(&engine, &own.id).await, (4, 4));
    let fold = check("folder", json!({})).await;
    assert_eq!(result(&fold), Some(json!({"fold": "(000 0005 001 002)"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_goes_on_where_it_was() {
    let world = World::new().await;
    world.inputs(130).await;
    let engine = world.engine().await;
    let id = {
        let hang = |lease: &fanfold_protocol::plan::Lease| (lease.group == 129).then_some(Mishap::Hang);
        let _worker = world.work(Play { mishap: Box::new(hang), ..Play::default() });
        let id = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id;
        engine.until(&id, |record| record.tasks.done == 129).await;
        engine.jobs.cancel(&id).await.unwrap();
        engine.ended(&id).await.id
    };
    let bench = Bench::new(&world, 999);
    let record = retried(&engine, &id).await;
    succeeded(&record);
    assert_eq!((bench.ran(), rows(&engine, &record.id).await), (vec![129], (130, 130)));
}

/// The way to a store on which requests to copy are held for ever; and how many are.
async fn holding_copies(endpoint: &str) -> (String, Arc<AtomicUsize>) {
    holding(endpoint, |asked| contains(asked, b"x-amz-copy-source"), Duration::MAX).await
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// The way to a store on which requests that are meant arrive so much later, also when nobody waits for
/// them any more; and how many there were.
async fn holding(endpoint: &str, means: fn(&[u8]) -> bool, wait: Duration) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (way, held) = (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let (upstream, count) = (endpoint.trim_start_matches("http://").to_owned(), Arc::clone(&held));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, count) = (TcpStream::connect(&upstream).await.unwrap(), Arc::clone(&count));
            tokio::spawn(async move {
                let (mut asks, mut hears) = client.into_split();
                let (mut answers, mut takes) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
                let mut bytes = vec![0; 64 << 10];
                while let Ok(read @ 1..) = asks.read(&mut bytes).await {
                    if means(&bytes[..read]) {
                        count.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(wait).await;
                    }
                    if takes.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (way, held)
}

/// A job of forty tasks, of which one failed for good, and whoever ran it is gone.
async fn failed_of_forty() -> (World, JobRecord) {
    let world = World::new().await;
    world.inputs(40).await;
    let engine = world.engine().await;
    let _bench = Bench::new(&world, 7);
    let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    (world, failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_while_it_takes_over() {
    let (mut world, failed) = failed_of_forty().await;
    let (way, held) = holding_copies(&world.base.endpoint).await;
    world.base.store = Base::store_at(&way);
    let engine = world.engine().await;
    let id = engine.jobs.retry(&failed.id, None).await.unwrap().id;
    engine.until(&id, |record| record.state == JobState::Running).await;
    until("a copy that is held", async || held.load(Ordering::SeqCst), |held| *held > 0).await;
    let record = engine.jobs.cancel(&id).await.unwrap();
    assert_eq!((record.state, record.tasks.done), (JobState::Cancelled, 0));
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_took_nothing_over_is_passed_over() {
    let (mut world, failed) = failed_of_forty().await;
    let store = world.base.store.clone();
    let (way, held) = holding_copies(&world.base.endpoint).await;
    world.base.store = Base::store_at(&way);
    let cancelled = {
        let engine = world.engine().await;
        let id = engine.jobs.retry(&failed.id, None).await.unwrap().id;
        until("a copy that is held", async || held.load(Ordering::SeqCst), |held| *held > 0).await;
        engine.jobs.cancel(&id).await.unwrap();
        engine.ended(&id).await
    };
    assert_eq!((cancelled.state, cancelled.tasks.done), (JobState::Cancelled, 0));
    world.base.store = store;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 999);
    let compared = engine.jobs.compare(&cancelled.id).await.unwrap();
    assert_eq!((compared.of, compared.difference.unchanged), (failed.id, failed.tasks.done));
    let again = engine.jobs.retry(&cancelled.id, None).await.unwrap();
    assert_eq!(again.retry.unwrap().job, failed.id);
    let record = engine.ended(&again.id).await;
    succeeded(&record);
    assert_eq!(record.receipt.cache_hits, failed.tasks.done);
    assert_eq!(bench.ran().len() as u64, 40 - failed.tasks.done);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_over_at_the_moment_of_a_cancellation_is_counted() {
    let (mut world, failed) = failed_of_forty().await;
    let commits = |asked: &[u8]| asked.starts_with(b"PUT ") && contains(asked, b"/commits/");
    let (way, held) = holding(&world.base.endpoint, commits, Duration::from_millis(400)).await;
    world.base.store = Base::store_at(&way);
    let engine = world.engine().await;
    let id = engine.jobs.retry(&failed.id, None).await.unwrap().id;
    until("a commit that is on its way", async || held.load(Ordering::SeqCst), |held| *held > 0).await;
    engine.jobs.cancel(&id).await.unwrap();
    let record = engine.ended(&id).await;
    assert_eq!(record.state, JobState::Cancelled);
    assert!(record.tasks.done > 0);
    assert_eq!(record.receipt.cache_hits, record.tasks.done);
    let unchanged = engine.jobs.compare(&id).await.unwrap().difference.unchanged;
    assert_eq!(unchanged, record.tasks.done);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_to_copy_is_run_again() {
    let mut world = World::new().await;
    world.inputs(70).await;
    let bench = Bench::new(&world, 2);
    let failed = world.engine().await.run("mapper", json!({"output": "s3://bank/out/"})).await;
    assert_eq!(failed.state, JobState::Failed);
    bench.mend();
    let (way, held) = holding_copies(&world.base.endpoint).await;
    let config = world.store().config().clone();
    let (endpoint, operation_timeout) = (Some(way), Duration::from_secs(3));
    world.base.store = Store::connect(StoreConfig { endpoint, operation_timeout, ..config }).unwrap();
    let engine = world.engine().await;
    let record = retried(&engine, &failed.id).await;
    succeeded(&record);
    assert_eq!(bench.ran().into_iter().collect::<BTreeSet<_>>(), (0..70).collect());
    assert_eq!((record.receipt.attempts, record.receipt.cache_hits), (70, 0));
    assert_eq!(rows(&engine, &record.id).await, (70, 70));
    // It is not tried for each of them: as many are under way at once, and as many again began
    // before all of these were late.
    let held = held.load(Ordering::SeqCst);
    assert!((1..=32).contains(&held), "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_any_more_is_run_again() {
    let world = World::new().await;
    world.inputs(5).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 2);
    let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    let kept = world.keys("fanfold", &keys::all_kept(&failed.id)).await;
    assert_eq!(kept.len(), 4);
    world.store().delete(&format!("s3://fanfold/{}", kept[0]).parse().unwrap()).await.unwrap();
    bench.mend();
    let record = retried(&engine, &failed.id).await;
    succeeded(&record);
    let expected = Difference { unchanged: 3, failed: 1, unfinished: 1, ..Difference::default() };
    assert_eq!((difference(&record), bench.ran()), (expected, vec![0, 2]));
    assert_eq!(rows(&engine, &record.id).await, (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_outlives_its_coordinator_and_the_backbone() {
    let world = World::new().await;
    world.inputs(40).await;
    let (failed, again) = {
        let engine = world.engine().await;
        let bench = Bench::new(&world, 7);
        let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
        drop(bench);
        let again = engine.jobs.retry(&failed.id, None).await.unwrap();
        (failed, again)
    };
    let world = world.with_fresh_backbone().await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 99);
    let record = engine.ended(&again.id).await;
    succeeded(&record);
    assert_eq!((record.retry, bench.ran()), (again.retry, vec![7]));
    assert_eq!((record.retry.unwrap().job, rows(&engine, &record.id).await), (failed.id, (40, 40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_retry() {
    let world = World::new().await;
    world.inputs(5).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 2);
    let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    bench.mend();
    let jobs = &engine.jobs;
    let (one, other) = tokio::join!(jobs.retry(&failed.id, Some("k")), jobs.retry(&failed.id, Some("k")));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.id, other.id);
    succeeded(&engine.ended(&one.id).await);
    // Also when there is nothing left to run.
    assert_eq!(jobs.retry(&failed.id, Some("k")).await.unwrap().id, one.id);
    assert_eq!(bench.ran(), [2]);
    let conflict = jobs.retry(&one.id, Some("k")).await.unwrap_err();
    assert_eq!(conflict.code, ErrorKind::IdempotencyConflict, "{}", conflict.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_refused_where_it_cannot_be() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let unknown = engine.jobs.retry(&Uuid::from_u128(7), None).await.unwrap_err();
    assert_eq!(unknown.code, ErrorKind::JobNotFound);
    let running = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id;
    for refused in
        [engine.jobs.retry(&running, None).await.map(|_| ()), engine.jobs.compare(&running).await.map(|_| ())]
    {
        assert_eq!(refused.unwrap_err().code, ErrorKind::JobNotFinished);
    }
    engine.jobs.cancel(&running).await.unwrap();
    engine.ended(&running).await;
    // Another job's output lies there by now.
    let _worker = world.work(Play::default());
    succeeded(&engine.run("mapper", json!({"output": "s3://bank/out/"})).await);
    let taken = engine.jobs.retry(&running, None).await.unwrap_err();
    assert_eq!(taken.code, ErrorKind::OutputExists, "{}", taken.detail);
    assert!(taken.detail.ends_with("or with overwrite = true"), "{taken}");
    for name in ["000", "001", "002"] {
        world.store().delete(&format!("s3://bank/in/{name}.csv").parse().unwrap()).await.unwrap();
    }
    let compared = engine.jobs.compare(&running).await.unwrap();
    assert_eq!((compared.difference.vanished, compared.refused), (3, Some(taken)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_run_again_leads_to_the_job_to_run_again_now() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 1);
    let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await.id;
    assert_eq!(engine.jobs.compare(&failed).await.unwrap().refused, None);
    bench.mend();
    let mut last = failed;
    for round in 0..2 {
        let again = retried(&engine, &last).await;
        succeeded(&again);
        last = again.id;
        world.put(&format!("s3://bank/in/more{round}.csv"), "a\n1\n").await;
        let refused = engine.jobs.retry(&failed, None).await.unwrap_err();
        assert_eq!(refused.code, ErrorKind::OutputExists, "{refused}");
        let advice = format!("found that of job {last}, which ran it again; retry that one");
        assert!(refused.detail.ends_with(&advice), "{refused}");
        assert_eq!(engine.jobs.compare(&failed).await.unwrap().refused, Some(refused));
        assert_eq!(engine.jobs.compare(&last).await.unwrap().refused, None);
    }
    succeeded(&retried(&engine, &last).await);
}

/// Of an earlier release, which took larger parameters.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_what_leases_do_not_carry_any_more_is_refused_at_once() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let bench = Bench::new(&world, 1);
    let failed = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    let place = format!("s3://fanfold/{}", keys::job_document(&failed.id));
    let mut job = world.json(&place).await;
    job["document"]["params"] = json!({"text": "x".repeat(300 << 10)});
    world.put(&place, &job.to_string()).await;
    bench.mend();
    for refused in [
        engine.jobs.retry(&failed.id, None).await.map(|_| ()),
        engine.jobs.retry(&failed.id, Some("k")).await.map(|_| ()),
        engine.jobs.compare(&failed.id).await.map(|_| ()),
    ] {
        let problem = refused.unwrap_err();
        assert_eq!(problem.code, ErrorKind::InvalidJob, "{problem}");
        assert!(problem.detail.contains("params must be at most 262144 bytes of JSON"), "{problem}");
    }
    assert_eq!(engine.jobs.list(&Filter::default(), None, 9).await.unwrap().0.len(), 1);
    assert_eq!(bench.ran(), Vec::<u32>::new());
}
