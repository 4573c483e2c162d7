// SPDX-License-Identifier: Apache-2.0
//! A deployment of many hosts as processes: NATS, a store, gateways and workers,
//! on loopback or each in a network namespace, to be killed, stopped and cut off.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fanfold_backbone::{Backbone, NatsConfig, NatsCredentials, Secret};
use fanfold_storage::Store;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    network,
    proxy::{Proxy, Troubles},
    service::{Service, component, program},
};

mod clock;

/// What users of the deployment show.
pub const TOKEN: &str = "secret-of-the-tester";
/// Where the platform keeps its own objects.
pub const SYSTEM_BUCKET: &str = "many-hosts";
/// Set by whoever wants to read the logs afterwards.
pub const KEEP: &str = "FANFOLD_TESTS_KEEP";
/// From the start of a process until it answers.
const READY_MAX: Duration = Duration::from_secs(60);
/// From the signal to stop until the end.
const STOPPED_MAX: Duration = Duration::from_secs(60);

/// Which NATS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 2.9.10, Debian 12's, the oldest that the platform works with.
    Debian,
    /// 2.15.1, of the test environment.
    Current,
}

impl Release {
    fn program(self) -> Result<PathBuf> {
        let venv = std::env::var_os("FANFOLD_TEST_VENV").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-env/venv"),
            PathBuf::from,
        );
        let path = match self {
            Self::Debian => PathBuf::from("/usr/sbin/nats-server"),
            Self::Current => venv.join("bin/nats-server"),
        };
        ensure!(path.is_file(), "expected {}, found nothing; run `cargo xtask setup`", path.display());
        Ok(path)
    }
}

/// What is to be there.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Which NATS, and how many servers of it, each with a copy of everything.
    pub nats: (Release, usize),
    /// Gateways.
    pub gateways: usize,
    /// Workers.
    pub workers: usize,
    /// What happens to requests to the store, drawn from a seed.
    pub troubles: (Troubles, u64),
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Nats,
    Gateway,
    Worker,
}

struct Host {
    part: Part,
    address: Ipv4Addr,
    /// Of a gateway or NATS, for users; of a worker, for probes.
    port: u16,
    process: Option<Child>,
    /// What is in the environment of its processes beside ours.
    variables: Vec<(&'static str, String)>,
}

/// A deployment. It ends when this is dropped.
pub struct Deployment {
    folder: tempfile::TempDir,
    plan: Plan,
    namespaces: bool,
    hosts: BTreeMap<String, Host>,
    /// A `fanfold dev`, whose store is the deployment's, and whose answers are those
    /// to compare with.
    pub alone: Service,
    /// Between the hosts and the store.
    pub proxy: Proxy,
    /// A client for everything.
    pub http: reqwest::Client,
}

impl Deployment {
    /// Starts all of it; in namespaces where this process has a network of its own.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(plan: Plan) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let namespaces = network::is_own();
        let mut folder = tempfile::tempdir()?;
        if std::env::var_os(KEEP).is_some() {
            folder.disable_cleanup(true);
            eprintln!("everything is kept in {}", folder.path().display());
        }
        let alone = folder.path().join("alone");
        std::fs::create_dir(&alone)?;
        let alone = Service::start(&alone)?;
        let here = if namespaces { network::HERE } else { Ipv4Addr::LOCALHOST };
        let upstream = alone.s3_endpoint.trim_start_matches("http://").parse()?;
        let proxy = Proxy::start_at(here, upstream, plan.troubles.0, plan.troubles.1).await?;
        proxy.calm();
        let mut deployment = Self {
            folder,
            plan,
            namespaces,
            hosts: BTreeMap::new(),
            alone,
            proxy,
            http: reqwest::Client::new(),
        };
        let parts = [
            (Part::Nats, "nats", plan.nats.1),
            (Part::Gateway, "gateway", plan.gateways),
            (Part::Worker, "worker", plan.workers),
        ];
        let mut ports = free_ports(2 * plan.nats.1 + plan.gateways + plan.workers)?;
        for (part, name, count) in parts {
            for (number, port) in (1..=count).zip(ports.split_off(ports.len() - count)) {
                deployment.add(part, format!("{name}-{number}"), port)?;
            }
        }
        deployment.configure(&ports)?;
        let (first, others): (Vec<_>, Vec<_>) =
            deployment.names("").into_iter().partition(|name| name.starts_with("nats"));
        for names in [first, others] {
            for name in &names {
                deployment.launch(name)?;
            }
            for name in &names {
                deployment.ready(name).await?;
            }
            deployment.elected().await?;
        }
        Ok(deployment)
    }

