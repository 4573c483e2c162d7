// SPDX-License-Identifier: Apache-2.0
//! How a job is to end, decided once.
//!
//! By put-if-absent: success, failure or cancellation, whichever comes first. What follows
//! from it is carried out by [`super::end`], and may be done in part only.

use fanfold_protocol::{
    Problem,
    job::JobState,
    keys,
    time::{self, Timestamp},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{error::Result, vault::Vault};

/// How a job is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Succeeded, failed or cancelled.
    pub state: JobState,
    /// When it was decided.
    pub ended_at: Timestamp,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Decides how a job ends, unless that is decided; answers the decision.
pub async fn decide(vault: &Vault, id: &Uuid, state: JobState, problem: Option<Problem>) -> Result<Ending> {
    let ending = Ending { state, ended_at: time::now(), problem };
    if vault.write_once(&keys::ending(id), &ending).await? {
        return Ok(ending);
    }
    vault.expect(&keys::ending(id)).await
}
