// SPDX-License-Identifier: Apache-2.0
//! From the compiler's output to a component that the platform accepts.
//!
//! Stands between cargo and the file that `fanfold deploy` sends. The result
//! depends on the module's bytes alone: the same module gives the same
//! component, so its digest names it on every machine.

use fanfold_gateway::component::{ComponentInfo, check_within};
use fanfold_protocol::limits;
use wasi_preview1_component_adapter_provider as adapter;
use wasmparser::Parser;
use wit_component::ComponentEncoder;

use super::Error;

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
    fn what_an_operator_may_allow_is_built() {
        let said = |bytes| finish(component(bytes)).err().map(|error| error.to_string()).unwrap();
        assert_eq!(said(limits::COMPONENT_BYTES_DEFAULT), said(1));
        assert_ne!(said(limits::COMPONENT_BYTES_MAX), said(1));
    }
}
