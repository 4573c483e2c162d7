// SPDX-License-Identifier: Apache-2.0
//! The side of a worker that gateways call: HTTP/2 over TLS, certificates on
//! both sides.
//!
//! A call takes one of the worker's slots and finds room for its sandbox or is refused at
//! once, so that nothing waits here; the gateway tries another worker. Invariant: an answer with
//! [`NOT_STARTED`] is given only when nothing of the call has run. A stream that
//! is reset drops its call, which stops the sandbox.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, buf::Chain};
use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    function::Descriptions,
    invocation::{Invocation, Outcome, Preparation},
    limits,
    seldom::Seldom,
    worker::{
        FRAME_TYPE, Frame, HEAD_BYTES_MAX, INVOKE_PATH, NO_ROOM, NOT_STARTED, PREPARE_PATH, PrepareHead,
        UNKNOWN_SUBJECT, WIRE_HEADER, WIRE_VERSION, WIRE_VERSION_MIN, decode, decode_call, encode,
        encode_outcome,
    },
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::subjects::Subjects;

/// From accept to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole of a call's frame.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of gateways at once; each gateway has two.
const CONNECTIONS_MAX: usize = 2_048;
/// After an accept that failed, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Windows that a body of the usual size fits into.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How often a silent gateway is asked whether it is there, and how long it may take.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// Text of what calls are about that is kept.
const SUBJECTS_BYTES_MAX: usize = 64 << 20;
/// Components that gateways may have prepared at once; they wait for the compiler, which has
/// bounds of its own, and take no slots of calls meanwhile.
const PREPARATIONS_MAX: usize = 64;
/// What [`NOT_STARTED`] says where there is no more to say.
const REFUSED: &str = "1";

/// A call without an outcome: why, and what [`NOT_STARTED`] says of it.
type Unserved = (Problem, Option<&'static str>);
type Answer = Response<Full<Chain<Bytes, Bytes>>>;

/// What gateways may ask for.
///
/// A problem of the platform that either gives, other than `internal`, says that nothing
/// has run, and sends the gateway to another worker; so does `concurrency-limit`.
#[derive(Clone)]
pub struct Calls {
    /// Runs a handler; dropping the future stops it.
    pub invoke: BoxCloneSyncService<Invocation, Outcome, Problem>,
    /// Compiles a component and asks what it is.
    pub prepare: BoxCloneSyncService<Preparation, Descriptions, Problem>,
    /// Calls at once; more are refused.
    pub slots: usize,
}

/// Who a worker is to gateways, until its certificate is renewed.
#[derive(Clone)]
pub struct Identity {
    /// What it shows, and whom it believes.
    pub tls: Arc<ServerConfig>,
    /// When its certificate ends, in Unix time.
    pub ends: u64,
}

struct Desk {
    calls: Calls,
    slots: Semaphore,
    preparations: Semaphore,
    subjects: Subjects,
    draining: CancellationToken,
}

/// Takes calls until `draining`, then ends what runs, for at most `patience`, and drops
/// the rest. A connection is made with the `identity` of that moment.
pub async fn serve(
    listener: TcpListener,
    identity: watch::Receiver<Identity>,
    calls: Calls,
    draining: CancellationToken,
    patience: Duration,
) {
    let (slots, preparations) = (Semaphore::new(calls.slots), Semaphore::new(PREPARATIONS_MAX));
    let subjects = Subjects::new(SUBJECTS_BYTES_MAX);
    let desk = Arc::new(Desk { calls, slots, preparations, subjects, draining: draining.clone() });
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = draining.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let (acceptor, desk) = (TlsAcceptor::from(Arc::clone(&identity.borrow().tls)), Arc::clone(&desk));
        open.spawn(async move {
            connection(acceptor, desk, stream, peer).await;
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, ended).await.is_err() {
        tracing::warn!("calls were still running when the time to drain was over");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    static TOLD: Seldom = Seldom::new();
    let place = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            if TOLD.is_due(&error.to_string()) {
                tracing::warn!(%error, "gateways' connections cannot be accepted; this is tried again");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(acceptor: TlsAcceptor, desk: Arc<Desk>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "a gateway was refused: its certificate or its TLS does not fit");
            return;
        }
        Err(_) => {
            tracing::warn!(%peer, "a gateway was refused: its TLS handshake took too long");
            return;
        }
    };
    let draining = desk.draining.clone();
    let streams = u32::try_from(desk.calls.slots.saturating_mul(2)).unwrap_or(u32::MAX).max(16);
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(16 << 10)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = draining.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a gateway's connection ended");
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let answer = match self.admit(&request) {
            // The slot is held until the answer is there.
            Ok(_slot) => self.run(request).await,
            Err(problem) => Err(refused(problem)),
        };
        answer.map_or_else(refusal, |frame| {
            let mut response = Response::new(Full::new(frame.into_buf()));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAME_TYPE));
            response
        })
    }

    fn admit(&self, request: &Request<Incoming>) -> Result<tokio::sync::SemaphorePermit<'_>, Problem> {
        let known = [INVOKE_PATH, PREPARE_PATH].contains(&request.uri().path());
        if request.method() != Method::POST || !known {
            return Err(Problem::new(
                ErrorKind::RouteNotFound,
                "expected a call of a gateway, found another request",
            ));
        }
        check_wire(request.headers())?;
        if self.draining.is_cancelled() {
            return Err(Problem::new(
                ErrorKind::ShuttingDown,
                "expected a worker that takes work, found it stopping",
            ));
        }
        let (places, what, max) = if request.uri().path() == PREPARE_PATH {
            (&self.preparations, "preparations", PREPARATIONS_MAX)
        } else {
            (&self.slots, "calls", self.calls.slots)
        };
        places.try_acquire().map_err(|_| {
            let rule = format!("a worker takes at most {max} {what} at once, found as many");
            Problem::new(ErrorKind::ConcurrencyLimit, rule)
        })
    }

    async fn run(&self, request: Request<Incoming>) -> Result<Frame, Unserved> {
        let prepares = request.uri().path() == PREPARE_PATH;
        let frame = read(request.into_body()).await.map_err(refused)?;
        if prepares {
            let PrepareHead { digest, tenant } = decode(frame).map_err(refused)?;
            let described = self.calls.prepare.clone().oneshot(Preparation { digest, tenant }).await;
            return encode(&described.map_err(unserved)?).map_err(|problem| (problem, None));
        }
        let call = decode_call(frame).map_err(refused)?;
        let Some(subject) = self.subjects.find(&call) else {
            return Err((untold(), Some(UNKNOWN_SUBJECT)));
        };
        let outcome = self.calls.invoke.clone().oneshot(call.about(subject)).await;
        encode_outcome(outcome.map_err(unserved)?).map_err(|problem| (problem, None))
    }
}

