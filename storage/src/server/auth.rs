// SPDX-License-Identifier: Apache-2.0
//! Who may speak: one pair of credentials, signatures of version 4 only.
//!
//! s3s checks signatures; what is decided here is that every request must have
//! one, that the older version 2 (SHA-1, no region, no date in the key) does
//! not count, and that it must be over all that says what is to be done: whoever was
//! given a presigned URL must not make another request of it by a header.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Uri};
use s3s::{
    S3Error, S3Request, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    config::S3Config,
    dto, s3_error,
};

use super::{Shared, attributes::disallow_in_form, bucket, host, subresource};
use crate::{Credentials, encoding::percent_decode};

/// XML bodies: 1,000 keys of 1,024 bytes, escaped, or 10,000 parts.
pub(super) const XML_BYTES_MAX: usize = 8 << 20;
/// A file in an HTML form, which s3s keeps in memory.
const FORM_FILE_BYTES_MAX: u64 = 8 << 20;
/// The other fields of an HTML form, which come before the signature is known.
const FORM_FIELDS_BYTES_MAX: usize = 64 << 10;

/// For how long a presigned URL may be good: seven days, as in S3.
const EXPIRY_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

/// Headers of S3's own that need not be signed: the signature is over two of them in
/// another way, and nothing follows from the third.
const UNSIGNED: [&str; 3] = ["x-amz-content-sha256", "x-amz-date", "x-amz-user-agent"];

/// What says whose the bucket is that is meant, and the source of a copy.
const OWNERS: [&str; 2] = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"];

/// Knows one secret.
pub(super) struct OneKey(pub(super) Credentials);

#[async_trait::async_trait]
impl S3Auth for OneKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.0.access_key {
            return Ok(SecretKey::from(self.0.secret_key.clone()));
        }
        Err(s3_error!(InvalidAccessKeyId, "this server does not know the access key"))
    }
}

/// Lets requests through that are signed with version 4 and to a host that can be meant.
pub(super) struct SignedV4(pub(super) Arc<Shared>);

#[async_trait::async_trait]
impl S3Access for SignedV4 {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        check(cx.credentials().is_some(), cx.headers(), cx.uri())?;
        check_call(&self.0, cx)
    }

    /// Of an upload by a form only the fields tell what it asks for.
    async fn post_object(&self, request: &mut S3Request<dto::PostObjectInput>) -> S3Result<()> {
        // Version 2 has none.
        if request.region.is_none() {
            return Err(version_2());
        }
        disallow_in_form(&request.input)
    }
}

/// Asks the rest of requests whose signature was checked before: those on their
/// [`detour`](super::detour).
pub(super) struct Signed(pub(super) Arc<Shared>);

#[async_trait::async_trait]
impl S3Access for Signed {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        check_call(&self.0, cx)
    }
}

/// Whether a request is to a host that can be meant, and the call that it looks like.
fn check_call(shared: &Shared, cx: &S3AccessContext<'_>) -> S3Result<()> {
    // A bucket that is to be made is not there yet.
    if cx.s3_op().name() != "CreateBucket" {
        host::check(shared, cx.headers())?;
    }
    subresource::check(cx.s3_op().name(), cx.uri().query().unwrap_or_default())
}

/// Whether a request may pass, once s3s has checked the signature of one that has any.
pub(super) fn check(is_signed: bool, headers: &HeaderMap, uri: &Uri) -> S3Result<()> {
    if !is_signed {
        return Err(s3_error!(AccessDenied, "every request must be signed"));
    }
    let header = headers.get(http::header::AUTHORIZATION);
    let old = header.is_some_and(|value| value.as_bytes().starts_with(b"AWS "))
        || parameter(uri, "AWSAccessKeyId").is_some();
    if old {
        return Err(version_2());
    }
    let expiry_seconds = parameter(uri, "X-Amz-Expires").and_then(|text| text.parse::<u64>().ok());
    if expiry_seconds.is_some_and(|seconds| seconds > EXPIRY_SECONDS_MAX) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Expires must be at most 604800, which are seven days"
        ));
    }
    check_owners(headers, uri)?;
    // The form of an upload by a browser has a policy in place of headers.
    let Some(signed) = signed_headers(headers, uri) else { return Ok(()) };
    let is_signed = |name: &str| signed.split(';').any(|one| one.eq_ignore_ascii_case(name));
    let own = headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-amz-"));
    let mut needed = own.filter(|name| !UNSIGNED.contains(name)).chain(["host"]);
    match needed.find(|name| !is_signed(name)) {
        Some(name) => Err(s3_error!(AccessDenied, "the header {name} must be signed like the rest")),
        None => Ok(()),
    }
}

