// SPDX-License-Identifier: Apache-2.0
//! Dead letters of triggers: events that were given up, with what happened and
//! why.
//!
//! They wait in their trigger's queue for somebody to look, to replay or to
//! discard them. Invariant: there are at most so many of a trigger, of so many bytes,
//! and none for ever, since a target that always fails must not fill the disk.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use fanfold_backbone::{DeadLetter, Message};
use fanfold_protocol::{Problem, keys, limits, time};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    intake::{Waiting, taken_at},
    record::Trigger,
};
use crate::{
    extract::{Path, Query},
    page::{self, LetterQuery},
    problem::{Answer, of_backbone},
    state::{App, AppState},
};

/// Letters handled at once.
const AT_ONCE: usize = 1_000;
/// Between two rounds of removing what is old or too much.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// An event that was given up.
#[derive(Serialize, ToSchema)]
pub struct EventLetter {
    /// Names the event's message.
    id: String,
    /// The bucket; absent, like the key and what happened, when the event cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    /// The key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What happened, in S3's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "ObjectCreated:Put")]
    event: Option<String>,
    /// When it was taken in, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_at: Option<u64>,
    /// How often it was tried.
    attempts: u32,
    /// Why it was given up: a code, the function's own if it gave one, and what was expected and found.
    reason: String,
}

impl From<DeadLetter> for EventLetter {
    fn from(letter: DeadLetter) -> Self {
        let taken_at = taken_at(&letter.payload).map(|at| at.0);
        let waiting = read(&letter);
        // Of what was queued anew the letter knows the last deliveries only.
        let before = waiting.as_ref().map_or(0, |waiting| waiting.failures.saturating_add(waiting.put_back));
        let notice = waiting.map(|waiting| waiting.notice);
        Self {
            id: letter.id,
            bucket: notice.as_ref().map(|notice| notice.bucket.clone()),
            key: notice.as_ref().map(|notice| notice.key.clone()),
            event: notice.map(|notice| notice.name),
            taken_at,
            attempts: letter.attempt.saturating_add(before),
            reason: letter.reason,
        }
    }
}

fn read(letter: &DeadLetter) -> Option<Waiting> {
    serde_json::from_slice(&letter.payload).ok()
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
pub struct EventLetters {
    /// Oldest first.
    dead_letters: Vec<EventLetter>,
    /// For the page after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Events of a trigger that were given up, oldest first.
#[utoipa::path(
    get, path = "/v1/triggers/{name}/dead-letters", tag = "triggers",
    params(("name" = String, Path, description = "The trigger"), LetterQuery),
    responses(
        (status = 200, description = "Oldest first", body = EventLetters),
        (status = 400, description = "No such page"),
        (status = 404, description = "No such trigger")
    )
)]
pub(crate) async fn letters(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<LetterQuery>,
) -> Answer<Json<EventLetters>> {
    let trigger = app.triggers.show(&name.parse()?).await?;
    let (after, limit) = query.bounds()?;
    let queue = keys::event_queue(&trigger.record.id);
    let mut found = app.backbone.dead_letters(&queue, after, limit + 1).await.map_err(of_backbone)?;
    let next = page::cut(&mut found, limit).map(|last| last.sequence.to_string());
    Ok(Json(EventLetters { dead_letters: found.into_iter().map(EventLetter::from).collect(), next }))
}

/// What was removed.
#[derive(Serialize, ToSchema)]
pub struct EventLettersGone {
    /// So many dead letters.
    discarded: u64,
}

/// Removes a trigger's dead letters for good.
#[utoipa::path(
    delete, path = "/v1/triggers/{name}/dead-letters", tag = "triggers",
    params(("name" = String, Path, description = "The trigger")),
    responses(
        (status = 200, description = "They are gone", body = EventLettersGone),
        (status = 404, description = "No such trigger")
    )
)]
pub(crate) async fn discard(
    State(app): State<AppState>,
    Path(name): Path<String>,
) -> Answer<Json<EventLettersGone>> {
    let trigger = app.triggers.show(&name.parse()?).await?;
    let dead = count(&app, &trigger).await?;
    Ok(Json(EventLettersGone { discarded: remove_oldest(&app, &trigger.record.id, dead).await? }))
}

