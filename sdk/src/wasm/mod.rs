// SPDX-License-Identifier: Apache-2.0
//! The wasm side: generated bindings and the exports' glue.
//!
//! It owns nothing but its two parts; native builds leave it out. Invariant:
//! the only unsafe code of the SDK is generated, inside `bindings`.

#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::too_many_lines, unused_imports, dead_code)]
pub mod bindings;
pub mod export;
