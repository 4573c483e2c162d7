// SPDX-License-Identifier: Apache-2.0
//! Which keys have many older revisions in their stream, so that those are deleted before the servers drop them.
//!
//! What a server drops by its own bound comes back when it is killed and the newer revisions are gone by then;
//! what was deleted does not. Each gateway counts what it hears of; an older revision that nobody counted is deleted
//! with the mark of the key's removal at the latest. Invariant: the last revision of a key is never due.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::Record;

/// Revisions after which the older ones are deleted: so few that the servers' bound is not reached although some were
/// not counted, so many that the deletions cost little.
const TRIM_AFTER: u32 = 16;

/// Keys that were written more than once since their older revisions were deleted.
#[derive(Default)]
pub(super) struct Superseded {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// How often, and the last revision.
    written: HashMap<String, (u32, u64)>,
    /// Up to which revision to delete.
    due: Vec<(String, u64)>,
}

impl Superseded {
    /// Counts a record that was written.
    pub(super) fn note(&self, key: String, record: &Record) {
        let mut known = self.lock();
        if record.value.is_none() {
            // Its mark goes with all before it.
            known.written.remove(&key);
            return;
        }
        let (written, last) = known.written.entry(key.clone()).or_default();
        let before = std::mem::replace(last, record.revision);
        *written += 1;
        if *written > TRIM_AFTER {
            *written = 1;
            known.due.push((key, before));
        }
    }

    /// The keys that are due and up to which revision.
    pub(super) fn take(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.lock().due)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(revision: u64, value: Option<&'static str>) -> Record {
        Record { revision, value: value.map(Into::into), ttl: None, age: Duration::ZERO, write: None }
    }

    #[test]
    fn what_lies_before_the_last_of_many_revisions_is_due_and_a_removal_begins_anew() {
        let superseded = Superseded::default();
        let write = |revisions: std::ops::Range<u64>| {
            revisions.for_each(|revision| superseded.note("k".to_owned(), &record(revision, Some("x"))));
        };
        write(1..16);
        superseded.note("other".to_owned(), &record(16, Some("x")));
        superseded.note("k".to_owned(), &record(17, None));
        write(18..34);
        assert!(superseded.take().is_empty());
        write(40..41);
        assert_eq!(superseded.take(), [("k".to_owned(), 33)]);
        write(41..56);
        assert!(superseded.take().is_empty());
    }
}
