// SPDX-License-Identifier: Apache-2.0
//! One worker as this gateway sees it: its record, its load, and connections
//! that calls share.
//!
//! They are made when it is met, and again by the first call that needs one when they are gone, or once it says
//! that it is there still.
//! Invariant: [`Failure::NotStarted`] is said only when no byte of the call can
//! have reached a sandbox.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, buf::Chain};
use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    digest::Digest,
    invocation::Preparation,
    limits,
    worker::{
        FRAME_TYPE, Frame, HEAD_BYTES_MAX, Member, NO_ROOM, NOT_STARTED, PREPARE_PATH, PrepareHead,
        UNKNOWN_SUBJECT, WIRE_HEADER, WIRE_VERSION, encode,
    },
};
use futures::future::join_all;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{
    Identity,
    choice::{Load, Offer},
    failure::{Failure, causes, had_sandbox, has_no_room, is_refused},
    holdings::Holdings,
};

/// Of a worker's first word; what comes later is read past it.
const FIRST_BYTES: usize = 256;
/// For TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker that could not be reached is left alone for so long.
const REST: Duration = Duration::from_millis(500);
/// Before one that could not be reached is met once more.
const MEET_PAUSE: Duration = Duration::from_secs(10);
/// The same where no worker is reached: the gateway is not ready then, so that no call comes that would find one.
const MEET_PAUSE_ALONE: Duration = Duration::from_secs(2);
/// How often a silent worker is asked whether it is there, and how long it may
/// take: a host that is cut off is known to be gone after both.
const PING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));
/// How long a preparation may take: its turn behind two of the longest, and its own. One that lives and never ends it
/// would hold for good whoever waits.
const PREPARING_MAX: Duration = Duration::from_secs(3 * limits::COMPILE_WALL_SECONDS);
/// Windows that an answer of the usual size fits into.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Connections to a worker: all that goes over one is one task's work on either side.
const CONNECTIONS: usize = 2;

const WIRE: HeaderName = HeaderName::from_static(WIRE_HEADER);

type Body = Full<Chain<Bytes, Bytes>>;
type Sender = SendRequest<Body>;

/// What it takes to run a call.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The component, and whose it is.
    pub component: Preparation,
    /// Memory that it may take.
    pub memory_bytes: u64,
}

/// A worker.
pub struct Endpoint {
    /// As it says of itself; another instance is another endpoint.
    pub member: Member,
    draining: AtomicBool,
    store_answers: AtomicBool,
    holdings: RwLock<Holdings>,
    identity: watch::Receiver<Identity>,
    slots: Arc<Semaphore>,
    load: Mutex<Load>,
    /// Until when it is left alone, and what was found of it; none once it was reached.
    rest: Mutex<Option<(Instant, String)>>,
    authority: Authority,
    wire: HeaderValue,
    preparing_max: Duration,
    connections: Mutex<Vec<Sender>>,
    /// Counts calls, which take the connections in turn.
    turns: AtomicUsize,
    /// Held by whoever makes connections.
    connecting: tokio::sync::Mutex<()>,
}

impl Endpoint {
    /// A worker that nobody has called yet.
    pub fn new(member: Member, identity: watch::Receiver<Identity>) -> Self {
        let mut holdings = Holdings::default();
        holdings.hear(&member.cached);
        Self {
            draining: AtomicBool::new(member.draining),
            store_answers: AtomicBool::new(member.store_answers),
            holdings: RwLock::new(holdings),
            slots: Arc::new(Semaphore::new(member.slots as usize)),
            load: Mutex::new(Load::new(Instant::now())),
            rest: Mutex::default(),
            // What names no host is not reached, so what stands here for it is never sent.
            authority: member.address.parse().unwrap_or_else(|_| Authority::from_static("worker")),
            wire: HeaderValue::from(member.wire_shared().unwrap_or(WIRE_VERSION)),
            preparing_max: PREPARING_MAX,
            connections: Mutex::default(),
            turns: AtomicUsize::new(0),
            connecting: tokio::sync::Mutex::default(),
            member,
            identity,
        }
    }

