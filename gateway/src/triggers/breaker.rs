// SPDX-License-Identifier: Apache-2.0
//! Ends a trigger that starts too much.
//!
//! A chain is known by the depth in its objects' metadata. Where that can be
//! missing, because a store drops it or an author allowed loops, a circle is
//! known by its rate alone: above a bound the trigger pauses itself, with its
//! events kept, until somebody has looked. Removals leave no metadata: many of them are no
//! sign of a circle by themselves, but a reason to look whether there is one by now.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_protocol::{limits, trigger::TriggerDocument};
use uuid::Uuid;

/// The time that starts are counted over.
const MINUTE: Duration = Duration::from_secs(60);

/// What each trigger has started within its present minute.
#[derive(Default)]
pub struct Breaker(Mutex<HashMap<Uuid, Minute>>);

/// The starts of a minute.
struct Minute {
    since: Instant,
    starts: u32,
    /// There may be any number of them.
    excused: bool,
}

impl Minute {
    fn begin(since: Instant) -> Self {
        Self { since, starts: 0, excused: false }
    }
}

impl Breaker {
    /// Counts a start, and tells the beginning of the minute that it is counted in; none when there were as many
    /// already as there may be.
    pub fn admit(&self, trigger: &Uuid, most: Option<u32>, now: Instant) -> Option<Instant> {
        let Some(most) = most else { return Some(now) };
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = minutes.entry(*trigger).or_insert_with(|| Minute::begin(now));
        if now.duration_since(minute.since) >= MINUTE {
            *minute = Minute::begin(now);
        }
        let admits = minute.excused || minute.starts < most;
        minute.starts = minute.starts.saturating_add(u32::from(admits));
        admits.then_some(minute.since)
    }

    /// Lets a trigger start what it does for the rest of its minute: it is in no circle.
    pub fn excuse(&self, trigger: &Uuid) {
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(minute) = minutes.get_mut(trigger) {
            minute.excused = true;
        }
    }

    /// Takes back a start that came to nothing, unless its minute is over.
    pub fn take_back(&self, trigger: &Uuid, minute: Instant) {
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = minutes.get_mut(trigger).filter(|counted| counted.since == minute) {
            counted.starts = counted.starts.saturating_sub(1);
        }
    }

    /// Counts anew: whoever lets a trigger go on has looked.
    pub fn forget(&self, trigger: &Uuid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(trigger);
    }
}

/// How many starts a minute a trigger may have; none is no bound.
pub fn most(document: &TriggerDocument, keeps_metadata: bool) -> Option<u32> {
    match document.starts_per_minute {
        Some(0) => None,
        Some(most) => Some(most),
        None if document.allow_loops || !keeps_metadata || document.acts_on_removed() => {
            Some(limits::TRIGGER_STARTS_UNSEEN_MAX)
        }
        None => None,
    }
}

/// Whether a trigger has its bound for removals alone, and none unless it stands in a circle.
pub fn is_for_removals(document: &TriggerDocument, keeps_metadata: bool) -> bool {
    document.starts_per_minute.is_none() && !document.allow_loops && keeps_metadata
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn starts_are_counted_by_the_minute() {
        let (breaker, id, now) = (Breaker::default(), Uuid::from_u128(1), Instant::now());
        let admits = |seconds: u64| breaker.admit(&id, Some(2), now + Duration::from_secs(seconds)).is_some();
        assert!(admits(0) && admits(10) && !admits(20) && !admits(59));
        assert!(admits(60) && admits(61) && !admits(119));
        breaker.forget(&id);
        assert!(admits(119) && admits(120) && !admits(178) && admits(179));
        assert!((0..10_000).all(|_| breaker.admit(&id, None, now).is_some()));
    }

    #[test]
    fn what_is_excused_starts_as_much_as_it_does_until_its_minute_is_over() {
        let (breaker, id, now) = (Breaker::default(), Uuid::from_u128(1), Instant::now());
        let admits = |seconds: u64| breaker.admit(&id, Some(1), now + Duration::from_secs(seconds)).is_some();
        breaker.excuse(&id);
        assert!(admits(0) && !admits(1));
        breaker.excuse(&id);
        assert!(admits(2) && admits(59) && admits(60) && !admits(61));
    }

    #[test]
    fn what_came_to_nothing_is_no_start() {
        let (breaker, id, now) = (Breaker::default(), Uuid::from_u128(1), Instant::now());
        let admit = |seconds: u64| breaker.admit(&id, Some(2), now + Duration::from_secs(seconds));
        for second in 0..10 {
            breaker.take_back(&id, admit(second).unwrap());
        }
        let first = admit(10).unwrap();
        assert!(admit(11).is_some() && admit(12).is_none());
        // One of the minute before makes no room in the next.
        let second = admit(61).unwrap();
        assert!(admit(62).is_some());
        breaker.take_back(&id, first);
        assert!(admit(63).is_none());
        breaker.take_back(&id, second);
        assert!(admit(64).is_some() && admit(65).is_none());
        breaker.take_back(&Uuid::from_u128(2), second);
    }

    #[test]
    fn triggers_are_bounded_where_loops_go_unseen() {
        let most = |more: serde_json::Value, keeps_metadata| {
            let mut document = json!({"bucket": "bank", "function": "f"});
            document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            super::most(&serde_json::from_value(document).unwrap(), keeps_metadata)
        };
        assert_eq!(most(json!({}), true), None);
        assert_eq!(most(json!({}), false), Some(limits::TRIGGER_STARTS_UNSEEN_MAX));
        assert_eq!(most(json!({"allow_loops": true}), true), Some(limits::TRIGGER_STARTS_UNSEEN_MAX));
        let removals =
            |starts: Option<u32>| json!({"events": ["s3:ObjectRemoved:*"], "starts_per_minute": starts});
        assert_eq!(most(removals(None), true), Some(limits::TRIGGER_STARTS_UNSEEN_MAX));
        assert_eq!(most(removals(Some(0)), true), None);
        assert_eq!(most(json!({"starts_per_minute": 5}), true), Some(5));
        assert_eq!(most(json!({"allow_loops": true, "starts_per_minute": 0}), false), None);
    }
}
