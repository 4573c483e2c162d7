// SPDX-License-Identifier: Apache-2.0
//! `fanfold deploy`: a folder or a component becomes a version.
//!
//! A folder is built first, and a core module for a world of the contract made a
//! component. What the component is, the gateway judges; this command adds the name
//! and the settings of `function.toml`, or of what `fanfold build` has made of it
//! beside a component.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use fanfold_protocol::{
    function::{AliasTarget, SettingsDocument},
    limits,
    names::FunctionName,
    size::ByteSize,
};
use reqwest::Method;
use serde_json::Value;

use crate::{
    args::Deploy,
    build::{component, settings},
    client::{Client, Deployed},
    error::{Error, Result},
    input, output,
};

/// What is sent.
struct Package {
    name: FunctionName,
    settings: SettingsDocument,
    component: Bytes,
}

/// Builds if need be, uploads, points the alias.
pub async fn run(client: &Client, args: Deploy) -> Result<()> {
    let package = if args.source.is_dir() {
        of_folder(args.source, args.name).await?
    } else {
        of_file(&args.source, args.name)?
    };
    let name = package.name.clone();
    let deployed = upload(client, package).await?;
    if let Some(alias) = &args.alias {
        let target = AliasTarget::new(deployed.version, None);
        let _: Value =
            client.send(Method::PUT, &format!("/v1/functions/{name}/aliases/{alias}"), &target).await?;
    }
    output::shown(args.shown.view, &deployed, |deployed| {
        let exports: Vec<_> = deployed.exports.iter().map(|export| export.as_str()).collect();
        output::pairs(&[
            ("function", deployed.name.to_string()),
            ("version", deployed.version.to_string()),
            ("alias", args.alias.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("digest", deployed.digest.clone()),
            ("exports", exports.join(", ")),
        ])
    })
}

async fn of_folder(folder: PathBuf, name: Option<FunctionName>) -> Result<Package> {
    let built = super::build::build(folder, None).await?;
    let component = read(&built.path)?;
    Ok(Package { name: name.unwrap_or(built.settings.name), settings: built.settings.settings, component })
}

fn of_file(path: &Path, name: Option<FunctionName>) -> Result<Package> {
    let component = componentised(read(path)?)?;
    let places = [settings::beside(path), path.with_file_name(settings::FILE_NAME)];
    for place in &places {
        if let Some(file) = settings::read_file(place)? {
            return Ok(Package { name: name.unwrap_or(file.name), settings: file.settings, component });
        }
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let named = name.map_or_else(
        || {
            stem.replace('_', "-")
                .parse::<FunctionName>()
                .map_err(|problem| Error::from(problem).help("give one by --name"))
        },
        Ok,
    )?;
    let [own, common] = places.map(|place| place.display().to_string());
    output::note(output::harmless(&format!(
        "neither {own} nor {common} is there: {named} gets the default settings"
    )));
    Ok(Package { name: named, settings: SettingsDocument::default(), component })
}

/// Linkers that know nothing of components, such as that of `wasm32-unknown-unknown`, leave a core
/// module. What does not say for which world it is, the gateway refuses in its own words.
fn componentised(file: Bytes) -> Result<Bytes> {
    if !component::is_guest_module(&file) {
        return Ok(file);
    }
    output::note("making a component of the core module");
    Ok(component::componentise(file.into())?.into())
}

fn read(path: &Path) -> Result<Bytes> {
    let failed = |cause: std::io::Error| {
        Error::usage(format!(
            "expected a folder with Cargo.toml or a .wasm file at {}, found: {cause}",
            path.display()
        ))
        .help("make one with `fanfold new`")
    };
    // A file says how large it is; a device or a pipe is read as far as it may go.
    let size_bytes = std::fs::metadata(path).map_err(failed)?.len();
    if size_bytes > limits::COMPONENT_BYTES_MAX {
        return Err(too_large(path, &output::bytes(size_bytes)));
    }
    match input::read(path, limits::COMPONENT_BYTES_MAX) {
        Ok(bytes) => Ok(bytes.into()),
        Err(cause) if cause.kind() == ErrorKind::FileTooLarge => Err(too_large(path, "more")),
        Err(cause) => Err(failed(cause)),
    }
}

fn too_large(path: &Path, found: &str) -> Error {
    let most = ByteSize(limits::COMPONENT_BYTES_MAX);
    Error::usage(format!("a component must be at most {most}, found {found} in {}", path.display()))
}

async fn upload(client: &Client, package: Package) -> Result<Deployed> {
    let bar = output::bytes_bar("uploading", package.component.len() as u64);
    let moved = bar.clone();
    let settings = package.settings.to_header();
    let progress = move |bytes| {
        moved.inc(bytes);
        if moved.length() == Some(moved.position()) {
            moved.set_message("compiling");
        }
    };
    let deployed = client.deploy(&package.name, &settings, package.component, progress).await;
    bar.finish_and_clear();
    deployed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_file_is_called_as_settings_or_file_say() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credit_score.wasm");
        std::fs::write(&path, b"\0asm").unwrap();
        let name = |given: Option<&str>| {
            of_file(&path, given.map(|n| n.parse().unwrap())).map(|p| p.name.to_string())
        };
        assert_eq!(name(None).unwrap(), "credit-score");
        assert_eq!(name(Some("other")).unwrap(), "other");
        std::fs::write(dir.path().join("function.toml"), "name = \"named\"\nmemory = \"8MiB\"").unwrap();
        assert_eq!(name(None).unwrap(), "named");
        assert_eq!(of_file(&path, None).unwrap().settings.memory, Some(ByteSize(8 << 20)));
        // What was built with it goes before what lies there for all.
        std::fs::write(dir.path().join("credit_score.function.toml"), "name = \"own\"").unwrap();
        assert_eq!(name(None).unwrap(), "own");
        assert_eq!(of_file(&path, None).unwrap().settings, SettingsDocument::default());
        std::fs::write(dir.path().join("credit_score.function.toml"), "nmae = \"own\"").unwrap();
        assert_eq!(of_file(&path, None).err().unwrap().exit(), Exit::Usage);
        let missing = of_file(&dir.path().join("x.wasm"), None).err().unwrap();
        assert_eq!(missing.exit(), Exit::Usage);
    }
}
