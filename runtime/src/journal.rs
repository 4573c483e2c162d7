// SPDX-License-Identifier: Apache-2.0
//! What runs in this process, on disk: for the next start, should this one break in
//! the middle of it.
//!
//! A file of places. The first tells how the process ended (`crate::fault`, and the
//! kernel's count of processes that it killed for memory), each other is for a sandbox
//! or lease under way: the component's digest and a fingerprint of the work. A place
//! is written without waiting for the disk: what the system has outlives the process,
//! and when the host itself goes down, no guest is to blame. Invariant: the file of a
//! process that lives is locked, so only those of the dead are read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fanfold_protocol::{digest::Digest, limits};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::fault;

/// Folder of the files within the cache folder.
const FOLDER: &str = "running";
/// Bytes of a place: a digest and a fingerprint. Zeros where nothing runs.
const PLACE_BYTES: usize = 32 + 8;
/// Where the kernel says how many processes it has killed for memory.
const KERNEL_COUNTERS: &str = "/proc/vmstat";
const KILLED_FOR_MEMORY: &str = "oom_kill";
/// Which start of the system its counts are of.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Something under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) digest: Digest,
    /// Tells the work from other work; the same for a call that is made again.
    pub(crate) work: u64,
}

/// The file of this process.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    free: Mutex<Vec<u16>>,
}

/// The place of something under way; empty again once this is dropped.
pub(crate) struct Entry {
    journal: Arc<Journal>,
    place: u16,
}

/// What an earlier process left. Its file stays until it is [buried](Remains::bury).
pub(crate) struct Remains {
    /// What was under way when it broke; nothing when it was ended from outside.
    pub(crate) running: Vec<Running>,
    path: PathBuf,
    _locked: File,
}

impl Journal {
    /// Makes a file for this process.
    pub(crate) fn open(cache: &Path) -> io::Result<Self> {
        let (folder, name) = (cache.join(FOLDER), Uuid::new_v4().to_string());
        fs::create_dir_all(&folder)?;
        // It is locked before others can see it where they look.
        let (made, path) = (cache.join(format!("{name}.tmp")), folder.join(name));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&made)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all_at(&head(), 0)?;
        fs::rename(&made, &path)?;
        fault::mark(&file);
        let places = u16::try_from(limits::SANDBOXES_MAX).unwrap_or(u16::MAX - 1);
        Ok(Self { file, path, free: Mutex::new((1..=places).rev().collect()) })
    }

    /// What earlier processes left.
    pub(crate) fn remains(cache: &Path) -> io::Result<Vec<Remains>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(cache.join(FOLDER))? {
            let path = entry?.path();
            let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let running = match bytes.as_chunks::<PLACE_BYTES>().0.split_first() {
                Some((head, places)) if broke(head) => places.iter().filter_map(read).collect(),
                _ => Vec::new(),
            };
            found.push(Remains { running, path, _locked: file });
        }
        Ok(found)
    }

    /// Notes something that begins. More than there are sandboxes is not noted.
    pub(crate) fn enter(self: &Arc<Self>, running: Running) -> Option<Entry> {
        let place = self.free().pop()?;
        self.write(place, Some(running));
        Some(Entry { journal: Arc::clone(self), place })
    }

    fn write(&self, place: u16, running: Option<Running>) {
        let mut bytes = [0; PLACE_BYTES];
        if let Some(Running { digest, work }) = running {
            bytes[..32].copy_from_slice(digest.as_bytes());
            bytes[32..].copy_from_slice(&work.to_be_bytes());
        }
        if let Err(error) = self.file.write_all_at(&bytes, u64::from(place) * PLACE_BYTES as u64) {
            tracing::debug!(%error, "what runs is not written down");
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        fault::forget(&self.file);
        // What is left is empty and found by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.journal.write(self.place, None);
        self.journal.free().push(self.place);
    }
}

impl Remains {
    /// Removes the file, once what it says is told.
    pub(crate) fn bury(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "what ran before is not forgotten, and will be told again");
        }
    }
}

