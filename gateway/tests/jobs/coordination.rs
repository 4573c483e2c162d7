// SPDX-License-Identifier: Apache-2.0
//! What a coordinator queues, and when; and what it finds that nobody told it.

use std::{collections::HashSet, sync::Mutex, time::Duration};

use fanfold_backbone::Message;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, TaskCommit, TaskOutcome},
    invocation::Usage,
    job::JobState,
    keys,
    plan::Lease,
    time::Timestamp,
};
use futures::{FutureExt, StreamExt};
use http::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::DropGuard;
use uuid::Uuid;

use crate::{
    harness::until,
    way::{Trouble, Way},
    world::{Engine, Mishap, PATIENCE, Play, World, document, succeeded},
};

/// Jobs of a tenant that are planned at once.
const PLANNED_AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_its_next_attempt_holds_up_no_other() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let _worker = world.work(Play {
        fails: Box::new(|_, task| (task.index == 0).then(|| Problem::new(ErrorKind::GuestTrapped, "trap"))),
        ..Play::default()
    });
    let job = json!({"retry": {"attempts": 3, "backoff": "5m"}, "limits": {"max_parallel": 1}});
    let id = engine.submit("mapper", job).await.unwrap().id;
    // The first one has failed and waits for minutes in the only place that there is.
    let record = engine.until(&id, |record| record.tasks.done == 2).await;
    assert_eq!((record.failures, record.tasks.waiting, record.tasks.running), (1, 1, 0));
    engine.jobs.cancel(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_bytes_are_queued_than_a_job_may_take_up() {
    let world = World::new().await;
    world.inputs(200).await;
    let engine = world.engine().await;
    // 370 KiB in each lease, where these parameters are text within text.
    let params = json!({"text": "\"".repeat(95_000)});
    let id = engine.submit("mapper", json!({"params": params})).await.unwrap().id;
    let record = engine.until(&id, |record| record.state == JobState::Running).await;
    let queued = world.backbone().depth(keys::TASK_QUEUE).await.unwrap().ready;
    assert_eq!(record.tasks.running, queued);
    assert!((64..190).contains(&queued), "{queued}");
    // As leases are committed, others take their room.
    let _worker = world.work(Play::default());
    let record = engine.ended(&id).await;
    succeeded(&record);
    assert_eq!((record.tasks.done, record.receipt.attempts), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_refused_while_too_many_have_not_ended() {
    let world = World::new().await;
    world.inputs(1).await;
    let ended = {
        let _worker = world.work(Play::default());
        world.engine().await.run("mapper", json!({})).await.id
    };
    let engine = world.engine_with(|config| config.unfinished_max = 2).await;
    let job = || document("mapper", json!({}));
    let first = engine.jobs.submit(job(), Some("key")).await.unwrap().id;
    engine.jobs.submit(job(), None).await.unwrap();
    let refused = [
        engine.jobs.submit(job(), None).await.unwrap_err(),
        engine.jobs.estimate(job(), 1, None).await.unwrap_err(),
        engine.jobs.retry(&ended, None).await.unwrap_err(),
    ];
    for problem in refused {
        assert_eq!(problem.code, ErrorKind::QueueFull, "{problem}");
        assert!(problem.detail.contains("at most 2 jobs"), "{problem}");
    }
    // What was accepted is told again.
    assert_eq!(engine.jobs.submit(job(), Some("key")).await.unwrap().id, first);
    engine.jobs.cancel(&first).await.unwrap();
    until("room for another job", || engine.jobs.submit(job(), None), Result::is_ok).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_for_a_job_waits_for_no_turn() {
    let mut world = World::new().await;
    world.inputs(1).await;
    let means = |asked: &str| asked.starts_with("GET /bank") && asked.contains("list-type=2");
    let way = Way::to(world.store(), Trouble::Hold, means).await;
    world.base.store = way.store();
    let engine = world.engine_with(|config| config.unfinished_max = PLANNED_AT_ONCE).await;
    way.shut();
    let submit = || Box::pin(engine.submit("mapper", json!({})));
    let mut planned: Vec<_> = (0..PLANNED_AT_ONCE).map(|_| submit()).collect();
    assert!(planned.iter_mut().all(|job| job.now_or_never().is_none()));
    let refused = submit().now_or_never().expect("no wait").unwrap_err();
    assert_eq!(refused.code, ErrorKind::QueueFull, "{refused}");
    way.open();
    for accepted in futures::future::join_all(planned).await {
        accepted.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_other_jobs_to_be_known_keeps_no_turn_from_others() {
    let mut world = World::new().await;
    world.inputs(1).await;
    let ended = {
        let engine = world.engine().await;
        let id = engine.submit("mapper", json!({"output": "s3://bank/again/"})).await.unwrap().id;
        engine.jobs.cancel(&id).await.unwrap();
        engine.ended(&id).await.id
    };
    // What tells which jobs the store has.
    let parts = ["list-type=2", "delimiter=", "prefix=jobs"];
    let means = move |asked: &str| parts.iter().all(|part| asked.contains(*part));
    let way = Way::to(world.store(), Trouble::Hold, means).await;
    world.base.store = way.store();
    way.shut();
    let engine = &world.engine().await;
    way.met(1).await;
    let wait = move |n: usize| {
        let output = format!("s3://bank/out-{n}/");
        [
            async move { engine.submit("mapper", json!({"output": output})).await.map(drop) }.boxed_local(),
            async move { engine.jobs.estimate(document("folder", json!({})), 1, None).await.map(drop) }
                .boxed_local(),
            async move { engine.jobs.retry(&ended, None).await.map(drop) }.boxed_local(),
            async move { engine.jobs.compare(&ended).await.map(drop) }.boxed_local(),
        ]
    };
    let mut waiting: Vec<_> = (0..PLANNED_AT_ONCE).flat_map(wait).collect();
    assert!(waiting.iter_mut().all(|job| job.now_or_never().is_none()));
    // Where no other job can be in the way, none is waited for.
    engine.submit("folder", json!({"input": "s3://bank/in/000.csv"})).await.unwrap();
    assert!(waiting.iter_mut().all(|job| job.now_or_never().is_none()));
    way.open();
    let ends = futures::future::join_all(waiting).await;
    // Of the retries one has the output.
    let refused: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), PLANNED_AT_ONCE - 1, "{refused:?}");
    assert!(refused.iter().all(|problem| problem.code == ErrorKind::OutputExists), "{refused:?}");
}

/// Few are planned at once, and the others wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_submissions_is_accepted() {
    const BURST: usize = 40;
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let submit = |key: usize| {
        let (jobs, key) = (engine.jobs.clone(), format!("key-{key}"));
        async move { jobs.submit(document("mapper", json!({})), Some(&key)).await.unwrap().id }
    };
    // Each of them twice.
    let accepted = futures::future::join_all((0..2 * BURST).map(|n| submit(n % BURST))).await;
    assert_eq!(accepted[..BURST], accepted[BURST..]);
    assert_eq!(accepted.iter().collect::<HashSet<_>>().len(), BURST);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_lost_come_back_while_others_wait_in_the_queue() {
    let world = World::new().await;
    world.inputs(20).await;
    let engine = world.engine_with(|config| config.lost = Duration::from_millis(300)).await;
    // The queue is never empty.
    let other = Message::new("other", "of another job").delayed(Duration::from_secs(3_600));
    world.backbone().enqueue(keys::TASK_QUEUE, vec![other]).await.unwrap();
    let seen = Mutex::new(HashSet::new());
    let _worker = world.work(Play {
        mishap: Box::new(move |lease| {
            let is_first = seen.lock().unwrap().insert((lease.stage, lease.group));
            (is_first && lease.group.is_multiple_of(2)).then_some(Mishap::Vanish)
        }),
        ..Play::default()
    });
    let record = engine.run("folder", json!({})).await;
    succeeded(&record);
    assert_eq!(record.tasks.done, 20 + 2 + 1);
}

/// A job whose tasks run and never end, and who works on them.
async fn endless(world: &World, engine: &Engine) -> (Uuid, DropGuard) {
    world.inputs(3).await;
    let worker = world.work(Play { mishap: Box::new(|_| Some(Mishap::Hang)), ..Play::default() });
    let id = engine.submit("mapper", json!({})).await.unwrap().id;
    engine.until(&id, |record| record.state == JobState::Running).await;
    (id, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_is_carried_out_though_nobody_waits_for_it() {
    let world = World::new().await;
    let engine = world.engine().await;
    let (id, _worker) = endless(&world, &engine).await;
    // As when a client closes its connection at once.
    assert!(engine.jobs.cancel(&id).now_or_never().is_none());
    assert_eq!(engine.ended(&id).await.state, JobState::Cancelled);
    assert!(world.backbone().get(&keys::job_cancel(&id)).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_that_nobody_told_of_is_found() {
    let world = World::new().await;
    let engine = world.engine().await;
    let (id, _worker) = endless(&world, &engine).await;
    // Whoever decided it was killed right then.
    let ending = json!({"state": "cancelled", "ended_at": 1, "problem": null});
    world.put(&format!("s3://fanfold/{}", keys::ending(&id)), &ending.to_string()).await;
    let ended = engine.ended(&id).await;
    assert_eq!(ended.state, JobState::Cancelled);
    // It began later by the clock, and is not shown to have begun after its end.
    assert_eq!((ended.started_at, ended.ended_at), (Some(Timestamp(1)), Some(Timestamp(1))));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_sees_the_newest_counts_of_a_job_that_stands_still() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let id = engine.submit("mapper", json!({"retry": {"speculation": false}})).await.unwrap().id;
    let events = engine.jobs.events(&id, None).await.unwrap().unwrap();
    let hang = |lease: &Lease| (lease.group == 2).then_some(Mishap::Hang);
    let _worker = world.work(Play { mishap: Box::new(hang), ..Play::default() });
    let newest = events.filter(|event| {
        let done = || serde_json::from_str::<Value>(&event.data).unwrap()["tasks"]["done"] == 2;
        std::future::ready(event.name == "progress" && done())
    });
    let told = tokio::time::timeout(PATIENCE, std::pin::pin!(newest).next()).await;
    assert!(matches!(told, Ok(Some(_))), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_is_told_of_failures_that_came_while_nobody_coordinated() {
    let world = World::new().await;
    world.inputs(3).await;
    let trap = || Problem::new(ErrorKind::GuestTrapped, "trap");
    let id = {
        let engine = world.engine().await;
        let _worker = world.work(Play {
            fails: Box::new(move |_, _| Some(trap())),
            mishap: Box::new(|lease| ((lease.group, lease.round) != (2, 0)).then_some(Mishap::Hang)),
            ..Play::default()
        });
        let id = engine.submit("mapper", json!({})).await.unwrap().id;
        engine.until(&id, |record| record.failures == 1).await;
        id
    };
    let tenure = async || world.backbone().get(&keys::coordinator(&id)).await.unwrap();
    until("a coordinator that has gone", tenure, Option::is_none).await;
    // The failure that is new is the first one that the next coordinator finds.
    let task = TaskCommit {
        index: 0,
        attempt: 1,
        outcome: TaskOutcome::Failed(trap()),
        usage: Usage::default(),
        looked_outside: false,
    };
    let (stage, group, round, attempt, worker) = (0, 0, 0, Uuid::nil(), "test".to_owned());
    let commit = Commit { job: id, stage, group, round, attempt, worker, tasks: vec![task] };
    let commit = serde_json::to_string(&commit).unwrap();
    world.put(&format!("s3://fanfold/{}", keys::commit(&id, 0, 0, 0)), &commit).await;
    let engine = world.engine().await;
    engine.until(&id, |record| record.failures == 2).await;
    let events = engine.jobs.events(&id, Some("0.1")).await.unwrap().unwrap();
    let failures = events.filter(|event| std::future::ready(event.name.contains("fail")));
    let first = tokio::time::timeout(PATIENCE, std::pin::pin!(failures).next()).await.unwrap().unwrap();
    let told: Value = serde_json::from_str(&first.data).unwrap();
    assert_eq!((first.name, &told["skipped"]), ("failures-skipped", &json!(1)));
}

/// A gateway that renews its tenures and has no store is no coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_from_the_store_leaves_its_jobs_to_others() {
    let world = World::new().await;
    world.inputs(3).await;
    let way = Way::to(world.store(), Trouble::Refuse(StatusCode::SERVICE_UNAVAILABLE), |_| true).await;
    let cut_off = world.engine_by(&way, |_| ()).await;
    let id = cut_off.submit("folder", json!({})).await.unwrap().id;
    cut_off.until(&id, |record| record.state == JobState::Running).await;
    way.shut();
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&id).await);
}
