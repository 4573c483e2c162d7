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
pub mod extract;
pub mod functions;
pub mod health;
pub mod invoke;
pub mod jobs;
mod linger;
pub mod metrics;
pub mod openapi;
mod peers;
pub mod problem;
pub mod report;
mod router;
mod server;
pub mod state;
pub mod triggers;

use std::sync::Arc;

use fanfold_backbone::Backbone;
use fanfold_protocol::{Problem, limits};
use fanfold_storage::Store;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

pub use auth::{Token, TokenDigest};
pub use config::GatewayConfig;
pub use dispatch::Dispatch;
pub use functions::component;
pub use state::{App, AppState};
pub use triggers::sources::{AwsCredentials, SourcesConfig};

/// A gateway that is ready to serve.
pub struct Gateway {
    app: AppState,
    /// Stops what runs beside the requests, once they have been drained.
    tasks: CancellationToken,
}

impl Gateway {
    /// Checks the configuration, makes the system bucket if it is missing, and
    /// reads the functions.
    ///
    /// # Errors
    /// All mistakes of the configuration together; or the store or the backbone
    /// does not answer.
    pub async fn new(
        config: GatewayConfig,
        store: Store,
        backbone: Backbone,
        dispatch: Dispatch,
    ) -> Result<Self, Problem> {
        config.check()?;
        let bucket = config.system_bucket.clone();
        store.ensure_bucket(&bucket).await.map_err(problem::of_store)?;
        let tasks = CancellationToken::new();
        let (registry, health) = tokio::join!(
            functions::Registry::start(store.clone(), bucket.clone(), backbone.clone(), tasks.clone()),
            health::Health::start(
                store.clone(),
                bucket.clone(),
                backbone.clone(),
                dispatch.workers.clone(),
                tasks.clone()
            ),
        );
        let registry = registry?;
        let triggers = triggers::Triggers::start(
            store.clone(),
            bucket.clone(),
            backbone.clone(),
            config.events_waiting_max,
            tasks.clone(),
        )
        .await?;
        let jobs = jobs::Jobs::start(
            store.clone(),
            bucket,
            backbone.clone(),
            registry.clone(),
            config.jobs.clone(),
            tasks.clone(),
        )
        .await?;
        let invocations = invoke::asynchronous::Invocations::new(
            store.clone(),
            config.system_bucket.clone(),
            backbone.clone(),
            registry.clone(),
            config.invocations.clone(),
            tasks.clone(),
        );
        let metrics = metrics::Metrics::new();
        metrics.register(|registry| jobs.counters().describe(registry));
        metrics.register(|registry| triggers.counters().describe(registry));
        metrics.register(|registry| invocations.counters().describe(registry));
        dispatch.describe(&metrics);
        let app = Arc::new(App {
            bodies: extract::BodyBudget::new(config.bodies_bytes_max),
            deploys: Semaphore::new(2 * limits::COMPILES_MAX),
            admission: invoke::admission::Admission::new(
                config.function_concurrency,
                config.tenant_concurrency,
            ),
            records: invoke::records::Records::default(),
            metrics,
            draining: CancellationToken::new(),
            config,
            store,
            backbone,
            registry,
            jobs,
            triggers,
            invocations,
            health,
            dispatch,
        });
        look_after(&app, &tasks);
        Ok(Self { app, tasks })
    }

    /// What the gateway is made of.
    pub fn app(&self) -> &AppState {
        &self.app
    }

    /// Takes in what happens to objects of a store in this process.
    pub fn follow(&self, events: fanfold_storage::server::Events) {
        let (app, stop) = (Arc::clone(&self.app), self.tasks.clone());
        tokio::spawn(async move { stop.run_until_cancelled(triggers::embedded::follow(&app, events)).await });
    }

    /// Serves on this listener until `shutdown`, then drains, and stops.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let router = router::stack(Arc::clone(&self.app));
        let (app, draining) = (&self.app, self.app.draining.clone());
        let serving = server::run(listener, router, &app.config, draining.clone(), shutdown);
        // What nobody waits for may end as well.
        let ending = app.invocations.drained(&draining, app.config.drain_timeout);
        tokio::join!(serving, ending);
        self.tasks.cancel();
        app.invocations.stopped().await;
        app.jobs.stopped().await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.cancel();
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
        peers::start(app.backbone.clone(), &app.config.tenant, app.admission.clone(), tasks.clone());
    }
    app.invocations.start(Arc::clone(app));
    triggers::start(app, tasks);
}
