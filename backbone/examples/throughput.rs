// SPDX-License-Identifier: Apache-2.0
//! Prints how many small operations a second a backbone takes at several degrees of concurrency.
//!
//! Run it with `cargo run -p fanfold-backbone --example throughput [FOLDER]` for the embedded one, where the folder
//! chooses the disk that is measured, or with `nats://HOST:PORT [REPLICAS]` for NATS, where it also runs 100,000
//! no-op tasks through one queue. It reports and asserts nothing about time.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fanfold_backbone::{Backbone, EmbeddedConfig, Message, NatsConfig, Result};

const PAYLOAD_BYTES: usize = 512;
const RUN: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next();
    if let Some(url) = place.as_ref().filter(|place| place.contains("://")) {
        let mut config = NatsConfig::new([url]);
        config.replicas = arguments.next().map_or(Ok(1), |replicas| replicas.parse())?;
        config.prefix = format!("throughput-{}", std::process::id());
        let b = Backbone::nats(config).await?;
        tasks(&b).await?;
        table(&b).await?;
        b.close().await;
        return Ok(());
    }
    let folder = match place {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let b = Backbone::embedded(EmbeddedConfig::new(folder.path().join("b.redb"))).await?;
    table(&b).await?;
    b.close().await;
    let begun = Instant::now();
    let b = Backbone::embedded(EmbeddedConfig::new(folder.path().join("b.redb"))).await?;
    println!("opened again in {:?}", begun.elapsed());
    b.close().await;
    Ok(())
}

/// 100,000 tasks that do nothing, from the first that is queued to the last that is acknowledged, as workers do it:
/// each slot pulls one at a time.
async fn tasks(b: &Backbone) -> Result<()> {
    const TASKS: usize = 100_000;
    const BATCH: usize = 1_000;
    const SLOTS: usize = 128;
    let begun = Instant::now();
    let producing = async {
        for from in (0..TASKS).step_by(BATCH) {
            let message = |n: usize| Message::new(format!("task-{n}"), vec![0; PAYLOAD_BYTES]);
            b.enqueue("tasks", (from..from + BATCH).map(message).collect()).await?;
        }
        println!("100,000 tasks queued in {:?}", begun.elapsed());
        Ok(())
    };
    let done = AtomicUsize::new(0);
    let slot = async || {
        while done.load(Ordering::Acquire) < TASKS {
            done.fetch_add(work_on(b, "tasks", 1).await?, Ordering::AcqRel);
        }
        Result::Ok(())
    };
    let slots = futures::future::try_join_all((0..SLOTS).map(|_| slot()));
    let ((), _) = tokio::try_join!(producing, slots)?;
    let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
    println!("100,000 tasks done by {SLOTS} slots in {:?}: {rate:.0}/s", begun.elapsed());
    Ok(())
}

/// Every operation at several degrees of concurrency.
async fn table(b: &Backbone) -> Result<()> {
    println!("{:>7}  {:<28} {:>10} {:>12}", "clients", "operation", "ops/s", "mean");
    for clients in [1, 16, 128] {
        measure(
            b,
            clients,
            "put",
            |b, key| async move { b.put(&key, vec![0; PAYLOAD_BYTES]).await.map(|_| 1) },
        )
        .await?;
        measure(b, clients, "get", |b, key| async move { b.get(&key).await.map(|_| 1) }).await?;
        measure(b, clients, "enqueue", |b, id| async move {
            let message = Message::new(id, vec![0; PAYLOAD_BYTES]);
            b.enqueue("q", vec![message]).await.map(|outcome| outcome.accepted)
        })
        .await?;
        fill(b, clients).await?;
        measure(b, clients, "pull 1, ack", |b, _| work(b, 1)).await?;
        measure(b, clients, "pull 32, ack together", |b, _| work(b, 32)).await?;
        measure(b, clients, "enqueue, pull 1, ack", |b, id| async move {
            b.enqueue("q", vec![Message::new(id, vec![0; PAYLOAD_BYTES])]).await?;
            work(b, 1).await
        })
        .await?;
    }
    Ok(())
}

/// Queues enough that the pulls which follow do not run dry.
async fn fill(b: &Backbone, clients: usize) -> Result<()> {
    for batch in 0..40 {
        let message = |n| Message::new(format!("fill-{clients}-{batch}-{n}"), vec![0; PAYLOAD_BYTES]);
        b.enqueue("q", (0..1_000).map(message).collect()).await?;
    }
    Ok(())
}

/// Pulls up to `max` and acks them; answers how many.
async fn work(b: Backbone, max: usize) -> Result<usize> {
    work_on(&b, "q", max).await
}

async fn work_on(b: &Backbone, queue: &str, max: usize) -> Result<usize> {
    let pulled = b.pull(queue, max, Duration::from_millis(100), Duration::from_secs(30)).await?;
    futures::future::try_join_all(pulled.iter().map(|delivery| delivery.ack())).await?;
    Ok(pulled.len())
}

/// Runs `operation` from `clients` tasks for a while and prints what came of it.
async fn measure<F, Fut>(b: &Backbone, clients: usize, name: &str, operation: F) -> Result<()>
where
    F: Fn(Backbone, String) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<usize>> + Send,
{
    let begun = Instant::now();
    let tasks = (0..clients).map(|client| {
        let (b, operation, label) = (b.clone(), operation.clone(), name.len());
        tokio::spawn(async move {
            let (mut calls, mut done) = (0u64, 0usize);
            while begun.elapsed() < RUN {
                done += operation(b.clone(), format!("{label}-{clients}-{client}-{calls}")).await?;
                calls += 1;
            }
            Result::Ok((calls, done))
        })
    });
    let (mut calls, mut done) = (0, 0);
    for outcome in futures::future::join_all(tasks).await {
        let (more_calls, more_done) = outcome
            .map_err(|failure| fanfold_backbone::Error::Unavailable { detail: failure.to_string() })??;
        calls += more_calls;
        done += more_done;
    }
    let took = begun.elapsed();
    let mean = took.mul_f64(clients as f64 / calls.max(1) as f64);
    println!("{clients:>7}  {name:<28} {:>10.0} {mean:>12.1?}", done as f64 / took.as_secs_f64());
    Ok(())
}
