// SPDX-License-Identifier: Apache-2.0
//! The events of the store in the same process, written as AWS would write
//! them and taken in like any other notification.
//!
//! So `fanfold dev` takes the path of production from the envelope on. What is
//! lost, because the listener fell behind or the process died, is found by the
//! reconcilers, which look at once when something was lost. So is what a full
//! queue has no room for: nobody sends it again, and to wait for room would hold
//! up the events of all other triggers.

use std::{collections::BTreeSet, time::Duration};

use fanfold_protocol::{ErrorKind, Problem, time::Timestamp};
use fanfold_storage::server::{Event, Events};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{envelope, intake};
use crate::state::{App, AppState};

/// Events in one notification: it stays within what a webhook may weigh.
const BATCH: usize = 250;
/// Before a notification is sent again that could not be taken.
const PAUSE: Duration = Duration::from_millis(200);
/// What AWS leaves as it is in keys.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// Takes in what the store tells, until it ends, each tenant's triggers by themselves.
pub async fn follow(apps: &[AppState], mut events: Events) {
    loop {
        let batch = events.next(BATCH).await;
        if batch.is_empty() {
            return;
        }
        let lost = events.lost();
        if lost > 0 {
            tracing::warn!(lost, "events of the store were lost; the reconcilers look for their objects");
            apps.iter().for_each(|app| app.triggers.look_now());
        }
        for app in apps {
            tell(app, &batch).await;
        }
    }
}

async fn tell(app: &App, batch: &[Event]) {
    let buckets: BTreeSet<String> =
        app.triggers.list().iter().map(|trigger| trigger.record.document.bucket.clone()).collect();
    let records: Vec<Value> =
        batch.iter().filter(|event| buckets.contains(&event.bucket)).map(record).collect();
    if records.is_empty() {
        return;
    }
    let body = json!({"Records": records}).to_string();
    while let Err(problem) = take_in(app, body.as_bytes()).await {
        if problem.code == ErrorKind::BucketNotFound {
            break;
        }
        tracing::debug!(code = problem.code.code(), "events of the store wait to be taken in");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn take_in(app: &App, body: &[u8]) -> Result<(), Problem> {
    let taken = intake::take_what_fits(&app.triggers, envelope::parse(body, false)?, None).await?;
    for (trigger, problem) in taken.full {
        if app.triggers.miss(trigger.record.id) {
            tracing::warn!(trigger = %trigger.record.name, detail = %problem.detail, "events of the store found no room; what a look finds of their objects is not lost, if the trigger has looks");
        }
    }
    Ok(())
}

/// A record of version 2.1.
fn record(event: &Event) -> Value {
    let mut object = json!({
        "key": utf8_percent_encode(&event.key, PLAIN).to_string().replace("%20", "+"),
        "sequencer": format!("{:016X}", event.sequencer),
    });
    if let Some(etag) = &event.etag {
        object["size"] = json!(event.size);
        object["eTag"] = json!(etag);
    }
    json!({
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": fanfold_storage::server::REGION,
        "eventTime": Timestamp(event.at_ms).to_string(),
        "eventName": event.name,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": event.bucket}, "object": object},
    })
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::limits;

    use super::*;

    fn event(key: &str) -> Event {
        Event {
            bucket: "bank".into(),
            key: key.into(),
            name: "ObjectCreated:Put",
            etag: Some("e".into()),
            size: 3,
            sequencer: 0x55AE,
            at_ms: 0,
        }
    }

    #[test]
    fn any_key_is_read_back() {
        let long = "ä".repeat(512);
        for key in ["in/a b+c%41.csv", "in/€/ü", "a//b/../c", "x\u{1}y", "~!'()&=", long.as_str()] {
            let body = json!({"Records": [record(&event(key))]}).to_string();
            let envelope = envelope::parse(body.as_bytes(), false).unwrap();
            assert_eq!(envelope.notices[0].key, key);
            assert_eq!(envelope.notices[0].sequencer.as_deref(), Some("00000000000055AE"));
        }
    }

    #[test]
    fn a_batch_fits_a_notification() {
        let records: Vec<Value> = (0..BATCH).map(|_| record(&event(&"ä".repeat(512)))).collect();
        let body = json!({"Records": records}).to_string();
        assert!((body.len() as u64) < limits::NOTIFICATION_BYTES_MAX, "{}", body.len());
    }
}
