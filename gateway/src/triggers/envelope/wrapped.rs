// SPDX-License-Identifier: Apache-2.0
//! What notifications come wrapped in: SNS, SQS, EventBridge, CloudEvents.
//!
//! Sources: «HTTP/HTTPS notification JSON format» of SNS; «ReceiveMessage» of
//! SQS and its event for Lambda; «Amazon S3 event message structure» of
//! EventBridge; CloudEvents 1.0 with its JSON format. An EventBridge event is
//! itself the event, with the key as it is; the others hold another envelope.

use base64::{Engine, engine::general_purpose::STANDARD};
use fanfold_protocol::{
    Problem,
    event::{EventKind, Notice},
};
use serde_json::Value;

use super::{Envelope, records::bare, refused, required, text};

/// Takes off one wrapping. False when there is none of these.
pub(super) fn unwrap(envelope: &mut Envelope, value: &Value, depth: u32) -> Result<bool, Problem> {
    if value["specversion"].is_string() {
        cloud_event(envelope, value, depth)?;
    } else if value["TopicArn"].is_string() && value["Type"].is_string() {
        sns(envelope, value, depth)?;
    } else if let Some(messages) = value["Messages"].as_array() {
        messages.iter().try_for_each(|message| envelope.unwrap(&message["Body"], depth + 1))?;
    } else if value["Body"].is_string() {
        envelope.unwrap(&value["Body"], depth + 1)?;
    } else if value["detail-type"].is_string() && value["source"].as_str() == Some("aws.s3") {
        event_bridge(envelope, value)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// A CloudEvent in structured mode. A sender may put the whole notification
/// into `data`, or one record of it.
fn cloud_event(envelope: &mut Envelope, value: &Value, depth: u32) -> Result<(), Problem> {
    if let Some(encoded) = value["data_base64"].as_str() {
        let data = STANDARD.decode(encoded).ok().and_then(|data| serde_json::from_slice::<Value>(&data).ok());
        let data =
            data.ok_or_else(|| refused("expected data_base64 to be a notification as JSON in base64"))?;
        return envelope.unwrap(&data, depth + 1);
    }
    match &value["data"] {
        Value::Null => Err(refused("expected a CloudEvent with data, found none")),
        data => envelope.unwrap(data, depth + 1),
    }
}

fn sns(envelope: &mut Envelope, value: &Value, depth: u32) -> Result<(), Problem> {
    match value["Type"].as_str() {
        Some("Notification") => envelope.unwrap(&value["Message"], depth + 1),
        Some("SubscriptionConfirmation") => {
            envelope.subscription = Some(required(&value["SubscribeURL"], "SubscribeURL")?);
            envelope.other += 1;
            Ok(())
        }
        Some("UnsubscribeConfirmation") => {
            envelope.other += 1;
            Ok(())
        }
        _ => Err(refused("expected a message of SNS of a known Type, found another")),
    }
}

/// Names of S3 for EventBridge's reasons of «Object Created».
const REASONS: &[(&str, &str)] = &[
    ("PutObject", "ObjectCreated:Put"),
    ("POST Object", "ObjectCreated:Post"),
    ("CopyObject", "ObjectCreated:Copy"),
    ("CompleteMultipartUpload", "ObjectCreated:CompleteMultipartUpload"),
];

fn event_bridge(envelope: &mut Envelope, value: &Value) -> Result<(), Problem> {
    let detail = &value["detail"];
    let name = match value["detail-type"].as_str() {
        Some("Object Created") => {
            let reason = detail["reason"].as_str().unwrap_or_default();
            REASONS.iter().find(|(known, _)| *known == reason).map_or("ObjectCreated:Put", |(_, name)| name)
        }
        Some("Object Deleted") => {
            let marked = detail["deletion-type"].as_str() == Some("Delete Marker Created");
            let expired = detail["reason"].as_str() == Some("Lifecycle Expiration");
            match (expired, marked) {
                (false, false) => "ObjectRemoved:Delete",
                (false, true) => "ObjectRemoved:DeleteMarkerCreated",
                (true, false) => "LifecycleExpiration:Delete",
                (true, true) => "LifecycleExpiration:DeleteMarkerCreated",
            }
        }
        _ => {
            envelope.add(None);
            return Ok(());
        }
    };
    let object = &detail["object"];
    let notice = EventKind::of(name).map(|kind| {
        Ok::<_, Problem>(Notice {
            bucket: required(&detail["bucket"]["name"], "detail.bucket.name")?,
            key: required(&object["key"], "detail.object.key")?,
            other_key: None,
            kind,
            name: name.to_owned(),
            etag: text(&object["etag"]).map(bare),
            version_id: text(&object["version-id"]),
            sequencer: text(&object["sequencer"]),
            time: text(&value["time"]),
        })
    });
    envelope.add(notice.transpose()?);
    Ok(())
}
