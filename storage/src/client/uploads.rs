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
        let (mut all, mut after) = (Vec::new(), (None::<String>, None::<String>));
        loop {
            let (key, id) = after.clone();
            let request = self
                .client_of(bucket)?
                .list_multipart_uploads()
                .bucket(bucket)
                .prefix(prefix)
                .set_key_marker(key)
                .set_upload_id_marker(id)
                .encoding_type(EncodingType::Url);
            let answer = self
                .hedged(move |tried| request.clone().customize().interceptor(tried).send().boxed())
                .boxed()
                .await;
            let answer = answer.map_err(|e| Target::Bucket(bucket).error(e))?;
            let encoded = answer.encoding_type() == Some(&EncodingType::Url);
            let wrong = |what: &str| Error::protocol(format!("s3://{bucket}/"), what);
            for upload in answer.uploads() {
                let named = upload.key().zip(upload.upload_id());
                let (key, id) = named.ok_or_else(|| wrong("an upload without its key or name"))?;
                // Not every server knows prefixes here.
                if let Some(key) = key_under(prefix, key, encoded) {
                    all.push(Upload { key, id: id.to_owned(), begun: timestamp(upload.initiated()) });
                }
            }
            if !answer.is_truncated().unwrap_or(false) {
                return Ok(all);
            }
            let marker = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
            let key = marker(answer.next_key_marker()).and_then(|key| key_under("", &key, encoded));
            // SeaweedFS orders uploads by their names and goes on behind one without a key.
            let next = (key, marker(answer.next_upload_id_marker()));
            if next == after {
                return Err(wrong("a listing of uploads that stays where it is, its markers again"));
            }
            after = next;
        }
    }

    /// Removes an open upload with its parts; nothing when it has ended.
    pub async fn abort_upload(&self, uri: &ObjectUri, id: &str) -> Result<()> {
        abort(self, uri, id).await
    }
}

/// The key that an answer has, if it begins with `prefix`. SeaweedFS says that keys are encoded and
/// sends them as they are: one is read so where it can't be decoded, or loses the prefix by that.
fn key_under(prefix: &str, raw: &str, encoded: bool) -> Option<String> {
    let decoded = if encoded { percent_decode(raw) } else { None };
    [decoded, Some(raw.to_owned())].into_iter().flatten().find(|key| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_meant() {
        let check = |prefix: &str, raw: &str, encoded: bool, key: Option<&str>| {
            assert_eq!(key_under(prefix, raw, encoded).as_deref(), key, "{prefix} {raw}");
        };
        check("a+b/", "a%2Bb/part-1", true, Some("a+b/part-1"));
        check("a b/", "a+b/part-1", true, Some("a b/part-1"));
        check("100%/", "100%25/part-1", true, Some("100%/part-1"));
        // Of servers that only say that they encode.
        check("a+b/", "a+b/part-1", true, Some("a+b/part-1"));
        check("100%/", "100%/part-1", true, Some("100%/part-1"));
        check("%41/", "%41/part-1", true, Some("%41/part-1"));
        check("", "100%/part-1", true, Some("100%/part-1"));
        check("a%2Bb/", "a%2Bb/part-1", false, Some("a%2Bb/part-1"));
        check("a/", "b/part-1", true, None);
    }
}
