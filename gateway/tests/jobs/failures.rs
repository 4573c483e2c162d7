// SPDX-License-Identifier: Apache-2.0
//! Tasks that fail, fail for good, or take too long.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use fanfold_gateway::jobs::{JobRecord, TaskState};
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, DeadLetter},
    invocation::Progress,
    job::JobState,
    keys,
    plan::Lease,
};
use serde_json::{Value, json};

use crate::{
    harness::until,
    world::{Fails, Happens, Mishap, OVERTAKEN_CPU_US, Play, World, result, succeeded},
};

/// What happens to the lease of this group of the first stage the first time.
fn once(group: u32, mishap: Mishap) -> Happens {
    let seen = Mutex::new(HashSet::new());
    Box::new(move |lease| {
        let hit = (lease.stage, lease.group, lease.round) == (0, group, 0);
        (hit && seen.lock().unwrap().insert(lease.job)).then_some(mishap)
    })
}

/// Fails these tasks of the first stage, each time in the same way.
fn failing(tasks: &'static [u32], problem: Problem) -> Fails {
    Box::new(move |lease, task| (lease.stage == 0 && tasks.contains(&task.index)).then(|| problem.clone()))
}

/// 300 inputs are five leases, of which four are more than three quarters.
const INPUTS: usize = 300;
const LAST_GROUP: u32 = 149;

