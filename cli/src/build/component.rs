// SPDX-License-Identifier: Apache-2.0
//! From the compiler's output to a component that the platform accepts.
//!
//! Stands between cargo and the file that `fanfold deploy` sends. The result
//! depends on the module's bytes alone: the same module gives the same
//! component, so its digest names it on every machine.

use fanfold_gateway::component::{ComponentInfo, check_within};
use fanfold_protocol::limits;
use wasi_preview1_component_adapter_provider as adapter;
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::Error;

/// What sections begin with in which generators of bindings say for which world a module is.
const WORLD_SECTION: &str = "component-type";

/// Whether this is a core module that says for which world it is: a guest that its linker has not made
/// a component.
pub fn is_guest_module(wasm: &[u8]) -> bool {
    let says = |payload: Payload<'_>| match payload {
        Payload::CustomSection(section) => section.name().starts_with(WORLD_SECTION),
        _ => false,
    };
    Parser::is_core_wasm(wasm) && Parser::new(0).parse_all(wasm).map_while(Result::ok).any(says)
}

/// Makes a component of a core module for wasm32-wasip1 or
/// wasm32-unknown-unknown; hands a component through as it is.
pub fn componentise(wasm: Vec<u8>) -> Result<Vec<u8>, Error> {
    if Parser::is_component(&wasm) {
        return Ok(wasm);
    }
    // The adapter translates the old system interface (wasi_snapshot_preview1),
    // which the standard library of wasip1 speaks, into the one of components;
    // what the module does not use of it is left out.
    ComponentEncoder::default()
        .validate(true)
        .module(&wasm)
        .and_then(|encoder| {
            encoder.adapter(
                adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                adapter::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )
        })
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| Error::NotAFunction { cause: format!("{error:#}") })
}

/// Makes a component and checks it as the platform will at deployment, within the most
/// bytes that an operator may allow: how many one does, only the service knows.
pub fn finish(wasm: Vec<u8>) -> Result<(Vec<u8>, ComponentInfo), Error> {
    let component = componentise(wasm)?;
    let info = check_within(&component, limits::COMPONENT_BYTES_MAX)?;
    Ok((component, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component of nothing but a custom section of so many bytes.
    fn component(bytes: u64) -> Vec<u8> {
        let mut out = b"\0asm\x0d\0\x01\0\0".to_vec();
        // The length as LEB128 of five bytes, then an empty name.
        let mut length = bytes + 1;
        for last in [false, false, false, false, true] {
            out.push((length & 0x7f) as u8 | if last { 0 } else { 0x80 });
            length >>= 7;
        }
        out.resize(out.len() + bytes as usize + 1, 0);
        out
    }

    #[test]
    fn guests_say_for_which_world_they_are() {
        // A core module with a custom section of this name.
        let module = |name: &str| {
            let length = name.len() as u8;
            [b"\0asm\x01\0\0\0\0".as_slice(), &[length + 1, length], name.as_bytes()].concat()
        };
        assert!(is_guest_module(&module("component-type:handler-function")));
        for other in
            [module("name"), component(1), b"\0asm\x01\0\0\0".to_vec(), b"\0asm".to_vec(), Vec::new()]
        {
            assert!(!is_guest_module(&other), "{other:?}");
        }
    }

    #[test]
    fn what_an_operator_may_allow_is_built() {
        let said = |bytes| finish(component(bytes)).err().map(|error| error.to_string()).unwrap();
        assert_eq!(said(limits::COMPONENT_BYTES_DEFAULT), said(1));
        assert_ne!(said(limits::COMPONENT_BYTES_MAX), said(1));
    }
}
