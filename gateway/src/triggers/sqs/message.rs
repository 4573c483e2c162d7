// SPDX-License-Identifier: Apache-2.0
//! What becomes of one message.
//!
//! A message that is no notification is left to the queue's own policy for
//! such. Where there is none it would come for ever, so after some receives it
//! is kept among the trigger's dead letters, as an event that cannot be read.

use std::sync::Arc;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use fanfold_backbone::Message as Queued;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    keys, limits,
    time::{self, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::super::{counters::MessageFate, envelope, intake, record::Trigger};
use crate::{
    problem::{internal, of_backbone},
    state::App,
};

/// Of a message that cannot be read, so much is kept.
const BODY_BYTES_KEPT: usize = 64 << 10;

/// A message that is no notification, on its way to the dead letters.
#[derive(Serialize, Deserialize)]
struct Unread {
    unread: UnreadMessage,
    /// When it was given up, as of an event when it was taken in; older releases did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct UnreadMessage {
    id: String,
    reason: String,
    body: String,
}

/// Why a queued event is none, where it holds such a message.
pub fn unread_reason(payload: &[u8]) -> Option<String> {
    let found: Unread = serde_json::from_slice(payload).ok()?;
    Some(format!("message {}: {}", found.unread.id, found.unread.reason))
}

/// Takes in a message for a trigger. Gives its handle once it may be deleted, none
/// when it is to stay for now.
///
/// # Errors
/// There is no room, or the backbone does not answer: it stays as well.
pub async fn take(app: &App, trigger: &Arc<Trigger>, message: Message) -> Result<Option<String>, Problem> {
    let (name, counters) = (&trigger.record.name, app.triggers.counters());
    let body = message.body.as_deref().unwrap_or_default();
    let wrong = match read(app, trigger, body).await {
        Ok(()) => {
            counters.message(name, MessageFate::Taken);
            return Ok(message.receipt_handle);
        }
        Err(problem) if is_its_own_fault(&problem) => problem,
        Err(problem) => {
            counters.message(name, MessageFate::Left);
            return Err(problem);
        }
    };
    let (receives, id) = (receives(&message), message.message_id.as_deref().unwrap_or_default());
    if receives < limits::SQS_RECEIVES_MAX {
        counters.message(name, MessageFate::Unread);
        tracing::warn!(trigger = %name, message = id, receives, detail = %wrong.detail, "a message is no notification; it is left");
        return Ok(None);
    }
    bury(app, trigger, id, &wrong.detail, body).await?;
    counters.message(name, MessageFate::Buried);
    tracing::warn!(trigger = %name, message = id, receives, detail = %wrong.detail, "a message is no notification; it goes to the dead letters");
    Ok(message.receipt_handle)
}

async fn read(app: &App, trigger: &Arc<Trigger>, body: &str) -> Result<(), Problem> {
    if body.len() as u64 > limits::NOTIFICATION_BYTES_MAX {
        let detail = format!("expected a notification of at most 1 MiB, found {} bytes", body.len());
        return Err(Problem::new(ErrorKind::PayloadTooLarge, detail));
    }
    let envelope = envelope::parse(body.as_bytes(), false)?;
    intake::take_in(&app.triggers, envelope, Some(trigger)).await.map(drop)
}

/// Whether the same message would be refused again.
fn is_its_own_fault(problem: &Problem) -> bool {
    matches!(problem.code, ErrorKind::InvalidRequest | ErrorKind::BucketNotFound | ErrorKind::PayloadTooLarge)
}

/// How often it was received, this time included.
fn receives(message: &Message) -> u32 {
    let attributes = message.attributes.as_ref();
    let count = attributes.and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount));
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// Queues it as what no runner can read, which makes it a dead letter.
async fn bury(app: &App, trigger: &Trigger, id: &str, reason: &str, body: &str) -> Result<(), Problem> {
    let kept = body.floor_char_boundary(BODY_BYTES_KEPT.min(body.len()));
    let unread =
        UnreadMessage { id: id.to_owned(), reason: reason.to_owned(), body: body[..kept].to_owned() };
    let payload = serde_json::to_vec(&Unread { unread, at: Some(time::now()) }).map_err(internal)?;
    let message = Queued::new(Digest::of(format!("sqs {id}").as_bytes()).to_hex(), payload);
    let queue = keys::event_queue(&trigger.record.id);
    app.backbone.enqueue(&queue, vec![message]).await.map(drop).map_err(of_backbone)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::intake::{Waiting, taken_at},
        *,
    };

    #[test]
    fn what_cannot_be_read_is_no_event_and_says_why() {
        let unread = UnreadMessage { id: "1".into(), reason: "no JSON".into(), body: "x".into() };
        let payload = serde_json::to_vec(&Unread { unread, at: Some(Timestamp(7)) }).unwrap();
        assert!(serde_json::from_slice::<Waiting>(&payload).is_err());
        assert_eq!(taken_at(&payload), Some(Timestamp(7)));
        assert_eq!(unread_reason(&payload).as_deref(), Some("message 1: no JSON"));
        let older = br#"{"unread": {"id": "1", "reason": "no JSON", "body": "x"}}"#;
        assert_eq!(unread_reason(older).as_deref(), Some("message 1: no JSON"));
        assert_eq!((unread_reason(b"{}"), taken_at(older)), (None, None));
    }

    #[test]
    fn a_message_without_a_count_is_new() {
        let counted = |count: &str| {
            let count = (MessageSystemAttributeName::ApproximateReceiveCount, count.to_owned());
            receives(&Message::builder().set_attributes(Some([count].into())).build())
        };
        assert_eq!((counted("7"), counted("x"), receives(&Message::builder().build())), (7, 1, 1));
    }
}
