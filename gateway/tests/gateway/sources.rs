// SPDX-License-Identifier: Apache-2.0
//! What a gateway lets triggers fetch from.

use fanfold_gateway::{AwsCredentials, SourcesConfig};
use fanfold_protocol::ErrorKind;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{start, start_with};

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
    let looking = async {
        loop {
            let shown = service.get("/v1/triggers/t").await.json();
            if let Some(error) = shown["sqs"]["error"].as_str() {
                return error.to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let error = tokio::time::timeout(std::time::Duration::from_secs(30), looking).await.unwrap();
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
