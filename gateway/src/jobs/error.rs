// SPDX-License-Identifier: Apache-2.0
//! Why the job engine could not go on.
//!
//! Stands between the store and the backbone below and the routes above. A
//! transient error never ends a job: the coordinator begins anew from what is
//! written down. Nor does what a newer release wrote: others can read it.

use fanfold_protocol::{ErrorKind, Problem, seldom::Seldom};

use crate::problem;

/// The result of a step of the job engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a step of the job engine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed at the platform's own objects.
    #[error(transparent)]
    Store(#[from] fanfold_storage::Error),
    /// The backbone failed.
    #[error(transparent)]
    Backbone(#[from] fanfold_backbone::Error),
    /// The caller is told why.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// An object or record of the platform's own does not read back.
    #[error("expected {what} to be whole, found: {found}; restore it from a backup or submit the job again")]
    Damaged {
        /// Its key.
        what: String,
        /// What is wrong with it.
        found: String,
    },
    /// An object of the platform's own is sound and says what this release does not know.
    #[error(
        "expected {what} to be of this release or an older one, found: {found}; upgrade this gateway as well"
    )]
    Newer {
        /// Its key.
        what: String,
        /// What is not known.
        found: String,
    },
}

impl Error {
    /// Something of the platform's own that does not read back.
    pub fn damaged(what: impl Into<String>, found: impl ToString) -> Self {
        Self::Damaged { what: what.into(), found: found.to_string() }
    }

    /// JSON of the platform's own that is not what it should be: garbled or cut off, or
    /// whole and with what only a newer release knows.
    pub fn unread(what: impl Into<String>, error: &serde_json::Error) -> Self {
        let (what, found) = (what.into(), error.to_string());
        if error.is_data() { Self::Newer { what, found } } else { Self::Damaged { what, found } }
    }

    /// Whether the same step may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Backbone(error) => error.is_retryable(),
            Self::Refused(problem) => problem.retryable(),
            Self::Damaged { .. } | Self::Newer { .. } => false,
        }
    }

    /// Whether a log is told of it by what is tried again and again: once a minute, where it comes of what is away.
    pub fn is_news(&self, told: &Seldom) -> bool {
        let kind = match self {
            Self::Store(error) => error.kind(),
            Self::Backbone(error) => error.kind(),
            Self::Refused(problem) => problem.code,
            Self::Damaged { .. } | Self::Newer { .. } => return true,
        };
        problem::is_news(kind, told)
    }

    /// Whether a gateway of a newer release may get further.
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }

    /// Whether the backbone was closed under us: the process is ending.
    pub fn is_closing(&self) -> bool {
        matches!(self, Self::Backbone(fanfold_backbone::Error::Closed))
    }
}

impl From<Error> for Problem {
    /// What a person may know; the rest is logged where this is called.
    fn from(error: Error) -> Self {
        match error {
            Error::Store(error) => problem::of_store(error),
            Error::Backbone(error) => problem::of_backbone(error),
            Error::Refused(problem) => problem,
            unread @ (Error::Damaged { .. } | Error::Newer { .. }) => problem::internal(unread),
        }
    }
}

/// An error about an object or bucket that the caller named: the store's own
/// words are for the caller then, in the kinds that the caller can mend.
pub fn about_input(error: fanfold_storage::Error) -> Error {
    match error.kind() {
        kind @ (ErrorKind::ObjectNotFound
        | ErrorKind::BucketNotFound
        | ErrorKind::ObjectChanged
        | ErrorKind::AccessDenied) => Error::Refused(Problem::new(kind, error.to_string())),
        ErrorKind::TransferTooLarge => {
            Error::Refused(Problem::new(ErrorKind::TransferTooLarge, error.to_string()))
        }
        ErrorKind::StoreDenied => Error::Refused(Problem::new(
            ErrorKind::AccessDenied,
            format!("expected the platform to have access there, found: {error}"),
        )),
        _ => Error::Store(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_told_of_what_is_away_once_and_of_what_is_damaged_each_time() {
        let told = Seldom::new();
        let check = |error: Error, expected: [bool; 2]| {
            assert_eq!([error.is_news(&told), error.is_news(&told)], expected, "{error}");
        };
        let refused = |kind| Error::Refused(Problem::new(kind, "as the test says"));
        check(refused(ErrorKind::BackboneUnavailable), [true, false]);
        check(refused(ErrorKind::StoreUnavailable), [true, false]);
        check(refused(ErrorKind::Internal), [true, true]);
        check(Error::damaged("a plan", "half of it"), [true, true]);
    }
}
