// SPDX-License-Identifier: Apache-2.0
//! The API as the commands see it: one client, bearer token, problems decoded.
//!
//! Every request of every command goes through [`Client`]; what the service
//! refuses becomes an [`Error`] here and nowhere else. Invariant: a token goes
//! to the endpoint it was given for, and is never printed.

mod events;
mod model;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use fanfold_protocol::names::FunctionName;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub use self::{
    events::{Event, Events},
    model::{
        ComparisonView, Deployed, FailureView, FunctionList, FunctionView, InvocationView, JobView,
        LetterView, LogPage, ProgressView, ReceiptView, Replayed, RetryOf, SkippedView, SlowView, TaskLine,
        TaskLogPage, TaskPage, TaskView, Told, UsageView,
    },
};
use crate::{
    error::{Error, Result, Unanswered},
    output,
    profile::{self, ENDPOINT_DEFAULT},
    similar,
};

/// On opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// On an answer that needs no function to run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// On a deployment: where the machine is busy, two compilations may be waited for, of ten minutes each.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(1_200);

/// On an answer that a plan is made for: large text is read through for where its records end.
const PLAN_TIMEOUT: Duration = Duration::from_secs(1_800);
/// How often a job is asked for when the connection is lost, and the first pause between.
const SUBMISSIONS: u32 = 4;
const SUBMISSION_PAUSE: Duration = Duration::from_secs(1);
/// How long a job is asked for where the service is busy with others.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// What a service says over a job that it is planning still, in words that it says of nothing else.
const OF_THE_KEY: &str = "under this Idempotency-Key";

/// A connection to a service.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// What `Authorization` says.
    token: Option<HeaderValue>,
}

/// A problem as the service writes it (RFC 9457).
#[derive(Deserialize)]
struct ProblemBody {
    code: String,
    detail: String,
    request_id: Option<String>,
    guest_code: Option<String>,
}

impl Client {
    /// The service that the flags name, or the default one; the token from the
    /// flags, or else the one that `fanfold dev` left, with where it left it for.
    pub fn open(endpoint: Option<&str>, token: Option<&str>) -> Result<Self> {
        let text = endpoint.unwrap_or(ENDPOINT_DEFAULT).trim_end_matches('/');
        let url = parse_endpoint(text)?;
        let (url, token) = match given(token) {
            Some(token) => (url, Some(token.to_owned())),
            None => match profile::find(text)? {
                // Another may listen at the other addresses of a name.
                Some((at, profile)) => (parse_endpoint(&at)?, Some(profile.token)),
                None => (url, None),
            },
        };
        let token = token.as_deref().map(bearer).transpose()?;
        Ok(Self { http: http_client(&url)?, endpoint: url, token })
    }

