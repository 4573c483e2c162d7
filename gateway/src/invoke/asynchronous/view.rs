// SPDX-License-Identifier: Apache-2.0
//! Asynchronous invocations as the API shows them.

use super::{ends::Ended, live::Live};
use crate::{
    invoke::show::{InvocationView, ResponseView},
    problem::ProblemView,
};
use uuid::Uuid;

impl InvocationView {
    /// One that waits or runs.
    pub(crate) fn of_live(id: &Uuid, live: &Live) -> Self {
        Self {
            id: id.to_string(),
            function: live.function.to_string(),
            version: live.version,
            state: live.state(),
            accepted_at: Some(live.accepted_at.0),
            started_at: live.started_at.map(|at| at.0),
            ended_at: None,
            attempts: live.attempts,
            origin: Some(live.origin.clone()),
            queue_us: None,
            progress: None,
            usage: None,
            response: None,
            problem: live.problem.as_ref().map(ProblemView::from),
            log_lines: None,
        }
    }

    /// One that has ended.
    pub(crate) fn of_ended(ended: &Ended) -> Self {
        let waited = ended.started_at.map(|at| at.since(ended.accepted_at).as_micros());
        Self {
            id: ended.id.to_string(),
            function: ended.function.to_string(),
            version: ended.version,
            state: ended.state(),
            accepted_at: Some(ended.accepted_at.0),
            started_at: ended.started_at.map(|at| at.0),
            ended_at: Some(ended.ended_at.0),
            attempts: ended.attempts,
            origin: Some(ended.origin.clone()),
            queue_us: waited.and_then(|us| u64::try_from(us).ok()),
            progress: ended.progress,
            usage: ended.usage.and_then(|usage| serde_json::to_value(usage).ok()),
            response: ended.result.as_ref().ok().map(|answer| ResponseView {
                status: answer.status,
                content_type: answer.content_type().map(str::to_owned),
                bytes: answer.bytes,
            }),
            problem: ended.result.as_ref().err().map(ProblemView::from),
            log_lines: Some(ended.logs.len()),
        }
    }
}
