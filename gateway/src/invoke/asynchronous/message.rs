// SPDX-License-Identifier: Apache-2.0
//! An asynchronous call as a message of the queue: complete in itself.
//!
//! The version is pinned when the call is accepted, so that an alias that moves
//! afterwards does not change work that was promised. A message that cannot be
//! read again is a fault of the platform, never of whoever called: mostly a newer
//! release has queued it.

use std::time::Duration;

use bytes::Bytes;
use fanfold_backbone::queue;
use fanfold_protocol::{
    ErrorKind, Problem, function::Version, invocation::Request, limits, names::FunctionName, size::ByteSize,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{AsyncCall, live::Live};
use crate::{
    invoke::{framed, timeout},
    problem::internal,
};

/// Where an asynchronous invocation came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Origin {
    /// A call over HTTP.
    Call,
    /// An event that a trigger took in.
    Trigger {
        /// The trigger's name.
        name: String,
    },
    /// A dead letter that was tried once more.
    Replay {
        /// The invocation that it was.
        of: Uuid,
    },
}

/// Everything but the body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) id: Uuid,
    pub(super) function: FunctionName,
    pub(super) version: u32,
    pub(super) timeout_ms: u64,
    pub(super) params: String,
    pub(super) method: String,
    pub(super) query: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) accepted_at: Timestamp,
    pub(super) depth: u32,
    pub(super) origin: Origin,
}

/// What a head says in every release.
#[derive(Deserialize)]
struct Accepted {
    accepted_at: Timestamp,
}

/// When a call was accepted, also where nothing else of its message can be read.
pub(super) fn accepted_at(payload: &Bytes) -> Option<Timestamp> {
    framed::decode::<Accepted>(payload).ok().map(|(head, _)| head.accepted_at)
}

/// A message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) body: Bytes,
}

impl Message {
    /// The payload of the queue's message.
    pub(super) fn encode(&self) -> Result<Bytes, Problem> {
        framed::encode(&self.head, &self.body)
    }

    /// Reads a payload.
    pub(super) fn decode(payload: &Bytes) -> serde_json::Result<Self> {
        let (head, body) = framed::decode(payload)?;
        Ok(Self { head, body })
    }

    /// What the guest sees.
    pub(super) fn request(&self) -> Request {
        Request {
            method: self.head.method.clone(),
            query: self.head.query.clone(),
            headers: self.head.headers.clone(),
            body: self.body.clone(),
        }
    }

    /// How long an attempt may take.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.head.timeout_ms)
    }

    /// The record of a call of which the backbone has lost it.
    pub(super) fn live(&self) -> Live {
        let Head { function, version, accepted_at, depth, origin, .. } = self.head.clone();
        Live::new(function, version, accepted_at, depth, origin)
    }
}

/// The payload of a call that is accepted now.
///
/// # Errors
/// `payload-too-large`; `invalid-request` for a timeout that is none.
pub(super) fn payload(id: Uuid, live: &Live, version: &Version, call: &AsyncCall) -> Result<Bytes, Problem> {
    let timeout = timeout(attempt_time(version), call.timeout)?;
    let request = call.request.clone();
    let head = Head {
        id,
        function: live.function.clone(),
        version: live.version,
        timeout_ms: u64::try_from(timeout.as_millis()).map_err(internal)?,
        params: call.params.clone(),
        method: request.method,
        query: request.query,
        headers: request.headers,
        accepted_at: live.accepted_at,
        depth: live.depth,
        origin: live.origin.clone(),
    };
    let payload = Message { head, body: request.body }.encode()?;
    let (found, most) = (payload.len(), queue::PAYLOAD_BYTES_MAX);
    if found <= most {
        return Ok(payload);
    }
    Err(Problem::new(
        ErrorKind::PayloadTooLarge,
        format!(
            "an asynchronous call with its params and headers must be at most {most} bytes, found {found}; put large \
             data into the store and pass its s3:// URI"
        ),
    ))
}

/// What an attempt is given: what the function's author says, or five minutes.
fn attempt_time(version: &Version) -> Duration {
    version.settings.timeout_or(limits::TASK_TIMEOUT_DEFAULT)
}

/// Bodies travel in a message.
///
/// # Errors
/// `payload-too-large`.
pub(super) fn check_size(request: &Request) -> Result<(), Problem> {
    let (found, most) = (request.body.len() as u64, limits::ASYNC_PAYLOAD_BYTES_MAX);
    if found <= most {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::PayloadTooLarge,
        format!(
            "the body of an asynchronous call must be at most {} ({most} bytes), found {found}; put large data into the \
             store and pass its s3:// URI",
            ByteSize(most)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let head = Head {
            id: Uuid::from_u128(7),
            function: "f".parse().unwrap(),
            version: 2,
            timeout_ms: 1_500,
            params: r#"{"a":"\n"}"#.to_owned(),
            method: "POST".to_owned(),
            query: "a=1".to_owned(),
            headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
            accepted_at: Timestamp(9),
            depth: 3,
            origin: Origin::Replay { of: Uuid::from_u128(8) },
        };
        let message = Message { head, body: Bytes::from_static(b"\xff\n{}") };
        let read = Message::decode(&message.encode().unwrap()).unwrap();
        assert_eq!((read.body, read.head.params), (message.body, message.head.params));
        assert_eq!((read.head.id, read.head.origin), (message.head.id, message.head.origin));
        for bad in [&b""[..], b"{}\n", b"\xff", b"null\nx"] {
            let bad = Bytes::from_static(bad);
            assert!(Message::decode(&bad).is_err() && accepted_at(&bad).is_none(), "{bad:?}");
        }
        let newer = Bytes::from_static(b"{\"accepted_at\":9,\"origin\":{\"kind\":\"schedule\"}}\nbody");
        assert_eq!((Message::decode(&newer).is_err(), accepted_at(&newer)), (true, Some(Timestamp(9))));
    }
}
