// SPDX-License-Identifier: Apache-2.0
//! Jobs whose tasks fail or never end: cancelled, tolerated, run again.

use std::time::{Duration, Instant};

use fanfold_tests::service::{Service, cpu_time};
use serde_json::{Value, json};

use crate::support::{Client, problem};

#[tokio::test]
async fn a_cancellation_stops_what_runs_within_a_second() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    service.put("s3://bank/in/0.csv", "n\n0\n").await.unwrap();
    let job = json!({
        "function": "misbehave", "input": "s3://bank/in/", "output": "s3://bank/out/",
        "params": { "how": "loop" }, "limits": { "task_timeout": "10m" }
    });
    let id = client.post("/v1/jobs", &job).await.body["id"].as_str().unwrap().to_owned();
    // A worker says so once the loop has run for a moment.
    let tasks = format!("/v1/jobs/{id}/tasks");
    let running = client.until(&tasks, |page| page["tasks"][0]["running_ms"].is_u64()).await;
    assert!(running["tasks"][0]["worker"].is_string(), "{running}");
    let asked = Instant::now();
    let cancelled = client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (202, &json!("cancelled")));
    let receipt = &cancelled.body["receipt"];
    assert_eq!(receipt["attempts"], 1, "{receipt}");
    assert!(receipt["cpu_ms"].as_u64().unwrap() >= 100, "{receipt}");
    // The loop took all of a processor; once it is stopped the service is idle.
    let window = Duration::from_millis(200);
    loop {
        let before = cpu_time(service.pid()).unwrap();
        tokio::time::sleep(window).await;
        if cpu_time(service.pid()).unwrap() - before < window / 4 {
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(1), "still running after {:?}", asked.elapsed());
    }
    assert_eq!(service.ok(&["s3", "ls", "s3://bank/out/", "-r"]).unwrap().trim(), "");
}

#[tokio::test]
async fn objects_that_change_or_vanish_after_planning_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_with(folder.path(), &["--workers", "1"]).unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    let objects = ["s3://bank/in/0.csv", "s3://bank/in/1.csv", "s3://bank/in/2.csv"];
    for (n, object) in objects.into_iter().enumerate() {
        service.put(object, format!("n\n{n}\n")).await.unwrap();
    }
    // The first task takes the job's only place while the others' input is touched.
    let job = json!({
        "function": "misbehave", "input": "s3://bank/in/*.csv", "output": "s3://bank/out/",
        "params": { "how": "loop", "row": 0 }, "split": { "target_bytes": "5B" }, "retry": { "attempts": 1 },
        "limits": { "task_timeout": "3s", "tolerated_failures": "100%", "max_parallel": 1 }
    });
    let id = client.post("/v1/jobs", &job).await.body["id"].as_str().unwrap().to_owned();
    let tasks = format!("/v1/jobs/{id}/tasks");
    client.until(&tasks, |page| page["tasks"][0]["state"] == "running").await;
    service.put(objects[1], "n\n7\n").await.unwrap();
    service.ok(&["s3", "rm", objects[2]]).unwrap();
    client.until(&format!("/v1/jobs/{id}"), |job| job["ended_at"].is_u64()).await;
    let found = client.get(&tasks).await.body["tasks"].clone();
    let expected =
        [("deadline-exceeded", "3s"), ("object-changed", objects[1]), ("object-not-found", objects[2])];
    for (task, (code, named)) in expected.into_iter().enumerate() {
        let failed = found.as_array().unwrap().iter().find(|failed| failed["task"] == task).unwrap();
        problem(&failed["problem"], code, &[named]);
    }
    let listed = service.ok(&["s3", "ls", "s3://bank/out/", "-r"]).unwrap();
    assert!(!listed.contains("part-"), "{listed}");
}

