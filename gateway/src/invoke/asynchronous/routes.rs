// SPDX-License-Identifier: Apache-2.0
//! What only asynchronous calls have: an acceptance, a cancellation and dead letters.
//!
//! Thin: requests are read, the handle is asked, views are answered.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fanfold_protocol::{ErrorKind, Fault, Problem, names::FunctionName};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    AsyncCall, Live, Origin,
    dead::{Letter, Letters, Replayed},
};
use crate::{
    extract::{self, Path, Query},
    invoke::{
        REPLAYED, call,
        idempotency::Promise,
        show::{InvocationView, invocation_id, not_found},
    },
    page::{self, LetterQuery},
    problem::{Answer, excerpt, internal},
    state::{App, AppState},
};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Seconds after which asking for the state is worth while.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("1");
/// Lines of a page, unless asked otherwise, and at most.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 100;

/// An asynchronous call that was accepted.
#[derive(Serialize, ToSchema)]
pub struct Accepted {
    /// Names the invocation.
    #[schema(value_type = String)]
    id: Uuid,
    /// `queued`; see the location for what it becomes.
    state: &'static str,
}

/// Accepts a call, under the id that its idempotency key stands for.
pub(crate) async fn respond(app: &App, key: Option<&str>, call: AsyncCall) -> Result<Response, Problem> {
    let (id, replayed) = match key {
        None => (app.invocations.accept(call).await?, false),
        Some(key) => accept_under(app, key, call).await?,
    };
    let location = HeaderValue::from_str(&format!("/v1/invocations/{id}")).map_err(internal)?;
    let body = Json(Accepted { id, state: "queued" });
    let mut response = (StatusCode::ACCEPTED, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::RETRY_AFTER, ASK_AGAIN);
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The invocation that a key stands for, and whether it did before.
async fn accept_under(app: &App, key: &str, mut call: AsyncCall) -> Result<(Uuid, bool), Problem> {
    let fingerprint = call::fingerprint(&call.function, &call.params, &call.request);
    let promise = Promise::under(app, key, fingerprint).await?;
    call.id = Some(promise.id);
    match app.invocations.accept(call).await {
        Ok(id) => Ok((id, promise.is_kept())),
        Err(problem) => {
            // Otherwise another call under the key may have been, or will be, accepted.
            if problem.code.fault() != Fault::Platform && !problem.retryable() {
                promise.withdraw(app).await;
            }
            Err(problem)
        }
    }
}

/// How asynchronous invocations are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LiveQuery {
    /// `queued` or `running`.
    state: Option<String>,
    /// Invocations of this function only.
    function: Option<String>,
    /// `next` of the page before.
    page: Option<String>,
    /// Invocations on a page, at most 100; 50 when absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
}

/// A page of asynchronous invocations.
#[derive(Serialize, ToSchema)]
pub struct LiveList {
    /// In the order of their ids, which for calls is that of their acceptance.
    invocations: Vec<InvocationView>,
    /// For the page after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Asynchronous invocations that wait or run.
#[utoipa::path(
    get, path = "/v1/invocations", tag = "invocations", params(LiveQuery),
    responses(
        (status = 200, description = "Those that have not ended", body = LiveList),
        (status = 400, description = "No such state or page")
    )
)]
pub(crate) async fn list(
    State(app): State<AppState>,
    Query(query): Query<LiveQuery>,
) -> Answer<Json<LiveList>> {
    let state = query.state.as_deref();
    if let Some(found) = state.filter(|state| !["queued", "running"].contains(state)) {
        let found = excerpt(found);
        let detail =
            format!("state must be queued or running, found {found:?}; those that ended are known by id");
        return Err(Problem::new(ErrorKind::InvalidRequest, detail).into());
    }
    let function: Option<FunctionName> = query.function.map(|name| name.parse()).transpose()?;
    let after = page::place(query.page.as_deref())?;
    let fits = |live: &Live| {
        state.is_none_or(|state| live.state() == state)
            && function.as_ref().is_none_or(|name| live.function == *name)
    };
    let limit = page::size(query.limit, PAGE_DEFAULT, PAGE_MAX)?;
    let (found, next) = app.invocations.list(after, limit, fits).await?;
    let invocations = found.iter().map(|(id, live)| InvocationView::of_live(id, live)).collect();
    Ok(Json(LiveList { invocations, next: next.map(|id| id.to_string()) }))
}

/// Ends an asynchronous invocation that waits or runs. A synchronous one ends when its caller closes the connection.
#[utoipa::path(
    delete, path = "/v1/invocations/{id}", tag = "invocations",
    params(("id" = String, Path, description = "From the `Location` of the acceptance")),
    responses(
        (status = 200, description = "It has ended now", body = InvocationView),
        (status = 404, description = "No such invocation"),
        (status = 409, description = "It had ended before")
    )
)]
pub(crate) async fn cancel(
    State(app): State<AppState>,
    Path(id): Path<String>,
) -> Answer<Json<InvocationView>> {
    let id = invocation_id(&id)?;
    if let Some(ended) = app.invocations.cancel(&id).await? {
        return Ok(Json(InvocationView::of_ended(&ended)));
    }
    // Synchronous calls are known by id only when they have ended.
    match app.records.get(&id) {
        Some(record) => Err(super::finished(&id, InvocationView::from(&*record).state).into()),
        None => Err(not_found(&id.to_string()).into()),
    }
}

