// SPDX-License-Identifier: Apache-2.0
//! Compiled components on disk, taken back only when this platform wrote them.
//!
//! Between the compiler and the cache of loaded components. Each file is a MAC
//! and the artifact; the MAC (HMAC-SHA256, RFC 2104) covers the component's
//! digest, the engine's compatibility digest and the artifact. Beyond a bound the
//! oldest files are removed, among them those that upgrades leave: for another engine,
//! which is of use again after a way back. Invariant: nothing becomes executable code
//! here that does not bear that MAC or come straight from our compiler. `unsafe` is here and in [`crate::fault`] alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use fanfold_protocol::digest::Digest;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wasmtime::{Engine, component::Component};

/// Bytes of a MAC.
const MAC_BYTES: usize = 32;
/// Bytes of the key: a block of SHA-256.
const KEY_BYTES: usize = 64;
/// Bytes of all artifacts that are kept.
const FILES_BYTES_MAX: u64 = 2 << 30;
/// How names of artifacts end.
const ENDING: &str = ".bin";
/// How names of files end that are being written, and how old those are that never will be whole.
const UNFINISHED: &str = ".tmp";
const ABANDONED_AFTER: Duration = Duration::from_secs(3_600);
/// File of the key within the cache folder.
const KEY_FILE: &str = "key";

/// The folder of compiled components.
pub(crate) struct Artifacts {
    folder: PathBuf,
    key: [u8; KEY_BYTES],
    compatibility: [u8; 32],
    refused: AtomicU64,
    /// Those that are there, the newest last.
    held: Mutex<Vec<Held>>,
    bytes_max: u64,
}

/// A file of the folder.
struct Held {
    name: String,
    /// The component, of an artifact for this engine.
    digest: Option<Digest>,
    bytes: u64,
}

/// Machine code that our compiler made: fresh from it, or with a MAC that says so.
pub(crate) struct Artifact(Vec<u8>);

impl Artifact {
    /// What the compiler's child process has just written for us.
    pub(crate) fn from_compiler(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Bytes of the code.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Turns it into code that can run.
    #[allow(unsafe_code, reason = "the one place where compiled artifacts are loaded")]
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: `deserialize` asks that the bytes come from wasmtime's own compiler, unaltered. An
        // `Artifact` is made in two places only: from the output of the compiler's child process, or from
        // a file whose MAC under this installation's key has just been verified over exactly these bytes
        // in memory, so that a later change of the file does not matter. wasmtime itself refuses
        // artifacts of another version or configuration.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}

impl Artifacts {
    /// Opens the folder; makes it and its key when they are not there.
    pub(crate) fn open(folder: &Path, compatibility: [u8; 32]) -> io::Result<Self> {
        Self::open_within(folder, compatibility, FILES_BYTES_MAX)
    }

    fn open_within(folder: &Path, compatibility: [u8; 32], bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let key = read_or_make_key(folder)?;
        let held = Mutex::new(held(folder, &compatibility)?);
        let (folder, refused) = (folder.to_owned(), AtomicU64::new(0));
        let artifacts = Self { folder, key, compatibility, refused, held, bytes_max };
        artifacts.make_room(&mut artifacts.held());
        Ok(artifacts)
    }

    /// Whether there is an artifact of this component.
    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.held().iter().any(|held| held.digest.as_ref() == Some(digest))
    }

    /// The components whose artifacts came last, the newest first.
    pub(crate) fn newest(&self, count: usize) -> Vec<Digest> {
        self.held().iter().rev().filter_map(|held| held.digest).take(count).collect()
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many files were refused because their MAC did not fit.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// The artifact of a component, if there is one that we wrote. A file that
    /// we did not write as it is counts as refused and is removed.
    pub(crate) fn read(&self, digest: &Digest) -> Option<Artifact> {
        let path = self.path(digest);
        let mut bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled component cannot be read");
                return None;
            }
        };
        let sound = bytes
            .split_first_chunk::<MAC_BYTES>()
            .is_some_and(|(tag, artifact)| self.mac(digest, artifact).verify(&(*tag).into()).is_ok());
        if sound {
            return Some(Artifact(bytes.split_off(MAC_BYTES)));
        }
        self.refused.fetch_add(1, Relaxed);
        self.held().retain(|held| held.digest.as_ref() != Some(digest));
        tracing::warn!(path = %path.display(), "a compiled component was altered or is foreign; it is compiled again");
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "the altered file cannot be removed");
        }
        None
    }

    /// Keeps an artifact. Readers see the whole file or none.
    pub(crate) fn write(&self, digest: &Digest, artifact: &Artifact) -> io::Result<()> {
        let tag = self.mac(digest, &artifact.0).finalize().into_bytes();
        let mut name = [0_u8; 8];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        let temporary = self.folder.join(format!("{}{UNFINISHED}", hex::encode(name)));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written = file
            .write_all(&tag)
            .and_then(|()| file.write_all(&artifact.0))
            .and_then(|()| fs::rename(&temporary, self.path(digest)));
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
        } else {
            let mut held = self.held();
            held.retain(|held| held.digest.as_ref() != Some(digest));
            let (name, bytes) = (self.name(digest), (MAC_BYTES + artifact.0.len()) as u64);
            held.push(Held { name, digest: Some(*digest), bytes });
            self.make_room(&mut held);
        }
        written
    }

    /// Removes the oldest files beyond the bound, but never the newest.
    fn make_room(&self, held: &mut Vec<Held>) {
        let mut bytes: u64 = held.iter().map(|held| held.bytes).sum();
        let beyond = held.iter().take_while(|held| {
            let goes = bytes > self.bytes_max;
            bytes -= if goes { held.bytes } else { 0 };
            goes
        });
        let count = beyond.count().min(held.len().saturating_sub(1));
        for Held { name, .. } in held.drain(..count) {
            remove(&self.folder.join(name));
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(self.name(digest))
    }

    fn name(&self, digest: &Digest) -> String {
        format!("{}-{}{ENDING}", digest.to_hex(), engine(&self.compatibility))
    }

    fn mac(&self, digest: &Digest, artifact: &[u8]) -> Hmac<Sha256> {
        Hmac::<Sha256>::new(&self.key.into())
            .chain_update(digest.as_bytes())
            .chain_update(self.compatibility)
            .chain_update(artifact)
    }
}

