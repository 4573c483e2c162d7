// SPDX-License-Identifier: Apache-2.0
//! What handlers take from a request, with refusals of the platform's own kind.
//!
//! Bodies are bounded before they are buffered: a declared length over the
//! bound is refused unread, an undeclared one as soon as it passes the bound;
//! pieces must come in time, the whole at a least rate, and all bodies held at
//! once fit a budget.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
};
use bytes::{Bytes, BytesMut};
use fanfold_protocol::{ErrorKind, Problem, limits, size::ByteSize};
use http::{HeaderMap, header, request::Parts};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::{
    config::{BODY_BYTES_PER_SECOND_MIN, GatewayConfig},
    problem::Refusal,
    state::AppState,
};

/// The named parts of the path.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Refusal> {
        match axum::extract::Path::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Refusal::new(
                ErrorKind::InvalidRequest,
                format!("the path cannot be read: {}", lower(&rejection.body_text())),
            )),
        }
    }
}

/// The query string; unknown names are errors where `T` says so.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Refusal> {
        match axum::extract::Query::from_request_parts(parts, app).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let query = parts.uri.query().unwrap_or_default();
                Err(Refusal::new(ErrorKind::InvalidRequest, query_refusal(query, &rejection.body_text())))
            }
        }
    }
}

/// A small JSON document as the body.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, app: &AppState) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        require_media_type(
            &parts.headers,
            |kind| kind == "application/json" || kind.ends_with("+json"),
            "application/json",
        )?;
        let held = read(app, &parts.headers, body, limits::DOCUMENT_BYTES_MAX, "a JSON document").await?;
        Ok(Self(from_json(&held.bytes, "the body")?))
    }
}

/// Reads an object of JSON; the refusal says where it went wrong.
pub fn from_json<T: DeserializeOwned>(text: &[u8], place: &str) -> Result<T, Problem> {
    json_object(text).map_err(|error| {
        Problem::new(
            ErrorKind::InvalidRequest,
            format!("{place} must be the JSON document of this route, found: {error}"),
        )
    })
}

/// Reads a document that is an object of JSON. A list would be taken for one
/// otherwise, its items for the members in the order of their declaration.
pub fn json_object<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, &"an object"));
    }
    serde_json::from_slice(text)
}

/// Refuses a body of another type. No type at all is taken for the right one.
pub fn require_media_type(
    headers: &HeaderMap,
    fits: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if fits(&essence) {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::UnsupportedMediaType,
        format!("expected a body of type {expected}, found {text:?}; set Content-Type"),
    ))
}

/// The memory that bodies may take, all requests together.
#[derive(Clone)]
pub struct BodyBudget {
    held: Arc<AtomicU64>,
    bytes_max: u64,
}

impl BodyBudget {
    /// A budget of this many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self { held: Arc::default(), bytes_max }
    }

    fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// What one body takes of the budget, given back when it is dropped.
pub struct Share {
    budget: BodyBudget,
    bytes: u64,
}

impl Share {
    fn take(&mut self, bytes: u64) -> Result<(), Problem> {
        self.bytes += bytes;
        let before = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.budget.bytes_max {
            return Ok(());
        }
        Err(Problem::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "bodies in work must be at most {} together, found more; try again in a moment, or pass large data \
                 as an s3:// URI",
                ByteSize(self.budget.bytes_max)
            ),
        ))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A whole body, and the share of the budget that it takes while it is held.
pub struct HeldBody {
    /// The body.
    pub bytes: Bytes,
    _share: Share,
}

/// Reads a body within its bounds.
///
/// # Errors
/// `payload-too-large`, `request-timeout`, `invalid-request` when it breaks
/// off, `concurrency-limit` when the budget is used up.
pub async fn read(
    app: &AppState,
    headers: &HeaderMap,
    body: Body,
    bytes_max: u64,
    what: &str,
) -> Result<HeldBody, Problem> {
    let declared = declared_length(headers)?;
    if declared.is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_large(what, bytes_max, &format!("{}", declared.unwrap_or_default())));
    }
    let mut share = app.bodies.share();
    share.take(declared.unwrap_or(0))?;
    let deadline = whole_timeout(&app.config, declared.unwrap_or(bytes_max));
    match tokio::time::timeout(deadline, collect(&app.config, body, bytes_max, what, &mut share)).await {
        Ok(bytes) => Ok(HeldBody { bytes: bytes?, _share: share }),
        Err(_) => Err(too_slow(&format!("the body whole within {} s", deadline.as_secs()))),
    }
}

