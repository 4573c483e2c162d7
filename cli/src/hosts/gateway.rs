// SPDX-License-Identifier: Apache-2.0
//! `fanfold gateway`: answers users, runs nothing itself.
//!
//! All that a gateway knows is in the store and the backbone. Where the backbone
//! has lost its data, the gateway begins anew with what the store has; its port
//! stays bound meanwhile, so that who connects waits.

use std::{future::Future, path::PathBuf, time::Duration};

use fanfold_backbone::Backbone;
use fanfold_gateway::{Dispatch, Gateway, GatewayConfig, Identity};
use fanfold_protocol::{ErrorKind, Problem, seldom::Seldom, time};
use fanfold_storage::Store;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{cannot_listen, config, mistakes, open::Ways, renewal::Renewal, tls, warn_of_taken};
use crate::{
    args::Hosts,
    dev::Stop,
    error::{Error, Result},
    output,
    patience::Patience,
};

/// Before what was lost is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// Runs it until it is told to stop.
pub async fn run(args: Hosts) -> Result<()> {
    let (config, mut mistakes) = mistakes::read::<config::Gateway>(&args.config)?;
    let (built, ways) = (
        config.build(&mut mistakes),
        Ways::of(&config.store, &config.nats, &config.system_bucket, &mut mistakes),
    );
    for warning in built.iter().flat_map(|config| config.warnings(time::now())) {
        tracing::warn!("{warning}");
    }
    let renewal = Renewal::start(tls::Files::read(&config.tls), tls::client);
    let others = tls::problems(renewal.as_ref().err(), &config.nats);
    if args.check {
        warn_of_taken(&[("listen", config.listen)], &mistakes);
    }
    ways.admit(&args.config, mistakes, &others).await?;
    if args.check {
        let buckets = built.iter().map(|config| config.tenant.system_bucket.clone());
        return ways.check(&args.config, buckets, others).await;
    }
    let mut stop = Stop::listen()?;
    let patience = Patience::of_start();
    let (store, backbone) = tokio::select! {
        () = stop.told() => return Ok(()),
        opened = ways.clone().open(&args.config, others, &patience) => opened?,
    };
    let Ok(renewal) = renewal else { return Ok(()) };
    let what = What { configs: built, identity: renewal.keep()?, ways, path: args.config };
    let mut begun = tokio::select! {
        () = stop.told() => return Ok(()),
        begun = what.begin(store, backbone, &patience) => begun?,
    };
    let mut listener = bind(&config).await?;
    while let Some(kept) = serve(begun, listener, &mut stop).await? {
        output::note("NATS has lost its data; the gateway begins anew with what the store has");
        begun = tokio::select! {
            () = stop.told() => return Ok(()),
            begun = what.begin_anew() => begun,
        };
        listener = kept;
    }
    Ok(())
}

/// What a gateway is made of, each time.
struct What {
    configs: Vec<GatewayConfig>,
    identity: watch::Receiver<Identity>,
    ways: Ways,
    path: PathBuf,
}

struct Begun {
    gateway: Gateway,
    backbone: Backbone,
    /// Ends the connections to workers.
    workers: DropGuard,
}

impl What {
    async fn begin(&self, store: Store, backbone: Backbone, patience: &Patience) -> Result<Begun> {
        let ending = CancellationToken::new();
        let dispatch = Dispatch::remote(&backbone, self.identity.clone(), ending.clone());
        let workers = ending.drop_guard();
        let begin =
            || Gateway::shared(self.configs.clone(), store.clone(), backbone.clone(), dispatch.clone());
        let gateway = insist(patience, begin).await?;
        Ok(Begun { gateway, backbone, workers })
    }

    /// However long it takes until all is there.
    async fn begin_anew(&self) -> Begun {
        let told = Seldom::new();
        loop {
            let begun = async {
                let patience = Patience::of_start();
                let (store, backbone) = self.ways.clone().open(&self.path, Vec::new(), &patience).await?;
                self.begin(store, backbone, &patience).await
            };
            match begun.await {
                Ok(begun) => return begun,
                Err(error) if told.is_due(&error.to_string()) => {
                    tracing::warn!(%error, "the gateway cannot begin anew; this is tried again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Begins, and again as long as the store or the backbone may be there soon.
async fn insist<T, F: Future<Output = std::result::Result<T, Problem>>>(
    patience: &Patience,
    begin: impl Fn() -> F,
) -> Result<T> {
    use ErrorKind::{BackboneUnavailable, StoreTimeout, StoreUnavailable};
    let may_pass =
        |problem: &Problem| matches!(problem.code, StoreUnavailable | StoreTimeout | BackboneUnavailable);
    let begun = patience.insist_on("what the gateway begins with", begin, may_pass).await;
    begun.map_err(|problem| Error::service(problem.detail))
}

/// Serves until it is told to stop; gives the listener back where the backbone's data is another.
async fn serve(
    begun: Begun,
    listener: std::net::TcpListener,
    stop: &mut Stop,
) -> Result<Option<std::net::TcpListener>> {
    let Begun { gateway, backbone, workers } = begun;
    let ours = listener.try_clone().and_then(TcpListener::from_std).map_err(broken)?;
    let (stopping, handed_on) = (CancellationToken::new(), CancellationToken::new());
    let mut serving = tokio::spawn(gateway.serve_or_hand_on(ours, stopping.clone(), handed_on.clone()));
    let mut kept = tokio::select! {
        // A port stays bound while anybody holds it: with this one gone, who connects is refused
        // as soon as the gateway has closed its own, and goes elsewhere while it drains.
        () = stop.told() => {
            drop(listener);
            stopping.cancel();
            None
        }
        () = backbone.lost() => {
            handed_on.cancel();
            Some(listener)
        }
    };
    let served = tokio::select! {
        served = &mut serving => served,
        // Nobody serves next: who waits, and who connects from now on, goes elsewhere.
        () = stop.told(), if kept.is_some() => {
            kept = None;
            serving.await
        }
    };
    drop(workers);
    backbone.close().await;
    served.map_err(broken)?;
    Ok(kept)
}

async fn bind(config: &config::Gateway) -> Result<std::net::TcpListener> {
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|cause| cannot_listen("listen", config.listen, &cause))?;
    let address = listener.local_addr().map_err(broken)?;
    output::note(format!("the gateway answers on http://{address}"));
    listener.into_std().map_err(broken)
}

fn broken(cause: impl std::fmt::Display) -> Error {
    Error::service(format!("the gateway broke: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::ready};

    use super::*;

    #[tokio::test]
    async fn what_may_be_there_soon_is_asked_for_again() {
        for (code, expected) in [
            (ErrorKind::StoreUnavailable, 2),
            (ErrorKind::StoreTimeout, 2),
            (ErrorKind::BackboneUnavailable, 2),
            (ErrorKind::StoreDenied, 1),
            (ErrorKind::StorageFull, 1),
            (ErrorKind::Internal, 1),
        ] {
            let (patience, asked) = (Patience::of_start(), Cell::new(0));
            let begin = || {
                asked.set(asked.get() + 1);
                if asked.get() == 2 {
                    patience.give_up();
                }
                ready(Err::<(), _>(Problem::new(code, "as the test says")))
            };
            let told = insist(&patience, begin).await.unwrap_err().to_string();
            assert_eq!((asked.get(), told.as_str()), (expected, "as the test says"), "{code}");
        }
    }
}
