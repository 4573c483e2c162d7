// SPDX-License-Identifier: Apache-2.0
//! The embedded backbone: the conformance suite, and what only a restart, a second process, a damaged file or a
//! full disk shows.

#![allow(clippy::unwrap_used, reason = "tests, helpers included")]

mod conformance;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use conformance::{Fixture, until};
use fanfold_backbone::{Backbone, EmbeddedConfig, Error, Message};
use fanfold_protocol::ErrorKind;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

async fn open() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let backbone = reopen(folder.path()).await;
    Fixture { backbone, _keep: Box::new(folder) }
}

async fn reopen(folder: &Path) -> Backbone {
    Backbone::embedded(EmbeddedConfig::new(folder.join("data/backbone.redb"))).await.unwrap()
}

mod suite {
    crate::conformance_suite!(crate::open);
}

#[tokio::test]
async fn finds_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let b = reopen(folder.path()).await;
    let revision = b.put("kept", "value").await.unwrap();
    b.put_with_ttl("short", "x", Duration::from_millis(300)).await.unwrap();
    b.put_with_ttl("long", "x", LONG).await.unwrap();
    let ids = ["acked", "leased", "nakked", "dead", "ready"];
    b.enqueue("q", ids.map(|id| Message::new(id, id)).to_vec()).await.unwrap();
    let late = Message::new("late", "late").delayed(Duration::from_millis(1_500));
    b.enqueue("q", vec![late]).await.unwrap();
    let pulled = b.pull("q", 4, LONG, LONG).await.unwrap();
    pulled[0].ack().await.unwrap();
    pulled[2].nak(Duration::ZERO).await.unwrap();
    pulled[3].dead("because").await.unwrap();
    b.close().await;

    let b = reopen(folder.path()).await;
    assert_eq!(b.get("kept").await.unwrap().unwrap().revision, revision);
    assert!(b.get("long").await.unwrap().is_some());
    assert!(b.put("kept", "newer").await.unwrap() > revision);
    assert_eq!(b.dead_letters("q", 0, 9).await.unwrap()[0].reason, "because");
    let pulled = b.pull("q", 9, LONG, LONG).await.unwrap();
    let seen: Vec<_> = pulled.iter().map(|delivery| (delivery.id.as_str(), delivery.attempt)).collect();
    assert_eq!(seen, [("leased", 2), ("nakked", 2), ("ready", 1)]);
    // A message that is still there is still known; its second copy is dropped.
    assert_eq!(b.enqueue("q", vec![Message::new("leased", "x")]).await.unwrap().duplicates, 1);
    let late = b.pull("q", 1, LONG, LONG).await.unwrap();
    assert_eq!(late[0].id, "late");
    assert_eq!(b.get("short").await.unwrap(), None);
    b.close().await;
}

