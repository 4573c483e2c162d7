// SPDX-License-Identifier: Apache-2.0
//! How an entry of the key-value half lies in its stream: value, time to live, or the mark of a removal.
//!
//! One message for each key, since the stream keeps one for each subject; the revision is the stream's sequence.
//! A removal is a message as well, so that watchers hear of it, and is swept once everybody had the time to.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Message;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use bytes::Bytes;
use fanfold_protocol::time::whole_ms;
use uuid::Uuid;

use super::fault::unavailable;
use crate::error::Result;

const TTL_MS: &str = "Fanfold-TTL-Ms";
const REMOVED: &str = "Fanfold-Removed";
const WRITE: &str = "Fanfold-Write";

/// What the stream last said about a key.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) revision: u64,
    /// `None` where the key was removed.
    pub(super) value: Option<Bytes>,
    pub(super) ttl: Option<Duration>,
    /// How long it had lain there at least, by the servers' clock, when the state was asked for that it came with;
    /// nothing where it was asked for alone.
    pub(super) age: Duration,
    /// Which write stored it; of no use to anyone but who made it.
    pub(super) write: Option<Uuid>,
}

impl Record {
    pub(super) fn of_stored(message: StreamMessage) -> Self {
        Self::read(message.sequence, Some(&message.headers), message.payload)
    }

    /// A message that a consumer delivered.
    pub(super) fn of_delivered(message: &Message) -> Result<Self> {
        let revision = message.info().map_err(unavailable)?.stream_sequence;
        Ok(Self::read(revision, message.headers.as_ref(), message.payload.clone()))
    }

    fn read(revision: u64, headers: Option<&HeaderMap>, payload: Bytes) -> Self {
        let header = |name| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
        let ttl = header(TTL_MS).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let write = header(WRITE).and_then(|write| write.parse().ok());
        let value = header(REMOVED).is_none().then_some(payload);
        Record { revision, value, ttl, age: Duration::ZERO, write }
    }
}

/// The message that stores a value, or a removal where there is none.
pub(super) fn message(value: Option<Bytes>, ttl: Option<Duration>, write: Uuid) -> PublishMessage {
    let mut message = PublishMessage::build().header(WRITE, write.to_string());
    if value.is_none() {
        message = message.header(REMOVED, "1");
    }
    if let Some(ttl) = ttl {
        message = message.header(TTL_MS, whole_ms(ttl).to_string());
    }
    message.payload(value.unwrap_or_default())
}
