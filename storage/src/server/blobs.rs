// SPDX-License-Identifier: Apache-2.0
//! Bodies that are too large for the index: one file each, written once.
//!
//! A copy is another name of the same file, where the file system has such.
//! A file is on disk, directory included, before the index names it, and goes
//! only after the index has stopped naming it and the last reader has let go. A
//! crash in between leaves a file that nobody names; the next start sweeps it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use serde::{Deserialize, Serialize};

use super::{failure::Failure, record::Segment};

/// Directories that files are spread over.
const FAN_OUT: u64 = 256;

/// The name of a file: the start of the server that wrote it (`boot`) and a
/// number within it. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct BlobId {
    boot: u64,
    number: u64,
}

/// All files under one directory. Cheap to share by `Arc`.
#[derive(Debug)]
pub(super) struct Blobs {
    dir: PathBuf,
    boot: u64,
    next: AtomicU64,
    free_bytes_min: u64,
    /// Bytes that are promised to bodies and not written yet.
    promised: AtomicU64,
    readers: Mutex<Readers>,
    reaper: mpsc::Sender<BlobId>,
}

/// Who reads what, and what is to go once nobody reads it.
#[derive(Debug, Default)]
struct Readers {
    held: HashMap<BlobId, usize>,
    doomed: HashSet<BlobId>,
    /// Grows with each retirement, so that a reader notices one that came
    /// between its look into the index and its hold.
    epoch: u64,
}

impl Blobs {
    /// Opens the directory and starts the thread that removes files. `boot` is
    /// larger than at every earlier start.
    pub(super) fn open(dir: PathBuf, boot: u64, free_bytes_min: u64) -> io::Result<Arc<Self>> {
        for n in 0..FAN_OUT {
            fs::create_dir_all(dir.join(format!("{n:02x}")))?;
        }
        sync_dir(&dir)?;
        let (reaper, doomed) = mpsc::channel();
        let root = dir.clone();
        thread::Builder::new().name("s3-reaper".to_owned()).spawn(move || reap(&root, &doomed))?;
        Ok(Arc::new(Self {
            dir,
            boot,
            next: AtomicU64::new(0),
            free_bytes_min,
            promised: AtomicU64::new(0),
            readers: Mutex::default(),
            reaper,
        }))
    }

    /// Promises room for `bytes` that are about to be written, so that others are not
    /// promised the same.
    pub(super) fn promise(self: &Arc<Self>, bytes: u64) -> Result<Room, Failure> {
        let earlier = self.promised.fetch_add(bytes, Ordering::SeqCst);
        let room = Room { blobs: Arc::clone(self), bytes };
        self.check_room(earlier.saturating_add(bytes)).map(|()| room)
    }

