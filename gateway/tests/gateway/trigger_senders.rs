// SPDX-License-Identifier: Apache-2.0
//! What senders get wrong, and what storms do: each with its status, its code
//! and a counter, and nothing kept of what was refused.

use fanfold_gateway::GatewayConfig;
use fanfold_protocol::{ErrorKind, keys, time};
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    harness::{Reply, Service, start_with, until},
    triggers::{JSON, document, put_of, record, wait_for_calls, with_trigger},
};

/// How many notifications were refused with this code.
async fn refused(service: &Service, kind: ErrorKind) -> u64 {
    let text = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    let start = format!("fanfold_notifications_refused_total{{code=\"{}\"}} ", kind.code());
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_signed_notification_counts_once_and_for_some_minutes() {
    let mut signed = document();
    signed["auth"] = json!("signature");
    let (service, made) = with_trigger(signed).await;
    let secret = made["secret"].as_str().unwrap();
    service.object("bank", "in/a.csv", "1").await;
    let sign = |at: u64, body: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{at}.{body}").as_bytes());
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    };
    let send = async |at: u64, signature: &str| -> Reply {
        let (at, body) = (at.to_string(), put_of("in/a.csv"));
        let headers = [("x-fanfold-timestamp", at.as_str()), ("x-fanfold-signature", signature)];
        service.post_event("/v1/events/s3/t", &headers, &body).await
    };
    let (now, body) = (time::now().0 / 1_000, put_of("in/a.csv").to_string());
    let signature = sign(now, &body);
    assert_eq!(send(now, &signature).await.json()["kept"], 1);
    for _ in 0..10 {
        // Replayed, as it is.
        assert_eq!(send(now, &signature).await.status, 200);
    }
    service.until("started", 1).await;
    wait_for_calls(&service, 1).await;
    send(now - 400, &sign(now - 400, &body)).await.is_problem(ErrorKind::Unauthorized);
    send(now + 1, &signature).await.is_problem(ErrorKind::Unauthorized);
    send(now, "sha256=00").await.is_problem(ErrorKind::Unauthorized);
    assert_eq!(refused(&service, ErrorKind::Unauthorized).await, 3);
    wait_for_calls(&service, 1).await;
}

/// What a refusal says, but for what is new in each.
fn said(reply: &Reply) -> (u16, Value, Vec<Option<String>>) {
    let header = |name: &str| reply.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let mut document = if reply.body.is_empty() { Value::Null } else { reply.json() };
    if let Some(members) = document.as_object_mut() {
        members.remove("request_id");
    }
    (reply.status.as_u16(), document, ["content-type", "www-authenticate", "retry-after"].map(header).into())
}

/// What strangers may send: headers with which SNS, stores and others show who they are, or who they are not.
fn heads(now: u64) -> Vec<Vec<(&'static str, String)>> {
    let head = |pairs: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    };
    let (now, old) = (now.to_string(), (now - 400).to_string());
    let at = |time: &str, signature: &str| {
        head(&[("x-fanfold-timestamp", time), ("x-fanfold-signature", signature)])
    };
    let sns = head(&[("x-amz-sns-message-type", "Notification")]);
    let raw = [sns.clone(), head(&[("x-amz-sns-rawdelivery", "true")])].concat();
    let basic = head(&[("authorization", "Basic eDp5")]);
    let mut heads = vec![
        head(&[]),
        head(&[("authorization", "Bearer ff_0")]),
        head(&[("authorization", "Digest x")]),
        head(&[("x-fanfold-timestamp", now.as_str())]),
        head(&[("x-fanfold-signature", "sha256=00")]),
        at("soon", "sha256=00"),
        at(&old, "sha256=00"),
        at(&now, "sha256=zz"),
        [at(&now, "sha256=00"), head(&[("content-encoding", "gzip")])].concat(),
    ];
    for of in [Vec::new(), sns, raw] {
        heads.push(of.clone());
        heads.push([of.clone(), basic.clone()].concat());
        heads.push([of, at(&now, "sha256=00")].concat());
    }
    heads
}

