// SPDX-License-Identifier: Apache-2.0
//! Objects in parts: begin, upload, copy, complete, abort, list.
//!
//! A part is a file of its own and stays one: completing an upload writes only
//! a record that names the parts' files in order, whatever their size.

use std::ops::Bound;

use fanfold_protocol::time::now;
use http::HeaderMap;
use md5::{Digest, Md5};
use s3s::{
    S3ErrorCode, S3Result, TrailingHeaders,
    dto::{self, ETag},
    s3_error,
};

use super::{
    Shared,
    apply::PART_BYTES_MIN,
    attributes::disallow_what_is_not_here,
    checksum,
    commit::{Change, Complete, Done, PutPart},
    condition::{self, ReadConditions, xml_time},
    failure::Failure,
    host,
    index::{UPLOADS, key_of, place},
    ingest::{Body, Claims, Taken},
    listing::{Entries, Page, Query, successor},
    object::{as_i64, source_of},
    range::of_copied_part,
    record::{Attributes, ObjectRecord, PartRecord, Segment, UploadRecord},
    whole::{has_sums, kind_of_upload},
};

/// Part numbers go from 1 to this, as S3 has it.
const PART_NUMBER_MAX: i32 = 10_000;
/// Parts or uploads in one page.
const PAGE_MAX: i32 = 1_000;

/// One upload of a listing.
pub(super) struct OpenUpload {
    pub(super) id: String,
    pub(super) record: UploadRecord,
}

