// SPDX-License-Identifier: Apache-2.0
//! Manifests, whole or in shards.
//!
//! A manifest that names few objects is one document. One that names many is a head,
//! which is put once and makes the output visible, and shards beside it, which were
//! written before and of which nothing is visible without the head. Whoever lays a manifest
//! out names its shards like nobody else, so that of two coordinators of one job neither
//! removes what the other's head names. Only shards in the head's own folder are read: a
//! manifest may come from anybody.

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{
        DeadLetter, FAILED_INPUTS_MAX, MANIFEST_FAILED_MAX, MANIFEST_OBJECTS_MAX, Manifest, ManifestShard,
        OutputObject,
    },
    keys, limits,
    uri::ObjectUri,
};
use fanfold_storage::{ListOptions, PutOptions, Store};
use futures::{Stream, StreamExt, TryStreamExt, future::try_join_all, stream};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    error::{Error, Result, about_input},
    prints::{Fingerprint, Prints},
};
use crate::problem::internal;

/// Bytes of a document that is parsed at once; those of most are fewer.
const SMALL_BYTES_MAX: usize = 2 << 20;
/// Turns to parse larger ones, for all tenants: each takes a multiple of itself in memory.
static LARGE: Semaphore = Semaphore::const_new(2);
/// Shards written or read at once.
const SHARDS_AT_ONCE: usize = 4;

/// The head of a manifest; its shards are written when it needs any, anew each time.
pub async fn lay_out(
    store: &Store,
    output: &ObjectUri,
    manifest: &Manifest,
    options: &PutOptions,
) -> Result<Manifest> {
    if manifest.objects.len() <= MANIFEST_OBJECTS_MAX {
        return Ok(manifest.clone());
    }
    let parts: Vec<_> = manifest.objects.chunks(MANIFEST_OBJECTS_MAX).enumerate().collect();
    let (attempt, mut shards) = (Uuid::new_v4(), Vec::with_capacity(parts.len()));
    // As text there are no more than these at once: all of a million objects are 200 MB.
    for few in parts.chunks(SHARDS_AT_ONCE) {
        let writes = few.iter().map(|(number, objects)| {
            write_shard(store, output, shard_name(&manifest.job, &attempt, *number), objects, options)
        });
        shards.extend(try_join_all(writes).await?);
    }
    Ok(Manifest {
        job: manifest.job,
        function: manifest.function.clone(),
        rows: manifest.rows,
        bytes: manifest.bytes,
        objects: Vec::new(),
        shards,
        failed: manifest.failed.clone(),
        all_failed: manifest.all_failed.clone(),
    })
}

async fn write_shard(
    store: &Store,
    output: &ObjectUri,
    name: String,
    objects: &[OutputObject],
    options: &PutOptions,
) -> Result<ManifestShard> {
    let uri = output.join(&name)?;
    let body = lines(objects).map_err(|e| Error::damaged(uri.to_string(), e))?;
    store.put(&uri, body, options.clone()).await?;
    Ok(ManifestShard { uri, objects: objects.len() as u64 })
}

/// Of the tasks that failed for good what a manifest says of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// The first of them, each with the first of its objects.
    pub first: Vec<DeadLetter>,
    /// Whether there is more to say.
    pub is_cut: bool,
}

impl Failed {
    /// Takes in the next one.
    pub fn note(&mut self, mut letter: DeadLetter) {
        let has_room = self.first.len() < MANIFEST_FAILED_MAX;
        self.is_cut |= !has_room || letter.input.len() > FAILED_INPUTS_MAX;
        if has_room {
            letter.input.truncate(FAILED_INPUTS_MAX);
            self.first.push(letter);
        }
    }
}

/// Name of a shard of a job's manifest, as one attempt to publish it writes it.
pub fn shard_name(job: &Uuid, attempt: &Uuid, number: usize) -> String {
    format!("{}{attempt}-{number:05}.jsonl", shards_of(job))
}

fn shards_of(job: &Uuid) -> String {
    format!("_manifest-{job}-")
}

fn lines(objects: &[OutputObject]) -> serde_json::Result<Bytes> {
    let mut body = Vec::new();
    for object in objects {
        serde_json::to_writer(&mut body, object)?;
        body.push(b'\n');
    }
    Ok(body.into())
}

/// Gives a manifest as it is stored to `take`.
///
/// # Errors
/// `internal` when the process ends.
pub async fn parsed<T: Send + 'static>(
    stored: &Bytes,
    take: impl FnOnce(serde_json::Result<Manifest>) -> T + Send + 'static,
) -> Result<T> {
    apart(stored, move |stored| take(serde_json::from_slice(stored))).await
}

