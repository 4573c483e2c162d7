// SPDX-License-Identifier: Apache-2.0
//! Samples that tell what a job will take.

use std::sync::{Arc, Mutex};

use fanfold_gateway::jobs::Filter;
use fanfold_protocol::{
    ErrorKind,
    job::{JobState, Range, SampleOf},
    keys, limits,
    plan::{Lease, Work},
};
use serde_json::{Value, json};

use crate::world::{BUCKET, INPUT, Play, World, document, succeeded};

const INPUTS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_tells_what_all_of_it_takes_and_leaves_nothing() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let _worker = world.work(Play { cpu_us: 3_000, ..Play::default() });
    // Ten partitions of a hundred, and of the second the fold of these ten.
    for (function, cpu_ms) in [("mapper", 300), ("folder", 330)] {
        let job = document(function, json!({"output": "s3://bank/out/"}));
        let id = engine.jobs.estimate(job, 10, None).await.unwrap().id;
        let record = engine.ended(&id).await;
        succeeded(&record);
        let told = record.estimate.unwrap();
        let of = SampleOf { partitions: INPUTS as u32, bytes: (INPUTS * INPUT.len()) as u64 };
        assert_eq!((told.sampled, told.of), (10, of));
        assert_eq!(told.cpu_ms, Range { low: cpu_ms, expected: cpu_ms, high: cpu_ms }, "all are alike");
        // The tasks of the sample say their number as the memory that they had.
        assert_eq!(told.memory_bytes_peak, Range { low: 9, expected: 9, high: 18 });
        assert!(told.elapsed_ms.low <= told.elapsed_ms.expected);
        assert_eq!(world.keys("bank", "out/").await, [""; 0]);
        for left in [keys::default_output(&id), keys::all_staged(&id), keys::all_kept(&id)] {
            assert_eq!(world.keys(BUCKET, &left).await, [""; 0]);
        }
        assert_eq!(engine.jobs.manifest(&id).await.unwrap_err().code, ErrorKind::ObjectNotFound);
        assert_eq!(engine.jobs.result(&id).await.unwrap_err().code, ErrorKind::ObjectNotFound);
        assert_eq!(engine.jobs.retry(&id, None).await.unwrap_err().code, ErrorKind::JobFinished);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_does_all_that_the_job_would_do() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let leases = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&leases);
    let sees = Box::new(move |lease: &Lease| seen.lock().unwrap().push(lease.clone()));
    let _worker = world.work(Play { cpu_us: 3_000, sees, ..Play::default() });
    let estimated = async |function: &str, more: Value| {
        leases.lock().unwrap().clear();
        let id = engine.jobs.estimate(document(function, more), 10, None).await.unwrap().id;
        let record = engine.ended(&id).await;
        succeeded(&record);
        for left in [keys::default_output(&id), keys::all_staged(&id)] {
            assert_eq!(world.keys(BUCKET, &left).await, [""; 0]);
        }
        let leases = std::mem::take(&mut *leases.lock().unwrap());
        (record, leases.into_iter().filter(|lease| lease.stage == 0).collect::<Vec<_>>())
    };
    // Three reducers read what ten partitions gave.
    let (record, leases) = estimated("grouper", json!({"reducers": 3})).await;
    assert_eq!(record.estimate.unwrap().cpu_ms.expected, 10 * 3 * (10 + 3));
    // Small partitions run beside each other, not one after the other in one lease.
    assert!(leases.len() == 10 && leases.iter().all(|lease| lease.tasks.len() == 1), "{leases:?}");
    let keeps = |leases: &[Lease]| {
        let keep = |lease: &Lease| matches!(lease.tasks[0].work, Work::MapAccumulate { keep: true, .. });
        leases.iter().filter(|lease| keep(lease)).count()
    };
    let (record, leases) = estimated("both", json!({"output": "s3://bank/out/"})).await;
    assert_eq!((keeps(&leases), record.warnings), (10, vec![]));
    let (record, leases) = estimated("both", json!({})).await;
    assert_eq!((keeps(&leases), record.warnings.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_very_many_is_evenly_spaced() {
    let world = World::new().await;
    // Of more than 30,000 partitions not all are held until it is known how many there are.
    let rows = 80_000;
    world.put("s3://bank/in/large.csv", &format!("a\n{}", "1\n".repeat(rows))).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let id = engine.jobs.estimate(document("mapper", json!({})), 8, None).await.unwrap().id;
    let record = engine.ended(&id).await;
    succeeded(&record);
    let bytes = 2 * (rows as u64 + 1);
    let of = SampleOf { partitions: bytes.div_ceil(INPUT.len() as u64) as u32, bytes };
    assert_eq!(record.estimate.unwrap().of, of);
    let starts: Vec<u64> =
        world.partitions(&id).await.iter().map(|p| p.slices[0].bytes.unwrap().start).collect();
    assert_eq!(starts.len(), 8);
    let between = |pair: &[u64]| (pair[1] - pair[0]).abs_diff(bytes / 8);
    assert!(starts.windows(2).all(|pair| between(pair) < 32), "{starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_job_would_be_refused_for_refuses_an_estimate() {
    let world = World::new().await;
    let rows = 2 * limits::GROUP_PARTITIONS_MAX as usize;
    world.put("s3://bank/in/large.csv", &format!("a\n{}", "1\n".repeat(rows))).await;
    let engine = world.engine().await;
    let job = document("grouper", json!({}));
    let refused = engine.jobs.submit(job.clone(), None).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::PartitionLimit);
    assert!(refused.detail.contains("found 2001"), "{}", refused.detail);
    assert_eq!(engine.jobs.estimate(job, 8, None).await.unwrap_err(), refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_makes_one_estimate() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let job = || document("folder", json!({}));
    let estimated = async |sample| engine.jobs.estimate(job(), sample, Some("monday")).await;
    let (one, two) = tokio::join!(estimated(2), estimated(2));
    let id = one.unwrap().id;
    assert_eq!((two.unwrap().id, estimated(2).await.unwrap().id), (id, id));
    assert_eq!(engine.jobs.list(&Filter::default(), None, 9).await.unwrap().0.len(), 1);
    // Of another sample, or the job itself, it is another request.
    for refused in [estimated(3).await, engine.jobs.submit(job(), Some("monday")).await] {
        assert_eq!(refused.unwrap_err().code, ErrorKind::IdempotencyConflict);
    }
    let _worker = world.work(Play::default());
    let record = engine.ended(&id).await;
    succeeded(&record);
    assert_eq!(record.estimate.unwrap().sampled, 2);
    assert_eq!(estimated(2).await.unwrap().id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_job_is_its_own_sample() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let id = engine.jobs.estimate(document("folder", json!({})), 8, None).await.unwrap().id;
    assert_eq!(engine.ended(&id).await.estimate.unwrap().sampled, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_samples_are_refused_and_bad_data_is_told() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine().await;
    for sample in [0, 1_001] {
        let refused = engine.jobs.estimate(document("folder", json!({})), sample, None).await.unwrap_err();
        assert_eq!(refused.code, ErrorKind::InvalidRequest);
        assert!(refused.detail.contains("1 to 1000"), "{}", refused.detail);
    }
    let poison = fanfold_protocol::Problem::new(ErrorKind::CsvFieldCount, "expected 1 field, found 2");
    let _worker = world.work(Play { fails: Box::new(move |_, _| Some(poison.clone())), ..Play::default() });
    // What the job would tolerate tells nothing of what its tasks take.
    for tolerated in ["0", "10", "100%"] {
        let job = document("mapper", json!({"limits": {"tolerated_failures": tolerated}}));
        let id = engine.jobs.estimate(job, 2, None).await.unwrap().id;
        let record = engine.ended(&id).await;
        assert_eq!((record.state, record.estimate), (JobState::Failed, None), "{tolerated}");
        assert_eq!(record.problem.unwrap().code, ErrorKind::CsvFieldCount);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_job_may_take_does_not_stop_its_sample() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine().await;
    let _worker = world.work(Play { cpu_us: 1_000_000, ..Play::default() });
    // Spent by the first of its tasks, long before the fold.
    let job = document("folder", json!({"budget": {"cpu_seconds": 1}}));
    let id = engine.jobs.estimate(job, 10, None).await.unwrap().id;
    let record = engine.ended(&id).await;
    succeeded(&record);
    assert_eq!(record.estimate.unwrap().cpu_ms.expected, 22_000);
}
