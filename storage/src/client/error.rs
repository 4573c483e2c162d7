// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with a store, in the words of the platform.
//!
//! One enum for every call, with a variant wherever a caller acts on it; the
//! SDK's own errors are turned into it here and nowhere else.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use fanfold_protocol::{ErrorKind, Problem, time, uri::ObjectUri};

use super::region;
use crate::BODY_LOST;

/// The result of a call to the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call to the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("expected an object at {uri}, found none; check the key")]
    NotFound {
        /// The object.
        uri: String,
    },
    /// The object is not the one that was pinned.
    #[error("{uri} must still have the ETag {expected}, found {}; plan again against the object as it is now",
        found.as_deref().unwrap_or("another"))]
    Changed {
        /// The object.
        uri: String,
        /// The ETag of the pin.
        expected: String,
        /// The ETag that it has now, or in what else it differs, when known.
        found: Option<String>,
    },
    /// The store refused the credentials or the permission.
    #[error("expected access to {target}, found: {detail}; check the credentials and their policy")]
    AccessDenied {
        /// The object or bucket.
        target: String,
        /// What the store said.
        detail: String,
    },
    /// The bucket is not one of the tenant's that this handle is for.
    #[error("{}", problem.detail)]
    AnotherTenants {
        /// Which are.
        problem: Box<Problem>,
    },
    /// There is no such bucket.
    #[error("expected a bucket named {bucket}, found none; create it or check the name")]
    NoSuchBucket {
        /// The bucket.
        bucket: String,
    },
    /// The bucket lies in another region than requests are signed for.
    #[error(
        "expected {target} in the region {asked}, which `store.region` names, found it in {}; \
         set `store.region` to that, or take a bucket of {asked}",
        found.as_deref().unwrap_or("another")
    )]
    OtherRegion {
        /// The bucket.
        target: String,
        /// The region that it was asked for in.
        asked: String,
        /// Where it is, when known.
        found: Option<String>,
    },
    /// A condition of a write did not hold.
    #[error("the condition on writing {target} must hold, found: {detail}; read it again and decide anew")]
    Conflict {
        /// The object or bucket.
        target: String,
        /// What the store said.
        detail: String,
    },
    /// The store did not answer in time.
    #[error("expected an answer about {target} in time, found: {detail}; try again later")]
    Timeout {
        /// The object or bucket.
        target: String,
        /// What ran out.
        detail: String,
    },
    /// The store could not be reached, or failed on its side.
    #[error("expected the store to serve {target}, found: {detail}; try again later")]
    Unavailable {
        /// The object or bucket.
        target: String,
        /// What happened.
        detail: String,
    },
    /// The store's disk is full.
    #[error("expected room for {target}, found: {detail}; free space in the store")]
    Full {
        /// The object or bucket.
        target: String,
        /// What the store said.
        detail: String,
    },
    /// The store has the object, and its body no more.
    #[error(
        "expected the body of {target} in the store, found: {detail}; write the object anew, or restore the store"
    )]
    Lost {
        /// The object.
        target: String,
        /// What the store said.
        detail: String,
    },
    /// The object is larger than the caller takes.
    #[error("{uri} must be at most {bytes_max} bytes here, found {bytes}; read it by ranges")]
    TooLarge {
        /// The object.
        uri: String,
        /// Its size.
        bytes: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// More was written than as many parts hold as an upload may have.
    #[error(
        "{uri} must be at most {bytes_max} bytes unless more is told before, found more; write several objects"
    )]
    TooManyParts {
        /// The object.
        uri: String,
        /// What that many parts hold.
        bytes_max: u64,
    },
    /// The configuration of the store is wrong.
    #[error("{0}")]
    Config(String),
    /// The store said something that fits nowhere else.
    #[error("expected the store to serve {target}, found {code}: {detail}; see the store's documentation")]
    Other {
        /// The object or bucket.
        target: String,
        /// The store's error code, or a word for what is wrong with its answer.
        code: String,
        /// What the store said.
        detail: String,
    },
}

