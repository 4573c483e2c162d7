// SPDX-License-Identifier: Apache-2.0
//! What a job's inputs name: pinned objects, in one order.
//!
//! First half of planning: reads listings and manifests, never the data. The
//! answer is a pure function of the inputs and of what the store lists, sorted
//! by the bytes of bucket and key, each object once. A folder that holds a
//! job's manifest is read through the manifest and in no other way.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{MANIFEST_NAME, Manifest, RESULT_NAME, SUCCESS_NAME},
    job::Format,
    keys, limits,
    tenant::Tenant,
    uri::{ObjectUri, Pin, PinnedObject},
};
use fanfold_storage::{ListEntry, ListOptions, Store};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::{
    layout::Few,
    listing::{self, Document, Inventory, Listed},
    pattern::{Pattern, Source},
    pipe,
};
use crate::jobs::{
    error::{Error, Result, about_input},
    manifest,
};

/// Objects of a list that are asked for at once.
const HEADS_AT_ONCE: usize = 32;
/// Heads of manifests in folders of a listing that are read at once: each may be large.
const MANIFESTS_AT_ONCE: usize = 8;

/// Where inputs are looked for.
pub struct Finder<'a> {
    /// The store.
    pub store: &'a Store,
    /// Whose job it is. Of the platform's own bucket only jobs' outputs may be read.
    pub tenant: &'a Tenant,
    /// Where the job's own output goes.
    pub output: &'a ObjectUri,
    /// How it is stored.
    pub output_format: Format,
    /// Whether objects are read as tables.
    pub tables: bool,
}

/// What a job's inputs name.
#[derive(Default)]
pub struct Found {
    /// The objects, in byte order, each once.
    pub objects: Vec<PinnedObject>,
    /// Objects without bytes that were listed and are left out.
    pub empty: Few,
    /// Inputs that name none.
    pub warnings: Vec<String>,
    /// Folders of objects that are named as tasks name their tables, and that no
    /// manifest names: of jobs that did not end well, or have not ended yet.
    pub loose: BTreeSet<ObjectUri>,
}

/// What was looked at so far.
#[derive(Default)]
struct Look {
    listed: usize,
    /// Whether there was a list that says that there is nothing.
    hollow: bool,
    loose: BTreeSet<ObjectUri>,
}