    /// Refuses when writing `bytes` would leave less than the reserve free. What is promised to
    /// others may come slowly, and the reserve is for small changes meanwhile.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(io::Error::from)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = self.free_bytes_min.saturating_add(bytes);
        if free < needed { Err(Failure::Full { free, needed }) } else { Ok(()) }
    }

    /// A new file, removed again unless it is kept.
    pub(super) fn draft(self: &Arc<Self>) -> io::Result<Draft> {
        let id = self.new_id();
        let file = File::options().write(true).create_new(true).open(path(&self.dir, id))?;
        Ok(Draft { blobs: Arc::clone(self), id, file: Some(file) })
    }

    /// Another name of a file that is held, on disk with its directory: removed again unless
    /// it is kept. File systems without such names, or with no more for a file, refuse it.
    pub(super) fn link(self: &Arc<Self>, held: BlobId) -> io::Result<(Draft, BlobId)> {
        let id = self.new_id();
        let name = path(&self.dir, id);
        fs::hard_link(path(&self.dir, held), &name)?;
        let draft = Draft { blobs: Arc::clone(self), id, file: None };
        name.parent().map_or(Ok(()), sync_dir)?;
        Ok((draft, id))
    }

    fn new_id(&self) -> BlobId {
        BlobId { boot: self.boot, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// A file for reading.
    pub(super) fn read(&self, id: BlobId) -> io::Result<File> {
        File::open(path(&self.dir, id))
    }

    /// Makes sure that a file is there and as long as it was written.
    pub(super) fn check(&self, segment: &Segment) -> Result<(), Failure> {
        let path = path(&self.dir, segment.blob);
        match fs::metadata(&path) {
            Ok(file) if file.len() >= segment.size => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Err(Failure::Lost(path)),
        }
    }

    /// Where retirements stand, to be given to [`Blobs::hold`].
    pub(super) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Keeps these files from going until the hold is dropped. None when some
    /// file was retired since `epoch`: look into the index again.
    pub(super) fn hold(self: &Arc<Self>, segments: &[Segment], epoch: u64) -> Option<Hold> {
        let mut readers = self.lock();
        if readers.epoch != epoch {
            return None;
        }
        let ids: Vec<_> = segments.iter().map(|s| s.blob).collect();
        for id in &ids {
            *readers.held.entry(*id).or_default() += 1;
        }
        Some(Hold { blobs: Arc::clone(self), ids })
    }

    /// Removes files that the index no longer names, each after its last reader.
    pub(super) fn retire(&self, ids: impl IntoIterator<Item = BlobId>) {
        let mut readers = self.lock();
        for id in ids {
            readers.epoch += 1;
            if readers.held.contains_key(&id) {
                readers.doomed.insert(id);
            } else {
                self.remove(id);
            }
        }
    }

    /// Removes the files of earlier starts that are not among `named`.
    pub(super) fn sweep(&self, named: &HashSet<BlobId>) -> io::Result<u64> {
        let mut swept = 0;
        for fan in fs::read_dir(&self.dir)? {
            for entry in fs::read_dir(fan?.path())? {
                let id = entry?.file_name().to_str().and_then(parse_name);
                if let Some(id) = id.filter(|id| id.boot < self.boot && !named.contains(id)) {
                    self.remove(id);
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }

    fn remove(&self, id: BlobId) {
        if self.reaper.send(id).is_err() {
            tracing::warn!(?id, "a file is left for the next start to sweep");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unlinking a large file takes long on some file systems: it has its own thread.
fn reap(dir: &Path, doomed: &mpsc::Receiver<BlobId>) {
    for id in doomed {
        if let Err(error) = fs::remove_file(path(dir, id))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(?id, %error, "a file could not be removed; the next start tries again");
        }
    }
}

fn path(dir: &Path, id: BlobId) -> PathBuf {
    dir.join(format!("{:02x}", id.number % FAN_OUT)).join(format!("{:x}-{:x}", id.boot, id.number))
}

fn parse_name(name: &str) -> Option<BlobId> {
    let (boot, number) = name.split_once('-')?;
    Some(BlobId { boot: u64::from_str_radix(boot, 16).ok()?, number: u64::from_str_radix(number, 16).ok()? })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether a directory, which may be missing itself, holds files.
pub(super) fn any_in(dir: &Path) -> io::Result<bool> {
    for n in 0..FAN_OUT {
        let entries = match fs::read_dir(dir.join(format!("{n:02x}"))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            if entry?.file_name().to_str().and_then(parse_name).is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Room that is promised to a body, as far as it is not written. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Room {
    blobs: Arc<Blobs>,
    bytes: u64,
}

impl Room {
    /// Gives back what has been written: the disk counts it from now on.
    pub(super) fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.blobs.promised.fetch_sub(bytes, Ordering::SeqCst);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.written(self.bytes);
    }
}

/// A file that is being written. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Draft {
    blobs: Arc<Blobs>,
    id: BlobId,
    file: Option<File>,
}

impl Draft {
    /// The file.
    pub(super) fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is closed"))
    }

    /// Brings bytes and directory entry to the disk and closes the file.
    pub(super) fn sync(&mut self) -> io::Result<BlobId> {
        if let Some(file) = self.file.take() {
            file.sync_all()?;
            let path = path(&self.blobs.dir, self.id);
            path.parent().map_or(Ok(()), sync_dir)?;
        }
        Ok(self.id)
    }

    /// Keeps the file: the index names it, or may do so.
    pub(super) fn keep(self) {
        let mut this = self;
        this.file = None;
        // `Drop` removes what is not marked as kept.
        this.id.boot = KEPT;
    }
}

/// No start of a server has this number.
const KEPT: u64 = u64::MAX;

impl Drop for Draft {
    fn drop(&mut self) {
        if self.id.boot != KEPT {
            self.blobs.remove(self.id);
        }
    }
}

/// Keeps files alive for a reader.
#[derive(Debug)]
pub(super) struct Hold {
    blobs: Arc<Blobs>,
    ids: Vec<BlobId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut readers = self.blobs.lock();
        for id in &self.ids {
            let Some(count) = readers.held.get_mut(id) else { continue };
            *count -= 1;
            if *count == 0 {
                readers.held.remove(id);
                if readers.doomed.remove(id) {
                    self.blobs.remove(*id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_room_is_promised_once() {
        let root = tempfile::tempdir().unwrap();
        let stat = rustix::fs::statvfs(root.path()).unwrap();
        let most = stat.f_bavail * stat.f_frsize / 4 * 3;
        let blobs = Blobs::open(root.path().join("blobs"), 1, 0).unwrap();
        let mut room = blobs.promise(most).unwrap();
        assert!(matches!(blobs.promise(most), Err(Failure::Full { .. })));
        blobs.check_room(most).unwrap();
        room.written(most / 2);
        drop(blobs.promise(most / 2).unwrap());
        // More than was promised gives back no more than that.
        room.written(u64::MAX);
        drop(blobs.promise(most).unwrap());
        drop(room);
        assert_eq!(blobs.promised.load(Ordering::SeqCst), 0);
    }
}
