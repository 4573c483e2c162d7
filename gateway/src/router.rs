// SPDX-License-Identifier: Apache-2.0
//! The path of every request to its handler.
//!
//! Read [`guard`] from top to bottom: a request is named, counted, and passed or
//! refused; its answer is counted, written out and named. Only `/healthz`, `/readyz`, the files
//! of the console and the pages about errors can be asked without a token; every other path,
//! known or not, answers 401. Addresses of triggers have tokens of their own.

use std::panic::AssertUnwindSafe;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{Method, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use fanfold_protocol::{ErrorKind, limits};
use futures::FutureExt as _;
use tracing::Instrument as _;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    auth, console, context, docs, functions, health, invoke, jobs, openapi, pieces,
    problem::{self, Answer, Refusal},
    report,
    state::AppState,
    triggers::{self, sender},
};

/// Every route, with its description.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    openapi::empty()
        .merge(health::routes())
        .merge(openapi::routes())
        .merge(docs::routes())
        .merge(console::routes())
        .merge(functions::routes())
        .merge(invoke::routes())
        .merge(jobs::routes())
        .merge(report::routes())
        .merge(triggers::routes())
}

/// The routes, with [`guard`] before each.
pub(crate) fn stack(app: AppState) -> Router {
    let (routes, _) = routes().split_for_parts();
    let guard = middleware::from_fn_with_state(app.clone(), guard);
    routes.fallback(nothing_here).method_not_allowed_fallback(other_method).layer(guard).with_state(app)
}

/// What stands before every route. One layer rather than one for each step: for every
/// request a layer copies all those within it.
async fn guard(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let (id, span) = context::identify(&mut request);
    let answer = async {
        let counted = app.metrics.begin(&request);
        // The connection outlives a handler that panics.
        let passed = AssertUnwindSafe(pass(&app, request, next)).catch_unwind().await;
        let response = passed.unwrap_or_else(problem::of_panic);
        counted.end(&response);
        problem::render(response, &id)
    };
    let mut response = answer.instrument(span).await;
    context::name(&mut response, &id);
    response
}

/// Refuses what is out of bounds, who has no token, and at once when too much is in work, or when too
/// much has been answered that nobody takes.
async fn pass(app: &AppState, request: Request, next: Next) -> Response {
    let is_public = auth::is_public(request.uri().path());
    let allowed = bound_head(&request)
        .and_then(|()| framed(&request))
        .and_then(|()| auth::require(app, &request))
        .and_then(|()| shed(app, &request))
        .and_then(|()| known_query(&request))
        .and_then(|()| unconditional(&request));
    match allowed {
        Ok(()) if is_public => next.run(request).await,
        Ok(()) => pieces::hold(&app.answers, next.run(request).await),
        Err(refusal) => refusal.into_response(),
    }
}

/// The answer at paths that are not there.
async fn nothing_here(request: Request) -> Refusal {
    let path: String = request.uri().path().chars().take(200).collect();
    Refusal::new(ErrorKind::RouteNotFound, format!("expected a path of /v1/openapi.json, found {path:?}"))
}

/// The answer to methods that a path does not take; the framework adds `Allow`.
async fn other_method(request: Request) -> Refusal {
    let method: String = request.method().as_str().chars().take(20).collect();
    Refusal::new(
        ErrorKind::MethodNotAllowed,
        format!("expected one of the methods in the header Allow, found {method}; see /v1/openapi.json"),
    )
}

/// Refuses a head that is out of bounds.
pub(crate) fn bound_head(request: &Request) -> Answer<()> {
    let url_bytes = request.uri().path_and_query().map_or(0, |p| p.as_str().len()) as u64;
    if url_bytes > limits::URL_BYTES_MAX {
        return Err(Refusal::new(
            ErrorKind::UriTooLong,
            format!(
                "path and query must be at most {} bytes together, found {url_bytes}; put large values into the body",
                limits::URL_BYTES_MAX
            ),
        ));
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() > limits::HEADERS_MAX || bytes as u64 > limits::HEADER_BYTES_MAX {
        return Err(Refusal::new(
            ErrorKind::HeadersTooLarge,
            format!(
                "headers must be at most {} and {} bytes together, found {} and {bytes}; send fewer or shorter ones",
                limits::HEADERS_MAX,
                limits::HEADER_BYTES_MAX,
                headers.len()
            ),
        ));
    }
    Ok(())
}

/// Refuses a head that a proxy before this may read otherwise than is read here: one of HTTP/1.1 with
/// no host, several, or what is none (RFC 9112, 3.2), and a body in codings that nobody undoes (6.1).
fn framed(request: &Request) -> Answer<()> {
    let (headers, version) = (request.headers(), request.version());
    let hosts = headers.get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && version == Version::HTTP_11 {
        return Err(Refusal::new(
            ErrorKind::InvalidRequest,
            format!(
                "expected the header Host once, found it {hosts} times; send the name of this server in it"
            ),
        ));
    }
    if let Some(host) = headers.get(header::HOST).filter(|host| !is_host(host.as_bytes())) {
        return Err(Refusal::new(
            ErrorKind::InvalidRequest,
            format!(
                "expected the name of this server in the header Host, with a port if need be, found {host:?}; \
                 leave everything else out"
            ),
        ));
    }
    for (at, value) in headers.get_all(header::TRANSFER_ENCODING).iter().enumerate() {
        // Chunked twice is a coding beside it as well (RFC 9112, 6.1).
        if at > 0 || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::new(
                ErrorKind::NotSupported,
                format!(
                    "expected no Transfer-Encoding but chunked, and once, found {value:?}; send the body as it is"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether a text has only what may stand in a host and its port (RFC 3986, 3.2.2), that of IPv6 with a zone
/// among them. Who has none to name sends none (RFC 9110, 7.2).
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(byte))
}

/// Refuses a query where none is read, in place of overlooking it. Stores send their notifications to
/// whatever address they were given.
fn known_query(request: &Request) -> Answer<()> {
    let query = request.uri().query().unwrap_or_default();
    let Some(route) = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) else {
        return Ok(());
    };
    let is_refused = || openapi::reads_no_query(request.method(), route);
    // Who shows the description may ask for it past a cache.
    let is_free = !route.starts_with("/v1/") || route == "/v1/openapi.json" || sender::is_address(route);
    if query.is_empty() || is_free || !is_refused() {
        return Ok(());
    }
    let found = problem::excerpt(query);
    Err(Refusal::new(
        ErrorKind::InvalidRequest,
        format!("expected no query here, found {found:?}; leave it out, or see /v1/openapi.json"),
    ))
}

/// Refuses a change under a condition, in place of making it whatever there is: nothing here has the
/// entity tag that could be compared. What a call's condition is of, its function knows.
fn unconditional(request: &Request) -> Answer<()> {
    let conditions = [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE];
    let found = conditions.iter().find(|name| request.headers().contains_key(*name));
    match found.filter(|_| matches!(*request.method(), Method::PUT | Method::DELETE)) {
        None => Ok(()),
        Some(name) => Err(Refusal::new(
            ErrorKind::InvalidRequest,
            format!(
                "expected no {name} with {}, found one; leave it out, as changes are made here under no condition",
                request.method()
            ),
        )),
    }
}

/// Probes pass even now: an orchestrator must not kill what is merely busy.
fn shed(app: &AppState, request: &Request) -> Answer<()> {
    if app.metrics.active() > app.config.requests_max as u64 && !auth::is_open(request.uri().path()) {
        return Err(Refusal::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "at most {} requests are taken at once, found more; try again in a moment",
                app.config.requests_max
            ),
        ));
    }
    Ok(())
}
