// SPDX-License-Identifier: Apache-2.0
//! Partial states and answers on their way to other tasks: small ones inside
//! records, large ones as staged objects.
//!
//! Invariant: what a commit names lies where it says, with the digest that it says.

use bytes::Bytes;
use fanfold_protocol::{
    Problem,
    commit::{ANSWER_INLINE_BYTES_MAX, AnswerRef, TaskOutcome},
    digest::Digest,
    invocation::Usage,
    keys,
    plan::{STATE_INLINE_BYTES_MAX, StateRef, Task},
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;

use crate::{
    host::Data,
    task::{Attempt, Product},
};

/// Puts what a task gave where its commit can name it.
pub(super) async fn stage(
    data: &Data,
    attempt: &Attempt,
    task: &Task,
    product: Product,
    usage: &mut Usage,
) -> Result<TaskOutcome, Problem> {
    match product {
        Product::Table(table) => Ok(TaskOutcome::Table(table)),
        Product::Runs(runs) => Ok(TaskOutcome::State(runs)),
        Product::State(state) => stage_state(data, attempt, task, state, usage).await.map(TaskOutcome::State),
        Product::Mapped(table, state) => {
            let state = stage_state(data, attempt, task, state, usage).await?;
            Ok(TaskOutcome::Mapped { table, state })
        }
        Product::Answer(answer) if answer.as_str().len() <= ANSWER_INLINE_BYTES_MAX => {
            Ok(TaskOutcome::Answer(AnswerRef::Inline(answer)))
        }
        Product::Answer(answer) => {
            let uri = put(data, attempt, task, "json", answer.into_bytes().into(), usage).await?;
            Ok(TaskOutcome::Answer(AnswerRef::Object(uri)))
        }
    }
}

async fn stage_state(
    data: &Data,
    attempt: &Attempt,
    task: &Task,
    state: Bytes,
    usage: &mut Usage,
) -> Result<StateRef, Problem> {
    if state.len() <= STATE_INLINE_BYTES_MAX {
        return Ok(StateRef::Inline(hex::encode(state)));
    }
    let (size, digest) = (state.len() as u64, Digest::of(&state));
    let uri = put(data, attempt, task, "state", state, usage).await?;
    Ok(StateRef::Object { uri, size, digest })
}

async fn put(
    data: &Data,
    attempt: &Attempt,
    task: &Task,
    what: &str,
    body: Bytes,
    usage: &mut Usage,
) -> Result<ObjectUri, Problem> {
    let lease = &attempt.lease;
    let key = keys::staged(&lease.job, lease.stage, task.index, &attempt.id, what);
    let uri = ObjectUri::new(&data.tenant.system_bucket, key)?;
    usage.bytes_out += body.len() as u64;
    usage.store_requests += 1;
    let content_type = if what == "json" { "application/json" } else { "application/octet-stream" };
    let (store, to, mut options) = (data.store.clone(), uri.clone(), PutOptions::typed(content_type));
    // An answer is copied to the output with it.
    options.mark_depth(lease.common.depth);
    data.talk(async move { store.put(&to, body, options).await }).await?;
    Ok(uri)
}

/// The objects that an outcome names.
pub(super) fn staged(outcome: &TaskOutcome) -> impl Iterator<Item = &ObjectUri> {
    let table = outcome.table().map(|table| &table.uri);
    let state = match outcome.state() {
        Some(StateRef::Object { uri, .. } | StateRef::Runs { uri, .. }) => Some(uri),
        Some(StateRef::Inline(_)) | None => None,
    };
    let answer = match outcome {
        TaskOutcome::Answer(AnswerRef::Object(uri)) => Some(uri),
        _ => None,
    };
    [table, state, answer].into_iter().flatten()
}
