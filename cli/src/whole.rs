// SPDX-License-Identifier: Apache-2.0
//! Files that commands write: whole, or not at all.
//!
//! A draft takes a file's place once all is in it; what is no regular file, such as a device
//! or a pipe, or a file whose owner or group the process cannot give to another, is written
//! into as it comes. Invariant: no device, pipe or link is replaced, and a file that is
//! replaced lets in those whom it let in before.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, ErrorKind, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use tempfile::TempPath;

use crate::output;

/// Links that lead to one another, as many as Linux follows.
const LINKS_MAX: usize = 40;
/// Of a new file: what the process's mask leaves of this.
const MODE_NEW: u32 = 0o666;
/// Of a draft until it has that of the file that it replaces.
const MODE_PRIVATE: u32 = 0o600;
/// Who may read, write and run it; none of the bits beyond these outlives a write.
const MODE_BITS: u32 = 0o777;

/// A file on its way.
pub struct Draft {
    file: File,
    /// The draft and whose place it takes; nothing where the place itself is written into.
    replaces: Option<(TempPath, PathBuf)>,
}

/// Writes all of a file.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = Draft::open(path)?;
    output::taken(draft.file.write_all(bytes))?;
    draft.finish()
}

/// Makes a file that is not there yet: where it is, not even a crash of the host leaves a part of it.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] where something is there, which stays as it is.
pub fn make(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (mut file, draft) = draft(path, mode)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    draft.persist_noclobber(path).map_err(|error| error.error)
}

impl Draft {
    /// Begins a file; its folder is there. A pipe is waited for until somebody reads it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::beside(goal(path), MODE_NEW),
            Err(error) => return Err(error),
        };
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        if is_same(&found, &stdout.metadata()?) {
            // As /dev/stdout may be; what others write there before and after is to stay.
            return Ok(Self { file: stdout, replaces: None });
        }
        if !found.is_file() {
            return Ok(Self { file: OpenOptions::new().write(true).open(path)?, replaces: None });
        }
        let draft = Self::beside(fs::canonicalize(path)?, MODE_PRIVATE)?;
        if fchown(&draft.file, Some(found.uid()), Some(found.gid())).is_err() {
            // Who cannot give a file to its owner and group writes into theirs.
            return Ok(Self {
                file: OpenOptions::new().write(true).truncate(true).open(path)?,
                replaces: None,
            });
        }
        draft.file.set_permissions(Permissions::from_mode(found.mode() & MODE_BITS))?;
        Ok(draft)
    }

    /// What to write to.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// All is written: the file appears.
    pub fn finish(self) -> io::Result<()> {
        match self.replaces {
            Some((draft, path)) => draft.persist(path).map_err(|error| error.error),
            None => Ok(()),
        }
    }

    fn beside(path: PathBuf, mode: u32) -> io::Result<Self> {
        let (file, draft) = draft(&path, mode)?;
        Ok(Self { file, replaces: Some((draft, path)) })
    }
}

/// An empty file beside a path, which is gone where it does not take its place.
fn draft(path: &Path, mode: u32) -> io::Result<(File, TempPath)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut named = tempfile::Builder::new();
    named.prefix(".fanfold-").suffix(".part").permissions(Permissions::from_mode(mode));
    Ok(named.tempfile_in(folder.unwrap_or(Path::new(".")))?.into_parts())
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where links lead of which the last leads to nothing yet.
fn goal(path: &Path) -> PathBuf {
    let next = |at: &PathBuf| {
        let to = fs::read_link(at).ok()?;
        Some(at.parent().unwrap_or(Path::new("/")).join(to))
    };
    let ways = std::iter::successors(Some(path.to_owned()), next).take(LINKS_MAX);
    ways.last().unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        write(&path, b"one").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        fs::write(dir.path().join("as-others"), "").unwrap();
        assert_eq!(mode(&path), mode(&dir.path().join("as-others")));
        for kept in [0o600, 0o640, 0o444] {
            fs::set_permissions(&path, Permissions::from_mode(kept)).unwrap();
            write(&path, b"two").unwrap();
            assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), kept));
        }
        let half = Draft::open(&path).unwrap();
        half.file().unwrap().write_all(b"thr").unwrap();
        drop(half);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(write(dir.path(), b"x").is_err());
        assert_eq!(write(&dir.path().join("no/r.json"), b"x").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(names(dir.path()), ["as-others", "r.json"]);
    }

    #[test]
    fn what_is_made_is_whole_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        make(&at("key"), b"secret", 0o600).unwrap();
        assert_eq!(fs::metadata(at("key")).unwrap().mode() & MODE_BITS, 0o600);
        symlink("nothing", at("link")).unwrap();
        fs::write(at("empty"), "").unwrap();
        fs::create_dir(at("folder")).unwrap();
        for taken in ["key", "link", "empty", "folder"] {
            let refused = make(&at(taken), b"other", 0o600).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{taken}");
        }
        assert_eq!(fs::read(at("key")).unwrap(), b"secret");
        assert_eq!(fs::read(at("empty")).unwrap(), b"");
        assert_eq!(make(&at("no/key"), b"x", 0o600).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(names(dir.path()), ["empty", "folder", "key", "link"]);
    }

    #[test]
    fn links_go_on_to_lead_where_they_led() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        symlink("deep/link", at("first")).unwrap();
        symlink("file", at("deep/link")).unwrap();
        // Once when nothing is there yet, and once over it.
        for text in ["one", "two"] {
            write(&at("first"), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(at("deep/file")).unwrap(), text);
        }
        assert_eq!(fs::read_link(at("first")).unwrap(), Path::new("deep/link"));
        assert_eq!(names(dir.path()), ["deep", "first"]);
        assert_eq!(names(&at("deep")), ["file", "link"]);
        symlink("round", at("round")).unwrap();
        assert!(write(&at("round"), b"x").is_err());
    }

    #[test]
    fn what_is_no_file_is_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, full) = (dir.path().join("pipe"), dir.path().join("full"));
        mknodat(CWD, pipe.as_path(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        symlink("/dev/full", &full).unwrap();
        assert_eq!(write(&full, b"x").unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(names(dir.path()), ["full", "pipe"]);
    }
}
