// SPDX-License-Identifier: Apache-2.0
//! Starts beside servers that come up: what is waited for, and what is told at once.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::pull, stream};
use fanfold_backbone::{
    Backbone, Change, Error, NatsConfig, NatsCredentials, NatsUser, Needs, Secret, Watch,
};
use futures::{StreamExt, future::join_all};
use tokio::time::{sleep, timeout};

use crate::conformance::until;
use crate::faults::WAIT;
use crate::server::{Release, Servers};

const BOTH: [Release; 2] = [Release::Debian, Release::Current];
/// Longer than an operation may take, and less than a start waits.
const LATE: Duration = Duration::from_secs(6);
/// Less than a start waits for a leader.
const SOON: Duration = Duration::from_secs(15);

/// Opens what can be opened only after [`LATE`].
async fn opened_late(config: NatsConfig) -> Backbone {
    let begun = Instant::now();
    let b = Backbone::nats(config).await.unwrap();
    assert!(begun.elapsed() >= LATE, "{:?}", begun.elapsed());
    b
}

/// What is wrong, and that it was told soon.
async fn told(config: NatsConfig) -> Vec<String> {
    let begun = Instant::now();
    let Err(Error::Misconfigured { problems }) = Backbone::nats(config).await else {
        panic!("expected a refusal")
    };
    assert!(begun.elapsed() < SOON, "{:?}: {problems:#?}", begun.elapsed());
    problems
}

/// A server of a deployment whose worker is `w`; whoever does not say who it is may do everything.
async fn with_worker(release: Release, prefix: &str) -> Servers {
    let mut config = NatsConfig::new(["nats://127.0.0.1:1"]);
    (config.prefix, config.shards) = (prefix.to_owned(), 2);
    let needs = Needs { reads: &["workers/", "k"], writes: &[], pulls: &[], hears: &[], tells: &[] };
    let worker = NatsUser { name: "w".to_owned(), password: Secret::new("any") };
    let accounts = config.accounts(&[], &[worker], needs).unwrap();
    // The first are the users of the account that has the streams.
    let accounts = accounts.replacen("users: [", "users: [{ user: others, password: any }", 1);
    Servers::start_with(release, 1, &format!("no_auth_user: others\n{accounts}")).await
}

/// The same deployment as its worker has it.
fn as_worker(config: NatsConfig) -> NatsConfig {
    let credentials = NatsCredentials::Password { user: "w".to_owned(), password: Secret::new("any") };
    NatsConfig { restricted: true, credentials, ..config }
}

