// SPDX-License-Identifier: Apache-2.0
//! Coordinators of one job that publish side by side, and what is there after a later job.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use fanfold_backbone::EmbeddedConfig;
use fanfold_protocol::{
    commit::{Commit, MANIFEST_OBJECTS_MAX, TaskCommit, TaskOutcome},
    digest::Digest,
    invocation::Usage,
    tenant::Tenant,
    time,
};
use fanfold_storage::{
    Arbiter, Credentials, ListOptions, Store, StoreConfig,
    client::WRITER_METADATA,
    server::{Server, ServerConfig},
};
use futures::future::BoxFuture;
use serde_json::json;

use super::*;
use crate::jobs::{case::small_result, ending::decide};

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
        let store = Store::connect(StoreConfig::at(endpoint, credentials())).unwrap();
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

    fn closing(&self) -> Closing<'_> {
        let Self { vault, backbone, job, output, .. } = self;
        Closing { vault, backbone, job, output }
    }

    async fn publish(&self, products: &Products) -> bool {
        self.closing().publish(products).await.unwrap()
    }

    /// Others write where the manifest goes, whenever the job is about to.
    fn meddle(&mut self, theirs: Theirs) {
        self.job.document.overwrite = true;
        let store = self.vault.store().clone();
        let (uri, job) = (self.output.join(MANIFEST_NAME).unwrap(), self.job.id);
        let meddler = Meddler { store: store.clone(), uri, job, tries: AtomicU32::new(0), theirs };
        self.vault = Vault::new(store.arbitrated(Arc::new(meddler), "fanfold"), "fanfold".to_owned());
    }

    async fn head(&self) -> Manifest {
        let uri = self.output.join(MANIFEST_NAME).unwrap();
        serde_json::from_slice(&self.vault.store().get(&uri, None).await.unwrap()).unwrap()
    }

    async fn shards(&self) -> Vec<String> {
        let list = self.vault.store().list("bank", "out/_manifest-", ListOptions::default());
        list.map_ok(|entry| entry.name().to_owned()).try_collect().await.unwrap()
    }
}

/// What others put where the manifest goes.
#[derive(Clone, Copy, Debug)]
enum Theirs {
    /// Other jobs' heads; the last time it is the own one that lands, and that is not told.
    Landed,
    /// The head of another coordinator of the job, of a release that marks it with the job's id.
    Rivals,
    /// Other jobs' heads.
    Others,
}

/// Lets nobody win, and has another head there by then.
#[derive(Debug)]
struct Meddler {
    store: Store,
    uri: ObjectUri,
    job: Uuid,
    tries: AtomicU32,
    theirs: Theirs,
}

impl Meddler {
    async fn write(&self, contest: &str) {
        let number = self.tries.fetch_add(1, Ordering::Relaxed) + 1;
        let mut options = PutOptions::default();
        let head = |job: &Uuid| Bytes::from(serde_json::to_vec(&products(job, 1).manifest).unwrap());
        let body = match self.theirs {
            Theirs::Landed if number == TRIES_MAX => {
                let prefix = format!("_fanfold/contests/{contest}/");
                let list = self.store.list("fanfold", &prefix, ListOptions::default());
                let staged: Vec<_> = list.try_collect().await.unwrap();
                let own = ObjectUri::new("fanfold", staged[0].name()).unwrap();
                // Without another name the store's client takes it for its own, and tells that it landed.
                options.metadata.insert(WRITER_METADATA.to_owned(), "untold".to_owned());
                self.store.get(&own, None).await.unwrap()
            }
            Theirs::Rivals => {
                options.metadata.insert(WRITER_METADATA.to_owned(), self.job.to_string());
                head(&self.job)
            }
            Theirs::Landed | Theirs::Others => head(&Uuid::now_v7()),
        };
        self.store.put(&self.uri, body, options).await.unwrap();
    }
}

impl Arbiter for Meddler {
    fn is_needed(&self) -> bool {
        true
    }

