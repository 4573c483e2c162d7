// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask check`: format, lints, documentation and guests, all of which
//! fail on a warning.

use anyhow::Result;

use crate::{
    process::{self, cargo, step},
    setup,
};

/// Everything that CI runs beside the tests.
pub fn run() -> Result<()> {
    step("check the format", || {
        process::run(cargo().args(["fmt", "--all", "--check"]))?;
        process::run(cargo().args(["fmt", "--all", "--check", "--manifest-path", "functions/Cargo.toml"]))
    })?;
    step("lint", || {
        process::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    step("build the documentation", || {
        process::run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    setup::binaries()?;
    setup::functions()
}
