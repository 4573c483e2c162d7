// SPDX-License-Identifier: Apache-2.0
//! The ways to a sandbox: in this process, or on workers elsewhere.
//!
//! ```text
//! call ─> choose of two ─> slot of that worker ─> frame over HTTP/2 ─> outcome
//!            ^                                        │
//!         members, watched              never started: another worker
//! ```
//!
//! The gateway cannot tell which it has. Invariant: a call is sent to a second
//! worker only when the first has certainly not begun it.

mod choice;
mod counters;
mod endpoint;
mod failure;
mod holdings;
mod pool;
#[cfg(test)]
mod simulation;
mod subjects;

use std::sync::Arc;

use fanfold_backbone::Backbone;
use fanfold_protocol::{
    Problem,
    function::Descriptions,
    invocation::{Invocation, Outcome, Preparation},
};
use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tower::{service_fn, util::BoxCloneSyncService};

use crate::metrics::Metrics;

pub use self::{
    choice::{Load, choose},
    pool::Pool,
};

/// The two ways to a sandbox.
///
/// Both are backed by the runtime of the same process in `fanfold dev`, and by
/// remote workers elsewhere; the gateway cannot tell.
#[derive(Clone)]
pub struct Dispatch {
    /// Runs a handler once. Dropping the future stops the sandbox.
    pub invoke: BoxCloneSyncService<Invocation, Outcome, Problem>,
    /// Compiles a component, in a process of its own, and asks what it is.
    pub prepare: BoxCloneSyncService<Preparation, Descriptions, Problem>,
    /// The workers, where they are elsewhere.
    pub workers: Option<Pool>,
}

/// Who this gateway is to workers, until its certificate is renewed.
#[derive(Clone)]
pub struct Identity {
    /// What it shows, and whom it believes.
    pub tls: Arc<ClientConfig>,
    /// When its certificate ends, in Unix time.
    pub ends: u64,
}

impl Dispatch {
    /// To sandboxes of this process.
    pub fn local(
        invoke: BoxCloneSyncService<Invocation, Outcome, Problem>,
        prepare: BoxCloneSyncService<Preparation, Descriptions, Problem>,
    ) -> Self {
        Self { invoke, prepare, workers: None }
    }

    /// Adds what is counted of workers, where they are elsewhere.
    pub(crate) fn describe(&self, metrics: &Metrics) {
        if let Some(workers) = &self.workers {
            metrics.register(|registry| workers.describe(registry));
        }
    }

    /// To workers that the backbone knows, until `stop`. A connection is made with the
    /// `identity` of that moment.
    pub fn remote(backbone: &Backbone, identity: watch::Receiver<Identity>, stop: CancellationToken) -> Self {
        Self::over(Pool::start(backbone.clone(), identity, stop))
    }

    /// The same ways for a tenant, whose calls are counted by themselves.
    pub(crate) fn of_tenant(&self) -> Self {
        self.workers.as_ref().map_or_else(|| self.clone(), |workers| Self::over(workers.counting_apart()))
    }

    fn over(pool: Pool) -> Self {
        let invoking = Arc::new(pool.clone());
        let preparing = Arc::clone(&invoking);
        let invoke = service_fn(move |invocation: Invocation| {
            let pool = Arc::clone(&invoking);
            async move { pool.invoke(&invocation).await }
        });
        let prepare = service_fn(move |preparation: Preparation| {
            let pool = Arc::clone(&preparing);
            async move { pool.prepare(preparation).await }
        });
        Self {
            invoke: BoxCloneSyncService::new(invoke),
            prepare: BoxCloneSyncService::new(prepare),
            workers: Some(pool),
        }
    }
}
