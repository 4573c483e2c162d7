// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask check`: format, lints and documentation, which fail on a warning,
//! then guests and tests. Whether advisories tell of a dependency is not among it:
//! their list is not in a package registry.

use anyhow::Result;

use crate::{
    process::{self, cargo, step},
    setup, test,
};

/// Everything that a change must pass.
pub fn run() -> Result<()> {
    step("check the format", || {
        process::run(cargo().args(["fmt", "--all", "--check"]))?;
        process::run(cargo().args(["fmt", "--all", "--check", "--manifest-path", "functions/Cargo.toml"]))
    })?;
    step("lint", || {
        process::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
        let mut functions = cargo();
        functions.arg("clippy").args(setup::NATIVE_FUNCTIONS).args(["--all-targets", "--", "-D", "warnings"]);
        process::run(&mut functions)
    })?;
    step("build the documentation", || {
        process::run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    test::run(&[])
}
