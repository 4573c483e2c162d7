// SPDX-License-Identifier: Apache-2.0
//! How long a later head may take on a connection of HTTP/1.1, from its first byte.
//!
//! hyper's own timer counts from the end of the answer before, and would close
//! connections that only wait. The first head is timed by whoever serves the
//! connection. What came together with the request before counts as waiting, as
//! nobody sees here that it is less than a head.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::tally::Tally;

/// A stream whose reads fail once a head takes too long.
pub(super) struct Heads<S> {
    stream: S,
    tally: Arc<Tally>,
    timeout: Duration,
    /// The head that comes in.
    head: Option<Head>,
}

struct Head {
    /// Requests that there were before it.
    after: u64,
    late: Pin<Box<Sleep>>,
}

impl<S> Heads<S> {
    pub(super) fn new(stream: S, tally: Arc<Tally>, timeout: Duration) -> Self {
        Self { stream, tally, timeout, head: None }
    }

    /// Notes that bytes came: a head begins where nothing else goes on.
    fn note(&mut self) {
        if self.head.is_none() && self.tally.waits_for_head() {
            let late = Box::pin(tokio::time::sleep(self.timeout));
            self.head = Some(Head { after: self.tally.started(), late });
        }
    }

    /// Waits until the head is late; for ever where none comes in.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = self.tally.started();
        match self.head.as_mut().filter(|head| head.after == begun) {
            Some(head) => head.late.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Of a request that has begun since, the head is whole.
        let begun = self.tally.started();
        self.head.take_if(|head| head.after != begun);
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.note();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                ready!(self.poll_late(cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "a head took too long")))
            }
            ended => ended,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::tally::Running;

    const TIMEOUT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_head_has_its_time_from_its_first_byte() {
        let tally = Arc::new(Tally::default());
        let (mut peer, stream) = tokio::io::duplex(64);
        let mut heads = Heads::new(stream, Arc::clone(&tally), TIMEOUT);
        let mut byte = [0];
        // The first one is another's to time.
        peer.write_all(b"G").await.unwrap();
        heads.read_exact(&mut byte).await.unwrap();
        assert!(tokio::time::timeout(2 * TIMEOUT, heads.read_exact(&mut byte)).await.is_err());
        tally.note_turns();
        let running = Running::begin(Arc::clone(&tally));
        let reading = running.reading();
        // Of the body, and of what may come while the answer goes out.
        peer.write_all(b"xy").await.unwrap();
        heads.read_exact(&mut byte).await.unwrap();
        let answer = running.answer(Body::empty());
        heads.read_exact(&mut byte).await.unwrap();
        drop(answer);
        // Of a body that nobody wanted, and that is still read away.
        peer.write_all(b"z").await.unwrap();
        heads.read_exact(&mut byte).await.unwrap();
        assert!(tokio::time::timeout(2 * TIMEOUT, heads.read_exact(&mut byte)).await.is_err());
        drop(reading);
        // The next head, of which more comes and not all of it.
        for piece in [b"G", b"E"] {
            peer.write_all(piece).await.unwrap();
            heads.read_exact(&mut byte).await.unwrap();
        }
        let error =
            tokio::time::timeout(20 * TIMEOUT, heads.read_exact(&mut byte)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_head_that_is_whole_is_not_late() {
        let tally = Arc::new(Tally::default());
        let (mut peer, stream) = tokio::io::duplex(64);
        let mut heads = Heads::new(stream, Arc::clone(&tally), TIMEOUT);
        tally.note_turns();
        drop(Running::begin(Arc::clone(&tally)));
        let mut byte = [0];
        peer.write_all(b"G").await.unwrap();
        heads.read_exact(&mut byte).await.unwrap();
        let running = Running::begin(Arc::clone(&tally));
        tokio::time::sleep(2 * TIMEOUT).await;
        assert!(heads.read_exact(&mut byte).now_or_never().is_none());
        drop(running);
        assert!(heads.read_exact(&mut byte).now_or_never().is_none());
    }
}
