// SPDX-License-Identifier: Apache-2.0
//! Aggregates by key, and maps with their aggregates: the same rows for every
//! schedule, and those that a plain loop over the input gives.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanfold_storage::ListOptions;
use fanfold_tests::service::Service;
use futures::TryStreamExt as _;
use serde_json::{Value, json};

use crate::support::Client;

/// What `spread` says of a key.
#[derive(Clone, Debug, Default, PartialEq)]
struct Summary {
    count: u64,
    mixed: u64,
    sum: f64,
}

type Groups = BTreeMap<(Option<String>, u64), Summary>;

/// What `spread` makes of the numbers below `count`, in one loop.
fn naive(count: u64, keys: u64) -> Groups {
    let mut groups = Groups::new();
    for n in 0..count {
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
        let name = (!key.is_multiple_of(5)).then(|| format!("name {}", key % 7));
        let group = groups.entry((name, key)).or_default();
        group.count += 1;
        group.mixed = group.mixed.rotate_left(5) ^ n;
        group.sum += 1.0 / (n as f64 + 1.0);
    }
    groups
}

async fn upload(service: &Service, count: u64) {
    let numbers: String = (0..count).map(|n| format!("{n}\n")).collect();
    let (first, rest) = numbers.split_at(numbers.find(&format!("\n{}\n", count / 4 * 3)).unwrap() + 1);
    service.put("s3://numbers/in/1.csv", format!("n\n{first}")).await.unwrap();
    service.put("s3://numbers/in/2.csv", format!("n\n{rest}")).await.unwrap();
}

/// Runs a job to its end, with attempts for what fails on purpose.
async fn run(client: &Client<'_>, document: Value) -> Value {
    let accepted = client.post("/v1/jobs", &document).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let job = ended(client, accepted.body["id"].as_str().unwrap()).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    job
}