#[tokio::test]
async fn a_job_is_mended_and_only_the_rest_is_run() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    for n in 0..3 {
        service.put(&format!("s3://bank/in/{n}.csv"), format!("n\n{n}\n")).await.unwrap();
    }
    let job = json!({
        "function": "misbehave", "input": "s3://bank/in/*.csv", "output": "s3://bank/out/",
        "params": { "how": "error", "row": 2 }, "split": { "target_bytes": "5B" },
        "limits": { "max_parallel": 1 }
    });
    let failed = client.job(job).await.body;
    let id = failed["id"].as_str().unwrap();
    assert_eq!((&failed["state"], &failed["tasks"]["failed"]), (&json!("failed"), &json!(1)), "{failed}");
    let told = service.ok(&["job", "retry", id, "--dry-run"]).unwrap();
    for words in ["2 partitions, taken over", "s3://bank/in/2.csv", "function-error", "1 partitions"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    service.put("s3://bank/in/2.csv", "n\n22\n").await.unwrap();
    let told = service.ok(&["job", "retry", id, "--dry-run", "--output", "json"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["unchanged"], &told["failed"], &told["changed"]), (&json!(2), &json!(0), &json!(1)));
    let ended = service.ok(&["job", "retry", id, "--wait", "--output", "json"]).unwrap();
    let ended: Value = serde_json::from_str(&ended).unwrap();
    assert_eq!((&ended["state"], &ended["retry"]["of"]), (&json!("succeeded"), &json!(id)), "{ended}");
    assert_eq!(ended["receipt"]["attempts"], 1, "{ended}");
    let manifest = client.get(&format!("/v1/jobs/{}/manifest", ended["id"].as_str().unwrap())).await.body;
    assert_eq!((&manifest["rows"], manifest["objects"].as_array().unwrap().len()), (&json!(3), 3));
    let nothing = service.run(&["job", "retry", ended["id"].as_str().unwrap()]).unwrap();
    assert_eq!(nothing.status.code(), Some(3), "{nothing:?}");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing to retry"), "{nothing:?}");
}

#[tokio::test]
async fn what_tasks_log_is_read_by_the_id_of_their_job() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/misbehave").await;
    for n in 0..3 {
        service.put(&format!("s3://bank/in/{n}.csv"), format!("n\n{n}\n")).await.unwrap();
    }
    let job = |how: &str| {
        json!({
            "function": "misbehave", "input": "s3://bank/in/*.csv", "output": format!("s3://bank/{how}/"),
            "params": { "how": how, "row": 1 }, "split": { "target_bytes": "5B" },
            "retry": { "attempts": 2, "backoff": "10ms" }, "limits": { "tolerated_failures": "100%" }
        })
    };
    let ended = client.job(job("flood")).await.body;
    assert_eq!((&ended["state"], &ended["tasks"]["done"]), (&json!("succeeded"), &json!(3)), "{ended}");
    let id = ended["id"].as_str().unwrap();
    let said = service.ok(&["logs", id]).unwrap();
    for words in ["  INFO   task 1: line 0 with an escape", "  WARN   task 1: [log cut at 256 KiB]"] {
        assert!(said.contains(words), "{words}: {}", &said[..said.len().min(300)]);
    }
    assert_eq!(service.ok(&["logs", id, "--task", "0"]).unwrap(), "");
    assert_eq!(service.ok(&["logs", id, "--failed"]).unwrap(), "");
    // It goes on until the job has ended, and what failed is there as well.
    let id = client.post("/v1/jobs", &job("panic")).await.body["id"].as_str().unwrap().to_owned();
    let said = service.ok(&["logs", &id, "-f", "--output", "json"]).unwrap();
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for attempt in [1, 2] {
        let of = |line: &&Value| {
            (&line["task"], &line["attempt"], &line["failed"]) == (&json!(1), &json!(attempt), &json!(true))
        };
        let mut of = lines.iter().filter(of);
        assert!(of.any(|line| line["message"].to_string().contains("on purpose")), "{attempt}: {said}");
    }
    let nobodys = service.run(&["logs", "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10"]).unwrap();
    assert_eq!(nobodys.status.code(), Some(3), "{nobodys:?}");
    assert!(String::from_utf8_lossy(&nobodys.stderr).contains("fanfold job ls"), "{nobodys:?}");
}

#[tokio::test]
async fn a_report_over_tolerated_failures_says_what_is_missing() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    service.deploy("column-stats").unwrap();
    for n in 0..17 {
        service.put(&format!("s3://bank/in/{n:02}.csv"), format!("a,b\n{n},1\n")).await.unwrap();
    }
    let job = json!({
        "function": "column-stats", "input": "s3://bank/in/", "limits": { "tolerated_failures": "95%" },
        "split": { "target_bytes": "8B" }
    });
    // The whole first fold merges nothing.
    for n in 0..16 {
        service.put(&format!("s3://bank/in/{n:02}.csv"), "a,b\n1,2,3\n").await.unwrap();
    }
    let job = client.job(job).await.body;
    assert_eq!((&job["state"], &job["tasks"]["failed"]), (&json!("succeeded"), &json!(16)), "{job}");
    let printed = service.run(&["result", job["id"].as_str().unwrap(), "--output", "json"]).unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let told = String::from_utf8_lossy(&printed.stderr);
    assert!(told.contains("16 of 17 partitions failed") && told.contains("s3://bank/in/00.csv"), "{told}");
}
