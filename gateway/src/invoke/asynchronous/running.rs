// SPDX-License-Identifier: Apache-2.0
//! The invocations that this process runs, and how they are stopped.
//!
//! Also keeps two deliveries of one invocation from running here at the same
//! time. Invariant: an invocation is noted here before its record is looked at,
//! so that no cancellation falls between.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use fanfold_backbone::{Backbone, Event};
use fanfold_protocol::invocation::{Progress, ProgressBoard};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Every invocation's cancellation.
const PATTERN: &str = "invocations.*.cancel";

/// The invocations that run here.
#[derive(Default)]
pub(super) struct Running {
    seats: Mutex<HashMap<Uuid, (CancellationToken, ProgressBoard)>>,
}

/// An invocation's place among them; dropped when it runs no more.
pub(super) struct Seat<'a> {
    running: &'a Running,
    id: Uuid,
    /// Cancelled with the invocation.
    pub(super) cancelled: CancellationToken,
    /// Where it tells how far it is.
    pub(super) board: ProgressBoard,
}

impl Running {
    /// A seat, unless the invocation runs here already.
    pub(super) fn enter(&self, id: Uuid) -> Option<Seat<'_>> {
        let mut seats = self.seats();
        let Entry::Vacant(place) = seats.entry(id) else { return None };
        let (cancelled, board) = place.insert((CancellationToken::new(), ProgressBoard::default())).clone();
        Some(Seat { running: self, id, cancelled, board })
    }

    /// Stops an invocation, if it runs here.
    pub(super) fn cancel(&self, id: &Uuid) {
        if let Some((token, _)) = self.seats().get(id) {
            token.cancel();
        }
    }

    /// How far an invocation says it is, if it runs here.
    pub(super) fn progress(&self, id: &Uuid) -> Option<Progress> {
        self.seats().get(id).and_then(|(_, board)| board.newest())
    }

    /// Listens to what other gateways cancel, for as long as the backbone is open.
    pub(super) async fn listen(&self, backbone: &Backbone) {
        let mut events = backbone.follow_subject(PATTERN);
        while let Some(event) = events.next().await {
            // What is lost is found when the lease is extended.
            let Event::Published { subject, .. } = event else { continue };
            if let Some(id) = subject.split('.').nth(1).and_then(|id| id.parse().ok()) {
                self.cancel(&id);
            }
        }
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<Uuid, (CancellationToken, ProgressBoard)>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.running.seats().remove(&self.id);
    }
}
