// SPDX-License-Identifier: Apache-2.0
//! A service that is killed as `kill -9` does finds everything again: functions,
//! jobs, their results and the objects.

use std::time::Duration;

use fanfold_tests::service::Service;
use serde_json::json;

use crate::support::Client;

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    for function in ["hello", "column-stats"] {
        service.deploy(function).unwrap();
    }
    service.ok(&["functions", "alias", "hello", "prod", "1"]).unwrap();
    service.put("s3://bank/a.csv", "x\n1\n2\n").await.unwrap();
    let job = json!({ "function": "column-stats", "input": "s3://bank/a.csv" });
    let done = Client::new(&service).job(job).await.body;
    assert_eq!(done["state"], "succeeded", "{done}");
    service.kill().unwrap();

    let service = Service::start(folder.path()).unwrap();
    let client = Client::new(&service);
    let answer = client.post("/v1/functions/hello/invoke?qualifier=prod", &json!("Ada")).await;
    assert_eq!(answer.body, json!("hello, Ada"));
    let again = client.get(&format!("/v1/jobs/{}", done["id"].as_str().unwrap())).await.body;
    assert_eq!((&again["state"], &again["result"]), (&done["state"], &done["result"]));
    let store = service.store().unwrap();
    let object = store.get(&"s3://bank/a.csv".parse().unwrap(), None).await.unwrap();
    assert_eq!(&object[..], b"x\n1\n2\n");
}

#[tokio::test]
async fn a_running_job_goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    service.deploy("column-stats").unwrap();
    const OBJECTS: u64 = 300;
    for n in 0..OBJECTS {
        service.put(&format!("s3://bank/in/{n}.csv"), format!("x\n{n}\n")).await.unwrap();
    }
    let client = Client::new(&service);
    // A task for each object.
    let split = json!({ "target_bytes": "6B" });
    let job = json!({ "function": "column-stats", "input": "s3://bank/in/", "split": split });
    let accepted = client.post("/v1/jobs", &job).await;
    assert_eq!((accepted.status, &accepted.body["partitions"]), (202, &json!(OBJECTS)), "{accepted:?}");
    let path = format!("/v1/jobs/{}", accepted.body["id"].as_str().unwrap());
    drop(client);
    service.kill().unwrap();

    let service = Service::start(folder.path()).unwrap();
    assert!(service.started_in < Duration::from_secs(5), "{:?}", service.started_in);
    let client = Client::new(&service);
    let job = client.ended(&path).await;
    assert_eq!((&job["state"], &job["result"]["rows"]), (&json!("succeeded"), &json!(OBJECTS)), "{job}");
    assert_eq!(job["result"]["columns"][0]["max"], (OBJECTS - 1) as f64);
}
