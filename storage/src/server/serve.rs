// SPDX-License-Identifier: Apache-2.0
//! Connections: accepted, bounded in the time they may take to speak, served,
//! and let finish at the end.
//!
//! Own accept loop on hyper, because a header timeout and a graceful end
//! are needed (a silent connection must not hold anything). It is HTTP/1.1 only, as
//! S3 itself: the timeout counts from the first moment, and again after each
//! answer, where finding out about HTTP/2 would wait for a first byte for ever.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use fanfold_protocol::{seldom::Seldom, time};
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use s3s::{Body, StdError, service::S3Service};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    attributes::http_date,
    chunks::{self, Chunks},
    condition::http_time,
    control, failure,
    linger::Lingering,
    scope,
};

/// How long a connection may take to send the headers of a request, and to begin.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 4_096;
/// Pause after a failed accept, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then lets open requests finish for a while.
pub(super) async fn serve(service: S3Service, listener: TcpListener, shutdown: CancellationToken) {
    serve_within(HEADER_TIMEOUT, service, listener, shutdown).await;
}

async fn serve_within(
    header_timeout: Duration,
    service: S3Service,
    listener: TcpListener,
    shutdown: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    // Whoever has no more to say may still want the answer.
    builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).half_close(true);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let told = Seldom::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if told.is_due(&error.to_string()) {
                    tracing::warn!(%error, "connections cannot be accepted; this is tried again");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (service, stop) = (service.clone(), shutdown.clone());
        let handler =
            hyper::service::service_fn(move |request| handle(service.clone(), stop.clone(), request));
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), handler));
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off at the end of the grace period");
    }
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are written whole: waiting for more to send only adds latency.
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

