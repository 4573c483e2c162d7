// SPDX-License-Identifier: Apache-2.0
//! What goes on once at a time in this process, each by its key.
//!
//! Who finds a key locked refuses, looks again later, or waits; keys do not wait for
//! each other. Invariant: a key is free again when its lock is dropped, however that comes about.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Locks, one for each key.
pub struct KeyedLocks<K>(Arc<Locked<K>>);

/// The lock of a key, held until this is dropped.
pub struct KeyedLock<K: Ord> {
    of: Arc<Locked<K>>,
    key: K,
}

struct Locked<K> {
    keys: Mutex<BTreeSet<K>>,
    /// Told when a key is free again, whichever it is.
    freed: Notify,
}

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Arc::new(Locked { keys: Mutex::default(), freed: Notify::new() }))
    }
}

impl<K: Ord + Clone> KeyedLocks<K> {
    /// The lock of a key, unless somebody has it.
    pub fn try_lock(&self, key: K) -> Option<KeyedLock<K>> {
        let is_free = self.0.keys().insert(key.clone());
        is_free.then(|| KeyedLock { of: Arc::clone(&self.0), key })
    }

    /// The lock of a key, once nobody else has it.
    pub async fn lock(&self, key: K) -> KeyedLock<K> {
        loop {
            let mut freed = pin!(self.0.freed.notified());
            // From before the look on, so that no end is missed.
            freed.as_mut().enable();
            if let Some(lock) = self.try_lock(key.clone()) {
                return lock;
            }
            freed.await;
        }
    }
}

impl<K> Locked<K> {
    fn keys(&self) -> MutexGuard<'_, BTreeSet<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord> Drop for KeyedLock<K> {
    fn drop(&mut self) {
        self.of.keys().remove(&self.key);
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_key_is_locked_once_at_a_time() {
        let locks = KeyedLocks::default();
        let lock = locks.try_lock(1);
        assert!(lock.is_some() && locks.try_lock(1).is_none() && locks.try_lock(2).is_some());
        drop(lock);
        assert!(locks.try_lock(1).is_some());
    }

    #[tokio::test]
    async fn who_waits_has_the_lock_once_it_is_free_and_others_do_not_wait() {
        let locks = KeyedLocks::default();
        let first = locks.lock(1).await;
        let (mut second, mut third) = (Box::pin(locks.lock(1)), Box::pin(locks.lock(1)));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(locks.lock(2).now_or_never().expect("another key"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = second.await;
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        drop(third.await);
    }
}
