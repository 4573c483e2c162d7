// SPDX-License-Identifier: Apache-2.0
//! Records of S3 notifications, as AWS, MinIO and Ceph write them.
//!
//! AWS: «Event message structure» in the user guide of S3, versions 2.0 to 2.6.
//! MinIO and Ceph follow it with differences, each named where it is met. Only
//! `s3.bucket.name` and `s3.object.key` are believed; members that are not
//! known are passed over.

use fanfold_protocol::{
    Problem,
    event::{EventKind, Notice},
    uri::KEY_BYTES_MAX,
};
use serde_json::Value;

use super::{Envelope, refused, required, text};
use crate::form;

/// What Ceph calls it when a rule of the bucket has removed the object that was there. What else it calls
/// `ObjectLifecycle`, such as the removal of an older version, leaves the object as it is.
const CEPH_EXPIRED: &str = "ObjectLifecycle:Expiration:Current";
/// The same in S3's words.
const EXPIRED: &str = "LifecycleExpiration:Delete";

/// Reads one element of `Records`.
pub(super) fn read(envelope: &mut Envelope, record: &Value) -> Result<(), Problem> {
    check_version(record)?;
    // MinIO, and older releases of Ceph, write `s3:` before it.
    let name = required(&record["eventName"], "eventName")?;
    let name = name.strip_prefix("s3:").unwrap_or(&name);
    let name = if name == CEPH_EXPIRED { EXPIRED } else { name }.to_owned();
    let Some(kind) = EventKind::of(&name) else {
        envelope.add(None);
        return Ok(());
    };
    let (bucket, object) = (&record["s3"]["bucket"], &record["s3"]["object"]);
    let written = required(&object["key"], "s3.object.key")?;
    let decoded = form::decode(&written);
    // Ceph does not say whether it encodes keys, and has done both: what is
    // written comes first, unless it is longer than a key may be.
    let source = record["eventSource"].as_str().unwrap_or_default();
    let ceph = source.contains("ceph");
    let etag = text(&object["eTag"]).map(bare);
    // So Ceph tells of an upload in parts that begins: nothing is written yet, and what lies there is older.
    if ceph && etag.is_none() && name == "ObjectCreated:Post" {
        envelope.add(None);
        return Ok(());
    }
    let (key, other_key) = match decoded {
        Some(decoded) if ceph && written.len() <= KEY_BYTES_MAX => {
            let other = Some(decoded).filter(|decoded| *decoded != written);
            (written, other)
        }
        Some(decoded) => (decoded, None),
        // What cannot be decoded was not encoded.
        None => (written, None),
    };
    let time = text(&record["eventTime"]);
    // MinIO and Ceph make it of the clock of whichever node took the request, Ceph with the bytes
    // as they lie in memory: it orders nothing, and the time tells events apart as well.
    let of_a_clock = ceph || source.contains("minio");
    let sequencer = text(&object["sequencer"]).filter(|_| !of_a_clock || time.is_none());
    envelope.add(Some(Notice {
        bucket: required(&bucket["name"], "s3.bucket.name")?,
        key,
        other_key,
        kind,
        name,
        etag,
        version_id: text(&object["versionId"]).filter(|id| id != "null"),
        sequencer,
        time,
    }));
    Ok(())
}

/// Any minor version of major 2. A record without one is taken for that.
fn check_version(record: &Value) -> Result<(), Problem> {
    match record["eventVersion"].as_str() {
        Some(version) if version.split('.').next() != Some("2") => {
            let found: String = version.chars().take(20).collect();
            Err(refused(&format!("expected eventVersion 2.x, found {found:?}")))
        }
        _ => Ok(()),
    }
}

/// The ETag without quotes.
pub(super) fn bare(etag: String) -> String {
    etag.trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_minor_version_of_major_2_is_read() {
        let check = |version: serde_json::Value| check_version(&serde_json::json!({"eventVersion": version}));
        for minor in 0..10 {
            assert_eq!(check(format!("2.{minor}").into()), Ok(()));
        }
        for version in ["1.0", "3.0", "20.1", ""] {
            assert!(check(version.into()).is_err(), "{version}");
        }
        assert_eq!(check_version(&serde_json::json!({})), Ok(()));
    }

    /// A key in another alphabet is three times as long once it is encoded.
    #[test]
    fn what_is_too_long_for_a_key_is_encoded() {
        let check = |written: &str, expected: (&str, Option<&str>)| {
            let mut envelope = Envelope::default();
            let record = serde_json::json!({"eventSource": "ceph:s3", "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "bank"}, "object": {"key": written}}});
            read(&mut envelope, &record).unwrap();
            let notice = &envelope.notices[0];
            assert_eq!((notice.key.as_str(), notice.other_key.as_deref()), expected);
        };
        let (written, meant) = ("%C3%A9".repeat(170), "é".repeat(170));
        check(&written, (written.as_str(), Some(meant.as_str())));
        let (written, meant) = ("%C3%A9".repeat(171), "é".repeat(171));
        check(&written, (meant.as_str(), None));
        // What is no key either way is left to whoever looks for it.
        let plain = "x".repeat(KEY_BYTES_MAX + 1);
        check(&plain, (plain.as_str(), None));
    }
}
