// SPDX-License-Identifier: Apache-2.0
//! What is being made ready, once for all who want it.
//!
//! The first who wants a component makes it, and whoever comes before it is there joins that flight.
//! A flight that nobody waits for any more can be given up before it has cost anything.
//! Invariant: what a call or a task joins is waited for from then on, whoever began it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use fanfold_protocol::{Problem, digest::Digest};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

use crate::compile::{Seat, Urgency, Wanted};

/// A component, and the bucket that it is fetched from: one tenant may lack what another has.
pub(crate) type Route = (Digest, String);
/// What comes of it, for each of those who wait.
pub(crate) type Landing<T> = Shared<BoxFuture<'static, Result<T, Problem>>>;

/// Those that are under way.
pub(crate) struct Flights<T>(Mutex<HashMap<Route, (Landing<T>, Wanted)>>);

impl<T: Clone> Flights<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Joins the flight of a component, which `take_off` begins where there is none, for as long as the seat is kept.
    pub(crate) fn join(
        &self,
        route: Route,
        urgency: Urgency,
        take_off: impl FnOnce(Wanted) -> BoxFuture<'static, Result<T, Problem>>,
    ) -> (Landing<T>, Seat) {
        let mut flights = self.flights();
        let (landing, wanted) = flights.entry(route).or_insert_with(|| {
            let wanted = Wanted::default();
            (take_off(wanted.clone()).shared(), wanted)
        });
        wanted.note(urgency);
        // While nobody else can look whether it is left.
        (landing.clone(), Seat::new(wanted))
    }

    /// A flight under way, which ends when this is dropped: what it makes is there, or making it
    /// failed or panicked, and the next who wants it begins anew.
    pub(crate) fn under_way<'a>(&'a self, route: &'a Route, wanted: &'a Wanted) -> UnderWay<'a, T> {
        UnderWay { flights: self, route, wanted }
    }

    /// Ends the flight where nobody waits for it any more; false where somebody does.
    pub(crate) fn give_up(&self, route: &Route, wanted: &Wanted) -> bool {
        let mut flights = self.flights();
        let is_left = wanted.is_left();
        if is_left {
            remove(&mut flights, route, wanted);
        }
        is_left
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Route, (Landing<T>, Wanted)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a flight when dropped.
pub(crate) struct UnderWay<'a, T: Clone> {
    flights: &'a Flights<T>,
    route: &'a Route,
    wanted: &'a Wanted,
}

impl<T: Clone> Drop for UnderWay<'_, T> {
    fn drop(&mut self) {
        remove(&mut self.flights.flights(), self.route, self.wanted);
    }
}

/// Removes a flight; one that was begun after it was given up stays.
fn remove<T>(flights: &mut HashMap<Route, (Landing<T>, Wanted)>, route: &Route, wanted: &Wanted) {
    if flights.get(route).is_some_and(|(_, under_way)| under_way.is(wanted)) {
        flights.remove(route);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::OnceLock,
    };

    use super::*;

    /// A flight that lands at once.
    fn begin(wanted: Wanted, seen: &OnceLock<Wanted>) -> BoxFuture<'static, Result<u32, Problem>> {
        assert!(seen.set(wanted).is_ok(), "it is begun once");
        async { Ok(7) }.boxed()
    }

    #[test]
    fn whoever_waits_makes_a_flight_urgent_and_nobody_makes_it_less() {
        let flights = Flights::new();
        let route = |bucket: &str| (Digest::of(b"x"), bucket.to_owned());
        let (ours, theirs) = (OnceLock::new(), OnceLock::new());
        let is_urgent = |seen: &OnceLock<Wanted>| seen.get().expect("a flight").is_waited_for();
        drop(flights.join(route("ours"), Urgency::Ahead, |wanted| begin(wanted, &ours)));
        drop(flights.join(route("theirs"), Urgency::Ahead, |wanted| begin(wanted, &theirs)));
        assert!(!is_urgent(&ours) && !is_urgent(&theirs));
        for urgency in [Urgency::Waited, Urgency::Ahead] {
            let (joined, _seat) = flights.join(route("ours"), urgency, |wanted| begin(wanted, &ours));
            assert_eq!(joined.now_or_never(), Some(Ok(7)));
            assert!(is_urgent(&ours) && !is_urgent(&theirs), "{urgency:?}");
        }
        // Of the next one nothing is known.
        drop(flights.under_way(&route("ours"), ours.get().expect("a flight")));
        let next = OnceLock::new();
        drop(flights.join(route("ours"), Urgency::Ahead, |wanted| begin(wanted, &next)));
        assert!(!is_urgent(&next));
    }

    #[test]
    fn a_flight_is_given_up_with_the_last_who_waits_and_not_before() {
        let flights = Flights::new();
        let route = (Digest::of(b"x"), "ours".to_owned());
        let (first, next) = (OnceLock::new(), OnceLock::new());
        let join = |seen| flights.join(route.clone(), Urgency::Waited, |wanted| begin(wanted, seen)).1;
        let (one, other) = (join(&first), join(&first));
        let wanted = first.get().expect("a flight");
        drop(one);
        assert!(!flights.give_up(&route, wanted) && wanted.left().now_or_never().is_none());
        drop(other);
        assert!(wanted.left().now_or_never().is_some() && flights.give_up(&route, wanted));
        // Whoever comes then begins another one, which does not end with the first.
        let _seat = join(&next);
        drop(flights.under_way(&route, wanted));
        drop(join(&next));
    }

    #[test]
    fn a_flight_ends_also_where_it_panics() {
        let flights = Flights::new();
        let route = (Digest::of(b"x"), "ours".to_owned());
        let (first, next) = (OnceLock::new(), OnceLock::new());
        let join = |seen| flights.join(route.clone(), Urgency::Waited, |wanted| begin(wanted, seen)).1;
        let _seat = join(&first);
        let wanted = first.get().expect("a flight");
        let making = AssertUnwindSafe(|| {
            let _under_way = flights.under_way(&route, wanted);
            assert!(wanted.is_left(), "a panic, to be caught by the test");
        });
        assert!(catch_unwind(making).is_err());
        drop(join(&next));
        assert!(next.get().is_some(), "it joined what had ended");
    }
}
