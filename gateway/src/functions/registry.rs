// SPDX-License-Identifier: Apache-2.0
//! The functions of a tenant: versions that never change, aliases that move.
//!
//! Reading goes through memory; what memory lacks is looked for in the backbone
//! and then in the store, so that a change made through another gateway is seen
//! by the first call that needs it. Numbers of versions are given by
//! put-if-absent, without gaps, and never again after a removal.

use std::sync::{Arc, atomic};

use bytes::Bytes;
use fanfold_backbone::{Backbone, Change};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::{AliasTarget, FunctionRecord, Version},
    keys, limits,
    names::{AliasName, FunctionName, FunctionRef, Qualifier},
};
use fanfold_storage::Store;
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    cache::{Cache, Known},
    records::{Records, blank, of_entry},
};
use crate::{
    page,
    problem::{internal, of_backbone, of_store},
    tagged,
};

/// Versions read at once for a list.
const READS_AT_ONCE: usize = 16;
/// Numbers tried for one deployment: so many others may come between.
const RACES_MAX: u32 = 256;

/// The handle of a tenant's functions; clones share everything.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    records: Records,
    cache: Cache,
}

/// A version, and whether it is a new one.
pub struct Published {
    /// The version.
    pub version: Arc<Version>,
    /// False when the newest version was the same already.
    pub created: bool,
}

impl Registry {
    /// Brings the backbone's records up to the store, reads them, and keeps
    /// them up to date until `shutdown`.
    ///
    /// # Errors
    /// When the store or the backbone does not answer.
    pub async fn start(
        store: Store,
        bucket: String,
        backbone: Backbone,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        let records = Records { store, bucket, backbone };
        records.rebuild().await?;
        let inner = Arc::new(Inner { records, cache: Cache::default() });
        for (_, entry) in inner.records.backbone.list(keys::FUNCTIONS).await.map_err(of_backbone)? {
            if let Some(record) = of_entry(&entry) {
                inner.cache.apply(record, entry.revision);
            }
        }
        let watched = Arc::clone(&inner);
        tokio::spawn(async move {
            shutdown.run_until_cancelled(watched.follow()).await;
        });
        Ok(Self { inner })
    }

    /// The version that a reference names. Each call through a weighted alias
    /// may be given another one.
    ///
    /// # Errors
    /// `function-not-found`, `version-not-found`, `alias-not-found`; or the
    /// store or backbone does not answer.
    pub async fn resolve(&self, reference: &FunctionRef) -> Result<Arc<Version>, Problem> {
        if let Some(known) = self.inner.cache.get(&reference.name)
            && let Ok(number) = choose(&known, &reference.qualifier)
        {
            return self.inner.version(&known, number).await;
        }
        // On the heap, as most calls never get here and are moved with their future.
        let known = Box::pin(self.inner.fresh(&reference.name)).await?;
        let number = choose(&known, &reference.qualifier)?;
        self.inner.version(&known, number).await
    }

