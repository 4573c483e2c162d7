// SPDX-License-Identifier: Apache-2.0
//! Jobs as a client meets them.

use fanfold_protocol::{ErrorKind, Problem, function::Export};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{self, Service},
    way::{Trouble, Way},
    world::{BUCKET, Play, World, version},
};

async fn service() -> (World, Service) {
    let world = World::new().await;
    world.inputs(4).await;
    let service = world.base.serve(|_| {}).await;
    service.app.registry.publish(version("mapper", vec![Export::Mapper])).await.unwrap();
    service.app.registry.publish(version("folder", vec![Export::Aggregator])).await.unwrap();
    (world, service)
}

async fn post(service: &Service, body: impl Into<String>, kind: &str) -> harness::Reply {
    service.request(Method::POST, "/v1/jobs", &[("content-type", kind)], body.into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_submitted_watched_and_read() {
    let (world, service) = service().await;
    let job = "function = \"folder\"\ninput = [\"s3://bank/in/*.csv\"]\n\
               [split]\ntarget_bytes = \"4B\"\n[retry]\nbackoff = \"10ms\"\n";
    let accepted = post(&service, job, "application/toml").await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(accepted.header("location"), format!("/v1/jobs/{id}"));
    let early = service.get(&format!("/v1/jobs/{id}/result")).await;
    early.is_problem(ErrorKind::JobNotFinished);
    let _worker = world.work(Play::default());
    // The stream ends by itself after `done`.
    let events = service.get(&format!("/v1/jobs/{id}/events")).await;
    let text = String::from_utf8(events.body.to_vec()).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert!(names.contains(&"progress"), "{text}");
    assert_eq!((names.first(), names.last()), (Some(&"state"), Some(&"done")), "{text}");
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap();
    let done: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        (&done["state"], &done["result"]),
        (&json!("succeeded"), &json!({"fold": "(000 001 002 003)"}))
    );
    let shown = service.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(shown["tasks"], json!({"total": 5, "waiting": 0, "running": 0, "done": 5, "failed": 0}));
    assert_eq!(service.get(&format!("/v1/jobs/{id}/result")).await.json(), done["result"]);
    let report = service.get(&format!("/v1/jobs/{id}/report")).await;
    assert_eq!((report.status, report.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    let page = String::from_utf8(report.body.to_vec()).unwrap();
    assert!(page.contains("<td>(000 001 002 003)</td>"), "{page}");
    assert_eq!(service.get(&format!("/v1/jobs/{id}/manifest")).await.json()["objects"], json!([]));
    let tasks = service.get(&format!("/v1/jobs/{id}/tasks?state=done&limit=2")).await.json();
    assert_eq!((tasks["tasks"].as_array().unwrap().len(), &tasks["next"]), (2, &json!("3-0-1")));
    let rest = service.get(&format!("/v1/jobs/{id}/tasks?state=done&limit=9&page=3-0-1")).await.json();
    let places: Vec<_> =
        rest["tasks"].as_array().unwrap().iter().map(|task| (&task["stage"], &task["task"])).collect();
    assert_eq!(places, [(&json!(0), &json!(2)), (&json!(0), &json!(3)), (&json!(1), &json!(0))]);
    service.get(&format!("/v1/jobs/{id}/tasks?page=2")).await.is_problem(ErrorKind::InvalidRequest);
    let list = service.get("/v1/jobs?state=succeeded&function=folder").await.json();
    assert_eq!(list["jobs"][0]["id"], json!(id));
    service
        .request(Method::POST, &format!("/v1/jobs/{id}/cancel"), &[], "")
        .await
        .is_problem(ErrorKind::JobFinished);
    service
        .request(Method::POST, &format!("/v1/jobs/{id}/retry"), &[], "")
        .await
        .is_problem(ErrorKind::JobFinished);
}

/// The events of a job after this one: name, id and data of each.
async fn events(service: &Service, id: &str, last: Option<&str>) -> Vec<(String, String, Value)> {
    let headers: Vec<_> = last.iter().map(|last| ("last-event-id", *last)).collect();
    let answer = service.request(Method::GET, &format!("/v1/jobs/{id}/events"), &headers, "").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let member = |event: &str, name: &str| {
        event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned).unwrap_or_default()
    };
    let events = text.split("\n\n").filter(|event| event.contains("data: "));
    let read = |event: &str| {
        let data = serde_json::from_str::<Value>(&member(event, "data: ")).unwrap();
        (member(event, "event: "), member(event, "id: "), data)
    };
    events.map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_and_a_stream_is_resumed() {
    let (world, service) = service().await;
    world.inputs(21).await;
    let _worker = world.work(Play {
        fails: Box::new(|_, task| {
            (task.index > 0).then(|| Problem::new(ErrorKind::ValueMismatch, "expected a pear"))
        }),
        ..Play::default()
    });
    let job = json!({
        "function": "mapper", "input": "s3://bank/in/", "output": "s3://bank/out/", "cache": false,
        "split": {"target_bytes": "4B"}, "retry": {"attempts": 1}, "limits": {"tolerated_failures": 20}
    });
    let accepted = post(&service, job.to_string(), "application/json").await;
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    let told = |events: &[(String, String, Value)]| -> Vec<(String, u64)> {
        let told = |(name, _, data): &(String, String, Value)| match name.as_str() {
            "task-failed" => Some((name.clone(), data["number"].as_u64().unwrap())),
            "failures-skipped" => Some((name.clone(), data["skipped"].as_u64().unwrap())),
            _ => None,
        };
        events.iter().filter_map(told).collect()
    };
    let one_by_one = |numbers: std::ops::RangeInclusive<u64>| -> Vec<(String, u64)> {
        numbers.map(|number| ("task-failed".to_owned(), number)).collect()
    };
    // As it runs: every failure, by itself or by number.
    let live = told(&events(&service, &id, None).await);
    let count = |(name, number): &(String, u64)| if name == "task-failed" { 1 } else { *number };
    assert_eq!(live.iter().map(count).sum::<u64>(), 20, "{live:?}");
    // Too late for the first ones: how many there were, and where they are.
    let late = events(&service, &id, None).await;
    let names: Vec<_> = late.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!((names[0], names[1], names.last()), ("state", "failures-skipped", Some(&"done")));
    assert_eq!(told(&late)[1..], one_by_one(13..=20));
    let skipped = json!({"skipped": 12, "failures": 20, "tasks": format!("/v1/jobs/{id}/tasks")});
    assert_eq!(late[1].2, skipped);
    let listed = service.get(&format!("/v1/jobs/{id}/tasks?state=failed")).await.json();
    assert_eq!(listed["tasks"].as_array().unwrap().len(), 20);
    // A stream that broke within the failures goes on behind the one that came last.
    let (_, last, _) = late.iter().find(|(_, _, data)| data["number"] == 15).unwrap();
    assert_eq!(told(&events(&service, &id, Some(last.as_str())).await), one_by_one(16..=20));
    let (_, end, _) = late.last().unwrap();
    let headers = [("last-event-id", end.as_str())];
    let again = service.request(Method::GET, &format!("/v1/jobs/{id}/events"), &headers, "").await;
    assert_eq!((again.status, again.body.len()), (StatusCode::NO_CONTENT, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_run_again() {
    let (world, service) = service().await;
    let job = json!({
        "function": "mapper", "input": "s3://bank/in/", "output": "s3://bank/out/",
        "split": {"target_bytes": "4B"}
    });
    let id =
        post(&service, job.to_string(), "application/json").await.json()["id"].as_str().unwrap().to_owned();
    let cancelled = service.request(Method::POST, &format!("/v1/jobs/{id}/cancel"), &[], "").await;
    assert_eq!((cancelled.status, &cancelled.json()["state"]), (StatusCode::ACCEPTED, &json!("cancelled")));
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "fanfold_jobs_ended_total{state=\"cancelled\"} 1",
        // There before the first one, so that its increase is seen.
        "fanfold_jobs_ended_total{state=\"failed\"} 0",
        "fanfold_job_dead_letters_total 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let retry = format!("/v1/jobs/{id}/retry");
    let compared = service.request(Method::POST, &format!("{retry}?dry_run=true"), &[], "").await;
    assert_eq!(compared.status, StatusCode::OK);
    let compared = compared.json();
    assert_eq!(
        (&compared["of"], &compared["unfinished"], &compared["run"]),
        (&json!(id), &json!(4), &json!(4))
    );
    assert_eq!(
        compared["differences"][3],
        json!({"change": "unfinished", "task": 3, "input": ["s3://bank/in/003.csv"]})
    );
    service
        .request(Method::POST, &format!("{retry}?dry=1"), &[], "")
        .await
        .is_problem(ErrorKind::InvalidRequest);
    let key = [("idempotency-key", "again")];
    let accepted = service.request(Method::POST, &retry, &key, "").await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    let again = accepted.json()["id"].as_str().unwrap().to_owned();
    let repeated = service.request(Method::POST, &retry, &key, "").await;
    assert_eq!((repeated.status, &repeated.json()["id"]), (StatusCode::ACCEPTED, &json!(again)));
    service
        .request(Method::POST, &format!("/v1/jobs/{again}/retry"), &key, "")
        .await
        .is_problem(ErrorKind::IdempotencyConflict);
    service
        .request(Method::POST, &retry, &[("idempotency-key", "")], "")
        .await
        .is_problem(ErrorKind::InvalidRequest);
    assert_eq!(accepted.header("location"), format!("/v1/jobs/{again}"));
    assert_eq!(accepted.json()["retry"]["of"], json!(id));
    service
        .request(Method::POST, &format!("/v1/jobs/{again}/retry"), &[], "")
        .await
        .is_problem(ErrorKind::JobNotFinished);
    let _worker = world.work(Play::default());
    let events = service.get(&format!("/v1/jobs/{again}/events")).await;
    let text = String::from_utf8(events.body.to_vec()).unwrap();
    assert!(text.contains("\"state\":\"succeeded\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_ask_what_a_retry_would_run() {
    let (_world, service) = service().await;
    let job = json!({"function": "mapper", "input": "s3://bank/in/", "output": "s3://bank/out/"});
    let accepted = post(&service, job.to_string(), "application/json").await.json();
    let job = format!("/v1/jobs/{}", accepted["id"].as_str().unwrap());
    service.request(Method::POST, &format!("{job}/cancel"), &[], "").await;
    let retry = async |body: &str, kind: &str| {
        let headers = [("content-type", kind)];
        service.request(Method::POST, &format!("{job}/retry"), &headers, body.to_owned()).await
    };
    let compared = retry("{\"dry_run\": true}", "application/json").await;
    assert_eq!((compared.status, &compared.json()["unfinished"]), (StatusCode::OK, &json!(1)));
    retry("{\"dryrun\": true}", "application/json").await.is_problem(ErrorKind::InvalidRequest);
    retry("dry_run=true", "application/x-www-form-urlencoded")
        .await
        .is_problem(ErrorKind::UnsupportedMediaType);
    assert_eq!(retry("", "application/x-www-form-urlencoded").await.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_say_what_is_wrong() {
    let (_world, service) = service().await;
    post(&service, "{\"function\": \"mapper\", \"inptu\": 1}", "application/json")
        .await
        .is_problem(ErrorKind::InvalidJob);
    let problem = post(&service, "function = ", "application/toml").await.is_problem(ErrorKind::InvalidJob);
    assert!(!problem["detail"].as_str().unwrap().contains('\n'), "{problem}");
    for path in ["/v1/jobs", "/v1/jobs/estimate"] {
        let job =
            json!({"function": "mapper", "input": "s3://bank/in/", "output": "s3://bank/o/", "depth": 3});
        let headers = [("content-type", "application/json")];
        let reply = service.request(Method::POST, path, &headers, job.to_string()).await;
        let problem = reply.is_problem(ErrorKind::InvalidJob);
        assert!(problem["detail"].as_str().unwrap().starts_with("depth is for triggers"), "{problem}");
    }
    post(&service, "x", "text/csv").await.is_problem(ErrorKind::UnsupportedMediaType);
    for path in [
        "/v1/jobs/x",
        "/v1/jobs/00000000-0000-7000-8000-000000000000",
        "/v1/jobs/x/events",
        "/v1/jobs/x/tasks",
    ] {
        service.get(path).await.is_problem(ErrorKind::JobNotFound);
    }
    for path in ["/v1/jobs?state=odd", "/v1/jobs?page=x", "/v1/jobs?limit=0", "/v1/jobs?sate=failed"] {
        service.get(path).await.is_problem(ErrorKind::InvalidRequest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_the_platform_is_told_as_that() {
    let mut world = World::new().await;
    let means = |asked: &str| asked.starts_with(&format!("GET /{BUCKET}/"));
    let way = Way::to(world.store(), Trouble::Refuse(StatusCode::FORBIDDEN), means).await;
    world.base.store = way.store();
    let service = world.base.serve(|_| {}).await;
    let unknown = "/v1/jobs/00000000-0000-7000-8000-000000000000";
    way.shut();
    let problem = service.get(unknown).await.is_problem(ErrorKind::StoreDenied);
    assert!(problem["detail"].as_str().unwrap().ends_with("tell the operator"), "{problem}");
    way.open();
    service.get(unknown).await.is_problem(ErrorKind::JobNotFound);
}
