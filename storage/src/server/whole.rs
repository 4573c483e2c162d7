// SPDX-License-Identifier: Apache-2.0
//! Checksums of objects that are made of parts.
//!
//! One is of the parts' checksums (`COMPOSITE`), or of all bytes (`FULL_OBJECT`). A CRC of
//! all bytes follows from those of the parts and their lengths; bytes are read only where
//! nothing else tells. Invariant: a checksum that a completion comes with is compared,
//! whatever its upload was begun with.

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::StreamExt;
use s3s::{
    S3Result,
    dto::{self, ChecksumType},
    s3_error,
};

use super::{
    Shared,
    checksum::{ALGORITHMS, joined},
    ingest::hasher,
    record::{PartRecord, Sums, UploadRecord},
};

impl Shared {
    /// The checksum of the whole object: the one that its upload was begun with, or the
    /// one that its completion comes with.
    pub(super) async fn sums_of(
        &self,
        upload: &UploadRecord,
        parts: &[PartRecord],
        input: &dto::CompleteMultipartUploadInput,
    ) -> S3Result<Sums> {
        let claimed = claimed(input);
        let begun_with = upload.checksum_algorithm.as_deref().map(str::to_ascii_lowercase);
        let asked = input.checksum_type.as_ref().map(ChecksumType::as_str);
        let kind = match (&begun_with, upload.checksum_type.as_deref()) {
            (Some(_), Some(kind)) => kind,
            (Some(algorithm), None) => kind_of(algorithm, None)?,
            (None, _) => asked.unwrap_or(ChecksumType::FULL_OBJECT),
        };
        if let Some(asked) = asked.filter(|asked| *asked != kind) {
            return Err(s3_error!(
                InvalidRequest,
                "the upload was begun for a checksum of the type {kind}, found {asked}; complete it with the same"
            ));
        }
        let Some(algorithm) = begun_with.or_else(|| claimed.algorithms().into_iter().next()) else {
            return Ok(Sums::default());
        };
        let is_full = kind == ChecksumType::FULL_OBJECT || algorithm == "crc64nvme";
        let sum = if is_full { self.full(&algorithm, parts).await? } else { composite(&algorithm, parts)? };
        let mut sums = Sums::default();
        sums.set(&algorithm, sum);
        if sums.agrees(&if is_full { claimed } else { numbered(claimed, parts.len()) }) {
            Ok(sums)
        } else {
            Err(s3_error!(BadDigest, "the object does not have the checksum that was sent"))
        }
    }

    async fn full(&self, algorithm: &str, parts: &[PartRecord]) -> S3Result<String> {
        let known = parts.iter().map(|part| Some((part.sums.get(algorithm)?.to_owned(), part.segment.size)));
        if let Some(known) = known.collect::<Option<Vec<_>>>() {
            let name = algorithm.to_owned();
            // For ten thousand parts it takes a good part of a second.
            let sum = tokio::task::spawn_blocking(move || joined(&name, &known)).await;
            let sum = sum.map_err(|e| s3_error!(InternalError, "checksums were not put together: {e}"))?;
            if let Some(sum) = sum {
                return Ok(sum);
            }
        }
        self.read_for(algorithm, parts).await
    }

    async fn read_for(&self, algorithm: &str, parts: &[PartRecord]) -> S3Result<String> {
        let segments: Vec<_> = parts.iter().map(|p| p.segment.clone()).collect();
        let hold = self.blobs.hold(&segments, self.blobs.epoch());
        let hold =
            hold.ok_or_else(|| s3_error!(OperationAborted, "the upload changed meanwhile; try again"))?;
        let size = segments.iter().map(|s| s.size).sum();
        let mut bytes = super::output::stream(&self.blobs, &segments, 0..size, hold);
        let mut hasher = hasher(&[algorithm.to_owned()]);
        while let Some(chunk) = bytes.next().await {
            hasher.update(&chunk.map_err(|e| s3_error!(InternalError, "a part cannot be read: {e}"))?);
        }
        only(&Sums::from(hasher.finalize()), algorithm)
    }
}

/// The type of the checksum of an upload that begins, where it is to have one.
pub(super) fn kind_of_upload(input: &dto::CreateMultipartUploadInput) -> S3Result<Option<&'static str>> {
    let asked = input.checksum_type.as_ref().map(ChecksumType::as_str);
    match &input.checksum_algorithm {
        Some(algorithm) => kind_of(&algorithm.as_str().to_ascii_lowercase(), asked).map(Some),
        None if asked.is_some() => {
            Err(s3_error!(InvalidRequest, "x-amz-checksum-type must come with x-amz-checksum-algorithm"))
        }
        None => Ok(None),
    }
}

