// SPDX-License-Identifier: Apache-2.0
//! What handlers take from a request, with refusals of the platform's own kind.
//!
//! Bodies are bounded before they are buffered: a declared length over the
//! bound is refused unread, an undeclared one as soon as it passes the bound;
//! pieces must come in time, the whole at a least rate, and all bodies held at
//! once fit a budget; those of strangers have one of their own.

mod key;
mod media;
mod strangers;

use std::{
    error::Error,
    iter,
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
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use self::media::Documents;
pub use self::{
    key::{check_key, idempotency_key},
    media::{require_media_type, require_unpacked},
    strangers::{Strangers, Unverified, read_unverified, refused_body},
};
use crate::{
    config::{BODY_BYTES_PER_SECOND_MIN, GatewayConfig},
    form,
    problem::{Refusal, excerpt},
    state::AppState,
    toml_document::{self, Mistake},
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
        // What reads it would put a sign of its own in the place of what is no character.
        if form::decode(parts.uri.query().unwrap_or_default()).is_none() {
            let detail = "expected a query in UTF-8, found other bytes; escape the bytes that its characters have there";
            return Err(Refusal::new(ErrorKind::InvalidRequest, detail));
        }
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
        let held = json_body(request, app).await?;
        Ok(Self(json_object(&held.bytes).map_err(no_document)?))
    }
}

/// The same of a route that does not need one: no body stands for the document without members.
pub struct JsonOrDefault<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<AppState> for JsonOrDefault<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, app: &AppState) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let held = json_bytes(app, &parts.headers, body).await?;
        // Whatever its type: of `curl -d ''` it is that of a form.
        if held.bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        Documents::Json.require(&parts.headers)?;
        Ok(Self(json_object(&held.bytes).map_err(no_document)?))
    }
}

async fn json_body(request: Request, app: &AppState) -> Result<HeldBody, Problem> {
    let (parts, body) = request.into_parts();
    Documents::Json.require(&parts.headers)?;
    json_bytes(app, &parts.headers, body).await
}

async fn json_bytes(app: &AppState, headers: &HeaderMap, body: Body) -> Result<HeldBody, Problem> {
    read(app, headers, body, limits::DOCUMENT_BYTES_MAX, "a JSON document").await
}

fn no_document(found: String) -> Problem {
    Problem::new(
        ErrorKind::InvalidRequest,
        format!("the body must be the JSON document of this route, found: {found}"),
    )
}

/// Reads the body as a document of JSON or, where its type says so, of TOML; `refusal`
/// is made of what was found instead.
///
/// # Errors
/// As [`read`], for a body of another type, and `refusal`.
pub async fn document<T: DeserializeOwned>(
    app: &AppState,
    request: Request,
    what: &str,
    refusal: fn(String) -> Problem,
) -> Result<(T, HeaderMap), Problem> {
    let (parts, body) = request.into_parts();
    Documents::JsonOrToml.require(&parts.headers)?;
    let held = read(app, &parts.headers, body, limits::DOCUMENT_BYTES_MAX, what).await?;
    let is_toml = media::is_toml(&parts.headers);
    let document = if is_toml { toml_table(&held.bytes) } else { json_object(&held.bytes) };
    Ok((document.map_err(refusal)?, parts.headers))
}

/// Reads a document that is an object of JSON, or says what was found instead. A list
/// would be taken for one otherwise, its items for the members in the order of their
/// declaration. A byte-order mark before it is skipped (RFC 8259, 8.1).
pub fn json_object<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    match text.trim_ascii_start().first() {
        None => Err("an empty text".to_owned()),
        Some(b'[') => Err("a list, where an object belongs".to_owned()),
        Some(_) => serde_json::from_slice(text).map_err(|error| in_words(&error.to_string())),
    }
}

fn toml_table<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    toml_document::read(text).map_err(|Mistake { what, offset }| {
        let said = in_words(&what.replace('\n', ", "));
        let Some(before) = offset.and_then(|offset| text.get(..offset)) else { return said };
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{said} at line {line} column {column}")
    })
}

