// SPDX-License-Identifier: Apache-2.0
//! The vocabulary of Fanfold: what every crate and every process agrees on.
//!
//! It stands at the bottom of the dependency table: plain data and pure
//! functions, no I/O and no async runtime, and it compiles to WebAssembly.
//! `wit/function.wit`, beside it, is the only contract between host and guest.

pub mod answer;
pub mod by_name;
pub mod commit;
pub mod digest;
pub mod error;
pub mod event;
pub mod fair;
#[cfg(feature = "filter")]
pub mod filter;
pub mod function;
pub mod imports;
pub mod invocation;
pub mod job;
pub mod keys;
pub mod limits;
pub mod names;
pub mod plan;
pub mod seldom;
pub mod shown;
pub mod size;
pub mod stored;
pub mod suspicion;
pub mod tenant;
pub mod time;
pub mod tolerance;
pub mod trigger;
pub mod uri;
pub mod worker;

pub use error::{ErrorKind, Fault, Problem};

/// The WIT package that functions are written against.
pub const WIT: &str = include_str!("../wit/function.wit");

/// Name and version of the WIT package in [`WIT`].
pub const WIT_PACKAGE: &str = "fanfold:function@0.1.0";
