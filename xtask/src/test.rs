// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: the set-up, then cargo's own test runner.

use anyhow::Result;

use crate::{
    process::{self, cargo, cargo_for_tests, step},
    setup,
};

/// Sets up and runs every test: those of the host crates, and the functions'
/// own, natively. Filters go to cargo's test runner as they are.
pub fn run(filters: &[String]) -> Result<()> {
    setup::all()?;
    let host = step("run the tests of the host crates", || {
        let mut command = cargo_for_tests();
        command.args(["test", "--workspace", "--no-fail-fast"]).args(filters);
        process::run(command.env("FANFOLD_TEST_VENV", setup::python_home()))
    });
    let functions = step("run the functions' own tests natively", || {
        let mut command = cargo();
        command.arg("test").args(setup::NATIVE_FUNCTIONS).args(filters);
        process::run(&mut command)
    });
    host.and(functions)
}
