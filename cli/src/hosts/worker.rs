// SPDX-License-Identifier: Apache-2.0
//! `fanfold worker`: runs functions, for gateways and for jobs.
//!
//! Told to stop, it says so to the gateways first, takes nothing more, ends or
//! gives back what it has, and goes.

use fanfold_backbone::Backbone;
use fanfold_protocol::{
    limits,
    names::WorkerName,
    size::Span,
    worker::{Member, WIRE_VERSION, WIRE_VERSION_MIN},
};
use fanfold_runtime::{
    CompilerCommand, Runtime, RuntimeConfig,
    remote::{Calls, Membership, join, serve},
};
use fanfold_storage::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{config, mistakes, open::Ways, probes, renewal::Renewal, tls};
use crate::{
    args::Hosts,
    dev::{COMPILE_WORD, Stop},
    error::{Error, Result},
    output,
    patience::Patience,
};

/// Runs it until it is told to stop.
pub async fn run(args: Hosts) -> Result<()> {
    let (mut config, mut mistakes) = mistakes::read::<config::Worker>(&args.config)?;
    let name = config.name(&mut mistakes);
    config.name_user(name.as_ref());
    let address = config.address(name.as_ref(), &mut mistakes);
    config.check(&mut mistakes);
    let ways = Ways::of(&config.store, &config.nats, &config.system_bucket, &mut mistakes);
    let reached_at = address.clone();
    let renewal = Renewal::start(tls::Files::read(&config.tls), move |files| tls::server(files, &reached_at));
    let others = tls::problems(renewal.as_ref().err(), &config.nats);
    ways.admit(&args.config, mistakes, &others).await?;
    if args.check {
        return ways.check(&args.config, [], others).await;
    }
    let mut stop = Stop::listen()?;
    let patience = Patience::of_start();
    let (store, backbone) = tokio::select! {
        () = stop.told() => return Ok(()),
        opened = ways.open(&args.config, others, &patience) => opened?,
    };
    let (Ok(renewal), Some(name)) = (renewal, name) else { return Ok(()) };
    let identity = renewal.keep()?;
    let runtime = tokio::select! {
        () = stop.told() => return Ok(()),
        started = runtime(&config, &name, store, &backbone) => started?,
    };
    let listener = bind("listen", config.listen).await?;
    let probes = bind("probe_listen", config.probe_listen).await?;
    let bound = listener.local_addr().map_err(|cause| Error::service(cause.to_string()))?;
    // A port that was left to the system is known only now.
    let address =
        if config.listen.port() == 0 && config.advertise.is_none() { bound.to_string() } else { address };
    let membership = enter(&backbone, member(&config, name.clone(), address, &runtime)).await?;
    let (draining, gone) = (CancellationToken::new(), CancellationToken::new());
    let (invoke, prepare) = (runtime.refusing_invoker(), runtime.preparer());
    let calls = Calls { invoke, prepare, slots: config.slots as usize };
    let keeping = {
        let (runtime, draining, gone) = (runtime.clone(), draining.clone(), gone.clone());
        let state = move |member: &mut Member| {
            (member.cached, member.store_answers) = (runtime.cached(), runtime.store_answers());
        };
        tokio::spawn(membership.keep(state, draining, gone))
    };
    let patience = config.drain.map_or(limits::DRAIN_TIMEOUT, Span::as_duration);
    let serving = tokio::spawn(serve(listener, identity.clone(), calls, draining.clone(), patience));
    let probing = {
        let (runtime, draining, gone) = (runtime.clone(), draining.clone(), gone.clone());
        tokio::spawn(probes::serve(probes, runtime, backbone.clone(), identity, draining, gone))
    };
    let (tasks, drained) = (runtime.clone(), draining.clone());
    let mut working = tokio::spawn(async move { tasks.run_tasks(drained, patience).await });
    output::note(format!("the worker {name} takes calls on {bound} and tasks from the queue"));
    let ended = tokio::select! {
        () = stop.told() => None,
        ended = &mut working => Some(ended),
    };
    draining.cancel();
    let _ = serving.await;
    let ended = match ended {
        Some(ended) => ended,
        None => working.await,
    };
    gone.cancel();
    let _ = tokio::join!(keeping, probing);
    drop(runtime);
    backbone.close().await;
    ended
        .map_err(|error| Error::service(format!("the worker broke: {error}")))?
        .map_err(|problem| Error::service(problem.detail))
}

/// The sandboxes, once they know what those before them left.
async fn runtime(
    config: &config::Worker,
    name: &WorkerName,
    store: Store,
    backbone: &Backbone,
) -> Result<Runtime> {
    let program = std::env::current_exe().map_err(|cause| {
        Error::service(format!("expected to know this program's own path, found: {cause}"))
    })?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = RuntimeConfig {
        name: name.to_string(),
        workers: config.threads.unwrap_or(cores),
        memory_bytes: config.memory.map(|memory| memory.0),
        cache_dir: config.cache.clone(),
        compiler: CompilerCommand { program, args: vec![COMPILE_WORD.into()] },
    };
    let runtime = Runtime::start(runtime, store, config.system_bucket.clone(), backbone.clone())
        .map_err(|error| Error::service(error.to_string()))?;
    runtime.look_back().await.map_err(|problem| Error::service(problem.detail))?;
    Ok(runtime)
}

async fn enter(backbone: &Backbone, member: Member) -> Result<Membership> {
    let joined = join(backbone, member).await;
    if joined.is_err() {
        // What was told to others goes out before this process ends.
        backbone.close().await;
    }
    joined.map_err(|problem| Error::service(problem.detail))
}

fn member(config: &config::Worker, name: WorkerName, address: String, runtime: &Runtime) -> Member {
    Member {
        name,
        instance: Uuid::new_v4(),
        address,
        wire: WIRE_VERSION,
        wire_min: WIRE_VERSION_MIN,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: runtime.engine(),
        slots: config.slots,
        memory_bytes: runtime.memory().budget_bytes,
        zone: config.zone.clone(),
        draining: false,
        store_answers: true,
        cached: Vec::new(),
    }
}

async fn bind(key: &str, address: std::net::SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|cause| Error::service(format!("{key}: expected to listen on {address}, found: {cause}")))
}
