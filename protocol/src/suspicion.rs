// SPDX-License-Identifier: Apache-2.0
//! Which components are suspected of ending the workers that run them.
//!
//! A worker that comes back says what was running when it broke; records of that
//! lie in the backbone, one for each component. Pure: counting and the decision.
//! Invariant: what runs well in between is never quarantined, however often
//! workers are killed for other reasons.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Problem};

/// Workers that may end in a row before the component is quarantined.
pub const DEATHS_MAX: u32 = 3;
/// How long a suspicion lasts after the last death.
pub const REMEMBERED: Duration = Duration::from_secs(600);
/// Kinds of work and names of workers that are remembered, at most.
const NOTED_MAX: usize = 256;

/// What a component is suspected of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Workers that ended in a row while it ran: no sandbox of it has come to an
    /// end since the first of them.
    pub deaths: u32,
    /// The same for each work that was under way: a call or a lease, by its
    /// fingerprint.
    #[serde(default)]
    pub works: BTreeMap<String, u32>,
    /// The names of the workers, for people.
    #[serde(default)]
    pub workers: Vec<String>,
    /// Nothing of it runs any more.
    #[serde(default)]
    pub quarantined: bool,
}

impl Suspicion {
    /// Notes that a worker ended while this work was under way.
    pub fn died(&mut self, worker: &str, works: impl IntoIterator<Item = u64>) {
        self.deaths += 1;
        for work in works {
            let name = fingerprint(work);
            if self.works.len() < NOTED_MAX || self.works.contains_key(&name) {
                *self.works.entry(name).or_default() += 1;
            }
        }
        if self.workers.len() < NOTED_MAX && self.workers.iter().all(|known| known != worker) {
            self.workers.push(worker.to_owned());
        }
        let most = self.works.values().copied().max().unwrap_or_default();
        self.quarantined |= self.deaths.max(most) >= DEATHS_MAX;
    }

    /// Notes that a sandbox came to an end and its worker lives; whether that
    /// changes anything.
    pub fn survived(&mut self, work: u64) -> bool {
        if self.quarantined {
            return false;
        }
        let was_counted = std::mem::take(&mut self.deaths) > 0;
        self.works.remove(&fingerprint(work)).is_some() || was_counted
    }

    /// Whether it is suspected of nothing.
    pub fn is_nothing(&self) -> bool {
        self.deaths == 0 && self.works.is_empty() && !self.quarantined
    }

    /// Why a quarantined component does not run.
    pub fn problem(&self) -> Problem {
        let (deaths, workers) = (DEATHS_MAX, self.workers.join(", "));
        let problem = Problem::new(
            ErrorKind::VersionQuarantined,
            format!(
                "expected workers to live through this version, found that {deaths} broke in a row while it ran, of those \
                 called {workers}; mend and deploy it, or deploy the same again if something else broke them"
            ),
        );
        // No attempt will do better.
        Problem { guest_retryable: Some(false), ..problem }
    }
}

fn fingerprint(work: u64) -> String {
    format!("{work:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x1` is a death during work 1, `.1` the end of a sandbox with it.
    fn check(history: &str, quarantined: bool) {
        let mut suspicion = Suspicion::default();
        for what in history.split_whitespace() {
            let (kind, works) = what.split_at(1);
            let mut works = works.chars().filter_map(|digit| digit.to_digit(10)).map(u64::from);
            match kind {
                "x" => suspicion.died("worker-1", works),
                _ => {
                    suspicion.survived(works.next().unwrap());
                }
            }
        }
        assert_eq!(suspicion.quarantined, quarantined, "{history}: {suspicion:?}");
    }

    #[test]
    fn three_deaths_in_a_row_are_too_many_and_survivors_clear() {
        check("x1 x2", false);
        check("x1 x2 x3", true);
        check("x1 x2 .4 x3 x4 .4 x5 x6", false);
        // The same work each time, whatever else ends well.
        check("x1 .2 x12 .2 x1", true);
        check("x12 .2 x12 .2 x12", true);
        check("x1 .1 x1 .1 x1 .1 x1", false);
        // Once decided it stays.
        check("x1 x1 x1 .1 .1", true);
    }

    #[test]
    fn what_is_cleared_is_nothing_and_the_problem_names_workers() {
        let mut suspicion = Suspicion::default();
        assert!(suspicion.is_nothing() && !suspicion.survived(7));
        suspicion.died("a", [7]);
        suspicion.died("b", [8]);
        assert!(suspicion.survived(7) && !suspicion.is_nothing());
        assert!(suspicion.survived(8) && suspicion.is_nothing());
        suspicion.died("a", []);
        assert!(suspicion.problem().detail.contains("called a, b"), "{}", suspicion.problem());
    }
}
