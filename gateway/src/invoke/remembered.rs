// SPDX-License-Identifier: Apache-2.0
//! How much of the backbone a tenant fills with answers under idempotency keys.
//!
//! All tenants share the backbone's bound on records, so each has a part of it. It
//! is counted in memory, by the hour in which a record was written: a gateway
//! that starts counts anew, and several count each for itself. So the backbone is asked as
//! well whether it has room for what can be refused.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fanfold_backbone::Backbone;
use fanfold_protocol::{ErrorKind, Problem, limits, size::ByteSize};
use tokio::time::Instant;

use crate::problem::of_backbone;

/// What is counted together.
const HOUR: Duration = Duration::from_secs(3_600);
/// What the backbone keeps of a record beside its value: its name, and what tells when it lapses.
const ENTRY_BYTES: u64 = 256;
/// How long it serves that the backbone had room.
const ROOM_READING: Duration = Duration::from_millis(200);

/// What is remembered, as far as this process wrote it.
pub struct Remembered {
    bytes_max: u64,
    hours: Mutex<VecDeque<Hour>>,
    /// When the backbone was last seen to have room.
    room_at: Mutex<Option<Instant>>,
}

struct Hour {
    begun: Instant,
    bytes: u64,
}

impl Remembered {
    /// At most so many bytes together.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, hours: Mutex::default(), room_at: Mutex::default() }
    }

    /// Refuses a key more while the part is used up, or the backbone is short of room.
    ///
    /// # Errors
    /// `concurrency-limit`, `storage-full`; or the backbone does not answer.
    pub async fn check(&self, backbone: &Backbone, now: Instant) -> Result<(), Problem> {
        self.check_part(now)?;
        let seen = *self.room_at.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none_or(|at| now.duration_since(at) >= ROOM_READING) {
            backbone.check_room().await.map_err(of_backbone)?;
            *self.room_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        Ok(())
    }

    fn check_part(&self, now: Instant) -> Result<(), Problem> {
        let mut hours = self.hours.lock().unwrap_or_else(PoisonError::into_inner);
        let lapsed = limits::IDEMPOTENCY_WINDOW + HOUR;
        while hours.front().is_some_and(|hour| now.duration_since(hour.begun) >= lapsed) {
            hours.pop_front();
        }
        let mut bytes = hours.iter().map(|hour| hour.bytes).sum::<u64>();
        if bytes < self.bytes_max {
            return Ok(());
        }
        let makes_room = |hour: &&Hour| {
            bytes -= hour.bytes;
            bytes < self.bytes_max
        };
        let wait = hours.iter().find(makes_room).map(|hour| (hour.begun + lapsed).duration_since(now));
        let detail = format!(
            "what is remembered under Idempotency-Key for 24 h may take at most {} at a gateway, found as much; \
             call without a key, or ask the operator to raise limits.remembered",
            ByteSize(self.bytes_max)
        );
        Err(Problem { wait, ..Problem::new(ErrorKind::ConcurrencyLimit, detail) })
    }

    /// Counts a record whose value has so many bytes.
    pub fn note(&self, bytes: usize, now: Instant) {
        let bytes = bytes as u64 + ENTRY_BYTES;
        let mut hours = self.hours.lock().unwrap_or_else(PoisonError::into_inner);
        match hours.back_mut().filter(|hour| now.duration_since(hour.begun) < HOUR) {
            Some(hour) => hour.bytes += bytes,
            None => hours.push_back(Hour { begun: now, bytes }),
        }
    }

    /// Takes back what was counted a moment ago, of a record that is gone again.
    pub fn forget(&self, bytes: usize) {
        let mut hours = self.hours.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hour) = hours.back_mut() {
            hour.bytes = hour.bytes.saturating_sub(bytes as u64 + ENTRY_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_lapsed_makes_room() {
        let (remembered, begun) = (Remembered::new(1_000), Instant::now());
        let after = |hours: u32| begun + hours * HOUR;
        remembered.note(300, begun);
        assert_eq!(remembered.check_part(begun), Ok(()));
        remembered.note(300, after(2));
        let problem = remembered.check_part(after(24)).unwrap_err();
        assert_eq!(problem.code, ErrorKind::ConcurrencyLimit);
        assert!(problem.detail.contains("at most 1000B at a gateway"), "{problem}");
        // The first of them, an hour later than it may have been written.
        assert_eq!(problem.wait, Some(HOUR));
        assert!(remembered.check_part(after(25) - Duration::from_secs(1)).is_err());
        assert_eq!(remembered.check_part(after(25)), Ok(()));
    }

    #[test]
    fn what_must_lapse_first_is_waited_for() {
        let (remembered, begun) = (Remembered::new(1_000), Instant::now());
        for (hour, bytes) in [(0, 100), (3, 500), (5, 900)] {
            remembered.note(bytes, begun + hour * HOUR);
        }
        // The last of them alone is more than there may be.
        let wait = |hour: u32| remembered.check_part(begun + hour * HOUR).unwrap_err().wait;
        assert_eq!(wait(6), Some(24 * HOUR));
        assert_eq!(wait(28), Some(2 * HOUR));
        assert_eq!(remembered.check_part(begun + 30 * HOUR), Ok(()));
        assert_eq!(Remembered::new(0).check_part(begun).unwrap_err().wait, None);
    }

    #[test]
    fn what_is_taken_back_makes_room() {
        let (remembered, now) = (Remembered::new(1_000), Instant::now());
        remembered.note(500, now);
        remembered.note(500, now);
        assert!(remembered.check_part(now).is_err());
        remembered.forget(500);
        assert_eq!(remembered.check_part(now), Ok(()));
    }
}
