// SPDX-License-Identifier: Apache-2.0
//! What the handles ask of the writer, and what it answers.
//!
//! The only way from the async side to the writer thread. Invariant: whatever an abandoned request had leased
//! goes back to its queue, since a [`Grant`] that nobody claims returns itself.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::embedded::{Embedded, Held};
use crate::error::Result;
use crate::kv::{CasOutcome, DeleteOutcome, Expected, Watch};
use crate::name::Scope;
use crate::queue::{Delivery, Depth, Enqueued, Lease, Message, Settled};

/// How a delivery ends, or goes on.
pub(crate) enum Verb {
    Ack,
    Nak(Duration),
    Extend(Duration),
    Dead(String),
}

/// One thing to do.
pub(crate) enum Op {
    Write { key: String, value: Bytes, ttl: Option<Duration>, expected: Expected },
    Delete { key: String, expected: Option<u64> },
    Watch(Scope),
    Enqueue { queue: String, messages: Vec<Message> },
    Pull(Pull),
    Settle { queue: String, sequence: u64, token: u64, verb: Verb },
    Release { queue: String, leases: Vec<(u64, u64)> },
    Replay { queue: String, sequences: Vec<u64> },
    Discard { queue: String, sequences: Vec<u64> },
    Depth(String),
    Ping,
    Close,
}

/// A wish for messages.
pub(crate) struct Pull {
    pub(crate) queue: String,
    pub(crate) max: usize,
    pub(crate) until: Instant,
    pub(crate) lease: Duration,
    /// Where a grant that nobody claims returns itself.
    pub(crate) back: Sender<Request>,
}

impl Op {
    /// True for what changes the file.
    pub(crate) fn is_durable(&self) -> bool {
        match self {
            Op::Write { .. } | Op::Delete { .. } | Op::Enqueue { .. } | Op::Release { .. } => true,
            Op::Replay { .. } | Op::Discard { .. } => true,
            Op::Settle { verb, .. } => !matches!(verb, Verb::Extend(_)),
            Op::Watch(_) | Op::Pull(_) | Op::Depth(_) | Op::Ping | Op::Close => false,
        }
    }

    /// True for what makes the file larger; it is refused first when the disk is full.
    pub(crate) fn grows(&self) -> bool {
        matches!(self, Op::Write { .. } | Op::Enqueue { .. })
    }
}

/// What came of it; each operation has its own variant.
pub(crate) enum Reply {
    Cas(CasOutcome),
    Delete(DeleteOutcome),
    Watch(Watch),
    Enqueued(Enqueued),
    Grant(Grant),
    Settled(Settled),
    Count(usize),
    Depth(Depth),
    Done,
}

/// An operation on its way to the writer.
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) reply: oneshot::Sender<Result<Reply>>,
    /// Held while the operation waits, so that memory stays bounded.
    pub(crate) _room: Option<OwnedSemaphorePermit>,
}

/// A message that was leased.
pub(crate) struct Leased {
    pub(crate) sequence: u64,
    pub(crate) token: u64,
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) payload: Bytes,
}

/// Leased messages on their way to whoever pulled.
pub(crate) struct Grant {
    pub(crate) queue: String,
    pub(crate) leased: Vec<Leased>,
    pub(crate) back: Sender<Request>,
}

impl Grant {
    /// Turns the grant into deliveries; from here on they are the caller's.
    pub(crate) fn claim(mut self, embedded: &Embedded) -> Vec<Delivery> {
        let leased = std::mem::take(&mut self.leased);
        leased
            .into_iter()
            .map(|leased| Delivery {
                queue: self.queue.clone(),
                id: leased.id,
                payload: leased.payload,
                attempt: leased.attempt,
                lease: Lease::Embedded(Held {
                    embedded: embedded.clone(),
                    sequence: leased.sequence,
                    token: leased.token,
                }),
            })
            .collect()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.leased.is_empty() {
            return;
        }
        let leases = self.leased.iter().map(|leased| (leased.sequence, leased.token)).collect();
        let op = Op::Release { queue: std::mem::take(&mut self.queue), leases };
        // Where the writer is gone, so are the leases.
        let _ = self.back.send(Request { op, reply: oneshot::channel().0, _room: None });
    }
}
