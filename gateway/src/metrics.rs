// SPDX-License-Identifier: Apache-2.0
//! What is counted, under Prometheus' naming: `_total`, base units, and labels
//! of few values.
//!
//! Routes are counted by their template, never by path, and functions by name
//! only up to a bound; so no caller can make a scrape grow without end.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request},
    response::Response,
};
use fanfold_backbone::{Depth, Room};
use fanfold_protocol::{
    invocation::Usage,
    names::{FunctionName, TenantName},
};
use http::Method;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

/// Functions counted by name; further ones are counted together.
const FUNCTIONS_MAX: usize = 256;
const OTHERS: &str = "(others)";
/// Routes are templates of this program, so none is longer lived or unknown.
const NO_ROUTE: &str = "(none)";

/// Text of a label that is shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Label(Arc<str>);

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        (&*self.0).encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Label,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InvocationLabels {
    function: Label,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: &'static str,
    state: &'static str,
}

/// The gateway's metrics. Other parts add theirs with [`Metrics::register`].
pub struct Metrics {
    registry: RwLock<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    requests_active: Gauge,
    active: AtomicU64,
    invocations: Family<InvocationLabels, Counter>,
    invocation_seconds: Histogram,
    queue_seconds: Histogram,
    start_seconds: Histogram,
    memory_bytes: Histogram,
    queue_messages: Family<QueueLabels, Gauge>,
    keys_used: Gauge,
    keys_bound: Gauge,
    function_labels: RwLock<Vec<Arc<str>>>,
}

