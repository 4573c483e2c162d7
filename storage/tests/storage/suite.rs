// SPDX-License-Identifier: Apache-2.0
//! What the client promises, on any S3 server: one list of cases, each with a
//! bucket of its own.
//!
//! A server that is known to differ says so case by case, with the words that
//! its failure must have; a case that passes where a difference is expected
//! fails the suite, so the list stays true.

use std::{collections::BTreeMap, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use fanfold_protocol::{
    time::Timestamp,
    uri::{ObjectUri, Pin as State},
};
use fanfold_storage::{
    Error, ListEntry, ListOptions, Meter, PutOptions, PutOutcome, ReadAhead, Store, client::DEPTH_METADATA,
};
use futures::{StreamExt, TryStreamExt, future::join_all};

use crate::support::{pattern, uri};

pub type Outcome = Result<(), String>;
type Case = (&'static str, fn(Store, String) -> Pin<Box<dyn Future<Output = Outcome> + Send>>);

/// A case that a server fails, and words of the failure.
pub struct Difference {
    pub case: &'static str,
    pub says: &'static str,
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => { if !$holds { return Err(format!($($text)+)); } };
}

macro_rules! cases {
    ($($name:ident)*) => { &[$((stringify!($name), |store, bucket| Box::pin($name(store, bucket)))),*] };
}

const CASES: &[Case] = cases! {
    objects_come_back_with_what_was_said_about_them
    an_empty_object_is_an_object
    what_is_missing_is_said_by_name
    a_put_makes_no_bucket
    a_pin_holds_or_the_read_fails
    ranges_are_exact
    a_reader_keeps_the_order
    a_second_writer_finds_the_first
    a_writer_recognises_itself
    of_a_hundred_racing_writers_one_wins
    a_replacement_needs_the_state_it_names
    large_objects_go_in_parts
    parts_are_larger_for_what_is_said_to_be_large
    small_objects_go_whole
    an_abandoned_writer_leaves_nothing
    uploads_that_nobody_ends_are_found_and_removed
    deleting_twice_is_fine
    listings_are_complete
    listings_are_in_order
    keys_are_kept
    keys_are_no_paths
    a_copy_is_an_object_of_its_own
    buckets_come_and_go
    a_bucket_with_objects_stays
    a_probe_finds_everything
    what_killed_probes_left_is_swept
    use_is_metered
    a_whole_read_is_bounded
};

/// Runs all cases and compares with the differences.
pub async fn run(store: &Store, differences: &[Difference]) {
    let mut wrong = Vec::new();
    for (n, (name, case)) in CASES.iter().enumerate() {
        let bucket = format!("case-{n}");
        let outcome = match store.create_bucket(&bucket).await {
            Ok(()) => case(store.clone(), bucket).await,
            Err(error) => Err(format!("the case's bucket: {error}")),
        };
        let expected = differences.iter().find(|d| d.case == *name);
        match (outcome, expected) {
            (Ok(()), None) => println!("pass: {name}"),
            (Err(found), Some(d)) if found.contains(d.says) => println!("differs as known: {name}: {found}"),
            (Ok(()), Some(d)) => wrong.push(format!("{name}: expected to differ ({}), passed", d.says)),
            (Err(found), _) => wrong.push(format!("{name}: {found}")),
        }
    }
    for d in differences {
        assert!(CASES.iter().any(|(name, _)| *name == d.case), "no case is named {}", d.case);
    }
    assert!(wrong.is_empty(), "{} cases of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn put(store: &Store, to: &ObjectUri, body: &[u8]) -> Result<State, String> {
    store.put(to, Bytes::copy_from_slice(body), PutOptions::default()).await.map_err(text)
}

async fn names(
    store: &Store,
    bucket: &str,
    prefix: &str,
    options: ListOptions,
) -> Result<Vec<String>, String> {
    let entries: Vec<ListEntry> = store.list(bucket, prefix, options).try_collect().await.map_err(text)?;
    Ok(entries.iter().map(|e| e.name().to_owned()).collect())
}

async fn objects_come_back_with_what_was_said_about_them(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "a/object.json");
    let mut options = PutOptions::typed("application/json");
    options.metadata = BTreeMap::from([("owner".into(), "bank".into()), ("job-id".into(), "7".into())]);
    let pin = store.put(&at, Bytes::from_static(b"hello"), options.clone()).await.map_err(text)?;
    ensure!(pin.etag == "5d41402abc4b2a76b9719d911017c592", "the ETag must be the MD5, found {}", pin.etag);
    let meta = store.head(&at).await.map_err(text)?;
    ensure!(meta.pin == pin, "head must see {pin:?}, found {:?}", meta.pin);
    ensure!(meta.content_type == options.content_type, "content type: {:?}", meta.content_type);
    ensure!(meta.user_metadata == options.metadata, "metadata: {:?}", meta.user_metadata);
    let age = fanfold_protocol::time::now().since(meta.last_modified);
    ensure!(age.as_secs() < 60, "last modified {age:?} ago");
    let (bytes, seen) = store.get_with_pin(&at, Some(&pin)).await.map_err(text)?;
    ensure!(bytes == b"hello"[..] && seen == pin, "get: {bytes:?} {seen:?}");
    Ok(())
}

async fn an_empty_object_is_an_object(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "empty");
    let pin = put(&store, &at, b"").await?;
    ensure!(pin.size == 0, "size {}", pin.size);
    ensure!(store.get(&at, Some(&pin)).await.map_err(text)?.is_empty(), "bytes in an empty object");
    ensure!(store.get_range(&at, &pin, 0..0).await.map_err(text)?.is_empty(), "bytes in an empty range");
    let read: Vec<Bytes> =
        store.reader(&at, &pin, 0..0, ReadAhead::default()).try_collect().await.map_err(text)?;
    ensure!(read.is_empty(), "chunks of an empty object");
    ensure!(names(&store, &bucket, "", ListOptions::default()).await? == ["empty"], "listing");
    Ok(())
}

async fn what_is_missing_is_said_by_name(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "nothing");
    let found = store.get(&at, None).await;
    ensure!(matches!(&found, Err(Error::NotFound { uri }) if uri.ends_with("/nothing")), "get: {found:?}");
    let found = store.head(&at).await;
    ensure!(matches!(found, Err(Error::NotFound { .. })), "head: {found:?}");
    let nowhere = uri("no-such-bucket-here", "x");
    let found = store.get(&nowhere, None).await;
    ensure!(matches!(found, Err(Error::NoSuchBucket { .. })), "get without a bucket: {found:?}");
    let found = store.head(&nowhere).await;
    ensure!(matches!(found, Err(Error::NoSuchBucket { .. })), "head without a bucket: {found:?}");
    let found = names(&store, "no-such-bucket-here", "", ListOptions::default()).await;
    ensure!(found.is_err(), "list without a bucket: {found:?}");
    ensure!(!store.bucket_exists("no-such-bucket-here").await.map_err(text)?, "a bucket that is not there");
    Ok(())
}

