// SPDX-License-Identifier: Apache-2.0
//! The room that a task begins in.
//!
//! A task waits for it within its turn: what it waits for is given back by what
//! runs, and where nothing runs there is room. Invariant: a task of two sandboxes
//! gets the room of both or waits.

use std::time::Instant;

use fanfold_protocol::{ErrorKind, Problem, function::Export, plan::Work};

use super::Attempt;
use crate::{
    Platform,
    memory::{Demands, Use},
    room::{Room, room},
};

/// Waits for a task's room, no longer than until `deadline` or until it is stopped; with it, the
/// attempt has begun.
///
/// # Errors
/// `concurrency-limit`, `cancelled`.
pub(super) async fn admit(
    platform: &Platform,
    attempt: &Attempt,
    work: &Work,
    demands: &Demands,
    bytes_max: u64,
    deadline: Instant,
) -> Result<Room, Problem> {
    let (first, beside) = exports(work);
    let demands = (demands.of(first), beside.map(|beside| demands.of(beside)));
    let room = tokio::select! {
        biased;
        room = room(platform, Use::Task, demands, bytes_max, deadline) => room?,
        () = attempt.stop.cancelled() => return Err(Problem::new(
            ErrorKind::Cancelled,
            "expected room for the task, found that its work was cancelled; start it again if it is wanted",
        )),
    };
    attempt.begun.cancel();
    Ok(room)
}

/// What a task runs, and what it runs at the same time.
fn exports(work: &Work) -> (Export, Option<Export>) {
    match work {
        Work::Map(_) => (Export::Mapper, None),
        Work::Accumulate(_) | Work::Merge { .. } => (Export::Aggregator, None),
        Work::MapAccumulate { .. } => (Export::Mapper, Some(Export::Aggregator)),
        Work::Group { mapped: true, .. } => (Export::Mapper, Some(Export::Grouper)),
        Work::Group { .. } | Work::Reduce { .. } => (Export::Grouper, None),
    }
}
