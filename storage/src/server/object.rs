// SPDX-License-Identifier: Apache-2.0
//! What S3 does with objects: put, get, head, delete, copy.
//!
//! Each function takes a request's input and returns its output; the protocol
//! around them is in [`s3`](super::s3).

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use s3s::{
    S3ErrorCode, S3Response, S3Result, TrailingHeaders,
    dto::{self, ETag, StreamingBlob},
    s3_error,
};

use super::{
    Shared,
    attributes::disallow_what_is_not_here,
    blobs::Hold,
    checksum,
    commit::{Change, Condition, Done, Put, Victim},
    condition::{self, ReadConditions, http_time, xml_time},
    failure::{self, Failure},
    ingest::{Body, Claims, Taken, ingest},
    output,
    record::{Attributes, ObjectRecord, Segment, Sums},
};

/// An object that was found, with its files held.
pub(super) struct Found {
    pub(super) record: ObjectRecord,
    pub(super) inline: Option<Bytes>,
    pub(super) hold: Hold,
}

impl Found {
    /// The bytes `range` of the body.
    pub(super) fn into_body(self, shared: &Shared, range: Range<u64>) -> S3Result<StreamingBlob> {
        if !self.record.segments.is_empty() {
            output::check(&shared.blobs, &self.record.segments, &range)?;
            return Ok(output::stream(&shared.blobs, &self.record.segments, range, self.hold));
        }
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = self.inline.map(|b| b.slice(place(range.start)..place(range.end))).unwrap_or_default();
        Ok(StreamingBlob::from(s3s::Body::from(bytes)))
    }
}

impl Shared {
    /// An object with its files held, so that they stay while it is read.
    pub(super) fn find(&self, bucket: &str, key: &str, with_body: bool) -> S3Result<Found> {
        loop {
            let epoch = self.blobs.epoch();
            let found = self.index.object(bucket, key, with_body)?;
            let found = found.ok_or_else(|| s3_error!(NoSuchBucket, "the bucket does not exist"))?;
            let (record, inline) = found.ok_or_else(|| s3_error!(NoSuchKey, "the key does not exist"))?;
            if let Some(hold) = self.blobs.hold(&record.segments, epoch) {
                return Ok(Found { record, inline, hold });
            }
        }
    }

