// SPDX-License-Identifier: Apache-2.0
//! A function's record: the truth in the store, its copy in the backbone.
//!
//! Every change is a compare-and-set on the stored object; then the copy is
//! brought up to it, under the backbone's own compare-and-set and always from
//! the object as it is at that moment. So whoever copies last copies the truth,
//! and a crash in between is mended at the next change or start.

use std::{
    collections::{BTreeMap, HashMap},
    future::ready,
};

use bytes::Bytes;
use fanfold_backbone::{Backbone, CasOutcome, Entry};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::{FunctionRecord, Unknown},
    keys,
    names::FunctionName,
    uri::ObjectUri,
};
use fanfold_storage::{ListEntry, ListOptions, Store};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    problem::{internal, is_of_a_record, of_backbone, of_store},
    tagged,
};

/// How often a change is tried that others get in the way of.
const TRIES_MAX: u32 = 32;
/// Records read at once when the copies are rebuilt.
const REBUILDS_AT_ONCE: usize = 16;

/// Where records are kept.
#[derive(Clone)]
pub(crate) struct Records {
    pub(crate) store: Store,
    pub(crate) bucket: String,
    pub(crate) backbone: Backbone,
}

/// The backbone's copy, with the entity tag of what it was copied from.
#[derive(Serialize, Deserialize, PartialEq)]
struct Copy {
    #[serde(flatten)]
    record: FunctionRecord,
    etag: String,
}

/// Reads the backbone's copy.
pub(crate) fn of_entry(entry: &Entry) -> Option<FunctionRecord> {
    serde_json::from_slice::<Copy>(&entry.value).map(|copy| copy.record).ok()
}

/// A record before there is any version.
pub(crate) fn blank(name: &FunctionName) -> FunctionRecord {
    let (aliases, unknown) = (BTreeMap::new(), Unknown::new());
    FunctionRecord { name: name.clone(), latest: 0, removed: 0, aliases, unknown }
}

impl Records {
    /// An object of the platform's own.
    pub(crate) fn object(&self, key: String) -> Result<ObjectUri, Problem> {
        ObjectUri::new(self.bucket.clone(), key)
    }

    /// The record as stored, and its entity tag.
    pub(crate) async fn read(
        &self,
        name: &FunctionName,
    ) -> Result<Option<(FunctionRecord, String)>, Problem> {
        tagged::read(&self.store, &self.object(keys::aliases(name))?).await
    }

    /// Changes the record: `change` makes the new one out of what is there, and
    /// may be asked several times, but not about what it has just made. Answers the
    /// record and its revision in the backbone. Not cancellation safe beyond this: a
    /// dropped change may have been made.
    pub(crate) async fn change(
        &self,
        name: &FunctionName,
        change: impl Fn(Option<&FunctionRecord>) -> Result<FunctionRecord, Problem>,
    ) -> Result<(FunctionRecord, u64), Problem> {
        let mut tried = None;
        for _ in 0..TRIES_MAX {
            let found = self.read(name).await?;
            let record = found.as_ref().map(|(record, _)| record);
            // A write whose answer was lost is sent again, and refused for what it has written.
            if tried.is_some() && tried.as_ref() == record {
                return self.copy(name).await;
            }
            let wanted = change(record)?;
            let unchanged = record == Some(&wanted);
            if unchanged || self.write(&wanted, found.map(|(_, etag)| etag)).await? {
                return self.copy(name).await;
            }
            tried = Some(wanted);
        }
        Err(contended(name))
    }

    /// Writes the record over the one with this tag, or where there is none.
    /// False when something else is there.
    async fn write(&self, record: &FunctionRecord, etag: Option<String>) -> Result<bool, Problem> {
        let uri = self.object(keys::aliases(&record.name))?;
        let body = Bytes::from(serde_json::to_vec(record).map_err(internal)?);
        tagged::write(&self.store, &uri, body, etag).await
    }

