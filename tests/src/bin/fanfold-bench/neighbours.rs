// SPDX-License-Identifier: Apache-2.0
//! What others feel of those who misbehave: calls beside guests that loop and beside
//! components that are compiled, health beside ten thousand silent connections.
//!
//! Two things at once take longer on the same processors, whoever they are: so guests that
//! loop are compared with as many that work, and what that is over calls alone is told.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use fanfold_tests::service::{Service, component, raise_open_files};
use tokio::net::TcpStream;

use crate::{
    Goal, Measurement,
    load::{self, Load},
};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(3);
/// Connections of those who feel it.
const CONNECTIONS: usize = 4;
/// Within which no silent connection is let go yet, those of its opening included.
const SILENT_ROUND: Duration = Duration::from_secs(2);
const SILENT_MAX: u64 = 10_000;
/// Files for everything else.
const OTHER_FILES: u64 = 1_000;
/// What is compiled again and again: one of the larger examples.
const COMPILED: &str = "credit-train";

/// Measures each trouble beside its like, in turns.
pub fn measure() -> Result<Vec<Measurement>> {
    let silent = SILENT_MAX.min(raise_open_files().saturating_sub(OTHER_FILES));
    let service = Service::fresh()?;
    service.deploy("hello")?;
    let misbehave = component("misbehave")?;
    service.ok(&["deploy", &misbehave.to_string_lossy(), "--name", "misbehave"])?;
    let compiled = std::fs::read(component(COMPILED)?)?;
    let bench = Bench::of(&service);
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    threads.block_on(bench.alone())?;
    let (mut loops, mut over_alone, mut compiling, mut health) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let alone = threads.block_on(bench.alone())?;
        let work = threads.block_on(bench.beside("\"work\""))?;
        let looping = threads.block_on(bench.beside("\"loop\""))?;
        loops.push(looping / work);
        over_alone.push(looping / alone);
        compiling.push(threads.block_on(bench.beside_compiling(&compiled, round))? / alone);
        health.push(threads.block_on(bench.health_beside(silent))?);
    }
    Ok(vec![
        Measurement::of("neighbour_p99_beside_loops_over_work", "ratio", loops).goal(Goal::AtMost(2.0)),
        Measurement::of("neighbour_p99_beside_loops_over_alone", "ratio", over_alone),
        Measurement::of("neighbour_p99_beside_compiling_over_alone", "ratio", compiling)
            .goal(Goal::AtMost(2.0)),
        Measurement::of("health_p99_beside_silent", "ms", health).goal(Goal::AtMost(100.0)),
    ])
}

struct Bench {
    address: String,
    token: String,
}

impl Bench {
    fn of(service: &Service) -> Self {
        let address = service.endpoint.trim_start_matches("http://").to_owned();
        Self { address, token: service.token.clone() }
    }

    fn call(&self, function: &str, body: &str) -> String {
        format!(
            "POST /v1/functions/{function}/invoke?timeout=1s HTTP/1.1\r\nhost: {}\r\n\
             content-type: application/json\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            self.token,
            body.len()
        )
    }

    async fn hello(&self) -> Result<Load> {
        load::run(&self.address, &self.call("hello", "\"Ada\""), CONNECTIONS, ROUND).await
    }

    /// The time in which 99 of 100 are answered.
    async fn alone(&self) -> Result<f64> {
        p99_ms(&self.hello().await?)
    }

    /// The same beside as many guests that do `what` as there are processors.
    async fn beside(&self, what: &str) -> Result<f64> {
        let guests = std::thread::available_parallelism()?.get();
        let request = self.call("misbehave", what);
        let others = load::run(&self.address, &request, guests, ROUND);
        let (hello, others) = tokio::join!(self.hello(), others);
        // Loops end with their deadline, which is no failure here.
        let others = others?;
        ensure!(others.answers + others.failures > 0, "expected guests that do {what}, found none");
        p99_ms(&hello?)
    }

    /// The same while a component is compiled, and again under another digest.
    async fn beside_compiling(&self, component: &[u8], round: usize) -> Result<f64> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (client, is_over) = (reqwest::Client::new(), AtomicBool::new(false));
        let url = format!("http://{}/v1/functions/compiled/versions", self.address);
        let compiling = async {
            for number in 0_u8.. {
                let request = client.post(&url).bearer_auth(&self.token);
                let request = request.header("content-type", "application/wasm");
                let status = request.body(salted(component, round, number)).send().await?.status();
                ensure!(status.is_success(), "expected a component to be deployed, found {status}");
                if is_over.load(Relaxed) {
                    break;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        let calling = async {
            let hello = self.hello().await;
            is_over.store(true, Relaxed);
            hello
        };
        let (compiled, hello) = tokio::join!(compiling, calling);
        compiled.context("compile beside calls")?;
        p99_ms(&hello?)
    }

    /// The same of `/healthz` beside so many connections over which nothing comes.
    async fn health_beside(&self, silent: u64) -> Result<f64> {
        let mut held = Vec::new();
        for _ in 0..silent {
            held.push(TcpStream::connect(&self.address).await?);
        }
        let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        let health = load::run(&self.address, &request, 1, SILENT_ROUND).await;
        drop(held);
        p99_ms(&health?)
    }
}

fn p99_ms(load: &Load) -> Result<f64> {
    ensure!(load.failures == 0, "expected answers with status 200, found {} others", load.failures);
    Ok(load.latency_us.value_at_quantile(0.99) as f64 / 1e3)
}

/// A component with a section of its own, so that nothing of it is compiled already.
fn salted(component: &[u8], round: usize, number: u8) -> Vec<u8> {
    // A custom section (component model, Binary.md): its size, its name, and what is in it.
    [component, &[0, 4, 1, b's', round as u8, number]].concat()
}
