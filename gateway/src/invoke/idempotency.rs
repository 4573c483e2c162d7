// SPDX-License-Identifier: Apache-2.0
//! Idempotency keys: the same key and request give the same answer for 24 h.
//!
//! The first call takes the key's record in the backbone and holds it by a short
//! lease while it runs ([`hold`](super::hold)); so a gateway that dies frees the key
//! within seconds. A call under a key runs on when its caller goes away, since the
//! caller will ask again. Answers that a retry may better (a full house, a store that
//! does not answer) are not remembered. The backbone is shared by all tenants, so what
//! is large goes to the tenant's own bucket, and what is kept is bounded by
//! [`super::remembered`]. A record says when its time is over, by the wall clock: the sweeps of
//! what lies in the store go by that one, while an embedded backbone counts a time to live
//! only while it is open. Invariant: a record whose time is over, or whose body is gone, is
//! absent, and is written over at its revision.

use std::time::Duration;

use bytes::Bytes;
use fanfold_backbone::{CasOutcome, Change};
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    invocation, keys, limits,
    time::{self, Timestamp},
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use super::{
    call::{self, Call, Reply, Timing},
    framed,
    hold::Hold,
};
use crate::{
    extract::HeldBody,
    problem::{internal, of_backbone, of_store},
    state::{App, AppState},
};

/// Keys of calls, apart from those of other requests.
const SCOPE: &str = "invoke";
/// The same for asynchronous calls, whose records say which call it became.
const ASYNC_SCOPE: &str = "invoke-async";
/// Before a key is looked at again that a call of this process holds without a record.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often it is tried to remember an answer, half a lease apart.
const KEEPS: u32 = 5;
/// A larger body goes into an object of its own.
const INLINE_BYTES_MAX: usize = 4 << 10;
/// Between two rounds of removing such objects when nobody can ask for them any more.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// The record of a key: this as a line of JSON, and behind it the body.
#[derive(Serialize, Deserialize)]
struct Stored {
    fingerprint: Digest,
    /// The call that wrote it; gateways of an earlier release name none.
    owner: Option<Uuid>,
    /// Until when the answer is given again; gateways of an earlier release do not say.
    expires_at: Option<Timestamp>,
    /// Absent while the call runs.
    answer: Option<Answer>,
}

/// The record of the key of an asynchronous call.
#[derive(Serialize, Deserialize)]
struct Promised {
    fingerprint: Digest,
    id: Uuid,
    /// Until when; gateways of an earlier release do not say.
    expires_at: Option<Timestamp>,
}

/// When the time of what is remembered now is over.
fn end() -> Timestamp {
    time::now().later(limits::IDEMPOTENCY_WINDOW)
}