    /// Waits until a cluster of NATS has a leader and has the streams, so that all others would start.
    async fn elected(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.backbone("gateway-1").await {
                Ok(backbone) => {
                    backbone.close().await;
                    return Ok(());
                }
                Err(error) => ensure!(begun.elapsed() < READY_MAX, "NATS does not get ready: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A program on a host, in the deployment's folder.
    fn command(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command =
            if self.namespaces { network::command(host, program) } else { Command::new(program) };
        command.current_dir(self.folder.path());
        command
    }

    fn add(&mut self, part: Part, name: String, port: u16) -> Result<()> {
        let mut address = Ipv4Addr::LOCALHOST;
        if self.namespaces {
            let last = u8::try_from(10 + self.hosts.len()).context("expected fewer hosts")?;
            address = Ipv4Addr::new(10, 77, 0, last);
            network::add(&name, address)?;
        }
        self.hosts.insert(name, Host { part, address, port, process: None, variables: Vec::new() });
        Ok(())
    }

    /// Writes every file that the processes read. `routes` are ports between servers
    /// of NATS.
    fn configure(&self, routes: &[u16]) -> Result<()> {
        let credentials = &self.alone.credentials;
        self.write("store", &format!("{}\n{}\n", credentials.access_key, credentials.secret_key))?;
        let digest = fanfold_protocol::digest::Digest::of(TOKEN.as_bytes()).to_hex();
        self.write("digests", &format!("# the tester\n{digest}\n"))?;
        let mut named = vec!["certs".to_owned(), "--out".to_owned(), "certs".to_owned()];
        for host in self.hosts.values().filter(|host| host.part != Part::Nats) {
            let flag = if host.part == Part::Gateway { "--gateway" } else { "--worker" };
            if !named.ends_with(&[flag.to_owned(), host.address.to_string()]) {
                named.extend([flag.to_owned(), host.address.to_string()]);
            }
        }
        let made = self.fanfold(&named)?;
        ensure!(made.status.success(), "fanfold certs: {made:?}");
        let users = ["nats-users", "--out", "nats", "--tenant", "shop"].map(str::to_owned);
        let mut users = Vec::from(users);
        for (name, host) in self.hosts.iter().filter(|(_, host)| host.part != Part::Nats) {
            let flag = if host.part == Part::Gateway { "--gateway" } else { "--worker" };
            users.extend([flag.to_owned(), name.clone()]);
        }
        let made = self.fanfold(&users)?;
        ensure!(made.status.success(), "fanfold nats-users: {made:?}");
        let routes = self.names("nats").into_iter().zip(routes);
        let routes =
            routes.map(|(name, port)| Ok((SocketAddr::from((self.host(&name)?.address, *port)), name)));
        let routes: BTreeMap<SocketAddr, String> = routes.collect::<Result<_>>()?;
        for (name, host) in &self.hosts {
            match host.part {
                Part::Nats => self.write(&format!("{name}.toml"), &self.nats(name, host, &routes))?,
                Part::Gateway => self.write(&format!("{name}.toml"), &self.gateway(name, host))?,
                Part::Worker => self.write(&format!("{name}.toml"), &self.worker(name, host))?,
            };
        }
        Ok(())
    }

    fn here(&self) -> Ipv4Addr {
        if self.namespaces { network::HERE } else { Ipv4Addr::LOCALHOST }
    }

    fn nats(&self, name: &str, host: &Host, routes: &BTreeMap<SocketAddr, String>) -> String {
        let mut text = format!(
            "include nats/users.conf\nserver_name: {name}\nlisten: {}:{}\njetstream {{ store_dir: {:?}, max_mem: 256MB, max_file: 16GB }}\n",
            host.address,
            host.port,
            self.path(&format!("{name}-store"))
        );
        for (own, _) in routes.iter().filter(|(_, of)| routes.len() > 1 && *of == name) {
            let all: Vec<String> = routes.keys().map(|address| format!("nats://{address}")).collect();
            text += &format!("cluster {{ name: hosts, listen: \"{own}\", routes: {all:?} }}\n");
        }
        text
    }

    fn common(&self, part: &str, name: &str, host: &Host) -> String {
        let urls: Vec<String> =
            self.hosts.values().filter(|host| host.part == Part::Nats).map(url_of_nats).collect();
        let address = host.address;
        format!(
            "system_bucket = {SYSTEM_BUCKET:?}\n[store]\nendpoint = {:?}\ncredentials = \"store\"\n\
             [nats]\nurls = {urls:?}\nreplicas = {}\nuser = {name:?}\npassword = \"nats/{name}.password\"\nrestricted = {}\n\
             [tls]\ncert = \"certs/{part}-{address}.pem\"\nkey = \"certs/{part}-{address}.key\"\nca = \"certs/ca.pem\"\n",
            self.proxy.endpoint(),
            self.plan.nats.1,
            host.part == Part::Worker
        )
    }

    fn gateway(&self, name: &str, host: &Host) -> String {
        let common = self.common("gateway", name, host);
        format!("listen = \"{}:{}\"\ntoken_digests = \"digests\"\n{common}", host.address, host.port)
    }

    fn worker(&self, name: &str, host: &Host) -> String {
        let (address, port, common) = (host.address, host.port, self.common("worker", name, host));
        format!(
            "name = {name:?}\nlisten = \"{address}:0\"\nprobe_listen = \"{address}:{port}\"\ncache = \"cache-{name}\"\n{common}"
        )
    }

    /// A file of the deployment.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the deployment.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        std::fs::write(self.path(name), text)?;
        Ok(self.path(name))
    }

    /// Runs the program in the deployment's folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn fanfold<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Output> {
        Ok(Command::new(program()).args(arguments).current_dir(self.folder.path()).output()?)
    }

    /// The hosts whose names begin so.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        // NATS first, then gateways, which workers may outlive.
        let mut names: Vec<String> =
            self.hosts.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        names.sort_by_key(|name| (!name.starts_with("nats"), name.clone()));
        names
    }

    fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.get(name).with_context(|| format!("expected a host, found {name}"))
    }

    /// The URL of a gateway.
    ///
    /// # Errors
    /// There is no such host.
    pub fn endpoint(&self, name: &str) -> Result<String> {
        let host = self.host(name)?;
        Ok(format!("http://{}:{}", host.address, host.port))
    }

    /// What a process has written.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Starts a process, over what an earlier one left.
    ///
    /// # Errors
    /// It does not start.
    pub fn launch(&mut self, name: &str) -> Result<()> {
        let host = self.host(name)?;
        let (file, arguments) = match host.part {
            Part::Nats => (self.plan.nats.0.program()?, vec!["-c".to_owned()]),
            Part::Gateway => (program(), vec!["gateway".to_owned(), "--config".to_owned()]),
            Part::Worker => (program(), vec!["worker".to_owned(), "--config".to_owned()]),
        };
        let mut command = self.command(name, file);
        let log =
            std::fs::File::options().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        command.args(arguments).arg(format!("{name}.toml"));
        command.envs(host.variables.iter().map(|(name, value)| (*name, value)));
        command.env("RUST_LOG", "info,s3s=off").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        let host = self.hosts.get_mut(name).context("expected a host")?;
        ensure!(host.process.replace(child).is_none(), "expected {name} not to run already");
        Ok(())
    }

    /// Waits until a process answers: a gateway that it lives, others that they are
    /// ready.
    ///
    /// # Errors
    /// It does not, or has ended.
    pub async fn ready(&mut self, name: &str) -> Result<()> {
        let begun = Instant::now();
        let (part, endpoint) = (self.host(name)?.part, self.endpoint(name)?);
        loop {
            let process = self.hosts.get_mut(name).and_then(|host| host.process.as_mut());
            let ended = process.context("expected a process")?.try_wait()?;
            if let Some(ended) = ended {
                bail!("expected {name} to get ready, found that it ended with {ended}: {}", self.log(name));
            }
            let answers = match part {
                // It greets whoever connects.
                Part::Nats => {
                    tokio::net::TcpStream::connect(endpoint.trim_start_matches("http://")).await.is_ok()
                }
                Part::Gateway => self.answers(&format!("{endpoint}/healthz")).await,
                Part::Worker => self.answers(&format!("{endpoint}/readyz")).await,
            };
            if answers {
                return Ok(());
            }
            ensure!(begun.elapsed() < READY_MAX, "{name} does not get ready: {}", self.log(name));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether this answers with success.
    pub async fn answers(&self, url: &str) -> bool {
        let asked = self.http.get(url).timeout(Duration::from_secs(5)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    /// Ends a process as `kill -9` does.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let mut child = self.take(name)?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Tells a process to stop, and gives its exit code.
    ///
    /// # Errors
    /// It does not run, or does not stop.
    pub async fn stop(&mut self, name: &str) -> Result<Option<i32>> {
        self.signal(name, Signal::TERM)?;
        let (mut child, begun) = (self.take(name)?, Instant::now());
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            if begun.elapsed() > STOPPED_MAX {
                child.kill()?;
                bail!("{name} does not stop: {}", self.log(name));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Halts a process or lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let child = self.host(name)?.process.as_ref().with_context(|| format!("expected {name} to run"))?;
        Ok(rustix::process::kill_process(rustix::process::Pid::from_child(child), signal)?)
    }

    fn take(&mut self, name: &str) -> Result<Child> {
        let process = self.hosts.get_mut(name).and_then(|host| host.process.take());
        process.with_context(|| format!("expected {name} to run"))
    }

    /// Lets nothing that one host sends arrive at another, or at the store, which is
    /// `store`.
    ///
    /// # Errors
    /// The hosts have no networks of their own.
    pub fn cut(&self, from: &str, to: &str) -> Result<()> {
        network::cut(from, self.address(to)?)
    }

    /// Loses one in a hundred of the packets that arrive at a host.
    ///
    /// # Errors
    /// The hosts have no networks of their own.
    pub fn lose(&self, host: &str) -> Result<()> {
        network::lose(host)
    }

    /// Ends a [`Deployment::cut`].
    ///
    /// # Errors
    /// There is none.
    pub fn heal(&self, from: &str, to: &str) -> Result<()> {
        network::heal(from, self.address(to)?)
    }

    fn address(&self, name: &str) -> Result<Ipv4Addr> {
        if name == "store" { Ok(self.here()) } else { Ok(self.host(name)?.address) }
    }

    /// A handle on the deployment's backbone, with a host's rights.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn backbone(&self, host: &str) -> Result<Backbone> {
        let password = std::fs::read_to_string(self.path(&format!("nats/{host}.password")))?;
        let servers = self.hosts.values().filter(|host| host.part == Part::Nats).map(url_of_nats);
        let mut config = NatsConfig::new(servers);
        config.replicas = self.plan.nats.1;
        config.credentials =
            NatsCredentials::Password { user: host.to_owned(), password: Secret::new(password) };
        Ok(Backbone::nats(config).await?)
    }

    /// A client of the store, past all trouble.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn store(&self) -> Result<Store> {
        self.alone.store()
    }

    /// Asks a gateway.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(
        &self,
        method: &str,
        url: &str,
        kind: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(u16, Value)> {
        self.ask_as(TOKEN, method, url, kind, body).await
    }

    /// The same with another token.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask_as(
        &self,
        token: &str,
        method: &str,
        url: &str,
        kind: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(u16, Value)> {
        let request = self.http.request(method.parse()?, url).header("content-type", kind);
        let answer = request.bearer_auth(token).body(body).timeout(READY_MAX).send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }

    /// Deploys an example function through a gateway.
    ///
    /// # Errors
    /// It is not taken.
    pub async fn deploy(&self, gateway: &str, function: &str) -> Result<()> {
        let bytes = std::fs::read(component(function)?)?;
        let url = format!("{}/v1/functions/{function}/versions", self.endpoint(gateway)?);
        let (status, answer) = self.ask("POST", &url, "application/wasm", bytes).await?;
        ensure!(status == 201, "expected {function} to be deployed, found {status}: {answer}");
        Ok(())
    }

    /// Submits a job, and gives its id.
    ///
    /// # Errors
    /// It is not taken.
    pub async fn submit(&self, gateway: &str, job: &Value) -> Result<String> {
        let url = format!("{}/v1/jobs", self.endpoint(gateway)?);
        let (status, answer) = self.ask("POST", &url, "application/json", job.to_string()).await?;
        ensure!(status == 202, "expected a job to be accepted, found {status}: {answer}");
        Ok(answer["id"].as_str().context("expected the job's id")?.to_owned())
    }

    /// The job as a gateway shows it, once it fits.
    ///
    /// # Errors
    /// It does not within some time.
    pub async fn job(
        &self,
        gateway: &str,
        id: &str,
        within: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let begun = Instant::now();
        let url = format!("{}/v1/jobs/{id}", self.endpoint(gateway)?);
        loop {
            let asked = self.ask("GET", &url, "application/json", "").await;
            let job = asked.map_or_else(|error| json!(error.to_string()), |(_, job)| job);
            if fits(&job) {
                return Ok(job);
            }
            ensure!(begun.elapsed() < within, "expected another state of {id}, found {job}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for (name, host) in &mut self.hosts {
            if let Some(child) = &mut host.process {
                let _ = child.kill();
                let _ = child.wait();
            }
            if self.namespaces {
                let _ = network::remove(name, host.address);
            }
        }
    }
}

/// Whether a job is over.
pub fn is_over(job: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].iter().any(|state| job["state"] == *state)
}

fn url_of_nats(host: &Host) -> String {
    format!("nats://{}", SocketAddr::from((host.address, host.port)))
}

/// Ports that nobody listens on.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners: Vec<TcpListener> = listeners.collect::<std::io::Result<_>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
