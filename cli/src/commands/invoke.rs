// SPDX-License-Identifier: Apache-2.0
//! `fanfold invoke`: one call, the function's own answer.
//!
//! The body goes out and comes back as it is; only a person at a terminal gets
//! JSON indented. What the function itself answers as a failure is printed too,
//! and the exit code says so.

use std::{
    io::{IsTerminal, Read},
    time::Duration,
};

use fanfold_protocol::names::Qualifier;
use reqwest::{Method, Response, StatusCode, header};
use serde_json::Value;

use crate::{
    args::Invoke,
    client::Client,
    error::{Error, Result},
    json_text, output,
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
    let params = args.params.as_deref().map(|text| json_text::object("--params", text)).transpose()?;
    let name = &args.function.name;
    let mut request = client.request(Method::POST, &format!("/v1/functions/{name}/invoke"));
    if args.function.qualifier != Qualifier::Latest {
        request = request.query(&[("qualifier", args.function.qualifier.to_string())]);
    }
    if let Some(timeout) = args.timeout {
        request = request.query(&[("timeout", timeout.to_string())]).timeout(timeout.as_duration() + SLACK);
    }
    if let Some(params) = params {
        request = request.header("x-fanfold-params", params.to_string().into_bytes());
    }
    if let Some(content_type) = body.content_type {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    if args.asynchronous {
        request = request.header("prefer", "respond-async");
    }
    let response = client.any_answer(request.body(body.bytes)).await?;
    if response.status() == StatusCode::ACCEPTED && args.asynchronous {
        return accepted(&response);
    }
    if is_refusal(&response) {
        let refusal = client.refusal(response).await;
        return Err(client.suggest(refusal, name).await);
    }
    answered(client, &args.function.to_string(), response).await
}

/// Prints the id of a call that goes on by itself.
fn accepted(response: &Response) -> Result<()> {
    let location =
        response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    output::data(location.rsplit('/').next().unwrap_or_default())
}

/// Whether the service speaks, not the function.
fn is_refusal(response: &Response) -> bool {
    let headers = response.headers();
    !response.status().is_success() && !headers.contains_key("x-fanfold-version")
}

async fn answered(client: &Client, function: &str, response: Response) -> Result<()> {
    let text = |name: &str| {
        response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (id, version) = (text("x-fanfold-invocation-id"), text("x-fanfold-version"));
    let (kind, timing) = (text("content-type"), text("server-timing"));
    let status = response.status();
    let body = response.bytes().await.map_err(|error| {
        Error::service(format!("the answer of {function} from {} broke off: {error}", client.endpoint()))
    })?;
    show(&body, is_json(&kind))?;
    if std::io::stderr().is_terminal() {
        output::note(format!("version {version}, invocation {id}{}", duration(&timing)));
    }
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    Err(Error::failed(format!("{function} answered with HTTP status {status}"))
        .help(format!("its log: fanfold logs {id}")))
}

fn show(body: &[u8], is_json: bool) -> Result<()> {
    if !std::io::stdout().is_terminal() || body.is_empty() {
        return output::raw(body);
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if is_json => output::json(&value),
        _ => match std::str::from_utf8(body) {
            Ok(text) => output::data(text),
            Err(_) => Err(Error::usage(format!(
                "the answer is {} of binary data, which a terminal does not show",
                output::bytes(body.len() as u64)
            ))
            .help("send it to a file: fanfold invoke … > FILE")),
        },
    }
}

fn is_json(content_type: &str) -> bool {
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
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes)?;
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
                json_text::json("-d", text)?;
                Ok(Body { bytes: text.as_bytes().to_vec(), content_type: Some("application/json") })
            }
        },
    }
}

fn of_file(path: &str) -> Result<Body> {
    let bytes = std::fs::read(path)
        .map_err(|cause| Error::usage(format!("expected to read {path}, found: {cause}")))?;
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
    fn headers_are_read() {
        assert!(is_json("application/json; charset=utf-8") && is_json("application/problem+json"));
        assert!(!is_json("text/plain") && !is_json(""));
        assert_eq!(duration("queue;dur=0.05, run;desc=\"x\";dur=12.5"), ", queue 50 µs, run 12.5 ms");
        assert_eq!(duration(""), "");
    }
}
