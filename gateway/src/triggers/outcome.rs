// SPDX-License-Identifier: Apache-2.0
//! What became of a trigger's events, written down once.
//!
//! An outcome is named by the trigger and the state of the object, and made by
//! put-if-absent: after what the event starts is accepted, or where it starts
//! something together with others, as a claim before. Whoever comes second, be it
//! a copy, a redelivery or the reconciler, finds it and starts nothing else.
//! What was given up is written down as well, so that no look feeds it again; an
//! event that comes for it, as from a replay, is tried anew.

use bytes::Bytes;
use fanfold_backbone::{Backbone, CasOutcome};
use fanfold_protocol::{
    Problem,
    digest::Digest,
    keys,
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

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it started; none where it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
    /// When that was.
    pub at: Timestamp,
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
/// it is this one that stands.
///
/// # Errors
/// The backbone does not answer.
pub async fn put_once(
    backbone: &Backbone,
    trigger: &Uuid,
    identity: &Digest,
    started: Started,
) -> Result<bool, Problem> {
    let key = keys::event_outcome(trigger, identity);
    let outcome = Outcome { started: Some(started), at: time::now() };
    let value = Bytes::from(serde_json::to_vec(&outcome).map_err(internal)?);
    let mut written = backbone.create(&key, value.clone()).await;
    loop {
        let CasOutcome::Conflict(found) = written.map_err(of_backbone)? else { return Ok(true) };
        written = match found {
            Some(entry) => {
                let found: Outcome = serde_json::from_slice(&entry.value).map_err(internal)?;
                if found.started.is_some() {
                    return Ok(found.started == outcome.started);
                }
                backbone.update(&key, value.clone(), entry.revision).await
            }
            None => backbone.create(&key, value.clone()).await,
        };
    }
}

/// Writes down that a state was given up, unless there is an outcome.
///
/// # Errors
/// The backbone does not answer.
pub async fn give_up(backbone: &Backbone, trigger: &Uuid, identity: &Digest) -> Result<(), Problem> {
    let outcome = Outcome { started: None, at: time::now() };
    let value = serde_json::to_vec(&outcome).map_err(internal)?;
    let written = backbone.create(&keys::event_outcome(trigger, identity), value).await;
    written.map(drop).map_err(of_backbone)
}
