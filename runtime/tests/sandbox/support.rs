// SPDX-License-Identifier: Apache-2.0
//! A platform in this process, and components made from text.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fanfold_backbone::{Backbone, EmbeddedConfig};
use fanfold_protocol::{
    Problem,
    digest::Digest,
    function::{Descriptions, Export, Grants, Settings, Version},
    invocation::{Invocation, Outcome, Preparation, Request, Usage},
    keys,
    size::ByteSize,
    time,
    uri::ObjectUri,
};
use fanfold_runtime::{CompilerCommand, Runtime, RuntimeConfig};
use fanfold_storage::{Credentials, PutOptions, Server, ServerConfig, Store, StoreConfig};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;
use uuid::Uuid;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

#[path = "../../../tests/src/until.rs"]
mod until;

pub use until::until;

pub const SYSTEM: &str = "fanfold";

/// The fixtures' folder.
pub fn hostile() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions/hostile")
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// A component out of the text of a core module's body; imports first.
pub fn component(world: &str, body: &str) -> Vec<u8> {
    let (imports, rest): (Vec<_>, Vec<_>) = body.lines().partition(|line| line.starts_with("(import"));
    let text = format!("(module\n{}\n{}\n)", imports.join("\n"), rest.join("\n"));
    let mut module = wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}"));
    let mut resolve = Resolve::default();
    resolve.push_str("function.wit", fanfold_protocol::WIT).unwrap();
    let fixtures = resolve.push_str("worlds.wit", &read(hostile().join("lib/worlds.wit"))).unwrap();
    let world = resolve.select_world(&[fixtures], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// What stands for `(type $handle)`, with names for the parameters.
const HANDLE: &str =
    "(param $method i32) (param $method_bytes i32) (param $query i32) (param $query_bytes i32)
  (param $headers i32) (param $header_count i32) (param $body i32) (param $body_bytes i32) (result i32)";

/// A handler out of its functions' text.
pub fn handler(body: &str) -> Vec<u8> {
    let body = body.replace("(type $handle)", HANDLE);
    component("handler", &format!("{}\n{body}", read(hostile().join("lib/handler.wat"))))
}

/// A handler that answers with the body that it was given.
pub fn echo() -> Vec<u8> {
    handler(
        "(func (export \"fanfold:function/handler@0.1.0#handle\") (type $handle)
           (call $ok (local.get $body) (local.get $body_bytes)))",
    )
}

/// Everything that a worker needs, on ephemeral ports and in folders of its own.
pub struct Platform {
    pub runtime: Runtime,
    pub store: Store,
    pub backbone: Backbone,
    pub folder: TempDir,
    /// Between the runtime and the store.
    pub gate: Gate,
    _server: DropGuard,
    _turn: Turn,
}

/// Tests that measure the memory of this process run alone, the others together.
static TURNS: RwLock<()> = RwLock::const_new(());

enum Turn {
    Together(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>),
}

impl Platform {
    pub async fn start() -> Self {
        Self::start_with(compiler()).await
    }

    /// With another number of threads for guests.
    pub fn with_workers(&mut self, workers: usize) {
        let store = self.gate.store(&self.store);
        self.runtime = runtime_of(self.folder.path(), &store, &self.backbone, compiler(), workers, None);
    }

    /// With so much memory for all sandboxes.
    pub fn with_memory(&mut self, bytes: u64) {
        let store = self.gate.store(&self.store);
        self.runtime = runtime_of(self.folder.path(), &store, &self.backbone, compiler(), 2, Some(bytes));
    }

    pub async fn start_with(compiler: CompilerCommand) -> Self {
        Self::start_in_turn(compiler, Turn::Together(TURNS.read().await)).await
    }

    /// As [`Platform::start`], with no other test beside.
    pub async fn start_alone() -> Self {
        Self::start_in_turn(compiler(), Turn::Alone(TURNS.write().await)).await
    }

