// SPDX-License-Identifier: Apache-2.0
//! Idempotency keys: the same key and request give the same answer for 24 h.
//!
//! The first call takes the key's record in the backbone and holds it by a short
//! lease while it runs; so a gateway that dies frees the key within seconds. A
//! call under a key runs on when its caller goes away, since the caller will
//! ask again. Answers that a retry may better (a full house, a store that does
//! not answer) are not remembered. The backbone is shared by all tenants, so what
//! is large goes to the tenant's own bucket, and what is kept is bounded by
//! [`super::remembered`].

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use fanfold_backbone::{CasOutcome, Change, Entry};
use fanfold_protocol::{
    ErrorKind, Problem, digest::Digest, invocation, keys, limits, names::FunctionRef, time, uri::ObjectUri,
};
use fanfold_storage::{ListEntry, ListOptions, PutOptions};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    call::{self, Call, Reply, Timing},
    framed,
};
use crate::{
    extract::HeldBody,
    problem::{internal, of_backbone, of_store},
    state::{App, AppState},
};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Keys of calls, apart from those of other requests.
const SCOPE: &str = "invoke";
/// The same for asynchronous calls, whose records say which call it became.
const ASYNC_SCOPE: &str = "invoke-async";
/// A call's hold on its key, and how often it is renewed.
const LEASE: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// A larger body goes into an object of its own.
const INLINE_BYTES_MAX: usize = 4 << 10;
/// Between two rounds of removing such objects when nobody can ask for them any more.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// The record of a key: this as a line of JSON, and behind it the body.
#[derive(Serialize, Deserialize)]
struct Stored {
    fingerprint: Digest,
    /// Absent while the call runs.
    answer: Option<Answer>,
}

/// The record of the key of an asynchronous call.
#[derive(Serialize, Deserialize)]
struct Promised {
    fingerprint: Digest,
    id: Uuid,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    id: Uuid,
    version: u32,
    timing: Timing,
    result: Result<Head, Problem>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    /// Where the body lies when it is not within the record.
    object: Option<ObjectUri>,
}

/// The key of a request.
///
/// # Errors
/// `invalid-request` for a key that is empty, long or not visible ASCII.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let shaped = (1..=limits::IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && values.next().is_none();
    if shaped {
        return Ok(Some(text.to_owned()));
    }
    Err(Problem::new(
        ErrorKind::InvalidRequest,
        format!(
            "Idempotency-Key must be one text of 1 to {} visible ASCII characters, found {value:?}; a UUID does well",
            limits::IDEMPOTENCY_KEY_BYTES_MAX
        ),
    ))
}

/// The answer to a call under a key, and whether it was remembered.
///
/// # Errors
/// `idempotency-conflict` when the key was used for another request;
/// `concurrency-limit` when the first call under it runs on and on, or too much is
/// remembered already; and as [`call::run`].
pub(crate) async fn once(
    app: AppState,
    key: &str,
    reference: &FunctionRef,
    call: Call,
    held: HeldBody,
) -> Result<(Reply, bool), Problem> {
    let record = keys::idempotency(SCOPE, &Digest::of(key.as_bytes()));
    let fingerprint = call::fingerprint(reference, &call.params, &call.request);
    let deadline = Instant::now() + call.timeout + LEASE;
    let revision = loop {
        let found = match app.backbone.get(&record).await.map_err(of_backbone)? {
            Some(entry) => entry,
            None => {
                app.remembered.check(Instant::now())?;
                match take(&app, &record, fingerprint).await? {
                    Ok(revision) => break revision,
                    Err(Some(entry)) => entry,
                    Err(None) => continue,
                }
            }
        };
        if let Some(reply) = remembered(&app, &found, fingerprint).await? {
            return Ok((reply, true));
        }
        if tokio::time::timeout_at(deadline, changed(&app, &record, found.revision)).await.is_err() {
            return Err(Problem::new(
                ErrorKind::ConcurrencyLimit,
                "expected the first call under this Idempotency-Key to end, it still runs; ask again in a moment",
            ));
        }
    };
    let owner = tokio::spawn(async move {
        // The body is in memory as long as the call runs, whoever waits for it.
        let _held = held;
        own(&app, &record, revision, fingerprint, call).await
    });
    Ok((owner.await.map_err(internal)??, false))
}

/// What the key of an asynchronous call stands for.
pub(crate) struct Promise {
    /// The invocation.
    pub(crate) id: Uuid,
    record: String,
    /// Of the record, when the key is used for the first time.
    revision: Option<u64>,
}

