// SPDX-License-Identifier: Apache-2.0
//! One task of a job in a sandbox of its own.
//!
//! The worker hands in a task, gets back what it gave: a table that is written
//! but counts only once it is committed, a partial state, or the answer.
//! Invariant: a task whose input could not be read to the end, or whose output
//! could not be written, fails, whatever its function makes of it.

mod abreast;
mod admit;
mod both;
mod keyed;
mod merge;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    answer::Answer,
    commit::OutputObject,
    function::{Column, Export, Version},
    invocation::Usage,
    keys, limits,
    plan::{Lease, Partition, StateRef, Task, Work as TaskWork},
    size::ByteSize,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wasmtime::component::Resource;

pub(crate) use self::{abreast::Abreast, admit::Waits};
use self::{
    admit::{admit, cancelled},
    both::map_accumulate,
    keyed::{create_shuffle, reduce},
    merge::{merge, read_states},
};
use crate::{
    Platform,
    bindings::{
        aggregator::AggregateFunctionPre, grouper::GroupFunctionPre, handler::fanfold::function::types,
        mapper::MapFunctionPre,
    },
    compile::Urgency,
    host::{
        Call, Host, Work,
        tables::{Reader, Sink, Writer},
    },
    invoke::{Run, missing},
    sandbox::{self, Clock, Ended, Stop},
    tables::{TableSource, TableWriter},
};

/// What the tasks of a lease have in common while one attempt runs them.
pub(crate) struct Attempt {
    pub(crate) lease: Lease,
    pub(crate) version: Arc<Version>,
    /// Names everything that this attempt writes.
    pub(crate) id: Uuid,
    /// Stops the tasks that run.
    pub(crate) stop: CancellationToken,
    /// Set once the first of its tasks has room.
    pub(crate) begun: CancellationToken,
    /// What it waited for room.
    pub(crate) waits: Waits,
    /// What of it runs at once.
    pub(crate) abreast: Abreast,
}

/// What a task gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Product {
    /// A table, or none when no row was written.
    Table(Option<OutputObject>),
    /// A partial state.
    State(Bytes),
    /// Partial states by key.
    Runs(StateRef),
    /// A table and the partial state of its rows.
    Mapped(Option<OutputObject>, Bytes),
    /// The job's answer.
    Answer(Answer),
}

/// How a task ended.
pub(crate) struct TaskEnd {
    pub(crate) ended: Ended<Product>,
    /// Whether the platform had a part in a failure: it is no verdict then.
    pub(crate) platform_failed: bool,
    /// Whether the guest looked at more than its input and parameters.
    pub(crate) looked_outside: bool,
    /// How long it waited for its component and for room.
    pub(crate) waited: Duration,
}

impl TaskEnd {
    /// The end of a task whose function was not reached.
    pub(crate) fn failed(problem: Problem) -> Self {
        Self {
            platform_failed: problem.code.fault() == Fault::Platform,
            looked_outside: false,
            waited: Duration::ZERO,
            ended: Ended {
                result: Err(problem),
                logs: Vec::new(),
                progress: None,
                usage: Default::default(),
            },
        }
    }
}

/// Why a call into a guest gave nothing.
enum Fail {
    Guest(types::Error),
    Host(Problem),
    Stopped(Stop),
}

impl From<Problem> for Fail {
    fn from(problem: Problem) -> Self {
        Self::Host(problem)
    }
}

/// Runs a task; nothing where it runs beside others and there is no room for it.
pub(crate) async fn run(
    platform: &Platform,
    attempt: &Attempt,
    task: &Task,
    beside: bool,
) -> Option<TaskEnd> {
    let asked = Instant::now();
    let ended = started(platform, attempt, task, beside, asked).await;
    attempt.abreast.end(task.index);
    ended.unwrap_or_else(|problem| Some(TaskEnd::failed(problem)))
}

