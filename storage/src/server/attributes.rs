// SPDX-License-Identifier: Apache-2.0
//! What a writer says about its object, from the request to the record and back.
//!
//! Nothing that a client asks for is dropped in silence: encryption and other
//! features that this server does not have are refused.

use std::collections::BTreeMap;

use http::{Extensions, HeaderMap, HeaderValue, header};
use s3s::{
    S3Error, S3Result,
    dto::{self, Timestamp, TimestampFormat},
    s3_error,
};

use super::{
    dates::Expires,
    record::{Attributes, Sums},
};

/// User metadata of an object, names and values together, as S3 has it.
const METADATA_BYTES_MAX: usize = 2_048;
/// S3's own default.
const CONTENT_TYPE: &str = "binary/octet-stream";
/// Stands among the metadata of an input for an `Expires` that it has no place for. No header has
/// such a name.
const EXPIRES: &str = "Expires:";
/// Headers that ask for what this server does not do.
const NOT_HERE: [&str; 13] = [
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-legal-hold",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
];
/// Headers that ask for what there is only one of here, and what that may be called.
const ONE_KIND: [(&str, &[&str]); 3] = [
    ("x-amz-storage-class", &["STANDARD"]),
    ("x-amz-acl", &["private", "bucket-owner-full-control", "bucket-owner-read"]),
    ("x-amz-bucket-object-lock-enabled", &["false", "False"]),
];

/// Refuses what would otherwise look as if it were done.
pub(super) fn disallow_what_is_not_here(headers: &HeaderMap) -> S3Result<()> {
    let other = |(name, kinds): &(&str, &[&str])| {
        headers.get(*name).is_some_and(|value| !kinds.iter().any(|kind| value.as_bytes() == kind.as_bytes()))
    };
    if NOT_HERE.iter().any(|name| headers.contains_key(*name)) || ONE_KIND.iter().any(other) {
        return Err(not_here());
    }
    Ok(())
}

/// The same of a form, as far as s3s hands its fields on.
pub(super) fn disallow_in_form(form: &dto::PostObjectInput) -> S3Result<()> {
    let is_other =
        |kind: Option<&str>, (_, kinds): &(&str, &[&str])| kind.is_some_and(|kind| !kinds.contains(&kind));
    let [class, acl, ..] = &ONE_KIND;
    let asked = [
        is_other(form.storage_class.as_ref().map(dto::StorageClass::as_str), class),
        is_other(form.acl.as_ref().map(dto::ObjectCannedACL::as_str), acl),
        form.server_side_encryption.is_some(),
        form.sse_customer_algorithm.is_some(),
        form.ssekms_key_id.is_some(),
        form.object_lock_mode.is_some(),
        form.object_lock_legal_hold_status.is_some(),
        form.tagging.is_some(),
        form.website_redirect_location.is_some(),
        form.write_offset_bytes.is_some(),
        form.grant_full_control.is_some(),
        form.grant_read.is_some(),
        form.grant_read_acp.is_some(),
        form.grant_write_acp.is_some(),
    ];
    if asked.contains(&true) {
        return Err(not_here());
    }
    if form.key.contains("${filename}") {
        return Err(s3_error!(
            NotImplemented,
            "this server puts no file's name into a key; write the whole key"
        ));
    }
    Ok(())
}

fn not_here() -> S3Error {
    s3_error!(
        NotImplemented,
        "this server has no encryption, object lock, tags, redirects, appending, public access or other storage \
         classes; leave them out"
    )
}

/// Puts an `Expires` that was taken out of a request's headers where the attributes of its input
/// are made from.
pub(super) fn put_expires(extensions: &mut Extensions, metadata: &mut Option<dto::Metadata>) {
    if let Some(Expires(text)) = extensions.remove() {
        metadata.get_or_insert_default().insert(EXPIRES.to_owned(), text);
    }
}

macro_rules! attributes_of {
    ($name:ident, $input:ty) => {
        /// The attributes in a request, taken out of it.
        pub(super) fn $name(input: &mut $input) -> S3Result<Self> {
            let metadata = input.metadata.take().unwrap_or_default();
            let mut metadata: BTreeMap<String, String> = metadata.into_iter().collect();
            let expires = metadata.remove(EXPIRES);
            Self {
                content_type: input.content_type.take().map(|t| t.to_string()),
                content_encoding: input.content_encoding.take().and_then(|e| trim_encoding(&e)),
                content_language: input.content_language.take(),
                content_disposition: input.content_disposition.take(),
                cache_control: input.cache_control.take(),
                expires: expires.or_else(|| http_date(&input.expires.take()?)),
                metadata,
            }
            .checked()
        }
    };
}

