// SPDX-License-Identifier: Apache-2.0
//! What an operator decides about a gateway.
//!
//! Checked as a whole before a port is bound; the bounds' defaults and hard
//! maxima come from `fanfold_protocol::limits`. A configuration is one tenant's:
//! all its tokens belong to it. A gateway that serves several has one for each;
//! what they must not share is checked in `tenants`.

use std::{fmt, sync::Arc, time::Duration};

use fanfold_protocol::{
    keys, limits,
    names::TenantName,
    size::{ByteSize, Span},
    tenant::{Tenant, WEIGHT_MAX},
    time::Timestamp,
    uri,
};

use crate::{
    auth::TokenDigest, invoke::asynchronous::InvocationsConfig, jobs::JobsConfig,
    triggers::sources::SourcesConfig,
};

/// How a gateway runs. [`GatewayConfig::new`] fills in the bounds.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Whose it is, where that tenant's things are, and what it may reach.
    pub tenant: Arc<Tenant>,
    /// Digests of the tokens that are accepted; several, so that they can be rotated.
    pub tokens: Vec<TokenDigest>,
    /// Largest body of an invocation.
    pub body_bytes_max: u64,
    /// Largest component.
    pub component_bytes_max: u64,
    /// Bodies held in memory at once, all requests together.
    pub bodies_bytes_max: u64,
    /// Answers in memory at once that their callers have yet to take, but for small ones.
    pub answers_bytes_max: u64,
    /// Notifications of unknown senders that are read at once.
    pub strangers_max: usize,
    /// What they may hold in memory together.
    pub strangers_bytes_max: u64,
    /// Invocations of one function at once.
    pub function_concurrency: usize,
    /// Invocations of the tenant at once.
    pub tenant_concurrency: usize,
    /// What may be remembered under idempotency keys, in bytes of the backbone.
    pub remembered_bytes_max: u64,
    /// How long a call holds its idempotency key without a renewal.
    pub key_lease: Duration,
    /// Requests of any kind in work at once.
    pub requests_max: usize,
    /// Open connections; beyond, accepting waits.
    pub connections_max: usize,
    /// Streams of events open at once.
    pub event_streams_max: usize,
    /// How jobs are looked after.
    pub jobs: JobsConfig,
    /// How asynchronous invocations are looked after.
    pub invocations: InvocationsConfig,
    /// Events that may wait for one trigger.
    pub events_waiting_max: u64,
    /// How triggers fetch their events.
    pub sources: SourcesConfig,
    /// From accept to the first byte.
    pub first_byte_timeout: Duration,
    /// From the first byte to the end of the headers.
    pub headers_timeout: Duration,
    /// Between two pieces of a body.
    pub body_timeout: Duration,
    /// How long nothing may go on on a connection; longer than twice the time between
    /// two signs of life of a stream of events.
    pub idle_timeout: Duration,
    /// How long a peer may take nothing of what it is sent.
    pub write_timeout: Duration,
    /// From the signal to stop until what still runs is dropped.
    pub drain_timeout: Duration,
}

/// Least rate at which a body must arrive on the whole, in bytes a second:
/// slower ones would hold memory for hours, a piece at a time.
pub(crate) const BODY_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Digits by which people find a digest in their file.
const DIGEST_SHOWN: usize = 16;