    pub(super) fn get(
        &self,
        input: &dto::GetObjectInput,
        headers: &HeaderMap,
    ) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let head = Head::of_get(input, headers);
        let found = self.find(&input.bucket, &input.key, true)?;
        let (range, content_range) = head.select(&found.record)?;
        let record = &found.record;
        let whole = content_range.is_none();
        let sums = if whole && head.with_checksum { record.sums.clone() } else { Sums::default() };
        let attributes = record.attributes.clone();
        let expires = attributes.expires(input.response_expires.as_ref());
        let output = dto::GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: input.response_cache_control.clone().or(attributes.cache_control),
            checksum_type: sums.dto_type(),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            content_disposition: input
                .response_content_disposition
                .clone()
                .or(attributes.content_disposition),
            content_encoding: input.response_content_encoding.clone().or(attributes.content_encoding),
            content_language: input.response_content_language.clone().or(attributes.content_language),
            content_length: Some(as_i64(range.end - range.start)),
            content_range,
            content_type: input.response_content_type.clone().or(attributes.content_type),
            e_tag: Some(ETag::Strong(record.etag.clone())),
            expires: input.response_expires.clone(),
            last_modified: Some(http_time(record.modified_ms)),
            metadata: Some(attributes.metadata.into_iter().collect()),
            parts_count: head.part_number.and_then(|_| record.parts_count()),
            body: Some(found.into_body(self, range)?),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, expires))
    }

    pub(super) fn head(
        &self,
        input: &dto::HeadObjectInput,
        headers: &HeaderMap,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let head = Head::of_head(input, headers);
        let found = self.find(&input.bucket, &input.key, false)?;
        let (range, content_range) = head.select(&found.record)?;
        let record = found.record;
        let sums = if head.with_checksum { record.sums.clone() } else { Sums::default() };
        let parts_count = head.part_number.and_then(|_| record.parts_count());
        let attributes = record.attributes;
        let expires = attributes.expires(input.response_expires.as_ref());
        let output = dto::HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: input.response_cache_control.clone().or(attributes.cache_control),
            checksum_type: sums.dto_type(),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            content_disposition: input
                .response_content_disposition
                .clone()
                .or(attributes.content_disposition),
            content_encoding: input.response_content_encoding.clone().or(attributes.content_encoding),
            content_language: input.response_content_language.clone().or(attributes.content_language),
            content_length: Some(as_i64(range.end - range.start)),
            content_range,
            content_type: input.response_content_type.clone().or(attributes.content_type),
            e_tag: Some(ETag::Strong(record.etag)),
            expires: input.response_expires.clone(),
            last_modified: Some(http_time(record.modified_ms)),
            metadata: Some(attributes.metadata.into_iter().collect()),
            parts_count,
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, expires))
    }

    /// Takes the body in before the condition is decided: a client that is still
    /// sending would not see an early answer. The `event` is told, in S3's words.
    pub(super) async fn put(
        &self,
        mut input: dto::PutObjectInput,
        headers: &HeaderMap,
        trailers: Option<TrailingHeaders>,
        event: &'static str,
    ) -> S3Result<dto::PutObjectOutput> {
        disallow_what_is_not_here(headers)?;
        let attributes = Attributes::of_put(&mut input)?;
        let condition = condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        if !self.index.has_bucket(&input.bucket)? {
            return Err(s3_error!(NoSuchBucket, "the bucket does not exist"));
        }
        let mut claims = Claims::of(headers, input.content_md5.take(), input.content_length, trailers)?;
        claims.add_fields(&input)?;
        let taken = self.take(input.body.take(), &claims).await?;
        let sums = taken.sums.clone();
        let etag = taken.etag();
        self.store(&input.bucket, &input.key, taken, attributes, condition, event).await?;
        Ok(dto::PutObjectOutput {
            checksum_type: sums.dto_type(),
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            e_tag: Some(ETag::Strong(etag)),
            ..Default::default()
        })
    }

    /// Takes a request's body in.
    pub(super) async fn take(&self, body: Option<StreamingBlob>, claims: &Claims) -> Result<Taken, Failure> {
        match body {
            Some(body) => ingest(&self.blobs, body, claims).await,
            None => ingest(&self.blobs, futures::stream::empty(), claims).await,
        }
    }

    async fn store(
        &self,
        bucket: &str,
        key: &str,
        taken: Taken,
        attributes: Attributes,
        condition: Condition,
        event: &'static str,
    ) -> S3Result<ObjectRecord> {
        let (etag, size, sums) = (taken.etag(), taken.size, taken.sums.clone());
        let (segments, inline, draft) = taken.body.into_parts(size);
        let record = ObjectRecord { etag, size, modified_ms: 0, attributes, sums, upload_id: None, segments };
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let put = Put { bucket, key, record, inline, draft, condition, event };
        match self.committer.commit(Change::Put(Box::new(put))).await? {
            Done::Object(record) => Ok(*record),
            _ => Err(s3_error!(InternalError, "the writer of the index answered something else")),
        }
    }

    pub(super) async fn delete(
        &self,
        bucket: String,
        victims: Vec<Victim>,
    ) -> S3Result<Vec<Result<(), S3ErrorCode>>> {
        match self.committer.commit(Change::Delete { bucket, victims }).await? {
            Done::Deleted(results) => Ok(results),
            _ => Err(s3_error!(InternalError, "the writer of the index answered something else")),
        }
    }

    pub(super) async fn copy(
        &self,
        mut input: dto::CopyObjectInput,
        headers: &HeaderMap,
    ) -> S3Result<dto::CopyObjectOutput> {
        disallow_what_is_not_here(headers)?;
        let asked = checksum::algorithms(headers)?;
        // s3s does not know yet that a copy may have conditions on what it writes.
        let condition = condition::of_write_headers(headers)?;
        let replaced =
            replaces("metadata", input.metadata_directive.as_ref().map(dto::MetadataDirective::as_str))?;
        // There are no tags to copy, and others are refused.
        replaces("tagging", input.tagging_directive.as_ref().map(dto::TaggingDirective::as_str))?;
        let (bucket, key) = source_of(headers)?;
        let (found, body_range) = self.find_source(&bucket, &key, &source_conditions(&input))?;
        if (&*bucket, &*key) == (&*input.bucket, &*input.key) && !replaced {
            return Err(s3_error!(InvalidRequest, "a copy of an object to itself must replace its metadata"));
        }
        let attributes =
            if replaced { Attributes::of_copy(&mut input)? } else { found.record.attributes.clone() };
        let mut claims = Claims { length: Some(found.record.size), ..Claims::default() };
        claims.algorithms = found.record.sums.algorithms();
        claims.algorithms.extend(asked);
        let taken = match self.linked(&found, &claims).await {
            Some(taken) => taken,
            None => self.take(Some(found.into_body(self, body_range)?), &claims).await?,
        };
        let event = "ObjectCreated:Copy";
        let record = self.store(&input.bucket, &input.key, taken, attributes, condition, event).await?;
        let result = dto::CopyObjectResult {
            e_tag: Some(ETag::Strong(record.etag)),
            last_modified: Some(xml_time(record.modified_ms)),
            checksum_crc32: record.sums.crc32,
            checksum_crc32c: record.sums.crc32c,
            checksum_crc64nvme: record.sums.crc64nvme,
            checksum_sha1: record.sums.sha1,
            checksum_sha256: record.sums.sha256,
            ..Default::default()
        };
        Ok(dto::CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    /// A copy under another name of the same file, however large: of an object of one file
    /// of which all is known that is to be.
    async fn linked(&self, found: &Found, claims: &Claims) -> Option<Taken> {
        let ObjectRecord { etag, sums, segments, .. } = &found.record;
        let [Segment { blob, size }] = segments[..] else { return None };
        let known = sums.algorithms();
        if !claims.algorithms.iter().all(|name| known.contains(name)) {
            return None;
        }
        // That of an object made of parts is none.
        let md5 = hex::decode(etag).ok()?.try_into().ok()?;
        let blobs = Arc::clone(&self.blobs);
        match tokio::task::spawn_blocking(move || blobs.link(blob)).await.ok()? {
            Ok((draft, blob)) => Some(Taken { size, md5, sums: sums.clone(), body: Body::File(draft, blob) }),
            Err(error) => {
                tracing::debug!(%error, "a copy gets its own bytes");
                None
            }
        }
    }

    /// The source of a copy, which meets the conditions, and the range of all of it.
    pub(super) fn find_source(
        &self,
        bucket: &str,
        key: &str,
        conditions: &ReadConditions<'_>,
    ) -> S3Result<(Found, Range<u64>)> {
        let found = self.find(bucket, key, true)?;
        conditions.check_source(&found.record)?;
        let all = 0..found.record.size;
        Ok((found, all))
    }
}

/// The bucket and the key that a copy reads. S3 takes a `+` there for a space, as forms have it, and
/// some clients write spaces so; s3s leaves it.
pub(super) fn source_of(headers: &HeaderMap) -> S3Result<(Box<str>, Box<str>)> {
    let source = headers.get("x-amz-copy-source").and_then(|source| source.to_str().ok());
    match dto::CopySource::parse(&source.unwrap_or_default().replace('+', "%20")) {
        Ok(dto::CopySource::Bucket { bucket, key, version_id }) => {
            current_version(version_id.as_deref())?;
            Ok((bucket, key))
        }
        Ok(_) => Err(s3_error!(NotImplemented, "a copy reads from a bucket, not from an access point")),
        Err(_) => Err(s3_error!(InvalidArgument, "x-amz-copy-source must be BUCKET/KEY, percent-encoded")),
    }
}

/// Whether a copy has what its own request says in the place of what its source has. A word that
/// is neither must not be passed over: what the request says would be lost.
fn replaces(what: &str, directive: Option<&str>) -> S3Result<bool> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(other) => {
            Err(s3_error!(InvalidArgument, "x-amz-{what}-directive must be COPY or REPLACE, found {other:?}"))
        }
    }
}

