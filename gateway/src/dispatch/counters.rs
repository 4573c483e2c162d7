// SPDX-License-Identifier: Apache-2.0
//! What is counted of workers and of calls to them, under labels of few values.
//!
//! Workers are those of all tenants; calls are counted for the tenant that makes
//! them, so that no tenant's metrics tell of another's.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    end: &'static str,
}

/// Counters of workers.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    live: Gauge,
    certificate_ends: Gauge,
    refused: Counter,
}

impl Counters {
    /// Names them, without the platform's prefix.
    pub(super) fn describe(&self, registry: &mut Registry) {
        registry.register("workers_live", "Workers that take calls and are reached", self.live.clone());
        let help = "When the certificate that this gateway shows to workers ends, in Unix time";
        let ends = self.certificate_ends.clone();
        registry.register("certificate_expiration_timestamp_seconds", help, ends);
        let help = "Workers with whom this gateway cannot work, or whose name another has";
        registry.register("workers_refused", help, self.refused.clone());
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    pub(super) fn note(&self, live: usize, certificate_ends: u64) {
        self.live.set(i64::try_from(live).unwrap_or(i64::MAX));
        self.certificate_ends.set(i64::try_from(certificate_ends).unwrap_or(i64::MAX));
    }
}

/// Counters of a tenant's calls to workers. Each end has its own at hand, so that a call
/// looks for none.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    ended: Family<EndLabels, Counter>,
    pub(super) answered: Counter,
    pub(super) not_started: Counter,
    pub(super) lost: Counter,
    pub(super) retried: Counter,
}

impl Default for Calls {
    fn default() -> Self {
        let ended = Family::<EndLabels, Counter>::default();
        let [answered, not_started, lost] =
            ["answered", "not-started", "lost"].map(|end| ended.get_or_create_owned(&EndLabels { end }));
        Self { ended, answered, not_started, lost, retried: Counter::default() }
    }
}

impl Calls {
    /// Names them, without the platform's prefix.
    pub(super) fn describe(&self, registry: &mut Registry) {
        let help = "Calls sent to workers, by how that ended: answered, not-started, lost";
        registry.register("worker_calls", help, self.ended.clone());
        let help = "Calls that a worker had not begun and that were sent to another";
        registry.register("worker_call_retries", help, self.retried.clone());
    }
}
