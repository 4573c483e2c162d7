// SPDX-License-Identifier: Apache-2.0
//! The host, as the rest of this crate calls it.
//!
//! It owns the one place where wasm and native builds differ: in wasm each
//! function is a call of the contract in `protocol/wit`, natively it answers
//! from memory that [`crate::testing`] set up. Invariant: both halves have the
//! same functions, so nothing above this module asks where it runs.

#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(all(feature = "tables", not(target_family = "wasm")))]
pub(crate) mod native_tables;
#[cfg(target_family = "wasm")]
mod wasm;
#[cfg(all(feature = "tables", target_family = "wasm"))]
mod wasm_tables;

#[cfg(not(target_family = "wasm"))]
pub(crate) use native::*;
#[cfg(all(feature = "tables", not(target_family = "wasm")))]
pub(crate) use native_tables::{Reader, Writer, create_table, open_table};
#[cfg(target_family = "wasm")]
pub(crate) use wasm::*;
#[cfg(all(feature = "tables", target_family = "wasm"))]
pub(crate) use wasm_tables::{BorrowedReader, BorrowedWriter, Reader, Writer, create_table, open_table};
