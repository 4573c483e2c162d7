// SPDX-License-Identifier: Apache-2.0
//! Conformance of the key-value half: compare-and-set, listing, time to live, watches.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfold_backbone::kv::VALUE_BYTES_MAX;
use fanfold_backbone::{Backbone, CasOutcome, Change, DeleteOutcome, Entry, Error, Watch};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::{fresh, until};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn holds_what_was_put(b: &Backbone) {
    let key = format!("{}/a.b/c=d_E-9", fresh("put"));
    assert_eq!(b.get(&key).await.unwrap(), None);
    let first = b.put(&key, "one").await.unwrap();
    assert_eq!(b.get(&key).await.unwrap(), Some(Entry { value: "one".into(), revision: first }));
    let second = b.put(&key, vec![7; VALUE_BYTES_MAX]).await.unwrap();
    assert!(second > first);
    assert_eq!(b.get(&key).await.unwrap().unwrap().value.len(), VALUE_BYTES_MAX);
    b.put(&key, "").await.unwrap();
    assert_eq!(b.get(&key).await.unwrap().unwrap().value.len(), 0);
}

pub(crate) async fn compares_before_it_sets(b: &Backbone) {
    let key = fresh("cas");
    assert_eq!(b.update(&key, "x", 1).await.unwrap(), CasOutcome::Conflict(None));
    let first = b.create(&key, "one").await.unwrap().revision().unwrap();
    let held = Entry { value: "one".into(), revision: first };
    assert_eq!(b.create(&key, "x").await.unwrap(), CasOutcome::Conflict(Some(held.clone())));
    assert_eq!(b.update(&key, "x", first + 1_000).await.unwrap(), CasOutcome::Conflict(Some(held.clone())));
    assert_eq!(b.delete(&key, Some(first + 1_000)).await.unwrap(), DeleteOutcome::Conflict(held));
    let second = b.update(&key, "two", first).await.unwrap().revision().unwrap();
    assert!(!b.update(&key, "x", first).await.unwrap().is_stored());
    assert!(matches!(b.delete(&key, Some(second)).await.unwrap(), DeleteOutcome::Deleted(_)));
    assert_eq!(b.delete(&key, None).await.unwrap(), DeleteOutcome::Absent);
    assert_eq!(b.get(&key).await.unwrap(), None);
    assert!(!b.update(&key, "x", second).await.unwrap().is_stored());
}

pub(crate) async fn never_reuses_a_revision(b: &Backbone) {
    let key = fresh("revision");
    let mut last = 0;
    for _ in 0..5 {
        let created = b.create(&key, "x").await.unwrap().revision().unwrap();
        assert!(created > last);
        let DeleteOutcome::Deleted(gone) = b.delete(&key, Some(created)).await.unwrap() else {
            panic!("deleted with the right revision")
        };
        assert!(gone > created);
        last = gone;
    }
}

