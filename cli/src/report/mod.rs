// SPDX-License-Identifier: Apache-2.0
//! The result of a job for people: in a terminal, or as a page.
//!
//! A result is any JSON. [`outline`] finds what is a table in it, [`chart`]
//! draws its charts, [`page`] and [`text`] write it all out. Invariant: a page
//! needs nothing but itself: no network, no script.

pub mod chart;
mod outline;
mod page;
mod text;

pub use page::{Facts, html};
pub use text::text;
