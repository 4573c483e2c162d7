// SPDX-License-Identifier: Apache-2.0
//! Sandboxes as the rest of the platform meets them: real components, a real
//! store, a real backbone, and guests that mean harm.

#![allow(clippy::unwrap_used, reason = "tests say what is wrong by panicking")]

mod artifacts;
mod bombs;
mod brief;
mod grants;
mod hostile;
mod isolation;
mod memory;
mod progress;
mod support;
mod tables;
mod tasks;
