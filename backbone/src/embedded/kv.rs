// SPDX-License-Identifier: Apache-2.0
//! Key-value inside a transaction: compare-and-set, deletion, expiry, listing.
//!
//! Called by the writer (changes) and by readers (snapshots). Invariant: an expired key is absent to everybody
//! from the moment it expires, whether or not it was purged.

use std::time::Duration;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};

use crate::embedded::store::{DbResult, KV, Tables, millis};
use crate::kv::{CasOutcome, DeleteOutcome, Entry, Expected, Page};
use crate::name::Scope;

/// Keys purged in one transaction, so that a flood of expiries does not hold up the rest.
const PURGED_MAX: usize = 1_000;

/// A change to tell watchers once it is committed: key, revision, and the value unless removed.
pub(crate) type Changed = (String, u64, Option<Bytes>);

/// What the key-value half needs of the current transaction.
pub(crate) struct Kv<'a, 't> {
    tables: &'a mut Tables<'t>,
    now_ms: u64,
    sequence: &'a mut u64,
    changed: &'a mut Vec<Changed>,
}

impl<'a, 't> Kv<'a, 't> {
    pub(crate) fn new(
        tables: &'a mut Tables<'t>,
        now_ms: u64,
        sequence: &'a mut u64,
        changed: &'a mut Vec<Changed>,
    ) -> Self {
        Kv { tables, now_ms, sequence, changed }
    }

    pub(crate) fn write(
        &mut self,
        key: &str,
        value: &Bytes,
        ttl: Option<Duration>,
        expected: &Expected,
    ) -> DbResult<CasOutcome> {
        let held = self.tables.kv.get(key)?.and_then(|row| live(row.value(), self.now_ms));
        let agreed = match (expected, &held) {
            (Expected::Anything, _) | (Expected::Nothing, None) => true,
            (Expected::Revision(revision), Some(entry)) => entry.revision == *revision,
            _ => false,
        };
        if !agreed {
            return Ok(CasOutcome::Conflict(held));
        }
        *self.sequence += 1;
        let revision = *self.sequence;
        // A time to live of nothing still passes; 0 means never.
        let expires = ttl.map_or(0, |ttl| self.now_ms.saturating_add(millis(ttl)).max(1));
        let old = self.tables.kv.insert(key, (revision, expires, &value[..]))?.map(|row| row.value().1);
        self.reschedule(key, old.unwrap_or(0), expires)?;
        self.changed.push((key.to_owned(), revision, Some(value.clone())));
        Ok(CasOutcome::Stored(revision))
    }

    pub(crate) fn delete(&mut self, key: &str, expected: Option<u64>) -> DbResult<DeleteOutcome> {
        let held = self.tables.kv.get(key)?.and_then(|row| live(row.value(), self.now_ms));
        let Some(entry) = held else { return Ok(DeleteOutcome::Absent) };
        if expected.is_some_and(|revision| revision != entry.revision) {
            return Ok(DeleteOutcome::Conflict(entry));
        }
        Ok(DeleteOutcome::Deleted(self.remove(key)?))
    }

    /// Removes what has expired; answers when the next key expires.
    pub(crate) fn purge(&mut self) -> DbResult<Option<u64>> {
        for _ in 0..PURGED_MAX {
            let next = self.tables.expiry.first()?.map(|(row, _)| {
                let (expires, key) = row.value();
                (expires, key.to_owned())
            });
            match next {
                Some((expires, key)) if expires <= self.now_ms => {
                    self.remove(&key)?;
                }
                other => return Ok(other.map(|(expires, _)| expires)),
            }
        }
        Ok(Some(self.now_ms))
    }

    fn remove(&mut self, key: &str) -> DbResult<u64> {
        *self.sequence += 1;
        let old = self.tables.kv.remove(key)?.map(|row| row.value().1);
        self.reschedule(key, old.unwrap_or(0), 0)?;
        self.changed.push((key.to_owned(), *self.sequence, None));
        Ok(*self.sequence)
    }

    fn reschedule(&mut self, key: &str, old: u64, new: u64) -> DbResult<()> {
        if old != 0 {
            self.tables.expiry.remove((old, key))?;
        }
        if new != 0 {
            self.tables.expiry.insert((new, key), ())?;
        }
        Ok(())
    }
}

/// One key in a snapshot.
pub(crate) fn get(txn: &ReadTransaction, key: &str, now_ms: u64) -> DbResult<Option<Entry>> {
    Ok(txn.open_table(KV)?.get(key)?.and_then(|row| live(row.value(), now_ms)))
}

/// A page of a scope in a snapshot.
pub(crate) fn list(
    txn: &ReadTransaction,
    scope: &Scope,
    after: Option<&str>,
    limit: usize,
    now_ms: u64,
) -> DbResult<Page> {
    let table = txn.open_table(KV)?;
    let start = after.filter(|after| *after >= scope.as_str()).unwrap_or(scope.as_str());
    let mut page = Page::default();
    for row in table.range(start..)? {
        let (key, value) = row?;
        let key = key.value();
        if Some(key) == after {
            continue;
        }
        if !scope.contains(key) {
            break;
        }
        if page.entries.len() >= limit.max(1) {
            page.next = page.entries.last().map(|(key, _)| key.clone());
            break;
        }
        if let Some(entry) = live(value.value(), now_ms) {
            page.entries.push((key.to_owned(), entry));
        }
    }
    Ok(page)
}

fn live((revision, expires, value): (u64, u64, &[u8]), now_ms: u64) -> Option<Entry> {
    let alive = expires == 0 || expires > now_ms;
    alive.then(|| Entry { value: Bytes::copy_from_slice(value), revision })
}
