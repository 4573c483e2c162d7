// SPDX-License-Identifier: Apache-2.0
//! The path of every request, from its first layer to its handler.
//!
//! Read [`stack`] from top to bottom: that is the order in which a request goes
//! in; its answer comes out the other way. Only `/healthz`, `/readyz` and the files
//! of the console can be asked without a token; every other path, known or not, answers
//! 401. Addresses of triggers have tokens of their own.

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use fanfold_protocol::{ErrorKind, limits};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    auth, console, context, docs, functions, health, invoke, jobs, metrics, openapi,
    problem::{self, Refusal},
    report,
    state::AppState,
    triggers,
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

/// The routes under their layers.
pub(crate) fn stack(app: AppState) -> Router {
    let (routes, _) = routes().split_for_parts();
    let layers = ServiceBuilder::new()
        // Names the request, and opens its span.
        .layer(middleware::from_fn(context::identify))
        // Writes the body of every problem.
        .layer(middleware::from_fn(problem::render))
        // Counts what is answered.
        .layer(middleware::from_fn_with_state(app.clone(), metrics::measure))
        // Turns a panic into a problem; the connection lives on.
        .layer(CatchPanicLayer::custom(problem::of_panic))
        // Refuses long URLs and many headers.
        .layer(middleware::from_fn(bound_head))
        // Refuses whoever has no token.
        .layer(middleware::from_fn_with_state(app.clone(), auth::require))
        // Refuses at once when too much is in work.
        .layer(middleware::from_fn_with_state(app.clone(), shed));
    routes.fallback(nothing_here).method_not_allowed_fallback(other_method).layer(layers).with_state(app)
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

async fn bound_head(request: Request, next: Next) -> Response {
    let url_bytes = request.uri().path_and_query().map_or(0, |p| p.as_str().len()) as u64;
    if url_bytes > limits::URL_BYTES_MAX {
        return Refusal::new(
            ErrorKind::UriTooLong,
            format!(
                "path and query must be at most {} bytes together, found {url_bytes}; put large values into the body",
                limits::URL_BYTES_MAX
            ),
        )
        .into_response();
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() > limits::HEADERS_MAX || bytes as u64 > limits::HEADER_BYTES_MAX {
        return Refusal::new(
            ErrorKind::HeadersTooLarge,
            format!(
                "headers must be at most {} and {} bytes together, found {} and {bytes}; send fewer or shorter ones",
                limits::HEADERS_MAX,
                limits::HEADER_BYTES_MAX,
                headers.len()
            ),
        )
        .into_response();
    }
    next.run(request).await
}

/// Probes pass even now: an orchestrator must not kill what is merely busy.
async fn shed(State(app): State<AppState>, request: Request, next: Next) -> Response {
    if app.metrics.active() > app.config.requests_max as u64 && !auth::is_open(request.uri().path()) {
        return Refusal::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "at most {} requests are taken at once, found more; try again in a moment",
                app.config.requests_max
            ),
        )
        .into_response();
    }
    next.run(request).await
}
