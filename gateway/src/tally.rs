// SPDX-License-Identifier: Apache-2.0
//! What goes on on a connection, counted so that one where nothing does can be told.
//!
//! A request is in work until its answer begins; from then on each of the answer's
//! [`Pieces`] counts. A request costs a few counters here, no clock and no timer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use axum::body::Body;
use tokio::sync::Notify;

use crate::pieces::Pieces;

/// Requests that a peer may abandon while they run, beyond those it lets finish.
const ABANDONED_MAX: u64 = 128;

/// How a peer behaves.
#[derive(Default)]
pub(crate) struct Tally {
    started: AtomicU64,
    answered: AtomicU64,
    abandoned: AtomicU64,
    pieces: AtomicU64,
    /// Requests whose answers have not ended, and bodies that are not read to their ends.
    going_on: AtomicU64,
    /// Whether a request comes only after the one before, as over HTTP/1.1.
    takes_turns: AtomicBool,
    abusive: Notify,
}

/// The counters at one moment: the same ones twice say that nothing happened in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    started: u64,
    answered: u64,
    abandoned: u64,
    pieces: u64,
}

impl Tally {
    pub(crate) fn marks(&self) -> Marks {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Marks {
            started: read(&self.started),
            answered: read(&self.answered),
            abandoned: read(&self.abandoned),
            pieces: read(&self.pieces),
        }
    }

    /// Requests that there were.
    pub(crate) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Notes that a request comes only after the one before.
    pub(crate) fn note_turns(&self) {
        self.takes_turns.store(true, Ordering::Relaxed);
    }

    /// Whether what comes next is the head of another request, after a first one.
    pub(crate) fn waits_for_head(&self) -> bool {
        let going_on = self.going_on.load(Ordering::Relaxed) > 0;
        self.takes_turns.load(Ordering::Relaxed) && self.started() > 0 && !going_on
    }

    /// Whether all that goes on is that a request waits for its answer, and it came after the one before.
    pub(crate) fn only_works(&self) -> bool {
        let going_on = self.going_on.load(Ordering::Relaxed);
        self.takes_turns.load(Ordering::Relaxed) && self.marks().in_work() && going_on == 1
    }

    /// Waits until the peer has abandoned too much, so many times over.
    pub(crate) async fn abused(&self, times: u64) {
        while !self.marks().are_abuse(times) {
            self.abusive.notified().await;
        }
    }
}

impl Marks {
    /// Whether there was a request yet.
    pub(crate) fn any(&self) -> bool {
        self.started > 0
    }

    /// Whether a request waits for its answer to begin.
    pub(crate) fn in_work(&self) -> bool {
        self.started != self.answered + self.abandoned
    }

    fn are_abuse(&self, times: u64) -> bool {
        self.abandoned > times * ABANDONED_MAX + self.answered
    }
}

/// A request, from its head to the end of its answer. It counts as abandoned when it
/// is dropped before it was answered.
pub(crate) struct Running {
    tally: Arc<Tally>,
    answered: bool,
}

impl Running {
    pub(crate) fn begin(tally: Arc<Tally>) -> Self {
        tally.started.fetch_add(1, Ordering::Relaxed);
        tally.going_on.fetch_add(1, Ordering::Relaxed);
        Self { tally, answered: false }
    }

    /// To be held until its body is read or given up, which may be after its answer has ended.
    pub(crate) fn reading(&self) -> Reading {
        self.tally.going_on.fetch_add(1, Ordering::Relaxed);
        Reading { tally: Arc::clone(&self.tally) }
    }

    /// The body of its answer, which begins now.
    pub(crate) fn answer(mut self, body: Body) -> Pieces {
        self.answered = true;
        self.tally.answered.fetch_add(1, Ordering::Relaxed);
        Pieces::new(body, self)
    }

    /// Notes that a piece of its answer goes out.
    pub(crate) fn note_piece(&self) {
        self.tally.pieces.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tally.going_on.fetch_sub(1, Ordering::Relaxed);
        if self.answered {
            return;
        }
        self.tally.abandoned.fetch_add(1, Ordering::Relaxed);
        if self.tally.marks().are_abuse(1) {
            self.tally.abusive.notify_one();
        }
    }
}

/// A request's body that still comes in.
pub(crate) struct Reading {
    tally: Arc<Tally>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.tally.going_on.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_request_only_works_between_its_end_and_its_answer() {
        let tally = Arc::new(Tally::default());
        let running = Running::begin(Arc::clone(&tally));
        assert!(!tally.only_works(), "others may come beside it");
        tally.note_turns();
        assert!(tally.only_works());
        let reading = running.reading();
        assert!(!tally.only_works());
        drop(reading);
        assert!(tally.only_works());
        let answer = running.answer(Body::empty());
        assert!(!tally.only_works());
        drop(answer);
        assert!(!tally.only_works());
    }

    #[tokio::test]
    async fn who_abandons_most_requests_is_told_of() {
        let tally = Arc::new(Tally::default());
        let begin = || Running::begin(Arc::clone(&tally));
        drop(begin().answer(Body::empty()));
        for times in [1, 2] {
            assert!(tally.abused(times).now_or_never().is_none());
            // One may be abandoned for the one that was answered.
            while tally.marks().abandoned <= times * ABANDONED_MAX {
                drop(begin());
            }
            assert!(tally.abused(times).now_or_never().is_none());
            drop(begin());
            tally.abused(times).await;
        }
        assert!(!tally.marks().in_work());
    }
}