async fn handle(
    service: S3Service,
    stop: CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    // hyper has nobody go on who has nothing to send. The AWS CLI takes the answer for one in place
    // of that, and the next one on the connection for a part of it.
    let waits_in_vain = head.headers.contains_key(header::EXPECT) && hyper::body::Body::is_end_stream(&body);
    let body = Lingering::new(&head.headers, body).until(stop);
    let mut response = answer(&service, head, body).await;
    if waits_in_vain {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Answers a request, whichever way it came.
pub(super) async fn answer<B>(service: &S3Service, head: Parts, body: B) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<StdError>> + Send + Sync + Unpin + 'static,
{
    let is_head = head.method == http::Method::HEAD;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let body = body.map_err(Into::into);
    let body = if chunks::are_in(&head.headers) {
        Body::http_body(Chunks::new(body))
    } else {
        Body::http_body(body)
    };
    let mut response = match scope::refusal(&head.headers, &head.uri) {
        Some(refusal) => refusal,
        None => ask(service, Request::from_parts(head, body), &id).await,
    };
    // s3s answers a HEAD with a range as if it were for the whole object.
    if is_head
        && response.status() == StatusCode::OK
        && response.headers().contains_key(header::CONTENT_RANGE)
    {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    mend_xml(&mut response);
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("fanfold"));
    // hyper's own is of the latest time that its thread has seen, also after the clock was put
    // back; clients would take that for their clock's error and sign for a time to come.
    if let Some(now) = http_date(&http_time(time::now().0)).and_then(|now| now.parse().ok()) {
        headers.insert(header::DATE, now);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-amz-request-id", id);
    }
    response
}

async fn ask(service: &S3Service, request: Request<Body>, id: &str) -> Response<Body> {
    service.call(request).await.unwrap_or_else(|error| {
        tracing::error!(request_id = id, ?error, "a request could not be answered");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Has keys in XML be read as what they are, and says what a refusal is about. The bytes of an
/// object stay as they are, whatever their type: what comes with them tells of ranges.
fn mend_xml(response: &mut Response<Body>) {
    let headers = response.headers();
    let is_xml = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/xml");
    if !is_xml || headers.contains_key(header::ACCEPT_RANGES) {
        return;
    }
    let written = |xml: Bytes| failure::explained(&xml).or_else(|| control::escaped(&xml));
    if let Some(written) = response.body().bytes().and_then(written) {
        *response.body_mut() = Body::from(written);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Instant};

    use s3s::{S3, S3Request, S3Response, S3Result, dto, s3_error, service::S3ServiceBuilder};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };
    use tokio_util::sync::DropGuard;

    use super::*;

    struct Nothing;

    impl S3 for Nothing {}

    /// Takes so long to say that it has no buckets that the end of what a client sends comes first.
    struct Slow;

    #[async_trait::async_trait]
    impl S3 for Slow {
        async fn list_buckets(
            &self,
            _: S3Request<dto::ListBucketsInput>,
        ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
            sleep(Duration::from_millis(200)).await;
            Err(s3_error!(NotImplemented, "there are none"))
        }
    }

    async fn served(header_timeout: Duration) -> (SocketAddr, DropGuard, JoinHandle<()>) {
        serving(Nothing, header_timeout).await
    }

    async fn serving(s3: impl S3, header_timeout: Duration) -> (SocketAddr, DropGuard, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let service = S3ServiceBuilder::new(s3).build();
        let serving = tokio::spawn(serve_within(header_timeout, service, listener, shutdown.clone()));
        (address, shutdown.drop_guard(), serving)
    }

    /// The one date of an answer is that of the clock.
    #[tokio::test]
    async fn answers_say_the_time_of_the_clock() {
        let (address, _until, _) = served(HEADER_TIMEOUT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let before = time::now().0 / 1_000;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        let after = time::now().0 / 1_000;
        let dates: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("date: ")).collect();
        let possible: Vec<_> = (before..=after).filter_map(|s| http_date(&http_time(s * 1_000))).collect();
        assert_eq!(dates.len(), 1, "{said}");
        assert!(possible.iter().any(|date| date == dates[0]), "{possible:?}: {said}");
    }

    /// s3s tells of a wrong name by a code without words, which clients show as «Unknown».
    #[tokio::test]
    async fn a_refusal_says_what_it_is_about() {
        let (address, _until, _) = served(HEADER_TIMEOUT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /py/k HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(
            said.contains("<Code>InvalidBucketName</Code><Message>a bucket name must be 3 to 63"),
            "{said}"
        );
    }

    /// A refusal reaches a client that sends its whole body before it looks.
    #[tokio::test]
    async fn a_body_that_nobody_read_breaks_no_connection() {
        const LENGTH: usize = 16 << 20;
        let (address, _until, _) = served(HEADER_TIMEOUT).await;
        for _ in 0..10 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("PUT /bucket/k HTTP/1.1\r\nhost: t\r\ncontent-length: {LENGTH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![b'x'; LENGTH]).await.unwrap();
            // The connection goes on with the next request.
            stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            assert_eq!(said.matches("HTTP/1.1 501").count(), 2, "{said}");
        }
    }

    /// As `nc -N` and some proxies do: the end of a request is the end of what is sent.
    #[tokio::test]
    async fn who_has_no_more_to_say_is_answered() {
        let (address, _until, _) = serving(Slow, HEADER_TIMEOUT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        let read = timeout(HEADER_TIMEOUT / 2, stream.read_to_string(&mut said)).await;
        read.expect("the connection ends with the answer").unwrap();
        assert!(said.starts_with("HTTP/1.1 501 "), "{said:?}");
    }

    /// Whoever waits to be told to send nothing begins the next request on another connection.
    #[tokio::test]
    async fn a_connection_ends_with_what_waited_in_vain() {
        let (address, _until, _) = served(HEADER_TIMEOUT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "PUT /bucket/k HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n";
        let both = format!("{head}\r\n{head}expect: 100-continue\r\n\r\n");
        stream.write_all(both.as_bytes()).await.unwrap();
        let mut said = String::new();
        let read = timeout(HEADER_TIMEOUT / 2, stream.read_to_string(&mut said)).await;
        read.expect("the connection ends with the answer").unwrap();
        let (first, second) = said.split_once("</Error>").unwrap();
        assert!(first.starts_with("HTTP/1.1 501 ") && !first.contains("connection: close"), "{said}");
        assert!(second.starts_with("HTTP/1.1 501 ") && second.contains("connection: close"), "{said}");
    }

    /// Who goes on to send what was refused does not hold up the end.
    #[tokio::test]
    async fn a_stop_waits_for_no_body_that_nobody_reads() {
        let (address, until, serving) = served(HEADER_TIMEOUT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = b"PUT /bucket/k HTTP/1.1\r\nhost: t\r\ncontent-length: 1000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut said = [0; 12];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 501");
        let (_said, mut sends) = stream.into_split();
        let dribbling = tokio::spawn(async move {
            while sends.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        });
        drop(until);
        timeout(GRACE / 2, serving).await.expect("the end of what is refused is waited for").unwrap();
        dribbling.await.unwrap();
    }

    /// Whoever says nothing, less than a head, or nothing more, leaves the place to others.
    #[tokio::test]
    async fn silent_connections_are_let_go() {
        let (address, until, serving) = served(Duration::from_millis(300)).await;
        let whole = "GET / HTTP/1.1\r\nhost: t\r\n\r\n";
        for sent in ["", "P", "GET / HTTP/1.1\r\nhost: t\r\nx-", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", whole] {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
            let mut said = Vec::new();
            let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await;
            assert!(read.is_ok(), "{sent:?} holds a connection after {:?}", begun.elapsed());
            assert!(sent != whole || said.starts_with(b"HTTP/1.1 "), "{said:?}");
        }
        drop(until);
        serving.await.unwrap();
    }
}
