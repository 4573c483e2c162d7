// SPDX-License-Identifier: Apache-2.0
//! The key-value half: reads from the stream's leader, writes that expect a revision, listings and watches.
//!
//! Every write reads what the key holds, so that a conflict can be told and a lapsed value counts as none, and then
//! lets the server compare. The expected sequence alone does not decide a race: a cluster of 2.9 compares it only
//! when a message comes in, not when it is stored, and lets several racers win. So the message also carries an id
//! made of the key and the revision that it follows, of which each copy stores the first alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::sleep;
use uuid::Uuid;

use super::Core;
use super::fault::{Refusal, SILENT, unavailable};
use super::feed::{Feed, State};
use super::lapses::Lapse;
use super::names;
use super::record::{self, Record};
use crate::bounds::check_size;
use crate::error::Result;
use crate::kv::{CasOutcome, DeleteOutcome, Entry, Expected, Page, VALUE_BYTES_MAX, Watch, Watcher, watch};
use crate::name::{Scope, check_key};

/// Between two looks at what has lapsed.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// Removals under way at once.
const SWEEPS: usize = 32;
/// Before a lost consumer is made anew, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long a watch stays after its reader left.
const UNWATCHED: Duration = Duration::from_secs(1);

impl Core {
    pub(super) async fn get(&self, key: &str) -> Result<Option<Entry>> {
        check_key(key)?;
        Ok(self.last(key).await?.and_then(|record| self.live(key, record)))
    }

