// SPDX-License-Identifier: Apache-2.0
//! `fanfold gateway` and `fanfold worker`: processes of a deployment of many hosts.
//!
//! Each reads one file, checks all of it, reaches everything that it stands on,
//! and only then binds a port. Both keep nothing of their own that matters: any
//! number can be added, stopped or killed. Invariant: whatever is wrong at the
//! start is told together, with the key to change.

pub mod certs;
mod config;
mod gateway;
mod mistakes;
pub mod nats_users;
mod open;
mod probes;
mod renewal;
mod tls;
mod worker;

pub use self::{gateway::run as gateway, worker::run as worker};