#[tokio::test]
async fn goes_through_a_large_scope_in_parts() {
    let fixture = open().await;
    let b = &fixture.backbone;
    let keys: Vec<String> = (0..2_300).map(|n| format!("many/{n:04}")).collect();
    futures::future::try_join_all(keys.iter().map(|key| b.put(key, "x"))).await.unwrap();
    let (mut found, mut sizes, mut after) = (Vec::new(), Vec::new(), None::<String>);
    loop {
        let part = b.list_part("many/", after.as_deref()).await.unwrap();
        sizes.push(part.entries.len());
        found.extend(part.entries.into_iter().map(|(key, _)| key));
        after = part.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((sizes, found), (vec![1_000, 1_000, 300], keys));
    b.close().await;
}

#[tokio::test]
async fn excludes_a_second_user() {
    let fixture = open().await;
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::new(folder.path().join("one.redb"));
    let first = Backbone::embedded(config.clone()).await.unwrap();
    let refused = Backbone::embedded(config.clone()).await.err().unwrap();
    assert_eq!(refused, Error::Locked { path: config.path.clone() });
    assert!(!refused.is_retryable());
    first.close().await;
    Backbone::embedded(config).await.unwrap().close().await;
    fixture.backbone.close().await;
}

/// A store with something in it, closed; answers the path of its file.
async fn filled(folder: &TempDir) -> std::path::PathBuf {
    let config = EmbeddedConfig::new(folder.path().join("b.redb"));
    let b = Backbone::embedded(config.clone()).await.unwrap();
    for n in 0..50 {
        b.put(&format!("k/{n}"), vec![n; 4_000]).await.unwrap();
    }
    b.close().await;
    config.path
}

#[tokio::test]
async fn says_that_a_file_is_foreign_or_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(&folder).await;
    let sound = fs::read(&path).unwrap();
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("foreign", b"this is no store, it is a letter\n".repeat(1_000)),
        ("short", b"PK".to_vec()),
        ("truncated", sound[..sound.len() / 2].to_vec()),
    ];
    for at in [0, 9, 64, 200] {
        let mut damaged = sound.clone();
        damaged[at..at + 8].iter_mut().for_each(|byte| *byte = !*byte);
        cases.push(("header", damaged));
    }
    let mut damaged = sound.clone();
    for page in damaged.chunks_mut(4_096).skip(1) {
        page[100..164].iter_mut().for_each(|byte| *byte = !*byte);
    }
    cases.push(("pages", damaged));
    for (name, bytes) in cases {
        fs::write(&path, &bytes).unwrap();
        match Backbone::embedded(EmbeddedConfig::new(&path)).await {
            Err(Error::Corrupt { path: told, .. }) => assert_eq!(told, path, "{name}"),
            Err(other) => panic!("{name}: {other:?}"),
            // A damaged spare copy of the header is mended; what was stored must then be whole.
            Ok(b) => {
                assert_eq!(name, "header");
                assert_eq!(b.list("k/").await.unwrap().len(), 50, "{name}");
                b.close().await;
            }
        }
    }
}

#[tokio::test]
async fn survives_a_full_store_and_recovers_without_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig::new(folder.path().join("full.redb"));
    config.size_bytes_max = Some(4 << 20);
    let b = Backbone::embedded(config).await.unwrap();
    let mut acknowledged = HashSet::new();
    let failure = loop {
        let n = acknowledged.len();
        let outcome = if n % 2 == 0 {
            b.put(&format!("k/{n}"), vec![1; 50_000]).await.map(drop)
        } else {
            b.enqueue("q", vec![Message::new(n.to_string(), vec![1; 50_000])]).await.map(drop)
        };
        match outcome {
            Ok(()) => acknowledged.insert(n),
            Err(failure) => break failure,
        };
        assert!(n < 1_000, "the bound is kept");
    };
    assert_eq!(failure.kind(), ErrorKind::StorageFull);
    assert_eq!(failure.kind().status(), 507);
    assert_eq!(b.ping().await.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(b.check_room().await.unwrap_err().kind(), ErrorKind::StorageFull);
    let room = b.room().await.unwrap().unwrap();
    assert!(room.bytes_max == 4 << 20 && (1..=room.bytes_max).contains(&room.bytes), "{room:?}");
    // Reads work while it is full, and stay right over repeated failures.
    for _ in 0..5 {
        for n in acknowledged.iter().filter(|n| *n % 2 == 0) {
            assert_eq!(b.get(&format!("k/{n}")).await.unwrap().unwrap().value.len(), 50_000);
        }
        assert_eq!(b.list("k/").await.unwrap().len(), acknowledged.len().div_ceil(2));
        tokio::time::sleep(Duration::from_millis(60)).await;
        let refused = b.put("more", vec![1; 500_000]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
    }
    // Room comes back, and with it everything else.
    b.as_embedded().unwrap().set_size_bytes_max(u64::MAX);
    until("room", || b.put("more", vec![1; 500_000]), Result::is_ok).await.unwrap();
    let mut pulled = 0;
    while pulled < acknowledged.len() / 2 {
        for delivery in b.pull("q", 10, Duration::from_secs(10), LONG).await.unwrap() {
            assert_eq!(delivery.payload.len(), 50_000);
            delivery.ack().await.unwrap();
            pulled += 1;
        }
    }
    b.ping().await.unwrap();
    b.check_room().await.unwrap();
    assert_eq!(b.room().await, Ok(None));
    b.close().await;
}
