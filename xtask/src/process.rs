// SPDX-License-Identifier: Apache-2.0
//! Starting other programs: what is said before, and how failure reads.
//!
//! Paths are found from the workspace's root, so that commands work from any
//! folder of it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Where cargo puts what it builds, whether a variable, a configuration or neither says where: this
/// program lies there, below the name of its profile.
pub fn target() -> PathBuf {
    let program = std::env::current_exe().ok();
    let folder = program.as_deref().and_then(|program| program.parent()?.parent());
    folder.map_or_else(|| root().join("target"), Path::to_owned)
}

/// A program of the workspace, built by [`crate::setup::binaries`].
pub fn binary(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// Says what begins.
pub fn say(what: &str) {
    eprintln!("==> {what}");
}

/// Does a step, saying what it is and how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(what);
    let start = Instant::now();
    let value = work().with_context(|| what.to_owned())?;
    eprintln!("    done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(value)
}

/// The cargo that runs this. What the cargo around us says of our own package is
/// not passed on: build scripts that look at it would run anew, and a dozen crates
/// be compiled again, each time that people call cargo by themselves in between.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// Our crates that are optimised for all but tests, as the workspace's Cargo.toml says.
const OPTIMISED: [&str; 8] = [
    "fanfold",
    "fanfold-backbone",
    "fanfold-gateway",
    "fanfold-protocol",
    "fanfold-runtime",
    "fanfold-sdk",
    "fanfold-storage",
    "fanfold-tests",
];

/// As [`cargo`], with our own crates unoptimised, as tests have them: they are large,
/// and optimising them takes longer than what their tests would gain. Dependencies
/// are the same for both, and compiled once. A sum that overflows fails a test in all of
/// ours, also in those that the benchmarks have as guests are built.
pub fn cargo_for_tests() -> Command {
    let mut command = cargo();
    for name in OPTIMISED {
        for setting in ["opt-level=0", "overflow-checks=true"] {
            command.args(["--config", &format!("profile.dev.package.{name}.{setting}")]);
        }
    }
    command
}

/// Runs to the end; its output goes where ours goes.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start {}", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs to the end and gives its standard output.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", name(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("read what {} printed", name(command)))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A running program that is ended when this is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Asks first, so that it can drain; `kill` is only for what does not listen.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        for _ in 0..100 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
