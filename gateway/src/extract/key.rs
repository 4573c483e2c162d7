// SPDX-License-Identifier: Apache-2.0
//! The key under which a caller asks for something once.
//!
//! What becomes of it is the matter of whoever keeps what was asked for. Invariant: one rule for all
//! routes, that of a string in the IETF's draft of the header `Idempotency-Key` (a string of RFC 8941, section
//! 3.3.3), but for its quotes: here all of the header's value is the key.

use fanfold_protocol::{ErrorKind, Problem, limits};
use http::{HeaderMap, HeaderName};

use super::single;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key of a request, if it has one.
///
/// # Errors
/// `invalid-request` when there are several, or for one that [`check_key`] refuses.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    single(headers, IDEMPOTENCY_KEY)?.map(|value| check_key(value.as_bytes())).transpose()
}

/// A key as a text: 1 to 255 printable ASCII characters, spaces among them.
///
/// # Errors
/// `invalid-request`.
pub fn check_key(bytes: &[u8]) -> Result<&str, Problem> {
    let length_max = limits::IDEMPOTENCY_KEY_BYTES_MAX;
    let found = match bytes {
        [] => "none".to_owned(),
        bytes if bytes.len() > length_max => bytes.len().to_string(),
        bytes => match std::str::from_utf8(bytes) {
            Ok(text) if bytes.iter().all(|b| (b' '..=b'~').contains(b)) => return Ok(text),
            _ => format!("\"{}\"", bytes.escape_ascii()),
        },
    };
    Err(Problem::new(
        ErrorKind::InvalidRequest,
        format!(
            "Idempotency-Key must be 1 to {length_max} printable ASCII characters, found {found}; a UUID does well"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_one_text_that_can_be_printed() {
        for fits in ["k", "order 4711", "\"quoted\"", "~", &"k".repeat(255)] {
            assert_eq!(check_key(fits.as_bytes()).unwrap(), fits);
        }
        let long = "k".repeat(256);
        for (refused, found) in [
            ("", "found none;"),
            (long.as_str(), "found 256;"),
            ("a\tb", "found \"a\\tb\";"),
            ("\u{e9}", "found \"\\xc3\\xa9\";"),
            ("\u{7f}", "found \"\\x7f\";"),
        ] {
            let problem = check_key(refused.as_bytes()).unwrap_err();
            assert_eq!(problem.code, ErrorKind::InvalidRequest);
            assert!(problem.detail.contains(found), "{problem}");
        }
    }

    #[test]
    fn a_request_has_one_key_or_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(idempotency_key(&headers), Ok(None));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert_eq!(idempotency_key(&headers), Ok(Some("a")));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("b"));
        let problem = idempotency_key(&headers).unwrap_err();
        assert!(problem.detail.contains("once, found it 2 times"), "{problem}");
    }
}