async fn a_put_makes_no_bucket(store: Store, bucket: String) -> Outcome {
    let nowhere = uri(&format!("{bucket}-nowhere"), "x");
    let found = store.put(&nowhere, Bytes::new(), PutOptions::default()).await;
    ensure!(matches!(found, Err(Error::NoSuchBucket { .. })), "put without a bucket: {found:?}");
    Ok(())
}

async fn a_pin_holds_or_the_read_fails(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "pinned");
    let before = put(&store, &at, &pattern(100_000)).await?;
    let after = put(&store, &at, &pattern(100_001)).await?;
    for found in [store.get(&at, Some(&before)).await, store.get_range(&at, &before, 5..10).await] {
        let changed = matches!(&found, Err(Error::Changed { expected, .. }) if *expected == before.etag);
        ensure!(changed, "a changed object: {found:?}");
    }
    let chunks: Vec<_> = store.reader(&at, &before, 0..100_000, ReadAhead::default()).collect().await;
    ensure!(matches!(&chunks[..], [Err(Error::Changed { .. })]), "a reader of a changed object: {chunks:?}");
    ensure!(store.get(&at, Some(&after)).await.is_ok(), "the state that is there");
    // A list may say another size of it.
    let (short, long) = (after.size - 1, after.size + 100_000);
    for (size, range) in [(short, 0..short), (long, 0..long), (long, after.size..long)] {
        let found = store.get_range(&at, &State { size, ..after.clone() }, range).await;
        ensure!(matches!(found, Err(Error::Changed { .. })), "a pin of {size} bytes: {found:?}");
    }
    Ok(())
}