/// Refuses requests that mean somebody else's buckets. What says so may stand in a presigned
/// URL too, in which some SDKs begin each word with a capital.
fn check_owners(headers: &HeaderMap, uri: &Uri) -> S3Result<()> {
    let in_headers = headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let in_url = parameters(uri).map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut named = in_headers.chain(in_url).filter(|(name, _)| OWNERS.contains(&name.as_str()));
    let owner = bucket::owner().id.unwrap_or_default();
    match named.find(|(_, expected)| *expected != owner) {
        Some((name, expected)) => Err(s3_error!(
            AccessDenied,
            "all buckets here are {owner}'s, found {expected:?} in {name}; leave it out, or name {owner}"
        )),
        None => Ok(()),
    }
}

fn version_2() -> S3Error {
    s3_error!(
        AccessDenied,
        "signatures must be of version 4, found version 2; set the client's signature version to s3v4"
    )
}

/// The names of the headers that the signature is over, from where s3s takes it: the
/// URL before the header.
fn signed_headers(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    if parameter(uri, "X-Amz-Signature").is_some() {
        return Some(parameter(uri, "X-Amz-SignedHeaders").unwrap_or_default());
    }
    let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (_, names) = header.split_once("SignedHeaders=")?;
    Some(names.split(',').next().unwrap_or_default().trim().to_owned())
}

/// The value of a parameter of the URL. Its name may be escaped too: s3s decodes both.
pub(super) fn parameter(uri: &Uri, name: &str) -> Option<String> {
    parameters(uri).find_map(|(key, value)| (key == name).then_some(value))
}

fn parameters(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    uri.query().unwrap_or_default().split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((percent_decode(key)?, percent_decode(value).unwrap_or_default()))
    })
}

/// Bounds on what s3s keeps in memory.
pub(super) fn bounds() -> S3Config {
    let mut bounds = S3Config::default();
    bounds.xml_max_body_size = XML_BYTES_MAX;
    bounds.post_object_max_file_size = FORM_FILE_BYTES_MAX;
    bounds.form_max_field_size = FORM_FIELDS_BYTES_MAX;
    bounds.form_max_fields_size = FORM_FIELDS_BYTES_MAX;
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_over_all_that_says_what_is_to_be_done() {
        const COPY: &str = "x-amz-copy-source";
        let check = |uri: &str, authorization: &str, more: &[&'static str], taken: bool| {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert("authorization", authorization.parse().unwrap());
            }
            more.iter().for_each(|name| drop(headers.insert(*name, "a".parse().unwrap())));
            let found = super::check(true, &headers, &uri.parse().unwrap());
            assert_eq!(found.is_ok(), taken, "{uri} {authorization} {more:?}: {found:?}");
        };
        let by_header = "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x-amz-copy-source, Signature=0";
        check("/bank/k", by_header, &["x-amz-date", "x-amz-content-sha256", COPY], true);
        check("/bank/k", by_header, &["x-amz-meta-a"], false);
        check("/bank/k", "AWS4-HMAC-SHA256 Credential=a/b,SignedHeaders=x-amz-date,Signature=0", &[], false);
        let by_url = "/bank/k?X-Amz-SignedHeaders=host%3Bx-amz-acl&X-Amz-Signature=0";
        check(by_url, "", &["x-amz-acl"], true);
        check(by_url, "", &[COPY], false);
        // s3s does not look at the header where the URL has a signature.
        check(by_url, by_header, &[COPY], false);
        check(&by_url.replace("-Signature", "%2DSignature"), by_header, &[COPY], false);
        // A form has its fields and its policy.
        check("/bank", "", &[], true);
    }

    #[test]
    fn only_buckets_of_their_owner_are_meant() {
        let check = |headers: &[(&'static str, &'static str)], uri: &str, taken: bool| {
            let headers = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)));
            let found = super::check(true, &headers.collect(), &uri.parse().unwrap());
            assert_eq!(found.is_ok(), taken, "{uri}: {found:?}");
        };
        check(&[("x-amz-expected-bucket-owner", "fanfold")], "/bank/k", true);
        check(&[("x-amz-expected-bucket-owner", "111122223333")], "/bank/k", false);
        check(&[("x-amz-source-expected-bucket-owner", "111122223333")], "/bank/k", false);
        check(&[], "/bank/k?x-amz-expected-bucket-owner=fanfold", true);
        check(&[], "/bank/k?x-amz-expected-bucket-owner=111122223333", false);
        check(&[], "/bank/k?X-Amz-Expected-Bucket-Owner=111122223333", false);
    }

    #[test]
    fn escapes_hide_nothing() {
        let refused = |uri: &str| super::check(true, &HeaderMap::new(), &uri.parse().unwrap()).is_err();
        let signed = "X-Amz-SignedHeaders=host&X-Amz-Signature=0";
        assert!(!refused(&format!("/bank/k?{signed}&X-Amz-Expires=604800")));
        assert!(refused(&format!("/bank/k?{signed}&X-Amz-Expires=604801")));
        assert!(refused(&format!("/bank/k?{signed}&X-%41mz-Expires=604801")));
        assert!(refused("/bank/k?AWSAccessKeyId=a&Signature=b"));
        assert!(refused("/bank/k?AWS%41ccessKeyId=a&Signature=b"));
    }
}
