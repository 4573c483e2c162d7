// SPDX-License-Identifier: Apache-2.0
//! The result of a job for people, as a page.
//!
//! A result is any JSON. `outline` finds what is a table in it, [`chart`]
//! draws its charts, `page` writes it all out, `route` answers it. `fanfold
//! result --html` saves that page and the console shows it. Invariant: a page
//! needs nothing but itself: no network, no script.

pub mod chart;
mod outline;
mod page;
mod route;

pub use outline::{Body, CHARTS, Cell, Section, sections};
pub use page::{Facts, html, style_source};
pub(crate) use route::{PAGES_MAX, routes};