async fn started(
    platform: &Platform,
    attempt: &Attempt,
    task: &Task,
    beside: bool,
    asked: Instant,
) -> Result<Option<TaskEnd>, Problem> {
    let Attempt { lease, version, .. } = attempt;
    let loaded = platform.component(version.digest, Urgency::Waited).await?;
    let timeout = Duration::from_millis(lease.common.timeout_ms).min(limits::TIMEOUT_MAX);
    let memory_bytes_max = lease.common.memory_bytes.unwrap_or(version.settings.memory.0);
    let patience = (!beside).then(|| asked + limits::TIMEOUT_MAX);
    let room = match admit(platform, attempt, &task.work, &loaded.demands, memory_bytes_max, patience).await {
        Ok(Some(room)) => room,
        Ok(None) => return Ok(None),
        // That others have it all says nothing of this function.
        Err(problem) => return Ok(Some(TaskEnd { platform_failed: true, ..TaskEnd::failed(problem) })),
    };
    let waited = asked.elapsed();
    let mut read = Usage::default();
    let states = match &task.work {
        TaskWork::Merge { states, .. } => tokio::select! {
            states = read_states(&platform.data, states, &mut read) => states?,
            () = attempt.stop.cancelled() => return Ok(Some(TaskEnd::failed(cancelled("the task's states")))),
        },
        _ => Vec::new(),
    };
    let _underway = platform.enter(version.digest, (lease.job, lease.stage, lease.group, task.index));
    let call = Call {
        id: lease.job,
        version: Arc::clone(version),
        attempt: task.attempt,
        depth: lease.common.depth,
        params: lease.common.params.clone(),
        timeout,
        memory_bytes_max,
        board: Some(attempt.abreast.begin(task.index)),
    };
    let run = Run::new(platform, call.clone(), asked, room.memory);
    let beside = room.beside.map(|memory| Run::new(platform, call, asked, memory));
    let mut end = match (&task.work, &loaded.mapper, &loaded.aggregator, &loaded.grouper, beside) {
        (TaskWork::Map(partition), Some(pre), ..) => map(run, pre, attempt, task, partition).await,
        (TaskWork::Accumulate(partition), _, Some(pre), ..) => {
            accumulate(run, Folder::Aggregator(pre), attempt, task, partition).await
        }
        (TaskWork::MapAccumulate { partition, keep }, Some(mapper), Some(aggregator), _, Some(beside)) => {
            let halves = (mapper, Folder::Aggregator(aggregator));
            map_accumulate((run, beside), halves, attempt, task, (partition, *keep)).await
        }
        (TaskWork::Merge { finish, .. }, _, Some(pre), ..) => merge(run, pre, attempt, states, *finish).await,
        (TaskWork::Group { partition, mapped: false, reducers }, _, _, Some(pre), _) => {
            accumulate(run, Folder::Grouper(pre, *reducers), attempt, task, partition).await
        }
        (TaskWork::Group { partition, reducers, .. }, Some(mapper), _, Some(pre), Some(beside)) => {
            let halves = (mapper, Folder::Grouper(pre, *reducers));
            map_accumulate((run, beside), halves, attempt, task, (partition, false)).await
        }
        (TaskWork::Reduce { states, reducers }, _, _, Some(pre), _) => {
            reduce(run, pre, attempt, task, (states, *reducers)).await
        }
        (TaskWork::Group { .. } | TaskWork::Reduce { .. }, _, _, None, _) => {
            return Err(missing(version, Export::Grouper));
        }
        (TaskWork::Map(_) | TaskWork::MapAccumulate { .. } | TaskWork::Group { .. }, None, ..) => {
            return Err(missing(version, Export::Mapper));
        }
        _ => return Err(missing(version, Export::Aggregator)),
    };
    end.ended.usage.add(&read);
    end.waited = waited;
    Ok(Some(end))
}

async fn map(
    mut run: Run,
    pre: &MapFunctionPre<Host>,
    attempt: &Attempt,
    task: &Task,
    partition: &Partition,
) -> TaskEnd {
    let Run { store, work, clock, deadline } = &mut run;
    let call = async {
        let sink = create_output(store.data_mut(), attempt, task).map(Sink::from);
        Ok(match call_map(store, clock, pre, attempt, partition, sink).await? {
            Ok(output) => finished(output, task, work).await.map_err(Fail::Host),
            Err(fail) => Err(fail),
        })
    };
    let returned = sandbox::bounded(*deadline, Some(&attempt.stop), work, call).await;
    end(run, flat(returned).map(Product::Table))
}

