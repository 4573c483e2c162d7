// SPDX-License-Identifier: Apache-2.0
//! Sandboxes of Fanfold: from a delivery to an outcome.
//!
//! [`Runtime`] is what a process has of it: handlers are called through
//! [`Runtime::invoker`], components are prepared through [`Runtime::preparer`],
//! and jobs' tasks are taken from the queue by [`Runtime::run_tasks`]. Guests
//! run on threads of their own, the store is worked with on others. Invariant:
//! a guest's bytes are compiled in a child process only, and each invocation
//! gets a sandbox that nobody used before and nobody uses again.

mod artifacts;
mod bindings;
mod compile;
mod components;
mod engine;
mod fault;
mod flights;
mod host;
mod invoke;
mod journal;
mod link;
mod memory;
mod pace;
pub mod remote;
mod room;
mod sandbox;
mod suspects;
pub mod tables;
mod task;
mod worker;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use fanfold_backbone::Backbone;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    function::Descriptions,
    invocation::{Invocation, Outcome, Preparation},
    names::TenantName,
    tenant::Tenant,
};
use fanfold_storage::Store;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tower::{service_fn, util::BoxCloneSyncService};

use crate::{
    artifacts::Artifacts,
    compile::Urgency,
    components::{Components, Loaded},
    engine::Shared,
    host::Data,
    invoke::Crowded,
    journal::{Entry, Journal, Running},
    memory::Budget,
    pace::Pace,
    suspects::Suspects,
};
pub use crate::{
    compile::{CompilerCommand, compile_child},
    memory::{Memory, budget_mistake},
};

/// How a runtime is set up.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The worker's name, for people; it stands in commits.
    pub name: String,
    /// Threads that run guests, and leases worked on at once; at least 1.
    pub workers: usize,
    /// Memory that sandboxes may take together, bytes; by itself, three quarters of what the
    /// host has, or the control group that this process is in.
    pub memory_bytes: Option<u64>,
    /// Folder of compiled components and of the key that vouches for them.
    pub cache_dir: PathBuf,
    /// How the compiler's child process is started.
    pub compiler: CompilerCommand,
}

/// Why a runtime does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine refused its profile or its memory.
    #[error(
        "expected a wasm engine with pooled memory, found: {0}; check the limits on address space (ulimit -v)"
    )]
    Engine(String),
    /// The cache folder cannot be used.
    #[error("expected to keep compiled components in {}, found: {source}; choose another cache folder", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Threads could not be started.
    #[error("expected to start {what} threads, found: {source}; check the limits on processes")]
    Threads {
        /// What they are for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The store's configuration is wrong.
    #[error(transparent)]
    Store(#[from] fanfold_storage::Error),
}

/// What a runtime has done so far, for metrics. Only ever grows, but for what is
/// quarantined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Components compiled.
    pub components_compiled: u64,
    /// Compiled artifacts refused because they were altered or foreign.
    pub artifacts_refused: u64,
    /// Components that are quarantined now.
    pub components_quarantined: u64,
}

/// A handle of the runtime. Cheap to clone; the last one to go stops it.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    platforms: Arc<Platforms>,
    backbone: Backbone,
    config: RuntimeConfig,
    guests: Threads,
    /// Of all components together.
    pace: Arc<Pace>,
    reach: Arc<worker::Reach>,
    _data: Threads,
}

/// What every sandbox of the process is made from.
pub(crate) struct Platform {
    pub(crate) shared: &'static Shared,
    pub(crate) components: Arc<Components>,
    pub(crate) data: Arc<Data>,
    pub(crate) suspects: Arc<Suspects>,
    /// Of the sandboxes of all tenants.
    pub(crate) memory: Arc<Budget>,
    journal: Arc<Journal>,
}

/// Something under way; when it is dropped, it has not ended this process.
pub(crate) struct Underway {
    suspects: Arc<Suspects>,
    running: Running,
    _entry: Option<Entry>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.suspects.survived(self.running);
    }
}

impl Platform {
    /// A component ready to run, unless it is quarantined.
    pub(crate) async fn component(&self, digest: Digest, urgency: Urgency) -> Result<Arc<Loaded>, Problem> {
        self.suspects.check(&digest).await?;
        match self.components.ready(&digest) {
            Some(loaded) => Ok(loaded),
            None => self.components.get(digest, &self.data, urgency).await,
        }
    }

    /// Writes down that a component runs, for as long as what this gives is kept.
    /// `work` tells what it does from what else it may do.
    pub(crate) fn enter(&self, digest: Digest, work: impl Hash) -> Underway {
        // Of fixed keys, so that the next process makes the same of it.
        let mut hasher = DefaultHasher::new();
        work.hash(&mut hasher);
        let running = Running { digest, work: hasher.finish() };
        Underway { suspects: Arc::clone(&self.suspects), running, _entry: self.journal.enter(running) }
    }
}

