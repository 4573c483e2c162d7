// SPDX-License-Identifier: Apache-2.0
//! Jobs that go as they should, and those that are ended.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use fanfold_gateway::jobs::{Filter, TaskState};
use fanfold_protocol::{ErrorKind, Problem, commit::Manifest, job::JobState, keys, plan::Work};
use serde_json::json;

use crate::world::{Mishap, Play, World, document, result, succeeded};

#[tokio::test(flavor = "multi_thread")]
async fn a_map_publishes_its_tables_through_one_manifest() {
    let world = World::new().await;
    world.inputs(70).await;
    let engine = world.engine().await;
    let _worker = world.work(Play {
        fails: Box::new(|lease, task| {
            (task.index == 3 && lease.round == 0).then(|| Problem::new(ErrorKind::GuestTrapped, "trap"))
        }),
        ..Play::default()
    });
    let record = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    succeeded(&record);
    assert_eq!((record.tasks.total, record.tasks.done, record.receipt.attempts), (70, 70, 71));
    assert_eq!((record.receipt.usage.rows_in, record.failures), (70, 1));
    let manifest = engine.jobs.manifest(&record.id).await.unwrap();
    assert_eq!((manifest.rows, manifest.bytes, manifest.objects.len()), (70, 280, 70));
    let mut expected: Vec<_> = manifest.objects.iter().map(|object| object.uri.key().to_owned()).collect();
    assert!(expected.is_sorted(), "{expected:?}");
    // What the failed attempt staged is gone.
    expected.extend(["out/_SUCCESS".to_owned(), "out/_manifest.json".to_owned()]);
    expected.sort();
    assert_eq!(world.keys("bank", "out/").await, expected);
    assert_eq!(
        world.json(&format!("s3://fanfold/{}", keys::outcome(&record.id))).await["state"],
        "succeeded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_is_folded_in_the_order_of_its_input() {
    let world = World::new().await;
    world.inputs(18).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let record = engine.run("folder", json!({"output": "s3://bank/report/"})).await;
    succeeded(&record);
    let low: Vec<_> = (0..16).map(|n| format!("{n:03}")).collect();
    let expected = json!({"fold": format!("(({}) (016 017))", low.join(" "))});
    assert_eq!(result(&record).as_ref(), Some(&expected));
    assert_eq!(world.json("s3://bank/report/result.json").await, expected);
    assert_eq!(engine.jobs.result(&record.id).await.unwrap(), serde_json::to_vec(&expected).unwrap());
    assert_eq!(record.tasks.total, 18 + 2 + 1);
    // Without an output everything lies in the platform's own place.
    let record = engine.run("folder", json!({})).await;
    assert_eq!(result(&record), Some(expected));
    assert_eq!(record.output.to_string(), format!("s3://fanfold/{}", keys::default_output(&record.id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn reducers_begin_when_all_is_shuffled_and_write_the_table() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine().await;
    let (tasks, seen) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (fails, sees) = (Arc::clone(&tasks), Arc::clone(&seen));
    let _worker = world.work(Play {
        // The first attempt of a reducer fails after it has written something.
        fails: Box::new(move |lease, task| {
            fails.lock().unwrap().push((lease.stage, task.index));
            let first = lease.stage == 1 && task.index == 2 && lease.round == 0;
            first.then(|| Problem::new(ErrorKind::GuestTrapped, "trap"))
        }),
        sees: Box::new(move |lease| {
            for task in &lease.tasks {
                if let Work::Reduce { states, reducers } = &task.work {
                    sees.lock().unwrap().push((states.len(), *reducers));
                }
            }
        }),
        ..Play::default()
    });
    let record = engine.run("grouper", json!({"output": "s3://bank/out/", "reducers": 4})).await;
    succeeded(&record);
    assert_eq!((record.tasks.total, record.receipt.attempts, record.failures), (20 + 4, 20 + 4 + 1, 1));
    assert_eq!(*seen.lock().unwrap(), [(20, 4); 5], "every reducer reads of every task");
    let stages: Vec<u32> = tasks.lock().unwrap().iter().map(|(stage, _)| *stage).collect();
    assert!(stages.is_sorted(), "{stages:?}");
    let manifest = engine.jobs.manifest(&record.id).await.unwrap();
    let names: Vec<_> = manifest.objects.iter().map(|object| object.uri.key().to_owned()).collect();
    assert!(names.len() == 4 && names.is_sorted(), "{names:?}");
    assert_eq!(world.keys("bank", "out/part-").await, names);
    assert_eq!(record.result, None);
    // By itself the job has one reducer for so little.
    assert_eq!(engine.run("grouper", json!({})).await.tasks.total, 20 + 1);
    let refused = engine.submit("folder", json!({"reducers": 2})).await.unwrap_err();
    assert!(refused.code == ErrorKind::InvalidJob && refused.detail.contains("found 2"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_behind_the_first_stage_is_told_by_its_name() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let _worker = world.work(Play {
        fails: Box::new(|lease, _| (lease.stage == 1).then(|| Problem::new(ErrorKind::CsvMalformed, "bad"))),
        ..Play::default()
    });
    for (function, said) in
        [("grouper", "reducer 0 failed after"), ("folder", "task 0 of fold 1 failed after")]
    {
        let record = engine.run(function, json!({})).await;
        let problem = record.problem.unwrap();
        assert!(record.state == JobState::Failed && problem.detail.starts_with(said), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_both_halves_gives_what_two_jobs_give() {
    let world = World::new().await;
    world.inputs(18).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let map = engine.run("mapper", json!({"output": "s3://bank/map/"})).await;
    let fold = engine.run("folder", json!({})).await;
    let both = engine.run("both", json!({"output": "s3://bank/out/"})).await;
    for record in [&map, &fold, &both] {
        succeeded(record);
    }
    assert_eq!((&both.result, both.tasks.total, both.receipt.attempts), (&fold.result, 18 + 2 + 1, 21));
    let names = |manifest: Manifest| {
        let parts = manifest
            .objects
            .iter()
            .map(|object| object.uri.key().rsplit('/').next().unwrap()[..12].to_owned());
        (manifest.rows, parts.collect::<Vec<_>>())
    };
    let manifests =
        (engine.jobs.manifest(&map.id).await.unwrap(), engine.jobs.manifest(&both.id).await.unwrap());
    assert_eq!(names(manifests.0), names(manifests.1));
    assert_eq!(result(&both), Some(world.json("s3://bank/out/result.json").await));
    // Without an output the tables are nowhere, and the author is told.
    let answer = engine.run("both", json!({})).await;
    assert_eq!(answer.result, fold.result);
    assert!(answer.warnings[0].contains("not kept") && both.warnings.is_empty(), "{:?}", answer.warnings);
    assert_eq!(world.keys("fanfold", &format!("{}part-", keys::default_output(&answer.id))).await, [""; 0]);
    let refused = engine.submit("handler", json!({})).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::ExportMissing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_succeed_ends_its_job_and_leaves_nothing() {
    let world = World::new().await;
    world.inputs(5).await;
    let engine = world.engine().await;
    let _worker = world.work(Play {
        fails: Box::new(|_, task| {
            (task.index == 2)
                .then(|| Problem::new(ErrorKind::GuestPanicked, "expected a number, found a pear"))
        }),
        ..Play::default()
    });
    let record = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    assert_eq!((record.state, record.tasks.done, record.tasks.failed), (JobState::Failed, 4, 1));
    let problem = record.problem.unwrap();
    assert_eq!(problem.code, ErrorKind::GuestPanicked);
    for word in ["task 2", "s3://bank/in/002.csv", "3 attempts", "guest-panicked", "a pear"] {
        assert!(problem.detail.contains(word), "{word}: {}", problem.detail);
    }
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
    assert_eq!((record.failures, record.last_failures.len()), (3, 3));
    let page = engine.jobs.tasks(&record.id, None, None, 2).await.unwrap();
    assert_eq!((page.tasks[0].task, page.tasks[0].state, page.tasks[0].attempts), (2, TaskState::Failed, 3));
    assert_eq!((page.tasks.len(), page.next.as_deref()), (2, Some("3-0-0")));
    assert_eq!(page.tasks[1].input, ["s3://bank/in/000.csv"]);
    let done = engine.jobs.tasks(&record.id, Some(TaskState::Done), None, 10).await.unwrap();
    assert_eq!((done.tasks.len(), done.next), (4, None));
    // The prefix is free again.
    let again = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await;
    assert!(again.is_ok(), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_at_once_and_once() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let _worker = world.work(Play { mishap: Box::new(|_| Some(Mishap::Hang)), ..Play::default() });
    let id = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id;
    engine.until(&id, |record| record.state == JobState::Running).await;
    let begun = Instant::now();
    let record = engine.jobs.cancel(&id).await.unwrap();
    assert_eq!(record.state, JobState::Cancelled, "after {:?}", begun.elapsed());
    assert_eq!(record.problem.unwrap().code, ErrorKind::Cancelled);
    assert!(world.backbone().get(&keys::job_cancel(&id)).await.unwrap().is_some());
    assert_eq!(engine.jobs.cancel(&id).await.unwrap_err().code, ErrorKind::JobFinished);
    assert_eq!(engine.jobs.result(&id).await.unwrap_err().code, ErrorKind::JobFinished);
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_makes_one_job() {
    let world = World::new().await;
    world.inputs(2).await;
    let engine = world.engine().await;
    let other = world.engine().await;
    let job = || document("mapper", json!({"output": "s3://bank/out/"}));
    let (one, two, three) = tokio::join!(
        engine.jobs.submit(job(), Some("monday")),
        engine.jobs.submit(job(), Some("monday")),
        other.jobs.submit(job(), Some("monday")),
    );
    let ids = [one.unwrap().id, two.unwrap().id, three.unwrap().id];
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let conflict = engine.jobs.submit(document("folder", json!({})), Some("monday")).await.unwrap_err();
    assert_eq!(conflict.code, ErrorKind::IdempotencyConflict);
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&ids[0]).await);
    assert_eq!(other.jobs.submit(job(), Some("monday")).await.unwrap().id, ids[0]);
    // Only the accepted one left anything behind.
    assert_eq!(
        world.keys("fanfold", "jobs/").await.iter().filter(|key| key.ends_with("job.json")).count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn overwriting_replaces_what_the_old_manifest_named() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    succeeded(&engine.run("mapper", json!({"output": "s3://bank/out/"})).await);
    let refused = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::OutputExists);
    let old = world.keys("bank", "out/part-").await;
    let record = engine.run("mapper", json!({"output": "s3://bank/out/", "overwrite": true})).await;
    succeeded(&record);
    let new = world.keys("bank", "out/part-").await;
    assert!(new.len() == 3 && new.iter().all(|key| !old.contains(key)), "{old:?} {new:?}");
    assert_eq!(engine.jobs.manifest(&record.id).await.unwrap().objects.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_no_wider_than_it_may() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine().await;
    let job = json!({"output": "s3://bank/out/", "limits": {"max_parallel": 2}});
    let id = engine.submit("mapper", job).await.unwrap().id;
    let two = engine.until(&id, |record| record.tasks.running == 2).await;
    assert_eq!(two.tasks.done, 0);
    let _worker = world.work(Play::default());
    let wider = AtomicU32::new(0);
    let record = engine
        .until(&id, |record| {
            wider.fetch_add(u32::from(record.tasks.running > 2), Ordering::SeqCst);
            record.state.is_terminal()
        })
        .await;
    succeeded(&record);
    assert_eq!(wider.into_inner(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_newest_first() {
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let mut ids = Vec::new();
    for function in ["mapper", "folder", "mapper"] {
        ids.insert(0, engine.run(function, json!({})).await.id);
    }
    let all = Filter::default();
    let listed =
        |records: &[fanfold_gateway::jobs::JobRecord]| records.iter().map(|r| r.id).collect::<Vec<_>>();
    let (records, next) = engine.jobs.list(&all, None, 2).await.unwrap();
    assert_eq!((listed(&records), next), (ids[..2].to_vec(), Some(ids[1])));
    let (records, next) = engine.jobs.list(&all, next, 2).await.unwrap();
    assert_eq!((listed(&records), next), (ids[2..].to_vec(), None));
    let folds = Filter { function: Some("folder".parse().unwrap()), ..Filter::default() };
    assert_eq!(listed(&engine.jobs.list(&folds, None, 9).await.unwrap().0), [ids[1]]);
    let failed = Filter { state: Some(JobState::Failed), ..Filter::default() };
    assert_eq!(engine.jobs.list(&failed, None, 9).await.unwrap().0.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_take_no_time() {
    let world = World::new().await;
    world.inputs(1_000).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let begun = Instant::now();
    let accepted = engine.submit("folder", json!({})).await.unwrap();
    let submitted = begun.elapsed();
    let record = engine.ended(&accepted.id).await;
    succeeded(&record);
    println!("1,000 tasks and their fold: accepted after {submitted:?}, done after {:?}", begun.elapsed());
    // The figure is the bench's; this only catches a step that waits for a timer.
    assert!(begun.elapsed() < Duration::from_secs(30));
}
