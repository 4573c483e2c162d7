// SPDX-License-Identifier: Apache-2.0
//! Vocabulary of the key-value half: entries, outcomes of compare-and-set, and the stream of changes.
//!
//! Producers (an implementation's writer) push [`Change`]s into a [`Watch`]; users read it as a stream.
//! Invariant: a watch never loses the last state of a key; a slow reader may skip states in between, and
//! holds at most one pending change for each key.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::task::AtomicWaker;

use crate::name::Scope;

/// Largest value, in bytes: JetStream's payload of 1 MiB less 8 KiB for headers.
pub const VALUE_BYTES_MAX: usize = (1 << 20) - (8 << 10);

/// A value and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was stored.
    pub value: Bytes,
    /// Grows with every write to any key; never reused, not even by a key deleted and created again.
    pub revision: u64,
}

/// What a key must hold for a write to take place.
pub(crate) enum Expected {
    Anything,
    Nothing,
    Revision(u64),
}

/// How a compare-and-set ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CasOutcome {
    /// The value was stored under this revision.
    Stored(u64),
    /// The expectation did not hold; here is what the key holds instead.
    Conflict(Option<Entry>),
}

impl CasOutcome {
    /// The new revision, if the value was stored.
    pub fn revision(&self) -> Option<u64> {
        match self {
            CasOutcome::Stored(revision) => Some(*revision),
            CasOutcome::Conflict(_) => None,
        }
    }

    /// True where the value was stored.
    pub fn is_stored(&self) -> bool {
        self.revision().is_some()
    }
}

/// How a delete ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// The key is gone, as of this revision.
    Deleted(u64),
    /// There was no such key.
    Absent,
    /// The key holds another revision than expected.
    Conflict(Entry),
}

/// One page of a listing, in byte order of the keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Keys and what they hold.
    pub entries: Vec<(String, Entry)>,
    /// Pass it as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// How full the keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What they take.
    pub bytes: u64,
    /// What they may take.
    pub bytes_max: u64,
}

/// What a watch sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key holds this entry.
    Put {
        /// The key.
        key: String,
        /// What it holds.
        entry: Entry,
    },
    /// The key was deleted or expired.
    Delete {
        /// The key.
        key: String,
        /// The revision of the removal.
        revision: u64,
    },
    /// The state as it was when the watch began is complete; changes follow. Comes once: an implementation that has
    /// to begin anew tells in what the state differs from what it told.
    Synced,
}

/// A stream of the current state of a scope and then of its changes, in the order of their revisions.
/// Ends when the backbone shuts down. Dropping it stops the watch.
pub struct Watch {
    inbox: Arc<Inbox>,
    /// What is cut from the beginning of each key, in bytes.
    cut: usize,
}

impl Watch {
    /// The same, with so many bytes cut from the beginning of each key.
    pub(crate) fn under(self, cut: usize) -> Self {
        Watch { cut, ..self }
    }
}

/// The writing end of a [`Watch`].
pub(crate) struct Watcher {
    scope: Scope,
    inbox: Weak<Inbox>,
}

#[derive(Default)]
struct Inbox {
    pending: Mutex<Pending>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Pending {
    /// Changes of the first state, then the marker; kept apart since live changes may overtake them.
    initial: VecDeque<Change>,
    /// Live changes by revision, and by key where one revision stands for several removals.
    live: BTreeMap<(u64, String), Change>,
    /// The revision under which each key waits in `live`.
    by_key: HashMap<String, u64>,
    closed: bool,
}

impl Inbox {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the two ends of a watch over `scope`, beginning with `state`.
pub(crate) fn watch(scope: Scope, state: Vec<(String, Entry)>) -> (Watcher, Watch) {
    let inbox = Arc::new(Inbox::default());
    {
        let mut pending = inbox.pending();
        pending.initial = state.into_iter().map(|(key, entry)| Change::Put { key, entry }).collect();
        pending.initial.push_back(Change::Synced);
    }
    (Watcher { scope, inbox: Arc::downgrade(&inbox) }, Watch { inbox, cut: 0 })
}

impl Watcher {
    /// Hands on a change of `key` under `revision` (`None`: removed). False once the reader is gone.
    pub(crate) fn send(&self, key: &str, revision: u64, value: Option<&Bytes>) -> bool {
        let Some(inbox) = self.inbox.upgrade() else { return false };
        if !self.scope.contains(key) {
            return true;
        }
        let change = match value {
            Some(value) => {
                Change::Put { key: key.to_owned(), entry: Entry { value: value.clone(), revision } }
            }
            None => Change::Delete { key: key.to_owned(), revision },
        };
        let mut pending = inbox.pending();
        if let Some(old) = pending.by_key.insert(key.to_owned(), revision) {
            pending.live.remove(&(old, key.to_owned()));
        }
        pending.live.insert((revision, key.to_owned()), change);
        drop(pending);
        inbox.waker.wake();
        true
    }

    /// True while somebody reads.
    pub(crate) fn is_watched(&self) -> bool {
        self.inbox.strong_count() > 0
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(inbox) = self.inbox.upgrade() {
            inbox.pending().closed = true;
            inbox.waker.wake();
        }
    }
}

impl Stream for Watch {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        self.inbox.waker.register(context.waker());
        let mut pending = self.inbox.pending();
        let next = pending.initial.pop_front().or_else(|| {
            pending.live.pop_first().map(|(_, change)| {
                if let Change::Put { key, .. } | Change::Delete { key, .. } = &change {
                    pending.by_key.remove(key);
                }
                change
            })
        });
        match next {
            Some(mut change) => {
                if let Change::Put { key, .. } | Change::Delete { key, .. } = &mut change {
                    key.drain(..self.cut);
                }
                Poll::Ready(Some(change))
            }
            None if pending.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt};

    #[test]
    fn a_slow_reader_sees_the_last_state_of_each_key_in_order() {
        let (watcher, mut watch) = watch(Scope::parse("a/").unwrap(), Vec::new());
        for revision in 1..=100 {
            let value = Bytes::from(revision.to_string());
            assert!(watcher.send(if revision % 2 == 0 { "a/even" } else { "a/odd" }, revision, Some(&value)));
        }
        assert!(watcher.send("b/other", 101, None));
        assert!(watcher.send("a/even", 102, None));
        drop(watcher);
        let seen: Vec<Change> = std::iter::from_fn(|| watch.next().now_or_never().flatten()).collect();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[0], Change::Synced);
        assert!(matches!(&seen[1], Change::Put { key, entry } if key == "a/odd" && entry.revision == 99));
        assert_eq!(seen[2], Change::Delete { key: "a/even".into(), revision: 102 });
    }
}
