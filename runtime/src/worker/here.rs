// SPDX-License-Identifier: Apache-2.0
//! The leases that this worker is working on, for a second attempt at one of them.
//!
//! A second attempt is for another worker: beside the first one it would take its turn, and what
//! keeps that from ending would keep both. Invariant: a lease is among these exactly while a
//! [`Here`] of it lives.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::commit::Place;

/// How many attempts at each lease there are.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<Place, usize>>);

/// An attempt at a lease.
#[derive(Debug)]
pub(super) struct Here<'a> {
    leases: &'a Leases,
    place: Place,
}

impl Leases {
    /// Counts an attempt, until what this answers is dropped.
    pub(super) fn begin(&self, place: Place) -> Here<'_> {
        *self.all().entry(place).or_default() += 1;
        Here { leases: self, place }
    }

    /// Whether there is an attempt at this lease.
    pub(super) fn has(&self, place: Place) -> bool {
        self.all().contains_key(&place)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<Place, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut all = self.leases.all();
        let Some(count) = all.get_mut(&self.place) else { return };
        *count -= 1;
        if *count == 0 {
            all.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_lease_is_here_until_its_last_attempt_has_ended() {
        let (leases, place) =
            (Leases::default(), |group| Place { job: Uuid::nil(), stage: 0, group, round: 0 });
        let first = leases.begin(place(1));
        let again = leases.begin(place(1));
        assert_eq!((leases.has(place(1)), leases.has(place(2))), (true, false));
        drop(first);
        assert!(leases.has(place(1)));
        drop(again);
        assert!(!leases.has(place(1)) && leases.all().is_empty());
    }
}
