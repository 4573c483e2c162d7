// SPDX-License-Identifier: Apache-2.0
//! Dates in headers that s3s cannot read, and refuses.
//!
//! A condition on what is no date has to be ignored, and dates of the two old forms are to be
//! read (RFC 9110, sections 13.1.3, 13.1.4 and 5.6.7). `Expires` is the readers' affair: S3 gives back what
//! was written, `0` or any text. The headers of such a request are corrected on its
//! [`detour`](super::detour).

use http::{HeaderMap, HeaderValue, Method, Uri, header::EXPIRES};

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

/// An `Expires` that is no date as s3s would write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expires(pub(super) String);

/// Whether a request has dates that s3s would refuse.
pub(super) fn are_odd(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let count = match *method {
        Method::GET | Method::HEAD | Method::PUT => true,
        // Of a form the fields count.
        Method::POST => parameter(uri, "uploads").is_some(),
        _ => false,
    };
    let is_odd = |name: &&str| one_date(headers, name).as_ref() != headers.get(*name);
    count && (CONDITIONS.iter().any(is_odd) || expires(headers).is_some())
}

/// Puts the dates that are meant, or none, in the place of such ones, and takes out an
/// `Expires` that is none.
pub(super) fn correct(headers: &mut HeaderMap) -> Option<Expires> {
    for name in CONDITIONS {
        let date = one_date(headers, name);
        headers.remove(name);
        if let Some(date) = date {
            headers.insert(name, date);
        }
    }
    let text = expires(headers)?.to_owned();
    headers.remove(EXPIRES);
    Some(Expires(text))
}

/// The one date of a header as s3s reads it, if it has the form of one.
fn one_date(headers: &HeaderMap, name: &str) -> Option<HeaderValue> {
    let date = http_date(&parse_http_date(one(headers, name)?)?)?;
    HeaderValue::from_str(&date).ok()
}

/// What is written in `Expires`, unless it is a date that s3s gives back as it is.
fn expires(headers: &HeaderMap) -> Option<&str> {
    let text = one(headers, "expires").filter(|text| !text.is_empty())?;
    let date = parse_http_date(text).and_then(|date| http_date(&date));
    (date.as_deref() != Some(text)).then_some(text)
}

/// The text of a header that stands there once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok()
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
                assert_eq!(correct(&mut headers), None);
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
    fn an_expires_that_is_no_date_is_taken_out() {
        let check = |text: &str, is_taken: bool| {
            let mut headers = HeaderMap::from_iter([(EXPIRES, text.parse().unwrap())]);
            assert_eq!(are_odd(&Method::PUT, &Uri::from_static("/bank/k"), &headers), is_taken, "{text}");
            assert_eq!(correct(&mut headers), is_taken.then(|| Expires(text.to_owned())));
            assert_eq!(headers.is_empty(), is_taken, "{text}");
        };
        check(DATE, false);
        check("", false);
        for text in ["0", "-1", "never", "Sunday, 06-Nov-94 08:49:37 GMT"] {
            check(text, true);
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
