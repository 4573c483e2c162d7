// SPDX-License-Identifier: Apache-2.0
//! `fanfold worker`: runs functions, for gateways and for jobs.
//!
//! Told to stop, it says so to the gateways first, takes nothing more, ends or
//! gives back what it has, and goes.

use std::{net::SocketAddr, path::Path};

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
use rustix::fs::{Access, access};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{cannot_listen, config, mistakes, open::Ways, probes, renewal::Renewal, tls, warn_of_taken};
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
    check(&config, &mut mistakes, args.check);
    let ways = Ways::of(&config.store, &config.nats, &config.system_bucket, &mut mistakes);
    let reached_at = address.clone();
    let renewal = Renewal::start(tls::Files::read(&config.tls), move |files| tls::server(files, &reached_at));
    let mut others = tls::problems(renewal.as_ref().err(), &config.nats);
    others.extend(unusable(&config.cache));
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

fn check(config: &config::Worker, mistakes: &mut mistakes::Mistakes, starts_nothing: bool) {
    config.check(mistakes);
    if meet(config.listen, config.probe_listen) {
        let found = format!("expected another address than that of listen, found {}", config.probe_listen);
        mistakes.note("probe_listen", found);
    }
    if starts_nothing {
        warn_of_taken(&[("listen", config.listen), ("probe_listen", config.probe_listen)], mistakes);
    }
}

/// Whether only one can listen, by these addresses.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let (host, others) = (one.ip(), other.ip());
    let is_any = host.is_unspecified() || others.is_unspecified();
    let shares = host == others || is_any && host.is_ipv4() == others.is_ipv4();
    // A port that is left to the system is free.
    shares && one.port() == other.port() && one.port() != 0
}

/// What is wrong with a folder for the cache, or with where it is to be made.
fn unusable(cache: &Path) -> Option<String> {
    let there = cache.ancestors().find(|folder| folder.symlink_metadata().is_ok());
    let folder = there.unwrap_or(Path::new("."));
    let checked = match folder.metadata() {
        Ok(found) if !found.is_dir() => Err(std::io::ErrorKind::NotADirectory.into()),
        Ok(_) => access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(std::io::Error::from),
        Err(cause) => Err(cause),
    };
    let cause = checked.err()?;
    Some(format!(
        "cache: expected to make files in {}, found of {}: {cause}; choose another folder, or give it to this user",
        cache.display(),
        folder.display()
    ))
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

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|cause| cannot_listen(key, address, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_meet_are_told() {
        let check = |one: &str, other: &str, expected: bool| {
            let [one, other] = [one, other].map(|address| address.parse().unwrap());
            assert_eq!((meet(one, other), meet(other, one)), (expected, expected), "{one} {other}");
        };
        check("127.0.0.1:7080", "127.0.0.1:7080", true);
        check("0.0.0.0:7080", "127.0.0.1:7080", true);
        check("[::]:7080", "[::1]:7080", true);
        check("127.0.0.1:7080", "127.0.0.1:7081", false);
        check("127.0.0.1:7080", "127.0.0.2:7080", false);
        check("0.0.0.0:7080", "[::1]:7080", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
    }

    #[test]
    fn a_cache_that_cannot_be_made_is_told_and_none_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("one/two");
        for sound in [folder.path(), within.as_path(), Path::new("cache-of-a-test")] {
            assert_eq!(unusable(sound), None);
        }
        assert!(!folder.path().join("one").exists());
        std::fs::write(folder.path().join("one"), "").unwrap();
        let told = unusable(&within).unwrap();
        assert!(told.starts_with("cache: expected to make files in ") && told.contains("one: "), "{told}");
    }
}
