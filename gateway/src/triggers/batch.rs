// SPDX-License-Identifier: Apache-2.0
//! Several events that start one thing together, once.
//!
//! ```text
//! record of the batch ─> claim each event's outcome ─> start what it won ─> drop the record
//! ```
//!
//! The record comes first, so that whoever finds a claim finds what it belongs
//! to. Which events a batch has won is settled once all of its claims have been
//! tried, and is the same for everyone who tries them again: so a batch that a
//! gateway left halfway is ended by the next that meets one of its events.

use std::collections::HashSet;

use fanfold_backbone::DeleteOutcome;
use fanfold_protocol::{ErrorKind, Problem, digest::Digest, event::ObjectEvent, keys, limits};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    dispatch::{self, Candidate},
    order,
    outcome::{self, Started, Written},
    record::{Trigger, TriggerRecord},
    target,
};
use crate::{
    problem::{internal, of_backbone},
    state::App,
};

/// Claims tried at once.
const CLAIMS_AT_ONCE: usize = 32;

/// What is written down of a batch.
#[derive(Debug, Serialize, Deserialize)]
struct Batch {
    members: Vec<Member>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Member {
    identity: Digest,
    event: ObjectEvent,
}

/// Events in batches that fit a message each, in their order.
pub fn divided(candidates: Vec<Candidate>) -> Result<Vec<Vec<Candidate>>, Problem> {
    let mut batches: Vec<Vec<Candidate>> = Vec::new();
    let mut room = 0;
    for candidate in candidates {
        let bytes = serde_json::to_vec(&candidate.event).map_err(internal)?.len();
        match batches.last_mut().filter(|_| bytes <= room) {
            Some(batch) => batch.push(candidate),
            None => {
                room = limits::TRIGGER_BATCH_BYTES_MAX;
                batches.push(vec![candidate]);
            }
        }
        room = room.saturating_sub(bytes);
    }
    Ok(batches)
}

/// What came of a batch.
pub struct Ended {
    /// The events that it was started for; the others have an outcome already.
    pub won: HashSet<Digest>,
    /// What that was; none where it was started before.
    pub started: Option<Started>,
}

/// Starts something for these events together.
///
/// # Errors
/// What is wrong with what it starts; or the store or the backbone does not
/// answer. The events then stay with this batch, for [`finish`].
pub async fn start(app: &App, trigger: &Trigger, candidates: &[Candidate]) -> Result<Ended, Problem> {
    let member =
        |candidate: &Candidate| Member { identity: candidate.identity, event: candidate.event.clone() };
    let batch = Batch { members: candidates.iter().map(member).collect() };
    let id = Uuid::now_v7();
    let value = serde_json::to_vec(&batch).map_err(internal)?;
    let key = keys::batch(&trigger.record.id, &id);
    let revision = app.backbone.put(&key, value).await.map_err(of_backbone)?;
    end(app, trigger, &id, batch, Some(revision)).await
}

/// Ends a batch that was begun, and may have been given up: none when that was done before.
///
/// # Errors
/// As [`start`].
pub async fn finish(app: &App, trigger: &Trigger, id: &Uuid) -> Result<Option<Ended>, Problem> {
    let key = keys::batch(&trigger.record.id, id);
    let Some(entry) = app.backbone.get(&key).await.map_err(of_backbone)? else { return Ok(None) };
    let batch: Batch = serde_json::from_slice(&entry.value).map_err(internal)?;
    end(app, trigger, id, batch, None).await.map(Some)
}

/// Starts what is not started. Nothing was given up of a batch whose record is as it was written,
/// in `revision`.
async fn end(
    app: &App,
    trigger: &Trigger,
    id: &Uuid,
    batch: Batch,
    revision: Option<u64>,
) -> Result<Ended, Problem> {
    let record = &trigger.record;
    let claim = |member: Member| async move {
        let claim = Started::Batch { id: *id };
        let kind = member.event.kind;
        let written = outcome::put_once(&app.backbone, &record.id, &member.identity, kind, claim).await?;
        Ok::<_, Problem>((written != Written::Otherwise).then_some(member))
    };
    let won: Vec<Option<Member>> =
        stream::iter(batch.members).map(claim).buffered(CLAIMS_AT_ONCE).try_collect().await?;
    let (won, events): (HashSet<Digest>, Vec<ObjectEvent>) =
        won.into_iter().flatten().map(|member| (member.identity, member.event)).unzip();
    let mut begun = None;
    if !events.is_empty() {
        let started = start_what_is_there(app, record, &events, *id).await;
        if record.document.ordered {
            let noted = started.as_ref().ok().and_then(Option::as_ref);
            for event in &events {
                order::note(app, trigger, event, noted).await?;
            }
        }
        begun = started?;
    }
    let key = keys::batch(&record.id, id);
    let untouched = match revision {
        Some(_) => {
            let deleted = app.backbone.delete(&key, revision).await.map_err(of_backbone)?;
            matches!(deleted, DeleteOutcome::Deleted(_))
        }
        None => false,
    };
    if !untouched {
        app.backbone.delete(&key, None).await.map_err(of_backbone)?;
        take_back(app, trigger, &won).await;
    }
    Ok(Ended { won, started: begun })
}

/// Starts something for these events. Where the object of one is gone by now, as after days for which its batch was
/// given up, that ends its event, and the others start without it.
async fn start_what_is_there(
    app: &App,
    record: &TriggerRecord,
    events: &[ObjectEvent],
    id: Uuid,
) -> Result<Option<Started>, Problem> {
    let started = target::start(app, record, events, id, true).await;
    if !started.as_ref().is_err_and(|problem| problem.code == ErrorKind::ObjectNotFound) {
        return started;
    }
    let look = |event: ObjectEvent| async move {
        Ok::<_, Problem>((!dispatch::is_gone(app, &event).await?).then_some(event))
    };
    let looks = stream::iter(events.to_vec()).map(look).buffered(CLAIMS_AT_ONCE);
    let left: Vec<Option<ObjectEvent>> = looks.try_collect().await?;
    let left: Vec<ObjectEvent> = left.into_iter().flatten().collect();
    match left.len() {
        0 => Ok(None),
        // Something else is missing.
        all if all == events.len() => started,
        _ => target::start(app, record, &left, id, true).await,
    }
}

/// Notes of events that they have started after all.
async fn take_back(app: &App, trigger: &Trigger, states: &HashSet<Digest>) {
    let take_back = |state: Digest| async move {
        let taken_back = outcome::take_back(&app.backbone, &trigger.record.id, &state).await;
        if let Err(problem) = taken_back {
            tracing::warn!(trigger = %trigger.record.name, detail = %problem.detail, "an event that has started still counts as given up");
        }
    };
    stream::iter(states.iter().copied()).for_each_concurrent(CLAIMS_AT_ONCE, take_back).await;
}
