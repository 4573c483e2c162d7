// SPDX-License-Identifier: Apache-2.0
//! Data that is not what it should be: the job fails with a sentence that names
//! the object and the place in it, and nothing partial is visible.

use fanfold_tests::{
    customers::{Order, Stored, write},
    service::Service,
};
use serde_json::{Value, json};

use crate::support::{Client, problem};

struct Case {
    name: &'static str,
    content: Vec<u8>,
    code: &'static str,
    named: &'static [&'static str],
}

/// What to do with an object that is damaged.
const AGAIN: &str = "again from its source";

fn cases() -> Vec<Case> {
    let case = |name, content: &[u8], code, named| Case { name, content: content.to_vec(), code, named };
    let folder = tempfile::tempdir().unwrap();
    let order = Order { rows: 2_000, objects: 1, seed: 1, format: Stored::Parquet };
    let parquet = std::fs::read(&write(folder.path(), &order).unwrap()[0]).unwrap();
    let (middle, mut flipped) = (parquet.len() / 2, parquet.clone());
    flipped[middle] ^= 0x40;
    let truncated = &parquet[..parquet.len() - 100];
    vec![
        case("fields.csv", b"a,b\n1,2\n3\n", "csv-field-count", &["row 2", "line 3", "check its delimiters"]),
        case("utf8.csv", b"a,b\n1,2\n1,\xff\xfe\n", "invalid-utf8", &["row 2", "line 3", "byte ff"]),
        case("header.csv", b"a,\xe4\n1,2\n", "invalid-utf8", &["header", "byte e4 at byte 2"]),
        case("quote.csv", b"a,b\n1,\"open\n", "csv-malformed", &["row 1", "line 2", "quote"]),
        case("utf8.jsonl", b"{\"a\":1}\n{\"a\":\"\xff\"}\n", "invalid-utf8", &["line 2", "byte 14"]),
        case("empty.csv", b"", "empty-object", &["leave it out"]),
        case("empty.parquet", b"", "empty-object", &["leave it out"]),
        case("cut.parquet", truncated, "parquet-corrupt", &["truncated", AGAIN]),
        case("flipped.parquet", &flipped, "parquet-corrupt", &["row group 0", AGAIN]),
        case(
            "lines.jsonl",
            b"{\"a\":1}\n{\"a\":\n",
            "json-malformed",
            &["line 2", "write one object a line"],
        ),
        case("noise.arrow", b"ARROW1\0\0nonsense", "arrow-corrupt", &[AGAIN]),
        case("noise.xyz", &[0, 159, 146, 150, 0, 0, 0, 0], "format-unknown", &["say which with format"]),
    ]
}

async fn stats(client: &Client<'_>, input: &str) -> Value {
    client.job(json!({ "function": "column-stats", "input": input, "output": "s3://bank/out/" })).await.body
}

#[tokio::test]
async fn damaged_tables_are_named() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    service.deploy("column-stats").unwrap();
    for Case { name, content, code, named } in cases() {
        let uri = format!("s3://bank/{name}");
        service.put(&uri, content).await.unwrap();
        let job = stats(&client, &uri).await;
        assert_eq!(job["state"], "failed", "{name}: {job}");
        problem(&job["problem"], code, &[&uri]);
        problem(&job["problem"], code, named);
        assert_eq!(service.ok(&["s3", "ls", "s3://bank/out/", "-r"]).unwrap().trim(), "", "{name}");
    }
    service.put("s3://bank/good.csv", "a,b\n1,x\n2,y\n").await.unwrap();
    let job = stats(&client, "s3://bank/good.csv").await;
    assert_eq!((&job["state"], &job["result"]["rows"]), (&json!("succeeded"), &json!(2)), "{job}");
}

#[tokio::test]
async fn inputs_and_params_that_do_not_fit_are_named() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    for function in ["column-stats", "credit-train"] {
        service.deploy(function).unwrap();
    }
    service.put("s3://bank/a.csv", "x,y\n1,2\n").await.unwrap();
    let job = |input: &str, more: Value| {
        let mut document = json!({ "function": "column-stats", "input": input });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.job(document)
    };
    for input in ["s3://nobucket/*.csv", "s3://nobucket/a.csv"] {
        job(input, json!({})).await.refused("bucket-not-found", &["nobucket"]);
    }
    job("s3://bank/none.csv", json!({})).await.refused("object-not-found", &["s3://bank/none.csv"]);
    let none = job("s3://bank/none/*.csv", json!({})).await.body;
    assert_eq!((&none["state"], &none["result"]["rows"]), (&json!("succeeded"), &json!(0)), "{none}");
    assert!(none["warnings"][0].as_str().unwrap().contains("s3://bank/none/*.csv"), "{none}");
    job("bank/a.csv", json!({})).await.refused("invalid-job", &["s3://bucket/key"]);
    job("s3://bank/a.csv", json!({ "params": 7 })).await.refused("invalid-job", &["params"]);
    job("s3://bank/", json!({ "output": "s3://bank/out/" }))
        .await
        .refused("overlapping-prefixes", &["s3://bank/"]);
    job("s3://bank/a.csv", json!({ "columns": ["x", "z"] }))
        .await
        .refused("column-not-found", &["s3://bank/a.csv", "\"z\"", "x"]);
    let wrong = json!({ "function": "credit-train", "input": "s3://bank/a.csv", "params": { "target": 7 } });
    let wrong = client.job(wrong).await.body;
    problem(&wrong["problem"], "invalid-params", &["params.target", "params of the call or the job"]);
    assert_eq!(wrong["problem"]["retryable"], false, "{wrong}");
}
