// SPDX-License-Identifier: Apache-2.0
//! The embedded backbone: one process, one redb file, one writer thread.
//!
//! Handles check what they are given and send it to the writer; reads take a snapshot beside it. Invariant: what
//! was acknowledged is on disk, so a crash loses leases and events and nothing else.

mod kv;
mod op;
mod queue;
mod space;
mod store;
mod work;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::ReadTransaction;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;

use self::op::{Op, Pull, Reply, Request, Verb};
use self::store::{DbResult, Store};
use self::writer::Writer;
use crate::bounds::{DURATION_MAX, REASON_BYTES_MAX, check_size};
use crate::bus::{Bus, EVENT_BYTES_MAX, Subscription};
use crate::error::{Error, Result};
use crate::kv::{CasOutcome, DeleteOutcome, Entry, Expected, Page, Room, VALUE_BYTES_MAX, Watch};
use crate::name::{Pattern, Scope, check_key, check_subject};
use crate::queue::{DeadLetter, Delivery, Depth, Enqueued, Message, PullRequest, Settled, check_batch};

/// What waiting operations may hold together, in units of [`ROOM_UNIT_BYTES`]: 128 MiB.
const ROOM_UNITS: u32 = 32_768;
const ROOM_UNIT_BYTES: usize = 4 << 10;

/// How to open the embedded backbone.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The store's file; its folder is made where it is missing.
    pub path: PathBuf,
    /// How long a message id is remembered. Ids of settled messages are forgotten on restart.
    pub dedupe_window: Duration,
    /// Memory for cached pages, in bytes, and a quarter more for what the allocator adds to each. It fills up, if only
    /// with what pages were before; what it lacks is read from the operating system's cache.
    pub cache_bytes: usize,
    /// Bound on the file's size, in bytes; beyond it writes answer [`Error::StorageFull`]. The file grows by
    /// doubling, at most 4 GiB at a time, and takes the disk's blocks when it does: bound and full disk take
    /// effect at the last step that fits.
    pub size_bytes_max: Option<u64>,
}

impl EmbeddedConfig {
    /// The defaults: ids remembered for two minutes, 16 MiB of cache, no bound on the file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        EmbeddedConfig {
            path: path.into(),
            dedupe_window: Duration::from_secs(120),
            cache_bytes: 16 << 20,
            size_bytes_max: None,
        }
    }
}

/// The lease of one message.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) embedded: Embedded,
    pub(crate) sequence: u64,
    pub(crate) token: u64,
}

impl Held {
    pub(crate) async fn ack(&self, delivery: &Delivery) -> Result<Settled> {
        self.settle(delivery, Verb::Ack).await
    }

    pub(crate) async fn nak(&self, delivery: &Delivery, delay: Duration) -> Result<Settled> {
        self.settle(delivery, Verb::Nak(delay.min(DURATION_MAX))).await
    }

    pub(crate) async fn extend(&self, delivery: &Delivery, lease: Duration) -> Result<Settled> {
        self.settle(delivery, Verb::Extend(lease.min(DURATION_MAX))).await
    }

    pub(crate) async fn dead(&self, delivery: &Delivery, reason: &str) -> Result<Settled> {
        let kept = reason.floor_char_boundary(REASON_BYTES_MAX);
        self.settle(delivery, Verb::Dead(reason[..kept].to_owned())).await
    }

    async fn settle(&self, delivery: &Delivery, verb: Verb) -> Result<Settled> {
        let (queue, sequence, token) = (delivery.queue.clone(), self.sequence, self.token);
        match self.embedded.ask(Op::Settle { queue, sequence, token, verb }, 0).await? {
            Reply::Settled(settled) => Ok(settled),
            _ => Err(mismatch()),
        }
    }
}

/// A handle on the embedded backbone; see [`crate::Backbone`] for what its operations promise.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    writer: Sender<Request>,
    room: Arc<Semaphore>,
    bus: Bus,
    closed: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.bus.close();
    }
}

impl Embedded {
    pub(crate) async fn open(config: EmbeddedConfig) -> Result<Self> {
        spawn_blocking(move || Self::open_blocking(&config)).await.map_err(|failure| lost(&failure))?
    }