    /// The version that a reference names, and the canary beside it, if it has one. Counts as no
    /// call.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub async fn named(
        &self,
        reference: &FunctionRef,
    ) -> Result<(Arc<Version>, Option<Arc<Version>>), Problem> {
        let Qualifier::Alias(alias) = &reference.qualifier else {
            return Ok((self.resolve(reference).await?, None));
        };
        let known = match self.inner.cache.get(&reference.name) {
            Some(known) if known.record.aliases.contains_key(alias) => known,
            _ => self.inner.fresh(&reference.name).await?,
        };
        let target = known.record.aliases.get(alias).ok_or_else(|| no_alias(&known.record, alias))?;
        let canary = match &target.canary {
            Some(canary) => Some(self.inner.version(&known, canary.version).await?),
            None => None,
        };
        Ok((self.inner.version(&known, target.version).await?, canary))
    }

    /// A version by its number, also of a function that was removed since: work
    /// that was accepted for it ends as it began.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn pinned(&self, name: &FunctionName, number: u32) -> Result<Arc<Version>, Problem> {
        match self.inner.cache.get(name) {
            Some(known) => self.inner.version(&known, number).await,
            None => self.inner.stored_version(name, number).await.map(Arc::new),
        }
    }

    /// A function's record.
    ///
    /// # Errors
    /// `function-not-found`; or the backbone does not answer.
    pub async fn show(&self, name: &FunctionName) -> Result<Arc<FunctionRecord>, Problem> {
        match self.inner.cache.get(name).filter(Known::exists) {
            Some(known) => Ok(known.record),
            None => Ok(self.inner.fresh(name).await?.record),
        }
    }

    /// The records of at most `limit` functions by name, from behind `after`; and the last name
    /// of them, when there are more.
    pub fn list(
        &self,
        after: Option<&FunctionName>,
        limit: usize,
    ) -> (Vec<Arc<FunctionRecord>>, Option<FunctionName>) {
        let all = self.inner.cache.all();
        let begin = after.map_or(0, |after| all.partition_point(|known| known.record.name <= *after));
        let rest = all.into_iter().skip(begin).map(|known| known.record);
        let mut records: Vec<_> = rest.take(limit + 1).collect();
        let next = page::cut(&mut records, limit).map(|record| record.name.clone());
        (records, next)
    }

    /// The newest `count` versions of a function, newest first.
    ///
    /// # Errors
    /// As [`Registry::show`], and when the store does not answer.
    pub async fn versions(&self, name: &FunctionName, count: usize) -> Result<Vec<Arc<Version>>, Problem> {
        let known = match self.inner.cache.get(name).filter(Known::exists) {
            Some(known) => known,
            None => self.inner.fresh(name).await?,
        };
        let numbers = (known.record.removed + 1..=known.record.latest).rev().take(count);
        let inner = &self.inner;
        let known = &known;
        stream::iter(numbers)
            .map(|number| inner.version(known, number))
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await
    }

    /// The newest version, if the function exists and that version has not gone from the store.
    ///
    /// # Errors
    /// When the store or the backbone does not answer.
    pub async fn newest(&self, name: &FunctionName) -> Result<Option<Arc<Version>>, Problem> {
        let reference = FunctionRef { name: name.clone(), qualifier: Qualifier::Latest };
        match self.resolve(&reference).await {
            Ok(version) => Ok(Some(version)),
            Err(problem) if is_gone(&problem) => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Gives a deployment its number, unless the newest version has the same
    /// bytes and settings. The number in `draft` is not looked at. Once begun it
    /// comes to its end, also when this future is dropped.
    ///
    /// # Errors
    /// `invalid-request` for one name too many; `storage-full` when the backbone is short of
    /// room for another; or the store or the backbone does not answer. The version may then be
    /// there all the same; publishing again finds it.
    pub async fn publish(&self, draft: Version) -> Result<Published, Problem> {
        let inner = Arc::clone(&self.inner);
        to_its_end(async move { inner.publish(draft).await }).await
    }

    /// Points an alias, and says whether it is new, or removes it. Comes to its end as [`Registry::publish`] does.
    ///
    /// # Errors
    /// `function-not-found`, `version-not-found`, `alias-not-found` (when it is
    /// to be removed), `invalid-request` for odd weights or one alias too many.
    pub async fn set_alias(
        &self,
        name: &FunctionName,
        alias: &AliasName,
        target: Option<AliasTarget>,
    ) -> Result<bool, Problem> {
        let (inner, name, alias) = (Arc::clone(&self.inner), name.clone(), alias.clone());
        to_its_end(async move { inner.set_alias(&name, &alias, target).await }).await
    }

    /// Removes a function with its aliases. Objects of its versions stay, so
    /// that jobs that run them end as they began; their numbers are not given again.
    /// Comes to its end as [`Registry::publish`] does.
    ///
    /// # Errors
    /// `function-not-found`; or the store or backbone does not answer.
    pub async fn remove(&self, name: &FunctionName) -> Result<(), Problem> {
        let (inner, name) = (Arc::clone(&self.inner), name.clone());
        to_its_end(async move { inner.remove(&name).await }).await
    }
}

impl Inner {
    /// What the backbone says of a function, for what memory does not know.
    async fn fresh(&self, name: &FunctionName) -> Result<Known, Problem> {
        let entry = self.records.backbone.get(&keys::function_record(name)).await.map_err(of_backbone)?;
        let entry = entry.ok_or_else(|| no_function(name))?;
        // One that only a newer release can read is no function that is gone.
        let record = of_entry(&entry)
            .ok_or_else(|| internal(format!("the record of {name} in the backbone cannot be read")))?;
        Some(self.cache.apply(record, entry.revision)).filter(Known::exists).ok_or_else(|| no_function(name))
    }

    async fn version(&self, known: &Known, number: u32) -> Result<Arc<Version>, Problem> {
        if let Some(version) = known.version(number) {
            return Ok(version);
        }
        let version = Arc::new(Box::pin(self.stored_version(&known.record.name, number)).await?);
        known.keep(Arc::clone(&version));
        Ok(version)
    }

    async fn stored_version(&self, name: &FunctionName, number: u32) -> Result<Version, Problem> {
        let uri = self.records.object(keys::version(name, number))?;
        let bytes = match self.records.store.get(&uri, None).await {
            // It was there before the record knew of its number, so it will not come.
            Err(fanfold_storage::Error::NotFound { .. }) => {
                let detail = format!(
                    "expected version {number} of {name} as it was deployed, found it gone from the store; deploy the \
                     function again"
                );
                return Err(Problem::new(ErrorKind::VersionNotFound, detail));
            }
            found => found.map_err(of_store)?,
        };
        serde_json::from_slice(&bytes).map_err(|error| internal(format!("{uri}: {error}")))
    }

    async fn publish(&self, draft: Version) -> Result<Published, Problem> {
        let found = self.records.read(&draft.name).await?;
        if found.is_none() {
            self.cache.check_name(&draft.name)?;
            self.records.backbone.check_room().await.map_err(of_backbone)?;
        }
        let record = found.map_or_else(|| blank(&draft.name), |(record, _)| record);
        if record.latest > record.removed {
            match self.stored_version(&draft.name, record.latest).await {
                Ok(newest) if is_same(&newest, &draft) => {
                    self.raise(&draft.name, record.latest).await?;
                    return Ok(Published { version: Arc::new(newest), created: false });
                }
                Err(problem) if !is_gone(&problem) => return Err(problem),
                _ => {}
            }
        }
        let mut version = draft;
        for number in record.latest + 1..=record.latest.saturating_add(RACES_MAX) {
            version.version = number;
            if self.create(&version).await? {
                let known = self.raise(&version.name, number).await?;
                let version = Arc::new(version);
                known.keep(Arc::clone(&version));
                return Ok(Published { version, created: true });
            }
            // Another gateway was first, or a crash left it without a record.
            let other = self.stored_version(&version.name, number).await?;
            if is_same(&other, &version) {
                self.raise(&version.name, number).await?;
                return Ok(Published { version: Arc::new(other), created: false });
            }
        }
        Err(internal(format!("no number was free for {} after {}", version.name, record.latest)))
    }

    async fn set_alias(
        &self,
        name: &FunctionName,
        alias: &AliasName,
        target: Option<AliasTarget>,
    ) -> Result<bool, Problem> {
        let is_new = atomic::AtomicBool::new(false);
        let change = |record: Option<&FunctionRecord>| {
            let mut record =
                record.filter(|r| r.latest > r.removed).cloned().ok_or_else(|| no_function(name))?;
            match &target {
                Some(target) => {
                    check_target(&record, target)?;
                    let added = record.aliases.insert(alias.clone(), target.clone()).is_none();
                    is_new.store(added, atomic::Ordering::Relaxed);
                    if added {
                        check_aliases(&record)?;
                    }
                }
                None => {
                    record.aliases.remove(alias).ok_or_else(|| no_alias(&record, alias))?;
                }
            }
            Ok(record)
        };
        self.change(name, change).await.map(|_| is_new.into_inner())
    }

    async fn remove(&self, name: &FunctionName) -> Result<(), Problem> {
        let known = self.cache.get(name).map_or(0, |known| known.record.latest);
        // A deployment that a crash ended before the record knew of it goes as well: else it
        // would be the newest version, and the function back, after the next start.
        let highest = self.records.highest(name, known).await?;
        let change = |record: Option<&FunctionRecord>| {
            let mut record =
                record.filter(|r| r.latest > r.removed).cloned().ok_or_else(|| no_function(name))?;
            record.latest = record.latest.max(highest);
            record.removed = record.latest;
            record.aliases.clear();
            Ok(record)
        };
        self.change(name, change).await.map(drop)
    }

    /// Writes a version unless its number is taken.
    async fn create(&self, version: &Version) -> Result<bool, Problem> {
        let uri = self.records.object(keys::version(&version.name, version.version))?;
        let body = Bytes::from(serde_json::to_vec(version).map_err(internal)?);
        tagged::write(&self.records.store, &uri, body, None).await
    }

    /// Makes the record know of a version.
    async fn raise(&self, name: &FunctionName, number: u32) -> Result<Known, Problem> {
        self.change(name, |record| {
            let mut record = record.cloned().unwrap_or_else(|| blank(name));
            record.latest = record.latest.max(number);
            Ok(record)
        })
        .await
    }

    async fn change(
        &self,
        name: &FunctionName,
        change: impl Fn(Option<&FunctionRecord>) -> Result<FunctionRecord, Problem>,
    ) -> Result<Known, Problem> {
        let (record, revision) = self.records.change(name, change).await?;
        Ok(self.cache.apply(record, revision))
    }

    /// Takes over every change in the backbone, for as long as that is open.
    async fn follow(&self) {
        let mut changes = self.records.backbone.follow(keys::FUNCTIONS);
        while let Some(change) = changes.next().await {
            self.heard(change);
        }
    }

    fn heard(&self, change: Change) {
        match change {
            Change::Put { entry, key } => match of_entry(&entry) {
                Some(record) => drop(self.cache.apply(record, entry.revision)),
                None => tracing::warn!(key, "a function's record in the backbone cannot be read"),
            },
            Change::Delete { key, revision } => {
                let name = key.strip_prefix(keys::FUNCTIONS).and_then(|name| name.parse().ok());
                if let Some(name) = name {
                    self.cache.forget(&name, revision);
                }
            }
            Change::Synced => {}
        }
    }
}

/// Does to its end what must not be left half done when whoever asked for it goes away.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work.in_current_span()).await.map_err(internal)?
}

