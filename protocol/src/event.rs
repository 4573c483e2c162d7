// SPDX-License-Identifier: Apache-2.0
//! What happened to an object: one shape for the notifications of all stores.
//!
//! Pure vocabulary; reading what stores send is the gateway's business. An
//! event is a hint that something may have happened: what the object is, only
//! the store can say, so nothing here is relied on beyond finding the object
//! and telling copies of a notification apart.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{digest::Digest, names::TriggerName, time::Timestamp, uri::Pin};

/// What most names of events begin with that say that an object is there.
pub const CREATED: &str = "ObjectCreated:";
/// The same for objects that are gone.
pub const REMOVED: &str = "ObjectRemoved:";
/// The same for objects that a rule of the bucket has removed, which S3 tells under a name of its own.
pub const EXPIRED: &str = "LifecycleExpiration:";
/// What MinIO tells among [`CREATED`] and what leaves an object as it is: tags, retention, legal hold.
const BESIDE: [&str; 4] = ["PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold"];

/// The part of an event that triggers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// An object was written.
    Created,
    /// An object was removed, or hidden by a delete marker.
    Removed,
}

impl EventKind {
    /// The kind of an event by its name in S3's words, with `s3:` before it or
    /// without. None for events that change no object.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.strip_prefix("s3:").unwrap_or(name);
        if let Some(way) = name.strip_prefix(CREATED) {
            (!BESIDE.contains(&way)).then_some(Self::Created)
        } else if name.starts_with(REMOVED) || name.starts_with(EXPIRED) {
            Some(Self::Removed)
        } else {
            None
        }
    }
}

/// An event as it came in, whatever sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The bucket.
    pub bucket: String,
    /// The key, byte for byte.
    pub key: String,
    /// What the key may be as well, where a sender does not say whether it
    /// encodes keys: looked for when there is nothing at `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_key: Option<String>,
    /// What happened.
    pub kind: EventKind,
    /// The same in S3's words, such as `ObjectCreated:Put`.
    pub name: String,
    /// Without quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// In buckets that keep versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Orders the events of one key, where the store gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequencer: Option<String>,
    /// When it happened, as the sender wrote it; of a listing, when the object was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

impl Notice {
    /// Names the event: the same for every copy of the notification, another one
    /// for every other event. Without a sequencer it is the time that tells events of
    /// one state apart.
    pub fn identity(&self) -> Digest {
        let state = self.version_id.as_deref().or(self.etag.as_deref()).unwrap_or_default();
        let sequencer = self.sequencer.as_deref().unwrap_or_default();
        let kind = match self.kind {
            EventKind::Created => "created",
            EventKind::Removed => "removed",
        };
        let mut parts = vec![self.bucket.as_str(), self.key.as_str(), state, sequencer, kind];
        parts.extend(self.time.as_deref().filter(|_| self.sequencer.is_none()));
        digest_of(&parts)
    }
}

/// Names the state of an object, as a HEAD and a listing tell it alike: so an
/// event and the reconciler that lists the same object mean the same. What stands
/// before a store and packs answers makes the ETag of a HEAD weak, not those within
/// a listing, so both are one. Of two writes of the same bytes within one second
/// only one is seen.
pub fn state_identity(bucket: &str, key: &str, pin: &Pin, last_modified: Timestamp) -> Digest {
    let second = (last_modified.0 / 1_000).to_string();
    let etag = pin.etag.strip_prefix("W/").map_or(pin.etag.as_str(), |weak| weak.trim_matches('"'));
    digest_of(&[bucket, key, etag, &second])
}

