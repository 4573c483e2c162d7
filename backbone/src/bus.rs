// SPDX-License-Identifier: Apache-2.0
//! The event bus: best effort fan-out of small notices (progress, cancellations, cache hints).
//!
//! Beside the flow of work, never part of it: whatever must not be lost goes through a queue or a key.
//! Invariant: a publisher never waits for a subscriber; a slow one loses its oldest events and is told so.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::task::AtomicWaker;
use tokio::sync::oneshot;

use crate::name::Pattern;

/// Largest payload of an event, in bytes.
pub const EVENT_BYTES_MAX: usize = crate::kv::VALUE_BYTES_MAX;
/// Events that may wait for one subscriber before the oldest are dropped.
pub const EVENTS_PENDING_MAX: usize = 4_096;
/// Bytes that may wait for one subscriber before the oldest events are dropped.
pub const EVENT_BYTES_PENDING_MAX: usize = 16 << 20;

/// What a subscriber sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody published this.
    Published {
        /// Where it was published.
        subject: String,
        /// What was published.
        payload: Bytes,
    },
    /// The subscriber was too slow, or cut off, and at least this many events are lost to it; read the state anew.
    Lagged(u64),
}

/// A stream of events. Ends when the backbone shuts down. Dropping it ends the subscription.
pub struct Subscription {
    inbox: Arc<Inbox>,
    /// What is cut from the beginning of each subject, in bytes.
    cut: usize,
    /// Tells a [`Feeder`] that this is gone.
    _heard: Option<oneshot::Sender<Infallible>>,
}

impl Subscription {
    /// The same, with so many bytes cut from the beginning of each subject.
    pub(crate) fn under(self, cut: usize) -> Self {
        Subscription { cut, ..self }
    }
}

/// The subscribers of one process.
#[derive(Default)]
pub(crate) struct Bus {
    subscribers: RwLock<Vec<(Pattern, Weak<Inbox>)>>,
}

#[derive(Default)]
struct Inbox {
    pending: Mutex<Pending>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Pending {
    events: VecDeque<(String, Bytes)>,
    bytes: usize,
    lost: u64,
    closed: bool,
}

impl Bus {
    /// Begins a subscription; events published from now on are seen.
    pub(crate) fn subscribe(&self, pattern: Pattern) -> Subscription {
        let inbox = Arc::new(Inbox::default());
        let mut subscribers = self.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|(_, inbox)| inbox.strong_count() > 0);
        subscribers.push((pattern, Arc::downgrade(&inbox)));
        Subscription { inbox, cut: 0, _heard: None }
    }

    /// Hands an event to whoever listens.
    pub(crate) fn publish(&self, subject: &str, payload: &Bytes) {
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for (pattern, inbox) in subscribers.iter() {
            if pattern.matches(subject)
                && let Some(inbox) = inbox.upgrade()
            {
                inbox.push(subject, payload);
            }
        }
    }

    /// Ends every subscription once it is read to its end.
    pub(crate) fn close(&self) {
        let mut subscribers = self.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        for inbox in subscribers.drain(..).filter_map(|(_, inbox)| inbox.upgrade()) {
            inbox.pending().closed = true;
            inbox.waker.wake();
        }
    }
}

/// Makes one subscription that is fed from elsewhere.
pub(crate) fn subscription() -> (Feeder, Subscription) {
    let inbox = Arc::new(Inbox::default());
    let (heard, unheard) = oneshot::channel();
    let feeder = Feeder { inbox: Arc::downgrade(&inbox), unheard };
    (feeder, Subscription { inbox, cut: 0, _heard: Some(heard) })
}

/// The writing end of a subscription. Dropping it ends the subscription once it is read to its end.
pub(crate) struct Feeder {
    inbox: Weak<Inbox>,
    unheard: oneshot::Receiver<Infallible>,
}

impl Feeder {
    /// Hands on an event; false once nobody listens.
    pub(crate) fn push(&self, subject: &str, payload: &Bytes) -> bool {
        self.inbox.upgrade().map(|inbox| inbox.push(subject, payload)).is_some()
    }

    /// Says that `count` events are lost; false once nobody listens.
    pub(crate) fn lose(&self, count: u64) -> bool {
        let Some(inbox) = self.inbox.upgrade() else { return false };
        inbox.pending().lost += count;
        inbox.waker.wake();
        true
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn unheard(&mut self) {
        // Nothing is ever sent; the sender goes with the subscription.
        let _ = (&mut self.unheard).await;
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.upgrade() {
            inbox.pending().closed = true;
            inbox.waker.wake();
        }
    }
}

impl Inbox {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, subject: &str, payload: &Bytes) {
        let mut pending = self.pending();
        pending.bytes += subject.len() + payload.len();
        pending.events.push_back((subject.to_owned(), payload.clone()));
        while pending.events.len() > EVENTS_PENDING_MAX || pending.bytes > EVENT_BYTES_PENDING_MAX {
            if pending.pop().is_some() {
                pending.lost += 1;
            }
        }
        drop(pending);
        self.waker.wake();
    }
}

impl Pending {
    fn pop(&mut self) -> Option<(String, Bytes)> {
        let (subject, payload) = self.events.pop_front()?;
        self.bytes -= subject.len() + payload.len();
        Some((subject, payload))
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.inbox.waker.register(context.waker());
        let mut pending = self.inbox.pending();
        if pending.lost > 0 {
            return Poll::Ready(Some(Event::Lagged(std::mem::take(&mut pending.lost))));
        }
        match pending.pop() {
            Some((mut subject, payload)) => {
                subject.drain(..self.cut);
                Poll::Ready(Some(Event::Published { subject, payload }))
            }
            None if pending.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
