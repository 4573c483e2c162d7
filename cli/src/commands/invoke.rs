// SPDX-License-Identifier: Apache-2.0
//! `fanfold invoke`: one call, the function's own answer.
//!
//! The body goes out and comes back as it is; only a person at a terminal gets
//! JSON indented, and who asks for JSON gets text as a text of JSON. What the function itself answers as a failure is printed too,
//! and the exit code says so.

use std::{
    io::{ErrorKind, IsTerminal},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use fanfold_protocol::{
    limits,
    names::{FunctionRef, Qualifier},
};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::Value;

use crate::{
    args::{Invoke, View},
    client::Client,
    error::{Error, Result},
    input, json_text, output,
};

/// Beside the time of the call itself: the way there and back, and a place.
const SLACK: Duration = Duration::from_secs(10);

/// A body and its type.
struct Body {
    bytes: Vec<u8>,
    content_type: Option<&'static str>,
}

/// Calls.
pub async fn run(client: &Client, args: &Invoke) -> Result<()> {
    let body = body(args.data.as_deref())?;
    let params = args.params.as_deref().map(input::params).transpose()?;
    let name = &args.function.name;
    let mut request = client.request(Method::POST, &format!("/v1/functions/{name}/invoke"));
    if args.function.qualifier != Qualifier::Latest {
        request = request.query(&[("qualifier", args.function.qualifier.to_string())]);
    }
    if let Some(timeout) = args.timeout {
        request = request.query(&[("timeout", timeout.to_string())]).timeout(timeout.as_duration() + SLACK);
    }
    if let Some(params) = params {
        request = request.header("x-fanfold-params", in_header(&params));
    }
    if let Some(content_type) = body.content_type {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    if args.asynchronous {
        request = request.header("prefer", "respond-async");
    }
    let response = client.any_answer(request.body(body.bytes)).await?;
    if response.status() == StatusCode::ACCEPTED && args.asynchronous {
        return accepted(response, args.shown.view).await;
    }
    let answer = Answer::read(client, &args.function, response).await?;
    if answer.is_refusal() {
        let refusal = client.refusal_of(answer.status, &answer.body);
        if answer.was_run() {
            return Err(refusal.of_run());
        }
        return client.suggest(Err(refusal), name).await;
    }
    answer.print(&args.function, args.shown.view)
}

/// JSON for a header, which takes all that JSON has but for this control character.
fn in_header(params: &Value) -> Vec<u8> {
    params.to_string().replace('\u{7f}', "\\u007f").into_bytes()
}

/// Prints the id of a call that goes on by itself.
async fn accepted(response: Response, view: View) -> Result<()> {
    let body = response.bytes().await.map_err(|error| {
        Error::service(format!("the call may be accepted, but its id did not arrive whole: {error}"))
    })?;
    let accepted: Value = serde_json::from_slice(&body)?;
    let id = accepted["id"].as_str().unwrap_or_default();
    output::note(format!("accepted; look at it with `fanfold invocations show {id}`"));
    output::shown(view, &accepted, |_| id.to_owned())
}

/// An answer, whole.
struct Answer {
    status: StatusCode,
    headers: header::HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn read(client: &Client, function: &FunctionRef, response: Response) -> Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(|error| {
            Error::service(format!("the answer of {function} from {} broke off: {error}", client.endpoint()))
        })?;
        Ok(Self { status, headers, body })
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether the service speaks, not the function.
    fn is_refusal(&self) -> bool {
        if self.status.is_success() || self.status.is_redirection() {
            return false;
        }
        is_problem(&self.body, self.header("x-request-id")) || self.header("x-fanfold-version").is_empty()
    }

    /// Whether a sandbox ran for it. What is refused before that took no time to run.
    fn was_run(&self) -> bool {
        let timing = self.header("server-timing");
        timing.contains("run;dur=") && !timing.contains("run;dur=0.000")
    }

    fn print(&self, function: &FunctionRef, view: View) -> Result<()> {
        show(&self.body, is_json(self.header("content-type")), view)?;
        let (id, version) = (self.header("x-fanfold-invocation-id"), self.header("x-fanfold-version"));
        if std::io::stderr().is_terminal() {
            let took = duration(self.header("server-timing"));
            output::note(format!("version {version}, invocation {id}{took}"));
        }
        if self.status.is_success() || self.status.is_redirection() {
            return Ok(());
        }
        Err(Error::failed(format!("{function} answered with HTTP status {}", self.status))
            .help(format!("its log: fanfold logs {id}")))
    }
}

/// Whether a body is a problem of the service: only the service knows the id
/// that it gave the request.
pub fn is_problem(body: &[u8], request_id: &str) -> bool {
    let named = serde_json::from_slice::<Value>(body).ok();
    named.as_ref().and_then(|problem| problem["request_id"].as_str()).is_some_and(|id| id == request_id)
}

/// Prints a body; `is_json` is what its type says, which a function may say of anything.
pub fn show(body: &[u8], is_json: bool, view: View) -> Result<()> {
    let holds_json = || is_json && serde_json::from_slice::<Value>(body).is_ok();
    if view == View::Json && !body.is_empty() && !holds_json() {
        return output::json(&text(body, "JSON does not hold")?);
    }
    if !std::io::stdout().is_terminal() || body.is_empty() {
        return output::raw(body);
    }
    let shown = text(body, "a terminal does not show")?;
    if holds_json() { output::json_text(shown) } else { output::data(shown) }
}

fn text<'a>(body: &'a [u8], who_does_not: &str) -> Result<&'a str> {
    std::str::from_utf8(body).map_err(|_| {
        let size = output::bytes(body.len() as u64);
        Error::usage(format!("the answer is {size} of binary data, which {who_does_not}"))
            .help("send it to a file as it is, without --output: fanfold … > FILE")
    })
}

