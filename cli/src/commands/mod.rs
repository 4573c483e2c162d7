// SPDX-License-Identifier: Apache-2.0
//! What each command does, one file each.
//!
//! A command turns its arguments into calls of the client or the store and
//! prints what comes back. Invariant: data on standard output, all else on
//! standard error; nothing here prints errors or decides exit codes.

mod build;
mod deploy;
mod doctor;
mod functions;
mod invocations;
mod invoke;
mod job;
mod logs;
mod new;
mod result;
mod s3;
mod store;
mod trigger;

use crate::{
    args::{self, Cli, Command},
    client::Client,
    dev,
    error::Result,
    hosts, output,
};

pub use s3::content_type;

/// Runs the command.
pub async fn run(cli: Cli) -> Result<()> {
    let Cli { endpoint, token, command } = cli;
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = endpoint.or_else(|| variable("FANFOLD_ENDPOINT"));
    let token = token.or_else(|| variable("FANFOLD_TOKEN"));
    let client = || Client::open(endpoint.as_deref(), token.as_deref());
    match command {
        Command::Dev(args) => dev::run(args).await,
        Command::New(args) => new::run(&args),
        Command::Build(args) => build::run(args).await,
        Command::Deploy(args) => deploy::run(&client()?, args).await,
        Command::Functions { command } => functions::run(&client()?, command).await,
        Command::Invoke(args) => invoke::run(&client()?, &args).await,
        Command::Invocations { command } => invocations::run(&client()?, command).await,
        Command::Job { command } => job::run(&client()?, command).await,
        Command::Result(args) => result::run(&client()?, &args).await,
        Command::Logs(args) => logs::run(&client()?, &args).await,
        Command::Trigger { command } => trigger::run(&client()?, command).await,
        Command::S3 { command } => s3::run(endpoint.as_deref(), token.as_deref(), command).await,
        Command::Gateway(args) => hosts::gateway(args).await,
        Command::Worker(args) => hosts::worker(args).await,
        Command::Certs(args) => hosts::certs::run(&args),
        Command::NatsUsers(args) => hosts::nats_users::run(&args),
        Command::Completions { shell } => output::raw(&args::completions(shell)),
        Command::Doctor(args) => doctor::run(endpoint.as_deref(), token.as_deref(), args).await,
    }
}