impl Finder<'_> {
    /// Every object that the inputs name, pinned. Objects without bytes hold no
    /// table: only those that are named one by one are kept, for their reader to
    /// complain of.
    ///
    /// # Errors
    /// `partition-limit`, `overlapping-prefixes`, `object-not-found`, `bucket-not-found`,
    /// `access-denied`, `invalid-job` for a pattern or a list that cannot be read, and for two
    /// states of one object.
    pub async fn find(&self, inputs: &[String]) -> Result<Found> {
        let sources = self.sources(inputs)?;
        let (mut look, mut all, mut named) = (Look::default(), Vec::new(), BTreeSet::new());
        let mut warnings = Vec::new();
        for (text, source) in inputs.iter().zip(&sources) {
            let before = look.listed;
            look.hollow = false;
            let mut objects = self.source(source, &mut look, all.len()).await?;
            if objects.is_empty() && !look.hollow {
                warnings.push(nothing(text, look.listed - before));
            }
            if objects.iter().any(|object| object.uri.is_under(self.output)) {
                return Err(overlap(text, self.output).into());
            }
            if let Source::Object(uri) = source {
                named.insert(uri.clone());
            }
            all.append(&mut objects);
            bounded(all.len(), look.listed)?;
        }
        all.sort_by(|a, b| a.uri.cmp(&b.uri));
        all.chunk_by(|a, b| a.uri == b.uri).try_for_each(check_one_state)?;
        all.dedup_by(|a, b| a.uri == b.uri);
        let mut empty = Few::default();
        all.retain(|object| {
            let kept = object.pin.size > 0 || !self.tables || named.contains(&object.uri);
            if !kept {
                empty.note(&object.uri);
            }
            kept
        });
        Ok(Found { objects: all, empty, warnings, loose: look.loose })
    }

    /// What the inputs are, as far as the job may read them.
    ///
    /// # Errors
    /// `overlapping-prefixes`, `access-denied`, `invalid-job`.
    pub fn sources(&self, inputs: &[String]) -> Result<Vec<Source>> {
        let sources = inputs.iter().map(|text| Source::parse(text)).collect::<Result<Vec<_>, _>>()?;
        for (text, source) in inputs.iter().zip(&sources) {
            self.allow(text, source)?;
        }
        Ok(sources)
    }

    async fn source(&self, source: &Source, look: &mut Look, held: usize) -> Result<Vec<PinnedObject>> {
        match source {
            Source::Object(uri) => {
                let pin = self.store.head(uri).await.map_err(about_named)?.pin;
                Ok(vec![PinnedObject { uri: uri.clone(), pin }])
            }
            Source::Manifest(uri) => self.listed(uri, look).await,
            Source::Prefix(uri) => self.pattern(&Pattern::everything(uri), look, held).await,
            Source::Pattern(pattern) => self.pattern(pattern, look, held).await,
        }
    }

    /// The objects of a document that lists them.
    async fn listed(&self, uri: &ObjectUri, look: &mut Look) -> Result<Vec<PinnedObject>> {
        let pin = self.store.head(uri).await.map_err(about_input)?.pin;
        let at = uri.clone();
        let read = pipe::read(self.store, uri, &pin, move |text| listing::read(&at, text));
        let objects = match read.await? {
            Document::Job(head) => {
                let manifest = manifest::whole(self.store, uri, head).await?;
                return self.named(manifest, look);
            }
            Document::List(objects) => objects,
            Document::Inventory(inventory) => self.inventory(inventory).await?,
        };
        look.hollow |= objects.is_empty();
        for object in &objects {
            self.tenant.check_read(&object.uri)?;
        }
        let pinned = |Listed { uri, pin }| async move {
            let pin = match pin {
                Some(pin) => pin,
                None => self.store.head(&uri).await.map_err(about_input)?.pin,
            };
            Ok::<_, Error>(PinnedObject { uri, pin })
        };
        stream::iter(objects).map(pinned).buffered(HEADS_AT_ONCE).try_collect().await
    }

    async fn inventory(&self, inventory: Inventory) -> Result<Vec<Listed>> {
        let (inventory, mut objects) = (Arc::new(inventory), Vec::new());
        for file in inventory.files()? {
            self.tenant.check_read(&file)?;
            let pin = self.store.head(&file).await.map_err(about_input)?.pin;
            let (inventory, at) = (Arc::clone(&inventory), file.clone());
            let read = pipe::read(self.store, &file, &pin, move |text| inventory.objects(&at, text));
            objects.extend(read.await?);
            bounded(objects.len(), 0)?;
        }
        Ok(objects)
    }

    /// The objects that a pattern matches, through manifests where there are any.
    async fn pattern(&self, pattern: &Pattern, look: &mut Look, held: usize) -> Result<Vec<PinnedObject>> {
        let folder = pattern.folder();
        if let Some(manifest) = self.manifest(&folder.join(MANIFEST_NAME)?).await? {
            return Ok(self.named(manifest, look)?.into_iter().filter(|o| pattern.matches(&o.uri)).collect());
        }
        let (mut objects, folders) = self.list(pattern, look, held).await?;
        let (named, folders) = self.manifests(pattern, folders, look, held).await?;
        objects.retain(|object| !is_within(&folders, object.uri.key()));
        look.loose.extend(objects.iter().filter_map(|object| folder_of_part(&object.uri)));
        objects.extend(named);
        bounded(held + objects.len(), look.listed)?;
        Ok(objects)
    }

    /// What the manifests in these folders name and a pattern matches, and the folders, in order,
    /// whose manifests are those of jobs. Within such a folder no other is looked at.
    async fn manifests(
        &self,
        pattern: &Pattern,
        mut folders: Vec<String>,
        look: &mut Look,
        held: usize,
    ) -> Result<(Vec<PinnedObject>, Vec<String>)> {
        let (mut named, mut of_jobs) = (Vec::new(), Vec::new());
        while !folders.is_empty() {
            let outer = outermost(folders.clone());
            let head = |folder: &String| {
                let uri = ObjectUri::new(pattern.bucket(), format!("{folder}{MANIFEST_NAME}"));
                async move {
                    let uri = uri?;
                    let head = self.manifest_head(&uri).await?;
                    Ok::<_, Error>(head.map(|head| (uri, head)))
                }
            };
            for few in outer.chunks(MANIFESTS_AT_ONCE) {
                let heads = try_join_all(few.iter().map(&head)).await?;
                // One whole manifest after the other: each may name as many objects as a job reads.
                for (folder, found) in few.iter().zip(heads) {
                    let Some((uri, head)) = found else { continue };
                    let manifest = manifest::whole(self.store, &uri, head).await?;
                    named.extend(self.named(manifest, look)?.into_iter().filter(|o| pattern.matches(&o.uri)));
                    bounded(held + named.len(), look.listed)?;
                    of_jobs.push(folder.clone());
                }
            }
            of_jobs.sort();
            folders.retain(|folder| outer.binary_search(folder).is_err() && !is_within(&of_jobs, folder));
        }
        Ok((named, of_jobs))
    }

    /// The objects that a listing shows, and the folders in which it shows manifests.
    async fn list(
        &self,
        pattern: &Pattern,
        look: &mut Look,
        held: usize,
    ) -> Result<(Vec<PinnedObject>, Vec<String>)> {
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        let listing = self.store.list(pattern.bucket(), pattern.literal(), ListOptions::default());
        let mut listing = std::pin::pin!(listing);
        while let Some(entry) = listing.try_next().await.map_err(about_input)? {
            let ListEntry::Object { key, pin, .. } = entry else { continue };
            look.listed += 1;
            let folder = key.strip_suffix(MANIFEST_NAME).filter(|f| f.is_empty() || f.ends_with('/'));
            if let Some(folder) = folder.filter(|folder| pattern.enters(folder)) {
                folders.push(folder.to_owned());
            }
            let uri = ObjectUri::new(pattern.bucket(), key)?;
            if pattern.shows(&uri) {
                objects.push(PinnedObject { uri, pin });
            }
            bounded(held + objects.len(), look.listed)?;
        }
        Ok((objects, folders))
    }

    /// The manifest of a job, if one lies there.
    async fn manifest(&self, uri: &ObjectUri) -> Result<Option<Manifest>> {
        match self.manifest_head(uri).await? {
            Some(head) => manifest::whole(self.store, uri, head).await.map(Some),
            None => Ok(None),
        }
    }

    /// Its head: others may call theirs the same, and only theirs are larger than what is read whole.
    async fn manifest_head(&self, uri: &ObjectUri) -> Result<Option<Manifest>> {
        use fanfold_storage::Error::{NotFound, TooLarge};
        let bytes = match self.store.get(uri, None).await {
            Ok(bytes) => bytes,
            Err(NotFound { .. } | TooLarge { .. }) => return Ok(None),
            Err(error) => return Err(about_input(error)),
        };
        match manifest::parsed(&bytes, |head| head).await? {
            Ok(head) => Ok(Some(head)),
            Err(_) if is_of_others(&bytes) => Ok(None),
            Err(error) => Err(Error::Refused(Problem::new(
                ErrorKind::InvalidJob,
                format!(
                    "expected {uri} to be the manifest of a job, found: {error}; name the objects themselves"
                ),
            ))),
        }
    }

    /// The objects of a manifest, pinned to the state that its job wrote.
    fn named(&self, manifest: Manifest, look: &mut Look) -> Result<Vec<PinnedObject>> {
        look.hollow |= manifest.objects.is_empty();
        bounded(manifest.objects.len(), 0)?;
        let pinned = |object: fanfold_protocol::commit::OutputObject| {
            self.tenant.check_read(&object.uri)?;
            let pin = Pin { etag: object.etag, size: object.size, version_id: None };
            Ok(PinnedObject { uri: object.uri, pin })
        };
        manifest.objects.into_iter().map(pinned).collect()
    }

    /// Refuses inputs that the job may not read or that its own output would feed.
    fn allow(&self, text: &str, source: &Source) -> Result<(), Problem> {
        self.tenant.check_read(&source.scope())?;
        let feeds = match source {
            Source::Object(uri) => uri.is_under(self.output),
            listed => listed.may_list(self.output, &written(self.output_format)),
        };
        if feeds { Err(overlap(text, self.output)) } else { Ok(()) }
    }
}

