// SPDX-License-Identifier: Apache-2.0
//! Taking in a body: hashed and written as it arrives, in flat memory.
//!
//! Small bodies stay in memory and go into the index; larger ones go to a file
//! that is on disk when this returns. Whatever the client said about length
//! and checksums is compared before anything is committed.

use std::{io::Write, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use md5::{Digest, Md5};
use s3s::{S3ErrorCode, StdError, TrailingHeaders, checksum::ChecksumHasher, crypto::Checksum as _};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    blobs::{BlobId, Blobs, Draft, Room},
    chunks::TOO_LARGE,
    failure::Failure,
    record::{Segment, Sums},
};

/// The largest body that goes into the index, in bytes.
pub(super) const INLINE_BYTES_MAX: usize = 8 << 10;
/// The largest body of one request, in bytes, as S3 has it.
const BODY_BYTES_MAX: u64 = 5 << 30;
/// Bytes that are hashed and written at a time, away from the threads that serve.
const STRIDE_BYTES: usize = 1 << 20;
/// How long a body may stand still.
const IDLE: Duration = Duration::from_secs(60);

/// What the client says about a body.
#[derive(Default)]
pub(super) struct Claims {
    /// Its length in bytes.
    pub(super) length: Option<u64>,
    /// Content-MD5, in base 64.
    pub(super) md5: Option<String>,
    /// Checksums sent ahead of the body.
    pub(super) sums: Sums,
    /// Algorithms to work out, sent ahead or not, in lower case: `crc32` and so on.
    pub(super) algorithms: Vec<String>,
    /// Those of them whose values are to come after the body.
    pub(super) announced: Vec<String>,
    /// Where checksums sent after the body appear.
    pub(super) trailers: Option<TrailingHeaders>,
    /// Never into the index, however small.
    pub(super) as_file: bool,
}

/// A body that was taken in.
pub(super) struct Taken {
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    pub(super) sums: Sums,
    pub(super) body: Body,
}

/// Where the bytes are.
pub(super) enum Body {
    Inline(Bytes),
    File(Draft, BlobId),
}

impl Taken {
    /// The MD5 as an ETag.
    pub(super) fn etag(&self) -> String {
        hex::encode(self.md5)
    }
}

impl Body {
    /// What an index record and its change need.
    pub(super) fn into_parts(self, size: u64) -> (Vec<Segment>, Option<Bytes>, Option<Draft>) {
        match self {
            Self::Inline(bytes) => (Vec::new(), Some(bytes), None),
            Self::File(draft, blob) => (vec![Segment { blob, size }], None, Some(draft)),
        }
    }
}

/// Takes in a whole body.
pub(super) async fn ingest<S>(blobs: &Arc<Blobs>, mut stream: S, claims: &Claims) -> Result<Taken, Failure>
where
    S: Stream<Item = Result<Bytes, StdError>> + Unpin,
{
    let length = claims.length.unwrap_or_default();
    if length > BODY_BYTES_MAX {
        return Err(Failure::refused(S3ErrorCode::EntityTooLarge, "a body must be at most 5 GiB; use parts"));
    }
    let mut sink = Sink { room: Some(blobs.promise(length)?), ..Sink::new(&claims.algorithms) };
    let mut writing: Option<JoinHandle<Result<Sink, Failure>>> = None;
    let mut received = 0;
    loop {
        let (stride, ended) = gather(&mut stream).await?;
        received += stride.iter().map(|b| b.len() as u64).sum::<u64>();
        // Room was promised for what was announced, and for no more.
        if received > length {
            return Err(Failure::Body(format!("more than the {length} bytes came that were announced")));
        }
        if ended && writing.is_none() && received <= INLINE_BYTES_MAX as u64 && !claims.as_file {
            return finish_inline(sink, &stride, claims);
        }
        if let Some(task) = writing.take() {
            sink = task.await.map_err(|_| Failure::Stopping)??;
        }
        let blobs = Arc::clone(blobs);
        let mut moved = std::mem::take(&mut sink);
        let task = spawn_blocking(move || moved.absorb(&blobs, &stride, ended).map(|()| moved));
        if ended {
            sink = task.await.map_err(|_| Failure::Stopping)??;
            return finish(sink, claims);
        }
        writing = Some(task);
    }
}

/// Takes in a body of at most so many bytes that is wanted in memory.
pub(super) async fn read<S>(mut stream: S, bytes_max: usize, claims: &Claims) -> Result<Bytes, Failure>
where
    S: Stream<Item = Result<Bytes, StdError>> + Unpin,
{
    let (mut sink, mut body) = (Sink::new(&claims.algorithms), Vec::new());
    loop {
        let (stride, ended) = gather(&mut stream).await?;
        sink.hash(&stride);
        if sink.size > bytes_max as u64 {
            return Err(Failure::refused(S3ErrorCode::MaxMessageLengthExceeded, "the body is too long"));
        }
        stride.iter().for_each(|chunk| body.extend_from_slice(chunk));
        if ended {
            compare(sink.md5, sink.hasher, sink.size, claims)?;
            return Ok(body.into());
        }
    }
}

/// The next stride, and whether the body ends with it.
async fn gather<S>(stream: &mut S) -> Result<(Vec<Bytes>, bool), Failure>
where
    S: Stream<Item = Result<Bytes, StdError>> + Unpin,
{
    let (mut stride, mut size) = (Vec::new(), 0);
    while size < STRIDE_BYTES {
        let next = tokio::time::timeout(IDLE, stream.next()).await;
        let next =
            next.map_err(|_| Failure::refused(S3ErrorCode::RequestTimeout, "the body stands still"))?;
        let Some(chunk) = next else { return Ok((stride, true)) };
        let chunk = chunk.map_err(body_failure)?;
        size += chunk.len();
        stride.push(chunk);
    }
    Ok((stride, false))
}

