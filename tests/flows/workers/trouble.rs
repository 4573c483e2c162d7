// SPDX-License-Identifier: Apache-2.0
//! Workers that do not know what is asked, say nothing, cannot begin, or are of another release.

use std::sync::atomic::AtomicBool;

use fanfold_backbone::Event;
use fanfold_protocol::{
    digest::Digest,
    function::Settings,
    keys,
    size::ByteSize,
    tenant::Tenant,
    worker::{MEMBER_RENEWAL, NOT_STARTED, WIRE_HEADER},
};
use futures::StreamExt as _;

use super::*;

/// Versions of two tenants that differ in nothing but their number and whose they are.
#[tokio::test(flavor = "multi_thread")]
async fn each_call_runs_what_it_is_about() {
    let deployment = Deployment::new().await;
    let worker = deployment.worker("a", 8).await;
    let about = |number: u32, tenant: &str| {
        let mut call = invocation(0);
        call.version = Arc::new(Version { version: number, ..Version::clone(&call.version) });
        call.tenant = Some(Arc::new(Tenant::alone(tenant.parse().unwrap(), format!("system-{tenant}"))));
        call
    };
    let kinds = [about(1, "shop"), about(2, "shop"), about(1, "mill"), about(2, "mill")];
    for round in 0..3 {
        for kind in &kinds {
            let call = Invocation { id: Uuid::now_v7(), ..kind.clone() };
            // What lies elsewhere in memory is the same all the same.
            let version = Arc::new(Version::clone(&call.version));
            let call = if round == 1 { Invocation { version, ..call } } else { call };
            deployment.dispatch.invoke.clone().oneshot(call).await.unwrap().result.unwrap();
        }
    }
    let expected: Vec<_> = (0..3).flat_map(|_| kinds.iter().map(Subject::of)).collect();
    assert_eq!(*worker.guests.about.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_met_before_it_is_called_unless_it_drains() {
    let deployment = Deployment::new().await;
    let [coming, leaving] =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let draining = Member { draining: true, ..member("leaving", leaving.local_addr().unwrap(), 4) };
    let _leaving = join(&deployment.backbone, draining).await.unwrap();
    let _coming =
        join(&deployment.backbone, member("coming", coming.local_addr().unwrap(), 4)).await.unwrap();
    // Their records are seen in their order.
    tokio::time::timeout(Duration::from_secs(20), coming.accept()).await.unwrap().unwrap();
    let met = tokio::time::timeout(Duration::from_secs(1), leaving.accept()).await;
    assert!(met.is_err(), "{met:?}");
}

/// Its record is there, and nobody calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_counts_once_it_is_reached_and_is_tried_again_until_then() {
    let deployment = Deployment::new().await;
    let pool = deployment.dispatch.workers.as_ref().unwrap();
    assert_eq!(pool.obstacle().as_deref(), Some("no worker is there"));
    let stranger = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop, gone) =
        (listener.local_addr().unwrap(), CancellationToken::new(), CancellationToken::new());
    let serve = |listener: TcpListener, authority: &Authority, stop: &CancellationToken| {
        let calls = calls(&Arc::default(), 8);
        let identity = of_worker(authority.worker());
        tokio::spawn(serve(listener, identity, calls, stop.clone(), limits::DRAIN_TIMEOUT))
    };
    let serving = serve(listener, &stranger, &stop);
    let membership = join(&deployment.backbone, member("a", address, 8)).await.unwrap();
    let keeping = tokio::spawn(membership.keep(|_| {}, CancellationToken::new(), gone.clone()));
    // It has been tried, and would be called.
    deployment.until("it is known", |live| live == 1).await;
    deployment.until("it rests", |live| live == 0).await;
    deployment.until("it has rested", |live| live == 1).await;
    assert_eq!(pool.reached(), 0);
    // Readiness says so, also between the times that it is left alone.
    assert_eq!(pool.obstacle().as_deref(), Some("1 worker is known and cannot be reached"));
    // With a certificate that fits it is found, by itself.
    stop.cancel();
    serving.await.unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let (serving, mended) =
        (serve(listener, &deployment.authority, &CancellationToken::new()), Instant::now());
    until("it to be met again", async || pool.reached(), |reached| *reached > 0).await;
    // While there is no other it is tried more often than every 10 s.
    assert!(mended.elapsed() < Duration::from_secs(7), "{:?}", mended.elapsed());
    assert_eq!(pool.obstacle(), None);
    gone.cancel();
    keeping.await.unwrap();
    serving.abort();
}

/// It takes connections, as the kernel does for it, and never says a word, or agrees on TLS and says no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_silent_holds_nobody_up_for_long() {
    tokio::join!(holds_nobody_up(false), holds_nobody_up(true));
}

