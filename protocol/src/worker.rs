// SPDX-License-Identifier: Apache-2.0
//! Workers as gateways know them, and what passes between the two.
//!
//! A worker writes a [`Member`] into the backbone and renews it; a gateway reads
//! its address there and sends it calls over HTTP/2. A message is a frame: a
//! head in JSON with its length before it, then the body as it is. Invariant:
//! what cannot be decoded is refused whole, and a refused call never started.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    digest::Digest,
    error::{ErrorKind, Problem},
    function::Version,
    invocation::{Invocation, LogLine, Outcome, Request, Response, Usage},
    names::WorkerName,
    tenant::Tenant,
};

/// The version of what passes between gateways and workers. One that is not
/// known is refused, by both.
pub const WIRE_VERSION: u32 = 1;
/// The header that carries it.
pub const WIRE_HEADER: &str = "fanfold-wire";
/// The header of an answer to a call of which nothing has run.
pub const NOT_STARTED: &str = "fanfold-not-started";
/// Path of a call of a handler.
pub const INVOKE_PATH: &str = "/invoke";
/// Path of a component to be prepared.
pub const PREPARE_PATH: &str = "/prepare";
/// Media type of a frame.
pub const FRAME_TYPE: &str = "application/vnd.fanfold.frame";
/// Largest head of a frame: parameters, headers and log lines, each bounded.
pub const HEAD_BYTES_MAX: usize = 4 << 20;

/// For how much longer a call may take on a worker that holds its component, for
/// that worker to be preferred; and for how long a worker that does not leaves
/// leases to those that do.
pub const PREFERENCE: Duration = Duration::from_millis(50);
/// Components that a worker says it holds, at most.
pub const CACHED_MAX: usize = 128;

/// How long a worker is a member without renewing it.
pub const MEMBER_LEASE: Duration = Duration::from_secs(3);
/// Between two renewals.
pub const MEMBER_RENEWAL: Duration = Duration::from_secs(1);

/// A worker, as it says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, which no other has at the same time.
    pub name: WorkerName,
    /// Names this start of it.
    pub instance: Uuid,
    /// `host:port` where it takes calls; its certificate names the host.
    pub address: String,
    /// [`WIRE_VERSION`] of its build.
    pub wire: u32,
    /// The build's own version.
    pub version: String,
    /// Names the engine that its compiled components are for.
    pub engine: String,
    /// Calls that it runs at once.
    pub slots: u32,
    /// Memory that it may use, in bytes.
    pub memory_bytes: u64,
    /// Where it stands, for whoever spreads work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// The components that it has compiled, by [prefix](Digest::prefix), in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cached: Vec<u64>,
}

impl Member {
    /// Whether it has compiled a component.
    pub fn holds(&self, digest: Digest) -> bool {
        self.cached.binary_search(&digest.prefix()).is_ok()
    }
}

/// The head of a call.
#[derive(Serialize, Deserialize)]
struct CallHead {
    id: Uuid,
    attempt: u32,
    depth: u32,
    version: Arc<Version>,
    timeout_ms: u64,
    params: String,
    method: String,
    query: String,
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Arc<Tenant>>,
}

/// The head of an outcome.
#[derive(Serialize, Deserialize)]
struct OutcomeHead {
    result: Result<ResponseHead, Problem>,
    logs: Vec<LogLine>,
    usage: Usage,
}

#[derive(Serialize, Deserialize)]
struct ResponseHead {
    status: u16,
    headers: Vec<(String, String)>,
}

/// A component to prepare.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareHead {
    /// Its digest.
    pub digest: Digest,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<Tenant>>,
}

/// A call as a frame.
///
/// # Errors
/// `internal` when it cannot be written as JSON.
pub fn encode_call(invocation: &Invocation) -> Result<Bytes, Problem> {
    let head = CallHead {
        id: invocation.id,
        attempt: invocation.attempt,
        depth: invocation.depth,
        version: Arc::clone(&invocation.version),
        timeout_ms: u64::try_from(invocation.timeout.as_millis()).unwrap_or(u64::MAX),
        params: invocation.params.clone(),
        method: invocation.request.method.clone(),
        query: invocation.request.query.clone(),
        headers: invocation.request.headers.clone(),
        tenant: invocation.tenant.clone(),
    };
    encode(&head, &invocation.request.body)
}

