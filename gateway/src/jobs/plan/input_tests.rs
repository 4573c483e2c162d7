// SPDX-License-Identifier: Apache-2.0
//! What is looked at, what is refused, and what is too much.

use std::io::Write;

use fanfold_storage::{
    Credentials, PutOptions, StoreConfig,
    server::{Server, ServerConfig},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use super::*;

#[test]
fn inner_folders_belong_to_outer_ones() {
    let folders = ["b/", "a/b/", "a/", "ab/"].map(str::to_owned).to_vec();
    assert_eq!(outermost(folders), ["a/", "ab/", "b/"]);
    assert_eq!(outermost(vec!["a/".into(), String::new()]), [""]);
}

#[test]
fn a_key_is_within_the_folder_that_it_begins_with() {
    let folders = ["a/", "ab/", "b/c/"].map(str::to_owned);
    for (key, expected) in [("a/x", true), ("a/", true), ("ab/x", true), ("abc", false), ("b/c/d", true)] {
        assert_eq!(is_within(&folders, key), expected, "{key}");
    }
    for key in ["", "A", "b/", "b/d", "c"] {
        assert!(!is_within(&folders, key), "{key}");
    }
    assert!(is_within(&[String::new()], "x"));
    assert!(!is_within(&[], "x"));
}

#[test]
fn manifests_of_others_are_told_from_damaged_ones() {
    for others in [
        "{}",
        "[]",
        "[{\"job\": 1, \"objects\": []}]",
        "{\"objects\": [1]}",
        "{\"job\": \"x\", \"files\": {}}",
    ] {
        assert!(is_of_others(others.as_bytes()), "{others}");
    }
    for damaged in [
        "",
        "no manifest",
        "{\"files\": [",
        "{\"job\": 1, \"objects\": {}}",
        "{\"objects\": [], \"job\": null}",
    ] {
        assert!(!is_of_others(damaged.as_bytes()), "{damaged}");
    }
}

#[test]
fn only_tables_of_tasks_lie_loose() {
    let name = keys::output_part(7, &Uuid::from_u128(9), "csv");
    let folder =
        |key: String| folder_of_part(&ObjectUri::new("bank", key).unwrap()).map(|uri| uri.to_string());
    assert_eq!(folder(format!("out/{name}")).as_deref(), Some("s3://bank/out/"));
    assert_eq!(folder(name).as_deref(), Some("s3://bank/"));
    // As Spark names them.
    assert_eq!(folder("out/part-00000-5a3f4d0e-0000-0000-0000-000000000000-c000.parquet".to_owned()), None);
}

fn finder<'a>(
    store: &'a Store,
    tenant: &'a Tenant,
    output: &'a ObjectUri,
    output_format: Format,
) -> Finder<'a> {
    Finder { store, tenant, output, output_format, tables: true }
}

#[tokio::test]
async fn what_a_job_may_write_is_no_input_of_it() {
    let store = Store::connect(StoreConfig::at("http://127.0.0.1:9", Credentials::new("a", "b"))).unwrap();
    let tenant = Tenant::alone(Default::default(), "fanfold");
    let output = "s3://bank/x/out/".parse().unwrap();
    let check = |input: &str, format: Format, feeds: bool| {
        let source = Source::parse(input).unwrap();
        let found = finder(&store, &tenant, &output, format).allow(input, &source);
        let expected = if feeds { Err(ErrorKind::OverlappingPrefixes) } else { Ok(()) };
        assert_eq!(found.map_err(|problem| problem.code), expected, "{input} {format:?}");
    };
    for (word, format) in [
        ("parquet", Format::Auto),
        ("parquet", Format::Parquet),
        ("csv", Format::Csv),
        ("jsonl", Format::Jsonl),
        ("arrow", Format::Arrow),
    ] {
        let own = format!("s3://bank/x/**/*.{word}");
        check(&own, format, true);
        let others = [Format::Parquet, Format::Csv, Format::Jsonl, Format::Arrow];
        for other in others.into_iter().filter(|other| other.extension() != word) {
            check(&own, other, false);
        }
        check(&format!("s3://bank/x/*/*-[c-z]*.{word}"), format, true);
        check(&format!("s3://bank/x/*/part-*-[!0-9a-f]*.{word}"), format, false);
        check(&format!("s3://bank/x/*.{word}"), format, false);
    }
    check("s3://bank/**/*.json", Format::Csv, true);
    check("s3://bank/**/result.*", Format::Csv, true);
    check("s3://bank/x/*/_*.json*", Format::Csv, true);
    check("s3://bank/x/*/_S*", Format::Csv, true);
    check("s3://bank/x/out/part-[0-9]*.x", Format::Csv, true);
    check("s3://bank/y/**", Format::Csv, false);
}

