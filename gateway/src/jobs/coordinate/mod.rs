// SPDX-License-Identifier: Apache-2.0
//! Running jobs: whoever has a job's tenure hears of its commits and queues what follows.
//!
//! [`recover`] finds jobs that nobody looks after and gives each a [`coordinator`], which begins
//! with the plan and the commits, feeds [`super::progress`] and turns what that makes possible into
//! leases. When nothing is left to do it hands over to [`super::end`]. Of the other folders
//! [`super::api`] alone names this one; jobs that were accepted come here through [`super::Jobs`].

mod coordinator;
pub(super) mod counters;
mod heard;
mod lease;
pub(super) mod live;
pub(super) mod recover;
mod rests;
mod tenure;