pub(crate) async fn lets_one_racer_win(b: &Backbone) {
    let key = fresh("race");
    let created = futures::future::join_all((0..100).map(|n: u32| {
        let (b, key) = (b.clone(), key.clone());
        tokio::spawn(async move { b.create(&key, n.to_string()).await.unwrap().is_stored() })
    }));
    assert_eq!(created.await.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    let start = b.get(&key).await.unwrap().unwrap().revision;
    let updated = futures::future::join_all((0..100).map(|n: u32| {
        let (b, key) = (b.clone(), key.clone());
        tokio::spawn(async move { b.update(&key, n.to_string(), start).await.unwrap() })
    }));
    let outcomes: Vec<CasOutcome> = updated.await.into_iter().map(Result::unwrap).collect();
    let won: Vec<u64> = outcomes.iter().filter_map(CasOutcome::revision).collect();
    assert_eq!(won.len(), 1);
    assert_eq!(b.get(&key).await.unwrap().unwrap().revision, won[0]);
}

pub(crate) async fn lists_scopes_in_pages(b: &Backbone) {
    let root = fresh("list");
    let mut expected = Vec::new();
    for n in 0..25 {
        let key = format!("{root}/in/{n:02}");
        b.put(&key, n.to_string()).await.unwrap();
        expected.push(key);
    }
    for other in [format!("{root}/in"), format!("{root}/in2/x"), format!("{root}/i")] {
        b.put(&other, "other").await.unwrap();
    }
    b.delete(&expected.remove(3), None).await.unwrap();
    let scope = format!("{root}/in/");
    let listed: Vec<String> = b.list(&scope).await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(listed, expected);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = b.list_page(&scope, after.as_deref(), 7).await.unwrap();
        assert!(page.entries.len() <= 7);
        paged.extend(page.entries.into_iter().map(|(key, _)| key));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(paged, expected);
    for behind in [0, 10, expected.len()] {
        let after = behind.checked_sub(1).map(|last| expected[last].as_str());
        let part = b.list_part(&scope, after).await.unwrap();
        let keys: Vec<String> = part.entries.into_iter().map(|(key, _)| key).collect();
        assert_eq!((&keys[..], part.next), (&expected[behind..], None));
    }
    assert_eq!(b.list(&format!("{root}/in")).await.unwrap().len(), 1);
    assert_eq!(b.list(&format!("{root}/")).await.unwrap().len(), expected.len() + 3);
    assert!(b.list("").await.unwrap().len() >= expected.len() + 3);
    assert!(b.list(&format!("{root}/none/")).await.unwrap().is_empty());
}

pub(crate) async fn forgets_after_the_time_to_live(b: &Backbone) {
    let root = fresh("ttl");
    let (short, kept) = (format!("{root}/short"), format!("{root}/kept"));
    let first = b.create_with_ttl(&short, "x", Duration::from_millis(600)).await.unwrap().revision().unwrap();
    b.put_with_ttl(&kept, "x", Duration::from_millis(600)).await.unwrap();
    b.put(&kept, "y").await.unwrap();
    assert!(b.get(&short).await.unwrap().is_some());
    until("the key to lapse", async || b.get(&short).await.unwrap(), Option::is_none).await;
    assert_eq!(b.list(&format!("{root}/")).await.unwrap().len(), 1);
    assert!(!b.update(&short, "x", first).await.unwrap().is_stored());
    assert!(b.create(&short, "again").await.unwrap().is_stored());
    sleep(Duration::from_millis(700)).await;
    assert_eq!(b.get(&short).await.unwrap().unwrap().value, "again");
    assert_eq!(b.get(&kept).await.unwrap().unwrap().value, "y");
}

pub(crate) async fn renews_a_lease(b: &Backbone) {
    let key = fresh("lease");
    let ttl = Duration::from_millis(1_500);
    let mut held = b.create_with_ttl(&key, "me", ttl).await.unwrap().revision().unwrap();
    for _ in 0..7 {
        sleep(Duration::from_millis(250)).await;
        held = b.update_with_ttl(&key, "me", held, ttl).await.unwrap().revision().unwrap();
        assert!(!b.create_with_ttl(&key, "you", ttl).await.unwrap().is_stored());
    }
    let taken = async || b.create_with_ttl(&key, "you", ttl).await.unwrap();
    until("the lease to lapse", taken, |taken| taken.is_stored()).await;
}

/// Reads a watch until `enough`, keeping what each key last held.
async fn follow(
    watch: &mut Watch,
    state: &mut BTreeMap<String, Entry>,
    mut enough: impl FnMut(&BTreeMap<String, Entry>, &Change) -> bool,
) {
    timeout(SOON, async {
        loop {
            let change = watch.next().await.unwrap();
            match &change {
                Change::Put { key, entry } => {
                    let old = state.insert(key.clone(), entry.clone());
                    assert!(old.is_none_or(|old| old.revision < entry.revision), "{key} went back");
                }
                Change::Delete { key, .. } => drop(state.remove(key)),
                Change::Synced => {}
            }
            if enough(state, &change) {
                return;
            }
        }
    })
    .await
    .unwrap();
}

pub(crate) async fn watches_without_a_gap(b: &Backbone) {
    let root = fresh("watch");
    let writer = {
        let (b, root) = (b.clone(), root.clone());
        tokio::spawn(async move {
            for n in 0..300u32 {
                let key = format!("{root}/{}", n % 10);
                b.put(&key, n.to_string()).await.unwrap();
                if n % 7 == 0 {
                    b.delete(&key, None).await.unwrap();
                }
            }
            b.put(&format!("{root}/end"), "end").await.unwrap();
        })
    };
    let mut watchers = Vec::new();
    for _ in 0..8 {
        let (b, scope) = (b.clone(), format!("{root}/"));
        watchers.push(tokio::spawn(async move {
            let mut state = BTreeMap::new();
            let mut watch = b.watch(&scope).await.unwrap();
            let mut synced = false;
            follow(&mut watch, &mut state, |state, change| {
                synced |= *change == Change::Synced;
                synced && state.keys().any(|key| key.ends_with("/end"))
            })
            .await;
            state
        }));
        sleep(Duration::from_millis(10)).await;
    }
    writer.await.unwrap();
    let expected: BTreeMap<String, Entry> = b.list(&format!("{root}/")).await.unwrap().into_iter().collect();
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), expected);
    }
}

