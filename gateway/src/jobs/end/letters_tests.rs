// SPDX-License-Identifier: Apache-2.0
//! Letters of more failures than one read and one put take, beside the embedded store.

use std::collections::BTreeMap;

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, TaskCommit, TaskOutcome},
    digest::Digest,
    invocation::Usage,
    plan::{Partition, Shape, Slice, Weight},
    uri::{Pin, PinnedObject},
};
use fanfold_storage::{
    Credentials, Store, StoreConfig,
    server::{Server, ServerConfig},
};
use uuid::Uuid;

use super::*;

/// Tasks of a lease.
const GROUP: u32 = 64;
/// Tasks whose letters are more than one put.
const MANY: u32 = 2_500;

/// The plan of a job of [`MANY`] tasks, and what lies in the store of it.
struct World {
    vault: Vault,
    plan: Plan,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let credentials = || Credentials::new("letters", "letters-secret");
        let config = ServerConfig { root: folder.path().to_owned(), credentials: credentials() };
        let server = Server::open(config).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { server.serve(listener, Default::default()).await });
        let store = Store::connect(StoreConfig::at(endpoint, credentials())).unwrap();
        store.ensure_bucket("fanfold").await.unwrap();
        let weights = vec![Weight::default(); MANY as usize];
        let mut plan = Plan::lay_out(Uuid::now_v7(), Digest::of(b""), Shape::Map, &weights);
        plan.shards = vec![MANY];
        let vault = Vault::new(store, "fanfold".to_owned());
        let lines: Vec<_> = (0..MANY).map(|task| serde_json::to_string(&partition(task)).unwrap()).collect();
        let shard = keys::plan_shard(&plan.job, 0);
        assert!(vault.write_bytes_once(&shard, lines.join("\n").into(), CONTENT_TYPE).await.unwrap());
        Self { vault, plan, _folder: folder }
    }

    /// Commits by which all tasks fail, every second of them in the second round.
    async fn fail(&self) -> Vec<Failure> {
        let dead: Vec<_> = (0..MANY).map(failure).collect();
        let mut commits = BTreeMap::new();
        for failure in &dead {
            let commit = commits.entry((failure.group, failure.round)).or_insert_with(|| Commit {
                job: self.plan.job,
                stage: 0,
                group: failure.group,
                round: failure.round,
                attempt: Uuid::nil(),
                worker: "test".into(),
                tasks: Vec::new(),
            });
            commit.tasks.push(TaskCommit {
                index: failure.task,
                attempt: failure.attempts,
                outcome: TaskOutcome::Failed(problem(failure.task)),
                usage: Usage::default(),
                looked_outside: false,
            });
        }
        for ((group, round), commit) in &commits {
            let key = keys::commit(&self.plan.job, 0, *group, *round);
            assert!(self.vault.write_once(&key, commit).await.unwrap());
        }
        dead
    }

    async fn bury(&self, dead: &[Failure]) -> Failed {
        bury(&self.vault, &self.plan, dead).await.unwrap()
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        let lines = self.vault.bytes(&keys::dead_letters(&self.plan.job)).await.unwrap().unwrap();
        let lines = std::str::from_utf8(&lines).unwrap().lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn partition(task: u32) -> Partition {
    let pin = Pin { etag: "e".to_owned(), size: 1, version_id: None };
    let object = PinnedObject { uri: format!("s3://bank/in/{task}").parse().unwrap(), pin };
    Partition { slices: vec![Slice::whole(object)] }
}

fn failure(task: u32) -> Failure {
    let round = task % 2;
    let code = ErrorKind::CsvMalformed;
    Failure { stage: 0, task, attempts: round + 1, code, group: task / GROUP, round }
}

/// As many words as a guest has.
fn problem(task: u32) -> Problem {
    Problem::new(ErrorKind::CsvMalformed, format!("{task} {}", "x".repeat(4 << 10)))
}

fn letter(task: u32) -> DeadLetter {
    let input = vec![format!("s3://bank/in/{task}").parse().unwrap()];
    DeadLetter { stage: 0, task, input, attempts: task % 2 + 1, problem: problem(task) }
}

#[tokio::test]
async fn letters_of_many_failures_are_complete_and_in_order() {
    let world = World::new().await;
    let dead = world.fail().await;
    let failed = world.bury(&dead).await;
    let expected: Vec<_> = (0..MANY).map(letter).collect();
    // Both are megabytes, and not for people to read.
    assert!(world.letters().await == expected);
    assert!(failed.first[..] == expected[..MANIFEST_FAILED_MAX] && failed.is_cut);
    // What another coordinator knows, which has heard of fewer, does not take its place.
    for few in [&dead[..dead.len() - 1], &dead[..3]] {
        world.bury(few).await;
        assert!(world.letters().await == expected, "{}", few.len());
    }
    // Whoever ends the job again says the same, and reads of the commits no more than for that.
    let behind = keys::commit(&world.plan.job, 0, MANY / GROUP, 0);
    let uri = world.vault.uri(&behind).unwrap();
    world.vault.store().put(&uri, "no commit".into(), PutOptions::default()).await.unwrap();
    assert!(world.bury(&dead).await == failed);
    assert!(world.vault.store().uploads("fanfold", "").await.unwrap().is_empty());
}

#[tokio::test]
async fn parts_that_come_too_late_replace_nothing() {
    let world = World::new().await;
    let key = keys::dead_letters(&world.plan.job);
    let uri = world.vault.uri(&key).unwrap();
    for letter in [b'1', b'2'] {
        let mut parts = world.vault.store().writer(&uri, PutOptions::typed(CONTENT_TYPE));
        parts.write(vec![letter; PUT_BYTES_MAX + 1].into()).await.unwrap();
        finish(&world.vault, &key, parts).await.unwrap();
    }
    let first = world.vault.bytes(&key).await.unwrap().unwrap();
    assert!(first.len() == PUT_BYTES_MAX + 1 && first.iter().all(|byte| *byte == b'1'));
    assert!(world.vault.store().uploads("fanfold", "").await.unwrap().is_empty());
}

#[tokio::test]
async fn where_nothing_failed_there_are_no_letters() {
    let world = World::new().await;
    assert_eq!(world.bury(&[]).await, Failed::default());
    assert!(world.vault.bytes(&keys::dead_letters(&world.plan.job)).await.unwrap().is_none());
}

#[tokio::test]
async fn whose_commit_is_gone_has_a_letter_all_the_same() {
    let world = World::new().await;
    let dead = world.fail().await;
    world.vault.clear(&keys::commit(&world.plan.job, 0, 0, 1)).await.unwrap();
    // What lies there now is about something else.
    let other = Failure { code: ErrorKind::GuestTrapped, ..dead[2] };
    world.bury(&[dead[0], dead[1], other]).await;
    let letters = world.letters().await;
    let [whole, gone, other] = &letters[..] else { panic!("three letters") };
    assert_eq!(*whole, letter(0));
    for (found, code) in [(gone, ErrorKind::CsvMalformed), (other, ErrorKind::GuestTrapped)] {
        assert_eq!(found.problem.code, code);
        assert!(found.problem.detail.contains("jobs/"), "{}", found.problem);
    }
}
