// SPDX-License-Identifier: Apache-2.0
//! Peers that are silent, slow, gross or abusive cost little and not for long.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_gateway::GatewayConfig;
use fanfold_protocol::ErrorKind;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};

use crate::harness::{Service, start, start_with, until};

const SOON: Duration = Duration::from_millis(300);

async fn hasty() -> Service {
    start_with(|config| {
        config.first_byte_timeout = SOON;
        config.headers_timeout = SOON;
    })
    .await
}

/// How long until the service closes after `sent`, and what it said.
async fn until_closed(service: &Service, sent: &[u8]) -> (Duration, String) {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let begun = Instant::now();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await.unwrap();
    (begun.elapsed(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn silent_and_dribbling_peers_are_let_go() {
    let service = hasty().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for sent in [&b""[..], b"G", b"GET / HTTP/1.1\r\nhost: t\r\nx-", b"PRI * HT", preface] {
        let (elapsed, _) = until_closed(&service, sent).await;
        assert!(elapsed < Duration::from_secs(5), "{:?} took {elapsed:?}", String::from_utf8_lossy(sent));
    }
}

/// A request and its answer on a connection that is kept.
async fn asked_once(service: &Service) -> TcpStream {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    ask_again(&mut stream).await;
    stream
}

async fn ask_again(stream: &mut TcpStream) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(said).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
}

#[tokio::test]
async fn a_kept_connection_does_not_excuse_slow_headers() {
    let service = hasty().await;
    let mut stream = asked_once(&service).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nx-slow").await.unwrap();
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok() && said.is_empty(), "{said:?}");
}

/// What comes together with a request is less than a head for no longer than nothing at all.
#[tokio::test]
async fn half_a_head_behind_a_request_counts_as_silence() {
    let service = impatient(|_| {}).await;
    let sent = b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\nGET /healthz HTTP/1.1\r\nx-slow";
    let (elapsed, said) = until_closed(&service, sent).await;
    assert!(said.starts_with("HTTP/1.1 200") && elapsed < Duration::from_secs(5), "{said}");
}

/// The time for a head begins with it, and not with the end of the answer before.
#[tokio::test]
async fn who_asks_again_after_a_while_is_answered() {
    let service = hasty().await;
    let mut stream = asked_once(&service).await;
    for _ in 0..2 {
        tokio::time::sleep(3 * SOON).await;
        ask_again(&mut stream).await;
    }
}

/// The time for a head does not run while the rest of a refused body comes in.
#[tokio::test]
async fn a_refused_body_may_take_longer_than_a_head() {
    let service = hasty().await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(b"POST /v1/jobs HTTP/1.1\r\nhost: t\r\ncontent-length: 8\r\n\r\n").await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(SOON / 2).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut said = Vec::new();
    while !said.ends_with(b"}") {
        said.push(stream.read_u8().await.unwrap());
    }
    assert!(said.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&said));
    ask_again(&mut stream).await;
}

