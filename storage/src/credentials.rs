// SPDX-License-Identifier: Apache-2.0
//! An access key and its secret: made once, kept in a file that only its owner
//! can read.
//!
//! The embedded server checks signatures against them, the client signs with
//! them. The secret is never printed: `Debug` leaves it out. Temporary ones have a
//! session token as well, and are never kept.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Letters and digits of an access key. 20 characters, as S3 clients expect.
const ACCESS_KEY_LENGTH: usize = 20;
/// Random bytes of a secret key.
const SECRET_BYTES: usize = 32;
/// An access key is base 32 (RFC 4648), so that any client accepts it.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What signs requests.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
    /// What temporary ones are sent with. A secret too, and no part of the file.
    #[serde(skip)]
    pub session_token: Option<String>,
}

/// Why credentials could not be loaded or made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read or written.
    #[error(
        "credentials file {path} must be readable and writable, found: {source}; check its owner and mode"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what [`Credentials::load_or_create`] writes.
    #[error(
        "credentials file {path} must be JSON with access_key and secret_key, found: {detail}; mend or delete it"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said, without the file's text.
        detail: String,
    },
    /// Others can read the secret.
    #[error(
        "credentials file {path} must be readable by its owner only, found mode {mode:o}; run chmod 600 on it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system has no randomness to give.
    #[error("expected random bytes from the system, found: {0}; check the platform")]
    Random(String),
}

impl Credentials {
    /// Credentials given by an operator.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self { access_key: access_key.into(), secret_key: secret_key.into(), session_token: None }
    }

    /// The same, sent with a session token if there is one.
    #[must_use]
    pub fn with_session(self, session_token: Option<String>) -> Self {
        Self { session_token, ..self }
    }

    /// New ones, from the system's randomness.
    pub fn random() -> Result<Self, CredentialsError> {
        let mut bytes = [0_u8; ACCESS_KEY_LENGTH + SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(|e| CredentialsError::Random(e.to_string()))?;
        let (access, secret) = bytes.split_at(ACCESS_KEY_LENGTH);
        let access_key: String = access.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect();
        Ok(Self::new(access_key, hex::encode(secret)))
    }

    /// Those kept at `path`, or new ones, which are then kept there with mode
    /// 0600. A file that others can read is refused.
    pub fn load_or_create(path: &Path) -> Result<Self, CredentialsError> {
        match fs::read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(source) => Err(CredentialsError::Io { path: path.to_owned(), source }),
        }
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, CredentialsError> {
        let io_error = |source| CredentialsError::Io { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(io_error)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CredentialsError::Exposed { path: path.to_owned(), mode });
        }
        serde_json::from_slice(text).map_err(|e| CredentialsError::Malformed {
            path: path.to_owned(),
            detail: format!("an error at line {}, column {}", e.line(), e.column()),
        })
    }

    /// Writes beside the file and links it into place, so that of two processes
    /// that start together one wins and both use the winner's.
    fn create(path: &Path) -> Result<Self, CredentialsError> {
        let made = Self::random()?;
        let io_error = |source| CredentialsError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(io_error)?;
        }
        let draft = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
        let text = serde_json::to_vec_pretty(&made).map_err(|e| io_error(e.into()))?;
        let linked = write_private(&draft, &text).and_then(|()| fs::hard_link(&draft, path));
        let removed = fs::remove_file(&draft);
        match linked {
            Ok(()) => removed.map(|()| made).map_err(io_error),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Self::parse(path, &fs::read(path).map_err(io_error)?)
            }
            Err(e) => Err(io_error(e)),
        }
    }
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/credentials.json");
        let made = Credentials::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Credentials::load_or_create(&path).unwrap(), made);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(!format!("{made:?}").contains(&made.secret_key));
    }

    #[test]
    fn a_session_s_token_is_neither_shown_nor_kept() {
        let session = Credentials::new("a", "s").with_session(Some("temporary".into()));
        assert!(!format!("{session:?}").contains("temporary"));
        assert_eq!(serde_json::to_string(&session).unwrap(), r#"{"access_key":"a","secret_key":"s"}"#);
        let kept = r#"{"access_key":"a","secret_key":"s","session_token":"temporary"}"#;
        assert!(serde_json::from_str::<Credentials>(kept).is_err());
    }

    #[test]
    fn exposed_or_malformed_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.json");
        Credentials::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Credentials::load_or_create(&path), Err(CredentialsError::Exposed { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "{\"access_key\":1}").unwrap();
        assert!(matches!(Credentials::load_or_create(&path), Err(CredentialsError::Malformed { .. })));
    }
}
