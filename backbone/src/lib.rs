//! The backbone: the one seam between one machine and many.
//!
//! Key-value with compare-and-set, a durable work queue and an event bus, behind one cheap handle. Gateway and
//! workers talk to each other through nothing else. Invariant: what an operation acknowledged survives a crash
//! (events excepted), and no caller can tell which implementation serves it.

mod bounds;
pub mod bus;
pub mod embedded;
pub mod error;
pub mod kv;
pub mod name;
pub mod nats;
pub mod queue;

use std::time::Duration;

use bytes::Bytes;

pub use bus::{Event, Subscription};
pub use embedded::{Embedded, EmbeddedConfig};
pub use error::{Error, Result};
pub use kv::{CasOutcome, Change, DeleteOutcome, Entry, Page, Watch};
pub use nats::{Nats, NatsConfig, NatsCredentials, NatsTls, Needs, Permissions, Secret};
pub use queue::{DeadLetter, Delivery, Depth, Enqueued, Message, Settled};

/// A handle on the backbone; clones are cheap and share everything.
///
/// Futures may be dropped at any point: a write that was handed over may still take effect, and what an
/// abandoned pull had leased is given back.
#[derive(Clone)]
pub enum Backbone {
    /// One process over a local file.
    Embedded(Embedded),
    /// Many processes over NATS JetStream.
    Nats(Nats),
}

/// Calls the same method on whichever implementation is behind the handle.
macro_rules! each {
    ($self:ident, $backbone:ident => $call:expr) => {
        match $self {
            Backbone::Embedded($backbone) => $call,
            Backbone::Nats($backbone) => $call,
        }
    };
}

/// Opening and closing.
impl Backbone {
    /// Opens the embedded backbone, creating its file and folder where they are missing.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::StorageFull`], [`Error::Unavailable`].
    pub async fn embedded(config: EmbeddedConfig) -> Result<Self> {
        Ok(Backbone::Embedded(Embedded::open(config).await?))
    }

    /// Opens the backbone over NATS JetStream, making streams and consumers where they are missing.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] with everything that is wrong; [`Error::Unavailable`].
    pub async fn nats(config: NatsConfig) -> Result<Self> {
        Ok(Backbone::Nats(Nats::open_with(config).await?))
    }

    /// Goes once through the path that writes take, without writing. For readiness.
    ///
    /// # Errors
    /// [`Error::StorageFull`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn ping(&self) -> Result<()> {
        each!(self, b => b.ping().await)
    }

    /// Finishes what was handed over before, then closes; every clone answers [`Error::Closed`] afterwards.
    pub async fn close(&self) {
        each!(self, b => b.close().await);
    }
}

