// SPDX-License-Identifier: Apache-2.0
//! Who may speak: one pair of credentials, signatures of version 4 only.
//!
//! s3s checks signatures; what is decided here is that every request must have
//! one, and that the older version 2 (SHA-1, no region, no date in the key) does
//! not count.

use http::{HeaderMap, Uri};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    config::S3Config,
    s3_error,
};

use super::subresource;
use crate::Credentials;

/// XML bodies: 1,000 keys of 1,024 bytes, escaped, or 10,000 parts.
const XML_BYTES_MAX: usize = 8 << 20;
/// A file in an HTML form, which s3s keeps in memory.
const FORM_FILE_BYTES_MAX: u64 = 8 << 20;
/// The other fields of an HTML form, which come before the signature is known.
const FORM_FIELDS_BYTES_MAX: usize = 64 << 10;

/// For how long a presigned URL may be good: seven days, as in S3.
const EXPIRY_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

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

/// Lets requests through that are signed with version 4.
pub(super) struct SignedV4;

#[async_trait::async_trait]
impl S3Access for SignedV4 {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        check(cx.credentials().is_some(), cx.headers(), cx.uri())?;
        subresource::check(cx.s3_op().name(), cx.uri().query().unwrap_or_default())
    }
}

/// Whether a request may pass, once s3s has checked the signature of one that has any.
pub(super) fn check(is_signed: bool, headers: &HeaderMap, uri: &Uri) -> S3Result<()> {
    if !is_signed {
        return Err(s3_error!(AccessDenied, "every request must be signed"));
    }
    let header = headers.get(http::header::AUTHORIZATION);
    let old = header.is_some_and(|value| value.as_bytes().starts_with(b"AWS "))
        || uri.query().is_some_and(|query| query.contains("AWSAccessKeyId="));
    if old {
        return Err(s3_error!(
            AccessDenied,
            "signatures must be of version 4, found version 2; set the client's signature version to s3v4"
        ));
    }
    if uri.query().and_then(expiry_seconds).is_some_and(|seconds| seconds > EXPIRY_SECONDS_MAX) {
        return Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Expires must be at most 604800, which are seven days"
        ));
    }
    Ok(())
}

/// For how long a presigned URL says that it is good.
fn expiry_seconds(query: &str) -> Option<u64> {
    query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Expires="))?.parse().ok()
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
