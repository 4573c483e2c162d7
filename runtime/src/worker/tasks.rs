// SPDX-License-Identifier: Apache-2.0
//! The tasks of one lease, on one thread.
//!
//! One after the other, or several at once while they mostly wait, see [`Abreast`]. Invariant: they
//! begin in order, but for one that found no room beside others; each is told of as it ends; once one
//! has failed or the attempt is stopped none begins, and all that have begun end.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use fanfold_protocol::{limits, plan::Lease};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::task::Abreast;

/// Tasks of one lease that run at once.
const WIDTH_MAX: usize = 4;
/// One part in so many of the sandboxes may be theirs, or two where each has one beside.
const SHARE: usize = 4;

/// How many tasks ran at once when the last lease ended, for the next one of its stage.
#[derive(Debug)]
pub(crate) struct Last {
    width: Mutex<((Uuid, u32), usize)>,
    most: usize,
}

impl Last {
    /// Of a worker that runs so many leases at once, all of which leave sandboxes to calls.
    pub(super) fn new(running_max: usize) -> Self {
        let most = WIDTH_MAX.min(limits::SANDBOXES_MAX / running_max.saturating_mul(SHARE).max(1));
        Self { width: Mutex::new(((Uuid::nil(), 0), 1)), most }
    }

    /// How an attempt begins. One that may not be the first has one task at a time to its end: what went
    /// wrong before may be others' doing, and is to be the task's own now.
    pub(super) fn begin(&self, lease: &Lease, is_repeated: bool) -> Abreast {
        if is_repeated || lease.round > 0 {
            return Abreast::new(1, 1);
        }
        let (stage, width) = *self.width.lock().unwrap_or_else(PoisonError::into_inner);
        Abreast::new(if stage == (lease.job, lease.stage) { width } else { 1 }, self.most)
    }

    /// Notes how it ended.
    pub(super) fn note(&self, lease: &Lease, abreast: &Abreast) {
        *self.width.lock().unwrap_or_else(PoisonError::into_inner) =
            ((lease.job, lease.stage), abreast.width());
    }
}

