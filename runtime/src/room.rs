// SPDX-License-Identifier: Apache-2.0
//! What a sandbox needs before it is made: a slot of the pool, and memory.
//!
//! Invariant: both are taken in this order everywhere, so that nobody who has the
//! one waits for somebody who has the other.

use std::{sync::Arc, time::Instant};

use fanfold_protocol::{ErrorKind, Problem, limits, size::ByteSize};

use crate::{
    Platform,
    engine::Slot,
    memory::{Demand, Reservation, Use},
};

/// The room of sandboxes that run together.
pub(crate) struct Room {
    /// Held until they have ended.
    pub(crate) _slots: Slot,
    /// For the first.
    pub(crate) memory: Reservation,
    /// For the one beside it.
    pub(crate) beside: Option<Reservation>,
    /// For what the host holds meanwhile.
    pub(crate) _held: Option<Reservation>,
}

/// Room for a sandbox, and for one `beside` it, each of which may take `bytes_max`, and for
/// `held_bytes` of the host's; waits no longer than until `deadline`.
///
/// # Errors
/// `concurrency-limit`.
pub(crate) async fn room(
    platform: &Platform,
    purpose: Use,
    (demand, beside): (&Arc<Demand>, Option<&Arc<Demand>>),
    bytes_max: u64,
    held_bytes: u64,
    deadline: Instant,
) -> Result<Room, Problem> {
    let count = 1 + u32::from(beside.is_some());
    let more = beside.map_or(0, |beside| beside.expected(bytes_max));
    let bytes = demand.expected(bytes_max) + more + held_bytes;
    let taking = async {
        let slots = platform.shared.slots(count).await?;
        Some((slots, platform.memory.take(purpose, demand, bytes).await))
    };
    let taken = tokio::time::timeout_at(deadline.into(), taking).await.ok().flatten();
    let (slots, mut memory) = taken.ok_or_else(|| none(count, bytes))?;
    let beside = beside.map(|beside| memory.split(beside, more));
    let held = (held_bytes > 0).then(|| memory.hold(held_bytes));
    Ok(Room { _slots: slots, memory, beside, _held: held })
}

fn none(count: u32, bytes: u64) -> Problem {
    Problem::new(
        ErrorKind::ConcurrencyLimit,
        format!(
            "expected room for {count} more of {} sandboxes and {} more of their memory within the call's \
             time, found none; try again later",
            limits::SANDBOXES_MAX,
            ByteSize(bytes.next_multiple_of(1 << 20))
        ),
    )
}
