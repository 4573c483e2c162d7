// SPDX-License-Identifier: Apache-2.0
//! What a gateway lets triggers fetch from.

use base64::{Engine, engine::general_purpose::STANDARD};
use fanfold_gateway::{AwsCredentials, SourcesConfig};
use fanfold_protocol::ErrorKind;
use http::Method;
use serde_json::{Value, json};

use crate::{
    harness::{start, start_with, until},
    triggers::put_of,
};

fn with_queue(queue_url: &str) -> Value {
    json!({"bucket": "bank", "function": "f", "sqs": {"queue_url": queue_url, "region": "eu-central-1"}})
}

const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/123456789012/bank";

#[tokio::test]
async fn without_credentials_no_queue_is_taken() {
    let service = start().await;
    service.deploy("f", "1").await;
    let reply = service.put_json("/v1/triggers/t", with_queue(QUEUE)).await;
    let detail = reply.is_problem(ErrorKind::InvalidTrigger)["detail"].to_string();
    assert!(detail.contains("AWS_ACCESS_KEY_ID"), "{detail}");
}

#[tokio::test]
async fn queues_on_private_addresses_are_refused_unless_the_operator_allows_them() {
    let keys = AwsCredentials {
        access_key: "tester".into(),
        secret_key: "of-the-tester".into(),
        session_token: None,
    };
    let sources = SourcesConfig { aws: Some(keys), private_endpoints: false };
    assert!(!format!("{sources:?}").contains("tester"));
    let service = start_with(|config| config.sources = sources).await;
    service.deploy("f", "1").await;
    let inside = [
        "http://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/1/bank",
        "https://[fd00:ec2::254]/1/bank",
    ];
    for queue in inside {
        let reply = service.put_json("/v1/triggers/t", with_queue(queue)).await;
        let detail = reply.is_problem(ErrorKind::InvalidTrigger)["detail"].to_string();
        assert!(detail.contains("public address"), "{detail}");
    }
    // A name is looked up when it is connected to.
    let reply = service.put_json("/v1/triggers/t", with_queue("https://localhost/1/bank")).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let shown = async || service.get("/v1/triggers/t").await.json();
    let shown = until("an error", shown, |shown| shown["sqs"]["error"].is_string()).await;
    let error = shown["sqs"]["error"].as_str().unwrap();
    assert!(error.contains("no public address"), "{error}");
}

#[tokio::test]
async fn a_topics_messages_count_only_when_they_are_signed() {
    let service = start().await;
    service.deploy("f", "1").await;
    let document = |topic: &str| json!({"bucket": "bank", "function": "f", "sns": {"topic_arn": topic}});
    let wrong = service.put_json("/v1/triggers/t", document("bank")).await;
    let detail = wrong.is_problem(ErrorKind::InvalidTrigger)["detail"].to_string();
    assert!(detail.contains("sns.topic_arn"), "{detail}");
    let made = service.put_json("/v1/triggers/t", document("arn:aws:sns:eu-west-1:1:t")).await;
    assert_eq!(made.status, 201, "{made:?}");
    // Of another topic, without a certificate of SNS: nothing is fetched for these. The service's token does not help.
    let signed: Value = serde_json::from_str(include_str!("../sns/version-2.json")).unwrap();
    for (member, value) in
        [("TopicArn", "arn:aws:sns:eu-west-1:1:u"), ("SigningCertURL", "https://127.0.0.1/a.pem")]
    {
        let mut message = signed.clone();
        message[member] = value.into();
        let headers =
            [("x-amz-sns-message-type", "Notification"), ("content-type", "text/plain; charset=UTF-8")];
        let reply = service.request(Method::POST, "/v1/events/s3/t", &headers, message.to_string()).await;
        reply.is_problem(ErrorKind::Unauthorized);
    }
}

/// Raw deliveries carry no signature, so the secret counts; without it the sender learns what to change.
#[tokio::test]
async fn a_raw_delivery_of_a_topic_needs_the_secret() {
    let service = start().await;
    service.deploy("f", "1").await;
    let document =
        json!({"bucket": "bank", "function": "f", "sns": {"topic_arn": "arn:aws:sns:eu-west-1:1:t"}});
    let made = service.put_json("/v1/triggers/t", document).await.json();
    let basic = format!("Basic {}", STANDARD.encode(format!("sns:{}", made["secret"].as_str().unwrap())));
    let raw = [("x-amz-sns-message-type", "Notification"), ("x-amz-sns-rawdelivery", "true")];
    // Whether there is such a trigger is told to nobody.
    for path in ["/v1/events/s3/t", "/v1/events/s3/none"] {
        let refused = service.post_event(path, &raw, &put_of("in/a.csv")).await;
        let problem = refused.is_problem(ErrorKind::Unauthorized);
        assert!(problem["detail"].as_str().unwrap().contains("turn raw delivery off"), "{problem}");
        assert!(refused.header("www-authenticate").starts_with("Basic"), "{refused:?}");
    }
    let known = [raw[0], raw[1], ("authorization", basic.as_str())];
    let taken = service.post_event("/v1/events/s3/t", &known, &put_of("in/a.csv")).await;
    assert_eq!(taken.json()["kept"], 1, "{taken:?}");
}
