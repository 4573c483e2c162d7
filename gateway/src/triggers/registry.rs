// SPDX-License-Identifier: Apache-2.0
//! The triggers of a tenant: the truth in the store, a copy in the backbone,
//! and in memory what every event is held against.
//!
//! Every change is a compare-and-set on the stored object; then the copy is
//! brought up to it. The copy is watched, so that a change made through another
//! gateway is seen here as well. Invariants: of two records of a trigger the one
//! of the later revision is kept in memory, in whatever order they come; and no
//! record is written that the backbone could not hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bytes::Bytes;
use fanfold_backbone::{Backbone, CasOutcome, Change, Entry, kv::VALUE_BYTES_MAX};
use fanfold_protocol::{ErrorKind, Problem, keys, limits, names::TriggerName, uri::ObjectUri};
use fanfold_storage::{ListEntry, ListOptions, Store};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    backlog::Backlog,
    breaker::Breaker,
    counters::Counters,
    intake::Rooms,
    record::{Trigger, TriggerRecord},
    sns::Verifier,
    sqs::Statuses,
};
use crate::{
    problem::{internal, is_of_a_record, of_backbone, of_store},
    tagged,
};

/// How often a change is tried that others get in the way of.
const TRIES_MAX: u32 = 32;
/// Records read at once when the copies are rebuilt: there may be ten thousand, and a start waits for them.
const REBUILDS_AT_ONCE: usize = 16;

/// The handle of a tenant's triggers; clones share everything.
#[derive(Clone)]
pub struct Triggers {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    bucket: String,
    backbone: Backbone,
    known: RwLock<BTreeMap<TriggerName, Known>>,
    /// Counts changes, for whoever follows them.
    changed: watch::Sender<u64>,
    counters: Counters,
    backlog: Backlog,
    rooms: Rooms,
    breaker: Breaker,
    sns: Verifier,
    polls: Statuses,
    /// Wakes whoever looks for objects whose events were lost.
    look: watch::Sender<u64>,
    /// Triggers that had no room for events that nobody sends again.
    missed: Mutex<BTreeSet<Uuid>>,
}

#[derive(Clone)]
struct Known {
    trigger: Arc<Trigger>,
    /// Of the backbone's entry.
    revision: u64,
}

impl Triggers {
    /// Brings the backbone's copies up to the store, reads them, and keeps them up
    /// to date until `shutdown`. Of each trigger so many events may wait.
    ///
    /// # Errors
    /// When the store or the backbone does not answer.
    pub async fn start(
        store: Store,
        bucket: String,
        backbone: Backbone,
        events_waiting_max: u64,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        let ((changed, _), (look, _)) = (watch::channel(0), watch::channel(0));
        let triggers = Self {
            inner: Arc::new(Inner {
                store,
                bucket,
                backbone,
                known: RwLock::default(),
                changed,
                counters: Counters::default(),
                backlog: Backlog::default(),
                rooms: Rooms::new(events_waiting_max),
                breaker: Breaker::default(),
                polls: Statuses::default(),
                sns: Verifier::default(),
                look,
                missed: Mutex::default(),
            }),
        };
        triggers.rebuild().await?;
        let following = triggers.clone();
        tokio::spawn(async move { shutdown.run_until_cancelled(following.follow()).await });
        Ok(triggers)
    }

    /// The platform's own bucket.
    pub(super) fn system_bucket(&self) -> &str {
        &self.inner.bucket
    }

    /// What is counted.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// How many events wait.
    pub(crate) fn backlog(&self) -> &Backlog {
        &self.inner.backlog
    }

    /// Where events wait.
    pub(super) fn backbone(&self) -> &Backbone {
        &self.inner.backbone
    }

    /// How full their queues are.
    pub(super) fn rooms(&self) -> &Rooms {
        &self.inner.rooms
    }

    /// How much they start.
    pub(super) fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    /// What checks messages of SNS.
    pub(super) fn sns(&self) -> &Verifier {
        &self.inner.sns
    }

    /// How the polling of their queues goes.
    pub(super) fn polls(&self) -> &Statuses {
        &self.inner.polls
    }

    /// Pauses a trigger that may not go on, and says why.
    ///
    /// # Errors
    /// `trigger-not-found`; or the store or the backbone does not answer.
    pub(super) async fn pause_itself(&self, record: &TriggerRecord, because: String) -> Result<(), Problem> {
        let paused = self.change(&record.name, |found| {
            let found = found.filter(|found| found.id == record.id && !found.removed);
            let mut record = found.cloned().ok_or_else(|| not_found(&record.name))?;
            (record.paused, record.paused_because) = (true, Some(because.clone()));
            Ok(record)
        });
        paused.await.map(drop)
    }

