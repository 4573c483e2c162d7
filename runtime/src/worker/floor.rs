// SPDX-License-Identifier: Apache-2.0
//! The tenants that a worker works for, as gateways wrote them down.
//!
//! Follows their records, and opens a [`Shop`] for each; where there are none,
//! as beside gateways of an earlier release, there is one for whoever has the
//! deployment for itself. Invariant: no lease is pulled before the records were
//! read once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use fanfold_backbone::{Change, Share};
use fanfold_protocol::{keys, tenant::Tenant};
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{LEASE, Worker, aside::Asides, cancel::Cancels, here, shop::Shop, tasks::Last};

/// A tenant's shop, with what listens to its cancellations.
type Open = (Arc<Shop>, Arc<AbortOnDropHandle<()>>);

/// The shops of a worker, and whose lease is next.
pub(super) struct Floor {
    worker: Worker,
    /// Whose turn it is.
    pub(super) share: Arc<Share<Arc<Shop>>>,
    /// Set when what has not begun is to be given back.
    draining: CancellationToken,
    /// Set when what still runs is to be given back.
    pub(super) drained: CancellationToken,
    turns: Arc<Semaphore>,
    /// By the tenant's name.
    open: Mutex<BTreeMap<String, Open>>,
}

impl Floor {
    /// Without any shop.
    pub(super) fn new(worker: Worker, draining: CancellationToken) -> Self {
        Self {
            share: Arc::new(Share::new(keys::TASK_QUEUE, LEASE)),
            draining,
            drained: CancellationToken::new(),
            turns: Arc::new(Semaphore::new(worker.running_max)),
            open: Mutex::default(),
            worker,
        }
    }

    /// Follows the tenants for as long as the backbone is open.
    pub(super) async fn follow(&self) {
        let (mut known, mut is_whole) = (BTreeMap::new(), false);
        let mut changes = self.worker.backbone.follow(keys::TENANTS);
        while let Some(change) = changes.next().await {
            match change {
                Change::Put { key, entry } => match serde_json::from_slice::<Tenant>(&entry.value) {
                    Ok(tenant) => drop(known.insert(key, Arc::new(tenant))),
                    Err(error) => tracing::error!(key, %error, "the record of a tenant cannot be read"),
                },
                Change::Delete { key, .. } => drop(known.remove(&key)),
                Change::Synced => is_whole = true,
            }
            if is_whole {
                self.open(&known);
            }
        }
    }

    /// Works for these tenants from now on. What runs of others goes on.
    fn open(&self, tenants: &BTreeMap<String, Arc<Tenant>>) {
        let own = self.worker.platforms.of(None);
        let alone = tenants.is_empty().then_some(&own.data.tenant);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *open);
        let mut members = Vec::new();
        for tenant in tenants.values().chain(alone) {
            let name = tenant.name.to_string();
            let known = before.get(&name).filter(|(shop, _)| shop.platform.data.tenant == *tenant);
            let (shop, listening) = known.cloned().unwrap_or_else(|| self.shop(tenant));
            members.push((name.clone(), tenant.weight, shop.backbone.clone(), Arc::clone(&shop)));
            open.insert(name, (shop, listening));
        }
        self.share.set(members);
    }

    fn shop(&self, tenant: &Arc<Tenant>) -> (Arc<Shop>, Arc<AbortOnDropHandle<()>>) {
        tracing::info!(tenant = %tenant.name, weight = tenant.weight, "works for a tenant");
        let backbone = self.worker.backbone.scoped(&tenant.scope);
        let shop = Arc::new(Shop {
            name: self.worker.name.clone(),
            cancels: Cancels::new(backbone.clone()),
            asides: Asides::default(),
            here: here::Leases::default(),
            last: Last::new(self.worker.running_max),
            backbone,
            members: self.worker.backbone.clone(),
            reach: Arc::clone(&self.worker.reach),
            platform: self.worker.platforms.of(Some(tenant)),
            guests: self.worker.guests.clone(),
            draining: self.draining.clone(),
            drained: self.drained.clone(),
            turns: Arc::clone(&self.turns),
            versions: Mutex::default(),
        });
        let listening = Arc::clone(&shop);
        let listening = AbortOnDropHandle::new(tokio::spawn(async move { listening.cancels.listen().await }));
        (shop, Arc::new(listening))
    }
}
