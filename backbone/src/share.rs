// SPDX-License-Identifier: Apache-2.0
//! One queue in each of several scopes, pulled from by weighted fair queueing.
//!
//! Between those who take work (workers, runners) and the backbone. Whose turn it is says [`Fair`]; what is added
//! here is the asking. The queues are asked in that order without waiting; where all are empty, they are waited at
//! together, and whichever gives something first is taken. Invariant: no queue is passed over while it has work and
//! nobody before it has, but for the moment after it was found empty or could not be pulled, in which the others are.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanfold_protocol::fair::{Fair, Service};
use fanfold_protocol::seldom::Seldom;
use futures::future::select_all;
use tokio::sync::Notify;

use crate::queue::{PullRequest, WhenAbandoned};
use crate::{Backbone, Delivery, Error, Result};

/// How long a queue that was found empty is not asked again while others have work.
const EMPTY_FOR: Duration = Duration::from_millis(50);
/// How long queues are asked one after the other: where several are slow to fail, the rest is waited at.
const ASK_FOR: Duration = Duration::from_secs(2);
/// How long one that cannot be pulled is not asked again, at first and at most.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Several members' queues of one name. `T` is what comes along with a member.
pub struct Share<T> {
    queue: &'static str,
    lease: Duration,
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    fair: Fair<String>,
    members: BTreeMap<String, Member<T>>,
}

#[derive(Clone)]
struct Member<T> {
    name: String,
    backbone: Backbone,
    what: T,
    empty_at: Option<Instant>,
    /// Until when it is not asked, since it could not be pulled, and how long that is.
    rest: Option<(Instant, Duration)>,
}

/// A delivery that came in its member's turn, for which the member pays. Dropped when nothing of it runs any more.
pub struct Shared<T> {
    /// What comes along with its member.
    pub what: T,
    /// What was pulled.
    pub delivery: Delivery,
    turn: Turn<T>,
}

struct Turn<T> {
    share: Arc<Share<T>>,
    service: Option<Service<String>>,
    spent_us: AtomicU64,
}