/// A reader's sentence without the words of the language that the reader is written in.
fn in_words(said: &str) -> String {
    // The last one is the reader's own; those before may be in what it quotes.
    let Some((found, expected)) = said.rsplit_once("expected ") else { return said.to_owned() };
    let (word, rest) = expected.split_once(' ').map_or((expected, ""), |(word, rest)| (word, rest));
    let (wanted, rest) = match word {
        "u8" => ("a whole number from 0 to 255", rest),
        "u32" => ("a whole number from 0 to 4294967295", rest),
        "u16" | "u64" | "usize" => ("a whole number of 0 or more", rest),
        "f32" | "f64" => ("a number", rest),
        "struct" => ("an object", rest.split_once(' ').map_or("", |(_, rest)| rest)),
        _ => return said.to_owned(),
    };
    let space = if rest.is_empty() { "" } else { " " };
    format!("{found}expected {wanted}{space}{rest}")
}

/// The value of a header that stands once or not at all.
///
/// # Errors
/// `invalid-request` when it stands more than once: nobody knows which was meant.
pub fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next();
    match values.count() {
        0 => Ok(value),
        more => Err(Problem::new(
            ErrorKind::InvalidRequest,
            format!("expected the header {name} once, found it {} times; send one of them", more + 1),
        )),
    }
}

/// The memory that bodies may take, all requests together.
#[derive(Clone)]
pub struct BodyBudget {
    held: Arc<AtomicU64>,
    bytes_max: u64,
    /// What it is for, and what to do in place of sending more of that.
    what: &'static str,
    instead: &'static str,
}

impl BodyBudget {
    /// A budget of this many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self::of(bytes_max, "bodies in work", "pass large data as an s3:// URI")
    }

    /// The same for answers.
    pub(crate) fn of_answers(bytes_max: u64) -> Self {
        Self::of(
            bytes_max,
            "answers that wait to be taken",
            "take answers as they come, and write large results to an object",
        )
    }

    fn of(bytes_max: u64, what: &'static str, instead: &'static str) -> Self {
        Self { held: Arc::default(), bytes_max, what, instead }
    }

    /// Room for so many bytes.
    ///
    /// # Errors
    /// `concurrency-limit`.
    pub fn take(&self, bytes: u64) -> Result<BudgetShare, Problem> {
        let mut share = self.share();
        share.take(bytes)?;
        Ok(share)
    }

    fn share(&self) -> BudgetShare {
        BudgetShare { budget: self.clone(), bytes: 0 }
    }
}

/// What one body takes of the budget, given back when it is dropped.
pub struct BudgetShare {
    budget: BodyBudget,
    bytes: u64,
}

