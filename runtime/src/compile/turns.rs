// SPDX-License-Identifier: Apache-2.0
//! Turns to compile: first what a call or a task waits for, and of that each tenant's in turn.
//!
//! Whoever finds no turn free stands in line, and who is next is asked when one becomes free: what
//! somebody has begun to wait for meanwhile goes before what nobody waits for, but not for ever. Of both, it is the
//! turn of the tenant that had its last one the longest ago, so that who has much compiled holds up nobody else; a
//! tenant's own come as they came. Invariant: while a turn is free, nobody is in line.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::{oneshot, watch};

/// How often in a row what nobody waits for is passed over.
const PASSED_OVER_MAX: usize = 4;

/// Whether anybody waits for a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A call or a task does.
    Waited,
    /// It is made ready for those to come.
    Ahead,
}

/// Who wants what is compiled; clones tell the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted(Arc<Want>);

#[derive(Debug, Default)]
struct Want {
    /// Whether a call or a task has come for it.
    is_waited_for: AtomicBool,
    /// How many are there for it.
    here: watch::Sender<usize>,
}

impl Wanted {
    /// Notes what one more wants it for.
    pub(crate) fn note(&self, urgency: Urgency) {
        if urgency == Urgency::Waited {
            self.0.is_waited_for.store(true, Relaxed);
        }
    }

    /// Whether a call or a task waits for it.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.0.is_waited_for.load(Relaxed)
    }

    /// Whether nobody is there for it any more.
    pub(crate) fn is_left(&self) -> bool {
        *self.0.here.borrow() == 0
    }

    /// Waits until that is so.
    pub(crate) async fn left(&self) {
        // Its other end is here.
        let _ = self.0.here.subscribe().wait_for(|here| *here == 0).await;
    }

    /// Whether both tell of the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// One who is there for what is compiled.
#[derive(Debug)]
pub(crate) struct Seat(Wanted);

impl Seat {
    pub(crate) fn new(wanted: &Wanted) -> Self {
        wanted.0.here.send_modify(|here| *here += 1);
        Self(wanted.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.here.send_modify(|here| *here -= 1);
    }
}

/// So many turns at once.
pub(super) struct Turns(Mutex<Line>);

struct Line {
    free: usize,
    /// As they came.
    waiting: VecDeque<Place>,
    /// How often what nobody waits for was passed over.
    passed_over: usize,
    /// Turns given so far, and the last of them of each tenant.
    given: u64,
    last: BTreeMap<String, u64>,
}

struct Place {
    tenant: String,
    wanted: Wanted,
    teller: oneshot::Sender<Turn>,
}

impl Turns {
    pub(super) const fn new(free: usize) -> Self {
        Self(Mutex::new(Line {
            free,
            waiting: VecDeque::new(),
            passed_over: 0,
            given: 0,
            last: BTreeMap::new(),
        }))
    }

    /// Waits for a tenant's turn, which comes to everyone.
    pub(super) async fn take(&'static self, tenant: &str, wanted: Wanted) -> Option<Turn> {
        match self.find(tenant, wanted) {
            Ok(turn) => Some(turn),
            Err(told) => told.await.ok(),
        }
    }

    /// A turn that is free, or a place in line.
    fn find(&'static self, tenant: &str, wanted: Wanted) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut line = self.line();
        if line.free > 0 {
            line.free -= 1;
            line.note(tenant.to_owned());
            return Ok(Turn(self));
        }
        let (teller, told) = oneshot::channel();
        line.waiting.push_back(Place { tenant: tenant.to_owned(), wanted, teller });
        Err(told)
    }

    /// Gives a turn to who is next.
    fn pass_on(&'static self) {
        let mut line = self.line();
        let Some(Place { tenant, teller, .. }) = line.next() else {
            line.free += 1;
            return;
        };
        line.note(tenant);
        drop(line);
        // Who has gone away meanwhile drops it, and so passes it on.
        drop(teller.send(Turn(self)));
    }

    /// Whether what a call or a task waits for is in line.
    pub(super) fn is_pressed(&self) -> bool {
        self.line().waiting.iter().any(|place| place.wanted.is_waited_for() && !place.teller.is_closed())
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Notes that a tenant has a turn.
    fn note(&mut self, tenant: String) {
        self.given += 1;
        self.last.insert(tenant, self.given);
    }

    /// Takes who is next out of the line, and all who have gone away.
    fn next(&mut self) -> Option<Place> {
        self.waiting.retain(|place| !place.teller.is_closed());
        let first = |is_urgent: bool| {
            let those = self.waiting.iter().enumerate();
            let those = those.filter(|(_, place)| place.wanted.is_waited_for() == is_urgent);
            let last = |tenant: &String| self.last.get(tenant).copied().unwrap_or_default();
            those.min_by_key(|(at, place)| (last(&place.tenant), *at)).map(|(at, _)| at)
        };
        // In this order: what becomes urgent in between is among both, and not among none.
        let ahead = first(false);
        let urgent = first(true);
        let is_urgents = urgent.is_some() && (ahead.is_none() || self.passed_over < PASSED_OVER_MAX);
        self.passed_over = if is_urgents && ahead.is_some() { self.passed_over + 1 } else { 0 };
        let next = if is_urgents { urgent } else { ahead };
        self.waiting.remove(next?)
    }
}

/// A turn, which is passed on when dropped.
pub(crate) struct Turn(&'static Turns);

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
        turns.take("other", wanted(Urgency::Ahead)).now_or_never().flatten().expect("a free turn")
    }

    /// A place in line.
    fn stand(turns: &'static Turns, wanted: &Wanted) -> Taking {
        stand_of("tenant", turns, wanted)
    }

    fn stand_of(tenant: &'static str, turns: &'static Turns, wanted: &Wanted) -> Taking {
        let mut taking = turns.take(tenant, wanted.clone()).boxed();
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

    /// `a` has four in line before the others come.
    #[test]
    fn each_tenant_has_its_turn_whoever_has_more_in_line() {
        static TURNS: Turns = Turns::new(1);
        let (waited, ahead) = (wanted(Urgency::Waited), wanted(Urgency::Ahead));
        let held = free(&TURNS);
        let line = ["a1", "a2", "a3", "a4", "b1", "c1", "b2"];
        let place = |name: &'static str| (name, stand_of(&name[..1], &TURNS, &waited));
        assert_eq!(order(held, line.map(place).into()), "a1b1c1a2b2a3a4");
        // Of what nobody waits for as well. `c` had its last turn before `b`, and that before `a`.
        let held = free(&TURNS);
        let place = |name: &'static str| (name, stand_of(&name[..1], &TURNS, &ahead));
        assert_eq!(order(held, ["a1", "a2", "b1", "c1"].map(place).into()), "c1b1a1a2");
    }

    #[test]
    fn who_has_gone_away_is_not_in_line() {
        static TURNS: Turns = Turns::new(1);
        let (waited, ahead) = (wanted(Urgency::Waited), wanted(Urgency::Ahead));
        let held = free(&TURNS);
        let line = ["x", "y", "z"].map(|name| (name, stand(&TURNS, &ahead)));
        // They would have gone before, and count for nothing any more.
        let gone: Vec<Taking> = (0..9).map(|_| stand(&TURNS, &waited)).collect();
        assert!(TURNS.is_pressed());
        drop(gone);
        assert!(!TURNS.is_pressed());
        assert_eq!(order(held, line.into()), "xyz");
        assert!(TURNS.line().waiting.is_empty());
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