/// Other tenants whose platforms are kept.
const TENANTS_MAX: usize = 1_024;

/// One platform for each tenant: all the same but for whose data it reaches.
pub(crate) struct Platforms {
    own: Arc<Platform>,
    others: RwLock<HashMap<TenantName, Arc<Platform>>>,
}

impl Platforms {
    /// A tenant's; none is whoever has this process for itself.
    pub(crate) fn of(&self, tenant: Option<&Arc<Tenant>>) -> Arc<Platform> {
        let Some(tenant) = tenant.filter(|tenant| *tenant != &self.own.data.tenant) else {
            return Arc::clone(&self.own);
        };
        let known = self.others.read().unwrap_or_else(PoisonError::into_inner).get(&tenant.name).cloned();
        if let Some(known) = known.filter(|known| known.data.tenant == *tenant) {
            return known;
        }
        let Platform { shared, components, data, suspects, memory, journal } = &*self.own;
        let Data { store, threads, settled, .. } = &**data;
        let store = store.of_tenant(Arc::clone(tenant));
        let (threads, settled) = (threads.clone(), Arc::clone(settled));
        let data = Arc::new(Data { store, threads, tenant: Arc::clone(tenant), settled });
        let (components, suspects) = (Arc::clone(components), Arc::clone(suspects));
        let (shared, memory, journal) = (*shared, Arc::clone(memory), Arc::clone(journal));
        let platform = Arc::new(Platform { shared, components, data, suspects, memory, journal });
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        if others.len() >= TENANTS_MAX {
            others.clear();
        }
        others.insert(tenant.name.clone(), Arc::clone(&platform));
        platform
    }
}

impl Runtime {
    /// Starts the threads; touches neither store nor backbone yet. The system bucket is that of whoever
    /// has the deployment for itself; that of another tenant comes with its calls and its record.
    pub fn start(
        config: RuntimeConfig,
        store: Store,
        system_bucket: String,
        backbone: Backbone,
    ) -> Result<Self, Error> {
        let workers = config.workers.max(1);
        let cache = |source| Error::Cache { path: config.cache_dir.clone(), source };
        let journal = Arc::new(Journal::open(&config.cache_dir).map_err(cache)?);
        let shared = Shared::get().map_err(|error| Error::Engine(format!("{error:#}")))?;
        let artifacts = Artifacts::open(&config.cache_dir, shared.compatibility).map_err(cache)?;
        let guests = Threads::start("guest", workers)?;
        let data = Threads::start("data", workers)?;
        // Connections of its own: they are driven by the data threads, which
        // no guest and no request of the gateway can hold up.
        let store = store.reconnected()?;
        let threads = data.handle();
        let tenant = Arc::new(Tenant::alone(TenantName::default(), system_bucket));
        let data_end = Arc::new(Data { store, threads, tenant, settled: Arc::default() });
        let components = Components::new(&shared.engine, artifacts, config.compiler.clone())
            .map_err(|error| Error::Engine(format!("{error:#}")))?;
        let suspects = Arc::new(Suspects::new(backbone.clone(), data.handle()));
        let components = Arc::new(components);
        let memory = Arc::new(Budget::new(config.memory_bytes.unwrap_or_else(memory::default_bytes)));
        let own = Arc::new(Platform { shared, components, data: data_end, suspects, memory, journal });
        let platforms = Arc::new(Platforms { own, others: RwLock::default() });
        let config = RuntimeConfig { workers, ..config };
        let reach = Arc::new(worker::Reach::new());
        let pace = Arc::new(Pace::new(pace::PROCESS_REST, Instant::now()));
        Ok(Self(Arc::new(Inner { platforms, backbone, config, guests, pace, reach, _data: data })))
    }

    /// Calls handlers, on guest threads unless they are brief. An outcome is given
    /// for whatever the guest does; dropping the future stops it. An error of the platform,
    /// other than `internal`, is given only where nothing has run. A call for which there is no
    /// room waits for it.
    pub fn invoker(&self) -> BoxCloneSyncService<Invocation, Outcome, Problem> {
        self.calling(Crowded::Waits)
    }

    /// The same for calls that another worker can take: one for which there is no room is
    /// refused at once, by the error `concurrency-limit`, and nothing of it has run.
    pub fn refusing_invoker(&self) -> BoxCloneSyncService<Invocation, Outcome, Problem> {
        self.calling(Crowded::Refused)
    }

