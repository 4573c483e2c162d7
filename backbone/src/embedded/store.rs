// SPDX-License-Identifier: Apache-2.0
//! The redb file: opening, repairing, reading, committing, and opening again after a failed write.
//!
//! Under the writer (commits) and the readers (snapshots). Invariant: a commit is on disk when it returns; after
//! a failed one the file is reopened at its last commit, so reads go on while the disk is full.

use std::fs::{self, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use crate::embedded::EmbeddedConfig;
use crate::embedded::space::{ReservedFile, Space};
use crate::error::{Error, Result};
use crate::kv::Room;

/// Result of work inside a transaction.
pub(crate) type DbResult<T> = std::result::Result<T, redb::Error>;

/// key → (revision, expiry on the store's clock or 0, value)
pub(crate) const KV: TableDefinition<&str, (u64, u64, &[u8])> = TableDefinition::new("kv");
/// (expiry, key): which keys expire next
const EXPIRY: TableDefinition<(u64, &str), ()> = TableDefinition::new("kv_expiry");
/// (queue, sequence) → payload
pub(crate) const MESSAGES: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("messages");
/// (queue, sequence) → (attempts so far, due on the store's clock, id) of what is queued
pub(crate) const SCHEDULE: TableDefinition<(&str, u64), (u32, u64, &str)> = TableDefinition::new("schedule");
/// (queue, sequence) → (attempts, id, reason) of what was given up
pub(crate) const DEAD: TableDefinition<(&str, u64), (u32, &str, &str)> = TableDefinition::new("dead");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const FORMAT: u64 = 1;
/// Beyond this, commits save the allocator's state, so that opening after a crash need not walk the file.
const QUICK_REPAIR_BYTES: u64 = 256 << 20;
/// Up to this, every page's checksum is verified when the file is opened.
const VERIFY_BYTES_MAX: u64 = 64 << 20;

/// All tables of a write transaction.
pub(crate) struct Tables<'t> {
    pub(crate) kv: Table<'t, &'static str, (u64, u64, &'static [u8])>,
    pub(crate) expiry: Table<'t, (u64, &'static str), ()>,
    pub(crate) messages: Table<'t, (&'static str, u64), &'static [u8]>,
    pub(crate) schedule: Table<'t, (&'static str, u64), (u32, u64, &'static str)>,
    pub(crate) dead: Table<'t, (&'static str, u64), (u32, &'static str, &'static str)>,
    meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    fn open(txn: &'t WriteTransaction) -> DbResult<Self> {
        Ok(Tables {
            kv: txn.open_table(KV)?,
            expiry: txn.open_table(EXPIRY)?,
            messages: txn.open_table(MESSAGES)?,
            schedule: txn.open_table(SCHEDULE)?,
            dead: txn.open_table(DEAD)?,
            meta: txn.open_table(META)?,
        })
    }

    /// Records how far the store's clock and the sequence of revisions have come.
    pub(crate) fn advance(&mut self, clock_ms: u64, sequence: u64) -> DbResult<()> {
        self.meta.insert("clock_ms", clock_ms)?;
        self.meta.insert("sequence", sequence)?;
        Ok(())
    }
}

/// The last sequence that a commit on disk has handed out.
pub(crate) fn sequence(txn: &ReadTransaction) -> DbResult<u64> {
    Ok(txn.open_table(META)?.get("sequence")?.map_or(0, |value| value.value()))
}

/// Milliseconds that the store was open, over all its lives. Never goes back, whatever the wall clock does.
pub(crate) struct Clock {
    base_ms: u64,
    started: Instant,
}

impl Clock {
    pub(crate) fn now_ms(&self) -> u64 {
        self.base_ms.saturating_add(millis(self.started.elapsed()))
    }

    /// The moment at which this clock shows `ms`, or now where that has passed.
    pub(crate) fn instant(&self, ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms.saturating_sub(self.now_ms()))
    }
}

/// A duration in whole milliseconds, rounded up.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The open file.
pub(crate) struct Store {
    path: PathBuf,
    cache_bytes: usize,
    space: Arc<Space>,
    /// None when closed, or while the file cannot be reopened after a failure.
    db: RwLock<Option<Database>>,
    closed: AtomicBool,
    pub(crate) clock: Clock,
    /// The last sequence that was handed out before this life.
    pub(crate) sequence: u64,
}

