// SPDX-License-Identifier: Apache-2.0
//! W1: a worker's credentials do a worker's work and nothing else, on real servers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use fanfold_backbone::{
    Backbone, Change, Event, Message, NatsConfig, NatsCredentials, NatsUser, Needs, Secret, Settled,
};
use futures::StreamExt;
use futures::future::join_all;
use tokio::time::timeout;

use crate::conformance::until;
use crate::faults::WAIT;
use crate::server::{Release, Servers};

const LEASE: Duration = Duration::from_secs(30);
const NEEDS: Needs<'static> = Needs {
    reads: &["workers/", "cancels/"],
    writes: &["workers/"],
    pulls: &["tasks"],
    hears: &["jobs.*.cancel"],
    tells: &["jobs.*.commits"],
};

/// A user's own connection, and what the server reproached it with.
struct Rogue {
    client: Client,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Rogue {
    async fn connect(url: &str, user: &str) -> Self {
        let errors = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&errors);
        let client = ConnectOptions::new()
            .user_and_password(user.to_owned(), format!("{user}-password"))
            .custom_inbox_prefix(NatsConfig::inbox(user))
            .event_callback(move |event| {
                heard.lock().unwrap().push(event.to_string());
                async {}
            })
            .connect(url)
            .await
            .unwrap();
        Self { client, errors }
    }

    async fn publish(&self, subject: &str, payload: &str) {
        self.client.publish(subject.to_owned(), payload.to_owned().into()).await.unwrap();
        self.client.flush().await.unwrap();
        self.reproached("Publish", subject).await;
    }

    async fn subscribe(&self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.client.flush().await.unwrap();
        self.reproached("Subscription", subject).await;
    }

    /// Waits until the server has said that this is not allowed.
    async fn reproached(&self, what: &str, subject: &str) {
        let wanted = format!("permissions violation for {what} to \"{subject}\"").to_lowercase();
        let told = async || self.errors.lock().unwrap().clone();
        until(&wanted, told, |told| told.iter().any(|error| error.to_lowercase().contains(&wanted))).await;
    }
}

