// SPDX-License-Identifier: Apache-2.0
//! The path of a synchronous call: admitted, run, recorded, answered.
//!
//! Nothing here is spawned: when the caller goes away, the future is dropped,
//! and with it the place, the sandbox and the wait. The record of the call is
//! written all the same, by a guard.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    function::Version,
    invocation::{self, Invocation, LogLine, Outcome, Progress, Usage},
    names::FunctionRef,
    time::{self, Timestamp},
};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use uuid::Uuid;

use super::{
    headers,
    records::{BODY_BYTES_MAX, KeptBody, Record},
};
use crate::{problem::Refusal, state::App};

const INVOCATION_ID: HeaderName = HeaderName::from_static("x-fanfold-invocation-id");
const VERSION: HeaderName = HeaderName::from_static("x-fanfold-version");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// The sandbox ends at the deadline by itself; this is for when it does not.
const OVERDUE: Duration = Duration::from_secs(5);

/// A call, checked and ready to run.
pub(crate) struct Call {
    pub(crate) version: Arc<Version>,
    pub(crate) timeout: Duration,
    pub(crate) params: String,
    pub(crate) request: invocation::Request,
}

/// Milliseconds of a call, for `Server-Timing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timing {
    queue_us: u64,
    start_us: u64,
    run_us: u64,
}

/// What a call gave, the function's failure included.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) id: Uuid,
    pub(crate) version: u32,
    pub(crate) timing: Timing,
    pub(crate) result: Result<invocation::Response, Problem>,
}

/// Says whether two calls ask for the same: function, request and parameters.
/// Headers, which retries may change, are left out, but for the body's type.
pub(crate) fn fingerprint(reference: &FunctionRef, params: &str, request: &invocation::Request) -> Digest {
    let kind = request.headers.iter().find(|(name, _)| name == "content-type");
    let kind = kind.map_or("", |(_, value)| value.as_str());
    let body = Digest::of(&request.body).to_string();
    let reference = reference.to_string();
    let parts = [reference.as_str(), &request.query, params, kind, &body];
    let mut text = String::new();
    for part in parts {
        text.push_str(&format!("{}:{part}", part.len()));
    }
    Digest::of(text.as_bytes())
}

/// Runs a call. Dropping the future stops it.
///
/// # Errors
/// When it was not run at all: no place, or nobody to run it.
pub(crate) async fn run(app: &App, call: Call) -> Result<Reply, Problem> {
    let arrived = Instant::now();
    let place = app.admission.admit(&call.version.name).await?;
    let queued = arrived.elapsed();
    let id = Uuid::now_v7();
    let mut ending = Ending::new(app, id, Arc::clone(&call.version), queued);
    let Call { version, timeout, params, request } = call;
    let (number, began) = (version.version, Instant::now());
    let tenant = Some(Arc::clone(&app.config.tenant));
    // Nobody knows its id, and could ask how far it is, before it is answered.
    let board = None;
    let invocation =
        Invocation { id, attempt: 1, depth: 0, version, timeout, params, request, tenant, board };
    let ran = execute(app, invocation).await;
    drop(place);
    // Without a receipt, how long it was waited for is all that is known.
    let (start_us, run_us) =
        ran.left.usage.map_or_else(|| (0, micros(began.elapsed())), |usage| (usage.start_us, usage.wall_us));
    let timing = Timing { queue_us: micros(queued), start_us, run_us };
    let result = ending.note(ran);
    Ok(Reply { id, version: number, timing, result })
}

/// Runs an invocation that has its place. Dropping the future stops the sandbox.
pub(crate) async fn execute(app: &App, invocation: Invocation) -> Ran {
    let timeout = invocation.timeout;
    let running = app.dispatch.invoke.clone().oneshot(invocation);
    match tokio::time::timeout(timeout + OVERDUE, running).await {
        Ok(Ok(Outcome { result, logs, progress, usage })) => {
            Ran { result, left: Left { logs, progress, usage: Some(usage) } }
        }
        Ok(Err(problem)) => {
            let usage = (!may_have_run(&problem)).then(Usage::default);
            Ran { result: Err(problem), left: Left { usage, ..Left::default() } }
        }
        Err(_) => {
            let problem = Problem::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "expected an answer within {} s, found none; make the function faster, or raise its timeout",
                    timeout.as_secs()
                ),
            );
            Ran { result: Err(problem), left: Left::default() }
        }
    }
}

