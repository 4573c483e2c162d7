// SPDX-License-Identifier: Apache-2.0
//! Workers as gateways know them, and what passes between the two.
//!
//! A worker writes a [`Member`] into the backbone and renews it; a gateway reads
//! its address there and sends it calls over HTTP/2. A message is a frame: a
//! head with its length before it, then the body as it is. What many calls have in
//! common, a [`Subject`], is told once and named by its digest after that. Invariant:
//! what cannot be decoded is refused whole, and a refused call never started.

use std::{borrow::Cow, fmt::Display, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, buf::Chain};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    digest::Digest,
    error::{ErrorKind, Problem},
    function::Version,
    invocation::{Invocation, LogLine, Outcome, Progress, Request, Response, Usage},
    names::WorkerName,
    tenant::Tenant,
};

/// The version of what passes between gateways and workers. Whatever changes the bytes of
/// a frame raises it.
pub const WIRE_VERSION: u32 = 2;
/// The oldest version that is still understood; what is older or newer is refused, by both sides.
pub const WIRE_VERSION_MIN: u32 = 2;
/// The header that carries the version that a gateway speaks.
pub const WIRE_HEADER: &str = "fanfold-wire";
/// The header of an answer to a call of which nothing has run.
pub const NOT_STARTED: &str = "fanfold-not-started";
/// What [`NOT_STARTED`] says when the worker does not know the call's [`Subject`]: the same
/// worker takes the call with it.
pub const UNKNOWN_SUBJECT: &str = "unknown-subject";
/// What [`NOT_STARTED`] says when the worker has a slot for the call and no room for its sandbox: it
/// may have room for one that needs less memory.
pub const NO_ROOM: &str = "no-room";
/// Path of a call of a handler.
pub const INVOKE_PATH: &str = "/invoke";
/// Path of a component to be prepared.
pub const PREPARE_PATH: &str = "/prepare";
/// Media type of a frame.
pub const FRAME_TYPE: &str = "application/vnd.fanfold.frame";
/// Largest head of a frame: parameters, headers and log lines, each bounded.
pub const HEAD_BYTES_MAX: usize = 4 << 20;

/// For how long a worker that would have to compile a lease's component leaves the lease to
/// those that would not.
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
    /// [`WIRE_VERSION_MIN`] of its build.
    #[serde(default)]
    pub wire_min: u32,
    /// The build's own version.
    pub version: String,
    /// Names the engine that its compiled components are for.
    pub engine: String,
    /// Calls that it runs at once.
    pub slots: u32,
    /// Memory that its sandboxes may take together, in bytes.
    pub memory_bytes: u64,
    /// Where it stands, for whoever spreads work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// Whether its store answers it; one of an earlier release does not say.
    #[serde(default = "unless_said")]
    pub store_answers: bool,
    /// The components that it has compiled, by [prefix](Digest::prefix), in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cached: Vec<u64>,
}

impl Member {
    /// Whether it has compiled a component.
    pub fn holds(&self, digest: Digest) -> bool {
        self.cached.binary_search(&digest.prefix()).is_ok()
    }

    /// The version that this build speaks with it, if there is one that both know.
    pub fn wire_shared(&self) -> Option<u32> {
        shared(WIRE_VERSION_MIN..=WIRE_VERSION, self.wire_min..=self.wire)
    }
}

fn unless_said() -> bool {
    true
}

/// The highest version that both of two sides know.
fn shared(ours: RangeInclusive<u32>, theirs: RangeInclusive<u32>) -> Option<u32> {
    let version = *ours.end().min(theirs.end());
    (ours.contains(&version) && theirs.contains(&version)).then_some(version)
}

/// What many calls have in common: what they run, and whose they are. A worker keeps it once
/// it was told, so that calls carry its digest alone, which names these very contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What to run.
    pub version: Arc<Version>,
    /// Whose it is; none where the worker's own system bucket is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<Tenant>>,
}

impl Subject {
    /// What a call is about.
    pub fn of(invocation: &Invocation) -> Self {
        Self { version: Arc::clone(&invocation.version), tenant: invocation.tenant.clone() }
    }

    /// Of the text that it is told in.
    ///
    /// # Errors
    /// `internal` when it cannot be written as JSON.
    pub fn digest(&self) -> Result<Digest, Problem> {
        Ok(Digest::of(self.text()?.as_bytes()))
    }

