// SPDX-License-Identifier: Apache-2.0
//! Submitting, watching and ending jobs over HTTP.
//!
//! Thin: documents are read, the engine is asked, views are answered.

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response, sse::Event},
};
use fanfold_protocol::{ErrorKind, Problem, job::JobDocument, job::JobState, limits};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    logs,
    tasks::{TaskPage, TaskState},
    view::{ComparisonView, JobList, JobView},
};
use crate::jobs::{index::Filter, record::JobRecord};
use crate::{
    event_streams,
    extract::{self, Path, Query},
    page,
    problem::{Answer, Refusal, excerpt, internal},
    state::AppState,
};

/// Lines of a page, unless asked otherwise.
const PAGE_DEFAULT: usize = 50;
/// Most lines of a page.
const PAGE_MAX: usize = 1_000;

/// The routes of jobs.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(submit, list))
        .routes(routes!(estimate))
        .routes(routes!(show))
        .routes(routes!(result))
        .routes(routes!(manifest))
        .routes(routes!(events))
        .routes(routes!(tasks))
        .routes(routes!(logs::logs))
        .routes(routes!(cancel))
        .routes(routes!(retry))
}

/// How jobs are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    state: Option<String>,
    /// Jobs of this function only.
    function: Option<String>,
    /// `next` of the page before.
    page: Option<String>,
    /// Jobs on a page, at most 1,000; 50 when absent.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
}

/// How tasks are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    /// `failed`, `running`, `waiting` or `done`.
    #[param(value_type = Option<String>)]
    state: Option<TaskState>,
    /// `next` of the page before.
    page: Option<String>,
    /// Tasks on a page, at most 1,000; 50 when absent.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
}

/// How much of a job is run to tell what all of it takes.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EstimateQuery {
    /// Partitions to run, at most 1,000; 8 when absent.
    sample: Option<usize>,
}

/// How a job is run again.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RetryQuery {
    /// Only say what would run.
    #[serde(default)]
    dry_run: bool,
}

/// The same as a document.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryRequest {
    /// Only say what would run.
    dry_run: bool,
}

/// Submits a job. It is accepted once its plan is stored, and then comes to an end whatever is restarted.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key answers the same job for 24 h")),
    request_body(content(
        (Object = "application/json"), (String = "application/toml")
    ), description = "The job document: function, input, output, params and more; unknown keys are refused"),
    responses(
        (status = 202, description = "Accepted; input without content is none, which a warning tells", body = JobView, headers(("Location" = String, description = "The job"))),
        (status = 400, description = "The document is not valid"),
        (status = 404, description = "No such function, bucket or object"),
        (status = 409, description = "The output prefix holds or awaits another job's output, or another job is writing what is to be read"),
        (status = 422, description = "Too many partitions, overlapping prefixes, or the key was used for another request")
    )
)]
pub(crate) async fn submit(State(app): State<AppState>, request: Request) -> Answer<Response> {
    let (document, headers) = read_document(&app, request).await?;
    let key = extract::idempotency_key(&headers)?;
    accepted(app.jobs.submit(document, key).await?)
}

async fn read_document(app: &AppState, request: Request) -> Answer<(JobDocument, HeaderMap)> {
    let (document, headers) =
        extract::document::<JobDocument>(app, request, "a job document", unreadable).await?;
    if document.depth != 0 {
        return Err(Refusal::new(
            ErrorKind::InvalidJob,
            format!("depth is for triggers to set, found {}; leave it out", document.depth),
        ));
    }
    Ok((document, headers))
}

/// Runs a sample of the job's partitions and tells from them what all of them would take.
///
/// What is accepted is a job that leaves no output; once it has succeeded, its `estimate` says time, CPU time, bytes and peak memory, each with a range.
#[utoipa::path(
    post, path = "/v1/jobs/estimate", tag = "jobs",
    params(
        EstimateQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gives the same job for 24 h")
    ),
    request_body(content(
        (Object = "application/json"), (String = "application/toml")
    ), description = "The job document, as for submitting it"),
    responses(
        (status = 202, description = "Accepted; input without content is none, which a warning tells", body = JobView, headers(("Location" = String, description = "The job"))),
        (status = 400, description = "The document or the sample is not valid"),
        (status = 404, description = "No such function, bucket or object"),
        (status = 422, description = "Too many partitions, or the key was used for another request")
    )
)]
pub(crate) async fn estimate(
    State(app): State<AppState>,
    Query(query): Query<EstimateQuery>,
    request: Request,
) -> Answer<Response> {
    let (document, headers) = read_document(&app, request).await?;
    let key = extract::idempotency_key(&headers)?;
    let sample = query.sample.unwrap_or(limits::SAMPLE_PARTITIONS_DEFAULT);
    accepted(app.jobs.estimate(document, sample, key).await?)
}

/// The jobs, newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", params(ListQuery),
    responses(
        (status = 200, description = "Newest first", body = JobList),
        (status = 400, description = "No such state")
    )
)]
pub(crate) async fn list(
    State(app): State<AppState>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<JobList>> {
    let filter = Filter {
        state: query.state.as_deref().map(job_state).transpose()?,
        function: query.function.map(|name| name.parse()).transpose()?,
    };
    let before = page::place(query.page.as_deref())?;
    let limit = page::size(query.limit, PAGE_DEFAULT, PAGE_MAX)?;
    let (records, next) = app.jobs.list(&filter, before, limit).await?;
    let next = next.map(|id| id.to_string());
    Ok(Json(JobList { jobs: records.into_iter().map(JobView::from).collect(), next }))
}

/// A job: state, counts, time left, receipt, result and manifest.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = 404, description = "No such job")
    )
)]
pub(crate) async fn show(State(app): State<AppState>, Path(id): Path<String>) -> Answer<Json<JobView>> {
    Ok(Json(app.jobs.get(&job_id(&id)?).await?.into()))
}

