// SPDX-License-Identifier: Apache-2.0
//! From an author's crate to a component: what `fanfold build` does.
//!
//! `toolchain` finds a compiler, `cargo` runs it, `component` wraps what it made,
//! the gateway's own check judges it, `settings` reads what the author says
//! of it. Invariant: a file is written only when the platform would accept it,
//! and whole or not at all.

pub mod cargo;
pub mod component;
mod process;
pub mod settings;
pub mod toolchain;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use fanfold_protocol::{function::Export, limits, size::ByteSize};

use settings::FunctionFile;
use toolchain::{Search, Toolchain};

use crate::whole;

/// A function that is ready to be deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The component.
    pub path: PathBuf,
    /// Its bytes.
    pub size_bytes: u64,
    /// What of `fanfold:function` it exports.
    pub functions: Vec<Export>,
    /// Everything that it exports, by name.
    pub exports: Vec<String>,
    /// Everything that it imports, by name.
    pub imports: Vec<String>,
    /// Its name and settings.
    pub settings: FunctionFile,
}

impl fmt::Display for Built {
    /// A line with the file, then the exports and the imports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.size_bytes as f64 / 1024.0;
        write!(f, "{}: {} ({kib:.1} KiB)", self.settings.name, self.path.display())?;
        for name in &self.exports {
            write!(f, "\n  exports {name}")?;
        }
        for name in &self.imports {
            write!(f, "\n  imports {name}")?;
        }
        Ok(())
    }
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No route leads to a compiler for WebAssembly.
    #[error(
        "expected a Rust toolchain for WebAssembly, found none; with Rust installed (https://rustup.rs), run \
         `rustup target add wasm32-wasip2`, or mend one of these:\n{0}"
    )]
    NoToolchain(Search),
    /// The folder is no package.
    #[error(
        "expected a Cargo.toml in {}, found none; name a function's folder, or make one with `fanfold new`",
        .dir.display()
    )]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder is a workspace without a package of its own.
    #[error(
        "expected a package in {}, found a workspace of {}; name the folder of one of them",
        .dir.display(), .members.join(", ")
    )]
    NoPackage {
        /// The folder.
        dir: PathBuf,
        /// The workspace's packages.
        members: Vec<String>,
    },
    /// The package does not say that it is a dynamic library.
    #[error(
        "expected {package} to be a cdylib, found none; add this to {}:\n[lib]\ncrate-type = [\"cdylib\", \"rlib\"]",
        .manifest.display()
    )]
    NotACdylib {
        /// The package.
        package: String,
        /// Its Cargo.toml.
        manifest: PathBuf,
    },
    /// The package's name is no function's name.
    #[error(
        "expected a name for the package {package}, found no function.toml, and {cause}; add function.toml with name = \"…\""
    )]
    Name {
        /// The package.
        package: String,
        /// What is wrong with its name.
        cause: String,
    },
    /// Mistakes in function.toml.
    #[error(transparent)]
    Settings(#[from] settings::Mistakes),
    /// Cargo could not be asked or run.
    #[error("{0}")]
    Cargo(String),
    /// The compiler has refused; it has said why.
    #[error("could not compile {package}; correct what the compiler says above")]
    Compile {
        /// What was being compiled.
        package: String,
    },
    /// A module that cannot become a component.
    #[error(
        "expected a module made for fanfold:function, found one that cannot be wrapped ({cause}); use fanfold-sdk, or wit-bindgen with the platform's WIT"
    )]
    NotAFunction {
        /// What wit-component says.
        cause: String,
    },
    /// A component that the platform would refuse.
    #[error(transparent)]
    Refused(#[from] fanfold_gateway::component::CheckError),
    /// A file that cannot be read or written.
    #[error("could not {action} {}: {cause}", .path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
}

impl Error {
    /// Whether the function itself does not build, whatever the command was given and has here.
    pub fn is_of_function(&self) -> bool {
        matches!(self, Self::Compile { .. } | Self::NotAFunction { .. } | Self::Refused(_))
    }

    fn file(action: &'static str, path: &Path, cause: std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), cause }
    }
}

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Builds the function in `dir` to `out`, by default `fanfold/NAME.wasm` in the
/// crate's target folder, and puts its settings beside the component. May install
/// a toolchain the first time.
pub fn build(dir: &Path, out: Option<&Path>, progress: &mut dyn FnMut(&str)) -> Result<Built> {
    let toolchain = ready(dir, progress)?;
    let guest = cargo::locate(&toolchain, dir)?;
    // An author's mistakes are told before a long compilation, not after.
    let settings = settings::read(&guest.dir, &guest.package)?;
    progress(&format!("compiling {} for {}", guest.package, toolchain.target));
    let wasm = cargo::compile(&toolchain, &guest)?;
    let default = guest.target_dir.join("fanfold").join(format!("{}.wasm", settings.name));
    let path = out.unwrap_or(&default);
    let built = finish(&wasm, path, settings)?;
    if needs_network(&built.imports) {
        progress(NO_NETWORK);
    }
    if let Some(told) = beyond_default(built.size_bytes) {
        progress(&told);
    }
    keep_settings(&guest.dir, path, &built.settings)?;
    Ok(built)
}

