// SPDX-License-Identifier: Apache-2.0
//! Leases that this worker leaves to those that need not compile for them.
//!
//! All loops of the worker share it, so that none takes what another has just given back.
//! Invariant: a lease is left to others in its first [`HOPS_MAX`] deliveries only, and for
//! no longer than [`PREFERENCE`] from when this worker had it first.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_protocol::worker::PREFERENCE;

/// Deliveries in which a lease may be left to others; they are no tries.
pub(super) const HOPS_MAX: u32 = 4;
/// Leases that are left to others at once.
const LEASES_MAX: usize = 1_024;

/// Until when leases are left to others, by their ids.
#[derive(Default)]
pub(super) struct Asides(Mutex<HashMap<String, Instant>>);

/// How a lease is given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Before anyone gets it again.
    pub(super) delay: Duration,
    /// How long the loop that had it takes nothing, so that others get it.
    pub(super) rest: Duration,
}

impl Asides {
    /// How a lease is left to others in this delivery; none when it is anyone's.
    pub(super) fn step(&self, id: &str, delivery: u32, now: Instant) -> Option<Step> {
        if delivery > HOPS_MAX {
            return None;
        }
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.len() >= LEASES_MAX && !leases.contains_key(id) {
            leases.retain(|_, until| now < *until);
            if leases.len() >= LEASES_MAX {
                return None;
            }
        }
        let until = *leases.entry(id.to_owned()).or_insert(now + PREFERENCE);
        let rest = until.saturating_duration_since(now);
        // The last one waits out the time, which the loops would use up at once otherwise.
        let delay = if delivery < HOPS_MAX { Duration::ZERO } else { rest };
        (!rest.is_zero()).then_some(Step { delay, rest })
    }
}

#[cfg(test)]
mod tests {
    use fanfold_backbone::{Backbone, EmbeddedConfig, Message};
    use futures::future::select_all;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn all_loops_leave_a_lease_alone_for_the_same_time_and_then_none_does() {
        let (asides, begun) = (Asides::default(), Instant::now());
        let step = |id: &str, delivery, after| asides.step(id, delivery, begun + ms(after));
        for after in [0, 1, 2] {
            let delivery = u32::try_from(after).unwrap() + 1;
            let expected = Step { delay: Duration::ZERO, rest: PREFERENCE - ms(after) };
            assert_eq!(step("a", delivery, after), Some(expected));
        }
        let rest = PREFERENCE - ms(3);
        assert_eq!(step("a", HOPS_MAX, 3), Some(Step { delay: rest, rest }));
        assert_eq!(step("a", HOPS_MAX + 1, 4), None);
        // Once the time is over, it does not begin anew.
        assert_eq!(step("a", 2, 50), None);
        assert_eq!(step("a", 3, 70), None);
        assert_eq!(step("b", 1, 70), Some(Step { delay: Duration::ZERO, rest: PREFERENCE }));
    }

    #[test]
    fn no_more_leases_are_left_to_others_than_can_be_remembered() {
        let (asides, begun) = (Asides::default(), Instant::now());
        for n in 0..LEASES_MAX {
            assert!(asides.step(&n.to_string(), 1, begun).is_some());
        }
        assert_eq!(asides.step("one more", 1, begun), None);
        assert!(asides.step("0", 2, begun).is_some());
        assert!(asides.step("one more", 1, begun + PREFERENCE).is_some());
        assert_eq!(asides.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn several_loops_do_not_use_up_the_hops_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::new(folder.path().join("backbone.redb"));
        let backbone = Backbone::embedded(config).await.unwrap();
        let asides = Asides::default();
        let pull = async || {
            loop {
                let pulled = backbone.pull("leases", 1, ms(20_000), ms(30_000)).await.unwrap();
                let Some(delivery) = pulled.first() else { continue };
                let Some(step) = asides.step(&delivery.id, delivery.attempt, Instant::now()) else {
                    return delivery.attempt;
                };
                delivery.nak(step.delay).await.unwrap();
                tokio::time::sleep(step.rest).await;
            }
        };
        let begun = Instant::now();
        backbone.enqueue("leases", vec![Message::new("a", "x")]).await.unwrap();
        let (attempt, _, _) = select_all((0..8).map(|_| Box::pin(pull()))).await;
        assert!(attempt <= HOPS_MAX + 1, "{attempt}");
        // The queue counts in milliseconds.
        assert!(begun.elapsed() >= PREFERENCE - ms(5), "{:?}", begun.elapsed());
        backbone.close().await;
    }
}
