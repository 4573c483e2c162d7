// SPDX-License-Identifier: Apache-2.0
//! What the index keeps about buckets, objects, uploads and parts.
//!
//! Records are JSON, so that a later version can add fields. A record names its
//! body; a body is named by one record only, ever; a copy names its source's file anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::blobs::BlobId;

/// An object: everything but its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectRecord {
    /// Without quotes.
    pub(super) etag: String,
    pub(super) size: u64,
    /// Milliseconds since 1970, set when the record is committed.
    #[serde(default)]
    pub(super) modified_ms: u64,
    #[serde(flatten)]
    pub(super) attributes: Attributes,
    #[serde(default, skip_serializing_if = "Sums::is_empty")]
    pub(super) sums: Sums,
    /// The upload that it was put together by, so that a repeated completion is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upload_id: Option<String>,
    /// The files of its bytes in order; none when the bytes are in the index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) segments: Vec<Segment>,
}

/// A file with a stretch of an object's bytes. For an object made of parts, one a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) blob: BlobId,
    pub(super) size: u64,
}

/// What a writer says about its object, given back as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_language: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_disposition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<String>,
    /// As it was written, most often an HTTP date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metadata: BTreeMap<String, String>,
}

/// Checksums that a writer asked for, in base 64, as S3 names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crc32: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crc32c: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) crc64nvme: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sha1: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
}

impl Sums {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An upload in parts that is not completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UploadRecord {
    pub(super) begun_ms: u64,
    #[serde(flatten)]
    pub(super) attributes: Attributes,
    /// The checksum that parts are to carry, as S3 names algorithms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) checksum_algorithm: Option<String>,
    /// `COMPOSITE` or `FULL_OBJECT`, of an upload that has an algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) checksum_type: Option<String>,
}

/// A part of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartRecord {
    pub(super) etag: String,
    #[serde(default)]
    pub(super) modified_ms: u64,
    #[serde(flatten)]
    pub(super) segment: Segment,
    #[serde(default, skip_serializing_if = "Sums::is_empty")]
    pub(super) sums: Sums,
}
