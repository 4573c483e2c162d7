// SPDX-License-Identifier: Apache-2.0
//! What earlier jobs did and a later one need not do again.
//!
//! A retry compares its plan with that of the job that it runs again, and any job
//! finds by [`cache`] who did the same before; what is the same and done is taken over. What
//! jobs leave for that is [`kept`] as they end. A retry is a job of its own and is
//! submitted as one, so [`super::plan`] and this folder know each other.

pub(super) mod cache;
pub(super) mod compare;
pub(super) mod kept;
pub(super) mod retry;
mod traces;
