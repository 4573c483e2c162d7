// SPDX-License-Identifier: Apache-2.0
//! A gateway of one's own for each test, and a small client.
//!
//! Behind the dispatch seam stands a function that does what the request's
//! body says: `echo`, `sleep MILLISECONDS`, `fail CODE`, `status N`, `large
//! BYTES`, `log TEXT`, `flaky N` (fails before attempt N), `sink`, `panic`.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fanfold_backbone::{Backbone, EmbeddedConfig};
use fanfold_gateway::{AppState, Dispatch, Gateway, GatewayConfig, Token};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::Descriptions,
    invocation::{Invocation, Level, LogLine, Outcome, Preparation, Progress, Response, Usage},
    time::Timestamp,
};
use fanfold_storage::{Credentials, Store, StoreConfig, server};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::{service_fn, util::BoxCloneSyncService};

#[path = "../../../tests/src/until.rs"]
mod until;

pub use until::until;

pub const HANDLER: &str = "fanfold:function/handler@0.1.0";
pub const AGGREGATOR: &str = "fanfold:function/aggregator@0.1.0";

/// What the stand-in behind the dispatch seam has seen and shall do.
#[derive(Default)]
pub struct Workers {
    pub calls: AtomicUsize,
    pub dropped: AtomicUsize,
    /// At once now, and at most until now.
    pub running: (AtomicUsize, AtomicUsize),
    /// What they were called with.
    pub bodies: Mutex<Vec<String>>,
    pub refuse_preparation: Mutex<Option<Problem>>,
    /// Why nobody takes a call, if nobody does.
    pub refuse_calls: Mutex<Option<Problem>>,
}

/// A running gateway with its own store and backbone.
pub struct Service {
    pub address: SocketAddr,
    pub token: String,
    pub app: AppState,
    pub workers: Arc<Workers>,
    pub shutdown: CancellationToken,
    pub serving: tokio::task::JoinHandle<()>,
    pub base: Base,
}

/// What outlives a gateway.
#[derive(Clone)]
pub struct Base {
    pub folder: Arc<tempfile::TempDir>,
    pub store: Store,
    /// Where the store is.
    #[allow(dead_code, reason = "only tests of jobs go another way")]
    pub endpoint: String,
    pub backbone: Backbone,
    /// What happens in the store, until a gateway listens.
    events: Arc<Mutex<Option<server::Events>>>,
    _stop: Arc<tokio_util::sync::DropGuard>,
}

fn credentials() -> Credentials {
    Credentials::new("tester", "secret-of-the-tester")
}

impl Base {
    pub async fn new() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let config = server::ServerConfig { root: folder.path().join("s3"), credentials: credentials() };
        let server = server::Server::open(config).unwrap();
        let events = Arc::new(Mutex::new(server.listen()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { server.serve(listener, stopped).await });
        let store = Self::store_at(&endpoint);
        let backbone = Self::open_backbone(&folder.path().join("backbone.redb")).await;
        Self { folder, store, endpoint, backbone, events, _stop: Arc::new(stop.drop_guard()) }
    }

    /// The store by another way.
    pub fn store_at(endpoint: &str) -> Store {
        Store::connect(StoreConfig::at(endpoint, credentials())).unwrap()
    }

    pub async fn open_backbone(path: &std::path::Path) -> Backbone {
        Backbone::embedded(EmbeddedConfig::new(path)).await.unwrap()
    }

