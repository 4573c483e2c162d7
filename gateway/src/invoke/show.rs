// SPDX-License-Identifier: Apache-2.0
//! What became of invocations, and what functions log.
//!
//! Of synchronous calls from the records that this process keeps; see
//! [`super::records`] for how many and how long. Of asynchronous ones from the
//! backbone and the store; see [`super::asynchronous`].

use std::{collections::HashSet, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response, sse::Event},
};
use fanfold_protocol::{
    ErrorKind, Problem, invocation, invocation::LogLine, names::FunctionName, size::ByteSize,
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    asynchronous::{Origin, Standing},
    call::micros,
    headers,
    records::{BODY_BYTES_MAX, RECORDS_MAX, Record},
};
use crate::{
    event_streams,
    extract::{Path, Query},
    problem::{Answer, ProblemView, Refusal, excerpt},
    state::{App, AppState},
};

/// Lines shown when the caller does not say how many.
const LINES_DEFAULT: usize = 1_000;
/// Lines shown at once: empty ones take a hundred bytes and more each.
const LINES_MAX: usize = 10_000;

/// What became of an invocation.
#[derive(Serialize, ToSchema)]
pub struct InvocationView {
    /// As in `X-Fanfold-Invocation-Id`.
    pub id: String,
    /// The function.
    pub function: String,
    /// The version that ran.
    pub version: u32,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    pub state: &'static str,
    /// Of an asynchronous call: when it was accepted, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<u64>,
    /// Of the last attempt, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// Attempts begun.
    pub attempts: u32,
    /// Of an asynchronous call: where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub origin: Option<Origin>,
    /// Microseconds that it waited for its last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_us: Option<u64>,
    /// How far the last attempt said, the last time, that it was: `done` units, and of
    /// how many if it said so. While it runs it is told where it runs in the process
    /// that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub progress: Option<invocation::Progress>,
    /// The receipt of the last attempt: time, memory, rows and bytes. It is lost with an attempt that was cut off,
    /// as by a caller that went away: of a synchronous call only `wall_us` is told then, of an asynchronous one
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Value>,
    /// What it returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseView>,
    /// Why it returned nothing; of one that waits, why its last attempt did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
    /// Log lines kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_lines: Option<usize>,
}

/// What an invocation returned.
#[derive(Serialize, ToSchema)]
pub struct ResponseView {
    /// Its HTTP status.
    pub status: u16,
    /// The type of its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Bytes of its body.
    pub bytes: u64,
}

impl From<&Record> for InvocationView {
    fn from(record: &Record) -> Self {
        let state = match &record.result {
            Ok(_) => "succeeded",
            Err(problem) if problem.code == ErrorKind::Cancelled => "cancelled",
            Err(_) => "failed",
        };
        Self {
            id: record.id.to_string(),
            function: record.function.to_string(),
            version: record.version,
            state,
            accepted_at: None,
            started_at: Some(record.started_at.0),
            ended_at: Some(record.ended_at.0),
            attempts: 1,
            origin: None,
            queue_us: Some(record.queue_us),
            progress: record.progress,
            usage: match &record.usage {
                Some(usage) => serde_json::to_value(usage).ok(),
                None => Some(json!({ "wall_us": micros(record.ended_at.since(record.started_at)) })),
            },
            response: record.result.as_ref().ok().map(|kept| ResponseView {
                status: kept.status,
                content_type: kept.content_type.clone(),
                bytes: kept.bytes,
            }),
            problem: record.result.as_ref().err().map(ProblemView::from),
            log_lines: Some(record.logs.len()),
        }
    }
}

/// A line that a function logged.
#[derive(Clone, Serialize, ToSchema)]
pub struct LineView {
    /// The invocation that logged it.
    pub invocation: String,
    /// The version that ran.
    pub version: u32,
    /// Milliseconds since 1970.
    pub at: u64,
    /// The same in RFC 3339.
    pub time: String,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    #[schema(value_type = String)]
    pub level: invocation::Level,
    /// One line, control characters escaped.
    pub message: String,
}

/// Log lines, oldest first.
#[derive(Serialize, ToSchema)]
pub struct LogView {
    /// Oldest first.
    pub lines: Vec<LineView>,
}

