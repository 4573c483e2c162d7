// SPDX-License-Identifier: Apache-2.0
//! What an event starts: an invocation of a handler, or a job.
//!
//! Both are accepted under the id of the event or the batch, so that doing this
//! twice starts one. Whether what was accepted then succeeds
//! is its own affair, with attempts and dead letters of its own.

use std::time::Duration;

use fanfold_protocol::{ErrorKind, Problem, event::ObjectEvent, invocation::Request, trigger::job_of};
use uuid::Uuid;

use super::{outcome::Started, record::TriggerRecord};
use crate::{
    invoke::asynchronous::{AsyncCall, Origin, Standing},
    problem::internal,
    state::App,
};

/// Between two looks at what was started, doubled each time.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Starts what the trigger names, with these events, under this id. None when
/// it was started before, with a template that said something else.
///
/// # Errors
/// What is wrong with the function or the job; or there is no room now.
pub async fn start(
    app: &App,
    record: &TriggerRecord,
    events: &[ObjectEvent],
    id: Uuid,
    batched: bool,
) -> Result<Option<Started>, Problem> {
    let depth = events.iter().map(|event| event.depth).max().unwrap_or_default() + 1;
    match (&record.document.function, &record.document.job) {
        (Some(function), _) => {
            let body = match events {
                [event] if !batched => serde_json::to_vec(event),
                events => serde_json::to_vec(events),
            };
            let call = AsyncCall {
                id: Some(id),
                function: function.clone(),
                params: "{}".to_owned(),
                timeout: None,
                request: Request {
                    method: "POST".to_owned(),
                    query: String::new(),
                    headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                    body: body.map_err(internal)?.into(),
                },
                depth,
                origin: Origin::Trigger { name: record.name.to_string() },
            };
            let id = app.invocations.accept(call).await?;
            Ok(Some(Started::Invocation { id }))
        }
        (None, Some(template)) => {
            let mut document = job_of(template, events, &id)?;
            document.depth = depth;
            match app.jobs.submit(document, Some(&format!("trigger-{id}"))).await {
                Ok(record) => Ok(Some(Started::Job { id: record.id })),
                Err(problem) if problem.code == ErrorKind::IdempotencyConflict => Ok(None),
                Err(problem) => Err(problem),
            }
        }
        (None, None) => Err(internal(format!("the trigger {} starts nothing", record.name))),
    }
}

/// Waits until what was started has ended, or waits for another attempt: it takes
/// a place of its trigger's until then.
pub async fn rest(app: &App, started: &Started) {
    let mut pause = LOOK_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let in_work = match started {
            Started::Invocation { id } => app.invocations.is_in_work(id).await,
            Started::Job { .. } | Started::Batch { .. } => has_ended(app, started).await.map(|ended| !ended),
        };
        // While nobody can tell, nothing new is started either.
        if matches!(in_work, Ok(false)) {
            return;
        }
        pause = (pause * 2).min(LOOK_PAUSE_MAX);
    }
}

/// Whether what was started has ended, or is so long ago that nobody remembers.
///
/// # Errors
/// The store or the backbone does not answer.
pub async fn has_ended(app: &App, started: &Started) -> Result<bool, Problem> {
    match started {
        Started::Invocation { id } => {
            Ok(!matches!(app.invocations.standing(id).await?, Some(Standing::Live(_))))
        }
        Started::Job { id } => match app.jobs.get(id).await {
            Ok(job) => Ok(job.state.is_terminal()),
            Err(problem) if problem.code == ErrorKind::JobNotFound => Ok(true),
            Err(problem) => Err(problem),
        },
        Started::Batch { .. } => Ok(true),
    }
}
