// SPDX-License-Identifier: Apache-2.0
//! The tasks of one HTTP/2 connection's streams, and how long each may stand still.
//!
//! A peer that opens no window for a stream and goes on with others keeps its
//! connection busy, and the stream's answer in memory. hyper asks for no more of
//! the answer then, and sets no timer; so each stream's task is watched from
//! without, and dropped when a piece of its answer has waited for too long, which
//! resets the stream. A stream whose peer takes all there is at once costs no timer.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;

use crate::pieces::Taking;

tokio::task_local! {
    /// What of the answer waits, on the task of its stream.
    static TAKING: Arc<Taking>;
}

/// What waits of the answer of the stream whose task this is; none over HTTP/1.1.
pub(super) fn taking() -> Option<Arc<Taking>> {
    TAKING.try_with(Arc::clone).ok()
}

/// Runs streams, each of which may stand still for so long.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) patience: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (taking, patience) = (Arc::new(Taking::default()), self.patience);
        tokio::spawn(TAKING.scope(Arc::clone(&taking), watch(stream, taking, patience)));
    }
}

/// Runs a stream to its end, or until a piece of its answer has waited for too long.
async fn watch(stream: impl Future<Output = ()>, taking: Arc<Taking>, patience: Duration) {
    let mut stream = pin!(stream);
    let mut late = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(piece) = taking.piece() else {
            late = None;
            return Poll::Pending;
        };
        let (_, sleep) = match late.take() {
            Some((of, sleep)) if of == piece => late.insert((of, sleep)),
            _ => late.insert((piece, Box::pin(tokio::time::sleep(patience)))),
        };
        ready!(sleep.as_mut().poll(cx));
        tracing::debug!("a peer takes none of an answer; its stream is reset");
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_piece_that_waits_for_too_long_ends_its_stream() {
        let taking = Arc::new(Taking::default());
        taking.note(Some(1));
        let watched = watch(pending(), Arc::clone(&taking), PATIENCE);
        assert!(tokio::time::timeout(100 * PATIENCE, watched).await.is_ok());
    }

    #[tokio::test]
    async fn a_stream_that_goes_on_or_has_nothing_to_give_is_left_alone() {
        let taking = Arc::new(Taking::default());
        let going_on = async {
            // Each piece has its own time.
            for piece in 1..=6 {
                taking.note(Some(piece));
                tokio::time::sleep(PATIENCE / 2).await;
            }
            taking.note(None);
            tokio::time::sleep(4 * PATIENCE).await;
            taking.note(Some(7));
        };
        let begun = tokio::time::Instant::now();
        watch(going_on, Arc::clone(&taking), PATIENCE).await;
        assert!(begun.elapsed() >= 7 * PATIENCE, "{:?}", begun.elapsed());
        assert_eq!(taking.piece(), Some(7));
    }

    #[tokio::test]
    async fn an_answer_finds_what_waits_on_its_own_task() {
        assert!(taking().is_none());
        let (told, heard) = tokio::sync::oneshot::channel();
        Streams { patience: PATIENCE }.execute(async move {
            let _ = told.send(taking().is_some());
        });
        assert!(heard.await.unwrap());
    }
}
