// SPDX-License-Identifier: Apache-2.0
//! A call's hold on the record of its idempotency key, by a short lease.
//!
//! The record names who holds it. So a write that was stored while its
//! acknowledgement got lost is known for one's own, and a record that lapsed while the
//! backbone was away is made again. Invariant: of the calls of one process at most
//! one holds a key, whatever has become of its record; and who finds another's
//! record has lost the key, and writes nothing over it.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfold_backbone::{CasOutcome, Entry, Result};
use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

use super::framed;
use crate::{keyed_locks::KeyedLock, state::AppState};

/// Renewals in the time after which a hold lapses, and attempts in the time of a renewal
/// while the backbone is away: who comes back first should find the key held.
const RENEWALS: u32 = 3;

/// The right to run the call of a key; dropping it lets it lapse.
pub(super) struct Hold {
    app: AppState,
    record: String,
    owner: Uuid,
    /// What the record says while the call runs.
    running: Bytes,
    /// The revision of the record, as far as it is known.
    revision: Option<u64>,
    _lock: KeyedLock<String>,
}

/// What says of a record whose it is.
#[derive(Deserialize)]
struct Owned {
    owner: Option<Uuid>,
}

impl Hold {
    /// What may become a hold, unless another call of this process has the key.
    /// `running` names the owner. It is written where there is no record, or over the one whose
    /// time is over and that has the revision `over`.
    pub(super) fn begin(
        app: &AppState,
        record: &str,
        owner: Uuid,
        running: Bytes,
        over: Option<u64>,
    ) -> Option<Self> {
        let lock = app.held_keys.try_lock(record.to_owned())?;
        let record = record.to_owned();
        Some(Self { app: Arc::clone(app), record, owner, running, revision: over, _lock: lock })
    }

    /// Whom the record names.
    pub(super) fn owner(&self) -> Uuid {
        self.owner
    }

    /// Takes the key, or goes on holding it; false where another has it.
    ///
    /// # Errors
    /// The backbone does not answer, or has no room.
    pub(super) async fn renew(&mut self) -> Result<bool> {
        let (running, lease) = (self.running.clone(), self.app.config.key_lease);
        self.write(running, lease).await
    }

    /// Writes the record, where it is this call's or nobody's; false where it is another's.
    ///
    /// # Errors
    /// The backbone does not answer, or has no room.
    pub(super) async fn write(&mut self, value: Bytes, lasting: Duration) -> Result<bool> {
        let (backbone, record) = (&self.app.backbone, &self.record);
        loop {
            let written = match self.revision {
                Some(revision) => backbone.update_with_ttl(record, value.clone(), revision, lasting).await?,
                None => backbone.create_with_ttl(record, value.clone(), lasting).await?,
            };
            match written {
                CasOutcome::Stored(revision) => {
                    self.revision = Some(revision);
                    return Ok(true);
                }
                // It lapsed while nobody could renew it.
                CasOutcome::Conflict(None) => self.revision = None,
                // An earlier write, of which nothing was heard.
                CasOutcome::Conflict(Some(found)) if self.owns(&found) => {
                    self.revision = Some(found.revision);
                }
                CasOutcome::Conflict(Some(_)) => return Ok(false),
            }
        }
    }

    fn owns(&self, found: &Entry) -> bool {
        framed::decode::<Owned>(&found.value).is_ok_and(|(owned, _)| owned.owner == Some(self.owner))
    }

    /// Renews the hold beside something else, until that ends. A renewal that is cut off by
    /// then may be stored all the same, which the next write finds out.
    pub(super) async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::select! {
            outcome = other => outcome,
            never = self.keep_on() => match never {},
        }
    }

    async fn keep_on(&mut self) -> Infallible {
        let every = self.app.config.key_lease / RENEWALS;
        let mut pause = every;
        loop {
            sleep(pause).await;
            pause = match self.renew().await {
                Ok(true) => every,
                Ok(false) => {
                    tracing::warn!(record = self.record, "another call took over an idempotency key");
                    return pending().await;
                }
                Err(error) => {
                    tracing::warn!(%error, record = self.record, "the hold on an idempotency key was not renewed");
                    every / RENEWALS
                }
            };
        }
    }

    /// Frees the key, if it is this call's still.
    pub(super) async fn release(self) {
        let backbone = &self.app.backbone;
        let released = async {
            // The revision of the last write need not be known.
            match backbone.get(&self.record).await?.filter(|found| self.owns(found)) {
                Some(found) => backbone.delete(&self.record, Some(found.revision)).await.map(drop),
                None => Ok(()),
            }
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, record = self.record, "an idempotency key stays taken until its hold lapses");
        }
    }
}
