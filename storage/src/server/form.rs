// SPDX-License-Identifier: Apache-2.0
//! Uploads by a form, as browsers send them.
//!
//! The fields of a form tell what the headers of a put tell, and are taken for a put here. s3s
//! has read the form and compared it with its policy by then, and holds the file in memory.
//! Non-goal: fields that s3s does not know are not seen here.

use http::{HeaderMap, header};
use s3s::{
    S3Response, S3Result,
    dto::{self, ETag},
};

use super::{Shared, host};

impl Shared {
    pub(super) async fn post(
        &self,
        form: dto::PostObjectInput,
        headers: &HeaderMap,
    ) -> S3Result<S3Response<dto::PostObjectOutput>> {
        // A browser that is sent elsewhere has a Location already.
        let location = form.success_action_redirect.is_none();
        let location = location.then(|| host::location(headers, &form.bucket, &form.key));
        let put = self.put(of_form(form), headers, None, "ObjectCreated:Post").await?;
        let mut told = HeaderMap::new();
        if let Some(etag) = put.e_tag.as_ref().map(ETag::to_http_header).and_then(Result::ok) {
            told.insert(header::ETAG, etag);
        }
        if let Some(location) = location.and_then(|location| location.parse().ok()) {
            told.insert(header::LOCATION, location);
        }
        let output = dto::PostObjectOutput { e_tag: put.e_tag, ..Default::default() };
        Ok(S3Response::with_headers(output, told))
    }
}

/// The put that a form asks for.
fn of_form(form: dto::PostObjectInput) -> dto::PutObjectInput {
    dto::PutObjectInput {
        bucket: form.bucket,
        key: form.key,
        body: form.body,
        // s3s says none of an empty file.
        content_length: form.content_length.or(Some(0)),
        content_md5: form.content_md5,
        checksum_algorithm: form.checksum_algorithm,
        checksum_crc32: form.checksum_crc32,
        checksum_crc32c: form.checksum_crc32c,
        checksum_crc64nvme: form.checksum_crc64nvme,
        checksum_sha1: form.checksum_sha1,
        checksum_sha256: form.checksum_sha256,
        cache_control: form.cache_control,
        content_disposition: form.content_disposition,
        content_encoding: form.content_encoding,
        content_language: form.content_language,
        content_type: form.content_type,
        expires: form.expires,
        metadata: form.metadata,
        if_match: form.if_match,
        if_none_match: form.if_none_match,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use s3s::dto::StreamingBlob;

    use super::*;
    use crate::{
        Credentials,
        server::{ServerConfig, commit::Change},
    };

    #[tokio::test]
    async fn a_form_s_upload_is_compared_and_told_as_one() {
        let root = tempfile::tempdir().unwrap();
        let credentials = Credentials::new("tester", "secret-of-the-tester");
        let shared = Shared::open(&ServerConfig { root: root.path().to_owned(), credentials }, 0).unwrap();
        let mut events = shared.committer.observers().listen().unwrap();
        shared.committer.commit(Change::CreateBucket { bucket: "bank".to_owned() }).await.unwrap();
        let post = async |fields: dto::PostObjectInput| {
            let body = Some(StreamingBlob::from(s3s::Body::from("form".to_owned())));
            let (bucket, key) = ("bank".to_owned(), "k".to_owned());
            let form = dto::PostObjectInput { bucket, key, body, content_length: Some(4), ..fields };
            let posted = shared.post(form, &HeaderMap::new()).await;
            posted.map_err(|error| error.code().as_str().to_owned())
        };
        let wrong = Some("AAAAAA==".to_owned());
        let refused = post(dto::PostObjectInput { checksum_crc32: wrong, ..Default::default() }).await;
        assert_eq!(refused.err().as_deref(), Some("BadDigest"));
        let unknown = Some(dto::ChecksumAlgorithm::from_static("SHA512"));
        let refused = post(dto::PostObjectInput { checksum_algorithm: unknown, ..Default::default() }).await;
        assert_eq!(refused.err().as_deref(), Some("NotImplemented"));
        let named = Some(dto::ChecksumAlgorithm::from_static("SHA1"));
        let posted = post(dto::PostObjectInput { checksum_algorithm: named, ..Default::default() }).await;
        assert!(posted.unwrap().headers.contains_key(header::ETAG));
        let record = shared.find("bank", "k", false).unwrap().record;
        assert_eq!(record.sums.algorithms(), ["sha1"]);
        let told: Vec<_> = events.next(10).await.into_iter().map(|event| (event.key, event.name)).collect();
        assert_eq!(told, [("k".to_owned(), "ObjectCreated:Post")]);
    }
}
