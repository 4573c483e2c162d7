// SPDX-License-Identifier: Apache-2.0
//! Admission: how many invocations run at once.
//!
//! Each function has its places, and all functions of the tenant share the
//! tenant's. Who finds none free may wait for a moment, in a room no larger than
//! there are places, so that a short burst is smoothed; everybody else is
//! refused at once. A place is given back when its guard is dropped.
//!
//! Where there are several gateways, each holds back the others' parts of the
//! places: it takes them itself, as soon as they are free. Of its own part, half
//! stays for calls that somebody waits for, unless it is a single place. A part is
//! one place at least, so that no gateway refuses all calls: a limit below the
//! number of gateways is exceeded, which is told.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfold_protocol::{ErrorKind, Problem, names::FunctionName};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

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
    /// What others take from.
    further: RwLock<Vec<Arc<Places>>>,
    /// Among which places are divided.
    gateways: AtomicUsize,
    /// Told when the tenant's places were divided anew.
    divided: Notify,
}

struct Gate {
    places: Places,
    /// Of these, as many as may be taken by what nobody waits for.
    background: Places,
    waiting: AtomicUsize,
}

/// Places that are divided among gateways.
struct Places {
    /// Of all gateways together.
    most: usize,
    free: Arc<Semaphore>,
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
                tenant: Arc::new(Gate::among(tenant_places, 1)),
                functions: RwLock::default(),
                function_places,
                further: RwLock::default(),
                gateways: AtomicUsize::new(1),
                divided: Notify::new(),
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
        for (limit, most) in self.exceeded(gateways) {
            tracing::warn!(
                gateways,
                most,
                "expected {limit} to be no less than there are gateways, found it less: each admits one call, and \
                 all of them more than {limit}; raise it or run fewer gateways"
            );
        }
        let functions = self.inner.functions.read().unwrap_or_else(PoisonError::into_inner);
        for gate in functions.values().chain([&self.inner.tenant]) {
            let (gate, inner) = (Arc::clone(gate), Arc::clone(&self.inner));
            tokio::spawn(async move {
                tokio::join!(gate.places.divide(&inner.gateways), gate.background.divide(&inner.gateways));
                if Arc::ptr_eq(&gate, &inner.tenant) {
                    inner.divided.notify_one();
                }
            });
        }
        for places in self.inner.further.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let (places, inner) = (Arc::clone(places), Arc::clone(&self.inner));
            tokio::spawn(async move { places.divide(&inner.gateways).await });
        }
    }

    /// The limits that so many gateways do not keep to, since each has one place at least.
    fn exceeded(&self, gateways: usize) -> impl Iterator<Item = (&'static str, usize)> {
        let limits = [
            ("function_concurrency", self.inner.function_places),
            ("tenant_concurrency", self.inner.tenant.places.most),
        ];
        limits.into_iter().filter(move |(_, most)| gateways > *most)
    }

    /// Waits until the tenant's places were divided anew, so that there may be more of them. For
    /// one who waits.
    pub(crate) async fn redivided(&self) {
        self.inner.divided.notified().await;
    }

    /// Of the tenant's places, those for calls that nobody waits for.
    pub(crate) fn background(&self) -> Arc<Semaphore> {
        Arc::clone(&self.inner.tenant.background.free)
    }

    /// How many those are of all gateways together.
    pub(crate) fn background_most(&self) -> usize {
        self.inner.tenant.background.most
    }

    /// Places beside those of functions and tenant, divided as these are.
    pub(crate) fn divided(&self, places: usize) -> Arc<Semaphore> {
        let mut further = self.inner.further.write().unwrap_or_else(PoisonError::into_inner);
        let places = Arc::new(Places::among(places, self.inner.gateways.load(Ordering::Relaxed)));
        let free = Arc::clone(&places.free);
        further.push(places);
        free
    }

    /// A place for a call of this function. Dropping the future gives up waiting.
    ///
    /// # Errors
    /// `concurrency-limit`.
    pub async fn admit(&self, function: &FunctionName) -> Result<Place, Problem> {
        self.admit_through(&self.gate(function), function).await
    }

    async fn admit_through(&self, gate: &Gate, function: &FunctionName) -> Result<Place, Problem> {
        let own = gate.enter().await.ok_or_else(|| {
            refused(&format!("{function} runs at most {} invocations at once", self.part(gate)))
        })?;
        let shared = self.inner.tenant.enter().await.ok_or_else(|| {
            refused(&format!(
                "all functions together run at most {} invocations at once",
                self.part(&self.inner.tenant)
            ))
        })?;
        Ok(Place { _function: own, _tenant: shared, _background: None })
    }

    /// A place for a call that nobody waits for. At most half of this gateway's part of
    /// a function's places go to these, so that who waits for an answer finds the rest.
    ///
    /// # Errors
    /// `concurrency-limit`.
    pub async fn admit_background(&self, function: &FunctionName) -> Result<Place, Problem> {
        let gate = self.gate(function);
        let background = Arc::clone(&gate.background.free).try_acquire_owned().map_err(|_| {
            refused(&format!("{function} runs asynchronous calls in at most half of its places"))
        })?;
        Ok(Place { _background: Some(background), ..self.admit_through(&gate, function).await? })
    }

    fn part(&self, gate: &Gate) -> String {
        let places = &gate.places;
        match self.inner.gateways.load(Ordering::Relaxed) {
            1 => places.most.to_string(),
            gateways => format!("{} (this gateway's part of {})", places.part(gateways), places.most),
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
            let idle = |gate: &Gate| gate.places.free.available_permits() == gate.places.part(gateways);
            functions.retain(|_, gate| Arc::strong_count(gate) > 1 || !idle(gate));
        }
        let gate = functions.entry(function.clone());
        Arc::clone(gate.or_insert_with(|| Arc::new(Gate::among(self.inner.function_places, gateways))))
    }
}

