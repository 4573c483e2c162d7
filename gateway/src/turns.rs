// SPDX-License-Identifier: Apache-2.0
//! What goes on once at a time in this process, each by its key.
//!
//! Nobody waits here: who finds a turn taken refuses, or looks again later. Invariant: a
//! turn ends when it is dropped, however that comes about.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The keys whose turns are taken.
#[derive(Default)]
pub struct Turns<K>(Arc<Mutex<BTreeSet<K>>>);

/// The one turn of a key.
pub struct Turn<K: Ord> {
    of: Arc<Mutex<BTreeSet<K>>>,
    key: K,
}

impl<K: Ord + Clone> Turns<K> {
    /// The turn of a key, unless somebody has it.
    pub fn begin(&self, key: K) -> Option<Turn<K>> {
        let begun = lock(&self.0).insert(key.clone());
        begun.then(|| Turn { of: Arc::clone(&self.0), key })
    }
}

impl<K: Ord> Drop for Turn<K> {
    fn drop(&mut self) {
        lock(&self.of).remove(&self.key);
    }
}

fn lock<K>(taken: &Mutex<BTreeSet<K>>) -> MutexGuard<'_, BTreeSet<K>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_turn_at_a_time() {
        let turns = Turns::default();
        let turn = turns.begin(1);
        assert!(turn.is_some() && turns.begin(1).is_none() && turns.begin(2).is_some());
        drop(turn);
        assert!(turns.begin(1).is_some());
    }
}