/// The result of an aggregate: JSON as the function made it.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/result", tag = "jobs", params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "The result", body = Object),
        (status = 404, description = "No such job, or a map, which has a manifest instead"),
        (status = 409, description = "The job has not ended, or not well")
    )
)]
pub(crate) async fn result(State(app): State<AppState>, Path(id): Path<String>) -> Answer<Response> {
    let bytes = app.jobs.result(&job_id(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response())
}

/// The manifest of a job: the objects of its output.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/manifest", tag = "jobs", params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "The manifest", body = Object),
        (status = 404, description = "No such job"),
        (status = 409, description = "The job has not ended, or not well")
    )
)]
pub(crate) async fn manifest(State(app): State<AppState>, Path(id): Path<String>) -> Answer<Response> {
    let manifest = app.jobs.manifest_text(&job_id(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], manifest).into_response())
}

/// A job as server-sent events: `state`, `progress` (at most two a second), `task-failed`, and `done` at the end.
///
/// Where more attempts failed at once than are told one by one, `failures-skipped` says how many, and where
/// tasks are listed.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job"),
        ("Last-Event-ID" = Option<String>, Header, description = "Goes on after this event")
    ),
    responses(
        (status = 200, description = "The events; each one's data is JSON, that of `done` the whole job", body = JobView, content_type = "text/event-stream"),
        (status = 204, description = "`Last-Event-ID` is that of `done`: there is nothing more, and an `EventSource` asks no more"),
        (status = 404, description = "No such job"),
        (status = 429, description = "Too many streams are open already")
    )
)]
pub(crate) async fn events(
    State(app): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let place = app.event_streams.open()?;
    let Some(events) = app.jobs.events(&job_id(&id)?, last).await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let events = events.map(|event| Event::default().event(event.name).id(event.id).data(event.data));
    Ok(event_streams::answer(&app, place, events))
}

/// The tasks of a job, failed ones first.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/tasks", tag = "jobs",
    params(("id" = String, Path, description = "The job"), TaskQuery),
    responses(
        (status = 200, description = "Failed first", body = TaskPage),
        (status = 404, description = "No such job")
    )
)]
pub(crate) async fn tasks(
    State(app): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<TaskQuery>,
) -> Answer<Json<TaskPage>> {
    let limit = page::size(query.limit, PAGE_DEFAULT, PAGE_MAX)?;
    Ok(Json(app.jobs.tasks(&job_id(&id)?, query.state, query.page.as_deref(), limit).await?))
}

/// Ends a job: running tasks are stopped, nothing of its output becomes visible.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path, description = "The job")),
    responses(
        (status = 202, description = "It ends, or has ended already", body = JobView),
        (status = 404, description = "No such job"),
        (status = 409, description = "It had ended before")
    )
)]
pub(crate) async fn cancel(State(app): State<AppState>, Path(id): Path<String>) -> Answer<Response> {
    let record = app.jobs.cancel(&job_id(&id)?).await?;
    Ok((StatusCode::ACCEPTED, Json(JobView::from(record))).into_response())
}

/// Runs a job again that has ended, as a new job: only what failed, and what has changed, was added or is gone since.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job"), RetryQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gives the same job for 24 h")
    ),
    request_body(content = RetryRequest, description = "What the query may say as well; no body is needed"),
    responses(
        (status = 200, description = "With `dry_run`: what would run, and why it would be refused now", body = ComparisonView),
        (status = 202, description = "Accepted: the new job", body = JobView, headers(("Location" = String, description = "The new job"))),
        (status = 400, description = "The job is more than tasks are given now"),
        (status = 404, description = "No such job, bucket or object"),
        (status = 409, description = "The job has not ended, or there is nothing to run, or the output prefix is taken"),
        (status = 422, description = "Too many partitions, or the key was used for another request")
    )
)]
pub(crate) async fn retry(
    State(app): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<RetryQuery>,
    headers: HeaderMap,
    extract::JsonOrDefault(request): extract::JsonOrDefault<RetryRequest>,
) -> Answer<Response> {
    let id = job_id(&id)?;
    if query.dry_run || request.dry_run {
        return Ok(Json(ComparisonView::new(&app.jobs.compare(&id).await?)).into_response());
    }
    let key = extract::idempotency_key(&headers)?;
    accepted(app.jobs.retry(&id, key).await?)
}

/// 202 with the way to an accepted job.
fn accepted(record: JobRecord) -> Answer<Response> {
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", record.id)).map_err(internal)?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(JobView::from(record))).into_response())
}

fn unreadable(found: String) -> Problem {
    let found = JobDocument::for_authors(&found);
    Problem::new(
        ErrorKind::InvalidJob,
        format!(
            "expected a job document with function, input and what else it needs, found: {found}; see /v1/openapi.json"
        ),
    )
}

/// Reads the id of a job.
pub(crate) fn job_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| {
        Problem::new(
            ErrorKind::JobNotFound,
            format!("expected the id of a job, a UUID, found {:?}; see `fanfold job ls`", excerpt(text)),
        )
    })
}

fn job_state(word: &str) -> Result<JobState, Problem> {
    JobState::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| {
        let found = excerpt(word);
        Problem::new(
            ErrorKind::InvalidRequest,
            format!("state must be queued, running, succeeded, failed or cancelled, found {found:?}"),
        )
    })
}