/// What folds rows into partial states.
#[derive(Clone, Copy)]
enum Folder<'a> {
    /// Into one.
    Aggregator(&'a AggregateFunctionPre<Host>),
    /// Into one for each key, shuffled to so many reducers.
    Grouper(&'a GroupFunctionPre<Host>, u32),
}

/// What a fold gave.
enum Folded {
    State(Bytes),
    /// States by key, not finished.
    Shuffled(Writer),
}

impl Folder<'_> {
    /// The columns that it reads.
    fn declared(self, version: &Version) -> Option<Vec<Column>> {
        let describes = &version.describes;
        match self {
            Self::Aggregator(_) => describes.aggregator.as_ref()?.reads.clone(),
            Self::Grouper(..) => describes.grouper.as_ref()?.reads.clone(),
        }
    }
}

async fn accumulate(
    mut run: Run,
    folder: Folder<'_>,
    attempt: &Attempt,
    task: &Task,
    partition: &Partition,
) -> TaskEnd {
    let Run { store, work, clock, deadline } = &mut run;
    let call = async {
        let input = open_input(store, attempt, partition, folder.declared(&attempt.version)).await;
        Ok(match call_fold(store, clock, folder, attempt, task, input).await? {
            Ok(folded) => folded_product(folded, work).await.map_err(Fail::Host),
            Err(fail) => Err(fail),
        })
    };
    let returned = sandbox::bounded(*deadline, Some(&attempt.stop), work, call).await;
    end(run, flat(returned))
}

/// Calls a mapper; gives back the table that it wrote, not finished.
async fn call_map(
    store: &mut wasmtime::Store<Host>,
    clock: &mut Clock,
    pre: &MapFunctionPre<Host>,
    attempt: &Attempt,
    partition: &Partition,
    sink: Result<Sink, Problem>,
) -> wasmtime::Result<Result<Writer, Fail>> {
    let described = attempt.version.describes.mapper.as_ref();
    let declared = described.and_then(|described| described.reads.clone());
    let sink = match sink {
        Ok(sink) => Sink { declared: described.and_then(|described| described.writes.clone()), ..sink },
        Err(problem) => return Ok(Err(problem.into())),
    };
    let output = Writer::lend(&store.data().data, sink);
    let output = store.data_mut().table.push(output)?;
    let input = match open_input(store, attempt, partition, declared).await {
        Ok(reader) => store.data_mut().table.push(reader)?,
        Err(problem) => return Ok(Err(problem.into())),
    };
    let (lent_input, lent_output) = (Resource::new_borrow(input.rep()), Resource::new_borrow(output.rep()));
    let instance = pre.instantiate_async(&mut *store).await?;
    clock.started = Instant::now();
    let mapped = instance.fanfold_function_mapper().call_map(&mut *store, lent_input, lent_output).await?;
    let table = &mut store.data_mut().table;
    let (input, output) = (table.delete(input)?, table.delete(output)?);
    Ok(mapped.map_err(Fail::Guest).and_then(|()| {
        input.check()?;
        Ok(output)
    }))
}

/// Calls an aggregator or a grouper over a table that could be opened.
async fn call_fold(
    store: &mut wasmtime::Store<Host>,
    clock: &mut Clock,
    folder: Folder<'_>,
    attempt: &Attempt,
    task: &Task,
    input: Result<Reader, Problem>,
) -> wasmtime::Result<Result<Folded, Fail>> {
    let input = match input {
        Ok(reader) => store.data_mut().table.push(reader)?,
        Err(problem) => return Ok(Err(problem.into())),
    };
    let lent = Resource::new_borrow(input.rep());
    let folded = match folder {
        Folder::Aggregator(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            clock.started = Instant::now();
            let state = instance.fanfold_function_aggregator().call_accumulate(&mut *store, lent).await?;
            state.map_err(Fail::Guest).and_then(|state| Ok(Folded::State(checked_state(state)?)))
        }
        Folder::Grouper(pre, reducers) => {
            let output = match create_shuffle(store.data_mut(), attempt, task, reducers) {
                Ok(writer) => store.data_mut().table.push(writer)?,
                Err(problem) => return Ok(Err(problem.into())),
            };
            let into = Resource::new_borrow(output.rep());
            let instance = pre.instantiate_async(&mut *store).await?;
            clock.started = Instant::now();
            let done = instance.fanfold_function_grouper().call_accumulate(&mut *store, lent, into).await?;
            let output = store.data_mut().table.delete(output)?;
            done.map_err(Fail::Guest).map(|()| Folded::Shuffled(output))
        }
    };
    let input = store.data_mut().table.delete(input)?;
    Ok(folded.and_then(|folded| {
        input.check()?;
        Ok(folded)
    }))
}

