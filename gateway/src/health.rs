// SPDX-License-Identifier: Apache-2.0
//! Whether the gateway lives, whether it can serve, and how it fares.
//!
//! Readiness is looked at by a task, now and then, never by a request: a store
//! in trouble is not helped by being asked more often. The store's abilities are
//! probed once, at the start, and again as long as that could not be told; what probes
//! left that were killed is removed now and then. The first look comes before the first
//! connection, so nobody is told of what was not looked at.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fanfold_backbone::Backbone;
use fanfold_protocol::{ErrorKind, keys, time};
use fanfold_storage::{Probe, Store, Support};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    dispatch::Pool,
    exposition::Exposition,
    extract::Query,
    problem::{Answer, internal},
    state::{App, AppState},
};

/// Between two looks at the dependencies.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A dependency that takes longer to answer is not ready.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// A probe is long over by then, whoever made it.
const PROBE_AGE: Duration = Duration::from_secs(24 * 3_600);
/// Between two rounds of removing what older ones left.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
/// How long a scrape waits for the depth of a queue, or for how full the keys are.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(1);

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(show_metrics))
}

/// How a dependency is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Dependency {
    /// Whether it can be worked with.
    pub ready: bool,
    /// What is wrong, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Dependency {
    /// Takes what a look has found wrong, if anything, and says so where that makes a difference: each by itself, since
    /// one may go while the other is away.
    fn turn(&mut self, name: &str, wrong: Option<String>) {
        let ready = wrong.is_none();
        match &wrong {
            Some(detail) if self.ready => tracing::warn!(%detail, "{name} is not ready"),
            None if !self.ready => tracing::info!("{name} is ready"),
            _ => {}
        }
        *self = Self { ready, detail: wrong };
    }
}

/// What the store can do, by what it did when it was tried.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Abilities {
    /// Of writers racing for an absent key, exactly one wins.
    pub put_if_absent: &'static str,
    /// Of writers racing over one state of an object, exactly one wins, and none that comes after it.
    pub put_if_match: &'static str,
    /// A read pinned to an ETag fails after the object changed.
    pub pinned_reads: &'static str,
    /// A range returns exactly its bytes.
    pub ranged_reads: &'static str,
    /// An object can be written in parts.
    pub multipart: &'static str,
    /// An object keeps its metadata, by which loops of triggers are known.
    pub user_metadata: &'static str,
}

/// Whether the gateway can serve.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether everything below is ready.
    pub ready: bool,
    /// The object store.
    pub store: Dependency,
    /// What the store can do; absent until it has been tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_abilities: Option<Abilities>,
    /// Key-value, queue and bus.
    pub backbone: Dependency,
    /// Workers that take calls, where they are other processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<Dependency>,
}

/// The last look, and the workers, which are known without one; clones share both.
#[derive(Clone)]
pub struct Health {
    last: Arc<RwLock<Readiness>>,
    workers: Option<Pool>,
    /// Whether the store answered the last look, whatever it said.
    store_answers: watch::Sender<bool>,
}

/// What is looked at.
struct Dependencies {
    store: Store,
    bucket: String,
    backbone: Backbone,
}

impl Health {
    /// Looks once, then every few seconds until `shutdown`; the store's
    /// abilities are tried meanwhile.
    pub(crate) async fn start(
        store: Store,
        bucket: String,
        backbone: Backbone,
        workers: Option<Pool>,
        shutdown: CancellationToken,
    ) -> Self {
        let waiting = Dependency { ready: false, detail: Some("not looked at yet".to_owned()) };
        let readiness = Readiness {
            ready: false,
            store: waiting.clone(),
            store_abilities: None,
            backbone: waiting,
            workers: None,
        };
        let (last, store_answers) = (Arc::new(RwLock::new(readiness)), watch::Sender::new(true));
        let health = Self { last, workers, store_answers };
        let dependencies = Dependencies { store, bucket, backbone };
        health.look(&dependencies).await;
        let watched = health.clone();
        tokio::spawn(async move {
            shutdown.run_until_cancelled(watched.watch(dependencies)).await;
        });
        health
    }

    /// The last look, and the workers that are there now.
    pub fn readiness(&self) -> Readiness {
        let mut readiness = self.last.read().unwrap_or_else(PoisonError::into_inner).clone();
        readiness.workers = self.workers.as_ref().map(|workers| {
            let detail = workers.obstacle();
            Dependency { ready: detail.is_none(), detail }
        });
        readiness.ready &= readiness.workers.as_ref().is_none_or(|workers| workers.ready);
        readiness
    }

    /// False once the store was seen to drop metadata.
    pub(crate) fn store_keeps_metadata(&self) -> bool {
        let readiness = self.last.read().unwrap_or_else(PoisonError::into_inner);
        readiness.store_abilities.as_ref().is_none_or(|abilities| abilities.user_metadata != "unsupported")
    }

