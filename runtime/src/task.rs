//! One task of a job in a sandbox of its own.
//!
//! The worker hands in a task, gets back what it gave: a table that is written
//! but counts only once it is committed, a partial state, or the answer.
//! Invariant: a task whose input could not be read to the end, or whose output
//! could not be written, fails, whatever its function makes of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    commit::OutputObject,
    function::{Column, Export, Version},
    keys, limits,
    plan::{Lease, Partition, Task, Work as TaskWork},
    size::ByteSize,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wasmtime::component::Resource;

use crate::{
    Platform,
    bindings::{
        aggregator::{AggregateFunction, AggregateFunctionPre},
        handler::fanfold::function::types,
        mapper::MapFunctionPre,
    },
    host::{
        Call, Host,
        tables::{Reader, Writer},
    },
    invoke::{Run, missing, slot},
    sandbox::{self, Ended},
    tables::{TableSource, TableWriter},
};

/// What the tasks of a lease have in common while one attempt runs them.
pub(crate) struct Attempt {
    pub(crate) lease: Lease,
    pub(crate) version: Arc<Version>,
    /// Names everything that this attempt writes.
    pub(crate) id: Uuid,
    /// Stops the task that runs.
    pub(crate) stop: CancellationToken,
}

/// What a task gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Product {
    /// A table, or none when no row was written.
    Table(Option<OutputObject>),
    /// A partial state.
    State(Bytes),
    /// The job's answer, as written and as read.
    Answer(String, Value),
}

/// How a task ended.
pub(crate) struct TaskEnd {
    pub(crate) ended: Ended<Product>,
    /// Whether the platform had a part in a failure: it is no verdict then.
    pub(crate) platform_failed: bool,
    /// Whether the guest looked at more than its input and parameters.
    pub(crate) looked_outside: bool,
}

impl TaskEnd {
    /// The end of a task whose function was not reached.
    pub(crate) fn failed(problem: Problem) -> Self {
        Self {
            platform_failed: problem.code.fault() == Fault::Platform,
            looked_outside: false,
            ended: Ended { result: Err(problem), logs: Vec::new(), usage: Default::default() },
        }
    }
}

/// Why a call into a guest gave nothing, short of a trap.
enum Fail {
    Guest(types::Error),
    Host(Problem),
}

impl From<Problem> for Fail {
    fn from(problem: Problem) -> Self {
        Self::Host(problem)
    }
}

/// Runs a task. `states` are those that a merge takes, in order.
pub(crate) async fn run(platform: &Platform, attempt: &Attempt, task: &Task, states: Vec<Bytes>) -> TaskEnd {
    let asked = Instant::now();
    started(platform, attempt, task, states, asked).await.unwrap_or_else(TaskEnd::failed)
}

async fn started(
    platform: &Platform,
    attempt: &Attempt,
    task: &Task,
    states: Vec<Bytes>,
    asked: Instant,
) -> Result<TaskEnd, Problem> {
    let Attempt { lease, version, .. } = attempt;
    let loaded = platform.component(version.digest).await?;
    let timeout = Duration::from_millis(lease.common.timeout_ms).min(limits::TIMEOUT_MAX);
    let _slot = slot(platform, asked + limits::TIMEOUT_MAX).await?;
    let call = Call {
        id: lease.job,
        version: Arc::clone(version),
        attempt: task.attempt,
        params: lease.common.params.clone(),
        timeout,
        memory_bytes_max: lease.common.memory_bytes.unwrap_or(version.settings.memory.0),
    };
    let run = Run::new(platform, call, asked);
    Ok(match (&task.work, &loaded.mapper, &loaded.aggregator) {
        (TaskWork::Map(partition), Some(pre), _) => map(run, pre, attempt, task, partition).await,
        (TaskWork::Accumulate(partition), _, Some(pre)) => accumulate(run, pre, attempt, partition).await,
        (TaskWork::Merge { finish, .. }, _, Some(pre)) => merge(run, pre, attempt, states, *finish).await,
        (TaskWork::Map(_), None, _) => return Err(missing(version, Export::Mapper)),
        _ => return Err(missing(version, Export::Aggregator)),
    })
}

