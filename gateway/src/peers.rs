// SPDX-License-Identifier: Apache-2.0
//! The gateways of a deployment, among which the limits on calls are divided.
//!
//! Each has a record that lapses unless it is renewed, and counts those of its
//! tenant. With `n` gateways each admits an n-th of what function and tenant may
//! run at once, so that all together keep to it, at the price that a gateway
//! with more than its part of the calls refuses some that others had room for.
//! A gateway that cannot reach the backbone keeps to the number that it knew.

use std::collections::BTreeSet;

use fanfold_backbone::{Backbone, CasOutcome, Change, Error};
use fanfold_protocol::{
    keys,
    names::TenantName,
    seldom::Seldom,
    worker::{MEMBER_LEASE, MEMBER_RENEWAL},
};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::invoke::admission::Admission;

/// Counts the gateways of a tenant, this one included, and divides until `stop`.
pub fn start(backbone: Backbone, tenant: &TenantName, admission: Admission, stop: CancellationToken) {
    let prefix = keys::gateways(tenant);
    let own = format!("{prefix}{}", Uuid::now_v7());
    let (watching, stopping) = (backbone.clone(), stop.clone());
    tokio::spawn(async move { stopping.run_until_cancelled(watch(watching, prefix, admission)).await });
    tokio::spawn(renew(backbone, own, stop));
}

/// Keeps this gateway's record, and removes it at the end.
async fn renew(backbone: Backbone, own: String, stop: CancellationToken) {
    let (mut revision, told) = (None, Seldom::new());
    let mut ticks = tokio::time::interval(MEMBER_RENEWAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match write(&backbone, &own, revision).await {
            Ok(found) => revision = found,
            Err(error) if told.is_due(error.kind().code()) => {
                tracing::warn!(%error, "this gateway's record is not renewed; this is tried again");
            }
            Err(_) => {}
        }
    }
    if let Err(error) = backbone.delete(&own, revision).await {
        tracing::debug!(%error, "this gateway's record stays until it lapses");
    }
}

/// Gives the revision to go on from. The record is nobody else's, so what is found
/// in its place is an earlier one whose answer was lost.
async fn write(backbone: &Backbone, own: &str, revision: Option<u64>) -> Result<Option<u64>, Error> {
    let written = match revision {
        Some(revision) => backbone.update_with_ttl(own, Vec::new(), revision, MEMBER_LEASE).await?,
        None => backbone.create_with_ttl(own, Vec::new(), MEMBER_LEASE).await?,
    };
    Ok(match written {
        CasOutcome::Stored(revision) => Some(revision),
        CasOutcome::Conflict(found) => found.map(|entry| entry.revision),
    })
}

/// Follows the records, for as long as the backbone is open.
async fn watch(backbone: Backbone, prefix: String, admission: Admission) {
    let mut known = BTreeSet::new();
    let mut changes = backbone.follow(&prefix);
    while let Some(change) = changes.next().await {
        match change {
            Change::Put { key, .. } => {
                known.insert(key);
            }
            Change::Delete { key, .. } => {
                known.remove(&key);
            }
            Change::Synced => {}
        }
        admission.divide(known.len());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use fanfold_backbone::EmbeddedConfig;
    use fanfold_protocol::names::FunctionName;

    use super::*;

    /// How many calls of one function a gateway admits at once.
    async fn admitted(admission: &Admission) -> usize {
        let function: FunctionName = "f".parse().unwrap();
        let mut held = Vec::new();
        while let Ok(place) = admission.admit(&function).await {
            held.push(place);
        }
        held.len()
    }

    async fn admits(admissions: &[&Admission], expected: &[usize]) {
        let begun = Instant::now();
        loop {
            let mut found = Vec::new();
            for admission in admissions {
                found.push(admitted(admission).await);
            }
            if found == expected {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "expected {expected:?}, found {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn gateways_share_what_may_run_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.path().join("backbone"))).await.unwrap();
        let tenant: TenantName = "bank".parse().unwrap();
        let (first, second) = (Admission::new(6, 10), Admission::new(6, 10));
        let (stop, other) = (CancellationToken::new(), CancellationToken::new());
        start(backbone.clone(), &tenant, first.clone(), stop.clone());
        admits(&[&first], &[6]).await;
        start(backbone.clone(), &tenant, second.clone(), other.clone());
        admits(&[&first, &second], &[3, 3]).await;
        // Another tenant's gateways have limits of their own.
        let strangers = Admission::new(6, 10);
        start(backbone.clone(), &"shop".parse().unwrap(), strangers.clone(), stop.clone());
        admits(&[&first, &second, &strangers], &[3, 3, 6]).await;
        other.cancel();
        admits(&[&first], &[6]).await;
        stop.cancel();
    }
}
