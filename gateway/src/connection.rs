// SPDX-License-Identifier: Apache-2.0
//! One connection, HTTP/1.1 or HTTP/2 (told by its first bytes), and the
//! bounds that keep it from costing more than it is worth.
//!
//! Who is silent is gone after the first-byte timeout, who dribbles headers
//! after the headers timeout, whatever the protocol, and later ones by [`heads`]. A connection with no request
//! in work, and no answer of which the peer takes anything, is told to go within
//! the idle timeout, by what `tally` counts, and closed soon after; where the peer
//! takes no bytes at all, the kernel closes it after the write timeout. Of an HTTP/2
//! connection, a stream of whose answer nothing is taken goes after the idle timeout by
//! itself: see [`streams`]. An HTTP/2
//! peer that resets most of what it asks for (CVE-2023-44487) is told to go away, and
//! cut off when it goes on; CONTINUATION floods end at the header list's bound. A
//! gateway that stops answers what is on its way for [`LAST_REQUESTS`]. The outer
//! bounds here are somewhat wider than those of the router, so that most offenders
//! get a proper problem and only gross ones a bare status.

mod heads;
mod socket;
mod streams;

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{Router, body::Body};
use fanfold_protocol::limits;
use fanfold_storage::server::Lingering;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use socket2::SockRef;
use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::Service;

use self::{heads::Heads, socket::Watch, streams::Streams};
use crate::{
    GatewayConfig,
    pieces::{LentShare, Pieces},
    tally::{Marks, Running, Tally},
};

/// Headers that hyper reads at most: the router refuses fewer, politely.
const RAW_HEADERS_MAX: usize = 2 * limits::HEADERS_MAX;
/// Bytes of a head that hyper reads at most.
const RAW_HEAD_BYTES_MAX: u32 = 2 * (limits::HEADER_BYTES_MAX as u32 + limits::URL_BYTES_MAX as u32);
/// The same over HTTP/2, where what is beyond it is answered without a word of what was wrong.
const RAW_HEADER_LIST_BYTES_MAX: u32 = 4 * limits::HEADER_BYTES_MAX as u32;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Resets of requests not yet taken up, and of our own for errors.
const RESETS_MAX: usize = 64;
/// What one HTTP/2 stream and one connection may send before we have read it.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What the kernel takes of an answer and has not sent. It would take megabytes at a time
/// else, and then nothing until a third of them has gone, which over a slow way is for
/// minutes; and a ping of HTTP/2 would wait behind them until the peer counts as dead.
const UNSENT_BYTES_MAX: u32 = 64 << 10;
/// Buffered towards one HTTP/2 stream.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// How long a gateway that stops still reads requests: they were sent before anyone could know.
pub(crate) const LAST_REQUESTS: Duration = Duration::from_millis(250);
/// How a dead HTTP/2 peer is found out.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is held to.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    first_byte: Duration,
    headers: Duration,
    idle: Duration,
    write: Duration,
}

impl Bounds {
    pub(crate) fn of(config: &GatewayConfig) -> Self {
        Self {
            first_byte: config.first_byte_timeout,
            headers: config.headers_timeout,
            idle: config.idle_timeout,
            write: config.write_timeout,
        }
    }
}

