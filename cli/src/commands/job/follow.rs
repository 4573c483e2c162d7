// SPDX-License-Identifier: Apache-2.0
//! Waiting for a job: a bar on a terminal, lines elsewhere.
//!
//! The events are a convenience; whether the job has ended, its state says. A
//! stream that breaks is resumed, so that a restart of the service is no more
//! than a pause. Invariant: a service that is away is waited for by the clock,
//! however long each try takes, and that is said.

use std::{io::IsTerminal, time::Duration};

use indicatif::ProgressBar;
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::show;
use crate::{
    client::{Client, Event, Events, FailureView, JobView, ProgressView, ReceiptView, SkippedView},
    error::{Error, Result, Unanswered},
    output,
};

/// On an answer, or the beginning of one.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Failures told one by one; a job may have a million.
const FAILURES_TOLD: u32 = 20;

/// How a service that is away is waited for.
#[derive(Clone, Copy)]
struct Patience {
    /// Between two tries.
    pause: Duration,
    /// Since it was last heard of.
    silence: Duration,
}

const PATIENCE: Patience = Patience { pause: Duration::from_millis(500), silence: Duration::from_secs(30) };

/// Follows a job that was just accepted to its end, and gives it as the service shows it.
pub async fn follow(client: &Client, id: Uuid) -> Result<Box<RawValue>> {
    follow_with(client, id, PATIENCE, true).await
}

/// The same of a job that somebody names: where nobody listens at all, nobody is waited for.
pub async fn watch(client: &Client, id: Uuid) -> Result<Box<RawValue>> {
    follow_with(client, id, PATIENCE, false).await
}

async fn follow_with(
    client: &Client,
    id: Uuid,
    patience: Patience,
    mut reached: bool,
) -> Result<Box<RawValue>> {
    let mut told = Telling::new();
    let mut last_id: Option<String> = None;
    let mut heard = Instant::now();
    loop {
        let refused = match in_time(client, events(client, id, last_id.as_deref())).await {
            Ok(mut events) => {
                while let Some(event) = events.next().await {
                    told.tell(&event);
                    last_id = event.id.or(last_id);
                    if event.name == "done" {
                        told.end();
                        return Ok(serde_json::from_str(&event.data)?);
                    }
                }
                // It was there until now, however long it had nothing to tell.
                (heard, reached) = (Instant::now(), true);
                None
            }
            Err(error) if !may_pass(&error, reached) => return Err(error),
            Err(error) => Some(error),
        };
        match in_time(client, client.get::<Box<RawValue>>(&format!("/v1/jobs/{id}"), &[])).await {
            Ok(job) => {
                // It answers, whatever it has against a stream.
                (heard, reached) = (Instant::now(), true);
                told.answers();
                if serde_json::from_str::<JobView>(job.get())?.state.is_terminal() {
                    told.end();
                    return Ok(job);
                }
            }
            Err(error) if heard.elapsed() >= patience.silence => return Err(refused.unwrap_or(error)),
            Err(_) => told.waits(client.endpoint()),
        }
        tokio::time::sleep(patience.pause).await;
    }
}

/// An answer, unless it lets itself be waited for too long.
async fn in_time<T>(client: &Client, answer: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ANSWER_PATIENCE, answer).await.unwrap_or_else(|_| Err(client.late()))
}

async fn events(client: &Client, id: Uuid, last_id: Option<&str>) -> Result<Events> {
    let mut request = client.request(Method::GET, &format!("/v1/jobs/{id}/events"));
    if let Some(last_id) = last_id {
        request = request.header("last-event-id", last_id);
    }
    let answer = client.answer(request).await?;
    let kind = answer.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // Without content once all was told.
    if answer.status() == StatusCode::NO_CONTENT || kind.starts_with(b"text/event-stream") {
        return Ok(Events::new(answer));
    }
    Err(Error::service(format!(
        "expected events of fanfold from {}, found something else",
        client.endpoint()
    ))
    .help("check --endpoint: something else may listen there"))
}

/// A service that was reached and now does not answer may be restarting, and one may have too many
/// streams open. What answers otherwise than fanfold does is something else.
fn may_pass(error: &Error, reached: bool) -> bool {
    match error.unanswered() {
        Some(Unanswered::NoConnection) => reached,
        Some(Unanswered::Lost) => true,
        None => {
            matches!(error.code(), Some("shutting-down" | "backbone-unavailable" | "concurrency-limit"))
        }
    }
}

/// A service as whoever asks it again and again waits for it while it restarts.
#[derive(Default)]
pub struct Away {
    /// Whether anybody ever listened.
    reached: bool,
    /// Since when it has not answered.
    since: Option<Instant>,
}

impl Away {
    /// Whether it was reached before.
    pub fn was_reached(&self) -> bool {
        self.reached
    }

    /// It is reached, whatever comes of that. Says whether it was before, and was waited for since.
    pub fn reach(&mut self) -> bool {
        std::mem::replace(&mut self.reached, true) && self.since.is_some()
    }

    /// It answered as it should.
    pub fn answers(&mut self) {
        *self = Self { reached: true, since: None };
    }