    fn calling(&self, crowded: Crowded) -> BoxCloneSyncService<Invocation, Outcome, Problem> {
        let runtime = self.clone();
        BoxCloneSyncService::new(service_fn(move |invocation: Invocation| {
            let Inner { platforms, guests, pace, .. } = &*runtime.0;
            let (platform, guests) = (platforms.of(invocation.tenant.as_ref()), guests.handle());
            let pace = Arc::clone(pace);
            async move { invoke::call(platform, &guests, &pace, invocation, crowded).await }
        }))
    }

    /// Compiles components, checks them and asks what they are.
    pub fn preparer(&self) -> BoxCloneSyncService<Preparation, Descriptions, Problem> {
        let runtime = self.clone();
        BoxCloneSyncService::new(service_fn(move |preparation: Preparation| {
            let platform = runtime.0.platforms.of(preparation.tenant.as_ref());
            let describe = async move { invoke::describe(&platform, preparation.digest).await };
            let describe = AbortOnDropHandle::new(runtime.0.guests.handle().spawn(describe));
            async move { host::joined(describe.await)? }
        }))
    }

    /// Calls a handler on the thread that polls this, as the bench does; needs
    /// a tokio runtime with time.
    pub async fn invoke_inline(&self, invocation: Invocation) -> Outcome {
        let platform = self.0.platforms.of(invocation.tenant.as_ref());
        let called = invoke::invoke(&platform, invocation, Instant::now(), Crowded::Waits).await;
        called.unwrap_or_else(invoke::unbegun)
    }

    /// Tells the other workers what ran when an earlier process over this cache
    /// folder broke, and learns which components are quarantined. To be awaited
    /// before anything runs.
    ///
    /// # Errors
    /// The cache folder cannot be read, or the backbone does not answer.
    pub async fn look_back(&self) -> Result<(), Problem> {
        let Inner { platforms, config, .. } = &*self.0;
        let remains = Journal::remains(&config.cache_dir);
        let remains = remains.map_err(|source| Error::Cache { path: config.cache_dir.clone(), source });
        let remains = remains.map_err(|error| internal(error.to_string()))?;
        let told = platforms.own.suspects.look_back(&config.name, remains).await;
        told.map_err(|error| Problem::new(error.kind(), error.to_string()))
    }

    /// Works on jobs' tasks until `shutdown`, then gives back what has not begun, finishes what
    /// has begun, for at most `patience`, and gives back the rest. Ends early only when the backbone is
    /// closed.
    ///
    /// # Errors
    /// `shutting-down` when the backbone is closed.
    pub async fn run_tasks(&self, shutdown: CancellationToken, patience: Duration) -> Result<(), Problem> {
        worker::run(self.worker(), shutdown, patience).await
    }

    /// The components that were compiled here, as a member's record has them.
    pub fn cached(&self) -> Vec<u64> {
        self.0.platforms.own.components.cached()
    }

    /// Whether the store answers, as far as [`Runtime::run_tasks`] has seen.
    pub fn store_answers(&self) -> bool {
        self.0.reach.answers()
    }

    /// Names the engine that compiled components are for.
    pub fn engine(&self) -> String {
        hex::encode(&self.0.platforms.own.shared.compatibility[..8])
    }

    /// What sandboxes may take of the memory, and what they have.
    pub fn memory(&self) -> Memory {
        self.0.platforms.own.memory.memory()
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let own = &self.0.platforms.own;
        let (components_compiled, artifacts_refused) = own.components.counts();
        let components_quarantined = own.suspects.quarantined() as u64;
        Counters { components_compiled, artifacts_refused, components_quarantined }
    }

    fn worker(&self) -> worker::Worker {
        worker::Worker {
            name: self.0.config.name.clone(),
            running_max: self.0.config.workers,
            backbone: self.0.backbone.clone(),
            platforms: Arc::clone(&self.0.platforms),
            guests: self.0.guests.handle(),
            reach: Arc::clone(&self.0.reach),
        }
    }
}

/// How much guests and their data give way to the threads that answer people.
const NICE: i32 = 5;

/// Makes the thread that calls this run after others, where processors are scarce:
/// what is refused, cancelled or asked for is not to wait for guests.
fn give_way() {
    // On Linux a priority is a thread's own (setpriority(2), «C library/kernel differences»).
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "threads of guests do not give way to others");
    }
}

/// A pool of threads that may be dropped anywhere, also within another one.
struct Threads(Option<tokio::runtime::Runtime>, tokio::runtime::Handle);

impl Threads {
    fn start(what: &'static str, threads: usize) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(format!("fanfold-{what}"))
            .on_thread_start(give_way)
            .enable_all()
            .build()
            .map_err(|source| Error::Threads { what, source })?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }

    fn handle(&self) -> tokio::runtime::Handle {
        self.1.clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// What the platform itself failed at.
pub(crate) fn internal(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::Internal, detail)
}
