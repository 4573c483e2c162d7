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
mod host;
mod invoke;
mod link;
mod pace;
pub mod remote;
mod sandbox;
pub mod tables;
mod task;
mod worker;

use std::{io, path::PathBuf, sync::Arc, time::Instant};

use fanfold_backbone::Backbone;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    function::Descriptions,
    invocation::{Invocation, Outcome, Preparation},
};
use fanfold_storage::Store;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tower::{service_fn, util::BoxCloneSyncService};

pub use crate::compile::{CompilerCommand, compile_child};
use crate::{
    artifacts::Artifacts,
    components::{Components, Loaded},
    engine::Shared,
    host::Data,
    pace::Pace,
};

/// How a runtime is set up.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The worker's name, for people; it stands in commits.
    pub name: String,
    /// Threads that run guests, and leases worked on at once; at least 1.
    pub workers: usize,
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

/// What a runtime has done so far, for metrics. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Components compiled.
    pub components_compiled: u64,
    /// Compiled artifacts refused because they were altered or foreign.
    pub artifacts_refused: u64,
}

/// A handle of the runtime. Cheap to clone; the last one to go stops it.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    platform: Arc<Platform>,
    backbone: Backbone,
    config: RuntimeConfig,
    guests: Threads,
    _data: Threads,
}

/// What every sandbox of the process is made from.
pub(crate) struct Platform {
    pub(crate) shared: &'static Shared,
    pub(crate) components: Arc<Components>,
    pub(crate) data: Arc<Data>,
    /// Of all components together.
    pub(crate) pace: Pace,
}

impl Platform {
    pub(crate) async fn component(&self, digest: Digest) -> Result<Arc<Loaded>, Problem> {
        match self.components.ready(&digest) {
            Some(loaded) => Ok(loaded),
            None => self.components.get(digest).await,
        }
    }
}

impl Runtime {
    /// Starts the threads; touches neither store nor backbone yet.
    pub fn start(
        config: RuntimeConfig,
        store: Store,
        system_bucket: String,
        backbone: Backbone,
    ) -> Result<Self, Error> {
        let workers = config.workers.max(1);
        let shared = Shared::get().map_err(|error| Error::Engine(format!("{error:#}")))?;
        let cache = |source| Error::Cache { path: config.cache_dir.clone(), source };
        let artifacts = Artifacts::open(&config.cache_dir, shared.compatibility).map_err(cache)?;
        let guests = Threads::start("guest", workers)?;
        let data = Threads::start("data", workers)?;
        // Connections of its own: they are driven by the data threads, which
        // no guest and no request of the gateway can hold up.
        let store = store.reconnected()?;
        let threads = data.handle();
        let data_end = Arc::new(Data { store, threads, system_bucket, settled: Arc::default() });
        let components =
            Components::new(&shared.engine, artifacts, config.compiler.clone(), Arc::clone(&data_end))
                .map_err(|error| Error::Engine(format!("{error:#}")))?;
        let pace = Pace::new(pace::PROCESS_REST, Instant::now());
        let platform = Arc::new(Platform { shared, components: Arc::new(components), data: data_end, pace });
        let config = RuntimeConfig { workers, ..config };
        Ok(Self(Arc::new(Inner { platform, backbone, config, guests, _data: data })))
    }

    /// Calls handlers, on guest threads unless they are brief. An outcome is given
    /// for whatever the guest does; dropping the future stops it.
    pub fn invoker(&self) -> BoxCloneSyncService<Invocation, Outcome, Problem> {
        let runtime = self.clone();
        BoxCloneSyncService::new(service_fn(move |invocation: Invocation| {
            let Inner { platform, guests, .. } = &*runtime.0;
            let (platform, guests) = (Arc::clone(platform), guests.handle());
            async move { invoke::call(platform, &guests, invocation).await }
        }))
    }

    /// Compiles components, checks them and asks what they are.
    pub fn preparer(&self) -> BoxCloneSyncService<Preparation, Descriptions, Problem> {
        let runtime = self.clone();
        BoxCloneSyncService::new(service_fn(move |preparation: Preparation| {
            let platform = Arc::clone(&runtime.0.platform);
            let describe = async move { invoke::describe(&platform, preparation.digest).await };
            let describe = AbortOnDropHandle::new(runtime.0.guests.handle().spawn(describe));
            async move { host::joined(describe.await)? }
        }))
    }

    /// Calls a handler on the thread that polls this, as the bench does; needs
    /// a tokio runtime with time.
    pub async fn invoke_inline(&self, invocation: Invocation) -> Outcome {
        invoke::invoke(&self.0.platform, invocation).await
    }

    /// Works on jobs' tasks until `shutdown`, then finishes or gives back what
    /// it has. Ends early only when the backbone is closed.
    pub async fn run_tasks(&self, shutdown: CancellationToken) -> Result<(), Problem> {
        worker::run(self.worker(), shutdown).await
    }

    /// Names the engine that compiled components are for.
    pub fn engine(&self) -> String {
        hex::encode(&self.0.platform.shared.compatibility[..8])
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let (components_compiled, artifacts_refused) = self.0.platform.components.counts();
        Counters { components_compiled, artifacts_refused }
    }

    fn worker(&self) -> worker::Worker {
        worker::Worker {
            name: self.0.config.name.clone(),
            running_max: self.0.config.workers,
            backbone: self.0.backbone.clone(),
            platform: Arc::clone(&self.0.platform),
            guests: self.0.guests.handle(),
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