#[tokio::test(flavor = "multi_thread")]
async fn a_straggler_is_overtaken_and_the_result_is_the_same() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let plain = {
        let _worker = world.work(Play::default());
        engine.run("folder", json!({})).await
    };
    let _worker = world.work(Play { mishap: once(LAST_GROUP, Mishap::Straggle), ..Play::default() });
    let record = engine.run("folder", json!({})).await;
    succeeded(&record);
    assert_eq!(record.result, plain.result);
    assert_eq!((plain.receipt.second_attempts, record.receipt.second_attempts), (0, 1));
    assert_eq!(record.receipt.attempts, plain.receipt.attempts);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_straggler_took_for_nothing_is_in_the_receipt() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let _worker = world.work(Play { mishap: once(LAST_GROUP, Mishap::Overtaken), ..Play::default() });
    // It fills all places that the job may take.
    let record = engine.run("mapper", json!({"limits": {"max_parallel": 64}})).await;
    succeeded(&record);
    let receipt = record.receipt;
    assert_eq!((receipt.second_attempts, receipt.attempts), (1, INPUTS as u64 + 3));
    assert_eq!(receipt.usage.cpu_us, 10 * INPUTS as u64 + OVERTAKEN_CPU_US);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_committed_as_a_job_was_stopped_is_counted() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let takes = Arc::clone(&taken);
    let mishap = move |lease: &Lease| {
        takes.fetch_add(lease.tasks.len(), Ordering::SeqCst);
        Some(Mishap::Committing)
    };
    let _worker = world.work(Play { mishap: Box::new(mishap), ..Play::default() });
    let id = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id;
    until("all leases to be taken", async || taken.load(Ordering::SeqCst), |taken| *taken == 3).await;
    engine.jobs.cancel(&id).await.unwrap();
    let record = engine.ended(&id).await;
    assert_eq!((record.state, record.tasks.done), (JobState::Cancelled, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_attempts_took_that_were_stopped_is_in_the_receipt() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let job = json!({"output": "s3://bank/out/", "retry": {"attempts": 1, "speculation": false}});
    let _worker = world.work(Play { mishap: once(LAST_GROUP, Mishap::Stopped), ..Play::default() });
    let id = engine.submit("mapper", job).await.unwrap().id;
    // All but those of the last lease.
    let done = INPUTS as u64 - 2;
    engine.until(&id, |record| record.tasks.done == done && !record.slowest.is_empty()).await;
    let cancelled = engine.jobs.cancel(&id).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    let receipt = cancelled.receipt;
    assert_eq!((receipt.attempts, receipt.usage.cpu_us), (done + 3, 10 * done + OVERTAKEN_CPU_US));
    assert_eq!(engine.jobs.get(&id).await.unwrap().receipt, cancelled.receipt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_straggler_that_commits_after_all_changes_nothing() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let _worker = world.work(Play { mishap: once(LAST_GROUP, Mishap::Late), ..Play::default() });
    let record = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    succeeded(&record);
    assert_eq!(record.receipt.second_attempts, 1);
    // The late attempt writes its tables, finds the commit of the other, and leaves that as it is.
    let late = "s3://bank/late".parse().unwrap();
    let winner = until("the late attempt", || world.store().get(&late, None), Result::is_ok).await;
    let winner: Commit = serde_json::from_slice(&winner.unwrap()).unwrap();
    let manifest = engine.jobs.manifest(&record.id).await.unwrap();
    assert_eq!((manifest.rows, manifest.objects.len()), (INPUTS as u64, INPUTS));
    let of_winner = |key: &str| key.contains(&winner.attempt.to_string());
    let named = manifest.objects.iter().filter(|object| of_winner(object.uri.key())).count();
    assert_eq!(named, winner.tasks.len());
    assert_eq!(world.keys("bank", "out/part-").await.iter().filter(|key| of_winner(key)).count(), named);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_straggler_is_shown_and_left_alone_when_the_job_says_so() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    let taken = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&taken);
    let _worker = world.work(Play {
        mishap: once(LAST_GROUP, Mishap::Straggle),
        sees: Box::new(move |lease| {
            count.fetch_add(lease.group / LAST_GROUP, Ordering::SeqCst);
        }),
        ..Play::default()
    });
    let job = json!({"output": "s3://bank/out/", "retry": {"attempts": 3, "speculation": false}});
    let id = engine.submit("mapper", job).await.unwrap().id;
    engine.until(&id, |record| record.tasks.done == 298).await;
    let running = async || {
        let page = engine.jobs.tasks(&id, Some(TaskState::Running), None, 1).await.unwrap();
        page.tasks[0].clone()
    };
    let running = until("a worker that tells", running, |task| task.worker.is_some()).await;
    assert_eq!((running.worker.as_deref(), running.second_attempt), (Some("slow"), false));
    assert!(running.running_ms.unwrap() >= 3_600_000, "{running:?}");
    assert_eq!(running.progress, Some(Progress { done: 7, total: Some(9) }));
    let record = engine.until(&id, |record| !record.slowest.is_empty()).await;
    let slow = &record.slowest[0];
    assert_eq!((slow.stage, slow.task, slow.tasks, &slow.worker[..]), (0, 298, 2, "slow"));
    assert_eq!(slow.why, "2 tasks one after the other");
    assert_eq!(slow.progress, Some(Progress { done: 7, total: Some(9) }));
    let (expected, (low, high)) = (record.eta_ms.unwrap(), record.eta_range_ms.unwrap());
    assert!(low <= expected && expected <= high, "{low} {expected} {high}");
    engine.jobs.cancel(&id).await.unwrap();
    assert_eq!(engine.jobs.get(&id).await.unwrap().receipt.second_attempts, 0);
    assert_eq!(taken.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_end_in_a_dead_letter() {
    let world = World::new().await;
    world.inputs(5).await;
    let engine = world.engine().await;
    let trap = Problem::new(ErrorKind::GuestTrapped, "expected the function to return, found a trap");
    let _worker = world.work(Play { fails: failing(&[2], trap.clone()), ..Play::default() });
    let record = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
    assert_eq!((record.state, record.failures), (JobState::Failed, 3));
    let letters = letters(&world, &record).await;
    let input = vec!["s3://bank/in/002.csv".parse().unwrap()];
    assert_eq!(letters, [DeadLetter { stage: 0, task: 2, input, attempts: 3, problem: trap }]);
    let page = engine.jobs.tasks(&record.id, Some(TaskState::Failed), None, 9).await.unwrap();
    assert_eq!((page.tasks.len(), page.tasks[0].task, page.tasks[0].attempts), (1, 2, 3));
    assert_eq!(page.tasks[0].problem.as_ref().unwrap().code, "guest-trapped");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_task_that_failed_is_told_in_its_own_words() {
    let world = World::new().await;
    world.inputs(INPUTS).await;
    let engine = world.engine().await;
    // Of two neighbours, which share a lease, one is tried again, and its last attempt counts.
    let problem = |task: u32, round: u32| {
        let code = if task.is_multiple_of(2) { ErrorKind::CsvMalformed } else { ErrorKind::GuestTrapped };
        Problem::new(code, format!("expected better of {task}, found round {round}"))
    };
    let fails: Fails = Box::new(move |lease, task| Some(problem(task.index, lease.round)));
    let _worker = world.work(Play { fails, ..Play::default() });
    let job = json!({
        "output": "s3://bank/out/", "limits": {"tolerated_failures": "100%"}, "retry": {"attempts": 2}
    });
    let record = engine.run("mapper", job).await;
    succeeded(&record);
    let inputs = INPUTS as u64;
    assert_eq!((record.tasks.failed, record.failures), (inputs, inputs + inputs / 2));
    let letters = letters(&world, &record).await;
    assert_eq!(letters.len(), INPUTS);
    for (task, letter) in (0_u32..).zip(letters) {
        let input = vec![format!("s3://bank/in/{task:03}.csv").parse().unwrap()];
        let (attempts, problem) = (task % 2 + 1, problem(task, task % 2));
        assert_eq!(letter, DeadLetter { stage: 0, task, input, attempts, problem });
    }
    let (mut shown, mut after) = (0_u32, None::<String>);
    loop {
        let page = engine.jobs.tasks(&record.id, None, after.as_deref(), 64).await.unwrap();
        for task in &page.tasks {
            let told = task.problem.as_ref().unwrap();
            assert_eq!((task.task, &told.detail), (shown, &problem(shown, shown % 2).detail));
            shown += 1;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(u64::from(shown), inputs);
}

async fn letters(world: &World, record: &JobRecord) -> Vec<DeadLetter> {
    let uri = format!("s3://fanfold/{}", keys::dead_letters(&record.id)).parse().unwrap();
    let lines = world.store().get(&uri, None).await.unwrap();
    std::str::from_utf8(&lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_says_whether_its_error_may_pass() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    for (retryable, failures) in [(false, 1), (true, 3)] {
        let error = Problem {
            guest_code: Some("busy".into()),
            guest_retryable: Some(retryable),
            ..Problem::new(ErrorKind::FunctionError, "expected a tame row")
        };
        let _worker = world.work(Play { fails: failing(&[1], error), ..Play::default() });
        let record = engine.run("mapper", json!({"output": "s3://bank/out/"})).await;
        assert_eq!((record.state, record.failures), (JobState::Failed, failures));
        assert_eq!(letters(&world, &record).await[0].attempts, failures as u32);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_tolerated_as_a_count_and_as_a_share() {
    let world = World::new().await;
    world.inputs(5).await;
    let engine = world.engine().await;
    let bad = Problem::new(ErrorKind::CsvFieldCount, "expected 2 fields, found 3");
    let _worker = world.work(Play { fails: failing(&[1, 3], bad), ..Play::default() });
    let run = async |function: &str, tolerated: Value| {
        let limits = json!({"tolerated_failures": tolerated});
        engine.run(function, json!({"output": "s3://bank/out/", "overwrite": true, "limits": limits})).await
    };
    for tolerated in [json!(0), json!("0%"), json!(1), json!("39.99%")] {
        let record = run("mapper", tolerated.clone()).await;
        assert_eq!((record.state, record.tasks.failed), (JobState::Failed, 2), "{tolerated}");
    }
    for tolerated in [json!(2), json!("2"), json!("40%"), json!("100%")] {
        let record = run("mapper", tolerated.clone()).await;
        succeeded(&record);
        assert_eq!((record.tasks.done, record.tasks.failed), (3, 2), "{tolerated}");
        for words in ["2 of 5 partitions", "s3://bank/in/001.csv", "csv-field-count"] {
            assert!(record.warnings[0].contains(words), "{words}: {:?}", record.warnings);
        }
        let manifest = engine.jobs.manifest(&record.id).await.unwrap();
        assert_eq!((manifest.objects.len(), &manifest.failed), (3, &letters(&world, &record).await));
        assert_eq!(manifest.failed.iter().map(|letter| letter.task).collect::<Vec<_>>(), [1, 3]);
    }
    let record = run("folder", json!("40%")).await;
    assert_eq!(result(&record), Some(json!({"fold": "(000 002 004)"})));
    let refused = engine
        .jobs
        .submit(
            serde_json::from_value(json!({
                "function": "mapper", "input": "s3://bank/in/", "output": "s3://bank/out/"
            }))
            .unwrap(),
            None,
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorKind::OutputExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_says_where_the_rest_of_what_failed_is_named() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine().await;
    let bad = Problem::new(ErrorKind::CsvFieldCount, "expected 2 fields, found 3");
    let _worker = world.work(Play { fails: failing(&[0], bad), ..Play::default() });
    let more = json!({
        "output": "s3://bank/out/", "limits": {"tolerated_failures": 1}, "split": {"target_bytes": "1kB"}
    });
    let record = engine.run("mapper", more).await;
    succeeded(&record);
    let manifest = engine.jobs.manifest(&record.id).await.unwrap();
    let letters = letters(&world, &record).await;
    assert_eq!((letters.len(), letters[0].input.len()), (1, 20));
    assert_eq!(manifest.failed[0].input, letters[0].input[..8]);
    let all = manifest.all_failed.unwrap();
    let uri = format!("s3://fanfold/{}", keys::dead_letters(&record.id));
    assert_eq!((all.tasks, all.uri.to_string()), (1, uri));
    assert!(record.warnings[0].contains("says where they are named"), "{:?}", record.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_to_replace_an_output_leaves_it() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let before = {
        let _worker = world.work(Play::default());
        succeeded(&engine.run("mapper", json!({"output": "s3://bank/out/"})).await);
        world.keys("bank", "out/").await
    };
    let bad = Problem::new(ErrorKind::CsvMalformed, "bad");
    let _worker = world.work(Play { fails: failing(&[1], bad), ..Play::default() });
    let record = engine.run("mapper", json!({"output": "s3://bank/out/", "overwrite": true})).await;
    assert_eq!((record.state, before.len()), (JobState::Failed, 3 + 2));
    assert_eq!(world.keys("bank", "out/").await, before);
}
