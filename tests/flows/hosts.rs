// SPDX-License-Identifier: Apache-2.0
//! A deployment of many hosts, as processes: gateways and workers that come, are
//! killed, cut off and go.

use std::time::{Duration, Instant};

use fanfold_tests::{
    chaos::Address,
    hosts::{Deployment, Plan, Release, SYSTEM_BUCKET, TOKEN, is_over},
    network,
    promises::Caller,
    proxy::Troubles,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::Client;

mod renewal;
mod starts;
mod versions;

const PATIENCE: Duration = Duration::from_secs(400);
/// Bigger than a task's part of it by a hundred, so that there is time for trouble.
const ROWS: u64 = 120_000;

fn plan(nats: (Release, usize), gateways: usize, workers: usize) -> Plan {
    Plan { nats, gateways, workers, troubles: (Troubles::default(), 0) }
}

fn job(output: &str) -> Value {
    json!({"function": "column-stats", "input": "s3://bank/in/", "output": format!("s3://bank/{output}/"), "cache": false,
        "split": {"target_bytes": "16KiB"}})
}

/// Puts the table there, and gives what the job says of it on one host.
async fn alone(deployment: &Deployment) -> Value {
    let rows: String = (0..ROWS).map(|n| format!("{n},{}.5\n", n * 7919 % 1_000)).collect();
    deployment.alone.put("s3://bank/in/a.csv", format!("n,x\n{rows}")).await.unwrap();
    deployment.alone.deploy("column-stats").unwrap();
    let alone = Client::new(&deployment.alone).job(job("alone")).await.body;
    assert_eq!(alone["state"], "succeeded", "{alone}");
    alone["result"].clone()
}

fn has_begun(job: &Value) -> bool {
    job["tasks"]["done"].as_u64() > Some(0)
}

/// Waits for a job's end and compares its answer; says how long it took.
async fn gives(deployment: &Deployment, gateway: &str, id: &str, result: &Value) {
    let begun = Instant::now();
    let done = deployment.job(gateway, id, PATIENCE, is_over).await.unwrap();
    assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), result), "{done}");
    println!("{} ended after {:?}", done["output"], begun.elapsed());
}

