// SPDX-License-Identifier: Apache-2.0
//! What goes on once at a time in this process, each by its key.
//!
//! Who finds a turn taken refuses, looks again later, or waits; keys do not wait for
//! each other. Invariant: a turn ends when it is dropped, however that comes about.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The keys whose turns are taken.
pub struct Turns<K>(Arc<Taken<K>>);

/// The one turn of a key.
pub struct Turn<K: Ord> {
    of: Arc<Taken<K>>,
    key: K,
}

struct Taken<K> {
    keys: Mutex<BTreeSet<K>>,
    /// Told when a turn has ended, of whatever key.
    ended: Notify,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Arc::new(Taken { keys: Mutex::default(), ended: Notify::new() }))
    }
}

impl<K: Ord + Clone> Turns<K> {
    /// The turn of a key, unless somebody has it.
    pub fn begin(&self, key: K) -> Option<Turn<K>> {
        let begun = self.0.keys().insert(key.clone());
        begun.then(|| Turn { of: Arc::clone(&self.0), key })
    }

    /// The turn of a key, once nobody else has it.
    pub async fn wait(&self, key: K) -> Turn<K> {
        loop {
            let mut ended = pin!(self.0.ended.notified());
            // From before the look on, so that no end is missed.
            ended.as_mut().enable();
            if let Some(turn) = self.begin(key.clone()) {
                return turn;
            }
            ended.await;
        }
    }
}

impl<K> Taken<K> {
    fn keys(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Drop for Turn<K> {
    fn drop(&mut self) {
        self.of.keys().remove(&self.key);
        self.of.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_key_has_one_turn_at_a_time() {
        let turns = Turns::default();
        let turn = turns.begin(1);
        assert!(turn.is_some() && turns.begin(1).is_none() && turns.begin(2).is_some());
        drop(turn);
        assert!(turns.begin(1).is_some());
    }

    #[tokio::test]
    async fn who_waits_has_the_turn_when_it_ends_and_others_do_not_wait() {
        let turns = Turns::default();
        let first = turns.wait(1).await;
        let (mut second, mut third) = (Box::pin(turns.wait(1)), Box::pin(turns.wait(1)));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(turns.wait(2).now_or_never().expect("another key"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = second.await;
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        drop(third.await);
    }
}