/// The type that is asked for, where the algorithm has it, or else its first, as S3 has them: a
/// SHA of all bytes does not follow from those of parts, and CRC64NVME has no other.
fn kind_of(algorithm: &str, asked: Option<&str>) -> S3Result<&'static str> {
    let kinds: &[&'static str] = match algorithm {
        "crc64nvme" => &[ChecksumType::FULL_OBJECT],
        "sha1" | "sha256" => &[ChecksumType::COMPOSITE],
        _ => &[ChecksumType::COMPOSITE, ChecksumType::FULL_OBJECT],
    };
    let found = kinds.iter().copied().find(|kind| asked.is_none_or(|asked| asked == *kind));
    found.ok_or_else(|| {
        s3_error!(
            InvalidRequest,
            "the checksum type of {algorithm} must be {}, found {}",
            kinds.join(" or "),
            asked.unwrap_or_default()
        )
    })
}

/// The checksum of the parts' checksums, and their number.
fn composite(algorithm: &str, parts: &[PartRecord]) -> S3Result<String> {
    let mut hasher = hasher(&[algorithm.to_owned()]);
    for part in parts {
        let sum = part.sums.get(algorithm).and_then(|sum| BASE64_STANDARD.decode(sum).ok());
        let sum = sum.ok_or_else(|| s3_error!(InvalidPart, "a part has no checksum of the upload's kind"))?;
        hasher.update(&sum);
    }
    Ok(format!("{}-{}", only(&Sums::from(hasher.finalize()), algorithm)?, parts.len()))
}

fn only(sums: &Sums, algorithm: &str) -> S3Result<String> {
    let sum = sums.get(algorithm).map(str::to_owned);
    sum.ok_or_else(|| s3_error!(InvalidRequest, "this server does not know the checksum {algorithm:?}"))
}

/// Checksums of the whole that come with a completion.
fn claimed(input: &dto::CompleteMultipartUploadInput) -> Sums {
    Sums {
        crc32: input.checksum_crc32.clone(),
        crc32c: input.checksum_crc32c.clone(),
        crc64nvme: input.checksum_crc64nvme.clone(),
        sha1: input.checksum_sha1.clone(),
        sha256: input.checksum_sha256.clone(),
    }
}

/// Composite checksums with the number of parts, with which or without which they come.
fn numbered(mut sums: Sums, parts: usize) -> Sums {
    for name in ALGORITHMS {
        if let Some(sum) = sums.get(name).filter(|sum| !sum.contains('-')) {
            let sum = format!("{sum}-{parts}");
            sums.set(name, sum);
        }
    }
    sums
}

/// Whether a part has the checksums that the client says it has, of those that are known.
pub(super) fn has_sums(part: &PartRecord, listed: &dto::CompletedPart) -> bool {
    let claimed = [
        listed.checksum_crc32.as_deref(),
        listed.checksum_crc32c.as_deref(),
        listed.checksum_crc64nvme.as_deref(),
        listed.checksum_sha1.as_deref(),
        listed.checksum_sha256.as_deref(),
    ];
    ALGORITHMS.iter().zip(claimed).all(|(name, claimed)| {
        let known = part.sums.get(name);
        claimed.is_none_or(|claimed| known.is_none_or(|known| known == claimed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_their_types() {
        let check = |algorithm: &str, asked: Option<&str>, expected: Option<&str>| {
            assert_eq!(kind_of(algorithm, asked).ok(), expected, "{algorithm} {asked:?}");
        };
        let (composite, full) = (Some("COMPOSITE"), Some("FULL_OBJECT"));
        for algorithm in ["crc32", "crc32c"] {
            check(algorithm, None, composite);
            check(algorithm, composite, composite);
            check(algorithm, full, full);
        }
        for algorithm in ["sha1", "sha256"] {
            check(algorithm, None, composite);
            check(algorithm, composite, composite);
            check(algorithm, full, None);
        }
        check("crc64nvme", None, full);
        check("crc64nvme", full, full);
        check("crc64nvme", composite, None);
        check("crc32", Some("OTHER"), None);
    }
}