impl GatewayConfig {
    /// The usual bounds for this tenant and these tokens.
    pub fn new(tenant: TenantName, tokens: Vec<TokenDigest>) -> Self {
        Self {
            tenant: Arc::new(Tenant::alone(tenant, keys::SYSTEM_BUCKET_DEFAULT)),
            tokens,
            body_bytes_max: limits::BODY_BYTES_DEFAULT,
            component_bytes_max: limits::COMPONENT_BYTES_DEFAULT,
            bodies_bytes_max: 512 << 20,
            answers_bytes_max: limits::ANSWERS_BYTES_MAX,
            strangers_max: limits::STRANGERS_MAX,
            strangers_bytes_max: limits::STRANGERS_BYTES_MAX,
            function_concurrency: limits::FUNCTION_CONCURRENCY_DEFAULT,
            tenant_concurrency: limits::TENANT_CONCURRENCY_DEFAULT,
            remembered_bytes_max: limits::REMEMBERED_BYTES_DEFAULT,
            key_lease: limits::IDEMPOTENCY_LEASE,
            requests_max: 4_096,
            connections_max: limits::CONNECTIONS_MAX,
            event_streams_max: limits::EVENT_STREAMS_MAX,
            jobs: JobsConfig::default(),
            invocations: InvocationsConfig::default(),
            events_waiting_max: limits::EVENTS_WAITING_MAX,
            sources: SourcesConfig::default(),
            first_byte_timeout: limits::FIRST_BYTE_TIMEOUT,
            headers_timeout: limits::HEADERS_TIMEOUT,
            body_timeout: limits::BODY_TIMEOUT,
            idle_timeout: limits::IDLE_TIMEOUT,
            write_timeout: limits::WRITE_TIMEOUT,
            drain_timeout: limits::DRAIN_TIMEOUT,
        }
    }

    /// What is wrong with it, all of it.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let tenant = Some(self.tenant.name.clone());
        let mistake = |setting, detail| Mistake { tenant: tenant.clone(), setting, detail };
        let mut mistakes = Vec::new();
        if self.tokens.is_empty() {
            let detail = "expected at least one, found none; there is no open mode";
            mistakes.push(mistake("tokens", detail.to_owned()));
        }
        if let Err(problem) = uri::check_bucket(&self.tenant.system_bucket) {
            mistakes.push(mistake("system_bucket", problem.detail));
        }
        let calls_max = limits::TENANT_CONCURRENCY_MAX as u64;
        let connections_max = limits::CONNECTIONS_MAX as u64;
        let numbers = [
            ("weight", u64::from(self.tenant.weight), u64::from(WEIGHT_MAX)),
            ("function_concurrency", self.function_concurrency as u64, calls_max),
            ("tenant_concurrency", self.tenant_concurrency as u64, calls_max),
            ("requests_max", self.requests_max as u64, connections_max),
            ("connections_max", self.connections_max as u64, connections_max),
        ];
        let sizes = [
            ("body_bytes_max", self.body_bytes_max, limits::BODY_BYTES_MAX),
            ("component_bytes_max", self.component_bytes_max, limits::COMPONENT_BYTES_MAX),
            ("bodies_bytes_max", self.bodies_bytes_max, u64::MAX),
            ("answers_bytes_max", self.answers_bytes_max, u64::MAX),
            ("remembered_bytes_max", self.remembered_bytes_max, u64::MAX),
        ];
        let number = |number: u64| number.to_string();
        let size = |bytes| ByteSize(bytes).to_string();
        mistakes.extend(
            numbers
                .into_iter()
                .filter_map(|(name, found, max)| Some(mistake(name, outside(found, max, number)?))),
        );
        mistakes.extend(
            sizes
                .into_iter()
                .filter_map(|(name, found, max)| Some(mistake(name, outside(found, max, size)?))),
        );
        if self.jobs.retention < limits::JOB_RETENTION_MIN {
            let (least, found) = (Span::from(limits::JOB_RETENTION_MIN), Span::from(self.jobs.retention));
            let detail = format!(
                "expected at least {least}, since jobs are served from others for so long, found {found}"
            );
            mistakes.push(mistake("job_retention", detail));
        }
        // What is beyond its own bound is told with that.
        let body = self.body_bytes_max.min(limits::BODY_BYTES_MAX);
        let largest = body.max(self.component_bytes_max.min(limits::COMPONENT_BYTES_MAX));
        if self.bodies_bytes_max < largest {
            let (largest, found) = (ByteSize(largest), ByteSize(self.bodies_bytes_max));
            let detail =
                format!("expected at least {largest}, for one body and one component, found {found}");
            mistakes.push(mistake("bodies_bytes_max", detail));
        }
        mistakes
    }

    /// What is no mistake and of no use any more.
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let warning = |token: &TokenDigest| {
            let (at, digest) = (token.expired_at(now)?, token.to_hex());
            Some(format!(
                "tenant {}: expected tokens that are good, found the one whose digest begins with {} expired at {at}; \
                 take it out of the file, or give its user another one",
                self.tenant.name,
                &digest[..DIGEST_SHOWN]
            ))
        };
        self.tokens.iter().filter_map(warning).collect()
    }
}

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Whose configuration it is in; none where several meet.
    pub tenant: Option<TenantName>,
    /// The setting, as it is called in [`GatewayConfig`].
    pub setting: &'static str,
    /// What was expected, and found.
    pub detail: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.detail)
    }
}

