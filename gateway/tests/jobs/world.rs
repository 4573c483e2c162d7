// SPDX-License-Identifier: Apache-2.0
//! A store, a backbone, engines that come and go, and a worker that plays.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fanfold_backbone::{Backbone, Delivery};
use fanfold_gateway::{
    functions::Registry,
    jobs::{JobRecord, Jobs, JobsConfig},
};
use fanfold_protocol::{
    Problem,
    commit::{
        AnswerRef, Commit, CommitNotice, OutputObject, Overtaken, RunningNotice, RunningTask, TaskCommit,
        TaskOutcome,
    },
    digest::Digest,
    function::{Descriptions, Export, Settings, Version},
    invocation::{Progress, Usage},
    job::{JobDocument, JobState},
    keys,
    plan::{Lease, Partition, StateRef, Task, Work},
    tenant::Tenant,
    time,
    uri::ObjectUri,
};
use fanfold_storage::{ListEntry, ListOptions, PutOptions, Store};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::{
    harness::{Base, until},
    way::Way,
};

pub const BUCKET: &str = "fanfold";
/// What an input holds.
pub const INPUT: &str = "a\n1\n";
/// Long enough for a busy machine; nothing waits for it when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What an attempt takes that is overtaken or stopped.
pub const OVERTAKEN_CPU_US: u64 = 7_000;

/// Whether and why a task of a lease fails.
pub type Fails = Box<dyn Fn(&Lease, &Task) -> Option<Problem> + Send + Sync>;
/// Whether and what happens to a lease.
pub type Happens = Box<dyn Fn(&Lease) -> Option<Mishap> + Send + Sync>;

/// What a worker does with leases.
pub struct Play {
    /// Why a task fails, if it does.
    pub fails: Fails,
    /// Notices sent of each commit.
    pub notices: usize,
    /// Sends notices only every so often, and backwards.
    pub reorder: bool,
    /// What becomes of a lease instead of work.
    pub mishap: Happens,
    /// What a task takes, µs of CPU time.
    pub cpu_us: u64,
    /// Whether functions look at more than their input.
    pub looks_outside: bool,
    /// Whether maps write no row, so that only the first task leaves a table.
    pub without_rows: bool,
    /// Sees each lease as it is taken.
    pub sees: Box<dyn Fn(&Lease) + Send + Sync>,
}

/// What can become of a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// It vanishes from the queue and nothing is committed.
    Vanish,
    /// It is given up.
    Dead,
    /// It is kept and nothing happens.
    Hang,
    /// It is told to run for an hour already, and nothing else happens.
    Straggle,
    /// The same, and it is committed after all once another attempt has been.
    Late,
    /// The same, and it is given up once another attempt was committed, which is
    /// told twice.
    Overtaken,
    /// The same, once its job is stopped.
    Stopped,
    /// Nobody is told that it runs, and its commit comes a while after its job was stopped.
    Committing,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            fails: Box::new(|_, _| None),
            notices: 1,
            reorder: false,
            mishap: Box::new(|_| None),
            cpu_us: 10,
            looks_outside: false,
            without_rows: false,
            sees: Box::new(|_| ()),
        }
    }
}

pub struct World {
    pub base: Base,
}

/// An engine, until it is dropped.
pub struct Engine {
    pub jobs: Jobs,
    pub registry: Registry,
    _stop: DropGuard,
}

impl World {
    pub async fn new() -> Self {
        let base = Base::new().await;
        for bucket in [BUCKET, "bank"] {
            base.store.ensure_bucket(bucket).await.unwrap();
        }
        Self { base }
    }

    pub fn store(&self) -> &Store {
        &self.base.store
    }

    pub fn backbone(&self) -> &Backbone {
        &self.base.backbone
    }

    /// The same store with a backbone that knows nothing.
    pub async fn with_fresh_backbone(mut self) -> Self {
        let path = self.base.folder.path().join(format!("{}.redb", Uuid::new_v4()));
        self.base.backbone = Base::open_backbone(&path).await;
        self
    }

    pub async fn engine(&self) -> Engine {
        self.engine_with(|_| ()).await
    }

    /// An engine whose jobs serve others for so long.
    pub async fn engine_that_serves(&self, cache_window: Duration) -> Engine {
        self.engine_with(|config| config.cache_window = cache_window).await
    }

    /// An engine that differs from the others in this.
    pub async fn engine_with(&self, differ: impl FnOnce(&mut JobsConfig)) -> Engine {
        self.engine_at(self.store().clone(), differ).await
    }

    /// The same, which alone reaches the store by this way.
    pub async fn engine_by(&self, way: &Way, differ: impl FnOnce(&mut JobsConfig)) -> Engine {
        self.engine_at(way.store(), differ).await
    }