impl<T: Clone> Share<T> {
    /// Nobody's queues of this name, pulled with this lease.
    pub fn new(queue: &'static str, lease: Duration) -> Self {
        let state = State { fair: Fair::new(), members: BTreeMap::new() };
        Share { queue, lease, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Makes these the members: a name, a weight, the scope that the queue lies in, and what comes along.
    pub fn set(&self, members: impl IntoIterator<Item = (String, u32, Backbone, T)>) {
        let mut state = self.state();
        state.members.clear();
        let mut weights = Vec::new();
        for (name, weight, backbone, what) in members {
            weights.push((name.clone(), weight));
            let member = Member { name: name.clone(), backbone, what, empty_at: None, rest: None };
            state.members.insert(name, member);
        }
        state.fair.set(weights);
        drop(state);
        self.look();
    }

    /// Makes whoever waits look again, since there may be room where there was none.
    pub fn look(&self) {
        self.changed.notify_waiters();
    }

    /// Leases messages of the member whose turn it is, waiting up to `wait` for the first: at most as many as `room`
    /// says that it may get now, which may be none. Empty when none came, or when it is time to look again.
    ///
    /// # Errors
    /// As [`Backbone::pull`], when no member's queue can be pulled. One that cannot is left alone for a while.
    pub async fn pull(
        self: &Arc<Self>,
        wait: Duration,
        room: impl Fn(&T) -> usize,
    ) -> Result<Vec<Shared<T>>> {
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        let mut failed = BTreeMap::new();
        let shared = self.ask(&room, &mut failed).await?;
        if !shared.is_empty() {
            return Ok(shared);
        }
        tokio::select! {
            biased;
            shared = self.wait(wait, &room, failed) => shared,
            () = changed => Ok(Vec::new()),
        }
    }

    /// Asks one queue after the other without waiting, each in its turn; who cannot be pulled is added to `failed`.
    async fn ask(
        self: &Arc<Self>,
        room: &impl Fn(&T) -> usize,
        failed: &mut BTreeMap<String, Error>,
    ) -> Result<Vec<Shared<T>>> {
        let begun = Instant::now();
        while begun.elapsed() < ASK_FOR
            && let Some((turn, mut member)) =
                self.next(|member| !failed.contains_key(&member.name) && room(&member.what) > 0)
        {
            let max = room(&member.what).max(1);
            let pulled = member.backbone.pull(self.queue, max, Duration::ZERO, self.lease).await;
            match pulled {
                Ok(deliveries) if deliveries.is_empty() => turn.end_idle(),
                Ok(deliveries) => return Ok(self.shared(turn, &member, deliveries)),
                Err(Error::Closed) => return Err(Error::Closed),
                Err(error) => {
                    turn.end_unpulled();
                    self.rest(&mut member, &error);
                    failed.insert(member.name, error);
                }
            }
        }
        Ok(Vec::new())
    }

    /// Waits at all queues at once, and takes what the first of them gives. Fails once all have failed.
    async fn wait(
        self: &Arc<Self>,
        wait: Duration,
        room: &impl Fn(&T) -> usize,
        mut failed: BTreeMap<String, Error>,
    ) -> Result<Vec<Shared<T>>> {
        let until = Instant::now() + wait;
        let (mut names, mut waits) = (Vec::new(), Vec::new());
        for member in self.members() {
            let max = room(&member.what);
            if max > 0 {
                names.push(member.name.clone());
                waits.push(Box::pin(self.wait_at(member, max, until)));
            }
        }
        if waits.is_empty() {
            tokio::time::sleep(wait).await;
            return Ok(Vec::new());
        }
        let are_all = |failed: &BTreeMap<String, Error>| names.iter().all(|name| failed.contains_key(name));
        if are_all(&failed)
            && let Some((_, error)) = failed.pop_last()
        {
            return Err(self.rest_no_more(error));
        }
        loop {
            let ((mut member, max, pulled), _, others) = select_all(waits).await;
            match pulled {
                Ok(deliveries) if deliveries.is_empty() => return Ok(Vec::new()),
                Ok(deliveries) => {
                    let service = self.state().fair.begin(&member.name);
                    return Ok(self.shared(self.turn(service), &member, deliveries));
                }
                Err(Error::Closed) => return Err(Error::Closed),
                Err(error) => {
                    failed.insert(member.name.clone(), error.clone());
                    if are_all(&failed) {
                        return Err(self.rest_no_more(error));
                    }
                    self.rest(&mut member, &error);
                    waits = others;
                    waits.push(Box::pin(self.wait_at(member, max, until)));
                }
            }
        }
    }

    /// Waits at a member's queue, once its rest is over.
    async fn wait_at(
        &self,
        member: Member<T>,
        max: usize,
        until: Instant,
    ) -> (Member<T>, usize, Result<Vec<Delivery>>) {
        if let Some((rested, _)) = member.rest {
            tokio::time::sleep(rested.min(until).saturating_duration_since(Instant::now())).await;
            if rested > until {
                return (member, max, Ok(Vec::new()));
            }
        }
        let request = PullRequest {
            max,
            wait: until.saturating_duration_since(Instant::now()),
            lease: self.lease,
            // Whoever waits at several queues abandons all but one of them each time.
            when_abandoned: WhenAbandoned::Withdraw,
        };
        let pulled = member.backbone.pull_as(self.queue, request).await;
        (member, max, pulled)
    }

    /// Leaves a member alone that could not be pulled, each time for longer.
    fn rest(&self, member: &mut Member<T>, error: &Error) {
        static TOLD: Seldom = Seldom::new();
        let (name, queue) = (&member.name, self.queue);
        if TOLD.is_due(&format!("{name} {queue}")) {
            tracing::warn!(member = name, queue, %error, "a queue cannot be pulled; it rests and is tried again");
        }
        let pause = member.rest.map_or(REST.0, |(_, pause)| (pause * 2).min(REST.1));
        member.rest = Some((Instant::now() + pause, pause));
        if let Some(known) = self.state().members.get_mut(&member.name) {
            known.rest = member.rest;
        }
    }

    /// Where nobody can be pulled, whoever pulls is told, and decides when to come back.
    fn rest_no_more(&self, error: Error) -> Error {
        self.state().members.values_mut().for_each(|member| member.rest = None);
        error
    }

    /// Begins the turn of whoever comes next and may have work. Where there is no choice, it is waited for at once.
    fn next(self: &Arc<Self>, able: impl Fn(&Member<T>) -> bool) -> Option<(Turn<T>, Member<T>)> {
        let (mut state, now) = (self.state(), Instant::now());
        let State { fair, members } = &mut *state;
        if members.len() < 2 {
            return None;
        }
        let may_have_work = |member: &Member<T>| {
            member.empty_at.is_none_or(|at| at + EMPTY_FOR <= now)
                && member.rest.is_none_or(|(rested, _)| rested <= now)
        };
        let service =
            fair.next(|name| members.get(name).is_some_and(|member| may_have_work(member) && able(member)))?;
        let member = members.get_mut(service.member()).map(|member| {
            // One who asks is enough to find out whether it can be pulled again.
            if let Some((rested, pause)) = &mut member.rest {
                *rested = now + *pause;
            }
            member.clone()
        });
        drop(state);
        Some((self.turn(service), member?))
    }

    fn members(&self) -> Vec<Member<T>> {
        self.state().members.values().cloned().collect()
    }

    fn shared(
        self: &Arc<Self>,
        first: Turn<T>,
        member: &Member<T>,
        deliveries: Vec<Delivery>,
    ) -> Vec<Shared<T>> {
        let name = &member.name;
        if let Some(member) = self.state().members.get_mut(name) {
            (member.empty_at, member.rest) = (None, None);
        }
        let mut first = Some(first);
        let shared = |delivery| {
            let turn = first.take().unwrap_or_else(|| self.turn(self.state().fair.begin(name)));
            Shared { what: member.what.clone(), delivery, turn }
        };
        deliveries.into_iter().map(shared).collect()
    }

    fn turn(self: &Arc<Self>, service: Service<String>) -> Turn<T> {
        Turn { share: Arc::clone(self), service: Some(service), spent_us: AtomicU64::new(0) }
    }
}

impl<T> Share<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Shared<T> {
    /// Runs something at the member's cost.
    pub async fn spend<F: Future>(&self, running: F) -> F::Output {
        let _spending = Spending { spent_us: &self.turn.spent_us, begun: Instant::now() };
        running.await
    }
}

/// Counts time while it lives.
struct Spending<'a> {
    spent_us: &'a AtomicU64,
    begun: Instant,
}

impl Drop for Spending<'_> {
    fn drop(&mut self) {
        let elapsed = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Whatever ran did cost something.
        self.spent_us.fetch_add(elapsed.max(1), Relaxed);
    }
}

impl<T> Turn<T> {
    /// Whether there was work is not known. Who cannot be pulled saves nothing up.
    fn end_unpulled(mut self) {
        if let Some(service) = self.service.take() {
            self.share.state().fair.idle(service);
        }
    }

    /// There was no work.
    fn end_idle(mut self) {
        let Some(service) = self.service.take() else { return };
        let mut state = self.share.state();
        if let Some(member) = state.members.get_mut(service.member()) {
            (member.empty_at, member.rest) = (Some(Instant::now()), None);
        }
        state.fair.idle(service);
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        let Some(service) = self.service.take() else { return };
        let mut state = self.share.state();
        match self.spent_us.load(Relaxed) {
            0 => state.fair.withdraw(service),
            spent_us => state.fair.end(service, Duration::from_micros(spent_us)),
        }
    }
}
