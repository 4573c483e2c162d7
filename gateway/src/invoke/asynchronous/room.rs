// SPDX-License-Identifier: Apache-2.0
//! Whether one more asynchronous call may wait.
//!
//! How many wait is read from the queue now and then, by one call for all that come meanwhile,
//! and counted on in between. Invariant: a reading that fails is the answer to everyone who waited for
//! it, so that calls do not fail one after the other while the backbone is silent.

use std::time::{Duration, Instant};

use fanfold_protocol::{ErrorKind, Problem};
use tokio::sync::{Mutex, MutexGuard};

/// How long a reading serves.
const READING: Duration = Duration::from_millis(200);

/// The room for calls that wait.
pub(super) struct Room {
    most: usize,
    waiting: Mutex<Waiting>,
}

/// What the backbone says.
pub(super) struct Reading {
    /// How many wait.
    pub(super) waiting: u64,
    /// Why it takes no more; that says nothing of how many wait.
    pub(super) closed: Option<Problem>,
}

#[derive(Default)]
struct Waiting {
    read_at: Option<Instant>,
    count: u64,
    closed: Option<Problem>,
    /// When the last reading failed, unless one has succeeded since, and why.
    failed: Option<(Instant, Problem)>,
}

impl Room {
    /// For so many calls.
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default() }
    }

    /// Counts one more that waits; `reading` tells how many do, where that is not known.
    ///
    /// # Errors
    /// `queue-full`; why the backbone takes no more; or why the reading failed that this waited for.
    pub(super) async fn take(
        &self,
        reading: impl Future<Output = Result<Reading, Problem>>,
    ) -> Result<(), Problem> {
        let mut waiting = self.read(reading).await?;
        if let Some(problem) = &waiting.closed {
            return Err(problem.clone());
        }
        let most = self.most;
        if waiting.count >= most as u64 {
            return Err(Problem::new(
                ErrorKind::QueueFull,
                format!(
                    "at most {most} invocations may wait, found as many; try again later, or add workers"
                ),
            ));
        }
        waiting.count += 1;
        Ok(())
    }

    /// How many wait; `reading` tells it, where that is not known.
    ///
    /// # Errors
    /// Why the reading failed that this waited for.
    pub(super) async fn waiting(
        &self,
        reading: impl Future<Output = Result<Reading, Problem>>,
    ) -> Result<u64, Problem> {
        Ok(self.read(reading).await?.count)
    }

    async fn read(
        &self,
        reading: impl Future<Output = Result<Reading, Problem>>,
    ) -> Result<MutexGuard<'_, Waiting>, Problem> {
        let came = Instant::now();
        let mut waiting = self.waiting.lock().await;
        if let Some((failed_at, problem)) = &waiting.failed
            && came <= *failed_at
        {
            return Err(problem.clone());
        }
        if waiting.read_at.is_none_or(|at| at.elapsed() >= READING) {
            match reading.await {
                Ok(Reading { waiting: count, closed }) => {
                    *waiting = Waiting { read_at: Some(Instant::now()), count, closed, failed: None };
                }
                Err(problem) => {
                    waiting.failed = Some((Instant::now(), problem.clone()));
                    return Err(problem);
                }
            }
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::{FutureExt, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    fn silent() -> Problem {
        Problem::new(ErrorKind::BackboneUnavailable, "expected NATS to answer, found it silent")
    }

    #[tokio::test]
    async fn a_reading_that_fails_is_the_answer_to_all_who_waited_for_it_and_to_no_others() {
        let (room, readings, answers) = (Room::new(10), AtomicU32::new(0), Semaphore::new(0));
        let fails = || async {
            readings.fetch_add(1, Ordering::Relaxed);
            answers.acquire().await.unwrap().forget();
            Err(silent())
        };
        let mut calls = Box::pin(join_all((0..20).map(|_| room.take(fails()))));
        assert!(calls.as_mut().now_or_never().is_none());
        // For the first of them; a second reading would wait for ever.
        answers.add_permits(1);
        let answered = calls.as_mut().now_or_never().expect("all at once");
        assert!(answered.iter().all(|answer| *answer == Err(silent())), "{answered:?}");
        assert_eq!(readings.load(Ordering::Relaxed), 1);
        // Who comes later asks anew, and may be lucky.
        assert!(room.take(fails()).now_or_never().is_none());
        assert_eq!(readings.load(Ordering::Relaxed), 2);
        assert_eq!(room.take(async { Ok(read(0)) }).await, Ok(()));
    }

    fn read(waiting: u64) -> Reading {
        Reading { waiting, closed: None }
    }

    #[tokio::test]
    async fn a_backbone_that_takes_no_more_still_tells_how_many_wait() {
        let room = Room::new(3);
        let full = || Problem::new(ErrorKind::StorageFull, "expected room, found none");
        let reading = || async { Ok(Reading { waiting: 2, closed: Some(full()) }) };
        assert_eq!(room.take(reading()).await, Err(full()));
        assert_eq!(room.waiting(reading()).await, Ok(2));
    }

    #[tokio::test]
    async fn what_was_read_is_counted_on_until_it_is_full() {
        let room = Room::new(3);
        assert_eq!(room.take(async { Ok(read(1)) }).await, Ok(()));
        let taken = Instant::now();
        let unread = || async { Err(silent()) };
        let second = room.take(unread()).await;
        let third = room.take(unread()).await;
        // On a machine that stood still meanwhile it is read anew.
        if taken.elapsed() < READING {
            assert_eq!(second, Ok(()));
            assert_eq!(third.unwrap_err().code, ErrorKind::QueueFull);
        }
        let full = Room::new(3).take(async { Ok(read(3)) }).await.unwrap_err();
        assert_eq!(full.code, ErrorKind::QueueFull);
    }
}
