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
//!
//! A bucket with versions has a folder `KEY.versions` for each key, with a file
//! for each version, and says at the folder which one is the object now: that is
//! changed last, so it is the event, and what happens to the files is none.

use base64::{Engine, engine::general_purpose::STANDARD};
use fanfold_protocol::{
    Problem,
    event::{EventKind, Notice},
};
use serde_json::Value;

use super::{Envelope, records::bare, refused, required, text};

/// Where the filer keeps buckets, unless it is told otherwise.
const BUCKETS: &str = "/buckets/";
/// What the name of a folder of versions ends with.
const VERSIONS: &str = ".versions";

/// Whether it has the shape of one.
pub(super) fn is_one(value: &Value) -> bool {
    value["event_type"].is_string() && value["key"].is_string()
}

/// Reads one.
pub(super) fn read(envelope: &mut Envelope, value: &Value) -> Result<(), Problem> {
    let path = required(&value["key"], "key")?;
    let entry = if value["message"].is_object() { &value["message"] } else { &value["message_data"] };
    let (old, new) = (&entry["old_entry"], &entry["new_entry"]);
    let folder = [old, new].iter().any(|entry| entry["is_directory"] == true);
    let removed = |path: &str| notice(path, EventKind::Removed, "ObjectRemoved:Delete", old);
    let created = |path: &str| notice(path, EventKind::Created, "ObjectCreated:Put", new);
    match value["event_type"].as_str() {
        Some("create" | "update") if folder => envelope.add(latest(&path, old, new)),
        _ if folder => envelope.add(None),
        Some("create" | "update") => envelope.add(created(&path)),
        // The delete marker that takes its place is told at the folder of versions.
        Some("delete") if extended(old, "Version-Id").is_some_and(|id| id == "null") => envelope.add(None),
        Some("delete") => envelope.add(removed(&path)),
        Some("rename") => {
            envelope.add(removed(&path));
            let (parent, name) = (text(&entry["new_parent_path"]), text(&new["name"]));
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
    if key.is_empty() || key.starts_with(".uploads/") || is_version(key, entry) {
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

/// What became of an object that has versions, as its folder of them tells; none where the same
/// version is the object still.
fn latest(path: &str, old: &Value, new: &Value) -> Option<Notice> {
    let path = path.strip_suffix(VERSIONS)?;
    let is = |entry: &Value, name: &str| extended(entry, name).is_some_and(|value| value == "true");
    let is_marker = |entry: &Value| is(entry, "Latest-Version-Is-Delete-Marker");
    let (before, now) = (extended(old, "Latest-Version-Id"), extended(new, "Latest-Version-Id"));
    let (kind, name, entry) = match (&before, &now) {
        (_, Some(_)) if before == now => return None,
        (_, Some(_)) if is_marker(new) => (EventKind::Removed, "ObjectRemoved:DeleteMarkerCreated", new),
        (_, Some(_)) => (EventKind::Created, "ObjectCreated:Put", new),
        // One without a version has taken its place, or it was removed before.
        (Some(_), None) if is(new, "Null-Version-Is-Latest") || is_marker(old) => return None,
        (Some(_), None) => (EventKind::Removed, "ObjectRemoved:Delete", old),
        (None, None) => return None,
    };
    Some(Notice {
        etag: extended(entry, "Latest-Version-ETag").map(bare),
        version_id: now.or(before).filter(|id| id != "null"),
        // It is known to the second, which orders nothing.
        sequencer: None,
        time: extended(entry, "Latest-Version-Mtime"),
        ..notice(path, kind, name, entry)?
    })
}

/// Whether it is the file of a version.
fn is_version(key: &str, entry: &Value) -> bool {
    let file = key.rsplit_once('/').filter(|(folder, _)| folder.ends_with(VERSIONS));
    let id = file.and_then(|(_, name)| name.strip_prefix("v_"));
    id.is_some_and(|id| extended(entry, "Version-Id").is_some_and(|told| told == id))
}

/// The ETag that S3 would tell.
fn etag(entry: &Value) -> Option<String> {
    extended(entry, "ETag").map(bare)
}

/// What S3 keeps under a name of its own among the entry's attributes, in base 64.
fn extended(entry: &Value, name: &str) -> Option<String> {
    let encoded = entry["extended"][format!("Seaweed-X-Amz-{name}")].as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}

/// When the latest piece was written, in nanoseconds since 1970.
fn written_ns(entry: &Value) -> Option<u64> {
    let pieces = entry["chunks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let latest = pieces.iter().filter_map(|piece| piece["modified_ts_ns"].as_u64()).max();
    latest.or_else(|| entry["attributes"]["mtime"].as_u64()?.checked_mul(1_000_000_000))
}