/// An engine, as the names of its artifacts have it.
fn engine(compatibility: &[u8; 32]) -> String {
    hex::encode(&compatibility[..8])
}

/// The artifacts that are there, oldest first. What was left unfinished long ago is removed.
fn held(folder: &Path, compatibility: &[u8; 32]) -> io::Result<Vec<Held>> {
    let ours = engine(compatibility);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let artifact = artifact(&name).map(|(digest, engine)| (engine == ours).then_some(digest));
        if artifact.is_none() && !name.ends_with(UNFINISHED) {
            continue;
        }
        let metadata = match entry.metadata() {
            // Another process over the same folder removed it, or made it whole.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let modified = metadata.modified()?;
        match artifact {
            Some(digest) => found.push((modified, Held { name, digest, bytes: metadata.len() })),
            None if modified.elapsed().is_ok_and(|age| age > ABANDONED_AFTER) => remove(&entry.path()),
            None => {}
        }
    }
    found.sort_unstable_by_key(|(modified, _)| *modified);
    Ok(found.into_iter().map(|(_, held)| held).collect())
}

/// The component and the engine in the name of an artifact; none for another file.
fn artifact(name: &str) -> Option<(Digest, &str)> {
    let (digits, engine) = name.strip_suffix(ENDING)?.split_once('-')?;
    Some((format!("sha256:{digits}").parse().ok()?, engine))
}

/// Removes a file, unless another process over the same folder was first.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a file of compiled components cannot be removed");
        }
    }
}

