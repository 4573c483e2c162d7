// SPDX-License-Identifier: Apache-2.0
//! A service under trouble, clients that write down what they did, and a check of
//! that history.
//!
//! The store's answers are troubled by a [`Proxy`] and the process is killed at
//! moments drawn from a seed, while clients submit jobs under idempotency keys.
//! Afterwards: every accepted job has one end, which is success; a key means one
//! job; every answer and every table is what it is without trouble, byte for byte;
//! and under an output prefix lies what its manifest names, and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fanfold_storage::Store;
use futures::TryStreamExt;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    proxy::{Proxy, Troubles},
    service::Service,
};

/// What is done to the service.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Jobs submitted, by three clients at once.
    pub jobs: usize,
    /// Times that the process is killed.
    pub kills: usize,
    /// What happens to requests to the store.
    pub troubles: Troubles,
}

/// What the jobs run, by kind of job: an aggregate, a map, an aggregate by key.
pub(crate) const FUNCTIONS: [&str; 3] = ["column-stats", "normalize", "spend-by-customer"];
/// The kind whose answer is no table.
const ANSWERS: usize = 0;
/// The kind that reads orders.
const GROUPS: usize = 2;
const CLIENTS: usize = 3;
/// Objects of the input, and rows of each.
const OBJECTS: u64 = 24;
const ROWS: u64 = 200;
/// Customers of all orders, whom each object has some of.
const CUSTOMERS: u64 = 37;
/// From a restart until the service answers (F1).
const READY_MAX: Duration = Duration::from_secs(5);
/// What answers that never end add to that: one is given up within it (F8), and a start may meet several. Reads
/// are asked for again after 2.5 s, and so is all of the probe after 2 s.
const STALLED_MAX: Duration = Duration::from_secs(20);
/// From the last kill until a job has ended, and from there until the next has, under trouble; then, without any, until
/// nothing is left over. This is for what would never end: a job takes seconds, but two dozen share the turns of two
/// threads, and where a hundredth of all answers stand still, hundreds of turns last 11 to 20 s.
const SETTLED_MAX: Duration = Duration::from_secs(400);

/// What a client did and heard. All of it is for whoever reads a failed history.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "printed")]
pub(crate) struct Operation {
    key: String,
    document: Value,
    output: String,
    started: Duration,
    acknowledged: Duration,
    /// The job that it was told of.
    job: String,
}

/// What came of it all, for people.
#[derive(Debug)]
pub struct Report {
    /// Jobs that were accepted, all of which succeeded.
    pub jobs: usize,
    /// Requests to the store, and those that met with trouble.
    pub requests: (u64, u64),
    /// The longest time from a restart to an answer.
    pub ready: Duration,
}

/// Runs it all in a scratch folder and checks what came of it.
///
/// # Errors
/// What does not hold.
pub async fn run(chaos: Chaos) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let mut draw = ChaCha8Rng::seed_from_u64(chaos.seed);
    let world = World::start(folder.path(), &chaos, draw.random()).await?;
    let calm = Calm::measure(&world.address, &world.objects()?).await?;
    world.proxy.troubled();
    let clients = Clients::start(&chaos, &calm, &world.address);
    let address = world.address.clone();
    let (mut world, mut ready) = (world, Duration::ZERO);
    for _ in 0..chaos.kills {
        tokio::time::sleep(Duration::from_millis(draw.random_range(100..2_500))).await;
        ready = ready.max(world.kill_and_restart(folder.path()).await?);
    }
    let history = clients.history().await?;
    // Trouble is for those who run jobs, not only for those who accept them.
    for operation in &history {
        ended(&world.address, &operation.job, Instant::now() + SETTLED_MAX).await?;
    }
    world.proxy.calm();
    let patience = READY_MAX + if chaos.troubles.stalled > 0 { STALLED_MAX } else { Duration::ZERO };
    ensure!(ready < patience, "expected to be ready within {patience:?} of a restart, found {ready:?}");
    check(&world.objects()?, &history, &calm, &address, true).await?;
    Ok(Report { jobs: history.len(), requests: world.proxy.counts(), ready })
}