    fn decide<'a>(
        &'a self,
        contest: &'a str,
        _: &'a str,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<String, String>> {
        Box::pin(async move {
            self.write(contest).await;
            Ok("nobody".to_owned())
        })
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
        is_cut: false,
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

#[tokio::test]
async fn who_does_not_get_through_looks_whose_manifest_is_there() {
    let refused = |published: Result<bool>| match published {
        Err(Error::Refused(problem)) => problem.code,
        other => panic!("{other:?}"),
    };
    for (theirs, shards) in [(Theirs::Landed, 2), (Theirs::Rivals, 0), (Theirs::Others, 0)] {
        let mut world = World::new().await;
        world.meddle(theirs);
        let many = products(&world.job.id, MANIFEST_OBJECTS_MAX + 1);
        let published = world.closing().publish(&many).await;
        assert_eq!(world.shards().await.len(), shards, "{theirs:?}");
        match theirs {
            Theirs::Landed | Theirs::Rivals => assert!(published.unwrap(), "{theirs:?}"),
            Theirs::Others => assert_eq!(refused(published), ErrorKind::OutputExists),
        }
        let named = world.head().await.shards.into_iter().map(|shard| shard.uri.key().to_owned());
        assert_eq!(named.collect::<Vec<_>>(), world.shards().await, "{theirs:?}");
    }
}

#[tokio::test]
async fn where_nobody_can_tell_what_is_there_a_refusal_stays_one() {
    let mut world = World::new().await;
    let tenant = Tenant { buckets: Some(Vec::new()), ..Tenant::alone("shop".parse().unwrap(), "fanfold") };
    let store = world.vault.store().of_tenant(Arc::new(tenant));
    world.vault = Vault::new(store, "fanfold".to_owned());
    let (uri, head) = (world.output.join(MANIFEST_NAME).unwrap(), products(&world.job.id, 1).manifest);
    let told = world.closing().after_refusal(&uri, &head, occupied(&uri, None)).await;
    let Err(Error::Refused(problem)) = told else { panic!("{told:?}") };
    assert_eq!(problem.code, ErrorKind::OutputExists);
}

#[tokio::test]
async fn an_answer_is_published_as_its_function_wrote_it() {
    let world = World::new().await;
    let written = r#"{"b": 51.248178375505404, "a": 340282366920938463463374607431768211455, "c": 1.10}"#;
    let answer = Answer::try_from(written.to_owned()).unwrap();
    let products = Products { answer: Some(AnswerRef::Inline(answer.clone())), ..products(&world.job.id, 0) };
    assert!(world.closing().publish(&products).await.unwrap());
    let stored = world.output.join(RESULT_NAME).unwrap();
    assert_eq!(world.vault.store().get(&stored, None).await.unwrap(), written);
    let read = small_result(&world.vault, &world.job.id).await.unwrap();
    assert_eq!((products.small_answer(), read), (Some(answer.clone()), Some(answer)));
}

#[tokio::test]
async fn beside_another_program_s_manifest_a_job_that_failed_leaves_no_parts_of_its_own() {
    let world = World::new().await;
    let (store, id) = (world.vault.store(), world.job.id);
    let [own, lost, theirs] =
        [0, 1, 2].map(|task| format!("out/{}", keys::output_part(task, &Uuid::new_v4(), "parquet")));
    let at = |key: &str| ObjectUri::new("bank", key).unwrap();
    for key in [&own, &lost, &theirs] {
        store.put(&at(key), "x".into(), PutOptions::default()).await.unwrap();
    }
    let table = |key: &str| OutputObject { uri: at(key), size: 1, etag: "e".into(), rows: 1 };
    let task = |index: u32, key: &str| TaskCommit {
        index,
        attempt: 1,
        outcome: TaskOutcome::Table(Some(table(key))),
        usage: Usage::default(),
        looked_outside: false,
    };
    let commit = Commit {
        job: id,
        stage: 0,
        group: 0,
        round: 0,
        attempt: Uuid::new_v4(),
        worker: "test".into(),
        tasks: vec![task(0, &own), task(1, &lost)],
    };
    assert!(world.vault.write_once(&keys::commit(&id, 0, 0, 0), &commit).await.unwrap());
    store.put(&at("out/_manifest.json"), "{}".into(), PutOptions::default()).await.unwrap();
    claim::hold(&world.backbone, &world.job, &world.output).await.unwrap();
    let sweep = Sweep { output: &world.output, job: &world.job, committed: false };
    assert_eq!(sweep.losers(&world.vault, &world.backbone).await.unwrap(), 2);
    let list = async || -> Vec<String> {
        let list = store.list("bank", "out/part-", ListOptions::default());
        list.map_ok(|entry| entry.name().to_owned()).try_collect().await.unwrap()
    };
    assert_eq!(list().await, std::slice::from_ref(&theirs));
    // What a job that succeeded gave is not taken away, whoever wrote over its manifest.
    store.put(&at(&own), "x".into(), PutOptions::default()).await.unwrap();
    decide(&world.vault, &id, JobState::Succeeded, None).await.unwrap();
    assert_eq!(sweep.losers(&world.vault, &world.backbone).await.unwrap(), 0);
    assert_eq!(list().await, [own, theirs]);
}