async fn map(
    mut run: Run,
    pre: &MapFunctionPre<Host>,
    attempt: &Attempt,
    task: &Task,
    partition: &Partition,
) -> TaskEnd {
    let Run { store, work, clock, deadline } = &mut run;
    let declared = attempt.version.describes.mapper.as_ref().and_then(|d| d.reads.clone());
    let call = async {
        let opened = open_input(store, attempt, partition, declared).await;
        let input = match opened {
            Ok(reader) => store.data_mut().table.push(reader)?,
            Err(problem) => return Ok(Err(problem.into())),
        };
        let output = match create_output(store.data_mut(), attempt, task) {
            Ok(writer) => store.data_mut().table.push(writer)?,
            Err(problem) => return Ok(Err(problem.into())),
        };
        let (lent_input, lent_output) =
            (Resource::new_borrow(input.rep()), Resource::new_borrow(output.rep()));
        let instance = pre.instantiate_async(&mut *store).await?;
        clock.started = Instant::now();
        let mapped =
            instance.fanfold_function_mapper().call_map(&mut *store, lent_input, lent_output).await?;
        let table = &mut store.data_mut().table;
        let (input, output) = (table.delete(input)?, table.delete(output)?);
        Ok(match mapped.map_err(Fail::Guest).and_then(|()| Ok(input.check()?)) {
            // A table needs its columns once: the first task's part shows them without rows too.
            Ok(()) if task.index > 0 && output.is_empty() => Ok(None),
            Ok(()) => output.end(work).await.map_err(Fail::Host),
            Err(fail) => Err(fail),
        })
    };
    let returned = sandbox::bounded(*deadline, Some(&attempt.stop), work, call).await;
    end(run, returned, Product::Table)
}

async fn accumulate(
    mut run: Run,
    pre: &AggregateFunctionPre<Host>,
    attempt: &Attempt,
    partition: &Partition,
) -> TaskEnd {
    let Run { store, work, clock, deadline } = &mut run;
    let declared = attempt.version.describes.aggregator.as_ref().and_then(|d| d.reads.clone());
    let call = async {
        let opened = open_input(store, attempt, partition, declared).await;
        let input = match opened {
            Ok(reader) => store.data_mut().table.push(reader)?,
            Err(problem) => return Ok(Err(problem.into())),
        };
        let lent = Resource::new_borrow(input.rep());
        let instance = pre.instantiate_async(&mut *store).await?;
        clock.started = Instant::now();
        let state = instance.fanfold_function_aggregator().call_accumulate(&mut *store, lent).await?;
        let input = store.data_mut().table.delete(input)?;
        Ok(state.map_err(Fail::Guest).and_then(|state| {
            input.check()?;
            Ok(checked_state(state)?)
        }))
    };
    let returned = sandbox::bounded(*deadline, Some(&attempt.stop), work, call).await;
    end(run, returned, Product::State)
}

async fn merge(
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
    end(run, returned, |product| product)
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
        filter: common.filter.clone(),
    };
    let host = store.data_mut();
    let metered = host.store();
    Reader::open(&host.data, host.work(), metered, source, common.like.clone()).await
}

fn create_output(host: &mut Host, attempt: &Attempt, task: &Task) -> Result<Writer, Problem> {
    let common = &attempt.lease.common;
    let name = keys::output_part(task.index, &attempt.id, TableWriter::extension(common.output_format));
    let uri = common.output.join(&name)?;
    let metered = host.store();
    let writer = TableWriter::create(metered, uri, common.output_format, &attempt.id.to_string())?;
    Ok(Writer::lend(&host.data, writer))
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
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Product::Answer(text, value)),
        Err(error) => Err(Problem::new(
            ErrorKind::ResponseInvalid,
            format!(
                "expected the aggregator's answer to be JSON, found: {error}; serialise it with a JSON library"
            ),
        )),
    }
}

fn end<T>(
    run: Run,
    returned: Result<Result<T, Fail>, sandbox::Stop>,
    product: impl FnOnce(T) -> Product,
) -> TaskEnd {
    let host = run.store.data();
    let result = match returned {
        Ok(Ok(value)) => Ok(product(value)),
        Ok(Err(Fail::Guest(error))) => Err(sandbox::guest_problem(&error, host)),
        Ok(Err(Fail::Host(problem))) => Err(problem),
        Err(stop) => Err(sandbox::problem(&stop, host)),
    };
    let by_platform =
        |problem: &Problem| problem.code.fault() == Fault::Platform || host.has_issued_platform();
    let platform_failed = result.as_ref().err().is_some_and(by_platform);
    let looked_outside = host.work().looked_outside();
    TaskEnd { ended: run.close(result), platform_failed, looked_outside }
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

    #[test]
    fn answers_are_json() {
        assert!(matches!(checked_answer("{\"a\":1}".into()), Ok(Product::Answer(_, _))));
        assert_eq!(checked_answer("{a}".into()).unwrap_err().code, ErrorKind::ResponseInvalid);
        assert_eq!(checked_answer(String::new()).unwrap_err().code, ErrorKind::ResponseInvalid);
        let large = vec![0; 1 + limits::STATE_BYTES_MAX as usize];
        assert_eq!(checked_state(large).unwrap_err().code, ErrorKind::ResponseTooLarge);
    }
}
