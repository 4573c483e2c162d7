// SPDX-License-Identifier: Apache-2.0
//! The system bucket as jobs see it: typed JSON objects under known keys.
//!
//! Used by every part of the job engine that writes something down. Objects
//! here are written once; the first writer wins and the others read it.

use bytes::Bytes;
use fanfold_protocol::{job::JobDocument, keys, time::Timestamp, uri::ObjectUri};
use fanfold_storage::{ListEntry, ListOptions, PutOptions, PutOutcome, Store};
use futures::{StreamExt, TryStreamExt};
use serde::{Serialize, de::DeserializeOwned};
use uuid::{Builder, Uuid};

use super::error::{Error, Result};

/// The platform's own objects.
#[derive(Clone, Debug)]
pub struct Vault {
    store: Store,
    bucket: String,
}

impl Vault {
    /// The objects of this bucket.
    pub fn new(store: Store, bucket: String) -> Self {
        Self { store, bucket }
    }

    /// Where a job's output goes.
    pub fn output_of(&self, document: &JobDocument, id: &Uuid) -> Result<ObjectUri> {
        match &document.output {
            Some(output) => Ok(output.clone()),
            None => self.uri(&keys::default_output(id)),
        }
    }

    /// The store under it, for objects of users.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The place of a key.
    pub fn uri(&self, key: &str) -> Result<ObjectUri> {
        Ok(ObjectUri::new(self.bucket.clone(), key)?)
    }

    /// An object's bytes, if it is there.
    pub async fn bytes(&self, key: &str) -> Result<Option<Bytes>> {
        match self.store.get(&self.uri(key)?, None).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(fanfold_storage::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// An object, if it is there.
    pub async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let Some(bytes) = self.bytes(key).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::unread(key, &e))
    }

    /// An object that must be there.
    pub async fn expect<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.read(key).await?.ok_or_else(|| Error::damaged(key, "no such object"))
    }

    /// Writes an object unless one is there; false when another was first.
    pub async fn write_once<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<bool> {
        let body = serde_json::to_vec(value).map_err(|e| Error::damaged(key, e))?;
        self.write_bytes_once(key, body.into(), "application/json").await
    }

    /// Writes bytes unless an object is there; false when another was first.
    pub async fn write_bytes_once(&self, key: &str, body: Bytes, content_type: &str) -> Result<bool> {
        let writer = Uuid::new_v4().simple().to_string();
        let options = PutOptions::typed(content_type);
        let outcome = self.store.put_if_absent(&self.uri(key)?, body, &writer, options).await?;
        Ok(matches!(outcome, PutOutcome::Created(_)))
    }

    /// The keys under a prefix, in byte order.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let list = self.store.list(&self.bucket, prefix, ListOptions::default());
        Ok(list.map_ok(|entry| entry.name().to_owned()).try_collect().await?)
    }

    /// Whether there is any key under a prefix.
    pub async fn has_some(&self, prefix: &str) -> Result<bool> {
        let mut list = std::pin::pin!(self.store.list(&self.bucket, prefix, ListOptions::default()));
        Ok(list.try_next().await?.is_some())
    }

    /// The folders just under a prefix that ends in `/`, from behind a key on.
    async fn folders(&self, prefix: &str, start_after: Option<String>) -> Result<Vec<String>> {
        let options = ListOptions { start_after, ..ListOptions::level() };
        let list = self.store.list(&self.bucket, prefix, options);
        let folders = list.try_filter_map(|entry| async move {
            Ok(match entry {
                ListEntry::Prefix(folder) => Some(folder),
                ListEntry::Object { .. } => None,
            })
        });
        Ok(folders.boxed().try_collect().await?)
    }

    /// The jobs that have a folder, accepted or not: all, or those that were given their id since
    /// some time, which ids begin with (RFC 9562, version 7).
    pub async fn jobs(&self, since: Option<Timestamp>) -> Result<Vec<Uuid>> {
        let first = |since: Timestamp| Builder::from_unix_timestamp_millis(since.0, &[0; 10]).into_uuid();
        let start_after = since.map(|since| format!("{}{}", keys::JOBS, first(since)));
        let folders = self.folders(keys::JOBS, start_after).await?;
        let id = |folder: &String| folder.strip_prefix(keys::JOBS)?.strip_suffix('/')?.parse::<Uuid>().ok();
        Ok(folders.iter().filter_map(id).collect())
    }

    /// Removes everything under a prefix.
    pub async fn clear(&self, prefix: &str) -> Result<usize> {
        let keys = self.keys(prefix).await?;
        let count = keys.len();
        if count > 0 {
            self.store.delete_many(&self.bucket, keys).await?;
        }
        Ok(count)
    }
}