/// A store that gives no object of more than a thousand bytes whole.
async fn tight(folder: &std::path::Path) -> Store {
    let credentials = || Credentials::new("lists", "lists-secret");
    let server = Server::open(ServerConfig { root: folder.to_owned(), credentials: credentials() }).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { server.serve(listener, Default::default()).await });
    let config = StoreConfig { get_bytes_max: 1_000, ..StoreConfig::at(endpoint, credentials()) };
    let store = Store::connect(config).unwrap();
    store.ensure_bucket("bank").await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_larger_than_what_is_read_whole_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = tight(folder.path()).await;
    let count = 40_000;
    let names: Vec<String> = (0..count).map(|n| format!("in/{n:06}.csv")).collect();
    let rows: String = names.iter().map(|key| format!("\"bank\",\"{key}\",\"7\",\"e\"\n")).collect();
    let entries: Vec<_> =
        names.iter().map(|key| json!({"bucket": "bank", "key": key, "size": 7, "etag": "e"})).collect();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(rows.as_bytes()).unwrap();
    let inventory = json!({
        "destinationBucket": "arn:aws:s3:::bank", "fileFormat": "CSV", "fileSchema": "Bucket, Key, Size, ETag",
        "files": [{"key": "lists/1.csv.gz"}, {"key": "lists/2.csv"}]
    });
    let more = "\"bank\",\"in/x.csv\",\"7\",\"e\"\n".repeat(100);
    for (key, body) in [
        ("lists/a.csv", format!("bucket,key,size,etag\n{rows}").into_bytes()),
        ("lists/a.json", serde_json::to_vec(&entries).unwrap()),
        ("lists/1.csv.gz", gzip.finish().unwrap()),
        ("lists/2.csv", more.into_bytes()),
        ("lists/manifest.json", inventory.to_string().into_bytes()),
    ] {
        let uri = ObjectUri::new("bank", key).unwrap();
        store.put(&uri, body.into(), PutOptions::default()).await.unwrap();
    }
    let (tenant, output) = (Tenant::alone(Default::default(), "fanfold"), "s3://bank/out/".parse().unwrap());
    let finder = finder(&store, &tenant, &output, Format::Auto);
    for (list, expected) in [("a.csv", count), ("a.json", count), ("manifest.json", count + 1)] {
        let found = finder.find(&[format!("manifest://bank/lists/{list}")]).await;
        let objects = found.map_err(Problem::from).unwrap().objects;
        assert_eq!(objects.len(), expected, "{list}");
        assert_eq!(objects[7].uri.key(), names[7], "{list}");
        assert_eq!(objects[7].pin.size, 7, "{list}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_read_in_one_state() {
    let folder = tempfile::tempdir().unwrap();
    let store = tight(folder.path()).await;
    let put = async |key: &str, body: String| {
        let uri = ObjectUri::new("bank", key).unwrap();
        store.put(&uri, body.into(), PutOptions::default()).await.unwrap()
    };
    let pin = put("in/a.csv", "a\n1\n".to_owned()).await;
    let entry = |etag: &str, size: u64, version: Option<&str>| {
        let uri = "s3://bank/in/a.csv";
        json!({"uri": uri, "etag": etag, "size": size, "version_id": version})
    };
    let now = entry(&pin.etag, pin.size, None);
    let lists = [
        ("same", json!([now, now, "s3://bank/in/a.csv"])),
        ("older", json!([now, entry("older", 4, None)])),
        ("size", json!([now, entry(&pin.etag, 5, None)])),
        ("versions", json!([entry(&pin.etag, 4, Some("v1")), now, entry(&pin.etag, 4, Some("v2"))])),
    ];
    for (name, list) in &lists {
        put(&format!("lists/{name}"), list.to_string()).await;
    }
    let (tenant, output) = (Tenant::alone(Default::default(), "fanfold"), "s3://bank/out/".parse().unwrap());
    let finder = finder(&store, &tenant, &output, Format::Auto);
    let find = async |list: &str| {
        let inputs = ["s3://bank/in/*.csv".to_owned(), format!("manifest://bank/lists/{list}")];
        finder.find(&inputs).await.map(|found| found.objects).map_err(Problem::from)
    };
    assert_eq!(find("same").await.unwrap().len(), 1);
    let refused = [
        ("older", ["ETag older", pin.etag.as_str()]),
        ("size", ["4 bytes", "5 bytes"]),
        ("versions", ["version v1", "version v2"]),
    ];
    for (list, words) in refused {
        let problem = find(list).await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::InvalidJob, "{problem}");
        for word in words.iter().chain(&["s3://bank/in/a.csv"]) {
            assert!(problem.detail.contains(word), "{word:?} in {problem}");
        }
    }
}