/// Whether a body of this type is JSON.
pub fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

/// The parts of a `Server-Timing` header, for people.
fn duration(timing: &str) -> String {
    let parts = timing.split(',').filter_map(|part| {
        let (name, rest) = part.trim().split_once(';')?;
        let ms: f64 = rest.split(';').find_map(|p| p.trim().strip_prefix("dur="))?.parse().ok()?;
        Some(format!("{name} {}", output::span_us((ms * 1e3) as u64)))
    });
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() { String::new() } else { format!(", {}", parts.join(", ")) }
}

/// What `-d` stands for. No `-d`, no body.
fn body(data: Option<&str>) -> Result<Body> {
    match data {
        None => Ok(Body { bytes: Vec::new(), content_type: None }),
        Some("@-") => {
            let bytes = input::all(std::io::stdin().lock(), limits::BODY_BYTES_MAX)
                .map_err(|cause| unreadable("the standard input", &cause))?;
            let content_type = if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() {
                "application/json"
            } else {
                "application/octet-stream"
            };
            Ok(Body { bytes, content_type: Some(content_type) })
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => of_file(path),
            None => {
                json_text::json("-d", text).map_err(|error| match text {
                    "-" => error.help("the standard input is -d @-"),
                    _ => input::file_meant("-d", text, error),
                })?;
                Ok(Body { bytes: text.as_bytes().to_vec(), content_type: Some("application/json") })
            }
        },
    }
}

fn unreadable(what: &str, cause: &std::io::Error) -> Error {
    let error = Error::usage(format!("expected to read a body from {what}, found: {cause}"));
    match cause.kind() {
        ErrorKind::FileTooLarge => {
            error.help("large data goes through the store: copy it there, and give the function its name")
        }
        _ => error,
    }
}

