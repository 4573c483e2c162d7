// SPDX-License-Identifier: Apache-2.0
//! The gateway over HTTP, on the real embedded store and backbone.
//!
//! Only what lies behind the dispatch seam is a stand-in: see [`harness`].

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod asynchronous;
mod auth;
mod components;
mod connections;
mod dead_letters;
mod functions;
mod harness;
mod idempotency;
mod invocations;
mod problems;
mod releases;
mod service;
mod sources;
mod tenants;
mod trigger_again;
mod trigger_kept;
mod trigger_order;
mod trigger_removals;
mod trigger_room;
mod trigger_senders;
mod triggers;
