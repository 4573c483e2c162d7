// SPDX-License-Identifier: Apache-2.0
//! Dates in headers that s3s cannot read, and refuses.
//!
//! A condition on what is no date has to be ignored, and dates of the two old forms are to be
//! read (RFC 9110, sections 13.1.3, 13.1.4 and 5.6.7). The headers of such a request are corrected on
//! its [`detour`](super::detour).

use http::{HeaderMap, HeaderValue, Method, Uri};

use super::{
    attributes::{http_date, parse_http_date},
    auth::parameter,
};

/// The conditions on dates, of reads and of what copies read.
const CONDITIONS: [&str; 4] = [
    "if-modified-since",
    "if-unmodified-since",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-unmodified-since",
];

/// Whether a request has dates that s3s would refuse.
pub(super) fn are_odd(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let count = match *method {
        Method::GET | Method::HEAD | Method::PUT => true,
        // Of a form the fields count.
        Method::POST => parameter(uri, "uploads").is_some(),
        _ => false,
    };
    count && CONDITIONS.iter().any(|name| one_date(headers, name).as_ref() != headers.get(*name))
}

/// Puts the dates that are meant, or none, in the place of such ones.
pub(super) fn correct(headers: &mut HeaderMap) {
    for name in CONDITIONS {
        let date = one_date(headers, name);
        headers.remove(name);
        if let Some(date) = date {
            headers.insert(name, date);
        }
    }
}

/// The one date of a header as s3s reads it, if it has the form of one.
fn one_date(headers: &HeaderMap, name: &str) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let date = http_date(&parse_http_date(value.to_str().ok()?)?)?;
    HeaderValue::from_str(&date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn conditions_are_ignored_or_corrected() {
        let check = |values: &[&str], expected: Option<&str>| {
            for name in CONDITIONS {
                let mut headers = HeaderMap::new();
                for value in values {
                    headers.append(name, value.parse().unwrap());
                }
                let is_odd = are_odd(&Method::GET, &Uri::from_static("/bank/k"), &headers);
                assert_eq!(is_odd, values != expected.as_slice(), "{name}: {values:?}");
                correct(&mut headers);
                let kept = headers.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(kept, expected, "{name}: {values:?}");
                assert_eq!(headers.len(), usize::from(expected.is_some()));
            }
        };
        check(&[DATE], Some(DATE));
        check(&["Sunday, 06-Nov-94 08:49:37 GMT"], Some(DATE));
        check(&["Sun Nov  6 08:49:37 1994"], Some(DATE));
        check(&[], None);
        check(&[DATE, DATE], None);
        for wrong in [
            "garbage",
            "0",
            "1994-11-06T08:49:37Z",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 31 Feb 1994 08:49:37 GMT",
        ] {
            check(&[wrong], None);
        }
    }

    #[test]
    fn only_calls_that_read_dates_have_odd_ones() {
        let check = |method: Method, uri: &'static str, expected| {
            let headers = [(http::header::IF_MODIFIED_SINCE, HeaderValue::from_static("garbage"))]
                .into_iter()
                .collect();
            assert_eq!(are_odd(&method, &Uri::from_static(uri), &headers), expected, "{method} {uri}");
        };
        check(Method::HEAD, "/bank/k", true);
        check(Method::PUT, "/bank/k", true);
        check(Method::POST, "/bank/k?uploads", true);
        check(Method::POST, "/bank", false);
        check(Method::DELETE, "/bank/k", false);
    }
}
