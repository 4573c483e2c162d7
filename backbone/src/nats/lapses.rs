// SPDX-License-Identifier: Apache-2.0
//! When keys with a time to live end, on this process's monotonic clock.
//!
//! Server 2.9 knows no time to live of a message, and wall clocks may jump. So each process counts from when it
//! first saw a revision (from before the write, for its own), reads what has lapsed as absent, and sweeps it with
//! a removal that expects that very revision. Invariant: whoever wrote a lease takes it for lapsed no later than
//! anybody else, and a revision that was renewed is never swept.
//!
//! A long time to live would begin anew with each start of all processes, and perhaps never end. Of those, what had
//! passed by the servers' clock before a revision was first seen counts as well: nobody holds a lease for so long.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::record::Record;

/// How long the mark of a removal stays, for those to hear of it who lost their connection.
const REMOVED_KEPT: Duration = Duration::from_secs(60);
/// How long is known what has ended, where nothing newer is heard of its key: by then somebody has swept it.
const ENDED_KEPT: Duration = Duration::from_secs(3_600);

/// What ends by itself.
pub(super) struct Lapses {
    known: Mutex<HashMap<String, Lapse>>,
    /// The shortest time to live that is a long one.
    long: Duration,
}

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
    /// Nothing, where times to live from `long` on run on while nobody counts them.
    pub(super) fn new(long: Duration) -> Self {
        Lapses { known: Mutex::default(), long }
    }

    /// Notes what was seen of a key at `now`; true where it has not lapsed.
    pub(super) fn note(&self, key: &str, record: &Record, now: Instant) -> bool {
        let mut lapses = self.lock();
        let known = lapses.get(key).copied().filter(|known| known.revision >= record.revision);
        if let Some(known) = known.filter(|known| known.revision == record.revision) {
            let seen = self.lapse(record, now).map_or(known.at, |seen| seen.at.min(known.at));
            lapses.insert(key.to_owned(), Lapse { at: seen, ..known });
            return seen > now;
        }
        // An older revision than what is known tells nothing.
        if known.is_some() {
            return true;
        }
        let Some(seen) = self.lapse(record, now) else {
            lapses.remove(key);
            return true;
        };
        lapses.insert(key.to_owned(), seen);
        seen.at > now
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
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a record ends, if it does, as seen at `now`.
    fn lapse(&self, record: &Record, now: Instant) -> Option<Lapse> {
        let (after, is_removal) = match (&record.value, record.ttl) {
            (None, _) => (REMOVED_KEPT, true),
            (Some(_), Some(ttl)) if ttl >= self.long => (ttl.saturating_sub(record.age), false),
            (Some(_), ttl) => (ttl?, false),
        };
        // A time beyond what the clock can count does not end.
        let at = now.checked_add(after)?;
        Some(Lapse { revision: record.revision, at, is_removal, is_taken: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: u64) -> Record {
        let (ttl, age) = (Some(Duration::from_secs(10)), Duration::ZERO);
        Record { revision, value: Some("x".into()), ttl, age, write: None }
    }

    fn lapses() -> (Lapses, Instant) {
        (Lapses::new(Duration::from_secs(60)), Instant::now())
    }

    #[test]
    fn a_revision_ends_by_the_first_sight_of_it_and_a_renewed_one_does_not() {
        let (lapses, start) = lapses();
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
        let (lapses, start) = lapses();
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
    #[test]
    fn what_has_passed_of_a_long_time_counts_and_of_a_lease_it_does_not() {
        let (lapses, start) = lapses();
        let at = |seconds| start + Duration::from_secs(seconds);
        let aged = |revision, ttl, age| {
            let (ttl, age) = (Some(Duration::from_secs(ttl)), Duration::from_secs(age));
            Record { ttl, age, ..record(revision) }
        };
        assert!(lapses.note("long", &aged(1, 60, 40), at(0)));
        assert!(lapses.note("long", &aged(1, 60, 0), at(19)), "read alone, it tells of no age");
        assert!(!lapses.note("long", &aged(1, 60, 0), at(20)));
        assert!(!lapses.note("over", &aged(2, 60, 61), at(0)), "it ended while nobody counted");
        assert!(lapses.note("lease", &aged(3, 59, 58), at(0)));
        assert!(lapses.note("lease", &aged(3, 59, 58), at(58)));
        let due = lapses.take_due(at(20));
        assert!(due.len() == 2 && due.iter().all(|(key, _)| key != "lease"), "{due:?}");
        // A get may come before the state is read.
        assert!(lapses.note("late", &aged(4, 60, 0), at(0)));
        assert!(!lapses.note("late", &aged(4, 60, 70), at(1)));
    }
}
