// SPDX-License-Identifier: Apache-2.0
//! Why a backbone operation failed.
//!
//! Every implementation reports through this one type, so a caller never learns which one it talks to.
//! Invariant: an operation that returns an error was not acknowledged; after [`Error::StorageFull`],
//! [`Error::Unavailable`] or [`Error::Closed`] it may still have taken effect, so retries carry the same ids.

use std::path::PathBuf;

use fanfold_protocol::{ErrorKind, Problem};

use crate::name::{KEY_BYTES_MAX, SUBJECT_BYTES_MAX};

/// Result of a backbone operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a backbone operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A key, prefix or queue name is malformed.
    #[error(
        "expected a name of 1 to {KEY_BYTES_MAX} bytes made of letters, digits and `_ = . -` in tokens joined \
         by `/`, found {found:?}; hash or encode what does not fit"
    )]
    InvalidKey {
        /// The name as it was given, shortened for display.
        found: String,
    },
    /// A subject or subject pattern is malformed.
    #[error(
        "expected a subject of 1 to {SUBJECT_BYTES_MAX} bytes made of visible tokens joined by `.`, with `*` and \
         a last `>` in patterns only, found {found:?}; correct the subject"
    )]
    InvalidSubject {
        /// The subject as it was given, shortened for display.
        found: String,
    },
    /// A value, payload or batch exceeds its bound.
    #[error(
        "expected {what} of at most {bytes_max} bytes, found {bytes_found}; store it as an object and pass its key"
    )]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The bound in bytes.
        bytes_max: usize,
        /// What was found, in bytes.
        bytes_found: usize,
    },
    /// The disk or the store's size bound is exhausted. Reads still work.
    #[error(
        "expected room to record the change, found the store full ({detail}); free disk space or raise the \
         store's size bound, then retry"
    )]
    StorageFull {
        /// What the operating system or the bound said.
        detail: String,
    },
    /// Another process, or another handle in this one, holds the store.
    #[error(
        "expected to be the only user of {}, found it locked; stop the other fanfold process or choose \
         another data directory", path.display()
    )]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// The store's file is damaged or was not written by this program.
    #[error(
        "expected a fanfold store in {}, found it damaged or foreign ({detail}); restore the file from a backup, \
         or move it away to begin empty", path.display()
    )]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// What was wrong with it.
        detail: String,
    },
    /// The configuration is wrong, or does not fit what is there.
    #[error("expected the backbone to fit its configuration, found it does not: {}", problems.join("; "))]
    Misconfigured {
        /// Every problem, as expected, found and what to do.
        problems: Vec<String>,
    },
    /// No server could be reached, so that nothing was asked yet.
    #[error("expected NATS at {urls}, found it out of reach ({detail}); start it or correct `urls`")]
    OutOfReach {
        /// Where they were looked for.
        urls: String,
        /// What failed.
        detail: String,
    },
    /// The backbone cannot serve at the moment.
    #[error("expected the backbone to answer, found it unavailable ({detail}); retry with the same ids")]
    Unavailable {
        /// What failed.
        detail: String,
    },
    /// The backbone was shut down.
    #[error("expected an open backbone, found it shut down; open it again")]
    Closed,
}

impl Error {
    /// The platform's stable kind: HTTP status, whose fault, whether a retry is safe.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::InvalidKey { .. } | Error::InvalidSubject { .. } => ErrorKind::InvalidName,
            Error::TooLarge { .. } => ErrorKind::PayloadTooLarge,
            Error::StorageFull { .. } => ErrorKind::StorageFull,
            Error::Locked { .. } | Error::Corrupt { .. } | Error::Misconfigured { .. } => ErrorKind::Internal,
            Error::OutOfReach { .. } | Error::Unavailable { .. } => ErrorKind::BackboneUnavailable,
            Error::Closed => ErrorKind::ShuttingDown,
        }
    }

    /// True where sending the same operation again, with the same ids, can succeed.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Error::Locked { .. } | Error::Corrupt { .. } | Error::Misconfigured { .. })
            && self.kind().retryable()
    }
}

/// What a person is told. Paths and details of the operating system are for the log and stay out of it.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = match &error {
            Error::StorageFull { .. } => {
                "expected room to record the change, found the store full; ask the operator to free space, then retry"
                    .to_owned()
            }
            Error::Locked { .. }
            | Error::Corrupt { .. }
            | Error::Misconfigured { .. }
            | Error::OutOfReach { .. }
            | Error::Unavailable { .. } => {
                "expected the backbone to answer, found it unavailable; retry later".to_owned()
            }
            Error::Closed => "expected a running service, found it stopping; try again".to_owned(),
            told => told.to_string(),
        };
        Problem::new(error.kind(), detail)
    }
}