/// The frame of a request.
async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let bytes_max = limits::BODY_BYTES_MAX as usize + HEAD_BYTES_MAX;
    let reading = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(FRAME_TIMEOUT, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(Problem::new(
            ErrorKind::InvalidRequest,
            format!("expected a frame of at most {bytes_max} bytes, found: {error}"),
        )),
        Err(_) => Err(Problem::new(
            ErrorKind::RequestTimeout,
            format!("expected a frame within {} s, found part of one", FRAME_TIMEOUT.as_secs()),
        )),
    }
}

fn check_wire(headers: &HeaderMap) -> Result<(), Problem> {
    let found = headers.get(WIRE_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("none");
    if found.parse().is_ok_and(|version: u32| (WIRE_VERSION_MIN..=WIRE_VERSION).contains(&version)) {
        return Ok(());
    }
    let found: String = found.chars().take(20).collect();
    let detail = format!(
        "expected version {WIRE_VERSION_MIN} to {WIRE_VERSION} of what passes between gateways and workers, found \
         {found}; run releases that are next to each other"
    );
    tracing::warn!(found, "a gateway was refused: it speaks another version");
    Err(Problem::new(ErrorKind::InvalidRequest, detail))
}

/// Of a call that was not taken.
fn refused(problem: Problem) -> Unserved {
    (problem, Some(REFUSED))
}

/// Of a call that came to no outcome: it has begun, unless there was no room for it or the
/// platform failed it before.
fn unserved(problem: Problem) -> Unserved {
    let said = match problem.code {
        ErrorKind::Internal => None,
        ErrorKind::ConcurrencyLimit => Some(NO_ROOM),
        code => (code.fault() == Fault::Platform).then_some(REFUSED),
    };
    (problem, said)
}

fn untold() -> Problem {
    Problem::new(
        ErrorKind::Internal,
        "expected to know what the call is about, found that this worker was not told; send it with the call",
    )
}

fn refusal((problem, unstarted): Unserved) -> Answer {
    let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    let mut response = Response::new(Full::new(body.chain(Bytes::new())));
    *response.status_mut() =
        StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(said) = unstarted {
        headers.insert(NOT_STARTED, HeaderValue::from_static(said));
    }
    response
}
