// SPDX-License-Identifier: Apache-2.0
//! What a trigger hands to a handler: something happened to an object.
//!
//! It owns the author's side of an event: where the object lies, in which state
//! the store said it was, and ways to read it. Invariant: what [`ObjectEvent::bytes`]
//! gives is of the state that the event tells of, or an error.

use serde::{Deserialize, Serialize};

use crate::{Context, Error, FromRequest, Request, Result};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It was written.
    Created,
    /// It was removed.
    Removed,
}

/// The state of an object when its event's turn came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectState {
    /// The entity tag, without quotes.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// In buckets that keep versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

/// An event of a trigger, as an argument of a handler. It needs a grant to read
/// the object.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[fanfold::handler]
/// fn on_object(event: ObjectEvent) -> Result<String> {
///     Ok(format!("{} has {} bytes", event.uri(), event.bytes()?.len()))
/// }
/// # fn main() {}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEvent {
    /// The trigger that matched.
    pub trigger: String,
    /// Names the event: when it is delivered again, it has the same id.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// The bucket.
    pub bucket: String,
    /// The key, as it is.
    pub key: String,
    /// None of an object that was removed.
    #[serde(default)]
    pub object: Option<ObjectState>,
    /// The object's media type.
    #[serde(default)]
    pub content_type: Option<String>,
    /// When the object was written, in milliseconds since 1970-01-01T00:00:00Z.
    pub at: u64,
    /// How many triggers stand before this one in the chain that led here.
    #[serde(default)]
    pub depth: u32,
}

impl ObjectEvent {
    /// `s3://bucket/key`.
    pub fn uri(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }

    /// The object as a table, as it is now, with its format told from name and content.
    ///
    /// # Errors
    ///
    /// Those of the platform: not granted, gone, no table.
    #[cfg(feature = "tables")]
    pub fn open(&self) -> Result<crate::table::TableReader> {
        Context::current().tables().open(&self.uri())
    }

    /// The whole object, in the state that the event tells of.
    ///
    /// # Errors
    ///
    /// `object-changed` when it was written again since, and those of the platform.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let object = Context::current().objects().open(&self.uri())?;
        let (found, expected) = (object.info().etag, self.object.as_ref().map(|state| &state.etag));
        if expected.is_some_and(|etag| *etag != found) {
            return Err(Error::new(
                "object-changed",
                format!("expected {} as the event tells of it, found it written again since", self.uri()),
            ));
        }
        object.read_all()
    }
}

impl FromRequest for ObjectEvent {
    fn from_request(request: &mut Request) -> Result<Self> {
        request.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Env;

    fn event(etag: Option<&str>) -> ObjectEvent {
        ObjectEvent {
            trigger: "t".into(),
            id: "1".into(),
            kind: EventKind::Created,
            bucket: "bank".into(),
            key: "in/a b.txt".into(),
            object: etag.map(|etag| ObjectState { etag: etag.into(), size: 1, version_id: None }),
            content_type: None,
            at: 0,
            depth: 0,
        }
    }

    #[test]
    fn an_event_is_read_as_the_platform_writes_it() {
        let text = r#"{"trigger": "t", "id": "1", "kind": "created", "bucket": "bank", "key": "in/a b.txt",
            "object": {"etag": "e", "size": 1}, "at": 0, "depth": 0, "added-later": 1}"#;
        assert_eq!(ObjectEvent::from_request(&mut Request::new(text)).unwrap(), event(Some("e")));
    }

    #[test]
    fn bytes_are_of_the_state_that_is_told_of() {
        let mut env = Env::new().object("s3://bank/in/a b.txt", "x");
        let etag = env.run(|| Context::current().objects().open("s3://bank/in/a b.txt").unwrap().info().etag);
        assert_eq!(env.run(|| event(Some(&etag)).bytes()).unwrap(), b"x");
        assert_eq!(env.run(|| event(None).bytes()).unwrap(), b"x");
        assert_eq!(env.run(|| event(Some("other")).bytes()).unwrap_err().code(), "object-changed");
    }
}
