// SPDX-License-Identifier: Apache-2.0
//! A TCP proxy that misbehaves on command, for the faults that a network has, and one of
//! HTTP for those of a store that is busy.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Cuts connections after so many bytes of answers, so many times.
#[derive(Clone, Default)]
pub struct Faults {
    /// Connections still to be cut.
    pub cuts: Arc<AtomicU64>,
    /// Connections that are still to stand still instead, for ever.
    pub stalls: Arc<AtomicU64>,
    /// Connections that are still to trickle instead, a byte at a time.
    pub trickles: Arc<AtomicU64>,
    /// Bytes of answers before a cut or a stall; 0 is before the first.
    pub after: Arc<AtomicU64>,
}

/// Starts a proxy before `target`; it ends with the runtime.
pub async fn start(target: SocketAddr, faults: Faults) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry(client, target, faults.clone()));
        }
    });
    address
}

async fn carry(client: TcpStream, target: SocketAddr, faults: Faults) {
    let server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let (mut buffer, mut carried) = (vec![0; 64 << 10], 0);
    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
        let is_due = carried + length as u64 > faults.after.load(SeqCst);
        let happens =
            |left: &AtomicU64| is_due && left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        let (cut, stalled) = (happens(&faults.cuts), happens(&faults.stalls));
        let rest = usize::try_from(faults.after.load(SeqCst).saturating_sub(carried)).unwrap().min(length);
        if happens(&faults.trickles) {
            let _ = to_client.write_all(&buffer[..rest]).await;
            for byte in &buffer[rest..length] {
                if to_client.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            break;
        }
        if cut || stalled {
            let _ = to_client.write_all(&buffer[..rest]).await;
            if stalled {
                std::future::pending::<()>().await;
            }
            break;
        }
        carried += length as u64;
        if to_client.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    upward.abort();
}

/// Starts a proxy before `target` through which requests go at so many bytes a second.
pub async fn start_narrow(target: SocketAddr, rate: u32) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry_slowly(client, target, rate));
        }
    });
    address
}

async fn carry_slowly(client: TcpStream, target: SocketAddr, rate: u32) {
    let server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let downward = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        if to_server.write_all(&buffer[..length]).await.is_err() {
            break;
        }
        let length = u32::try_from(length).unwrap();
        tokio::time::sleep(Duration::from_secs(1) * length / rate).await;
    }
    downward.abort();
}

/// What a store that is busy was asked and refused.
#[derive(Clone, Default)]
pub struct Busy {
    /// Whether it refuses anything.
    pub is_busy: Arc<AtomicBool>,
    /// Requests that came, and those that were refused.
    pub counts: (Arc<AtomicU64>, Arc<AtomicU64>),
}

impl Busy {
    /// The refusal of a request: of three in ten, never twice in a row.
    fn refusal(&self) -> Option<StatusCode> {
        let number = self.counts.0.fetch_add(1, SeqCst);
        let status = match number % 10 {
            0 | 6 => StatusCode::SERVICE_UNAVAILABLE,
            3 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => return None,
        };
        self.is_busy.load(SeqCst).then(|| {
            self.counts.1.fetch_add(1, SeqCst);
            status
        })
    }

    /// Requests that came since the last call, and those that were refused.
    pub fn take(&self) -> (u64, u64) {
        (self.counts.0.swap(0, SeqCst), self.counts.1.swap(0, SeqCst))
    }
}

/// Starts a proxy before `target` that refuses requests in its place.
pub async fn start_busy(target: SocketAddr, busy: Busy) -> SocketAddr {
    serve(move |request| answer(target, busy.refusal(), request)).await
}

/// Starts a server that answers each request so; it ends with the runtime.
async fn serve<A, E>(answer: impl Fn(Request<Incoming>) -> A + Clone + Send + 'static) -> SocketAddr
where
    A: Future<Output = Result<Response<Full<Bytes>>, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let answer = service_fn(answer.clone());
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), answer),
            );
        }
    });
    address
}

async fn answer(
    target: SocketAddr,
    refusal: Option<StatusCode>,
    request: Request<Incoming>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if let Some(status) = refusal {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        return Ok(response);
    }
    pass(target, Request::from_parts(head, Full::new(body))).await
}