impl Store {
    pub(crate) fn open(config: &EmbeddedConfig) -> Result<Self> {
        let path = config.path.clone();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|failure| explain(failure.into(), &path))?;
        }
        let space = Arc::new(Space::new(config.size_bytes_max.unwrap_or(u64::MAX)));
        let db = open_file(&path, config.cache_bytes, &space).map_err(|failure| explain(failure, &path))?;
        let (base_ms, sequence) = prepare(&db, &path)?;
        let clock = Clock { base_ms, started: Instant::now() };
        let (db, closed) = (RwLock::new(Some(db)), AtomicBool::new(false));
        Ok(Store { path, cache_bytes: config.cache_bytes, space, db, closed, clock, sequence })
    }

    /// Moves the bound on the file's size.
    pub(crate) fn set_size_bytes_max(&self, bytes_max: u64) {
        self.space.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// The file's size, where that has a bound.
    pub(crate) fn room(&self) -> Option<Room> {
        let bytes_max = self.space.bytes_max.load(Ordering::Relaxed);
        let bytes = self.space.bytes.load(Ordering::Relaxed);
        (bytes_max < u64::MAX).then_some(Room { bytes, bytes_max })
    }

    /// Makes the next commit fail when it is written.
    #[cfg(test)]
    pub(crate) fn fail_next_sync(&self) {
        self.space.sync_fails.store(true, Ordering::Relaxed);
    }

    /// Reads one snapshot. Blocks on the disk.
    pub(crate) fn read<T>(&self, work: impl Fn(&ReadTransaction) -> DbResult<T>) -> Result<T> {
        let attempt = || {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let db = db.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            work(&db.begin_read()?)
        };
        let outcome = attempt().or_else(|failure| match failure {
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                self.heal();
                attempt()
            }
            other => Err(other),
        });
        outcome.map_err(|failure| self.explain(failure))
    }

    /// Runs one transaction and makes it durable. On failure it is kept as a whole or not at all, and the file is
    /// reopened.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&mut Tables<'_>) -> DbResult<T>) -> Result<T> {
        let outcome = {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            db.as_ref().ok_or(redb::Error::DatabaseClosed).and_then(|db| {
                let quick_repair = self.space.bytes.load(Ordering::Relaxed) > QUICK_REPAIR_BYTES;
                commit(db, quick_repair, work)
            })
        };
        outcome.map_err(|failure| {
            self.heal();
            self.explain(failure)
        })
    }

    /// Lets go of the file.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(failure)) = db.map(Database::close) {
            tracing::warn!(%failure, "the backbone's file was not closed cleanly; it is repaired when next opened");
        }
    }

    fn explain(&self, failure: redb::Error) -> Error {
        match failure {
            redb::Error::DatabaseClosed if !self.closed.load(Ordering::Acquire) => {
                Error::Unavailable { detail: format!("{} cannot be reopened", self.path.display()) }
            }
            other => explain(other, &self.path),
        }
    }

    /// Reopens the file where redb refuses to go on after a failed write.
    fn heal(&self) {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) || db.as_ref().is_some_and(|db| !is_sick(db)) {
            return;
        }
        *db = None;
        match open_file(&self.path, self.cache_bytes, &self.space) {
            Ok(reopened) => *db = Some(reopened),
            Err(failure) => {
                tracing::error!(%failure, path = %self.path.display(), "the backbone's file cannot be reopened");
            }
        }
    }
}

fn is_sick(db: &Database) -> bool {
    !matches!(db.begin_write().map(WriteTransaction::abort), Ok(Ok(())))
}

fn commit<T>(
    db: &Database,
    quick_repair: bool,
    work: impl FnOnce(&mut Tables<'_>) -> DbResult<T>,
) -> DbResult<T> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(quick_repair);
    let done = work(&mut Tables::open(&txn)?)?;
    txn.commit()?;
    Ok(done)
}

fn open_file(path: &Path, cache_bytes: usize, space: &Arc<Space>) -> DbResult<Database> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let verify = file.metadata()?.len() <= VERIFY_BYTES_MAX;
    let backend = ReservedFile::new(file, Arc::clone(space))?;
    // redb says of itself that an altered file may make it panic; that is a damaged file, not our end.
    catch_unwind(AssertUnwindSafe(|| {
        Builder::new()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(verify)
            .create_with_backend(backend)
    }))
    .unwrap_or_else(|_| {
        Err(redb::StorageError::Corrupted("its pages contradict each other".to_owned()).into())
    })
    .map_err(redb::Error::from)
}

/// Makes the tables where they are missing, checks the format, and reads clock and sequence.
fn prepare(db: &Database, path: &Path) -> Result<(u64, u64)> {
    let found = commit(db, false, |tables| {
        let read =
            |tables: &Tables<'_>, name| DbResult::Ok(tables.meta.get(name)?.map(|value| value.value()));
        let format = read(tables, "format")?;
        if format.is_none() {
            tables.meta.insert("format", FORMAT)?;
        }
        let clock_ms = read(tables, "clock_ms")?.unwrap_or(0);
        Ok((format.unwrap_or(FORMAT), clock_ms, read(tables, "sequence")?.unwrap_or(0)))
    });
    match found.map_err(|failure| explain(failure, path))? {
        (FORMAT, clock_ms, sequence) => Ok((clock_ms, sequence)),
        (other, ..) => Err(Error::Corrupt {
            path: path.to_owned(),
            detail: format!("format {other} where this version reads {FORMAT}"),
        }),
    }
}

/// Says in our words what redb reports.
fn explain(failure: redb::Error, path: &Path) -> Error {
    use std::io::ErrorKind;
    match failure {
        redb::Error::Io(io) => match io.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Error::StorageFull { detail: io.to_string() }
            }
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                Error::Corrupt { path: path.to_owned(), detail: io.to_string() }
            }
            _ => Error::Unavailable { detail: format!("{}: {io}", path.display()) },
        },
        redb::Error::DatabaseAlreadyOpen => Error::Locked { path: path.to_owned() },
        redb::Error::DatabaseClosed => Error::Closed,
        other @ (redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_)) => {
            Error::Corrupt { path: path.to_owned(), detail: other.to_string() }
        }
        other => Error::Unavailable { detail: format!("{}: {other}", path.display()) },
    }
}
