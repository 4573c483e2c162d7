// SPDX-License-Identifier: Apache-2.0
//! Partial states and answers on their way between tasks: small ones inside
//! records, large ones as staged objects.
//!
//! Invariant: what is read back is what was written, byte for byte, or the
//! merge does not happen.

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::{ANSWER_INLINE_BYTES_MAX, AnswerRef, TaskOutcome},
    digest::Digest,
    invocation::Usage,
    keys, limits,
    plan::{STATE_INLINE_BYTES_MAX, StateRef, Task},
    uri::ObjectUri,
};
use fanfold_storage::PutOptions;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    host::{Data, joined, store_problem},
    task::{Attempt, Product},
};

/// Reads the states of a merge, in order.
pub(super) async fn read(data: &Data, states: &[StateRef], usage: &mut Usage) -> Result<Vec<Bytes>, Problem> {
    let mut reads = Vec::with_capacity(states.len());
    for state in states {
        reads.push(read_one(data, state));
    }
    let read: Vec<Bytes> = stream::iter(reads).buffered(limits::RANGES_IN_FLIGHT_MAX).try_collect().await?;
    for (state, bytes) in states.iter().zip(&read) {
        if matches!(state, StateRef::Object { .. }) {
            usage.bytes_in += bytes.len() as u64;
            usage.store_requests += 1;
        }
    }
    Ok(read)
}

async fn read_one(data: &Data, state: &StateRef) -> Result<Bytes, Problem> {
    match state {
        StateRef::Inline(digits) => hex::decode(digits).map(Bytes::from).map_err(|error| {
            crate::internal(format!("expected a partial state in hexadecimal digits, found: {error}"))
        }),
        StateRef::Runs { uri, .. } => {
            Err(crate::internal(format!("expected a partial state to merge, found states by key in {uri}")))
        }
        StateRef::Object { uri, digest, .. } => {
            let (store, from) = (data.store.clone(), uri.clone());
            let bytes = on_data_thread(data, async move { store.get(&from, None).await }).await?;
            let found = Digest::of(&bytes);
            if found == *digest {
                return Ok(bytes);
            }
            Err(Problem::new(
                ErrorKind::ObjectChanged,
                format!(
                    "expected the partial state {uri} with the digest {digest}, found {found}; run the job again"
                ),
            ))
        }
    }
}

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
    on_data_thread(data, async move { store.put(&to, body, options).await }).await?;
    Ok(uri)
}

/// Talks to the store where its connections live.
async fn on_data_thread<T: Send + 'static>(
    data: &Data,
    talk: impl Future<Output = fanfold_storage::Result<T>> + Send + 'static,
) -> Result<T, Problem> {
    let talked = AbortOnDropHandle::new(data.threads.spawn(talk)).await;
    joined(talked)?.map_err(|error| store_problem(&error))
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