/// Key-value. Keys are checked by [`name::check_key`]; values hold at most [`kv::VALUE_BYTES_MAX`] bytes.
/// Writes are durable before they answer and may fail with [`Error::InvalidKey`], [`Error::TooLarge`],
/// [`Error::StorageFull`], [`Error::Unavailable`] or [`Error::Closed`].
///
/// A time to live runs on monotonic time and only while the backbone runs. An expired key reads as absent; its
/// [`Change::Delete`] may follow up to a second later. Each write sets the time to live anew, or removes it.
/// Over NATS each process counts from when it first saw a revision, and the first to see it lapse removes it; who
/// wrote it never takes it for alive longer than another does.
impl Backbone {
    /// What a key holds.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn get(&self, key: &str) -> Result<Option<Entry>> {
        each!(self, b => b.get(key).await)
    }

    /// Stores a value, whatever the key holds; answers its revision.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<u64> {
        each!(self, b => b.put(key, value.into(), None).await)
    }

    /// As [`Backbone::put`], gone after `ttl`.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn put_with_ttl(&self, key: &str, value: impl Into<Bytes>, ttl: Duration) -> Result<u64> {
        each!(self, b => b.put(key, value.into(), Some(ttl)).await)
    }

    /// Stores a value where the key holds none.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn create(&self, key: &str, value: impl Into<Bytes>) -> Result<CasOutcome> {
        each!(self, b => b.create(key, value.into(), None).await)
    }

    /// As [`Backbone::create`], gone after `ttl`.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn create_with_ttl(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<CasOutcome> {
        each!(self, b => b.create(key, value.into(), Some(ttl)).await)
    }

    /// Stores a value where the key still holds `expected` revision.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn update(&self, key: &str, value: impl Into<Bytes>, expected: u64) -> Result<CasOutcome> {
        each!(self, b => b.update(key, value.into(), expected, None).await)
    }

    /// As [`Backbone::update`], gone after `ttl`: how a lease is renewed.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn update_with_ttl(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        expected: u64,
        ttl: Duration,
    ) -> Result<CasOutcome> {
        each!(self, b => b.update(key, value.into(), expected, Some(ttl)).await)
    }

    /// Removes a key; with `expected`, only where it still holds that revision.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn delete(&self, key: &str, expected: Option<u64>) -> Result<DeleteOutcome> {
        each!(self, b => b.delete(key, expected).await)
    }

    /// Everything in a [`name::Scope`]: `""` is all, `"a/"` what lies below `a`, `"a"` that key alone. One
    /// consistent state, in byte order of the keys. For what may be large use [`Backbone::list_page`].
    ///
    /// # Errors
    /// As [`Backbone::get`].
    pub async fn list(&self, scope: &str) -> Result<Vec<(String, Entry)>> {
        each!(self, b => Ok(b.list_page(scope, None, usize::MAX).await?.entries))
    }

    /// At most `limit` keys of a scope, from behind `after`. Each page is consistent in itself.
    ///
    /// # Errors
    /// As [`Backbone::get`].
    pub async fn list_page(&self, scope: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        each!(self, b => b.list_page(scope, after, limit).await)
    }

    /// Watches a scope: its state, [`Change::Synced`], then every change. Nothing between is missed.
    ///
    /// # Errors
    /// As [`Backbone::get`].
    pub async fn watch(&self, scope: &str) -> Result<Watch> {
        each!(self, b => b.watch(scope).await)
    }
}

/// Work queue. Queue names are checked like keys, so `tasks/3` may be a shard; a queue exists by being used.
impl Backbone {
    /// Queues a batch; durable before it answers. After an error any part of the batch may have been queued:
    /// send it again with the same ids. (The embedded backbone takes a batch as a whole or not at all.)
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::TooLarge`], [`Error::StorageFull`], [`Error::Unavailable`],
    /// [`Error::Closed`].
    pub async fn enqueue(&self, queue: &str, messages: Vec<Message>) -> Result<Enqueued> {
        each!(self, b => b.enqueue(queue, messages).await)
    }

    /// Leases up to `max` (at least one) messages for `lease`, waiting up to `wait` for the first. Empty when none came.
    /// Pull with the same lease all over a queue: JetStream keeps one for each.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::StorageFull`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn pull(
        &self,
        queue: &str,
        max: usize,
        wait: Duration,
        lease: Duration,
    ) -> Result<Vec<Delivery>> {
        each!(self, b => b.pull(queue, max, wait, lease).await)
    }

    /// How full a queue is.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn depth(&self, queue: &str) -> Result<Depth> {
        each!(self, b => b.depth(queue).await)
    }

    /// At most `limit` dead letters, oldest first, from behind the sequence `after` (0: from the first).
    ///
    /// # Errors
    /// As [`Backbone::depth`].
    pub async fn dead_letters(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<DeadLetter>> {
        each!(self, b => b.dead_letters(queue, after, limit).await)
    }

    /// Queues dead letters again, as if never delivered; answers how many of `sequences` there were.
    ///
    /// # Errors
    /// As [`Backbone::enqueue`].
    pub async fn replay(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        each!(self, b => b.replay(queue, sequences).await)
    }

    /// Removes dead letters for good; answers how many of `sequences` there were.
    ///
    /// # Errors
    /// As [`Backbone::enqueue`].
    pub async fn discard(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        each!(self, b => b.discard(queue, sequences).await)
    }
}

/// Event bus.
impl Backbone {
    /// Tells whoever listens, at most once, and does not wait for them.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`], [`Error::TooLarge`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn publish(&self, subject: &str, payload: impl Into<Bytes>) -> Result<()> {
        each!(self, b => b.publish(subject, payload.into()).await)
    }

    /// Listens to a subject pattern, with `*` for one token and a last `>` for one or more. What is published
    /// after this answers is seen, unless the reader is too slow, which [`Event::Lagged`] reports.
    ///
    /// # Errors
    /// As [`Backbone::publish`].
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription> {
        each!(self, b => b.subscribe(pattern).await)
    }
}