/// Lets through what asks for no version, or for the only one that there is.
pub(super) fn current_version(id: Option<&str>) -> S3Result<()> {
    match id {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "this server keeps no versions")),
    }
}

fn source_conditions(input: &dto::CopyObjectInput) -> ReadConditions<'_> {
    ReadConditions {
        if_match: input.copy_source_if_match.as_ref(),
        if_none_match: input.copy_source_if_none_match.as_ref(),
        if_modified_since: input.copy_source_if_modified_since.as_ref(),
        if_unmodified_since: input.copy_source_if_unmodified_since.as_ref(),
    }
}

/// What GET and HEAD ask alike.
struct Head<'a> {
    conditions: ReadConditions<'a>,
    range: Option<dto::Range>,
    /// s3s does not know it.
    if_range: Option<&'a HeaderValue>,
    part_number: Option<i32>,
    version_id: Option<&'a str>,
    with_checksum: bool,
}

impl<'a> Head<'a> {
    fn of_get(input: &'a dto::GetObjectInput, headers: &'a HeaderMap) -> Self {
        Self {
            conditions: ReadConditions {
                if_match: input.if_match.as_ref(),
                if_none_match: input.if_none_match.as_ref(),
                if_modified_since: input.if_modified_since.as_ref(),
                if_unmodified_since: input.if_unmodified_since.as_ref(),
            },
            range: input.range,
            if_range: headers.get(header::IF_RANGE),
            part_number: input.part_number,
            version_id: input.version_id.as_deref(),
            with_checksum: input.checksum_mode.is_some(),
        }
    }

