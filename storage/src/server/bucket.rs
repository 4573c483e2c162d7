// SPDX-License-Identifier: Apache-2.0
//! What S3 does with buckets, and the listings of what is in them.
//!
//! Listings are worked out in [`listing`](super::listing); here they are turned
//! into the forms that the two versions of the call and the uploads have.

use std::ops::Bound;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use s3s::{
    S3Result,
    dto::{self, ETag},
    s3_error,
};

use super::{
    REGION, Shared,
    condition::xml_time,
    index::{OBJECTS, key_of, place},
    listing::{Entries, Page, Query, successor},
    multipart::{OpenUpload, page_size},
    object::as_i64,
    record::ObjectRecord,
};
use crate::encoding::percent_encode;

/// Buckets in a page, as S3 has it.
const BUCKETS_PAGE_MAX: usize = 10_000;

/// Who owns everything here.
pub(super) fn owner() -> dto::Owner {
    dto::Owner { id: Some("fanfold".to_owned()), display_name: Some("fanfold".to_owned()) }
}

impl Shared {
    pub(super) fn list_buckets(&self, input: &dto::ListBucketsInput) -> S3Result<dto::ListBucketsOutput> {
        let max = buckets_max(input.max_buckets)?;
        let after = input.continuation_token.as_deref().map(decode_token).transpose()?;
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let is_here = input.bucket_region.as_deref().is_none_or(|region| region == REGION);
        let mut buckets = self.index.buckets()?;
        buckets.retain(|(name, _)| {
            is_here && name.starts_with(prefix) && after.as_ref().is_none_or(|after| name > after)
        });
        let truncated = buckets.len() > max;
        buckets.truncate(max);
        let next = buckets.last().filter(|_| truncated).map(|(name, _)| encode_token(name));
        let buckets = buckets.into_iter().map(|(name, created_ms)| dto::Bucket {
            name: Some(name),
            creation_date: Some(xml_time(created_ms)),
            ..Default::default()
        });
        Ok(dto::ListBucketsOutput {
            buckets: Some(buckets.collect()),
            continuation_token: next,
            owner: Some(owner()),
            prefix: input.prefix.clone(),
        })
    }

    pub(super) fn require_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.index.has_bucket(bucket)? {
            return Ok(());
        }
        Err(s3_error!(NoSuchBucket, "the bucket does not exist"))
    }

    /// A page of a bucket's objects.
    fn page(&self, bucket: &str, query: &Query) -> S3Result<Page<ObjectRecord>> {
        self.require_bucket(bucket)?;
        let page = self.index.read(|tx| {
            let table = tx.open_table(OBJECTS)?;
            let end = successor(&place(bucket, "")).unwrap_or_default();
            query.page(|from| {
                let from = from.map(|key| [bucket.as_bytes(), &[0], &key[..]].concat());
                let bounds = (from.as_ref().map(|b| &b[..]), Bound::Excluded(&end[..]));
                let entries = table.range::<&[u8]>(bounds)?.map(|entry| {
                    let (at, value) = entry?;
                    Ok((key_of(at.value()).into_bytes(), value))
                });
                Ok(Box::new(entries) as Entries<'_, _>)
            })
        })?;
        let parse = |(key, value): (String, redb::AccessGuard<'static, &'static [u8]>)| {
            let record = serde_json::from_slice(value.value());
            record
                .map(|record| (key, record))
                .map_err(|e| s3_error!(InternalError, "a record of the index: {e}"))
        };
        let entries = page.entries.into_iter().map(parse).collect::<S3Result<Vec<_>>>()?;
        Ok(Page { entries, prefixes: page.prefixes, next: page.next })
    }

    pub(super) fn list_v2(&self, input: dto::ListObjectsV2Input) -> S3Result<dto::ListObjectsV2Output> {
        let spelling = Spelling::of(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        let resumed = input.continuation_token.as_deref().map(decode_token).transpose()?;
        let query = Query {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: resumed.or_else(|| input.start_after.clone()),
            max,
        };
        let page = self.page(&input.bucket, &query)?;
        let count = page.entries.len() + page.prefixes.len();
        let with_owner = input.fetch_owner.unwrap_or(false);
        Ok(dto::ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(spelling.write(&query.prefix)),
            delimiter: input.delimiter.map(|d| spelling.write(&d)),
            start_after: input.start_after.map(|s| spelling.write(&s)),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            max_keys: i32::try_from(max).ok(),
            key_count: i32::try_from(count).ok(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_deref().map(encode_token),
            contents: Some(spelling.objects(page.entries, with_owner)),
            common_prefixes: Some(spelling.prefixes(page.prefixes)),
            ..Default::default()
        })
    }

    pub(super) fn list_v1(&self, input: dto::ListObjectsInput) -> S3Result<dto::ListObjectsOutput> {
        let spelling = Spelling::of(input.encoding_type.as_ref())?;
        let max = page_size(input.max_keys)?;
        let query = Query {
            prefix: input.prefix.unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.marker.clone().filter(|m| !m.is_empty()),
            max,
        };
        let page = self.page(&input.bucket, &query)?;
        Ok(dto::ListObjectsOutput {
            name: Some(input.bucket),
            prefix: Some(spelling.write(&query.prefix)),
            marker: Some(spelling.write(input.marker.as_deref().unwrap_or_default())),
            // S3 gives the next marker only with a delimiter; without one it is the last key.
            next_marker: page
                .next
                .as_deref()
                .filter(|_| input.delimiter.is_some())
                .map(|n| spelling.write(n)),
            delimiter: input.delimiter.map(|d| spelling.write(&d)),
            encoding_type: input.encoding_type,
            max_keys: i32::try_from(max).ok(),
            is_truncated: Some(page.next.is_some()),
            contents: Some(spelling.objects(page.entries, true)),
            common_prefixes: Some(spelling.prefixes(page.prefixes)),
            ..Default::default()
        })
    }

    pub(super) fn list_uploads(
        &self,
        input: dto::ListMultipartUploadsInput,
    ) -> S3Result<dto::ListMultipartUploadsOutput> {
        self.require_bucket(&input.bucket)?;
        let spelling = Spelling::of(input.encoding_type.as_ref())?;
        let max = page_size(input.max_uploads)?;
        let query = Query {
            prefix: input.prefix.unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            after: input.key_marker.clone().filter(|m| !m.is_empty()),
            max,
        };
        let page = self.open_uploads(&input.bucket, &query, input.upload_id_marker.as_deref())?;
        // A page that ends with a prefix is gone on from behind all that it stands for.
        let last = page.entries.last().filter(|(key, _)| page.next.as_ref() == Some(key));
        let next_id = last.map(|(_, upload)| upload.id.clone());
        let line = |(key, upload): (String, OpenUpload)| dto::MultipartUpload {
            key: Some(spelling.write(&key)),
            upload_id: Some(upload.id),
            initiated: Some(xml_time(upload.record.begun_ms)),
            checksum_algorithm: upload.record.checksum_algorithm.map(dto::ChecksumAlgorithm::from),
            checksum_type: upload.record.checksum_type.map(dto::ChecksumType::from),
            owner: Some(owner()),
            storage_class: Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
            ..Default::default()
        };
        Ok(dto::ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: Some(spelling.write(&query.prefix)),
            delimiter: input.delimiter.map(|d| spelling.write(&d)),
            key_marker: input.key_marker.map(|k| spelling.write(&k)),
            upload_id_marker: input.upload_id_marker,
            next_key_marker: page.next.as_deref().map(|key| spelling.write(key)),
            next_upload_id_marker: next_id,
            encoding_type: input.encoding_type,
            max_uploads: i32::try_from(max).ok(),
            is_truncated: Some(page.next.is_some()),
            uploads: Some(page.entries.into_iter().map(line).collect()),
            common_prefixes: Some(spelling.prefixes(page.prefixes)),
            ..Default::default()
        })
    }
}

