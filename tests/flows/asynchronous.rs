// SPDX-License-Identifier: Apache-2.0
//! Asynchronous calls from outside: by the commands, and with a service that is
//! killed again and again, over a store that misbehaves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use fanfold_storage::{ListEntry, ListOptions};
use fanfold_tests::{
    proxy::{Proxy, Troubles},
    service::Service,
    until,
};
use futures::TryStreamExt;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::{Client, has_ended};

/// Clients that call at the same time, and calls of each while one service lives.
const CLIENTS: usize = 4;
const CALLS: usize = 60;

/// What a function is asked for, by the number of the call.
fn how(number: usize) -> &'static str {
    match number % 20 {
        3 => "panic",
        7 => "error-retryable",
        // Two seconds, so that it is sure to be killed.
        11 => "loop",
        _ => "well",
    }
}

/// What a client was promised: the id for each key.
type Promises = Arc<Mutex<BTreeMap<String, String>>>;

/// Calls under keys until the service is gone; false when it was not. What the
/// store's trouble refuses is called again.
async fn call(
    endpoint: String,
    token: String,
    keys: Vec<(String, &'static str)>,
    promises: Promises,
) -> bool {
    let http = reqwest::Client::new();
    for (key, how) in keys {
        let id = loop {
            let request = http.post(format!("{endpoint}/v1/functions/misbehave/invoke")).bearer_auth(&token);
            let request = request.header("prefer", "respond-async").header("idempotency-key", &key);
            let request = request.header("content-type", "application/json").body(json!(how).to_string());
            let Ok(response) = request.send().await else { return true };
            let status = response.status().as_u16();
            let Ok(body) = response.json::<Value>().await else { return true };
            if status == 202 {
                break body["id"].as_str().unwrap().to_owned();
            }
            assert!(matches!(status, 503 | 504) && body["retryable"] == true, "{body}");
        };
        if let Some(before) = promises.lock().await.insert(key.clone(), id.clone()) {
            assert_eq!(before, id, "{key} stands for two invocations");
        }
    }
    false
}

/// A service, and the trouble between it and its store.
struct World {
    folder: tempfile::TempDir,
    store: SocketAddr,
    proxy: Proxy,
}

impl World {
    async fn new(troubles: Troubles, seed: u64) -> Self {
        // Free until the store takes it.
        let store = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let proxy = Proxy::start(store, troubles, seed).await.unwrap();
        Self { folder: tempfile::tempdir().unwrap(), store, proxy }
    }

    /// Starts the service in calm.
    fn start(&self) -> Service {
        self.proxy.calm();
        let (store, proxy) = (self.store.to_string(), self.proxy.endpoint());
        let arguments = ["--s3-listen", &store, "--store-endpoint", &proxy];
        let service = Service::start_with(self.folder.path(), &arguments).unwrap();
        assert!(service.started_in < Duration::from_secs(5), "{:?}", service.started_in);
        service
    }
}

/// Calls, kills and calls again; then every promise has one end, and nothing else has.
/// Gives the number of requests to the store that met with trouble.
async fn promises_are_kept(kills: usize, troubles: Troubles) -> u64 {
    let seed = match std::env::var("FANFOLD_CHAOS_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => rand::random_range(0..u64::from(u32::MAX)),
    };
    eprintln!("FANFOLD_CHAOS_SEED={seed}");
    let mut draw = ChaCha8Rng::seed_from_u64(seed);
    let world = World::new(troubles, draw.random()).await;
    let mut service = world.start();
    Client::new(&service).deploy_folder("hostile/misbehave").await;
    let promises = Promises::default();
    let keys = |client: usize| (0..CALLS).map(move |n| (format!("key-{client}-{n}"), how(client + n)));
    for kill in 0..kills {
        world.proxy.troubled();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                // Those from before are called again, and must be what they were.
                let keys: Vec<_> = keys(client).take((kill + 1) * CALLS / kills).collect();
                tokio::spawn(call(
                    service.endpoint.clone(),
                    service.token.clone(),
                    keys,
                    Arc::clone(&promises),
                ))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(draw.random_range(50..900))).await;
        service.kill().unwrap();
        for client in clients {
            client.await.unwrap();
        }
        service = world.start();
        // Calls that run for seconds are under way at each death, and would have their
        // component quarantined: it is deployed again, which lifts that.
        Client::new(&service).deploy_folder("hostile/misbehave").await;
    }
    world.proxy.troubled();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (endpoint, token) = (service.endpoint.clone(), service.token.clone());
            tokio::spawn(call(endpoint, token, keys(client).collect(), Arc::clone(&promises)))
        })
        .collect();
    for client in clients {
        assert!(!client.await.unwrap());
    }
    world.proxy.calm();
    let promises = promises.lock().await;
    assert_eq!(promises.len(), CLIENTS * CALLS);
    let failed = settled(&service, &promises).await;
    let ids: BTreeSet<&String> = promises.values().collect();
    assert_eq!(ids.len(), promises.len(), "an invocation stands for two keys");
    assert_eq!(ends(&service).await.iter().collect::<BTreeSet<_>>(), ids);
    let letters = until_letters(&service, failed.len()).await;
    assert_eq!(letters.len(), failed.len(), "{letters:?} {failed:?}");
    assert_eq!(letters.into_iter().collect::<BTreeSet<_>>(), failed);
    world.proxy.counts().1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_ends_once_whatever_is_killed() {
    promises_are_kept(4, Troubles::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_ends_once_over_a_store_that_misbehaves() {
    let met = promises_are_kept(2, Troubles { busy: 15, slow: 5, cut: 3, stalled: 0, lost: 5 }).await;
    assert!(met > 20, "{met}");
}

/// The ids of all dead letters, once there are so many: they follow the ends.
async fn until_letters(service: &Service, count: usize) -> Vec<String> {
    let letters = async || -> Vec<String> {
        let list = ["invocations", "dead-letters", "--limit", "1000", "--output", "json"];
        let list: Value = serde_json::from_str(&service.ok(&list).unwrap()).unwrap();
        list["dead_letters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    until("all dead letters", letters, |letters| letters.len() >= count).await
}

/// Waits until everything has ended, checks each end, and gives the ids of those that failed.
async fn settled(service: &Service, promises: &BTreeMap<String, String>) -> BTreeSet<String> {
    let client = Client::new(service);
    let mut failed = BTreeSet::new();
    for (key, id) in promises {
        let ended = client.ended(&format!("/v1/invocations/{id}")).await;
        let (client, number) = key.strip_prefix("key-").unwrap().split_once('-').unwrap();
        let how = how(client.parse::<usize>().unwrap() + number.parse::<usize>().unwrap());
        let (state, attempts) = (ended["state"].as_str().unwrap(), ended["attempts"].as_u64().unwrap());
        assert!((1..=3).contains(&attempts), "{key}: {ended}");
        let code = ended["problem"]["code"].as_str();
        match how {
            "well" => assert!(state == "succeeded" || (state == "failed" && attempts == 3), "{key}: {ended}"),
            "error-retryable" => assert_eq!((state, attempts), ("failed", 3), "{key}: {ended}"),
            // Its process may have been killed three times under it.
            _ => assert!(state == "failed" && (code != Some("internal") || attempts == 3), "{key}: {ended}"),
        }
        if state == "failed" {
            failed.insert(id.clone());
        }
    }
    failed
}

/// The ids of all ends in the store.
async fn ends(service: &Service) -> Vec<String> {
    let store = service.store().unwrap();
    let prefix = fanfold_protocol::keys::INVOCATION_ENDS;
    let bucket = fanfold_protocol::keys::SYSTEM_BUCKET_DEFAULT;
    let listing = store.list(bucket, prefix, ListOptions::default());
    let listed: Vec<ListEntry> = listing.try_collect().await.unwrap();
    listed.iter().map(|entry| entry.name().strip_prefix(prefix).unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_commands_follow_an_asynchronous_call() {
    let service = Service::fresh().unwrap();
    service.deploy("hello").unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    let ended = async |id: &str| {
        let shown = async || -> Value {
            let shown = service.ok(&["invocations", "show", id, "--output", "json"]).unwrap();
            serde_json::from_str(&shown).unwrap()
        };
        until("the end of a call", shown, has_ended).await
    };
    let id = service.ok(&["invoke", "hello", "-d", "\"Ada\"", "--async"]).unwrap().trim().to_owned();
    service.ok(&["logs", &id, "-f"]).unwrap();
    assert_eq!(ended(&id).await["state"], "succeeded");
    assert_eq!(service.ok(&["invocations", "result", &id]).unwrap(), "\"hello, Ada\"");
    let as_json = service.ok(&["invocations", "result", &id, "--output", "json"]).unwrap();
    assert_eq!(as_json, "\"hello, Ada\"", "an answer in JSON is printed as it is");
    let shown = service.ok(&["invocations", "show", &id]).unwrap();
    let state = shown.lines().find_map(|line| line.strip_prefix("state")).map(str::trim);
    assert_eq!(state, Some("succeeded"), "{shown}");
    let late = service.run(&["invocations", "cancel", &id]).unwrap();
    assert_eq!(late.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&late.stderr).contains("found it succeeded"), "{late:?}");

    let accepted =
        service.ok(&["invoke", "misbehave", "-d", "\"panic\"", "--async", "--output", "json"]).unwrap();
    let accepted: Value = serde_json::from_str(&accepted).unwrap();
    let failed = accepted["id"].as_str().unwrap();
    assert_eq!(ended(failed).await["problem"]["code"], "guest-panicked");
    let refused = service.run(&["invocations", "result", failed]).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let until_letter = async |id: &str| {
        let letters = async || service.ok(&["invocations", "dead-letters"]).unwrap();
        until("its dead letter", letters, |letters| letters.contains(id)).await;
    };
    until_letter(failed).await;
    let replayed = service.ok(&["invocations", "replay", failed, "--output", "json"]).unwrap();
    let replayed: Value = serde_json::from_str(&replayed).unwrap();
    let again = replayed["replayed"][0]["id"].as_str().unwrap();
    assert_eq!(ended(again).await["origin"]["of"], failed);
    until_letter(again).await;
    // What a function was refused and passes on is its failure, as of a call that is waited for.
    let denied = service.ok(&["invoke", "misbehave", "-d", "\"read\"", "--async"]).unwrap();
    let denied = denied.trim();
    assert_eq!(ended(denied).await["problem"]["code"], "access-denied");
    let told = service.run(&["invocations", "result", denied]).unwrap();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    service.ok(&["invocations", "discard", "--all"]).unwrap();
    assert!(!service.ok(&["invocations", "dead-letters"]).unwrap().contains(again));

    // Two seconds are enough to be caught running.
    let running =
        service.ok(&["invoke", "misbehave", "-d", "\"loop\"", "--async"]).unwrap().trim().to_owned();
    assert!(service.ok(&["invocations", "ls"]).unwrap().contains(&running));
    service.ok(&["invocations", "cancel", &running]).unwrap();
    assert_eq!(ended(&running).await["state"], "cancelled");
    assert_eq!(service.run(&["invocations", "replay"]).unwrap().status.code(), Some(2));
}