#[tokio::test]
async fn a_refusal_does_not_tell_which_triggers_there_are() {
    let service = start_with(|_| {}).await;
    assert_eq!(service.deploy("f", "1").await.status, 201);
    let topic = json!({"topic_arn": "arn:aws:sns:eu-west-1:1:t"});
    for (name, member, value) in [
        ("by-token", "auth", json!("token")),
        ("by-signature", "auth", json!("signature")),
        ("by-topic", "sns", topic),
    ] {
        let mut made = document();
        made[member] = value;
        assert_eq!(service.put_json(&format!("/v1/triggers/{name}"), made).await.status, 201);
    }
    let signed: Value = serde_json::from_str(include_str!("../sns/version-2.json")).unwrap();
    let fresh = std::time::UNIX_EPOCH + std::time::Duration::from_millis(time::now().0);
    let message = |changes: &[(&str, &str)]| {
        let mut message = signed.clone();
        message["Timestamp"] = humantime::format_rfc3339_seconds(fresh).to_string().into();
        for (member, value) in changes {
            message[member] = (*value).into();
        }
        message.to_string()
    };
    // None of these has anything fetched.
    let bodies = [
        put_of("in/a.csv").to_string(),
        message(&[("Timestamp", "2020-01-01T00:00:00Z")]),
        message(&[("SigningCertURL", "https://127.0.0.1/a.pem")]),
        message(&[("SignatureVersion", "9")]),
        message(&[("TopicArn", "arn:aws:sns:eu-west-1:1:u")]),
    ];
    let mut told = std::collections::BTreeSet::new();
    for head in heads(time::now().0 / 1_000) {
        let headers: Vec<(&str, &str)> = head.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let posts = bodies.iter().map(|body| (Method::POST, body.as_str()));
        for (method, body) in posts.chain([(Method::GET, "")]) {
            let mut found = Vec::new();
            for name in ["none", "by-token", "by-signature", "by-topic"] {
                let path = format!("/v1/events/s3/{name}");
                let reply = service.bare_request(method.clone(), &path, &headers, body.to_owned()).await;
                assert!(!reply.status.is_success(), "{name} {headers:?} {body}: {reply:?}");
                found.push(said(&reply));
            }
            assert!(found.iter().all(|said| *said == found[0]), "{method} {headers:?} {body}: {found:#?}");
            told.insert(found[0].1["detail"].to_string());
        }
    }
    assert!(told.len() > 10, "each is told what is wrong with it: {told:#?}");
}

/// A service whose trigger takes signed notifications, and the trigger's secret.
async fn signing(change: impl FnOnce(&mut GatewayConfig)) -> (Service, String) {
    let service = start_with(change).await;
    assert_eq!(service.deploy("f", "1").await.status, 201);
    let mut signed = document();
    signed["auth"] = json!("signature");
    let made = service.put_json("/v1/triggers/t", signed).await;
    assert_eq!(made.status, 201, "{made:?}");
    service.object("bank", "in/a.csv", "1").await;
    (service, made.json()["secret"].as_str().unwrap().to_owned())
}

async fn send_signed(service: &Service, secret: &str) -> Reply {
    let (at, body) = ((time::now().0 / 1_000).to_string(), put_of("in/a.csv"));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.{body}").as_bytes());
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    let headers = [("x-fanfold-timestamp", at.as_str()), ("x-fanfold-signature", signature.as_str())];
    service.post_event("/v1/events/s3/t", &headers, &body).await
}

/// Sends the same until it is answered so.
async fn send_signed_until(service: &Service, secret: &str, status: u16) -> Reply {
    until("another answer", || send_signed(service, secret), |reply| reply.status == status).await
}

/// How many requests are in work, with the one that asks.
async fn active(service: &Service) -> u64 {
    let text = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    let found =
        text.lines().find_map(|line| line.strip_prefix("fanfold_http_requests_active ")?.parse().ok());
    found.unwrap()
}

