// SPDX-License-Identifier: Apache-2.0
//! A sandbox: a fresh store for each invocation, its bounds, and its end.
//!
//! [`open`] makes one, [`bounded`] runs a call in it, [`Ended`] says what came
//! of it. Invariant: nothing of a sandbox is used again; it is dropped after
//! its one call, however that ended.

mod end;
mod limiter;
mod log;

use std::{
    cell::Cell,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fanfold_protocol::{
    Problem,
    invocation::{LogLine, Progress, Usage},
    limits,
};
use tokio_util::sync::CancellationToken;
use wasmtime::{Engine, Store, UpdateDeadline};

pub(crate) use self::{
    end::{guest_problem, problem, told},
    limiter::Limiter,
    log::{LINE_BYTES, Log, Source},
};
use crate::{
    host::{Call, Data, Host, Work},
    memory::Reservation,
};

/// Names and options that travel beside the 16 MiB of a host call.
const HOSTCALL_SLACK_BYTES: u64 = 64 << 10;

/// A sandbox for one call.
pub(crate) fn open(engine: &Engine, call: Call, data: Arc<Data>, memory: Reservation) -> Store<Host> {
    let mut store = Store::new(engine, Host::new(call, data, memory));
    let deadline = store.data().deadline;
    store.limiter(|host| &mut host.limiter);
    let fuel = limits::TRANSFER_BYTES_MAX + HOSTCALL_SLACK_BYTES;
    store.set_hostcall_fuel(usize::try_from(fuel).unwrap_or(usize::MAX));
    store.set_max_component_handles(limits::HANDLES_MAX);
    store.set_epoch_deadline(1);
    // Each tick gives the thread to the next guest.
    store.epoch_deadline_callback(move |_| {
        if Instant::now() < deadline { Ok(UpdateDeadline::Yield(1)) } else { Err(DeadlineReached.into()) }
    });
    store
}

/// The guest still ran when its time was over.
#[derive(Debug, thiserror::Error)]
#[error("the deadline was reached")]
pub(crate) struct DeadlineReached;

/// Why a call did not return.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Its time was over.
    Deadline,
    /// Someone asked.
    Cancelled,
    /// It trapped, or a host call ended it.
    Failed(wasmtime::Error),
}

/// Runs a call until it returns, its deadline passes or it is cancelled; the
/// time for which it keeps a thread is added to `work`.
pub(crate) async fn bounded<T>(
    deadline: Instant,
    cancel: Option<&CancellationToken>,
    work: &Work,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Stop> {
    let cancelled = async {
        match cancel {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        result = timed(call, &work.guest_ns) => result.map_err(|error| {
            if error.is::<DeadlineReached>() { Stop::Deadline } else { Stop::Failed(error) }
        }),
        () = cancelled => Err(Stop::Cancelled),
        () = tokio::time::sleep_until(deadline.into()) => Err(Stop::Deadline),
    }
}

/// How a sandbox ended.
pub(crate) struct Ended<T> {
    /// What it gave.
    pub(crate) result: Result<T, Problem>,
    /// What it logged.
    pub(crate) logs: Vec<LogLine>,
    /// How far it said that it was.
    pub(crate) progress: Option<Progress>,
    /// What it took.
    pub(crate) usage: Usage,
}

/// Times of a sandbox's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When the sandbox was asked for.
    pub(crate) asked: Instant,
    /// When it could run.
    pub(crate) started: Instant,
}

/// Collects what a sandbox leaves behind, and drops it.
pub(crate) fn close<T>(store: &Store<Host>, clock: Clock, result: Result<T, Problem>) -> Ended<T> {
    let host = store.data();
    let (work, used) = (host.work(), host.store_usage());
    let [guest, decode, encode] =
        [&work.guest_ns, &work.decode_ns, &work.encode_ns].map(|ns| ns.load(Relaxed));
    let usage = Usage {
        wall_us: micros(clock.started.elapsed()),
        cpu_us: (guest + decode + encode) / 1_000,
        guest_us: guest / 1_000,
        decode_us: decode / 1_000,
        start_us: micros(clock.started - clock.asked),
        memory_bytes_peak: host.limiter.peak_bytes(),
        rows_in: work.rows_in.load(Relaxed),
        rows_filtered: work.rows_filtered.load(Relaxed),
        row_groups_pruned: work.row_groups_pruned.load(Relaxed),
        pages_pruned: work.pages_pruned.load(Relaxed),
        rows_pruned: work.rows_pruned.load(Relaxed),
        bytes_pruned: work.bytes_pruned.load(Relaxed),
        rows_out: work.rows_out.load(Relaxed),
        bytes_in: used.bytes_read,
        bytes_out: used.bytes_written,
        store_requests: used.requests,
    };
    Ended { result, logs: host.log.take(), progress: host.progress(), usage }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What this thread has cost so far.
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

thread_local! {
    static LAST_TURN_NS: Cell<u64> = const { Cell::new(0) };
    static ELSEWHERE_NS: Cell<u64> = const { Cell::new(0) };
}

/// CPU time of the last turn of a guest on this thread, told once.
pub(crate) fn last_turn() -> Duration {
    Duration::from_nanos(LAST_TURN_NS.take())
}

/// Counts what another thread has cost, to which the future that is polled here gave work.
pub(crate) fn spent_elsewhere(cpu_ns: u64) {
    ELSEWHERE_NS.set(ELSEWHERE_NS.get().saturating_add(cpu_ns));
}

/// Adds up the CPU time that a future's polls cost their threads, and what they say was
/// [spent elsewhere](spent_elsewhere): waiting, and whatever else the machine does meanwhile, is left out.
pub(crate) async fn timed<F: Future>(future: F, busy_ns: &AtomicU64) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        ELSEWHERE_NS.set(0);
        let began = thread_cpu_ns();
        let polled = future.as_mut().poll(context);
        let busy = thread_cpu_ns().saturating_sub(began).saturating_add(ELSEWHERE_NS.take());
        busy_ns.fetch_add(busy, Relaxed);
        LAST_TURN_NS.set(busy);
        polled
    })
    .await
}
