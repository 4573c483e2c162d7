// SPDX-License-Identifier: Apache-2.0
//! Whatever is lost, sent twice or killed: one outcome, the same output.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfold_gateway::jobs::JobsConfig;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, CommitNotice, TaskCommit, TaskOutcome},
    function::{AliasTarget, Export},
    invocation::Usage,
    job::JobState,
    keys,
    plan::{Lease, StateRef, Task},
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::until,
    way::{Trouble, Way},
    world::{BUCKET, Engine, Happens, Mishap, Play, World, document, result, succeeded, version},
};

/// The fold of 40 inputs as it is when nothing goes wrong.
fn fold(count: usize) -> Value {
    let leaf =
        |from: usize| (from..(from + 16).min(count)).map(|n| format!("{n:03}")).collect::<Vec<_>>().join(" ");
    let parts: Vec<_> = (0..count).step_by(16).map(|from| format!("({})", leaf(from))).collect();
    json!({"fold": format!("({})", parts.join(" "))})
}

/// Something that happens to each lease the first time.
fn once(mishap: Mishap) -> Happens {
    let seen = Mutex::new(HashSet::new());
    Box::new(move |lease| {
        seen.lock().unwrap().insert((lease.stage, lease.group, lease.round)).then_some(mishap)
    })
}