async fn ended(client: &Client<'_>, id: &str) -> Value {
    let path = format!("/v1/jobs/{id}");
    let end = std::time::Instant::now() + std::time::Duration::from_secs(240);
    loop {
        let job = client.get(&path).await.body;
        if !matches!(job["state"].as_str(), Some("queued" | "running")) {
            return job;
        }
        assert!(std::time::Instant::now() < end, "the job did not end: {job:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The parts of a job's output, in the order of its manifest.
async fn parts(client: &Client<'_>, service: &Service, job: &Value) -> Vec<Bytes> {
    let manifest = client.get(&format!("/v1/jobs/{}/manifest", job["id"].as_str().unwrap())).await.body;
    let store = service.store().unwrap();
    let mut parts = Vec::new();
    for object in manifest["objects"].as_array().unwrap() {
        parts.push(store.get(&object["uri"].as_str().unwrap().parse().unwrap(), None).await.unwrap());
    }
    parts
}

/// What attempts staged for a job and is still there.
async fn staged(service: &Service, job: &Value) -> Vec<String> {
    let prefix = format!("jobs/{}/staged/", job["id"].as_str().unwrap());
    let store = service.store().unwrap();
    let listed = store.list("fanfold", &prefix, ListOptions::default());
    listed.map_ok(|entry| entry.name().to_owned()).try_collect().await.unwrap()
}

/// The rows of parts in CSV; each is sorted by key, and none has a key of another.
fn groups(parts: &[Bytes]) -> Groups {
    let mut groups = Groups::new();
    for part in parts {
        let mut last = None;
        for record in csv::Reader::from_reader(&part[..]).deserialize() {
            let (name, key, count, mixed, sum): (Option<String>, u64, u64, u64, f64) = record.unwrap();
            let place = (name, key);
            assert!(last.as_ref() < Some(&place), "{last:?} before {place:?}");
            last = Some(place.clone());
            let summary = Summary { count, mixed, sum };
            assert!(groups.insert(place, summary).is_none(), "{last:?} twice");
        }
    }
    groups
}

/// Equal but for what adding in another order changes in the last digits.
fn check(found: &Groups, expected: &Groups) {
    assert_eq!(found.len(), expected.len());
    for ((found_key, found), (key, expected)) in found.iter().zip(expected) {
        assert_eq!((found_key, found.count, found.mixed), (key, expected.count, expected.mixed));
        assert!((found.sum - expected.sum).abs() < 1e-9, "{key:?}: {found:?} {expected:?}");
    }
}

#[tokio::test]
async fn groups_are_the_same_for_every_schedule() {
    const NUMBERS: u64 = 40_000;
    let expected = naive(NUMBERS, 3_000);
    let mut seen: BTreeMap<(u64, &str), Vec<Bytes>> = BTreeMap::new();
    for workers in ["1", "4"] {
        let folder = tempfile::tempdir().unwrap();
        let service = Service::start_with(folder.path(), &["--workers", workers]).unwrap();
        let client = Client::new(&service);
        client.deploy_folder("hostile/spread").await;
        upload(&service, NUMBERS).await;
        // The smaller target makes more runs than are merged at once.
        for (reducers, target) in [(1, "64KiB"), (3, "64KiB"), (2, "3KiB")] {
            for fails_before in [0, 2] {
                let job = json!({
                    "function": "spread", "input": "s3://numbers/in/", "output": "s3://numbers/out/",
                    "output_format": "csv", "overwrite": true, "reducers": reducers,
                    "params": { "keys": 3_000, "fails_before": fails_before },
                    "cache": false, "split": { "target_bytes": target }, "retry": { "attempts": 3, "backoff": "10ms" },
                });
                let job = run(&client, job).await;
                assert_eq!(job["shape"], "map-group");
                assert_eq!(job["failures"], if fails_before > 0 { reducers } else { 0 }, "{job}");
                assert!(target != "3KiB" || job["partitions"].as_u64() > Some(64), "{job}");
                assert_eq!(job["receipt"]["rows_in"], NUMBERS, "{job}");
                let parts = parts(&client, &service, &job).await;
                assert_eq!(parts.len() as u64, reducers);
                check(&groups(&parts), &expected);
                let first = seen.entry((reducers, target)).or_insert_with(|| parts.clone());
                assert!(*first == parts, "{reducers} reducers, {target}, {workers} workers: other bytes");
                assert_eq!(staged(&service, &job).await, [""; 0]);
            }
        }
    }
}

#[tokio::test]
async fn what_was_shuffled_before_is_taken_over_by_a_retry() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/spread").await;
    upload(&service, 2_000).await;
    let good = service.store().unwrap().get(&"s3://numbers/in/2.csv".parse().unwrap(), None).await.unwrap();
    // Of the last object one record is wrong, until somebody mends it.
    let bad = [&good[..], b"none\n"].concat();
    service.put("s3://numbers/in/2.csv", "n\n").await.unwrap();
    service.put("s3://numbers/in/3.csv", bad).await.unwrap();
    let job = json!({
        "function": "spread", "input": "s3://numbers/in/", "output": "s3://numbers/out/",
        "output_format": "csv", "reducers": 2, "params": { "keys": 300 }, "cache": false,
        "split": { "target_bytes": "300B" },
    });
    let failed = client.job(job).await.body;
    assert_eq!(
        (&failed["state"], &failed["problem"]["code"]),
        (&json!("failed"), &json!("value-mismatch")),
        "{failed}"
    );
    assert!(!staged(&service, &failed).await.is_empty(), "states are kept for a retry");
    service.put("s3://numbers/in/3.csv", good).await.unwrap();
    let retry = format!("/v1/jobs/{}/retry", failed["id"].as_str().unwrap());
    let accepted = client.post(&retry, &json!({})).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let done = ended(&client, accepted.body["id"].as_str().unwrap()).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    assert!(done["retry"]["unchanged"].as_u64() > Some(0), "{done}");
    check(&groups(&parts(&client, &service, &done).await), &naive(2_000, 300));
    for job in [&failed, &done] {
        assert_eq!(staged(&service, job).await, [""; 0]);
    }
}

const MANY: u64 = 200_000;

/// What one task of a function that has 96 MiB gives of all numbers, and its job.
async fn spread(params: Value) -> (Groups, Value) {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    client.deploy_folder("hostile/spread").await;
    upload(&service, MANY).await;
    let job = json!({
        "function": "spread", "input": "s3://numbers/in/", "output": "s3://numbers/out/",
        "output_format": "csv", "params": params, "split": { "target_bytes": "64MiB" },
    });
    let job = run(&client, job).await;
    assert_eq!((&job["partitions"], &job["tasks"]["total"]), (&json!(1), &json!(2)), "{job}");
    (groups(&parts(&client, &service, &job).await), job)
}

#[tokio::test]
async fn more_keys_than_fit_in_memory_are_grouped() {
    // The padding alone is 120 MB.
    let (found, job) = spread(json!({ "keys": 1_000_000_007_u64, "pad": 600 })).await;
    assert!(job["receipt"]["bytes_out"].as_u64() > Some(120 << 20), "{job}");
    check(&found, &naive(MANY, 1_000_000_007));
    assert!(found.len() > 190_000, "{}", found.len());
}

#[tokio::test]
async fn states_that_grow_beyond_memory_are_grouped() {
    // All keys are in the first rows; their states grow by 120 MB.
    let (found, _) = spread(json!({ "keys": 500, "grow": 600 })).await;
    check(&found, &naive(MANY, 500));
}

#[tokio::test]
async fn customers_are_grouped_without_a_map_and_refused_where_they_cannot_be() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    for function in ["spend-by-customer", "order-report"] {
        service.deploy(function).unwrap();
    }
    let shown = client.get("/v1/functions/spend-by-customer/versions/1").await;
    let key = json!([{ "name": "customer", "data_type": "Utf8", "nullable": true }]);
    assert_eq!(shown.body["describes"]["grouper"]["keys"], key, "{shown:?}");
    let orders =
        "id,status,currency,customer,amount\n1,paid,EUR,Li,2.5\n2,paid,EUR,,1\n3,cancelled,EUR,Ada,3\n";
    service.put("s3://shop/in/1.csv", orders).await.unwrap();
    service.put("s3://shop/in/2.csv", "id,status,currency,customer,amount\n4,paid,USD,Li,5\n").await.unwrap();
    let job = json!({
        "function": "spend-by-customer", "input": "s3://shop/in/", "output": "s3://shop/spend/",
        "output_format": "csv", "split": { "target_bytes": "60B" },
    });
    let grouped = run(&client, job).await;
    assert_eq!((&grouped["shape"], grouped["result"].as_str()), (&json!("group"), None));
    let text = String::from_utf8(parts(&client, &service, &grouped).await.concat()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines, ["customer,orders,spend,largest", ",1,1.0,1.0", "Ada,1,3.0,3.0", "Li,2,7.5,5.0"]);

    // Of nothing it makes a table without rows.
    let nothing = run(
        &client,
        json!({
            "function": "spend-by-customer", "input": "s3://shop/none/", "output": "s3://shop/nothing/",
            "output_format": "csv",
        }),
    )
    .await;
    assert_eq!((&nothing["partitions"], &nothing["tasks"]["total"]), (&json!(0), &json!(1)), "{nothing}");
    assert!(nothing["warnings"].to_string().contains("the input holds nothing"), "{nothing}");
    let text = String::from_utf8(parts(&client, &service, &nothing).await.concat()).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), ["customer,orders,spend,largest"]);

    // A map and its aggregate at once: the table and the answer.
    let mut job = json!({
        "function": "order-report", "input": "s3://shop/in/", "output": "s3://shop/clean/",
        "output_format": "csv", "params": { "rates": { "EUR": 1.0, "USD": 0.5 } },
        "split": { "target_bytes": "60B" },
    });
    let report = run(&client, job.clone()).await;
    assert_eq!(
        (&report["shape"], &report["result"]),
        (&json!("map-aggregate"), &json!({"orders": 3, "amount": 6.0}))
    );
    let clean = String::from_utf8(parts(&client, &service, &report).await.concat()).unwrap();
    assert_eq!(clean.lines().collect::<Vec<_>>(), ["id,amount", "1,2.5", "2,1.0", "id,amount", "4,2.5"]);
    let stored =
        service.store().unwrap().get(&"s3://shop/clean/result.json".parse().unwrap(), None).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&stored).unwrap(), report["result"]);

    job["reducers"] = json!(2);
    client.job(job.clone()).await.refused("invalid-job", &["reducers", "found 2", "order-report"]);
    job["reducers"] = json!(100_000);
    client.job(job).await.refused("invalid-job", &["from 1 to 256", "found 100000"]);
}