    /// Stores a value where the key holds what is expected. Where that is anything, it names what it follows all the
    /// same: else it could slip in between another's comparison and its storing.
    pub(super) async fn write(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<CasOutcome> {
        check_key(key)?;
        check_size("a value", VALUE_BYTES_MAX, value.len())?;
        loop {
            let last = self.last(key).await?;
            let revision = last.as_ref().map_or(0, |last| last.revision);
            match (&expected, last.and_then(|last| self.live(key, last))) {
                (Expected::Anything, _) | (Expected::Nothing, None) => {}
                (Expected::Revision(expected), Some(held)) if held.revision == *expected => {}
                (_, held) => return Ok(CasOutcome::Conflict(held)),
            }
            match self.store(key, Some(value.clone()), ttl, revision).await {
                Ok(revision) => return Ok(CasOutcome::Stored(revision)),
                Err(Refusal::Failed(error)) => return Err(error),
                // Somebody was faster; what they wrote is the conflict to tell.
                Err(Refusal::Outdated) => {}
            }
        }
    }

    pub(super) async fn delete(&self, key: &str, expected: Option<u64>) -> Result<DeleteOutcome> {
        check_key(key)?;
        loop {
            let held = self.last(key).await?.and_then(|last| self.live(key, last));
            let Some(held) = held else { return Ok(DeleteOutcome::Absent) };
            if expected.is_some_and(|expected| expected != held.revision) {
                return Ok(DeleteOutcome::Conflict(held));
            }
            match self.store(key, None, None, held.revision).await {
                Ok(revision) => return Ok(DeleteOutcome::Deleted(revision)),
                Err(Refusal::Failed(error)) => return Err(error),
                Err(Refusal::Outdated) => {}
            }
        }
    }

    pub(super) async fn list_page(&self, scope: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let scope = Scope::parse(scope)?;
        let (state, feed) = Feed::open(self, &scope, false, 0).await?;
        feed.close(self);
        let behind = |key: &str| after.is_none_or(|after| key > after);
        let live = state.into_iter().filter(|(key, _)| behind(key));
        let mut live = live.filter_map(|(key, record)| Some((self.live(&key, record)?, key)));
        let entries: Vec<_> = live.by_ref().take(limit).map(|(entry, key)| (key, entry)).collect();
        let next = live.next().and(entries.last()).map(|(key, _)| key.clone());
        Ok(Page { entries, next })
    }

    /// What the leader last stored for a key. A connection that breaks takes the question along without a word.
    async fn last(&self, key: &str) -> Result<Option<Record>> {
        if self.restricted {
            return self.insist(|| self.soon(move || self.ask_copy(key))).await;
        }
        self.insist(|| self.soon(move || self.ask_last(key))).await
    }

    /// What any copy has of a key, which the server can allow key by key.
    pub(super) async fn ask_copy(&self, key: &str) -> Result<Option<Record>> {
        match self.keys.direct_get_last_for_subject(self.names.key(key)).await {
            Ok(message) => Ok(Some(Record::of_stored(message))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(format!(
                "{error}; expected the stream {} as a gateway makes it, with allow_direct, and the right to read {key}",
                self.names.keys_stream()
            ))),
        }
    }

    async fn ask_last(&self, key: &str) -> Result<Option<Record>> {
        match self.keys.get_last_raw_message_by_subject(&self.names.key(key)).await {
            Ok(message) => Ok(Some(Record::of_stored(message))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The entry of a record that was not removed and has not lapsed.
    fn live(&self, key: &str, record: Record) -> Option<Entry> {
        let lasts = self.lapses.note(key, &record, Instant::now());
        let revision = record.revision;
        record.value.filter(|_| lasts).map(|value| Entry { value, revision })
    }

    /// Stores a record where the key's last one is `expected` (0: where there is none). One that no answer came to is
    /// sent again, and what the key holds then tells whether the first was stored after all.
    async fn store(
        &self,
        key: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
        expected: u64,
    ) -> std::result::Result<u64, Refusal> {
        // Counted from before the server can know of it: nobody else takes it for lapsed earlier.
        let (begun, write) = (Instant::now(), Uuid::new_v4());
        let mut message = record::message(value.clone(), ttl, write).expected_last_subject_sequence(expected);
        // That there is none is compared when it is stored as well, and holds more than once in the life of a key.
        if expected > 0 {
            message = message.message_id(names::successor_id(key, expected));
        }
        let stored = match self.heard(|| self.send_record(key, message.clone())).await {
            Some((Err(Refusal::Outdated), 2..)) => self.written(key, write).await,
            Some((stored, _)) => stored,
            None => Err(Refusal::Failed(unavailable(SILENT))),
        };
        let (value, age) = (value.map(|_| Bytes::new()), Duration::ZERO);
        let record = Record { revision: stored?, value, ttl, age, write: None };
        self.lapses.note(key, &record, begun);
        Ok(record.revision)
    }

    /// The revision that a record got.
    async fn send_record(&self, key: &str, message: PublishMessage) -> std::result::Result<u64, Refusal> {
        let ack = self.jetstream.send_publish(self.names.key(key), message).await?.await?;
        if ack.duplicate { Err(Refusal::Outdated) } else { Ok(ack.sequence) }
    }

    /// The revision of a write, where it is what the key holds.
    async fn written(&self, key: &str, write: Uuid) -> std::result::Result<u64, Refusal> {
        let last = self.last(key).await.map_err(Refusal::Failed)?;
        last.filter(|last| last.write == Some(write)).map(|last| last.revision).ok_or(Refusal::Outdated)
    }
}

/// Sweeping.
impl Core {
    /// Learns of every time to live and removes what has lapsed, until the backbone closes.
    pub(super) async fn sweep(self: Arc<Self>) {
        let listening = async {
            let mut backoff = BACKOFF.0;
            if self.restricted {
                return std::future::pending().await;
            }
            loop {
                let begun = Instant::now();
                let Err(error) = self.listen_for_lapses().await;
                tracing::debug!(%error, "what has a time to live is read anew");
                if begun.elapsed() > BACKOFF.1 {
                    backoff = BACKOFF.0;
                }
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        };
        let sweeping = async {
            loop {
                sleep(SWEEP_EVERY).await;
                let mut due = self.lapses.take_due(Instant::now());
                if self.restricted {
                    // Ended here, removed by those who may.
                    due.clear();
                }
                let swept = due.into_iter().map(|(key, lapse)| self.sweep_one(key, lapse));
                stream::iter(swept).for_each_concurrent(SWEEPS, |swept| swept).await;
            }
        };
        tokio::select! {
            () = self.closed.cancelled() => {}
            never = listening => never,
            never = sweeping => never,
        }
    }

    async fn listen_for_lapses(&self) -> Result<std::convert::Infallible> {
        let mut gaps = self.gaps.clone();
        gaps.mark_unchanged();
        let (_, mut feed) = Feed::open(self, &Scope::parse("")?, true, 0).await?;
        loop {
            tokio::select! {
                heard = feed.next(self) => drop(heard?),
                _ = gaps.changed() => return Err(unavailable("the connection was lost")),
            }
        }
    }

    async fn sweep_one(&self, key: String, lapse: Lapse) {
        if lapse.is_removal {
            // By its sequence: what was written since is another message. Gone already is as good.
            drop(self.keys.delete_message(lapse.revision).await);
            self.lapses.forget(&key, lapse);
            return;
        }
        if let Err(Refusal::Failed(error)) = self.store(&key, None, None, lapse.revision).await {
            tracing::debug!(%error, key, "a key that has lapsed cannot be removed yet");
            self.lapses.put_back(&key, lapse);
        }
    }
}

/// Watching.
impl Core {
    pub(super) async fn watch(self: &Arc<Self>, scope: &str) -> Result<Watch> {
        let scope = Scope::parse(scope)?;
        let mut gaps = self.gaps.clone();
        gaps.mark_unchanged();
        let (state, feed) = Feed::open(self, &scope, false, 0).await?;
        let seen = last_of(&state);
        let known = state.iter().map(|(key, record)| (key.clone(), record.revision)).collect();
        let entries = state.into_iter().filter_map(|(key, record)| {
            Some((key, Entry { value: record.value?, revision: record.revision }))
        });
        let (watcher, watch) = watch(scope.clone(), entries.collect());
        let following = Following { core: Arc::clone(self), scope, watcher, known, seen, gaps };
        tokio::spawn(following.run(feed));
        Ok(watch)
    }
}

/// The task behind a watch.
struct Following {
    core: Arc<Core>,
    scope: Scope,
    watcher: Watcher,
    /// The last revision told of each key that there is.
    known: HashMap<String, u64>,
    /// The last revision of all, removals included.
    seen: u64,
    gaps: tokio::sync::watch::Receiver<u64>,
}

impl Following {
    async fn run(mut self, feed: Feed) {
        let core = Arc::clone(&self.core);
        let mut feed = Some(feed);
        let mut backoff = BACKOFF.0;
        let following = async {
            while self.watcher.is_watched() {
                let error = match feed.take() {
                    Some(mut open) => match self.follow(&mut open).await {
                        Ok(()) => {
                            open.close(&self.core);
                            return;
                        }
                        Err(error) => error,
                    },
                    None => match self.begin_anew().await {
                        Ok(open) => {
                            (feed, backoff) = (Some(open), BACKOFF.0);
                            continue;
                        }
                        Err(error) => error,
                    },
                };
                tracing::debug!(%error, scope = self.scope.as_str(), "a watch begins anew");
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        };
        tokio::select! {
            () = core.closed.cancelled() => {}
            () = following => {}
        }
    }

    /// Hands on what comes, until nobody reads any more.
    async fn follow(&mut self, feed: &mut Feed) -> Result<()> {
        while self.watcher.is_watched() {
            tokio::select! {
                heard = feed.next(&self.core) => if let Some((key, record)) = heard? {
                    self.tell(&key, &record);
                },
                _ = self.gaps.changed() => return Err(unavailable("the connection was lost")),
                () = sleep(UNWATCHED) => {}
            }
        }
        Ok(())
    }

    /// Reads the state again and tells in what it differs, keys included that are gone without a trace.
    async fn begin_anew(&mut self) -> Result<Feed> {
        self.gaps.mark_unchanged();
        let (state, feed) = Feed::open(&self.core, &self.scope, false, self.seen).await?;
        let reached = last_of(&state).max(self.seen);
        let gone: Vec<String> = self.known.keys().filter(|key| !state.contains_key(*key)).cloned().collect();
        for key in gone {
            self.known.remove(&key);
            self.watcher.send(&key, reached, None);
        }
        // Less than before where the servers lost their data.
        self.seen = last_of(&state);
        self.tell_all(state);
        Ok(feed)
    }

    fn tell_all(&mut self, state: State) {
        for (key, record) in state {
            // Servers that lost their data count anew, so another revision is news even where it is lower.
            if self.known.get(&key).is_some_and(|known| *known != record.revision) {
                self.known.remove(&key);
            }
            self.tell(&key, &record);
        }
    }

    fn tell(&mut self, key: &str, record: &Record) {
        self.seen = self.seen.max(record.revision);
        if self.known.get(key).is_some_and(|known| *known >= record.revision) {
            return;
        }
        match &record.value {
            Some(_) => drop(self.known.insert(key.to_owned(), record.revision)),
            None => drop(self.known.remove(key)),
        }
        self.watcher.send(key, record.revision, record.value.as_ref());
    }
}

fn last_of(state: &State) -> u64 {
    state.values().map(|record| record.revision).max().unwrap_or_default()
}