/// What is wrong with an amount that is to be from 1 to so much, if anything is.
fn outside(found: u64, max: u64, show: impl Fn(u64) -> String) -> Option<String> {
    let bounds = match max {
        u64::MAX => format!("at least {}", show(1)),
        _ => format!("{} to {}", show(1), show(max)),
    };
    (found == 0 || found > max).then(|| format!("expected {bounds}, found {}", show(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_reported_together() {
        let tenant: TenantName = "default".parse().unwrap();
        let mut config = GatewayConfig::new(tenant, vec![TokenDigest::of("t")]);
        assert!(config.mistakes().is_empty(), "{:?}", config.mistakes());
        config.tokens.clear();
        config.tenant_concurrency = 5_000;
        config.jobs.retention = Duration::from_secs(36 * 3_600);
        config.tenant = Arc::new(Tenant::alone(TenantName::default(), "A"));
        config.body_bytes_max = 64 << 20;
        config.remembered_bytes_max = 0;
        let found: Vec<String> = config.mistakes().iter().map(Mistake::to_string).collect();
        for part in [
            "tokens: expected at least one, found none; there is no open mode",
            "system_bucket: ",
            "tenant_concurrency: expected 1 to 1000, found 5000",
            "body_bytes_max: expected 1B to 32MiB, found 64MiB",
            "remembered_bytes_max: expected at least 1B, found 0B",
            "job_retention: expected at least 7d, since jobs are served from others for so long, found 36h",
        ] {
            assert!(found.iter().any(|mistake| mistake.starts_with(part)), "{part}: {found:?}");
        }
        assert_eq!(found.len(), 6, "{found:?}");
    }

    /// Memory for all bodies is no key of a file, so whoever asks for too large ones hears nothing of it.
    #[test]
    fn what_is_too_large_is_told_once() {
        let check = |change: fn(&mut GatewayConfig), expected: &str| {
            let mut config = GatewayConfig::new(TenantName::default(), vec![TokenDigest::of("t")]);
            change(&mut config);
            let found: Vec<String> = config.mistakes().iter().map(Mistake::to_string).collect();
            let [found] = &found[..] else { panic!("expected {expected} alone, found {found:?}") };
            assert!(found.contains(expected), "{found}");
        };
        check(|config| config.body_bytes_max = 100 << 30, "body_bytes_max: expected 1B to 32MiB");
        check(|config| config.component_bytes_max = 100 << 30, "component_bytes_max: expected 1B to 64MiB");
        check(|config| config.bodies_bytes_max = 1 << 20, "bodies_bytes_max: expected at least");
    }

    #[test]
    fn tokens_that_have_expired_are_warned_of() {
        let tokens = [("gone", Some(8_999)), ("going", Some(9_001)), ("kept", None)];
        let digests = tokens.map(|(token, until)| {
            let digest = TokenDigest::of(token);
            until.map_or(digest, |at| digest.until(Timestamp(at)))
        });
        let config = GatewayConfig::new("bank".parse().unwrap(), digests.to_vec());
        assert!(config.mistakes().is_empty(), "{:?}", config.mistakes());
        assert_eq!(config.warnings(Timestamp(8_998)), Vec::<String>::new());
        let found = config.warnings(Timestamp(9_000));
        let [gone] = &found[..] else { panic!("{found:?}") };
        let digest = TokenDigest::of("gone").to_hex();
        for part in ["tenant bank: ", &digest[..16], "expired at 1970-01-01T00:00:08.999Z"] {
            assert!(gone.contains(part), "{part}: {gone}");
        }
        assert!(!gone.contains(&digest), "{gone}");
    }
}
