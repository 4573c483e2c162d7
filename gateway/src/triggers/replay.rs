// SPDX-License-Identifier: Apache-2.0
//! Replays: looks that somebody asked for.
//!
//! A replay goes on when its caller does not wait any more, for as long as its trigger has no
//! room. Invariant: one at a time of each trigger in a process, so that asking
//! again adds nothing to what is under way.

use std::sync::Arc;

use fanfold_protocol::{ErrorKind, Problem};

use super::{
    reconcile::{self, Found, Scope},
    record::Trigger,
};
use crate::{problem::internal, state::AppState};

/// Queues what is in scope beside whoever asked: dropping the wait stops nothing.
///
/// # Errors
/// `concurrency-limit` while another replay of the trigger goes on, `trigger-not-found`
/// when it is removed meanwhile, `queue-full` when the gateway stops while there is no room;
/// and as [`reconcile::look`].
pub async fn replay(app: &AppState, trigger: Arc<Trigger>, scope: Scope) -> Result<Found, Problem> {
    let Some(lock) = app.replays.try_lock(trigger.record.id) else {
        return Err(Problem::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "at most one replay of {} goes on at a time, found another; ask again once its events are queued, \
                 which takes as long as the trigger has no room",
                trigger.record.name
            ),
        ));
    };
    let app = Arc::clone(app);
    let looking = tokio::spawn(async move {
        let _lock = lock;
        reconcile::look(&app, &trigger, &scope).await
    });
    looking.await.map_err(internal)?
}
