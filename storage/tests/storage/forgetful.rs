// SPDX-License-Identifier: Apache-2.0
//! A store that answers conditional writes with success whatever is there, and
//! what an arbiter makes of it.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use fanfold_protocol::uri::ObjectUri;
use fanfold_storage::{Arbiter, Credentials, Error, PutOptions, PutOutcome, Store, StoreConfig, Support};
use futures::future::{BoxFuture, FutureExt, join_all};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use md5::{Digest, Md5};
use tokio::net::TcpListener;

use crate::support::uri;

/// Objects by their path: body and metadata.
type Objects = HashMap<String, (Bytes, HeaderMap)>;

/// What the server holds, and how it misbehaves.
#[derive(Default)]
struct Forgetful {
    objects: Mutex<Objects>,
    /// Puts and copies wait for so long, each for another time.
    jitter_ms: AtomicU32,
    requests: AtomicU32,
}

impl Forgetful {
    async fn serve(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&server);
                let service = service_fn(move |request| {
                    let server = Arc::clone(&server);
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                let serving = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move {
                    let _ = serving.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
        address
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let count = self.requests.fetch_add(1, SeqCst);
        let jitter = self.jitter_ms.load(SeqCst);
        if jitter > 0 && parts.method == Method::PUT {
            tokio::time::sleep(Duration::from_millis((count.wrapping_mul(7919) % jitter).into())).await;
        }
        let mut objects = self.objects.lock().unwrap();
        let copied = parts.headers.get("x-amz-copy-source").map(|from| from.to_str().unwrap().to_owned());
        match (parts.method, copied) {
            (Method::PUT, Some(from)) => match objects.get(&format!("/{}", from.trim_start_matches('/'))) {
                Some(object) => {
                    let object = object.clone();
                    let text = format!(
                        "<CopyObjectResult><ETag>{}</ETag></CopyObjectResult>",
                        etag(&object.0).replace('"', "&quot;")
                    );
                    objects.insert(path, object);
                    Response::new(Full::from(text))
                }
                None => missing(),
            },
            (Method::PUT, None) => {
                let kept = |name: &http::HeaderName| name.as_str().starts_with("x-amz-meta-");
                let metadata = parts.headers.into_iter();
                let metadata =
                    metadata.filter_map(|(name, value)| name.filter(|n| kept(n)).map(|n| (n, value)));
                let answer = Response::builder().header("etag", etag(&body));
                objects.insert(path, (body, metadata.collect()));
                answer.body(Full::default()).unwrap()
            }
            (Method::DELETE, _) => {
                objects.remove(&path);
                Response::builder().status(StatusCode::NO_CONTENT).body(Full::default()).unwrap()
            }
            // Every bucket is there.
            (Method::HEAD, _) if path.trim_matches('/').find('/').is_none() => Response::default(),
            (method, _) => match objects.get(&path) {
                Some((body, metadata)) => {
                    let mut response = Response::new(Full::from(body.clone()));
                    response.headers_mut().extend(metadata.clone());
                    response.headers_mut().insert("etag", etag(body).parse().unwrap());
                    let modified = "Sun, 22 Nov 2026 08:00:00 GMT".parse().unwrap();
                    response.headers_mut().insert("last-modified", modified);
                    response
                }
                None if method == Method::HEAD => {
                    Response::builder().status(StatusCode::NOT_FOUND).body(Full::default()).unwrap()
                }
                None => missing(),
            },
        }
    }

    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.objects.lock().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    }
}

fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(body)))
}

fn missing() -> Response<Full<Bytes>> {
    let text = "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>";
    Response::builder().status(StatusCode::NOT_FOUND).body(Full::from(text)).unwrap()
}

/// Winners by contest, in memory.
#[derive(Debug, Default)]
struct Winners {
    winners: Mutex<HashMap<String, String>>,
    /// Whoever asks next is told nothing more: as if he died.
    dies: AtomicBool,
}

impl Arbiter for Winners {
    fn is_needed(&self) -> bool {
        true
    }

    fn decide<'a>(
        &'a self,
        contest: &'a str,
        writer: &'a str,
        instead_of: Option<&'a str>,
    ) -> BoxFuture<'a, Result<String, String>> {
        let mut winners = self.winners.lock().unwrap();
        let winner = winners.entry(contest.to_owned()).or_insert_with(|| writer.to_owned());
        if instead_of == Some(winner.as_str()) {
            writer.clone_into(winner);
        }
        let answer = winner.clone();
        let dies = self.dies.swap(false, SeqCst);
        async move { if dies { std::future::pending().await } else { Ok(answer) } }.boxed()
    }
}

