// SPDX-License-Identifier: Apache-2.0
//! What is counted of calls to workers, under labels of few values.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    end: &'static str,
}

/// Counters of calls to workers.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    sent: Family<EndLabels, Counter>,
    retried: Counter,
    live: Gauge,
    refused: Counter,
}

impl Counters {
    /// Names them, without the platform's prefix.
    pub fn describe(&self, registry: &mut Registry) {
        let help = "Calls sent to workers, by how that ended: answered, not-started, lost";
        registry.register("worker_calls", help, self.sent.clone());
        let help = "Calls that a worker had not begun and that were sent to another";
        registry.register("worker_call_retries", help, self.retried.clone());
        registry.register("workers_live", "Workers that take calls", self.live.clone());
        let help = "Records of workers that this gateway cannot work with";
        registry.register("workers_refused", help, self.refused.clone());
    }

    pub(super) fn sent(&self, end: &'static str) {
        self.sent.get_or_create(&EndLabels { end }).inc();
    }

    pub(super) fn retried(&self) {
        self.retried.inc();
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    pub(super) fn live(&self, workers: usize) {
        self.live.set(i64::try_from(workers).unwrap_or(i64::MAX));
    }
}
