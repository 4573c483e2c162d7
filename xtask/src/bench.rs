// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`, `chaos` and `data`: the set-up, then the project's own programs.

use std::process::Command;

use anyhow::Result;

use crate::{
    process::{binary, run},
    setup,
};

/// Measures; arguments go to the benchmark's own command line.
pub fn run_bench(arguments: &[String]) -> Result<()> {
    setup::binaries()?;
    setup::functions()?;
    setup::test_servers()?;
    let mut bench = Command::new(binary("fanfold-bench"));
    if arguments.iter().any(|argument| argument == "--compare") {
        bench.env("FANFOLD_COMPARE_VENV", setup::compared_engines()?);
    }
    run(bench.args(arguments))
}

/// Troubles the service for a while; arguments go to the program's own command line.
pub fn chaos(arguments: &[String]) -> Result<()> {
    setup::binaries()?;
    setup::functions()?;
    setup::test_servers()?;
    run(Command::new(binary("fanfold-chaos")).args(arguments))
}

/// Makes customers.
pub fn data(arguments: &[String]) -> Result<()> {
    setup::binaries()?;
    run(Command::new(binary("fanfold-data")).args(arguments))
}
