// SPDX-License-Identifier: Apache-2.0
//! Events that lie in queues of SQS.
//!
//! The queues are those of moto, a simulator of AWS: it speaks SQS's protocol,
//! with receives, visibility and redrive policies, but checks no signature and
//! is not SQS. Objects are put before their trigger is made, so that nothing
//! but their message can start it.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use axum::{Router, extract::State, http::HeaderMap, response::IntoResponse};
use fanfold_protocol::uri::ObjectUri;
use fanfold_tests::{service::Service, until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{support::Client, triggers::program};

/// What the service is given to sign with.
const KEYS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "tester"), ("AWS_SECRET_ACCESS_KEY", "of-the-tester")];

/// A simulator of AWS of one's own.
struct Moto {
    child: Child,
    endpoint: String,
    http: reqwest::Client,
    _folder: TempDir,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new(program("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let endpoint = format!("http://127.0.0.1:{port}");
        let moto = Self { child, endpoint, http: reqwest::Client::new(), _folder: folder };
        until("moto to start", || moto.http.get(&moto.endpoint).send(), Result::is_ok).await.unwrap();
        moto
    }

    /// Asks SQS, in its JSON protocol.
    async fn ask(&self, action: &str, body: Value) -> Value {
        let scope = "AWS4-HMAC-SHA256 Credential=tester/20260101/eu-central-1/sqs/aws4_request, \
                     SignedHeaders=host, Signature=0";
        let request = self.http.post(&self.endpoint).header("authorization", scope);
        let request = request
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            .header("content-type", "application/x-amz-json-1.0");
        let answer = request.body(body.to_string()).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{action}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Makes a queue; gives its address.
    async fn queue(&self, name: &str, attributes: Value) -> String {
        let made = self.ask("CreateQueue", json!({"QueueName": name, "Attributes": attributes})).await;
        made["QueueUrl"].as_str().unwrap().to_owned()
    }

    async fn send(&self, queue: &str, body: &str) {
        self.ask("SendMessage", json!({"QueueUrl": queue, "MessageBody": body})).await;
    }

    /// Messages in a queue, those that somebody holds included.
    async fn count(&self, queue: &str) -> u64 {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let asked = json!({"QueueUrl": queue, "AttributeNames": names});
        let found = self.ask("GetQueueAttributes", asked).await;
        names.iter().map(|name| found["Attributes"][name].as_str().unwrap().parse::<u64>().unwrap()).sum()
    }
}

/// A record as S3 itself writes it.
fn record(key: &str) -> Value {
    json!({"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "bank"}, "object": {"key": key, "size": 5, "sequencer": "0055AED6"}}}]})
}

fn trigger(queue: &str, endpoint: &str) -> Value {
    json!({"bucket": "bank", "prefix": "in/", "function": "csv-to-parquet", "reconcile": "0s",
        "sqs": {"queue_url": queue, "region": "eu-central-1", "endpoint": endpoint}})
}

async fn with_function(folder: &Path) -> Service {
    let service = Service::start_among(folder, &[], KEYS).unwrap();
    service.store().unwrap().ensure_bucket("bank").await.unwrap();
    Client::new(&service).deploy_folder("csv-to-parquet").await;
    service
}

async fn make(service: &Service, name: &str, document: &Value) {
    let client = Client::new(service);
    let made =
        client.send("PUT", &format!("/v1/triggers/{name}"), "application/json", document.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
}

async fn written(service: &Service, name: &str) {
    let (store, uri) =
        (service.store().unwrap(), ObjectUri::new("bank", format!("parquet/in/{name}.parquet")));
    let uri = uri.unwrap();
    until(name, || store.head(&uri), Result::is_ok).await.unwrap();
}

/// A counter, all whose labels hold this text.
async fn counted(service: &Service, counter: &str, labels: &str) -> u64 {
    let request = reqwest::Client::new().get(format!("{}/metrics", service.endpoint));
    let text = request.bearer_auth(&service.token).send().await.unwrap().text().await.unwrap();
    let lines = text.lines().filter(|line| line.starts_with(counter) && line.contains(labels));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_of_every_wrapping_are_fetched() {
    let (moto, folder) = (Moto::start().await, tempfile::tempdir().unwrap());
    let service = with_function(folder.path()).await;
    for name in ["direct", "through sns", "bridge+d"] {
        service.put(&format!("s3://bank/in/{name}.csv"), "id\n1\n").await.unwrap();
    }
    let queue = moto.queue("bank", json!({})).await;
    make(&service, "t", &trigger(&queue, &moto.endpoint)).await;
    let client = Client::new(&service);
    // What S3 sends when a queue is set.
    moto.send(
        &queue,
        &json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bank"}).to_string(),
    )
    .await;
    moto.send(&queue, &record("in/direct.csv").to_string()).await;
    let sns = json!({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:eu-central-1:1:bank",
        "Message": record("in/through+sns.csv").to_string()});
    moto.send(&queue, &sns.to_string()).await;
    let bridge = json!({"version": "0", "detail-type": "Object Created", "source": "aws.s3",
        "detail": {"bucket": {"name": "bank"}, "object": {"key": "in/bridge+d.csv", "size": 5}, "reason": "PutObject"}});
    moto.send(&queue, &bridge.to_string()).await;
    for name in ["direct", "through sns", "bridge+d"] {
        written(&service, name).await;
    }
    until("an empty queue", || moto.count(&queue), |count| *count == 0).await;
    assert_eq!(counted(&service, "fanfold_sqs_messages_total", "taken").await, 4);
    assert_eq!(counted(&service, "fanfold_trigger_events_total", "\"started\"").await, 3);
    let shown = client.get("/v1/triggers/t").await.body;
    assert!(shown["sqs"]["answered_at"].is_string() && shown["sqs"]["error"].is_null(), "{shown}");
}

/// What stands between the service and the queues: while `deaf`, it lets nobody
/// delete, and counts who tried.
#[derive(Clone)]
struct Between {
    to: String,
    deaf: Arc<AtomicBool>,
    tried: Arc<AtomicUsize>,
}

async fn pass_on(
    State(between): State<Between>,
    headers: HeaderMap,
    body: bytes::Bytes,
) -> impl IntoResponse {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    if target.ends_with("DeleteMessageBatch") && between.deaf.load(SeqCst) {
        between.tried.fetch_add(1, SeqCst);
        std::future::pending::<()>().await;
    }
    let mut request = reqwest::Client::new().post(&between.to).body(body);
    for name in ["authorization", "x-amz-target", "content-type"] {
        request = request.header(name, headers[name].clone());
    }
    let answer = request.send().await.unwrap();
    (answer.status(), [("content-type", "application/x-amz-json-1.0")], answer.bytes().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_taker_was_killed_before_deleting_it_has_one_effect() {
    let (moto, folder) = (Moto::start().await, tempfile::tempdir().unwrap());
    let between = Between { to: moto.endpoint.clone(), deaf: Arc::new(true.into()), tried: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(pass_on).with_state(between.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let service = with_function(folder.path()).await;
    service.put("s3://bank/in/once.csv", "id\n1\n").await.unwrap();
    let queue = moto.queue("bank", json!({"VisibilityTimeout": "2"})).await;
    make(&service, "t", &trigger(&queue, &endpoint)).await;
    moto.send(&queue, &record("in/once.csv").to_string()).await;
    written(&service, "once").await;
    let told = async || {
        let started = counted(&service, "fanfold_trigger_events_total", "\"started\"").await;
        (started, between.tried.load(SeqCst))
    };
    until("the end of the event", told, |(started, tried)| *started == 1 && *tried > 0).await;
    service.kill().unwrap();
    assert_eq!(moto.count(&queue).await, 1);
    between.deaf.store(false, SeqCst);
    let service = Service::start_among(folder.path(), &[], KEYS).unwrap();
    until("an empty queue", || moto.count(&queue), |count| *count == 0).await;
    assert!(counted(&service, "fanfold_trigger_events_total", "\"duplicate\"").await > 0);
    assert_eq!(counted(&service, "fanfold_trigger_events_total", "\"started\"").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_no_notifications_end_where_they_can_be_looked_at() {
    let (moto, folder) = (Moto::start().await, tempfile::tempdir().unwrap());
    let service = with_function(folder.path()).await;
    service.put("s3://bank/in/good.csv", "id\n1\n").await.unwrap();
    let plain = moto.queue("plain", json!({"VisibilityTimeout": "1"})).await;
    let aside = moto.queue("aside", json!({})).await;
    let found =
        moto.ask("GetQueueAttributes", json!({"QueueUrl": aside, "AttributeNames": ["QueueArn"]})).await;
    let policy = json!({"deadLetterTargetArn": found["Attributes"]["QueueArn"], "maxReceiveCount": 2});
    let attributes = json!({"VisibilityTimeout": "1", "RedrivePolicy": policy.to_string()});
    let careful = moto.queue("careful", attributes).await;
    make(&service, "plain", &trigger(&plain, &moto.endpoint)).await;
    make(&service, "careful", &trigger(&careful, &moto.endpoint)).await;
    for queue in [&plain, &careful] {
        moto.send(queue, "not even JSON").await;
        moto.send(queue, &record("in/good.csv").to_string()).await;
    }
    let client = Client::new(&service);
    let dead = async |name: &str| {
        client.get(&format!("/v1/triggers/{name}")).await.body["events"]["dead"].as_u64().unwrap()
    };
    until("the dead letter", || dead("plain"), |dead| *dead == 1).await;
    until("an empty queue", || moto.count(&plain), |count| *count == 0).await;
    until("the queue's own", || moto.count(&aside), |count| *count == 1).await;
    assert_eq!((moto.count(&careful).await, dead("careful").await), (0, 0));
    assert_eq!(counted(&service, "fanfold_sqs_messages_total", "trigger=\"plain\",fate=\"unread\"").await, 4);
    assert_eq!(counted(&service, "fanfold_sqs_messages_total", "trigger=\"plain\",fate=\"buried\"").await, 1);
    assert_eq!(counted(&service, "fanfold_trigger_events_total", "\"started\"").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_queue_is_shown_and_nothing_else_suffers() {
    let (moto, folder) = (Moto::start().await, tempfile::tempdir().unwrap());
    let service = with_function(folder.path()).await;
    let wrong = format!("{}/123456789012/nowhere", moto.endpoint);
    make(&service, "wrong", &trigger(&wrong, &moto.endpoint)).await;
    make(&service, "closed", &trigger(&wrong, "http://127.0.0.1:9")).await;
    let client = Client::new(&service);
    for (name, part) in [("wrong", "NonExistentQueue"), ("closed", "cannot be reached")] {
        let shown = async || client.get(&format!("/v1/triggers/{name}")).await.body;
        let shown = until(name, shown, |shown| shown["sqs"]["error"].is_string()).await;
        let error = shown["sqs"]["error"].as_str().unwrap();
        assert!(error.contains(part) && !error.contains("of-the-tester"), "{error}");
        assert!(counted(&service, "fanfold_sqs_polls_failed_total", name).await > 0);
    }
    // Mended, it goes on.
    service.put("s3://bank/in/late.csv", "id\n1\n").await.unwrap();
    let queue = moto.queue("bank", json!({})).await;
    moto.send(&queue, &record("in/late.csv").to_string()).await;
    let document = trigger(&queue, &moto.endpoint).to_string();
    let changed = client.send("PUT", "/v1/triggers/wrong", "application/json", document).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    until("an empty queue", || moto.count(&queue), |count| *count == 0).await;
    let shown = client.get("/v1/triggers/wrong").await.body;
    assert!(shown["sqs"]["error"].is_null(), "{shown}");
}