/// A call out of its frame.
///
/// # Errors
/// `invalid-request`.
pub fn decode_call(frame: Bytes) -> Result<Invocation, Problem> {
    let (head, body): (CallHead, Bytes) = decode(frame)?;
    let CallHead { id, attempt, depth, version, timeout_ms, params, method, query, headers, tenant } = head;
    let request = Request { method, query, headers, body };
    let timeout = Duration::from_millis(timeout_ms);
    Ok(Invocation { id, attempt, depth, version, timeout, params, request, tenant })
}

/// An outcome as a frame.
///
/// # Errors
/// `internal` when it cannot be written as JSON.
pub fn encode_outcome(outcome: Outcome) -> Result<Bytes, Problem> {
    let Outcome { result, logs, usage } = outcome;
    let (result, body) = match result {
        Ok(Response { status, headers, body }) => (Ok(ResponseHead { status, headers }), body),
        Err(problem) => (Err(problem), Bytes::new()),
    };
    encode(&OutcomeHead { result, logs, usage }, &body)
}

/// An outcome out of its frame.
///
/// # Errors
/// `invalid-request`.
pub fn decode_outcome(frame: Bytes) -> Result<Outcome, Problem> {
    let (OutcomeHead { result, logs, usage }, body) = decode(frame)?;
    let result = result.map(|ResponseHead { status, headers }| Response { status, headers, body });
    Ok(Outcome { result, logs, usage })
}

/// A head and a body as a frame.
///
/// # Errors
/// `internal` when the head cannot be written as JSON.
pub fn encode(head: &impl Serialize, body: &[u8]) -> Result<Bytes, Problem> {
    let unwritten = |detail: String| Problem::new(ErrorKind::Internal, detail);
    let head = serde_json::to_vec(head).map_err(|error| unwritten(error.to_string()))?;
    let length = u32::try_from(head.len()).map_err(|error| unwritten(error.to_string()))?;
    let mut frame = BytesMut::with_capacity(4 + head.len() + body.len());
    frame.put_u32(length);
    frame.put_slice(&head);
    frame.put_slice(body);
    Ok(frame.freeze())
}

/// A head and a body out of a frame; the body is not copied.
///
/// # Errors
/// `invalid-request`.
pub fn decode<T: DeserializeOwned>(mut frame: Bytes) -> Result<(T, Bytes), Problem> {
    let refused = |found: String| {
        Problem::new(
            ErrorKind::InvalidRequest,
            format!(
                "expected a frame of version {WIRE_VERSION}, found {found}; run the same release on both sides"
            ),
        )
    };
    let Some(length) = frame.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize) else {
        return Err(refused(format!("{} bytes", frame.len())));
    };
    if length > HEAD_BYTES_MAX || length > frame.len() - 4 {
        return Err(refused(format!("a head of {length} bytes in a frame of {}", frame.len())));
    }
    let body = frame.split_off(4 + length);
    let head = serde_json::from_slice(&frame[4..])
        .map_err(|error| refused(format!("a head that is none: {error}")))?;
    Ok((head, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn outcomes_come_back_as_they_were() {
        let response = Response {
            status: 201,
            headers: vec![("content-type".into(), "text/plain".into())],
            body: Bytes::from_static(b"\x00\xffbody"),
        };
        let usage = Usage { wall_us: 7, ..Usage::default() };
        let there = Outcome { result: Ok(response), logs: Vec::new(), usage };
        let back = decode_outcome(encode_outcome(there.clone()).unwrap()).unwrap();
        let (there, here) = (there.result.unwrap(), back.result.unwrap());
        assert_eq!((there.status, there.headers, there.body), (here.status, here.headers, here.body));
        assert_eq!(back.usage, usage);
        let problem = Problem::new(ErrorKind::GuestPanicked, "it panicked");
        let failed = Outcome { result: Err(problem.clone()), logs: Vec::new(), usage };
        let back = decode_outcome(encode_outcome(failed).unwrap()).unwrap();
        assert_eq!(back.result.unwrap_err(), problem);
    }

    proptest! {
        #[test]
        fn whatever_is_no_frame_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode_call(Bytes::from(bytes.clone())).is_err());
            prop_assert!(decode_outcome(Bytes::from(bytes)).is_err());
        }

        #[test]
        fn bodies_are_carried_as_they_are(body in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let head = PrepareHead { digest: Digest::of(b"x"), tenant: None };
            let frame = encode(&head, &body).unwrap();
            let (back, found): (PrepareHead, Bytes) = decode(frame.clone()).unwrap();
            prop_assert_eq!((back.digest, &found[..]), (head.digest, &body[..]));
            for cut in [3, 4, frame.len() - body.len() - 1] {
                prop_assert!(decode::<PrepareHead>(frame.slice(..cut)).is_err());
            }
        }
    }
}