    fn open_blocking(config: &EmbeddedConfig) -> Result<Self> {
        let store = Arc::new(Store::open(config)?);
        let (sender, inbox) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&store), inbox, config.dedupe_window)?;
        thread::Builder::new()
            .name("fanfold-backbone".to_owned())
            .spawn(move || writer.run())
            .map_err(|failure| lost(&failure))?;
        let room = Arc::new(Semaphore::new(ROOM_UNITS as usize));
        let shared =
            Shared { store, writer: sender, room, bus: Bus::default(), closed: AtomicBool::new(false) };
        Ok(Embedded { shared: Arc::new(shared) })
    }

    /// Moves the bound on the file's size while the backbone runs; `u64::MAX` lifts it.
    pub fn set_size_bytes_max(&self, bytes_max: u64) {
        self.shared.store.set_size_bytes_max(bytes_max);
    }

    pub(crate) fn room(&self) -> Option<Room> {
        self.shared.store.room()
    }

    pub(crate) async fn ping(&self) -> Result<()> {
        self.ask(Op::Ping, 0).await.map(drop)
    }

    pub(crate) async fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        // Where the writer is gone already, there is nothing left to close.
        let _ = self.ask(Op::Close, 0).await;
        self.shared.bus.close();
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>> {
        check_key(key)?;
        let key = key.to_owned();
        self.read(move |txn, now_ms| kv::get(txn, &key, now_ms)).await
    }

    pub(crate) async fn list_page(&self, scope: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let scope = Scope::parse(scope)?;
        let after = after.map(str::to_owned);
        self.read(move |txn, now_ms| kv::list(txn, &scope, after.as_deref(), limit, now_ms)).await
    }

    pub(crate) async fn write(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<CasOutcome> {
        check_key(key)?;
        check_size("a value", VALUE_BYTES_MAX, value.len())?;
        let (key, bytes, ttl) = (key.to_owned(), value.len(), ttl.map(|ttl| ttl.min(DURATION_MAX)));
        match self.ask(Op::Write { key, value, ttl, expected }, bytes).await? {
            Reply::Cas(outcome) => Ok(outcome),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn delete(&self, key: &str, expected: Option<u64>) -> Result<DeleteOutcome> {
        check_key(key)?;
        match self.ask(Op::Delete { key: key.to_owned(), expected }, 0).await? {
            Reply::Delete(outcome) => Ok(outcome),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn watch(&self, scope: &str) -> Result<Watch> {
        match self.ask(Op::Watch(Scope::parse(scope)?), 0).await? {
            Reply::Watch(watch) => Ok(watch),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn enqueue(&self, queue: &str, messages: Vec<Message>) -> Result<Enqueued> {
        check_key(queue)?;
        let bytes = check_batch(queue, &messages)?;
        if messages.is_empty() {
            return Ok(Enqueued::default());
        }
        match self.ask(Op::Enqueue { queue: queue.to_owned(), messages }, bytes).await? {
            Reply::Enqueued(outcome) => Ok(outcome),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn pull(&self, queue: &str, request: PullRequest) -> Result<Vec<Delivery>> {
        check_key(queue)?;
        // An abandoned pull gets nothing, and what it had got already is given back: that is both at once.
        let PullRequest { max, wait, lease, when_abandoned: _ } = request;
        let pull = Pull {
            queue: queue.to_owned(),
            max: max.max(1),
            until: Instant::now() + wait.min(DURATION_MAX),
            lease: lease.min(DURATION_MAX),
            back: self.shared.writer.clone(),
        };
        match self.ask(Op::Pull(pull), 0).await? {
            Reply::Grant(grant) => Ok(grant.claim(self)),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn depth(&self, queue: &str) -> Result<Depth> {
        check_key(queue)?;
        match self.ask(Op::Depth(queue.to_owned()), 0).await? {
            Reply::Depth(depth) => Ok(depth),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn dead_letters(
        &self,
        queue: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        check_key(queue)?;
        let queue = queue.to_owned();
        self.read(move |txn, _| work::dead_letters(txn, &queue, after, limit)).await
    }

    pub(crate) async fn letter_sizes(&self, queue: &str) -> Result<Vec<(u64, u64)>> {
        check_key(queue)?;
        let queue = queue.to_owned();
        self.read(move |txn, _| work::letter_sizes(txn, &queue)).await
    }

    pub(crate) async fn replay(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        check_key(queue)?;
        self.count(Op::Replay { queue: queue.to_owned(), sequences }).await
    }

    pub(crate) async fn discard(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        check_key(queue)?;
        self.count(Op::Discard { queue: queue.to_owned(), sequences }).await
    }

    async fn count(&self, op: Op) -> Result<usize> {
        match self.ask(op, 0).await? {
            Reply::Count(count) => Ok(count),
            _ => Err(mismatch()),
        }
    }

    pub(crate) async fn publish(&self, subject: &str, payload: Bytes) -> Result<()> {
        check_subject(subject)?;
        check_size("an event", EVENT_BYTES_MAX, payload.len())?;
        self.check_open()?;
        self.shared.bus.publish(subject, &payload);
        Ok(())
    }

    pub(crate) async fn subscribe(&self, pattern: &str) -> Result<Subscription> {
        let pattern = Pattern::parse(pattern)?;
        self.check_open()?;
        Ok(self.shared.bus.subscribe(pattern))
    }

    /// Hands an operation to the writer and waits for its answer.
    async fn ask(&self, op: Op, bytes: usize) -> Result<Reply> {
        let units = u32::try_from(1 + bytes / ROOM_UNIT_BYTES).unwrap_or(ROOM_UNITS).min(ROOM_UNITS);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(units);
        let room = room.await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.shared.writer.send(Request { op, reply, _room: Some(room) }).map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    /// Reads a snapshot where blocking on the disk holds up nobody.
    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&ReadTransaction, u64) -> DbResult<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.shared.store);
        let now_ms = store.clock.now_ms();
        spawn_blocking(move || store.read(|txn| work(txn, now_ms))).await.map_err(|failure| lost(&failure))?
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Why the writer does not answer.
    fn gone(&self) -> Error {
        match self.check_open() {
            Err(closed) => closed,
            Ok(()) => Error::Unavailable { detail: "its writer stopped; restart the process".to_owned() },
        }
    }
}

fn mismatch() -> Error {
    Error::Unavailable { detail: "its writer answered another question; report this as a bug".to_owned() }
}

fn lost(failure: &dyn std::fmt::Display) -> Error {
    Error::Unavailable { detail: failure.to_string() }
}
