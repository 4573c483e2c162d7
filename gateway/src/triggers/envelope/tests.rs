// SPDX-License-Identifier: Apache-2.0
//! A new case is a folder of data: `gateway/tests/notifications/SENDER/CASE/`
//! with `body.json` and what is expected of it in `expected.json`. Each sender
//! has a `SOURCE.md` that names the document its shapes were made from.

use std::{fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn folders(path: &PathBuf) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn summary(envelope: &Envelope) -> Value {
    let mut summary = json!({"notices": envelope.notices, "other": envelope.other});
    if let Some(page) = &envelope.subscription {
        summary["subscription"] = json!(page);
    }
    summary
}

#[test]
fn every_recorded_shape_is_read() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/notifications"));
    let (mut cases, mut wrong) = (0, Vec::new());
    for sender in folders(&root) {
        assert!(sender.join("SOURCE.md").exists(), "{} does not name its source", sender.display());
        for case in folders(&sender) {
            cases += 1;
            let body = fs::read(case.join("body.json")).unwrap();
            let expected: Value =
                serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
            let found = match parse(&body, case.join("binary-cloud-event").exists()) {
                Ok(envelope) => summary(&envelope),
                Err(problem) => json!({"code": problem.code.code(), "detail": problem.detail}),
            };
            let same = match expected["detail_has"].as_str() {
                Some(part) => {
                    found["code"] == expected["code"]
                        && found["detail"].as_str().is_some_and(|detail| detail.contains(part))
                }
                None => found == expected,
            };
            if !same {
                wrong.push(format!("{}:\n expected {expected}\n found    {found}", case.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 20, "expected the recorded shapes, found {cases}");
}

#[test]
fn a_notification_holds_a_bounded_number_of_events() {
    let record =
        json!({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}});
    let body = |count: usize| serde_json::to_vec(&json!({"Records": vec![record.clone(); count]})).unwrap();
    assert_eq!(parse(&body(limits::NOTIFICATION_EVENTS_MAX), false).unwrap().notices.len(), 10_000);
    assert!(parse(&body(limits::NOTIFICATION_EVENTS_MAX + 1), false).unwrap_err().detail.contains("10000"));
}

/// They would be told in logs and dead letters.
#[test]
fn an_event_has_no_endless_texts() {
    let told = |member: &str, bytes: usize| {
        let mut record = json!({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}});
        match member {
            "eventName" => record[member] = json!(format!("ObjectCreated:{}", "x".repeat(bytes))),
            "eventTime" => record[member] = json!("x".repeat(bytes)),
            _ => record["s3"]["object"][member] = json!("x".repeat(bytes)),
        }
        parse(&serde_json::to_vec(&json!({"Records": [record]})).unwrap(), false)
    };
    for member in ["eventName", "eventTime", "key", "eTag", "versionId", "sequencer"] {
        // Longer than a key may be, as those are that are encoded.
        assert_eq!(told(member, 3_072).unwrap().notices.len(), 1, "{member}");
        let refused = told(member, TEXT_BYTES_MAX + 1).unwrap_err();
        assert!(refused.detail.contains("at most 4096 bytes"), "{member}: {}", refused.detail);
    }
}

/// Every body that one gets by putting something else in the place of one value.
fn altered(body: &Value) -> Vec<Value> {
    let others = || {
        [
            Value::Null,
            json!(true),
            json!(-1),
            json!(1e300),
            json!(""),
            json!("x"),
            json!("%FF+%"),
            json!([]),
            json!({}),
            json!([[1]]),
        ]
    };
    let inner = |(at, value): (usize, &Value)| {
        altered(value).into_iter().map(move |value| (at, value)).collect::<Vec<_>>()
    };
    let mut all: Vec<Value> = others().to_vec();
    match body {
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate().flat_map(inner) {
                let mut changed = items.clone();
                changed[at] = value;
                all.push(changed.into());
            }
        }
        Value::Object(members) => {
            for (at, value) in members.values().enumerate().flat_map(inner) {
                let mut changed = members.clone();
                if let Some(member) = changed.values_mut().nth(at) {
                    *member = value;
                }
                all.push(changed.into());
            }
        }
        _ => {}
    }
    all
}

#[test]
fn recorded_shapes_with_any_one_value_changed_are_read_or_refused() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/notifications"));
    let mut bodies = 0;
    for case in folders(&root).iter().flat_map(folders) {
        let Ok(body) = serde_json::from_slice::<Value>(&fs::read(case.join("body.json")).unwrap()) else {
            continue;
        };
        for body in altered(&body) {
            bodies += 1;
            match parse(body.to_string().as_bytes(), false) {
                // What is read tells of something that can be looked for.
                Ok(envelope) => {
                    assert!(envelope.notices.iter().all(|n| !n.bucket.is_empty() && !n.key.is_empty()))
                }
                Err(problem) => assert_eq!(problem.code, ErrorKind::InvalidRequest, "{body}"),
            }
        }
    }
    assert!(bodies > 5_000, "{bodies}");
}

/// Any JSON whose members have names that mean something.
fn any_json() -> impl Strategy<Value = Value> {
    let names = proptest::sample::select(vec![
        "Records",
        "s3",
        "bucket",
        "object",
        "name",
        "key",
        "eventName",
        "eventVersion",
        "Body",
        "body",
        "Messages",
        "Sns",
        "Message",
        "Type",
        "TopicArn",
        "detail",
        "detail-type",
        "source",
        "specversion",
        "data",
        "data_base64",
        "event_type",
        "message",
        "new_entry",
        "Event",
    ]);
    let texts = proptest::sample::select(vec![
        "",
        "x",
        "s3:TestEvent",
        "ObjectCreated:Put",
        "aws.s3",
        "Object Created",
        "Notification",
        "2.1",
        "1.0",
        "{}",
        "create",
        "/buckets/a/b",
        "{\"Records\": []}",
        "%",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        texts.prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((names.clone(), inner), 0..6).prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused(body in any_json(), data in any::<bool>()) {
        if let Err(problem) = parse(body.to_string().as_bytes(), data) {
            prop_assert_eq!(problem.code, ErrorKind::InvalidRequest);
        }
    }

    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body, false);
    }

    /// Whatever the key, what AWS's encoding makes of it is read back.
    #[test]
    fn any_key_survives_the_form_encoding(key in "\\PC{1,60}") {
        let encoded: String = percent_encoding::utf8_percent_encode(&key, percent_encoding::NON_ALPHANUMERIC)
            .to_string().replace("%20", "+");
        let body = json!({"Records": [{"eventName": "ObjectCreated:Put", "eventSource": "aws:s3",
            "s3": {"bucket": {"name": "bank"}, "object": {"key": encoded}}}]});
        let envelope = parse(&serde_json::to_vec(&body).unwrap(), false).unwrap();
        prop_assert_eq!(&envelope.notices[0].key, &key);
    }

    /// Cut anywhere, a notification is refused, never half read.
    #[test]
    fn a_cut_notification_is_refused(at in 0_usize..100) {
        let body = json!({"Records": [{"eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "bank"}, "object": {"key": "a"}}}]}).to_string();
        let cut = &body.as_bytes()[..at.min(body.len() - 1)];
        prop_assert_eq!(parse(cut, false).unwrap_err().code, ErrorKind::InvalidRequest);
    }
}
