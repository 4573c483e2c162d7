// SPDX-License-Identifier: Apache-2.0
//! The job engine on the real embedded store and backbone.
//!
//! Only the worker is a stand-in: see [`world`]. It takes real leases from the
//! real queue and writes real commits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "shared with the tests of the gateway")]
#[path = "../gateway/harness.rs"]
mod harness;

mod cache;
mod claims;
mod coordination;
mod estimate;
mod expiry;
mod failures;
mod faults;
mod filter;
mod flows;
mod input;
mod logs;
mod releases;
mod retry;
mod routes;
mod split;
mod union;
mod way;
mod world;
