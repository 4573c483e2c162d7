// SPDX-License-Identifier: Apache-2.0
//! One job for each idempotency key.
//!
//! A record in the backbone says which job has a key. It says as well when that is over, by the
//! wall clock: the sweeps of plans and of jobs go by that one, while an embedded backbone
//! counts a time to live only while it is open. Invariant: a record whose time is over is
//! absent, and is written over at its revision.

use fanfold_backbone::{Backbone, CasOutcome, Entry};
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    keys, limits,
    time::{self, Timestamp},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{PAUSE, PLANNING, json};
use crate::{
    extract::check_key,
    jobs::error::{Error, Result},
};

/// An idempotency key and the request that came with it.
pub struct Key {
    /// Of the key's text.
    pub digest: Digest,
    request: Digest,
}

/// What is remembered of a request made under a key.
#[derive(Serialize, Deserialize)]
struct Remembered {
    job: Uuid,
    request: Digest,
    /// Until when. An earlier release did not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

impl Key {
    /// The key that came with a request.
    ///
    /// # Errors
    /// As [`check_key`].
    pub fn new(text: &str, request: &impl Serialize) -> Result<Self, Problem> {
        check_key(text.as_bytes())?;
        let request = serde_json::to_vec(request).map_err(|e| Error::damaged("the job", e))?;
        Ok(Self { digest: Digest::of(text.as_bytes()), request: Digest::of(&request) })
    }

    /// The job that was submitted under the key within the last 24 hours.
    ///
    /// # Errors
    /// `idempotency-conflict` when it was another request.
    pub async fn find(&self, backbone: &Backbone) -> Result<Option<Uuid>> {
        let Some(entry) = backbone.get(&self.name()).await? else { return Ok(None) };
        self.same(&entry)
    }

    /// Gives the key to a job that is planned and not yet accepted; answers the
    /// job that has it, which may be another one.
    pub async fn give(&self, backbone: &Backbone, job: Uuid) -> Result<Uuid> {
        let (name, window) = (self.name(), limits::IDEMPOTENCY_WINDOW);
        let expires_at = Some(time::now().later(window));
        let value = json(&Remembered { job, request: self.request, expires_at })?;
        // The revision of a record whose time is over.
        let mut over = None;
        loop {
            let given = match over {
                Some(revision) => backbone.update_with_ttl(&name, value.clone(), revision, window).await?,
                None => backbone.create_with_ttl(&name, value.clone(), window).await?,
            };
            let held = match given {
                CasOutcome::Stored(_) => return Ok(job),
                CasOutcome::Conflict(held) => held,
            };
            if let Some(entry) = &held
                && let Some(other) = self.same(entry)?
            {
                return Ok(other);
            }
            over = held.map(|entry| entry.revision);
        }
    }

    /// The job that has the key, once it is given.
    pub async fn wait(&self, backbone: &Backbone) -> Result<Option<Uuid>> {
        let deadline = tokio::time::Instant::now() + PLANNING;
        loop {
            let found = self.find(backbone).await?;
            if found.is_some() || tokio::time::Instant::now() > deadline {
                return Ok(found);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The job of a record for the same request; none when its time is over.
    fn same(&self, entry: &Entry) -> Result<Option<Uuid>> {
        let name = self.name();
        let found: Remembered = serde_json::from_slice(&entry.value).map_err(|e| Error::damaged(&name, e))?;
        if found.expires_at.is_some_and(|end| end <= time::now()) {
            return Ok(None);
        }
        if found.request == self.request {
            return Ok(Some(found.job));
        }
        Err(Error::Refused(Problem::new(
            ErrorKind::IdempotencyConflict,
            format!(
                "expected the request that this Idempotency-Key was first used for, which became job {}, found another \
                 one; use a new key",
                found.job
            ),
        )))
    }

    fn name(&self) -> String {
        keys::idempotency("jobs", &self.digest)
    }
}

#[cfg(test)]
mod tests {
    use fanfold_backbone::EmbeddedConfig;

    use super::*;

    async fn backbone() -> (tempfile::TempDir, Backbone) {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::new(folder.path().join("backbone.redb"));
        let backbone = Backbone::embedded(config).await.unwrap();
        (folder, backbone)
    }

    fn job(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// Writes a record as it was written so long ago that its time is over in `left_ms`.
    async fn age(backbone: &Backbone, key: &Key, left_ms: u64) {
        let name = key.name();
        let held = backbone.get(&name).await.unwrap().unwrap();
        let mut found: Remembered = serde_json::from_slice(&held.value).unwrap();
        assert!(found.expires_at.unwrap() > time::now());
        found.expires_at = Some(Timestamp(time::now().0 + left_ms));
        backbone.put(&name, json(&found).unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_whose_time_is_over_is_given_anew_though_its_record_is_there() {
        let (_folder, backbone) = backbone().await;
        let [key, other] = ["a", "b"].map(|request| Key::new("monday", &request).unwrap());
        assert_eq!(key.give(&backbone, job(1)).await.unwrap(), job(1));
        age(&backbone, &key, 60_000).await;
        assert_eq!(key.give(&backbone, job(2)).await.unwrap(), job(1));
        assert!(other.find(&backbone).await.is_err() && other.give(&backbone, job(2)).await.is_err());
        age(&backbone, &key, 0).await;
        assert_eq!(key.find(&backbone).await.unwrap(), None);
        assert_eq!(other.give(&backbone, job(3)).await.unwrap(), job(3));
        assert_eq!(other.find(&backbone).await.unwrap(), Some(job(3)));
        assert!(key.find(&backbone).await.is_err());
    }

    #[tokio::test]
    async fn a_record_of_an_earlier_release_counts_while_it_is_there() {
        let (_folder, backbone) = backbone().await;
        let key = Key::new("monday", &"a").unwrap();
        let earlier = serde_json::json!({"job": job(1), "request": key.request}).to_string();
        backbone.put(&key.name(), earlier).await.unwrap();
        assert_eq!(key.find(&backbone).await.unwrap(), Some(job(1)));
        assert_eq!(key.give(&backbone, job(2)).await.unwrap(), job(1));
    }
}
