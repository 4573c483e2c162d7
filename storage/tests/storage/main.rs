// SPDX-License-Identifier: Apache-2.0
//! Tests of the storage crate against real servers.
//!
//! One binary, so that the SDK is linked once. [`suite`] is the conformance
//! suite of the client; [`embedded`] and [`seaweed`] run it, each against a
//! server of its own on ephemeral loopback ports. The other modules test what
//! only the embedded server promises.

#![allow(clippy::unwrap_used, reason = "a test may panic, and so may what helps it")]

mod boto;
mod crash;
mod embedded;
mod events;
mod faults;
mod forgetful;
mod full;
mod keys;
mod proxy;
mod refusals;
mod seaweed;
mod suite;
mod support;
