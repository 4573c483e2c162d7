// SPDX-License-Identifier: Apache-2.0
//! Gateways and remote workers: found, balanced, refused, lost, drained.
//!
//! Workers and dispatch run in this process, over real TLS on loopback and a
//! real backbone; a guest's place is taken by a service that counts.

mod tenants;
mod trouble;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_backbone::{Backbone, EmbeddedConfig};
use fanfold_gateway::{Dispatch, Identity};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Version,
    invocation::{Invocation, Outcome, Preparation, Request, Response, Usage},
    limits,
    worker::{Member, Subject, WIRE_VERSION, WIRE_VERSION_MIN},
};
use fanfold_runtime::remote::{self, Calls, join, serve};
use fanfold_tests::until;
use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use uuid::Uuid;

/// A certificate authority and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn leaf(
        &self,
        purpose: ExtendedKeyUsagePurpose,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    fn worker(&self) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder(Arc::new(self.roots())).build().unwrap();
        let (chain, key) = self.leaf(ExtendedKeyUsagePurpose::ServerAuth);
        let mut config =
            ServerConfig::builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    fn gateway(&self) -> Arc<ClientConfig> {
        let (chain, key) = self.leaf(ExtendedKeyUsagePurpose::ClientAuth);
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

/// A worker's, which is never renewed.
fn of_worker(tls: Arc<ServerConfig>) -> watch::Receiver<remote::Identity> {
    watch::channel(remote::Identity { tls, ends: 0 }).1
}

/// A gateway's, which is never renewed.
fn of_gateway(tls: Arc<ClientConfig>) -> watch::Receiver<Identity> {
    watch::channel(Identity { tls, ends: 0 }).1
}

/// How long a component takes to be prepared.
const PREPARING: Duration = Duration::from_millis(100);

/// What stands in for guests.
#[derive(Default)]
struct Guests {
    started: AtomicUsize,
    running: AtomicUsize,
    ended: AtomicUsize,
    /// Times that a component was to be prepared.
    prepared: AtomicUsize,
    /// What the calls were about.
    about: Mutex<Vec<Subject>>,
}

/// A worker of this process.
struct Worker {
    guests: Arc<Guests>,
    address: SocketAddr,
    draining: CancellationToken,
    gone: CancellationToken,
    serving: JoinHandle<()>,
    keeping: JoinHandle<()>,
}

impl Worker {
    async fn start(backbone: &Backbone, authority: &Authority, name: &str, slots: u32) -> Self {
        Self::start_holding(backbone, authority, name, slots, Vec::new()).await
    }

    /// One that has compiled these components.
    async fn start_holding(
        backbone: &Backbone,
        authority: &Authority,
        name: &str,
        slots: u32,
        cached: Vec<u64>,
    ) -> Self {
        Self::start_draining(backbone, authority, name, slots, cached, limits::DRAIN_TIMEOUT).await
    }

    /// One that drains for so long.
    async fn start_draining(
        backbone: &Backbone,
        authority: &Authority,
        name: &str,
        slots: u32,
        cached: Vec<u64>,
        patience: Duration,
    ) -> Self {
        let guests = Arc::new(Guests::default());
        let calls = calls(&guests, slots);
        Self::start_with(backbone, authority, name, guests, calls, cached, patience).await
    }

    /// One that answers in its own way.
    async fn start_with(
        backbone: &Backbone,
        authority: &Authority,
        name: &str,
        guests: Arc<Guests>,
        calls: Calls,
        cached: Vec<u64>,
        patience: Duration,
    ) -> Self {
        let slots = u32::try_from(calls.slots).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let joining = Member { cached, ..member(name, address, slots) };
        let membership = join(backbone, joining).await.unwrap();
        let (draining, gone) = (CancellationToken::new(), CancellationToken::new());
        let identity = of_worker(authority.worker());
        let serving = tokio::spawn(serve(listener, identity, calls, draining.clone(), patience));
        let keeping = tokio::spawn(membership.keep(|_| {}, draining.clone(), gone.clone()));
        Self { guests, address, draining, gone, serving, keeping }
    }

    /// Ends it as `kill -9` does: connections break, its record is left to lapse.
    fn kill(&self) {
        self.serving.abort();
        self.keeping.abort();
    }

    fn started(&self) -> usize {
        self.guests.started.load(SeqCst)
    }

    async fn until_it_runs(&self, count: usize) {
        until("calls that run", async || self.guests.running.load(SeqCst), |running| *running >= count).await;
    }
}

fn member(name: &str, address: SocketAddr, slots: u32) -> Member {
    Member {
        name: name.parse().unwrap(),
        instance: Uuid::new_v4(),
        address: address.to_string(),
        wire: WIRE_VERSION,
        wire_min: WIRE_VERSION_MIN,
        version: "0.1.0".to_owned(),
        engine: "e".to_owned(),
        slots,
        memory_bytes: 1 << 30,
        zone: None,
        draining: false,
        store_answers: true,
        cached: Vec::new(),
    }
}

/// Waits for as many milliseconds as the body says, and answers with it.
fn calls(guests: &Arc<Guests>, slots: u32) -> Calls {
    let counted = Arc::clone(guests);
    let invoke = service_fn(move |invocation: Invocation| {
        let guests = Arc::clone(&counted);
        async move {
            guests.about.lock().unwrap().push(Subject::of(&invocation));
            guests.started.fetch_add(1, SeqCst);
            guests.running.fetch_add(1, SeqCst);
            let running = Running(Arc::clone(&guests));
            let text = String::from_utf8(invocation.request.body.to_vec()).unwrap();
            tokio::time::sleep(Duration::from_millis(text.parse().unwrap())).await;
            guests.ended.fetch_add(1, SeqCst);
            drop(running);
            let response = Response { status: 200, headers: Vec::new(), body: invocation.request.body };
            let (logs, progress, usage) = (Vec::new(), None, Usage::default());
            Ok::<_, Problem>(Outcome { result: Ok(response), logs, progress, usage })
        }
    });
    let counted = Arc::clone(guests);
    let prepare = service_fn(move |_: Preparation| {
        let guests = Arc::clone(&counted);
        async move {
            tokio::time::sleep(PREPARING).await;
            guests.prepared.fetch_add(1, SeqCst);
            Ok::<_, Problem>(Default::default())
        }
    });
    Calls {
        invoke: BoxCloneSyncService::new(invoke),
        prepare: BoxCloneSyncService::new(prepare),
        slots: slots as usize,
    }
}

struct Running(Arc<Guests>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// The backbone of a deployment, and a gateway's way to its workers.
struct Deployment {
    backbone: Backbone,
    authority: Authority,
    _folder: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
    dispatch: Dispatch,
}

impl Deployment {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("b.redb"))).await.unwrap();
        let (authority, stop) = (Authority::new(), CancellationToken::new());
        let dispatch = Dispatch::remote(&backbone, of_gateway(authority.gateway()), stop.clone());
        Self { backbone, authority, _folder: folder, _stop: stop.drop_guard(), dispatch }
    }

    async fn worker(&self, name: &str, slots: u32) -> Worker {
        let worker = Worker::start(&self.backbone, &self.authority, name, slots).await;
        let before = self.live();
        self.until("a worker comes", |live| live > before || before > 0 && live >= before).await;
        worker
    }

    fn live(&self) -> usize {
        self.dispatch.workers.as_ref().unwrap().live()
    }

    async fn until(&self, what: &str, fits: impl Fn(usize) -> bool) -> Duration {
        let begun = Instant::now();
        until(what, async || self.live(), |live| fits(*live)).await;
        begun.elapsed()
    }

    /// A call that takes so many milliseconds.
    async fn call(&self, ms: u64) -> Result<Bytes, Problem> {
        let outcome = self.dispatch.invoke.clone().oneshot(invocation(ms)).await?;
        outcome.result.map(|response| response.body)
    }
}