impl Attributes {
    attributes_of!(of_put, dto::PutObjectInput);
    attributes_of!(of_copy, dto::CopyObjectInput);
    attributes_of!(of_upload, dto::CreateMultipartUploadInput);

    /// The header `Expires` as it was written, unless the reader asks for another.
    pub(super) fn expires(&self, asked: Option<&Timestamp>) -> HeaderMap {
        let text = self.expires.as_deref().filter(|_| asked.is_none());
        let value = text.and_then(|text| HeaderValue::from_str(text).ok());
        value.map(|value| (header::EXPIRES, value)).into_iter().collect()
    }

    fn checked(mut self) -> S3Result<Self> {
        let bytes: usize = self.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > METADATA_BYTES_MAX {
            return Err(s3_error!(
                MetadataTooLarge,
                "user metadata must be at most {METADATA_BYTES_MAX} bytes"
            ));
        }
        self.content_type.get_or_insert_with(|| CONTENT_TYPE.to_owned());
        Ok(self)
    }
}

impl Sums {
    /// `COMPOSITE` for a checksum of checksums, which ends in the number of parts.
    pub(super) fn dto_type(&self) -> Option<dto::ChecksumType> {
        let first = super::checksum::ALGORITHMS.iter().find_map(|name| self.get(name))?;
        let name =
            if first.contains('-') { dto::ChecksumType::COMPOSITE } else { dto::ChecksumType::FULL_OBJECT };
        Some(dto::ChecksumType::from_static(name))
    }

    /// The algorithms that there are values of.
    pub(super) fn algorithms(&self) -> Vec<String> {
        let present = super::checksum::ALGORITHMS.iter().filter(|name| self.get(name).is_some());
        present.map(|name| (*name).to_owned()).collect()
    }
}

/// A content encoding without `aws-chunked`; none when nothing is left.
fn trim_encoding(encoding: &str) -> Option<String> {
    let kept: Vec<_> = encoding
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty() && !e.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// A time as an HTTP date.
pub(super) fn http_date(time: &Timestamp) -> Option<String> {
    let mut text = Vec::new();
    time.format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

/// The time of an HTTP date, which may be of one of the old forms.
pub(super) fn parse_http_date(text: &str) -> Option<Timestamp> {
    let of_old_form = || httpdate::parse_http_date(text).ok().map(Timestamp::from);
    Timestamp::parse(TimestampFormat::HttpDate, text).ok().or_else(of_old_form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transfer_s_encoding_is_not_the_object_s() {
        let check = |text, kept: Option<&str>| assert_eq!(trim_encoding(text).as_deref(), kept);
        check("aws-chunked", None);
        check("aws-chunked, gzip", Some("gzip"));
        check("gzip,AWS-CHUNKED", Some("gzip"));
        check("gzip, br", Some("gzip,br"));
    }

    #[test]
    fn what_is_not_here_is_refused() {
        let check = |name: &'static str, value: &'static str, taken: bool| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )]);
            assert_eq!(disallow_what_is_not_here(&headers).is_ok(), taken, "{name}: {value}");
        };
        check("x-amz-tagging", "a=b", false);
        check("x-amz-server-side-encryption", "AES256", false);
        check("x-amz-acl", "public-read", false);
        check("x-amz-acl", "private", true);
        check("x-amz-storage-class", "GLACIER", false);
        check("x-amz-storage-class", "STANDARD", true);
        check("x-amz-meta-a", "b", true);
        check("x-amz-bucket-object-lock-enabled", "true", false);
        check("x-amz-bucket-object-lock-enabled", "false", true);
        check("x-amz-bucket-object-lock-enabled", "False", true);
        check("x-amz-grant-write", "id=a", false);
    }

    #[test]
    fn http_dates_survive() {
        let text = "Sun, 22 Nov 2026 16:51:00 GMT";
        for form in [text, "Sunday, 22-Nov-26 16:51:00 GMT", "Sun Nov 22 16:51:00 2026"] {
            assert_eq!(http_date(&parse_http_date(form).unwrap()).as_deref(), Some(text), "{form}");
        }
    }
}