/// An error about an object that an input names. Where nothing is, a folder may be meant.
fn about_named(error: fanfold_storage::Error) -> Error {
    match error {
        fanfold_storage::Error::NotFound { uri } => Error::Refused(Problem::new(
            ErrorKind::ObjectNotFound,
            format!(
                "expected an object at {uri}, found none; check the key, or write {uri}/ for all under a prefix"
            ),
        )),
        error => about_input(error),
    }
}

/// Whether a document that is no manifest of a job is not meant to be one either: it is JSON
/// without what all of them have. What is damaged names no tables, and must not let all be read.
fn is_of_others(document: &[u8]) -> bool {
    match serde_json::from_slice::<HashMap<String, IgnoredAny>>(document) {
        Ok(members) => !(members.contains_key("job") && members.contains_key("objects")),
        Err(_) => serde_json::from_slice::<IgnoredAny>(document).is_ok(),
    }
}

/// Refuses two states of one object: plans are compared by the names of objects.
fn check_one_state(same: &[PinnedObject]) -> Result<(), Problem> {
    let [first, others @ ..] = same else { return Ok(()) };
    let mut pin = &first.pin;
    for other in others.iter().map(|object| &object.pin) {
        let versions = pin.version_id.as_ref().zip(other.version_id.as_ref());
        if (&pin.etag, pin.size) != (&other.etag, other.size) || versions.is_some_and(|(a, b)| a != b) {
            return Err(two_states(&first.uri, pin, other));
        }
        // Listings and manifests tell no version.
        if pin.version_id.is_none() {
            pin = other;
        }
    }
    Ok(())
}

