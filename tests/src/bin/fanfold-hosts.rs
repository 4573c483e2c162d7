// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo --hosts N`: a deployment of many hosts, each with a network
//! of its own where namespaces can be made, until the standard input ends.
//!
//! `hosts.json` in the folder says how to reach it, and `config/` is what the
//! command line finds its token and its store in.

use std::{io::Read, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use fanfold_tests::{
    hosts::{Deployment, Plan, Release, TOKEN},
    network,
    proxy::Troubles,
};
use serde_json::json;

/// Starts a deployment of many hosts.
#[derive(Parser)]
struct Arguments {
    /// Where to say how it is reached
    folder: PathBuf,
    /// Workers, beside two gateways, NATS and a store
    #[arg(long, value_name = "N", default_value = "3")]
    workers: usize,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = Arguments::parse();
    if !network::is_own() && network::can_be_made() {
        let ended = network::run_again(std::env::args_os().skip(1))?;
        anyhow::ensure!(ended.success(), "the hosts ended with {ended}");
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(serve(&arguments))
}

async fn serve(arguments: &Arguments) -> Result<()> {
    let plan = Plan {
        nats: (Release::Current, 1),
        gateways: 2,
        workers: arguments.workers,
        troubles: (Troubles::default(), 0),
    };
    let deployment = Deployment::start(plan).await?;
    let endpoint = deployment.endpoint("gateway-1")?;
    let keys = &deployment.alone.credentials;
    let store = json!({"endpoint": deployment.proxy.endpoint(), "region": "us-east-1",
        "access_key": keys.access_key, "secret_key": keys.secret_key});
    let config = arguments.folder.join("config");
    std::fs::create_dir_all(&config)?;
    let profile = json!({&endpoint: {"token": TOKEN, "s3": store}});
    std::fs::write(config.join("profiles.json"), profile.to_string())?;
    let entrance = network::entrance().unwrap_or_default();
    let hosts = json!({"endpoint": endpoint, "entrance": entrance, "names": deployment.names("")});
    let found = arguments.folder.join("hosts.json");
    std::fs::write(found.with_extension("part"), hosts.to_string())?;
    std::fs::rename(found.with_extension("part"), &found)?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await?.context("wait for the end of the standard input")?;
    Ok(())
}
