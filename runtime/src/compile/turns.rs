// SPDX-License-Identifier: Apache-2.0
//! Turns to compile: first what a call or a task waits for.
//!
//! Whoever finds no turn free stands in line, and who is next is asked when one becomes free: what
//! somebody has begun to wait for meanwhile goes before what nobody waits for, but not for ever. Both are
//! served as they came. Invariant: while a turn is free, nobody is in line.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::oneshot;

/// How often in a row the first in line is passed over.
const PASSED_OVER_MAX: usize = 4;

/// Whether anybody waits for a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A call or a task does.
    Waited,
    /// It is made ready for those to come.
    Ahead,
}

/// Whether a call or a task waits for what is compiled; clones tell the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    /// Notes that one more is there for it.
    pub(crate) fn note(&self, urgency: Urgency) {
        if urgency == Urgency::Waited {
            self.0.store(true, Relaxed);
        }
    }

    /// Whether a call or a task waits for it.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// So many turns at once.
pub(super) struct Turns(Mutex<Line>);

struct Line {
    free: usize,
    /// As they came.
    waiting: VecDeque<(Wanted, oneshot::Sender<Turn>)>,
    /// How often the first of them was passed over.
    passed_over: usize,
}

impl Turns {
    pub(super) const fn new(free: usize) -> Self {
        Self(Mutex::new(Line { free, waiting: VecDeque::new(), passed_over: 0 }))
    }

    /// Waits for a turn, which comes to everyone.
    pub(super) async fn take(&'static self, wanted: Wanted) -> Option<Turn> {
        match self.find(wanted) {
            Ok(turn) => Some(turn),
            Err(told) => told.await.ok(),
        }
    }

    /// A turn that is free, or a place in line.
    fn find(&'static self, wanted: Wanted) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut line = self.line();
        if line.free > 0 {
            line.free -= 1;
            return Ok(Turn(self));
        }
        let (teller, told) = oneshot::channel();
        line.waiting.push_back((wanted, teller));
        Err(told)
    }

    /// Gives a turn to who is next.
    fn pass_on(&'static self) {
        let mut line = self.line();
        let urgent = line.waiting.iter().position(|(wanted, _)| wanted.is_waited_for());
        let next = urgent.filter(|_| line.passed_over < PASSED_OVER_MAX).unwrap_or(0);
        line.passed_over = if next == 0 { 0 } else { line.passed_over + 1 };
        let Some((_, teller)) = line.waiting.remove(next) else {
            line.free += 1;
            return;
        };
        drop(line);
        // Who has gone away drops it, and so passes it on.
        drop(teller.send(Turn(self)));
    }

    /// Whether what a call or a task waits for is in line.
    pub(super) fn is_pressed(&self) -> bool {
        self.line().waiting.iter().any(|(wanted, _)| wanted.is_waited_for())
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn, which is passed on when dropped.
pub(super) struct Turn(&'static Turns);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::BoxFuture};

    use super::*;

    type Taking = BoxFuture<'static, Option<Turn>>;

    fn wanted(urgency: Urgency) -> Wanted {
        let wanted = Wanted::default();
        wanted.note(urgency);
        wanted
    }

    fn free(turns: &'static Turns) -> Turn {
        turns.take(wanted(Urgency::Ahead)).now_or_never().flatten().expect("a free turn")
    }

    /// A place in line.
    fn stand(turns: &'static Turns, wanted: &Wanted) -> Taking {
        let mut taking = turns.take(wanted.clone()).boxed();
        assert!((&mut taking).now_or_never().is_none(), "a turn is free");
        taking
    }

    /// The names of those in line, in the order in which they have the one turn.
    fn order(mut held: Turn, mut line: Vec<(&'static str, Taking)>) -> String {
        let mut order = String::new();
        while !line.is_empty() {
            drop(held);
            let asked = line.iter_mut().enumerate();
            let had = asked.filter_map(|(at, (_, taking))| Some((at, taking.now_or_never()?)));
            let mut had: Vec<_> = had.collect();
            let (at, turn) = had.pop().expect("somebody's turn");
            assert!(had.is_empty(), "there is one turn");
            order.push_str(line.remove(at).0);
            held = turn.expect("a turn");
        }
        order
    }

    #[test]
    fn what_is_waited_for_goes_first_and_the_rest_as_it_came() {
        static TURNS: Turns = Turns::new(1);
        let (ahead, waited) = (wanted(Urgency::Ahead), wanted(Urgency::Waited));
        let held = free(&TURNS);
        let line = [("a", &ahead), ("b", &waited), ("c", &ahead), ("d", &ahead), ("e", &waited)];
        let line = line.map(|(name, wanted)| (name, stand(&TURNS, wanted))).into();
        assert_eq!(order(held, line), "beacd");
        // Nobody is left, so a turn is free for anyone.
        drop(free(&TURNS));
    }

    #[test]
    fn what_nobody_waits_for_has_its_turn_beside_what_is_waited_for() {
        static TURNS: Turns = Turns::new(1);
        let (ahead, waited) = (wanted(Urgency::Ahead), wanted(Urgency::Waited));
        let held = free(&TURNS);
        let line = ["a", "b", "1", "2", "3", "4", "5", "6"];
        let place = |name: &'static str| (name, if name < "a" { &waited } else { &ahead });
        let line = line.map(place).map(|(name, wanted)| (name, stand(&TURNS, wanted))).into();
        assert_eq!(order(held, line), "1234a56b");
    }

    #[test]
    fn what_somebody_begins_to_wait_for_goes_before_the_others() {
        static TURNS: Turns = Turns::new(1);
        let (one, other, waited) = (wanted(Urgency::Ahead), wanted(Urgency::Ahead), wanted(Urgency::Waited));
        let held = free(&TURNS);
        let line = [("a", &one), ("b", &other), ("c", &waited)];
        let line = line.map(|(name, wanted)| (name, stand(&TURNS, wanted))).into();
        other.note(Urgency::Waited);
        // It stays so, whoever else comes for it.
        other.note(Urgency::Ahead);
        assert_eq!(order(held, line), "bca");
    }

    #[test]
    fn no_turn_is_lost_with_who_goes_away() {
        static TURNS: Turns = Turns::new(2);
        let waited = wanted(Urgency::Waited);
        let (one, other) = (free(&TURNS), free(&TURNS));
        let [gone, told, mut last] = [(); 3].map(|()| stand(&TURNS, &waited));
        drop(gone);
        drop(one);
        // It is the second one's by now, which goes away without a look.
        assert!((&mut last).now_or_never().is_none());
        drop(told);
        let last = last.now_or_never().flatten().expect("its turn");
        drop((last, other));
        drop([free(&TURNS), free(&TURNS)]);
    }
}