/// Runs `task` over all of these and hands what each gave to `told`. A task that runs beside others
/// is told so, and answers nothing when it finds no room there: it runs again once it is alone.
///
/// # Errors
/// What the first of them failed with, which stops the others.
pub(super) async fn run<'a, I, T, E, F>(
    all: &'a [I],
    abreast: &Abreast,
    stop: &CancellationToken,
    task: impl Fn(&'a I, bool) -> F,
    mut told: impl FnMut(&'a I, T),
) -> Result<(), E>
where
    F: Future<Output = Result<Option<T>, E>>,
{
    let (mut left, mut running, mut failed) = (VecDeque::from_iter(all), FuturesUnordered::new(), None);
    loop {
        while failed.is_none() && !stop.is_cancelled() {
            let at_once = abreast.width().min(running.len() + left.len());
            if running.len() >= at_once {
                break;
            }
            let Some(one) = left.pop_front() else { break };
            let ending = task(one, at_once > 1);
            running.push(async move { (one, ending.await) });
        }
        match running.next().await {
            Some((one, Ok(Some(given)))) => told(one, given),
            Some((one, Ok(None))) => {
                abreast.narrow();
                left.push_front(one);
            }
            Some((_, Err(error))) => {
                stop.cancel();
                failed = failed.or(Some(error));
            }
            None => return failed.map_or(Ok(()), Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        time::Duration,
    };

    use tokio::time::sleep;

    use super::*;

    const ANSWER: Duration = Duration::from_millis(20);

    /// What came of tasks 0 to 8: how it ended, which were told of, and how many ran at once at most.
    type Ran = (Result<(), usize>, Vec<usize>, usize);

    /// Runs tasks that wait, the earlier ones longer; `each` is told of those that run beside others, and how many ran.
    async fn ran(
        abreast: &Abreast,
        stop: &CancellationToken,
        each: impl Fn(usize, bool) -> Result<Option<Duration>, usize>,
    ) -> Ran {
        let (now, most, told) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        let all: Vec<usize> = (0..9).collect();
        let (now, most, each) = (&now, &most, &each);
        let task = |one: &usize, beside: bool| {
            let one = *one;
            async move {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                tokio::select! {
                    () = sleep(ANSWER * (9 - one) as u32) => {}
                    () = stop.cancelled() => {}
                }
                now.set(now.get() - 1);
                let busy = each(one, beside)?;
                Ok(busy.map(|busy| {
                    abreast.saw(busy, ANSWER);
                    one
                }))
            }
        };
        let ended = run(&all, abreast, stop, task, |one, given| {
            assert_eq!(*one, given);
            told.borrow_mut().push(given);
        });
        (ended.await, told.take(), most.get())
    }

    fn sorted(mut told: Vec<usize>) -> Vec<usize> {
        told.sort_unstable();
        told
    }

    #[tokio::test]
    async fn tasks_that_mostly_wait_do_so_together_and_are_told_of_as_they_end() {
        let waits = |_, _| Ok(Some(Duration::ZERO));
        let (ended, told, most) = ran(&Abreast::new(1, 4), &CancellationToken::new(), waits).await;
        assert_eq!((ended, most), (Ok(()), 4));
        assert_eq!(told[..2], [0, 4], "the quickest of four");
        assert_eq!(sorted(told), Vec::from_iter(0..9));
    }

    #[tokio::test]
    async fn a_task_that_works_has_those_after_it_wait_for_each_other() {
        let beside = RefCell::new(Vec::new());
        let works = |one, together| {
            beside.borrow_mut().push((one, together));
            Ok(Some(if one == 3 { ANSWER } else { Duration::ZERO }))
        };
        let (ended, told, most) = ran(&Abreast::new(1, 4), &CancellationToken::new(), works).await;
        assert_eq!((ended, most), (Ok(()), 4));
        let alone: Vec<usize> =
            beside.take().into_iter().filter(|(_, together)| !together).map(|(one, _)| one).collect();
        assert_eq!(alone[0], 0, "nothing is known at first");
        assert!(alone.ends_with(&[7, 8]), "{alone:?}");
        assert_eq!(sorted(told), Vec::from_iter(0..9));
    }

    #[tokio::test]
    async fn a_task_without_room_beside_others_runs_again_alone() {
        let crowded = Cell::new(0);
        let finds = |one, beside| {
            if one == 2 && beside {
                crowded.set(crowded.get() + 1);
                return Ok(None);
            }
            Ok(Some(Duration::ZERO))
        };
        let abreast = Abreast::new(4, 4);
        let (ended, told, _) = ran(&abreast, &CancellationToken::new(), finds).await;
        assert_eq!((ended, crowded.get(), abreast.width()), (Ok(()), 1, 1));
        assert_eq!(sorted(told), Vec::from_iter(0..9));
    }

    #[tokio::test]
    async fn a_failure_stops_those_beside_it_and_none_begins() {
        let stop = CancellationToken::new();
        let fails = |one, _| if one == 2 { Err(one) } else { Ok(Some(Duration::ZERO)) };
        let (ended, told, _) = ran(&Abreast::new(4, 4), &stop, fails).await;
        assert!(stop.is_cancelled());
        // The fourth answers first, so that a fifth begins, then the third fails.
        assert_eq!((ended, sorted(told)), (Err(2), vec![0, 1, 3, 4]));
    }

    #[tokio::test]
    async fn nothing_begins_that_is_not_wanted_any_more() {
        let stop = CancellationToken::new();
        let each = |one, _| {
            if one == 3 {
                stop.cancel();
            }
            Ok(Some(Duration::ZERO))
        };
        let (ended, told, _) = ran(&Abreast::new(4, 4), &stop, each).await;
        assert_eq!((ended, sorted(told)), (Ok(()), vec![0, 1, 2, 3]));
    }

    #[tokio::test]
    async fn the_last_task_has_nobody_beside_it() {
        let abreast = Abreast::new(4, 4);
        let alone = Cell::new(None);
        let task = |_: &usize, beside: bool| {
            alone.set(Some(!beside));
            async { Ok::<_, usize>(Some(())) }
        };
        run(&[7], &abreast, &CancellationToken::new(), task, |_, ()| {}).await.unwrap();
        assert_eq!((alone.get(), abreast.width()), (Some(true), 4));
    }

    #[test]
    fn the_next_lease_of_a_stage_begins_as_the_last_one_ended() {
        let lease = |stage, round| -> Lease {
            serde_json::from_value(serde_json::json!({
                "job": Uuid::from_u128(7), "stage": stage, "group": 0, "round": round, "function": "f", "version": 1,
                "common": {
                    "params": "{}", "format": "csv", "csv": {}, "output": "s3://bank/out/", "output_format": "parquet",
                    "timeout_ms": 1_000,
                },
                "tasks": [],
            }))
            .unwrap()
        };
        let last = Last::new(2);
        let width = |stage, round, is_repeated| last.begin(&lease(stage, round), is_repeated).width();
        assert_eq!(width(0, 0, false), 1);
        last.note(&lease(0, 0), &Abreast::new(4, 4));
        assert_eq!((width(0, 0, false), width(1, 0, false)), (4, 1));
        assert_eq!((width(0, 1, false), width(0, 0, true)), (1, 1), "a try again");
        last.note(&lease(0, 0), &Abreast::new(1, 4));
        assert_eq!(width(0, 0, false), 1);
    }

    #[test]
    fn sandboxes_are_left_to_calls() {
        for (running_max, most) in [(1, 4), (16, 4), (32, 2), (64, 1), (1_000, 1)] {
            let last = Last::new(running_max);
            let sandboxes = Abreast::new(WIDTH_MAX, last.most).width() * running_max;
            assert_eq!(sandboxes, most * running_max, "{running_max}");
        }
    }
}
