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

proptest! {
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
