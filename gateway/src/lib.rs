// SPDX-License-Identifier: Apache-2.0
//! The gateway: turns outside events into work, and outcomes into answers.
//!
//! A connection is accepted by [`server`], a request goes down the layers of
//! [`router`] to a handler in [`functions`], [`invoke`] or [`jobs`], and what
//! fails becomes an answer in [`problem`]. Sandboxes are reached through the
//! two services of [`Dispatch`] only: this crate never links a wasm engine, and
//! a guest's bytes are never compiled in the process that holds users' sockets
//! except behind those services.

pub mod auth;
pub mod config;
pub mod context;
pub mod extract;
pub mod functions;
pub mod problem;
pub mod state;

use fanfold_protocol::{
    Problem,
    function::Descriptions,
    invocation::{Invocation, Outcome, Preparation},
};
use tower::util::BoxCloneSyncService;

pub use auth::{Token, TokenDigest};
pub use config::GatewayConfig;
pub use functions::component;
pub use state::{App, AppState};

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
}
