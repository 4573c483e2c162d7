// SPDX-License-Identifier: Apache-2.0
//! What an event starts: an invocation of a handler, or a job.
//!
//! Both are accepted under an id that follows from the trigger and the event,
//! so that doing this twice starts one. Whether what was accepted then succeeds
//! is its own affair, with attempts and dead letters of its own.

use fanfold_protocol::{
    ErrorKind, Problem,
    event::ObjectEvent,
    invocation::Request,
    names::FunctionRef,
    trigger::{TriggerDocument, job_of},
};
use serde_json::Value;

use super::outcome::Started;
use crate::{
    invoke::asynchronous::{AsyncCall, Origin},
    problem::internal,
    state::App,
};

/// Starts what the trigger names. None when the event says so by itself that
/// there is nothing to do.
///
/// # Errors
/// What is wrong with the function or the job; or there is no room now.
pub async fn start(
    app: &App,
    document: &TriggerDocument,
    event: &ObjectEvent,
) -> Result<Option<Started>, Problem> {
    match (&document.function, &document.job) {
        (Some(function), _) => invoke(app, function, event).await.map(Some),
        (None, Some(template)) => submit(app, template, event).await,
        (None, None) => Err(internal(format!("the trigger {} starts nothing", event.trigger))),
    }
}

async fn invoke(app: &App, function: &FunctionRef, event: &ObjectEvent) -> Result<Started, Problem> {
    let body = serde_json::to_vec(event).map_err(internal)?;
    let request = Request {
        method: "POST".to_owned(),
        query: String::new(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.into(),
    };
    let id = app
        .invocations
        .accept(AsyncCall {
            id: Some(event.id),
            function: function.clone(),
            params: "{}".to_owned(),
            timeout: None,
            request,
            depth: event.depth + 1,
            origin: Origin::Trigger { name: event.trigger.to_string() },
        })
        .await?;
    Ok(Started::Invocation { id })
}

/// A key that ends in `/` marks a folder: as the input of a job it would mean
/// everything in it.
async fn submit(app: &App, template: &Value, event: &ObjectEvent) -> Result<Option<Started>, Problem> {
    if event.key.ends_with('/') {
        return Ok(None);
    }
    let mut document = job_of(template, event)?;
    document.depth = event.depth + 1;
    let key = format!("trigger-{}", event.id);
    match app.jobs.submit(document, Some(&key)).await {
        Ok(record) => Ok(Some(Started::Job { id: record.id })),
        // It was started already, before the template was changed.
        Err(problem) if problem.code == ErrorKind::IdempotencyConflict => Ok(None),
        Err(problem) => Err(problem),
    }
}
