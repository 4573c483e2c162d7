// SPDX-License-Identifier: Apache-2.0
//! How often a lease was given back because its worker stopped, or had no store.
//!
//! A queue counts deliveries, whatever came of them, and a worker may not queue a lease
//! anew. So one that stops writes down that this delivery was no try, and so does one
//! to which the store gives no answer: neither is the lease's fault. Invariant: a note
//! that is late or lost makes a try of what was none, and no lease is lost with it.

use std::time::Duration;

use fanfold_backbone::{Backbone, CasOutcome, Delivery, Entry, Result};
use fanfold_protocol::{digest::Digest, keys};

use super::aside::HOPS_MAX;

/// How long it is known, from the last time: longer than a lease waits for a worker.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Deliveries up to which a lease has patience: with workers that have no store, and where
/// nobody can say how many were tries. With what passes between them that is minutes to half
/// an hour. From there on each counts, so that a lease which itself keeps its workers from the
/// store ends.
pub(super) const PATIENCE: u32 = 64;

/// How many deliveries of a lease, of those that can be tries, were none; nothing where
/// that cannot be read.
pub(super) async fn count(backbone: &Backbone, delivery: &Delivery) -> Option<u32> {
    // None before this one counts by itself.
    if delivery.attempt <= HOPS_MAX + 1 {
        return Some(0);
    }
    match backbone.get(&key(delivery)).await {
        Ok(found) => Some(found.as_ref().map_or(0, read)),
        Err(error) => {
            tracing::debug!(%error, id = delivery.id, "how often a lease was handed over cannot be read");
            None
        }
    }
}

/// Writes down that this delivery was no try, as its worker stops.
pub(super) async fn note(backbone: &Backbone, delivery: &Delivery) {
    if let Err(error) = add(backbone, delivery).await {
        tracing::debug!(%error, id = delivery.id, "a lease that is handed over counts as a try");
    }
}

/// The same, as its worker has no store; up to some delivery.
pub(super) async fn note_without_store(backbone: &Backbone, delivery: &Delivery) {
    if delivery.attempt <= PATIENCE {
        note(backbone, delivery).await;
    }
}

/// What is read may be old, and another worker may add as well whose lease had lapsed.
async fn add(backbone: &Backbone, delivery: &Delivery) -> Result<()> {
    // How many of the deliveries before this one can have been noted; the first ones never are.
    let Some(before_max) = delivery.attempt.checked_sub(HOPS_MAX + 1) else { return Ok(()) };
    let key = key(delivery);
    let mut held = backbone.get(&key).await?;
    loop {
        let count = (held.as_ref().map_or(0, read).min(before_max) + 1).to_string();
        let outcome = match &held {
            Some(entry) => backbone.update_with_ttl(&key, count, entry.revision, KEPT).await?,
            None => backbone.create_with_ttl(&key, count, KEPT).await?,
        };
        match outcome {
            CasOutcome::Stored(_) => return Ok(()),
            CasOutcome::Conflict(found) => held = found,
        }
    }
}

fn read(entry: &Entry) -> u32 {
    serde_json::from_slice(&entry.value).unwrap_or(0)
}

fn key(delivery: &Delivery) -> String {
    keys::hand_over(&Digest::of(delivery.id.as_bytes()))
}

#[cfg(test)]
mod tests {
    use fanfold_backbone::{EmbeddedConfig, Message};

    use super::*;

    #[tokio::test]
    async fn notes_add_up_and_those_for_want_of_the_store_have_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("b.redb"))).await.unwrap();
        backbone.enqueue("leases", vec![Message::new("a", "x")]).await.unwrap();
        let (wait, hold) = (Duration::from_secs(20), Duration::from_secs(60));
        for attempt in 1..=PATIENCE + 2 {
            let pulled = backbone.pull("leases", 1, wait, hold).await.unwrap();
            let [delivery] = &pulled[..] else { panic!("it is not there") };
            assert_eq!(delivery.attempt, attempt);
            let noted = attempt.saturating_sub(HOPS_MAX + 1);
            assert_eq!(count(&backbone, delivery).await, Some(noted.min(PATIENCE - HOPS_MAX)), "{attempt}");
            note_without_store(&backbone, delivery).await;
            if attempt > PATIENCE + 1 {
                // Stopping is counted without end. Of two at once, neither is lost.
                tokio::join!(note(&backbone, delivery), note(&backbone, delivery));
                assert_eq!(count(&backbone, delivery).await, Some(PATIENCE - HOPS_MAX + 2));
            }
            delivery.nak(Duration::ZERO).await.unwrap();
        }
        backbone.close().await;
    }

    #[tokio::test]
    async fn what_was_noted_of_an_earlier_message_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("b.redb"))).await.unwrap();
        backbone.enqueue("leases", vec![Message::new("a", "x")]).await.unwrap();
        backbone.put(&keys::hand_over(&Digest::of(b"a")), "40").await.unwrap();
        let (wait, hold) = (Duration::from_secs(20), Duration::from_secs(60));
        for attempt in 1..=HOPS_MAX + 2 {
            let pulled = backbone.pull("leases", 1, wait, hold).await.unwrap();
            let [delivery] = &pulled[..] else { panic!("it is not there") };
            note(&backbone, delivery).await;
            delivery.nak(Duration::ZERO).await.unwrap();
            let noted = backbone.get(&key(delivery)).await.unwrap().unwrap();
            let expected = if attempt <= HOPS_MAX { 40 } else { attempt - HOPS_MAX };
            assert_eq!(read(&noted), expected, "{attempt}");
        }
        backbone.close().await;
    }
}
