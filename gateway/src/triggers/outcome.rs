// SPDX-License-Identifier: Apache-2.0
//! What became of a trigger's events, written down once.
//!
//! An outcome is named by the trigger and the state of the object, and made by
//! put-if-absent: after what the event starts is accepted, or where it starts
//! something together with others, as a claim before. Whoever comes second, be it
//! a copy, a redelivery or the reconciler, finds it and starts nothing else.
//! What was given up is written down as well, so that no look feeds it again; an
//! event that comes for it, as from a replay, is tried anew. A claim of a batch that
//! was given up says so and stays, so that what the batch has won stays together.

use std::time::Duration;

use bytes::Bytes;
use fanfold_backbone::{Backbone, CasOutcome, Entry};
use fanfold_protocol::{
    Problem,
    digest::Digest,
    event::EventKind,
    keys, limits,
    time::{self, Timestamp},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::problem::{internal, of_backbone};

/// What an event started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Started {
    /// An invocation of a handler.
    Invocation {
        /// Its id.
        id: Uuid,
    },
    /// A job.
    Job {
        /// Its id.
        id: Uuid,
    },
    /// Whatever the batch starts that it belongs to.
    Batch {
        /// The batch's id.
        id: Uuid,
    },
}

/// When an outcome was written down that was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Now.
    Now,
    /// Before, by whoever started the same.
    Before,
    /// Never: there is another one, of something else that was started.
    Otherwise,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it started, or its batch is to start; none where it was given up alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
    /// When that was.
    pub at: Timestamp,
    /// Whether its batch was given up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    batch_given_up: bool,
    /// Whether it lapses by itself, which only the backbone knows otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lapses: bool,
}

impl Outcome {
    fn new(started: Option<Started>) -> Self {
        Self { started, at: time::now(), batch_given_up: false, lapses: false }
    }

    /// Whether it lapses by itself.
    pub fn lapses(&self) -> bool {
        self.lapses
    }

    /// Whether it has started nothing and was given up.
    pub fn is_given_up(&self) -> bool {
        self.started.is_none() || self.batch_given_up
    }
}

/// The outcome of a state of an object.
///
/// # Errors
/// The backbone does not answer.
pub async fn get(backbone: &Backbone, trigger: &Uuid, identity: &Digest) -> Result<Option<Outcome>, Problem> {
    let found = backbone.get(&keys::event_outcome(trigger, identity)).await.map_err(of_backbone)?;
    found.map(|entry| serde_json::from_slice(&entry.value).map_err(internal)).transpose()
}

/// Writes an outcome down, unless there is one of something started; tells whether
/// it is this one that stands. That of a removal, which no look sees, lapses after a day.
///
/// # Errors
/// The backbone does not answer.
pub async fn put_once(
    backbone: &Backbone,
    trigger: &Uuid,
    identity: &Digest,
    kind: EventKind,
    started: Started,
) -> Result<Written, Problem> {
    let key = keys::event_outcome(trigger, identity);
    let lapse_after = (kind == EventKind::Removed).then_some(limits::IDEMPOTENCY_WINDOW);
    let outcome = Outcome { lapses: lapse_after.is_some(), ..Outcome::new(Some(started)) };
    let value = Bytes::from(serde_json::to_vec(&outcome).map_err(internal)?);
    let mut revision = None;
    loop {
        let written = write(backbone, &key, value.clone(), revision, lapse_after).await?;
        let CasOutcome::Conflict(found) = written else { return Ok(Written::Now) };
        revision = found.as_ref().map(|entry| entry.revision);
        if let Some(entry) = found {
            let found: Outcome = serde_json::from_slice(&entry.value).map_err(internal)?;
            if found.started.is_some() {
                let is_same = found.started == outcome.started;
                return Ok(if is_same { Written::Before } else { Written::Otherwise });
            }
        }
    }
}

/// Writes down that a state was given up, unless it has started something.
///
/// # Errors
/// The backbone does not answer.
pub async fn give_up(backbone: &Backbone, trigger: &Uuid, identity: &Digest) -> Result<(), Problem> {
    let key = keys::event_outcome(trigger, identity);
    let value = serde_json::to_vec(&Outcome::new(None)).map_err(internal)?;
    let written = backbone.create(&key, value).await.map_err(of_backbone)?;
    let CasOutcome::Conflict(Some(entry)) = written else { return Ok(()) };
    let found: Outcome = serde_json::from_slice(&entry.value).map_err(internal)?;
    let Some(Started::Batch { id }) = &found.started else { return Ok(()) };
    // A batch whose record is gone has started. The record is written anew, so that whoever is
    // starting the batch sees that something is to be taken back.
    let batch = keys::batch(trigger, id);
    let Some(record) = backbone.get(&batch).await.map_err(of_backbone)? else { return Ok(()) };
    backbone.update(&batch, record.value, record.revision).await.map_err(of_backbone)?;
    mark(backbone, &key, &entry, Outcome { batch_given_up: true, ..found }).await?;
    if backbone.get(&batch).await.map_err(of_backbone)?.is_none() {
        take_back(backbone, trigger, identity).await?;
    }
    Ok(())
}

/// Writes down that the batch of a state has started after all.
///
/// # Errors
/// The backbone does not answer.
pub async fn take_back(backbone: &Backbone, trigger: &Uuid, identity: &Digest) -> Result<(), Problem> {
    let key = keys::event_outcome(trigger, identity);
    let Some(entry) = backbone.get(&key).await.map_err(of_backbone)? else { return Ok(()) };
    let found: Outcome = serde_json::from_slice(&entry.value).map_err(internal)?;
    if !found.batch_given_up {
        return Ok(());
    }
    mark(backbone, &key, &entry, Outcome { batch_given_up: false, ..found }).await
}

/// Changes an outcome, which stays then for good. Whoever has changed it meanwhile knows better.
async fn mark(backbone: &Backbone, key: &str, entry: &Entry, marked: Outcome) -> Result<(), Problem> {
    let marked = Outcome { lapses: false, ..marked };
    let value = serde_json::to_vec(&marked).map_err(internal)?;
    write(backbone, key, value.into(), Some(entry.revision), None).await.map(drop)
}

/// Has an outcome lapse after this time, or stay for good. One that was changed meanwhile, or
/// that a newer release has written, stays as it is.
///
/// # Errors
/// The backbone does not answer.
pub async fn set_lapse(
    backbone: &Backbone,
    key: &str,
    entry: &Entry,
    lapse_after: Option<Duration>,
) -> Result<(), Problem> {
    let Ok(found) = serde_json::from_slice::<Outcome>(&entry.value) else { return Ok(()) };
    if found.lapses == lapse_after.is_some() {
        return Ok(());
    }
    let value = serde_json::to_vec(&Outcome { lapses: !found.lapses, ..found }).map_err(internal)?;
    write(backbone, key, value.into(), Some(entry.revision), lapse_after).await.map(drop)
}

/// Writes where nothing is, or over this revision.
async fn write(
    backbone: &Backbone,
    key: &str,
    value: Bytes,
    revision: Option<u64>,
    lapse_after: Option<Duration>,
) -> Result<CasOutcome, Problem> {
    let written = match (revision, lapse_after) {
        (None, None) => backbone.create(key, value).await,
        (None, Some(after)) => backbone.create_with_ttl(key, value, after).await,
        (Some(revision), None) => backbone.update(key, value, revision).await,
        (Some(revision), Some(after)) => backbone.update_with_ttl(key, value, revision, after).await,
    };
    written.map_err(of_backbone)
}
