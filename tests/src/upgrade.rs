// SPDX-License-Identifier: Apache-2.0
//! An upgrade of a deployment under load (F14): every process is replaced, one after
//! the other, by one whose engine is another, and nobody who calls notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fanfold_protocol::digest::Digest;
use tokio::task::JoinHandle;

use crate::{
    hosts::{Deployment, TOKEN},
    service::component,
};

const PATIENCE: Duration = Duration::from_secs(120);
const CLIENTS: usize = 3;
/// After a call that failed, so that what is in trouble is not asked all the more.
const PAUSE: Duration = Duration::from_millis(10);
/// What they call.
const FUNCTION: &str = "hello";
/// Failed calls that are told of.
const TOLD_MAX: usize = 10;
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Clients who call `hello` all the time, behind a load balancer, which sends to another
/// gateway what one did not take because it was gone.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Result<Vec<String>>>>,
}

impl Load {
    /// Starts them.
    pub fn start(gateways: &[String]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..CLIENTS).map(|number| {
            let mut gateways = gateways.to_vec();
            let first = number % gateways.len();
            gateways.rotate_left(first);
            tokio::spawn(client(gateways, Arc::clone(&stop), Arc::clone(&answered)))
        });
        Self { clients: clients.collect(), stop, answered }
    }

    /// Waits for some more answers: that calls are answered now.
    ///
    /// # Errors
    /// They are not.
    pub async fn goes_on(&self) -> Result<()> {
        let (begun, before) = (Instant::now(), self.answered.load(SeqCst));
        while self.answered.load(SeqCst) < before + 10 {
            ensure!(begun.elapsed() < PATIENCE, "calls are not answered any more");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Ends them, and gives how many calls were answered.
    ///
    /// # Errors
    /// Others failed.
    pub async fn end(self) -> Result<usize> {
        self.stop.store(true, SeqCst);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await??);
        }
        let (answered, failed) = (self.answered.load(SeqCst), failures.len());
        failures.truncate(TOLD_MAX);
        ensure!(failed == 0, "beside {answered} calls that were answered {failed} failed: {failures:#?}");
        Ok(answered)
    }
}

/// Calls until `stop`, and gives what was heard of calls that failed.
async fn client(
    gateways: Vec<String>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Result<Vec<String>> {
    // A connection for each call, as a balancer's are to a gateway that stops.
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(PATIENCE).build()?;
    let mut failures = Vec::new();
    while !stop.load(SeqCst) {
        if let Err(failure) = call(&http, &gateways).await {
            failures.push(failure);
            tokio::time::sleep(PAUSE).await;
        } else {
            answered.fetch_add(1, SeqCst);
        }
    }
    Ok(failures)
}

async fn call(http: &reqwest::Client, gateways: &[String]) -> Result<(), String> {
    let mut said = String::new();
    for gateway in gateways {
        let request = http.post(format!("{gateway}/v1/functions/{FUNCTION}/invoke")).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/json").body("\"Ada\"");
        match request.send().await {
            // It says that it stops, before it does anything: a balancer asks the next.
            Ok(answer) if answer.status() == 503 => said = answer.text().await.unwrap_or_default(),
            Ok(answer) if answer.status() == 200 => return Ok(()),
            Ok(answer) => {
                return Err(format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()));
            }
            Err(error) if error.is_connect() => said = error.to_string(),
            Err(error) => return Err(format!("{error:?}")),
        }
        if !said.contains("shutting-down") && said.contains("\"code\"") {
            break;
        }
    }
    Err(said)
}

/// Replaces a process while others answer; whether it is a worker to whom the compiled
/// code of what is called is foreign now.
///
/// # Errors
/// It does not stop by itself, calls are not answered meanwhile, or it does not start.
pub async fn replace(deployment: &mut Deployment, load: &Load, name: &str) -> Result<bool> {
    let code = deployment.stop(name).await?;
    ensure!(code == Some(0), "expected {name} to end with 0, found {code:?}: {}", deployment.log(name));
    load.goes_on().await?;
    let foreign = name.starts_with("worker") && make_foreign(deployment, name)?;
    deployment.launch(name)?;
    deployment.ready(name).await?;
    load.goes_on().await?;
    Ok(foreign)
}

/// Alters the compiled components that a worker keeps, since the next release has another
/// engine, whose artifacts are others; whether there is one of what is called.
fn make_foreign(deployment: &Deployment, worker: &str) -> Result<bool> {
    let called = Digest::of(&std::fs::read(component(FUNCTION)?)?).to_hex();
    let mut found = false;
    for entry in std::fs::read_dir(deployment.path(&format!("cache-{worker}")))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.extension().is_some_and(|ending| ending == "bin") {
            let foreign: Vec<u8> = std::fs::read(&path)?.iter().rev().copied().collect();
            std::fs::write(&path, foreign)?;
            found |= name.to_string_lossy().starts_with(&called);
        }
    }
    Ok(found)
}

/// Waits until a worker that was replaced has refused what was foreign to it, and has
/// compiled it anew.
///
/// # Errors
/// It does not.
pub async fn rebuilt(deployment: &Deployment, load: &Load, worker: &str) -> Result<()> {
    let begun = Instant::now();
    for metric in ["fanfold_artifacts_refused_total", "fanfold_components_compiled_total"] {
        while counted(deployment, worker, metric).await? == 0 {
            let waited = begun.elapsed();
            ensure!(waited < PATIENCE, "expected {metric} of {worker} to grow: {}", deployment.log(worker));
            load.goes_on().await?;
        }
    }
    Ok(())
}

/// What a worker counts.
async fn counted(deployment: &Deployment, worker: &str, metric: &str) -> Result<u64> {
    let answer = deployment.http.get(format!("{}/metrics", deployment.endpoint(worker)?)).send().await?;
    let kind = answer.headers().get("content-type").cloned();
    ensure!(kind.as_ref().is_some_and(|kind| kind == METRICS), "expected {METRICS}, found {kind:?}");
    let text = answer.text().await?;
    let count = text.lines().find_map(|line| line.strip_prefix(metric));
    let count = count.with_context(|| format!("expected {metric} of {worker}, found {text}"))?;
    Ok(count.trim().parse()?)
}