    /// Has the backbone refuse what is written, for want of room, as long as something else goes on.
    pub async fn without_writes<T>(&self, other: impl Future<Output = T>) -> T {
        let embedded = self.backbone.as_embedded().unwrap();
        let bytes = std::fs::metadata(self.folder.path().join("backbone.redb")).unwrap().len();
        embedded.set_size_bytes_max(bytes);
        // It refuses all for a moment after each write that found no room.
        let filling = async {
            for n in 0.. {
                let _ = self.backbone.put(&format!("filling/{n}"), vec![0; 1_000_000]).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let done = tokio::select! {
            () = filling => unreachable!(),
            done = other => done,
        };
        embedded.set_size_bytes_max(u64::MAX);
        done
    }

    pub async fn serve(&self, change: impl FnOnce(&mut GatewayConfig)) -> Service {
        self.serve_all(vec![tenant(change)]).await.pop().unwrap()
    }

    /// The same for a gateway that the store tells of its objects, as in `fanfold dev`.
    pub async fn serve_told(&self, change: impl FnOnce(&mut GatewayConfig)) -> Service {
        let events = self.events.lock().unwrap().take();
        assert!(events.is_some(), "another gateway listens");
        self.serve_listening(vec![tenant(change)], events).await.pop().unwrap()
    }

    /// One gateway, seen by each of several tenants. Stops with the first.
    pub async fn serve_all(&self, tenants: Vec<(GatewayConfig, Token)>) -> Vec<Service> {
        self.serve_listening(tenants, None).await
    }

    async fn serve_listening(
        &self,
        tenants: Vec<(GatewayConfig, Token)>,
        events: Option<server::Events>,
    ) -> Vec<Service> {
        let workers = Arc::new(Workers::default());
        let dispatch = dispatch(&workers);
        let (configs, tokens): (Vec<_>, Vec<_>) = tenants.into_iter().unzip();
        let gateway =
            Gateway::shared(configs, self.store.clone(), self.backbone.clone(), dispatch).await.unwrap();
        if let Some(events) = events {
            gateway.follow(events);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (apps, shutdown) = (gateway.apps().to_vec(), CancellationToken::new());
        let mut serving = Some(tokio::spawn(gateway.serve(listener, shutdown.clone())));
        let service = |(app, token): (AppState, Token)| Service {
            address,
            token: token.reveal().to_owned(),
            app,
            workers: Arc::clone(&workers),
            shutdown: shutdown.clone(),
            serving: serving.take().unwrap_or_else(|| tokio::spawn(async {})),
            base: self.clone(),
        };
        apps.into_iter().zip(tokens).map(service).collect()
    }
}

/// The usual configuration but for a change, and a token for it.
fn tenant(change: impl FnOnce(&mut GatewayConfig)) -> (GatewayConfig, Token) {
    let token = Token::generate().unwrap();
    let mut config = GatewayConfig::new("default".parse().unwrap(), vec![token.digest()]);
    change(&mut config);
    (config, token)
}

/// A gateway with the usual configuration.
pub async fn start() -> Service {
    start_with(|_| {}).await
}

pub async fn start_with(change: impl FnOnce(&mut GatewayConfig)) -> Service {
    Base::new().await.serve(change).await
}

fn dispatch(workers: &Arc<Workers>) -> Dispatch {
    let (invoking, preparing) = (Arc::clone(workers), Arc::clone(workers));
    let invoke = service_fn(move |invocation: Invocation| {
        let workers = Arc::clone(&invoking);
        async move {
            workers.calls.fetch_add(1, Ordering::SeqCst);
            if let Some(problem) = workers.refuse_calls.lock().unwrap().clone() {
                return Err(problem);
            }
            workers.bodies.lock().unwrap().push(String::from_utf8_lossy(&invocation.request.body).into());
            let guard = Dropped(Some(&workers.dropped));
            let running = workers.running.0.fetch_add(1, Ordering::SeqCst) + 1;
            workers.running.1.fetch_max(running, Ordering::SeqCst);
            let outcome = act(invocation).await;
            workers.running.0.fetch_sub(1, Ordering::SeqCst);
            guard.forget();
            Ok(outcome)
        }
    });
    let prepare = service_fn(move |_: Preparation| {
        let refused = preparing.refuse_preparation.lock().unwrap().clone();
        async move { refused.map_or(Ok(Descriptions::default()), Err) }
    });
    Dispatch::local(BoxCloneSyncService::new(invoke), BoxCloneSyncService::new(prepare))
}

struct Dropped<'a>(Option<&'a AtomicUsize>);

impl Dropped<'_> {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn act(invocation: Invocation) -> Outcome {
    let body = String::from_utf8_lossy(&invocation.request.body).into_owned();
    let (verb, rest) = body.split_once(' ').unwrap_or((&body, ""));
    let mut response = Response { status: 200, headers: Vec::new(), body: Bytes::from_static(b"done") };
    let (mut logs, mut progress) = (Vec::new(), None);
    let result = match verb {
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())).await;
            Ok(response)
        }
        // Tells how far it is, and goes on for a while.
        "progress" => {
            progress = Some(Progress { done: 3, total: Some(10) });
            if let Some(board) = &invocation.board {
                board.tell(progress);
            }
            tokio::time::sleep(Duration::from_millis(rest.parse().unwrap())).await;
            Ok(response)
        }
        "fail" => {
            let kind = ErrorKind::ALL.iter().find(|kind| kind.code() == rest).unwrap();
            Err(Problem { guest_code: Some("out-of-luck".to_owned()), ..Problem::new(*kind, "it failed") })
        }
        "status" => {
            response.status = rest.parse().unwrap();
            Ok(response)
        }
        "large" => {
            response.body = Bytes::from(vec![b'x'; rest.parse().unwrap()]);
            Ok(response)
        }
        "flaky" => match invocation.attempt < rest.parse().unwrap() {
            true => {
                let failed =
                    Problem::new(ErrorKind::FunctionError, format!("attempt {}", invocation.attempt));
                Err(Problem { guest_retryable: Some(true), ..failed })
            }
            false => Ok(response),
        },
        "log" => {
            logs.push(LogLine { at: Timestamp(1_000), level: Level::Info, message: rest.to_owned() });
            Ok(response)
        }
        "sink" => Ok(response),
        // An event of an object that takes long.
        _ if body.contains("/slow") => {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok(response)
        }
        "panic" => panic!("as asked"),
        _ => {
            response.headers.push(("content-type".to_owned(), "application/json".to_owned()));
            response.headers.push(("x-fanfold-version".to_owned(), "999".to_owned()));
            response.body = Bytes::from(echo(&invocation, &body).to_string());
            Ok(response)
        }
    };
    let usage = Usage { wall_us: 150, start_us: 50, ..Usage::default() };
    Outcome { result, logs, progress, usage }
}

