// SPDX-License-Identifier: Apache-2.0
//! The tasks that merge partial states: what is theirs besides the calls.
//!
//! The states lie in the memory of the host until they are merged, up to
//! [`FOLD_WIDTH`](fanfold_protocol::plan::FOLD_WIDTH) of
//! [`STATE_BYTES_MAX`](limits::STATE_BYTES_MAX), so that they are read once there is
//! room for them beside the sandbox. Invariant: what is merged is what was written, byte
//! for byte, or nothing is.

use std::time::Instant;

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, digest::Digest, invocation::Usage, limits, plan::StateRef};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Attempt, Fail, Product, TaskEnd, checked_answer, checked_state, end, flat};
use crate::{
    bindings::aggregator::{AggregateFunction, AggregateFunctionPre},
    host::{Data, Host},
    invoke::Run,
    sandbox,
};

/// Reads the states of a merge, in order.
pub(super) async fn read_states(
    data: &Data,
    states: &[StateRef],
    usage: &mut Usage,
) -> Result<Vec<Bytes>, Problem> {
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
            let bytes = data.talk(async move { store.get(&from, None).await }).await?;
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

/// Merges states that were read, and at the root finishes.
pub(super) async fn merge(
    mut run: Run,
    pre: &AggregateFunctionPre<Host>,
    attempt: &Attempt,
    states: Vec<Bytes>,
    finish: bool,
) -> TaskEnd {
    let Run { store, work, clock, deadline } = &mut run;
    let call = async {
        let instance = pre.instantiate_async(&mut *store).await?;
        clock.started = Instant::now();
        let state = match merged(store, &instance, states).await? {
            Ok(state) => state,
            Err(fail) => return Ok(Err(fail)),
        };
        if !finish {
            return Ok(Ok(Product::State(state)));
        }
        let answer = instance.fanfold_function_aggregator().call_finish(&mut *store, &state).await?;
        Ok(answer.map_err(Fail::Guest).and_then(|text| Ok(checked_answer(text)?)))
    };
    let returned = sandbox::bounded(*deadline, Some(&attempt.stop), work, call).await;
    end(run, flat(returned))
}

/// Folds states from the left, as many at a time as one host call moves. The
/// order and the grouping depend on the states' sizes alone.
async fn merged(
    store: &mut wasmtime::Store<Host>,
    instance: &AggregateFunction,
    states: Vec<Bytes>,
) -> wasmtime::Result<Result<Bytes, Fail>> {
    let mut rest = &states[..];
    let mut state = None;
    while state.is_none() || !rest.is_empty() {
        let took = fitting(state.as_ref().map_or(0, Bytes::len), rest, state.is_some());
        let (now, later) = rest.split_at(took);
        rest = later;
        let parts: Vec<Vec<u8>> = state.iter().chain(now).map(|part| part.to_vec()).collect();
        if let [only] = &parts[..] {
            state = Some(Bytes::copy_from_slice(only));
            continue;
        }
        state = match instance.fanfold_function_aggregator().call_merge(&mut *store, &parts).await? {
            Ok(merged) => match checked_state(merged) {
                Ok(merged) => Some(merged),
                Err(problem) => return Ok(Err(problem.into())),
            },
            Err(error) => return Ok(Err(Fail::Guest(error))),
        };
    }
    Ok(Ok(state.unwrap_or_default()))
}

/// How many of the next states fit beside the one that is there: at least one
/// more, because two always do.
fn fitting(held: usize, states: &[Bytes], holds: bool) -> usize {
    let mut room = limits::TRANSFER_BYTES_MAX.saturating_sub(held as u64);
    let fits = |state: &&Bytes| {
        let fits = room >= state.len() as u64;
        room = room.saturating_sub(state.len() as u64);
        fits
    };
    let least = if holds { 1 } else { 2 };
    states.iter().take_while(fits).count().max(least).min(states.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_grouped_by_their_sizes() {
        let states = |sizes: &[usize]| sizes.iter().map(|n| Bytes::from(vec![0; *n])).collect::<Vec<_>>();
        const MIB: usize = 1 << 20;
        assert_eq!(fitting(0, &states(&[1, 2, 3]), false), 3);
        assert_eq!(fitting(0, &states(&[8 * MIB, 8 * MIB, 1]), false), 2);
        assert_eq!(fitting(8 * MIB, &states(&[8 * MIB, 1]), true), 1);
        assert_eq!(fitting(MIB, &states(&[7 * MIB, 8 * MIB, MIB]), true), 2);
        assert_eq!(fitting(0, &states(&[]), false), 0);
        assert_eq!(fitting(0, &states(&[5]), false), 1);
    }
}
