// SPDX-License-Identifier: Apache-2.0
//! What the platform accepts as a function: the one check of a component's bytes.
//!
//! `fanfold build` asks it before it writes a file, the gateway before it keeps
//! a deployment, so an author never learns at deployment what the build could
//! have said. Pure: bytes in, facts or the reason for refusal out; nothing is
//! compiled or run. It takes time in proportion to the bytes (about 0.1 s for
//! the largest), so a server calls it off its request threads.

use fanfold_protocol::{ErrorKind, Problem, function::Export, imports, limits, size::ByteSize};
use wasmparser::{ComponentExternalKind, Parser, Payload, Validator, WasmFeatures};

/// What a component offers and needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentInfo {
    /// The component's bytes.
    pub size_bytes: u64,
    /// Its exports of `fanfold:function`, in the order handler, mapper, aggregator.
    pub functions: Vec<Export>,
    /// Everything that it exports, by name, in the component's order.
    pub exports: Vec<String>,
    /// Everything that it imports, by name, in the component's order.
    pub imports: Vec<String>,
}

/// Why the platform refuses a component.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// More bytes than allowed.
    #[error(
        "a component must be at most {} ({bytes_max} bytes), found {size_bytes} bytes; leave out dependencies, or \
         read data from objects instead of compiling it in", ByteSize(*.bytes_max)
    )]
    TooLarge {
        /// Bytes found.
        size_bytes: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// Something other than a component.
    #[error(
        "expected a WebAssembly component, found {found}; build the function with `fanfold build`, or in another \
         language make a component of it with `wasm-tools component new`"
    )]
    NotAComponent {
        /// What it looks like.
        found: &'static str,
    },
    /// A component that is broken, or that needs WebAssembly features the sandbox lacks.
    #[error(
        "expected a valid component within the sandbox's features (WebAssembly 2.0 with 128-bit SIMD), found at \
         byte {offset}: {message}; build the function with `fanfold build`"
    )]
    Invalid {
        /// Where, from the component's first byte.
        offset: u64,
        /// What the validator says.
        message: String,
    },
    /// None of the exports that make a component a function.
    #[error(
        "expected at least one of the exports fanfold:function/handler, mapper, aggregator and grouper at 0.1, \
         found {}; mark a function with #[fanfold::handler], #[fanfold::map] or #[fanfold::aggregate], or in another \
         language build for a world of protocol/wit", list(.found)
    )]
    NoFunction {
        /// What is exported instead.
        found: Vec<String>,
    },
    /// Two aggregates, of which no job could tell which to run.
    #[error(
        "expected one aggregate, with a key (fanfold:function/grouper) or without (fanfold:function/aggregator), found \
         both; deploy them as functions of their own"
    )]
    TwoAggregates,
    /// Imports that the sandbox does not offer.
    #[error(
        "expected imports of fanfold:function at 0.1 and of wasi io, cli, clocks, filesystem, random and sockets \
         at 0.2 only, found {}; there are no network and no other host interfaces in the sandbox, remove what \
         needs them",
        list(.refused)
    )]
    ForbiddenImports {
        /// All of them.
        refused: Vec<String>,
    },
}

impl CheckError {
    /// The platform's kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } => ErrorKind::ComponentTooLarge,
            Self::NotAComponent { .. } | Self::Invalid { .. } => ErrorKind::NotAComponent,
            Self::NoFunction { .. } | Self::TwoAggregates => ErrorKind::ExportMissing,
            Self::ForbiddenImports { .. } => ErrorKind::ImportUnknown,
        }
    }
}

impl From<CheckError> for Problem {
    fn from(error: CheckError) -> Self {
        Problem::new(error.kind(), error.to_string())
    }
}

/// Checks a component against the platform's default size.
pub fn check(bytes: &[u8]) -> Result<ComponentInfo, CheckError> {
    check_within(bytes, limits::COMPONENT_BYTES_DEFAULT)
}

/// Checks a component against a size that an operator has set.
pub fn check_within(bytes: &[u8], bytes_max: u64) -> Result<ComponentInfo, CheckError> {
    let size_bytes = bytes.len() as u64;
    if size_bytes > bytes_max {
        return Err(CheckError::TooLarge { size_bytes, bytes_max });
    }
    if !Parser::is_component(bytes) {
        return Err(CheckError::NotAComponent { found: kind_of(bytes) });
    }
    Validator::new_with_features(features()).validate_all(bytes).map_err(invalid)?;
    let surface = surface(bytes).map_err(invalid)?;
    let refused: Vec<String> = surface.imports.iter().filter(|name| !offered(name)).cloned().collect();
    if !refused.is_empty() {
        return Err(CheckError::ForbiddenImports { refused });
    }
    let functions: Vec<Export> = Export::ALL
        .into_iter()
        .filter(|export| surface.instances.iter().any(|name| is_function(name, *export)))
        .collect();
    if functions.is_empty() {
        return Err(CheckError::NoFunction { found: surface.exports });
    }
    if functions.contains(&Export::Aggregator) && functions.contains(&Export::Grouper) {
        return Err(CheckError::TwoAggregates);
    }
    Ok(ComponentInfo { size_bytes, functions, exports: surface.exports, imports: surface.imports })
}

/// The features of the sandbox's engine. What an engine may answer differently
/// from run to run or from host to host (threads, relaxed SIMD) is left out, so
/// that folds are deterministic.
fn features() -> WasmFeatures {
    WasmFeatures::WASM2
        | WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::TAIL_CALL
}

fn invalid(error: wasmparser::BinaryReaderError) -> CheckError {
    CheckError::Invalid { offset: error.offset() as u64, message: error.message().to_owned() }
}

/// The names on a component's outside.
#[derive(Default)]
struct Surface {
    exports: Vec<String>,
    /// The exports that are interfaces.
    instances: Vec<String>,
    imports: Vec<String>,
}

fn surface(bytes: &[u8]) -> wasmparser::Result<Surface> {
    let mut surface = Surface::default();
    // Components nest; only the outermost one's sections are its surface.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    surface.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export?;
                    if export.kind == ComponentExternalKind::Instance {
                        surface.instances.push(export.name.name.to_owned());
                    }
                    surface.exports.push(export.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(surface)
}

/// Splits `namespace:package/interface@major.minor.patch`; the version's first
/// two numbers decide compatibility.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let (path, version) = name.split_once('@')?;
    let (package, interface) = path.split_once('/')?;
    let (minor, patch) = version.rsplit_once('.')?;
    let plain = !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit());
    plain.then_some((package, interface, minor))
}

fn offered(import: &str) -> bool {
    match split(import) {
        Some((package @ "fanfold:function", interface, "0.1")) => imports::is_offered(package, interface),
        Some((package, interface, "0.2")) => {
            package.starts_with("wasi:") && imports::is_offered(package, interface)
        }
        _ => false,
    }
}

fn is_function(export: &str, kind: Export) -> bool {
    split(export) == Some(("fanfold:function", kind.as_str(), "0.1"))
}

fn kind_of(bytes: &[u8]) -> &'static str {
    if Parser::is_core_wasm(bytes) {
        "a core module"
    } else if bytes.is_empty() {
        "no bytes at all"
    } else if bytes.starts_with(b"\0asm") {
        "WebAssembly of a version that is not known"
    } else if bytes.starts_with(b"\x7fELF") {
        "a program for this machine"
    } else {
        "something that is not WebAssembly"
    }
}

/// At most eight names: a hostile component may have very many.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut text =
        names.iter().take(SHOWN).map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
        assert!(list(&names).ends_with("n7 and 92 more"));
    }
}
