// SPDX-License-Identifier: Apache-2.0
//! Ten times as many calls as the service can answer: what it answers all the
//! same, how soon it refuses the rest, and how soon it is itself again.
//!
//! The load is open: calls come at their times, however the service fares.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fanfold_tests::service::{Service, component};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use crate::{
    Goal, Measurement,
    load::{self, Connection},
};

/// About twenty milliseconds of a guest's work: clients share the processors here, and what they cost
/// to be refused is not the guest's.
const BODY: &str = "\"work\"";
const ROUNDS: usize = 3;
const PEAK: Duration = Duration::from_secs(5);
const OVERLOAD: Duration = Duration::from_secs(20);
const RECOVERY: Duration = Duration::from_secs(3);
const OVER: f64 = 10.0;
/// Connections of the overload; more than may be in work at once, so that calls wait for none.
const CONNECTIONS: usize = 256;

/// What became of calls that came at their times.
struct Overload {
    answered: u64,
    refused: u64,
    elapsed: Duration,
    refusal_us: Histogram<u64>,
}

/// Measures peak, overload and recovery in turns.
pub fn measure() -> Result<Vec<Measurement>> {
    let service = Service::fresh()?;
    let worker = component("misbehave")?;
    service.ok(&["deploy", &worker.to_string_lossy(), "--name", "misbehave"])?;
    let address = service.endpoint.trim_start_matches("http://").to_owned();
    let request = format!(
        "POST /v1/functions/misbehave/invoke HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         authorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{BODY}",
        service.token,
        BODY.len()
    );
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let closed = |time: Duration| -> Result<f64> {
        let load = threads.block_on(load::run(&address, &request, 16, time))?;
        ensure!(load.failures == 0, "expected answers with status 200, found {} others", load.failures);
        Ok(load.answers as f64 / load.elapsed.as_secs_f64())
    };
    closed(RECOVERY)?;
    let (mut peak, mut goodput, mut refusal, mut after) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let rate = closed(PEAK)?;
        let over = threads.block_on(open(&address, &request, rate * OVER))?;
        ensure!(over.refused > over.answered, "expected most calls to be refused, found {}", over.refused);
        peak.push(rate);
        goodput.push(over.answered as f64 / over.elapsed.as_secs_f64() / rate);
        refusal.push(over.refusal_us.value_at_quantile(0.99) as f64 / 1e3);
        after.push(closed(RECOVERY)? / rate);
    }
    Ok(vec![
        Measurement::of("overload_peak_rate", "1/s", peak),
        Measurement::of("overload_goodput_over_peak", "ratio", goodput).goal(Goal::AtLeast(0.9)),
        Measurement::of("overload_refusal_p99", "ms", refusal).goal(Goal::AtMost(10.0)),
        Measurement::of("overload_rate_after_over_peak", "ratio", after).goal(Goal::AtLeast(0.9)),
    ])
}

/// Sends calls at `rate` a second, each over a connection that is free.
async fn open(address: &str, request: &str, rate: f64) -> Result<Overload> {
    let request: Arc<[u8]> = request.as_bytes().into();
    let (give, mut free) = mpsc::unbounded_channel();
    for _ in 0..CONNECTIONS {
        give.send(Connection::open(address).await?)?;
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let start = Instant::now();
    let mut sent = 0_u64;
    while start.elapsed() < OVERLOAD {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        while sent < due {
            sent += 1;
            let mut connection = free.recv().await.context("expected a free connection")?;
            let (request, give, tell) = (Arc::clone(&request), give.clone(), tell.clone());
            tokio::spawn(async move {
                let begun = Instant::now();
                let status = connection.call(&request).await;
                let _ = tell.send((status, begun.elapsed()));
                let _ = give.send(connection);
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(tell);
    let (mut answered, mut refused) = (0, 0);
    let mut refusal_us = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    while let Some((status, took)) = told.recv().await {
        match status? {
            200 => answered += 1,
            429 => {
                refused += 1;
                refusal_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            other => anyhow::bail!("expected 200 or 429, found {other}"),
        }
    }
    Ok(Overload { answered, refused, elapsed: start.elapsed(), refusal_us })
}
