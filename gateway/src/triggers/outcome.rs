// SPDX-License-Identifier: Apache-2.0
//! What became of a trigger's events, written down once.
//!
//! An outcome is named by the trigger and the state of the object, and made by
//! put-if-absent: after what the event starts is accepted, or where it starts
//! something together with others, as a claim before. Whoever comes second, be it
//! a copy, a redelivery or the reconciler, finds it and starts nothing else.

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
    /// What it started.
    pub started: Started,
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

/// Writes an outcome down, unless there is one; tells whether it is this one that stands.
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
    let outcome = Outcome { started, at: time::now() };
    let value = serde_json::to_vec(&outcome).map_err(internal)?;
    if let CasOutcome::Stored(_) = backbone.create(&key, value).await.map_err(of_backbone)? {
        return Ok(true);
    }
    let found = get(backbone, trigger, identity).await?;
    Ok(found.is_some_and(|found| found.started == outcome.started))
}