    fn text(&self) -> Result<String, Problem> {
        serde_json::to_string(self).map_err(unwritten)
    }
}

/// A message as it is sent: in two parts, so that no body is copied for it.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// With its length before it.
    head: Bytes,
    body: Bytes,
}

impl Frame {
    /// Its bytes, to be written.
    pub fn into_buf(self) -> Chain<Bytes, Bytes> {
        self.head.chain(self.body)
    }
}

/// Bytes of a head's length.
const LENGTH_BYTES: usize = 4;

/// The head of a call, in postcard.
#[derive(Debug, Serialize, Deserialize)]
struct CallHead<'a> {
    id: Uuid,
    attempt: u32,
    depth: u32,
    timeout_ms: u64,
    params: Cow<'a, str>,
    method: Cow<'a, str>,
    query: Cow<'a, str>,
    headers: Cow<'a, [(String, String)]>,
    /// Of the subject's text.
    digest: [u8; 32],
    /// That text, in JSON, for a worker that does not know it.
    subject: Option<String>,
}

/// The head of an outcome, in postcard; a problem, which is rare and grows, in JSON.
#[derive(Serialize, Deserialize)]
struct OutcomeHead {
    result: Result<ResponseHead, String>,
    logs: Vec<LogLine>,
    /// Done, and of how many.
    progress: Option<(u64, Option<u64>)>,
    usage: Usage,
}

#[derive(Serialize, Deserialize)]
struct ResponseHead {
    status: u16,
    headers: Vec<(String, String)>,
}

/// A component to prepare, in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareHead {
    /// Its digest.
    pub digest: Digest,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<Tenant>>,
}

/// A call as it came to a worker: whole once its subject is known.
#[derive(Debug)]
pub struct Call {
    /// Names its subject.
    pub digest: Digest,
    /// The subject, where it was told with the call, and the bytes of its text.
    pub told: Option<(Subject, usize)>,
    head: CallHead<'static>,
    body: Bytes,
}

impl Call {
    /// The call, which is about this.
    pub fn about(self, subject: Subject) -> Invocation {
        let Subject { version, tenant } = subject;
        let CallHead { id, attempt, depth, timeout_ms, params, method, query, headers, .. } = self.head;
        let request = Request {
            method: method.into_owned(),
            query: query.into_owned(),
            headers: headers.into_owned(),
            body: self.body,
        };
        let (timeout, params) = (Duration::from_millis(timeout_ms), params.into_owned());
        Invocation { id, attempt, depth, version, timeout, params, request, tenant, board: None }
    }
}

/// A call as a frame. `digest` is its subject's, which goes with it when it is to be `told`.
///
/// # Errors
/// `internal` when it cannot be written.
pub fn encode_call(invocation: &Invocation, digest: &Digest, told: bool) -> Result<Frame, Problem> {
    let request = &invocation.request;
    let head = CallHead {
        id: invocation.id,
        attempt: invocation.attempt,
        depth: invocation.depth,
        timeout_ms: crate::time::whole_ms(invocation.timeout),
        params: invocation.params.as_str().into(),
        method: request.method.as_str().into(),
        query: request.query.as_str().into(),
        headers: request.headers.as_slice().into(),
        digest: *digest.as_bytes(),
        subject: told.then(|| Subject::of(invocation).text()).transpose()?,
    };
    pack(&head, request.body.clone())
}

