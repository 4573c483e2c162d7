// SPDX-License-Identifier: Apache-2.0
//! The body of an answer on its way out, piece by piece.
//!
//! Pieces are small, and the next one is asked for when there is room for it, so
//! that a peer that takes none is told from one that is slow: over HTTP/2 as well,
//! whose windows no timeout of a socket sees. Large answers take a share of a budget,
//! which each of their pieces holds. Invariant: the share is given back when none
//! of an answer's bytes is in memory any more, and over HTTP/2 a large answer has not
//! ended before that, so that whoever watches its stream can end it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::body::{Body as _, Frame, SizeHint};

use crate::{
    extract::{BodyBudget, BudgetShare},
    problem::Refusal,
    tally::Running,
};

/// A piece of an answer.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// An answer that takes no share.
const SMALL_BYTES_MAX: u64 = 16 << 10;
/// The headers that a refusal keeps: a call that has run is known by its own.
const KEPT: &str = "x-fanfold-";

/// Has a large answer take its share of the budget, or refuses it.
pub(crate) fn hold(budget: &BodyBudget, mut response: Response) -> Response {
    let bytes = response.body().size_hint().lower();
    if bytes <= SMALL_BYTES_MAX {
        return response;
    }
    match budget.take(bytes) {
        Ok(share) => {
            response.extensions_mut().insert(LentShare::of(share));
            response
        }
        Err(problem) => {
            let mut refused = Refusal(problem).into_response();
            for (name, value) in response.headers() {
                if name.as_str().starts_with(KEPT) {
                    refused.headers_mut().insert(name.clone(), value.clone());
                }
            }
            refused
        }
    }
}

/// What an answer takes of the budget, lent to each of its pieces.
pub(crate) struct LentShare {
    _share: BudgetShare,
    /// Pieces that it is lent to.
    out: AtomicUsize,
    back: AtomicWaker,
}

impl LentShare {
    fn of(share: BudgetShare) -> Arc<Self> {
        Arc::new(Self { _share: share, out: AtomicUsize::new(0), back: AtomicWaker::new() })
    }
}

/// A piece of an answer that holds its share.
struct Held {
    bytes: Bytes,
    share: Arc<LentShare>,
}

impl Held {
    fn new(bytes: Bytes, share: &Arc<LentShare>) -> Self {
        share.out.fetch_add(1, Ordering::Relaxed);
        Self { bytes, share: Arc::clone(share) }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.out.fetch_sub(1, Ordering::AcqRel);
        self.share.back.wake();
    }
}

/// What of an answer waits for the peer of its stream to take it.
#[derive(Debug, Default)]
pub(crate) struct Taking(AtomicU64);

impl Taking {
    /// Which piece waits, counted from 1; none where the answer has not begun, or has
    /// nothing to give now.
    pub(crate) fn piece(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|piece| *piece > 0)
    }

    pub(crate) fn note(&self, piece: Option<u64>) {
        self.0.store(piece.unwrap_or(0), Ordering::Relaxed);
    }
}

/// The body of an answer in pieces that are counted.
pub(crate) struct Pieces {
    body: Body,
    /// What is left of a larger piece that the body gave.
    rest: Bytes,
    of: Running,
    /// What a large answer takes of the budget.
    share: Option<Arc<LentShare>>,
    /// Where an answer over HTTP/2 says what waits for its peer.
    taking: Option<Arc<Taking>>,
    given: u64,
    ended: bool,
    /// Pieces that the share was lent to when the end was last asked for.
    left: usize,
}

impl Pieces {
    pub(crate) fn new(body: Body, of: Running) -> Self {
        Self { body, rest: Bytes::new(), of, share: None, taking: None, given: 0, ended: false, left: 0 }
    }

    /// The same answer, whose bytes hold this share, and which says here what waits.
    pub(crate) fn watched(self, share: Option<Arc<LentShare>>, taking: Option<Arc<Taking>>) -> Self {
        Self { share, taking, ..self }
    }

    /// Notes that a piece waits to be taken.
    fn offer(&mut self) {
        self.given += 1;
        if let Some(taking) = &self.taking {
            taking.note(Some(self.given));
        }
    }

    fn lingers(&self) -> bool {
        self.share.is_some() && self.taking.is_some()
    }