fn echo(invocation: &Invocation, body: &str) -> Value {
    json!({
        "version": invocation.version.version,
        "timeout_ms": invocation.timeout.as_millis() as u64,
        "params": invocation.params,
        "method": invocation.request.method,
        "query": invocation.request.query,
        "headers": invocation.request.headers,
        "body": body,
    })
}

/// An answer, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }

    /// Checks that this is a problem of this kind, in all its parts.
    #[track_caller]
    pub fn is_problem(&self, kind: ErrorKind) -> Value {
        let body = self.json();
        assert_eq!(body["code"], kind.code(), "{body}");
        assert_eq!(self.status.as_u16(), kind.status());
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["status"], kind.status());
        assert_eq!(body["title"], kind.title());
        assert_eq!(body["type"], format!("/docs/errors/{}", kind.code()));
        assert_eq!(body["request_id"], self.header("x-request-id"));
        let detail = body["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && !detail.ends_with('.'), "{detail}");
        assert_eq!(self.headers.contains_key("retry-after"), [429, 503].contains(&kind.status()));
        body
    }
}

pub type Headers<'a> = &'a [(&'a str, &'a str)];

impl Service {
    /// A request with the token, on a connection of its own.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: Headers<'_>,
        body: impl Into<Bytes>,
    ) -> Reply {
        let token = format!("Bearer {}", self.token);
        let mut all = vec![("authorization", token.as_str())];
        all.extend(headers);
        self.bare_request(method, path, &all, body).await
    }

    /// A request as it is.
    pub async fn bare_request(
        &self,
        method: Method,
        path: &str,
        headers: Headers<'_>,
        body: impl Into<Bytes>,
    ) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Reply { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.request(Method::GET, path, &[], "").await
    }

    pub async fn put_json(&self, path: &str, body: Value) -> Reply {
        self.request(Method::PUT, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.request(Method::DELETE, path, &[], "").await
    }

    /// Deploys a component that differs from others by `salt`.
    pub async fn deploy(&self, name: &str, salt: &str) -> Reply {
        let bytes = component(&[], &[HANDLER], salt);
        self.request(
            Method::POST,
            &format!("/v1/functions/{name}/versions"),
            &[("content-type", "application/wasm")],
            bytes,
        )
        .await
    }

    /// Calls asynchronously.
    pub async fn promise(&self, function: &str, headers: Headers<'_>, body: impl Into<Bytes>) -> Reply {
        let mut all = vec![("prefer", "respond-async")];
        all.extend(headers);
        self.request(Method::POST, &format!("/v1/functions/{function}/invoke"), &all, body).await
    }

    /// Waits until so many calls have begun.
    pub async fn until_calls(&self, count: usize) {
        let calls = async || self.workers.calls.load(Ordering::SeqCst);
        until("calls that have begun", calls, |calls| *calls >= count).await;
    }

    /// What an invocation becomes, once it has.
    pub async fn ended(&self, id: &str) -> Value {
        let shown = async || self.get(&format!("/v1/invocations/{id}")).await.json();
        until("the end of a call", shown, |shown| {
            let state = shown["state"].as_str().unwrap_or_else(|| panic!("{shown}"));
            !["queued", "running"].contains(&state)
        })
        .await
    }

    pub async fn invoke(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.request(Method::POST, &format!("/v1/functions/{path}"), &[], body).await
    }

    /// Stops the gateway; what it stood on stays.
    pub async fn stop(self) -> Base {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.base
    }
}

/// A component with an empty instance imported or exported under each name, and a custom section
/// that holds `salt`.
pub fn component(imports: &[&str], exports: &[&str], salt: &str) -> Vec<u8> {
    let mut text = "(component".to_owned();
    for name in imports {
        text.push_str(&format!("(import {name:?} (instance))"));
    }
    for (n, name) in exports.iter().enumerate() {
        // What is exported counts as another instance.
        let instance = imports.len() + 2 * n;
        text.push_str(&format!("(instance) (export {name:?} (instance {instance}))"));
    }
    text.push_str(&format!("(@custom \"s\" {salt:?}))"));
    wat::parse_str(text).unwrap()
}
