// SPDX-License-Identifier: Apache-2.0
//! A job over an input gives the same rows and the same answer however small
//! the parts are into which the input is taken apart.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use fanfold_tests::service::Service;
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use serde_json::{Value, json};

use crate::support::Client;

/// Ids and texts, among them some that a careless splitter would cut.
fn rows(from: i64, count: i64) -> Vec<(i64, String)> {
    let text = |id: i64| match id % 4 {
        0 => format!("plain {id}"),
        1 => format!("two\nlines of {id}, and a comma"),
        2 => format!("a \"quoted\"\r\n\"{id}\""),
        _ => "long ".repeat(usize::try_from(id % 60).unwrap()),
    };
    (from..from + count).map(|id| (id, text(id))).collect()
}

fn csv(rows: &[(i64, String)]) -> Vec<u8> {
    let mut writer =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(b"\xef\xbb\xbf".to_vec());
    writer.write_record(["id", "text"]).unwrap();
    rows.iter().for_each(|(id, text)| writer.write_record([&id.to_string(), text]).unwrap());
    let mut text = writer.into_inner().unwrap();
    // The last record goes without its line break.
    text.truncate(text.len() - 2);
    text
}

fn jsonl(rows: &[(i64, String)]) -> Vec<u8> {
    rows.iter().map(|(id, text)| format!("{}\n", json!({"id": id, "text": text}))).collect::<String>().into()
}

fn parquet(rows: &[(i64, String)]) -> Vec<u8> {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("text", DataType::Utf8, false)];
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, text)| text)));
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![ids, texts]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(40)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

async fn run(client: &Client<'_>, document: Value) -> Value {
    let job = client.job(document).await.body;
    assert_eq!(job["state"], "succeeded", "{job}");
    job
}

/// All rows of a job's output, in the order of its manifest.
async fn output(service: &Service, prefix: &str) -> String {
    let store = service.store().unwrap();
    let get = async |uri: &str| store.get(&uri.parse().unwrap(), None).await.unwrap();
    let manifest: Value = serde_json::from_slice(&get(&format!("{prefix}_manifest.json")).await).unwrap();
    let mut text = String::new();
    for object in manifest["objects"].as_array().unwrap() {
        text.push_str(std::str::from_utf8(&get(object["uri"].as_str().unwrap()).await).unwrap());
    }
    text
}

#[tokio::test]
async fn the_parts_of_an_input_do_not_show_in_what_comes_of_it() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    for function in ["column-stats", "normalize"] {
        service.deploy(function).unwrap();
    }
    type Writer = fn(&[(i64, String)]) -> Vec<u8>;
    for (format, write) in [("csv", csv as Writer), ("jsonl", jsonl), ("parquet", parquet)] {
        // One large object between small ones.
        let mut all = Vec::new();
        for (name, count) in [("a", 3), ("b", 500), ("c", 1), ("d", 7), ("e", 2)] {
            let rows = rows(i64::try_from(all.len()).unwrap(), count);
            service.put(&format!("s3://bank/{format}/{name}.{format}"), write(&rows)).await.unwrap();
            all.extend(rows);
        }
        let expected = String::from_utf8(jsonl(&all)).unwrap();
        let mut partitions = Vec::new();
        for target in ["1KiB", "3000B", "16KiB", "64MiB"] {
            let input = format!("s3://bank/{format}/");
            let split = json!({ "target_bytes": target });
            let stats =
                run(&client, json!({ "function": "column-stats", "input": input, "split": split })).await;
            let result = &stats["result"];
            let id = result["columns"].as_array().unwrap().iter().find(|c| c["name"] == "id").unwrap();
            assert_eq!((&result["rows"], &id["min"], &id["max"]), (&json!(513), &json!(0.0), &json!(512.0)));
            assert!((id["mean"].as_f64().unwrap() - 256.0).abs() < 1e-9, "{format} by {target}: {id}");
            let prefix = format!("s3://bank/out/{format}/{target}/");
            let map = run(
                &client,
                json!({
                    "function": "normalize", "input": input, "split": split, "output": prefix,
                    "output_format": "jsonl",
                    "params": { "method": "minmax", "stats": result, "keep": ["id"] }
                }),
            )
            .await;
            assert_eq!(output(&service, &prefix).await, expected, "{format} by {target}");
            partitions.push(map["partitions"].as_u64().unwrap());
        }
        assert!(partitions.is_sorted_by(|a, b| a >= b), "{format}: {partitions:?}");
        assert!(partitions[0] > 8 && partitions[3] == 1, "{format}: {partitions:?}");
    }
}

