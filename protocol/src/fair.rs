// SPDX-License-Identifier: Apache-2.0
//! Who comes next: weighted fair queueing among those that have work.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng, 1996). Each member has a tag,
//! the virtual time at which it may begin next; the lowest tag is served first,
//! and a service moves its member's tag by cost over weight. A member that was
//! found without work begins at the virtual time of whoever was served last: it
//! saves nothing up and owes nothing. Invariant: no clock, no I/O and no
//! randomness; among members that never run out of work, services differ from
//! the weights by what is being served at one time, however long it goes on.

use std::{collections::BTreeMap, time::Duration};

/// Virtual time is microseconds of cost times this, over the weight.
const SCALE: u64 = 1_000;

/// The members and what they had.
#[derive(Clone, Debug, Default)]
pub struct Fair<K> {
    members: BTreeMap<K, Member>,
    /// Virtual time: the highest tag that was served so far.
    now: u64,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    weight: u32,
    /// When it may begin next.
    tag: u64,
    /// Found without work since its last service.
    is_idle: bool,
    /// What a service of it costs of late, in microseconds: charged when one
    /// begins, and put right when it ends.
    typical_us: Option<u64>,
}

/// A service that has begun: hand it back to [`Fair::end`].
#[derive(Debug)]
#[must_use]
pub struct Service<K> {
    member: K,
    charged_us: u64,
}

impl<K> Service<K> {
    /// Whose it is.
    pub fn member(&self) -> &K {
        &self.member
    }
}

impl<K: Ord + Clone> Fair<K> {
    /// No members.
    pub fn new() -> Self {
        Self { members: BTreeMap::new(), now: 0 }
    }

    /// Makes these the members, with these weights (0 counts as 1). Who stays keeps its tag.
    pub fn set(&mut self, weights: impl IntoIterator<Item = (K, u32)>) {
        let now = self.now;
        let before = std::mem::take(&mut self.members);
        let member = |(key, weight): (K, u32)| {
            let fresh = Member { weight: 1, tag: now, is_idle: true, typical_us: None };
            let member = before.get(&key).copied().unwrap_or(fresh);
            (key, Member { weight: weight.max(1), ..member })
        };
        self.members = weights.into_iter().map(member).collect();
    }

    /// Begins a service of the member whose turn it is, of those that `able` lets pass.
    pub fn next(&mut self, able: impl Fn(&K) -> bool) -> Option<Service<K>> {
        let able = self.members.iter().filter(|(key, _)| able(key));
        let (first, _) = able.min_by_key(|(_, member)| self.begins(member))?;
        let first = first.clone();
        Some(self.begin(&first))
    }

    /// Begins a service of a member, whosever turn it is.
    pub fn begin(&mut self, member: &K) -> Service<K> {
        // Before the first has ended, whatever lets others go first.
        let charged_us = self.members.get(member).map_or(0, |member| member.typical_us.unwrap_or(1));
        if let Some(begins) = self.members.get(member).map(|member| self.begins(member)) {
            self.now = self.now.max(begins);
            self.members.entry(member.clone()).and_modify(|member| {
                (member.tag, member.is_idle) = (begins + virtual_time(charged_us, member.weight), false);
            });
        }
        Service { member: member.clone(), charged_us }
    }

    /// Ends a service, with what it did cost.
    pub fn end(&mut self, service: Service<K>, cost: Duration) {
        let cost_us = u64::try_from(cost.as_micros()).unwrap_or(u64::MAX / SCALE);
        self.settle(service, cost_us, |member| {
            let before = member.typical_us.unwrap_or(cost_us);
            member.typical_us = Some(before.saturating_mul(3).saturating_add(cost_us) / 4);
        });
    }

    /// Takes back a service that came to nothing, since there was no work for it.
    pub fn idle(&mut self, service: Service<K>) {
        self.settle(service, 0, |member| member.is_idle = true);
    }

    /// Takes back a service that came to nothing for another reason.
    pub fn withdraw(&mut self, service: Service<K>) {
        self.settle(service, 0, |_| ());
    }

    fn settle(&mut self, service: Service<K>, cost_us: u64, note: impl FnOnce(&mut Member)) {
        let Some(member) = self.members.get_mut(&service.member) else { return };
        let charged = virtual_time(service.charged_us, member.weight);
        member.tag = member.tag.saturating_add(virtual_time(cost_us, member.weight)).saturating_sub(charged);
        note(member);
    }

    fn begins(&self, member: &Member) -> u64 {
        if member.is_idle { member.tag.max(self.now) } else { member.tag }
    }
}