fn is_over(expires_at: Option<Timestamp>) -> bool {
    expires_at.is_some_and(|end| end <= time::now())
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

/// The answer to a call under a key, and whether it was remembered. `call` may be why none
/// can be made: what was answered before is the answer all the same.
///
/// # Errors
/// `idempotency-conflict` when the key was used for another request;
/// `concurrency-limit` when the first call under it runs on and on, or too much is
/// remembered already; `storage-full` when the backbone is short of room; why no call
/// can be made; and as [`call::run`].
pub(crate) async fn once(
    app: AppState,
    key: &str,
    fingerprint: Digest,
    call: Result<Call, Problem>,
    held: HeldBody,
) -> Result<(Reply, bool), Problem> {
    let record = keys::idempotency(SCOPE, &Digest::of(key.as_bytes()));
    let most = call.as_ref().map_or(limits::SYNC_TIMEOUT_DEFAULT, |call| call.timeout);
    let patience = most + app.config.key_lease;
    let mut gone = None;
    let hold = loop {
        let finding = find(&app, &record, fingerprint, call.as_ref().err(), gone);
        let found = timeout(patience, finding).await.unwrap_or_else(|_| {
            Err(Problem::new(
                ErrorKind::ConcurrencyLimit,
                "expected the first call under this Idempotency-Key to end, it still runs; ask again in a moment",
            ))
        });
        match found? {
            Found::Free(hold) => break hold,
            Found::Answer(answer, body, revision) => match recall(&app, answer, body).await? {
                Some(reply) => return Ok((reply, true)),
                None => gone = Some(revision),
            },
        }
    };
    let (told, outcome) = oneshot::channel();
    tokio::spawn(own(app, hold, fingerprint, call?, held, told));
    // Closed without a word where the call panicked.
    Ok((outcome.await.map_err(internal)??, false))
}

/// What a key stands for.
enum Found {
    /// The answer of an earlier call, its body where that lies within the record, and the
    /// record's revision.
    Answer(Answer, Bytes, u64),
    /// Nothing: whoever found it holds the key now.
    Free(Hold),
}

/// Waits until no other call holds the key. It is not taken where the call is refused. The record
/// of the revision `gone` stands for nothing.
async fn find(
    app: &AppState,
    record: &str,
    fingerprint: Digest,
    refused: Option<&Problem>,
    gone: Option<u64>,
) -> Result<Found, Problem> {
    let owner = Uuid::now_v7();
    let running = Stored { fingerprint, owner: Some(owner), expires_at: None, answer: None };
    let running = encode(&running, &[])?;
    loop {
        let mut over = None;
        if let Some(entry) = app.backbone.get(record).await.map_err(of_backbone)? {
            let (stored, body) = decode(&entry.value)?;
            if is_over(stored.expires_at) || gone == Some(entry.revision) {
                over = Some(entry.revision);
            } else if stored.fingerprint != fingerprint {
                return Err(conflict());
            } else if let Some(answer) = stored.answer {
                return Ok(Found::Answer(answer, body, entry.revision));
            } else {
                changed(app, record, entry.revision).await?;
                continue;
            }
        }
        let Some(mut hold) = Hold::begin(app, record, owner, running.clone(), over) else {
            // The record is about to be made, or lapsed and will be made again.
            sleep(LOOK_AGAIN).await;
            continue;
        };
        if let Some(problem) = refused {
            return Err(problem.clone());
        }
        app.remembered.check(&app.backbone, Instant::now()).await?;
        if hold.renew().await.map_err(of_backbone)? {
            return Ok(Found::Free(hold));
        }
    }
}

/// What the key of an asynchronous call stands for.
pub(crate) struct Promise {
    /// The invocation.
    pub(crate) id: Uuid,
    record: String,
    /// The record's revision and the bytes in it, when the key is used for the first time.
    made: Option<(u64, usize)>,
}

impl Promise {
    /// Finds or makes what a key stands for. Whoever got as far as this and no
    /// further has promised nothing: accepting a call under the same id again
    /// makes up for it.
    ///
    /// # Errors
    /// `idempotency-conflict`; `concurrency-limit` when too much is remembered already;
    /// `storage-full`; or the backbone does not answer.
    pub(crate) async fn under(app: &App, key: &str, fingerprint: Digest) -> Result<Self, Problem> {
        let record = keys::idempotency(ASYNC_SCOPE, &Digest::of(key.as_bytes()));
        let id = Uuid::now_v7();
        let value = serde_json::to_vec(&Promised { fingerprint, id, expires_at: Some(end()) });
        let value = Bytes::from(value.map_err(internal)?);
        // The revision of a record whose time is over.
        let mut over = None;
        loop {
            let room = app.remembered.check(&app.backbone, Instant::now()).await;
            let held = match &room {
                Ok(()) => match write(app, &record, value.clone(), over).await? {
                    CasOutcome::Stored(revision) => {
                        app.remembered.note(value.len(), Instant::now());
                        return Ok(Self { id, record, made: Some((revision, value.len())) });
                    }
                    CasOutcome::Conflict(held) => held,
                },
                // What was promised before is kept all the same.
                Err(_) => app.backbone.get(&record).await.map_err(of_backbone)?,
            };
            if let Some(entry) = &held {
                let found: Promised = serde_json::from_slice(&entry.value).map_err(internal)?;
                if !is_over(found.expires_at) {
                    let kept = Self { id: found.id, record, made: None };
                    return if found.fingerprint == fingerprint { Ok(kept) } else { Err(conflict()) };
                }
            }
            room?;
            over = held.map(|entry| entry.revision);
        }
    }

    /// Whether the key was used before.
    pub(crate) fn is_kept(&self) -> bool {
        self.made.is_none()
    }

    /// Frees the key of a call that was refused, unless it was used before.
    pub(crate) async fn withdraw(self, app: &App) {
        let Some((revision, bytes)) = self.made else { return };
        match app.backbone.delete(&self.record, Some(revision)).await {
            Ok(_) => app.remembered.forget(bytes),
            Err(error) => tracing::warn!(%error, record = self.record, "an idempotency key was not freed"),
        }
    }
}

/// Writes a promise where there is none, or over one of this revision.
async fn write(app: &App, record: &str, value: Bytes, over: Option<u64>) -> Result<CasOutcome, Problem> {
    let (backbone, window) = (&app.backbone, limits::IDEMPOTENCY_WINDOW);
    let written = match over {
        Some(revision) => backbone.update_with_ttl(record, value, revision, window).await,
        None => backbone.create_with_ttl(record, value, window).await,
    };
    written.map_err(of_backbone)
}

fn conflict() -> Problem {
    Problem::new(
        ErrorKind::IdempotencyConflict,
        "expected the request that this Idempotency-Key was first used with, found another function, query, \
         parameters, type of body or body; use a new key for a new request",
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

/// The answer that a record holds; none when its body is gone.
async fn recall(app: &App, answer: Answer, body: Bytes) -> Result<Option<Reply>, Problem> {
    let Answer { id, version, timing, result } = answer;
    let result = match result {
        Ok(Head { status, headers, object }) => {
            let body = match object {
                Some(uri) => match app.store.get(&uri, None).await {
                    Err(fanfold_storage::Error::NotFound { .. }) => {
                        tracing::warn!(%id, %uri, "the body of a remembered answer is gone; its call runs again");
                        return Ok(None);
                    }
                    read => read.map_err(of_store)?,
                },
                None => body,
            };
            Ok(invocation::Response { status, headers, body })
        }
        Err(problem) => Err(problem),
    };
    Ok(Some(Reply { id, version, timing, result }))
}

/// Runs the call while the key is held, tells whoever waits what it gave, and remembers it.
async fn own(
    app: AppState,
    mut hold: Hold,
    fingerprint: Digest,
    call: Call,
    held: HeldBody,
    told: oneshot::Sender<Result<Reply, Problem>>,
) {
    let outcome = hold.during(call::run(&app, call)).await;
    // The body was in memory as long as the call ran, whoever waited for it.
    drop(held);
    let lasting = |reply: &&Reply| reply.result.as_ref().err().is_none_or(|problem| !problem.retryable());
    let Some(reply) = outcome.as_ref().ok().filter(lasting).cloned() else {
        hold.release().await;
        drop(told.send(outcome));
        return;
    };
    let kept = keep(&app, &mut hold, fingerprint, &reply).await;
    // The function has run: its caller gets the answer all the same.
    drop(told.send(outcome));
    if let Err(problem) = kept {
        keep_later(&app, hold, fingerprint, reply, problem).await;
    }
}

/// Remembers an answer, unless another call has the key by now.
async fn keep(app: &App, hold: &mut Hold, fingerprint: Digest, reply: &Reply) -> Result<(), Problem> {
    let (result, inline) = match &reply.result {
        Ok(response) => {
            let (object, inline) = hold.during(stow(app, reply.id, &response.body)).await?;
            (Ok(Head { status: response.status, headers: response.headers.clone(), object }), inline)
        }
        Err(problem) => (Err(problem.clone()), Bytes::new()),
    };
    let answer = Answer { id: reply.id, version: reply.version, timing: reply.timing, result };
    let (owner, expires_at) = (Some(hold.owner()), Some(end()));
    let stored = Stored { fingerprint, owner, expires_at, answer: Some(answer) };
    let value = encode(&stored, &inline)?;
    let bytes = value.len();
    if hold.write(value, limits::IDEMPOTENCY_WINDOW).await.map_err(of_backbone)? {
        app.remembered.note(bytes, Instant::now());
    } else {
        tracing::warn!(id = %reply.id, "an answer is not remembered: another call took over its idempotency key");
    }
    Ok(())
}

/// Tries a few times more to remember an answer, which has its share of the memory for
/// bodies meanwhile. The key stays held until then.
async fn keep_later(app: &App, mut hold: Hold, fingerprint: Digest, reply: Reply, mut problem: Problem) {
    let bytes = reply.result.as_ref().map_or(0, |response| response.body.len() as u64);
    let room = app.bodies.take(bytes);
    for _ in 1..KEEPS {
        if room.is_err() || !problem.retryable() {
            break;
        }
        hold.during(sleep(app.config.key_lease / 2)).await;
        match keep(app, &mut hold, fingerprint, &reply).await {
            Ok(()) => return,
            Err(again) => problem = again,
        }
    }
    tracing::warn!(id = %reply.id, detail = %problem.detail, "an answer under an idempotency key is not remembered");
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
    let (bucket, bodies) = (&app.config.tenant.system_bucket, keys::IDEMPOTENCY_BODIES);
    let age = limits::IDEMPOTENCY_WINDOW + SWEEP_EVERY;
    loop {
        if let Err(error) = app.store.delete_old(bucket, bodies, time::now(), age).await {
            tracing::warn!(%error, "remembered answers could not be swept; this is tried again in an hour");
        }
        sleep(SWEEP_EVERY).await;
    }
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
        let (owner, expires_at) = (Some(Uuid::from_u128(3)), Some(Timestamp(4)));
        let stored = Stored { fingerprint: Digest::of(b"x"), owner, expires_at, answer: Some(answer) };
        let (read, body) = decode(&encode(&stored, b"line\nline").unwrap()).unwrap();
        assert_eq!(read.fingerprint, stored.fingerprint);
        assert_eq!(body, b"line\nline"[..]);
        let head = read.answer.unwrap().result.unwrap();
        assert_eq!(head.headers, [("a".to_owned(), "b\n".to_owned())]);
        // As a gateway of an earlier release wrote it.
        let mut older = serde_json::to_value(&stored).unwrap();
        for later in ["owner", "expires_at"] {
            assert!(older.as_object_mut().unwrap().remove(later).is_some());
        }
        let (read, _) = decode(&older.to_string().into()).unwrap();
        assert_eq!((read.owner, read.expires_at), (None, None));
        assert_eq!(read.answer.map(|answer| answer.version), Some(2));
    }
}
