// SPDX-License-Identifier: Apache-2.0
//! Guests that panic, trap, loop, allocate, flood, or simply fail: each ends
//! with its own code, and the next call is served.

use std::time::{Duration, Instant};

use fanfold_tests::service::Service;
use serde_json::json;

use crate::support::{Client, problem};

#[tokio::test]
async fn a_misbehaving_handler_ends_with_its_code() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    service.put("s3://granted/x", "x").await.unwrap();
    let cases: &[(&str, &str, &[&str])] = &[
        ("panic", "guest-panicked", &["on purpose"]),
        ("abort", "guest-trapped", &[]),
        ("allocate", "memory-exceeded", &["64MiB", "function.toml"]),
        ("recurse", "stack-overflow", &[]),
        ("error", "function-error", &["expected a tame request", "ask nicely"]),
        ("read", "access-denied", &["s3://secret/x", "read", "function.toml"]),
        ("write", "access-denied", &["s3://granted/elsewhere", "write"]),
        ("open-missing", "object-not-found", &["s3://granted/missing"]),
    ];
    for (how, code, named) in cases {
        client.invoke("misbehave", &json!(how)).await.refused(code, named);
        assert_eq!(client.invoke("misbehave", &json!("well")).await.status, 200, "after {how}");
    }
    let busy = client.invoke("misbehave", &json!("error-retryable")).await;
    assert_eq!(
        (&busy.body["retryable"], &busy.body["guest_code"]),
        (&json!(true), &json!("busy")),
        "{busy:?}"
    );
    // What the platform told keeps its code, whatever the function says of trying again.
    for (how, retryable) in [("open-missing", false), ("open-awaited", true)] {
        let missing = client.invoke("misbehave", &json!(how)).await;
        missing.refused("object-not-found", &["s3://granted/missing"]);
        assert_eq!(
            (&missing.body["retryable"], &missing.body["guest_code"]),
            (&json!(retryable), &json!(null)),
            "{missing:?}"
        );
    }
    // The deadline is 2 s by the function's settings.
    let start = Instant::now();
    client.invoke("misbehave", &json!("loop")).await.refused("deadline-exceeded", &["4s"]);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    client.invoke("misbehave", &json!(7)).await.refused("invalid-body", &["integer `7`"]);
}

#[tokio::test]
async fn params_that_do_not_fit_are_the_callers_to_mend() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    // As `fanfold invoke` sends them: in X-Fanfold-Params.
    let call = ["invoke", "misbehave", "-d", "\"well\"", "--params", "{\"row\": \"first\"}"];
    let output = service.run(&call).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("invalid-params") && said.contains("params.row"), "{said}");
    let path = "/v1/functions/misbehave/invoke?params=%7B%22row%22%3A%22first%22%7D";
    let answer = client.post(path, &json!("well")).await;
    answer.refused("invalid-params", &["params.row", "string \"first\""]);
    assert_eq!((answer.status, &answer.body["retryable"]), (422, &json!(false)), "{answer:?}");
    assert_eq!(answer.body["guest_code"], json!(null), "{answer:?}");
    let misspelt = "/v1/functions/misbehave/invoke?params=%7B%22rwo%22%3A1%7D";
    let answer = client.post(misspelt, &json!("well")).await;
    answer.refused("invalid-params", &["params.rwo: unknown field `rwo`, expected `how` or `row`"]);
    let no_object = "/v1/functions/misbehave/invoke?params=7";
    client.post(no_object, &json!("well")).await.refused("invalid-request", &["JSON object"]);
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    let answer = client.invoke("misbehave", &json!("flood")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.headers["x-fanfold-invocation-id"].to_str().unwrap().to_owned();
    let logs = service.ok(&["logs", &id, "--output", "json"]).unwrap();
    assert!(logs.len() < 3 << 20, "{} bytes", logs.len());
    assert!(logs.contains("line 0 with an escape"), "{}", &logs[..logs.len().min(300)]);
    assert!(!logs.contains('\u{1b}'));
}

#[tokio::test]
async fn a_misbehaving_map_fails_its_job_and_leaves_nothing() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    for n in 0..3 {
        service.put(&format!("s3://bank/in/{n}.csv"), format!("n\n{n}\n")).await.unwrap();
    }
    for (how, code) in
        [("panic", "guest-panicked"), ("allocate", "memory-exceeded"), ("error", "function-error")]
    {
        // Only the second object's row misbehaves; the others do their work.
        let job = json!({
            "function": "misbehave", "input": "s3://bank/in/*.csv", "output": "s3://bank/out/",
            "params": { "how": how, "row": 1 }
        });
        let job = client.job(job).await;
        assert_eq!(job.body["state"], "failed", "{job:?}");
        problem(&job.body["problem"], code, &["s3://bank/in/1.csv"]);
        assert_eq!(service.ok(&["s3", "ls", "s3://bank/out/", "-r"]).unwrap().trim(), "", "{how}");
    }
    let job = client
        .job(json!({ "function": "misbehave", "input": "s3://bank/in/", "output": "s3://bank/out/" }))
        .await;
    assert_eq!(job.body["state"], "succeeded", "{job:?}");
    let listed = service.ok(&["s3", "ls", "s3://bank/out/", "-r"]).unwrap();
    assert!(listed.contains("_manifest.json") && listed.contains("_SUCCESS"), "{listed}");
}
