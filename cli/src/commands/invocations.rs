// SPDX-License-Identifier: Apache-2.0
//! `fanfold invocations`: asynchronous calls, from their acceptance to what they
//! returned, and what was given up.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::invoke;
use crate::{
    args::{Invocations, Letters, View},
    client::{Client, InvocationView, LetterView, Replayed, UsageView},
    error::{Error, Result},
    output::{self, Table},
};

/// Most lines that the service gives at once.
const PAGE_MAX: usize = 100;
const PATH: &str = "/v1/invocations";
const LETTERS: &str = "/v1/invocations/dead-letters";

/// Runs the subcommand.
pub async fn run(client: &Client, command: Invocations) -> Result<()> {
    match command {
        Invocations::Ls { state, function, limit, shown } => {
            let function = function.map(|name| name.to_string());
            let query = [("state", state.as_deref()), ("function", function.as_deref())];
            let found: Vec<Value> = client.pages(PATH, "invocations", &query, limit, PAGE_MAX).await?;
            let views: Vec<InvocationView> = serde_json::from_value(Value::Array(found.clone()))?;
            output::shown(shown.view, &json!({ "invocations": found }), |_| list(&views))
        }
        Invocations::Show { id, shown } => {
            let found: Value = client.get(&format!("{PATH}/{id}"), &[]).await?;
            let view: InvocationView = serde_json::from_value(found.clone())?;
            output::shown(shown.view, &found, |_| page(&view))
        }
        Invocations::Result { id, shown } => result(client, id, shown.view).await,
        Invocations::Cancel { id } => {
            client.act(Method::DELETE, &format!("{PATH}/{id}")).await?;
            output::note(format!("invocation {id} is cancelled"));
            Ok(())
        }
        Invocations::DeadLetters { limit, shown } => {
            let found: Vec<Value> = client.pages(LETTERS, "dead_letters", &[], limit, PAGE_MAX).await?;
            let views: Vec<LetterView> = serde_json::from_value(Value::Array(found.clone()))?;
            output::shown(shown.view, &json!({ "dead_letters": found }), |_| letters(&views))
        }
        Invocations::Replay { letters, shown } => {
            let chosen = if letters.all { json!({ "all": true }) } else { json!({ "ids": letters.ids }) };
            let answer: Value = client.send(Method::POST, &format!("{LETTERS}/replay"), &chosen).await?;
            let replayed: Vec<Replayed> = serde_json::from_value(answer["replayed"].clone())?;
            output::shown(shown.view, &answer, |_| {
                let mut table = Table::new(&["id", "replay of"]);
                replayed.iter().for_each(|one| table.row([one.id.to_string(), one.of.to_string()]));
                table.text()
            })
        }
        Invocations::Discard { letters } => discard(client, &letters).await,
    }
}

/// Prints what an invocation returned, as `fanfold invoke` prints it.
async fn result(client: &Client, id: Uuid, view: View) -> Result<()> {
    let response = client.any_answer(client.request(Method::GET, &format!("{PATH}/{id}/result"))).await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.map_err(|error| {
        Error::service(format!("the result of {id} from {} broke off: {error}", client.endpoint()))
    })?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let well = status.is_success() || status.is_redirection();
    if !well && invoke::is_problem(&body, header("x-request-id")) {
        let refusal = client.refusal_of(status, &body);
        let found = client.get::<InvocationView>(&format!("{PATH}/{id}"), &[]).await;
        let is_end = found.is_ok_and(|view| is_end_of_run(&view, refusal.code()));
        return Err(if is_end { refusal.of_run() } else { refusal });
    }
    invoke::show(&body, invoke::is_json(header("content-type")), view)?;
    if well {
        return Ok(());
    }
    Err(Error::failed(format!("the function answered with HTTP status {status}"))
        .help(format!("its log: fanfold logs {id}")))
}

/// Whether a refusal with this code is what an invocation ended with for which a sandbox ran.
fn is_end_of_run(view: &InvocationView, code: Option<&str>) -> bool {
    let is_end = view.problem.as_ref().is_some_and(|problem| Some(problem.code.as_str()) == code);
    let wall_us = view.usage.and_then(|usage| usage.wall_us).unwrap_or_default();
    view.state == "failed" && is_end && wall_us > 0
}

async fn discard(client: &Client, letters: &Letters) -> Result<()> {
    let ids: Vec<_> = letters.ids.iter().map(Uuid::to_string).collect();
    let ids = ids.join(",");
    let query = if letters.all { ("all", "true") } else { ("ids", ids.as_str()) };
    let answer: Value = client.ask(Method::DELETE, LETTERS, &[query]).await?;
    output::note(format!("discarded {}", answer["discarded"].as_u64().unwrap_or_default()));
    Ok(())
}

