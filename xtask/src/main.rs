// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: everything that a newcomer, a developer and CI run.
//!
//! It only starts other programs: cargo, `fanfold`, the project's own tools and
//! its test servers. Each command first does the set-up that it needs, says what
//! it is doing, and skips what is done.

use std::process::ExitCode;

use anyhow::{Result, bail};

mod bench;
mod check;
mod demo;
mod process;
mod setup;
mod test;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo [--rows N] [--hosts N] [--keep]
                               run the credit-risk analysis end to end on this machine
  test [FILTER…]               set up and run every test; filters go to cargo test
  check                        what a change must pass: format, lints, docs, guests, tests
  bench [--json FILE] [NAME…]  measure, print a table, and write it as JSON if asked
  chaos [--minutes N] [--seed N] [--jobs N] [--kills N] [--hosts]
                               trouble the store and kill the service while jobs run, and check what comes of them;
                               with --hosts also halt, cut off, misdate and upgrade many hosts
  data DIR [--rows N] [--objects N] [--seed N] [--format parquet|csv]
                               make customers resampled from the German credit data
  setup                        only the set-up: binaries, guest toolchain, functions, test servers
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else { bail!("expected a command\n\n{USAGE}") };
    match command.as_str() {
        "demo" => demo::run(rest),
        "test" => test::run(rest),
        "check" => check::run(),
        "bench" => bench::run_bench(rest),
        "chaos" => bench::chaos(rest),
        "data" => bench::data(rest),
        "setup" => setup::all(),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("expected a command, found {other:?}\n\n{USAGE}"),
    }
}