    /// Brings the backbone's copy up to the stored record.
    async fn copy(&self, name: &FunctionName) -> Result<(FunctionRecord, u64), Problem> {
        let key = keys::function_record(name);
        for _ in 0..TRIES_MAX {
            // The entry first: if the object changes after it was read here, whoever
            // changed it finds our entry, or makes our compare-and-set fail.
            let entry = self.backbone.get(&key).await.map_err(of_backbone)?;
            let Some((record, etag)) = self.read(name).await? else {
                return Err(internal(format!("the record of {name} is gone from the store")));
            };
            let copy = Copy { record, etag };
            if let Some(entry) = &entry
                && serde_json::from_slice::<Copy>(&entry.value).is_ok_and(|found| found == copy)
            {
                return Ok((copy.record, entry.revision));
            }
            let value = serde_json::to_vec(&copy).map_err(internal)?;
            let outcome = match entry {
                Some(entry) => self.backbone.update(&key, value, entry.revision).await,
                None => self.backbone.create(&key, value).await,
            };
            if let CasOutcome::Stored(revision) = outcome.map_err(of_backbone)? {
                return Ok((copy.record, revision));
            }
        }
        Err(contended(name))
    }

    /// Makes every copy in the backbone agree with the store, reading only what
    /// differs: what a crash left, or everything after the backbone was lost. A record
    /// that cannot be read or copied stays as it is, and keeps no others from being called.
    pub(crate) async fn rebuild(&self) -> Result<(), Problem> {
        let stored = self.stored().await?;
        let copies: HashMap<String, Entry> =
            self.backbone.list(keys::FUNCTIONS).await.map_err(of_backbone)?.into_iter().collect();
        let stale = stored.into_iter().filter(|(name, found)| {
            let copy = copies
                .get(&keys::function_record(name))
                .map(|entry| serde_json::from_slice::<Copy>(&entry.value));
            let same =
                |copy: &Copy| Some(&copy.etag) == found.etag.as_ref() && copy.record.latest >= found.latest;
            !matches!(&copy, Some(Ok(copy)) if same(copy))
        });
        stream::iter(stale)
            .map(|(name, found)| async move {
                tracing::info!(function = %name, "the record in the backbone is brought up to the store");
                let raise = |record: Option<&FunctionRecord>| {
                    let mut record = record.cloned().unwrap_or_else(|| blank(&name));
                    record.latest = record.latest.max(found.latest);
                    Ok(record)
                };
                match self.change(&name, raise).await {
                    Err(problem) if is_of_a_record(&problem) => {
                        tracing::error!(function = %name, detail = %problem.detail, "its record cannot be read or copied and stays as it is: a newer release may read it, else remove the function and deploy it anew");
                        Ok(())
                    }
                    changed => changed.map(drop),
                }
            })
            .buffer_unordered(REBUILDS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Every function in the store: its newest version and its record's tag.
    async fn stored(&self) -> Result<BTreeMap<FunctionName, Stored>, Problem> {
        let mut all: BTreeMap<FunctionName, Stored> = BTreeMap::new();
        let mut listing =
            std::pin::pin!(self.store.list(&self.bucket, keys::FUNCTIONS, ListOptions::default()));
        while let Some(entry) = listing.try_next().await.map_err(of_store)? {
            let ListEntry::Object { key, pin, .. } = entry else { continue };
            let Some((name, rest)) = key.strip_prefix(keys::FUNCTIONS).and_then(|rest| rest.split_once('/'))
            else {
                continue;
            };
            let Ok(name) = name.parse::<FunctionName>() else { continue };
            let found = all.entry(name.clone()).or_default();
            if key == keys::aliases(&name) {
                found.etag = Some(pin.etag);
            } else if let Some(number) = rest.strip_prefix("versions/").and_then(number_of) {
                found.latest = found.latest.max(number);
            }
        }
        Ok(all)
    }

    /// The highest number above `known` that a version has in the store, whether or not the
    /// record knows of it; else `known`.
    pub(crate) async fn highest(&self, name: &FunctionName, known: u32) -> Result<u32, Problem> {
        let prefix = keys::versions(name);
        let unknown = ListOptions { start_after: Some(keys::version(name, known)), ..ListOptions::default() };
        let listing = self.store.list(&self.bucket, &prefix, unknown).map_err(of_store);
        let number = |entry: &ListEntry| entry.name().strip_prefix(&prefix).and_then(number_of);
        listing.try_fold(known, |highest, entry| ready(Ok(highest.max(number(&entry).unwrap_or(0))))).await
    }
}

/// What a listing says of a function.
#[derive(Default)]
struct Stored {
    latest: u32,
    etag: Option<String>,
}

/// The number of the version that lies in this file.
fn number_of(file: &str) -> Option<u32> {
    file.strip_suffix(".json")?.parse().ok()
}

fn contended(name: &FunctionName) -> Problem {
    Problem::new(
        ErrorKind::BackboneUnavailable,
        format!("expected to change the record of {name}, found others changing it all the time; try again"),
    )
}