impl Gate {
    fn among(places: usize, gateways: usize) -> Self {
        // A part of the half is half of the part.
        let background = Places::among((places / 2).max(1), gateways);
        Self { places: Places::among(places, gateways), background, waiting: AtomicUsize::new(0) }
    }

    async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        let free = &self.places.free;
        if let Ok(permit) = Arc::clone(free).try_acquire_owned() {
            return Some(permit);
        }
        let _waiter = Waiter::new(&self.waiting, self.places.most)?;
        tokio::time::timeout(WAIT_MAX, Arc::clone(free).acquire_owned()).await.ok()?.ok()
    }
}

impl Places {
    /// New places, of which the other gateways' are taken.
    fn among(most: usize, gateways: usize) -> Self {
        let free = Arc::new(Semaphore::new(most));
        let mut places = Self { most, free, others: tokio::sync::Mutex::default() };
        let others = permits(most - places.part(gateways));
        // All of them are free.
        *places.others.get_mut() = Arc::clone(&places.free).try_acquire_many_owned(others).ok();
        places
    }

    /// Of the places, this gateway's.
    fn part(&self, gateways: usize) -> usize {
        (self.most / gateways).max(1)
    }

    /// Holds back the parts of others, until these are those of `gateways`.
    async fn divide(&self, gateways: &AtomicUsize) {
        let mut others = self.others.lock().await;
        loop {
            let wanted = self.most - self.part(gateways.load(Ordering::Relaxed));
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

    /// How many calls that nobody waits for find a place, and how many others beside them.
    async fn admitted(admission: &Admission, function: &FunctionName) -> (usize, usize) {
        let (mut background, mut others) = (Vec::new(), Vec::new());
        while let Ok(place) = admission.admit_background(function).await {
            background.push(place);
        }
        while let Ok(place) = admission.admit(function).await {
            others.push(place);
        }
        (background.len(), others.len())
    }

    #[tokio::test]
    async fn half_of_each_gateways_part_is_for_who_waits() {
        let admission = Admission::new(12, 100);
        let (known, fresh): (FunctionName, FunctionName) = ("f".parse().unwrap(), "g".parse().unwrap());
        let (half, further) = (admission.background(), admission.divided(30));
        assert_eq!(admitted(&admission, &known).await, (6, 6));
        let cases = [
            (2, (3, 3), 25, 15),
            (3, (2, 2), 16, 10),
            (5, (1, 1), 10, 6),
            (12, (1, 0), 4, 2),
            (1, (6, 6), 50, 30),
        ];
        for (gateways, expected, of_tenant, of_further) in cases {
            admission.divide(gateways);
            let begun = std::time::Instant::now();
            loop {
                let found = (admitted(&admission, &known).await, half.available_permits());
                if found == (expected, of_tenant) && further.available_permits() == of_further {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(10), "{gateways} gateways: {found:?}");
                tokio::task::yield_now().await;
            }
            // What is made later is divided from the first.
            assert_eq!(admission.divided(30).available_permits(), of_further);
        }
        admission.divide(2);
        assert_eq!(admitted(&admission, &fresh).await, (3, 3));
    }

    #[tokio::test]
    async fn every_gateway_has_a_place_and_limits_that_this_exceeds_are_known() {
        let admission = Admission::new(2, 4);
        let exceeded = |gateways| admission.exceeded(gateways).collect::<Vec<_>>();
        assert!(exceeded(2).is_empty());
        assert_eq!(exceeded(4), [("function_concurrency", 2)]);
        assert_eq!(exceeded(5), [("function_concurrency", 2), ("tenant_concurrency", 4)]);
        admission.divide(5);
        let f: FunctionName = "f".parse().unwrap();
        let begun = std::time::Instant::now();
        loop {
            let (held, more) = (admission.admit(&f).await, admission.admit(&f).await);
            if held.is_ok() && more.is_err() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{}", more.is_ok());
            drop((held, more));
            tokio::task::yield_now().await;
        }
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
