// SPDX-License-Identifier: Apache-2.0
//! One worker as this gateway sees it: its record, its load, and a connection
//! that calls share.
//!
//! The connection is made by the first call that needs it, and again when it is
//! gone. Invariant: [`Failure::NotStarted`] is said only when no byte of the call
//! can have reached a sandbox.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    limits,
    worker::{FRAME_TYPE, HEAD_BYTES_MAX, Member, NOT_STARTED, WIRE_HEADER, WIRE_VERSION},
};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::choice::Load;

/// For TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker that could not be reached is left alone for so long.
const REST: Duration = Duration::from_millis(500);
/// How often a silent worker is asked whether it is there, and how long it may
/// take: a host that is cut off is known to be gone after both.
const PING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));
/// Windows that an answer of the usual size fits into.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why there is no outcome.
#[derive(Debug)]
pub enum Failure {
    /// Nothing of the call has run.
    NotStarted(Problem),
    /// It may have run, or run still.
    Lost(Problem),
}

/// A worker.
pub struct Endpoint {
    /// As it says of itself; another instance is another endpoint.
    pub member: Member,
    draining: AtomicBool,
    cached: RwLock<Vec<u64>>,
    heard: Mutex<Instant>,
    tls: Arc<ClientConfig>,
    slots: Arc<Semaphore>,
    load: Mutex<Load>,
    rests_until: Mutex<Option<Instant>>,
    connection: tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Endpoint {
    /// A worker that nobody has called yet.
    pub fn new(member: Member, tls: Arc<ClientConfig>) -> Self {
        Self {
            draining: AtomicBool::new(member.draining),
            cached: RwLock::new(member.cached.clone()),
            heard: Mutex::new(Instant::now()),
            slots: Arc::new(Semaphore::new(member.slots as usize)),
            load: Mutex::new(Load::new(Instant::now())),
            rests_until: Mutex::default(),
            connection: tokio::sync::Mutex::default(),
            member,
            tls,
        }
    }

    /// Takes over what it says of itself anew.
    pub fn hear(&self, member: &Member) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.draining.store(member.draining, Ordering::Relaxed);
        self.cached.write().unwrap_or_else(PoisonError::into_inner).clone_from(&member.cached);
    }

    /// Whether it has compiled a component.
    pub fn holds(&self, digest: Digest) -> bool {
        let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
        cached.binary_search(&digest.prefix()).is_ok()
    }

    /// Whether it said anything of late.
    pub fn heard_within(&self, time: Duration) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < time
    }

    /// Whether it takes calls, as far as is known.
    pub fn is_live(&self, now: Instant) -> bool {
        let resting = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        !self.draining.load(Ordering::Relaxed) && resting.is_none_or(|until| until <= now)
    }

    /// What one more call costs here; none when it takes none.
    pub fn cost(&self, now: Instant) -> Option<f64> {
        let free = self.slots.available_permits();
        (free > 0 && self.is_live(now)).then(|| {
            let in_work = (self.member.slots as usize).saturating_sub(free);
            self.load().cost(in_work, now)
        })
    }

    /// A slot, unless all are taken.
    pub fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Sends a frame and gives the frame of the answer.
    pub async fn call(&self, path: &str, frame: Bytes) -> Result<Bytes, Failure> {
        let mut sender = match self.sender().await {
            Ok(sender) => sender,
            Err(problem) => {
                *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Instant::now() + REST);
                return Err(Failure::NotStarted(problem));
            }
        };
        let begun = Instant::now();
        let request = Request::post(format!("https://{}{path}", self.member.address))
            .header(WIRE_HEADER, WIRE_VERSION)
            .header(header::CONTENT_TYPE, FRAME_TYPE)
            .body(Full::new(frame));
        let request = request.map_err(|error| Failure::NotStarted(self.lost(&error)))?;
        if let Err(error) = sender.ready().await {
            return Err(Failure::NotStarted(self.lost(&error)));
        }
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut failed) => {
                let unsent = failed.take_message().is_some() || is_refused(failed.error());
                let problem = self.lost(failed.error());
                return Err(if unsent { Failure::NotStarted(problem) } else { Failure::Lost(problem) });
            }
        };
        let answer = self.answer(response).await;
        let now = Instant::now();
        self.load.lock().unwrap_or_else(PoisonError::into_inner).note(now - begun, now);
        answer
    }

    async fn answer(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let (parts, body) = response.into_parts();
        let unstarted = parts.headers.contains_key(NOT_STARTED);
        let bytes_max = limits::BODY_BYTES_MAX as usize + HEAD_BYTES_MAX;
        let body = match Limited::new(body, bytes_max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let problem = self.lost(&error);
                return Err(if unstarted { Failure::NotStarted(problem) } else { Failure::Lost(problem) });
            }
        };
        if parts.status.is_success() {
            return Ok(body);
        }
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
            Problem::new(
                ErrorKind::WorkerLost,
                format!(
                    "expected an outcome of the worker {}, found status {}",
                    self.member.name, parts.status
                ),
            )
        });
        Err(if unstarted { Failure::NotStarted(problem) } else { Failure::Lost(problem) })
    }

    /// A sender over the connection that is there, or over a new one.
    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, Problem> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await;
        let connected = connected.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        let sender = connected.map_err(|found| {
            tracing::warn!(worker = %self.member.name, address = self.member.address, found, "a worker cannot be reached");
            Problem::new(
                ErrorKind::WorkerUnavailable,
                format!("expected to reach the worker {}, found: {found}; see the logs of both", self.member.name),
            )
        })?;
        *connection = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let address = &self.member.address;
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|error| format!("its address {address} names no host: {error}"))?;
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(256 << 10)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let worker = self.member.name.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%worker, %error, "the connection to a worker ended");
            }
        });
        Ok(sender)
    }

    fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, error: &impl std::fmt::Display) -> Problem {
        Problem::new(
            ErrorKind::WorkerLost,
            format!(
                "expected the worker {} to answer, found: {error}; the call may have run, call again if that does no harm",
                self.member.name
            ),
        )
    }
}

/// Whether the worker said, in HTTP/2's own words, that it did nothing with a stream.
fn is_refused(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        source = cause.source();
    }
    false
}