/// Queues all dead letters again, with attempts and time counted anew: as many as there are now, since some may
/// come back.
///
/// # Errors
/// The backbone does not answer.
pub async fn revive(app: &App, trigger: &Trigger) -> Result<u64, Problem> {
    let queue = keys::event_queue(&trigger.record.id);
    let dead = count(app, trigger).await?;
    let mut queued = 0;
    while queued < dead {
        let letters = app.backbone.dead_letters(&queue, 0, AT_ONCE).await.map_err(of_backbone)?;
        let revived = revive_these(app, &queue, &letters).await?;
        if revived == 0 {
            break;
        }
        queued += revived as u64;
    }
    Ok(queued)
}

/// Queues these again; answers how many there were.
async fn revive_these(app: &App, queue: &str, letters: &[DeadLetter]) -> Result<usize, Problem> {
    let (mut unread, mut events, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    for letter in letters {
        let Some(Waiting { notice, replay, .. }) = read(letter) else {
            unread.push(letter.sequence);
            continue;
        };
        let message = Waiting::new(notice, time::now(), replay).message()?;
        // The queue may have seen the event's own id a moment ago; this one names the letter.
        messages.push(Message { id: format!("{}-letter-{}", message.id, letter.sequence), ..message });
        events.push(letter.sequence);
    }
    let mut revived = app.backbone.replay(queue, unread).await.map_err(of_backbone)?;
    // Queued before they are removed: a copy starts nothing twice.
    app.backbone.enqueue(queue, messages).await.map_err(of_backbone)?;
    revived += app.backbone.discard(queue, events).await.map_err(of_backbone)?;
    Ok(revived)
}

/// Removes dead letters that are too old or too many, for ever.
pub async fn sweep(app: AppState) {
    loop {
        for trigger in app.triggers.list() {
            if let Err(problem) = sweep_one(&app, &trigger).await {
                tracing::warn!(trigger = %trigger.record.name, detail = %problem.detail, "dead letters could not be swept; this is tried again");
            }
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn sweep_one(app: &Arc<App>, trigger: &Trigger) -> Result<(), Problem> {
    if count(app, trigger).await? == 0 {
        return Ok(());
    }
    let (queue, now) = (keys::event_queue(&trigger.record.id), time::now());
    let (count_max, bytes_max) = (limits::DEAD_LETTERS_MAX, limits::DEAD_LETTER_BYTES_MAX);
    let trimmed = app.backbone.trim_dead_letters(&queue, count_max, bytes_max).await;
    let mut gone = trimmed.map_err(of_backbone)? as u64;
    // Oldest first: whoever is young ends the search. What does not say how old it is, of older releases or of nobody
    // knows whom, is passed over and left to people.
    let age = |letter: &DeadLetter| taken_at(&letter.payload).map(|at| now.since(at));
    let mut after = 0;
    loop {
        let letters = app.backbone.dead_letters(&queue, after, AT_ONCE).await.map_err(of_backbone)?;
        let aged = letters.iter().map(|letter| (letter.sequence, age(letter)));
        let is_young = |age: Option<Duration>| age.is_some_and(|age| age < limits::INVOCATION_RECORD_WINDOW);
        let passed: Vec<_> = aged.take_while(|(_, age)| !is_young(*age)).collect();
        let old: Vec<u64> = passed.iter().filter(|(_, age)| age.is_some()).map(|(at, _)| *at).collect();
        if !old.is_empty() {
            gone += app.backbone.discard(&queue, old).await.map_err(of_backbone)? as u64;
        }
        let Some((last, _)) = passed.last().filter(|_| passed.len() == letters.len()) else { break };
        after = *last;
    }
    if gone > 0 {
        app.triggers.counters().letters_expired(&trigger.record.name, gone);
        tracing::warn!(trigger = %trigger.record.name, gone, "dead letters were removed that nobody has replayed");
    }
    Ok(())
}

async fn count(app: &App, trigger: &Trigger) -> Result<u64, Problem> {
    let depth = app.backbone.depth(&keys::event_queue(&trigger.record.id)).await;
    Ok(depth.map_err(of_backbone)?.dead)
}

/// Removes so many, or as many as there are; tells how many that were.
async fn remove_oldest(app: &App, trigger: &Uuid, most: u64) -> Result<u64, Problem> {
    let (queue, mut gone) = (keys::event_queue(trigger), 0);
    while gone < most {
        let wanted = usize::try_from(most - gone).unwrap_or(AT_ONCE).min(AT_ONCE);
        let letters = app.backbone.dead_letters(&queue, 0, wanted).await.map_err(of_backbone)?;
        if letters.is_empty() {
            break;
        }
        let sequences = letters.iter().map(|letter| letter.sequence).collect();
        gone += app.backbone.discard(&queue, sequences).await.map_err(of_backbone)? as u64;
    }
    Ok(gone)
}
