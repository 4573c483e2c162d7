// SPDX-License-Identifier: Apache-2.0
//! What a handle of the store has used, so that a task's receipt is true.
//!
//! Requests are counted as they are sent, retries included; bytes as they are
//! read from bodies and as bodies are accepted. Counters only grow.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::box_error::BoxError;

/// Counters shared by all handles that carry this meter. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// A reading of a [`Meter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests sent, each retry counted.
    pub requests: u64,
    /// Bytes of bodies received.
    pub bytes_read: u64,
    /// Bytes of bodies that the store acknowledged.
    pub bytes_written: u64,
}

impl Meter {
    /// A meter that stands at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been used so far.
    pub fn usage(&self) -> Usage {
        Usage {
            requests: self.0.requests.load(Relaxed),
            bytes_read: self.0.bytes_read.load(Relaxed),
            bytes_written: self.0.bytes_written.load(Relaxed),
        }
    }

    pub(super) fn read(&self, bytes: usize) {
        self.0.bytes_read.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.0.bytes_written.fetch_add(bytes as u64, Relaxed);
    }
}

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.requests.fetch_add(1, Relaxed);
        Ok(())
    }
}
