// SPDX-License-Identifier: Apache-2.0
//! The tasks of keyed aggregates: what is theirs besides the calls.
//!
//! States by key go to an object that the attempt stages, and come back to the
//! reducers as one sorted table. Invariant: what a reducer merges on the way is
//! removed with its task, or by the job's sweep.

use std::time::Instant;

use fanfold_protocol::{
    Problem,
    function::{Export, Version},
    keys, limits,
    plan::{StateRef, Task},
    uri::ObjectUri,
};
use fanfold_storage::ListOptions;
use futures::TryStreamExt as _;
use wasmtime::component::Resource;

use super::{Attempt, Fail, Product, TaskEnd, create_output, end, finished, flat};
use crate::{
    bindings::grouper::GroupFunctionPre,
    host::{
        Host,
        tables::{Reader, Share, Sink, Writer},
    },
    invoke::{Run, missing},
    sandbox,
    tables::{Keys, ShuffleWriter},
};

/// Merges one reducer's states into its part of the table.
pub(super) async fn reduce(
    mut run: Run,
    pre: &GroupFunctionPre<Host>,
    attempt: &Attempt,
    task: &Task,
    (states, reducers): (&[StateRef], u32),
) -> TaskEnd {
    let Run { store, work, clock, deadline } = &mut run;
    let call = async {
        let (reader, writer) = match open_reduce(store, attempt, task, states, reducers).await {
            Ok(opened) => opened,
            Err(problem) => return Ok(Err(problem.into())),
        };
        let table = &mut store.data_mut().table;
        let (input, output) = (table.push(reader)?, table.push(writer)?);
        let lent = (Resource::new_borrow(input.rep()), Resource::new_borrow(output.rep()));
        let instance = pre.instantiate_async(&mut *store).await?;
        clock.started = Instant::now();
        let merged = instance.fanfold_function_grouper().call_merge(&mut *store, lent.0, lent.1).await?;
        let table = &mut store.data_mut().table;
        let (input, output) = (table.delete(input)?, table.delete(output)?);
        Ok(match merged.map_err(Fail::Guest).and_then(|()| Ok(input.check()?)) {
            Ok(()) => finished(output, task, work).await.map_err(Fail::Host),
            Err(fail) => Err(fail),
        })
    };
    let returned = sandbox::bounded(*deadline, Some(&attempt.stop), work, call).await;
    let runs = |state: &StateRef| if let StateRef::Runs { runs, .. } = state { *runs as usize } else { 0 };
    if states.iter().map(runs).sum::<usize>() > limits::RUNS_MERGED_MAX {
        remove_scratch(&mut run, attempt, task).await;
    }
    end(run, flat(returned).map(Product::Table))
}

async fn open_reduce(
    store: &mut wasmtime::Store<Host>,
    attempt: &Attempt,
    task: &Task,
    states: &[StateRef],
    reducers: u32,
) -> Result<(Reader, Writer), Problem> {
    let host = store.data_mut();
    let (metered, table) = (host.store(), create_output(host, attempt, task)?);
    let declared = attempt.version.describes.grouper.as_ref().and_then(|grouping| grouping.writes.clone());
    let writer = Writer::lend(&host.data, Sink { declared, ..Sink::from(table) });
    let share = Share {
        states: states.to_vec(),
        keys: keys_of(&attempt.version)?,
        reducer: task.index,
        reducers,
        scratch: staged(host, attempt, task, SCRATCH)?,
    };
    let reader = Reader::open_share(&host.data, host.work(), metered, share).await?;
    Ok((reader, writer))
}

/// What the names of runs begin with that a reducer merges on the way.
const SCRATCH: &str = "merged";

/// Removes runs that were merged on the way. What cannot be removed now, the
/// job's sweep finds.
async fn remove_scratch(run: &mut Run, attempt: &Attempt, task: &Task) {
    let host = run.store.data_mut();
    let Ok(scratch) = staged(host, attempt, task, SCRATCH) else { return };
    let store = host.store();
    let removed = host.start(async move {
        let listed = store.list(scratch.bucket(), scratch.key(), ListOptions::default());
        let keys: Vec<String> = listed.map_ok(|entry| entry.name().to_owned()).try_collect().await?;
        store.delete_many(scratch.bucket(), keys).await
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(%error, job = %attempt.lease.job, "merged runs cannot be removed; they are left to the sweep");
    }
}

/// The place of something that an attempt stages.
fn staged(host: &Host, attempt: &Attempt, task: &Task, what: &str) -> Result<ObjectUri, Problem> {
    let lease = &attempt.lease;
    let key = keys::staged(&lease.job, lease.stage, task.index, &attempt.id, what);
    ObjectUri::new(&host.data.tenant.system_bucket, key)
}

fn keys_of(version: &Version) -> Result<Keys, Problem> {
    let grouping = version.describes.grouper.as_ref();
    Keys::new(&grouping.ok_or_else(|| missing(version, Export::Grouper))?.keys)
}

/// Where a grouper writes its states.
pub(super) fn create_shuffle(
    host: &mut Host,
    attempt: &Attempt,
    task: &Task,
    reducers: u32,
) -> Result<Writer, Problem> {
    let (uri, keys) = (staged(host, attempt, task, "runs")?, keys_of(&attempt.version)?);
    let shuffle = ShuffleWriter::create(&host.store(), uri, keys, reducers, &attempt.id.to_string());
    let sink = Sink { shuffle: Some(shuffle), ..Sink::default() };
    Ok(Writer::lend(&host.data, sink))
}
