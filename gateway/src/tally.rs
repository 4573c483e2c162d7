// SPDX-License-Identifier: Apache-2.0
//! What goes on on a connection, counted so that one where nothing does can be told.
//!
//! A request is in work until its answer begins; from then on each piece of the
//! answer counts. Pieces are small, and the next one is asked for when there is room for
//! it, so that a peer that takes none is told from one that is slow: over HTTP/2
//! as well, whose windows no timeout of a socket sees. A request costs a few
//! counters here, no clock and no timer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// Requests that a peer may abandon while they run, beyond those it lets finish.
const ABANDONED_MAX: u64 = 128;
/// A piece of an answer.
const PIECE_BYTES_MAX: usize = 64 << 10;

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
        Pieces { body, rest: Bytes::new(), of: self }
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

/// The body of an answer in pieces that are counted.
pub(crate) struct Pieces {
    body: Body,
    /// Of a larger piece.
    rest: Bytes,
    of: Running,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        self.of.tally.pieces.fetch_add(1, Ordering::Relaxed);
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (behind, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(behind.lower() + rest);
        if let Some(upper) = behind.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::BodyExt;

    use super::*;
    use hyper::body::Body as _;

    #[tokio::test]
    async fn an_answer_goes_out_in_pieces_that_count() {
        let tally = Arc::new(Tally::default());
        assert!(!tally.marks().any());
        let running = Running::begin(Arc::clone(&tally));
        assert!(tally.marks().any() && tally.marks().in_work());
        let whole = Bytes::from(vec![b'x'; 2 * PIECE_BYTES_MAX + 1]);
        let mut body = running.answer(Body::from(whole.clone()));
        let mut seen = vec![tally.marks()];
        assert!(!seen[0].in_work());
        let mut left = whole.len() as u64;
        for expected in [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 1] {
            assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(left), false));
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(piece.len(), expected);
            left -= piece.len() as u64;
            assert!(!seen.contains(&tally.marks()));
            seen.push(tally.marks());
        }
        assert!(body.is_end_stream() && body.frame().await.is_none());
        drop(body);
        assert_eq!(tally.marks(), seen[3]);
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
