// SPDX-License-Identifier: Apache-2.0
//! How many jobs are planned at once, and what a request waits for before its turn.
//!
//! A plan holds all objects of its input while it is made, up to a million, and
//! once it is begun it goes on without its caller. So there are few at once. Who finds
//! another request under its key, jobs of the store that are not known yet, or as many plans
//! waits a while for all of that together, in a room of so many seats. Invariant: whoever waits
//! has begun nothing, keeps no turn at planning from others, and may go away.

use std::{pin::pin, sync::Arc, time::Duration};

use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    job::{Job, JobDocument},
    keys,
};
use futures::FutureExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use super::{pattern::Source, submit::Wanted};
use crate::jobs::{Jobs, error::Result, index::Room};
use crate::keyed_locks::{KeyedLock, KeyedLocks};

/// Plans of a tenant that are made at once: the largest take about 200 MB each.
const AT_ONCE: usize = 8;
/// Seats for those that wait, each with a document of 1 MiB at most.
const SEATS: usize = 256;
/// The longest wait, whatever for: most plans are made within milliseconds.
pub(in crate::jobs) const WAIT_MAX: Duration = Duration::from_secs(10);

/// The turns at planning.
pub struct Plannings {
    /// Requests under the same idempotency key wait for each other.
    keys: KeyedLocks<Digest>,
    places: Arc<Semaphore>,
    seats: Semaphore,
    /// The places that there were at first.
    at_once: usize,
    /// The seats that there were at first.
    seats_max: usize,
    wait: Duration,
}

impl Plannings {
    /// Those of a tenant, of which each is waited for so long.
    pub fn within(wait: Duration) -> Self {
        Self::new(AT_ONCE, SEATS, wait)
    }

    fn new(at_once: usize, seats_max: usize, wait: Duration) -> Self {
        let (places, seats) = (Arc::new(Semaphore::new(at_once)), Semaphore::new(seats_max));
        Self { keys: KeyedLocks::default(), places, seats, at_once, seats_max, wait }
    }

    /// A request on its way to a turn. Its time runs from now on.
    pub fn arrive(&self) -> Waiting<'_> {
        Waiting { plannings: self, until: Instant::now() + self.wait, seat: None }
    }

    fn slow(&self) -> Problem {
        Problem::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "at most {} jobs are planned at once, found as many, and they take long; try again in a moment",
                self.at_once
            ),
        )
    }

    fn crowded(&self) -> Problem {
        Problem::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "at most {} requests wait for jobs to be planned, found as many; try again in a moment",
                self.seats_max
            ),
        )
    }
}

/// A request on its way to a turn at planning.
pub struct Waiting<'a> {
    plannings: &'a Plannings,
    /// When it has waited for long enough, whatever for.
    until: Instant,
    /// Taken at the first thing to wait for.
    seat: Option<SemaphorePermit<'a>>,
}

impl Waiting<'_> {
    /// The lock of an idempotency key, once no other request has it.
    ///
    /// # Errors
    /// `concurrency-limit` when another has it for too long, or when too many wait.
    pub async fn lock(&mut self, key: Digest) -> Result<KeyedLock<Digest>, Problem> {
        let keys = &self.plannings.keys;
        let busy = || {
            // The command line knows this refusal by "under this Idempotency-Key".
            Problem::new(
                ErrorKind::ConcurrencyLimit,
                "expected the first request under this Idempotency-Key to have become a job, found it still being \
                 planned; ask again in a moment",
            )
        };
        self.wait(keys.lock(key), busy).await
    }

    /// A turn at planning, which ends when it is dropped.
    ///
    /// # Errors
    /// `concurrency-limit` when there is none for too long, or when too many wait.
    pub async fn begin(mut self) -> Result<OwnedSemaphorePermit, Problem> {
        let plannings = self.plannings;
        let place = Arc::clone(&plannings.places).acquire_owned();
        self.wait(place, || plannings.slow()).await?.map_err(|_| plannings.slow())
    }

    /// What comes of something that others do, where there is a seat to wait for it and time left.
    async fn wait<T>(
        &mut self,
        what: impl Future<Output = T>,
        late: impl FnOnce() -> Problem,
    ) -> Result<T, Problem> {
        let plannings = self.plannings;
        let mut what = pin!(what);
        if let Some(at_once) = what.as_mut().now_or_never() {
            return Ok(at_once);
        }
        if self.seat.is_none() {
            let seat = plannings.seats.try_acquire().map_err(|_| plannings.crowded())?;
            self.seat = Some(seat);
        }
        timeout_at(self.until, what).await.map_err(|_| late())
    }
}

impl Jobs {
    /// A turn at planning a job, and room for it among those that there are. Where there is no
    /// room, no turn is waited for.
    ///
    /// # Errors
    /// `queue-full`; as of [`Jobs::turn`].
    pub(super) async fn place(
        &self,
        waiting: Waiting<'_>,
        meets: bool,
    ) -> Result<(OwnedSemaphorePermit, Room), Problem> {
        let room = self.inner.index.room(self.inner.config.unfinished_max)?;
        Ok((self.turn(waiting, meets).await?, room))
    }

    /// A turn at planning, once it is known which jobs the store had at the start if what is
    /// planned `meets` them.
    ///
    /// # Errors
    /// `backbone-unavailable` when these are not known for too long; `concurrency-limit`.
    pub(in crate::jobs) async fn turn(
        &self,
        mut waiting: Waiting<'_>,
        meets: bool,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        if meets {
            waiting.wait(self.inner.restored.cancelled(), unrestored).await?;
        }
        waiting.begin().await
    }