fn list(views: &[InvocationView]) -> String {
    let mut table = Table::new(&["id", "function", "state", ">attempts", "accepted"]);
    for view in views {
        table.row([
            view.id.to_string(),
            format!("{}@{}", view.function, view.version),
            view.state.clone(),
            view.attempts.to_string(),
            view.accepted_at.map(output::moment).unwrap_or_default(),
        ]);
    }
    table.text()
}

fn page(view: &InvocationView) -> String {
    let origin = view.origin.as_ref().map(|origin| {
        let of = origin.of.map(|of| of.to_string()).or_else(|| origin.name.clone());
        of.map_or_else(|| origin.kind.clone(), |of| format!("{} of {of}", origin.kind))
    });
    let answer = view.response.as_ref().map(|answer| {
        let kind = answer.content_type.as_deref().map(|kind| format!(", {kind}")).unwrap_or_default();
        format!("status {}, {}{kind}", answer.status, output::bytes(answer.bytes))
    });
    let problem = view.problem.as_ref().map(|problem| format!("{}: {}", problem.code, problem.detail));
    // What was cut off tells nobody what it took.
    let usage = view.ended_at.and(view.started_at).map(|_| view.usage.unwrap_or_default());
    let told = |value: fn(UsageView) -> Option<u64>, shown: fn(u64) -> String| {
        usage.map(|usage| value(usage).map_or_else(|| "unknown".to_owned(), shown)).unwrap_or_default()
    };
    output::pairs(&[
        ("id", view.id.to_string()),
        ("function", format!("{}@{}", view.function, view.version)),
        ("state", view.state.clone()),
        ("attempts", view.attempts.to_string()),
        ("origin", origin.unwrap_or_default()),
        ("accepted", view.accepted_at.map(output::moment).unwrap_or_default()),
        ("started", view.started_at.map(output::moment).unwrap_or_default()),
        ("ended", view.ended_at.map(output::moment).unwrap_or_default()),
        ("ran", told(|usage| usage.wall_us, output::span_us)),
        ("peak memory", told(|usage| usage.memory_bytes_peak, output::bytes)),
        ("progress", view.progress.map(output::progress).unwrap_or_default()),
        ("answer", answer.unwrap_or_default()),
        ("problem", problem.unwrap_or_default()),
    ])
}

fn letters(views: &[LetterView]) -> String {
    let mut table = Table::new(&["id", "function", "accepted", "reason"]);
    for view in views {
        table.row([
            view.id.clone(),
            view.function.as_ref().map(ToString::to_string).unwrap_or_default(),
            view.accepted_at.map(output::moment).unwrap_or_default(),
            view.reason.clone(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocations_are_read_as_the_service_writes_them() {
        let view = json!({
            "id": "0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a10", "function": "f", "version": 2, "state": "failed",
            "accepted_at": 0, "ended_at": 1_000, "attempts": 3, "usage": {},
            "progress": { "done": 1_200, "total": 5_000 },
            "origin": { "kind": "replay", "of": "0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a11" },
            "problem": { "code": "function-error", "detail": "no luck" }
        });
        let text = page(&serde_json::from_value(view).unwrap());
        for line in [
            "function  f@2",
            "attempts  3",
            "progress  1,200 of 5,000 done",
            "origin    replay of 0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a11",
            "problem   function-error: no luck",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("started") && !text.contains("unknown"), "{text}");
    }

    #[test]
    fn what_a_function_passed_on_is_told_from_what_the_service_refuses() {
        let check = |state: &str, wall_us: Option<u64>, code: &str, expected: bool| {
            let view = json!({
                "id": "0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a10", "function": "f", "version": 2, "state": state,
                "usage": { "wall_us": wall_us }, "problem": { "code": "access-denied", "detail": "no grant" }
            });
            let view = serde_json::from_value(view).unwrap();
            assert_eq!(is_end_of_run(&view, Some(code)), expected, "{state} {wall_us:?} {code}");
        };
        check("failed", Some(9), "access-denied", true);
        check("failed", Some(9), "unauthorized", false);
        check("failed", Some(0), "access-denied", false);
        check("failed", None, "access-denied", false);
        check("queued", Some(9), "access-denied", false);
    }

    #[test]
    fn what_is_not_known_of_an_invocation_is_shown_as_that() {
        let check = |usage: Value, expected: [&str; 2]| {
            let view = json!({
                "id": "0192d3a4-6c1e-7b52-9a41-3f0c5d2e8a10", "function": "f", "version": 2, "state": "cancelled",
                "started_at": 0, "ended_at": 1_000, "usage": usage,
            });
            let text = page(&serde_json::from_value(view).unwrap());
            for line in expected {
                assert!(text.contains(line), "{line} is not in {text}");
            }
        };
        check(Value::Null, ["ran          unknown", "peak memory  unknown"]);
        check(json!({ "wall_us": 1_500 }), ["ran          1.5 ms", "peak memory  unknown"]);
        let whole = json!({ "wall_us": 0, "memory_bytes_peak": 0, "cpu_us": 0 });
        check(whole, ["ran          0 µs", "peak memory  0 B"]);
    }
}