    /// Takes over what it says of itself anew.
    pub fn hear(&self, member: &Member) {
        self.draining.store(member.draining, Ordering::Relaxed);
        self.store_answers.store(member.store_answers, Ordering::Relaxed);
        self.holdings_mut().hear(&member.cached);
    }

    /// Whether it has compiled a component, as far as is known.
    pub fn holds(&self, digest: Digest) -> bool {
        self.holdings.read().unwrap_or_else(PoisonError::into_inner).holds(digest)
    }

    /// Whether it is to be asked now to compile a component, which is noted.
    pub fn ask(&self, digest: Digest) -> bool {
        self.holdings_mut().ask(digest, Instant::now())
    }

    fn holdings_mut(&self) -> RwLockWriteGuard<'_, Holdings> {
        self.holdings.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its store answers it, as it says.
    pub fn store_answers(&self) -> bool {
        self.store_answers.load(Ordering::Relaxed)
    }

    /// Whether it takes calls and can do all that they may need.
    pub fn is_able(&self) -> bool {
        self.store_answers() && !self.is_draining()
    }

    /// Whether it takes nothing more, as it says.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether it takes calls, as far as is known.
    pub fn is_live(&self, now: Instant) -> bool {
        !self.is_draining() && !self.rests(now)
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|(until, _)| now < *until)
    }

    /// Whether a connection leads to it.
    pub fn is_reached(&self) -> bool {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().any(|sender| !sender.is_closed())
    }

    /// Whether the last try to connect to it was in vain. One that is met for the first time is not yet known to be so.
    pub fn is_out_of_reach(&self) -> bool {
        let is_failed = self.rest.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        is_failed && !self.is_reached()
    }

    /// Whether it is to be met although it was before: no connection leads to it, and nobody tries for one
    /// or has found out a moment ago that there is none. `others` are reached, or none is.
    pub fn is_to_be_met(&self, others: bool, now: Instant) -> bool {
        let failed =
            self.rest.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(until, _)| *until);
        let pause = if others { MEET_PAUSE } else { MEET_PAUSE_ALONE };
        let is_time = failed.is_none_or(|until| now >= until + pause);
        is_time && self.is_live(now) && !self.is_reached() && self.connecting.try_lock().is_ok()
    }

    /// Connects before anybody calls, so that both logs say at once what stands in the way of calls.
    pub async fn meet(&self) {
        if self.is_live(Instant::now()) {
            drop(self.sender().await);
        }
    }

    /// What one more call that may take so much memory finds here; none when it takes none.
    pub fn offer(&self, memory_bytes: u64, now: Instant) -> Option<Offer> {
        let free = self.slots.available_permits();
        (free > 0 && self.is_live(now)).then(|| {
            let slots = self.member.slots as usize;
            self.load().offer(slots.saturating_sub(free), slots, memory_bytes, now)
        })
    }

    /// A slot, unless all are taken.
    pub fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Has a component compiled and described. Takes no slot, as the worker takes none for it.
    pub async fn prepare(&self, needs: &Needs) -> Result<Bytes, Failure> {
        let Preparation { digest, tenant } = needs.component.clone();
        let frame = encode(&PrepareHead { digest, tenant }).map_err(Failure::NotStarted)?;
        self.call(PREPARE_PATH, frame, Some(needs)).await
    }

    /// Sends a frame and gives the frame of the answer. Says what it takes, if anything.
    pub async fn call(
        &self,
        path: &'static str,
        frame: Frame,
        needs: Option<&Needs>,
    ) -> Result<Bytes, Failure> {
        let exchange = self.exchange(path, frame, needs);
        if path != PREPARE_PATH {
            // Whoever calls waits no longer than the call may take.
            return exchange.await;
        }
        let prepared = tokio::time::timeout(self.preparing_max, exchange).await;
        prepared.unwrap_or_else(|_| Err(Failure::Lost(self.endless())))
    }

    async fn exchange(
        &self,
        path: &'static str,
        frame: Frame,
        needs: Option<&Needs>,
    ) -> Result<Bytes, Failure> {
        let lacking = needs.map(|needs| needs.component.digest).filter(|digest| !self.holds(*digest));
        let mut sender = self.sender().await.map_err(Failure::NotStarted)?;
        let begun = Instant::now();
        let request = self.request(path, frame).map_err(|error| Failure::NotStarted(self.lost(&error)))?;
        if let Err(error) = sender.ready().await {
            return Err(Failure::NotStarted(self.lost(&error)));
        }
        let answer = match sender.try_send_request(request).await {
            Ok(response) => self.answer(response).await,
            Err(mut failed) => {
                let unsent = failed.take_message().is_some() || is_refused(failed.error());
                let problem = self.lost(failed.error());
                Err(if unsent { Failure::NotStarted(problem) } else { Failure::Lost(problem) })
            }
        };
        match (lacking, &answer) {
            // It compiled first, so what that took says nothing of the next; nor does the end of a
            // call whose component could not be had.
            (Some(digest), Ok(frame)) => {
                if path == PREPARE_PATH || had_sandbox(frame) {
                    self.holdings_mut().answered(digest);
                }
            }
            // How long compiling takes, or that there is no room for it, says nothing of calls.
            _ if path == PREPARE_PATH => {}
            _ => self.note(begun, needs.map_or(0, |needs| needs.memory_bytes), &answer),
        }
        answer
    }

    fn request(&self, path: &'static str, frame: Frame) -> http::Result<Request<Body>> {
        let uri = Uri::builder()
            .scheme(Scheme::HTTPS)
            .authority(self.authority.clone())
            .path_and_query(PathAndQuery::from_static(path))
            .build()?;
        let mut request = Request::new(Full::new(frame.into_buf()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(WIRE, self.wire.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAME_TYPE));
        Ok(request)
    }

    /// Notes what the end of a call that may take so much memory says of the worker.
    fn note(&self, begun: Instant, memory_bytes: u64, answer: &Result<Bytes, Failure>) {
        let now = Instant::now();
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            // It is sent once more.
            Err(Failure::Untold(_)) => {}
            Err(Failure::NoRoom(_)) => load.refuse_from(memory_bytes, now),
            Err(Failure::NotStarted(problem)) if has_no_room(problem) => load.refuse(now),
            Err(Failure::NotStarted(problem) | Failure::Lost(problem))
                if problem.code.fault() == Fault::Platform =>
            {
                load.fail(now - begun, now);
            }
            _ => load.note(now - begun, now),
        }
    }

    async fn answer(&self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let (parts, body) = response.into_parts();
        let failure = match parts.headers.get(NOT_STARTED) {
            Some(said) if said == UNKNOWN_SUBJECT => Failure::Untold,
            Some(said) if said == NO_ROOM => Failure::NoRoom,
            Some(_) => Failure::NotStarted,
            None => Failure::Lost,
        };
        let bytes_max = limits::BODY_BYTES_MAX as usize + HEAD_BYTES_MAX;
        let body = match Limited::new(body, bytes_max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Err(failure(self.lost(error.as_ref()))),
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
        Err(failure(problem))
    }

    /// A sender over a connection that is there, or over a new one.
    async fn sender(&self) -> Result<Sender, Problem> {
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        // Who waited while others found it out does not find it out once more.
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, found)) = rest.filter(|(until, _)| Instant::now() < *until) {
            return Err(self.unreached(&found));
        }
        let begun = Instant::now();
        let (mut made, mut wrong) = (Vec::with_capacity(CONNECTIONS), String::new());
        for connected in join_all((0..CONNECTIONS).map(|_| self.connect())).await {
            match connected {
                Ok(sender) => made.push(sender),
                Err(found) => wrong = found,
            }
        }
        let Some(sender) = made.first().cloned() else {
            tracing::warn!(worker = %self.member.name, address = self.member.address, found = wrong, "a worker cannot be reached");
            let now = Instant::now();
            self.load.lock().unwrap_or_else(PoisonError::into_inner).fail(now - begun, now);
            let unreached = self.unreached(&wrong);
            *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some((now + REST, wrong));
            return Err(unreached);
        };
        *self.connections.lock().unwrap_or_else(PoisonError::into_inner) = made;
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(sender)
    }

    /// The next of the connections that are open. New ones are made when none is.
    fn open(&self) -> Option<Sender> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = connections.split_at(turn % connections.len().max(1));
        after.iter().chain(before).find(|sender| !sender.is_closed()).cloned()
    }

    async fn connect(&self) -> Result<Sender, String> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.dial()).await;
        connected.unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
    }

    async fn dial(&self) -> Result<Sender, String> {
        let address = &self.member.address;
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|error| format!("its address {address} names no host: {error}"))?;
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let connector = TlsConnector::from(Arc::clone(&self.identity.borrow().tls));
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        let stream = accepted(stream).await?;
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

    fn unreached(&self, found: &str) -> Problem {
        Problem::new(
            ErrorKind::WorkerUnavailable,
            format!(
                "expected to reach the worker {}, found: {found}; see the logs of both",
                self.member.name
            ),
        )
    }

    fn endless(&self) -> Problem {
        Problem::new(
            ErrorKind::WorkerLost,
            format!(
                "expected the worker {} to prepare a component within {} s, found no end of it; deploy again, and see \
                 its log",
                self.member.name,
                self.preparing_max.as_secs()
            ),
        )
    }

    fn lost(&self, error: &(dyn std::error::Error + 'static)) -> Problem {
        let error = causes(error);
        Problem::new(
            ErrorKind::WorkerLost,
            format!(
                "expected the worker {} to answer, found: {error}; the call may have run, call again if that does no harm",
                self.member.name
            ),
        )
    }
}