/// 100 µs to 52 s, doubled: a call of a small function and the longest wait.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Self {
        Self::of(Registry::with_prefix("fanfold"))
    }

    /// The same, each with the label `tenant`: several tenants are scraped one by one.
    pub fn of_tenant(name: &TenantName) -> Self {
        let label = (Cow::Borrowed("tenant"), Cow::Owned(name.to_string()));
        Self::of(Registry::with_prefix_and_labels("fanfold", [label].into_iter()))
    }

    fn of(registry: Registry) -> Self {
        let metrics = Self {
            registry: RwLock::new(registry),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            requests_active: Gauge::default(),
            active: AtomicU64::new(0),
            invocations: Family::default(),
            invocation_seconds: seconds(),
            queue_seconds: seconds(),
            start_seconds: seconds(),
            // 1 MiB to 4 GiB.
            memory_bytes: Histogram::new(exponential_buckets(1_048_576.0, 2.0, 13)),
            queue_messages: Family::default(),
            keys_used: Gauge::default(),
            keys_bound: Gauge::default(),
            function_labels: RwLock::default(),
        };
        metrics.register(|registry| metrics.describe(registry));
        metrics
    }

    fn describe(&self, registry: &mut Registry) {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What runs", build);
        registry.register("http_requests", "Requests answered, by route template", self.requests.clone());
        let help = "From the end of a request's headers to the start of its answer";
        registry.register_with_unit(
            "http_request_duration",
            help,
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        registry.register("http_requests_active", "Requests in work", self.requests_active.clone());
        registry.register(
            "invocations",
            "Invocations ended, by function and outcome",
            self.invocations.clone(),
        );
        let help =
            "Of an invocation in its sandbox, once it could run; of one that was cut off, since it was begun";
        registry.register_with_unit(
            "invocation_duration",
            help,
            Unit::Seconds,
            self.invocation_seconds.clone(),
        );
        let help = "That an invocation waited for admission";
        registry.register_with_unit("invocation_queue", help, Unit::Seconds, self.queue_seconds.clone());
        let help = "From the request for a sandbox until it could run";
        registry.register_with_unit("sandbox_start", help, Unit::Seconds, self.start_seconds.clone());
        let help = "Most memory that an invocation held";
        registry.register_with_unit("invocation_memory", help, Unit::Bytes, self.memory_bytes.clone());
        registry.register("queue_messages", "Messages in the backbone's queues", self.queue_messages.clone());
        let help = "What the backbone's keys take";
        registry.register_with_unit("backbone_keys_used", help, Unit::Bytes, self.keys_used.clone());
        let help = "What the backbone's keys may take; 0 where that has no bound";
        registry.register_with_unit("backbone_keys_bound", help, Unit::Bytes, self.keys_bound.clone());
    }

    /// Adds metrics of another part; names get the prefix `fanfold_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// How many requests are in work.
    pub(crate) fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts the end of an invocation. `outcome` is `ok` or a problem's code; of one that was cut off there is no
    /// usage, only how long it lasted.
    pub(crate) fn invocation(
        &self,
        function: &FunctionName,
        outcome: &'static str,
        queued: Duration,
        usage: Result<&Usage, Duration>,
    ) {
        let labels = InvocationLabels { function: self.function_label(function), outcome };
        self.invocations.get_or_create(&labels).inc();
        self.queue_seconds.observe(queued.as_secs_f64());
        match usage {
            Ok(usage) if usage.wall_us > 0 => {
                self.start_seconds.observe(Duration::from_micros(usage.start_us).as_secs_f64());
                self.invocation_seconds.observe(Duration::from_micros(usage.wall_us).as_secs_f64());
                self.memory_bytes.observe(usage.memory_bytes_peak as f64);
            }
            // It never ran.
            Ok(_) => {}
            Err(lasted) => self.invocation_seconds.observe(lasted.as_secs_f64()),
        }
    }

    fn function_label(&self, name: &FunctionName) -> Label {
        let find = |labels: &[Arc<str>]| {
            labels
                .binary_search_by(|label| (**label).cmp(name.as_str()))
                .map(|at| Label(Arc::clone(&labels[at])))
        };
        if let Ok(label) = find(&self.function_labels.read().unwrap_or_else(PoisonError::into_inner)) {
            return label;
        }
        let mut labels = self.function_labels.write().unwrap_or_else(PoisonError::into_inner);
        match find(&labels) {
            Ok(label) => label,
            Err(_) if labels.len() >= FUNCTIONS_MAX => Label(Arc::from(OTHERS)),
            Err(at) => {
                labels.insert(at, Arc::from(name.as_str()));
                Label(Arc::clone(&labels[at]))
            }
        }
    }

    /// Notes how full a queue is; done when somebody scrapes.
    pub(crate) fn queue(&self, queue: &'static str, depth: Depth) {
        for (state, messages) in states(depth) {
            let gauge = self.queue_messages.get_or_create_owned(&QueueLabels { queue, state });
            gauge.set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
    }

    /// Notes how full the keys are; done when somebody scrapes.
    pub(crate) fn keys(&self, room: Room) {
        self.keys_used.set(i64::try_from(room.bytes).unwrap_or(i64::MAX));
        self.keys_bound.set(i64::try_from(room.bytes_max).unwrap_or(i64::MAX));
    }

    /// Everything in OpenMetrics 1.0; `exposition` makes the older format of it.
    pub(crate) fn encode(&self) -> Result<String, fmt::Error> {
        self.requests_active.set(i64::try_from(self.active()).unwrap_or(i64::MAX));
        let mut out = String::with_capacity(16 << 10);
        text::encode(&mut out, &self.registry.read().unwrap_or_else(PoisonError::into_inner))?;
        Ok(out)
    }
}

/// How many messages of a queue are in which state, in the words of labels.
pub(crate) fn states(depth: Depth) -> [(&'static str, u64); 4] {
    let Depth { ready, leased, delayed, dead } = depth;
    [("ready", ready), ("leased", leased), ("delayed", delayed), ("dead", dead)]
}

/// Counts a request as active while it lives.
struct Active<'a>(&'a AtomicU64);

impl<'a> Active<'a> {
    fn new(active: &'a AtomicU64) -> Self {
        active.fetch_add(1, Ordering::Relaxed);
        Self(active)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request in work.
pub(crate) struct Counted<'a> {
    metrics: &'a Metrics,
    route: Label,
    method: &'static str,
    begun: Instant,
    _active: Active<'a>,
}

impl Metrics {
    /// Counts a request as in work, until what comes back is dropped.
    pub(crate) fn begin(&self, request: &Request) -> Counted<'_> {
        let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str);
        Counted {
            metrics: self,
            route: Label(Arc::from(route)),
            method: known(request.method()),
            begun: Instant::now(),
            _active: Active::new(&self.active),
        }
    }
}

impl Counted<'_> {
    /// Counts the answer, and writes the access log at level `debug`.
    pub(crate) fn end(self, response: &Response) {
        let Self { metrics, route, method, begun, _active } = self;
        let (elapsed, status) = (begun.elapsed(), response.status().as_u16());
        tracing::debug!(
            method,
            route = &*route.0,
            status,
            elapsed_us = elapsed.as_micros() as u64,
            "answered"
        );
        let seconds = &metrics.request_seconds;
        seconds.get_or_create(&RouteLabels { route: route.clone() }).observe(elapsed.as_secs_f64());
        metrics.requests.get_or_create(&RequestLabels { route, method, status }).inc();
    }
}

/// Callers can make up methods; labels know the usual ones.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "(other)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_are_bounded() {
        let metrics = Metrics::new();
        for n in 0..2 * FUNCTIONS_MAX {
            let name = format!("f{n}").parse().unwrap();
            metrics.invocation(&name, "ok", Duration::ZERO, Ok(&Usage::default()));
        }
        let text = metrics.encode().unwrap();
        let lines = text.lines().filter(|line| line.starts_with("fanfold_invocations_total{")).count();
        assert_eq!(lines, FUNCTIONS_MAX + 1);
        assert!(
            text.contains("fanfold_invocations_total{function=\"(others)\",outcome=\"ok\"} 256"),
            "{text}"
        );
        assert!(text.contains("fanfold_build_info{version="), "{text}");
    }
}
