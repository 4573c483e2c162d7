// SPDX-License-Identifier: Apache-2.0
//! Who a request is: its id, and the trace it belongs to.
//!
//! The outermost layer. A caller's `X-Request-Id` is kept when it is harmless,
//! and a `traceparent` (W3C Trace Context, level 1) puts the request's span
//! into the caller's trace. Every answer carries the id.

use std::{fmt, sync::Arc};

use axum::{extract::Request, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;
use uuid::Uuid;

/// The header that carries the id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Ids of callers that are longer are replaced.
const ID_BYTES_MAX: usize = 128;

/// The id of a request, as the caller gave it or a UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl Default for RequestId {
    fn default() -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self(Arc::from(&*Uuid::now_v7().hyphenated().encode_lower(&mut buffer)))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RequestId {
    /// The caller's own id where it is 1 to 128 letters, digits and `-_.:`,
    /// so that it can stand in logs and headers as it is.
    fn of(headers: &HeaderMap) -> Self {
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|id| (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(harmless))
            .map_or_else(Self::default, |id| Self(Arc::from(id)))
    }
}

/// A place in a trace, from a `traceparent` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// 32 lower-case hexadecimal digits, not all zero.
    pub trace_id: String,
    /// 16 of them: the span of whoever called.
    pub parent_id: String,
}

impl TraceParent {
    /// Reads `version-trace-parent-flags`. Later versions may add fields; what
    /// is malformed is ignored, as the specification has it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let shaped = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
        let zero = |text: &str| text.bytes().all(|b| b == b'0');
        let known = version != "ff" && (version != "00" || parts.next().is_none());
        (shaped && known && !zero(trace) && !zero(parent))
            .then(|| Self { trace_id: trace.to_owned(), parent_id: parent.to_owned() })
    }
}

/// Names the request, for handlers and for the log.
pub(crate) fn identify(request: &mut Request) -> (RequestId, Span) {
    let id = RequestId::of(request.headers());
    let span = tracing::info_span!(
        "request",
        request_id = %id,
        trace_id = tracing::field::Empty,
        parent_id = tracing::field::Empty
    );
    let parent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    if let Some(parent) = parent.and_then(TraceParent::parse) {
        span.record("trace_id", parent.trace_id.as_str());
        span.record("parent_id", parent.parent_id.as_str());
    }
    request.extensions_mut().insert(id.clone());
    (id, span)
}

/// Names the request in its answer.
pub(crate) fn name(response: &mut Response, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_parents_are_read_as_w3c_has_it() {
        let check = |text: &str, good: bool| assert_eq!(TraceParent::parse(text).is_some(), good, "{text}");
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        check(&format!("00-{trace}-{span}-01"), true);
        check(&format!("cc-{trace}-{span}-01-more"), true);
        check(&format!("00-{trace}-{span}-01-more"), false);
        check(&format!("ff-{trace}-{span}-01"), false);
        check(&format!("00-{}-{span}-01", "0".repeat(32)), false);
        check(&format!("00-{}-{span}-01", trace.to_uppercase()), false);
        check("", false);
    }

    #[test]
    fn ids_of_callers_are_kept_when_harmless() {
        let id = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            RequestId::of(&headers).to_string()
        };
        assert_eq!(id("order-7:a.b_c"), "order-7:a.b_c");
        for bad in ["", "a b", "a\"b", "ä", &"a".repeat(129)] {
            assert_ne!(id(bad), bad);
        }
    }
}
