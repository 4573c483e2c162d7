// SPDX-License-Identifier: Apache-2.0
//! What a job's inputs name: pinned objects, in one order.
//!
//! First half of planning: reads listings and manifests, never the data. The
//! answer is a pure function of the inputs and of what the store lists, sorted
//! by the bytes of bucket and key, each object once. A folder that holds a
//! manifest is read through the manifest and in no other way.

use std::{collections::BTreeSet, sync::Arc};

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{MANIFEST_NAME, Manifest},
    limits,
    tenant::Tenant,
    uri::{ObjectUri, Pin, PinnedObject},
};
use fanfold_storage::{ListEntry, ListOptions, Store};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    error::{Error, Result, about_input},
    listing::{self, Document, Inventory, Listed},
    manifest,
    pattern::{Pattern, Source},
    plan::Few,
};

/// Objects of a list that are asked for at once.
const HEADS_AT_ONCE: usize = 32;

/// Where inputs are looked for.
pub struct Finder<'a> {
    /// The store.
    pub store: &'a Store,
    /// Whose job it is. Of the platform's own bucket only jobs' outputs may be read.
    pub tenant: &'a Tenant,
    /// Where the job's own output goes.
    pub output: &'a ObjectUri,
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
}

/// What was looked at so far.
#[derive(Default)]
struct Look {
    listed: usize,
    /// Whether there was a list that says that there is nothing.
    hollow: bool,
}

