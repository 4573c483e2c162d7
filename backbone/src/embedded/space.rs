// SPDX-License-Identifier: Apache-2.0
//! The file under the embedded store, with its disk blocks reserved before they are used.
//!
//! Stands between redb and the operating system. redb grows a file sparsely and meets a full disk in the middle
//! of a commit; here growth takes real blocks first, so that it fails before anything was written.
//! Invariant: every byte below the file's length can be written without asking the disk for room.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Size and bound of the file, shared with whoever watches or changes them.
#[derive(Debug)]
pub(crate) struct Space {
    /// Length of the file, in bytes.
    pub(crate) bytes: AtomicU64,
    /// The length it may not grow beyond, in bytes.
    pub(crate) bytes_max: AtomicU64,
    /// Whether the disk says of what it writes next that it failed.
    #[cfg(test)]
    pub(crate) sync_fails: std::sync::atomic::AtomicBool,
}

impl Space {
    /// Of a file that is not open yet.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Space {
            bytes: AtomicU64::new(0),
            bytes_max: AtomicU64::new(bytes_max),
            #[cfg(test)]
            sync_fails: Default::default(),
        }
    }
}

/// A redb backend that reserves what it grows by.
#[derive(Debug)]
pub(crate) struct ReservedFile {
    inner: FileBackend,
    file: File,
    space: Arc<Space>,
}

impl ReservedFile {
    pub(crate) fn new(file: File, space: Arc<Space>) -> Result<Self, DatabaseError> {
        space.bytes.store(file.metadata()?.len(), Ordering::Relaxed);
        let second = file.try_clone()?;
        Ok(ReservedFile { inner: FileBackend::new(file)?, file: second, space })
    }

    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        if to > self.space.bytes_max.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        match fallocate(&self.file, FallocateFlags::empty(), from, to - from) {
            Ok(()) => Ok(()),
            // File systems without reservation (some network ones) grow sparsely, as redb would.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.inner.set_len(to),
            Err(failure) => {
                // Part of the blocks may have been taken; the file goes back to what the store knows.
                self.inner.set_len(from)?;
                Err(failure.into())
            }
        }
    }
}

impl StorageBackend for ReservedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let from = self.inner.len()?;
        if len > from {
            self.grow(from, len)?;
        } else {
            self.inner.set_len(len)?;
        }
        self.space.bytes.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()?;
        #[cfg(test)]
        if self.space.sync_fails.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("the disk reports a failure late"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
