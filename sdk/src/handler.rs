// SPDX-License-Identifier: Apache-2.0
//! The handler kind of function: a request in, an answer out.
//!
//! It owns the trait that `#[fanfold::handler]` implements on a type of the
//! function's own name, so that both the wasm export and the native tests run
//! the very same code. Invariant: no arrow type is mentioned here, so a crate
//! with nothing but a handler links none of it.

use crate::{Request, Response, Result};

/// A function that answers requests; made by `#[fanfold::handler]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler",
    note = "write `#[fanfold::handler]` above `fn {Self}`"
)]
pub trait Handler {
    /// Answers one request.
    ///
    /// # Errors
    ///
    /// Those of the arguments, and the function's own.
    fn handle(request: Request) -> Result<Response>;
}

/// Runs a handler and checks its answer.
pub(crate) fn answer<H: Handler>(request: Request) -> Result<Response> {
    H::handle(request).and_then(Response::checked)
}