/// A call out of its frame.
///
/// # Errors
/// `invalid-request`.
pub fn decode_call(frame: Bytes) -> Result<Call, Problem> {
    let (head, body): (CallHead<'static>, Bytes) = unpack(frame)?;
    let digest = Digest::from_bytes(head.digest);
    let told = match &head.subject {
        Some(text) if Digest::of(text.as_bytes()) != digest => {
            return Err(refused("a subject of another digest"));
        }
        Some(text) => {
            let subject = serde_json::from_str(text)
                .map_err(|error| refused(format_args!("a subject that is none: {error}")))?;
            Some((subject, text.len()))
        }
        None => None,
    };
    Ok(Call { digest, told, head, body })
}

/// An outcome as a frame.
///
/// # Errors
/// `internal` when it cannot be written.
pub fn encode_outcome(outcome: Outcome) -> Result<Frame, Problem> {
    let Outcome { result, logs, progress, usage } = outcome;
    let progress = progress.map(|Progress { done, total }| (done, total));
    let (result, body) = match result {
        Ok(Response { status, headers, body }) => (Ok(ResponseHead { status, headers }), body),
        Err(problem) => (Err(serde_json::to_string(&problem).map_err(unwritten)?), Bytes::new()),
    };
    pack(&OutcomeHead { result, logs, progress, usage }, body)
}

/// An outcome out of its frame.
///
/// # Errors
/// `invalid-request`.
pub fn decode_outcome(frame: Bytes) -> Result<Outcome, Problem> {
    let (OutcomeHead { result, logs, progress, usage }, body) = unpack(frame)?;
    let result = match result {
        Ok(ResponseHead { status, headers }) => Ok(Response { status, headers, body }),
        Err(text) => Err(serde_json::from_str::<Problem>(&text)
            .map_err(|error| refused(format_args!("a problem that is none: {error}")))?),
    };
    let progress = progress.map(|(done, total)| Progress { done, total });
    Ok(Outcome { result, logs, progress, usage })
}

/// A head in JSON as a frame, for what is asked seldom.
///
/// # Errors
/// `internal` when it cannot be written as JSON.
pub fn encode(head: &impl Serialize) -> Result<Frame, Problem> {
    let mut bytes = vec![0_u8; LENGTH_BYTES];
    serde_json::to_writer(&mut bytes, head).map_err(unwritten)?;
    frame(bytes, Bytes::new())
}

/// A head in JSON out of its frame.
///
/// # Errors
/// `invalid-request`.
pub fn decode<T: DeserializeOwned>(frame: Bytes) -> Result<T, Problem> {
    let (head, _) = split(frame)?;
    serde_json::from_slice(&head).map_err(|error| refused(format_args!("a head that is none: {error}")))
}

fn pack(head: &impl Serialize, body: Bytes) -> Result<Frame, Problem> {
    let bytes = postcard::to_extend(head, vec![0_u8; LENGTH_BYTES]).map_err(unwritten)?;
    frame(bytes, body)
}

/// Writes the length of a head into the room that was left before it.
fn frame(mut head: Vec<u8>, body: Bytes) -> Result<Frame, Problem> {
    let length = u32::try_from(head.len() - LENGTH_BYTES).map_err(unwritten)?;
    head[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(Frame { head: head.into(), body })
}

fn unpack<T: DeserializeOwned>(frame: Bytes) -> Result<(T, Bytes), Problem> {
    let (bytes, body) = split(frame)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((head, [])) => Ok((head, body)),
        Ok((_, rest)) => Err(refused(format_args!("a head with {} bytes after its end", rest.len()))),
        Err(error) => Err(refused(format_args!("a head that is none: {error}"))),
    }
}

/// The head and the body of a frame; neither is copied.
fn split(mut frame: Bytes) -> Result<(Bytes, Bytes), Problem> {
    let Some(length) = frame.first_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_be_bytes(*bytes) as usize)
    else {
        return Err(refused(format_args!("{} bytes", frame.len())));
    };
    if length > HEAD_BYTES_MAX || length > frame.len() - LENGTH_BYTES {
        return Err(refused(format_args!("a head of {length} bytes in a frame of {}", frame.len())));
    }
    let body = frame.split_off(LENGTH_BYTES + length);
    Ok((frame.split_off(LENGTH_BYTES), body))
}

fn unwritten(error: impl Display) -> Problem {
    Problem::new(ErrorKind::Internal, error.to_string())
}