    async fn engine_at(&self, store: Store, differ: impl FnOnce(&mut JobsConfig)) -> Engine {
        let (backbone, stop) = (self.backbone().clone(), CancellationToken::new());
        let registry = Registry::start(store.clone(), BUCKET.into(), backbone.clone(), stop.clone());
        let registry = registry.await.unwrap();
        for (name, exports) in [
            ("mapper", vec![Export::Mapper]),
            ("folder", vec![Export::Aggregator]),
            ("both", vec![Export::Mapper, Export::Aggregator]),
            ("grouper", vec![Export::Grouper]),
            ("handler", vec![Export::Handler]),
        ] {
            registry.publish(version(name, exports)).await.unwrap();
        }
        let mut config = JobsConfig {
            tenure: Duration::from_millis(800),
            scan: Duration::from_millis(50),
            flush: Duration::from_millis(50),
            watchdog: Duration::from_millis(150),
            planning_wait: PATIENCE,
            straggle: Duration::from_millis(50),
            late_sweep: Duration::from_millis(100),
            cache_window: Duration::from_secs(3_600),
            ..JobsConfig::default()
        };
        differ(&mut config);
        let tenant = Arc::new(Tenant::alone("default".parse().unwrap(), BUCKET));
        let jobs =
            Jobs::start(store, tenant, backbone, registry.clone(), config, stop.clone()).await.unwrap();
        Engine { jobs, registry, _stop: stop.drop_guard() }
    }