    /// False while the last look had no answer from the backbone: one that is full gives one.
    fn backbone_answers(&self) -> bool {
        let backbone = self.readiness().backbone;
        backbone.ready || backbone.detail == Some(words(ErrorKind::StorageFull))
    }

    /// Does what is of no use without the store: begins once that answers, and gives up where it is silent.
    pub(crate) async fn with_store<F: Future>(&self, other: impl FnOnce() -> F) -> Option<F::Output> {
        let mut answers = self.store_answers.subscribe();
        // The sender is ours, so neither wait fails.
        drop(answers.wait_for(|answers| *answers).await);
        let silent = async { drop(answers.wait_for(|answers| !*answers).await) };
        tokio::select! {
            // What is done is not thrown away for it.
            biased;
            done = other() => Some(done),
            () = silent => None,
        }
    }

    /// A store that lets a trial hang is looked at meanwhile.
    async fn watch(self, dependencies: Dependencies) {
        tokio::join!(self.look_on(&dependencies), self.try_store(&dependencies), sweep(&dependencies));
    }

    async fn look_on(&self, dependencies: &Dependencies) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look(dependencies).await;
        }
    }

    /// Tries what the store can do, until all of it could be told.
    async fn try_store(&self, Dependencies { store, bucket, .. }: &Dependencies) {
        loop {
            let probe = store.probe(bucket).await;
            self.last.write().unwrap_or_else(PoisonError::into_inner).store_abilities =
                Some(abilities(&probe));
            if probe.is_settled() {
                if !probe.is_complete() {
                    tracing::warn!(?probe, "the store lacks something that the platform builds on");
                }
                return;
            }
            tracing::warn!(?probe, "it could not be told what the store can do; this is tried again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, Dependencies { store, bucket, backbone }: &Dependencies) {
        let store = async {
            match tokio::time::timeout(LOOK_TIMEOUT, store.bucket_exists(bucket)).await {
                Ok(Ok(true)) => (None, true),
                Ok(Ok(false)) => (Some("its system bucket is missing".to_owned()), true),
                Ok(Err(error)) => (Some(words(error.kind())), is_an_answer(error.kind())),
                Err(_) => (Some("it does not answer in time".to_owned()), false),
            }
        };
        let backbone = async {
            match tokio::time::timeout(LOOK_TIMEOUT, backbone.ping()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(words(error.kind())),
                Err(_) => Some("it does not answer in time".to_owned()),
            }
        };
        let ((store, answers), backbone) = tokio::join!(store, backbone);
        self.store_answers.send_replace(answers);
        let mut readiness = self.last.write().unwrap_or_else(PoisonError::into_inner);
        readiness.store.turn("the store", store);
        readiness.backbone.turn("the backbone", backbone);
        readiness.ready = readiness.store.ready && readiness.backbone.ready;
    }
}

/// Removes what old probes left, for ever.
async fn sweep(Dependencies { store, bucket, .. }: &Dependencies) {
    loop {
        if let Err(error) = store.sweep_probes(bucket, time::now(), PROBE_AGE).await {
            tracing::warn!(%error, "what probes left could not be swept; this is tried again in an hour");
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// Whether the store itself said so, and not for want of the store.
fn is_an_answer(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::StoreUnavailable | ErrorKind::StoreTimeout)
}

fn words(kind: ErrorKind) -> String {
    kind.title().to_lowercase()
}

fn abilities(probe: &Probe) -> Abilities {
    let word = |support: &Support| match support {
        Support::Supported => "supported",
        Support::Unsupported(_) => "unsupported",
        Support::Unknown(_) => "unknown",
    };
    Abilities {
        put_if_absent: word(&probe.put_if_absent),
        put_if_match: word(&probe.put_if_match),
        pinned_reads: word(&probe.pinned_reads),
        ranged_reads: word(&probe.ranged_reads),
        multipart: word(&probe.multipart),
        user_metadata: word(&probe.user_metadata),
    }
}

/// Whether the process lives. Needs no token.
#[utoipa::path(
    get, path = "/healthz", tag = "service", security(()),
    responses((status = 200, description = "It lives", body = String, content_type = "text/plain"))
)]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// What a gateway is to be ready for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReadyQuery {
    /// `true` for balancers: 503 then says only that this gateway is stopping. What is away or full is so for
    /// all gateways, each of which can say it and answer the rest. The body is the same.
    #[serde(default)]
    serving: bool,
}

