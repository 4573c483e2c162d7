// SPDX-License-Identifier: Apache-2.0
//! What stores send, read into one kind of event.
//!
//! Pure: a body and a few headers in, [`Notice`]s out. An envelope is told by
//! what it holds, never by who says to have sent it; wrappings are taken off up
//! to a bound. What is no envelope at all is refused, so that nothing is
//! answered with 2xx that was not understood.

mod records;
mod seaweedfs;
mod wrapped;

use fanfold_protocol::{ErrorKind, Problem, event::Notice, limits};
use serde_json::Value;

/// Bytes of a text of an event. An encoded key has three times those of the key, which are 1,024 at most; what is longer
/// is of no store, and would be told in logs and dead letters.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// What a body held.
#[derive(Debug, Default, PartialEq)]
pub struct Envelope {
    /// Events of objects, in their order.
    pub notices: Vec<Notice>,
    /// Records that tell of something else, such as tags or test messages.
    pub other: usize,
    /// The page that confirms a subscription, when SNS asks for it.
    pub subscription: Option<String>,
}

/// Reads a body. `data` says that a wrapping is off already, which counts: it is the
/// data of a CloudEvent in binary mode, or what a message of SNS was signed for.
///
/// # Errors
/// `invalid-request` with what was expected where.
pub fn parse(body: &[u8], data: bool) -> Result<Envelope, Problem> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        refused(&format!(
            "expected a notification as JSON, found {} bytes that are none: {error}",
            body.len()
        ))
    })?;
    let mut envelope = Envelope::default();
    let items = match value {
        // A batch of CloudEvents.
        Value::Array(items) => items,
        value => vec![value],
    };
    for item in items {
        envelope.unwrap(&item, u32::from(data))?;
    }
    let count = envelope.notices.len() + envelope.other;
    if count > limits::NOTIFICATION_EVENTS_MAX {
        return Err(refused(&format!(
            "a notification must hold at most {} events, found {count}",
            limits::NOTIFICATION_EVENTS_MAX
        )));
    }
    if let Some(found) = envelope.notices.iter().map(longest).find(|bytes| *bytes > TEXT_BYTES_MAX) {
        return Err(refused(&format!(
            "keys and other texts of an event must be at most {TEXT_BYTES_MAX} bytes, found one of {found}"
        )));
    }
    Ok(envelope)
}

/// Bytes of its longest text.
fn longest(notice: &Notice) -> usize {
    let more =
        [&notice.other_key, &notice.etag, &notice.version_id, &notice.sequencer, &notice.time].into_iter();
    let texts = more.flatten().chain([&notice.bucket, &notice.key, &notice.name]);
    texts.map(String::len).max().unwrap_or_default()
}

impl Envelope {
    /// Takes off one wrapping, or reads what is in the last.
    fn unwrap(&mut self, value: &Value, depth: u32) -> Result<(), Problem> {
        if depth > limits::ENVELOPES_MAX {
            return Err(refused(&format!(
                "envelopes must be at most {} deep, found more",
                limits::ENVELOPES_MAX
            )));
        }
        if let Some(text) = value.as_str() {
            return self.unwrap(&embedded(text)?, depth);
        }
        if wrapped::unwrap(self, value, depth)? {
            return Ok(());
        }
        if let Some(records) = value["Records"].as_array() {
            return records.iter().try_for_each(|record| self.record(record, depth));
        }
        if value["s3"].is_object() {
            return records::read(self, value);
        }
        if value["Event"].as_str() == Some("s3:TestEvent") {
            self.other += 1;
            return Ok(());
        }
        if seaweedfs::is_one(value) {
            return seaweedfs::read(self, value);
        }
        Err(refused(&format!(
            "expected a notification of AWS, MinIO, Ceph or SeaweedFS, bare or in SNS, SQS, EventBridge or \
             CloudEvents, found {}",
            members(value)
        )))
    }

    /// An element of `Records`: of S3 itself, or of what wraps it on its way to a function.
    fn record(&mut self, record: &Value, depth: u32) -> Result<(), Problem> {
        if record["s3"].is_object() {
            return records::read(self, record);
        }
        let message = [&record["body"], &record["Sns"]["Message"]].into_iter().find(|text| text.is_string());
        match message {
            Some(message) => self.unwrap(message, depth + 1),
            None => Err(refused(&format!(
                "expected each of Records to have a member s3, body or Sns, found {}",
                members(record)
            ))),
        }
    }

    /// Adds an event of an object, or counts one of something else.
    fn add(&mut self, notice: Option<Notice>) {
        match notice {
            Some(notice) => self.notices.push(notice),
            None => self.other += 1,
        }
    }
}

/// JSON that is held as text.
fn embedded(text: &str) -> Result<Value, Problem> {
    match serde_json::from_str(text) {
        Ok(Value::String(_)) => {
            Err(refused("expected a notification as JSON within a text, found another text"))
        }
        Ok(value) => Ok(value),
        Err(error) => Err(refused(&format!(
            "expected a notification as JSON within a text, found what is none: {error}"
        ))),
    }
}

/// Text of a member, unless it is missing or empty.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Text of a member without which there is no event.
fn required(value: &Value, place: &str) -> Result<String, Problem> {
    text(value).ok_or_else(|| refused(&format!("expected a text at {place}, found {}", kind(value))))
}

/// Names of an object's members, for a refusal: never their values.
fn members(value: &Value) -> String {
    let Some(object) = value.as_object() else { return kind(value).to_owned() };
    let names: Vec<String> =
        object.keys().take(10).map(|name| name.chars().take(40).collect::<String>()).collect();
    format!("an object with {names:?}")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "an empty or other text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(ErrorKind::InvalidRequest, detail)
}

#[cfg(test)]
mod tests;
