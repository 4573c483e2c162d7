// SPDX-License-Identifier: Apache-2.0
//! What flows, benchmarks and chaos share: a service of one's own, the data, and
//! a client that says what it got.
//!
//! Everything is started on ephemeral loopback ports with a scratch folder and
//! is ended by its process id.

pub mod bank;
pub mod chaos;
pub mod chaos_hosts;
pub mod customers;
pub mod fairness;
pub mod hosts;
pub mod network;
pub mod proxy;
pub mod service;
pub mod upgrade;
