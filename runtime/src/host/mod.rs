// SPDX-License-Identifier: Apache-2.0
//! What a guest can reach: the state behind its imports, and how it is refused.
//!
//! One [`Host`] lives in the store of each sandbox and dies with it. Work that
//! touches the store or decodes tables is sent to the data threads, so that a
//! guest's thread only ever runs guests. Invariant: every answer that takes
//! time is awaited, and therefore ends with the invocation's deadline.

pub(crate) mod context;
pub(crate) mod objects;
pub(crate) mod places;
pub(crate) mod tables;
pub(crate) mod wasi;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    function::Version,
    invocation::{Progress, ProgressBoard},
    limits,
    seldom::Seldom,
    tenant::Tenant,
    uri::ObjectUri,
};
use fanfold_storage::{Meter, Store};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;
use wasmtime::component::{ResourceTable, ResourceTableError};
use wasmtime_wasi::WasiCtx;

use self::places::{Place, Places};
use crate::{
    bindings::handler::fanfold::function::types,
    memory::Reservation,
    sandbox::{Limiter, Log, timed, told},
    tables::{Settled, Skipped},
};

/// How many of the host's own refusals are remembered for one invocation.
const ISSUED_MAX: usize = 32;

/// What runs: the facts that a guest may ask for, and its bounds.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The invocation's id.
    pub(crate) id: Uuid,
    /// The function, with settings and grants.
    pub(crate) version: Arc<Version>,
    /// The attempt, from 1.
    pub(crate) attempt: u32,
    /// Triggers in the chain that led here.
    pub(crate) depth: u32,
    /// JSON.
    pub(crate) params: String,
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// All memories and tables together.
    pub(crate) memory_bytes_max: u64,
    /// Where its progress is told.
    pub(crate) board: Option<ProgressBoard>,
}

/// The store, and the threads that work with it.
pub(crate) struct Data {
    /// Connections of this store live on the data threads.
    pub(crate) store: Store,
    /// The data threads.
    pub(crate) threads: Handle,
    /// Whose data it is, and where functions never write by themselves.
    pub(crate) tenant: Arc<Tenant>,
    /// What is known of the types in the tables of jobs.
    pub(crate) settled: Arc<Settled>,
}

impl Data {
    /// Talks to the store where its connections live.
    pub(crate) async fn talk<T: Send + 'static>(
        &self,
        talk: impl Future<Output = fanfold_storage::Result<T>> + Send + 'static,
    ) -> Result<T, Problem> {
        let talked = AbortOnDropHandle::new(self.threads.spawn(talk)).await;
        joined(talked)?.map_err(|error| store_problem(&error))
    }
}

/// The state of one sandbox.
pub(crate) struct Host {
    pub(crate) call: Call,
    /// When it is stopped.
    pub(crate) deadline: Instant,
    pub(crate) data: Arc<Data>,
    pub(crate) limiter: Limiter,
    pub(crate) log: Log,
    pub(crate) table: ResourceTable,
    /// Places for the tables that the guest opens itself, once it opens one.
    places: Option<Places>,
    wasi: Option<Box<WasiCtx>>,
    metered: Option<Store>,
    work: Arc<Work>,
    issued: Vec<ErrorKind>,
    progress: Option<Progress>,
}

/// What was done for one invocation, inside its sandbox and out.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Time that the guest kept a thread busy, waiting left out.
    pub(crate) guest_ns: AtomicU64,
    /// Time that reading tables for it kept a data thread busy, waiting left out.
    pub(crate) decode_ns: AtomicU64,
    /// The same of everything else there: mostly writing tables.
    pub(crate) encode_ns: AtomicU64,
    pub(crate) rows_in: AtomicU64,
    pub(crate) rows_filtered: AtomicU64,
    pub(crate) row_groups_pruned: AtomicU64,
    pub(crate) pages_pruned: AtomicU64,
    pub(crate) rows_pruned: AtomicU64,
    pub(crate) bytes_pruned: AtomicU64,
    pub(crate) rows_out: AtomicU64,
    /// Whether the guest looked at what is not its input, its parameters or its
    /// settings: what it gives may be another thing the next time. Seeds of hash
    /// maps, which every program draws, do not count.
    outside: AtomicBool,
}

