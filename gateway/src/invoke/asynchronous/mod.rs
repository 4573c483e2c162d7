// SPDX-License-Identifier: Apache-2.0
//! Asynchronous invocations: promised first, run when there is a place.
//!
//! ```text
//! accept ─> record, message ─> queue ~> runner ─> sandbox ─> end ─> ack, or dead letter
//! ```
//!
//! A call is accepted once its message is durable. From then on it comes to
//! exactly one end, an object that is put if absent; everything before may
//! happen more than once.

mod counters;
mod dead;
mod ends;
mod live;
mod message;
mod over;
mod pauses;
mod room;
pub(super) mod routes;
mod runner;
mod running;
mod view;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fanfold_backbone::{Backbone, queue};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Export,
    invocation::{Progress, Request, Response},
    keys, limits,
    names::FunctionRef,
    time,
};
use fanfold_storage::Store;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub(crate) use self::runner::start;
pub use self::{
    counters::Counters,
    dead::{Letters, Replayed},
    ends::{Answer, Ended},
    live::Live,
    message::Origin,
};
use self::{
    ends::Ends,
    message::{check_size, payload},
    over::Looks,
    room::{Reading, Room},
    running::Running,
};
use crate::{functions::Registry, invoke::admission::Admission, problem::of_backbone};

/// Between tries to remove the record of a call that was refused.
const FORGET_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(180)];
/// Between two rounds of removing what is old, and what is too much.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// How asynchronous invocations are looked after. The defaults suit production;
/// tests are hastier.
#[derive(Clone, Debug)]
pub struct InvocationsConfig {
    /// Invocations that may wait.
    pub waiting_max: usize,
    /// Before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// From acceptance until an invocation is given up.
    pub age_max: Duration,
    /// How long ends and dead letters are kept.
    pub window: Duration,
    /// Dead letters that are kept, the newest ones.
    pub dead_letters_max: usize,
    /// And their bytes.
    pub dead_letter_bytes_max: u64,
}

impl Default for InvocationsConfig {
    fn default() -> Self {
        Self {
            waiting_max: limits::QUEUE_DEPTH_MAX,
            backoff: Duration::from_secs(1),
            age_max: limits::EVENT_AGE_MAX,
            window: limits::INVOCATION_RECORD_WINDOW,
            dead_letters_max: limits::DEAD_LETTERS_MAX,
            dead_letter_bytes_max: limits::DEAD_LETTER_BYTES_MAX,
        }
    }
}

/// A call to be accepted.
#[derive(Clone, Debug)]
pub struct AsyncCall {
    /// Derived by whoever calls, so that accepting it again has no further
    /// effect; none for a new one.
    pub id: Option<Uuid>,
    /// What to run. Resolved when the call is accepted.
    pub function: FunctionRef,
    /// JSON for `context.params`, an object.
    pub params: String,
    /// Less time than an attempt is given otherwise.
    pub timeout: Option<Duration>,
    /// The request that the handler sees.
    pub request: Request,
    /// Invocations that led to this one, one after the other.
    pub depth: u32,
    /// Where it comes from.
    pub origin: Origin,
}

/// The handle of asynchronous invocations; clones share everything.
#[derive(Clone)]
pub struct Invocations {
    inner: Arc<Inner>,
}

struct Inner {
    ends: Ends,
    backbone: Backbone,
    registry: Registry,
    config: InvocationsConfig,
    counters: Counters,
    running: Running,
    /// For those that wait.
    room: Room,
    /// Places of this gateway to run them, which [`Admission`] divides.
    slots: Arc<Semaphore>,
    /// Those of all gateways.
    places: u64,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

/// Where an asynchronous invocation stands.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It waits or runs.
    Live(Live),
    /// It has ended.
    Ended(Box<Ended>),
}