impl BudgetShare {
    fn take(&mut self, bytes: u64) -> Result<(), Problem> {
        self.bytes += bytes;
        let before = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.budget.bytes_max {
            return Ok(());
        }
        Err(Problem::new(
            ErrorKind::ConcurrencyLimit,
            format!(
                "{} must be at most {} together, found more; try again in a moment, or {}",
                self.budget.what,
                ByteSize(self.budget.bytes_max),
                self.budget.instead
            ),
        ))
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A whole body, and the share of the budget that it takes while it is held.
pub struct HeldBody {
    /// The body.
    pub bytes: Bytes,
    _share: BudgetShare,
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
    let declared = declared_length(headers, bytes_max, what)?;
    let share = app.bodies.take(declared.unwrap_or(0))?;
    in_time(app, body, declared, bytes_max, what, share).await
}

/// Collects a body in the time that one of its length may take.
async fn in_time(
    app: &AppState,
    body: Body,
    declared: Option<u64>,
    bytes_max: u64,
    what: &str,
    mut share: BudgetShare,
) -> Result<HeldBody, Problem> {
    let deadline = whole_timeout(&app.config, declared.unwrap_or(bytes_max));
    let bytes = collect(&app.config, body, bytes_max, what, &mut share);
    let bytes = tokio::time::timeout(deadline, bytes).await.unwrap_or_else(|_| Err(late(deadline)))?;
    Ok(HeldBody { bytes, _share: share })
}

async fn collect(
    config: &GatewayConfig,
    mut body: Body,
    bytes_max: u64,
    what: &str,
    share: &mut BudgetShare,
) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(config.body_timeout, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(broken_off(&error)),
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

/// Why a body has an end before its end.
fn broken_off(error: &axum::Error) -> Problem {
    let first: &(dyn Error + 'static) = error;
    let mut causes = iter::successors(Some(first), |error| (*error).source());
    causes.find_map(|error| error.downcast_ref::<Problem>()).cloned().unwrap_or_else(|| {
        Problem::new(
            ErrorKind::InvalidRequest,
            format!("expected the body that the headers announce, it broke off: {error}"),
        )
    })
}

/// What `Content-Length` says, within the bound. HTTP/1 with several or odd lengths never gets here.
fn declared_length(headers: &HeaderMap, bytes_max: u64, what: &str) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.parse::<u64>().ok()) {
        Some(bytes) if bytes > bytes_max => Err(too_large(what, bytes_max, &bytes.to_string())),
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Problem::new(
            ErrorKind::InvalidRequest,
            format!("Content-Length must be a number of bytes, found {value:?}"),
        )),
    }
}

fn whole_timeout(config: &GatewayConfig, bytes: u64) -> Duration {
    config.body_timeout + Duration::from_secs(bytes / BODY_BYTES_PER_SECOND_MIN)
}

fn late(deadline: Duration) -> Problem {
    too_slow(&format!("the body whole within {} s", deadline.as_secs()))
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
    let found = excerpt(found.unwrap_or_default());
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

    #[tokio::test]
    async fn a_body_that_another_could_not_read_is_refused_in_the_same_words() {
        let problem = Problem::new(ErrorKind::ConcurrencyLimit, "too many");
        let error = refused_body(problem.clone()).frame().await.unwrap().unwrap_err();
        assert_eq!(broken_off(&error), problem);
        let error = axum::Error::new(std::io::Error::other("a reset"));
        let problem = broken_off(&error);
        assert_eq!(problem.code, ErrorKind::InvalidRequest);
        assert!(problem.detail.contains("it broke off: a reset"), "{problem}");
    }

    #[test]
    fn a_list_is_no_document() {
        #[derive(serde::Deserialize)]
        struct One {
            a: u8,
        }
        assert_eq!(json_object::<One>(b" {\"a\": 1}").unwrap().a, 1);
        assert_eq!(json_object::<One>(b"\xef\xbb\xbf{\"a\": 1}").unwrap().a, 1);
        let check = |text: &[u8], said: &str| assert_eq!(json_object::<One>(text).err().unwrap(), said);
        check(b"\n[1]", "a list, where an object belongs");
        check(b"", "an empty text");
        check(b"\xef\xbb\xbf \n", "an empty text");
        check(b"5", "invalid type: integer `5`, expected an object at line 1 column 1");
        check(
            br#"{"a": "b"}"#,
            r#"invalid type: string "b", expected a whole number from 0 to 255 at line 1 column 9"#,
        );
    }

    #[test]
    fn mistakes_in_toml_are_one_line() {
        #[derive(Debug, serde::Deserialize)]
        struct One {
            #[allow(dead_code, reason = "it is read to be refused")]
            a: u32,
        }
        let said = toml_table::<One>(b"# One\na = \"b\"").unwrap_err();
        let expected = r#"invalid type: string "b", expected a whole number from 0 to 4294967295"#;
        assert_eq!(said, format!("{expected} at line 2 column 5"));
        for text in ["a = ", "a = [1,\n", "a = 1\na = 2", "= 1"] {
            let said = toml_table::<One>(text.as_bytes()).unwrap_err();
            assert!(!said.contains('\n'), "{said}");
        }
        let said = toml_table::<serde_json::Value>(b"[params]\nrow = nan").unwrap_err();
        assert_eq!(said, "params.row must be a finite number, found nan at line 2 column 7");
    }

    #[test]
    fn a_header_that_stands_twice_is_refused() {
        let name = HeaderName::from_static("x-one");
        let mut headers = HeaderMap::new();
        assert_eq!(single(&headers, name.clone()), Ok(None));
        headers.append(name.clone(), HeaderValue::from_static("1"));
        assert_eq!(single(&headers, name.clone()), Ok(Some(&HeaderValue::from_static("1"))));
        headers.append(name.clone(), HeaderValue::from_static("1"));
        let problem = single(&headers, name).unwrap_err();
        assert_eq!(problem.code, ErrorKind::InvalidRequest);
        assert!(problem.detail.contains("x-one once, found it 2 times"), "{problem}");
    }
}
