// SPDX-License-Identifier: Apache-2.0
//! A guest package and the cargo run that compiles it.
//!
//! Stands between the toolchain and componentising: finds out what a folder
//! holds, then compiles it with the same settings whatever the author's profile says. Diagnostics go from
//! cargo straight to the author's stderr.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use super::{Error, process, toolchain::Toolchain};

/// How every guest is compiled: small, fast, the same bytes each time.
const PROFILE: &[(&str, &str)] = &[
    ("OPT_LEVEL", "3"),
    ("PANIC", "abort"),
    ("LTO", "fat"),
    ("CODEGEN_UNITS", "1"),
    ("STRIP", "symbols"),
    ("DEBUG", "false"),
    ("INCREMENTAL", "false"),
];

/// A package that can become a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its folder, with its Cargo.toml.
    pub dir: PathBuf,
    /// The package's name.
    pub package: String,
    /// Cargo's own identifier of the package.
    pub id: String,
    /// Where its workspace's output goes.
    pub target_dir: PathBuf,
}

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    crate_types: Vec<String>,
}

/// A line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

impl Target {
    fn is_cdylib(&self) -> bool {
        self.crate_types.iter().any(|kind| kind == "cdylib")
    }
}

/// Looks at the package in this folder.
pub fn locate(toolchain: &Toolchain, dir: &Path) -> Result<Guest, Error> {
    let manifest = dir.join("Cargo.toml");
    let manifest = std::fs::canonicalize(&manifest).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => Error::NoManifest { dir: dir.to_owned() },
        _ => Error::file("read", &manifest, cause),
    })?;
    let metadata = metadata(toolchain, &manifest, &["--no-deps"])?;
    let guest = metadata.guest(&manifest);
    guest.unwrap_or_else(|| Err(Error::NoPackage { dir: dir.to_owned(), members: metadata.names() }))
}

fn metadata(toolchain: &Toolchain, manifest: &Path, options: &[&str]) -> Result<Metadata, Error> {
    let mut command = process::command(&toolchain.cargo, folder(manifest));
    command.env("RUSTC", &toolchain.rustc);
    command.args(["metadata", "--format-version", "1"]).args(options).arg("--manifest-path").arg(manifest);
    let text = process::output(command).map_err(Error::Cargo)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Cargo(format!("expected metadata from cargo, found {error}")))
}

impl Metadata {
    /// The package of this manifest; `None` when it is not of this workspace.
    fn guest(&self, manifest: &Path) -> Option<Result<Guest, Error>> {
        let package = self.packages.iter().find(|package| package.manifest_path == manifest)?;
        if !package.targets.iter().any(Target::is_cdylib) {
            return Some(Err(Error::NotACdylib {
                package: package.name.clone(),
                manifest: manifest.to_owned(),
            }));
        }
        Some(Ok(Guest {
            dir: folder(manifest).to_owned(),
            package: package.name.clone(),
            id: package.id.clone(),
            target_dir: self.target_directory.clone(),
        }))
    }

    fn names(&self) -> Vec<String> {
        self.packages.iter().map(|package| package.name.clone()).collect()
    }

    /// The packages that lie neither in the workspace nor in cargo's own folder.
    /// Their sources are named to the compiler with their whole path, the
    /// workspace's from its root.
    fn beside(&self, cargo_home: Option<&Path>) -> Vec<(&str, &Path)> {
        let all = self.packages.iter();
        let mut beside: Vec<_> = all
            .map(|package| (package.name.as_str(), folder(&package.manifest_path)))
            .filter(|(_, dir)| !dir.starts_with(&self.workspace_root))
            .filter(|(_, dir)| !cargo_home.is_some_and(|home| dir.starts_with(home)))
            .collect();
        beside.sort_unstable();
        beside
    }
}

/// Compiles a package, and gives its file.
pub fn compile(toolchain: &Toolchain, guest: &Guest) -> Result<PathBuf, Error> {
    let mut command = command(toolchain, guest)?;
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| {
        Error::Cargo(format!("could not start `{}`: {error}; install Rust", toolchain.cargo.display()))
    })?;
    let mut found = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            found = artifact(&line, &guest.id).or(found);
        }
    }
    let status = child.wait().map_err(|error| Error::Cargo(format!("could not wait for cargo: {error}")))?;
    if !status.success() {
        return Err(Error::Compile { package: guest.package.clone() });
    }
    found.ok_or_else(|| {
        Error::Cargo(format!(
            "expected cargo to name the file of {}, found none; run `cargo clean`",
            guest.package
        ))
    })
}

