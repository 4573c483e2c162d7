// SPDX-License-Identifier: Apache-2.0
//! Lost servers, connections and consumers, and settings that do not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use fanfold_backbone::{
    Backbone, CasOutcome, Change, DeleteOutcome, Depth, Error, Event, Message, NatsConfig, NatsCredentials,
    Secret, Settled,
};
use futures::StreamExt;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::conformance::comes_to;
use crate::server::{Release, Servers};

pub(crate) const WAIT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);
const BOTH: [Release; 2] = [Release::Debian, Release::Current];

pub(crate) fn messages(ids: std::ops::Range<usize>) -> Vec<Message> {
    ids.map(|n| Message::new(n.to_string(), n.to_string())).collect()
}

async fn jetstream_of(servers: &Servers) -> jetstream::Context {
    jetstream::new(async_nats::connect(servers.url(0)).await.unwrap())
}

/// Pulls and acknowledges until all of `expected` were seen; answers what else was.
pub(crate) async fn drain(b: &Backbone, queue: &str, expected: &BTreeSet<String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let begun = Instant::now();
    while !expected.is_subset(&seen) {
        let missing = expected.difference(&seen).count();
        assert!(begun.elapsed() < LONG, "{missing} of {} did not come", expected.len());
        match b.pull(queue, 256, Duration::from_secs(2), LONG).await {
            Ok(deliveries) => {
                let acks = deliveries.iter().map(|delivery| delivery.ack());
                for (acked, delivery) in join_all(acks).await.into_iter().zip(&deliveries) {
                    if acked.is_ok() {
                        seen.insert(delivery.id.clone());
                    }
                }
            }
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    &seen - expected
}

pub(crate) fn ids(ids: impl IntoIterator<Item = impl ToString>) -> BTreeSet<String> {
    ids.into_iter().map(|id| id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_has_everything() {
    let each = BOTH.into_iter().flat_map(|release| [restart(release, false), restart(release, true)]);
    join_all(each).await;
}

async fn restart(release: Release, crash: bool) {
    let mut servers = Servers::start(release, 1).await;
    let b = servers.open("restart").await;
    let revision = b.put("kept", "value").await.unwrap();
    b.put("gone", "x").await.unwrap();
    assert!(matches!(b.delete("gone", None).await.unwrap(), DeleteOutcome::Deleted(_)));
    b.enqueue("q", messages(0..5)).await.unwrap();
    // Longer than the servers wait for a word, which a crash makes them forget.
    let (delay, enqueued) = (Duration::from_secs(8), Instant::now());
    b.enqueue("q", vec![Message::new("late", "late").delayed(delay)]).await.unwrap();
    let pulled = b.pull("q", 3, WAIT, LONG).await.unwrap();
    assert_eq!(pulled.len(), 3);
    pulled[0].ack().await.unwrap();
    pulled[1].dead("because").await.unwrap();
    if crash {
        servers.kill(0)
    } else {
        servers.stop(0)
    }
    servers.run(0);
    servers.wait_until_up().await;

    // The same handle goes on; a second one sees the same.
    let other = servers.open("restart").await;
    for b in [&b, &other] {
        assert_eq!(b.get("kept").await.unwrap().unwrap().revision, revision);
        assert_eq!(b.get("gone").await.unwrap(), None);
        assert_eq!(b.list("").await.unwrap().len(), 1);
        assert_eq!(b.dead_letters("q", 0, 9).await.unwrap()[0].reason, "because");
    }
    assert!(other.put("kept", "newer").await.unwrap() > revision);
    // What was leased is settled by whoever holds it, in the old life or the new.
    assert_eq!(pulled[2].ack().await.unwrap(), Settled::Done);
    let mut again = drain(&other, "q", &ids(["3", "4"])).await;
    again.extend(drain(&other, "q", &ids(["late"])).await);
    let late = enqueued.elapsed();
    assert!(late >= delay && late < delay + Duration::from_secs(7), "{release:?}, crash {crash}: {late:?}");
    // 2.9 writes removals down a while after it confirms them, and a crash may bring them back.
    let forgiven = if crash { ids(["0", "1"]) } else { ids([""; 0]) };
    assert!(again.is_subset(&forgiven), "{release:?}, crash {crash}: {again:?}");
    b.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_consumer_is_made_again() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        let b = servers.open("lost").await;
        b.enqueue("q", messages(0..4)).await.unwrap();
        let held = b.pull("q", 1, WAIT, LONG).await.unwrap().remove(0);
        let waiting = {
            let b = b.clone();
            tokio::spawn(async move { b.pull("other", 1, WAIT, LONG).await })
        };
        sleep(Duration::from_millis(200)).await;
        delete_consumers(&servers, "lost").await;
        // A pull that waits is told and goes on, and the clock of delayed messages with it.
        b.enqueue("other", messages(0..1)).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().len(), 1);
        let late = Message::new("late", "late").delayed(Duration::from_millis(300));
        b.enqueue("q", vec![late]).await.unwrap();
        // The consumer that knew the lease is gone; the ack still removes the message.
        assert_eq!(held.ack().await.unwrap(), Settled::Done);
        assert_eq!(drain(&b, "q", &ids(["1", "2", "3", "late"])).await, ids([""; 0]));
        comes_to(&b, "q", |depth| depth == Depth::default()).await;
        b.close().await;
    }
}

/// Deletes what the server knows of leases.
async fn delete_consumers(servers: &Servers, scope: &str) {
    let jetstream = jetstream_of(servers).await;
    for shard in 0..2 {
        let stream = jetstream.get_stream(format!("{scope}-work-{shard}")).await.unwrap();
        let names: Vec<_> = stream.consumer_names().map(Result::unwrap).collect().await;
        for name in names {
            stream.delete_consumer(&name).await.unwrap();
        }
    }
}

/// As after a crash between a delivery and its being written down: such an ack is not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_the_server_forgot_is_settled() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        let b = servers.open("forgot").await;
        b.enqueue("q", messages(0..3)).await.unwrap();
        let held = b.pull("q", 2, WAIT, LONG).await.unwrap().remove(1);
        delete_consumers(&servers, "forgot").await;
        // A consumer that has delivered the first message alone.
        let first = b.pull("q", 1, WAIT, LONG).await.unwrap();
        assert_eq!((first.len(), &*first[0].id), (1, "0"));
        let begun = Instant::now();
        assert_eq!(held.ack().await.unwrap(), Settled::Done);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(first[0].ack().await.unwrap(), Settled::Done);
        assert_eq!(drain(&b, "q", &ids(["2"])).await, ids([""; 0]));
        b.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_server_is_told_soon_and_found_again() {
    for release in BOTH {
        let mut servers = Servers::start(release, 1).await;
        let mut config = servers.config("away");
        config.operation_timeout = Duration::from_secs(2);
        let b = Backbone::nats(config).await.unwrap();
        b.put("k/1", "before").await.unwrap();
        let mut watch = b.watch("k/").await.unwrap();
        let mut events = b.subscribe("a.>").await.unwrap();
        servers.kill(0);
        let (mut late, mut heard_late) = (b.follow("k/"), b.follow_subject("a.>"));
        let late = tokio::spawn(async move { tokio::join!(late.next(), heard_late.next()) });
        let begun = Instant::now();
        for outcome in [
            b.put("k/2", "x").await.map(drop),
            b.get("k/1").await.map(drop),
            b.enqueue("q", messages(0..1)).await.map(drop),
            b.pull("q", 1, WAIT, LONG).await.map(drop),
            b.ping().await,
        ] {
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
            assert_eq!(error.kind().status(), 503);
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        servers.run(0);
        servers.wait_until_up().await;
        let begun = Instant::now();
        while b.put("k/3", "after").await.is_err() {
            assert!(begun.elapsed() < WAIT, "recovers without a restart");
        }
        let mut state = BTreeMap::new();
        timeout(WAIT, async {
            while !state.contains_key("k/3") {
                if let Change::Put { key, entry } = watch.next().await.unwrap() {
                    state.insert(key, entry);
                }
            }
        })
        .await
        .expect("the watch goes on");
        let told = timeout(WAIT, events.next()).await.unwrap().unwrap();
        assert!(matches!(told, Event::Lagged(lost) if lost > 0), "{told:?}");
        let (first, listens) = timeout(WAIT, late).await.expect("what is followed opens in the end").unwrap();
        assert!(matches!(&first, Some(Change::Put { key, .. }) if key == "k/1"), "{first:?}");
        assert_eq!(listens, Some(Event::Lagged(0)));
        b.publish("a.b", "x").await.unwrap();
        let heard = timeout(WAIT, events.next()).await.unwrap().unwrap();
        assert!(matches!(&heard, Event::Published { subject, .. } if subject == "a.b"), "{heard:?}");
        b.enqueue("q", messages(0..1)).await.unwrap();
        drain(&b, "q", &ids(["0"])).await;
        b.close().await;
    }
}

/// A way to a server that swallows the next acknowledgement of a message, and breaks, whenever it is armed.
async fn forgetful_way(to: &str) -> (String, Arc<AtomicBool>) {
    let (to, armed) = (to.trim_start_matches("nats://").to_owned(), Arc::new(AtomicBool::new(false)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let swallows = Arc::clone(&armed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&to).await.unwrap();
            tokio::spawn(passed_on(client, server, Arc::clone(&swallows)));
        }
    });
    (url, armed)
}

async fn passed_on(client: TcpStream, server: TcpStream, swallows: Arc<AtomicBool>) {
    let ((mut asks, mut hears), (mut answers, mut is_asked)) = (client.into_split(), server.into_split());
    let there = tokio::io::copy(&mut asks, &mut is_asked);
    let back = async {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = answers.read(&mut chunk).await {
            let is_ack = chunk[..bytes].windows(10).any(|part| part == b"{\"stream\":");
            if is_ack && swallows.swap(false, Ordering::SeqCst) {
                return;
            }
            if hears.write_all(&chunk[..bytes]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = there => {}
        () = back => {}
    }
}

/// What was stored although nobody heard of it is stored once, and who wrote it learns so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_that_is_lost_is_asked_for_again() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        let direct = servers.open("unheard").await;
        let (url, armed) = forgetful_way(&servers.url(0)).await;
        let mut config = servers.config("unheard");
        (config.urls, config.operation_timeout) = (vec![url], Duration::from_secs(6));
        let b = Backbone::nats(config).await.unwrap();
        let swallow = || armed.store(true, Ordering::SeqCst);
        swallow();
        let CasOutcome::Stored(first) = b.create("k", "1").await.unwrap() else {
            panic!("{release:?}: made once")
        };
        swallow();
        let CasOutcome::Stored(second) = b.update("k", "2", first).await.unwrap() else {
            panic!("{release:?}: its own write is no conflict")
        };
        assert_eq!(direct.get("k").await.unwrap().unwrap().revision, second);
        swallow();
        assert_eq!(b.delete("k", Some(second)).await.unwrap(), DeleteOutcome::Deleted(second + 1));
        swallow();
        b.enqueue("q", messages(0..1)).await.unwrap();
        assert!(!armed.load(Ordering::SeqCst), "{release:?}: an answer was lost each time");
        assert_eq!(direct.depth("q").await.unwrap().ready, 1);
        b.close().await;
        direct.close().await;
    }
}

/// Removals that nobody told are found by comparing: a watch that was cut off while a mark was swept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_cut_off_misses_no_removal() {
    let mut servers = Servers::start(Release::Debian, 1).await;
    let b = servers.open("cut").await;
    for key in ["k/1", "k/2", "k/3"] {
        b.put(key, "x").await.unwrap();
    }
    let mut watch = b.watch("k/").await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&Change::Synced) {
        seen.push(timeout(WAIT, watch.next()).await.unwrap().unwrap());
    }
    // What an operator deletes leaves no mark; the restart makes the watch begin anew.
    let stream = jetstream_of(&servers).await.get_stream("cut-keys").await.unwrap();
    for key in ["k.1", "k.2"] {
        stream.purge().filter(format!("cut.keys.{key}")).await.unwrap();
    }
    servers.stop(0);
    servers.run(0);
    let mut removed = BTreeSet::new();
    while removed.len() < 2 {
        match timeout(WAIT, watch.next()).await.unwrap().unwrap() {
            Change::Delete { key, .. } => {
                removed.insert(key);
            }
            change => panic!("told again: {change:?}"),
        }
    }
    assert_eq!(removed, ["k/1", "k/2"].map(str::to_owned).into());
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_do_not_fit_are_all_told_and_nothing_is_changed() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        servers.open("fit").await.close().await;
        let mut other = servers.config("fit");
        other.shard_bytes_max = 32 << 20;
        other.dedupe_window = Duration::from_secs(30);
        let Err(Error::Misconfigured { problems }) = Backbone::nats(other).await else {
            panic!("expected the mismatch to be told")
        };
        let about = |what: &str| problems.iter().filter(|problem| problem.contains(what)).count();
        assert_eq!((about("max_bytes"), about("duplicate_window")), (2, 3), "{problems:#?}");
        assert!(problems[0].contains("30s, found 120s"), "{problems:#?}");
        assert_eq!(about("correct `shard_bytes`, or edit"), 2, "{problems:#?}");
        let stream = jetstream_of(&servers).await.get_stream("fit-work-0").await.unwrap();
        assert_eq!(stream.cached_info().config.max_bytes, 64 << 20);

        // As an earlier build made it: restricted workers could not read.
        let jetstream = jetstream_of(&servers).await;
        let mut keys = jetstream.get_stream("fit-keys").await.unwrap().cached_info().config.clone();
        keys.allow_direct = false;
        jetstream.update_stream(keys).await.unwrap();
        let Err(Error::Misconfigured { problems }) = Backbone::nats(servers.config("fit")).await else {
            panic!("expected the missing right to read to be told")
        };
        let [problem] = &problems[..] else { panic!("{problems:#?}") };
        assert!(problem.contains("allow_direct true, found false"), "{problem}");

        // More copies than servers, and more room than the server has.
        let mut impossible = servers.config("large");
        (impossible.replicas, impossible.keys_bytes_max) = (3, 1 << 45);
        let Err(Error::Misconfigured { problems }) = Backbone::nats(impossible).await else {
            panic!("expected the lack of servers to be told")
        };
        assert_eq!(problems.len(), 4, "{problems:#?}");
    }
}