async fn ranges_are_exact(store: Store, bucket: String) -> Outcome {
    for length in [10_usize, 5_000, 300_000] {
        let at = uri(&bucket, &format!("of-{length}"));
        let body = pattern(length);
        let pin = put(&store, &at, &body).await?;
        for (start, end) in [(0, 1), (3, 7), (0, length), (length - 1, length), (length / 2, length / 2 + 1)]
        {
            let found = store.get_range(&at, &pin, start as u64..end as u64).await.map_err(text)?;
            ensure!(found == body[start..end], "bytes {start}..{end} of {length}");
        }
        let beyond = store.get_range(&at, &pin, 0..length as u64 + 1).await;
        ensure!(beyond.is_err(), "a range beyond the end: {beyond:?}");
    }
    Ok(())
}

async fn a_reader_keeps_the_order(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "long");
    let body = pattern(9_000_001);
    let pin = put(&store, &at, &body).await?;
    let ahead = ReadAhead { chunk_bytes: 1_000_000, parallel: 4 };
    let chunks: Vec<Bytes> =
        store.reader(&at, &pin, 17..pin.size, ahead).try_collect().await.map_err(text)?;
    ensure!(chunks.len() == 9, "{} chunks", chunks.len());
    ensure!(chunks.concat() == body[17..], "other bytes");
    Ok(())
}

async fn a_second_writer_finds_the_first(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "commit");
    let created = store.put_if_absent(&at, "one".into(), "w1", PutOptions::default()).await.map_err(text)?;
    let PutOutcome::Created(pin) = created else { return Err(format!("the first: {created:?}")) };
    let second = store.put_if_absent(&at, "two".into(), "w2", PutOptions::default()).await.map_err(text)?;
    ensure!(second == PutOutcome::Exists, "the second: {second:?}");
    ensure!(store.get(&at, Some(&pin)).await.map_err(text)? == "one", "the first's bytes");
    store.delete(&at).await.map_err(text)?;
    let third = store.put_if_absent(&at, "three".into(), "w3", PutOptions::default()).await.map_err(text)?;
    ensure!(matches!(third, PutOutcome::Created(_)), "after a delete: {third:?}");
    Ok(())
}

async fn a_writer_recognises_itself(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "commit");
    let first = store.put_if_absent(&at, "one".into(), "w1", PutOptions::default()).await.map_err(text)?;
    let again = store.put_if_absent(&at, "one".into(), "w1", PutOptions::default()).await.map_err(text)?;
    ensure!(first == again, "the same writer: {first:?}, then {again:?}");
    Ok(())
}

async fn of_a_hundred_racing_writers_one_wins(store: Store, bucket: String) -> Outcome {
    for round in 0..3 {
        let at = uri(&bucket, &format!("race-{round}"));
        let writers: Vec<String> = (0..100).map(|n| format!("writer-{n}")).collect();
        let puts = writers.iter().map(|w| {
            let (store, at, w) = (store.clone(), at.clone(), w.clone());
            tokio::spawn(async move {
                store.put_if_absent(&at, w.clone().into(), &w, PutOptions::default()).await
            })
        });
        let mut winners = Vec::new();
        for (outcome, writer) in join_all(puts).await.into_iter().zip(&writers) {
            match outcome.map_err(text)?.map_err(text)? {
                PutOutcome::Created(_) => winners.push(writer.clone()),
                PutOutcome::Exists => {}
            }
        }
        let found = store.get(&at, None).await.map_err(text)?;
        ensure!(winners.len() == 1 && found == winners[0], "winners: {winners:?}, object of {found:?}");
    }
    Ok(())
}

async fn a_replacement_needs_the_state_it_names(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "replaced");
    let over = |etag: &str| PutOptions { if_match: Some(etag.to_owned()), ..PutOptions::default() };
    let first = put(&store, &at, b"one").await?;
    let second = store.put(&at, "two".into(), over(&first.etag)).await.map_err(text)?;
    let stale = store.put(&at, "three".into(), over(&first.etag)).await;
    ensure!(matches!(stale, Err(Error::Conflict { .. })), "over a stale state: {stale:?}");
    ensure!(store.get(&at, Some(&second)).await.map_err(text)? == "two", "the bytes after a refused put");
    let missing = store.put(&uri(&bucket, "missing"), "x".into(), over(&first.etag)).await;
    let refused = matches!(missing, Err(Error::NotFound { .. } | Error::Conflict { .. }));
    ensure!(refused, "over an object that is not there: {missing:?}");
    Ok(())
}

