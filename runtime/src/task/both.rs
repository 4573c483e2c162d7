// SPDX-License-Identifier: Apache-2.0
//! A map and the fold of what it writes, as one task.
//!
//! Each half has a sandbox of its own; between them there is a pipe. Invariant:
//! the task gives what both gave, or the first failure of either and nothing else.

use fanfold_protocol::plan::{Partition, Task};

use super::{
    Attempt, Fail, Folder, Product, TaskEnd, call_fold, call_map, create_output, end, finished, flat,
    folded_product,
};
use crate::{
    bindings::mapper::MapFunctionPre,
    host::{
        Host,
        tables::{Reader, Sink},
    },
    invoke::Run,
    sandbox::{self, Ended},
    tables::pipe,
};

/// Which of two sandboxes.
enum Half {
    Map,
    Fold,
}

/// Runs the mapper and, over what it writes, the aggregator or grouper, each in
/// a sandbox of its own and both at once. The first that fails ends both. What
/// they write is finished when both are done, so that a failure leaves nothing.
pub(super) async fn map_accumulate(
    (mut mapping, mut folding): (Run, Run),
    (mapper, folder): (&MapFunctionPre<Host>, Folder<'_>),
    attempt: &Attempt,
    task: &Task,
    (partition, keep): (&Partition, bool),
) -> TaskEnd {
    let stop = Some(&attempt.stop);
    let (writer, reader) = pipe();
    let Run { store, work, clock, deadline } = &mut mapping;
    let mapped = async {
        let table = keep.then(|| create_output(store.data_mut(), attempt, task)).transpose();
        let sink = table.map(|table| Sink { table, pipe: Some(writer), ..Sink::default() });
        let mut called = call_map(store, clock, mapper, attempt, partition, sink).await?;
        if let Ok(output) = &mut called {
            output.end_pipe().await;
        }
        Ok(called)
    };
    let mapped =
        async { flat(sandbox::bounded(*deadline, stop, work, mapped).await).map_err(|f| (Half::Map, f)) };
    let Run { store: fold_store, work: fold_work, clock: fold_clock, deadline: fold_deadline } = &mut folding;
    let folded = async {
        let host = fold_store.data();
        let declared = folder.declared(&attempt.version);
        let input = Reader::open_pipe(&host.data, host.work(), reader, declared).await;
        call_fold(fold_store, fold_clock, folder, attempt, task, input).await
    };
    let folded = async {
        flat(sandbox::bounded(*fold_deadline, stop, fold_work, folded).await).map_err(|f| (Half::Fold, f))
    };
    let both = match futures::future::try_join(mapped, folded).await {
        Ok((output, folded)) => {
            let finish = async {
                let product = match folded_product(folded, work).await {
                    Ok(Product::State(state)) if keep => {
                        finished(output, task, work).await.map(|table| Product::Mapped(table, state))
                    }
                    product => product,
                };
                Ok(product.map_err(Fail::Host))
            };
            flat(sandbox::bounded(*deadline, stop, work, finish).await).map_err(|fail| (Half::Map, fail))
        }
        Err(failed) => Err(failed),
    };
    match both {
        Err((Half::Fold, fail)) => together(end(folding, Err(fail)), mapping, Half::Fold),
        Err((Half::Map, fail)) => together(end(mapping, Err(fail)), folding, Half::Map),
        Ok(both) => together(end(mapping, Ok(both)), folding, Half::Map),
    }
}

/// Adds what the other half took and logged. The two ran at the same time; rows are
/// those that came in from the store and those that the map wrote.
fn together(mut end: TaskEnd, other: Run, half: Half) -> TaskEnd {
    end.looked_outside |= other.work.looked_outside();
    let Ended { logs, usage: other, .. } = other.close(Ok(()));
    end.ended.logs.extend(logs);
    end.ended.logs.sort_by_key(|line| line.at.0);
    let usage = &mut end.ended.usage;
    let rows = match half {
        Half::Map => (usage.rows_in, usage.rows_out),
        Half::Fold => (other.rows_in, other.rows_out),
    };
    let (wall_us, start_us) = (usage.wall_us.max(other.wall_us), usage.start_us.min(other.start_us));
    let memory_bytes_peak = usage.memory_bytes_peak + other.memory_bytes_peak;
    usage.add(&other);
    (usage.rows_in, usage.rows_out) = rows;
    (usage.wall_us, usage.start_us, usage.memory_bytes_peak) = (wall_us, start_us, memory_bytes_peak);
    end
}
