// SPDX-License-Identifier: Apache-2.0
//! The room that a task begins in.
//!
//! A task waits for it within its turn: what it waits for is given back by what
//! runs, and where nothing runs there is room. Invariant: a task of two sandboxes
//! gets the room of both or waits.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_protocol::{
    ErrorKind, Problem,
    function::Export,
    limits,
    plan::{StateRef, Work},
};
use futures::FutureExt as _;

use super::Attempt;
use crate::{
    Platform,
    memory::{Demands, Use},
    room::{Room, room},
};

/// How long an attempt waited for room, the time being included.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<(Duration, Option<Instant>)>);

impl Waits {
    fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(Instant::now());
    }

    fn end(&self) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = waits.1.take();
        waits.0 += since.map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// The sum, and whether it waits now.
    pub(crate) fn so_far(&self) -> (Duration, bool) {
        let (sum, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (sum + since.map_or(Duration::ZERO, |since| since.elapsed()), since.is_some())
    }
}

/// Waits for a task's room, no longer than until `deadline` or until it is stopped; with it, the
/// attempt has begun. Without a deadline it does not wait, and there may be none: beside others a task
/// that waited would keep calls out, and what the attempt waits is told only while nothing of it runs.
///
/// # Errors
/// `concurrency-limit`, `cancelled`.
pub(super) async fn admit(
    platform: &Platform,
    attempt: &Attempt,
    work: &Work,
    demands: &Demands,
    bytes_max: u64,
    deadline: Option<Instant>,
) -> Result<Option<Room>, Problem> {
    let (first, beside) = exports(work);
    let demands = (demands.of(first), beside.map(|beside| demands.of(beside)));
    let until = deadline.unwrap_or_else(Instant::now);
    let taking = room(platform, Use::Task, demands, bytes_max, held_bytes(work), until);
    let room = if deadline.is_some() {
        attempt.waits.begin();
        let room = tokio::select! {
            biased;
            room = taking => room.map(Some),
            () = attempt.stop.cancelled() => Err(cancelled("room for the task")),
        };
        attempt.waits.end();
        room?
    } else {
        taking.now_or_never().and_then(Result::ok)
    };
    if room.is_some() {
        attempt.begun.cancel();
    }
    Ok(room)
}

/// The end of a task that waited for something when it was stopped.
pub(super) fn cancelled(expected: &str) -> Problem {
    let detail =
        format!("expected {expected}, found that its work was cancelled; start it again if it is wanted");
    Problem::new(ErrorKind::Cancelled, detail)
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

/// What the host holds for a task beside its sandboxes: the states that it merges, of which none is larger
/// than may be, whatever a lease says.
fn held_bytes(work: &Work) -> u64 {
    let bytes = |state: &StateRef| state.bytes().min(limits::STATE_BYTES_MAX);
    match work {
        Work::Merge { states, .. } => states.iter().map(bytes).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::digest::Digest;

    use super::*;

    #[test]
    fn states_that_are_merged_are_held() {
        let digest = Digest::of(b"state");
        let object = |size| StateRef::Object { uri: "s3://fanfold/state".parse().unwrap(), size, digest };
        let large = object(8 << 20);
        let states = vec![StateRef::Inline(hex::encode("state")), large.clone(), large];
        assert_eq!(held_bytes(&Work::Merge { states: states.clone(), finish: true }), (16 << 20) + 5);
        let wrong = vec![object(u64::MAX); 2];
        assert_eq!(held_bytes(&Work::Merge { states: wrong, finish: true }), 16 << 20);
        // A reducer reads its share bit by bit.
        assert_eq!(held_bytes(&Work::Reduce { states, reducers: 3 }), 0);
    }
}