/// Serves a connection to its end, or until it breaks one of the bounds.
pub(crate) async fn serve(stream: TcpStream, router: Router, bounds: Bounds, draining: CancellationToken) {
    // Answers are written whole: waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    // Whoever takes nothing holds up a write that no timer of ours stands beside.
    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(bounds.write)) {
        tracing::debug!(%error, "a peer that takes no answer is not noticed");
    }
    if let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        tracing::debug!(%error, "a peer that takes an answer slowly may count as one that takes none");
    }
    let mut byte = [0];
    let first = tokio::time::timeout(bounds.first_byte, stream.peek(&mut byte));
    let first = tokio::select! {
        biased;
        first = first => first,
        () = last_requests(&draining) => return,
    };
    if !matches!(first, Ok(Ok(1))) {
        return;
    }
    let tally = Arc::new(Tally::default());
    let counted = Arc::clone(&tally);
    let (socket, watch) = socket::watched(stream);
    let stream = Heads::new(socket, Arc::clone(&tally), bounds.headers);
    let (stopping, last) = (draining.clone(), CancellationToken::new());
    let until = last.clone();
    let service = service_fn(move |request| {
        answer(router.clone(), Arc::clone(&counted), stopping.clone(), until.clone(), request)
    });
    let builder = builder(bounds);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut gone = pin!(gone(&watch, &tally));
    // One timer for the connection's whole life: what happened is only counted.
    let mut look = pin!(tokio::time::sleep(bounds.headers));
    let mut leaving = false;
    let mut before = (Marks::default(), leaving);
    loop {
        tokio::select! {
            // What has come by now is begun before it is asked whether anything goes on.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection failed");
                }
                return;
            }
            () = gone.as_mut() => return,
            () = look.as_mut() => {
                let marks = tally.marks();
                let quiet = !marks.in_work() && before == (marks, leaving);
                // Whoever was told to go, and has done nothing since, will not.
                if !marks.any() || quiet && leaving {
                    return;
                }
                if quiet {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                before = (marks, leaving);
                look.as_mut().reset(Instant::now() + bounds.idle / 2);
            }
            () = left(&draining, &tally), if !leaving => {
                leaving = true;
                last.cancel();
                connection.as_mut().graceful_shutdown();
            }
            // Being told to go binds only who listens: HTTP/2 waits for the peer to say that it heard.
            () = tally.abused(2), if leaving => return,
        }
    }
}

/// Waits until the peer has closed its side and a request of HTTP/1.1 is in work, which has been read to
/// its end: as hyper itself has it, nobody waits for the answer then.
async fn gone(watch: &Watch, tally: &Tally) {
    watch.closed().await;
    // Asked again with the connection, on whose task all goes on that changes it.
    poll_fn(|_| if tally.only_works() { Poll::Ready(()) } else { Poll::Pending }).await;
    tracing::debug!("a peer went away before it was answered");
}

async fn left(draining: &CancellationToken, tally: &Tally) {
    tokio::select! {
        () = last_requests(draining) => {}
        () = tally.abused(1) => tracing::debug!("a peer abandons most requests; it is told to go away"),
    }
}

async fn last_requests(draining: &CancellationToken) {
    draining.cancelled().await;
    tokio::time::sleep(LAST_REQUESTS).await;
}

fn answer(
    mut router: Router,
    tally: Arc<Tally>,
    draining: CancellationToken,
    last: CancellationToken,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Pieces>, Infallible>> {
    let (head, body) = request.into_parts();
    let has_goaway = head.version == Version::HTTP_2;
    if !has_goaway {
        tally.note_turns();
    }
    let running = Running::begin(tally);
    let body = Body::new(Lingering::new(&head.headers, body).until(last).holding(running.reading()));
    let response = router.call(Request::from_parts(head, body));
    async move {
        let mut response = match response.await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if draining.is_cancelled() && !has_goaway {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // The framework tells the length of every answer, and hyper takes it out of these over HTTP/1.1 only
        // (RFC 9110, 8.6).
        if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let share = response.extensions_mut().remove::<Arc<LentShare>>();
        Ok(response.map(|body| running.answer(body).watched(share, streams::taking())))
    }
}

fn builder(bounds: Bounds) -> Builder<Streams> {
    let mut builder = Builder::new(Streams { patience: bounds.idle });
    builder
        .http1()
        .timer(TokioTimer::new())
        // From the end of the answer before: for heads alone it would be too long.
        .header_read_timeout(bounds.idle)
        .max_headers(RAW_HEADERS_MAX)
        .max_buf_size(RAW_HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(RAW_HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