impl Error {
    /// The platform's kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::ObjectNotFound,
            Self::Changed { .. } | Self::Conflict { .. } => ErrorKind::ObjectChanged,
            Self::AccessDenied { .. } => ErrorKind::StoreDenied,
            Self::AnotherTenants { .. } => ErrorKind::AccessDenied,
            Self::NoSuchBucket { .. } | Self::OtherRegion { .. } => ErrorKind::BucketNotFound,
            Self::Timeout { .. } => ErrorKind::StoreTimeout,
            Self::Unavailable { .. } => ErrorKind::StoreUnavailable,
            Self::Full { .. } => ErrorKind::StorageFull,
            Self::TooLarge { .. } | Self::TooManyParts { .. } => ErrorKind::TransferTooLarge,
            Self::Lost { .. } | Self::Config(_) | Self::Other { .. } => ErrorKind::Internal,
        }
    }

    /// Whether the same call may succeed when made again, unchanged.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unavailable { .. } | Self::Full { .. })
    }

    /// A bad answer: the store broke its own protocol.
    pub(super) fn protocol(target: impl ToString, detail: impl Into<String>) -> Self {
        Self::Other {
            target: target.to_string(),
            code: "a malformed answer".to_owned(),
            detail: detail.into(),
        }
    }

    /// What an answer says of one of several objects, of which none has a status of its own.
    pub(super) fn of_code(target: String, code: &str, detail: &str) -> Self {
        let said = if detail.is_empty() { code } else { detail }.to_owned();
        Self::of_known(&target, code, &said).unwrap_or_else(|| match code {
            "OperationAborted" => Self::Unavailable { target, detail: said },
            "AccessDenied" => Self::AccessDenied { target, detail: said },
            _ => Self::Other { target, code: code.to_owned(), detail: detail.to_owned() },
        })
    }

    /// What a code says under whatever status it comes: stores disagree in those, and a copy may
    /// fail within an answer that began with 200.
    fn of_known(target: &str, code: &str, detail: &str) -> Option<Self> {
        let (target, detail) = (target.to_owned(), detail.to_owned());
        match code {
            "InternalError" | "RequestTimeout" | TIME_TOO_SKEWED | "ServiceUnavailable" | "SlowDown"
            | "SlowDownRead" | "SlowDownWrite" => Some(Self::Unavailable { target, detail }),
            BODY_LOST => Some(Self::Lost { target, detail }),
            // Quotas are Ceph's `QuotaExceeded` (403) and MinIO's `XMinioAdminBucketQuotaExceeded` (400).
            _ if code == "XMinioStorageFull" || code.ends_with("QuotaExceeded") => {
                Some(Self::Full { target, detail })
            }
            _ => None,
        }
    }

    /// For a pinned read, a failed condition means that the object changed.
    pub(super) fn changed(self, uri: &ObjectUri, expected: &str) -> Self {
        match self {
            Self::Conflict { .. } => {
                Self::Changed { uri: uri.to_string(), expected: expected.to_owned(), found: None }
            }
            other => other,
        }
    }
}

/// What a call was about, for its error.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A bucket, or the whole store when empty.
    Bucket(&'a str),
    /// An object.
    Object(&'a ObjectUri),
}

impl Target<'_> {
    fn text(self) -> String {
        match self {
            Self::Bucket("") => "the list of buckets".to_owned(),
            Self::Bucket(name) => format!("s3://{name}/"),
            Self::Object(uri) => uri.to_string(),
        }
    }

    fn bucket(self) -> String {
        match self {
            Self::Bucket(name) => name.to_owned(),
            Self::Object(uri) => uri.bucket().to_owned(),
        }
    }

    fn not_found(self) -> Error {
        match self {
            Self::Bucket(name) => Error::NoSuchBucket { bucket: name.to_owned() },
            Self::Object(uri) => Error::NotFound { uri: uri.to_string() },
        }
    }

    /// Turns the SDK's error into ours.
    pub(super) fn error<E>(self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let target = self.text();
        match &error {
            SdkError::ServiceError(service) => {
                let answer = service.raw();
                let redirect = answer.headers().get("location").map(|to| format!("it points to {to}"));
                let code = service.err().code().unwrap_or_default();
                // What cannot be read as the answer that it says it is comes as a refusal, too.
                if answer.status().is_success() && code.is_empty() {
                    return Error::protocol(target, innermost(service.err()));
                }
                let detail = service.err().message().or(redirect.as_deref()).unwrap_or(code);
                if code == TIME_TOO_SKEWED {
                    return clocks_apart(target, detail, answer.headers().get("date"));
                }
                let bucket = self.bucket();
                region::elsewhere(Target::Bucket(&bucket).text(), code, detail, answer)
                    .unwrap_or_else(|| self.refusal(answer.status().as_u16(), code, detail))
            }
            SdkError::TimeoutError(_) => Error::Timeout { target, detail: chain(&error) },
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                Error::Timeout { target, detail: chain(&error) }
            }
            SdkError::DispatchFailure(_) => {
                Error::Unavailable { target, detail: format!("no answer: {}", innermost(&error)) }
            }
            SdkError::ResponseError(_) => Error::Unavailable { target, detail: chain(&error) },
            _ => Error::Other {
                target,
                code: "a request that cannot be built".to_owned(),
                detail: chain(&error),
            },
        }
    }

    /// The store answered with an error. HEAD carries no code, only a status.
    fn refusal(self, status: u16, code: &str, detail: &str) -> Error {
        let target = self.text();
        let detail = if detail.is_empty() { format!("HTTP status {status}") } else { detail.to_owned() };
        if let Some(known) = Error::of_known(&target, code, &detail) {
            return known;
        }
        match (code, status) {
            ("NoSuchBucket", _) => Error::NoSuchBucket { bucket: self.bucket() },
            ("NoSuchKey", _) => self.not_found(),
            // Ranges are asked for within the size of what was pinned.
            (_, 412 | 416) | ("ConditionalRequestConflict" | "OperationAborted", _) => {
                Error::Conflict { target, detail }
            }
            (_, 401 | 403) => Error::AccessDenied { target, detail },
            ("NoSuchUpload", _) => Error::Other { target, code: code.to_owned(), detail },
            (_, 404) => self.not_found(),
            (_, 507) => Error::Full { target, detail },
            // What a store does not have, it will not have later; proxies have statuses of their own.
            (_, 408 | 429 | 500 | 502..=504 | 506 | 508..=599) => Error::Unavailable { target, detail },
            ("", _) => Error::Other { target, code: "an answer without a code".to_owned(), detail },
            _ => Error::Other { target, code: format!("{code} (HTTP status {status})"), detail },
        }
    }
}