/// Whether a call that came to no outcome may have had a sandbox. All else stood in its way before that.
fn may_have_run(problem: &Problem) -> bool {
    matches!(problem.code, ErrorKind::WorkerLost | ErrorKind::Internal)
}

/// How a run ended, as far as it was told.
pub(crate) struct Ran {
    pub(crate) result: Result<invocation::Response, Problem>,
    pub(crate) left: Left,
}

/// What is kept of a run beside its answer.
#[derive(Clone, Default)]
pub(crate) struct Left {
    pub(crate) logs: Vec<LogLine>,
    pub(crate) progress: Option<Progress>,
    /// None of a run that was cut off, whose receipt went with its sandbox.
    pub(crate) usage: Option<Usage>,
}

/// An attempt, as it is counted and kept for whoever asks.
pub(crate) struct Note<'a> {
    pub(crate) id: Uuid,
    /// Of an asynchronous call; 0 for a synchronous one.
    pub(crate) attempt: u32,
    pub(crate) version: &'a Version,
    pub(crate) started_at: Timestamp,
    pub(crate) queued: Duration,
}

impl Note<'_> {
    /// Counts the attempt, and keeps its record.
    pub(crate) fn keep(self, app: &App, result: Result<KeptBody, Problem>, left: Left) {
        let Left { logs, progress, usage } = left;
        let outcome = result.as_ref().err().map_or("ok", |problem| problem.code.code());
        let ended_at = time::now();
        let lasted = ended_at.since(self.started_at);
        app.metrics.invocation(&self.version.name, outcome, self.queued, usage.as_ref().ok_or(lasted));
        app.records.keep(Record {
            id: self.id,
            attempt: self.attempt,
            function: self.version.name.clone(),
            version: self.version.version,
            started_at: self.started_at,
            ended_at,
            queue_us: micros(self.queued),
            result,
            logs,
            progress,
            usage,
        });
    }
}

/// Writes the record when it is dropped: as cancelled, unless it was told more.
struct Ending<'a> {
    app: &'a App,
    id: Uuid,
    version: Arc<Version>,
    queued: Duration,
    started_at: Timestamp,
    result: Option<Result<KeptBody, Problem>>,
    left: Left,
}

impl<'a> Ending<'a> {
    fn new(app: &'a App, id: Uuid, version: Arc<Version>, queued: Duration) -> Self {
        Self { app, id, version, queued, started_at: time::now(), result: None, left: Left::default() }
    }

    fn note(&mut self, ran: Ran) -> Result<invocation::Response, Problem> {
        self.left = ran.left;
        self.result = Some(ran.result.as_ref().map(kept).map_err(Problem::clone));
        ran.result
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let cancelled =
            || Err(Problem::new(ErrorKind::Cancelled, "the caller went away before the function answered"));
        let result = self.result.take().unwrap_or_else(cancelled);
        let note = Note {
            id: self.id,
            attempt: 0,
            version: &self.version,
            started_at: self.started_at,
            queued: self.queued,
        };
        note.keep(self.app, result, std::mem::take(&mut self.left));
    }
}

/// What is kept of an answer.
pub(crate) fn kept(response: &invocation::Response) -> KeptBody {
    let small = response.body.len() <= BODY_BYTES_MAX;
    KeptBody {
        status: response.status,
        content_type: headers::content_type(&response.headers).map(str::to_owned),
        body: small.then(|| owned(&response.body)),
        bytes: response.body.len() as u64,
    }
}

/// A small body may be a slice of something large, which must not be kept with it.
fn owned(body: &Bytes) -> Bytes {
    if body.is_unique() { body.clone() } else { Bytes::copy_from_slice(body) }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let answer = self.result.and_then(headers::from_guest);
        let mut response = answer.unwrap_or_else(|problem| Refusal(problem).into_response());
        let headers = response.headers_mut();
        let mut buffer = Uuid::encode_buffer();
        insert(headers, INVOCATION_ID, self.id.hyphenated().encode_lower(&mut buffer));
        headers.insert(VERSION, HeaderValue::from(self.version));
        let ms = |us: u64| us as f64 / 1_000.0;
        let Timing { queue_us, start_us, run_us } = self.timing;
        let timing = format!(
            "queue;dur={:.3}, start;dur={:.3}, run;dur={:.3}",
            ms(queue_us),
            ms(start_us),
            ms(run_us)
        );
        insert(headers, SERVER_TIMING, &timing);
        response
    }
}

/// The unit of receipts.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}