/// Who submits jobs meanwhile.
pub(crate) struct Clients(Vec<tokio::task::JoinHandle<Result<Vec<Operation>>>>);

impl Clients {
    /// Starts them.
    pub(crate) fn start(chaos: &Chaos, calm: &Calm, address: &Address) -> Self {
        let begun = Instant::now();
        let clients = (0..CLIENTS).map(|client| {
            let documents: Vec<_> =
                (client..chaos.jobs).step_by(CLIENTS).map(|n| calm.document(n, chaos.seed)).collect();
            tokio::spawn(submit(address.clone(), documents, begun))
        });
        Self(clients.collect())
    }

    /// Whether all that they were to submit is accepted.
    pub(crate) fn are_done(&self) -> bool {
        self.0.iter().all(tokio::task::JoinHandle::is_finished)
    }

    /// What they did, once they are done.
    pub(crate) async fn history(self) -> Result<Vec<Operation>> {
        let mut history = Vec::new();
        for client in self.0 {
            history.extend(client.await??);
        }
        Ok(history)
    }
}

/// Where the service is, which a restart changes.
pub type Address = Arc<std::sync::Mutex<(String, String)>>;

struct World {
    service: Option<Service>,
    proxy: Proxy,
    store: SocketAddr,
    address: Address,
}

impl World {
    async fn start(folder: &Path, chaos: &Chaos, seed: u64) -> Result<Self> {
        // Free until the store takes it.
        let store = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let proxy = Proxy::start(store, chaos.troubles, seed).await?;
        proxy.calm();
        let address = Address::default();
        let mut world = Self { service: None, proxy, store, address };
        world.launch(folder)?;
        for function in FUNCTIONS {
            world.service()?.deploy(function)?;
        }
        put_tables(world.service()?).await?;
        Ok(world)
    }

    fn launch(&mut self, folder: &Path) -> Result<()> {
        let (store, proxy) = (self.store.to_string(), self.proxy.endpoint());
        let service = Service::start_with(folder, &["--s3-listen", &store, "--store-endpoint", &proxy])?;
        let found = (service.endpoint.clone(), service.token.clone());
        *self.address.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
        self.service = Some(service);
        Ok(())
    }

    fn service(&self) -> Result<&Service> {
        self.service.as_ref().context("expected a running service")
    }

    async fn kill_and_restart(&mut self, folder: &Path) -> Result<Duration> {
        self.service.take().context("expected a running service")?.kill()?;
        let start = Instant::now();
        self.launch(folder)?;
        while ask(&self.address, reqwest::Method::GET, "/v1/jobs", None, None).await.is_err() {
            ensure!(start.elapsed() < SETTLED_MAX, "expected an answer after a restart, found none");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(start.elapsed())
    }

    fn objects(&self) -> Result<Store> {
        self.service()?.store()
    }
}

/// Puts the input there.
pub(crate) async fn put_tables(service: &Service) -> Result<()> {
    for object in 0..OBJECTS {
        let rows: String = (0..ROWS).map(|row| format!("{}\n", object * ROWS + row)).collect();
        service.put(&format!("s3://chaos/in/{object:03}.csv"), format!("x\n{rows}")).await?;
        let order = |row: u64| format!("c{},{row}.25\n", (object * ROWS + row) % CUSTOMERS);
        let orders: String = (0..ROWS / 2).map(order).collect();
        service
            .put(&format!("s3://chaos/orders/{object:03}.csv"), format!("customer,amount\n{orders}"))
            .await?;
    }
    Ok(())
}

/// What jobs give when nothing is in their way.
pub(crate) struct Calm {
    stats: Value,
    /// By kind of job: the answer, or the bytes of the tables, in order.
    answers: [Vec<u8>; FUNCTIONS.len()],
}

impl Calm {
    pub(crate) async fn measure(address: &Address, store: &Store) -> Result<Self> {
        let mut calm = Self { stats: Value::Null, answers: Default::default() };
        for kind in 0..FUNCTIONS.len() {
            let (document, output) = calm.document_of(kind, "calm");
            let job = accept(address, &document, &output, Instant::now()).await?;
            let shown = ended(address, &job, Instant::now() + SETTLED_MAX).await?;
            ensure!(
                shown["state"] == "succeeded",
                "expected a job without trouble to succeed, found {shown}"
            );
            if kind == ANSWERS {
                calm.stats = shown["result"].clone();
            }
            calm.answers[kind] = given(store, kind, &output).await?;
        }
        Ok(calm)
    }

