// SPDX-License-Identifier: Apache-2.0
//! Samples that tell what a job will take.

use fanfold_protocol::{
    ErrorKind,
    job::{JobState, Range, SampleOf},
    keys,
};
use serde_json::json;

use crate::world::{BUCKET, INPUT, Play, World, document, succeeded};

const INPUTS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_tells_what_all_of_it_takes_and_leaves_nothing() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let _worker = world.work(Play { cpu_us: 3_000, ..Play::default() });
    for function in ["mapper", "folder"] {
        let job = document(function, json!({"output": "s3://bank/out/"}));
        let id = engine.jobs.estimate(job, 10).await.unwrap().id;
        let record = engine.ended(&id).await;
        succeeded(&record);
        let told = record.estimate.unwrap();
        let of = SampleOf { partitions: INPUTS as u32, bytes: (INPUTS * INPUT.len()) as u64 };
        assert_eq!((told.sampled, told.of), (10, of));
        assert_eq!(told.cpu_ms, Range { low: 300, expected: 300, high: 300 }, "all partitions are alike");
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
async fn a_small_job_is_its_own_sample() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let id = engine.jobs.estimate(document("folder", json!({})), 8).await.unwrap().id;
    assert_eq!(engine.ended(&id).await.estimate.unwrap().sampled, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_samples_are_refused_and_bad_data_is_told() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine().await;
    for sample in [0, 1_001] {
        let refused = engine.jobs.estimate(document("folder", json!({})), sample).await.unwrap_err();
        assert_eq!(refused.code, ErrorKind::InvalidRequest);
        assert!(refused.detail.contains("1 to 1000"), "{}", refused.detail);
    }
    let poison = fanfold_protocol::Problem::new(ErrorKind::CsvFieldCount, "expected 1 field, found 2");
    let _worker = world.work(Play { fails: Box::new(move |_, _| Some(poison.clone())), ..Play::default() });
    let id = engine.jobs.estimate(document("mapper", json!({})), 2).await.unwrap().id;
    let record = engine.ended(&id).await;
    assert_eq!((record.state, record.estimate), (JobState::Failed, None));
    assert_eq!(record.problem.unwrap().code, ErrorKind::CsvFieldCount);
}
