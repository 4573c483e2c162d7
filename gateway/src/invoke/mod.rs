// SPDX-License-Identifier: Apache-2.0
//! Calls: from a request to the function's own answer, or to the promise of one.
//!
//! A call is read and checked here, then run by `call` within the places of
//! [`admission`], under an idempotency key by way of `idempotency`. What it
//! left behind is kept by [`records`] and shown by [`show`]. With
//! `Prefer: respond-async` it goes to [`asynchronous`] instead.

pub mod admission;
pub mod asynchronous;
mod call;
mod framed;
mod headers;
mod hold;
pub(crate) mod idempotency;
pub mod records;
pub mod remembered;
pub mod show;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use fanfold_protocol::{
    ErrorKind, Problem,
    function::{Export, Version},
    invocation, limits,
    names::{FunctionRef, Qualifier},
    size::Span,
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    asynchronous::{AsyncCall, Origin},
    call::Call,
};
use crate::{
    extract::{self, Path},
    form,
    problem::Answer,
    state::{App, AppState},
};

const PARAMS: HeaderName = HeaderName::from_static("x-fanfold-params");
const PREFER: HeaderName = HeaderName::from_static("prefer");
const REPLAYED: HeaderName = HeaderName::from_static("x-fanfold-replayed");

/// The routes of invocations.
pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(invoke))
        .routes(routes!(asynchronous::routes::list))
        .routes(routes!(asynchronous::routes::letters, asynchronous::routes::discard))
        .routes(routes!(asynchronous::routes::replay))
        .routes(routes!(show::show, asynchronous::routes::cancel))
        .routes(routes!(show::result))
        .routes(routes!(show::logs))
        .routes(routes!(show::function_logs))
}

/// The names in a call's query that are the platform's; the function sees the rest.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InvokeQuery {
    /// A version's number, an alias or `latest`.
    qualifier: Option<String>,
    /// Less time than the function's settings give, such as `5s`.
    timeout: Option<String>,
    /// Parameters for `context.params`, as JSON.
    params: Option<String>,
}

// What few calls need is boxed: every call's future is moved, and would be as large as the largest of it.
/// Calls a function and answers as it answers, or with `Prefer: respond-async` accepts the call and answers at once.
///
/// In the query only `qualifier`, `timeout` and `params` are the platform's. All other names, and how they are spelt,
/// are the function's own: it gets them as its query, and the platform does not look at them.
#[utoipa::path(
    post, path = "/v1/functions/{name}/invoke", tag = "invocations",
    params(
        ("name" = String, Path, description = "The function"),
        InvokeQuery,
        ("X-Fanfold-Params" = Option<String>, Header, description = "Parameters for `context.params`, as JSON"),
        ("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait for the answer (RFC 7240)"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key gives the same answer for 24 h; a synchronous and an asynchronous call under one key are two")
    ),
    request_body(content = Vec<u8>, content_type = "*/*", description = "Whatever the function takes; none is an empty one"),
    responses(
        (status = 200, description = "The function's own answer, whatever its status", body = Vec<u8>, content_type = "*/*", headers(
            ("X-Fanfold-Invocation-Id" = String, description = "Names the invocation"),
            ("X-Fanfold-Version" = u32, description = "The version that ran"),
            ("Server-Timing" = String, description = "Milliseconds of queue, start and run"),
            ("X-Fanfold-Replayed" = String, description = "`true` when the answer was remembered under the key")
        )),
        (status = 202, description = "With `Prefer: respond-async`: accepted, and durable", body = asynchronous::routes::Accepted, headers(
            ("Location" = String, description = "The invocation"),
            ("Preference-Applied" = String, description = "`respond-async`"),
            ("Retry-After" = u32, description = "Seconds after which to look at the invocation"),
            ("X-Fanfold-Replayed" = String, description = "`true` when the call was accepted before under the key")
        )),
        (status = 400, description = "A name, a time, parameters or a key that cannot be read, or what stands twice"),
        (status = 403, description = "The function asked for an object that it has no grant for"),
        (status = 404, description = "No such function, version or alias"),
        (status = 413, description = "The body is too large"),
        (status = 422, description = "No handler; parameters, a body or a query that the function says do not fit; or the key was used for another request"),
        (status = 429, description = "Too much runs or waits already"),
        (status = 500, description = "The function failed"),
        (status = 504, description = "The function ran into its deadline")
    )
)]
pub(crate) async fn invoke(
    State(app): State<AppState>,
    Path(name): Path<String>,
    request: Request,
) -> Answer<Response> {
    let (parts, body) = request.into_parts();
    let (asked, query) = split_query(parts.uri.query().unwrap_or_default())?;
    let qualifier = asked.qualifier.as_deref().map_or(Ok(Qualifier::Latest), str::parse::<Qualifier>)?;
    let function = FunctionRef { name: name.parse()?, qualifier };
    let key = extract::idempotency_key(&parts.headers)?;
    let params = params(&parts.headers, asked.params)?;
    let asked = asked.timeout.as_deref().map(timeout_of).transpose()?;
    let request = |body| invocation::Request {
        method: parts.method.as_str().to_owned(),
        query,
        headers: headers::for_guest(&parts.headers),
        body,
    };
    if wants_async(&parts.headers) {
        let most = limits::ASYNC_PAYLOAD_BYTES_MAX;
        let held =
            extract::read(&app, &parts.headers, body, most, "the body of an asynchronous call").await?;
        let (request, origin) = (request(held.bytes.clone()), Origin::Call);
        let call = AsyncCall { id: None, function, params, timeout: asked, request, depth: 0, origin };
        return Ok(Box::pin(asynchronous::routes::respond(&app, key, call)).await?);
    }
    let ready = ready(&app, &function, asked).await;
    let most = app.config.body_bytes_max;
    let reading = extract::read(&app, &parts.headers, body, most, "the body of a call");
    let Some(key) = key else {
        let (version, timeout) = ready?;
        let held = reading.await?;
        let call = Call { version, timeout, params, request: request(held.bytes.clone()) };
        return Ok(call::run(&app, call).await?.into_response());
    };
    let held = reading.await?;
    let request = request(held.bytes.clone());
    let fingerprint = call::fingerprint(&function, &params, &request);
    // What was answered under the key stays the answer, whatever has become of the function.
    let call = ready.map(|(version, timeout)| Call { version, timeout, params, request });
    let (reply, replayed) = Box::pin(idempotency::once(app, key, fingerprint, call, held)).await?;
    let mut response = reply.into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The version that a call runs, and the time that it has.
async fn ready(
    app: &App,
    function: &FunctionRef,
    asked: Option<Duration>,
) -> Result<(Arc<Version>, Duration), Problem> {
    let version = app.registry.resolve(function).await?;
    version.require(Export::Handler)?;
    let timeout = timeout(version.settings.timeout_or(limits::SYNC_TIMEOUT_DEFAULT), asked)?;
    Ok((version, timeout))
}

/// RFC 7240's `respond-async`. A `wait` beside it is a preference that is not met.
fn wants_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(preferences).any(|preference| preference.eq_ignore_ascii_case("respond-async"))
}

