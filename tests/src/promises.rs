// SPDX-License-Identifier: Apache-2.0
//! Asynchronous calls under trouble: a client that calls all the time, and a check of
//! what came of all that it was promised.
//!
//! Each call has a key of its own, and is made again until it is accepted. Afterwards:
//! every promise has one end, and nothing else has; each answer is that of its own call;
//! what was given up is a dead letter; and a key stands for the invocation that it stood for.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use fanfold_protocol::{keys, limits};
use fanfold_storage::{ListOptions, Store};
use futures::TryStreamExt;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};

use crate::{chaos::Address, hosts::SYSTEM_BUCKET};

/// Between two calls, and before one is made again.
const PAUSE: Duration = Duration::from_millis(200);
/// Until a call is accepted, and until one that is asked for has ended. Whoever ran one may be gone,
/// and it comes again after a lease of half a minute: this is for what would never end.
const SETTLED_MAX: Duration = Duration::from_secs(180);

/// What a call was promised, and when. All of it is for whoever reads a failed history.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "printed")]
struct Promise {
    key: String,
    started: Duration,
    acknowledged: Duration,
    /// The invocation that it was told of.
    id: String,
}

/// Who calls `hello` asynchronously.
pub struct Caller {
    name: String,
    address: Address,
    begun: Instant,
    promises: Vec<Promise>,
    calling: Option<Calling>,
}

/// A task that calls until it is told to stop.
struct Calling {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<Promise>>>,
}

impl Caller {
    /// Begins to call, under keys that begin with a name.
    pub fn start(address: &Address, name: &str) -> Self {
        let mut caller = Self {
            name: name.to_owned(),
            address: Arc::clone(address),
            begun: Instant::now(),
            promises: Vec::new(),
            calling: None,
        };
        caller.go_on();
        caller
    }

    /// Calls again after a [`Caller::rest`].
    pub fn go_on(&mut self) {
        let (stop, first) = (Arc::new(AtomicBool::new(false)), self.promises.len());
        let (address, name, stopping) = (Arc::clone(&self.address), self.name.clone(), Arc::clone(&stop));
        let task = tokio::spawn(call(address, name, first, self.begun, stopping));
        self.calling = Some(Calling { stop, task });
    }

    /// Calls no more, and waits until all has ended that was promised.
    ///
    /// # Errors
    /// A call was not accepted, or has not ended.
    pub async fn rest(&mut self) -> Result<()> {
        self.stop().await?;
        let http = client()?;
        for promise in &self.promises {
            ended(&http, &self.address, &promise.id).await?;
        }
        Ok(())
    }

    /// Calls no more, and checks that all was kept that was promised; what keys mean and dead letters as well,
    /// unless the backbone was lost, and they with it. Gives how many calls there were.
    ///
    /// # Errors
    /// What does not hold.
    pub async fn check(mut self, store: &Store, backbone_lasts: bool) -> Result<usize> {
        self.stop().await?;
        self.compare(store, backbone_lasts).await?;
        Ok(self.promises.len())
    }

    async fn stop(&mut self) -> Result<()> {
        let Some(Calling { stop, task }) = self.calling.take() else { return Ok(()) };
        stop.store(true, SeqCst);
        self.promises.extend(task.await??);
        Ok(())
    }

    async fn compare(&self, store: &Store, backbone_lasts: bool) -> Result<()> {
        let (http, mut failed) = (client()?, BTreeSet::new());
        for promise @ Promise { key, id, .. } in &self.promises {
            let shown = match ended(&http, &self.address, id).await {
                Ok(shown) => shown,
                Err(error) => {
                    let is_written = ends(store).await?.contains(id);
                    return Err(error.context(format!("{promise:?}; its end is in the store: {is_written}")));
                }
            };
            if shown["state"] == "succeeded" {
                let path = format!("/v1/invocations/{id}/result");
                let found = answer(request(&http, &self.address, Method::GET, &path)).await?;
                let expected = (200_u16, json!(format!("hello, {key}")));
                ensure!(found == expected, "expected {expected:?} of {id}, found {found:?}");
            } else {
                // Whoever ran it may have been lost each time.
                let is_given_up = shown["attempts"] == limits::ATTEMPTS_DEFAULT;
                ensure!(is_given_up, "expected {key} to succeed or to be given up, found {shown}");
                failed.insert(id.clone());
            }
            if backbone_lasts {
                let again = accepted(&http, &self.address, key).await?;
                ensure!(again == *id, "expected {key} to mean {id}, found {again}");
            }
        }
        let ids: BTreeSet<String> = self.promises.iter().map(|promise| promise.id.clone()).collect();
        ensure!(ids.len() == self.promises.len(), "expected an invocation for each key");
        let ends = ends(store).await?;
        ensure!(
            ends == ids,
            "expected an end for each promise, found {:?} without one and {:?} that nobody was promised",
            ids.difference(&ends).collect::<Vec<_>>(),
            ends.difference(&ids).collect::<Vec<_>>()
        );
        if backbone_lasts {
            until_letters(&http, &self.address, &failed).await?;
        }
        Ok(())
    }
}

