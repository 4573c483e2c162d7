// SPDX-License-Identifier: Apache-2.0
//! Components ready to run: fetched, compiled, checked and linked once each.
//!
//! Whoever needs a component by its digest comes here; the first one makes it
//! (store, compiler, artifact cache), the others wait for the same flight. Its
//! bytes are fetched once it is its turn to be compiled, so that as many are held
//! as compilers run, however long the line before them is.
//! Invariant: a sandbox starts from a pre-linked component, never from a
//! linker, and a component's bytes have the digest that was asked for.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use fanfold_protocol::{
    ErrorKind, Problem, digest::Digest, keys, limits, size::ByteSize, uri::ObjectUri, worker::CACHED_MAX,
};
use futures::{FutureExt as _, future::BoxFuture};
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use crate::{
    artifacts::{Artifact, Artifacts},
    bindings::{
        aggregator::AggregateFunctionPre, grouper::GroupFunctionPre, handler::HandlerFunctionPre,
        mapper::MapFunctionPre,
    },
    compile::{self, CompilerCommand, Turn, Urgency, Wanted},
    flights::{Flights, Route},
    host::{Data, Host, store_problem},
    link,
    memory::Demands,
    pace::{COMPONENT_REST, Pace},
};

/// Components kept ready, and bytes of their machine code, which each holds in memory.
const READY_MAX: usize = 128;
const READY_BYTES_MAX: usize = 512 << 20;

/// A component that can be instantiated at once, by what it exports.
pub(crate) struct Loaded {
    pub(crate) handler: Option<HandlerFunctionPre<Host>>,
    pub(crate) mapper: Option<MapFunctionPre<Host>>,
    pub(crate) aggregator: Option<AggregateFunctionPre<Host>>,
    pub(crate) grouper: Option<GroupFunctionPre<Host>>,
    /// Of its machine code.
    bytes: usize,
    /// Of its handler's calls.
    pub(crate) pace: Pace,
    /// What its sandboxes are expected to take.
    pub(crate) demands: Demands,
}

struct Ready {
    loaded: Arc<Loaded>,
    used: AtomicU64,
}

/// The components of this process.
pub(crate) struct Components {
    engine: Engine,
    linker: Linker<Host>,
    artifacts: Artifacts,
    compiler: CompilerCommand,
    ready: RwLock<HashMap<Digest, Ready>>,
    flights: Flights<Arc<Loaded>>,
    uses: AtomicU64,
    compiled: AtomicU64,
}

impl Components {
    pub(crate) fn new(
        engine: &Engine,
        artifacts: Artifacts,
        compiler: CompilerCommand,
    ) -> wasmtime::Result<Self> {
        Ok(Self {
            engine: engine.clone(),
            linker: link::linker(engine)?,
            artifacts,
            compiler,
            ready: RwLock::default(),
            flights: Flights::new(),
            uses: AtomicU64::new(0),
            compiled: AtomicU64::new(0),
        })
    }

