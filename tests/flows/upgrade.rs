// SPDX-License-Identifier: Apache-2.0
//! F14: every process of a deployment is replaced under load, one after the other,
//! and nobody who calls, submits or waits notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use fanfold_tests::{
    hosts::{Deployment, Plan, Release, TOKEN, is_over},
    proxy::Troubles,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(120);
const CLIENTS: usize = 3;

/// Clients behind a load balancer, which sends to another gateway what one did not
/// take because it was gone.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(endpoints: &[String]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..CLIENTS).map(|number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let mut endpoints = endpoints.to_vec();
            let first = number % endpoints.len();
            endpoints.rotate_left(first);
            tokio::spawn(async move {
                // A connection for each call, as a balancer's are to a gateway that stops.
                let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
                let mut failures = Vec::new();
                while !stop.load(SeqCst) {
                    match call(&http, &endpoints).await {
                        Ok(()) => drop(answered.fetch_add(1, SeqCst)),
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            })
        });
        Self { clients: clients.collect(), stop, answered }
    }

    /// Waits for some more answers: that calls are answered now.
    async fn goes_on(&self) {
        let (begun, before) = (Instant::now(), self.answered.load(SeqCst));
        while self.answered.load(SeqCst) < before + 10 {
            assert!(begun.elapsed() < PATIENCE, "calls are not answered any more");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, SeqCst);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.unwrap());
        }
        (self.answered.load(SeqCst), failures)
    }
}

async fn call(http: &reqwest::Client, endpoints: &[String]) -> Result<(), String> {
    let mut said = String::new();
    for endpoint in endpoints {
        let request = http.post(format!("{endpoint}/v1/functions/hello/invoke")).bearer_auth(TOKEN);
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

fn job(name: &str) -> Value {
    json!({"function": "column-stats", "input": "s3://bank/in/", "output": format!("s3://bank/{name}/"), "cache": false,
        "split": {"target_bytes": "2KiB"}})
}

/// What a worker counts.
async fn counted(deployment: &Deployment, worker: &str, metric: &str) -> u64 {
    let url = format!("{}/metrics", deployment.endpoint(worker).unwrap());
    let answer = deployment.http.get(url).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(metric)).unwrap_or_else(|| panic!("{text}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn every_process_is_replaced_under_load_and_nobody_notices() {
    let plan =
        Plan { nats: (Release::Debian, 1), gateways: 2, workers: 3, troubles: (Troubles::default(), 0) };
    let mut deployment = Deployment::start(plan).await.unwrap();
    let rows: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    deployment.alone.put("s3://bank/in/a.csv", format!("x\n{rows}")).await.unwrap();
    for function in ["hello", "column-stats"] {
        deployment.deploy("gateway-1", function).await.unwrap();
    }
    let first = deployment.submit("gateway-1", &job("first")).await.unwrap();
    let expected = deployment.job("gateway-1", &first, PATIENCE, is_over).await.unwrap()["result"].clone();
    let endpoints = ["gateway-1", "gateway-2"].map(|name| deployment.endpoint(name).unwrap());
    let load = Load::start(&endpoints);
    load.goes_on().await;
    let mut jobs = Vec::new();
    for name in ["worker-1", "worker-2", "worker-3", "gateway-1", "gateway-2"] {
        // Whoever is asked goes next, so the other one is asked.
        let asked = if name == "gateway-2" { "gateway-1" } else { "gateway-2" };
        jobs.push(deployment.submit(asked, &job(name)).await.unwrap());
        assert_eq!(deployment.stop(name).await.unwrap(), Some(0), "{}", deployment.log(name));
        load.goes_on().await;
        if name == "worker-1" {
            // The next release has another engine, whose artifacts are others.
            for entry in std::fs::read_dir(deployment.path("cache-worker-1")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "bin") {
                    let foreign: Vec<u8> = std::fs::read(&path).unwrap().iter().rev().copied().collect();
                    std::fs::write(&path, foreign).unwrap();
                }
            }
        }
        deployment.launch(name).unwrap();
        deployment.ready(name).await.unwrap();
        load.goes_on().await;
    }
    for id in jobs {
        let done = deployment.job("gateway-1", &id, PATIENCE, is_over).await.unwrap();
        assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), &expected), "{done}");
    }
    // It works again by now, and what was foreign to it was refused and made anew.
    let begun = Instant::now();
    while counted(&deployment, "worker-1", "fanfold_artifacts_refused_total").await == 0 {
        assert!(begun.elapsed() < PATIENCE, "worker-1 gets no work: {}", deployment.log("worker-1"));
        load.goes_on().await;
    }
    assert!(counted(&deployment, "worker-1", "fanfold_components_compiled_total").await > 0);
    let (answered, failures) = load.end().await;
    assert!(failures.is_empty(), "of {answered} calls {} failed: {failures:#?}", failures.len());
    println!("{answered} calls were answered meanwhile");
}
