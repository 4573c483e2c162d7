// SPDX-License-Identifier: Apache-2.0
//! Fault F17: the process is killed with SIGKILL in the middle of its commits, many times over one store.
//!
//! The child is this same binary; it writes down on its output what was acknowledged to it. Afterwards the store
//! opens within 2 s and holds exactly that: nothing acknowledged is lost, nothing settled comes back. The seed is
//! printed; set `FANFOLD_SEED` to replay the kill times.

#![allow(clippy::unwrap_used, reason = "tests, helpers included")]

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fanfold_backbone::{Backbone, EmbeddedConfig, Message};

const ROUNDS: u64 = 10;
const FOLDER: &str = "FANFOLD_CRASH_FOLDER";
const ROUND: &str = "FANFOLD_CRASH_ROUND";

async fn open(folder: &Path) -> Backbone {
    Backbone::embedded(EmbeddedConfig::new(folder.join("b.redb"))).await.unwrap()
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What the child does: enqueue, pull, ack and put from many tasks, until it is killed. Alone, without the
/// parent's environment, it is an empty test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let round = std::env::var(ROUND).unwrap();
    let b = open(Path::new(&folder)).await;
    say("open");
    let mut tasks = Vec::new();
    for task in 0..8u32 {
        let (b, round) = (b.clone(), round.clone());
        tasks.push(tokio::spawn(async move {
            for n in 1u64.. {
                let id = format!("{round}.{task}.{n}");
                b.enqueue("q", vec![Message::new(&id, vec![7; 300])]).await.unwrap();
                say(&format!("queued {id}"));
                let key = format!("k/{task}");
                let revision = b.put(&key, id.clone()).await.unwrap();
                say(&format!("put {key} {revision}"));
            }
        }));
    }
    for _ in 0..4 {
        let b = b.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                let wait = Duration::from_secs(1);
                for delivery in b.pull("q", 3, wait, Duration::from_secs(60)).await.unwrap() {
                    say(&format!("acking {}", delivery.id));
                    delivery.ack().await.unwrap();
                    say(&format!("acked {}", delivery.id));
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// What was acknowledged, over all rounds.
#[derive(Default)]
struct Ledger {
    queued: HashSet<String>,
    /// The ack was sent, its answer not seen: either is right.
    acking: HashSet<String>,
    acked: HashSet<String>,
    put: HashMap<String, u64>,
}

impl Ledger {
    fn note(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (what, name) = (words.next().unwrap(), words.next().unwrap_or_default().to_owned());
        match what {
            "queued" => drop(self.queued.insert(name)),
            "acking" => drop(self.acking.insert(name)),
            "acked" => drop(self.acked.insert(name)),
            "put" => {
                let revision = words.next().unwrap().parse().unwrap();
                let held = self.put.entry(name).or_default();
                *held = (*held).max(revision);
            }
            _ => {}
        }
    }
}

/// Runs a child, kills it `after` its store is open, and notes what it said.
fn run_and_kill(folder: &Path, round: u64, after: Duration, ledger: &mut Ledger) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (ready, opened) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        let (mut heard, mut line) = (Vec::new(), String::new());
        while lines.read_line(&mut line).unwrap() > 0 {
            // The last line may have been cut by the kill.
            if let Some(said) = line.find('@').and_then(|at| line[at + 1..].strip_suffix('\n')) {
                if said == "open" {
                    ready.send(()).unwrap();
                }
                heard.push(said.to_owned());
            }
            line.clear();
        }
        heard
    });
    opened.recv_timeout(Duration::from_secs(60)).expect("the child opens its store");
    thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap().iter().for_each(|line| ledger.note(line));
}

#[test]
fn keeps_what_it_acknowledged_through_kills() {
    let mut seed: u64 = match std::env::var("FANFOLD_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fanfold_protocol::time::now().0,
    };
    println!("FANFOLD_SEED={seed}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..ROUNDS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_micros(500 + (seed >> 33) % 400_000);
        run_and_kill(folder.path(), round, after, &mut ledger);
        let begun = Instant::now();
        let b = runtime.block_on(open(folder.path()));
        let took = begun.elapsed();
        println!(
            "round {round}: killed after {after:?}, {} queued, {} acked, opened in {took:?}",
            ledger.queued.len(),
            ledger.acked.len()
        );
        assert!(took < Duration::from_secs(2), "opened in {took:?}");
        runtime.block_on(check(&b, &ledger, round + 1 == ROUNDS));
        runtime.block_on(b.close());
    }
    assert!(ledger.acked.len() > 50, "the children did some work: {} acked", ledger.acked.len());
}

/// Compares the store with the ledger; at the end by draining the queue.
async fn check(b: &Backbone, ledger: &Ledger, last: bool) {
    for (key, revision) in &ledger.put {
        let held = b.get(key).await.unwrap().map_or(0, |entry| entry.revision);
        assert!(held >= *revision, "{key} was acknowledged at {revision} and is at {held}");
    }
    let depth = b.depth("q").await.unwrap();
    let least = ledger.queued.iter().filter(|id| !ledger.acking.contains(*id)).count();
    assert!(depth.ready as usize >= least, "{least} must be left, {} are", depth.ready);
    if !last {
        return;
    }
    let mut left = HashSet::new();
    loop {
        let wait = Duration::from_millis(50);
        let pulled = b.pull("q", 500, wait, Duration::from_secs(60)).await.unwrap();
        if pulled.is_empty() {
            break;
        }
        for delivery in pulled {
            assert_eq!(&delivery.payload[..], [7; 300]);
            assert!(left.insert(delivery.id.clone()), "{} is there twice", delivery.id);
        }
    }
    for id in &ledger.acked {
        assert!(!left.contains(id), "{id} was acked and came back");
    }
    for id in ledger.queued.iter().filter(|id| !ledger.acking.contains(*id)) {
        assert!(left.contains(id), "{id} was acknowledged and is lost");
    }
}