/// Waits for a worker's first word, its settings (RFC 9113, 3.4), which it says once it has taken our certificate. In
/// TLS 1.3 that is after our side has seen the handshake end, and a call sent before could not be told from a lost one.
async fn accepted<S: AsyncRead + Unpin>(stream: S) -> Result<BufReader<S>, String> {
    let mut stream = BufReader::with_capacity(FIRST_BYTES, stream);
    match stream.fill_buf().await.map(<[u8]>::len) {
        Ok(0) => Err("TLS: it closed the connection without a word".to_owned()),
        Ok(_) => Ok(stream),
        Err(error) => {
            Err(format!("TLS: it refuses the connection: {error}; look at tls.cert and tls.ca of both"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use fanfold_protocol::worker::{INVOKE_PATH, WIRE_VERSION_MIN};
    use hyper::{server, service::service_fn};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
    use uuid::Uuid;

    use super::*;

    fn member() -> Member {
        Member {
            name: "silent".parse().unwrap(),
            instance: Uuid::now_v7(),
            address: "127.0.0.1:1".to_owned(),
            wire: WIRE_VERSION,
            wire_min: WIRE_VERSION_MIN,
            version: "0.1.0".to_owned(),
            engine: "e".to_owned(),
            slots: 1,
            memory_bytes: 1 << 30,
            zone: None,
            draining: false,
            store_answers: true,
            cached: Vec::new(),
        }
    }

    /// One whose worker lives, takes everything and answers nothing.
    async fn silent(preparing_max: Duration) -> Endpoint {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let never = service_fn(|_: Request<Incoming>| {
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        });
        let serving = server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(serving.serve_connection(TokioIo::new(theirs), never));
        let (sender, connection): (Sender, _) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection);
        let (_, identity) = watch::channel(Identity { tls: Arc::new(tls), ends: 0 });
        let endpoint = Endpoint { preparing_max, ..Endpoint::new(member(), identity) };
        endpoint.connections.lock().unwrap().push(sender);
        endpoint
    }

    #[tokio::test]
    async fn a_preparation_without_an_end_is_given_up() {
        let most = Duration::from_millis(50);
        let endpoint = silent(most).await;
        let component = Preparation { digest: Digest::of(b"x"), tenant: None };
        let needs = Needs { component, memory_bytes: 1 };
        let prepared = tokio::time::timeout(Duration::from_secs(20), endpoint.prepare(&needs)).await.unwrap();
        let Err(Failure::Lost(problem)) = prepared else { panic!("{prepared:?}") };
        assert_eq!(problem.code, ErrorKind::WorkerLost);
        assert!(problem.detail.contains("worker silent to prepare"), "{problem}");
        assert!(!endpoint.holds(needs.component.digest));
        // Of calls their callers know how long they may take.
        let call = endpoint.call(INVOKE_PATH, Frame::default(), None);
        assert!(tokio::time::timeout(4 * most, call).await.is_err());
    }
}