impl Promise {
    /// Finds or makes what a key stands for. Whoever got as far as this and no
    /// further has promised nothing: accepting a call under the same id again
    /// makes up for it.
    ///
    /// # Errors
    /// `idempotency-conflict`; `concurrency-limit` when too much is remembered already;
    /// or the backbone does not answer.
    pub(crate) async fn under(app: &App, key: &str, fingerprint: Digest) -> Result<Self, Problem> {
        let record = keys::idempotency(ASYNC_SCOPE, &Digest::of(key.as_bytes()));
        let id = Uuid::now_v7();
        let value = serde_json::to_vec(&Promised { fingerprint, id }).map_err(internal)?;
        loop {
            let window = limits::IDEMPOTENCY_WINDOW;
            let created = match app.remembered.check(Instant::now()) {
                Ok(()) => app.backbone.create_with_ttl(&record, value.clone(), window).await,
                // What was promised before is kept all the same.
                Err(full) => match app.backbone.get(&record).await.map_err(of_backbone)? {
                    Some(entry) => Ok(CasOutcome::Conflict(Some(entry))),
                    None => return Err(full),
                },
            };
            match created.map_err(of_backbone)? {
                CasOutcome::Stored(revision) => {
                    app.remembered.note(value.len(), Instant::now());
                    return Ok(Self { id, record, revision: Some(revision) });
                }
                CasOutcome::Conflict(Some(entry)) => {
                    let found: Promised = serde_json::from_slice(&entry.value).map_err(internal)?;
                    if found.fingerprint != fingerprint {
                        return Err(conflict());
                    }
                    return Ok(Self { id: found.id, record, revision: None });
                }
                CasOutcome::Conflict(None) => {}
            }
        }
    }

    /// Whether the key was used before.
    pub(crate) fn is_kept(&self) -> bool {
        self.revision.is_none()
    }

    /// Frees the key of a call that was refused, unless it was used before.
    pub(crate) async fn withdraw(self, app: &App) {
        let Some(revision) = self.revision else { return };
        if let Err(error) = app.backbone.delete(&self.record, Some(revision)).await {
            tracing::warn!(%error, record = self.record, "an idempotency key was not freed");
        }
    }
}

/// Takes the key; what is there instead when that fails.
async fn take(app: &App, record: &str, fingerprint: Digest) -> Result<Result<u64, Option<Entry>>, Problem> {
    let running = encode(&Stored { fingerprint, answer: None }, &[])?;
    let outcome = app.backbone.create_with_ttl(record, running, LEASE).await.map_err(of_backbone)?;
    Ok(match outcome {
        CasOutcome::Stored(revision) => Ok(revision),
        CasOutcome::Conflict(entry) => Err(entry),
    })
}

fn conflict() -> Problem {
    Problem::new(
        ErrorKind::IdempotencyConflict,
        "expected the request that this Idempotency-Key was first used with, found another function, query, \
         parameters or body; use a new key for a new request",
    )
}

/// Waits until the record is another one, or gone.
async fn changed(app: &App, record: &str, revision: u64) -> Result<(), Problem> {
    let mut watch = app.backbone.watch(record).await.map_err(of_backbone)?;
    let mut seen = false;
    while let Some(change) = watch.next().await {
        match change {
            Change::Put { entry, .. } if entry.revision == revision => seen = true,
            Change::Synced if seen => {}
            _ => break,
        }
    }
    Ok(())
}

/// The answer in a record, unless the call still runs.
async fn remembered(app: &App, entry: &Entry, fingerprint: Digest) -> Result<Option<Reply>, Problem> {
    let (stored, body) = decode(&entry.value)?;
    if stored.fingerprint != fingerprint {
        return Err(conflict());
    }
    let Some(answer) = stored.answer else { return Ok(None) };
    let Answer { id, version, timing, result } = answer;
    let result = match result {
        Ok(Head { status, headers, object }) => {
            let body = match object {
                Some(uri) => app.store.get(&uri, None).await.map_err(of_store)?,
                None => body,
            };
            Ok(invocation::Response { status, headers, body })
        }
        Err(problem) => Err(problem),
    };
    Ok(Some(Reply { id, version, timing, result }))
}

