// SPDX-License-Identifier: Apache-2.0
//! Triggers: from what a store says to what it starts.
//!
//! ```text
//! notification ─> sender ─> envelope ─> intake ─> queue of each trigger
//! queue of SQS ────────────────────────> │             │
//! listing ──────────────────────────────> │             │
//!                                                    dispatch ─> HEAD ─> target ─> outcome
//! ```
//!
//! An event is a hint that something happened; the store says what is there.
//! What an event starts has an id that follows from the trigger and the state
//! of the object, so that copies, replays and listings of the same state start
//! it once.

mod backlog;
mod batch;
mod breaker;
mod counters;
mod dispatch;
pub(crate) mod embedded;
pub mod envelope;
mod intake;
mod letters;
mod loops;
mod order;
mod outcome;
mod probes;
mod reconcile;
mod record;
mod registry;
mod replay;
mod routes;
mod runner;
pub(crate) mod sender;
mod settled;
mod sns;
pub mod sources;
mod sqs;
mod target;
mod views;
mod work;

pub use counters::Counters;
pub use registry::Triggers;
pub(crate) use routes::routes;
pub(crate) use runner::start;