async fn start() -> (Arc<Forgetful>, Store, Arc<Winners>, Store) {
    let server = Arc::new(Forgetful::default());
    let address = server.serve().await;
    let config = StoreConfig::at(format!("http://{address}"), Credentials::new("tester", "secret-of-tester"));
    let plain = Store::connect(config).unwrap();
    let winners = Arc::new(Winners::default());
    let store = plain.arbitrated(Arc::clone(&winners) as Arc<dyn Arbiter>, "fanfold");
    (server, plain, winners, store)
}

async fn race(store: &Store, at: &ObjectUri, writers: std::ops::Range<u32>) -> Vec<PutOutcome> {
    let puts = writers.map(|n| async move {
        let body = Bytes::from(format!("of {n}"));
        store.put_if_absent(at, body, &format!("writer-{n}"), PutOptions::default()).await.unwrap()
    });
    join_all(puts).await
}

fn won(outcomes: &[PutOutcome]) -> Vec<usize> {
    let created = outcomes.iter().enumerate().filter(|(_, o)| matches!(o, PutOutcome::Created(_)));
    created.map(|(n, _)| n).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_conditions_is_seen_and_one_writer_wins_all_the_same() {
    let (server, plain, _, store) = start().await;
    assert!(matches!(plain.probe_put_if_absent("fanfold").await, Support::Unsupported(_)));
    // Asked through an arbiter, the probe still tells of the store.
    assert!(matches!(store.probe_put_if_absent("fanfold").await, Support::Unsupported(_)));
    server.jitter_ms.store(20, SeqCst);
    for n in 0..20 {
        let at = uri("bank", &format!("commit-{n}"));
        let outcomes = race(&store, &at, 0..16).await;
        let winners = won(&outcomes);
        assert_eq!(winners.len(), 1, "round {n}: {outcomes:?}");
        assert_eq!(store.get(&at, None).await.unwrap(), format!("of {}", winners[0]));
        // Whoever comes later, and the winner once more.
        let again = race(&store, &at, 0..16).await;
        assert_eq!(won(&again), winners);
    }
    assert!(server.keys().iter().all(|key| key.starts_with("/bank/commit-")), "{:?}", server.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_winner_left_unfinished_is_finished_by_the_next() {
    let (_, _, winners, store) = start().await;
    let at = uri("bank", "commit");
    winners.dies.store(true, SeqCst);
    let dying = store.put_if_absent(&at, "of the dead".into(), "dead", PutOptions::default());
    assert!(tokio::time::timeout(Duration::from_millis(300), dying).await.is_err());
    let outcome =
        store.put_if_absent(&at, "of the next".into(), "next", PutOptions::default()).await.unwrap();
    assert_eq!(outcome, PutOutcome::Exists);
    assert_eq!(store.get(&at, None).await.unwrap(), "of the dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_object_can_be_written_again() {
    let (_, _, _, store) = start().await;
    let at = uri("bank", "commit");
    for round in 0..3 {
        assert_eq!(won(&race(&store, &at, 10 * round..10 * round + 4).await).len(), 1, "round {round}");
        store.delete(&at).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_of_a_state_takes_effect() {
    let (server, _, _, store) = start().await;
    let at = uri("bank", "record");
    let mut pin = store.put(&at, "0".into(), PutOptions::default()).await.unwrap();
    server.jitter_ms.store(10, SeqCst);
    for round in 1..10 {
        let changes = (0..8).map(|n| {
            let options = PutOptions { if_match: Some(pin.etag.clone()), ..PutOptions::default() };
            store.put(&at, Bytes::from(format!("{round} by {n}")), options)
        });
        let changes = join_all(changes).await;
        let changed: Vec<_> = changes.iter().filter_map(|change| change.as_ref().ok()).collect();
        assert_eq!(changed.len(), 1, "{changes:?}");
        let refused = changes.iter().filter_map(|change| change.as_ref().err());
        assert!(refused.into_iter().all(|error| matches!(error, Error::Conflict { .. })), "{changes:?}");
        assert_eq!(store.head(&at).await.unwrap().pin.etag, changed[0].etag);
        pin = changed[0].clone();
    }
    let gone = PutOptions { if_match: Some("x".into()), ..PutOptions::default() };
    let refused = store.put(&uri("bank", "none"), "x".into(), gone).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
}
