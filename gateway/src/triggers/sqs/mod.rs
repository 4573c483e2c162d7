// SPDX-License-Identifier: Apache-2.0
//! Events that lie in a queue of SQS, fetched by whoever has a trigger for it.
//!
//! One task for each trigger with a queue. Several gateways may poll the same
//! one: SQS gives a message to one of them at a time, and a copy starts nothing
//! twice. Invariant: a message is deleted only after all that it told of is on
//! disk, or after the message itself is, among the trigger's dead letters.

mod client;
mod message;
mod poll;
mod status;

use std::{collections::HashMap, sync::Arc, time::Duration};

use fanfold_protocol::trigger::SqsSource;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub use self::message::unread_reason;
pub use self::status::{SqsView, Statuses};
use crate::state::AppState;

/// Between two looks for pollers that ended, which none should.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A poller, stopped when this is dropped.
struct Polling {
    source: SqsSource,
    running: JoinHandle<()>,
    _stop: DropGuard,
}

/// Polls for every trigger that names a queue, as triggers come, change and go.
pub async fn run(app: AppState) {
    let mut changes = app.triggers.changes();
    let mut pollers: HashMap<Uuid, Polling> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let mut wanted: HashMap<Uuid, SqsSource> = HashMap::new();
        for trigger in app.triggers.list() {
            wanted.extend(trigger.record.document.sqs.clone().map(|source| (trigger.record.id, source)));
        }
        pollers
            .retain(|id, polling| !polling.running.is_finished() && wanted.get(id) == Some(&polling.source));
        app.triggers.polls().retain(|id| wanted.contains_key(id));
        for (id, source) in wanted {
            pollers.entry(id).or_insert_with(|| begin(&app, id, source));
        }
        let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
    }
}

fn begin(app: &AppState, id: Uuid, source: SqsSource) -> Polling {
    let (app, stop, queue) = (Arc::clone(app), CancellationToken::new(), source.clone());
    let token = stop.clone();
    let running = tokio::spawn(async move {
        token.run_until_cancelled(poll::run(&app, id, &queue)).await;
    });
    Polling { source, running, _stop: stop.drop_guard() }
}