    /// Waits until all pieces have given the share back, where somebody watches; each that does shows
    /// that the peer goes on.
    fn poll_back(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(share) = self.share.as_ref().filter(|_| self.lingers()) else { return Poll::Ready(()) };
        share.back.register(cx.waker());
        let out = share.out.load(Ordering::Acquire);
        if out == 0 {
            return Poll::Ready(());
        }
        if out < self.left {
            self.of.note_piece();
            self.offer();
        }
        self.left = out;
        Poll::Pending
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() && !self.ended {
            if let Some(taking) = &self.taking {
                taking.note(None);
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.ended = true;
                    self.left = self.share.as_ref().map_or(0, |share| share.out.load(Ordering::Acquire));
                    self.offer();
                }
            }
        }
        if self.ended {
            ready!(self.poll_back(cx));
            return Poll::Ready(None);
        }
        self.of.note_piece();
        self.offer();
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(match &self.share {
            Some(share) => Bytes::from_owner(Held::new(piece, share)),
            None => piece,
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream() && !self.lingers()
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
    use fanfold_protocol::ErrorKind;
    use futures::FutureExt;
    use http::{HeaderValue, StatusCode};
    use http_body_util::BodyExt;

    use super::*;
    use crate::tally::Tally;

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

    fn answer(bytes: usize) -> Response {
        let mut response = Body::from(vec![b'x'; bytes]).into_response();
        for name in ["x-fanfold-invocation-id", "x-own"] {
            response.headers_mut().insert(name, HeaderValue::from_static("1"));
        }
        response
    }

    fn pieces(mut response: Response, taking: Option<&Arc<Taking>>) -> Pieces {
        let share = response.extensions_mut().remove::<Arc<LentShare>>();
        let running = Running::begin(Arc::default());
        running.answer(response.into_body()).watched(share, taking.map(Arc::clone))
    }

    async fn piece(body: &mut Pieces) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn a_large_answer_holds_its_share_until_the_last_byte_has_gone() {
        const LARGE: usize = PIECE_BYTES_MAX + 1;
        let budget = BodyBudget::of_answers(LARGE as u64);
        let mut body = pieces(hold(&budget, answer(LARGE)), None);
        let refused = hold(&budget, answer(LARGE));
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        let kept: Vec<_> = refused.headers().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(kept, ["x-fanfold-invocation-id"]);
        // Small ones need none.
        let small = hold(&budget, answer(1_000));
        assert_eq!(
            (small.status(), small.extensions().get::<Arc<LentShare>>().is_none()),
            (StatusCode::OK, true)
        );
        let (first, last) = (piece(&mut body).await, piece(&mut body).await);
        assert!(body.is_end_stream() && body.frame().await.is_none());
        drop((body, first));
        let problem = budget.take(1).err().expect("held by the last byte");
        assert_eq!(problem.code, ErrorKind::ConcurrencyLimit);
        assert!(problem.detail.starts_with("answers that wait to be taken"), "{problem}");
        drop(last);
        assert!(budget.take(LARGE as u64).is_ok());
    }

    #[tokio::test]
    async fn a_watched_answer_has_not_ended_before_all_of_it_has_gone() {
        const LARGE: usize = PIECE_BYTES_MAX + 1;
        let (budget, taking) = (BodyBudget::of_answers(LARGE as u64), Arc::new(Taking::default()));
        let mut body = pieces(hold(&budget, answer(LARGE)), Some(&taking));
        assert_eq!(taking.piece(), None);
        let first = piece(&mut body).await;
        assert_eq!(taking.piece(), Some(1));
        let last = piece(&mut body).await;
        assert_eq!(taking.piece(), Some(2));
        let mut end = Box::pin(body.frame());
        for _ in 0..2 {
            assert!(end.as_mut().now_or_never().is_none());
            assert_eq!(taking.piece(), Some(3));
        }
        // A peer that takes the rest slowly has its time for each piece.
        drop(first);
        assert!(end.as_mut().now_or_never().is_none());
        assert_eq!(taking.piece(), Some(4));
        drop(last);
        assert!(end.await.is_none());
    }

    #[tokio::test]
    async fn an_answer_that_has_nothing_to_give_keeps_nobody_waiting() {
        let taking = Arc::new(Taking::default());
        let first = futures::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"a"))]);
        let stream = futures::StreamExt::chain(first, futures::stream::pending());
        let mut body = pieces(Response::new(Body::from_stream(stream)), Some(&taking));
        drop(piece(&mut body).await);
        assert_eq!(taking.piece(), Some(1));
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(taking.piece(), None);
    }
}
