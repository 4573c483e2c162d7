// SPDX-License-Identifier: Apache-2.0
//! What tasks logged: found by task, page by page, and only of attempts that count.

use std::collections::HashMap;

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{Commit, TaskLog},
    function::Export,
    invocation::{Level, LogLine},
    keys::{self, LogKey},
    time::Timestamp,
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    harness::Service,
    world::{BUCKET, Play, World, document, version},
};

/// A job that has ended, and which attempts were committed.
struct Done {
    world: World,
    service: Service,
    id: Uuid,
    /// By group and round of the first stage.
    attempts: HashMap<(u32, u32), Uuid>,
}

impl Done {
    /// Runs a map over so many inputs, 64 in a lease.
    async fn run(inputs: usize, play: Play) -> Self {
        let world = World::new().await;
        world.inputs(inputs).await;
        let service = world.base.serve(|_| {}).await;
        service.app.registry.publish(version("mapper", vec![Export::Mapper])).await.unwrap();
        let more = json!({"output": "s3://bank/out/", "limits": {"tolerated_failures": 1}});
        let id = service.app.jobs.submit(document("mapper", more), None).await.unwrap().id;
        let lines = service.get(&format!("/v1/jobs/{id}/logs")).await.json();
        assert_eq!(lines, json!({"lines": []}), "a job that has just begun");
        let _worker = world.work(play);
        // The stream ends by itself with the job.
        let events = service.get(&format!("/v1/jobs/{id}/events")).await;
        assert!(String::from_utf8_lossy(&events.body).contains("\"state\":\"succeeded\""));
        let mut attempts = HashMap::new();
        for key in world.keys(BUCKET, &keys::commits(&id)).await {
            let uri = ObjectUri::new(BUCKET, key).unwrap();
            let commit = world.store().get(&uri, None).await.unwrap();
            let commit: Commit = serde_json::from_slice(&commit).unwrap();
            attempts.insert((commit.group, commit.round), commit.attempt);
        }
        Self { world, service, id, attempts }
    }

    /// Puts what tasks logged where a worker does: number, attempt and lines.
    async fn log(&self, key: LogKey, tasks: &[(u32, u32, Vec<String>)]) {
        let mut text = String::new();
        for (task, attempt, messages) in tasks {
            let line =
                |message: &String| LogLine { at: Timestamp(7), level: Level::Info, message: message.clone() };
            let lines = messages.iter().map(line).collect();
            let log = TaskLog { task: *task, attempt: *attempt, lines };
            text.push_str(&serde_json::to_string(&log).unwrap());
            text.push('\n');
        }
        let uri = ObjectUri::new(BUCKET, key.key(&self.id)).unwrap();
        self.world.store().put(&uri, Bytes::from(text), PutOptions::default()).await.unwrap();
    }

    /// The key of the attempt that was committed.
    fn of(&self, failed: bool, group: u32, round: u32) -> LogKey {
        LogKey { failed, stage: 0, group, round, attempt: self.attempts[&(group, round)] }
    }

    async fn logs(&self, query: &str) -> Value {
        self.service.get(&format!("/v1/jobs/{}/logs{query}", self.id)).await.json()
    }
}

fn messages(page: &Value) -> Vec<&str> {
    page["lines"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_those_of_attempts_that_count_failed_ones_first() {
    let fails = |group: u32, task: u32, round: u32| match (group, task, round) {
        (_, 3, _) => Some(Problem::new(ErrorKind::CsvFieldCount, "expected 1 field, found 2")),
        (_, 70, 0) => Some(Problem::new(ErrorKind::GuestTrapped, "expected no trap, found one")),
        _ => None,
    };
    let play = Play {
        fails: Box::new(move |lease, task| fails(lease.group, task.index, lease.round)),
        ..Play::default()
    };
    let done = Done::run(300, play).await;
    let said = |text: &str| vec![text.to_owned()];
    // An attempt that was killed, or that another one came before.
    let lost = LogKey { attempt: Uuid::from_u128(7), ..done.of(false, 0, 0) };
    done.log(lost, &[(0, 1, said("never committed"))]).await;
    done.log(done.of(true, 1, 0), &[(3, 1, said("three"))]).await;
    done.log(done.of(true, 35, 0), &[(70, 1, said("seventy trapped"))]).await;
    done.log(done.of(false, 0, 0), &[(0, 1, said("nought")), (1, 1, said("one"))]).await;
    done.log(done.of(false, 35, 1), &[(70, 2, said("seventy"))]).await;

    let all = done.logs("").await;
    assert_eq!(messages(&all), ["three", "seventy trapped", "nought", "one", "seventy"]);
    let seventy = json!({
        "stage": 0, "task": 70, "attempt": 2, "failed": false, "at": 7, "time": "1970-01-01T00:00:00.007Z",
        "level": "info", "message": "seventy"
    });
    assert_eq!((&all["lines"][4], &all["next"]), (&seventy, &Value::Null));
    assert_eq!(messages(&done.logs("?task=70").await), ["seventy trapped", "seventy"]);
    assert_eq!(messages(&done.logs("?task=1&stage=0").await), ["one"]);
    assert_eq!(messages(&done.logs("?failed=true").await), ["three", "seventy trapped"]);
    assert_eq!(messages(&done.logs("?task=70&failed=true").await), ["seventy trapped"]);
    assert_eq!(messages(&done.logs("?task=2").await), [""; 0]);
    let newest = all["newest"].as_u64().unwrap();
    assert_eq!(messages(&done.logs(&format!("?since={}", newest + 1)).await), [""; 0]);
    assert!(!messages(&done.logs(&format!("?since={newest}")).await).is_empty());
    for wrong in ["?task=300", "?task=0&stage=1", "?page=x", "?taks=1"] {
        let path = format!("/v1/jobs/{}/logs{wrong}", done.id);
        done.service.get(&path).await.is_problem(ErrorKind::InvalidRequest);
    }
    done.service.get(&format!("/v1/jobs/{}/logs", Uuid::nil())).await.is_problem(ErrorKind::JobNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lines_come_in_pages() {
    let done = Done::run(320, Play::default()).await;
    // Five leases of 300 KiB, of which a page of 1 MiB takes the first four.
    for group in 0..5 {
        let lines = (0..50).map(|n| format!("{group} {n:02} {}", "x".repeat(6 << 10))).collect();
        done.log(done.of(false, group, 0), &[(2 * group, 1, lines)]).await;
    }
    let first = done.logs("").await;
    let second = done.logs(&format!("?page={}", first["next"].as_str().unwrap())).await;
    assert_eq!((messages(&first).len(), messages(&second).len()), (200, 50));
    assert_eq!(second["next"], Value::Null);
    let all: Vec<_> = messages(&first).into_iter().chain(messages(&second)).collect();
    assert!(all.is_sorted(), "in the order of the plan");
}
