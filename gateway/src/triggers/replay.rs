// SPDX-License-Identifier: Apache-2.0
//! Replays: looks that somebody asked for.
//!
//! A replay goes on when its caller does not wait any more, for as long as its trigger has no
//! room. Invariant: one at a time of each trigger in a process, so that asking
//! again adds nothing to what is under way.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fanfold_protocol::{ErrorKind, Problem};
use uuid::Uuid;

use super::{
    reconcile::{self, Found, Scope},
    record::Trigger,
};
use crate::{problem::internal, state::AppState};

/// The triggers that are being replayed.
#[derive(Clone, Default)]
pub struct Replays(Arc<Mutex<BTreeSet<Uuid>>>);

/// The one turn of a trigger, which ends when it is dropped.
struct Turn {
    of: Replays,
    trigger: Uuid,
}

impl Replays {
    fn begin(&self, trigger: Uuid) -> Option<Turn> {
        let begun = self.lock().insert(trigger);
        begun.then(|| Turn { of: self.clone(), trigger })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.lock().remove(&self.trigger);
    }
}

/// Queues what is in scope beside whoever asked: dropping the wait stops nothing.
///
/// # Errors
/// `concurrency-limit` while another replay of the trigger goes on, `trigger-not-found`
/// when it is removed meanwhile; and as [`reconcile::look`].
pub async fn replay(app: &AppState, trigger: Arc<Trigger>, scope: Scope) -> Result<Found, Problem> {
    let Some(turn) = app.replays.begin(trigger.record.id) else {
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
        let _turn = turn;
        reconcile::look(&app, &trigger, &scope).await
    });
    looking.await.map_err(internal)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_has_one_turn_at_a_time() {
        let (replays, one, other) = (Replays::default(), Uuid::from_u128(1), Uuid::from_u128(2));
        let turn = replays.begin(one);
        assert!(turn.is_some() && replays.begin(one).is_none() && replays.begin(other).is_some());
        drop(turn);
        assert!(replays.begin(one).is_some());
    }
}