    /// Comes back when it is to be asked again, after an error that may pass.
    ///
    /// # Errors
    /// This one, where it does not pass, or has not for too long.
    pub async fn wait(&mut self, error: Error) -> Result<()> {
        self.wait_with(error, PATIENCE).await
    }

    async fn wait_with(&mut self, error: Error, patience: Patience) -> Result<()> {
        if !may_pass(&error, self.reached) {
            return Err(error);
        }
        match self.since {
            Some(since) if since.elapsed() >= patience.silence => return Err(error),
            Some(_) => {}
            None => {
                self.since = Some(Instant::now());
                output::note(format!("{error}; trying again"));
            }
        }
        tokio::time::sleep(patience.pause).await;
        Ok(())
    }
}

/// Tells a person how far the job is.
struct Telling {
    bar: Option<ProgressBar>,
    failures: u32,
    line: String,
    /// Whether it was said that the service does not answer.
    waits: bool,
}

impl Telling {
    fn new() -> Self {
        let template = "{spinner} {wide_bar} {pos}/{len} tasks {msg}";
        let bar = std::io::stderr().is_terminal().then(|| output::bar(0, template));
        Self { bar, failures: 0, line: String::new(), waits: false }
    }

    /// Says once that the service is waited for.
    fn waits(&mut self, endpoint: &str) {
        if !std::mem::replace(&mut self.waits, true) {
            self.say(format!("{endpoint} does not answer; trying again"));
        }
    }

    fn answers(&mut self) {
        self.waits = false;
    }

    fn tell(&mut self, event: &Event) {
        self.answers();
        match event.name.as_str() {
            "progress" => {
                if let Ok(progress) = serde_json::from_str(&event.data) {
                    self.progress(&progress);
                }
            }
            "task-failed" => {
                if let Ok(failure) = serde_json::from_str(&event.data) {
                    self.failure(&failure);
                }
            }
            "failures-skipped" => {
                if let Ok(skipped) = serde_json::from_str(&event.data) {
                    self.skipped(&skipped);
                }
            }
            _ => {}
        }
    }

    fn progress(&mut self, progress: &ProgressView) {
        let text = text(progress);
        match &self.bar {
            Some(bar) => {
                bar.set_length(progress.tasks.total);
                bar.set_position(progress.tasks.done);
                bar.set_message(text);
            }
            None => {
                let line = format!("{}/{} tasks {text}", progress.tasks.done, progress.tasks.total);
                if line != self.line {
                    output::note(&line);
                    self.line = line;
                }
            }
        }
    }

    fn failure(&mut self, failure: &FailureView) {
        self.failures += 1;
        match self.failures.cmp(&FAILURES_TOLD) {
            std::cmp::Ordering::Less => self.say(failure_text(failure)),
            std::cmp::Ordering::Equal => self.say("more attempts failed; see `fanfold job tasks`".to_owned()),
            std::cmp::Ordering::Greater => {}
        }
    }

    fn skipped(&self, skipped: &SkippedView) {
        if self.failures < FAILURES_TOLD {
            self.say(skipped_text(skipped));
        }
    }

