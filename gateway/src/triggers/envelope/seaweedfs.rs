// SPDX-License-Identifier: Apache-2.0
//! Webhooks of SeaweedFS, which tell of files, not of objects.
//!
//! `{"key": "/buckets/BUCKET/KEY", "event_type": "create", "message": {…}}`,
//! after `weed/notification/webhook`; releases differ in whether the entry is
//! under `message` or `message_data`. What lies outside of `/buckets/`, and
//! folders, are no objects and are counted as something else. A rename is the
//! end of one object and the beginning of another. Two writes of one file are
//! told apart by its ETag and by when its pieces were written, which both stand
//! in its entry.

use base64::{Engine, engine::general_purpose::STANDARD};
use fanfold_protocol::{
    Problem,
    event::{EventKind, Notice},
};
use serde_json::Value;

use super::{Envelope, records::bare, refused, required, text};

/// Where the filer keeps buckets, unless it is told otherwise.
const BUCKETS: &str = "/buckets/";

/// Whether it has the shape of one.
pub(super) fn is_one(value: &Value) -> bool {
    value["event_type"].is_string() && value["key"].is_string()
}

/// Reads one.
pub(super) fn read(envelope: &mut Envelope, value: &Value) -> Result<(), Problem> {
    let path = required(&value["key"], "key")?;
    let entry = if value["message"].is_object() { &value["message"] } else { &value["message_data"] };
    let folder = ["new_entry", "old_entry"].iter().any(|name| entry[name]["is_directory"] == true);
    let removed = |path: &str| notice(path, EventKind::Removed, "ObjectRemoved:Delete", &entry["old_entry"]);
    let created = |path: &str| notice(path, EventKind::Created, "ObjectCreated:Put", &entry["new_entry"]);
    match value["event_type"].as_str() {
        _ if folder => envelope.add(None),
        Some("create" | "update") => envelope.add(created(&path)),
        Some("delete") => envelope.add(removed(&path)),
        Some("rename") => {
            envelope.add(removed(&path));
            let (parent, name) = (text(&entry["new_parent_path"]), text(&entry["new_entry"]["name"]));
            if let Some((parent, name)) = parent.zip(name) {
                let moved = created(&format!("{}/{name}", parent.trim_end_matches('/')));
                // Its pieces may be older than what it takes the place of.
                envelope.add(moved.map(|notice| Notice { sequencer: None, ..notice }));
            }
        }
        _ => {
            return Err(refused(
                "expected event_type to be create, update, delete or rename, found something else",
            ));
        }
    }
    Ok(())
}

fn notice(path: &str, kind: EventKind, name: &str, entry: &Value) -> Option<Notice> {
    let (bucket, key) = path.strip_prefix(BUCKETS)?.split_once('/')?;
    // Parts of uploads that are going on lie in a folder of the bucket.
    if key.is_empty() || key.starts_with(".uploads/") {
        return None;
    }
    Some(Notice {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        other_key: None,
        kind,
        name: name.to_owned(),
        etag: etag(entry),
        version_id: None,
        sequencer: written_ns(entry).map(|at| format!("{at:016X}")),
        time: None,
    })
}

/// The ETag that S3 would tell, in base 64 among the entry's attributes.
fn etag(entry: &Value) -> Option<String> {
    let encoded = entry["extended"]["Seaweed-X-Amz-ETag"].as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok().map(bare)
}

/// When the latest piece was written, in nanoseconds since 1970.
fn written_ns(entry: &Value) -> Option<u64> {
    let pieces = entry["chunks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let latest = pieces.iter().filter_map(|piece| piece["modified_ts_ns"].as_u64()).max();
    latest.or_else(|| entry["attributes"]["mtime"].as_u64()?.checked_mul(1_000_000_000))
}