    /// A job with its key and output, drawn by its number.
    fn document(&self, number: usize, seed: u64) -> (String, Value, String) {
        let name = format!("{seed}-{number}");
        let (document, output) = self.document_of(number % FUNCTIONS.len(), &name);
        (name, document, output)
    }

    fn document_of(&self, kind: usize, name: &str) -> (Value, String) {
        let output = format!("s3://chaos/out/{name}-{kind}/");
        let function = FUNCTIONS[kind];
        let params = json!({ "method": "minmax", "stats": self.stats });
        let document = json!({
            "function": function,
            "input": if kind == GROUPS { "s3://chaos/orders/" } else { "s3://chaos/in/" },
            "output": output,
            "params": if function == "normalize" { params } else { json!({}) },
            "reducers": (kind == GROUPS).then_some(3),
            // Neither is what others did taken over, nor are tasks packed together.
            "cache": false,
            "split": { "target_bytes": "400B" },
            "retry": { "attempts": 10, "backoff": "50ms" }
        });
        (document, output)
    }
}

/// What a job has published: its answer, or its rows as they are stored.
async fn given(store: &Store, kind: usize, output: &str) -> Result<Vec<u8>> {
    if kind == ANSWERS {
        return Ok(store.get(&format!("{output}result.json").parse()?, None).await?.to_vec());
    }
    let manifest = store.get(&format!("{output}_manifest.json").parse()?, None).await?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let mut all = Vec::new();
    for object in manifest["objects"].as_array().context("expected objects in the manifest")? {
        let uri = object["uri"].as_str().context("expected the URI of an object")?.parse()?;
        all.extend(store.get(&uri, None).await?);
    }
    Ok(all)
}

/// Submits jobs one after the other, each until it is accepted.
async fn submit(
    address: Address,
    documents: Vec<(String, Value, String)>,
    begun: Instant,
) -> Result<Vec<Operation>> {
    let mut history = Vec::new();
    for (key, document, output) in documents {
        let started = begun.elapsed();
        let job = accept(&address, &document, &key, begun).await?;
        history.push(Operation { key, document, output, started, acknowledged: begun.elapsed(), job });
    }
    Ok(history)
}

/// Asks until a job is accepted; a refusal that will not change is an error.
async fn accept(address: &Address, document: &Value, key: &str, begun: Instant) -> Result<String> {
    loop {
        match ask(address, reqwest::Method::POST, "/v1/jobs", Some(document), Some(key)).await {
            Ok((202, job)) => {
                return Ok(job["id"].as_str().context("expected the job's id")?.to_owned());
            }
            Ok((_, problem)) if problem["retryable"] == true || problem["status"] == 409 => {}
            Ok((status, problem)) => bail!("expected a job to be accepted, found {status}: {problem}"),
            Err(_) => {}
        }
        ensure!(begun.elapsed() < SETTLED_MAX * 2, "expected the job {key} to be accepted in the end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn ask(
    address: &Address,
    method: reqwest::Method,
    path: &str,
    body: Option<&Value>,
    key: Option<&str>,
) -> Result<(u16, Value)> {
    let (endpoint, token) = address.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut request = client.request(method, format!("{endpoint}{path}")).bearer_auth(token);
    if let Some(body) = body {
        request = request.json(body);
    }
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn ended(address: &Address, job: &str, until: Instant) -> Result<Value> {
    let path = format!("/v1/jobs/{job}");
    loop {
        let answer = ask(address, reqwest::Method::GET, &path, None, None).await;
        if let Ok((200, shown)) = &answer
            && !matches!(shown["state"].as_str(), Some("queued" | "running"))
        {
            return Ok(shown.clone());
        }
        if Instant::now() > until {
            let tasks = ask(address, reqwest::Method::GET, &format!("{path}/tasks"), None, None).await;
            bail!("expected the job {job} to end, found {answer:?} with the tasks {tasks:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks that the history holds; that keys mean what they did as well, unless the
/// backbone was lost, and they with it.
pub(crate) async fn check(
    store: &Store,
    history: &[Operation],
    calm: &Calm,
    address: &Address,
    keys_last: bool,
) -> Result<()> {
    let checked = compare(store, history, calm, address, keys_last).await;
    checked.with_context(|| format!("the history: {history:#?}"))
}

async fn compare(
    store: &Store,
    history: &[Operation],
    calm: &Calm,
    address: &Address,
    keys_last: bool,
) -> Result<()> {
    let until = Instant::now() + SETTLED_MAX;
    let mut keys = BTreeMap::new();
    for (number, operation) in history.iter().enumerate() {
        let Operation { key, document, output, job, .. } = operation;
        ensure!(keys.insert(job.clone(), key.clone()).is_none(), "expected one key for the job {job}");
        let shown = ended(address, job, until).await?;
        ensure!(shown["state"] == "succeeded", "expected the job of {key} to succeed, found {shown}");
        if keys_last {
            let again = accept(address, document, key, Instant::now()).await?;
            ensure!(again == *job, "expected {key} to mean {job}, found {again}");
        }
        let kind = FUNCTIONS.iter().position(|function| document["function"] == *function);
        let kind = kind.context("expected a function of some kind")?;
        let found = given(store, kind, output).await?;
        ensure!(
            found == calm.answers[kind],
            "expected the output of job {number} ({job}) to be what it is without trouble, found {} bytes of others",
            found.len()
        );
        tidy(store, output, until).await.with_context(|| format!("under {output}"))?;
    }
    let listed = ask(address, reqwest::Method::GET, "/v1/jobs?limit=1000", None, None).await?.1;
    let listed = listed["jobs"].as_array().context("expected a list of jobs")?;
    let known: BTreeSet<&str> = listed.iter().filter_map(|job| job["id"].as_str()).collect();
    let accepted: BTreeSet<&str> = history.iter().map(|operation| operation.job.as_str()).collect();
    // Those that ran without trouble are the others.
    let strangers = known.difference(&accepted).count();
    ensure!(
        accepted.is_subset(&known) && strangers == FUNCTIONS.len(),
        "expected the accepted jobs and no other, found {strangers} others"
    );
    Ok(())
}

/// Waits until there is under the prefix what its manifest names and no more.
async fn tidy(store: &Store, output: &str, until: Instant) -> Result<()> {
    let prefix: fanfold_protocol::uri::ObjectUri = output.parse()?;
    let manifest: Value =
        serde_json::from_slice(&store.get(&format!("{output}_manifest.json").parse()?, None).await?)?;
    let objects = manifest["objects"].as_array().context("expected objects in the manifest")?;
    let mut named: BTreeSet<String> =
        objects.iter().filter_map(|object| object["uri"].as_str()).map(str::to_owned).collect();
    named.extend(["_manifest.json", "_SUCCESS"].map(|name| format!("{output}{name}")));
    if manifest["function"].as_str().is_some_and(|function| function.starts_with("column-stats")) {
        named.insert(format!("{output}result.json"));
    }
    loop {
        let listing = store.list(prefix.bucket(), prefix.key(), Default::default());
        let found: Vec<_> = listing.try_collect().await?;
        let found: BTreeSet<String> =
            found.iter().map(|entry| format!("s3://{}/{}", prefix.bucket(), entry.name())).collect();
        if found == named {
            return Ok(());
        }
        let (more, less): (Vec<_>, Vec<_>) =
            (found.difference(&named).collect(), named.difference(&found).collect());
        ensure!(less.is_empty(), "expected all that the manifest names, missing: {less:?}");
        ensure!(Instant::now() < until, "expected nothing but what the manifest names, found {more:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
