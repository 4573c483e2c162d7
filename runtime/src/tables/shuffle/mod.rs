// SPDX-License-Identifier: Apache-2.0
//! Keys and states on their way from a keyed aggregate's tasks to its reducers.
//!
//! [`Keys`] say what compares, [`ShuffleWriter`] sorts what a guest writes into runs, each with a part for
//! every reducer, and writes all runs of a task into one object. [`merge()`] reads
//! one reducer's parts of many such objects as one table, sorted by key, of which
//! rows of the same key follow each other in the order of the tasks, of their
//! runs and of the rows in them. Invariant: bytes and order follow from what was
//! written alone, never from when or where.
//!
//! # The object
//!
//! Chunks, each a length (u32) and an Arrow IPC stream of one batch, in the order
//! run, reducer, key; behind them for each run and reducer the offset at which
//! its chunks begin, and the offset where those of the run's last reducer end
//! (u64 each). All numbers are little-endian.

mod keys;
mod merge;
mod runs;

pub(crate) use self::{
    keys::Keys,
    merge::{MergedRows, merge},
    runs::{Part, ShuffleWriter, parts},
};