    /// Whether what is wanted meets other jobs, and these are not known yet.
    pub(super) async fn meets(&self, wanted: &Wanted) -> Result<bool> {
        match wanted {
            Wanted::Document(document) | Wanted::Sample(document, _) => Ok(meets_others(document)),
            Wanted::Again(id) => self.meets_again(id, meets_others).await,
        }
    }

    /// The same of the document of an earlier job. It is not read where all are known.
    pub(in crate::jobs) async fn meets_again(
        &self,
        id: &Uuid,
        meets: fn(&JobDocument) -> bool,
    ) -> Result<bool> {
        if self.inner.restored.is_cancelled() {
            return Ok(false);
        }
        let earlier = self.inner.vault.read::<Job>(&keys::job_document(id)).await?;
        Ok(earlier.is_some_and(|job| meets(&job.document)))
    }
}

/// Whether a job claims its output, which others may have, or lists its input.
pub fn meets_others(document: &JobDocument) -> bool {
    document.output.is_some() || lists(document)
}

/// Whether a listing tells what a job reads: that may be what others write.
pub fn lists(document: &JobDocument) -> bool {
    document.inputs().iter().any(|text| Source::parse(text).is_ok_and(|source| source.is_listed()))
}

/// Why nothing is planned yet that other jobs may be in the way of.
pub fn unrestored() -> Problem {
    Problem::new(
        ErrorKind::BackboneUnavailable,
        "expected all jobs of the store to be known, found that they are still looked through after a start; try \
         again in a moment",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_waits_too_long_or_with_too_many_is_refused() {
        let plannings = Plannings::new(1, 1, Duration::from_millis(20));
        let first = plannings.arrive().begin().await.unwrap();
        let mut waiting = Box::pin(plannings.arrive().begin());
        assert!(waiting.as_mut().now_or_never().is_none());
        let problem = plannings.arrive().begin().now_or_never().expect("no wait").unwrap_err();
        assert_eq!(problem.code, ErrorKind::ConcurrencyLimit);
        assert!(problem.detail.contains("at most 1 requests wait"), "{problem}");
        let problem = waiting.await.unwrap_err();
        assert!(problem.detail.contains("they take long") && problem.retryable(), "{problem}");
        drop(first);
        drop(plannings.arrive().begin().now_or_never().expect("no wait").unwrap());
    }

    #[tokio::test]
    async fn who_waits_has_the_next_turn_and_may_go_away() {
        let plannings = Plannings::new(1, 2, WAIT_MAX);
        let first = plannings.arrive().begin().await.unwrap();
        let mut gone = Box::pin(plannings.arrive().begin());
        let mut waiting = Box::pin(plannings.arrive().begin());
        assert!(gone.as_mut().now_or_never().is_none() && waiting.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!(waiting.await.is_ok());
        assert_eq!(plannings.seats.available_permits(), 2);
    }

    #[tokio::test]
    async fn who_waits_under_a_key_has_a_seat_and_one_wait_in_all() {
        let (wait, key) = (Duration::from_millis(40), Digest::of(b"monday"));
        let plannings = Plannings::new(1, 1, wait);
        let first = plannings.arrive().lock(key).await.unwrap();
        let place = plannings.arrive().begin().await.unwrap();
        let mut second = plannings.arrive();
        {
            let mut waiting = Box::pin(second.lock(key));
            assert!(waiting.as_mut().now_or_never().is_none());
            let third = plannings.arrive().lock(key).now_or_never().expect("no wait").err().unwrap();
            assert!(third.detail.contains("at most 1 requests wait"), "{third}");
            // Who has nothing to wait for needs no seat.
            let other = plannings.arrive().lock(Digest::of(b"tuesday")).now_or_never();
            assert!(other.expect("no wait").is_ok());
            let problem = waiting.await.err().unwrap();
            assert_eq!((problem.code, problem.retryable()), (ErrorKind::ConcurrencyLimit, true));
            assert!(problem.detail.contains("under this Idempotency-Key"), "{problem}");
        }
        drop(first);
        let key = second.lock(key).now_or_never().expect("no wait").unwrap();
        let late = timeout(wait / 2, second.begin()).await.expect("no second wait").unwrap_err();
        assert!(late.detail.contains("they take long"), "{late}");
        drop((key, place));
        assert!(plannings.arrive().begin().now_or_never().expect("no wait").is_ok());
    }

    #[test]
    fn what_lists_its_input_or_names_its_output_meets_others() {
        let check = |input: &str, output: Option<&str>, expected: (bool, bool)| {
            let document = json!({"function": "f", "input": input, "output": output});
            let document: JobDocument = serde_json::from_value(document).unwrap();
            assert_eq!((lists(&document), meets_others(&document)), expected, "{input} {output:?}");
        };
        check("s3://bank/in/a.csv", None, (false, false));
        check("manifest://bank/out/_manifest.json", None, (false, false));
        check("s3://bank/in/a.csv", Some("s3://bank/out/"), (false, true));
        check("s3://bank/in/", None, (true, true));
        check("s3://bank/in/*.csv", None, (true, true));
        // What is no input is told where it is read.
        check("bank", None, (false, false));
    }
}