    /// Where the service is.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// A document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T> {
        let request = self.request(Method::GET, path).query(query).timeout(ANSWER_TIMEOUT);
        self.document(request).await
    }

    /// A text.
    pub async fn text(&self, path: &str) -> Result<String> {
        let response = self.answer(self.request(Method::GET, path).timeout(ANSWER_TIMEOUT)).await?;
        response.text().await.map_err(|error| self.unreachable(&error))
    }

    /// As many lines of a list as asked for, page by page: values, or JSON as it was written. Says
    /// whether there are more.
    pub async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        member: &str,
        query: &[(&str, Option<&str>)],
        limit: usize,
        page_max: usize,
    ) -> Result<Vec<T>> {
        let mut items: Vec<T> = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let size = (limit - items.len().min(limit)).clamp(1, page_max).to_string();
            let mut asked: Vec<(&str, &str)> =
                query.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
            asked.push(("limit", &size));
            asked.extend(page.as_deref().map(|page| ("page", page)));
            let answer: BTreeMap<String, Box<RawValue>> = self.get(path, &asked).await?;
            let Some(list) = answer.get(member) else {
                return Err(Error::service(format!("expected a list of {member} at {path}, found none")));
            };
            items.extend(serde_json::from_str::<Vec<T>>(list.get())?);
            let next = answer.get("next").map(|next| serde_json::from_str::<Option<String>>(next.get()));
            page = next.transpose()?.flatten();
            if page.is_none() || items.len() >= limit {
                if page.is_some() || items.len() > limit {
                    output::note(format!(
                        "there are more than these {limit}; --limit N lists as many as you say"
                    ));
                }
                items.truncate(limit);
                return Ok(items);
            }
        }
    }

    /// Sends a document, reads one.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.document(self.request(method, path).json(body).timeout(ANSWER_TIMEOUT)).await
    }

    /// Does something that needs no body; whatever is answered is not looked at.
    pub async fn act(&self, method: Method, path: &str) -> Result<()> {
        self.answer(self.request(method, path).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    /// Does something that needs no body, and reads the document that is answered.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T> {
        self.document(self.request(method, path).query(query).timeout(ANSWER_TIMEOUT)).await
    }

    /// Asks for a job and reads what is accepted. Where the connection is lost it asks
    /// again; the service sees one request, which it knows by its key.
    pub async fn submit<T: DeserializeOwned>(&self, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        self.submit_after(path, body, SUBMISSION_PAUSE, BUSY_TIMEOUT).await
    }

    /// The same, with such a pause before it asks again, and so long where the service is busy.
    async fn submit_after<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
        pause: Duration,
        busy_max: Duration,
    ) -> Result<T> {
        let (key, begun) = (Uuid::new_v4().to_string(), Instant::now());
        let (mut tries, mut told, mut busy_since) = (1, false, None::<Instant>);
        loop {
            let request = self.planned(path, body).header("idempotency-key", &key);
            let error = match request.send().await {
                Ok(response) if response.status().is_success() => return self.read(response).await,
                Ok(response) => {
                    let pause = retry_after(response.headers()).unwrap_or(pause);
                    let refusal = self.refusal(response).await;
                    if tries == 1 || refusal.code() != Some("concurrency-limit") {
                        return Err(refusal);
                    }
                    // What was asked for before the connection was lost may be being planned still,
                    // and then nothing else tells what has become of it.
                    let is_planned = refusal.to_string().contains(OF_THE_KEY);
                    busy_since = if is_planned { None } else { busy_since.or_else(|| Some(Instant::now())) };
                    let is_late = busy_since.is_some_and(|since| since.elapsed() >= busy_max);
                    if is_late || begun.elapsed() >= PLAN_TIMEOUT {
                        return Err(refusal);
                    }
                    if !std::mem::replace(&mut told, true) {
                        output::note(format_args!(
                            "the connection was lost before the job was accepted; it is asked for again while the \
                             service says: {refusal}"
                        ));
                    }
                    sleep(pause).await;
                    continue;
                }
                Err(error) => error,
            };
            // Where nobody listens at all, nobody has begun to plan.
            if tries == SUBMISSIONS || (tries == 1 && error.is_connect()) {
                return Err(self.unreachable(&error));
            }
            tracing::debug!(%error, tries, "the connection was lost before the job was accepted");
            sleep(pause * tries).await;
            tries += 1;
        }
    }

    /// Asks for something that a plan is made for, and reads the document that is answered.
    pub async fn plan<T: DeserializeOwned>(&self, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        self.document(self.planned(path, body)).await
    }

    fn planned(&self, path: &str, body: Option<&impl Serialize>) -> RequestBuilder {
        let request = self.request(Method::POST, path).timeout(PLAN_TIMEOUT);
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    /// Uploads a component; `progress` is told of each piece that went out.
    pub async fn deploy(
        &self,
        name: &FunctionName,
        settings: &str,
        component: Bytes,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<Deployed> {
        let length = component.len();
        let pieces = (0..length).step_by(PIECE_BYTES).map(move |start| {
            let piece = component.slice(start..(start + PIECE_BYTES).min(length));
            progress(piece.len() as u64);
            Ok::<_, std::io::Error>(piece)
        });
        let request = self
            .request(Method::POST, &format!("/v1/functions/{name}/versions"))
            .header(header::CONTENT_TYPE, "application/wasm")
            .header(header::CONTENT_LENGTH, length)
            .header("x-fanfold-settings", settings)
            .timeout(DEPLOY_TIMEOUT)
            .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)));
        self.document(request).await
    }

    /// A request to a path of the API.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.endpoint()));
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token),
            None => request,
        }
    }

    /// The answer, when it is not a refusal.
    pub async fn answer(&self, request: RequestBuilder) -> Result<Response> {
        let response = self.any_answer(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// The answer, whatever its status.
    pub async fn any_answer(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    /// What a refusal says.
    pub async fn refusal(&self, response: Response) -> Error {
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        self.refusal_of(status, &body)
    }

    /// What the body of a refusal says.
    pub fn refusal_of(&self, status: StatusCode, body: &[u8]) -> Error {
        let Ok(problem) = serde_json::from_slice::<ProblemBody>(body) else {
            let error = Error::service(format!(
                "expected an answer of fanfold from {}, found HTTP status {status}",
                self.endpoint()
            ))
            .help("check --endpoint: something else may listen there");
            return if of_proxy(status) { error.without_answer(Unanswered::Lost) } else { error };
        };
        let detail = match &problem.guest_code {
            Some(code) => format!("{code}: {}", problem.detail),
            None => problem.detail,
        };
        let error = Error::from_answer(&problem.code, &detail, problem.request_id.as_deref());
        match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => error.help(format!(
                "no token is known for {}; give it by --token or FANFOLD_TOKEN, or start the service with \
                 `fanfold dev`, which leaves it where this program finds it",
                self.endpoint()
            )),
            (StatusCode::UNAUTHORIZED, Some(_)) => error.help(
                "the token is another service's; with `fanfold dev` it is in the file `token` under --data",
            ),
            _ => error,
        }
    }

    /// What came of asking for a function: where it is not there, with the names that it may
    /// have been meant for.
    pub async fn suggest<T>(&self, result: Result<T>, name: &FunctionName) -> Result<T> {
        let error = match result {
            Err(error) if error.code() == Some("function-not-found") => error,
            other => return other,
        };
        let Ok(list) = self.get::<FunctionList>("/v1/functions", &[]).await else { return Err(error) };
        let names: Vec<_> = list.functions.iter().map(|function| function.name.as_str()).collect();
        Err(match similar::closest(name.as_str(), &names) {
            Some(close) => error.help(format!("did you mean {close}?")),
            None if names.is_empty() => {
                error.help("nothing is deployed yet; begin with `fanfold deploy DIR`")
            }
            None => error,
        })
    }

    async fn document<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        self.read(self.answer(request).await?).await
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok(serde_json::from_slice(&body)?)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let endpoint = self.endpoint();
        if error.is_timeout() && !error.is_connect() {
            return self.late();
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let how = if error.is_connect() { Unanswered::NoConnection } else { Unanswered::Lost };
        // What one that speaks no TLS answers to its greeting is no record of TLS.
        let help = match cause.to_string().contains("InvalidContentType") {
            true => "what listens there speaks no TLS: write http:// instead of https://",
            false => "start it with `fanfold dev`, or say where it is by --endpoint or FANFOLD_ENDPOINT",
        };
        Error::service(format!("expected a service at {endpoint}, found none that answers: {cause}"))
            .help(help)
            .without_answer(how)
    }

    /// An answer that does not come in time.
    pub fn late(&self) -> Error {
        Error::service(format!("expected an answer from {} in time, found none", self.endpoint()))
            .help("see `fanfold doctor`; the service may be busy")
            .without_answer(Unanswered::Lost)
    }
}

/// How long the service wants to be left alone, if it says so in seconds; a minute at most.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(BUSY_TIMEOUT))
}