/// Whether the gateway can serve, with the state of each dependency. Needs no token.
#[utoipa::path(
    get, path = "/readyz", tag = "service", security(()), params(ReadyQuery),
    responses(
        (status = 200, description = "It can serve; with `serving`, it answers requests", body = Readiness),
        (status = 503, description = "It cannot, or it is stopping; with `serving`, it is stopping", body = Readiness)
    )
)]
pub(crate) async fn readyz(
    State(app): State<AppState>,
    Query(query): Query<ReadyQuery>,
) -> (StatusCode, Json<Readiness>) {
    let (mut readiness, stopping) = (app.health.readiness(), app.draining.is_cancelled());
    readiness.ready &= !stopping;
    let well = if query.serving { !stopping } else { readiness.ready };
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

/// Counters and histograms in Prometheus' text format, or in OpenMetrics' where `Accept` names it.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses(
        (status = 200, description = "The metrics", content((String = "text/plain"), (String = "application/openmetrics-text"))),
        (status = 401, description = "No valid token")
    )
)]
pub(crate) async fn show_metrics(State(app): State<AppState>, headers: HeaderMap) -> Answer<Response> {
    // Without the backbone the last depths stand; the rest is wanted then most of all, and before the scraper
    // gives up.
    if app.health.backbone_answers() {
        let triggers = app.triggers.list();
        tokio::join!(
            look_at(&app, keys::TASK_QUEUE),
            look_at(&app, keys::INVOCATION_QUEUE),
            look_at_keys(&app),
            app.triggers.backlog().look(&app.backbone, &triggers),
        );
    }
    if let Some(workers) = &app.dispatch.workers {
        workers.note_now();
    }
    let form = Exposition::of(&headers);
    let text = form.write(app.metrics.encode().map_err(internal)?);
    let kind = HeaderValue::from_static(form.content_type());
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Notes how full a queue is, as far as that is told in time.
async fn look_at(app: &App, queue: &'static str) {
    if let Ok(Ok(depth)) = tokio::time::timeout(DEPTH_TIMEOUT, app.backbone.depth(queue)).await {
        app.metrics.queue(queue, depth);
    }
}

/// The same of the keys.
async fn look_at_keys(app: &App) {
    if let Ok(Ok(Some(room))) = tokio::time::timeout(DEPTH_TIMEOUT, app.backbone.room()).await {
        app.metrics.keys(room);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use fanfold_backbone::EmbeddedConfig;
    use fanfold_storage::{Credentials, StoreConfig};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn each_dependency_turns_by_itself() {
        let mut store = Dependency { ready: true, detail: None };
        store.turn("the store", Some("away".to_owned()));
        assert_eq!((store.ready, store.detail.as_deref()), (false, Some("away")));
        store.turn("the store", None);
        assert_eq!((store.ready, store.detail), (true, None));
    }

    /// A store that answers the first request, and nothing after it.
    async fn hanging() -> Store {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 16 << 10];
            let _ = first.read(&mut request).await.unwrap();
            first.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let mut held = vec![first];
            while let Ok((next, _)) = listener.accept().await {
                held.push(next);
            }
        });
        Store::connect(StoreConfig::at(endpoint, Credentials::new("health", "health-secret"))).unwrap()
    }

    #[tokio::test]
    async fn a_store_that_hangs_while_it_is_tried_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("backbone"))).await.unwrap();
        let stop = CancellationToken::new();
        let health = Health::start(hanging().await, "bank".to_owned(), backbone, None, stop.clone()).await;
        assert!(health.readiness().ready);
        assert_eq!(health.with_store(|| async { "done" }).await, Some("done"));
        let begun = Instant::now();
        // What waits as long as it may is given up with the store.
        assert_eq!(health.with_store(std::future::pending::<()>).await, None);
        while health.readiness().ready {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", health.readiness());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(health.readiness().store.detail.as_deref(), Some("it does not answer in time"));
        let begun = health.with_store(|| std::future::ready(()));
        assert!(tokio::time::timeout(Duration::from_millis(50), begun).await.is_err());
        stop.cancel();
    }

    #[test]
    fn a_backbone_that_is_full_is_asked_and_one_that_is_silent_is_not() {
        let check = |detail: Option<String>, expected: bool| {
            let readiness = Readiness {
                ready: detail.is_none(),
                store: Dependency { ready: true, detail: None },
                store_abilities: None,
                backbone: Dependency { ready: detail.is_none(), detail },
                workers: None,
            };
            let (last, store_answers) = (Arc::new(RwLock::new(readiness)), watch::Sender::new(true));
            let health = Health { last, workers: None, store_answers };
            assert_eq!(health.backbone_answers(), expected);
        };
        check(None, true);
        check(Some(words(ErrorKind::StorageFull)), true);
        check(Some(words(ErrorKind::BackboneUnavailable)), false);
        check(Some("it does not answer in time".to_owned()), false);
    }
}
