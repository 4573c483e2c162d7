// SPDX-License-Identifier: Apache-2.0
//! The record of an asynchronous invocation that has not ended.
//!
//! Lies in the backbone, so that `queued` and `running` are answered by every
//! gateway and after every crash; it is removed once the end is written, which
//! is the truth from then on. What nobody removes lapses.

use std::time::Duration;

use fanfold_backbone::{Backbone, CasOutcome};
use fanfold_protocol::{ErrorKind, Problem, keys, names::FunctionName, time::Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::message::Origin;
use crate::problem::{internal, of_backbone};

/// Longer than an invocation can take: until it is too old, and then its last
/// attempt. Set anew by each write.
const RECORD_TTL: Duration = Duration::from_secs(24 * 3_600);

/// An asynchronous invocation that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The function.
    pub function: FunctionName,
    /// The version that runs, as resolved when it was accepted.
    pub version: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Invocations that led to it, one after the other.
    pub depth: u32,
    /// Where it came from.
    pub origin: Origin,
    /// Attempts begun, counted before they run: what kills the platform counts, too.
    pub attempts: u32,
    /// Of the attempt that runs.
    pub started_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub problem: Option<Problem>,
}

impl Live {
    pub(super) fn new(
        function: FunctionName,
        version: u32,
        accepted_at: Timestamp,
        depth: u32,
        origin: Origin,
    ) -> Self {
        Self { function, version, accepted_at, depth, origin, attempts: 0, started_at: None, problem: None }
    }

    /// The record, and its revision.
    pub(super) async fn get(backbone: &Backbone, id: &Uuid) -> Result<Option<(Self, u64)>, Problem> {
        let Some(entry) = backbone.get(&keys::invocation_record(id)).await.map_err(of_backbone)? else {
            return Ok(None);
        };
        Ok(Some((serde_json::from_slice(&entry.value).map_err(internal)?, entry.revision)))
    }

    /// Writes the record where there is none; its revision.
    pub(super) async fn create(&self, backbone: &Backbone, id: &Uuid) -> Result<Option<u64>, Problem> {
        let outcome = backbone.create_with_ttl(&keys::invocation_record(id), self.json()?, RECORD_TTL).await;
        outcome.map(|outcome| outcome.revision()).map_err(of_backbone)
    }

    /// Writes the record over this revision; the next one, or none when it has changed.
    pub(super) async fn update(
        &self,
        backbone: &Backbone,
        id: &Uuid,
        revision: u64,
    ) -> Result<Option<u64>, Problem> {
        let key = keys::invocation_record(id);
        match backbone.update_with_ttl(&key, self.json()?, revision, RECORD_TTL).await {
            Ok(CasOutcome::Stored(next)) => Ok(Some(next)),
            Ok(CasOutcome::Conflict(_)) => Ok(None),
            Err(error) => Err(of_backbone(error)),
        }
    }

    /// Removes the record of an invocation that has ended.
    pub(super) async fn remove(backbone: &Backbone, id: &Uuid) -> Result<(), Problem> {
        backbone.delete(&keys::invocation_record(id), None).await.map(drop).map_err(of_backbone)
    }

    /// An attempt begins.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.attempts += 1;
        self.started_at = Some(now);
    }

    /// The attempt failed, and another one follows.
    pub(super) fn failed(&mut self, problem: Problem) {
        self.started_at = None;
        self.problem = Some(problem);
    }

    /// The attempt did not come to anything, by no fault of the function.
    pub(super) fn undo(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
        self.started_at = None;
    }

    /// Whether its last attempt failed and the next one has not begun.
    pub(super) fn rests(&self) -> bool {
        self.problem.is_some() && self.started_at.is_none()
    }

    /// Whether its last attempt, or where none runs its acceptance, began longer ago than that, or as far ahead by a
    /// clock that differs as much: when it began is not known then.
    pub(super) fn is_older(&self, now: Timestamp, than: Duration) -> bool {
        let began = self.started_at.unwrap_or(self.accepted_at);
        now.since(began).max(began.since(now)) > than
    }

    /// How long ago it was accepted.
    pub(super) fn age(&self, now: Timestamp) -> Duration {
        now.since(self.accepted_at)
    }

    /// For whoever asks for more than the state.
    pub(crate) fn not_finished(&self, id: &Uuid) -> Problem {
        Problem::new(
            ErrorKind::InvocationNotFinished,
            format!(
                "expected invocation {id} to have ended, found it {}; ask again in a moment",
                self.state()
            ),
        )
    }

    /// `queued` or `running`.
    pub fn state(&self) -> &'static str {
        if self.started_at.is_some() { "running" } else { "queued" }
    }

    fn json(&self) -> Result<Vec<u8>, Problem> {
        serde_json::to_vec(self).map_err(internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_by_another_clock_is_no_more_believed_than_what_is_old() {
        let minute = Duration::from_secs(60);
        let (began, hour) = (Timestamp(1_000_000_000), 60 * minute);
        let live = Live::new("hello".parse().unwrap(), 1, began, 0, Origin::Call);
        assert!(!live.is_older(began.later(minute), minute) && live.is_older(began.later(hour), minute));
        // The clock of whoever asks is behind.
        assert!(!live.is_older(Timestamp(began.0 - 1_000), minute));
        assert!(live.is_older(Timestamp(began.0 - 3_600_000), minute));
    }
}
