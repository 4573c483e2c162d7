// SPDX-License-Identifier: Apache-2.0
//! What attempts took for nothing, since they were stopped or another one came first.
//!
//! No object says so, only the bus, on which every worker may speak. Invariant: it is shown
//! in the receipt, each attempt once, and decides nothing.

use std::collections::HashSet;

use fanfold_protocol::{commit::Overtaken, invocation::Usage};
use uuid::Uuid;

/// Attempts of one job that are told apart; more are not counted.
const KNOWN_MAX: usize = 100_000;

/// The attempts of one job that did not count, as far as they were heard of.
#[derive(Debug, Default)]
pub struct AllOvertaken {
    known: HashSet<Uuid>,
    usage: Usage,
    tasks: u64,
}

impl AllOvertaken {
    /// Takes one into account.
    pub fn note(&mut self, overtaken: &Overtaken) {
        if self.known.len() < KNOWN_MAX && self.known.insert(overtaken.attempt) {
            self.usage.add_cost(&overtaken.usage);
            self.tasks = self.tasks.saturating_add(overtaken.tasks);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// What they took, and the attempts at tasks that they were: with what counts.
    pub fn with(&self, mut usage: Usage, attempts: u64) -> (Usage, u64) {
        usage.add_cost(&self.usage);
        (usage, attempts.saturating_add(self.tasks))
    }
}