/// The first place of a process that lives: no fault, the kernel's count, and which
/// start of the system that is of.
fn head() -> [u8; PLACE_BYTES] {
    let mut head = [0; PLACE_BYTES];
    let (_, rest) = head.split_at_mut(8);
    let (killed, boot) = rest.split_at_mut(8);
    killed.copy_from_slice(&killed_for_memory().to_be_bytes());
    if let Ok(text) = fs::read_to_string(BOOT) {
        let id = text.trim().parse().unwrap_or(Uuid::nil());
        boot[..16].copy_from_slice(id.as_bytes());
    }
    head
}

/// Whether the process that wrote this was ended by a fault, or may have been by the
/// kernel for want of memory, rather than by a person, a supervisor or a power cut.
fn broke(then: &[u8; PLACE_BYTES]) -> bool {
    let now = head();
    let same_boot = then[16..] == now[16..];
    then[0] != 0 || same_boot && then[8..16] < now[8..16]
}

fn killed_for_memory() -> u64 {
    let counters = fs::read_to_string(KERNEL_COUNTERS).unwrap_or_default();
    let count = counters.lines().find_map(|line| line.strip_prefix(KILLED_FOR_MEMORY)?.trim().parse().ok());
    count.unwrap_or_default()
}

fn read(place: &[u8; PLACE_BYTES]) -> Option<Running> {
    let (digest, work) = place.split_first_chunk::<32>()?;
    let running =
        Running { digest: Digest::from_bytes(*digest), work: u64::from_be_bytes(work.try_into().ok()?) };
    (digest != &[0; 32]).then_some(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(n: u64) -> Running {
        Running { digest: Digest::of(&n.to_be_bytes()), work: n }
    }

    #[test]
    fn only_the_dead_leave_something_and_only_what_had_not_ended() {
        let cache = tempfile::tempdir().unwrap();
        let lives = Arc::new(Journal::open(cache.path()).unwrap());
        let held = lives.enter(running(1));
        assert!(Journal::remains(cache.path()).unwrap().is_empty(), "its process lives");
        let dies = Arc::new(Journal::open(cache.path()).unwrap());
        let (first, second, third) = (dies.enter(running(2)), dies.enter(running(3)), dies.enter(running(4)));
        drop(second);
        let again = dies.enter(running(5));
        // As when the process ends: the lock goes, nothing is tidied up.
        let (copy, killed) = (cache.path().join("running/dead"), cache.path().join("running/killed"));
        fs::copy(&dies.path, &killed).unwrap();
        drop((first, third, again, held));
        let [remains] = <[Remains; 1]>::try_from(Journal::remains(cache.path()).unwrap()).ok().unwrap();
        assert!(remains.running.is_empty(), "it was ended from outside");
        fs::rename(killed, &copy).unwrap();
        OpenOptions::new().write(true).open(&copy).unwrap().write_all_at(&[1], 0).unwrap();
        drop(remains);
        let remains = Journal::remains(cache.path()).unwrap();
        let [remains] = <[Remains; 1]>::try_from(remains).ok().unwrap();
        assert_eq!(remains.running, [running(2), running(5), running(4)]);
        assert!(Journal::remains(cache.path()).unwrap().is_empty(), "one is told of it");
        remains.bury();
        assert!(!copy.exists());
        drop(dies);
        assert!(Journal::remains(cache.path()).unwrap().is_empty());
    }

    #[test]
    fn a_kill_for_want_of_memory_counts_as_a_fault_and_another_boot_does_not() {
        let now = head();
        assert!(!broke(&now));
        let mut earlier = now;
        let killed = killed_for_memory();
        earlier[8..16].copy_from_slice(&killed.saturating_sub(1).to_be_bytes());
        assert_eq!(broke(&earlier), killed > 0);
        earlier[16] ^= 1;
        assert!(!broke(&earlier));
        earlier[0] = 1;
        assert!(broke(&earlier));
    }

    #[test]
    fn what_has_no_place_is_not_noted() {
        let cache = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(cache.path()).unwrap());
        let all: Vec<_> = (0..).map_while(|n| journal.enter(running(n))).collect();
        assert_eq!(all.len(), limits::SANDBOXES_MAX);
        drop(all);
        assert!(journal.enter(running(1)).is_some());
    }
}