/// Same bytes, same settings.
fn is_same(a: &Version, b: &Version) -> bool {
    a.digest == b.digest && a.settings == b.settings
}

fn choose(known: &Known, qualifier: &Qualifier) -> Result<u32, Problem> {
    let record = &known.record;
    if !known.exists() {
        return Err(no_function(&record.name));
    }
    match qualifier {
        Qualifier::Latest => Ok(record.latest),
        Qualifier::Version(number) if known.has(*number) => Ok(*number),
        Qualifier::Version(number) => Err(no_version(record, *number)),
        Qualifier::Alias(alias) => known.draw(alias).ok_or_else(|| no_alias(record, alias)),
    }
}

fn check_target(record: &FunctionRecord, target: &AliasTarget) -> Result<(), Problem> {
    let exists = |number: u32| match (record.removed + 1..=record.latest).contains(&number) {
        true => Ok(()),
        false => Err(no_version(record, number)),
    };
    exists(target.version)?;
    let Some(canary) = &target.canary else { return Ok(()) };
    exists(canary.version)?;
    if !(1..=99).contains(&canary.percent) || canary.version == target.version {
        return Err(Problem::new(
            ErrorKind::InvalidRequest,
            format!(
                "a canary must be another version with 1 to 99 percent of the calls, found version {} beside version \
                 {} with {} percent; leave the canary out to point at one version",
                canary.version, target.version, canary.percent
            ),
        ));
    }
    Ok(())
}

