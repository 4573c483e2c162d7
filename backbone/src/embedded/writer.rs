// SPDX-License-Identifier: Apache-2.0
//! The one writer: gathers operations, applies them in one transaction, makes it durable, answers them all.
//!
//! A plain thread between the handles' channel and the store (group commit). Invariant: nobody is answered, and
//! no watcher told, before the transaction is on disk.

use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::embedded::kv::{self, Changed, Kv};
use crate::embedded::op::{Grant, Leased, Op, Reply, Request, Verb};
use crate::embedded::queue::{Place, Queue, Waiter};
use crate::embedded::store::{self, DbResult, Store, Tables};
use crate::embedded::work::{self, Queues, Work};
use crate::error::{Error, Result};
use crate::kv::{Watcher, watch};
use crate::queue::Settled;

/// Operations applied in one transaction.
const BATCH_MAX: usize = 2_048;
/// How long growth is refused without trying and deliveries rest, after a failed commit.
const STALL: Duration = Duration::from_millis(250);
/// How late an expired key may be purged, so that many go in one transaction.
const PURGE_SLACK_MS: u64 = 200;
/// How often the store's clock is written down while something waits for it.
const CLOCK_EVERY: Duration = Duration::from_secs(10);
/// Longest sleep; nothing depends on it.
const IDLE: Duration = Duration::from_secs(60);

/// The writer's state.
pub(crate) struct Writer {
    store: Arc<Store>,
    inbox: Receiver<Request>,
    dedupe_window: Duration,
    queues: Queues,
    watchers: Vec<Watcher>,
    /// What a failed commit was to change, until it is known whether it is on disk all the same.
    doubtful: Vec<Changed>,
    sequence: u64,
    tokens: u64,
    /// When the next key expires, on the store's clock.
    next_expiry: Option<u64>,
    /// After a failed commit: until when growth and deliveries rest, and why.
    stalled: Option<(Instant, Error)>,
    clock_saved: Instant,
    /// The queues in memory may differ from the file, which could not be read when they should have been loaded.
    adrift: bool,
}

/// What a transaction leaves to be done once it is on disk.
#[derive(Default)]
struct Effects {
    replies: Vec<Reply>,
    /// For each waiter, in order.
    leased: Vec<Vec<Leased>>,
    changed: Vec<Changed>,
    sequence: u64,
    tokens: u64,
    next_expiry: Option<u64>,
}

type Answer = oneshot::Sender<Result<Reply>>;

impl Writer {
    /// Loads the queues from the file.
    pub(crate) fn new(store: Arc<Store>, inbox: Receiver<Request>, dedupe_window: Duration) -> Result<Self> {
        let now_ms = store.clock.now_ms();
        let queues = store.read(|txn| work::load(txn, now_ms, dedupe_window))?;
        let sequence = store.sequence;
        Ok(Writer {
            store,
            inbox,
            dedupe_window,
            queues,
            watchers: Vec::new(),
            doubtful: Vec::new(),
            sequence,
            tokens: 0,
            next_expiry: Some(0),
            stalled: None,
            clock_saved: Instant::now(),
            adrift: false,
        })
    }