/// An asynchronous call that was given up.
#[derive(Serialize, ToSchema)]
pub struct LetterView {
    /// The invocation.
    id: String,
    /// The function; absent when the message cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    /// The version that ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// When it was accepted, milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at: Option<u64>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    origin: Option<Origin>,
    /// Why it was given up: a code, the function's own if it gave one, and what was expected and found.
    reason: String,
}

impl From<Letter> for LetterView {
    fn from(Letter { letter, message }: Letter) -> Self {
        let head = message.map(|message| message.head);
        Self {
            id: letter.id,
            function: head.as_ref().map(|head| head.function.to_string()),
            version: head.as_ref().map(|head| head.version),
            accepted_at: head.as_ref().map(|head| head.accepted_at.0),
            origin: head.map(|head| head.origin),
            reason: letter.reason,
        }
    }
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
pub struct LetterList {
    /// Oldest first.
    dead_letters: Vec<LetterView>,
    /// For the page after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Asynchronous calls that were given up, oldest first.
#[utoipa::path(
    get, path = "/v1/invocations/dead-letters", tag = "invocations", params(LetterQuery),
    responses(
        (status = 200, description = "Oldest first", body = LetterList),
        (status = 400, description = "No such page")
    )
)]
pub(crate) async fn letters(
    State(app): State<AppState>,
    Query(query): Query<LetterQuery>,
) -> Answer<Json<LetterList>> {
    let (after, limit) = query.bounds()?;
    let mut letters = app.invocations.dead_letters(after, limit + 1).await?;
    let next = page::cut(&mut letters, limit).map(|last| last.letter.sequence.to_string());
    Ok(Json(LetterList { dead_letters: letters.into_iter().map(LetterView::from).collect(), next }))
}

/// Which dead letters are meant: `ids` or `all`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LetterChoice {
    /// Those of these invocations.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    ids: Option<Vec<Uuid>>,
    /// All there are.
    #[serde(default)]
    all: bool,
}

impl TryFrom<LetterChoice> for Letters {
    type Error = Problem;
    fn try_from(choice: LetterChoice) -> Result<Self, Problem> {
        match (choice.ids, choice.all) {
            (None, true) => Ok(Self::All),
            (Some(ids), false) if !ids.is_empty() => Ok(Self::Of(ids)),
            (Some(_), true) => Err(either("both")),
            _ => Err(either("neither")),
        }
    }
}

fn either(found: &str) -> Problem {
    Problem::new(
        ErrorKind::InvalidRequest,
        format!("expected either ids, a list of invocations, or all = true, found {found}"),
    )
}

/// What was replayed.
#[derive(Serialize, ToSchema)]
pub struct ReplayView {
    /// Each with the invocation that it has become.
    replayed: Vec<Replayed>,
}

/// Accepts dead letters once more, each as a new invocation with attempts counted anew.
#[utoipa::path(
    post, path = "/v1/invocations/dead-letters/replay", tag = "invocations",
    request_body(content = LetterChoice, content_type = "application/json"),
    responses(
        (status = 202, description = "Accepted", body = ReplayView),
        (status = 400, description = "Both ids and all, or neither"),
        (status = 404, description = "No such dead letter"),
        (status = 429, description = "Too many wait already; those before are accepted")
    )
)]
pub(crate) async fn replay(
    State(app): State<AppState>,
    extract::Json(choice): extract::Json<LetterChoice>,
) -> Answer<Response> {
    let replayed = app.invocations.replay(&choice.try_into()?).await?;
    Ok((StatusCode::ACCEPTED, Json(ReplayView { replayed })).into_response())
}

/// Which dead letters are removed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DiscardQuery {
    /// Those of these invocations, joined by commas.
    ids: Option<String>,
    /// All there are.
    #[serde(default)]
    all: bool,
}

/// What was removed.
#[derive(Serialize, ToSchema)]
pub struct DiscardView {
    /// So many dead letters.
    discarded: usize,
}

/// Removes dead letters for good.
#[utoipa::path(
    delete, path = "/v1/invocations/dead-letters", tag = "invocations", params(DiscardQuery),
    responses(
        (status = 200, description = "They are gone", body = DiscardView),
        (status = 400, description = "Both ids and all, or neither"),
        (status = 404, description = "No such dead letter")
    )
)]
pub(crate) async fn discard(
    State(app): State<AppState>,
    Query(query): Query<DiscardQuery>,
) -> Answer<Json<DiscardView>> {
    if query.ids.is_some() && query.all {
        return Err(either("both").into());
    }
    let ids = query.ids.map(|ids| ids.split(',').map(invocation_id).collect::<Result<_, _>>()).transpose()?;
    let choice = LetterChoice { ids, all: query.all };
    Ok(Json(DiscardView { discarded: app.invocations.discard(&choice.try_into()?).await? }))
}