/// The preferences in a value, without their parameters. A comma within quotes ends none, and a value without
/// a character is none (RFC 7240, 2).
fn preferences(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let ends = move |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == ',' && !quoted,
        }
        false
    };
    value.split(ends).map(|preference| {
        let preference = preference.split(';').next().unwrap_or_default().trim();
        match preference.split_once('=') {
            Some((name, value)) if matches!(value.trim(), "" | "\"\"") => name.trim_end(),
            _ => preference,
        }
    })
}

/// Takes the platform's names out of a query; the rest stays as it was written.
fn split_query(query: &str) -> Result<(InvokeQuery, String), Problem> {
    let mut asked = InvokeQuery::default();
    let mut rest = String::with_capacity(query.len());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let slot = match name {
            "qualifier" => &mut asked.qualifier,
            "timeout" => &mut asked.timeout,
            "params" => &mut asked.params,
            _ => {
                if !rest.is_empty() {
                    rest.push('&');
                }
                rest.push_str(pair);
                continue;
            }
        };
        let invalid = |said: &str| Problem::new(ErrorKind::InvalidRequest, format!("expected {name} {said}"));
        let text = form::decode(value).ok_or_else(|| invalid("to be UTF-8, found other bytes"))?;
        if slot.replace(text).is_some() {
            return Err(invalid("once in the query, found it again; send one of them"));
        }
    }
    Ok((asked, rest))
}

/// Parameters of a call: a JSON object, from the header or the query.
fn params(headers: &HeaderMap, query: Option<String>) -> Result<String, Problem> {
    let invalid = |found: &str| {
        Problem::new(
            ErrorKind::InvalidRequest,
            format!("parameters must be one JSON object in X-Fanfold-Params or ?params=, found {found}"),
        )
    };
    let header = extract::single(headers, PARAMS)?;
    let header = header.map(|value| String::from_utf8(value.as_bytes().to_vec()));
    let header = header.transpose().map_err(|_| invalid("what is not UTF-8"))?;
    let text = match (header, query) {
        (Some(_), Some(_)) => return Err(invalid("both")),
        (None, None) => return Ok("{}".to_owned()),
        (header, query) => header.or(query).unwrap_or_default(),
    };
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(invalid(&error.to_string())),
    }
}