impl Finder<'_> {
    /// Every object that the inputs name, pinned. Objects without bytes hold no
    /// table: only those that are named one by one are kept, for their reader to
    /// complain of.
    ///
    /// # Errors
    /// `partition-limit`, `overlapping-prefixes`, `object-not-found`, `bucket-not-found`,
    /// `access-denied`, `invalid-job` for a pattern or a list that cannot be read.
    pub async fn find(&self, inputs: &[String]) -> Result<Found> {
        let sources = inputs.iter().map(|text| Source::parse(text)).collect::<Result<Vec<_>, _>>()?;
        for (text, source) in inputs.iter().zip(&sources) {
            self.allow(text, source)?;
        }
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
        all.dedup_by(|a, b| a.uri == b.uri);
        let mut empty = Few::default();
        all.retain(|object| {
            let kept = object.pin.size > 0 || !self.tables || named.contains(&object.uri);
            if !kept {
                empty.note(&object.uri);
            }
            kept
        });
        Ok(Found { objects: all, empty, warnings })
    }

    async fn source(&self, source: &Source, look: &mut Look, held: usize) -> Result<Vec<PinnedObject>> {
        match source {
            Source::Object(uri) => {
                let pin = self.store.head(uri).await.map_err(about_input)?.pin;
                Ok(vec![PinnedObject { uri: uri.clone(), pin }])
            }
            Source::Manifest(uri) => self.listed(uri, look).await,
            Source::Prefix(uri) => self.pattern(&Pattern::everything(uri), look, held).await,
            Source::Pattern(pattern) => self.pattern(pattern, look, held).await,
        }
    }

    /// The objects of a document that lists them.
    async fn listed(&self, uri: &ObjectUri, look: &mut Look) -> Result<Vec<PinnedObject>> {
        let bytes = self.store.get(uri, None).await.map_err(about_input)?;
        let (at, text) = (uri.clone(), bytes);
        let objects = match blocking(move || listing::read(&at, &text)).await? {
            Document::Job(head) => {
                let manifest = manifest::whole(self.store, uri, head).await?;
                return self.named(manifest, look);
            }
            Document::List(objects) => objects,
            Document::Inventory(inventory) => self.inventory(inventory).await?,
        };
        look.hollow |= objects.is_empty();
        for object in &objects {
            self.allow_bucket(&object.uri)?;
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
            self.allow_bucket(&file)?;
            let bytes = self.store.get(&file, None).await.map_err(about_input)?;
            let inventory = Arc::clone(&inventory);
            objects.extend(blocking(move || inventory.objects(&file, &bytes)).await?);
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
        for folder in outermost(folders) {
            objects.retain(|object| !object.uri.key().starts_with(&folder));
            let uri = ObjectUri::new(pattern.bucket(), format!("{folder}{MANIFEST_NAME}"))?;
            let manifest =
                self.manifest(&uri).await?.map(|m| self.named(m, look)).transpose()?.unwrap_or_default();
            objects.extend(manifest.into_iter().filter(|object| pattern.matches(&object.uri)));
        }
        Ok(objects)
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
            if let Some(folder) = key.strip_suffix(MANIFEST_NAME).filter(|f| f.is_empty() || f.ends_with('/'))
            {
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

    async fn manifest(&self, uri: &ObjectUri) -> Result<Option<Manifest>> {
        let bytes = match self.store.get(uri, None).await {
            Ok(bytes) => bytes,
            Err(fanfold_storage::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(about_input(error)),
        };
        let head = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Refused(Problem::new(
                ErrorKind::InvalidJob,
                format!(
                    "expected {uri} to be the manifest of a job, found: {error}; name the objects themselves"
                ),
            ))
        })?;
        manifest::whole(self.store, uri, head).await.map(Some)
    }

    /// The objects of a manifest, pinned to the state that its job wrote.
    fn named(&self, manifest: Manifest, look: &mut Look) -> Result<Vec<PinnedObject>> {
        look.hollow |= manifest.objects.is_empty();
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
        self.tenant.check(uri.bucket())?;
        let mut steps = uri.key().split('/');
        let output = steps.next() == Some("jobs")
            && steps.next().is_some_and(|id| id.parse::<uuid::Uuid>().is_ok())
            && steps.next() == Some("output")
            && steps.next().is_some();
        if uri.bucket() != self.tenant.system_bucket || output {
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

/// Reads a document on a thread of its own: a large one takes its time.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T> {
    let read = tokio::task::spawn_blocking(read).await;
    Ok(read.map_err(crate::problem::internal).flatten()?)
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
        "expected at least one object at {text}, found none among {listed} keys listed there (names that begin \
         with '_' or '.' are not input); check the bucket, the prefix and the pattern"
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

    /// A store of keys without end, a thousand a page, and without objects.
    async fn endless() -> Store {
        let page = |request: axum::extract::Request| async move {
            let query = request.uri().query().unwrap_or_default();
            if !query.contains("list-type=2") {
                let missing = "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>";
                return (axum::http::StatusCode::NOT_FOUND, missing.to_owned());
            }
            let token = query.split('&').find_map(|part| part.strip_prefix("continuation-token="));
            let from: u64 = token.map_or(0, |token| token.parse().unwrap());
            let key =
                |n: u64| format!("<Contents><Key>in/{n:09}.csv</Key><ETag>e</ETag><Size>9</Size></Contents>");
            let keys: String = (from..from + 1_000).map(key).collect();
            let next = format!("<NextContinuationToken>{}</NextContinuationToken>", from + 1_000);
            let page =
                format!("<ListBucketResult><IsTruncated>true</IsTruncated>{next}{keys}</ListBucketResult>");
            (axum::http::StatusCode::OK, page)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(page)).await });
        let credentials = fanfold_storage::Credentials::new("test", "test-secret");
        Store::connect(fanfold_storage::StoreConfig::at(endpoint, credentials)).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_pattern_of_ten_million_keys_is_refused_soon() {
        let (store, output) = (endless().await, "s3://out/x/".parse().unwrap());
        let tenant = Tenant::alone(Default::default(), "fanfold");
        let finder = Finder { store: &store, tenant: &tenant, output: &output, tables: true };
        // What fits, and what is looked at in vain.
        for (input, word) in
            [("s3://bank/in/*.csv", "at most 1000000 objects"), ("s3://bank/**/x", "2000000 keys")]
        {
            let inputs = [input.to_owned()];
            let found = finder.find(&inputs);
            let found = tokio::time::timeout(std::time::Duration::from_secs(120), found).await.unwrap();
            let Err(Error::Refused(problem)) = found.map(|_| ()) else { panic!("{input}") };
            assert_eq!(problem.code, ErrorKind::PartitionLimit, "{input}");
            assert!(problem.detail.contains(word), "{problem}");
        }
    }

    #[test]
    fn bounds_say_what_to_do() {
        assert!(bounded(limits::PARTITIONS_MAX, limits::LISTED_KEYS_MAX).is_ok());
        assert_eq!(bounded(limits::PARTITIONS_MAX + 1, 0).unwrap_err().code, ErrorKind::PartitionLimit);
        assert_eq!(bounded(0, limits::LISTED_KEYS_MAX + 1).unwrap_err().code, ErrorKind::PartitionLimit);
    }
}
