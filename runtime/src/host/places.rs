// SPDX-License-Identifier: Apache-2.0
//! Places for the tables that a guest opens itself, and what the host holds for them.
//!
//! The input and output of a task need none: a worker has as many of those as threads, while all its
//! sandboxes together may open thousands of tables. What is held is estimated: of a table that is read as much as
//! is stored, and that again decoded; of one that is written all that was written; of neither more than
//! [`limits::TABLE_HELD_BYTES_MAX`]. Invariant: what is held for a table is given back with its place.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use fanfold_protocol::{ErrorKind, Problem, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of one sandbox.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    held_bytes: Arc<AtomicU64>,
}

/// A table's place, and what is held for it.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    of_all: Arc<AtomicU64>,
    bytes: u64,
}

impl Places {
    /// So many, all of them free.
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), held_bytes: Arc::default() }
    }

    /// One that is free.
    pub(crate) fn take(&self) -> Result<Place, Problem> {
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            Problem::new(
                ErrorKind::MemoryExceeded,
                format!(
                    "expected at most {} tables open at once, found one more; finish or drop one before the next",
                    limits::TABLES_OPEN_MAX
                ),
            )
        })?;
        Ok(Place { _permit: permit, of_all: Arc::clone(&self.held_bytes), bytes: 0 })
    }

    /// What is held for all that are taken.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }
}

impl Place {
    /// Notes a table that is read and is stored in so many bytes.
    pub(crate) fn reads(&mut self, stored_bytes: u64) {
        self.hold(stored_bytes.saturating_mul(2));
    }

    /// Notes that so many bytes more are written.
    pub(crate) fn writes(&mut self, bytes: u64) {
        self.hold(bytes);
    }

    fn hold(&mut self, more: u64) {
        let more = more.min(limits::TABLE_HELD_BYTES_MAX - self.bytes);
        self.bytes += more;
        self.of_all.fetch_add(more, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        let places = Places::new(2);
        let (mut read, mut written) = (places.take().unwrap(), places.take().unwrap());
        assert_eq!(places.take().unwrap_err().code, ErrorKind::MemoryExceeded);
        read.reads(100);
        written.writes(7);
        written.writes(8);
        assert_eq!(places.held_bytes(), 215);
        written.writes(u64::MAX);
        assert_eq!(places.held_bytes(), 200 + limits::TABLE_HELD_BYTES_MAX);
        drop(written);
        assert_eq!(places.held_bytes(), 200);
        read.reads(u64::MAX);
        assert_eq!(places.held_bytes(), limits::TABLE_HELD_BYTES_MAX);
        drop(read);
        assert_eq!(places.held_bytes(), 0);
        assert!(places.take().is_ok());
    }
}
