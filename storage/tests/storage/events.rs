// SPDX-License-Identifier: Apache-2.0
//! What the embedded server tells of its objects.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanfold_storage::{Credentials, PutOptions, Server, ServerConfig, Store, StoreConfig, server::Event};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::uri;

#[tokio::test(flavor = "multi_thread")]
async fn every_write_and_removal_is_told_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::new("tester", "secret-of-the-tester");
    let config = ServerConfig { root: folder.path().join("store"), credentials: credentials.clone() };
    let server = Server::open(config).unwrap();
    let mut events = server.listen().unwrap();
    assert!(server.listen().is_none());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let stop = stop.clone();
        async move { server.serve(listener, stop).await }
    });
    let store = Store::connect(StoreConfig::at(endpoint, credentials)).unwrap();
    store.ensure_bucket("bank").await.unwrap();
    let put = |key: &str| (uri("bank", key), Bytes::from_static(b"x"));
    let (at, body) = put("a");
    let mut options = PutOptions::default();
    options.mark_depth(3);
    let pin = store.put(&at, body.clone(), options).await.unwrap();
    // What is refused is not told.
    store.put_if_absent(&at, body, "another", PutOptions::default()).await.unwrap();
    store.copy(&at, None, &uri("bank", "b")).await.unwrap();
    // A copy stands as deep in a chain of triggers as what it is of.
    let copied = store.head(&uri("bank", "b")).await.unwrap();
    assert_eq!(copied.user_metadata.get("fanfold-depth").map(String::as_str), Some("3"));
    let mut writer = store.writer(&uri("bank", "parts"), PutOptions::default());
    writer.write(Bytes::from(vec![0; 20 << 20])).await.unwrap();
    writer.finish().await.unwrap();
    store.delete(&at).await.unwrap();
    stop.cancel();
    serving.await.unwrap();
    let mut told: Vec<Event> = Vec::new();
    while told.len() < 4 {
        told.extend(events.next(100).await);
    }
    let names: Vec<_> = told.iter().map(|event| (event.key.as_str(), event.name)).collect();
    let expected = [
        ("a", "ObjectCreated:Put"),
        ("b", "ObjectCreated:Copy"),
        ("parts", "ObjectCreated:CompleteMultipartUpload"),
        ("a", "ObjectRemoved:Delete"),
    ];
    assert_eq!(names, expected);
    assert_eq!((told[0].etag.as_ref(), told[0].size), (Some(&pin.etag), 1));
    assert!(told.is_sorted_by(|a, b| a.sequencer < b.sequencer));
    assert_eq!(events.lost(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_sleeps_is_told_how_much_it_lost() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::new("tester", "secret-of-the-tester");
    let config = ServerConfig { root: folder.path().join("store"), credentials: credentials.clone() };
    let server = Server::open(config).unwrap();
    let mut events = server.listen().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { server.serve(listener, CancellationToken::new()).await });
    let store = Store::connect(StoreConfig::at(endpoint, credentials)).unwrap();
    store.ensure_bucket("bank").await.unwrap();
    // Removals are told one by one, also of what is not there.
    let keys: Vec<String> = (0..17_000).map(|n| n.to_string()).collect();
    store.delete_many("bank", keys).await.unwrap();
    let (mut seen, mut keys) = (0, BTreeMap::new());
    while seen < 16_384 {
        for event in events.next(1_000).await {
            seen += 1;
            keys.insert(event.key, ());
        }
    }
    assert_eq!(keys.len(), 16_384);
    assert_eq!(events.lost(), 17_000 - 16_384);
    assert_eq!(events.lost(), 0);
}
