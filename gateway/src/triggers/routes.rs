// SPDX-License-Identifier: Apache-2.0
//! Making, showing and removing triggers, and the addresses that stores send
//! their notifications to.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fanfold_protocol::{
    ErrorKind, Problem, keys,
    names::{FunctionName, FunctionRef, TriggerName},
    tenant::Tenant,
    time::{self, Timestamp},
    trigger::{SnsTopic, TriggerDocument},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    envelope,
    intake::{self, Receipt},
    letters, loops, probes,
    reconcile::{Found, Scope},
    record::{Secret, Trigger, TriggerRecord},
    replay,
    sender::{self, Shown},
    sns,
    views::{TriggerList, TriggerView},
};
use crate::{
    auth::Token,
    extract::{self, Path, Query},
    problem::{Answer, Refusal, internal, of_backbone},
    rfc3339,
    state::{App, AppState},
};

/// Queues whose depth is asked for at once.
const DEPTHS_AT_ONCE: usize = 16;
/// Buckets looked for at once, and for how long in all.
const LOOKS_AT_ONCE: usize = 8;
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// The routes of triggers.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(put, show, remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(replay))
        .routes(routes!(letters::letters, letters::discard))
        .routes(routes!(notify_any, probes::probe_any))
        .routes(routes!(notify, probes::probe))
}

/// How a trigger is made.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutQuery {
    /// Make a new secret for its senders; the old one ends at once.
    #[serde(default)]
    rotate: bool,
}

/// Makes a trigger, or changes it. Its secret is shown when it is made, and never again.
#[utoipa::path(
    put, path = "/v1/triggers/{name}", tag = "triggers",
    params(("name" = String, Path, description = "The trigger"), PutQuery),
    request_body(content(
        (Object = "application/json"), (String = "application/toml")
    ), description = "The trigger document: bucket, filter, function or job and more; unknown keys are refused"),
    responses(
        (status = 200, description = "Changed", body = TriggerView),
        (status = 201, description = "Made", body = TriggerView),
        (status = 400, description = "The document is not valid"),
        (status = 404, description = "No such function"),
        (status = 422, description = "No handler, or it would start itself")
    )
)]
pub(crate) async fn put(
    State(app): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<PutQuery>,
    request: Request,
) -> Answer<Response> {
    let name: TriggerName = name.parse()?;
    let (document, _) =
        extract::document::<TriggerDocument>(&app, request, "a trigger document", unreadable).await?;
    document.check()?;
    check_buckets(&app.config.tenant, &document)?;
    app.config.sources.check(&document)?;
    loops::check(&app.triggers, &app.registry, name.as_str(), &document).await?;
    if app.triggers.get(&name).is_none() {
        app.triggers.check_room(&name)?;
    }
    let (token, id, now) = (Token::generate().map_err(internal)?, Uuid::now_v7(), time::now());
    let trigger = app
        .triggers
        .change(&name, |found| {
            let fresh = TriggerRecord {
                id,
                name: name.clone(),
                document: document.clone(),
                paused: false,
                paused_because: None,
                secret: Secret::of(&token, document.auth),
                created_at: now,
                formerly: Vec::new(),
                removed: false,
            };
            let Some(record) = found.filter(|record| !record.removed) else { return Ok(fresh) };
            let changed = record.with(document.clone())?;
            let keeps = record.secret.is_for(document.auth) && !query.rotate;
            Ok(if keeps { changed } else { TriggerRecord { secret: fresh.secret, ..changed } })
        })
        .await?;
    let is_new = trigger.record.id == id;
    let trigger = if is_new { app.triggers.dated(trigger).await } else { trigger };
    let mut view = view(&app, &trigger).await?;
    warn(&app, std::slice::from_mut(&mut view)).await;
    // Whoever else changed it meanwhile was shown the secret that counts.
    if trigger.record.secret == Secret::of(&token, document.auth) {
        view.secret = Some(token.reveal().to_owned());
    }
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(view)).into_response())
}