impl Invocations {
    /// The invocations of this store and backbone; [`runner::run`] runs them.
    pub(crate) fn new(
        store: Store,
        bucket: String,
        backbone: Backbone,
        registry: Registry,
        config: InvocationsConfig,
        admission: &Admission,
        shutdown: CancellationToken,
    ) -> Self {
        let inner = Inner {
            ends: Ends { store, bucket },
            backbone,
            registry,
            room: Room::new(config.waiting_max),
            config,
            counters: Counters::default(),
            running: Running::default(),
            slots: admission.background(),
            places: admission.background_most() as u64,
            shutdown,
            tracker: TaskTracker::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Counters, to be registered.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Accepts a call; when this answers, it is durable and comes to an end.
    /// Accepting a call under a derived id again has no effect, whether it
    /// waits, runs or has ended; after an error, accept it again.
    ///
    /// # Errors
    /// As for a synchronous call: `function-not-found` and its like,
    /// `export-missing`, `invalid-request`. `payload-too-large`; `queue-full`, `storage-full`;
    /// or the store or the backbone does not answer.
    pub async fn accept(&self, call: AsyncCall) -> Result<Uuid, Problem> {
        check_size(&call.request)?;
        let Some(id) = call.id else {
            let id = Uuid::now_v7();
            self.inner.begin(id, &call).await?;
            return Ok(id);
        };
        loop {
            if self.inner.ends.get(&id).await?.is_some() {
                return Ok(id);
            }
            match Live::get(&self.inner.backbone, &id).await? {
                // It has been delivered, so its message is in the queue.
                Some((live, _)) if live.attempts > 0 => return Ok(id),
                // Whoever made the record may not have got as far as queueing it.
                Some((live, _)) => {
                    let version = self.inner.registry.pinned(&live.function, live.version).await?;
                    self.inner.enqueue(id, payload(id, &live, &version, &call)?).await?;
                    return Ok(id);
                }
                None if self.inner.begin(id, &call).await? => return Ok(id),
                None => {}
            }
        }
    }

    /// Where an asynchronous invocation stands; none when there is none of this id.
    ///
    /// # Errors
    /// The store or the backbone does not answer; of one that has ended, the store is enough.
    pub async fn standing(&self, id: &Uuid) -> Result<Option<Standing>, Problem> {
        if let Some(live) = self.inner.live(id).await? {
            return Ok(Some(Standing::Live(live)));
        }
        Ok(self.outcome(id).await?.map(|ended| Standing::Ended(Box::new(ended))))
    }

    /// How far an invocation says it is that runs, and whose sandbox is, in this process.
    pub(crate) fn progress(&self, id: &Uuid) -> Option<Progress> {
        self.inner.running.progress(id)
    }

    /// Whether an invocation waits for its first attempt, or runs: neither ended nor
    /// put off after a failure.
    ///
    /// # Errors
    /// The backbone does not answer.
    pub(crate) async fn is_in_work(&self, id: &Uuid) -> Result<bool, Problem> {
        let live = Live::get(&self.inner.backbone, id).await?;
        Ok(live.is_some_and(|(live, _)| !live.rests()))
    }

    /// At most `limit` invocations that wait or run and that `fits` lets pass, in
    /// the order of their ids, from behind one; and the last of them, when there are
    /// more.
    ///
    /// # Errors
    /// The backbone does not answer.
    pub(crate) async fn list(
        &self,
        after: Option<Uuid>,
        limit: usize,
        fits: impl Fn(&Live) -> bool,
    ) -> Result<(Vec<(Uuid, Live)>, Option<Uuid>), Problem> {
        let mut after = after.map(|id| keys::invocation_record(&id));
        let (mut found, mut looks) = (Vec::new(), Looks::at_many());
        loop {
            // No page of `limit`: few of many may fit.
            let page = self.inner.backbone.list_part(keys::INVOCATION_RECORDS, after.as_deref());
            let page = page.await.map_err(of_backbone)?;
            for (key, entry) in page.entries {
                let id = key.strip_prefix(keys::INVOCATION_RECORDS).and_then(|id| id.parse::<Uuid>().ok());
                let live = serde_json::from_slice::<Live>(&entry.value).ok();
                let Some((id, live)) = id.zip(live).filter(|(_, live)| fits(live)) else { continue };
                if looks.is_over(&self.inner, &id, &live, entry.revision).await {
                    continue;
                }
                if found.len() == limit {
                    // This one is for the page after it.
                    let last = found.last().map(|(id, _)| *id);
                    return Ok((found, last));
                }
                found.push((id, live));
            }
            after = page.next;
            if after.is_none() {
                return Ok((found, None));
            }
        }
    }

    /// How an asynchronous invocation ended; none while it has not.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn outcome(&self, id: &Uuid) -> Result<Option<Ended>, Problem> {
        Ok(self.inner.ends.get(id).await?.map(|(ended, _)| ended))
    }

    /// What an asynchronous invocation returned, whole.
    ///
    /// # Errors
    /// `invocation-not-finished`; the problem that it ended with; or the store
    /// or the backbone does not answer, as for [`Invocations::standing`]. None when
    /// there is none of this id.
    pub async fn response(&self, id: &Uuid) -> Result<Option<Response>, Problem> {
        if let Some(live) = self.inner.live(id).await? {
            return Err(live.not_finished(id));
        }
        let Some((ended, inline)) = self.inner.ends.get(id).await? else { return Ok(None) };
        self.inner.ends.response(&ended.result?, inline).await.map(Some)
    }

    /// Ends an invocation that waits or runs. A sandbox stops within a moment;
    /// what it would have returned counts no more.
    ///
    /// # Errors
    /// `invocation-finished`; or the store or the backbone does not answer.
    /// None when there is none of this id.
    pub async fn cancel(&self, id: &Uuid) -> Result<Option<Ended>, Problem> {
        if let Some((live, _)) = Live::get(&self.inner.backbone, id).await? {
            let why = "the invocation was cancelled on request; call again to run it";
            let ended = Ended::new(*id, &live, Err(Problem::new(ErrorKind::Cancelled, why)));
            if self.inner.ends.put_once(&ended, None, &Uuid::new_v4()).await? {
                self.inner.counters.ended(ended.state());
                self.inner.announce_cancel(id).await;
                Live::remove(&self.inner.backbone, id).await?;
                return Ok(Some(ended));
            }
        }
        match self.outcome(id).await? {
            Some(ended) => Err(finished(id, ended.state())),
            None => Ok(None),
        }
    }

    /// Removes what is older or more than is kept, for ever.
    pub(crate) async fn sweep(&self) {
        tokio::join!(self.sweep_old(), self.sweep_many());
    }

    async fn sweep_old(&self) {
        loop {
            if let Err(error) = self.inner.ends.sweep(self.inner.config.window).await {
                tracing::warn!(%error, "ends of invocations could not be swept; this is tried again in an hour");
            }
            if let Err(problem) = self.inner.expire_letters().await {
                tracing::warn!(detail = %problem.detail, "dead letters could not be swept; this is tried again in an hour");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }

    async fn sweep_many(&self) {
        loop {
            if let Err(problem) = self.inner.trim_letters().await {
                tracing::warn!(detail = %problem.detail, "dead letters could not be trimmed; this is tried again in a minute");
            }
            tokio::time::sleep(TRIM_EVERY).await;
        }
    }

    /// Waits until nothing runs any more, once `draining` has begun: for at most `patience`.
    pub(crate) async fn drained(&self, draining: &CancellationToken, patience: Duration) {
        draining.cancelled().await;
        self.inner.tracker.close();
        if tokio::time::timeout(patience, self.inner.tracker.wait()).await.is_err() {
            tracing::info!("asynchronous invocations still ran after the drain timeout; they are given back");
        }
    }

    /// Waits until what was told to stop has stopped.
    pub(crate) async fn stopped(&self) {
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }
}

impl Inner {
    /// The record of an invocation that has not ended. None as well while the
    /// backbone is away, if the store has the end.
    async fn live(&self, id: &Uuid) -> Result<Option<Live>, Problem> {
        match Live::get(&self.backbone, id).await {
            Ok(Some((live, revision))) => {
                Ok((!Looks::at_one().is_over(self, id, &live, revision).await).then_some(live))
            }
            Ok(None) => Ok(None),
            Err(problem) => match self.ends.get(id).await {
                Ok(Some(_)) => Ok(None),
                _ => Err(problem),
            },
        }
    }

    /// Makes the record of a call and queues it; false when there is a record already.
    async fn begin(&self, id: Uuid, call: &AsyncCall) -> Result<bool, Problem> {
        let version = self.registry.resolve(&call.function).await?;
        version.require(Export::Handler)?;
        let (name, origin) = (version.name.clone(), call.origin.clone());
        let live = Live::new(name, version.version, time::now(), call.depth, origin);
        let payload = payload(id, &live, &version, call)?;
        self.take_room().await?;
        // From here on only the backbone can fail.
        let Some(revision) = live.create(&self.backbone, &id).await? else { return Ok(false) };
        let queued = self.enqueue(id, payload).await;
        if queued.is_err() && call.id.is_none() {
            // Nobody accepts it again. Is it queued after all, its message makes the record anew.
            self.forget(id, revision);
        }
        let is_new = queued?;
        self.counters.accepted.inc();
        // The queue remembers ids for a while: the message may have come and gone
        // before the record was made.
        if !is_new && self.ends.get(&id).await?.is_some() {
            Live::remove(&self.backbone, &id).await?;
        }
        Ok(true)
    }

    /// Removes the record of a call that was refused, unless it has changed. Whoever was refused need not wait.
    /// What had no room for the message may have none for the removal either, so it is tried for a while.
    fn forget(&self, id: Uuid, revision: u64) {
        let backbone = self.backbone.clone();
        tokio::spawn(async move {
            for pause in FORGET_PAUSES {
                match backbone.delete(&keys::invocation_record(&id), Some(revision)).await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%id, %error, "a call that was refused is shown as queued"),
                }
                tokio::time::sleep(pause).await;
            }
            tracing::warn!(%id, "a call that was refused is shown as queued until its record lapses");
        });
    }

    /// Queues a message; false when the queue has seen its id of late.
    async fn enqueue(&self, id: Uuid, payload: Bytes) -> Result<bool, Problem> {
        let messages = vec![queue::Message::new(id.to_string(), payload)];
        let taken = self.backbone.enqueue(keys::INVOCATION_QUEUE, messages).await.map_err(of_backbone)?;
        Ok(taken.accepted > 0)
    }

    /// Counts one more that waits.
    ///
    /// # Errors
    /// `queue-full`, `storage-full`; or the backbone does not answer.
    async fn take_room(&self) -> Result<(), Problem> {
        self.room.take(self.reading()).await
    }

    /// How many wait, as of a moment ago.
    ///
    /// # Errors
    /// The backbone does not answer.
    async fn waiting(&self) -> Result<u64, Problem> {
        self.room.waiting(self.reading()).await
    }

    async fn reading(&self) -> Result<Reading, Problem> {
        let (depth, room) =
            tokio::join!(self.backbone.depth(keys::INVOCATION_QUEUE), self.backbone.check_room());
        let waiting = depth.map_err(of_backbone)?.waiting(self.places);
        let closed = match room.map_err(of_backbone) {
            Err(problem) if problem.code == ErrorKind::StorageFull => Some(problem),
            room => room.map(|()| None)?,
        };
        Ok(Reading { waiting, closed })
    }

    /// Tells whoever runs it. The bus may lose it: a runner also looks whether
    /// the record is there whenever it extends its lease.
    async fn announce_cancel(&self, id: &Uuid) {
        self.running.cancel(id);
        if let Err(error) = self.backbone.publish(&keys::invocation_cancel_subject(id), "").await {
            tracing::warn!(%id, %error, "a cancellation was not announced");
        }
    }
}

pub(super) fn finished(id: &Uuid, state: &str) -> Problem {
    Problem::new(
        ErrorKind::InvocationFinished,
        format!(
            "expected invocation {id} to be queued or running, found it {state}; there is nothing to cancel"
        ),
    )
}
