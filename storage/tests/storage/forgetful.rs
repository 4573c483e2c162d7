// SPDX-License-Identifier: Apache-2.0
//! A store that answers conditional writes with success whatever is there, or drops
//! metadata, and what the client and an arbiter make of it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use fanfold_protocol::uri::ObjectUri;
use fanfold_storage::{Arbiter, Credentials, Error, PutOptions, PutOutcome, Store, StoreConfig};
use futures::future::{BoxFuture, FutureExt, join_all};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use md5::{Digest, Md5};
use tokio::{net::TcpListener, sync::Notify};

use crate::support::{until, uri};

/// Objects by their path: body and metadata.
type Objects = HashMap<String, (Bytes, HeaderMap)>;

/// When it looks at a condition of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heed {
    Never,
    /// When the put comes, [`EARLY_MS`] before it is made, so that those that come together
    /// all get through.
    Early,
    Always,
}

const EARLY_MS: u32 = 200;

/// What it has of S3.
#[derive(Clone, Copy, Debug)]
struct Has {
    if_none_match: Heed,
    if_match: Heed,
    metadata: bool,
}

/// No condition on puts, and the rest.
const FORGETFUL: Has = Has { if_none_match: Heed::Never, if_match: Heed::Never, metadata: true };
/// All of it.
const MINDFUL: Has = Has { if_none_match: Heed::Always, if_match: Heed::Always, metadata: true };

/// What the server holds, and how it misbehaves.
struct Forgetful {
    has: Has,
    objects: Mutex<Objects>,
    /// Puts with a condition that it still makes without an answer.
    losing: AtomicU32,
    /// Puts and copies wait for so long, each for another time.
    jitter_ms: AtomicU32,
    requests: AtomicU32,
}

