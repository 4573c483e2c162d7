// SPDX-License-Identifier: Apache-2.0
//! `Range` headers that s3s cannot read.
//!
//! S3 ignores one of wrong syntax and answers with the whole object, as RFC 9110 (section
//! 14.2) has it; s3s refuses it. The header of such a read is corrected on its
//! [`detour`](super::detour).

use std::ops::Range;

use http::{HeaderMap, HeaderValue, Method, header::RANGE};
use s3s::{S3Result, s3_error};

/// The last place that s3s reads. No object reaches it.
const PLACE_MAX: u64 = i64::MAX as u64;

/// Whether a read has ranges that s3s would refuse.
pub(super) fn is_odd(method: &Method, headers: &HeaderMap) -> bool {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    is_read && headers.contains_key(RANGE) && one_range(headers).as_ref() != headers.get(RANGE)
}

/// Puts the range that is meant, or none, in the place of such ones.
pub(super) fn correct(headers: &mut HeaderMap) {
    let range = one_range(headers);
    headers.remove(RANGE);
    headers.extend(range.map(|range| (RANGE, range)));
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
}
