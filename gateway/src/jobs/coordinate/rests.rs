// SPDX-License-Identifier: Apache-2.0
//! Further rounds that wait for their time.
//!
//! A round is leased when its backoff is over and not before, so that what waits takes
//! up none of the places that a job has. In memory alone: whoever takes a job over
//! lets its rounds wait anew.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep_until};

use crate::jobs::progress::stragglers::Place;

/// The rounds of one job that wait.
#[derive(Debug, Default)]
pub struct Rests {
    waiting: BTreeSet<(Instant, Place)>,
}

impl Rests {
    /// Lets a round wait until then.
    pub fn add(&mut self, until: Instant, place: Place) {
        self.waiting.insert((until, place));
    }

    /// Waits until a round is due; never ends while none waits.
    pub async fn due(&self) {
        match self.waiting.first() {
            Some((until, _)) => sleep_until(*until).await,
            None => std::future::pending().await,
        }
    }

    /// Takes out the rounds that are due, those that have waited the longest first.
    pub fn over(&mut self, now: Instant) -> Vec<Place> {
        let mut over = Vec::new();
        while let Some((until, place)) = self.waiting.first().copied()
            && until <= now
        {
            self.waiting.pop_first();
            over.push(place);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rounds_are_due_in_the_order_of_their_times() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut rests = Rests::default();
        for (after, place) in [(3_u32, (0, 1, 1)), (1, (0, 2, 1)), (1, (0, 0, 2)), (2, (1, 0, 1))] {
            rests.add(now + after * second, place);
        }
        assert!(rests.over(now).is_empty());
        assert_eq!(rests.over(now + second), [(0, 0, 2), (0, 2, 1)]);
        assert_eq!(rests.over(now + 9 * second), [(1, 0, 1), (0, 1, 1)]);
        assert!(rests.over(now + 9 * second).is_empty());
    }
}
