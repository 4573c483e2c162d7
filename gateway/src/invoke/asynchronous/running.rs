// SPDX-License-Identifier: Apache-2.0
//! The invocations that this process runs, and how they are stopped.
//!
//! Also keeps two deliveries of one invocation from running here at the same
//! time. Invariant: an invocation is noted here before its record is looked at,
//! so that no cancellation falls between.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fanfold_backbone::{Backbone, Event};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Every invocation's cancellation.
const PATTERN: &str = "invocations.*.cancel";
/// Before listening is begun anew.
const PAUSE: Duration = Duration::from_secs(1);

/// The invocations that run here.
#[derive(Default)]
pub(super) struct Running {
    tokens: Mutex<HashMap<Uuid, CancellationToken>>,
}

/// An invocation's place among them; dropped when it runs no more.
pub(super) struct Seat<'a> {
    running: &'a Running,
    id: Uuid,
    /// Cancelled with the invocation.
    pub(super) cancelled: CancellationToken,
}

impl Running {
    /// A seat, unless the invocation runs here already.
    pub(super) fn enter(&self, id: Uuid) -> Option<Seat<'_>> {
        let mut tokens = self.tokens();
        let Entry::Vacant(place) = tokens.entry(id) else { return None };
        let cancelled = place.insert(CancellationToken::new()).clone();
        Some(Seat { running: self, id, cancelled })
    }

    /// Stops an invocation, if it runs here.
    pub(super) fn cancel(&self, id: &Uuid) {
        if let Some(token) = self.tokens().get(id) {
            token.cancel();
        }
    }

    /// Listens to what other gateways cancel, for ever.
    pub(super) async fn listen(&self, backbone: &Backbone) {
        loop {
            match backbone.subscribe(PATTERN).await {
                Ok(mut events) => {
                    while let Some(event) = events.next().await {
                        // What is lost is found when the lease is extended.
                        let Event::Published { subject, .. } = event else { continue };
                        if let Some(id) = subject.split('.').nth(1).and_then(|id| id.parse().ok()) {
                            self.cancel(&id);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "cancellations cannot be listened to; trying again"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<Uuid, CancellationToken>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.running.tokens().remove(&self.id);
    }
}
