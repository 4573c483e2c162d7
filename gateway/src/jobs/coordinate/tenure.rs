// SPDX-License-Identifier: Apache-2.0
//! Who coordinates a job: one gateway at a time, for as long as it renews.
//!
//! A record in the backbone that lapses, changed under its revision. It keeps
//! two gateways from doing the same work; it is no guarantee of effect, which
//! the store's put-if-absent gives, should a paused process wake up too late.

use std::time::Duration;

use fanfold_backbone::{Backbone, CasOutcome};
use fanfold_protocol::keys;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::jobs::error::Result;

/// Renewals in the time after which a tenure lapses.
const RENEWALS: u32 = 4;

/// The right to coordinate a job; dropping it lets it lapse.
pub struct Tenure {
    /// Cancelled when the right is lost.
    pub lost: CancellationToken,
    /// Told when the backbone has lost the record, and perhaps more than that.
    pub forgotten: std::sync::Arc<tokio::sync::Notify>,
    backbone: Backbone,
    key: String,
    holder: String,
    _renewing: DropGuard,
}

impl Tenure {
    /// Takes a job, if nobody has it.
    pub async fn take(backbone: &Backbone, job: &Uuid, holder: &str, ttl: Duration) -> Result<Option<Self>> {
        let key = keys::coordinator(job);
        if backbone.get(&key).await?.is_some() {
            return Ok(None);
        }
        let value = holder.as_bytes().to_vec();
        let Some(revision) = backbone.create_with_ttl(&key, value, ttl).await?.revision() else {
            return Ok(None);
        };
        let stop = CancellationToken::new();
        let tenure = Self {
            lost: CancellationToken::new(),
            forgotten: std::sync::Arc::default(),
            backbone: backbone.clone(),
            key: key.clone(),
            holder: holder.to_owned(),
            _renewing: stop.clone().drop_guard(),
        };
        let renewing = Renewing {
            backbone: backbone.clone(),
            key,
            holder: holder.to_owned(),
            ttl,
            lost: tenure.lost.clone(),
            forgotten: std::sync::Arc::clone(&tenure.forgotten),
        };
        tokio::spawn(async move {
            stop.run_until_cancelled(renewing.run(revision)).await;
        });
        Ok(Some(tenure))
    }

    /// Gives the job back at once.
    pub async fn release(self) {
        let Self { backbone, key, holder, lost, _renewing: renewing, .. } = self;
        drop(renewing);
        if lost.is_cancelled() {
            return;
        }
        let released = async {
            match backbone.get(&key).await? {
                Some(entry) if entry.value == holder.as_bytes() => {
                    backbone.delete(&key, Some(entry.revision)).await.map(|_| ())
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = released.await {
            tracing::debug!(%error, "a tenure lapses by itself");
        }
    }
}

struct Renewing {
    backbone: Backbone,
    key: String,
    holder: String,
    ttl: Duration,
    lost: CancellationToken,
    forgotten: std::sync::Arc<tokio::sync::Notify>,
}

impl Renewing {
    async fn run(self, mut revision: u64) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.ttl / RENEWALS).await;
            let asked = Instant::now();
            match self.renew(revision, renewed).await {
                Ok(Some(next)) => (revision, renewed) = (next, asked),
                Ok(None) => break,
                Err(error) => tracing::warn!(key = self.key, %error, "a tenure was not renewed"),
            }
            // Nobody may think it has the job when another can have taken it.
            if renewed.elapsed() >= self.ttl {
                break;
            }
        }
        self.lost.cancel();
    }

    /// The next revision, or none when another has the job. A record that is not there was lost by the
    /// backbone, unless its time is over: then another may have had the job, and have ended it.
    async fn renew(&self, revision: u64, renewed: Instant) -> Result<Option<u64>> {
        let value = self.holder.as_bytes().to_vec();
        match self.backbone.update_with_ttl(&self.key, value.clone(), revision, self.ttl).await? {
            CasOutcome::Stored(next) => Ok(Some(next)),
            CasOutcome::Conflict(Some(_)) => Ok(None),
            CasOutcome::Conflict(None) if renewed.elapsed() >= self.ttl => Ok(None),
            CasOutcome::Conflict(None) => {
                let next = self.backbone.create_with_ttl(&self.key, value, self.ttl).await?.revision();
                if next.is_some() {
                    self.forgotten.notify_one();
                }
                Ok(next)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfold_backbone::EmbeddedConfig;

    use super::*;

    #[tokio::test]
    async fn only_a_record_that_went_before_its_time_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::new(folder.path().join("backbone.redb"));
        let backbone = Backbone::embedded(config).await.unwrap();
        let ttl = Duration::from_secs(30);
        let renewing = Renewing {
            backbone: backbone.clone(),
            key: keys::coordinator(&Uuid::now_v7()),
            holder: "one".to_owned(),
            ttl,
            lost: CancellationToken::new(),
            forgotten: std::sync::Arc::default(),
        };
        // As after a halt in which another has coordinated the job, ended it and given it back.
        let paused = Instant::now().checked_sub(ttl).unwrap();
        assert_eq!(renewing.renew(1, paused).await.unwrap(), None);
        assert!(backbone.get(&renewing.key).await.unwrap().is_none());
        assert!(renewing.renew(1, Instant::now()).await.unwrap().is_some());
        assert_eq!(backbone.get(&renewing.key).await.unwrap().unwrap().value, "one");
    }
}
