// SPDX-License-Identifier: Apache-2.0
//! Preconditions of requests, by RFC 9110 section 13 and S3's documentation.
//!
//! For reads they are decided here; for writes they are only translated, and
//! decided where changes are made one after another.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use s3s::{
    S3Error, S3ErrorCode, S3Result,
    dto::{ETag, ETagCondition, Timestamp},
    s3_error,
};

use super::{attributes::parse_http_date, commit::Condition, record::ObjectRecord};

/// The four conditions that a read can carry.
pub(super) struct ReadConditions<'a> {
    pub(super) if_match: Option<&'a ETagCondition>,
    pub(super) if_none_match: Option<&'a ETagCondition>,
    pub(super) if_modified_since: Option<&'a Timestamp>,
    pub(super) if_unmodified_since: Option<&'a Timestamp>,
}

impl ReadConditions<'_> {
    /// Lets a read of `record` through, or says 412 or 304. The dates count only
    /// where the ETags are not asked about.
    pub(super) fn check(&self, record: &ObjectRecord) -> S3Result<()> {
        let modified = http_time(record.modified_ms);
        let kept = match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) => matches(condition, &record.etag),
            (None, Some(since)) => modified <= *since,
            (None, None) => true,
        };
        if !kept {
            return Err(s3_error!(PreconditionFailed, "at least one of the preconditions did not hold"));
        }
        let fresh = match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => !matches(condition, &record.etag),
            (None, Some(since)) => modified > *since,
            (None, None) => true,
        };
        if fresh { Ok(()) } else { Err(not_modified(record)) }
    }

    /// For the source of a copy there is no 304: what does not hold is 412.
    pub(super) fn check_source(&self, record: &ObjectRecord) -> S3Result<()> {
        self.check(record).map_err(|_| {
            s3_error!(PreconditionFailed, "the source of the copy does not meet the preconditions")
        })
    }
}

/// Whether one of the ETags is this. s3s leaves a list as one text, `a", "b`, in
/// which every other piece between quotes is an ETag.
fn matches(condition: &ETagCondition, etag: &str) -> bool {
    condition.as_etag().is_none_or(|wanted| wanted.value().split('"').step_by(2).any(|one| one == etag))
}

/// Whether a range counts for an object of this ETag and time: the client has the rest of
/// what `If-Range` names, by its ETag or the time of its last change (RFC 9110, section
/// 13.1.5). Weak ETags name nothing.
pub(super) fn range_counts(if_range: Option<&HeaderValue>, etag: &str, modified_ms: u64) -> bool {
    let Some(named) = if_range else { return true };
    named.to_str().is_ok_and(|named| match parse_http_date(named) {
        Some(modified) => modified == http_time(modified_ms),
        None => named.trim_matches('"') == etag,
    })
}

fn not_modified(record: &ObjectRecord) -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NotModified);
    if let Ok(etag) = ETag::Strong(record.etag.clone()).to_http_header() {
        error.set_headers([(header::ETAG, etag)].into_iter().collect());
    }
    error
}

/// The conditions of a write. S3 knows `If-None-Match: *` and `If-Match` with an ETag.
pub(super) fn of_write(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Always),
        (None, Some(condition)) if condition.is_any() => Ok(Condition::Absent),
        (Some(condition), None) => Ok(condition
            .as_etag()
            .map_or(Condition::Present, |etag| Condition::Match(etag.value().to_owned()))),
        _ => Err(s3_error!(
            NotImplemented,
            "a write takes If-None-Match: * or If-Match with an ETag, not both"
        )),
    }
}

/// The condition of a write by its headers, where the protocol's layer does not
/// read them.
pub(super) fn of_write_headers(headers: &HeaderMap) -> S3Result<Condition> {
    let read = |name: HeaderName| {
        let value = headers.get(name).map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        value
            .transpose()
            .map_err(|_| s3_error!(InvalidArgument, "If-Match and If-None-Match take an ETag or *"))
    };
    of_write(read(header::IF_MATCH)?.as_ref(), read(header::IF_NONE_MATCH)?.as_ref())
}

/// A time as HTTP dates have it: whole seconds.
pub(super) fn http_time(ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(ms / 1_000))
}

/// A time as XML answers have it: milliseconds.
pub(super) fn xml_time(ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_etag_of_a_list_is_enough() {
        let check = |condition: &str, etag, expected| {
            let condition = ETagCondition::parse_http_header(condition.as_bytes()).unwrap();
            assert_eq!(matches(&condition, etag), expected, "{condition:?}");
        };
        check("*", "b", true);
        check("\"b\"", "b", true);
        check("b", "b", true);
        check("\"a\", W/\"b\",\"c\"", "b", true);
        check("\"a\", \"b\", \"c\"", "c", true);
        check("\"a\", \"b\"", ", ", false);
        check("\"a\", \"bc\"", "b", false);
    }

    #[test]
    fn a_range_counts_for_what_if_range_names() {
        let check = |named: Option<&'static str>, expected| {
            let named = named.map(HeaderValue::from_static);
            assert_eq!(range_counts(named.as_ref(), "b", 1_000_000_000_999), expected, "{named:?}");
        };
        check(None, true);
        check(Some("\"b\""), true);
        check(Some("b"), true);
        check(Some("\"a\""), false);
        check(Some("W/\"b\""), false);
        check(Some("*"), false);
        check(Some("Sun, 09 Sep 2001 01:46:40 GMT"), true);
        check(Some("Sun Sep  9 01:46:40 2001"), true);
        check(Some("Sun, 09 Sep 2001 01:46:41 GMT"), false);
    }
}
