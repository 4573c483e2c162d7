// SPDX-License-Identifier: Apache-2.0
//! Removing what attempts staged and no manifest names.
//!
//! Runs when a job ends, under the job's claim on its output prefix: parts there
//! that the manifest does not name belong to losers; without one, all of them
//! do, and beside one that cannot be read those that the job's commits name. So do uploads in parts that are open still: whoever began them was killed, or
//! is too late; and shards of the job's manifest that its head does not name. It runs
//! again soon after a job was stopped and, for what its commits name, once more when no
//! attempt can run any longer. Only names that an attempt gives are touched, and only
//! objects that are not older than the job.

use std::{collections::HashSet, time::Duration};

use fanfold_backbone::Backbone;
use fanfold_protocol::{
    commit::{MANIFEST_NAME, MANIFEST_OBJECTS_MAX},
    job::{Job, JobState},
    keys, limits,
    time::Timestamp,
    uri::ObjectUri,
};
use fanfold_storage::{ListEntry, ListOptions, Upload};
use futures::TryStreamExt;

use crate::jobs::{
    case, claim,
    ending::Ending,
    error::Result,
    manifest,
    prints::{Fingerprint, Prints},
    reuse::kept,
    vault::Vault,
};

/// How far the store's clock may be behind ours: an hour, and what it rounds away.
const SKEW_MAX: Duration = Duration::from_secs(3_600 + 60);

/// Removes the states and answers that attempts staged, but for the states when the
/// job `serves` others, whose mark they go with, and they are not too much for that.
pub async fn staged(vault: &Vault, job: &Job, serves: bool) -> Result<usize> {
    if !serves || job.cache.is_none() {
        return vault.clear(&keys::all_staged(&job.id)).await;
    }
    let (mut gone, mut states, mut bytes) = (Vec::new(), Vec::new(), 0);
    let all = keys::all_staged(&job.id);
    let mut listing = std::pin::pin!(vault.store().list(vault.bucket(), &all, ListOptions::default()));
    while let Some(entry) = listing.try_next().await? {
        let ListEntry::Object { key, pin, .. } = entry else { continue };
        // An answer lies beside the manifest.
        if key.ends_with(".json") {
            gone.push(key);
        } else {
            bytes += pin.size;
            states.push(key);
        }
    }
    if bytes > limits::CACHE_STATES_BYTES_MAX {
        gone.append(&mut states);
    }
    let count = gone.len();
    if count > 0 {
        vault.store().delete_many(vault.bucket(), gone).await?;
    }
    Ok(count)
}

/// The prefix of a job's output.
pub struct Sweep<'a> {
    /// Where the output goes.
    pub output: &'a ObjectUri,
    /// The job.
    pub job: &'a Job,
    /// Whether only what its commits name is removed, and no other parts, besides shards of its
    /// manifest. That is for when the job has ended a while ago: since then anybody may have put
    /// something there.
    pub committed: bool,
}