    fn of_head(input: &'a dto::HeadObjectInput, headers: &'a HeaderMap) -> Self {
        Self {
            conditions: ReadConditions {
                if_match: input.if_match.as_ref(),
                if_none_match: input.if_none_match.as_ref(),
                if_modified_since: input.if_modified_since.as_ref(),
                if_unmodified_since: input.if_unmodified_since.as_ref(),
            },
            range: input.range,
            if_range: headers.get(header::IF_RANGE),
            part_number: input.part_number,
            version_id: input.version_id.as_deref(),
            with_checksum: input.checksum_mode.is_some(),
        }
    }

    /// The bytes that are asked for, and Content-Range when they are a part.
    fn select(&self, record: &ObjectRecord) -> S3Result<(Range<u64>, Option<String>)> {
        current_version(self.version_id)?;
        self.conditions.check(record)?;
        let counts = condition::range_counts(self.if_range, &record.etag, record.modified_ms);
        let range = match (self.part_number, self.range) {
            (Some(_), Some(_)) => {
                return Err(s3_error!(InvalidRequest, "Range and partNumber must not be given together"));
            }
            (Some(number), None) => record.part_range(number)?,
            (None, Some(range)) if counts => satisfy(range, record.size)?,
            (None, _) => return Ok((0..record.size, None)),
        };
        let header = match range.end.checked_sub(1) {
            Some(last) if !range.is_empty() => Some(format!("bytes {}-{last}/{}", range.start, record.size)),
            _ => None,
        };
        Ok((range, header))
    }
}

