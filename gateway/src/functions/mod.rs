// SPDX-License-Identifier: Apache-2.0
//! Functions: deploying, naming and finding them.
//!
//! [`component`] says whether bytes can be a function at all, the registry
//! keeps versions and aliases, and the routes are what authors call. Nothing
//! here runs a function.

mod cache;
pub mod component;
pub(crate) mod deploy;
mod records;
mod registry;
mod routes;
pub mod views;

pub use registry::{Published, Registry};
pub(crate) use routes::routes;
