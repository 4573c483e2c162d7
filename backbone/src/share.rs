// SPDX-License-Identifier: Apache-2.0
//! One queue in each of several scopes, pulled from by weighted fair queueing.
//!
//! Between those who take work (workers, runners) and the backbone. Whose turn it is says [`Fair`]; what is added
//! here is the asking. The queues are asked in that order without waiting; where all are empty, they are waited at
//! together, and whichever gives something first is taken. Invariant: no queue is passed over while it has work and
//! nobody before it has, but for the moment after it was found empty.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanfold_protocol::fair::{Fair, Service};
use futures::future::select_all;
use tokio::sync::Notify;

use crate::{Backbone, Delivery, Result};

/// How long a queue that was found empty is not asked again while others have work.
const EMPTY_FOR: Duration = Duration::from_millis(50);

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
    backbone: Backbone,
    what: T,
    empty_at: Option<Instant>,
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
            state.members.insert(name, Member { backbone, what, empty_at: None });
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
    /// As [`Backbone::pull`].
    pub async fn pull(
        self: &Arc<Self>,
        wait: Duration,
        room: impl Fn(&T) -> usize,
    ) -> Result<Vec<Shared<T>>> {
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        while let Some((turn, member)) = self.next(&room) {
            let max = room(&member.what).max(1);
            let deliveries = member.backbone.pull(self.queue, max, Duration::ZERO, self.lease).await?;
            if !deliveries.is_empty() {
                return Ok(self.shared(turn, &member, deliveries));
            }
            turn.end_idle();
        }
        let mut waits = Vec::new();
        for (name, member) in self.members() {
            let max = room(&member.what);
            if max == 0 {
                continue;
            }
            let wait = async move {
                let pulled = member.backbone.pull_or_withdraw(self.queue, max, wait, self.lease).await;
                (name, member, pulled)
            };
            waits.push(Box::pin(wait));
        }
        if waits.is_empty() {
            let _ = tokio::time::timeout(wait, changed).await;
            return Ok(Vec::new());
        }
        tokio::select! {
            biased;
            ((name, member, pulled), _, _) = select_all(waits) => {
                let deliveries = pulled?;
                if deliveries.is_empty() {
                    return Ok(Vec::new());
                }
                let service = self.state().fair.begin(&name);
                Ok(self.shared(self.turn(service), &member, deliveries))
            }
            () = changed => Ok(Vec::new()),
        }
    }

    /// Begins the turn of whoever comes next and may have work. Where there is no choice, it is waited for at once.
    fn next(self: &Arc<Self>, room: impl Fn(&T) -> usize) -> Option<(Turn<T>, Member<T>)> {
        let mut state = self.state();
        let State { fair, members } = &mut *state;
        if members.len() < 2 {
            return None;
        }
        let service = fair.next(|name| {
            members.get(name).is_some_and(|member| {
                room(&member.what) > 0 && member.empty_at.is_none_or(|at| at.elapsed() >= EMPTY_FOR)
            })
        })?;
        let member = members.get(service.member()).cloned();
        drop(state);
        Some((self.turn(service), member?))
    }

    fn members(&self) -> Vec<(String, Member<T>)> {
        self.state().members.iter().map(|(name, member)| (name.clone(), member.clone())).collect()
    }

    fn shared(
        self: &Arc<Self>,
        first: Turn<T>,
        member: &Member<T>,
        deliveries: Vec<Delivery>,
    ) -> Vec<Shared<T>> {
        let name = first.service.as_ref().map(|service| service.member().clone()).unwrap_or_default();
        if let Some(member) = self.state().members.get_mut(&name) {
            member.empty_at = None;
        }
        let mut first = Some(first);
        let shared = |delivery| {
            let turn = first.take().unwrap_or_else(|| self.turn(self.state().fair.begin(&name)));
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
    /// There was no work.
    fn end_idle(mut self) {
        let Some(service) = self.service.take() else { return };
        let mut state = self.share.state();
        if let Some(member) = state.members.get_mut(service.member()) {
            member.empty_at = Some(Instant::now());
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
