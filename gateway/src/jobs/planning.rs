// SPDX-License-Identifier: Apache-2.0
//! How many jobs are planned at once.
//!
//! A plan holds all objects of its input while it is made, up to a million, and
//! once it is begun it goes on without its caller. So there are few at once, and
//! who finds as many waits a while for a turn, in a room of so many seats.
//! Invariant: whoever waits has begun nothing, and may go away.

use std::{sync::Arc, time::Duration};

use fanfold_protocol::{ErrorKind, Problem, digest::Digest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::turns::{Turn, Turns};

/// Plans of a tenant that are made at once: the largest take about 200 MB each.
const AT_ONCE: usize = 8;
/// Seats for those that wait, each with a document of 1 MiB at most.
const SEATS: usize = 256;
/// The longest wait: most plans are made within milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The turns at planning.
pub struct Plannings {
    /// Requests under the same idempotency key wait for each other.
    keys: Turns<Digest>,
    places: Arc<Semaphore>,
    seats: Semaphore,
    /// As there were at first.
    at_once: usize,
    wait: Duration,
}

impl Default for Plannings {
    fn default() -> Self {
        Self::new(AT_ONCE, SEATS, WAIT_MAX)
    }
}

impl Plannings {
    fn new(at_once: usize, seats: usize, wait: Duration) -> Self {
        let places = Arc::new(Semaphore::new(at_once));
        Self { keys: Turns::default(), places, seats: Semaphore::new(seats), at_once, wait }
    }

    /// The turn of an idempotency key, once no other request has it.
    pub async fn turn_of(&self, key: Digest) -> Turn<Digest> {
        self.keys.wait(key).await
    }

    /// A turn at planning, which ends when it is dropped.
    ///
    /// # Errors
    /// `concurrency-limit` when there is none for too long, or when too many wait.
    pub async fn begin(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let places = || Arc::clone(&self.places);
        if let Ok(place) = places().try_acquire_owned() {
            return Ok(place);
        }
        let Ok(_seat) = self.seats.try_acquire() else {
            return Err(self.refused("as many others wait as may"));
        };
        match tokio::time::timeout(self.wait, places().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(self.refused("they take long")),
        }
    }

    fn refused(&self, found: &str) -> Problem {
        Problem::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "at most {} jobs are planned at once, found as many, and {found}; try again in a moment",
                self.at_once
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_too_long_or_with_too_many_is_refused() {
        let plannings = Plannings::new(1, 1, Duration::from_millis(20));
        let first = plannings.begin().await.unwrap();
        let mut waiting = Box::pin(plannings.begin());
        assert!(waiting.as_mut().now_or_never().is_none());
        let problem = plannings.begin().now_or_never().expect("no wait").unwrap_err();
        assert_eq!(problem.code, ErrorKind::ConcurrencyLimit);
        assert!(problem.detail.contains("as many others wait as may"), "{problem}");
        let problem = waiting.await.unwrap_err();
        assert!(problem.detail.contains("they take long") && problem.retryable(), "{problem}");
        drop(first);
        drop(plannings.begin().now_or_never().expect("no wait").unwrap());
    }

    #[tokio::test]
    async fn who_waits_has_the_next_turn_and_may_go_away() {
        let plannings = Plannings::new(1, 2, WAIT_MAX);
        let first = plannings.begin().await.unwrap();
        let (mut gone, mut waiting) = (Box::pin(plannings.begin()), Box::pin(plannings.begin()));
        assert!(gone.as_mut().now_or_never().is_none() && waiting.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!(waiting.await.is_ok());
    }
}
