// SPDX-License-Identifier: Apache-2.0
//! Waiting for a job: a bar on a terminal, lines elsewhere.
//!
//! The events are a convenience; whether the job has ended, its state says. A
//! stream that breaks is resumed, so that a restart of the service is no more
//! than a pause.

use std::{io::IsTerminal, time::Duration};

use indicatif::ProgressBar;
use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use super::show;
use crate::{
    client::{Client, Event, Events, FailureView, JobView, ProgressView, SkippedView},
    error::{Error, Exit, Result},
    output,
};

/// Before a broken stream is resumed.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a service that does not answer is tried: about half a minute.
const TRIES: u32 = 60;
/// Failures told one by one; a job may have a million.
const FAILURES_TOLD: u32 = 20;

/// Follows a job to its end, and gives it as the service shows it.
pub async fn follow(client: &Client, id: Uuid) -> Result<Value> {
    follow_every(client, id, PAUSE).await
}

async fn follow_every(client: &Client, id: Uuid, pause: Duration) -> Result<Value> {
    let mut told = Telling::new();
    let mut last_id: Option<String> = None;
    let mut tries = 0;
    loop {
        match events(client, id, last_id.as_deref()).await {
            Ok(mut events) => {
                while let Some(event) = events.next().await {
                    tries = 0;
                    told.tell(&event);
                    last_id = event.id.or(last_id);
                    if event.name == "done" {
                        told.end();
                        return Ok(serde_json::from_str(&event.data)?);
                    }
                }
            }
            Err(error) if !may_pass(&error) || tries >= TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        if let Ok(job) = client.get::<Value>(&format!("/v1/jobs/{id}"), &[]).await {
            // It answers, whatever it has against a stream.
            tries = 0;
            if serde_json::from_value::<JobView>(job.clone())?.state.is_terminal() {
                told.end();
                return Ok(job);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn events(client: &Client, id: Uuid, last_id: Option<&str>) -> Result<Events> {
    let mut request = client.request(Method::GET, &format!("/v1/jobs/{id}/events"));
    if let Some(last_id) = last_id {
        request = request.header("last-event-id", last_id);
    }
    Ok(Events::new(client.answer(request).await?))
}

/// A service that cannot be reached now may be restarting, and one may have too many
/// streams open.
fn may_pass(error: &Error) -> bool {
    error.exit() == Exit::Service
        && matches!(error.code(), None | Some("shutting-down" | "backbone-unavailable" | "concurrency-limit"))
}

/// Tells a person how far the job is.
struct Telling {
    bar: Option<ProgressBar>,
    failures: u32,
    line: String,
}

impl Telling {
    fn new() -> Self {
        let template = "{spinner} {wide_bar} {pos}/{len} tasks {msg}";
        let bar = std::io::stderr().is_terminal().then(|| output::bar(0, template));
        Self { bar, failures: 0, line: String::new() }
    }

    fn tell(&mut self, event: &Event) {
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
    let rows = progress.receipt.rows_in;
    let mut text = if rows == 0 { String::new() } else { format!("{} rows", output::count(rows)) };
    if progress.tasks.failed > 0 {
        text.push_str(&format!(" {} failed", progress.tasks.failed));
    }
    if let Some(eta_ms) = progress.eta_ms {
        text.push_str(&format!(" {} left", show::left(eta_ms, progress.eta_range_ms)));
    }
    text.trim_start().to_owned()
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
    use http_body_util::Full;
    use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn progress_and_failures_are_told() {
        let progress = serde_json::json!({
            "tasks": {"total": 32, "waiting": 2, "running": 2, "done": 27, "failed": 1},
            "eta_ms": 4_000, "eta_range_ms": [3_000, 5_000], "receipt": {"attempts": 28, "rows_in": 1_234_567, "wall_ms": 1}
        });
        let progress: ProgressView = serde_json::from_value(progress).unwrap();
        assert_eq!(text(&progress), "1,234,567 rows 1 failed 4.00 s (3.00 s to 5.00 s) left");
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

    #[tokio::test]
    async fn a_job_is_followed_by_its_state_as_long_as_streams_are_refused() {
        let (id, asked) = (Uuid::from_u128(7), Arc::new(AtomicU32::new(0)));
        let answer = move |request: Request<Incoming>| {
            let (status, body) = if request.uri().path().ends_with("/events") {
                (429, serde_json::json!({"code": "concurrency-limit", "detail": "too many streams"}))
            } else {
                let ended = asked.fetch_add(1, Ordering::SeqCst) > TRIES;
                let state = if ended { "succeeded" } else { "running" };
                let job = serde_json::json!({"id": id, "function": "f", "version": 1, "state": state, "submitted_at": 0});
                (200, job)
            };
            let body = Full::new(Bytes::from(body.to_string()));
            std::future::ready(Response::builder().status(status).body(body))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(answer.clone());
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let client = Client::open(Some(&endpoint), Some("t")).unwrap();
        let job = follow_every(&client, id, Duration::from_millis(1)).await.unwrap();
        assert_eq!(job["state"], "succeeded");
    }

    #[test]
    fn only_a_service_that_may_come_back_is_waited_for() {
        assert!(may_pass(&Error::service("connection refused")));
        assert!(may_pass(&Error::from_answer("shutting-down", "", None)));
        assert!(!may_pass(&Error::from_answer("job-not-found", "", None)));
        assert!(!may_pass(&Error::from_answer("unauthorized", "", None)));
    }
}