/// Refuses a trigger that acts on, or starts a job over, what is not its tenant's.
/// Places that a template leaves open are checked when the job is submitted.
fn check_buckets(tenant: &Tenant, document: &TriggerDocument) -> Result<(), Problem> {
    tenant.check(&document.bucket)?;
    let job = document.job.iter().flat_map(|job| [&job["input"], &job["output"]]);
    let texts = job.flat_map(|place| place.as_str().into_iter().chain(strings(place)));
    for bucket in texts.filter_map(|text| text.split_once("://")?.1.split('/').next()) {
        if !bucket.contains('{') {
            tenant.check(bucket)?;
        }
    }
    Ok(())
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn unreadable(found: String) -> Problem {
    Problem::new(ErrorKind::InvalidTrigger, format!("expected a trigger document, found: {found}"))
}

async fn view(app: &App, trigger: &Trigger) -> Answer<TriggerView> {
    let depth = app.backbone.depth(&keys::event_queue(&trigger.record.id)).await.map_err(of_backbone)?;
    let mut view = TriggerView::new(&trigger.record, depth);
    view.sqs = trigger.record.document.sqs.as_ref().map(|_| app.triggers.polls().view(&trigger.record.id));
    Ok(view)
}

/// Tells of functions that were removed, and of buckets that are not there. They may come later, so that they are no
/// reason to refuse; where the store does not say in time, nothing is known to be wrong.
async fn warn(app: &App, views: &mut [TriggerView]) {
    let bucket = |view: &TriggerView| view.document["bucket"].as_str().unwrap_or_default().to_owned();
    let buckets: BTreeSet<String> = views.iter().map(bucket).collect();
    let looks = stream::iter(buckets).map(|bucket| async move {
        let there = app.store.bucket_exists(&bucket).await;
        matches!(there, Ok(false)).then_some(bucket)
    });
    let looks = looks.buffer_unordered(LOOKS_AT_ONCE).filter_map(std::future::ready);
    let missing =
        tokio::time::timeout(LOOK_PATIENCE, looks.collect::<BTreeSet<_>>()).await.unwrap_or_default();
    for view in views {
        let bucket = bucket(view);
        if missing.contains(&bucket) {
            view.warning = Some(format!(
                "expected a bucket named {bucket}, found none; nothing starts until it is made, as by \
                 `fanfold s3 mb s3://{bucket}`"
            ));
        } else if let Some(name) = removed_function(app, &view.document).await {
            view.warning = Some(format!(
                "expected a function named {name}, found none; events are given up until it is deployed again, as by \
                 `fanfold deploy`"
            ));
        }
    }
}

/// The function that a trigger starts, where there is none of that name.
async fn removed_function(app: &App, document: &Value) -> Option<FunctionName> {
    let function = document["function"].as_str().or_else(|| document["job"]["function"].as_str())?;
    let name = function.parse::<FunctionRef>().ok()?.name;
    let found = app.registry.show(&name).await;
    found.is_err_and(|problem| problem.code == ErrorKind::FunctionNotFound).then_some(name)
}

/// Every trigger, by name.
#[utoipa::path(
    get, path = "/v1/triggers", tag = "triggers",
    responses((status = 200, description = "By name", body = TriggerList))
)]
pub(crate) async fn list(State(app): State<AppState>) -> Answer<Json<TriggerList>> {
    let (app, all) = (&app, app.triggers.list());
    let views = stream::iter(all).map(|trigger| async move { view(app, &trigger).await });
    let mut triggers: Vec<TriggerView> = views.buffered(DEPTHS_AT_ONCE).try_collect().await?;
    warn(app, &mut triggers).await;
    Ok(Json(TriggerList { triggers }))
}

/// One trigger.
#[utoipa::path(
    get, path = "/v1/triggers/{name}", tag = "triggers",
    params(("name" = String, Path, description = "The trigger")),
    responses(
        (status = 200, description = "The trigger", body = TriggerView),
        (status = 404, description = "No such trigger")
    )
)]
pub(crate) async fn show(State(app): State<AppState>, Path(name): Path<String>) -> Answer<Json<TriggerView>> {
    let trigger = app.triggers.show(&name.parse()?).await?;
    let mut view = view(&app, &trigger).await?;
    warn(&app, std::slice::from_mut(&mut view)).await;
    Ok(Json(view))
}