/// One server, which may not be able to serve.
async fn reached(release: Release, more: &str) -> Servers {
    let mut servers = Servers::configured(release, 1, more);
    servers.run(0);
    servers.wait_until_reached(0).await;
    servers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_leader_is_waited_for() {
    join_all(BOTH.map(|release| async move {
        let mut servers = Servers::configured(release, 3, "");
        servers.run(0);
        servers.wait_until_reached(0).await;
        let (b, ()) = tokio::join!(opened_late(servers.config("late")), async {
            sleep(LATE).await;
            servers.run(1);
            servers.run(2);
        });
        b.put("k", "v").await.unwrap();
        b.close().await;

        // More copies than there are servers are a mistake, of every stream.
        let mut impossible = servers.config("impossible");
        impossible.replicas = 5;
        let problems = told(impossible).await;
        assert_eq!(problems.len(), 4, "{release:?}: {problems:#?}");
        assert!(problems[0].contains("with 5 replicas"), "{release:?}: {problems:#?}");
    }))
    .await;
}

/// With one copy of each stream, a cluster with a leader may still lack the server that has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_server_of_a_stream_is_waited_for() {
    join_all(BOTH.map(|release| async move {
        let mut servers = Servers::start(release, 3).await;
        let mut config = servers.config("single");
        config.replicas = 1;
        Backbone::nats(config.clone()).await.unwrap().close().await;
        let jetstream = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        let keys = jetstream.get_stream("single-keys").await.unwrap();
        let host = keys.cached_info().cluster.as_ref().unwrap().leader.clone().unwrap();
        let is_host = |at: &usize| format!("n{at}") == host;
        for at in 0..3 {
            servers.stop(at);
        }
        for at in (0..3).filter(|at| !is_host(at)) {
            servers.run(at);
        }
        servers.wait_until_up().await;
        let (b, ()) = tokio::join!(opened_late(config), async {
            sleep(LATE).await;
            for at in (0..3).filter(is_host) {
                servers.run(at);
            }
        });
        b.put("k", "v").await.unwrap();
        b.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waits_for_what_a_gateway_makes() {
    join_all(BOTH.map(|release| async move {
        let servers = with_worker(release, "first").await;
        let (worker, gateway) = tokio::join!(opened_late(as_worker(servers.config("first"))), async {
            sleep(LATE).await;
            servers.open("first").await
        });
        worker.close().await;
        gateway.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_and_a_jetstream_that_are_missing_are_told_at_once() {
    join_all(BOTH.map(|release| async move {
        let user = "{ user: g, password: right, permissions: { publish: { deny: \"$JS.API.STREAM.>\" } } }";
        let servers = reached(release, &format!("authorization {{ users: [{user}] }}")).await;
        let mut config = servers.config("rights");
        config.credentials =
            NatsCredentials::Password { user: "g".to_owned(), password: Secret::new("right") };
        let problems = told(config).await;
        let [problem] = &problems[..] else { panic!("{release:?}: {problems:#?}") };
        assert!(problem.contains("the rights of a gateway to the stream rights-keys"), "{problem}");

        let servers = reached(release, "jetstream: false").await;
        let problems = told(servers.config("off")).await;
        let [problem] = &problems[..] else { panic!("{release:?}: {problems:#?}") };
        assert!(problem.contains("expected JetStream to be on"), "{problem}");
    }))
    .await;
}

/// Of streams and consumers that others made or changed, all of which would break work later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_made_of_our_names_is_told_at_once() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        let config = servers.config("taken");
        servers.open("taken").await.close().await;
        let jetstream = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        let work = jetstream.get_stream("taken-work-0").await.unwrap();
        work.delete_consumer("delayed").await.unwrap();
        let spy = pull::Config { durable_name: Some("spy".to_owned()), ..pull::Config::default() };
        work.create_consumer(spy).await.unwrap();
        let problems = told(config.clone()).await;
        let [problem] = &problems[..] else { panic!("{release:?}: {problems:#?}") };
        assert!(problem.contains("expected to make the consumer delayed"), "{problem}");
        work.delete_consumer("spy").await.unwrap();
        servers.open("taken").await.close().await;

        let mut keys = jetstream.get_stream("taken-keys").await.unwrap().cached_info().config.clone();
        (keys.max_message_size, keys.no_ack, keys.discard_new_per_subject) = (1_000, true, true);
        jetstream.update_stream(keys).await.unwrap();
        let problems = told(config).await;
        assert_eq!(problems.len(), 3, "{release:?}: {problems:#?}");
        for (problem, setting) in problems.iter().zip(["max_msg_size", "discard_new_per_subject", "no_ack"]) {
            assert!(problem.contains(setting), "{release:?}: {problems:#?}");
        }
    }
}

/// It is no want of room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_others_that_takes_our_subjects_is_told_as_such() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        let jetstream = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        let subjects = vec!["overlap.dead.>".to_owned()];
        let other = stream::Config { name: "other".to_owned(), subjects, ..stream::Config::default() };
        jetstream.create_stream(other).await.unwrap();
        let problems = told(servers.config("overlap")).await;
        let [problem] = &problems[..] else { panic!("{release:?}: {problems:#?}") };
        assert!(
            problem.contains("overlap.dead.> for the stream overlap-dead alone"),
            "{release:?}: {problem}"
        );
        assert!(!problem.contains("room"), "{release:?}: {problem}");
        jetstream.delete_stream("other").await.unwrap();
        servers.open("overlap").await.close().await;
    }
}

/// Fewer are seen by nothing else, and more would be made beside those that there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_shards_is_told_and_nothing_is_made() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        servers.open("shards").await.close().await;
        for shards in [1, 3] {
            let mut other = servers.config("shards");
            other.shards = shards;
            let problems = told(other).await;
            let [problem] = &problems[..] else { panic!("{release:?}: {problems:#?}") };
            assert!(problem.contains(&format!("with shards {shards}, found 2")), "{problem}");
        }
        let jetstream = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        assert!(jetstream.get_stream("shards-work-2").await.is_err());
    }
}

/// F4 without a server that ends: whoever deletes streams leaves the connections as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_deleted_are_lost_data() {
    join_all(BOTH.map(|release| async move {
        let servers = Servers::start(release, 1).await;
        let jetstream = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        for stream in ["gone-work-1", "gone-keys"] {
            let b = servers.open("gone").await;
            b.put("k", "v").await.unwrap();
            // Also one that is gone before it was ever looked at.
            jetstream.delete_stream(stream).await.unwrap();
            timeout(WAIT, b.lost()).await.unwrap_or_else(|_| panic!("{release:?}: {stream}"));
            b.close().await;
        }
        // Whoever begins anew has all of them.
        let b = servers.open("gone").await;
        b.put("k", "v").await.unwrap();
        assert!(timeout(LATE, b.lost()).await.is_err(), "{release:?}");
        b.close().await;
    }))
    .await;
}

/// A lease begins anew with whoever sees it for the first time; what is kept for a day must end although gateways are
/// started anew every day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_time_to_live_goes_on_while_nobody_counts_it() {
    const TTL: Duration = Duration::from_secs(10);
    join_all(BOTH.map(|release| async move {
        let servers = Servers::start(release, 1).await;
        let mut config = servers.config("kept");
        config.long_ttl = TTL;
        let b = Backbone::nats(config.clone()).await.unwrap();
        let (lease, written) = (TTL - Duration::from_secs(1), Instant::now());
        b.put_with_ttl("lease", "x", lease).await.unwrap();
        b.put_with_ttl("long", "x", TTL).await.unwrap();
        b.close().await;
        sleep(TTL / 2).await;

        let (opened, b) = (Instant::now(), Backbone::nats(config.clone()).await.unwrap());
        assert!(b.get("long").await.unwrap().is_some(), "{release:?}: {:?}", written.elapsed());
        until("it to lapse", async || b.get("long").await.unwrap(), Option::is_none).await;
        assert!(written.elapsed() >= TTL, "{release:?}: {:?}", written.elapsed());
        assert!(opened.elapsed() < TTL, "{release:?}: it began anew");
        assert!(b.get("lease").await.unwrap().is_some(), "{release:?}: {:?}", opened.elapsed());
        b.put_with_ttl("long", "again", TTL).await.unwrap();
        b.close().await;
        sleep(TTL).await;

        // All of it has passed meanwhile.
        let (opened, b) = (Instant::now(), Backbone::nats(config).await.unwrap());
        assert!(b.list("long").await.unwrap().is_empty(), "{release:?}");
        assert!(opened.elapsed() < TTL, "{release:?}: it began anew");
        b.close().await;
    }))
    .await;
}

