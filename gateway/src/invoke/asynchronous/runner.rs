// SPDX-License-Identifier: Apache-2.0
//! The runner: deliveries of asynchronous calls, from the queue to their ends.
//!
//! It takes at most half of this gateway's places, so that whoever waits for an
//! answer finds the other half. A message leaves the queue only when the end of its
//! invocation is in the store. What is no fault of the function (no place, no
//! worker, a store or a backbone that does not answer, a stop, a message that only a
//! newer release can read) is not counted as an attempt and bounded by the
//! invocation's age alone.

use std::{convert::Infallible, sync::Arc, time::Duration};

use fanfold_backbone::{Delivery, Share};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Version,
    invocation::{Invocation, Response},
    keys, limits,
    seldom::Seldom,
    time,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Inner,
    ends::{Answer, Ended},
    live::Live,
    message::{self, Message},
    pauses::{PAUSE_MAX, pause, place_pause_max},
    running::Seat,
};
use crate::{
    health::Health,
    invoke::{
        admission::Place,
        call::{self, Left, Ran},
        headers,
    },
    problem::internal,
    state::{App, AppState},
};

/// How long a lease lasts unless it is extended, and how often it is.
const LEASE: Duration = Duration::from_secs(30);
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// How long one pull waits for work, and when it is thought to hang.
const PULL_WAIT: Duration = Duration::from_secs(20);
const PULL_WATCHDOG: Duration = Duration::from_secs(30);
/// Messages in one pull.
const PULL_MAX: usize = 32;
/// After a pull that failed.
const PULL_PAUSE: Duration = Duration::from_secs(1);
/// How often an end is tried to be written while its result is at hand.
const END_TRIES: u32 = 6;
const END_PAUSE: Duration = Duration::from_millis(500);

/// What becomes of a delivery.
enum Settle {
    /// The invocation has ended.
    Ack,
    /// It has ended, and is given up for this reason.
    Dead(String),
    /// It is to be delivered again.
    Again(Duration),
}

/// How an attempt ended.
enum Attempt {
    /// By itself.
    Ran(Box<Ran>),
    /// The invocation has ended elsewhere, mostly by being cancelled.
    Cancelled,
    /// The gateway stops.
    Stopped,
}

/// Pulls and runs until the gateway drains: what is each tenant's in its turn.
pub(crate) fn start(apps: &[AppState]) {
    let share = Arc::new(Share::new(keys::INVOCATION_QUEUE, LEASE));
    let member = |app: &AppState| {
        let tenant = &app.config.tenant;
        (tenant.name.to_string(), tenant.weight, app.backbone.clone(), Arc::clone(app))
    };
    share.set(apps.iter().map(member));
    for app in apps {
        let (running, share) = (Arc::clone(app), Arc::clone(&share));
        app.invocations.inner.tracker.spawn(async move {
            let inner = &running.invocations.inner;
            let work = async {
                tokio::select! {
                    () = inner.running.listen(&inner.backbone) => {}
                    () = look_again(&running, &share) => {}
                }
            };
            until_drained(&running, work).await;
        });
    }
    if let Some(first) = apps.iter().max_by_key(|app| places(app)) {
        let (app, places) = (Arc::clone(first), first.admission.divided(places(first)));
        let pulling = async move { until_drained(&app, pull(share, places, &app.health)).await };
        first.invocations.inner.tracker.spawn(pulling);
    }
}

/// Has queues asked again that were left out for want of places, once there may be more, for ever.
async fn look_again(app: &App, share: &Share<AppState>) {
    loop {
        app.admission.redivided().await;
        share.look();
    }
}

async fn until_drained(app: &App, work: impl Future<Output = ()>) {
    tokio::select! {
        () = app.invocations.inner.shutdown.cancelled() => {}
        () = app.draining.cancelled() => {}
        () = work => {}
    }
}

/// Asynchronous calls of one tenant that all gateways together run at once, and of all
/// tenants as many as of the largest: when several have work, they share these.
fn places(app: &AppState) -> usize {
    (app.config.tenant_concurrency / 2).max(1)
}