/// Removes a trigger. What it started goes on; events that wait are dropped.
#[utoipa::path(
    delete, path = "/v1/triggers/{name}", tag = "triggers",
    params(("name" = String, Path, description = "The trigger")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such trigger")
    )
)]
pub(crate) async fn remove(State(app): State<AppState>, Path(name): Path<String>) -> Answer<StatusCode> {
    alter(&app, &name, TriggerRecord::remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a trigger's events wait. They are kept as before.
#[utoipa::path(
    post, path = "/v1/triggers/{name}/pause", tag = "triggers",
    params(("name" = String, Path, description = "The trigger")),
    responses(
        (status = 204, description = "Its events wait"),
        (status = 404, description = "No such trigger")
    )
)]
pub(crate) async fn pause(State(app): State<AppState>, Path(name): Path<String>) -> Answer<StatusCode> {
    alter(&app, &name, |record| record.paused = true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Goes on with the events of a paused trigger.
#[utoipa::path(
    post, path = "/v1/triggers/{name}/resume", tag = "triggers",
    params(("name" = String, Path, description = "The trigger")),
    responses(
        (status = 204, description = "Its events are worked on"),
        (status = 404, description = "No such trigger")
    )
)]
pub(crate) async fn resume(State(app): State<AppState>, Path(name): Path<String>) -> Answer<StatusCode> {
    alter(&app, &name, |record| (record.paused, record.paused_because) = (false, None)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is started of a trigger's objects that was not yet, or again.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayRequest {
    /// Only what was given up, whatever objects there are.
    dead_letters: bool,
    /// Only keys that begin like this.
    prefix: String,
    /// Only objects written at this time or later (RFC 3339).
    #[schema(example = "2026-11-22T00:00:00Z")]
    since: Option<String>,
    /// Only objects written before this time (RFC 3339).
    until: Option<String>,
    /// Also what was started before: each object starts anew.
    again: bool,
}

/// Feeds a trigger with the objects that are there and have started nothing yet, with dead letters, or with all again.
///
/// Answered once everything is queued.
#[utoipa::path(
    post, path = "/v1/triggers/{name}/replay", tag = "triggers",
    params(("name" = String, Path, description = "The trigger")),
    request_body(content = ReplayRequest, description = "Which of them; no body stands for all that have started nothing yet"),
    responses(
        (status = 200, description = "Queued", body = Found),
        (status = 400, description = "Dead letters with a prefix or a time, or no time"),
        (status = 404, description = "No such trigger or bucket"),
        (status = 429, description = "Another replay of it still goes on")
    )
)]
pub(crate) async fn replay(
    State(app): State<AppState>,
    Path(name): Path<String>,
    extract::JsonOrDefault(request): extract::JsonOrDefault<ReplayRequest>,
) -> Answer<Json<Found>> {
    let trigger = app.triggers.show(&name.parse()?).await?;
    let scope = Scope {
        since: request.since.as_deref().map(|text| moment("since", text)).transpose()?,
        until: request.until.as_deref().map(|text| moment("until", text)).transpose()?,
        again: request.again.then(Uuid::now_v7),
        given_up: true,
        prefix: request.prefix,
        patient: true,
    };
    if !request.dead_letters {
        return Ok(Json(replay::replay(&app, trigger, scope).await?));
    }
    if !scope.prefix.is_empty() || scope.since.is_some() || scope.until.is_some() || scope.again.is_some() {
        return Err(Refusal::new(
            ErrorKind::InvalidRequest,
            "dead_letters must stand alone, found it with prefix, since, until or again; leave them out",
        ));
    }
    let queued = letters::revive(&app, &trigger).await?;
    Ok(Json(Found { listed: 0, queued }))
}

/// A time with an offset from UTC, or with none, which is UTC.
fn moment(name: &str, text: &str) -> Result<Timestamp, Problem> {
    rfc3339::time(text).ok_or_else(|| {
        Problem::new(
            ErrorKind::InvalidRequest,
            format!(
                "{name} must be a time such as 2026-11-22T00:00:00Z, found {:?}",
                text.chars().take(40).collect::<String>()
            ),
        )
    })
}

async fn alter(app: &App, name: &str, alter: impl Fn(&mut TriggerRecord)) -> Result<(), Problem> {
    let name: TriggerName = name.parse()?;
    let id = app.triggers.show(&name).await?.record.id;
    let altered = app.triggers.change(&name, |found| {
        let mut record =
            found.filter(|record| record.id == id && !record.removed).cloned().ok_or_else(|| {
                Problem::new(
                    ErrorKind::TriggerNotFound,
                    format!("expected a trigger named {name}, found it removed"),
                )
            })?;
        alter(&mut record);
        Ok(record)
    });
    altered.await.map(drop)
}

/// Takes a notification of a store for every trigger that acts on it. Answered with 2xx only after it is kept.
#[utoipa::path(
    post, path = "/v1/events/s3", tag = "triggers",
    request_body(content = Value, content_type = "application/json", description = "A notification of AWS, MinIO, Ceph or SeaweedFS, bare or in SNS, SQS, EventBridge or CloudEvents, or a list of such"),
    responses(
        (status = 200, description = "Kept", body = Receipt),
        (status = 400, description = "No notification"),
        (status = 404, description = "No trigger for this bucket"),
        (status = 413, description = "Larger than 1 MiB"),
        (status = 429, description = "Too much waits already")
    )
)]
pub(crate) async fn notify_any(State(app): State<AppState>, request: Request) -> Answer<Json<Receipt>> {
    let (parts, body) = request.into_parts();
    let taken = async {
        let body = sender::read(&app, &parts.headers, body).await?;
        take_in(&app, &parts.headers, &body.bytes, None).await
    };
    counted(&app, taken.await).map(Json)
}

