// SPDX-License-Identifier: Apache-2.0
//! The suite against the embedded server, and what only that server promises.

use std::{os::unix::fs::MetadataExt, path::PathBuf, time::Instant};

use bytes::Bytes;
use fanfold_storage::{Credentials, Error, PutOptions, ReadAhead, Server, ServerConfig, Store, StoreConfig};
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    suite,
    support::{Embedded, pattern, uri},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_passes_the_suite() {
    let server = Embedded::start().await;
    suite::run(&server.store(), &[]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_passes_the_suite_without_a_socket() {
    let server = Embedded::start().await;
    suite::run(&Store::connect(server.direct()).unwrap(), &[]).await;
    server.stop().await;
}

/// Whoever is in the process is asked who they are like anybody else.
#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_checked_without_a_socket() {
    let server = Embedded::start().await;
    let forged = Credentials::new(&server.credentials.access_key, "another secret");
    let config = StoreConfig { credentials: Some(forged), ..server.direct() };
    let refused = Store::connect(config).unwrap().list_buckets().await.unwrap_err();
    assert!(matches!(refused, Error::AccessDenied { .. }), "{refused}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let server = Embedded::start().await;
    let store = server.store();
    store.create_bucket("kept").await.unwrap();
    let small = store.put(&uri("kept", "small"), "small".into(), PutOptions::default()).await.unwrap();
    let large =
        store.put(&uri("kept", "large"), pattern(3 << 20).into(), PutOptions::default()).await.unwrap();
    let mut writer = store.writer(&uri("kept", "parts"), PutOptions::default());
    writer.write(pattern(10 << 20).into()).await.unwrap();
    let parts = writer.finish().await.unwrap();
    let server = Embedded::start_in(server.stop().await, 0).await;
    let store = server.store();
    assert_eq!(store.get(&uri("kept", "small"), Some(&small)).await.unwrap(), "small");
    assert_eq!(store.get(&uri("kept", "large"), Some(&large)).await.unwrap(), pattern(3 << 20));
    assert_eq!(store.get(&uri("kept", "parts"), Some(&parts)).await.unwrap(), pattern(10 << 20));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_begun_gets_the_object_that_it_began() {
    let server = Embedded::start().await;
    let store = server.store();
    store.create_bucket("held").await.unwrap();
    let at = uri("held", "x");
    let body = pattern(40 << 20);
    let mut writer = store.writer(&at, PutOptions::default());
    writer.write(body.clone().into()).await.unwrap();
    let pin = writer.finish().await.unwrap();
    // One request for all of it: the socket's buffers cannot hold that much.
    let ahead = ReadAhead { chunk_bytes: pin.size, parallel: 1 };
    let mut reader = store.reader(&at, &pin, 0..pin.size, ahead).boxed();
    let replace = async {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        store.put(&at, "other".into(), PutOptions::default()).await.unwrap();
    };
    let (read, ()) = tokio::join!(reader.next(), replace);
    match read.unwrap() {
        Ok(bytes) => assert_eq!(bytes, body),
        // The put may have come first; mixed bytes never come.
        Err(error) => assert!(matches!(error, Error::Changed { .. }), "{error}"),
    }
    server.stop().await;
}

/// The files of bodies.
fn files(server: &Embedded) -> Vec<PathBuf> {
    let blobs = server.root.path().join("store/blobs");
    let fans = std::fs::read_dir(blobs).unwrap().map(|fan| fan.unwrap().path());
    fans.flat_map(|fan| std::fs::read_dir(fan).unwrap()).map(|file| file.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_gone_from_the_disk_is_told_and_not_waited_for() {
    let server = Embedded::start().await;
    let store = Store::connect(StoreConfig { attempts_max: 1, ..server.config() }).unwrap();
    store.create_bucket("lost").await.unwrap();
    let (at, to) = (uri("lost", "x"), uri("lost", "y"));
    let pin = store.put(&at, pattern(3 << 20).into(), PutOptions::default()).await.unwrap();
    let stored = files(&server);
    let [file] = &stored[..] else { panic!("{stored:?}") };
    let lost = async || {
        for found in [store.get(&at, None).await, store.get_range(&at, &pin, 1 << 20..2 << 20).await] {
            let error = found.unwrap_err();
            assert!(matches!(error, Error::Lost { .. }) && !error.is_transient(), "{error:?}");
            assert!(error.to_string().contains("s3://lost/x in the store, found: a stored body is missing"));
        }
    };
    std::fs::File::options().write(true).open(file).unwrap().set_len(3).unwrap();
    lost().await;
    std::fs::remove_file(file).unwrap();
    lost().await;
    assert!(store.copy(&at, Some(&pin), &to).await.is_err());
    // Written anew it is whole.
    store.put(&at, pattern(3 << 20).into(), PutOptions::default()).await.unwrap();
    assert_eq!(store.get(&at, None).await.unwrap(), pattern(3 << 20));
    server.stop().await;
}

/// However large it is, a copy is there at once, and goes on without its source.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_another_name_of_its_source_s_file() {
    let server = Embedded::start().await;
    let store = server.store();
    store.create_bucket("copied").await.unwrap();
    let (from, to, body) = (uri("copied", "from"), uri("copied", "to"), pattern(3 << 20));
    let pin = store.put(&from, body.clone().into(), PutOptions::default()).await.unwrap();
    let copied = store.copy(&from, Some(&pin), &to).await.unwrap();
    assert_eq!(copied.etag, pin.etag);
    let names: Vec<_> = files(&server).iter().map(|file| file.metadata().unwrap().nlink()).collect();
    assert_eq!(names, [2, 2]);
    store.put(&from, "other".into(), PutOptions::default()).await.unwrap();
    assert_eq!(store.get(&to, Some(&copied)).await.unwrap(), body);
    let server = Embedded::start_in(server.stop().await, 0).await;
    assert_eq!(server.store().get(&to, Some(&copied)).await.unwrap(), body);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_signed_requests_with_the_right_key_are_served() {
    let server = Embedded::start().await;
    let right = server.store();
    right.create_bucket("mine").await.unwrap();
    let mut wrong_secret = server.credentials.clone();
    wrong_secret.secret_key.push('x');
    for credentials in [wrong_secret, Credentials::random().unwrap()] {
        let mut config = server.config();
        config.credentials = Some(credentials);
        let store = Store::connect(config).unwrap();
        let found = store.put(&uri("mine", "x"), Bytes::from_static(b"x"), PutOptions::default()).await;
        assert!(matches!(found, Err(Error::AccessDenied { .. })), "{found:?}");
        // A HEAD is answered with a status alone, and what is wrong is told all the same.
        let found = store.bucket_exists("mine").await;
        let Err(Error::AccessDenied { detail, .. }) = found else { panic!("{found:?}") };
        assert!(!detail.contains("HTTP status"), "{detail}");
    }
    for request in ["GET / HTTP/1.1", "GET /mine/x HTTP/1.1", "PUT /mine/x HTTP/1.1", "DELETE /mine HTTP/1.1"]
    {
        let answer = raw(&server, &format!("{request}\r\nhost: x\r\ncontent-length: 0\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{request}: {answer}");
    }
    assert!(matches!(right.head(&uri("mine", "x")).await, Err(Error::NotFound { .. })));
    server.stop().await;
}

/// Sends text and returns the beginning of the answer.
async fn raw(server: &Embedded, text: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[test]
fn one_folder_has_one_server() {
    let root = tempfile::tempdir().unwrap();
    let config = ServerConfig { root: root.path().to_owned(), credentials: Credentials::random().unwrap() };
    let first = Server::open(config.clone()).unwrap();
    let second = Server::open(config).err().unwrap().to_string();
    assert!(second.contains("no other server"), "{second}");
    drop(first);
}

/// Without its index nobody knows what the files are; the sweep of a new one would take them.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_its_index_is_left_as_it_is() {
    let server = Embedded::start().await;
    let store = server.store();
    store.create_bucket("kept").await.unwrap();
    let pin = store.put(&uri("kept", "x"), pattern(1 << 20).into(), PutOptions::default()).await.unwrap();
    let credentials = server.credentials.clone();
    let root = server.stop().await;
    let config = ServerConfig { root: root.path().join("store"), credentials };
    let (index, away) = (config.root.join("index.redb"), root.path().join("away.redb"));
    std::fs::rename(&index, &away).unwrap();
    let refused = || Server::open(config.clone()).err().map(|error| error.to_string()).unwrap_or_default();
    let told = refused();
    assert!(told.contains("no `index.redb`") && told.contains("put `index.redb` back"), "{told}");
    assert!(!index.exists());
    std::fs::write(&index, "").unwrap();
    assert!(refused().contains("put `index.redb` back"));
    std::fs::rename(&away, &index).unwrap();
    let server = Embedded::start_in(root, 0).await;
    assert_eq!(server.store().get(&uri("kept", "x"), Some(&pin)).await.unwrap(), pattern(1 << 20));
    server.stop().await;
    // A store that never had an index may have empty folders for them.
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("blobs/00")).unwrap();
    Server::open(ServerConfig { root: root.path().to_owned(), ..config }).unwrap();
}

#[test]
fn an_index_that_is_damaged_says_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let index = root.path().join("index.redb");
    let config =
        || ServerConfig { root: root.path().to_owned(), credentials: Credentials::random().unwrap() };
    drop(Server::open(config()).unwrap());
    let whole = std::fs::read(&index).unwrap();
    for damaged in [vec![b'x'; whole.len()], [b"other".as_slice(), &whole[5..]].concat()] {
        std::fs::write(&index, &damaged).unwrap();
        let told = Server::open(config()).err().unwrap().to_string();
        assert!(told.contains("restore the folder from a backup, or move all of it away"), "{told}");
        assert_eq!(std::fs::read(&index).unwrap(), damaged);
    }
    std::fs::write(&index, whole).unwrap();
    Server::open(config()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_many_objects_is_ready_at_once() {
    let server = Embedded::start().await;
    let store = server.store();
    store.create_bucket("many").await.unwrap();
    let puts = (0..3_000).map(|n| {
        let store = store.clone();
        async move { store.put(&uri("many", &format!("k/{n:06}")), "x".into(), PutOptions::default()).await }
    });
    futures::stream::iter(puts).buffer_unordered(64).try_collect::<Vec<_>>().await.unwrap();
    let root = server.stop().await;
    let begun = Instant::now();
    let server = Embedded::start_in(root, 0).await;
    let listed: Vec<_> = server.store().list("many", "", Default::default()).try_collect().await.unwrap();
    assert_eq!(listed.len(), 3_000);
    assert!(begun.elapsed().as_secs_f32() < 2.0, "{:?}", begun.elapsed());
    server.stop().await;
}
