// SPDX-License-Identifier: Apache-2.0
//! A load generator that costs little: keep-alive connections that send one
//! request, read its answer by its length, and note how long that took.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a run of the load gave.
pub struct Load {
    /// Answers with status 200.
    pub answers: u64,
    /// All other ends.
    pub failures: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Microseconds from request to answer.
    pub latency_us: Histogram<u64>,
}

/// Sends the same request over `connections` for as long as `time`.
pub async fn run(address: &str, request: &str, connections: usize, time: Duration) -> Result<Load> {
    let request: Arc<[u8]> = request.as_bytes().into();
    let start = Instant::now();
    let end = start + time;
    let tasks: Vec<_> = (0..connections)
        .map(|_| tokio::spawn(connection(address.to_owned(), Arc::clone(&request), end)))
        .collect();
    let mut load = Load {
        answers: 0,
        failures: 0,
        elapsed: Duration::ZERO,
        latency_us: Histogram::new_with_bounds(1, 60_000_000, 3)?,
    };
    for task in tasks {
        let (answers, failures, latency_us) = task.await.context("a connection's task")??;
        load.answers += answers;
        load.failures += failures;
        load.latency_us.add(latency_us)?;
    }
    load.elapsed = start.elapsed();
    Ok(load)
}

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 64 << 10] })
    }

    /// Sends a request and gives the status of its answer.
    pub async fn call(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        answer(&mut self.stream, &mut self.buffer).await
    }
}

async fn connection(address: String, request: Arc<[u8]>, end: Instant) -> Result<(u64, u64, Histogram<u64>)> {
    let mut connection = Connection::open(&address).await?;
    let (mut answers, mut failures) = (0, 0);
    let mut latency_us = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    while Instant::now() < end {
        let sent = Instant::now();
        let status = connection.call(&request).await?;
        latency_us.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
        if status == 200 { answers += 1 } else { failures += 1 }
    }
    Ok((answers, failures, latency_us))
}

/// Reads one answer and gives its status.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<u16> {
    let mut filled = 0;
    let (head, length, status) = loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            bail!("expected an answer, the connection was closed");
        }
        filled += read;
        if let Some(head) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
            let text = std::str::from_utf8(&buffer[..head]).context("read the answer's head")?;
            let status = text.get(9..12).and_then(|s| s.parse().ok()).context("expected a status")?;
            let length = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            break (head + 4, length.context("expected an answer with Content-Length")?, status);
        }
    };
    while filled < head + length {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            bail!("expected {length} bytes of body, the connection was closed");
        }
        filled += read;
    }
    Ok(status)
}