/// Takes a notification for one trigger, from a sender with that trigger's secret. Answered with 2xx only after it is kept.
#[utoipa::path(
    post, path = "/v1/events/s3/{trigger}", tag = "triggers",
    params(
        ("trigger" = String, Path, description = "The trigger"),
        ("X-Fanfold-Timestamp" = Option<String>, Header, description = "Seconds since 1970, when the sender signs"),
        ("X-Fanfold-Signature" = Option<String>, Header, description = "`sha256=` and the HMAC-SHA256 of time, full stop and body")
    ),
    request_body(content = Value, content_type = "application/json", description = "As for /v1/events/s3"),
    responses(
        (status = 200, description = "Kept", body = Receipt),
        (status = 400, description = "No notification"),
        (status = 401, description = "Neither token nor signature"),
        (status = 404, description = "No such trigger, or another bucket"),
        (status = 413, description = "Larger than 1 MiB"),
        (status = 429, description = "Too much waits already"),
        (status = 503, description = "The backbone or the certificate of SNS is out of reach")
    )
)]
pub(crate) async fn notify(
    State(app): State<AppState>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let taken = async {
        let known = sender::wanted(&app, &name.parse()?, &parts.headers).await;
        let trigger = known.as_ref().ok().map(|trigger| &**trigger);
        let explained = |problem| sns::explained(problem, &parts.headers);
        let shown = sender::check(&app.config.tokens, trigger, &parts.headers, time::now());
        let Shown::Signature(signature) = shown.map_err(explained)? else {
            let trigger = known?;
            let body = sender::read(&app, &parts.headers, body).await?;
            return take_in(&app, &parts.headers, &body.bytes, Some(&trigger)).await;
        };
        // Also where no trigger waits for it, which must not be told apart.
        let body = sender::read_unverified(&app, &parts.headers, body).await?;
        if signature.is_some_and(|signature| signature.fits(body.bytes())) {
            let (trigger, body) = (known?, body.believed());
            return take_in(&app, &parts.headers, &body.bytes, Some(&trigger)).await;
        }
        if !sns::is_signed(&parts.headers) {
            return Err(explained(sender::unfit()));
        }
        let said = sns_sent(&app, sns::topic(trigger, &parts.headers), body.bytes()).await?;
        // What is taken in is held as long as the body that it came in.
        let _held = body.believed();
        intake::take_in(&app.triggers, said.envelope()?, known.as_ref().ok()).await
    };
    challenged(counted(&app, taken.await).map(Json))
}

/// A refused sender is told that a password will do: SNS sends none before.
pub(super) fn challenged<T: IntoResponse>(answer: Answer<T>) -> Response {
    let unauthorized = answer.as_ref().err().is_some_and(|refusal| refusal.0.code == ErrorKind::Unauthorized);
    let mut response = answer.into_response();
    if unauthorized {
        let basic = HeaderValue::from_static("Basic realm=\"fanfold\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
    }
    response
}

/// What the topic says that has sent this. Its subscription is confirmed if it asks for that.
async fn sns_sent(app: &App, topic: Option<&SnsTopic>, body: &[u8]) -> Result<sns::Said, Problem> {
    let reach = app.config.sources.reach();
    let said = app.triggers.sns().check(reach, topic, body, time::now()).await?;
    if let sns::Said::Confirmation(page) = &said {
        sns::confirm(reach, page).await?;
        tracing::info!(topic = topic.map(|topic| topic.topic_arn.as_str()), "the subscription is confirmed");
    }
    Ok(said)
}

async fn take_in(
    app: &App,
    headers: &HeaderMap,
    body: &[u8],
    only: Option<&std::sync::Arc<Trigger>>,
) -> Result<Receipt, Problem> {
    let envelope = envelope::parse(body, headers.contains_key("ce-specversion"))?;
    if let (Some(page), Some(trigger)) =
        (&envelope.subscription, only.filter(|one| one.record.document.sns.is_none()))
    {
        // Fetching what a stranger names would let him choose whom this host talks to.
        tracing::warn!(trigger = %trigger.record.name, page, "SNS asks to confirm a subscription: open this page");
    }
    intake::take_in(&app.triggers, envelope, only).await
}

fn counted(app: &App, taken: Result<Receipt, Problem>) -> Answer<Receipt> {
    taken.map_err(|problem| {
        app.triggers.counters().refused(problem.code);
        Refusal(problem)
    })
}
