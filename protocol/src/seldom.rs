// SPDX-License-Identifier: Apache-2.0
//! What a log is told once a minute at most.
//!
//! Each request, and each try of a loop, meets what is away; without a bound a night of that fills a disk. Whoever logs
//! asks here first. Invariant: what was not told for a minute is told.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two times that the same is told.
const PAUSE: Duration = Duration::from_secs(60);
/// Different things told within that time; more are as repeats.
const THINGS_MAX: usize = 256;

/// What was told within the last minute.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<BTreeMap<String, Instant>>);

impl Seldom {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Whether something is to be told, as it was not of late; then it counts as told now.
    pub fn is_due(&self, thing: &str) -> bool {
        self.is_due_at(thing, Instant::now())
    }

    fn is_due_at(&self, thing: &str, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.saturating_duration_since(*at) < PAUSE);
        let is_due = !told.contains_key(thing) && told.len() < THINGS_MAX;
        if is_due {
            told.insert(thing.to_owned(), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_told_once_a_minute() {
        let (seldom, begun) = (Seldom::new(), Instant::now());
        let check = |thing: &str, seconds: u64, expected: bool| {
            let found = seldom.is_due_at(thing, begun + Duration::from_secs(seconds));
            assert_eq!(found, expected, "{thing} after {seconds} s");
        };
        check("store", 0, true);
        check("store", 1, false);
        check("backbone", 1, true);
        check("store", 59, false);
        check("store", 60, true);
        check("store", 61, false);
        for n in 0..2 * THINGS_MAX {
            seldom.is_due_at(&n.to_string(), begun + Duration::from_secs(61));
        }
        check("another", 61, false);
        check("another", 200, true);
    }
}
