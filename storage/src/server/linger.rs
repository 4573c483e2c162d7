// SPDX-License-Identifier: Apache-2.0
//! Bodies that are answered before they are read.
//!
//! Most HTTP/1.1 clients send their whole request before they look at the
//! answer. Were the connection closed on them, a refusal would reach them as a
//! broken pipe; so what a handler leaves unread is read and thrown away in the
//! background, within bounds, while the answer is on its way. HTTP/2 would say
//! "stop" right behind the answer, by a reset that is no error (RFC 9113, 8.1);
//! there are clients that drop the answer then, and so have the same time to
//! take it. Who asked `Expect: 100-continue` sends nothing before somebody begins
//! to read.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio_util::sync::CancellationToken;

/// What is thrown away at most, and how long that may take.
const BYTES_MAX: u64 = 256 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Whoever sends nothing for so long has noticed.
const SILENCE: Duration = Duration::from_secs(2);

/// A request's body whose rest is thrown away when it is dropped.
#[derive(Debug)]
pub struct Lingering {
    body: Option<Incoming>,
    /// Whether the client sends all of it whatever it is answered.
    sends_whole: bool,
    /// From here on nothing is thrown away any more.
    stop: Option<CancellationToken>,
    /// Dropped when nothing of the body is read any more.
    held: Option<Box<dyn Any + Send + Sync>>,
}

impl Lingering {
    /// The body of a request with these headers.
    #[must_use]
    pub fn new(headers: &HeaderMap, body: Incoming) -> Self {
        let sends_whole = !headers.contains_key(header::EXPECT);
        Self { body: Some(body), sends_whole, stop: None, held: None }
    }

    /// The same body, of which nothing is thrown away once `stop` is cancelled: a server that
    /// ends waits for no client that goes on to send what was refused.
    #[must_use]
    pub fn until(mut self, stop: CancellationToken) -> Self {
        self.stop = Some(stop);
        self
    }

    /// The same body, which drops `held` once it is read to its end or given up.
    #[must_use]
    pub fn holding(mut self, held: impl Send + Sync + 'static) -> Self {
        self.held = Some(Box::new(held));
        self
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Who waited to be told to go on is told so now.
        self.sends_whole = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.body = None;
            self.held = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| self.sends_whole && !body.is_end_stream())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let stop = self.stop.take().unwrap_or_default();
            let held = self.held.take();
            runtime.spawn(async move {
                let _ = tokio::time::timeout(TIMEOUT, stop.run_until_cancelled(throw_away(body))).await;
                drop(held);
            });
        }
    }
}

async fn throw_away(mut body: Incoming) {
    let mut bytes = 0;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, body.frame()).await {
        bytes += frame.data_ref().map_or(0, |piece| piece.len() as u64);
        if bytes > BYTES_MAX {
            return;
        }
    }
}
