// SPDX-License-Identifier: Apache-2.0
//! Events of one key, one after the other.
//!
//! A record for each key holds the last sequencer seen and what the last event
//! started. A removal that is older than that is stale; an event that comes while the
//! other's invocation or job runs waits for its turn. Invariant: who has the
//! turn is decided by compare-and-set, before anything is started. A turn that has led to
//! nothing yet is kept by whoever took it, and lapses with them.

use std::{
    cmp::Ordering,
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fanfold_backbone::CasOutcome;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    event::{Notice, ObjectEvent, compare_sequencers},
    keys, limits,
    time::{self, Timestamp},
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{outcome::Started, record::Trigger, runner::LEASE, target};
use crate::{
    problem::{internal, of_backbone},
    state::App,
};

/// How often a record is changed while others change it.
const TRIES_MAX: u32 = 16;
/// A turn that led to nothing and was not kept for so long was lost with its gateway. Gateways whose clocks
/// differ by as much would take each other's.
const TURN_MAX: Duration = LEASE.saturating_mul(2);
/// Turns kept at once.
const KEPT_AT_ONCE: usize = 16;

/// What is known of the events of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Last {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequencer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    turn: Option<Turn>,
}

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Turn {
    /// The id of the event.
    event: Uuid,
    /// When it was taken, or kept last.
    at: Timestamp,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started: Option<Started>,
}

/// Whether a later event of the same key was seen before; notes this one if not.
///
/// # Errors
/// The backbone does not answer.
pub async fn is_stale(app: &App, trigger: &Trigger, notice: &Notice) -> Result<bool, Problem> {
    let Some(sequencer) = &notice.sequencer else { return Ok(false) };
    change(app, trigger, &notice.key, |last| {
        let order = last.sequencer.as_ref().map(|seen| compare_sequencers(sequencer, seen));
        if order.is_none_or(Ordering::is_gt) {
            last.sequencer = Some(sequencer.clone());
        }
        order == Some(Ordering::Less)
    })
    .await
}

/// The turns that whoever works on some events has taken.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<Uuid, String>>);

impl Turns {
    /// Takes the turn of a key. False while what an earlier event started runs.
    ///
    /// # Errors
    /// The store or the backbone does not answer.
    pub async fn take(&self, app: &App, trigger: &Trigger, event: &ObjectEvent) -> Result<bool, Problem> {
        let taken = take_turn(app, trigger, event).await?;
        if taken {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(event.id, event.key.clone());
        }
        Ok(taken)
    }

    /// Keeps those that have led to nothing yet; to be called more often than they lapse.
    pub async fn keep(&self, app: &App, trigger: &Trigger) {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let keep = |(event, key): (Uuid, String)| async move {
            let now = time::now();
            if let Err(problem) = change(app, trigger, &key, |last| last.keep(event, now)).await {
                tracing::warn!(trigger = %trigger.record.name, detail = %problem.detail, "a turn was not kept; another event may take it");
            }
        };
        stream::iter(taken).for_each_concurrent(KEPT_AT_ONCE, keep).await;
    }
}

impl Last {
    /// Keeps the turn of an event that has led to nothing yet.
    fn keep(&mut self, event: Uuid, now: Timestamp) {
        let turn = self.turn.as_mut().filter(|turn| turn.event == event && turn.started.is_none());
        if let Some(turn) = turn {
            turn.at = now;
        }
    }
}

async fn take_turn(app: &App, trigger: &Trigger, event: &ObjectEvent) -> Result<bool, Problem> {
    let mut ended = None;
    loop {
        let now = time::now();
        let held = change(app, trigger, &event.key, |last| {
            let held =
                last.turn.clone().filter(|turn| turn.event != event.id && Some(turn) != ended.as_ref());
            if held.is_none() {
                last.turn = Some(Turn { event: event.id, at: now, started: None });
            }
            held
        });
        let Some(turn) = held.await? else { return Ok(true) };
        let over = match &turn.started {
            Some(started) => target::has_ended(app, started).await?,
            None => now.since(turn.at) > TURN_MAX,
        };
        if !over {
            return Ok(false);
        }
        ended = Some(turn);
    }
}

/// Gives the turn of an event back that is put off before anything is started. What goes wrong with
/// that only delays others of its key.
pub async fn give_back(app: &App, trigger: &Trigger, event: &ObjectEvent) {
    if !trigger.record.document.ordered {
        return;
    }
    if let Err(problem) = note(app, trigger, event, None).await {
        tracing::warn!(trigger = %trigger.record.name, detail = %problem.detail, "a turn was not given back; it lapses by itself");
    }
}

/// Notes what an event started whose turn it is; nothing gives the turn back.
///
/// # Errors
/// The backbone does not answer.
pub async fn note(
    app: &App,
    trigger: &Trigger,
    event: &ObjectEvent,
    started: Option<&Started>,
) -> Result<(), Problem> {
    change(app, trigger, &event.key, |last| {
        let ours = last.turn.as_mut().filter(|turn| turn.event == event.id);
        match (ours, started) {
            (Some(turn), Some(started)) => turn.started = Some(started.clone()),
            (Some(_), None) => last.turn = None,
            (None, _) => {}
        }
    })
    .await
}

/// Changes what is known of a key, by compare-and-set.
async fn change<T>(
    app: &App,
    trigger: &Trigger,
    key: &str,
    change: impl Fn(&mut Last) -> T,
) -> Result<T, Problem> {
    let key = keys::last_event(&trigger.record.id, &Digest::of(key.as_bytes()));
    for _ in 0..TRIES_MAX {
        let entry = app.backbone.get(&key).await.map_err(of_backbone)?;
        let found: Last = match &entry {
            Some(entry) => serde_json::from_slice(&entry.value).map_err(internal)?,
            None => Last::default(),
        };
        let mut last = found.clone();
        let answer = change(&mut last);
        if last == found {
            return Ok(answer);
        }
        let value = serde_json::to_vec(&last).map_err(internal)?;
        let stored = match entry {
            Some(entry) => {
                app.backbone.update_with_ttl(&key, value, entry.revision, limits::IDEMPOTENCY_WINDOW).await
            }
            None => app.backbone.create_with_ttl(&key, value, limits::IDEMPOTENCY_WINDOW).await,
        };
        if let CasOutcome::Stored(_) = stored.map_err(of_backbone)? {
            return Ok(answer);
        }
    }
    Err(Problem::new(
        ErrorKind::BackboneUnavailable,
        "expected to note the last event of a key, found others noting theirs all the time; try again",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_turn_that_led_to_nothing_is_kept() {
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let check = |started: Option<Started>, event: Uuid, expected: u64| {
            let turn = Turn { event: ours, at: Timestamp(5), started };
            let mut last = Last { turn: Some(turn), ..Last::default() };
            last.keep(event, Timestamp(9));
            assert_eq!(last.turn.unwrap().at, Timestamp(expected));
        };
        check(None, ours, 9);
        check(None, other, 5);
        check(Some(Started::Job { id: ours }), ours, 5);
        let mut none = Last::default();
        none.keep(ours, Timestamp(9));
        assert_eq!(none, Last::default());
    }
}
