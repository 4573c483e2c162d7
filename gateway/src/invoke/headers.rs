// SPDX-License-Identifier: Apache-2.0
//! What of a request a guest may see, and what of a guest's answer goes out.
//!
//! Credentials never enter a guest, and a guest never speaks for the platform
//! or about the connection: hop-by-hop headers (RFC 9110, 7.6.1), lengths and
//! `x-fanfold-*` are the gateway's own, both ways.

use fanfold_protocol::{ErrorKind, Problem, invocation, limits};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::problem::excerpt;

/// Credentials, and what concerns the connection only.
const NOT_FOR_GUESTS: [&str; 14] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "idempotency-key",
    "prefer",
];
/// What concerns the connection, and what the gateway itself says.
const NOT_FROM_GUESTS: [&str; 15] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "date",
    "server",
    "server-timing",
    "x-request-id",
    "alt-svc",
];
/// The platform's own headers.
const OWN: &str = "x-fanfold-";

/// The headers for a guest: names in lower case, values that are text.
pub(crate) fn for_guest(headers: &HeaderMap) -> Vec<(String, String)> {
    let named =
        connection_options(headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok()));
    headers
        .iter()
        .filter(|(name, _)| {
            let name = name.as_str();
            !NOT_FOR_GUESTS.contains(&name) && !name.starts_with(OWN) && !named.iter().any(|n| n == name)
        })
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?.to_owned())))
        .collect()
}

/// A guest's answer as HTTP.
///
/// # Errors
/// `response-invalid` for a status or a header that HTTP does not know,
/// `response-too-large`.
pub(crate) fn from_guest(answer: invocation::Response) -> Result<Response<axum::body::Body>, Problem> {
    let invalid = |detail: String| Problem::new(ErrorKind::ResponseInvalid, detail);
    if answer.body.len() as u64 > limits::RESPONSE_BYTES_MAX {
        return Err(Problem::new(
            ErrorKind::ResponseTooLarge,
            format!(
                "an answer must be at most {} bytes, found {}; write large results to an object and answer its URI",
                limits::RESPONSE_BYTES_MAX,
                answer.body.len()
            ),
        ));
    }
    let status = StatusCode::from_u16(answer.status).ok().filter(|_| (200..=599).contains(&answer.status));
    let status = status.ok_or_else(|| {
        invalid(format!("expected a status from 200 to 599 of the function, found {}", answer.status))
    })?;
    let bytes: usize = answer.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if answer.headers.len() > limits::HEADERS_MAX || bytes as u64 > limits::HEADER_BYTES_MAX {
        return Err(invalid(format!(
            "expected at most {} headers of {} bytes of the function, found {} of {bytes}",
            limits::HEADERS_MAX,
            limits::HEADER_BYTES_MAX,
            answer.headers.len()
        )));
    }
    // These end with their heads (RFC 9110, 15.3.5, 15.3.6 and 15.4.5): over HTTP/2 any body would go out.
    let is_bare =
        matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if is_bare { axum::body::Body::empty() } else { answer.body.into() };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let options = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
    let named = connection_options(options.map(|(_, value)| value.as_str()));
    for (name, value) in &answer.headers {
        let shown = || excerpt(name);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
            invalid(format!("expected the name of a header of the function, found {:?}", shown()))
        })?;
        // Text beyond ASCII goes out as the bytes that it is (`obs-text` of RFC 9110, 5.5).
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| invalid(format!("expected visible text in the function's header {:?}", shown())))?;
        let text = name.as_str();
        if NOT_FROM_GUESTS.contains(&text) || text.starts_with(OWN) || named.iter().any(|n| n == text) {
            continue;
        }
        // An answer has one type (RFC 9110, 5.3): who gave it another meant the last.
        if name == header::CONTENT_TYPE {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(response)
}

/// The type of an answer by its headers.
pub(crate) fn content_type(headers: &[(String, String)]) -> Option<&str> {
    let last = headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    last.map(|(_, value)| value.as_str())
}

/// A value as text; beyond ASCII it is, as that of an answer, UTF-8.
fn text(value: &HeaderValue) -> Option<&str> {
    str::from_utf8(value.as_bytes()).ok()
}

/// The headers that `Connection` names: they, too, concern the connection only.
fn connection_options<'a>(values: impl Iterator<Item = &'a str>) -> Vec<String> {
    values.flat_map(|value| value.split(',')).map(|option| option.trim().to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::body::Body as _;

    use super::*;

    #[test]
    fn credentials_and_the_connection_stay_outside() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("x-fanfold-params", "{}"),
            ("content-type", "text/plain"),
            ("accept", "a"),
            ("accept", "b"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let seen = for_guest(&headers);
        let expected = [("content-type", "text/plain"), ("accept", "a"), ("accept", "b")];
        assert_eq!(seen, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn text_beyond_ascii_comes_in_as_it_is() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-name", "zählt\t日".as_bytes()), ("x-bytes", &b"z\xe4hlt"[..])] {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(for_guest(&headers), [("x-name".to_owned(), "zählt\t日".to_owned())]);
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> invocation::Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        invocation::Response { status, headers, body: Bytes::from_static(b"x") }
    }

    #[test]
    fn a_guest_speaks_only_for_itself() {
        let headers = [
            ("content-type", "text/html"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("content-length", "999"),
            ("Transfer-Encoding", "chunked"),
            ("connection", "x-secret"),
            ("x-secret", "1"),
            ("X-Fanfold-Version", "9"),
        ];
        let response = from_guest(answer(201, &headers)).unwrap();
        assert_eq!(response.status(), 201);
        let names: Vec<_> = response.headers().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "set-cookie", "set-cookie"]);
    }

    #[test]
    fn an_answer_has_one_type() {
        let typed =
            answer(200, &[("content-type", "application/json"), ("x-a", "1"), ("Content-Type", "a/b")]);
        assert_eq!(content_type(&typed.headers), Some("a/b"));
        let response = from_guest(typed).unwrap();
        assert_eq!(response.headers().get_all("content-type").iter().collect::<Vec<_>>(), ["a/b"]);
        assert_eq!(content_type(&[]), None);
    }

    #[test]
    fn a_status_without_a_body_has_none() {
        let check = |status: u16, bytes: u64| {
            let body = from_guest(answer(status, &[])).unwrap().into_body();
            assert_eq!(
                (body.size_hint().exact(), body.is_end_stream()),
                (Some(bytes), bytes == 0),
                "{status}"
            );
        };
        for status in [204, 205, 304] {
            check(status, 0);
        }
        check(200, 1);
        check(404, 1);
    }

    #[test]
    fn text_beyond_ascii_goes_out_as_it_is() {
        let response = from_guest(answer(200, &[("x-name", "zählt\t日")])).unwrap();
        assert_eq!(response.headers()["x-name"].as_bytes(), "zählt\t日".as_bytes());
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for answer in [
            answer(199, &[]),
            answer(600, &[]),
            answer(200, &[("a b", "1")]),
            answer(200, &[("a", "1\r\nset: 2")]),
            answer(200, &[("a", "\u{7f}")]),
        ] {
            assert_eq!(from_guest(answer).unwrap_err().code, ErrorKind::ResponseInvalid);
        }
    }
}