fn of_file(path: &str) -> Result<Body> {
    let bytes =
        input::read(Path::new(path), limits::BODY_BYTES_MAX).map_err(|cause| unreadable(path, &cause))?;
    let content_type = super::content_type(path).unwrap_or("application/octet-stream");
    if content_type == "application/json" {
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            Error::usage(format!("expected JSON in {path}, found what is not UTF-8: {error}"))
        })?;
        json_text::json(path, text)?;
    }
    Ok(Body { bytes, content_type: Some(content_type) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn bodies_are_checked_here() {
        let none = body(None).unwrap();
        assert!(none.bytes.is_empty() && none.content_type.is_none());
        assert_eq!(body(Some("\"Ada\"")).unwrap().bytes, b"\"Ada\"");
        assert_eq!(body(Some("Ada")).err().unwrap().exit(), Exit::Usage);
        assert_eq!(body(Some("@no such file")).err().unwrap().exit(), Exit::Usage);
        let advice = |data: &str| body(Some(data)).err().unwrap().advice();
        assert_eq!(advice("-"), "the standard input is -d @-");
        let sibling = tempfile::NamedTempFile::new().unwrap();
        let path = sibling.path().display().to_string();
        assert_eq!(advice(&path), format!("did you mean -d @{path}?"));
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            body(Some(&format!("@{}", path.display())))
        };
        assert_eq!(file("a.csv", b"a,b").unwrap().content_type, Some("text/csv"));
        assert_eq!(file("a.bin", b"\xff").unwrap().bytes, b"\xff");
        assert_eq!(file("a.json", b"{").err().unwrap().exit(), Exit::Usage);
    }

    #[test]
    fn the_service_is_told_from_the_function() {
        let check = |status: u16, headers: &[(&'static str, &'static str)], body: &str, expected: bool| {
            let pairs = headers.iter().map(|&(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            });
            let answer = Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: pairs.collect(),
                body: Bytes::copy_from_slice(body.as_bytes()),
            };
            assert_eq!(answer.is_refusal(), expected, "{status} {body}");
        };
        let ran = [("x-fanfold-version", "1"), ("x-request-id", "r-1")];
        check(500, &ran, r#"{"code": "guest-panicked", "detail": "x", "request_id": "r-1"}"#, true);
        check(422, &ran, r#"{"code": "mine", "detail": "x", "request_id": "other"}"#, false);
        check(404, &ran, "no such thing", false);
        check(404, &[("x-request-id", "r-1")], r#"{"code": "function-not-found"}"#, true);
        check(200, &ran, r#"{"request_id": "r-1"}"#, false);
    }

    #[test]
    fn calls_that_ran_are_told_by_their_time() {
        let check = |timing: Option<&'static str>, expected: bool| {
            let name = header::HeaderName::from_static("server-timing");
            let headers = timing.map(|timing| (name, header::HeaderValue::from_static(timing)));
            let headers = headers.into_iter().collect();
            let answer = Answer { status: StatusCode::NOT_FOUND, headers, body: Bytes::new() };
            assert_eq!(answer.was_run(), expected, "{timing:?}");
        };
        check(None, false);
        check(Some("queue;dur=0.002, start;dur=0.000, run;dur=0.000"), false);
        check(Some("queue;dur=0.002, start;dur=0.224, run;dur=0.108"), true);
    }

    #[test]
    fn json_is_asked_for_in_vain_of_binary_data() {
        assert_eq!(text("ä".as_bytes(), "x").unwrap(), "ä");
        // Whether or not it is called JSON.
        for is_json in [false, true] {
            let error = show(b"\xff", is_json, View::Json).unwrap_err();
            assert_eq!((error.exit(), error.to_string().contains("JSON does not hold")), (Exit::Usage, true));
        }
    }

    #[test]
    fn params_fit_into_a_header() {
        let params = serde_json::json!({"a\u{7f}": "ä\n\u{1b}\u{7f}"});
        let sent = in_header(&params);
        assert!(header::HeaderValue::from_bytes(&sent).is_ok());
        assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), params);
    }

    #[test]
    fn headers_are_read() {
        assert!(is_json("application/json; charset=utf-8") && is_json("application/problem+json"));
        assert!(!is_json("text/plain") && !is_json(""));
        assert_eq!(duration("queue;dur=0.05, run;desc=\"x\";dur=12.5"), ", queue 50 µs, run 12.5 ms");
        assert_eq!(duration(""), "");
    }
}