fn invocation(ms: u64) -> Invocation {
    let version: Version = serde_json::from_value(json!({
        "name": "f", "version": 1, "digest": fanfold_protocol::digest::Digest::of(b"x"), "size_bytes": 1,
        "exports": ["handler"], "settings": fanfold_protocol::function::Settings::default(), "describes": fanfold_protocol::function::Descriptions::default(),
        "created_at": 0,
    }))
    .unwrap();
    Invocation {
        id: Uuid::now_v7(),
        attempt: 1,
        depth: 0,
        version: Arc::new(version),
        timeout: Duration::from_secs(30),
        params: "{}".to_owned(),
        request: Request { body: ms.to_string().into(), ..Request::default() },
        tenant: None,
        board: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_shared_and_each_is_answered_once() {
    let deployment = Deployment::new().await;
    assert_eq!(deployment.call(0).await.unwrap_err().code, ErrorKind::WorkerUnavailable);
    let (a, b) = (deployment.worker("a", 8).await, deployment.worker("b", 8).await);
    deployment.until("both are there", |live| live == 2).await;
    for _ in 0..20 {
        let answers = join_all((0..10).map(|n| deployment.call(5 + n % 3))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    let (a, b) = (a.started(), b.started());
    assert_eq!(a + b, 200);
    assert!(a.abs_diff(b) < 100, "{a} and {b}");
    let described = deployment.dispatch.prepare.clone();
    let digest = fanfold_protocol::digest::Digest::of(b"x");
    assert!(described.oneshot(Preparation { digest, tenant: None }).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_component_goes_first_and_then_anyone() {
    let deployment = Deployment::new().await;
    let held = vec![fanfold_protocol::digest::Digest::of(b"x").prefix()];
    let a = Worker::start_holding(&deployment.backbone, &deployment.authority, "a", 1, held).await;
    let b = deployment.worker("b", 8).await;
    deployment.until("both are there", |live| live == 2).await;
    for _ in 0..20 {
        deployment.call(1).await.unwrap();
    }
    // One call at a time is no reason to compile it elsewhere.
    assert_eq!((a.started(), b.started(), b.guests.prepared.load(SeqCst)), (20, 0, 0));
    // While its slot is taken the other one is asked.
    let busy = async {
        a.until_it_runs(1).await;
        deployment.call(1).await
    };
    let (long, short) = tokio::join!(deployment.call(1_000), busy);
    assert!(long.is_ok() && short.is_ok(), "{long:?} {short:?}");
    assert_eq!((a.started(), b.started()), (21, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_spread_to_workers_that_compile_while_nobody_waits_for_it() {
    let deployment = Deployment::new().await;
    let held = vec![fanfold_protocol::digest::Digest::of(b"x").prefix()];
    let a = Worker::start_holding(&deployment.backbone, &deployment.authority, "a", 16, held).await;
    let b = deployment.worker("b", 16).await;
    deployment.until("both are there", |live| live == 2).await;
    let begun = Instant::now();
    while b.guests.prepared.load(SeqCst) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody had it prepared");
        let answers = join_all((0..8).map(|_| deployment.call(5))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    // No call has waited for that, but for those that came between its end and this look.
    assert!(a.started() >= 8 && b.started() <= 8, "{} and {}", a.started(), b.started());
    let (before_a, before_b) = (a.started(), b.started());
    for _ in 0..20 {
        let answers = join_all((0..10).map(|_| deployment.call(5))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    let (a, had_b) = (a.started() - before_a, b.started() - before_b);
    assert_eq!(a + had_b, 200);
    assert!(a.abs_diff(had_b) < 100, "{a} and {had_b}");
    // It was asked once.
    assert_eq!(b.guests.prepared.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deployed_is_compiled_by_all_workers() {
    let deployment = Deployment::new().await;
    let mut workers = Vec::new();
    for name in ["a", "b", "c"] {
        workers.push(deployment.worker(name, 4).await);
    }
    deployment.until("all are there", |live| live == 3).await;
    let digest = fanfold_protocol::digest::Digest::of(b"x");
    deployment.dispatch.prepare.clone().oneshot(Preparation { digest, tenant: None }).await.unwrap();
    let prepared = || workers.iter().map(|worker| worker.guests.prepared.load(SeqCst)).collect::<Vec<_>>();
    // Whoever deployed it waited for one of them.
    assert!(prepared().iter().sum::<usize>() >= 1);
    until("all to have it", async || prepared(), |prepared| *prepared == [1, 1, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_refused_at_once() {
    let deployment = Deployment::new().await;
    let worker = deployment.worker("a", 2).await;
    let busy = join_all((0..2).map(|_| deployment.call(1_500)));
    let refused = async {
        worker.until_it_runs(2).await;
        let begun = Instant::now();
        let refused = join_all((0..50).map(|_| deployment.call(0))).await;
        // The promise is 10 ms for each; the machines of CI are slow and shared.
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!(
            refused.iter().all(|answer| answer.as_ref().unwrap_err().code == ErrorKind::ConcurrencyLimit)
        );
    };
    let (answers, ()) = tokio::join!(busy, refused);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(worker.started(), 2);
    // Another gateway takes all slots: the worker itself refuses, and nothing has run.
    let other = Dispatch::remote(
        &deployment.backbone,
        of_gateway(deployment.authority.gateway()),
        CancellationToken::new(),
    );
    until("its worker", async || other.workers.as_ref().unwrap().live(), |live| *live > 0).await;
    let theirs = join_all((0..2).map(|_| other.invoke.clone().oneshot(invocation(800))));
    let ours = async {
        worker.until_it_runs(2).await;
        deployment.call(0).await
    };
    let (theirs, ours) = tokio::join!(theirs, ours);
    assert!(theirs.iter().all(Result::is_ok), "{theirs:?}");
    assert_eq!(ours.unwrap_err().code, ErrorKind::ConcurrencyLimit);
    assert_eq!(worker.started(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_loses_what_it_had_and_gets_nothing_more() {
    let deployment = Deployment::new().await;
    let a = deployment.worker("a", 8).await;
    let running = deployment.call(10_000);
    let killing = async {
        a.until_it_runs(1).await;
        a.kill();
    };
    let (lost, ()) = tokio::join!(running, killing);
    let problem = lost.unwrap_err();
    assert_eq!((problem.code, problem.retryable()), (ErrorKind::WorkerLost, true), "{problem}");
    // It was not sent to another: it may have run.
    let b = Worker::start(&deployment.backbone, &deployment.authority, "b", 8).await;
    let begun = Instant::now();
    // Until the gateway has heard of it, only the dead one is known.
    while let Err(problem) = deployment.call(1).await {
        assert_eq!(problem.code, ErrorKind::WorkerUnavailable, "{problem}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{problem}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 1..40 {
        // Whatever is tried with the dead one first is sent to the other.
        deployment.call(1).await.unwrap();
    }
    assert_eq!((a.started(), b.started()), (1, 40));
    deployment.until("a lapses", |live| live == 1).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // It comes back under its name, as another instance.
    let again = Worker::start(&deployment.backbone, &deployment.authority, "a", 8).await;
    assert!(deployment.until("a is back", |live| live == 2).await < Duration::from_secs(2));
    // The other one has answered for the component, so this one is asked to compile it first.
    let begun = Instant::now();
    while again.started() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", again.address);
        let answers = join_all((0..4).map(|_| deployment.call(5))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_stops_the_sandbox() {
    let deployment = Deployment::new().await;
    let worker = deployment.worker("a", 1).await;
    let waiting = tokio::time::timeout(Duration::from_millis(300), deployment.call(20_000)).await;
    assert!(waiting.is_err());
    let begun = Instant::now();
    while worker.guests.running.load(SeqCst) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its slot is free again, here and there.
    assert_eq!(deployment.call(7).await.unwrap(), "7");
    assert_eq!((worker.started(), worker.guests.ended.load(SeqCst)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drains_ends_what_it_has() {
    let deployment = Deployment::new().await;
    let (a, b) = (deployment.worker("a", 4).await, deployment.worker("b", 4).await);
    deployment.until("both are there", |live| live == 2).await;
    let running = join_all((0..6).map(|_| deployment.call(1_000)));
    let draining = async {
        until("all to begin", async || a.started() + b.started(), |started| *started >= 6).await;
        let before = a.started();
        a.draining.cancel();
        deployment.until("a drains", |live| live == 1).await;
        for _ in 0..2 {
            deployment.call(1).await.unwrap();
        }
        assert_eq!(a.started(), before);
    };
    let (answers, ()) = tokio::join!(running, draining);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    tokio::time::timeout(Duration::from_secs(5), a.serving).await.unwrap().unwrap();
    a.gone.cancel();
    a.keeping.await.unwrap();
    b.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drains_for_as_long_as_it_may_and_no_longer() {
    let deployment = Deployment::new().await;
    let (backbone, authority) = (&deployment.backbone, &deployment.authority);
    let patience = Duration::from_millis(300);
    let worker = Worker::start_draining(backbone, authority, "a", 4, Vec::new(), patience).await;
    deployment.until("it is there", |live| live == 1).await;
    let running = deployment.call(20_000);
    let draining = async {
        worker.until_it_runs(1).await;
        worker.draining.cancel();
    };
    let broken_off = async { tokio::join!(running, draining).0 };
    let broken_off = tokio::time::timeout(Duration::from_secs(5), broken_off).await.unwrap();
    assert_eq!(broken_off.unwrap_err().code, ErrorKind::WorkerLost);
    tokio::time::timeout(Duration::from_secs(5), worker.serving).await.unwrap().unwrap();
    // With nothing to end, it needs no time at all.
    let idle = deployment.worker("b", 4).await;
    idle.draining.cancel();
    tokio::time::timeout(Duration::from_secs(5), idle.serving).await.unwrap().unwrap();
    worker.gone.cancel();
    idle.gone.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_on_both_sides() {
    let deployment = Deployment::new().await;
    let worker = deployment.worker("a", 4).await;
    // A gateway of another authority, which does not believe the worker either, and one without a certificate.
    let stranger = Authority::new();
    let mut bare =
        ClientConfig::builder().with_root_certificates(deployment.authority.roots()).with_no_client_auth();
    bare.alpn_protocols = vec![b"h2".to_vec()];
    let strangers =
        [(stranger.gateway(), "invalid peer certificate"), (Arc::new(bare), "it refuses the connection")];
    for (tls, why) in strangers {
        let dispatch = Dispatch::remote(&deployment.backbone, of_gateway(tls), CancellationToken::new());
        let refused = async || {
            let refused = dispatch.invoke.clone().oneshot(invocation(0)).await.unwrap_err();
            // Refused before it could begin anything, which is told.
            assert_eq!(refused.code, ErrorKind::WorkerUnavailable, "{refused}");
            refused
        };
        // Before, it is not known yet, or rests from being met.
        until(why, refused, |refused| refused.detail.contains(why)).await;
    }
    assert_eq!(worker.started(), 0);
    // A worker of another authority under another name: our gateway does not believe it.
    let other = Worker::start(&deployment.backbone, &stranger, "other", 4).await;
    deployment.until("it is known", |live| live == 2).await;
    for _ in 0..20 {
        deployment.call(1).await.unwrap();
    }
    assert_eq!((worker.started(), other.started()), (20, 0));
}
