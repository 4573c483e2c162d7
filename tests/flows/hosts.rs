// SPDX-License-Identifier: Apache-2.0
//! A deployment of many hosts, as processes on loopback: NATS of Debian, a store,
//! two gateways and workers that come, are killed and go.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use fanfold_tests::service::{Service, component, program};
use serde_json::{Value, json};

use crate::support::Client;

/// The oldest release that the platform works with; `cargo xtask test` installs it.
const NATS: &str = "/usr/sbin/nats-server";
const PATIENCE: Duration = Duration::from_secs(90);
/// Bigger than a task's part of it by some tens.
const ROWS: u64 = 120_000;

/// A process that is ended with its handle.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Tells it to stop, and gives its exit code.
    fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not stop");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What all hosts have in common. The store is that of a `fanfold dev`, whose own
/// answers are those to compare with.
struct Deployment {
    folder: tempfile::TempDir,
    store: Service,
    nats_port: u16,
    _nats: Process,
    http: reqwest::Client,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Deployment {
    fn new() -> Self {
        assert!(Path::new(NATS).is_file(), "expected {NATS}, found nothing; run `cargo xtask test`");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let nats_port = free_port();
        let nats = Process::start(
            Command::new(NATS)
                .args(["-js", "-a", "127.0.0.1", "-p", &nats_port.to_string(), "-sd"])
                .arg(folder.path().join("nats")),
            &folder.path().join("nats.log"),
        );
        let dev = folder.path().join("dev");
        std::fs::create_dir(&dev).unwrap();
        let store = Service::start(&dev).unwrap();
        let deployment = Self { folder, store, nats_port, _nats: nats, http: reqwest::Client::new() };
        let credentials = &deployment.store.credentials;
        deployment.write("store", &format!("{}\n{}\n", credentials.access_key, credentials.secret_key));
        let digest = fanfold_protocol::digest::Digest::of(b"secret-of-the-tester").to_hex();
        deployment.write("digests", &format!("# the tester\n{digest}\n"));
        let made = deployment.fanfold(&[
            "certs",
            "--out",
            "certs",
            "--gateway",
            "127.0.0.1",
            "--worker",
            "127.0.0.1",
        ]);
        assert!(made.status.success(), "{made:?}");
        deployment
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn fanfold(&self, arguments: &[&str]) -> Output {
        Command::new(program()).args(arguments).current_dir(self.folder.path()).output().unwrap()
    }

    fn common(&self, part: &str) -> String {
        format!(
            "system_bucket = \"many-hosts\"\n[store]\nendpoint = {:?}\ncredentials = \"store\"\n[nats]\nurls = [\"nats://127.0.0.1:{}\"]\n\
             [tls]\ncert = \"certs/{part}-127.0.0.1.pem\"\nkey = \"certs/{part}-127.0.0.1.key\"\nca = \"certs/ca.pem\"\n",
            self.store.s3_endpoint, self.nats_port
        )
    }

    fn process(&self, part: &str, name: &str) -> Process {
        let mut command = Command::new(program());
        command.args([part, "--config", &format!("{name}.toml")]).current_dir(self.folder.path());
        command.env("RUST_LOG", "info,s3s=off");
        Process::start(&mut command, &self.path(&format!("{name}.log")))
    }

    /// A gateway, and its base URL.
    async fn gateway(&self, name: &str) -> (Process, String) {
        let port = free_port();
        let text =
            format!("listen = \"127.0.0.1:{port}\"\ntoken_digests = \"digests\"\n{}", self.common("gateway"));
        self.write(&format!("{name}.toml"), &text);
        let (process, endpoint) = (self.process("gateway", name), format!("http://127.0.0.1:{port}"));
        self.until(name, &format!("{endpoint}/healthz")).await;
        (process, endpoint)
    }

    async fn worker(&self, name: &str) -> Process {
        let probe = free_port();
        let text = format!(
            "name = {name:?}\nlisten = \"127.0.0.1:0\"\nprobe_listen = \"127.0.0.1:{probe}\"\nthreads = 1\ncache = \"cache-{name}\"\n{}",
            self.common("worker")
        );
        self.write(&format!("{name}.toml"), &text);
        let process = self.process("worker", name);
        self.until(name, &format!("http://127.0.0.1:{probe}/readyz")).await;
        process
    }

    /// Waits until this answers with success.
    async fn until(&self, name: &str, url: &str) {
        let begun = Instant::now();
        loop {
            let answer = self.http.get(url).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(30), "{url} does not answer: {log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, method: &str, url: &str, kind: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.http.request(method.parse().unwrap(), url).header("content-type", kind);
        let answer = request.bearer_auth("secret-of-the-tester").body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn deploy(&self, endpoint: &str, function: &str) {
        let bytes = std::fs::read(component(function).unwrap()).unwrap();
        let url = format!("{endpoint}/v1/functions/{function}/versions");
        let (status, answer) = self.ask("POST", &url, "application/wasm", bytes).await;
        assert_eq!(status, 201, "{answer}");
    }

    async fn submit(&self, endpoint: &str, job: &Value) -> String {
        let (status, answer) =
            self.ask("POST", &format!("{endpoint}/v1/jobs"), "application/json", job.to_string()).await;
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// The job once `fits` says so.
    async fn job(&self, endpoint: &str, id: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let (status, job) =
                self.ask("GET", &format!("{endpoint}/v1/jobs/{id}"), "application/json", "").await;
            if status == 200 && fits(&job) {
                return job;
            }
            assert!(begun.elapsed() < PATIENCE, "{job}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

fn ended(job: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].iter().any(|state| job["state"] == *state)
}

fn job(output: &str) -> Value {
    json!({"function": "column-stats", "input": "s3://bank/in/", "output": format!("s3://bank/{output}/"), "cache": false,
        "split": {"target_bytes": "64KiB"}})
}

#[tokio::test]
async fn many_hosts_give_the_answer_of_one_whatever_is_killed() {
    let deployment = Deployment::new();
    let rows: String = (0..ROWS).map(|n| format!("{n},{}.5\n", n * 7919 % 1_000)).collect();
    deployment.store.put("s3://bank/in/a.csv", format!("n,x\n{rows}")).await.unwrap();
    deployment.store.deploy("column-stats").unwrap();
    let alone = Client::new(&deployment.store).job(job("alone")).await.body;
    assert_eq!(alone["state"], "succeeded", "{alone}");

    let (mut first, one) = deployment.gateway("gateway-1").await;
    let (mut second, two) = deployment.gateway("gateway-2").await;
    let (status, readiness) = deployment.ask("GET", &format!("{one}/readyz"), "text/plain", "").await;
    assert_eq!((status, &readiness["workers"]["ready"]), (503, &json!(false)), "{readiness}");
    let mut east = deployment.worker("east").await;
    let mut west = deployment.worker("west").await;
    deployment.until("gateway-1", &format!("{one}/readyz")).await;
    for function in ["hello", "column-stats"] {
        deployment.deploy(&one, function).await;
    }
    // Deployed through one gateway, called through the other.
    let url = format!("{two}/v1/functions/hello/invoke");
    let begun = Instant::now();
    let answer = loop {
        let (status, answer) = deployment.ask("POST", &url, "application/json", "\"Ada\"").await;
        if status == 200 {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(answer, json!("hello, Ada"));

    // A worker is killed with its tasks, then the gateway that coordinates.
    let id = deployment.submit(&one, &job("killed")).await;
    deployment.job(&one, &id, |job| job["tasks"]["done"].as_u64() > Some(0)).await;
    east.kill();
    first.kill();
    let done = deployment.job(&two, &id, ended).await;
    assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), &alone["result"]), "{done}");

    // One is told to stop under load, and another takes its place.
    let _north = deployment.worker("north").await;
    let id = deployment.submit(&two, &job("drained")).await;
    deployment.job(&two, &id, |job| job["tasks"]["done"].as_u64() > Some(0)).await;
    assert_eq!(west.stop(), Some(0));
    let done = deployment.job(&two, &id, ended).await;
    assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), &alone["result"]), "{done}");
    let (status, answer) = deployment.ask("POST", &url, "application/json", "\"Bea\"").await;
    assert_eq!((status, answer), (200, json!("hello, Bea")));
    assert_eq!(second.stop(), Some(0));
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_told_together() {
    let deployment = Deployment::new();
    let port = free_port();
    let text = format!(
        "listen = \"127.0.0.1:{port}\"\ntoken_digests = \"digests\"\n[store]\nendpoint = \"http://127.0.0.1:1\"\ncredentials = \"store\"\n\
         [nats]\nurls = [\"nats://127.0.0.1:1\"]\n[tls]\ncert = \"none.pem\"\nkey = \"certs/gateway-127.0.0.1.key\"\nca = \"certs/ca.pem\"\n"
    );
    deployment.write("wrong.toml", &text);
    let output = deployment.fanfold(&["gateway", "--config", "wrong.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    for named in ["tls.cert", "none.pem", "store:", "nats:", "no port was bound"] {
        assert!(said.contains(named), "expected {named} in {said}");
    }
    deployment.write("bad-digests", "not hexadecimal\n");
    let text = text.replace("\"digests\"", "\"bad-digests\"") + "[limits]\ntenant_concurrency = 100000\n";
    deployment.write("wrong.toml", &text.replace("\"store\"", "\"missing\""));
    let output = deployment.fanfold(&["gateway", "--config", "wrong.toml", "--check"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for named in ["token_digests", "line 1", "store.credentials", "tenant_concurrency"] {
        assert!(said.contains(named), "expected {named} in {said}");
    }
    deployment.write("wrong.toml", "listen = \"127.0.0.1:1\"\nlissten = 1\n");
    let output = deployment.fanfold(&["worker", "--config", "wrong.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("lissten"), "{said}");
}

#[test]
fn certificates_are_made_once_and_keys_are_ones_own() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let make = |names: &[&str]| {
        let output = Command::new(program())
            .args(["certs", "--out", "c"])
            .args(names)
            .current_dir(folder.path())
            .output();
        output.unwrap()
    };
    assert!(make(&["--worker", "a.example.org"]).status.success());
    let authority = std::fs::read(folder.path().join("c/ca.pem")).unwrap();
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("c/ca.key"), mode("c/worker-a.example.org.key")), (0o600, 0o600));
    // Another host later, of the same authority; the same host is refused.
    assert!(make(&["--worker", "10.0.0.7"]).status.success());
    assert_eq!(std::fs::read(folder.path().join("c/ca.pem")).unwrap(), authority);
    let refused = make(&["--worker", "a.example.org"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("never written over"));
    assert!(!make(&["--gateway", "../up"]).status.success());
}
