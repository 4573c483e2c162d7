// SPDX-License-Identifier: Apache-2.0
//! The workers that there are, and the sending of calls to them.
//!
//! Their records are watched: who lapses or drains gets nothing more, and who
//! comes back is there at once. Retries have a budget, so that a deployment in
//! trouble is not asked twice for everything; each tenant has its own.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use fanfold_backbone::{Backbone, Change, Entry, Event};
use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    function::Descriptions,
    invocation::{Invocation, Outcome, Preparation},
    keys, limits,
    worker::{
        Frame, INVOKE_PATH, Member, PREPARE_PATH, PrepareHead, WIRE_VERSION, decode, decode_outcome, encode,
        encode_call,
    },
};
use futures::StreamExt;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Identity,
    choice::{Choice, prefer},
    counters::{Calls, Counters},
    endpoint::{Endpoint, Needs},
    failure::Failure,
    subjects::Subjects,
};

/// Workers that a call is sent to, one after the other, at most.
const TRIES_MAX: u32 = 3;
/// What a call adds to the budget and a retry takes from it: one retry for five calls.
const DEPOSIT: i64 = 1;
const WITHDRAWAL: i64 = 5;
/// The most that may be saved up, which is also there at the start.
const SAVED_MAX: i64 = 100 * WITHDRAWAL;
/// Workers that this gateway has compile something at once while no call waits for it.
const ASKED_MAX: usize = 8;
/// Workers that are met at once: a gateway that starts finds all of them.
const MET_MAX: usize = 16;

/// The workers of a gateway, as a tenant calls them; clones share all of it.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
    calls: Calls,
    /// Saved up for retries of these calls.
    saved: Arc<AtomicI64>,
}

struct Inner {
    identity: watch::Receiver<Identity>,
    /// By name; what calls choose from is a copy that is made anew with each change.
    known: RwLock<BTreeMap<String, Arc<Endpoint>>>,
    endpoints: RwLock<Arc<[Arc<Endpoint>]>>,
    subjects: Subjects,
    counters: Counters,
    /// Places of workers that compile while no call waits for it.
    asked: Arc<Semaphore>,
    /// Places of workers to which the first connections are made.
    met: Semaphore,
    /// By name, the start of a worker that is refused of which the log was told.
    told: Mutex<HashMap<String, Uuid>>,
    chance: AtomicU64,
}

impl Pool {
    /// Watches the workers until `stop`.
    pub(super) fn start(
        backbone: Backbone,
        identity: watch::Receiver<Identity>,
        stop: CancellationToken,
    ) -> Self {
        let pool = Self::new(identity);
        let watching = pool.clone();
        tokio::spawn(async move { stop.run_until_cancelled(watching.watch(backbone)).await });
        pool
    }

    /// Without any workers yet.
    fn new(identity: watch::Receiver<Identity>) -> Self {
        let mut seed = [0; 8];
        // Without randomness all gateways pick alike at first, which does no harm for long.
        let _ = getrandom::fill(&mut seed);
        let inner = Inner {
            identity,
            known: RwLock::default(),
            endpoints: RwLock::new(Arc::from(Vec::new())),
            subjects: Subjects::default(),
            counters: Counters::default(),
            asked: Arc::new(Semaphore::new(ASKED_MAX)),
            met: Semaphore::new(MET_MAX),
            told: Mutex::default(),
            chance: AtomicU64::new(u64::from_le_bytes(seed)),
        };
        Self::of(Arc::new(inner))
    }

    fn of(inner: Arc<Inner>) -> Self {
        Self { inner, calls: Calls::default(), saved: Arc::new(AtomicI64::new(SAVED_MAX)) }
    }

    /// The same workers, for calls that are counted by themselves and have a budget of their own.
    pub(super) fn counting_apart(&self) -> Self {
        Self::of(Arc::clone(&self.inner))
    }

    /// Names what is counted of the workers and of these calls, without the platform's prefix.
    pub(super) fn describe(&self, registry: &mut Registry) {
        self.inner.counters.describe(registry);
        self.calls.describe(registry);
    }

    /// Workers that take calls, as far as is known.
    pub fn live(&self) -> usize {
        let now = Instant::now();
        self.endpoints().iter().filter(|endpoint| endpoint.is_live(now)).count()
    }

    /// Workers that take calls and that this gateway has a connection to: fewer than are live, where their
    /// certificates or the way to them do not let it have one.
    pub fn reached(&self) -> usize {
        let (endpoints, now) = (self.endpoints(), Instant::now());
        endpoints.iter().filter(|endpoint| endpoint.is_live(now) && endpoint.is_reached()).count()
    }