impl Work {
    /// Notes what a filter left out.
    pub(crate) fn skip(&self, skipped: Skipped) {
        self.rows_filtered.fetch_add(skipped.rows, Relaxed);
        self.row_groups_pruned.fetch_add(skipped.row_groups, Relaxed);
        self.pages_pruned.fetch_add(skipped.pages, Relaxed);
        self.rows_pruned.fetch_add(skipped.rows_unread, Relaxed);
        self.bytes_pruned.fetch_add(skipped.bytes, Relaxed);
    }

    /// Notes that the guest looks outside.
    pub(crate) fn look_outside(&self) {
        self.outside.store(true, Relaxed);
    }

    /// Whether the guest looked outside.
    pub(crate) fn looked_outside(&self) -> bool {
        self.outside.load(Relaxed)
    }
}

impl Host {
    pub(crate) fn new(call: Call, data: Arc<Data>, memory: Reservation) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::HANDLES_MAX);
        Self {
            limiter: Limiter::new(call.memory_bytes_max, memory),
            deadline: Instant::now() + call.timeout,
            call,
            data,
            log: Log::default(),
            table,
            places: None,
            wasi: None,
            metered: None,
            work: Arc::default(),
            issued: Vec::new(),
            progress: None,
        }
    }

    /// The store, with this invocation's meter.
    pub(crate) fn store(&mut self) -> Store {
        self.metered.get_or_insert_with(|| self.data.store.with_meter(Meter::new())).clone()
    }

    /// What this invocation used of the store.
    pub(crate) fn store_usage(&self) -> fanfold_storage::Usage {
        self.metered.as_ref().map(|store| store.meter().usage()).unwrap_or_default()
    }

    /// What was done for it so far.
    pub(crate) fn work(&self) -> &Arc<Work> {
        &self.work
    }

    /// A place for one more table that the guest opens itself.
    fn place(&mut self) -> Result<Place, Problem> {
        self.places.get_or_insert_with(|| Places::new(limits::TABLES_OPEN_MAX)).take()
    }

    /// Counts what is held for such tables as memory that the sandbox takes.
    fn count_held(&mut self) {
        if let Some(places) = &self.places {
            self.limiter.beside(places.held_bytes());
        }
    }

    /// How far the guest said it was.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.progress
    }

    /// The guest says how far it is.
    fn told(&mut self, progress: Progress) {
        self.progress = Some(progress);
        if let Some(board) = &self.call.board {
            board.tell(self.progress);
        }
    }

    /// Whether the host itself refused something in this way.
    pub(crate) fn has_issued(&self, kind: ErrorKind) -> bool {
        self.issued.contains(&kind)
    }

    /// Whether the platform failed this invocation.
    pub(crate) fn has_issued_platform(&self) -> bool {
        self.issued.iter().any(|kind| kind.fault() == Fault::Platform)
    }

    fn issue(&mut self, kind: ErrorKind) {
        if self.issued.len() < ISSUED_MAX && !self.issued.contains(&kind) {
            self.issued.push(kind);
        }
    }

    /// Starts work on the data threads; it ends when the handle is dropped.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        start(&self.data.threads, &self.work, future)
    }

    /// Does work on the data threads and waits for it.
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        future: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Refusal> {
        Ok(joined(self.start(future).await)??)
    }

    fn check_read(&self, uri: &ObjectUri) -> Result<(), Problem> {
        self.work.look_outside();
        self.data.tenant.check_read(uri)?;
        if self.call.version.settings.grants.may_read(uri) {
            return Ok(());
        }
        Err(self.not_granted(uri, "read"))
    }

    fn check_write(&self, uri: &ObjectUri) -> Result<(), Problem> {
        self.work.look_outside();
        self.data.tenant.check_write(uri)?;
        if self.call.version.settings.grants.may_write(uri) {
            return Ok(());
        }
        Err(self.not_granted(uri, "write"))
    }

    fn not_granted(&self, uri: &ObjectUri, verb: &str) -> Problem {
        let version = &self.call.version;
        Problem::new(
            ErrorKind::AccessDenied,
            format!(
                "expected {}@{} to be granted to {verb} {uri}, found no prefix of it among its {verb} grants; \
                 add one under [grants] in function.toml and deploy again",
                version.name, version.version
            ),
        )
    }
}