fn check_aliases(record: &FunctionRecord) -> Result<(), Problem> {
    let (most, found) = (limits::ALIASES_MAX, record.aliases.len());
    if found <= most {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::InvalidRequest,
        format!(
            "a function must have at most {most} aliases, found {found} with this one; remove one first, or point one \
             of them elsewhere"
        ),
    ))
}

/// Whether there is no such function, or not any more what was deployed of it.
pub(super) fn is_gone(problem: &Problem) -> bool {
    matches!(problem.code, ErrorKind::FunctionNotFound | ErrorKind::VersionNotFound)
}

fn no_function(name: &FunctionName) -> Problem {
    Problem::new(
        ErrorKind::FunctionNotFound,
        format!("expected a function named {name}, found none; deploy it, or see `fanfold functions ls`"),
    )
}

fn no_version(record: &FunctionRecord, number: u32) -> Problem {
    Problem::new(
        ErrorKind::VersionNotFound,
        format!(
            "expected a version of {} from {} to {}, found {number}; see `fanfold functions show {}`",
            record.name,
            record.removed + 1,
            record.latest,
            record.name
        ),
    )
}

fn no_alias(record: &FunctionRecord, alias: &AliasName) -> Problem {
    let names: Vec<_> = record.aliases.keys().map(AliasName::as_str).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Problem::new(
        ErrorKind::AliasNotFound,
        format!(
            "expected {} to have an alias {alias}, found {found}; set it with `fanfold functions alias`",
            record.name
        ),
    )
}