/// Works on a document, on a large one on a thread of its own and few at once: it may be anybody's,
/// of a million objects, and others are served meanwhile.
async fn apart<T: Send + 'static>(
    stored: &Bytes,
    work: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T> {
    if stored.len() <= SMALL_BYTES_MAX {
        return Ok(work(stored));
    }
    let (turn, stored) = (LARGE.acquire().await.map_err(internal)?, stored.clone());
    let working = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&stored)
    });
    Ok(working.await.map_err(internal)?)
}

/// A manifest that lies at `uri`, with the objects that its shards name.
///
/// # Errors
/// `invalid-job` for shards elsewhere, or that are none; why they cannot be read.
pub async fn whole(store: &Store, uri: &ObjectUri, mut manifest: Manifest) -> Result<Manifest> {
    let (objects, shards) = (std::mem::take(&mut manifest.objects), std::mem::take(&mut manifest.shards));
    let mut named = std::pin::pin!(named(store, uri, objects, shards));
    while let Some(objects) = named.try_next().await? {
        manifest.objects.extend(objects);
    }
    Ok(manifest)
}

/// Which objects the manifest at `uri` names, to be asked for one after the other: a
/// million of them are 16 MB here.
///
/// # Errors
/// As of [`whole`].
pub async fn prints(store: &Store, uri: &ObjectUri, manifest: Manifest) -> Result<Prints<()>> {
    let mut prints = Vec::new();
    let mut named = std::pin::pin!(named(store, uri, manifest.objects, manifest.shards));
    while let Some(objects) = named.try_next().await? {
        prints.extend(objects.iter().map(|object| (Fingerprint::of_object(&object.uri), ())));
    }
    Ok(Prints::new(prints))
}

/// The objects that the manifest at `uri` names, itself and then in its shards, a shard at a
/// time and in order, for whoever does not hold them all.
///
/// # Errors
/// As of [`whole`].
pub fn named(
    store: &Store,
    uri: &ObjectUri,
    objects: Vec<OutputObject>,
    shards: Vec<ManifestShard>,
) -> impl Stream<Item = Result<Vec<OutputObject>>> {
    let counted = bounded(uri, objects.len(), &shards);
    let shards = if counted.is_ok() { shards } else { Vec::new() };
    let reads: Vec<_> = shards.into_iter().map(|shard| read_shard(store, uri, shard)).collect();
    stream::iter([counted.map(|()| objects)]).chain(stream::iter(reads).buffered(SHARDS_AT_ONCE))
}

/// Few bytes may name the same shards again and again, of which each would be held.
fn bounded(uri: &ObjectUri, objects: usize, shards: &[ManifestShard]) -> Result<()> {
    let counts = shards.iter().map(|shard| shard.objects.max(1));
    let named = counts.fold(objects as u64, u64::saturating_add);
    if named <= limits::PARTITIONS_MAX as u64 {
        return Ok(());
    }
    let detail = format!(
        "a manifest must name at most {} objects, found {named} in {uri}; no job writes so many, so name the objects \
         in other ways",
        limits::PARTITIONS_MAX
    );
    Err(Problem::new(ErrorKind::PartitionLimit, detail).into())
}

async fn read_shard(store: &Store, uri: &ObjectUri, shard: ManifestShard) -> Result<Vec<OutputObject>> {
    let ManifestShard { uri: shard, objects: count } = shard;
    let folder = uri.key().rfind('/').map_or("", |slash| &uri.key()[..=slash]);
    let wrong = |found: &str| {
        let detail = format!("expected {shard} to be a shard of the manifest {uri}, found {found}");
        Error::Refused(Problem::new(ErrorKind::InvalidJob, detail))
    };
    if shard.bucket() != uri.bucket() || !shard.key().starts_with(folder) {
        return Err(wrong("that it lies elsewhere"));
    }
    let body = store.get(&shard, None).await.map_err(about_input)?;
    // Not more than are counted, however many there are.
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let objects = apart(&body, move |body| -> Option<Vec<OutputObject>> {
        let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines.take(most.saturating_add(1)).map(|line| serde_json::from_slice(line).ok()).collect()
    });
    let objects = objects.await?.ok_or_else(|| wrong("another document"))?;
    match objects.len() {
        found if found > most => return Err(wrong(&format!("more than {count} objects"))),
        found if found < most => return Err(wrong(&format!("{found} objects instead of {count}"))),
        _ => {}
    }
    Ok(objects)
}

