// SPDX-License-Identifier: Apache-2.0
//! The index: buckets, objects, uploads and parts, in one redb file.
//!
//! Keys are kept in the order of their bytes behind their bucket's name, so
//! that a listing is a walk along a tree. What is read here has been brought to
//! disk before; only [`commit`](super::commit) writes.

use std::{
    collections::HashSet,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    blobs::BlobId,
    failure::Failure,
    record::{ObjectRecord, PartRecord, UploadRecord},
};

/// Numbers about the store itself: `layout` and `boot`.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// Bucket name to the millisecond of its creation.
pub(super) const BUCKETS: TableDefinition<&str, u64> = TableDefinition::new("buckets");
/// [`place`] to an [`ObjectRecord`].
pub(super) const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
/// [`place`] to the bytes of a small object.
pub(super) const BODIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("bodies");
/// [`place`] and upload id to an [`UploadRecord`].
pub(super) const UPLOADS: TableDefinition<(&[u8], &str), &[u8]> = TableDefinition::new("uploads");
/// Upload id and part number to a [`PartRecord`].
pub(super) const PARTS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("parts");

/// The layout that this version writes.
const LAYOUT: u64 = 1;
/// Beyond this, commits save what a repair would find out, so that opening after a
/// crash need not walk the file; up to it, one flush to the disk is enough for each.
const QUICK_REPAIR_BYTES: u64 = 64 << 20;
/// Memory for pages of the index, and a quarter more for what the allocator adds to each. It fills up, if only
/// with what pages were before; what it lacks is read from the operating system's cache.
const CACHE_BYTES: usize = 16 << 20;

/// The index of a store.
pub(super) struct Index {
    path: PathBuf,
    state: RwLock<State>,
}

/// redb refuses all work after an I/O error until the file is opened anew. The
/// generation tells which opening an error belongs to.
struct State {
    generation: u64,
    database: Option<Database>,
}

impl Index {
    /// Opens or creates the index and counts this start.
    pub(super) fn open(path: &Path) -> Result<(Self, u64), Failure> {
        // redb says of itself that an altered file may make it panic; that is a damaged file, not our end.
        let created = catch_unwind(|| builder().create(path));
        let database = created.unwrap_or_else(|_| {
            Err(redb::StorageError::Corrupted("its pages contradict each other".to_owned()).into())
        })?;
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(is_large(path)?);
        let boot = {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let layout = numbers.get("layout")?.map_or(LAYOUT, |v| v.value());
            if layout != LAYOUT {
                let text =
                    format!("layout {LAYOUT} is expected, found {layout}; use the version that wrote it");
                return Err(Failure::Io(std::io::Error::other(text)));
            }
            let boot = numbers.get("boot")?.map_or(0, |v| v.value()) + 1;
            numbers.insert("layout", LAYOUT)?;
            numbers.insert("boot", boot)?;
            boot
        };
        transaction.open_table(BUCKETS)?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(BODIES)?;
        transaction.open_table(UPLOADS)?;
        transaction.open_table(PARTS)?;
        transaction.commit()?;
        let state = RwLock::new(State { generation: 0, database: Some(database) });
        Ok((Self { path: path.to_owned(), state }, boot))
    }

    /// Runs `work` on a snapshot.
    pub(super) fn read<T>(
        &self,
        work: impl Fn(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with(|database| work(&database.begin_read()?))
    }

    /// Runs `work` on the database; once more, on a database opened anew, when
    /// redb has stopped over an earlier I/O error.
    pub(super) fn with<T>(&self, work: impl Fn(&Database) -> Result<T, Failure>) -> Result<T, Failure> {
        let generation = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            match state.database.as_ref().map(&work) {
                Some(Err(failure)) if stopped(&failure) => {}
                Some(result) => return result,
                None => {}
            }
            state.generation
        };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.generation == generation {
            // The old handle holds the file's lock: it goes first.
            state.database = None;
            state.generation += 1;
        }
        let database = match state.database.take() {
            Some(database) => database,
            // One that is gone is not begun anew: the files would be nobody's.
            None => builder().open(&self.path)?,
        };
        work(state.database.insert(database))
    }

