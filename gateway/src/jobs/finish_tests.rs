// SPDX-License-Identifier: Apache-2.0
//! Coordinators of one job that publish side by side, and what is there after a later job.

use fanfold_backbone::EmbeddedConfig;
use fanfold_protocol::{commit::MANIFEST_OBJECTS_MAX, digest::Digest};
use fanfold_storage::{
    Credentials, ListOptions, StoreConfig,
    server::{Server, ServerConfig},
};
use serde_json::json;

use super::*;

struct World {
    vault: Vault,
    backbone: Backbone,
    job: Job,
    output: ObjectUri,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let credentials = || Credentials::new("endings", "endings-secret");
        let config = ServerConfig { root: folder.path().join("s3"), credentials: credentials() };
        let server = Server::open(config).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { server.serve(listener, Default::default()).await });
        let store = fanfold_storage::Store::connect(StoreConfig::at(endpoint, credentials())).unwrap();
        for bucket in ["fanfold", "bank"] {
            store.ensure_bucket(bucket).await.unwrap();
        }
        let config = EmbeddedConfig::new(folder.path().join("backbone.redb"));
        let backbone = Backbone::embedded(config).await.unwrap();
        let document = json!({"function": "f", "input": "s3://bank/in/", "output": "s3://bank/out/"});
        let job = Job {
            id: Uuid::now_v7(),
            document: serde_json::from_value(document).unwrap(),
            version: 1,
            digest: Digest::of(b""),
            submitted_at: time::now(),
            retry: None,
            cache: None,
            sample: None,
        };
        let output = "s3://bank/out/".parse().unwrap();
        Self { vault: Vault::new(store, "fanfold".to_owned()), backbone, job, output, _folder: folder }
    }

    async fn publish(&self, products: &Products) -> bool {
        let Self { vault, backbone, job, output, .. } = self;
        Closing { vault, backbone, job, output }.publish(products).await.unwrap()
    }

    async fn shards(&self) -> Vec<String> {
        let list = self.vault.store().list("bank", "out/_manifest-", ListOptions::default());
        list.map_ok(|entry| entry.name().to_owned()).try_collect().await.unwrap()
    }
}

fn products(job: &Uuid, objects: usize) -> Products {
    let object = |n: usize| OutputObject {
        uri: format!("s3://bank/out/part-{n:07}.parquet").parse().unwrap(),
        size: 1,
        etag: "e".into(),
        rows: 1,
    };
    let manifest = Manifest {
        job: *job,
        function: "f@1".parse().unwrap(),
        rows: objects as u64,
        bytes: objects as u64,
        objects: (0..objects).map(object).collect(),
        shards: Vec::new(),
        failed: Vec::new(),
        all_failed: None,
    };
    Products {
        manifest,
        answer: None,
        dead_letters: Vec::new(),
        told: true,
        partitions: 1,
        tasks: TaskCounts::default(),
        receipt: Receipt::default(),
        estimate: None,
    }
}

#[tokio::test]
async fn who_publishes_in_vain_takes_no_shard_of_the_manifest_that_is_there() {
    let world = World::new().await;
    let many = products(&world.job.id, MANIFEST_OBJECTS_MAX + 1);
    assert!(world.publish(&many).await);
    let shards = world.shards().await;
    assert_eq!(shards.len(), 2);
    // Another coordinator of the job was paused, and finds that all is done.
    assert!(world.publish(&many).await);
    assert_eq!(world.shards().await, shards);
    // A third one does so when the job has ended and a later one has the place.
    assert!(world.vault.write_once(&keys::outcome(&world.job.id), &json!({})).await.unwrap());
    let later = serde_json::to_vec(&products(&Uuid::now_v7(), 1).manifest).unwrap();
    let uri = world.output.join(MANIFEST_NAME).unwrap();
    world.vault.store().put(&uri, later.into(), PutOptions::default()).await.unwrap();
    assert!(!world.publish(&many).await);
    assert_eq!(world.shards().await, shards);
}
