// SPDX-License-Identifier: Apache-2.0
//! `Range` headers that s3s cannot read.
//!
//! S3 ignores one of wrong syntax and answers with the whole object, as RFC 9110 (section
//! 14.2) has it; s3s refuses it. Such a request is taken out once its signature is checked,
//! which may be over that header too, and answered by a service that asks for none.
//! Invariant: that service is reached from here only.

use std::ops::Range;

use http::{
    Extensions, HeaderMap, HeaderValue, Method, Uri,
    header::{AUTHORIZATION, RANGE},
};
use s3s::{Body, HttpRequest, S3Request, S3Response, S3Result, route::S3Route, s3_error, service::S3Service};

use super::auth;

/// The last place that s3s reads. No object reaches it.
const PLACE_MAX: u64 = i64::MAX as u64;

/// Answers reads whose range cannot be read.
pub(super) struct OddRanges(
    /// One that checks no signatures.
    pub(super) S3Service,
);

#[async_trait::async_trait]
impl S3Route for OddRanges {
    fn is_match(&self, method: &Method, _: &Uri, headers: &HeaderMap, _: &mut Extensions) -> bool {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        is_read && headers.contains_key(RANGE) && one_range(headers).as_ref() != headers.get(RANGE)
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        auth::check(request.credentials.is_some(), &request.headers, &request.uri)
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let S3Request { input, method, uri, mut headers, .. } = request;
        let mut asked = HttpRequest::new(input);
        *asked.method_mut() = method;
        *asked.uri_mut() = unsigned(&uri).ok_or_else(|| s3_error!(InvalidURI, "the URI cannot be read"))?;
        let range = one_range(&headers);
        headers.remove(AUTHORIZATION);
        headers.remove(RANGE);
        if let Some(range) = range {
            headers.insert(RANGE, range);
        }
        *asked.headers_mut() = headers;
        let answer = self.0.call(asked).await;
        let answer = answer.map_err(|_| s3_error!(InternalError, "the object could not be read"))?;
        let (parts, body) = answer.into_parts();
        let mut response = S3Response::new(body);
        response.status = Some(parts.status);
        response.headers = parts.headers;
        Ok(response)
    }
}

/// The URI without what a presigned one is signed with.
fn unsigned(uri: &Uri) -> Option<Uri> {
    let kept = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("X-Amz-"));
    let query = kept.collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}{mark}{query}", uri.path()).parse().ok()
}

/// The one range of a request as s3s reads it, if it has the form of one.
fn one_range(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    HeaderValue::from_str(&readable(value.to_str().ok()?)?).ok()
}

/// A range of the right form as s3s reads it: its unit in small letters, and places
/// that are beyond every object not beyond 64 bits. Several ranges count as none, as in S3.
fn readable(range: &str) -> Option<String> {
    let (unit, places) = range.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    match places.split_once('-')? {
        ("", length) => Some(format!("bytes=-{}", place(length)?)),
        (first, "") => Some(format!("bytes={}-", place(first)?)),
        (first, last) => {
            let (first, last) = (place(first)?, place(last)?);
            (first <= last).then(|| format!("bytes={first}-{last}"))
        }
    }
}

/// The bytes of the source that a part is copied from. S3 wants both ends, and
/// both within the source: a part that came out shorter would not be noticed.
pub(super) fn of_copied_part(range: &str, source_bytes: u64) -> S3Result<Range<u64>> {
    let places = range.strip_prefix("bytes=").and_then(|places| places.split_once('-'));
    let ends = places.and_then(|(first, last)| Some((place(first)?, place(last)?)));
    let (first, last) = ends.filter(|(first, last)| first <= last).ok_or_else(|| {
        s3_error!(InvalidArgument, "x-amz-copy-source-range must be bytes=first-last, found {range:?}")
    })?;
    if last >= source_bytes {
        return Err(s3_error!(
            InvalidRange,
            "x-amz-copy-source-range must lie within the {source_bytes} bytes of the source, found {range:?}"
        ));
    }
    Ok(first..last + 1)
}

fn place(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(PLACE_MAX).min(PLACE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_form_of_a_range_is_made_readable() {
        let check = |range: &str, expected: Option<&str>| {
            assert_eq!(readable(range).as_deref(), expected, "{range}");
            assert!(expected.is_none_or(|text| s3s::dto::Range::parse(text).is_ok()), "{range}");
        };
        check("bytes=0-5", Some("bytes=0-5"));
        check("bytes=5-", Some("bytes=5-"));
        check("bytes=-0", Some("bytes=-0"));
        check("Bytes=0-5", Some("bytes=0-5"));
        check("bytes=99999999999999999999-", Some("bytes=9223372036854775807-"));
        check("bytes=3-99999999999999999999", Some("bytes=3-9223372036854775807"));
        check("bytes=-99999999999999999999", Some("bytes=-9223372036854775807"));
        for wrong in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=1-2,4-5",
            "bytes=+1-2",
            "bytes=1-2-3",
            "items=0-5",
            "0-5",
            "bytes= 0-5",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_part_is_copied_from_bytes_that_the_source_has() {
        let check = |range: &str, expected: Result<Range<u64>, &str>| {
            let found = of_copied_part(range, 10).map_err(|error| error.code().as_str().to_owned());
            assert_eq!(found, expected.map_err(str::to_owned), "{range}");
        };
        check("bytes=0-9", Ok(0..10));
        check("bytes=3-3", Ok(3..4));
        for beyond in ["bytes=0-10", "bytes=10-11", "bytes=0-99999999999999999999"] {
            check(beyond, Err("InvalidRange"));
        }
        for wrong in ["", "bytes=0", "bytes=5-", "bytes=-3", "bytes=4-2", "0-2", " bytes=0-2", "bytes=0-x"] {
            check(wrong, Err("InvalidArgument"));
        }
    }

    #[test]
    fn signatures_are_taken_out_of_uris() {
        let check = |uri: &str, expected: &str| {
            assert_eq!(unsigned(&uri.parse().unwrap()).unwrap().to_string(), expected, "{uri}");
        };
        check("/bank/a%20b?X-Amz-Signature=0&partNumber=1&X-Amz-Date=1", "/bank/a%20b?partNumber=1");
        check("http://127.0.0.1/bank/a?X-Amz-Signature=0", "/bank/a");
    }
}
