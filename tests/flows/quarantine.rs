// SPDX-License-Identifier: Apache-2.0
//! G10: a function that ends the processes that run it does so three times, and
//! everything else goes on. The test stands for the fault of a sandbox: it sends the
//! signal of one while the function runs. Who is killed from outside is to blame for nothing.

use std::{path::Path, time::Duration};

use fanfold_tests::{
    service::{Service, component},
    until,
};
use serde_json::json;

use crate::support::{Client, problem};

/// Bytes of a place of the journal. The first tells of the process.
const PLACE_BYTES: usize = 40;

/// Waits until something of a function runs, as the next start would find it.
async fn until_under_way(folder: &Path) {
    let running = folder.join("data/cache/running");
    let is_under_way = || {
        let files = std::fs::read_dir(&running).into_iter().flatten().flatten();
        let mut contents = files.filter_map(|file| std::fs::read(file.path()).ok());
        contents.any(|content| content.iter().skip(PLACE_BYTES).any(|byte| *byte != 0))
    };
    until("something that runs", async || is_under_way(), |is| *is).await;
}

/// Has a service break that runs something, and starts it again.
async fn break_under_way(service: Service, folder: &Path) -> Service {
    until_under_way(folder).await;
    service.fault().unwrap();
    Service::start(folder).unwrap()
}

#[tokio::test]
async fn what_ends_its_process_three_times_does_not_run_a_fourth_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path()).unwrap();
    service.deploy("hello").unwrap();
    let bytes = std::fs::read(component("misbehave").unwrap()).unwrap();
    assert_eq!(Client::new(&service).deploy("misbehave", bytes.clone()).await.status, 201);
    service.put("s3://bank/in.csv", "n\n1\n2\n").await.unwrap();
    let job = json!({"function": "misbehave", "input": "s3://bank/in.csv", "output": "s3://bank/out/", "params": {"how": "loop"}});
    let accepted = Client::new(&service).post("/v1/jobs", &job).await.body;
    for _ in 0..4 {
        until_under_way(folder.path()).await;
        service.kill().unwrap();
        service = Service::start(folder.path()).unwrap();
    }
    for _ in 0..3 {
        service = break_under_way(service, folder.path()).await;
    }
    let client = Client::new(&service);
    let path = format!("/v1/jobs/{}", accepted["id"].as_str().unwrap());
    let ended = client.ended(&path).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    let tasks = client.get(&format!("{path}/tasks?state=failed")).await.body;
    problem(&tasks["tasks"][0]["problem"], "version-quarantined", &["dev-"]);
    // Calls of it are refused as well, whatever they ask for; others are answered.
    client
        .invoke("misbehave", &json!("well"))
        .await
        .refused("version-quarantined", &["deploy the same again"]);
    assert_eq!(client.invoke("hello", &json!("Ada")).await.body, json!("hello, Ada"));
    // Whoever deploys it again has it tried again.
    assert_eq!(client.deploy("misbehave", bytes).await.status, 200);
    assert_eq!(client.invoke("misbehave", &json!("well")).await.status, 200);
}

#[tokio::test]
async fn what_runs_well_between_is_not_quarantined() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path()).unwrap();
    let bytes = std::fs::read(component("misbehave").unwrap()).unwrap();
    assert_eq!(Client::new(&service).deploy("misbehave", bytes).await.status, 201);
    for number in 0..4 {
        // Another call each time: one that is made again would be suspected by itself.
        let url = format!("{}/v1/functions/misbehave/invoke?call={number}", service.endpoint);
        let request = reqwest::Client::new().post(url).bearer_auth(&service.token);
        let lost = tokio::spawn(request.header("content-type", "application/json").body("\"loop\"").send());
        until_under_way(folder.path()).await;
        assert_eq!(Client::new(&service).invoke("misbehave", &json!("well")).await.status, 200);
        // What clears the suspicion is written after the answer.
        tokio::time::sleep(Duration::from_secs(1)).await;
        service = break_under_way(service, folder.path()).await;
        assert!(lost.await.unwrap().is_err());
    }
    assert_eq!(Client::new(&service).invoke("misbehave", &json!("well")).await.status, 200);
}
