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
/// How long is known what has ended, where nothing newer is heard of its key: by then somebody has swept it.
const ENDED_KEPT: Duration = Duration::from_secs(3_600);

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
    /// True once it has ended and is being swept.
    is_taken: bool,
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

    /// What has ended since the last time. It stays known as ended until something newer is, so that nobody who reads
    /// it while it is swept takes it for new.
    pub(super) fn take_due(&self, now: Instant) -> Vec<(String, Lapse)> {
        let mut lapses = self.lock();
        lapses.retain(|_, lapse| !lapse.is_taken || now.saturating_duration_since(lapse.at) < ENDED_KEPT);
        let due = lapses.iter_mut().filter(|(_, lapse)| !lapse.is_taken && lapse.at <= now);
        let taken = due.map(|(key, lapse)| {
            lapse.is_taken = true;
            (key.clone(), *lapse)
        });
        taken.collect()
    }

    /// Lets what could not be swept be taken again, unless something newer is known.
    pub(super) fn put_back(&self, key: &str, lapse: Lapse) {
        let mut lapses = self.lock();
        if let Some(known) = lapses.get_mut(key).filter(|known| known.revision == lapse.revision) {
            known.is_taken = false;
        }
    }

    /// Forgets what is gone from the stream, unless something newer is known.
    pub(super) fn forget(&self, key: &str, lapse: Lapse) {
        let mut lapses = self.lock();
        if lapses.get(key).is_some_and(|known| known.revision == lapse.revision) {
            lapses.remove(key);
        }
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
    let at = now.checked_add(after)?;
    Some(Lapse { revision: record.revision, at, is_removal, is_taken: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: u64) -> Record {
        Record { revision, value: Some("x".into()), ttl: Some(Duration::from_secs(10)), write: None }
    }

    #[test]
    fn a_revision_ends_by_the_first_sight_of_it_and_a_renewed_one_does_not() {
        let (lapses, start) = (Lapses::default(), Instant::now());
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

    #[test]
    fn what_has_ended_stays_ended_while_it_is_swept() {
        let (lapses, start) = (Lapses::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        lapses.note("k", &record(5), at(0));
        let (key, lapse) = lapses.take_due(at(10)).pop().unwrap();
        assert!(!lapses.note("k", &record(5), at(11)), "read before the removal is stored");
        assert!(lapses.take_due(at(11)).is_empty(), "taken once");
        lapses.put_back(&key, lapse);
        assert_eq!(lapses.take_due(at(12)).len(), 1, "once more, since it could not be swept");
        // The removal is stored, and its mark deleted in its turn.
        lapses.note("k", &Record { value: None, ..record(6) }, at(12));
        lapses.put_back(&key, lapse);
        let (key, mark) = lapses.take_due(at(72)).pop().unwrap();
        lapses.forget(&key, lapse);
        assert_eq!(lapses.lock().len(), 1, "what is newer stays");
        lapses.forget(&key, mark);
        assert!(lapses.lock().is_empty());
        // Whoever sweeps nothing hears nothing newer of many keys, and must not know them for ever.
        lapses.note("k", &record(7), at(100));
        assert_eq!(lapses.take_due(at(110)).len(), 1);
        assert!(!lapses.note("k", &record(7), at(200)));
        lapses.take_due(at(110 + 3_600));
        assert!(lapses.lock().is_empty());
    }
}
