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
    ErrorKind, Problem,
    function::{FunctionRecord, Version},
    limits,
    names::{AliasName, FunctionName},
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
    draws: Draws,
}

/// Calls through each alias that has a canary.
type Draws = Arc<BTreeMap<AliasName, Arc<AtomicU32>>>;

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

    /// The version for the next call through an alias, if there is one of this name. Of every
    /// hundred calls through it the canary gets exactly its percentage, spread out.
    pub(crate) fn draw(&self, alias: &AliasName) -> Option<u32> {
        let target = self.record.aliases.get(alias)?;
        let Some((canary, draws)) = target.canary.as_ref().zip(self.draws.get(alias)) else {
            return Some(target.version);
        };
        let ticket = draws.fetch_add(1, Ordering::Relaxed) % 100;
        // 61 has no divisor in common with 100, so this is a permutation.
        let is_canary = ticket * 61 % 100 < u32::from(canary.percent);
        Some(if is_canary { canary.version } else { target.version })
    }
}

/// The counters for a record's aliases; those that there were go on.
fn draws(record: &FunctionRecord, before: &Draws) -> Draws {
    let weighted = record.aliases.iter().filter(|(_, target)| target.canary.is_some());
    Arc::new(
        weighted.map(|(alias, _)| (alias.clone(), before.get(alias).cloned().unwrap_or_default())).collect(),
    )
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

    /// Fails where there is no room for a function of this name. Records of removed functions
    /// stay, each under its name: numbers of versions are not given again.
    ///
    /// # Errors
    /// `invalid-request`.
    pub(crate) fn check_name(&self, name: &FunctionName) -> Result<(), Problem> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        let most = limits::FUNCTION_NAMES_MAX;
        if functions.len() < most || functions.contains_key(name) {
            return Ok(());
        }
        let free = functions.values().find(|known| !known.exists()).map(|known| &known.record.name);
        let way = free.map_or_else(
            || "remove a function and take its name".to_owned(),
            |free| format!("take the name of one that was removed, such as {free}"),
        );
        Err(Problem::new(
            ErrorKind::InvalidRequest,
            format!("at most {most} names may be used for functions, found as many; {way}"),
        ))
    }

    /// Takes over a record, unless a newer one is known; answers what is known then.
    pub(crate) fn apply(&self, record: FunctionRecord, revision: u64) -> Known {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = functions.get_mut(&record.name) {
            if known.revision < revision {
                known.draws = draws(&record, &known.draws);
                known.record = Arc::new(record);
                known.revision = revision;
            }
            return known.clone();
        }
        let name = record.name.clone();
        let draws = draws(&record, &Draws::default());
        let known = Known { record: Arc::new(record), revision, versions: Arc::default(), draws };
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
    use fanfold_protocol::function::{AliasTarget, Canary};

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
    fn names_of_removed_functions_are_used_again_once_there_are_many() {
        let cache = Cache::default();
        let add = |name: &str, removed| {
            let record = FunctionRecord { latest: 1, removed, ..blank(&name.parse().unwrap()) };
            cache.apply(record, u64::from(removed) + 1);
        };
        let check = |name: &str, expected: Result<(), &str>| {
            let found = cache.check_name(&name.parse().unwrap());
            match expected {
                Ok(()) => assert_eq!(found, Ok(()), "{name}"),
                Err(part) => assert!(found.unwrap_err().detail.contains(part), "{name}"),
            }
        };
        for n in 1..limits::FUNCTION_NAMES_MAX {
            add(&format!("f-{n:04}"), 0);
        }
        check("g", Ok(()));
        add("g", 0);
        check("h", Err("at most 10000 names may be used for functions, found as many; remove a function"));
        check("f-0001", Ok(()));
        add("f-0001", 1);
        check("h", Err("such as f-0001"));
        check("f-0001", Ok(()));
    }

    fn weighted(aliases: &[(&str, u8)]) -> FunctionRecord {
        let target = |percent| AliasTarget::new(1, Some(Canary::new(2, percent)));
        let aliases = aliases.iter().map(|(alias, percent)| (alias.parse().unwrap(), target(*percent)));
        FunctionRecord { aliases: aliases.collect(), ..record(2) }
    }

    #[test]
    fn a_canary_gets_exactly_its_share() {
        for percent in [1, 10, 50, 99] {
            let known = Cache::default().apply(weighted(&[("prod", percent)]), 1);
            let hits = (0..100).filter(|_| known.draw(&"prod".parse().unwrap()) == Some(2)).count();
            assert_eq!(hits, usize::from(percent));
            assert_eq!(known.draw(&"test".parse().unwrap()), None);
        }
    }

    #[test]
    fn aliases_in_turn_give_each_canary_its_share() {
        let (cache, mut hits) = (Cache::default(), [0, 0]);
        let mut known = cache.apply(weighted(&[("a", 50), ("b", 50)]), 1);
        for call in 0..100 {
            for (hits, alias) in hits.iter_mut().zip(["a", "b"]) {
                *hits += u32::from(known.draw(&alias.parse().unwrap()) == Some(2));
            }
            // Nor does it begin anew with each change of the record.
            known = cache.apply(weighted(&[("a", 50), ("b", 50)]), call + 2);
        }
        assert_eq!(hits, [50, 50]);
    }
}
