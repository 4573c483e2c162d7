// SPDX-License-Identifier: Apache-2.0
//! From a document to an accepted job.
//!
//! ```text
//! submit ─> planning ─────> input ──────────────────> layout ─────────> plan
//!   shape     its turn        pattern, listing, pipe    union, filter
//!   carried                                             split ─> pack
//!                                                       estimate
//! ```
//!
//! Owns what happens until the head of a plan is in the store. What earlier jobs did of it
//! is asked of [`super::reuse`], which in turn plans by what is here. An accepted job is handed
//! on through [`super::Jobs`]; nothing in here knows how it runs or ends.

pub(super) mod carried;
pub(super) mod estimate;
pub(super) mod filter;
mod footer;
mod input;
mod layout;
mod listing;
mod pack;
mod pattern;
mod pipe;
pub(super) mod planning;
pub(super) mod shape;
pub(super) mod split;
pub(super) mod submit;
pub(super) mod union;

pub(super) use self::layout::{Shards, compare, stored};