async fn large_objects_go_in_parts(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "large");
    let body = pattern((17 << 20) + 5);
    let mut options = PutOptions::typed("text/csv");
    options.metadata.insert("rows".into(), "9".into());
    let mut writer = store.writer(&at, options);
    for chunk in body.chunks(1_234_567) {
        writer.write(Bytes::copy_from_slice(chunk)).await.map_err(text)?;
    }
    ensure!(matches!(store.head(&at).await, Err(Error::NotFound { .. })), "visible before it is finished");
    let pin = writer.finish().await.map_err(text)?;
    ensure!(pin.size == body.len() as u64 && pin.etag.ends_with("-3"), "pin: {pin:?}");
    let meta = store.head(&at).await.map_err(text)?;
    ensure!(meta.pin == pin, "head must see {pin:?}, found {:?}", meta.pin);
    ensure!(meta.content_type.as_deref() == Some("text/csv"), "content type: {:?}", meta.content_type);
    ensure!(meta.user_metadata.get("rows").is_some_and(|v| v == "9"), "metadata: {:?}", meta.user_metadata);
    let ahead = ReadAhead { chunk_bytes: 3 << 20, parallel: 3 };
    let read: Vec<Bytes> = store.reader(&at, &pin, 0..pin.size, ahead).try_collect().await.map_err(text)?;
    ensure!(read.concat() == body, "other bytes");
    let edge = 8 << 20;
    let found = store.get_range(&at, &pin, edge - 3..edge + 3).await.map_err(text)?;
    let at_edge = usize::try_from(edge).map_err(text)?;
    ensure!(found == body[at_edge - 3..at_edge + 3], "bytes across parts");
    Ok(())
}

async fn parts_are_larger_for_what_is_said_to_be_large(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "said");
    // Of 8 MiB it would need more parts than an upload may have; of 10 MiB it does not.
    let mut writer = store.writer(&at, PutOptions::default()).expecting(90 << 30);
    writer.write(pattern(20 << 20).into()).await.map_err(text)?;
    let pin = writer.finish().await.map_err(text)?;
    ensure!(pin.size == 20 << 20 && pin.etag.ends_with("-2"), "pin: {pin:?}");
    Ok(())
}

async fn small_objects_go_whole(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "small");
    let meter = Meter::new();
    let mut writer = store.with_meter(meter.clone()).writer(&at, PutOptions::default());
    writer.write("hel".into()).await.map_err(text)?;
    writer.write("lo".into()).await.map_err(text)?;
    let pin = writer.finish().await.map_err(text)?;
    ensure!(pin.etag == "5d41402abc4b2a76b9719d911017c592", "ETag {}", pin.etag);
    ensure!(meter.usage().requests == 1, "usage: {:?}", meter.usage());
    Ok(())
}

async fn uploads_that_nobody_ends_are_found_and_removed(store: Store, bucket: String) -> Outcome {
    let keys = ["up/a b+%.csv", "up/c", "other"];
    for key in keys {
        let mut writer = store.writer(&uri(&bucket, key), PutOptions::default());
        writer.write(pattern(9 << 20).into()).await.map_err(text)?;
        // As if it had been killed.
        std::mem::forget(writer);
    }
    let open = store.uploads(&bucket, "up/").await.map_err(text)?;
    let mut found: Vec<_> = open.iter().map(|upload| upload.key.as_str()).collect();
    found.sort_unstable();
    ensure!(found == keys[..2], "{open:?}");
    ensure!(open.iter().all(|upload| upload.begun.0 > 0), "{open:?}");
    let all = store.uploads(&bucket, "").await.map_err(text)?;
    ensure!(all.len() == 3, "{all:?}");
    // Parts may still be on their way; ending an upload twice does no harm.
    for _ in 0..20 {
        for upload in &all {
            store.abort_upload(&uri(&bucket, &upload.key), &upload.id).await.map_err(text)?;
        }
        if store.uploads(&bucket, "").await.map_err(text)?.is_empty() {
            return Ok(());
        }
    }
    Err(format!("left: {:?}", store.uploads(&bucket, "").await))
}