/// Told when it is built: a function meets it only when it runs.
const NO_NETWORK: &str = "the component imports sockets, and there is no network: whatever opens a connection or \
     resolves a name is refused when it runs; read and write objects instead";

fn needs_network(imports: &[String]) -> bool {
    imports.iter().any(|name| name.starts_with("wasi:sockets/"))
}

/// What is told of a component that a service refuses unless its operator has raised the bound.
fn beyond_default(size_bytes: u64) -> Option<String> {
    let most = limits::COMPONENT_BYTES_DEFAULT;
    (size_bytes > most).then(|| {
        format!(
            "expected a component of at most {}, found {size_bytes} bytes: a service refuses it unless its operator \
             has raised limits.component; leave out dependencies, or read data from objects",
            ByteSize(most)
        )
    })
}

fn ready(dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<Toolchain> {
    if !dir.join("Cargo.toml").is_file() {
        return Err(Error::NoManifest { dir: dir.to_owned() });
    }
    // Before a toolchain is looked for, which may take minutes to make.
    if dir.join(settings::FILE_NAME).is_file() {
        settings::read(dir, "")?;
    }
    let search = toolchain::find(dir, true, progress);
    let Some(chosen) = search.chosen.clone() else {
        return Err(Error::NoToolchain(search));
    };
    progress("guest toolchain:");
    search.to_string().lines().for_each(progress);
    Ok(chosen)
}

fn finish(wasm: &Path, path: &Path, settings: FunctionFile) -> Result<Built> {
    let module = std::fs::read(wasm).map_err(|cause| Error::file("read", wasm, cause))?;
    let (component, info) = component::finish(module)?;
    write_whole(path, &component)?;
    Ok(Built {
        path: path.to_owned(),
        size_bytes: info.size_bytes,
        functions: info.functions,
        exports: info.exports,
        imports: info.imports,
        settings,
    })
}

/// The component can be deployed without its crate, with the settings that it was built with.
/// Beside a device, a pipe or a link, such as `/dev/stdout`, there is no place for more, and the
/// crate's own folder is where its author keeps them.
fn keep_settings(crate_dir: &Path, component: &Path, settings: &FunctionFile) -> Result<()> {
    let folder = match component.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let is_file = component.symlink_metadata().is_ok_and(|found| found.is_file());
    if !is_file || crate_dir.canonicalize().ok() == folder.canonicalize().ok() {
        return Ok(());
    }
    write_whole(&settings::beside(component), settings.text.as_bytes())
}

/// Another process, such as a deployment, never sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |cause| Error::file("write", path, cause);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    whole::write(path, bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_package_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let said = build(dir.path(), None, &mut |_| {}).unwrap_err().to_string();
        assert!(said.starts_with("expected a Cargo.toml in") && said.contains("fanfold new"), "{said}");
    }

    #[test]
    fn sockets_are_told_of() {
        let (poll, tcp) = ("wasi:io/poll@0.2.0".to_owned(), "wasi:sockets/tcp@0.2.0".to_owned());
        assert!(needs_network(&[poll.clone(), tcp]));
        assert!(!needs_network(&[poll]));
    }

    #[test]
    fn components_that_few_services_take_are_told_of() {
        let most = limits::COMPONENT_BYTES_DEFAULT;
        assert_eq!(beyond_default(most), None);
        assert!(beyond_default(most + 1).is_some_and(|told| told.contains("at most 20MiB")));
    }

    #[test]
    fn settings_lie_beside_the_component() {
        let dir = tempfile::tempdir().unwrap();
        let (home, away) = (dir.path().join("f"), dir.path().join("out"));
        for folder in [&home, &away] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("f.wasm"), b"\0asm").unwrap();
        }
        let text = "name = \"f\"\nmemory = \"8MiB\"\n";
        std::fs::write(home.join(settings::FILE_NAME), text).unwrap();
        let settings = settings::read(&home, "f").unwrap();
        let kept = |component: &Path| {
            keep_settings(&home, component, &settings).unwrap();
            std::fs::read_to_string(settings::beside(component)).ok()
        };
        assert_eq!(kept(&away.join("f.wasm")).as_deref(), Some(text));
        assert_eq!(kept(&home.join("f.wasm")), None);
        assert_eq!(kept(Path::new("/dev/null")), None);
        std::os::unix::fs::symlink(away.join("f.wasm"), away.join("link.wasm")).unwrap();
        assert_eq!(kept(&away.join("link.wasm")), None);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.wasm");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
        let said = write_whole(dir.path(), b"x").unwrap_err().to_string();
        assert!(said.starts_with("could not write "), "{said}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
