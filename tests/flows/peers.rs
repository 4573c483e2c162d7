// SPDX-License-Identifier: Apache-2.0
//! Peers by the thousand that are silent, slow or abusive: others are served, abusers are
//! let go, and the memory of the service stays within bounds. How soon others are served
//! is measured by `cargo xtask bench neighbours`.

use std::time::Duration;

use fanfold_tests::service::{Service, raise_open_files};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// As many as there are files for, of which some are for others.
const PEERS_MAX: u64 = 10_000;
const OTHER_FILES: u64 = 1_000;
/// After so many that have come, somebody asks.
const ASK_EVERY: u64 = 500;
/// What a peer that says little may cost.
const PEER_BYTES_MAX: u64 = 64 << 10;
/// What floods may cost together, one connection after the other.
const FLOOD_GROWTH_MAX: u64 = 32 << 20;
/// What a flood sends at most: far more than what lies between two sockets.
const FLOOD_BYTES: usize = 64 << 20;
const FLOODS: usize = 8;
/// Long enough for a busy machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// HTTP/2 (RFC 9113): the preface of a client with its settings, and kinds of frames.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
/// `GET / http` without an authority, by the static table of HPACK (RFC 7541, appendix A).
const GET: [u8; 3] = [0x82, 0x84, 0x86];

fn address(service: &Service) -> String {
    service.endpoint.trim_start_matches("http://").to_owned()
}

/// Whether somebody who connects now is answered.
async fn answers(address: &str) -> bool {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        std::io::Result::Ok(said)
    };
    let said = tokio::time::timeout(PATIENCE, asking).await.unwrap().unwrap();
    said.starts_with("HTTP/1.1 200")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_slow_peers_hinder_nobody() {
    let count = PEERS_MAX.min(raise_open_files().saturating_sub(OTHER_FILES));
    assert!(count >= ASK_EVERY, "expected a limit of at least {} open files", OTHER_FILES + ASK_EVERY);
    let service = Service::fresh().unwrap();
    let address = address(&service);
    let body = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 999\r\n\r\n{{",
        service.token
    );
    // Silent ones, those who dribble their headers, and those who never send the rest of a body.
    let says: [&[u8]; 3] = [b"", b"GET /healthz HTTP/1.1\r\nx-", body.as_bytes()];
    assert!(answers(&address).await);
    let before = service.resident_bytes().unwrap();
    let mut peers = Vec::new();
    for n in 0..count {
        let mut peer = TcpStream::connect(&address).await.unwrap();
        // Whoever is slow is let go after a while, but nobody before having spoken.
        peer.write_all(says[n as usize % says.len()]).await.unwrap();
        peers.push(peer);
        if n % ASK_EVERY == ASK_EVERY - 1 {
            assert!(answers(&address).await, "beside {n} peers");
        }
    }
    let grown = service.resident_bytes().unwrap().saturating_sub(before);
    eprintln!("{count} peers: resident memory grew by {} KiB for each", (grown / count) >> 10);
    assert!(grown < count * PEER_BYTES_MAX, "resident memory grew by {grown} bytes for {count} peers");
    drop(peers);
    assert!(answers(&address).await);
}

/// A frame (section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The kinds of some frames.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [high, middle, low, kind, ..] = bytes {
        kinds.push(*kind);
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}

/// Sends pieces without end; gives what came until the connection was closed, and how much
/// was sent by then.
async fn flood(address: &str, mut piece: impl FnMut(u32) -> Vec<u8>) -> (Vec<u8>, usize) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from_service, mut to_service) = stream.into_split();
    let listening = tokio::spawn(async move {
        let mut said = Vec::new();
        // Whoever is let go with much unread is reset.
        let _ = from_service.read_to_end(&mut said).await;
        said
    });
    to_service.write_all(PREFACE).await.unwrap();
    let (mut sent, mut number) = (0, 0);
    while sent < FLOOD_BYTES {
        let piece = piece(number);
        if to_service.write_all(&piece).await.is_err() {
            break;
        }
        (sent, number) = (sent + piece.len(), number + 1);
    }
    (tokio::time::timeout(PATIENCE, listening).await.unwrap().unwrap(), sent)
}

/// Floods over and over, each of which must be ended by the service, at little cost.
async fn ends_floods(piece: impl Fn(u32) -> Vec<u8>) {
    let service = Service::fresh().unwrap();
    let address = address(&service);
    let mut before = None;
    for _ in 0..FLOODS {
        let (said, sent) = flood(&address, &piece).await;
        assert!(sent < FLOOD_BYTES, "the flood was never ended");
        assert!(kinds(&said).contains(&GOAWAY), "{:?}", kinds(&said));
        assert!(answers(&address).await);
        // What the first one needs is kept for the others.
        let peak = service.resident_bytes_peak().unwrap();
        let grown = peak - *before.get_or_insert(peak);
        assert!(grown < FLOOD_GROWTH_MAX, "resident memory grew by {grown} bytes");
    }
}

/// CVE-2023-44487: requests that are taken back as soon as they are made.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_is_ended() {
    ends_floods(|number| {
        let streams = (0..100).map(|n| 1 + 2 * (number * 100 + n));
        let reset = |stream| {
            [frame(HEADERS, END_STREAM | END_HEADERS, stream, &GET), frame(RST_STREAM, 0, stream, &CANCEL)]
                .concat()
        };
        streams.flat_map(reset).collect()
    })
    .await;
}

/// CVE-2024-27983 and its like: a head that goes on in frame after frame.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_continuations_is_ended() {
    // Headers of five bytes: a literal of a new name, `x: y` (RFC 7541, section 6.2.2).
    let large = b"\0\x01x\x01y".repeat(3_000);
    for part in [&b""[..], &large] {
        let part = part.to_vec();
        ends_floods(move |number| {
            let head = if number == 0 { frame(HEADERS, END_STREAM, 1, &GET) } else { Vec::new() };
            [head, frame(CONTINUATION, 0, 1, &part).repeat(16)].concat()
        })
        .await;
    }
}
