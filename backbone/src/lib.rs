// SPDX-License-Identifier: Apache-2.0
//! The backbone: the one seam between one machine and many.
//!
//! Key-value with compare-and-set, a durable work queue and an event bus, behind one cheap handle. Gateway and
//! workers talk to each other through nothing else. Invariant: what an operation acknowledged survives a crash
//! (events excepted), and no caller can tell which implementation serves it.

mod bounds;
pub mod bus;
pub mod embedded;
pub mod error;
mod follow;
pub mod kv;
pub mod name;
pub mod nats;
pub mod queue;
mod share;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use bus::{Event, Subscription};
pub use embedded::{Embedded, EmbeddedConfig};
pub use error::{Error, Result};
use kv::Expected;
pub use kv::{CasOutcome, Change, DeleteOutcome, Entry, Page, Room, Watch};
pub use nats::{Nats, NatsConfig, NatsCredentials, NatsTls, NatsUser, Needs, Permissions, Secret};
pub use queue::{DeadLetter, Delivery, Depth, Enqueued, Message, Settled};
use queue::{PullRequest, WhenAbandoned};
pub use share::{Share, Shared};

/// Keys that are read at once where a scope is gone through and each costs its own.
const PART_KEYS: usize = 1_000;
/// How often a letter is tried to be written for which others made room, which somebody else may fill.
const BURIALS: usize = 3;
/// Letters that are read at once, each with its payload.
const LETTERS: usize = 32;
/// What a letter takes beside its payload, in bytes: less than this.
const LETTER_BESIDE: usize = 8 << 10;

/// A handle on the backbone, or on a part of it; clones are cheap and share everything.
///
/// Futures may be dropped at any point: a write that was handed over may still take effect, and what an
/// abandoned pull had leased is given back.
#[derive(Clone)]
pub struct Backbone {
    driver: Driver,
    /// What every key and queue of this handle begins with: nothing, or a prefix with `/` at its end.
    scope: Arc<str>,
}

#[derive(Clone)]
enum Driver {
    /// One process over a local file.
    Embedded(Embedded),
    /// Many processes over NATS JetStream.
    Nats(Nats),
}

