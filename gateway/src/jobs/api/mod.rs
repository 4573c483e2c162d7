// SPDX-License-Identifier: Apache-2.0
//! What clients see of jobs: the routes and the documents behind them.
//!
//! Reads what the other folders know and decides nothing; what is asked for is done by
//! [`super::Jobs`].

mod events;
mod logs;
pub(super) mod routes;
pub(super) mod tasks;
mod view;
