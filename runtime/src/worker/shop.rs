// SPDX-License-Identifier: Apache-2.0
//! A worker's work for one tenant: what it reaches, and nothing of anybody else.
//!
//! Made for each tenant that a gateway wrote down. Invariant: what a lease may
//! reach follows from the queue that it came from, never from what it says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fanfold_backbone::Backbone;
use fanfold_protocol::{ErrorKind, Problem, function::Version, keys, names::FunctionName, uri::ObjectUri};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Reach, aside::Asides, cancel::Cancels, here, tasks::Last};
use crate::{Platform, host::store_problem};

/// Versions kept in memory.
const VERSIONS_MAX: usize = 1_024;

/// What leases of one tenant are worked on with.
pub(crate) struct Shop {
    /// The worker's name.
    pub(crate) name: String,
    /// The tenant's part of it.
    pub(crate) backbone: Backbone,
    /// All of it, where workers are members.
    pub(crate) members: Backbone,
    /// Whether the store answers.
    pub(crate) reach: Arc<Reach>,
    pub(crate) platform: Arc<Platform>,
    pub(crate) guests: Handle,
    pub(crate) cancels: Cancels,
    /// The leases that are left to others.
    pub(super) asides: Asides,
    /// The leases that are worked on.
    pub(super) here: here::Leases,
    /// How the last of them went.
    pub(super) last: Last,
    /// Set when what has not begun is to be given back.
    pub(crate) draining: CancellationToken,
    /// Set when what still runs is to be given back.
    pub(crate) drained: CancellationToken,
    /// Turns to run tasks, of all tenants together.
    pub(crate) turns: Arc<Semaphore>,
    pub(super) versions: Mutex<HashMap<(FunctionName, u32), Arc<Version>>>,
}

impl Shop {
    /// A version as it was deployed; versions never change.
    pub(crate) async fn version(&self, name: &str, number: u32) -> Result<Arc<Version>, Problem> {
        let name: FunctionName = name.parse()?;
        let key = (name, number);
        if let Some(version) = self.versions().get(&key) {
            return Ok(Arc::clone(version));
        }
        let data = &self.platform.data;
        let uri = ObjectUri::new(&data.tenant.system_bucket, keys::version(&key.0, number))?;
        let bytes = data.store.get(&uri, None).await.map_err(|error| match error {
            fanfold_storage::Error::NotFound { .. } => Problem::new(
                ErrorKind::VersionNotFound,
                format!("expected version {number} of {} to be deployed, found none; deploy it again", key.0),
            ),
            error => store_problem(&error),
        })?;
        let version: Version = serde_json::from_slice(&bytes).map_err(|error| {
            crate::internal(format!("expected version {number} of {} as JSON, found: {error}", key.0))
        })?;
        let version = Arc::new(version);
        let mut versions = self.versions();
        if versions.len() >= VERSIONS_MAX {
            versions.clear();
        }
        versions.insert(key, Arc::clone(&version));
        Ok(version)
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, HashMap<(FunctionName, u32), Arc<Version>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