    fn say(&self, text: String) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => output::note(text),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn text(progress: &ProgressView) -> String {
    let ReceiptView { rows_in, bytes_in, .. } = progress.receipt;
    let failed = progress.tasks.failed;
    let some = |number: u64, text: String| (number > 0).then_some(text);
    let parts = [
        some(rows_in, format!("{} rows", output::count(rows_in))),
        some(bytes_in, format!("{} read", output::bytes(bytes_in))),
        some(failed, format!("{failed} failed")),
        progress.eta_ms.map(|eta_ms| format!("{} left", show::left(eta_ms, progress.eta_range_ms))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn failure_text(failure: &FailureView) -> String {
    let FailureView { stage, task, attempt, given_up, problem } = failure;
    let then = if *given_up { "given up" } else { "it is tried again" };
    let text =
        format!("task {stage}/{task}, attempt {attempt}: {}: {} ({then})", problem.code, problem.detail);
    // The function says what it failed of, and a bar prints what it is given.
    output::harmless(&text)
}

fn skipped_text(skipped: &SkippedView) -> String {
    format!("{} more attempts failed; see `fanfold job tasks`", output::count(skipped.skipped))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use bytes::Bytes;
    use fanfold_protocol::job::JobState;
    use http_body_util::Full;
    use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn progress_and_failures_are_told() {
        let progress = serde_json::json!({
            "tasks": {"total": 32, "waiting": 2, "running": 2, "done": 27, "failed": 1},
            "eta_ms": 4_000, "eta_range_ms": [3_000, 5_000], "receipt": {"attempts": 28, "rows_in": 1_234_567, "bytes_in": 3 << 20, "wall_ms": 1}
        });
        let progress: ProgressView = serde_json::from_value(progress).unwrap();
        assert_eq!(
            text(&progress),
            "1,234,567 rows, 3.00 MiB read, 1 failed, 4.00 s (3.00 s to 5.00 s) left"
        );
        assert_eq!(text(&ProgressView::default()), "");
        let failure = serde_json::json!({
            "number": 1, "stage": 0, "task": 7, "attempt": 1, "given_up": false,
            "problem": {"code": "guest-panicked", "title": "t", "detail": "at x\u{1b}[2J", "type": "/x", "retryable": true}
        });
        let failure: FailureView = serde_json::from_value(failure).unwrap();
        assert_eq!(
            failure_text(&failure),
            "task 0/7, attempt 1: guest-panicked: at x\\u{1b}[2J (it is tried again)"
        );
        let skipped = serde_json::json!({"skipped": 1_200, "failures": 1_208, "tasks": "/v1/jobs/x/tasks"});
        let skipped: SkippedView = serde_json::from_value(skipped).unwrap();
        assert_eq!(skipped_text(&skipped), "1,200 more attempts failed; see `fanfold job tasks`");
    }

    /// Where a service listens that answers so.
    async fn serve(answer: impl Fn(Request<Incoming>) -> (u16, String) + Clone + Send + 'static) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let (status, body) = answer(request);
                    std::future::ready(Response::builder().status(status).body(Full::new(Bytes::from(body))))
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Client::open(Some(&endpoint), Some("t")).unwrap()
    }

    const BRIEF: Patience = Patience { pause: Duration::from_millis(1), silence: Duration::from_millis(200) };

    #[tokio::test]
    async fn a_job_is_followed_by_its_state_as_long_as_streams_are_refused() {
        let (id, asked) = (Uuid::from_u128(7), Arc::new(AtomicU32::new(0)));
        let client = serve(move |request| {
            if request.uri().path().ends_with("/events") {
                return (429, r#"{"code": "concurrency-limit", "detail": "too many streams"}"#.to_owned());
            }
            let ended = asked.fetch_add(1, Ordering::SeqCst) > 60;
            let state = if ended { "succeeded" } else { "running" };
            let job = serde_json::json!({"id": id, "function": "f", "version": 1, "state": state, "submitted_at": 0});
            (200, job.to_string())
        });
        let job = follow_with(&client.await, id, BRIEF, false).await.unwrap();
        assert_eq!(serde_json::from_str::<JobView>(job.get()).unwrap().state, JobState::Succeeded);
    }

    #[tokio::test]
    async fn a_service_that_is_away_is_waited_for_by_the_clock() {
        let id = Uuid::from_u128(7);
        let begun = Instant::now();
        let away = serve(|_| (503, "<html>".to_owned())).await;
        assert!(follow_with(&away, id, BRIEF, false).await.unwrap_err().to_string().contains("503"));
        assert!(begun.elapsed() >= BRIEF.silence);
        // Nobody listens at port 1.
        let nobody = Client::open(Some("http://127.0.0.1:1"), Some("t")).unwrap();
        let begun = Instant::now();
        assert!(follow_with(&nobody, id, BRIEF, true).await.is_err() && begun.elapsed() >= BRIEF.silence);
        // In these cases for no time at all.
        let endless = Patience { silence: Duration::MAX, ..BRIEF };
        assert!(follow_with(&nobody, id, endless, false).await.is_err());
        for (status, said) in [(404, "an answer of fanfold"), (200, "events of fanfold")] {
            let another = serve(move |_| (status, "<html>".to_owned())).await;
            let error = follow_with(&another, id, endless, true).await.unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn only_a_service_that_may_come_back_is_waited_for() {
        let gone = |how| Error::service("x").without_answer(how);
        assert!(may_pass(&gone(Unanswered::NoConnection), true));
        assert!(!may_pass(&gone(Unanswered::NoConnection), false));
        assert!(may_pass(&gone(Unanswered::Lost), false));
        assert!(may_pass(&Error::from_answer("shutting-down", "", None), false));
        assert!(!may_pass(&Error::from_answer("job-not-found", "", None), true));
        assert!(!may_pass(&Error::from_answer("unauthorized", "", None), true));
        assert!(!may_pass(&Error::service("an answer of something else"), true));
    }

    #[tokio::test]
    async fn whoever_asks_again_and_again_waits_for_a_service_that_was_there() {
        let gone = || Error::service("x").without_answer(Unanswered::NoConnection);
        let mut away = Away::default();
        assert!(away.wait_with(gone(), BRIEF).await.is_err());
        // Too many streams are open: what was not begun does not go on.
        assert!(away.wait_with(Error::from_answer("concurrency-limit", "", None), BRIEF).await.is_ok());
        assert!(!away.reach());
        away.answers();
        assert!(away.wait_with(gone(), BRIEF).await.is_ok());
        assert!(away.wait_with(Error::from_answer("job-not-found", "", None), BRIEF).await.is_err());
        assert!(away.reach());
        away.answers();
        assert!(!away.reach());
        let begun = Instant::now();
        while away.wait_with(gone(), BRIEF).await.is_ok() {}
        assert!(begun.elapsed() >= BRIEF.silence);
    }

    #[test]
    fn it_is_said_once_that_a_service_is_waited_for() {
        let mut told = Telling::new();
        told.waits("http://127.0.0.1:1");
        assert!(told.waits);
        told.tell(&Event::default());
        assert!(!told.waits);
    }
}