async fn holds_nobody_up(speaks_tls: bool) {
    let deployment = Deployment::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let membership =
        join(&deployment.backbone, member("silent", silent.local_addr().unwrap(), 8)).await.unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(deployment.authority.worker());
    let agreeing = async {
        let mut held = Vec::new();
        while speaks_tls && let Ok((stream, _)) = silent.accept().await {
            held.push(acceptor.accept(stream).await);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = agreeing => {}
        () = calls_beside(&deployment, membership) => {}
    }
}

async fn calls_beside(deployment: &Deployment, silent: fanfold_runtime::remote::Membership) {
    let gone = CancellationToken::new();
    let keeping = tokio::spawn(silent.keep(|_| {}, CancellationToken::new(), gone.clone()));
    deployment.until("it is known", |live| live == 1).await;
    let begun = Instant::now();
    let answers = join_all((0..8).map(|_| deployment.call(0))).await;
    // Each tried for 2 s, the last one would wait for 16 s.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    for answer in answers {
        assert_eq!(answer.unwrap_err().code, ErrorKind::WorkerUnavailable);
    }
    // It is live again once it has rested, and is not tried while another one answers.
    let worker = Worker::start(&deployment.backbone, &deployment.authority, "b", 8).await;
    deployment.until("both are there", |live| live == 2).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        deployment.call(1).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(worker.started(), 50);
    // A try from before the other one came may have ended meanwhile.
    deployment.until("both are there still", |live| live == 2).await;
    gone.cancel();
    keeping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_cannot_begin_goes_to_another() {
    let deployment = Deployment::new().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let unable = |code: ErrorKind| {
        let asked = Arc::clone(&asked);
        let invoke = service_fn(move |_: Invocation| {
            asked.fetch_add(1, SeqCst);
            async move { Err::<Outcome, _>(Problem::new(code, "as the test says")) }
        });
        Calls { invoke: BoxCloneSyncService::new(invoke), ..calls(&Arc::default(), 8) }
    };
    // It holds the component, so it is asked first.
    let start = async |name: &str, code: ErrorKind, held: &[u8]| {
        let (backbone, authority) = (&deployment.backbone, &deployment.authority);
        let (guests, calls, patience) = (Arc::default(), unable(code), limits::DRAIN_TIMEOUT);
        let held = vec![Digest::of(held).prefix()];
        Worker::start_with(backbone, authority, name, guests, calls, held, patience).await
    };
    let cut_off = start("a", ErrorKind::StoreUnavailable, b"x").await;
    let able = Worker::start(&deployment.backbone, &deployment.authority, "b", 8).await;
    deployment.until("both are there", |live| live == 2).await;
    for _ in 0..10 {
        assert_eq!(deployment.call(1).await.unwrap(), "1");
    }
    // It is not asked each time either.
    assert_eq!((asked.load(SeqCst), able.started()), (1, 10));
    // What broke on the way may have run, and is sent to nobody else.
    cut_off.draining.cancel();
    deployment.until("a drains", |live| live == 1).await;
    let broken = start("c", ErrorKind::Internal, b"y").await;
    deployment.until("c is there", |live| live == 2).await;
    let mut call = invocation(1);
    call.version = Arc::new(Version { digest: Digest::of(b"y"), ..Version::clone(&call.version) });
    let answer = deployment.dispatch.invoke.clone().oneshot(call).await;
    assert_eq!(answer.unwrap_err().code, ErrorKind::Internal);
    assert_eq!((asked.load(SeqCst), able.started()), (2, 10));
    broken.kill();
}

/// It has slots, and no memory for the call.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_has_no_room_for_goes_to_another() {
    let deployment = Deployment::new().await;
    let (backbone, authority) = (&deployment.backbone, &deployment.authority);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let invoke = service_fn(move |_: Invocation| {
        counted.fetch_add(1, SeqCst);
        async { Err::<Outcome, _>(Problem::new(ErrorKind::ConcurrencyLimit, "as the test says")) }
    });
    let full = Calls { invoke: BoxCloneSyncService::new(invoke), ..calls(&Arc::default(), 8) };
    // It holds the component, so it is asked first.
    let held = vec![fanfold_protocol::digest::Digest::of(b"x").prefix()];
    let (guests, patience) = (Arc::default(), limits::DRAIN_TIMEOUT);
    let _full = Worker::start_with(backbone, authority, "a", guests, full, held, patience).await;
    deployment.until("it is there", |live| live == 1).await;
    let problem = deployment.call(1).await.unwrap_err();
    assert_eq!((problem.code, asked.load(SeqCst)), (ErrorKind::ConcurrencyLimit, 1), "{problem}");
    let able = Worker::start(backbone, authority, "b", 8).await;
    deployment.until("both are there", |live| live == 2).await;
    for _ in 0..10 {
        assert_eq!(deployment.call(1).await.unwrap(), "1");
    }
    assert_eq!(able.started(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_memory_for_a_large_call_takes_small_ones() {
    const LARGE: u64 = 1 << 30;
    let deployment = Deployment::new().await;
    let (backbone, authority) = (&deployment.backbone, &deployment.authority);
    let (guests, refused) = (Arc::new(Guests::default()), Arc::new(AtomicUsize::new(0)));
    let ordinary = calls(&guests, 8);
    let (runs, counted) = (ordinary.invoke.clone(), Arc::clone(&refused));
    let invoke = service_fn(move |invocation: Invocation| {
        let (runs, counted) = (runs.clone(), Arc::clone(&counted));
        async move {
            if invocation.version.settings.memory.0 < LARGE {
                return runs.oneshot(invocation).await;
            }
            counted.fetch_add(1, SeqCst);
            Err(Problem::new(ErrorKind::ConcurrencyLimit, "as the test says"))
        }
    });
    let short = Calls { invoke: BoxCloneSyncService::new(invoke), ..ordinary };
    // It holds both components, so it is asked first.
    let mut held = vec![Digest::of(b"x").prefix(), Digest::of(b"y").prefix()];
    held.sort_unstable();
    let a = Worker::start_with(backbone, authority, "a", guests, short, held, limits::DRAIN_TIMEOUT).await;
    let b = Worker::start(backbone, authority, "b", 8).await;
    deployment.until("both are there", |live| live == 2).await;
    // One that had no room counts as full for as long as this.
    deployment.call(150).await.unwrap();
    let large = || {
        let call = invocation(1);
        let settings = Settings { memory: ByteSize(LARGE), ..Settings::default() };
        let version = Version { digest: Digest::of(b"y"), settings, ..Version::clone(&call.version) };
        let call = Invocation { version: Arc::new(version), ..call };
        deployment.dispatch.invoke.clone().oneshot(call)
    };
    large().await.unwrap().result.unwrap();
    assert_eq!((refused.load(SeqCst), a.started(), b.started()), (1, 1, 1));
    for _ in 0..5 {
        deployment.call(1).await.unwrap();
    }
    assert_eq!((a.started(), b.started()), (6, 1));
    // Where nobody has room, all are told at once, and small ones run all the same.
    b.draining.cancel();
    deployment.until("b drains", |live| live == 1).await;
    let begun = Instant::now();
    for answer in join_all((0..50).map(|_| large())).await {
        assert_eq!(answer.unwrap_err().code, ErrorKind::ConcurrencyLimit);
    }
    // The promise is 10 ms for each; the machines of CI are slow and shared.
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    deployment.call(1).await.unwrap();
    assert_eq!((a.started(), b.started()), (7, 1));
}

/// It has answered, but not from a sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_could_not_get_the_component_does_not_hold_it() {
    let deployment = Deployment::new().await;
    let (backbone, authority) = (&deployment.backbone, &deployment.authority);
    let invoke = service_fn(|_: Invocation| async {
        let result = Err(Problem::new(ErrorKind::ObjectNotFound, "as the test says"));
        let (logs, progress, usage) = (Vec::new(), None, Usage::default());
        Ok::<_, Problem>(Outcome { result, logs, progress, usage })
    });
    let (guests, patience) = (Arc::<Guests>::default(), limits::DRAIN_TIMEOUT);
    let lacking = Calls { invoke: BoxCloneSyncService::new(invoke), ..calls(&guests, 16) };
    let lacking = Worker::start_with(backbone, authority, "a", guests, lacking, Vec::new(), patience).await;
    deployment.until("it is there", |live| live == 1).await;
    assert_eq!(deployment.call(1).await.unwrap_err().code, ErrorKind::ObjectNotFound);
    let held = vec![fanfold_protocol::digest::Digest::of(b"x").prefix()];
    let _able = Worker::start_holding(backbone, authority, "b", 16, held).await;
    deployment.until("both are there", |live| live == 2).await;
    // So it is asked to compile it once the other one is busy.
    let begun = Instant::now();
    while lacking.guests.prepared.load(SeqCst) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is taken for one that holds it");
        join_all((0..8).map(|_| deployment.call(5))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_store_is_silent_is_left_out_while_there_are_others() {
    let deployment = Deployment::new().await;
    let (backbone, authority) = (&deployment.backbone, &deployment.authority);
    // It holds the component, and says each time how its store is.
    let held = vec![Digest::of(b"x").prefix()];
    let store_answers = Arc::new(AtomicBool::new(true));
    let guests = Arc::new(Guests::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let joining = Member { cached: held, ..member("a", listener.local_addr().unwrap(), 8) };
    let (draining, gone) = (CancellationToken::new(), CancellationToken::new());
    let identity = of_worker(authority.worker());
    let serving = serve(listener, identity, calls(&guests, 8), draining.clone(), limits::DRAIN_TIMEOUT);
    let serving = tokio::spawn(serving);
    let membership = join(backbone, joining).await.unwrap();
    let says = Arc::clone(&store_answers);
    let state = move |member: &mut Member| member.store_answers = says.load(SeqCst);
    let keeping = tokio::spawn(membership.keep(state, draining.clone(), gone.clone()));
    let other = deployment.worker("b", 8).await;
    deployment.until("both are there", |live| live == 2).await;
    deployment.call(1).await.unwrap();
    assert_eq!((guests.started.load(SeqCst), other.started()), (1, 0));
    store_answers.store(false, SeqCst);
    deployment.until("it is left out", |live| live == 1).await;
    for _ in 0..10 {
        deployment.call(1).await.unwrap();
    }
    assert_eq!((guests.started.load(SeqCst), other.started()), (1, 10));
    // Better than nobody.
    other.draining.cancel();
    let begun = Instant::now();
    while guests.started.load(SeqCst) == 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody is called");
        let _ = deployment.call(1).await;
    }
    deployment.call(1).await.unwrap();
    gone.cancel();
    keeping.await.unwrap();
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_to_find_its_name_taken_says_so_once() {
    let deployment = Deployment::new().await;
    let [halted, taking]: [SocketAddr; 2] = ["127.0.0.1:7", "127.0.0.1:9"].map(|text| text.parse().unwrap());
    let sleeper = join(&deployment.backbone, member("a", halted, 4)).await.unwrap();
    // It has the name once the first has been silent for longer than its lease.
    let taker = join(&deployment.backbone, member("a", taking, 4)).await.unwrap();
    let mut told = deployment.backbone.subscribe(keys::NAMES_TAKEN).await.unwrap();
    let gone = CancellationToken::new();
    let keep = |membership: fanfold_runtime::remote::Membership| {
        tokio::spawn(membership.keep(|_| {}, CancellationToken::new(), gone.clone()))
    };
    let keeping = [keep(taker), keep(sleeper)];
    let event = tokio::time::timeout(Duration::from_secs(20), told.next()).await.unwrap();
    let subject = keys::name_taken(&"a".parse().unwrap());
    assert_eq!(event, Some(Event::Published { subject, payload: halted.to_string().into() }));
    // Its next tries are no news. The other one may lose the name as well where the machine stalls.
    let again = async {
        while let Some(event) = told.next().await {
            if matches!(&event, Event::Published { payload, .. } if *payload == halted.to_string()) {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(4 * MEMBER_RENEWAL, again).await.is_err());
    gone.cancel();
    join_all(keeping).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_one_workers_and_a_version_is_both_sides() {
    let deployment = Deployment::new().await;
    let worker = deployment.worker("a", 4).await;
    let twin = join(&deployment.backbone, member("a", worker.address, 4)).await;
    let problem = twin.err().unwrap();
    assert_eq!(problem.code, ErrorKind::InvalidSettings);
    assert!(problem.detail.contains(&worker.address.to_string()), "{problem}");
    // A worker that knows no version of ours is not called.
    let newer = WIRE_VERSION + 1;
    let far = Member { wire: newer, wire_min: newer, ..member("far", worker.address, 4) };
    let _far = join(&deployment.backbone, far).await.unwrap();
    for _ in 0..10 {
        deployment.call(1).await.unwrap();
    }
    assert_eq!((deployment.live(), worker.started()), (1, 10));
    // One of the next release knows ours as well.
    let next = Member { wire: newer, ..member("next", worker.address, 4) };
    let _next = join(&deployment.backbone, next).await.unwrap();
    deployment.until("the next release is there", |live| live == 2).await;
    for _ in 0..10 {
        deployment.call(1).await.unwrap();
    }
    // A gateway of another version is not answered.
    let connector = tokio_rustls::TlsConnector::from(deployment.authority.gateway());
    let stream = tokio::net::TcpStream::connect(worker.address).await.unwrap();
    let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::post("https://worker/invoke")
        .header(WIRE_HEADER, "999")
        .body(http_body_util::Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
    assert!(response.headers().contains_key(NOT_STARTED));
    assert_eq!(worker.started(), 20);
}
