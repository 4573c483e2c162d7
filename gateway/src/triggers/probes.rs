// SPDX-License-Identifier: Apache-2.0
//! The addresses that stores send to, asked before anything is sent: MinIO does so by HEAD.
//!
//! Nothing is taken in here; a sender is told what a notification of his would be.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use fanfold_protocol::time;

use super::{
    routes::challenged,
    sender::{self, Shown},
};
use crate::{extract::Path, problem::Refusal, state::AppState};

/// Says that a sender would be heard, to HEAD as well; who would not has been refused before.
#[utoipa::path(
    get, path = "/v1/events/s3", tag = "triggers",
    responses((status = 200, description = "It would"))
)]
pub(crate) async fn probe_any() -> StatusCode {
    StatusCode::OK
}

/// Says whether a sender would be heard, to HEAD as well: MinIO asks before it sends.
#[utoipa::path(
    get, path = "/v1/events/s3/{trigger}", tag = "triggers",
    params(("trigger" = String, Path, description = "The trigger")),
    responses(
        (status = 200, description = "It would"),
        (status = 401, description = "Neither token nor signature"),
        (status = 404, description = "No such trigger")
    )
)]
pub(crate) async fn probe(
    State(app): State<AppState>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let heard = async {
        let known = sender::wanted(&app, &name.parse()?, &headers).await;
        let trigger = known.as_ref().ok().map(|trigger| &**trigger);
        let shown = sender::check(&app.config.tokens, trigger, &headers, time::now())?;
        // A probe has no body, so that a signature is of an empty one.
        if let Shown::Signature(signature) = shown
            && !signature.is_some_and(|signature| signature.fits(b""))
        {
            return Err(sender::unfit());
        }
        known.map(drop)
    };
    challenged(heard.await.map_err(Refusal::from))
}
