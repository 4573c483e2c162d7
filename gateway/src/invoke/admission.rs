// SPDX-License-Identifier: Apache-2.0
//! Admission: how many invocations run at once.
//!
//! Each function has its places, and all functions of the tenant share the
//! tenant's. Who finds none free may wait for a moment, in a room no larger than
//! there are places, so that a short burst is smoothed; everybody else is
//! refused at once. A place is given back when its guard is dropped.
//!
//! Where there are several gateways, each holds back the others' parts of the
//! places: it takes them itself, as soon as they are free.

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

/// Longest wait for a place: who is refused is to know within 10 ms.
const WAIT_MAX: Duration = Duration::from_millis(5);
/// Functions whose places are remembered while nobody holds any.
const IDLE_FUNCTIONS_MAX: usize = 4_096;

/// The places of a gateway; clones share them.
#[derive(Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

struct Inner {
    tenant: Arc<Gate>,
    functions: RwLock<HashMap<FunctionName, Arc<Gate>>>,
    function_places: usize,
    /// Among which places are divided.
    gateways: AtomicUsize,
}

struct Gate {
    places: usize,
    free: Arc<Semaphore>,
    /// Of these, as many as may be taken by what nobody waits for.
    background: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// The parts of other gateways.
    others: tokio::sync::Mutex<Option<OwnedSemaphorePermit>>,
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
        Self {
            inner: Arc::new(Inner {
                tenant: Arc::new(Gate::new(tenant_places)),
                functions: RwLock::default(),
                function_places,
                gateways: AtomicUsize::new(1),
            }),
        }
    }

    /// Divides every limit among so many gateways. What runs goes on: places above
    /// the part are taken back as they become free.
    pub fn divide(&self, gateways: usize) {
        let gateways = gateways.max(1);
        if self.inner.gateways.swap(gateways, Ordering::Relaxed) == gateways {
            return;
        }
        tracing::info!(gateways, "limits on calls are divided");
        let functions = self.inner.functions.read().unwrap_or_else(PoisonError::into_inner);
        for gate in functions.values().chain([&self.inner.tenant]) {
            let (gate, inner) = (Arc::clone(gate), Arc::clone(&self.inner));
            tokio::spawn(async move { gate.divide(&inner.gateways).await });
        }
    }

    /// A place for a call of this function. Dropping the future gives up waiting.
    ///
    /// # Errors
    /// `concurrency-limit`.
    pub async fn admit(&self, function: &FunctionName) -> Result<Place, Problem> {
        let gate = self.gate(function);
        let own = gate.enter().await.ok_or_else(|| {
            refused(&format!("{function} runs at most {} invocations at once", self.part(&gate)))
        })?;
        let shared = self.inner.tenant.enter().await.ok_or_else(|| {
            refused(&format!(
                "all functions together run at most {} invocations at once",
                self.part(&self.inner.tenant)
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

    fn part(&self, gate: &Gate) -> String {
        match self.inner.gateways.load(Ordering::Relaxed) {
            1 => gate.places.to_string(),
            gateways => format!("{} (this gateway's part of {})", gate.part(gateways), gate.places),
        }
    }

    fn gate(&self, function: &FunctionName) -> Arc<Gate> {
        let functions = &self.inner.functions;
        if let Some(gate) = functions.read().unwrap_or_else(PoisonError::into_inner).get(function) {
            return Arc::clone(gate);
        }
        let mut functions = functions.write().unwrap_or_else(PoisonError::into_inner);
        let gateways = self.inner.gateways.load(Ordering::Relaxed);
        if functions.len() >= IDLE_FUNCTIONS_MAX {
            let idle = |gate: &Gate| gate.free.available_permits() == gate.part(gateways);
            functions.retain(|_, gate| Arc::strong_count(gate) > 1 || !idle(gate));
        }
        let gate = functions.entry(function.clone());
        Arc::clone(gate.or_insert_with(|| Arc::new(Gate::among(self.inner.function_places, gateways))))
    }
}

impl Gate {
    fn new(places: usize) -> Self {
        let background = Arc::new(Semaphore::new((places / 2).max(1)));
        let free = Arc::new(Semaphore::new(places));
        Self { places, free, background, waiting: AtomicUsize::new(0), others: tokio::sync::Mutex::default() }
    }

    /// New places, of which the other gateways' are taken.
    fn among(places: usize, gateways: usize) -> Self {
        let mut gate = Self::new(places);
        let others = permits(places - gate.part(gateways));
        // All of them are free.
        *gate.others.get_mut() = Arc::clone(&gate.free).try_acquire_many_owned(others).ok();
        gate
    }

    /// Of the places, this gateway's.
    fn part(&self, gateways: usize) -> usize {
        (self.places / gateways).max(1)
    }

    /// Holds back the parts of others, until these are those of `gateways`.
    async fn divide(&self, gateways: &AtomicUsize) {
        let mut others = self.others.lock().await;
        loop {
            let wanted = self.places - self.part(gateways.load(Ordering::Relaxed));
            let held = others.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            if wanted == held {
                return;
            }
            if wanted < held {
                drop(others.as_mut().and_then(|permit| permit.split(held - wanted)));
                continue;
            }
            // One after the other, so that a change meanwhile is seen.
            let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else { return };
            match others.as_mut() {
                Some(others) => others.merge(permit),
                None => *others = Some(permit),
            }
        }
    }

    async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(permit);
        }
        let _waiter = Waiter::new(&self.waiting, self.places)?;
        tokio::time::timeout(WAIT_MAX, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()
    }
}

fn permits(places: usize) -> u32 {
    u32::try_from(places).unwrap_or(u32::MAX)
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
    use futures::FutureExt;

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
        let refused = admission.admit(&f).now_or_never().expect("no wait");
        assert!(refused.is_err());
        drop(held);
        assert!(waiting.await.unwrap());
    }
}