/// While the store answers: without it, no end of a call could be written.
async fn pull(share: Arc<Share<AppState>>, places: Arc<Semaphore>, health: &Health) {
    let told = Seldom::new();
    loop {
        let taken = take(&places).await;
        let room = |app: &AppState| app.invocations.inner.slots.available_permits().min(taken.len());
        let pulling = || tokio::time::timeout(PULL_WATCHDOG, share.pull(PULL_WAIT, room));
        let deliveries = match health.with_store(pulling).await {
            Some(Ok(Ok(deliveries))) => deliveries,
            Some(Ok(Err(fanfold_backbone::Error::Closed))) => return,
            Some(Ok(Err(error))) => {
                if told.is_due(error.kind().code()) {
                    tracing::warn!(%error, "asynchronous calls cannot be pulled; trying again");
                }
                tokio::time::sleep(PULL_PAUSE).await;
                continue;
            }
            Some(Err(_)) | None => continue,
        };
        for (shared, place) in deliveries.into_iter().zip(taken) {
            let (app, share) = (Arc::clone(&shared.what), Arc::clone(&share));
            let slot = Arc::clone(&app.invocations.inner.slots).try_acquire_owned();
            app.invocations.inner.tracker.clone().spawn(async move {
                // There was room for as many, unless another gateway has got a part of it since.
                let Ok(slot) = slot else {
                    if let Err(error) = shared.delivery.nak(Duration::ZERO).await {
                        tracing::warn!(%error, "an asynchronous call is not given back; it comes back by itself");
                    }
                    return;
                };
                shared.spend(handle(&shared.what, &shared.delivery)).await;
                let was_full = shared.what.invocations.inner.slots.available_permits() == 0;
                drop((slot, place));
                if was_full {
                    share.look();
                }
            });
        }
    }
}

/// All slots that are free, at least one.
async fn take(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let mut taken: Vec<_> = Arc::clone(slots).acquire_owned().await.into_iter().collect();
    while taken.len() < PULL_MAX
        && let Ok(slot) = Arc::clone(slots).try_acquire_owned()
    {
        taken.push(slot);
    }
    taken
}

/// Works on a delivery, and settles it. When that fails, it is delivered again
/// once its lease has lapsed; the end decides what is left to do.
async fn handle(app: &App, delivery: &Delivery) {
    let inner = &app.invocations.inner;
    let settle = attend(app, inner, delivery).await.unwrap_or_else(|problem| {
        tracing::warn!(id = delivery.id, detail = %problem.detail, "an invocation is put off");
        Settle::Again(pause(inner.config.backoff, &delivery.id, delivery.attempt, PAUSE_MAX))
    });
    let settled = match &settle {
        Settle::Again(pause) => delivery.nak(*pause).await.map(drop),
        Settle::Ack => delivery.ack().await.map(drop),
        Settle::Dead(reason) => inner.backbone.bury(delivery, reason).await.map(|lost| inner.note_lost(lost)),
    };
    if let Err(error) = settled {
        tracing::warn!(id = delivery.id, %error, "a delivery cannot be settled");
    }
}

/// # Errors
/// The store or the backbone does not answer.
async fn attend(app: &App, inner: &Inner, delivery: &Delivery) -> Result<Settle, Problem> {
    let message = match Message::decode(&delivery.payload) {
        Ok(message) => message,
        Err(error) => return unread(inner, delivery, &error).await,
    };
    let id = message.head.id;
    let Some(seat) = inner.running.enter(id) else { return Ok(Settle::Again(LEASE)) };
    let (live, revision) = match Live::get(&inner.backbone, &id).await? {
        // A first delivery of a new invocation cannot have ended.
        Some((live, revision)) if live.attempts == 0 && delivery.attempt == 1 => (live, revision),
        found => {
            if let Some((ended, _)) = inner.ends.get(&id).await? {
                return inner.settled(&ended).await;
            }
            match found {
                Some(found) => found,
                // The backbone has lost the record, not the message.
                None => {
                    let live = message.live();
                    match live.create(&inner.backbone, &id).await? {
                        Some(revision) => (live, revision),
                        None => return Ok(Settle::Again(Duration::ZERO)),
                    }
                }
            }
        }
    };
    let work = Work { app, inner, delivery, message: &message, seat };
    if let Some(problem) = work.given_up(&live) {
        return work.end(Ended::new(id, &live, Err(problem)), None).await;
    }
    work.attempt(live, revision).await
}

/// A message that cannot be read: for as long as its invocation may be tried, gateways of a newer release
/// may read it. Then, or where it is of no release, the invocation ends, if it is known, and the queue moves on.
async fn unread(inner: &Inner, delivery: &Delivery, error: &serde_json::Error) -> Result<Settle, Problem> {
    let age = message::accepted_at(&delivery.payload).map(|at| time::now().since(at));
    if age.is_some_and(|age| age <= inner.config.age_max) {
        tracing::warn!(id = delivery.id, %error, "an invocation is left to gateways that can read its message");
        return Ok(Settle::Again(pause(inner.config.backoff, &delivery.id, delivery.attempt, PAUSE_MAX)));
    }
    let problem = internal(format!("the message of invocation {:?} cannot be read: {error}", delivery.id));
    let reason = format!("{}: expected the message of a call, found: {error}", problem.code);
    let id = delivery.id.parse::<Uuid>();
    let found = match &id {
        Ok(id) => Live::get(&inner.backbone, id).await,
        Err(_) => Ok(None),
    };
    let found = match found {
        // Its record cannot be read either, and lapses.
        Err(problem) if problem.code == ErrorKind::Internal => None,
        found => found?,
    };
    if let Some((id, (live, _))) = id.ok().zip(found) {
        let ended = Ended::new(id, &live, Err(problem));
        if inner.ends.put_once(&ended, None, &Uuid::new_v4()).await? {
            inner.counters.ended(ended.state());
        }
        Live::remove(&inner.backbone, &id).await?;
    }
    inner.counters.dead_letters.inc();
    Ok(Settle::Dead(reason))
}