fn lines(id: &Uuid, version: u32, logs: &[LogLine]) -> Vec<LineView> {
    let view = |line: &LogLine| LineView {
        invocation: id.to_string(),
        version,
        at: line.at.0,
        time: line.at.to_string(),
        level: line.level,
        message: line.message.clone(),
    };
    logs.iter().map(view).collect()
}

fn record_lines(record: &Record) -> Vec<LineView> {
    lines(&record.id, record.version, &record.logs)
}

/// The record of a synchronous call. Those of asynchronous ones tell of
/// attempts; how they ended is known to [`asynchronous`](super::asynchronous).
fn synchronous(app: &App, id: &Uuid) -> Option<Arc<Record>> {
    app.records.get(id).filter(|record| record.attempt == 0)
}

/// The id of an invocation in a path.
pub(crate) fn invocation_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| not_found(text))
}

pub(crate) fn not_found(id: &str) -> Problem {
    let shown = excerpt(id);
    Problem::new(
        ErrorKind::InvocationNotFound,
        format!(
            "expected an asynchronous invocation of the last 7 days or one of the last {RECORDS_MAX} synchronous ones of \
             this process, found {shown:?}; take the id from the answer to the call, and ask the gateway that answered"
        ),
    )
}

/// Where an asynchronous invocation stands, or what became of a synchronous one not long ago.
#[utoipa::path(
    get, path = "/v1/invocations/{id}", tag = "invocations",
    params(("id" = String, Path, description = "From `X-Fanfold-Invocation-Id`")),
    responses(
        (status = 200, description = "State and receipt", body = InvocationView),
        (status = 404, description = "No such invocation")
    )
)]
pub(crate) async fn show(
    State(app): State<AppState>,
    Path(id): Path<String>,
) -> Answer<Json<InvocationView>> {
    let id = invocation_id(&id)?;
    if let Some(record) = synchronous(&app, &id) {
        return Ok(Json(InvocationView::from(&*record)));
    }
    // Before the rest: what tells of its progress is shown to run.
    let progress = app.invocations.progress(&id);
    match app.invocations.standing(&id).await? {
        Some(Standing::Live(live)) => {
            Ok(Json(InvocationView { progress, ..InvocationView::of_live(&id, &live) }))
        }
        Some(Standing::Ended(ended)) => Ok(Json(InvocationView::of_ended(&ended))),
        None => Err(not_found(&id.to_string()).into()),
    }
}

/// What an invocation returned: its status and body, or the problem that it ended with.
#[utoipa::path(
    get, path = "/v1/invocations/{id}/result", tag = "invocations",
    params(("id" = String, Path, description = "From `X-Fanfold-Invocation-Id`")),
    responses(
        (status = 200, description = "The body, under the status and type of the function's own answer", body = Vec<u8>, content_type = "*/*"),
        (status = 404, description = "No such invocation"),
        (status = 409, description = "It has not ended"),
        (status = 500, description = "The function failed, or its answer was too large to be kept")
    )
)]
pub(crate) async fn result(State(app): State<AppState>, Path(id): Path<String>) -> Answer<Response> {
    let id = invocation_id(&id)?;
    let Some(record) = synchronous(&app, &id) else {
        let response = app.invocations.response(&id).await?.ok_or_else(|| not_found(&id.to_string()))?;
        return Ok(headers::from_guest(response)?.into_response());
    };
    let kept = record.result.as_ref().map_err(|problem| Refusal(problem.clone()))?;
    let Some(body) = kept.body.clone() else {
        return Err(Refusal(Problem::new(
            ErrorKind::ResponseTooLarge,
            format!(
                "expected an answer of at most {} to be kept of a synchronous call, found one of {} bytes, which its \
                 caller was given; call asynchronously, or write large results to an object",
                ByteSize(BODY_BYTES_MAX as u64),
                kept.bytes
            ),
        )));
    };
    let kind = kept.content_type.iter().map(|kind| ("content-type".to_owned(), kind.clone())).collect();
    let response = invocation::Response { status: kept.status, headers: kind, body };
    Ok(headers::from_guest(response)?.into_response())
}