/// s3s checks the signed hash and the chunks' signatures while the body flows,
/// and its errors come as text only.
fn body_failure(error: StdError) -> Failure {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let message = "the body does not have the SHA-256 that x-amz-content-sha256 says";
        let code = S3ErrorCode::from_bytes(b"XAmzContentSHA256Mismatch").unwrap_or(S3ErrorCode::BadDigest);
        return Failure::refused(code, message);
    }
    if text.contains("SignatureMismatch") {
        return Failure::refused(
            S3ErrorCode::SignatureDoesNotMatch,
            "a chunk of the body has a wrong signature",
        );
    }
    if text.contains(TOO_LARGE) {
        return Failure::refused(S3ErrorCode::InvalidRequest, TOO_LARGE);
    }
    Failure::Body(text)
}

/// A hasher of these algorithms, named as in the headers.
pub(super) fn hasher(algorithms: &[String]) -> ChecksumHasher {
    let wanted = |name: &str| algorithms.iter().any(|a| a == name);
    ChecksumHasher {
        crc32: wanted("crc32").then(s3s::crypto::Crc32::new),
        crc32c: wanted("crc32c").then(s3s::crypto::Crc32c::new),
        crc64nvme: wanted("crc64nvme").then(s3s::crypto::Crc64Nvme::new),
        sha1: wanted("sha1").then(s3s::crypto::Sha1::new),
        sha256: wanted("sha256").then(s3s::crypto::Sha256::new),
    }
}

/// Hashes and the file, between strides.
#[derive(Default)]
struct Sink {
    /// What the disk has for the rest of the body.
    room: Option<Room>,
    draft: Option<Draft>,
    blob: Option<BlobId>,
    md5: Md5,
    hasher: ChecksumHasher,
    size: u64,
}

impl Sink {
    fn new(algorithms: &[String]) -> Self {
        Self { hasher: hasher(algorithms), ..Self::default() }
    }

    fn hash(&mut self, stride: &[Bytes]) {
        for chunk in stride {
            self.md5.update(chunk);
            self.hasher.update(chunk);
            self.size += chunk.len() as u64;
        }
    }

    /// Hashes and writes; at the end also syncs.
    fn absorb(&mut self, blobs: &Arc<Blobs>, stride: &[Bytes], ended: bool) -> Result<(), Failure> {
        self.hash(stride);
        if self.draft.is_none() {
            self.draft = Some(blobs.draft()?);
        }
        let Some(draft) = &mut self.draft else { return Err(Failure::Stopping) };
        for chunk in stride {
            draft.file()?.write_all(chunk)?;
            self.room.iter_mut().for_each(|room| room.written(chunk.len() as u64));
        }
        if ended {
            self.blob = Some(draft.sync()?);
        }
        Ok(())
    }
}

fn finish_inline(mut sink: Sink, stride: &[Bytes], claims: &Claims) -> Result<Taken, Failure> {
    sink.hash(stride);
    let body = match stride {
        [one] => one.clone(),
        many => many.concat().into(),
    };
    verify(sink.md5, sink.hasher, sink.size, Body::Inline(body), claims)
}

fn finish(sink: Sink, claims: &Claims) -> Result<Taken, Failure> {
    let (Some(draft), Some(blob)) = (sink.draft, sink.blob) else { return Err(Failure::Stopping) };
    verify(sink.md5, sink.hasher, sink.size, Body::File(draft, blob), claims)
}

fn verify(
    md5: Md5,
    hasher: ChecksumHasher,
    size: u64,
    body: Body,
    claims: &Claims,
) -> Result<Taken, Failure> {
    let (md5, sums) = compare(md5, hasher, size, claims)?;
    Ok(Taken { size, md5, sums, body })
}

/// The hashes of a body, where they are those that the client said.
fn compare(
    md5: Md5,
    hasher: ChecksumHasher,
    size: u64,
    claims: &Claims,
) -> Result<([u8; 16], Sums), Failure> {
    if claims.length.is_some_and(|length| length != size) {
        return Err(Failure::Body(format!("{size} bytes came of {}", claims.length.unwrap_or_default())));
    }
    let md5: [u8; 16] = md5.finalize().into();
    if let Some(claimed) = &claims.md5 {
        let claimed = BASE64_STANDARD.decode(claimed).ok().filter(|bytes| bytes.len() == md5.len());
        let claimed = claimed
            .ok_or(Failure::refused(S3ErrorCode::InvalidDigest, "Content-MD5 is no MD5 in base 64"))?;
        if claimed != md5 {
            return Err(Failure::refused(
                S3ErrorCode::BadDigest,
                "the body does not have the MD5 that Content-MD5 says",
            ));
        }
    }
    let sums = Sums::from(hasher.finalize());
    let sent = claims.trailers.as_ref().and_then(|t| t.read(Sums::from_headers)).unwrap_or_default();
    // Without trailers the header that announces them means nothing.
    if claims.trailers.is_some() && claims.announced.iter().any(|name| sent.get(name).is_none()) {
        let code = S3ErrorCode::from_bytes(b"MalformedTrailerError").unwrap_or(S3ErrorCode::InvalidRequest);
        return Err(Failure::refused(code, "the checksum that x-amz-trailer announces did not come"));
    }
    if !sums.agrees(&claims.sums) || !sums.agrees(&sent) {
        return Err(Failure::refused(
            S3ErrorCode::BadDigest,
            "the body does not have the checksum that was sent",
        ));
    }
    Ok((md5, sums))
}
