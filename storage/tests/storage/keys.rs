// SPDX-License-Identifier: Apache-2.0
//! Threat T2: whatever bytes a key has, it names one object and no path.

use std::{collections::BTreeMap, fs, path::Path};

use fanfold_storage::{ListEntry, PutOptions};
use futures::TryStreamExt;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use crate::support::{Embedded, uri};

/// Keys of the pieces that path handling trips over.
fn keys() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just("/".to_owned()),
        Just("//".to_owned()),
        Just("%2e%2e".to_owned()),
        Just("%00".to_owned()),
        Just("\\".to_owned()),
        Just("\u{1}".to_owned()),
        Just("\r\n".to_owned()),
        Just("+ &<".to_owned()),
        Just("é\u{301}日".to_owned()),
        Just("C:".to_owned()),
        "[a-b]{1,3}",
    ];
    // The SDK takes a key of nothing but white space for none.
    prop::collection::vec(piece, 1..8)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("a blank key", |k| !k.trim().is_empty())
}

fn files(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_names_one_object_and_no_path() {
    let server = Embedded::start().await;
    let store = server.store();
    store.create_bucket("keys").await.unwrap();
    let mut runner = TestRunner::new(Config::default());
    let mut model = BTreeMap::new();
    let strategy = prop::collection::vec(keys(), 150);
    for (n, key) in strategy.new_tree(&mut runner).unwrap().current().into_iter().enumerate() {
        // Every third body is large enough for a file of its own.
        let body = format!("{n}:{key}").repeat(if n % 3 == 0 { 2_000 } else { 1 });
        store.put(&uri("keys", &key), body.clone().into(), PutOptions::default()).await.unwrap();
        model.insert(key, body);
    }
    for (key, body) in &model {
        assert_eq!(store.get(&uri("keys", key), None).await.unwrap(), body.as_bytes(), "{key:?}");
    }
    let listed: Vec<ListEntry> = store.list("keys", "", Default::default()).try_collect().await.unwrap();
    let listed: Vec<_> = listed.iter().map(ListEntry::name).collect();
    assert_eq!(listed, model.keys().collect::<Vec<_>>());
    let mut found = Vec::new();
    files(server.root.path(), &mut found);
    let known = |name: &String| {
        name == "credentials.json"
            || name == "index.redb"
            || name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
    };
    assert!(found.iter().all(known), "{found:?}");
    store.delete_many("keys", model.into_keys()).await.unwrap();
    store.delete_bucket("keys").await.unwrap();
    server.stop().await;
}