/// The id of what a trigger starts for an event: always the same one, so that
/// starting it again finds it. RFC 9562, version 8, over SHA-256.
pub fn derived_id(trigger: &Uuid, identity: &Digest) -> Uuid {
    let digest = digest_of(&[&trigger.to_string(), &identity.to_hex()]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The digest of some texts, each with its length before it: `ab`, `c` and `a`,
/// `bc` are not the same.
fn digest_of(parts: &[&str]) -> Digest {
    let mut text = String::new();
    for part in parts {
        text.push_str(&part.len().to_string());
        text.push(':');
        text.push_str(part);
    }
    Digest::of(text.as_bytes())
}

/// The order of two sequencers of one key: the shorter is filled with `0` on
/// the right, then they are compared as text, as S3's documentation has it.
pub fn compare_sequencers(a: &str, b: &str) -> Ordering {
    let length = a.len().max(b.len());
    let filled = |text: &str| {
        let zeros = std::iter::repeat_n(b'0', length - text.len());
        text.bytes().map(|b| b.to_ascii_uppercase()).chain(zeros).collect::<Vec<_>>()
    };
    filled(a).cmp(&filled(b))
}

/// What a handler is given: an event of which the store has said what the
/// object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEvent {
    /// The trigger that matched.
    pub trigger: TriggerName,
    /// Names the event: a repeated delivery has the same id.
    pub id: Uuid,
    /// What happened.
    pub kind: EventKind,
    /// The bucket.
    pub bucket: String,
    /// The key, byte for byte.
    pub key: String,
    /// Bytes, ETag and version as a HEAD told them; none of an object that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Pin>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// When the object was written; of one that was removed, when that was noticed.
    pub at: Timestamp,
    /// How many triggers stand before this one in the chain that led here.
    pub depth: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notice() -> Notice {
        Notice {
            bucket: "bank".into(),
            key: "in/a.csv".into(),
            other_key: None,
            kind: EventKind::Created,
            name: "ObjectCreated:Put".into(),
            etag: Some("e".into()),
            version_id: None,
            sequencer: Some("0055AED6DCD90281E5".into()),
            time: None,
        }
    }

    #[test]
    fn copies_have_one_identity_and_other_events_another() {
        let first = notice();
        let copy = Notice { time: Some("later".into()), name: "ObjectCreated:Post".into(), ..notice() };
        assert_eq!(first.identity(), copy.identity());
        let others = [
            Notice { key: "in/b.csv".into(), ..notice() },
            Notice { bucket: "ban".into(), key: "kin/a.csv".into(), ..notice() },
            Notice { etag: Some("f".into()), ..notice() },
            Notice { version_id: Some("1".into()), ..notice() },
            Notice { sequencer: None, ..notice() },
            Notice { kind: EventKind::Removed, ..notice() },
        ];
        for other in others {
            assert_ne!(first.identity(), other.identity(), "{other:?}");
        }
    }

    #[test]
    fn without_a_sequencer_the_time_tells_events_apart() {
        let at = |time: &str| Notice { sequencer: None, time: Some(time.into()), ..notice() };
        let first = at("2026-11-22T11:54:56Z");
        let copy = Notice { name: "ObjectCreated:Post".into(), ..at("2026-11-22T11:54:56Z") };
        assert_eq!(first.identity(), copy.identity());
        assert_ne!(first.identity(), at("2026-11-22T11:54:57Z").identity());
        let untimed = Notice { sequencer: None, ..notice() };
        assert_ne!(first.identity(), untimed.identity());
    }

    /// What is named in queues and outcomes of an earlier release has that name still.
    #[test]
    fn with_a_sequencer_or_without_a_time_the_name_is_as_it_was() {
        let named = |sequencer: &str| digest_of(&["bank", "in/a.csv", "e", sequencer, "created"]);
        let timed = Notice { time: Some("2026-11-22T11:54:56Z".into()), ..notice() };
        assert_eq!(timed.identity(), named("0055AED6DCD90281E5"));
        assert_eq!(Notice { sequencer: None, ..notice() }.identity(), named(""));
    }

    #[test]
    fn a_state_is_told_to_the_second() {
        let pin = |etag: &str| Pin { etag: etag.into(), size: 1, version_id: None };
        let state = |etag: &str, ms| state_identity("bank", "k", &pin(etag), Timestamp(ms));
        assert_eq!(state("e", 5_000), state("e", 5_999));
        assert_ne!(state("e", 5_000), state("e", 6_000));
        assert_ne!(state("e", 5_000), state("f", 5_000));
        let versioned = Pin { version_id: Some("1".into()), ..pin("e") };
        assert_eq!(state("e", 5_000), state_identity("bank", "k", &versioned, Timestamp(5_000)));
        // Weak or not.
        assert_eq!(state("e", 5_000), state("W/\"e\"", 5_000));
    }

    #[test]
    fn derived_ids_are_of_version_8() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let identity = notice().identity();
        assert_eq!(derived_id(&a, &identity), derived_id(&a, &identity));
        assert_ne!(derived_id(&a, &identity), derived_id(&b, &identity));
        assert_eq!(derived_id(&a, &identity).get_version_num(), 8);
    }

    #[test]
    fn kinds_are_told_by_names() {
        let check = |name: &str, expected| assert_eq!(EventKind::of(name), expected, "{name}");
        check("ObjectCreated:Put", Some(EventKind::Created));
        check("s3:ObjectCreated:CompleteMultipartUpload", Some(EventKind::Created));
        check("s3:ObjectRemoved:DeleteMarkerCreated", Some(EventKind::Removed));
        check("LifecycleExpiration:Delete", Some(EventKind::Removed));
        check("ObjectRestore:Completed", None);
        check("s3:ObjectCreated:PutTagging", None);
        check("ObjectCreated:PutLegalHold", None);
        check("ObjectCreated", None);
    }

    #[test]
    fn sequencers_are_filled_on_the_right() {
        let check = |a: &str, b: &str, expected| assert_eq!(compare_sequencers(a, b), expected, "{a} {b}");
        check("0055AED6DCD90281E5", "0055AED6DCD90281E6", Ordering::Less);
        check("0055", "005500", Ordering::Equal);
        check("0056", "005500", Ordering::Greater);
        check("00ab", "00AB", Ordering::Equal);
        check("", "1", Ordering::Less);
    }

    proptest! {
        #[test]
        fn sequencers_are_totally_ordered(a in "[0-9A-F]{0,20}", b in "[0-9A-F]{0,20}", c in "[0-9A-F]{0,20}") {
            prop_assert_eq!(compare_sequencers(&a, &b), compare_sequencers(&b, &a).reverse());
            if compare_sequencers(&a, &b).is_le() && compare_sequencers(&b, &c).is_le() {
                prop_assert!(compare_sequencers(&a, &c).is_le());
            }
        }
    }
}
