// SPDX-License-Identifier: Apache-2.0
//! The gateway: turns outside events into work, and outcomes into answers.
//!
//! A connection is accepted by `server`, a request goes down the layers of
//! `router` to a handler in [`functions`], [`invoke`], [`jobs`] or [`triggers`], and what
//! fails becomes an answer in [`problem`]. Sandboxes are reached through the
//! two services of [`Dispatch`] only: this crate never links a wasm engine, and
//! a guest's bytes are never compiled in the process that holds users' sockets
//! except behind those services.

pub mod auth;
pub mod config;
mod connection;
mod console;
pub mod context;
pub mod dispatch;
mod docs;
pub mod event_streams;
mod exposition;
pub mod extract;
mod form;
pub mod functions;
mod glob;
pub mod health;
pub mod invoke;
pub mod jobs;
mod keyed_locks;
pub mod metrics;
pub mod openapi;
mod page;
mod peers;
mod pieces;
pub mod problem;
pub mod report;
mod rfc3339;
mod router;
mod server;
pub mod state;
mod tagged;
mod tally;
pub mod tenants;
pub mod toml_document;
pub mod triggers;

use std::sync::Arc;

use fanfold_backbone::Backbone;
use fanfold_protocol::{Problem, limits};
use fanfold_storage::Store;
use futures::future::try_join_all;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

pub use auth::{Token, TokenDigest};
pub use config::GatewayConfig;
pub use dispatch::{Dispatch, Identity};
pub use functions::component;
pub use state::{App, AppState};
pub use triggers::sources::{AwsCredentials, SourcesConfig};

/// A gateway that is ready to serve.
pub struct Gateway {
    /// One for each tenant.
    apps: Vec<AppState>,
    /// Stops what runs beside the requests, once they have been drained.
    tasks: CancellationToken,
}

/// What tenants share.
struct Common {
    store: Store,
    backbone: Backbone,
    dispatch: Dispatch,
    health: health::Health,
    draining: CancellationToken,
    tasks: CancellationToken,
}

impl Gateway {
    /// A gateway for one tenant; see [`Gateway::shared`].
    ///
    /// # Errors
    /// As there.
    pub async fn new(
        config: GatewayConfig,
        store: Store,
        backbone: Backbone,
        dispatch: Dispatch,
    ) -> Result<Self, Problem> {
        Self::shared(vec![config], store, backbone, dispatch).await
    }

    /// A gateway for these tenants. Bounds of connections and times to wait are those of
    /// the first, all else is each one's own. Checks the configurations, makes the
    /// system buckets that are missing, and reads the functions.
    ///
    /// # Errors
    /// All mistakes of the configurations together; or the store or the backbone
    /// does not answer.
    pub async fn shared(
        configs: Vec<GatewayConfig>,
        store: Store,
        backbone: Backbone,
        dispatch: Dispatch,
    ) -> Result<Self, Problem> {
        tenants::check(&configs)?;
        let (draining, tasks) = (CancellationToken::new(), CancellationToken::new());
        // Whoever fails half-way leaves nothing running.
        let failing = tasks.clone().drop_guard();
        let made = configs.iter().map(|config| store.ensure_bucket(&config.tenant.system_bucket));
        try_join_all(made).await.map_err(problem::of_store)?;
        let bucket = configs.first().map(|config| config.tenant.system_bucket.clone()).unwrap_or_default();
        let health = health::Health::start(
            store.clone(),
            bucket,
            backbone.clone(),
            dispatch.workers.clone(),
            tasks.clone(),
        );
        let health = health.await;
        let tenants = configs.iter().map(|config| Arc::clone(&config.tenant)).collect();
        tenants::announce(backbone.clone(), tenants, tasks.clone()).await?;
        let common = Common { store, backbone, dispatch, health, draining, tasks: tasks.clone() };
        let apps = try_join_all(configs.into_iter().map(|config| common.app(config))).await?;
        apps.iter().for_each(|app| look_after(app, &tasks));
        invoke::asynchronous::start(&apps);
        failing.disarm();
        Ok(Self { apps, tasks })
    }

    /// What the gateway is made of for its first tenant.
    pub fn app(&self) -> &AppState {
        &self.apps[0]
    }

    /// The same for each tenant.
    pub fn apps(&self) -> &[AppState] {
        &self.apps
    }

    /// Takes in what happens to objects of a store in this process.
    pub fn follow(&self, events: fanfold_storage::server::Events) {
        let (apps, stop) = (self.apps.clone(), self.tasks.clone());
        tokio::spawn(
            async move { stop.run_until_cancelled(triggers::embedded::follow(&apps, events)).await },
        );
    }