#[tokio::test]
async fn heads_that_others_may_read_otherwise_are_refused() {
    let service = start().await;
    let check = async |head: &str, status: &str, code: &str| {
        let (_, said) = until_closed(&service, format!("{head}connection: close\r\n\r\n").as_bytes()).await;
        let problem = said.contains(&format!("\"code\":\"{code}\""));
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && problem, "{head}: {said}");
    };
    check("GET /v1/jobs HTTP/1.1\r\n", "400", "invalid-request").await;
    check("GET /v1/jobs HTTP/1.1\r\nhost: a\r\nhost: b\r\n", "400", "invalid-request").await;
    for none in ["a b", "a, b", "a/v1/jobs?b", "user:word@a", "http://a", "\u{e9}"] {
        check(&format!("GET /v1/jobs HTTP/1.1\r\nhost: {none}\r\n"), "400", "invalid-request").await;
    }
    for host in ["a", "", "a_b.example:7070", "[::1]:7070", "[fe80::1%25eth0]"] {
        check(&format!("GET /v1/jobs HTTP/1.1\r\nhost: {host}\r\n"), "401", "unauthorized").await;
    }
    for codings in ["gzip, chunked", "chunked\r\ntransfer-encoding: chunked"] {
        let packed = format!("POST /v1/jobs HTTP/1.1\r\nhost: a\r\ntransfer-encoding: {codings}\r\n");
        let (_, said) =
            until_closed(&service, format!("{packed}connection: close\r\n\r\n0\r\n\r\n").as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 501") && said.contains("not-supported"), "{codings}: {said}");
    }
    let (_, said) = until_closed(&service, b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.0 200"), "{said}");
}

#[tokio::test]
async fn gross_heads_are_refused_by_the_parser() {
    let service = start().await;
    let many: String = (0..1_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let (_, said) = until_closed(&service, format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    let long = format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "x".repeat(200 << 10));
    let (_, said) = until_closed(&service, long.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 414") || said.starts_with("HTTP/1.1 431"), "{said}");
    let (_, said) = until_closed(&service, b"NONSENSE\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
}

#[tokio::test]
async fn silent_peers_do_not_hinder_others() {
    let service = start().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(service.address).await.unwrap());
    }
    let begun = Instant::now();
    assert_eq!(service.bare_request(http::Method::GET, "/healthz", &[], "").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn connections_beyond_the_bound_wait() {
    let service = Arc::new(start_with(|config| config.connections_max = 2).await);
    let held: Vec<_> = futures::future::join_all((0..2).map(|_| TcpStream::connect(service.address))).await;
    let waiting = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.bare_request(http::Method::GET, "/healthz", &[], "").await.status }
    });
    tokio::task::yield_now().await;
    drop(held);
    assert_eq!(waiting.await.unwrap(), 200);
}

/// The same, for peers that have spoken once.
async fn impatient(change: impl FnOnce(&mut GatewayConfig)) -> Service {
    start_with(|config| {
        (config.headers_timeout, config.idle_timeout) = (SOON, SOON);
        change(config);
    })
    .await
}

/// A client of HTTP/2, which answers every ping, and its connection.
async fn over_http_2(service: &Service) -> (SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn call_of(service: &Service, body: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://{}/v1/functions/f/invoke", service.address))
        .header("authorization", format!("Bearer {}", service.token))
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

/// The head of a call of HTTP/1.1 whose body has this length.
fn head_of_call(service: &Service, length: usize) -> String {
    format!(
        "POST /v1/functions/f/invoke HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\n\
         content-length: {length}\r\n\r\n",
        service.token
    )
}

#[tokio::test]
async fn who_asks_nothing_more_leaves_the_place_to_others() {
    let service = impatient(|config| config.connections_max = 1).await;
    let (mut sender, connection) = over_http_2(&service).await;
    let request = Request::get(format!("http://{}/healthz", service.address));
    let request = request.body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let asking = service.bare_request(http::Method::GET, "/healthz", &[], "");
    let asked = tokio::time::timeout(Duration::from_secs(8), asking).await;
    assert_eq!(asked.expect("a place").status, 200);
    let _ = connection.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_its_connection() {
    let service = impatient(|_| {}).await;
    service.deploy("f", "1").await;
    // Pings go on; what is full are the windows of HTTP/2.
    let (mut sender, connection) = over_http_2(&service).await;
    let answer = sender.send_request(call_of(&service, "large 6000000")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let ended = tokio::time::timeout(Duration::from_secs(8), connection).await;
    assert!(ended.is_ok(), "the connection is still there");
}

/// Whatever goes on beside it: it takes room from other answers meanwhile.
#[tokio::test]
async fn an_answer_that_nobody_takes_ends_on_a_busy_connection() {
    let service = impatient(|config| {
        config.idle_timeout = Duration::from_secs(2);
        config.answers_bytes_max = 8_000_000;
    })
    .await;
    service.deploy("f", "1").await;
    let (mut sender, connection) = over_http_2(&service).await;
    let untaken = sender.send_request(call_of(&service, "large 6000000")).await.unwrap();
    assert_eq!(untaken.status(), 200);
    let refused = service.invoke("f/invoke", "large 6000000").await;
    assert!(!refused.header("x-fanfold-invocation-id").is_empty());
    let problem = refused.is_problem(ErrorKind::ConcurrencyLimit);
    assert!(problem["detail"].as_str().unwrap().starts_with("answers that wait to be taken"), "{problem}");
    // Small ones go out all the same.
    assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
    let begun = Instant::now();
    while service.invoke("f/invoke", "large 6000000").await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the answer is still there");
        let beside = sender.send_request(call_of(&service, "sink")).await.unwrap();
        let said = beside.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&said[..], b"done");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!connection.is_finished());
    assert!(untaken.into_body().collect().await.is_err());
}

/// Windows that open bit by bit: the answer ends once the last of it has gone.
#[tokio::test]
async fn a_large_answer_over_http_2_is_whole() {
    let service = start().await;
    service.deploy("f", "1").await;
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(20_000)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for bytes in [16_384, 16_385, 65_537, 1_000_000] {
        let answer = sender.send_request(call_of(&service, &format!("large {bytes}"))).await.unwrap();
        assert_eq!(answer.headers()["content-length"], bytes.to_string());
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), bytes);
    }
}

#[tokio::test]
async fn who_takes_no_bytes_leaves_the_place_to_others() {
    let service = start_with(|config| {
        config.connections_max = 1;
        config.write_timeout = Duration::from_secs(1);
    })
    .await;
    service.deploy("f", "1").await;
    let mut peer = TcpStream::connect(service.address).await.unwrap();
    // More than the buffers of two sockets hold.
    for _ in 0..6 {
        let call = format!("{}large 6000000", head_of_call(&service, 13));
        peer.write_all(call.as_bytes()).await.unwrap();
    }
    let asking = service.bare_request(http::Method::GET, "/healthz", &[], "");
    let asked = tokio::time::timeout(Duration::from_secs(20), asking).await;
    assert_eq!(asked.expect("a place").status, 200);
}

/// Buffers of the kernel have room for most of it: as long as they empty, nothing more is asked for.
#[tokio::test]
async fn who_takes_an_answer_slowly_has_all_of_it() {
    const BYTES: usize = 6_000_000;
    let service = impatient(|config| config.idle_timeout = Duration::from_secs(2)).await;
    service.deploy("f", "1").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    let mut peer = socket.connect(service.address).await.unwrap();
    let call = format!("{}large {BYTES}", head_of_call(&service, 13));
    peer.write_all(call.as_bytes()).await.unwrap();
    let (mut taken, mut piece, begun) = (0, vec![0; 16 << 10], Instant::now());
    while taken < BYTES {
        if begun.elapsed() < Duration::from_secs(4) {
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        let bytes = peer.read(&mut piece).await.unwrap();
        assert!(bytes > 0, "cut off after {taken} bytes and {:?}", begun.elapsed());
        taken += bytes;
    }
}

#[tokio::test]
async fn long_calls_slow_uploads_and_streams_live_on() {
    let service = impatient(|config| config.idle_timeout = Duration::from_secs(2)).await;
    service.deploy("f", "1").await;
    let call = async {
        let (mut sender, _connection) = over_http_2(&service).await;
        assert_eq!(sender.send_request(call_of(&service, "sleep 3500")).await.unwrap().status(), 200);
        assert_eq!(service.invoke("f/invoke", "sleep 1000").await.status, 200);
    };
    let upload = async {
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        stream.write_all(head_of_call(&service, 10).as_bytes()).await.unwrap();
        for byte in b"echo 12345" {
            tokio::time::sleep(Duration::from_millis(350)).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
        let mut said = [0; 15];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200 OK");
    };
    let (mut sender, followed) = over_http_2(&service).await;
    let request = Request::get(format!("http://{}/v1/functions/f/logs?follow=true", service.address))
        .header("authorization", format!("Bearer {}", service.token))
        .body(Full::<Bytes>::default())
        .unwrap();
    let mut lines = sender.send_request(request).await.unwrap().into_body();
    let stream = async {
        for n in 0..12 {
            assert_eq!(service.invoke("f/invoke", format!("log {n}")).await.status, 200);
            let piece = lines.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(String::from_utf8_lossy(&piece).contains(&format!("\"message\":\"{n}\"")), "{piece:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::join!(call, upload, stream);
    assert!(!followed.is_finished());
}

#[tokio::test]
async fn streams_beyond_the_bound_are_refused() {
    let service = start_with(|config| config.event_streams_max = 1).await;
    service.deploy("f", "1").await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!(
        "GET /v1/functions/f/logs?follow=true HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\n\r\n",
        service.token
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = [0; 15];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 200 OK");
    let of_job = "/v1/jobs/0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a10/events";
    for path in ["/v1/functions/f/logs?follow=true", of_job] {
        let problem = service.get(path).await.is_problem(ErrorKind::ConcurrencyLimit);
        assert!(problem["detail"].as_str().unwrap().starts_with("at most 1 streams"), "{problem}");
    }
    assert_eq!(service.get("/v1/functions/f/logs").await.status, 200);
    drop(stream);
    let status = async || service.get(of_job).await.status;
    until("room for a stream", status, |status| *status == 404).await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let service = start_with(|config| config.function_concurrency = 1_000).await;
    service.deploy("f", "1").await;
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let ended = tokio::spawn(connection);
    let token = format!("Bearer {}", service.token);
    let mut sent = 0;
    while !ended.is_finished() && sent < 20_000 {
        let request = Request::post(format!("http://{}/v1/functions/f/invoke", service.address))
            .header("authorization", &token)
            .body(Full::new(Bytes::from_static(b"sleep 20000")))
            .unwrap();
        if sender.ready().await.is_err() {
            break;
        }
        let answer = tokio::spawn(sender.send_request(request));
        let calls = service.workers.calls.load(Ordering::SeqCst);
        // Reset once the call has been taken up, or soon.
        for _ in 0..200 {
            if service.workers.calls.load(Ordering::SeqCst) > calls {
                break;
            }
            tokio::task::yield_now().await;
        }
        answer.abort();
        let _ = answer.await;
        sent += 1;
    }
    drop(sender);
    assert!(sent < 20_000, "the connection was never ended");
    assert_eq!(service.bare_request(http::Method::GET, "/healthz", &[], "").await.status, 200);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A name of HPACK's table (RFC 7541, appendix A) with a value, which goes into no table.
fn field(index: &[u8], value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    assert!(length < 0x7f, "a longer one is written otherwise");
    [index, &[length], value.as_bytes()].concat()
}

/// One that reads nothing hears of nothing, and acknowledges no end.
#[tokio::test]
async fn who_goes_on_resetting_is_cut_off() {
    let service = start_with(|config| config.function_concurrency = 1_000).await;
    service.deploy("f", "1").await;
    let mut peer = TcpStream::connect(service.address).await.unwrap();
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    peer.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    // POST, http, the path, the host and the token.
    let path = field(&[0x04], "/v1/functions/f/invoke");
    let token = field(&[0x0f, 0x08], &format!("Bearer {}", service.token));
    let head = [vec![0x83, 0x86], path, field(&[0x01], "t"), token].concat();
    let calls = || service.workers.calls.load(Ordering::SeqCst);
    let mut sent = 0;
    while sent < 1_000 {
        let (stream, before) = (2 * sent + 1, calls());
        let asked = [frame(1, 0x4, stream, &head), frame(0, 0x1, stream, b"sleep 20000")].concat();
        if peer.write_all(&asked).await.is_err() {
            break;
        }
        for _ in 0..200 {
            if calls() > before {
                break;
            }
            tokio::task::yield_now().await;
        }
        if peer.write_all(&frame(3, 0, stream, &8_u32.to_be_bytes())).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 1_000, "the connection was never ended");
    assert_eq!(service.bare_request(http::Method::GET, "/healthz", &[], "").await.status, 200);
}

/// A refusal reaches clients that send all of a large body before they read.
#[tokio::test]
async fn what_is_refused_unread_is_still_answered() {
    let service = start().await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let body = vec![b'x'; 32 << 20];
    let head = format!("POST /v1/jobs HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", body.len());
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut said = [0; 12];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 401");
        // The rest of the answer, so that the connection can be used again.
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            seen.push(stream.read_u8().await.unwrap());
        }
    }
}

/// The next frame: its kind, flags and stream.
async fn next_frame(peer: &mut TcpStream) -> (u8, u8, u32) {
    let mut head = [0; 9];
    peer.read_exact(&mut head).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    peer.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
}

/// Reads until an answer has ended, and no stream is reset before.
async fn until_answered(peer: &mut TcpStream, stream: u32) {
    loop {
        let (kind, flags, of) = next_frame(peer).await;
        assert_ne!(kind, 3, "stream {of} is reset");
        if of == stream && kind <= 1 && flags & 0x1 != 0 {
            return;
        }
    }
}

/// There are clients that drop an answer for a reset behind it, though that is no error.
#[tokio::test]
async fn what_is_refused_unread_is_not_reset_over_http_2() {
    let service = start().await;
    let mut peer = TcpStream::connect(service.address).await.unwrap();
    peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let head =
        |method: u8, path: &str| [vec![method, 0x86], field(&[0x04], path), field(&[0x01], "t")].concat();
    let post = [frame(4, 0, 0, &[]), frame(1, 0x4, 1, &head(0x83, "/v1/jobs")), frame(0, 0, 1, &[b'x'; 999])];
    peer.write_all(&post.concat()).await.unwrap();
    until_answered(&mut peer, 1).await;
    // A reset would stand before the answer to what is asked next.
    peer.write_all(&frame(1, 0x5, 3, &head(0x82, "/healthz"))).await.unwrap();
    until_answered(&mut peer, 3).await;
    // The rest of the body is taken.
    let rest =
        [frame(0, 0, 1, &[b'x'; 999]), frame(0, 0x1, 1, b"x"), frame(1, 0x5, 5, &head(0x82, "/healthz"))];
    peer.write_all(&rest.concat()).await.unwrap();
    until_answered(&mut peer, 5).await;
}

#[tokio::test]
async fn who_waits_to_be_asked_is_answered_at_once() {
    let service = start().await;
    let sent = b"POST /v1/jobs HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 99999\r\n\r\n";
    let (elapsed, said) = until_closed(&service, sent).await;
    assert!(said.starts_with("HTTP/1.1 401") && elapsed < Duration::from_secs(5), "{said} {elapsed:?}");
}

#[tokio::test]
async fn http_2_is_served() {
    let service = start().await;
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        Request::get(format!("http://{}/healthz", service.address)).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_answer_that_ends_with_its_head_tells_no_length_over_http_2() {
    let service = start().await;
    service.deploy("f", "1").await;
    let (mut sender, _connection) = over_http_2(&service).await;
    for (status, length) in [(200_u16, Some("4")), (204, None), (304, None)] {
        let request = call_of(&service, &format!("status {status}"));
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status);
        let told = answer.headers().get("content-length").map(|value| value.to_str().unwrap());
        assert_eq!(told, length, "{status}");
    }
}

#[tokio::test]
async fn gross_headers_are_refused_in_words_over_http_2() {
    let service = start().await;
    let stream = TcpStream::connect(service.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let value = "v".repeat(1_000);
    let request = Request::get(format!("http://{}/v1/functions", service.address));
    let request = (0..100).fold(request, |request, n| request.header(format!("x-{n}"), value.as_str()));
    let answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 431);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn stopping_finishes_what_runs() {
    let service = Arc::new(start().await);
    service.deploy("f", "1").await;
    let running = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.invoke("f/invoke", "sleep 500").await.status }
    });
    service.until_calls(1).await;
    service.shutdown.cancel();
    assert_eq!(running.await.unwrap(), 200);
    let closed = async {
        while TcpStream::connect(service.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
}

/// Whoever connects while it stops is answered or refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stopping_resets_nobody() {
    for _ in 0..10 {
        let service = start().await;
        let address = service.address;
        let client = move || async move {
            let mut answered = 0;
            loop {
                let mut stream = match TcpStream::connect(address).await {
                    Ok(stream) => stream,
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return answered,
                    Err(error) => panic!("after {answered} answers: {error}"),
                };
                let (request, mut said) = (b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n", [0; 15]);
                let sent = stream.write_all(request).await;
                let read = stream.read_exact(&mut said).await;
                assert!(sent.is_ok() && read.is_ok(), "after {answered} answers: {sent:?} {read:?}");
                assert_eq!(&said, b"HTTP/1.1 200 OK");
                answered += 1;
            }
        };
        let clients: Vec<_> = (0..8).map(|_| tokio::spawn(client())).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        service.shutdown.cancel();
        for client in clients {
            assert!(client.await.unwrap() > 0);
        }
    }
}

/// Balancers and clients do not know at once: what they send to the last is answered.
#[tokio::test]
async fn stopping_answers_what_is_on_its_way() {
    let service = start().await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n";
    let mut kept = TcpStream::connect(service.address).await.unwrap();
    kept.write_all(request).await.unwrap();
    let mut said = [0; 15];
    kept.read_exact(&mut said).await.unwrap();
    let mut connections = vec![kept];
    for _ in 0..20 {
        connections.push(TcpStream::connect(service.address).await.unwrap());
    }
    service.shutdown.cancel();
    for connection in &mut connections {
        tokio::task::yield_now().await;
        connection.write_all(request).await.unwrap();
    }
    for mut connection in connections {
        let mut said = String::new();
        connection.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("HTTP/1.1 200") && said.contains("connection: close"), "{said}");
    }
}
