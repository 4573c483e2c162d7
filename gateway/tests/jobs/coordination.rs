// SPDX-License-Identifier: Apache-2.0
//! What a coordinator queues, and when; and what it finds that nobody told it.

use fanfold_protocol::{ErrorKind, Problem};
use serde_json::json;

use crate::world::{Play, World};

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
