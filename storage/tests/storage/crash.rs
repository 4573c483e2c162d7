// SPDX-License-Identifier: Apache-2.0
//! Fault F17: kill -9 under load, many times. Everything acknowledged is there,
//! whole; nothing else is there but whole objects that were on their way.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_storage::{Credentials, Error, ListEntry, PutOptions, Server, ServerConfig, Store, StoreConfig};
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{pattern, until, uri};

/// Set for the child process, which is this binary once more.
const ROOT: &str = "FANFOLD_STORAGE_CRASH_ROOT";
const ROUNDS: u64 = 8;
const WRITERS: u64 = 6;

/// The server that is killed. Does nothing in a run of the tests proper.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let root = Path::new(&root).to_owned();
    let credentials = Credentials::load_or_create(&root.join("credentials.json")).unwrap();
    let server = Server::open(ServerConfig { root: root.join("store"), credentials }).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    server.serve(listener, CancellationToken::new()).await;
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(root: &Path) -> (Killed, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address =
        lines.map_while(Result::ok).find_map(|line| line.split("listening on ").nth(1).map(str::to_owned));
    (Killed(child), address.expect("the child says where it listens").parse().unwrap())
}

fn connect(root: &Path, address: SocketAddr) -> Store {
    let credentials = Credentials::load_or_create(&root.join("credentials.json")).unwrap();
    let mut config = StoreConfig::at(format!("http://{address}"), credentials);
    config.attempts_max = 1;
    Store::connect(config).unwrap()
}

/// What was sent for each key, and whether it was acknowledged.
type Book = Arc<Mutex<BTreeMap<String, (usize, bool)>>>;

/// A body that names its key and its length, in sizes for both ways of storing.
fn body(key: &str, length: usize) -> Bytes {
    let mut bytes = format!("{key} {length} ").into_bytes();
    bytes.extend(pattern(length));
    bytes.into()
}

async fn write(store: Store, book: Book, round: u64, writer: u64, seed: u64) {
    for n in 0.. {
        let key = format!("{round}/{writer}/{n}");
        let length = usize::try_from(seed.wrapping_mul(n + 1).wrapping_add(writer * 7_919) % 5).unwrap();
        let length = [10, 3_000, 20_000, 2 << 20, 9 << 20][length];
        book.lock().unwrap().insert(key.clone(), (length, false));
        let at = uri("crash", &key);
        let done = if length > 8 << 20 {
            let mut writer = store.writer(&at, PutOptions::default());
            match writer.write(body(&key, length)).await {
                Ok(()) => writer.finish().await.map(|_| ()),
                Err(error) => Err(error),
            }
        } else {
            store.put_if_absent(&at, body(&key, length), &key, PutOptions::default()).await.map(|_| ())
        };
        match done {
            Ok(()) => book.lock().unwrap().get_mut(&key).unwrap().1 = true,
            Err(Error::Unavailable { .. } | Error::Timeout { .. }) => return,
            Err(error) => panic!("{key}: {error}"),
        }
    }
}

async fn check(store: &Store, book: &Book, round: u64) {
    let listed: Vec<ListEntry> = store.list("crash", "", Default::default()).try_collect().await.unwrap();
    let mut seen = 0;
    for entry in listed {
        let ListEntry::Object { key, pin, .. } = entry else { panic!("{entry:?}") };
        let (length, acknowledged) = *book.lock().unwrap().get(&key).expect("a key that nobody wrote");
        seen += usize::from(acknowledged);
        // Bodies of earlier rounds were compared then; those of this one are read.
        if key.starts_with(&format!("{round}/")) {
            assert_eq!(
                store.get(&uri("crash", &key), Some(&pin)).await.unwrap(),
                body(&key, length),
                "{key}"
            );
        }
    }
    let acknowledged = book.lock().unwrap().values().filter(|(_, done)| *done).count();
    println!("round {round}: {acknowledged} acknowledged");
    assert_eq!(seen, acknowledged, "every acknowledged object is listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let seed = std::env::var("FANFOLD_SEED").map_or_else(
        |_| u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        |text| text.parse().expect("FANFOLD_SEED is a number"),
    );
    println!("FANFOLD_SEED={seed}");
    let root = tempfile::tempdir().unwrap();
    let book = Book::default();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let (child, address) = start(root.path());
        let store = connect(root.path(), address);
        store.ensure_bucket("crash").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "open after {:?}", begun.elapsed());
        if round > 0 {
            check(&store, &book, round - 1).await;
        }
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| tokio::spawn(write(store.clone(), book.clone(), round, w, seed.wrapping_add(round))))
            .collect();
        let life_ms = 200 + seed.wrapping_mul(round + 1) % 900;
        tokio::time::sleep(Duration::from_millis(life_ms)).await;
        drop(child);
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let (_child, address) = start(root.path());
    let store = connect(root.path(), address);
    check(&store, &book, ROUNDS - 1).await;
    assert!(book.lock().unwrap().values().any(|(_, done)| *done), "something was acknowledged");
    swept(root.path(), &store).await;
}

/// Files that no object names are gone after the sweep.
async fn swept(root: &Path, store: &Store) {
    let listed: Vec<ListEntry> = store.list("crash", "", Default::default()).try_collect().await.unwrap();
    for entry in listed {
        store.delete(&uri("crash", entry.name())).await.unwrap();
    }
    let left = async || {
        let fans = std::fs::read_dir(root.join("store/blobs")).unwrap();
        fans.map(|fan| std::fs::read_dir(fan.unwrap().path()).unwrap().count()).sum::<usize>()
    };
    // Parts of uploads that were open when the server died stay until aborted.
    let open = usize::try_from(ROUNDS * WRITERS * 2).unwrap();
    until("files to go", left, |left| *left <= open).await;
}
