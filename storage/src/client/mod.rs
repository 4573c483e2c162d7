// SPDX-License-Identifier: Apache-2.0
//! The one client of object stores: every byte that Fanfold reads or writes
//! goes through a [`Store`].
//!
//! It wraps aws-sdk-s3 and adds what the platform's guarantees need: reads
//! pinned to an ETag and resumed when a body is cut, writes that win once and
//! recognise themselves after a lost answer, and a probe of what a store really
//! supports. It keeps no state about objects: two handles never disagree. What the
//! SDK waits with is large, so each of its requests lies on the heap: callers of
//! callers would carry it on their stacks.

mod arbitrate;
mod bucket;
mod config;
mod error;
mod hedge;
mod list;
mod meter;
mod multipart;
mod probe;
mod read;
mod region;
mod uploads;
mod write;

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use aws_sdk_s3::{Client, config::Builder};
use fanfold_protocol::tenant::Tenant;
pub use fanfold_protocol::uri::{ObjectUri, Pin, PinnedObject};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub use self::{
    arbitrate::Arbiter,
    bucket::BucketEntry,
    config::StoreConfig,
    error::{Error, Result},
    list::{ListEntry, ListOptions},
    meter::{Meter, Usage},
    multipart::MultipartWriter,
    probe::{Probe, Support},
    read::{Meta, ReadAhead},
    uploads::Upload,
    write::{PutOptions, PutOutcome},
};

/// The user metadata (`x-amz-meta-…`) that names an object's writer, so that a
/// writer whose answer was lost recognises its own object.
pub const WRITER_METADATA: &str = "fanfold-writer";

/// The user metadata that says how many triggers stand in the chain that led to
/// an object, so that a chain that leads back to itself ends.
pub const DEPTH_METADATA: &str = "fanfold-depth";

/// A handle of a store. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    /// Made with the first request: whoever sends none does not pay for it.
    client: Arc<OnceLock<Client>>,
    meter: Meter,
    /// Whose buckets alone this handle reaches; absent, it reaches all.
    tenant: Option<Arc<Tenant>>,
}

#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    sdk: Builder,
    arbitration: Option<arbitrate::Arbitration>,
    /// Removals of what dropped writers had begun.
    removals: TaskTracker,
    /// Whether the store was found to take no lists of objects to delete.
    takes_no_lists: Arc<AtomicBool>,
    /// Places for requests that are sent a second time.
    hedges: Arc<Semaphore>,
}

impl Inner {
    /// The same store, reached so: what was begun there and learnt of it is shared.
    fn with(
        &self,
        config: StoreConfig,
        sdk: Builder,
        arbitration: Option<arbitrate::Arbitration>,
    ) -> Arc<Self> {
        let (removals, takes_no_lists) = (self.removals.clone(), Arc::clone(&self.takes_no_lists));
        let hedges = Arc::clone(&self.hedges);
        Arc::new(Self { config, sdk, arbitration, removals, takes_no_lists, hedges })
    }
}

impl Store {
    /// A handle of the store that `config` describes. Sends nothing yet: a wrong
    /// address shows with the first call.
    pub fn connect(config: StoreConfig) -> Result<Self> {
        let sdk = config.build()?;
        let (removals, takes_no_lists) = (TaskTracker::new(), Arc::default());
        let hedges = Arc::new(Semaphore::new(hedge::HEDGES_MAX));
        let inner = Arc::new(Inner { config, sdk, arbitration: None, removals, takes_no_lists, hedges });
        Ok(Self { inner, client: Arc::default(), meter: Meter::new(), tenant: None })
    }

    /// The same store with connections of its own.
    pub fn reconnected(&self) -> Result<Self> {
        let (config, arbitration) = (self.inner.config.clone(), self.inner.arbitration.clone());
        let sdk = config.build()?;
        Ok(self.metered(self.inner.with(config, sdk, arbitration), Meter::new()))
    }

    /// The same store, as far as it is a tenant's: another's buckets are refused before
    /// anything is sent.
    #[must_use]
    pub fn of_tenant(&self, tenant: Arc<Tenant>) -> Self {
        Self { tenant: Some(tenant), ..self.clone() }
    }

    fn with_arbitration(&self, arbitration: Option<arbitrate::Arbitration>) -> Self {
        let (config, sdk) = (self.inner.config.clone(), self.inner.sdk.clone());
        self.metered(self.inner.with(config, sdk, arbitration), self.meter.clone())
    }

    /// The same store, with what is done through the new handle counted by `meter`.
    #[must_use]
    pub fn with_meter(&self, meter: Meter) -> Self {
        self.metered(Arc::clone(&self.inner), meter)
    }

    /// The meter of this handle.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Waits until what dropped writers had begun is removed, as far as the store can be reached: for
    /// whoever is about to end the runtime that does it.
    pub async fn settled(&self) {
        self.inner.removals.close();
        self.inner.removals.wait().await;
    }

    /// How this store is reached.
    pub fn config(&self) -> &StoreConfig {
        &self.inner.config
    }

    fn metered(&self, inner: Arc<Inner>, meter: Meter) -> Self {
        Self { inner, client: Arc::default(), meter, tenant: self.tenant.clone() }
    }

    /// The client, for a bucket that may be reached.
    fn client_of(&self, bucket: &str) -> Result<&Client> {
        match self.tenant.as_ref().map(|tenant| tenant.check(bucket)) {
            Some(Err(problem)) => Err(Error::AnotherTenants { problem: Box::new(problem) }),
            Some(Ok(())) | None => Ok(self.client()),
        }
    }

    /// The client whose requests this handle's meter counts.
    fn client(&self) -> &Client {
        self.client.get_or_init(|| {
            let config = self.inner.sdk.clone().interceptor(self.meter.clone()).build();
            Client::from_conf(config)
        })
    }
}

/// The ETag as pins have it: without the quotes of the header, unless it is weak.
fn bare_etag(etag: &str) -> String {
    if is_weak(etag) { etag.to_owned() } else { etag.trim_matches('"').to_owned() }
}

/// The ETag as conditions have it.
fn quoted_etag(etag: &str) -> String {
    if is_weak(etag) { etag.to_owned() } else { format!("\"{etag}\"") }
}

/// Whether no `If-Match` holds for it (RFC 9110, section 13.1.1), also for the object that has it.
fn is_weak(etag: &str) -> bool {
    etag.starts_with("W/\"")
}

/// How long to wait before try `attempt` (from 1): doubling from 50 ms up to
/// 2 s, less up to half at random, so that writers that collided part.
async fn back_off(attempt: u32) {
    let ceiling_ms = 50_u64.saturating_mul(1 << attempt.min(6)).min(2_000);
    let mut seed = [0_u8; 2];
    // Without randomness the full delay is used: only the spreading is lost.
    let share = getrandom::fill(&mut seed).map_or(0, |()| u64::from(u16::from_le_bytes(seed)));
    let delay_ms = ceiling_ms - ceiling_ms * share / (2 * 65_536);
    tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_come_back_as_they_were() {
        let check = |header: &str, bare: &str| {
            assert_eq!(bare_etag(header), bare);
            assert_eq!(quoted_etag(bare), header);
        };
        check("\"5d41402a-2\"", "5d41402a-2");
        check("W/\"5d41402a\"", "W/\"5d41402a\"");
    }
}