async fn an_abandoned_writer_leaves_nothing(store: Store, bucket: String) -> Outcome {
    for key in ["aborted", "dropped"] {
        let at = uri(&bucket, key);
        let mut writer = store.writer(&at, PutOptions::default());
        writer.write(Bytes::from(pattern(9 << 20))).await.map_err(text)?;
        if key == "aborted" {
            writer.abort().await.map_err(text)?;
        } else {
            drop(writer);
        }
        ensure!(matches!(store.head(&at).await, Err(Error::NotFound { .. })), "{key}: an object is there");
    }
    ensure!(names(&store, &bucket, "", ListOptions::default()).await?.is_empty(), "something is listed");
    Ok(())
}

async fn deleting_twice_is_fine(store: Store, bucket: String) -> Outcome {
    let keys: Vec<String> = (0..1_050).map(|n| format!("d/{n:04}")).collect();
    let bodies = keys.iter().take(30).map(|key| uri(&bucket, key));
    for result in join_all(bodies.map(|at| {
        let store = store.clone();
        async move { put(&store, &at, b"x").await }
    }))
    .await
    {
        result?;
    }
    let kept = uri(&bucket, "kept");
    put(&store, &kept, b"x").await?;
    store.delete(&uri(&bucket, "d/0000")).await.map_err(text)?;
    store.delete(&uri(&bucket, "d/0000")).await.map_err(text)?;
    store.delete_many(&bucket, keys.clone()).await.map_err(text)?;
    store.delete_many(&bucket, keys).await.map_err(text)?;
    let left = names(&store, &bucket, "", ListOptions::default()).await?;
    ensure!(left == ["kept"], "left: {left:?}");
    Ok(())
}

/// Keys on three levels, and a listing of them by pages of seven.
async fn tree(store: &Store, bucket: &str) -> Result<Vec<String>, String> {
    let mut keys: Vec<String> = (0..23).map(|n| format!("p/{n:02}/part")).collect();
    keys.extend(["p/00/zeta", "p.txt", "p/readme", "q", "o"].map(str::to_owned));
    keys.sort();
    for key in &keys {
        put(store, &uri(bucket, key), key.as_bytes()).await?;
    }
    Ok(keys)
}

