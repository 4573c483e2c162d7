// SPDX-License-Identifier: Apache-2.0
//! What NATS says went wrong, in this crate's words.
//!
//! Only three cases matter to a caller: the store is full, the expectation of a compare-and-set did not hold, and
//! everything else, which is worth a retry with the same ids.

use std::error::Error as _;
use std::fmt::Display;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use crate::error::Error;

/// No answer came to what was sent.
pub(super) const SILENT: &str = "NATS did not answer";

/// The server cannot serve, or not at the moment.
pub(super) fn unavailable(failure: impl Display) -> Error {
    Error::Unavailable { detail: failure.to_string() }
}

/// How a publish with an expectation failed.
pub(super) enum Refusal {
    /// The subject's last message is another one.
    Outdated,
    Failed(Error),
}

impl From<PublishError> for Refusal {
    fn from(failure: PublishError) -> Self {
        if failure.kind() == PublishErrorKind::WrongLastSequence
            || code(&failure).is_some_and(|code| OUTDATED.contains(&code))
        {
            return Refusal::Outdated;
        }
        Refusal::Failed(failed_publish(&failure))
    }
}

/// What newer servers say where another write of the same key is under way or was faster.
const OUTDATED: [ErrorCode; 3] = [
    ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT,
    ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT,
    ErrorCode::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY,
];

/// True where the server is still storing another copy of the message, and cannot tell yet whether it will.
pub(super) fn is_in_process(failure: &PublishError) -> bool {
    code(failure) == Some(ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT)
}

/// True where no server of the stream took the message: its copies have no leader for a moment, say.
pub(super) fn is_unheard(failure: &PublishError) -> bool {
    failure.kind() == PublishErrorKind::StreamNotFound
}

/// Why a message was not stored.
pub(super) fn failed_publish(failure: &PublishError) -> Error {
    match told(failure) {
        Some(told) if is_full(told.error_code()) => Error::StorageFull { detail: told.to_string() },
        Some(told) => unavailable(told),
        None => unavailable(failure),
    }
}

/// What JetStream itself said, where it was reached.
fn told(failure: &PublishError) -> Option<&jetstream::Error> {
    failure.source().and_then(|source| source.downcast_ref())
}

fn code(failure: &PublishError) -> Option<ErrorCode> {
    told(failure).map(jetstream::Error::error_code)
}

/// True for every way of saying that there is no room; a stream at its bounds says that its store failed.
fn is_full(code: ErrorCode) -> bool {
    [
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::STREAM_STORE_FAILED,
    ]
    .contains(&code)
}
