// SPDX-License-Identifier: Apache-2.0
//! The folder of `fanfold dev`: all that a restart must find again.
//!
//! Opened once the ports are bound, before anything else of the service. Invariant:
//! while it is open no other process uses it, however this one ends; secrets in it
//! are readable by their owner only.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fanfold_gateway::Token;
use fanfold_storage::Credentials;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::error::{Error, Result};

/// Where `fanfold dev` says how it is reached, for tools and tests.
pub const ANNOUNCEMENT: &str = "dev.json";

/// The open folder.
pub struct Data {
    folder: PathBuf,
    /// For the gateway.
    pub token: Token,
    /// For the store.
    pub credentials: Credentials,
    /// Held until the process ends, also by a kill.
    _lock: File,
}

/// What [`ANNOUNCEMENT`] holds.
#[derive(Debug, Serialize)]
pub struct Announcement {
    /// Base URL of the gateway.
    pub endpoint: String,
    /// Base URL of the store.
    pub s3_endpoint: String,
    /// This process.
    pub pid: u32,
    /// File with the gateway's token.
    pub token_file: PathBuf,
    /// File with the store's credentials.
    pub s3_credentials_file: PathBuf,
}

impl Data {
    /// Opens the folder, or makes it with new secrets.
    pub fn open(folder: &Path) -> Result<Self> {
        let unusable = |what: &str, cause: &dyn std::fmt::Display| {
            Error::service(format!(
                "expected a usable folder {}, found that {what}: {cause}",
                folder.display()
            ))
            .help("give another one by --data DIR")
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|cause| unusable("it cannot be made", &cause))?;
        let folder = fs::canonicalize(folder).map_err(|cause| unusable("it cannot be resolved", &cause))?;
        let lock = lock(&folder)?;
        let stale = fs::remove_file(folder.join(ANNOUNCEMENT));
        stale.or_else(ignore_missing).map_err(|cause| unusable("it cannot be written to", &cause))?;
        ignore_in_git(&folder).map_err(|cause| unusable("it cannot be written to", &cause))?;
        let token = Token::load_or_create(&folder.join("token"))
            .map_err(|cause| unusable("its token fails", &cause))?;
        let credentials = Credentials::load_or_create(&folder.join("s3-credentials.json"))
            .map_err(|cause| unusable("its credentials fail", &cause))?;
        Ok(Self { folder, token, credentials, _lock: lock })
    }

    /// The folder, as an absolute path.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the store keeps its objects.
    pub fn store(&self) -> PathBuf {
        self.folder.join("s3")
    }

    /// The backbone's file.
    pub fn backbone(&self) -> PathBuf {
        self.folder.join("backbone.redb")
    }

    /// Where compiled components are kept.
    pub fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// Says how the service is reached, now that it is.
    pub fn announce(&self, gateway: SocketAddr, store: SocketAddr) -> Result<()> {
        let announcement = Announcement {
            endpoint: format!("http://{gateway}"),
            s3_endpoint: format!("http://{store}"),
            pid: std::process::id(),
            token_file: self.folder.join("token"),
            s3_credentials_file: self.folder.join("s3-credentials.json"),
        };
        let path = self.folder.join(ANNOUNCEMENT);
        let text = serde_json::to_vec_pretty(&announcement)?;
        let written = tempfile::NamedTempFile::new_in(&self.folder).and_then(|mut file| {
            file.write_all(&text)?;
            file.persist(&path).map_err(|error| error.error)
        });
        written.map(drop).map_err(|cause| unwritable(&path, &cause))
    }

    /// Takes the announcement back; the service is no longer reached.
    pub fn retract(&self) {
        if let Err(error) = fs::remove_file(self.folder.join(ANNOUNCEMENT)) {
            tracing::warn!(%error, "the announcement could not be removed");
        }
    }
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("gateway.lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = file.map_err(|cause| unwritable(&path, &cause))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // Only for the message; the process may be about to write it.
        let _ = file.read_to_string(&mut pid);
        let who =
            if pid.is_empty() { "another process".to_owned() } else { format!("process {}", pid.trim()) };
        return Err(Error::service(format!(
            "expected {} to be free, found {who} at work in it",
            folder.display()
        ))
        .help("use that service, stop it, or give this one another folder by --data DIR"));
    }
    let written = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    written.map_err(|cause| unwritable(&path, &cause))?;
    Ok(file)
}

fn unwritable(path: &Path, cause: &std::io::Error) -> Error {
    Error::service(format!("expected to write {}, found: {cause}", path.display()))
        .help("make room there, or give another folder by --data DIR")
}

/// The folder often lies in a checkout, and holds secrets.
fn ignore_in_git(folder: &Path) -> std::io::Result<()> {
    let new = OpenOptions::new().write(true).create_new(true).open(folder.join(".gitignore"));
    match new {
        Ok(mut file) => file.write_all(b"*\n"),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_is_kept_and_used_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("deep/.fanfold");
        let first = Data::open(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let error = Data::open(&folder).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        let (token, credentials) = (first.token.reveal().to_owned(), first.credentials.clone());
        drop(first);
        let again = Data::open(&folder).unwrap();
        assert_eq!((again.token.reveal(), &again.credentials), (token.as_str(), &credentials));
    }

    #[test]
    fn the_announcement_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let data = Data::open(dir.path()).unwrap();
        data.announce("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()).unwrap();
        let text = fs::read_to_string(data.folder().join(ANNOUNCEMENT)).unwrap();
        let said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said["endpoint"], "http://127.0.0.1:1");
        assert_eq!(said["s3_endpoint"], "http://127.0.0.1:2");
        assert_eq!(said["pid"], std::process::id());
        data.retract();
        assert!(!data.folder().join(ANNOUNCEMENT).exists());
    }
}