pub(crate) async fn watches_one_key(b: &Backbone) {
    let root = fresh("one");
    let (key, below) = (format!("{root}/k"), format!("{root}/k/below"));
    b.put(&below, "x").await.unwrap();
    let mut watch = b.watch(&key).await.unwrap();
    assert_eq!(timeout(SOON, watch.next()).await.unwrap(), Some(Change::Synced));
    b.put(&below, "y").await.unwrap();
    let revision = b.put(&key, "z").await.unwrap();
    let expected = Change::Put { key, entry: Entry { value: "z".into(), revision } };
    assert_eq!(timeout(SOON, watch.next()).await.unwrap(), Some(expected));
}

pub(crate) async fn tells_watchers_of_expiry(b: &Backbone) {
    let key = fresh("expiry");
    b.put_with_ttl(&key, "x", Duration::from_millis(100)).await.unwrap();
    let mut watch = b.watch(&key).await.unwrap();
    let mut state = BTreeMap::new();
    follow(&mut watch, &mut state, |_, change| matches!(change, Change::Delete { .. })).await;
    assert!(state.is_empty());
}

pub(crate) async fn tells_the_state_once_and_then_what_differs(b: &Backbone) {
    let root = fresh("follow");
    let (gone, kept) = (format!("{root}/gone"), format!("{root}/kept"));
    let put = |key: &str, value: &'static str, revision| {
        let entry = Entry { value: value.into(), revision };
        Change::Put { key: key.to_owned(), entry }
    };
    let first = b.put(&kept, "old").await.unwrap();
    let second = b.put(&gone, "x").await.unwrap();
    let mut changes = b.follow(&format!("{root}/"));
    let state = [put(&gone, "x", second), put(&kept, "old", first), Change::Synced];
    for expected in state {
        assert_eq!(timeout(SOON, changes.next()).await.unwrap(), Some(expected));
    }
    let DeleteOutcome::Deleted(third) = b.delete(&gone, None).await.unwrap() else { panic!("it was there") };
    let fourth = b.put(&kept, "new").await.unwrap();
    for expected in [Change::Delete { key: gone, revision: third }, put(&kept, "new", fourth)] {
        assert_eq!(timeout(SOON, changes.next()).await.unwrap(), Some(expected));
    }
    b.close().await;
    assert_eq!(timeout(SOON, changes.next()).await.unwrap(), None);
    assert_eq!(timeout(SOON, b.follow(&kept).next()).await.unwrap(), None);
}

pub(crate) async fn refuses_bad_names_and_sizes(b: &Backbone) {
    for bad in ["", "/", "a/", "a//b", "a b", "a*", "a>", "ä", &"k".repeat(600)] {
        assert!(matches!(b.put(bad, "x").await, Err(Error::InvalidKey { .. })), "{bad}");
        assert!(matches!(b.get(bad).await, Err(Error::InvalidKey { .. })), "{bad}");
        assert!(matches!(b.depth(bad).await, Err(Error::InvalidKey { .. })), "{bad}");
    }
    assert!(matches!(b.watch("/").await, Err(Error::InvalidKey { .. })));
    assert!(matches!(b.publish("a.*", "x").await, Err(Error::InvalidSubject { .. })));
    assert!(matches!(b.subscribe("a.>.b").await, Err(Error::InvalidSubject { .. })));
    let large = vec![0; VALUE_BYTES_MAX + 1];
    assert!(matches!(b.put(&fresh("large"), large).await, Err(Error::TooLarge { .. })));
}
