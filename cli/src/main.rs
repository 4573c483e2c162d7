// SPDX-License-Identifier: Apache-2.0
//! The binary `fanfold`: parse, run, exit. Everything else is in the library.

use std::process::ExitCode;

/// A call and a task make and free hundreds of small things, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fanfold::main()
}