/// A delivery in work.
struct Work<'a> {
    app: &'a App,
    inner: &'a Inner,
    delivery: &'a Delivery,
    message: &'a Message,
    seat: Seat<'a>,
}

impl Work<'_> {
    /// Why there is no further attempt.
    fn given_up(&self, live: &Live) -> Option<Problem> {
        let most = self.inner.config.age_max;
        if live.age(time::now()) > most {
            let because =
                live.problem.as_ref().map(|p| format!(", the last time because {p}")).unwrap_or_default();
            return Some(Problem::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "an asynchronous call is tried for at most {} s, found no attempt that succeeded{because}; replay \
                     the dead letter, or call again",
                    most.as_secs()
                ),
            ));
        }
        (live.attempts >= limits::ATTEMPTS_DEFAULT).then(|| {
            live.problem.clone().unwrap_or_else(|| {
                Problem::new(
                    ErrorKind::Internal,
                    format!(
                        "expected one of {} attempts to come to an end, found all broken off with the process that ran \
                         them; replay the dead letter, or look for what ends that process",
                        live.attempts
                    ),
                )
            })
        })
    }

    /// Runs the function once, if there is a place for it.
    async fn attempt(&self, mut live: Live, revision: u64) -> Result<Settle, Problem> {
        let function = &live.function;
        let version = self.inner.registry.pinned(function, live.version).await?;
        let Ok(place) = self.app.admission.admit_background(function).await else {
            let waiting = self.inner.waiting().await.unwrap_or(u64::MAX);
            return Ok(Settle::Again(self.pause(self.delivery.attempt, place_pause_max(waiting))));
        };
        live.begin(time::now());
        let Some(revision) = live.update(&self.inner.backbone, &self.message.head.id, revision).await? else {
            // It was cancelled meanwhile, or another delivery of it runs.
            return Ok(Settle::Again(Duration::ZERO));
        };
        match self.run(&version, &live, place).await {
            Attempt::Cancelled => match self.inner.ends.get(&self.message.head.id).await? {
                Some((ended, _)) => self.inner.settled(&ended).await,
                None => Ok(Settle::Again(Duration::ZERO)),
            },
            Attempt::Stopped => {
                live.undo();
                live.update(&self.inner.backbone, &self.message.head.id, revision).await?;
                Ok(Settle::Again(Duration::ZERO))
            }
            Attempt::Ran(ran) => self.decide(live, revision, *ran).await,
        }
    }

    async fn run(&self, version: &Arc<Version>, live: &Live, place: Place) -> Attempt {
        let begun = time::now();
        let invocation = Invocation {
            id: self.message.head.id,
            attempt: live.attempts,
            depth: live.depth,
            version: Arc::clone(version),
            timeout: self.message.timeout(),
            params: self.message.head.params.clone(),
            request: self.message.request(),
            tenant: Some(Arc::clone(&self.app.config.tenant)),
            board: Some(self.seat.board.clone()),
        };
        let attempt = tokio::select! {
            ran = call::execute(self.app, invocation) => Attempt::Ran(Box::new(ran)),
            () = self.seat.cancelled.cancelled() => Attempt::Cancelled,
            () = self.inner.shutdown.cancelled() => Attempt::Stopped,
            never = self.hold() => match never {},
        };
        drop(place);
        let cancelled = || Problem::new(ErrorKind::Cancelled, "the invocation was cancelled on request");
        let (result, left) = match &attempt {
            Attempt::Ran(ran) => {
                (ran.result.as_ref().map(call::kept).map_err(Problem::clone), ran.left.clone())
            }
            Attempt::Cancelled => (Err(cancelled()), Left::default()),
            Attempt::Stopped => return attempt,
        };
        let id = self.message.head.id;
        let note =
            call::Note { id, attempt: live.attempts, version, started_at: begun, queued: Duration::ZERO };
        note.keep(self.app, result, left);
        attempt
    }

    /// Holds the delivery for ever, beside what runs: a backbone that does not answer holds up neither
    /// the call nor its cancellation.
    async fn hold(&self) -> Infallible {
        let mut extend = tokio::time::interval_at(Instant::now() + EXTEND_EVERY, EXTEND_EVERY);
        loop {
            extend.tick().await;
            self.extend().await;
        }
    }

    /// Holds the delivery for another while, and looks whether the invocation
    /// has ended elsewhere. A record that is gone alone proves nothing.
    async fn extend(&self) {
        if let Err(error) = self.delivery.extend(LEASE).await {
            tracing::warn!(id = self.delivery.id, %error, "a lease was not extended");
        }
        let id = &self.message.head.id;
        if let Ok(None) = Live::get(&self.inner.backbone, id).await
            && let Ok(Some(_)) = self.inner.ends.get(id).await
        {
            self.seat.cancelled.cancel();
        }
    }

    /// What follows from an attempt.
    async fn decide(&self, mut live: Live, revision: u64, ran: Ran) -> Result<Settle, Problem> {
        let id = self.message.head.id;
        let (result, left) = (ran.result.and_then(checked), ran.left);
        let problem = match result.as_ref().err() {
            Some(problem) if is_unavailable(problem.code) => {
                live.undo();
                live.problem = Some(problem.clone());
                live.update(&self.inner.backbone, &id, revision).await?;
                return Ok(Settle::Again(self.pause(self.delivery.attempt, PAUSE_MAX)));
            }
            Some(problem) if problem.retryable() && live.attempts < limits::ATTEMPTS_DEFAULT => {
                problem.clone()
            }
            _ => {
                let mut ended =
                    Ended::new(id, &live, result.as_ref().map(Answer::from).map_err(Problem::clone));
                (ended.logs, ended.progress, ended.usage) = (left.logs, left.progress, left.usage);
                let settled = self.end(ended, result.as_ref().ok()).await;
                if settled.is_err() {
                    live.undo();
                    live.update(&self.inner.backbone, &id, revision).await?;
                }
                return settled;
            }
        };
        let pause = self.pause(live.attempts, PAUSE_MAX);
        live.failed(problem);
        live.update(&self.inner.backbone, &id, revision).await?;
        self.inner.counters.retries.inc();
        Ok(Settle::Again(pause))
    }

    /// Writes an end, patiently: it may have cost much to come by.
    async fn end(&self, ended: Ended, response: Option<&Response>) -> Result<Settle, Problem> {
        let (writer, mut tries) = (Uuid::new_v4(), 0);
        let won = loop {
            match self.inner.ends.put_once(&ended, response, &writer).await {
                Ok(won) => break won,
                Err(problem) => {
                    tries += 1;
                    if tries == END_TRIES || self.inner.shutdown.is_cancelled() {
                        return Err(problem);
                    }
                    tokio::time::sleep(END_PAUSE * 2_u32.pow(tries - 1)).await;
                    self.extend().await;
                }
            }
        };
        if won {
            self.inner.counters.ended(ended.state());
            if ended.state() == "failed" {
                self.inner.counters.dead_letters.inc();
            }
            return self.inner.settled(&ended).await;
        }
        match self.inner.ends.get(&ended.id).await? {
            Some((first, _)) => self.inner.settled(&first).await,
            None => Err(internal(format!("the end of invocation {} is there and cannot be read", ended.id))),
        }
    }

    fn pause(&self, times: u32, most: Duration) -> Duration {
        pause(self.inner.config.backoff, &self.delivery.id, times, most)
    }
}

impl Inner {
    /// What is left to do for an invocation that has ended. The record goes
    /// before the message, since nobody would come back for it.
    async fn settled(&self, ended: &Ended) -> Result<Settle, Problem> {
        Live::remove(&self.backbone, &ended.id).await?;
        Ok(match &ended.result {
            Err(problem) if problem.code != ErrorKind::Cancelled => Settle::Dead(problem.reason()),
            _ => Settle::Ack,
        })
    }
}

/// An answer that HTTP can carry.
fn checked(response: Response) -> Result<Response, Problem> {
    headers::from_guest(response.clone()).map(|_| response)
}

/// Whether the platform failed for a while, whatever the function does. Not so of a
/// worker that was lost: the function may have run, and may be what ended it.
fn is_unavailable(code: ErrorKind) -> bool {
    matches!(
        code,
        ErrorKind::StoreUnavailable
            | ErrorKind::StoreTimeout
            | ErrorKind::StorageFull
            | ErrorKind::BackboneUnavailable
            | ErrorKind::ShuttingDown
            | ErrorKind::ConcurrencyLimit
            | ErrorKind::WorkerUnavailable
    )
}