async fn folded_product(folded: Folded, work: &Arc<Work>) -> Result<Product, Problem> {
    Ok(match folded {
        Folded::State(state) => Product::State(state),
        Folded::Shuffled(output) => Product::Runs(output.end_shuffle(work).await?),
    })
}

/// The table that a mapper wrote, made visible.
async fn finished(output: Writer, task: &Task, work: &Arc<Work>) -> Result<Option<OutputObject>, Problem> {
    // A table needs its columns once: the first task's part shows them without rows too.
    if task.index > 0 && output.is_empty() {
        return Ok(None);
    }
    output.end(work).await
}

async fn open_input(
    store: &mut wasmtime::Store<Host>,
    attempt: &Attempt,
    partition: &Partition,
    declared: Option<Vec<Column>>,
) -> Result<Reader, Problem> {
    let common = &attempt.lease.common;
    let source = TableSource {
        slices: partition.slices.clone(),
        format: common.format,
        columns: common.columns.clone(),
        declared,
        csv: common.csv.clone(),
        schema: common.schema,
        filter: common.filter.clone(),
    };
    let host = store.data_mut();
    let metered = host.store();
    Reader::open(&host.data, host.work(), metered, source, common.like.clone()).await
}

fn create_output(host: &mut Host, attempt: &Attempt, task: &Task) -> Result<TableWriter, Problem> {
    let common = &attempt.lease.common;
    let name = keys::output_part(task.index, &attempt.id, common.output_format.extension());
    let uri = common.output.join(&name)?;
    let metered = host.store();
    TableWriter::create(metered, uri, common.output_format, &attempt.id.to_string(), common.depth)
}

fn checked_state(state: Vec<u8>) -> Result<Bytes, Problem> {
    if state.len() as u64 <= limits::STATE_BYTES_MAX {
        return Ok(state.into());
    }
    Err(Problem::new(
        ErrorKind::ResponseTooLarge,
        format!(
            "expected a partial state of at most {}, found {} bytes; keep a sketch instead of every value",
            ByteSize(limits::STATE_BYTES_MAX),
            state.len()
        ),
    ))
}

fn checked_answer(text: String) -> Result<Product, Problem> {
    Answer::try_from(text).map(Product::Answer).map_err(|error| {
        Problem::new(
            ErrorKind::ResponseInvalid,
            format!(
                "expected the aggregator's answer to be JSON, found: {error}; serialise it with a JSON library"
            ),
        )
    })
}

fn flat<T>(returned: Result<Result<T, Fail>, Stop>) -> Result<T, Fail> {
    returned.map_err(Fail::Stopped)?
}

fn end(run: Run, returned: Result<Product, Fail>) -> TaskEnd {
    let host = run.store.data();
    let result = returned.map_err(|fail| match fail {
        Fail::Guest(error) => sandbox::guest_problem(&error, host),
        Fail::Host(problem) => sandbox::told(problem),
        Fail::Stopped(stop) => sandbox::problem(&stop, host),
    });
    let by_platform =
        |problem: &Problem| problem.code.fault() == Fault::Platform || host.has_issued_platform();
    let platform_failed = result.as_ref().err().is_some_and(by_platform);
    let looked_outside = host.work().looked_outside();
    TaskEnd { ended: run.close(result), platform_failed, looked_outside, waited: Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_json() {
        let answer = checked_answer("{\"b\": 1.10, \"a\": 1}\n".into()).unwrap();
        assert!(matches!(&answer, Product::Answer(kept) if kept.as_str() == "{\"b\": 1.10, \"a\": 1}"));
        assert_eq!(checked_answer("{a}".into()).unwrap_err().code, ErrorKind::ResponseInvalid);
        assert_eq!(checked_answer(String::new()).unwrap_err().code, ErrorKind::ResponseInvalid);
        let large = vec![0; 1 + limits::STATE_BYTES_MAX as usize];
        assert_eq!(checked_state(large).unwrap_err().code, ErrorKind::ResponseTooLarge);
    }
}
