// SPDX-License-Identifier: Apache-2.0
//! The command line as the contract has it, and nothing more.
//! Parsing only: every value is checked where it is used.

mod job;
mod s3;
mod trigger;

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use fanfold_protocol::{
    names::{AliasName, FunctionName, FunctionRef, TenantName},
    size::{ByteSize, Span},
};
use uuid::Uuid;

pub use self::{
    job::{Job, JobRun, JobSource},
    s3::S3,
    trigger::{Trigger, TriggerAdd, TriggerReplay, TriggerScope},
};

const ENDPOINT_HELP: &str =
    "Where the gateway listens [env: FANFOLD_ENDPOINT] [default: http://127.0.0.1:7070]";
const TOKEN_HELP: &str =
    "Token for the gateway; `fanfold dev` keeps its own where this program finds it [env: FANFOLD_TOKEN]";

/// Serverless functions for analytics.
#[derive(Debug, Parser)]
#[command(name = "fanfold", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    // The environment is read where these are used: clap's usage would show what it gives as required.
    #[arg(long, global = true, value_name = "URL", help = ENDPOINT_HELP)]
    pub endpoint: Option<String>,
    #[arg(long, global = true, value_name = "TOKEN", help = TOKEN_HELP)]
    pub token: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

/// An id as the service gives it.
fn id_of(text: &str) -> Result<Uuid, String> {
    let wanted =
        "expected an id such as 019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10; `ls` and what began it print ids";
    text.parse().map_err(|_| wanted.to_owned())
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number of 0 or more that is not too large".to_owned())
}

/// A task of a job's first stage: its number, or the same as `job tasks` prints it.
fn first_stage_task(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("0/").unwrap_or(text).parse::<u32>();
    number.map_err(|_| "expected the number of a task of the first stage, such as 7 or 0/7".to_owned())
}

/// How many lines to print.
fn lines(text: &str) -> Result<usize, String> {
    let most = text.parse::<usize>().ok().filter(|most| *most > 0);
    most.ok_or_else(|| "expected a whole number of 1 or more that is not too large".to_owned())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port such as 127.0.0.1:7070".to_owned())
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// `--output` of every command that prints data.
#[derive(Clone, Copy, Debug, Args)]
pub struct Shown {
    /// How to print
    #[arg(long = "output", value_name = "VIEW", default_value = "table")]
    pub view: View,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process on this machine, for development
    Dev(Dev),
    /// Start a function in a new folder
    New(New),
    /// Compile a function to a WebAssembly component
    Build(Build),
    /// Deploy a function: a folder with Cargo.toml, or a .wasm file
    Deploy(Deploy),
    /// List, show and remove functions, and point their aliases
    #[command(visible_alias = "function")]
    Functions {
        #[command(subcommand)]
        command: Functions,
    },
    /// Call a function
    Invoke(Invoke),
    /// Look at asynchronous calls, cancel them, and replay those that were given up
    #[command(visible_alias = "invocation")]
    Invocations {
        #[command(subcommand)]
        command: Invocations,
    },
    /// Run and follow jobs
    #[command(visible_alias = "jobs")]
    Job {
        #[command(subcommand)]
        command: Job,
    },
    /// Print or save the result of a job
    Result(ResultOf),
    /// Print the log lines of an invocation, of a job's tasks, or of a function's latest calls
    Logs(Logs),
    /// Start functions and jobs by what happens to objects
    #[command(visible_alias = "triggers")]
    Trigger {
        #[command(subcommand)]
        command: Trigger,
    },
    /// List, copy and remove objects of the configured store
    S3 {
        #[command(subcommand)]
        command: S3,
    },
    /// Say what is wrong here and how to mend it
    Doctor(Doctor),
    /// Answer users for a deployment of many hosts
    Gateway(Hosts),
    /// Run functions for a deployment of many hosts
    Worker(Hosts),
    /// Make certificates for gateways and workers
    Certs(Certs),
    /// Make users of NATS that may do what gateways and workers need, and nothing else
    NatsUsers(NatsUsers),
    /// Print what completes these commands in a shell
    Completions {
        /// Shell
        shell: Shell,
    },
}

/// The script that completes the words of this program in a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

impl Command {
    /// Whether it is a service, which runs until it is told to stop.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Gateway(_) | Self::Worker(_))
    }
}

