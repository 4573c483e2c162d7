// SPDX-License-Identifier: Apache-2.0
//! Components that may end the workers that run them, as all workers know them.
//!
//! At the start a worker tells what ran when it broke before; the records lie in
//! the backbone and are followed here, so that the next call asks memory alone.
//! Invariant: a component is refused only while its record in the backbone says
//! so, as far as the backbone answers.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use fanfold_backbone::{Backbone, CasOutcome, Change, DeleteOutcome, Entry};
use fanfold_protocol::{
    Problem,
    digest::Digest,
    keys,
    suspicion::{REMEMBERED, Suspicion},
};
use futures::StreamExt as _;
use tokio::runtime::Handle;

use crate::journal::{Remains, Running};

/// The suspicions that there are.
pub(crate) struct Suspects {
    backbone: Backbone,
    threads: Handle,
    known: RwLock<HashMap<Digest, Suspicion>>,
    /// False while there are none, which is nearly always.
    any: AtomicBool,
}

impl Suspects {
    pub(crate) fn new(backbone: Backbone, threads: Handle) -> Self {
        Self { backbone, threads, known: RwLock::default(), any: AtomicBool::new(false) }
    }

    /// How many components are quarantined.
    pub(crate) fn quarantined(&self) -> usize {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|suspicion| suspicion.quarantined).count()
    }

    /// Refuses a component that is quarantined.
    pub(crate) async fn check(&self, digest: &Digest) -> Result<(), Problem> {
        if !self.any.load(Relaxed) {
            return Ok(());
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        let Some(known) = known.filter(|suspicion| suspicion.quarantined) else { return Ok(()) };
        // Whoever has just lifted it is not to meet with what is known no more.
        match self.backbone.get(&keys::suspicion(digest)).await {
            Ok(entry) if !decode(entry.as_ref()).quarantined => Ok(()),
            _ => Err(known.problem()),
        }
    }

    /// Notes that something came to an end and this process lives.
    pub(crate) fn survived(self: &Arc<Self>, Running { digest, work }: Running) {
        if !self.any.load(Relaxed) {
            return;
        }
        let mut known = self.known();
        if !known.get_mut(&digest).is_some_and(|suspicion| suspicion.survived(work)) {
            return;
        }
        self.tidy(known);
        let suspects = Arc::clone(self);
        self.threads.spawn(async move {
            let cleared = |suspicion: &mut Suspicion| {
                suspicion.survived(work);
            };
            if let Err(error) = suspects.change(&digest, cleared).await {
                tracing::warn!(%error, %digest, "a suspicion is not cleared");
            }
        });
    }

    /// Tells of what ran when an earlier process broke, then learns what all know.
    pub(crate) async fn look_back(
        &self,
        worker: &str,
        remains: Vec<Remains>,
    ) -> fanfold_backbone::Result<()> {
        for remains in remains {
            let mut lost: HashMap<Digest, Vec<u64>> = HashMap::new();
            for Running { digest, work } in &remains.running {
                lost.entry(*digest).or_default().push(*work);
            }
            for (digest, mut works) in lost {
                works.sort_unstable();
                works.dedup();
                let died = |suspicion: &mut Suspicion| suspicion.died(worker, works.iter().copied());
                let suspicion = self.change(&digest, died).await?;
                let Suspicion { deaths, quarantined, .. } = suspicion;
                tracing::warn!(%digest, deaths, quarantined, "this worker broke while a component ran");
            }
            remains.bury();
        }
        for (key, entry) in self.backbone.list(keys::SUSPICIONS).await? {
            self.follow_one(&key, Some(&entry));
        }
        Ok(())
    }

    /// Follows the records, until the backbone closes.
    pub(crate) async fn follow(&self) {
        let mut changes = self.backbone.follow(keys::SUSPICIONS);
        while let Some(change) = changes.next().await {
            match change {
                Change::Put { key, entry } => self.follow_one(&key, Some(&entry)),
                Change::Delete { key, .. } => self.follow_one(&key, None),
                Change::Synced => {}
            }
        }
    }

    fn follow_one(&self, key: &str, entry: Option<&Entry>) {
        let digest = key.strip_prefix(keys::SUSPICIONS).and_then(|hex| format!("sha256:{hex}").parse().ok());
        let Some(digest) = digest else { return };
        let suspicion = decode(entry);
        let mut known = self.known();
        let before = known.insert(digest, suspicion.clone()).unwrap_or_default();
        if suspicion.quarantined != before.quarantined {
            let workers = suspicion.workers.join(", ");
            tracing::warn!(%digest, quarantined = suspicion.quarantined, workers, "a component's quarantine");
        }
        self.tidy(known);
    }

    /// Changes a record by compare-and-set, and gives what it is then.
    async fn change(
        &self,
        digest: &Digest,
        change: impl Fn(&mut Suspicion),
    ) -> fanfold_backbone::Result<Suspicion> {
        let (backbone, key) = (&self.backbone, keys::suspicion(digest));
        loop {
            let found = backbone.get(&key).await?;
            let mut suspicion = decode(found.as_ref());
            change(&mut suspicion);
            let revision = found.map(|entry| entry.revision);
            if suspicion.is_nothing() {
                match backbone.delete(&key, revision).await? {
                    DeleteOutcome::Conflict(_) => continue,
                    DeleteOutcome::Deleted(_) | DeleteOutcome::Absent => return Ok(suspicion),
                }
            }
            let value = serde_json::to_vec(&suspicion).unwrap_or_default();
            let outcome = match (revision, suspicion.quarantined) {
                (Some(revision), true) => backbone.update(&key, value, revision).await?,
                (Some(revision), false) => {
                    backbone.update_with_ttl(&key, value, revision, REMEMBERED).await?
                }
                (None, true) => backbone.create(&key, value).await?,
                (None, false) => backbone.create_with_ttl(&key, value, REMEMBERED).await?,
            };
            if let CasOutcome::Stored(_) = outcome {
                return Ok(suspicion);
            }
        }
    }

    fn known(&self) -> RwLockWriteGuard<'_, HashMap<Digest, Suspicion>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tidy(&self, mut known: RwLockWriteGuard<'_, HashMap<Digest, Suspicion>>) {
        known.retain(|_, suspicion| !suspicion.is_nothing());
        self.any.store(!known.is_empty(), Relaxed);
    }
}

/// What a record says; one that cannot be read says nothing.
fn decode(entry: Option<&Entry>) -> Suspicion {
    entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default()
}
