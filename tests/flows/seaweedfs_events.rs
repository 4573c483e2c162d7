// SPDX-License-Identifier: Apache-2.0
//! SeaweedFS as the store of the service, telling of its objects through its
//! own webhook, configured as the guide to triggers has it.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fanfold_protocol::uri::ObjectUri;
use fanfold_storage::{Credentials, Store, StoreConfig};
use fanfold_tests::{service::Service, until};
use serde_json::json;

use crate::{
    support::Client,
    triggers::{program, put_with_boto3},
};

/// A SeaweedFS of one's own, ended when this is dropped.
struct Seaweed {
    child: Child,
    store: Store,
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that were free a moment ago. The gRPC ports are 10,000 above.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut found = Vec::new();
    while found.len() < N {
        let Ok(low) = TcpListener::bind(("127.0.0.1", 0)) else { continue };
        let port = low.local_addr().unwrap().port();
        let twin = port.checked_add(10_000).is_some_and(|p| TcpListener::bind(("127.0.0.1", p)).is_ok());
        if twin && !found.contains(&port) {
            found.push(port);
        }
    }
    found.try_into().unwrap()
}

impl Seaweed {
    /// Starts it in this folder, where it finds its `notification.toml`, with what
    /// an earlier one left there.
    async fn start(folder: &Path, ports: [u16; 4], credentials: &Credentials) -> Self {
        let [master, volume, filer, s3] = ports;
        let identities = json!({ "identities": [{
            "name": "test",
            "credentials": [{ "accessKey": credentials.access_key, "secretKey": credentials.secret_key }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        std::fs::write(folder.join("s3.json"), identities.to_string()).unwrap();
        std::fs::create_dir_all(folder.join("weed")).unwrap();
        let child = Command::new(program("weed"))
            .args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=weed"])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=1000", "-volume.minFreeSpace=64MiB"])
            .args(["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.config=s3.json"])
            .arg(format!("-master.port={master}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-s3.port={s3}"))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("weed.log")).unwrap())
            .spawn()
            .unwrap();
        let config = StoreConfig::at(format!("http://127.0.0.1:{s3}"), credentials.clone());
        let server = Self { child, store: Store::connect(config).unwrap() };
        server.ready(folder).await;
        server
    }

    /// Ready is when a bucket can be made and written to.
    async fn ready(&self, folder: &Path) {
        let begun = Instant::now();
        loop {
            let last = async {
                self.store.ensure_bucket("bank").await?;
                let uri = ObjectUri::new("bank", "ready").unwrap();
                self.store.put(&uri, "x".into(), Default::default()).await
            };
            let Err(error) = last.await else { return };
            if begun.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(folder.join("weed.log")).unwrap_or_default();
                panic!("SeaweedFS must be ready within a minute, found: {error}; its log:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn endpoint(&self) -> &str {
        self.store.config().endpoint.as_deref().unwrap()
    }
}

/// Events of the trigger `t` with this fate.
async fn fate(service: &Service, fate: &str) -> u64 {
    let request = reqwest::Client::new().get(format!("{}/metrics", service.endpoint));
    let text = request.bearer_auth(&service.token).send().await.unwrap().text().await.unwrap();
    let start = format!("fanfold_trigger_events_total{{trigger=\"t\",fate=\"{fate}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_tells_of_every_object_once_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    // The service signs with these, wherever its store is.
    let credentials = Credentials::load_or_create(&folder.path().join("data/s3-credentials.json")).unwrap();
    let ports = free_ports();
    let weed = Seaweed::start(folder.path(), ports, &credentials).await;
    let endpoint = weed.endpoint().to_owned();
    let service = Service::start_with(folder.path(), &["--store-endpoint", &endpoint]).unwrap();
    let client = Client::new(&service);
    client.deploy_folder("csv-to-parquet").await;
    let document =
        json!({"bucket": "bank", "prefix": "in/", "function": "csv-to-parquet", "reconcile": "0s"});
    let made = client.send("PUT", "/v1/triggers/t", "application/json", document.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let notification = format!(
        "[notification.webhook]\nenabled = true\nendpoint = \"{}/v1/events/s3/t\"\nbearer_token = \"{}\"\n\
         path_prefixes = [\"/buckets/bank/\"]\n",
        service.endpoint,
        made.body["secret"].as_str().unwrap()
    );
    std::fs::write(folder.path().join("notification.toml"), notification).unwrap();
    drop(weed);
    let weed = Seaweed::start(folder.path(), ports, &credentials).await;

    let names = ["plain", "a b+c", "100%25", "%41", "€ ü/日本", "a&b=c?d#e"];
    let mut keys: Vec<String> = names.iter().map(|name| format!("in/{name}.csv")).collect();
    // Each step of a key is a file name there, of at most 255 bytes.
    let longest = format!("in/{}x.csv", format!("{}/", "ä".repeat(100)).repeat(5));
    let longest = longest.replace("x.csv", &format!("{}.csv", "x".repeat(1_025 - longest.len())));
    assert_eq!(longest.len(), 1_024);
    keys.push(longest.clone());
    put_with_boto3(&endpoint, &credentials, &keys);
    for name in names {
        let table = ObjectUri::new("bank", format!("parquet/in/{name}.parquet")).unwrap();
        until(name, || weed.store.head(&table), Result::is_ok).await.unwrap();
    }
    let line = format!("s3://bank/{longest} -> ");
    let logs = async || client.get("/v1/functions/csv-to-parquet/logs").await.body.to_string();
    until("the longest key", logs, |logs| logs.contains(&line)).await;
    until("all events", || fate(&service, "started"), |started| *started == 7).await;

    // The same key again, with other bytes: another event, not a copy of the first.
    let again = ObjectUri::new("bank", "in/plain.csv").unwrap();
    weed.store.put(&again, "id\n1\n2\n".into(), Default::default()).await.unwrap();
    until("what was written again", || fate(&service, "started"), |started| *started == 8).await;
    assert_eq!(fate(&service, "kept").await, 8);
    assert_eq!(client.get("/v1/triggers/t").await.body["events"]["dead"], 0);
}