/// Calls the same method on whichever implementation is behind the handle. What goes over a network holds much,
/// which callers that nest need not hold in their turn.
macro_rules! each {
    ($self:ident, $backbone:ident => $call:expr) => {
        match &$self.driver {
            Driver::Embedded($backbone) => $call,
            Driver::Nats($backbone) => Box::pin(async { $call }).await,
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
        Ok(Self::whole(Driver::Embedded(Embedded::open(config).await?)))
    }

    /// Opens the backbone over NATS JetStream, making streams and consumers where they are missing.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] with everything that is wrong; [`Error::OutOfReach`], which is not waited for;
    /// [`Error::Unavailable`].
    pub async fn nats(config: NatsConfig) -> Result<Self> {
        Ok(Self::whole(Driver::Nats(Nats::open_with(config).await?)))
    }

    /// Reaches NATS as [`Backbone::nats`] would, and changes nothing: the streams that it would make.
    ///
    /// # Errors
    /// As of [`Backbone::nats`].
    pub async fn nats_missing(config: NatsConfig) -> Result<Vec<String>> {
        Nats::missing(config).await
    }

    fn whole(driver: Driver) -> Self {
        Self { driver, scope: "".into() }
    }

    /// The part of this handle whose keys, queues and subjects begin with `scope`, such as `of/bank/`; an empty one
    /// is all of it. Through the new handle they are named without it, and nothing else can be named.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Self {
        Self { driver: self.driver.clone(), scope: format!("{}{scope}", self.scope).into() }
    }

    /// A key, a scope or a queue of this handle as the driver knows it.
    fn full<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.scope.is_empty() { Cow::Borrowed(name) } else { Cow::Owned(format!("{}{name}", self.scope)) }
    }

    /// The same of a subject or a pattern, whose tokens are joined by `.`.
    fn full_subject<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.scope.is_empty() {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(format!("{}{name}", self.scope.replace('/', ".")))
        }
    }

    /// The embedded implementation, if it is that.
    pub fn as_embedded(&self) -> Option<&Embedded> {
        match &self.driver {
            Driver::Embedded(embedded) => Some(embedded),
            Driver::Nats(_) => None,
        }
    }

    /// Goes once through the path that writes take, without writing. For readiness.
    ///
    /// # Errors
    /// [`Error::StorageFull`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn ping(&self) -> Result<()> {
        each!(self, b => b.ping().await)
    }

    /// Fails where so little room is left for keys that new work, which can be refused, has to leave it to leases and to
    /// what goes on: over NATS where a fifth is left. The embedded one keeps nothing back, and fails when a ping does.
    /// A [restricted](NatsConfig::restricted) user is told nothing.
    ///
    /// # Errors
    /// As [`Backbone::ping`].
    pub async fn check_room(&self) -> Result<()> {
        match &self.driver {
            Driver::Embedded(embedded) => embedded.ping().await,
            Driver::Nats(nats) => nats.check_room().await,
        }
    }

    /// How full the keys are, where they have a bound: over NATS always, unless a [restricted](NatsConfig::restricted)
    /// user asks; of an embedded one with [a bound](EmbeddedConfig::size_bytes_max), queues included.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Closed`].
    pub async fn room(&self) -> Result<Option<Room>> {
        match &self.driver {
            Driver::Embedded(embedded) => Ok(embedded.room()),
            Driver::Nats(nats) => nats.room().await,
        }
    }

    /// Comes back when the servers no longer have the data that the backbone was opened on: whoever holds something
    /// that rests on it begins anew. Never does for an embedded one, nor for a
    /// [restricted](NatsConfig::restricted) user, who may not ask.
    pub async fn lost(&self) {
        match &self.driver {
            Driver::Embedded(_) => std::future::pending().await,
            Driver::Nats(nats) => nats.lost().await,
        }
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
/// wrote it never takes it for alive longer than another does. There a [long](NatsConfig::long_ttl) one runs on while
/// no process does, by the servers' clock.
impl Backbone {
    /// What a key holds.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn get(&self, key: &str) -> Result<Option<Entry>> {
        each!(self, b => b.get(&self.full(key)).await)
    }

    /// Stores a value, whatever the key holds; answers its revision.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<u64> {
        self.set(key, value.into(), None).await
    }

    /// As [`Backbone::put`], gone after `ttl`.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn put_with_ttl(&self, key: &str, value: impl Into<Bytes>, ttl: Duration) -> Result<u64> {
        self.set(key, value.into(), Some(ttl)).await
    }

    /// Stores a value where the key holds none.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn create(&self, key: &str, value: impl Into<Bytes>) -> Result<CasOutcome> {
        self.write(key, value.into(), None, Expected::Nothing).await
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
        self.write(key, value.into(), Some(ttl), Expected::Nothing).await
    }

    /// Stores a value where the key still holds `expected` revision.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn update(&self, key: &str, value: impl Into<Bytes>, expected: u64) -> Result<CasOutcome> {
        self.write(key, value.into(), None, Expected::Revision(expected)).await
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
        self.write(key, value.into(), Some(ttl), Expected::Revision(expected)).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<u64> {
        let stored = self.write(key, value, ttl, Expected::Anything).await?.revision();
        stored.ok_or_else(|| Error::Unavailable {
            detail: "it refused what is written over anything; report this as a bug".to_owned(),
        })
    }

    async fn write(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<CasOutcome> {
        each!(self, b => b.write(&self.full(key), value, ttl, expected).await)
    }

    /// Removes a key; with `expected`, only where it still holds that revision.
    ///
    /// # Errors
    /// See the head of this block.
    pub async fn delete(&self, key: &str, expected: Option<u64>) -> Result<DeleteOutcome> {
        each!(self, b => b.delete(&self.full(key), expected).await)
    }

    /// Everything in a [`name::Scope`]: `""` is all, `"a/"` what lies below `a`, `"a"` that key alone. One
    /// consistent state, in byte order of the keys. For what may be large use [`Backbone::list_part`].
    ///
    /// # Errors
    /// As [`Backbone::get`].
    pub async fn list(&self, scope: &str) -> Result<Vec<(String, Entry)>> {
        Ok(self.list_page(scope, None, usize::MAX).await?.entries)
    }

    /// The next keys of a scope from behind `after`, as many as suit: how to go through one that may be large. Over
    /// NATS, where each page costs as much as the whole scope, it is all the rest.
    ///
    /// # Errors
    /// As [`Backbone::get`].
    pub async fn list_part(&self, scope: &str, after: Option<&str>) -> Result<Page> {
        let limit = match &self.driver {
            Driver::Embedded(_) => PART_KEYS,
            Driver::Nats(_) => usize::MAX,
        };
        self.list_page(scope, after, limit).await
    }

    /// At most `limit` keys of a scope, from behind `after`. Each page is consistent in itself.
    ///
    /// # Errors
    /// As [`Backbone::get`].
    pub async fn list_page(&self, scope: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let after = after.map(|after| self.full(after));
        let mut page = each!(self, b => b.list_page(&self.full(scope), after.as_deref(), limit).await)?;
        let keys = page.entries.iter_mut().map(|(key, _)| key).chain(&mut page.next);
        keys.for_each(|key| drop(key.drain(..self.scope.len())));
        Ok(page)
    }

    /// Watches a scope: its state, [`Change::Synced`], then every change. Nothing between is missed.
    ///
    /// # Errors
    /// As [`Backbone::get`].
    pub async fn watch(&self, scope: &str) -> Result<Watch> {
        Ok(each!(self, b => b.watch(&self.full(scope)).await)?.under(self.scope.len()))
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
        each!(self, b => b.enqueue(&self.full(queue), messages).await)
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
        self.pull_as(queue, PullRequest { max, wait, lease, when_abandoned: WhenAbandoned::GiveBack }).await
    }

    /// The same, which says as well what becomes of a pull that is abandoned.
    async fn pull_as(&self, queue: &str, request: PullRequest) -> Result<Vec<Delivery>> {
        each!(self, b => b.pull(&self.full(queue), request).await)
    }

    /// Lets those pull from a queue who may make nothing, for as long as this is open: over NATS a
    /// [restricted](NatsConfig::restricted) user pulls through what another has made. An embedded one needs nothing.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::Misconfigured`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn keep_queue(&self, queue: &str) -> Result<()> {
        match &self.driver {
            Driver::Embedded(_) => Ok(()),
            Driver::Nats(nats) => nats.keep_queue(&self.full(queue)).await,
        }
    }

    /// How full a queue is.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn depth(&self, queue: &str) -> Result<Depth> {
        each!(self, b => b.depth(&self.full(queue)).await)
    }

    /// At most `limit` dead letters, oldest first, from behind the sequence `after` (0: from the first).
    ///
    /// # Errors
    /// As [`Backbone::depth`].
    pub async fn dead_letters(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<DeadLetter>> {
        each!(self, b => b.dead_letters(&self.full(queue), after, limit).await)
    }

    /// Queues dead letters again, as if never delivered; answers how many of `sequences` there were.
    ///
    /// # Errors
    /// As [`Backbone::enqueue`].
    pub async fn replay(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        each!(self, b => b.replay(&self.full(queue), sequences).await)
    }

    /// Removes dead letters for good; answers how many of `sequences` there were.
    ///
    /// # Errors
    /// As [`Backbone::enqueue`].
    pub async fn discard(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        each!(self, b => b.discard(&self.full(queue), sequences).await)
    }

    /// Removes the oldest dead letters of a queue that are more than so many, or more than so many bytes; answers how
    /// many it removed.
    ///
    /// # Errors
    /// As [`Backbone::enqueue`].
    pub async fn trim_dead_letters(&self, queue: &str, count_max: usize, bytes_max: u64) -> Result<usize> {
        let queue = self.full(queue);
        let letters = each!(self, b => b.letter_sizes(&queue).await)?;
        let surplus = queue::surplus(&letters, count_max, bytes_max);
        if surplus.is_empty() { Ok(0) } else { each!(self, b => b.discard(&queue, surplus).await) }
    }

    /// Gives a message up as [`Delivery::dead`] does, also where there is no room for its letter: then the oldest ones of
    /// its queue make room, and where that does not help, its own is lost, so that no message stays for want of room.
    /// Answers how many letters were lost. For gateways: a restricted user may remove none.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn bury(&self, delivery: &Delivery, reason: &str) -> Result<usize> {
        let mut lost = 0;
        for tried in 1..=BURIALS {
            match delivery.dead(reason).await {
                Err(Error::StorageFull { .. }) => {}
                settled => return settled.map(|_| lost),
            }
            if tried < BURIALS {
                lost += self.make_room(&delivery.queue, delivery.payload.len() + LETTER_BESIDE).await?;
            }
        }
        delivery.ack().await?;
        tracing::warn!(
            queue = delivery.queue,
            id = delivery.id,
            reason,
            "a dead letter is lost for want of room"
        );
        Ok(lost + 1)
    }

    /// Removes the oldest dead letters of a queue, by its full name, that have so many bytes together, or all.
    async fn make_room(&self, queue: &str, bytes: usize) -> Result<usize> {
        let (mut count, mut freed) = (0, 0);
        while freed < bytes {
            let mut oldest = Vec::new();
            for letter in each!(self, b => b.dead_letters(queue, 0, LETTERS).await)? {
                if freed < bytes {
                    freed += letter.payload.len().max(1);
                    oldest.push(letter.sequence);
                }
            }
            if oldest.is_empty() {
                break;
            }
            count += each!(self, b => b.discard(queue, oldest).await)?;
        }
        Ok(count)
    }
}

/// Event bus.
impl Backbone {
    /// Tells whoever listens, at most once, and does not wait for them.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`], [`Error::TooLarge`], [`Error::Unavailable`], [`Error::Closed`].
    pub async fn publish(&self, subject: &str, payload: impl Into<Bytes>) -> Result<()> {
        each!(self, b => b.publish(&self.full_subject(subject), payload.into()).await)
    }

    /// Listens to a subject pattern, with `*` for one token and a last `>` for one or more. What is published
    /// after this answers is seen, unless the reader is too slow, which [`Event::Lagged`] reports.
    ///
    /// # Errors
    /// As [`Backbone::publish`].
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription> {
        Ok(each!(self, b => b.subscribe(&self.full_subject(pattern)).await)?.under(self.scope.len()))
    }
}