impl Forgetful {
    fn new(has: Has) -> Self {
        let (objects, losing, jitter_ms, requests) = Default::default();
        Self { has, objects, losing, jitter_ms, requests }
    }

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
                    async move { server.answer(request).await }
                });
                let serving = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move {
                    let _ = serving.serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
        address
    }

    /// Whether a put is refused for a condition that is looked at then.
    fn refuses(&self, when: Heed, path: &str, headers: &HeaderMap, objects: &Objects) -> bool {
        let found = objects.get(path).map(|(body, _)| etag(body));
        let is_other = |wanted: &HeaderValue| found.as_deref().map(str::as_bytes) != Some(wanted.as_bytes());
        (self.has.if_none_match == when && headers.contains_key("if-none-match") && found.is_some())
            || (self.has.if_match == when && headers.get("if-match").is_some_and(is_other))
    }

    /// An error ends the connection without an answer.
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let range = parts.headers.get("range").map(|range| range.to_str().unwrap().to_owned());
        let is_put = parts.method == Method::PUT;
        let is_conditional =
            ["if-match", "if-none-match"].iter().any(|name| parts.headers.contains_key(*name));
        let refused_early =
            is_put && self.refuses(Heed::Early, &path, &parts.headers, &self.objects.lock().unwrap());
        let count = self.requests.fetch_add(1, SeqCst);
        let jitter = self.jitter_ms.load(SeqCst);
        let mut pause_ms = if jitter > 0 { count.wrapping_mul(7919) % jitter } else { 0 };
        if [self.has.if_none_match, self.has.if_match].contains(&Heed::Early) {
            pause_ms += EARLY_MS;
        }
        if pause_ms > 0 && is_put {
            tokio::time::sleep(Duration::from_millis(pause_ms.into())).await;
        }
        let mut objects = self.objects.lock().unwrap();
        if refused_early || is_put && self.refuses(Heed::Always, &path, &parts.headers, &objects) {
            return Ok(refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"));
        }
        let copied = parts.headers.get("x-amz-copy-source").map(|from| from.to_str().unwrap().to_owned());
        Ok(match (parts.method, copied) {
            (Method::PUT, Some(from)) => match objects.get(&format!("/{}", from.trim_start_matches('/'))) {
                Some(object) => {
                    let object = object.clone();
                    let answer = copied_as(&etag(&object.0));
                    objects.insert(path, object);
                    answer
                }
                None => missing(),
            },
            (Method::PUT, None) => {
                let kept =
                    |name: &http::HeaderName| self.has.metadata && name.as_str().starts_with("x-amz-meta-");
                let metadata = parts.headers.into_iter();
                let metadata =
                    metadata.filter_map(|(name, value)| name.filter(|n| kept(n)).map(|n| (n, value)));
                let answer = Response::builder().header("etag", etag(&body));
                objects.insert(path, (body, metadata.collect()));
                let loses = || self.losing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                if is_conditional && loses() {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
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
                    let mut response = part(body, range.as_deref());
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
        })
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

/// What a copy with this ETag is answered with.
fn copied_as(etag: &str) -> Response<Full<Bytes>> {
    let etag = etag.replace('"', "&quot;");
    Response::new(Full::from(format!("<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>")))
}

fn missing() -> Response<Full<Bytes>> {
    refusal(StatusCode::NOT_FOUND, "NoSuchKey")
}

fn refusal(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let text = format!("<Error><Code>{code}</Code><Message>none</Message></Error>");
    Response::builder().status(status).body(Full::from(text)).unwrap()
}

/// A body, or the range of it that is asked for.
fn part(body: &Bytes, range: Option<&str>) -> Response<Full<Bytes>> {
    let Some(range) = range else { return Response::new(Full::from(body.clone())) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last) = (first.parse::<usize>().unwrap(), last.parse::<usize>().unwrap());
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", format!("bytes {first}-{last}/{}", body.len()))
        .body(Full::from(body.slice(first..=last)))
        .unwrap()
}

/// Winners by contest, in memory.
#[derive(Debug, Default)]
struct Winners {
    winners: Mutex<HashMap<String, String>>,
    /// Whoever asks next hears of it late, or never.
    pauses: AtomicBool,
    /// When that one does.
    goes_on: Notify,
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
        let pauses = self.pauses.swap(false, SeqCst);
        async move {
            if pauses {
                self.goes_on.notified().await;
            }
            Ok(answer)
        }
        .boxed()
    }
}

async fn start(has: Has) -> (Arc<Forgetful>, Store, Arc<Winners>, Store) {
    let server = Arc::new(Forgetful::new(has));
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
async fn a_store_that_forgets_a_condition_is_seen() {
    let check = async |has: Has, absent: bool, matching: bool| {
        let (server, plain, _, arbitrated) = start(has).await;
        server.jitter_ms.store(20, SeqCst);
        // Asked through an arbiter, the probe still tells of the store.
        for store in [plain, arbitrated] {
            let found = store.probe_conditional_writes("fanfold").await.unwrap();
            assert_eq!(found.is_none(), absent && matching, "{has:?}: {found:?}");
            let probe = store.probe("fanfold").await;
            let found = (&probe.put_if_absent, &probe.put_if_match, &probe.user_metadata);
            let each = (found.0.is_supported(), found.1.is_supported(), found.2.is_supported());
            assert_eq!(each, (absent, matching, has.metadata), "{has:?}: {found:?}");
        }
        // A second probe, of a store that was slow to answer, may still be under way.
        until("nothing to be left", async || server.keys(), Vec::is_empty).await;
    };
    check(FORGETFUL, false, false).await;
    check(Has { if_match: Heed::Never, ..MINDFUL }, true, false).await;
    check(Has { if_match: Heed::Early, ..MINDFUL }, true, false).await;
    check(Has { if_none_match: Heed::Never, ..MINDFUL }, false, true).await;
    check(Has { if_none_match: Heed::Early, ..MINDFUL }, false, true).await;
    check(MINDFUL, true, true).await;
    check(Has { metadata: false, ..MINDFUL }, true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_are_no_conditions_that_are_forgotten() {
    for metadata in [true, false] {
        let (server, plain, ..) = start(Has { metadata, ..MINDFUL }).await;
        // Those of the two puts that win their races.
        server.losing.store(2, SeqCst);
        let found = plain.probe_conditional_writes("fanfold").await.unwrap();
        assert_eq!(found, None, "metadata: {metadata}");
        assert_eq!(server.losing.load(SeqCst), 0, "both were lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_knows_its_own_object_on_a_store_that_drops_metadata() {
    let (server, store, ..) = start(Has { metadata: false, ..MINDFUL }).await;
    let at = uri("bank", "commit");
    let put = async |body: &'static str, writer: &str| {
        store.put_if_absent(&at, body.into(), writer, PutOptions::default()).await.unwrap()
    };
    server.losing.store(1, SeqCst);
    let mine = put("mine", "me").await;
    assert_eq!(server.losing.load(SeqCst), 0, "the answer was lost");
    assert!(matches!(mine, PutOutcome::Created(_)), "{mine:?}");
    for other in ["his.", "theirs"] {
        assert_eq!(put(other, other).await, PutOutcome::Exists);
    }
    assert_eq!(store.get(&at, None).await.unwrap(), "mine");
    // What cannot be told apart by anything is one.
    assert_eq!(put("mine", "another").await, mine);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writer_wins_all_the_same() {
    for metadata in [true, false] {
        one_writer_wins(Has { metadata, ..FORGETFUL }).await;
    }
}

async fn one_writer_wins(has: Has) {
    let (server, _, _, store) = start(has).await;
    server.jitter_ms.store(20, SeqCst);
    for n in 0..20 {
        let at = uri("bank", &format!("commit-{n}"));
        let outcomes = race(&store, &at, 0..16).await;
        let winners = won(&outcomes);
        assert_eq!(winners.len(), 1, "{has:?}, round {n}: {outcomes:?}");
        assert_eq!(store.get(&at, None).await.unwrap(), format!("of {}", winners[0]));
        // Whoever comes later, and the winner once more.
        let again = race(&store, &at, 0..16).await;
        assert_eq!(won(&again), winners);
    }
    assert!(server.keys().iter().all(|key| key.starts_with("/bank/commit-")), "{:?}", server.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_winner_left_unfinished_is_finished_by_the_next() {
    let (_, _, winners, store) = start(FORGETFUL).await;
    let at = uri("bank", "commit");
    winners.pauses.store(true, SeqCst);
    let dying = store.put_if_absent(&at, "of the dead".into(), "dead", PutOptions::default());
    assert!(tokio::time::timeout(Duration::from_millis(300), dying).await.is_err());
    let outcome =
        store.put_if_absent(&at, "of the next".into(), "next", PutOptions::default()).await.unwrap();
    assert_eq!(outcome, PutOutcome::Exists);
    assert_eq!(store.get(&at, None).await.unwrap(), "of the dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_winner_whose_write_another_finished_has_won() {
    for metadata in [true, false] {
        let (_, _, winners, store) = start(Has { metadata, ..FORGETFUL }).await;
        let at = uri("bank", "commit");
        winners.pauses.store(true, SeqCst);
        let first = store.put_if_absent(&at, "of the first".into(), "first", PutOptions::default());
        let another = async {
            until("a decision that waits", async || winners.pauses.load(SeqCst), |pauses| !pauses).await;
            let outcome = store.put_if_absent(&at, "of the other".into(), "other", PutOptions::default());
            let outcome = outcome.await;
            winners.goes_on.notify_one();
            outcome
        };
        let (first, other) = tokio::join!(first, another);
        assert!(matches!(first, Ok(PutOutcome::Created(_))), "metadata: {metadata}: {first:?}");
        assert_eq!(other.unwrap(), PutOutcome::Exists, "metadata: {metadata}");
        assert_eq!(store.get(&at, None).await.unwrap(), "of the first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_object_can_be_written_again() {
    let (_, _, _, store) = start(FORGETFUL).await;
    let at = uri("bank", "commit");
    for round in 0..3 {
        assert_eq!(won(&race(&store, &at, 10 * round..10 * round + 4).await).len(), 1, "round {round}");
        store.delete(&at).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_of_a_state_takes_effect() {
    for metadata in [true, false] {
        one_change_takes_effect(Has { metadata, ..FORGETFUL }).await;
    }
}

async fn one_change_takes_effect(has: Has) {
    let (server, _, _, store) = start(has).await;
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
        assert_eq!(changed.len(), 1, "{has:?}: {changes:?}");
        let refused = changes.iter().filter_map(|change| change.as_ref().err());
        assert!(refused.into_iter().all(|error| matches!(error, Error::Conflict { .. })), "{changes:?}");
        assert_eq!(store.head(&at).await.unwrap().pin.etag, changed[0].etag);
        pin = changed[0].clone();
    }
    let gone = PutOptions { if_match: Some("x".into()), ..PutOptions::default() };
    let refused = store.put(&uri("bank", "none"), "x".into(), gone).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
}
