// SPDX-License-Identifier: Apache-2.0
//! `fanfold job` from the estimate to the receipt, and the same job once more.

use std::path::Path;

use fanfold_tests::service::{Service, component};
use serde_json::Value;

/// Objects, each of which is a partition; one fold makes an answer of them.
const OBJECTS: u64 = 12;

/// A job of all objects, in a file; and what more it says.
fn job(folder: &Path, name: &str, more: &str) -> String {
    let path = folder.join(name);
    let text = format!(
        "function = \"column-stats\"\ninput = \"s3://bank/in/*.csv\"\noutput = \"s3://bank/out/{{run}}/\"\n\
         [split]\ntarget_bytes = \"10B\"\n{more}"
    );
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

fn json(service: &Service, words: &[&str]) -> Value {
    serde_json::from_str(&service.ok(words).unwrap()).unwrap()
}

/// What a command that fails says, and how it exits.
fn refused(service: &Service, words: &[&str]) -> (Option<i32>, String) {
    let output = service.run(words).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Whether a run of a function gives what an earlier one gave: as built for `wasm32-wasip1`, it may draw
/// random bytes for its maps.
fn is_served(function: &str) -> bool {
    let (bytes, import) = (std::fs::read(component(function).unwrap()).unwrap(), b"wasi:random/random");
    !bytes.windows(import.len()).any(|window| window == import)
}

#[tokio::test]
async fn a_job_is_estimated_run_looked_into_and_served_once_more() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    service.deploy("column-stats").unwrap();
    for n in 0..OBJECTS {
        service.put(&format!("s3://bank/in/{n:02}.csv"), format!("a,b\n{n},1\n")).await.unwrap();
    }
    let (file, tasks) = (job(folder.path(), "job.toml", ""), OBJECTS + 1);

    let estimate = json(&service, &["job", "estimate", &file, "--sample", "4", "--output", "json"]);
    assert_eq!((&estimate["sampled"], &estimate["of"]["partitions"]), (&4.into(), &OBJECTS.into()));
    for figure in ["elapsed_ms", "cpu_ms", "bytes_in", "bytes_out", "memory_bytes_peak"] {
        let [low, expected, high] =
            ["low", "expected", "high"].map(|name| estimate[figure][name].as_u64().unwrap());
        assert!(low <= expected && expected <= high, "{figure}: {estimate}");
    }
    assert!(estimate["bytes_in"]["low"].as_u64() > Some(0), "{estimate}");
    assert_eq!(service.ok(&["s3", "ls", "s3://bank/out/", "-r"]).unwrap().trim(), "", "it leaves nothing");

    let ran = json(&service, &["job", "run", &file, "--wait", "--output", "json"]);
    let id = ran["id"].as_str().unwrap();
    let receipt = &ran["receipt"];
    assert_eq!((&ran["state"], &ran["tasks"]["done"]), (&"succeeded".into(), &tasks.into()), "{ran}");
    assert_eq!((&receipt["rows_in"], &receipt["attempts"]), (&OBJECTS.into(), &tasks.into()), "{ran}");
    // Nothing is written but commits, in which small states and answers travel.
    for figure in ["bytes_in", "store_requests", "memory_bytes_peak"] {
        assert!(receipt[figure].as_u64() > Some(0), "{figure}: {receipt}");
    }
    let shown = service.ok(&["job", "show", id]).unwrap();
    for words in ["13 of 13 done", "in 13 attempts", "12 in, ", "to the store", "_manifest.json"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let listed = service.run(&["job", "tasks", id, "--limit", "3"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 4, "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stderr).contains("more than these 3"), "{listed:?}");
    assert_eq!(json(&service, &["job", "watch", id, "--output", "json"])["state"], "succeeded");
    let (code, said) = refused(&service, &["job", "cancel", id]);
    assert!(code == Some(3) && said.contains("succeeded"), "{code:?} {said}");

    let again = json(&service, &["job", "run", &file, "--wait", "--output", "json"]);
    let hits = again["receipt"]["cache_hits"].as_u64().unwrap();
    if is_served("column-stats") {
        // A large answer is made once more.
        assert!(hits >= OBJECTS, "{again}");
        assert_eq!(again["receipt"]["attempts"], tasks - hits, "{again}");
        let tasks = service.ok(&["job", "tasks", again["id"].as_str().unwrap()]).unwrap();
        assert_eq!(tasks.matches("done, cached").count() as u64, hits, "{tasks}");
    }
    let result = |job: &Value| service.ok(&["result", job["id"].as_str().unwrap(), "--output", "json"]);
    assert_eq!(result(&again).unwrap(), result(&ran).unwrap());
    let anew = json(&service, &["job", "run", &file, "--no-cache", "--wait", "--output", "json"]);
    assert_eq!((&anew["receipt"]["cache_hits"], &anew["receipt"]["attempts"]), (&0.into(), &tasks.into()));

    let spent = job(folder.path(), "spent.toml", "[budget]\nbytes = \"1B\"\n");
    let (code, said) = refused(&service, &["job", "run", &spent, "--no-cache", "--wait"]);
    assert!(code == Some(1) && said.contains("within its budget"), "{code:?} {said}");
    let failed = json(&service, &["job", "ls", "--state", "failed", "--output", "json"]);
    let [failed] = failed["jobs"].as_array().unwrap().as_slice() else { panic!("{failed}") };
    assert!(failed["tasks"]["done"].as_u64() < Some(tasks), "{failed}");
    let (code, said) = refused(&service, &["job", "watch", failed["id"].as_str().unwrap()]);
    assert!(code == Some(1) && said.contains("within its budget"), "{code:?} {said}");
}
