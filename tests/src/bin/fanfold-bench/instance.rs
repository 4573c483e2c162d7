// SPDX-License-Identifier: Apache-2.0
//! `hello` instantiated and called in this process: through the runtime, as the
//! gateway does it, and in a bare wasmtime loop over the same component with the
//! same imports behind which there is nothing. In turns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fanfold_backbone::{Backbone, embedded::EmbeddedConfig};
use fanfold_protocol::{
    digest::Digest,
    function::{Export, Settings, Version},
    invocation::{Invocation, Request},
    keys, time,
};
use fanfold_runtime::{CompilerCommand, Runtime, RuntimeConfig};
use fanfold_tests::service::{Service, component, program};
use uuid::Uuid;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{
        Component, ComponentType, InstancePre, Lift, Linker, Lower, ResourceTable, types::ComponentItem,
    },
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::{Goal, Measurement};

const ROUNDS: usize = 9;
const CALLS: u32 = 2_000;
/// What the gateway hands on of the request that the HTTP part sends.
const HEADERS: [(&str, &str); 3] =
    [("host", "127.0.0.1:8080"), ("content-type", "application/json"), ("content-length", "7")];

/// Measures both loops.
pub fn measure() -> Result<Vec<Measurement>> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bytes = std::fs::read(component("hello")?)?;
    let folder = tempfile::tempdir()?;
    // The store and its server; the runtime beside it is this process's own.
    let service = Service::start(folder.path())?;
    let ours = threads.block_on(Ours::start(&service, folder.path(), &bytes))?;
    let bare = Bare::new(&bytes)?;
    let (mut call, mut cpu, mut loops, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    threads.block_on(ours.run(CALLS))?;
    bare.run(CALLS)?;
    for _ in 0..ROUNDS {
        let before = own_cpu_us();
        let through = threads.block_on(ours.run(CALLS))?;
        cpu.push((own_cpu_us() - before) / f64::from(CALLS));
        let alone = bare.run(CALLS)?;
        call.push(through);
        loops.push(alone);
        ratio.push(through / alone);
    }
    Ok(vec![
        Measurement::of("instance_call", "us", call).goal(Goal::AtMost(100.0)),
        Measurement::of("instance_call_cpu", "us", cpu),
        Measurement::of("instance_call_bare", "us", loops),
        Measurement::of("instance_call_over_bare", "ratio", ratio).goal(Goal::AtMost(1.3)),
    ])
}

/// What this process has cost so far.
fn own_cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

struct Ours {
    runtime: Runtime,
    version: Arc<Version>,
}

impl Ours {
    async fn start(service: &Service, folder: &std::path::Path, bytes: &[u8]) -> Result<Self> {
        let store = service.store()?;
        let digest = Digest::of(bytes);
        let uri = format!("s3://{}/{}", keys::SYSTEM_BUCKET_DEFAULT, keys::component(&digest)).parse()?;
        store.put(&uri, Bytes::copy_from_slice(bytes), Default::default()).await?;
        let backbone = Backbone::embedded(EmbeddedConfig::new(folder.join("bench.redb"))).await?;
        let config = RuntimeConfig {
            name: "bench".to_owned(),
            workers: 1,
            memory_bytes: None,
            cache_dir: folder.join("bench-cache"),
            compiler: CompilerCommand { program: program(), args: vec!["__compile".into()] },
        };
        let runtime = Runtime::start(config, store, keys::SYSTEM_BUCKET_DEFAULT.to_owned(), backbone)?;
        let version = Version {
            name: "hello".parse()?,
            version: 1,
            digest,
            size_bytes: bytes.len() as u64,
            exports: vec![Export::Handler],
            settings: Settings::default(),
            describes: Default::default(),
            created_at: time::now(),
        };
        Ok(Self { runtime, version: Arc::new(version) })
    }

    /// Calls it so often, one after the other; microseconds a call.
    async fn run(&self, calls: u32) -> Result<f64> {
        let runtime = self.runtime.clone();
        let version = Arc::clone(&self.version);
        let task = tokio::spawn(async move {
            let start = Instant::now();
            for _ in 0..calls {
                let request = Request {
                    method: "POST".to_owned(),
                    headers: HEADERS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                    body: Bytes::from_static(b"\"world\""),
                    ..Request::default()
                };
                let invocation = Invocation {
                    id: Uuid::now_v7(),
                    attempt: 1,
                    depth: 0,
                    version: Arc::clone(&version),
                    timeout: Duration::from_secs(30),
                    params: "{}".to_owned(),
                    board: None,
                    request,
                    tenant: None,
                };
                let response = runtime.invoke_inline(invocation).await.result?;
                ensure!(
                    response.body == "\"hello, world\"",
                    "expected a greeting, found {:?}",
                    response.body
                );
            }
            Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
        });
        task.await.context("the calls' task")?
    }
}

struct State {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Ask<'a> {
    method: &'a str,
    query: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: &'a [u8],
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Answer {
    #[allow(dead_code, reason = "part of the record")]
    status: u16,
    #[allow(dead_code, reason = "part of the record")]
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
struct Refusal {
    #[allow(dead_code, reason = "part of the record")]
    code: String,
    #[allow(dead_code, reason = "part of the record")]
    message: String,
    #[allow(dead_code, reason = "part of the record")]
    retryable: bool,
}

/// Puts traps behind the contract's imports, which `hello` has and never calls.
fn trap_own_imports(
    linker: &mut Linker<State>,
    engine: &Engine,
    component: &Component,
) -> wasmtime::Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
        if !name.starts_with("fanfold:") {
            continue;
        }
        let mut instance = linker.instance(name)?;
        for (function, item) in interface.exports(engine) {
            if matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                instance
                    .func_new(function, |_, _, _, _| wasmtime::bail!("called though hello has no need"))?;
            }
        }
    }
    Ok(())
}

/// The engine's errors are none of the standard library's.
fn engine(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// wasmtime and nothing else.
struct Bare {
    engine: Engine,
    pre: InstancePre<State>,
    handle: wasmtime::component::ComponentExportIndex,
}

impl Bare {
    fn new(bytes: &[u8]) -> Result<Self> {
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::default()));
        let made = Engine::new(&config).map_err(engine)?;
        let component = Component::new(&made, bytes).map_err(engine)?;
        let mut linker: Linker<State> = Linker::new(&made);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker).map_err(engine)?;
        trap_own_imports(&mut linker, &made, &component).map_err(engine)?;
        let pre = linker.instantiate_pre(&component).map_err(engine)?;
        let (_, interface) = component
            .get_export(None, "fanfold:function/handler@0.1.0")
            .context("expected the component to export a handler")?;
        let (_, handle) = component.get_export(Some(&interface), "handle").context("expected handle")?;
        Ok(Self { engine: made, pre, handle })
    }

    fn run(&self, calls: u32) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..calls {
            let state = State { wasi: WasiCtx::builder().build(), table: ResourceTable::new() };
            let mut store = Store::new(&self.engine, state);
            let instance = self.pre.instantiate(&mut store).map_err(engine)?;
            let handle = instance
                .get_typed_func::<(Ask<'_>,), (Result<Answer, Refusal>,)>(&mut store, &self.handle)
                .map_err(engine)?;
            let ask = Ask { method: "POST", query: "", headers: &HEADERS, body: b"\"world\"" };
            let (answer,) = handle.call(&mut store, (ask,)).map_err(engine)?;
            let answer = answer.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
            ensure!(answer.body == b"\"hello, world\"", "expected a greeting, found {:?}", answer.body);
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
    }
}
