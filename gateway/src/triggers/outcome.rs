// SPDX-License-Identifier: Apache-2.0
//! What became of a trigger's events, written down once.
//!
//! An outcome is named by the trigger and the state of the object, and made by
//! put-if-absent after what the event starts is accepted. Whoever comes second,
//! be it a copy, a redelivery or the reconciler, finds it and does nothing.

use fanfold_backbone::Backbone;
use fanfold_protocol::{Problem, digest::Digest, keys, time::Timestamp};
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
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it started.
    pub started: Started,
    /// When that was.
    pub at: Timestamp,
}

/// Whether a state of an object has an outcome.
///
/// # Errors
/// The backbone does not answer.
pub async fn exists(backbone: &Backbone, trigger: &Uuid, identity: &Digest) -> Result<bool, Problem> {
    let found = backbone.get(&keys::event_outcome(trigger, identity)).await.map_err(of_backbone)?;
    Ok(found.is_some())
}

/// Writes an outcome down, unless there is one.
///
/// # Errors
/// The backbone does not answer.
pub async fn put_once(
    backbone: &Backbone,
    trigger: &Uuid,
    identity: &Digest,
    outcome: &Outcome,
) -> Result<(), Problem> {
    let value = serde_json::to_vec(outcome).map_err(internal)?;
    backbone.create(&keys::event_outcome(trigger, identity), value).await.map(drop).map_err(of_backbone)
}