    /// Why no worker can be called, in a few words; nothing where one can, or is being met for the first time, so that
    /// a start tells of no trouble before it has found any.
    pub fn obstacle(&self) -> Option<String> {
        let endpoints = self.endpoints();
        let staying = endpoints.iter().filter(|endpoint| !endpoint.is_draining());
        let (known, lost) = staying.fold((0, 0), |(known, lost), endpoint| {
            (known + 1, lost + usize::from(endpoint.is_out_of_reach()))
        });
        match known {
            0 => Some("no worker is there".to_owned()),
            1 if lost == 1 => Some("1 worker is known and cannot be reached".to_owned()),
            _ => (lost == known).then(|| format!("{known} workers are known, none can be reached")),
        }
    }

    /// Notes how many are reached, and when the certificate for them ends; done when somebody scrapes.
    pub(crate) fn note_now(&self) {
        self.inner.counters.note(self.reached(), self.inner.identity.borrow().ends);
    }

    /// Runs a handler on a worker. Dropping the future stops it there.
    ///
    /// # Errors
    /// `worker-unavailable`, `concurrency-limit`, `worker-lost`; or what the
    /// worker says.
    pub async fn invoke(&self, invocation: &Invocation) -> Result<Outcome, Problem> {
        let digest = self.inner.subjects.digest(invocation)?;
        let frame = encode_call(invocation, &digest, false)?;
        let telling = || encode_call(invocation, &digest, true);
        let component = Preparation { digest: invocation.version.digest, tenant: invocation.tenant.clone() };
        let needs = Needs { component, memory_bytes: invocation.version.settings.memory.0 };
        decode_outcome(self.send(INVOKE_PATH, &needs, frame, telling).await?)
    }

    /// Has a component compiled and described by one worker, and then compiled by the others,
    /// for which nobody waits.
    ///
    /// # Errors
    /// As [`Pool::invoke`].
    pub async fn prepare(&self, preparation: Preparation) -> Result<Descriptions, Problem> {
        let (digest, tenant) = (preparation.digest, preparation.tenant.clone());
        let frame = encode(&PrepareHead { digest, tenant })?;
        let telling = || Ok(frame.clone());
        // A component that says what it is may take no more.
        let needs = Needs { component: preparation, memory_bytes: limits::MEMORY_BYTES_MIN };
        let described = decode(self.send(PREPARE_PATH, &needs, frame.clone(), telling).await?)?;
        self.spread(needs);
        Ok(described)
    }

    /// Has all workers compile a component that lack it, a few at a time.
    fn spread(&self, needs: Needs) {
        let pool = self.clone();
        tokio::spawn(async move {
            let endpoints = pool.endpoints();
            // Of several deployments at once each begins elsewhere.
            let first = pool.random(endpoints.len());
            for endpoint in endpoints[first..].iter().chain(&endpoints[..first]) {
                // It is never closed.
                let Ok(place) = Arc::clone(&pool.inner.asked).acquire_owned().await else { return };
                ask(endpoint, &needs, place);
            }
        });
    }

    /// Sends a frame; `telling` gives the one for a worker that does not know what the first
    /// is about. `needs` is what it takes to run it.
    async fn send(
        &self,
        path: &'static str,
        needs: &Needs,
        frame: Frame,
        telling: impl Fn() -> Result<Frame, Problem>,
    ) -> Result<Bytes, Problem> {
        self.deposit();
        let calls = &self.calls;
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut failure = None;
        while tried.len() < TRIES_MAX as usize {
            let Some((endpoint, slot)) = self.take(needs, &tried) else { break };
            if failure.is_some() {
                if !self.withdraw() {
                    break;
                }
                calls.retried.inc();
            }
            let mut answer = endpoint.call(path, frame.clone(), Some(needs)).await;
            if let Err(Failure::Untold(_)) = answer {
                answer = endpoint.call(path, telling()?, Some(needs)).await;
            }
            drop(slot);
            match answer {
                Ok(frame) => {
                    calls.answered.inc();
                    return Ok(frame);
                }
                Err(Failure::Lost(problem)) => {
                    calls.lost.inc();
                    return Err(problem);
                }
                Err(Failure::NotStarted(problem) | Failure::NoRoom(problem) | Failure::Untold(problem)) => {
                    calls.not_started.inc();
                    if !is_another_workers_matter(&problem) {
                        return Err(problem);
                    }
                    tried.push(endpoint);
                    failure = Some(problem);
                }
            }
        }
        Err(self.nobody(failure))
    }

