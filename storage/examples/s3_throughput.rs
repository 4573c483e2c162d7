// SPDX-License-Identifier: Apache-2.0
//! How fast the embedded server and the client are on this machine, over
//! loopback: small puts by parallel writers, large puts and ranged reads.
//!
//! Run with `cargo run -p fanfold-storage --example s3_throughput [FOLDER]`. It
//! prints figures and judges none: a disk's sync decides the first, the cores
//! the others.

use std::{path::PathBuf, time::Instant};

use bytes::Bytes;
use fanfold_storage::{
    Credentials, PutOptions, ReadAhead, Server, ServerConfig, Store, StoreConfig, client::ObjectUri,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Fallible<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const LARGE_BYTES: usize = 512 << 20;

#[tokio::main]
async fn main() -> Fallible {
    let scratch = match std::env::args_os().nth(1) {
        Some(folder) => tempfile::tempdir_in(PathBuf::from(folder))?,
        None => tempfile::tempdir()?,
    };
    let credentials = Credentials::random()?;
    let config = ServerConfig { root: scratch.path().to_owned(), credentials: credentials.clone() };
    let begun = Instant::now();
    let server = Server::open(config.clone())?;
    println!("open an empty store: {:.1?}", begun.elapsed());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let serving = tokio::spawn(async move { server.serve(listener, token).await });
    let store = Store::connect(StoreConfig::at(endpoint, credentials))?;
    store.create_bucket("bench").await?;
    for (writers, puts, length) in [(1, 200, 500), (16, 4_000, 500), (64, 16_000, 500), (64, 4_000, 20_000)] {
        small_puts(&store, writers, puts, length).await?;
    }
    small_gets(&store, 64).await?;
    large(&store).await?;
    shutdown.cancel();
    serving.await?;
    let begun = Instant::now();
    let server = Server::open(config)?;
    println!("open the store again: {:.1?}", begun.elapsed());
    drop(server);
    Ok(())
}

fn at(key: String) -> Fallible<ObjectUri> {
    Ok(ObjectUri::new("bench", key)?)
}

async fn small_puts(store: &Store, writers: usize, puts: usize, length: usize) -> Fallible {
    let begun = Instant::now();
    let body = Bytes::from(vec![b'x'; length]);
    let work = (0..puts).map(|n| {
        let (store, body) = (store.clone(), body.clone());
        tokio::spawn(async move {
            let to = at(format!("{length}/{writers}/{n:06}"))?;
            store.put_if_absent(&to, body, "bench", PutOptions::default()).await?;
            Fallible::Ok(())
        })
    });
    let mut done = stream::iter(work).buffer_unordered(writers);
    while let Some(result) = done.next().await {
        result??;
    }
    let rate = puts as f64 / begun.elapsed().as_secs_f64();
    println!("put {length} bytes, {writers} writers: {rate:.0}/s");
    Ok(())
}

async fn small_gets(store: &Store, readers: usize) -> Fallible {
    let begun = Instant::now();
    let work = (0..16_000).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store.get(&at(format!("500/64/{n:06}"))?, None).await?;
            Fallible::Ok(())
        })
    });
    let mut done = stream::iter(work).buffer_unordered(readers);
    while let Some(result) = done.next().await {
        result??;
    }
    println!("get 500 bytes, {readers} readers: {:.0}/s", 16_000.0 / begun.elapsed().as_secs_f64());
    Ok(())
}

async fn large(store: &Store) -> Fallible {
    let to = at("large".to_owned())?;
    let chunk = Bytes::from(vec![b'y'; 1 << 20]);
    let begun = Instant::now();
    let mut writer = store.writer(&to, PutOptions::default());
    for _ in 0..LARGE_BYTES >> 20 {
        writer.write(chunk.clone()).await?;
    }
    let pin = writer.finish().await?;
    let rate = |begun: Instant| LARGE_BYTES as f64 / begun.elapsed().as_secs_f64() / 1e6;
    println!("write {} MiB in parts: {:.0} MB/s", LARGE_BYTES >> 20, rate(begun));
    for (chunk_bytes, parallel) in [(8 << 20, 1), (8 << 20, 4), (16 << 20, 4)] {
        let begun = Instant::now();
        let ahead = ReadAhead { chunk_bytes, parallel };
        let read = store
            .reader(&to, &pin, 0..pin.size, ahead)
            .try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) });
        assert_eq!(read.await?, LARGE_BYTES);
        println!("read by {} MiB, {parallel} at once: {:.0} MB/s", chunk_bytes >> 20, rate(begun));
    }
    Ok(())
}
