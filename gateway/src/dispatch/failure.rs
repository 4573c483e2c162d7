// SPDX-License-Identifier: Apache-2.0
//! Why a call has no outcome, and what answers and errors say of it.
//!
//! Beside [`super::endpoint`], which asks. Invariant: whatever may have run is [`Failure::Lost`].

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, invocation::Usage, worker::decode_outcome};

/// Why there is no outcome.
#[derive(Debug)]
pub enum Failure {
    /// Nothing of the call has run.
    NotStarted(Problem),
    /// Nothing of it has run, since there is no room for its sandbox.
    NoRoom(Problem),
    /// Nothing of it has run, since the worker does not know what it is about.
    Untold(Problem),
    /// It may have run, or run still.
    Lost(Problem),
}

/// Whether an outcome is that of a sandbox, so that the component was there.
pub(super) fn had_sandbox(frame: &Bytes) -> bool {
    decode_outcome(frame.clone())
        .is_ok_and(|outcome| outcome.result.is_ok() || outcome.usage != Usage::default())
}

/// Whether the worker takes no call at all because it has enough, or stops.
pub(super) fn has_no_room(problem: &Problem) -> bool {
    matches!(problem.code, ErrorKind::ConcurrencyLimit | ErrorKind::ShuttingDown)
}

/// An error with what lies behind it, which the outermost does not tell.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let more = std::iter::successors(error.source(), |error| error.source());
    more.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// Whether the worker said, in HTTP/2's own words, that it did nothing with a stream: that it
/// refused it, or that it goes away without an error and had not seen it (RFC 9113, 6.8). Streams
/// that it had seen are ended, and break with the connection if they are not.
pub(super) fn is_refused(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => true,
                Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
                _ => false,
            };
        }
        source = cause.source();
    }
    false
}
