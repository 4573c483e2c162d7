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

/// Entries for which each collection of a queue keeps its room.
const KEPT_ENTRIES: usize = 1_024;

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

    /// Makes ready whose time has come: lapsed leases and delays. Forgets old ids, and gives back the room that a
    /// storm took.
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
        if let Some(room) = less_room(self.items.len(), self.items.capacity()) {
            self.items.shrink_to(room);
        }
        if let Some(room) = less_room(self.seen.len(), self.seen.capacity()) {
            self.seen.shrink_to(room);
        }
        if let Some(room) = less_room(self.seen_order.len(), self.seen_order.capacity()) {
            self.seen_order.shrink_to(room);
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

/// The room that a collection is to keep which has much more than it needs. It gets as much as twice what it holds,
/// so that it is moved again only after it has halved or doubled.
fn less_room(entries: usize, room: usize) -> Option<usize> {
    let needed = entries.max(KEPT_ENTRIES);
    (room / 8 > needed).then_some(2 * needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORM: u64 = 100_000;

    fn rooms(queue: &Queue) -> [usize; 3] {
        [queue.items.capacity(), queue.seen.capacity(), queue.seen_order.capacity()]
    }

    #[test]
    fn the_room_of_a_storm_is_given_back_and_what_is_left_of_it_stays() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for sequence in 0..STORM {
            assert!(queue.note(&sequence.to_string(), 0, 1_000 + sequence));
            queue.place(sequence, 0, Place::Ready);
        }
        let full = rooms(&queue);
        queue.tick(now, 999);
        assert_eq!(rooms(&queue), full);
        for sequence in 10..STORM {
            assert!(queue.remove(sequence).is_some());
        }
        queue.tick(now, 1_000 + STORM - 11);
        let left = rooms(&queue);
        assert!(left.iter().all(|room| *room <= 8 * KEPT_ENTRIES), "{left:?}, of {full:?}");
        assert_eq!((queue.depth().ready, queue.first_ready()), (10, Some(0)));
        assert!(queue.item(9).is_some() && queue.item(10).is_none());
        // The last ten ids are known still.
        assert_eq!((queue.seen.len(), queue.seen_order.len()), (10, 10));
        assert!(!queue.note(&(STORM - 1).to_string(), 1_000, 2_000));
        assert!(queue.note("0", 1_000, 2_000));
    }

    #[test]
    fn what_comes_and_goes_moves_nothing() {
        let check = |entries: usize, room: usize, expected: Option<usize>| {
            assert_eq!(less_room(entries, room), expected, "{entries} of {room}");
        };
        check(0, 8 * KEPT_ENTRIES, None);
        check(0, 8 * KEPT_ENTRIES + 8, Some(2 * KEPT_ENTRIES));
        check(10_000, 80_007, None);
        check(10_000, 80_008, Some(20_000));
        // Hash tables take a power of two, which may be twice as much as was asked for.
        check(5_001, 40_000, None);
    }
}
