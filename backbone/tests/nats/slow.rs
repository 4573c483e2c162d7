// SPDX-License-Identifier: Apache-2.0
//! A slow way to the servers, on which every answer comes late and none is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfold_backbone::{Backbone, CasOutcome, Error};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::faults::messages;
use crate::server::{Release, Servers};

/// A way to a server, and how many milliseconds all takes on it in each direction.
async fn slow_way(to: &str) -> (String, Arc<AtomicU64>) {
    let (to, delay_ms) = (to.trim_start_matches("nats://").to_owned(), Arc::new(AtomicU64::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let slows = Arc::clone(&delay_ms);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&to).await.unwrap();
            let ((asks, hears), (answers, is_asked)) = (client.into_split(), server.into_split());
            tokio::spawn(carry(asks, is_asked, Arc::clone(&slows)));
            tokio::spawn(carry(answers, hears, Arc::clone(&slows)));
        }
    });
    (url, delay_ms)
}

/// Carries all that comes, much of it at once under way.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay_ms: Arc<AtomicU64>) {
    let (sent, mut arriving) = mpsc::unbounded_channel();
    let takes = async move {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
            let due = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::SeqCst));
            if sent.send((due, chunk[..bytes].to_vec())).is_err() {
                return;
            }
        }
    };
    let gives = async move {
        while let Some((due, bytes)) = arriving.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(takes, gives);
}

/// An answer that takes longer than the time after which a question is put again is an answer all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_come_late_are_heard() {
    for release in [Release::Debian, Release::Current] {
        let servers = Servers::start(release, 1).await;
        let (url, delay_ms) = slow_way(&servers.url(0)).await;
        let mut config = servers.config("slow");
        (config.urls, config.operation_timeout) = (vec![url], Duration::from_secs(5));
        let b = Backbone::nats(config).await.unwrap();
        delay_ms.store(900, Ordering::SeqCst);
        b.ping().await.unwrap();
        let CasOutcome::Stored(first) = b.create("k", "1").await.unwrap() else {
            panic!("{release:?}: made once")
        };
        let CasOutcome::Stored(second) = b.update("k", "2", first).await.unwrap() else {
            panic!("{release:?}: its own write is no conflict")
        };
        let held = b.get("k").await.unwrap().unwrap();
        assert_eq!((&held.value[..], held.revision), (&b"2"[..], second), "{release:?}");
        let taken = b.enqueue("q", messages(0..3)).await.unwrap();
        assert_eq!((taken.accepted, taken.duplicates), (3, 0), "{release:?}");
        delay_ms.store(0, Ordering::SeqCst);
        assert_eq!(b.depth("q").await.unwrap().ready, 3);
        b.close().await;
    }
}

/// Each of 64 shards has a stream and a consumer to be asked about: one after the other, that is 52 s of waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_shards_are_asked_about_at_once_and_told_in_order() {
    for release in [Release::Debian, Release::Current] {
        let servers = Servers::start(release, 1).await;
        let (url, delay_ms) = slow_way(&servers.url(0)).await;
        let mut config = servers.config("wide");
        (config.urls, config.shards, config.shard_bytes_max) = (vec![url], 64, 32 << 20);
        Backbone::nats(config.clone()).await.unwrap().close().await;
        delay_ms.store(200, Ordering::SeqCst);
        let begun = Instant::now();
        let b = Backbone::nats(config.clone()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "{release:?}: {:?}", begun.elapsed());
        b.close().await;
        (config.shard_bytes_max, config.dead_bytes_max) = (16 << 20, 8 << 20);
        let Err(Error::Misconfigured { problems }) = Backbone::nats(config).await else {
            panic!("{release:?}: expected a refusal")
        };
        let streams = (0..64).map(|shard| format!("wide-work-{shard} "));
        let streams: Vec<_> = std::iter::once("wide-dead ".to_owned()).chain(streams).collect();
        assert_eq!(problems.len(), streams.len(), "{release:?}: {problems:#?}");
        for (problem, stream) in problems.iter().zip(&streams) {
            assert!(problem.contains(&format!("the stream {stream}with max_bytes")), "{stream}: {problem}");
        }
    }
}
