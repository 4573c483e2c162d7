// SPDX-License-Identifier: Apache-2.0
//! A proxy between a client and its store that makes trouble, by a seed.
//!
//! Requests pass unchanged, signatures included. What happens to each is drawn
//! from the seed; nothing happens while it is calm.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// How often each kind of trouble happens, in hundredths of the requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    /// 503 in place of an answer; the store never sees the request.
    pub busy: u32,
    /// An answer that is up to half a second late.
    pub slow: u32,
    /// An answer that breaks off in the middle of its body.
    pub cut: u32,
    /// An answer that stands still in the middle of its body.
    pub stalled: u32,
    /// The store does what it is asked, and nobody hears of it.
    pub lost: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Busy,
    Slow(Duration),
    Cut,
    Stalled,
    Lost,
}

/// A running proxy; ended when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: AbortHandle,
}

struct Shared {
    upstream: SocketAddr,
    troubles: Troubles,
    calm: AtomicBool,
    /// Requests that came, and those that met with trouble.
    counts: (AtomicU64, AtomicU64),
    draw: Mutex<ChaCha8Rng>,
}

impl Proxy {
    /// Starts a proxy for the store at `upstream`, which need not be there yet.
    pub async fn start(upstream: SocketAddr, troubles: Troubles, seed: u64) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, upstream, troubles, seed).await
    }

    /// The same at an address of this host.
    pub async fn start_at(
        host: Ipv4Addr,
        upstream: SocketAddr,
        troubles: Troubles,
        seed: u64,
    ) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            troubles,
            calm: AtomicBool::new(false),
            counts: Default::default(),
            draw: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
        });
        let serving = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&serving), connection));
            }
        });
        Ok(Self { shared, address, accepting: accepting.abort_handle() })
    }

    /// Its base URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes trouble, as it does from its start.
    pub fn troubled(&self) {
        self.shared.calm.store(false, SeqCst);
    }

    /// Makes no more trouble.
    pub fn calm(&self) {
        self.shared.calm.store(true, SeqCst);
    }

    /// Requests that came, and those that met with trouble.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.counts.0.load(SeqCst), self.shared.counts.1.load(SeqCst))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn draw(&self) -> Trouble {
        self.counts.0.fetch_add(1, SeqCst);
        if self.calm.load(SeqCst) {
            return Trouble::None;
        }
        let mut draw = self.draw.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut place, late) = (draw.random_range(0..100_u32), draw.random_range(20..500_u64));
        let Troubles { busy, slow, cut, stalled, lost } = self.troubles;
        for (share, trouble) in [
            (busy, Trouble::Busy),
            (slow, Trouble::Slow(Duration::from_millis(late))),
            (cut, Trouble::Cut),
            (stalled, Trouble::Stalled),
            (lost, Trouble::Lost),
        ] {
            if place < share {
                self.counts.1.fetch_add(1, SeqCst);
                return trouble;
            }
            place -= share;
        }
        Trouble::None
    }
}

async fn serve(shared: Arc<Shared>, connection: TcpStream) {
    let answer = service_fn(|request| answer(&shared, request));
    // A connection that breaks is what this is for.
    let _ =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), answer).await;
}

/// An error ends the connection without an answer.
async fn answer(shared: &Shared, request: Request<Incoming>) -> std::io::Result<Response<Troubled>> {
    let trouble = shared.draw();
    match trouble {
        Trouble::Busy => return Ok(busy()),
        Trouble::Slow(late) => tokio::time::sleep(late).await,
        Trouble::None | Trouble::Cut | Trouble::Stalled | Trouble::Lost => {}
    }
    let response = forward(shared.upstream, request).await.map_err(std::io::Error::other)?;
    if trouble == Trouble::Lost {
        return Err(std::io::Error::other("the answer is lost"));
    }
    Ok(response.map(|body| Troubled { rest: body.len().div_ceil(2), body: Full::new(body), trouble }))
}

async fn forward(upstream: SocketAddr, request: Request<Incoming>) -> Result<Response<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let connection = TokioIo::new(TcpStream::connect(upstream).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(connection).await?;
    tokio::spawn(connection);
    let response = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

fn busy() -> Response<Troubled> {
    const TEXT: &[u8] =
        b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let body = Troubled { body: Full::new(Bytes::from_static(TEXT)), rest: 0, trouble: Trouble::None };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// A body that may end before its end, or never.
struct Troubled {
    body: Full<Bytes>,
    /// Bytes until the trouble begins.
    rest: usize,
    trouble: Trouble,
}

impl Body for Troubled {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let whole = !matches!(self.trouble, Trouble::Cut | Trouble::Stalled);
        if whole || self.body.is_end_stream() {
            return Pin::new(&mut self.body).poll_frame(cx).map_err(|never: Infallible| match never {});
        }
        if self.rest == 0 {
            return match self.trouble {
                // Whoever waits has to give up by itself.
                Trouble::Stalled => Poll::Pending,
                _ => Poll::Ready(Some(Err(std::io::Error::other("the answer breaks off")))),
            };
        }
        let rest = std::mem::take(&mut self.rest);
        let all = Pin::new(&mut self.body).poll_frame(cx).map_err(|never: Infallible| match never {});
        all.map(|frame| {
            frame.map(|frame| {
                frame.map(|frame| {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.body = Full::new(bytes.slice(rest..));
                    Frame::data(bytes.slice(..rest))
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The length that the store said stays in its header.
        match self.trouble {
            Trouble::Cut | Trouble::Stalled => SizeHint::new(),
            _ => self.body.size_hint(),
        }
    }
}