async fn call(
    address: Address,
    name: String,
    first: usize,
    begun: Instant,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Promise>> {
    let (http, mut promises) = (client()?, Vec::new());
    while !stop.load(SeqCst) {
        let (key, started) = (format!("{name}-{}", first + promises.len()), begun.elapsed());
        let id = accepted(&http, &address, &key).await?;
        promises.push(Promise { key, started, acknowledged: begun.elapsed(), id });
        sleep(PAUSE).await;
    }
    Ok(promises)
}

/// Calls until the call is accepted; a refusal that will not change is an error.
async fn accepted(http: &Client, address: &Address, key: &str) -> Result<String> {
    let begun = Instant::now();
    loop {
        let call = request(http, address, Method::POST, "/v1/functions/hello/invoke").json(&json!(key));
        match answer(call.header("prefer", "respond-async").header("idempotency-key", key)).await {
            Ok((202, promise)) => {
                return Ok(promise["id"].as_str().context("expected the id of an invocation")?.to_owned());
            }
            Ok((_, problem)) if problem["retryable"] == true => {}
            Ok((status, problem)) => bail!("expected a call to be accepted, found {status}: {problem}"),
            // It was lost, or its answer was.
            Err(_) => {}
        }
        ensure!(begun.elapsed() < SETTLED_MAX, "expected the call {key} to be accepted in the end");
        sleep(PAUSE).await;
    }
}

/// What an invocation became, once it has.
async fn ended(http: &Client, address: &Address, id: &str) -> Result<Value> {
    let (begun, path) = (Instant::now(), format!("/v1/invocations/{id}"));
    loop {
        let asked = answer(request(http, address, Method::GET, &path)).await;
        if let Ok((200, shown)) = &asked
            && !matches!(shown["state"].as_str(), Some("queued" | "running"))
        {
            return Ok(shown.clone());
        }
        ensure!(begun.elapsed() < SETTLED_MAX, "expected the invocation {id} to end, found {asked:?}");
        sleep(PAUSE).await;
    }
}

/// The ids of all ends in the store.
async fn ends(store: &Store) -> Result<BTreeSet<String>> {
    let listed = store.list(SYSTEM_BUCKET, keys::INVOCATION_ENDS, ListOptions::default());
    let entries: Vec<_> = listed.try_collect().await?;
    let ids = entries.iter().filter_map(|entry| entry.name().strip_prefix(keys::INVOCATION_ENDS));
    Ok(ids.map(str::to_owned).collect())
}

/// Waits until just these are dead letters, which they become a moment after their ends.
async fn until_letters(http: &Client, address: &Address, failed: &BTreeSet<String>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let path = "/v1/invocations/dead-letters?limit=100";
        let asked = answer(request(http, address, Method::GET, path)).await;
        let letters = asked.as_ref().ok().and_then(|(_, page)| page["dead_letters"].as_array());
        // A message that was delivered as several has a letter for each, under an id that ends in its own.
        let ids = |letters: &Vec<Value>| -> BTreeSet<String> {
            let ids = letters.iter().filter_map(|letter| letter["id"].as_str()?.rsplit(' ').next());
            ids.map(str::to_owned).collect()
        };
        if letters.map(ids).as_ref() == Some(failed) {
            return Ok(());
        }
        ensure!(begun.elapsed() < SETTLED_MAX, "expected the dead letters of {failed:?}, found {asked:?}");
        sleep(PAUSE).await;
    }
}

fn client() -> Result<Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().timeout(Duration::from_secs(30)).build()?)
}

/// A request to whichever gateway is asked now.
fn request(http: &Client, address: &Address, method: Method, path: &str) -> RequestBuilder {
    let (endpoint, token) = address.lock().unwrap_or_else(PoisonError::into_inner).clone();
    http.request(method, format!("{endpoint}{path}")).bearer_auth(token)
}

async fn answer(request: RequestBuilder) -> Result<(u16, Value)> {
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}
