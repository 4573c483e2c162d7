// SPDX-License-Identifier: Apache-2.0
//! How often a lease was given back because its worker stopped.
//!
//! A queue counts deliveries, whatever came of them, and a worker may not queue a lease
//! anew. So one that stops writes down that this delivery was no try. Invariant: a note
//! that is late or lost makes a try of what was none, and no lease is lost with it.

use std::time::Duration;

use fanfold_backbone::{Backbone, Delivery};
use fanfold_protocol::{digest::Digest, keys};

use super::aside::HOPS_MAX;

/// How long it is known, from the last time: longer than a lease waits for a worker.
const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// How many deliveries of a lease, of those that can be tries, were none; nothing where
/// that cannot be read.
pub(super) async fn count(backbone: &Backbone, delivery: &Delivery) -> Option<u32> {
    // None before this one counts by itself.
    if delivery.attempt <= HOPS_MAX + 1 {
        return Some(0);
    }
    match backbone.get(&key(delivery)).await {
        Ok(found) => Some(found.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or(0)),
        Err(error) => {
            tracing::debug!(%error, id = delivery.id, "how often a lease was handed over cannot be read");
            None
        }
    }
}

/// Writes down that this delivery was no try.
pub(super) async fn note(backbone: &Backbone, delivery: &Delivery) {
    if delivery.attempt <= HOPS_MAX {
        return;
    }
    let Some(before) = count(backbone, delivery).await else { return };
    let count = before.saturating_add(1);
    if let Err(error) = backbone.put_with_ttl(&key(delivery), count.to_string(), KEPT).await {
        tracing::debug!(%error, id = delivery.id, "a lease that is handed over counts as a try");
    }
}

fn key(delivery: &Delivery) -> String {
    keys::hand_over(&Digest::of(delivery.id.as_bytes()))
}