#[derive(Debug, Args)]
pub struct Hosts {
    /// The configuration, TOML; docs/configuration.md has every key
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check it, and that what it names can be reached; start nothing and change nothing
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub struct Certs {
    /// Folder of the authority and of what it signs
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A gateway's host name or address
    #[arg(long, value_name = "HOST")]
    pub gateway: Vec<String>,
    /// A worker's host name or address, as it advertises it
    #[arg(long, value_name = "HOST")]
    pub worker: Vec<String>,
}

#[derive(Debug, Args)]
pub struct NatsUsers {
    /// Folder of what NATS includes, users.conf, and of a password for each user
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A gateway's user; gateways may share one
    #[arg(long, value_name = "NAME")]
    pub gateway: Vec<String>,
    /// A worker's user, one for each worker
    #[arg(long, value_name = "NAME")]
    pub worker: Vec<String>,
    /// A tenant whom the workers work for, beside the one whose system bucket is the
    /// deployment's own
    #[arg(long, value_name = "NAME")]
    pub tenant: Vec<TenantName>,
    /// As `nats.prefix` of the configurations
    #[arg(long, value_name = "PREFIX", default_value = "fanfold")]
    pub prefix: String,
    /// As `nats.shards` of the configurations
    #[arg(long, value_name = "N", default_value = "4", value_parser = number::<usize>)]
    pub shards: usize,
}

#[derive(Debug, Args)]
pub struct Dev {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = ".fanfold")]
    pub data: PathBuf,
    /// Address of the gateway; loopback only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070", value_parser = address)]
    pub listen: SocketAddr,
    /// Address of the S3 server; loopback only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7071", value_parser = address)]
    pub s3_listen: SocketAddr,
    /// Base URL by which the service itself reaches its store, for tests that put
    /// something between
    #[arg(long, value_name = "URL", hide = true)]
    pub store_endpoint: Option<String>,
    /// Threads that run functions; one for each core when absent
    #[arg(long, value_name = "N", value_parser = number::<usize>)]
    pub workers: Option<usize>,
    /// Memory that functions may take together, such as 2GiB; three quarters of what there is when absent
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// Answers calls
    Handler,
    /// Turns tables into tables
    Map,
    /// Folds tables into an answer
    Aggregate,
}

#[derive(Debug, Args)]
pub struct New {
    /// Folder and name of the function
    pub name: String,
    /// What kind of function
    #[arg(long, default_value = "handler")]
    pub template: Template,
    /// Folder of fanfold-sdk; by itself, that of the checkout that this program was built from [env: FANFOLD_SDK]
    #[arg(long, value_name = "DIR")]
    pub sdk: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Build {
    /// Folder with the function's Cargo.toml
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Where to put the component; its settings go beside it as NAME.function.toml
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Args)]
pub struct Deploy {
    /// A folder with Cargo.toml, which is built first, or a .wasm file with NAME.function.toml or function.toml beside it
    pub source: PathBuf,
    /// Name; that of function.toml, of the crate or of the file when absent
    #[arg(long)]
    pub name: Option<FunctionName>,
    /// Point this alias at the new version
    #[arg(long)]
    pub alias: Option<AliasName>,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Subcommand)]
