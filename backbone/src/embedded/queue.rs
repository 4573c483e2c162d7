// SPDX-License-Identifier: Apache-2.0
//! The state of one queue that lives in memory: what is ready, delayed, leased or recently seen, and who waits.
//!
//! Owned by the writer thread, rebuilt from the file when it opens. Invariant: every message in the schedule is
//! in exactly one place here, and leases end on the monotonic clock.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::embedded::op::{Pull, Reply};
use crate::error::Result;
use crate::queue::Depth;

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Ready,
    /// Until the store's clock shows this many milliseconds.
    Delayed(u64),
    /// With whoever holds the token, until then.
    Leased {
        token: u64,
        until: Instant,
    },
}

/// A queued message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    /// Deliveries so far.
    pub(crate) attempt: u32,
    pub(crate) place: Place,
}

/// Somebody who waits for messages.
pub(crate) struct Waiter {
    pub(crate) pull: Pull,
    pub(crate) reply: oneshot::Sender<Result<Reply>>,
}

/// One queue.
#[derive(Default)]
pub(crate) struct Queue {
    items: HashMap<u64, Item>,
    ready: BTreeSet<u64>,
    delayed: BTreeSet<(u64, u64)>,
    lapses: BTreeSet<(Instant, u64)>,
    seen: HashMap<Arc<str>, u64>,
    seen_order: VecDeque<(u64, Arc<str>)>,
    pub(crate) waiters: VecDeque<Waiter>,
    /// Dead letters in the file.
    pub(crate) dead: u64,
}

impl Queue {
    /// Puts a message where it belongs, from wherever it was.
    pub(crate) fn place(&mut self, sequence: u64, attempt: u32, place: Place) {
        self.remove(sequence);
        match place {
            Place::Ready => {
                self.ready.insert(sequence);
            }
            Place::Delayed(due) => {
                self.delayed.insert((due, sequence));
            }
            Place::Leased { until, .. } => {
                self.lapses.insert((until, sequence));
            }
        }
        self.items.insert(sequence, Item { attempt, place });
    }

    /// Takes a message out, if it is here.
    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Item> {
        let item = self.items.remove(&sequence)?;
        match item.place {
            Place::Ready => self.ready.remove(&sequence),
            Place::Delayed(due) => self.delayed.remove(&(due, sequence)),
            Place::Leased { until, .. } => self.lapses.remove(&(until, sequence)),
        };
        Some(item)
    }

    /// The message, if whoever asks still holds its lease.
    pub(crate) fn leased(&self, sequence: u64, held: u64) -> Option<Item> {
        let item = self.items.get(&sequence)?;
        matches!(item.place, Place::Leased { token, .. } if token == held).then_some(*item)
    }

    /// Every lease there is: sequence, item.
    pub(crate) fn leases(&self) -> impl Iterator<Item = (u64, Item)> + '_ {
        self.lapses.iter().filter_map(|(_, sequence)| Some((*sequence, *self.items.get(sequence)?)))
    }

    /// The message's item.
    pub(crate) fn item(&self, sequence: u64) -> Option<Item> {
        self.items.get(&sequence).copied()
    }

    /// The ready message that came first.
    pub(crate) fn first_ready(&self) -> Option<u64> {
        self.ready.first().copied()
    }

    /// Makes ready whose time has come: lapsed leases and delays.
    pub(crate) fn tick(&mut self, now: Instant, now_ms: u64) {
        while let Some(&(until, sequence)) = self.lapses.first()
            && until <= now
        {
            let attempt = self.items.get(&sequence).map_or(0, |item| item.attempt);
            self.place(sequence, attempt, Place::Ready);
        }
        while let Some(&(due, sequence)) = self.delayed.first()
            && due <= now_ms
        {
            let attempt = self.items.get(&sequence).map_or(0, |item| item.attempt);
            self.place(sequence, attempt, Place::Ready);
        }
        while self.seen_order.front().is_some_and(|(forget, _)| *forget <= now_ms) {
            if let Some((forget, id)) = self.seen_order.pop_front()
                && self.seen.get(&id) == Some(&forget)
            {
                self.seen.remove(&id);
            }
        }
    }

    /// Notes an id until the store's clock shows `forget`. False where it was known already.
    pub(crate) fn note(&mut self, id: &str, now_ms: u64, forget: u64) -> bool {
        if self.seen.get(id).is_some_and(|forget| *forget > now_ms) {
            return false;
        }
        let id: Arc<str> = id.into();
        self.seen.insert(Arc::clone(&id), forget);
        self.seen_order.push_back((forget, id));
        true
    }

    /// Takes out the waiters whose time is over or who left.
    pub(crate) fn expired_waiters(&mut self, now: Instant) -> Vec<Waiter> {
        let is_over = |waiter: &Waiter| waiter.pull.until <= now || waiter.reply.is_closed();
        if !self.waiters.iter().any(is_over) {
            return Vec::new();
        }
        let (over, waiting) = self.waiters.drain(..).partition(is_over);
        self.waiters = waiting;
        over.into()
    }

    /// When something happens here by itself: the next lapse or end of waiting, and the next delay to end.
    pub(crate) fn next(&self) -> (Option<Instant>, Option<u64>) {
        let lapse = self.lapses.first().map(|(until, _)| *until);
        let waiter = self.waiters.iter().map(|waiter| waiter.pull.until).min();
        let next = [lapse, waiter].into_iter().flatten().min();
        (next, self.delayed.first().map(|(due, _)| *due))
    }

    /// How full it is.
    pub(crate) fn depth(&self) -> Depth {
        Depth {
            ready: self.ready.len() as u64,
            leased: self.lapses.len() as u64,
            delayed: self.delayed.len() as u64,
            dead: self.dead,
        }
    }

    /// True where nothing would be lost by forgetting this queue.
    pub(crate) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.seen.is_empty() && self.waiters.is_empty() && self.dead == 0
    }
}
