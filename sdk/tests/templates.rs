// SPDX-License-Identifier: Apache-2.0
//! What `fanfold new` writes, with the tests that its user is told to run.
//!
//! It owns nothing but the three files, which are compiled here as they are. Flows build,
//! deploy and call them; invariant: their own tests pass natively, too.

#[path = "../../cli/templates/aggregate/lib.rs"]
mod aggregate;
#[path = "../../cli/templates/handler/lib.rs"]
mod handler;
#[path = "../../cli/templates/map/lib.rs"]
mod map;
