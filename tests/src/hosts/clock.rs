// SPDX-License-Identifier: Apache-2.0
//! Wall clocks of processes, each of which can be moved by itself (F11): by Debian's
//! libfaketime.
//!
//! What is monotonic stays so. NATS asks the kernel past libc, so the clocks of its
//! servers cannot be moved.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::Deployment;

impl Deployment {
    /// Starts a gateway or a worker anew, from now on with a wall clock that
    /// [`Deployment::move_clock`] moves.
    ///
    /// # Errors
    /// It does not stop or start, or Debian's libfaketime is not there.
    pub async fn give_clock(&mut self, name: &str) -> Result<()> {
        let faketime = faketime()?.to_string_lossy().into_owned();
        let code = self.stop(name).await?;
        ensure!(code == Some(0), "expected {name} to end with 0, found {code:?}: {}", self.log(name));
        self.move_clock(name, "+0")?;
        let clock = self.path(&format!("{name}.clock")).to_string_lossy().into_owned();
        let host = self.hosts.get_mut(name).context("expected a host")?;
        host.variables = vec![
            ("LD_PRELOAD", faketime),
            ("FAKETIME_TIMESTAMP_FILE", clock),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        self.launch(name)?;
        self.ready(name).await
    }

    /// Moves the wall clock of a process within a second to where it is so far from
    /// ours, such as `+1h`. There it stays, whatever is started anew.
    ///
    /// # Errors
    /// That cannot be written down.
    pub fn move_clock(&self, name: &str, by: &str) -> Result<()> {
        self.write(&format!("{name}.clock"), by).map(drop)
    }
}

/// Debian's libfaketime, in the folder of this machine's architecture.
fn faketime() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let own = folders.filter(|it| it.file_name().to_string_lossy().starts_with(std::env::consts::ARCH));
    let mut paths = own.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let found = paths.find(|path| path.is_file());
    found.context("expected libfaketime in /usr/lib, found nothing; run `cargo xtask setup`")
}
