// SPDX-License-Identifier: Apache-2.0
//! `fanfold gateway`: answers users, runs nothing itself.

use fanfold_gateway::{Dispatch, Gateway};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    config::{self, Mistakes},
    open::Ways,
    tls,
};
use crate::{
    args::Hosts,
    dev::Stop,
    error::{Error, Result},
    output,
};

/// Runs it until it is told to stop.
pub async fn run(args: Hosts) -> Result<()> {
    let config: config::Gateway = config::read(&args.config)?;
    let mut mistakes = Mistakes::default();
    let (built, ways) = (
        config.build(&mut mistakes),
        Ways::of(&config.store, &config.nats, &config.system_bucket, &mut mistakes),
    );
    mistakes.end(&args.config)?;
    let tls = tls::client(&config.tls);
    let others = tls.as_ref().err().cloned().unwrap_or_default();
    let (store, backbone) = ways.open(&args.config, others).await?;
    let Ok(tls) = tls else { return Ok(()) };
    if args.check {
        backbone.close().await;
        output::note("the configuration is sound, and what it names is there");
        return Ok(());
    }
    let mut stop = Stop::listen()?;
    let (stopping, workers) = (CancellationToken::new(), CancellationToken::new());
    let dispatch = Dispatch::remote(&backbone, tls, workers.clone());
    let gateway = Gateway::shared(built, store, backbone.clone(), dispatch).await?;
    let listener = TcpListener::bind(config.listen).await.map_err(|cause| {
        Error::service(format!("listen: expected to listen on {}, found: {cause}", config.listen))
    })?;
    let address = listener.local_addr().map_err(|cause| Error::failed(cause.to_string()))?;
    output::note(format!("the gateway answers on http://{address}"));
    let serving = tokio::spawn(gateway.serve(listener, stopping.clone()));
    stop.told().await;
    stopping.cancel();
    let ended = serving.await;
    workers.cancel();
    backbone.close().await;
    ended.map_err(|error| Error::failed(format!("the gateway broke: {error}")))
}
