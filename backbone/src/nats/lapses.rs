// SPDX-License-Identifier: Apache-2.0
//! When keys with a time to live end, on this process's monotonic clock.
//!
//! Server 2.9 knows no time to live of a message, and wall clocks may jump. So each process counts from when it
//! first saw a revision (from before the write, for its own), reads what has lapsed as absent, and sweeps it with
//! a removal that expects that very revision. Invariant: whoever wrote a key takes it for lapsed no later than
//! anybody else, and a revision that was renewed is never swept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::record::Record;

/// How long the mark of a removal stays, for those to hear of it who lost their connection.
const REMOVED_KEPT: Duration = Duration::from_secs(60);

/// What ends by itself.
#[derive(Default)]
pub(super) struct Lapses(Mutex<HashMap<String, Lapse>>);

/// The end of one revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lapse {
    pub(super) revision: u64,
    pub(super) at: Instant,
    /// True for the mark of a removal, which is to be deleted; false for a value, which is to be removed.
    pub(super) is_removal: bool,
}

impl Lapses {
    /// Notes what was seen of a key at `now`; true where it has not lapsed.
    pub(super) fn note(&self, key: &str, record: &Record, now: Instant) -> bool {
        let mut lapses = self.lock();
        let known = lapses.get(key).copied().filter(|known| known.revision >= record.revision);
        if let Some(known) = known.filter(|known| known.revision == record.revision) {
            let seen = lapse(record, now).map_or(known.at, |seen| seen.at.min(known.at));
            lapses.insert(key.to_owned(), Lapse { at: seen, ..known });
            return seen > now;
        }
        match lapse(record, now) {
            // An older revision than what is known tells nothing.
            _ if known.is_some() => {}
            Some(seen) => drop(lapses.insert(key.to_owned(), seen)),
            None => drop(lapses.remove(key)),
        }
        true
    }

    /// Takes out what has ended.
    pub(super) fn take_due(&self, now: Instant) -> Vec<(String, Lapse)> {
        self.lock().extract_if(|_, lapse| lapse.at <= now).collect()
    }

    /// Puts back what could not be swept, unless something newer is known.
    pub(super) fn put_back(&self, key: String, lapse: Lapse) {
        self.lock().entry(key).or_insert(lapse);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lapse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a record ends, if it does.
fn lapse(record: &Record, now: Instant) -> Option<Lapse> {
    let (after, is_removal) = match (&record.value, record.ttl) {
        (None, _) => (REMOVED_KEPT, true),
        (Some(_), ttl) => (ttl?, false),
    };
    // A time beyond what the clock can count does not end.
    Some(Lapse { revision: record.revision, at: now.checked_add(after)?, is_removal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_ends_by_the_first_sight_of_it_and_a_renewed_one_does_not() {
        let (lapses, start) = (Lapses::default(), Instant::now());
        let record = |revision| Record {
            revision,
            value: Some("x".into()),
            ttl: Some(Duration::from_secs(10)),
            write: None,
        };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(lapses.note("k", &record(5), at(0)));
        assert!(lapses.note("k", &record(5), at(9)), "seen again, it ends no later");
        assert!(!lapses.note("k", &record(5), at(10)));
        assert!(lapses.note("k", &record(6), at(10)), "renewed");
        assert!(lapses.note("k", &record(5), at(11)), "what is old is not judged");
        assert!(lapses.take_due(at(19)).is_empty());
        assert_eq!(lapses.take_due(at(20)).len(), 1);
        lapses.note("k", &record(7), at(20));
        lapses.note("k", &Record { ttl: None, ..record(8) }, at(20));
        assert!(lapses.take_due(at(90)).is_empty(), "it was written anew to stay");
        lapses.note("k", &Record { value: None, ..record(9) }, at(90));
        assert!(lapses.take_due(at(150))[0].1.is_removal);
    }
}
