// SPDX-License-Identifier: Apache-2.0
//! The parts of the service: started in the order in which they need each
//! other, stopped in the other.
//!
//! Invariant: the store and the backbone are the first to come and the last to
//! go, so that whatever still runs can write down what it did.

use std::{future::Future, net::SocketAddr};

use fanfold_backbone::{Backbone, EmbeddedConfig};
use fanfold_gateway::{AwsCredentials, Dispatch, Gateway, GatewayConfig, SourcesConfig};
use fanfold_protocol::{keys::SYSTEM_BUCKET_DEFAULT, limits::DRAIN_TIMEOUT};
use fanfold_runtime::{CompilerCommand, Runtime, RuntimeConfig};
use fanfold_storage::{
    Store, StoreConfig,
    server::{Server, ServerConfig},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{COMPILE_WORD, data::Data, listen::Listeners};
use crate::{
    arbiter::arbitrated,
    args::Dev,
    error::{Error, Result},
    patience::Patience,
};

/// Whom the gateway of a developer serves.
const TENANT: &str = "dev";

/// A running service.
pub struct Parts {
    store: Part,
    gateway: Part,
    tasks: Part,
    backbone: Backbone,
    runtime: Runtime,
}

/// A part that runs until it is told to stop.
struct Part {
    name: &'static str,
    stop: CancellationToken,
    running: JoinHandle<Result<()>>,
}

impl Part {
    fn start<F>(name: &'static str, run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(stop.clone()));
        Self { name, stop, running }
    }

    /// Waits for a part that should not end by itself.
    async fn ended(&mut self) -> Error {
        let name = self.name;
        match (&mut self.running).await {
            Ok(Ok(())) => Error::service(format!("the {name} ended by itself")),
            Ok(Err(error)) => error,
            Err(error) => Error::service(format!("the {name} broke: {error}")),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        if self.running.is_finished() {
            return;
        }
        if let Err(error) = self.running.await {
            tracing::error!(part = self.name, %error, "it broke while it was stopped");
        }
    }
}

impl Parts {
    /// Starts everything; when this comes back, requests are answered.
    pub async fn start(data: &Data, listeners: Listeners, args: &Dev) -> Result<Self> {
        let Listeners { gateway, store, store_address, .. } = listeners;
        let (server, backbone) = tokio::try_join!(open_store(data), open_backbone(data))?;
        let events = server.listen();
        let served = server.clone();
        let serving = Part::start("store", |stop| async move {
            served.serve(store, stop).await;
            Ok(())
        });
        let client = connect(data, server, store_address, args, &backbone).await?;
        let runtime = start_runtime(data, &client, &backbone, args)?;
        runtime.look_back().await.map_err(|problem| Error::service(problem.detail))?;
        let dispatch = Dispatch::local(runtime.invoker(), runtime.preparer());
        let built = Gateway::new(gateway_config(data)?, client, backbone.clone(), dispatch).await;
        let built = built.map_err(|problem| Error::service(problem.detail))?;
        if let Some(events) = events {
            built.follow(events);
        }
        let gateway = Part::start("gateway", |stop| async move {
            built.serve(gateway, stop).await;
            Ok(())
        });
        let worker = runtime.clone();
        let tasks = Part::start("worker", |stop| async move {
            let ended = worker.run_tasks(stop, DRAIN_TIMEOUT).await;
            ended.map_err(|problem| Error::service(problem.detail))
        });
        Ok(Self { store: serving, gateway, tasks, backbone, runtime })
    }

    /// Serves until `stop` comes back, then drains. An error when a part ended
    /// on its own.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        let ended = tokio::select! {
            () = stop => Ok(()),
            error = self.gateway.ended() => Err(error),
            error = self.tasks.ended() => Err(error),
            error = self.store.ended() => Err(error),
        };
        self.gateway.stop().await;
        self.tasks.stop().await;
        drop(self.runtime);
        self.backbone.close().await;
        self.store.stop().await;
        ended
    }
}

async fn open_store(data: &Data) -> Result<Server> {
    let config = ServerConfig { root: data.store(), credentials: data.credentials.clone() };
    let opened = tokio::task::spawn_blocking(move || Server::open(config)).await;
    let opened =
        opened.map_err(|error| Error::service(format!("the store broke while it was opened: {error}")))?;
    opened.map_err(|error| Error::service(error.to_string()))
}

async fn open_backbone(data: &Data) -> Result<Backbone> {
    let opened = Backbone::embedded(EmbeddedConfig::new(data.backbone())).await;
    opened.map_err(|error| Error::service(format!("{}: {error}", data.backbone().display())))
}

/// The store as this process reaches it: without a socket, unless it is to go by another endpoint.
async fn connect(
    data: &Data,
    server: Server,
    address: SocketAddr,
    args: &Dev,
    backbone: &Backbone,
) -> Result<Store> {
    let (bucket, patience) = (SYSTEM_BUCKET_DEFAULT, Patience::of_start());
    let endpoint = args.store_endpoint.clone();
    let server = endpoint.is_none().then_some(server);
    let endpoint = endpoint.unwrap_or_else(|| format!("http://{address}"));
    let config = StoreConfig { server, ..StoreConfig::at(endpoint, data.credentials.clone()) };
    let store = Store::connect(config)?;
    patience.insist(bucket, || store.ensure_bucket(bucket)).await?;
    match args.store_endpoint {
        Some(_) => arbitrated(&store, backbone, bucket, &patience).await,
        // Our own decides on conditional writes.
        None => Ok(store),
    }
}

fn start_runtime(data: &Data, store: &Store, backbone: &Backbone, args: &Dev) -> Result<Runtime> {
    let program = std::env::current_exe().map_err(|cause| {
        Error::service(format!("expected to know this program's own path, found: {cause}"))
    })?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = RuntimeConfig {
        name: format!("dev-{}", std::process::id()),
        workers: args.workers.unwrap_or(cores),
        memory_bytes: args.memory.map(|memory| memory.0),
        cache_dir: data.cache(),
        compiler: CompilerCommand { program, args: vec![COMPILE_WORD.into()] },
    };
    Runtime::start(config, store.clone(), SYSTEM_BUCKET_DEFAULT.to_owned(), backbone.clone())
        .map_err(|error| Error::service(error.to_string()))
}

fn gateway_config(data: &Data) -> Result<GatewayConfig> {
    let mut config = GatewayConfig::new(TENANT.parse()?, vec![data.token.digest()]);
    config.sources = sources();
    fanfold_gateway::tenants::check(std::slice::from_ref(&config))?;
    Ok(config)
}

/// Queues are read with the environment's credentials. Whoever can reach this
/// service is on this host already, so its triggers may reach it as well.
fn sources() -> SourcesConfig {
    let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let keys = read("AWS_ACCESS_KEY_ID").zip(read("AWS_SECRET_ACCESS_KEY"));
    let aws = keys.map(|(access_key, secret_key)| AwsCredentials {
        access_key,
        secret_key,
        session_token: read("AWS_SESSION_TOKEN"),
    });
    SourcesConfig { aws, private_endpoints: true }
}
