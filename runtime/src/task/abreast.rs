// SPDX-License-Identifier: Apache-2.0
//! What an attempt at a lease runs at once: how many of its tasks, and which.
//!
//! One, until a task was seen to wait for most of its time, as for a store in another town. Then
//! several, which share the thread and hold what they read, so all of them are small. Invariant: once
//! a task was seen to be none of these, one runs at a time to the end of the attempt.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fanfold_protocol::{commit::RunningTask, invocation::ProgressBoard, limits};

/// Time that is not worth to be shared.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The tasks of one attempt.
#[derive(Debug)]
pub(crate) struct Abreast(Mutex<State>);

#[derive(Debug)]
struct State {
    /// How many may run at once.
    width: usize,
    /// And how many ever may.
    most: usize,
    /// Those that have a sandbox, by their index.
    running: BTreeMap<u32, ProgressBoard>,
}

impl Abreast {
    /// At first so many at once, and never more than `most`.
    pub(crate) fn new(width: usize, most: usize) -> Self {
        let most = most.max(1);
        Self(Mutex::new(State { width: width.clamp(1, most), most, running: BTreeMap::new() }))
    }

    /// How many may run at once.
    pub(crate) fn width(&self) -> usize {
        self.state().width
    }

    /// Takes in how long a task kept processors busy, of the time that it took once it had room.
    pub(crate) fn saw(&self, busy: Duration, took: Duration) {
        let mut state = self.state();
        if !mostly_waits(busy, took, state.most) {
            state.most = 1;
        }
        state.width = state.most;
    }

    /// From now on one at a time.
    pub(crate) fn narrow(&self) {
        let mut state = self.state();
        (state.width, state.most) = (1, 1);
    }

    /// A task has a sandbox; answers where it tells of its progress.
    pub(super) fn begin(&self, task: u32) -> ProgressBoard {
        let board = ProgressBoard::default();
        self.state().running.insert(task, board.clone());
        board
    }

    /// It has none any more, if it had one.
    pub(super) fn end(&self, task: u32) {
        self.state().running.remove(&task);
    }

    /// The tasks that run, in order, and how far they say they are.
    pub(crate) fn running(&self) -> Vec<RunningTask> {
        let told =
            |(task, board): (&u32, &ProgressBoard)| RunningTask { task: *task, progress: board.newest() };
        self.state().running.iter().map(told).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether tasks like this one, so many at once, leave half of a thread's time and never hold each other up
/// for longer than guests that share a thread do anyway.
fn mostly_waits(busy: Duration, took: Duration, width: usize) -> bool {
    let shared = busy.saturating_mul(u32::try_from(2 * width).unwrap_or(u32::MAX));
    busy <= limits::EPOCH_TICK && took >= shared.saturating_add(WAIT_MIN)
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::invocation::Progress;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn tasks_run_together_once_one_was_seen_to_wait() {
        let check = |busy, took, expected| {
            let abreast = Abreast::new(1, 4);
            abreast.saw(ms(busy), ms(took));
            assert_eq!(abreast.width(), expected, "{busy} of {took} ms");
        };
        check(0, 1, 4);
        check(2, 17, 4);
        check(10, 81, 4);
        // Four of these would leave less than half of the time.
        check(2, 16, 1);
        check(5, 40, 1);
        // They would hold each other up, however long they wait.
        check(11, 10_000, 1);
        // There is nothing to gain.
        check(0, 0, 1);
    }

    #[test]
    fn after_a_task_that_works_one_runs_at_a_time_to_the_end() {
        let abreast = Abreast::new(4, 4);
        assert_eq!(abreast.width(), 4, "as the lease before");
        abreast.saw(ms(1), ms(80));
        assert_eq!(abreast.width(), 4);
        abreast.saw(ms(60), ms(80));
        for _ in 0..9 {
            assert_eq!(abreast.width(), 1);
            abreast.saw(ms(1), ms(80));
        }
        let crowded = Abreast::new(4, 4);
        crowded.narrow();
        crowded.saw(ms(1), ms(80));
        assert_eq!(crowded.width(), 1);
    }

    #[test]
    fn never_more_than_may_run_at_once() {
        for (most, expected) in [(0, 1), (1, 1), (2, 2)] {
            let abreast = Abreast::new(4, most);
            assert_eq!(abreast.width(), expected);
            abreast.saw(ms(1), ms(80));
            assert_eq!(abreast.width(), expected);
        }
    }

    #[test]
    fn each_task_that_runs_has_a_board_of_its_own() {
        let abreast = Abreast::new(4, 4);
        let boards = [7, 3].map(|task| abreast.begin(task));
        let told = Some(Progress { done: 2, total: Some(9) });
        boards[0].tell(told);
        let running = |task, progress| RunningTask { task, progress };
        assert_eq!(abreast.running(), [running(3, None), running(7, told)]);
        abreast.end(3);
        abreast.end(5);
        assert_eq!(abreast.running(), [running(7, told)]);
    }
}