/// The time that a caller asks for.
fn timeout_of(text: &str) -> Result<Duration, Problem> {
    Ok(text.parse::<Span>().map_err(|problem| problem.within("timeout"))?.as_duration())
}

/// The time of a call: what its function is given, or less.
fn timeout(most: Duration, asked: Option<Duration>) -> Result<Duration, Problem> {
    let Some(asked) = asked else { return Ok(most) };
    if asked.is_zero() {
        let detail = "timeout must be above zero, found 0s; give one such as 500ms or 5s, or leave it out";
        return Err(Problem::new(ErrorKind::InvalidRequest, detail));
    }
    if asked <= most {
        return Ok(asked);
    }
    Err(Problem::new(
        ErrorKind::InvalidRequest,
        format!(
            "timeout must be from 1ms to the function's {}, found {}; raise timeout in function.toml",
            Span::from(most),
            Span::from(asked)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platforms_names_are_taken_out_of_the_query() {
        let (asked, rest) =
            split_query("a=1&qualifier=prod&b=%20x&params=%7B%22a%22%3A+1%7D&&c&a=%ff").unwrap();
        assert_eq!(asked.qualifier.as_deref(), Some("prod"));
        assert_eq!(asked.params.as_deref(), Some(r#"{"a": 1}"#));
        assert_eq!(rest, "a=1&b=%20x&c&a=%ff");
    }

    #[test]
    fn the_platforms_names_stand_once_and_are_text() {
        let check = |query: &str, said: &str| {
            let problem = split_query(query).unwrap_err();
            assert_eq!((problem.code, problem.detail.as_str()), (ErrorKind::InvalidRequest, said), "{query}");
        };
        for (name, query) in [
            ("qualifier", "qualifier=1&qualifier=2"),
            ("timeout", "timeout=1ms&a&timeout=1ms"),
            ("params", "params=%7B%7D&params="),
        ] {
            check(query, &format!("expected {name} once in the query, found it again; send one of them"));
        }
        let params = "params=%7B%22how%22:%22%ff%22%7D";
        check(params, "expected params to be UTF-8, found other bytes");
    }

    #[test]
    fn a_call_has_time_and_no_more_than_its_function() {
        let (most, half) = (Duration::from_secs(30), Duration::from_secs(15));
        assert_eq!(timeout(most, None).unwrap(), most);
        assert_eq!(timeout(most, Some(half)).unwrap(), half);
        let check = |asked, said: &str| {
            let problem = timeout(most, Some(asked)).unwrap_err();
            assert!(problem.detail.contains(said), "{}", problem.detail);
        };
        check(Duration::ZERO, "above zero");
        check(most + Duration::from_millis(1), "raise timeout in function.toml");
    }

    #[test]
    fn params_are_one_object() {
        let headers = |text: &'static str| HeaderMap::from_iter([(PARAMS, HeaderValue::from_static(text))]);
        assert_eq!(params(&HeaderMap::new(), None).unwrap(), "{}");
        assert_eq!(params(&headers(r#"{"a":1}"#), None).unwrap(), r#"{"a":1}"#);
        for bad in ["[1]", "1", "{", ""] {
            assert_eq!(params(&headers(bad), None).unwrap_err().code, ErrorKind::InvalidRequest, "{bad}");
        }
        assert!(params(&headers("{}"), Some("{}".to_owned())).is_err());
        let mut twice = headers("{}");
        twice.append(PARAMS, HeaderValue::from_static("{}"));
        assert_eq!(params(&twice, None).unwrap_err().code, ErrorKind::InvalidRequest);
    }

    #[test]
    fn the_preference_is_found_among_others() {
        let headers = |text: &'static str| HeaderMap::from_iter([(PREFER, HeaderValue::from_static(text))]);
        assert!(wants_async(&headers("wait=10, Respond-Async")));
        assert!(wants_async(&headers("respond-async; x=1")));
        assert!(wants_async(&headers(r#"x="a, \"b", respond-async"#)));
        for empty in [r#"respond-async="""#, r#"wait=10, respond-async = "" ; x=1"#, "respond-async="] {
            assert!(wants_async(&headers(empty)), "{empty}");
        }
        assert!(!wants_async(&headers("wait=10")));
        assert!(!wants_async(&headers("foo; respond-async")));
        assert!(!wants_async(&headers("respond-async=no")));
        for quoted in [r#"x="a, respond-async, b""#, r#"x="\", respond-async""#, r#"x="a; b, respond-async"#]
        {
            assert!(!wants_async(&headers(quoted)), "{quoted}");
        }
    }
}