/// How names are written in an answer: as they are, or percent-encoded, since
/// XML 1.0 cannot carry every key.
#[derive(Clone, Copy)]
enum Spelling {
    Plain,
    Url,
}

impl Spelling {
    fn of(encoding: Option<&dto::EncodingType>) -> S3Result<Self> {
        match encoding.map(dto::EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some("url") => Ok(Self::Url),
            Some(other) => Err(s3_error!(InvalidArgument, "encoding-type must be url, found {other:?}")),
        }
    }

    fn write(self, name: &str) -> String {
        match self {
            Self::Plain => name.to_owned(),
            Self::Url => percent_encode(name),
        }
    }

    fn objects(self, entries: Vec<(String, ObjectRecord)>, with_owner: bool) -> Vec<dto::Object> {
        let line = |(key, record): (String, ObjectRecord)| dto::Object {
            key: Some(self.write(&key)),
            e_tag: Some(ETag::Strong(record.etag)),
            size: Some(as_i64(record.size)),
            last_modified: Some(xml_time(record.modified_ms)),
            owner: with_owner.then(owner),
            storage_class: Some(dto::ObjectStorageClass::from_static(dto::ObjectStorageClass::STANDARD)),
            ..Default::default()
        };
        entries.into_iter().map(line).collect()
    }

    fn prefixes(self, prefixes: Vec<String>) -> Vec<dto::CommonPrefix> {
        prefixes.into_iter().map(|p| dto::CommonPrefix { prefix: Some(self.write(&p)) }).collect()
    }
}

/// How many buckets a page may have; all of them where a client does not say.
fn buckets_max(asked: Option<i32>) -> S3Result<usize> {
    match asked {
        None => Ok(usize::MAX),
        Some(asked) => usize::try_from(asked)
            .ok()
            .filter(|max| (1..=BUCKETS_PAGE_MAX).contains(max))
            .ok_or_else(|| s3_error!(InvalidArgument, "max-buckets must be 1 to 10000, found {asked}")),
    }
}

/// A token is the last name of the page before, so that it outlives a restart.
fn encode_token(last: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(last)
}

fn decode_token(token: &str) -> S3Result<String> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let text = bytes.and_then(|b| String::from_utf8(b).ok());
    text.ok_or_else(|| s3_error!(InvalidArgument, "the continuation token is not one of this server"))
}