#[tokio::test]
async fn functions_see_the_rows_that_pass_the_filter() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    for function in ["column-stats", "normalize"] {
        service.deploy(function).unwrap();
    }
    let all = rows(0, 500);
    let passing: Vec<_> =
        all.iter().filter(|(id, text)| *id >= 400 && text.starts_with("two")).cloned().collect();
    let filter = "id >= 400 and text like 'two%'";
    type Writer = fn(&[(i64, String)]) -> Vec<u8>;
    for (format, write) in [("csv", csv as Writer), ("jsonl", jsonl), ("parquet", parquet)] {
        let input = format!("s3://bank/f/{format}/");
        service.put(&format!("{input}all.{format}"), write(&all)).await.unwrap();
        for target in ["1KiB", "64MiB"] {
            let split = json!({ "target_bytes": target });
            let stats = run(
                &client,
                json!({ "function": "column-stats", "input": input, "split": split, "filter": filter }),
            )
            .await;
            assert_eq!(stats["result"]["rows"], passing.len(), "{format} by {target}: {stats}");
            let receipt = &stats["receipt"];
            let (read, pruned) =
                (receipt["rows_in"].as_u64().unwrap(), receipt["row_groups_pruned"].as_u64().unwrap());
            // Thirteen row groups of 40 rows, of which ten end before 400.
            assert_eq!(pruned, if format == "parquet" { 10 } else { 0 }, "{format} by {target}: {receipt}");
            assert_eq!(read + receipt["rows_filtered"].as_u64().unwrap() + pruned * 40, 500, "{receipt}");
            let prefix = format!("s3://bank/out/f/{format}/{target}/");
            run(
                &client,
                json!({
                    "function": "normalize", "input": input, "split": split, "output": prefix, "filter": filter,
                    "output_format": "jsonl",
                    "params": { "method": "minmax", "stats": stats["result"], "keep": ["id"] }
                }),
            )
            .await;
            let expected = String::from_utf8(jsonl(&passing)).unwrap();
            assert_eq!(output(&service, &prefix).await, expected, "{format} by {target}");
        }
        let wrong = json!({ "function": "column-stats", "input": input, "filter": "id > 1 and tetx = 'x'" });
        client.post("/v1/jobs", &wrong).await.refused("column-not-found", &["\"tetx\" at column 12"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_differ_are_one_table() {
    let service = Service::fresh().unwrap();
    let client = Client::new(&service);
    service.deploy("column-stats").unwrap();
    let input = "s3://bank/u/";
    let put = async |name: &str, body: Vec<u8>| service.put(&format!("{input}{name}"), body).await.unwrap();
    put("all.parquet", parquet(&rows(0, 500))).await;
    put("late.csv", "id,late\n500,\n501,2\n502,2.5\n".into()).await;
    put("lines.jsonl", "{\"late\":7}\n{\"text\":\"x\",\"late\":null}\n".into()).await;
    let expected = json!([["id", "Int64", 503, 2], ["text", "Utf8", 501, 4], ["late", "Float64", 3, 502],]);
    for target in ["1KiB", "64MiB"] {
        let document = json!({
            "function": "column-stats", "input": input, "schema": "union", "split": { "target_bytes": target }
        });
        let answer = run(&client, document.clone()).await["result"].clone();
        let columns = answer["columns"].as_array().unwrap().iter();
        let columns: Vec<Value> =
            columns.map(|c| ["name", "type", "count", "nulls"].map(|name| c[name].clone()).into()).collect();
        assert_eq!(Value::from(columns), expected, "{target}");
        let mut filtered = document;
        filtered["filter"] = json!("late > 2");
        let receipt = run(&client, filtered).await["receipt"].clone();
        assert_eq!((&receipt["rows_in"], &receipt["rows_filtered"]), (&json!(2), &json!(503)), "{receipt}");
    }
    let same = client.job(json!({ "function": "column-stats", "input": input })).await.body;
    assert_eq!(same["problem"]["code"], "schema-mismatch", "{same}");
}