    async fn start_in_turn(compiler: CompilerCommand, turn: Turn) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, server) = store(folder.path()).await;
        store.ensure_bucket(SYSTEM).await.unwrap();
        store.ensure_bucket("bank").await.unwrap();
        let backbone =
            Backbone::embedded(EmbeddedConfig::new(folder.path().join("backbone.redb"))).await.unwrap();
        let gate = Gate::before(store.config().endpoint.clone().unwrap()).await;
        let runtime = runtime(folder.path(), &gate.store(&store), &backbone, compiler);
        Self { runtime, store, backbone, folder, gate, _server: server, _turn: turn }
    }

    /// The same platform with another runtime, as after a restart.
    pub fn restart(&mut self) {
        self.runtime = runtime(self.folder.path(), &self.gate.store(&self.store), &self.backbone, compiler());
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub async fn upload(&self, component: Vec<u8>) -> Digest {
        let digest = Digest::of(&component);
        self.put(SYSTEM, &keys::component(&digest), component).await;
        digest
    }

    pub async fn put(&self, bucket: &str, key: &str, body: impl Into<Bytes>) -> fanfold_storage::Pin {
        let uri = ObjectUri::new(bucket, key).unwrap();
        self.store.put(&uri, body.into(), PutOptions::default()).await.unwrap()
    }

    pub async fn get(&self, uri: &str) -> Bytes {
        self.store.get(&uri.parse().unwrap(), None).await.unwrap_or_else(|e| panic!("{uri}: {e}"))
    }

    pub async fn prepare(&self, digest: Digest) -> Result<Descriptions, Problem> {
        self.runtime.preparer().oneshot(Preparation { digest, tenant: None }).await
    }

    /// Uploads and prepares a component and makes a version of it.
    pub async fn deploy(&self, component: Vec<u8>, settings: Settings) -> Result<Arc<Version>, Problem> {
        let size_bytes = component.len() as u64;
        let digest = self.upload(component).await;
        let describes = self.prepare(digest).await?;
        let version = Version {
            name: "fixture".parse().unwrap(),
            version: 1,
            digest,
            size_bytes,
            exports: vec![Export::Handler],
            settings,
            describes,
            created_at: time::now(),
        };
        let key = keys::version(&version.name, version.version);
        self.put(SYSTEM, &key, serde_json::to_vec(&version).unwrap()).await;
        Ok(Arc::new(version))
    }

    pub async fn invoke(&self, version: &Arc<Version>, body: &[u8], timeout: Duration) -> Outcome {
        let called = self.runtime.invoker().oneshot(invocation(version, body, timeout)).await;
        called.unwrap_or_else(|problem| Outcome {
            result: Err(problem),
            logs: Vec::new(),
            progress: None,
            usage: Usage::default(),
        })
    }
}

pub fn invocation(version: &Arc<Version>, body: &[u8], timeout: Duration) -> Invocation {
    let request = Request { method: "POST".into(), body: Bytes::copy_from_slice(body), ..Request::default() };
    let (id, version, params) = (Uuid::now_v7(), Arc::clone(version), "{}".into());
    Invocation { id, attempt: 1, depth: 0, version, timeout, params, request, tenant: None, board: None }
}

pub fn settings(memory: ByteSize) -> Settings {
    Settings { memory, env: BTreeMap::from([("colour".into(), "blue".into())]), ..Settings::default() }
}

pub fn grants(read: &[&str], write: &[&str]) -> Grants {
    let uris = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Grants { read: uris(read), write: uris(write) }
}

pub fn compiler() -> CompilerCommand {
    CompilerCommand { program: env!("CARGO_BIN_EXE_fanfold-compiler").into(), args: Vec::new() }
}

fn runtime(folder: &Path, store: &Store, backbone: &Backbone, compiler: CompilerCommand) -> Runtime {
    runtime_of(folder, store, backbone, compiler, 2, None)
}

fn runtime_of(
    folder: &Path,
    store: &Store,
    backbone: &Backbone,
    compiler: CompilerCommand,
    workers: usize,
    memory_bytes: Option<u64>,
) -> Runtime {
    let (name, cache_dir) = ("test".into(), folder.join("cache"));
    let config = RuntimeConfig { name, workers, memory_bytes, cache_dir, compiler };
    Runtime::start(config, store.clone(), SYSTEM.into(), backbone.clone()).unwrap()
}

async fn store(folder: &Path) -> (Store, DropGuard) {
    let credentials = Credentials::random().unwrap();
    let config = ServerConfig { root: folder.join("store"), credentials: credentials.clone() };
    let server = Server::open(config).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move { server.serve(listener, token).await });
    (Store::connect(StoreConfig::at(endpoint, credentials)).unwrap(), shutdown.drop_guard())
}

/// How a [`Gate`] treats what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Through.
    Open,
    /// Through, each answer after so long, as from another town.
    Far(Duration),
    /// Taken and held.
    Stalled,
    /// Cut off.
    Closed,
}

/// A TCP proxy before the store that can be told to stall, to close or to be far away.
pub struct Gate {
    address: SocketAddr,
    passage: watch::Sender<Passage>,
}

impl Gate {
    async fn before(endpoint: String) -> Self {
        let target = endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, (passage, seen)) = (listener.local_addr().unwrap(), watch::channel(Passage::Open));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), seen.clone()));
            }
        });
        Self { address, passage }
    }

    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }

    /// The same store through the gate, without retries.
    fn store(&self, store: &Store) -> Store {
        let endpoint = Some(format!("http://{}", self.address));
        Store::connect(StoreConfig { endpoint, attempts_max: 1, ..store.config().clone() }).unwrap()
    }
}

async fn carry(client: TcpStream, target: String, mut passage: watch::Receiver<Passage>) {
    let server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upward = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut closed = passage.clone();
    let downward = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let passes = |passage: &Passage| matches!(passage, Passage::Open | Passage::Far(_));
            let Ok(passed) = passage.wait_for(passes).await.map(|passage| *passage) else { break };
            if let Passage::Far(away) = passed {
                tokio::time::sleep(away).await;
            }
            if to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = downward => {}
        _ = closed.wait_for(|passage| *passage == Passage::Closed) => {}
    }
    upward.abort();
}

/// Resident memory of this process, in bytes.
pub fn resident_bytes() -> u64 {
    let status = read("/proc/self/statm");
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
