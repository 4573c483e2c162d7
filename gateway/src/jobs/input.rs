// SPDX-License-Identifier: Apache-2.0
//! What a job's inputs name: pinned objects, in one order.
//!
//! First half of planning: reads listings and manifests, never the data. The
//! answer is a pure function of the inputs and of what the store lists, sorted
//! by the bytes of bucket and key, each object once. A folder that holds a
//! manifest is read through the manifest and in no other way.

use std::collections::BTreeMap;

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{MANIFEST_NAME, Manifest},
    limits,
    uri::{ObjectUri, Pin, PinnedObject},
};
use fanfold_storage::{ListEntry, ListOptions, Store};
use futures::TryStreamExt;

use super::{
    error::{Error, Result, about_input},
    pattern::{Pattern, Source},
};

/// Where inputs are looked for.
pub struct Finder<'a> {
    /// The store.
    pub store: &'a Store,
    /// The platform's own bucket, of which only jobs' outputs may be read.
    pub system_bucket: &'a str,
    /// Where the job's own output goes.
    pub output: &'a ObjectUri,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    objects: BTreeMap<ObjectUri, Pin>,
    listed: usize,
}

impl Finder<'_> {
    /// Every object that the inputs name, pinned, in byte order, each once.
    ///
    /// # Errors
    /// `input-empty` when an input names nothing, `partition-limit`,
    /// `overlapping-prefixes`, `object-not-found`, `bucket-not-found`,
    /// `access-denied`, `invalid-job` for a pattern that cannot be read.
    pub async fn find(&self, inputs: &[String]) -> Result<Vec<PinnedObject>> {
        let sources = inputs.iter().map(|text| Source::parse(text)).collect::<Result<Vec<_>, _>>()?;
        for (text, source) in inputs.iter().zip(&sources) {
            self.allow(text, source)?;
        }
        let mut found = Found::default();
        for (text, source) in inputs.iter().zip(&sources) {
            let before = found.listed;
            let objects = self.source(source, &mut found).await?;
            if objects.is_empty() {
                return Err(nothing(text, found.listed - before).into());
            }
            for object in objects {
                if object.uri.is_under(self.output) {
                    return Err(overlap(text, self.output).into());
                }
                found.objects.insert(object.uri, object.pin);
            }
            bounded(found.objects.len(), found.listed)?;
        }
        Ok(found.objects.into_iter().map(|(uri, pin)| PinnedObject { uri, pin }).collect())
    }

    async fn source(&self, source: &Source, found: &mut Found) -> Result<Vec<PinnedObject>> {
        match source {
            Source::Object(uri) => {
                let pin = self.store.head(uri).await.map_err(about_input)?.pin;
                Ok(vec![PinnedObject { uri: uri.clone(), pin }])
            }
            Source::Manifest(uri) => {
                let manifest = self.manifest(uri).await?;
                let missing = || fanfold_storage::Error::NotFound { uri: uri.to_string() };
                self.named(manifest.ok_or_else(missing).map_err(about_input)?)
            }
            Source::Prefix(uri) => self.pattern(&Pattern::everything(uri), found).await,
            Source::Pattern(pattern) => self.pattern(pattern, found).await,
        }
    }

    /// The objects that a pattern matches, through manifests where there are any.
    async fn pattern(&self, pattern: &Pattern, found: &mut Found) -> Result<Vec<PinnedObject>> {
        let folder = pattern.folder();
        if let Some(manifest) = self.manifest(&folder.join(MANIFEST_NAME)?).await? {
            return Ok(self.named(manifest)?.into_iter().filter(|o| pattern.matches(&o.uri)).collect());
        }
        let (mut objects, folders) = self.list(pattern, found).await?;
        for folder in outermost(folders) {
            objects.retain(|object| !object.uri.key().starts_with(&folder));
            let uri = ObjectUri::new(pattern.bucket(), format!("{folder}{MANIFEST_NAME}"))?;
            let manifest = self.manifest(&uri).await?.map(|m| self.named(m)).transpose()?.unwrap_or_default();
            objects.extend(manifest.into_iter().filter(|object| pattern.matches(&object.uri)));
        }
        Ok(objects)
    }

    /// The objects that a listing shows, and the folders in which it shows manifests.
    async fn list(&self, pattern: &Pattern, found: &mut Found) -> Result<(Vec<PinnedObject>, Vec<String>)> {
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        let listing = self.store.list(pattern.bucket(), pattern.literal(), ListOptions::default());
        let mut listing = std::pin::pin!(listing);
        while let Some(entry) = listing.try_next().await.map_err(about_input)? {
            let ListEntry::Object { key, pin, .. } = entry else { continue };
            found.listed += 1;
            if let Some(folder) = key.strip_suffix(MANIFEST_NAME).filter(|f| f.is_empty() || f.ends_with('/'))
            {
                folders.push(folder.to_owned());
            }
            let uri = ObjectUri::new(pattern.bucket(), key)?;
            if pattern.shows(&uri) {
                objects.push(PinnedObject { uri, pin });
            }
            bounded(found.objects.len() + objects.len(), found.listed)?;
        }
        Ok((objects, folders))
    }

    async fn manifest(&self, uri: &ObjectUri) -> Result<Option<Manifest>> {
        let bytes = match self.store.get(uri, None).await {
            Ok(bytes) => bytes,
            Err(fanfold_storage::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(about_input(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::Refused(Problem::new(
                ErrorKind::InvalidJob,
                format!(
                    "expected {uri} to be the manifest of a job, found: {error}; name the objects themselves"
                ),
            ))
        })
    }

    /// The objects of a manifest, pinned to the state that its job wrote.
    fn named(&self, manifest: Manifest) -> Result<Vec<PinnedObject>> {
        bounded(manifest.objects.len(), 0)?;
        let pinned = |object: fanfold_protocol::commit::OutputObject| {
            self.allow_bucket(&object.uri)?;
            let pin = Pin { etag: object.etag, size: object.size, version_id: None };
            Ok(PinnedObject { uri: object.uri, pin })
        };
        manifest.objects.into_iter().map(pinned).collect()
    }

    /// Refuses inputs that the job may not read or that its own output would feed.
    fn allow(&self, text: &str, source: &Source) -> Result<(), Problem> {
        let scope = source.scope();
        self.allow_bucket(&scope)?;
        let would_read = self.output.join("part-0000000-00000000-0000-0000-0000-000000000000.parquet")?;
        let feeds = match source {
            Source::Object(uri) => uri.is_under(self.output),
            Source::Manifest(_) => false,
            Source::Prefix(prefix) => self.output.is_under(prefix) || prefix.is_under(self.output),
            Source::Pattern(pattern) => pattern.matches(&would_read) || scope.is_under(self.output),
        };
        if feeds { Err(overlap(text, self.output)) } else { Ok(()) }
    }

    /// Of the platform's own bucket only the outputs of jobs may be read.
    fn allow_bucket(&self, uri: &ObjectUri) -> Result<(), Problem> {
        let mut steps = uri.key().split('/');
        let output = steps.next() == Some("jobs")
            && steps.next().is_some_and(|id| id.parse::<uuid::Uuid>().is_ok())
            && steps.next() == Some("output")
            && steps.next().is_some();
        if uri.bucket() != self.system_bucket || output {
            return Ok(());
        }
        Err(Problem::new(
            ErrorKind::AccessDenied,
            format!(
                "{uri} lies in the platform's own bucket, of which only jobs/…/output/ can be read; copy it elsewhere"
            ),
        ))
    }
}

/// Folders that lie in none of the others.
fn outermost(mut folders: Vec<String>) -> Vec<String> {
    folders.sort();
    let mut kept: Vec<String> = Vec::new();
    for folder in folders {
        if !kept.iter().any(|outer| folder.starts_with(outer.as_str())) {
            kept.push(folder);
        }
    }
    kept
}

fn bounded(objects: usize, listed: usize) -> Result<(), Problem> {
    if objects > limits::PARTITIONS_MAX {
        return Err(Problem::new(
            ErrorKind::PartitionLimit,
            format!(
                "a job must have at most {} partitions, found more objects than that; split the job by prefix",
                limits::PARTITIONS_MAX
            ),
        ));
    }
    if listed > limits::LISTED_KEYS_MAX {
        return Err(Problem::new(
            ErrorKind::PartitionLimit,
            format!(
                "a job must look at no more than {} keys to find its input, found more; begin the pattern with a \
                 longer prefix",
                limits::LISTED_KEYS_MAX
            ),
        ));
    }
    Ok(())
}

fn nothing(text: &str, listed: usize) -> Problem {
    Problem::new(
        ErrorKind::InputEmpty,
        format!(
            "expected at least one object at {text}, found none among {listed} keys listed there (names that begin \
             with '_' or '.' are not input); check the bucket, the prefix and the pattern"
        ),
    )
}

fn overlap(text: &str, output: &ObjectUri) -> Problem {
    Problem::new(
        ErrorKind::OverlappingPrefixes,
        format!(
            "input and output must lie apart, found input {text} and output {output}; choose another output prefix"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_folders_belong_to_outer_ones() {
        let folders = ["b/", "a/b/", "a/", "ab/"].map(str::to_owned).to_vec();
        assert_eq!(outermost(folders), ["a/", "ab/", "b/"]);
        assert_eq!(outermost(vec!["a/".into(), String::new()]), [""]);
    }

    #[test]
    fn bounds_say_what_to_do() {
        assert!(bounded(limits::PARTITIONS_MAX, limits::LISTED_KEYS_MAX).is_ok());
        assert_eq!(bounded(limits::PARTITIONS_MAX + 1, 0).unwrap_err().code, ErrorKind::PartitionLimit);
        assert_eq!(bounded(0, limits::LISTED_KEYS_MAX + 1).unwrap_err().code, ErrorKind::PartitionLimit);
    }
}