    /// A worker and one of its slots, none of those that were tried.
    fn take(&self, needs: &Needs, tried: &[Arc<Endpoint>]) -> Option<(Arc<Endpoint>, OwnedSemaphorePermit)> {
        let (endpoints, now) = (self.endpoints(), Instant::now());
        let holds = |endpoint: &Arc<Endpoint>| endpoint.holds(needs.component.digest);
        let offer = |endpoint: &Arc<Endpoint>| {
            let fresh = !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
            if fresh { endpoint.offer(needs.memory_bytes, now) } else { None }
        };
        // Another call may take the slot between the choice and here.
        for _ in 0..=endpoints.len() {
            let Choice { taken, wanted } = prefer(&endpoints, holds, offer, |n| self.random(n))?;
            if let Some(endpoint) = wanted
                && let Ok(place) = Arc::clone(&self.inner.asked).try_acquire_owned()
            {
                ask(endpoint, needs, place);
            }
            if let Some(slot) = taken.slot() {
                return Some((Arc::clone(taken), slot));
            }
        }
        None
    }

    /// Why nobody took a call.
    fn nobody(&self, failure: Option<Problem>) -> Problem {
        let saturated = |problem: &Problem| problem.code == ErrorKind::ConcurrencyLimit;
        match failure {
            Some(problem) if !saturated(&problem) => problem,
            None if self.live() == 0 => Problem::new(
                ErrorKind::WorkerUnavailable,
                "expected at least one worker to be there, found none; start one, or look at why they are gone",
            ),
            _ => Problem::new(
                ErrorKind::ConcurrencyLimit,
                "expected a worker with room for the call, found none; try again in a moment, or ask the \
                 operator for more workers",
            ),
        }
    }

    fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.inner.endpoints.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number below `n` («splitmix64», Steele, Lea and Flood 2014).
    fn random(&self, n: usize) -> usize {
        let mut z = self.inner.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * n as u128) >> 64) as usize
    }

    fn deposit(&self) {
        let add = |saved: i64| (saved < SAVED_MAX).then(|| saved + DEPOSIT);
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn withdraw(&self) -> bool {
        let take = |saved: i64| (saved >= WITHDRAWAL).then(|| saved - WITHDRAWAL);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Follows the workers' records, and hears who has none, for as long as the backbone is open.
    async fn watch(&self, backbone: Backbone) {
        tokio::join!(self.watch_members(&backbone), self.hear_of_twins(&backbone));
    }

    /// Tells of workers that are refused because another has their name: no record tells of them.
    async fn hear_of_twins(&self, backbone: &Backbone) {
        let mut told = backbone.follow_subject(keys::NAMES_TAKEN);
        while let Some(event) = told.next().await {
            let Event::Published { subject, payload } = event else { continue };
            let (worker, at) = (keys::parse_name_taken(&subject), String::from_utf8_lossy(&payload));
            tracing::warn!(worker, %at, "a worker was refused: another one has its name");
            self.inner.counters.refused();
        }
    }

    async fn watch_members(&self, backbone: &Backbone) {
        let mut changes = backbone.follow(keys::MEMBERS);
        while let Some(change) = changes.next().await {
            self.follow(change);
        }
    }

    /// Counts that a worker is refused; whether that is news of this start of it. Its record is
    /// renewed all the time, and the log would say the same with each.
    fn refuse(&self, worker: &str, instance: Uuid) -> bool {
        self.inner.counters.refused();
        let mut told = self.inner.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(worker.to_owned(), instance) != Some(instance)
    }

    /// Sends a worker of another version what it refuses, so that its log says as
    /// well why it gets no calls.
    fn tell_stranger(&self, member: Member) {
        let stranger = Endpoint::new(member, self.inner.identity.clone());
        tokio::spawn(async move { drop(stranger.call(INVOKE_PATH, Frame::default(), None).await) });
    }

    fn follow(&self, change: Change) {
        let mut known = self.inner.known.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Put { key, entry } => self.put(&mut known, key, &entry),
            Change::Delete { key, .. } => {
                self.inner.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                if known.remove(&key).is_some() {
                    tracing::info!(worker = %name(&key), "a worker is gone");
                }
            }
            Change::Synced => {}
        }
        // One whose store is silent is left out while there are others.
        let others = known.values().any(|endpoint| endpoint.is_able());
        let is_called = |endpoint: &&Arc<Endpoint>| !others || endpoint.store_answers();
        let endpoints: Arc<[Arc<Endpoint>]> = known.values().filter(is_called).cloned().collect();
        drop(known);
        *self.inner.endpoints.write().unwrap_or_else(PoisonError::into_inner) = endpoints;
    }

    fn put(&self, known: &mut BTreeMap<String, Arc<Endpoint>>, key: String, entry: &Entry) {
        let member: Member = match serde_json::from_slice(&entry.value) {
            Ok(member) => member,
            Err(error) => {
                known.remove(&key);
                // What it is a start of, nobody knows.
                if self.refuse(&key, Uuid::nil()) {
                    tracing::warn!(worker = %name(&key), %error, "a worker was refused: its record cannot be read");
                }
                return;
            }
        };
        if let Some(endpoint) = known.get(&key).filter(|endpoint| endpoint.member.instance == member.instance)
        {
            endpoint.hear(&member);
            let others = known.values().any(|endpoint| endpoint.is_reached());
            if endpoint.is_to_be_met(others, Instant::now()) {
                self.meet_again(Arc::clone(endpoint));
            }
            return;
        }
        if member.wire_shared().is_none() {
            known.remove(&key);
            if self.refuse(&key, member.instance) {
                tracing::warn!(
                    worker = %name(&key),
                    found = member.wire,
                    expected = WIRE_VERSION,
                    "a worker was refused: it speaks another version"
                );
                self.tell_stranger(member);
            }
            return;
        }
        tracing::info!(
            worker = %name(&key),
            address = member.address,
            slots = member.slots,
            version = member.version,
            "a worker is there"
        );
        let endpoint = Arc::new(Endpoint::new(member, self.inner.identity.clone()));
        known.insert(key, Arc::clone(&endpoint));
        self.meet(endpoint);
    }

    /// Connects to a worker that has come: what is wrong with its certificate or with ours is not left to the first
    /// call to find out.
    fn meet(&self, endpoint: Arc<Endpoint>) {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            // It is never closed.
            if let Ok(_place) = inner.met.acquire().await {
                endpoint.meet().await;
            }
        });
    }

    /// Connects to one to which nothing leads any more, where there is a place now: as its record is renewed all the
    /// time, there would be no end of those that wait for one.
    fn meet_again(&self, endpoint: Arc<Endpoint>) {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            if let Ok(_place) = inner.met.try_acquire() {
                endpoint.meet().await;
            }
        });
    }
}

