// SPDX-License-Identifier: Apache-2.0
//! HTTP `hello` through the whole gateway, beside a bare axum server of the same
//! answer in a process of its own. Both are loaded in turns.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use fanfold_tests::service::{Service, cpu_time};

use crate::{
    Goal, Measurement,
    load::{self, Load},
};

const BODY: &str = "\"world\"";
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const CONNECTIONS: [usize; 3] = [1, 16, 64];

/// Serves the bare answer until it is ended.
pub fn serve_bare() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let hello =
            |axum::Json(name): axum::Json<String>| async move { axum::Json(format!("hello, {name}")) };
        axum::serve(listener, axum::Router::new().route("/hello", axum::routing::post(hello))).await?;
        Ok(())
    })
}

/// Measures both servers at each number of connections.
pub fn measure() -> Result<Vec<Measurement>> {
    let service = Service::fresh()?;
    service.deploy("hello")?;
    let bare = Bare::start()?;
    let address = service.endpoint.trim_start_matches("http://").to_owned();
    let ours = request(
        &address,
        "/v1/functions/hello/invoke",
        &format!("authorization: Bearer {}\r\n", service.token),
    );
    let theirs = request(&bare.address, "/hello", "");
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all = Vec::new();
    for connections in CONNECTIONS {
        let run = |address: &str, request: &str, pid: u32| -> Result<(Load, f64)> {
            let before = cpu_time(pid)?;
            let load = threads.block_on(load::run(address, request, connections, ROUND))?;
            ensure!(load.failures == 0, "expected answers with status 200, found {} others", load.failures);
            let cpu = cpu_time(pid)? - before;
            let us = cpu.as_secs_f64() * 1e6 / load.answers as f64;
            Ok((load, us))
        };
        // Caches, connections and branch predictors first.
        run(&address, &ours, service.pid())?;
        let (mut hello, mut axum) = (Series::default(), Series::default());
        for _ in 0..ROUNDS {
            hello.push(run(&address, &ours, service.pid())?);
            axum.push(run(&bare.address, &theirs, bare.child.id())?);
        }
        all.extend(series(connections, hello, axum));
    }
    Ok(all)
}

#[derive(Default)]
struct Series {
    rate: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    cpu_us: Vec<f64>,
}

impl Series {
    fn push(&mut self, (load, cpu_us): (Load, f64)) {
        self.rate.push(load.answers as f64 / load.elapsed.as_secs_f64());
        self.p50_ms.push(load.latency_us.value_at_quantile(0.5) as f64 / 1e3);
        self.p99_ms.push(load.latency_us.value_at_quantile(0.99) as f64 / 1e3);
        self.cpu_us.push(cpu_us);
    }
}

fn series(connections: usize, hello: Series, axum: Series) -> Vec<Measurement> {
    let share: Vec<f64> = hello.rate.iter().zip(&axum.rate).map(|(ours, theirs)| ours / theirs).collect();
    let mut share = Measurement::of(format!("http_hello_over_axum_{connections}"), "ratio", share);
    let mut p99 = Measurement::of(format!("http_hello_p99_{connections}"), "ms", hello.p99_ms);
    if connections == 16 {
        share = share.goal(Goal::AtLeast(0.2));
        p99 = p99.goal(Goal::AtMost(10.0));
    }
    vec![
        Measurement::of(format!("http_hello_rate_{connections}"), "1/s", hello.rate),
        Measurement::of(format!("http_hello_p50_{connections}"), "ms", hello.p50_ms),
        p99,
        Measurement::of(format!("http_hello_server_cpu_{connections}"), "us", hello.cpu_us),
        Measurement::of(format!("axum_rate_{connections}"), "1/s", axum.rate),
        Measurement::of(format!("axum_server_cpu_{connections}"), "us", axum.cpu_us),
        share,
    ]
}

fn request(address: &str, path: &str, header: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{header}content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

struct Bare {
    child: Child,
    address: String,
}

impl Bare {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve-bare")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the bare axum server")?;
        let output = child.stdout.take().context("read the bare server's address")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned() })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