/// The key of this installation: random bytes, which its owner alone may read. One that is of no
/// use is made anew: all that depends on it is compiled again.
fn read_or_make_key(folder: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let path = folder.join(KEY_FILE);
    let mut key = [0; KEY_BYTES];
    match read_key(&path) {
        Ok(Ok(key)) => return Ok(key),
        Ok(Err(found)) => {
            tracing::warn!(
                path = %path.display(), found,
                "the key of compiled components must have {KEY_BYTES} bytes and be this user's alone; it is made anew, \
                 and they are compiled again"
            );
            remove(&path);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let temporary = folder.join(format!("{KEY_FILE}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    // The first process to link its key wins; the others take that one.
    let linked = fs::hard_link(&temporary, &path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_or_make_key(folder),
        Err(error) => Err(error),
    }
}

/// The key that is there, or why it vouches for nothing: a full disk left it behind, or others may
/// have read it, or put it there, who could have written machine code that bears its MAC.
fn read_key(path: &Path) -> io::Result<Result<[u8; KEY_BYTES], String>> {
    let mut file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Ok(Err(format!("mode {mode:03o}")));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Ok(Err(format!("user {}", metadata.uid())));
    }
    let mut key = Vec::new();
    file.read_to_end(&mut key)?;
    Ok(<[u8; KEY_BYTES]>::try_from(key).map_err(|key| format!("{} bytes", key.len())))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs::File, os::unix::fs::PermissionsExt as _, time::SystemTime};

    use super::*;

    fn open(folder: &Path) -> Artifacts {
        Artifacts::open(folder, [7; 32]).unwrap()
    }

    #[test]
    fn an_artifact_survives_a_restart_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        open(folder.path()).write(&one, &Artifact(b"code".to_vec())).unwrap();
        let artifacts = open(folder.path());
        assert_eq!(artifacts.read(&one).unwrap().0, b"code");
        // Swapped: another component's file.
        fs::copy(artifacts.path(&one), artifacts.path(&two)).unwrap();
        assert!(artifacts.read(&two).is_none());
        // Altered by one bit, cut, or from another engine.
        let whole = fs::read(artifacts.path(&one)).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bytes in [&flipped[..], &whole[..10], b""] {
            fs::write(artifacts.path(&one), bytes).unwrap();
            assert!(artifacts.read(&one).is_none());
            assert!(!artifacts.path(&one).exists());
        }
        let other = Artifacts::open(folder.path(), [8; 32]).unwrap();
        fs::write(other.path(&one), &whole).unwrap();
        assert!(other.read(&one).is_none());
        assert_eq!((artifacts.refused(), other.refused()), (4, 1));
    }

    #[test]
    fn the_oldest_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts { bytes_max: 3 * (MAC_BYTES as u64 + 100), ..open(folder.path()) };
        let digests = [b"a", b"b", b"c", b"d", b"e"].map(|name| Digest::of(name));
        for digest in &digests[..4] {
            artifacts.write(digest, &Artifact(vec![7; 100])).unwrap();
        }
        assert_eq!(artifacts.newest(9), [digests[3], digests[2], digests[1]]);
        assert!(artifacts.read(&digests[0]).is_none() && artifacts.read(&digests[1]).is_some());
        // One that is larger than all of the room is alone in it.
        artifacts.write(&digests[4], &Artifact(vec![7; 1_000])).unwrap();
        assert_eq!(artifacts.newest(9), [digests[4]]);
        assert!(artifacts.holds(&digests[4]) && !artifacts.holds(&digests[3]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the key and the one");
    }

    #[test]
    fn what_other_engines_and_broken_writes_left_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, seconds: u64| {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(folder.path().join(name))
                .unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        let digests = [b"a", b"b", b"c", b"d"].map(|name| Digest::of(name));
        let older = Artifacts::open(folder.path(), [8; 32]).unwrap();
        let newer = open(folder.path());
        for (engine, number) in [(&older, 0), (&newer, 1), (&older, 2), (&newer, 3)] {
            engine.write(&digests[number], &Artifact(vec![7; 100])).unwrap();
            at(&engine.name(&digests[number]), number as u64);
        }
        // It is no artifact, nor is one that is being written.
        at("notes.bin", 0);
        at("broken.tmp", 0);
        fs::write(folder.path().join("begun.tmp"), b"code").unwrap();
        let names = || {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>()
        };
        let check = |files: u64, left: &[(&Artifacts, usize)], known: &[Digest]| {
            let bytes_max = files * (MAC_BYTES as u64 + 100);
            let opened = Artifacts::open_within(folder.path(), [7; 32], bytes_max).unwrap();
            let left = left.iter().map(|(engine, number)| engine.name(&digests[*number]));
            let others = [KEY_FILE, "notes.bin", "begun.tmp"].map(str::to_owned);
            assert_eq!(names(), left.chain(others).collect::<BTreeSet<_>>(), "{files} files");
            assert_eq!(opened.newest(9), known);
        };
        let all = [(&older, 0), (&newer, 1), (&older, 2), (&newer, 3)];
        check(4, &all, &[digests[3], digests[1]]);
        check(3, &all[1..], &[digests[3], digests[1]]);
        check(1, &all[3..], &[digests[3]]);
        check(0, &all[3..], &[digests[3]]);
    }

    #[test]
    fn a_key_of_another_length_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (before, path) = (open(folder.path()).key, folder.path().join(KEY_FILE));
        for length in [0, KEY_BYTES - 1, KEY_BYTES + 1] {
            fs::write(&path, vec![7; length]).unwrap();
            let key = open(folder.path()).key;
            assert!(key != before && key != [7; KEY_BYTES], "{length}");
            assert_eq!(open(folder.path()).key, key, "{length}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_key_that_others_may_know_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let digest = Digest::of(b"one");
        for mode in [0o644, 0o640, 0o660, 0o602] {
            let known = open(folder.path());
            known.write(&digest, &Artifact(b"code".to_vec())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let anew = open(folder.path());
            assert_ne!(anew.key, known.key, "{mode:o}");
            assert!(anew.read(&digest).is_none(), "{mode:o}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(open(folder.path()).key, anew.key, "{mode:o}");
        }
    }

    #[test]
    fn the_key_is_private_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let key = open(folder.path()).key;
        assert_eq!(open(folder.path()).key, key);
        let mode = fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(open(tempfile::tempdir().unwrap().path()).key, key);
    }
}