/// Runs the call while the key is held, and remembers what it gave.
async fn own(
    app: &App,
    record: &str,
    mut revision: u64,
    fingerprint: Digest,
    call: Call,
) -> Result<Reply, Problem> {
    let mut running = std::pin::pin!(call::run(app, call));
    let begun = Instant::now() + RENEW_EVERY;
    let mut renew = tokio::time::interval_at(begun, RENEW_EVERY);
    let outcome = loop {
        tokio::select! {
            outcome = running.as_mut() => break outcome,
            _ = renew.tick() => {
                let value = encode(&Stored { fingerprint, answer: None }, &[])?;
                match app.backbone.update_with_ttl(record, value, revision, LEASE).await {
                    Ok(CasOutcome::Stored(renewed)) => revision = renewed,
                    // Nothing is remembered then, since the revision is not ours any more.
                    Ok(CasOutcome::Conflict(_)) => tracing::warn!(record, "the hold on an idempotency key was lost"),
                    Err(error) => tracing::warn!(%error, record, "the hold on an idempotency key was not renewed"),
                }
            }
        }
    };
    let remember =
        outcome.as_ref().is_ok_and(|reply| reply.result.as_ref().err().is_none_or(|p| !p.retryable()));
    let kept = match &outcome {
        Ok(reply) if remember => keep(app, record, revision, fingerprint, reply).await,
        _ => app.backbone.delete(record, Some(revision)).await.map(drop).map_err(of_backbone),
    };
    if let Err(problem) = kept {
        // The function has run: its caller gets the answer all the same.
        tracing::warn!(record, detail = %problem.detail, "an answer under an idempotency key was not remembered");
    }
    outcome
}

async fn keep(
    app: &App,
    record: &str,
    revision: u64,
    fingerprint: Digest,
    reply: &Reply,
) -> Result<(), Problem> {
    let (result, inline) = match &reply.result {
        Ok(response) => {
            let (object, inline) = stow(app, reply.id, &response.body).await?;
            (Ok(Head { status: response.status, headers: response.headers.clone(), object }), inline)
        }
        Err(problem) => (Err(problem.clone()), Bytes::new()),
    };
    let answer = Answer { id: reply.id, version: reply.version, timing: reply.timing, result };
    let value = encode(&Stored { fingerprint, answer: Some(answer) }, &inline)?;
    let (bytes, window) = (value.len(), limits::IDEMPOTENCY_WINDOW);
    match app.backbone.update_with_ttl(record, value, revision, window).await.map_err(of_backbone)? {
        CasOutcome::Stored(_) => {
            app.remembered.note(bytes, Instant::now());
            Ok(())
        }
        CasOutcome::Conflict(_) => Err(internal("another call took over the idempotency key")),
    }
}

/// Puts a large body into an object; a small one stays.
async fn stow(app: &App, id: Uuid, body: &Bytes) -> Result<(Option<ObjectUri>, Bytes), Problem> {
    if body.len() <= INLINE_BYTES_MAX {
        return Ok((None, body.clone()));
    }
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::idempotency_body(&id))?;
    let options = PutOptions::typed("application/octet-stream");
    app.store.put(&uri, body.clone(), options).await.map_err(of_store)?;
    Ok((Some(uri), Bytes::new()))
}

/// Removes bodies whose records have lapsed, now and every hour, for ever.
pub(crate) async fn sweep(app: AppState) {
    loop {
        if let Err(error) = sweep_once(&app).await {
            tracing::warn!(%error, "remembered answers could not be swept; this is tried again in an hour");
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn sweep_once(app: &App) -> fanfold_storage::Result<()> {
    let bucket = &app.config.tenant.system_bucket;
    let listing = app.store.list(bucket, keys::idempotency_bodies(), ListOptions::default());
    let now = time::now();
    let lapsed: Vec<String> = listing
        .try_filter_map(|entry| {
            let old = match entry {
                ListEntry::Object { key, last_modified, .. }
                    if now.since(last_modified) > limits::IDEMPOTENCY_WINDOW + SWEEP_EVERY =>
                {
                    Some(key)
                }
                _ => None,
            };
            std::future::ready(Ok(old))
        })
        .try_collect()
        .await?;
    app.store.delete_many(bucket, lapsed).await
}

fn encode(stored: &Stored, body: &[u8]) -> Result<Bytes, Problem> {
    framed::encode(stored, body)
}

fn decode(value: &Bytes) -> Result<(Stored, Bytes), Problem> {
    framed::decode(value).map_err(internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let head = Head { status: 200, headers: vec![("a".into(), "b\n".into())], object: None };
        let answer =
            Answer { id: Uuid::from_u128(1), version: 2, timing: Timing::default(), result: Ok(head) };
        let stored = Stored { fingerprint: Digest::of(b"x"), answer: Some(answer) };
        let (read, body) = decode(&encode(&stored, b"line\nline").unwrap()).unwrap();
        assert_eq!(read.fingerprint, stored.fingerprint);
        assert_eq!(body, b"line\nline"[..]);
        let head = read.answer.unwrap().result.unwrap();
        assert_eq!(head.headers, [("a".to_owned(), "b\n".to_owned())]);
    }
}
