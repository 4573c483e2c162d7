// SPDX-License-Identifier: Apache-2.0
//! How asynchronous invocations ended: one object each, put if absent.
//!
//! The first end that is written is the end, whoever writes it: the runner of
//! the last attempt, another one that was thought dead, or a cancellation. So
//! what was promised with 202 ends once, however often it was delivered.

use std::time::Duration;

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    invocation::{LogLine, Progress, Response, Usage},
    keys,
    names::FunctionName,
    time::{self, Timestamp},
    uri::ObjectUri,
};
use fanfold_storage::{PutOptions, PutOutcome, Store};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{live::Live, message::Origin};
use crate::{
    invoke::{framed, headers},
    problem::of_store,
};

/// A larger body goes into an object of its own, so that looking at an end is cheap.
const INLINE_BYTES_MAX: usize = 256 << 10;
/// A body outlives the end that names it by this much.
const BODY_SLACK: Duration = Duration::from_secs(3_600);

/// How an asynchronous invocation ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The invocation.
    pub id: Uuid,
    /// The function.
    pub function: FunctionName,
    /// The version that ran.
    pub version: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When its last attempt began; none when there was no attempt.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Where it came from.
    pub origin: Origin,
    /// Attempts made.
    pub attempts: u32,
    /// What it returned, or why it did not.
    pub result: Result<Answer, Problem>,
    /// What the last attempt logged.
    pub logs: Vec<LogLine>,
    /// How far the last attempt said, the last time, that it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What the last attempt took; none where there was none, or nobody was told, as of one that was
    /// cancelled while it ran: that ended before its sandbox did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What an asynchronous invocation returned, but for its body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body.
    pub bytes: u64,
    /// Where the body lies when it is not with the end.
    object: Option<ObjectUri>,
}

impl Answer {
    /// The type of its body, as the guest said.
    pub fn content_type(&self) -> Option<&str> {
        headers::content_type(&self.headers)
    }
}

impl Ended {
    /// The end of an invocation, now.
    pub(super) fn new(id: Uuid, live: &Live, result: Result<Answer, Problem>) -> Self {
        Self {
            id,
            function: live.function.clone(),
            version: live.version,
            accepted_at: live.accepted_at,
            started_at: live.started_at,
            ended_at: time::now(),
            origin: live.origin.clone(),
            attempts: live.attempts,
            result,
            logs: Vec::new(),
            progress: None,
            usage: None,
        }
    }

    /// `succeeded`, `failed` or `cancelled`.
    pub fn state(&self) -> &'static str {
        match &self.result {
            Ok(_) => "succeeded",
            Err(problem) if problem.code == ErrorKind::Cancelled => "cancelled",
            Err(_) => "failed",
        }
    }
}

/// The ends of a tenant's asynchronous invocations.
#[derive(Clone)]
pub(super) struct Ends {
    pub(super) store: Store,
    pub(super) bucket: String,
}

impl Ends {
    /// How an invocation ended, with the body as far as it lies there.
    pub(super) async fn get(&self, id: &Uuid) -> Result<Option<(Ended, Bytes)>, Problem> {
        let key = keys::invocation_end(id);
        let value = match self.store.get(&self.uri(&key)?, None).await {
            Ok(value) => value,
            Err(fanfold_storage::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(of_store(error)),
        };
        framed::decode(&value).map(Some).map_err(crate::problem::internal)
    }

    /// What an invocation returned, whole.
    pub(super) async fn response(&self, answer: &Answer, inline: Bytes) -> Result<Response, Problem> {
        let body = match &answer.object {
            Some(uri) => self.store.get(uri, None).await.map_err(of_store)?,
            None => inline,
        };
        Ok(Response { status: answer.status, headers: answer.headers.clone(), body })
    }

    /// Writes an end unless there is one; false when another was first. `writer`
    /// names this try to end it, and stays the same when it is repeated.
    pub(super) async fn put_once(
        &self,
        ended: &Ended,
        response: Option<&Response>,
        writer: &Uuid,
    ) -> Result<bool, Problem> {
        let mut ended = ended.clone();
        let mut inline = Bytes::new();
        if let (Some(response), Ok(answer)) = (response, &mut ended.result) {
            if response.body.len() > INLINE_BYTES_MAX {
                let uri = self.uri(&keys::invocation_body(writer))?;
                let options = PutOptions::typed("application/octet-stream");
                self.store.put(&uri, response.body.clone(), options).await.map_err(of_store)?;
                answer.object = Some(uri);
            } else {
                inline = response.body.clone();
            }
        }
        let uri = self.uri(&keys::invocation_end(&ended.id))?;
        let value = framed::encode(&ended, &inline)?;
        let (writer, options) = (writer.to_string(), PutOptions::typed("application/octet-stream"));
        let outcome = self.store.put_if_absent(&uri, value, &writer, options).await.map_err(of_store)?;
        Ok(matches!(outcome, PutOutcome::Created(_)))
    }

    /// Removes ends that are older than `window`, and then what they alone named.
    pub(super) async fn sweep(&self, window: Duration) -> fanfold_storage::Result<()> {
        let (store, bucket, now) = (&self.store, &self.bucket, time::now());
        store.delete_old(bucket, keys::INVOCATION_ENDS, now, window).await?;
        store.delete_old(bucket, keys::INVOCATION_BODIES, now, window + BODY_SLACK).await
    }

    fn uri(&self, key: &str) -> Result<ObjectUri, Problem> {
        ObjectUri::new(self.bucket.clone(), key)
    }
}

impl From<&Response> for Answer {
    fn from(response: &Response) -> Self {
        Self {
            status: response.status,
            headers: response.headers.clone(),
            bytes: response.body.len() as u64,
            object: None,
        }
    }
}