    /// A trigger, unless it was removed.
    ///
    /// # Errors
    /// `trigger-not-found`; or the backbone does not answer.
    pub async fn show(&self, name: &TriggerName) -> Result<Arc<Trigger>, Problem> {
        if let Some(trigger) = self.get(name) {
            return Ok(trigger);
        }
        // Made through another gateway a moment ago.
        if let Some(entry) =
            self.inner.backbone.get(&keys::trigger_record(name)).await.map_err(of_backbone)?
        {
            self.take(&entry);
        }
        self.get(name).ok_or_else(|| not_found(name))
    }

    /// A trigger as far as this process knows it.
    pub fn get(&self, name: &TriggerName) -> Option<Arc<Trigger>> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).map(|known| Arc::clone(&known.trigger)).filter(|trigger| !trigger.record.removed)
    }

    /// Every trigger, by name.
    pub fn list(&self) -> Vec<Arc<Trigger>> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|known| Arc::clone(&known.trigger)).filter(|t| !t.record.removed).collect()
    }

    /// Every record that there ever was, those of removed triggers included.
    pub(super) fn records(&self) -> Vec<Arc<Trigger>> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|known| Arc::clone(&known.trigger)).collect()
    }

    /// A trigger by its id, unless it was removed.
    pub(super) fn by_id(&self, id: &Uuid) -> Option<Arc<Trigger>> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut triggers = known.values().map(|known| &known.trigger);
        triggers.find(|trigger| trigger.record.id == *id && !trigger.record.removed).map(Arc::clone)
    }

    /// Tells of every change of a trigger.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Makes every reconciler look now.
    pub(super) fn look_now(&self) {
        self.inner.look.send_modify(|count| *count += 1);
    }

    /// Tells when every reconciler is to look.
    pub(super) fn looks(&self) -> watch::Receiver<u64> {
        self.inner.look.subscribe()
    }

    /// Notes that a trigger had no room for events that nobody sends again; false
    /// where that is noted already.
    pub(super) fn miss(&self, trigger: Uuid) -> bool {
        self.inner.missed.lock().unwrap_or_else(PoisonError::into_inner).insert(trigger)
    }

    /// The triggers of which that was noted since this was asked last.
    pub(super) fn take_missed(&self) -> BTreeSet<Uuid> {
        std::mem::take(&mut *self.inner.missed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes a trigger's record: `change` makes the new one out of what is
    /// there, and may be asked several times. A dropped change may have been made.
    ///
    /// # Errors
    /// What `change` says; or the store or the backbone does not answer.
    pub async fn change(
        &self,
        name: &TriggerName,
        change: impl Fn(Option<&TriggerRecord>) -> Result<TriggerRecord, Problem>,
    ) -> Result<Arc<Trigger>, Problem> {
        for _ in 0..TRIES_MAX {
            let found = self.read(name).await?;
            let wanted = change(found.as_ref().map(|(record, _)| record))?;
            // What cannot be compiled is not kept.
            let trigger = Trigger::new(wanted)?;
            let unchanged = found.as_ref().is_some_and(|(record, _)| *record == trigger.record);
            if unchanged || self.write(&trigger.record, found.map(|(_, etag)| etag)).await? {
                return self.copy(name).await;
            }
        }
        Err(contended(name))
    }

    /// Dates a trigger that was just made by the store's clock, which dates the objects: where a
    /// gateway's is ahead, looks would take those of its first time for older ones. Where the
    /// store does not tell, the gateway's counts.
    pub async fn dated(&self, made: Arc<Trigger>) -> Arc<Trigger> {
        match self.date(&made.record).await {
            Ok(dated) => dated.unwrap_or(made),
            Err(problem) => {
                tracing::warn!(trigger = %made.record.name, detail = %problem.detail, "the store does not tell when the trigger was made; the clock of this gateway counts");
                made
            }
        }
    }

    async fn date(&self, made: &TriggerRecord) -> Result<Option<Arc<Trigger>>, Problem> {
        let written = self.inner.store.head(&self.object(&made.name)?).await.map_err(of_store)?.last_modified;
        // A store tells whole seconds.
        if written.0 == 0 || written.0 / 1_000 == made.created_at.0 / 1_000 {
            return Ok(None);
        }
        let dated = self.change(&made.name, |found| {
            let found = found.filter(|found| found.id == made.id && !found.removed);
            let found = found.cloned().ok_or_else(|| not_found(&made.name))?;
            Ok(TriggerRecord { created_at: written, ..found })
        });
        dated.await.map(Some)
    }

    /// Refuses one trigger, or one name, more than there may be.
    ///
    /// # Errors
    /// `invalid-trigger`.
    pub fn check_room(&self, name: &TriggerName) -> Result<(), Problem> {
        let known = self.inner.known.read().unwrap_or_else(PoisonError::into_inner);
        has_room(&known, name).map_err(|said| Problem::new(ErrorKind::InvalidTrigger, said))
    }

    fn object(&self, name: &TriggerName) -> Result<ObjectUri, Problem> {
        ObjectUri::new(self.inner.bucket.clone(), keys::trigger(name))
    }

    /// The record as stored, and its entity tag.
    async fn read(&self, name: &TriggerName) -> Result<Option<(TriggerRecord, String)>, Problem> {
        tagged::read(&self.inner.store, &self.object(name)?).await
    }

    /// Writes the record over the one with this tag, or where there is none.
    /// False when something else is there.
    async fn write(&self, record: &TriggerRecord, etag: Option<String>) -> Result<bool, Problem> {
        let uri = self.object(&record.name)?;
        let body = Bytes::from(serde_json::to_vec(record).map_err(internal)?);
        if body.len() > VALUE_BYTES_MAX {
            return Err(Problem::new(
                ErrorKind::InvalidTrigger,
                format!(
                    "the record of a trigger must be at most {VALUE_BYTES_MAX} bytes, found {}; shorten its document",
                    body.len()
                ),
            ));
        }
        tagged::write(&self.inner.store, &uri, body, etag).await
    }

    /// Brings the backbone's copy up to the stored record. The entry is read
    /// first: whoever changes the object after it was read here finds our entry,
    /// or makes our compare-and-set fail.
    async fn copy(&self, name: &TriggerName) -> Result<Arc<Trigger>, Problem> {
        let (key, backbone) = (keys::trigger_record(name), &self.inner.backbone);
        for _ in 0..TRIES_MAX {
            let entry = backbone.get(&key).await.map_err(of_backbone)?;
            let Some((record, _)) = self.read(name).await? else {
                return Err(internal(format!("the record of the trigger {name} is gone from the store")));
            };
            let value = Bytes::from(serde_json::to_vec(&record).map_err(internal)?);
            let outcome = match &entry {
                Some(entry) if entry.value == value => CasOutcome::Stored(entry.revision),
                Some(entry) => backbone.update(&key, value, entry.revision).await.map_err(of_backbone)?,
                None => backbone.create(&key, value).await.map_err(of_backbone)?,
            };
            if let CasOutcome::Stored(revision) = outcome {
                let trigger = Arc::new(Trigger::new(record)?);
                self.keep(Arc::clone(&trigger), revision);
                return Ok(trigger);
            }
        }
        Err(contended(name))
    }

    /// Makes every copy agree with the store: what a crash left, or everything
    /// after the backbone was lost. A record that cannot be copied is left out, so
    /// that all others have their events; making its trigger anew mends a large one.
    async fn rebuild(&self) -> Result<(), Problem> {
        let listing = self.inner.store.list(&self.inner.bucket, keys::TRIGGERS, ListOptions::default());
        let entries: Vec<ListEntry> = listing.try_collect().await.map_err(of_store)?;
        let names = entries.into_iter().filter_map(|entry| {
            let file = entry.name().strip_prefix(keys::TRIGGERS)?;
            file.strip_suffix(".json")?.parse::<TriggerName>().ok()
        });
        stream::iter(names)
            .map(|name| async move {
                match self.copy(&name).await {
                    Err(problem) if is_of_a_record(&problem) => {
                        tracing::error!(trigger = %name, detail = %problem.detail, "its record cannot be copied: it starts nothing until it is made anew");
                        Ok(())
                    }
                    copied => copied.map(drop),
                }
            })
            .buffer_unordered(REBUILDS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Takes over changes made elsewhere, for as long as the backbone is open.
    async fn follow(&self) {
        let mut changes = self.inner.backbone.follow(keys::TRIGGERS);
        while let Some(change) = changes.next().await {
            if let Change::Put { entry, .. } = change {
                self.take(&entry);
            }
        }
    }

    fn take(&self, entry: &Entry) {
        let record = serde_json::from_slice::<TriggerRecord>(&entry.value).map_err(internal);
        match record.and_then(Trigger::new) {
            Ok(trigger) => self.keep(Arc::new(trigger), entry.revision),
            Err(problem) => {
                tracing::warn!(detail = %problem.detail, "the record of a trigger cannot be read")
            }
        }
    }

    fn keep(&self, trigger: Arc<Trigger>, revision: u64) {
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        let name = trigger.record.name.clone();
        if known.get(&name).is_some_and(|known| known.revision >= revision) {
            return;
        }
        known.insert(name, Known { trigger, revision });
        drop(known);
        self.inner.changed.send_modify(|count| *count += 1);
    }
}

/// Whether there is room for a trigger of this name. Records of removed triggers stay, each
/// under its name, until another has that.
fn has_room(known: &BTreeMap<TriggerName, Known>, name: &TriggerName) -> Result<(), String> {
    let (most, names_most) = (limits::TRIGGERS_MAX, limits::TRIGGER_NAMES_MAX);
    let mut removed = known.iter().filter(|(_, known)| known.trigger.record.removed);
    if known.len() - removed.clone().count() >= most {
        return Err(format!(
            "at most {most} triggers may exist, found as many; remove one first, or let one do for several prefixes"
        ));
    }
    match removed.next() {
        Some((free, _)) if known.len() >= names_most && !known.contains_key(name) => Err(format!(
            "at most {names_most} names may be used for triggers, found as many; take the name of one that was \
             removed, such as {free}"
        )),
        _ => Ok(()),
    }
}

pub(super) fn not_found(name: &TriggerName) -> Problem {
    Problem::new(
        ErrorKind::TriggerNotFound,
        format!("expected a trigger named {name}, found none; see `fanfold trigger ls`"),
    )
}

fn contended(name: &TriggerName) -> Problem {
    Problem::new(
        ErrorKind::BackboneUnavailable,
        format!("expected to change the trigger {name}, found others changing it all the time; try again"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanfold_backbone::EmbeddedConfig;
    use fanfold_storage::{Credentials, StoreConfig};
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::Barrier,
    };

    use super::{super::record::tests::trigger, *};

    /// Answers a listing at once, and a read of a record once as many have come as there may be.
    async fn answer(mut connection: TcpStream, together: &Barrier) {
        let mut head = Vec::<u8>::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if connection.read_buf(&mut head).await.unwrap() == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let body = if head.contains("list-type=2") {
            let keys = (0..REBUILDS_AT_ONCE).map(|n| keys::trigger(&format!("t-{n}").parse().unwrap()));
            let object =
                |key: String| format!("<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag></Contents>");
            format!("<ListBucketResult>{}</ListBucketResult>", keys.map(object).collect::<String>())
        } else {
            together.wait().await;
            let (_, name) = head.split_once(keys::TRIGGERS).unwrap();
            let (name, _) = name.split_once(".json").unwrap();
            let trigger = trigger(name, json!({"bucket": "bank", "function": "f"}));
            serde_json::to_string(&trigger.record).unwrap()
        };
        let length = body.len();
        let text = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\netag: \"e\"\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        connection.write_all(text.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_start_reads_records_beside_each_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let together = Arc::new(Barrier::new(REBUILDS_AT_ONCE));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let together = Arc::clone(&together);
                tokio::spawn(async move { answer(connection, &together).await });
            }
        });
        let store = Store::connect(StoreConfig::at(endpoint, Credentials::new("key", "secret"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("backbone"))).await.unwrap();
        let starting = Triggers::start(store, "fanfold".to_owned(), backbone, 10, CancellationToken::new());
        let started = tokio::time::timeout(Duration::from_secs(15), starting).await;
        let triggers = started.expect("none of them waits for another").unwrap();
        assert_eq!(triggers.list().len(), REBUILDS_AT_ONCE);
    }

    fn add(known: &mut BTreeMap<TriggerName, Known>, name: &str, removed: bool) {
        let mut trigger = trigger(name, json!({"bucket": "bank", "function": "f"}));
        trigger.record.removed = removed;
        known.insert(trigger.record.name.clone(), Known { trigger: Arc::new(trigger), revision: 1 });
    }

    #[test]
    fn names_of_removed_triggers_are_used_again_once_there_are_many() {
        let check = |known: &BTreeMap<TriggerName, Known>, name: &str, expected: Result<(), &str>| {
            let found = has_room(known, &name.parse().unwrap());
            match expected {
                Ok(()) => assert_eq!(found, Ok(()), "{name}"),
                Err(part) => assert!(found.unwrap_err().contains(part), "{name}"),
            }
        };
        let mut known = BTreeMap::new();
        for n in 2..limits::TRIGGER_NAMES_MAX {
            add(&mut known, &format!("gone-{n:04}"), true);
        }
        add(&mut known, "t-0", false);
        check(&known, "t-1", Ok(()));
        add(&mut known, "t-1", false);
        check(&known, "t-2", Err("such as gone-0002"));
        check(&known, "gone-7000", Ok(()));
        for n in 2..limits::TRIGGERS_MAX {
            add(&mut known, &format!("gone-{n:04}"), false);
        }
        check(&known, "gone-7000", Err("at most 1000 triggers"));
    }
}