    /// How many components were compiled, and how many artifacts were refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.compiled.load(Relaxed), self.artifacts.refused())
    }

    /// Whether a component was compiled here.
    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.ready(digest).is_some() || self.artifacts.holds(digest)
    }

    /// The components that were compiled last, by the prefixes of their digests, in
    /// order.
    pub(crate) fn cached(&self) -> Vec<u64> {
        let mut cached: Vec<u64> =
            self.artifacts.newest(CACHED_MAX).into_iter().map(Digest::prefix).collect();
        cached.sort_unstable();
        cached
    }

    /// The component, at once if it is ready.
    pub(crate) fn ready(&self, digest: &Digest) -> Option<Arc<Loaded>> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        let entry = ready.get(digest)?;
        entry.used.store(self.uses.fetch_add(1, Relaxed), Relaxed);
        Some(Arc::clone(&entry.loaded))
    }

    /// The component, made ready if need be. Work that has begun goes on for
    /// the others when one of those who wait goes away, and what still stands in line
    /// before the compilers is given up with the last of them.
    pub(crate) async fn get(
        self: &Arc<Self>,
        digest: Digest,
        data: &Arc<Data>,
        urgency: Urgency,
    ) -> Result<Arc<Loaded>, Problem> {
        if let Some(loaded) = self.ready(&digest) {
            return Ok(loaded);
        }
        let route = (digest, data.tenant.system_bucket.clone());
        let take_off = |wanted| self.take_off(route.clone(), Arc::clone(data), wanted);
        let (landing, _seat) = self.flights.join(route.clone(), urgency, take_off);
        landing.await
    }

    fn take_off(
        self: &Arc<Self>,
        route: Route,
        data: Arc<Data>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Arc<Loaded>, Problem>> {
        let components = Arc::clone(self);
        let task = data.threads.clone().spawn(async move {
            let _under_way = components.flights.under_way(&route, &wanted);
            let loaded = components.make(&route, &data, &wanted).await?;
            components.keep(route.0, Arc::clone(&loaded));
            Ok::<_, Problem>(loaded)
        });
        async move { crate::host::joined(task.await)? }.boxed()
    }

    fn keep(&self, digest: Digest, loaded: Arc<Loaded>) {
        let used = AtomicU64::new(self.uses.fetch_add(1, Relaxed));
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        ready.insert(digest, Ready { loaded, used });
        let mut bytes: usize = ready.values().map(|entry| entry.loaded.bytes).sum();
        while ready.len() > READY_MAX || (bytes > READY_BYTES_MAX && ready.len() > 1) {
            let oldest =
                ready.iter().min_by_key(|(_, entry)| entry.used.load(Relaxed)).map(|(digest, _)| *digest);
            let Some(gone) = oldest.and_then(|oldest| ready.remove(&oldest)) else { break };
            bytes -= gone.loaded.bytes;
        }
    }

    async fn make(
        self: &Arc<Self>,
        route: &Route,
        data: &Data,
        wanted: &Wanted,
    ) -> Result<Arc<Loaded>, Problem> {
        let (this, digest) = (Arc::clone(self), route.0);
        let cached = blocking(move || {
            let artifact = this.artifacts.read(&digest)?;
            // Refused by wasmtime all the same: compiled again.
            this.link(&artifact)
                .inspect_err(|problem| tracing::warn!(%problem, "an artifact does not load"))
                .ok()
        });
        if let Some(loaded) = cached.await? {
            return Ok(loaded);
        }
        let turn = self.turn(route, wanted).await?;
        let component = fetch(data, &digest).await?;
        let compiled = compile::compile(&self.compiler, component, wanted, turn).await?;
        let artifact = Artifact::from_compiler(compiled);
        self.compiled.fetch_add(1, Relaxed);
        let this = Arc::clone(self);
        blocking(move || {
            let loaded = this.link(&artifact)?;
            if let Err(error) = this.artifacts.write(&digest, &artifact) {
                tracing::warn!(%error, %digest, "a compiled component cannot be kept; it will be compiled again");
            }
            Ok(loaded)
        })
        .await?
    }

    /// A turn to compile, unless all who wanted the component have gone: then its flight has ended.
    async fn turn(&self, route: &Route, wanted: &Wanted) -> Result<Turn, Problem> {
        let mut turn = pin!(compile::turn(&route.1, wanted));
        loop {
            tokio::select! {
                turn = &mut turn => return turn,
                () = wanted.left() => {
                    if self.flights.give_up(route, wanted) {
                        let rule = "expected somebody to wait for the component, found that all have gone";
                        return Err(Problem::new(ErrorKind::Internal, rule));
                    }
                }
            }
        }
    }

    fn link(&self, artifact: &Artifact) -> Result<Arc<Loaded>, Problem> {
        let component = artifact.load(&self.engine).map_err(|error| too_demanding(&error))?;
        link::check_imports(&self.engine, &component)?;
        self.pre(&component, artifact.bytes()).map(Arc::new)
    }

    fn pre(&self, component: &Component, bytes: usize) -> Result<Loaded, Problem> {
        let pre = self.linker.instantiate_pre(component).map_err(|error| link::import_problem(&error))?;
        let [handler, mapper, aggregator, grouper] =
            link::EXPORTS.map(|name| component.get_export_index(None, name).is_some());
        if !(handler || mapper || aggregator || grouper) {
            return Err(link::no_export(&self.engine, component));
        }
        link::check_exports(&pre)?;
        let wrong = |error: wasmtime::Error| link::export_problem(&error);
        Ok(Loaded {
            bytes,
            handler: handler.then(|| HandlerFunctionPre::new(pre.clone())).transpose().map_err(wrong)?,
            mapper: mapper.then(|| MapFunctionPre::new(pre.clone())).transpose().map_err(wrong)?,
            aggregator: aggregator
                .then(|| AggregateFunctionPre::new(pre.clone()))
                .transpose()
                .map_err(wrong)?,
            grouper: grouper.then(|| GroupFunctionPre::new(pre)).transpose().map_err(wrong)?,
            pace: Pace::new(COMPONENT_REST, Instant::now()),
            demands: Demands::default(),
        })
    }
}

/// The component as it lies in the store.
async fn fetch(data: &Data, digest: &Digest) -> Result<bytes::Bytes, Problem> {
    let uri = ObjectUri::new(&data.tenant.system_bucket, keys::component(digest))?;
    let bytes = data.store.get(&uri, None).await.map_err(|error| match error {
        fanfold_storage::Error::TooLarge { bytes, .. } => too_large(bytes),
        error => store_problem(&error).within(format_args!("fetching the component {digest}")),
    })?;
    if bytes.len() as u64 > limits::COMPONENT_BYTES_MAX {
        return Err(too_large(bytes.len() as u64));
    }
    let (found, bytes) = blocking(move || (Digest::of(&bytes), bytes)).await?;
    if found == *digest {
        return Ok(bytes);
    }
    Err(Problem::new(
        ErrorKind::Internal,
        format!(
            "expected the component {digest} in the store, found bytes with the digest {found}; deploy it again"
        ),
    ))
}

fn too_large(bytes: u64) -> Problem {
    let bytes_max = ByteSize(limits::COMPONENT_BYTES_MAX);
    Problem::new(
        ErrorKind::ComponentTooLarge,
        format!("a component must be at most {bytes_max}, found {bytes} bytes; strip it"),
    )
}

/// It compiled, but asks for more than a sandbox has: instances, memories,
/// tables or their sizes.
fn too_demanding(error: &wasmtime::Error) -> Problem {
    Problem::new(
        ErrorKind::ComponentTooLarge,
        format!(
            "a component must do with {} core instances, {} memories and {} tables, found: {error:#}; \
             build it from fewer modules",
            limits::CORE_INSTANCES_MAX,
            limits::MEMORIES_MAX,
            limits::TABLES_MAX
        ),
    )
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    crate::host::joined(tokio::task::spawn_blocking(work).await)
}
