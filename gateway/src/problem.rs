// SPDX-License-Identifier: Apache-2.0
//! The one place where what went wrong becomes an answer (RFC 9457).
//!
//! Handlers and layers return a [`Refusal`]; it travels as an extension of an
//! empty response until `render`, which knows the request's id, writes the body.
//! So every body carries the id, and no other code knows its shape. Inner detail goes to the log, once, where it is turned into a
//! `Problem`.

use std::{any::Any, time::Duration};

use axum::response::{IntoResponse, Response};
use fanfold_protocol::{ErrorKind, Problem, seldom::Seldom};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::RequestId;

/// A problem on its way out of a handler: `?` turns every error into one.
#[derive(Debug, Clone)]
pub struct Refusal(pub Problem);

/// The result of a handler.
pub type Answer<T> = Result<T, Refusal>;

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self(Problem::new(kind, detail))
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<fanfold_storage::Error> for Refusal {
    fn from(error: fanfold_storage::Error) -> Self {
        Self(of_store(error))
    }
}

impl From<fanfold_backbone::Error> for Refusal {
    fn from(error: fanfold_backbone::Error) -> Self {
        Self(of_backbone(error))
    }
}

/// A problem with the store met while the platform went about its own
/// business: what the caller may know of it. The rest is logged here.
pub fn of_store(error: fanfold_storage::Error) -> Problem {
    if let fanfold_storage::Error::AnotherTenants { problem } = error {
        return *problem;
    }
    static TOLD: Seldom = Seldom::new();
    if is_news(error.kind(), &TOLD) {
        tracing::warn!(%error, "the store failed");
    } else {
        tracing::debug!(%error, "the store failed");
    }
    let detail = match error.kind() {
        ErrorKind::StoreTimeout => "expected the object store to answer in time, it did not; try again later",
        ErrorKind::StoreDenied => {
            "expected access to the object store, found the platform's credentials refused; tell the operator"
        }
        ErrorKind::StorageFull => {
            "expected room in the object store, found it full; tell the operator, then try again"
        }
        ErrorKind::StoreUnavailable => {
            "expected the object store to answer, found it unavailable; try again later"
        }
        _ if matches!(error, fanfold_storage::Error::Lost { .. }) => {
            "expected the body of each object that the platform needs, found one missing from the store's disk; the \
             operator finds its name in the log"
        }
        _ => {
            "expected the platform's own objects to be readable and writable; tell the operator the request id"
        }
    };
    // An object or bucket of the platform's own that is missing is no news for the caller.
    let kind = match error.kind() {
        kind @ (ErrorKind::StoreTimeout
        | ErrorKind::StoreDenied
        | ErrorKind::StorageFull
        | ErrorKind::StoreUnavailable) => kind,
        _ => ErrorKind::Internal,
    };
    Problem::new(kind, detail)
}

/// The same for the backbone.
pub fn of_backbone(error: fanfold_backbone::Error) -> Problem {
    static TOLD: Seldom = Seldom::new();
    if is_news(error.kind(), &TOLD) {
        tracing::warn!(%error, "the backbone failed");
    } else {
        tracing::debug!(%error, "the backbone failed");
    }
    error.into()
}

/// False for what every request meets while the store, the backbone or the workers are away or full, unless it was not
/// told for a minute: a night of that must not fill the disk.
pub fn is_news(kind: ErrorKind, told: &Seldom) -> bool {
    let is_of_all = matches!(
        kind,
        ErrorKind::StoreTimeout
            | ErrorKind::StoreDenied
            | ErrorKind::StoreUnavailable
            | ErrorKind::StorageFull
            | ErrorKind::BackboneUnavailable
            | ErrorKind::WorkerUnavailable
    );
    !is_of_all || told.is_due(kind.code())
}

/// Whether what is written in a record is to blame, and not whoever keeps it: no other
/// attempt at reading or copying it would do better.
pub(crate) fn is_of_a_record(problem: &Problem) -> bool {
    matches!(problem.code, ErrorKind::Internal | ErrorKind::PayloadTooLarge | ErrorKind::InvalidTrigger)
}

/// As much of what somebody wrote as a detail quotes.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Something that cannot happen happened: logged here, with what it was.
pub fn internal(what: impl std::fmt::Display) -> Problem {
    tracing::error!(%what, "internal failure");
    Problem::new(
        ErrorKind::Internal,
        "something inside the platform failed; tell the operator the request id",
    )
}

/// What a panic in a handler becomes.
pub(crate) fn of_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Refusal(internal(format!("a handler panicked: {}", text.unwrap_or_default()))).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(Unrendered(self.0));
        response
    }
}

#[derive(Clone)]
struct Unrendered(Problem);

