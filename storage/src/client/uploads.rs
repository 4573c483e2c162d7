// SPDX-License-Identifier: Apache-2.0
//! Uploads in parts that somebody began and did not end: a writer that was killed
//! leaves its parts behind, which no listing of objects shows and which cost all the
//! same.

use aws_sdk_s3::types::EncodingType;
use fanfold_protocol::{time::Timestamp, uri::ObjectUri};
use futures::FutureExt;

use super::{Error, Result, Store, error::Target, multipart::abort, read::timestamp};
use crate::encoding::percent_decode;

/// An upload that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The key of the object that it would make.
    pub key: String,
    /// Its name.
    pub id: String,
    /// When it was begun.
    pub begun: Timestamp,
}

impl Store {
    /// The open uploads of a bucket to keys that begin with `prefix`.
    pub async fn uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<Upload>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (key, id): (Option<String>, Option<String>) = after.clone().unzip();
            let request = self
                .client_of(bucket)?
                .list_multipart_uploads()
                .bucket(bucket)
                .prefix(prefix)
                .set_key_marker(key)
                .set_upload_id_marker(id)
                .encoding_type(EncodingType::Url);
            let answer = request.send().boxed().await.map_err(|e| Target::Bucket(bucket).error(e))?;
            let encoded = answer.encoding_type() == Some(&EncodingType::Url);
            let text = |raw: &str| if encoded { percent_decode(raw) } else { Some(raw.to_owned()) };
            let wrong = || Error::protocol(format!("s3://{bucket}/"), "uploads that cannot be read");
            for upload in answer.uploads() {
                let (key, id) = upload.key().zip(upload.upload_id()).ok_or_else(wrong)?;
                let key = text(key).ok_or_else(wrong)?;
                // Not every server knows prefixes here.
                if key.starts_with(prefix) {
                    all.push(Upload { key, id: id.to_owned(), begun: timestamp(upload.initiated()) });
                }
            }
            if !answer.is_truncated().unwrap_or(false) {
                return Ok(all);
            }
            let key = answer.next_key_marker().and_then(text).ok_or_else(wrong)?;
            let next = Some((key, answer.next_upload_id_marker().unwrap_or_default().to_owned()));
            if next == after {
                let what = "a listing of uploads that stays where it is, its markers again";
                return Err(Error::protocol(format!("s3://{bucket}/"), what));
            }
            after = next;
        }
    }

    /// Removes an open upload with its parts; nothing when it has ended.
    pub async fn abort_upload(&self, uri: &ObjectUri, id: &str) -> Result<()> {
        abort(self, uri, id).await
    }
}
