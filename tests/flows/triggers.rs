// SPDX-License-Identifier: Apache-2.0
//! Objects start functions and jobs: the store of `fanfold dev` tells of what
//! other clients put, and what they start writes what it should.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fanfold_protocol::uri::ObjectUri;
use fanfold_storage::Credentials;
use fanfold_tests::{service::Service, until};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::Client;

/// The Python of the test environment.
fn python() -> PathBuf {
    program("python")
}

/// A program of the test environment, which `cargo xtask test` sets up.
pub fn program(name: &str) -> PathBuf {
    let venv = std::env::var_os("FANFOLD_TEST_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-env/venv"), PathBuf::from);
    let path = venv.join("bin").join(name);
    assert!(path.exists(), "expected {}, found none; run `cargo xtask test`", path.display());
    path
}

/// Puts objects under these keys of `bank` with boto3.
pub fn put_with_boto3(endpoint: &str, credentials: &Credentials, keys: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/boto3_puts.py");
    let mut child = Command::new(python())
        .arg(script)
        .env("S3_ENDPOINT", endpoint)
        .env("S3_BUCKET", "bank")
        .env("AWS_ACCESS_KEY_ID", &credentials.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &credentials.secret_key)
        .env("AWS_DEFAULT_REGION", fanfold_storage::server::REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(json!(keys).to_string().as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_key_its_object_starts_the_function() {
    let service = Service::fresh().unwrap();
    let (client, store) = (Client::new(&service), service.store().unwrap());
    store.ensure_bucket("bank").await.unwrap();
    client.deploy_folder("csv-to-parquet").await;
    service
        .ok(&[
            "trigger",
            "add",
            "on-upload",
            "--bucket",
            "bank",
            "--prefix",
            "in/",
            "--function",
            "csv-to-parquet",
        ])
        .unwrap();
    let longest = format!("in/{}x.csv", "ä".repeat(508));
    assert_eq!(longest.len(), 1_024);
    let keys = [
        "in/plain.csv",
        "in/a b+c.csv",
        "in/100%25.csv",
        "in/%41.csv",
        "in/€ ü/日本.csv",
        "in/a&b=c?d#e.csv",
    ];
    let mut all: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    all.push(longest.clone());
    put_with_boto3(&service.s3_endpoint, &service.credentials, &all);
    for key in keys {
        let table = format!("parquet/{}.parquet", key.strip_suffix(".csv").unwrap());
        let uri = ObjectUri::new("bank", table.clone()).unwrap();
        let found = until(&table, || store.head(&uri), Result::is_ok).await.unwrap();
        // What the function wrote says that a trigger led to it.
        assert_eq!(found.user_metadata.get("fanfold-depth").map(String::as_str), Some("1"), "{key}");
    }
    // Its table would have a key that is too long; that it was started shows in its log.
    let line = format!("s3://bank/{longest} -> ");
    let logs = async || client.get("/v1/functions/csv-to-parquet/logs").await.body.to_string();
    until("the longest key", logs, |logs| logs.contains(&line)).await;
    let shown: Value =
        serde_json::from_str(&service.ok(&["trigger", "show", "on-upload", "--output", "json"]).unwrap())
            .unwrap();
    assert_eq!(shown["events"]["dead"], 0, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_put_while_the_service_is_killed_are_found_at_its_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let store = service.store().unwrap();
    store.ensure_bucket("bank").await.unwrap();
    Client::new(&service).deploy_folder("csv-to-parquet").await;
    let arguments =
        ["trigger", "add", "t", "--bucket", "bank", "--prefix", "in/", "--function", "csv-to-parquet"];
    service.ok(&arguments).unwrap();
    let [shared @ .., _] = arguments;
    let misspelt = service.run(&[&shared[..], &["csv-to-parqet"]].concat()).unwrap();
    let said = String::from_utf8_lossy(&misspelt.stderr);
    assert!(said.contains("did you mean csv-to-parquet?"), "{said}");
    for n in 0..40 {
        service.put(&format!("s3://bank/in/{n}.csv"), "id\n1\n").await.unwrap();
    }
    service.kill().unwrap();
    let service = Service::start(folder.path()).unwrap();
    let store = service.store().unwrap();
    // What comes after is told of as before, and a table without rows is one as well.
    service.put("s3://bank/in/40.csv", "id\n").await.unwrap();
    for n in 0..=40 {
        let uri = ObjectUri::new("bank", format!("parquet/in/{n}.parquet")).unwrap();
        until("a table", || store.head(&uri), Result::is_ok).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_starts_a_job_of_its_own() {
    let service = Service::fresh().unwrap();
    let (client, store) = (Client::new(&service), service.store().unwrap());
    store.ensure_bucket("bank").await.unwrap();
    client.deploy_folder("column-stats").await;
    let document = json!({"bucket": "bank", "prefix": "in/", "job": {
        "function": "column-stats", "input": "s3://{bucket}/{key}", "output": "s3://bank/out/{etag}/"}});
    let made = client.send("PUT", "/v1/triggers/t", "application/json", document.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let key = "in/a [b]*.csv";
    service.put(&format!("s3://bank/{key}"), "x,y\n1.0,2.0\n3.0,4.0\n").await.unwrap();
    service.put("s3://bank/in/a b.csv", "x,y\n1.0,2.0\n").await.unwrap();
    let etag = store.head(&ObjectUri::new("bank", key).unwrap()).await.unwrap().pin.etag;
    let result = ObjectUri::new("bank", format!("out/{etag}/result.json")).unwrap();
    let found = async || (store.get(&result, None).await, client.get("/v1/jobs").await.body);
    let (result, _) = until("a result", found, |(result, _)| result.is_ok()).await;
    let result: Value = serde_json::from_slice(&result.unwrap()).unwrap();
    assert_eq!(result["rows"], 2, "{result}");
    // A trigger that looks there knows that this one stands before it.
    for name in ["result.json", "_manifest.json", "_SUCCESS"] {
        let uri = ObjectUri::new("bank", format!("out/{etag}/{name}")).unwrap();
        let found = until(name, || store.head(&uri), Result::is_ok).await.unwrap();
        assert_eq!(found.user_metadata.get("fanfold-depth").map(String::as_str), Some("1"), "{name}");
    }
    let jobs = async || client.get("/v1/jobs").await.body["jobs"].as_array().unwrap().clone();
    until("both jobs", jobs, |jobs| jobs.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_a_folder_follow_what_comes_and_goes() {
    const TABLES: u64 = 24;
    let service = Service::fresh().unwrap();
    let (client, store) = (Client::new(&service), service.store().unwrap());
    store.ensure_bucket("bank").await.unwrap();
    client.deploy_folder("thumbnail-stats").await;
    let document = json!({"bucket": "bank", "glob": "in/**/*.csv", "function": "thumbnail-stats",
        "events": ["ObjectCreated:*", "ObjectRemoved:*"], "ordered": true});
    let made = client.send("PUT", "/v1/triggers/t", "application/json", document.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    // All at once, so that several events of the folder are handled together.
    let service = &service;
    let put = async |n: u64| service.put(&format!("s3://bank/in/{n}.csv"), format!("x\n{n}\n")).await;
    futures::future::try_join_all((0..TABLES).map(put)).await.unwrap();
    let stats = ObjectUri::new("bank", "thumbnails/in/stats.json").unwrap();
    let read =
        async || -> Option<Value> { serde_json::from_slice(&store.get(&stats, None).await.ok()?).ok() };
    let is_all = |read: &Option<Value>| read.as_ref().is_some_and(|s| s["tables"] == TABLES);
    let all = until("the statistics of all", &read, is_all).await.unwrap();
    assert_eq!((&all["rows"], &all["columns"][0]["max"]), (&json!(TABLES), &json!((TABLES - 1) as f64)));
    let marked = store.head(&stats).await.unwrap().user_metadata.get("fanfold-depth").cloned();
    assert_eq!(marked.as_deref(), Some("1"));
    store.delete(&ObjectUri::new("bank", format!("in/{}.csv", TABLES - 1)).unwrap()).await.unwrap();
    // Who was late with the statistics of all writes once more, as the function's head says.
    let is_rest = |s: &Value| s["tables"] == TABLES - 1 && s["columns"][0]["max"] == (TABLES - 2) as f64;
    until("the statistics of the rest", &read, |read| read.as_ref().is_some_and(is_rest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_two_that_was_allowed_ends_after_sixteen() {
    let service = Service::fresh().unwrap();
    let (client, store) = (Client::new(&service), service.store().unwrap());
    store.ensure_bucket("bank").await.unwrap();
    // Each writes where the other looks: a/in/… to b/in/a/in/…, and that to a/in/b/in/….
    for (name, from, to) in
        [("there", "s3://bank/a/", "s3://bank/b/"), ("back", "s3://bank/b/", "s3://bank/a/")]
    {
        let settings = json!({"grants": {"read": [from], "write": [to]}, "env": {"OUTPUT": to}});
        client.deploy_as("csv-to-parquet", name, &settings).await;
    }
    let add = async |name: &str, prefix: &str, function: &str, allowed: bool| {
        let document =
            json!({"bucket": "bank", "prefix": prefix, "function": function, "allow_loops": allowed});
        client.send("PUT", &format!("/v1/triggers/{name}"), "application/json", document.to_string()).await
    };
    assert_eq!(add("a", "a/", "there", false).await.status, 201);
    add("b", "b/", "back", false).await.refused("trigger-loop", &["s3://bank/b/", "allow_loops"]);
    assert_eq!(add("b", "b/", "back", true).await.status, 201);
    service.put("s3://bank/a/x.csv", "id\n1\n").await.unwrap();
    let shown = async || client.get("/v1/triggers/a").await.body;
    until("the dead letter", shown, |shown| shown["events"]["dead"] == 1).await;
    assert_eq!(client.metric("fanfold_trigger_events_total", "fate=\"loop\"").await, 1.0);
    let letters = service.ok(&["trigger", "dead-letters", "a"]).unwrap();
    assert!(letters.contains("trigger-loop: at most 16"), "{letters}");
    let listed: Vec<_> = {
        use futures::TryStreamExt;
        store.list("bank", "", fanfold_storage::ListOptions::default()).try_collect().await.unwrap()
    };
    // What was put, and what sixteen invocations wrote.
    assert_eq!(listed.len(), 17, "{listed:?}");
}

/// F13: every event told one to five times, in any order, has the output of one.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_events_in_any_order_change_no_byte() {
    const TABLES: usize = 40;
    let seed = 20_261_128_u64;
    let service = Service::fresh().unwrap();
    let (client, store) = (Client::new(&service), service.store().unwrap());
    store.ensure_bucket("bank").await.unwrap();
    let settings = json!({"grants": {"read": ["s3://bank/"], "write": ["s3://bank/parquet/"]},
        "env": {"OUTPUT": "s3://bank/parquet/"}});
    client.deploy_with("csv-to-parquet", &settings).await;
    // Before there are triggers: nothing but what is sent below tells of them.
    for (n, place) in (0..TABLES).flat_map(|n| [(n, "once"), (n, "often")]) {
        service.put(&format!("s3://bank/{place}/{n}.csv"), format!("id\n{n}\n")).await.unwrap();
    }
    let mut events = Vec::new();
    for place in ["once", "often"] {
        let document = json!({"bucket": "bank", "prefix": format!("{place}/"), "function": "csv-to-parquet",
            "reconcile": "0s"});
        let path = format!("/v1/triggers/{place}");
        assert_eq!(client.send("PUT", &path, "application/json", document.to_string()).await.status, 201);
        for n in 0..TABLES {
            let copies = if place == "once" { 1 } else { 1 + n % 5 };
            events.extend((0..copies).map(|copy| (format!("{place}/{n}.csv"), copy / 2)));
        }
    }
    eprintln!("drawn from {seed}");
    events.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    for part in events.chunks(7) {
        let record = |(key, sequencer): &(String, usize)| {
            json!({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "bank"},
                "object": {"key": key, "sequencer": format!("{sequencer:016X}")}}})
        };
        let body = json!({"Records": part.iter().map(record).collect::<Vec<_>>()});
        assert_eq!(client.post("/v1/events/s3", &body).await.status, 200);
    }
    for n in 0..TABLES {
        let mut etags = Vec::new();
        for place in ["once", "often"] {
            let uri = ObjectUri::new("bank", format!("parquet/{place}/{n}.parquet")).unwrap();
            etags.push(until("a table", || store.head(&uri), Result::is_ok).await.unwrap().pin.etag);
        }
        assert_eq!(etags[0], etags[1], "{n}");
    }
    let events = async || client.get("/v1/triggers/often").await.body["events"].clone();
    let none = json!({"waiting": 0, "running": 0, "delayed": 0, "dead": 0});
    until("the rest of the copies", events, |events| *events == none).await;
    let ended = async || client.metric("fanfold_async_invocations_ended_total", "").await;
    until("every end", &ended, |ended| *ended >= 2.0 * TABLES as f64).await;
    assert_eq!(ended().await, 2.0 * TABLES as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_is_run_by_its_commands() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path()).unwrap();
    service.put("s3://bank/in/before", "x").await.unwrap();
    let deploy = || {
        let handler = fanfold_tests::service::component("raw-wit").unwrap();
        service.ok(&["deploy", &handler.to_string_lossy(), "--name", "echo"]).unwrap();
    };
    deploy();
    let json = |arguments: &[&str]| -> Value {
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        serde_json::from_str(&service.ok(&all).unwrap()).unwrap()
    };
    let file = folder.path().join("t.toml");
    let document = "bucket = \"bank\"\nprefix = \"in/\"\nfunction = \"echo\"\nretry = { attempts = 1 }\n";
    std::fs::write(&file, document).unwrap();
    let made = json(&["trigger", "add", "t", &file.to_string_lossy(), "--backfill"]);
    assert!(made["secret"].is_string(), "{made}");
    let nothing_new = async || {
        let queued = async || json(&["trigger", "backfill", "t"])["queued"].clone();
        until("an outcome", queued, |queued| *queued == 0).await;
        // Each of these has queued what had none yet.
        let events = async || json(&["trigger", "show", "t"])["events"].clone();
        until("an idle trigger", events, |events| events["waiting"] == 0 && events["running"] == 0).await;
    };
    nothing_new().await;
    service.ok(&["trigger", "pause", "t"]).unwrap();
    service.put("s3://bank/in/later", "x").await.unwrap();
    let waiting = async || json(&["trigger", "show", "t"])["events"]["waiting"].clone();
    until("an event that waits", waiting, |waiting| *waiting == 1).await;
    assert!(service.ok(&["trigger", "ls"]).unwrap().contains("paused"));
    service.ok(&["trigger", "resume", "t"]).unwrap();
    nothing_new().await;
    assert_eq!(json(&["trigger", "replay", "t", "--prefix", "in/l", "--again"])["queued"], 1);
    assert_eq!(json(&["trigger", "replay", "t", "--until", "2020-01-01T00:00:00Z", "--again"])["queued"], 0);
    let removed = service.run(&["functions", "rm", "echo"]).unwrap();
    let said = String::from_utf8_lossy(&removed.stderr);
    assert!(removed.status.success() && said.contains("starts echo, found t;"), "{said}");
    service.put("s3://bank/in/lost", "x").await.unwrap();
    let letters = || json(&["trigger", "dead-letters", "t"])["dead_letters"].as_array().unwrap().len();
    until("a dead letter", async || letters(), |letters| *letters == 1).await;
    assert!(service.ok(&["trigger", "dead-letters", "t"]).unwrap().contains("s3://bank/in/lost"));
    deploy();
    assert_eq!(json(&["trigger", "replay", "t", "--dead-letters"])["queued"], 1);
    nothing_new().await;
    assert_eq!(letters(), 0);
    service.ok(&["trigger", "discard", "t"]).unwrap();
    service.ok(&["trigger", "rm", "t"]).unwrap();
    assert_eq!(service.run(&["trigger", "show", "t"]).unwrap().status.code(), Some(3));
}