/// What proxies say of a service behind them that is away.
fn of_proxy(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// A piece of an upload: small enough for a bar that moves.
const PIECE_BYTES: usize = 64 << 10;

/// The token that is given. A variable that is set to nothing counts as not set.
fn given(token: Option<&str>) -> Option<&str> {
    token.filter(|token| !token.is_empty())
}

/// How a token travels. It is never part of an error.
fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        Error::usage("expected a token that fits into a header, found one with a line break or another control character")
            .help("give it by --token or FANFOLD_TOKEN as it stands in its file, without the end of the line")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads where a service is.
pub fn parse_endpoint(text: &str) -> Result<Url> {
    // Behind a user there may be a password, which is not shown. It would be sent in place of the token.
    if text.contains('@') {
        return Err(Error::usage("expected an endpoint without a user, found one")
            .help("write it as http://HOST:PORT; tokens and keys are given by themselves"));
    }
    let is_place = |url: &Url| {
        let is_plain = url.query().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain
    };
    Url::parse(text).ok().filter(is_place).ok_or_else(|| {
        Error::usage(format!("expected an endpoint such as {ENDPOINT_DEFAULT}, found {text:?}"))
            .help("write it with http:// or https://, and nothing behind the port but a path")
    })
}

fn http_client(endpoint: &Url) -> Result<reqwest::Client> {
    // An error says that a provider is installed already, and then that one serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("fanfold/", env!("CARGO_PKG_VERSION")));
    if endpoint.scheme() == "http" {
        // Root certificates take tens of milliseconds to load and are not needed.
        builder = builder.tls_certs_only([]);
    }
    if endpoint.host_str().is_some_and(is_local) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| Error::usage(format!("the HTTP client could not be made: {error}")))
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A status and a body; where there is none, the connection is lost.
    type Answer = Option<(&'static str, &'static str)>;

    /// A service that answers one connection after the other so.
    async fn answering(answers: &'static [Answer]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4096];
                assert!(stream.read(&mut asked).await.unwrap() > 0);
                let Some((status, body)) = answer else { continue };
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(text.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Client::open(Some(&endpoint), Some("t")).unwrap()
    }

    async fn submit(answers: &'static [Answer], busy_max: Duration) -> Result<Value> {
        let client = answering(answers).await;
        client.submit_after("/v1/jobs", None::<&Value>, Duration::from_millis(1), busy_max).await
    }

    #[tokio::test]
    async fn a_job_that_is_being_planned_still_is_asked_for_again() {
        const PLANNED: Answer = Some((
            "429 Planned",
            r#"{"code": "concurrency-limit", "detail": "the first request under this Idempotency-Key is planned"}"#,
        ));
        const BUSY: Answer = Some((
            "429 Busy",
            r#"{"code": "concurrency-limit", "detail": "at most 8 jobs are planned at once"}"#,
        ));
        const FULL: Answer = Some(("429 Full", r#"{"code": "queue-full", "detail": "too many jobs"}"#));
        const ACCEPTED: Answer = Some(("202 Accepted", r#"{"id": 7}"#));
        let planned = &[None, PLANNED, PLANNED, PLANNED, PLANNED, ACCEPTED];
        assert_eq!(submit(planned, Duration::ZERO).await.unwrap()["id"], 7);
        // Others than ours are waited for as well, but not for long.
        let busy = &[None, BUSY, PLANNED, BUSY, ACCEPTED];
        assert_eq!(submit(busy, BUSY_TIMEOUT).await.unwrap()["id"], 7);
        for refused in [&[None, PLANNED, BUSY, ACCEPTED], &[None, BUSY, PLANNED, ACCEPTED]] {
            let refused = submit(refused, Duration::ZERO).await.unwrap_err();
            assert!(refused.to_string().contains("at most 8 jobs"), "{refused}");
        }
        // Where nothing was lost, nothing of ours can be in the way.
        let refused = submit(&[PLANNED, ACCEPTED], BUSY_TIMEOUT).await.unwrap_err();
        assert_eq!(refused.code(), Some("concurrency-limit"));
        let refused = submit(&[None, FULL, ACCEPTED], BUSY_TIMEOUT).await.unwrap_err();
        assert_eq!(refused.code(), Some("queue-full"));
    }

    #[test]
    fn a_service_is_left_alone_for_as_long_as_it_says() {
        let check = |said: &'static str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(said))]);
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{said}");
        };
        check("5", Some(5));
        check("86400", Some(60));
        check("Mon, 30 Nov 2026 09:52:14 GMT", None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn an_empty_token_is_none() {
        assert_eq!(given(Some("given")), Some("given"));
        assert_eq!((given(Some("")), given(None)), (None, None));
    }

    #[tokio::test]
    async fn tls_is_not_asked_of_one_that_speaks_none() {
        let plain = answering(&[Some(("400 Bad Request", ""))]).await;
        let endpoint = plain.endpoint().replacen("http://", "https://", 1);
        let client = Client::open(Some(&endpoint), Some("t")).unwrap();
        let error = client.get::<Value>("/v1/functions", &[]).await.unwrap_err();
        assert!(error.advice().contains("write http://"), "{error}: {}", error.advice());
    }

    #[test]
    fn a_token_that_is_no_header_is_told_and_not_shown() {
        assert_eq!(bearer("t-0").unwrap(), "Bearer t-0");
        assert!(!format!("{:?}", bearer("t-0").unwrap()).contains("t-0"));
        for token in ["t-0\n", "t-0\nx", "t-0\u{7f}", "\0t-0"] {
            let error = Client::open(Some("http://127.0.0.1:1"), Some(token)).err().unwrap();
            assert_eq!(error.exit(), crate::error::Exit::Usage, "{token:?}");
            let said = format!("{error} {}", error.advice());
            assert!(said.contains("FANFOLD_TOKEN") && !said.contains("t-0"), "{said}");
        }
    }

    #[test]
    fn endpoints_are_urls() {
        let check = |text: &str, good: bool| assert_eq!(parse_endpoint(text).is_ok(), good, "{text}");
        check("http://127.0.0.1:7070", true);
        check("https://fanfold.example.org", true);
        check("127.0.0.1:7070", false);
        check("localhost:7070", false);
        check("ftp://x", false);
        check("", false);
        check("https://fanfold.example.org/behind/a/proxy", true);
        check("https://fanfold.example.org/?x=1", false);
        check("https://fanfold.example.org/#x", false);
        let refusal = parse_endpoint("https://me:secret@fanfold.example.org").unwrap_err().to_string();
        assert!(refusal.contains("without a user") && !refusal.contains("secret"), "{refusal}");
        assert!(is_local("127.0.0.1") && is_local("[::1]") && is_local("localhost") && !is_local("10.0.0.1"));
    }
}
