// SPDX-License-Identifier: Apache-2.0
//! Vocabulary of the work queue: messages, deliveries under a lease, depths and dead letters.
//!
//! Enqueue → pull (lease) → ack after the work is committed. Invariant: at least once; a message leaves its
//! queue only by an ack, or as a dead letter that says why. Order is by arrival, as far as redelivery allows.

use std::time::Duration;

use bytes::Bytes;

use crate::bounds::check_size;
use crate::embedded::Held;
use crate::error::Result;
use crate::name::check_key;
use crate::nats::Hold;

/// Largest payload of a message, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = crate::kv::VALUE_BYTES_MAX;
/// Longest message id, in bytes.
pub const ID_BYTES_MAX: usize = 256;
/// Most bytes of payload in one batch to enqueue.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// Work to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Dropped as a duplicate where the queue has seen it within the dedupe window.
    pub id: String,
    /// What the worker gets.
    pub payload: Bytes,
    /// Earliest delivery, counted from now.
    pub delay: Option<Duration>,
}

impl Message {
    /// A message to be delivered as soon as possible.
    pub fn new(id: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Message { id: id.into(), payload: payload.into(), delay: None }
    }

    /// The same message, delivered no earlier than `delay` from its enqueueing.
    #[must_use]
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }
}

/// What a pull asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PullRequest {
    /// Messages, at most; one where it is 0.
    pub(crate) max: usize,
    /// How long the first of them is waited for.
    pub(crate) wait: Duration,
    /// How long they are leased.
    pub(crate) lease: Duration,
    pub(crate) when_abandoned: WhenAbandoned,
}

/// What an implementation does about a pull that nobody waits for any more, where messages may still come to it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WhenAbandoned {
    /// Gives back all that still comes.
    GiveBack,
    /// Withdraws it, so that nothing comes any more; what is on its way just then may wait for its lease to lapse.
    Withdraw,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enqueued {
    /// Messages taken in.
    pub accepted: usize,
    /// Messages dropped since their id was seen within the dedupe window.
    pub duplicates: usize,
}

/// What became of an ack, nak, extension or dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It took effect.
    Done,
    /// The lease had lapsed and the message is gone or with somebody else; nothing was changed. Best effort:
    /// an implementation that cannot tell says `Done`.
    Stale,
}

/// How full a queue is. Approximate while work is going on; JetStream counts what was given back as leased until it
/// is delivered again, also where that is later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages that a pull would get now.
    pub ready: u64,
    /// Messages under a lease.
    pub leased: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Depth {
    /// Messages that wait, for a worker or for their time, where at most so many are worked on at once: what is
    /// leased beyond that was put off, whatever the implementation takes it for.
    pub fn waiting(&self, worked_on_max: u64) -> u64 {
        self.ready + self.delayed + self.leased.saturating_sub(worked_on_max)
    }
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names the letter within its queue, for replay and discard; grows with time.
    pub sequence: u64,
    /// The message's id.
    pub id: String,
    /// What the worker got.
    pub payload: Bytes,
    /// How often it was delivered.
    pub attempt: u32,
    /// Why it was given up.
    pub reason: String,
}

/// A message under a lease. Dropping it does nothing: it is delivered again once the lease lapses.
#[derive(Clone)]
pub struct Delivery {
    /// The queue it came from, with its scope.
    pub queue: String,
    /// The message's id.
    pub id: String,
    /// What was enqueued.
    pub payload: Bytes,
    /// 1 for the first delivery; counted before the delivery is handed out, as durably as the implementation keeps
    /// leases. Over NATS what an abandoned pull got counts as well.
    pub attempt: u32,
    pub(crate) lease: Lease,
}

/// What a delivery needs to settle itself.
#[derive(Clone)]
pub(crate) enum Lease {
    Embedded(Held),
    Nats(Hold),
}

/// Checks a batch; answers its size in bytes.
pub(crate) fn check_batch(queue: &str, messages: &[Message]) -> Result<usize> {
    check_key(queue)?;
    let mut bytes = 0;
    for message in messages {
        check_size("a message id", ID_BYTES_MAX, message.id.len())?;
        check_size("a payload", PAYLOAD_BYTES_MAX, message.payload.len())?;
        bytes += message.payload.len() + message.id.len();
    }
    check_size("a batch", BATCH_BYTES_MAX, bytes)?;
    Ok(bytes)
}

/// Of dead letters with their sizes in bytes, oldest first, those that are too many, or too much.
pub(crate) fn surplus(letters: &[(u64, u64)], count_max: usize, bytes_max: u64) -> Vec<u64> {
    let mut bytes = 0_u64;
    let newest = letters.iter().rev().take(count_max).take_while(|(_, size)| {
        bytes = bytes.saturating_add(*size);
        bytes <= bytes_max
    });
    let kept = newest.count();
    letters[..letters.len() - kept].iter().map(|(sequence, _)| *sequence).collect()
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", &self.queue)
            .field("id", &self.id)
            .field("attempt", &self.attempt)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// Removes the message; durable before it answers (a crash of a single NATS server of 2.9 may bring it back). A
    /// late ack, after the lease has lapsed and even after
    /// redelivery, is accepted as long as the message is there.
    ///
    /// # Errors
    /// [`crate::Error::StorageFull`], [`crate::Error::Unavailable`], [`crate::Error::Closed`].
    pub async fn ack(&self) -> Result<Settled> {
        match &self.lease {
            Lease::Embedded(held) => held.ack(self).await,
            Lease::Nats(hold) => hold.ack(self).await,
        }
    }

    /// Gives the message back, to be delivered again after `delay`.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn nak(&self, delay: Duration) -> Result<Settled> {
        match &self.lease {
            Lease::Embedded(held) => held.nak(self, delay).await,
            Lease::Nats(hold) => hold.nak(delay).await,
        }
    }

    /// Makes the lease end `lease` from now. JetStream knows one lease for a queue; pass what was pulled with.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn extend(&self, lease: Duration) -> Result<Settled> {
        match &self.lease {
            Lease::Embedded(held) => held.extend(self, lease).await,
            Lease::Nats(hold) => hold.extend(lease).await,
        }
    }

    /// Gives the message up: it becomes a dead letter with this reason.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn dead(&self, reason: &str) -> Result<Settled> {
        match &self.lease {
            Lease::Embedded(held) => held.dead(self, reason).await,
            Lease::Nats(hold) => hold.dead(self, reason).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_letters_are_kept() {
        let letters = [(3, 10), (5, 20), (6, 30), (9, 40)];
        let check = |count_max, bytes_max, expected: &[u64]| {
            assert_eq!(surplus(&letters, count_max, bytes_max), expected, "{count_max} {bytes_max}");
        };
        check(4, 100, &[]);
        check(9, u64::MAX, &[]);
        check(3, 100, &[3]);
        check(4, 99, &[3]);
        check(4, 70, &[3, 5]);
        // A small one behind a large one goes with it.
        check(4, 69, &[3, 5, 6]);
        check(4, 39, &[3, 5, 6, 9]);
        check(0, 100, &[3, 5, 6, 9]);
        assert!(surplus(&[], 0, 0).is_empty());
    }
}