/// What an invocation logged.
#[utoipa::path(
    get, path = "/v1/invocations/{id}/logs", tag = "invocations",
    params(("id" = String, Path, description = "From `X-Fanfold-Invocation-Id`")),
    responses(
        (status = 200, description = "Oldest first", body = LogView),
        (status = 404, description = "No such invocation"),
        (status = 409, description = "It has not ended: its lines are there from then on, whole")
    )
)]
pub(crate) async fn logs(State(app): State<AppState>, Path(id): Path<String>) -> Answer<Json<LogView>> {
    let id = invocation_id(&id)?;
    if let Some(record) = synchronous(&app, &id) {
        return Ok(Json(LogView { lines: record_lines(&record) }));
    }
    match app.invocations.standing(&id).await? {
        Some(Standing::Live(live)) => Err(live.not_finished(&id).into()),
        Some(Standing::Ended(ended)) => Ok(Json(LogView { lines: lines(&id, ended.version, &ended.logs) })),
        None => Err(not_found(&id.to_string()).into()),
    }
}

/// How a function's log is read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Goes on with new lines as server-sent events named `log`; one named `invocations-skipped` says of how
    /// many invocations, of any function, the lines came faster than they were read.
    #[serde(default)]
    follow: bool,
    /// Lines of the past, the newest ones, at most 10,000; 1,000 when absent.
    #[param(maximum = 10_000)]
    limit: Option<usize>,
}

/// What a function logged in its last invocations, and with `follow` what it logs from now on.
#[utoipa::path(
    get, path = "/v1/functions/{name}/logs", tag = "functions",
    params(("name" = String, Path, description = "The function"), LogQuery),
    responses(
        (status = 200, description = "Oldest first; with `follow` a stream of events, each a line", content(
            (LogView = "application/json"), (LineView = "text/event-stream")
        )),
        (status = 400, description = "More lines than are shown at once"),
        (status = 404, description = "No such function"),
        (status = 429, description = "Too many streams are open already")
    )
)]
pub(crate) async fn function_logs(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<LogQuery>,
) -> Answer<Response> {
    let name: FunctionName = name.parse()?;
    app.registry.show(&name).await?;
    let limit = query.limit.unwrap_or(LINES_DEFAULT);
    if limit > LINES_MAX {
        return Err(Refusal::new(
            ErrorKind::InvalidRequest,
            format!(
                "limit must be at most {LINES_MAX} lines, found {limit}; /v1/invocations/ID/logs has all lines of one \
                 invocation"
            ),
        ));
    }
    let place = query.follow.then(|| app.event_streams.open()).transpose()?;
    // Listen first, then look back: nothing falls between.
    let news = place.map(|place| (place, app.records.follow()));
    let past = app.records.of_function(&name);
    let newest = past.iter().rev().flat_map(|record| record_lines(record).into_iter().rev());
    let mut kept: Vec<LineView> = newest.take(limit).collect();
    kept.reverse();
    let Some((place, news)) = news else { return Ok(Json(LogView { lines: kept }).into_response()) };
    let seen: HashSet<_> = past.iter().map(|record| (record.id, record.attempt)).collect();
    let news = BroadcastStream::new(news).filter_map(move |record| {
        let fresh =
            |record: &Arc<Record>| record.function == name && !seen.contains(&(record.id, record.attempt));
        std::future::ready(match record {
            Ok(record) => fresh(&record).then(|| record_lines(&record).into_iter().map(event).collect()),
            Err(BroadcastStreamRecvError::Lagged(count)) => Some(vec![skipped(count)]),
        })
    });
    let events = stream::iter(kept).map(event).chain(news.flat_map(stream::iter));
    Ok(event_streams::answer(&app, place, events))
}

fn event(line: LineView) -> Event {
    Event::default().event("log").json_data(line).unwrap_or_default()
}

fn skipped(invocations: u64) -> Event {
    let told = json!({ "skipped": invocations });
    Event::default().event("invocations-skipped").json_data(told).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::response::Sse;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_gap_in_a_log_is_an_event_of_its_own() {
        let events = stream::iter([Ok::<_, Infallible>(skipped(7))]);
        let body = Sse::new(events).into_response().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "event: invocations-skipped\ndata: {\"skipped\":7}\n\n");
    }
}