fn command(toolchain: &Toolchain, guest: &Guest) -> Result<Command, Error> {
    let all = metadata(toolchain, &guest.dir.join("Cargo.toml"), &["--filter-platform", toolchain.target])?;
    let mut command = process::command(&toolchain.cargo, &guest.dir);
    // As a cdylib alone: a package that is an rlib as well, for its tests, would not be
    // optimised as a whole.
    command.args(["rustc", "--package", &guest.id, "--lib", "--crate-type", "cdylib"]);
    command.args(["--release", "--target", toolchain.target]);
    command.arg("--message-format=json-render-diagnostics");
    command.env("RUSTC", &toolchain.rustc);
    for (key, value) in PROFILE {
        command.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    let theirs = theirs(|name| std::env::var(name).ok());
    let ours = ours(&all, cargo_home().as_deref());
    match theirs {
        // Variables hide every list in cargo's configuration files, so ours join
        // the author's variable where there is one, and the configuration where
        // there is none.
        Some(theirs) => {
            let all: Vec<String> = theirs.into_iter().chain(ours).collect();
            command.env("CARGO_ENCODED_RUSTFLAGS", all.join("\x1f")).env_remove("RUSTFLAGS");
        }
        None => {
            let list = toml::Value::Array(ours.into_iter().map(toml::Value::String).collect());
            command.arg("--config").arg(format!("target.{}.rustflags={list}", toolchain.target));
        }
    }
    Ok(command)
}

/// The author's flags from the environment, as cargo would read them.
fn theirs(variable: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    let split = |text: String, at: fn(char) -> bool| {
        text.split(at).filter(|flag| !flag.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    variable("CARGO_ENCODED_RUSTFLAGS")
        .map(|text| split(text, |c| c == '\x1f'))
        .or_else(|| variable("RUSTFLAGS").map(|text| split(text, char::is_whitespace)))
}

/// The sandbox has SIMD. Folders of this machine are kept out of the messages of
/// panics: they are nobody's business, and without them the bytes, and so the
/// digest, do not depend on where the sources lie. The workspace's own folder is not
/// among them, so that workspaces which share a target folder share what is in it.
fn ours(metadata: &Metadata, cargo_home: Option<&Path>) -> Vec<String> {
    let mut flags = vec!["-Ctarget-feature=+simd128".to_owned()];
    let mut rename = |path: &Path, name: &str| {
        flags.push(format!("--remap-path-prefix={}={name}", path.display()));
    };
    rename(&metadata.target_directory, "/target");
    if let Some(home) = cargo_home {
        rename(home, "/cargo");
    }
    // The last that fits counts, and a folder may lie within one of those above.
    for (package, dir) in metadata.beside(cargo_home) {
        rename(dir, &format!("/src/{package}"));
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CARGO_HOME").or_else(|| set("HOME").map(|home| home.join(".cargo")))
}

/// The file that a line of cargo's tells of, if it tells of this package.
fn artifact(line: &str, package: &str) -> Option<PathBuf> {
    let message: Message = serde_json::from_str(line).ok()?;
    if message.reason != "compiler-artifact" || message.package_id != package || !message.target?.is_cdylib()
    {
        return None;
    }
    message.filenames.into_iter().find(|file| file.extension().is_some_and(|kind| kind == "wasm"))
}

fn folder(manifest: &Path) -> &Path {
    manifest.parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_author_s_flags_are_read_as_cargo_reads_them() {
        let read = |set: &[(&str, &str)]| {
            theirs(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("RUSTFLAGS", " -D  warnings ")]).unwrap(), ["-D", "warnings"]);
        let both = [("RUSTFLAGS", "-D"), ("CARGO_ENCODED_RUSTFLAGS", "--cfg\x1fa b")];
        assert_eq!(read(&both).unwrap(), ["--cfg", "a b"]);
    }

    #[test]
    fn guests_have_simd_and_folders_of_the_machine_are_renamed() {
        let package = |name: &str, dir: &str| {
            let manifest = format!("{dir}/Cargo.toml");
            serde_json::json!({"id": name, "name": name, "manifest_path": manifest, "targets": []})
        };
        let metadata: Metadata = serde_json::from_value(serde_json::json!({
            "packages": [
                package("hello", "/home/me/repo/functions/hello"),
                package("sdk", "/home/me/repo/sdk"),
                package("serde", "/home/me/.cargo/registry/serde"),
            ],
            "workspace_root": "/home/me/repo/functions",
            "target_directory": "/home/me/repo/functions/target",
        }))
        .unwrap();
        assert_eq!(
            ours(&metadata, Some(Path::new("/home/me/.cargo"))),
            [
                "-Ctarget-feature=+simd128",
                "--remap-path-prefix=/home/me/repo/functions/target=/target",
                "--remap-path-prefix=/home/me/.cargo=/cargo",
                "--remap-path-prefix=/home/me/repo/sdk=/src/sdk",
            ]
        );
    }

    #[test]
    fn cargo_s_lines_are_understood() {
        let line = |reason: &str, kind: &str, file: &str| {
            format!(
                r#"{{"reason":"{reason}","package_id":"p","target":{{"crate_types":["{kind}"]}},"filenames":["{file}"]}}"#
            )
        };
        let guest = line("compiler-artifact", "cdylib", "/t/a.wasm");
        let artifact = |line: &str| artifact(line, "p");
        assert_eq!(artifact(&guest), Some("/t/a.wasm".into()));
        assert_eq!(artifact(&guest.replace("\"p\"", "\"q\"")), None);
        assert_eq!(artifact(&line("compiler-artifact", "proc-macro", "/t/a.so")), None);
        assert_eq!(artifact(&line("compiler-message", "cdylib", "/t/a.wasm")), None);
        assert_eq!(artifact(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(artifact("not json"), None);
    }
}
