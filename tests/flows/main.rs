// SPDX-License-Identifier: Apache-2.0
//! The platform as a user meets it: the real program, real functions, the real
//! store, from outside.
//!
//! Every flow starts a service of its own on ephemeral ports. The functions are
//! those that `cargo xtask test` has built.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod analysis;
mod asynchronous;
mod bad_components;
mod bad_data;
mod bad_guests;
mod chaos;
mod console;
mod contract;
mod deploy;
mod docs;
mod edges;
mod failures;
mod first_hour;
mod full_disk;
mod functions;
mod grouping;
mod hosts;
mod job_commands;
mod peers;
mod quarantine;
mod restart;
mod s3_commands;
mod seaweedfs_events;
mod splits;
mod sqs;
mod support;
mod triggers;
mod upgrade;
mod workers;