/// Has a worker compile what calls need, unless it was asked already, and waits for nothing. It
/// has the place until it answers.
fn ask(endpoint: &Arc<Endpoint>, needs: &Needs, place: OwnedSemaphorePermit) {
    if !endpoint.is_live(Instant::now()) || !endpoint.ask(needs.component.digest) {
        return;
    }
    let (endpoint, needs) = (Arc::clone(endpoint), needs.clone());
    tokio::spawn(async move {
        if let Err(failure) = endpoint.prepare(&needs).await {
            tracing::debug!(worker = %endpoint.member.name, ?failure, "a worker did not compile what it lacks");
        }
        drop(place);
    });
}

/// Whether another worker may take what this one did not: it has no room, or is itself
/// what is wrong.
fn is_another_workers_matter(problem: &Problem) -> bool {
    problem.code == ErrorKind::ConcurrencyLimit || problem.code.fault() == Fault::Platform
}

/// A worker as its own log and its metrics name it, out of the key of its record.
fn name(key: &str) -> &str {
    key.strip_prefix(keys::MEMBERS).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    use super::*;

    #[test]
    fn a_worker_that_is_refused_is_told_of_once_for_each_start() {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let (_, identity) = watch::channel(Identity { tls: Arc::new(tls), ends: 0 });
        let (pool, [first, next]) = (Pool::new(identity), [1, 2].map(Uuid::from_u128));
        let told = [("a", first), ("a", first), ("b", first), ("a", next), ("a", next), ("b", first)]
            .map(|(worker, instance)| pool.refuse(worker, instance));
        assert_eq!(told, [true, false, true, true, false, false]);
        pool.follow(Change::Delete { key: "a".to_owned(), revision: 1 });
        assert_eq!([pool.refuse("a", next), pool.refuse("b", first)], [true, false]);
    }

    #[test]
    fn a_worker_is_told_of_by_its_name() {
        assert_eq!(name(&keys::member(&"worker-1".parse().unwrap())), "worker-1");
    }
}