/// Calls `hello` until it answers.
async fn greets(deployment: &Deployment, gateway: &str) -> Duration {
    let url = format!("{}/v1/functions/hello/invoke", deployment.endpoint(gateway).unwrap());
    let begun = Instant::now();
    loop {
        let found = deployment.ask("POST", &url, "application/json", "\"Ada\"").await;
        if let Ok((200, answer)) = &found {
            assert_eq!(answer, "hello, Ada");
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Calls `hello` asynchronously, and gives where it is shown.
async fn promised(deployment: &Deployment, gateway: &str) -> String {
    let url = deployment.endpoint(gateway).unwrap();
    let request = deployment.http.post(format!("{url}/v1/functions/hello/invoke")).bearer_auth(TOKEN);
    let request = request.header("prefer", "respond-async").header("content-type", "application/json");
    let accepted = request.body("\"Ada\"").send().await.unwrap().json::<Value>().await.unwrap();
    format!("{url}/v1/invocations/{}", accepted["id"].as_str().unwrap())
}

/// Waits until calls of `hello` found no worker more often than one may fail.
async fn until_tried_in_vain(deployment: &Deployment, gateway: &str) {
    let metrics = format!("{}/metrics", deployment.endpoint(gateway).unwrap());
    let begun = Instant::now();
    let row = "fanfold_invocations_total{function=\"hello\",outcome=\"worker-unavailable\"} ";
    loop {
        let asked = deployment.http.get(&metrics).bearer_auth(TOKEN).send().await.unwrap();
        let text = asked.text().await.unwrap();
        let tries = text.lines().find_map(|line| line.strip_prefix(row)?.parse::<u64>().ok());
        if tries > Some(3) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What an asynchronous call becomes, once it has.
async fn until_ended(deployment: &Deployment, url: &str) -> Value {
    let begun = Instant::now();
    loop {
        let (_, shown) = deployment.ask("GET", url, "text/plain", "").await.unwrap();
        if ["succeeded", "failed"].iter().any(|state| shown["state"] == *state) {
            return shown;
        }
        assert!(begun.elapsed() < PATIENCE, "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn many_hosts_give_the_answer_of_one_whatever_is_killed() {
    let mut deployment = Deployment::start(plan((Release::Debian, 1), 2, 3)).await.unwrap();
    let result = alone(&deployment).await;
    for function in ["hello", "column-stats"] {
        deployment.deploy("gateway-1", function).await.unwrap();
    }
    // Deployed through one gateway, called through the other.
    greets(&deployment, "gateway-2").await;

    // A worker is killed with its tasks, then the gateway that coordinates.
    let id = deployment.submit("gateway-1", &job("killed")).await.unwrap();
    deployment.job("gateway-1", &id, PATIENCE, has_begun).await.unwrap();
    deployment.kill("worker-1").unwrap();
    deployment.kill("gateway-1").unwrap();
    gives(&deployment, "gateway-2", &id, &result).await;

    // One is told to stop under load, and others take its place.
    let id = deployment.submit("gateway-2", &job("drained")).await.unwrap();
    deployment.job("gateway-2", &id, PATIENCE, has_begun).await.unwrap();
    assert_eq!(deployment.stop("worker-2").await.unwrap(), Some(0));
    gives(&deployment, "gateway-2", &id, &result).await;
    greets(&deployment, "gateway-2").await;

    // Without a worker a gateway says so, and is there again with the first.
    assert_eq!(deployment.stop("worker-3").await.unwrap(), Some(0));
    let readyz = format!("{}/readyz", deployment.endpoint("gateway-2").unwrap());
    let begun = Instant::now();
    loop {
        let (status, readiness) = deployment.ask("GET", &readyz, "text/plain", "").await.unwrap();
        if status == 503 {
            assert_eq!(readiness["workers"]["ready"], false, "{readiness}");
            // Who balances goes on sending to it: it says itself what is wrong.
            let serving = format!("{readyz}?serving=true");
            assert_eq!(deployment.ask("GET", &serving, "text/plain", "").await.unwrap().0, 200);
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{readiness}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let promised = promised(&deployment, "gateway-2").await;
    until_tried_in_vain(&deployment, "gateway-2").await;
    deployment.launch("worker-3").unwrap();
    greets(&deployment, "gateway-2").await;
    let ended = until_ended(&deployment, &promised).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(1)), "{ended}");
    assert_eq!(deployment.stop("gateway-2").await.unwrap(), Some(0));

    another_moves_in(&mut deployment, &result).await;
}

/// A second tenant joins the one that was alone, which keeps what it has; the worker
/// that runs already works for both.
async fn another_moves_in(deployment: &mut Deployment, result: &Value) {
    let token = "secret-of-the-shop";
    let digest = fanfold_protocol::digest::Digest::of(token.as_bytes()).to_hex();
    deployment.write("shop-digests", &digest).unwrap();
    let file = std::fs::read_to_string(deployment.path("gateway-1.toml")).unwrap();
    let tenants = "[[tenants]]\nname = \"bank\"\nweight = 2\nsystem_bucket = \"many-hosts\"\ntoken_digests = \"digests\"\n\
                   buckets = [\"bank\", \"bank-*\"]\n[[tenants]]\nname = \"shop\"\ntoken_digests = \"shop-digests\"\nbuckets = [\"shop\"]\n";
    let file = file.replace("token_digests = \"digests\"\n", "") + tenants;
    deployment.write("gateway-1.toml", &file).unwrap();
    deployment.launch("gateway-1").unwrap();
    deployment.ready("gateway-1").await.unwrap();
    greets(deployment, "gateway-1").await;

    let url = deployment.endpoint("gateway-1").unwrap();
    let ask = async |method: &str, path: &str, kind: &str, body: Vec<u8>| {
        deployment.ask_as(token, method, &format!("{url}/v1/{path}"), kind, body).await.unwrap()
    };
    assert_eq!(ask("GET", "functions/hello", "text/plain", Vec::new()).await.0, 404);
    let bytes = std::fs::read(fanfold_tests::service::component("column-stats").unwrap()).unwrap();
    let (status, deployed) = ask("POST", "functions/column-stats/versions", "application/wasm", bytes).await;
    assert_eq!((status, &deployed["version"]), (201, &json!(1)), "{deployed}");
    let table = deployment.store().unwrap().get(&"s3://bank/in/a.csv".parse().unwrap(), None).await.unwrap();
    deployment.alone.put("s3://shop/in/a.csv", table).await.unwrap();
    let job = |input: &str| {
        let job = json!({"function": "column-stats", "input": input, "output": "s3://shop/out/", "cache": false,
            "split": {"target_bytes": "16KiB"}});
        job.to_string()
    };
    let (status, refused) = ask("POST", "jobs", "application/json", job("s3://bank/in/").into()).await;
    assert_eq!((status, &refused["code"]), (403, &json!("access-denied")), "{refused}");
    let (status, accepted) = ask("POST", "jobs", "application/json", job("s3://shop/in/").into()).await;
    assert_eq!(status, 202, "{accepted}");
    let (path, begun) = (format!("jobs/{}", accepted["id"].as_str().unwrap()), Instant::now());
    let done = loop {
        let (_, job) = ask("GET", &path, "text/plain", Vec::new()).await;
        if is_over(&job) {
            break job;
        }
        assert!(begun.elapsed() < PATIENCE, "{job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), result), "{done}");
    let others = format!("{url}/v1/{path}");
    assert_eq!(deployment.ask("GET", &others, "text/plain", "").await.unwrap().0, 404);
}

/// Submits a job, and gives its id once it has begun.
async fn begin(deployment: &Deployment, name: &str) -> String {
    let id = deployment.submit("gateway-1", &job(name)).await.unwrap();
    deployment.job("gateway-1", &id, PATIENCE, has_begun).await.unwrap();
    id
}

/// Hosts with addresses of their own are cut off from each other, halted, and
/// lose the leader of NATS, while jobs run and calls are made asynchronously.
#[test]
fn what_is_cut_off_or_halted_loses_nothing() {
    if !network::entered("hosts::what_is_cut_off_or_halted_loses_nothing") {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut deployment = Deployment::start(plan((Release::Current, 3), 2, 3)).await.unwrap();
        let result = alone(&deployment).await;
        for function in ["hello", "column-stats"] {
            deployment.deploy("gateway-1", function).await.unwrap();
        }
        greets(&deployment, "gateway-2").await;
        let nats = deployment.names("nats");
        let address = Address::default();
        *address.lock().unwrap() = (deployment.endpoint("gateway-2").unwrap(), TOKEN.to_owned());
        let caller = Caller::start(&address, "cut-off");

        // F12: a worker loses the store, another one the backbone, one way each.
        let id = begin(&deployment, "cut").await;
        deployment.cut("worker-1", "store").unwrap();
        nats.iter().for_each(|nats| deployment.cut(nats, "worker-2").unwrap());
        gives(&deployment, "gateway-2", &id, &result).await;
        deployment.heal("worker-1", "store").unwrap();
        nats.iter().for_each(|nats| deployment.heal(nats, "worker-2").unwrap());

        until_readiness(&deployment, "worker-1", None).await;

        // F11: a worker with tasks halts for longer than any lease, and wakes when another has done them.
        let id = begin(&deployment, "halted").await;
        deployment.signal("worker-3", Signal::STOP).unwrap();
        gives(&deployment, "gateway-1", &id, &result).await;
        deployment.signal("worker-3", Signal::CONT).unwrap();
        gives(&deployment, "gateway-1", &id, &result).await;

        // F11: clocks move by an hour, of a worker and of the gateway that coordinates.
        for name in ["worker-3", "gateway-2"] {
            deployment.give_clock(name).await.unwrap();
        }
        let id = deployment.submit("gateway-2", &job("moved")).await.unwrap();
        deployment.job("gateway-2", &id, PATIENCE, has_begun).await.unwrap();
        deployment.move_clock("worker-3", "+1h").unwrap();
        deployment.move_clock("gateway-2", "-1h").unwrap();
        gives(&deployment, "gateway-1", &id, &result).await;
        greets(&deployment, "gateway-2").await;

        losing_packets(&deployment, &result).await;

        // F12: the coordinating gateway loses the backbone; another goes on.
        let id = begin(&deployment, "apart").await;
        nats.iter().for_each(|nats| deployment.cut("gateway-1", nats).unwrap());
        gives(&deployment, "gateway-2", &id, &result).await;
        nats.iter().for_each(|nats| deployment.heal("gateway-1", nats).unwrap());
        greets(&deployment, "gateway-1").await;

        losing_servers(&mut deployment, &result).await;
        let calls = caller.check(&deployment.store().unwrap(), true).await.unwrap();
        println!("{calls} asynchronous calls have come to an end each");
    });
}

/// F12: one in a hundred packets is lost, wherever it goes; and what is sent arrives late.
async fn losing_packets(deployment: &Deployment, result: &Value) {
    for host in deployment.names("") {
        deployment.lose(&host).unwrap();
    }
    let id = begin(deployment, "lossy").await;
    gives(deployment, "gateway-2", &id, result).await;
    for host in deployment.names("") {
        network::lose_nothing(&host).unwrap();
    }
    if !network::can_delay() {
        println!("delays are left out: this kernel has no netem");
        return;
    }
    for host in deployment.names("") {
        network::delay(&host).unwrap();
    }
    let id = begin(deployment, "far").await;
    gives(deployment, "gateway-2", &id, result).await;
    for host in deployment.names("") {
        network::delay_nothing(&host).unwrap();
    }
}

/// F3: each server of NATS is killed once, so that a leader is among them.
async fn losing_servers(deployment: &mut Deployment, result: &Value) {
    for nats in deployment.names("nats") {
        deployment.kill(&nats).unwrap();
        let begun = Instant::now();
        let id = loop {
            match deployment.submit("gateway-2", &job(&nats)).await {
                Ok(id) => break id,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "{error:#}"),
            }
        };
        println!("{nats} killed: accepted again after {:?}", begun.elapsed());
        gives(deployment, "gateway-2", &id, result).await;
        deployment.launch(&nats).unwrap();
        deployment.ready(&nats).await.unwrap();
        // It has to catch up before the next may be lost.
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Waits until a process says that it is ready, or which of its dependencies is not.
async fn until_readiness(deployment: &Deployment, name: &str, away: Option<&str>) {
    let url = format!("{}/readyz", deployment.endpoint(name).unwrap());
    let begun = Instant::now();
    loop {
        let (status, found) = deployment.ask("GET", &url, "text/plain", "").await.unwrap();
        // A gateway describes each dependency, a worker says true or false.
        let is_away = |part: &str| found[part] == false || found[part]["ready"] == false;
        let told = match away {
            Some(part) => status == 503 && is_away(part),
            None => status == 200,
        };
        if told {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{name}: {found}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks that a job is refused for now: 503 and when to come again. Answers the code.
async fn is_refused_for_now(deployment: &Deployment, document: &Value) -> Value {
    let url = format!("{}/v1/jobs", deployment.endpoint("gateway-1").unwrap());
    let request = deployment.http.post(url).bearer_auth(TOKEN).json(document);
    let answer = request.timeout(Duration::from_secs(100)).send().await.unwrap();
    let retry_after = answer.headers().get("retry-after").cloned();
    let (status, problem) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
    assert_eq!((status, &problem["retryable"]), (503, &json!(true)), "{problem}");
    assert!(retry_after.is_some(), "{problem}");
    problem["code"].clone()
}

/// Backbone and store are lost while everything runs, the backbone once with all
/// that it had, and found again without a restart.
#[tokio::test]
async fn what_is_lost_later_is_told_and_needs_no_restart() {
    let troubles = (Troubles { busy: 100, ..Troubles::default() }, 0);
    let mut deployment =
        Deployment::start(Plan { troubles, ..plan((Release::Debian, 1), 1, 1) }).await.unwrap();
    let result = alone(&deployment).await;
    for function in ["hello", "column-stats"] {
        deployment.deploy("gateway-1", function).await.unwrap();
    }
    let first = deployment.submit("gateway-1", &job("first")).await.unwrap();
    gives(&deployment, "gateway-1", &first, &result).await;
    let ended = promised(&deployment, "gateway-1").await;
    assert_eq!(until_ended(&deployment, &ended).await["state"], "succeeded");
    let gateway = deployment.endpoint("gateway-1").unwrap();
    let reads = async |deployment: &Deployment| {
        for path in ["/v1/functions/hello".to_owned(), format!("/v1/jobs/{first}")] {
            let (status, found) = deployment.ask("GET", &format!("{gateway}{path}"), "", "").await.unwrap();
            assert_eq!(status, 200, "{path}: {found}");
        }
    };

    deployment.kill("nats-1").unwrap();
    until_readiness(&deployment, "gateway-1", Some("backbone")).await;
    until_readiness(&deployment, "worker-1", Some("backbone")).await;
    // Whoever scrapes gives up after ten seconds.
    let begun = Instant::now();
    let scraped = deployment.ask("GET", &format!("{gateway}/metrics"), "", "").await.unwrap();
    assert!(scraped.0 == 200 && begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(is_refused_for_now(&deployment, &job("refused")).await, "backbone-unavailable");
    reads(&deployment).await;
    for part in ["", "/result", "/logs"] {
        let (status, found) = deployment.ask("GET", &format!("{ended}{part}"), "", "").await.unwrap();
        assert_eq!(status, 200, "{part}: {found}");
    }
    deployment.launch("nats-1").unwrap();
    until_readiness(&deployment, "gateway-1", None).await;
    until_readiness(&deployment, "worker-1", None).await;

    // F4: all that NATS had is lost under a running job.
    let id = deployment.submit("gateway-1", &job("lost")).await.unwrap();
    deployment.job("gateway-1", &id, PATIENCE, has_begun).await.unwrap();
    deployment.kill("nats-1").unwrap();
    std::fs::remove_dir_all(deployment.path("nats-1-store")).unwrap();
    deployment.launch("nats-1").unwrap();
    gives(&deployment, "gateway-1", &id, &result).await;
    greets(&deployment, "gateway-1").await;

    deployment.proxy.troubled();
    until_readiness(&deployment, "gateway-1", Some("store")).await;
    until_readiness(&deployment, "worker-1", Some("store")).await;
    is_refused_for_now(&deployment, &job("refused")).await;
    reads(&deployment).await;
    deployment.proxy.calm();
    until_readiness(&deployment, "gateway-1", None).await;
    until_readiness(&deployment, "worker-1", None).await;
    let id = deployment.submit("gateway-1", &job("again")).await.unwrap();
    gives(&deployment, "gateway-1", &id, &result).await;
}

/// While it ends what runs, whoever connects is refused, so that it goes elsewhere.
#[tokio::test]
async fn a_gateway_that_drains_refuses_who_connects() {
    let mut deployment = Deployment::start(plan((Release::Debian, 1), 1, 1)).await.unwrap();
    let address = deployment.endpoint("gateway-1").unwrap().replace("http://", "");
    let mut running = TcpStream::connect(&address).await.unwrap();
    // Its body does not come, so it runs for the 15 s that one may be silent.
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: 8\r\nexpect: 100-continue\r\n\r\n"
    );
    running.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 12];
    running.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    let refusing = async {
        let refused = async {
            loop {
                match TcpStream::connect(&address).await {
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let refused = tokio::time::timeout(Duration::from_secs(8), refused).await;
        assert!(refused.is_ok(), "who connects is left hanging");
        // It is there all the same, and answers what it has begun.
        running.write_all(b"\"nobody\"").await.unwrap();
        let mut said = String::new();
        running.read_to_string(&mut said).await.unwrap();
        assert!(said.contains("HTTP/1.1 4"), "{said}");
    };
    let (stopped, ()) = tokio::join!(deployment.stop("gateway-1"), refusing);
    assert_eq!(stopped.unwrap(), Some(0));
}

/// A worker with a certificate of another authority, and one with another's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_both_sides_say_why() {
    let mut deployment = Deployment::start(plan((Release::Debian, 1), 1, 2)).await.unwrap();
    deployment.deploy("gateway-1", "hello").await.unwrap();
    let made = deployment.fanfold(&["certs", "--out", "others", "--worker", "127.0.0.1"]).unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(deployment.stop("worker-2").await.unwrap(), Some(0));
    let text = std::fs::read_to_string(deployment.path("worker-2.toml")).unwrap();
    // It knows that of the gateway as well.
    let both = ["certs/ca.pem", "others/ca.pem"].map(|file| deployment.path(file));
    let both = both.map(|file| std::fs::read_to_string(file).unwrap()).concat();
    deployment.write("both.pem", &both).unwrap();
    let text = text.replace("certs/worker", "others/worker").replace("certs/ca.pem", "both.pem");
    deployment.write("worker-2.toml", &text).unwrap();
    deployment.launch("worker-2").unwrap();
    deployment.ready("worker-2").await.unwrap();
    // Before anybody calls.
    says(&deployment, "gateway-1", "a worker cannot be reached").await;
    says(&deployment, "gateway-1", "invalid peer certificate").await;
    says(&deployment, "worker-2", "a gateway was refused: its certificate").await;
    // The other one is away, so that this one is tried.
    assert_eq!(deployment.stop("worker-1").await.unwrap(), Some(0));
    let url = format!("{}/v1/functions/hello/invoke", deployment.endpoint("gateway-1").unwrap());
    let (status, found) = deployment.ask("POST", &url, "application/json", "\"Ada\"").await.unwrap();
    assert_eq!((status, &found["code"]), (503, &json!("worker-unavailable")), "{found}");
    // Its record is there all the while, and it rests only for moments.
    for _ in 0..20 {
        assert_eq!(workers_live(&deployment, "gateway-1").await, "0");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let readyz = format!("{}/readyz", deployment.endpoint("gateway-1").unwrap());
    let (status, told) = deployment.ask("GET", &readyz, "text/plain", "").await.unwrap();
    let detail = json!("1 worker is known and cannot be reached");
    assert_eq!((status, &told["workers"]["detail"]), (503, &detail), "{told}");
    deployment.launch("worker-1").unwrap();
    deployment.ready("worker-1").await.unwrap();
    greets(&deployment, "gateway-1").await;
    assert_eq!(workers_live(&deployment, "gateway-1").await, "1");
    let text = std::fs::read_to_string(deployment.path("worker-1.toml")).unwrap();
    let probes = deployment.endpoint("worker-1").unwrap().replace("http://", "");
    let twin = text.replace("cache-worker-1", "cache-twin").replace(&probes, "127.0.0.1:0");
    deployment.write("twin.toml", &twin).unwrap();
    let output = deployment.fanfold(&["worker", "--config", "twin.toml"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("expected the name worker-1 to be free"), "{said}");
    says(&deployment, "worker-1", "another worker was refused").await;
    says(&deployment, "gateway-1", "a worker was refused: another one has its name").await;
}

/// What a gateway's metrics say of its workers.
async fn workers_live(deployment: &Deployment, gateway: &str) -> String {
    let metrics = format!("{}/metrics", deployment.endpoint(gateway).unwrap());
    let text = deployment.http.get(metrics).bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix("fanfold_workers_live ")).unwrap().to_owned()
}

/// Waits until a process has said something.
async fn says(deployment: &Deployment, name: &str, what: &str) {
    let begun = Instant::now();
    while !deployment.log(name).contains(what) {
        assert!(begun.elapsed() < PATIENCE, "{what}: {}", deployment.log(name));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_halted_for_so_long_that_another_has_its_name_says_so_to_all() {
    let mut deployment = Deployment::start(plan((Release::Debian, 1), 1, 2)).await.unwrap();
    assert_eq!(deployment.stop("worker-2").await.unwrap(), Some(0));
    deployment.signal("worker-1", Signal::STOP).unwrap();
    let text = std::fs::read_to_string(deployment.path("worker-1.toml")).unwrap();
    let probes =
        ["worker-1", "worker-2"].map(|name| deployment.endpoint(name).unwrap().replace("http://", ""));
    let twin = text.replace("cache-worker-1", "cache-worker-2").replace(&probes[0], &probes[1]);
    deployment.write("worker-2.toml", &twin).unwrap();
    deployment.launch("worker-2").unwrap();
    deployment.ready("worker-2").await.unwrap();
    deployment.signal("worker-1", Signal::CONT).unwrap();
    says(&deployment, "worker-1", "expected the name worker-1 to be free").await;
    says(&deployment, "worker-2", "another worker was refused").await;
    says(&deployment, "gateway-1", "a worker was refused: another one has its name").await;
    assert!(!deployment.log("worker-1").contains("another worker was refused"));
}

/// Files are looked at although the server asks for no TLS.
fn wrong_certificates_for_nats_are_told(deployment: &Deployment, text_of_gateway: &str) {
    for file in ["none.pem", "digests"] {
        let unfit = text_of_gateway.replace("[nats]\n", &format!("[nats]\nca = {file:?}\n"));
        deployment.write("unfit.toml", &unfit).unwrap();
        let said = refused(deployment, &["gateway", "--config", "unfit.toml"], 3);
        assert!(said.contains("nats.ca: expected certificates as PEM"), "{said}");
    }
    let unfit = text_of_gateway.replace("[nats]\n", "[nats]\nrequire_tls = true\n");
    deployment.write("unfit.toml", &unfit).unwrap();
    let said = refused(deployment, &["gateway", "--config", "unfit.toml"], 3);
    assert!(said.contains("nats: expected TLS to be agreed"), "{said}");
}

/// What the program says as it ends with this code.
fn refused(deployment: &Deployment, words: &[&str], code: i32) -> String {
    let output = deployment.fanfold(words).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_at_the_start_is_told_together() {
    let deployment = Deployment::start(plan((Release::Debian, 1), 1, 1)).await.unwrap();
    let text = "listen = \"127.0.0.1:1\"\ntoken_digests = \"digests\"\n[store]\nendpoint = \"http://127.0.0.1:1\"\ncredentials = \"store\"\n\
         [nats]\nurls = [\"nats://127.0.0.1:1\"]\n[tls]\ncert = \"none.pem\"\nkey = \"certs/gateway-127.0.0.1.key\"\nca = \"certs/ca.pem\"\n";
    deployment.write("wrong.toml", text).unwrap();
    for more in [&[][..], &["--check"]] {
        let words = [&["gateway", "--config", "wrong.toml"][..], more].concat();
        let said = refused(&deployment, &words, 3);
        for named in ["tls.cert", "none.pem", "store.endpoint: ", "nats:", "no port was bound"] {
            assert!(said.contains(named), "expected {named} in {said}");
        }
    }
    let text_of_gateway = std::fs::read_to_string(deployment.path("gateway-1.toml")).unwrap();
    wrong_certificates_for_nats_are_told(&deployment, &text_of_gateway);
    starts::certificates_that_nobody_would_take_are_told(&deployment);
    // What is sound is told what it would make, and nothing is made.
    let other = text_of_gateway.replace(&format!("{SYSTEM_BUCKET:?}"), "\"not-there-yet\"");
    deployment.write("other.toml", &other).unwrap();
    for _ in 0..2 {
        let output = deployment.fanfold(&["gateway", "--config", "other.toml", "--check"]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && output.stdout.is_empty(), "{said}");
        assert!(said.contains("the bucket not-there-yet is not there yet; a start makes it"), "{said}");
    }
    assert!(!deployment.store().unwrap().bucket_exists("not-there-yet").await.unwrap());
    for (part, file) in [("gateway", "gateway-1.toml"), ("worker", "worker-1.toml")] {
        let output = deployment.fanfold(&[part, "--config", file, "--check"]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("a start makes it"), "{said}");
    }
    deployment.write("bad-digests", "not hexadecimal\n").unwrap();
    let text = text.replace("\"digests\"", "\"bad-digests\"") + "[limits]\ntenant_concurrency = 100000\n";
    deployment.write("wrong.toml", &text.replace("\"store\"", "\"missing\"")).unwrap();
    let said = refused(&deployment, &["gateway", "--config", "wrong.toml", "--check"], 2);
    let text = text.replace("listen =", "lissten = 1\nlisten =");
    deployment.write("wrong.toml", &text.replace("\"store\"", "\"missing\"")).unwrap();
    let all = refused(&deployment, &["gateway", "--config", "wrong.toml"], 2);
    for named in ["lissten", "token_digests", "store.credentials", "tls.cert", "nats: expected NATS at"] {
        assert!(all.contains(named), "expected {named} in {all}");
    }
    for named in ["token_digests", "line 1", "store.credentials", "tenant_concurrency"] {
        assert!(said.contains(named), "expected {named} in {said}");
    }
    // Of a worker: a key of another certificate, credentials that store and NATS refuse. Its
    // port is taken, and it does not come to notice.
    let text = std::fs::read_to_string(deployment.path("worker-1.toml")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = text.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    let text = text.replace("worker-127.0.0.1.key", "gateway-127.0.0.1.key");
    let text = text.replace("nats/worker-1.password", "bad-digests").replace("\"store\"", "\"bad-store\"");
    deployment.write("bad-store", "nobody\nsecret\n").unwrap();
    deployment.write("wrong.toml", &text).unwrap();
    let said = refused(&deployment, &["worker", "--config", "wrong.toml"], 3);
    for named in [
        "tls.key",
        "store.credentials: ",
        "nats: expected credentials that NATS accepts",
        "no port was bound",
    ] {
        assert!(said.contains(named), "expected {named} in {said}");
    }
    deployment.write("wrong.toml", "listen = \"127.0.0.1:1\"\nlissten = 1\n").unwrap();
    let said = refused(&deployment, &["worker", "--config", "wrong.toml"], 2);
    for named in ["lissten", "probe_listen", "cache", "store.credentials", "nats.urls", "tls.ca"] {
        assert!(said.contains(&format!("{named}: ")), "expected {named} in {said}");
    }
}
