// SPDX-License-Identifier: Apache-2.0
//! `GET /v1/jobs/{id}/report`: the result of a job that succeeded, as a page.
//!
//! Of an aggregate its answer with the charts drawn, of others the objects of
//! the manifest. The page may not run anything, wherever it is opened. It is drawn
//! beside the threads that read requests, and nothing of a result is held until it is
//! its turn.

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use fanfold_protocol::{
    Problem,
    commit::Manifest,
    shown::{count, moment, span_ms},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::page::{self, Facts};
use crate::{
    extract::Path,
    jobs::{JobRecord, job_id},
    problem::{Answer, internal},
    state::AppState,
};

/// Pages drawn at once in this process: each takes a multiple of its result in memory. No
/// more of a tenant's wait for that together, so that one who wants many holds up no other.
pub(crate) const PAGES_MAX: usize = 2;
static PAGES: Semaphore = Semaphore::const_new(PAGES_MAX);

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(report))
}

/// The result of a job as a page with its charts drawn, for people.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/report", tag = "jobs", params(("id" = String, Path, description = "The job")),
    responses(
        (status = 200, description = "One page that needs no network", body = String, content_type = "text/html"),
        (status = 404, description = "No such job, or its output was removed"),
        (status = 409, description = "The job has not ended, or not well")
    )
)]
pub(crate) async fn report(State(app): State<AppState>, Path(id): Path<String>) -> Answer<Response> {
    let id = job_id(&id)?;
    let job = app.jobs.get(&id).await?;
    let _own = app.pages.acquire().await.map_err(internal)?;
    let turn = PAGES.acquire().await.map_err(internal)?;
    let folds = job.shape.folds();
    let draw = move |value: &Value| page::html(&facts(&id, &job, value), value);
    let body = if folds {
        let result = app.jobs.result(&id).await?;
        drawn(turn, move || Ok(draw(&serde_json::from_slice(&result)?))).await?
    } else {
        let manifest = app.jobs.manifest(&id).await?;
        drawn(turn, move || Ok(draw(&output(&manifest)))).await?
    };
    let policy = HeaderValue::from_str(&page::policy()).map_err(internal)?;
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, body).into_response())
}

/// What a manifest names.
fn output(manifest: &Manifest) -> Value {
    match manifest.shards.is_empty() {
        true => json!({ "objects": manifest.objects }),
        false => json!({ "shards": manifest.shards }),
    }
}

/// Draws a page on a thread of its own. Its turn lasts until it is drawn, whether or not
/// somebody still waits for it.
async fn drawn(
    turn: SemaphorePermit<'static>,
    draw: impl FnOnce() -> serde_json::Result<String> + Send + 'static,
) -> Result<String, Problem> {
    let drawing = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        draw()
    });
    drawing.await.map_err(internal)?.map_err(internal)
}

fn facts(id: &Uuid, job: &JobRecord, value: &Value) -> Facts {
    let stored = job.result_uri.as_ref().or(job.manifest.as_ref());
    Facts {
        title: value["title"].as_str().map_or_else(|| job.function.to_string(), str::to_owned),
        pairs: [
            ("Function", format!("{} (version {})", job.function, job.version)),
            ("Job", id.to_string()),
            ("Submitted", format!("{} UTC", moment(job.submitted_at))),
            ("Took", span_ms(job.receipt.elapsed_ms)),
            ("Rows read", count(job.receipt.usage.rows_in)),
            ("Tasks", count(job.tasks.total)),
            ("Result", stored.map(ToString::to_string).unwrap_or_default()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    }
}