impl Sweep<'_> {
    /// Removes the tables that attempts of the job staged and no manifest names, and
    /// what is there of uploads that were not ended.
    ///
    /// Between looking and removing the claim is looked at: while it is held, no
    /// other job has begun to write there, so that what was seen is this job's.
    pub async fn losers(&self, vault: &Vault, backbone: &Backbone) -> Result<usize> {
        let (losers, uploads) = match self.committed {
            true => (self.find_committed(vault).await?, Ok(Vec::new())),
            false => {
                let (losers, uploads) = tokio::join!(self.find(vault), self.uploads(vault));
                (losers?, uploads)
            }
        };
        let count = losers.len() + uploads.as_ref().map_or(0, Vec::len);
        let has_claim = count > 0 && self.job.document.output.is_some();
        if has_claim && !claim::held(backbone, self.output, self.job.id).await? {
            tracing::debug!(job = %self.job.id, "the output prefix has another writer; nothing is swept there");
            return Ok(0);
        }
        if !losers.is_empty() {
            vault.store().delete_many(self.output.bucket(), losers).await?;
        }
        // What is read as input is gone by now, whatever becomes of these.
        for (uri, upload) in uploads? {
            vault.store().abort_upload(&uri, &upload).await?;
        }
        Ok(count)
    }

    /// Open uploads of attempts at the job's tasks, to its output and of what they stage, and of its
    /// dead letters, which are complete when this runs.
    async fn uploads(&self, vault: &Vault) -> Result<Vec<(ObjectUri, String)>> {
        let (parts, staged) = (format!("{}part-", self.output.key()), keys::all_staged(&self.job.id));
        let (folder, letters) = (keys::job(&self.job.id), keys::dead_letters(&self.job.id));
        let oldest = self.oldest();
        let (output, own) = tokio::try_join!(
            open_uploads(vault, self.output.bucket(), &parts),
            open_uploads(vault, vault.bucket(), &folder),
        )?;
        let name = |key: &str| manifest::is_part(key.strip_prefix(self.output.key()).unwrap_or_default());
        let output = output.into_iter().filter(|upload| name(&upload.key) && upload.begun >= oldest);
        let output = output.map(|upload| (self.output.bucket(), upload));
        let own = own.into_iter().filter(|upload| upload.key.starts_with(&staged) || upload.key == letters);
        let own = own.map(|upload| (vault.bucket(), upload));
        let place = |(bucket, upload): (&str, Upload)| Ok((ObjectUri::new(bucket, upload.key)?, upload.id));
        output.chain(own).map(place).collect()
    }

    /// What was written before is not this job's, whatever the clocks say.
    fn oldest(&self) -> Timestamp {
        self.job.submitted_at.earlier(SKEW_MAX)
    }

    /// What a manifest names: of this job, or of the one that it was to replace. None when what lies
    /// there cannot be read as one.
    async fn named(&self, vault: &Vault) -> Result<Option<Prints<()>>> {
        use fanfold_storage::Error::{NotFound, TooLarge};
        let uri = self.output.join(MANIFEST_NAME)?;
        let bytes = match vault.store().get(&uri, None).await {
            Ok(bytes) => bytes,
            Err(NotFound { .. }) => return Ok(Some(Prints::default())),
            Err(TooLarge { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match manifest::parsed(&bytes, |head| head).await? {
            Ok(head) => manifest::prints(vault.store(), &uri, head).await.map(Some),
            Err(error) => {
                tracing::warn!(job = %self.job.id, %uri, %error, "a manifest is another program's, or damaged");
                Ok(None)
            }
        }
    }

    async fn find_committed(&self, vault: &Vault) -> Result<Vec<String>> {
        self.committed(vault, self.find(vault).await?).await
    }

    /// Of these parts those that the job's commits name.
    async fn committed(&self, vault: &Vault, losers: Vec<String>) -> Result<Vec<String>> {
        if losers.is_empty() {
            return Ok(losers);
        }
        let (parts, mut committed) = parts_and_shards(self.output, losers);
        let mut commits = std::pin::pin!(case::commits(vault, &self.job.id));
        while let Some(commit) = commits.try_next().await? {
            let tables = commit.tasks.iter().filter_map(|task| task.outcome.table());
            let here = tables.filter(|table| table.uri.bucket() == self.output.bucket());
            let keys = here.map(|table| table.uri.key().to_owned());
            committed.extend(keys.filter(|key| parts.contains(key)));
        }
        Ok(committed)
    }

    async fn find(&self, vault: &Vault) -> Result<Vec<String>> {
        if let Some(keep) = self.named(vault).await? {
            return self.find_but(&keep, vault).await;
        }
        // Nobody can say what it names: parts of whoever wrote it stay, and what this job gave to its readers.
        let ending = vault.read::<Ending>(&keys::ending(&self.job.id)).await?;
        if ending.is_some_and(|ending| ending.state == JobState::Succeeded) {
            return Ok(Vec::new());
        }
        self.committed(vault, self.find_but(&Prints::default(), vault).await?).await
    }

    /// Parts that are not among these.
    async fn find_but(&self, keep: &Prints<()>, vault: &Vault) -> Result<Vec<String>> {
        let oldest = self.oldest();
        let prefix = format!("{}part-", self.output.key());
        let listing = vault.store().list(self.output.bucket(), &prefix, ListOptions::default());
        let mut listing = std::pin::pin!(listing);
        let (mut losers, mut parts) = (Vec::new(), 0);
        while let Some(entry) = listing.try_next().await? {
            let ListEntry::Object { key, last_modified, .. } = entry else { continue };
            let name = key.strip_prefix(self.output.key()).unwrap_or_default();
            if !manifest::is_part(name) || last_modified < oldest {
                continue;
            }
            parts += 1;
            let uri = ObjectUri::new(self.output.bucket(), key)?;
            if keep.place(&Fingerprint::of_object(&uri)).is_none() {
                losers.push(uri.key().to_owned());
            }
        }
        // No fewer have a manifest in shards.
        if parts > MANIFEST_OBJECTS_MAX {
            let head = kept::manifest_head(vault, self.output).await?;
            let (store, job) = (vault.store(), &self.job.id);
            // First: once the parts are gone, nothing tells that there are any.
            losers.splice(0..0, manifest::stray_shards(store, self.output, job, head.as_ref()).await?);
        }
        Ok(losers)
    }
}

/// Parts under a prefix, and shards of a job's manifest, which nobody else put there: its id is in
/// their names.
fn parts_and_shards(output: &ObjectUri, losers: Vec<String>) -> (HashSet<String>, Vec<String>) {
    let named = |key: &String| manifest::is_part(key.strip_prefix(output.key()).unwrap_or_default());
    let (parts, shards): (Vec<_>, Vec<_>) = losers.into_iter().partition(named);
    (parts.into_iter().collect(), shards)
}

/// The open uploads to keys that begin with `prefix`. Where they cannot be listed, for want of a
/// permission say, they stay: they take room, and nobody reads them.
async fn open_uploads(vault: &Vault, bucket: &str, prefix: &str) -> Result<Vec<Upload>> {
    match vault.store().uploads(bucket, prefix).await {
        Err(error) if !error.is_transient() => {
            tracing::warn!(
                bucket, prefix, %error,
                "open uploads could not be listed, which takes s3:ListBucketMultipartUploads; they stay behind"
            );
            Ok(Vec::new())
        }
        uploads => Ok(uploads?),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn shards_are_told_from_parts() {
        let (job, attempt) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let part = format!("out/{}", keys::output_part(3, &attempt, "parquet"));
        let shard = format!("out/{}", manifest::shard_name(&job, &attempt, 0));
        let output = "s3://bank/out/".parse().unwrap();
        let (parts, shards) = parts_and_shards(&output, vec![shard.clone(), part.clone()]);
        assert_eq!((parts, shards), (HashSet::from([part]), vec![shard]));
    }
}