/// Asks the store itself.
async fn pass(target: SocketAddr, request: Request<Full<Bytes>>) -> hyper::Result<Response<Full<Bytes>>> {
    let stream = TokioIo::new(TcpStream::connect(target).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}

/// Starts a store that has one answer for everything.
pub async fn start_saying(text: &'static str) -> SocketAddr {
    serve(move |_| async move { Ok::<_, Infallible>(Response::new(Full::from(text))) }).await
}

/// Starts a proxy before `target` that has answers of its own to some requests.
pub async fn start_instead(
    target: SocketAddr,
    instead: impl Fn(&Request<Incoming>) -> Option<Response<Full<Bytes>>> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    serve(move |request: Request<Incoming>| {
        let given = instead(&request);
        async move {
            let Some(given) = given else { return answer(target, None, request).await };
            request.into_body().collect().await?;
            Ok(given)
        }
    })
    .await
}

/// An answer in S3's words, with a code and a message; without a code it has no body.
pub fn saying(status: u16, code: &str, message: &str) -> Response<Full<Bytes>> {
    let text = match code {
        "" => String::new(),
        _ => format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// Starts a proxy before `target` that takes its time over copies and completions of uploads.
pub async fn start_slow(target: SocketAddr, delay: Duration) -> SocketAddr {
    serve(move |request| answer_slowly(target, delay, request)).await
}

async fn answer_slowly(
    target: SocketAddr,
    delay: Duration,
    request: Request<Incoming>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let is_copy = request.headers().contains_key("x-amz-copy-source");
    let is_completion =
        request.method() == Method::POST && request.uri().query().is_some_and(|q| q.contains("uploadId="));
    if is_copy || is_completion {
        tokio::time::sleep(delay).await;
    }
    answer(target, None, request).await
}

/// A store that says of one object, a few times, that it was not deleted.
#[derive(Clone)]
pub struct Reluctant {
    pub key: &'static str,
    /// Why.
    pub code: &'static str,
    /// Times that it still says so.
    pub left: Arc<AtomicU64>,
    /// Keys of each request so far.
    pub asked: Arc<Mutex<Vec<usize>>>,
}

impl Reluctant {
    fn refusal(&self, body: &str) -> Option<Bytes> {
        self.asked.lock().unwrap().push(body.matches("<Key>").count());
        let is_asked = body.contains(&format!("<Key>{}</Key>", self.key));
        if !is_asked || self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return None;
        }
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <DeleteResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Error><Key>{}</Key><Code>{}</Code><Message>not now</Message></Error></DeleteResult>",
            self.key, self.code
        );
        Some(text.into())
    }
}

/// Starts a proxy before `target` that refuses to delete one object.
pub async fn start_reluctant(target: SocketAddr, reluctant: Reluctant) -> SocketAddr {
    serve(move |request| answer_reluctantly(target, reluctant.clone(), request)).await
}

async fn answer_reluctantly(
    target: SocketAddr,
    reluctant: Reluctant,
    request: Request<Incoming>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let refusal = match head.method == Method::POST {
        true => reluctant.refusal(&String::from_utf8_lossy(&body)),
        false => None,
    };
    match refusal {
        Some(refusal) => Ok(Response::new(Full::new(refusal))),
        None => pass(target, Request::from_parts(head, Full::new(body))).await,
    }
}

/// Starts a proxy before `target` that passes requests on and cuts the connection in place of
/// the answer: to those of `method` with `query` in their URL, as many as are left.
pub async fn start_swallowing(
    target: SocketAddr,
    method: &'static str,
    query: &'static str,
    left: Arc<AtomicU64>,
) -> SocketAddr {
    serve(move |request: Request<Incoming>| {
        let is_meant =
            request.method() == method && request.uri().query().is_some_and(|text| text.contains(query));
        let left = Arc::clone(&left);
        async move {
            let answered = answer(target, None, request).await.map_err(std::io::Error::other);
            let is_lost = is_meant && left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
            let lost = std::io::ErrorKind::ConnectionReset;
            if is_lost { Err(lost.into()) } else { answered }
        }
    })
    .await
}