impl Shared {
    pub(super) async fn create_upload(
        &self,
        mut input: dto::CreateMultipartUploadInput,
        headers: &HeaderMap,
    ) -> S3Result<dto::CreateMultipartUploadOutput> {
        disallow_what_is_not_here(headers)?;
        checksum::algorithms(headers)?;
        let kind = kind_of_upload(&input)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let record = Box::new(UploadRecord {
            begun_ms: now().0,
            attributes: Attributes::of_upload(&mut input)?,
            checksum_algorithm: input.checksum_algorithm.as_ref().map(|a| a.as_str().to_owned()),
            checksum_type: kind.map(str::to_owned),
        });
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        self.committer.commit(Change::CreateUpload { bucket, key, id: id.clone(), record }).await?;
        Ok(dto::CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: kind.map(dto::ChecksumType::from_static),
            ..Default::default()
        })
    }

    pub(super) async fn put_part(
        &self,
        mut input: dto::UploadPartInput,
        headers: &HeaderMap,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<dto::UploadPartOutput> {
        disallow_what_is_not_here(headers)?;
        let number = part_number(input.part_number)?;
        let upload = self.require_upload(&input.bucket, &input.key, &input.upload_id)?;
        let mut claims = Claims::of(headers, input.content_md5.take(), input.content_length, trailers)?;
        claims.as_file = true;
        claims.algorithms.extend(upload.checksum_algorithm.iter().map(|a| a.to_ascii_lowercase()));
        let taken = self.take(input.body.take(), &claims).await?;
        let part = self.store_part(&input.bucket, &input.key, &input.upload_id, number, taken).await?;
        Ok(dto::UploadPartOutput {
            e_tag: Some(ETag::Strong(part.etag)),
            checksum_crc32: part.sums.crc32,
            checksum_crc32c: part.sums.crc32c,
            checksum_crc64nvme: part.sums.crc64nvme,
            checksum_sha1: part.sums.sha1,
            checksum_sha256: part.sums.sha256,
            ..Default::default()
        })
    }

    pub(super) async fn copy_part(
        &self,
        input: dto::UploadPartCopyInput,
        headers: &HeaderMap,
    ) -> S3Result<dto::UploadPartCopyOutput> {
        let number = part_number(input.part_number)?;
        let upload = self.require_upload(&input.bucket, &input.key, &input.upload_id)?;
        let conditions = ReadConditions {
            if_match: input.copy_source_if_match.as_ref(),
            if_none_match: input.copy_source_if_none_match.as_ref(),
            if_modified_since: input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
        };
        let (bucket, key) = source_of(headers)?;
        let (found, mut range) = self.find_source(&bucket, &key, &conditions)?;
        if let Some(text) = &input.copy_source_range {
            range = of_copied_part(text, found.record.size)?;
        }
        let mut claims = Claims { length: Some(range.end - range.start), as_file: true, ..Claims::default() };
        claims.algorithms.extend(upload.checksum_algorithm.iter().map(|a| a.to_ascii_lowercase()));
        let taken = self.take(Some(found.into_body(self, range)?), &claims).await?;
        let part = self.store_part(&input.bucket, &input.key, &input.upload_id, number, taken).await?;
        let result = dto::CopyPartResult {
            e_tag: Some(ETag::Strong(part.etag)),
            last_modified: Some(xml_time(now().0)),
            checksum_crc32: part.sums.crc32,
            checksum_crc32c: part.sums.crc32c,
            checksum_crc64nvme: part.sums.crc64nvme,
            checksum_sha1: part.sums.sha1,
            checksum_sha256: part.sums.sha256,
        };
        Ok(dto::UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    async fn store_part(
        &self,
        bucket: &str,
        key: &str,
        id: &str,
        number: u32,
        taken: Taken,
    ) -> S3Result<PartRecord> {
        let etag = taken.etag();
        let Body::File(draft, blob) = taken.body else {
            return Err(s3_error!(InternalError, "a part must be in a file"));
        };
        let segment = Segment { blob, size: taken.size };
        let record = PartRecord { etag, modified_ms: 0, segment, sums: taken.sums };
        let put = PutPart {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            id: id.to_owned(),
            number,
            record: record.clone(),
            draft,
        };
        self.committer.commit(Change::PutPart(Box::new(put))).await?;
        Ok(record)
    }

    pub(super) async fn complete(
        &self,
        input: dto::CompleteMultipartUploadInput,
        headers: &HeaderMap,
    ) -> S3Result<dto::CompleteMultipartUploadOutput> {
        let condition = condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let listed = listed_parts(&input)?;
        // The parts first: they go with their upload, so that one that is still there has them.
        let stored = self.index.parts(&input.upload_id, 0, usize::MAX)?;
        let Some(upload) = self.index.upload(&input.bucket, &input.key, &input.upload_id)? else {
            return self.completed_before(&input, headers);
        };
        let parts = chosen(&listed, &stored)?;
        let listing = input.multipart_upload.iter().flat_map(|upload| upload.parts.iter().flatten());
        if let Some((part, _)) = listing.zip(&parts).find(|(listed, part)| !has_sums(part, listed)) {
            let number = part.part_number.unwrap_or_default();
            return Err(s3_error!(
                InvalidPart,
                "part {number} has another checksum than the one that was sent"
            ));
        }
        let sums = self.sums_of(&upload, &parts, &input).await?;
        let record = ObjectRecord {
            etag: etag_of(&parts)?,
            size: parts.iter().map(|p| p.segment.size).sum(),
            modified_ms: 0,
            attributes: upload.attributes,
            sums,
            upload_id: Some(input.upload_id.clone()),
            segments: parts.iter().map(|p| p.segment.clone()).collect(),
        };
        if input.mpu_object_size.is_some_and(|size| size != as_i64(record.size)) {
            return Err(s3_error!(InvalidRequest, "the parts do not add up to x-amz-mp-object-size"));
        }
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
        let complete = Complete { bucket, key, id, parts: listed, record, condition };
        match self.committer.commit(Change::Complete(Box::new(complete))).await {
            Ok(Done::Object(record)) => Ok(completed(&input, headers, *record)),
            Ok(_) => Err(s3_error!(InternalError, "the writer of the index answered something else")),
            // The same completion, sent twice, was quicker.
            Err(Failure::Refused { code: S3ErrorCode::NoSuchUpload, .. }) => {
                self.completed_before(&input, headers)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// A completion that is sent again after its answer was lost succeeds again,
    /// as long as its object is there.
    fn completed_before(
        &self,
        input: &dto::CompleteMultipartUploadInput,
        headers: &HeaderMap,
    ) -> S3Result<dto::CompleteMultipartUploadOutput> {
        let found = self.index.object(&input.bucket, &input.key, false)?;
        let found = found.ok_or_else(|| s3_error!(NoSuchBucket, "the bucket does not exist"))?;
        match found {
            Some((record, _)) if record.upload_id.as_ref() == Some(&input.upload_id) => {
                Ok(completed(input, headers, record))
            }
            _ => Err(s3_error!(NoSuchUpload, "the upload does not exist")),
        }
    }

    pub(super) async fn abort(&self, bucket: String, key: String, id: String) -> S3Result<()> {
        self.committer.commit(Change::Abort { bucket, key, id }).await?;
        Ok(())
    }

    fn require_upload(&self, bucket: &str, key: &str, id: &str) -> S3Result<UploadRecord> {
        if !self.index.has_bucket(bucket)? {
            return Err(s3_error!(NoSuchBucket, "the bucket does not exist"));
        }
        let found = self.index.upload(bucket, key, id)?;
        found.ok_or_else(|| s3_error!(NoSuchUpload, "the upload does not exist"))
    }

    pub(super) fn list_parts(&self, input: dto::ListPartsInput) -> S3Result<dto::ListPartsOutput> {
        let upload = self.require_upload(&input.bucket, &input.key, &input.upload_id)?;
        let max = page_size(input.max_parts)?;
        let marker = input.part_number_marker.unwrap_or_default();
        let mut parts = self.index.parts(&input.upload_id, u32::try_from(marker).unwrap_or_default(), max)?;
        let truncated = max > 0 && parts.len() > max;
        parts.truncate(max);
        let last = parts.last().and_then(|(number, _)| i32::try_from(*number).ok());
        let parts = parts.into_iter().map(|(number, part)| dto::Part {
            part_number: i32::try_from(number).ok(),
            e_tag: Some(ETag::Strong(part.etag)),
            size: Some(as_i64(part.segment.size)),
            last_modified: Some(xml_time(part.modified_ms)),
            checksum_crc32: part.sums.crc32,
            checksum_crc32c: part.sums.crc32c,
            checksum_crc64nvme: part.sums.crc64nvme,
            checksum_sha1: part.sums.sha1,
            checksum_sha256: part.sums.sha256,
        });
        Ok(dto::ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: i32::try_from(max).ok(),
            part_number_marker: Some(marker),
            next_part_number_marker: last.filter(|_| truncated),
            is_truncated: Some(truncated),
            parts: Some(parts.collect()),
            checksum_algorithm: upload.checksum_algorithm.map(dto::ChecksumAlgorithm::from),
            checksum_type: upload.checksum_type.map(dto::ChecksumType::from),
            storage_class: Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD)),
            ..Default::default()
        })
    }

    /// A page of the open uploads, by key and then id. Behind the query's key come those of the
    /// key itself whose ids are behind `id`.
    pub(super) fn open_uploads(
        &self,
        bucket: &str,
        query: &Query,
        id: Option<&str>,
    ) -> S3Result<Page<OpenUpload>> {
        let end = successor(&place(bucket, "")).unwrap_or_default();
        // Ids are hexadecimal, so this lies behind all of the key's uploads.
        let id = id.filter(|id| !id.is_empty()).unwrap_or("~");
        Ok(self.index.read(|tx| {
            let table = tx.open_table(UPLOADS)?;
            query.page(|from| {
                let from = from.map(|key| [bucket.as_bytes(), &[0], &key[..]].concat());
                let from = match &from {
                    Bound::Excluded(key) => Bound::Excluded((&key[..], id)),
                    Bound::Included(key) => Bound::Included((&key[..], "")),
                    Bound::Unbounded => Bound::Unbounded,
                };
                let range = table.range::<(&[u8], &str)>((from, Bound::Excluded((&end[..], ""))))?;
                let uploads = range.map(|entry| {
                    let (at, value) = entry?;
                    let (at, id) = at.value();
                    let record = serde_json::from_slice(value.value())?;
                    Ok((key_of(at).into_bytes(), OpenUpload { id: id.to_owned(), record }))
                });
                Ok(Box::new(uploads) as Entries<'_, _>)
            })
        })?)
    }
}

/// The size of a page that a client asks for.
pub(super) fn page_size(asked: Option<i32>) -> S3Result<usize> {
    let asked = asked.unwrap_or(PAGE_MAX);
    usize::try_from(asked.min(PAGE_MAX))
        .map_err(|_| s3_error!(InvalidArgument, "a page size must not be negative"))
}

fn part_number(number: i32) -> S3Result<u32> {
    match u32::try_from(number) {
        Ok(n) if (1..=PART_NUMBER_MAX).contains(&number) => Ok(n),
        _ => Err(s3_error!(InvalidArgument, "a part number must be 1 to {PART_NUMBER_MAX}, found {number}")),
    }
}

/// The parts that the client wants, in the order that S3 demands.
fn listed_parts(input: &dto::CompleteMultipartUploadInput) -> S3Result<Vec<(u32, String)>> {
    let parts = input.multipart_upload.as_ref().and_then(|u| u.parts.as_deref()).unwrap_or_default();
    if parts.is_empty() {
        return Err(s3_error!(MalformedXML, "an upload must be completed with at least one part"));
    }
    let mut listed: Vec<(u32, String)> = Vec::with_capacity(parts.len());
    for part in parts {
        let number = part_number(part.part_number.unwrap_or_default())?;
        if listed.last().is_some_and(|(last, _)| *last >= number) {
            return Err(s3_error!(InvalidPartOrder, "parts must be listed in ascending order"));
        }
        let etag =
            part.e_tag.as_ref().ok_or_else(|| s3_error!(MalformedXML, "each part must have its ETag"))?;
        listed.push((number, etag.value().to_owned()));
    }
    Ok(listed)
}

/// The stored parts that are listed. All but the last must have the minimum size.
fn chosen(listed: &[(u32, String)], stored: &[(u32, PartRecord)]) -> S3Result<Vec<PartRecord>> {
    let mut parts = Vec::with_capacity(listed.len());
    for (number, etag) in listed {
        let found = stored.binary_search_by_key(number, |(n, _)| *n).ok().and_then(|at| stored.get(at));
        match found {
            Some((_, part)) if part.etag == *etag => parts.push(part.clone()),
            _ => return Err(s3_error!(InvalidPart, "part {number} was not uploaded, or has another ETag")),
        }
    }
    let small = parts.iter().rev().skip(1).any(|part| part.segment.size < PART_BYTES_MIN);
    if small {
        return Err(s3_error!(
            EntityTooSmall,
            "every part but the last must be at least {PART_BYTES_MIN} bytes"
        ));
    }
    Ok(parts)
}

/// MD5 over the parts' MD5s, and their number.
fn etag_of(parts: &[PartRecord]) -> S3Result<String> {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(hex::decode(&part.etag).map_err(|e| s3_error!(InternalError, "a part's ETag: {e}"))?);
    }
    Ok(format!("{}-{}", hex::encode(md5.finalize()), parts.len()))
}

fn completed(
    input: &dto::CompleteMultipartUploadInput,
    headers: &HeaderMap,
    record: ObjectRecord,
) -> dto::CompleteMultipartUploadOutput {
    dto::CompleteMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: Some(input.key.clone()),
        location: Some(host::location(headers, &input.bucket, &input.key)),
        e_tag: Some(ETag::Strong(record.etag)),
        checksum_type: record.sums.dto_type(),
        checksum_crc32: record.sums.crc32,
        checksum_crc32c: record.sums.crc32c,
        checksum_crc64nvme: record.sums.crc64nvme,
        checksum_sha1: record.sums.sha1,
        checksum_sha256: record.sums.sha256,
        ..Default::default()
    }
}