/// Keys of the shards of a job's manifest under its output that the head which is there does not
/// name. Coordinators wrote them that did not get further.
pub async fn stray_shards(
    store: &Store,
    output: &ObjectUri,
    job: &Uuid,
    head: Option<&Manifest>,
) -> Result<Vec<String>> {
    let prefix = format!("{}{}", output.key(), shards_of(job));
    let listing = store.list(output.bucket(), &prefix, ListOptions::default());
    let mut keys: Vec<_> = listing.map_ok(|entry| entry.name().to_owned()).try_collect().await?;
    let named = |key: &String| {
        let mut shards = head.into_iter().flat_map(|head| &head.shards);
        shards.any(|shard| shard.uri.bucket() == output.bucket() && shard.uri.key() == key)
    };
    keys.retain(|key| !named(key));
    Ok(keys)
}

/// Removes the shards of a manifest that is not there any more, or never was.
pub async fn remove_shards(store: &Store, output: &ObjectUri, head: &Manifest) -> Result<()> {
    let shards = head.shards.iter().filter(|shard| shard.uri.is_under(output));
    let keys: Vec<_> = shards.map(|shard| shard.uri.key().to_owned()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    Ok(store.delete_many(output.bucket(), keys).await?)
}

/// Whether a name is one that [`keys::output_part`] makes.
pub fn is_part(name: &str) -> bool {
    let read = || {
        let (task, rest) = name.strip_prefix("part-")?.split_at_checked(7)?;
        let (attempt, extension) = rest.strip_prefix('-')?.split_at_checked(36)?;
        let task: u32 = task.parse().ok()?;
        let attempt: Uuid = attempt.parse().ok()?;
        Some(
            keys::output_part(task, &attempt, extension.strip_prefix('.')?) == name
                && !extension.contains('/'),
        )
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfold_storage::{
        Credentials, StoreConfig,
        server::{Server, ServerConfig},
    };

    async fn store(folder: &std::path::Path) -> Store {
        let credentials = || Credentials::new("manifests", "manifests-secret");
        let config = ServerConfig { root: folder.to_owned(), credentials: credentials() };
        let server = Server::open(config).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { server.serve(listener, Default::default()).await });
        let store = Store::connect(StoreConfig::at(endpoint, credentials())).unwrap();
        store.ensure_bucket("bank").await.unwrap();
        store
    }

    fn manifest(objects: usize) -> Manifest {
        let object = |n: usize| OutputObject {
            uri: format!("s3://bank/out/part-{n:07}.parquet").parse().unwrap(),
            size: n as u64,
            etag: "e".into(),
            rows: 1,
        };
        Manifest {
            job: Uuid::nil(),
            function: "f@1".parse().unwrap(),
            rows: objects as u64,
            bytes: 0,
            objects: (0..objects).map(object).collect(),
            shards: Vec::new(),
            failed: Vec::new(),
            all_failed: None,
        }
    }

    #[test]
    fn a_manifest_says_so_much_of_what_failed() {
        let letter = |task: usize, inputs: usize| DeadLetter {
            stage: 0,
            task: task as u32,
            input: (0..inputs).map(|n| format!("s3://bank/{n}").parse().unwrap()).collect(),
            attempts: 3,
            problem: Problem::new(ErrorKind::CsvMalformed, "bad"),
        };
        let letters = |count: usize, inputs: usize| (0..count).map(|n| letter(n, inputs)).collect::<Vec<_>>();
        let check = |(count, inputs): (usize, usize), told: (usize, usize), is_cut: bool| {
            let mut failed = Failed::default();
            letters(count, inputs).into_iter().for_each(|letter| failed.note(letter));
            assert_eq!(failed, Failed { first: letters(told.0, told.1), is_cut }, "{count} {inputs}");
        };
        let most = (MANIFEST_FAILED_MAX, FAILED_INPUTS_MAX);
        check(most, most, false);
        check((MANIFEST_FAILED_MAX + 1, FAILED_INPUTS_MAX), most, true);
        check((2, 300), (2, FAILED_INPUTS_MAX), true);
        check((0, 0), (0, 0), false);
    }

    #[tokio::test]
    async fn many_objects_are_named_in_shards() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let (output, uri) =
            ("s3://bank/out/".parse().unwrap(), "s3://bank/out/_manifest.json".parse().unwrap());
        let few = manifest(MANIFEST_OBJECTS_MAX);
        assert_eq!(lay_out(&store, &output, &few, &PutOptions::default()).await.unwrap(), few);
        // One more than are written at once.
        let many = manifest(SHARDS_AT_ONCE * MANIFEST_OBJECTS_MAX + 5);
        let head = lay_out(&store, &output, &many, &PutOptions::default()).await.unwrap();
        let counts: Vec<_> = head.shards.iter().map(|shard| shard.objects).collect();
        let full = MANIFEST_OBJECTS_MAX as u64;
        assert_eq!(counts, [full, full, full, full, 5]);
        assert!(head.objects.is_empty() && head.rows == many.rows);
        assert!(head.shards.iter().all(|shard| shard.uri.key().starts_with("out/_manifest-")));
        // Written again, by another coordinator, it lies beside this one.
        let other = lay_out(&store, &output, &many, &PutOptions::default()).await.unwrap();
        let keys =
            |head: &Manifest| head.shards.iter().map(|shard| shard.uri.key().to_owned()).collect::<Vec<_>>();
        let stray =
            async |head: Option<&Manifest>| stray_shards(&store, &output, &many.job, head).await.unwrap();
        assert_eq!((stray(Some(&head)).await, stray(Some(&other)).await), (keys(&other), keys(&head)));
        assert_eq!(stray(None).await.len(), 10);
        assert_eq!(stray_shards(&store, &output, &Uuid::from_u128(1), None).await.unwrap(), [""; 0]);
        remove_shards(&store, &output, &other).await.unwrap();
        assert_eq!(stray(Some(&head)).await, [""; 0]);
        assert_eq!(whole(&store, &uri, head.clone()).await.unwrap(), many);
        for named in [&head, &few] {
            let prints = prints(&store, &uri, named.clone()).await.unwrap();
            let count = usize::try_from(named.rows).unwrap();
            let names = |object: &OutputObject| prints.place(&Fingerprint::of_object(&object.uri)).is_some();
            assert!(names(&many.objects[0]) && names(&many.objects[count - 1]));
            assert_eq!(prints.count(), count);
            assert_eq!(many.objects.iter().filter(|object| names(object)).count(), count);
            assert!(prints.bytes() <= 20 * count, "{}", prints.bytes());
        }
        let refused = async |head: Manifest, uri: &ObjectUri, word: &str| {
            let Err(Error::Refused(problem)) = whole(&store, uri, head).await else { panic!("{word}") };
            assert!(problem.detail.contains(word), "{problem}");
        };
        refused(head.clone(), &"s3://bank/other/_manifest.json".parse().unwrap(), "elsewhere").await;
        let mut short = head.clone();
        short.shards[4].objects = 6;
        refused(short, &uri, "5 objects instead of 6").await;
        let mut long = head.clone();
        long.shards[4].objects = 4;
        refused(long, &uri, "more than 4 objects").await;
        // A shard may be named again and again, or say that it has nothing.
        let mut many_times = head.clone();
        many_times.shards = vec![head.shards[0].clone(); 1 + 1_000_000 / MANIFEST_OBJECTS_MAX];
        refused(many_times, &uri, "at most 1000000 objects").await;
        let mut endless = head.clone();
        for (shard, objects) in endless.shards.iter_mut().zip([u64::MAX, 1]) {
            shard.objects = objects;
        }
        refused(endless, &uri, "at most 1000000 objects").await;
        remove_shards(&store, &output, &head).await.unwrap();
        refused(head, &uri, "_manifest-").await;
    }

    #[tokio::test]
    async fn a_large_manifest_keeps_no_others_waiting() {
        for (objects, is_apart) in [(100, false), (40_000, true)] {
            let written = manifest(objects);
            let stored = Bytes::from(serde_json::to_vec(&written).unwrap());
            assert_eq!(stored.len() > SMALL_BYTES_MAX, is_apart, "{}", stored.len());
            let take = |found: serde_json::Result<Manifest>| (found.unwrap(), std::thread::current().id());
            let (found, thread) = parsed(&stored, take).await.unwrap();
            assert_eq!(found, written);
            assert_eq!(thread != std::thread::current().id(), is_apart, "{objects}");
        }
    }

    #[test]
    fn only_names_of_attempts_are_parts() {
        let name = keys::output_part(12, &Uuid::from_u128(7), "parquet");
        assert!(is_part(&name), "{name}");
        for other in [
            "part-0000012.parquet",
            "part-0000012-x.parquet",
            "_manifest.json",
            "part-",
            &format!("{name}/x"),
        ] {
            assert!(!is_part(other), "{other}");
        }
    }
}