/// The bytes of a range header. A suffix of nothing, or of an empty object, has none.
fn satisfy(range: dto::Range, size: u64) -> S3Result<Range<u64>> {
    let found = range.check(size).ok().filter(|r| !r.is_empty());
    found.ok_or_else(|| {
        let mut error = s3_error!(InvalidRange, "the range has no byte of the object");
        if let Ok(value) = format!("bytes */{size}").parse() {
            error.set_headers([(header::CONTENT_RANGE, value)].into_iter().collect());
        }
        error
    })
}

impl ObjectRecord {
    fn parts_count(&self) -> Option<i32> {
        self.etag.contains('-').then(|| i32::try_from(self.segments.len()).unwrap_or(i32::MAX))
    }

    /// The bytes of a part, from 1. An object that was put whole has one part.
    fn part_range(&self, number: i32) -> S3Result<Range<u64>> {
        if number == 1 && self.segments.len() <= 1 {
            return Ok(0..self.size);
        }
        let mut start = 0;
        for (segment, at) in self.segments.iter().zip(1..) {
            if at == number {
                return Ok(start..start + segment.size);
            }
            start += segment.size;
        }
        let status = http::StatusCode::RANGE_NOT_SATISFIABLE;
        Err(failure::named("InvalidPartNumber", status, "the object has no part of that number"))
    }
}

impl Claims {
    /// What the headers of a request with a body say.
    pub(super) fn of(
        headers: &HeaderMap,
        md5: Option<String>,
        content_length: Option<i64>,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<Self> {
        let decoded = headers.get("x-amz-decoded-content-length").and_then(|v| v.to_str().ok());
        let decoded = decoded.and_then(|v| v.trim().parse::<u64>().ok());
        let length = decoded.or(content_length.and_then(|n| u64::try_from(n).ok()));
        if length.is_none() {
            return Err(s3_error!(MissingContentLength, "a request with a body must say its length"));
        }
        Ok(Self {
            length,
            md5,
            sums: Sums::from_headers(headers),
            algorithms: checksum::algorithms(headers)?,
            announced: checksum::announced(headers)?,
            trailers,
            as_file: false,
        })
    }

    /// Adds the checksums that the fields of a form say. Those of a put are its headers again.
    fn add_fields(&mut self, input: &dto::PutObjectInput) -> S3Result<()> {
        let sent = [
            &input.checksum_crc32,
            &input.checksum_crc32c,
            &input.checksum_crc64nvme,
            &input.checksum_sha1,
            &input.checksum_sha256,
        ];
        for (name, sum) in checksum::ALGORITHMS.iter().zip(sent) {
            if let Some(sum) = sum {
                self.sums.set(name, sum.trim().to_owned());
                self.algorithms.push((*name).to_owned());
            }
        }
        let named = input.checksum_algorithm.as_ref().map(|name| checksum::known(name.as_str()));
        self.algorithms.extend(named.transpose()?);
        Ok(())
    }
}

/// Sizes fit: files are shorter than 2^63 bytes.
pub(super) fn as_i64(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_in_a_copy_s_source_is_a_space() {
        let check = |source: &'static str, expected: Result<(&str, &str), &str>| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-amz-copy-source"),
                HeaderValue::from_static(source),
            )]);
            let found = source_of(&headers).map_err(|error| error.code().as_str().to_owned());
            let found = found.as_ref().map(|(bucket, key)| (&**bucket, &**key)).map_err(|code| &**code);
            assert_eq!(found, expected, "{source}");
        };
        check("/bank/a+b/c%2Bd%20e", Ok(("bank", "a b/c+d e")));
        check("bank/a+b?versionId=null", Ok(("bank", "a b")));
        check("bank%2F100%2525", Ok(("bank", "100%25")));
        check("bank/a+b?versionId=1", Err("NoSuchVersion"));
        check("bank", Err("InvalidArgument"));
        check("", Err("InvalidArgument"));
    }
}