/// The body of every answer that says no: RFC 9457, `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// A relative reference to the page about this code.
    #[schema(example = "/docs/errors/function-not-found")]
    pub r#type: String,
    /// The kind in a few words.
    pub title: &'static str,
    /// The HTTP status again.
    pub status: u16,
    /// What was expected, what was found, what to do.
    pub detail: String,
    /// The stable code.
    #[schema(example = "function-not-found")]
    pub code: &'static str,
    /// Whether the same request may succeed when tried again.
    pub retryable: bool,
    /// Names this request in the service's log.
    pub request_id: String,
    /// The word of the guest's own error, when a guest returned one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_code: Option<String>,
}

impl ProblemBody {
    /// The body for this problem.
    pub fn new(problem: Problem, request_id: &RequestId) -> Self {
        Self {
            r#type: page(problem.code),
            title: problem.code.title(),
            status: problem.code.status(),
            retryable: problem.retryable(),
            code: problem.code.code(),
            request_id: request_id.to_string(),
            detail: problem.detail,
            guest_code: problem.guest_code,
        }
    }
}

/// Why a job, a task or an invocation failed, within the document about it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProblemView {
    /// The stable code.
    #[schema(example = "csv-field-count")]
    pub code: &'static str,
    /// The kind in a few words.
    pub title: &'static str,
    /// What was expected, what was found, what to do.
    pub detail: String,
    /// The page about the code.
    pub r#type: String,
    /// Whether the same may succeed when tried again.
    pub retryable: bool,
    /// The word of the guest's own error, when a guest returned one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_code: Option<String>,
}

impl From<&Problem> for ProblemView {
    fn from(problem: &Problem) -> Self {
        Self {
            code: problem.code.code(),
            title: problem.code.title(),
            detail: problem.detail.clone(),
            r#type: page(problem.code),
            retryable: problem.retryable(),
            guest_code: problem.guest_code.clone(),
        }
    }
}

/// A relative reference to the page about a code.
fn page(kind: ErrorKind) -> String {
    format!("/docs/errors/{}", kind.code())
}

/// Writes the body of a problem.
pub(crate) fn render(mut response: Response, id: &RequestId) -> Response {
    let Some(Unrendered(problem)) = response.extensions_mut().remove::<Unrendered>() else { return response };
    // What a handler said beside, such as the id of an invocation, stays.
    let mut said = std::mem::take(response.headers_mut());
    said.remove(header::CONTENT_LENGTH);
    let challenged = said.contains_key(header::WWW_AUTHENTICATE);
    let mut response = body(problem, id);
    for (name, value) in std::mem::replace(response.headers_mut(), said) {
        // A handler knows better which credentials will do.
        if let Some(name) = name.filter(|name| name != header::WWW_AUTHENTICATE || !challenged) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn body(problem: Problem, id: &RequestId) -> Response {
    let (kind, retry_after) = (problem.code, retry_after(&problem));
    if kind.status() >= 500 {
        static TOLD: Seldom = Seldom::new();
        if is_news(kind, &TOLD) {
            tracing::warn!(request_id = %id, code = kind.code(), detail = %problem.detail, "request failed");
        } else {
            tracing::debug!(request_id = %id, code = kind.code(), detail = %problem.detail, "request failed");
        }
    }
    let status = StatusCode::from_u16(kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = serde_json::to_vec(&ProblemBody::new(problem, id)).unwrap_or_default();
    let mut response = (status, json).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if kind == ErrorKind::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fanfold\""));
    }
    response
}

/// Seconds to wait: as long as the problem lasts; where that is not known, little where places
/// become free all the time, more where something must recover first.
fn retry_after(problem: &Problem) -> Option<u64> {
    let usual = match problem.code.status() {
        429 => 1,
        503 => 5,
        _ => return None,
    };
    let whole = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Some(problem.wait.map_or(usual, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_request_meets_is_told_once_a_minute_and_the_rest_each_time() {
        let told = Seldom::new();
        for (kind, expected) in [
            (ErrorKind::StoreUnavailable, [true, false, false]),
            (ErrorKind::BackboneUnavailable, [true, false, false]),
            (ErrorKind::Internal, [true; 3]),
            (ErrorKind::FunctionError, [true; 3]),
        ] {
            assert_eq!([(); 3].map(|()| is_news(kind, &told)), expected, "{kind}");
        }
    }

    #[test]
    fn who_is_to_come_back_is_told_when() {
        let check = |kind: ErrorKind, wait: Option<u64>, expected: Option<u64>| {
            let wait = wait.map(Duration::from_millis);
            let problem = Problem { wait, ..Problem::new(kind, "expected room, found none") };
            assert_eq!(retry_after(&problem), expected, "{kind} {wait:?}");
        };
        check(ErrorKind::ConcurrencyLimit, None, Some(1));
        check(ErrorKind::ConcurrencyLimit, Some(86_400_001), Some(86_401));
        check(ErrorKind::QueueFull, Some(30_000), Some(30));
        check(ErrorKind::StoreUnavailable, None, Some(5));
        check(ErrorKind::FunctionNotFound, Some(1_000), None);
    }
}