fn paged(delimiter: Option<&str>, start_after: Option<&str>) -> ListOptions {
    ListOptions {
        delimiter: delimiter.map(str::to_owned),
        start_after: start_after.map(str::to_owned),
        page_keys: Some(7),
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

async fn listings_are_complete(store: Store, bucket: String) -> Outcome {
    let keys = tree(&store, &bucket).await?;
    let all = sorted(names(&store, &bucket, "", paged(None, None)).await?);
    ensure!(all == keys, "all: {all:?}");
    let under: Vec<_> = keys.iter().filter(|k| k.starts_with("p/")).cloned().collect();
    let found = sorted(names(&store, &bucket, "p/", paged(None, None)).await?);
    ensure!(found == under, "under p/: {found:?}");
    let found = sorted(names(&store, &bucket, "", paged(Some("/"), None)).await?);
    ensure!(found == ["o", "p.txt", "p/", "q"], "one level: {found:?}");
    let found = sorted(names(&store, &bucket, "p/", paged(Some("/"), None)).await?);
    let mut level: Vec<String> = (0..23).map(|n| format!("p/{n:02}/")).collect();
    level.push("p/readme".into());
    ensure!(found == level, "one level of p/: {found:?}");
    let found = sorted(names(&store, &bucket, "p/", paged(None, Some("p/20/part"))).await?);
    ensure!(found == ["p/21/part", "p/22/part", "p/readme"], "after a key: {found:?}");
    let entries: Vec<ListEntry> =
        store.list(&bucket, "q", ListOptions::default()).try_collect().await.map_err(text)?;
    let head = store.head(&uri(&bucket, "q")).await.map_err(text)?;
    let same = matches!(&entries[..], [ListEntry::Object { key, pin, .. }] if key == "q" && *pin == head.pin);
    ensure!(same, "a line: {entries:?}, the object: {:?}", head.pin);
    Ok(())
}

async fn listings_are_in_order(store: Store, bucket: String) -> Outcome {
    let keys = tree(&store, &bucket).await?;
    for delimiter in [None, Some("/")] {
        let found = names(&store, &bucket, "", paged(delimiter, None)).await?;
        ensure!(found.is_sorted(), "out of order: {found:?}");
        ensure!(delimiter.is_some() || found == keys, "all: {found:?}");
    }
    Ok(())
}

/// Keys that trip servers which forget to encode.
const ODD: [&str; 13] =
    ["a", "a b", "a+b", "a%2Fb", "a%", "ä/ö€", "日本", "a&b<c>\"d'", "a?b=c#d", "~a!b*c(d)", ".a", "a.", "A"];

/// Keys that trip servers which think of files.
const PATHS: [&str; 11] = ["a", "a/", "a/b", "a//b", "/a", "//", "../a", "a/../b", "./a", "a/.", "a\\b"];

async fn keys_are_kept(store: Store, bucket: String) -> Outcome {
    let mut keys = ODD.map(str::to_owned).to_vec();
    keys.push("k".repeat(250));
    round_trip(&store, &bucket, keys).await
}

async fn keys_are_no_paths(store: Store, bucket: String) -> Outcome {
    let mut keys = PATHS.map(str::to_owned).to_vec();
    keys.push("k".repeat(1_024));
    round_trip(&store, &bucket, keys).await
}

/// Puts, reads, lists and deletes objects of these keys, and says all that went wrong.
async fn round_trip(store: &Store, bucket: &str, keys: Vec<String>) -> Outcome {
    let mut wrong = Vec::new();
    for key in &keys {
        if let Err(e) = put(store, &uri(bucket, key), key.as_bytes()).await {
            wrong.push(format!("put {key:?}: {e}"));
        }
    }
    for key in &keys {
        match store.get(&uri(bucket, key), None).await {
            Ok(found) if found == key.as_bytes() => {}
            other => wrong.push(format!("get {key:?}: {other:?}")),
        }
    }
    let found = sorted(names(store, bucket, "", ListOptions::default()).await?);
    if found != sorted(keys.clone()) {
        wrong.push(format!("listed: {found:?}"));
    }
    if let Err(e) = store.delete_many(bucket, keys).await {
        wrong.push(format!("delete: {e}"));
    }
    let left = names(store, bucket, "", ListOptions::default()).await?;
    if !left.is_empty() {
        wrong.push(format!("left: {left:?}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

async fn a_copy_is_an_object_of_its_own(store: Store, bucket: String) -> Outcome {
    let (from, to) = (uri(&bucket, "dir/from +%.csv"), uri(&bucket, "to"));
    let mut options = PutOptions::typed("text/csv");
    options.metadata.insert("rows".into(), "9".into());
    let pin = store.put(&from, pattern(50_000).into(), options).await.map_err(text)?;
    let copied = store.copy(&from, Some(&pin), &to).await.map_err(text)?;
    store.delete(&from).await.map_err(text)?;
    ensure!(store.get(&to, Some(&copied)).await.map_err(text)? == pattern(50_000), "other bytes");
    let meta = store.head(&to).await.map_err(text)?;
    ensure!(meta.content_type.as_deref() == Some("text/csv"), "content type: {:?}", meta.content_type);
    ensure!(meta.user_metadata.get("rows").is_some_and(|v| v == "9"), "metadata: {:?}", meta.user_metadata);
    let (deep, flat) = (uri(&bucket, "deep"), uri(&bucket, "flat"));
    store.copy_at_depth(&to, Some(&copied), &deep, 3).await.map_err(text)?;
    store.copy_at_depth(&deep, None, &flat, 0).await.map_err(text)?;
    for (at, depth) in [(deep, Some("3")), (flat, None)] {
        let meta = store.head(&at).await.map_err(text)?;
        let found = meta.user_metadata.get(DEPTH_METADATA).map(String::as_str);
        ensure!(found == depth, "depth of {at}: {found:?}");
        ensure!(meta.user_metadata.get("rows").is_some_and(|v| v == "9"), "{at}: {:?}", meta.user_metadata);
        ensure!(meta.content_type.as_deref() == Some("text/csv"), "{at}: {:?}", meta.content_type);
        store.delete(&at).await.map_err(text)?;
    }
    let missing = store.copy(&from, None, &to).await;
    ensure!(matches!(missing, Err(Error::NotFound { .. })), "a missing source: {missing:?}");
    let stale = State { etag: "0".repeat(32), ..copied };
    let changed = store.copy(&to, Some(&stale), &from).await;
    ensure!(matches!(changed, Err(Error::Changed { .. })), "a changed source: {changed:?}");
    Ok(())
}

async fn buckets_come_and_go(store: Store, bucket: String) -> Outcome {
    let own = format!("{bucket}-own");
    store.ensure_bucket(&own).await.map_err(text)?;
    store.ensure_bucket(&own).await.map_err(text)?;
    ensure!(store.bucket_exists(&own).await.map_err(text)?, "not there after it was made");
    let again = store.create_bucket(&own).await;
    ensure!(matches!(again, Err(Error::Conflict { .. })), "made twice: {again:?}");
    let listed = store.list_buckets().await.map_err(text)?;
    ensure!(listed.iter().any(|b| b.name == own), "listed: {listed:?}");
    store.delete_bucket(&own).await.map_err(text)?;
    store.delete_bucket(&own).await.map_err(text)?;
    ensure!(!store.bucket_exists(&own).await.map_err(text)?, "there after it was deleted");
    Ok(())
}

async fn a_bucket_with_objects_stays(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "x");
    put(&store, &at, b"x").await?;
    let full = store.delete_bucket(&bucket).await;
    ensure!(matches!(full, Err(Error::Conflict { .. })), "deleted with an object in it: {full:?}");
    ensure!(store.get(&at, None).await.map_err(text)? == "x", "the object");
    Ok(())
}

async fn a_probe_finds_everything(store: Store, bucket: String) -> Outcome {
    let probe = store.probe(&bucket).await;
    ensure!(probe.is_complete(), "{probe:?}");
    let left = names(&store, &bucket, "", ListOptions::default()).await?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

async fn what_killed_probes_left_is_swept(store: Store, bucket: String) -> Outcome {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let keys = ["_fanfold/probe/7/absent", "_fanfold/probes", "in/_fanfold/probe/7/absent"];
    for key in keys {
        put(&store, &uri(&bucket, key), b"x").await?;
    }
    let mut writer = store.writer(&uri(&bucket, "_fanfold/probe/7/multipart"), PutOptions::default());
    writer.write(pattern(9 << 20).into()).await.map_err(text)?;
    std::mem::forget(writer);
    let now = fanfold_protocol::time::now();
    store.sweep_probes(&bucket, now, DAY).await.map_err(text)?;
    let young = names(&store, &bucket, "", ListOptions::default()).await?;
    ensure!(young == keys, "of one that may still run: {young:?}");
    ensure!(store.uploads(&bucket, "").await.map_err(text)?.len() == 1, "its upload");
    // Clocks may differ by a little. Parts may still be on their way.
    let tomorrow = Timestamp(now.0 + 25 * 3_600_000);
    for _ in 0..20 {
        store.sweep_probes(&bucket, tomorrow, DAY).await.map_err(text)?;
        if store.uploads(&bucket, "").await.map_err(text)?.is_empty() {
            break;
        }
    }
    let uploads = store.uploads(&bucket, "").await.map_err(text)?;
    ensure!(uploads.is_empty(), "left: {uploads:?}");
    let left = names(&store, &bucket, "", ListOptions::default()).await?;
    ensure!(left == keys[1..], "left: {left:?}");
    Ok(())
}

async fn use_is_metered(store: Store, bucket: String) -> Outcome {
    let (mine, other) = (Meter::new(), Meter::new());
    let metered = store.with_meter(mine.clone());
    let at = uri(&bucket, "metered");
    let pin = put(&metered, &at, &pattern(1_000)).await?;
    metered.get_range(&at, &pin, 10..110).await.map_err(text)?;
    store.with_meter(other.clone()).get(&at, None).await.map_err(text)?;
    let found = mine.usage();
    let right = (found.requests, found.bytes_written, found.bytes_read) == (2, 1_000, 100);
    ensure!(right, "usage: {found:?}");
    ensure!(other.usage().bytes_read == 1_000, "the other: {:?}", other.usage());
    Ok(())
}

async fn a_whole_read_is_bounded(store: Store, bucket: String) -> Outcome {
    let at = uri(&bucket, "big");
    let mut config = store.config().clone();
    config.get_bytes_max = 999;
    let bounded = Store::connect(config).map_err(text)?;
    let pin = put(&bounded, &at, &pattern(1_000)).await?;
    let found = bounded.get(&at, None).await;
    let refused = matches!(found, Err(Error::TooLarge { bytes: 1_000, bytes_max: 999, .. }));
    ensure!(refused, "a large object: {found:?}");
    ensure!(bounded.get_range(&at, &pin, 0..999).await.is_ok(), "a range of it");
    Ok(())
}