fn virtual_time(cost_us: u64, weight: u32) -> u64 {
    cost_us.saturating_mul(SCALE) / u64::from(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Serves `times` times whoever is first of those that `works` lets have work.
    fn serve(
        fair: &mut Fair<usize>,
        times: usize,
        works: impl Fn(usize) -> bool,
        mut cost: impl FnMut(usize) -> Duration,
    ) -> Vec<Duration> {
        let mut got = vec![Duration::ZERO; fair.members.len()];
        let mut ran = 0;
        while ran < times {
            let idle = std::cell::RefCell::new(std::collections::BTreeSet::new());
            let service = loop {
                let Some(service) = fair.next(|member| !idle.borrow().contains(member)) else { return got };
                let member = *service.member();
                if works(member) {
                    break service;
                }
                idle.borrow_mut().insert(member);
                fair.idle(service);
            };
            let member = *service.member();
            let cost = cost(member);
            fair.end(service, cost);
            got[member] += cost;
            ran += 1;
        }
        got
    }

    #[test]
    fn costs_are_shared_and_not_turns() {
        let mut fair = Fair::new();
        fair.set([(0, 1), (1, 1)]);
        let got = serve(&mut fair, 11_000, |_| true, |member| ms(if member == 0 { 1 } else { 10 }));
        assert_eq!(got, [ms(10_000), ms(10_000)]);
        let mut fair = Fair::new();
        fair.set([(0, 2), (1, 1)]);
        assert_eq!(serve(&mut fair, 3_000, |_| true, |_| ms(1)), [ms(2_000), ms(1_000)]);
    }

    #[test]
    fn who_was_idle_saved_nothing_up() {
        let mut fair = Fair::new();
        fair.set([(0, 1), (1, 1)]);
        serve(&mut fair, 1_000, |member| member == 0, |_| ms(1));
        let got = serve(&mut fair, 100, |_| true, |_| ms(1));
        assert!(got[1] <= ms(51), "{got:?}");
    }

    #[test]
    fn what_began_counts_before_it_ends() {
        let mut fair = Fair::new();
        fair.set([(0, 1), (1, 1)]);
        serve(&mut fair, 20, |_| true, |_| ms(10));
        let mut begun = [0, 0];
        let running: Vec<_> = (0..8)
            .map(|_| {
                let service = fair.next(|_| true).unwrap();
                begun[*service.member()] += 1;
                service
            })
            .collect();
        assert_eq!(begun, [4, 4]);
        running.into_iter().for_each(|service| fair.end(service, ms(10)));
    }

    #[test]
    fn members_come_and_go() {
        let mut fair = Fair::new();
        fair.set([(0, 1)]);
        serve(&mut fair, 1_000, |_| true, |_| ms(1));
        fair.set([(0, 1), (1, 1)]);
        let got = serve(&mut fair, 100, |_| true, |_| ms(1));
        assert!(got[0] >= ms(49) && got[1] >= ms(49), "{got:?}");
        let gone = fair.begin(&1);
        fair.set([(0, 1)]);
        fair.end(gone, ms(1));
        assert_eq!(fair.next(|_| true).map(|service| service.member), Some(0));
        assert!(fair.next(|_| false).is_none());
    }

    proptest! {
        /// Of members that always have work, no two differ by more than a service each.
        #[test]
        fn shares_follow_the_weights(
            weights in proptest::collection::vec(1u32..20, 2..6),
            costs in proptest::collection::vec(1u64..200, 500),
        ) {
            let mut fair = Fair::new();
            fair.set(weights.iter().copied().enumerate());
            let mut costs = costs.into_iter();
            let got = serve(&mut fair, 500, |_| true, |_| ms(costs.next().unwrap_or(1)));
            let share = |member: usize| got[member].as_secs_f64() / f64::from(weights[member]);
            for (one, other) in (0..weights.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
                let slack = 0.2 / f64::from(weights[one]) + 0.2 / f64::from(weights[other]);
                // What is charged when it begins is an estimate, which errs by two services at most.
                prop_assert!((share(one) - share(other)).abs() <= 2.0 * slack, "{got:?} {weights:?}");
            }
        }

        /// Whoever has work is served, whatever the others do.
        #[test]
        fn nothing_is_left_undone(works in proptest::collection::vec(any::<bool>(), 1..8)) {
            let mut fair = Fair::new();
            fair.set((0..works.len()).map(|member| (member, 1)));
            let got = serve(&mut fair, 50, |member| works[member], |_| ms(1));
            let busy = works.iter().filter(|works| **works).count();
            let total: Duration = got.iter().sum();
            prop_assert_eq!(total, if busy == 0 { ms(0) } else { ms(50) });
            for (got, works) in got.iter().zip(&works) {
                prop_assert_eq!(!got.is_zero(), *works);
            }
        }
    }
}