    /// Serves on this listener until `shutdown`, then drains, and stops.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        self.serve_or_hand_on(listener, shutdown, CancellationToken::new()).await;
    }

    /// The same until `shutdown` or `handed_on`: after the second, who connects waits for whoever serves next on the
    /// port, which the caller holds as well.
    pub async fn serve_or_hand_on(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
        handed_on: CancellationToken,
    ) {
        let router = tenants::router(&self.apps);
        let (app, draining) = (self.app(), self.app().draining.clone());
        let serving = server::run(listener, router, &app.config, draining.clone(), shutdown, handed_on);
        // What nobody waits for may end as well.
        let patience = app.config.drain_timeout;
        let ending = self.apps.iter().map(|app| app.invocations.drained(&draining, patience));
        tokio::join!(serving, futures::future::join_all(ending));
        self.tasks.cancel();
        for app in &self.apps {
            app.invocations.stopped().await;
            app.jobs.stopped().await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Common {
    /// All that is one tenant's.
    async fn app(&self, config: GatewayConfig) -> Result<AppState, Problem> {
        let tenant = Arc::clone(&config.tenant);
        let store = self.store.of_tenant(Arc::clone(&tenant));
        let (backbone, bucket) = (self.backbone.scoped(&tenant.scope), tenant.system_bucket.clone());
        let tasks = || self.tasks.clone();
        let waiting_max = config.events_waiting_max;
        // An answer that the store leaves open holds up one of them.
        let (registry, triggers) = tokio::try_join!(
            functions::Registry::start(store.clone(), bucket.clone(), backbone.clone(), tasks()),
            triggers::Triggers::start(store.clone(), bucket.clone(), backbone.clone(), waiting_max, tasks()),
        )?;
        let jobs = jobs::Jobs::start(
            store.clone(),
            tenant,
            backbone.clone(),
            registry.clone(),
            config.jobs.clone(),
            tasks(),
        );
        let jobs = jobs.await?;
        let admission =
            invoke::admission::Admission::new(config.function_concurrency, config.tenant_concurrency);
        let invocations = invoke::asynchronous::Invocations::new(
            store.clone(),
            bucket,
            backbone.clone(),
            registry.clone(),
            config.invocations.clone(),
            &admission,
            tasks(),
        );
        let metrics = match &config.tenant.buckets {
            Some(_) => metrics::Metrics::of_tenant(&config.tenant.name),
            None => metrics::Metrics::new(),
        };
        metrics.register(|registry| jobs.counters().describe(registry));
        metrics.register(|registry| triggers.counters().describe(registry));
        metrics.register(|registry| triggers.backlog().describe(registry));
        metrics.register(|registry| invocations.counters().describe(registry));
        let dispatch = self.dispatch.of_tenant();
        dispatch.describe(&metrics);
        Ok(Arc::new(App {
            bodies: extract::BodyBudget::new(config.bodies_bytes_max),
            answers: extract::BodyBudget::of_answers(config.answers_bytes_max),
            strangers: extract::Strangers::new(config.strangers_max, config.strangers_bytes_max),
            deploys: Semaphore::new(2 * limits::COMPILES_MAX),
            pages: Semaphore::new(report::PAGES_MAX),
            admission,
            records: invoke::records::Records::default(),
            remembered: invoke::remembered::Remembered::new(config.remembered_bytes_max),
            event_streams: event_streams::EventStreams::new(config.event_streams_max),
            metrics,
            draining: self.draining.clone(),
            config,
            store,
            backbone,
            deployment: self.backbone.clone(),
            registry,
            jobs,
            triggers,
            replays: keyed_locks::KeyedLocks::default(),
            held_keys: keyed_locks::KeyedLocks::default(),
            invocations,
            health: self.health.clone(),
            dispatch,
        }))
    }
}

/// Starts what goes on beside the answering of requests, until `tasks` is cancelled.
fn look_after(app: &AppState, tasks: &CancellationToken) {
    let sweeping = invoke::idempotency::sweep(Arc::clone(app));
    let stop = tasks.clone();
    tokio::spawn(async move { stop.run_until_cancelled(sweeping).await });
    let (invocations, stop) = (app.invocations.clone(), tasks.clone());
    tokio::spawn(async move { stop.run_until_cancelled(invocations.sweep()).await });
    if app.dispatch.workers.is_some() {
        peers::start(app.backbone.clone(), &app.config.tenant.name, app.admission.clone(), tasks.clone());
    }
    triggers::start(app, tasks);
}