    /// Like [`Index::with`], for a transaction that is on disk when it is committed.
    /// Only its beginning is tried again: a commit that failed may be found done all the
    /// same, and done once more over itself it would free the files that it names.
    pub(super) fn write<T>(
        &self,
        work: impl Fn(WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let large = is_large(&self.path)?;
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(large);
            Ok(work(transaction))
        })?
    }

    /// Whether there is such a bucket.
    pub(super) fn has_bucket(&self, bucket: &str) -> Result<bool, Failure> {
        self.read(|tx| Ok(tx.open_table(BUCKETS)?.get(bucket)?.is_some()))
    }

    /// All buckets with their creation times in milliseconds, in order.
    pub(super) fn buckets(&self) -> Result<Vec<(String, u64)>, Failure> {
        self.read(|tx| {
            let table = tx.open_table(BUCKETS)?;
            let entries = table.iter()?.map(|entry| {
                let (name, created) = entry?;
                Ok((name.value().to_owned(), created.value()))
            });
            entries.collect()
        })
    }

    /// An object, with its bytes when they are in the index. The outer option is
    /// the bucket, the inner one the object.
    #[allow(clippy::type_complexity, reason = "a bucket, in it an object, with it perhaps its bytes")]
    pub(super) fn object(
        &self,
        bucket: &str,
        key: &str,
        with_body: bool,
    ) -> Result<Option<Option<(ObjectRecord, Option<Bytes>)>>, Failure> {
        let at = place(bucket, key);
        self.read(|tx| {
            let Some(record) = get_json::<ObjectRecord>(&tx.open_table(OBJECTS)?, &at)? else {
                return Ok(tx.open_table(BUCKETS)?.get(bucket)?.map(|_| None));
            };
            let inline = with_body && record.segments.is_empty();
            let body =
                if inline { tx.open_table(BODIES)?.get(&at[..])?.map(|v| copy(v.value())) } else { None };
            Ok(Some(Some((record, body))))
        })
    }

    /// An open upload.
    pub(super) fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Option<UploadRecord>, Failure> {
        let at = place(bucket, key);
        self.read(|tx| {
            let table = tx.open_table(UPLOADS)?;
            let found = table.get((&at[..], id))?;
            Ok(found.map(|v| serde_json::from_slice(v.value())).transpose()?)
        })
    }

    /// The parts of an upload after `marker`, at most `max` and one more.
    pub(super) fn parts(&self, id: &str, marker: u32, max: usize) -> Result<Vec<(u32, PartRecord)>, Failure> {
        self.read(|tx| {
            let table = tx.open_table(PARTS)?;
            let range = table.range((id, marker.saturating_add(1))..=(id, u32::MAX))?;
            let parts = range.take(max.saturating_add(1)).map(|entry| {
                let (key, value) = entry?;
                Ok((key.value().1, serde_json::from_slice(value.value())?))
            });
            parts.collect()
        })
    }

    /// The files that objects and parts name.
    pub(super) fn named_blobs(&self) -> Result<HashSet<BlobId>, Failure> {
        self.read(|tx| {
            let mut named = HashSet::new();
            for entry in tx.open_table(OBJECTS)?.iter()? {
                let record: ObjectRecord = serde_json::from_slice(entry?.1.value())?;
                named.extend(record.segments.iter().map(|s| s.blob));
            }
            for entry in tx.open_table(PARTS)?.iter()? {
                let record: PartRecord = serde_json::from_slice(entry?.1.value())?;
                named.insert(record.segment.blob);
            }
            Ok(named)
        })
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn is_large(path: &Path) -> Result<bool, Failure> {
    Ok(std::fs::metadata(path)?.len() > QUICK_REPAIR_BYTES)
}

fn stopped(failure: &Failure) -> bool {
    matches!(failure, Failure::Index(error) if matches!(**error, redb::Error::PreviousIo | redb::Error::Io(_)))
}

/// Where a key stands in the tables: bucket names have no NUL.
pub(super) fn place(bucket: &str, key: &str) -> Vec<u8> {
    let mut at = Vec::with_capacity(bucket.len() + 1 + key.len());
    at.extend_from_slice(bucket.as_bytes());
    at.push(0);
    at.extend_from_slice(key.as_bytes());
    at
}

/// The key of a [`place`].
pub(super) fn key_of(at: &[u8]) -> String {
    let key =
        at.split(|b| *b == 0).next().map_or(at, |bucket| at.get(bucket.len() + 1..).unwrap_or_default());
    String::from_utf8_lossy(key).into_owned()
}

/// The record at a place.
pub(super) fn get_json<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    at: &[u8],
) -> Result<Option<T>, Failure> {
    Ok(table.get(at)?.map(|v| serde_json::from_slice(v.value())).transpose()?)
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        fs::File,
        io,
        os::unix::fs::FileExt,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use redb::StorageBackend;

    use super::*;

    /// The index's file on a disk that fails to sync once, when it is told to. What was
    /// written stays readable, as it does in the memory of an operating system.
    #[derive(Debug)]
    struct Failing {
        file: File,
        is_due: Arc<AtomicBool>,
    }

    impl StorageBackend for Failing {
        fn len(&self) -> io::Result<u64> {
            Ok(self.file.metadata()?.len())
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read_exact_at(out, offset)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            if self.is_due.swap(false, Ordering::SeqCst) {
                return Err(io::Error::other("a sync that fails"));
            }
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.file.write_all_at(data, offset)
        }
    }

    /// An index whose next sync fails once the flag is set; opened anew it is a plain one.
    pub(in crate::server) fn failing(path: &Path) -> (Index, Arc<AtomicBool>) {
        drop(Index::open(path).unwrap());
        let is_due = Arc::new(AtomicBool::new(false));
        let file = File::options().read(true).write(true).open(path).unwrap();
        let disk = Failing { file, is_due: Arc::clone(&is_due) };
        let database = builder().create_with_backend(disk).unwrap();
        let state = RwLock::new(State { generation: 0, database: Some(database) });
        (Index { path: path.to_owned(), state }, is_due)
    }
}
