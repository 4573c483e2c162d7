// SPDX-License-Identifier: Apache-2.0
//! What a handler answers, and what may stand for an answer.
//!
//! It owns the response and its making from an author's return value, as the
//! last step of a `#[fanfold::handler]`. Invariant: a status outside of 200 to
//! 599 never leaves the function.

use serde::Serialize;

use crate::request::{Bytes, Json};
use crate::{Error, Result};

const CONTENT_TYPE: &str = "content-type";

/// The answer, whole.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// let answer = Response::new("gone").with_status(410).with_header("Retry-After", "never");
/// assert_eq!((answer.status, answer.body.as_slice()), (410, b"gone".as_slice()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// An HTTP status from 200 to 599.
    pub status: u16,
    /// Names in lower case. Hop-by-hop headers are dropped by the platform.
    pub headers: Vec<(String, String)>,
    /// The body, at most 6 MiB.
    pub body: Bytes,
}

impl Response {
    /// Status 200 with this body and no content type.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into() }
    }

    /// Status 200 with `value` as JSON.
    ///
    /// # Errors
    ///
    /// `invalid-response` when `value` has no JSON form, such as a map whose
    /// keys are no strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let body = serde_json::to_vec(value).map_err(|error| {
            Error::new("invalid-response", format!("the answer has no JSON form: {error}"))
        })?;
        Ok(Self::new(body).with_header(CONTENT_TYPE, "application/json"))
    }

    /// The same answer with another status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same answer with one more header. A `content-type` takes the place of the one
    /// before, such as that of [`Response::json`]: an answer has one.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        let name = name.to_ascii_lowercase();
        if name == CONTENT_TYPE {
            self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(CONTENT_TYPE));
        }
        self.headers.push((name, value.into()));
        self
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, with what is no UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn checked(self) -> Result<Self> {
        if (200..600).contains(&self.status) {
            return Ok(self);
        }
        Err(Error::new(
            "invalid-response",
            format!("status must be from 200 to 599, found {}; answer with another one", self.status),
        ))
    }
}

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not an answer",
    note = "return `Json<T>` with `T: Serialize`, `String`, `Vec<u8>`, `Response` or `()`, each with or without `Result`"
)]
pub trait IntoResponse {
    /// Makes the answer.
    ///
    /// # Errors
    ///
    /// When the value has no form as an answer, or is itself an error.
    fn into_response(self) -> Result<Response>;
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response> {
        Ok(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response> {
        Ok(Response::new(Bytes::new()).with_status(204))
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Result<Response> {
        Ok(Response::new(self).with_header(CONTENT_TYPE, "application/octet-stream"))
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response> {
        Ok(Response::new(self.into_bytes()).with_header(CONTENT_TYPE, "text/plain; charset=utf-8"))
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Result<Response> {
        self.to_owned().into_response()
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response> {
        Response::json(&self.0)
    }
}

/// A status for an answer: `(201, Json(created))`.
impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Result<Response> {
        Ok(self.1.into_response()?.with_status(self.0))
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for std::result::Result<T, E> {
    fn into_response(self) -> Result<Response> {
        self.map_err(Into::into)?.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: impl IntoResponse, status: u16, content_type: Option<&str>, text: &str) {
        let answer = answer.into_response().and_then(Response::checked).unwrap();
        assert_eq!((answer.status, answer.header("Content-Type")), (status, content_type));
        assert_eq!(answer.text(), text);
    }

    #[test]
    fn values_become_answers() {
        check(Json("hi"), 200, Some("application/json"), "\"hi\"");
        check("hi", 200, Some("text/plain; charset=utf-8"), "hi");
        check(b"hi".to_vec(), 200, Some("application/octet-stream"), "hi");
        check((), 204, None, "");
        check((201, Json([1])), 201, Some("application/json"), "[1]");
        check(Ok::<_, Error>("fine"), 200, Some("text/plain; charset=utf-8"), "fine");
    }

    #[test]
    fn an_answer_has_one_type() {
        let answer = Response::json(&[1]).unwrap().with_header("X-Tag", "a").with_header("x-tag", "b");
        let answer = answer.with_header("Content-Type", "application/geo+json");
        let headers: Vec<_> =
            answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("x-tag", "a"), ("x-tag", "b"), ("content-type", "application/geo+json")]);
    }

    #[test]
    fn a_status_out_of_range_is_refused() {
        let error = (199, "no").into_response().and_then(Response::checked).unwrap_err();
        assert_eq!(error.code(), "invalid-response");
    }
}