fn as_user(config: &NatsConfig, user: &str, restricted: bool) -> NatsConfig {
    let password = Secret::new(format!("{user}-password"));
    NatsConfig {
        credentials: NatsCredentials::Password { user: user.to_owned(), password },
        restricted,
        ..config.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_does_its_work_and_nothing_else() {
    join_all([Release::Debian, Release::Current].map(check)).await;
}

async fn check(release: Release) {
    let mut config = NatsConfig::new(["nats://127.0.0.1:1"]);
    (config.prefix, config.shards) = ("strict".to_owned(), 2);
    let allowed = config.worker_permissions("w", NEEDS).unwrap();
    let user = |name: &str| {
        let password = Secret::new(format!("{name}-password"));
        NatsUser { name: name.to_owned(), password }
    };
    let accounts = config.accounts(&[user("gateway")], &[user("w"), user("v")], NEEDS).unwrap();
    let servers = Servers::start_with(release, 1, &accounts).await;
    let config = servers.config("strict");
    let full = Backbone::nats(as_user(&config, "gateway", false)).await.unwrap();
    full.put("functions/f", "secret").await.unwrap();
    full.put("cancels/1", "").await.unwrap();
    full.enqueue("tasks", (0..5).map(|n| Message::new(n.to_string(), "")).collect()).await.unwrap();
    full.enqueue("invocations", vec![Message::new("i", "")]).await.unwrap();

    let worker = Backbone::nats(as_user(&config, "w", true)).await.unwrap();
    let other = Backbone::nats(as_user(&config, "v", true)).await.unwrap();
    let missing = worker.pull("tasks", 1, Duration::ZERO, LEASE).await.unwrap_err();
    assert!(missing.is_retryable() && missing.to_string().contains("start a gateway"), "{missing}");
    full.keep_queue("tasks").await.unwrap();
    does_its_work(&full, &worker).await;

    // Whatever it tries beyond that, past our own client.
    let (rogue, url) = (Rogue::connect(&servers.url(0), "w").await, servers.url(0));
    let next = allowed.publish.iter().find(|subject| subject.contains("MSG.NEXT.strict-work")).unwrap();
    let (stream, consumer) = next.rsplit_once("NEXT.").unwrap().1.split_once('.').unwrap();
    let ready = format!("strict.work.{}.ready.tasks", stream.trim_start_matches("strict-work-"));
    for subject in [
        "$JS.API.STREAM.DELETE.strict-keys".to_owned(),
        "strict.api.STREAM.DELETE.strict-keys".to_owned(),
        format!("$JS.API.STREAM.PURGE.{stream}"),
        format!("$JS.API.STREAM.UPDATE.{stream}"),
        format!("$JS.API.STREAM.MSG.DELETE.{stream}"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"),
        // Which would change it for all workers.
        format!("strict.api.CONSUMER.CREATE.{stream}.{consumer}.{ready}"),
        format!("strict.api.CONSUMER.DURABLE.CREATE.{stream}.{consumer}"),
        "$JS.API.STREAM.MSG.GET.strict-keys".to_owned(),
        "strict.api.DIRECT.GET.strict-keys.strict.keys.functions.f".to_owned(),
        "$JS.API.DIRECT.GET.strict-keys.strict.keys.workers.w".to_owned(),
        "$JS.API.DIRECT.GET.strict-keys".to_owned(),
        "strict.api.CONSUMER.CREATE.strict-keys.x.strict.keys.>".to_owned(),
        "$JS.API.CONSUMER.CREATE.strict-keys".to_owned(),
        "strict.keys.functions.f".to_owned(),
        "strict.events.jobs.1.cancel".to_owned(),
        ready,
    ] {
        rogue.publish(&subject, "{}").await;
    }
    for subject in ["strict.>", "_INBOX.>", "_INBOX_other.>", "$JS.>"] {
        rogue.subscribe(subject).await;
    }
    forges_nothing(&rogue, &full, &other, stream).await;
    // The completion of what another was given.
    let gateway = Rogue::connect(&url, "gateway").await;
    let inbox = "_INBOX.completion";
    let mut given = gateway.client.subscribe(inbox).await.unwrap();
    gateway
        .client
        .publish_with_reply(next.replace("strict.api", "$JS.API"), inbox, "1".into())
        .await
        .unwrap();
    let message = timeout(WAIT, given.next()).await.unwrap().unwrap();
    rogue.publish(message.reply.unwrap().as_str(), "+ACK").await;
    assert_eq!(full.depth("tasks").await.unwrap().leased, 1, "{release:?}");
    assert_eq!(full.get("functions/f").await.unwrap().unwrap().value, "secret");
    let delete = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
    is_given_what_it_lost(&full, &worker, &gateway, delete).await;
    for b in [worker, other, full] {
        b.close().await;
    }
}

/// A worker whose consumer was deleted waits for a gateway to make it again.
async fn is_given_what_it_lost(full: &Backbone, worker: &Backbone, gateway: &Rogue, delete: String) {
    let (begun, inbox) = (Instant::now(), "_INBOX.deleted");
    let mut answers = gateway.client.subscribe(inbox).await.unwrap();
    gateway.client.publish_with_reply(delete, inbox, "".into()).await.unwrap();
    let deleted = timeout(WAIT, answers.next()).await.unwrap().unwrap().payload;
    assert!(String::from_utf8_lossy(&deleted).contains("\"success\":true"), "{deleted:?}");
    full.enqueue("tasks", vec![Message::new("later", "")]).await.unwrap();
    loop {
        match worker.pull("tasks", 9, Duration::from_secs(1), LEASE).await {
            Ok(pulled) if pulled.iter().any(|delivery| delivery.id == "later") => return,
            Ok(_) => {}
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(begun.elapsed() < 3 * WAIT, "it is not made again");
    }
}

/// Whoever asks names where the answer goes, and the servers publish it by their own right: what it may ask must not
/// become a record, a message, an event or a request of the deployment's.
async fn forges_nothing(rogue: &Rogue, full: &Backbone, other: &Backbone, stream: &str) {
    let mut cancels = other.subscribe("jobs.*.cancel").await.unwrap();
    let before = full.depth("tasks").await.unwrap();
    assert!(before.ready > 0, "{before:?}");
    let shard = stream.trim_start_matches("strict-work-");
    let ask = "strict.api.DIRECT.GET.strict-keys.strict.keys.workers.";
    // The second is what a request that takes nothing wants.
    for payload in ["FORGED", ""] {
        rogue.client.request("strict.keys.workers.w", payload.into()).await.unwrap();
        for reply in [
            "strict.keys.functions.f".to_owned(),
            format!("strict.work.{shard}.ready.tasks"),
            "$JS.API.STREAM.DELETE.strict-keys".to_owned(),
            format!("$JS.API.STREAM.PURGE.{stream}"),
            "strict.api.STREAM.DELETE.strict-keys".to_owned(),
            "strict.events.jobs.1.cancel".to_owned(),
        ] {
            for (subject, payload) in [
                (format!("{ask}w"), ""),
                (format!("{ask}nobody"), ""),
                ("strict.keys.workers.w".to_owned(), payload),
            ] {
                rogue.client.publish_with_reply(subject, reply.clone(), payload.into()).await.unwrap();
            }
        }
    }
    rogue.client.flush().await.unwrap();
    // Nothing tells when the servers have answered all of them.
    assert!(timeout(Duration::from_secs(1), cancels.next()).await.is_err());
    assert_eq!(full.depth("tasks").await.unwrap(), before);
    assert_eq!(full.get("functions/f").await.unwrap().unwrap().value, "secret");
    full.put("functions/f", "secret").await.unwrap();
}

/// All that a worker does with its backbone.
async fn does_its_work(full: &Backbone, worker: &Backbone) {
    worker.ping().await.unwrap();
    worker.check_room().await.unwrap();
    let made = worker.create_with_ttl("workers/w", "1", LEASE).await.unwrap().revision().unwrap();
    let kept = worker.update_with_ttl("workers/w", "2", made, LEASE).await.unwrap().revision().unwrap();
    assert!(!worker.create("workers/w", "3").await.unwrap().is_stored());
    assert_eq!(worker.list("workers/").await.unwrap().len(), 1);
    assert!(
        worker.get("cancels/1").await.unwrap().is_some() && worker.get("cancels/2").await.unwrap().is_none()
    );
    let mut watch = worker.watch("workers/").await.unwrap();
    assert!(matches!(watch.next().await, Some(Change::Put { .. })));
    assert_eq!(watch.next().await, Some(Change::Synced));
    full.put("workers/v", "1").await.unwrap();
    let changed = timeout(WAIT, watch.next()).await.unwrap();
    assert!(matches!(&changed, Some(Change::Put { key, .. }) if key == "workers/v"), "{changed:?}");
    worker.delete("workers/w", Some(kept)).await.unwrap();

    let pulled = worker.pull("tasks", 4, WAIT, LEASE).await.unwrap();
    assert_eq!(pulled.len(), 4);
    assert_eq!(pulled[0].extend(LEASE).await.unwrap(), Settled::Done);
    assert_eq!(pulled[0].ack().await.unwrap(), Settled::Done);
    assert_eq!(pulled[1].ack().await.unwrap(), Settled::Done);
    assert_eq!(pulled[2].nak(Duration::ZERO).await.unwrap(), Settled::Done);
    assert_eq!(pulled[3].dead("because").await.unwrap(), Settled::Done);
    let again = worker.pull("tasks", 1, WAIT, LEASE).await.unwrap();
    assert_eq!(again[0].ack().await.unwrap(), Settled::Done);
    assert_eq!(full.dead_letters("tasks", 0, 9).await.unwrap().len(), 1);

    let (mut told, mut cancels) =
        (full.subscribe("jobs.*.commits").await.unwrap(), worker.subscribe("jobs.*.cancel").await.unwrap());
    worker.publish("jobs.1.commits", "c").await.unwrap();
    full.publish("jobs.1.cancel", "x").await.unwrap();
    for heard in [timeout(WAIT, told.next()).await, timeout(WAIT, cancels.next()).await] {
        assert!(matches!(heard, Ok(Some(Event::Published { .. }))), "{heard:?}");
    }
    // What it has no right to is told as out of reach, soon.
    assert!(worker.get("functions/f").await.unwrap_err().is_retryable());
}
