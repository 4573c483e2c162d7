// SPDX-License-Identifier: Apache-2.0
//! The program that people type: the service's processes and the author's commands.
//!
//! It stands above all other crates and wires them; it decides nothing about
//! functions, jobs or data. Data goes to standard output, everything else to
//! standard error, and the exit code says whose move it is.

use std::process::ExitCode;

use clap::Parser;
use error::{Error, Exit};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};

mod arbiter;
mod args;
pub mod build;
mod client;
mod commands;
mod dev;
mod error;
mod hosts;
mod indent;
mod input;
mod interrupt;
mod json_text;
mod log;
mod output;
mod patience;
mod profile;
mod report;
mod similar;
mod whole;

/// Reads the command line, runs what it asks for and says how that went.
pub fn main() -> ExitCode {
    // The compiler's child process comes before anything that costs memory or threads.
    if std::env::args_os().nth(1).is_some_and(|word| word == dev::COMPILE_WORD) {
        return fanfold_runtime::compile_child();
    }
    let cli = args::Cli::parse();
    log::begin();
    let serves = cli.command.serves();
    if serves {
        keep_from_others();
    }
    match threads(serves) {
        Ok(runtime) => {
            if serves {
                outlive_full_files(&runtime);
            }
            let done = runtime.block_on(commands::run(cli));
            if !serves {
                // A read of standard input that was given up would be waited for.
                runtime.shutdown_background();
            }
            done.map_or_else(|error| error.report(), |()| ExitCode::SUCCESS)
        }
        Err(cause) => {
            let exit = if serves { Exit::Service } else { Exit::Usage };
            Error::of(exit, format!("the program's threads could not be started: {cause}")).report()
        }
    }
}

/// Of address space, of which what is not used costs nothing: unoptimised, the
/// frames of futures within futures took up the usual 2 MiB.
const THREAD_STACK_BYTES: usize = 16 << 20;

/// The service gets a thread for each core, a command does with one.
fn threads(serves: bool) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match serves {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    builder.thread_name("fanfold").thread_stack_size(THREAD_STACK_BYTES).enable_all().build()
}

/// What a service writes is for its user alone, also in a folder that was there before and is open
/// to others: who could write where compiled components lie could replace the key that vouches for them.
fn keep_from_others() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// A file that may not grow further (`ulimit -f`) is a full disk to whoever writes it. Left to itself,
/// the signal that comes with it would end the process: it is caught, once and for all.
fn outlive_full_files(runtime: &tokio::runtime::Runtime) {
    let _context = runtime.enter();
    let too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    if let Err(error) = signal(too_large) {
        tracing::warn!(%error, "a limit on the size of files (ulimit -f) would end this process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_on_files_ends_no_service() {
        use rustix::process::{Signal, getpid, kill_process};
        outlive_full_files(&threads(true).unwrap());
        kill_process(getpid(), Signal::XFSZ).unwrap();
    }
}