    /// Serves until it is told to close, or every handle is gone.
    pub(crate) fn run(mut self) {
        let closing = loop {
            match self.inbox.recv_timeout(self.pause()) {
                Ok(first) => {
                    let mut batch = vec![first];
                    batch.extend(self.inbox.try_iter().take(BATCH_MAX - 1));
                    if let Some(answer) = self.serve(batch) {
                        break Some(answer);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.serve(Vec::new());
                }
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        let (now_ms, sequence) = (self.store.clock.now_ms(), self.sequence);
        // Where this fails, delays and times to live are measured from the commit before.
        let _ = self.store.write(|tables| tables.advance(now_ms, sequence));
        self.store.close();
        if let Some(answer) = closing {
            let _ = answer.send(Ok(Reply::Done));
        }
    }

    /// Handles one batch; answers with whoever asked to close.
    fn serve(&mut self, batch: Vec<Request>) -> Option<Answer> {
        let (mut durable, mut after, mut closing) = (Vec::new(), Vec::new(), None);
        for request in batch {
            match request {
                Request { op: Op::Close, reply, .. } => closing = Some(reply),
                Request { op: Op::Pull(pull), reply, .. } => {
                    let queue = self.queues.entry(pull.queue.clone()).or_default();
                    queue.waiters.push_back(Waiter { pull, reply });
                }
                Request {
                    op: Op::Settle { queue, sequence, token, verb: Verb::Extend(lease) },
                    reply,
                    ..
                } => {
                    let settled = self.extend(&queue, sequence, token, lease);
                    let _ = reply.send(Ok(Reply::Settled(settled)));
                }
                request if request.op.is_durable() => durable.push(request),
                request => after.push(request),
            }
        }
        self.tick();
        self.commit_all(durable);
        for request in after {
            let answer = self.answer(request.op);
            let _ = request.reply.send(answer);
        }
        self.dismiss_waiters();
        closing
    }

    /// Commits a batch. Where the disk is full, what frees space or only moves on is tried without the rest.
    fn commit_all(&mut self, mut durable: Vec<Request>) {
        let now = Instant::now();
        self.stalled = self.stalled.take().filter(|(until, _)| *until > now);
        if let Some((_, full @ Error::StorageFull { .. })) = &self.stalled {
            refuse(&mut durable, full);
        }
        let waiters = if self.stalled.is_none() { self.take_waiters() } else { Vec::new() };
        let Err(failure) = self.commit(&mut durable, waiters) else { return };
        tracing::warn!(%failure, operations = durable.len(), "a batch could not be committed");
        self.stalled = Some((Instant::now() + STALL, failure.clone()));
        if matches!(failure, Error::StorageFull { .. }) {
            refuse(&mut durable, &failure);
            if durable.is_empty() || self.commit(&mut durable, Vec::new()).is_ok() {
                return;
            }
        }
        for request in durable {
            let _ = request.reply.send(Err(failure.clone()));
        }
    }

    /// Applies, commits, answers. On failure the requests stay, unanswered, and memory is as the file says.
    fn commit(&mut self, durable: &mut Vec<Request>, waiters: Vec<Waiter>) -> Result<()> {
        let serves = waiters.iter().any(|waiter| self.has_ready(&waiter.pull.queue));
        if durable.is_empty() && !serves && !self.is_purge_due() && !self.is_clock_due() {
            self.put_back(waiters);
            return Ok(());
        }
        if self.adrift
            && let Err(failure) = self.reload()
        {
            self.put_back(waiters);
            return Err(failure);
        }
        let (store, mut effects) = (Arc::clone(&self.store), Effects::default());
        let written = store.write(|tables| {
            effects = self.apply(tables, durable, &waiters)?;
            Ok(())
        });
        match written {
            Ok(()) => {
                self.finish(mem::take(durable), waiters, effects);
                Ok(())
            }
            Err(failure) => {
                self.doubtful = effects.changed;
                if let Err(reading) = self.reload() {
                    tracing::error!(%reading, "the queues cannot be read after a failed commit");
                }
                self.put_back(waiters);
                Err(failure)
            }
        }
    }

    fn apply(
        &mut self,
        tables: &mut Tables<'_>,
        durable: &[Request],
        waiters: &[Waiter],
    ) -> DbResult<Effects> {
        let now_ms = self.store.clock.now_ms();
        let mut effects = Effects { sequence: self.sequence, tokens: self.tokens, ..Effects::default() };
        for request in durable {
            let reply = self.apply_one(tables, now_ms, &mut effects, &request.op)?;
            effects.replies.push(reply);
        }
        effects.next_expiry = Kv::new(tables, now_ms, &mut effects.sequence, &mut effects.changed).purge()?;
        let now = Instant::now();
        for waiter in waiters {
            let mut tokens = effects.tokens;
            let leased = self.work(tables, now_ms, &mut effects).grant(&waiter.pull, now, &mut tokens)?;
            effects.tokens = tokens;
            effects.leased.push(leased);
        }
        tables.advance(now_ms, effects.sequence)?;
        Ok(effects)
    }

    fn apply_one(
        &mut self,
        tables: &mut Tables<'_>,
        now_ms: u64,
        effects: &mut Effects,
        op: &Op,
    ) -> DbResult<Reply> {
        match op {
            Op::Write { .. } | Op::Delete { .. } => {
                let mut kv = Kv::new(tables, now_ms, &mut effects.sequence, &mut effects.changed);
                match op {
                    Op::Write { key, value, ttl, expected } => {
                        Ok(Reply::Cas(kv.write(key, value, *ttl, expected)?))
                    }
                    Op::Delete { key, expected } => Ok(Reply::Delete(kv.delete(key, *expected)?)),
                    _ => Ok(Reply::Done),
                }
            }
            Op::Enqueue { queue, messages } => {
                let enqueued = self.work(tables, now_ms, effects).enqueue(queue, messages)?;
                Ok(Reply::Enqueued(enqueued))
            }
            Op::Settle { queue, sequence, token, verb } => {
                let settled = self.work(tables, now_ms, effects).settle(queue, *sequence, *token, verb)?;
                Ok(Reply::Settled(settled))
            }
            Op::Release { queue, leases } => {
                self.work(tables, now_ms, effects).release(queue, leases)?;
                Ok(Reply::Done)
            }
            Op::Replay { queue, sequences } => {
                Ok(Reply::Count(self.work(tables, now_ms, effects).replay(queue, sequences)?))
            }
            Op::Discard { queue, sequences } => {
                Ok(Reply::Count(self.work(tables, now_ms, effects).discard(queue, sequences)?))
            }
            Op::Watch(_) | Op::Pull(_) | Op::Depth(_) | Op::Ping | Op::Close => Ok(Reply::Done),
        }
    }

    fn work<'a, 't>(
        &'a mut self,
        tables: &'a mut Tables<'t>,
        now_ms: u64,
        effects: &'a mut Effects,
    ) -> Work<'a, 't> {
        let sequence = &mut effects.sequence;
        Work { tables, now_ms, sequence, queues: &mut self.queues, dedupe_window: self.dedupe_window }
    }

    /// The transaction is on disk: answers everybody and tells the watchers.
    fn finish(&mut self, durable: Vec<Request>, waiters: Vec<Waiter>, effects: Effects) {
        self.clock_saved = Instant::now();
        self.sequence = effects.sequence;
        self.tokens = effects.tokens;
        self.next_expiry = effects.next_expiry;
        self.tell(&effects.changed);
        for (request, reply) in durable.into_iter().zip(effects.replies) {
            let _ = request.reply.send(Ok(reply));
        }
        let mut unserved = Vec::new();
        for (waiter, leased) in waiters.into_iter().zip(effects.leased) {
            if leased.is_empty() {
                unserved.push(waiter);
                continue;
            }
            // The lease begins when the worker gets it, not before the disk was done.
            for message in &leased {
                self.extend(&waiter.pull.queue, message.sequence, message.token, waiter.pull.lease);
            }
            let Waiter { pull, reply } = waiter;
            let grant = Grant { queue: pull.queue, leased, back: pull.back };
            let _ = reply.send(Ok(Reply::Grant(grant)));
        }
        self.put_back(unserved);
    }

    fn tell(&mut self, changed: &[Changed]) {
        for (key, revision, value) in changed {
            self.watchers.retain(|watcher| watcher.send(key, *revision, value.as_ref()));
        }
    }

    /// What needs no transaction.
    fn answer(&mut self, op: Op) -> Result<Reply> {
        match op {
            Op::Depth(queue) => {
                Ok(Reply::Depth(self.queues.get(&queue).map(Queue::depth).unwrap_or_default()))
            }
            Op::Watch(scope) => {
                let now_ms = self.store.clock.now_ms();
                let state = self.store.read(|txn| kv::list(txn, &scope, None, usize::MAX, now_ms))?;
                let (watcher, reader) = watch(scope, state.entries);
                self.watchers.retain(Watcher::is_watched);
                self.watchers.push(watcher);
                Ok(Reply::Watch(reader))
            }
            _ => match &self.stalled {
                Some((_, failure)) => Err(failure.clone()),
                None => Ok(Reply::Done),
            },
        }
    }

    fn extend(&mut self, name: &str, sequence: u64, token: u64, lease: Duration) -> Settled {
        let Some(queue) = self.queues.get_mut(name) else { return Settled::Stale };
        let Some(item) = queue.leased(sequence, token) else { return Settled::Stale };
        queue.place(sequence, item.attempt, Place::Leased { token, until: Instant::now() + lease });
        Settled::Done
    }

    /// Loads the queues anew after a failed transaction. Leases that the file agrees with go on. What failed may
    /// be on disk all the same: its sequences are not handed out again, nor is what expires of it forgotten, and
    /// watchers are told.
    fn reload(&mut self) -> Result<()> {
        self.adrift = true;
        let (now_ms, window) = (self.store.clock.now_ms(), self.dedupe_window);
        let (mut loaded, landed) =
            self.store.read(|txn| Ok((work::load(txn, now_ms, window)?, store::sequence(txn)?)))?;
        let doubtful = mem::take(&mut self.doubtful);
        if landed > self.sequence {
            (self.sequence, self.next_expiry) = (landed, Some(0));
            self.tell(&doubtful);
        }
        for (name, old) in &mut self.queues {
            let queue = loaded.entry(name.clone()).or_default();
            queue.waiters = mem::take(&mut old.waiters);
            for (sequence, item) in old.leases() {
                if queue.item(sequence).is_some_and(|loaded| loaded.attempt == item.attempt) {
                    queue.place(sequence, item.attempt, item.place);
                }
            }
        }
        self.queues = loaded;
        self.adrift = false;
        Ok(())
    }

    fn tick(&mut self) {
        let (now, now_ms) = (Instant::now(), self.store.clock.now_ms());
        for queue in self.queues.values_mut() {
            queue.tick(now, now_ms);
        }
        self.queues.retain(|_, queue| !queue.is_idle());
    }

    fn has_ready(&self, name: &str) -> bool {
        self.queues.get(name).is_some_and(|queue| queue.first_ready().is_some())
    }

    fn take_waiters(&mut self) -> Vec<Waiter> {
        let taken = self.queues.values_mut().flat_map(|queue| queue.waiters.drain(..));
        taken.filter(|waiter| !waiter.reply.is_closed()).collect()
    }

    fn put_back(&mut self, waiters: Vec<Waiter>) {
        for waiter in waiters {
            self.queues.entry(waiter.pull.queue.clone()).or_default().waiters.push_back(waiter);
        }
    }

    /// Answers those whose waiting is over: nothing came.
    fn dismiss_waiters(&mut self) {
        let now = Instant::now();
        for queue in self.queues.values_mut() {
            for Waiter { pull, reply } in queue.expired_waiters(now) {
                let grant = Grant { queue: pull.queue, leased: Vec::new(), back: pull.back };
                let _ = reply.send(Ok(Reply::Grant(grant)));
            }
        }
    }

    fn is_purge_due(&self) -> bool {
        self.stalled.is_none()
            && self.next_expiry.is_some_and(|next| next + PURGE_SLACK_MS <= self.store.clock.now_ms())
    }

    /// True where the clock should be written down, since something is measured by it.
    fn is_clock_due(&self) -> bool {
        let measured =
            self.next_expiry.is_some() || self.queues.values().any(|queue| queue.next().1.is_some());
        measured && self.stalled.is_none() && self.clock_saved.elapsed() >= CLOCK_EVERY
    }

    /// How long to sleep when nobody asks for anything.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let mut next = now + IDLE;
        let clock = &self.store.clock;
        if let Some(expiry) = self.next_expiry {
            let until =
                clock.instant(expiry.saturating_add(PURGE_SLACK_MS)).min(self.clock_saved + CLOCK_EVERY);
            next = next.min(until);
        }
        for queue in self.queues.values() {
            let (moment, due) = queue.next();
            next = next.min(moment.unwrap_or(next));
            if let Some(due) = due {
                next = next.min(clock.instant(due)).min(self.clock_saved + CLOCK_EVERY);
            }
        }
        match &self.stalled {
            // Whatever failed is tried again when the stall is over, not before.
            Some((until, _)) => until.saturating_duration_since(now),
            None => next.saturating_duration_since(now),
        }
    }
}

/// Answers what would make the file larger with the failure, and keeps the rest.
fn refuse(durable: &mut Vec<Request>, failure: &Error) {
    for request in durable.extract_if(.., |request| request.op.grows()) {
        let _ = request.reply.send(Err(failure.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use futures::{FutureExt as _, StreamExt as _};
    use redb::ReadableTable as _;
    use tempfile::TempDir;

    use super::*;
    use crate::embedded::EmbeddedConfig;
    use crate::embedded::store::MESSAGES;
    use crate::kv::{Change, Expected, Watch};
    use crate::name::Scope;
    use crate::queue::{Enqueued, Message};

    fn writer() -> (TempDir, Arc<Store>, Writer) {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::new(folder.path().join("b.redb"));
        let store = Arc::new(Store::open(&config).unwrap());
        let (_, inbox) = mpsc::channel();
        let writer = Writer::new(Arc::clone(&store), inbox, config.dedupe_window).unwrap();
        (folder, store, writer)
    }

    fn enqueue(id: &str) -> (Request, oneshot::Receiver<Result<Reply>>) {
        let (reply, answer) = oneshot::channel();
        let op = Op::Enqueue { queue: "q".to_owned(), messages: vec![Message::new(id, id.to_owned())] };
        (Request { op, reply, _room: None }, answer)
    }

    #[test]
    fn what_landed_although_its_commit_failed_is_not_overwritten() {
        let (_folder, store, mut writer) = writer();
        // It is on disk, and the writer is told that it failed.
        let first = [enqueue("first").0];
        store.write(|tables| writer.apply(tables, &first, &[])).unwrap();
        writer.reload().unwrap();
        let (second, mut answer) = enqueue("second");
        writer.commit(&mut vec![second], Vec::new()).unwrap();
        let Ok(Ok(Reply::Enqueued(enqueued))) = answer.try_recv() else { panic!("another answer") };
        assert_eq!(enqueued, Enqueued { accepted: 1, duplicates: 0 });
        // Whoever sends the first one again is told that it is there, and it is.
        let (again, mut answer) = enqueue("first");
        writer.commit(&mut vec![again], Vec::new()).unwrap();
        let Ok(Ok(Reply::Enqueued(enqueued))) = answer.try_recv() else { panic!("another answer") };
        assert_eq!(enqueued, Enqueued { accepted: 0, duplicates: 1 });
        let payloads = store.read(|txn| {
            let mut payloads = Vec::new();
            for row in txn.open_table(MESSAGES)?.iter()? {
                payloads.push(row?.1.value().to_vec());
            }
            Ok(payloads)
        });
        assert_eq!(payloads.unwrap(), [b"first".to_vec(), b"second".to_vec()]);
    }

    #[test]
    fn watchers_are_told_of_what_landed_although_its_commit_failed_and_of_nothing_else() {
        let (_folder, store, mut writer) = writer();
        let Ok(Reply::Watch(mut watch)) = writer.answer(Op::Watch(Scope::parse("a/").unwrap())) else {
            panic!("another answer")
        };
        let told = |watch: &mut Watch| -> Vec<Change> {
            std::iter::from_fn(|| watch.next().now_or_never().flatten()).collect()
        };
        let mut fails = |op: Op| {
            let (reply, mut answer) = oneshot::channel();
            writer.stalled = None;
            writer.commit_all(vec![Request { op, reply, _room: None }]);
            assert!(matches!(answer.try_recv(), Ok(Err(_))), "it is told as failed");
        };
        let put = |value: Bytes| Op::Write {
            key: "a/key".to_owned(),
            value,
            ttl: None,
            expected: Expected::Anything,
        };
        assert_eq!(told(&mut watch), [Change::Synced]);
        store.set_size_bytes_max(0);
        fails(put(vec![0_u8; 64 << 20].into()));
        store.set_size_bytes_max(u64::MAX);
        assert!(told(&mut watch).is_empty());
        store.fail_next_sync();
        fails(put("x".into()));
        let seen = told(&mut watch);
        let is_put =
            matches!(&seen[..], [Change::Put { key, entry }] if key == "a/key" && entry.value == "x");
        assert!(is_put, "{seen:?}");
        store.fail_next_sync();
        fails(Op::Delete { key: "a/key".to_owned(), expected: None });
        let seen = told(&mut watch);
        assert!(matches!(&seen[..], [Change::Delete { key, .. }] if key == "a/key"), "{seen:?}");
    }
}
