// SPDX-License-Identifier: Apache-2.0
//! What is counted of asynchronous invocations, beside what is counted of all.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Counters of asynchronous invocations.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub(super) accepted: Counter,
    pub(super) retries: Counter,
    pub(super) dead_letters: Counter,
    pub(super) expired: Counter,
    ended: Family<StateLabels, Counter>,
}

impl Counters {
    /// Names them, without the platform's prefix.
    pub fn describe(&self, registry: &mut Registry) {
        let help = "Asynchronous invocations accepted";
        registry.register("async_invocations_accepted", help, self.accepted.clone());
        let help = "Asynchronous invocations ended, by how";
        registry.register("async_invocations_ended", help, self.ended.clone());
        let help = "Attempts at asynchronous invocations that failed and were followed by another";
        registry.register("async_invocation_retries", help, self.retries.clone());
        let help = "Asynchronous invocations given up";
        registry.register("async_invocation_dead_letters", help, self.dead_letters.clone());
        let help =
            "Dead letters of invocations removed because they were too old or too many, or for want of room";
        registry.register("async_invocation_dead_letters_expired", help, self.expired.clone());
    }

    /// Counts an end, when it is written down.
    pub(super) fn ended(&self, state: &'static str) {
        self.ended.get_or_create(&StateLabels { state }).inc();
    }
}
