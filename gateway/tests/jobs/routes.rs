// SPDX-License-Identifier: Apache-2.0
//! Jobs as a client meets them.

use fanfold_protocol::{ErrorKind, function::Export};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    harness::{self, Service},
    world::{Play, World, version},
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
    assert_eq!(service.get(&format!("/v1/jobs/{id}/manifest")).await.json()["objects"], json!([]));
    let tasks = service.get(&format!("/v1/jobs/{id}/tasks?state=done&limit=2")).await.json();
    assert_eq!((tasks["tasks"].as_array().unwrap().len(), &tasks["next"]), (2, &json!("2")));
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
    for line in ["fanfold_jobs_ended_total{state=\"cancelled\"} 1", "fanfold_job_dead_letters_total 0"] {
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
    let accepted = service.request(Method::POST, &retry, &[], "").await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    let again = accepted.json()["id"].as_str().unwrap().to_owned();
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
async fn bad_requests_say_what_is_wrong() {
    let (_world, service) = service().await;
    post(&service, "{\"function\": \"mapper\", \"inptu\": 1}", "application/json")
        .await
        .is_problem(ErrorKind::InvalidJob);
    post(&service, "function = ", "application/toml").await.is_problem(ErrorKind::InvalidJob);
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
