// SPDX-License-Identifier: Apache-2.0
//! The program that people type: the service's processes and the author's commands.
//!
//! It stands above all other crates and wires them; it decides nothing about
//! functions, jobs or data. Data goes to standard output, everything else to
//! standard error, and the exit code says whose move it is.

use std::{ffi::OsStr, process::ExitCode};

use clap::Parser;
use error::{Error, Exit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, filter::ParseError};

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
    log_to_stderr();
    let serves = cli.command.serves();
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

/// A file that may not grow further (`ulimit -f`) is a full disk to whoever writes it. Left to itself,
/// the signal that comes with it would end the process: it is caught, once and for all.
fn outlive_full_files(runtime: &tokio::runtime::Runtime) {
    let _context = runtime.enter();
    let too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    if let Err(error) = signal(too_large) {
        tracing::warn!(%error, "a limit on the size of files (ulimit -f) would end this process");
    }
}

/// No longer once `NO_COLOR` says anything (no-color.org).
fn are_colors_welcome(no_color: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
}

/// Standard output is for data. What the S3 server refuses its clients is told
/// to them; the library would log each as an error.
fn log_to_stderr() {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let (filter, unread) = what_is_logged(&asked);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let colors = is_terminal && are_colors_welcome(std::env::var_os("NO_COLOR").as_deref());
    // A log that cannot be written, on a full disk for one, is no reason to fail: telling of it on
    // the same stderr would panic.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colors)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    if let Some(error) = unread {
        tracing::warn!(%error, "RUST_LOG was not taken: expected levels such as info or warn,fanfold=debug");
    }
}

/// What `RUST_LOG` asks for, or what is usual where that says nothing, and why it is not what was asked for.
fn what_is_logged(asked: &str) -> (EnvFilter, Option<ParseError>) {
    const USUAL: &str = "warn,s3s=off";
    if asked.trim().is_empty() {
        return (EnvFilter::new(USUAL), None);
    }
    match EnvFilter::try_new(asked) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(USUAL), Some(error)),
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

    #[test]
    fn what_is_logged_is_told_where_it_is_not_what_was_asked_for() {
        let check = |asked: &str, expected: &str, is_taken: bool| {
            let (filter, unread) = what_is_logged(asked);
            let same = filter.to_string() == EnvFilter::new(expected).to_string();
            assert!(same && unread.is_none() == is_taken, "{asked:?}: {filter}, {unread:?}");
        };
        let usual = "warn,s3s=off";
        // Compose files and units set it to nothing.
        check("", usual, true);
        check(" ", usual, true);
        check("info,fanfold=debug", "info,fanfold=debug", true);
        check("warn,fanfold=loud", usual, false);
    }

    #[test]
    fn who_wants_no_colors_gets_none() {
        let check =
            |set: Option<&str>, expected| assert_eq!(are_colors_welcome(set.map(OsStr::new)), expected);
        check(None, true);
        check(Some(""), true);
        check(Some("1"), false);
    }
}