/// F4, of a worker, which goes on while a gateway begins anew: revisions count from one again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_of_what_is_there_after_all_was_lost() {
    for release in BOTH {
        let mut servers = with_worker(release, "again").await;
        let b = servers.open("again").await;
        let worker = Backbone::nats(as_worker(servers.config("again"))).await.unwrap();
        for n in 0..20 {
            b.put("k", n.to_string()).await.unwrap();
        }
        let mut watches = [synced(&b, "k").await, synced(&worker, "k").await];
        servers.kill(0);
        servers.wipe(0);
        servers.run(0);
        servers.wait_until_up().await;
        let other = servers.open("again").await;
        let revision = other.put("k", "anew").await.unwrap();
        assert!(revision < 20, "{release:?}: {revision}");
        for watch in &mut watches {
            loop {
                match timeout(WAIT, watch.next()).await.unwrap().unwrap() {
                    Change::Put { entry, .. } if entry.value == "anew" => break,
                    _ => {}
                }
            }
        }
        for b in [other, worker, b] {
            b.close().await;
        }
    }
}

/// A watch whose reader has its first state.
async fn synced(b: &Backbone, scope: &str) -> Watch {
    let mut watch = b.watch(scope).await.unwrap();
    while timeout(WAIT, watch.next()).await.unwrap().unwrap() != Change::Synced {}
    watch
}

/// A worker reads from any copy. One that lags behind what a watch was told is as this server, which has lost a message
/// and gets the next one a little later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_lags_takes_nothing_back() {
    for release in BOTH {
        let mut servers = with_worker(release, "lag").await;
        let b = servers.open("lag").await;
        let mut config = as_worker(servers.config("lag"));
        // It waits for so long: what comes a little later has to come within that on a busy machine, too.
        config.operation_timeout = Duration::from_secs(15);
        let worker = Backbone::nats(config).await.unwrap();
        let revision = b.put("k", "old").await.unwrap();
        let mut watch = synced(&worker, "k").await;
        b.put("other", "kept").await.unwrap();
        let jetstream = jetstream::new(async_nats::connect(servers.url(0)).await.unwrap());
        let keys = jetstream.get_stream("lag-keys").await.unwrap();
        assert!(keys.delete_message(revision).await.unwrap(), "{release:?}");
        servers.stop(0);
        servers.run(0);
        servers.wait_until_up().await;
        // By then it has looked at what there is, and it waits for longer.
        sleep(Duration::from_secs(2)).await;
        b.put("k", "new").await.unwrap();
        let change = timeout(WAIT, watch.next()).await.unwrap().unwrap();
        let is_new = matches!(&change, Change::Put { entry, .. } if entry.value == "new");
        assert!(is_new, "{release:?}: {change:?}");
        worker.close().await;
        b.close().await;
    }
}
