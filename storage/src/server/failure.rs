// SPDX-License-Identifier: Apache-2.0
//! Why the server says no, and how that is said in S3's words.
//!
//! A full disk is a refusal (507, retried by nobody blindly), never half an
//! object; whatever else the disk says is an internal error, logged here once.

use std::{io, path::PathBuf};

use s3s::{S3Error, S3ErrorCode};

use crate::BODY_LOST;

/// What goes wrong below the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A file could not be read or written.
    #[error("a file of the store: {0}")]
    Io(#[from] io::Error),
    /// The index could not be read or written.
    #[error("the index of the store: {0}")]
    Index(Box<redb::Error>),
    /// A record is not what was written.
    #[error("a record of the index: {0}")]
    Record(#[from] serde_json::Error),
    /// There must be more room than there is.
    #[error("{free} bytes are free, {needed} are needed")]
    Full {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be free for the request.
        needed: u64,
    },
    /// A body is not on disk as the index has it.
    #[error("{} is missing or too short, which holds the body of an object", .0.display())]
    Lost(PathBuf),
    /// There are bodies, and nothing says whose they are.
    #[error("files in `blobs`, and no `index.redb`, or an empty one, that says what they are")]
    Orphaned,
    /// The client's body ended or broke.
    #[error("the body of the request: {0}")]
    Body(String),
    /// A thread of the server is gone.
    #[error("the server is stopping")]
    Stopping,
    /// The request is refused for what it asks.
    #[error("{code:?}: {message}")]
    Refused {
        /// S3's word for it.
        code: S3ErrorCode,
        /// In a few words.
        message: &'static str,
    },
}

macro_rules! from_redb {
    ($($error:ident)*) => { $(
        impl From<redb::$error> for Failure {
            fn from(error: redb::$error) -> Self {
                Self::Index(Box::new(error.into()))
            }
        }
    )* };
}
from_redb!(DatabaseError TransactionError TableError StorageError CommitError SetDurabilityError);

impl Failure {
    /// A refusal in S3's words.
    pub(super) fn refused(code: S3ErrorCode, message: &'static str) -> Self {
        Self::Refused { code, message }
    }

    /// What to do about a store that cannot be opened for this.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Orphaned => {
                "put `index.redb` back, or move `blobs` away to begin with an empty store: nothing was removed"
            }
            Self::Index(error) if is_damage(error) => {
                "restore the folder from a backup, or move all of it away to begin with an empty store: `index.redb` is \
                 damaged, or of another program"
            }
            _ => "check the folder, its owner, and that no other server uses it",
        }
    }

    /// Whether the disk had no room left, or a file might not grow (`ulimit -f`).
    pub(super) fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let full = |e: &io::Error| matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        match self {
            Self::Full { .. } => true,
            Self::Io(e) => full(e),
            Self::Index(e) => matches!(&**e, redb::Error::Io(e) if full(e)),
            _ => false,
        }
    }
}

/// Whether the file of an index is not what redb wrote.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_) => true,
        _ => false,
    }
}

impl From<Failure> for S3Error {
    fn from(failure: Failure) -> Self {
        if failure.is_full() {
            tracing::warn!(%failure, "refused for want of disk space");
            return insufficient_storage();
        }
        match failure {
            Failure::Refused { code, message } => {
                let mut error = S3Error::with_message(code, message);
                if error.status_code().is_none() {
                    error.set_status_code(http::StatusCode::BAD_REQUEST);
                }
                error
            }
            Failure::Body(detail) => S3Error::with_message(S3ErrorCode::IncompleteBody, detail),
            Failure::Stopping => S3Error::with_message(S3ErrorCode::ServiceUnavailable, failure.to_string()),
            Failure::Lost(_) => {
                tracing::error!(%failure, "a stored body is lost");
                named(
                    BODY_LOST,
                    http::StatusCode::INTERNAL_SERVER_ERROR,
                    "a stored body is missing from the server's disk; see its log",
                )
            }
            failure => {
                tracing::error!(%failure, "the store failed");
                S3Error::with_message(S3ErrorCode::InternalError, "the server failed; see its log")
            }
        }
    }
}

/// S3 has no word for a full disk; 507 is WebDAV's (RFC 4918), and what S3
/// servers on local disks commonly answer.
fn insufficient_storage() -> S3Error {
    named("InsufficientStorage", http::StatusCode::INSUFFICIENT_STORAGE, "the disk under the server is full")
}

/// An error whose code s3s does not know.
pub(super) fn named(code: &str, status: http::StatusCode, message: &'static str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InvalidRequest);
    let mut error = S3Error::with_message(code, message);
    error.set_status_code(status);
    error
}

/// A refusal with what it is about, where s3s told its code alone: clients show that as
/// «Unknown». None where there is nothing to add.
pub(super) fn explained(xml: &[u8]) -> Option<Vec<u8>> {
    let said = std::str::from_utf8(xml.strip_suffix(b"</Error>")?).ok()?;
    let (_, code) = said.strip_suffix("</Code>")?.rsplit_once("<Error><Code>")?;
    let message = match code {
        "InvalidBucketName" => {
            "a bucket name must be 3 to 63 lower-case letters, digits, '.' and '-', begin and end with a letter or \
             digit and not look like an address"
        }
        "InvalidURI" => "the path or the query of the request cannot be read",
        "KeyTooLongError" => "a key must be at most 1024 bytes",
        "MalformedXML" => "the body is not the XML that the request needs",
        "SignatureDoesNotMatch" => {
            "the signature is not that of this request under the secret key; check the key, and whether something \
             on the way changes requests"
        }
        _ => return None,
    };
    Some(format!("{said}<Message>{message}</Message></Error>").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_alone_is_explained() {
        let check = |xml: &str, expected: Option<&str>| {
            let found = explained(xml.as_bytes()).map(|found| String::from_utf8(found).unwrap());
            assert_eq!(found.as_deref(), expected, "{xml}");
        };
        check(
            "<Error><Code>KeyTooLongError</Code></Error>",
            Some(
                "<Error><Code>KeyTooLongError</Code><Message>a key must be at most 1024 bytes</Message></Error>",
            ),
        );
        let said = "<Error><Code>InvalidURI</Code><Message>in other words</Message></Error>";
        for other in [said, "<Error><Code>NoSuchKey</Code></Error>", "<Code>InvalidURI</Code>", ""] {
            check(other, None);
        }
        assert_eq!(explained(b"\xff<Error><Code>InvalidURI</Code></Error>"), None);
    }

    #[test]
    fn whatever_leaves_no_room_is_a_full_disk() {
        use io::ErrorKind::{FileTooLarge, NotFound, QuotaExceeded, StorageFull};
        let check = |kind: io::ErrorKind, status: u16| {
            let of_index = Failure::Index(Box::new(redb::Error::Io(kind.into())));
            for failure in [Failure::Io(kind.into()), of_index] {
                let told = S3Error::from(failure).status_code().map(|status| status.as_u16());
                assert_eq!(told, Some(status), "{kind}");
            }
        };
        for kind in [StorageFull, QuotaExceeded, FileTooLarge] {
            check(kind, 507);
        }
        check(NotFound, 500);
    }
}