#[tokio::test]
async fn what_opening_would_make_is_told_and_not_made() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        servers.open("other").await.close().await;
        for _ in 0..2 {
            let missing = Backbone::nats_missing(servers.config("asked")).await.unwrap();
            assert_eq!(missing, ["asked-keys", "asked-dead", "asked-work-0", "asked-work-1"]);
        }
        servers.open("asked").await.close().await;
        assert!(Backbone::nats_missing(servers.config("asked")).await.unwrap().is_empty());
        let mut copied = servers.config("copied");
        copied.replicas = 3;
        let Err(Error::Misconfigured { problems }) = Backbone::nats_missing(copied).await else {
            panic!("expected the lack of servers to be told")
        };
        let [problem] = &problems[..] else { panic!("{problems:#?}") };
        assert!(problem.contains("3 replicas, found one that is alone"), "{problem}");
        let mut unfit = servers.config("asked");
        unfit.shard_bytes_max = 32 << 20;
        let Err(Error::Misconfigured { problems }) = Backbone::nats_missing(unfit).await else {
            panic!("expected the mismatch to be told")
        };
        assert_eq!(problems.len(), 2, "{problems:#?}");
    }
}

#[tokio::test]
async fn a_server_out_of_reach_or_without_what_we_need_is_told() {
    let told = async |config: NatsConfig| match Backbone::nats(config).await {
        Err(error @ Error::Misconfigured { .. }) => {
            assert!(!error.is_retryable());
            error.to_string()
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("expected a refusal"),
    };
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // It may come up, which is for whoever opens to wait for.
    let away = Backbone::nats(NatsConfig::new([format!("nats://{free}")])).await.err().unwrap();
    assert!(matches!(away, Error::OutOfReach { .. }) && away.is_retryable(), "{away}");
    let servers = Servers::start_with(Release::Debian, 1, "authorization { token: right }").await;
    let mut config = servers.config("auth");
    let refused = told(config.clone()).await;
    assert!(refused.contains("credentials"), "{refused}");
    config.credentials = NatsCredentials::Token(Secret::new("right"));
    Backbone::nats(config).await.unwrap().close().await;
    let servers = Servers::start_with(Release::Debian, 1, "max_payload: 4096").await;
    let small = told(servers.config("small")).await;
    assert!(small.contains("max_payload 4096"), "{small}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_stream_refuses_and_recovers() {
    let servers = Servers::start(Release::Debian, 1).await;
    let mut config = servers.config("full");
    (config.shards, config.shard_bytes_max) = (1, 4 << 20);
    let b = Backbone::nats(config).await.unwrap();
    let large = |n: usize| vec![Message::new(n.to_string(), vec![1; 500_000])];
    let mut accepted = 0;
    let refused = loop {
        match b.enqueue("q", large(accepted)).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 20, "the bound is kept");
    };
    assert!(matches!(refused, Error::StorageFull { .. }), "{refused}");
    b.put("k", "other parts go on").await.unwrap();
    drain(&b, "q", &ids(0..accepted)).await;
    b.enqueue("q", large(accepted)).await.unwrap();
    b.close().await;
}

/// What is given up leaves its queue, whoever has filled the place of dead letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_without_room_takes_the_place_of_older_ones_or_is_lost() {
    const COUNT: usize = 12;
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        let mut config = servers.config("dead");
        config.dead_bytes_max = 4 << 20;
        let b = Backbone::nats(config).await.unwrap();
        let pulled = async |queue: &str, n: usize| {
            b.enqueue(queue, vec![Message::new(n.to_string(), vec![1; 500_000])]).await.unwrap();
            b.pull(queue, 1, WAIT, LONG).await.unwrap().pop().unwrap()
        };
        let mut lost = 0;
        for n in 0..COUNT {
            let delivery = pulled("own", n).await;
            match delivery.dead("no use").await {
                Ok(settled) => assert_eq!(settled, Settled::Done),
                Err(Error::StorageFull { .. }) => lost += b.bury(&delivery, "no use").await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        let letters = b.dead_letters("own", 0, COUNT).await.unwrap();
        let kept: Vec<usize> = letters.iter().map(|letter| letter.id.parse().unwrap()).collect();
        assert_eq!((kept.len(), lost), (8, 4));
        assert_eq!(kept, (lost..COUNT).collect::<Vec<_>>());
        // Another queue has none to give.
        let delivery = pulled("other", 0).await;
        assert_eq!(b.bury(&delivery, "no use").await.unwrap(), 1);
        comes_to(&b, "other", |depth| depth == Depth::default()).await;
        assert_eq!(b.depth("own").await.unwrap().dead, 8);
        b.close().await;
    }
}

/// New work is refused before leases are, and what takes no key any more is not ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_near_their_bound_are_told_and_full_ones_are_not_ready() {
    for release in BOTH {
        let servers = Servers::start(release, 1).await;
        let mut config = servers.config("keys");
        config.keys_bytes_max = 16 << 20;
        let b = Backbone::nats(config).await.unwrap();
        let put = async |n: usize| b.put(&format!("k/{n}"), vec![1; 1_000_000]).await.map(drop);
        let (mut kept, mut refused) = (0, Vec::new());
        while let Ok(()) = put(kept).await {
            kept += 1;
            refused.extend(b.check_room().await.err().map(|_| kept));
            assert!(kept < 20, "the bound is kept");
        }
        // Four fifths are 13.4 MB, and all of it is 16.8 MB.
        assert_eq!((refused.first(), kept), (Some(&14), 16));
        let room = b.room().await.unwrap().unwrap();
        assert!(
            room.bytes_max == 16 << 20 && (16_000_000..=room.bytes_max).contains(&room.bytes),
            "{room:?}"
        );
        assert!(matches!(put(kept).await, Err(Error::StorageFull { .. })));
        for told in [b.ping().await, b.check_room().await] {
            assert!(matches!(told, Err(Error::StorageFull { .. })), "{told:?}");
        }
        b.put_with_ttl("lease", "renewed", LONG).await.unwrap();
        assert!(matches!(b.delete("k/0", None).await, Ok(DeleteOutcome::Deleted(_))));
        b.ping().await.unwrap();
        assert!(b.check_room().await.is_err());
        for n in 1..3 {
            b.delete(&format!("k/{n}"), None).await.unwrap();
        }
        b.check_room().await.unwrap();
        b.close().await;
    }
}