async fn collect(
    config: &GatewayConfig,
    mut body: Body,
    bytes_max: u64,
    what: &str,
    share: &mut Share,
) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(config.body_timeout, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(Problem::new(
                    ErrorKind::InvalidRequest,
                    format!("expected the body that the headers announce, it broke off: {error}"),
                ));
            }
            Err(_) => {
                let seconds = config.body_timeout.as_secs_f32();
                return Err(too_slow(&format!("the next piece of the body within {seconds} s")));
            }
        };
        let Ok(piece) = frame.into_data() else { continue };
        let length = (first.len() + rest.len() + piece.len()) as u64;
        if length > bytes_max {
            return Err(too_large(what, bytes_max, "more"));
        }
        if length > share.bytes {
            share.take(length - share.bytes)?;
        }
        // Most bodies are one piece, which is kept as it came.
        if first.is_empty() && rest.is_empty() {
            first = piece;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&piece);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// What `Content-Length` says. HTTP/1 with several or odd lengths never gets here.
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        Problem::new(
            ErrorKind::InvalidRequest,
            format!("Content-Length must be a number of bytes, found {value:?}"),
        )
    })
}

fn whole_timeout(config: &GatewayConfig, bytes: u64) -> Duration {
    config.body_timeout + Duration::from_secs(bytes / BODY_BYTES_PER_SECOND_MIN)
}

fn too_slow(expected: &str) -> Problem {
    Problem::new(ErrorKind::RequestTimeout, format!("expected {expected}, it did not come; send it again"))
}

fn too_large(what: &str, bytes_max: u64, found: &str) -> Problem {
    Problem::new(
        ErrorKind::PayloadTooLarge,
        format!(
            "{what} must be at most {} ({bytes_max} bytes), found {found}; put large data into the store and pass its \
             s3:// URI, or ask the operator to raise the bound",
            ByteSize(bytes_max)
        ),
    )
}

/// What is wrong with a query, out of what the framework says of it.
fn query_refusal(query: &str, said: &str) -> String {
    let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(said);
    let named = said.split_once(": ").and_then(|(name, why)| Some((name, wanted(why)?)));
    let Some((name, wanted)) = named else {
        return format!("the query cannot be read: {}; see /v1/openapi.json", lower(said));
    };
    let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let found: String = found.unwrap_or_default().chars().take(80).collect();
    format!("{name} must be {wanted}, found {found:?}; see /v1/openapi.json")
}

/// What a parser would have taken, by its words for what it did not.
fn wanted(why: &str) -> Option<&'static str> {
    match why {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            Some("a whole number of 0 or more")
        }
        "number too large to fit in target type" => Some("a smaller number"),
        "provided string was not `true` or `false`" => Some("true or false"),
        _ => None,
    }
}

/// Texts of the framework begin with a capital; ours do not.
fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_refused_in_words() {
        let check = |query: &str, why: &str, expected: &str| {
            let said = format!("Failed to deserialize query string: {why}");
            assert_eq!(query_refusal(query, &said), format!("{expected}; see /v1/openapi.json"));
        };
        check(
            "page=a&limit=ten",
            "limit: invalid digit found in string",
            "limit must be a whole number of 0 or more, found \"ten\"",
        );
        check(
            "rotate=1",
            "rotate: provided string was not `true` or `false`",
            "rotate must be true or false, found \"1\"",
        );
        check(
            "limt=1",
            "limt: unknown field `limt`, expected `limit`",
            "the query cannot be read: limt: unknown field `limt`, expected `limit`",
        );
    }

    #[test]
    fn a_list_is_no_document() {
        #[derive(serde::Deserialize)]
        struct One {
            a: u8,
        }
        assert_eq!(json_object::<One>(b" {\"a\": 1}").unwrap().a, 1);
        let error = json_object::<One>(b"\n[1]").err().unwrap();
        assert_eq!(error.to_string(), "invalid type: sequence, expected an object");
    }
}