pub enum Functions {
    /// List all functions
    #[command(visible_alias = "list")]
    Ls(Shown),
    /// Show a function's versions and aliases
    Show {
        /// Name
        name: FunctionName,
        #[command(flatten)]
        shown: Shown,
    },
    /// Remove a function with all its versions
    #[command(visible_alias = "delete")]
    Rm {
        /// Name
        name: FunctionName,
    },
    /// Point an alias at a version
    Alias {
        /// Name
        name: FunctionName,
        /// Alias
        alias: AliasName,
        /// Version
        #[arg(value_parser = number::<u32>)]
        version: u32,
        /// A second version that gets a part of the calls
        #[arg(long, value_name = "VERSION", requires = "percent", value_parser = number::<u32>)]
        canary: Option<u32>,
        /// That part, in hundredths
        #[arg(long, value_name = "1-99", requires = "canary", value_parser = number::<u8>)]
        percent: Option<u8>,
    },
    /// Point an alias at the version before the one it points at; with a canary, at the older of the two
    Rollback {
        /// Name
        name: FunctionName,
        /// Alias
        #[arg(long, default_value = "prod")]
        alias: AliasName,
    },
}

#[derive(Debug, Args)]
pub struct Invoke {
    /// NAME or NAME@QUALIFIER: a version's number, an alias or latest
    pub function: FunctionRef,
    /// The body: JSON text, @FILE, or @- for standard input
    #[arg(short, long, value_name = "JSON|@FILE|@-")]
    pub data: Option<String>,
    /// For the function's params: a JSON object, or @FILE
    #[arg(long, value_name = "JSON|@FILE")]
    pub params: Option<String>,
    /// Do not wait for the answer: print the id of the invocation
    #[arg(long = "async")]
    pub asynchronous: bool,
    #[command(flatten)]
    pub shown: Shown,
    /// How long it may take: at most, and when absent, what its function.toml says, or else 30s, 5m with --async
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
}

#[derive(Debug, Subcommand)]
pub enum Invocations {
    /// List those that wait or run
    #[command(visible_alias = "list")]
    Ls {
        /// Only those in this state
        #[arg(long, value_parser = ["queued", "running"])]
        state: Option<String>,
        /// Only those of this function
        #[arg(long)]
        function: Option<FunctionName>,
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50", value_parser = lines)]
        limit: usize,
        #[command(flatten)]
        shown: Shown,
    },
    /// Show where an invocation stands
    Show {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
        #[command(flatten)]
        shown: Shown,
    },
    /// Print what an invocation returned
    Result {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
        #[command(flatten)]
        shown: Shown,
    },
    /// Stop an invocation
    Cancel {
        /// Id
        #[arg(value_parser = id_of)]
        id: Uuid,
    },
    /// List those that were given up
    DeadLetters {
        /// At most so many
        #[arg(long, value_name = "N", default_value = "50", value_parser = lines)]
        limit: usize,
        #[command(flatten)]
        shown: Shown,
    },
    /// Run again what was given up, as new invocations
    Replay {
        #[command(flatten)]
        letters: Letters,
        #[command(flatten)]
        shown: Shown,
    },
    /// Forget what was given up
    Discard {
        #[command(flatten)]
        letters: Letters,
    },
}

/// Which dead letters are meant.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Letters {
    /// Ids of the invocations
    #[arg(value_name = "ID", value_parser = id_of)]
    pub ids: Vec<Uuid>,
    /// All there are
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct ResultOf {
    /// Id of the job
    #[arg(value_parser = id_of)]
    pub id: Uuid,
    /// Save it here (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// As a page with the charts drawn
    #[arg(long, conflicts_with = "view")]
    pub html: bool,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// Id of an invocation or a job, or the name of a function
    pub of: String,
    /// Go on as lines come, of an invocation or a job until it ends
    #[arg(short, long)]
    pub follow: bool,
    /// Of a job: this task of its first stage only
    #[arg(long, value_name = "N", value_parser = first_stage_task)]
    pub task: Option<u32>,
    /// Of a job: only attempts that failed
    #[arg(long)]
    pub failed: bool,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub shown: Shown,
}