/// Starts work on the data threads and counts the time that it is busy.
pub(crate) fn start<T: Send + 'static>(
    threads: &Handle,
    work: &Arc<Work>,
    future: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    let work = Arc::clone(work);
    AbortOnDropHandle::new(threads.spawn(async move { timed(future, &work.encode_ns).await }))
}

/// The same of reading tables.
pub(crate) fn start_reading<T: Send + 'static>(
    threads: &Handle,
    work: &Arc<Work>,
    future: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    let work = Arc::clone(work);
    AbortOnDropHandle::new(threads.spawn(async move { timed(future, &work.decode_ns).await }))
}

/// Decoders meet hostile files: a panic of theirs is an answer, not an end.
pub(crate) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Problem> {
    result.map_err(|error| {
        tracing::error!(%error, "work for a guest panicked");
        panicked()
    })
}

/// What a fault of the platform's own is to those it was at work for.
pub(crate) fn panicked() -> Problem {
    Problem::new(
        ErrorKind::Internal,
        "expected the platform to serve the function, found a fault of its own; \
         the operator finds the cause in the log",
    )
}

/// A store's error for a guest or a caller; what only an operator understands
/// stays in the log.
pub(crate) fn store_problem(error: &fanfold_storage::Error) -> Problem {
    let kind = error.kind();
    if kind.fault() != Fault::Platform {
        return Problem::new(kind, error.to_string());
    }
    static TOLD: Seldom = Seldom::new();
    let is_lost = matches!(error, fanfold_storage::Error::Lost { .. });
    // What every call meets while the store is away must not fill the disk.
    if is_lost || kind == ErrorKind::Internal || TOLD.is_due(kind.code()) {
        tracing::warn!(%error, "the store failed");
    } else {
        tracing::debug!(%error, "the store failed");
    }
    if is_lost {
        return Problem::new(kind, error.to_string());
    }
    let detail = match kind {
        ErrorKind::StoreDenied => {
            "expected the object store to accept the platform's credentials, found that it refuses them; \
             the operator checks their policy"
        }
        ErrorKind::StorageFull => {
            "expected room in the object store, found it full; the operator frees space"
        }
        _ => "expected the object store to answer, found that it does not; try again later",
    };
    Problem::new(kind, detail)
}

/// Why a host call gives nothing: an error that the guest sees, or a trap.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The guest sees it and may go on.
    Problem(Problem),
    /// The guest ends here.
    Trap(wasmtime::Error),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<fanfold_storage::Error> for Refusal {
    fn from(error: fanfold_storage::Error) -> Self {
        Self::Problem(store_problem(&error))
    }
}

impl From<ResourceTableError> for Refusal {
    fn from(error: ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl From<wasmtime::Error> for Refusal {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

impl types::Host for Host {
    /// Remembers what the host itself said, so that it keeps its kind when the
    /// guest passes it on.
    fn convert_error(&mut self, refusal: Refusal) -> wasmtime::Result<types::Error> {
        match refusal {
            Refusal::Trap(error) => Err(error),
            Refusal::Problem(problem) => {
                self.issue(problem.code);
                let problem = told(problem);
                let retryable = problem.retryable();
                Ok(types::Error { code: problem.code.code().to_owned(), message: problem.detail, retryable })
            }
        }
    }
}