fn two_states(uri: &ObjectUri, one: &Pin, other: &Pin) -> Problem {
    let state = |pin: &Pin| {
        let version = pin.version_id.as_ref().map_or(String::new(), |id| format!(", version {id}"));
        format!("ETag {}{version}, {} bytes", pin.etag, pin.size)
    };
    Problem::new(
        ErrorKind::InvalidJob,
        format!(
            "a job must read one state of {uri}, found two among its inputs ({} and {}); run a job for each, or submit \
             it again if the object has just changed",
            state(one),
            state(other)
        ),
    )
}

/// The names that a job may give what it writes, each `0` in them standing for a digit
/// of a number or an id.
fn written(format: Format) -> [String; 5] {
    let id = Uuid::nil();
    [
        keys::output_part(0, &id, format.extension()),
        manifest::shard_name(&id, &id, 0),
        MANIFEST_NAME.to_owned(),
        SUCCESS_NAME.to_owned(),
        RESULT_NAME.to_owned(),
    ]
}

/// The same of a job whose format may not be known, and is then any.
pub fn may_be_written(format: Option<Format>) -> Vec<String> {
    let any = || {
        let formats = [Format::Parquet, Format::Csv, Format::Jsonl, Format::Arrow, Format::Bytes];
        formats.into_iter().flat_map(written).collect::<BTreeSet<_>>().into_iter().collect()
    };
    format.map_or_else(any, |format| written(format).into())
}

/// The folder of an object that is named like the table of a task.
fn folder_of_part(uri: &ObjectUri) -> Option<ObjectUri> {
    let name = uri.key().rsplit('/').next().filter(|name| manifest::is_part(name))?;
    ObjectUri::new(uri.bucket(), uri.key().strip_suffix(name)?).ok()
}

/// What the author should know whose job reads tables of tasks that no manifest names.
pub fn loose(folders: &BTreeSet<ObjectUri>) -> Option<String> {
    let first = folders.first()?;
    let more = match folders.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "expected a manifest beside the tables of a job, found none in {first}{more}: the job failed or was cancelled, or \
         its manifest was removed, and what lies there is read as it is; leave it out unless that is meant"
    ))
}

/// Folders that lie in none of the others, in order.
fn outermost(mut folders: Vec<String>) -> Vec<String> {
    folders.sort();
    let mut kept: Vec<String> = Vec::new();
    for folder in folders {
        if !kept.last().is_some_and(|outer| folder.starts_with(outer.as_str())) {
            kept.push(folder);
        }
    }
    kept
}

/// Whether a key lies in one of these folders, which are in order and apart.
fn is_within(folders: &[String], key: &str) -> bool {
    let after = folders.partition_point(|folder| folder.as_str() <= key);
    after.checked_sub(1).is_some_and(|last| key.starts_with(folders[last].as_str()))
}

fn bounded(objects: usize, listed: usize) -> Result<(), Problem> {
    if objects > limits::PARTITIONS_MAX {
        return Err(Problem::new(
            ErrorKind::PartitionLimit,
            format!(
                "a job must read at most {} objects, found more; split the job by prefix",
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

fn nothing(text: &str, listed: usize) -> String {
    format!(
        "expected at least one object at {text}, found none among {listed} keys listed there (what begins with \
         '_' or '.' is not input, nor what lies in folders that do); check the bucket, the prefix and the pattern"
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
#[path = "input_tests.rs"]
mod tests;
