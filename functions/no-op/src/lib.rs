// SPDX-License-Identifier: Apache-2.0
//! Does nothing: what a task costs by itself, without Arrow in the guest.
//!
//! The benchmark's jobs of many tasks run it. Its input is opened by the host as
//! for any other mapper; it reads no row of it, and has no output.

wit_bindgen::generate!({
    path: "../../protocol/wit/function.wit",
    world: "map-function",
    generate_all,
});

use exports::fanfold::function::mapper::{Description, Guest, Reader, Writer};
use fanfold::function::types::Error;

struct NoOp;

export!(NoOp);

impl Guest for NoOp {
    fn describe() -> Description {
        Description { reads: None, writes: None }
    }

    fn map(_: &Reader, _: &Writer) -> Result<(), Error> {
        Ok(())
    }
}
