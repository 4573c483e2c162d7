// SPDX-License-Identifier: Apache-2.0
//! What this process knows of functions, in memory: the path of every call.
//!
//! Filled by the registry's watch of the backbone and by its own changes.
//! A record only ever gives way to one of a newer revision, so the order in
//! which news arrives does not matter.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

use fanfold_protocol::{
    function::{AliasTarget, FunctionRecord, Version},
    names::FunctionName,
};

/// Versions of one function kept in memory; the oldest go first.
const VERSIONS_KEPT: usize = 32;

/// A function's record as last heard of.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) record: Arc<FunctionRecord>,
    /// Of the backbone's entry.
    revision: u64,
    versions: Arc<RwLock<BTreeMap<u32, Arc<Version>>>>,
    draws: Arc<AtomicU32>,
}

impl Known {
    /// Whether the function exists: after a removal only the record is left.
    pub(crate) fn exists(&self) -> bool {
        self.record.latest > self.record.removed
    }

    /// Whether this version of it exists.
    pub(crate) fn has(&self, version: u32) -> bool {
        (self.record.removed + 1..=self.record.latest).contains(&version)
    }

    pub(crate) fn version(&self, number: u32) -> Option<Arc<Version>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(crate) fn keep(&self, version: Arc<Version>) {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        versions.insert(version.version, version);
        if versions.len() > VERSIONS_KEPT {
            versions.pop_first();
        }
    }

    /// The version for the next call through an alias. Of every hundred calls
    /// the canary gets exactly its percentage, spread out.
    pub(crate) fn draw(&self, target: &AliasTarget) -> u32 {
        let Some(canary) = &target.canary else { return target.version };
        let ticket = self.draws.fetch_add(1, Ordering::Relaxed) % 100;
        // 61 has no divisor in common with 100, so this is a permutation.
        if ticket * 61 % 100 < u32::from(canary.percent) { canary.version } else { target.version }
    }
}

/// All that is known.
#[derive(Default)]
pub(crate) struct Cache {
    functions: RwLock<HashMap<FunctionName, Known>>,
}

impl Cache {
    pub(crate) fn get(&self, name: &FunctionName) -> Option<Known> {
        self.functions.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Every function, by name.
    pub(crate) fn all(&self) -> Vec<Known> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = functions.values().filter(|known| known.exists()).cloned().collect();
        all.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        all
    }

    /// Takes over a record, unless a newer one is known; answers what is known then.
    pub(crate) fn apply(&self, record: FunctionRecord, revision: u64) -> Known {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = functions.get_mut(&record.name) {
            if known.revision < revision {
                known.record = Arc::new(record);
                known.revision = revision;
            }
            return known.clone();
        }
        let name = record.name.clone();
        let known =
            Known { record: Arc::new(record), revision, versions: Arc::default(), draws: Arc::default() };
        functions.insert(name, known.clone());
        known
    }

    /// Forgets a function whose record is gone, unless a newer one is known.
    pub(crate) fn forget(&self, name: &FunctionName, revision: u64) {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if functions.get(name).is_some_and(|known| known.revision < revision) {
            functions.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::function::Canary;

    use super::{super::records::blank, *};

    fn record(latest: u32) -> FunctionRecord {
        FunctionRecord { latest, ..blank(&"f".parse().unwrap()) }
    }

    #[test]
    fn newer_records_win_in_any_order() {
        let cache = Cache::default();
        cache.apply(record(2), 20);
        assert_eq!(cache.apply(record(1), 10).record.latest, 2);
        cache.forget(&"f".parse().unwrap(), 15);
        assert!(cache.get(&"f".parse().unwrap()).is_some());
        cache.forget(&"f".parse().unwrap(), 25);
        assert!(cache.get(&"f".parse().unwrap()).is_none());
    }

    #[test]
    fn a_canary_gets_exactly_its_share() {
        for percent in [1, 10, 50, 99] {
            let known = Cache::default().apply(record(2), 1);
            let target = AliasTarget::new(1, Some(Canary::new(2, percent)));
            let hits = (0..100).filter(|_| known.draw(&target) == 2).count();
            assert_eq!(hits, usize::from(percent));
        }
    }
}