async fn check(play: Play) {
    let world = World::new().await;
    world.inputs(40).await;
    let engine = world.engine().await;
    let _worker = world.work(play);
    let record = engine.run("folder", json!({})).await;
    succeeded(&record);
    assert_eq!(result(&record), Some(fold(40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_may_be_lost() {
    check(Play { notices: 0, ..Play::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_may_come_often_and_backwards() {
    check(Play { notices: 5, reorder: true, ..Play::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_may_lose_leases() {
    check(Play { mishap: once(Mishap::Vanish), ..Play::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_given_up_are_tried_again() {
    let first = once(Mishap::Dead);
    check(Play {
        mishap: Box::new(move |lease| first(lease).filter(|_| lease.round == 0)),
        ..Play::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_ends_its_job() {
    let world = World::new().await;
    world.inputs(1).await;
    let engine = world.engine().await;
    let _worker = world.work(Play { mishap: Box::new(|_| Some(Mishap::Dead)), ..Play::default() });
    let record = engine.run("mapper", json!({})).await;
    assert_eq!((record.state, record.failures), (JobState::Failed, 3));
    let problem = record.problem.unwrap();
    assert!(problem.detail.contains("died three times"), "{}", problem.detail);
    assert_eq!(world.backbone().depth(keys::TASK_QUEUE).await.unwrap().dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_killed_workers_began_are_swept() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let held = Arc::new(AtomicBool::new(true));
    let hold = Arc::clone(&held);
    let _worker = world.work(Play {
        mishap: Box::new(move |_| hold.load(Ordering::SeqCst).then_some(Mishap::Hang)),
        ..Play::default()
    });
    let id = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id;
    let part = |task| keys::output_part(task, &uuid::Uuid::new_v4(), "parquet");
    let began = [
        ("bank", format!("out/{}", part(0))),
        ("bank", format!("out/{}", part(2))),
        ("fanfold", keys::staged(&id, 0, 1, &uuid::Uuid::new_v4(), "runs")),
        // Somebody else's.
        ("bank", "out/part-of-something".to_owned()),
        ("bank", format!("outer/{}", part(0))),
        // Of a gateway that was killed as it ended the job.
        ("fanfold", keys::dead_letters(&id)),
    ];
    for (bucket, key) in &began {
        let mut writer = world.store().writer(&ObjectUri::new(*bucket, key).unwrap(), PutOptions::default());
        writer.write(vec![7; 9 << 20].into()).await.unwrap();
        std::mem::forget(writer);
    }
    engine.jobs.cancel(&id).await.unwrap();
    engine.ended(&id).await;
    held.store(false, Ordering::SeqCst);
    let left = async |bucket: &str| {
        let uploads = world.store().uploads(bucket, "").await.unwrap();
        uploads.into_iter().map(|upload| upload.key).collect::<Vec<_>>()
    };
    assert_eq!(left("bank").await, [began[3].1.as_str(), began[4].1.as_str()]);
    assert_eq!(left("fanfold").await, [""; 0]);
}

/// A job of five tasks of which one will fail, and whose engine finds that the store refuses some of what it asks.
struct Doomed {
    world: World,
    way: Way,
    engine: Engine,
    id: Uuid,
}

impl Doomed {
    async fn new(refusal: StatusCode, means: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let world = World::new().await;
        world.inputs(5).await;
        let way = Way::to(world.store(), Trouble::Refuse(refusal), means).await;
        let engine = world.engine_by(&way, |_| ()).await;
        let job = json!({"output": "s3://bank/out/", "retry": {"attempts": 1}});
        let id = engine.submit("mapper", job).await.unwrap().id;
        way.shut();
        Self { world, way, engine, id }
    }
}

fn third_fails() -> Play {
    let fails = |_: &Lease, task: &Task| {
        (task.index == 2).then(|| Problem::new(ErrorKind::GuestPanicked, "expected a number, found a pear"))
    };
    Play { fails: Box::new(fails), ..Play::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_may_not_be_listed_keep_nothing_else_from_being_swept() {
    let means = |asked: &str| asked.starts_with("GET /bank") && asked.contains("uploads");
    let Doomed { world, way, engine, id } = Doomed::new(StatusCode::FORBIDDEN, means).await;
    // In the platform's own bucket they may be.
    let staged = ObjectUri::new(BUCKET, keys::staged(&id, 0, 1, &Uuid::new_v4(), "runs")).unwrap();
    let mut writer = world.store().writer(&staged, PutOptions::default());
    writer.write(vec![7; 9 << 20].into()).await.unwrap();
    std::mem::forget(writer);
    let _worker = world.work(third_fails());
    assert_eq!(engine.ended(&id).await.state, JobState::Failed);
    way.met(1).await;
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
    assert!(world.store().uploads(BUCKET, "").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bus_alone_says_of_a_commit_does_not_count() {
    let world = World::new().await;
    world.inputs(40).await;
    let engine = world.engine_with(|config| config.believes_bus = false).await;
    let id = engine.submit("folder", json!({})).await.unwrap().id;
    engine.until(&id, |record| record.state == JobState::Running).await;
    // Of somebody who may speak on the bus and has never written to the store.
    let (stage, round) = (0, 0);
    let forged = |group: u32| Commit {
        job: id,
        stage,
        group,
        round,
        attempt: Uuid::new_v4(),
        worker: "nobody".to_owned(),
        tasks: (0..40)
            .map(|index| TaskCommit {
                index,
                attempt: 1,
                outcome: TaskOutcome::State(StateRef::Inline("forged".to_owned())),
                usage: Usage::default(),
                looked_outside: false,
            })
            .collect(),
    };
    for group in 0..40 {
        for commit in [None, Some(Box::new(forged(group)))] {
            let notice = serde_json::to_vec(&CommitNotice { job: id, stage, group, round, commit }).unwrap();
            world.backbone().publish(&keys::commit_subject(&id), notice).await.unwrap();
        }
    }
    let _worker = world.work(Play::default());
    let record = engine.ended(&id).await;
    succeeded(&record);
    assert_eq!((result(&record), record.failures, record.receipt.attempts), (Some(fold(40)), 0, 40 + 3 + 1));
}

/// A job of which a part is done; the engine that began it is gone.
async fn half_done(world: &World) -> uuid::Uuid {
    let engine = world.engine().await;
    let _worker = world.work(Play {
        mishap: Box::new(|lease| (lease.stage > 0).then_some(Mishap::Vanish)),
        fails: Box::new(|lease, task| {
            (task.index == 7 && lease.round == 0).then(|| Problem::new(ErrorKind::StoreTimeout, "late"))
        }),
        ..Play::default()
    });
    let id = engine.submit("folder", json!({"output": "s3://bank/out/"})).await.unwrap().id;
    engine.until(&id, |record| record.tasks.done >= 40).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn another_engine_takes_over_when_the_tenure_lapses() {
    let world = World::new().await;
    world.inputs(40).await;
    let id = half_done(&world).await;
    // A coordinator that was killed leaves its tenure behind.
    let key = keys::coordinator(&id);
    let ttl = Duration::from_millis(600);
    let tenure = async || world.backbone().create_with_ttl(&key, "dead", ttl).await.unwrap();
    until("a tenure that is given back", tenure, |tenure| tenure.is_stored()).await;
    let _worker = world.work(Play::default());
    let engine = world.engine().await;
    let record = engine.ended(&id).await;
    succeeded(&record);
    assert_eq!((result(&record), record.receipt.attempts), (Some(fold(40)), 40 + 1 + 3 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_rebuilt_from_the_store_alone() {
    let world = World::new().await;
    world.inputs(40).await;
    let ended = {
        let engine = world.engine().await;
        let _worker = world.work(Play::default());
        engine.run("folder", json!({})).await
    };
    let id = half_done(&world).await;
    let world = world.with_fresh_backbone().await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let record = engine.ended(&id).await;
    succeeded(&record);
    assert_eq!((result(&record), record.receipt.attempts), (Some(fold(40)), 45));
    assert_eq!(world.json("s3://bank/out/result.json").await, fold(40));
    let restored = engine.ended(&ended.id).await;
    assert_eq!((restored.state, restored.result, restored.tasks), (ended.state, ended.result, ended.tasks));
    let (listed, _) = engine.jobs.list(&fanfold_gateway::jobs::Filter::default(), None, 10).await.unwrap();
    assert_eq!(listed.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_outlives_its_coordinator() {
    let world = World::new().await;
    world.inputs(3).await;
    let id = {
        let engine = world.engine().await;
        engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id
    };
    // Decided, and the one who decided it is gone before anything came of it.
    let ending = json!({"state": "cancelled", "ended_at": 1, "problem": null});
    world.put(&format!("s3://fanfold/{}", keys::ending(&id)), &ending.to_string()).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    assert_eq!(engine.ended(&id).await.state, JobState::Cancelled);
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_given_before_a_crash_still_means_its_job() {
    let world = World::new().await;
    world.inputs(3).await;
    let job = || document("mapper", json!({"output": "s3://bank/out/"}));
    let id = {
        let engine = world.engine().await;
        engine.jobs.submit(job(), Some("key")).await.unwrap().id
    };
    // As if it had died just before the plan's head was written.
    world.store().delete(&format!("s3://fanfold/{}", keys::plan(&id)).parse().unwrap()).await.unwrap();
    for key in [keys::job_record(&id), keys::coordinator(&id)] {
        world.backbone().delete(&key, None).await.unwrap();
    }
    let engine = world.engine().await;
    assert_eq!(engine.jobs.get(&id).await.unwrap_err().code, ErrorKind::JobNotFound);
    assert_eq!(engine.jobs.submit(job(), Some("key")).await.unwrap().id, id);
    let _worker = world.work(Play::default());
    succeeded(&engine.ended(&id).await);
}

/// An engine finds a job that another one accepted and did not show.
async fn find_unshown(differ: impl FnOnce(&mut JobsConfig)) {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine_with(differ).await;
    let _worker = world.work(Play::default());
    let shown = engine.run("mapper", json!({})).await.id;
    // What a gateway leaves that is killed once the plan has its head.
    let id = Uuid::now_v7();
    let ids = [shown, id].map(|id| id.to_string());
    for key in [keys::plan_shard(&shown, 0), keys::job_document(&shown), keys::plan(&shown)] {
        let place = |key: String| format!("s3://{BUCKET}/{key}").parse::<ObjectUri>().unwrap();
        let bytes = world.store().get(&place(key.clone()), None).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap().replace(&ids[0], &ids[1]);
        let copy = place(key.replace(&ids[0], &ids[1]));
        world.store().put(&copy, text.into(), PutOptions::default()).await.unwrap();
    }
    succeeded(&engine.ended(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_accepted_and_never_shown_is_found() {
    find_unshown(|config| config.cache_window = Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_job_is_found_before_what_is_old_is_looked_for() {
    let (week, soon) = (Duration::from_secs(7 * 24 * 3_600), Duration::from_millis(50));
    find_unshown(|config| (config.cache_window, config.unshown) = (week, soon)).await;
}

/// Waits until an engine has carried out as many endings.
async fn carried_out(engine: &Engine, count: u32) {
    let mut registry = prometheus_client::registry::Registry::default();
    engine.jobs.counters().describe(&mut registry);
    let ended = async || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let ended = text.lines().filter(|line| line.starts_with("jobs_ended_total"));
        ended.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum::<u32>()
    };
    until("endings that are carried out", ended, |ended| *ended >= count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_paused_leaves_the_output_of_a_later_job_alone() {
    let world = World::new().await;
    world.inputs(3).await;
    let means = |asked: &str| asked.starts_with("GET /bank/out/_manifest.json");
    let way = Way::to(world.store(), Trouble::Hold, means).await;
    // It renews nothing while it is paused, and takes no other job.
    let long = Duration::from_secs(600);
    let paused = world.engine_by(&way, |config| (config.tenure, config.scan) = (long, long)).await;
    let job = json!({"output": "s3://bank/out/", "overwrite": true});
    let id = paused.submit("mapper", job.clone()).await.unwrap().id;
    way.shut();
    let _worker = world.work(Play::default());
    // It has decided and is about to publish.
    way.met(1).await;
    world.backbone().delete(&keys::coordinator(&id), None).await.unwrap();
    let engine = world.engine().await;
    succeeded(&engine.ended(&id).await);
    let later = engine.run("mapper", job).await;
    succeeded(&later);
    let written = world.keys("bank", "out/").await;
    way.open();
    carried_out(&paused, 1).await;
    assert_eq!(world.keys("bank", "out/").await, written);
    let manifest = engine.jobs.manifest(&later.id).await.unwrap();
    let named: Vec<_> = manifest.objects.iter().map(|object| object.uri.key().to_owned()).collect();
    assert_eq!(world.keys("bank", "out/part-").await, named);
}

/// A coordinator is halted as it writes its job's answer, and goes on after a later job.
async fn check_answers(has_earlier: bool) {
    let world = World::new().await;
    world.inputs(3).await;
    let job = json!({"output": "s3://bank/out/", "overwrite": true});
    let _worker = world.work(Play::default());
    if has_earlier {
        succeeded(&world.engine().await.run("folder", job.clone()).await);
    }
    let means = |asked: &str| asked.starts_with("PUT /bank/out/result.json");
    let way = Way::to(world.store(), Trouble::Hold, means).await;
    let long = Duration::from_secs(600);
    let paused = world.engine_by(&way, |config| (config.tenure, config.scan) = (long, long)).await;
    way.shut();
    // Each has an answer of its own.
    world.inputs(4).await;
    let id = paused.submit("folder", job.clone()).await.unwrap().id;
    way.met(1).await;
    world.backbone().delete(&keys::coordinator(&id), None).await.unwrap();
    let engine = world.engine().await;
    succeeded(&engine.ended(&id).await);
    world.inputs(5).await;
    let later = engine.run("folder", job).await;
    succeeded(&later);
    way.open();
    carried_out(&paused, 1).await;
    assert_eq!(Some(world.json("s3://bank/out/result.json").await), result(&later));
    assert_eq!(engine.jobs.manifest(&later.id).await.unwrap().job, later.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_paused_leaves_the_answer_of_a_later_job_alone() {
    check_answers(false).await;
    check_answers(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_with_the_output_that_it_was_of() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    let job = json!({"output": "s3://bank/out/", "overwrite": true});
    succeeded(&engine.run("folder", job.clone()).await);
    assert_eq!(world.keys("bank", "out/result.json").await, ["out/result.json"]);
    succeeded(&engine.run("mapper", job).await);
    assert_eq!(world.keys("bank", "out/result.json").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_does_not_undo_an_output() {
    let world = World::new().await;
    world.inputs(3).await;
    let job = json!({"output": "s3://bank/out/", "overwrite": true});
    let _worker = world.work(Play::default());
    let old = world.engine().await.run("mapper", job.clone()).await;
    succeeded(&old);
    let left = world.keys("bank", "out/part-").await;
    let means = |asked: &str| asked.starts_with("POST /bank") && asked.contains("delete");
    let way = Way::to(world.store(), Trouble::Refuse(StatusCode::FORBIDDEN), means).await;
    let engine = world.engine_by(&way, |_| ()).await;
    way.shut();
    let record = engine.run("mapper", job).await;
    succeeded(&record);
    assert!(record.warnings[0].contains("nothing of what it replaces"), "{:?}", record.warnings);
    assert_eq!(engine.jobs.manifest(&record.id).await.unwrap().objects.len(), 3);
    let there = world.keys("bank", "out/part-").await;
    assert!(there.len() == 6 && left.iter().all(|key| there.contains(key)), "{there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_outlives_whatever_keeps_a_job_from_its_end() {
    let world = World::new().await;
    world.inputs(3).await;
    let (done, cancelled) = {
        let engine = world.engine().await;
        engine.registry.publish(version("gone", vec![Export::Mapper])).await.unwrap();
        let hangs = |lease: &Lease| lease.common.output.key() == "cancelled/" && lease.group == 2;
        let mishap = move |lease: &Lease| hangs(lease).then_some(Mishap::Hang);
        let _worker = world.work(Play { mishap: Box::new(mishap), ..Play::default() });
        let done = engine.run("gone", json!({"output": "s3://bank/done/"})).await;
        let id = engine.submit("gone", json!({"output": "s3://bank/cancelled/"})).await.unwrap().id;
        (done, engine.until(&id, |record| record.tasks.done == 2).await)
    };
    succeeded(&done);
    let ending = json!({"state": "cancelled", "ended_at": 1});
    world.put(&format!("s3://{BUCKET}/{}", keys::ending(&cancelled.id)), &ending.to_string()).await;
    // As if it had been killed once the manifest was there, and the function were gone since.
    for key in [keys::outcome(&done.id), keys::version(&"gone".parse().unwrap(), 1)] {
        world.store().delete(&format!("s3://{BUCKET}/{key}").parse().unwrap()).await.unwrap();
    }
    let world = world.with_fresh_backbone().await;
    let engine = world.engine().await;
    let found = engine.ended(&done.id).await;
    succeeded(&found);
    assert_eq!((&found.manifest, found.problem), (&done.manifest, None));
    assert!(found.warnings[0].contains("the output is whole"), "{:?}", found.warnings);
    assert_eq!(engine.jobs.manifest(&done.id).await.unwrap().objects.len(), 3);
    assert_eq!(engine.ended(&cancelled.id).await.state, JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_has_ended_only_when_nothing_is_left_of_it() {
    let means = |asked: &str| asked.starts_with("GET /bank") && asked.contains("list-type=2");
    let Doomed { world, way, engine, id } = Doomed::new(StatusCode::SERVICE_UNAVAILABLE, means).await;
    let _worker = world.work(third_fails());
    // It sweeps in vain, and again.
    way.met(2).await;
    drop(engine);
    let outcome = format!("s3://{BUCKET}/{}", keys::outcome(&id)).parse::<ObjectUri>().unwrap();
    assert!(world.store().head(&outcome).await.is_err(), "it has ended");
    assert_ne!(world.keys("bank", "out/").await, [""; 0]);
    let engine = world.engine().await;
    assert_eq!(engine.ended(&id).await.state, JobState::Failed);
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_function_whose_answer_is_lost_is_known_for_ones_own() {
    let mut world = World::new().await;
    let means = |asked: &str| asked.starts_with("PUT /") && asked.contains("/mapper/aliases.json");
    // What a write meets with that is sent again for want of an answer.
    let way = Way::to(world.store(), Trouble::Mistell(StatusCode::PRECONDITION_FAILED), means).await;
    world.base.store = way.store();
    let registry = world.engine().await.registry.clone();
    let (name, alias) = ("mapper".parse().unwrap(), "prod".parse().unwrap());
    registry.set_alias(&name, &alias, Some(AliasTarget::new(1, None))).await.unwrap();
    way.shut();
    registry.set_alias(&name, &alias, None).await.unwrap();
    registry.remove(&name).await.unwrap();
    way.met(2).await;
    assert_eq!(registry.show(&name).await.unwrap_err().code, ErrorKind::FunctionNotFound);
    // What somebody else has done is told all the same.
    assert_eq!(registry.remove(&name).await.unwrap_err().code, ErrorKind::FunctionNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_without_what_a_busy_store_does_not_keep() {
    let world = World::new().await;
    world.inputs(40).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let means = move |asked: &str| {
        let is_meant = asked.starts_with("PUT /fanfold/") && asked.contains("/kept/part-");
        counted.fetch_add(usize::from(is_meant), Ordering::SeqCst);
        is_meant
    };
    let way = Way::to(world.store(), Trouble::Refuse(StatusCode::SERVICE_UNAVAILABLE), means).await;
    let engine = world.engine_by(&way, |_| ()).await;
    way.shut();
    let hang = |lease: &Lease| (lease.group == 39).then_some(Mishap::Hang);
    let _worker = world.work(Play { mishap: Box::new(hang), ..Play::default() });
    let id = engine.submit("mapper", json!({"output": "s3://bank/out/"})).await.unwrap().id;
    engine.until(&id, |record| record.tasks.done == 39).await;
    engine.jobs.cancel(&id).await.unwrap();
    assert_eq!(engine.ended(&id).await.state, JobState::Cancelled);
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..=16).contains(&asked), "{asked} of 39");
    assert_eq!(world.keys("bank", "out/").await, [""; 0]);
}
