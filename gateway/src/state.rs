// SPDX-License-Identifier: Apache-2.0
//! What every handler can reach: handles, all of them cheap to clone.
//!
//! Made once when the gateway starts, shared by reference; nothing in it
//! belongs to one request.

use std::sync::Arc;

use fanfold_backbone::Backbone;
use fanfold_storage::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Dispatch, GatewayConfig,
    event_streams::EventStreams,
    extract::{BodyBudget, Strangers},
    functions::Registry,
    health::Health,
    invoke::{admission::Admission, asynchronous::Invocations, records::Records, remembered::Remembered},
    jobs::Jobs,
    keyed_locks::KeyedLocks,
    metrics::Metrics,
    triggers::Triggers,
};

/// The state that handlers extract with `State<AppState>`.
pub type AppState = Arc<App>;

/// The parts of a running gateway.
pub struct App {
    /// The configuration, as checked.
    pub config: GatewayConfig,
    /// Where the truth lies.
    pub store: Store,
    /// What moves it.
    pub backbone: Backbone,
    /// The same for what all tenants share: records that workers keep of components.
    pub deployment: Backbone,
    /// The memory that bodies may take.
    pub bodies: BodyBudget,
    /// The same for answers until they are taken.
    pub answers: BodyBudget,
    /// Room for bodies whose senders are not known yet.
    pub strangers: Strangers,
    /// Turns at checking and compiling components.
    pub deploys: Semaphore,
    /// Turns at the pages of results, of which there are no more for all tenants together.
    pub pages: Semaphore,
    /// Functions, versions and aliases.
    pub registry: Registry,
    /// Planning and coordination of jobs.
    pub jobs: Jobs,
    /// What objects start.
    pub triggers: Triggers,
    /// The triggers that are being replayed.
    pub replays: KeyedLocks<Uuid>,
    /// Asynchronous invocations.
    pub invocations: Invocations,
    /// How many invocations run at once.
    pub admission: Admission,
    /// The last invocations.
    pub records: Records,
    /// What is remembered under idempotency keys.
    pub remembered: Remembered,
    /// The records of idempotency keys that calls of this process hold.
    pub held_keys: KeyedLocks<String>,
    /// Streams of events that are open.
    pub event_streams: EventStreams,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the gateway can serve.
    pub health: Health,
    /// The ways to a sandbox.
    pub dispatch: Dispatch,
    /// Cancelled when the gateway begins to drain: long answers, such as
    /// streams of events, end then.
    pub draining: CancellationToken,
}
