// SPDX-License-Identifier: Apache-2.0
//! The worker's loop: leases in, commits out.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fanfold_backbone::{Depth, Event, Message};
use fanfold_protocol::{
    ErrorKind,
    commit::{AnswerRef, Commit, CommitNotice, RunningNotice, TaskCommit, TaskLog, TaskOutcome},
    digest::Digest,
    function::{Settings, Version},
    job::{CsvOptions, Format},
    keys::{self, LogKey},
    limits,
    plan::{Lease, Partition, Slice, StateRef, Task, TaskCommon, Work},
    tenant::Tenant,
    uri::{ObjectUri, PinnedObject},
    worker::{Member, WIRE_VERSION, WIRE_VERSION_MIN},
};
use fanfold_storage::{ListEntry, ListOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Passage, Platform, component, until};

/// A mapper that copies its input, and an aggregator whose state is text: `b`
/// for each batch, and brackets around what was merged together. `{pause}` is
/// done before a partition is read, `{pad}` bytes are added to each state.
const TABLES: &str = r#"
(import "fanfold:function/tables@0.1.0" "[method]reader.next" (func $next (param i32 i32)))
(import "fanfold:function/tables@0.1.0" "[method]writer.write" (func $write (param i32 i32 i32 i32)))
(import "fanfold:function/tables@0.1.0" "[resource-drop]reader" (func $drop_reader (param i32)))
(import "fanfold:function/tables@0.1.0" "[resource-drop]writer" (func $drop_writer (param i32)))
(import "fanfold:function/context@0.1.0" "log" (func $log (param i32 i32 i32)))
(memory (export "memory") 16)
(global $heap (mut i32) (i32.const 65536))
(data (i32.const 1024) "about to read")
(func $allocate (export "cabi_realloc") (param $old i32) (param $old_bytes i32) (param $align i32) (param $bytes i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
  (global.set $heap (i32.add (local.get $at) (local.get $bytes)))
  (block $fits
    (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
    (br_if $fits (i32.ne (i32.const -1)
      (memory.grow (i32.add (i32.shr_u (local.get $bytes) (i32.const 16)) (i32.const 1)))))
    (unreachable))
  (local.get $at))
(func $describe (export "fanfold:function/mapper@0.1.0#describe") (result i32) (i32.const 256))
(export "fanfold:function/aggregator@0.1.0#describe" (func $describe))
(func $pause {pause})
(func (export "fanfold:function/mapper@0.1.0#map") (param $in i32) (param $out i32) (result i32)
  (local $result i32)
  (call $log (i32.const 2) (i32.const 1024) (i32.const 13))
  (call $pause)
  (local.set $result (i32.const 16))
  (i32.store8 (i32.const 16) (i32.const 0))
  (block $done
    (loop $more
      (global.set $heap (i32.const 65536))
      (call $next (local.get $in) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (local.set $result (i32.const 64)) (br $done)))
      (br_if $done (i32.eqz (i32.load8_u (i32.const 68))))
      (call $write (local.get $out) (i32.load (i32.const 72)) (i32.load (i32.const 76)) (i32.const 96))
      (if (i32.load8_u (i32.const 96)) (then (local.set $result (i32.const 96)) (br $done)))
      (br $more)))
  (call $drop_reader (local.get $in))
  (call $drop_writer (local.get $out))
  (local.get $result))
(func $state (param $at i32) (param $bytes i32) (result i32)
  (i32.store8 (i32.const 16) (i32.const 0))
  (i32.store (i32.const 20) (local.get $at))
  (i32.store (i32.const 24) (local.get $bytes))
  (i32.const 16))
(func (export "fanfold:function/aggregator@0.1.0#accumulate") (param $in i32) (result i32)
  (local $n i32) (local $failed i32)
  (call $pause)
  (memory.fill (i32.const 4096) (i32.const 98) (i32.const 20000))
  (block $done
    (loop $more
      (global.set $heap (i32.const 65536))
      (call $next (local.get $in) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (local.set $failed (i32.const 1)) (br $done)))
      (br_if $done (i32.eqz (i32.load8_u (i32.const 68))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $more)))
  (call $drop_reader (local.get $in))
  (if (local.get $failed) (then (return (i32.const 64))))
  (call $state (i32.const 4096) (i32.add (local.get $n) (i32.const {pad}))))
(func (export "fanfold:function/aggregator@0.1.0#merge") (param $states i32) (param $count i32) (result i32)
  (local $to i32) (local $at i32) (local $n i32) (local $i i32)
  (local.set $at (call $allocate (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 400000)))
  (local.set $to (i32.add (local.get $at) (i32.const 1)))
  (i32.store8 (local.get $at) (i32.const 91))
  (block $done
    (loop $more
      (br_if $done (i32.ge_u (local.get $i) (local.get $count)))
      (local.set $n (i32.load offset=4 (i32.add (local.get $states) (i32.mul (local.get $i) (i32.const 8)))))
      (memory.copy (local.get $to) (i32.load (i32.add (local.get $states) (i32.mul (local.get $i) (i32.const 8)))) (local.get $n))
      (local.set $to (i32.add (local.get $to) (local.get $n)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $more)))
  (i32.store8 (local.get $to) (i32.const 93))
  (call $state (local.get $at) (i32.sub (i32.add (local.get $to) (i32.const 1)) (local.get $at))))
(func (export "fanfold:function/aggregator@0.1.0#finish") (param $from i32) (param $bytes i32) (result i32)
  (local $at i32)
  (local.set $at (call $allocate (i32.const 0) (i32.const 0) (i32.const 8) (i32.add (local.get $bytes) (i32.const 2))))
  (i32.store8 (local.get $at) (i32.const {quote}))
  (memory.copy (i32.add (local.get $at) (i32.const 1)) (local.get $from) (local.get $bytes))
  (i32.store8 (i32.add (i32.add (local.get $at) (i32.const 1)) (local.get $bytes)) (i32.const {quote}))
  (call $state (local.get $at) (i32.add (local.get $bytes) (i32.const 2))))
"#;

fn tables(pause: &str, pad: u32, quote: char) -> Vec<u8> {
    importing("", pause, pad, quote)
}

/// The same with one more import.
fn importing(import: &str, pause: &str, pad: u32, quote: char) -> Vec<u8> {
    let text = format!("{import}{TABLES}").replace("{pause}", pause).replace("{pad}", &pad.to_string());
    component("tables", &text.replace("{quote}", &u32::from(quote).to_string()))
}

/// What makes it declare that it writes one column, `id` of `Int64`.
const WRITES_ID: &str = r#"(data (i32.const 268) "\01\00\00\00\00\02\00\00\01\00\00\00")
(data (i32.const 512) "\58\02\00\00\02\00\00\00\5a\02\00\00\05\00\00\00\01\00\00\00")
(data (i32.const 600) "idInt64")"#;

/// A platform with a deployed function and a worker at work.
struct Works {
    platform: Arc<Platform>,
    shutdown: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
    job: Uuid,
}

impl Works {
    async fn start(component: Vec<u8>) -> Self {
        let platform = Platform::start().await;
        let _: Arc<Version> = platform.deploy(component, Settings::default()).await.unwrap();
        Self::over(platform)
    }

    /// A worker of this platform.
    fn over(platform: Platform) -> Self {
        Self::draining(platform, limits::DRAIN_TIMEOUT)
    }

    /// One that drains for so long.
    fn draining(platform: Platform, patience: Duration) -> Self {
        let platform = Arc::new(platform);
        let shutdown = CancellationToken::new();
        let (runtime, stop) = (platform.runtime.clone(), shutdown.clone());
        let worker = tokio::spawn(async move { runtime.run_tasks(stop, patience).await.unwrap() });
        Self { platform, shutdown, worker, job: Uuid::now_v7() }
    }

    async fn partition(&self, key: &str, body: &str) -> Partition {
        let pin = self.platform.put("bank", key, body.to_owned()).await;
        let object = PinnedObject { uri: ObjectUri::new("bank", key).unwrap(), pin };
        Partition { slices: vec![Slice { object, bytes: None, row_groups: None }] }
    }

    fn lease(&self, stage: u32, group: u32, works: Vec<Work>) -> Lease {
        let tasks = works.into_iter().zip(group * 10..).map(|(work, index)| Task { index, attempt: 1, work });
        Lease {
            job: self.job,
            stage,
            group,
            round: 0,
            function: "fixture".into(),
            version: 1,
            second: false,
            common: TaskCommon {
                depth: 0,
                params: "{}".into(),
                format: Format::Csv,
                columns: None,
                csv: CsvOptions::default(),
                schema: Default::default(),
                filter: None,
                output: "s3://bank/out/".parse().unwrap(),
                output_format: Format::Parquet,
                timeout_ms: 20_000,
                memory_bytes: None,
                like: None,
            },
            tasks: tasks.collect(),
        }
    }

    /// Queues a lease so many times, and waits for as many announcements.
    async fn run(&self, lease: &Lease, copies: usize) -> Vec<Commit> {
        let mut commits = self.platform.backbone.subscribe(&keys::commit_subject(&self.job)).await.unwrap();
        self.enqueue(lease, copies).await;
        let mut found = Vec::new();
        while found.len() < copies {
            let event = tokio::time::timeout(Duration::from_secs(60), commits.next())
                .await
                .expect("a commit in time");
            let Some(Event::Published { payload, .. }) = event else { panic!("{event:?}") };
            let notice: CommitNotice = serde_json::from_slice(&payload).unwrap();
            found.push(*notice.commit.expect("a small commit"));
        }
        found
    }

    async fn enqueue(&self, lease: &Lease, copies: usize) {
        let payload = serde_json::to_vec(lease).unwrap();
        let messages =
            (0..copies).map(|_| Message::new(Uuid::new_v4().to_string(), payload.clone())).collect();
        self.platform.backbone.enqueue(keys::TASK_QUEUE, messages).await.unwrap();
    }

    async fn tasks(&self, stage: u32, group: u32, works: Vec<Work>) -> Vec<TaskCommit> {
        let lease = self.lease(stage, group, works);
        let commit = self.run(&lease, 1).await.remove(0);
        let key = keys::commit(&self.job, stage, group, 0);
        let stored: Commit =
            serde_json::from_slice(&self.platform.get(&format!("s3://fanfold/{key}")).await).unwrap();
        assert_eq!(stored, commit);
        commit.tasks
    }

    async fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let listed = self.platform.store.list(bucket, prefix, ListOptions::default());
        let entries: Vec<ListEntry> = listed.try_collect().await.unwrap();
        entries.iter().map(|entry| entry.name().to_owned()).collect()
    }

    /// What tasks of the job logged, as it lies in the store.
    async fn logs(&self) -> Vec<(LogKey, Vec<TaskLog>)> {
        let mut logs = Vec::new();
        for key in self.keys("fanfold", &keys::task_logs(&self.job)).await {
            let text = self.platform.get(&format!("s3://fanfold/{key}")).await;
            let lines = std::str::from_utf8(&text).unwrap().lines();
            let tasks = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
            logs.push((LogKey::parse(&self.job, &key).unwrap(), tasks));
        }
        logs
    }

    /// Waits until nothing is queued or leased.
    async fn settled(&self) {
        self.comes_to("an empty queue", |depth| depth.ready + depth.leased + depth.delayed == 0).await;
    }

    /// Waits until the queue of tasks is so full.
    async fn comes_to(&self, what: &str, holds: impl Fn(&Depth) -> bool) {
        until(what, async || self.platform.backbone.depth(keys::TASK_QUEUE).await.unwrap(), holds).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_leaves_a_table_and_a_commit() {
    let works = Works::start(tables("", 0, '"')).await;
    let rows = works.partition("in/1.csv", "id,name\n1,a\n2,b\n3,c\n").await;
    let empty = works.partition("in/2.csv", "id,name\n").await;
    let tasks = works.tasks(0, 0, vec![Work::Map(rows), Work::Map(empty)]).await;
    let TaskOutcome::Table(Some(table)) = &tasks[0].outcome else { panic!("{:?}", tasks[0]) };
    assert_eq!((table.rows, tasks[0].usage.rows_in, tasks[0].usage.rows_out), (3, 3, 3));
    assert!(tasks[0].usage.bytes_in > 0 && tasks[0].usage.bytes_out == table.size, "{:?}", tasks[0].usage);
    assert!(tasks[0].usage.cpu_us > 0 && tasks[0].usage.memory_bytes_peak >= 1 << 20);
    assert_eq!(works.platform.get(&table.uri.to_string()).await.len() as u64, table.size);
    assert_eq!(tasks[1].outcome, TaskOutcome::Table(None));
    assert_eq!(works.keys("bank", "out/").await, [table.uri.key()]);
    works.settled().await;
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_writes_the_columns_that_it_declares() {
    let works = Works::start(importing(WRITES_ID, "", 0, '"')).await;
    let mut maps = Vec::new();
    for (key, body) in [("in/1.csv", "id\n1\n"), ("in/2.csv", "id\nx\n"), ("in/3.csv", "id,name\n1,a\n")] {
        maps.push(Work::Map(works.partition(key, body).await));
    }
    let tasks = works.tasks(0, 0, maps).await;
    assert!(matches!(tasks[0].outcome, TaskOutcome::Table(Some(_))), "{tasks:?}");
    for (task, found) in [(&tasks[1], "\"id\" \"Utf8\""), (&tasks[2], "column 2 \"name\"")] {
        let TaskOutcome::Failed(problem) = &task.outcome else { panic!("{task:?}") };
        assert_eq!(problem.code, ErrorKind::SchemaMismatch);
        assert!(problem.detail.contains(found), "{problem}");
    }
    assert_eq!(works.keys("bank", "out/").await.len(), 1);
    works.stop().await;
}

/// Seeds of hash maps do not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_wasi_for_chance_or_time_looks_outside() {
    for (interface, name, outside) in [
        ("random/random", "get-random-u64", true),
        ("random/insecure", "get-insecure-random-u64", true),
        ("random/insecure-seed", "insecure-seed", false),
        ("clocks/monotonic-clock", "now", true),
        ("clocks/wall-clock", "now", true),
    ] {
        // One number, or more of them at a place in memory.
        let (kind, look) = match interface {
            "random/insecure-seed" | "clocks/wall-clock" => ("(param i32)", "(call $look (i32.const 2048))"),
            _ => ("(result i64)", "(drop (call $look))"),
        };
        let import = format!("(import \"wasi:{interface}@0.2.0\" \"{name}\" (func $look {kind}))");
        let works = Works::start(importing(&import, look, 0, '"')).await;
        let rows = works.partition("in/1.csv", "id,name\n1,a\n").await;
        let tasks = works.tasks(0, 0, vec![Work::Map(rows)]).await;
        assert!(matches!(tasks[0].outcome, TaskOutcome::Table(Some(_))), "{tasks:?}");
        assert_eq!(tasks[0].looked_outside, outside, "{interface} {name}");
        works.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_store_is_silent_leaves_work_to_others() {
    let works = Works::start(tables("", 0, '"')).await;
    let rows = works.partition("in/1.csv", "id,name\n1,a\n").await;
    let answering = async |expected: bool| {
        let answers = async || works.platform.runtime.store_answers();
        until("a look at the store", answers, |answers| *answers == expected).await;
    };
    works.platform.gate.set(Passage::Closed);
    answering(false).await;
    let lease = works.lease(0, 0, vec![Work::Map(rows)]);
    works.enqueue(&lease, 1).await;
    let backbone = &works.platform.backbone;
    let pulled = backbone.pull(keys::TASK_QUEUE, 1, Duration::from_secs(5), Duration::from_secs(30)).await;
    let [delivery] = &pulled.unwrap()[..] else { panic!("the worker took it") };
    assert_eq!(delivery.attempt, 1, "the worker took it and gave it back");
    delivery.nak(Duration::ZERO).await.unwrap();
    works.platform.gate.set(Passage::Open);
    answering(true).await;
    works.settled().await;
    assert_eq!(works.keys("bank", "out/").await.len(), 1);
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_turn_is_given_back_before_what_runs() {
    let mut platform = Platform::start().await;
    let endless = tables("(loop $forever (br $forever))", 0, '"');
    let _: Arc<Version> = platform.deploy(endless, Settings::default()).await.unwrap();
    // One thread: of two leases one runs, and the other waits.
    platform.with_workers(1);
    let works = Works::draining(platform, Duration::from_millis(300));
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    let backbone = &works.platform.backbone;
    let mut running = backbone.subscribe(&keys::running_subject(&works.job)).await.unwrap();
    for group in 0..2 {
        works.enqueue(&works.lease(0, group, maps.clone()), 1).await;
    }
    let told = tokio::time::timeout(Duration::from_secs(30), running.next()).await;
    told.expect("a lease that runs").expect("a notice");
    assert_eq!(backbone.depth(keys::TASK_QUEUE).await.unwrap().leased, 2);
    works.platform.gate.set(Passage::Closed);
    // What runs would be given back after 20 s.
    let pulled = backbone.pull(keys::TASK_QUEUE, 1, Duration::from_secs(12), Duration::from_secs(30)).await;
    let [delivery] = &pulled.unwrap()[..] else { panic!("it is still waiting for its turn") };
    assert_eq!(delivery.attempt, 2);
    let depth = backbone.depth(keys::TASK_QUEUE).await.unwrap();
    assert_eq!((depth.ready, depth.leased), (0, 2), "what runs is kept");
    delivery.ack().await.unwrap();
    works.platform.gate.set(Passage::Open);
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_gives_back_what_has_not_begun_and_ends_what_has() {
    // Of two leases one runs, and the other waits for the thread or for memory.
    for little_memory in [false, true] {
        let mut platform = Platform::start().await;
        let endless = tables("(loop $forever (br $forever))", 0, '"');
        let _: Arc<Version> = platform.deploy(endless, Settings::default()).await.unwrap();
        if little_memory {
            platform.with_memory(64 << 20);
        } else {
            platform.with_workers(1);
        }
        let works = Works::over(platform);
        let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
        let backbone = &works.platform.backbone;
        let mut running = backbone.subscribe(&keys::running_subject(&works.job)).await.unwrap();
        for group in 0..2 {
            works.enqueue(&works.lease(0, group, maps.clone()), 1).await;
        }
        let told = tokio::time::timeout(Duration::from_secs(30), running.next()).await;
        let Ok(Some(Event::Published { payload, .. })) = told else { panic!("{told:?}") };
        let runs: RunningNotice = serde_json::from_slice(&payload).unwrap();
        works.comes_to("a worker that has both", |depth| depth.leased >= 2).await;
        works.shutdown.cancel();
        let (wait, hold) = (Duration::from_secs(20), Duration::from_secs(30));
        let pulled = backbone.pull(keys::TASK_QUEUE, 1, wait, hold).await;
        let [delivery] = &pulled.unwrap()[..] else { panic!("it still waits: {little_memory}") };
        let given_back: Lease = serde_json::from_slice(&delivery.payload).unwrap();
        assert_eq!((given_back.group, delivery.attempt), (1 - runs.group, 2));
        let depth = backbone.depth(keys::TASK_QUEUE).await.unwrap();
        assert_eq!((depth.ready, depth.leased), (0, 2), "what runs is kept");
        delivery.ack().await.unwrap();
        backbone.put(&keys::job_cancel(&works.job), "x").await.unwrap();
        backbone.publish(&keys::cancel_subject(&works.job), "x").await.unwrap();
        works.stop().await;
    }
}

/// Says in the backbone that another worker has compiled a component.
async fn held_elsewhere(platform: &Platform, digest: Digest) {
    let other = Member {
        name: "other".parse().unwrap(),
        instance: Uuid::new_v4(),
        address: "other:1".into(),
        wire: WIRE_VERSION,
        wire_min: WIRE_VERSION_MIN,
        version: "0.1.0".into(),
        engine: platform.runtime.engine(),
        slots: 1,
        memory_bytes: 1,
        zone: None,
        draining: false,
        store_answers: true,
        cached: vec![digest.prefix()],
    };
    platform.backbone.put(&keys::member(&other.name), serde_json::to_vec(&other).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_would_have_to_compile_leaves_leases_to_one_that_would_not() {
    // It leaves them for a moment only, which a busy machine may let pass.
    for _ in 0..5 {
        if leaves_a_lease().await {
            return;
        }
    }
    panic!("the worker was offered leases and kept them");
}

/// Whether a worker that has not compiled a component was seen to leave its lease to others; it does
/// the work in the end.
async fn leaves_a_lease() -> bool {
    // One thread: two loops that pull.
    let mut platform = Platform::start().await;
    let component = tables("", 0, '"');
    let digest = Digest::of(&component);
    let version = platform.deploy(component, Settings::default()).await.unwrap();
    assert_eq!(platform.runtime.cached(), [digest.prefix()]);
    for entry in std::fs::read_dir(platform.cache()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "bin") {
            std::fs::remove_file(path).unwrap();
        }
    }
    platform.with_workers(1);
    assert!(platform.runtime.cached().is_empty());
    held_elsewhere(&platform, version.digest).await;
    let works = Works::over(platform);
    let rows = works.partition("in/1.csv", "id,name\n1,a\n").await;
    let lease = works.lease(0, 0, vec![Work::Map(rows)]);
    let backbone = &works.platform.backbone;
    works.enqueue(&lease, 1).await;
    let mut left = false;
    for here in 1..=3 {
        let pulled =
            backbone.pull(keys::TASK_QUEUE, 1, Duration::from_secs(2), Duration::from_secs(30)).await;
        let [delivery] = &pulled.unwrap()[..] else { break };
        left = delivery.attempt > here;
        // The other one does not take it after all, so anyone does.
        delivery.nak(Duration::ZERO).await.unwrap();
        if left {
            break;
        }
        // It came here first: the worker, which waits for it, is to have it next.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    works.settled().await;
    assert_eq!(works.keys("bank", "out/").await.len(), 1);
    assert_eq!(works.platform.runtime.cached(), [digest.prefix()]);
    works.stop().await;
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantined_component_runs_neither_tasks_nor_calls() {
    let works = Works::start(tables("", 0, '"')).await;
    let rows = works.partition("in/1.csv", "id,name\n1,a\n").await;
    let lease = works.lease(0, 0, vec![Work::Map(rows)]);
    let digest = Digest::of(&tables("", 0, '"'));
    // What the processes before this one would have left: that they broke, and what ran.
    let mut head = vec![0; 40];
    head[0] = 1;
    for death in 0..3_u64 {
        let mut place = digest.as_bytes().to_vec();
        place.extend(death.to_be_bytes());
        let running = works.platform.cache().join("running");
        std::fs::write(running.join(format!("dead-{death}")), [head.clone(), place].concat()).unwrap();
        works.platform.runtime.look_back().await.unwrap();
        assert_eq!(std::fs::read_dir(running).unwrap().count(), 1, "only this process's own is left");
    }
    let commit = works.run(&lease, 1).await.remove(0);
    let TaskOutcome::Failed(problem) = &commit.tasks[0].outcome else { panic!("{commit:?}") };
    assert_eq!(problem.code, ErrorKind::VersionQuarantined, "{problem}");
    let refused = works.platform.prepare(digest).await.unwrap_err();
    assert_eq!(refused.code, ErrorKind::VersionQuarantined);
    assert_eq!(works.platform.runtime.counters().components_quarantined, 1);
    works.platform.backbone.delete(&keys::suspicion(&digest), None).await.unwrap();
    works.platform.prepare(digest).await.unwrap();
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_is_folded_in_order() {
    let works = Works::start(tables("", 0, '"')).await;
    let mut accumulates = Vec::new();
    for n in 0..3 {
        let partition = works.partition(&format!("in/{n}.csv"), "id\n1\n").await;
        accumulates.push(Work::Accumulate(partition));
    }
    let tasks = works.tasks(0, 0, accumulates).await;
    let states: Vec<_> = tasks
        .into_iter()
        .map(|task| match task.outcome {
            TaskOutcome::State(state) => state,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(states[0], StateRef::Inline(hex::encode("b")));
    let merged = works.tasks(1, 0, vec![Work::Merge { states: states.clone(), finish: false }]).await;
    assert_eq!(merged[0].outcome, TaskOutcome::State(StateRef::Inline(hex::encode("[bbb]"))));
    let TaskOutcome::State(left) = merged[0].outcome.clone() else { panic!() };
    let works_now = vec![
        Work::Merge { states: vec![left, states[0].clone()], finish: true },
        Work::Merge { states: Vec::new(), finish: true },
    ];
    let finished = works.tasks(2, 0, works_now).await;
    let answer = |text: &str| {
        let json = serde_json::json!(text).to_string();
        TaskOutcome::Answer(AnswerRef::Inline(json.try_into().unwrap()))
    };
    assert_eq!(finished[0].outcome, answer("[[bbb]b]"));
    assert_eq!(finished[1].outcome, answer("[]"));
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_and_its_fold_are_one_task() {
    let works = Works::start(tables("", 0, '"')).await;
    let rows = works.partition("in/1.csv", "id,name\n1,a\n2,b\n3,c\n").await;
    let empty = works.partition("in/2.csv", "id,name\n").await;
    let both = |partition: &Partition, keep| Work::MapAccumulate { partition: partition.clone(), keep };
    let tasks = works.tasks(0, 0, vec![both(&rows, true), both(&rows, false), both(&empty, true)]).await;
    let state = |text: &str| StateRef::Inline(hex::encode(text));
    let TaskOutcome::Mapped { table: Some(table), state: folded } = &tasks[0].outcome else {
        panic!("{:?}", tasks[0])
    };
    assert_eq!((folded, table.rows), (&state("b"), 3));
    assert_eq!(tasks[1].outcome, TaskOutcome::State(state("b")));
    assert_eq!(tasks[2].outcome, TaskOutcome::Mapped { table: None, state: state("") });
    for task in &tasks[..2] {
        assert_eq!((task.usage.rows_in, task.usage.rows_out), (3, 3), "{:?}", task.usage);
        assert!(task.usage.memory_bytes_peak >= 2 << 20, "two sandboxes: {:?}", task.usage);
    }
    // What one job writes in two steps, byte for byte.
    let alone = works.tasks(0, 1, vec![Work::Map(rows)]).await;
    let TaskOutcome::Table(Some(alone)) = &alone[0].outcome else { panic!("{alone:?}") };
    let bytes = async |uri: &ObjectUri| works.platform.get(&uri.to_string()).await;
    assert_eq!(bytes(&table.uri).await, bytes(&alone.uri).await);
    assert_eq!(works.keys("bank", "out/").await.len(), 2);
    works.settled().await;
    works.stop().await;
}

/// Each takes more than there is for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_do_not_fit_the_memory_of_all_end_one_after_the_other() {
    let mut platform = Platform::start().await;
    platform.with_memory(1 << 20);
    let _: Arc<Version> = platform.deploy(tables("", 0, '"'), Settings::default()).await.unwrap();
    let works = Works::over(platform);
    let partition = works.partition("in/1.csv", "id,name\n1,a\n2,b\n3,c\n").await;
    let both = Work::MapAccumulate { partition: partition.clone(), keep: true };
    for group in 0..6 {
        let lease = works.lease(0, group, vec![both.clone(), Work::Map(partition.clone())]);
        works.enqueue(&lease, 1).await;
    }
    works.settled().await;
    for group in 0..6 {
        let key = keys::commit(&works.job, 0, group, 0);
        let stored = works.platform.get(&format!("s3://fanfold/{key}")).await;
        let commit: Commit = serde_json::from_slice(&stored).unwrap();
        assert!(matches!(commit.tasks[0].outcome, TaskOutcome::Mapped { .. }), "{commit:?}");
        assert!(matches!(commit.tasks[1].outcome, TaskOutcome::Table(Some(_))), "{commit:?}");
    }
    assert_eq!(works.platform.runtime.memory().reserved_bytes, 0);
    works.stop().await;
}

/// As [`tables`], with another beginning of `accumulate`.
fn folding(begin: &str) -> Vec<u8> {
    let text = TABLES.replace(
        "(local $n i32) (local $failed i32)\n  (call $pause)",
        &format!("(local $n i32) (local $failed i32)\n  {begin}"),
    );
    assert_ne!(text, TABLES);
    let text = text.replace("{pause}", "").replace("{pad}", "0").replace("{quote}", "34");
    component("tables", &text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_map_and_its_fold_the_first_failure_ends_both() {
    let check = async |component: Vec<u8>, body: &str, timeout_ms: u64, expected: ErrorKind| {
        let works = Works::start(component).await;
        let partition = works.partition("in/1.csv", body).await;
        let mut lease = works.lease(0, 0, vec![Work::MapAccumulate { partition, keep: true }]);
        lease.common.timeout_ms = timeout_ms;
        let commit = works.run(&lease, 1).await.remove(0);
        let TaskOutcome::Failed(problem) = &commit.tasks[0].outcome else { panic!("{commit:?}") };
        assert_eq!(problem.code, expected, "{problem}");
        assert_eq!(works.keys("bank", "out/").await, [""; 0], "nothing is left");
        works.stop().await;
    };
    let rows = "id,b\n1,2\n";
    check(folding("(unreachable)"), rows, 20_000, ErrorKind::GuestTrapped).await;
    check(folding("(loop $forever (br $forever))"), rows, 1_000, ErrorKind::DeadlineExceeded).await;
    check(tables("", 0, '"'), "id,b\n1,2\n3\n", 20_000, ErrorKind::CsvFieldCount).await;
    check(tables("(unreachable)", 0, '"'), rows, 20_000, ErrorKind::GuestTrapped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_that_has_enough_does_not_hold_up_its_map() {
    // More than the pipe holds, none of which is read.
    let body = format!("id\n{}", "1\n".repeat(600_000));
    let text = "(call $drop_reader (local.get $in)) (return (call $state (i32.const 4096) (i32.const 0)))";
    let works = Works::start(folding(text)).await;
    let partition = works.partition("in/1.csv", &body).await;
    let tasks = works.tasks(0, 0, vec![Work::MapAccumulate { partition, keep: true }]).await;
    let TaskOutcome::Mapped { table: Some(table), state } = &tasks[0].outcome else { panic!("{tasks:?}") };
    assert_eq!((table.rows, state), (600_000, &StateRef::Inline(String::new())));
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_states_and_answers_are_staged() {
    let works = Works::start(tables("", 9_999, '"')).await;
    let mut accumulates = Vec::new();
    for n in 0..2 {
        accumulates.push(Work::Accumulate(works.partition(&format!("in/{n}.csv"), "id\n1\n").await));
    }
    let tasks = works.tasks(0, 0, accumulates).await;
    let state = |task: &TaskCommit| match &task.outcome {
        TaskOutcome::State(state @ StateRef::Object { size: 10_000, .. }) => state.clone(),
        other => panic!("{other:?}"),
    };
    let states: Vec<_> = (0..10).map(|n| state(&tasks[n % 2])).collect();
    let finished = works.tasks(1, 0, vec![Work::Merge { states, finish: true }]).await;
    let TaskOutcome::Answer(AnswerRef::Object(uri)) = &finished[0].outcome else {
        panic!("{:?}", finished[0])
    };
    assert_eq!(works.platform.get(&uri.to_string()).await.len(), 10 * 10_000 + 4);
    assert!(finished[0].usage.bytes_in >= 100_000 && finished[0].usage.bytes_out == 100_004);
    works.stop().await;
}

/// They lie in the memory of the host, up to 128 MiB of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_are_read_once_there_is_room_for_them() {
    let works = Works::start(tables("", 0, '"')).await;
    let merge = |state: &StateRef| vec![Work::Merge { states: vec![state.clone(); 3], finish: true }];
    // After this one the component is there, and no more is expected of it than of any.
    works.tasks(1, 0, merge(&StateRef::Inline(hex::encode("b")))).await;
    let body = vec![b'b'; 100_000];
    works.platform.put("fanfold", "state", body.clone()).await;
    let uri: ObjectUri = "s3://fanfold/state".parse().unwrap();
    let state = StateRef::Object { uri: uri.clone(), size: 100_000, digest: Digest::of(&body) };
    works.platform.gate.set(Passage::Stalled);
    works.enqueue(&works.lease(1, 1, merge(&state)), 1).await;
    let reserved = async || works.platform.runtime.memory().reserved_bytes;
    until("room while nothing can be read", reserved, |bytes| *bytes >= (4 << 20) + 300_000).await;
    works.platform.gate.set(Passage::Open);
    works.settled().await;
    assert_eq!(works.platform.runtime.memory().reserved_bytes, 0);
    let key = keys::commit(&works.job, 1, 1, 0);
    let commit: Commit =
        serde_json::from_slice(&works.platform.get(&format!("s3://fanfold/{key}")).await).unwrap();
    assert!(matches!(commit.tasks[0].outcome, TaskOutcome::Answer(AnswerRef::Object(_))), "{commit:?}");
    assert_eq!(commit.tasks[0].usage.bytes_in, 300_000);
    // What was not written as it is there is not merged.
    let other = StateRef::Object { uri, size: 100_000, digest: Digest::of(b"another state") };
    let merged = works.tasks(1, 2, merge(&other)).await;
    let TaskOutcome::Failed(problem) = &merged[0].outcome else { panic!("{:?}", merged[0]) };
    assert_eq!(problem.code, ErrorKind::ObjectChanged, "{problem}");
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_data_and_functions_are_results() {
    let works = Works::start(tables("", 0, 'x')).await;
    let good = works.partition("in/good.csv", "id\n1\n").await;
    let ragged = works.partition("in/ragged.csv", "id,b\n1,2\n3\n").await;
    let changed = works.partition("in/changed.csv", "id\n1\n").await;
    works.partition("in/changed.csv", "id\n1\n2\n").await;
    let gone = works.partition("in/gone.csv", "id\n1\n").await;
    works.platform.store.delete(&"s3://bank/in/gone.csv".parse().unwrap()).await.unwrap();
    let maps = [good, ragged, changed, gone].map(Work::Map).to_vec();
    let tasks = works.tasks(0, 0, maps).await;
    let kinds: Vec<_> = tasks
        .iter()
        .map(|task| match &task.outcome {
            TaskOutcome::Failed(problem) => Some(problem.code),
            _ => None,
        })
        .collect();
    let gone =
        if kinds[3] == Some(ErrorKind::ObjectNotFound) { kinds[3] } else { Some(ErrorKind::ObjectChanged) };
    assert_eq!(kinds, [None, Some(ErrorKind::CsvFieldCount), Some(ErrorKind::ObjectChanged), gone]);
    assert_eq!(works.keys("bank", "out/").await.len(), 1, "failed tasks leave nothing");
    // What tasks log lies beside their commit, what failed apart from the rest.
    let logs = works.logs().await;
    let said = |(key, tasks): &(LogKey, Vec<TaskLog>)| {
        let said = |log: &TaskLog| log.lines.iter().any(|line| line.message == "about to read");
        (key.failed, tasks.iter().filter(|log| said(log)).map(|log| (log.task, log.attempt)).collect())
    };
    let said: Vec<(bool, Vec<_>)> = logs.iter().map(said).collect();
    assert!(said[0].0 && said[0].1.contains(&(1, 1)) && !said[0].1.contains(&(0, 1)), "{logs:?}");
    assert_eq!(said[1..], [(false, vec![(0, 1)])], "{logs:?}");
    let merged = works.tasks(1, 0, vec![Work::Merge { states: Vec::new(), finish: true }]).await;
    let TaskOutcome::Failed(problem) = &merged[0].outcome else { panic!("{:?}", merged[0]) };
    assert_eq!(problem.code, ErrorKind::ResponseInvalid);
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_attempts_one_counts_and_the_other_leaves_nothing() {
    let works = Works::start(tables("", 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    let commits = works.run(&works.lease(0, 0, maps), 4).await;
    assert!(commits.iter().all(|commit| *commit == commits[0]), "all announce the winner");
    works.settled().await;
    let TaskOutcome::Table(Some(table)) = &commits[0].tasks[0].outcome else { panic!() };
    assert_eq!(works.keys("bank", "out/").await, [table.uri.key()]);
    let logs: Vec<_> = works.logs().await.into_iter().map(|(key, _)| (key.failed, key.attempt)).collect();
    assert_eq!(logs, [(false, commits[0].attempt)]);
    works.stop().await;
}

/// Fault F13: every lease delivered one to five times, in another order. Of each one commit stands, what the commits
/// name is what it is of a single delivery, and nothing else is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_come_often_and_in_any_order_have_the_effects_of_one() {
    const LEASES: u32 = 15;
    let works = Works::start(tables("", 0, '"')).await;
    let mut parts = Vec::new();
    for group in 0..LEASES {
        parts.push(works.partition(&format!("in/{group}.csv"), &format!("id\n{group}\n")).await);
    }
    let mut seen = Vec::new();
    for (place, most) in [("once", 1), ("often", 5)] {
        let (job, mut messages) = (Uuid::now_v7(), Vec::new());
        for (group, part) in (0..).zip(&parts) {
            let work = match group % 3 {
                0 => Work::Accumulate(part.clone()),
                _ => Work::Map(part.clone()),
            };
            let mut lease = works.lease(0, group, vec![work]);
            (lease.job, lease.common.output) = (job, format!("s3://bank/{place}/").parse().unwrap());
            let payload = serde_json::to_vec(&lease).unwrap();
            let copy = |copy: u32| Message::new(format!("{place} {group} {copy}"), payload.clone());
            messages.extend((0..=group % most).map(copy));
        }
        messages.sort_by_key(|message| Digest::of(message.id.as_bytes()).prefix());
        works.platform.backbone.enqueue(keys::TASK_QUEUE, messages).await.unwrap();
        works.settled().await;
        let (mut effects, mut named) = (Vec::new(), Vec::new());
        for group in 0..LEASES {
            let key = keys::commit(&job, 0, group, 0);
            let commit = works.platform.get(&format!("s3://fanfold/{key}")).await;
            let commit: Commit = serde_json::from_slice(&commit).unwrap();
            effects.push(match &commit.tasks[0].outcome {
                TaskOutcome::Table(Some(table)) => {
                    named.push(table.uri.key().to_owned());
                    works.platform.get(&table.uri.to_string()).await
                }
                TaskOutcome::State(StateRef::Inline(state)) => state.clone().into(),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(works.keys("fanfold", &keys::commits(&job)).await.len(), LEASES as usize);
        named.sort();
        assert_eq!(works.keys("bank", &format!("{place}/")).await, named);
        seen.push(effects);
    }
    assert!(seen[0] == seen[1], "other bytes");
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_given_back_when_the_store_fails() {
    let works = Works::start(tables("", 0, '"')).await;
    let warm = works.partition("in/1.csv", "id\n1\n").await;
    works.tasks(0, 0, vec![Work::Map(warm.clone())]).await;
    works.platform.gate.set(Passage::Closed);
    let lease = works.lease(0, 1, vec![Work::Map(warm)]);
    works.enqueue(&lease, 1).await;
    works.comes_to("a task that is given back", |depth| depth.delayed > 0).await;
    let key = keys::commit(&works.job, 0, 1, 0);
    assert_eq!(works.keys("fanfold", &key).await, [""; 0], "no verdict while the platform fails");
    works.platform.gate.set(Passage::Open);
    works.settled().await;
    let commit: Commit =
        serde_json::from_slice(&works.platform.get(&format!("s3://fanfold/{key}")).await).unwrap();
    assert!(matches!(commit.tasks[0].outcome, TaskOutcome::Table(Some(_))), "{commit:?}");
    works.stop().await;
}

/// How long tasks took, each from when it was asked for, of the time that their lease took.
async fn took(works: &Works, group: u32, maps: Vec<Work>) -> (Duration, Duration, Vec<TaskCommit>) {
    let begun = Instant::now();
    let tasks = works.run(&works.lease(0, group, maps), 1).await.remove(0).tasks;
    let elapsed = begun.elapsed();
    let took = tasks.iter().map(|task| task.usage.start_us + task.usage.wall_us).sum();
    (Duration::from_micros(took), elapsed, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_tasks_wait_for_a_far_store_together_and_are_committed_in_order() {
    let works = Works::start(tables("", 0, '"')).await;
    // It comes in several parts, so that those after it end before it.
    let large = format!("id\n{}", "1234567\n".repeat(25_000));
    let mut maps = Vec::new();
    for index in 0..8 {
        let body = if index == 1 { &large } else { "id\n1\n" };
        maps.push(Work::Map(works.partition(&format!("in/{index}.csv"), body).await));
    }
    works.platform.gate.set(Passage::Far(Duration::from_millis(200)));
    // One after the other they cannot take more than their lease. A machine that does much beside may have one of
    // them seem to work.
    for group in 0..5 {
        let (took, elapsed, tasks) = took(&works, group, maps.clone()).await;
        assert!(tasks.iter().all(|task| matches!(task.outcome, TaskOutcome::Table(Some(_)))), "{tasks:?}");
        let indices: Vec<u32> = tasks.iter().map(|task| task.index).collect();
        assert_eq!(indices, Vec::from_iter(group * 10..group * 10 + 8));
        if took > elapsed {
            works.platform.gate.set(Passage::Open);
            let logs = works.logs().await;
            for (_, logs) in &logs {
                assert!(logs.is_sorted_by_key(|log| log.task) && logs.len() == 8, "{logs:?}");
            }
            assert_eq!(logs.len(), group as usize + 1);
            return works.stop().await;
        }
    }
    panic!("no tasks were seen to wait together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_work_run_one_after_the_other() {
    let pause = "(local $n i32)
      (local.set $n (i32.const 100000000))
      (loop $more (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))";
    let works = Works::start(tables(pause, 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await); 4];
    works.platform.gate.set(Passage::Far(Duration::from_millis(200)));
    let (took, elapsed, tasks) = took(&works, 0, maps).await;
    assert!(tasks.iter().all(|task| task.usage.cpu_us > 10_000), "{tasks:?}");
    assert!(took <= elapsed, "{took:?} {elapsed:?}");
    works.platform.gate.set(Passage::Open);
    works.stop().await;
}

/// Others took of their time: that is no verdict on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_whose_time_is_over_beside_others_are_tried_again() {
    let works = Works::start(tables("", 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await); 6];
    works.platform.gate.set(Passage::Far(Duration::from_millis(200)));
    for group in 0.. {
        let (took, elapsed, _) = took(&works, group, maps.clone()).await;
        if took > elapsed {
            break;
        }
        assert!(group < 5, "no tasks were seen to wait together");
    }
    works.settled().await;
    works.platform.gate.set(Passage::Stalled);
    let mut lease = works.lease(0, 9, maps);
    lease.common.timeout_ms = 1_000;
    works.enqueue(&lease, 1).await;
    works.comes_to("a lease that is given back", |depth| depth.delayed > 0).await;
    works.platform.gate.set(Passage::Open);
    works.settled().await;
    let key = keys::commit(&works.job, 0, 9, 0);
    let commit: Commit =
        serde_json::from_slice(&works.platform.get(&format!("s3://fanfold/{key}")).await).unwrap();
    let is_table = |task: &TaskCommit| matches!(task.outcome, TaskOutcome::Table(Some(_)));
    assert!(commit.tasks.len() == 6 && commit.tasks.iter().all(is_table), "{commit:?}");
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_stops_within_a_second() {
    let works = Works::start(tables("(loop $forever (br $forever))", 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    works.enqueue(&works.lease(0, 0, maps.clone()), 2).await;
    works.comes_to("a worker that has room for two", |depth| depth.leased >= 2).await;
    works.platform.backbone.put(&keys::job_cancel(&works.job), "x").await.unwrap();
    works.platform.backbone.publish(&keys::cancel_subject(&works.job), "x").await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), works.settled()).await.expect("stopped within a second");
    // What comes later is not begun.
    works.enqueue(&works.lease(0, 1, maps), 1).await;
    works.settled().await;
    assert_eq!(works.keys("fanfold", &keys::commits(&works.job)).await, [""; 0]);
    assert_eq!(works.keys("bank", "out/").await, [""; 0]);
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_overtaken_tells_of_itself_and_stops() {
    let works = Works::start(tables("(loop $forever (br $forever))", 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    let lease = works.lease(0, 0, maps);
    let mut running = works.platform.backbone.subscribe(&keys::running_subject(&works.job)).await.unwrap();
    works.enqueue(&lease, 1).await;
    let told = tokio::time::timeout(Duration::from_secs(30), running.next()).await.expect("told in time");
    let Some(Event::Published { payload, .. }) = told else { panic!("{told:?}") };
    let told: RunningNotice = serde_json::from_slice(&payload).unwrap();
    assert_eq!((told.job, told.stage, told.group, told.round), (works.job, 0, 0, 0));
    assert!(told.running_ms >= 500, "{told:?}");
    // Another attempt commits; this one would run into its deadline and say so.
    let key = keys::commit(&works.job, 0, 0, 0);
    works.platform.put("fanfold", &key, "the winner".to_owned()).await;
    tokio::time::timeout(Duration::from_secs(15), works.settled())
        .await
        .expect("stopped before its deadline");
    assert_eq!(works.platform.get(&format!("s3://fanfold/{key}")).await, "the winner");
    assert_eq!(works.keys("bank", "out/").await, [""; 0]);
    // What it took is told, though no commit says it.
    let told = async {
        loop {
            let Some(Event::Published { payload, .. }) = running.next().await else { panic!("no notice") };
            let told: RunningNotice = serde_json::from_slice(&payload).unwrap();
            if let Some(overtaken) = told.overtaken {
                return overtaken;
            }
        }
    };
    let overtaken = tokio::time::timeout(Duration::from_secs(15), told).await.expect("told of in the end");
    assert_eq!(overtaken.tasks, 1);
    assert!(overtaken.usage.cpu_us > 100_000, "{overtaken:?}");
    works.stop().await;
}

/// It is cut off from the backbone, or was halted: only the store says that the job has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_did_not_hear_of_its_jobs_end_leaves_nothing() {
    let works = Works::start(tables("", 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    works.tasks(0, 0, maps.clone()).await;
    let before = works.keys("bank", "out/").await;
    let mut running = works.platform.backbone.subscribe(&keys::running_subject(&works.job)).await.unwrap();
    works.platform.gate.set(Passage::Stalled);
    works.enqueue(&works.lease(0, 1, maps), 1).await;
    let told = async {
        while let Some(Event::Published { payload, .. }) = running.next().await {
            let told: RunningNotice = serde_json::from_slice(&payload).unwrap();
            if told.group == 1 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("a lease that runs");
    let ending = r#"{"state": "cancelled", "ended_at": 1}"#;
    works.platform.put("fanfold", &keys::ending(&works.job), ending).await;
    works.platform.gate.set(Passage::Open);
    works.settled().await;
    assert_eq!(works.keys("fanfold", &keys::commit(&works.job, 0, 1, 0)).await, [""; 0]);
    assert_eq!(works.keys("bank", "out/").await, before);
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_only_seemed_lost_is_told_of_and_not_run() {
    let works = Works::start(tables("(loop $forever (br $forever))", 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    works.platform.put("fanfold", &keys::commit(&works.job, 0, 0, 0), "the winner".to_owned()).await;
    let backbone = &works.platform.backbone;
    let mut commits = backbone.subscribe(&keys::commit_subject(&works.job)).await.unwrap();
    let id = format!("{}/0/0/0{}1", works.job, keys::LEASE_AGAIN);
    let message = Message::new(id, serde_json::to_vec(&works.lease(0, 0, maps)).unwrap());
    backbone.enqueue(keys::TASK_QUEUE, vec![message]).await.unwrap();
    // Whoever runs it is stopped after seconds, and tells of no commit.
    let told = tokio::time::timeout(Duration::from_secs(30), commits.next()).await;
    assert!(matches!(told, Ok(Some(Event::Published { .. }))), "{told:?}");
    works.settled().await;
    works.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stops_finishes_what_it_has() {
    let works = Works::start(tables("", 0, '"')).await;
    let mut maps = Vec::new();
    for n in 0..20 {
        maps.push(Work::Map(works.partition(&format!("in/{n}.csv"), "id\n1\n").await));
    }
    works.enqueue(&works.lease(0, 0, maps), 1).await;
    let begun = async { while works.keys("bank", "out/").await.is_empty() {} };
    tokio::time::timeout(Duration::from_secs(20), begun).await.expect("a first table");
    let (platform, job) = (works.platform.clone(), works.job);
    works.stop().await;
    let commit = platform.get(&format!("s3://fanfold/{}", keys::commit(&job, 0, 0, 0))).await;
    let commit: Commit = serde_json::from_slice(&commit).unwrap();
    assert_eq!(commit.tasks.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_has_drained_long_enough_gives_back_what_runs() {
    let platform = Platform::start().await;
    let endless = tables("(loop $forever (br $forever))", 0, '"');
    let _: Arc<Version> = platform.deploy(endless, Settings::default()).await.unwrap();
    let works = Works::draining(platform, Duration::from_millis(300));
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    works.enqueue(&works.lease(0, 0, maps), 1).await;
    works.comes_to("a worker that takes it", |depth| depth.leased >= 1).await;
    let platform = works.platform.clone();
    tokio::time::timeout(Duration::from_secs(10), works.stop()).await.expect("an end of its patience");
    let depth = platform.backbone.depth(keys::TASK_QUEUE).await.unwrap();
    assert_eq!((depth.ready, depth.leased), (1, 0), "{depth:?}");
}

/// How a worker comes to give a lease back that runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GivesBack {
    Stopping,
    /// Its store is silent for too long.
    Cut,
    /// Its store is silent when the function ends, so that it cannot commit.
    CutAtTheEnd,
}

/// However many workers stop in a row, or lose their store, the next one has all tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_workers_handed_over_has_failed_nowhere() {
    check_handed_over(16, 20_000, GivesBack::Stopping).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_workers_without_a_store_gave_back_has_failed_nowhere() {
    check_handed_over(16, 120_000, GivesBack::Cut).await;
}

/// The pause grows with the deliveries, so that there are few of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_workers_without_a_store_could_not_commit_has_failed_nowhere() {
    check_handed_over(5, 5_000, GivesBack::CutAtTheEnd).await;
}

/// `had`: how many deliveries others have had, of which those behind the fourth were no tries.
async fn check_handed_over(had: u32, timeout_ms: u64, gives_back: GivesBack) {
    let platform = Platform::start().await;
    let endless = tables("(loop $forever (br $forever))", 0, '"');
    let _: Arc<Version> = platform.deploy(endless, Settings::default()).await.unwrap();
    let works = Works::draining(platform, Duration::from_millis(300));
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    let platform = Arc::clone(&works.platform);
    let backbone = &platform.backbone;
    let mut running = backbone.subscribe(&keys::running_subject(&works.job)).await.unwrap();
    platform.gate.set(Passage::Closed);
    until("a look at the store", async || platform.runtime.store_answers(), |answers| !answers).await;
    let mut lease = works.lease(0, 0, maps);
    lease.common.timeout_ms = timeout_ms;
    works.enqueue(&lease, 1).await;
    let mut key = String::new();
    for attempt in 1..=had {
        let (wait, hold) = (Duration::from_secs(5), Duration::from_secs(30));
        let pulled = backbone.pull(keys::TASK_QUEUE, 1, wait, hold).await.unwrap();
        let [delivery] = &pulled[..] else { panic!("the worker took it") };
        assert_eq!(delivery.attempt, attempt);
        key = keys::hand_over(&Digest::of(delivery.id.as_bytes()));
        backbone.put(&key, (had - 4).to_string()).await.unwrap();
        delivery.nak(Duration::ZERO).await.unwrap();
    }
    platform.gate.set(Passage::Open);
    let told = tokio::time::timeout(Duration::from_secs(30), running.next()).await;
    told.expect("a lease that runs").expect("a notice");
    let given_back = async {
        let (wait, hold) = (Duration::from_secs(60), Duration::from_secs(30));
        let pulled = backbone.pull(keys::TASK_QUEUE, 1, wait, hold).await.unwrap();
        let [delivery] = &pulled[..] else { panic!("the worker keeps it") };
        assert_eq!(delivery.attempt, had + 2);
        assert_eq!(backbone.get(&key).await.unwrap().unwrap().value, (had - 3).to_string());
    };
    if gives_back == GivesBack::Stopping {
        tokio::time::timeout(Duration::from_secs(10), works.stop()).await.expect("an end of its patience");
        given_back.await;
    } else {
        platform.gate.set(Passage::Closed);
        given_back.await;
        platform.gate.set(Passage::Open);
        works.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_run_fails_or_is_a_dead_letter() {
    let works = Works::start(tables("", 0, '"')).await;
    let maps = vec![Work::Map(works.partition("in/1.csv", "id\n1\n").await)];
    let lease = Lease { version: 9, ..works.lease(0, 0, maps) };
    let commit = works.run(&lease, 1).await.remove(0);
    let TaskOutcome::Failed(problem) = &commit.tasks[0].outcome else { panic!("{commit:?}") };
    assert_eq!(problem.code, ErrorKind::VersionNotFound);
    let garbage = Message::new("garbage", "{");
    works.platform.backbone.enqueue(keys::TASK_QUEUE, vec![garbage]).await.unwrap();
    // At first a newer worker might have read it.
    works.comes_to("a task that is given back", |depth| depth.delayed > 0).await;
    assert!(works.platform.backbone.dead_letters(keys::TASK_QUEUE, 0, 10).await.unwrap().is_empty());
    works.settled().await;
    let dead = works.platform.backbone.dead_letters(keys::TASK_QUEUE, 0, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].reason.contains("expected a lease as JSON"), "{}", dead[0].reason);
    works.stop().await;
}

/// T1, at the worker: what a lease may reach follows from whose queue it lay in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_reaches_the_buckets_of_its_tenant_alone() {
    let works = Works::start(tables("", 0, '"')).await;
    let (platform, shop) = (&works.platform, works.platform.backbone.scoped("of/shop/"));
    let tenant = Tenant {
        name: "shop".parse().unwrap(),
        weight: 1,
        system_bucket: "fanfold-shop".to_owned(),
        scope: "of/shop/".to_owned(),
        buckets: Some(vec!["shop".parse().unwrap()]),
    };
    for bucket in ["shop", "fanfold-shop"] {
        platform.store.ensure_bucket(bucket).await.unwrap();
    }
    for key in works.keys("fanfold", "").await {
        let body = platform.get(&format!("s3://fanfold/{key}")).await;
        platform.put("fanfold-shop", &key, body).await;
    }
    // The worker hears of the tenant while it works for the other.
    let record = serde_json::to_vec(&tenant).unwrap();
    platform.backbone.put(&keys::tenant(&tenant), record).await.unwrap();
    let pin = platform.put("shop", "in.csv", "x\n1\n").await;
    let object = PinnedObject { uri: "s3://shop/in.csv".parse().unwrap(), pin };
    let own = Partition { slices: vec![Slice { object, bytes: None, row_groups: None }] };
    let others = works.partition("in.csv", "x\n1\n").await;
    let mut commits = shop.subscribe(&keys::commit_subject(&works.job)).await.unwrap();
    let mut group = 0;
    let mut run = async |partition: &Partition, output: &str| {
        let mut lease = works.lease(0, group, vec![Work::Map(partition.clone())]);
        group += 1;
        lease.common.output = output.parse().unwrap();
        let message = Message::new(Uuid::new_v4().to_string(), serde_json::to_vec(&lease).unwrap());
        shop.enqueue(keys::TASK_QUEUE, vec![message]).await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(60), commits.next()).await.expect("in time");
        let Some(Event::Published { payload, .. }) = event else { panic!("{event:?}") };
        let notice: CommitNotice = serde_json::from_slice(&payload).unwrap();
        notice.commit.expect("a small commit").tasks.remove(0).outcome
    };
    assert!(matches!(run(&own, "s3://shop/out/").await, TaskOutcome::Table(_)));
    for (partition, output) in
        [(&others, "s3://shop/out/"), (&own, "s3://bank/out/"), (&own, "s3://fanfold/out/")]
    {
        let outcome = run(partition, output).await;
        let TaskOutcome::Failed(problem) = &outcome else { panic!("{output}: {outcome:?}") };
        assert_eq!(problem.code, ErrorKind::AccessDenied, "{problem}");
    }
    assert!(works.keys("bank", "out/").await.is_empty() && works.keys("fanfold", "out/").await.is_empty());
    works.shutdown.cancel();
}
