// SPDX-License-Identifier: Apache-2.0
//! Functions: deploying, naming and finding them.
//!
//! [`component`] says whether bytes can be a function at all, the registry
//! keeps versions and aliases, and the routes are what authors call. Nothing
//! here runs a function.

mod cache;
pub mod component;
mod records;
mod registry;

pub use registry::{Published, Registry};