    pub fn work(&self, play: Play) -> DropGuard {
        let stop = CancellationToken::new();
        let worker =
            Worker { store: self.store().clone(), backbone: self.backbone().clone(), play: Arc::new(play) };
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(worker.run()).await });
        stop.drop_guard()
    }

    pub async fn put(&self, uri: &str, body: &str) {
        let uri: ObjectUri = uri.parse().unwrap();
        self.store().put(&uri, Bytes::from(body.to_owned()), PutOptions::default()).await.unwrap();
    }

    /// Objects `s3://bank/in/000.csv` and so on.
    pub async fn inputs(&self, count: usize) {
        let put = |n: usize| async move { self.put(&format!("s3://bank/in/{n:03}.csv"), INPUT).await };
        futures::stream::iter((0..count).map(put)).buffer_unordered(16).collect::<Vec<()>>().await;
    }

    /// The keys under a prefix of the bucket `bank`.
    pub async fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let list = self.store().list(bucket, prefix, ListOptions::default());
        list.map_ok(|entry: ListEntry| entry.name().to_owned()).try_collect().await.unwrap()
    }

    /// The partitions of a job, in order.
    pub async fn partitions(&self, id: &Uuid) -> Vec<Partition> {
        let mut partitions = Vec::new();
        for key in self.keys(BUCKET, &format!("{}plan/", keys::job(id))).await {
            let lines = self.store().get(&ObjectUri::new(BUCKET, key).unwrap(), None).await.unwrap();
            let lines = std::str::from_utf8(&lines).unwrap().lines();
            partitions.extend(lines.map(|line| serde_json::from_str::<Partition>(line).unwrap()));
        }
        partitions
    }

    pub async fn json(&self, uri: &str) -> Value {
        let bytes = self.store().get(&uri.parse().unwrap(), None).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

/// A job over the inputs, one partition each, that runs every task, with what
/// `more` adds or replaces.
pub fn document(function: &str, more: Value) -> JobDocument {
    let mut document = json!({
        "function": function,
        "input": "s3://bank/in/",
        "split": {"target_bytes": format!("{}B", INPUT.len())},
        "retry": {"attempts": 3, "backoff": "10ms"},
        "cache": false,
    });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(document).unwrap()
}

impl Engine {
    pub async fn submit(&self, function: &str, more: Value) -> Result<JobRecord, Problem> {
        self.jobs.submit(document(function, more), None).await
    }

    /// Submits and waits for the end.
    pub async fn run(&self, function: &str, more: Value) -> JobRecord {
        let id = self.submit(function, more).await.unwrap().id;
        self.ended(&id).await
    }

    pub async fn ended(&self, id: &Uuid) -> JobRecord {
        self.until(id, |record| record.state.is_terminal()).await
    }

    /// The job's record, once it fits.
    pub async fn until(&self, id: &Uuid, fits: impl Fn(&JobRecord) -> bool) -> JobRecord {
        let wait = async {
            loop {
                match self.jobs.get(id).await {
                    Ok(record) if fits(&record) => return record,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(record) => record,
            Err(_) => panic!("still {:?}", self.jobs.get(id).await),
        }
    }
}

pub fn succeeded(record: &JobRecord) {
    assert_eq!(record.state, JobState::Succeeded, "{record:?}");
}

/// The result that a record shows.
pub fn result(record: &JobRecord) -> Option<Value> {
    record.result.as_ref().map(|answer| serde_json::from_str(answer.as_str()).unwrap())
}

pub fn version(name: &str, exports: Vec<Export>) -> Version {
    Version {
        name: name.parse().unwrap(),
        version: 1,
        digest: Digest::of(name.as_bytes()),
        size_bytes: 1,
        exports,
        settings: Settings::default(),
        describes: Descriptions::default(),
        created_at: time::now(),
    }
}

#[derive(Clone)]
struct Worker {
    store: Store,
    backbone: Backbone,
    play: Arc<Play>,
}

impl Worker {
    async fn run(self) {
        let mut held = Vec::new();
        loop {
            let wait = Duration::from_millis(if held.is_empty() { 500 } else { 20 });
            let deliveries = self.backbone.pull(keys::TASK_QUEUE, 8, wait, Duration::from_secs(30)).await;
            let Ok(deliveries) = deliveries else { return };
            if deliveries.is_empty() {
                self.tell(&mut held).await;
            }
            let taken = deliveries.iter().map(|delivery| self.take(delivery));
            for notice in futures::future::join_all(taken).await.into_iter().flatten() {
                held.extend(std::iter::repeat_n(notice, self.play.notices));
            }
            if !self.play.reorder {
                self.tell(&mut held).await;
            }
        }
    }

    async fn tell(&self, held: &mut Vec<CommitNotice>) {
        while let Some(notice) = held.pop() {
            let body = serde_json::to_vec(&notice).unwrap();
            self.backbone.publish(&keys::commit_subject(&notice.job), body).await.unwrap();
        }
    }

    async fn take(&self, delivery: &Delivery) -> Option<CommitNotice> {
        let lease: Lease = serde_json::from_slice(&delivery.payload).unwrap();
        (self.play.sees)(&lease);
        if self.backbone.get(&keys::job_cancel(&lease.job)).await.unwrap().is_some() {
            delivery.ack().await.unwrap();
            return None;
        }
        match (self.play.mishap)(&lease) {
            Some(Mishap::Vanish) => drop(delivery.ack().await),
            Some(Mishap::Dead) => drop(delivery.dead("the worker died three times").await),
            Some(Mishap::Hang) => {}
            Some(Mishap::Straggle) => self.tell_running(&lease, None).await,
            Some(Mishap::Overtaken) => {
                self.tell_running(&lease, None).await;
                let late = self.clone();
                tokio::spawn(async move {
                    late.committed(&lease).await;
                    late.tell_for_nothing(&lease).await;
                });
            }
            Some(Mishap::Stopped) => {
                self.tell_running(&lease, None).await;
                let stopped = self.clone();
                tokio::spawn(async move {
                    let mark = keys::job_cancel(&lease.job);
                    let look = || stopped.backbone.get(&mark);
                    until("the job to be stopped", look, |mark| matches!(mark, Ok(Some(_)))).await.unwrap();
                    stopped.tell_for_nothing(&lease).await;
                });
            }
            Some(Mishap::Committing) => {
                let slow = self.clone();
                tokio::spawn(async move {
                    let mark = keys::job_cancel(&lease.job);
                    let look = || slow.backbone.get(&mark);
                    until("the job to be stopped", look, |mark| matches!(mark, Ok(Some(_)))).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(150)).await;
                    let notice = slow.commit(&lease).await;
                    slow.tell(&mut vec![notice]).await;
                });
            }
            Some(Mishap::Late) => {
                self.tell_running(&lease, None).await;
                let late = self.clone();
                tokio::spawn(async move { late.commit_late(&lease).await });
            }
            None => {
                let notice = self.commit(&lease).await;
                delivery.ack().await.unwrap();
                return Some(notice);
            }
        }
        None
    }

    /// Tells twice of one attempt that it came to nothing.
    async fn tell_for_nothing(&self, lease: &Lease) {
        let usage = Usage { cpu_us: OVERTAKEN_CPU_US, ..Usage::default() };
        let told = Overtaken { attempt: Uuid::new_v4(), tasks: 3, usage };
        self.tell_running(lease, Some(told)).await;
        self.tell_running(lease, Some(told)).await;
    }

    async fn tell_running(&self, lease: &Lease, overtaken: Option<Overtaken>) {
        let Lease { job, stage, group, round, .. } = *lease;
        let worker = "slow".to_owned();
        let (running_ms, progress) = (3_600_000, Some(Progress { done: 7, total: Some(9) }));
        let (width, tasks) =
            (0, lease.tasks.iter().map(|task| RunningTask { task: task.index, progress }).collect());
        let notice =
            RunningNotice { job, stage, group, round, worker, running_ms, progress, width, tasks, overtaken };
        let body = serde_json::to_vec(&notice).unwrap();
        self.backbone.publish(&keys::running_subject(&job), body).await.unwrap();
    }

    /// Waits for a lease's commit; answers its place.
    async fn committed(&self, lease: &Lease) -> ObjectUri {
        let key = keys::commit(&lease.job, lease.stage, lease.group, lease.round);
        let uri = ObjectUri::new(BUCKET, key).unwrap();
        until("a commit", || self.store.head(&uri), Result::is_ok).await.unwrap();
        uri
    }

    async fn commit_late(&self, lease: &Lease) {
        let uri = self.committed(lease).await;
        let winner = self.store.get(&uri, None).await.unwrap();
        self.commit(lease).await;
        assert_eq!(self.store.get(&uri, None).await.unwrap(), winner);
        let mark = ObjectUri::new("bank", "late").unwrap();
        self.store.put(&mark, winner, PutOptions::default()).await.unwrap();
    }

    async fn commit(&self, lease: &Lease) -> CommitNotice {
        let attempt = Uuid::new_v4();
        let tasks = lease.tasks.iter().map(|task| self.task(lease, task, &attempt));
        let commit = Commit {
            job: lease.job,
            stage: lease.stage,
            group: lease.group,
            round: lease.round,
            attempt,
            worker: "test".into(),
            tasks: futures::future::join_all(tasks).await,
        };
        let key = keys::commit(&lease.job, lease.stage, lease.group, lease.round);
        let uri = ObjectUri::new(BUCKET, key).unwrap();
        let body = serde_json::to_vec(&commit).unwrap();
        self.store
            .put_if_absent(&uri, body.into(), &attempt.to_string(), PutOptions::default())
            .await
            .unwrap();
        // The commit travels with every other notice only.
        let commit = lease.group.is_multiple_of(2).then(|| Box::new(commit));
        CommitNotice { job: lease.job, stage: lease.stage, group: lease.group, round: lease.round, commit }
    }

    async fn task(&self, lease: &Lease, task: &Task, attempt: &Uuid) -> TaskCommit {
        let mapped = async || match self.play.without_rows && task.index > 0 {
            true => None,
            false => Some(self.table(lease, task, attempt).await),
        };
        let outcome = match ((self.play.fails)(lease, task), &task.work) {
            (Some(problem), Work::Map(_) | Work::MapAccumulate { keep: true, .. } | Work::Reduce { .. }) => {
                // It had written something already.
                self.table(lease, task, &Uuid::new_v4()).await;
                TaskOutcome::Failed(problem)
            }
            (Some(problem), _) => TaskOutcome::Failed(problem),
            (None, Work::Map(_) | Work::Reduce { .. }) => TaskOutcome::Table(mapped().await),
            (
                None,
                Work::Accumulate(partition)
                | Work::MapAccumulate { partition, keep: false }
                | Work::Group { partition, .. },
            ) => TaskOutcome::State(state(partition)),
            (None, Work::MapAccumulate { partition, keep: true }) => {
                TaskOutcome::Mapped { table: mapped().await, state: state(partition) }
            }
            (None, Work::Merge { states, finish }) => {
                let parts: Vec<_> = states
                    .iter()
                    .map(|state| match state {
                        StateRef::Inline(text) => text.clone(),
                        other => panic!("{other:?}"),
                    })
                    .collect();
                let merged = format!("({})", parts.join(" "));
                match finish {
                    true => {
                        let answer = json!({"fold": merged}).to_string();
                        TaskOutcome::Answer(AnswerRef::Inline(answer.try_into().unwrap()))
                    }
                    false => TaskOutcome::State(StateRef::Inline(merged)),
                }
            }
        };
        let usage = Usage {
            rows_in: 1,
            wall_us: 20 + u64::from(task.index),
            cpu_us: self.play.cpu_us,
            memory_bytes_peak: u64::from(task.index),
            ..Usage::default()
        };
        let looked_outside = self.play.looks_outside;
        TaskCommit { index: task.index, attempt: task.attempt, outcome, usage, looked_outside }
    }

    async fn table(&self, lease: &Lease, task: &Task, attempt: &Uuid) -> OutputObject {
        let uri = lease.common.output.join(&keys::output_part(task.index, attempt, "parquet")).unwrap();
        let pin = self.store.put(&uri, Bytes::from_static(b"rows"), PutOptions::default()).await.unwrap();
        OutputObject { uri, size: pin.size, etag: pin.etag, rows: u64::from(!self.play.without_rows) }
    }
}

/// The name of what a partition reads, as its state.
fn state(partition: &Partition) -> StateRef {
    let name = partition.slices[0].object.uri.key().rsplit('/').next().unwrap();
    StateRef::Inline(name.trim_end_matches(".csv").to_owned())
}