fn refused(found: impl Display) -> Problem {
    Problem::new(
        ErrorKind::InvalidRequest,
        format!(
            "expected a frame of version {WIRE_VERSION}, found {found}; run the same release on both sides"
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        function::{Descriptions, Settings},
        invocation::Level,
        time::Timestamp,
    };

    fn invocation(tenant: Option<&str>, body: &[u8]) -> Invocation {
        let version = Version {
            name: "f".parse().unwrap(),
            version: 3,
            digest: Digest::of(b"component"),
            size_bytes: 9,
            exports: Vec::new(),
            settings: Settings::default(),
            describes: Descriptions::default(),
            created_at: Timestamp(5),
        };
        let tenant = tenant.map(|name| Arc::new(Tenant::alone(name.parse().unwrap(), "bucket")));
        Invocation {
            id: Uuid::from_u128(1),
            attempt: 1,
            depth: 0,
            version: Arc::new(version),
            timeout: Duration::from_secs(30),
            params: "{}".into(),
            request: Request {
                method: "POST".into(),
                query: "a=1".into(),
                headers: vec![("a".into(), "b".into())],
                body: Bytes::copy_from_slice(body),
            },
            tenant,
            board: None,
        }
    }

    fn sent(frame: Frame) -> Bytes {
        let mut buf = frame.into_buf();
        buf.copy_to_bytes(buf.remaining())
    }

    /// What is sent to a worker that knows the subject, and to one that does not.
    fn calls(invocation: &Invocation) -> [Bytes; 2] {
        let digest = Subject::of(invocation).digest().unwrap();
        [false, true].map(|told| sent(encode_call(invocation, &digest, told).unwrap()))
    }

    #[test]
    fn a_subject_is_told_once_and_then_named() {
        let there = invocation(Some("shop"), b"body");
        let [short, whole] = calls(&there).map(|frame| decode_call(frame).unwrap());
        assert!(short.told.is_none());
        let (subject, bytes) = whole.told.clone().unwrap();
        assert_eq!((&subject, short.digest), (&Subject::of(&there), whole.digest));
        assert_eq!(bytes, subject.text().unwrap().len());
        for call in [short, whole] {
            let here = call.about(subject.clone());
            assert_eq!((here.id, here.attempt, here.depth), (there.id, there.attempt, there.depth));
            assert_eq!((here.timeout, &here.params), (there.timeout, &there.params));
            assert_eq!((&here.version, &here.tenant), (&there.version, &there.tenant));
            let (here, there) = (here.request, &there.request);
            assert_eq!(
                (&here.method, &here.query, &here.headers),
                (&there.method, &there.query, &there.headers)
            );
            assert_eq!(here.body, there.body);
        }
        // Another's is another subject, also where all else is the same.
        let other = Subject::of(&invocation(Some("mill"), b"body")).digest().unwrap();
        assert_ne!(other, subject.digest().unwrap());
    }

    #[test]
    fn a_subject_of_another_digest_is_refused() {
        let there = invocation(None, b"");
        let frame = encode_call(&there, &Digest::of(b"another"), true).unwrap();
        let problem = decode_call(sent(frame)).map(drop).unwrap_err();
        assert!(problem.detail.contains("another digest"), "{problem}");
    }

    /// Whoever changes these bytes raises [`WIRE_VERSION`].
    #[test]
    fn frames_of_this_version_are_these_bytes() {
        let there = invocation(None, b"body");
        let (digest, sevens) = (Digest::from_bytes([7; 32]), "07".repeat(32));
        let call = sent(encode_call(&there, &digest, false).unwrap());
        let expected = [
            "00000048",
            // Identifier, attempt, depth, milliseconds.
            "1000000000000000000000000000000001",
            "0100b0ea01",
            // Parameters, method, query, headers.
            "027b7d",
            "04504f5354",
            "03613d31",
            "0101610162",
            // The subject's digest; it is not told.
            &sevens,
            "00",
            "626f6479",
        ];
        assert_eq!(hex::encode(&call), expected.concat());
        let response = Response { status: 201, headers: Vec::new(), body: Bytes::from_static(b"x") };
        let line = LogLine { at: Timestamp(5), level: Level::Warn, message: "m".into() };
        let usage = Usage { wall_us: 7, store_requests: 9, ..Usage::default() };
        let outcome = Outcome { result: Ok(response), logs: vec![line], progress: None, usage };
        // Status and headers, a line, no progress, sixteen numbers from the first to the last, the body.
        let noughts = "00".repeat(14);
        let expected = ["0000001a", "00c90100", "010503016d", "00", "07", &noughts, "09", "78"];
        assert_eq!(hex::encode(sent(encode_outcome(outcome).unwrap())), expected.concat());
        assert_eq!(WIRE_VERSION, 2);
    }

    #[test]
    fn two_sides_speak_the_highest_version_that_both_know() {
        let check = |ours: RangeInclusive<u32>, theirs: RangeInclusive<u32>, expected| {
            assert_eq!(shared(ours.clone(), theirs.clone()), expected, "{ours:?} {theirs:?}");
            assert_eq!(shared(theirs, ours), expected);
        };
        check(2..=2, 2..=2, Some(2));
        check(2..=2, 2..=3, Some(2));
        check(2..=3, 3..=4, Some(3));
        check(2..=3, 1..=1, None);
        check(2..=3, 4..=5, None);
        // What a build of the first version says of itself.
        check(2..=2, 0..=1, None);
    }

    #[test]
    fn what_an_earlier_release_does_not_say_of_a_worker_is_taken_for_well() {
        let mut record = serde_json::json!({
            "name": "w", "instance": Uuid::nil(), "address": "w:1", "wire": 2, "version": "0.1.0", "engine": "e",
            "slots": 1, "memory_bytes": 1,
        });
        let member: Member = serde_json::from_value(record.clone()).unwrap();
        assert!(member.store_answers && !member.draining);
        record["store_answers"] = false.into();
        let silent: Member = serde_json::from_value(record).unwrap();
        assert_eq!(silent, Member { store_answers: false, ..member });
        let again: Member = serde_json::from_slice(&serde_json::to_vec(&silent).unwrap()).unwrap();
        assert_eq!(again, silent);
    }

    #[test]
    fn outcomes_come_back_as_they_were() {
        let response = Response {
            status: 201,
            headers: vec![("content-type".into(), "text/plain".into())],
            body: Bytes::from_static(b"\x00\xffbody"),
        };
        let usage = Usage { wall_us: 7, ..Usage::default() };
        let progress = Some(Progress { done: 3, total: None });
        let there = Outcome { result: Ok(response), logs: Vec::new(), progress, usage };
        let back = decode_outcome(sent(encode_outcome(there.clone()).unwrap())).unwrap();
        let (there, here) = (there.result.unwrap(), back.result.unwrap());
        assert_eq!((there.status, there.headers, there.body), (here.status, here.headers, here.body));
        assert_eq!((back.usage, back.progress), (usage, progress));
        let mut problem = Problem::new(ErrorKind::GuestPanicked, "it panicked");
        problem.guest_retryable = Some(true);
        let failed = Outcome { result: Err(problem.clone()), logs: Vec::new(), progress: None, usage };
        let back = decode_outcome(sent(encode_outcome(failed).unwrap())).unwrap();
        assert_eq!(back.result.unwrap_err(), problem);
    }

    /// As a worker of the next release tells it, which is upgraded before the gateways are.
    #[test]
    fn a_problem_of_a_newer_release_is_no_malformed_outcome() {
        let told = r#"{"code":"quota-spent","detail":"expected room, found none"}"#.to_owned();
        let head =
            OutcomeHead { result: Err(told), logs: Vec::new(), progress: None, usage: Usage::default() };
        let outcome = decode_outcome(sent(pack(&head, Bytes::new()).unwrap())).unwrap();
        let problem = Problem::new(ErrorKind::Internal, "expected room, found none");
        assert_eq!(outcome.result.unwrap_err(), problem);
    }

    #[test]
    fn what_is_to_be_prepared_comes_back() {
        let there = PrepareHead { digest: Digest::of(b"x"), tenant: None };
        let frame = sent(encode(&there).unwrap());
        let here: PrepareHead = decode(frame.clone()).unwrap();
        assert_eq!((here.digest, here.tenant), (there.digest, None));
        for cut in [3, 4, frame.len() - 1] {
            assert!(decode::<PrepareHead>(frame.slice(..cut)).is_err());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_no_frame_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode_call(Bytes::from(bytes.clone())).is_err());
            prop_assert!(decode_outcome(Bytes::from(bytes)).is_err());
        }

        #[test]
        fn bodies_are_carried_as_they_are(body in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            for frame in calls(&invocation(None, &body)) {
                let call = decode_call(frame.clone()).unwrap();
                prop_assert_eq!(&call.body[..], &body[..]);
                for cut in [3, 4, frame.len() - body.len() - 1] {
                    prop_assert!(decode_call(frame.slice(..cut)).is_err());
                }
            }
        }
    }
}
