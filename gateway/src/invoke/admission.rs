// SPDX-License-Identifier: Apache-2.0
//! Admission: how many invocations run at once.
//!
//! Each function has its places, and all functions of the tenant share the
//! tenant's. Who finds none free may wait for a moment, in a room no larger than
//! there are places, so that a short burst is smoothed; everybody else is
//! refused at once. A place is given back when its guard is dropped.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfold_protocol::{ErrorKind, Problem, names::FunctionName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest wait for a place.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Functions whose places are remembered while nobody holds any.
const IDLE_FUNCTIONS_MAX: usize = 4_096;

/// The places of a gateway; clones share them.
#[derive(Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

struct Inner {
    tenant: Gate,
    functions: RwLock<HashMap<FunctionName, Arc<Gate>>>,
    function_places: usize,
}

struct Gate {
    places: usize,
    free: Arc<Semaphore>,
    /// Of these, as many as may be taken by what nobody waits for.
    background: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place; an invocation runs while it is held.
pub struct Place {
    _function: OwnedSemaphorePermit,
    _tenant: OwnedSemaphorePermit,
    _background: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// So many places for each function, and for all of them together.
    pub fn new(function_places: usize, tenant_places: usize) -> Self {
        let functions = RwLock::default();
        Self { inner: Arc::new(Inner { tenant: Gate::new(tenant_places), functions, function_places }) }
    }

    /// A place for a call of this function. Dropping the future gives up waiting.
    ///
    /// # Errors
    /// `concurrency-limit`.
    pub async fn admit(&self, function: &FunctionName) -> Result<Place, Problem> {
        let gate = self.gate(function);
        let own = gate.enter().await.ok_or_else(|| {
            refused(&format!("{function} runs at most {} invocations at once", gate.places))
        })?;
        let shared = self.inner.tenant.enter().await.ok_or_else(|| {
            refused(&format!(
                "all functions together run at most {} invocations at once",
                self.inner.tenant.places
            ))
        })?;
        Ok(Place { _function: own, _tenant: shared, _background: None })
    }

    /// A place for a call that nobody waits for. At most half of a function's
    /// places go to these, so that who waits for an answer finds the other half.
    ///
    /// # Errors
    /// `concurrency-limit`.
    pub async fn admit_background(&self, function: &FunctionName) -> Result<Place, Problem> {
        let background = Arc::clone(&self.gate(function).background).try_acquire_owned().map_err(|_| {
            refused(&format!("{function} runs asynchronous calls in at most half of its places"))
        })?;
        Ok(Place { _background: Some(background), ..self.admit(function).await? })
    }

    fn gate(&self, function: &FunctionName) -> Arc<Gate> {
        let functions = &self.inner.functions;
        if let Some(gate) = functions.read().unwrap_or_else(PoisonError::into_inner).get(function) {
            return Arc::clone(gate);
        }
        let mut functions = functions.write().unwrap_or_else(PoisonError::into_inner);
        if functions.len() >= IDLE_FUNCTIONS_MAX {
            functions
                .retain(|_, gate| Arc::strong_count(gate) > 1 || gate.free.available_permits() < gate.places);
        }
        let gate = functions.entry(function.clone());
        Arc::clone(gate.or_insert_with(|| Arc::new(Gate::new(self.inner.function_places))))
    }
}

impl Gate {
    fn new(places: usize) -> Self {
        let background = Arc::new(Semaphore::new((places / 2).max(1)));
        Self { places, free: Arc::new(Semaphore::new(places)), background, waiting: AtomicUsize::new(0) }
    }

    async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(permit);
        }
        let _waiter = Waiter::new(&self.waiting, self.places)?;
        tokio::time::timeout(WAIT_MAX, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()
    }
}

/// Counts a call as waiting while it lives.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn new(waiting: &'a AtomicUsize, seats: usize) -> Option<Self> {
        let found = waiting.fetch_add(1, Ordering::Relaxed);
        let waiter = Self(waiting);
        (found < seats).then_some(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refused(rule: &str) -> Problem {
    Problem::new(
        ErrorKind::ConcurrencyLimit,
        format!("{rule}, found all places taken; try again in a moment, or ask the operator for more"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_bounded_and_given_back() {
        let admission = Admission::new(2, 3);
        let (f, g): (FunctionName, FunctionName) = ("f".parse().unwrap(), "g".parse().unwrap());
        let first = admission.admit(&f).await.unwrap();
        let _second = admission.admit(&f).await.unwrap();
        let problem = admission.admit(&f).await.err().unwrap();
        assert_eq!(problem.code, ErrorKind::ConcurrencyLimit);
        let _other = admission.admit(&g).await.unwrap();
        assert!(admission.admit(&g).await.err().unwrap().detail.contains("all functions together"));
        drop(first);
        assert!(admission.admit(&f).await.is_ok());
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_finds_half_of_the_places() {
        let admission = Admission::new(4, 10);
        let f: FunctionName = "f".parse().unwrap();
        let background = [admission.admit_background(&f).await, admission.admit_background(&f).await];
        assert!(background.iter().all(Result::is_ok));
        assert!(admission.admit_background(&f).await.is_err());
        let _held = [admission.admit(&f).await.unwrap(), admission.admit(&f).await.unwrap()];
        drop(background);
        assert!(admission.admit_background(&f).await.is_ok());
    }

    #[tokio::test]
    async fn a_short_burst_waits_and_a_long_one_is_refused_at_once() {
        let admission = Admission::new(1, 10);
        let f: FunctionName = "f".parse().unwrap();
        let held = admission.admit(&f).await.unwrap();
        let waiting = tokio::spawn({
            let (admission, f) = (admission.clone(), f.clone());
            async move { admission.admit(&f).await.is_ok() }
        });
        tokio::task::yield_now().await;
        let begun = tokio::time::Instant::now();
        assert!(admission.admit(&f).await.is_err());
        assert!(begun.elapsed() < WAIT_MAX / 2);
        drop(held);
        assert!(waiting.await.unwrap());
    }
}