/// A store of keys without end, a thousand a page, and without objects.
async fn endless() -> Store {
    let page = |request: axum::extract::Request| async move {
        let query = request.uri().query().unwrap_or_default();
        if !query.contains("list-type=2") {
            let missing = "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>";
            return (axum::http::StatusCode::NOT_FOUND, missing.to_owned());
        }
        let token = query.split('&').find_map(|part| part.strip_prefix("continuation-token="));
        let from: u64 = token.map_or(0, |token| token.parse().unwrap());
        let key =
            |n: u64| format!("<Contents><Key>in/{n:09}.csv</Key><ETag>e</ETag><Size>9</Size></Contents>");
        let keys: String = (from..from + 1_000).map(key).collect();
        let next = format!("<NextContinuationToken>{}</NextContinuationToken>", from + 1_000);
        let page =
            format!("<ListBucketResult><IsTruncated>true</IsTruncated>{next}{keys}</ListBucketResult>");
        (axum::http::StatusCode::OK, page)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(page)).await });
    let credentials = Credentials::new("test", "test-secret");
    Store::connect(StoreConfig::at(endpoint, credentials)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_of_ten_million_keys_is_refused_soon() {
    let (store, output) = (endless().await, "s3://out/x/".parse().unwrap());
    let tenant = Tenant::alone(Default::default(), "fanfold");
    let finder = finder(&store, &tenant, &output, Format::Auto);
    // What fits, and what is looked at in vain.
    for (input, word) in
        [("s3://bank/in/*.csv", "at most 1000000 objects"), ("s3://bank/**/x", "2000000 keys")]
    {
        let inputs = [input.to_owned()];
        let found = finder.find(&inputs);
        let found = tokio::time::timeout(std::time::Duration::from_secs(120), found).await.unwrap();
        let Err(Error::Refused(problem)) = found.map(|_| ()) else { panic!("{input}") };
        assert_eq!(problem.code, ErrorKind::PartitionLimit, "{input}");
        assert!(problem.detail.contains(word), "{problem}");
    }
}

#[test]
fn bounds_say_what_to_do() {
    assert!(bounded(limits::PARTITIONS_MAX, limits::LISTED_KEYS_MAX).is_ok());
    assert_eq!(bounded(limits::PARTITIONS_MAX + 1, 0).unwrap_err().code, ErrorKind::PartitionLimit);
    assert_eq!(bounded(0, limits::LISTED_KEYS_MAX + 1).unwrap_err().code, ErrorKind::PartitionLimit);
}
