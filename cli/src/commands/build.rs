// SPDX-License-Identifier: Apache-2.0
//! `fanfold build`: the author's crate to a component.
//!
//! The work is that of [`crate::build`]; here it gets a thread and a voice.

use std::path::PathBuf;

use serde_json::json;

use crate::{
    args::Build,
    build::{self, Built},
    error::{Error, Result},
    output,
};

/// Builds and says what came of it.
pub async fn run(args: Build) -> Result<()> {
    let built = build(args.dir, args.out).await?;
    let shown = json!({
        "name": built.settings.name,
        "path": built.path,
        "size_bytes": built.size_bytes,
        "functions": built.functions,
        "exports": built.exports,
        "imports": built.imports,
    });
    output::shown(args.shown.view, &shown, |_| built.to_string())
}

/// Builds off the threads that wait for others. The compiler speaks to the
/// person directly.
pub async fn build(dir: PathBuf, out: Option<PathBuf>) -> Result<Built> {
    let work = move || build::build(&dir, out.as_deref(), &mut |line| output::note(line));
    let built = tokio::task::spawn_blocking(work).await;
    Ok(built.map_err(|error| Error::usage(format!("the build broke: {error}")))??)
}