/// A request was signed for a time that is not the store's.
const TIME_TOO_SKEWED: &str = "RequestTimeTooSkewed";

/// The keys may be right: what is wrong passes once both clocks agree.
fn clocks_apart(target: String, said: &str, store: Option<&str>) -> Error {
    let store = store.unwrap_or("another time");
    let detail = format!(
        "its clock says {store} and this one {}, too far apart for a signed request ({said}); set the clocks",
        time::now()
    );
    Error::Unavailable { target, detail }
}

/// An error and its causes, in their own words.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What is at the bottom of it, such as a refused connection.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Credentials, Store, StoreConfig};

    #[test]
    fn a_refusal_that_passes_is_told_from_one_that_stays() {
        let check = |status, code: &str, expected: ErrorKind| {
            let found = Target::Bucket("bank").refusal(status, code, "");
            assert_eq!(found.kind(), expected, "{status} {code}: {found}");
            let passes = matches!(expected, ErrorKind::StoreUnavailable | ErrorKind::StorageFull);
            assert_eq!(found.is_transient(), passes, "{status} {code}");
        };
        for status in [408, 429, 500, 502, 503, 504, 520, 522, 524, 526, 530, 598] {
            check(status, "", ErrorKind::StoreUnavailable);
        }
        for status in [301, 400, 405, 411, 501, 505] {
            check(status, "", ErrorKind::Internal);
        }
        check(400, "RequestTimeout", ErrorKind::StoreUnavailable);
        for code in ["InternalError", "ServiceUnavailable", "SlowDown"] {
            check(200, code, ErrorKind::StoreUnavailable);
        }
        check(400, "InvalidRequest", ErrorKind::Internal);
        check(501, "NotImplemented", ErrorKind::Internal);
        check(403, "QuotaExceeded", ErrorKind::StorageFull);
        check(400, "XMinioAdminBucketQuotaExceeded", ErrorKind::StorageFull);
        check(507, "XMinioStorageFull", ErrorKind::StorageFull);
        check(507, "", ErrorKind::StorageFull);
        check(500, BODY_LOST, ErrorKind::Internal);
        check(403, "AccessDenied", ErrorKind::StoreDenied);
        check(403, TIME_TOO_SKEWED, ErrorKind::StoreUnavailable);
        check(409, "OperationAborted", ErrorKind::ObjectChanged);
        check(404, "", ErrorKind::BucketNotFound);
    }

    #[test]
    fn codes_alone_say_as_much() {
        let check = |code: &str, expected: ErrorKind| {
            assert_eq!(Error::of_code("s3://bank/a".to_owned(), code, "").kind(), expected, "{code}");
        };
        check("SlowDown", ErrorKind::StoreUnavailable);
        check("OperationAborted", ErrorKind::StoreUnavailable);
        check("QuotaExceeded", ErrorKind::StorageFull);
        check("AccessDenied", ErrorKind::StoreDenied);
        check("InvalidArgument", ErrorKind::Internal);
    }

    #[test]
    fn clocks_that_are_apart_are_both_told() {
        let store = "Mon, 30 Nov 2026 10:00:00 GMT";
        let error = clocks_apart("s3://bank/a".to_owned(), "too far", Some(store));
        assert!(error.is_transient() && error.kind() == ErrorKind::StoreUnavailable, "{error:?}");
        let text = error.to_string();
        assert!(text.contains(store) && text.contains("and this one 2"), "{text}");
        assert!(text.contains("(too far); set the clocks"), "{text}");
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_told_in_plain_words() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut config = StoreConfig::at(format!("http://{address}"), Credentials::new("key", "secret"));
        config.attempts_max = 1;
        let error = Store::connect(config).unwrap().list_buckets().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("found: no answer: Connection refused"), "{text}");
        assert!(!text.contains("dispatch failure") && !text.contains("ConnectorError"), "{text}");
    }
}