/// Somebody who announces much of a notification, and sends so much of it.
async fn stranger(service: &Service, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let head = format!(
        "POST /v1/events/s3/t HTTP/1.1\r\nhost: t\r\nx-fanfold-timestamp: {}\r\n\
         x-fanfold-signature: sha256=00\r\ncontent-length: 1000000\r\n\r\n{}",
        time::now().0 / 1_000,
        " ".repeat(sent)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn strangers_take_no_room_from_those_who_are_known() {
    let (service, secret) = signing(|config| config.strangers_max = 2).await;
    let held = [stranger(&service, 1).await, stranger(&service, 1).await];
    // They are noticed as soon as their heads have been read.
    let refused = send_signed_until(&service, &secret, 429).await.is_problem(ErrorKind::ConcurrencyLimit);
    assert!(refused["detail"].as_str().unwrap().starts_with("at most 2 notifications"), "{refused}");
    let body = put_of("in/a.csv").to_string();
    assert_eq!(service.request(Method::POST, "/v1/events/s3/t", &[JSON], body).await.status, 200);
    assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
    drop(held);
    send_signed_until(&service, &secret, 200).await;
}

#[tokio::test]
async fn strangers_take_memory_for_what_they_send_and_not_for_what_they_announce() {
    let (service, secret) = signing(|config| config.strangers_bytes_max = 100_000).await;
    let _held = [stranger(&service, 1).await, stranger(&service, 1).await, stranger(&service, 1).await];
    until("requests in work", || active(&service), |active| *active >= 4).await;
    assert_eq!(send_signed(&service, &secret).await.status, 200);
    let full = stranger(&service, 99_990).await;
    let refused = send_signed_until(&service, &secret, 429).await.is_problem(ErrorKind::ConcurrencyLimit);
    assert!(refused["detail"].as_str().unwrap().starts_with("notifications of unknown senders"), "{refused}");
    assert_eq!(service.invoke("f/invoke", "echo").await.status, 200);
    drop(full);
    send_signed_until(&service, &secret, 200).await;
}

#[tokio::test]
async fn of_records_that_are_partly_wrong_nothing_is_kept() {
    let (service, _) = with_trigger(document()).await;
    service.object("bank", "in/a.csv", "1").await;
    let good = record("bank", "in/a.csv", "01");
    let mut without_key = good.clone();
    without_key["s3"]["object"] = json!({});
    let mut of_another_version = good.clone();
    of_another_version["eventVersion"] = json!("3.0");
    for wrong in [without_key, of_another_version, json!({}), json!(7)] {
        let reply = service.send(&json!({"Records": [good, wrong]})).await;
        reply.is_problem(ErrorKind::InvalidRequest);
    }
    assert_eq!(refused(&service, ErrorKind::InvalidRequest).await, 4);
    assert_eq!(service.fate("kept").await, 0);
    // What tells of something else, or of another bucket, is no mistake.
    let mut restored = good.clone();
    restored["eventName"] = json!("ObjectRestore:Completed");
    let mixed = json!({"Records": [good, restored, record("other", "in/a.csv", "01")]});
    assert_eq!(
        service.send(&mixed).await.json(),
        json!({"events": 3, "kept": 1, "duplicates": 0, "ignored": 2})
    );
    service.until("started", 1).await;
}

#[tokio::test]
async fn no_notification_makes_the_service_fail() {
    let (service, _) = with_trigger(document()).await;
    let whole = put_of("in/a.csv").to_string();
    let mut bodies: Vec<String> = (0..whole.len()).step_by(7).map(|at| whole[..at].to_owned()).collect();
    let odd = [json!(null), json!([]), json!("x"), json!([[[]]]), json!(1e300), json!({"Records": null})];
    bodies.extend(odd.iter().map(Value::to_string));
    bodies.push("[".repeat(100_000));
    bodies.push(format!("{{\"Records\": {}1{}}}", "[".repeat(120), "]".repeat(120)));
    for member in ["eventName", "eventVersion", "eventSource", "s3"] {
        for value in [json!(null), json!(7), json!([]), json!("\u{0}"), json!({"bucket": {"name": "../x"}})] {
            let mut changed = record("bank", "in/a.csv", "01");
            changed[member] = value;
            bodies.push(json!({"Records": [changed]}).to_string());
        }
    }
    for key in ["\u{0}", "in/../../etc/passwd", &"x".repeat(5_000), "in/%00.csv", "in/\u{202e}.csv"] {
        bodies.push(put_of(key).to_string());
    }
    for body in bodies {
        let reply = service.request(Method::POST, "/v1/events/s3", &[JSON], body.clone()).await;
        let status = reply.status.as_u16();
        assert!([200, 400, 404].contains(&status), "{status} to {}", &body[..body.len().min(200)]);
    }
    // Whatever was kept of these comes to an end, and none of it by starting something.
    service.object("bank", "in/b.csv", "1").await;
    assert_eq!(service.send(&put_of("in/b.csv")).await.json()["kept"], 1);
    service.until("started", 1).await;
}

#[tokio::test]
async fn a_full_queue_is_told_and_the_same_notification_is_kept_later() {
    let service = start_with(|config| config.events_waiting_max = 3).await;
    assert_eq!(service.deploy("f", "1").await.status, 201);
    assert_eq!(service.put_json("/v1/triggers/t", document()).await.status, 201);
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/pause", &[], "").await.status, 204);
    let records = |range: std::ops::Range<u32>| -> Value {
        let all: Vec<Value> = range.map(|n| record("bank", &format!("in/{n}.csv"), "01")).collect();
        json!({"Records": all})
    };
    for n in 0..5 {
        service.object("bank", &format!("in/{n}.csv"), "1").await;
    }
    assert_eq!(service.send(&records(0..3)).await.json()["kept"], 3);
    service.send(&records(3..5)).await.is_problem(ErrorKind::QueueFull);
    assert_eq!(refused(&service, ErrorKind::QueueFull).await, 1);
    // One that was pulled as the pause came is given back.
    let events = async || service.get("/v1/triggers/t").await.json()["events"].clone();
    until("all of them to wait", events, |events| events["waiting"] == 3).await;
    assert_eq!(service.request(Method::POST, "/v1/triggers/t/resume", &[], "").await.status, 204);
    service.until("started", 3).await;
    // As a sender does that was told to come again.
    let begun = std::time::Instant::now();
    while service.send(&records(3..5)).await.status != 200 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    service.until("started", 5).await;
}

#[tokio::test]
async fn a_trigger_over_the_platforms_own_bucket_is_refused() {
    let service = start_with(|_| {}).await;
    assert_eq!(service.deploy("f", "1").await.status, 201);
    let own = json!({"bucket": keys::SYSTEM_BUCKET_DEFAULT, "function": "f", "allow_loops": true});
    let problem = service.put_json("/v1/triggers/t", own).await.is_problem(ErrorKind::TriggerLoop);
    assert!(problem["detail"].as_str().unwrap().contains("platform itself"), "{problem}");
}
